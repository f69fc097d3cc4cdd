"""Cron expressions: what may be typed, and which wall-clock minutes they mean."""

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise

from cronsim import CronSim, CronSimError
from cronsim.explain import Expression
from django.core.exceptions import ValidationError

from agents.models.fields import shown

SHORTCUTS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
LOWEST, HIGHEST = (0, 0, 1, 1, 0), (59, 23, 31, 12, 7)
DAY, MONTH, WEEKDAY = 2, 3, 4
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
WEEKDAYS = "sun mon tue wed thu fri sat".split()
EXAMPLES = (
    "0-59, a list like 0,30, a range like 10-20, a step like */15, or *",
    "0-23, a list like 8,20, a range like 9-17, a step like */6, or *",
    "1-31, L for the last day, LW for the last weekday, a list, a range, a step, or *",
    "1-12 or jan-dec, a list, a range, a step, or *",
    "0-7 or sun-sat (0 and 7 are Sunday), 5L for the last Friday, 5#2 for the second, a list, a range, or *",
)
LONGEST = 200
# Of a leap year and its neighbours; a day that is not in 50 years is none.
LONG_AGO = datetime(2000, 1, 1)


def parse_cron(text: str) -> str:
    """Five fields that a clock comes to some day; a shortcut as what it stands for, ? as *."""
    words = text.strip()
    if len(words) > LONGEST:
        raise ValidationError(
            f"A cron expression has at most {LONGEST} characters; this one has {len(words)}."
        )
    if words.startswith("@"):
        return shortcut(words)
    fields = words.split()
    if len(fields) != len(FIELDS):
        count = f"has {len(fields)} field{'' if len(fields) == 1 else 's'}" if fields else "is empty"
        raise ValidationError(
            f"The expression {count}; write five: {' '.join(FIELDS)}, like 30 2 * * mon-fri."
        )
    found = " ".join(field(place, item) for place, item in enumerate(fields))
    refuse_never(found)
    return found


def shortcut(word: str) -> str:
    """What one of the names stands for."""
    if word.lower() not in SHORTCUTS:
        raise ValidationError(f"{shown(word)} is not known. Choose from: {', '.join(SHORTCUTS)}.")
    return SHORTCUTS[word.lower()]


def field(place: int, text: str) -> str:
    """One field in capitals, every term of it judged."""
    if text == "?" and place in (DAY, WEEKDAY):
        return "*"
    for term in text.split(","):
        if not fits(place, term.lower()):
            allowed = f"Write {EXAMPLES[place]}."
            raise ValidationError(f"{FIELDS[place]}: {shown(term)} is not allowed. {allowed}")
    return text.upper()


def fits(place: int, term: str) -> bool:
    """Whether one term of a list means something in this field."""
    if place == DAY and term in ("l", "lw"):
        return True
    if place == WEEKDAY and re.fullmatch(r"[0-7]l", term):
        return True
    if place == WEEKDAY and "#" in term:
        day, _, nth = term.partition("#")
        return number(place, day) is not None and re.fullmatch(r"[1-5]", nth) is not None
    values, slash, step = term.partition("/")
    if slash and (not re.fullmatch(r"[0-9]{1,4}", step) or int(step) == 0):
        return False
    ends = [number(place, end) for end in values.split("-")]
    if values == "*":
        return True
    return None not in ends and len(ends) <= 2 and all((a or 0) <= (b or 0) for a, b in pairwise(ends))


def number(place: int, text: str) -> int | None:
    """A value of the field, also by its name; None if it is none."""
    if place == MONTH and text in MONTHS:
        return MONTHS.index(text) + 1
    if place == WEEKDAY and text in WEEKDAYS:
        return WEEKDAYS.index(text)
    if not re.fullmatch(r"[0-9]{1,3}", text):
        return None
    value = int(text)
    return value if LOWEST[place] <= value <= HIGHEST[place] else None


def refuse_never(expression: str) -> None:
    """An expression that no calendar comes to, like the 31st of February."""
    try:
        next(CronSim(expression, LONG_AGO))
    except (CronSimError, StopIteration):
        raise ValidationError("This never fires: no month that it names has such a day.") from None


def is_fixed(expression: str) -> bool:
    """Whether it means certain times of day, which a clock that is set back does not repeat."""
    minute, hour = expression.split()[:2]
    return not minute.startswith("*") and not hour.startswith("*")


def wall_minutes(expression: str, after: datetime) -> Iterator[datetime]:
    """The minutes on a wall clock, without a zone, that it means; the first one after this one."""
    yield from CronSim(expression, after)


def in_words(expression: str) -> str:
    """The expression in English."""
    return str(Expression(["0", *expression.split()]).explain())
