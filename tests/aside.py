"""A machine aside: a test's body in a process of its own, with accounts and a root-owned /mnt that nobody else sees."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
toor:x:0:0:root too:/root:/bin/sh
daemon:x:1:1:daemon:/:/usr/sbin/nologin
cronq:x:989:989:cronq:/var/spool/cronq:/usr/sbin/nologin
imgproc:x:990:990:images:/mnt:/bin/sh
ann:x:52001:52001:Ann:/mnt/home/ann:/bin/sh
bob:x:52002:52002:Bob:/mnt/home/bob:/bin/nosuchshell
eve:x:52003:52003:Eve:/mnt/home/eve:/bin/sh
mal:x:52004:989:Mal:/mnt:/bin/sh
twin:x:52001:52001:Ann again:/mnt/home/ann:/bin/sh
"""
GROUP = """\
root:x:0:
daemon:x:1:
adm:x:4:bob
staff:x:50:ann
cronq:x:989:eve
imgproc:x:990:
ann:x:52001:
bob:x:52002:
eve:x:52003:
"""
SHADOW = "".join(f"{line.split(':')[0]}:*:20000::::::\n" for line in PASSWD.splitlines())
ROOT, CRONQ, IMGPROC, ANN, BOB, EVE, MAL, NOBODY = 0, 989, 990, 52001, 52002, 52003, 52004, 52999
CONFIG = Path("/mnt/cronq")

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000


def aside(test: Callable[..., None]) -> Callable[..., None]:
    """Run the test on a machine aside: accounts as above, an empty /mnt with CONFIG in it. Needs root."""

    @functools.wraps(test)
    def run(*args: Any, **named: Any) -> None:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(reading)
                _move_in()
                test(*args, **named)
                code = 0
            except pytest.skip.Exception as error:
                os.write(writing, f"skip {error}".encode())
            except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as another pytest
                os.write(writing, traceback.format_exc().encode(errors="backslashreplace")[-60_000:])
            finally:
                sys.stdout.flush()
                os._exit(code)
        os.close(writing)
        try:
            with open(reading, encoding="utf-8", errors="replace") as file:
                said = file.read()
        except BaseException:  # a timeout: what does not end would live on
            os.kill(child, signal.SIGKILL)
            raise
        finally:
            _, status = os.waitpid(child, 0)
        if said.startswith("skip "):
            pytest.skip(said[5:])
        assert status == 0, said or f"ended with the status {status}"

    return pytest.mark.skipif(os.getuid() != 0, reason="needs root: accounts and owners of its own")(run)


def _move_in() -> None:
    if _libc.unshare(_CLONE_NEWNS) != 0:
        pytest.skip("no mount namespace can be made here")
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", "/mnt", "tmpfs", 0)
    os.umask(0o022)
    Path("/mnt").chmod(0o755)
    for path, text in (("/etc/passwd", PASSWD), ("/etc/group", GROUP), ("/etc/shadow", SHADOW)):
        with tempfile.NamedTemporaryFile("w", dir="/mnt") as file:
            file.write(text)
            file.flush()
            os.chmod(file.name, 0o600 if text is SHADOW else 0o644)
            _mount(file.name, path, None, _MS_BIND)
    CONFIG.mkdir()


def fresh_machine() -> None:
    """For a test that needs them: an /etc with nothing but accounts in it, and an empty /var/spool."""
    etc = Path("/mnt/etc")
    etc.mkdir()
    for name in ("passwd", "group", "shadow", "nsswitch.conf"):
        if Path("/etc", name).exists():
            (etc / name).write_bytes(Path("/etc", name).read_bytes())
    _mount(str(etc), "/etc", None, _MS_BIND)
    _mount("tmpfs", "/var/spool", "tmpfs", 0)


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    encoded = None if kind is None else kind.encode()
    if _libc.mount(source.encode(), target.encode(), encoded, flags, None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {source} {target}")


def add(path: str, text: str) -> None:
    """Add lines to passwd, group or shadow."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def write(name: str, text: str, mode: int = 0o644, owner: int = 0) -> Path:
    """A file of the configuration."""
    path = CONFIG / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    os.chown(path, owner, owner)
    return path
