"""Write a session into one file."""

import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

from django.core.management.base import BaseCommand, CommandError, CommandParser

from agents import bundle
from agents.management.terminal import find_session, one_line
from agents.models import Session


class Command(BaseCommand):
    """The same file as the session's page offers."""

    help = "Write a session with its runs, events and transcript into one file, for session_import."

    def add_arguments(self, parser: CommandParser) -> None:
        """SESSION, and where to."""
        parser.add_argument("session", metavar="SESSION")
        parser.add_argument(
            "-o",
            "--output",
            metavar="FILE",
            help="default: <title>-<id>.herdweb.gz in this directory; - is standard output",
        )

    def handle(self, *, session: str, output: str | None, **_: Any) -> None:
        """Print the file's name; nothing is written over."""
        found = find_session(session)
        try:
            if output == "-":
                write(found, sys.stdout.buffer)
                return
            path = Path(output or bundle.file_name(found))
            create(found, path)
        except bundle.Refused as error:
            raise CommandError(one_line(f"Nothing was exported. {error}")) from error
        except OSError as error:
            raise CommandError(
                one_line(f"Nothing was exported. {error.filename}: {error.strerror}.")
            ) from error
        self.stdout.write(one_line(str(path)))


def create(session: Session, path: Path) -> None:
    """The whole file, or none; readable by its owner alone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(session, file)
    except BaseException:
        path.unlink()
        raise


def write(session: Session, file: BinaryIO) -> None:
    """Piece by piece."""
    for piece in bundle.packed(session):
        file.write(piece)
