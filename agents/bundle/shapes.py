"""The lines of a session's file: what each may say, checked before anything believes it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from django.db.models import Model
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter

from agents import sessions
from agents.models import Event, Run, Session
from agents.models.run import RESULT_LIMIT, TEXT_LIMIT
from agents.runtimes import AgentConfig, bare

FORMAT, VERSION = "herdweb-session", 1
# A prompt and a system prompt of a megabyte each, with every character spelt out.
LINE_BYTES = 16 * 1024**2
# Bytes of a file in one line.
DATA_BYTES = 192 * 1024
LARGEST_PROMPT = 1024**2

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Small = Annotated[int, Field(ge=0, le=2**15 - 1)]
Whole = Annotated[int, Field(ge=0, le=2**31 - 1)]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Refused(Exception):
    """Why a file was not written or not taken in, for the person who asked."""


def one_of(values: Sequence[str], text: str) -> str:
    """One of the words that this herdweb knows."""
    if text not in values:
        raise ValueError(f"must be one of {', '.join(values)}")
    return text


def on_the_calendar(time: datetime) -> datetime:
    """A moment that every database and every zone can express."""
    if not 1970 <= time.year < 3000:
        raise ValueError("must be between 1970 and 3000")
    return time


def an_object(payload: Any) -> Any:
    """As an agent printed it, half characters in its keys included."""
    if payload is not None and not isinstance(payload, dict):
        raise ValueError("must be an object or null")
    return payload


Payload = Annotated[Any, AfterValidator(an_object)]
Moment = Annotated[AwareDatetime, AfterValidator(on_the_calendar)]
Config = TypeAdapter(AgentConfig)
Ended = Annotated[str, AfterValidator(lambda text: one_of([str(state) for state in Run.TERMINAL], text))]
Trigger = Annotated[str, AfterValidator(lambda text: one_of(Run.Trigger.values, text))]
Cause = Annotated[str, AfterValidator(lambda text: one_of(["", *Run.Cause.values], text))]
Failure = Annotated[str, AfterValidator(lambda text: one_of(["", *Run.Failure.values], text))]
Kind = Annotated[str, AfterValidator(lambda text: one_of(Event.Kind.values, text))]
Settings = Annotated[dict[str, Any], AfterValidator(lambda stored: Config.validate_python(stored).as_json())]


class Shape(BaseModel):
    """A line; what it does not know is an error, because the format has a version."""

    model_config = ConfigDict(extra="forbid")


class HeaderLine(Shape):
    """The first one."""

    line: Literal["header"] = "header"
    format: Literal["herdweb-session"]
    version: Literal[1]
    exported: Moment


class SessionLine(Shape):
    """The record of the session."""

    line: Literal["session"] = "session"
    id: UUID
    agent: str
    runtime: Annotated[str, Field(max_length=40)]
    title: Annotated[str, Field(max_length=200)]
    working_directory: Annotated[str, Field(max_length=1000)]
    forked_from: UUID | None
    turns: Whole
    cost_usd: Money
    input_tokens: Count
    output_tokens: Count
    created: Moment
    last_used: Moment
    files_removed_at: Moment | None = None
    files_removed_why: Annotated[str, Field(max_length=200)] = ""


class RunLine(Shape):
    """A run that has ended; its events and files follow."""

    line: Literal["run"] = "run"
    id: UUID
    config: Settings
    continues: bool
    forks: UUID | None
    prompt: Annotated[str, Field(max_length=LARGEST_PROMPT)]
    trigger: Trigger
    state: Ended
    reason: Annotated[str, Field(max_length=RESULT_LIMIT)]
    suspect: bool
    contradiction: Annotated[str, Field(max_length=RESULT_LIMIT)] = ""
    failure: Failure = ""
    priority: Annotated[int, Field(ge=-10, le=10)] = 0
    attempt: Small
    claimed_at: Moment | None = None
    stop_cause: Cause
    stop_by: Annotated[str, Field(max_length=150)]
    stop_requested_at: Moment | None
    created: Moment
    started_at: Moment | None
    finished_at: Moment | None
    deadline_at: Moment | None
    last_output_at: Moment | None
    event_count: Whole
    output_bytes: Count
    stderr_bytes: Count
    exit_code: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None
    signal: Small | None
    oom: bool
    runtime_version: Annotated[str, Field(max_length=64)]
    result: Annotated[str, Field(max_length=RESULT_LIMIT)]
    result_seen_at: Moment | None
    result_is_error: bool
    turns: Count | None
    cost_usd: Money | None
    cost_before_usd: Money = 0
    input_tokens: Count | None
    output_tokens: Count | None
    files_removed_at: Moment | None = None
    files_removed_why: Annotated[str, Field(max_length=200)] = ""


class EventLine(Shape):
    """An event of the run before it."""

    line: Literal["event"] = "event"
    seq: Annotated[int, Field(ge=1, le=2**31 - 1)]
    kind: Kind
    text: Annotated[str, Field(max_length=TEXT_LIMIT)]
    payload: Payload
    offset: Count | None
    length: Count | None
    created: Moment


class FileLine(Shape):
    """A file begins: of the run before it, or a transcript of the session."""

    line: Literal["file"] = "file"
    kind: Literal["output", "errors", "transcript"]
    path: Annotated[str, Field(max_length=1000)]


class DataLine(Shape):
    """The next bytes of the file."""

    line: Literal["data"] = "data"
    base64: Annotated[str, Field(max_length=DATA_BYTES * 2)]


class FileEndLine(Shape):
    """It was so long, and this."""

    line: Literal["file_end"] = "file_end"
    size: Count
    sha256: Hash


class EndLine(Shape):
    """The last one: the number of lines before it, and the checksum of all their bytes."""

    line: Literal["end"] = "end"
    lines: Count
    sha256: Hash


Line = HeaderLine | SessionLine | RunLine | EventLine | FileLine | DataLine | FileEndLine | EndLine
AnyLine: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="line")])


def shared(line: type[Shape], row: type[Model], other: set[str]) -> list[str]:
    """The columns that a line and its row have in common; `other` have names of their own meaning."""
    return sorted(set(line.model_fields) & {field.name for field in row._meta.fields} - other)


SESSION_COLUMNS = shared(SessionLine, Session, {"agent", "forked_from", "id"})
RUN_COLUMNS = shared(RunLine, Run, {"config", "continues", "forks", "id"})


def transcripts_of(session: Session) -> Sequence[str]:
    """Where the session's transcripts lie in a home, by its own runtime and working directory."""
    config = AgentConfig.from_json(session.agent.freeze())
    request = sessions.request_for(session, config)
    paths = replace(request.paths, workspace=session.working_directory)
    return bare(session.runtime).transcripts(replace(request, paths=paths))


def moment(time: datetime | None) -> str | None:
    """ISO 8601 with its zone."""
    return time.isoformat() if time else None
