"""Whose turn it is among all runs that wait, and what keeps one from starting.

The line is made anew from the rows each time somebody asks: higher priorities first; of the same
priority agents take turns, one with fewer live runs before one with more; of one agent the oldest.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.utils import timezone

from agents import budgets, kept, limits, sessions, space, turns
from agents.limits import Full
from agents.machine import Place
from agents.models import Agent, Run, Schedule, Site

# The columns of the index that holds the line, so that long rows are not read for it.
COLUMNS = ("pk", "agent_id", "priority", "continues_id", "forks_id", "not_before", "held_by")


@dataclass(frozen=True)
class Turn:
    """When a run may start, and what it belongs to.

    `key` is the asker's own name of the request; `reason` says why it waits until `not_before`.
    `ring=False` leaves it to the caller to ring, once for many.
    """

    key: str = ""
    priority: int | None = None
    schedule: Schedule | None = None
    first_attempt: Run | None = None
    attempt: int = 1
    not_before: datetime | None = None
    reason: str = ""
    ring: bool = True

    def columns(self, agent: Agent, config: dict[str, Any]) -> dict[str, Any]:
        """The same as columns of the run."""
        limit, begins = config["wait_limit"], self.not_before or timezone.now()
        return {
            "key": self.key,
            "priority": agent.priority if self.priority is None else self.priority,
            "schedule": self.schedule,
            "first_attempt": self.first_attempt,
            "attempt": self.attempt,
            "not_before": self.not_before,
            "state": Run.State.WAITING if self.not_before else Run.State.QUEUED,
            "reason": self.reason if self.not_before else "",
            "start_by": begins + timedelta(seconds=limit) if limit else None,
        }


class Waiting(NamedTuple):
    """A run in the line, by what decides its place."""

    pk: int
    agent: int
    priority: int
    continues: int | None
    forks: int | None
    not_before: datetime | None
    held_by: str


def obstacle(run: Run, agent: Agent, site: Site, place: Place | None) -> Full | None:
    """Why a run may not start yet, and on which limit of some workers that depends; None if it may."""
    reason = not_yet(run) or closed(agent, site) or held(run)
    if reason:
        return Full(reason)
    reached = limits.full(agent, site, place, run)
    if reached:
        return reached
    inside = kept.occupied(run, list(Run.objects.filter(agent=agent, state__in=Run.LIVE).exclude(pk=run.pk)))
    return Full(inside) if inside else None


def not_yet(run: Run) -> str:
    """That it waits for a moment, which its reason tells."""
    if run.not_before is None or run.not_before <= timezone.now():
        return ""
    return run.reason or f"It starts at {run.not_before:%Y-%m-%d %H:%M:%S} UTC."


def closed(agent: Agent, site: Site) -> str:
    """Why nothing at all of this agent starts now; empty if something may."""
    if not agent.enabled:
        return f"The agent {agent} is switched off."
    for what, row in (("herdweb", site), (f"The agent {agent}", agent)):
        if row.is_paused:
            why = f": {row.paused_why}" if row.paused_why else ""
            return f"{what} is paused by {row.paused_by}{why}".rstrip(".") + "."
    shortage = space.shortage()
    if shortage:
        return f"{shortage} It starts when there is room again."
    return budgets.exhausted(agent)


def held(run: Run) -> str:
    """That another run of its session or its schedule goes first."""
    return sessions.in_use(run) or turns.held(run)


# The line.


@dataclass
class Line:
    """The line at one moment, with what is taken already."""

    order: Sequence[Waiting]
    agents: dict[int, Agent]
    site: Site
    live: Counter[int]
    fleets: Counter[int]
    places: Counter[str]
    total: int
    shut: dict[int, str] = field(default_factory=dict)

    def startable(self, most: int) -> Iterator[Waiting]:
        """Those that may start now, by what can be told without a worker; each takes its slots."""
        for each in self.order:
            if most <= 0:
                return
            if self._fits(each):
                self._take(self.agents[each.agent])
                most -= 1
                yield each

    def elsewhere(self) -> list[Run]:
        """What the limits of some workers keep waiting, and others might take: the first of each limit."""
        first: dict[str, int] = {}
        for each in self.order:
            if self._is_reached(each.held_by) and self._has_room(each):
                first.setdefault(each.held_by, each.pk)
        return list(Run.objects.filter(pk__in=first.values()).order_by("pk")) if first else []

    def unhindered(self) -> set[int]:
        """Those that only the others before them keep from starting, and those that nothing does."""
        return {each.pk for each in self.order if self._fits(each)}

    def _fits(self, each: Waiting) -> bool:
        return not self._is_reached(each.held_by) and self._has_room(each)

    def _has_room(self, each: Waiting) -> bool:
        agent, site = self.agents[each.agent], self.site
        if site.max_runs and self.total >= site.max_runs:
            return False
        if self.live[agent.pk] >= most_of(agent):
            return False
        fleet = agent.fleet
        if fleet and fleet.max_concurrent and self.fleets[fleet.pk] >= fleet.max_concurrent:
            return False
        return not self._shut(agent)

    def _is_reached(self, held_by: str) -> bool:
        """Whether the limit of some workers that kept it waiting still does."""
        kind = held_by.partition(":")[0]
        most = {"host": self.site.max_per_host, "credential": self.site.max_per_credential}.get(kind)
        return most is not None and self.places[held_by] >= most

    def _shut(self, agent: Agent) -> str:
        if agent.pk not in self.shut:
            self.shut[agent.pk] = closed(agent, self.site)
        return self.shut[agent.pk]

    def _take(self, agent: Agent) -> None:
        self.live[agent.pk] += 1
        self.total += 1
        if agent.fleet_id:
            self.fleets[agent.fleet_id] += 1


def most_of(agent: Agent) -> int:
    """How many of its runs can be live at once: one, where they share one container."""
    docker = agent.docker
    shared = docker.enabled and not docker.ephemeral and docker.container_scope == docker.Scope.AGENT
    return 1 if shared else agent.max_concurrent


def line(now: datetime | None = None) -> Line:
    """All runs whose turn may have come, in order: a handful of queries, however long it is."""
    now = now or timezone.now()
    holding = list(
        Run.objects.filter(holds_slot=True).values_list("agent_id", "agent__fleet_id", "host", "credential")
    )
    live = Counter(agent for agent, *_ in holding)
    rows = [row for row in in_turn() if row.not_before is None or row.not_before <= now]
    agents = Agent.objects.select_related("fleet", "docker").in_bulk({row.agent for row in rows})
    return Line(
        order=fair(rows, live),
        agents=agents,
        site=Site.get(),
        live=live,
        fleets=Counter(fleet for _, fleet, *_ in holding if fleet),
        places=Counter(name for *_, host, key in holding for name in (f"host:{host}", f"credential:{key}")),
        total=len(holding),
    )


def in_turn() -> list[Waiting]:
    """Pending runs that no other run of their session or their schedule goes before."""
    rows = [Waiting(*row) for row in Run.objects.filter(state__in=Run.PENDING).values_list(*COLUMNS)]
    working, copied = turns.busy()
    taken, behind = working | copied, turns.held_by_moments()
    found = []
    for row in sorted(rows, key=lambda row: row.pk):
        if row.pk not in behind and row.continues not in taken and row.forks not in working:
            found.append(row)
        if row.continues:
            # Behind the oldest one the others of its session have to wait.
            taken.add(row.continues)
    return found


def fair(rows: Sequence[Waiting], live: Counter[int]) -> list[Waiting]:
    """By priority, then by how many of its agent go before it or are live, then by age."""
    before: Counter[tuple[int, int]] = Counter()
    ranked = []
    for row in sorted(rows, key=lambda row: (-row.priority, row.pk)):
        ranked.append((-row.priority, before[row.agent, row.priority] + live[row.agent], row.pk, row))
        before[row.agent, row.priority] += 1
    return [row for *_, row in sorted(ranked)]


def place_of(run: Run) -> tuple[int, int]:
    """Its place in the line and how long that is; 0 when its turn cannot have come."""
    order = [row.pk for row in line().order]
    return (order.index(run.pk) + 1 if run.pk in order else 0), len(order)


def why(run: Run) -> str:
    """Why a pending run has not started, as it is now; empty when only a worker is missing."""
    agent = Agent.objects.select_related("fleet").get(pk=run.agent_id)
    found = obstacle(run, agent, Site.get(), None)
    # What only a worker can know is in its reason.
    return found.reason if found else (run.reason if run.held_by else "")


def startable(now: datetime | None = None) -> list[Waiting]:
    """All that may start now, in their order."""
    found = line(now)
    return list(found.startable(len(found.order)))


def next_ones(most: int, free: Sequence[Waiting] | None = None) -> list[Run]:
    """The runs that may start now, in their order, as many as are asked for."""
    found = [each.pk for each in (startable() if free is None else free)[:most]]
    rows = Run.objects.select_related("agent").in_bulk(found)
    return [rows[pk] for pk in found if pk in rows]


def late(now: datetime) -> list[Run]:
    """Pending runs that have waited for longer than they may."""
    return list(Run.objects.filter(state__in=Run.PENDING, start_by__lt=now).select_related("agent"))


def unexplained(unhindered: set[int], most: int) -> list[Run]:
    """Runs that are queued and may not start, which nobody has told yet what they wait for."""
    queued = Run.objects.filter(state=Run.State.QUEUED).order_by("pk").values_list("pk", flat=True)
    blocked = [pk for pk in queued if pk not in unhindered][:most]
    rows = Run.objects.select_related("agent", "continues", "forks")
    return list(rows.filter(pk__in=blocked).order_by("pk")) if blocked else []
