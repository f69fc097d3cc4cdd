"""Two tickers and a line in a crontab look at the same clock for a minute, in earnest."""

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from agents import schedules
from agents.models import Agent, Beat, Fire, Run, Schedule
from tests.conftest import ROOT, end, start, until
from tests.test_cron import inside

__all__ = ["inside"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
Inside = Callable[..., "subprocess.CompletedProcess[str]"]
MINUTE = timedelta(seconds=60)


@pytest.mark.timeout(300)
def test_each_moment_of_a_minute_is_one_run_whoever_looks(
    inside: Inside, make_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    agent = make_agent(default_prompt="Go.", max_concurrent=64)
    begun = timezone.now().replace(microsecond=0)
    fields = {"agent": agent, "overlap": "wait", "missed": "all", "time_zone": "UTC"}
    rows = [
        Schedule.objects.create(
            name=f"i{number}", interval=30, anchor=begun + timedelta(seconds=number % 30), **fields
        )
        for number in range(40)
    ]
    rows += [Schedule.objects.create(name=f"c{number}", cron="* * * * *", **fields) for number in range(40)]
    for row in rows:
        schedules.set_due(row, begun)
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    # cron tells a changed crontab by its time in whole seconds.
    time.sleep(1.1)
    command = [sys.executable, str(ROOT / "manage.py"), "cron", "install"]
    assert inside(*command, HERDWEB_STATE_DIR=str(state)).returncode == 0
    tickers = [start("manage.py", "ticker") for _ in range(2)]
    try:
        until(lambda: timezone.now() > begun + MINUTE + timedelta(seconds=8), "A minute took longer", 90)
        until(lambda: Beat.objects.filter(source="cron", at__isnull=False).exists(), "cron did not tick", 75)
        time.sleep(2)
        until(
            lambda: not any(row.due_at and row.due_at < timezone.now() for row in current()),
            "Something is due",
        )
        last = timezone.now() - timedelta(seconds=5)
    finally:
        for ticker in tickers:
            end(ticker)
        inside(*command[:-1], "remove", HERDWEB_STATE_DIR=str(state))
    due = {(row.pk, moment) for row in rows for moment in row.rule.between(begun, last)}
    told = {(fire.schedule_id, fire.moment): fire for fire in Fire.objects.all()}
    assert len(due) >= 80
    assert due - told.keys() == set()
    assert all(fire.count == 1 and fire.kind == "started" and fire.run_id for fire in told.values())
    assert Run.objects.count() == len(told) == len({fire.run_id for fire in told.values()})
    assert {fire.source for fire in told.values()} <= {"ticker", "cron"}


def current() -> list[Schedule]:
    return list(Schedule.objects.only("due_at"))
