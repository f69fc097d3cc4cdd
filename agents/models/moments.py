"""When a schedule is due."""

from dataclasses import dataclass
from datetime import datetime

MIN_INTERVAL, MAX_INTERVAL = 30, 366 * 86400


@dataclass(frozen=True)
class Rule:
    """Stand-in."""

    cron: str = ""
    interval: int = 0
    zone: str = "UTC"
    anchor: datetime | None = None
    begins: datetime | None = None
    ends: datetime | None = None
    blackouts: tuple[object, ...] = ()


def parse_blackout(text: str) -> object:
    """Stand-in."""
    return text


def parse_cron(text: str) -> str:
    """Stand-in."""
    return text


def parse_zone(text: str) -> str:
    """Stand-in."""
    return text
