"""From a request to a terminal state."""

from collections.abc import Callable

import pytest

from agents import jobs
from agents.models import Agent, Event, Run
from tests.conftest import execute, until

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]


def texts(run: Run, kind: str) -> list[str]:
    return list(Event.objects.filter(run=run, kind=kind).order_by("seq").values_list("text", flat=True))


def test_echo_on_the_host_answers_with_the_prompt(make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(), "one\ntwo"))
    assert (run.state, texts(run, "text")) == ("succeeded", ["one", "two"])


def test_echo_in_a_container_answers_with_the_prompt(make_agent: MakeAgent, tiny_image: str) -> None:
    agent = make_agent(docker_enabled=True, docker_image=tiny_image)
    run = execute(jobs.submit(agent, "one\ntwo"))
    assert (run.state, texts(run, "text")) == ("succeeded", ["one", "two"])


def test_a_worker_pool_hears_the_bell(make_agent: MakeAgent, workers: Callable[..., object]) -> None:
    workers(2)
    run = jobs.submit(make_agent(), "hello")
    until(lambda: Run.objects.get(pk=run.pk).is_terminal, "The run did not end")
    assert texts(run, "text") == ["hello"]
