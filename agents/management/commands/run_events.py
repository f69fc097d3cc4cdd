"""Print what happened in a run, and go on while it happens."""

import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from agents.asjson import event_json
from agents.management.terminal import INTERRUPTED, POLL_SECONDS, as_text, find_run, one_line, whole_number
from agents.models import Event, Run

BATCH = 500


class Command(BaseCommand):
    """Events in their order, each once."""

    help = "Print the events of a run. RUN is its id, or the first 6 or more digits of it."

    def add_arguments(self, parser: CommandParser) -> None:
        """RUN, and what of it."""
        parser.add_argument("run", metavar="RUN")
        parser.add_argument("--follow", action="store_true", help="go on until the run has ended")
        parser.add_argument(
            "--after",
            metavar="N",
            type=whole_number(0, 2**31 - 1),
            default=0,
            help="begin after event number N",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object a line")

    def handle(self, *, run: str, follow: bool, after: int, json: bool, **_: Any) -> None:
        """Print a line for each event."""
        found = find_run(run)
        try:
            for event in followed(found, after) if follow else stored(found, after):
                self.stdout.write(as_text(event_json(event)) if json else line(event))
                self.stdout.flush()
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            # The reader, `head` for example, has seen enough; nothing may be flushed to it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def line(event: Event) -> str:
    """Number, kind and text, with nothing that could pass for another line."""
    return f"{event.seq:>6}  {event.kind:<11}  {one_line(event.text)}".rstrip()


def stored(run: Run, after: int) -> Iterator[Event]:
    """The events after a number, in batches, because a run may have a million."""
    while batch := list(Event.objects.filter(run=run, seq__gt=after).order_by("seq")[:BATCH]):
        yield from batch
        after = batch[-1].seq


def followed(run: Run, after: int) -> Iterator[Event]:
    """The events after a number until the run has ended and nothing is left."""
    ended = False
    while not ended:
        ended = Run.objects.filter(pk=run.pk, state__in=Run.TERMINAL).exists()
        if not ended:
            time.sleep(POLL_SECONDS)
        for event in stored(run, after):
            after = event.seq
            yield event
