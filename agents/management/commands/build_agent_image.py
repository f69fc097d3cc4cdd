"""Build the image that agents run in, unless it is there already."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from agents import image
from agents.runtimes import RunError
from agents.runtimes.image import images


class Command(BaseCommand):
    """Progress goes to stderr, the image's facts to stdout."""

    help = "Build the agent image with its pinned Claude Code; does nothing when it is up to date."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Two switches."""
        parser.add_argument("--force", action="store_true", help="Build anew, with today's packages.")
        parser.add_argument("--json", action="store_true", help="Print the image's facts as JSON.")

    def handle(self, *arguments: Any, **options: Any) -> None:
        """Build, or say that there is nothing to do."""
        try:
            with images() as engine:
                built = image.ensure(engine, settings.HERDWEB_IMAGE, self.say, force=options["force"])
        except RunError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(built.as_json() if options["json"] else str(built))

    def say(self, text: str) -> None:
        """One line of progress, at once."""
        self.stderr.write(self.style.NOTICE(text))
        self.stderr.flush()
