"""What the words on the pages mean."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe


@require_safe
def help_page(request: HttpRequest) -> HttpResponse:
    """The states of a run, and what is stored where."""
    return render(request, "agents/help.html", {"state_dir": settings.HERDWEB_STATE_DIR})
