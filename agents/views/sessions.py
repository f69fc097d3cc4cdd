"""Sessions: conversations, and whether they can go on."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.db.models import Count, DurationField, ExpressionWrapper, F, Max, Q, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from agents import archive, bundle, lineage, recovery
from agents.forms import TitleForm
from agents.lists import SessionList
from agents.models import Archive, Audit, Run, Session
from agents.models.rights import RUN
from agents.runtimes import RunError
from agents.sessions import verdict
from agents.views.access import address, aseen, needs, seen
from agents.views.lists import listed_page
from agents.views.runs import listed

SHOWN = 50
# No number of a row is longer.
DIGITS = 19


@require_safe
def sessions(request: HttpRequest) -> HttpResponse:
    """The sessions that the address asks for, those used last first unless it says otherwise."""
    rows = Session.objects.select_related("agent")
    return listed_page(request, SessionList(request.user, request.GET), rows, "sessions")


@require_safe
def session(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """One session: where it came from, what happened in it, and how to go on."""
    rows = Session.objects.select_related("agent__docker", "forked_from")
    found = seen(request, rows, public_id=public_id)
    judged = verdict(found, found.agent, request.user)
    context = {
        "session": found,
        "verdict": judged,
        "why_not": judged.continuing,
        "why_not_fork": judged.forking,
        "restorable": archive.REMEDY in judged.continuing,
        "waits": judged.waits,
        "runs": listed(found.runs.all())[:SHOWN],
        "containers": found.containers.all()[:SHOWN],
        "archives": found.archives.select_related("run"),
        "lineage": lineage.tree(found),
        "totals": totals(found),
        "title_length": Session._meta.get_field("title").max_length,
    }
    return render(request, "agents/session.html", context)


def totals(found: Session) -> dict[str, Any]:
    """Its runs and containers counted, and the time that its runs took."""
    taken = ExpressionWrapper(F("finished_at") - F("started_at"), output_field=DurationField())
    return {
        **found.runs.aggregate(
            runs=Count("pk"),
            live=Count("pk", filter=Q(state__in=Run.LIVE)),
            succeeded=Count("pk", filter=Q(state=Run.State.SUCCEEDED)),
            time=Sum(taken),
        ),
        **found.containers.aggregate(containers=Count("pk"), peak=Max("memory_peak")),
    }


@require_POST
@needs(RUN)
def session_rename(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """Give a session another title."""
    found = seen(request, Session.objects.select_related("agent"), public_id=public_id)
    before = str(found)
    form = TitleForm(request.POST, instance=found)
    if form.is_valid():
        rename(form.save(), before, request)
    for reasons in form.errors.values():
        messages.error(request, " ".join(str(reason) for reason in reasons))
    page = "session_conversation" if request.POST.get("from") == "conversation" else "session"
    return HttpResponseRedirect(reverse(f"agents:{page}", args=[found.public_id]), status=303)


def rename(found: Session, before: str, request: HttpRequest) -> None:
    """Note who renamed it, from what to what."""
    facts = {"path": found.get_absolute_url(), "agent": found.agent, "address": address(request)}
    said = f"Renamed from: {before}"
    Audit.note(request.user, Audit.Deed.CHANGED, f"session {found}", detail=said, **facts)
    messages.info(request, "It has a new title.")


@require_POST
@needs(RUN)
def session_restore(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """Put an archived transcript back into the session's home: the current one, or the one of `archive`."""
    found = seen(request, Session.objects.select_related("agent__docker"), public_id=public_id)
    number = request.POST.get("archive", "")
    rows = found.archives.filter(pk=int(number) if number.isdecimal() and len(number) < DIGITS else 0)
    if number and not rows:
        messages.error(request, "Nothing was restored. This session has no such archive.")
    else:
        restore(found, rows.first(), request)
    return HttpResponseRedirect(found.get_absolute_url(), status=303)


def restore(found: Session, row: Archive | None, request: HttpRequest) -> None:
    """Restore, and say what became of it."""
    try:
        kept = recovery.restore(found, request.user, row, address(request))
    except RunError as error:
        messages.error(request, f"Nothing was restored. {error}")
    else:
        beside = f" What was there is kept as {kept}." if kept else ""
        messages.info(request, f"Its transcript is restored.{beside}")


@require_safe
async def session_download(request: HttpRequest, public_id: UUID) -> HttpResponse | StreamingHttpResponse:
    """The whole session as one file, which `session_import` takes in."""
    rows = Session.objects.select_related("agent__docker", "forked_from")
    found = await aseen(request, rows, public_id=public_id)
    reason = await sync_to_async(bundle.obstacle)(found)
    if reason:
        messages.error(request, f"It cannot be downloaded now. {reason}")
        return HttpResponseRedirect(found.get_absolute_url(), status=303)
    headers = {
        "Content-Disposition": f'attachment; filename="{bundle.file_name(found)}"',
        "X-Content-Type-Options": "nosniff",
    }
    content = handed_on(bundle.packed(found))
    return StreamingHttpResponse(content, content_type="application/gzip", headers=headers)


async def handed_on(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """What is made piece by piece in the thread that has the database."""
    while (piece := await sync_to_async(following)(pieces)) is not None:
        yield piece


def following(pieces: Iterator[bytes]) -> bytes | None:
    """The next piece; none in the end."""
    return next(pieces, None)
