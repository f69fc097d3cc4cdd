"""What of a session's home outlives a run: the conversation, and nothing that could steer the next one.

An agent may write whatever it likes into its home: settings with hooks, other addresses for the API,
start files of shells. Before each start all hidden files are moved away, but for the conversation's.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

from agents.runtimes.layout import Beneath, make_private, names_in
from agents.runtimes.types import Kept, RunError

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# How much of a transcript is read to know whose it is; a prompt at its beginning has up to a megabyte.
FIRST, MOST = 64 * 1024, 4 * 1024**2
# Beyond these nothing is copied into a fork: no conversation is so large, a hostile home may be.
LARGEST, FILES, LEVELS = 2 * 1024**3, 10_000, 4
NO_PLAIN_FILE = "is no plain file"
TROUBLES = {
    errno.ENOENT: "is missing",
    errno.ELOOP: "is a link, which is not followed",
    errno.ENOTDIR: "lies behind a link, or behind something that is no directory",
    errno.EISDIR: NO_PLAIN_FILE,
    errno.ENXIO: NO_PLAIN_FILE,
}


def trouble(home: Beneath, path: str) -> str:
    """Why a file of a home cannot go on to be used by its owner, in words; empty if it can."""
    try:
        with home.open(path) as file:
            return complaint(os.fstat(file.fileno()), home.owner)
    except RunError:
        return NO_PLAIN_FILE
    except OSError as error:
        return TROUBLES.get(error.errno or 0, f"cannot be read ({error.strerror})")


def complaint(status: os.stat_result, owner: str) -> str:
    """The same of a plain file's size and rights: the agent reads it, and writes on at its end."""
    uid, _, gid = owner.partition(":")
    shift = 6 if status.st_uid == int(uid) else 3 if status.st_gid == int(gid or uid) else 0
    if (status.st_mode >> shift) & 0o6 != 0o6:
        return f"may not be read and written by the agent (mode {stat.S_IMODE(status.st_mode):03o})"
    if not status.st_size:
        return "is empty"
    return "is larger than 2 GB" if status.st_size > LARGEST else ""


def heads(home: Beneath, path: str) -> Iterator[bytes]:
    """The beginning of a file: a little of it, and then, for who has not seen enough, more."""
    for length in (FIRST, MOST):
        with home.open(path) as file:
            yield file.read(length)


def tidy(home: Beneath, kept: Kept, aside: Path) -> None:
    """Move away every hidden thing in a home that is not of its conversation.

    The conversation itself is never touched, so that dying in the middle loses nothing of it.
    Raises RunError for what cannot be moved.
    """
    parts = PurePosixPath(kept.folder).parts
    folder = os.open(home.root, OPEN_FOLDER)
    try:
        for level, part in enumerate(parts):
            clear(folder, aside, {part}, hidden=level == 0)
            if part not in names_in(folder):
                return
            deeper = os.open(part, OPEN_FOLDER, dir_fd=folder)
            os.close(folder)
            folder = deeper
        names = re.compile(kept.names)
        clear(folder, aside, {name for name in names_in(folder) if names.fullmatch(name)}, files=True)
    finally:
        os.close(folder)


def clear(folder: int, aside: Path, stays: set[str], *, hidden: bool = False, files: bool = False) -> None:
    """Move all but some names away; of those only directories stay, and plain files if `files` may."""
    for name in names_in(folder):
        if hidden and not name.startswith("."):
            continue
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        plain = stat.S_ISDIR(status.st_mode) or (files and stat.S_ISREG(status.st_mode))
        if not (name in stays and plain):
            move(folder, name, status, aside)


def move(folder: int, name: str, status: os.stat_result, aside: Path) -> None:
    """Out of the agent's reach, which takes no time however much it is."""
    is_folder = stat.S_ISDIR(status.st_mode)
    if is_folder:
        with suppress(OSError):
            os.chmod(name, 0o700, dir_fd=folder)
        with suppress(OSError):
            return os.rmdir(name, dir_fd=folder)
    try:
        make_private(aside)
        os.rename(name, aside / uuid4().hex, src_dir_fd=folder)
    except OSError as error:
        # The engine makes the places of mounts, as root's; the agent can write nothing there.
        if not (is_folder and status.st_uid == 0 and os.getuid() != 0):
            raise RunError(f"{name} in its home cannot be moved away: {error.strerror}.") from error


def inherit(target: Beneath, source: Beneath, transcripts: Sequence[str], kept: Kept | None) -> None:
    """Copy a conversation into another home: its transcripts, and the files that these refer to."""
    for path in [*transcripts, *(side_files(source, kept) if kept else ())]:
        with source.open(path) as file:
            target.pour(path, iter(lambda: file.read(1024**2), b""))


def side_files(source: Beneath, kept: Kept) -> Iterator[str]:
    """Plain files in the directories of the conversation: what sub-agents said, what tools printed.

    Raises RunError when there are more than a conversation has.
    """
    count = size = 0
    for path, length in below(source, PurePosixPath(kept.folder), kept.names, LEVELS):
        count, size = count + 1, size + length
        if count > FILES or size > LARGEST:
            raise RunError(f"Its conversation has more than {FILES} files, or 2 GB: it is not copied.")
        yield path


def below(source: Beneath, folder: PurePosixPath, names: str, levels: int) -> Iterator[tuple[str, int]]:
    """Files in the folders of these names, and in theirs, with their sizes; links are passed over."""
    descriptor = source.enter(folder)
    try:
        names_there = sorted(names_in(descriptor))
        entries = [(name, os.stat(name, dir_fd=descriptor, follow_symlinks=False)) for name in names_there]
    finally:
        os.close(descriptor)
    for name, status in entries:
        if stat.S_ISDIR(status.st_mode) and levels and re.fullmatch(names, name):
            yield from below(source, folder / name, ".*", levels - 1)
        elif stat.S_ISREG(status.st_mode) and levels < LEVELS:
            yield str(folder / name), status.st_size


def furnish(shared: Beneath, names: Sequence[str]) -> None:
    """Make what is missing in an agent home: an empty file, or a directory for a name that ends in /."""
    there = {path.name for path in shared.root.iterdir()}
    for name in names:
        if name.rstrip("/") in there:
            continue
        if name.endswith("/"):
            os.close(shared.enter(PurePosixPath(name), make=True))
        else:
            shared.write({name: b""})
