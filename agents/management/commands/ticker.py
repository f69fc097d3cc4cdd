"""The ticker: every second what is due, every ten what was left behind, is wrong, and is not kept."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand
from django.db import DatabaseError, close_old_connections
from redis.exceptions import RedisError

from agents import archive, health, jobs, kept, retention
from agents.models import Beat
from agents.runtimes import RunError

logger = logging.getLogger(__name__)

TICK_SECONDS = 1


class Command(BaseCommand):
    """Any number may run at once: what they call is idempotent."""

    help = "Starts what is due and repairs what was left behind, until it is told to end."

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Ask engine and disk in threads, so that one that hangs does not keep runs from starting."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))
        rounds: tuple[tuple[timedelta, Callable[[], None]], ...] = (
            (jobs.SWEEP_EVERY, jobs.sweep),
            (health.LOOK_EVERY, health.look),
            (kept.MEASURE_EVERY, kept.measure),
            (retention.EVERY, retention.turn),
            (archive.SWEEP_EVERY, archive.sweep),
        )
        for period, work in rounds:
            threading.Thread(target=every, args=(period.total_seconds(), work), daemon=True).start()
        every(TICK_SECONDS, partial(jobs.tick, source=Beat.Source.TICKER))


def every(seconds: float, work: Callable[[], None]) -> None:
    """Do the work for ever, whatever happens to it."""
    complaint = ""
    if threading.current_thread() is not threading.main_thread():
        # Signals are for the main thread: only its sleep is to be cut short.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    while True:
        complaint = attempt(work, complaint)
        close_old_connections()
        time.sleep(seconds)


def attempt(work: Callable[[], None], before: str) -> str:
    """Do the work once; the same complaint as before is not logged again."""
    try:
        work()
    except (DatabaseError, RedisError, RunError) as error:
        if str(error) != before:
            logger.warning("The ticker goes on without what is away: %s", error)
        return str(error)
    except Exception as error:
        if str(error) != before:
            logger.exception("The ticker goes on after a mistake of ours.")
        return str(error)
    return ""
