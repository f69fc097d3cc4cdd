"""A directory that an agent writes to, looked at and added to without following any of its links.

Every component is entered by itself with O_NOFOLLOW, and what lies at the end is looked at through
O_PATH before it is opened, so that nothing but directories and regular files ever is: no link, no
FIFO, no device, also when they are swapped in between. Names are bytes, for they need not be UTF-8.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from heapq import nlargest, nsmallest
from itertools import islice
from pathlib import Path
from typing import IO

from agents.runtimes.layout import PRIVATE
from agents.runtimes.types import RunError

# A path below the root, a name a component.
Way = tuple[bytes, ...]

PER_PAGE = 200
# So many entries of a directory are looked at, and so many components of a path.
MOST, DEEPEST, LONGEST_NAME = 250_000, 250, 255
PIECE = 256 * 1024
ENTER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
# Directories come first.
FIRST, SECOND = b"0", b"1"
KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
GONE = "gone"


@dataclass(frozen=True)
class Entry:
    """What lies under a name; sizes in bytes, `target` where a link points to."""

    name: bytes
    kind: str
    size: int = 0
    on_disk: int = 0
    modified: datetime | None = None
    target: bytes = b""

    @property
    def key(self) -> bytes:
        """Its place in a listing."""
        return (FIRST if self.kind == "directory" else SECOND) + self.name

    @property
    def is_sparse(self) -> bool:
        """Whether it takes much less room than its size says."""
        return self.kind == "file" and self.on_disk < self.size // 2 and self.size > PIECE


@dataclass(frozen=True)
class Listing:
    """One page of a directory, and whether there is more on either side; `cut` if not all was read."""

    entries: Sequence[Entry]
    count: int = 0
    before: bool = False
    after: bool = False
    cut: bool = False


class Tree:
    """A directory with what is below it. Raises RunError, in words, for whatever is not to be had.

    `root` is absolute and free of links; one that has been put there meanwhile is not followed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def look(self, way: Way) -> Entry:
        """What lies there; never opened."""
        if not way:
            with self._entered(()):
                return Entry(b"", "directory")
        with self._entered(way[:-1]) as folder:
            found = entry(folder, way[-1])
        if found.kind == GONE:
            raise RunError(f"There is nothing named {spelt(way[-1])} there, or nothing any more.")
        return found

    def listing(self, way: Way, after: bytes = b"", before: bytes = b"") -> Listing:
        """The page of a directory behind or before a key: directories first, by name.

        Takes time for each entry, and memory for those of one page only.
        """
        with self._entered(way) as folder, words(way):
            return page(folder, after, before)

    def open(self, way: Way) -> IO[bytes]:
        """A regular file, for reading."""
        if not way:
            raise RunError("That is a directory.")
        with self._entered(way[:-1]) as folder, words(way):
            return open_regular(folder, way[-1])

    def add(self, way: Way, content: Iterable[bytes], owner: str) -> None:
        """A new file with its directories, which belong to uid:gid; never in the place of another.

        One of the same content may be there already, from an attempt that was cut short.
        """
        with self._entered(way[:-1], owner) as folder, words(way):
            add_file(folder, way[-1], content, owner)

    @contextmanager
    def _entered(self, way: Way, owner: str = "") -> Iterator[int]:
        """A descriptor of a directory; with an owner, what is missing below the root is made."""
        above = [os.fsencode(part) for part in self.root.parts[1:]]
        here = os.open("/", ENTER)
        try:
            for number, part in enumerate((*above, *way)):
                deeper = step(here, part, owner if number >= len(above) else "")
                os.close(here)
                here = deeper
            yield here
        finally:
            os.close(here)


def step(folder: int, part: bytes, owner: str = "") -> int:
    """One directory deeper; with an owner, it is made if it is missing."""
    try:
        return os.open(part, ENTER, dir_fd=folder)
    except FileNotFoundError as error:
        if owner:
            return make(folder, part, owner)
        raise RunError(f"There is no directory {spelt(part)} there, or none any more.") from error
    except OSError as error:
        kind = entry(folder, part).kind
        if kind == "link":
            raise RunError(f"{spelt(part)} is a link, and links are not followed.") from error
        why = "is no directory" if error.errno == errno.ENOTDIR else f"cannot be entered: {error.strerror}"
        raise RunError(f"{spelt(part)} {why}.") from error


def make(folder: int, part: bytes, owner: str) -> int:
    """A new directory of this owner."""
    with words((part,)):
        os.mkdir(part, PRIVATE, dir_fd=folder)
        made = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        give_open(made, owner)
        return made


def give_open(descriptor: int, owner: str) -> None:
    """Make uid:gid the owner; only root can, and nobody else needs to."""
    uid, _, gid = owner.partition(":")
    if os.getuid() == 0:
        os.fchown(descriptor, int(uid), int(gid or uid))


@contextmanager
def words(way: Way) -> Iterator[None]:
    """Errors of the system as words."""
    try:
        yield
    except OSError as error:
        name = spelt(way[-1]) if way else "The directory"
        raise RunError(f"{name} cannot be reached: {error.strerror}.") from error


def page(folder: int, after: bytes, before: bytes) -> Listing:
    """Some of a directory's entries, after all of them were looked at once."""
    tally = Tally()
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder)
    try:
        keys = tally.count(all_keys(readable))
        if before:
            shown = nlargest(PER_PAGE, (key for key in keys if key < before))[::-1]
        else:
            shown = nsmallest(PER_PAGE, (key for key in keys if key > after))
        first, last = (shown[0], shown[-1]) if shown else (before or after, after or before)
        return Listing(
            entries=[entry(folder, key[1:]) for key in shown],
            count=min(tally.number, MOST),
            before=bool(tally.number) and tally.low < first,
            after=tally.high > last,
            cut=tally.number > MOST,
        )
    finally:
        os.close(readable)


class Tally:
    """Counts keys as they pass, and keeps the first and the last in their order."""

    def __init__(self) -> None:
        self.number, self.low, self.high = 0, b"", b""

    def count(self, keys: Iterable[bytes]) -> Iterator[bytes]:
        """Each of them; those beyond the most are counted, and not passed on."""
        for key in keys:
            self.number += 1
            if self.number > MOST:
                return
            if self.number == 1 or key < self.low:
                self.low = key
            self.high = max(self.high, key)
            yield key


def all_keys(folder: int) -> Iterator[bytes]:
    """The keys of a directory's entries as the disk has them, not without end."""
    with os.scandir(folder) as found:
        for each in islice(found, MOST + 1):
            yield (FIRST if each.is_dir(follow_symlinks=False) else SECOND) + os.fsencode(each.name)


def entry(folder: int, name: bytes) -> Entry:
    """What lies under a name in a directory."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "something unknown")
        target = os.readlink(name, dir_fd=folder) if kind == "link" else b""
    except OSError:
        return Entry(name, GONE)
    return Entry(name, kind, status.st_size, status.st_blocks * 512, moment(status.st_mtime), target)


def moment(seconds: float) -> datetime | None:
    """The time of a file, which may be any number."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def open_regular(folder: int, name: bytes) -> IO[bytes]:
    """The file of this name, if it is one: what was looked at is what is opened."""
    seen = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
    try:
        kind = KINDS.get(stat.S_IFMT(os.fstat(seen).st_mode), "something unknown")
        if kind != "file":
            raise RunError(f"{spelt(name)} is no file but a {kind}, and is not opened.")
        opened = os.open(f"/proc/self/fd/{seen}", os.O_RDONLY | os.O_NONBLOCK)
        return os.fdopen(opened, "rb", buffering=0)
    finally:
        os.close(seen)


def add_file(folder: int, name: bytes, content: Iterable[bytes], owner: str) -> None:
    """A whole file under a name that nothing else has, or none."""
    draft = b"." + name + b".herdweb"
    with suppress(FileNotFoundError):
        os.unlink(draft, dir_fd=folder)
    digest = sha256()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in content:
                digest.update(piece)
                file.write(piece)
            file.flush()
            give_open(descriptor, owner)
        # Unlike a rename, a link takes nobody's place.
        os.link(draft, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError as error:
        if not is_same(folder, name, digest.digest()):
            raise RunError(f"Something else named {spelt(name)} is there already.") from error
    finally:
        with suppress(OSError):
            os.unlink(draft, dir_fd=folder)


def is_same(folder: int, name: bytes, digest: bytes) -> bool:
    """Whether a regular file of this content lies there."""
    try:
        there = sha256()
        with open_regular(folder, name) as file:
            for piece in pieces(file):
                there.update(piece)
        return there.digest() == digest
    except (OSError, RunError):
        return False


def pieces(file: IO[bytes]) -> Iterator[bytes]:
    """The content of an open file, a piece at a time."""
    while piece := file.read(PIECE):
        yield piece


def way(path: bytes) -> Way:
    """A path as an address has it; raises RunError for one that leads anywhere but down."""
    parts = tuple(part for part in path.split(b"/") if part)
    odd = any(part in (b".", b"..") or b"\0" in part or len(part) > LONGEST_NAME for part in parts)
    if odd or len(parts) > DEEPEST:
        raise RunError("That is no path below the workspace.")
    return parts


# What a terminal or a browser would obey, or what makes a line read otherwise than it is.
ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e", "\\": "\\\\"}
UNSAFE = frozenset(
    map(chr, (*range(0x20), *range(0x7F, 0xA0), 0x61C, *range(0x200B, 0x2010), *range(0x2028, 0x202F),
              *range(0x2060, 0x206A), 0xFEFF))
)  # fmt: skip


def spelt(name: bytes) -> str:
    """A name for people: bytes that are no UTF-8 and characters that are not seen are spelt out."""
    return "".join(spelt_character(each) for each in name.decode("utf-8", "surrogateescape"))


def spelt_character(each: str) -> str:
    """One character of a name."""
    if "\udc80" <= each <= "\udcff":
        return f"\\x{ord(each) - 0xDC00:02x}"
    return ESCAPES.get(each) or (f"\\u{ord(each):04x}" if each in UNSAFE else each)
