"""An installation that every user can read: cronq of this working tree, with Debian's Python, in /opt/cronq.

Does:    what `pip install -c constraints.txt .` into a venv does, in two steps: the packages that cronq needs come
         once, into a cache; the wheel of the working tree is built and installed afresh each time.
Reads:   pyproject.toml, constraints.txt, the working tree. Packages come through pip's ordinary configuration.
Writes:  CACHE (root's, below /var/tmp), one directory per set of requirements; the oldest go.
Fails:   with pip's words.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
CACHE = Path("/var/tmp/cronq-tests")
KEEP = 14 * 86400.0
PYTHON = "/usr/bin/python3"
MEASURED = ("COVERAGE_PROCESS_START", "COVERAGE_FILE")  # `make cover-launcher` sets them


def missing() -> str:
    """Why nothing can be installed here; "" if it can."""
    if not Path(PYTHON).exists():
        return f"there is no {PYTHON} (apt-get install python3)"
    if subprocess.run([PYTHON, "-c", "import sys, venv; sys.exit(sys.version_info < (3, 11))"]).returncode:
        return f"{PYTHON} is older than 3.11"
    return ""


def packages() -> Path:
    """The directory with what cronq needs: `venv`, and `tools` to build it with. Made if it is not there."""
    CACHE.mkdir(mode=0o755, exist_ok=True)
    found = CACHE.lstat()  # anybody may make a directory in /var/tmp
    assert found.st_uid == 0 and not found.st_mode & 0o022, f"{CACHE} must be root's; rm -r {CACHE}"
    _prune()
    kept = CACHE / _key()
    if not kept.exists():
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
        draft = Path(tempfile.mkdtemp(prefix=".", dir=CACHE))
        wanted = {"venv": project["project"]["dependencies"], "tools": project["build-system"]["requires"]}
        for name, requirements in wanted.items():
            _run(PYTHON, "-m", "venv", "--without-pip", draft / name)
            _pip(draft / name, "-c", REPOSITORY / "constraints.txt", *requirements)
        try:
            draft.rename(kept)
        except OSError:  # another session was faster
            shutil.rmtree(draft)
    os.utime(kept)
    return kept


def copy(made: Path, place: Path) -> None:
    """Lay what `packages` made at `place`, by links: nothing there is ever written to."""
    _run("cp", "-al", made / "venv", place)


def install(made: Path, place: Path, scratch: Path) -> None:
    """Install the working tree's cronq at `place`, where there is a copy."""
    _run(made / "tools" / "bin" / "python", "-m", "hatchling", "build", "-t", "wheel", "-d", scratch, cwd=REPOSITORY)
    _pip(place, "--no-deps", "--no-index", *scratch.glob("*.whl"))
    if MEASURED[0] in os.environ:
        _pip(place, "-c", REPOSITORY / "constraints.txt", "coverage")


def _key() -> str:
    version = subprocess.run([PYTHON, "-VV"], capture_output=True, check=True).stdout
    parts = [version, *((REPOSITORY / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _prune() -> None:
    for each in CACHE.iterdir():
        if time.time() - each.stat().st_mtime > KEEP:
            shutil.rmtree(each)


def _pip(venv: Path, *words: str | Path) -> None:
    """Install with the pip of pytest's own environment: Debian's has none without the package python3-venv."""
    quiet = ("-q", "--disable-pip-version-check", "--root-user-action=ignore", "--no-warn-script-location")
    _run(sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", *quiet, *words)


def _run(*argv: str | Path, **options) -> None:
    done = subprocess.run(argv, umask=0o022, capture_output=True, text=True, **options)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
