"""Windows in which a schedule starts nothing, by what clocks show in its zone."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime

from django.core.exceptions import ValidationError

from agents.models.fields import shown

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EVERY_DAY = frozenset(range(7))
WHOLE_DAY = 24 * 60
LONGEST = 100
HOURS = re.compile(r"(?:([a-z,-]+) +)?([0-9]{1,2}):([0-9]{2}) ?- ?([0-9]{1,2}):([0-9]{2})")
DATES = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?: +to +([0-9]{4}-[0-9]{2}-[0-9]{2}))?")
EXAMPLES = "Write it like 22:00-06:00, mon-fri 08:00-18:00, sat,sun 00:00-24:00 or 2026-12-24 to 2026-12-26."


@dataclass(frozen=True)
class Blackout:
    """Hours of weekdays, in minutes after midnight and without the last one; or whole dates."""

    begins: int = 0
    ends: int = WHOLE_DAY
    days: frozenset[int] = EVERY_DAY
    first: date | None = None
    last: date | None = None

    def __str__(self) -> str:
        if self.first and self.last:
            return f"{self.first}" if self.first == self.last else f"{self.first} to {self.last}"
        days = "" if self.days == EVERY_DAY else f"{','.join(spans(self.days))} "
        return f"{days}{time(self.begins)}-{time(self.ends)}"

    def covers(self, shown_by_clocks: datetime) -> bool:
        """Whether that lies in it; what goes past midnight belongs to the day on which it begins."""
        if self.first and self.last:
            return self.first <= shown_by_clocks.date() <= self.last
        minute, day = shown_by_clocks.hour * 60 + shown_by_clocks.minute, shown_by_clocks.weekday()
        if self.begins < self.ends:
            return day in self.days and self.begins <= minute < self.ends
        return (day in self.days and minute >= self.begins) or (
            (day - 1) % 7 in self.days and minute < self.ends
        )


def parse_blackout(text: str) -> Blackout:
    """A window, or an error that shows how to write one."""
    plain = text.strip().lower()
    if len(plain) <= LONGEST:
        if match := DATES.fullmatch(plain):
            return dates(plain, match[1], match[2] or match[1])
        if match := HOURS.fullmatch(plain):
            return hours(plain, match)
    raise ValidationError(f"{shown(text.strip())} is not a blackout window. {EXAMPLES}")


def dates(text: str, first: str, last: str) -> Blackout:
    """From one day to another, both included."""
    try:
        window = Blackout(first=date.fromisoformat(first), last=date.fromisoformat(last))
    except ValueError as error:
        raise ValidationError(f"{shown(text)} has a date that does not exist. {EXAMPLES}") from error
    if first > last:
        raise ValidationError(f"{shown(text)} ends before it begins. Write the earlier date first.")
    return window


def hours(text: str, match: re.Match[str]) -> Blackout:
    """From one time of the day to another, over midnight where that is earlier."""
    hour, minute, last_hour, last_minute = map(int, match.groups()[1:])
    begins, ends = hour * 60 + minute, last_hour * 60 + last_minute
    if max(minute, last_minute) > 59 or begins >= WHOLE_DAY or ends > WHOLE_DAY:
        raise ValidationError(
            f"{shown(text)} has a time that no clock shows. Write 00:00 to 23:59, or 24:00 at its end."
        )
    if begins == ends:
        raise ValidationError(f"{shown(text)} ends when it begins. Write 00:00-24:00 for whole days.")
    return Blackout(begins, ends, weekdays(text, match[1]) if match[1] else EVERY_DAY)


def weekdays(text: str, names: str) -> frozenset[int]:
    """The days of a list of names and ranges; a range may go past Sunday."""
    found: set[int] = set()
    for name in names.split(","):
        first, dash, last = name.partition("-")
        if first not in WEEKDAYS or (dash and last not in WEEKDAYS):
            raise ValidationError(
                f"{shown(name)} in {shown(text)} is no weekday. Write {', '.join(WEEKDAYS)}."
            )
        begin, end = WEEKDAYS.index(first), WEEKDAYS.index(last if dash else first)
        found.update((begin + day) % 7 for day in range((end - begin) % 7 + 1))
    return frozenset(found)


def spans(days: frozenset[int]) -> Iterator[str]:
    """Names of weekdays, three and more that follow each other as a range."""
    left = sorted(days)
    while left:
        length = next((n for n in range(1, len(left)) if left[n] != left[0] + n), len(left))
        names = [WEEKDAYS[day] for day in left[:length]]
        yield from [f"{names[0]}-{names[-1]}"] if length > 2 else names
        left = left[length:]


def time(minute: int) -> str:
    """As clocks show it, 24:00 at the end of a day."""
    return f"{minute // 60:02}:{minute % 60:02}"
