"""Cron expressions: how they may be written, and what clocks show when they match.

cronsim reads the fields and decides which days match; clocks that are changed are no matter of this module.
"""

import re
from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cronsim import CronSim, CronSimError
from cronsim.cronsim import FIELD_NAMES, Field
from django.core.exceptions import ValidationError

from agents.models.clocks import DAY
from agents.models.fields import shown

LONGEST = 200
FIELDS = (Field.MINUTE, Field.HOUR, Field.DAY, Field.MONTH, Field.DOW)
FIVE = "minute hour day-of-month month day-of-week"
SHORTCUTS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
ALLOWED = {
    Field.MINUTE: "0-59, a list like 0,30, a range like 1-5, a step like */15, or *",
    Field.HOUR: "0-23, a list like 9,17, a range like 9-17, a step like */2, or *",
    Field.DAY: "1-31, a list like 1,15, a range like 1-7, a step like */2, L for the month's last day, LW"
    " for its last day from Monday to Friday, or *",
    Field.MONTH: "1-12 or jan-dec, a list like jan,jul, a range like apr-sep, a step like */3, or *",
    Field.DOW: "0-7 or sun-sat (0 and 7 are Sunday), a list like sat,sun, a range like mon-fri, a step like"
    " */2, 5L for the month's last Friday, 5#2 for its second, or *",
}
# All kinds of years come round in 28 of them.
KINDS_OF_YEARS = datetime(2000, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC)


class Expression:
    """Five fields in their normal spelling, as cronsim reads them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.read = CronSim(text, KINDS_OF_YEARS[0])
        minutes, hours = sorted(self.read.minutes), sorted(self.read.hours)
        self.times = [timedelta(hours=hour, minutes=minute) for hour in hours for minute in minutes]
        # Debian's cron follows the clock with these; all others it runs once for each time of the day.
        self.starred = any(field.startswith("*") for field in text.split()[:2])

    def readings(self, begins: datetime, ends: datetime, backwards: bool = False) -> Iterator[datetime]:
        """What a clock shows when it matches, from the one to before the other."""
        for day in self.days(begins, ends, backwards):
            times = self.times[bisect_left(self.times, begins - day) : bisect_left(self.times, ends - day)]
            for time in reversed(times) if backwards else times:
                yield day + time

    def days(self, begins: datetime, ends: datetime, backwards: bool = False) -> Iterator[datetime]:
        """The days that match, by their midnights."""
        months = range(begins.year * 12 + begins.month - 1, ends.year * 12 + ends.month)
        for month in reversed(months) if backwards else months:
            days = days_of(self.text, *divmod(month, 12))
            for day in reversed(days) if backwards else days:
                if begins - DAY < day < ends:
                    yield day

    def steady(self, shift: timedelta) -> bool:
        """Whether it matches at the same times when all clocks are moved by that."""
        times = set(self.times)
        return all((time + shift) % DAY in times for time in times)


@lru_cache(maxsize=256)
def expression(text: str) -> Expression:
    """Read once for all its moments."""
    return Expression(text)


@lru_cache(maxsize=2048)
def days_of(text: str, year: int, month: int) -> tuple[datetime, ...]:
    """The days of a month, counted from 0, that match."""
    read = expression(text).read
    if month + 1 not in read.months:
        return ()
    days = (datetime(year, month + 1, day + 1, tzinfo=UTC) for day in range(monthrange(year, month + 1)[1]))
    return tuple(day for day in days if read.match_day(day))


def parse_cron(text: str) -> str:
    """The five fields in their normal spelling; a shortcut is written out."""
    plain = text.strip(" \t")
    if len(plain) > LONGEST:
        raise ValidationError(f"An expression has at most {LONGEST} characters; this one has {len(plain)}.")
    if any(character < " " and character != "\t" for character in plain):
        raise ValidationError(f"{shown(plain)} is not allowed: an expression is one line, {FIVE}.")
    if plain.startswith("@"):
        return shortcut(plain)
    fields = re.split(r"[ \t]+", plain) if plain else []
    if len(fields) != len(FIELDS):
        raise ValidationError(wrong_number(plain, len(fields)))
    normal = " ".join(map(parse_field, FIELDS, fields))
    refuse_never(normal)
    return normal


def shortcut(text: str) -> str:
    """What a shortcut stands for."""
    if text.lower() not in SHORTCUTS:
        raise ValidationError(
            f"{shown(text)} is no shortcut here. Choose from {', '.join(SHORTCUTS)}, or write {FIVE}."
        )
    return SHORTCUTS[text.lower()]


def wrong_number(text: str, number: int) -> str:
    """That there are not five fields."""
    if not number:
        return f"Nothing is written. Write five fields: {FIVE}; or a shortcut like @daily."
    return f"{shown(text)} has {number} field{'s' if number > 1 else ''}; write five: {FIVE}."


def parse_field(field: Field, text: str) -> str:
    """One field in its normal spelling."""
    if text == "?" and field in (Field.DAY, Field.DOW):
        return "*"
    return ",".join(parse_term(field, term) for term in text.split(","))


def parse_term(field: Field, term: str) -> str:
    """One entry of a field's list: names small, L large, numbers without leading zeros."""
    if not readable(field, term):
        why = "runs backwards" if backwards(field, term) else "is not allowed"
        raise ValidationError(f"{FIELD_NAMES[field]}: {shown(term)} {why}. Write {ALLOWED[field]}.")
    plain = re.sub("[0-9]+", lambda number: str(int(number[0])), term.lower())
    values = plain.partition("/")[0]
    if "-" in values and len(field.parse(values.upper())) == 1:
        # With a step, cronsim would count on from a range of one.
        return values.partition("-")[0]
    return plain.upper() if re.fullmatch("[0-7]?lw?", plain) else plain


def readable(field: Field, term: str) -> bool:
    """Whether cronsim reads it as it is meant."""
    # It would take letters that are ASCII only as capitals, and drop a step after L.
    with suppress(CronSimError):
        return term.isascii() and not re.match("LW?/", term.upper()) and bool(field.parse(term.upper()))
    return False


def backwards(field: Field, term: str) -> bool:
    """Whether that is a range from a later to an earlier one."""
    first, _, last = term.upper().partition("/")[0].partition("-")
    with suppress(CronSimError):
        return term.isascii() and field.int(first) > field.int(last)
    return False


def refuse_never(text: str) -> None:
    """An expression that no day of any year matches."""
    with suppress(CronSimError):
        if any(True for _ in expression(text).days(*KINDS_OF_YEARS)):
            return
    raise ValidationError(f"{shown(text)} never fires: no year has a day that matches its last three fields.")
