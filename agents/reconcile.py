"""Rows against containers: what nobody works on, and what nobody needs any more."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from django.db.models import Q
from django.utils import timezone

from agents import machine
from agents.models import Agent, Container, Run
from agents.models.container import NOTHING_NOW
from agents.runtimes import leftovers

# A row is written before its container, but the two are not one transaction.
YOUNG = timedelta(minutes=1)


def abandoned() -> Iterator[Run]:
    """Live runs whose worker has not been heard of for the time of its lease."""
    now = timezone.now()
    yield from Run.objects.filter(Q(lease_until__lt=now) | Q(lease_until=None), state__in=Run.LIVE)


def pending() -> Iterator[Run]:
    """Runs that wait for a worker, and those that wait for their turn when it has come."""
    yield from Run.objects.filter(state=Run.State.QUEUED).order_by("id")
    for agent in Agent.objects.filter(runs__state=Run.State.WAITING).distinct():
        yield from startable(agent)


def startable(agent: Agent) -> Iterator[Run]:
    """The waiting runs of an agent that its limit lets start now, the oldest first.

    Twice as many as there are slots, because some may wait for something else than a slot.
    """
    live = Run.objects.filter(agent=agent, state__in=Run.LIVE).count()
    free = max(agent.max_concurrent - live, 0) if agent.enabled else 0
    yield from Run.objects.filter(agent=agent, state=Run.State.WAITING).order_by("id")[: free * 2]


def sweep() -> int:
    """Remove containers and secrets of runs that have ended; says how many containers.

    Only what carries this instance's label is looked at, and the database is asked about each.
    Raises RunError when the engine does not answer.
    """
    forget_secrets()
    removed = 0
    for container in leftovers(machine.host()):
        if not needed(container.run, container.age):
            container.remove()
            Container.objects.filter(name=container.name, removed_at=None).update(
                removed_at=timezone.now(), **NOTHING_NOW
            )
            removed += 1
    return removed


def needed(run: str, age: timedelta) -> bool:
    """Whether a run's container has to stay."""
    row = Run.objects.filter(public_id=run).only("state").first()
    if row is None:
        return age < YOUNG
    return not row.is_terminal


def forget_secrets() -> None:
    """Remove credentials that still wait for a container of a run that has ended."""
    folder = Path(machine.host().secrets_dir)
    for waiting in folder.iterdir() if folder.is_dir() else ():
        run = waiting.name.removesuffix(machine.KEPT)
        if not Run.objects.filter(public_id=run).exclude(state__in=Run.TERMINAL).exists():
            machine.forget_credentials(run)
            shutil.rmtree(waiting, ignore_errors=True)
