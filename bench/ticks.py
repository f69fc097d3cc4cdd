"""How long the clock is looked at with 10,000 schedules: with nothing due, and with 500 due in one second.

    .venv/bin/python bench/ticks.py [--schedules N] [--due N] [--times N]
    scripts/with-postgres.sh .venv/bin/python bench/ticks.py

`jobs.tick` whole, as the ticker calls it, Redis included; no worker takes what is rung for.
"""

import argparse
import logging
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from stack import ROOT, prepare, wait

STATE = prepare()

import django  # noqa: E402

django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.utils import timezone  # noqa: E402

from agents import jobs  # noqa: E402
from agents.models import Agent, Beat, DockerSettings, Fire, Run, Schedule  # noqa: E402
from agents.models.rights import OPERATOR  # noqa: E402

# A ticker as a process of its own, that looks at the clock once it is told to.
TICKER = """
import datetime, sys
import django
django.setup()
from agents import jobs
jobs.tick(datetime.datetime.fromisoformat("2000-01-01T00:00+00:00"))
print("ready", flush=True)
jobs.tick(datetime.datetime.fromisoformat(sys.stdin.readline().strip()), "cron")
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("schedules", 10_000), ("due", 500), ("agents", 100), ("times", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    call_command("migrate", verbosity=0)
    fill(given)
    now = timezone.now().replace(microsecond=0)
    with redis_server():
        jobs.tick(now, Beat.Source.TICKER)
        idle = [timed(now + timedelta(seconds=number)) for number in range(given.times)]
        print(f"{connection.vendor}: {Schedule.objects.count()} schedules of {given.agents} agents")
        print(f"nothing due: median {statistics.median(idle):.1f} ms, at most {max(idle):.1f} ms")
        for hour, tickers in enumerate((1, 1, 1, 3, 3, 3), 1):
            moment = now + timedelta(hours=hour)
            print(f"{given.due} due at once, {tickers} at work: {fired(moment, given.due, tickers):.2f} s")
        print(f"{Run.objects.count()} runs, {Fire.objects.count()} fires")
        waiting = [timed(moment + timedelta(seconds=number)) for number in range(1, given.times + 1)]
        pending = Run.objects.filter(state__in=Run.PENDING).count()
        print(f"nothing due, {pending} runs wait: median {statistics.median(waiting):.1f} ms")
    assert Run.objects.count() == Fire.objects.filter(kind="started").count() == 6 * given.due


def fired(moment: datetime, due: int, tickers: int) -> float:
    """Seconds until all have their run; those of the last time have ended."""
    Run.objects.exclude(state__in=Run.TERMINAL).update(state="succeeded", finished_at=moment)
    pks = list(Schedule.objects.order_by("?").values_list("pk", flat=True)[:due])
    Schedule.objects.filter(pk__in=pks).update(due_moment=moment, due_at=moment)
    others = [ticker() for _ in range(tickers - 1)]
    begun = time.perf_counter()
    for other in others:
        assert other.stdin
        print(moment.isoformat(), file=other.stdin, flush=True)
    timed(moment)
    wait(lambda: Fire.objects.filter(moment=moment).count() == due, pause=0.01)
    took = time.perf_counter() - begun
    for other in others:
        other.communicate()
    return took


def ticker() -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", TICKER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()
    return process


def timed(now: datetime) -> float:
    begun = time.perf_counter()
    jobs.tick(now, Beat.Source.TICKER)
    return (time.perf_counter() - begun) * 1000


def fill(given: argparse.Namespace) -> None:
    """Schedules that are due some day, each by a rule that fires at 03:30."""
    agents = [
        Agent(name=f"agent-{number}", runtime="echo", default_prompt="It is {time}.")
        for number in range(given.agents)
    ]
    Agent.objects.bulk_create(agents)
    DockerSettings.objects.bulk_create(DockerSettings(agent=agent) for agent in agents)
    owner = User.objects.create_user("owner")
    owner.groups.add(Group.objects.get(name=OPERATOR))
    later = timezone.now() + timedelta(days=20)
    rows = [
        Schedule(
            agent=agents[number % given.agents],
            name=f"s{number}",
            cron="30 3 * * *",
            due_moment=later,
            due_at=later,
            time_zone="Europe/Berlin",
            owner=owner,
            saved_by="owner",
        )
        for number in range(given.schedules)
    ]
    Schedule.objects.bulk_create(rows, batch_size=1000)


@contextmanager
def redis_server() -> Iterator[None]:
    """One on a socket, which ends with the script."""
    options = ["--port", "0", "--unixsocket", f"{STATE}/redis.sock", "--save", "", "--dir", str(STATE)]
    server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    wait((STATE / "redis.sock").exists)
    try:
        yield
    finally:
        server.terminate()
        server.wait()


@contextmanager
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        shutil.rmtree(STATE, ignore_errors=True)
        sys.stdout.flush()


if __name__ == "__main__":
    with quiet():
        main()
