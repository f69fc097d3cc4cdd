"""The second witness of a run: where its transcript and its output differ, the run says so."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from agents import jobs, machine, witness
from agents.models import Agent, Run, Session
from tests.conftest import execute
from tests.messages_api import MessagesAPI
from tests.test_claude import gateway

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def messages_api(engine: docker.DockerClient) -> Iterator[MessagesAPI]:
    server = MessagesAPI(gateway(engine))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def claude(
    make_agent: Callable[..., Agent], messages_api: MessagesAPI, monkeypatch: pytest.MonkeyPatch
) -> Agent:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", messages_api.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-for-tests")
    return make_agent(
        "claude",
        runtime="claude_cli",
        allowed_tools=["Bash"],
        docker_enabled=True,
        docker_image=settings.HERDWEB_IMAGE,
    )


def run(agent: Agent, prompt: str, **options: Any) -> Run:
    return execute(jobs.submit(agent, prompt, **options))


def transcript_of(run: Run) -> Path:
    assert run.session is not None
    name = f".claude/projects/-workspace/{run.session.public_id}.jsonl"
    return machine.state().path / run.session.home / name


def heard_again(run: Run) -> str:
    """The verdict of the witness over what lies on the disk now."""
    Run.objects.filter(pk=run.pk).update(contradiction="")
    run.refresh_from_db()
    witness.hear(run, machine.runtime(run.agent_config))
    run.refresh_from_db()
    return run.contradiction


def cut(run: Run, lines: int) -> None:
    """Take the last lines from what it printed, as if the stream had stalled before them."""
    path = machine.state().output(str(run.public_id))
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-lines]))
    Run.objects.filter(pk=run.pk).update(result="", result_seen_at=None)


def test_two_witnesses_that_agree_need_no_word(claude: Agent) -> None:
    first = run(claude, "RUN echo one")
    second = run(claude, "THINK", continues=first.session)
    fork = run(claude, "RECALL", forks=first.session)
    assert [each.state for each in (first, second, fork)] == ["succeeded"] * 3
    assert [each.contradiction for each in (first, second, fork)] == [""] * 3


def test_what_standard_output_did_not_bring_is_said(claude: Agent, client: Client, admin: User) -> None:
    done = run(claude, "RUN echo one")
    cut(done, 3)
    assert heard_again(done) == (
        "The transcript has 2 messages that standard output did not bring. No result message came; the last"
        ' words in the transcript are: “The tool said: "one"”'
    )
    assert done.events.order_by("seq").last().text == done.contradiction  # type: ignore[union-attr]
    client.force_login(admin)
    assert "did not bring" in client.get(done.get_absolute_url()).content.decode()


def test_what_the_transcript_lacks_is_said(claude: Agent) -> None:
    done = run(claude, "RUN echo one")
    path = transcript_of(done)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    assert heard_again(done) == "Standard output brought 4 messages that the transcript does not have."
    path.unlink()
    assert heard_again(done) == "Standard output brought 4 messages, but there is no transcript of them."


def test_a_result_that_was_never_said_is_told(claude: Agent) -> None:
    done = run(claude, "Hello")
    Run.objects.filter(pk=done.pk).update(result="All tests pass.")
    assert heard_again(done).startswith(
        "The last words in the transcript are not those of the result: “Under"
    )


def test_a_transcript_that_became_a_link_is_not_followed(claude: Agent, tmp_path: Path) -> None:
    done = run(claude, "Hello")
    path = transcript_of(done)
    (tmp_path / "secret.jsonl").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "secret.jsonl")
    assert heard_again(done).startswith("Its transcript was not compared with its output: ")


def test_a_run_that_was_cut_off_and_goes_on_raises_no_alarm(claude: Agent) -> None:
    claude.time_limit = 5
    claude.save()
    stopped = run(claude, "RUN echo begun; sleep 60")
    assert stopped.state == "timed_out"
    assert stopped.contradiction == ""
    assert run(claude, "RECALL", continues=stopped.session).contradiction == ""


def test_a_runtime_without_transcripts_has_no_second_witness(make_agent: Callable[..., Agent]) -> None:
    assert run(make_agent(), "Hello").contradiction == ""


def retitled(claude: Agent, prompt: str, line: dict[str, str], **renamed: str) -> str:
    done = run(claude, prompt)
    with transcript_of(done).open("a") as file:
        file.write(json.dumps(line) + "\n")
    Session.objects.update(**renamed)
    return run(claude, "More", continues=done.session).session.title  # type: ignore[union-attr]


TITLE = {"type": "ai-title", "aiTitle": "About words"}


def test_a_session_takes_the_title_of_its_transcript(claude: Agent) -> None:
    assert retitled(claude, "Hello\nthere", TITLE) == "About words"


def test_a_title_that_a_person_gave_stays(claude: Agent) -> None:
    assert retitled(claude, "Hello", TITLE, title="Mine") == "Mine"
