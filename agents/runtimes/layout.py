"""Where things lie in the state directory, and who may enter them.

docker-sessions/<agent>/<session>/   the home of one session, mounted alone
agent-homes/<agent>/                 what all sessions of an agent share, if it has such a home
workspaces/<agent>/                  what the agent works on
workspaces/<agent>/                  what the agent works on, if all its sessions share it
git-workspaces/<agent>/<key>/        the same of a git repository
session-workspaces/<session>/<key>/  what one session works on
run-workspaces/<run>/<key>/          what one run works on
git-mirrors/<agent>/<key>/           a copy of a git repository that no agent sees
runs/<run>/git/                      what the change of a run is captured with, gone when that is done
runs/<run>/changes.patch             what the run changed in a git workspace
runs/<run>/output.jsonl, stderr.log  what it printed, byte for byte
runs/<run>/in/                       what it was given: prompt, start script
runs/<run>/attachments/              files that people gave it, as they were given
containers/<name>/                   what is mounted into a container that outlives its run
archive/<agent>/<session>/           transcripts as they were after a run, packed; mounted nowhere
imports/                             sessions that are just being imported
removed/                             what was deleted, and what agents left in homes, while it goes
trials/<id>/                         the same for a test of an agent's configuration, gone with it
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from agents.runtimes.types import Paths, RunError

PRIVATE = 0o700


@dataclass(frozen=True)
class StateDir:
    """The directory below which sessions, workspaces and run files live."""

    path: Path

    def home(self, agent: str, session: str) -> str:
        """A session's home, relative, as it is stored in its row."""
        return str(PurePosixPath("docker-sessions", agent, session))

    def workspace(self, agent: str) -> Path:
        """The working directory of an agent that was given none."""
        return self.path / "workspaces" / agent

    def shared(self, agent: str) -> Path:
        """The agent home: what an agent's sessions share."""
        return self.path / "agent-homes" / agent

    def removed(self) -> Path:
        """Where things wait for being deleted, out of everybody's reach."""
        return self.path / "removed"

    def git_workspace(self, agent: str) -> Path:
        """The same for clones, each below it."""
        return self.path / "git-workspaces" / agent

    def session_workspace(self, session: str) -> Path:
        """All that a session of an agent with a workspace per session works on."""
        return self.path / "session-workspaces" / session

    def run_workspace(self, run: str) -> Path:
        """All that a run of an agent with a workspace per run works on."""
        return self.path / "run-workspaces" / run

    def git_mirror(self, agent: str) -> Path:
        """Copies of an agent's repositories, each below it."""
        return self.path / "git-mirrors" / agent

    def patch(self, run: str) -> Path:
        """What a run changed in a git workspace."""
        return self.run(run) / "changes.patch"

    def run(self, run: str) -> Path:
        """The files of one run."""
        return self.path / "runs" / run

    def output(self, run: str) -> Path:
        """Standard output of a run, byte for byte but for masked secrets."""
        return self.run(run) / "output.jsonl"

    def errors(self, run: str) -> Path:
        """Standard error of a run, likewise."""
        return self.run(run) / "stderr.log"

    def archive(self, agent: str, session: str) -> Path:
        """Where a session's transcripts are kept beside its home."""
        return self.path / "archive" / agent / session

    def imports(self) -> Path:
        """Where sessions wait while they are imported."""
        return self.path / "imports"

    def trials(self) -> Path:
        """Where tests of agents have their files for some seconds."""
        return self.path / "trials"

    def paths(self, run: str, home: str, workspace: str) -> Paths:
        """The host's directories of a run."""
        return Paths(workspace=workspace, home=str(self.path / home), run=str(self.run(run) / "in"))

    def make(self, paths: Paths, owner: str) -> None:
        """Create what is missing, private; home, workspace and agent home are the container's user's."""
        for folder in filter(None, (paths.home, paths.workspace, paths.run, paths.shared)):
            make_private(Path(folder))
        for folder in filter(None, (paths.home, paths.workspace, paths.shared)):
            if Path(folder).is_relative_to(self.path):
                give(Path(folder), owner)


def make_private(folder: Path) -> None:
    """Create a directory and its parents with mode 0700."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=PRIVATE, exist_ok=True)


def own_private(folder: Path) -> None:
    """Make a directory that only this user may enter; RunError if somebody else made it first."""
    make_private(folder)
    status = folder.stat(follow_symlinks=False)
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        raise RunError(f"{folder} belongs to somebody else. Set HERDWEB_SECRETS_DIR to another directory.")
    folder.chmod(PRIVATE)


def give(path: Path, owner: str) -> None:
    """Make uid:gid the owner where it is another; only root can, and nobody else needs to."""
    uid, _, gid = owner.partition(":")
    wanted = (int(uid), int(gid or uid))
    status = path.stat(follow_symlinks=False)
    if os.getuid() == 0 and (status.st_uid, status.st_gid) != wanted:
        os.chown(path, *wanted, follow_symlinks=False)


def names_in(folder: int) -> list[str]:
    """What an open directory holds."""
    return os.listdir(folder)


class Beneath:
    """A directory that an agent can write to, entered without following any of its links.

    Opened once; every path is walked component by component with O_NOFOLLOW, so that a link, a
    FIFO or a swapped directory cannot lead outside. Raises RunError for anything but plain
    directories and regular files.
    """

    def __init__(self, root: Path, owner: str) -> None:
        self.root = root
        self.owner = owner

    def exists(self, relative: str) -> bool:
        """Whether a regular file lies there."""
        try:
            os.close(self._open(relative, os.O_RDONLY))
        except (OSError, RunError):
            return False
        return True

    def open(self, relative: str) -> BinaryIO:
        """A regular file, to be read."""
        return os.fdopen(self._open(relative, os.O_RDONLY), "rb")

    def read(self, relative: str) -> bytes:
        """The content of a regular file."""
        with self.open(relative) as file:
            return file.read()

    @contextmanager
    def draft(self, relative: str) -> Iterator["Draft"]:
        """A file beside its place, which takes it with `put` or is gone in the end."""
        folder = self.enter(PurePosixPath(relative).parent, make=True)
        draft = Draft(folder, PurePosixPath(relative).name)
        try:
            with draft.file:
                self._give(draft.file.fileno())
                yield draft
        finally:
            draft.discard()
            os.close(folder)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files, making their directories; a link or another thing in the place goes first."""
        for relative, content in files.items():
            self.pour(relative, [content])

    def pour(self, relative: str, pieces: Iterable[bytes]) -> None:
        """Write one file, a piece at a time."""
        folder = self.enter(PurePosixPath(relative).parent, make=True)
        try:
            self._replace(folder, PurePosixPath(relative).name, pieces)
        finally:
            os.close(folder)

    def link(self, links: Mapping[str, str]) -> None:
        """Make links to where the agent finds what they stand for; what is in the place stays."""
        for relative, target in links.items():
            folder = self.enter(PurePosixPath(relative).parent, make=True)
            try:
                if PurePosixPath(relative).name not in names_in(folder):
                    os.symlink(target, PurePosixPath(relative).name, dir_fd=folder)
            finally:
                os.close(folder)

    def _replace(self, folder: int, name: str, pieces: Iterable[bytes]) -> None:
        draft = f".{name}.herdweb"
        if draft in names_in(folder):
            os.unlink(draft, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(draft, flags, 0o600, dir_fd=folder), "wb") as file:
            for piece in pieces:
                file.write(piece)
            self._give(file.fileno())
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)

    def _open(self, relative: str, flags: int) -> int:
        path = PurePosixPath(relative)
        folder = self.enter(path.parent)
        try:
            file = os.open(path.name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise RunError(f"{relative} is not a regular file.")
        return file

    def enter(self, relative: PurePosixPath, make: bool = False) -> int:
        """A descriptor of a directory below, for the caller to close."""
        folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        for part in relative.parts:
            try:
                deeper = self._step(folder, part, make)
            finally:
                os.close(folder)
            folder = deeper
        return folder

    def _step(self, folder: int, part: str, make: bool) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            return os.open(part, flags, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
            os.mkdir(part, PRIVATE, dir_fd=folder)
            made = os.open(part, flags, dir_fd=folder)
            self._give(made)
            return made

    def _give(self, descriptor: int) -> None:
        uid, _, gid = self.owner.partition(":")
        if os.getuid() == 0:
            os.fchown(descriptor, int(uid), int(gid or uid))


class Draft:
    """A file that nobody knows yet, and then all of it at once."""

    def __init__(self, folder: int, name: str) -> None:
        self.folder, self.name, self.draft = folder, name, f".{name}.draft"
        self.discard()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self.file: BinaryIO = os.fdopen(os.open(self.draft, flags, 0o600, dir_fd=folder), "wb")

    def put(self, aside: str) -> str:
        """Take the place; what was there is kept under its name and `aside`, which is returned."""
        self.file.flush()
        os.fsync(self.file.fileno())
        kept = self._set_aside(aside)
        os.rename(self.draft, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        os.fsync(self.folder)
        return kept

    def discard(self) -> None:
        """Nothing of it is left, unless it has been put."""
        if self.draft in names_in(self.folder):
            os.unlink(self.draft, dir_fd=self.folder)

    def _set_aside(self, suffix: str) -> str:
        present = set(names_in(self.folder))
        if self.name not in present:
            return ""
        numbered = (f"{self.name}{suffix}{number or ''}" for number in range(len(present) + 1))
        free = next(name for name in numbered if name not in present)
        os.rename(self.name, free, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        return free
