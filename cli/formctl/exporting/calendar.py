"""Five fields of cron in systemd's words, and in launchd's. Pure. crontab(5), systemd.time(7)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_WEEKDAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
_FIELDS = (("Minute", 0, 59), ("Hour", 0, 23), ("Day", 1, 31), ("Month", 1, 12), ("Weekday", 0, 6))
# More times than this are no longer something that a person wants in one file.
TIMES_MAX = 500
_SUNDAY_TOO = 7


def events(cron: str, zone: str) -> tuple[str, ...]:
    """For OnCalendar=. Two when days of the month and of the week are given: cron means either."""
    minute, hour, day, month, weekday = cron.split()
    date = f"*-{_listed(month, 3)}-{{day}}"
    time = f"{_listed(hour, 1)}:{_listed(minute, 0)}:00 {zone}"
    days = date.format(day=_listed(day, 2))
    if weekday.startswith("*"):
        return (f"{days} {time}",)
    named = ",".join(_WEEKDAYS[number] for number in sorted(values(weekday, 4)))
    if day.startswith("*"):
        return (f"{named} {days} {time}",)
    return (f"{days} {time}", f"{named} {date.format(day='*')} {time}")


def _listed(field: str, place: int) -> str:
    if field == "*":
        return "*"
    return ",".join(f"{number:02d}" for number in sorted(values(field, place)))


def intervals(cron: str) -> tuple[dict[str, int], ...] | None:
    """For StartCalendarInterval: one for each combination; None when there are too many."""
    fields = cron.split()
    day, weekday = fields[2], fields[4]
    if not day.startswith("*") and not weekday.startswith("*"):
        either = [*fields[:2], day, fields[3], "*"], [*fields[:2], "*", fields[3], weekday]
        found = [one for part in either for one in _combinations(part)]
    else:
        found = list(_combinations(fields))
    return tuple(found) if len(found) <= TIMES_MAX else None


def _combinations(fields: list[str]) -> Iterator[dict[str, int]]:
    given = [
        (name, sorted(values(field, place)))
        for place, (field, (name, _, _)) in enumerate(zip(fields, _FIELDS, strict=True))
        if field != "*"
    ]
    names = [name for name, _ in given]
    for chosen in product(*(numbers for _, numbers in given)):
        yield dict(zip(names, chosen, strict=True))


def values(field: str, place: int) -> set[int]:
    """All numbers of one field that cron takes; it was checked before."""
    _, first, last = _FIELDS[place]
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        if span == "*":
            low, high = first, last
        elif "-" in span:
            low, high = (_number(word, place) for word in span.split("-"))
        else:
            low = _number(span, place)
            high = last if step else low
        found |= set(range(low, high + 1, int(step or 1)))
    return {0 if place == 4 and number == _SUNDAY_TOO else number for number in found}  # noqa: PLR2004


def _number(word: str, place: int) -> int:
    lower = word.lower()
    if place == 3 and lower in _MONTHS:  # noqa: PLR2004
        return _MONTHS.index(lower) + 1
    if place == 4 and lower in _DAYS:  # noqa: PLR2004
        return _DAYS.index(lower)
    return int(word)
