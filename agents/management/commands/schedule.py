"""Pause, resume, run or delete one schedule, or have it begin a new session."""

from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from agents import jobs, schedules
from agents.management.terminal import find_agent, one_line, operator
from agents.models import Agent, Audit, Schedule
from agents.runtimes import RunError


class Command(BaseCommand):
    """What the buttons of its page do."""

    help = "Pause, resume, run or delete a schedule of an agent, or have it begin a new session."

    def add_arguments(self, parser: CommandParser) -> None:
        """AGENT NAME ACTION."""
        parser.add_argument("agent", metavar="AGENT")
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("action", choices=list(ACTIONS))
        parser.add_argument("--why", default="", metavar="TEXT", help="why it is paused, for others to know")

    def handle(self, *, agent: str, name: str, action: str, why: str, **_: Any) -> None:
        """Print what was done."""
        found = find_schedule(find_agent(agent), name)
        try:
            self.stdout.write(one_line(ACTIONS[action](found, why[:300])))
        except RunError as error:
            raise CommandError(one_line(f"Nothing was done. {error}")) from error


def find_schedule(agent: Agent, name: str) -> Schedule:
    """The agent's schedule of this name, or an error that lists those there are."""
    found = Schedule.objects.select_related("agent").filter(agent=agent, name__iexact=name).first()
    if found is None:
        known = ", ".join(agent.schedules.values_list("name", flat=True)) or "none yet"
        raise CommandError(one_line(f"{agent} has no schedule named {name!r}. Schedules: {known}."))
    return found


def pause(found: Schedule, why: str) -> str:
    """Nothing of it is due any more."""
    return f"paused {found}" if schedules.pause(found, operator(), why) else f"{found} was paused already"


def resume(found: Schedule, _: str) -> str:
    """Due again from now on."""
    return f"resumed {found}" if schedules.resume(found, operator()) else f"{found} was not paused"


def run(found: Schedule, _: str) -> str:
    """A run of it now; its id."""
    return str(schedules.run_now(found, operator(), jobs.submit).public_id)


def anew(found: Schedule, _: str) -> str:
    """Its next run opens a new session of its own."""
    left = schedules.begin_anew(found, operator())
    return f"{found} opens a new session" if left else f"{found} has no session of its own to leave"


def delete(found: Schedule, _: str) -> str:
    """The rule and its log; its runs stay."""
    name = str(found)
    schedules.note(found, operator(), "", Audit.Deed.DELETED)
    found.delete()
    return f"deleted {name}"


ACTIONS: dict[str, Callable[[Schedule, str], str]] = {
    "pause": pause,
    "resume": resume,
    "run": run,
    "anew": anew,
    "delete": delete,
}
