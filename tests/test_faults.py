"""What dies, and what becomes of the run: promises N1 to N5 with real processes and a real engine."""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import docker
import pytest
from django.conf import settings

from agents import bells, execution, jobs, machine
from agents.models import Agent, Container, Run
from tests.conftest import ROOT, end, execute, process_environment, until

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
Workers = Callable[..., subprocess.Popen[bytes]]
LINES = 2000
# Prints numbered lines and keeps a copy of the same bytes in the workspace.
CHATTER = f"""
i=0
while [ $i -lt {LINES} ]; do
  i=$((i+1)); echo "line $i of {LINES}"; echo "line $i of {LINES}" >> /workspace/copy
  [ $((i % 100)) = 0 ] && sleep 0.1
done
exit 7
"""


@pytest.fixture
def chatter(make_agent: MakeAgent, tiny_image: str) -> Agent:
    return make_agent(
        "chatter",
        runtime="command",
        command=["sh", "-c", CHATTER],
        docker_enabled=True,
        docker_image=tiny_image,
        docker_network="none",
    )


@pytest.fixture(autouse=True)
def fresh_workspaces() -> None:
    for copy in machine.state().path.glob("workspaces/*/copy"):
        copy.unlink()


def current(run: Run) -> Run:
    return Run.objects.select_related("container", "session").get(pk=run.pk)


def halfway(run: Run) -> Run:
    until(lambda: current(run).output_bytes > 5000, "The run printed nothing")
    return current(run)


def ended(run: Run, seconds: float = 60, tick: bool = False) -> Run:
    def look() -> bool:
        if tick:
            jobs.tick()
        return current(run).is_terminal

    until(look, f"The run did not end: {current(run).state}", seconds)
    return current(run)


def horse(run: Run) -> int:
    return int(current(run).lease_owner.split(":")[1])


def assert_complete(run: Run) -> None:
    """N3: the stored bytes are what the container wrote; N1, N4, N5: one end, one container, gone."""
    written = (machine.state().workspace("chatter") / "copy").read_bytes()
    stored = machine.state().output(str(run.public_id)).read_bytes()
    assert hashlib.sha256(stored).digest() == hashlib.sha256(written).digest()
    assert stored.count(b"\n") == LINES
    numbers = list(run.events.order_by("seq").values_list("seq", flat=True))
    assert numbers == list(range(1, run.event_count + 1))
    texts = list(run.events.filter(kind="text").order_by("seq").values_list("text", flat=True))
    assert texts == [f"line {n} of {LINES}" for n in range(1, LINES + 1)]
    assert (run.state, run.exit_code) == ("failed", 7)
    assert Container.objects.count() == 1


def assert_nothing_left(engine: docker.DockerClient) -> None:
    label = f"herdweb.instance={settings.HERDWEB_INSTANCE}"
    assert engine.containers.list(all=True, filters={"label": label}, ignore_removed=True) == []
    secrets = Path(settings.HERDWEB_SECRETS_DIR)
    assert not secrets.exists() or not list(secrets.iterdir())


def test_a_run_survives_the_death_of_its_work_horse(
    chatter: Agent, workers: Workers, engine: docker.DockerClient
) -> None:
    workers(2)
    run = halfway(jobs.submit(chatter, "-"))
    os.kill(horse(run), signal.SIGKILL)
    assert_complete(ended(run))
    assert_nothing_left(engine)


def test_a_run_survives_the_death_of_horse_and_worker(
    chatter: Agent, workers: Workers, engine: docker.DockerClient
) -> None:
    pool = workers(1)
    run = halfway(jobs.submit(chatter, "-"))
    first = horse(run)
    end(pool, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{first}").exists(), "The horse outlived its worker")
    workers(1)
    assert_complete(ended(run, tick=True))
    assert_nothing_left(engine)


def test_a_worker_that_is_told_to_stop_hands_over(chatter: Agent, workers: Workers) -> None:
    pool = workers(1)
    run = halfway(jobs.submit(chatter, "-"))
    started = time.monotonic()
    end(pool, signal.SIGTERM)
    assert time.monotonic() - started < 5
    assert current(run).state == "running"
    workers(1)
    assert_complete(ended(run, tick=True))


def test_five_deliveries_on_four_workers_make_one_container(chatter: Agent, workers: Workers) -> None:
    workers(4)
    run = jobs.submit(chatter, "-")
    for _ in range(4):
        bells.ring(run)
    assert_complete(ended(run))
    assert current(run).events.filter(text="Container started.").count() == 1


CRASH = """
import os, signal
from agents import jobs
from agents.runtimes import container, life
def crash(*_): os.kill(os.getpid(), signal.SIGKILL)
{point} = crash
jobs.execute("{run}")
"""


def crash_at(point: str, run: Run) -> None:
    """Work on the run in a process that dies when it comes to this function."""
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v0", "-c", CRASH.format(point=point, run=run.public_id)],
        cwd=ROOT,
        env=process_environment(),
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "point", ["container.prepare", "container.facts", "life.Life.start", "life.Life._watch"]
)
def test_a_crash_around_creation_and_start_is_adopted(
    point: str, chatter: Agent, engine: docker.DockerClient
) -> None:
    run = jobs.submit(chatter, "-")
    crash_at(point, run)
    Run.objects.update(lease_until=None)
    execute(run)
    assert_complete(current(run))
    assert_nothing_left(engine)


def test_a_crash_between_the_exit_and_the_removal_keeps_the_exit_code(
    chatter: Agent, engine: docker.DockerClient
) -> None:
    run = jobs.submit(chatter, "-")
    crash_at("container.remove", run)
    Run.objects.update(lease_until=None)
    execute(run)
    assert_complete(current(run))
    jobs.sweep()
    assert_nothing_left(engine)


def test_a_lost_bell_is_rung_again(chatter: Agent, workers: Workers) -> None:
    run = jobs.submit(chatter, "-")
    bells.queue().connection.flushdb()
    Run.objects.update(rung_at=None)
    workers(1)
    assert_complete(ended(run, tick=True))


def test_a_container_killed_by_hand_is_told_as_such(
    chatter: Agent, workers: Workers, engine: docker.DockerClient
) -> None:
    workers(1)
    run = halfway(jobs.submit(chatter, "-"))
    engine.containers.get(run.container.name).kill()  # type: ignore[union-attr]
    done = ended(run, 10)
    assert (done.state, done.exit_code, done.signal) == ("failed", 137, 9)
    assert "outside herdweb" in done.reason


def test_a_container_removed_by_hand_is_lost(
    chatter: Agent, workers: Workers, engine: docker.DockerClient
) -> None:
    workers(1)
    run = halfway(jobs.submit(chatter, "-"))
    engine.containers.get(run.container.name).remove(force=True)  # type: ignore[union-attr]
    done = ended(run, 10)
    assert done.state in ("lost", "failed")
    assert "outside herdweb" in done.reason


def test_a_run_on_the_host_dies_with_its_worker_and_says_so(make_agent: MakeAgent, workers: Workers) -> None:
    agent = make_agent("host", runtime="command", command=["sh", "-c", "echo up; sleep 60"])
    pool = workers(1)
    run = jobs.submit(agent, "-")
    until(lambda: current(run).output_bytes, "The run printed nothing")
    end(pool, signal.SIGKILL)
    workers(1)
    done = ended(run, tick=True)
    assert (done.state, done.events.filter(kind="text").count()) == ("lost", 1)
    assert "dies with its worker" in done.reason


def test_other_instances_containers_are_left_alone(
    engine: docker.DockerClient, tiny_image: str, db: None
) -> None:
    foreign = engine.containers.create(tiny_image, ["true"], labels={"herdweb.instance": "another"})
    ours = engine.containers.create(
        tiny_image,
        ["true"],
        labels={
            "herdweb.instance": settings.HERDWEB_INSTANCE,
            "herdweb.run": "00000000-0000-4000-8000-000000000000",
        },
    )
    jobs.sweep()
    assert {foreign.id, ours.id} <= {
        container.id for container in engine.containers.list(all=True, ignore_removed=True)
    }
    foreign.remove()
    ours.remove()


def test_what_an_ended_run_left_is_swept(
    chatter: Agent, engine: docker.DockerClient, tiny_image: str
) -> None:
    run = jobs.submit(chatter, "-")
    jobs.cancel(run, "somebody")
    labels = {"herdweb.instance": settings.HERDWEB_INSTANCE, "herdweb.run": str(run.public_id)}
    engine.containers.create(tiny_image, ["true"], labels=labels)
    waiting = Path(settings.HERDWEB_SECRETS_DIR) / str(run.public_id)
    waiting.mkdir(parents=True)
    jobs.sweep()
    assert_nothing_left(engine)


def test_a_run_on_the_host_ends_with_a_worker_that_is_told_to_stop(
    make_agent: MakeAgent, workers: Workers
) -> None:
    agent = make_agent("host", runtime="command", command=["sh", "-c", "echo up; sleep 60"])
    pool = workers(1)
    run = jobs.submit(agent, "-")
    until(lambda: current(run).output_bytes, "The run printed nothing")
    end(pool, signal.SIGTERM)
    done = current(run)
    assert (done.state, done.reason) == ("lost", execution.WORKER_LEFT)


@pytest.mark.slow
def test_the_output_of_a_container_that_ended_unwatched_is_adopted_whole(
    make_agent: MakeAgent, tiny_image: str
) -> None:
    """More lines than the engine's log yields in the time that a hung stream is given."""
    script = "echo start; sleep 1; seq 1 300000; exit 7"
    docker = {"docker_enabled": True, "docker_image": tiny_image, "docker_network": "none"}
    agent = make_agent("flood", runtime="command", command=["sh", "-c", script], **docker)
    run = jobs.submit(agent, "-")
    crash_at("life.Life._watch", run)
    time.sleep(4)
    Run.objects.update(lease_until=None)
    execute(run)
    stored = machine.state().output(str(run.public_id)).read_bytes()
    expected = b"start\n" + b"".join(b"%d\n" % number for number in range(1, 300_001))
    assert (current(run).exit_code, hashlib.sha256(stored).digest()) == (7, hashlib.sha256(expected).digest())
    assert not run.events.filter(text__contains="output is missing").exists()


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
def test_a_database_that_is_busy_costs_no_line_and_doubles_none(
    wrapped: bool, make_agent: MakeAgent, tiny_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "for t in $(seq 0 59); do seq $((t*1000+1)) $((t*1000+1000)); sleep 0.02; done"
    docker = {"docker_enabled": wrapped, "docker_image": tiny_image, "docker_network": "none"}
    agent = make_agent("steady", runtime="command", command=["sh", "-c", script], **docker)
    record, slow = Run.record, iter([6.0])

    def busy(run: Run, *arguments: object) -> None:
        time.sleep(next(slow, 0) if run.output_bytes else 0)
        record(run, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "record", busy)
    monkeypatch.setattr("agents.runtimes.stream.WAITING_PIECES", 2)
    run = execute(jobs.submit(agent, "-"))
    stored = machine.state().output(str(run.public_id)).read_bytes()
    assert stored == b"".join(b"%d\n" % number for number in range(1, 60_001))
    assert run.state == "succeeded"


def test_a_session_is_continued_by_one_run_at_a_time(make_agent: MakeAgent, workers: Workers) -> None:
    agent = make_agent("many", runtime="command", command=["sleep", "0.5"], max_concurrent=4)
    first = execute(jobs.submit(agent, "-"))
    workers(4)
    runs = [jobs.submit(agent, "-", continues=first.session) for _ in range(3)]
    done = [ended(run, tick=True) for run in runs]
    spans = sorted((run.started_at, run.finished_at) for run in done if run.started_at and run.finished_at)
    assert len(spans) == 3
    assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))


def test_a_queue_that_is_away_does_not_end_a_live_run(
    make_agent: MakeAgent, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent("long", runtime="command", command=["sh", "-c", "echo up; sleep 9; echo done"])
    workers(1)
    run = jobs.submit(agent, "-")
    until(lambda: current(run).output_bytes, "The run printed nothing")
    server = bells.queue().connection.info("server")["process_id"]
    os.kill(server, signal.SIGSTOP)
    try:
        time.sleep(7)
        assert current(run).state == "running"
    finally:
        os.kill(server, signal.SIGCONT)
    assert ended(run).state == "succeeded"


def test_a_worker_comes_back_after_the_queue_lost_everything(workers: Workers) -> None:
    workers(1)
    bells.queue().connection.flushdb()
    until(bells.workers, "The worker did not come back", 30)


def test_workers_end_with_a_pool_that_was_killed(chatter: Agent, workers: Workers) -> None:
    pool = workers(1)
    run = halfway(jobs.submit(chatter, "-"))
    first = horse(run)
    pool.kill()
    until(lambda: not Path(f"/proc/{first}").exists(), "The horse outlived the pool", 10)
    assert current(run).state == "running"
    workers(1)
    assert_complete(ended(run, tick=True))
