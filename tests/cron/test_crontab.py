"""The crontab reader: every form that the contract lists, every warning, the limits. Pure: text in, entries out."""

from __future__ import annotations

import os
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cronq.crontab import CronEntry, Crontab, Problem, parse_crontab, parsing
from cronq.crontext import split_percent, variable
from cronq.fields import DOM, DOW, HOUR, MINUTE, MONTH, BadSchedule, Field, parse_field
from cronq.schedule import Every, Extended, Schedule, parse, parse_extended


def values(text: str, field: Field) -> list[int]:
    bits = parse_field(text, field)
    return [value for value in range(64) if bits >> value & 1]


def read(*lines: str, **how: object) -> Crontab:
    return parse_crontab("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"), **how)  # type: ignore[arg-type]


def only(*lines: str, **how: object) -> CronEntry:
    table = read(*lines, **how)
    assert not table.errors, table.errors
    (entry,) = table.entries
    return entry


def said(*lines: str, **how: object) -> list[tuple[int, int, str]]:
    return [(problem.line, problem.column, problem.code) for problem in read(*lines, **how).problems]


def codes(*lines: str, **how: object) -> list[str]:
    return [problem.code for problem in read(*lines, **how).problems]


# ---- fields (section 3)

MEANT = [
    ("*", MINUTE, list(range(60))),
    ("*/15", MINUTE, [0, 15, 30, 45]),
    ("*/35", MINUTE, [0, 35]),
    ("*/99", MINUTE, [0]),
    ("5", MINUTE, [5]),
    ("05", MINUTE, [5]),
    ("1-5", MINUTE, [1, 2, 3, 4, 5]),
    ("1-1", MINUTE, [1]),
    ("1-10/3,50", MINUTE, [1, 4, 7, 10, 50]),
    ("*/2", DOM, list(range(1, 32, 2))),
    ("*", DOM, list(range(1, 32))),
    ("*/2", DOW, [0, 2, 4, 6]),
    ("mon-fri", DOW, [1, 2, 3, 4, 5]),
    ("MON,Wed", DOW, [1, 3]),
    ("sun", DOW, [0]),
    ("7", DOW, [7]),
    ("jan,DEC", MONTH, [1, 12]),
    ("jan-mar", MONTH, [1, 2, 3]),
]
JUNK_IGNORED = [
    ("*5", MINUTE, list(range(60))),
    ("*foo", MINUTE, list(range(60))),
    ("*-5", MINUTE, list(range(60))),
    ("*/5-10", MINUTE, list(range(0, 60, 5))),
    ("*/2~5", MINUTE, list(range(0, 60, 2))),
    ("1.5", MINUTE, [1]),
    ("1-3-5", MINUTE, [1, 2, 3]),
    ("1-10/2/3", MINUTE, [1, 3, 5, 7, 9]),
    ("0~30", MINUTE, [0]),
    ("5#3", DOW, [5]),
    ("mon#1", DOW, [1]),
    ("4294967301", MINUTE, [5]),
    ("0" * 998 + "5", MINUTE, [5]),
]
EMPTY = [
    *[(text, MINUTE) for text in ("22-4", "55-5", "10-5/2")],
    *[("31-1", DOM), ("nov-feb", MONTH)],
    *[(text, DOW) for text in ("fri-sun", "sat-sun", "6-1", "7-1")],
]
REFUSED = [
    *[(text, MINUTE) for text in ("5/15", "0/15", "1/1", "*/0", "*/", "60", "L", "5L", "?", "H", "R", "~", ",1", "1,")],
    *[(text, MINUTE) for text in ("1,,2", "1--3", "-1", "+1", "0x10", "", "mon", "5-64/30", "*/2147483648", "\ufeff5")],
    *[("24h", HOUR), ("24", HOUR), ("0", DOM), ("32", DOM), ("15W", DOM), ("0", MONTH), ("13", MONTH)],
    *[("january", MONTH), ("8", DOW), ("monday", DOW), ("5L", DOW), ("0" * 1000, MINUTE), ("9" * 30, MINUTE)],
    ("5-3/2147483648", MINUTE),
]


@pytest.mark.parametrize(("text", "field", "meant"), MEANT, ids=lambda value: str(value)[:20])
def test_a_field_means_the_values_that_cron_gives_it(text: str, field: Field, meant: list[int]) -> None:
    assert values(text, field) == meant


@pytest.mark.parametrize(("text", "field", "meant"), JUNK_IGNORED, ids=lambda value: str(value)[:20])
def test_junk_behind_an_item_is_ignored(text: str, field: Field, meant: list[int]) -> None:
    assert values(text, field) == meant


@pytest.mark.parametrize(("text", "field"), EMPTY, ids=str)
def test_a_range_that_runs_backwards_is_accepted_and_empty(text: str, field: Field) -> None:
    assert parse_field(text, field) == 0


@pytest.mark.parametrize(("text", "field"), REFUSED, ids=lambda value: str(value)[:20])
def test_what_cron_refuses_is_refused_with_the_name_of_the_field(text: str, field: Field) -> None:
    with pytest.raises(BadSchedule) as caught:
        parse_field(text, field)
    assert str(caught.value).startswith(f"bad {field.name}: ")
    assert caught.value.mend


@given(st.text(alphabet="*/-,0123456789LW#?~ monfri\udcff", max_size=12))
def test_any_text_is_a_schedule_or_refused_with_a_place_in_it(text: str) -> None:
    try:
        schedule = parse(text)
    except BadSchedule as error:
        assert 0 <= error.offset <= len(text)
    else:
        assert isinstance(schedule, Schedule)
        assert not schedule.minute & ~MINUTE.all
        assert not schedule.dow & ~DOW.all


def test_sunday_is_0_and_7() -> None:
    assert parse("0 0 * * 0") == parse("0 0 * * 7") == parse("0 0 * * sun")


@pytest.mark.parametrize("nickname", ["@daily", "@midnight"])
def test_daily_is_a_line_with_fixed_times(nickname: str) -> None:
    assert parse(nickname) == parse("0 0 * * *")
    assert not parse(nickname).wild


def test_nicknames_are_the_fields_that_cron_makes_of_them() -> None:
    assert parse("@yearly") == parse("@annually") == parse("0 0 1 1 *")
    assert parse("@monthly") == parse("0 0 1 * *")
    assert parse("@weekly") == parse("0 0 * * 0")
    assert parse("@hourly") == parse("0 * * * *")
    assert parse("@hourly").wild
    assert parse("@reboot").reboot


@pytest.mark.parametrize("text", ["@DAILY", "@every_minute", "@", "@ daily"])
def test_other_nicknames_are_refused(text: str) -> None:
    with pytest.raises(BadSchedule, match="bad time specifier"):
        parse(text)


def test_a_nickname_in_capitals_is_told_how_to_be_written() -> None:
    with pytest.raises(BadSchedule) as caught:
        parse("@DAILY")
    assert caught.value.mend == "write @daily"


# ---- the day rule (section 2)

DAY_RULE = [
    ("*/2 * 1", "odd days that are Mondays", lambda dom, dow: dom % 2 == 1 and dow == 1),
    ("1-31 * 1", "every day", lambda dom, dow: True),
    ("*,13 * 5", "Fridays", lambda dom, dow: dow == 5),
    ("13,* * 5", "every day", lambda dom, dow: True),
    ("13 * */1", "the 13th", lambda dom, dow: dom == 13),
    ("13 * 0-6", "every day", lambda dom, dow: True),
    ("13 * 5", "the 13th or a Friday", lambda dom, dow: dom == 13 or dow == 5),
    ("* * 5", "Fridays", lambda dom, dow: dow == 5),
    ("13 * *", "the 13th", lambda dom, dow: dom == 13),
    ("31-1 * 1", "Mondays", lambda dom, dow: dow == 1),
]


@pytest.mark.parametrize(("days", "meaning", "suits"), DAY_RULE, ids=[row[0] for row in DAY_RULE])
def test_the_two_day_fields_are_joined_as_cron_joins_them(days: str, meaning: str, suits) -> None:  # type: ignore[no-untyped-def]
    schedule = parse(f"0 0 {days}")
    for dom in range(1, 32):
        for dow in range(7):
            assert schedule.on_day(dom, 1, dow) == suits(dom, dow), (meaning, dom, dow)


# ---- lines


def test_blanks_and_tabs_part_the_fields_and_may_stand_in_front() -> None:
    entry = only(" \t 5\t*  *\t \t* * \t run  it ")
    assert (entry.when, entry.command) == ("5 * * * *", "run  it ")


def test_a_comment_is_a_line_that_begins_with_a_hash_and_nothing_else() -> None:
    entry = only("# one", "  \t# two", "", "   ", "5 * * * * x # y")
    assert (entry.line, entry.command) == (5, "x # y")


def test_a_command_may_be_missing_and_that_is_doubtful() -> None:
    for line in ("@daily", "* * * * *", "@daily   "):
        assert only(line).command == ""
        assert codes(line) == ["no-command"]


def test_a_sixth_star_is_a_bad_command_but_a_question_mark_is_a_command() -> None:
    assert read("* * * * * * x").errors[0].text.startswith("bad command")
    assert only("0 0 12 * * ?").command == "?"
    assert "sixth" in codes("0 0 12 * * ?")


def test_a_command_of_998_bytes_is_taken_and_one_more_is_too_long() -> None:
    assert only("* * * * * " + "é" * 499).command == "é" * 499
    (problem,) = read("* * * * * " + "é" * 499 + "x").errors
    assert problem.debian == "command too long"


def test_a_field_that_is_missing_is_named() -> None:
    (problem,) = read("5 4 * *").errors
    assert (problem.column, problem.debian) == (8, "bad day-of-week")


def test_bytes_that_are_no_utf8_come_back_as_they_were() -> None:
    (entry,) = parse_crontab(b"A=\xe9\n5 * * * * echo \xe9\xff\n").entries
    assert os.fsencode(entry.command) == b"echo \xe9\xff"
    assert os.fsencode(entry.env["A"]) == b"\xe9"


def test_windows_line_ends_are_said_once_and_the_command_keeps_its_return() -> None:
    table = read("5 * * * * x\r", "6 * * * * y\r")
    assert [entry.command for entry in table.entries] == ["x\r", "y\r"]
    assert [problem.code for problem in table.problems] == ["crlf"]


def test_a_byte_order_mark_is_an_error_that_says_what_it_is() -> None:
    (problem,) = read("\ufeff5 * * * * x").errors
    assert "byte-order mark" in problem.text


def test_a_last_line_without_newline_runs_and_is_warned_of() -> None:
    table = parse_crontab(b"5 * * * * x")
    assert (len(table.entries), table.final_newline) == (1, False)
    assert [problem.debian for problem in table.problems] == ["missing newline before EOF"]
    for harmless in (b"5 * * * * x\n# end", b"5 * * * * x\n  ", b"", b"5 * * * * x\n"):
        assert parse_crontab(harmless).debian is None


def test_one_bad_line_does_not_silence_the_table_and_all_errors_are_shown() -> None:
    table = read("60 * * * * a", "5 * * * * b", "", "5 24 * * * c", "7 * * * * d", "* * 0 * * e")
    assert [entry.command for entry in table.entries] == ["b", "d"]
    assert [(error.line, error.column) for error in table.errors] == [(1, 1), (4, 3), (6, 5)]
    assert table.debian is table.errors[0]


def test_a_problem_shows_the_line_with_a_caret_under_the_place() -> None:
    (problem,) = read("5 5/15 * * * x").errors
    head, source, caret = str(problem).split("\n")
    assert head == "line 1, column 4: error: bad hour: a step needs a range"
    assert source[caret.index("^")] == "/"
    assert problem.mend == "write 5-23/15, or */n for every n"


def test_the_caret_stays_under_its_place_in_a_very_long_line() -> None:
    problem = Problem(1, 501, "x", True, "t", "m", "a" * 500 + "b" + "c" * 500)
    _, source, caret = str(problem).split("\n")
    assert source[caret.index("^")] == "b"
    assert len(source) < 120


def test_control_bytes_in_a_line_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in str(read("60 * * * * \x1b[2J").errors[0])


# ---- warnings


@pytest.mark.parametrize(
    ("line", "code", "column"),
    [
        ("0 22-4 * * * x", "empty", 3),
        ("0 0 31 2 * x", "never", 5),
        ("0 0 30,31 feb * x", "never", 5),
        ("0 0 13 * 5 x", "or", 5),
        ("0 0 13 * 0-6 x", "or", 5),
        ("0 0 */2 * 1 x", "and", 5),
        ("*/35 * * * * x", "uneven", 1),
        ("0 */5 * * * x", "uneven", 3),
        ("1-5/7 * * * * x", "step", 1),
        ("*/99 * * * * x", "step", 1),
        ("*5 * * * * x", "junk", 2),
        ("0 12 * * mon#1 x", "junk", 13),
        ("0 0 * * * date +%F", "percent", 17),
        ("0 0 * * * root x", "user-column", 11),
        ("0 0 1 1 * 0 x", "sixth", 11),
        ("MAILTO=a@b.de, c@d.de", "mailto", 1),
        ("MAILTO=-a", "mailto", 1),
        ("LOGNAME=x", "logname", 1),
        ("TZ=Europe/Paris", "tz", 1),
        ("PATH=$HOME/bin", "expansion", 1),
        ("A=x # c", "comment", 1),
        ("MAILTO=", "empty-value", 1),
        ("@every 10s x", "every", 1),
        ("A=" + "x" * 1000, "long-value", 1),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_cron_accepts_and_nobody_means_is_warned_of(line: str, code: str, column: int) -> None:
    table = read(line)
    assert not table.errors
    assert (1, column, code) in [(problem.line, problem.column, problem.code) for problem in table.warnings]


@pytest.mark.parametrize(("step", "last"), [(35, "from 35 on to 0 it is 25"), (7, "from 56 on to 0 it is 4")])
def test_an_uneven_step_says_how_long_its_last_stretch_is(step: int, last: str) -> None:
    (doubt,) = read(f"*/{step} * * * * x").warnings
    assert last in doubt.text


@pytest.mark.parametrize(
    "line",
    [
        "*/5 9-17 * * mon-fri x",
        "0 0 1 * * x",
        "0 0 29 2 * x",
        "0 0 * * 1-5 x",
        "0 */6 * * * x",
        "1-59/2 * * * * x",
        r"0 0 * * * date +\%F",
        "0 0 * * * mail a%hello",
        "MAILTO=a@b.de,c",
        'MAILTO=""',
        "PATH=/usr/bin:/bin",
        'A="x # c"',
        "@reboot x",
        "0 0 * * */2 x",
        "0 0 * * */1 x",
    ],
)
def test_what_is_usual_gets_no_warning(line: str) -> None:
    assert codes(line) == []


def test_a_table_of_more_than_ten_thousand_lines_is_one_that_debian_ignores() -> None:
    assert read(*["#"] * 10_000).debian is None
    table = read(*["#"] * 10_001)
    assert table.debian is not None
    assert table.debian.debian == "crontab is too long"


# ---- the user column


def test_in_a_system_table_the_user_stands_before_the_command() -> None:
    entry = only("17 *\t* * *\troot    cd / && run", system=True)
    assert (entry.user, entry.command) == ("root", "   cd / && run")  # cron keeps all blanks but the first
    assert only("@daily www-data x", system=True).user == "www-data"


@pytest.mark.parametrize("line", ["* * * * * root", "* * * * * /bin/x y", "* * * * *", "@daily", "* * * * * * root x"])
def test_a_missing_user_column_or_command_is_an_error_in_a_system_table(line: str) -> None:
    (problem,) = read(line, system=True).errors
    assert problem.code == "user"
    assert problem.debian == "bad username"


def test_a_user_without_a_command_is_taken_if_a_blank_follows() -> None:
    assert only("* * * * * root ", system=True).command == ""


def test_a_users_own_table_is_that_users() -> None:
    assert only("5 * * * * x", user="ann").user == "ann"


# ---- variables (section 4)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("A=b c  ", "A", "b c"),
        ('A="a b "', "A", "a b"),
        ('A=""', "A", ""),
        ("A=''", "A", ""),
        ("A=x # c", "A", "x # c"),
        ('"A B"=x', "A B", "x"),
        ("'A'='b'", "A", "b"),
        ("1A=x", "1A", "x"),
        ("=x", "", "x"),
        ("A==x", "A", "=x"),
        ("A = x", "A", "x"),
        ("A=$HOME/bin", "A", "$HOME/bin"),
        ("A='\"x\"'", "A", "x"),
        ("A=x\r", "A", "x"),
        ("@daily = x", "@daily", "x"),
    ],
)
def test_a_variable_line_is_read_as_cron_reads_it(line: str, name: str, value: str) -> None:
    found = variable(line)
    assert found is not None
    assert found[:2] == (name, value)
    assert only(line, "5 * * * * x").env == {name: value}


@pytest.mark.parametrize("line", ['A="x" y', 'A="x', "A='x' # c", "export A=x", "A $=x", "A b=c", "'A=b'=c", "A", "'A"])
def test_what_is_no_variable_line_is_an_error(line: str) -> None:
    assert variable(line) is None
    (problem,) = read(line).errors
    assert problem.debian == "bad minute"


def test_export_and_open_quotes_are_told_how_to_be_mended() -> None:
    assert read("export A=x").errors[0].mend == "a variable is set by NAME=value alone"
    assert "quote" in read('A="x" y').errors[0].mend


@pytest.mark.parametrize("line", ["MAILTO=", "MAILTO= \t", "MAILTO=\r"])
def test_an_empty_value_is_taken_and_debian_would_refuse_it(line: str) -> None:
    table = read(line, "5 * * * * x")
    assert table.entries[0].env == {"MAILTO": ""}
    assert not table.errors
    assert table.debian is not None
    assert table.debian.line == 1


def test_only_entries_below_see_a_variable_and_the_last_value_counts() -> None:
    table = read("A=1", "1 * * * * x", "B=2", "A=3", "2 * * * * y")
    assert [entry.env for entry in table.entries] == [{"A": "1"}, {"A": "3", "B": "2"}]
    assert list(table.entries[1].env) == ["A", "B"]


def test_a_value_longer_than_debian_keeps_is_kept_whole() -> None:
    assert only("A=" + "x" * 3000, "5 * * * * x").env == {"A": "x" * 3000}


def test_a_zone_holds_for_the_entries_below_it() -> None:
    table = read("1 * * * * x", "CRON_TZ=Europe/Berlin", "2 * * * * x", 'CRON_TZ=""', "3 * * * * x")
    assert [entry.zone for entry in table.entries] == ["", "Europe/Berlin", ""]
    assert [problem.code for problem in table.problems] == ["zone"]


@pytest.mark.parametrize("zone", ["Mars/Base", "../../etc/passwd", "/etc/localtime", "America", "\udcff"])
def test_an_unknown_zone_is_an_error_said_once_and_its_entries_do_not_run(zone: str) -> None:
    lines = ["1 * * * * a", f"CRON_TZ={zone}", "2 * * * * b", f"CRON_TZ={zone}", "3 * * * * c"]
    table = read(*lines, "CRON_TZ=UTC", "4 * * * * d")
    assert [entry.command for entry in table.entries] == ["a", "d"]
    assert [error.line for error in table.errors] == [2]


# ---- options and identity


def test_options_in_a_comment_hold_for_the_next_entry_alone() -> None:
    first, second = read(
        "# cronq: name=backup overlap=skip catchup=last/6h timeout=1h",
        "#cronq: retries=3 jitter=5m mutex=disk notify=change",
        "# another comment",
        "0 3 * * * x",
        "0 4 * * * y",
    ).entries
    options = first.options
    assert first.identity == options.name == "backup"
    assert (options.overlap, options.catchup, options.catchup_within) == ("skip", "last", 6 * 3600)
    assert (options.timeout, options.retries, options.jitter) == (3600, 3, 300)
    assert (options.mutex, options.notify) == ("disk", "change")
    assert (second.options.name, second.options.overlap, second.options.catchup) == ("", "allow", "none")


def test_all_missed_runs_can_be_asked_for_with_a_deadline_and_a_number() -> None:
    options = only("# cronq: catchup=all/2d/10", "0 3 * * * x").options
    assert (options.catchup, options.catchup_within, options.catchup_most) == ("all", 2 * 86400, 10)


@pytest.mark.parametrize(
    "word",
    ["overlap=skipp", "overlap", "overlap=", "colour=red", "catchup=none/1h", "catchup=all/x", "catchup=all/1h/0",
     "timeout=soon", "retries=-1", "retries=²", "name=a/b", "name=" + "x" * 65, "notify=mail"],
)  # fmt: skip
def test_a_bad_option_is_an_error_at_its_word_and_the_entry_runs_without_it(word: str) -> None:
    table = read(f"# cronq: name=good {word}", "0 3 * * * x")
    assert [(error.line, error.column, error.code) for error in table.errors] == [(1, 20, "option")]
    assert table.entries[0].options.name == "good"
    assert table.entries[0].options.overlap == "allow"
    assert table.debian is None


def test_options_without_an_entry_below_are_warned_of() -> None:
    assert said("0 3 * * * x", "# cronq: name=a") == [(2, 1, "option")]


def test_identity_survives_moving_a_line_and_editing_another() -> None:
    before = read("1 * * * * a", "2 * * * * b").entries
    after = read("# new", "2  *\t* * * b", "3 * * * * c", "A=1", "1 * * * * a").entries
    assert {entry.identity for entry in before} < {entry.identity for entry in after}


def test_identity_is_of_user_schedule_zone_and_command() -> None:
    lines = [("1 * * * * a", "ann"), ("1 * * * * a", "bob"), ("2 * * * * a", "ann"), ("1 * * * * b", "ann")]
    identities = {only(line, user=user).identity for line, user in lines}
    identities.add(only("CRON_TZ=UTC", "1 * * * * a", user="ann").identity)
    assert len(identities) == 5


def test_two_equal_lines_are_two_entries() -> None:
    first, second = read("1 * * * * a", "1 * * * * a").entries
    assert second.identity == f"{first.identity}-2"


def test_a_name_taken_twice_is_an_error_and_both_entries_run() -> None:
    table = read("# cronq: name=a", "1 * * * * x", "# cronq: name=a", "2 * * * * y")
    assert [(error.line, error.code) for error in table.errors] == [(4, "name")]
    assert len({entry.identity for entry in table.entries}) == 2


def test_every_is_a_schedule_of_cronqs_own() -> None:
    entry = only("@every 1m30s  x y")
    assert (entry.schedule, entry.when, entry.command) == (Every(90), "@every 1m30s", "x y")


@pytest.mark.parametrize("line", ["@every", "@every x y", "@every 0s x", "@every 0.5s x", "@every 1.5s x"])
def test_every_without_a_period_in_seconds_is_refused(line: str) -> None:
    (problem,) = read(line).errors
    assert problem.debian == "bad time specifier"


# ---- percent (section 5)


@pytest.mark.parametrize(
    ("command", "shown", "fed"),
    [
        ("x", "x", ""),
        (r"cat > f%line1%line\%2%%last", "cat > f", "line1\nline%2\n\nlast\n"),
        (r"date +\%F", "date +%F", ""),
        ("x%", "x", ""),
        ("x%a%", "x", "a\n"),
        (r"a\\b\cd", r"a\b\cd", ""),
        (r"a\\%b", "a\\", "b\n"),
        (r"a%b\c\\d", "a", "b\\c\\\\d\n"),
        ("a%b\\", "a", "b\\\n"),
        ("a\\", "a\\", ""),
    ],
)
def test_percent_ends_the_command_and_begins_its_input(command: str, shown: str, fed: str) -> None:
    assert split_percent(command) == (shown, fed)


# ---- limits


RUBBISH = {
    "bytes": (b"#" * (4 << 20), "more than 4 MiB"),
    "lines": (b"\n" * 100_000, "100001 lines, and at most 50000 are read: split it"),
    "nul": (b"# \0\n", "line 2 has a NUL byte"),
    "binary": (bytes(byte for byte in random.Random(1).randbytes(100_000) if byte), "it is binary"),
}


@pytest.mark.parametrize("name", RUBBISH)
def test_a_table_that_is_too_big_or_is_rubbish_is_refused_with_a_sentence(name: str) -> None:
    data, sentence = RUBBISH[name]
    table = parse_crontab(b"5 * * * * x\n" + data)
    assert (table.entries, table.problems) == ((), ())
    assert sentence in table.refused


def test_a_table_as_long_as_may_be_with_a_few_odd_bytes_is_none_of_these() -> None:
    assert parse_crontab(b"5 * * * * x\n" + b"\n" * 49_999).refused == ""
    assert parse_crontab(b"5 * * * * x\x01\x02\x03\n").entries


def test_fifty_thousand_bad_lines_are_a_thousand_problems() -> None:
    table = parse_crontab(b"60\n" * 50_000)
    assert len(table.problems) == 1001
    assert "49001 more" in table.problems[-1].text  # one of them: Debian takes 10,000 lines


def test_a_list_of_a_thousand_characters_is_read_and_a_longer_one_is_not() -> None:
    assert only("0," * 500 + "5 * * * * x").schedule == parse("0,5 * * * *")
    (problem,) = read("0," * 501 + "5 * * * * x", "5 * * * * y").errors
    assert (problem.line, problem.column, problem.debian) == (1, 1, "")
    assert "the list has 1003 characters" in problem.text


@pytest.mark.parametrize("start", ["@", "# cronq: ", "CRON_TZ=", "MAILTO= ", "5 * * * *  ", "1 * * * "])
def test_what_is_said_of_a_word_of_a_megabyte_is_short(start: str) -> None:
    table = read(f"{start}{'a' * (1 << 20)}", system=True)
    assert table.problems
    assert all(len(str(problem)) < 2000 for problem in table.problems)


def test_of_a_comment_with_endless_options_a_hundred_are_looked_at() -> None:
    assert len(read("# cronq: " + "a " * 1_000_000).errors) == 100


def test_a_step_of_reading_is_short_however_long_the_lines_are() -> None:
    """While a table is read in steps, everybody else waits for one step at most."""
    lines = [b",".join([b"1"] * 490) + b" * * * * x\n"] * 200
    assert len(list(parsing(b"".join(lines)))) > len(lines)


def test_many_doubts_do_not_hide_an_error() -> None:
    table = parse_crontab(b"*5 * * * * x\n" * 2000 + b"60 * * * * x\n")
    assert [error.line for error in table.errors] == [2001]
    assert table.debian is table.errors[0]


def test_memory_stays_in_proportion_to_the_text() -> None:
    data = b"".join(b"V%d=x\n5 * * * * x\n" % number for number in range(5000))
    tracemalloc.start()
    table = parse_crontab(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table.entries[-1].env) == 5000
    assert peak < 120 * len(data)


@given(st.binary(max_size=60))
def test_no_bytes_make_the_reader_raise(data: bytes) -> None:
    for system in (False, True):
        table = parse_crontab(data + b"\n", system=system)
        assert all(str(problem) for problem in table.problems)
        assert all(problem.line > 0 and problem.column > 0 for problem in table.problems)


# ---- schedules of cronq.toml


def test_five_plain_fields_mean_in_the_configuration_what_they_mean_in_a_crontab() -> None:
    assert parse_extended("*/2 22-4 1-1 * mon", "x") == parse("*/2 22-4 1-1 * mon")
    assert parse_extended("@daily", "x") == parse("@daily")
    assert parse_extended("@every 10s", "x") == Every(10)


@pytest.mark.parametrize("text", ["*/10 * * * * *", "0 12 L * *", "0 12 * * 5#3", "0 12 15W * *", "H H * * *"])
def test_what_cron_cannot_say_is_an_extended_schedule(text: str) -> None:
    assert isinstance(parse_extended(text, "x"), Extended)


@pytest.mark.parametrize("text", ["", "* * * *", "60 * * * *", "* * * * * * *", "R * * * *", "L L L L L", "@x"])
def test_what_is_no_schedule_at_all_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(BadSchedule) as caught:
        parse_extended(text, "x")
    assert caught.value.why


def test_hashed_fields_differ_by_name_and_stay_the_same() -> None:
    import datetime

    start = datetime.datetime(2026, 1, 1)
    times = {name: Extended("H H * * *", name).after(start) for name in ("a", "b", "c")}
    assert len(set(times.values())) == 3
    assert times["a"] == Extended("H H * * *", "a").after(start)
