"""Explain: a cron expression in plain English, the day rule included.

Does:    text -> one sentence: `*/5 9-17 * * mon-fri` is "every 5 minutes from 09:00 to 17:55, Monday to Friday".
Reads:   nothing but its arguments.
Trusts:  nobody: the text is judged by `schedule` first, and the sentence is made from the sets that cron will use, not
         from the words, so it cannot say anything else than what runs.
Fails:   `BadSchedule`, as cron would refuse the expression.
"""

from __future__ import annotations

from cronq.fields import DOM, DOW, HOUR, MINUTE, MONTH, BadSchedule
from cronq.schedule import Every, Extended, Schedule, parse_extended
from cronq.upcoming import AnySchedule

_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MOST_TIMES = 6  # so many times of day are listed one by one
_EVEN_SECONDS = {f"*/{step}" for step in range(1, 60) if 60 % step == 0}
_UNITS = ((604800, "week"), (86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def explain(text: str) -> str:
    """What the expression means, in one sentence without a full stop. Raises `BadSchedule`."""
    return sentence(parse_extended(text.strip(), "explain"))


def sentence(schedule: AnySchedule) -> str:
    """What the schedule means, in one sentence without a full stop."""
    if isinstance(schedule, Every):
        return _period(schedule.seconds)
    if isinstance(schedule, Extended):
        return _extended(schedule)
    if schedule.reboot:
        return "once after each start of the machine"
    if schedule.never():
        return f"never: {_why_never(schedule)}"
    return ", ".join(part for part in (_time(schedule), _days(schedule), _months(schedule.month)) if part)


def _why_never(schedule: Schedule) -> str:
    for field, bits in ((MINUTE, schedule.minute), (HOUR, schedule.hour), (MONTH, schedule.month)):
        if not bits:
            return f"no {field.name} matches"
    if not schedule.dom or not schedule.dow:
        return f"no {(DOM if not schedule.dom else DOW).name} matches"
    return f"there is no {_listed(_ordinals(schedule.dom), 'or')} {_in_months(schedule.month)}".replace(" in ", " of ")


def _time(schedule: Schedule) -> str:
    minutes, hours = _values(schedule.minute), _values(schedule.hour)
    if len(minutes) == 60:
        return "every minute" + _hours(hours, 59)
    if step := _step(minutes, 60):
        return f"every {step} minutes" + _hours(hours, minutes[-1])
    past = _past(minutes)
    if (step := _step(hours, 24)) and len(hours) > _MOST_TIMES and step > 1:
        return f"every {step} hours, {past}"
    if len(hours) * len(minutes) <= (_MOST_TIMES if len(minutes) > 1 or _runs_on(hours) else 2 * _MOST_TIMES):
        return "at " + _listed([f"{hour:02}:{minute:02}" for hour in hours for minute in minutes])
    if len(hours) == 24:
        return f"every hour, {past}"
    if len(hours) == 1:
        return f"{past} past {hours[0]:02}:00"
    if _runs_on(hours) and minutes == [0]:
        return f"every hour from {hours[0]:02}:00 to {hours[-1]:02}:00"
    if _runs_on(hours):
        return f"{past} of every hour from {hours[0]:02} to {hours[-1]:02}"
    return f"{past} of the hours {_ranges([f'{hour:02}' for hour in hours], hours)}"


def _past(minutes: list[int]) -> str:
    if minutes == [0]:
        return "on the hour"
    listed = _ranges([str(minute) for minute in minutes], minutes)
    return f"at minute{'s' * (len(minutes) > 1)} {listed}"


def _hours(hours: list[int], last_minute: int) -> str:
    """Behind "every … minutes": in which hours."""
    if len(hours) == 24:
        return ""
    if _runs_on(hours):
        return f" from {hours[0]:02}:00 to {hours[-1]:02}:{last_minute:02}"
    if (step := _step(hours, 24)) and step > 1:
        return f" of every {_ordinal(step)} hour from {hours[0]:02}:00 on"
    spans = [f"{first:02}:00-{last:02}:{last_minute:02}" for first, last in _spans(hours)]
    return " during " + _listed(spans)


def _days(schedule: Schedule) -> str:
    days, weekdays = _values(schedule.dom), _values(schedule.dow & 0x7F)
    all_days, all_weekdays = len(days) == 31, len(weekdays) == 7
    if schedule.either:
        if all_days or all_weekdays:
            return "every day"
        parts = [part for part in (days and _of_month(schedule.dom), weekdays and _on_weekdays(weekdays)) if part]
        return " and also ".join(parts) + " (a day that suits either is enough)" * (len(parts) == 2)
    if all_days and all_weekdays:
        return "every day" if len(_values(schedule.hour)) * len(_values(schedule.minute)) <= _MOST_TIMES else ""
    if all_days:
        return _on_weekdays(weekdays)
    if all_weekdays:
        return _of_month(schedule.dom)
    return f"{_of_month(schedule.dom)}, but only if that is {_listed([_DAYS[day] for day in weekdays], 'or')}"


def _of_month(dom: int) -> str:
    days = _values(dom)
    if days == list(range(1, 32, 2)):
        return "on odd days of the month"
    if days == list(range(2, 32, 2)):
        return "on even days of the month"
    return f"on the {_listed(_ordinals(dom))} of the month"


def _on_weekdays(weekdays: list[int]) -> str:
    from_monday = sorted(weekdays, key=lambda day: day or 7)
    as_numbers = [day or 7 for day in from_monday]
    if len(as_numbers) > 2 and _runs_on(as_numbers):
        return f"{_DAYS[as_numbers[0]]} to {_DAYS[as_numbers[-1]]}"
    if as_numbers == [6, 7]:
        return "on Saturdays and Sundays"
    return "on " + _ranges([_DAYS[day] + "s" for day in from_monday], as_numbers, "{} to {}")


def _months(month: int) -> str:
    return "" if month == MONTH.all else _in_months(month)


def _in_months(month: int) -> str:
    months = _values(month)
    return "in " + _ranges([_MONTHS[number - 1] for number in months], months, "{} to {}")


def _extended(schedule: Extended) -> str:
    """Seconds are said, the rest word by word: its meaning is croniter's, and `cronq next` shows it."""
    words = schedule.text.split()
    names = ("second", "minute", "hour", "day of the month", "month", "day of the week")[-len(words) :]
    said = [f"{name} {word}" for name, word in zip(names, words, strict=True) if word not in ("*", "?")]
    if len(words) == 6 and words[1:] == ["*"] * 5 and words[0] in _EVEN_SECONDS:
        return _period(int(words[0][2:]))
    five = " ".join("*" if word == "?" else word for word in words[1:])
    if len(words) == 6 and words[0] in ("0", "00") and isinstance(plain := _plain(five), Schedule):
        return sentence(plain)
    return "an extended schedule: " + (", ".join(said) or "every second") + _terms(schedule.text)


def _plain(text: str) -> AnySchedule | None:
    try:
        return parse_extended(text, "explain")
    except BadSchedule:
        return None


def _terms(text: str) -> str:
    terms = {
        "L": "L is the last",
        "#": "a#n the nth such weekday of the month",
        "W": "W the nearest working day",
        "H": "H a fixed value hashed from the name",
    }
    used = [meaning for mark, meaning in terms.items() if mark in text]
    return f" ({'; '.join(used)})" * bool(used)


def _period(seconds: int) -> str:
    size, unit = next((size, unit) for size, unit in _UNITS if not seconds % size)
    count = seconds // size
    return f"every {unit}" if count == 1 else f"every {count} {unit}s"


def _values(bits: int) -> list[int]:
    return [value for value in range(bits.bit_length()) if bits >> value & 1]


def _runs_on(values: list[int]) -> bool:
    return values == list(range(values[0], values[-1] + 1))


def _step(values: list[int], size: int) -> int:
    """The step of `values` if they go evenly round the clock from 0, else 0."""
    if len(values) < 2 or values[0] or size % values[1]:
        return 0
    return values[1] if values == list(range(0, size, values[1])) else 0


def _spans(values: list[int]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for value in values:
        if spans and spans[-1][1] == value - 1:
            spans[-1] = spans[-1][0], value
        else:
            spans.append((value, value))
    return spans


def _ranges(texts: list[str], values: list[int], form: str = "{}-{}") -> str:
    """The texts of the values, three or more in a row as a range."""
    said, at = [], 0
    for first, last in _spans(values):
        count = last - first + 1
        here = texts[at : at + count]
        said += [form.format(here[0], here[-1])] if count > 2 else here
        at += count
    return _listed(said)


def _ordinals(bits: int) -> list[str]:
    said = []
    for first, last in _spans(_values(bits)):
        if last - first > 1:
            said.append(f"{_ordinal(first)} to {_ordinal(last)}")
        else:
            said += [_ordinal(value) for value in range(first, last + 1)]
    return said


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _listed(words: list[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
