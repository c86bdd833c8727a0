"""`cronq install --system`, `cronq uninstall`: units, user and directories around an installation that pip made.

Does:    writes what systemd needs, makes the user `cronq` and the directories, and says each step in a line. What is
         there already stays. Uninstalling takes away what installing wrote, and nothing that a user queued.
Reads:   the unit files that come with the package (systemd/).
Writes:  below the prefix units, sysusers.d, tmpfiles.d, bin/cronq and, if that is wanted, bin/crontab; /etc/cronq,
         /var/spool/cronq, /run/cronq.
Trusts:  root. No path is written to that others can change, and no file replaced that `install` did not write.
Fails:   `NotPermitted` where it is not root, `BadConfig` for what is not as it must be, with the way to mend it.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil

from cronq import premises
from cronq.errors import BadConfig, NotPermitted
from cronq.hand import Hand, Say

OURS = "cronq"
PREFIX = "/usr/local"
BUILT_FOR = "/opt/cronq/bin/cronq"  # what stands in the units as they come
TAKEN_OVER = "/var/lib/cronq/takeover.json"  # the notes of `cronq takeover`
SPOOL, SETTINGS, RUN = "/var/spool/cronq", "/etc/cronq", "/run/cronq"
FOLDERS = ((SETTINGS, 0o755), (f"{SETTINGS}/tasks.d", 0o755), (SPOOL, 0o711))
SYSTEM_UNIT, JOBS_UNIT = "lib/systemd/system/cronq.service", "lib/systemd/system/cronq-jobs.service"
UNITS = {  # below the prefix
    SYSTEM_UNIT: "cronq.service",
    JOBS_UNIT: "cronq-jobs.service",
    "lib/systemd/user/cronq.service": "cronq-user.service",
    "lib/sysusers.d/cronq.conf": "cronq.sysusers",
    "lib/tmpfiles.d/cronq.conf": "cronq.tmpfiles",
}


def install(prefix: str, destdir: str, dry_run: bool, say: Say, crontab: bool = False) -> None:
    """Make this installation the system's; with `destdir` a tree for a package, without the account.

    With `crontab` that command is cronq's too: a link whose name says what it does (`__main__`).
    """
    if not destdir:
        _must_be_root()
        premises.must_be_usable()
    for hand in (Hand(destdir, True, lambda _step: None), Hand(destdir, dry_run, say)):
        _install(hand, prefix, crontab)  # first in a dry run: what must be refused is, before anything is done
    say("nothing was done (--dry-run)" if dry_run else "now: systemctl enable --now cronq" if not destdir else "done")


def _install(hand: Hand, prefix: str, crontab: bool) -> None:
    if not hand.destdir:
        _account(hand)
    for path, mode in FOLDERS:
        hand.folder(path, mode, (0, 0))
    hand.file(f"{SETTINGS}/cronq.toml", shipped("cronq.toml"), once=True)
    for below, name in UNITS.items():
        hand.file(f"{prefix}/{below}", shipped(name).replace(BUILT_FOR, premises.program()))
    for name in ("cronq", "crontab") if crontab else ("cronq",):
        hand.link(f"{prefix}/bin/{name}", premises.program())
    if not hand.destdir:
        if ids := _ids():  # not before there is such a user, in a dry run
            hand.folder(RUN, 0o755, ids)
        _reload(hand)


def uninstall(prefix: str, destdir: str, dry_run: bool, say: Say) -> None:
    """Take away what `install` wrote. Jobs, results, the configuration and the account stay."""
    hand = Hand(destdir, dry_run, say)
    if not destdir:
        _must_be_root()
        if os.path.exists(TAKEN_OVER):
            raise BadConfig("cronq is this machine's cron, and without it there is none; cronq rollback first")
        if _systemd_runs() and os.path.lexists(f"{prefix}/{SYSTEM_UNIT}"):
            hand.run(["systemctl", "disable", "--quiet", "--now", "cronq.service"])
            if os.path.lexists(f"{prefix}/{JOBS_UNIT}"):
                hand.run(["systemctl", "stop", "cronq-jobs.service"])  # ends no job
    for below in UNITS:
        hand.remove_file(f"{prefix}/{below}")
    for name in ("cronq", "crontab"):
        hand.remove_link(f"{prefix}/bin/{name}", premises.program())
    if not destdir:
        hand.remove_folder(RUN, {"control", "refuse"})
        _reload(hand)
    for path, what in ((SPOOL, "jobs and results"), (SETTINGS, "the configuration")):
        if os.path.isdir(destdir + path):
            say(f"left     {path}: {what}; rm -r {path} removes them for good")
    if not destdir and _ids():
        say(f"left     the user {OURS}; userdel {OURS} when nothing of it is left")
    say("nothing was done (--dry-run)" if dry_run else "done; what runs ends by itself" if not destdir else "done")


def shipped(name: str) -> str:
    """The text of a file that comes with the package: in it (as pip installs it), or beside it (in a checkout)."""
    here = os.path.dirname(os.path.abspath(__file__))
    for folder in (f"{here}/systemd", f"{os.path.dirname(here)}/systemd"):
        try:
            with open(f"{folder}/{name}", encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            pass
    raise BadConfig(f"{here}/systemd/{name} is missing; install cronq again: {premises.MEND}")


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise NotPermitted("only root can do this (sudo …); for yourself alone, `cronq dispatcher` needs no installing")


def _systemd_runs() -> bool:
    return os.path.isdir("/run/systemd/system")


def _reload(hand: Hand) -> None:
    if _systemd_runs():
        hand.run(["systemctl", "daemon-reload"])
    else:
        hand.said("left", "systemd, which does not run here: it reads the units when it starts")


# ---------------------------------------------------------------- the account


def _ids() -> tuple[int, int] | None:
    try:
        return pwd.getpwnam(OURS).pw_uid, grp.getgrnam(OURS).gr_gid
    except KeyError:
        return None


def _account(hand: Hand) -> None:
    """Make the user and its group; whatever made them, they must be what the launcher insists on."""
    _must_be_empty()
    if _ids() is None:
        for command in _commands():
            hand.run(command)
    else:
        hand.said("there", f"the user {OURS}")
    ids = _ids()
    if ids is None:
        if hand.dry_run:
            return
        raise BadConfig(f"the user {OURS} could not be made; make it, with a group of its own, and try again")
    uid, gid = ids
    if uid == 0 or gid == 0 or pwd.getpwuid(uid).pw_gid != gid:
        raise BadConfig(f"the user {OURS} must not be root, and its group must be {OURS}; usermod -g {OURS} {OURS}")


def _must_be_empty() -> None:
    """The gid `cronq` proves who wrote a job: nobody else may have it."""
    try:
        group = grp.getgrnam(OURS)
    except KeyError:
        return
    first = [entry.pw_name for entry in pwd.getpwall() if entry.pw_gid == group.gr_gid and entry.pw_name != OURS]
    if first:
        raise BadConfig(f"the group {OURS} must have no members; usermod -g another group {first[0]}")
    if group.gr_mem:
        raise BadConfig(f"the group {OURS} must have no members; gpasswd -d {group.gr_mem[0]} {OURS}")


def _commands() -> list[list[str]]:
    if shutil.which("systemd-sysusers"):
        lines = [line for line in shipped("cronq.sysusers").splitlines() if line and not line.startswith("#")]
        return [["systemd-sysusers", "--inline", *lines]]
    if shutil.which("groupadd") and shutil.which("useradd"):
        group = [["groupadd", "--system", "--force", OURS]]
        nowhere = ["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
        return [*group, ["useradd", "--system", "--gid", OURS, *nowhere, OURS]]
    raise BadConfig(f"neither systemd-sysusers nor useradd is here: make the user {OURS}, with a group of its own")
