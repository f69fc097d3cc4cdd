"""What runs, agents and fleets may spend: refused with the numbers, and nothing live is killed for it."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import docker
import pytest
import time_machine
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from agents import budgets, execution, jobs
from agents.forms import RunForm
from agents.models import Agent, Fleet, Run
from agents.runtimes.streamjson import messages
from tests.conftest import execute
from tests.messages_api import MessagesAPI
from tests.test_claude import KEY, gateway

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
NOON = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


def spent(agent: Agent, dollars: float | None, at: datetime, tokens: int = 0) -> Run:
    """As a run is that ended then."""
    run = jobs.submit(agent, "x")
    Run.objects.filter(pk=run.pk).update(
        state="succeeded", cost_usd=dollars, input_tokens=tokens, finished_at=at, created=at
    )
    return run


def refusal(agent: Agent) -> str:
    form = RunForm(Agent.objects.get(pk=agent.pk), {"prompt": "x"})
    return "" if form.is_valid() else " ".join(map(str, form.non_field_errors()))


# Per agent and day, per fleet and month.


@time_machine.travel(NOON, tick=False)
def test_at_its_cap_an_agent_starts_nothing_new_until_the_next_day(make_agent: MakeAgent) -> None:
    agent = make_agent(day_cost=5.0)
    spent(agent, 9.0, NOON - timedelta(hours=13))
    spent(agent, 4.99, NOON - timedelta(hours=1))
    assert refusal(agent) == ""
    spent(agent, 0.01, NOON)
    assert refusal(agent) == (
        "The budget of the agent probe for this day is used up: 5.00 of 5.00 USD."
        " It is filled again on 2026-11-29 00:00 UTC."
    )
    waits = jobs.submit(agent, "x")
    assert not execution.claim(waits, "a worker")
    assert Run.objects.get(pk=waits.pk).reason.startswith("The budget of the agent probe")
    with time_machine.travel(NOON + timedelta(hours=12), tick=False):
        assert execution.claim(waits, "a worker")


@time_machine.travel(NOON, tick=False)
def test_a_fleet_s_purse_is_one_for_all_of_its_agents(make_agent: MakeAgent) -> None:
    fleet = Fleet.objects.create(name="web", month_cost=10.0, month_tokens=10_000)
    first, second, other = make_agent("one", fleet=fleet), make_agent("two", fleet=fleet), make_agent("three")
    spent(first, 99.0, NOON - timedelta(days=28))
    spent(first, 6.0, NOON - timedelta(days=20))
    assert refusal(second) == ""
    spent(second, 4.0, NOON)
    for agent in (first, second):
        assert "fleet web for this month is used up: 10.00 of 10.00 USD" in refusal(agent)
        assert "2026-12-01 00:00 UTC" in refusal(agent)
    assert refusal(other) == ""


@time_machine.travel(NOON, tick=False)
def test_tokens_are_counted_like_dollars(make_agent: MakeAgent) -> None:
    agent = make_agent(day_tokens=1000)
    spent(agent, None, NOON, tokens=999)
    assert refusal(agent) == ""
    spent(agent, None, NOON, tokens=1)
    assert "1,000 of 1,000 tokens" in refusal(agent)


def test_a_day_is_one_of_the_site_s_zone_also_when_the_clock_changes(make_agent: MakeAgent) -> None:
    agent = make_agent(day_cost=1.0)
    with timezone.override("Europe/Berlin"), time_machine.travel("2027-03-28T10:00:00+02:00", tick=False):
        (purse,) = budgets.purses(agent)
        assert purse.since.isoformat() == "2027-03-28T00:00:00+01:00"
        assert purse.until.isoformat() == "2027-03-29T00:00:00+02:00"


def test_a_live_run_is_never_ended_for_a_purse(make_agent: MakeAgent) -> None:
    agent = make_agent(day_cost=1.0, max_concurrent=2)
    going = jobs.submit(agent, "x")
    assert execution.claim(going, "a worker")
    spent(agent, 5.0, timezone.now())
    jobs.tick()
    supervision = execution.Supervision(going, "a worker", lambda _: None)
    supervision._look()
    assert Run.objects.get(pk=going.pk).state == "starting"


def test_the_page_of_an_agent_shows_what_is_left(make_agent: MakeAgent, admin: User, client: Client) -> None:
    agent = make_agent(day_cost=5.0)
    spent(agent, 1.25, timezone.now())
    client.force_login(admin)
    page = client.get(agent.get_absolute_url()).content.decode()
    assert "$1.25 of $5.00" in page


# Of one run.


def answer(name: str, tokens: int, **more: Any) -> str:
    usage = {"input_tokens": tokens - 1, "output_tokens": 1}
    message = {"id": name, "content": [{"type": "text", "text": "x"}], "usage": usage}
    return json.dumps({"type": "assistant", "message": message, **more})


def talking(make_agent: MakeAgent, *lines: str, **fields: Any) -> Agent:
    """An agent that says these lines and would go on for long."""
    script = "; ".join([*(f"echo '{line}'" for line in lines), "sleep 30"])
    return make_agent(runtime="command", command=["sh", "-c", script], cancel_grace=0, **fields)


def test_a_run_that_uses_more_tokens_than_it_may_is_stopped(make_agent: MakeAgent) -> None:
    lines = [answer("a", 600), answer("a", 600), answer("b", 500)]
    run = execute(jobs.submit(talking(make_agent, *lines, max_tokens=1000), "x"))
    assert (run.state, run.stop_cause, run.failure) == ("failed", "budget", "limit")
    assert "1,100 tokens used, more than the limit of 1,000 (token budget)." in run.reason
    assert run.used["turns"] == 2


def test_parts_of_an_answer_count_once_and_those_of_sub_agents_as_no_turns(make_agent: MakeAgent) -> None:
    lines = [answer("a", 10), answer("b", 7, parent_tool_use_id="t"), answer("a", 12), answer("c", 5)]
    script = "; ".join(f"echo '{line}'" for line in lines)
    run = execute(jobs.submit(make_agent(runtime="command", command=["sh", "-c", script]), "x"))
    assert (run.used["turns"], run.used["tokens"]) == (2, 24)


def test_a_run_that_takes_more_turns_than_it_may_is_stopped(make_agent: MakeAgent) -> None:
    lines = [answer(f"m{number}", 5) for number in range(4)]
    run = execute(jobs.submit(talking(make_agent, *lines, max_turns=2), "x"))
    assert (run.state, run.stop_cause) == ("failed", "budget")
    assert run.reason.startswith("More turns than the limit of 2.")


def test_a_run_that_costs_more_than_it_may_is_stopped_when_it_says_so(make_agent: MakeAgent) -> None:
    said = '{"type": "result", "result": "on I go", "total_cost_usd": 2.5}'
    run = execute(jobs.submit(talking(make_agent, said, max_cost=2.0), "x"))
    assert (run.state, run.stop_cause) == ("failed", "budget")
    assert "It cost 2.50 USD, more than the limit of 2.00 (cost budget)." in run.reason


@pytest.mark.parametrize(
    "line",
    [
        '{"type": "assistant", "message": {"id": 3, "usage": {}, "content": [{"type": "text"}]}}',
        '{"type": "assistant", "message": {"id": "m", "usage": [1], "content": [{"type": "text"}]}}',
        '{"type": "assistant", "message": {"id": "m", "content": [{"type": "text"}]}}',
        '{"type": "assistant", "message":'
        ' {"id": "m", "model": "<synthetic>", "usage": {}, "content": [{"type": "text"}]}}',
    ],
)
def test_nonsense_about_what_was_used_is_none(line: str) -> None:
    assert [message.spent for message in messages(line)] == [None]


# With the real CLI.


@pytest.fixture
def claude(
    make_agent: MakeAgent, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Agent]:
    server = MessagesAPI(gateway(engine))
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    yield make_agent(
        "claude", runtime="claude_cli", model="sonnet", docker_enabled=True, allowed_tools=["Bash(echo *)"],
        docker_image=django_settings.HERDWEB_IMAGE,
    )  # fmt: skip
    server.shutdown()
    server.server_close()


def test_claude_code_keeps_a_budget_of_dollars_by_itself(claude: Agent) -> None:
    Agent.objects.update(max_cost=0.0001)
    claude.refresh_from_db()
    run = execute(jobs.submit(claude, "RUN echo one"))
    assert run.state == "failed"
    assert "budget" in run.reason.lower(), run.reason
    assert run.stop_cause in ("", "budget")


def test_a_budget_of_a_run_is_not_used_up_by_those_before_it_in_its_session(claude: Agent) -> None:
    first = execute(jobs.submit(claude, "Hello"))
    cost = first.cost_usd
    assert cost
    Agent.objects.update(max_cost=cost * 1.5)
    claude.refresh_from_db()
    second = execute(jobs.submit(claude, "Hello again", continues=first.session))
    assert (second.state, second.reason) == ("succeeded", "Finished.")


def test_what_the_messages_of_claude_code_add_up_to(claude: Agent) -> None:
    run = execute(jobs.submit(claude, "RUN echo one"))
    assert (run.used["turns"], run.turns) == (2, 2)
    assert run.used["tokens"] == (run.input_tokens or 0) + (run.output_tokens or 0)
