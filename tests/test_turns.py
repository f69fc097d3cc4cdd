"""Messages of one session: sent one after the other, in the order in which they were written."""

import os
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User

from agents import bells, jobs, machine, queueing, sessions
from agents.models import Agent, Run, Session
from tests.conftest import execute, until

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
Workers = Callable[..., subprocess.Popen[bytes]]
# Writes when it began and ended into the home of its session, and in between takes its time.
DIARY = ["sh", "-c", 'read word; echo "begin $word" >> ~/diary; sleep 0.3; echo "end $word" >> ~/diary']


def opened(agent: Agent, prompt: str = "first") -> Session:
    """A session with one run that has ended."""
    session = execute(jobs.submit(agent, prompt)).session
    assert session
    return session


def current(run: Run) -> Run:
    return Run.objects.get(pk=run.pk)


def state(*runs: Run) -> list[str]:
    return [str(current(run).state) for run in runs]


def live(run: Run, session: Session) -> None:
    """As a run is that a worker has."""
    Run.objects.filter(pk=run.pk).update(
        state="running", session=session, lease_owner="somebody", holds_slot=True
    )


def test_a_younger_message_lets_the_older_one_go_first(make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["cat"], max_concurrent=5)
    session = opened(agent)
    second, third = (jobs.submit(agent, text, continues=session) for text in ("second", "third"))
    execute(third)
    assert state(second, third) == ["queued", "waiting"]
    assert current(third).reason == f"Run {second.short_id} of its session was asked for before it."
    execute(second)
    execute(third)
    assert state(second, third) == ["succeeded", "succeeded"]


def test_a_message_waits_for_the_live_run_of_its_session(make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["cat"], max_concurrent=1)
    session = opened(agent)
    second, third = (jobs.submit(agent, text, continues=session) for text in ("second", "third"))
    live(second, session)
    execute(third)
    assert current(third).reason == f"Its session is in use by run {second.short_id}."


def test_other_sessions_do_not_wait_behind_a_busy_one(make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["cat"], max_concurrent=2)
    busy, free = opened(agent), opened(agent)
    first = jobs.submit(agent, "first", continues=busy)
    live(first, busy)
    behind = [jobs.submit(agent, "behind", continues=busy) for _ in range(10)]
    others = [jobs.submit(agent, "other", continues=free) for _ in range(2)]
    for run in (*behind, *others):
        run.wait("Agent limit 2/2.")
    assert queueing.next_ones(5) == others[:1]
    Run.objects.filter(pk=first.pk).update(state="failed", holds_slot=False)
    assert queueing.next_ones(5) == [behind[0], others[0]]


@pytest.mark.parametrize("end", ["failed", "cancelled", "timed_out", "lost"])
def test_whatever_became_of_a_run_the_next_message_is_sent(make_agent: MakeAgent, end: str) -> None:
    agent = make_agent(runtime="command", command=["cat"])
    session = opened(agent)
    second, third = (jobs.submit(agent, text, continues=session) for text in ("second", "third"))
    live(second, session)
    execute(third)
    Run.objects.filter(pk=second.pk).update(state=end, holds_slot=False)
    assert queueing.next_ones(5) == [third]
    assert execute(third).state == "succeeded"


def test_a_withdrawn_message_makes_room_for_the_next_at_once(make_agent: MakeAgent, admin: User) -> None:
    agent = make_agent(runtime="command", command=["cat"])
    session = opened(agent)
    second, third = (jobs.submit(agent, text, continues=session) for text in ("second", "third"))
    execute(third)
    bells.queue().connection.flushdb()
    jobs.cancel(second, admin)
    assert [list(job.args) for job in bells.queue().jobs] == [[str(third.public_id)]]


def test_no_two_workers_work_in_one_session_and_a_restart_keeps_the_order(
    make_agent: MakeAgent, workers: Workers
) -> None:
    agent = make_agent(runtime="command", command=DIARY, max_concurrent=8)
    session = opened(agent, "0\n")
    runs = [jobs.submit(agent, f"{number}\n", continues=session) for number in range(1, 7)]
    # Rung in the wrong order, as after a restart.
    bells.queue().connection.flushdb()
    for run in reversed(runs):
        bells.ring(run)
    pool = workers(3)
    until(lambda: state(runs[1]) == ["succeeded"], "The second did not end")
    os.killpg(pool.pid, signal.SIGTERM)
    workers(3)

    def ended() -> bool:
        jobs.tick()
        time.sleep(0.1)
        return all(current(run).is_terminal for run in runs)

    until(ended, "Not all have ended", 60)
    times = [(run.started_at, run.finished_at) for run in map(current, runs)]
    moments = [moment for pair in times for moment in pair if moment]
    assert moments == sorted(moments)
    diary = (machine.state().path / session.home / "diary").read_text().splitlines()
    begun = [line.split()[1] for line in diary if line.startswith("begin")]
    assert begun == sorted(begun)


def test_what_a_live_run_has_not_written_yet_keeps_nobody_from_writing_the_next_message(
    make_agent: MakeAgent,
) -> None:
    agent = make_agent(runtime="claude_cli")
    run = jobs.submit(agent, "first")
    session = Session.objects.create(
        agent=agent, runtime="claude_cli", home=machine.state().home(agent.name, "new"),
        working_directory=str(machine.state().workspace(agent.name)),
    )  # fmt: skip
    Run.objects.filter(pk=run.pk).update(state="running", session=session)
    assert sessions.why_not(session, agent) == ""
    assert "is gone" in sessions.why_not(session, agent, fork=True)
    Run.objects.filter(pk=run.pk).update(state="failed")
    assert "is gone" in sessions.why_not(session, agent)
