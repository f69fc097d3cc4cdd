"""Deleting records for good: what would go, then its going, one run at a time beside live ones."""

import errno
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from django.db import transaction
from django.db.models import Q, QuerySet, Sum

from agents import archive, machine
from agents.models import Container, Event, Run, Session
from agents.runtimes.disk import dispose
from agents.runtimes.layout import make_private

# Not more at a time, so that a request ends and the database is never held for long.
RUNS_AT_MOST, EVENTS_AT_MOST = 500, 1_000_000

Witness = Callable[[Run | Session], None]


@dataclass(frozen=True)
class Removal:
    """What would go, and what stays with the reason; sizes in bytes, of the raw output."""

    runs: Sequence[Run]
    staying: Sequence[Run]
    pinned: Sequence[Run]
    sessions: Sequence[Session]
    containers: int
    events: int
    size: int

    @property
    def obstacle(self) -> str:
        """Why it cannot be done in one go; empty if it can."""
        if len(self.runs) > RUNS_AT_MOST:
            return f"At most {RUNS_AT_MOST} runs are deleted at a time; these are {len(self.runs)}."
        if self.events > EVENTS_AT_MOST and len(self.runs) > 1:
            return (
                f"At most {EVENTS_AT_MOST:,} events are deleted at a time; these runs have {self.events:,}."
            )
        return ""


def of_runs(runs: QuerySet[Run]) -> Removal:
    """What goes with these runs: live, waiting and pinned ones stay, a session goes with its last run."""
    chosen = list(runs.select_related("agent", "session").defer("prompt", "config", "result", "changes"))
    pinned = [run for run in chosen if is_pinned(run)]
    going = [run for run in chosen if run.is_terminal and run not in pinned]
    return removal(going, [run for run in chosen if not run.is_terminal], pinned, emptied(going))


def is_pinned(run: Run) -> bool:
    """Whether somebody wants to keep it, or the session that it is a part of."""
    return run.pinned or bool(run.session and run.session.pinned)


def of_session(session: Session) -> Removal:
    """What goes with a whole session; nothing while one of its runs has not ended, or is pinned."""
    rows = Run.objects.filter(Q(session=session) | Q(continues=session))
    chosen = list(rows.select_related("agent", "session").defer("prompt", "config", "result", "changes"))
    staying = [run for run in chosen if not run.is_terminal]
    staying += Run.objects.filter(forks=session).exclude(state__in=Run.TERMINAL)
    pinned = [run for run in chosen if is_pinned(run)]
    stays = staying or pinned or session.pinned
    return removal([], staying, pinned, []) if stays else removal(chosen, [], [], [session])


def removal(going: list[Run], staying: list[Run], pinned: list[Run], sessions: list[Session]) -> Removal:
    """The same with its numbers."""
    sums = Run.objects.filter(pk__in=[run.pk for run in going]).aggregate(
        events=Sum("event_count"), output=Sum("output_bytes"), errors=Sum("stderr_bytes")
    )
    size = (sums["output"] or 0) + (sums["errors"] or 0)
    return Removal(
        going, staying, pinned, sessions, containers_of(going, sessions).count(), sums["events"] or 0, size
    )


def emptied(runs: Iterable[Run]) -> list[Session]:
    """The sessions in which no other run took part, nor is to."""
    going = {run.pk for run in runs}
    found = {run.session for run in runs if run.session}
    others = Run.objects.filter(Q(session__in=found) | Q(continues__in=found) | Q(forks__in=found))
    used = set()
    for run in others.exclude(pk__in=going).only("session_id", "continues_id", "forks_id"):
        used |= {run.session_id, run.continues_id, run.forks_id}
    return sorted((session for session in found if session.pk not in used), key=lambda row: row.pk)


def containers_of(runs: Iterable[Run], sessions: Iterable[Session]) -> QuerySet[Container]:
    """The records of containers in which nothing else lived."""
    pks = [run.pk for run in runs]
    alone = Container.objects.filter(runs__in=pks).exclude(
        pk__in=Run.objects.exclude(pk__in=pks).exclude(container=None).values("container")
    )
    mine = Container.objects.filter(pk__in=alone.values("pk")) | Container.objects.filter(
        session__in=sessions
    )
    return mine.filter(removed_at__isnull=False)


def remove(plan: Removal, witness: Witness) -> list[str]:
    """Delete what the plan says, files first; returns what could not be deleted, in words.

    A run's files first, because rows without files say so on their pages, and files without rows say
    nothing; a session's home is set aside with its row.
    `witness` is told of each run and session that is deleted, in the same transaction.
    """
    containers = list(containers_of(plan.runs, plan.sessions).values_list("pk", flat=True))
    left = [complaint for run in plan.runs for complaint in remove_run(run, witness)]
    for session in plan.sessions:
        left += remove_session(session, witness)
    Container.objects.filter(pk__in=containers, runs=None).delete()
    return left


def remove_run(run: Run, witness: Witness) -> list[str]:
    """One run with its events and its files; it may have gone meanwhile."""
    if Run.objects.filter(Q(pinned=True) | Q(session__pinned=True), pk=run.pk).exists():
        return [f"The run {run.short_id} has been pinned and stays."]
    left = remove_folder(machine.state().run(str(run.public_id)))
    left += remove_folder(machine.state().run_workspace(str(run.public_id)))
    if not left:
        with transaction.atomic():
            Event.objects.filter(run=run)._raw_delete(Event.objects.db)
            if Run.objects.filter(pk=run.pk, state__in=Run.TERMINAL).delete()[0]:
                witness(run)
    return left


def remove_session(session: Session, witness: Witness) -> list[str]:
    """One session with its home; forks of it go on without knowing where they came from."""
    with transaction.atomic():
        # Locked, so that nobody is given a run in it while its home goes.
        if not Session.objects.select_for_update().filter(pk=session.pk).exists():
            return []
        if Session.objects.filter(pk=session.pk, pinned=True).exists():
            return [f"The session {session} has been pinned and stays."]
        if needing(session).exists():
            return [f"The session {session} has a run again and stays."]
        try:
            home = set_aside(machine.state().path / session.home)
        except OSError as error:
            return [f"{error.filename} cannot be moved: {error.strerror}."]
        Run.objects.filter(forks=session).update(forks=None)
        session.delete()
        witness(session)
    # A home may hold a million files: the database does not wait for them.
    left = remove_folder(machine.state().session_workspace(str(session.public_id)))
    return left + remove_folder(home) + remove_folder(archive.folder(session))


def set_aside(folder: Path) -> Path:
    """Move a directory to where nobody looks for it, which takes no time; says where it is then."""
    if machine.state().path not in folder.parents:
        # A row without a home must not take everything with it.
        raise OSError(errno.EINVAL, "it does not lie in the state directory", str(folder))
    aside = machine.state().removed() / uuid4().hex
    make_private(aside.parent)
    with suppress(FileNotFoundError):
        folder.rename(aside)
    return aside


def needing(session: Session) -> QuerySet[Run]:
    """The runs in a session, and those that are still to be forked from it."""
    forks = Q(forks=session) & ~Q(state__in=Run.TERMINAL)
    return Run.objects.filter(Q(session=session) | Q(continues=session) | forks)


def remove_folder(folder: Path) -> list[str]:
    """A directory with what is in it, following no links; one that is gone already is fine."""
    try:
        dispose(folder)
    except OSError as error:
        return [f"{error.filename or folder} cannot be deleted: {error.strerror}."]
    return []
