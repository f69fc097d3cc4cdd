"""List the agents."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from agents.asjson import agent_json
from agents.management.terminal import as_text, table
from agents.models import Agent

HEAD = ("NAME", "ENABLED", "RUNTIME", "MODEL", "DOCKER", "IMAGE", "DESCRIPTION")


class Command(BaseCommand):
    """Every agent with every field, or the most important ones."""

    help = "List the agents."

    def add_arguments(self, parser: CommandParser) -> None:
        """--json."""
        parser.add_argument("--json", action="store_true", help="print a list of objects with every field")

    def handle(self, *, json: bool, **_: Any) -> None:
        """Print a table, or JSON."""
        agents = list(Agent.objects.select_related("docker"))
        if json:
            self.stdout.write(as_text([agent_json(agent, agent.docker) for agent in agents]))
        else:
            self.stdout.write(table(HEAD, [row(agent) for agent in agents]))


def row(agent: Agent) -> tuple[str, ...]:
    """An agent's line of the table."""
    return (
        agent.name,
        "yes" if agent.enabled else "no",
        agent.runtime,
        agent.model or "-",
        "yes" if agent.docker.enabled else "no",
        agent.docker.image if agent.docker.enabled else "-",
        agent.description[:60],
    )
