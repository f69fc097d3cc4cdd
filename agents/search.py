"""Finding events of a run by what they say."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import Q, QuerySet
from django.db.models.fields.json import KT

from agents.models import Event, Run
from agents.prose import plain

Kind = Event.Kind
# Kinds as people tell them apart.
GROUPS: dict[str, tuple[str, ...]] = {
    "text": (Kind.TEXT, Kind.RESULT),
    "tools": (Kind.TOOL_USE, Kind.TOOL_RESULT),
    "thinking": (Kind.THINKING,),
    "errors": (Kind.STDERR, Kind.ERROR),
    "ours": (Kind.STATUS, Kind.SYSTEM),
}
MOST, LONGEST, AROUND = 100, 200, 80


@dataclass(frozen=True)
class Hit:
    """An event in which something was found, and the text around it."""

    seq: int
    kind: str
    before: str
    match: str
    after: str


def find(run: Run, text: str, group: str = "") -> list[Hit]:
    """The first events of a group in which a text occurs; without a text, the first of the group.

    The input of tools is searched as well.
    """
    text = text.replace("\x00", "").strip()[:LONGEST]
    rows: QuerySet[Event] = run.events.order_by("seq")
    if group in GROUPS:
        rows = rows.filter(kind__in=GROUPS[group])
    if text:
        rows = saying(rows, text)
    elif group not in GROUPS:
        return []
    return [hit(event, text) for event in rows[:MOST]]


def saying(rows: QuerySet[Event], text: str) -> QuerySet[Event]:
    """Those in which the text occurs, of tools also in their input, which is stored as JSON."""
    condition = Q(text__icontains=text)
    for spelling in spellings(text):
        condition |= Q(kind=Kind.TOOL_USE, given__icontains=spelling)
    return rows.annotate(given=KT("payload__block__input")).filter(condition)


def spellings(text: str) -> set[str]:
    """How a text may be written inside JSON."""
    return {json.dumps(text, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False)}


def hit(event: Event, text: str) -> Hit:
    """The first place in an event where the text occurs."""
    for body in bodies(event):
        place = body.lower().find(text.lower())
        if place >= 0:
            end = place + len(text)
            begin = max(0, place - AROUND)
            return Hit(event.seq, event.kind, body[begin:place], body[place:end], body[end : end + AROUND])
    return Hit(event.seq, event.kind, plain(event.text)[:AROUND], "", "")


def bodies(event: Event) -> Iterator[str]:
    """What is searched of an event."""
    yield plain(event.text)
    block = event.payload.get("block") if isinstance(event.payload, dict) else None
    given = block.get("input") if isinstance(block, dict) else None
    if isinstance(given, dict):
        yield from (plain(value) for value in given.values())
    elif given is not None:
        yield plain(given)
