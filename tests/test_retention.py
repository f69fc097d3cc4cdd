"""What goes by an agent's limits, what stays, and that nothing of it is in the way of live runs."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.utils import timezone

from agents import archive, jobs, machine, recovery, removal, retention, sessions
from agents.models import Agent, Audit, Event, Run, Session
from agents.retention import Limits, carry_out, plan
from agents.runtimes import RunError
from agents.runtimes.layout import make_private
from tests.conftest import execute

pytestmark = pytest.mark.django_db
MakeAgent = Callable[..., Agent]
KB = 1024


@pytest.fixture(autouse=True)
def clean_state() -> Iterator[None]:
    """What a test set aside is not another's."""
    yield
    retention.empty_aside()


def folder(run: Run) -> Path:
    return machine.state().run(str(run.public_id))


def home(session: Session | None) -> Path:
    assert session is not None
    return machine.state().path / session.home


def ran(agent: Agent, days: float = 1, size: int = 0, home_size: int = 0, **options: Any) -> Run:
    """A run that ended so many days ago, with so much output as far as anybody has measured."""
    run = execute(jobs.submit(agent, "x", **options))
    assert run.state == Run.State.SUCCEEDED, run.reason
    ended = timezone.now() - timedelta(days=days)
    Run.objects.filter(pk=run.pk).update(finished_at=ended, files_bytes=size)
    Session.objects.filter(runs=run).update(
        last_used=ended, files_bytes=home_size, measured_at=timezone.now()
    )
    run.refresh_from_db()
    return run


def going(agent: Agent, limits: Limits | None = None, **options: Any) -> dict[int, str]:
    return {each.pk: each.why for each in plan(agent, limits, **options).runs}


def apply(agent: Agent) -> retention.Removed:
    return carry_out(agent, plan(agent))


def again(*rows: Run | Session) -> None:
    for row in rows:
        row.refresh_from_db()


# The rules.


def test_an_agent_without_limits_keeps_everything(make_agent: MakeAgent) -> None:
    agent = make_agent()
    ran(agent, days=5000, size=2**40)
    assert not plan(agent)
    assert str(Limits.of(agent)) == "everything"


def test_age_is_counted_from_the_end_and_exactly_so_old_stays(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=30)
    now = timezone.now()
    exact, older = ran(agent), ran(agent)
    Run.objects.filter(pk=exact.pk).update(finished_at=now - timedelta(days=30))
    Run.objects.filter(pk=older.pk).update(finished_at=now - timedelta(days=30, microseconds=1))
    assert going(agent, now=now) == {older.pk: "older than 30 days"}


def test_the_newest_runs_stay_and_of_two_that_ended_at_once_the_later_one(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_runs=2)
    first, second, third = (ran(agent, days=2) for _ in range(3))
    Run.objects.update(finished_at=timezone.now() - timedelta(days=2))
    assert going(agent) == {first.pk: "beyond the newest 2 runs"}
    assert {second.pk, third.pk}.isdisjoint(going(agent))


def test_bytes_count_from_the_newest_on_and_exactly_so_much_stays(make_agent: MakeAgent) -> None:
    agent = make_agent()
    old, middle, new = ran(agent, 3, 40 * KB), ran(agent, 2, 30 * KB), ran(agent, 1, 30 * KB)
    assert going(agent, Limits(size=100 * KB)) == {}
    assert going(agent, Limits(size=100 * KB - 1)) == {old.pk: "beyond 100 KB"}
    # A small old one behind a large one goes as well: the newest are kept, not the smallest.
    assert set(going(agent, Limits(size=59 * KB))) == {old.pk, middle.pk}
    assert set(going(agent, Limits(size=1))) == {old.pk, middle.pk, new.pk}


def test_a_home_counts_with_the_newest_run_in_it(make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["cat"])
    session = ran(agent, 3, 10).session
    for days in (2, 1):
        ran_in(session, days, 10)
    Session.objects.update(files_bytes=100)
    assert [len(going(agent, Limits(size=size))) for size in (130, 129, 120, 119, 110, 109)] == [
        0, 1, 1, 2, 2, 3,
    ]  # fmt: skip


def ran_in(session: Session | None, days: float, size: int = 0) -> Run:
    """One more run in a session, as the rows have it."""
    assert session is not None
    earlier = session.runs.latest("id")
    run = Run.objects.create(
        agent=session.agent, session=session, continues=session, config=earlier.config, prompt="y",
        state="succeeded", finished_at=timezone.now() - timedelta(days=days), files_bytes=size,
    )  # fmt: skip
    make_private(folder(run))
    return run


def test_rules_together_take_what_any_of_them_takes_and_name_them(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=10, keep_runs=2, keep_bytes=100 * KB)
    old, second, new = ran(agent, 11, 10 * KB), ran(agent, 5, 60 * KB), ran(agent, 1, 50 * KB)
    assert going(agent) == {
        old.pk: "older than 10 days, beyond the newest 2 runs, beyond 100 KB",
        second.pk: "beyond 100 KB",
    }
    assert str(Limits.of(agent)) == "10 days, the newest 2 runs, 100 KB"
    assert new.pk not in going(agent)


def test_what_is_pinned_stays_and_does_not_count(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_runs=1)
    old, pinned, of_session, new = (ran(agent, days) for days in (4, 3, 2, 1))
    Run.objects.filter(pk=pinned.pk).update(pinned=True)
    Session.objects.filter(runs=of_session).update(pinned=True)
    found = plan(agent)
    assert [each.pk for each in found.runs] == [old.pk]
    assert [each.pk for each in found.sessions] == [old.session_id]
    assert (found.kept, found.pinned) == (3, 2)
    assert new.pk not in going(agent)


def test_what_ended_just_now_stays_for_a_while(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_runs=1)
    early, _ = ran(agent, days=0), ran(agent, days=0)
    assert going(agent) == {}
    assert set(going(agent, now=timezone.now() + retention.GRACE + timedelta(seconds=1))) == {early.pk}


def test_a_run_that_never_started_has_no_files_and_does_not_count(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_runs=1)
    kept = ran(agent, 3)
    withdrawn = jobs.submit(agent, "x")
    assert withdrawn.withdraw("somebody")
    assert not plan(agent, now=timezone.now() + timedelta(days=1))
    again(kept)
    assert folder(kept).exists()


# What goes, and what stays of it.


def test_files_go_and_records_and_events_stay_and_say_so(
    make_agent: MakeAgent, admin: User, client: Client
) -> None:
    agent = make_agent(keep_days=30)
    run, new = ran(agent, 31, 7 * KB, 5 * KB), ran(agent, 29)
    session = run.session
    assert session
    events = run.events.count()
    done = apply(agent)
    assert (done.runs, done.sessions, done.size, done.left) == (1, 1, 12 * KB, [])
    assert (folder(run).exists(), home(session).exists()) == (False, False)
    assert (folder(new).exists(), home(new.session).exists()) == (True, True)
    assert list(machine.state().removed().iterdir()) == []
    again(run, session)
    by = "by the retention of the agent (older than 30 days)"
    said = f"Its files were removed on {timezone.localdate()} {by}."
    assert (run.farewell, session.farewell, run.events.count()) == (said, said, events)
    assert sessions.why_not(session, agent) == said == sessions.why_not(session, agent, fork=True)
    client.force_login(admin)
    for path in (run.get_absolute_url(), session.get_absolute_url()):
        assert said in client.get(path).content.decode()
    for name in ("output", "errors"):
        answer = client.get(f"{run.get_absolute_url()}{name}/")
        assert (answer.status_code, answer.content.decode()) == (410, f"{said}\n")
    refused = client.post(
        agent.get_absolute_url(), {"prompt": "more", "mode": "continue", "session": session.public_id}
    )
    assert refused.status_code == 422
    assert said in refused.content.decode()


def test_the_archive_goes_with_the_home_and_nothing_is_restored_into_an_empty_one(
    make_agent: MakeAgent,
) -> None:
    agent = make_agent(keep_days=1)
    session = ran(agent, 2).session
    assert session
    make_private(archive.folder(session))
    (archive.folder(session) / "packed").write_bytes(b"x" * 9000)
    Session.objects.update(measured_at=None)
    retention.measure()
    again(session)
    assert session.files_bytes
    assert session.files_bytes >= 9000
    apply(agent)
    again(session)
    assert (home(session).exists(), archive.folder(session).exists()) == (False, False)
    with pytest.raises(RunError, match="by the retention of the agent"):
        recovery.restore(session, "somebody")
    assert not home(session).exists()


def test_a_batch_is_one_line_of_the_audit_trail(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=1)
    runs = [ran(agent, 2, KB, 2 * KB) for _ in range(3)]
    apply(agent)
    notes = Audit.objects.filter(deed="deleted").order_by("id")
    lines = [(note.who, note.what, note.detail.split(":")[0], note.agent) for note in notes]
    who = "retention of agent probe"
    assert lines == [
        (who, "files of 3 runs of probe", "3 KB", agent),
        (who, "files of 3 sessions of probe", "6 KB", agent),
    ]
    assert all(run.short_id in notes[0].detail for run in runs)


def test_a_home_goes_with_the_last_run_that_keeps_files_in_it(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=10)
    old = ran(agent, 20)
    newer = ran_in(old.session, 5)
    assert apply(agent).sessions == 0
    again(old, newer)
    assert (bool(old.farewell), bool(newer.farewell), home(old.session).exists()) == (True, False, True)
    Run.objects.filter(pk=newer.pk).update(finished_at=timezone.now() - timedelta(days=11))
    assert apply(agent).sessions == 1
    assert not home(old.session).exists()


def test_a_home_stays_with_a_pinned_run_in_it_although_others_go(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=10)
    old = ran(agent, 20)
    pinned = ran_in(old.session, 30)
    Run.objects.filter(pk=pinned.pk).update(pinned=True)
    apply(agent)
    again(old, pinned)
    assert (bool(old.farewell), bool(pinned.farewell)) == (True, False)
    assert (folder(pinned).exists(), home(old.session).exists()) == (True, True)


def test_a_session_without_runs_goes_by_its_last_use(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=10)
    made = [
        Session.objects.create(agent=agent, runtime="echo", home=f"docker-sessions/probe/{n}") for n in "ab"
    ]
    Session.objects.filter(pk=made[0].pk).update(last_used=timezone.now() - timedelta(days=11))
    found = plan(agent)
    assert [(each.pk, each.why) for each in found.sessions] == [(made[0].pk, "older than 10 days")]


# Beside live runs.


@pytest.mark.parametrize("state", [*Run.PENDING, *Run.LIVE])
@pytest.mark.parametrize("how", ["session", "continues", "forks"])
def test_nothing_goes_of_a_session_that_a_run_needs(make_agent: MakeAgent, state: str, how: str) -> None:
    agent = make_agent(keep_days=1)
    run = ran(agent, 2)
    needing = jobs.submit(agent, "more")
    Run.objects.filter(pk=needing.pk).update(state=state, **{how: run.session})
    assert not plan(agent)
    assert not apply(agent)
    Run.objects.filter(pk=needing.pk).update(state="succeeded", finished_at=timezone.now())
    assert set(going(agent)) == {run.pk}


@pytest.mark.parametrize("how", ["continues", "forks"])
def test_a_session_that_is_needed_between_preview_and_removal_stays(make_agent: MakeAgent, how: str) -> None:
    agent = make_agent(keep_days=1)
    run, other = ran(agent, 2), ran(agent, 2)
    found = plan(agent)
    needed: dict[str, Any] = {how: run.session}
    jobs.submit(agent, "more", **needed)
    done = carry_out(agent, found)
    again(run, other)
    assert (done.runs, done.sessions) == (1, 1)
    assert (run.farewell, bool(other.farewell)) == ("", True)
    assert (folder(run).exists(), home(run.session).exists()) == (True, True)


def test_what_is_pinned_between_preview_and_removal_stays(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=1)
    run, of_session = ran(agent, 2), ran(agent, 2)
    found = plan(agent)
    Run.objects.filter(pk=run.pk).update(pinned=True)
    Session.objects.filter(runs=of_session).update(pinned=True)
    assert not carry_out(agent, found)
    for kept in (run, of_session):
        assert (folder(kept).exists(), home(kept.session).exists()) == (True, True)


def test_a_run_started_after_the_removal_is_told_and_nothing_starts_afresh(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=1)
    run = ran(agent, 2)
    session = run.session
    assert session
    apply(agent)
    late = execute(jobs.submit(agent, "more", continues=session))
    assert late.state == Run.State.FAILED
    assert "by the retention of the agent (older than 1 day)" in late.reason
    assert not home(session).exists()


# Again, at once, and after a crash.


def test_twice_is_once(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=1)
    run = ran(agent, 2)
    found = plan(agent)
    assert carry_out(agent, found).runs == 1
    again(run)
    when = run.files_removed_at
    assert not carry_out(agent, found)
    assert not plan(agent)
    again(run)
    assert run.files_removed_at == when
    assert Audit.objects.filter(deed="deleted").count() == 2


def test_a_crash_between_files_and_row_is_mended_by_the_next_turn(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(keep_days=1)
    run = ran(agent, 2)
    session = run.session

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(retention, "witness", die)
        with pytest.raises(KeyboardInterrupt):
            apply(agent)
    again(run)
    assert (folder(run).exists(), run.farewell) == (False, "")
    assert len(list(machine.state().removed().iterdir())) == 1
    retention.turn()
    assert session
    again(run, session)
    assert run.farewell == session.farewell != ""
    assert not home(session).exists()
    assert list(machine.state().removed().iterdir()) == []


def test_a_crash_after_the_rows_leaves_files_that_the_next_turn_deletes(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(keep_days=1)
    run = ran(agent, 2)
    with monkeypatch.context() as patched:
        patched.setattr(removal, "remove_folder", lambda _: [])
        apply(agent)
    again(run)
    assert run.farewell
    assert len(list(machine.state().removed().iterdir())) == 2
    retention.turn()
    assert list(machine.state().removed().iterdir()) == []


def test_a_session_whose_runs_lost_their_files_before_a_crash_goes_later(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=1)
    run = ran(agent, 2)
    found = plan(agent)
    carry_out(agent, retention.Plan(runs=found.runs))
    later = plan(agent)
    assert [(each.pk, each.why) for each in later.sessions] == [(run.session_id, "older than 1 day")]
    assert carry_out(agent, later).sessions == 1


def test_what_cannot_be_moved_is_told_and_its_row_says_nothing(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=1)
    session = Session.objects.create(agent=agent, runtime="echo", home="")
    Session.objects.filter(pk=session.pk).update(last_used=timezone.now() - timedelta(days=2))
    done = apply(agent)
    assert "does not lie in the state directory" in done.left[0]
    again(session)
    assert (session.farewell, machine.state().path.exists()) == ("", True)


# The ticker.


def test_a_turn_measures_what_has_ended_and_what_was_used_again(make_agent: MakeAgent) -> None:
    agent = make_agent()
    run = execute(jobs.submit(agent, "x" * 9000))
    session = run.session
    assert session
    retention.turn()
    again(run, session)
    assert run.files_bytes
    assert run.files_bytes >= 9000
    assert session.files_bytes is not None
    assert retention.keeps(agent) == (run.files_bytes + session.files_bytes, 1)
    (home(session) / "notes").write_bytes(os.urandom(100_000))
    retention.turn()
    again(session)
    assert session.files_bytes < 100_000
    Session.objects.update(last_used=timezone.now())
    retention.turn()
    again(session)
    assert session.files_bytes >= 100_000


def test_a_turn_removes_of_every_agent_that_has_limits(make_agent: MakeAgent) -> None:
    agents = [make_agent(f"agent-{number}", keep_days=number) for number in (1, 3)]
    runs = [ran(agent, 2) for agent in (*agents, make_agent("keeps-all"))]
    retention.turn()
    again(*runs)
    assert [bool(run.farewell) for run in runs] == [True, False, False]


@pytest.mark.django_db(transaction=True)
@pytest.mark.slow
def test_five_thousand_runs_go_in_batches_while_others_write(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_runs=10)
    first = ran(agent, 5000)
    assert first.session
    ended = timezone.now() - timedelta(days=4000)
    made = Session.objects.bulk_create(
        Session(agent=agent, runtime="echo", home=f"docker-sessions/probe/s{n}", working_directory="/")
        for n in range(5000)
    )
    rows = Run.objects.bulk_create(
        Run(agent=agent, session=session, config=first.config, prompt="x", state="succeeded",
            finished_at=ended + timedelta(minutes=n), files_bytes=KB)
        for n, session in enumerate(made)
    )  # fmt: skip
    Session.objects.update(last_used=ended)
    for run in rows:
        folder(run).mkdir()
        (folder(run) / "output.jsonl").write_text("x")
    waits: list[float] = []
    done = threading.Event()
    writer = threading.Thread(target=write_meanwhile, args=(first, done, waits))
    writer.start()
    began = time.monotonic()
    try:
        gone = apply(agent)
    finally:
        done.set()
        writer.join()
    assert (gone.runs, gone.sessions, gone.left) == (4991, 4991, [])
    took = time.monotonic() - began
    assert Run.objects.filter(files_removed_at=None).count() == 10
    assert sum(folder(run).exists() for run in rows) == 10
    print(f"{took:.1f} s; {len(waits)} writes meanwhile, the slowest {max(waits):.3f} s")
    # What blocks a write is a batch; a machine that is busy otherwise is given a lot more.
    assert len(waits) >= 20
    assert sorted(waits)[len(waits) // 2] < 1


def write_meanwhile(run: Run, done: threading.Event, waits: list[float]) -> None:
    """What a live run does: a line of its own now and then; how long each took."""
    try:
        while not done.is_set():
            before = time.monotonic()
            run.note("written meanwhile")
            waits.append(time.monotonic() - before)
            time.sleep(0.01)
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_several_at_once_remove_everything_once(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=1)
    runs = [ran(agent, 2) for _ in range(30)]
    results: list[retention.Removed] = []

    def work() -> None:
        try:
            results.append(apply(agent))
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.runs for each in results) == len(runs) == sum(each.sessions for each in results)
    assert [each.left for each in results] == [[], [], []]
    assert not any(folder(run).exists() for run in runs)


# Pins, by hand.


def test_pins_are_set_and_taken_by_operators_and_audited_once(
    make_agent: MakeAgent, person: Callable[..., User], client: Client
) -> None:
    run = ran(make_agent())
    assert run.session
    client.force_login(person("op", "Operator"))
    for row, name in ((run, f"run {run.short_id} of probe"), (run.session, f"session {run.session}")):
        address = row.get_absolute_url()
        assert "Keep this one" in client.get(address).content.decode()
        for pinned in ("1", "1", "0"):
            assert client.post(f"{address}pin/", {"pinned": pinned}).status_code == 303
            again(row)
            assert row.pinned is (pinned == "1")
        notes = Audit.objects.filter(what=name, deed="changed").order_by("id").values_list("who", "detail")
        assert list(notes) == [("op", "Pinned: it is kept."), ("op", "No longer pinned.")]


def test_a_pinned_run_is_not_deleted_by_hand_before_it_is_unpinned(
    make_agent: MakeAgent, admin: User, client: Client
) -> None:
    run, other = ran(make_agent()), ran(make_agent("other"))
    Run.objects.filter(pk=run.pk).update(pinned=True)
    client.force_login(admin)
    form = {"action": "delete", "run": [str(run.public_id), str(other.public_id)]}
    page = " ".join(client.post("/runs/bulk/", form).content.decode().split())
    assert "Pinned, so not deleted; unpin first:" in page
    client.post("/runs/bulk/", {**form, "confirmed": "1"})
    assert list(Run.objects.all()) == [run]
    assert run.session
    deleting = f"{run.session.get_absolute_url()}delete/"
    answer = client.post(deleting, {"confirmed": "1"})
    assert answer.status_code == 422
    assert "nothing is deleted" in " ".join(answer.content.decode().split())
    Run.objects.update(pinned=False)
    client.post(deleting, {"confirmed": "1"})
    assert not Session.objects.exists()


def test_a_pinned_session_and_its_runs_are_not_deleted_by_hand(
    make_agent: MakeAgent, admin: User, client: Client
) -> None:
    run = ran(make_agent())
    Session.objects.update(pinned=True)
    assert run.session
    client.force_login(admin)
    client.post("/runs/bulk/", {"action": "delete", "run": str(run.public_id), "confirmed": "1"})
    answer = client.post(f"{run.session.get_absolute_url()}delete/", {"confirmed": "1"})
    assert "The session is pinned, so nothing is deleted. Unpin it first" in answer.content.decode()
    assert (Run.objects.count(), Session.objects.count(), folder(run).exists()) == (1, 1, True)


def test_pinned_after_the_preview_is_told_instead_of_deleted(make_agent: MakeAgent) -> None:
    run = ran(make_agent())
    assert run.session
    found = removal.of_session(run.session)
    Session.objects.update(pinned=True)
    left = removal.remove(found, lambda _: None)
    assert left == [
        f"The run {run.short_id} has been pinned and stays.",
        f"The session {run.session} has been pinned and stays.",
    ]
    assert (folder(run).exists(), home(run.session).exists()) == (True, True)


# The page and the command.


def test_the_page_tries_limits_out_and_saves_nothing(
    make_agent: MakeAgent, admin: User, client: Client
) -> None:
    agent = make_agent()
    run = ran(agent, 40, 3 * KB, 2 * KB)
    client.force_login(admin)
    address = f"{agent.get_absolute_url()}retention/"
    assert address in client.get(agent.get_absolute_url()).content.decode()
    plain = " ".join(client.get(address).content.decode().split())
    assert "Nothing goes" in plain
    tried = " ".join(client.get(f"{address}?keep_days=30&keep_runs=&keep_bytes=").content.decode().split())
    assert "Files of 1 run and 1 session, 5 KB in all; those of 0 runs stay." in tried
    assert "older than 30 days" in tried
    assert run.short_id in tried
    wrong = client.get(f"{address}?keep_days=0&keep_bytes=much").content.decode()
    assert "Must be between 1 and 36500." in wrong
    assert "Write it like 512m or 2g." in wrong
    agent.refresh_from_db()
    assert (agent.keep_days, agent.keep_runs, agent.keep_bytes) == (None, None, None)
    retention.turn()
    assert folder(run).exists()


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("retention", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_only_looks_until_it_is_told_to_remove(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=1)
    make_agent("other")
    run = ran(agent, 2)
    text = command("probe")
    assert f"run {run.public_id}  0 bytes  older than 1 day" in text
    assert folder(run).exists()
    found = json.loads(command("--json"))
    assert [(each["agent"], len(each["runs"]), each["removed"]) for each in found] == [
        ("other", 0, None),
        ("probe", 1, None),
    ]
    done = json.loads(command("--apply", "--json", "probe"))[0]
    assert (done["removed"]["runs"], done["removed"]["sessions"], done["removed"]["left"]) == (1, 1, [])
    assert not folder(run).exists()
    assert Audit.objects.filter(deed="deleted").first().who.endswith("(command)")  # type: ignore[union-attr]
    assert "Removed files of probe: 0 runs and 0 sessions" in command("probe", "--apply")
    with pytest.raises(CommandError, match="There is no agent named 'nobody'"):
        command("nobody")


def test_limits_are_set_by_the_command_and_emptied_again(make_agent: MakeAgent) -> None:
    agent = make_agent()
    call_command("agent_set", "probe", "keep_days=30", "keep_runs=100", "keep_bytes=2g", stdout=StringIO())
    agent.refresh_from_db()
    assert Limits.of(agent) == Limits(30, 100, 2 * 1024**3)
    call_command("agent_set", "probe", "keep_days=", "keep_runs=null", "keep_bytes=null", stdout=StringIO())
    agent.refresh_from_db()
    assert not Limits.of(agent)
    for wrong in ("keep_days=0", "keep_runs=-1", "keep_bytes=1k", "keep_bytes=lots"):
        with pytest.raises(CommandError, match=r"Must be between 1|Write it like"):
            call_command("agent_set", "probe", wrong)


def test_events_are_never_touched(make_agent: MakeAgent) -> None:
    agent = make_agent(keep_days=1)
    ran(agent, 2)
    before = list(Event.objects.values())
    apply(agent)
    assert list(Event.objects.values()) == before
