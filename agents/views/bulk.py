"""Many runs at once, and whole sessions: first a page that says what would happen, then its happening."""

from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_POST

from agents import jobs, removal
from agents.lists import runs_matching
from agents.models import Audit, Run, Session
from agents.models.rights import DELETE, RUN, Guarded
from agents.views.access import address, demand, seen

CANCEL, REMOVE = "cancel", "delete"


@require_POST
def runs_bulk(request: HttpRequest) -> HttpResponse:
    """Cancel or delete the runs that were ticked, or all that the list's filters match."""
    action = request.POST.get("action", "")
    if action not in (CANCEL, REMOVE):
        return refused(request, "Choose what to do: cancel or delete.")
    demand(request, RUN if action == CANCEL else DELETE)
    try:
        runs = chosen(request)
    except ValidationError as error:
        return refused(request, " ".join(error.messages))
    if not runs:
        return refused(request, "Choose at least one run.")
    return cancel(request, runs) if action == CANCEL else delete(request, runs)


def chosen(request: HttpRequest) -> Guarded[Run]:
    """The runs that the form names, as far as the user may see them; newest first."""
    visible = Run.objects.visible_to(request.user)
    if request.POST.get("all"):
        return visible.filter(pk__in=matching(request))
    given = [text for value in request.POST.getlist("run") for text in value.split(",")]
    return visible.filter(public_id__in=[number for text in given if (number := uuid(text))])


def matching(request: HttpRequest) -> list[int]:
    """The newest of the runs that the list showed, no more than can be deleted at a time."""
    rows = runs_matching(request.user, request.GET).order_by("-id")
    return list(rows.values_list("pk", flat=True)[: removal.RUNS_AT_MOST])


def uuid(text: str) -> UUID | None:
    """The id, if it is one."""
    try:
        return UUID(text)
    except ValueError:
        return None


def cancel(request: HttpRequest, runs: Guarded[Run]) -> HttpResponse:
    """Ask for the end of those that have not ended."""
    rows = list(runs.exclude(state__in=Run.TERMINAL).select_related("agent")[: removal.RUNS_AT_MOST])
    if not request.POST.get("confirmed"):
        context = {"action": CANCEL, "going": rows, "ended": runs.filter(state__in=Run.TERMINAL).count()}
        return render(request, "agents/bulk.html", context)
    number = sum(jobs.cancel(run, request.user) for run in rows)
    messages.info(request, f"{counted(number, 'run')} asked to end.")
    return HttpResponseRedirect(reverse("agents:runs"), status=303)


def delete(request: HttpRequest, runs: Guarded[Run]) -> HttpResponse:
    """Delete those that have ended, with what is theirs alone."""
    plan = removal.of_runs(runs)
    if not request.POST.get("confirmed") or plan.obstacle:
        context = {"action": REMOVE, "plan": plan, "going": plan.runs, "obstacle": plan.obstacle}
        return render(request, "agents/bulk.html", context, status=422 if plan.obstacle else 200)
    done(request, plan, counted(len(plan.runs), "run"))
    return HttpResponseRedirect(reverse("agents:runs"), status=303)


@require_POST
def session_delete(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """Delete a conversation with its runs and files, after a page that says what that is."""
    demand(request, DELETE)
    session = seen(request, Session.objects.select_related("agent"), public_id=public_id)
    plan = removal.of_session(session)
    if not request.POST.get("confirmed") or not plan.sessions:
        context = {"action": REMOVE, "session": session, "plan": plan, "going": plan.runs}
        return render(request, "agents/bulk.html", context, status=200 if plan.sessions else 422)
    done(request, plan, f"session {session}")
    return HttpResponseRedirect(reverse("agents:sessions"), status=303)


def done(request: HttpRequest, plan: removal.Removal, what: str) -> None:
    """Delete, note who did it, and say what could not be deleted."""
    left = removal.remove(plan, lambda row: note(request, row))
    if left:
        messages.error(request, f"Not all of it could be deleted: {what}.")
    else:
        messages.info(request, f"Deleted: {what}.")
    for complaint in left[:5]:
        messages.error(request, complaint)


def note(request: HttpRequest, row: Run | Session) -> None:
    """Who deleted a run or a session; each has a line, because whoever looks for one looks for its id."""
    what = f"run {row.short_id} of {row.agent.name}" if isinstance(row, Run) else f"session {row}"
    Audit.note(request.user, Audit.Deed.DELETED, what, agent=row.agent, address=address(request))


def refused(request: HttpRequest, why: str) -> HttpResponse:
    """Back to the list with the reason."""
    messages.error(request, why)
    return HttpResponseRedirect(reverse("agents:runs"), status=303)


def counted(number: int, name: str) -> str:
    """A number with its noun."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
