"""Fill a database with runs that never were, for load tests."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from agents.management.history import History
from agents.management.terminal import whole_number
from agents.models import Run

MANY, TELL = 100_000_000, 10_000


class Command(BaseCommand):
    """Never for a database that people use: what it adds cannot be told apart by its look."""

    help = "For load tests: fill an empty database with agents, runs, sessions, containers and events."

    def add_arguments(self, parser: CommandParser) -> None:
        """How much."""
        for name, least, default in (("runs", 1, 100_000), ("events", 0, 5_000_000), ("agents", 1, 40)):
            parser.add_argument(
                f"--{name}", type=whole_number(least, MANY), default=default, metavar="N",
                help=f"default: {default}",
            )  # fmt: skip
        parser.add_argument("--yes-add", action="store_true", help="although there are runs already")

    def handle(self, *, runs: int, events: int, agents: int, yes_add: bool, **_: Any) -> None:
        """Write, and tell how far it is."""
        if Run.objects.exists() and not yes_add:
            raise CommandError(
                "There are runs in this database already, and this command is for load tests."
                " Use an empty database, or --yes-add."
            )
        for done in History(runs, events, agents, seed=Run.objects.count() + 1).write():
            if done % TELL == 0:
                self.stderr.write(f"{done} of {runs} runs")
        if connection.vendor == "postgresql":
            # As its autovacuum would do in a while; SQLite has no such habit.
            with connection.cursor() as cursor:
                cursor.execute("VACUUM ANALYZE")
        self.stdout.write(f"Added {runs} runs of {agents} agents with about {events} events.")
