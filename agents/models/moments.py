"""When a schedule is due: cron expressions and intervals on the clock of a zone, without any row."""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from zoneinfo import ZoneInfo, available_timezones

from django.core.exceptions import ValidationError

from agents.models.cron import in_words, is_fixed, parse_cron, wall_minutes
from agents.models.fields import SECONDS, shown, write_seconds

__all__ = ["Rule", "jitter", "parse_blackout", "parse_cron", "parse_interval", "parse_zone"]

MIN_INTERVAL, MAX_INTERVAL = 30, 366 * 86400
# No more of missed moments are counted one by one.
COUNTED = 100_000
# In which steps changes of the clocks are looked for: no zone has two in one.
STEP = timedelta(days=1)
# Beyond these no zone can be asked.
FIRST, LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(9990, 1, 1, tzinfo=UTC)
INTERVAL_HELP = f"Write it like 30s, 5m, 2h or 1d: at least {MIN_INTERVAL}s, at most 366d."
BLACKOUT_HELP = (
    "Write it like 22:00-06:00, mon-fri 08:00-18:00, sat,sun 00:00-24:00 or 2026-12-24 to 2026-12-26."
)
WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EVERY_MINUTE = "It fires every minute."


def parse_interval(text: str) -> int:
    """Seconds from a whole number and a unit, in any case and with a space or without."""
    match = re.fullmatch(r"([0-9]{1,9}) ?([smhd])", text.strip().lower(), re.ASCII)
    seconds = int(match[1]) * SECONDS[match[2]] if match else 0
    if not MIN_INTERVAL <= seconds <= MAX_INTERVAL:
        raise ValidationError(f"{shown(text)} is not an interval. {INTERVAL_HELP}")
    return seconds


@lru_cache(maxsize=1)
def zones() -> dict[str, str]:
    """The names of the zone database by their lower case."""
    return {name.lower(): name for name in sorted(available_timezones())}


def parse_zone(text: str) -> str:
    """A zone's name as the database spells it; a ValidationError names those that look like it."""
    known = zones()
    if text.strip().lower() in known:
        return known[text.strip().lower()]
    near = [known[name] for name in get_close_matches(text.strip().lower()[:64], known, n=3, cutoff=0.5)]
    hint = f"Did you mean {' or '.join(near)}?" if near else "Write it like Europe/Berlin or UTC."
    raise ValidationError(f"{shown(text)} is an unknown time zone. {hint}")


# Windows in which nothing is started.


@dataclass(frozen=True)
class Blackout:
    """Times of some weekdays, or whole days of the calendar, on the clock of the rule."""

    text: str
    days: frozenset[int] = frozenset(range(7))
    begins: int = 0
    ends: int = 24 * 60
    dates: tuple[date, date] | None = None

    def __str__(self) -> str:
        return self.text

    def covers(self, local: datetime) -> bool:
        """Whether a moment lies in it; one over midnight belongs to the day on which it begins."""
        if self.dates:
            return self.dates[0] <= local.date() <= self.dates[1]
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if self.begins < self.ends:
            return day in self.days and self.begins <= minute < self.ends
        return (day in self.days and minute >= self.begins) or (
            (day - 1) % 7 in self.days and minute < self.ends
        )


def parse_blackout(text: str) -> Blackout:
    """A window as people write it."""
    words = " ".join(text.lower().split())
    if re.match(r"\d{4}-", words, re.ASCII):
        return dated(words)
    match = re.fullmatch(r"(?:(\S+) )?(\d\d?):(\d\d) ?- ?(\d\d?):(\d\d)", words, re.ASCII)
    if not match:
        raise ValidationError(f"{shown(text)} is not a window. {BLACKOUT_HELP}")
    begins, ends = (clock(match[2], match[3], text), clock(match[4], match[5], text))
    if begins == ends or begins == 24 * 60:
        raise ValidationError(f"{shown(text)} is empty. Whole days are written 00:00-24:00.")
    return Blackout(words, weekdays(match[1] or "mon-sun", text), begins, ends)


def dated(words: str) -> Blackout:
    """From one day to another, both included."""
    first, _, last = words.partition(" to ")
    try:
        days = (date.fromisoformat(first), date.fromisoformat(last or first))
    except ValueError:
        raise ValidationError(f"{shown(words)} names no day. {BLACKOUT_HELP}") from None
    if days[1] < days[0]:
        raise ValidationError(f"{shown(words)} ends before it begins.")
    return Blackout(words, dates=days)


def clock(hour: str, minute: str, text: str) -> int:
    """Minutes since midnight, up to 24:00."""
    found = int(hour) * 60 + int(minute)
    if int(minute) > 59 or found > 24 * 60:
        raise ValidationError(f"{shown(text)} has no such time of day. {BLACKOUT_HELP}")
    return found


def weekdays(names: str, text: str) -> frozenset[int]:
    """Days of the week, 0 is Monday: a list of names and of ranges, which may go over the weekend."""
    found: set[int] = set()
    for part in names.split(","):
        first, _, last = part.partition("-")
        if first not in WEEK or (last or first) not in WEEK:
            raise ValidationError(f"{shown(text)} has no such day. {BLACKOUT_HELP}")
        a, b = WEEK.index(first), WEEK.index(last or first)
        found |= {day % 7 for day in range(a, b + 1 if b >= a else b + 8)}
    return frozenset(found)


# The rule.


@dataclass(frozen=True)
class Rule:
    """A normalised cron expression, or an interval in seconds that counts from its anchor.

    No moment lies before `begins` or after `ends`; an interval that has a beginning starts with it.
    """

    cron: str = ""
    interval: int = 0
    zone: str = "UTC"
    anchor: datetime = FIRST
    begins: datetime | None = None
    ends: datetime | None = None
    blackouts: tuple[Blackout, ...] = ()

    def after(self, moment: datetime) -> datetime | None:
        """The first due moment behind this one, in UTC; None when there is none any more."""
        return next(self.between(moment, LAST), None)

    def next(self, after: datetime, count: int) -> list[datetime]:
        """The next so many."""
        return list(islice(self.between(after, LAST), count))

    def between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """The moments behind the first one, up to the second one inclusive."""
        start = max(after, FIRST)
        if self.begins:
            start = max(start, self.begins - timedelta(seconds=1))
        until = min(until, self.ends or LAST, LAST)
        for moment in self._moments(start) if start < until else ():
            if moment > until:
                return
            yield moment

    def last(self, after: datetime, until: datetime, most: int) -> tuple[int, list[datetime]]:
        """How many there are in between, as far as they are counted, and the newest ones in order."""
        newest: deque[tuple[int, datetime]] = deque(maxlen=most)
        newest.extend(enumerate(islice(self.between(after, until), COUNTED), 1))
        return (newest[-1][0] if newest else 0), [moment for _, moment in newest]

    def blackout(self, moment: datetime) -> str:
        """The window that it lies in; empty if nothing keeps it from starting something."""
        local = wall_of(moment, ZoneInfo(self.zone))
        return next((str(window) for window in self.blackouts if window.covers(local)), "")

    def explain(self) -> str:
        """The rule in English."""
        if not self.cron:
            return f"Every {interval_words(self.interval)}"
        return in_words(self.cron) + (f" ({self.zone})" if self.zone != "UTC" else " (UTC)")

    def notes(self, since: datetime, days: int = 400) -> list[str]:
        """What is to be known of it: where clocks change, that it is very busy, or over."""
        found = [EVERY_MINUTE] if self._is_every_minute(since) else []
        if self.after(since) is None:
            found.append("It never fires again.")
        if self.cron and not found:
            found += clock_changes(self.cron, self.zone, since, since + timedelta(days=days))
        return found

    def _is_every_minute(self, since: datetime) -> bool:
        first = self.next(since, 3)
        return len(first) == 3 and first[2] - first[0] <= timedelta(minutes=2)

    def _moments(self, after: datetime) -> Iterator[datetime]:
        if not self.cron:
            return self._grid(after)
        zone = ZoneInfo(self.zone)
        return fixed(self.cron, zone, after) if is_fixed(self.cron) else running(self.cron, zone, after)

    def _grid(self, after: datetime) -> Iterator[datetime]:
        """Every so many seconds from the anchor."""
        step = timedelta(seconds=self.interval)
        passed = (after - self.anchor) // step + 1
        moment = self.anchor + max(passed, 0 if self.begins else 1) * step
        while moment <= LAST:
            yield moment
            moment += step


def fixed(expression: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Certain times of day: each once; what a change of the clocks leaves out comes at its end."""
    before = after
    for wall in wall_minutes(expression, wall_of(after, zone)):
        moment = first_of(wall, zone)
        # A time that comes twice was there before, and two that are left out come at the same moment.
        if moment > before:
            before = moment
            yield moment


def first_of(wall: datetime, zone: ZoneInfo) -> datetime:
    """When a wall clock shows this first; for a time that it leaves out, the moment of the change."""
    moment = wall.replace(tzinfo=zone).astimezone(UTC)
    if moment.astimezone(zone).replace(tzinfo=None) == wall:
        return moment
    # In such a gap the two readings lie on both sides of the change.
    return change_between(wall.replace(tzinfo=zone, fold=1).astimezone(UTC), moment, zone)


def running(expression: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """Every wall-clock minute that it means, as often as the clock shows it: from change to change."""
    start, wall_before = after, wall_of(after, zone)
    while start < LAST:
        end, offset = next_change(start, zone), offset_of(start, zone)
        for wall in wall_minutes(expression, wall_before):
            moment = (wall - offset).replace(tzinfo=UTC)
            if moment >= end:
                break
            yield moment
        start, wall_before = end, wall_of(end, zone) - timedelta(seconds=1)


def offset_of(moment: datetime, zone: ZoneInfo) -> timedelta:
    """How far the zone's clock is ahead of UTC then."""
    return moment.astimezone(zone).utcoffset() or timedelta()


def wall_of(moment: datetime, zone: ZoneInfo) -> datetime:
    """What the zone's clock shows then, without the zone."""
    return moment.astimezone(zone).replace(tzinfo=None)


def next_change(after: datetime, zone: ZoneInfo) -> datetime:
    """When the zone's clock is set next; the end of the next year if it is not before."""
    for year in (after.year, after.year + 1):
        for change in changes_in(zone, year):
            if change > after:
                return change
    return datetime(after.year + 2, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=1024)
def changes_in(zone: ZoneInfo, year: int) -> tuple[datetime, ...]:
    """All changes of a year, found by looking at each day; they are asked for again and again."""
    moment, end, found = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC), []
    while moment < end:
        if offset_of(moment + STEP, zone) != offset_of(moment, zone):
            found.append(change_between(moment, moment + STEP, zone))
        moment += STEP
    return tuple(found)


def change_between(low: datetime, high: datetime, zone: ZoneInfo) -> datetime:
    """The first second in (low, high] with another offset than low has."""
    offset = offset_of(low, zone)
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=int((high - low).total_seconds()) // 2)
        if offset_of(middle, zone) == offset:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


def clock_changes(expression: str, name: str, since: datetime, until: datetime) -> list[str]:
    """A sentence for each change of the clocks that an expression's moments fall into."""
    zone = ZoneInfo(name)
    years = range(since.year, until.year + 1)
    changes = [change for year in years for change in changes_in(zone, year) if since < change < until]
    return [sentence for change in changes for sentence in about_change(expression, name, change)]


def about_change(expression: str, name: str, change: datetime) -> list[str]:
    """What becomes of the minutes that one change leaves out or shows twice."""
    zone = ZoneInfo(name)
    old, new = offset_of(change - timedelta(seconds=1), zone), offset_of(change, zone)
    before, after = ((change + offset).replace(tzinfo=None) for offset in (old, new))
    low, high = min(before, after), max(before, after)
    minutes = wall_minutes(expression, low - timedelta(seconds=1))
    hit = [wall for wall in islice(minutes, 3) if wall < high]
    if not hit:
        return []
    times, day = spoken(hit), f"On {change.astimezone(zone):%Y-%m-%d} the clocks in {name}"
    if new > old:
        becomes = f"it fires at {after:%H:%M}" if is_fixed(expression) else "nothing fires then"
        return [f"{day} go forward and do not show {times}: {becomes}."]
    becomes = "it fires once, the first time" if is_fixed(expression) else "it fires both times"
    return [f"{day} go back and show {times} twice: {becomes}."]


def spoken(walls: Sequence[datetime]) -> str:
    """Times of day, the first ones of many."""
    return ", ".join(f"{wall:%H:%M}" for wall in walls[:2]) + (", …" if len(walls) > 2 else "")


def interval_words(seconds: int) -> str:
    """Like 5 minutes; several units as they are written."""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds % size == 0:
            count = seconds // size
            return unit if count == 1 else f"{count} {unit}s"
    return write_seconds(seconds)


def jitter(key: str, moment: datetime, most: int) -> timedelta:
    """How much later a moment is acted on: the same each time it is asked, up to so many seconds."""
    digest = sha256(f"{key} {moment.timestamp():.0f}".encode()).digest()
    return timedelta(seconds=int.from_bytes(digest[:8], "big") % (most + 1))
