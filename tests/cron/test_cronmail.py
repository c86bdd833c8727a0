"""The mail about a cron job: side by side with Debian's, and safe from what its author would like to smuggle in."""

import email
from email.policy import default

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronq.cronmail import SENDMAIL, Unsafe, about, fields, head, job_id, recipient
from cronq.crontab import parse_crontab
from cronq.cronworld import World

ENV = {"SHELL": "/bin/sh", "HOME": "/root", "PATH": "/usr/bin:/bin", "LOGNAME": "root"}


@pytest.mark.parametrize(
    ("env", "to"),
    [
        ({}, "ann"),
        ({"MAILTO": ""}, None),
        ({"MAILTO": "bob"}, "bob"),
        ({"MAILTO": "ann@example.org,bob"}, "ann@example.org,bob"),
        ({"MAILTO": "a!b:c%d-e.f_g+h=i/j"}, "a!b:c%d-e.f_g+h=i/j"),
    ],
)
def test_the_owner_is_mailed_or_whom_mailto_names(env, to):
    assert recipient(env, "ann") == to


@pytest.mark.parametrize("to", ["a, b", "-oQ/tmp", "@x", "a;b", "a|b", "a\nb", "a b", "ü", "$HOME", "<a@b>", "a\\b"])
def test_a_recipient_that_is_none_gets_no_mail(to):
    with pytest.raises(Unsafe):
        recipient({"MAILTO": to}, "ann")


@given(st.text())
def test_no_recipient_is_an_option_or_more_than_one_word(to):
    try:
        found = recipient({"MAILTO": to}, "ann")
    except Unsafe:
        return
    assert found is None or (found.isascii() and not found.startswith("-") and len(found.split()) == 1)


def test_sendmail_is_called_as_debian_calls_it():
    entry = parse_crontab(b"* * * * * true\n").entries[0]
    assert fields(entry, "ann", SENDMAIL)["command"] == [SENDMAIL, "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "ann"]


def test_a_mail_is_named_after_its_tick():
    assert job_id("1000-tab-back-up-0006341c7a000") == "1000-mail-back-up-0006341c7a000"


def test_the_headers_are_debians():
    """Taken down from Debian's cron 3.0pl1-162 with a sendmail that writes down what it gets."""
    env = {"A": "x  y", "MAILTO": "bob", **ENV}
    assert head("bob", "root", "vm", 'echo hi; printf "a\\tb\\n" % x', env).decode() == (
        "From: root (Cron Daemon)\n"
        "To: bob\n"
        'Subject: Cron <root@vm> echo hi; printf "a\\tb\\n" % x\n'
        "MIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=UTF-8\n"
        "Content-Transfer-Encoding: 8bit\n"
        "Auto-Submitted: auto-generated\n"
        "X-Cron-Env: <A=x  y>\n"
        "X-Cron-Env: <MAILTO=bob>\n"
        "X-Cron-Env: <SHELL=/bin/sh>\n"
        "X-Cron-Env: <HOME=/root>\n"
        "X-Cron-Env: <PATH=/usr/bin:/bin>\n"
        "X-Cron-Env: <LOGNAME=root>\n"
        "\n"
    )


def test_a_table_says_who_mails_and_what_kind_of_text_it_is():
    env = {"MAILFROM": "me@x", "CONTENT_TYPE": "text/html", "CONTENT_TRANSFER_ENCODING": "7bit"}
    found = email.message_from_bytes(head("bob", "ann", "vm", "true", env), policy=default)
    assert (found["From"], found["Content-Type"], found["Content-Transfer-Encoding"]) == ("me@x", "text/html", "7bit")


def test_the_mail_tells_the_variables_that_the_job_had():
    entry = parse_crontab(b"LOGNAME=somebody\nSHELL=/bin/bash\n* * * * * true\n").entries[0]
    found = email.message_from_bytes(about(entry, "bob", "ann", "/home/ann", "vm"))
    told = dict(each[1:-1].split("=", 1) for each in found.get_all("X-Cron-Env"))
    world = World(entry, "ann", "/home/ann")
    assert told == {name: world.env[name.encode()].decode() for name in ("SHELL", "HOME", "PATH", "LOGNAME")}
    assert told["LOGNAME"] == "ann"


def test_what_is_no_ascii_is_encoded_and_comes_back():
    found = email.message_from_bytes(head("bob", "ann", "vm", 'echo "ü"', {"FOO": "bär"}), policy=default)
    assert found["Subject"] == 'Cron <ann@vm> echo "ü"'
    assert found["X-Cron-Env"] == "<FOO=bär>"


@given(
    st.dictionaries(
        st.sampled_from(["A", "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING"]),
        st.text(st.characters(codec=None)) | st.just("x\r\nBcc: all@example.org\r\n\r\nhello"),
    ),
    st.text() | st.just("true\nBcc: all@example.org"),
)
def test_nothing_in_a_table_makes_a_header_or_a_body_of_its_own(env, command):
    data = head("bob", "ann", "vm", command, env)
    assert data.endswith(b"\n\n")
    found = email.message_from_bytes(data)
    assert found.get_payload() == ""
    assert set(found.keys()) <= {
        *("From", "To", "Subject", "MIME-Version", "Content-Type", "Content-Transfer-Encoding"),
        *("Auto-Submitted", "X-Cron-Env"),
    }
