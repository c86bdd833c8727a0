"""A slice of `make torture-power`: one recording of ext4, some of its states; the whole is tests/torture/README.md."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

POWER = Path(__file__).parent / "power.py"
SLICE = ["--fs", "ext4", "--states", "12", "--more", "24", "--rounds", "12", "--seed", "1"]
EATMYDATA = shutil.which("eatmydata")


@pytest.fixture(autouse=True)
def _able():
    if os.getuid() != 0:
        pytest.skip("mounting file systems needs root")
    from power import missing

    if reason := missing():
        pytest.skip(reason)


def power(*options, **more):
    env = {**os.environ, **more}
    return subprocess.run([sys.executable, POWER, *SLICE, *options], env=env, capture_output=True, text=True)


def test_what_was_promised_is_kept_whenever_the_power_goes():
    done = power()
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(EATMYDATA is None, reason="eatmydata is not here")
def test_where_nothing_is_flushed_the_power_loss_is_seen():
    done = power(LD_PRELOAD="libeatmydata.so")
    assert done.returncode == 1, done.stdout
    assert "lost: 0," not in done.stdout.splitlines()[-1], done.stdout
