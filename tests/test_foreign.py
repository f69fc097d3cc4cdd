"""Transcripts that were made elsewhere become sessions: once, with their times, and they can go on."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from agents import foreign, jobs, machine, sessions
from agents.models import Agent, Audit, Event, Run, Session
from tests.conftest import execute
from tests.messages_api import MessagesAPI
from tests.runtimes.test_claude_transcript import agent as agent_line
from tests.runtimes.test_claude_transcript import answer, call, person, text
from tests.test_claude import gateway

pytestmark = pytest.mark.django_db(transaction=True)
FIRST, SECOND = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


@pytest.fixture(autouse=True)
def no_homes() -> Iterator[None]:
    """Of sessions that only another test knows."""
    yield
    shutil.rmtree(machine.state().path / "docker-sessions", ignore_errors=True)


@pytest.fixture
def claude(make_agent: Callable[..., Agent]) -> Agent:
    return make_agent(
        "claude", runtime="claude_cli", docker_enabled=True, docker_image=settings.HERDWEB_IMAGE
    )


def written(path: Path, *lines: dict[str, Any] | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(raw) + b"\n")
    return path


@pytest.fixture
def projects(tmp_path: Path) -> Path:
    """Two conversations of one project, one of them with a sub-agent, and what is no conversation."""
    folder = tmp_path / "projects" / "-home-me-shop"
    talk = [
        person("List the files."),
        agent_line(call()),
        answer(),
        agent_line(text("One file."), id="msg_2"),
    ]
    talk[1]["timestamp"], talk[3]["timestamp"] = "2026-11-01T10:00:05Z", "2026-11-01T10:01:00Z"
    written(folder / f"{FIRST}.jsonl", *talk, {"type": "ai-title", "aiTitle": "Files of the shop"})
    aside = agent_line(text("Aside."), id="msg_9", isSidechain=True, agentId="a1")
    written(folder / FIRST / "subagents" / "agent-a1.jsonl", aside)
    written(folder / f"{SECOND}.jsonl", person("Go."), b'{"type": "user", "mess', agent_line(call()))
    written(folder / "agent-a2.jsonl", aside)
    written(folder / f"{uuid4()}.jsonl", {"type": "summary", "summary": "Nothing", "leafUuid": "x"})
    (folder / f"{uuid4()}.jsonl").symlink_to("/etc/passwd")
    return folder.parent


def imported(agent: Agent, path: Path, *options: str) -> list[dict[str, Any]]:
    out = StringIO()
    call_command("session_import", agent.name, str(path), "--json", *options, stdout=out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def verdicts(reports: list[dict[str, Any]]) -> dict[str, str]:
    return {report["session"]: report["verdict"] for report in reports if report["session"]}


def rows() -> list[Any]:
    """All that an import can have made."""
    found = [list(model.objects.order_by("pk").values()) for model in (Session, Run, Event, Audit)]
    return [*found, sorted(str(path) for path in machine.state().path.glob("docker-sessions/**/*"))]


def test_a_transcript_becomes_a_session_with_one_run_and_its_times(claude: Agent, projects: Path) -> None:
    imported(claude, projects)
    session = Session.objects.get(public_id=FIRST)
    run = session.runs.get()
    assert (session.title, session.turns, session.agent) == ("Files of the shop", 2, claude)
    assert session.created == run.started_at == datetime(2026, 11, 1, 10, 0, 0, 500000, tzinfo=UTC)
    assert session.last_used == run.finished_at == datetime(2026, 11, 1, 10, 1, tzinfo=UTC)
    assert (run.trigger, run.state, run.prompt) == ("import", "succeeded", "List the files.")
    assert run.reason == f"Imported from {projects}/-home-me-shop/{FIRST}.jsonl."
    assert (run.result, run.turns, run.runtime_version) == ("One file.", 2, "2.1.330")
    # Three messages, one of them the sub-agent's.
    assert (run.input_tokens, run.output_tokens) == (36, 15)


def test_its_events_are_numbered_and_say_where_their_lines_lie(claude: Agent, projects: Path) -> None:
    imported(claude, projects)
    run = Run.objects.get(session__public_id=FIRST)
    events = list(run.events.order_by("seq"))
    assert [event.seq for event in events] == list(range(1, run.event_count + 1))
    assert [event.kind for event in events] == [
        "text", "tool_use", "tool_result", "text", "system", *["status"] * 3,
    ]  # fmt: skip
    output = machine.state().output(str(run.public_id)).read_bytes()
    assert len(output) == run.output_bytes
    line = output[events[1].offset :][: events[1].length]
    assert json.loads(line)["message"]["content"][0]["name"] == "Bash"
    assert events[1].created == datetime(2026, 11, 1, 10, 0, 5, tzinfo=UTC)


def test_a_folder_is_imported_twice_with_the_same_result(claude: Agent, projects: Path) -> None:
    assert verdicts(imported(claude, projects)) == {FIRST: "imported", SECOND: "imported"}
    before = rows()
    assert verdicts(imported(claude, projects)) == {FIRST: "already there", SECOND: "already there"}
    assert verdicts(imported(claude, projects / "-home-me-shop" / f"{FIRST}.jsonl")) == {
        FIRST: "already there"
    }
    assert rows() == before


def test_a_dry_run_says_the_same_and_does_nothing(claude: Agent, projects: Path) -> None:
    before = rows()
    reports = imported(claude, projects / "-home-me-shop", "--dry-run")
    assert rows() == before
    assert verdicts(reports) == {FIRST: "would be imported", SECOND: "would be imported"}
    assert [report["notes"] for report in imported(claude, projects)] == [
        report["notes"] for report in reports
    ]


def test_a_malformed_line_is_kept_and_reported(claude: Agent, projects: Path) -> None:
    report = next(each for each in imported(claude, projects) if each["session"] == SECOND)
    assert (report["lines"], report["malformed"]) == (3, 1)
    assert report["notes"][0] == "Line 2: It is not a JSON object with a type."
    run = Run.objects.get(session__public_id=SECOND)
    assert run.events.filter(kind="text", text='{"type": "user", "mess').exists()
    assert run.events.filter(kind="status", text=report["notes"][0]).exists()
    assert run.state == "lost"
    assert "while Bash had given no result" in run.reason


def test_what_is_no_conversation_is_skipped_with_its_reason(claude: Agent, projects: Path) -> None:
    reasons = {each["reason"] for each in imported(claude, projects) if each["verdict"] == "skipped"}
    assert reasons == {
        "It is what a sub-agent of session 5e55-1 said.",
        "No message is in its 1 lines.",
        "It cannot be read: Too many levels of symbolic links.",
    }


def test_another_working_directory_is_said(claude: Agent, projects: Path) -> None:
    report = next(each for each in imported(claude, projects) if each["session"] == FIRST)
    assert report["notes"] == ["It worked in /work; the agent works in /workspace."]


def test_a_second_agent_gets_a_copy_under_another_id(
    claude: Agent, projects: Path, make_agent: Callable[..., Agent]
) -> None:
    other = make_agent("other", runtime="claude_cli", docker_enabled=True)
    imported(claude, projects)
    copies = verdicts(imported(other, projects))
    assert set(copies.values()) == {"imported"}
    assert not {FIRST, SECOND} & set(copies)
    assert verdicts(imported(other, projects)) == dict.fromkeys(copies, "already there")
    assert Session.objects.get(public_id=FIRST).agent == claude
    for session in Session.objects.all():
        assert sessions.why_not(session, session.agent) == ""


def test_a_transcript_that_lies_in_its_place_is_never_overwritten(claude: Agent, projects: Path) -> None:
    home = machine.state().path / machine.state().home("claude", FIRST)
    there = written(home / ".claude/projects/-workspace" / f"{FIRST}.jsonl", person("Another one."))
    before = there.read_bytes()
    report = next(each for each in imported(claude, projects) if FIRST in each["path"])
    assert (report["verdict"], there.read_bytes()) == ("skipped", before)
    assert report["reason"].startswith("Another transcript of this session lies in")
    assert not Session.objects.filter(public_id=FIRST).exists()


def test_of_an_import_that_breaks_off_nothing_is_left(
    claude: Agent, projects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows()
    monkeypatch.setattr(foreign, "columns", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        imported(claude, projects)
    assert [each for each in rows()[-1] if FIRST in each] == []
    assert rows()[:-1] == before[:-1]


@pytest.mark.parametrize(
    ("agent", "path", "complaint"),
    [
        ("claude", "gone.jsonl", "There is no file or directory"),
        ("claude", "", "There are no transcripts"),
        ("echoing", "", "The runtime echo has no transcripts"),
        ("nobody", "", "There is no agent named 'nobody'"),
    ],
)
def test_what_cannot_be_imported_at_all_is_refused(
    agent: str, path: str, complaint: str, claude: Agent, make_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    make_agent("echoing")
    with pytest.raises(CommandError, match=complaint):
        call_command("session_import", agent, str(tmp_path / path), stdout=StringIO())


def test_names_of_files_forge_no_line(claude: Agent, tmp_path: Path) -> None:
    written(tmp_path / "imported: all\x1b[2J\n.jsonl", person("Hello", sessionId=FIRST))
    folder = tmp_path.rename(os.fsdecode(os.fsencode(tmp_path) + b"\xff"))
    out = StringIO()
    call_command("session_import", "claude", str(folder), stdout=out)
    assert "\x1b" not in out.getvalue()
    assert "imported: all\\e[2J\\n.jsonl" in out.getvalue()
    assert Session.objects.get(public_id=FIRST)


def test_the_pages_of_what_was_imported_are_shown(
    claude: Agent, projects: Path, client: Client, admin: User
) -> None:
    imported(claude, projects)
    client.force_login(admin)
    run = Run.objects.get(session__public_id=FIRST)
    page = client.get(run.get_absolute_url()).content.decode()
    assert "said to the agent" in page
    assert "Files of the shop" in client.get("/sessions/").content.decode()
    assert client.get(run.session.get_absolute_url()).status_code == 200  # type: ignore[union-attr]
    assert str(run.short_id) in client.get("/runs/?trigger=import").content.decode()


@pytest.fixture(scope="module")
def messages_api(engine: docker.DockerClient) -> Iterator[MessagesAPI]:
    server = MessagesAPI(gateway(engine))
    yield server
    server.shutdown()
    server.server_close()


def elsewhere(messages_api: MessagesAPI, home: Path, prompt: str) -> None:
    """The real CLI, as somebody used it without herdweb: its own home, another directory."""
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    # What is left of it goes with the tests' own containers.
    label = f"herdweb.instance={settings.HERDWEB_INSTANCE}"
    variables = {
        "HOME": "/home/me",
        "ANTHROPIC_BASE_URL": messages_api.url,
        "ANTHROPIC_API_KEY": "sk-ant-for-tests",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }
    subprocess.run(
        [
            "docker", "run", "--rm", "-i", f"--label={label}", "--init", "--entrypoint=",
            "--user=1000:1000", "--workdir=/tmp",
            f"--volume={home}:/home/me", *[f"--env={name}={value}" for name, value in variables.items()],
            settings.HERDWEB_IMAGE, "claude", "-p", "--permission-mode=bypassPermissions",
        ],
        input=prompt.encode(), check=True, timeout=120, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_real_conversation_goes_on_here_and_knows_what_was_said(
    claude: Agent, messages_api: MessagesAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(messages_api, tmp_path / "home", "RUN echo heliotrope")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", messages_api.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-for-tests")
    report = imported(claude, tmp_path / "home/.claude/projects")[0]
    assert (report["verdict"], report["turns"], report["malformed"]) == ("imported", 2, 0)
    session = Session.objects.get()
    assert sessions.why_not(session, claude) == ""
    done = execute(jobs.submit(claude, "RECALL", continues=session))
    assert (done.state, done.contradiction) == ("succeeded", "")
    assert "RUN echo heliotrope" in done.result
    fork = execute(jobs.submit(claude, "RECALL", forks=session))
    assert "RUN echo heliotrope" in fork.result
    assert verdicts(imported(claude, tmp_path / "home/.claude/projects")) == {
        report["session"]: "already there"
    }
