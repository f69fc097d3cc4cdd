"""Runs: the list, one run's page, its raw output, its end."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.db.models import QuerySet
from django.db.models.functions import Left
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from agents import (
    attachments,
    changes,
    export,
    jobs,
    live,
    machine,
    search,
    sessions,
    transcript,
)
from agents.forms import RunForm, as_asked, differences
from agents.lists import RunList
from agents.models import Event, Run
from agents.models.rights import CHANGE, RUN
from agents.runtimes import RunError
from agents.views.access import aseen, needs, seen
from agents.views.lists import listed_page

# How many events a page shows; earlier ones are a link away.
WINDOW = 300
CHUNK = 256 * 1024


def listed(runs: QuerySet[Run]) -> QuerySet[Any]:
    """Runs as lists show them: the beginnings of their large texts only."""
    lean = runs.defer("prompt", "config", "result", "reason", "changes")
    lean = lean.select_related("agent", "requested_by")
    return lean.annotate(opening=Left("prompt", 200), why=Left("reason", 200))


@require_safe
def runs(request: HttpRequest) -> HttpResponse:
    """The runs that the address asks for, newest first unless it says otherwise."""
    return listed_page(request, RunList(request.user, request.GET), listed(Run.objects.all()), "runs")


def known(value: str | None, choices: list[str]) -> str:
    """A filter's value, if it is one that the filter offers."""
    return value if value in choices and value is not None else ""


@require_safe
def run(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """One run: the same page while it runs and afterwards."""
    rows = Run.objects.select_related(
        "agent__docker", "session", "container", "requested_by", "schedule__agent", "first_attempt"
    )
    found = seen(request, rows, public_id=public_id)
    place = place_of(request)
    events = window(found, place)
    first, last = (events[0].seq, events[-1].seq) if events else (0, 0)
    at_end = last >= found.event_count
    context = {
        "run": found,
        "config": found.agent_config,
        "obstacle": live.obstacle(found),
        "changes": changes.of(found),
        "items": transcript.items(found, events, at_end=at_end, whole=place.whole),
        "first": first,
        "last": last,
        "at_end": at_end or place == Place(),
    }
    more = searched(request, found) | next_steps(found) | {"again": again(request, found)}
    return render(request, "agents/run.html", context | more)


def next_steps(found: Run) -> dict[str, Any]:
    """How a run that has ended can go on, or why not."""
    if found.session is None or not found.is_terminal:
        return {}
    verdict = sessions.verdict(found.session, found.agent)
    return {
        "session": found.session,
        "why_not": verdict.continuing,
        "why_not_fork": verdict.forking,
        "waits": verdict.waits,
        "by_hand": sessions.by_hand(found),
    }


AGAIN = {
    RunForm.NEW: "in a new session",
    RunForm.CONTINUE: "in the same session",
    RunForm.FORK: "in another copy of the session",
}


def again(request: HttpRequest, found: Run) -> dict[str, Any]:
    """What asking for the same again would do, in words."""
    differs = differences(found)
    return {
        "where": AGAIN[as_asked(found)["mode"]],
        "differs": ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in differs.items()),
        "may_differ": request.user.has_perm(CHANGE),
    }


def searched(request: HttpRequest, found: Run) -> dict[str, Any]:
    """What was looked for in a run, and where it is."""
    query = request.GET.get("q", "").strip()[: search.LONGEST]
    group = known(request.GET.get("kind"), list(search.GROUPS))
    hits = search.find(found, query, group)
    return {"groups": search.GROUPS, "query": query, "group": group, "hits": hits, "most": search.MOST}


@dataclass(frozen=True)
class Place:
    """Where in a run to look: before an event, around one, or around one that is shown whole."""

    before: int = 0
    at: int = 0
    whole: int = 0


def place_of(request: HttpRequest) -> Place:
    """What the address says."""
    before, at, whole = (live.sequence(request.GET.get(name)) for name in ("before", "at", "whole"))
    return Place(before, at, whole)


def window(found: Run, place: Place) -> list[Event]:
    """The last events, or those around the place, in their order."""
    rows = found.events.order_by("-seq")
    around = place.at or place.whole
    if 0 < around <= found.event_count:
        # At the end a window is as long as elsewhere.
        rows = rows.filter(seq__lte=max(around + WINDOW // 2, WINDOW))
    elif place.before:
        rows = rows.filter(seq__lt=place.before)
    return list(rows[:WINDOW])[::-1]


@require_POST
@needs(RUN)
def run_cancel(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """Ask for the end of a run."""
    found = seen(request, Run.objects.select_related("agent", "session", "continues"), public_id=public_id)
    if not jobs.cancel(found, request.user):
        found.refresh_from_db(fields=["state"])
        already = "is being stopped" if found.is_live else "had ended"
        messages.info(request, f"The run {already} already.")
    return HttpResponseRedirect(back_from(request, found), status=303)


def back_from(request: HttpRequest, found: Run) -> str:
    """Where it was asked for: on the page of its conversation, or on its own."""
    session = found.session or found.continues
    if request.POST.get("from") == "conversation" and session:
        return reverse("agents:session_conversation", args=[session.public_id])
    return found.get_absolute_url()


@require_POST
@needs(RUN)
def run_again(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """Ask for the same once more, attachments and all: in a session chosen as before.

    With the settings as before, too; with `settings=agent` as the agent has them now.
    """
    found = seen(request, Run.objects.select_related("agent__docker"), public_id=public_id)
    typed = as_asked(found)
    if request.POST.get("settings") == "agent":
        typed = {name: text for name, text in typed.items() if name not in RunForm.OVERRIDES}
    form = RunForm(found.agent, typed, may_override=request.user.has_perm(CHANGE))
    try:
        if form.is_valid():
            again = form.submission | {"attached": attachments.of(found)}
            found = jobs.submit(found.agent, by=request.user, **again)
    except RunError as error:
        messages.error(request, f"Nothing was started: {error}")
    for reasons in form.errors.values():
        messages.error(request, " ".join(str(reason) for reason in reasons))
    return HttpResponseRedirect(found.get_absolute_url(), status=303)


@require_safe
async def run_markdown(request: HttpRequest, public_id: UUID) -> StreamingHttpResponse:
    """The whole run as Markdown, to keep or to send."""
    found = await aseen(request, Run.objects.select_related("agent"), public_id=public_id)
    headers = {
        "Content-Disposition": f'attachment; filename="run-{found.short_id}.md"',
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingHttpResponse(written(found), content_type="text/markdown; charset=utf-8", headers=headers)


async def written(found: Run) -> AsyncIterator[str]:
    """A run as Markdown, an event at a time."""
    yield export.head(found)
    async for event in found.events.order_by("seq").aiterator(chunk_size=200):
        yield export.section(event)


@require_safe
async def run_output(request: HttpRequest, public_id: UUID) -> HttpResponseBase:
    """Standard output of a run as a file, byte for byte."""
    found = await aseen(request, Run.objects.all(), public_id=public_id)
    path = machine.state().output(str(public_id))
    return removed(found) or download(path, found.output_bytes, f"run-{found.short_id}-output.jsonl")


@require_safe
async def run_errors(request: HttpRequest, public_id: UUID) -> HttpResponseBase:
    """Standard error of a run as a file, byte for byte."""
    found = await aseen(request, Run.objects.all(), public_id=public_id)
    path = machine.state().errors(str(public_id))
    return removed(found) or download(path, found.stderr_bytes, f"run-{found.short_id}-stderr.log")


def removed(found: Run) -> HttpResponse | None:
    """That the files of a run are gone for good, when and why; None while they are kept."""
    words = {"content_type": "text/plain; charset=utf-8", "status": 410}
    return HttpResponse(f"{found.farewell}\n", **words) if found.farewell else None


@require_safe
async def run_patch(request: HttpRequest, public_id: UUID) -> StreamingHttpResponse:
    """What a run changed in its git workspace, for `git apply`."""
    found = await aseen(request, Run.objects.all(), public_id=public_id)
    size = found.changes.get("patch_bytes", 0)
    return download(machine.state().patch(str(public_id)), size, f"run-{found.short_id}.patch")


def download(path: Path, size: int, name: str) -> StreamingHttpResponse:
    """What is recorded of a file; a browser never takes it for a page."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        raise Http404("There was nothing, or its file is gone.") from None
    length = min(size, os.fstat(descriptor).st_size)
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Content-Length": str(length),
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingHttpResponse(
        chunks(descriptor, length), content_type="text/plain; charset=utf-8", headers=headers
    )


async def chunks(descriptor: int, length: int) -> AsyncIterator[bytes]:
    """The first `length` bytes of an open file, a piece at a time; it is closed in the end."""
    try:
        while length > 0:
            piece = await sync_to_async(os.read, thread_sensitive=False)(descriptor, min(CHUNK, length))
            if not piece:
                return
            length -= len(piece)
            yield piece
    finally:
        os.close(descriptor)
