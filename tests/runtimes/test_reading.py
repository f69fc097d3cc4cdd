"""A container's output, each byte once, when connections break and the reader is slow."""

import threading
import time
from dataclasses import replace
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from agents import machine
from agents.runtimes import Offsets
from agents.runtimes.life import Life

LINES = "for t in 0 1 2 3 4 5 6 7 8 9; do seq $((t*30+1)) $((t*30+30)); sleep 0.1; done; echo end >&2"
NUMBERS = b"".join(b"%d\n" % n for n in range(1, 301))


@pytest.fixture
def life(engine: docker.DockerClient, tiny_image: str, request: pytest.FixtureRequest) -> Any:
    """A container of the tiny image that has not been started, watched but not by a runner."""
    script = getattr(request, "param", LINES)
    container = engine.containers.create(tiny_image, ["sh", "-c", script], init=True, network_mode="none")
    watched = Life(engine, container, machine.host(), Offsets())
    yield watched
    watched.leave()
    container.remove(force=True)


def collected(life: Life, pause: float = 0) -> dict[str, bytes]:
    """Everything, as a reader that takes its time between batches gets it."""
    found: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    for batch in life.collector.batches():
        for line in batch:
            found[line.stream].append(line.raw)
        time.sleep(pause)
    return {stream: b"".join(lines) for stream, lines in found.items()}


def test_both_streams_are_read_whole(life: Life) -> None:
    life.start()
    assert collected(life) == {"stdout": NUMBERS, "stderr": b"end\n"}


def test_a_connection_that_breaks_costs_nothing(life: Life) -> None:
    life.start()
    time.sleep(0.3)
    life.reading._release()
    assert collected(life) == {"stdout": NUMBERS, "stderr": b"end\n"}


def test_a_second_break_costs_nothing_either(life: Life) -> None:
    life.start()
    time.sleep(0.2)
    life.reading._release()
    time.sleep(1.4)
    life.reading._release()
    assert collected(life) == {"stdout": NUMBERS, "stderr": b"end\n"}


@pytest.mark.parametrize("life", ["seq 1 60000"], indirect=True)
def test_a_break_in_the_last_reading_is_not_taken_for_the_end(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the connection breaks while the engine's log is read after the end, before anything new."""
    replay = life.reading.replay
    breaks: list[bool] = []

    def breaking(follow: bool) -> None:
        replay(follow)
        if len(breaks) < 2:
            breaks.append(follow)
            life.reading._release()

    monkeypatch.setattr(life.reading, "replay", breaking)
    monkeypatch.setattr(life.reading, "attach", lambda: None)
    life.start()
    assert collected(life)["stdout"] == b"".join(b"%d\n" % n for n in range(1, 60_001))
    assert len(breaks) == 2


@pytest.mark.parametrize("life", ["echo before; exec >&- 2>&-; sleep 1.5; exit 3"], indirect=True)
def test_an_agent_that_closes_its_output_is_awaited(life: Life) -> None:
    started = time.monotonic()
    life.start()
    assert collected(life)["stdout"] == b"before\n"
    assert time.monotonic() - started > 1.4
    assert life.exit("sh").code == 3


def test_an_engine_that_does_not_tell_the_end_is_asked(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a container is forgotten now and then, until the wait times out."""
    told = threading.Event()
    monkeypatch.setattr(life.api, "wait", lambda *_, **__: told.wait(60))
    started = time.monotonic()
    life.start()
    assert collected(life) == {"stdout": NUMBERS, "stderr": b"end\n"}
    assert time.monotonic() - started < 20
    assert life.exit("sh").code == 0
    told.set()


@pytest.mark.slow
@pytest.mark.parametrize("life", ["seq 1 200000"], indirect=True)
def test_a_slow_reader_gets_a_flood_once(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flood has ended long before the reader is through; nothing is taken for a hang."""
    monkeypatch.setattr("agents.runtimes.reading.STALL_SECONDS", 0.2)
    life.start()
    expected = b"".join(b"%d\n" % n for n in range(1, 200_001))
    assert collected(life, pause=0.3)["stdout"] == expected


def test_an_adopter_goes_on_at_the_byte_that_comes_next(life: Life, engine: docker.DockerClient) -> None:
    container: Container = life.container
    container.start()
    time.sleep(0.3)
    container.reload()
    second = Life(engine, container, machine.host(), replace(Offsets(), stdout=100, stderr=1))
    second.start()
    assert collected(second) == {"stdout": NUMBERS[100:], "stderr": b"nd\n"}
    second.leave()
