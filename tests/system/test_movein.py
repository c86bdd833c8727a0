"""Moving in, as somebody who is not root."""

import grp
import os
import shutil
from pathlib import Path

import pytest

pytestmark = pytest.mark.root
TABLES = Path("/var/spool/cron/crontabs")


@pytest.mark.parametrize("command", ["takeover", "rollback", "shadow"])
def test_what_is_roots_to_do_is_refused(machine, command):
    done = machine.cronq("ann", command, code=77)
    assert "only root" in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(not shutil.which("crontab"), reason="crontab is not here (apt-get install cron)")
def test_a_user_sees_his_own_table_and_no_other(machine):
    TABLES.mkdir(parents=True, exist_ok=True)
    os.chown(TABLES, 0, grp.getgrnam("crontab").gr_gid)
    TABLES.chmod(0o1730)
    machine.as_user("ann", "crontab", "-", input="0 22-4 * * * secret\n")
    machine.as_user("bob", "crontab", "-", input="0 5 * * * true\n")
    done = machine.cronq("bob", "import")
    assert "crontab of bob: 1 entry\n" in done.stdout
    assert "05:00:00  0 5 * * *       bob       true\n" in done.stdout
    assert "secret" not in done.stdout
    assert "crontab of carl: 0 entries\n" in machine.cronq("carl", "import").stdout
    assert "cron's ranges do not wrap around" in machine.cronq("ann", "import").stdout
    shutil.rmtree(TABLES.parent)
