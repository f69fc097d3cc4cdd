"""Files that a run is given: what may be attached, where it is kept, and where the agent finds it.

They are kept beside the run's output, and go with it. A copy is placed into the workspace before
the start, never in the place of anything, and the prompt says where.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError

from agents import machine, roots
from agents.models import Run
from agents.models.fields import shown
from agents.runtimes import AgentConfig, Request, RunError, Runtime, human_size
from agents.runtimes.files import Tree, pieces, spelt
from agents.runtimes.layout import make_private

FOLDER = "attachments"
MOST, LONGEST_NAME = 20, 200
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
READ_ONLY = "Nothing can be attached: the agent's workspace is read-only (docker.workspace_mode is ro)."


@dataclass(frozen=True)
class Attachment:
    """A file to be attached; `content` may be read more than once."""

    name: str
    size: int
    content: Callable[[], Iterable[bytes]]


def check(given: Sequence[Attachment], config: AgentConfig) -> None:
    """Raises ValidationError with all that is wrong with the files, each said with what is allowed."""
    if given and is_read_only(config):
        raise ValidationError(READ_ONLY)
    wrong = [complaint for each in given if (complaint := name_complaint(each.name) or size_complaint(each))]
    names = [each.name for each in given]
    wrong += [f"{shown(name)} is attached twice." for name in sorted(set(names)) if names.count(name) > 1]
    if len(given) > MOST:
        wrong.append(f"At most {MOST} files can be attached; these are {len(given)}.")
    total, most = sum(each.size for each in given), settings.HERDWEB_UPLOAD_TOTAL
    if total > most:
        wrong.append(f"All files together have {human_size(total)}; the limit is {human_size(most)}.")
    if wrong:
        raise ValidationError(wrong)


def is_read_only(config: AgentConfig) -> bool:
    """Whether the agent could find nothing new in its workspace."""
    return config.docker.enabled and config.docker.workspace_mode == "ro"


def name_complaint(name: str) -> str:
    """Why a file cannot have this name; empty if it can."""
    if not name or name.startswith("..") or name == "." or "/" in name:
        return f"{shown(name)} is no name of a file: it may not be empty, contain “/” or begin with “..”."
    if CONTROL.search(name):
        return f"{name[:60]!a} is no name of a file here: only UTF-8 without control characters."
    if len(name.encode()) > LONGEST_NAME:
        return f"{shown(name)} is too long: a name may have {LONGEST_NAME} bytes."
    return ""


def size_complaint(given: Attachment) -> str:
    """Why a file is too large; empty if it is not."""
    limit = settings.HERDWEB_UPLOAD_LIMIT
    if given.size <= limit:
        return ""
    return f"{shown(given.name)} has {human_size(given.size)}; the limit of a file is {human_size(limit)}."


@contextmanager
def keeping(run_id: str, given: Sequence[Attachment]) -> Iterator[list[dict[str, Any]]]:
    """Store the files of a run that is about to be; they go again if it does not come to be."""
    folder = machine.state().run(run_id)
    if not given:
        yield []
        return
    try:
        make_private(folder / FOLDER)
        yield [keep(folder / FOLDER, each) for each in given]
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def keep(folder: Path, given: Attachment) -> dict[str, Any]:
    """Store one file; what a run's row says of it. Raises RunError when the disk does not take it."""
    digest, size = sha256(), 0
    try:
        with (folder / given.name).open("xb") as file:
            for piece in given.content():
                digest.update(piece)
                size += file.write(piece)
    except OSError as error:
        raise RunError(f"{given.name} could not be stored: {error.strerror}.") from error
    return {"name": given.name, "size": size, "sha256": digest.hexdigest()}


def kept(run: Run) -> Tree:
    """The directory in which a run's attachments are kept."""
    folder = machine.state().run(str(run.public_id)) / FOLDER
    return Tree(folder.parent.resolve() / folder.name)


def of(run: Run) -> list[Attachment]:
    """The attachments of a run, to be attached to another; raises RunError when one is gone."""
    tree = kept(run)
    names = [str(each["name"]) for each in run.attachments]
    for name in names:
        tree.open((name.encode(),)).close()
    sizes = [int(each["size"]) for each in run.attachments]
    return [
        Attachment(name, size, lambda name=name: reread(tree, name))  # type: ignore[misc]
        for name, size in zip(names, sizes, strict=True)
    ]


def reread(tree: Tree, name: str) -> Iterator[bytes]:
    """The content of a kept file."""
    with tree.open((name.encode(),)) as file:
        yield from pieces(file)


def summary(stored: Sequence[Mapping[str, Any]]) -> str:
    """The names and sizes of a run's attachments in one line."""
    return ", ".join(f"{each['name']} ({human_size(each['size'])})" for each in stored)


def place(run: Run, request: Request, runtime: Runtime, owner: str) -> Request:
    """Put a run's attachments into its workspace; the request comes back with a prompt that says so.

    Raises RunError when they cannot be placed: what an agent made there is neither followed nor
    overwritten.
    """
    if not run.attachments:
        return request
    if is_read_only(request.agent):
        raise RunError(READ_ONLY)
    tree, source = roots.workspace(Path(request.paths.workspace)), kept(run)
    for each in run.attachments:
        name = str(each["name"]).encode()
        try:
            tree.add((*folder_of(run), name), reread(source, name.decode()), owner)
        except RunError as error:
            raise RunError(f"The attachment {spelt(name)} cannot be placed: {error}") from error
    return replace(request, prompt=told(run, runtime.inside(request.paths).workspace))


def folder_of(run: Run) -> tuple[bytes, bytes]:
    """Where in a workspace the attachments of a run are placed."""
    return FOLDER.encode(), run.short_id.encode()


def told(run: Run, workspace: str) -> str:
    """The prompt with a paragraph that names the attached files where the agent finds them."""
    folder = "/".join([workspace.rstrip("/"), *(part.decode() for part in folder_of(run))])
    files = "\n".join(f"- {folder}/{each['name']}" for each in run.attachments)
    return f"{run.prompt.rstrip()}\n\nAttached files:\n{files}\n"
