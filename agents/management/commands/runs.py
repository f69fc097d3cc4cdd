"""List runs, the newest first."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from agents.asjson import moment, run_json
from agents.management.terminal import as_text, find_agent, table, whole_number
from agents.models import Run

HEAD = ("ID", "AGENT", "STATE", "TRIGGER", "CREATED", "SECONDS", "EVENTS", "REASON")
REASON_WIDTH = 80


class Command(BaseCommand):
    """Runs of all agents or of one."""

    help = "List runs, the newest first."

    def add_arguments(self, parser: CommandParser) -> None:
        """What to list."""
        parser.add_argument("--agent", metavar="A", help="only runs of this agent")
        parser.add_argument(
            "--state", metavar="S", choices=Run.State.values, help=", ".join(Run.State.values)
        )
        parser.add_argument(
            "--limit", metavar="N", type=whole_number(1, 100_000), default=20, help="default: 20"
        )
        parser.add_argument("--json", action="store_true", help="print a list of objects")

    def handle(self, *, agent: str | None, state: str | None, limit: int, json: bool, **_: Any) -> None:
        """Print a table, or JSON."""
        runs = Run.objects.select_related("agent", "session", "container")
        if agent:
            runs = runs.filter(agent=find_agent(agent))
        if state:
            runs = runs.filter(state=state)
        found = list(runs[:limit])
        self.stdout.write(as_text([run_json(run) for run in found]) if json else table(HEAD, map(row, found)))


def row(run: Run) -> tuple[object, ...]:
    """A run's line of the table."""
    return (
        run.public_id,
        run.agent.name,
        run.state,
        run.trigger,
        moment(run.created),
        f"{run.duration.total_seconds():.1f}" if run.duration else "-",
        run.event_count,
        run.reason[:REASON_WIDTH],
    )
