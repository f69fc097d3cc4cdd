"""The switches that let runs wait: of one agent, for operators, and of everything, for administrators."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.views.decorators.http import require_POST

from agents import bells, pauses
from agents.models import Agent, Site
from agents.models.rights import ADMINISTER, RUN
from agents.views.access import address, needs, reason_in, seen


@require_POST
@needs(ADMINISTER)
def site_pause(request: HttpRequest) -> HttpResponse:
    """Nothing new starts."""
    return pause(request, Site.get(), reverse("agents:dashboard"))


@require_POST
@needs(ADMINISTER)
def site_resume(request: HttpRequest) -> HttpResponse:
    """What waits may start."""
    return resume(request, Site.get(), reverse("agents:dashboard"))


@require_POST
@needs(RUN)
def agent_pause(request: HttpRequest, name: str) -> HttpResponse:
    """Nothing new of this agent starts."""
    found = seen(request, Agent.objects.all(), name=name)
    return pause(request, found, found.get_absolute_url())


@require_POST
@needs(RUN)
def agent_resume(request: HttpRequest, name: str) -> HttpResponse:
    """What waits of this agent may start."""
    found = seen(request, Agent.objects.all(), name=name)
    return resume(request, found, found.get_absolute_url())


def pause(request: HttpRequest, row: Site | Agent, page: str) -> HttpResponse:
    """As the button says, with the reason that was typed."""
    why = reason_in(request)
    if not pauses.pause(row, request.user, why, address(request)):
        messages.info(request, "It was paused already.")
    return HttpResponseRedirect(page, status=303)


def resume(request: HttpRequest, row: Site | Agent, page: str) -> HttpResponse:
    """As the button says; whoever is next in the line is rung for."""
    if not pauses.resume(row, request.user, address(request)):
        messages.info(request, "It was not paused.")
    bells.ring_next(released=True)
    return HttpResponseRedirect(page, status=303)
