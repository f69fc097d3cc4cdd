"""The real Claude Code goes on after its transcript was lost, spoilt, restored, carried away and back."""

import gzip
import os
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from agents import archive, jobs, machine, removal, sessions
from agents.models import Agent, Run, Session
from tests.conftest import execute
from tests.test_claude import KEY, claude, messages_api, run

__all__ = ["claude", "messages_api"]
pytestmark = pytest.mark.django_db(transaction=True)


def talk(claude: Agent) -> Session:
    """A conversation that knows a word."""
    first = run(claude, "The word is heliotrope.")
    assert first.state == "succeeded", first.reason
    assert first.session
    return first.session


def transcript(session: Session) -> Path:
    home = machine.state().path / session.home
    return home / ".claude/projects/-workspace" / f"{session.public_id}.jsonl"


def verdict(session: Session) -> str:
    session = Session.objects.get(pk=session.pk)
    return sessions.why_not(session, session.agent)


def goes_on(session: Session) -> Run:
    """It knows its earlier turn."""
    session = Session.objects.get(pk=session.pk)
    again = run(session.agent, "RECALL", continues=session)
    assert again.state == "succeeded", again.reason
    assert "heliotrope" in again.result
    return again


def test_each_run_leaves_its_transcript_in_the_archive(claude: Agent) -> None:
    session = talk(claude)
    first = session.archives.get()
    assert b"".join(archive.contents(first)) == transcript(session).read_bytes()
    second = goes_on(session)
    last = session.archives.get()
    assert (last.run, last.size > first.size) == (second, True)
    assert b"".join(archive.contents(last)) == transcript(session).read_bytes()
    assert "archived" not in " ".join(second.events.filter(kind="status").values_list("text", flat=True))


def another_s(session: Session) -> None:
    stranger = talk(session.agent)
    shutil.copy(transcript(stranger), transcript(session))


def halved(session: Session) -> None:
    os.truncate(transcript(session), transcript(session).stat().st_size // 2)


def altered(session: Session) -> None:
    """Another word, and not a byte less."""
    path = transcript(session)
    text = path.read_bytes()
    assert b"heliotrope" in text
    path.write_bytes(text.replace(b"heliotrope", b"aubergines"))


SPOILT: dict[str, tuple[Callable[[Session], Any], str]] = {
    "deleted": (lambda session: transcript(session).unlink(), "is missing"),
    "truncated": (halved, "was truncated"),
    "unreadable": (lambda session: transcript(session).chmod(0), "may not be read"),
    "another's": (another_s, "holds another conversation"),
    "altered": (altered, "was altered or replaced"),
    "home lost": (lambda session: shutil.rmtree(machine.state().path / session.home), "is gone"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_was_spoilt_is_refused_in_words_and_goes_on_after_the_button(
    kind: str, claude: Agent, client: Client, admin: User
) -> None:
    spoil, words = SPOILT[kind]
    session = talk(claude)
    spoil(session)
    refused = run(claude, "RECALL", continues=session)
    assert (refused.state, words in refused.reason) == ("failed", True), refused.reason
    forked = run(claude, "RECALL", forks=session)
    assert (forked.state, words in forked.reason) == ("failed", True), forked.reason
    client.force_login(admin)
    html = client.get(session.get_absolute_url()).content.decode()
    assert "It can be restored from the archive of" in html
    first = session.runs.earliest("pk")
    assert "The word is heliotrope." in client.get(first.get_absolute_url()).content.decode()
    client.post(f"{session.get_absolute_url()}restore/")
    assert verdict(session) == ""
    beside = {path.name for path in transcript(session).parent.iterdir()}
    goes_on(session)
    assert beside <= {path.name for path in transcript(session).parent.iterdir()}


def test_an_agent_that_rewrites_its_transcript_is_found_out(claude: Agent) -> None:
    session = talk(claude)
    whole = transcript(session).read_bytes()
    Agent.objects.update(permission_mode="bypassPermissions")
    claude.refresh_from_db()
    path = f"$HOME/.claude/projects/-workspace/{session.public_id}.jsonl"
    guilty = run(claude, f"RUN sed -i 1d {path}", continues=session)
    assert guilty.state == "succeeded", guilty.reason
    assert guilty.events.filter(kind="status", text__startswith="The transcript was rewritten").count() == 1
    earlier = session.archives.get(current=False)
    assert b"".join(archive.contents(earlier)) == whole


def test_a_session_goes_on_after_its_home_moved_to_another_state_directory(
    claude: Agent, settings: Any, tmp_path: Path
) -> None:
    session = talk(claude)
    old = machine.state().path
    moved = tmp_path / "state"
    moved.mkdir(mode=0o700)
    for name in ("docker-sessions", "archive"):
        # Links as they are: homes of other tests may hold some that lead nowhere.
        shutil.copytree(old / name / claude.name, moved / name / claude.name, symlinks=True)
    for path in [moved, *moved.rglob("*")]:
        same = old / path.relative_to(moved)
        shutil.chown(path, same.stat().st_uid, same.stat().st_gid) if same.exists() else None
    settings.HERDWEB_STATE_DIR = moved
    shutil.rmtree(old / session.home)
    assert verdict(session) == ""
    goes_on(session)
    shutil.rmtree(moved / session.home)
    assert "It can be restored" in verdict(session)


def test_a_fork_has_an_archive_of_its_own(claude: Agent) -> None:
    session = talk(claude)
    fork = run(claude, "RECALL", forks=session).session
    assert fork
    assert fork.archives.get().name.endswith(f"{fork.public_id}.jsonl")
    transcript(session).unlink()
    goes_on(fork)


def test_a_run_that_never_had_a_transcript_says_nothing_of_one(make_agent: Callable[..., Agent]) -> None:
    done = execute(jobs.submit(make_agent(), "x"))
    assert not done.events.filter(text__contains="transcript").exists()


def removed(session: Session) -> None:
    assert removal.remove(removal.of_session(session), lambda _: None) == []
    assert not (machine.state().path / session.home).exists()
    assert not Session.objects.exists()


def test_a_session_goes_on_after_export_deletion_and_import(
    claude: Agent, make_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    session = talk(claude)
    path = tmp_path / "it.herdweb.gz"
    call_command("session_export", str(session.public_id), "-o", str(path), stdout=StringIO())
    assert KEY.encode() not in gzip.decompress(path.read_bytes())
    removed(session)
    out = StringIO()
    call_command("session_import", claude.name, str(path), stdout=out)
    back = Session.objects.get()
    assert out.getvalue().split() == [str(session.public_id), session.get_absolute_url()]
    assert b"".join(archive.contents(back.archives.get())) == transcript(back).read_bytes()
    again = goes_on(back)
    assert again.session == back
    assert run(claude, "RECALL", forks=back).state == "succeeded"


def test_a_session_goes_on_with_another_agent_of_the_same_runtime(claude: Agent, tmp_path: Path) -> None:
    session = talk(claude)
    path = tmp_path / "it.herdweb.gz"
    call_command("session_export", str(session.public_id), "-o", str(path), stdout=StringIO())
    removed(session)
    other = Agent.objects.get(pk=claude.pk)
    other.pk, other.name = None, "heir"
    other.save()
    docker = claude.docker
    docker.pk, docker.agent = None, other
    docker.save()
    call_command("session_import", "heir", str(path), stdout=StringIO())
    assert goes_on(Session.objects.get()).agent == other


def test_a_spoilt_home_is_exported_from_the_archive(claude: Agent, tmp_path: Path) -> None:
    session = talk(claude)
    transcript(session).write_bytes(b"{}\n")
    path = tmp_path / "it.herdweb.gz"
    call_command("session_export", str(session.public_id), "-o", str(path), stdout=StringIO())
    removed(session)
    call_command("session_import", claude.name, str(path), stdout=StringIO())
    goes_on(Session.objects.get())
