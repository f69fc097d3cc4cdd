"""The files of a session: which directory they lie in, how an address names them, what is shown."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO
from urllib.parse import parse_qs, quote

from django.core.exceptions import ValidationError
from django.urls import reverse

from agents import roots, sessions
from agents.models import Run, Session
from agents.prose import DIRECTION
from agents.runtimes import AgentConfig, RunError
from agents.runtimes.files import PIECE, Entry, Tree, Way, spelt, way
from agents.transcript import IMAGES

# In bytes and lines: how much of a text is shown, and how large a picture may be.
SHOWN, LINES, LARGEST_PICTURE = 256 * 1024, 5000, 16 * 1024**2
# Who looks this far into a text and finds no NUL takes it for one.
SNIFFED = 8 * 1024
MOST_FIELDS = 20
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def workspace_of(session: Session, run: Run | None) -> Tree:
    """The directory that a session works in, or that one of its runs worked in."""
    last = run or session.runs.order_by("-id").only("config", "public_id").first()
    config = last.agent_config if last else AgentConfig.from_json(session.agent.freeze())
    return roots.workspace(sessions.workspace_of(config, session, last))


@dataclass(frozen=True)
class Place:
    """Something below a session's workspace, as an address names it."""

    session: Session
    run: Run | None
    way: Way

    @classmethod
    def read(cls, session: Session, query: str) -> "Place":
        """What an address asks for; raises RunError for a path that is none, or a run of another session."""
        return cls(session, run_of(session, asked(query, "run")), way(asked(query, "path")))

    @property
    def tree(self) -> Tree:
        """The workspace, which nothing leads out of."""
        return workspace_of(self.session, self.run)

    @property
    def name(self) -> str:
        """Its own name, for people."""
        return spelt(self.way[-1]) if self.way else "workspace"

    def at(self, *names: bytes) -> "Place":
        """What lies below it under these names."""
        return Place(self.session, self.run, (*self.way, *names))

    def address(self, page: str = "session_files", **more: bytes) -> str:
        """Of a page about it."""
        given = {"run": str(self.run.public_id).encode()} if self.run else {}
        given |= {"path": b"/".join(self.way)} if self.way else {}
        query = "&".join(f"{name}={quote(value)}" for name, value in (given | more).items())
        path = reverse(f"agents:{page}", args=[self.session.public_id])
        return f"{path}?{query}" if query else path

    @property
    def steps(self) -> list["Place"]:
        """The directories on the way to it, the workspace first."""
        return [Place(self.session, self.run, self.way[:depth]) for depth in range(len(self.way))]


def asked(query: str, name: str) -> bytes:
    """A field of an address, byte for byte: names of files need not be UTF-8."""
    try:
        found = parse_qs(query, errors="surrogateescape", max_num_fields=MOST_FIELDS)
    except ValueError:
        return b""
    return found.get(name, [""])[0].encode("utf-8", "surrogateescape")


def run_of(session: Session, public_id: bytes) -> Run | None:
    """The session's run of this id; none if none is asked for."""
    if not public_id:
        return None
    try:
        return session.runs.get(public_id=public_id.decode("ascii", "replace"))
    except (Run.DoesNotExist, ValidationError):
        raise RunError("There is no such run in this session.") from None


@dataclass(frozen=True)
class Row:
    """An entry of a directory, as its page shows it."""

    entry: Entry
    place: Place

    @property
    def name(self) -> str:
        """For people."""
        return spelt(self.entry.name)

    @property
    def target(self) -> str:
        """Where a link points to, for people."""
        return spelt(self.entry.target)

    @property
    def address(self) -> str:
        """Of its page; none for what is not opened."""
        return self.place.address() if self.entry.kind in ("directory", "file") else ""


@dataclass(frozen=True)
class Preview:
    """The beginning of a file: lines of a text, or the type of a picture, or neither."""

    lines: Sequence[str] = ()
    picture: str = ""
    is_text: bool = False
    is_cut: bool = False


def preview(file: IO[bytes]) -> Preview:
    """What can be shown of a file, from its beginning."""
    content = beginning(file, SHOWN)
    kind = picture(content)
    if kind:
        return Preview(picture=kind if os.fstat(file.fileno()).st_size <= LARGEST_PICTURE else "")
    if b"\0" in content[:SNIFFED]:
        return Preview()
    lines = readable(content).split("\n")
    is_cut = (len(content) == SHOWN and bool(file.read(1))) or len(lines) > LINES
    return Preview(lines=lines[:LINES], is_text=True, is_cut=is_cut)


def beginning(file: IO[bytes], size: int) -> bytes:
    """So many bytes, or all there are."""
    content = b""
    while len(content) < size and (piece := file.read(min(PIECE, size - len(content)))):
        content += piece
    return content


def picture(content: bytes) -> str:
    """The type of a picture that does no harm, by its own first bytes; never SVG, which is a program."""
    return next((kind for kind, magic in IMAGES.items() if magic.match(content)), "")


def readable(content: bytes) -> str:
    """Text for people, with every character spelt out that a page would swallow or obey."""
    text = content.decode("utf-8", "replace").replace("\r\n", "\n").removesuffix("\n")
    bare = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return DIRECTION.sub(lambda found: f"[U+{ord(found[0]):04X}]", bare)
