"""The right run at the right moment: the line, its limits, and what is said to those who wait."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents import bells, execution, jobs, limits, live, queueing, retries
from agents.models import Agent, Container, Fleet, Run, Site
from agents.queueing import Turn, Waiting, fair
from agents.runtimes import Outcome, RunError
from tests.conftest import ROOT, execute, process_environment, until
from tests.test_faults import Workers, current, ended

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]


def taken(run: Run) -> Run:
    """As a run is that a worker has."""
    assert execution.claim(run, "a worker")
    return run


def done(run: Run) -> None:
    assert run.finish("a worker", "succeeded", Outcome(ok=True, reason="Done."))
    jobs.follow_up(run)


def refused(run: Run) -> str:
    assert not execution.claim(run, "another")
    return current(run).reason


# The order.


def test_one_agent_s_many_runs_do_not_starve_another(make_agent: MakeAgent) -> None:
    busy, other = make_agent("busy", max_concurrent=64), make_agent("other", max_concurrent=64)
    many = [jobs.submit(busy, "x", turn=Turn(ring=False)) for _ in range(40)]
    for run in many[:4]:
        taken(run)
    late = [jobs.submit(other, "x", turn=Turn(ring=False)) for _ in range(2)]
    assert queueing.next_ones(3) == [*late, many[4]]
    assert queueing.place_of(late[0]) == (1, 38)


def test_higher_priorities_go_first_and_then_the_older(make_agent: MakeAgent) -> None:
    agent = make_agent(max_concurrent=64)
    low, usual, high, higher = (
        jobs.submit(agent, "x", turn=Turn(priority=number, ring=False)) for number in (-3, None, 5, 10)
    )
    assert queueing.next_ones(9) == [higher, high, usual, low]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(-2, 2)), max_size=40))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_with_the_same_priority_agents_take_turns(asked: list[tuple[int, int]]) -> None:
    rows = [Waiting(pk, agent, rank, None, None, None, "") for pk, (agent, rank) in enumerate(asked)]
    found = fair(rows, Counter())
    assert sorted(found) == sorted(rows)
    assert [-row.priority for row in found] == sorted(-row.priority for row in found)
    for rank in range(-2, 3):
        same = [row.agent for row in found if row.priority == rank]
        for end in range(len(same)):
            # Of those who still have some, nobody is ahead of another by more than one.
            waiting = set(same[end:])
            counts = [same[:end].count(agent) for agent in waiting]
            assert max(counts, default=0) - min(counts, default=0) <= 1


def test_with_workers_a_single_run_overtakes_the_many_of_another(
    make_agent: MakeAgent, workers: Workers
) -> None:
    sleeper = {"runtime": "command", "command": ["sleep", "0.3"], "max_concurrent": 64}
    busy, other = make_agent("busy", **sleeper), make_agent("other", **sleeper)
    many = [jobs.submit(busy, "x") for _ in range(12)]
    workers(1)
    until(lambda: current(many[1]).is_terminal, "The second one did not end")
    single = ended(jobs.submit(other, "x"))
    waiting = sum(current(run).state in Run.PENDING for run in many)
    assert single.state == "succeeded"
    assert waiting >= 6, waiting
    assert all(ended(run).state == "succeeded" for run in many)


# The limits, each with who holds it.


def test_a_fleet_has_a_limit_of_its_own(make_agent: MakeAgent) -> None:
    fleet = Fleet.objects.create(name="web", max_concurrent=1)
    first, second = (make_agent(name, fleet=fleet, max_concurrent=5) for name in ("one", "two"))
    holder = taken(jobs.submit(first, "x"))
    waits = jobs.submit(second, "x")
    assert refused(waits) == f"Limit of the fleet web 1/1: run {holder.short_id} is live."
    assert queueing.next_ones(5) == []
    done(holder)
    assert queueing.next_ones(5) == [waits]


def test_all_agents_together_have_one(make_agent: MakeAgent) -> None:
    Site.get()
    Site.objects.update(max_runs=2)
    agents = [make_agent(f"a{number}", max_concurrent=5) for number in range(3)]
    holders = [taken(jobs.submit(agent, "x")) for agent in agents[:2]]
    reason = refused(jobs.submit(agents[2], "x"))
    assert reason == f"Limit of all agents 2/2: run {holders[0].short_id}, {holders[1].short_id} is live."


def test_a_host_has_one(make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    Site.get()
    Site.objects.update(max_per_host=1)
    here, inside = make_agent("here", max_concurrent=5), make_agent("inside", docker_enabled=True)
    holder = taken(jobs.submit(here, "x"))
    waits = jobs.submit(inside, "x")
    assert refused(waits).startswith(f"Limit of the host {holder.host} 1/1")
    assert queueing.next_ones(5) == []
    monkeypatch.setenv("DOCKER_HOST", "tcp://engines.example:2376")
    assert execution.claim(waits, "another")
    assert current(waits).host == "tcp://engines.example:2376"


def test_who_waits_for_one_host_is_offered_to_others(make_agent: MakeAgent) -> None:
    Site.get()
    Site.objects.update(max_per_host=1)
    holder = taken(jobs.submit(make_agent("here", max_concurrent=5), "x", turn=Turn(ring=False)))
    waits = jobs.submit(make_agent("inside", docker_enabled=True), "x", turn=Turn(ring=False))
    assert refused(waits).startswith(f"Limit of the host {holder.host} 1/1")
    jobs.tick()
    assert bells.waiting_bells() == {str(waits.public_id)}
    bells.queue().connection.flushdb()
    jobs.tick()
    # Rung for again only after some seconds, so that a full host is not asked all the time.
    assert bells.waiting_bells() == set()
    Run.objects.update(rung_at=timezone.now() - bells.RING_AGAIN)
    jobs.tick()
    assert bells.waiting_bells() == {str(waits.public_id)}


def test_who_has_a_runtime_that_no_worker_knows_says_so(make_agent: MakeAgent) -> None:
    """As after a step back to a version that is older than the agent."""
    run = jobs.submit(make_agent(), "x")
    known = run.config
    Run.objects.filter(pk=run.pk).update(config={**known, "runtime": "newer"})
    reason = "There is no runtime named 'newer'. Known are: claude_cli, command, echo."
    assert execute(run).state == "waiting"
    assert current(run).reason == queueing.why(current(run)) == reason
    Run.objects.filter(pk=run.pk).update(config=known)
    assert execute(run).state == "succeeded"


def test_a_credential_has_one_and_is_known_by_its_fingerprint_alone(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    Site.get()
    Site.objects.update(max_per_credential=1)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-first-secret")
    agent = make_agent(runtime="claude_cli", max_concurrent=5)
    holder, waits, free = (jobs.submit(agent, "x", turn=Turn(ring=False)) for _ in range(3))
    taken(holder)
    reason = refused(waits)
    assert reason.startswith("Limit of the credential ANTHROPIC_API_KEY ")
    assert "secret" not in reason + current(holder).credential
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-second-secret")
    assert execution.claim(free, "another")
    assert queueing.next_ones(5) == []
    done(holder)
    assert queueing.next_ones(5) == [waits]


def test_a_slot_is_free_only_when_the_container_is_gone(make_agent: MakeAgent) -> None:
    agent = make_agent()
    holder, waits = jobs.submit(agent, "x"), jobs.submit(agent, "x")
    taken(holder)
    container = Container.objects.create(engine_id="e", name="c", image="i", image_digest="", agent=agent)
    Run.objects.filter(pk=holder.pk).update(container=container)
    done(holder)
    assert refused(waits) == f"Agent limit 1/1: The container of run {holder.short_id} is not gone yet."
    container.removed()
    jobs.tick()
    assert queueing.next_ones(5) == [waits]


def test_a_slot_s_release_is_heard_within_a_second(make_agent: MakeAgent, workers: Workers) -> None:
    workers(2)
    agent = make_agent(runtime="command", command=["sleep", "1"])
    first, second = (jobs.submit(agent, "x") for _ in range(2))
    ended(second)
    before, after = current(first).finished_at, current(second).claimed_at
    assert before is not None
    assert after is not None
    assert before < after < before + timedelta(seconds=1)


def test_no_more_bells_are_rung_than_workers_can_hear(make_agent: MakeAgent) -> None:
    agent = make_agent(max_concurrent=64)
    for _ in range(30):
        jobs.submit(agent, "x")
    jobs.tick()
    assert len(bells.waiting_bells()) == bells.capacity()


def test_a_run_that_cannot_start_says_so_at_once(make_agent: MakeAgent) -> None:
    agent = make_agent()
    holder = taken(jobs.submit(agent, "x"))
    waits = [jobs.submit(agent, "x") for _ in range(2)]
    reason = f"Agent limit 1/1: run {holder.short_id} is live."
    jobs.tick()
    assert [(current(run).state, current(run).reason) for run in waits] == [("waiting", reason)] * 2
    assert live.obstacle(current(waits[1])) == f"{reason} It is number 2 of 2 in the line."


def test_those_behind_many_that_only_lack_a_worker_are_told_what_they_wait_for(make_agent: MakeAgent) -> None:
    only_lack_a_worker, full = make_agent("many"), make_agent("full")
    for _ in range(jobs.EXPLAINED_AT_ONCE + 5):
        jobs.submit(only_lack_a_worker, "x", turn=Turn(ring=False))
    holder = taken(jobs.submit(full, "x"))
    waits = jobs.submit(full, "x")
    Run.objects.filter(pk=waits.pk).update(state="queued", reason="")
    jobs.tick()
    assert current(waits).reason == f"Agent limit 1/1: run {holder.short_id} is live."


def test_who_waits_for_its_agent_s_container_keeps_nobody_else_from_starting(make_agent: MakeAgent) -> None:
    one = {"docker_enabled": True, "docker_ephemeral": False, "docker_container_scope": "agent"}
    first, other = make_agent("first", max_concurrent=2, priority=5, **one), make_agent("other")
    holder = taken(jobs.submit(first, "x", turn=Turn(ring=False)))
    waits = jobs.submit(first, "x", turn=Turn(ring=False))
    behind = jobs.submit(other, "x", turn=Turn(ring=False))
    assert queueing.next_ones(1) == [behind]
    jobs.tick()
    assert current(waits).reason == f"Its agent's container is in use by run {holder.short_id}."


@pytest.mark.parametrize("kept", [False, True])
def test_a_container_that_went_while_nobody_looked_holds_no_slot(
    make_agent: MakeAgent, tiny_image: str, kept: bool
) -> None:
    scope = {"docker_ephemeral": False, "docker_container_scope": "agent"} if kept else {}
    agent = make_agent("inside", docker_enabled=True, docker_image=tiny_image, **scope)
    run = taken(jobs.submit(agent, "x", turn=Turn(ring=False)))
    container = Container.objects.create(
        engine_id="f" * 64, name="gone", agent=agent, image="i", scope="agent" if kept else ""
    )
    Run.objects.filter(pk=run.pk).update(container=container)
    run.refresh_from_db()
    assert run.finish("a worker", "failed", Outcome(ok=False, reason="The engine was away."))
    waits = jobs.submit(agent, "x", turn=Turn(ring=False))
    jobs.sweep()
    jobs.tick()
    assert not current(run).holds_slot
    assert queueing.next_ones(5) == [waits]


def test_a_worker_that_is_told_to_go_follows_the_end_of_its_run_up_first(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_by_it: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: ended_by_it.append(number))
    monkeypatch.setattr(retries, "after", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        run = execute(jobs.submit(make_agent(), "x"))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (run.state, run.followed_up, run.holds_slot, ended_by_it) == ("succeeded", True, False, [])


def test_a_bell_follows_up_what_nobody_did(make_agent: MakeAgent) -> None:
    """Its work horse was killed right after the end."""
    agent = make_agent(max_concurrent=1)
    first, second = jobs.submit(agent, "x"), jobs.submit(agent, "x")
    assert taken(first).finish("a worker", "succeeded", Outcome(ok=True, reason="Done."))
    assert "is not gone yet" in refused(second)
    bells.queue().empty()
    jobs.execute(str(first.public_id))
    assert (current(first).followed_up, current(first).holds_slot) == (True, False)
    assert bells.waiting_bells() == {str(second.public_id)}


def test_a_mistake_with_one_ended_run_keeps_nobody_waiting(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(max_concurrent=2)
    ended_ones = [taken(jobs.submit(agent, "x", turn=Turn(ring=False))) for _ in range(2)]
    for run in ended_ones:
        assert run.finish("a worker", "succeeded", Outcome(ok=True, reason="Done."))
    real, seen = jobs.follow_up, []

    def first_fails(run: Run) -> None:
        seen.append(run)
        if len(seen) == 1:
            raise ValueError("a mistake")
        real(run)

    monkeypatch.setattr(jobs, "follow_up", first_fails)
    waits = jobs.submit(agent, "x", turn=Turn(ring=False))
    jobs.tick()
    assert len(seen) == 2
    assert bells.waiting_bells() == {str(waits.public_id)}


# Fifty workers.


@pytest.mark.slow
@pytest.mark.timeout(170)
def test_fifty_workers_never_exceed_a_limit_and_never_get_stuck(make_agent: MakeAgent) -> None:
    Site.get()
    Site.objects.update(max_runs=7)
    fleet = Fleet.objects.create(name="web", max_concurrent=4)
    agents = [make_agent(f"a{number}", max_concurrent=3, fleet=fleet) for number in range(2)]
    agents += [make_agent(f"b{number}", max_concurrent=5) for number in range(2)]
    runs = [jobs.submit(agent, "x", turn=Turn(ring=False)) for agent in agents for _ in range(60)]
    command = [sys.executable, "-m", "tests.hammer", "25"]
    connection.close()
    said = subprocess.run(
        command, cwd=ROOT, env=process_environment(), check=True, capture_output=True, text=True, timeout=150
    )
    found = json.loads(said.stdout)
    allowed = {"all": 7, "agent a0": 3, "agent a1": 3, "agent b0": 5, "agent b1": 5, "fleet web": 4}
    assert found["killed"] >= 10
    assert {name: most for name, most in found["most"].items() if most > allowed[name]} == {}
    assert found["most"]["all"] >= 5
    Run.objects.filter(state__in=Run.LIVE).update(lease_until=None)
    for run in Run.objects.filter(state__in=Run.LIVE):
        # Those that were killed at the very end.
        assert run.claim("the last")
        assert run.finish("the last", "succeeded", Outcome(ok=True, reason="Done."))
    limits.release()
    assert not Run.objects.filter(holds_slot=True).exists()
    assert sum(current(run).state == "succeeded" for run in runs) >= 100


# Keys.


def test_the_same_key_is_the_same_run(make_agent: MakeAgent) -> None:
    agent, other = make_agent("one"), make_agent("two")
    first = jobs.submit(agent, "x", turn=Turn(key="order-7"))
    assert jobs.submit(agent, "x", turn=Turn(key="order-7")) == first
    assert jobs.submit(other, "x", turn=Turn(key="order-7")) != first
    with pytest.raises(RunError, match="was used for another request"):
        jobs.submit(agent, "y", turn=Turn(key="order-7"))
    assert Run.objects.count() == 2


def test_a_form_that_is_sent_twice_starts_one_run(make_agent: MakeAgent, admin: User, client: Client) -> None:
    agent = make_agent()
    client.force_login(admin)
    page = client.get(agent.get_absolute_url()).content.decode()
    key = page.partition('name="key"')[2].partition('value="')[2].partition('"')[0]
    assert len(key) == 36
    answers = {
        client.post(agent.get_absolute_url(), {"prompt": "x", "key": key})["Location"] for _ in range(3)
    }
    assert len(answers) == Run.objects.count() == 1


# Time.


def test_a_run_that_waits_for_too_long_is_given_up_with_what_it_waited_for(make_agent: MakeAgent) -> None:
    agent = make_agent(wait_limit=60)
    taken(jobs.submit(agent, "x"))
    waits = jobs.submit(agent, "x")
    jobs.tick()
    assert current(waits).state == "waiting"
    jobs.tick(timezone.now() + timedelta(seconds=61))
    found = current(waits)
    assert (found.state, found.failure) == ("timed_out", "limit")
    assert found.reason.startswith("It did not start within 1m (wait limit). Agent limit 1/1")


def test_deadlines_come_from_the_agent_or_its_fleet_or_herdweb(make_agent: MakeAgent) -> None:
    fleet = Fleet.objects.create(name="web", time_limit=120, idle_limit=30)
    agent = make_agent(fleet=fleet, idle_limit=20)
    frozen = agent.freeze()
    assert [frozen[name] for name in ("time_limit", "idle_limit", "cancel_grace", "wait_limit")] == [
        120, 20, 10, None,
    ]  # fmt: skip


def test_half_of_a_time_is_told_once(make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["sleep", "30"], time_limit=4, cancel_grace=0)
    run = execute(jobs.submit(agent, "x"))
    warned = list(run.events.filter(payload__warns="time").values_list("text", flat=True))
    assert warned == ["Half of its time is over; it is stopped after 4s."]
    assert run.state == "timed_out"


def test_half_of_a_silence_is_told_again_only_after_new_output(make_agent: MakeAgent) -> None:
    script = "sleep 2.3; echo a; sleep 2.3; echo b"
    agent = make_agent(runtime="command", command=["sh", "-c", script], idle_limit=3)
    run = execute(jobs.submit(agent, "x"))
    assert run.state == "succeeded"
    assert run.events.filter(payload__warns="idle").count() == 2


def test_a_run_that_does_not_start_in_time_is_given_up(make_agent: MakeAgent, tiny_image: str) -> None:
    agent = make_agent(start_limit=1)
    run = jobs.submit(agent, "x")
    assert execution.claim(run, "a worker")
    Run.objects.filter(pk=run.pk).update(claimed_at=timezone.now() - timedelta(seconds=5))
    run.refresh_from_db()
    supervision = execution.Supervision(run, "a worker", lambda _: None)
    supervision._look()
    found = current(run)
    assert (found.state, found.stop_cause) == ("cancelling", "start")
    assert found.reason == "It was not started within 1s."


# Pauses.


@pytest.mark.parametrize("what", ["site", "agent"])
def test_a_pause_lets_runs_wait_and_live_ones_go_on(make_agent: MakeAgent, what: str) -> None:
    agent = make_agent(max_concurrent=2)
    going = taken(jobs.submit(agent, "x"))
    paused = Site.get() if what == "site" else agent
    assert paused.pause("alice", "moving house")
    waits = jobs.submit(agent, "x")
    name = "herdweb" if what == "site" else "The agent probe"
    assert refused(waits) == f"{name} is paused by alice: moving house."
    assert queueing.next_ones(5) == []
    assert going.renew("a worker")
    assert paused.resume()
    assert queueing.next_ones(5) == [waits]


def test_an_old_line_is_made_quickly(make_agent: MakeAgent) -> None:
    agents = [make_agent(f"a{number}") for number in range(5)]
    rows = [
        Run(agent=agent, config=agent.freeze(), prompt="x" * 2000, state="waiting", reason="r")
        for agent in agents for _ in range(1000)
    ]  # fmt: skip
    Run.objects.bulk_create(rows)
    begun = time.monotonic()
    assert len(queueing.next_ones(50)) == 5
    assert time.monotonic() - begun < 1


def test_the_facts_of_a_run_count_what_is_left(make_agent: MakeAgent, admin: User, client: Client) -> None:
    client.force_login(admin)
    agent = make_agent(wait_limit=600)
    taken(jobs.submit(agent, "x"))
    waits = jobs.submit(agent, "x")
    page: Any = client.get(waits.get_absolute_url())
    assert b"Waits at most" in page.content
    assert b"in the line" in page.content
