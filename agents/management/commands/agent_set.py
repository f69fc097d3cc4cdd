"""Create or change an agent, with the validation of the admin."""

from argparse import RawDescriptionHelpFormatter
from typing import Any

from django import forms
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from agents import doctor
from agents.asjson import agent_json
from agents.forms import AgentForm, DockerSettingsForm, FleetField, RowForm
from agents.management.terminal import as_text, assignments, one_line, operator, refused
from agents.models import Agent, Audit, DockerSettings, rules
from agents.models.fields import Written

DOCKER = "docker."
ALLOWED = [*AgentForm.base_fields, *(DOCKER + name for name in DockerSettingsForm.base_fields)]
EPILOG = """
Values are written as in the admin: sizes like 2g, durations like 10m, lists as JSON or one item a line.
Fields: {fields}.
`agents --json` prints them all with their values; docs/configuration.md explains them.
"""


class Command(BaseCommand):
    """Saves the agent and its Docker settings, or neither."""

    help = "Create an agent, or change the given fields of one."

    def add_arguments(self, parser: CommandParser) -> None:
        """NAME field=value … docker.field=value …."""
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.epilog = EPILOG.format(fields=", ".join(ALLOWED))
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("fields", metavar="field=value", nargs="*")
        parser.add_argument("--json", action="store_true", help="print the agent as JSON")

    def handle(self, *, name: str, fields: list[str], json: bool, **_: Any) -> None:
        """Print created, changed or unchanged, or the agent."""
        with transaction.atomic():
            given = assignments(fields, ALLOWED)
            verb, agent, docker = save(name.strip(), given)
            if verb != "unchanged":
                deed = Audit.Deed.ADDED if verb == "created" else Audit.Deed.CHANGED
                Audit.note(operator(), deed, f"agent {agent.name}", detail=", ".join(given), agent=agent)
        self.stdout.write(as_text(agent_json(agent, docker)) if json else f"{verb} {agent.name}")
        warning = doctor.image_warning(docker.image) if docker.enabled else ""
        if warning:
            self.stderr.write(one_line(f"docker.image: {warning}"))


def save(name: str, given: dict[str, str]) -> tuple[str, Agent, DockerSettings]:
    """Validate both forms, then save both; says what became of the agent.

    Raises CommandError with a line for each field that was refused.
    """
    if given.setdefault("name", name) != name:
        raise CommandError("Nothing was saved.\nname: It cannot be changed.")
    agent = (
        Agent.objects.select_for_update().filter(name=name).first() if rules.NAME.fullmatch(name) else None
    )
    docker = DockerSettings.objects.filter(agent=agent).first() if agent else None
    before = agent_json(agent, docker) if agent and docker else None
    plain, inside = bound(AgentForm, agent, given), bound(DockerSettingsForm, docker, given, DOCKER)
    # The settings are judged beside the agent as it is going to be.
    inside.instance.agent = plain.instance
    if not all([plain.is_valid(), inside.is_valid()]):
        raise refused("Nothing was saved.", ("", plain), (DOCKER, inside))
    if agent_json(plain.instance, inside.instance) == before:
        return "unchanged", plain.instance, inside.instance
    inside.instance.agent = plain.save()
    return "changed" if agent else "created", plain.instance, inside.save()


def bound(kind: type[RowForm], row: Any, given: dict[str, str], prefix: str = "") -> RowForm:
    """The form of a row as if a person had opened it and typed the given texts over what it says."""
    form = kind(instance=row)
    changes = {
        name: typed(field, given[prefix + name])
        for name, field in form.fields.items()
        if prefix + name in given
    }
    return kind(form.as_typed() | changes, instance=row)


def typed(field: forms.Field, text: str) -> str:
    """What a person would type; JSON's null leaves a number, or the choice of another row, empty."""
    return "" if text == "null" and isinstance(field, forms.IntegerField | Written | FleetField) else text
