"""Schedules: each due moment is one run or one recorded skip, whatever the clock and the tickers do."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection, transaction
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents import firing, jobs, queueing, schedules, sessions
from agents.models import Agent, Audit, Fire, Run, Schedule, Session
from agents.models.moments import jitter
from agents.queueing import Turn
from agents.runtimes import RunError
from tests.conftest import execute

MakeAgent = Callable[..., Agent]
NOW = datetime(2026, 6, 15, 12, 0, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def agent(make_agent: MakeAgent) -> Agent:
    return make_agent("nightly", default_prompt="Go.", max_concurrent=10)


def scheduled(agent: Agent, now: datetime = NOW, **fields: Any) -> Schedule:
    wanted = {"name": "often", "time_zone": "UTC", "anchor": now, "failures_since": now, **fields}
    if not {"cron", "interval"} & wanted.keys():
        wanted["cron"] = "*/10 * * * *"
    schedule = Schedule.objects.create(agent=agent, **wanted)
    schedules.set_due(schedule, now)
    return schedule


def tick(now: datetime) -> int:
    return firing.tick(now, jobs.submit, jobs.cancel, "ticker")


def log(schedule: Schedule) -> list[tuple[str, str]]:
    rows = schedule.fires.order_by("moment")
    return [(f"{fire.moment:%H:%M}", fire.kind) for fire in rows]


def end(run: Run, state: str = "succeeded", at: datetime | None = None) -> Run:
    """As a run is that has ended, without an agent."""
    Run.objects.filter(pk=run.pk).update(state=state, finished_at=at or NOW, reason="why", followed_up=False)
    run.refresh_from_db()
    jobs.follow_up(run)
    return run


def ended_all(state: str = "succeeded") -> None:
    for run in Run.objects.exclude(state__in=Run.TERMINAL):
        end(run, state)


def fresh(schedule: Schedule) -> Schedule:
    return Schedule.objects.select_related("agent").get(pk=schedule.pk)


# Every moment once, none invented.

CRONS = (
    "*/10 * * * *",
    "30 2 * * *",
    "0,30 1-3 * * *",
    "*/30 2 * * *",
    "0 0 L * *",
    "0 12 29 2 *",
    "5 * * * sun",
)
STARTS = ("2026-03-28T22:00", "2026-10-24T22:00", "2026-11-01T04:00", "2026-04-04T12:00", "2026-10-03T12:00",
          "2027-12-31T20:00", "2028-02-28T20:00")  # fmt: skip
# In seconds: how the clock goes on from tick to tick, jumps of an hour in both directions included.
STEPS = st.lists(
    st.sampled_from((1, 1, 30, 59, 60, 61, 600, 1800, 3600, -3600, -60, 5 * 3600, 30 * 3600)),
    min_size=5,
    max_size=40,
)
RULES = st.one_of(
    st.sampled_from(CRONS).map(lambda text: {"cron": text}),
    st.integers(30, 4000).map(lambda seconds: {"interval": seconds}),
)


@pytest.mark.django_db
@given(
    rule=RULES,
    zone=st.sampled_from(("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC")),
    begin=st.sampled_from(STARTS),
    steps=STEPS,
    missed=st.sampled_from(Schedule.Missed.values),
    jitter=st.sampled_from((0, 0, 45, 900)),
    overlap=st.sampled_from(Schedule.Overlap.values),
    blackouts=st.sampled_from(([], [], ["22:00-02:30"], ["sun 00:00-24:00"])),
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_moment_is_told_once_and_none_is_invented(
    agent: Agent, rule: dict[str, Any], zone: str, begin: str, steps: list[int], **policies: Any
) -> None:
    first = now = datetime.fromisoformat(begin + "+00:00")
    with transaction.atomic():
        schedule = scheduled(agent, now, time_zone=zone, missed_limit=3, **policies, **rule)
        for number, step in enumerate(steps):
            now += timedelta(seconds=step)
            tick(now)
            tick(now)
            if number % 3:
                ended_all()
        furthest = max(first + timedelta(seconds=sum(steps[:n])) for n in range(1, len(steps) + 1))
        told = list(schedule.fires.order_by("moment"))
        due = [
            each for each in schedule.rule.between(first, furthest) if acted_on(schedule, each) <= furthest
        ]
        assert sum(fire.count for fire in told) == len(due)
        assert {fire.moment for fire in told} <= set(due)
        assert [fire.moment for fire in told if fire.count == 1] == sorted(covered_singly(told, due))
        started = [fire for fire in told if fire.kind in ("started", "late")]
        assert schedule.runs.count() == len(started) == len({fire.run_id for fire in started})
        assert all(fire.reason for fire in told if fire.kind != "started")
        transaction.set_rollback(True)


def acted_on(schedule: Schedule, moment: datetime) -> datetime:
    """Worked out without the code that is tested: by its jitter, but before the next moment."""
    late = moment + jitter(str(schedule.pk), moment, schedule.jitter)
    following = schedule.rule.after(moment)
    return min(late, following - timedelta(seconds=1)) if following else late


def covered_singly(told: list[Fire], due: list[datetime]) -> set[datetime]:
    """The due moments that no row for several stands for."""
    many = [fire for fire in told if fire.count > 1]
    return {
        each for each in due if not any(fire.since and fire.since <= each <= fire.moment for fire in many)
    }


# Down across three moments.


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("missed", "expected"),
    [
        ("skip", ["skipped", "skipped", "skipped"]),
        ("once", ["merged", "merged", "late"]),
        ("all", ["late", "late", "late"]),
    ],
)
def test_moments_that_passed_while_nobody_looked(agent: Agent, missed: str, expected: list[str]) -> None:
    schedule = scheduled(agent, missed=missed, overlap="wait")
    assert tick(NOW + timedelta(minutes=35)) == 1
    assert [kind for _, kind in log(schedule)] == expected
    assert schedule.runs.count() == expected.count("late")
    assert fresh(schedule).due_moment == NOW + timedelta(minutes=40)
    assert all(
        "nobody looked" in reason
        for reason in schedule.fires.exclude(kind="merged").values_list("reason", flat=True)
    )


@pytest.mark.django_db
def test_of_very_many_missed_moments_the_newest_are_told_singly(agent: Agent) -> None:
    schedule = scheduled(agent, cron="* * * * *", missed="skip")
    tick(NOW + timedelta(days=2, seconds=30))
    rows = list(schedule.fires.order_by("moment"))
    assert len(rows) == 51
    assert (rows[0].count, rows[0].since) == (2880 - 50, NOW + MINUTE)
    assert rows[-1].kind == "started"


@pytest.mark.django_db
def test_at_most_so_many_missed_moments_are_made_up_for(agent: Agent) -> None:
    schedule = scheduled(agent, missed="all", missed_limit=2)
    tick(NOW + timedelta(hours=1, seconds=1))
    assert [kind for _, kind in log(schedule)] == ["skipped"] * 4 + ["late", "started"]


@pytest.mark.django_db
def test_all_that_may_be_made_up_for_are_told_singly(agent: Agent) -> None:
    schedule = scheduled(agent, cron="* * * * *", missed="all", missed_limit=100)
    tick(NOW + timedelta(minutes=120))
    assert schedule.runs.count() == 100
    assert [fire.count for fire in schedule.fires.order_by("moment")] == [20, *[1] * 100]


@pytest.mark.django_db
def test_one_run_for_all_is_for_the_newest_that_no_window_forbids(agent: Agent) -> None:
    schedule = scheduled(agent, blackouts=["12:25-12:35"])
    tick(NOW + timedelta(minutes=38))
    assert log(schedule) == [("12:10", "merged"), ("12:20", "late"), ("12:30", "skipped")]
    assert schedule.fires.get(kind="merged").run == schedule.runs.get()


@pytest.mark.django_db
def test_an_older_state_that_is_saved_again_repeats_nothing(agent: Agent) -> None:
    first, second = scheduled(agent, name="first"), scheduled(agent, name="second")
    older = fresh(first)
    tick(NOW + timedelta(minutes=10))
    older.save()
    ended_all()
    for minutes in (11, 20):
        tick(NOW + timedelta(minutes=minutes))
    assert log(first) == log(second) == [("12:10", "started"), ("12:20", "started")]


@pytest.mark.django_db
def test_a_clock_that_is_set_back_repeats_nothing(agent: Agent) -> None:
    schedule = scheduled(agent)
    tick(NOW + timedelta(minutes=10))
    for minutes in (-50, -20, 5, 10, 19):
        tick(NOW + timedelta(minutes=minutes))
    assert log(schedule) == [("12:10", "started")]


# Overlap.


@pytest.mark.django_db
def test_a_moment_is_skipped_while_the_run_before_has_not_ended(agent: Agent) -> None:
    schedule = scheduled(agent)
    tick(NOW + timedelta(minutes=10))
    tick(NOW + timedelta(minutes=20))
    run = schedule.runs.get()
    assert schedule.fires.first().reason == f"Run {run.short_id} of this schedule has not ended."  # type: ignore[union-attr]
    end(run)
    tick(NOW + timedelta(minutes=30))
    assert [kind for _, kind in log(schedule)] == ["started", "skipped", "started"]


@pytest.mark.django_db
def test_a_run_may_wait_for_the_one_before_but_not_for_ever_many(agent: Agent) -> None:
    schedule = scheduled(agent, overlap="wait")
    for number in range(1, 13):
        tick(NOW + number * timedelta(minutes=10))
    assert schedule.runs.count() == schedules.WAITING_AT_MOST
    assert "no more wait than that" in schedule.fires.first().reason  # type: ignore[union-attr]


@pytest.mark.django_db
def test_runs_that_wait_for_each_other_are_live_one_at_a_time(agent: Agent) -> None:
    schedule = scheduled(agent, overlap="wait")
    for number in range(1, 4):
        tick(NOW + number * timedelta(minutes=10))
    first, second, third = schedule.runs.order_by("pk")
    assert queueing.next_ones(10) == [first]
    assert first.claim("a worker")
    assert queueing.next_ones(10) == []
    assert queueing.why(second) == f"Run {first.short_id} of its schedule has not ended."
    end(first)
    assert queueing.next_ones(10) == [second]
    assert queueing.why(third) == f"Run {second.short_id} of its schedule has not ended."


@pytest.mark.django_db
def test_what_a_person_asks_for_does_not_wait_for_a_schedule(agent: Agent, admin: User) -> None:
    schedule = scheduled(agent)
    tick(NOW + timedelta(minutes=10))
    schedules.run_now(schedule, admin, jobs.submit)
    assert len(queueing.next_ones(10)) == 2


@pytest.mark.django_db
@pytest.mark.parametrize(
    "against", [{"blackouts": ["12:15-12:25"]}, {"conversation": "named"}, {"saved_by": "somebody gone"}]
)
def test_nothing_is_cancelled_for_a_run_that_does_not_start(agent: Agent, against: dict[str, Any]) -> None:
    schedule = scheduled(agent, overlap="cancel")
    tick(NOW + timedelta(minutes=10))
    Schedule.objects.update(**against)
    tick(NOW + timedelta(minutes=20))
    assert [kind for _, kind in log(schedule)] == ["started", "skipped"]
    assert schedule.runs.get().state == "queued"


@pytest.mark.django_db
def test_the_run_before_is_cancelled_for_the_next_one(agent: Agent) -> None:
    schedule = scheduled(agent, overlap="cancel")
    tick(NOW + timedelta(minutes=10))
    first = schedule.runs.get()
    tick(NOW + timedelta(minutes=20))
    first.refresh_from_db()
    assert (first.state, first.stop_by) == ("cancelled", "schedule often")
    assert schedule.runs.exclude(pk=first.pk).get().state == "queued"


# Skips with their reasons.


@pytest.mark.django_db
def test_a_blackout_is_named(agent: Agent) -> None:
    schedule = scheduled(agent, blackouts=["12:00-12:15"])
    tick(NOW + timedelta(minutes=10))
    tick(NOW + timedelta(minutes=20))
    assert [(fire.kind, fire.reason) for fire in schedule.fires.order_by("moment")] == [
        ("skipped", "Blackout window 12:00-12:15."), ("started", ""),
    ]  # fmt: skip


@pytest.mark.django_db
def test_an_agent_that_is_switched_off_is_not_run(agent: Agent) -> None:
    schedule = scheduled(agent)
    Agent.objects.update(enabled=False)
    tick(NOW + timedelta(minutes=10))
    assert schedule.fires.get().reason == "The agent nightly is switched off."


@pytest.mark.django_db
def test_a_budget_that_is_used_up_is_told_with_its_numbers(agent: Agent) -> None:
    Agent.objects.update(day_cost=1.0)
    spent = jobs.submit(agent, "x")
    end(spent)
    Run.objects.update(cost_usd=1.5, finished_at=datetime.now(UTC))
    schedule = scheduled(agent)
    tick(NOW + timedelta(minutes=10))
    assert "for this day is used up: 1.50 of 1.00 USD" in schedule.fires.get().reason


@pytest.mark.django_db
def test_a_paused_agent_is_no_skip_because_its_run_can_wait(agent: Agent) -> None:
    agent.pause("alice", "moving")
    schedule = scheduled(agent)
    tick(NOW + timedelta(minutes=10))
    assert log(schedule) == [("12:10", "started")]


@pytest.mark.django_db
def test_a_schedule_of_somebody_who_may_no_longer_run_the_agent_is_paused(
    agent: Agent, person: Callable[..., User]
) -> None:
    owner = person("olga", "Operator")
    schedule = scheduled(agent, owner=owner, saved_by="olga")
    tick(NOW + timedelta(minutes=10))
    owner.groups.clear()
    ended_all()
    tick(NOW + timedelta(minutes=20))
    assert [kind for _, kind in log(schedule)] == ["started", "skipped"]
    found = fresh(schedule)
    assert (found.paused_by, found.due_at) == ("herdweb", None)
    assert found.paused_why == "olga, who saved it, may not run the agent any more."
    owner.delete()
    schedules.resume(fresh(schedule), "alice")
    later = fresh(schedule).due_at
    assert later
    tick(later)
    assert fresh(schedule).paused_why == "The account of olga, who saved it, is gone."


@pytest.mark.django_db
@pytest.mark.parametrize(
    "nonsense", [{"cron": "no such thing"}, {"time_zone": "Mars/Olympus"}, {"blackouts": ["whenever"]}]
)
def test_a_broken_schedule_is_paused_with_the_reason_and_hurts_no_other(
    agent: Agent, nonsense: dict[str, Any]
) -> None:
    broken, sound = scheduled(agent, name="broken"), scheduled(agent, name="sound")
    Schedule.objects.filter(pk=broken.pk).update(**nonsense)
    assert tick(NOW + timedelta(minutes=10)) == 2
    assert log(sound) == [("12:10", "started")]
    assert log(broken) == [("12:10", "skipped")]
    assert broken.fires.get().reason.startswith("herdweb failed: ")
    assert "[" not in broken.fires.get().reason
    assert fresh(broken).paused_why == broken.fires.get().reason[:300]
    with pytest.raises(RunError, match="Its rule cannot be read"):
        schedules.resume(fresh(broken), "alice")
    with pytest.raises(RunError, match="Its rule cannot be read"):
        schedules.run_now(fresh(broken), "alice", jobs.submit)
    assert fresh(broken).is_paused


@pytest.mark.django_db
@pytest.mark.parametrize("nonsense", [{"cron": "no such thing"}, {"time_zone": "Mars/Olympus"}])
def test_the_page_of_a_broken_schedule_says_so_and_its_buttons_answer(
    agent: Agent, client: Client, admin: User, nonsense: dict[str, Any]
) -> None:
    broken, sound = scheduled(agent, name="broken"), scheduled(agent, name="sound")
    for each in (broken, sound):
        schedules.pause(each, "alice")
    Schedule.objects.filter(pk=broken.pk).update(**nonsense)
    client.force_login(admin)
    page = broken.get_absolute_url()
    assert "Its rule cannot be read" in client.get(page).content.decode()
    answer = client.post(f"{page}resume/", follow=True)
    assert "It stays paused. Its rule cannot be read" in answer.content.decode()
    client.post("/schedules/resume/", {"query": ""})
    assert (fresh(broken).is_paused, fresh(sound).is_paused) == (True, False)
    assert client.get("/schedules/").status_code == client.get("/schedules/week/").status_code == 200


def mishap(*arguments: Any, **options: Any) -> Run:
    raise OSError("No space left on device")


@pytest.mark.django_db
def test_a_mishap_is_one_skip_and_the_next_moment_has_its_run(agent: Agent) -> None:
    schedule = scheduled(agent, cron="* * * * *")
    firing.tick(NOW + timedelta(hours=2), mishap, jobs.cancel, "ticker")
    fire = schedule.fires.get()
    assert (fire.kind, fire.count, fire.since) == ("skipped", 120, NOW + MINUTE)
    assert fire.reason == "herdweb failed: OSError: No space left on device"
    tick(NOW + timedelta(hours=2, minutes=1))
    assert log(schedule) == [("14:00", "skipped"), ("14:01", "started")]


@pytest.mark.django_db
def test_after_a_mishap_an_interval_counts_on(agent: Agent) -> None:
    schedule = scheduled(agent, interval=600, counted_from="end")
    firing.tick(NOW + timedelta(minutes=34), mishap, jobs.cancel, "ticker")
    assert fresh(schedule).due_moment == NOW + timedelta(minutes=40)


@pytest.mark.django_db
def test_what_the_database_refused_is_acted_on_later(agent: Agent) -> None:
    first, second = scheduled(agent, name="first"), scheduled(agent, name="second")

    def deadlocked(*arguments: Any, **options: Any) -> Run:
        if not first.runs.exists() and options["turn"].schedule == first:
            raise OperationalError("deadlock detected")
        return jobs.submit(*arguments, **options)

    assert firing.tick(NOW + timedelta(minutes=10), deadlocked, jobs.cancel) == 1
    assert (log(first), log(second)) == ([], [("12:10", "started")])
    tick(NOW + timedelta(minutes=10, seconds=1))
    assert log(first) == [("12:10", "started")]


# Conversations and prompts.


@pytest.mark.django_db(transaction=True)
def test_a_schedule_s_own_session_is_continued_each_time(make_agent: MakeAgent) -> None:
    agent = make_agent("cat", runtime="command", command=["cat"], default_prompt="Go.")
    schedule = scheduled(agent, conversation="own")
    for number in (1, 2):
        tick(NOW + number * timedelta(minutes=10))
        execute(schedule.runs.order_by("-id")[0])
    first, second = schedule.runs.order_by("id")
    assert first.session == second.session == second.continues == fresh(schedule).own_session
    assert (first.continues, first.state, second.state) == (None, "succeeded", "succeeded")


@pytest.mark.django_db(transaction=True)
def test_a_schedule_may_begin_a_new_session_of_its_own(
    make_agent: MakeAgent, admin: User, client: Client
) -> None:
    agent = make_agent("cat", runtime="command", command=["cat"], default_prompt="Go.")
    schedule = scheduled(agent, conversation="own", overlap="wait")
    client.force_login(admin)
    url = schedule.get_absolute_url()
    tick(NOW + timedelta(minutes=10))
    first = execute(schedule.runs.get())
    tick(NOW + timedelta(minutes=20))
    behind = schedule.runs.order_by("-id")[0]
    assert b"Begin a new one" in client.get(url).content
    assert client.post(f"{url}anew/").headers["Location"] == url
    # What was to continue the old one does, and does not bring it back.
    assert execute(behind).session == first.session
    assert fresh(schedule).own_session is None
    tick(NOW + timedelta(minutes=30))
    newest = execute(schedule.runs.order_by("-id")[0])
    assert first.session != newest.session == fresh(schedule).own_session
    schedules.begin_anew(fresh(schedule), admin)
    assert not schedules.begin_anew(fresh(schedule), admin)
    assert Audit.objects.filter(detail__startswith="Left its own session").count() == 2


@pytest.mark.django_db(transaction=True)
def test_nothing_starts_afresh_when_the_session_cannot_be_continued(make_agent: MakeAgent) -> None:
    agent = make_agent("cat", runtime="command", command=["cat"], default_prompt="Go.", session_timeout=60)
    session = execute(jobs.submit(agent, "x")).session
    assert session
    schedule = scheduled(agent, conversation="named", session=session)
    Session.objects.update(last_used=NOW - timedelta(days=900))
    tick(NOW + timedelta(minutes=10))
    assert schedule.fires.get().reason.startswith("Its session cannot be continued: The session expired on")
    Schedule.objects.update(session=None)
    tick(NOW + timedelta(minutes=20))
    assert schedule.fires.first().reason == "The session that it should continue is gone."  # type: ignore[union-attr]


@pytest.mark.django_db
def test_no_second_session_is_opened_while_the_first_run_has_not_ended(agent: Agent, admin: User) -> None:
    schedule = scheduled(agent, conversation="own", overlap="wait")
    tick(NOW + timedelta(minutes=10))
    tick(NOW + timedelta(minutes=20))
    first = schedule.runs.get()
    reason = f"Run {first.short_id}, which opens its own session, has not ended."
    assert schedule.fires.get(kind="skipped").reason == reason
    with pytest.raises(RunError, match=reason):
        schedules.run_now(fresh(schedule), admin, jobs.submit)


@pytest.mark.django_db(transaction=True)
def test_of_several_attempts_the_last_session_is_the_schedule_s_own(make_agent: MakeAgent) -> None:
    agent = make_agent("cat", runtime="command", command=["false"], default_prompt="Go.", max_retries=1)
    Agent.objects.update(retry_on=["agent"])
    schedule = scheduled(agent, conversation="own")
    tick(NOW + timedelta(minutes=10))
    first = execute(schedule.runs.get())
    assert (first.state, fresh(schedule).own_session) == ("failed", None)
    Run.objects.update(not_before=None)
    again = execute(schedule.runs.exclude(pk=first.pk).get())
    assert fresh(schedule).own_session == again.session != first.session


@pytest.mark.django_db(transaction=True)
def test_a_first_run_that_left_no_conversation_opens_no_session_for_those_after_it(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent("cat", runtime="command", command=["cat"], default_prompt="Go.")
    schedule = scheduled(agent, conversation="own")
    tick(NOW + timedelta(minutes=10))
    with monkeypatch.context() as patch:
        patch.setattr(sessions, "OBJECTIONS", [lambda _: "Its transcript is missing."])
        first = execute(schedule.runs.get())
    assert (first.session is not None, fresh(schedule).own_session) == (True, None)
    tick(NOW + timedelta(minutes=20))
    second = execute(schedule.runs.order_by("-id")[0])
    assert fresh(schedule).own_session == second.session != first.session


def sent(schedule_of: Agent, session: str) -> dict[str, str]:
    return {
        "agent": schedule_of.name, "name": "goes-on", "kind": "cron", "cron": "0 4 * * *", "interval": "",
        "counted_from": "start", "time_zone": "UTC", "enabled": "on", "missed": "once", "missed_limit": "3",
        "overlap": "skip", "jitter": "0s", "conversation": "named", "session": session,
    }  # fmt: skip


@pytest.mark.django_db(transaction=True)
def test_a_session_is_chosen_by_its_id(make_agent: MakeAgent, admin: User, client: Client) -> None:
    agent = make_agent("cat", runtime="command", command=["cat"])
    session = execute(jobs.submit(agent, "x")).session
    other = execute(jobs.submit(make_agent("dog", runtime="command", command=["cat"]), "x")).session
    assert session
    assert other
    client.force_login(admin)
    assert client.post("/schedules/preview/", sent(agent, str(session.public_id))).status_code == 200
    assert client.post("/schedules/new/", sent(agent, str(session.public_id))).status_code == 303
    made = Schedule.objects.get()
    assert made.session == session
    client.post(f"/schedules/{made.pk}/edit/", sent(agent, str(session.public_id)))
    assert not Audit.objects.filter(detail__contains="session").exists()
    for wrong in (str(other.public_id), "no id", str(session.public_id) + "x" * 40):
        page = client.post(f"/schedules/{made.pk}/edit/", sent(agent, wrong))
        assert page.status_code == 422
    assert (
        "this agent has no such session"
        in client.post(f"/schedules/{made.pk}/edit/", sent(agent, str(other.public_id))).text
    )


@pytest.mark.django_db
def test_a_reason_or_an_agent_with_a_nul_in_it_is_no_error(agent: Agent, admin: User, client: Client) -> None:
    client.force_login(admin)
    schedule = scheduled(agent)
    for path in (
        f"/schedules/{schedule.pk}/pause/",
        "/schedules/pause/",
        "/pause/",
        f"/agents/{agent.name}/pause/",
    ):
        assert client.post(path, {"why": "a\0b"}).status_code == 303
    assert fresh(schedule).paused_why == "ab"
    assert client.get("/schedules/new/?agent=%00").status_code == 404
    assert client.post("/schedules/preview/", {"agent": "\0"}).status_code == 404


@pytest.mark.django_db
def test_what_was_resumed_while_its_form_was_saved_is_due(agent: Agent, admin: User) -> None:
    schedule = scheduled(agent)
    schedules.pause(schedule, admin)
    stale = fresh(schedule)
    assert schedules.resume(fresh(schedule), admin)
    schedules.set_due(stale, NOW)
    assert fresh(schedule).due_at is not None


@pytest.mark.django_db
@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-12:00"])
def test_the_ends_of_the_calendar_are_no_place_in_the_log(
    agent: Agent, admin: User, client: Client, moment: str
) -> None:
    client.force_login(admin)
    assert client.get(f"/schedules/{scheduled(agent).pk}/?before={moment}").status_code == 200
    long = {**sent(agent, ""), "schedule": "9" * 5000}
    assert client.post("/schedules/preview/", long).status_code == 200


@pytest.mark.django_db
def test_a_prompt_is_a_template_whose_values_are_text(agent: Agent) -> None:
    schedule = scheduled(
        agent, time_zone="Asia/Tokyo",
        prompt='{date} {time} {schedule} {agent}: {last_outcome} {last_result} {{date}} {"a": {x}} {unknown}',
    )  # fmt: skip
    assert schedules.prompt_of(schedule, NOW) == (
        '2026-06-15 21:00 often nightly: none yet none yet {date} {"a": {x}} {unknown}'
    )
    run = jobs.submit(agent, "x", turn=Turn(schedule=schedule))
    end(run, "failed")
    Run.objects.update(result="{date} is not looked at again")
    assert "failed {date} is not looked at again" in schedules.prompt_of(schedule, NOW)


@pytest.mark.django_db
def test_without_any_prompt_something_is_asked_all_the_same(make_agent: MakeAgent) -> None:
    schedule = scheduled(make_agent("bare"))
    assert schedules.prompt_of(schedule, NOW) == "Execute your configured task"


@pytest.mark.django_db
def test_what_a_run_of_a_schedule_carries(agent: Agent) -> None:
    schedule = scheduled(agent, priority=7)
    tick(NOW + timedelta(minutes=10))
    run = schedule.runs.get()
    assert (run.trigger, run.priority, run.requested_by, run.prompt) == ("schedule", 7, None, "Go.")
    assert Audit.objects.filter(who="schedule often", deed="started").count() == 1
    assert run.events.get(seq=1).text == "Queued by schedule often."


@pytest.mark.django_db
def test_run_now_is_a_run_and_no_due_moment(agent: Agent, admin: User) -> None:
    schedule = scheduled(agent)
    run = schedules.run_now(schedule, admin, jobs.submit)
    assert (run.trigger, run.schedule, run.requested_by) == ("manual", schedule, admin)
    assert not schedule.fires.exists()
    Agent.objects.update(enabled=False)
    with pytest.raises(RunError, match="switched off"):
        schedules.run_now(fresh(schedule), admin, jobs.submit)


# Intervals.


@pytest.mark.django_db
def test_an_interval_may_count_from_the_end_of_a_run(agent: Agent) -> None:
    schedule = scheduled(agent, interval=600, counted_from="end")
    tick(NOW + timedelta(minutes=10))
    assert fresh(schedule).due_moment is None
    tick(NOW + timedelta(hours=3))
    end(schedule.runs.get(), at=NOW + timedelta(minutes=17))
    assert fresh(schedule).due_moment == NOW + timedelta(minutes=27)
    Agent.objects.update(enabled=False)
    tick(NOW + timedelta(minutes=27))
    assert fresh(schedule).due_moment == NOW + timedelta(minutes=37)
    assert [kind for _, kind in log(schedule)] == ["started", "skipped"]


@pytest.mark.django_db
def test_what_counts_from_an_end_goes_on_within_one_interval_and_not_beyond_its_end(agent: Agent) -> None:
    schedule = scheduled(agent, interval=600, counted_from="end", missed="skip")
    tick(NOW + timedelta(hours=5, minutes=3))
    assert log(schedule) == [("12:10", "skipped")]
    assert fresh(schedule).due_moment == NOW + timedelta(hours=5, minutes=10)
    Schedule.objects.update(ends_at=NOW + timedelta(hours=5, minutes=12))
    tick(NOW + timedelta(hours=5, minutes=13))
    assert (fresh(schedule).due_moment, fresh(schedule).due_at) == (None, None)


@pytest.mark.django_db
def test_a_cancelled_run_counts_as_ended(agent: Agent, django_capture_on_commit_callbacks: Any) -> None:
    schedule = scheduled(agent, interval=600, counted_from="end")
    tick(NOW + timedelta(minutes=10))
    with django_capture_on_commit_callbacks(execute=True):
        jobs.cancel(schedule.runs.get(), "alice")
    assert fresh(schedule).due_moment is not None


# The circuit breaker.


@pytest.mark.django_db
def test_so_many_failures_in_a_row_pause_a_schedule(agent: Agent) -> None:
    schedule = scheduled(agent, breaker=3)
    for number, state in enumerate(("failed", "succeeded", "failed", "cancelled", "timed_out", "lost"), 1):
        assert not fresh(schedule).is_paused
        tick(NOW + number * timedelta(minutes=10))
        end(schedule.runs.order_by("-id")[0], state, NOW + number * timedelta(minutes=10))
    found, last = fresh(schedule), schedule.runs.order_by("-id")[0]
    assert (found.paused_by, found.due_at) == ("circuit breaker", None)
    assert found.paused_why == f"3 failures in a row, the last one run {last.short_id}: why"
    assert Audit.objects.filter(who="circuit breaker", what=f"schedule {schedule}").exists()
    assert tick(NOW + timedelta(hours=5)) == 0
    schedules.resume(found, "alice")
    assert schedules.failures(fresh(schedule), 3) == 0


@pytest.mark.django_db
def test_a_run_that_is_tried_again_counts_once_and_at_its_end(agent: Agent) -> None:
    schedule = scheduled(agent, breaker=2)
    first = jobs.submit(agent, "x", turn=Turn(schedule=schedule))
    again = jobs.submit(agent, "x", turn=Turn(schedule=schedule, first_attempt=first, attempt=2))
    end(first, "failed")
    assert schedules.failures(schedule, 2) == 0
    end(again, "failed")
    assert schedules.failures(schedule, 2) == 1


# Pauses.


@pytest.mark.django_db
def test_a_moment_whose_jitter_was_not_over_is_told_when_its_schedule_is_paused_or_changed(
    agent: Agent, admin: User
) -> None:
    moment = timezone.now().replace(second=0, microsecond=0)
    later = moment + timedelta(hours=1)
    first, second = scheduled(agent, moment, name="first"), scheduled(agent, moment, name="second")
    Schedule.objects.update(due_moment=moment, due_at=later)
    schedules.pause(fresh(first), admin)
    schedules.set_due(fresh(second))
    assert log(first) == log(second) == [(f"{moment:%H:%M}", "skipped")]
    assert fresh(second).due_moment == moment + timedelta(minutes=10 - moment.minute % 10)
    reasons = list(Fire.objects.order_by("pk").values_list("reason", flat=True))
    assert reasons == [
        "The schedule was paused before it was acted on.",
        "The schedule was changed before it was acted on.",
    ]
    # What is due later is not over.
    schedules.set_due(fresh(second))
    schedules.pause(fresh(second), admin)
    assert Fire.objects.count() == 2


@pytest.mark.django_db
def test_moments_of_a_pause_are_over(agent: Agent) -> None:
    schedule = scheduled(agent)
    assert schedules.pause(schedule, "alice", "holidays", NOW)
    assert not schedules.pause(schedule, "bob")
    assert tick(NOW + timedelta(hours=5)) == 0
    assert schedules.resume(fresh(schedule), "bob")
    found = fresh(schedule)
    assert found.due_moment
    assert found.due_moment > datetime.now(UTC)
    assert not schedule.fires.exists()
    assert list(Audit.objects.values_list("who", "detail")) == [
        ("bob", "Resumed."),
        ("alice", "Paused. holidays"),
    ]


# Many at once.


@pytest.fixture
def minutely(transactional_db: None, make_agent: MakeAgent) -> list[Schedule]:
    """Schedules with a moment every 30 s, due long ago so that each tick has some to claim."""
    agent = make_agent("busy", default_prompt="Go.", max_concurrent=64)
    return [
        scheduled(agent, name=f"s{number}", interval=30, overlap="wait", missed="all") for number in range(8)
    ]


def test_of_many_tickers_one_acts_on_a_moment(minutely: list[Schedule]) -> None:
    moments = [NOW + step * timedelta(seconds=30) for step in range(1, 9)]
    barrier = threading.Barrier(4)
    complaints: list[BaseException] = []

    def ticking() -> None:
        try:
            for moment in moments:
                barrier.wait(30)
                tick(moment)
        except BaseException as error:
            complaints.append(error)
            barrier.abort()
        finally:
            connection.close()

    threads = [threading.Thread(target=ticking) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert complaints == []
    for schedule in minutely:
        assert [fire.moment for fire in schedule.fires.order_by("moment")] == moments
        assert schedule.runs.count() == len(moments) == schedule.fires.filter(kind="started").count()
