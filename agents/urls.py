"""The table of contents: a path, a view."""

from django.urls import path

from agents.views import (
    agents,
    bulk,
    containers,
    dashboard,
    events,
    files,
    help,
    images,
    lists,
    retention,
    runs,
    sessions,
)

app_name = "agents"

urlpatterns = [
    path("", dashboard.dashboard, name="dashboard"),
    path("agents/", agents.agents, name="agents"),
    path("agents/<slug:name>/", agents.agent, name="agent"),
    path("agents/<slug:name>/retention/", retention.retention, name="retention"),
    path("runs/", runs.runs, name="runs"),
    path("runs/bulk/", bulk.runs_bulk, name="runs_bulk"),
    path("runs/<uuid:public_id>/", runs.run, name="run"),
    path("runs/<uuid:public_id>/cancel/", runs.run_cancel, name="run_cancel"),
    path("runs/<uuid:public_id>/again/", runs.run_again, name="run_again"),
    path("runs/<uuid:public_id>/pin/", retention.run_pin, name="run_pin"),
    path("runs/<uuid:public_id>/markdown/", runs.run_markdown, name="run_markdown"),
    path("runs/<uuid:public_id>/output/", runs.run_output, name="run_output"),
    path("runs/<uuid:public_id>/errors/", runs.run_errors, name="run_errors"),
    path("runs/<uuid:public_id>/events/", events.run_events, name="run_events"),
    path("runs/<uuid:public_id>/stream/", events.run_stream, name="run_stream"),
    path("runs/<uuid:public_id>/events/<int:seq>/image/<int:place>/", images.run_image, name="run_image"),
    path("runs/<uuid:public_id>/attachments/<int:number>/", files.run_attachment, name="run_attachment"),
    path("sessions/", sessions.sessions, name="sessions"),
    path("sessions/<uuid:public_id>/", sessions.session, name="session"),
    path("sessions/<uuid:public_id>/files/", files.session_files, name="session_files"),
    path("sessions/<uuid:public_id>/files/download/", files.session_file, name="session_file"),
    path("sessions/<uuid:public_id>/files/picture/", files.session_picture, name="session_picture"),
    path("sessions/<uuid:public_id>/rename/", sessions.session_rename, name="session_rename"),
    path("sessions/<uuid:public_id>/download/", sessions.session_download, name="session_download"),
    path("sessions/<uuid:public_id>/restore/", sessions.session_restore, name="session_restore"),
    path("sessions/<uuid:public_id>/pin/", retention.session_pin, name="session_pin"),
    path("sessions/<uuid:public_id>/delete/", bulk.session_delete, name="session_delete"),
    path("containers/", containers.containers, name="containers"),
    path("containers/<int:number>/", containers.container, name="container"),
    path("containers/<int:number>/now/", containers.container_now, name="container_now"),
    path("containers/<int:number>/stop/", containers.container_stop, name="container_stop"),
    path("containers/<int:number>/keep/", containers.container_keep, name="container_keep"),
    path("containers/<int:number>/remove/", containers.container_remove, name="container_remove"),
    path("lists/<slug:page>/save/", lists.list_save, name="list_save"),
    path("lists/<int:number>/forget/", lists.list_forget, name="list_forget"),
    path("help/", help.help_page, name="help"),
]
