"""@reboot: once a boot, for the entries that are there when the first dispatcher of that boot begins.

Does:    says whether this boot's runs are still owed, and as of which instant they are named, so that a dispatcher that
         was killed in the midst of making them goes on and makes none twice.
Reads:   `schedule/boot.json`, the kernel's boot id.
Writes:  `schedule/boot.json`, whole or not at all: before the first of them, and when all are jobs, durably.
Trusts:  `schedule/` is ours alone.
Fails:   `OSError` of the disk: it is tried again a turn later.
"""

from __future__ import annotations

from cronq import process
from cronq.shelves import Shelves

FILE = "schedule/boot.json"


def is_new(shelves: Shelves) -> bool:
    """Whether no dispatcher of this boot has come to look at the clock yet: what lies here is from before a reboot.

    What was not flushed by then may have been cut off by it: a file that is empty proves nothing any more.
    """
    return (shelves.load(FILE) or {}).get("boot") != process.boot_id()


class Reboot:
    """What this boot owes."""

    def __init__(self, shelves: Shelves) -> None:
        self._shelves = shelves
        self._said = shelves.load(FILE) or {}
        self.looked = False

    def owed(self, wall: float) -> int | None:
        """The instant in whose name this boot's runs are made; None where they all have been. Raises `OSError`."""
        if self._said.get("boot") != process.boot_id():
            said = {"boot": process.boot_id(), "instant": int(wall), "done": False}
            self._shelves.save(FILE, said)
            self._said = said
        self.looked = True
        instant = self._said.get("instant")
        return instant if isinstance(instant, int) and self._said.get("done") is not True else None

    def done(self) -> None:
        """All of them are jobs, durably. Raises `OSError`."""
        if self.looked and self._said.get("done") is False:
            self._shelves.save(FILE, self._said | {"done": True})
            self._said["done"] = True
