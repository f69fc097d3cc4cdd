"""What clocks show in a time zone, and when they are changed.

What a clock shows is written as if it were UTC, so that it can be reckoned with.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

from django.core.exceptions import ValidationError

from agents.models.fields import shown

TICK = datetime.resolution
# Beyond these, what a clock shows would be a date that Python does not have.
FIRST, LAST = datetime(2, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC) - TICK
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
# Files among the zones that are not the name of one.
NO_ZONES = {"Factory", "localtime", "posixrules"}
LONGEST_ZONE = 64


@dataclass(frozen=True)
class Stretch:
    """A time in which all clocks of a zone show the same offset, and the offset before it."""

    begins: datetime
    ends: datetime
    before: timedelta
    offset: timedelta

    def readings(self, after: datetime, until: datetime, *, twice: bool) -> tuple[datetime, datetime]:
        """From where to where clocks have to be read for the moments after the one and up to the other.

        Not `twice`, what they show for the second time is left out and what they skip is put in.
        """
        first = self.begins + (self.offset if twice else self.before)
        if after >= self.begins:
            first = max(first, after + self.offset)
        return first, min(self.ends, until + TICK) + self.offset

    def moment(self, reading: datetime) -> datetime:
        """When clocks show that; for what they skip, when they are changed."""
        return max(self.begins, reading - self.offset)

    @property
    def skipped(self) -> bool:
        """Whether clocks went forward at its beginning."""
        return self.offset > self.before

    @property
    def disputed(self) -> tuple[datetime, datetime]:
        """What clocks skip at its beginning, or show twice."""
        return self.begins + min(self.before, self.offset), self.begins + max(self.before, self.offset)


@lru_cache(maxsize=1)
def zones() -> dict[str, str]:
    """All zones of this system, by their names in small letters."""
    return {name.lower(): name for name in sorted(available_timezones() - NO_ZONES)}


def parse_zone(text: str) -> str:
    """The name of a time zone in its right spelling, typed in any case."""
    name = text.strip()
    known = zones()
    if not known:
        raise ValidationError("This system knows no time zones. Install its package tzdata.")
    if not name.isascii() or name.lower() not in known:
        raise ValidationError(f"{shown(name)} is an unknown time zone. {nearest(name.lower(), known)}")
    return known[name.lower()]


def nearest(name: str, known: dict[str, str]) -> str:
    """The names that might have been meant, or how names look."""
    place = name.rpartition("/")[2].replace(" ", "_")
    # Long texts are compared slowly, and are no misspelt names.
    short = 0 < len(name) <= LONGEST_ZONE
    same = [zone for zone in known if zone.rpartition("/")[2] == place]
    found = [*same, *difflib.get_close_matches(name, known, 5, 0.7)] if short else []
    if not found:
        return "Write a name like UTC, Europe/Berlin or America/New_York."
    return f"The nearest names are {', '.join(known[zone] for zone in list(dict.fromkeys(found))[:5])}."


def clock(zone: str) -> tzinfo:
    """The zone itself; UTC also where the system knows no zones."""
    return UTC if zone == "UTC" else ZoneInfo(zone)


def bounded(moment: datetime) -> datetime:
    """In UTC, and no further away than can be reckoned."""
    return min(max(moment, FIRST), LAST).astimezone(UTC)


def stretches(zone: str, after: datetime, until: datetime, backwards: bool = False) -> Iterator[Stretch]:
    """Those that hold a moment after the one and up to the other, as they are needed."""
    years = range(after.year, until.year + 1)
    for year in reversed(years) if backwards else years:
        found = of_year(zone, year)
        for stretch in reversed(found) if backwards else found:
            if stretch.ends > after and stretch.begins <= until:
                yield stretch


@lru_cache(maxsize=1024)
def of_year(zone: str, year: int) -> tuple[Stretch, ...]:
    """A year in UTC, cut where clocks are changed."""
    local = clock(zone)
    edges = [datetime(year, 1, 1, tzinfo=UTC), *changes(local, year), datetime(year + 1, 1, 1, tzinfo=UTC)]
    return tuple(
        Stretch(begins, ends, offset(local, begins - SECOND), offset(local, begins))
        for begins, ends in pairwise(edges)
    )


def changes(local: tzinfo, year: int) -> Iterator[datetime]:
    """When clocks are changed after the first moment of a year; no zone did it twice a day."""
    low = datetime(year, 1, 1, tzinfo=UTC)
    shows = offset(local, low)
    while low.year == year:
        high = low + DAY
        then = offset(local, high)
        if then != shows and (change := first_with(local, then, low, high)).year == year:
            yield change
        low, shows = high, then


def first_with(local: tzinfo, wanted: timedelta, low: datetime, high: datetime) -> datetime:
    """The second after `low` in which the offset of `high` begins."""
    while high - low > SECOND:
        middle = low + (high - low) // SECOND // 2 * SECOND
        low, high = (low, middle) if offset(local, middle) == wanted else (middle, high)
    return high


def offset(local: tzinfo, moment: datetime) -> timedelta:
    """How far clocks are ahead of UTC."""
    return moment.astimezone(local).utcoffset() or timedelta()
