"""The events of a run on their way to open browsers.

Rows are the truth: a page gets what comes after the last number it has seen. However many pages are
open, a run is read and rendered once for all of them (`fanout.py`).
"""

import logging
import random
import re
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import OperationalError, close_old_connections
from django.template.loader import render_to_string
from django.utils import timezone
from redis.exceptions import RedisError

from agents import bells, queueing, transcript
from agents.fanout import POOL, SLICE, Look, Reader, message, reading
from agents.fanout import News as News
from agents.fanout import Seen as Seen
from agents.models import Event, Run
from agents.transcript import LARGEST_SEQ, Item

logger = logging.getLogger(__name__)

# The longest silence on the line, in seconds.
SILENCE = 15.0
# How often it is asked whether a viewer may still see the run, in seconds.
ASK_EVERY = 15.0
# A queued run is normally taken within milliseconds.
PATIENCE = timedelta(seconds=3)

# Columns that no page shows.
HIDDEN = frozenset({"lease_owner", "lease_until", "rung_at", "event_count"})


def sequence(text: str | None) -> int:
    """The number of the last event that somebody has seen; nonsense means none."""
    if not re.fullmatch(r"[0-9]{1,10}", text or ""):
        return 0
    number = int(text or 0)
    return number if number <= LARGEST_SEQ else 0


def news(run_id: UUID, seen: Seen) -> News | None:
    """The next slice of events, rendered, and the facts that changed; None without the run."""
    run = current(run_id)
    if run is None:
        return None
    # The row is read first: whatever it counts is there when the events are read.
    events = slice_after(run, seen.last)
    ended, version = run.is_terminal and not events, version_of(run)
    due = version != seen.version and (seen.rested or ended or run.state != seen.state)
    return News(
        events=tuple((item.event.seq, fragment(item, run)) for item in transcript.singly(run, events)),
        facts=facts(run) if due else "",
        version=version if due else seen.version,
        state=run.state,
        ended=ended,
        count=run.event_count,
    )


def slice_after(run: Run, last: int) -> list[Event]:
    """The next events; none are asked for when the row says that there are none."""
    if run.event_count <= last:
        return []
    return list(run.events.filter(seq__gt=last).order_by("seq")[:SLICE])


def version_of(run: Run) -> str:
    """Changes whenever the facts may: the row's columns, but for those of the worker."""
    shown = {name: value for name, value in vars(run).items() if name not in HIDDEN and name[0] != "_"}
    return f"{shown} {obstacle(run)}"


def current(run_id: UUID) -> Run | None:
    """The run as facts show it, without its large columns."""
    rows = Run.objects.select_related(
        "agent", "session", "container", "requested_by", "schedule__agent", "first_attempt"
    )
    return rows.defer("prompt", "config", "result", "changes").filter(public_id=run_id).first()


def fragment(item: Item, run: Run) -> str:
    """One event as HTML; the same template makes the page of a finished run."""
    return render_to_string("agents/_event.html", {"item": item, "run": run}).strip()


def facts(run: Run) -> str:
    """The parts of the run's page that change while it runs."""
    context = {"run": run, "obstacle": obstacle(run)}
    parts = ("agents/_headline.html", "agents/_state.html", "agents/_facts.html")
    return "\n".join(render_to_string(part, context).strip() for part in parts)


def obstacle(run: Run) -> str:
    """Why a run has not started, as it is now, and its place in the line; empty for one that has."""
    if run.state not in Run.PENDING:
        return ""
    reason = queueing.why(run)
    if not reason and timezone.now() - run.created < PATIENCE:
        return ""
    return " ".join(filter(None, [reason or nobody(), place(run)]))


def nobody() -> str:
    """Why nobody takes a run that may start."""
    try:
        if bells.listening():
            return "All workers are busy."
        if bells.workers():
            return "All workers are drained: they take no new runs until manage.py drain --end."
    except RedisError:
        return "The queue cannot be reached. The run starts when it is back."
    return "No worker is running, so nothing takes this run. Start one: make run."


def place(run: Run) -> str:
    """Its place in the line; nothing about one that waits for something else than its turn."""
    number, length = queueing.place_of(run)
    return f"It is number {number} of {length} in the line." if number else ""


def look(run_id: UUID, seen: Seen) -> News | None:
    """`news` for a thread of the pool, whose connection may have grown old."""
    close_old_connections()
    return news(run_id, seen)


def always() -> bool:
    """For viewers whose rights nobody can take."""
    return True


async def stream(
    run_id: UUID, last: int, look: Look = look, still_allowed: Callable[[], bool] = always
) -> AsyncIterator[str]:
    """Everything after event number `last` as server-sent events, until the run has ended.

    `event` carries one event's HTML with its number as id, `facts` the parts that change with
    the state, `end` says that nothing more will come. Without an `end` it stops once
    `still_allowed`, which may ask the database, says no; the page then asks again, and is told why.
    """
    async with reading(run_id, look) as reader:
        line = Line(last, reader.clock)
        while True:
            reader.check()
            turn = reader.turn
            if line.is_time_to_ask() and not await answer(still_allowed):
                return
            text = await line.next(reader)
            if text:
                yield text
            if reader.is_over(line.last):
                yield line.text([], reader.facts) + message("end", reader.state)
                return
            if reader.is_all(line.last):
                await turn.wait()


async def answer(still_allowed: Callable[[], bool]) -> bool:
    """What it says; while the database is away nobody learns anything from it, nor is anybody sent away."""

    def ask() -> bool:
        close_old_connections()
        return still_allowed()

    try:
        return await sync_to_async(ask, thread_sensitive=False, executor=POOL)()
    except OperationalError:
        return True


class Line:
    """What one viewer was told last, and when."""

    def __init__(self, last: int, clock: Callable[[], float]) -> None:
        self.last = last
        self._facts = ""
        self._clock = clock
        self._spoke = clock()
        # Viewers that came at the same moment do not all ask at the same moment.
        self._asked = clock() - random.uniform(0, ASK_EVERY / 2)  # noqa: S311

    def is_time_to_ask(self) -> bool:
        """Whether the viewer's rights were asked for long ago; then they are now."""
        if self._clock() - self._asked < ASK_EVERY:
            return False
        self._asked = self._clock()
        return True

    async def next(self, reader: Reader) -> str:
        """What to send now."""
        events, self.last = await reader.after(self.last)
        return self.text(events, reader.facts)

    def text(self, events: list[str], facts: str) -> str:
        """New events, facts that changed, or a comment that keeps the line open."""
        news = facts if facts != self._facts else ""
        self._facts = facts
        text = "".join([*events, news])
        if not text and self._clock() - self._spoke >= SILENCE:
            text = ": still here\n\n"
        if text:
            self._spoke = self._clock()
        return text
