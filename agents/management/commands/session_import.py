"""Take over conversations that were held elsewhere."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from agents import foreign
from agents.management.terminal import as_text, find_agent, one_line, operator
from agents.runtimes import RunError


class Command(BaseCommand):
    """Each transcript becomes a session with one run; what is there already stays as it is."""

    help = (
        "Import transcripts of Claude Code that were made outside herdweb as sessions of an agent. PATH"
        " is a ~/.claude/projects folder, one project of it, or one .jsonl file. Nothing is overwritten."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """AGENT and PATH."""
        parser.add_argument("agent", metavar="AGENT")
        parser.add_argument("path", metavar="PATH", type=Path)
        parser.add_argument("--dry-run", action="store_true", help="only say what would become of each")
        parser.add_argument("--json", action="store_true", help="print one JSON object a transcript")

    def handle(self, *, agent: str, path: Path, dry_run: bool, json: bool, **_: Any) -> None:
        """By the kind of PATH."""
        self._foreign(agent, path, dry_run=dry_run, json=json)

    def _foreign(self, agent: str, path: Path, *, dry_run: bool, json: bool) -> None:
        """A line for each transcript, with its notes below it."""
        try:
            importer = foreign.Importer(find_agent(agent), operator(), dry_run=dry_run)
            for file in foreign.transcripts(path):
                report = importer.take(file)
                lines = [as_text(as_json(report))] if json else as_lines(report)
                self.stdout.write("\n".join(lines))
        except (RunError, OSError) as error:
            raise CommandError(one_line(str(error))) from error


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
