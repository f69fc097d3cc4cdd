"""Everything editable, and the records to look things up in."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import JSONField, Model, QuerySet, TextField
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html

from agents.forms import AgentForm, DockerSettingsForm, FleetForm, SiteForm
from agents.models import (
    Agent,
    Audit,
    Container,
    DockerSettings,
    Event,
    Fire,
    Fleet,
    Run,
    Schedule,
    Session,
    Site,
)
from agents.models.fields import LinesField, PairsField, SecondsField, SizeField
from agents.models.rights import Guarded, is_administrator
from agents.prose import plain, pretty
from agents.scheduleform import ScheduleForm
from agents.tryout import TryOut

if TYPE_CHECKING:
    Inline = admin.StackedInline[DockerSettings, Agent]
    ModelBase = admin.ModelAdmin[Any]
    Pages = Paginator[Any]
else:
    # Django's own classes know no type arguments.
    Inline, ModelBase, Pages = admin.StackedInline, admin.ModelAdmin, Paginator

# The queue's own pages let every staff member delete jobs; `doctor` and the runs' pages say what matters.
DASHBOARD = apps.get_model("django_rq", "Dashboard")
if admin.site.is_registered(DASHBOARD):
    admin.site.unregister(DASHBOARD)

# Of agents that keep a group from being deleted.
NAMED_AT_MOST = 20

FOR_ADMINISTRATORS = "Fields that decide what an agent can reach, and who sees it. Administrators set them."

# Sizes and durations are written with a unit, so not in a browser's box for numbers.
WIDGETS: Any = {kind: {"widget": AdminTextInputWidget} for kind in (SizeField, SecondsField)} | {
    kind: {"widget": AdminTextareaWidget(attrs={"rows": 3})}
    for kind in (LinesField, PairsField, TextField, JSONField)
}


class Audited(ModelBase):
    """Notes in the audit trail, too, who added, changed or deleted a row."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """A new row."""
        witness(request, Audit.Deed.ADDED, obj, "")
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """A changed row, with the names of the fields."""
        entry = super().log_change(request, obj, message)
        witness(request, Audit.Deed.CHANGED, obj, entry.get_change_message())
        return entry

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        """Rows that are about to go."""
        for row in queryset:
            witness(request, Audit.Deed.DELETED, row, "")
        return super().log_deletions(request, queryset)


def witness(request: HttpRequest, deed: str, row: Any, detail: str) -> None:
    """One line of the audit trail about a row."""
    agent = row if isinstance(row, Agent) and deed != Audit.Deed.DELETED else None
    what = f"{row._meta.verbose_name} {row}"
    Audit.note(request.user, deed, what, detail=detail, agent=agent, address=request.META.get("REMOTE_ADDR"))


class AgentAdminForm(AgentForm):
    """An agent's fields, and the groups that it is limited to."""

    class Meta(AgentForm.Meta):
        fields = [*AgentForm.Meta.fields, "groups"]


class DockerForm(DockerSettingsForm):
    """The settings of a new agent are stored even when nobody changed their defaults."""

    def has_changed(self) -> bool:
        """True for a row that does not exist yet."""
        return self.instance.pk is None or super().has_changed()


class DockerSettingsInline(Inline):
    """How the agent is kept in a container: exactly one row."""

    model = DockerSettings
    form = DockerForm
    min_num = max_num = 1
    extra = 0
    can_delete = False
    formfield_overrides = WIDGETS
    fieldsets = [
        (None, {"fields": ["enabled"]}),
        (
            "What it may use",
            {"fields": ["memory", "cpus", "pids_limit", "workspace_mode", "tmpfs", "labels"]},
        ),
        (
            "What stays after a run",
            {"fields": ["ephemeral", "container_scope", "max_containers", "keep_failed"]},
        ),
        (
            "What it is made of and can reach",
            {"fields": list(DockerSettings.ADMINISTRATOR_FIELDS[1:]), "description": FOR_ADMINISTRATORS},
        ),
    ]

    def get_readonly_fields(self, request: HttpRequest, obj: Agent | None = None) -> list[str]:
        """The second tier, for everybody but administrators."""
        return [] if is_administrator(request.user) else list(DockerSettings.ADMINISTRATOR_FIELDS)


@admin.register(Agent)
class AgentAdmin(TryOut, Audited):
    """Agents with their Docker settings."""

    form = AgentAdminForm
    inlines = [DockerSettingsInline]
    formfield_overrides = WIDGETS
    list_display = ["name", "enabled", "runtime", "model", "in_container", "max_concurrent", "updated"]
    list_filter = ["enabled", "runtime", "docker__enabled"]
    list_select_related = ["docker"]
    search_fields = ["name", "description"]
    save_on_top = True
    filter_horizontal = ["groups"]
    fieldsets = [
        (None, {"fields": ["name", "description", "enabled"]}),
        ("What it runs", {"fields": ["runtime", "command", "model", "default_prompt"]}),
        ("Standing orders", {"fields": ["system_prompt", "system_prompt_mode"]}),
        (
            "What it may do",
            {
                "fields": [
                    "permission_mode", "allowed_tools", "denied_tools", "max_turns", "mcp_servers",
                    "setting_sources",
                ],
                "description": "Rules that Claude Code keeps by itself. What really holds it is a container.",
            },
        ),
        (
            "Limits",
            {
                "description": "herdweb keeps these, whatever the agent does. The defaults suit most agents.",
                "fields": [
                    "time_limit", "idle_limit", "start_limit", "wait_limit", "cancel_grace", "exit_grace",
                    "output_limit", "max_concurrent", "priority",
                ]
            },
        ),
        (
            "What it may spend",
            {
                "description": "As the agent reports it. At a limit of a day nothing new starts, and says so;"
                " nothing that is live is ended for it.",
                "fields": ["max_tokens", "max_cost", "day_cost", "day_tokens"],
            },
        ),
        (
            "When it fails",
            {
                "description": "Each further attempt is a run of its own, linked to the first one.",
                "fields": ["retry_on", "max_retries", "retry_delay", "continue_after_limit"],
            },
        ),
        (
            "Between its runs",
            {
                "description": "What its conversations keep, and share.",
                "fields": ["session_timeout", "shared_home"],
            },
        ),
        (
            "Where it works",
            {"fields": ["workspace_scope", "git_branch", "git_depth"]},
        ),
        (
            "What is kept",
            {
                "fields": ["keep_days", "keep_runs", "keep_bytes"],
                "description": "Files beyond any of these are removed; empty keeps everything. What is pinned"
                " stays, and so do records and events.",
            },
        ),
        (
            "For administrators",
            {"fields": list(Agent.ADMINISTRATOR_FIELDS), "description": FOR_ADMINISTRATORS},
        ),
    ]  # fmt: skip

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Administrators alone: a new agent says what is executed, and where."""
        return is_administrator(request.user) and super().has_add_permission(request)

    def has_change_permission(self, request: HttpRequest, obj: Agent | None = None) -> bool:
        """Administrators alone while there is no container: whatever is written there runs on the host."""
        contained = obj is None or obj.docker.enabled
        allowed = super().has_change_permission(request, obj)
        return allowed and (contained or is_administrator(request.user))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The agents that the user may see."""
        return Agent.objects.visible_to(request.user).select_related("docker")

    @admin.display(boolean=True, ordering="docker__enabled", description="Docker")
    def in_container(self, agent: Agent) -> bool:
        """Whether the agent is kept in a container."""
        return agent.docker.enabled

    def view_on_site(self, agent: Agent) -> str:
        """The agent's page."""
        return agent.get_absolute_url()

    def get_readonly_fields(self, request: HttpRequest, obj: Agent | None = None) -> list[str]:
        """The name once it is given; for all but administrators the host directory."""
        fixed = ["name"] if obj else []
        return fixed if is_administrator(request.user) else [*fixed, *Agent.ADMINISTRATOR_FIELDS]

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, Any, Any]:
        """Name what keeps an agent from being deleted in numbers, not row by row."""
        kept = [line for agent in objs for line in records(agent)]
        if not kept:
            return super().get_deleted_objects(objs, request)
        return [], {}, set(), [*kept, "Switch the agent off instead: its records need it."]


def records(agent: Agent) -> list[str]:
    """What would lose its agent, in words."""
    counts = {
        "runs": agent.runs.count(),
        "sessions": agent.sessions.count(),
        "containers": agent.containers.count(),
    }
    return [
        f"{number} {name if number > 1 else name[:-1]} of {agent}"
        for name, number in counts.items()
        if number
    ]


@admin.register(Fleet)
class FleetAdmin(Audited):
    """Fleets, which administrators make: what they set holds for agents of many people."""

    form = FleetForm
    formfield_overrides = WIDGETS
    list_display = ["name", "max_concurrent", "month_cost", "month_tokens"]
    search_fields = ["name", "description"]
    fieldsets = [
        (None, {"fields": ["name", "description"]}),
        ("All its agents together", {"fields": ["max_concurrent", "month_cost", "month_tokens"]}),
        (
            "Of agents that say nothing themselves",
            {"fields": ["time_limit", "idle_limit", "start_limit", "wait_limit", "cancel_grace"]},
        ),
    ]


@admin.register(Site)
class SiteAdmin(Audited):
    """The limits of everybody together: one row, which is there already."""

    form = SiteForm

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody: there is one."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Straight to the one row."""
        row = Site.get()
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        return HttpResponseRedirect(reverse("admin:agents_site_change", args=[row.pk]))


class ScheduleAdminForm(ScheduleForm):
    """A schedule's fields, and for a new one its agent."""

    class Meta(ScheduleForm.Meta):
        fields = ["agent", *ScheduleForm.Meta.fields]


@admin.register(Schedule)
class ScheduleAdmin(Audited):
    """Schedules, of the agents that the user may run."""

    form = ScheduleAdminForm
    formfield_overrides = WIDGETS
    list_display = ["name", "agent", "words", "enabled", "is_paused", "due_at"]
    list_filter = ["enabled", "missed", "overlap"]
    list_select_related = ["agent"]
    search_fields = ["name", "agent__name", "cron"]
    fieldsets = [
        (None, {"fields": ["agent", "name", "enabled"]}),
        ("When", {"fields": ["cron", "interval", "counted_from", "time_zone", "starts_at", "ends_at"]}),
        ("What", {"fields": ["prompt", "conversation", "session"]}),
        (
            "When it cannot be run, and when not",
            {
                "fields": [
                    "missed", "missed_limit", "overlap", "breaker", "jitter", "priority", "blackouts",
                ]
            },
        ),
    ]  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Those of agents that the user may see."""
        rows: Guarded[Any] = super().get_queryset(request)  # type: ignore[assignment]
        return rows.visible_to(request.user)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **options: Any) -> Any:
        """No other agents can be chosen."""
        if db_field.name == "agent":
            options["queryset"] = Agent.objects.visible_to(request.user)
        return super().formfield_for_foreignkey(db_field, request, **options)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """The agent, once it has one."""
        return ["agent"] if obj else []

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """With its owner and its next moment."""
        form.save_by(request.user)

    def view_on_site(self, schedule: Schedule) -> str:
        """The schedule's page."""
        return schedule.get_absolute_url()


class CappedPaginator(Pages):
    """Counts so many rows and no more: a table of millions is not read for its page numbers."""

    most = 10_000

    @cached_property
    def count(self) -> int:
        """The number of rows, or the most that are counted."""
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return rows.order_by()[: self.most].count()


class RecordAdmin(ModelBase):
    """Rows that herdweb writes: to be read here, changed by nobody."""

    actions = None
    list_per_page = 50
    show_full_result_count = False
    paginator = CappedPaginator
    # Fields that are JSON, shown with line breaks.
    json_fields: Sequence[str] = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """The rows that the user may see."""
        rows: Guarded[Any] = super().get_queryset(request)  # type: ignore[assignment]
        return rows.visible_to(request.user)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """The row with its texts, and those of what it points to, made harmless."""
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            tame(row, *filter(None, (getattr(row, name) for name in foreign_keys(row))))
        return row

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """The list, likewise."""
        found = super().get_changelist_instance(request)
        for row in found.result_list:
            tame(row, *filter(None, row._state.fields_cache.values()))
        return found

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Nobody."""
        return False

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        """Every column; JSON as text with line breaks."""
        names = [field.name for field in self.model._meta.fields if field.name != "id"]
        return [f"{name}_shown" if name in self.json_fields else name for name in names]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        """All."""
        return self.get_fields(request, obj)


def foreign_keys(row: Model) -> list[str]:
    """The names of the columns that point to other rows."""
    return [field.name for field in row._meta.concrete_fields if field.is_relation]


def tame(*rows: Model) -> None:
    """Make the texts of rows harmless, which must not be saved afterwards; the admin only shows them."""
    for row in rows:
        for field in row._meta.concrete_fields:
            if isinstance(row.__dict__.get(field.attname), str) and not field.primary_key:
                setattr(row, field.attname, plain(row.__dict__[field.attname]))


def shown(name: str) -> Any:
    """A column of the admin that shows a JSON field."""

    @admin.display(description=name.replace("_", " "))
    def column(_: Any, row: Model) -> str:
        return format_html('<pre class="own-json" tabindex="0">{}</pre>', pretty(getattr(row, name)))

    return column


@admin.register(Run)
class RunAdmin(RecordAdmin):
    """Runs."""

    json_fields = ["config", "attachments", "changes"]
    config_shown, attachments_shown, changes_shown = shown("config"), shown("attachments"), shown("changes")
    list_display = [
        "short_id",
        "agent",
        "state",
        "trigger",
        "requested_by",
        "created",
        "duration",
        "exit_code",
    ]
    list_filter = ["state", "trigger", "oom", "suspect", ("created", admin.DateFieldListFilter)]
    list_select_related = ["agent", "requested_by"]
    search_fields = ["public_id__startswith", "agent__name"]
    search_help_text = "The beginning of a run's id, or an agent's name."

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Without the large texts where only a list is shown."""
        rows = super().get_queryset(request)
        wants_one = request.resolver_match and request.resolver_match.kwargs.get("object_id")
        return rows if wants_one else rows.defer("prompt", "config", "result", "reason", "changes")

    def view_on_site(self, run: Run) -> str:
        """The run's page."""
        return run.get_absolute_url()


@admin.register(Session)
class SessionAdmin(RecordAdmin):
    """Sessions."""

    list_display = ["public_id", "title", "agent", "runtime", "turns", "cost_usd", "last_used"]
    list_filter = ["runtime", ("last_used", admin.DateFieldListFilter)]
    list_select_related = ["agent"]
    search_fields = ["public_id__startswith", "title", "agent__name"]
    search_help_text = "The beginning of an id, a part of the title, or an agent's name."

    def view_on_site(self, session: Session) -> str:
        """The session's page."""
        return session.get_absolute_url()


@admin.register(Container)
class ContainerAdmin(RecordAdmin):
    """Containers."""

    json_fields = ["labels", "limits"]
    labels_shown, limits_shown = shown("labels"), shown("limits")
    list_display = ["name", "agent", "state", "image", "exit_code", "oom", "created", "removed_at"]
    list_filter = ["oom", ("removed_at", admin.EmptyFieldListFilter), ("created", admin.DateFieldListFilter)]
    list_select_related = ["agent"]
    search_fields = ["name", "engine_id__startswith", "agent__name"]
    search_help_text = "A part of the name, the beginning of the engine's id, or an agent's name."

    def view_on_site(self, container: Container) -> str:
        """The container's page."""
        return container.get_absolute_url()


@admin.register(Fire)
class FireAdmin(RecordAdmin):
    """What became of due moments."""

    list_display = ["moment", "schedule", "kind", "count", "reason", "run", "at"]
    list_filter = ["kind", ("moment", admin.DateFieldListFilter)]
    list_select_related = ["schedule__agent", "run"]
    search_fields = ["schedule__name", "schedule__agent__name"]
    search_help_text = "A part of the name of a schedule or an agent."


@admin.register(Event)
class EventAdmin(RecordAdmin):
    """Events, the largest table: found by their run."""

    json_fields = ["payload"]
    payload_shown = shown("payload")
    ordering = ["-id"]
    list_display = ["seq", "run", "kind", "beginning", "created"]
    list_filter = ["kind"]
    list_select_related = ["run"]
    search_fields = ["run__public_id__startswith"]
    search_help_text = "The beginning of a run's id."

    @admin.display(description="text")
    def beginning(self, event: Event) -> str:
        """The first line, cut."""
        return event.text.partition("\n")[0][:120]


@admin.register(Audit)
class AuditAdmin(RecordAdmin):
    """Who started, cancelled, changed, deleted, logged in, or was refused."""

    list_display = ["at", "who", "deed", "what", "detail", "address"]
    list_filter = ["deed", ("at", admin.DateFieldListFilter)]
    list_select_related = ["user"]
    search_fields = ["who", "what"]
    search_help_text = "A part of a name, or of what it was done to."

    def view_on_site(self, audit: Audit) -> str:
        """Where the thing can be seen."""
        return audit.path


class PeopleAdmin(Audited, UserAdmin):  # type: ignore[type-arg]
    """Accounts; only superusers touch superusers, so that no administrator can become one."""

    list_display = ["username", "roles", "is_staff", "is_active", "last_login"]
    own = ("is_superuser", "user_permissions")

    @admin.display(description="groups")
    def roles(self, user: User) -> str:
        """What the account may, in words."""
        names = [group.name for group in user.groups.all()]
        return ", ".join(["Superuser", *names] if user.is_superuser else names)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With their groups."""
        return super().get_queryset(request).prefetch_related("groups")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """What makes a superuser, for all but these."""
        fixed = super().get_readonly_fields(request, obj)
        return fixed if request.user.is_superuser else [*fixed, *self.own]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Also for the form of the password."""
        return super().has_change_permission(request, obj) and self._may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody below a superuser deletes one."""
        return super().has_delete_permission(request, obj) and self._may_touch(request, obj)

    def _may_touch(self, request: HttpRequest, obj: Any) -> bool:
        return bool(request.user.is_superuser or obj is None or not obj.is_superuser)


class RolesAdmin(Audited, GroupAdmin):
    """Groups: the three roles, and those that agents are limited to.

    What a role may is for superusers to change: a permission more would lift everybody who has it.
    """

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Permissions, for all but superusers."""
        return [] if request.user.is_superuser else ["permissions"]

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, Any, Any]:
        """A group that agents are limited to stays: without it everybody with a role would see them."""
        limited = Agent.objects.filter(groups__in=objs).distinct()[:NAMED_AT_MOST]
        if not limited:
            return super().get_deleted_objects(objs, request)
        kept = [
            f"The agent {agent} is limited to it; without it, everybody with a role could see the agent."
            for agent in limited
        ]
        return [], {}, set(), [*kept, "Give these agents other groups first."]


admin.site.unregister([User, Group])
admin.site.register(User, PeopleAdmin)
admin.site.register(Group, RolesAdmin)
