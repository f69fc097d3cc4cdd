"""Sessions: conversations, and whether they can go on."""

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from agents.models import Session
from agents.sessions import why_not
from agents.views.access import seen
from agents.views.paging import page_of
from agents.views.runs import listed

SHOWN = 50


@require_safe
def sessions(request: HttpRequest) -> HttpResponse:
    """All sessions, those used last first."""
    rows = Session.objects.visible_to(request.user).select_related("agent")
    return render(request, "agents/sessions.html", {"page": page_of(request, rows)})


@require_safe
def session(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """One session: where it came from, what happened in it, and how to go on."""
    rows = Session.objects.select_related("agent__docker", "forked_from")
    found = seen(request, rows, public_id=public_id)
    context = {
        "session": found,
        "why_not": why_not(found, found.agent),
        "why_not_fork": why_not(found, found.agent, fork=True),
        "runs": listed(found.runs.all())[:SHOWN],
        "containers": found.containers.all()[:SHOWN],
        "forks": found.forks.all()[:SHOWN],
    }
    return render(request, "agents/session.html", context)
