"""The first page: what runs, what went wrong, what it cost, and what to do next."""

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_safe

from agents import activity, health
from agents.models import Agent, Run
from agents.models.rights import ADMINISTER, RUN, SEE
from agents.views.runs import listed

# How many agents and runs the page holds; the lists have the others.
AGENTS, LIVE, RECENT = 40, 10, 10


@dataclass(frozen=True)
class Number:
    """One number, and the list that shows exactly the rows it counts."""

    value: float
    query: dict[str, str]

    @property
    def url(self) -> str:
        """The list."""
        return f"{reverse('agents:runs')}?{urlencode(self.query)}"


@dataclass(frozen=True)
class Step:
    """Something to do before a site is of use."""

    title: str
    text: str
    done: bool
    url: str = ""


@require_safe
def dashboard(request: HttpRequest) -> HttpResponse:
    """All that the user may see, in a number of queries that does not grow with it."""
    if not request.user.has_perm(SEE):
        return render(request, "agents/dashboard.html", {"no_role": True})
    agents, runs = Agent.objects.visible_to(request.user), Run.objects.visible_to(request.user)
    windows, seen = activity.Windows.now(), list(agents.values_list("pk", flat=True))
    counts = activity.count(seen, windows)
    table = activity.counted(activity.about(activity.most_recent(agents, AGENTS)), counts)
    recent = runs.filter(pk__in=activity.recently_ended(table, RECENT))
    context = {
        "problems": health.problems(),
        "numbers": numbers(counts, windows),
        "week": windows.week,
        "table": table,
        "agents": len(seen),
        "steps": steps(request.user, table),
        "live": listed(runs.filter(state__in=Run.LIVE))[:LIVE],
        "recent": listed(recent).order_by("-finished_at"),
    }
    return render(request, "agents/dashboard.html", context)


def numbers(counts: activity.Counts, windows: activity.Windows) -> dict[str, Number]:
    """What is counted on top of the page."""
    now, ended = counts.states, counts.ended
    day, week = {"since": windows.day.isoformat()}, {"since": windows.week.isoformat()}
    ends = {
        str(state): Number(ended[state], {"state": state, **day})
        for state in (Run.State.SUCCEEDED, *activity.UNSUCCESSFUL)
    }
    return {
        **ends,
        "wrong": Number(sum(ended[state] for state in activity.UNSUCCESSFUL), {"state": "wrong", **day}),
        "live": Number(sum(now[state] for state in Run.LIVE), {"state": "live"}),
        "waiting": Number(sum(now[state] for state in Run.PENDING), {"state": "pending"}),
        "spent": Number(sum(counts.spent.values()), {"sort": "dearest", **week}),
    }


def steps(user: Any, table: list[activity.Activity]) -> list[Step]:
    """What leads to the first result, from the rows; empty when there is one."""
    if not user.has_perm(RUN) or any(row.is_proven for row in table):
        return []
    administers = user.has_perm(ADMINISTER) and user.is_staff
    newest = max((row.agent for row in table), key=lambda agent: agent.pk, default=None)
    return [adding(newest, administers), testing(newest, administers, table), running(newest)]


def adding(newest: Agent | None, administers: bool) -> Step:
    """The first step."""
    if not administers:
        return Step("Add an agent", "An administrator does this, and says who may see it.", bool(newest))
    url = reverse("admin:agents_agent_add")
    return Step("Add an agent", "What to run, with which rights and within which limits.", bool(newest), url)


def testing(newest: Agent | None, administers: bool, table: list[activity.Activity]) -> Step:
    """The second one; a run that could start has tested as much."""
    begun = any(run.started_at for row in table for run in row.strip)
    url = reverse("admin:agents_agent_change", args=[newest.pk]) if newest and administers else ""
    text = "Whether its image, its program and its credentials are there, before it costs anything."
    return Step("Test its configuration", text, begun, url)


def running(newest: Agent | None) -> Step:
    """The last one, after which there are no steps any more."""
    url = f"{newest.get_absolute_url()}#run" if newest else ""
    return Step("Run it", "Give it something to do and watch it. Done when a run has succeeded.", False, url)
