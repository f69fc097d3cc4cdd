"""Pictures in the results of tools, out of the raw output.

By an address of their own and not inside the page: pages and streams stay small, a browser loads
what it shows, and the answer has a policy under which even a mistaken type could do nothing.
"""

import os
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from agents import machine, transcript
from agents.models import Event
from agents.runtimes.streamjson import messages
from agents.views.access import seen

# In bytes, of the line with the picture in it.
LARGEST = 16 * 1024**2
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    # What an event was stays as it is.
    "Cache-Control": "private, max-age=86400, immutable",
}


@require_safe
def run_image(request: HttpRequest, public_id: UUID, seq: int, place: int) -> HttpResponse:
    """One picture of a result, if it is of a type that is known to be harmless."""
    rows = Event.objects.select_related("run").filter(kind=Event.Kind.TOOL_RESULT)
    event = seen(request, rows, run__public_id=public_id, seq=min(seq, transcript.LARGEST_SEQ))
    content = whole_block(event).get("content")
    parts = content if isinstance(content, list) else []
    found = transcript.picture(parts[place]) if place < len(parts) else None
    if found is None:
        raise Http404("There is no such picture.")
    return HttpResponse(found[0], content_type=found[1], headers=HEADERS)


def whole_block(event: Event) -> dict[str, Any]:
    """The content block of an event as it was printed; rows hold the beginnings of long ones."""
    if event.offset is None or not event.length or event.length > LARGEST:
        return {}
    found = messages(raw_line(event).decode("utf-8", "replace"))
    # A line may hold several blocks, which became events one after the other.
    earlier = event.run.events.filter(seq__lt=event.seq, seq__gte=event.seq - len(found), offset=event.offset)
    place = earlier.exclude(kind__in=(Event.Kind.STATUS, Event.Kind.STDERR)).count()
    payload = found[place].payload if place < len(found) else None
    block = payload.get("block") if payload else None
    return block if isinstance(block, dict) else {}


def raw_line(event: Event) -> bytes:
    """The line that an event came from; empty when its file is gone."""
    path = machine.state().output(str(event.run.public_id))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(event.offset or 0)
        return file.read(event.length or 0)
