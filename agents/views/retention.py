"""What an agent keeps: what would go, and what is to stay whatever happens."""

from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from agents.forms import LimitsForm
from agents.models import Agent, Audit, Run, Session
from agents.models.rights import RUN
from agents.retention import Limits, keeps, plan
from agents.views.access import address, needs, seen

# Of what goes, so many are named.
SHOWN = 50


@require_safe
def retention(request: HttpRequest, name: str) -> HttpResponse:
    """What goes by the agent's limits, or by others that are tried out in the address."""
    found = seen(request, Agent.objects.all(), name=name)
    own, size, number = Limits.of(found), *keeps(found)
    tried = any(field in request.GET for field in LimitsForm.base_fields)
    # Judging the form writes what was typed into its row, which is never saved here.
    form = LimitsForm(request.GET if tried else None, instance=found)
    limits = Limits.of(found) if tried and form.is_valid() else own
    context = {
        "agent": found,
        "form": form,
        "own": own,
        "limits": limits,
        "plan": plan(found, limits),
        "size": size,
        "number": number,
        "shown": SHOWN,
        "shown_slice": f":{SHOWN}",
    }
    return render(request, "agents/retention.html", context)


@require_POST
@needs(RUN)
def run_pin(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """Keep a run, or let it go again."""
    found = seen(request, Run.objects.select_related("agent"), public_id=public_id)
    return pin(request, found, f"run {found.short_id} of {found.agent.name}")


@require_POST
@needs(RUN)
def session_pin(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """Keep a session with its runs, or let it go again."""
    found = seen(request, Session.objects.select_related("agent"), public_id=public_id)
    return pin(request, found, f"session {found}")


def pin(request: HttpRequest, found: Run | Session, what: str) -> HttpResponse:
    """As the form says; one UPDATE, and a line in the audit trail if it changed anything."""
    pinned = request.POST.get("pinned") == "1"
    rows = type(found)._default_manager.filter(pk=found.pk, pinned=not pinned)
    if rows.update(pinned=pinned):
        facts = {"path": found.get_absolute_url(), "agent": found.agent, "address": address(request)}
        detail = "Pinned: it is kept." if pinned else "No longer pinned."
        Audit.note(request.user, Audit.Deed.CHANGED, what, detail=detail, **facts)
        messages.info(request, detail)
    return HttpResponseRedirect(found.get_absolute_url(), status=303)
