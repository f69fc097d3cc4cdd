"""What a container uses now, from the engine's statistics of one moment and the one before."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agents.runtimes.engine import engine_time
from agents.runtimes.types import Usage

# Files that are cached only because they were read: they make room when memory is needed, so the
# engine's own tools leave them out, too. The first name is cgroup v1's, which has the second as
# well, but without the processes below.
CACHED_FILES = ("total_inactive_file", "inactive_file")


def usage_of(stats: Mapping[str, Any], before: Mapping[str, Any]) -> Usage | None:
    """What these statistics say; `before` are earlier ones, or none. None for an ended container."""
    memory = stats["memory_stats"]
    used = memory.get("usage")
    if used is None:
        return None
    details = memory.get("stats") or {}
    cached = next((details[name] for name in CACHED_FILES if name in details), 0)
    return Usage(
        memory=used - cached if cached < used else used,
        cpu_percent=cpu_percent(stats, before),
        at=datetime.now(UTC),
        # cgroup v1 tells the peak itself, v2 only what is used now.
        peak=memory.get("max_usage") or used,
    )


def cpu_percent(stats: Mapping[str, Any], before: Mapping[str, Any]) -> float | None:
    """The share of one core between two moments, 250.0 for two and a half; None without a past."""
    if not before:
        return None
    since, until = engine_time(before["read"]), engine_time(stats["read"])
    spent = nanoseconds(stats) - nanoseconds(before)
    if since is None or until is None or until <= since or spent < 0:
        return None
    return spent / 1e9 / (until - since).total_seconds() * 100


def nanoseconds(stats: Mapping[str, Any]) -> int:
    """The time that all cores have spent on the container so far."""
    return int(stats["cpu_stats"]["cpu_usage"]["total_usage"])
