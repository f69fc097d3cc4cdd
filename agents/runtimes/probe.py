"""Probe: the same place and limits as a runtime's, but it only looks whether the program is there."""

import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agents.runtimes.base import Runtime
from agents.runtimes.engine import ENGINE_ERRORS
from agents.runtimes.types import (
    Command,
    EngineAway,
    Exit,
    Message,
    Parsed,
    Report,
    Request,
    Status,
)

# After this line comes what the program itself says.
MARK = "herdweb looks:"
# A program that prints more lines than this does not just tell its version.
MOST = 200
SAID_LENGTH = 300
# A shell's own commands do not count, so `command -v` would say too much.
LOOK = """\
found=
case $program in
*/*) [ -f "$program" ] && found=$program ;;
*) IFS=:
   for folder in $PATH; do
     [ -z "$found" ] && [ -f "$folder/$program" ] && [ -x "$folder/$program" ] && found=$folder/$program
   done
   unset IFS ;;
esac
[ -w . ] || echo "$mark unwritable ."
[ -n "$found" ] || exit 127
[ -x "$found" ] || exit 126
printf '%s found %s\\n' "$mark" "$found"
"""


@dataclass(frozen=True)
class Sight:
    """What was seen: `program` is its path, `said` what it printed, `denied` paths it cannot use.

    `end` is None when it was cut off for taking longer than it may.
    """

    end: Exit | None
    program: str = ""
    said: str = ""
    denied: tuple[str, ...] = ()
    started: bool = False


class Probe(Runtime):
    """Wraps a runtime: its program is looked for, and asked for its version if that is all it then does."""

    name = "probe"
    label = "Probe"

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def command(self, request: Request) -> Command:
        """A shell that looks; in the runtime's environment, without its files and its prompt."""
        inner = self.runtime.command(request)
        script = "\n".join(script_lines(inner.argv[0], self.runtime.version_arguments, targets(request)))
        return replace(inner, argv=("/bin/sh", "-c", script), files={}, stdin="")

    def parse(self, line: str) -> list[Message]:
        """Text."""
        return [Message("text", line)]


def script_lines(program: str, version: Sequence[str], mounted: Iterable[str]) -> Iterable[str]:
    """What the shell does; nothing in it comes from anywhere but through quotes."""
    yield f"mark={shlex.quote(MARK)} program={shlex.quote(program)}"
    for path in map(shlex.quote, mounted):
        yield f'[ -r {path} ] || printf "%s unreadable %s\\n" "$mark" {path}'
    yield LOOK
    if version:
        yield f'exec "$found" {shlex.join(version)}'


def targets(request: Request) -> list[str]:
    """Where the agent's mounts are in its container."""
    config = request.agent.docker
    return [entry.split(":")[1] for entry in config.mounts] if config.enabled else []


def look(runtime: Runtime, request: Request, limit: float) -> Sight:
    """Have a probe look, on the host or in a container, for at most `limit` seconds.

    Raises RunError when nothing could be started, or the engine went away. The container is removed
    before this returns.
    """
    deadline = time.monotonic() + limit
    reports: list[Report] = []
    cut = False
    try:
        for batch in runtime.execute(request):
            reports.extend([] if cut else batch)
            if not cut and (time.monotonic() > deadline or len(reports) > MOST):
                cut = True
                runtime.stop(0)
    except ENGINE_ERRORS as error:
        raise EngineAway(f"The Docker engine stopped answering: {error}") from error
    return sight(reports, cut)


def sight(reports: Sequence[Report], cut: bool) -> Sight:
    """What the lines mean."""
    lines = [message.text for report in reports if isinstance(report, Parsed) for message in report.messages]
    ours = [line.removeprefix(MARK).strip().partition(" ") for line in lines if line.startswith(MARK)]
    seen = {path: what for what, _, path in ours}
    ends = [report for report in reports if isinstance(report, Exit)]
    return Sight(
        end=None if cut or not ends else ends[-1],
        program=next((path for path, what in seen.items() if what == "found"), ""),
        said="\n".join(line for line in lines if not line.startswith(MARK))[:SAID_LENGTH],
        denied=tuple(path for path, what in seen.items() if what.startswith("un")),
        started=any(isinstance(report, Status) and report.started for report in reports),
    )
