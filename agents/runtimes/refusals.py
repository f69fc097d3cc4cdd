"""What the provider of a model says when it refuses to work on, and when it will again.

Spellings of Claude Code, old and new; the newer ones begin with "API Error: Request rejected (429) ·".
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

# How much of a text is looked at: what a run says of its failure begins with it.
BEGINNING = 400
# A reset that lies further ahead, or that is longer over, was misread.
FARTHEST, JUST_OVER = timedelta(days=8), timedelta(minutes=10)
SOON = timedelta(minutes=1)

API_ERROR = r"(?:exit code \d+\. )?(?:api error: )?(?:request rejected \(429\) ?[·∙•|:-]? ?)?"
USAGE = re.compile(
    API_ERROR + r"(?:claude (?:\w+ )?usage limit reached"
    r"|you['\u2019]ve (?:hit|reached) your (?:[\w-]+ ){0,3}limit"
    r"|(?:\d+-hour|session|daily|weekly|monthly|opus|sonnet|usage)(?: usage)? limit reached"
    r"|you['\u2019]re out of extra usage)",
    re.IGNORECASE,
)
RATE = re.compile(
    r"(?:exit code \d+\. )?api error\b.{0,40}(?:\b429\b|rate_limit_error|rate limit)",
    re.IGNORECASE | re.DOTALL,
)
OVERLOAD = re.compile(
    r"(?:exit code \d+\. )?(?:api error\b.{0,40}(?:\b5(?:00|02|03|04|29)\b|overloaded)"
    r"|(?:repeated )?(?:529 )?overloaded)",
    re.IGNORECASE | re.DOTALL,
)
AFTER = re.compile(r"(?:retry[- ]after:?|try again in|resets in) (\d{1,6}) ?(s|m|h|d)?", re.IGNORECASE)
EPOCH = re.compile(r"limit reached\|(\d{10})(\d{3})?\b", re.IGNORECASE)
RESET = re.compile(
    r"reset(?:s|ting)?(?: (?:at|on))?:? "
    r"(?:(?P<weekday>mon|tue|wed|thu|fri|sat|sun)[a-z]*,? )?"
    r"(?:(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
    r" (?P<day>\d{1,2})(?:, (?P<year>\d{4}))?,? )?"
    r"(?:at )?(?P<hour>\d{1,2})(?::(?P<minute>\d{2}))? ?(?P<half>am|pm)?"
    r"(?: ?\((?P<zone>[^)]{1,40})\))?",
    re.IGNORECASE,
)
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
WEEKDAYS = "mon tue wed thu fri sat sun".split()
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
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
    for kind, shape in (("rate", RATE), ("overload", OVERLOAD)):
        if shape.match(said):
            return Refusal("rate" if kind == "rate" else "overload", sensible(later(said, now), now))
    return None


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
    """After so many seconds, minutes, hours or days."""
    found = AFTER.search(said)
    return now + timedelta(seconds=int(found[1]) * UNITS[(found[2] or "s").lower()]) if found else None


def clock_time(said: str, now: datetime, zone: str) -> datetime | None:
    """The next time that a clock of the told zone shows what is told, on the told day."""
    found = RESET.search(said)
    if not found or not (found["half"] or found["minute"] or found["zone"]):
        return None
    here = zone_of(found["zone"], zone)
    hour = int(found["hour"])
    if found["half"]:
        hour = hour % 12 + (12 if found["half"].lower() == "pm" else 0)
    try:
        return on_day(found, now.astimezone(here), hour, int(found["minute"] or 0))
    except ValueError:
        return None


def on_day(found: re.Match[str], local: datetime, hour: int, minute: int) -> datetime:
    """On the told day, or the next on which it has not passed; ValueError where there is no such time."""
    at = local.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
    if found["month"]:
        at = at.replace(month=MONTHS.index(found["month"].lower()) + 1, day=int(found["day"]))
        at = at.replace(year=int(found["year"])) if found["year"] else at
        past = not found["year"] and at < local - timedelta(days=180)
        at = at.replace(year=at.year + 1) if past else at
    elif found["weekday"]:
        at += timedelta(days=(WEEKDAYS.index(found["weekday"].lower()) - local.weekday()) % 7)
        at += timedelta(days=7) if at < local - JUST_OVER else timedelta()
    elif at < local - JUST_OVER:
        at += timedelta(days=1)
    return at.astimezone(UTC)


def zone_of(told: str | None, usual: str) -> tzinfo:
    """The zone by its name or its letters; the usual one for what nobody knows."""
    offset = ABBREVIATED.get((told or "").strip().lower())
    if offset is not None:
        return timezone(timedelta(hours=offset))
    for name in (told, usual):
        try:
            return ZoneInfo((name or "").strip())
        except (ZoneInfoNotFoundError, ValueError, OSError):
            continue
    return UTC
