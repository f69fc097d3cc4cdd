"""Containers: what the engine made, what it uses now, and what lived in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from operator import itemgetter
from typing import Any

from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from agents import jobs, kept
from agents.forms import KeepForm
from agents.lists import ContainerList
from agents.models import Audit, Container, Run, Session
from agents.models.fields import write_seconds
from agents.models.rights import RUN
from agents.sessions import why_not
from agents.views.access import needs, seen
from agents.views.lists import listed_page
from agents.views.runs import listed

# How many runs and sessions of one container are listed.
SHOWN = 50

CAUSES = {
    Run.Cause.CANCEL: "",
    Run.Cause.TIME: ": time limit",
    Run.Cause.IDLE: ": idle limit",
    Run.Cause.RESULT: ": it stayed after its result",
    Run.Cause.OUTPUT: ": output limit",
    Run.Cause.WORKER: ": its worker was stopped",
}


@require_safe
def containers(request: HttpRequest) -> HttpResponse:
    """The containers that the address asks for, newest first unless it says otherwise."""
    rows = Container.objects.select_related("agent", "session")
    return listed_page(request, ContainerList(request.user, request.GET), rows, "containers")


@require_safe
def container(request: HttpRequest, number: int) -> HttpResponse:
    """One container: what it uses, its limits as applied, its end, its sessions and runs."""
    found = seen(request, Container.objects.select_related("agent__docker", "session"), pk=number)
    return render(request, "agents/container.html", parts(found))


@require_safe
def container_now(request: HttpRequest, number: int) -> HttpResponse:
    """The parts of a container's page that change while it lives."""
    found = seen(request, Container.objects.select_related("agent__docker"), pk=number)
    return render(request, "agents/_container_now.html", parts(found))


def parts(found: Container) -> dict[str, Any]:
    """What these parts show."""
    runs = list(listed(found.runs.all())[:SHOWN])
    return {
        "container": found,
        "runs": runs,
        "timeline": timeline(found, runs),
        "records": records(found, runs),
        # A run ends a moment after its container, for its own reasons are stored last.
        "inside": kept.looking_inside(found) if found.is_kept else (),
        "over": not found.is_live and not any(run.is_live for run in runs),
    }


@require_POST
@needs(RUN)
def container_stop(request: HttpRequest, number: int) -> HttpResponse:
    """Cancel the live run in a container, which ends with it."""
    found = seen(request, Container.objects.all(), pk=number)
    messages.info(request, stopped(found, request.user))
    return HttpResponseRedirect(found.get_absolute_url(), status=303)


def stopped(found: Container, by: Any) -> str:
    """Ask for the end of the run in a container, and say what became of that."""
    run = found.runs.filter(state__in=Run.LIVE).select_related("agent").first()
    if run is None:
        return "No run is live in it: it has ended already, or is about to be removed."
    grace = write_seconds(run.agent_config.cancel_grace)
    if jobs.cancel(run, by):
        return f"Run {run.short_id} is asked to end. What is still there after {grace} is killed."
    run.refresh_from_db(fields=["state", "stop_by"])
    if run.is_live:
        return f"Run {run.short_id} was already asked to end by {run.stop_by}."
    return f"Run {run.short_id} had ended already."


@require_POST
@needs(RUN)
def container_keep(request: HttpRequest, number: int) -> HttpResponse:
    """Keep the container of a failed run for so many hours from now."""
    found = seen(request, Container.objects.all(), pk=number)
    form = KeepForm(request.POST)
    if not form.is_valid():
        messages.error(request, form.errors["hours"].as_data()[0].messages[0])
    elif kept.keep(found, form.cleaned_data["hours"]):
        hours = form.cleaned_data["hours"]
        witness(request, found, f"Kept for {hours} hours from now.")
        messages.info(request, f"It is kept for {hours} hour{'s' * (hours > 1)} from now.")
    else:
        messages.error(request, "It is not kept for inspection, so that cannot be made longer.")
    return HttpResponseRedirect(found.get_absolute_url(), status=303)


@require_POST
@needs(RUN)
def container_remove(request: HttpRequest, number: int) -> HttpResponse:
    """Have a kept container removed by the ticker, which does the engine's part."""
    found = seen(request, Container.objects.all(), pk=number)
    if kept.give_up(found):
        witness(request, found, "No longer kept.")
        messages.info(request, f"It is removed within {2 * jobs.SWEEP_EVERY.seconds} seconds.")
    else:
        messages.error(request, "It is not kept: a run is live in it, or it is gone.")
    return HttpResponseRedirect(found.get_absolute_url(), status=303)


def witness(request: HttpRequest, found: Container, detail: str) -> None:
    """Note in the audit trail who decided over a kept container."""
    what, path = f"container {found.name}", found.get_absolute_url()
    Audit.note(request.user, Audit.Deed.CHANGED, what, path=path, detail=detail, agent=found.agent)


@dataclass(frozen=True)
class Moment:
    """Something that happened to a container, and how long after what is above it."""

    at: datetime
    text: str
    after: timedelta | None


def timeline(found: Container, runs: Sequence[Run]) -> list[Moment]:
    """What happened to a container, in its order."""
    again = " for the last run" if found.scope else ""
    dated = [(found.created, "Created"), (found.started_at, f"Started{again}")]
    for run in runs:
        who = f" by {run.requested_by}" if run.requested_by else ""
        dated += [
            (run.created, f"Run {run.short_id} asked for{who}"),
            (run.stop_requested_at, f"Run {run.short_id} asked to end by {run.stop_by}{why_stopped(run)}"),
            (run.finished_at, f"Run {run.short_id} {run.state.replace('_', ' ')}"),
        ]
    dated += [(found.finished_at, "Ended"), (found.removed_at, "Removed; this record stays")]
    known = sorted(((at, text) for at, text in dated if at), key=itemgetter(0))
    first = Moment(*known[0], None)
    return [first, *(Moment(*this, this[0] - before[0]) for before, this in pairwise(known))]


def why_stopped(run: Run) -> str:
    """Which limit it was, if it was one."""
    return CAUSES[Run.Cause(run.stop_cause)] if run.stop_cause else ""


@dataclass(frozen=True)
class Record:
    """A session that lived in a container, with its runs there."""

    session: Any
    runs: Sequence[Run]
    why_not: str


def records(found: Container, runs: Sequence[Run]) -> list[Record]:
    """The sessions that lived in a container, those used last first."""
    lived = {number for number in (found.session_id, *(run.session_id for run in runs)) if number}
    rows = Session.objects.filter(pk__in=lived).annotate(
        run_count=Count("runs", distinct=True), container_count=Count("containers", distinct=True)
    )
    return [
        Record(session, [run for run in runs if run.session_id == session.pk], why_not(session, found.agent))
        for session in rows
    ]
