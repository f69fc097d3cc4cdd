"""Create or change a schedule, with the validation of the pages."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import transaction

from agents.asjson import schedule_json
from agents.management.terminal import as_text, assignments, find_agent, one_line, operator, refused
from agents.models import Schedule
from agents.scheduleform import ScheduleForm

FIELDS = tuple(ScheduleForm.base_fields)


class Command(BaseCommand):
    """Fields that are not given stay as they are."""

    help = "Create a schedule of an agent, or change the given fields of one."

    def add_arguments(self, parser: CommandParser) -> None:
        """AGENT NAME FIELD=VALUE…"""
        parser.add_argument("agent", metavar="AGENT")
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("fields", nargs="*", metavar="FIELD=VALUE", help=f"fields: {', '.join(FIELDS)}")
        parser.add_argument("--json", action="store_true", help="print the schedule as one JSON object")

    @transaction.atomic
    def handle(self, *, agent: str, name: str, fields: list[str], json: bool, **_: Any) -> None:
        """Print created, changed or unchanged, or the schedule."""
        found = find_agent(agent)
        row = Schedule.objects.select_for_update().filter(agent=found, name__iexact=name).first()
        given = assignments(fields, FIELDS)
        form = bound(row or Schedule(agent=found), {"name": row.name if row else name, **given})
        if not form.is_valid():
            raise refused("Nothing was saved.", ("", form))
        verb = "created" if row is None else "changed" if form.changed_data else "unchanged"
        saved = form.save_by(operator()) if form.changed_data or row is None else row
        self.stdout.write(
            as_text(schedule_json(saved)) if json else one_line(f"{verb} {saved}: {saved.words}")
        )


def bound(row: Schedule, given: dict[str, str]) -> ScheduleForm:
    """The form as if a person had opened it and typed the given texts over what it says."""
    typed = ScheduleForm(instance=row).as_typed()
    if given.get("interval") and "cron" not in given:
        given = {**given, "cron": ""}
    if given.get("cron") and "interval" not in given:
        given = {**given, "interval": ""}
    return ScheduleForm(typed | given, instance=row)
