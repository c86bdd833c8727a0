"""`cronq install` as far as it can be seen without a machine of its own (tests/booted/ has one)."""

import os
import re
import tempfile
import tomllib
from pathlib import Path

import pytest

from cronq import cli, config, hand, install, premises
from cronq.errors import BadConfig

root = pytest.mark.root
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners can be changed by root only")


@pytest.fixture
def steps():
    """What was said, line by line."""
    return []


@pytest.fixture
def public():
    """A directory that others can reach, as pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="cronq-install-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def into(destdir, steps, prefix="/usr/local", dry_run=False, **options):
    install.install(prefix, str(destdir), dry_run, steps.append, **options)


def files(destdir):
    return {str(path.relative_to(destdir)) for path in destdir.rglob("*") if not path.is_dir()}


UNITS = {
    "usr/local/lib/systemd/system/cronq.service",
    "usr/local/lib/systemd/system/cronq-jobs.service",
    "usr/local/lib/systemd/user/cronq.service",
    "usr/local/lib/sysusers.d/cronq.conf",
    "usr/local/lib/tmpfiles.d/cronq.conf",
}


def test_a_package_gets_units_configuration_directories_and_the_command(tmp_path, steps):
    before = os.umask(0o077)
    try:
        into(tmp_path, steps)
    finally:
        os.umask(before)
    assert files(tmp_path) == {*UNITS, "usr/local/bin/cronq", "etc/cronq/cronq.toml"}
    assert all((tmp_path / name).stat().st_mode & 0o777 == 0o644 for name in UNITS)
    assert os.readlink(tmp_path / "usr/local/bin/cronq") == premises.program()
    modes = {
        path: (tmp_path / path).stat().st_mode & 0o7777 for path in ("etc/cronq", "var/spool/cronq", "usr/local/lib")
    }
    assert modes == {"etc/cronq": 0o755, "var/spool/cronq": 0o711, "usr/local/lib": 0o755}


def test_the_units_start_this_installation(tmp_path, steps):
    into(tmp_path, steps, prefix="/usr")
    for unit, command in (("system", "dispatcher --system"), ("user", "dispatcher")):
        text = (tmp_path / f"usr/lib/systemd/{unit}/cronq.service").read_text()
        assert f"\nExecStart={premises.program()} {command}\n" in text
        assert "/opt/cronq" not in text or premises.program().startswith("/opt/cronq")


def test_a_second_time_everything_is_there(tmp_path, steps):
    into(tmp_path, steps)
    steps.clear()
    into(tmp_path, steps)
    assert steps.pop() == "done"
    assert len(steps) == 10
    assert [step for step in steps if not step.startswith("there ")] == []


def test_a_dry_run_says_all_and_does_nothing(tmp_path, steps):
    into(tmp_path, steps, dry_run=True)
    said = [step.removeprefix("would: ").split(" ->")[0] for step in steps]
    assert steps.pop() == "nothing was done (--dry-run)"
    assert all(step.startswith("would: ") for step in steps)
    assert list(tmp_path.iterdir()) == []
    steps.clear()
    into(tmp_path, steps)
    assert said[:-1] == [step.split(" ->")[0] for step in steps[:-1]]


def test_an_older_unit_is_renewed_and_one_of_anothers_is_left(tmp_path, steps):
    into(tmp_path, steps)
    unit, tmpfiles = (
        tmp_path / "usr/local/lib" / name for name in ("systemd/system/cronq.service", "tmpfiles.d/cronq.conf")
    )
    unit.write_text(f"{hand.MARK}, long ago\n[Service]\n")
    tmpfiles.write_text("d /run/cronq 0700 root root -\n")
    into(tmp_path, steps)
    assert "Wants=cronq-jobs.service" in unit.read_text()
    assert tmpfiles.read_text() == "d /run/cronq 0700 root root -\n"
    assert "renew    /usr/local/lib/systemd/system/cronq.service" in steps
    assert any(step.startswith("left     /usr/local/lib/tmpfiles.d/cronq.conf, which") for step in steps)


def test_a_configuration_that_is_there_is_never_written(tmp_path, steps):
    (tmp_path / "etc/cronq").mkdir(parents=True)
    (tmp_path / "etc/cronq/cronq.toml").write_text("mine")
    into(tmp_path, steps)
    assert (tmp_path / "etc/cronq/cronq.toml").read_text() == "mine"


def test_a_command_of_anothers_is_left_and_a_link_to_an_earlier_installation_changed(tmp_path, steps):
    link = tmp_path / "usr/local/bin/cronq"
    link.parent.mkdir(parents=True)
    link.write_text("#!/bin/sh\n")
    into(tmp_path, steps)
    assert link.read_text() == "#!/bin/sh\n"
    assert any(step.startswith("left     /usr/local/bin/cronq, which") for step in steps)
    link.unlink()
    link.symlink_to("/opt/cronq-0.1/bin/cronq")
    into(tmp_path, steps)
    assert os.readlink(link) == premises.program()


def test_the_command_crontab_is_installed_only_if_asked_for_and_never_over_another_one(tmp_path, steps):
    link = tmp_path / "usr/local/bin/crontab"
    into(tmp_path, steps)
    assert not link.is_symlink()
    into(tmp_path, steps, crontab=True)
    assert os.readlink(link) == premises.program()
    install.uninstall("/usr/local", str(tmp_path), False, steps.append)
    assert not link.is_symlink()
    link.write_text("#!/bin/sh\n")
    into(tmp_path, steps, crontab=True)
    assert any(step.startswith("left     /usr/local/bin/crontab, which") for step in steps)
    install.uninstall("/usr/local", str(tmp_path), False, steps.append)
    assert link.read_text() == "#!/bin/sh\n"


def test_uninstalling_takes_what_installing_wrote_and_nothing_else(tmp_path, steps):
    into(tmp_path, steps)
    (tmp_path / "usr/local/lib/sysusers.d/cronq.conf").write_text("u mine\n")
    (tmp_path / "var/spool/cronq/job").touch()
    install.uninstall("/usr/local", str(tmp_path), False, steps.append)
    assert files(tmp_path) == {"etc/cronq/cronq.toml", "usr/local/lib/sysusers.d/cronq.conf", "var/spool/cronq/job"}
    assert any("rm -r /var/spool/cronq" in step for step in steps)


@pytest.mark.parametrize("link", ["etc", "usr/local", "usr/local/lib/systemd", "var/spool"])
def test_no_link_is_followed_below_destdir(tmp_path, steps, link):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = tmp_path / "tree" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(elsewhere)
    with pytest.raises(BadConfig, match="must be a directory of your own"):
        into(tmp_path / "tree", steps)
    assert list(elsewhere.iterdir()) == []


def test_a_link_in_the_place_of_a_file_is_not_written_through(tmp_path, steps):
    into(tmp_path, steps)
    other = tmp_path / "other"
    other.write_text(f"{hand.MARK}\n")
    unit = tmp_path / "usr/local/lib/systemd/system/cronq.service"
    unit.unlink()
    unit.symlink_to(other)
    into(tmp_path, steps)
    assert other.read_text() == f"{hand.MARK}\n"
    assert unit.is_symlink()


@pytest.mark.parametrize(
    ("path", "wrong", "sentence"),
    [
        ("var/spool/cronq", lambda path: path.mkdir(0o755), "has the mode 0755; chmod 0711 /var/spool/cronq"),
        ("var/spool/cronq", lambda path: path.touch(), "must be a directory"),
        ("etc/cronq", lambda path: path.symlink_to("/tmp"), "must be a directory"),
    ],
)
def test_a_directory_that_is_not_as_it_must_be_is_left_to_the_administrator(tmp_path, steps, path, wrong, sentence):
    (tmp_path / path).parent.mkdir(parents=True)
    wrong(tmp_path / path)
    with pytest.raises(BadConfig, match=sentence):
        into(tmp_path, steps)


def test_what_a_program_complains_of_is_told(steps):
    made = hand.Hand("", False, steps.append)
    made.run(["true"])
    with pytest.raises(BadConfig, match="sh failed: no; never"):
        made.run(["sh", "-c", "echo no >&2; echo never >&2; exit 3"])
    with pytest.raises(BadConfig, match="false failed: exit code 1"):
        made.run(["false"])


def test_only_system_can_be_installed(capfd):
    assert cli.main(["install"]) == 2
    assert "--system" in capfd.readouterr().err


def test_every_unit_gives_its_reason_and_systemd_the_account(tmp_path):
    unit = install.shipped("cronq.service")
    said = re.sub(r"^#.*\n", "", unit, flags=re.M)
    for line in ("Type=notify", "NotifyAccess=main", "KillMode=process", "Wants=cronq-jobs.service", "Restart=always"):
        assert f"\n{line}\n" in said
    for kept in ("NoNewPrivileges=", "CapabilityBoundingSet=", "ProtectSystem=", "PrivateTmp="):
        assert kept not in said
        assert kept in unit
    assert install.shipped("cronq.sysusers").splitlines()[-1].startswith("u cronq ")
    owned = [line.split() for line in install.shipped("cronq.tmpfiles").splitlines() if line.startswith("d ")]
    assert {row[1] for row in owned} == {"/etc/cronq", "/var/spool/cronq", "/run/cronq"}


def test_the_commented_configuration_holds_when_its_marks_are_taken_away(tmp_path):
    text = install.shipped("cronq.toml")
    assert tomllib.loads(text) == {}
    (tmp_path / "cronq.toml").write_text(re.sub(r"^#(?! )", "", text, flags=re.M))
    assert set(config.load(str(tmp_path)).tasks) == {"reverse", "tidy"}


# ---------------------------------------------------------------- what only root may change


def test_what_is_roots_passes(public):
    (public / "a").mkdir(0o755)
    (public / "a" / "link").symlink_to("../a")
    if os.geteuid() == 0:
        premises.must_be_roots(str(public / "a" / "link"))
    else:
        with pytest.raises(BadConfig, match="belongs to"):
            premises.must_be_roots(str(public / "a" / "link"))


@root
@needs_root
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda path: os.chown(path, 2001, 0), "belongs to .*; chown root"),
        (lambda path: os.chmod(path, 0o757), "has the mode 0757: others can change .*; chmod go-w"),
        (lambda path: (os.chmod(path, 0o775), os.chown(path, 0, 54321)), "has the mode 0775: others can change"),
        (lambda path: os.chmod(path, 0o750), "has the mode 0750: other users cannot pass; chmod o[+]x"),
        (lambda path: (path.rmdir(), path.symlink_to("../a/b")), "leads through too many links"),
        (lambda path: path.rmdir(), "No such file"),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_a_path_that_another_can_change_is_refused_by_its_component(public, wrong, sentence, linked):
    bad = public / "a" / "b"
    bad.mkdir(parents=True)
    (bad / "c").mkdir()
    (public / "link").symlink_to("a/b")
    (bad / "c").rmdir()
    wrong(bad)
    path = public / "link" if linked else bad
    with pytest.raises(BadConfig, match=sentence) as told:
        premises.must_be_roots(str(path / "c"))
    assert str(path if "links" in sentence else bad) in told.value.sentence


@root
@needs_root
def test_a_link_of_another_user_is_refused_where_it_leads_to_a_good_place(public):
    (public / "sticky").mkdir()
    os.chmod(public / "sticky", 0o1777)
    premises.must_be_roots(str(public / "sticky"))
    link = public / "sticky" / "link"
    link.symlink_to("/usr/bin")
    premises.must_be_roots(str(link))
    os.chown(link, 2001, 2001, follow_symlinks=False)
    with pytest.raises(BadConfig, match=r"link belongs to .*, who can change what root runs"):
        premises.must_be_roots(str(link))


@root
@needs_root
def test_a_group_without_members_may_write(public):
    os.chmod(public, 0o775)
    premises.must_be_roots(str(public))
