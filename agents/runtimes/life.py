"""A container from the first look to its end: read, awaited, stopped."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import docker
from docker.errors import APIError, NotFound
from docker.models.containers import Container

from agents.runtimes.engine import CONFLICT, ENGINE_ERRORS, Host, connected, engine_time
from agents.runtimes.stream import Collector
from agents.runtimes.types import Exit, Offsets, RunError, Stream

# How long an engine that does not answer is left alone before it is asked again.
RETRY_SECONDS = 1.0
# How long the last output may take after the end of the process before it is fetched again.
DRAIN_SECONDS = 3.0
# The peak of the memory is looked for this often.
SAMPLE_SECONDS = 2.0
SIGNAL_BASE = 128
VANISHED = "The container was removed from outside herdweb while it ran."


class Life:
    """A container from the first look to its end: read, awaited and stopped by threads."""

    def __init__(self, client: docker.DockerClient, container: Container, host: Host, since: Offsets) -> None:
        self.container = container
        self.host = host
        self.api: Any = client.api
        self.engine_id = str(container.id)
        self.fresh = container.status == "created"
        self.found = "created" if self.fresh else f"found {container.status}"
        self.collector = Collector()
        self.received: dict[Stream, int] = {"stdout": since.stdout, "stderr": since.stderr}
        self.ended = threading.Event()
        self.left = threading.Event()
        self.memory_peak = 0
        self._streams: list[Any] = []
        self._readers: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to read, then start the container if it has not been started yet.

        Attached before the start, nothing is lost; a container that already ran is read from the
        engine's log, because attaching to it with its past loses lines.
        """
        if self.fresh:
            self._attach()
            self._start_container()
        else:
            self._replay(follow=True)
        threading.Thread(target=self._watch, daemon=True).start()
        threading.Thread(target=self._sample, daemon=True).start()

    def stop(self, grace: float) -> None:
        """Stop in a thread, again and again until the engine has answered."""
        threading.Thread(target=self._stop, args=(grace,), daemon=True).start()

    def leave(self) -> None:
        """Let go of the engine's connections; the container goes on."""
        self.left.set()
        self._close_streams()

    def exit(self, program: str) -> Exit:
        """How it ended, from a last inspection."""
        attributes = self._inspect()
        if attributes is None:
            return Exit(code=None, note=VANISHED)
        state = attributes["State"]
        code = int(state["ExitCode"])
        return Exit(
            code=code,
            signal=code - SIGNAL_BASE if SIGNAL_BASE < code <= SIGNAL_BASE + 64 else None,
            oom=bool(state.get("OOMKilled")),
            memory_limit=int(attributes["HostConfig"].get("Memory") or 0),
            memory_peak=self.memory_peak,
            started_at=engine_time(state["StartedAt"]),
            finished_at=engine_time(state["FinishedAt"]),
            program=program,
            note=str(state.get("Error") or ""),
        )

    def _start_container(self) -> None:
        try:
            self.container.start()
        except APIError as error:
            self.leave()
            remove(self.container)
            raise RunError(f"The container could not be started: {error.explanation or error}") from error

    def _attach(self) -> None:
        stream = self.api.attach(
            self.engine_id, stdout=True, stderr=True, stream=True, logs=False, demux=True
        )
        self._read(stream, self._carry_both)

    def _replay(self, follow: bool) -> None:
        """Read the engine's log from the byte that comes next in each stream."""
        for name in ("stdout", "stderr"):
            stream = self.api.logs(
                self.engine_id,
                stdout=name == "stdout",
                stderr=name == "stderr",
                stream=True,
                follow=follow,
            )
            self._read(stream, self._carry_one, name)

    def _read(self, stream: Any, carry: Callable[..., None], *arguments: Any) -> None:
        self._streams.append(stream)
        reader = threading.Thread(target=carry, args=(stream, *arguments), daemon=True)
        self._readers.append(reader)
        reader.start()

    def _carry_both(self, stream: Any) -> None:
        with suppress(*ENGINE_ERRORS, OSError, ValueError, AttributeError):
            for out, err in stream:
                self._put("stdout", out)
                self._put("stderr", err)

    def _carry_one(self, stream: Any, name: Stream) -> None:
        known = self.received[name]
        with suppress(*ENGINE_ERRORS, OSError, ValueError, AttributeError):
            for data in stream:
                fresh = data[known:]
                known -= min(known, len(data))
                self._put(name, fresh)

    def _put(self, name: Stream, data: bytes | None) -> None:
        if data and not self.left.is_set():
            self.collector.put(name, data)
            self.received[name] += len(data)

    def _watch(self) -> None:
        """Wait for the end, see that everything was read, then close the collector."""
        threading.Thread(target=self._wait, daemon=True).start()
        while not self.ended.is_set() and not self.left.is_set():
            self._join()
            if not self.ended.wait(RETRY_SECONDS):
                # The stream broke, the container did not: go on where it broke.
                self._again(follow=True)
        self._join(DRAIN_SECONDS)
        if any(reader.is_alive() for reader in self._readers):
            self._close_streams()
            self._again(follow=False)
            self._join(DRAIN_SECONDS)
        self.collector.close()

    def _again(self, follow: bool) -> None:
        self._close_streams()
        with suppress(*ENGINE_ERRORS):
            self._replay(follow)

    def _join(self, seconds: float | None = None) -> None:
        """Wait for the readers; without a bound, as long as the container lives."""
        for reader in list(self._readers):
            while reader.is_alive() and seconds is None and not self.ended.is_set():
                reader.join(0.5)
            reader.join(seconds or 0)

    def _wait(self) -> None:
        while not self.left.is_set():
            try:
                self.api.wait(self.engine_id, timeout=60)
                break
            except NotFound:
                break
            except ENGINE_ERRORS:
                # A time-out, or an engine that is away: its own word on the state decides.
                if self._has_ended():
                    break
                self.left.wait(RETRY_SECONDS)
        self.ended.set()

    def _sample(self) -> None:
        """Look at the memory now and then: when the container has ended, the kernel has forgotten it."""
        while not self.ended.wait(SAMPLE_SECONDS) and not self.left.is_set():
            with suppress(*ENGINE_ERRORS, KeyError):
                memory = self.api.stats(self.engine_id, stream=False, one_shot=True)["memory_stats"]
                # cgroup v1 tells the peak itself, v2 only what is used now.
                self.memory_peak = max(self.memory_peak, memory.get("max_usage") or memory.get("usage") or 0)

    def _has_ended(self) -> bool:
        try:
            self.container.reload()
        except NotFound:
            return True
        except ENGINE_ERRORS:
            return False
        return bool(self.container.status in ("exited", "dead"))

    def _inspect(self) -> dict[str, Any] | None:
        """The container's attributes, as soon as the engine answers; None if it is gone."""
        while True:
            try:
                self.container.reload()
                return dict(self.container.attrs)
            except NotFound:
                return None
            except ENGINE_ERRORS:
                self.left.wait(RETRY_SECONDS)

    def _stop(self, grace: float) -> None:
        while not self.ended.is_set() and not self.left.is_set():
            with suppress(*ENGINE_ERRORS, RunError):
                self._stop_once(grace)
                break
            self.left.wait(RETRY_SECONDS)

    def _stop_once(self, grace: float) -> None:
        """By a client of its own, because stopping takes as long as the grace."""
        with connected(self.host) as client, suppress(NotFound):
            client.containers.get(self.engine_id).stop(timeout=max(0, round(grace)))

    def _close_streams(self) -> None:
        """Close each stream and the response under it, which the SDK leaves to the collector."""
        for stream in self._streams:
            with suppress(*ENGINE_ERRORS, OSError, ValueError, AttributeError):
                stream.close()
            with suppress(*ENGINE_ERRORS, OSError, ValueError, AttributeError):
                stream._response.close()
        self._streams.clear()
        self._readers = [reader for reader in self._readers if reader.is_alive()]


def remove(container: Container) -> None:
    """Remove a container with its anonymous volumes; one that is gone already is fine."""
    with suppress(NotFound):
        try:
            container.remove(v=True, force=True)
        except APIError as error:
            # 409: the engine is removing it already.
            if error.status_code != CONFLICT:
                raise
