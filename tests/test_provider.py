"""What the real Claude Code prints when the provider refuses, and what herdweb reads in it."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import docker
import pytest
from django.conf import settings

from agents import jobs
from agents.models import Agent, Run
from agents.runtimes import read_refusal
from tests.conftest import execute
from tests.messages_api import MessagesAPI
from tests.test_claude import KEY, gateway, kinds, payload

pytestmark = pytest.mark.django_db(transaction=True)
ZONE = "Pacific/Auckland"


@pytest.fixture
def provider(engine: docker.DockerClient) -> Iterator[MessagesAPI]:
    server = MessagesAPI(gateway(engine))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def claude(make_agent: Callable[..., Agent], provider: MessagesAPI, monkeypatch: pytest.MonkeyPatch) -> Agent:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", provider.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    return make_agent(
        "claude", runtime="claude_cli", model="sonnet", docker_enabled=True, continue_after_limit=False,
        docker_image=settings.HERDWEB_IMAGE, docker_env={"CLAUDE_CODE_MAX_RETRIES": "0", "TZ": ZONE},
    )  # fmt: skip


@pytest.fixture
def subscribed(claude: Agent, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """The same with the token of a subscription, which has windows instead of credit."""
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat01-sentinel-0123456789")
    return claude


def run(agent: Agent, prompt: str) -> Run:
    return execute(jobs.submit(agent, prompt))


@pytest.mark.parametrize(("window", "hours"), [("five_hour", 3), ("seven_day", 75), ("seven_day_opus", 150)])
def test_a_window_that_is_used_up_is_read_to_the_minute(subscribed: Agent, window: str, hours: int) -> None:
    reset = int(time.time()) // 60 * 60 + hours * 3600
    done = run(subscribed, f"SPENT {window} {reset}")
    assert (done.state, done.failure) == ("failed", "usage_limit")
    assert done.result.startswith("You've hit your ")
    assert f"({ZONE})" in done.result
    found = read_refusal(done.result, datetime.now(UTC))
    assert found is not None
    assert found.until == datetime.fromtimestamp(reset, UTC)


def test_the_same_is_told_in_a_line_of_its_own(subscribed: Agent) -> None:
    reset = int(time.time()) + 3600
    done = run(subscribed, f"SPENT five_hour {reset}")
    told = [event.payload or {} for event in done.events.filter(kind="system")]
    (info,) = [each["rate_limit_info"] for each in told if each.get("type") == "rate_limit_event"]
    assert (info["status"], info["resetsAt"], info["rateLimitType"]) == ("rejected", reset, "five_hour")
    assert payload(done, "result")["api_error_status"] == 429


def test_a_throttled_subscription_has_not_used_up_its_window(subscribed: Agent) -> None:
    done = run(subscribed, "LIMIT This request would exceed your account's rate limit.")
    assert "(not your usage limit)" in done.result
    assert done.failure == "rate_limit"


def test_an_answer_that_stands_for_none_of_the_model_is_no_turn(claude: Agent) -> None:
    done = run(claude, "OVERLOAD")
    assert done.result.startswith("API Error: 529 Overloaded")
    assert done.failure == "rate_limit"
    assert payload(done, "result")["api_error_status"] == 529
    assert done.used.get("turns", 0) == 0


def test_claude_code_tries_again_by_itself_and_says_so(claude: Agent) -> None:
    claude.docker.env = {"CLAUDE_CODE_MAX_RETRIES": "2"}
    claude.docker.save()
    done = run(claude, "FLAKY 1")
    assert done.state == "succeeded"
    told = [event.payload or {} for event in done.events.filter(kind="system")]
    (again,) = [each for each in told if each.get("subtype") == "api_retry"]
    assert (again["attempt"], again["max_retries"], again["error_status"]) == (1, 2, 529)


def test_a_budget_of_dollars_ends_a_run_with_a_result_that_says_so(claude: Agent) -> None:
    Agent.objects.update(max_cost=0.0001, allowed_tools=["Bash(echo *)"])
    claude.refresh_from_db()
    done = run(claude, "RUN echo once")
    said = payload(done, "result")
    assert (said["subtype"], said["terminal_reason"]) == ("error_max_budget_usd", "budget_exhausted")
    assert done.result == "The budget was reached: Reached maximum budget ($0.0001)"
    assert "tool_result" not in kinds(done)


def test_the_lines_of_an_answer_do_not_tell_what_it_became(claude: Agent) -> None:
    """They come before its end, so what it says itself is known by the result only."""
    done = run(claude, "LONG")
    assert (done.input_tokens, done.output_tokens) == (107, 500)
    assert done.used["tokens"] == 108
