"""What the lists have in common: filters, pages, and the links that people keep to them."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_POST

from agents.keyset import COUNTED
from agents.lists import LISTS, ListForm
from agents.models import SavedList
from agents.models.fields import shown


def listed_page(
    request: HttpRequest,
    form: ListForm,
    rows: QuerySet[Any],
    template: str,
    more: dict[str, Any] | None = None,
) -> HttpResponse:
    """A page of a list: as the address says, with as many rows as one page has.

    `rows` says how they are shown, which costs nothing for those of other pages; `more` is what the
    page shows beside the list.
    """
    listing = form.listing()
    page = listing.page(rows, request.GET.get("after", ""), request.GET.get("before", ""))
    context = {
        "form": form,
        "page": page,
        "count": counted(listing.count(), form.page),
        "order": listing.order,
        "here": reverse(f"agents:{form.page}"),
        "saved": list(form.saved()),
        "query": form.query(),
    }
    return render(request, f"agents/{template}.html", context | (more or {}))


def counted(count: int | None, page: str) -> str:
    """How many there are, as far as they are counted."""
    if count is None or count > COUNTED:
        return f"more than {COUNTED:,} {page}" if count else ""
    return f"{count:,} {page.removesuffix('s') if count == 1 else page}"


@require_POST
def list_save(request: HttpRequest, page: str) -> HttpResponse:
    """Keep a list as it is filtered and sorted, under a name of the user's own."""
    if page not in LISTS:
        raise Http404
    form = LISTS[page](request.user, QueryDict(request.POST.get("query", "")[:4000]))
    try:
        link = form.save(request.POST.get("name", ""))
        messages.success(request, f"Saved as {shown(link.name)}.")
    except ValidationError as error:
        messages.error(request, f"It was not saved. {' '.join(error.messages)}")
    return HttpResponseRedirect(address(page, form.query()), status=303)


@require_POST
def list_forget(request: HttpRequest, number: int) -> HttpResponse:
    """Delete a link of the user's own; another's is not found."""
    link = get_object_or_404(SavedList, pk=number, user_id=request.user.pk)
    link.delete()
    messages.info(request, f"Deleted the link {shown(link.name)}.")
    return HttpResponseRedirect(address(link.page), status=303)


def address(page: str, query: str = "") -> str:
    """Of a list, as filtered."""
    path = reverse(f"agents:{page}")
    return f"{path}?{query}" if query else path
