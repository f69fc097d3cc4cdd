"""Containers: what the engine made, and what lived in it."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from agents.models import Container
from agents.views.access import seen
from agents.views.paging import page_of
from agents.views.runs import listed


@require_safe
def containers(request: HttpRequest) -> HttpResponse:
    """All containers, live and past, newest first."""
    rows = Container.objects.visible_to(request.user).select_related("agent", "session")
    return render(request, "agents/containers.html", {"page": page_of(request, rows)})


@require_safe
def container(request: HttpRequest, number: int) -> HttpResponse:
    """One container: its limits as applied, its end, its session and runs."""
    found = seen(request, Container.objects.select_related("agent", "session"), pk=number)
    context = {"container": found, "runs": listed(found.runs.all()), "limits": limits_of(found)}
    return render(request, "agents/container.html", context)


def limits_of(found: Container) -> list[tuple[str, object]]:
    """The limits that the engine applied, the ones without a value left out."""
    return [(name, value) for name, value in found.limits.items() if value not in (None, "", [], {})]
