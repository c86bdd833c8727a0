"""docs/install.md, read aloud to a fresh machine: its commands are run as they stand there.

pip fetches what cronq needs, so this takes a while: with CRONQ_LONG=1 (`make booted`).
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import boot
import pytest

REPOSITORY = Path(__file__).parent.parent.parent
NO_VENV = subprocess.run(
    ["/usr/bin/python3", "-c", "import ensurepip, venv"], capture_output=True, check=False
).returncode
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.environ.get("CRONQ_LONG") != "1", reason="downloads; set CRONQ_LONG=1 (make booted)"),
    pytest.mark.skipif(bool(boot.missing()), reason=boot.missing() or "-"),
    pytest.mark.skipif(bool(NO_VENV), reason="Debian's python3 lacks venv (apt-get install python3-venv)"),
    pytest.mark.timeout(300),
]


def commands(heading: str) -> list[str]:
    """The commands below a heading of docs/install.md, with this working tree for the package."""
    (section,) = re.findall(
        rf"^## {heading}\n(.*?)(?=^## |\Z)", (REPOSITORY / "docs/install.md").read_text(), re.M | re.S
    )
    (block,) = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)
    return [re.sub(r"(pip install.*) cronq$", rf"\1 {REPOSITORY}", line) for line in block.splitlines()]


@pytest.fixture
def server(tmp_path):
    made = boot.Booted(tmp_path)
    yield made
    made.stop()


def follow(server, heading):
    for command in commands(heading):
        server.run("sh", "-c", command, net="pip" in command, timeout=200)


def test_what_the_document_says_works(server):
    server.run("useradd", "--create-home", "ann")
    follow(server, "On a server")
    assert server.run("cronq", "exec", "--wait", "--", "id", "-un", user="ann").stdout == "ann\n"
    (delayed,) = server.run("cronq", "exec", "--delay", "1s", "--", "true", user="ann").stdout.split()
    follow(server, "Upgrade")
    assert server.run("cronq", "exec", "--wait", "--", "id", "-un", user="ann").stdout == "ann\n"
    follow(server, "Uninstall")
    assert not server.path("/usr/local/bin/cronq").exists()
    for command in commands("On a server")[-2:]:
        server.run("sh", "-c", command)
    assert server.run("cronq", "wait", "--timeout", "20s", delayed, user="ann").returncode == 0
