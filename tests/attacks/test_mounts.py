"""File systems of a user's own in the places where cronq looks: whoever goes into one waits as long as he likes
(trust.md row 1).

What ann mounts has a server that never answers, not even the kernel's greeting. Root mounts it for her, as fusermount3
does; `allow_other`, which lets everybody in, needs a line in /etc/fuse.conf there, and without it everybody else is
refused with EACCES.
"""

import os
import stat
from pathlib import Path

import private
import pytest
from conftest import eventually
from machine import SPOOL

MS_NOSUID, MS_NODEV = 2, 4

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse (modprobe fuse)"),
]


class Silent:
    """A file system of ann's on a file or a directory; whoever touches it waits until it is ended."""

    def __init__(self, place: Path, *options: str) -> None:
        self.place = place
        kind = stat.S_IFMT(place.lstat().st_mode)
        self.server = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        facts = (f"fd={self.server}", f"rootmode={kind:o}", "user_id=2001", "group_id=2001", *options)
        private.mount("silent", place, MS_NOSUID | MS_NODEV, "fuse", ",".join(facts))

    def end(self) -> None:
        os.close(self.server)  # whoever waits is told that there is nobody
        private.unmount(self.place)


@pytest.fixture
def silent(siege):
    """Mount on a place; all of it is ended before anything else is."""
    made = []

    def on(place: Path, *options: str) -> Silent:
        made.append(Silent(place, *options))
        return made[-1]

    yield on
    for each in made:
        each.end()


ACCESS = [pytest.param((), id="nobody else"), pytest.param(("allow_other",), id="everybody")]


@pytest.mark.parametrize("options", ACCESS)
def test_what_is_mounted_in_hello_is_entered_by_nobody_and_newcomers_are_greeted(siege, silent, options):
    with siege.asleep():
        for make in (Path.mkdir, Path.touch):
            place = SPOOL / "hello" / make.__name__
            make(place)
            os.chown(place, 2001, 2001)
            silent(place, *options)
    siege.machine.cronq("carl", "exec", "--wait", "--", "true")
    siege.unharmed()


@pytest.mark.parametrize("options", ACCESS)
def test_what_is_mounted_in_an_inbox_is_entered_by_nobody_and_refused_with_the_reason(siege, silent, options):
    inbox = siege.inbox()
    with siege.asleep():
        for name in ("job.job", "jobs.jobs", "table.tab", "input.data"):
            (inbox / name).touch()
            silent(inbox / name, *options)
        (inbox / "folder.job").mkdir()
        silent(inbox / "folder.job", *options)
        siege.put("ann", "input", {"command": ["cat"]})
    for name, ending in (("job", "job"), ("jobs", "jobs"), ("table", "tab"), ("folder", "job"), ("input", "job")):
        assert "something is mounted on it" in siege.machine.rejected("ann", name, ending)
    siege.unharmed()
    siege.put("ann", "other", {"command": ["true"]})  # her others go on
    assert siege.machine.result(siege.job_id("ann", "other"))["state"] == "done"


@pytest.mark.parametrize("options", ACCESS)
def test_an_inbox_that_is_mounted_over_is_left_alone_and_served_again_afterwards(siege, silent, options):
    siege.machine.stop()
    siege.put("ann", "before", {"command": ["true"]})
    over = Silent(siege.inbox(), *options)
    try:
        siege.start()
        eventually(lambda: "event=inbox-unreadable uid=2001" in siege.machine.log)
        siege.unharmed()
    finally:
        over.end()
    assert siege.machine.result(siege.job_id("ann", "before"))["state"] == "done"
