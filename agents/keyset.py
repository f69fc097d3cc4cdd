"""Pages of a list that stay put while rows come and go.

A page begins behind a position, which is a sort key and an id, and not after so many rows: nothing
is counted or skipped to get there, and a row that is added or deleted in the meantime neither
doubles nor hides another.
"""

import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Generic, Self, TypeVar

from django.db.models import F, Model, Q, QuerySet
from django.db.models.expressions import Combinable
from django.utils.dateparse import parse_datetime

PER_PAGE = 50
# Rows whose texts one page looks through, and how many of them at once; measured by bench/pages.py.
WINDOW, AT_ONCE = 4000, 1000
# Up to here rows are counted.
COUNTED = 5000
LARGEST = 2**62

Row = TypeVar("Row", bound=Model)


def number(value: object) -> float:
    """A sort key that is a number; whole numbers stay whole."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(value)
    if abs(value) > LARGEST:
        raise ValueError(value)
    return value


def moment(value: object) -> datetime:
    """A sort key that is a time, with its zone."""
    found = parse_datetime(value) if isinstance(value, str) else None
    if found is None or found.tzinfo is None:
        raise ValueError(value)
    # An error at the ends of the calendar, where no database could compare it.
    return found.astimezone(UTC)


@dataclass(frozen=True)
class Order:
    """One way to sort a list: by a key that is never null, then by id; without a key by id alone."""

    label: str
    key: Combinable | None = None
    read: Callable[[object], Any] = number
    descending: bool = True
    # What the links to the pages before and after are called.
    back: str = "newer"
    forth: str = "older"

    def sorted(self, rows: QuerySet[Any], backwards: bool = False) -> QuerySet[Any]:
        """The rows in this order, as pairs of key and id."""
        sign = "-" if self.descending != backwards else ""
        keyed: QuerySet[Any] = rows.annotate(sort_key=F("pk") if self.key is None else self.key)
        return keyed.order_by(f"{sign}sort_key", f"{sign}pk").values_list("sort_key", "pk")


@dataclass(frozen=True)
class Position:
    """A place in a list, in the order of that name; there need not be a row at it."""

    order: str
    key: Any
    pk: int

    def write(self) -> str:
        """As one word, for addresses."""
        key = self.key.isoformat() if isinstance(self.key, datetime) else self.key
        text = json.dumps([self.order, key, self.pk], separators=(",", ":"))
        return urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str, name: str, order: Order) -> Self | None:
        """The position that was written in this order; none if it was another, or is damaged."""
        try:
            said, key, pk = json.loads(urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4)))
            if said != name or type(pk) is not int or abs(pk) > LARGEST:
                return None
            return cls(name, order.read(key), pk)
        except (ValueError, TypeError, RecursionError, OverflowError):
            return None

    def beyond(self, order: Order, backwards: bool = False) -> Q:
        """What comes after it, or before it when read backwards."""
        compare = "lt" if order.descending != backwards else "gt"
        if order.key is None:
            return Q(**{f"pk__{compare}": self.pk})
        # The first condition says nothing new, but an index can be entered with it.
        level = Q(**{f"sort_key__{compare}e": self.key})
        return level & (Q(**{f"sort_key__{compare}": self.key}) | Q(**{f"pk__{compare}": self.pk}))

    def beside(self, order: Order, backwards: bool = False) -> Self:
        """The place just before it in the direction of reading: what is beyond that begins with it."""
        step = 1 if order.descending != backwards else -1
        return type(self)(self.order, self.key, self.pk + step)


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows of a list, and where those before and after them begin."""

    rows: Sequence[Row]
    newer: str = ""
    older: str = ""
    # How many rows were looked through when that was the end of it, and not the end of the list.
    searched: int = 0


@dataclass(frozen=True)
class Listing(Generic[Row]):
    """A list that can be read in pages: rows in an order, and a text that some of them contain."""

    rows: QuerySet[Row]
    name: str
    order: Order
    text: Q | None = None

    def page(self, shown: QuerySet[Row], after: str = "", before: str = "") -> Page[Row]:
        """The page behind or before a position; the first one if there is no such position."""
        start, end = (Position.read(text, self.name, self.order) for text in (after, before))
        if start is None and end is not None:
            page = self.backwards(shown, end)
            if page is not None:
                return page
        return self.forwards(shown, start)

    def forwards(self, shown: QuerySet[Row], start: Position | None) -> Page[Row]:
        """The page behind a position, or the first one."""
        found, limit = self.read(start)
        more, found = found[PER_PAGE:], found[:PER_PAGE]
        older = found[-1] if more else limit
        newer = start and (found[0] if found else start.beside(self.order, backwards=True))
        return Page(
            self.fetch(shown, found), written(newer), written(older), WINDOW if limit and not more else 0
        )

    def backwards(self, shown: QuerySet[Row], end: Position) -> Page[Row] | None:
        """The page before a position; none if the list begins on it."""
        found, limit = self.read(end, backwards=True)
        more, found = found[PER_PAGE:], found[:PER_PAGE][::-1]
        if not more and not limit:
            return None
        newer = found[0] if more else limit
        older = found[-1] if found else end.beside(self.order)
        return Page(
            self.fetch(shown, found), written(newer), written(older), WINDOW if limit and not more else 0
        )

    def read(self, start: Position | None, backwards: bool = False) -> tuple[list[Position], Position | None]:
        """The positions of one row more than a page has, and where looking for a text ended early."""
        pairs = self.order.sorted(self.rows, backwards)
        if start:
            pairs = pairs.filter(start.beyond(self.order, backwards))
        if self.text is None:
            return [Position(self.name, *pair) for pair in pairs[: PER_PAGE + 1]], None
        window = [Position(self.name, *pair) for pair in pairs[:WINDOW]]
        found = list(islice(self.saying(self.text, window), PER_PAGE + 1))
        return found, window[-1] if len(window) == WINDOW else None

    def saying(self, text: Q, window: Sequence[Position]) -> Iterator[Position]:
        """Those whose rows contain the text.

        Only after all other filters, which a database that does both at once cannot be trusted with,
        and some at a time, because a frequent word fills the page soon.
        """
        for first in range(0, len(window), AT_ONCE):
            some = window[first : first + AT_ONCE]
            rows = self.rows.model._default_manager.filter(text, pk__in=[each.pk for each in some])
            found = set(rows.values_list("pk", flat=True))
            yield from (each for each in some if each.pk in found)

    def fetch(self, shown: QuerySet[Row], positions: Sequence[Position]) -> list[Row]:
        """The rows at these positions; only now, because sorting is quick with nothing but keys."""
        rows = shown.in_bulk([position.pk for position in positions])
        return [rows[position.pk] for position in positions if position.pk in rows]

    def count(self) -> int | None:
        """How many rows there are, up to one more than are counted; none when looking for a text."""
        return None if self.text is not None else self.rows.order_by()[: COUNTED + 1].count()


def written(position: Position | None) -> str:
    """A position as it stands in an address."""
    return position.write() if position else ""
