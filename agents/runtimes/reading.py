"""What a container prints, each byte once, whatever becomes of the connection to the engine."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import docker
from urllib3.exceptions import HTTPError

from agents.runtimes.engine import ENGINE_ERRORS, Host, connect
from agents.runtimes.stream import Collector
from agents.runtimes.types import Offsets, RunError, Stream

# A stream that brings nothing for so long after the end of the process has hung.
STALL_SECONDS = 3.0
# What the SDK raises when a stream is closed under its reader.
CLOSED = (*ENGINE_ERRORS, HTTPError, OSError, ValueError, AttributeError)


class Reading:
    """Threads that carry a container's output from the engine to the collector.

    `received` counts the bytes of each plain stream that are in the collector or on their way, and
    is where reading goes on after a break. `stopped_at` is the monotonic time at which the first of
    the streams ended.
    """

    def __init__(
        self, host: Host, engine_id: str, since: Offsets, collector: Collector, log_since: float = 0.0
    ) -> None:
        self.host = host
        # Before this the engine's log holds what former runs in the container have printed.
        self.log_since = log_since
        self.engine_id = engine_id
        self.collector = collector
        self.received: dict[Stream, int] = {"stdout": since.stdout, "stderr": since.stderr}
        self._client: docker.DockerClient | None = None
        self._streams: list[Any] = []
        self._readers: list[threading.Thread] = []
        self._closed = False
        # Grows with whatever comes, also with what is known already and skipped.
        self._moved = 0
        self.broken = False
        self.stopped_at = math.inf

    @property
    def goes_on(self) -> bool:
        """Whether every stream still brings output."""
        return bool(self._readers) and all(reader.is_alive() for reader in self._readers)

    def attach(self) -> None:
        """Read both streams live; only before the start, or what was printed before is lost."""
        both = {"stdout": True, "stderr": True}
        stream = self._api().attach(self.engine_id, stream=True, logs=False, demux=True, **both)
        self._read(stream, self._carry_both)

    def replay(self, follow: bool) -> None:
        """Read the engine's log from the byte that comes next in each stream; all of it or an error."""
        names: tuple[Stream, ...] = ("stdout", "stderr")
        streams = {name: self._log(name, follow) for name in names}
        for name, stream in streams.items():
            self._read(stream, self._carry_one, name)

    def again(self, follow: bool) -> None:
        """Let go of what broke and read on; an engine that is away is asked again later."""
        self._release()
        # What the readers hold already still has to reach the collector, before anything newer.
        self.drained()
        self._readers = []
        self.broken, self.stopped_at = False, math.inf
        if not self._closed:
            with suppress(RunError, *CLOSED):
                self.replay(follow)
        if self._closed:
            self._release()

    def drained(self) -> bool:
        """Wait until the streams have ended; False if one hangs although the collector takes more."""
        while any(reader.is_alive() for reader in self._readers):
            before = self._moved
            for reader in self._readers:
                reader.join(STALL_SECONDS)
            if self._moved == before and not self.collector.pieces.full():
                return not any(reader.is_alive() for reader in self._readers)
        return bool(self._readers)

    def close(self) -> None:
        """Stop reading for good."""
        self._closed = True
        self._release()

    def _api(self) -> Any:
        """A client that nobody else uses: closing a stream under its reader can spoil the client's pool."""
        self._client = self._client or connect(self.host)
        return self._client.api

    def _log(self, name: Stream, follow: bool) -> Any:
        wanted: dict[str, Any] = {"stdout": name == "stdout", "stderr": name == "stderr"}
        if self.log_since:
            wanted["since"] = self.log_since
        return self._api().logs(self.engine_id, stream=True, follow=follow, **wanted)

    def _read(self, stream: Any, carry: Callable[..., None], *arguments: Any) -> None:
        self._streams.append(stream)
        pieces = self._pieces_of(stream)
        reader = threading.Thread(target=self._carry, args=(carry, pieces, *arguments), daemon=True)
        self._readers.append(reader)
        reader.start()

    def _pieces_of(self, stream: Any) -> Iterator[Any]:
        """What the stream brings; raises one of CLOSED when it broke or was let go of.

        A reader that could not be woken is left behind: what it may still get, the next one reads.
        """
        # Not by the SDK's own iterator, which ends a stream that broke like one that is through.
        for piece in stream._stream:
            self._still_wanted(stream)
            yield piece
        # A response that was closed before it was read looks like one that is through.
        self._still_wanted(stream)

    def _still_wanted(self, stream: Any) -> None:
        if stream not in self._streams:
            raise OSError("The stream was let go of.")

    def _carry(self, carry: Callable[..., None], *arguments: Any) -> None:
        try:
            carry(*arguments)
        except CLOSED:
            self.broken = True
        finally:
            self.stopped_at = min(self.stopped_at, time.monotonic())

    def _carry_both(self, stream: Any) -> None:
        for out, err in stream:
            self._moved += 1
            self._put("stdout", out)
            self._put("stderr", err)

    def _carry_one(self, stream: Any, name: Stream) -> None:
        known = self.received[name]
        for data in stream:
            self._moved += len(data)
            fresh = data[known:]
            known -= min(known, len(data))
            self._put(name, fresh)

    def _put(self, name: Stream, data: bytes | None) -> None:
        if data and not self._closed:
            self.received[name] += len(data)
            self.collector.put(name, data)

    def _release(self) -> None:
        """Close each stream and the response under it, which the SDK leaves to the garbage collector."""
        # Forgotten before they are closed: a reader that sees the close then also sees whose it was.
        streams, self._streams = self._streams, []
        for stream in streams:
            with suppress(*CLOSED):
                stream.close()
            with suppress(*CLOSED):
                stream._response.close()
        client, self._client = self._client, None
        if client:
            with suppress(*CLOSED):
                client.close()
