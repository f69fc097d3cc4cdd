"""Give a session its transcript back."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from agents import recovery
from agents.management.terminal import find_session, one_line, operator, whole_number
from agents.models import Archive, Session
from agents.runtimes import RunError


class Command(BaseCommand):
    """The same door as the page's."""

    help = "Restore a session's transcript from its archive. SESSION is its id, or the first digits of it."

    def add_arguments(self, parser: CommandParser) -> None:
        """SESSION, and which of its archives."""
        parser.add_argument("session", metavar="SESSION")
        parser.add_argument("--list", action="store_true", help="only print what is archived")
        parser.add_argument(
            "--archive",
            metavar="N",
            type=whole_number(1, 2**31 - 1),
            help="the number of an earlier archive, as --list prints it; default: the current one",
        )

    def handle(self, *, session: str, list: bool, archive: int | None, **_: Any) -> None:
        """Print what is archived, or what was done."""
        found = find_session(session)
        if list:
            for row in found.archives.all():
                self.stdout.write(line(row))
            return
        try:
            kept = recovery.restore(found, operator(), chosen(found, archive))
        except RunError as error:
            raise CommandError(one_line(f"Nothing was restored. {error}")) from error
        self.stdout.write(f"restored {found.public_id}")
        if kept:
            self.stderr.write(one_line(f"What was there is kept as {kept}."))


def line(row: Archive) -> str:
    """Number, date, size and checksum."""
    state = "current" if row.current else "earlier"
    return one_line(f"{row.pk:>6}  {row}  {state}  {row.lines} lines  {row.size} bytes  {row.sha256}")


def chosen(session: Session, number: int | None) -> Archive | None:
    """The session's archive of this number; none for the current one."""
    row = session.archives.filter(pk=number).first() if number else None
    if number and row is None:
        numbers = ", ".join(str(pk) for pk in session.archives.values_list("pk", flat=True)) or "none"
        raise CommandError(f"The session has no archive {number}. It has: {numbers}.")
    return row
