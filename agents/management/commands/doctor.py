"""Say what keeps runs from going well."""

import sys
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from agents.doctor import examine
from agents.management.terminal import as_text, finding_lines


class Command(BaseCommand):
    """Every finding with its remedy; nothing is changed."""

    help = "Check everything that runs depend on. Exit code 1 if anything failed."
    # Reported by the doctor itself, instead of keeping it from its work.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        """--json."""
        parser.add_argument("--json", action="store_true", help="print a list of objects")

    def handle(self, *, json: bool, **_: Any) -> None:
        """Print the findings."""
        findings = list(examine())
        if json:
            self.stdout.write(as_text([asdict(finding) for finding in findings]))
        else:
            self.stdout.write("\n".join(line for finding in findings for line in finding_lines(finding)))
        if any(finding.status == "fail" for finding in findings):
            sys.exit(1)
