"""Several processes that look at the clock at once, some of which are killed: one run per due moment."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from django.db import OperationalError, connections
from django.utils import timezone

from agents import execution, jobs, schedules
from agents.models import Agent, Fire, Run, Schedule
from agents.queueing import Turn
from tests.conftest import end, start, until

MakeAgent = Callable[..., Agent]
Start = Callable[[], subprocess.Popen[bytes]]
# As a line in a crontab does it, but again and again.
LOOKING = "import django; django.setup(); from agents import jobs\nwhile True: jobs.tick(source='cron')"
# In seconds: how long moments are due for, and in what steps.
LONG, STEP = 6.0, 0.04


@pytest.fixture
def tickers(transactional_db: None) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two tickers, and somebody who looks as often as possible."""
    found = [start("manage.py", "ticker"), start("manage.py", "ticker"), start("-c", LOOKING)]
    yield found
    for process in found:
        end(process)


def make(agent: Agent, name: str, due: datetime) -> Schedule:
    """With one moment in a while."""
    anchor = due - timedelta(hours=1)
    schedule = Schedule.objects.create(agent=agent, name=name, interval=3600, anchor=anchor, time_zone="UTC")
    schedules.set_due(schedule, due - timedelta(seconds=1))
    return schedule


@pytest.mark.slow
def test_of_several_processes_one_acts_on_a_moment_even_when_some_are_killed(
    make_agent: MakeAgent, tickers: list[subprocess.Popen[bytes]]
) -> None:
    agent = make_agent("busy", default_prompt="Go.")
    begin = timezone.now() + timedelta(seconds=3)
    moments = [begin + number * timedelta(seconds=STEP) for number in range(int(LONG / STEP))]
    rows = [make(agent, f"s{number}", due) for number, due in enumerate(moments)]
    # Until all look, and then at some moment in between.
    until(lambda: Fire.objects.count() > len(rows) / 3, "nobody looks at the clock")
    end(tickers[2], signal.SIGKILL)
    tickers.append(start("-c", LOOKING))
    end(tickers[0], signal.SIGKILL)
    until(lambda: timezone.now() > moments[-1], "the clock stands still")
    until(lambda: Fire.objects.count() >= len(rows), "some moment was not acted on")
    time.sleep(1.5)
    told = [(schedule.fires.count(), schedule.runs.count()) for schedule in rows]
    assert told == [(1, 1)] * len(rows)
    # Who is first is chance: whoever looks all the time may win each.
    assert set(Fire.objects.values_list("kind", flat=True)) == {"started"}
    assert set(Fire.objects.values_list("source", flat=True)) <= {"ticker", "cron"}
    assert list(Fire.objects.order_by("moment").values_list("moment", flat=True)) == moments


def test_claims_and_cancels_of_the_same_runs_never_lock_each_other_out(
    transactional_db: None, make_agent: MakeAgent
) -> None:
    agent = make_agent("busy", max_concurrent=64)
    runs = [jobs.submit(agent, "x", turn=Turn(ring=False)) for _ in range(40)]
    refused: list[str] = []

    def each(deed: Callable[[Run], object]) -> None:
        try:
            for run in runs:
                deed(Run.objects.select_related("agent").get(pk=run.pk))
        except OperationalError as error:
            refused.append(str(error))
        finally:
            connections.close_all()

    def claim(run: Run) -> object:
        return execution.claim(run, "a worker")

    def cancel(run: Run) -> object:
        return jobs.cancel(run, "alice")

    threads = [threading.Thread(target=each, args=(deed,)) for deed in (claim, cancel, claim, cancel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert refused == []
