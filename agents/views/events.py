"""Events of a run for scripts on its page: a stream, and the same by asking again and again."""

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user
from django.contrib.auth.decorators import login_not_required
from django.db import connections
from django.http import Http404, HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.http import require_safe

from agents import live, transcript
from agents.models import Event, Run
from agents.views.access import aseen
from agents.views.runs import Place, window

View = Callable[[HttpRequest, UUID], Coroutine[Any, Any, HttpResponseBase]]


def for_scripts(view: View) -> View:
    """For those who may see the run; 401 without a login, for a script can do nothing with its page."""

    @wraps(view)
    async def guarded(request: HttpRequest, public_id: UUID) -> HttpResponseBase:
        user = await request.auser()
        if not user.is_authenticated:
            return JsonResponse({"error": "Log in first."}, status=401)
        await aseen(request, Run.objects.only("pk"), public_id=public_id)
        return await view(request, public_id)

    return login_not_required(guarded)


@require_safe
@for_scripts
async def run_events(request: HttpRequest, public_id: UUID) -> HttpResponseBase:
    """The next slice of events after `?after=`, with the facts beside them.

    Or those before `?before=`, as they are shown together; or the one of `?whole=`, unfolded.
    """
    for name, answer in (("whole", whole), ("before", earlier)):
        number = live.sequence(request.GET.get(name))
        if number:
            return await sync_to_async(answer)(public_id, number)
    seen = live.Seen(live.sequence(request.GET.get("after")))
    found = await sync_to_async(live.news)(public_id, seen)
    if found is None:
        raise Http404
    events = [{"seq": number, "html": html} for number, html in found.events]
    return JsonResponse({"events": events, "facts": found.facts, "state": found.state, "ended": found.ended})


def whole(public_id: UUID, number: int) -> JsonResponse:
    """One event with nothing folded."""
    event = get_object_or_404(Event.objects.select_related("run"), run__public_id=public_id, seq=number)
    item = next(transcript.singly(event.run, [event], whole=number))
    return JsonResponse({"events": [{"seq": number, "html": live.fragment(item, event.run)}]})


def earlier(public_id: UUID, number: int) -> JsonResponse:
    """The events of the page before."""
    run = get_object_or_404(Run, public_id=public_id)
    events = window(run, Place(before=number))
    html = [live.fragment(item, run) for item in transcript.items(run, events, at_end=False)]
    return JsonResponse({"html": "".join(html)})


@require_safe
@for_scripts
async def run_stream(request: HttpRequest, public_id: UUID) -> HttpResponseBase:
    """Server-sent events from where the reader left off."""
    # The stream reads through connections that all viewers share; this request's own is done.
    await sync_to_async(connections.close_all)()
    last = live.sequence(request.headers.get("Last-Event-ID", request.GET.get("after")))
    return StreamingHttpResponse(
        live.stream(public_id, last, still_allowed=still_allowed(request, public_id)),
        content_type="text/event-stream",
        headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"},
    )


def still_allowed(request: HttpRequest, public_id: UUID) -> Callable[[], bool]:
    """Asks the database whether the login still stands, and whether its user may still see the run."""
    sessions, key = type(request.session), request.session.session_key

    def ask() -> bool:
        later = HttpRequest()
        later.session = sessions(key)
        return Run.objects.visible_to(get_user(later)).filter(public_id=public_id).exists()

    return ask
