"""What commands share: rows found by what was typed, text that is safe on a terminal."""

import getpass
import json
import math
import re
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar
from uuid import UUID

from django.core.management.base import CommandError
from django.db.models import QuerySet
from django.forms import BaseForm

from agents.doctor import Finding
from agents.models import Agent, Run, Session, rules

# Control characters, line separators, half characters, and what reverses the direction of text.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
PREFIX = re.compile(r"[0-9a-f]{6,32}")
POLL_SECONDS = 0.1
Found = TypeVar("Found", Run, Session)
USAGE, INTERRUPTED = 2, 130


def one_line(text: str) -> str:
    """The text with everything that could move a cursor or forge a line spelt out."""
    return UNSAFE.sub(lambda found: ESCAPES.get(found[0]) or f"\\u{ord(found[0]):04x}", text)


ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e"}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their widest cell."""
    cells = [list(head), *([one_line(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)


def as_text(value: object) -> str:
    """JSON in one line, in ASCII, so that no terminal and no locale can stumble over it."""
    return json.dumps(value)


def finding_lines(finding: Finding) -> list[str]:
    """What was found, and below it what to do."""
    first = one_line(f"{finding.status:<5} {finding.name:<17} {finding.detail}")
    return [first, one_line(f"{'':<23} → {finding.remedy}")] if finding.remedy else [first]


def find_agent(name: str, code: int = 1) -> Agent:
    """The agent of this name, or an error that lists the names there are."""
    agent = (
        Agent.objects.select_related("docker").filter(name=name).first()
        if rules.NAME.fullmatch(name)
        else None
    )
    if agent is None:
        known = ", ".join(Agent.objects.values_list("name", flat=True)) or "none yet"
        raise CommandError(one_line(f"There is no agent named {name!r}. Agents: {known}."), returncode=code)
    return agent


def find_run(text: str) -> Run:
    """The run with this id, or with an id that begins like this; never one of several."""
    return found_by_id(Run.objects.select_related("agent", "session", "container"), text, "run")


def find_session(text: str) -> Session:
    """Likewise a session."""
    return found_by_id(Session.objects.select_related("agent__docker"), text, "session")


def found_by_id(rows: QuerySet[Found], text: str, noun: str) -> Found:
    """The row whose public id begins with these digits."""
    digits = text.strip().lower().replace("-", "")
    if not PREFIX.fullmatch(digits):
        raise CommandError(
            one_line(f"{text!r} is not a {noun}'s id. Give the UUID or its first 6 or more digits.")
        )
    between = (UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f")))
    found = list(rows.filter(public_id__range=between)[:5])
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(str(row.public_id) for row in found)
        raise CommandError(f"{text} is the beginning of several {noun}s: {several}.")
    raise CommandError(f"There is no {noun} {text}.")


def assignments(fields: Sequence[str], allowed: Sequence[str]) -> dict[str, str]:
    """The texts of field=value by field; refuses what is no field, naming those that are."""
    given: dict[str, str] = {}
    for field in fields:
        name, equals, text = field.partition("=")
        if not equals:
            raise CommandError(one_line(f"{field!r} is not of the form field=value."))
        if name not in allowed:
            raise CommandError(one_line(f"There is no field {name!r}. Allowed: {', '.join(allowed)}."))
        if name in given:
            raise CommandError(f"{name} is given twice.")
        given[name] = text
    return given


def refused(headline: str, *forms: tuple[str, BaseForm], code: int = 1) -> CommandError:
    """The errors of forms, one line a field, under a line that says what did not happen."""
    lines = [
        f"{prefix}{name}: {' '.join(str(message) for message in messages)}".removeprefix("__all__: ")
        for prefix, form in forms
        for name, messages in form.errors.items()
    ]
    return CommandError("\n".join([headline, *(one_line(line) for line in lines)]), returncode=code)


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """An argument's type: a whole number in a range."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
            raise ArgumentTypeError(f"{one_line(text)} is not a whole number from {low} to {high}.")
        return int(text)

    return number


def operator() -> str:
    """Who asks, for the records: the user of this terminal."""
    try:
        return f"{getpass.getuser()} (command)"
    except (OSError, KeyError):
        return "command"


def changes(
    run: Run, patience: float = math.inf, complain: Callable[[], None] | None = None
) -> Iterator[Run]:
    """Read the run until it has ended; yields it at once and after each change of state or reason.

    Calls `complain` once when nothing has begun after `patience` seconds.
    """
    seen, late = ("", ""), time.monotonic() + patience
    while True:
        run.refresh_from_db(fields=["state", "reason"])
        if (run.state, run.reason) != seen:
            seen = (run.state, run.reason)
            yield run
        if run.is_terminal:
            return
        if complain and run.state in Run.PENDING and time.monotonic() > late:
            complain()
            complain = None
        time.sleep(POLL_SECONDS)
