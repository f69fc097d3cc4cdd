"""Rows against containers: what nobody works on, and what nobody needs any more."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from django.db.models import Q
from django.utils import timezone

from agents import kept, machine
from agents.kept import YOUNG
from agents.models import Run
from agents.runtimes import Leftover, leftovers
from agents.runtimes.keeping import FOLDER


def abandoned() -> Iterator[Run]:
    """Live runs whose worker has not been heard of for the time of its lease."""
    now = timezone.now()
    yield from Run.objects.filter(Q(lease_until__lt=now) | Q(lease_until=None), state__in=Run.LIVE)


def sweep() -> int:
    """Remove containers and secrets of runs that have ended, but for those that are kept; says how many.

    Only what carries this instance's label is looked at, and the database is asked about each.
    Raises RunError when the engine does not answer.
    """
    forget_secrets()
    kept.trim()
    since, found, removed = timezone.now(), {}, 0
    for container in leftovers(machine.host()):
        found[container.engine_id] = container.name
        if not needed(container):
            removed += kept.remove(container)
    kept.account(found, since)
    return removed


def needed(found: Leftover) -> bool:
    """Whether a container has to stay: its run is live, or it is kept."""
    row = Run.objects.filter(public_id=found.run).only("state").first()
    if row is not None and not row.is_terminal:
        return True
    return kept.needed(found, unknown=row is None and found.age < YOUNG)


def forget_secrets() -> None:
    """Remove credentials that still wait for a container of a run that has ended."""
    folder = Path(machine.host().secrets_dir)
    for waiting in folder.iterdir() if folder.is_dir() else ():
        if waiting.name == FOLDER:
            continue
        run = waiting.name.partition(".")[0]
        if not Run.objects.filter(public_id=run).exclude(state__in=Run.TERMINAL).exists():
            machine.forget_credentials(run)
            shutil.rmtree(waiting, ignore_errors=True)
