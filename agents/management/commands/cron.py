"""Have cron look at the clock each minute, no longer, or say whether it does."""

import sys
from collections.abc import Iterator
from typing import Any, Literal

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from agents import cron
from agents.asjson import moment
from agents.crontab import CrontabError
from agents.doctor import Finding, last_tick
from agents.management.terminal import as_text, finding_lines, one_line

START_DAEMON = "Start it: sudo service cron start (it comes with: sudo apt-get install -y cron)"
AGAIN = "If the variables that are set now are those of the stack, give: manage.py cron install"
SEE_LOG = "Its log, and that of cron (journalctl -t CRON, or /var/log/syslog), may say why."
INSTALL = "To have it: manage.py cron install. To have it no more: manage.py cron remove"
DAEMON = {True: "runs", False: "does not run", None: "cannot be seen by this user"}


class Command(BaseCommand):
    """Only a line of our own in the crontab of this user is ever written or removed."""

    help = "Have cron start what is due as well, once a minute. Exit code 1 if it should and does not."

    def add_arguments(self, parser: CommandParser) -> None:
        """ACTION [--json]."""
        parser.add_argument("action", choices=["install", "status", "remove"])
        parser.add_argument("--json", action="store_true", help="print an object that says what there is")

    def handle(self, *, action: Literal["install", "status", "remove"], json: bool, **_: Any) -> None:
        """Do it, then tell what there is."""
        try:
            done = self.install() if action == "install" else self.remove() if action == "remove" else ""
            found = cron.status()
        except CrontabError as error:
            raise refusal(error) from error
        except OSError as error:
            raise CommandError(one_line(f"{error}.")) from error
        except DatabaseError as error:
            raise without_database(error, action) from error
        wrong = list(problems(found))
        if json:
            self.stdout.write(as_text(shown(found, wrong)))
        else:
            self.tell(done, found, wrong)
        if wrong and action == "status":
            sys.exit(1)

    def install(self) -> str:
        """What was done."""
        if cron.install():
            return (
                "Installed: cron looks at the clock each minute. Other lines of the crontab are as they were."
            )
        return "Installed already. Nothing was changed."

    def remove(self) -> str:
        """What was done."""
        if cron.remove():
            return "Removed. Other lines of the crontab are as they were."
        return "There was no line of this herdweb. The crontab was not changed."

    def tell(self, done: str, found: cron.Status, wrong: list[Finding]) -> None:
        """What was done, or a line for each fact; then what is wrong."""
        self.stdout.write(done or "\n".join(f"{name:<11} {one_line(text)}" for name, text in facts(found)))
        for each in wrong:
            self.stderr.write("\n".join(finding_lines(each)))


def facts(found: cron.Status) -> Iterator[tuple[str, str]]:
    """What there is, in words."""
    yield "installed", "yes" if found.lines else "no"
    for line in found.lines:
        yield "line", line.strip()
    yield "daemon", DAEMON[found.daemon]
    since = found.beat.expected_since
    yield "expected", f"since {since:%Y-%m-%d %H:%M:%S} UTC" if since else "no"
    yield "ticks", last_tick(found.beat)
    yield "log", f"{cron.folder() / cron.LOG}, {log_size()} bytes"


def problems(found: cron.Status) -> Iterator[Finding]:
    """What keeps cron from ticking, if it is to."""
    if found.lines and not found.is_current:
        why = "The line or its script is not what this checkout and these variables would make."
        yield Finding("line", "warn", why, AGAIN)
    if found.lines and found.daemon is False:
        yield Finding("daemon", "warn", "No cron daemon runs on this machine.", START_DAEMON)
    if found.lines and found.beat.is_late():
        yield Finding("ticks", "warn", f"It should tick each minute. {last_tick(found.beat)}", SEE_LOG)
    if found.is_missed:
        yield Finding("line", "warn", "It is expected to tick, and there is no line of ours.", INSTALL)


def shown(found: cron.Status, wrong: list[Finding]) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "installed": bool(found.lines),
        "current": found.is_current,
        "lines": [line.rstrip("\n") for line in found.lines],
        "daemon": found.daemon,
        "expected_since": moment(found.beat.expected_since),
        "last_tick": moment(found.beat.at),
        "host": found.beat.host or None,
        "log": str(cron.folder() / cron.LOG),
        "log_bytes": log_size(),
        "problems": [{"detail": each.detail, "remedy": each.remedy} for each in wrong],
    }


def log_size() -> int:
    """How much ticks have had to say."""
    log = cron.folder() / cron.LOG
    return log.stat().st_size if log.exists() else 0


def without_database(error: DatabaseError, action: str) -> CommandError:
    """That it does not answer, and what was done all the same."""
    done = "The crontab has no line of this herdweb any more. " if action == "remove" else ""
    said = one_line(f"{done}The database does not answer: {error}")
    return CommandError(f"{said}\n→ Check DATABASE_URL and the server, then: manage.py migrate")


def refusal(error: CrontabError) -> CommandError:
    """What went wrong, and below it what to do."""
    lines = [one_line(str(error)), *([one_line(f"→ {error.remedy}")] if error.remedy else [])]
    return CommandError("\n".join(lines))
