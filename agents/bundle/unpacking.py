"""A session from its file: all of it is checked before a row is written, and nothing is written over."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from django.db import DataError, IntegrityError, connection, transaction

from agents import archive, machine, sessions
from agents.bundle.checking import Content, checked, session_of
from agents.bundle.reading import read
from agents.bundle.shapes import (
    RUN_COLUMNS,
    EventLine,
    Refused,
    RunLine,
    transcripts_of,
)
from agents.models import Agent, Audit, Run, Session
from agents.models.run import INSERT, as_json
from agents.runtimes import AgentConfig, Beneath, RunError
from agents.runtimes.layout import make_private

# Unpacked bytes that a file may have; what unpacks to more was made to fill a disk.
AT_MOST = 4 * 1024**3
EVENTS_AT_ONCE = 500


def take_in(agent: Agent, path: Path, by: Any, at_most: int = AT_MOST) -> Session:
    """Make the session of a file one of this agent, under the ids that it has.

    Raises Refused, and leaves nothing behind, when the file is not whole, not of this version, not
    of this runtime, unpacks to more than `at_most` bytes, or when any of it is there already.
    """
    if not path.is_file():
        raise Refused(f"{path} is no file.")
    try:
        with path.open("rb") as file, staging() as folder:
            content = checked(agent, file, folder, at_most)
            absent(content)
            file.seek(0)
            with moving() as undo, transaction.atomic():
                insert(content, file, at_most)
                place(content, undo)
                note(content.session, by, path)
    except (OSError, RunError) as error:
        raise Refused(archive.complaint(error)) from error
    except IntegrityError as error:
        raise Refused("It is already there: somebody else imported it just now.") from error
    except (DataError, UnicodeEncodeError) as error:
        raise Refused(f"The database cannot store a text of it: {error}") from error
    return content.session


@contextmanager
def staging() -> Iterator[Path]:
    """A directory for what is not checked yet, gone in the end."""
    folder = machine.state().imports() / uuid4().hex
    make_private(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def moving() -> Iterator[ExitStack]:
    """Collects what is to be undone unless all of it succeeds."""
    with ExitStack() as undo:
        yield undo
        undo.pop_all()


def absent(content: Content) -> None:
    """Refuse what would have to be written over."""
    session = Session.objects.filter(public_id=content.session.public_id).select_related("agent").first()
    if session:
        raise Refused(f"It is already there: session {session.public_id} of {session.agent.name}.")
    run = Run.objects.filter(public_id__in=content.runs).select_related("agent").first()
    if run:
        raise Refused(f"It is already there: run {run.public_id} of {run.agent.name}.")
    for target in [target for _, target in targets(content)]:
        if target.exists():
            raise Refused(f"It is already there: {target}.")


def targets(content: Content) -> Iterator[tuple[Path, Path]]:
    """From where to where its directories go."""
    state = machine.state()
    yield content.folder / "home", state.path / content.session.home
    for run in content.runs:
        yield content.folder / "runs" / str(run), state.run(str(run))


# Rows and files


def insert(content: Content, file: BinaryIO, at_most: int) -> None:
    """Read it a second time, into the database."""
    session, run, last = content.session, 0, ""
    times = {"created": session.created, "last_used": session.last_used}
    session.save()
    Session.objects.filter(pk=session.pk).update(**times)
    events: list[EventLine] = []
    for line, sha256 in read(file, at_most):
        last = sha256
        if isinstance(line, EventLine):
            events.append(line)
        if not isinstance(line, EventLine) or len(events) >= EVENTS_AT_ONCE:
            insert_events(run, events)
            events = []
        if isinstance(line, RunLine):
            run = insert_run(session, line)
    if last != content.sha256:
        raise Refused("It was changed while it was read.")


def insert_run(session: Session, line: RunLine) -> int:
    """A run of the session, as it was; says its key."""
    run = Run(
        public_id=line.id,
        agent=session.agent,
        session=session,
        config={**line.config, "name": session.agent.name},
        continues=session if line.continues else None,
        forks=session_of(session.agent, line.forks),
    )
    for name in RUN_COLUMNS:
        setattr(run, name, getattr(line, name))
    run.save()
    Run.objects.filter(pk=run.pk).update(created=line.created)
    return int(run.pk)


def insert_events(run: int, lines: list[EventLine]) -> None:
    """By hand, as a worker does."""
    if not lines:
        return
    with connection.cursor() as cursor:
        cursor.executemany(INSERT, [(run, *values(line)) for line in lines])


def values(line: EventLine) -> tuple[Any, ...]:
    """An event as its columns take it."""
    payload = as_json(line.payload) if line.payload is not None else None
    created = connection.ops.adapt_datetimefield_value(line.created)
    return (line.seq, line.kind, line.text, payload, line.offset, line.length, created)


def place(content: Content, undo: ExitStack) -> None:
    """Move its directories to their places and archive its transcripts."""
    for source, target in targets(content):
        make_private(target.parent)
        source.rename(target)
        undo.callback(shutil.rmtree, target, ignore_errors=True)
    undo.callback(shutil.rmtree, archive.folder(content.session), ignore_errors=True)
    owner = sessions.owner_of(AgentConfig.from_json(content.session.agent.freeze()))
    home = Beneath(machine.state().path / content.session.home, owner)
    for name in transcripts_of(content.session):
        if home.exists(name):
            archive.store(content.session, home, name)


def note(session: Session, by: Any, path: Path) -> None:
    """Who brought it."""
    facts = {"path": session.get_absolute_url(), "agent": session.agent}
    Audit.note(by, Audit.Deed.ADDED, f"session {session}", detail=f"Imported from {path.name}.", **facts)
