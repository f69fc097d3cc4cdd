"""Test an agent's stored configuration."""

import sys
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from agents import trial
from agents.management.terminal import as_text, find_agent, finding_lines


class Command(BaseCommand):
    """The same as the button on the agent's form, in this process instead of a worker's."""

    help = "Test what runs of an agent need. Exit code 1 if something would make them fail."

    def add_arguments(self, parser: CommandParser) -> None:
        """NAME [--json]."""
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--json", action="store_true", help="print a list of objects")

    def handle(self, *, name: str, json: bool, **_: Any) -> None:
        """Print the findings."""
        findings = list(trial.examine(find_agent(name)))
        if json:
            self.stdout.write(as_text([asdict(finding) for finding in findings]))
        else:
            self.stdout.write("\n".join(line for finding in findings for line in finding_lines(finding)))
        if any(finding.status == "fail" for finding in findings):
            sys.exit(1)
