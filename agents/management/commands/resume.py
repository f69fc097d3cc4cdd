"""Have runs start again that a pause lets wait."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from agents import bells, pauses
from agents.management.terminal import find_agent, one_line, operator
from agents.models import Site


class Command(BaseCommand):
    """The end of a pause, of one agent or of everything."""

    help = "End a pause of one agent, or that of everything."

    def add_arguments(self, parser: CommandParser) -> None:
        """[AGENT]."""
        parser.add_argument("agent", nargs="?", metavar="AGENT", help="default: everything")

    def handle(self, *, agent: str | None, **_: Any) -> None:
        """Print what was done."""
        row = find_agent(agent) if agent else Site.get()
        done, name = pauses.resume(row, operator()), pauses.name_of(row)
        bells.ring_next(released=True)
        self.stdout.write(one_line(f"resumed {name}" if done else f"{name} was not paused"))
