"""What agents are doing and what became of their runs, from the rows, for many agents at once.

A fixed number of queries, and none that reads more of the runs than the page shows or counts.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any

from django.db.models import (
    BigIntegerField,
    Count,
    ExpressionWrapper,
    F,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
)
from django.db.models.functions import Coalesce
from django.utils import timezone

from agents.models import Agent, Run, Schedule

# How many runs a strip shows.
STRIP = 20
DAY, WEEK = timedelta(days=1), timedelta(days=7)
UNSUCCESSFUL = (Run.State.FAILED, Run.State.TIMED_OUT, Run.State.LOST)
# What is shown of a run in a strip.
LEAN = ("public_id", "agent_id", "state", "suspect", "created", "started_at", "finished_at")

Tally = dict[int, Counter[str]]


@dataclass
class Activity:
    """One agent: its strip, oldest first, its last run that ended, what is due next, and what is counted."""

    agent: Agent
    strip: list[Run] = field(default_factory=list)
    ended: Run | None = None
    due: datetime | None = None
    live: int = 0
    waiting: int = 0
    spent: float = 0.0

    @property
    def is_proven(self) -> bool:
        """Whether it has succeeded lately, or was run so often that nobody needs to be led to it."""
        return len(self.strip) >= STRIP or any(run.state == Run.State.SUCCEEDED for run in self.strip)

    @property
    def status(self) -> str:
        """What is to be said of the agent in one word, from its runs."""
        if self.live:
            return "running"
        if self.waiting:
            return "waiting"
        if not self.agent.enabled:
            return "off"
        if self.ended is None:
            return "idle" if self.strip else "new"
        return "failing" if self.ended.state in UNSUCCESSFUL else "idle"


@dataclass(frozen=True)
class Windows:
    """The moments from which a page counts; whole minutes, so that an address says them exactly."""

    day: datetime
    week: datetime

    @classmethod
    def now(cls) -> "Windows":
        """The last 24 hours and the last 7 days."""
        minute = timezone.now().replace(second=0, microsecond=0)
        return cls(minute - DAY, minute - WEEK)


@dataclass(frozen=True)
class Counts:
    """What is counted of each agent's runs: what they are now, how a day's ended, what a week's cost."""

    now: Tally
    ends: Tally
    spent: dict[int, float]

    @property
    def states(self) -> Counter[str]:
        """The runs of all agents that are now in each state."""
        return sum(self.now.values(), Counter())

    @property
    def ended(self) -> Counter[str]:
        """The runs of all agents that ended in each state."""
        return sum(self.ends.values(), Counter())


def count(agents: Iterable[int], windows: Windows) -> Counts:
    """Count the runs of these agents; those of the windows by when they were asked for.

    The agents are chosen from what was counted: as a part of the queries they would keep SQLite from
    reading no more of the runs than the window's.
    """
    seen = set(agents)
    now, ends, spent = current(), ended(windows.day), costs(windows.week)
    return Counts(
        {agent: found for agent, found in now.items() if agent in seen},
        {agent: found for agent, found in ends.items() if agent in seen},
        {agent: found for agent, found in spent.items() if agent in seen},
    )


def current() -> Tally:
    """How many live and pending runs each agent has, by their state."""
    rows = Run.objects.filter(state__in=(*Run.PENDING, *Run.LIVE)).order_by().values_list("agent", "state")
    found: Tally = {}
    for agent, state, number in rows.annotate(number=Count("pk")):
        found.setdefault(agent, Counter())[state] += number
    return found


def ended(since: datetime) -> Tally:
    """How many of each agent's runs that were asked for since then have ended in which way."""
    counts = {
        str(state): Count("pk", filter=Q(state=state)) for state in (Run.State.SUCCEEDED, *UNSUCCESSFUL)
    }
    return {row.pop("of"): Counter(row) for row in by_agent(since).annotate(**counts)}


def costs(since: datetime) -> dict[int, float]:
    """What each agent says to have spent on runs that were asked for since then."""
    rows = by_agent(since).annotate(dollars=Sum("cost_usd"))
    return {row["of"]: row["dollars"] for row in rows if row["dollars"]}


def by_agent(since: datetime) -> Any:
    """Runs since then, to be grouped by their agents, `of`.

    As an expression: for a column SQLite walks all runs of all times in the order of an index.
    """
    of = ExpressionWrapper(F("agent_id") + 0, BigIntegerField())
    return Run.objects.filter(created__gte=since).order_by().annotate(of=of).values("of")


def about(agents: QuerySet[Agent]) -> list[Activity]:
    """The agents with their strips and last ends; two queries, however many runs there are.

    For as many agents as a page shows: each is a term of the second query.
    """
    newest = Run.objects.filter(agent=OuterRef("pk")).order_by("-id").values("pk")
    # The oldest one that the strip shows; none when there are fewer.
    first, ended = newest[STRIP - 1 : STRIP], newest.filter(state__in=Run.TERMINAL)[:1]
    on = Schedule.objects.filter(agent=OuterRef("pk"), enabled=True, paused_at=None, due_at__isnull=False)
    due = on.order_by("due_at").values("due_at")[:1]
    annotated = agents.annotate(first=Subquery(first), last_ended=Subquery(ended), due=Subquery(due))
    rows: list[Any] = list(annotated.select_related("docker"))
    found = {row.pk: Activity(row, due=row.due) for row in rows}
    for run in shown(rows):
        activity = found[run.agent_id]
        if run.pk >= (row_of(activity).first or 0):
            activity.strip.append(run)
        if run.pk == row_of(activity).last_ended:
            activity.ended = run
    return list(found.values())


def row_of(activity: Activity) -> Any:
    """The agent with what was annotated."""
    return activity.agent


def shown(rows: Sequence[Any]) -> Iterable[Run]:
    """The runs of all strips and the last ended ones, oldest first."""
    if not rows:
        return []
    strips = reduce(or_, (Q(agent=row.pk, pk__gte=row.first or 0) for row in rows))
    ends = Q(pk__in=[row.last_ended for row in rows if row.last_ended])
    return Run.objects.filter(strips | ends).only(*LEAN).order_by("pk")


def counted(rows: list[Activity], counts: Counts) -> list[Activity]:
    """The same rows with what was counted."""
    for row in rows:
        states = counts.now.get(row.agent.pk, Counter())
        row.live = sum(states[state] for state in Run.LIVE)
        row.waiting = sum(states[state] for state in Run.PENDING)
        row.spent = counts.spent.get(row.agent.pk, 0.0)
    return rows


def most_recent(agents: QuerySet[Agent], most: int) -> QuerySet[Agent]:
    """Those that ran last, as many as a page can hold; without runs the newest."""
    newest = Run.objects.filter(agent=OuterRef("pk")).order_by("-id").values("pk")[:1]
    rows = agents.annotate(newest=Coalesce(Subquery(newest), 0)).order_by("-newest", "-pk")
    return agents.filter(pk__in=list(rows.values_list("pk", flat=True)[:most]))


def recently_ended(rows: Iterable[Activity], most: int) -> list[int]:
    """The ids of the runs that ended last, of those that the strips show."""
    known = (run for row in rows for run in row.strip if run.finished_at)
    newest = sorted(known, key=lambda run: run.finished_at or run.created, reverse=True)
    return [run.pk for run in newest[:most]]
