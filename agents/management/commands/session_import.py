"""Make a session of what was brought from elsewhere."""

from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from agents import bundle
from agents.management.terminal import find_agent, one_line, operator
from agents.models.fields import parse_size


class Command(BaseCommand):
    """By the kind of the path: a file of session_export."""

    help = "Make the session of a file, as session_export wrote it, one of this agent. Overwrites nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        """AGENT and FILE."""
        parser.add_argument("agent", metavar="AGENT")
        parser.add_argument("path", metavar="FILE")
        parser.add_argument(
            "--at-most",
            metavar="SIZE",
            default="4g",
            help="refuse a file that unpacks to more, like 500m or 20g; default: 4g",
        )

    def handle(self, *, agent: str, path: str, at_most: str, **_: Any) -> None:
        """Print the session's id and the path of its page."""
        found, most = find_agent(agent), size(at_most)
        try:
            session = bundle.take_in(found, Path(path), operator(), most)
        except bundle.Refused as error:
            raise CommandError(one_line(f"Nothing was imported. {error}")) from error
        self.stdout.write(f"{session.public_id}\n{session.get_absolute_url()}")


def size(text: str) -> int:
    """Bytes, as sizes are written everywhere."""
    try:
        return parse_size(text)
    except ValidationError as error:
        raise CommandError(one_line(f"--at-most: {' '.join(error.messages)}")) from error
