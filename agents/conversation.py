"""A session over all its runs as one transcript, read in windows around a place.

A place is a run and the number of an event in it; 0 is the prompt. Whatever the session holds, a
window takes a fixed number of queries, and of long texts it reads the beginnings only.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Any

from django.db.models import Q, QuerySet
from django.db.models.functions import Left, Length

from agents import search, transcript
from agents.models import Event, Run, Session
from agents.prose import plain
from agents.transcript import LARGEST_SEQ, Item

# How many events, and how many runs, are read at a time.
WINDOW, RUNS = 200, 40
# How much of a prompt is shown, in characters; the page of its run has the rest.
OPENING = 8000
# How many places a search leads to.
MOST = 50
# How many waiting messages are shown.
SHOWN = 50
PLACE = re.compile(r"([0-9]{1,18})\.([0-9]{1,10})")
# What stands in the conversation itself; everything else is folded away beneath a line.
ALOUD = (Event.Kind.TEXT, Event.Kind.RESULT, Event.Kind.ERROR)
NAMED = 5


@dataclass(frozen=True)
class Place:
    """An event of a run, or with 0 its prompt; written `12.34` in addresses."""

    run: int
    seq: int

    def __str__(self) -> str:
        return f"{self.run}.{self.seq}"


def place_of(text: str | None) -> Place | None:
    """What an address says; nonsense is no place."""
    found = PLACE.fullmatch(text or "")
    place = Place(int(found[1]), int(found[2])) if found else None
    return place if place and place.run < 2**63 and place.seq <= LARGEST_SEQ else None


@dataclass(frozen=True)
class Span:
    """The events of one run that a window shows, from the first to the last number; maybe none."""

    run: int
    first: int
    last: int
    count: int

    @property
    def size(self) -> int:
        """How many they are."""
        return max(0, self.last - self.first + 1)


@dataclass
class Fold:
    """Items that stand together: one said aloud, or several quiet ones beneath a line that names them."""

    items: list[Item] = field(default_factory=list)
    is_quiet: bool = False
    is_open: bool = False

    @property
    def label(self) -> str:
        """What is folded away: the tools by name, or how many lines."""
        calls = [item.event.text for item in self.items if item.event.kind == Event.Kind.TOOL_USE]
        if not calls:
            kinds = {str(item.event.kind) for item in self.items}
            only = kinds.pop() if len(kinds) == 1 else ""
            return NAMES.get(only, "notes") + (f" ({len(self.items)})" if len(self.items) > 1 else "")
        names = list(dict.fromkeys(plain(name)[:40] for name in calls))
        more = ", …" if len(names) > NAMED else ""
        return f"{len(calls)} tool call{'s' if len(calls) > 1 else ''}: {', '.join(names[:NAMED])}{more}"


# The script of the page says it in the same words.
NAMES = {"thinking": "thinking", "stderr": "standard error"}


@dataclass
class Turn:
    """One run in the conversation: what a person wrote, what the agent did, and how it ended."""

    run: Any
    span: Span
    folds: list[Fold] = field(default_factory=list)

    @property
    def begins(self) -> bool:
        """Whether its message is shown, and not only a later part of it."""
        return self.span.first <= 1

    @property
    def ends(self) -> bool:
        """Whether its last event is shown."""
        return self.span.last >= self.span.count

    @property
    def prefix(self) -> str:
        """What the ids of its elements begin with, because every run counts its events from 1."""
        return f"r{self.run.pk}-"


@dataclass(frozen=True)
class Window:
    """Some turns in their order, and the places where those before and after them are."""

    turns: Sequence[Turn]
    earlier: Place | None = None
    later: Place | None = None

    @property
    def last(self) -> int:
        """The last run in it, or 0."""
        return self.turns[-1].run.pk if self.turns else 0


def runs_of(session: Session) -> QuerySet[Run]:
    """What was asked of a session, also what was withdrawn or refused before it began."""
    return Run.objects.filter(Q(session=session) | Q(continues=session))


def begun(session: Session) -> QuerySet[Run]:
    """Without the messages that wait for their turn."""
    return runs_of(session).exclude(state__in=Run.PENDING)


def newest(session: Session) -> Window:
    """The end of the conversation."""
    return before(session, Place(2**63 - 1, 0))


def before(session: Session, place: Place) -> Window:
    """What came before a place."""
    rows = begun(session).filter(pk__lt=place.run + 1 if place.seq else place.run).order_by("-pk")
    heads = list(rows.values_list("pk", "event_count")[: RUNS + 1])
    spans: list[Span] = []
    left = WINDOW
    for pk, count in heads[:RUNS]:
        last = min(count, place.seq - 1) if pk == place.run else count
        spans.insert(0, Span(pk, max(1, last - left + 1), last, count))
        left -= spans[0].size
        if left <= 0:
            break
    return Window(turns_of(spans), earlier_than(spans, len(heads)), later_than(session, spans))


def earlier_than(spans: Sequence[Span], found: int) -> Place | None:
    """Where what comes before these spans ends; none if nothing does."""
    if not spans:
        return None
    if spans[0].first > 1:
        return Place(spans[0].run, spans[0].first)
    return Place(spans[0].run, 0) if found > len(spans) else None


def later_than(session: Session, spans: Sequence[Span]) -> Place | None:
    """The last place of these spans, if anything comes after it."""
    if not spans:
        return None
    end = spans[-1]
    more = end.last < end.count or begun(session).filter(pk__gt=end.run).exists()
    return Place(end.run, end.last) if more else None


def after(session: Session, place: Place, most: int = WINDOW) -> Window:
    """What comes after a place."""
    rows = begun(session).filter(pk__gte=place.run).order_by("pk")
    spans: list[Span] = []
    for pk, count in rows.values_list("pk", "event_count")[:RUNS]:
        first = place.seq + 1 if pk == place.run else 1
        span = Span(pk, first, min(count, first + most - 1), count)
        if pk != place.run or span.size:
            spans.append(span)
            most -= span.size
        if most <= 0:
            break
    first_place = Place(spans[0].run, spans[0].first if spans[0].first > 1 else 0) if spans else None
    return Window(turns_of(spans), first_place, later_than(session, spans))


def around(session: Session, place: Place) -> Window:
    """A place in the middle of what is around it; the end of the conversation if it is not there."""
    rows = begun(session).filter(pk__gte=place.run).order_by("pk")
    heads = list(rows.values_list("pk", "event_count")[:RUNS])
    if not heads or heads[0][0] != place.run:
        return newest(session)
    left, end = WINDOW // 2, place
    for pk, count in heads:
        first = place.seq if pk == place.run else 0
        end = Place(pk, min(count, first + left))
        left -= end.seq - first
        if left <= 0:
            break
    return before(session, Place(end.run, end.seq + 1))


def turns_of(spans: Sequence[Span]) -> list[Turn]:
    """The spans with their runs and events; two queries, and one for a turn that begins in its middle."""
    events = events_of(spans)
    rows = shown().in_bulk([span.run for span in spans])
    return [turn_of(rows[span.run], span, events.get(span.run, [])) for span in spans if span.run in rows]


def shown() -> QuerySet[Run]:
    """Runs as a conversation shows them: the beginnings of their large texts only."""
    rows = Run.objects.select_related("agent", "requested_by")
    lean = rows.defer("prompt", "config", "result")
    return lean.annotate(opening=Left("prompt", OPENING), prompt_length=Length("prompt"))


def events_of(spans: Sequence[Span]) -> dict[int, list[Event]]:
    """The events of all spans, by their runs."""
    found: dict[int, list[Event]] = {}
    parts = [Q(run=span.run, seq__gte=span.first, seq__lte=span.last) for span in spans if span.size]
    if parts:
        for event in Event.objects.filter(reduce(or_, parts)).order_by("run_id", "seq"):
            found.setdefault(event.run_id, []).append(event)
    return found


def turn_of(run: Run, span: Span, events: list[Event]) -> Turn:
    """One run with its events, folded."""
    items = transcript.items(run, events, at_end=span.last >= span.count)
    return Turn(run, span, list(folded(items)))


def folded(items: Sequence[Item]) -> Iterator[Fold]:
    """Quiet items together, what is said aloud by itself; a result only if it says something new."""
    quiet = Fold(is_quiet=True)
    said = ""
    for item in items:
        text = item.event.text.strip()
        repeats = item.event.kind == Event.Kind.RESULT and text == said
        if item.event.kind not in ALOUD or repeats or item.by_another:
            quiet.items.append(item)
            continue
        if quiet.items:
            yield quiet
            quiet = Fold(is_quiet=True)
        said = text
        yield Fold([item])
    if quiet.items:
        yield quiet


def unfold(window: Window, place: Place | None) -> Window:
    """Open what the place is folded into."""
    for turn in window.turns:
        for fold in turn.folds if place and turn.run.pk == place.run else ():
            fold.is_open = any(place.seq in numbers(item) for item in fold.items) if place else False
    return window


def numbers(item: Item) -> set[int]:
    """The numbers of an item and of what stands inside it."""
    return {item.event.seq} | ({item.answer.event.seq} if item.answer else set())


@dataclass(frozen=True)
class Found:
    """A place where something was found, and the text around it."""

    run: Run
    hit: search.Hit

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(self.run.pk, self.hit.seq)

    @property
    def anchor(self) -> str:
        """The element of the page."""
        return f"r{self.run.pk}-e{self.hit.seq}" if self.hit.seq else f"r{self.run.pk}"


def find(session: Session, text: str) -> list[Found]:
    """The last prompts and events in which a text occurs, newest first."""
    text = text.replace("\x00", "").strip()[: search.LONGEST]
    if not text:
        return []
    runs = {run.pk: run for run in runs_of(session).only("public_id", "created", "state")}
    prompts = runs_of(session).filter(prompt__icontains=text).order_by("-pk")
    said = Event.objects.filter(run__in=list(runs)).order_by("-run_id", "-seq")
    found = [Found(runs[run.pk], in_prompt(run.prompt, text)) for run in prompts.only("prompt")[:MOST]]
    events = search.saying(said, text)[:MOST]
    found += [Found(runs[event.run_id], search.hit(event, text)) for event in events]
    return sorted(found, key=lambda each: (each.run.pk, each.hit.seq), reverse=True)[:MOST]


def in_prompt(prompt: str, text: str) -> search.Hit:
    """A prompt is searched as an event with the number 0."""
    return search.hit(Event(seq=0, kind="prompt", text=prompt), text)
