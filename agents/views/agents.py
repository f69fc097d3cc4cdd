"""Agents, and the form that starts a run."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_safe

from agents import activity, budgets, jobs, machine, retention
from agents.forms import RunForm, as_asked
from agents.models import Agent, Run, Session
from agents.models.rights import CHANGE, RUN
from agents.runtimes import AgentConfig, RunError, bare
from agents.sessions import Verdict, verdicts
from agents.views.access import demand, seen
from agents.views.runs import listed
from agents.views.schedules import with_last

# How many sessions the form offers, and how many rows a tab below it shows.
OFFERED, RECENT = 20, 10
# Of the list of agents.
PER_PAGE, LONGEST_QUERY = 50, 100


@require_safe
def agents(request: HttpRequest) -> HttpResponse:
    """The agents that the user may see, with what they are doing and what became of their last runs."""
    query = request.GET.get("q", "").replace("\0", "").strip()[:LONGEST_QUERY]
    found = Agent.objects.visible_to(request.user)
    if query:
        found = found.filter(Q(name__icontains=query) | Q(description__icontains=query))
    page = Paginator(found, PER_PAGE).get_page(request.GET.get("page"))
    shown = [row.pk for row in page.object_list]
    windows = activity.Windows.now()
    table = activity.about(found.filter(pk__in=shown))
    activity.counted(table, activity.count(shown, windows))
    context = {"page": page, "table": table, "query": query, "week": windows.week}
    return render(request, "agents/agents.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def agent(request: HttpRequest, name: str) -> HttpResponse:
    """One agent at a glance; a POST starts a run and leads to its page."""
    found = seen(request, Agent.objects.select_related("docker", "fleet"), name=name)
    initial = asked_before(found, request.GET.get("from", ""))
    may_override = request.user.has_perm(CHANGE)
    form = RunForm(found, request.POST or None, initial=initial, may_override=may_override)
    if request.method == "POST":
        demand(request, RUN)
        form = RunForm(found, request.POST, request.FILES, may_override=may_override)
        run = submitted(request, form) if form.is_valid() else None
        if run:
            return HttpResponseRedirect(run.get_absolute_url(), status=303)
    context = about(request, found, form) | lately(found, request.GET.get("tab", ""))
    return render(request, "agents/agent.html", context, status=422 if form.errors else 200)


def submitted(request: HttpRequest, form: RunForm) -> Run | None:
    """The run that a valid form asks for; none, and the form says why, if its files cannot be stored."""
    try:
        return jobs.submit(form.agent, by=request.user, **form.submission)
    except RunError as error:
        form.add_error(None if "key" in str(error) else "attachments", str(error))
        return None


def asked_before(found: Agent, run: str) -> dict[str, str]:
    """What was asked for with one of the agent's runs, to be changed and sent again."""
    try:
        return as_asked(found.runs.select_related("continues", "forks").get(public_id=run))
    except (Run.DoesNotExist, ValidationError):
        return {}


def about(request: HttpRequest, found: Agent, form: RunForm) -> dict[str, object]:
    """What the agent's page shows."""
    chosen = str(form["session"].value() or "")
    config = AgentConfig.from_json(found.freeze())
    return {
        "agent": found,
        "form": form,
        "config": config,
        "purses": list(budgets.purses(found)),
        "key": form["key"].value() or uuid4(),
        "offers": offers(found, chosen, request.user),
        "shared_home": machine.shared(config),
        "kept": retention.keeps(found),
        "limits": retention.Limits.of(found),
    }


def offers(found: Agent, chosen: str, user: Any) -> list[tuple[Session, Verdict]]:
    """The sessions used last, and the chosen one, each with the verdict over it.

    None of an agent whose runtime can go on with nothing.
    """
    runtime = bare(found.runtime)
    if not (runtime.supports_resume or runtime.supports_fork):
        return []
    rows = list(found.sessions.prefetch_related("archives")[:OFFERED])
    if chosen not in {str(row.public_id) for row in rows}:
        with suppress(ValidationError):
            rows += found.sessions.filter(public_id=chosen) if chosen else []
    return list(zip(rows, verdicts(rows, found, user), strict=True))


def lately(found: Agent, tab: str) -> dict[str, object]:
    """What one tab shows: the agent's last runs, sessions or containers, or its schedules."""
    tabs: dict[str, Callable[[], QuerySet[Any]]] = {
        "runs": lambda: listed(found.runs.all()),
        "sessions": lambda: found.sessions.all(),
        "containers": lambda: found.containers.select_related("session"),
        "schedules": lambda: with_last(found.schedules.order_by("name")),
    }
    tab = tab if tab in tabs else "runs"
    return {"tab": tab, "tabs": list(tabs), "rows": tabs[tab]()[:RECENT]}
