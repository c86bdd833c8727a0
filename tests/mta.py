"""A real mail server on the machine of machine.py: Debian's exim, which puts mail into /var/mail.

Does:    `Mta` configures it for that machine alone, and no mail leaves it. `fails` makes its queue such that it cannot
         be written to, as a full disk does.
Fails:   `missing()` says what is not there. Mail that is left is gone with `close`.
"""

from __future__ import annotations

import email
import grp
import mailbox
import os
import pwd
import shutil
import subprocess
from email.message import Message
from pathlib import Path

SENDMAIL = "/usr/sbin/sendmail"
USER = "Debian-exim"
CONFIG = Path("/etc/exim4/exim4.conf")
QUEUE = Path("/var/spool/exim4")
MAIL = Path("/var/mail")
BOX = "box.example"
SETTINGS = f"""
primary_hostname = {BOX}
domainlist local_domains = {BOX}
spool_directory = {QUEUE}
log_file_path = {QUEUE}/%slog
keep_environment =
never_users =
begin routers
here:
  driver = accept
  domains = +local_domains
  check_local_user
  transport = box
begin transports
box:
  driver = appendfile
  file = {MAIL}/$local_part_data
  lock_fcntl_timeout = 20s
  use_lockfile = false
  group = mail
  mode = 0660
  envelope_to_add
  return_path_add
"""


def missing() -> str:
    """Why there can be no mail server here; "" if there can."""
    if os.geteuid() != 0:
        return "a mail server needs root"
    if not Path("/usr/sbin/exim4").exists() or not Path(SENDMAIL).exists():
        return "no exim is here (apt-get install exim4-daemon-light)"
    return ""


class Mta:
    """The mail server, and everybody's mail."""

    def __init__(self) -> None:
        CONFIG.parent.mkdir(exist_ok=True)
        CONFIG.write_text(SETTINGS)
        MAIL.chmod(0o2775)
        os.chown(MAIL, 0, grp.getgrnam("mail").gr_gid)
        self._owner = pwd.getpwnam(USER)
        self._make()

    def _make(self) -> None:
        QUEUE.mkdir(exist_ok=True)
        os.chown(QUEUE, self._owner.pw_uid, self._owner.pw_gid)

    def inbox(self, user: str) -> list[Message]:
        """The user's mail, in the order of its coming."""
        return [email.message_from_bytes(each) for each in self.raw(user)]

    def raw(self, user: str) -> list[bytes]:
        """The same as it lies there, without mbox's own first line."""
        if not (MAIL / user).exists():
            return []
        box = mailbox.mbox(MAIL / user, create=False)
        found = [box.get_bytes(key) for key in box.keys()]  # noqa: SIM118 - a mailbox gives messages else
        box.close()
        return found

    def fails(self) -> None:
        """From now on it can take nothing."""
        shutil.rmtree(QUEUE)
        QUEUE.touch()

    def recovers(self) -> None:
        """From now on it can again."""
        QUEUE.unlink()
        self._make()

    def queued(self) -> str:
        """What it has not delivered yet."""
        return subprocess.run(["exim4", "-bp"], capture_output=True, text=True, check=True).stdout

    def log(self) -> str:
        """What it has said of each mail."""
        return "".join(path.read_text(errors="replace") for path in sorted(QUEUE.glob("*log")))

    def close(self) -> None:
        """Let nothing be left of it."""
        for path in (*MAIL.iterdir(), QUEUE, CONFIG):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
