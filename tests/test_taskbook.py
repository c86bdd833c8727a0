"""The worker's tasks: read again when a file has changed, and not otherwise."""

import os
import time

import pytest

from cronq import task, taskbook
from cronq.errors import BadConfig
from cronq.taskbook import TaskBook


@pytest.fixture
def loads(monkeypatch):
    """Each reading of the configuration; every call looks at the stamps."""
    monkeypatch.setattr(taskbook, "LOOK_EVERY", 0.0)
    real, found = task.load, []
    monkeypatch.setattr(task, "load", lambda config: found.append(config) or real(config))
    return found


def write(path, word: str, stamp: float) -> None:
    path.write_text(f"[tasks.a]\ncommand = ['{word}']\n")
    os.utime(path, (stamp, stamp))


def test_files_that_did_not_change_are_read_once(tmp_path, loads):
    write(tmp_path / "cronq.toml", "one", time.time() - 60)
    book = TaskBook(str(tmp_path))
    for _ in range(3):
        assert book.tasks()["a"].command == ["one"]
    assert len(loads) == 1


@pytest.mark.parametrize("place", ["cronq.toml", "tasks.d/x.toml"])
def test_a_changed_file_is_read_again(tmp_path, loads, place):
    (tmp_path / "tasks.d").mkdir()
    book = TaskBook(str(tmp_path))
    for age, word in ((60, "one"), (50, "two")):
        write(tmp_path / place, word, time.time() - age)
        assert book.tasks()["a"].command == [word]
    (tmp_path / place).unlink()
    assert book.tasks() == {}


def test_a_young_file_may_have_changed_within_one_tick_of_its_stamp(tmp_path, loads):
    stamp = time.time()
    write(tmp_path / "cronq.toml", "one", stamp)
    book = TaskBook(str(tmp_path))
    assert book.tasks()["a"].command == ["one"]
    assert book.young
    write(tmp_path / "cronq.toml", "two", stamp)
    assert book.tasks()["a"].command == ["two"]
    write(tmp_path / "cronq.toml", "two", stamp - 60)
    book.tasks()
    assert not book.young


def test_stamps_are_not_looked_at_for_each_job(tmp_path, monkeypatch):
    monkeypatch.setattr(taskbook, "LOOK_EVERY", 60.0)  # a tenth of a second may go by in a test
    write(tmp_path / "cronq.toml", "one", time.time() - 60)
    book = TaskBook(str(tmp_path))
    book.tasks()
    write(tmp_path / "cronq.toml", "two", time.time() - 50)
    assert book.tasks()["a"].command == ["one"]


def test_what_could_not_be_read_is_tried_again_whatever_its_stamp(tmp_path, loads, monkeypatch):
    write(tmp_path / "cronq.toml", "one", time.time() - 60)
    book, real = TaskBook(str(tmp_path)), task.load

    def refuse(config):
        raise BadConfig("cronq.toml: cannot be read: permission denied")

    monkeypatch.setattr(task, "load", refuse)
    for _ in range(2):
        with pytest.raises(BadConfig, match="permission"):
            book.tasks()
    monkeypatch.setattr(task, "load", real)
    assert book.tasks()["a"].command == ["one"]


def test_a_directory_that_is_not_there_has_no_tasks(tmp_path):
    assert TaskBook(str(tmp_path / "none")).tasks() == {}
