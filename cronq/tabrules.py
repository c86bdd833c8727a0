"""What a crontab must be to be installed, and who may install one: judged alike by `cronq crontab` and the dispatcher.

Does:    `judging` a table's bytes -> the table, and every reason why it is not installed, in crontab(1)'s words;
         `forbidden` a user -> why he may not.
Reads:   /etc/cron.allow and /etc/cron.deny, as Debian's crontab does.
Trusts:  those two files, which are root's. Nothing in a table.
Fails:   never by an exception. An allow or deny file that cannot be read lets nobody through but root.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cronq.crontab import Crontab

ALLOW, DENY = "/etc/cron.allow", "/etc/cron.deny"
MOST_NAMES = 1 << 20  # bytes of such a file
MAX_BYTES = 4 << 20
MAX_LINES = 10_000  # as Debian's crontab
MAX_LINE = 16 << 10  # bytes; cron cuts a line after a thousand, and whoever waits must not wait for a longer one
UNFINISHED = "new crontab file is missing newline before EOF, can't install."
CANNOT = "errors in crontab file, can't install."


def judging(data: bytes, label: str) -> Iterator[tuple[Crontab, list[str]] | None]:
    """The table and what is said of it (nothing: it can be installed), in steps: None after each but the last."""
    from cronq.crontab import Crontab, parsing

    if sentence := _outsized(data):
        yield Crontab(refused=sentence), [sentence]
        return
    for found in parsing(data):
        yield None if found is None else (found, _complaints(found, label))


def _outsized(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        return f"crontab is too large; maximum number of bytes is {MAX_BYTES}."
    if data.count(b"\n") > MAX_LINES:
        return f"crontab is too long; maximum number of lines is {MAX_LINES}."
    for number, line in enumerate(data.split(b"\n"), 1):
        if len(line) > MAX_LINE:
            return f"line {number} of the crontab is too long; maximum number of bytes is {MAX_LINE}."
    return ""


def _complaints(table: Crontab, label: str) -> list[str]:
    if table.refused:
        return [f'"{label}": {table.refused}', CANNOT]
    if table.errors:
        return [*(f'"{label}":{each.line}: {each.debian or each.text}' for each in table.errors), CANNOT]
    return [UNFINISHED] if any(each.code == "newline" for each in table.problems) else []


def forbidden(name: str, uid: int) -> str | None:
    """Why this user may not use crontab(1): "" where a file says so, else the file that cannot be read; None: he may.

    With an allow file those named in it, else those not named in a deny file, else everybody; root always.
    """
    if uid == 0:
        return None
    for path, granting in ((ALLOW, True), (DENY, False)):
        try:
            with open(path, "rb") as file:
                names = file.read(MOST_NAMES).split(b"\n")
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{path}: {error.strerror}"
        return None if (name.encode("utf-8", "surrogateescape") in names) is granting else ""
    return None
