"""Schedules, pauses and drained workers from a terminal."""

import json
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from agents import bells, draining, jobs, machine
from agents.models import Agent, Audit, Drain, Run, Schedule, Site
from tests.conftest import until
from tests.test_faults import Workers, current, ended

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]


def command(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def refused(*arguments: str) -> list[str]:
    with pytest.raises(CommandError) as caught:
        command(*arguments)
    return str(caught.value).splitlines()


def test_a_schedule_is_created_changed_and_left_alone(make_agent: MakeAgent) -> None:
    make_agent("web")
    said = command("schedule_set", "web", "nightly", "cron=30 2 * * mon-fri", "time_zone=europe/berlin")
    assert said == "created web/nightly: At 02:30 on Monday through Friday (Europe/Berlin)\n"
    schedule = Schedule.objects.get()
    assert schedule.due_at is not None
    assert schedule.saved_by.endswith("(command)")
    assert command("schedule_set", "web", "nightly", "time_zone=Europe/Berlin").startswith("unchanged")
    assert command("schedule_set", "web", "nightly", "interval=2h").startswith(
        "changed web/nightly: Every 2 hours"
    )
    assert Schedule.objects.get().cron == ""
    assert Audit.objects.filter(what="schedule web/nightly").count() == 2


def test_every_refusal_names_its_field(make_agent: MakeAgent) -> None:
    make_agent("web")
    lines = refused(
        "schedule_set", "web", "nightly", "cron=60 * * * *", "time_zone=Mars/Base", "jitter=x",
        "missed=maybe", "missed_limit=0", "priority=99", "breaker=0", "starts_at=soon", "blackouts=always",
    )  # fmt: skip
    said = dict(line.split(": ", 1) for line in lines[1:])
    assert lines[0] == "Nothing was saved."
    assert said.keys() == {
        "cron", "time_zone", "jitter", "missed", "missed_limit", "priority", "breaker", "starts_at",
        "blackouts",
    }  # fmt: skip
    assert "Write 0-59" in said["cron"]
    assert "unknown time zone" in said["time_zone"]
    assert "Must be between 1 and 100" in said["missed_limit"]
    assert "Choose: skip, once, all." in said["missed"]
    assert not Schedule.objects.exists()
    assert "There is no field 'owner'" in refused("schedule_set", "web", "x", "owner=1")[0]
    assert (
        refused("schedule_set", "web", "x")[1]
        == "cron: Give a cron expression or an interval, one of the two is needed."
    )


def test_schedules_are_listed(make_agent: MakeAgent) -> None:
    make_agent("web")
    command("schedule_set", "web", "often", "interval=5m")
    head, line = command("schedules").splitlines()
    assert head.split() == ["AGENT", "NAME", "STATE", "RULE", "NEXT", "LAST"]
    assert line.split()[:3] == ["web", "often", "on"]
    (found,) = json.loads(command("schedules", "web", "--json"))
    assert (found["interval"], found["state"]) == (300, "on")
    assert found["words"].startswith("Every 5 minutes, counted from 2")


def test_a_schedule_is_paused_resumed_run_and_deleted(make_agent: MakeAgent) -> None:
    make_agent("web", default_prompt="Go.")
    command("schedule_set", "web", "often", "interval=5m")
    assert command("schedule", "web", "often", "pause", "--why", "moving") == "paused web/often\n"
    assert Schedule.objects.get().paused_why == "moving"
    assert command("schedule", "web", "often", "resume") == "resumed web/often\n"
    run = Run.objects.get(public_id=command("schedule", "web", "often", "run").strip())
    assert (run.prompt, run.schedule) == ("Go.", Schedule.objects.get())
    assert "has no schedule named 'other'. Schedules: often." in refused("schedule", "web", "other", "run")[0]
    assert command("schedule", "web", "often", "delete") == "deleted web/often\n"
    assert Run.objects.get().schedule is None


def test_everything_or_one_agent_is_paused_and_resumed(make_agent: MakeAgent) -> None:
    make_agent("web")
    assert command("pause", "web", "--why", "tests") == "paused agent web\n"
    assert command("pause", "web") == "agent web was paused already\n"
    assert command("pause") == "paused herdweb\n"
    assert Site.get().is_paused
    assert [command("resume"), command("resume", "web")] == ["resumed herdweb\n", "resumed agent web\n"]
    assert command("resume") == "herdweb was not paused\n"
    assert Audit.objects.filter(what="herdweb").count() == 2


# Drained workers.


def test_a_drained_host_takes_nothing_new_and_finishes_what_is_live(
    make_agent: MakeAgent, workers: Workers
) -> None:
    workers(2)
    agent = make_agent(runtime="command", command=["sleep", "2"], max_concurrent=5)
    going = jobs.submit(agent, "x")
    until(lambda: current(going).state == "running", "It did not start")
    out = command("drain", "--timeout", "30").splitlines()
    here = machine.name()
    assert out == [f"drained {here}", f"live: {going.short_id} of probe", f"nothing is live on {here}"]
    assert current(going).state == "succeeded"
    waits = jobs.submit(agent, "x")
    until(lambda: bells.workers() and not bells.listening(), "The workers did not say that they are drained")
    jobs.tick()
    assert current(waits).state == "queued"
    command("drain", "--end")
    assert ended(waits).state == "succeeded"
    assert not Drain.objects.exists()


def test_a_run_in_a_container_is_handed_over(
    make_agent: MakeAgent, workers: Workers, tiny_image: str
) -> None:
    workers(1)
    agent = make_agent(
        runtime="command", command=["sh", "-c", "echo up; sleep 6; echo down"], docker_enabled=True,
        docker_image=tiny_image, docker_network="none",
    )  # fmt: skip
    run = jobs.submit(agent, "x")
    until(lambda: current(run).output_bytes, "It printed nothing")
    name = current(run).lease_owner.rpartition(":")[2]
    assert [each.pk for each in draining.live_on(name)] == [run.pk]
    assert "asked to hand over: 1" in command("drain", name, "--hand-over", "--no-wait")
    until(lambda: not current(run).lease_until or current(run).is_terminal, "It was not let go")
    workers(1)
    done: Any = ended(run)
    assert done.state == "succeeded"
    assert done.lease_owner.rpartition(":")[2] != name
    texts = list(done.events.filter(kind="text").order_by("seq").values_list("text", flat=True))
    assert texts == ["up", "down"]
