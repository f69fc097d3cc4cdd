"""Lists in pages."""

from typing import Any

from django.core.paginator import Page, Paginator
from django.http import HttpRequest

PER_PAGE = 50


def page_of(request: HttpRequest, rows: Any) -> Page[Any]:
    """The page of a list that the URL asks for; the nearest one when there is none of that number."""
    return Paginator(rows, PER_PAGE).get_page(request.GET.get("page"))
