"""`cronq crontab -e`: the installed crontab in an editor, and back.

Does:    copies the table to a private file, lets $VISUAL, $EDITOR or the system's editor work on it, and installs what
         has become of it. Whether anything has is told by the content, not by the file's time, as cron's own does.
Reads:   VISUAL, EDITOR, TMPDIR; answers from standard input.
Writes:  `$TMPDIR/crontab.XXXXXXXX/crontab` (0600, its directory 0700), removed where nothing would be lost by it.
Trusts:  the editor, which runs as the caller, whosever crontab it is.
Fails:   `Failed` in crontab(1)'s words. Where an edit cannot be installed its file is kept, and its place is told.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import tempfile

from cronq import spool as spools
from cronq import tabcommand, tabrules
from cronq.tabcommand import Failed, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.tabcommand import Asked, Table

EDITORS = ("sensible-editor", "editor", "vi", "nano")
HANDED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)  # a terminal's; the editor has them, its caller waits
FIRST = b"""\
# A line runs a command whenever minute, hour, day and month suit:
#
#   minute (0-59)  hour (0-23)  day of the month (1-31)  month (1-12)  day of the week (0-7, 0 and 7 are Sunday)
#
# * stands for any, */15 for every fifteenth, 1-5 for a range, 1,15 for a list. With both a day of the month and a day
# of the week it runs on either. NAME=value lines set variables for the lines below them; what a command prints is
# mailed to MAILTO. Further words of cronq's stand in comments, as the first word of the second line below.
#
#   # cronq: name=backup timeout=1h
#   0 5 * * 1  tar -czf /var/backups/home.tgz /home
#
# `cronq crontab --undo` takes an installed change back.
"""


class Draft:
    """The private file that is edited."""

    def __init__(self, text: bytes) -> None:
        self.folder = tempfile.mkdtemp(prefix="crontab.")
        self.path = os.path.join(self.folder, "crontab")
        self.text = text
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            spools.write_all(descriptor, text)
        finally:
            os.close(descriptor)

    def read(self) -> bytes:
        """What is in it now. Raises `Failed`."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise Failed(f"Can't open tempfile after edit: {error.strerror}\nError while editing crontab") from None
        with open(descriptor, "rb") as file:
            return file.read(tabrules.MAX_BYTES + 1)

    def leave(self) -> None:
        """Remove it, if nothing is lost by that; else say where it is."""
        try:
            changed = self.read() != self.text
        except (Failed, OSError):
            changed = False
        if changed:
            say(f"crontab: edits left in {self.path}")
        else:
            self.remove()

    def remove(self) -> None:
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def edit(table: Table, asked: Asked) -> int:
    """Edit a table and install it; the exit code. Raises `CronqError`."""
    before = table.read()
    tabcommand.log(asked, "BEGIN EDIT")
    if before is None:
        say(f"no crontab for {asked.user.pw_name} - using an empty one")
    draft = Draft(FIRST if before is None else before)
    try:
        data = _edited(draft)
        if data is None:
            tabcommand.log(asked, "END EDIT")
            return 0
        if table.read() != before:
            say("crontab: it has been changed by somebody else meanwhile; --undo puts that change back")
        tabcommand.install(table, data, asked)
        tabcommand.log(asked, "END EDIT")
        draft.remove()
        return 0
    except BaseException:
        draft.leave()
        raise


def _edited(draft: Draft) -> bytes | None:
    """A good table; None where nothing is to be installed. Raises `Failed`."""
    while True:
        _run(draft.path)
        data = draft.read()
        if data == draft.text:
            say("No modification made")
            draft.remove()
            return None
        say("crontab: installing new crontab")
        try:
            tabcommand.judged(data, draft.path)
        except Failed as error:
            say(error.sentence)
        else:
            return data
        if not tabcommand.agreed("Do you want to retry the same edit? (y/n) ", "Enter Y or N\n"):
            draft.leave()
            return None


def _run(path: str) -> None:
    """Wait for the editor. Raises `Failed` where it did not end well."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or _installed_editor()
    kept = [(number, signal.signal(number, signal.SIG_IGN)) for number in HANDED_ON]
    try:
        command = ["/bin/sh", "-c", f"{editor} {shlex.quote(path)}"]
        pid = os.posix_spawn("/bin/sh", command, os.environ, setsigdef=HANDED_ON)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        for number, handler in kept:
            signal.signal(number, handler)
    if code < 0:
        raise Failed(f'crontab: "{editor}" killed; signal {-code}')
    if code:
        raise Failed(f'crontab: "{editor}" exited with status {code}')


def _installed_editor() -> str:
    for name in EDITORS:
        if found := shutil.which(name):
            return found
    raise Failed("crontab: there is no editor here; set VISUAL or EDITOR")
