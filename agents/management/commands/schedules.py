"""List schedules: their rules, what is due next, and what became of the last moment."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db.models import OuterRef, Subquery

from agents.asjson import moment, schedule_json
from agents.management.terminal import as_text, find_agent, table
from agents.models import Fire, Schedule


class Command(BaseCommand):
    """All of them, or those of one agent."""

    help = "List schedules, those due next first."

    def add_arguments(self, parser: CommandParser) -> None:
        """[AGENT] [--json]."""
        parser.add_argument("agent", nargs="?", metavar="AGENT")
        parser.add_argument("--json", action="store_true", help="print a list of objects")

    def handle(self, *, agent: str | None, json: bool, **_: Any) -> None:
        """One line for each."""
        last = Fire.objects.filter(schedule=OuterRef("pk")).order_by("-moment")
        rows = Schedule.objects.select_related("agent").order_by("due_at", "pk")
        if agent:
            rows = rows.filter(agent=find_agent(agent))
        if json:
            self.stdout.write(as_text([schedule_json(row) for row in rows]))
            return
        found = [
            (row.agent.name, row.name, row.condition, row.words, moment(row.due_at) or "", row.last or "")
            for row in rows.annotate(last=Subquery(last.values("kind")[:1]))
        ]
        self.stdout.write(table(("AGENT", "NAME", "STATE", "RULE", "NEXT", "LAST"), found))
