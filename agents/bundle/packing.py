"""A session's rows and files as lines, packed while they are read; memory is bounded by one line."""

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db.models import Q
from django.utils import timezone
from django.utils.text import slugify

from agents import archive, machine, sessions
from agents.bundle.shapes import (
    DATA_BYTES,
    FORMAT,
    RUN_COLUMNS,
    SESSION_COLUMNS,
    VERSION,
    Refused,
    moment,
    transcripts_of,
)
from agents.models import Archive, Event, Run, Session
from agents.runtimes import AgentConfig, Beneath, RunError

EVENTS_AT_ONCE = 500
# Packed bytes are handed on at least this often, so that no reader waits for a long session.
BATCH_BYTES = 512 * 1024
GZIP = 16 + zlib.MAX_WBITS
TITLE_LENGTH = 40

Lines = Iterator[dict[str, Any]]


def file_name(session: Session) -> str:
    """`<title>-<beginning of the id>.herdweb.gz`."""
    title = slugify(session.title)[:TITLE_LENGTH].strip("-_") or "session"
    return f"{title}-{str(session.public_id)[:8]}.herdweb.gz"


def obstacle(session: Session) -> str:
    """Why a session cannot be packed now; empty if it can."""
    mine = Q(session=session) | Q(continues=session)
    open_run = Run.objects.filter(mine).exclude(state__in=Run.TERMINAL).first()
    return f"Run {open_run.short_id} of the session has not ended." if open_run else ""


def packed(session: Session) -> Iterator[bytes]:
    """The file, piece by piece, some of them empty.

    Raises Refused when the session cannot be packed; a file that was begun then has no last line.
    """
    reason = obstacle(session)
    if reason:
        raise Refused(reason)
    squeeze, digest = zlib.compressobj(6, zlib.DEFLATED, GZIP), hashlib.sha256()
    count = waiting = 0
    for line in lines(session):
        raw = written(line)
        digest.update(raw)
        count, waiting = count + 1, waiting + len(raw)
        piece = squeeze.compress(raw)
        if piece or waiting > BATCH_BYTES:
            waiting = 0
            yield piece
    yield squeeze.compress(written({"line": "end", "lines": count, "sha256": digest.hexdigest()}))
    yield squeeze.flush()


def written(line: Mapping[str, Any]) -> bytes:
    """A line as JSON in ASCII; a payload that nothing can write is left out."""
    try:
        return json.dumps(line).encode() + b"\n"
    except RecursionError:
        return json.dumps({**line, "payload": None}).encode() + b"\n"


def lines(session: Session) -> Lines:
    """All but the last one."""
    yield {"line": "header", "format": FORMAT, "version": VERSION, "exported": moment(timezone.now())}
    yield session_line(session)
    for run in session.runs.select_related("forks").order_by("id").iterator(chunk_size=50):
        yield run_line(run, session)
        yield from event_lines(run)
        state, name = machine.state(), str(run.public_id)
        yield from file_lines("output", "", stored(state.output(name), run.output_bytes))
        yield from file_lines("errors", "", stored(state.errors(name), run.stderr_bytes))
    for path in transcripts_of(session):
        yield from file_lines("transcript", path, transcript(session, path))


def session_line(session: Session) -> dict[str, Any]:
    """The session's record."""
    origin = session.forked_from
    return {
        "line": "session",
        "id": str(session.public_id),
        "agent": session.agent.name,
        "forked_from": str(origin.public_id) if origin else None,
        **columns(session, SESSION_COLUMNS),
    }


def run_line(run: Run, session: Session) -> dict[str, Any]:
    """A run's record, without who asked for it."""
    return {
        "line": "run",
        "id": str(run.public_id),
        "config": without_values(run.config),
        "continues": run.continues_id == session.pk,
        "forks": str(run.forks.public_id) if run.forks else None,
        **columns(run, RUN_COLUMNS),
    }


def without_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """A frozen configuration with the names of its variables and MCP servers, which may tell secrets."""
    docker = dict(config.get("docker") or {})
    docker["env"] = dict.fromkeys(docker.get("env") or {}, "")
    servers: dict[str, Any] = {name: {} for name in config.get("mcp_servers") or {}}
    return {**config, "docker": docker, "mcp_servers": servers}


def columns(row: Session | Run, names: Iterable[str]) -> dict[str, Any]:
    """Columns of a row as JSON takes them."""
    values = {name: getattr(row, name) for name in names}
    return {name: moment(value) if isinstance(value, datetime) else value for name, value in values.items()}


def event_lines(run: Run) -> Lines:
    """The events of a run in their order."""
    rows = Event.objects.filter(run=run).order_by("seq")
    for event in rows.iterator(chunk_size=EVENTS_AT_ONCE):
        yield {
            "line": "event",
            "seq": event.seq,
            "kind": str(event.kind),
            "text": event.text,
            "payload": event.payload,
            "offset": event.offset,
            "length": event.length,
            "created": moment(event.created),
        }


def file_lines(kind: str, path: str, content: Iterator[bytes] | None) -> Lines:
    """A file with its checksum; nothing for one that is not there."""
    if content is None:
        return
    tally = archive.Tally(0)
    yield {"line": "file", "kind": kind, "path": path}
    for piece in content:
        tally.add(piece)
        for start in range(0, len(piece), DATA_BYTES):
            data = base64.b64encode(piece[start : start + DATA_BYTES]).decode()
            yield {"line": "data", "base64": data}
    yield {"line": "file_end", "size": tally.size, "sha256": tally.sha256}


def stored(path: Path, size: int) -> Iterator[bytes] | None:
    """What is recorded of a run's output; none if its file has gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    return read(descriptor, size)


def read(descriptor: int, size: int) -> Iterator[bytes]:
    """The first bytes of an open file, which is closed in the end."""
    with os.fdopen(descriptor, "rb") as file:
        yield from archive.pieces(file, size)


def transcript(session: Session, name: str) -> Iterator[bytes] | None:
    """A transcript from the home, or from the archive when the home's cannot be trusted."""
    owner = sessions.owner_of(AgentConfig.from_json(session.agent.freeze()))
    home = Beneath(machine.state().path / session.home, owner)
    if not archive.contradiction(session, home, [name]):
        return trusted(home, name)
    kept = archive.current(session, name)
    return believed(kept) if kept else None


def trusted(home: Beneath, name: str) -> Iterator[bytes]:
    """A transcript as it is now."""
    with home.open(name) as file:
        yield from archive.pieces(file, os.fstat(file.fileno()).st_size)


def believed(kept: Archive) -> Iterator[bytes]:
    """An archived transcript, or a refusal."""
    try:
        yield from archive.contents(kept)
    except RunError as error:
        raise Refused(str(error)) from error
