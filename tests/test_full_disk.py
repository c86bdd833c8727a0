"""A disk that is really full: a small tmpfs, mounted as root."""

import os
import subprocess

import pytest
from conftest import World, eventually

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")


@pytest.fixture
def small(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=400", "tmpfs", str(place)])
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a file system")
    world = World(place)
    yield world
    world.stop()
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(world):
    with pytest.raises(OSError):
        for number in range(1000):
            (world.path / f"fill{number}").touch()


def make_room(world):
    for file in world.path.glob("fill*"):
        file.unlink()


def test_a_full_disk_refuses_a_submit_with_one_sentence(small):
    small.start()
    fill(small)
    done = small.run("exec", "--", "true", code=75)
    assert "No space left" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_jobs_that_found_no_room_run_when_there_is(small):
    daemon = small.start()
    (small.inbox / ".a.tmp").write_text('{"command": ["true"]}')
    (small.inbox / ".b.tmp").write_text('{"command": ["true"], "delivery": "at-most-once"}')
    fill(small)
    for name in "ab":
        (small.inbox / f".{name}.tmp").rename(small.inbox / f"{name}.job")
    eventually(lambda: "event=disk" in daemon.log.read_text())
    make_room(small)
    folder = small.spool / "out" / str(small.uid)
    eventually(lambda: len(list(folder.glob("*/result.json"))) == 2)
    assert all('"state": "done"' in file.read_text() for file in folder.glob("*/result.json"))
