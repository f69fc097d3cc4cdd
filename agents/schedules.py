"""When a schedule is due, and claiming that moment once."""

from collections.abc import Callable
from datetime import datetime

from agents.models import Run

Submit = Callable[..., Run]
Cancel = Callable[[Run, str], bool]


def tick(now: datetime, submit: Submit, cancel: Cancel, source: str = "") -> int:
    """Stand-in."""
    return 0


def after_run(run: Run) -> None:
    """Stand-in."""
