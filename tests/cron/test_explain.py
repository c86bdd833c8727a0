"""Explaining an expression: the sentences, and that they never contradict what runs."""

from __future__ import annotations

import pytest

from cronq.explain import explain
from cronq.fields import BadSchedule
from cronq.schedule import Schedule, parse

SENTENCES = {
    "*/5 9-17 * * mon-fri": "every 5 minutes from 09:00 to 17:55, Monday to Friday",
    "* * * * *": "every minute",
    "0 * * * *": "every hour, on the hour",
    "17 * * * *": "every hour, at minute 17",
    "30 2 * * *": "at 02:30, every day",
    "25 6 * * 7": "at 06:25, on Sundays",
    "47 6 1 * *": "at 06:47, on the 1st of the month",
    "0 22 * * 1-5": "at 22:00, Monday to Friday",
    "0 4 * * 6,0": "at 04:00, on Saturdays and Sundays",
    "*/35 * * * *": "every hour, at minutes 0 and 35",
    "*/15 */2 * * *": "every 15 minutes of every 2nd hour from 00:00 on",
    "0 */6 * * *": "at 00:00, 06:00, 12:00 and 18:00, every day",
    "23 */2 * * *": "every 2 hours, at minute 23",
    "0 9-17 * * *": "every hour from 09:00 to 17:00",
    "5 9-17 * * *": "at minute 5 of every hour from 09 to 17",
    "1-10 3 * * 1,3": "at minutes 1-10 past 03:00, on Mondays and Wednesdays",
    "10,20 0,2,5,9 * * *": "at minutes 10 and 20 of the hours 00, 02, 05 and 09",
    "* 9-17,20 * * *": "every minute during 09:00-17:59 and 20:00-20:59",
    "0 9 1-7 jan-mar,12 *": "at 09:00, on the 1st to 7th of the month, in January to March and December",
    "0 0 13 * 5": "at 00:00, on the 13th of the month and also on Fridays (a day that suits either is enough)",
    "0 12 */2 * 1": "at 12:00, on odd days of the month, but only if that is Monday",
    "0 0 13,* * 5": "at 00:00, every day",
    "0 0 *,13 * 5": "at 00:00, on Fridays",
    "0 3 31-1 * 1": "at 03:00, on Mondays",
    "0 0 31 2 *": "never: there is no 31st of February",
    "0 0 30,31 2 *": "never: there is no 30th or 31st of February",
    "0 0 31 4,6 *": "never: there is no 31st of April and June",
    "0 22-4 * * *": "never: no hour matches",
    "0 0 * * sat-sun": "never: no day-of-week matches",
    "@daily": "at 00:00, every day",
    "@reboot": "once after each start of the machine",
    "@every 90s": "every 90 seconds",
    "@every 2h": "every 2 hours",
    "@every 1d": "every day",
    "*/10 * * * * *": "every 10 seconds",
    "0 0 12 L * *": "an extended schedule: second 0, minute 0, hour 12, day of the month L (L is the last)",
}


@pytest.mark.parametrize("text", SENTENCES)
def test_an_expression_is_said_in_english(text: str) -> None:
    assert explain(text) == SENTENCES[text]


@pytest.mark.parametrize("text", ["60 * * * *", "* * * *", "@never", ""])
def test_what_cron_refuses_is_not_explained(text: str) -> None:
    with pytest.raises(BadSchedule):
        explain(text)


FIELDS = ["*", "*/2", "*/7", "1", "2,4", "3-5", "5-3", "1-3,5"]
TEXTS = [f"{minute} {hour} * * *" for minute in FIELDS for hour in FIELDS]
TEXTS += [f"5 4 {dom} {month} {dow}" for dom in FIELDS for month in FIELDS[:6] for dow in FIELDS]


def test_schedules_that_run_at_other_times_have_other_sentences() -> None:
    seen: dict[str, tuple[object, ...]] = {}
    for text in TEXTS:
        sentence, schedule = explain(text), parse(text)
        assert sentence.startswith("never: ") == schedule.never()
        if not schedule.never():
            assert seen.setdefault(sentence, meaning(schedule)) == meaning(schedule), sentence
    assert len(seen) > len(TEXTS) // 2


def meaning(schedule: Schedule) -> tuple[object, ...]:
    """What runs, whatever the words were."""
    days = [(m, d, w) for m in range(1, 13) for d in (1, 2, 3, 4, 5, 6, 8, 9, 31) for w in range(7)]
    return schedule.minute, schedule.hour, tuple(day for day in days if schedule.on_day(day[1], day[0], day[2]))
