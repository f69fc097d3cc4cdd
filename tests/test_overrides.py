"""Settings that differ for one run: typed on its form, judged like the agent's, kept with the run."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.test import Client

from agents.models import Agent, Run

pytestmark = pytest.mark.django_db


@pytest.fixture
def agent(make_agent: Callable[..., Agent]) -> Agent:
    return make_agent(model="haiku", time_limit=600, default_prompt="go")


@pytest.fixture
def operator(client: Client, person: Callable[..., User]) -> Client:
    client.force_login(person("hand", "Operator"))
    return client


def test_a_run_may_differ_and_says_so_and_the_agent_stays(operator: Client, agent: Agent) -> None:
    shown = operator.get(agent.get_absolute_url()).content.decode()
    assert 'placeholder="haiku"' in shown
    assert 'placeholder="10m"' in shown
    form = {"model": " sonnet ", "max_turns": "3", "time_limit": "2m", "idle_limit": ""}
    assert operator.post(agent.get_absolute_url(), form).status_code == 303
    config = Run.objects.get().agent_config
    assert (config.model, config.max_turns, config.time_limit, config.idle_limit) == ("sonnet", 3, 120, 600)
    assert '"model": "sonnet"' in Run.objects.get().events.get(text__startswith="For this run only").text
    agent.refresh_from_db()
    assert (agent.model, agent.max_turns, agent.time_limit) == ("haiku", None, 600)


def test_nothing_typed_is_nothing_different(operator: Client, agent: Agent) -> None:
    operator.post(agent.get_absolute_url(), {"model": "", "time_limit": "  "})
    run = Run.objects.get()
    assert run.config == agent.freeze()
    assert not run.events.filter(text__startswith="For this run only").exists()


@pytest.mark.parametrize(
    ("field", "text", "reason"),
    [
        ("time_limit", "100d", "7d"),
        ("time_limit", "soon", "not a duration"),
        ("max_turns", "0", "1"),
        ("model", "--dangerous", "model"),
    ],
)
def test_it_is_judged_like_the_agent_s_own(
    operator: Client, agent: Agent, field: str, text: str, reason: str
) -> None:
    answer = operator.post(agent.get_absolute_url(), {field: text})
    assert answer.status_code == 422
    errors = " ".join(answer.context["form"].errors[field])
    assert reason.lower() in errors.lower()
    assert not Run.objects.exists()


def test_who_may_only_run_may_not_differ(client: Client, person: Callable[..., User], agent: Agent) -> None:
    runners = Group.objects.create(name="runners")
    runners.permissions.set(Permission.objects.filter(codename__in=["run_agent", "view_agent"]))
    client.force_login(person("runner", "runners"))
    assert "For this run only" not in client.get(agent.get_absolute_url()).content.decode()
    answer = client.post(agent.get_absolute_url(), {"model": "opus"})
    assert (answer.status_code, "may change agents" in answer.content.decode()) == (422, True)
    assert not Run.objects.exists()
