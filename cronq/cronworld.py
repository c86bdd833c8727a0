"""Cron's world: exactly what a crontab's command finds when it runs, and nothing of cronq's.

Does:    an entry -> the bytes of its command, its environment and its input, as Debian's cron gives them: HOME,
         LOGNAME, PATH and SHELL, the table's variables, below them what PAM would add (/etc/environment,
         /etc/default/locale).
Reads:   those two files, at each start; the passwd entry of the user comes from the caller.
Trusts:  root's files. The entry is the user's own.
Fails:   never: a file that is not there adds nothing.

Standard library only: it is a worker's.
"""

from __future__ import annotations

from cronq.cronjobs import shell
from cronq.crontext import split_percent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cronq.crontab import CronEntry

PATH = "/usr/bin:/bin"
FILES = ("/etc/environment", "/etc/default/locale")
MOST_BYTES = 64 * 1024


class World:
    """What one run of an entry is given."""

    __slots__ = ("argv", "env", "home", "stdin")

    def __init__(self, entry: CronEntry, name: str, home: str) -> None:
        command, stdin = split_percent(entry.command)
        own = variables(entry, name, home)
        self.env = {**_of_files(), **{_bytes(key): _bytes(value) for key, value in own.items() if key}}
        self.argv = [_bytes(own["SHELL"]), b"-c", _bytes(command)]
        self.stdin = _bytes(stdin)
        self.home = _bytes(own["HOME"])


def variables(entry: CronEntry, name: str, home: str) -> dict[str, str]:
    """What cron itself gives the command, and the table; its mail tells them too."""
    return {"HOME": home, "PATH": PATH, **entry.env, "SHELL": shell(entry), "LOGNAME": name}


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _of_files() -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for path in FILES:
        try:
            with open(path, "rb") as file:
                data = file.read(MOST_BYTES)
        except OSError:
            continue
        found.update(parse(data))
    return found


def parse(data: bytes) -> dict[bytes, bytes]:
    """The variables of such a file, as pam_env reads them.

    One a line, which a backslash at its end continues; `#` ends a line anywhere; a value that begins with a quote loses
    that, and one at its end; a name alone takes the variable away.
    """
    found: dict[bytes, bytes] = {}
    begun = b""
    for line in data.split(b"\n"):
        text, mark, _ = (begun + line).partition(b"#")
        whole = text.rstrip()
        if whole.endswith(b"\\") and not mark:
            begun = whole[:-1]
            continue
        begun = b""
        name, equals, value = text.lstrip(b" \t").removeprefix(b"export ").partition(b"=")
        if not name or not name.replace(b"_", b"a").isalnum() or b"\0" in value:
            continue
        if not equals:
            found.pop(name, None)
            continue
        if value[:1] in (b'"', b"'"):
            value = value[1:-1] if len(value) > 1 and value[-1:] in (b'"', b"'") else value[1:]
        found[name] = value
    return found
