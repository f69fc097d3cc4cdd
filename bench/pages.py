"""How long lists and pages take with 100,000 runs and 5 million events.

    .venv/bin/python bench/pages.py [--runs N] [--events N] [--state DIR] [--times N]
    scripts/with-postgres.sh .venv/bin/python bench/pages.py

Every page is asked for through Django's test client, as an administrator and as an operator whose
agents are limited to a group. A state directory that is named is kept, and its history used again.
"""

import argparse
import logging
import os
import re
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from stack import prepare

AIM = 150


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("runs", 100_000), ("events", 5_000_000), ("times", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--state", type=Path, help="kept and used again; default: a new one, removed")
    return parser.parse_args()


GIVEN = arguments()
if GIVEN.state:
    GIVEN.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.setdefault("DATABASE_URL", f"sqlite:///{GIVEN.state.resolve()}/herdweb.sqlite3")
STATE = prepare()

import django  # noqa: E402

django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import reverse  # noqa: E402

from agents.management.history import RARE  # noqa: E402
from agents.models import Agent, Container, Run, Session  # noqa: E402

DEEP = 40


def main() -> None:
    call_command("migrate", verbosity=0)
    if not Run.objects.exists():
        begun = time.monotonic()
        call_command("make_history", runs=GIVEN.runs, events=GIVEN.events)
        print(f"made in {time.monotonic() - begun:.0f} s")
    print(f"{connection.vendor}: {Run.objects.count()} runs, {Session.objects.count()} sessions,"
          f" {Container.objects.count()} containers, {GIVEN.times} times each")  # fmt: skip
    slow = [line for who in (administrator(), operator()) for line in table(who)]
    print(f"{len(slow)} slower than {AIM} ms at the median", *slow, sep="\n  ")


def administrator() -> User:
    return User.objects.filter(username="bench").first() or User.objects.create_superuser("bench")


def operator() -> User:
    """Sees one agent in four."""
    group, _ = Group.objects.get_or_create(name="bench")
    for agent in Agent.objects.order_by("pk"):
        agent.groups.set([group] if agent.pk % 4 == 0 else [Group.objects.get(name="Administrator")])
    user, _ = User.objects.get_or_create(username="bench-operator")
    user.groups.set([group, Group.objects.get(name="Operator")])
    return user


def table(user: User) -> list[str]:
    """Print the times of every page for a user; returns the lines of those that are too slow."""
    client = Client(SERVER_NAME="localhost")
    client.force_login(user)
    print(f"\n{user.username:<58} {'min':>7} {'median':>7} {'max':>7} ms")
    slow = []
    for name, path in pages(client, user).items():
        took = sorted(timed(client, path) for _ in range(GIVEN.times))
        middle = statistics.median(took)
        line = f"{name:<58} {took[0]:7.1f} {middle:7.1f} {took[-1]:7.1f}"
        print(line)
        if middle > AIM:
            slow.append(line)
    return slow


def timed(client: Client, path: str) -> float:
    begun = time.perf_counter()
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return (time.perf_counter() - begun) * 1000


def pages(client: Client, user: User) -> dict[str, str]:
    agent = Agent.objects.visible_to(user).order_by("pk")[0]
    runs = Run.objects.visible_to(user).order_by("-id")
    long = runs.filter(state="succeeded").order_by("-event_count")[0]
    one_session = Session.objects.visible_to(user).order_by("-id")[0]
    found = {
        "dashboard": reverse("agents:dashboard"),
        "agents": reverse("agents:agents"),
        "agent": agent.get_absolute_url(),
        "run, the longest": long.get_absolute_url(),
        "session": one_session.get_absolute_url(),
        "container": Container.objects.visible_to(user).order_by("-id")[0].get_absolute_url(),
        "help": reverse("agents:help"),
    }
    middle = Run.objects.values_list("created", flat=True).order_by("id")[Run.objects.count() // 2]
    days = f"since={middle:%Y-%m-%d}&until={middle:%Y-%m-%d}"
    ordinary = ["", f"agent={agent.name}", "since=7d", "until=300d", days, f"agent={agent.name}&{days}"]
    texts = [f"text={RARE}", "text=migrations", f"text={RARE}&agent={agent.name}", "text=nowhere-at-all"]
    queries = {
        "runs": [
            *ordinary, *texts,
            *(f"state={state}" for state in ("live", "pending", "ended", "wrong", "lost", "succeeded")),
            "trigger=command", "user=person-03", "user=person-03&state=failed", f"state=wrong&{days}",
            f"agent={agent.name}&state=lost", "text=exit+code", f"text={long.short_id}",
            *(f"sort={order}" for order in ("oldest", "longest", "dearest")),
            f"sort=dearest&agent={agent.name}", "sort=longest&state=failed",
        ],
        "sessions": [*ordinary, *texts, *(f"sort={order}" for order in ("newest", "turns", "dearest"))],
        "containers": [
            *ordinary, *texts, "text=exited", "image=python:3.13-slim", "sort=oldest", "sort=memory",
            *(f"state={state}" for state in ("live", "ended", "removed")),
        ],
    }  # fmt: skip
    for page, each in queries.items():
        address = reverse(f"agents:{page}")
        found |= {f"{page} {query}": f"{address}?{query}" for query in each}
        found[f"{page}, {DEEP} pages on"] = deep(client, address)
    return found


def deep(client: Client, address: str) -> str:
    """Where one comes to by following the link to the next page again and again."""
    path = address
    for _ in range(DEEP):
        link: Any = re.search(r'rel="next"\s+href="([^"]+)"', client.get(path).content.decode())
        if not link:
            break
        path = link[1].replace("&amp;", "&")
    return path


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    try:
        main()
    finally:
        shutil.rmtree(STATE, ignore_errors=True)
        sys.stdout.flush()
