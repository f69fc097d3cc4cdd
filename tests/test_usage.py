"""What live containers use is stored while they run, whoever works on them."""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from agents import jobs
from agents.models import Agent, Container, Run
from agents.runtimes import Exit, Usage
from tests.conftest import execute, until
from tests.test_faults import Workers, current, ended, horse

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
# Holds 30 MB for as long as it lives.
HOLDING = "x=$(yes aaaaaaaaaaaaaaaa | head -c 30000000); echo holding; sleep 60; echo ${#x}"


@pytest.fixture
def holder(make_agent: MakeAgent, tiny_image: str) -> Agent:
    return make_agent(
        "holder",
        runtime="command",
        command=["sh", "-c", HOLDING],
        docker_enabled=True,
        docker_image=tiny_image,
        docker_network="none",
    )


def container(run: Run) -> Container:
    found = current(run).container
    assert found is not None
    return found


def measured(run: Run) -> Container:
    until(lambda: current(run).container and container(run).memory_now, "Nothing was measured")
    return container(run)


def test_what_a_live_container_uses_is_stored_and_gone_with_its_end(holder: Agent, workers: Workers) -> None:
    workers(1)
    run = jobs.submit(holder, "-")
    live = measured(run)
    assert live.state == "live"
    assert live.sampled_at is not None
    assert timezone.now() - live.sampled_at < timedelta(seconds=10)
    until(lambda: container(run).cpu_percent is not None, "No CPU was measured")
    # Known already, lest the death of the worker loses it.
    assert (container(run).memory_peak or 0) > 30_000_000
    jobs.cancel(current(run), "a test")
    done = container(ended(run))
    assert (done.memory_now, done.cpu_percent, done.sampled_at) == (None, None, None)
    assert (done.memory_peak or 0) > 30_000_000
    assert not run.events.filter(kind="status", text__icontains="memory").exists()


def test_sampling_goes_on_after_an_adoption(holder: Agent, workers: Workers) -> None:
    workers(2)
    run = jobs.submit(holder, "-")
    measured(run)
    first = horse(run)
    os.kill(first, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{first}").exists(), "The horse lives on")
    last = container(run).sampled_at
    until(lambda: container(run).sampled_at != last, "Nobody went on")
    jobs.cancel(current(run), "a test")
    ended(run)


def test_samples_are_no_events(make_agent: MakeAgent, tiny_image: str) -> None:
    where = {"docker_enabled": True, "docker_image": tiny_image, "docker_network": "none"}
    agent = make_agent(runtime="command", command=["sh", "-c", "echo a; sleep 3; echo b"], **where)
    run = execute(jobs.submit(agent, "-"))
    assert container(run).memory_peak
    assert list(run.events.order_by("seq").values_list("kind", flat=True)) == [
        "status", "status", "status", "text", "text", "status", "status",
    ]  # fmt: skip


@pytest.fixture
def row(make_agent: MakeAgent) -> Container:
    return Container.objects.create(name="herdweb-probe", agent=make_agent())


def used(peak: int) -> Usage:
    return Usage(memory=5, cpu_percent=1.5, at=timezone.now(), peak=peak)


def test_the_peak_survives_its_worker(row: Container) -> None:
    row.uses(used(900))
    # The next worker has seen less.
    row = Container.objects.get()
    row.uses(used(300))
    row.ended(Exit(code=0, memory_peak=400))
    assert Container.objects.get().memory_peak == 900


def test_a_worker_that_is_late_measures_no_container_that_has_ended(row: Container) -> None:
    late = Container.objects.get()
    row.ended(Exit(code=0))
    late.uses(used(300))
    late.ended(Exit(code=None, note="gone"))
    assert Container.objects.values_list("memory_now", "exit_code", "note").get() == (None, 0, "")
