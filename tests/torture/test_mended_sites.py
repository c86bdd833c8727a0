"""Faults at single system calls that once lost, doubled or wedged something: each by its story and its call."""

import paths
import pytest
import strikes

PLACES = {
    # story, program, which call, of what path, which of those; killed there, or this errno
    "a_revived_job_that_was_about_to_start_is_not_dead_by_its_old_outcome": (
        "revived",
        "dispatcher",
        "ftruncate",
        "queue/outcome",
        3,
        "",
    ),
    "a_job_whose_cancelling_was_cut_off_after_its_result_is_cancelled": (
        "cancel",
        "dispatcher",
        "renameat",
        "job.json",
        1,
        "",
    ),
    "a_cancelling_that_the_disk_broke_off_is_gone_on_with": ("cancel", "dispatcher", "renameat", "job.json", 1, "EIO"),
    "an_outcome_that_cannot_be_opened_once_is_read_in_the_end": (
        "data",
        "dispatcher",
        "openat",
        "queue/outcome/",
        2,
        "EIO",
    ),
    "an_outcome_that_cannot_be_read_once_is_read_in_the_end": (
        "run",
        "dispatcher",
        "pread64",
        "queue/outcome",
        1,
        "EIO",
    ),
    "a_captured_file_that_cannot_be_looked_at_for_want_of_memory_is_judged_later": (
        "run",
        "dispatcher",
        "openat2",
        "queue/.capture",
        1,
        "ENOMEM",
    ),
    "a_job_whose_file_cannot_be_opened_for_want_of_descriptors_is_not_refused": (
        "run",
        "dispatcher",
        "openat2",
        "queue/ready",
        1,
        "EMFILE",
    ),
    "a_job_that_its_worker_cannot_read_for_want_of_memory_is_not_refused": (
        "run",
        "worker",
        "pread64",
        "queue/",
        1,
        "ENOMEM",
    ),
    "a_signal_while_a_job_is_opened_is_no_error_of_the_disk": (
        "run",
        "dispatcher",
        "openat2",
        "queue/ready",
        1,
        "EINTR",
    ),
    "a_job_whose_input_cannot_be_removed_once_ends_all_the_same": (
        "data",
        "dispatcher",
        "unlinkat",
        "queue/data",
        1,
        "EIO",
    ),
    "a_worker_that_cannot_leave_a_jobs_directory_does_not_start_it_twice": ("run", "worker", "chdir", "/", 3, "ENOMEM"),
    "a_config_that_cannot_be_looked_at_is_not_taken_for_none": (
        "run",
        "dispatcher",
        "newfstatat",
        "cronq.toml",
        1,
        "EIO",
    ),
    "a_control_socket_that_cannot_be_waited_for_once_is_made_anew": (
        "hold",
        "dispatcher",
        "epoll_ctl",
        "",
        4,
        "ENOMEM",
    ),
    "input_that_cannot_be_looked_at_is_one_sentence": ("submit_data", "submit", "newfstatat", "/input", 1, "ENOMEM"),
    "a_shard_that_cannot_be_listed_at_the_start_is_not_taken_for_empty": (
        "recover",
        "dispatcher",
        "openat",
        "queue/delayed/",
        1,
        "EIO",
    ),
    "a_file_that_was_taken_just_when_the_disk_refused_is_judged": (
        "dead",
        "dispatcher",
        "newfstatat",
        "queue/.capture/",
        1,
        "ESTALE",
    ),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("delivery", [paths.LEAST, paths.ONCE])
@strikes.needed
def test_nothing_is_lost_or_doubled_or_stuck(name, delivery):
    story, program, call, path, number, fault = PLACES[name]
    point = strikes.Point(strikes.Way(story, delivery, program), call, number, fault)
    with strikes.place() as where:
        ((_, found),) = strikes.side_by_side(
            [point], lambda each: strikes.strike(where, each, path=path), 1, float("inf")
        )
    assert found["struck"], found
    assert not found.get("failed"), found
    assert found["found"] == [], found
