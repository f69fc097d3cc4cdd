"""The table of contents: a path, a view."""

from django.urls import URLPattern

app_name = "agents"

urlpatterns: list[URLPattern] = []
