"""What of an agent's files is beyond its limits, and its going: in small batches, beside live runs.

Records and events stay, and say when and why their files went. The age, number and size that an agent
keeps are those of its runs that have ended; what is pinned stays and does not count.
"""

import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q, QuerySet, Sum
from django.utils import timezone

from agents import archive, machine, removal
from agents.models import Agent, Audit, Run, Session
from agents.runtimes import RunError, human_size
from agents.runtimes.disk import used

logger = logging.getLogger(__name__)

EVERY = timedelta(seconds=10)
# So many rows in one transaction, and then a pause in seconds: whoever waits for SQLite asks now and then.
BATCH, PAUSE = 50, 0.03
# So long the ticker goes on measuring, and removing of one agent, at a time.
TURN = timedelta(seconds=5)
# What has ended just now is still being looked at, archived and followed up.
GRACE = timedelta(minutes=10)
# The names that `removal.set_aside` gives; whatever else lies there is somebody else's.
ASIDE = re.compile("[0-9a-f]{32}")
# How many are measured between two looks at the clock.
MEASURED = 200


@dataclass(frozen=True)
class Limits:
    """What an agent keeps at most; None is no limit."""

    days: int | None = None
    runs: int | None = None
    size: int | None = None

    @classmethod
    def of(cls, agent: Agent) -> "Limits":
        """As the agent has them."""
        return cls(agent.keep_days, agent.keep_runs, agent.keep_bytes)

    def __bool__(self) -> bool:
        return (self.days, self.runs, self.size) != (None, None, None)

    def __str__(self) -> str:
        said = [
            counted(self.days, "day") if self.days is not None else "",
            f"the newest {counted(self.runs, 'run')}" if self.runs is not None else "",
            human_size(self.size) if self.size is not None else "",
        ]
        return ", ".join(filter(None, said)) or "everything"

    def beyond(self, *, age: timedelta, place: int = 0, total: int = 0) -> str:
        """By which rules a run goes that is the `place`-th newest, `total` bytes with all newer ones.

        What is exactly at a limit is within it.
        """
        said = (
            f"older than {counted(self.days, 'day')}"
            if self.days is not None and age > timedelta(self.days)
            else "",
            f"beyond the newest {counted(self.runs, 'run')}"
            if self.runs is not None and place > self.runs
            else "",
            f"beyond {human_size(self.size)}" if self.size is not None and total > self.size else "",
        )
        return ", ".join(filter(None, said))


@dataclass(frozen=True)
class Leaving:
    """A run or a session whose files go, and why; `at` is its end or last use."""

    pk: int
    public_id: UUID
    why: str
    size: int
    at: datetime
    # Sessions have one, if only their id.
    title: str = ""

    @property
    def kind(self) -> str:
        """What it is."""
        return "session" if self.title else "run"


@dataclass(frozen=True)
class Plan:
    """What would go, the oldest first; `kept` and `pinned` are runs with files that stay."""

    runs: Sequence[Leaving] = ()
    sessions: Sequence[Leaving] = ()
    kept: int = 0
    pinned: int = 0

    def __bool__(self) -> bool:
        return bool(self.runs or self.sessions)

    @property
    def size(self) -> int:
        """In bytes, as far as they are measured."""
        return sum(each.size for each in (*self.runs, *self.sessions))


@dataclass
class Removed:
    """What has gone, and what could not, in words."""

    runs: int = 0
    sessions: int = 0
    size: int = 0
    left: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.runs or self.sessions)

    def count(self, kind: type[Run | Session], gone: Sequence[Leaving]) -> None:
        """Add what has gone."""
        self.runs += len(gone) if kind is Run else 0
        self.sessions += len(gone) if kind is Session else 0
        self.size += sum(each.size for each in gone)

    def __str__(self) -> str:
        return f"{counted(self.runs, 'run')} and {counted(self.sessions, 'session')}, {human_size(self.size)}"


# What there is.


def with_files(agent: Agent) -> QuerySet[Run]:
    """Its runs whose files have not gone; one that never had a session never had files."""
    return agent.runs.filter(files_removed_at=None).exclude(session=None)


def keeps(agent: Agent) -> tuple[int, int]:
    """How many bytes of how many runs an agent keeps, as far as they are measured."""
    runs = with_files(agent).order_by()
    sessions = agent.sessions.filter(files_removed_at=None).order_by()
    sums = [rows.aggregate(sum=Sum("files_bytes"))["sum"] or 0 for rows in (runs, sessions)]
    return sum(sums), runs.count()


def busy(sessions: Iterable[int] | None = None) -> set[int]:
    """The sessions that a run works in, waits for, or is to fork."""
    rows = Run.objects.filter(state__in=(*Run.PENDING, *Run.LIVE))
    if sessions is not None:
        chosen = list(sessions)
        rows = rows.filter(Q(session__in=chosen) | Q(continues__in=chosen) | Q(forks__in=chosen))
    found = rows.order_by().values_list("session", "continues", "forks")
    return {session for row in found for session in row if session}


# What would go.


def plan(agent: Agent, limits: Limits | None = None, now: datetime | None = None) -> Plan:
    """What is beyond the limits, the agent's own or others to be tried out."""
    limits, now = limits or Limits.of(agent), now or timezone.now()
    survey = Survey(agent, limits, now)
    runs = list(survey.runs())
    sessions = sorted(survey.sessions(), key=lambda each: each.at)
    return Plan(runs[::-1], sessions, survey.kept, survey.pinned)


class Survey:
    """One look at all that an agent keeps: first its runs from the newest to the oldest, then sessions."""

    def __init__(self, agent: Agent, limits: Limits, now: datetime) -> None:
        self.agent, self.limits, self.now = agent, limits, now
        self.busy = busy()
        rows = agent.sessions.filter(files_removed_at=None).order_by()
        self.homes = {row["pk"]: row for row in rows.values(*SESSION_COLUMNS)}
        self.kept = self.pinned = 0
        # Sessions with a run that stays; and by which rules the newest run of the others goes.
        self.staying: set[int] = set()
        self.reasons: dict[int, str] = {}

    def runs(self) -> Iterator[Leaving]:
        """Those that go."""
        place = total = 0
        weighed: set[int] = set()
        rows = with_files(self.agent).order_by("-finished_at", "-id").values_list(*RUN_COLUMNS)
        for pk, public_id, session, ended, pinned, size in rows.iterator():
            home = self.homes.get(session, {})
            why = ""
            if pinned or home.get("pinned"):
                self.pinned += 1
            elif ended:
                # A home counts with the newest run in it: it goes no earlier than that.
                place, total = place + 1, total + (size or 0)
                total += 0 if session in weighed else home.get("files_bytes") or 0
                weighed.add(session)
                why = self.limits.beyond(age=self.now - ended, place=place, total=total)
            if why and session not in self.busy and ended < self.now - GRACE:
                self.reasons.setdefault(session, why)
                yield Leaving(pk, public_id, why, size or 0, ended)
            else:
                self.kept += 1
                self.staying.add(session)

    def sessions(self) -> Iterator[Leaving]:
        """Those of which no run stays."""
        free = [
            row
            for pk, row in self.homes.items()
            if not row["pinned"] and pk not in self.busy and pk not in self.staying
        ]
        reasons = self.reasons | self.alone([row for row in free if row["pk"] not in self.reasons])
        for row in free:
            why, at = reasons.get(row["pk"], ""), row["last_used"]
            if why and at < self.now - GRACE:
                title = row["title"] or str(row["public_id"])
                yield Leaving(row["pk"], row["public_id"], why, row["files_bytes"] or 0, at, title)

    def alone(self, rows: Sequence[dict[str, Any]]) -> dict[int, str]:
        """Of sessions without any files of runs: why those went, or that they are old themselves."""
        if not self.limits:
            return {}
        found = {row["pk"]: self.limits.beyond(age=self.now - row["last_used"]) for row in rows}
        keys = list(found)
        for first in range(0, len(keys), AT_ONCE):
            runs = Run.objects.filter(session__in=keys[first : first + AT_ONCE]).order_by("id")
            found |= dict(runs.values_list("session", "files_removed_why"))
        return found


# So many keys fit into one question.
AT_ONCE = 500
RUN_COLUMNS = ("pk", "public_id", "session", "finished_at", "pinned", "files_bytes")
SESSION_COLUMNS = ("pk", "public_id", "title", "last_used", "pinned", "files_bytes")


# What goes.


def carry_out(agent: Agent, found: Plan, who: Any = None, *, until: float | None = None) -> Removed:
    """Remove what the plan says, batch by batch; what is needed again by then stays.

    `who` is noted in the audit trail; `until` is a time of the monotonic clock, after which the rest
    is left for another turn. Any number may do the same at once.
    """
    done, who = Removed(), who or f"retention of agent {agent.name}"
    work: tuple[tuple[type[Run | Session], Sequence[Leaving]], ...]
    work = (Run, found.runs), (Session, found.sessions)
    for kind, rows in work:
        for first in range(0, len(rows), BATCH):
            if until is not None and time.monotonic() > until:
                return done
            if first:
                time.sleep(PAUSE)
            remove(kind, agent, rows[first : first + BATCH], who, done)
    return done


def remove(
    kind: type[Run | Session], agent: Agent, batch: Sequence[Leaving], who: Any, done: Removed
) -> None:
    """Set the files of a batch aside and say so in the rows, in one short transaction; then delete them.

    Whoever dies in between leaves a row that says nothing yet, which the next turn mends, and files
    aside, which it deletes.
    """
    aside: list[Path] = []
    with transaction.atomic():
        going = free(kind, [each.pk for each in batch])
        gone = [each for each in batch if each.pk in going and set_aside(kind, each, aside, done.left)]
        for why in {each.why for each in gone}:
            rows = kind._default_manager.filter(pk__in=[each.pk for each in gone if each.why == why])
            rows.update(files_removed_at=timezone.now(), files_removed_why=why[:200])
        if gone:
            witness(agent, gone, who)
    for folder in aside:
        # They may hold a million files: the database does not wait for them.
        done.left += removal.remove_folder(folder)
    done.count(kind, gone)


def free(kind: type[Run | Session], chosen: Sequence[int]) -> set[int]:
    """Which of them may go now. Their sessions are locked: nobody is given a run in one meanwhile."""
    return free_runs(chosen) if kind is Run else free_sessions(chosen)


def free_runs(chosen: Sequence[int]) -> set[int]:
    """Those that have ended, in sessions that nobody needs."""
    runs = Run.objects.filter(pk__in=chosen, state__in=Run.TERMINAL, pinned=False, files_removed_at=None)
    sessions = locked(Session.objects.filter(pk__in=runs.order_by().values("session"), pinned=False))
    return locked(runs.filter(session__in=sessions - busy(sessions)))


def free_sessions(chosen: Sequence[int]) -> set[int]:
    """Those that nobody needs, without a run that keeps its files."""
    sessions = locked(Session.objects.filter(pk__in=chosen, pinned=False, files_removed_at=None))
    kept = Run.objects.filter(session__in=sessions, files_removed_at=None).order_by()
    return sessions - busy(sessions) - set(kept.values_list("session", flat=True))


def locked(rows: QuerySet[Any]) -> set[int]:
    """Their keys; always in one order, so that two who lock the same rows do not wait for each other."""
    return set(rows.select_for_update().order_by("pk").values_list("pk", flat=True))


def set_aside(kind: type[Run | Session], row: Leaving, aside: list[Path], left: list[str]) -> bool:
    """Move the files of a run or a session to where nobody looks for them; False if that is refused."""
    try:
        aside.extend(removal.set_aside(folder) for folder in folders(kind, row))
    except OSError as error:
        left.append(f"{error.filename} cannot be moved: {error.strerror}.")
        return False
    return True


def folders(kind: type[Run | Session], row: Leaving) -> list[Path]:
    """All directories that are a run's, or a session's, alone."""
    state = machine.state()
    if kind is Run:
        name = str(row.public_id)
        return [state.run(name), state.run_workspace(name)]
    return homes(Session.objects.select_related("agent").get(pk=row.pk))


def homes(session: Session) -> list[Path]:
    """A session's home and workspace, if it has one of its own, and what is kept of it beside."""
    state = machine.state()
    own = state.session_workspace(str(session.public_id))
    return [state.path / session.home, own, archive.folder(session)]


def witness(agent: Agent, gone: Sequence[Leaving], who: Any) -> None:
    """One line of the audit trail about a batch."""
    what = f"files of {counted(len(gone), gone[0].kind)} of {agent.name}"
    names = ", ".join(str(each.public_id)[:8] for each in gone)
    detail = f"{human_size(sum(each.size for each in gone))}: {names}"
    path = agent.get_absolute_url()
    Audit.note(who, Audit.Deed.DELETED, what, path=path, detail=detail, agent=agent)


def counted(number: int, name: str) -> str:
    """A number with its noun."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


# What the ticker does.


def turn() -> None:
    """Measure what has ended, remove what is beyond its agent's limits, and go on another time.

    Raises RunError for what could not be deleted, which the ticker tells once.
    """
    measure(time.monotonic() + TURN.total_seconds())
    left = empty_aside()
    limited = ~Q(keep_days=None) | ~Q(keep_runs=None) | ~Q(keep_bytes=None)
    # In any order, so that one with much to remove does not keep the others waiting.
    for agent in Agent.objects.filter(limited).order_by("?"):
        done = carry_out(agent, plan(agent), until=time.monotonic() + TURN.total_seconds())
        left += done.left
        if done:
            logger.info("Removed files by the retention of agent %s: %s.", agent.name, done)
    if left:
        raise RunError(" ".join(left[:3]))


def empty_aside() -> list[str]:
    """Delete what somebody who died had set aside; says what cannot be deleted."""
    with suppress(FileNotFoundError):
        aside = [each for each in machine.state().removed().iterdir() if ASIDE.fullmatch(each.name)]
        return [complaint for each in aside for complaint in removal.remove_folder(each)]
    return []


def measure(until: float | None = None) -> None:
    """Store what the files of ended runs, and of sessions used since the last time, take up on disk."""
    for measured in (measure_runs, measure_sessions):
        while measured() and (until is None or time.monotonic() < until):
            pass


def measure_runs() -> int:
    """Some of them; says how many."""
    state = machine.state()
    rows = Run.objects.filter(files_bytes=None, files_removed_at=None, finished_at__isnull=False)
    found = list(rows.order_by("finished_at").only("pk", "public_id")[:MEASURED])
    for run in found:
        name = str(run.public_id)
        run.files_bytes = used(state.run(name)) + used(state.run_workspace(name))
    Run.objects.bulk_update(found, ["files_bytes"])
    return len(found)


def measure_sessions() -> int:
    """One of those that nobody works in; says how many. A home may hold a million files."""
    stale = Q(measured_at=None) | Q(measured_at__lt=F("last_used"))
    found = Session.objects.filter(stale, files_removed_at=None).exclude(pk__in=busy()).order_by().first()
    if found is None:
        return 0
    # Another machine's clock may be ahead of this one's.
    now = max(timezone.now(), found.last_used)
    size = sum(used(folder) for folder in homes(found))
    return Session.objects.filter(pk=found.pk).update(files_bytes=size, measured_at=now)
