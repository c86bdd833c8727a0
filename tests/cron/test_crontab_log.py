"""What Debian's crontab(1) and ours write to the system's log."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from debian_jail import _mounts, missing

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]

STORY = """
echo '5 * * * * x' | crontab -
crontab -l
VISUAL=cat crontab -e
VISUAL=false crontab -e
VISUAL=./edit crontab -e

echo n | VISUAL=./spoil crontab -e
echo '61 * * * * x' | crontab -
echo '5 * * * * y' | crontab -n -
crontab -u root -l
crontab -r
crontab -r
crontab -l
crontab -x
"""
PARTS = STORY.strip().split("\n\n")  # a socket holds ten lines that nobody has read yet


@pytest.fixture
def ear(tmp_path):
    """What listens where /dev/log is, in the scratch directory beside it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        here = os.open(tmp_path, os.O_PATH)  # the path itself may be too long for a socket
        found.bind(f"/proc/self/fd/{here}/log")
        os.close(here)
        found.setblocking(False)
        yield found


def test_both_tell_the_systems_log_the_same(world, ear, tmp_path):
    world.start()
    for name, text in (("edit", "6 * * * * x"), ("spoil", "61 * * * * x")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{text}' > $1; touch -d 2035-01-01 $1\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "crontab").symlink_to(Path(sys.executable).parent / "cronq")
    folders = (Path("/usr/bin"), tmp_path / "bin")
    theirs, ours = ([line for part in PARTS for line in told(ear, tmp_path, each, part, world.env)] for each in folders)
    assert theirs == ours
    assert ours[0] == "crontab[N]: (root) REPLACE (root)"
    assert len(ours) == 13


def told(ear: socket.socket, scratch: Path, folder: Path, part: str, env: dict) -> list[str]:
    """The lines that come of a part of the story with the crontab in this directory, pids and times apart."""
    prepare = f"{_mounts(scratch)} && chown root:crontab {scratch}/tabs && chmod 1730 {scratch}/tabs"
    story = part.replace("./", f"{scratch}/").replace("crontab -", f"{folder}/crontab -")
    env = env | {"TMPDIR": str(scratch)}
    done = subprocess.run(["unshare", "-m", "sh", "-c", f"{prepare} && {story}"], env=env, capture_output=True)
    for left in re.findall(rb"edits left in (/tmp/crontab\.\w+)/crontab", done.stderr):
        shutil.rmtree(left)  # Debian's knows no TMPDIR
    lines = []
    while True:
        try:
            lines.append(re.sub(r"^<78>.{15} (crontab)\[\d+\]", r"\1[N]", ear.recv(4096).decode().rstrip("\0\n")))
        except BlockingIOError:
            assert lines, done.stderr
            return lines
