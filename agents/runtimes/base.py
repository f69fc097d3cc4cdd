"""The contract of a runtime: what to execute for an agent, and what its output means.

A runtime answers two questions without touching anything: `command(request)` says what to execute,
`parse(line)` what one line of its output means. `lines(command)` executes; here that is on the
host, and the container runner replaces only this part. `execute(request)` puts the three together.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from signal import SIGKILL, SIGTERM
from typing import Any, BinaryIO, ClassVar

from agents.runtimes.host import HostProcess
from agents.runtimes.types import (
    ENGINE_LEFT,
    FROM_THE_START,
    Command,
    Exit,
    Kept,
    Line,
    Message,
    Offsets,
    Outcome,
    Output,
    Parsed,
    Paths,
    Report,
    Request,
    Result,
    RunError,
    Stream,
    Transcript,
    Usage,
)

# Exit codes by which shells and engines say that the program could not be executed at all.
NOT_EXECUTABLE, NOT_FOUND = 126, 127
# The signals by which others end a process.
FROM_OUTSIDE = (SIGKILL, SIGTERM)

# A secret shorter than this occurs in ordinary text too often to be masked.
SHORTEST_SECRET = 6


class Runtime(ABC):
    """How one kind of agent is executed. One instance serves one run.

    Attributes that a caller may ask: `supports_resume` (a session can be continued),
    `supports_fork` (it can be copied), `supports_input` (it reads messages while it runs),
    `expects_result` (a success without a result message is none), `uses_command` (the agent's
    argument list says what to execute), `survives_worker` (another process can take it over),
    `needs_credentials` (it does nothing without one of those that workers pass on), `sums_cost` (what
    it says of money is of the whole conversation so far, that of runs before included).
    `reads` names the fields of the configuration that it reads and not every runtime does;
    `version_arguments` make its program tell its version and do nothing else, empty if none do.
    `shared` names what an agent home holds for it, directories with a slash at the end.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    supports_resume: bool = False
    supports_fork: bool = False
    supports_input: bool = False
    expects_result: bool = False
    uses_command: bool = False
    survives_worker: bool = False
    needs_credentials: bool = False
    sums_cost: bool = False
    reads: tuple[str, ...] = ()
    version_arguments: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    _process: HostProcess | None = None

    @abstractmethod
    def command(self, request: Request) -> Command:
        """Say what to execute; pure, so that the same request always gives the same command."""

    @abstractmethod
    def parse(self, line: str) -> list[Message]:
        """Say what one line of standard output means; never raises, whatever the agent printed."""

    def inside(self, paths: Paths) -> Paths:
        """The same directories as the agent's process sees them."""
        return paths

    def transcripts(self, request: Request) -> Sequence[str]:
        """Paths, relative to the home, of the files that hold the conversation of a request."""
        return ()

    def read_transcript(self, file: BinaryIO) -> Transcript | None:
        """One of these files, or standard output, line by line; nothing if nobody can read them."""
        return None

    def home_files(self, request: Request) -> Mapping[str, bytes]:
        """Files that herdweb itself writes into the home before every start, by relative path."""
        return {}

    def home_links(self, request: Request) -> Mapping[str, str]:
        """Links that lead from the home into the agent home, by relative path."""
        return {}

    def kept(self, request: Request) -> Kept | None:
        """Which hidden files of a home outlive a run; None: the home is the agent's own, whole."""
        return None

    def foreign(self, request: Request, head: bytes) -> str | None:
        """Why a transcript that begins like this is not the conversation's; empty if it is.

        None when the beginning does not say.
        """
        return ""

    def by_hand(self, request: Request) -> tuple[str, ...]:
        """What a person types to go on with the conversation in a terminal; nothing if none can."""
        return ()

    def container_line(self, request: Request) -> tuple[str, ...]:
        """`docker run …` with all that its container would be created with, to be read; empty for none.

        Of environment variables only the names.
        """
        return ()

    def encode(self, message: Mapping[str, Any]) -> bytes:
        """Put a message for a running agent into the form that it reads on standard input.

        Raises RunError for a runtime that takes no input while it runs.
        """
        raise RunError(f"{self.label} takes no input while it runs.")

    def lines(self, command: Command, since: Offsets = FROM_THE_START) -> Iterator[list[Output]]:
        """Execute on the host and yield what came since the last time, an empty list in silence.

        Ends after one `Exit`. A process on the host cannot be taken over from a dead worker.
        Raises RunError when the program cannot be started.
        """
        if command.request.adopt:
            yield [
                Exit(code=None, note="Its worker died, and a run outside a container dies with its worker.")
            ]
            return
        self._process = HostProcess(command)
        yield from self._process.lines()

    def stop(self, grace: float) -> None:
        """Ask the running agent to end, and end it after `grace` seconds; returns at once."""
        if self._process:
            self._process.stop(grace)

    def execute(self, request: Request, since: Offsets = FROM_THE_START) -> Iterator[list[Report]]:
        """Run the agent; yield batches of what happened, at least five a second, some of them empty.

        Lines come as `Parsed`, with the byte offset in the plain stream at which they begin;
        `since` says how much of each stream is known already. Of a container there is a `Usage` now
        and then. The last report is an `Exit`.
        Known secret values are masked, byte for byte, before anything sees the line.
        """
        reader = Reader(self.parse, Mask(request.secrets), since)
        for outputs in self.lines(self.command(request), since):
            yield [report for output in outputs for report in reader.read(output)]

    def outcome(self, end: Exit, result: Result | None) -> Outcome:
        """Judge an agent that ended by itself, from the engine's facts *and* its result message."""
        failure = exit_failure(end)
        if failure:
            return Outcome(ok=False, reason=with_claim(failure, result))
        outcome = claimed_outcome(result, self.expects_result)
        if outcome.ok and end.oom:
            return Outcome(ok=True, reason="Finished, but a process in it ran out of memory.", suspect=True)
        return outcome


class Reader:
    """Turns lines into parsed ones and counts where each begins."""

    def __init__(self, parse: Callable[[str], list[Message]], mask: "Mask", since: Offsets) -> None:
        self.parse = parse
        self.mask = mask
        self.offsets: dict[Stream, int] = {"stdout": since.stdout, "stderr": since.stderr}
        self._held: dict[Stream, Line] = {}

    def read(self, output: Output) -> list[Report]:
        """A line masked and parsed; what is none passes, after whatever was held back."""
        if isinstance(output, Line):
            return [self._parsed(line) for line in self._whole(output)]
        if isinstance(output, Usage):
            # Comes at any moment, also in the middle of a line: what is held back stays so.
            return [output]
        held = [self._parsed(self.mask.line(line)) for line in self._held.values()]
        self._held.clear()
        return [*held, output]

    def _whole(self, line: Line) -> list[Line]:
        """The line, masked; of one that was cut the end is held back, lest a secret is cut in two."""
        held = self._held.pop(line.stream, None)
        line = self.mask.line(Line(line.stream, held.raw + line.raw) if held else line)
        if not self.mask.forms or line.raw.endswith(b"\n"):
            return [line]
        keep = min(len(line.raw), len(self.mask.forms[0]) - 1)
        self._held[line.stream] = Line(line.stream, line.raw[len(line.raw) - keep :])
        rest = line.raw[: len(line.raw) - keep]
        return [Line(line.stream, rest)] if rest else []

    def _parsed(self, line: Line) -> Parsed:
        raw, stream = line.raw, line.stream
        text = readable(raw)
        messages = self.parse(text) if stream == "stdout" else [Message("stderr", text)]
        offset = self.offsets[stream]
        self.offsets[stream] = offset + len(raw)
        return Parsed(line, offset, tuple(messages))


class Mask:
    """Overwrites known secrets with as many asterisks, so that byte offsets stay true."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        """Take the secrets by name; very short values cannot be told from ordinary text."""
        forms = {form for value in secrets.values() for form in spellings(value)}
        self.forms = sorted(forms, key=len, reverse=True)

    def line(self, line: Line) -> Line:
        """The same line with every secret masked."""
        raw = line.raw
        for form in self.forms:
            if form in raw:
                raw = raw.replace(form, b"*" * len(form))
        return line if raw is line.raw else Line(line.stream, raw)


def spellings(value: str) -> set[bytes]:
    """The forms in which a secret shows up in output: as it is, and inside a JSON string."""
    parts = {value, *value.splitlines()}
    long_enough = {part for part in parts if len(part) >= SHORTEST_SECRET}
    escaped = {json.dumps(part, ensure_ascii=ascii)[1:-1] for part in long_enough for ascii in (True, False)}
    return {form.encode() for form in long_enough | escaped}


def readable(raw: bytes) -> str:
    """A line as text: decoded with replacement, without its newline and without NUL."""
    return raw.rstrip(b"\r\n").decode("utf-8", "replace").replace("\x00", "")


def exit_failure(end: Exit) -> str:
    """The reason in words why an end is no success by the engine's facts alone, or nothing."""
    if end.oom and end.code != 0:
        limit = f" (limit {human_size(end.memory_limit)})" if end.memory_limit else ""
        return f"Out of memory{limit}."
    if end.code == 0:
        return ""
    if end.code in (NOT_EXECUTABLE, NOT_FOUND) and end.program:
        what = "was not found" if end.code == NOT_FOUND else "cannot be executed"
        return f"The program {end.program}, or one that it called, {what} (exit code {end.code})."
    if end.note == ENGINE_LEFT:
        return f"{end.note.rstrip('.')} (exit code {end.code})."
    if end.signal in FROM_OUTSIDE:
        return f"Killed by signal {end.signal} from outside herdweb (exit code {end.code})."
    return f"Ended by signal {end.signal} (exit code {end.code})." if end.signal else f"Exit code {end.code}."


def with_claim(failure: str, result: Result | None) -> str:
    """Add what the agent itself said of its failure."""
    return f"{failure} {result.text}".strip() if result and result.is_error and result.text else failure


def claimed_outcome(result: Result | None, expected: bool) -> Outcome:
    """Judge exit code 0 by the result message."""
    if result and result.is_error:
        return Outcome(ok=False, reason=result.text or "The agent reported an error.", suspect=True)
    if result is None and expected:
        return Outcome(ok=False, reason="Exit code 0, but no result message was printed.", suspect=True)
    return Outcome(ok=True, reason="Finished.")


def human_size(size: int) -> str:
    """Bytes as people write them: 512 MB."""
    for unit, factor in (("TB", 1024**4), ("GB", 1024**3), ("MB", 1024**2), ("KB", 1024)):
        if size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size} bytes" if size != 1 else "1 byte"
