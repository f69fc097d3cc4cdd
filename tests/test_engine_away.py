"""An engine that goes away under a run: told apart from what is wrong with the run itself."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
from django.db import connection

from agents import jobs
from agents.models import Agent, Run
from agents.runtimes.life import RETRY_SECONDS
from tests.conftest import execute, until
from tests.relay import Relay
from tests.test_faults import assert_nothing_left

pytestmark = [
    pytest.mark.django_db(transaction=True),
    # The SDK leaves sockets of connections that broke to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*unclosed.*socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*socket.socket.*:pytest.PytestUnraisableExceptionWarning"),
]
MakeAgent = Callable[..., Agent]


@pytest.fixture
def relayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Relay]]:
    relays: list[Relay] = []

    def make(before: str) -> Relay:
        relays.append(Relay(tmp_path / "engine.sock", before))
        monkeypatch.setenv("DOCKER_HOST", relays[-1].url)
        return relays[-1]

    yield make
    for relay in relays:
        relay.close()


@pytest.mark.parametrize("request_of", ["/version", "/containers/create", "/attach", "/start"])
def test_an_engine_that_goes_away_before_the_start_is_no_mistake_of_ours(
    request_of: str,
    make_agent: MakeAgent,
    tiny_image: str,
    relayed: Callable[[str], Relay],
    engine: docker.DockerClient,
) -> None:
    agent = make_agent(docker_enabled=True, docker_image=tiny_image)
    relay = relayed(request_of)
    run = execute(jobs.submit(agent, "x"))
    assert not relay.whole
    assert (run.state, run.failure) == ("failed", "engine")
    relay.before = b""
    relay.mend()
    jobs.sweep()
    assert_nothing_left(engine)


@pytest.mark.parametrize(
    ("back_before", "failure", "reason"),
    [
        (
            False,
            "engine",
            "The Docker engine went away under it, and its container was killed (exit code 137).",
        ),
        (True, "agent", "Killed by signal 9 from outside herdweb (exit code 137)."),
    ],
    ids=["while it is away", "when it is back"],
)
def test_what_is_killed_with_its_engine_is_no_mistake_of_the_agent(
    back_before: bool, failure: str, reason: str, make_agent: MakeAgent, tiny_image: str,
    relayed: Callable[[str], Relay], engine: docker.DockerClient,
) -> None:  # fmt: skip
    """As with an engine that ends its containers when it is stopped, and is started again."""
    agent = make_agent(
        runtime="command",
        command=["sh", "-c", "echo one; sleep 60"],
        docker_enabled=True,
        docker_image=tiny_image,
    )
    relay, run = relayed(""), jobs.submit(agent, "x")

    def fault() -> None:
        until(lambda: Run.objects.filter(pk=run.pk, output_bytes__gt=0).exists(), "It printed nothing")
        name = Run.objects.get(pk=run.pk).container.name  # type: ignore[union-attr]
        connection.close()
        relay.cut()
        if back_before:
            relay.mend()
            # Nothing outside tells when the run is waited for anew: at the latest after one such pause.
            time.sleep(3 * RETRY_SECONDS)
        engine.containers.get(name).kill()
        relay.mend()

    thread = threading.Thread(target=fault)
    thread.start()
    done = execute(run)
    thread.join()
    assert (done.state, done.exit_code, done.signal, done.failure) == ("failed", 137, 9, failure)
    assert done.reason == reason
    assert done.events.get(kind="text").text == "one"
    assert_nothing_left(engine)


def test_an_engine_that_does_not_remove_a_container_changes_nothing_about_the_end_of_its_run(
    make_agent: MakeAgent, tiny_image: str, relayed: Callable[[str], Relay], engine: docker.DockerClient
) -> None:
    agent = make_agent(docker_enabled=True, docker_image=tiny_image)
    relay = relayed("DELETE ")
    done = execute(jobs.submit(agent, "x"))
    assert not relay.whole
    assert (done.state, done.failure) == ("succeeded", "")
    assert done.events.filter(text__startswith="The engine did not remove the container").exists()
    assert done.container
    assert done.container.removed_at is None
    relay.before = b""
    relay.mend()
    jobs.sweep()
    assert_nothing_left(engine)
    done.container.refresh_from_db()
    assert done.container.removed_at
