"""One reader of a run for all its viewers in this process, and what it keeps for them."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import OperationalError

from agents import bells
from agents.hints import LOOK, Hub, ring_or_time
from agents.transcript import LARGEST_SEQ

logger = logging.getLogger(__name__)

# How many events are read and sent at a time.
SLICE = 200
# How many events, and characters of them, are kept for the viewers of a run.
KEPT, KEPT_SIZE = 1000, 4 * 1024**2
# Facts change with every batch of output; nobody reads faster than this, in seconds.
FACTS_EVERY = 1.0
# Viewers look after themselves so often even if there is no news, in seconds.
BEAT = 1.0
# Telling one viewer takes a part of a millisecond in which no page is served: the more there are, the
# longer is the pause until they are told again. In seconds, for each of them and in all.
REST, LONGEST_REST = 0.0005, 1.0

# A few connections for everybody: one for each viewer would use up a database.
POOL = ThreadPoolExecutor(max_workers=4, thread_name_prefix="live")
HUB = Hub()


@dataclass(frozen=True)
class Seen:
    """What somebody has: the last event, and which facts; `rested` when newer ones may be sent."""

    last: int = 0
    version: str = ""
    state: str = ""
    rested: bool = True


@dataclass(frozen=True)
class News:
    """What somebody does not know yet; `facts` is empty when there is nothing new in them.

    `count` is the number of the run's last event.
    """

    events: tuple[tuple[int, str], ...]
    facts: str
    version: str
    state: str
    ended: bool
    count: int = 0

    @property
    def last(self) -> int:
        """The number of the last event in it, or 0."""
        return self.events[-1][0] if self.events else 0

    @property
    def messages(self) -> list[str]:
        """The events as they are sent."""
        return [message("event", html, number) for number, html in self.events]


Look = Callable[[UUID, Seen], News | None]


def message(name: str, data: str, number: int | None = None) -> str:
    """One server-sent event; every kind of line end starts a new data line."""
    head = f"id: {number}\n" if number is not None else ""
    lines = "".join(f"data: {line}\n" for line in re.split(r"\r\n|\r|\n", data))
    return f"{head}event: {name}\n{lines}\n"


class Recent:
    """The last events of a run as they are sent: contiguous, so that a number says where one is."""

    def __init__(self, last: int) -> None:
        self.last = last
        self._messages: list[str] = []
        self._size = 0

    @property
    def before(self) -> int:
        """The number before the first one that is kept."""
        return self.last - len(self._messages)

    def after(self, last: int) -> list[str]:
        """The next slice; `last` is not less than `before`."""
        place = last - self.before
        return self._messages[place : place + SLICE]

    def add(self, number: int, text: str) -> None:
        """One more; the oldest go when they are too many, and all of them when one between is missing."""
        if number != self.last + 1:
            self._drop(len(self._messages))
        self._messages.append(text)
        self.last = number
        self._size += len(text)
        while len(self._messages) > KEPT or (self._size > KEPT_SIZE and self._messages):
            # Not one by one: each time all others move.
            self._drop(max(1, len(self._messages) // 10))

    def _drop(self, count: int) -> None:
        self._size -= sum(len(text) for text in self._messages[:count])
        del self._messages[:count]


class Reader:
    """Reads a run from the moment its first viewer came until the last one has left, or it has ended.

    Nothing is queued for anybody: each viewer knows by a number what comes next, and asks. What came
    before the reader, or was dropped before a slow viewer asked, is read for that viewer.
    """

    def __init__(self, run_id: UUID, look: Look) -> None:
        self._run_id = run_id
        self._look = sync_to_async(look, thread_sensitive=False, executor=POOL)
        self.clock = asyncio.get_running_loop().time
        self._turned = self._told = self.clock() - FACTS_EVERY
        self._seen = Seen(LARGEST_SEQ)
        self._recent: Recent | None = None
        self._missed: dict[int, asyncio.Task[News | None]] = {}
        self.facts = self.state = ""
        self.ended = False
        self.viewers = 0
        # Set when there is something for the viewers; then there is a new one for the next time.
        self.turn = asyncio.Event()
        self.task = asyncio.create_task(self._read())
        self.task.add_done_callback(lambda _: self._wake())

    def check(self) -> None:
        """Raise what ended the reader, if it was a mistake."""
        if self.task.done():
            self.task.result()

    def is_over(self, last: int) -> bool:
        """Whether nothing will come after this number."""
        return self.ended and self.is_all(last)

    def is_all(self, last: int) -> bool:
        """Whether nothing is known that comes after this number."""
        return self._recent is None or last >= self._recent.last

    async def after(self, last: int) -> tuple[list[str], int]:
        """Some of the events after this number as they are sent, and the number of the last of them."""
        recent = self._recent
        if recent is None or last >= recent.last:
            return [], last
        if last >= recent.before:
            found = recent.after(last)
            return found, last + len(found)
        try:
            missed = await self._missing(last)
        except OperationalError as error:
            await self._away(error)
            return [], last
        # Rows that are gone are passed over.
        return missed.messages if missed else [], missed.last if missed and missed.events else recent.before

    async def _missing(self, last: int) -> News | None:
        """What came after this number, from the database; who asks for the same meanwhile gets the same."""
        task = self._missed.get(last)
        if task is None:
            seen = replace(self._seen, last=last, rested=False)
            task = self._missed[last] = asyncio.create_task(self._look(self._run_id, seen))
            task.add_done_callback(lambda _: self._missed.pop(last))
        return await asyncio.shield(task)

    async def _away(self, error: OperationalError) -> None:
        """A database that is away comes back, and a thread's broken connection is renewed."""
        logger.warning("Run %s cannot be read for its pages: %s", self._run_id, error)
        await asyncio.sleep(LOOK)

    async def _read(self) -> None:
        async with HUB.listening(bells.channel(str(self._run_id))) as bell:
            while not self.ended:
                bell.clear()
                more = await self._turn()
                await asyncio.sleep(min(REST * self.viewers, LONGEST_REST))
                if not more:
                    await ring_or_time(bell)

    async def _turn(self) -> bool:
        """Take what is new and tell the viewers; whether there may be more at once."""
        rested = self.clock() - self._told >= FACTS_EVERY
        found: News | None = None
        try:
            found = await self._look(self._run_id, replace(self._seen, rested=rested))
            self._take(found)
        except OperationalError as error:
            await self._away(error)
        is_new = found is not None and bool(found.events or found.facts)
        if is_new or self.clock() - self._turned >= BEAT:
            self._wake()
        return found is not None and len(found.events) == SLICE

    def _take(self, found: News | None) -> None:
        if found is None:
            self._recent, self.state, self.ended = None, "gone", True
            return
        if self._recent is None:
            self._recent = Recent(found.count)
        for (number, _), text in zip(found.events, found.messages, strict=True):
            self._recent.add(number, text)
        if found.facts:
            self.facts, self._told = message("facts", found.facts), self.clock()
        self._seen = Seen(self._recent.last, found.version, found.state)
        self.state, self.ended = found.state, found.ended

    def _wake(self) -> None:
        self._turned = self.clock()
        self.turn.set()
        self.turn = asyncio.Event()


READERS: dict[tuple[UUID, Look], Reader] = {}


@asynccontextmanager
async def reading(run_id: UUID, look: Look) -> AsyncIterator[Reader]:
    """The reader of this run: the one that there is, or a new one."""
    reader = READERS.get((run_id, look))
    if reader is None or reader.task.done():
        reader = READERS[run_id, look] = Reader(run_id, look)
    reader.viewers += 1
    try:
        yield reader
    finally:
        reader.viewers -= 1
        if not reader.viewers:
            reader.task.cancel()
            if READERS.get((run_id, look)) is reader:
                del READERS[run_id, look]
