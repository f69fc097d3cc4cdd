"""Conversations from elsewhere: transcripts that a CLI wrote outside herdweb, as sessions of an agent.

Nothing is ever overwritten, and what is there already stays as it is, so that the same folder can
be imported again and again. The file itself is copied first; rows follow in one transaction.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from uuid import UUID, uuid4, uuid5

from django.db import IntegrityError, transaction
from django.utils import timezone

from agents import archive, machine, sessions
from agents.models import Agent, Audit, Run, Session
from agents.models.run import RESULT_LIMIT, TEXT_LIMIT, NewEvent, insert, stored
from agents.runtimes import AgentConfig, Beneath, Conversation, Request, RunError, Runtime, human_size
from agents.runtimes.layout import PRIVATE, make_private
from agents.runtimes.types import Entry, TranscriptFacts

# A larger file is none that anybody wrote by talking.
LARGEST = 1024**3
# Of what lies beside a transcript: notes and sub-agents' transcripts.
MOST_COMPANIONS = 2000
BATCH = 1000
CHUNK = 1024**2
LONGEST_LINE = 32 * 1024**2
# Two agents may import the same conversation: the second one has it under an id made from this.
COPIES = UUID("6f0b1c1e-5d0e-4c55-9f5b-6a2f3a7b7c11")

IMPORTED, WOULD_BE, ALREADY, SKIPPED = "imported", "would be imported", "already there", "skipped"


@dataclass(frozen=True)
class Report:
    """What became of one transcript; `notes` are what else is worth knowing."""

    path: str
    verdict: str
    reason: str = ""
    session: str = ""
    run: str = ""
    facts: TranscriptFacts = field(default_factory=TranscriptFacts)
    notes: tuple[str, ...] = ()


class Skip(Exception):
    """Why a file is not imported, in words."""


def transcripts(path: Path) -> list[Path]:
    """The transcripts of a projects folder, of one project, or this one; links are not followed.

    Raises RunError when there are none.
    """
    path = path.resolve()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise RunError(f"There is no file or directory {path}.")
    projects = [Path(item) for item in os.scandir(path) if item.is_dir(follow_symlinks=False)]
    # Beside a transcript lies a folder of its session's name.
    folders = [path, *(folder for folder in projects if as_uuid(folder.name) is None)]
    found = sorted(file for folder in folders for file in folder.glob("*.jsonl"))
    if not found:
        raise RunError(f"There are no transcripts (*.jsonl) in {path} or in the directories below it.")
    return found


def as_uuid(text: str) -> UUID | None:
    """The id that a text is, if it is one as the CLI writes them."""
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if str(found) == text.lower() else None


class Importer:
    """Imports transcripts as sessions of one agent, on behalf of somebody.

    Raises RunError when the agent can have no such sessions.
    """

    def __init__(self, agent: Agent, by: str, *, dry_run: bool = False) -> None:
        self.agent = agent
        self.by = by
        self.dry_run = dry_run
        self.config = AgentConfig.from_json(agent.freeze())
        self.runtime: Runtime = machine.runtime(self.config)
        if self.runtime.read_transcript(BytesIO()) is None:
            raise RunError(f"The runtime {self.config.runtime} has no transcripts that could be imported.")
        sessions.check_again(self.config)

    def take(self, path: Path) -> Report:
        """Import one file, unless it is there already or nothing to go on with; says what became of it."""
        try:
            with opened(path) as file:
                return self._take(path, file)
        except (Skip, RunError) as reason:
            return Report(str(path), SKIPPED, str(reason))
        except OSError as error:
            return Report(str(path), SKIPPED, f"It cannot be read: {error.strerror}.")

    def _take(self, path: Path, file: BinaryIO) -> Report:
        known = self._known(as_uuid(path.stem))
        if known:
            return Report(str(path), ALREADY, session=str(known.public_id))
        facts = self._facts(file)
        original = session_id(path, facts)
        known = self._known(original)
        if known:
            return Report(str(path), ALREADY, session=str(known.public_id))
        session = self._session(original, facts)
        report = Report(
            str(path), WOULD_BE, "", str(session.public_id), "", facts, self._notes(session, facts)
        )
        if self.dry_run:
            return report
        try:
            return self._store(path, file, session, report)
        except IntegrityError:
            return Report(str(path), ALREADY, session=str(session.public_id))

    def _known(self, original: UUID | None) -> Session | None:
        """The session that this conversation has become, or always was."""
        if original is None:
            return None
        ids = [original, self._copy_of(original)]
        return Session.objects.filter(agent=self.agent, public_id__in=ids).first()

    def _copy_of(self, original: UUID) -> UUID:
        return uuid5(COPIES, f"{self.agent.name}/{original}")

    def _facts(self, file: BinaryIO) -> TranscriptFacts:
        """What the file tells, gone through to its end; raises Skip when it is no conversation."""
        transcript = self.runtime.read_transcript(file)
        for _ in transcript or ():
            pass
        facts = transcript.facts() if transcript else TranscriptFacts()
        if not facts.prompts and not facts.turns:
            if facts.asides:
                raise Skip(f"It is what a sub-agent of session {facts.session} said.")
            raise Skip(f"No message is in its {facts.lines} lines.")
        return facts

    def _session(self, original: UUID, facts: TranscriptFacts) -> Session:
        """The row as it will be; under another id if somebody else has this one."""
        taken = Session.objects.filter(public_id=original).exists()
        session = Session(
            public_id=self._copy_of(original) if taken else original,
            agent=self.agent,
            runtime=self.config.runtime,
            title=(facts.title or sessions.usual_title(facts.prompt))[:200],
        )
        session.home = machine.state().home(self.config.name, str(session.public_id))
        session.working_directory = self.runtime.inside(self._request(session).paths).workspace
        return session

    def _request(self, session: Session, run: str = "none") -> Request:
        """As a run that goes on with the session would have it."""
        request = sessions.request_for(session, self.config)
        given = machine.state().paths(run, session.home, request.paths.workspace).run
        paths = replace(request.paths, run=given)
        return replace(request, run=run, paths=paths, conversation=Conversation(str(session.public_id)))

    def _notes(self, session: Session, facts: TranscriptFacts) -> tuple[str, ...]:
        notes = [f"Line {number}: {problem}" for number, problem in facts.problems]
        if facts.malformed > len(notes):
            notes.append(f"{facts.malformed - len(notes)} more lines could not be read.")
        if facts.working_directory and facts.working_directory != session.working_directory:
            ours = session.working_directory
            notes.append(f"It worked in {facts.working_directory}; the agent works in {ours}.")
        return tuple(notes)

    def _store(self, path: Path, file: BinaryIO, session: Session, report: Report) -> Report:
        """Files first, then rows; of what fails halfway nothing of ours is left."""
        run = str(uuid4())
        request = self._request(session, run)
        home, target = sessions.beneath(request), PurePosixPath(self.runtime.transcripts(request)[0])
        fresh = made(Path(request.paths.home))
        machine.state().make(request.paths, sessions.owner(request))
        try:
            copy = machine.state().output(run)
            with private(copy) as output:
                output.writelines(chunks(file))
            renaming = Renaming(report.facts.session, str(session.public_id))
            put(home, target, copy, renaming)
            tokens = self._companions(path, home, target, renaming)
            with transaction.atomic():
                told = self._rows(UUID(run), session, report, tokens)
                archive.store(session, home, str(target))
                return told
        except BaseException:
            shutil.rmtree(machine.state().run(run), ignore_errors=True)
            if fresh:
                shutil.rmtree(request.paths.home, ignore_errors=True)
            raise

    def _companions(
        self, path: Path, home: Beneath, target: PurePosixPath, renaming: "Renaming"
    ) -> tuple[int, int]:
        """Copy what lies beside the transcript; the tokens that its sub-agents used."""
        read = written = 0
        for source in companions(path):
            with opened(source) as file:
                place = target.with_suffix("") / source.relative_to(path.with_suffix(""))
                home.pour(str(place), renaming.pieces(file))
                transcript = (
                    self.runtime.read_transcript(rewound(file)) if source.suffix == ".jsonl" else None
                )
                for _ in transcript or ():
                    pass
                facts = transcript.facts() if transcript else TranscriptFacts()
                read, written = read + facts.input_tokens, written + facts.output_tokens
        return read, written

    def _rows(self, public_id: UUID, session: Session, report: Report, aside: tuple[int, int]) -> Report:
        """The session, its one run and the events of it."""
        now = timezone.now()
        session.save()
        model = report.facts.model or self.config.model
        run = Run.objects.create(
            public_id=public_id,
            agent=self.agent,
            session=session,
            config={**self.agent.freeze(), "model": model},
            prompt=report.facts.prompt[:TEXT_LIMIT],
            trigger=Run.Trigger.IMPORT,
            state=Run.State.LOST,
        )
        facts, count = self._events(run, report.facts.began or now)
        state, reason = verdict(facts, report.path)
        count = self._close(run, count, report, f"Run {state}: {reason}", now)
        tokens = facts.input_tokens + aside[0], facts.output_tokens + aside[1]
        Run.objects.filter(pk=run.pk).update(
            state=state, reason=reason, event_count=count, **columns(facts, tokens, now),
            output_bytes=machine.state().output(str(public_id)).stat().st_size,
        )  # fmt: skip
        Session.objects.filter(pk=session.pk).update(
            created=facts.began or now, last_used=facts.ended or now, turns=facts.turns,
            cost_usd=facts.cost_usd or 0, input_tokens=tokens[0], output_tokens=tokens[1],
        )  # fmt: skip
        path = session.get_absolute_url()
        what = f"session {session.public_id} of {self.agent.name}"
        Audit.note(self.by, Audit.Deed.ADDED, what, path=path, detail=reason, agent=self.agent)
        return replace(report, verdict=IMPORTED, reason=reason, run=str(public_id), facts=facts)

    def _events(self, run: Run, began: datetime) -> tuple[TranscriptFacts, int]:
        """Store what the copy says, numbered, each at its time; a line without one happened with the last."""
        count, batch, at = 0, list[NewEvent](), began
        with machine.state().output(str(run.public_id)).open("rb") as file:
            transcript = self.runtime.read_transcript(file)
            for entry in transcript or ():
                at = max(at, entry.at or at)
                batch += events_of(entry, at)
                if len(batch) >= BATCH:
                    insert(run.pk, count, batch)
                    count, batch = count + len(batch), []
        insert(run.pk, count, batch)
        return transcript.facts() if transcript else TranscriptFacts(), count + len(batch)

    def _close(self, run: Run, count: int, report: Report, end: str, now: datetime) -> int:
        """Say at the end where it came from, what could not be read of it, and how it ended."""
        texts = [f"Imported by {self.by} from {shown(report.path)}.", *report.notes, end]
        insert(run.pk, count, [NewEvent("status", text[:TEXT_LIMIT], "{}", created=now) for text in texts])
        return count + len(texts)


def opened(path: Path) -> BinaryIO:
    """A regular file of a size that is read; raises Skip for anything else."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_size <= LARGEST:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(found.st_mode):
        raise Skip(f"It has {human_size(found.st_size)}; up to {human_size(LARGEST)} are imported.")
    raise Skip("It is not a regular file.")


def made(folder: Path) -> bool:
    """Create a directory; False when somebody else has."""
    make_private(folder.parent)
    try:
        folder.mkdir(mode=PRIVATE)
    except FileExistsError:
        return False
    return True


def private(path: Path) -> BinaryIO:
    """A new file that only this user may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def rewound(file: BinaryIO) -> BinaryIO:
    """The file, at its beginning again."""
    file.seek(0)
    return file


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The whole file, a piece at a time."""
    file.seek(0)
    while piece := file.read(CHUNK):
        yield piece


class Renaming:
    """The lines of a file under another session's id, where that differs from what they say.

    A session whose transcript names another one could not go on.
    """

    def __init__(self, before: str, after: str) -> None:
        self.after = after.encode()
        self.said = re.compile(rb'(?<="sessionId":)(\s*)"%s"' % re.escape(before.encode()))
        self.needed = bool(before) and before != after

    def pieces(self, file: BinaryIO) -> Iterator[bytes]:
        """The whole file, a line or a piece at a time."""
        if not self.needed:
            yield from chunks(file)
            return
        for line in iter(partial(rewound(file).readline, LONGEST_LINE), b""):
            yield self.said.sub(rb'\1"%s"' % self.after, line)


def put(home: Beneath, target: PurePosixPath, copy: Path, renaming: Renaming) -> None:
    """Copy the transcript to where the CLI looks for it; another one that lies there stays."""
    with copy.open("rb") as file:
        if not home.exists(str(target)):
            home.pour(str(target), renaming.pieces(file))
            return
        with home.open(str(target)) as there:
            same = all(there.read(len(piece)) == piece for piece in renaming.pieces(file))
            if not same or there.read(1):
                raise Skip(f"Another transcript of this session lies in {home.root / target}.")


def companions(path: Path) -> Iterator[Path]:
    """The regular files in the folder beside a transcript, which has its name; links are left out."""
    count = 0
    for folder, _, names in os.walk(path.with_suffix("")):
        for name in sorted(names):
            file = Path(folder) / name
            if file.is_symlink() or not file.is_file() or file.stat().st_size > LARGEST:
                continue
            count += 1
            if count > MOST_COMPANIONS:
                raise Skip(f"More than {MOST_COMPANIONS} files lie in {path.with_suffix('')}.")
            yield file


def session_id(path: Path, facts: TranscriptFacts) -> UUID:
    """The file's name says it, or else its lines."""
    found = as_uuid(path.stem) or as_uuid(facts.session)
    if found is None:
        raise Skip("Neither its name nor its lines say the id of a session.")
    return found


def events_of(entry: Entry, at: datetime) -> Iterator[NewEvent]:
    """The events that a line becomes, each with where it lies in the file."""
    for message in entry.messages:
        payload = stored(message.payload, entry.length) if message.payload else None
        yield NewEvent(message.kind, message.text[:TEXT_LIMIT], payload, entry.offset, entry.length, at)


def verdict(facts: TranscriptFacts, path: str) -> tuple[str, str]:
    """How the conversation ended, as far as its transcript tells."""
    source = f"Imported from {shown(path)}."
    if facts.interrupted:
        return Run.State.CANCELLED, f"{source} It was interrupted by its user."
    if facts.error:
        return Run.State.FAILED, f"{source} It ended with an error: {facts.answer}"[:RESULT_LIMIT]
    if facts.pending:
        return (
            Run.State.LOST,
            f"{source} It breaks off while {', '.join(facts.pending[:5])} had given no result.",
        )
    if facts.waiting:
        return Run.State.LOST, f"{source} It breaks off before the agent had answered."
    return Run.State.SUCCEEDED, source


def columns(facts: TranscriptFacts, tokens: tuple[int, int], now: datetime) -> dict[str, object]:
    """What the transcript claims, for the columns of the run."""
    began, ended = facts.began or now, facts.ended or now
    return {
        "created": began,
        "started_at": began,
        "finished_at": ended,
        "last_output_at": ended,
        "runtime_version": facts.version,
        "result": facts.answer[:RESULT_LIMIT],
        "result_seen_at": ended if facts.answer else None,
        "result_is_error": facts.error,
        "turns": facts.turns,
        "cost_usd": facts.cost_usd,
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
    }


def shown(path: str) -> str:
    """A path that any database takes, whatever bytes it has."""
    return path.encode("utf-8", "replace").decode()
