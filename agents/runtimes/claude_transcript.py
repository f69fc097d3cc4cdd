"""Claude Code's transcripts, read tolerantly: every line is accounted for, and nothing raises.

One file a session, `.claude/projects/<working directory>/<session>.jsonl`, one JSON object a line,
as 2.1 writes them (and 1.0 did): `user` and `assistant` lines are the conversation, a message with
several blocks being several lines with one message id; `system` lines note what happened, a
compaction for example; `attachment`, `queue-operation`, `api-request` and others are the program's
own notes. A fork begins with a copy of the other's lines. Sub-agents have files of their own,
`<session>/subagents/agent-<id>.jsonl`; older versions wrote their lines between the others.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, BinaryIO, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from agents.runtimes.streamjson import LARGEST_COUNT, amount, count, json_object, read
from agents.runtimes.types import Entry, Message, Speaker, Transcript, TranscriptFacts

# A longer line is not parsed; the API itself takes 32 MB in a request.
LONGEST_LINE = 32 * 1024**2
# Of a line that cannot be read so much is kept with its event; the whole stays in the file.
KEPT_OF_LINE = 64 * 1024
MOST_PROBLEMS = 100
# The lines of one message stand close together, and a tool's result soon follows its call.
REMEMBERED_MESSAGES, REMEMBERED_TOOLS = 1000, 1000
TEXT_LENGTH = 64 * 1024
FIRST_YEAR, LAST_YEAR = 2000, 2200
INTERRUPTED = "[Request interrupted by user"
SYNTHETIC = "<synthetic>"
# What the program says in a person's place.
NOT_A_PERSON = ("<local-command-", "<command-", "<bash-", "<task-notification>", "<system-reminder>")


def moment(value: datetime) -> datetime:
    """A time that databases and time zones can deal with."""
    if not FIRST_YEAR <= value.year < LAST_YEAR:
        raise ValueError(f"should be between {FIRST_YEAR} and {LAST_YEAR}")
    return value if value.tzinfo else value.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(moment)]
# Anything that is no count counts nothing; a wrong number spoils no message.
Count = Annotated[int, BeforeValidator(lambda value: count(value) or 0)]


class Kept(BaseModel):
    """Fields that nobody knows yet are kept."""

    model_config = ConfigDict(extra="allow")


class Used(Kept):
    """What a message cost in tokens; the numbers of a message's last line count."""

    input_tokens: Count = 0
    cache_creation_input_tokens: Count = 0
    cache_read_input_tokens: Count = 0
    output_tokens: Count = 0

    @property
    def both(self) -> tuple[int, int]:
        """Everything that was read, and everything that was written."""
        read = self.input_tokens + self.cache_creation_input_tokens + self.cache_read_input_tokens
        return read, self.output_tokens


class Block(Kept):
    """A part of a message: text, thinking, an image, a tool's call or its result."""

    type: str
    text: str | None = None
    id: str | None = None
    name: str | None = None
    tool_use_id: str | None = None


class Said(Kept):
    """A message as the API has it."""

    id: str | None = None
    model: str | None = None
    content: str | list[Block | str] | None = None
    usage: Used | None = None

    @property
    def blocks(self) -> list[Block]:
        """Its parts; a plain text is one."""
        content = [self.content] if isinstance(self.content, str) else self.content or []
        return [Block(type="text", text=part) if isinstance(part, str) else part for part in content]

    @property
    def text(self) -> str:
        """What a person reads of it."""
        return "\n".join(block.text for block in self.blocks if block.type == "text" and block.text)


class Line(Kept):
    """What any line may have."""

    model_config = ConfigDict(extra="allow", alias_generator=to_camel, populate_by_name=True)

    type: str
    subtype: str | None = None
    uuid: str | None = None
    parent_uuid: str | None = None
    logical_parent_uuid: str | None = None
    session_id: str | None = None
    agent_id: str | None = None
    timestamp: Moment | None = None
    cwd: str | None = None
    version: str | None = None
    is_sidechain: bool | None = None
    is_meta: bool | None = None


class Turn(Line):
    """A `user` or `assistant` line."""

    message: Said
    is_compact_summary: bool | None = None
    is_visible_in_transcript_only: bool | None = None
    is_api_error_message: bool | None = None
    # Standard output has this one instead of `isSidechain`.
    parent_tool_use_id: str | None = Field(default=None, alias="parent_tool_use_id")

    @property
    def aside(self) -> bool:
        """Whether a sub-agent says it, or hears it."""
        return bool(self.is_sidechain or self.parent_tool_use_id)

    @property
    def speaker(self) -> Speaker:
        """Who really says it; the program itself speaks in a person's place."""
        if self.type == "assistant":
            # What the program makes up for the API's sake is nobody's, but for errors.
            made_up = self.message.model == SYNTHETIC and not self.is_api_error_message
            return "" if made_up else "agent"
        if any(block.type.endswith("tool_result") for block in self.message.blocks):
            return "tool"
        if self.is_meta or self.is_compact_summary or self.is_visible_in_transcript_only:
            return ""
        return "" if self.message.text.lstrip().startswith(NOT_A_PERSON) else "person"


class Summary(Line):
    """The title that older versions gave a conversation."""

    summary: str


class AITitle(Line):
    """The title that the model gave it."""

    ai_title: str


class CustomTitle(Line):
    """The title that a person gave it."""

    custom_title: str


class CostState(Line):
    """What the session has cost so far, all its runs together."""

    total_cost_usd: float | None = Field(default=None, alias="totalCostUSD")


KINDS: dict[str, type[Line]] = {
    "user": Turn,
    "assistant": Turn,
    "summary": Summary,
    "ai-title": AITitle,
    "custom-title": CustomTitle,
    "cost-state": CostState,
}


class RawLine(NamedTuple):
    """A line of a file; `raw` is only its beginning when it is longer than a line may be."""

    number: int
    offset: int
    length: int
    raw: bytes


def raw_lines(file: BinaryIO) -> Iterator[RawLine]:
    """The lines of a file, none of which takes more memory than the longest allowed."""
    number = offset = 0
    while raw := file.readline(LONGEST_LINE):
        length, last = len(raw), raw
        while not last.endswith(b"\n") and (last := file.readline(LONGEST_LINE)):
            length += len(last)
        number += 1
        yield RawLine(number, offset, length, raw)
        offset += length


class ClaudeTranscript(Transcript):
    """Goes through a transcript line by line and adds up what it tells."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.tally = Tally()

    def __iter__(self) -> Iterator[Entry]:
        """Every line, blank and broken ones included."""
        for line in raw_lines(self.file):
            entry = self._entry(line)
            self.tally.lines = line.number
            if entry.problem:
                self.tally.complain(line.number, entry.problem)
            yield entry

    def facts(self) -> TranscriptFacts:
        """What the lines so far say together."""
        return self.tally.facts()

    def _entry(self, line: RawLine) -> Entry:
        entry = Entry(line.number, line.offset, line.length)
        text, problem = decoded(line)
        if not line.raw.strip():
            return entry
        item = json_object(text) if line.length == len(line.raw) else None
        if item is None:
            problem = problem or unreadable(line)
            return entry._replace(messages=(Message("text", text[:KEPT_OF_LINE]),), problem=problem)
        entry = entry._replace(messages=tuple(read(item)), problem=problem)
        try:
            return self._understood(entry, KINDS.get(str(item["type"]), Line).model_validate(item))
        except ValidationError as error:
            return entry._replace(problem=problem or first_problem(error))

    def _understood(self, entry: Entry, line: Line) -> Entry:
        self.tally.add(line)
        speaker = line.speaker if isinstance(line, Turn) else ""
        aside = isinstance(line, Turn) and line.aside
        return entry._replace(at=line.timestamp, id=line.uuid or "", speaker=speaker, aside=aside)


def decoded(line: RawLine) -> tuple[str, str]:
    """The text of a line, and what is wrong with its bytes."""
    raw = line.raw.rstrip(b"\r\n")
    if raw and not raw.strip(b"\0"):
        return "", "It holds nothing but NUL bytes."
    try:
        return raw.decode().replace("\x00", ""), ""
    except UnicodeDecodeError:
        # The end of a piece may be in the middle of a character; then its length is what is wrong.
        problem = "It holds bytes that are not UTF-8." if line.length == len(line.raw) else ""
        return raw.decode("utf-8", "replace").replace("\x00", ""), problem


def unreadable(line: RawLine) -> str:
    """Why a line is no JSON object, in words."""
    if line.length > len(line.raw):
        return f"It has {line.length} bytes; lines of up to {LONGEST_LINE} are read."
    if line.raw.endswith(b"\n"):
        return "It is not a JSON object with a type."
    return "The file ends in the middle of it."


def first_problem(error: ValidationError) -> str:
    """The first field that is not as it should be."""
    found = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in found["loc"])[:200]
    return f"{place}: {found['msg']}."


class Tally:
    """Adds up lines in bounded memory, whatever their number."""

    def __init__(self) -> None:
        self.lines = 0
        self.malformed = 0
        self.problems: list[tuple[int, str]] = []
        self.values: dict[str, Any] = {}
        self.titles: dict[str, str] = {}
        self.used: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self.tools: OrderedDict[str, str] = OrderedDict()
        self.counts: Counter[str] = Counter()
        self.tokens = [0, 0]

    def complain(self, number: int, problem: str) -> None:
        """A line that could not be read, or not wholly."""
        self.malformed += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append((number, problem))

    def add(self, line: Line) -> None:
        """Take from a line what it says of the whole."""
        self._place(line)
        if isinstance(line, Turn):
            self._turn(line)
        elif isinstance(line, CostState):
            self.values["cost_usd"] = amount(line.total_cost_usd)
        elif line.subtype == "compact_boundary":
            self.counts["compactions"] += 1
        else:
            self._title(line)

    def facts(self) -> TranscriptFacts:
        """The sums so far."""
        titles = (self.titles.get(kind) for kind in ("custom-title", "ai-title", "summary"))
        return TranscriptFacts(
            lines=self.lines,
            malformed=self.malformed,
            problems=tuple(self.problems),
            title=next((title for title in titles if title), ""),
            input_tokens=min(self.tokens[0], LARGEST_COUNT),
            output_tokens=min(self.tokens[1], LARGEST_COUNT),
            pending=tuple(self.tools.values()),
            **{**self.values, **self.counts},
        )

    def _place(self, line: Line) -> None:
        """Where and when; the first directory counts, and the last version."""
        for name, value in (("session", line.session_id), ("working_directory", line.cwd)):
            if value:
                self.values.setdefault(name, value)
        if line.version:
            self.values["version"] = line.version[:64]
        if line.timestamp and (line.uuid or line.type in ("user", "assistant")):
            began, ended = self.values.get("began"), self.values.get("ended")
            self.values["began"] = min(began or line.timestamp, line.timestamp)
            self.values["ended"] = max(ended or line.timestamp, line.timestamp)

    def _title(self, line: Line) -> None:
        for name in ("custom_title", "ai_title", "summary"):
            title = getattr(line, name, None)
            if isinstance(title, str) and title.strip():
                self.titles[line.type] = " ".join(title.split())[:TEXT_LENGTH]

    def _turn(self, turn: Turn) -> None:
        # Two sub-agents may use the same tool's id, so that theirs are told apart.
        side = turn.agent_id or "aside" if turn.aside else ""
        fresh = self._usage(turn.message)
        for block in turn.message.blocks:
            self._tool(side, block)
        if side:
            self.counts["asides"] += 1
        elif turn.speaker == "agent":
            self._agent(turn, fresh=fresh)
        elif turn.speaker:
            self._heard(turn)

    def _agent(self, turn: Turn, *, fresh: bool) -> None:
        said = turn.message
        self.values |= {"waiting": False, "interrupted": False, "error": bool(turn.is_api_error_message)}
        if said.text:
            self.values["answer"] = said.text[:TEXT_LENGTH]
        if said.model and said.model != SYNTHETIC:
            self.values["model"] = said.model[:100]
            self.counts["turns"] += fresh

    def _heard(self, turn: Turn) -> None:
        """What a person or a tool said, which the agent is to answer."""
        text = turn.message.text
        interrupted = text.startswith(INTERRUPTED)
        self.values |= {"waiting": not interrupted, "interrupted": interrupted}
        if turn.speaker == "person" and not interrupted:
            self.values.setdefault("prompt", text)
            self.counts["prompts"] += 1

    def _tool(self, side: str, block: Block) -> None:
        """A call waits for its result; the oldest are forgotten when there are very many."""
        if block.type == "tool_use" and block.id:
            self.tools[f"{side} {block.id}"] = (block.name or "")[:200]
            if len(self.tools) > REMEMBERED_TOOLS:
                self.tools.popitem(last=False)
        elif block.tool_use_id:
            self.tools.pop(f"{side} {block.tool_use_id}", None)

    def _usage(self, said: Said) -> bool:
        """Count a message once, with the largest numbers of its lines; True if it is a new one."""
        now = said.usage.both if said.usage else (0, 0)
        before = self.used.pop(said.id, None) if said.id else None
        most = max(now[0], before[0] if before else 0), max(now[1], before[1] if before else 0)
        for place in (0, 1):
            self.tokens[place] += most[place] - (before[place] if before else 0)
        if said.id:
            self.used[said.id] = most
            if len(self.used) > REMEMBERED_MESSAGES:
                self.used.popitem(last=False)
        return before is None
