"""What a run did to its git workspace, for its page: files, commits, and the patch cut into files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from agents import machine, workspaces
from agents.models import Run
from agents.transcript import Change

# In bytes and lines: what of a patch is shown; the whole one can be downloaded.
SHOWN, SHOWN_LINES = 512 * 1024, 2000
STATUS = {
    "A": "added", "M": "changed", "D": "deleted", "R": "renamed", "C": "copied", "T": "another kind",
}  # fmt: skip
SORTS = {"+": "add", "-": "del", " ": "same"}


@dataclass(frozen=True)
class ChangedFile:
    """A file of the change; no lines of what is no text, or beyond what is shown."""

    path: str
    was: str
    status: str
    added: int | None
    removed: int | None
    lines: Sequence[Change]


@dataclass(frozen=True)
class Shown:
    """A change as a page shows it."""

    said: Mapping[str, Any]
    summary: str
    files: Sequence[ChangedFile]

    @property
    def more_files(self) -> int:
        """How many are not named."""
        return int(self.said.get("file_count", 0)) - len(self.files)


def of(run: Run) -> Shown | None:
    """The change of a run; None before it was captured, and for runs without a git workspace."""
    if not run.changes.keys() & {"end", "problem"}:
        return None
    summary = workspaces.summary(run.changes) if "end" in run.changes else ""
    return Shown(run.changes, summary, list(files(run)))


def files(run: Run) -> Iterator[ChangedFile]:
    """The files that are named, each with its part of the patch."""
    named = run.changes.get("files", [])
    patches = [*parts(beginning(run)), *repeat("", len(named))]
    left = SHOWN_LINES
    for each, part in zip(named, patches, strict=False):
        lines = list(diff_lines(part))[: max(left, 0)]
        left -= len(lines)
        status = STATUS.get(each["status"], "changed")
        path, was = in_line(each["path"]), in_line(each["was"])
        yield ChangedFile(path, was, status, each["added"], each["removed"], lines)


def in_line(path: str) -> str:
    """A name that can have anything in it, in one line."""
    return path.replace("\n", "\\n").replace("\t", "\\t")


def beginning(run: Run) -> str:
    """The patch, as much of it as is shown; empty if it is gone."""
    try:
        with open(machine.state().patch(str(run.public_id)), "rb") as file:
            return file.read(SHOWN).decode("utf-8", "replace")
    except OSError:
        return ""


def parts(patch: str) -> Iterator[str]:
    """Those of the files, in the order in which they are named."""
    yield from f"\n{patch}".split("\ndiff --git ")[1:]


def diff_lines(part: str) -> Iterator[Change]:
    """What follows a file's head, which its name and status say already."""
    inside = False
    for line in part.split("\n"):
        inside = inside or line.startswith("@@ ")
        if inside and line:
            sort = SORTS.get(line[0], "hunk")
            yield Change(sort, line if sort == "hunk" else line[1:])
