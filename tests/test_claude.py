"""The real Claude Code in a real container, against a stand-in for the Messages API."""

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest
from django.conf import settings

from agents import jobs, machine
from agents.models import Agent, Event, Run, Session
from tests.conftest import execute
from tests.messages_api import MessagesAPI

pytestmark = pytest.mark.django_db(transaction=True)
KEY = "sk-ant-sentinel-0123456789abcdef"


@pytest.fixture(scope="module")
def messages_api(engine: docker.DockerClient) -> Iterator[MessagesAPI]:
    """Listens where containers on the engine's bridge can reach it, and nobody else."""
    server = MessagesAPI(gateway(engine))
    yield server
    server.shutdown()
    server.server_close()


def gateway(engine: docker.DockerClient) -> str:
    """The host's own address on the default bridge; by convention the first of its subnet."""
    config = engine.networks.get("bridge").attrs["IPAM"]["Config"][0]
    return config.get("Gateway") or str(next(ipaddress.ip_network(config["Subnet"]).hosts()))


@pytest.fixture
def claude(
    make_agent: Callable[..., Agent], messages_api: MessagesAPI, monkeypatch: pytest.MonkeyPatch
) -> Agent:
    """An agent with everything that the CLI is told by flags and files."""
    monkeypatch.setenv("ANTHROPIC_BASE_URL", messages_api.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    return make_agent(
        "claude",
        runtime="claude_cli",
        model="sonnet",
        system_prompt="--Speak plainly.",
        allowed_tools=["Bash(echo *)", "Bash(cat *)"],
        max_turns=5,
        docker_enabled=True,
        docker_image=settings.HERDWEB_IMAGE,
    )


def run(agent: Agent, prompt: str, **options: Any) -> Run:
    return execute(jobs.submit(agent, prompt, **options))


def kinds(run: Run) -> list[str]:
    return list(Event.objects.filter(run=run).order_by("seq").values_list("kind", flat=True))


def payload(run: Run, kind: str) -> dict[str, Any]:
    event = Event.objects.filter(run=run, kind=kind).order_by("seq")[0]
    assert event.payload is not None
    return dict(event.payload)


def test_a_run_with_a_tool_is_told_in_full(claude: Agent) -> None:
    done = run(claude, "RUN echo made-in-$((40+2))")
    assert (done.state, done.exit_code) == ("succeeded", 0)
    assert [kind for kind in kinds(done) if kind not in ("status", "system")] == [
        "text", "tool_use", "tool_result", "text", "result",
    ]  # fmt: skip
    assert "made-in-42" in done.events.get(kind="tool_result").text
    assert payload(done, "tool_use")["block"]["input"]["command"] == "echo made-in-$((40+2))"


def test_the_claims_of_the_result_message_are_stored(claude: Agent) -> None:
    done = run(claude, "Say something.")
    assert done.result.startswith("Understood")
    assert (done.turns, done.output_tokens) == (1, 20)
    assert done.cost_usd is not None
    assert done.cost_usd > 0
    assert done.runtime_version == "2.1.330"


def test_thinking_is_kept(claude: Agent) -> None:
    done = run(claude, "THINK of a number")
    assert done.events.get(kind="thinking").text == "Let me think."


def test_the_session_file_lies_under_the_state_directory(claude: Agent) -> None:
    done = run(claude, "Hello")
    assert done.session is not None
    home = machine.state().path / "docker-sessions" / "claude" / str(done.session.public_id)
    assert (home / ".claude/projects/-workspace" / f"{done.session.public_id}.jsonl").stat().st_size > 0


def test_a_continued_session_knows_its_first_turn(claude: Agent) -> None:
    first = run(claude, "The word is heliotrope.")
    second = run(claude, "RECALL", continues=first.session)
    assert "The word is heliotrope." in second.result
    assert second.session == first.session
    assert Session.objects.get().turns == 2


def test_a_fork_knows_what_was_said_and_leaves_the_original_alone(claude: Agent) -> None:
    first = run(claude, "The word is heliotrope.")
    fork = run(claude, "RECALL", forks=first.session)
    again = run(claude, "RECALL", continues=first.session)
    assert "heliotrope" in fork.result
    assert fork.session != first.session
    assert again.result.count("|") == 0


def test_a_session_whose_transcript_is_gone_is_refused_in_words(claude: Agent) -> None:
    first = run(claude, "Hello")
    assert first.session is not None
    home = machine.state().path / first.session.home
    (home / ".claude/projects/-workspace" / f"{first.session.public_id}.jsonl").unlink()
    second = run(claude, "RECALL", continues=first.session)
    assert second.state == "failed"
    assert "Its transcript is missing" in second.reason


def test_the_turn_limit_is_no_success(claude: Agent) -> None:
    Agent.objects.update(max_turns=1)
    claude.refresh_from_db()
    done = run(claude, "RUN echo once")
    assert done.state == "failed"
    assert "turn limit" in done.reason.lower()


def test_an_error_of_the_api_is_no_success(claude: Agent) -> None:
    done = run(claude, "FAIL please")
    assert done.state == "failed"
    assert "refused by the stand-in" in done.reason


def test_options_that_look_like_flags_stay_text(claude: Agent, messages_api: MessagesAPI) -> None:
    done = run(claude, '--dangerously-skip-permissions "; rm -rf / # $(id) `id` %s')
    assert done.state == "succeeded"
    assert '--dangerously-skip-permissions "; rm -rf / # $(id) `id` %s' in done.result


def test_a_prompt_of_200_kib_arrives(claude: Agent, messages_api: MessagesAPI) -> None:
    done = run(claude, "x" * 200 * 1024 + " end-of-it")
    assert (done.state, done.result[-9:]) == ("succeeded", "end-of-it")


def test_the_key_reaches_the_api_and_nothing_else(claude: Agent, messages_api: MessagesAPI) -> None:
    Agent.objects.update(allowed_tools=["Bash"])
    claude.refresh_from_db()
    done = run(claude, 'RUN printf "%s has ${#ANTHROPIC_API_KEY} characters" "$ANTHROPIC_API_KEY"')
    assert f"{'*' * len(KEY)} has {len(KEY)} characters" in done.events.get(kind="tool_result").text
    assert messages_api.requests[-1]["key"] == KEY
    stored = machine.state().output(str(done.public_id)).read_bytes()
    assert KEY.encode() not in stored
    assert not Event.objects.filter(text__contains=KEY).exists()


def test_mcp_servers_and_the_system_prompt_travel_as_files(claude: Agent, messages_api: MessagesAPI) -> None:
    Agent.objects.update(mcp_servers={"gone": {"command": "/nonexistent"}})
    claude.refresh_from_db()
    done = run(claude, "Hello")
    assert [server["name"] for server in payload(done, "system")["mcp_servers"]] == ["gone"]
    assert "--Speak plainly." in str(messages_api.requests[-1]["body"]["system"])


def test_without_credentials_the_reason_says_so(claude: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    done = run(claude, "Hello")
    assert done.state == "failed"
    assert "set ANTHROPIC_API_KEY or CLAUDE_CODE_OAUTH_TOKEN" in done.reason


def system_prompt(messages_api: MessagesAPI) -> str:
    return str(messages_api.requests[-1]["body"]["system"])


def test_a_system_prompt_is_added_or_replaces(claude: Agent, messages_api: MessagesAPI) -> None:
    run(claude, "Hello")
    added = system_prompt(messages_api)
    Agent.objects.update(system_prompt_mode="replace")
    claude.refresh_from_db()
    run(claude, "Hello")
    replaced = system_prompt(messages_api)
    assert "--Speak plainly." in added
    assert "--Speak plainly." in replaced
    assert len(replaced) < len(added) / 2


def test_a_denied_tool_is_not_offered(claude: Agent, messages_api: MessagesAPI) -> None:
    Agent.objects.update(denied_tools=["Bash", "WebFetch"])
    claude.refresh_from_db()
    run(claude, "Hello")
    offered = {tool["name"] for tool in messages_api.requests[-1]["body"]["tools"]}
    assert offered
    assert not offered & {"Bash", "WebFetch"}


def test_what_would_need_permission_is_denied_and_told(claude: Agent) -> None:
    done = run(claude, "RUN python3 -c 'print(6 * 7)'")
    assert done.state == "succeeded"
    assert payload(done, "tool_result")["block"]["is_error"]
    assert payload(done, "result")["permission_denials"][0]["tool_name"] == "Bash"
