"""Transcripts kept beside their homes: packed after each run, compared before each start.

The agent can write to its home, and to nothing here. Of a transcript that only grows the newest is
kept; when one no longer begins with what was kept of it, that stays as well.
"""

import errno
import gzip
import hashlib
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import uuid4

from django.db import DatabaseError, OperationalError, transaction

from agents import machine
from agents.models import Archive, LeaseLost, Run, Session
from agents.runtimes import Beneath, RunError, human_size
from agents.runtimes.layout import make_private

logger = logging.getLogger(__name__)

# A larger transcript is not archived; the CLI itself gives up long before.
LARGEST = 256 * 1024**2
# How many earlier ones are kept of a transcript that is rewritten again and again.
EARLIER = 5
PIECE = 256 * 1024
# Quick rather than small: it is packed anew after each run.
LEVEL = 3
# In seconds: a file without a row may belong to a run that is just ending, an import may take long.
YOUNG, IMPORTING = 3600, 86400
SWEEP_EVERY = timedelta(hours=1)
OWNER_MAY_READ = 0o400
REMEDY = "It can be restored from the archive of"


@dataclass(frozen=True)
class Packed:
    """A file in the archive that has no row yet; `beginning` is the checksum of as much as was known."""

    path: Path
    sha256: str
    beginning: str
    size: int
    packed_size: int
    lines: int


def keep(run: Run, home: Beneath, names: Sequence[str], beat: Callable[[], None]) -> None:
    """Archive the transcripts of a run's session; what is wrong with one is told in the run's events.

    `beat` is called before each piece, so that a large file does not cost its worker the lease.
    """
    session = run.session
    for name in names if session else ():
        try:
            said = store(session, home, name, run, beat) if session else ""
        except (LeaseLost, DatabaseError):
            raise
        except FileNotFoundError:
            said = missing_after_all(session, name)
        except (OSError, RunError) as error:
            said = f"The transcript was not archived: {complaint(error)}"
        except Exception as error:
            logger.exception("The transcript of run %s was not archived.", run.short_id)
            said = f"The transcript was not archived: {type(error).__name__}."
        if said:
            run.note(said, transcript=name)


def missing_after_all(session: Session | None, name: str) -> str:
    """What is said of a transcript that is not there; nothing if there never was one."""
    kept = current(session, name) if session else None
    return f"The transcript is missing now. The archive of {kept} is kept." if kept else ""


def complaint(error: Exception) -> str:
    """In words for people."""
    return f"{error.strerror}." if isinstance(error, OSError) and error.strerror else str(error)


def store(
    session: Session,
    home: Beneath,
    name: str,
    run: Run | None = None,
    beat: Callable[[], None] = lambda: None,
) -> str:
    """Archive one transcript, unless nothing of it changed; says so if it was rewritten.

    Raises OSError or RunError when it cannot be read or kept.
    """
    before = current(session, name)
    with home.open(name) as source:
        status = os.fstat(source.fileno())
        seen = fingerprint(status)
        if before and before.seen == seen:
            return ""
        if status.st_size > LARGEST:
            raise RunError(f"it has {human_size(status.st_size)}, and the limit is {human_size(LARGEST)}.")
        packed = pack(source, folder(session), before.size if before else 0, beat)
    try:
        return replace(before, row_of(session, name, run, packed, seen), packed)
    except BaseException:
        packed.path.unlink(missing_ok=True)
        raise


def row_of(session: Session, name: str, run: Run | None, packed: Packed, seen: str) -> Archive:
    """The row of a packed file, not saved yet."""
    return Archive(
        session=session,
        run=run,
        name=name,
        path=str(packed.path.relative_to(machine.state().path)),
        sha256=packed.sha256,
        size=packed.size,
        packed_size=packed.packed_size,
        lines=packed.lines,
        seen=seen,
    )


def replace(before: Archive | None, row: Archive, packed: Packed) -> str:
    """Make a row the current one; the one before goes if all of it is in the new one."""
    same = before is not None and (before.sha256, before.size) == (row.sha256, row.size)
    grown = before is None or packed.beginning == before.sha256
    with transaction.atomic():
        # Locked, so that of two workers with the same run only one replaces anything.
        Session.objects.select_for_update().get(pk=row.session_id)
        if current(row.session, row.name) != before or same:
            now = Archive.objects.filter(session=row.session, name=row.name, current=True)
            now.filter(sha256=row.sha256).update(seen=row.seen)
            packed.path.unlink()
            return ""
        Archive.objects.filter(session=row.session, name=row.name, current=True).update(current=False)
        row.save()
        going = [before] if before and grown else surplus(row)
        Archive.objects.filter(pk__in=[archive.pk for archive in going]).delete()
    for archive in going:
        location(archive).unlink(missing_ok=True)
    return "" if grown else rewritten(before)


def surplus(row: Archive) -> list[Archive]:
    """Earlier ones beyond those that are kept, the oldest."""
    rows = Archive.objects.filter(session=row.session, name=row.name, current=False)
    return list(rows.order_by("-created", "-id")[EARLIER:])


def rewritten(before: Archive | None) -> str:
    """What an event says of a transcript that did not only grow."""
    return (
        f"The transcript was rewritten: it does not begin with what was archived on {before}."
        " Both are kept in the archive."
    )


def pack(source: BinaryIO, target: Path, known: int, beat: Callable[[], None]) -> Packed:
    """Pack a file into the archive: all of it or nothing, and on the disk when this returns.

    `known` is how many bytes of it were known before.
    """
    make_private(target)
    path, draft = target / f"{uuid4().hex}.gz", target / f".{uuid4().hex}.draft"
    tally = Tally(known)
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=LEVEL, mtime=0) as packed:
                for piece in pieces(source, LARGEST):
                    beat()
                    tally.add(piece)
                    packed.write(piece)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        sync(target)
    finally:
        draft.unlink(missing_ok=True)
    return Packed(path, tally.sha256, tally.beginning, tally.size, path.stat().st_size, tally.lines)


class Tally:
    """What is known of a file once all its pieces have been seen."""

    def __init__(self, known: int) -> None:
        self.known = known
        self.size = self._ends = 0
        self._open = False
        self._whole, self._beginning = hashlib.sha256(), hashlib.sha256()

    def add(self, piece: bytes) -> None:
        """Count the next piece."""
        self._whole.update(piece)
        self._beginning.update(piece[: max(self.known - self.size, 0)])
        self.size += len(piece)
        self._ends += piece.count(b"\n")
        self._open = not piece.endswith(b"\n")

    @property
    def sha256(self) -> str:
        """Of all of it."""
        return self._whole.hexdigest()

    @property
    def beginning(self) -> str:
        """Of the first `known` bytes; of nothing if there are not so many."""
        return self._beginning.hexdigest() if self.size >= self.known else ""

    @property
    def lines(self) -> int:
        """Also counts a last one that does not end."""
        return self._ends + self._open


class Readable(Protocol):
    """As much of a file as is needed here."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, none at its end."""


def pieces(source: Readable, most: int) -> Iterator[bytes]:
    """The first bytes of a file, piece by piece."""
    while most > 0 and (piece := source.read(min(PIECE, most))):
        most -= len(piece)
        yield piece


def contents(row: Archive) -> Iterator[bytes]:
    """What was archived, piece by piece; RunError in the end unless it is that to the last bit."""
    tally = Tally(0)
    try:
        with gzip.open(location(row), "rb") as packed:
            for piece in pieces(packed, row.size + 1):
                tally.add(piece)
                yield piece
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(f"The archived transcript cannot be read: {complaint(error)}") from error
    if (tally.sha256, tally.size) != (row.sha256, row.size):
        raise RunError("The archived transcript is not what was archived: its checksum differs.")


def contradiction(session: Session, home: Beneath, names: Sequence[str]) -> str:
    """Why the transcripts in a home cannot be gone on with, and the remedy; empty if they can."""
    for name in names:
        kept = current(session, name)
        fault = fault_of(home, name, kept)
        if fault:
            return fault + remedy(session, [name])
    return ""


def remedy(session: Session, names: Sequence[str]) -> str:
    """What can be done about a transcript that is of no use; empty if nothing of it is archived."""
    kept = next(filter(None, (current(session, name) for name in names)), None)
    return f" {REMEDY} {kept}." if kept else ""


def fault_of(home: Beneath, name: str, kept: Archive | None) -> str:
    """What is wrong with a transcript, from what it is and from what was archived of it."""
    try:
        with home.open(name) as file:
            return altered(file, name, kept)
    except (FileNotFoundError, NotADirectoryError):
        return f"Its transcript is missing: {name}."
    except RunError as error:
        return f"Its transcript cannot be read: {error}"
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else str(error.strerror)
        return f"Its transcript cannot be read: {name} ({why})."


def altered(file: BinaryIO, name: str, kept: Archive | None) -> str:
    """How an open transcript contradicts its archive; looks at a file again only when it changed."""
    status = os.fstat(file.fileno())
    if not status.st_mode & OWNER_MAY_READ:
        return f"Its transcript cannot be read: {name} (its mode is {status.st_mode & 0o777:04o})."
    if kept is None or kept.seen == fingerprint(status):
        return ""
    if status.st_size < kept.size:
        sizes = f"{human_size(status.st_size)} of the {human_size(kept.size)} that were archived on {kept}"
        return f"Its transcript was truncated: {name} has {sizes}."
    tally = Tally(kept.size)
    for piece in pieces(file, kept.size):
        tally.add(piece)
    if tally.beginning != kept.sha256:
        return f"Its transcript was altered or replaced: {name} does not begin with what was archived."
    remember(kept, fingerprint(status))
    return ""


def remember(kept: Archive, seen: str) -> None:
    """The file need not be read again; a database that is busy is told next time."""
    kept.seen = seen
    with suppress(OperationalError), transaction.atomic():
        Archive.objects.filter(pk=kept.pk).update(seen=seen)


def fingerprint(status: os.stat_result) -> str:
    """Changes with every write to a file; nobody but the kernel sets the last of its times."""
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def current(session: Session, name: str) -> Archive | None:
    """What is kept of a transcript; lists prefetch `archives`."""
    return next((row for row in session.archives.all() if row.current and row.name == name), None)


def folder(session: Session) -> Path:
    """Where a session's archived transcripts are."""
    return machine.state().archive(session.agent.name, str(session.public_id))


def location(row: Archive) -> Path:
    """The packed file."""
    return machine.state().path / row.path


def sync(directory: Path) -> None:
    """Have the disk know the names in a directory."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep() -> None:
    """Remove what a process left behind that died: files without a row, and unfinished imports."""
    for agent in machine.state().path.glob("archive/*"):
        files = [path for path in agent.glob("*/*") if age(path) > YOUNG]
        known = set(Archive.objects.filter(session__agent__name=agent.name).values_list("path", flat=True))
        for path in files:
            if str(path.relative_to(machine.state().path)) not in known:
                path.unlink(missing_ok=True)
        # A young directory may be about to get its first file.
        for directory in [path for path in agent.iterdir() if age(path) > YOUNG]:
            with suppress(OSError):
                directory.rmdir()
    for unfinished in machine.state().imports().glob("*"):
        if age(unfinished) > IMPORTING:
            shutil.rmtree(unfinished, ignore_errors=True)


def age(path: Path) -> float:
    """Seconds since it was written; none for one that has gone."""
    with suppress(FileNotFoundError):
        return time.time() - path.stat(follow_symlinks=False).st_mtime
    return 0.0
