"""The way in, and who was let in or not."""

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_not_required
from django.contrib.auth.views import LoginView, redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse

from agents.models import Audit
from agents.views.access import address


class Login(LoginView):
    """The login form; guesses are counted by django-axes."""

    redirect_authenticated_user = True

    def form_valid(self, form: Any) -> HttpResponse:
        """Let in, and note it."""
        Audit.note(form.get_user(), Audit.Deed.LOGGED_IN, "login", address=address(self.request))
        return super().form_valid(form)

    def form_invalid(self, form: Any) -> HttpResponse:
        """Note whose account it was; a name that is none may be a password in the wrong field."""
        typed = str(form.data.get("username", ""))
        known = get_user_model().objects.filter(username=typed).exists() if "\x00" not in typed else False
        who = typed if known else "an unknown name"
        Audit.refused(who, "login", detail="wrong name or password", address=address(self.request))
        return super().form_invalid(form)


@login_not_required
def admin_login(request: HttpRequest) -> HttpResponse:
    """The admin's own login page is this site's; who is logged in and comes here may not enter."""
    if request.user.is_authenticated:
        Audit.refused(request.user, "administration", detail="no staff status", address=address(request))
        raise PermissionDenied("The administration is for people with staff status. Ask an administrator.")
    return redirect_to_login(request.GET.get("next", "/admin/"))


def missing(_: HttpRequest, **__: object) -> HttpResponse:
    """An address that is not there."""
    raise Http404
