"""Hints from Redis that there is something to read: whoever gets none looks by himself, a little later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio as redis
from django.conf import settings
from redis.exceptions import RedisError

from agents import bells

# The longest wait for a hint, in seconds: it may have been lost.
LOOK = 0.5


class Hub:
    """One subscription for the whole process, whose hints go to everybody who waits for them."""

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
            await subscription.psubscribe(bells.channel("*"))
            async for hint in subscription.listen():
                self._ring(hint)

    def _ring(self, hint: dict[str, Any]) -> None:
        channel = hint["channel"]
        name = channel.decode() if isinstance(channel, bytes) else str(channel)
        for bell in self._bells.get(name, ()):
            bell.set()


async def ring_or_time(bell: asyncio.Event) -> None:
    """Wait for a hint, but not for long."""
    try:
        async with asyncio.timeout(LOOK):
            await bell.wait()
    except TimeoutError:
        pass
