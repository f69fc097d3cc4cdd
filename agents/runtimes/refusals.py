"""What the provider of a model says when it refuses to work on, and when it will again.

Spellings of Claude Code, old and new; many begin with "API Error: Request rejected (429) ·".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from datetime import time as clock
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

# How much of a text is looked at: what a run says of its failure begins with it.
BEGINNING = 400
# A reset that lies further ahead, or that is longer over, was misread.
FARTHEST, JUST_OVER = timedelta(days=8), timedelta(minutes=10)
SOON = timedelta(minutes=1)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)

FAILED = r"(?:exit code \d+\. )?"
REJECTED = r"(?:api error: )?(?:request rejected \(429\) ?[·∙•|:-]? ?)?"
# After the phrase comes its end, a separator, or when it is reset: "your limit of two files" is prose.
ENDS = r"(?= ?(?:$|[·∙•|.,:;\u2013\u2014-])| (?:resets?|for|until) )"
USAGE = re.compile(
    FAILED + REJECTED + r"(?:claude (?:\w+ )?usage limit reached"
    r"|you['\u2019]ve (?:hit|reached) your (?:[\w'\u2019-]+ ){0,4}limit"
    r"|(?:\d+-hour|session|daily|(?:(?:opus|sonnet|fable) )?weekly|monthly|opus|sonnet|fable|usage|spend)"
    r"(?: usage)? limit reached"
    r"|you['\u2019]re out of (?:extra usage|usage credits)"
    r"|your org is out of usage)" + ENDS,
    re.IGNORECASE,
)
# The first status in it is the answer's; other numbers may follow in what the answer says.
STATUS = re.compile(FAILED + r"(?:api error\b.{0,40}?\b([45]\d\d)\b|([45]\d\d) \{)", re.IGNORECASE)
RATE = re.compile(
    FAILED + r"api error\b.{0,40}(?:rate_limit_error|rate limit|temporarily limiting requests)", re.IGNORECASE
)
OVERLOAD = re.compile(
    FAILED + r"(?:api error\b.{0,40}overloaded|(?:repeated )?(?:529 )?overloaded(?:_error| errors)?(?! \w))",
    re.IGNORECASE,
)
TOO_MANY, TOO_MUCH = ("429",), ("500", "502", "503", "504", "529")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PART = r"\d{1,6} ?(?:s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)\b"
AFTER = re.compile(
    rf"(?:retry[- ]after:?|(?:try again|retry|resets) in) ({PART}(?:,? (?:and )?{PART}){{0,3}}|\d{{1,6}}\b)",
    re.IGNORECASE,
)
EPOCH = re.compile(r"limit reached\|(\d{10})(\d{3})?\b", re.IGNORECASE)
RESET = re.compile(
    r"reset(?:s|ting)?(?: (?:at|on))?:? "
    r"(?:(?P<tomorrow>tomorrow),? )?"
    r"(?:(?P<weekday>mon|tue|wed|thu|fri|sat|sun)[a-z]*,? )?"
    r"(?:(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
    r" (?P<day>\d{1,2})\b(?:, (?P<year>\d{4})\b)?,? ?)?"
    r"(?:(?:at )?(?P<hour>\d{1,2})(?::(?P<minute>\d{2}))? ?(?P<half>am|pm)?)?"
    r"(?: ?\((?P<zone>[^)]{1,40})\))?",
    re.IGNORECASE,
)
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
WEEKDAYS = "mon tue wed thu fri sat sun".split()
# In hours; where several zones use the same letters, the one in which they are used most with English.
ABBREVIATED = {
    "utc": 0, "gmt": 0, "est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6,
    "pst": -8, "pdt": -7, "bst": 1, "cet": 1, "cest": 2, "eet": 2, "eest": 3, "ist": 5.5, "jst": 9,
    "aest": 10, "aedt": 11, "nzst": 12, "nzdt": 13,
}  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """A usage limit, a rate limit or an overload, and until when, if that is told; in UTC."""

    kind: Literal["usage", "rate", "overload"]
    until: datetime | None


def read_refusal(text: str, now: datetime, zone: str = "UTC") -> Refusal | None:
    """The refusal that a failed run's result tells; None if it failed for another reason.

    A time without a zone is one of `zone`, which the agent's process had. Only the beginning counts,
    in the known spellings, so that prose about limits is none.
    """
    said = " ".join(text[:BEGINNING].split())
    if USAGE.match(said):
        return Refusal("usage", sensible(reset(said, now, zone), now))
    kind = busy(said)
    return Refusal(kind, sensible(later(said, now), now)) if kind else None


def busy(said: str) -> Literal["rate", "overload"] | None:
    """Too many requests, or too much for the provider: by the answer's status, else by its words."""
    status = STATUS.match(said)
    code = (status[1] or status[2]) if status else ""
    if code in TOO_MANY or (not code and RATE.match(said)):
        return "rate"
    return "overload" if code in TOO_MUCH or (not code and OVERLOAD.match(said)) else None


def sensible(until: datetime | None, now: datetime) -> datetime | None:
    """A moment that can be meant: one that is just over is now, one far away was misread."""
    if until is None or until > now + FARTHEST or until < now - JUST_OVER:
        return None
    return max(until, now + SOON) if until < now else until


def reset(said: str, now: datetime, zone: str) -> datetime | None:
    """When a usage limit is reset."""
    epoch = EPOCH.search(said)
    if epoch:
        return datetime.fromtimestamp(int(epoch[1]), UTC)
    return later(said, now) or clock_time(said, now, zone)


def later(said: str, now: datetime) -> datetime | None:
    """After so many seconds, minutes, hours or days, or several of these together."""
    found = AFTER.search(said)
    if not found:
        return None
    parts = re.findall(r"(\d+) ?([smhd]?)", found[1].lower())
    try:
        return now + timedelta(seconds=sum(int(number) * UNITS[unit or "s"] for number, unit in parts))
    except (OverflowError, ValueError):
        # Agents print what they like, times beyond all calendars too.
        return None


def clock_time(said: str, now: datetime, zone: str) -> datetime | None:
    """The first time, from just before now on, that a clock of the told zone shows what is told."""
    found = next((each for each in RESET.finditer(said) if told(each)), None)
    if not found:
        return None
    here = zone_of(found["zone"], zone)
    try:
        shown = shown_by(found)
        days = list(days_of(found, now.astimezone(here).date()))
        moments = [at for day in days for at in instants(datetime.combine(day, shown), here)]
    except (ValueError, OverflowError):
        return None
    return min((at for at in moments if at >= now - JUST_OVER), default=None)


def told(found: re.Match[str]) -> bool:
    """Whether a date or a time of day is told, and not only a number."""
    return bool(found["month"] or (found["hour"] and (found["half"] or found["minute"] or found["zone"])))


def shown_by(found: re.Match[str]) -> clock:
    """What the clock shows; the beginning of a day of which no time is told. Raises ValueError."""
    hour, half = int(found["hour"] or 0), (found["half"] or "").lower()
    if half and not 1 <= hour <= 12:
        raise ValueError("No clock shows that.")
    if half:
        hour = hour % 12 + (12 if half == "pm" else 0)
    return clock(hour, int(found["minute"] or 0))


def days_of(found: re.Match[str], today: date) -> Iterator[date]:
    """The days that can be meant; yesterday too, for a reset that was read after midnight."""
    if found["month"]:
        month, day = MONTHS.index(found["month"].lower()) + 1, int(found["day"])
        years = [int(found["year"])] if found["year"] else range(today.year - 1, today.year + 2)
        yield from (date(year, month, day) for year in years if (month, day) != (2, 29) or leap(year))
    elif found["tomorrow"]:
        yield today + DAY
    else:
        wanted = WEEKDAYS.index(found["weekday"].lower()) if found["weekday"] else None
        near = (today + DAY * number for number in range(-1, 8))
        yield from (day for day in near if wanted in (None, day.weekday()))


def leap(year: int) -> bool:
    """Whether it has a 29th of February."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def instants(wall: datetime, here: tzinfo) -> tuple[datetime, ...]:
    """When clocks show a time: twice while they are set back, and for one that they skip, right after."""
    while wall.replace(tzinfo=here).astimezone(UTC).astimezone(here).replace(tzinfo=None) != wall:
        wall += MINUTE
    return tuple(wall.replace(tzinfo=here, fold=fold).astimezone(UTC) for fold in (0, 1))


def zone_of(name: str | None, usual: str) -> tzinfo:
    """The zone by its name or its letters; the usual one for what nobody knows."""
    offset = ABBREVIATED.get((name or "").strip().lower())
    if offset is not None:
        return timezone(timedelta(hours=offset))
    for each in (name, usual):
        try:
            return ZoneInfo((each or "").strip())
        except (ZoneInfoNotFoundError, ValueError, OSError):
            continue
    return UTC
