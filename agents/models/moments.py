"""The moments at which a rule is due: pure reckoning, the same from wherever it begins."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice

from django.core.exceptions import ValidationError

from agents.models.blackouts import Blackout, parse_blackout
from agents.models.clocks import LAST, TICK, bounded, clock, parse_zone, stretches
from agents.models.cron import expression, parse_cron
from agents.models.cronwords import explain_cron
from agents.models.fields import SECONDS, shown, write_seconds

__all__ = [
    "MAX_INTERVAL",
    "MIN_INTERVAL",
    "Blackout",
    "Rule",
    "jitter",
    "parse_blackout",
    "parse_cron",
    "parse_interval",
    "parse_zone",
]

MIN_INTERVAL, MAX_INTERVAL = 30, 366 * SECONDS["d"]
# Nobody reads a larger number of missed moments.
COUNTED = 100_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNITS = {"d": "day", "h": "hour", "m": "minute", "s": "second"}


def parse_interval(text: str) -> int:
    """Seconds from `30s`, `5m`, `2h`, `1d`."""
    match = re.fullmatch(r"([0-9]{1,9}) ?([smhd])", text.strip(" ").lower())
    seconds = int(match[1]) * SECONDS[match[2]] if match else 0
    if not MIN_INTERVAL <= seconds <= MAX_INTERVAL:
        low, high = write_seconds(MIN_INTERVAL), write_seconds(MAX_INTERVAL)
        raise ValidationError(
            f"{shown(text)} is not an interval. Write it like 30s, 5m, 2h or 1d: at least {low},"
            f" at most {high}."
        )
    return seconds


def jitter(key: str, moment: datetime, most: int) -> timedelta:
    """A delay of whole seconds up to `most`, the same whenever it is asked for."""
    digest = sha256(f"{key} {moment.astimezone(UTC).isoformat()}".encode("utf-8", "surrogatepass")).digest()
    return timedelta(seconds=int.from_bytes(digest[:8], "big") % (max(most, 0) + 1))


@dataclass(frozen=True)
class Rule:
    """When something is due: by a cron expression in a zone's clocks, or every so many seconds of real time.

    Moments in a blackout are due like others; whoever acts on them asks `blackout`.
    """

    cron: str = ""
    interval: int = 0
    zone: str = "UTC"
    # A grid's moments are this plus one, two, three intervals and so on.
    anchor: datetime = EPOCH
    begins: datetime | None = None
    ends: datetime | None = None
    blackouts: tuple[Blackout, ...] = ()

    def after(self, moment: datetime) -> datetime | None:
        """The first moment later than this one; None if there is none any more."""
        return next(self.between(moment, LAST), None)

    def next(self, after: datetime, count: int) -> list[datetime]:
        """So many moments later than this one, or fewer if it ends."""
        return list(islice(self.between(after, LAST), count))

    def between(self, after: datetime, until: datetime, backwards: bool = False) -> Iterator[datetime]:
        """The moments later than the one and not later than the other, in order or the newest first."""
        after, until = self.limits(after, until)
        if after < until and self.interval:
            yield from self.grid(after, until, backwards)
        elif after < until and self.cron:
            yield from self.fired(after, until, backwards)

    def last(self, after: datetime, until: datetime, most: int) -> tuple[int, list[datetime]]:
        """How many moments `between` has, counted up to 100,000, and the newest of them in order."""
        count, newest = 0, list[datetime]()
        for moment in islice(self.between(after, until, backwards=True), COUNTED):
            count += 1
            if count <= most:
                newest.append(moment)
        return count, newest[::-1]

    def blackout(self, moment: datetime) -> str:
        """The blackout window that a moment lies in, as text; empty if it lies in none."""
        shows = bounded(moment).astimezone(clock(self.zone))
        return next((str(window) for window in self.blackouts if window.covers(shows)), "")

    def limits(self, after: datetime, until: datetime) -> tuple[datetime, datetime]:
        """The part of a time in which the rule holds, in UTC."""
        after, until = bounded(after), bounded(until)
        if self.begins:
            after = max(after, bounded(self.begins) - TICK)
        return after, min(until, bounded(self.ends)) if self.ends else until

    def grid(self, after: datetime, until: datetime, backwards: bool) -> Iterator[datetime]:
        """Moments of an interval."""
        anchor, step = bounded(self.anchor), timedelta(seconds=self.interval)
        numbers = range(max((after - anchor) // step + 1, 1), (until - anchor) // step + 1)
        for number in reversed(numbers) if backwards else numbers:
            yield anchor + number * step

    def fired(self, after: datetime, until: datetime, backwards: bool) -> Iterator[datetime]:
        """Moments of a cron expression: what clocks show, turned into time stretch by stretch.

        Like Debian's cron, an expression whose minute or hour begins with * follows the clocks, through
        what they skip and what they show twice. All others fire once for each time of the day, for a
        skipped one when the clocks are changed, and for a repeated one the first time.
        """
        found = expression(self.cron)
        previous = None
        for stretch in stretches(self.zone, after, until, backwards):
            first, end = stretch.readings(after, until, twice=found.starred)
            for moment in map(stretch.moment, found.readings(first, end, backwards)):
                if moment != previous and after < moment <= until:
                    yield moment
                previous = moment

    def explain(self) -> str:
        """When it is due, in plain English."""
        if not self.interval:
            return explain_cron(self.cron) + ("" if self.zone == "UTC" else f" ({self.zone})")
        begins = bounded(self.anchor).astimezone(clock(self.zone)).strftime("%Y-%m-%d %H:%M:%S")
        zone = "UTC" if self.zone == "UTC" else f"({self.zone})"
        return f"{every(self.interval)}, counted from {begins.removesuffix(':00')} {zone}"

    def notes(self, since: datetime, days: int = 400) -> list[str]:
        """What may surprise somebody: that it fires very often or never again, and changes of the clocks."""
        if self.after(since) is None:
            return ["It never fires again."]
        until = bounded(since) + min(timedelta(days), LAST - bounded(since))
        return [*frequent(self), *clock_notes(self, since, until)]


def every(seconds: int) -> str:
    """Every minute, every 2 hours, as a sentence begins."""
    unit = next(unit for unit in UNITS if seconds % SECONDS[unit] == 0)
    number = seconds // SECONDS[unit]
    return f"Every {UNITS[unit]}" if number == 1 else f"Every {number} {UNITS[unit]}s"


def frequent(rule: Rule) -> Iterator[str]:
    """That it fires every minute, or more often; also if only in some hours."""
    if rule.interval:
        if rule.interval <= SECONDS["m"]:
            yield f"It fires {every(rule.interval).lower()}."
        return
    found = expression(rule.cron)
    if len(found.times) == 24 * 60:
        yield "It fires every minute."
    elif len(found.read.minutes) == 60:
        yield "It fires 60 times in each of its hours. To fire once in an hour, write 0 as the minute."


def clock_notes(rule: Rule, since: datetime, until: datetime) -> Iterator[str]:
    """A sentence for each change of the clocks that touches what the rule names."""
    if rule.interval:
        return
    after, until = rule.limits(since, until)
    found = expression(rule.cron)
    for stretch in stretches(rule.zone, after, until):
        touched = stretch.begins > after and not (
            found.starred and found.steady(stretch.offset - stretch.before)
        )
        readings = list(found.readings(*stretch.disputed)) if touched else []
        if not readings:
            continue
        change = f"On {readings[0].date()} clocks in {rule.zone} go"
        if stretch.skipped:
            yield f"{change} forward and {skipped(readings, stretch.disputed[1], found.starred)}."
        else:
            yield f"{change} back and {repeated(readings, found.starred)}."


def skipped(readings: list[datetime], end: datetime, starred: bool) -> str:
    """What becomes of times that clocks skip."""
    absent = f"{times(readings)} {'do' if readings[1:] else 'does'} not exist"
    if starred:
        return f"{absent}: it does not fire then"
    day = "" if end.date() == readings[0].date() else f" on {end.date()}"
    return f"{absent}: it fires {'once, ' if readings[1:] else ''}at {end:%H:%M}{day}"


def repeated(readings: list[datetime], starred: bool) -> str:
    """What becomes of times that clocks show twice."""
    if readings[1:]:
        how = "both times" if starred else "once for each, the first time"
        return f"{times(readings)} come twice: it fires {how}"
    return f"{times(readings)} comes twice: it fires {'both times' if starred else 'once, the first time'}"


def times(readings: Iterable[datetime]) -> str:
    """Times of the day; the first and the last of many."""
    said = [f"{reading:%H:%M}" for reading in readings]
    if len(said) > 3:
        return f"{said[0]} to {said[-1]}"
    return " and ".join([", ".join(said[:-1]), said[-1]]) if said[1:] else said[0]
