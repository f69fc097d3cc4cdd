"""The line in this user's crontab that looks at the clock each minute, and the script that it calls.

django-crontab makes the line, finds it among others, and calls `tick` when cron does. It neither reads nor
writes: it would replace a crontab that it could not read.
"""

import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from sys import executable

from django.conf import settings
from django.db import DatabaseError
from django_crontab.crontab import Crontab

from agents import crontab, jobs, machine
from agents.crontab import CrontabError
from agents.models import Beat
from agents.runtimes.host import write_files
from agents.runtimes.layout import make_private
from herdweb.environment import BASE_DIR, Environment

SCRIPT, LOG, OLD_LOG = "cron.sh", "cron.log", "cron.log.1"
# In bytes; the log before it is kept as well.
LOG_LIMIT = 512 * 1024
# In seconds; what takes longer hangs, and the next one has begun.
TICK_LIMIT = 300
# What cron has to be told because its environment is empty: our variables, the engine, PostgreSQL's client.
PASSED = re.compile(f"{'|'.join(name.upper() for name in Environment.model_fields)}|PG[A-Z]+")
# Of the site alone, and often given for one start.
UNPASSED = {"PORT"}
# What cron or django-crontab would take for something else, outside the quotes of the shell.
SPELT = {"'": r"'\''", "%": r"'\%'", "#": "'\"$(printf '\\043')\"'"}
DAEMONS = {"cron", "crond", "fcron"}
PROCESSES = Path("/proc")


def tick() -> None:
    """What cron calls: the same as the ticker does each second."""
    jobs.tick(source=Beat.Source.CRON)


class Table(Crontab):  # type: ignore[misc]
    """Lines of a crontab, in which django-crontab looks for ours."""

    def __init__(self, lines: Sequence[str] = ()) -> None:
        super().__init__(verbosity=0, readonly=True)
        self.crontab_lines: list[str] = list(lines)
        self.settings.PYTHON_EXECUTABLE = "/bin/sh"
        self.settings.DJANGO_MANAGE_PATH = quoted(folder() / SCRIPT)


@dataclass(frozen=True)
class Status:
    """What there is: our lines, whether line and script are those of today, a daemon, the last tick.

    `daemon` is None where the processes of others cannot be seen.
    """

    lines: tuple[str, ...]
    is_current: bool
    daemon: bool | None
    beat: Beat

    @property
    def is_missed(self) -> bool:
        """Whether it should tick and cannot, unless it does on another machine."""
        elsewhere = self.beat.host not in ("", machine.name()) and not self.beat.is_late()
        return bool(self.beat.expected_since) and not self.lines and not elsewhere


def status() -> Status:
    """Look at everything; raises CrontabError when the crontab cannot be read."""
    lines = ours(split(crontab.read()))
    beat = Beat.objects.filter(source=Beat.Source.CRON).first() or Beat(source=Beat.Source.CRON)
    current = lines == [line()] and installed_script() == script()
    return Status(tuple(lines), current, daemon(), beat)


def install() -> bool:
    """Have cron tick each minute; False when it does already. After a CrontabError all is as before."""
    check_owner()
    with crontab.alone():
        before = crontab.read()
        found = ours(split(before))
        is_new = Beat.expect(Beat.Source.CRON, wanted=True)
        if found == [line()] and installed_script() == script():
            return False
        try:
            write_script()
            change(before, [line()])
        except (CrontabError, OSError):
            if not found:
                forget()
            if is_new:
                Beat.expect(Beat.Source.CRON, wanted=False)
            raise
    return True


def remove() -> bool:
    """Leave the crontab as if we had never been there; False when we were not in it.

    After a CrontabError the line is where it was, after a DatabaseError it is gone.
    """
    try:
        with crontab.alone():
            before = crontab.read()
            found = bool(ours(split(before)))
            change(before, [])
        forget()
    except CrontabError:
        # Whatever became of the crontab, nobody waits for cron any more.
        with suppress(DatabaseError):
            Beat.expect(Beat.Source.CRON, wanted=False)
        raise
    Beat.expect(Beat.Source.CRON, wanted=False)
    return found


def change(before: bytes | None, wanted: list[str]) -> None:
    """Have these lines and no others of ours in the crontab, whose other lines stay as they are."""
    others = without_ours(split(before))
    if ours(split(before)) == wanted:
        return
    after = "".join([*others, *wanted]).encode(errors="surrogateescape")

    def right(now: bytes | None) -> bool:
        lines = split(now)
        return without_ours(lines) == others and ours(lines) == wanted

    crontab.replace(before, after or None, right)


# The line.


def line() -> str:
    """Ours, as django-crontab makes it."""
    table = Table()
    table.add_jobs()
    return "".join(table.crontab_lines)


def without_ours(lines: list[str]) -> list[str]:
    """The lines of others, as django-crontab leaves them."""
    table = Table(lines)
    table.remove_jobs()
    return table.crontab_lines


def ours(lines: list[str]) -> list[str]:
    """The lines that it would remove."""
    return [each for each in lines if not without_ours([each])]


def split(content: bytes | None) -> list[str]:
    """Lines, whatever bytes are in them; cron ends each with a line feed and nothing else."""
    lines = (content or b"").decode(errors="surrogateescape").split("\n")
    return [f"{each}\n" for each in (lines if lines[-1] else lines[:-1])]


def quoted(path: Path) -> str:
    """For a shell, by way of cron and django-crontab."""
    text = os.fsencode(path).decode(errors="surrogateescape")
    if "\n" in text:
        raise CrontabError("The state directory has a line break in its path, which no crontab can name.")
    return f"'{''.join(SPELT.get(each, each) for each in text)}'"


# The script.


def folder() -> Path:
    """Where the script is, and its log."""
    return Path(settings.HERDWEB_STATE_DIR)


def script() -> bytes:
    """Sets what the settings are made of, and calls manage.py with its own arguments."""
    lines = [
        "#!/bin/sh",
        "# Made by `manage.py cron install` and called by cron each minute. It may hold passwords.",
        "umask 077",
        f"log={shlex.quote(str(folder() / LOG))}",
        f'if [ "$(wc -c <"$log")" -gt {LOG_LIMIT} ]; then mv -f "$log" "$log.1"; fi 2>/dev/null',
        'exec </dev/null >>"$log" 2>&1',
        *(f"export {name}={shlex.quote(value)}" for name, value in variables().items()),
        f"cd {shlex.quote(str(BASE_DIR))} || exit",
        f'exec timeout -k 10 {TICK_LIMIT} {shlex.quote(executable)} manage.py "$@"',
    ]
    return os.fsencode("\n".join([*lines, ""]))


def variables() -> dict[str, str]:
    """The settings of this process, as it was given them."""
    given = {name.upper(): value for name, value in sorted(os.environ.items())}
    known = {name: text for name, text in given.items() if PASSED.fullmatch(name) and name not in UNPASSED}
    return {**known, "HERDWEB_STATE_DIR": str(folder())}


def installed_script() -> bytes:
    """What is there now; empty if there is none."""
    try:
        return (folder() / SCRIPT).read_bytes()
    except OSError:
        return b""


def write_script() -> None:
    """In one step, because cron may call it right now."""
    draft = f".{SCRIPT}.{os.getpid()}"
    write_files(folder(), {draft: script()})
    (folder() / draft).replace(folder() / SCRIPT)


def forget() -> None:
    """Remove what only cron needed; copies of crontabs stay."""
    for name in (SCRIPT, LOG, OLD_LOG):
        (folder() / name).unlink(missing_ok=True)


def check_owner() -> None:
    """Refuse to tick as another user than the one whose files these are."""
    make_private(folder())
    owner = folder().stat().st_uid
    if owner != os.getuid():
        raise CrontabError(
            f"The state directory {folder()} belongs to uid {owner}, and this is uid {os.getuid()}.",
            "Install it as the user that herdweb runs as.",
        )


def daemon() -> bool | None:
    """Whether a cron daemon runs on this machine; None where that cannot be seen."""
    if not name_of(PROCESSES / "1"):
        return None
    return any(name_of(each) in DAEMONS for each in PROCESSES.iterdir() if each.name.isdigit())


def name_of(process: Path) -> str:
    """What a process is called; nothing if it has ended or belongs to others who hide it."""
    try:
        name, _, state = (process / "stat").read_text(errors="replace").partition("(")[2].rpartition(") ")
    except OSError:
        return ""
    return "" if state.startswith("Z") else name
