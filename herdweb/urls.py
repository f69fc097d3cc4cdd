"""The site: its pages, its admin, its login."""

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import include, path

from agents.views.login import Login, admin_login, missing

admin.site.site_header = admin.site.site_title = "herdweb"
admin.site.index_title = "Administration"

urlpatterns = [
    path("admin/login/", admin_login),
    # Django would tell staff by a redirect that a row exists that they may not see.
    path("admin/r/<path:rest>", missing),
    path("admin/", admin.site.urls),
    path("login/", Login.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("", include("agents.urls")),
]
