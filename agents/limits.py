"""How many runs may be live at once, of what, and who holds the slots.

A run takes its slot in the transaction that claims it, and gives it back when its container is really
gone, which may be after its own end.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from django.db.models import Exists, OuterRef, Q

from agents.machine import Place
from agents.models import Agent, Run, Site

# Of those that hold slots so many are named.
NAMED_AT_MOST = 5
# Where nothing of a run executes any more: no container, or one that has ended or was removed.
GONE = Q(container=None) | Q(container__removed_at__isnull=False) | Q(container__finished_at__isnull=False)


@dataclass(frozen=True)
class Limit:
    """At most so many of the runs that `counted` finds; `held_by` names what only some workers share."""

    name: str
    most: int
    counted: Q
    held_by: str = ""

    @property
    def holders(self) -> list[Run]:
        """The runs that have a slot, the oldest first."""
        rows = Run.objects.filter(self.counted, holds_slot=True).order_by("id")
        return list(rows.only("public_id", "state"))


@dataclass(frozen=True)
class Full:
    """A limit that is reached: which, in words, and what it is called if only some workers share it."""

    reason: str
    held_by: str = ""


def of(agent: Agent, site: Site, place: Place | None) -> Iterator[Limit]:
    """What holds for a run of this agent, and on this place if it is known."""
    yield Limit("Agent limit", agent.max_concurrent, Q(agent=agent))
    if agent.fleet and agent.fleet.max_concurrent:
        name = f"Limit of the fleet {agent.fleet}"
        yield Limit(name, agent.fleet.max_concurrent, Q(agent__fleet=agent.fleet))
    if place and place.credential and site.max_per_credential:
        counted, held = Q(credential=place.credential), f"credential:{place.credential}"
        name = f"Limit of the credential {place.credential}"
        yield Limit(name, site.max_per_credential, counted, held)
    if place and site.max_per_host:
        name = f"Limit of the host {place.host}"
        yield Limit(name, site.max_per_host, Q(host=place.host), f"host:{place.host}")
    if site.max_runs:
        yield Limit("Limit of all agents", site.max_runs, Q())


def full(agent: Agent, site: Site, place: Place | None, besides: Run) -> Full | None:
    """The first limit that is reached without this run; none if it may start."""
    for limit in of(agent, site, place):
        holders = [run for run in limit.holders if run.pk != besides.pk]
        if len(holders) >= limit.most:
            return Full(f"{limit.name} {len(holders)}/{limit.most}: {holding(holders)}", limit.held_by)
    return None


def holding(runs: list[Run]) -> str:
    """Who holds the slots, in words."""
    live, ended = [run for run in runs if not run.is_terminal], [run for run in runs if run.is_terminal]
    words = [f"run {named(live)} is live."] if live else []
    return " ".join([*words, *([f"The container of run {named(ended)} is not gone yet."] if ended else [])])


def named(runs: list[Run]) -> str:
    """The ids of the first ones, and how many more there are."""
    more = f" and {len(runs) - NAMED_AT_MOST} more" if len(runs) > NAMED_AT_MOST else ""
    return ", ".join(run.short_id for run in runs[:NAMED_AT_MOST]) + more


def release() -> int:
    """Take back the slots of ended runs whose containers are gone; how many there were."""
    # A container that serves many runs may be another one's by now.
    another = Run.objects.filter(container=OuterRef("container"), state__in=Run.LIVE)
    ended = Run.objects.filter(holds_slot=True, state__in=Run.TERMINAL)
    free = list(ended.filter(GONE | Exists(another)).values_list("pk", flat=True))
    return Run.objects.filter(pk__in=free, holds_slot=True).update(holds_slot=False) if free else 0
