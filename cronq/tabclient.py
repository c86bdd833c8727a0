"""A user's installed crontab, from his own side: read it, hand in another one, remove it, put an earlier one back.

Does:    `Own` for the caller; `Other` the same for the user that root means, each act in a process that has become him.
Reads:   `out/<uid>/crontab`, the copy that the dispatcher keeps there.
Writes:  `in/<uid>/NAME.tab`, by `spool.put`; the dispatcher is asked for everything else.
Trusts:  nothing below what belongs to others: root enters it as its owner only.
Fails:   `Refused` with the dispatcher's own sentence; `NotRunning` where nobody installs it now, and says whether it is
         queued; `Full`.
"""

from __future__ import annotations

import os
import stat
import time

from cronq import spool as spools
from cronq.errors import CronqError, Full, NotRunning

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pwd
    from collections.abc import Callable
    from typing import Any

MOST = 4 << 20
PATIENCE = 30.0  # seconds for a table to be judged
LOOK_AGAIN = 0.02
REFUSALS = (65, 77)


class Refused(CronqError):
    """The dispatcher does not install this table, or not for this user."""

    exit_code = 1


class Own:
    """The caller's own table on this spool."""

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self) -> bytes | None:
        """The table as it is installed; None where there is none. Raises `OSError`."""
        try:
            descriptor = self._open(f"out/{os.getuid()}/crontab", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CronqError(f"{self.root}/out/{os.getuid()}/crontab is not a regular file; see `cronq doctor`")
            return file.read(MOST)

    def _open(self, path: str, flags: int) -> int:
        """A descriptor below the spool; root, below what is cronq's, is led nowhere else by a link."""
        if os.getuid() != 0:
            return os.open(os.path.join(self.root, path), flags | os.O_CLOEXEC)
        from cronq import linux

        top = os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return linux.open_inside(top, path, flags)
        finally:
            os.close(top)

    def install(self, data: bytes) -> str:
        """Hand in a table, and wait until it is installed. Raises `CronqError`.

        Returns why it does not run all the same; "" where it does.
        """
        from cronq import job

        name = job.new_name()
        spools.put(self.root, name, data, ending=".tab")
        end = time.monotonic() + PATIENCE
        while (found := self._asked(name)).get("state") == "queued":
            if time.monotonic() > end:
                raise Full("your crontab is queued, and is installed as soon as it has been looked at")
            time.sleep(LOOK_AGAIN)
        return str(found.get("but") or "")

    def _asked(self, name: str) -> dict[str, Any]:
        try:
            return self._ask({"do": "crontab", "name": name})
        except NotRunning as error:
            raise NotRunning(
                f"your crontab is queued, and is installed when the dispatcher runs: {error.sentence}"
            ) from None

    def remove(self) -> bool:
        """Take the table out of use; whether there was one. Raises `CronqError`."""
        return bool(self._ask({"do": "remove-crontab"}).get("done"))

    def undo(self, number: int) -> str | None:
        """Put the table that was replaced so many times ago back. Raises `CronqError`.

        Returns what `install` does; None where there is no such table.
        """
        found = self._ask({"do": "undo-crontab", "number": number})
        return str(found.get("but") or "") if found.get("done") else None

    def beside(self) -> str:
        """The path of a table that cron's own crontab(1) has made for him and that runs too; "" if nobody knows any."""
        try:
            return str(self._ask({"do": "crontab-beside"}).get("table") or "")
        except CronqError:
            return ""  # it is a hint: what was done is done

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        from cronq import client

        try:
            (found,) = client.ask(self.root, request)
        except CronqError as error:
            if error.exit_code in REFUSALS:
                raise Refused(error.sentence) from None
            raise
        return found


class Other:
    """Another user's, for root."""

    def __init__(self, root: str, user: pwd.struct_passwd) -> None:
        self.own = Own(root)
        self.user = user

    def read(self) -> bytes | None:
        """As `Own.read`."""
        found = self._become(lambda: b"" if (data := self.own.read()) is None else b"+" + data)
        return found[1:] if found else None

    def install(self, data: bytes) -> str:
        """As `Own.install`."""
        return self._become(lambda: self.own.install(data).encode()).decode()

    def remove(self) -> bool:
        """As `Own.remove`."""
        return bool(self._become(lambda: b"+" * self.own.remove()))

    def undo(self, number: int) -> str | None:
        """As `Own.undo`."""
        found = self._become(lambda: b"" if (but := self.own.undo(number)) is None else b"+" + but.encode())
        return found[1:].decode() if found else None

    def beside(self) -> str:
        """As `Own.beside`."""
        try:
            return self._become(lambda: self.own.beside().encode()).decode()
        except CronqError:
            return ""

    def _become(self, act: Callable[[], bytes]) -> bytes:
        """What `act` gives in a process that is this user and nobody else. Raises `CronqError` as it does."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        child = os.fork()
        if child == 0:
            _be(self.user, act, writing)
        os.close(writing)
        with open(reading, "rb") as file:
            said = file.read()
        _, status = os.waitpid(child, 0)
        code, _, rest = (
            said.partition(b"\n") if status == 0 else (b"", b"", b"")
        )  # its user can kill it: half an answer
        if code == b"0":
            return rest
        error = CronqError(rest.decode("utf-8", "replace") or f"the process that became {self.user.pw_name} has died")
        error.exit_code = int(code or CronqError.exit_code)
        raise error


def _be(user: pwd.struct_passwd, act: Callable[[], bytes], writing: int) -> None:
    """In a fork: become this user, act, tell what came of it, and end."""
    said = b""
    try:
        from cronq import become

        groups = os.getgrouplist(user.pw_name, user.pw_gid)
        become.drop(become.Account(user.pw_name, user.pw_uid, user.pw_gid, groups))
        os.chdir("/")
        said = b"0\n" + act()
    except CronqError as error:
        said = f"{error.exit_code}\n{error.sentence}".encode("utf-8", "backslashreplace")
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not go on as root's
        said = f"{CronqError.exit_code}\n{error}".encode("utf-8", "backslashreplace")
    finally:
        try:
            spools.write_all(writing, said)
        finally:
            os._exit(0)
