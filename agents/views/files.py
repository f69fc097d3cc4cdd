"""The files of a session's workspace: looked at, and taken along."""

import os
from collections.abc import AsyncIterator
from typing import IO
from uuid import UUID

from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_safe

from agents import attachments
from agents.files import LARGEST_PICTURE, SNIFFED, Place, Row, asked, beginning, picture, preview
from agents.models import Run, Session
from agents.runtimes import RunError, human_size
from agents.runtimes.files import PIECE
from agents.views.access import aseen, seen

# Whatever a file holds, a browser takes it for what is said here, and executes nothing of it.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}


@require_safe
def session_files(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """A directory of the workspace, or one of its files."""
    session = seen(request, Session.objects.select_related("agent__docker"), public_id=public_id)
    query = request.META["QUERY_STRING"]
    try:
        place = Place.read(session, query)
        is_directory = place.tree.look(place.way).kind == "directory"
        shown = directory(place, query) if is_directory else one_file(place)
    except RunError as error:
        context = {"session": session, "place": Place(session, None, ()), "refusal": str(error)}
        return render(request, "agents/files.html", context, status=404)
    return render(request, "agents/files.html", {"session": session, "place": place, **shown})


def directory(place: Place, query: str) -> dict[str, object]:
    """What the page of a directory shows."""
    listing = place.tree.listing(place.way, asked(query, "after"), asked(query, "before"))
    entries = listing.entries
    return {
        "listing": listing,
        "rows": [Row(entry, place.at(entry.name)) for entry in entries],
        "newer": place.address(before=entries[0].key) if listing.before and entries else "",
        "older": place.address(after=entries[-1].key) if listing.after and entries else "",
        "start": "" if entries else place.address(),
    }


def one_file(place: Place) -> dict[str, object]:
    """What the page of a file shows: facts of what is not opened, too."""
    entry = place.tree.look(place.way)
    if entry.kind != "file":
        return {"row": Row(entry, place)}
    with place.tree.open(place.way) as file:
        shown = preview(file)
    return {
        "row": Row(entry, place),
        "preview": shown,
        "download": place.address("session_file"),
        "picture": place.address("session_picture") if shown.picture else "",
        "too_large": too_large(entry.size),
    }


def too_large(size: int) -> str:
    """Why a file is not handed out; empty if it is."""
    limit = settings.HERDWEB_DOWNLOAD_LIMIT
    if size <= limit:
        return ""
    return f"It is too large to be downloaded: {human_size(size)}, and the limit is {human_size(limit)}."


@require_safe
async def session_file(request: HttpRequest, public_id: UUID) -> HttpResponse | StreamingHttpResponse:
    """A file of the workspace as a download, whatever it holds."""
    session = await aseen(request, Session.objects.select_related("agent__docker"), public_id=public_id)
    return await sync_to_async(workspace_file)(session, request.META["QUERY_STRING"])


def workspace_file(session: Session, query: str) -> HttpResponse | StreamingHttpResponse:
    """The file that an address names, or why not."""
    try:
        place = Place.read(session, query)
        return attachment(place.tree.open(place.way), place.name)
    except RunError as error:
        return refusal(str(error), 404)


def attachment(file: IO[bytes], name: str) -> HttpResponse | StreamingHttpResponse:
    """An open file to be saved and never shown; as much of it as there is now."""
    size = os.fstat(file.fileno()).st_size
    if too_large(size):
        file.close()
        return refusal(too_large(size), 422)
    said = content_disposition_header(as_attachment=True, filename=name) or "attachment"
    return StreamingHttpResponse(
        Pieces(file, size),
        content_type="application/octet-stream",
        headers=HEADERS | {"Content-Disposition": said, "Content-Length": str(size)},
    )


def refusal(why: str, status: int) -> HttpResponse:
    """In words, for whoever asked for a file."""
    return HttpResponse(f"{why}\n", status=status, content_type="text/plain; charset=utf-8", headers=HEADERS)


@require_safe
def session_picture(request: HttpRequest, public_id: UUID) -> HttpResponse:
    """A picture of the workspace as what its own first bytes say, if that is harmless."""
    session = seen(request, Session.objects.select_related("agent__docker"), public_id=public_id)
    try:
        place = Place.read(session, request.META["QUERY_STRING"])
        with place.tree.open(place.way) as file:
            content = beginning(file, LARGEST_PICTURE + 1)
    except RunError as error:
        return refusal(str(error), 404)
    kind = picture(content[:SNIFFED])
    if not kind or len(content) > LARGEST_PICTURE:
        return refusal("That is no picture that can be shown: PNG, JPEG, GIF or WebP of up to 16 MB.", 404)
    name = content_disposition_header(as_attachment=False, filename=place.name) or "inline"
    return HttpResponse(content, content_type=kind, headers=HEADERS | {"Content-Disposition": name})


@require_safe
async def run_attachment(
    request: HttpRequest, public_id: UUID, number: int
) -> HttpResponse | StreamingHttpResponse:
    """A file that was given to a run, as it was given."""
    run = await aseen(request, Run.objects.all(), public_id=public_id)
    if number >= len(run.attachments):
        raise Http404("The run has no such attachment.")
    return await sync_to_async(kept_file)(run, str(run.attachments[number]["name"]))


def kept_file(run: Run, name: str) -> HttpResponse | StreamingHttpResponse:
    """The file that is kept of an attachment, or that it is gone."""
    try:
        return attachment(attachments.kept(run).open((name.encode(),)), name)
    except RunError as error:
        return refusal(str(error), 404)


class Pieces:
    """The first bytes of an open file, read as they are wanted; closed with the answer, read or not."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file = file
        self.size = size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self.size
        read = sync_to_async(self.file.read, thread_sensitive=False)
        while left > 0 and (piece := await read(min(PIECE, left))):
            left -= len(piece)
            yield piece

    def close(self) -> None:
        """Called by Django at the end of the answer."""
        self.file.close()
