"""The walk of one run: from the form on the agent's page to the finished page, nothing replaced."""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest
from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import User
from django.core import serializers

from agents import bells, machine
from agents.models import Agent, Run
from tests.conftest import until
from tests.environment import STATE
from tests.messages_api import MessagesAPI
from tests.test_claude import gateway
from tests.test_faults import Workers, ended

pytestmark = pytest.mark.django_db(transaction=True)
SENTINEL = "sk-ant-sentinel-do-not-tell-4711"


@pytest.fixture
def messages_api(engine: docker.DockerClient) -> Iterator[MessagesAPI]:
    server = MessagesAPI(gateway(engine))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def browser(web: str, admin: User) -> Iterator[httpx.Client]:
    """A logged-in client that follows no redirects by itself."""
    with httpx.Client(base_url=web, timeout=20) as client:
        client.get("/login/")
        login = {"username": "admin", "password": "a-password-for-tests"}
        answer = client.post("/login/", data={**login, "csrfmiddlewaretoken": client.cookies["csrftoken"]})
        assert answer.status_code == 302
        yield client


def press_run(browser: httpx.Client, agent: Agent, prompt: str, **choice: str) -> Run:
    token = browser.cookies["csrftoken"]
    form = {"prompt": prompt, "mode": "new", **choice, "csrfmiddlewaretoken": token}
    answer = browser.post(f"/agents/{agent.name}/", data=form)
    assert answer.status_code == 303, answer.text
    return Run.objects.get(public_id=answer.headers["location"].split("/")[-2])


def page(browser: httpx.Client, item: Any) -> str:
    answer = browser.get(item.get_absolute_url())
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
def test_echo_from_the_form_to_the_page(
    wrapped: bool, make_agent: Callable[..., Agent], tiny_image: str, workers: Workers, browser: httpx.Client
) -> None:
    workers(1)
    agent = make_agent(docker_enabled=wrapped, docker_image=tiny_image)
    run = ended(press_run(browser, agent, "a quick <brown> fox"))
    assert (run.state, run.requested_by.get_username()) == ("succeeded", "admin")  # type: ignore[union-attr]
    assert "a quick &lt;brown&gt; fox" in page(browser, run)
    assert str(run.session.public_id) in page(browser, run.session)  # type: ignore[union-attr]
    if wrapped:
        assert run.container.image_digest[:19] in page(browser, run.container)  # type: ignore[union-attr]


@pytest.fixture
def claude(make_agent: Callable[..., Agent]) -> Agent:
    return make_agent(
        "claude",
        runtime="claude_cli",
        allowed_tools=["Bash"],
        docker_enabled=True,
        docker_image=settings.HERDWEB_IMAGE,
    )


def test_claude_code_from_the_form_to_the_page_and_on(
    claude: Agent, workers: Workers, browser: httpx.Client, messages_api: MessagesAPI
) -> None:
    workers(1, ANTHROPIC_BASE_URL=messages_api.url, ANTHROPIC_API_KEY=SENTINEL)
    first = ended(press_run(browser, claude, "RUN echo made-in-$((40+2))"))
    assert first.state == "succeeded", first.reason
    shown = page(browser, first)
    assert all(text in shown for text in ("I will look.", "Bash", "made-in-42", "The tool said", "2.1.330"))
    assert first.session is not None
    second = press_run(browser, claude, "RECALL", mode="continue", session=str(first.session.public_id))
    assert "RUN echo made-in" in ended(second).result


def test_a_secret_appears_nowhere(
    claude: Agent,
    workers: Workers,
    browser: httpx.Client,
    messages_api: MessagesAPI,
    engine: docker.DockerClient,
) -> None:
    workers(1, ANTHROPIC_BASE_URL=messages_api.url, ANTHROPIC_API_KEY=SENTINEL)
    run = press_run(
        browser, claude, 'RUN sleep 1; printf "%s" "$ANTHROPIC_API_KEY" | head -c 9; sleep 0.2; env'
    )
    queued = [str(job.data) + str(job.args) for job in bells.queue().jobs]
    container = until(lambda: live_container(run), "No container came up")
    inspected = engine.api.inspect_container(container)
    processes = [path.read_bytes() for path in command_lines()]
    done = ended(run)
    assert messages_api.requests[-1]["key"] == SENTINEL
    assert "*" * len(SENTINEL) in done.events.get(kind="tool_result").text
    for place in (queued, inspected, processes, dump(), logs(), page(browser, done), files(done)):
        assert SENTINEL not in str(place)


def live_container(run: Run) -> str:
    row = Run.objects.select_related("container").get(pk=run.pk)
    return row.container.name if row.container and row.state == "running" else ""


def payloads() -> Iterator[bytes]:
    """What RQ keeps of its jobs."""
    redis = bells.queue().connection
    for key in redis.scan_iter("rq:job:*"):
        stored = redis.hgetall(key)
        yield zlib.decompress(stored.pop(b"data")) + repr(stored).encode()


def command_lines() -> Iterator[Path]:
    """Of every process of this machine, those in containers included."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (folder / "cmdline").exists():
            yield folder / "cmdline"


def dump() -> str:
    """Every row of every table."""
    models = [model for model in apps.get_models() if model._meta.managed]
    return str(
        serializers.serialize("json", [row for model in models for row in model._default_manager.all()])
    )


def logs() -> str:
    return (STATE / "processes.log").read_text()


def files(run: Run) -> str:
    """What herdweb itself stored of the run."""
    folder = machine.state().run(str(run.public_id))
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())
