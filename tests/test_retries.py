"""What is tried again after which failure, when, and where it goes on."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import docker
import pytest
from django.conf import settings as django_settings
from django.utils import timezone

from agents import jobs, machine, retries
from agents.models import Agent, Run
from agents.queueing import Turn
from tests.conftest import execute
from tests.messages_api import MessagesAPI
from tests.test_claude import KEY, gateway

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]


def failing(make_agent: MakeAgent, script: str = "echo no; exit 3", **fields: Any) -> Agent:
    return make_agent(runtime="command", command=["sh", "-c", script], **fields)


def attempts(run: Run) -> list[Run]:
    return list(Run.objects.filter(first_attempt=run).order_by("attempt"))


def due(run: Run) -> Run:
    """Its time has come."""
    Run.objects.filter(pk=run.pk).update(not_before=timezone.now() - timedelta(seconds=1))
    run.refresh_from_db()
    return run


def test_nothing_is_tried_again_unless_asked(make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(failing(make_agent), "x"))
    assert (run.state, run.failure, attempts(run)) == ("failed", "agent", [])


def test_attempts_are_runs_of_their_own_up_to_the_limit(make_agent: MakeAgent) -> None:
    agent = failing(make_agent, retry_on=["agent"], max_retries=2, retry_delay=100)
    first = execute(jobs.submit(agent, "x", turn=Turn(priority=4)))
    (second,) = attempts(first)
    assert (second.trigger, second.attempt, second.priority, second.state) == ("retry", 2, 4, "waiting")
    assert second.not_before is not None
    assert 75 < (second.not_before - timezone.now()).total_seconds() <= 120
    assert second.reason.startswith("Attempt 2 of 3 begins at ")
    assert second.reason.endswith("after: the agent failed (Exit code 3.)")
    assert execute(second).state == "waiting"
    assert execute(due(second)).state == "failed"
    third = attempts(first)[1]
    assert (third.attempt, third.first_attempt) == (3, first)
    assert third.not_before is not None
    assert (third.not_before - timezone.now()).total_seconds() > 155
    assert execute(due(third)).state == "failed"
    assert len(attempts(first)) == 2
    assert f"That is run {second.short_id}." in first.events.order_by("-seq")[0].text


def test_a_failure_of_another_class_is_not_tried_again(make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(failing(make_agent, retry_on=["engine", "lost"]), "x"))
    assert attempts(run) == []


def test_a_cancelled_run_is_not_tried_again(make_agent: MakeAgent) -> None:
    run = jobs.submit(failing(make_agent, retry_on=["agent", "lost"]), "x")
    jobs.cancel(run, "alice")
    assert (Run.objects.get(pk=run.pk).failure, attempts(run)) == ("", [])


def test_what_could_not_be_started_is_one_class(make_agent: MakeAgent, tiny_image: str) -> None:
    missing = make_agent(runtime="command", command=["no-such-program"], retry_on=["start"])
    run = execute(jobs.submit(missing, "x"))
    assert (run.failure, len(attempts(run))) == ("start", 1)
    image = make_agent("inside", docker_enabled=True, docker_image="no/such:image")
    assert execute(jobs.submit(image, "x")).failure == "start"


@pytest.mark.filterwarnings("ignore:.*unclosed.*socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*socket.socket.*:pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_is_away_is_another(
    make_agent: MakeAgent, tiny_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(docker_enabled=True, docker_image=tiny_image, retry_on=["engine"])
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    run = execute(jobs.submit(agent, "x"))
    assert (run.failure, len(attempts(run))) == ("engine", 1)
    monkeypatch.undo()
    assert execute(due(attempts(run)[0])).state == "succeeded"


def test_a_limit_of_the_run_s_own_is_never_tried_again(make_agent: MakeAgent) -> None:
    agent = failing(make_agent, "sleep 30", time_limit=1, cancel_grace=1, retry_on=["agent", "lost", "start"])
    run = execute(jobs.submit(agent, "x"))
    assert (run.state, run.failure, attempts(run)) == ("timed_out", "limit", [])


@pytest.mark.parametrize("subtype", ["error_max_turns", "error_max_budget_usd"])
def test_an_agent_that_kept_the_limit_it_was_given_is_not_tried_again(
    make_agent: MakeAgent, subtype: str
) -> None:
    line = json.dumps({"type": "result", "subtype": subtype, "is_error": True, "errors": ["Reached it"]})
    agent = failing(make_agent, f"echo '{line}'; exit 1", retry_on=["agent"])
    run = execute(jobs.submit(agent, "x"))
    assert (run.state, run.failure, attempts(run)) == ("failed", "limit", [])


def test_a_lost_run_is_tried_again(make_agent: MakeAgent) -> None:
    agent = make_agent(retry_on=["lost"])
    run = jobs.submit(agent, "x")
    assert Run.objects.get(pk=run.pk).claim("a worker that died")
    machine.state().output(str(run.public_id)).parent.mkdir(parents=True)
    Run.objects.filter(pk=run.pk).update(lease_until=None, state="running", started_at=timezone.now())
    lost = execute(run)
    assert (lost.state, lost.failure, len(attempts(lost))) == ("lost", "lost", 1)


def test_an_attempt_is_made_once_though_its_first_maker_died(make_agent: MakeAgent) -> None:
    agent = failing(make_agent, retry_on=["agent"])
    run = execute(jobs.submit(agent, "x"))
    for _ in range(3):
        jobs.follow_up(run)
    assert len(attempts(run)) == 1
    Run.objects.filter(first_attempt=run).delete()
    # As if the worker had died between the end of the run and what follows from it.
    Run.objects.filter(pk=run.pk).update(followed_up=False)
    jobs.tick()
    jobs.tick()
    assert len(attempts(run)) == 1


def test_an_attempt_has_the_settings_and_files_of_the_first(make_agent: MakeAgent) -> None:
    agent = failing(make_agent, retry_on=["agent"])
    config = {**agent.freeze(), "time_limit": 77}
    run = execute(jobs.submit(agent, "x", config=config))
    assert attempts(run)[0].agent_config.time_limit == 77


def test_a_result_of_a_failed_run_that_tells_a_refusal_is_one(make_agent: MakeAgent) -> None:
    said = '{"type": "result", "is_error": true, "result": "API Error: 529 Overloaded."}'
    agent = failing(make_agent, f"echo '{said}'; exit 1", retry_on=["rate_limit"])
    run = execute(jobs.submit(agent, "x"))
    assert (run.failure, len(attempts(run))) == ("rate_limit", 1)


def test_delays_grow_to_an_hour_and_are_never_the_same() -> None:
    found = [retries.delay(30, attempt).total_seconds() for attempt in range(1, 12)]
    assert all(
        0.79 * min(30 * 2**n, 3600) <= each <= 1.21 * min(30 * 2**n, 3600) for n, each in enumerate(found)
    )
    assert len({retries.delay(30, 1) for _ in range(20)}) > 15


# The provider's usage limit, with the real CLI.


@pytest.fixture
def provider(engine: docker.DockerClient) -> Iterator[MessagesAPI]:
    server = MessagesAPI(gateway(engine))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def claude(make_agent: MakeAgent, provider: MessagesAPI, monkeypatch: pytest.MonkeyPatch) -> Agent:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", provider.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    return make_agent(
        "claude", runtime="claude_cli", model="sonnet", docker_enabled=True,
        docker_image=django_settings.HERDWEB_IMAGE, docker_env={"CLAUDE_CODE_MAX_RETRIES": "0"},
    )  # fmt: skip


def test_a_run_goes_on_in_its_session_when_the_usage_limit_is_reset(
    claude: Agent, provider: MessagesAPI
) -> None:
    said = "LIMIT You've hit your session limit · resets in 3 hours"
    first = execute(jobs.submit(claude, said))
    assert (first.state, first.failure) == ("failed", "usage_limit")
    (again,) = attempts(first)
    assert again.not_before is not None
    assert timedelta(hours=2, minutes=59) < again.not_before - timezone.now() < timedelta(hours=3, minutes=2)
    assert (again.state, again.continues, again.trigger) == ("waiting", first.session, "retry")
    assert "is reset then. Attempt 2 goes on at" in again.reason
    # Nothing had been answered, so the same is asked once more.
    assert again.prompt == said
    provider.limited = False
    Run.objects.filter(pk=again.pk).update(prompt="RECALL")
    done = execute(due(again))
    assert (done.state, done.session) == ("succeeded", first.session)
    assert "You've hit your session limit" in done.result


def test_an_agent_need_not_go_on_after_a_usage_limit(claude: Agent) -> None:
    Agent.objects.update(continue_after_limit=False)
    claude.refresh_from_db()
    run = execute(jobs.submit(claude, "LIMIT You've hit your limit · resets 3pm (UTC)"))
    assert (run.failure, attempts(run)) == ("usage_limit", [])


def test_overload_of_the_provider_is_recognised(claude: Agent) -> None:
    assert execute(jobs.submit(claude, "OVERLOAD")).failure == "rate_limit"
    assert execute(jobs.submit(claude, "FAIL")).failure == "agent"
