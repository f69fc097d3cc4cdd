"""Containers that stay after a run: which of them, until when, and what they keep on the disk.

Those of agents whose containers are not ephemeral stay for the next run; an ephemeral one of a
failed run may be kept for a while, to be looked into.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from itertools import groupby

from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from agents import machine, runtimes
from agents.models import Agent, Container, DockerSettings, Run
from agents.models.container import NOTHING_NOW, OUTLIVING
from agents.runtimes import Leftover, Place, RunError, disk_sizes, places

logger = logging.getLogger(__name__)

FAILED = (Run.State.FAILED, Run.State.TIMED_OUT, Run.State.LOST)
# For second thoughts, when an agent's settings no longer ask for a container that served many runs.
GRACE = timedelta(hours=24)
# A row is written before its container, but the two are not one transaction.
YOUNG = timedelta(minutes=1)
# The engine walks through all files of a container to answer, so it is asked seldom.
MEASURE_EVERY = timedelta(seconds=15)


def occupied(run: Run, live: Sequence[Run]) -> str:
    """Why a run may not yet enter the one container of its agent; empty if it may."""
    if run.agent_config.docker.scope != "agent":
        return ""
    inside = next((other for other in live if other.agent_config.docker.scope == "agent"), None)
    return f"Its agent's container is in use by run {inside.short_id}." if inside else ""


def mark(run: Run) -> None:
    """Decide with the end of a run whether its container is kept for inspection; it is a note then."""
    docker = run.agent_config.docker
    if run.container and docker.keep_failed and not docker.scope and run.state in FAILED:
        until = timezone.now() + timedelta(seconds=docker.keep_failed)
        if Container.objects.filter(pk=run.container.pk, removed_at=None).update(kept_until=until):
            run.note(f"Its container is kept for inspection until {until:%Y-%m-%d %H:%M} UTC.")


def put_to_rest(run: Run) -> None:
    """Before the end of a run is told: nothing runs in its container, and nothing of it is left in there."""
    if run.container is None or not run.agent_config.docker.outlives_run:
        return
    try:
        rest(Container.objects.get(pk=run.container.pk), run.agent_config.docker.user)
    except RunError as error:
        logger.warning("The container of run %s is put to rest later: %s", run.short_id, error)


def settle(run: Run) -> None:
    """After the end of a run: a container that nobody asked to keep is removed; if not, by the sweep."""
    if run.container is None or not run.agent_config.docker.outlives_run:
        return
    container = Container.objects.get(pk=run.container.pk)
    if container.scope or container.kept_until:
        return
    try:
        runtimes.discard(machine.host(), container.engine_id)
        forgotten(container)
    except RunError as error:
        logger.warning("The container of run %s stays for now: %s", run.short_id, error)


def rest(container: Container, user: str) -> None:
    """Nothing runs in it, and starting it by hand starts no agent; raises RunError without an engine."""
    if container.finished_at is None:
        # Nobody has seen its end: it could not be started, or a mistake of ours came before.
        runtimes.put_to_rest(machine.host(), container.engine_id)
        Container.objects.filter(pk=container.pk, finished_at=None).update(
            finished_at=timezone.now(), **NOTHING_NOW
        )
    place_of(container.name).retire(user or machine.host().user)


def forgotten(container: Container) -> None:
    """The engine has it no more."""
    container.removed()
    place_of(container.name).forget()


def place_of(name: str) -> Place:
    """The directories of a container that may outlive its run."""
    return Place.named(name, machine.host(), machine.state().path)


def in_use(container: Container) -> bool:
    """Whether a live run is in it, or on its way into it."""
    live = Run.objects.filter(agent=container.agent_id, state__in=Run.LIVE)
    if container.scope == DockerSettings.Scope.AGENT:
        return live.exists()
    mine = Q(container=container)
    if container.scope and container.session_id:
        mine |= Q(session=container.session_id) | Q(continues=container.session_id)
    return live.filter(mine).exists()


def needed(found: Leftover, unknown: bool) -> bool:
    """Whether a container that the engine has is to stay although the run that made it has ended.

    `unknown` is what to do about one that was never recorded.
    """
    rows = Container.objects.select_related("agent__docker")
    container = rows.filter(engine_id=found.engine_id, removed_at=None).first()
    if container is None:
        return unknown
    if in_use(container):
        return True
    if container.unwanted or not stays(container):
        return False
    if container.finished_at is None:
        # It runs although nothing should, or the engine has stopped it and nobody has seen that.
        with unused(container) as free:
            if free:
                rest(container, container.agent.docker.user)
    return True


@contextmanager
def unused(container: Container) -> Iterator[bool]:
    """Whether no live run is in it; while its agent is locked none can enter it."""
    with transaction.atomic():
        Agent.objects.select_for_update(no_key=True).get(pk=container.agent_id)
        yield not in_use(container)


def stays(container: Container) -> bool:
    """Whether one without a live run is kept; one that nobody asks for any more gets a last day."""
    now = timezone.now()
    if container.kept_until and container.kept_until > now:
        return True
    if not container.scope or (container.scope == "session" and container.session_id is None):
        return False
    docker = container.agent.docker
    wanted = docker.enabled and not docker.ephemeral and docker.container_scope == container.scope
    row = Container.objects.filter(pk=container.pk)
    if wanted:
        row.exclude(kept_until=None).update(kept_until=None)
    elif container.kept_until is None:
        row.update(kept_until=now + GRACE)
    return wanted or container.kept_until is None


def remove(found: Leftover) -> bool:
    """Remove one that is not needed, unless a run has entered it meanwhile."""
    container = Container.objects.filter(engine_id=found.engine_id).first()
    with unused(container) if container and container.scope else nullcontext(True) as free:
        if not free:
            return False
        found.remove()
        if container:
            container.removed()
        # Still locked: the next container of this name has the same directories.
        place_of(found.name).forget()
    return True


def trim() -> None:
    """Of each agent as many as it keeps: the ones idle longest are no longer wanted."""
    rows = Container.objects.filter(scope__gt="", removed_at=None, unwanted=False)
    ordered = rows.select_related("agent__docker").order_by("agent", F("finished_at").desc(nulls_first=True))
    for agent, theirs in groupby(ordered, key=lambda container: container.agent):
        for container in [*theirs][agent.docker.max_containers :]:
            if container.finished_at and not in_use(container):
                Container.objects.filter(pk=container.pk).update(unwanted=True)


def account(found: Mapping[str, str], since: datetime) -> None:
    """What the engine does not have is gone, and so are its directories; `found` are names by id."""
    rows = kept().filter(finished_at__lt=since) | vanished(since)
    for container in rows.exclude(engine_id__in=list(found)):
        if not in_use(container):
            container.removed()
    for name in places(machine.host(), machine.state().path):
        place = place_of(name)
        if place.age > YOUNG and name not in found.values():
            place.forget()
        elif place.age > YOUNG and place.note and not alive(place.note.run):
            (place.secrets / "env").unlink(missing_ok=True)


def vanished(since: datetime) -> QuerySet[Container]:
    """Containers of this engine that should be there: their rows were written when it had them."""
    elsewhere = Run.objects.filter(container=OuterRef("pk")).exclude(host__in=["", machine.engine()])
    return Container.objects.filter(~Exists(elsewhere), created__lt=since, removed_at=None, finished_at=None)


def alive(run: str) -> bool:
    """Whether a run of this id has not ended."""
    return Run.objects.filter(public_id=run).exclude(state__in=Run.TERMINAL).exists()


def kept() -> QuerySet[Container]:
    """Containers that have ended and that the engine still has on purpose."""
    return Container.objects.filter(OUTLIVING, removed_at=None, finished_at__isnull=False)


def measure() -> None:
    """Ask the engine what kept containers keep on the disk, once after each run in them."""
    due = kept().filter(Q(disk_at=None) | Q(disk_at__lt=F("finished_at")))
    ids = list(due.values_list("engine_id", flat=True))
    for engine_id, size in disk_sizes(machine.host(), ids).items():
        Container.objects.filter(engine_id=engine_id).update(disk_bytes=size, disk_at=timezone.now())


def keep(container: Container, hours: int) -> bool:
    """Keep an ended container of a run for so long from now; False if there is none to keep."""
    until = timezone.now() + timedelta(hours=hours)
    there = Container.objects.filter(pk=container.pk, scope="", removed_at=None, finished_at__isnull=False)
    return bool(there.exclude(kept_until=None).update(kept_until=until, unwanted=False))


def give_up(container: Container) -> bool:
    """Have a kept container removed by the next sweep; False if there is none."""
    return bool(kept().filter(pk=container.pk).update(unwanted=True))


def looking_inside(container: Container) -> Iterator[tuple[str, str]]:
    """What a person types on this machine to look into a kept container, with what it does."""
    name = container.name
    yield "List its files", f"docker export {name} | tar -tv"
    yield "Copy something out of it", f"docker cp {name}:/var/tmp ."
    yield "Look around in it; this starts no agent", f"docker start {name} && docker exec -it {name} /bin/sh"
    yield "Leave it as it was", f"docker stop {name}"
