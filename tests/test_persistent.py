"""Containers that serve many runs: what they keep, whose they are, and what dies in between."""

import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from datetime import timedelta
from typing import Any

import docker
import pytest
from django.conf import settings
from django.utils import timezone

from agents import execution, jobs, kept, machine, queueing, reconcile, removal, sessions
from agents.models import Agent, Container, DockerSettings, Run, Session
from agents.runtimes import Place, Report, Request, Runtime
from agents.runtimes.keeping import IDLE
from tests.conftest import execute, until
from tests.images import make_roomy
from tests.test_claude import claude, messages_api
from tests.test_faults import Workers, current, ended, horse

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["claude", "messages_api"]
MakeAgent = Callable[..., Agent]
# The prompt is the script.
SHELL = ["sh", "-c", "cat > /var/tmp/script; . /var/tmp/script"]
LINES = 1500
CHATTER = f"""
i=0
while [ $i -lt {LINES} ]; do
  i=$((i+1)); echo "$0 line $i"; echo "$0 line $i" >> /workspace/copy
  [ $((i % 100)) = 0 ] && sleep 0.1
done
exit 7
"""


@pytest.fixture(autouse=True)
def tidy(engine: docker.DockerClient) -> Iterator[None]:
    yield
    for container in ours(engine):
        container.remove(force=True)
    for folder in (machine.state().path, machine.host().secrets_dir):
        shutil.rmtree(folder / "containers", ignore_errors=True)


@pytest.fixture
def keeper(make_agent: MakeAgent, engine: docker.DockerClient) -> Agent:
    """An agent whose container stays, and which executes its prompt."""
    return make_agent(
        "keeper", runtime="command", command=SHELL, docker_enabled=True, docker_image=make_roomy(engine),
        docker_network="none", docker_ephemeral=False,
    )  # fmt: skip


def ours(engine: docker.DockerClient) -> list[Any]:
    label = f"herdweb.instance={settings.HERDWEB_INSTANCE}"
    return list(engine.containers.list(all=True, filters={"label": label}, ignore_removed=True))


def go(agent: Agent, script: str, session: Session | None = None) -> Run:
    return execute(jobs.submit(agent, script, continues=session))


def said(run: Run) -> list[str]:
    return list(run.events.filter(kind="text").order_by("seq").values_list("text", flat=True))


def notes(run: Run) -> str:
    return "\n".join(run.events.filter(kind="status").values_list("text", flat=True))


def session_of(run: Run) -> Session:
    assert run.session
    return run.session


def container_of(run: Run) -> Container:
    found = current(run).container
    assert found
    return found


def test_a_file_and_an_installed_program_are_there_in_all_three_runs(
    keeper: Agent, engine: docker.DockerClient
) -> None:
    install = "mkdir -p /usr/local/bin; cp /bin/busybox /usr/local/bin/echo; echo one > /usr/local/file"
    first = go(keeper, f"{install}; echo done")
    assert (first.state, said(first)) == ("succeeded", ["done"])
    for number in (2, 3):
        (there,) = ours(engine)
        assert there.attrs["State"]["Status"] == "exited"
        assert there.attrs["State"]["Pid"] == 0
        script = f"cat /usr/local/file; /usr/local/bin/echo program; echo {number} > /usr/local/file"
        run = go(keeper, script, session_of(first))
        assert said(run) == ["one" if number == 2 else "2", "program"]
    assert Container.objects.count() == 1
    assert container_of(first).runs.count() == 3


def test_all_but_the_read_only_root_is_as_hard_as_ever(keeper: Agent, engine: docker.DockerClient) -> None:
    go(keeper, "true")
    (there,) = ours(engine)
    host = there.attrs["HostConfig"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["SecurityOpt"]) == (
        False, ["ALL"], ["no-new-privileges"],
    )  # fmt: skip
    assert (host["Init"], host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (True, 2**31, 2**31, 512)
    assert there.attrs["Config"]["User"] == settings.HERDWEB_CONTAINER_USER


def test_each_run_has_its_own_output_and_end(keeper: Agent) -> None:
    first = go(keeper, "echo first; echo problem >&2; exit 3")
    second = go(keeper, "echo second", session_of(first))
    assert (said(first), first.exit_code, first.state) == (["first"], 3, "failed")
    assert (said(second), second.exit_code, second.state) == (["second"], 0, "succeeded")
    container = container_of(second)
    assert (container.exit_code, container.state, container.finished_at is not None) == (0, "kept", True)
    assert machine.state().output(str(second.public_id)).read_bytes() == b"second\n"


@pytest.fixture
def shared(keeper: Agent) -> Agent:
    """The same with one container for all its sessions; prints a long output slowly."""
    DockerSettings.objects.filter(agent=keeper).update(container_scope="agent")
    Agent.objects.filter(pk=keeper.pk).update(command=["sh", "-c", CHATTER, "x"])
    copy = machine.state().workspace("keeper") / "copy"
    copy.unlink(missing_ok=True)
    return Agent.objects.get(pk=keeper.pk)


def written(agent: Agent) -> bytes:
    return (machine.state().workspace(agent.name) / "copy").read_bytes()


def assert_whole(run: Run, output: bytes) -> None:
    stored = machine.state().output(str(run.public_id)).read_bytes()
    assert hashlib.sha256(stored).digest() == hashlib.sha256(output).digest()
    assert stored.count(b"\n") == LINES == len(said(run))
    assert (run.state, run.exit_code) == ("failed", 7)


@pytest.mark.parametrize("scope", ["session", "agent"])
def test_a_worker_that_is_killed_in_the_second_run_loses_and_doubles_nothing(
    shared: Agent, workers: Workers, engine: docker.DockerClient, scope: str
) -> None:
    DockerSettings.objects.update(container_scope=scope)
    shared = Agent.objects.get(pk=shared.pk)
    workers(2)
    assert_whole(first := ended(jobs.submit(shared, "-")), before := written(shared))
    second = jobs.submit(shared, "-", continues=session_of(first) if scope == "session" else None)
    until(lambda: current(second).output_bytes > 5000, "The run printed nothing")
    os.kill(horse(second), signal.SIGKILL)
    assert_whole(ended(second), written(shared)[len(before) :])
    assert "Container adopted." in notes(second)
    assert container_of(first) == container_of(second)
    (there,) = ours(engine)
    assert there.status == "exited"


def test_an_end_of_the_run_before_is_never_taken_for_this_one_s(keeper: Agent) -> None:
    first = go(keeper, "exit 3")
    second = jobs.submit(keeper, "echo mine", continues=session_of(first))
    # As a worker leaves it that died when the container was known and not yet started.
    assert execution.claim(second, "dead")
    supervision = execution.Supervision(second, "dead", lambda _: None)
    _, request = sessions.settle(second, second.agent_config, supervision.runtime)
    steps = begun(supervision.runtime, request)
    for reports in (next(steps), next(steps)):
        supervision._store(reports, _Nowhere())  # type: ignore[arg-type]
    steps.close()
    assert container_of(second) == container_of(first)
    assert execution.stored_end(current(second)) is None
    Run.objects.filter(pk=second.pk).update(lease_until=None)
    done = execute(current(second))
    assert (done.state, done.exit_code, said(done)) == ("succeeded", 0, ["mine"])


def begun(runtime: Runtime, request: Request) -> Generator[list[Report], None, None]:
    """As a worker begins; closed, as one leaves it that dies."""
    yield from runtime.execute(request)


class _Nowhere:
    def append(self, reports: object) -> None:
        pass


def test_a_run_that_ended_while_no_worker_looked_is_read_from_where_it_began(
    keeper: Agent, engine: docker.DockerClient
) -> None:
    """Killed between the engine's start and our own note of it: nothing but the engine knows."""
    first = go(keeper, "echo of the first run; echo of the first run >&2")
    second = jobs.submit(keeper, "echo only mine; exit 5", continues=session_of(first))
    assert execution.claim(second, "dead")
    runtime = machine.runtime(second.agent_config)
    _, request = sessions.settle(second, second.agent_config, runtime)
    steps = begun(runtime, request)
    for reports in steps:
        if any(getattr(report, "started", False) for report in reports):
            break
    steps.close()
    until(lambda: ours(engine)[0].status == "exited", "It did not end")
    Run.objects.filter(pk=second.pk).update(lease_until=None)
    done = execute(current(second))
    assert (done.state, done.exit_code, said(done)) == ("failed", 5, ["only mine"])
    assert done.stderr_bytes == 0
    assert ours(engine)[0].logs(stdout=True, stderr=False).count(b"only mine") == 1


def test_two_runs_are_never_in_one_container_at_once(shared: Agent, workers: Workers) -> None:
    Agent.objects.update(max_concurrent=2)
    workers(2)
    runs = [jobs.submit(shared, "-"), jobs.submit(shared, "-")]
    inside = until(lambda: next((run for run in runs if current(run).state == "running"), None), "None runs")
    waits = next(run for run in runs if run.pk != inside.pk)
    assert queueing.why(current(waits)) == f"Its agent's container is in use by run {inside.short_id}."
    both = [ended(inside), ended(waits)]
    assert [run.exit_code for run in both] == [7, 7]
    assert both[0].container == both[1].container
    assert both[0].finished_at
    assert both[1].started_at
    assert both[0].finished_at < both[1].started_at


def test_sessions_of_one_agent_share_a_container_and_another_agent_s_are_not_in_it(
    keeper: Agent, make_agent: MakeAgent
) -> None:
    DockerSettings.objects.filter(agent=keeper).update(container_scope="agent")
    keeper = Agent.objects.get(pk=keeper.pk)
    stranger = make_agent("stranger")
    execute(jobs.submit(stranger, "x"))
    first, second = (
        go(keeper, "echo $HOME; echo x > /usr/local/x; echo y > $HOME/y"),
        go(keeper, "cat /usr/local/x"),
    )
    third = go(keeper, f"cat /home/agent/{session_of(first).public_id}/y; find /home -name '*-*-*'")
    assert said(first) == [f"/home/agent/{session_of(first).public_id}"]
    assert said(second) == ["x"]
    assert said(third)[0] == "y"
    strangers = str(Session.objects.get(agent=stranger).public_id)
    assert strangers not in "".join(said(third))
    assert len({container_of(run).pk for run in (first, second, third)}) == 1


def test_a_home_that_is_a_link_is_not_mounted(keeper: Agent, make_agent: MakeAgent) -> None:
    first = go(keeper, "true")
    home, other = machine.state().path / session_of(first).home, machine.state().path / "docker-sessions/x/y"
    other.mkdir(parents=True, exist_ok=True)
    home.rename(home.with_name("aside"))
    home.symlink_to(other)
    second = go(keeper, "true", session_of(first))
    assert second.state == "failed"
    home.unlink()


def test_a_changed_limit_or_image_makes_another_container_and_says_what_changed(
    keeper: Agent, engine: docker.DockerClient, tiny_image: str
) -> None:
    first = go(keeper, "echo x > /usr/local/x")
    DockerSettings.objects.update(memory=256 * 1024**2, env={"A": "b"})
    second = go(Agent.objects.get(pk=keeper.pk), "ls /usr/local; echo $A", session_of(first))
    assert said(second) == ["b"]
    assert "memory from 2 GB to 256 MB; environment" in notes(second)
    assert "b" not in notes(second).split("environment")[1].split(".")[0]
    old, new = container_of(first), container_of(second)
    assert (old.name, old.state, new.state) == (new.name, "removed", "kept")
    assert [there.id for there in ours(engine)] == [new.engine_id]
    third = go(Agent.objects.get(pk=keeper.pk), "true", session_of(first))
    assert "made anew" not in notes(third)


def test_what_runs_in_it_without_a_run_is_ended_first(keeper: Agent, engine: docker.DockerClient) -> None:
    first = go(keeper, "echo once >> /usr/local/x")
    (there,) = ours(engine)
    there.start()
    until(lambda: ours(engine)[0].status == "running", "It did not start")
    second = go(keeper, "cat /usr/local/x", session_of(first))
    # Started by hand, it executed no agent.
    assert said(second) == ["once"]
    assert "was ended" in notes(second)


def test_of_many_containers_the_one_idle_longest_goes(keeper: Agent, engine: docker.DockerClient) -> None:
    DockerSettings.objects.update(max_containers=2)
    runs = [go(keeper, f"echo {number}") for number in range(4)]
    go(keeper, "true", session_of(runs[0]))
    neighbour = engine.containers.create(
        make_roomy(engine), ["true"], labels={"herdweb.instance": "neighbour", "herdweb.scope": "session"}
    )
    reconcile.sweep()
    states = [container_of(run).state for run in runs]
    assert states == ["kept", "removed", "removed", "kept"]
    assert {there.id for there in ours(engine)} == {
        container_of(runs[0]).engine_id, container_of(runs[3]).engine_id,
    }  # fmt: skip
    neighbour.reload()
    neighbour.remove()
    names = {path.name for path in (machine.state().path / "containers").iterdir()}
    assert names == {container_of(runs[0]).name, container_of(runs[3]).name}


def test_a_live_one_is_never_removed(keeper: Agent, engine: docker.DockerClient) -> None:
    first, second = go(keeper, "true"), go(keeper, "true")
    DockerSettings.objects.update(max_containers=1)
    live = jobs.submit(keeper, "x", continues=session_of(first))
    Run.objects.filter(pk=live.pk).update(state="starting", lease_until=timezone.now() + timedelta(hours=1))
    Container.objects.update(unwanted=True)
    reconcile.sweep()
    assert [there.id for there in ours(engine)] == [container_of(first).engine_id]
    assert container_of(second).state == "removed"


def test_one_that_is_no_longer_asked_for_gets_a_last_day(keeper: Agent, engine: docker.DockerClient) -> None:
    run = go(keeper, "true")
    DockerSettings.objects.update(ephemeral=True)
    reconcile.sweep()
    until_then = container_of(run).kept_until
    assert until_then
    assert until_then > timezone.now() + timedelta(hours=23)
    Container.objects.update(kept_until=timezone.now() - timedelta(seconds=1))
    reconcile.sweep()
    assert (ours(engine), container_of(run).state) == ([], "removed")


def test_a_deleted_session_takes_its_container_along(keeper: Agent, engine: docker.DockerClient) -> None:
    session = session_of(go(keeper, "true"))
    assert removal.remove(removal.of_session(session), lambda _: None) == []
    reconcile.sweep()
    assert ours(engine) == []


def test_credentials_are_not_in_a_container_between_runs(
    keeper: Agent, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-sentinel-4711")
    first = go(keeper, "echo ${#ANTHROPIC_API_KEY}")
    assert said(first) == ["16"]
    place = Place.named(container_of(first).name, machine.host(), machine.state().path)
    assert list(place.secrets.iterdir()) == []
    assert [path.name for path in place.run.iterdir()] == ["start"]
    assert "sentinel" not in str(ours(engine)[0].attrs)
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert said(go(keeper, "echo ${#ANTHROPIC_API_KEY}", session_of(first))) == ["0"]


def test_the_end_of_a_run_is_told_when_its_container_is_free_for_the_next(
    keeper: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[bytes] = []

    def mark(run: Run) -> None:
        place = Place.named(container_of(run).name, machine.host(), machine.state().path)
        found.extend(path.read_bytes() for path in place.run.iterdir())

    monkeypatch.setattr(kept, "mark", mark)
    go(keeper, "true")
    assert found == [IDLE]


def test_a_cancelled_run_leaves_its_container_to_the_next(keeper: Agent, workers: Workers) -> None:
    workers(1)
    first = jobs.submit(keeper, "echo x > /usr/local/x; echo begun; sleep 60")
    until(lambda: current(first).output_bytes, "It printed nothing")
    jobs.cancel(first, "somebody")
    assert ended(first).state == "cancelled"
    second = ended(jobs.submit(keeper, "cat /usr/local/x", continues=session_of(current(first))))
    assert (second.state, said(second), second.container) == ("succeeded", ["x"], current(first).container)


def test_memory_that_ran_out_in_one_run_is_not_told_of_the_next(keeper: Agent) -> None:
    DockerSettings.objects.update(memory=64 * 1024**2)
    first = go(Agent.objects.get(pk=keeper.pk), "tail /dev/zero")
    assert (first.state, first.oom) == ("failed", True)
    second = go(Agent.objects.get(pk=keeper.pk), "echo fine", session_of(first))
    assert (second.state, second.oom, container_of(second).oom) == ("succeeded", False, False)


def test_one_that_goes_on_by_a_mistake_of_ours_is_ended_and_kept(
    keeper: Agent, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistake(self: execution.Supervision) -> None:
        if self.run.started_at:
            raise ZeroDivisionError

    monkeypatch.setattr(execution.Supervision, "_watch", mistake)
    run = go(keeper, "sleep 60")
    assert (run.state, ours(engine)[0].status, container_of(run).state) == ("failed", "exited", "kept")


@pytest.mark.parametrize("scope", ["session", "agent"])
def test_claude_code_goes_on_with_its_conversation_and_its_tools(claude: Agent, scope: str) -> None:
    DockerSettings.objects.update(ephemeral=False, container_scope=scope)
    Agent.objects.update(permission_mode="bypassPermissions", allowed_tools=[])
    claude = Agent.objects.get(pk=claude.pk)
    first = go(claude, "RUN mkdir -p /var/tmp/tools; cp /bin/echo /var/tmp/tools/mine")
    second = go(claude, "RUN /var/tmp/tools/mine it-is-$((40+2))", session_of(first))
    third = go(claude, "RECALL", session_of(first))
    assert [run.state for run in (first, second, third)] == ["succeeded"] * 3
    assert "it-is-42" in second.events.get(kind="tool_result").text
    assert "RUN mkdir" in third.result
    assert len({container_of(run).pk for run in (first, second, third)}) == 1


# Kept for inspection.


@pytest.fixture
def failing(make_agent: MakeAgent, engine: docker.DockerClient) -> Agent:
    return make_agent(
        "failing", runtime="command", command=["sh", "-c", "cat > /tmp/s; . /tmp/s"], docker_enabled=True,
        docker_image=make_roomy(engine), docker_network="none", docker_keep_failed=3600,
    )  # fmt: skip


def test_the_container_of_a_failed_run_is_kept_until_its_time_is_over(
    failing: Agent, engine: docker.DockerClient
) -> None:
    run = go(failing, "exit 3")
    container = container_of(run)
    assert (run.state, container.state) == ("failed", "kept")
    assert container.kept_until
    assert "kept for inspection until" in notes(run)
    reconcile.sweep()
    assert [there.status for there in ours(engine)] == ["exited"]
    assert kept.keep(container, 5)
    assert container_of(run).kept_until > container.kept_until  # type: ignore[operator]
    Container.objects.update(kept_until=timezone.now() - timedelta(seconds=1))
    reconcile.sweep()
    assert (ours(engine), container_of(run).state) == ([], "removed")
    assert list((machine.state().path / "containers").iterdir()) == []


def test_the_container_of_a_run_that_succeeded_is_removed_at_once(
    failing: Agent, engine: docker.DockerClient
) -> None:
    run = go(failing, "true")
    assert (run.state, container_of(run).state, ours(engine)) == ("succeeded", "removed", [])


def test_one_that_somebody_gave_up_goes_with_the_next_sweep(
    failing: Agent, engine: docker.DockerClient
) -> None:
    run = go(failing, "exit 3")
    assert kept.give_up(container_of(run))
    reconcile.sweep()
    assert (ours(engine), container_of(run).state) == ([], "removed")


def test_one_that_was_removed_by_hand_is_no_longer_said_to_be_kept(
    failing: Agent, engine: docker.DockerClient
) -> None:
    run = go(failing, "exit 3")
    ours(engine)[0].remove()
    reconcile.sweep()
    assert container_of(run).state == "removed"


def test_the_disk_is_measured_once_after_each_run(keeper: Agent) -> None:
    run = go(keeper, "head -c 3000000 /dev/zero > /usr/local/big")
    kept.measure()
    container = container_of(run)
    assert container.disk_bytes
    assert 3_000_000 <= container.disk_bytes < 3_200_000
    kept.measure()
    assert container_of(run).disk_at == container.disk_at
    go(keeper, "rm /usr/local/big", session_of(run))
    kept.measure()
    assert container_of(run).disk_bytes < 100_000  # type: ignore[operator]
