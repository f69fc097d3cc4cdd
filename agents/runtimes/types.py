"""The values that cross the border of the runtimes: plain, frozen, without Django.

Those that exist once a line are named tuples, which are made four times as fast as frozen
dataclasses; an agent may print a hundred thousand lines in a second.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Literal, NamedTuple

Stream = Literal["stdout", "stderr"]
Kind = Literal["status", "system", "text", "thinking", "tool_use", "tool_result", "stderr", "result", "error"]


class RunError(Exception):
    """An expected failure; its text is written for the person who started the run."""


class EngineAway(RunError):
    """The engine cannot be reached, or has stopped answering: nothing that is wrong with the run."""


class NotRemoved(RunError):
    """The engine did not remove the container of a run whose `Exit` was handed out; it is tried again."""


# What an engine that is stopped, or dies and is started again, does with its containers.
ENGINE_LEFT = "The Docker engine went away under it, and its container was killed."


@dataclass(frozen=True)
class DockerConfig:
    """Where an agent executes: `memory` in bytes, `cpus` in cores, `user` as uid:gid or empty.

    `keep_failed` in seconds. `container_scope` says whose an `ephemeral=False` container is.
    """

    enabled: bool = False
    image: str = ""
    network: str = "bridge"
    memory: int = 2 * 1024**3
    cpus: float = 2.0
    pids_limit: int = 512
    user: str = ""
    workspace_mode: str = "rw"
    tmpfs: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    ephemeral: bool = True
    container_scope: str = "session"
    max_containers: int = 3
    keep_failed: int = 0

    @property
    def scope(self) -> str:
        """Whose a container is that serves many runs; empty for one that serves one run."""
        return self.container_scope if self.enabled and not self.ephemeral else ""

    @property
    def outlives_run(self) -> bool:
        """Whether the container may still be there after its run."""
        return bool(self.scope) or self.keep_failed > 0


@dataclass(frozen=True)
class AgentConfig:
    """What to execute and with which rights; limits in seconds, bytes, tokens and dollars, None for none."""

    name: str
    runtime: str
    command: tuple[str, ...] = ()
    model: str = ""
    system_prompt: str = ""
    system_prompt_mode: str = "append"
    permission_mode: str = ""
    allowed_tools: tuple[str, ...] = ()
    denied_tools: tuple[str, ...] = ()
    max_turns: int | None = None
    mcp_servers: Mapping[str, Any] = field(default_factory=dict)
    setting_sources: tuple[str, ...] = ()
    working_directory: str = ""
    workspace_scope: str = "agent"
    git_url: str = ""
    git_branch: str = ""
    git_depth: int | None = None
    git_credential: str = ""
    git_push: str = ""
    time_limit: int = 3600
    idle_limit: int = 600
    cancel_grace: int = 10
    start_limit: int = 600
    wait_limit: int | None = None
    exit_grace: int = 30
    output_limit: int = 100 * 1024**2
    max_tokens: int | None = None
    max_cost: float | None = None
    session_timeout: int | None = None
    shared_home: str = "none"
    docker: DockerConfig = field(default_factory=DockerConfig)

    def as_json(self) -> dict[str, Any]:
        """The configuration as it is frozen into a run's row."""
        plain = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "mcp_servers"}
        docker = {item.name: getattr(self.docker, item.name) for item in fields(self.docker)}
        docker |= {"env": dict(self.docker.env), "labels": dict(self.docker.labels)}
        return {**plain, "mcp_servers": dict(self.mcp_servers), "docker": docker}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "AgentConfig":
        """Read a frozen configuration; a field that is newer than the row has its default."""
        docker = DockerConfig(**known(DockerConfig, stored.get("docker", {})))
        return cls(**{**known(cls, stored), "docker": docker})


def known(kind: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The stored fields that a dataclass has, lists as tuples."""
    names = {item.name for item in fields(kind)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in stored.items()
        if name in names
    }


@dataclass(frozen=True)
class Paths:
    """Absolute directories as the agent's process sees them; `shared` is the agent home, if it has one."""

    workspace: str
    home: str
    run: str
    shared: str = ""


@dataclass(frozen=True)
class Kept:
    """What of a home's hidden files is the conversation: those in `folder` whose `names` match fully."""

    folder: str
    names: str


@dataclass(frozen=True)
class Conversation:
    """The runtime's own id of a session: minted by us, continued when `resume` says so.

    With `forked_from` the conversation of that id is copied and goes on under the new one.
    """

    id: str
    resume: bool = False
    forked_from: str = ""


@dataclass(frozen=True)
class Request:
    """One run, as a runtime sees it; `paths` are those of the host until a decorator moves them.

    With `adopt` the agent has been started before: go on with it, never start it again.
    """

    run: str
    agent: AgentConfig
    prompt: str
    conversation: Conversation
    paths: Paths
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    attempt: int = 1
    adopt: bool = False


@dataclass(frozen=True)
class Command:
    """What to execute: `files` are written into the run's directory, `stdin` names one of them.

    Standard input is a file and not a text, so that a runtime which takes input while it runs can
    be given a FIFO in the same place.
    """

    argv: tuple[str, ...]
    request: Request
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdin: str = ""


@dataclass(frozen=True)
class Offsets:
    """How many bytes of each plain stream have been dealt with."""

    stdout: int = 0
    stderr: int = 0


FROM_THE_START = Offsets()


class Line(NamedTuple):
    """One line with its newline; without one if it is the last or longer than a line may be."""

    stream: Stream
    raw: bytes


@dataclass(frozen=True)
class ContainerFacts:
    """A container as the engine really made it; `limits` as applied, not as asked for."""

    engine_id: str
    name: str
    image: str
    image_digest: str
    limits: Mapping[str, Any]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Status:
    """Something that herdweb did or saw; `started` once the agent's process is on its way."""

    text: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    container: ContainerFacts | None = None
    started: bool = False


@dataclass(frozen=True)
class Exit:
    """How the process ended, as the kernel or the engine tells it.

    `code` is None when nobody knows it any more; then `note` says why. `signal` is set when a
    signal ended it. Memory in bytes; the peak is sampled, and 0 for what ended before the first
    sample. `program` is what was executed, for "not found". `note` is ENGINE_LEFT where it was killed
    and the engine could not be reached before or right after that.
    """

    code: int | None
    signal: int | None = None
    oom: bool = False
    memory_limit: int = 0
    memory_peak: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    program: str = ""
    note: str = ""


@dataclass(frozen=True)
class Usage:
    """What a live container uses at a moment; it becomes no event.

    Memory in bytes, `peak` the most so far. `cpu_percent` is 100 for one whole core, and None as
    long as there is no earlier moment to compare with.
    """

    memory: int
    cpu_percent: float | None
    at: datetime
    peak: int


Output = Line | Status | Exit | Usage


@dataclass(frozen=True)
class Result:
    """What the agent claims of its run in its last message; nothing in it is proven."""

    text: str = ""
    is_error: bool = False
    turns: int | None = None
    cost_usd: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class Spent(NamedTuple):
    """What one answer of the model used: its id, and its tokens, in and out, those from the cache too.

    `turn` is false for an answer that was given inside of another one's turn, to a sub-agent. Those out
    are as known when the answer began: Claude Code tells the rest with its result only.
    """

    message: str
    tokens: int
    turn: bool = True


class Message(NamedTuple):
    """One event of the agent: `text` for people, `payload` the JSON that it came from.

    `spent` is told by each part of an answer again, and counts once for each id.
    """

    kind: Kind
    text: str = ""
    payload: Mapping[str, Any] | None = None
    result: Result | None = None
    version: str = ""
    spent: Spent | None = None


class Parsed(NamedTuple):
    """A line with the byte offset at which it begins and the messages that it holds."""

    line: Line
    offset: int
    messages: tuple[Message, ...]


Report = Parsed | Status | Exit | Usage


@dataclass(frozen=True)
class Outcome:
    """The verdict over an ended agent; `suspect` when exit code and result contradict each other."""

    ok: bool
    reason: str
    suspect: bool = False


# Who speaks on a line of a transcript; empty for what the program notes for itself.
Speaker = Literal["", "person", "agent", "tool"]


class Entry(NamedTuple):
    """One line of a transcript: where it lies in the file, and what it says.

    `id` is the one that the line has on standard output, too, if it came there. `aside` is what a
    sub-agent said. `problem` says in words what of the line could not be read; what could be is in
    `messages` nevertheless.
    """

    number: int
    offset: int
    length: int
    messages: tuple[Message, ...] = ()
    at: datetime | None = None
    id: str = ""
    speaker: Speaker = ""
    aside: bool = False
    problem: str = ""


@dataclass(frozen=True)
class TranscriptFacts:
    """What a transcript tells of its conversation as a whole.

    `problems` are the first of `malformed` ones, by line. Tokens are those of each message once,
    `turns` the messages of the agent itself. `pending` are the tools that gave no result, `waiting`
    whether somebody spoke last who got no answer, `error` whether the last message is an error of
    the API, `interrupted` whether a person cut it off.
    """

    lines: int = 0
    malformed: int = 0
    problems: tuple[tuple[int, str], ...] = ()
    session: str = ""
    working_directory: str = ""
    title: str = ""
    version: str = ""
    model: str = ""
    prompt: str = ""
    answer: str = ""
    began: datetime | None = None
    ended: datetime | None = None
    prompts: int = 0
    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    compactions: int = 0
    asides: int = 0
    pending: tuple[str, ...] = ()
    waiting: bool = False
    error: bool = False
    interrupted: bool = False


class Transcript(ABC):
    """A conversation as its runtime keeps it; goes through its file once, a line at a time."""

    @abstractmethod
    def __iter__(self) -> Iterator[Entry]:
        """Every line, in order; never raises, whatever is in the file."""

    @abstractmethod
    def facts(self) -> TranscriptFacts:
        """What the lines so far say together."""
