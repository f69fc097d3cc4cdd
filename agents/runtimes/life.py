"""A container from the first look to its end: read, awaited, stopped."""

import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import docker
from docker.errors import APIError, NotFound
from docker.models.containers import Container
from requests.exceptions import RequestException

from agents.runtimes.base import FROM_OUTSIDE
from agents.runtimes.engine import CONFLICT, ENGINE_ERRORS, Host, connected, engine_time
from agents.runtimes.reading import CLOSED, Reading
from agents.runtimes.stream import Collector
from agents.runtimes.types import ENGINE_LEFT, EngineAway, Exit, Offsets, RunError, Usage
from agents.runtimes.usage import usage_of

# How long an engine that does not answer is left alone before it is asked again.
RETRY_SECONDS = 1.0
# How often it is seen whether the output still comes.
LOOK_SECONDS = 0.2
# Memory and CPU are looked at this often, and for the first time after this long: a run that is
# over by then costs nothing more.
SAMPLE_SECONDS, FIRST_SAMPLE_SECONDS = 2.0, 1.0
# Streams that end with their container do so within this time.
TOGETHER_SECONDS = 0.1
# How often the engine's log is asked for the rest before it is given up.
ATTEMPTS = 5
TIMED_OUT = "timed out"
NO_STATE = {"State": {"FinishedAt": "0001-01-01T00:00:00Z"}}
SIGNAL_BASE = 128
ENDED = ("exited", "dead")
VANISHED = "The container was removed from outside herdweb while it ran."


class Life:
    """A container from the first look to its end: read, awaited and stopped by threads."""

    def __init__(
        self,
        client: docker.DockerClient,
        container: Container,
        host: Host,
        since: Offsets,
        fresh: bool | None = None,
        log_since: float = 0.0,
    ) -> None:
        """`fresh`: its run is still to be started in it; `log_since`: where the log of this run begins."""
        self.container = container
        self.host = host
        self.api: Any = client.api
        self.engine_id = str(container.id)
        self.new = container.status == "created"
        self.fresh = self.new if fresh is None else fresh
        self.found = "created" if self.new else f"found {container.status}"
        self.collector = Collector()
        self.reading = Reading(host, self.engine_id, since, self.collector, log_since)
        self.ended = threading.Event()
        self.left = threading.Event()
        self._ending = threading.Lock()
        self.complete = False
        self.interrupted = False
        self.out_of_touch = False
        self.asked = False
        self.ended_at = 0.0
        self.memory_peak = 0
        self._news: Usage | None = None

    def start(self) -> None:
        """Begin to read, then start the container if it has not been started yet.

        Attached before the start, nothing is lost; a container that already ran is read from the
        engine's log, because attaching to it with its past loses lines. Raises EngineAway when the
        engine went away meanwhile: whether it started the container is seen by who adopts it.
        """
        try:
            self._begin()
        except APIError:
            # An answer, though not the one that was wished for.
            raise
        except RequestException as error:
            raise EngineAway(f"The Docker engine stopped answering: {error}") from error
        threading.Thread(target=self._watch, daemon=True).start()
        threading.Thread(target=self._sample, daemon=True).start()

    def stop(self, grace: float) -> None:
        """Stop in a thread, again and again until the engine has answered."""
        self.asked = True
        threading.Thread(target=self._stop, args=(grace,), daemon=True).start()

    def leave(self) -> None:
        """Let go of the engine's connections; the container goes on."""
        self.left.set()
        self.reading.close()

    def news(self) -> list[Usage]:
        """The latest sample, once."""
        usage, self._news = self._news, None
        return [usage] if usage else []

    def exit(self, program: str) -> Exit:
        """How it ended, from a last inspection."""
        attributes = self._inspect()
        if attributes is None:
            return Exit(code=None, note=VANISHED)
        state = attributes["State"]
        code = int(state["ExitCode"])
        number = code - SIGNAL_BASE if SIGNAL_BASE < code <= SIGNAL_BASE + 64 else None
        oom = bool(state.get("OOMKilled"))
        left = ENGINE_LEFT if number in FROM_OUTSIDE and not oom and self._engine_went() else ""
        return Exit(
            code=code,
            signal=number,
            oom=oom,
            memory_limit=int(attributes["HostConfig"].get("Memory") or 0),
            memory_peak=self.memory_peak,
            started_at=engine_time(state["StartedAt"]),
            finished_at=engine_time(state["FinishedAt"]),
            program=program,
            note=str(state.get("Error") or left),
        )

    def _begin(self) -> None:
        if self.fresh:
            self.reading.attach()
            self._start_container()
        else:
            self.reading.replay(follow=True)

    def _start_container(self) -> None:
        try:
            self.container.start()
        except APIError as error:
            self.leave()
            if self.new:
                remove(self.container)
            raise RunError(f"The container could not be started: {error.explanation or error}") from error

    def _watch(self) -> None:
        """Wait for the end, see that everything was read, then close the collector whatever happened."""
        try:
            self._read_to_the_end()
        finally:
            self.collector.close()

    def _read_to_the_end(self) -> None:
        threading.Thread(target=self._wait, daemon=True).start()
        while not self.ended.is_set() and not self.left.is_set():
            if self.reading.goes_on:
                self.ended.wait(LOOK_SECONDS)
            elif not self.ended.wait(RETRY_SECONDS):
                if self._has_ended():
                    # The engine has not told those who wait, and does not always do so.
                    self._note_the_end(interrupted=True)
                    break
                # The stream broke, the container did not: go on where it broke.
                self.reading.again(follow=True)
        self.complete = self.reading.drained() and not self._may_lack_the_end()
        for _ in range(ATTEMPTS):
            if self.complete or self.left.is_set():
                break
            # The engine may still be writing its log: only a reading that brings nothing more, and
            # did not break, shows that there is nothing more.
            before = dict(self.reading.received)
            self.reading.again(follow=False)
            whole = self.reading.drained() and not self.reading.broken
            self.complete = whole and self.reading.received == before

    def _wait(self) -> None:
        interrupted = False
        while not self.left.is_set():
            try:
                self.api.wait(self.engine_id, timeout=60)
                break
            except NotFound:
                break
            except CLOSED as error:
                # A time-out, or an engine that is away: its own word on the state decides.
                broken = TIMED_OUT not in str(error)
                interrupted |= broken
                self.out_of_touch |= broken
                state = (self._inspect() or NO_STATE)["State"]
                if state.get("Status", "dead") in ENDED:
                    break
                # It outlived whatever happened to the engine until now.
                self.out_of_touch = False
                self.left.wait(RETRY_SECONDS)
        self._note_the_end(interrupted=interrupted)

    def _note_the_end(self, *, interrupted: bool) -> None:
        """Whoever learns of it first says so."""
        with self._ending:
            if not self.ended.is_set():
                self.interrupted |= interrupted
                self.ended_at = time.monotonic()
                self.ended.set()

    def _may_lack_the_end(self) -> bool:
        """Whether the streams ended before the agent did: the engine's log has the rest.

        That the end was told long after the streams ended proves nothing, for the engine first
        writes its own log; then its word on when the process ended decides.
        """
        if self.reading.broken or self.interrupted:
            return True
        before_end = self.ended_at - self.reading.stopped_at
        if before_end <= TOGETHER_SECONDS:
            return False
        finished = engine_time((self._inspect() or NO_STATE)["State"]["FinishedAt"])
        stopped = datetime.now(UTC) - timedelta(seconds=time.monotonic() - self.reading.stopped_at)
        return finished is None or (finished - stopped).total_seconds() > TOGETHER_SECONDS

    def _sample(self) -> None:
        """Look at memory and CPU now and then: when the container has ended, the kernel has forgotten."""
        before: dict[str, Any] = {}
        pause = FIRST_SAMPLE_SECONDS
        while not self.ended.wait(pause) and not self.left.is_set():
            pause = SAMPLE_SECONDS
            with suppress(*CLOSED, KeyError):
                stats = self.api.stats(self.engine_id, stream=False, one_shot=True)
                self._sampled(usage_of(stats, before))
                before = stats

    def _sampled(self, usage: Usage | None) -> None:
        if usage:
            self.memory_peak = max(self.memory_peak, usage.peak)
            self._news = replace(usage, peak=self.memory_peak)

    def _has_ended(self) -> bool:
        try:
            self.container.reload()
        except NotFound:
            return True
        except ENGINE_ERRORS:
            return False
        return self.container.status in ENDED

    def _inspect(self) -> dict[str, Any] | None:
        """The container's attributes, as soon as the engine answers; None if it is gone, or left."""
        while not self.left.is_set():
            try:
                self.container.reload()
                return dict(self.container.attrs)
            except NotFound:
                return None
            except ENGINE_ERRORS:
                self.left.wait(RETRY_SECONDS)
        return None

    def _engine_went(self) -> bool:
        """Whether the engine took the container along; one that is stopped tells of the end, then goes."""
        if not self.out_of_touch and not self.asked:
            self.left.wait(RETRY_SECONDS)
            try:
                self.api.ping()
            except ENGINE_ERRORS:
                self.out_of_touch = True
        return self.out_of_touch

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


def remove(container: Container) -> None:
    """Remove a container with its anonymous volumes; one that is gone already is fine."""
    with suppress(NotFound):
        try:
            container.remove(v=True, force=True)
        except APIError as error:
            # 409: the engine is removing it already.
            if error.status_code != CONFLICT:
                raise
