"""What looking at the clock costs: with nothing due, and with many schedules due in the same second.

    .venv/bin/python bench/ticks.py [schedules] [due] [agents]
    scripts/with-postgres.sh .venv/bin/python bench/ticks.py

No worker runs, so that what is measured is the ticker's own time. A round is one `jobs.tick`, with
everything else that it looks after.
"""

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
from django.test.utils import CaptureQueriesContext  # noqa: E402
from django.utils import timezone  # noqa: E402

from agents import jobs  # noqa: E402
from agents.models import Agent, DockerSettings, Fire, Run, Schedule  # noqa: E402
from agents.models.rights import OPERATOR  # noqa: E402

ROUNDS, TIMES = 20, 3
# A ticker as a process of its own, that looks once it is told to.
TICKER = """
import django, sys
django.setup()
from agents import jobs
from agents.models import Schedule
Schedule.objects.exists()
print("ready", flush=True)
sys.stdin.readline()
jobs.tick(source="cron")
"""


def main(schedules: int = 10_000, due: int = 500, agents: int = 100) -> None:
    with redis():
        call_command("migrate", verbosity=0)
        make(schedules, agents)
        print(f"{connection.vendor}, {schedules} schedules of {agents} agents")
        idle()
        fire(due)
        queries()


@contextmanager
def redis() -> Iterator[None]:
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", "redis.sock", "--save", ""],
        cwd=STATE,
        stdout=subprocess.DEVNULL,
    )
    wait((STATE / "redis.sock").exists)
    try:
        yield
    finally:
        server.terminate()
        server.wait()


def make(schedules: int, agents: int) -> None:
    rows = Agent.objects.bulk_create(
        Agent(name=f"agent-{number}", runtime="echo", default_prompt="Go on. It is {time}.")
        for number in range(agents)
    )
    DockerSettings.objects.bulk_create(DockerSettings(agent=agent) for agent in rows)
    owner = User.objects.create_user("owner")
    owner.groups.add(Group.objects.get(name=OPERATOR))
    later = timezone.now().replace(microsecond=0) + timedelta(days=1)
    Schedule.objects.bulk_create(
        Schedule(
            agent=rows[number % agents],
            name=f"s{number}",
            cron=f"{number % 60} {number % 24} * * *",
            time_zone="Europe/Berlin",
            owner=owner,
            saved_by="owner",
            due_moment=later,
            due_at=later,
        )
        for number in range(schedules)
    )


def idle() -> None:
    """Nothing is due."""
    jobs.tick(source="ticker")
    print(f"nothing due: {line([timed() for _ in range(ROUNDS)])} (aim: under 20 ms)")


def fired(due: int, others: int) -> tuple[float, float]:
    """All are due in this second: how long until all have their run, and processor time of this process."""
    tickers = [ticker() for _ in range(others)]
    now = make_due(due)
    for each in tickers:
        assert each.stdin
        each.stdin.write("go\n")
        each.stdin.flush()
    started, before = time.perf_counter(), time.process_time()
    jobs.tick(source="ticker")
    used = time.process_time() - before
    wait(lambda: Fire.objects.filter(moment=now).count() == due, pause=0.01)
    took = time.perf_counter() - started
    for each in tickers:
        each.communicate()
    kinds = set(Fire.objects.filter(moment=now).values_list("kind", flat=True))
    assert kinds == {"started"}, kinds
    assert Run.objects.filter(fires__moment=now).count() == due
    return took, used


def fire(due: int) -> None:
    """Once and again, because a machine has other things to do as well."""
    for what, others in (("one ticker", 0), ("three tickers at once", 2)):
        rounds = [fired(due, others) for _ in range(TIMES)]
        took, used = zip(*rounds, strict=True)
        print(
            f"{due} due at once, {what}: best {min(took):.2f} s, worst {max(took):.2f} s (aim: under 5 s);"
            f" processor time of one {min(used):.2f} s, {min(used) / due * 1000:.1f} ms each"
        )


def ticker() -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", TICKER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()
    return process


def make_due(count: int) -> datetime:
    """Some of the schedules, at this second; runs of earlier rounds have ended."""
    Run.objects.exclude(state__in=Run.TERMINAL).update(state="succeeded", finished_at=timezone.now())
    now = timezone.now().replace(microsecond=0)
    if Fire.objects.filter(moment=now).exists():
        time.sleep(1)
        return make_due(count)
    chosen = Schedule.objects.order_by("pk").values("pk")[:count]
    Schedule.objects.filter(pk__in=list(chosen.values_list("pk", flat=True))).update(
        due_moment=now, due_at=now
    )
    return now


def queries() -> None:
    """Of one schedule among them."""
    make_due(1)
    with CaptureQueriesContext(connection) as idle:
        jobs.tick(timezone.now() - timedelta(days=1))
    with CaptureQueriesContext(connection) as seen:
        jobs.tick()
    print(f"queries: {len(idle)} with nothing due, {len(seen) - len(idle)} more for one run")


def timed() -> float:
    started = time.perf_counter()
    jobs.tick(source="ticker")
    return time.perf_counter() - started


def line(seconds: list[float]) -> str:
    ms = [value * 1000 for value in seconds]
    return f"median {statistics.median(ms):.1f} ms (min {min(ms):.1f}, max {max(ms):.1f}, n={len(ms)})"


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
