"""Make sessions of what was brought from elsewhere."""

from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from agents import bundle, foreign
from agents.management.terminal import as_text, find_agent, one_line, operator
from agents.models import Agent
from agents.models.fields import parse_size
from agents.runtimes import RunError

TRANSCRIPT = ".jsonl"


class Command(BaseCommand):
    """By the kind of the path: a file of session_export, or transcripts made outside herdweb."""

    help = (
        "Make sessions of this agent: of a file that session_export wrote, or of transcripts that Claude Code"
        " made outside herdweb: a ~/.claude/projects folder, one project of it, or one .jsonl file."
        " Overwrites nothing."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """AGENT and PATH."""
        parser.add_argument("agent", metavar="AGENT")
        parser.add_argument("path", metavar="PATH")
        parser.add_argument(
            "--at-most",
            metavar="SIZE",
            default="4g",
            help="refuse a file that unpacks to more, like 500m or 20g; default: 4g",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="of transcripts, only say what would become of each"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object a transcript")

    def handle(self, *, agent: str, path: str, at_most: str, dry_run: bool, json: bool, **_: Any) -> None:
        """A folder or a transcript is foreign, any other file is ours."""
        found, place = find_agent(agent), Path(path)
        if place.is_dir() or place.suffix == TRANSCRIPT:
            self._foreign(found, place, dry_run=dry_run, json=json)
        elif dry_run or json:
            raise CommandError("--dry-run and --json are for transcripts: a folder, or a file *.jsonl.")
        else:
            self._ours(found, place, size(at_most))

    def _ours(self, agent: Agent, path: Path, most: int) -> None:
        """Print the session's id and the path of its page."""
        try:
            session = bundle.take_in(agent, path, operator(), most)
        except bundle.Refused as error:
            raise CommandError(one_line(f"Nothing was imported. {error}")) from error
        self.stdout.write(f"{session.public_id}\n{session.get_absolute_url()}")

    def _foreign(self, agent: Agent, path: Path, *, dry_run: bool, json: bool) -> None:
        """A line for each transcript, with its notes below it."""
        try:
            importer = foreign.Importer(agent, operator(), dry_run=dry_run)
            for file in foreign.transcripts(path):
                report = importer.take(file)
                lines = [as_text(as_json(report))] if json else as_lines(report)
                self.stdout.write("\n".join(lines))
        except (RunError, OSError) as error:
            raise CommandError(one_line(str(error))) from error


def size(text: str) -> int:
    """Bytes, as sizes are written everywhere."""
    try:
        return parse_size(text)
    except ValidationError as error:
        raise CommandError(one_line(f"--at-most: {' '.join(error.messages)}")) from error


def as_lines(report: foreign.Report) -> list[str]:
    """For people."""
    told = f"{report.verdict}: {foreign.shown(report.path)}"
    detail = f" ({report.facts.lines} lines)" if report.facts.lines else ""
    session = f" → session {report.session}" if report.session else ""
    reason = f": {report.reason}" if report.reason else ""
    return [one_line(told + detail + session + reason), *(one_line(f"    {note}") for note in report.notes)]


def as_json(report: foreign.Report) -> dict[str, Any]:
    """For programs."""
    facts = report.facts
    return {
        "path": foreign.shown(report.path),
        "verdict": report.verdict,
        "reason": report.reason,
        "session": report.session or None,
        "run": report.run or None,
        "lines": facts.lines,
        "malformed": facts.malformed,
        "turns": facts.turns,
        "notes": list(report.notes),
    }
