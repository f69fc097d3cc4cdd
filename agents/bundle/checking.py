"""What a file must say before any of it is believed: its order, its files, its numbers."""

import base64
import binascii
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from agents import archive, machine, sessions
from agents.bundle.reading import read
from agents.bundle.shapes import (
    SESSION_COLUMNS,
    DataLine,
    EndLine,
    EventLine,
    FileEndLine,
    FileLine,
    HeaderLine,
    Line,
    Refused,
    RunLine,
    SessionLine,
    transcripts_of,
)
from agents.models import Agent, Session
from agents.runtimes import AgentConfig, Beneath
from agents.runtimes.layout import give, make_private


@dataclass
class Content:
    """What a file was found to hold: its session, its runs, and its files below a directory of ours."""

    session: Session
    folder: Path
    sha256: str = ""
    runs: list[UUID] = field(default_factory=list)


def checked(agent: Agent, file: BinaryIO, folder: Path, at_most: int) -> Content:
    """Read all of it once; its files are below `folder` then, and its rows are nowhere."""
    lines = read(file, at_most)
    session = opened(agent, lines)
    content = Content(session, folder)
    with Checker(content) as checker:
        for line, sha256 in lines:
            checker.take(line)
            content.sha256 = sha256
    return content


def opened(agent: Agent, lines: Iterator[tuple[Line, str]]) -> Session:
    """The session of the first two lines, not saved."""
    header, said = next(lines)[0], next(lines)[0]
    if not isinstance(header, HeaderLine) or not isinstance(said, SessionLine):
        raise Refused("It does not begin with a session.")
    if said.runtime != agent.runtime:
        raise Refused(f"The session was made by the runtime {said.runtime}; {agent} uses {agent.runtime}.")
    session = Session(public_id=said.id, agent=agent, forked_from=session_of(agent, said.forked_from))
    for name in SESSION_COLUMNS:
        setattr(session, name, getattr(said, name))
    session.home = machine.state().home(agent.name, str(said.id))
    return session


def session_of(agent: Agent, public_id: UUID | None) -> Session | None:
    """The agent's session of this id, if it is here."""
    return Session.objects.filter(public_id=public_id, agent=agent).first() if public_id else None


class Checker:
    """Knows which line may follow which, and writes the files; nothing of it reaches the database."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.owner = sessions.owner_of(AgentConfig.from_json(content.session.agent.freeze()))
        self.home = content.folder / "home"
        self.run: RunLine | None = None
        self.events = 0
        self.seen: set[str] = set()
        self.writing: tuple[ExitStack, BinaryIO, archive.Tally, Any] | None = None

    def __enter__(self) -> "Checker":
        make_private(self.home)
        give(self.home, self.owner)
        return self

    def __exit__(self, *_: object) -> None:
        if self.writing:
            self.writing[0].close()

    def take(self, line: Line) -> None:
        """The next line, if it may stand here."""
        if self.writing:
            self._file_goes_on(line)
        elif isinstance(line, RunLine):
            self._run_begins(line)
        elif isinstance(line, EventLine):
            self._event(line)
        elif isinstance(line, FileLine):
            self._file_begins(line)
        elif isinstance(line, EndLine):
            self._run_ends()
        else:
            raise Refused(f"A line of the kind {line.line} stands where none may.")

    def _run_begins(self, line: RunLine) -> None:
        self._run_ends()
        if line.id in self.content.runs:
            raise Refused(f"The run {line.id} is in it twice.")
        self.content.runs.append(line.id)
        self.run, self.events, self.seen = line, 0, set()
        make_private(self.content.folder / "runs" / str(line.id))

    def _run_ends(self) -> None:
        if self.run and self.run.event_count != self.events:
            missing = f"{self.events} of its {self.run.event_count} events"
            raise Refused(f"The run {self.run.id} has {missing}.")

    def _event(self, line: EventLine) -> None:
        self.events += 1
        if self.run is None or line.seq != self.events:
            raise Refused(f"Event {line.seq} stands where number {self.events} should.")

    def _file_begins(self, line: FileLine) -> None:
        name = f"{line.kind}:{line.path}"
        if name in self.seen:
            raise Refused(f"The file {name} is in it twice.")
        self.seen.add(name)
        stack = ExitStack()
        draft: Any = None
        if line.kind == "transcript":
            draft = stack.enter_context(self._transcript(line.path))
            file = draft.file
        else:
            file = stack.enter_context(self._output(line))
        self.writing = (stack, file, archive.Tally(0), draft)

    def _transcript(self, path: str) -> Any:
        """Below the home, and only where this session's runtime looks for one."""
        if path not in transcripts_of(self.content.session):
            raise Refused(f"{path!r} is not where the transcript of this session belongs.")
        return Beneath(self.home, self.owner).draft(path)

    def _output(self, line: FileLine) -> BinaryIO:
        if self.run is None or line.path:
            raise Refused(f"A file of the kind {line.kind} stands where none may.")
        folder = self.content.folder / "runs" / str(self.run.id)
        path = folder / ("output.jsonl" if line.kind == "output" else "stderr.log")
        path.touch(mode=0o600, exist_ok=False)
        return path.open("wb")

    def _file_goes_on(self, line: Line) -> None:
        if self.writing is None:
            return
        stack, file, tally, draft = self.writing
        if isinstance(line, DataLine):
            piece = decoded(line)
            tally.add(piece)
            file.write(piece)
            return
        if not isinstance(line, FileEndLine) or (line.size, line.sha256) != (tally.size, tally.sha256):
            raise Refused("A file in it was changed: its checksum differs.")
        if draft:
            draft.put("")
        self.writing = None
        stack.close()


def decoded(line: DataLine) -> bytes:
    """The bytes that a line carries."""
    try:
        return base64.b64decode(line.base64, validate=True)
    except binascii.Error as error:
        raise Refused("A file in it cannot be decoded.") from error
