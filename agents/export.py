"""A run or a session as a file; as Markdown, nothing that an agent wrote is more than text."""

import json
import re
from collections.abc import Iterator
from typing import Any

from agents.models import Event, Run, Session
from agents.prose import plain, pretty
from agents.transcript import block

TITLES = {
    "status": "herdweb",
    "text": "agent",
    "tool_use": "tool call",
    "tool_result": "tool result",
    "stderr": "standard error",
    "result": "result, as the agent reports it",
}


def session_head(session: Session) -> str:
    """Which session it is; its runs follow."""
    return f"# Session {session.public_id} of {session.agent.name}\n\n{fenced(session.title)}"


def line(kind: str, values: dict[str, Any]) -> str:
    """A row as a line of JSON that says what it is."""
    return json.dumps({"type": kind, **values}) + "\n"


def head(run: Run) -> str:
    """What the run was, and its prompt."""
    facts = [
        f"# Run {run.short_id} of {run.agent.name}",
        f"- State: {run.state}",
        f"- Asked for: {run.created.isoformat(timespec='seconds')}",
        f"- Ended: {run.finished_at.isoformat(timespec='seconds') if run.finished_at else 'not yet'}",
    ]
    return "\n".join(facts) + f"\n\n{fenced(run.reason)}## Prompt\n\n{fenced(run.prompt)}## What happened\n\n"


def section(event: Event) -> str:
    """One event under a heading with its number."""
    title = TITLES.get(event.kind, event.kind)
    cut = "*Only the beginning; the raw output has it whole.*\n\n" if event.is_cut else ""
    return f"### {event.seq} · {title}\n\n{''.join(fenced(text) for text in bodies(event))}{cut}"


def bodies(event: Event) -> Iterator[str]:
    """The texts of an event."""
    yield event.text
    given = block(event).get("input") if event.kind == Event.Kind.TOOL_USE else None
    if given:
        yield pretty(given)


def fenced(text: str) -> str:
    """A text as a block that it cannot end: its fence is longer than any run of backticks in it."""
    bare = plain(text).strip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", bare)), default=0))
    return f"{fence}\n{bare}\n{fence}\n\n" if bare.strip() else ""
