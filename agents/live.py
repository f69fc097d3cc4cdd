"""The events of a run on their way to open browsers.

Rows are the truth: a page reads what comes after the last number it has seen. Redis only says that
there is something to read; without it, pages look twice a second.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import redis.asyncio as redis
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import OperationalError, close_old_connections
from django.template.loader import render_to_string
from django.utils import timezone
from redis.exceptions import RedisError

from agents import jobs, transcript
from agents.models import Event, Run
from agents.transcript import LARGEST_SEQ, Item

logger = logging.getLogger(__name__)

# How many events are read and sent at a time.
SLICE = 200
# In seconds: the longest wait for a hint, and the longest silence on the line.
LOOK, SILENCE = 0.5, 15.0
# Facts change with every batch of output; nobody reads faster than this, in seconds.
FACTS_EVERY = 1.0
# A queued run is normally taken within milliseconds.
PATIENCE = timedelta(seconds=3)

# Columns that no page shows.
HIDDEN = frozenset({"lease_owner", "lease_until", "rung_at", "last_output_at", "event_count"})

# A few connections for all viewers: one each would use up a database.
POOL = ThreadPoolExecutor(max_workers=4, thread_name_prefix="live")


@dataclass(frozen=True)
class Seen:
    """What a viewer has: the last event, and which facts; `rested` when newer ones may be sent."""

    last: int = 0
    version: str = ""
    state: str = ""
    rested: bool = True


@dataclass(frozen=True)
class News:
    """What a viewer does not know yet; `facts` is empty when there is nothing new in them."""

    events: tuple[tuple[int, str], ...]
    facts: str
    version: str
    state: str
    ended: bool

    @property
    def last(self) -> int:
        """The number of the last event in it, or 0."""
        return self.events[-1][0] if self.events else 0


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
    rows = Run.objects.select_related("agent", "session", "container", "requested_by")
    return rows.defer("prompt", "config", "result").filter(public_id=run_id).first()


def fragment(item: Item, run: Run) -> str:
    """One event as HTML; the same template makes the page of a finished run."""
    return render_to_string("agents/_event.html", {"item": item, "run": run}).strip()


def facts(run: Run) -> str:
    """The parts of the run's page that change while it runs."""
    context = {"run": run, "obstacle": obstacle(run)}
    parts = ("agents/_headline.html", "agents/_state.html", "agents/_facts.html")
    return "\n".join(render_to_string(part, context).strip() for part in parts)


def obstacle(run: Run) -> str:
    """Why a queued run stays queued although nothing speaks against it; empty if nothing is wrong."""
    if run.state != Run.State.QUEUED or timezone.now() - run.created < PATIENCE:
        return ""
    try:
        return (
            "" if jobs.workers() else "No worker is running, so nothing takes this run. Start one: make run."
        )
    except RedisError:
        return "The queue cannot be reached. The run starts when it is back."


def look(run_id: UUID, seen: Seen) -> News | None:
    """`news` for a thread of the pool, whose connection may have grown old."""
    close_old_connections()
    return news(run_id, seen)


def message(name: str, data: str, number: int | None = None) -> str:
    """One server-sent event; every kind of line end starts a new data line."""
    head = f"id: {number}\n" if number is not None else ""
    lines = "".join(f"data: {line}\n" for line in re.split(r"\r\n|\r|\n", data))
    return f"{head}event: {name}\n{lines}\n"


class Hub:
    """One subscription for the whole process, whose hints go to every page that waits for them."""

    def __init__(self) -> None:
        self._bells: dict[str, set[asyncio.Event]] = {}
        self._reader: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncIterator[asyncio.Event]:
        """An event that is set whenever there may be something new."""
        bell = asyncio.Event()
        self._bells.setdefault(channel, set()).add(bell)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read())
        try:
            yield bell
        finally:
            self._forget(channel, bell)

    def _forget(self, channel: str, bell: asyncio.Event) -> None:
        self._bells[channel].discard(bell)
        if not self._bells[channel]:
            del self._bells[channel]
        if not self._bells and self._reader:
            self._reader.cancel()
            self._reader = None

    async def _read(self) -> None:
        """Read hints for as long as anybody is interested; without Redis, try again each second."""
        while True:
            try:
                await self._listen()
            except (RedisError, OSError):
                await asyncio.sleep(1)

    async def _listen(self) -> None:
        client = redis.from_url(settings.HERDWEB_REDIS_URL, socket_timeout=None)
        async with client, client.pubsub() as subscription:
            await subscription.psubscribe(jobs.channel("*"))
            async for hint in subscription.listen():
                self._ring(hint)

    def _ring(self, hint: dict[str, Any]) -> None:
        channel = hint["channel"]
        name = channel.decode() if isinstance(channel, bytes) else str(channel)
        for bell in self._bells.get(name, ()):
            bell.set()


HUB = Hub()
Look = Callable[[UUID, Seen], News | None]


async def stream(run_id: UUID, last: int, look: Look = look) -> AsyncIterator[str]:
    """Everything after event number `last` as server-sent events, until the run has ended.

    `event` carries one event's HTML with its number as id, `facts` the parts that change with
    the state, `end` says that nothing more will come.
    """
    ask = sync_to_async(look, thread_sensitive=False, executor=POOL)
    line = Line(last, asyncio.get_running_loop().time)
    async with HUB.listening(jobs.channel(str(run_id))) as bell:
        while True:
            bell.clear()
            try:
                found = await ask(run_id, line.seen())
            except OperationalError as error:
                # A database that is away comes back, and a thread's broken connection is renewed.
                logger.warning("Run %s cannot be read for a page: %s", run_id, error)
                await asyncio.sleep(LOOK)
                continue
            for text in line.messages(found):
                yield text
            if found is None or found.ended:
                yield message("end", found.state if found else "gone")
                return
            if len(found.events) < SLICE:
                await ring_or_time(bell)


async def ring_or_time(bell: asyncio.Event) -> None:
    """Wait for a hint, but not for long: it may have been lost."""
    try:
        async with asyncio.timeout(LOOK):
            await bell.wait()
    except TimeoutError:
        pass


class Line:
    """What one viewer was told last, and when."""

    def __init__(self, last: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen = Seen(last)
        self._told = self._spoke = clock() - FACTS_EVERY

    def seen(self) -> Seen:
        """What the viewer has by now."""
        return replace(self._seen, rested=self._clock() - self._told >= FACTS_EVERY)

    def messages(self, found: News | None) -> list[str]:
        """What to send now: new events, facts that changed, or a comment that keeps the line open."""
        if found is None:
            return []
        texts = [message("event", html, number) for number, html in found.events]
        if found.facts:
            texts.append(message("facts", found.facts))
            self._told = self._clock()
        self._seen = Seen(max(self._seen.last, found.last), found.version, found.state)
        if not texts and self._clock() - self._spoke >= SILENCE:
            texts = [": still here\n\n"]
        if texts:
            self._spoke = self._clock()
        return texts
