"""Giving a session back what its home has lost: an explicit act, checked before it changes anything."""

from pathlib import Path
from typing import Any

from django.db import transaction

from agents import archive, machine, sessions
from agents.models import Agent, Archive, Audit, Session
from agents.runtimes import AgentConfig, Beneath, RunError
from agents.runtimes.layout import give, make_private

ASIDE = ".before-restore"


def restore(session: Session, by: Any, row: Archive | None = None, address: str | None = None) -> str:
    """Put an archived transcript back into the home, the current one unless another is given.

    What lies in its place is kept beside it; returns under which name, empty if nothing was there.
    Raises RunError when retention has removed its files, the archive is damaged, the home cannot be
    entered, or a run is live in it.
    """
    if session.farewell:
        raise RunError(session.farewell)
    row = row or session.archives.filter(current=True).first()
    if row is None:
        raise RunError("Nothing is archived of this session.")
    try:
        with home_of(session).draft(row.name) as draft:
            for piece in archive.contents(row):
                draft.file.write(piece)
            with transaction.atomic():
                idle(session)
                kept = draft.put(ASIDE)
                make_current(row)
                note(session, row, by, kept, address)
    except OSError as error:
        raise RunError(f"{row.name} cannot be restored: {error.strerror}.") from error
    return kept


def home_of(session: Session) -> Beneath:
    """The session's home, made anew if it is lost."""
    path = machine.state().path / session.home
    owner = sessions.owner_of(AgentConfig.from_json(session.agent.freeze()))
    make_private(path)
    give(path, owner)
    return Beneath(path, owner)


def idle(session: Session) -> None:
    """Lock the session against the start of a run; RunError if one is live in it."""
    Agent.objects.select_for_update(no_key=True).get(pk=session.agent_id)
    live = sessions.occupant(session)
    if live:
        raise RunError(f"The session is in use by run {live.short_id}. Wait for its end, or cancel it.")


def make_current(row: Archive) -> None:
    """From now on the transcript has to begin with this one."""
    Archive.objects.filter(session=row.session_id, name=row.name, current=True).exclude(pk=row.pk).update(
        current=False
    )
    Archive.objects.filter(pk=row.pk).update(current=True, seen="")


def note(session: Session, row: Archive, by: Any, kept: str, address: str | None) -> None:
    """Who restored what."""
    detail = f"Restored its transcript from the archive of {row}."
    detail += f" What was there is kept as {Path(kept).name}." if kept else ""
    facts = {"path": session.get_absolute_url(), "agent": session.agent, "address": address}
    Audit.note(by, Audit.Deed.CHANGED, f"session {session}", detail=detail, **facts)
