"""What the user of a request may see and do, and the line in the audit trail when not."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse

from agents.models import Audit
from agents.models.rights import ADMINISTER, DELETE, RUN, Guarded

Row = TypeVar("Row", bound=Model)
View = Callable[..., HttpResponse]

# Who has the permission, in words.
ROLES_WITH = {RUN: "operators", ADMINISTER: "administrators", DELETE: "administrators"}


def seen(request: HttpRequest, rows: Guarded[Row], **which: Any) -> Row:
    """The row that is asked for, if the user may see it.

    Raises Http404 for a forbidden row as for a missing one, so that nobody learns what there is.
    """
    if any(isinstance(value, str) and "\0" in value for value in which.values()):
        # PostgreSQL knows no such text.
        raise Http404
    found = rows.visible_to(request.user).filter(**which).first()
    if found is None:
        if rows.filter(**which).exists():
            refuse(request, "not visible to this user")
        raise Http404
    return found


def reason_in(request: HttpRequest) -> str:
    """Why something is paused, as it was typed, without what no database stores."""
    return request.POST.get("why", "").replace("\0", "").strip()[:300]


aseen = sync_to_async(seen)


def needs(permission: str) -> Callable[[View], View]:
    """A view for those who have the permission; others get 403 and are told whom to ask."""

    def decorate(view: View) -> View:
        @wraps(view)
        def guarded(request: HttpRequest, *arguments: Any, **options: Any) -> HttpResponse:
            demand(request, permission)
            return view(request, *arguments, **options)

        return guarded

    return decorate


def demand(request: HttpRequest, permission: str) -> None:
    """Raise PermissionDenied unless the user has the permission."""
    if not request.user.has_perm(permission):
        who = ROLES_WITH[permission]
        refuse(request, f"only {who} may")
        raise PermissionDenied(f"Only {who} may do this. Ask an administrator for the role.")


def refuse(request: HttpRequest, why: str) -> None:
    """Note a refusal; one that is repeated within a minute is noted once."""
    Audit.refused(request.user, f"{request.method} {request.path}", detail=why, address=address(request))


def address(request: HttpRequest) -> str | None:
    """Where the request came from; none on a Unix socket."""
    return request.META.get("REMOTE_ADDR") or None
