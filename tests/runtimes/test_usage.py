"""What a container uses: read from the engine's statistics, and from a real container."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from agents.runtimes import Parsed, Usage
from agents.runtimes.base import Mask, Reader
from agents.runtimes.types import FROM_THE_START, Line, Message, Output
from agents.runtimes.usage import usage_of
from tests.runtimes.test_contract import Case, prepared

MB = 1024**2
NOW = datetime(2026, 1, 1, tzinfo=UTC)
# The fields of the two generations of the kernel's accounting.
V1 = {"usage": 90 * MB, "max_usage": 120 * MB, "stats": {"inactive_file": 1, "total_inactive_file": 40 * MB}}
V2 = {"usage": 90 * MB, "stats": {"inactive_file": 40 * MB}}


def stats(seconds: float, spent: float, memory: dict[str, Any]) -> dict[str, Any]:
    return {
        "read": f"2026-01-01T00:00:{seconds:012.9f}Z",
        "cpu_stats": {"cpu_usage": {"total_usage": int(spent * 1e9)}},
        "memory_stats": memory,
    }


@pytest.mark.parametrize(("memory", "peak"), [(V1, 120 * MB), (V2, 90 * MB)], ids=["v1", "v2"])
def test_memory_is_told_without_cached_files(memory: dict[str, Any], peak: int) -> None:
    usage = usage_of(stats(1, 0, memory), {})
    assert usage
    assert (usage.memory, usage.peak, usage.cpu_percent) == (50 * MB, peak, None)


def test_cpu_is_told_from_two_moments() -> None:
    usage = usage_of(stats(3, 6.5, V2), stats(1, 1.5, V2))
    assert usage
    assert usage.cpu_percent == pytest.approx(250)


@pytest.mark.parametrize(("seconds", "spent"), [(1, 2), (0.5, 2), (3, 0.1)])
def test_moments_that_cannot_be_compared_tell_no_cpu(seconds: float, spent: float) -> None:
    usage = usage_of(stats(seconds, spent, V2), stats(1, 1, V2))
    assert usage
    assert usage.cpu_percent is None


def test_a_container_that_has_ended_uses_nothing() -> None:
    ended = {**stats(1, 0, {}), "read": "0001-01-01T00:00:00Z"}
    assert usage_of(ended, stats(1, 1, V2)) is None


def test_a_sample_in_the_middle_of_a_line_does_not_cut_a_secret_in_two() -> None:
    reader = Reader(lambda line: [Message("text", line)], Mask({"KEY": "sentinel-4711"}), FROM_THE_START)
    begin, rest = Line("stdout", b"a senti"), Line("stdout", b"nel-4711\n")
    outputs: list[Output] = [begin, Usage(1, None, NOW, 1), rest]
    reports = [report for output in outputs for report in reader.read(output)]
    assert Usage(1, None, NOW, 1) in reports
    raw = b"".join(report.line.raw for report in reports if isinstance(report, Parsed))
    assert raw == b"a *************\n"


@pytest.fixture
def samples(tiny_image: str) -> Callable[[str, int], list[Usage]]:
    """The first samples of a script in a real container, which is then stopped."""

    def sample(script: str, count: int) -> list[Usage]:
        runtime, request = prepared(Case("command", tiny_image, ("sh", "-c", script)), True, {})
        found: list[Usage] = []
        for report in itertools.chain.from_iterable(runtime.execute(request)):
            if isinstance(report, Usage) and len(found) < count:
                found.append(report)
                if len(found) == count:
                    runtime.stop(0)
        return found

    return sample


def test_a_container_that_holds_memory_and_idles(samples: Callable[[str, int], list[Usage]]) -> None:
    first, second = samples("x=$(yes aaaaaaaaaaaaaaaa | head -c 30000000); sleep 60; echo ${#x}", 2)
    assert 30_000_000 < second.memory <= second.peak < 300_000_000
    assert first.cpu_percent is None
    assert second.cpu_percent is not None
    assert second.at > first.at


def test_a_container_that_burns_a_core(samples: Callable[[str, int], list[Usage]]) -> None:
    usage = samples("while :; do :; done", 2)[1]
    assert usage.cpu_percent is not None
    # One core at most; this machine may be busy with other things.
    assert 15 < usage.cpu_percent < 130
    assert 0 < usage.memory < 50_000_000


def test_nothing_is_said_of_a_run_that_is_short(samples: Callable[[str, int], list[Usage]]) -> None:
    assert samples("echo done", 1) == []
