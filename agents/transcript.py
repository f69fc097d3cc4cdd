"""What a page shows of a run's events: a tool's call with its result, and by which agent.

All of it was written by agents, so nothing has to have the shape that it should have.
"""

import re
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from difflib import unified_diff
from typing import Any, TypeVar

from django.db.models.fields.json import KT

from agents.models import Event, Run
from agents.models.run import TEXT_LIMIT
from agents.prose import plain, pretty

# A result is looked for its call among so many events before it.
REACH = 300
LARGEST_SEQ = 2**31 - 1
# They become attributes of elements, through which a script finds them.
IDENTIFIER = re.compile(r"[!-~]{1,200}")
# Comparing takes the square of this in the worst case; larger edits are shown as removed and added.
COMPARED = 400
# How many lines and characters are shown of what is long.
LISTING, PROSE = (40, 4096), (150, 8192)


@dataclass(frozen=True)
class Change:
    """A line of a diff; `sort` is add, del, same or hunk."""

    sort: str
    text: str


@dataclass(frozen=True)
class Todo:
    """A line of an agent's list; `state` is done, doing or open."""

    state: str
    text: str


Row = TypeVar("Row", Change, Todo)


@dataclass(frozen=True)
class Tool:
    """A call as people read it; `rest` is what of its input is not said otherwise."""

    title: str = ""
    command: str = ""
    diff: tuple[Change, ...] = ()
    todos: tuple[Todo, ...] = ()
    rest: Any = None
    details: str = ""


@dataclass(frozen=True)
class Call:
    """Where a tool was called, and when."""

    seq: int
    created: datetime


@dataclass
class Item:
    """An event with what belongs to it.

    `text` and `details` (JSON) as they are shown; `folded` when anything in it is shown in part.
    `call` is the id of the call that it is, `answers` of the call whose result it is, `parent`
    where the agent was called that is speaking.
    """

    event: Event
    text: str = ""
    details: str = ""
    folded: bool = False
    call: str = ""
    answers: str = ""
    took: timedelta | None = None
    by_another: bool = False
    parent: Call | None = None
    pending: bool = False
    images: Sequence[int] = ()
    tool: Tool | None = None
    answer: "Item | None" = None

    @property
    def is_more(self) -> bool:
        """Whether anything stands below the text; nothing does for most lines."""
        return self.folded or bool(self.call) or (self.event.length or 0) > TEXT_LIMIT or self.event.is_cut


def items(run: Run, events: Sequence[Event], *, at_end: bool = True, whole: int = 0) -> list[Item]:
    """Events in their order, each result inside its call where both are there.

    Long ones are folded but for the one whose number is `whole`.
    """
    shown: list[Item] = []
    calls: dict[str, Item] = {}
    for item in singly(run, events, at_end=at_end, whole=whole):
        call = calls.get(item.answers)
        if call and call.answer is None:
            call.answer = item
        else:
            shown.append(item)
        if item.call:
            calls[item.call] = item
    return shown


def singly(run: Run, events: Sequence[Event], *, at_end: bool = True, whole: int = 0) -> Iterator[Item]:
    """Events in their order, each by itself.

    Calls are pending if these are the last events of a run that goes on.
    """
    calls = calls_before(run, events)
    for event in events:
        item = item_of(event, calls, Fold(whole=event.seq == whole))
        if item.call:
            calls[item.call] = Call(event.seq, event.created)
            item.pending = at_end and not run.is_terminal
        yield item


class Fold:
    """Shortens what is long, and knows afterwards whether anything was."""

    def __init__(self, *, whole: bool = False) -> None:
        self.whole = whole
        self.used = False

    def text(self, text: str, lines: int = LISTING[0], characters: int = LISTING[1]) -> str:
        """The first lines of a long text."""
        if self.whole or (len(text) <= characters and text.count("\n") < lines):
            return text
        self.used = True
        return "\n".join(text[:characters].split("\n", lines)[:lines])

    def rows(self, rows: tuple[Row, ...]) -> tuple[Row, ...]:
        """The first of many lines."""
        shown, length = LISTING
        if self.whole or (len(rows) <= shown and sum(len(row.text) for row in rows) <= length):
            return rows
        self.used = True
        return tuple(replace(row, text=row.text[: length // 10]) for row in rows[:shown])

    def tool(self, tool: Tool) -> Tool:
        """A call whose every part is short."""
        return replace(
            tool,
            title=self.text(plain(tool.title), 3, 500),
            command=self.text(plain(tool.command)),
            diff=self.rows(tool.diff),
            todos=self.rows(tool.todos),
            details=self.text(pretty(tool.rest)) if tool.rest else "",
        )


def item_of(event: Event, calls: Mapping[str, Call], fold: Fold) -> Item:
    """One event as it is shown."""
    item = Item(event)
    enrich(item, calls, fold)
    # What is read as prose is folded later: a report has more lines than a listing has.
    sizes = PROSE if event.payload and event.kind in (Event.Kind.TEXT, Event.Kind.RESULT) else LISTING
    item.text = fold.text(plain(event.text), *sizes)
    item.folded = fold.used
    return item


def enrich(item: Item, calls: Mapping[str, Call], fold: Fold) -> None:
    """Add what the JSON of an event says; most are plain lines and have none."""
    event = item.event
    if event.kind == Event.Kind.SYSTEM and event.payload:
        item.details = fold.text(pretty(event.payload))
    if not isinstance(event.payload, dict):
        return
    parent = event.payload.get("parent_tool_use_id")
    item.by_another = bool(parent) or event.payload.get("isSidechain") is True
    item.parent = calls.get(identifier(parent))
    if event.kind == Event.Kind.TOOL_USE:
        item.call, item.tool = identifier(block(event).get("id")), fold.tool(tool_of(event))
    elif event.kind == Event.Kind.TOOL_RESULT:
        item.answers = identifier(block(event).get("tool_use_id"))
        call = calls.get(item.answers)
        item.images = images(event)
        item.took = event.created - call.created if call else None


def block(event: Event) -> dict[str, Any]:
    """The content block that an event came from; empty when there is none."""
    found = event.payload.get("block") if isinstance(event.payload, dict) else None
    return found if isinstance(found, dict) else {}


def identifier(value: object) -> str:
    """The id of a call, if it can be one; empty otherwise."""
    return value if isinstance(value, str) and IDENTIFIER.fullmatch(value) else ""


def wanted(events: Sequence[Event]) -> set[str]:
    """The calls that these events speak of."""
    bodies = [event.payload for event in events if isinstance(event.payload, dict)]
    named = {identifier(body.get("parent_tool_use_id")) for body in bodies}
    results = [event for event in events if event.kind == Event.Kind.TOOL_RESULT]
    return (named | {identifier(block(event).get("tool_use_id")) for event in results}) - {""}


def calls_before(run: Run, events: Sequence[Event]) -> dict[str, Call]:
    """The calls of which these events speak but which came before them; one query at most."""
    there = {identifier(block(event).get("id")) for event in events if event.kind == Event.Kind.TOOL_USE}
    missing = wanted(events) - there
    if not missing or events[0].seq == 1:
        return {}
    first = events[0].seq
    rows = run.events.filter(kind=Event.Kind.TOOL_USE, seq__lt=first, seq__gte=first - REACH)
    found = rows.order_by("seq").annotate(call=KT("payload__block__id")).values_list("call", "seq", "created")
    return {call: Call(seq, created) for call, seq, created in found if call in missing}


def images(event: Event) -> list[int]:
    """Where in a result there are pictures, by their place in its content."""
    content = block(event).get("content")
    parts = content if isinstance(content, list) else []
    return [place for place, part in enumerate(parts) if media_type(part) in IMAGES][:MOST_IMAGES]


def media_type(part: Any) -> str:
    """What a part of a result says that it is; empty when it is no picture that is sent along."""
    source = part.get("source") if isinstance(part, dict) and part.get("type") == "image" else None
    is_sent = isinstance(source, dict) and source.get("type") == "base64"
    return str(source.get("media_type")) if is_sent and source else ""


def picture(part: Any) -> tuple[bytes, str] | None:
    """The bytes of a picture with the type that they have themselves, whatever the agent says.

    None for all other types, SVG among them, which is a program in disguise.
    """
    if media_type(part) not in IMAGES:
        return None
    try:
        content = b64decode(str(part["source"].get("data")), validate=True)
    except ValueError:
        return None
    return next(((content, kind) for kind, magic in IMAGES.items() if magic.match(content)), None)


def tool_of(event: Event) -> Tool:
    """A call for people: well-known tools in their own way, all others as JSON."""
    given = block(event).get("input")
    reader = TOOLS.get(event.text)
    found = reader(dict(given)) if reader and isinstance(given, dict) else None
    return found or Tool(rest=given)


def taken(given: dict[str, Any], *names: str) -> list[str] | None:
    """These texts, removed from an input; None if one of them is not there or no text."""
    values = [given.pop(name, None) for name in names]
    return values if all(isinstance(value, str) for value in values) else None


def bash(given: dict[str, Any]) -> Tool | None:
    """A command line, with what it is for."""
    title = given.pop("description", "")
    texts = taken(given, "command")
    return Tool(title=str(title), command=texts[0], rest=given) if texts else None


def file(given: dict[str, Any]) -> Tool | None:
    """A file by its path."""
    texts = taken(given, "file_path")
    return Tool(title=texts[0], rest=given) if texts else None


def write(given: dict[str, Any]) -> Tool | None:
    """A new file: every line is added."""
    texts = taken(given, "file_path", "content")
    return Tool(title=texts[0], diff=tuple(changes("", texts[1])), rest=given) if texts else None


def edit(given: dict[str, Any]) -> Tool | None:
    """One replacement in a file."""
    texts = taken(given, "file_path", "old_string", "new_string")
    return Tool(title=texts[0], diff=tuple(changes(*texts[1:])), rest=given) if texts else None


def multi_edit(given: dict[str, Any]) -> Tool | None:
    """Several replacements in a file."""
    texts, edits = taken(given, "file_path"), given.pop("edits", None)
    if not texts or not isinstance(edits, list) or not all(isinstance(each, dict) for each in edits):
        return None
    pairs = [(dict(each), taken(dict(each), "old_string", "new_string")) for each in edits]
    if not all(pair for _, pair in pairs):
        return None
    diff = [change for _, pair in pairs if pair for change in changes(*pair)]
    others = [
        {key: each[key] for key in each if key not in ("old_string", "new_string")} for each, _ in pairs
    ]
    rest = given | ({"edits": others} if any(others) else {})
    return Tool(title=texts[0], diff=tuple(diff), rest=rest)


def todo_list(given: dict[str, Any]) -> Tool | None:
    """What the agent means to do, and how far it is."""
    entries = given.pop("todos", None)
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        return None
    found = [
        Todo(STEPS.get(str(each.get("status")), "open"), str(each.get("content", ""))) for each in entries
    ]
    return Tool(todos=tuple(found), rest=given)


def changes(old: str, new: str) -> Iterator[Change]:
    """The lines of a diff, without the names of files."""
    before, after = old.splitlines(), new.splitlines()
    if not before or not after or len(before) + len(after) > COMPARED:
        yield from (Change("del", line) for line in before)
        yield from (Change("add", line) for line in after)
        return
    for number, line in enumerate(unified_diff(before, after, lineterm="", n=3)):
        # Two lines name files; where in the agent's text a piece begins is not known.
        if number > 2:
            yield Change(SIGNS.get(line[:1], "same"), line[1:] if line[:1] != "@" else "…")


SIGNS = {"+": "add", "-": "del", "@": "hunk"}
# By their first bytes.
IMAGES = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}
MOST_IMAGES = 20
STEPS = {"completed": "done", "in_progress": "doing"}
TOOLS = {
    "Bash": bash,
    "Read": file,
    "NotebookRead": file,
    "Write": write,
    "Edit": edit,
    "MultiEdit": multi_edit,
    "TodoWrite": todo_list,
}
