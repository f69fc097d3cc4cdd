"""Have the workers of a host take no new runs, and wait until the live ones have ended or gone."""

import sys
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from agents import draining, machine
from agents.management.terminal import INTERRUPTED, one_line, operator, whole_number

POLL_SECONDS = 0.5


class Command(BaseCommand):
    """Until `drain --end`, also over restarts of the workers."""

    help = (
        "Keep the workers of a host from taking new runs, and wait for the live ones. Exit code 1 with"
        " --timeout: some are live still."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """[HOST] [--hand-over] [--no-wait] [--timeout S] [--end]."""
        parser.add_argument("host", nargs="?", metavar="HOST", help="default: this machine")
        parser.add_argument(
            "--hand-over", action="store_true", help="have workers elsewhere take over what is in containers"
        )
        parser.add_argument("--no-wait", action="store_true", help="return at once")
        parser.add_argument("--timeout", type=whole_number(1, 86_400), metavar="S", help="wait no longer")
        parser.add_argument("--end", action="store_true", help="let them take runs again")

    def handle(self, *, host: str | None, end: bool, hand_over: bool, **options: Any) -> None:
        """Print what was done, and what is still live."""
        name = host or machine.name()
        if end:
            done = draining.refill(name, operator())
            self.say(f"workers of {name} take runs again" if done else f"{name} was not drained")
            return
        done = draining.drain(name, operator())
        self.say(f"drained {name}" if done else f"{name} is drained already")
        if hand_over:
            self.say(f"asked to hand over: {draining.hand_over(name)}")
        if not options["no_wait"]:
            self.wait(name, options["timeout"])

    def wait(self, name: str, timeout: int | None) -> None:
        """Until nothing is live there; says what it waits for when that changes."""
        late, before = time.monotonic() + (timeout or float("inf")), None
        try:
            while live := [f"{run.short_id} of {run.agent}" for run in draining.live_on(name)]:
                if live != before:
                    self.say(f"live: {', '.join(live)}")
                if time.monotonic() > late:
                    sys.exit(1)
                before = live
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            self.say(f"{name} stays drained. To end that: manage.py drain {name} --end")
            sys.exit(INTERRUPTED)
        self.say(f"nothing is live on {name}")

    def say(self, text: str) -> None:
        """One line."""
        self.stdout.write(one_line(text))
