"""What every page says first: that something is badly wrong, or that nothing new starts."""

from typing import Any

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from agents import health
from agents.models import Site
from agents.models.rights import SEE


def notices(request: HttpRequest) -> dict[str, Any]:
    """Context of all templates; Redis and the switch are asked when a template comes to it, once a page."""
    return {
        "severe": SimpleLazyObject(lambda: found(request)),
        "site": SimpleLazyObject(lambda: paused(request)),
    }


def found(request: HttpRequest) -> list[health.Problem]:
    """What keeps runs from going at all, for those who may see runs."""
    user = getattr(request, "user", None)
    if user is None or not user.has_perm(SEE):
        return []
    return [problem for problem in health.problems() if problem.severe]


def paused(request: HttpRequest) -> Site | None:
    """The site, if nothing new starts, for those who may see runs."""
    user = getattr(request, "user", None)
    if user is None or not user.has_perm(SEE):
        return None
    return Site.objects.exclude(paused_at=None).first()
