"""Start a run, and wait for its end if wanted."""

import stat
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from django.core.files.uploadedfile import UploadedFile
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.datastructures import MultiValueDict
from redis.exceptions import RedisError

from agents import bells, jobs, sessions
from agents.asjson import run_json
from agents.forms import RunForm
from agents.management.terminal import (
    INTERRUPTED,
    USAGE,
    as_text,
    changes,
    find_agent,
    one_line,
    operator,
    refused,
)
from agents.models import Run
from agents.runtimes import RunError

# A worker that is alive takes a run within milliseconds.
PATIENCE_SECONDS = 3
# Much more than a prompt may have; an endless file ends here.
READ_LIMIT = 64 * 1024**2


class Command(BaseCommand):
    """The same form and the same door as the page's."""

    help = (
        "Start a run of an agent. Exit code with --wait: 0 it succeeded, 1 it did not; 2 nothing was started;"
        " 130 interrupted, the run goes on."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """AGENT, one source of the prompt, one session at most."""
        parser.add_argument("agent", metavar="AGENT")
        prompt = parser.add_mutually_exclusive_group()
        prompt.add_argument("--prompt", metavar="TEXT", help="default: the agent's default prompt")
        prompt.add_argument("--prompt-file", metavar="F", help="read the prompt from a file")
        prompt.add_argument(
            "stdin", nargs="?", choices=["-"], metavar="-", help="read the prompt from standard input"
        )
        session = parser.add_mutually_exclusive_group()
        session.add_argument("--fresh", action="store_true", help="in a new session; the default")
        session.add_argument(
            "--continue", dest="continues", metavar="SESSION", help="go on with this session, or the last one"
        )
        session.add_argument(
            "--fork", dest="forks", metavar="SESSION", help="go on with a copy of it, or of the last one"
        )
        for name in RunForm.OVERRIDES:
            parser.add_argument(flag(name), metavar="VALUE", help="for this run only; default: the agent's")
        parser.add_argument(
            "--attach",
            action="append",
            default=[],
            metavar="FILE",
            help="give the run a file, which it finds in its workspace; may be repeated",
        )
        parser.add_argument("--priority", metavar="N", help="-10 to 10, higher first; default: the agent's")
        parser.add_argument(
            "--key",
            metavar="KEY",
            help="your own name of this request: the same one again starts nothing new",
        )
        parser.add_argument("--wait", action="store_true", help="return when the run has ended")
        parser.add_argument("--json", action="store_true", help="print the run as one JSON object")

    def run_from_argv(self, argv: list[str]) -> None:
        """A prompt is a text, also when it looks like an option."""
        super().run_from_argv(glued(argv, "--prompt"))

    def handle(self, *, agent: str, wait: bool, json: bool, **options: Any) -> None:
        """Print the run; leave with an exit code that says how it ended, if it was waited for."""
        run = submit(agent, options)
        if not json:
            self.stderr.write(one_line(which_session(run, chosen=options["fresh"])))
            self.stdout.write(f"{run.public_id}\n{run.get_absolute_url()}")
        if wait:
            self._wait(run, quiet=json)
        if json:
            run.refresh_from_db()
            self.stdout.write(as_text(run_json(run)))
        if wait and run.state != Run.State.SUCCEEDED:
            sys.exit(1)

    def _wait(self, run: Run, *, quiet: bool) -> None:
        try:
            for state in changes(run, PATIENCE_SECONDS, self._complain):
                if not quiet:
                    self.stderr.write(one_line(f"{state.state}: {state.reason}".rstrip(": ")))
        except KeyboardInterrupt:
            self.stderr.write(f"The run goes on. To end it: manage.py cancel {run.public_id}")
            sys.exit(INTERRUPTED)

    def _complain(self) -> None:
        """Say why nothing happens, if it is for want of a worker."""
        try:
            if not bells.workers():
                self.stderr.write(
                    "No worker is alive; the run starts as soon as one is (make run starts some)."
                )
        except RedisError as error:
            self.stderr.write(one_line(f"Redis cannot be reached, so no worker hears of the run: {error}"))


def submit(name: str, options: dict[str, Any]) -> Run:
    """Through the form and the one door; CommandError with a line for each refused field."""
    agent = find_agent(name, USAGE)
    mode, session = choice(options)
    typed = {name: options[name] or "" for name in RunForm.OVERRIDES}
    turn = {name: options[name] or "" for name in ("priority", "key")}
    data = {"prompt": prompt(options), "mode": mode, "session": session, **typed, **turn}
    with ExitStack() as stack:
        files = MultiValueDict({"attachments": opened(options["attach"], stack)})
        form = RunForm(agent, data, files, may_override=True)
        if not form.is_valid():
            raise refused("Nothing was started.", ("", form), code=USAGE)
        try:
            return jobs.submit(agent, trigger=Run.Trigger.COMMAND, by=operator(), **form.submission)
        except RunError as error:
            raise CommandError(one_line(f"Nothing was started. {error}"), returncode=USAGE) from error


def opened(paths: Sequence[str], stack: ExitStack) -> list[Any]:
    """The files to attach, as a browser would have sent them; open as long as the stack."""
    found = []
    for path in map(Path, paths):
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise CommandError(one_line(f"attachments: {path} is no regular file."), returncode=USAGE)
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            problem = f"attachments: {path} cannot be read: {error.strerror}."
            raise CommandError(one_line(problem), returncode=USAGE) from error
        found.append(UploadedFile(file, path.name, size=path.stat().st_size))
    return found


def choice(options: dict[str, Any]) -> tuple[str, str]:
    """How to begin, and with which session; an empty one, of a script, is not taken for none."""
    if options["continues"] is not None:
        return RunForm.CONTINUE, options["continues"]
    if options["forks"] is not None:
        return RunForm.FORK, options["forks"]
    return RunForm.NEW, ""


def flag(name: str) -> str:
    """A field as an option."""
    return "--" + name.replace("_", "-")


def which_session(run: Run, *, chosen: bool) -> str:
    """Where the run takes place; to somebody who chose nothing, also what there was to choose."""
    source = run.continues or run.forks
    if source:
        waits = sessions.verdict(source, run.agent).waits
        verb = "Continues" if run.continues else "Goes on in a copy of"
        return f"{verb} session {source.public_id} ({source}). {waits}".strip()
    newest = None if chosen else run.agent.sessions.first()
    if newest is None:
        return "In a new session."
    return f"In a new session; --continue last would go on with {newest.public_id} ({newest})."


def prompt(options: dict[str, Any]) -> str:
    """The text from wherever it is to be read; empty for the agent's own."""
    if options["stdin"]:
        return decoded(sys.stdin.buffer, "standard input")
    if options["prompt_file"] is None:
        return options["prompt"] or ""
    path = Path(options["prompt_file"])
    try:
        with path.open("rb") as file:
            return decoded(file, str(path))
    except OSError as error:
        raise CommandError(one_line(f"{path} cannot be read: {error.strerror}."), returncode=USAGE) from error


def decoded(file: BinaryIO, name: str) -> str:
    """The file's text."""
    try:
        return file.read(READ_LIMIT).decode()
    except UnicodeDecodeError as error:
        problem = f"prompt: {name} is not valid UTF-8 at byte {error.start + 1}."
        raise CommandError(one_line(problem), returncode=USAGE) from error


def glued(argv: list[str], option: str) -> list[str]:
    """The arguments with an option and what follows it as one, so that argparse takes it as it is."""
    if option not in argv[:-1]:
        return argv
    at = argv.index(option)
    return [*argv[:at], f"{option}={argv[at + 1]}", *argv[at + 2 :]]
