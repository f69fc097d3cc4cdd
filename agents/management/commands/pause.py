"""Have nothing new start: of one agent, or at all."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from agents import pauses
from agents.management.terminal import find_agent, one_line, operator
from agents.models import Site


class Command(BaseCommand):
    """What is asked for meanwhile waits, what is live goes on."""

    help = "Let runs of one agent, or all runs, wait until `resume`. What is live goes on."

    def add_arguments(self, parser: CommandParser) -> None:
        """[AGENT]."""
        parser.add_argument("agent", nargs="?", metavar="AGENT", help="default: everything")
        parser.add_argument("--why", default="", metavar="TEXT", help="for others to know")

    def handle(self, *, agent: str | None, why: str, **_: Any) -> None:
        """Print what was done."""
        row = find_agent(agent) if agent else Site.get()
        done = pauses.pause(row, operator(), why[:300])
        name = pauses.name_of(row)
        self.stdout.write(one_line(f"paused {name}" if done else f"{name} was paused already"))
