"""The conversation of a session: all its runs as one transcript, and where the next message is written."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from agents import conversation, export, live, search, turns
from agents.asjson import event_json, run_json, session_json
from agents.conversation import Place, Window, place_of
from agents.forms import RunForm
from agents.models import Run, Session
from agents.models.rights import RUN
from agents.sessions import verdict
from agents.transcript import LARGEST_SEQ
from agents.views.access import aseen, demand, seen
from agents.views.agents import submitted

# Of how many runs a page may ask at a time how they ended.
WATCHED = 5
ROWS = ("agent__docker", "forked_from")


@require_http_methods(["GET", "HEAD", "POST"])
def session_conversation(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """The whole session as one transcript; a POST sends the next message."""
    found = seen(request, Session.objects.select_related(*ROWS), public_id=public_id)
    if request.method == "POST":
        demand(request, RUN)
        return send(request, found)
    return shown(request, found)


def shown(request: HttpRequest, found: Session, complaint: str = "") -> HttpResponse:
    """The page, maybe with a message that was refused and why."""
    window = window_of(request, found)
    query = request.GET.get("q", "").strip()[: search.LONGEST]
    context = state_of(found) | {
        "window": window,
        "query": query,
        "found": conversation.find(found, query),
        "most": conversation.MOST,
        "typed": request.POST.get("prompt", ""),
        "again": bool(request.FILES),
        "complaint": complaint,
        "title_length": Session._meta.get_field("title").max_length,
    }
    return render(request, "agents/conversation.html", context, status=422 if complaint else 200)


def window_of(request: HttpRequest, found: Session) -> Window:
    """The part of the conversation that the address asks for; its end unless it says otherwise."""
    before, after, at = (place_of(request.GET.get(name)) for name in ("before", "after", "at"))
    if at:
        return conversation.unfold(conversation.around(found, at), at)
    if before:
        return conversation.before(found, before)
    return conversation.after(found, after) if after else conversation.newest(found)


def state_of(found: Session) -> dict[str, Any]:
    """What changes while the page is open: who works, who waits, and whether a message can be sent."""
    runs = conversation.runs_of(found)
    waiting = list(lean(turns.waiting(found.pk))[: conversation.SHOWN + 1])
    judged = verdict(found, found.agent)
    return {
        "session": found,
        "live": conversation.shown().filter(pk__in=runs.filter(state__in=Run.LIVE)).first(),
        "waiting": waiting[: conversation.SHOWN],
        "more_waiting": len(waiting) > conversation.SHOWN,
        "held_up": live.obstacle(waiting[0]) if waiting else "",
        "why_not": judged.continuing,
        "mode": RunForm.CONTINUE if judged.may_continue else RunForm.FORK if judged.may_fork else "",
    }


def lean(runs: Any) -> Any:
    """Waiting messages as the page shows them."""
    shown = conversation.shown().filter(pk__in=runs.values("pk"))
    return shown.order_by("pk")


def send(request: HttpRequest, found: Session) -> HttpResponse:
    """Continue the session with a message, or fork it; it waits for its turn while a run is live."""
    prompt = request.POST.get("prompt", "")
    mode = RunForm.FORK if request.POST.get("mode") == RunForm.FORK else RunForm.CONTINUE
    data = {"prompt": prompt, "mode": mode, "session": str(found.public_id)}
    form = RunForm(found.agent, data, request.FILES)
    if not prompt.strip():
        # An agent's default prompt is not what somebody means who has typed nothing.
        return refused(request, found, "Type a message first.")
    run = submitted(request, form) if form.is_valid() else None
    if run is None:
        reasons = (str(reason) for reasons in form.errors.values() for reason in reasons)
        return refused(request, found, " ".join(reasons))
    url = run.get_absolute_url() if mode == RunForm.FORK else f"{address_of(found)}#newest"
    if request.accepts("text/html"):
        return HttpResponseRedirect(url, status=303)
    return JsonResponse({"run": str(run.public_id), "url": url}, status=202)


def refused(request: HttpRequest, found: Session, why: str) -> HttpResponse:
    """The page again with what was typed; for its script the reason alone."""
    if request.accepts("text/html"):
        return shown(request, found, why)
    return JsonResponse({"error": why}, status=422)


def address_of(found: Session) -> str:
    """The conversation's page."""
    return reverse("agents:session_conversation", args=[found.public_id])


@require_safe
def session_now(request: HttpRequest, public_id: UUID) -> JsonResponse:
    """What an open page does not have yet: runs behind `?after=`, and how those of `?watch=` are.

    With `?before=` the turns before a place.
    """
    found = seen(request, Session.objects.select_related(*ROWS), public_id=public_id)
    place = place_of(request.GET.get("before"))
    if place:
        window = conversation.before(found, place)
        return JsonResponse({"html": written(request, window), "earlier": str(window.earlier or "")})
    last = live.sequence(request.GET.get("after"))
    watched = [number for text in request.GET.get("watch", "").split(",") if (number := live.sequence(text))]
    rows = conversation.shown().filter(pk__in=conversation.runs_of(found).values("pk"))
    outcomes = {
        run.pk: render_to_string("agents/_outcome.html", {"run": run})
        for run in rows.filter(pk__in=watched[:WATCHED])
    }
    window = conversation.after(found, Place(last, LARGEST_SEQ))
    state = state_of(found)
    fragments = ("agents/_conversation_now.html", "agents/_conversation_controls.html")
    parts = "".join(render_to_string(name, state, request) for name in fragments)
    return JsonResponse({"html": written(request, window), "outcomes": outcomes, "parts": parts})


def written(request: HttpRequest, window: Window) -> str:
    """The turns of a window as HTML."""
    return render_to_string("agents/_turns.html", {"window": window}, request)


@require_safe
async def session_markdown(request: HttpRequest, public_id: UUID) -> StreamingHttpResponse:
    """The whole session as Markdown, to keep or to send."""
    found = await aseen(request, Session.objects.select_related(*ROWS), public_id=public_id)
    return download(as_markdown(found), "text/markdown; charset=utf-8", f"session-{found.public_id}.md")


@require_safe
async def session_jsonl(request: HttpRequest, public_id: UUID) -> StreamingHttpResponse:
    """The whole session as JSON, an object a line: the session, then each run before its events."""
    found = await aseen(request, Session.objects.select_related(*ROWS), public_id=public_id)
    return download(as_jsonl(found), "application/x-ndjson", f"session-{found.public_id}.jsonl")


def download(content: AsyncIterator[str], kind: str, name: str) -> StreamingHttpResponse:
    """A file that is written while it is sent; a browser never takes it for a page."""
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingHttpResponse(content, content_type=kind, headers=headers)


async def each_run(found: Session) -> AsyncIterator[Run]:
    """The runs of a session in their order, one at a time: a prompt may be a megabyte."""
    rows = Run.objects.select_related("agent", "session", "container")
    numbers = [pk async for pk in conversation.runs_of(found).order_by("pk").values_list("pk", flat=True)]
    for number in numbers:
        run = await rows.filter(pk=number).afirst()
        if run:
            yield run


async def as_markdown(found: Session) -> AsyncIterator[str]:
    """A session as Markdown, an event at a time."""
    yield export.session_head(found)
    async for run in each_run(found):
        yield export.head(run)
        async for event in run.events.order_by("seq").aiterator(chunk_size=200):
            yield export.section(event)


async def as_jsonl(found: Session) -> AsyncIterator[str]:
    """A session as lines of JSON, an event at a time."""
    yield export.line("session", session_json(found))
    async for run in each_run(found):
        yield export.line("run", run_json(run))
        async for event in run.events.order_by("seq").aiterator(chunk_size=200):
            yield export.line("event", {"run": str(run.public_id), **event_json(event)})
