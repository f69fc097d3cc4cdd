"""Ask for the end of a run."""

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from agents import jobs
from agents.asjson import run_json
from agents.management.terminal import INTERRUPTED, as_text, changes, find_run, one_line, operator


class Command(BaseCommand):
    """The same door as the page's; an ended run is left as it is."""

    help = "Cancel a run. RUN is its id, or the first 6 or more digits of it."

    def add_arguments(self, parser: CommandParser) -> None:
        """RUN."""
        parser.add_argument("run", metavar="RUN")
        parser.add_argument("--wait", action="store_true", help="return when the run has ended")
        parser.add_argument("--json", action="store_true", help="print the run as one JSON object")

    def handle(self, *, run: str, wait: bool, json: bool, **_: Any) -> None:
        """Print the run, or its state and reason."""
        found = find_run(run)
        if not jobs.cancel(found, operator()):
            self.stderr.write("The run had ended already.")
        try:
            for _state in changes(found) if wait else ():
                pass
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        found.refresh_from_db()
        text = f"{found.public_id} {found.state}: {found.reason}"
        self.stdout.write(as_text(run_json(found)) if json else one_line(text))
