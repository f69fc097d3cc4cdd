"""What a directory of an agent's takes up on disk, and its end: whatever lies in it, however deep.

An agent can nest directories deeper than any path may be long, lock them, link them out of there and
write files that claim a terabyte, so nothing here follows a link, recurses, or believes a length.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

BLOCK = 512
OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# While somebody else empties the same directory, an entry or its place may have gone.
GONE = (FileNotFoundError,)


def used(folder: Path) -> int:
    """Bytes on disk, with those of its directories; a file with several names counts once.

    What cannot be entered counts as nothing: a number that is a little short is better than none.
    """
    several: set[tuple[int, int]] = set()
    total, waiting = size_of(folder, several), [str(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                total += size_of(entry, several)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return total


def size_of(entry: "Path | os.DirEntry[str]", several: set[tuple[int, int]]) -> int:
    """What one entry takes up; nothing if it was counted under another name, or is gone."""
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return 0
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        name = (status.st_dev, status.st_ino)
        if name in several:
            return 0
        several.add(name)
    return status.st_blocks * BLOCK


def dispose(folder: Path) -> None:
    """Delete a directory with all that is in it; several may do so at once, and one gone already is fine.

    Raises OSError for what cannot be deleted, like a mounted file system. Each directory moves up to
    the top before it is emptied, so that depth costs neither stack nor the length of a path.
    """
    try:
        top = enter(None, str(folder))
    except FileNotFoundError:
        return
    try:
        while sweep(top):
            pass
    finally:
        os.close(top)
    with suppress(*GONE):
        folder.rmdir()


def sweep(top: int) -> bool:
    """Once through what lies at the top; False when there was nothing any more."""
    found = False
    with os.scandir(top) as entries:
        for entry in entries:
            found = True
            with suppress(*GONE):
                if entry.is_dir(follow_symlinks=False):
                    unfold(top, entry.name)
                else:
                    os.unlink(entry.name, dir_fd=top)
    return found


def unfold(top: int, name: str) -> None:
    """Delete one directory: its files go, its directories come out beside it."""
    folder = enter(top, name)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(*GONE):
                    if entry.is_dir(follow_symlinks=False):
                        lift(top, folder, entry.name)
                    else:
                        os.unlink(entry.name, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        os.rmdir(name, dir_fd=top)
    except OSError as error:
        # Of two who empty the same directory, the other may have put something there: the next round.
        if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
            raise


def enter(top: int | None, name: str) -> int:
    """Open a directory for emptying, also one that its owner has locked."""
    unlock(top, name)
    return os.open(name, OPEN, dir_fd=top)


def lift(top: int, folder: int, name: str) -> None:
    """Move a directory to the top; whoever moves one must be able to write to it."""
    unlock(folder, name)
    os.rename(name, uuid4().hex, src_dir_fd=folder, dst_dir_fd=top)


def unlock(folder: int | None, name: str) -> None:
    """Let its owner read and write a directory, as read-only package caches do not."""
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(name, stat.S_IRWXU, dir_fd=folder)
