"""What the form of an agent shows beside its fields: the command line, and a test of what is saved."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.forms import BaseForm
from django.http import Http404, HttpRequest, JsonResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.http import require_http_methods, require_POST

from agents import trial
from agents.models import Agent, DockerSettings
from agents.models.agent import DOCKER_FIELDS, PLAIN_FIELDS
from agents.preview import preview
from agents.runtimes import CHOICES, RUNTIMES, AgentConfig

if TYPE_CHECKING:
    ModelBase = admin.ModelAdmin[Any]
else:
    ModelBase = admin.ModelAdmin


class TryOut(ModelBase):
    """Adds two addresses below the agent's form, for those who may change this agent and nobody else."""

    class Media:
        css = {"all": ["agents/tryout.css"]}
        js = ["agents/tryout.js", "agents/relevance.js"]

    def get_urls(self) -> list[URLPattern]:
        """Before the admin's own, the last of which takes whatever is left."""
        wrap = self.admin_site.admin_view
        seen, test = (
            require_POST(self.preview_view),
            require_http_methods(["GET", "HEAD", "POST"])(self.test_view),
        )
        ours = [
            path("add/preview/", wrap(seen), name="agents_agent_add_preview"),
            path("<int:pk>/preview/", wrap(seen), name="agents_agent_preview"),
            path("<int:pk>/test/", wrap(test), name="agents_agent_test"),
        ]
        return [*ours, *super().get_urls()]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any
    ) -> Any:
        """With the addresses that the page's scripts ask."""
        agent = options.get("obj")
        allowed = self.has_change_permission(request, agent) if agent else self.has_add_permission(request)
        if allowed:
            at = [agent.pk] if agent else []
            name = "agents_agent_preview" if agent else "agents_agent_add_preview"
            context["preview_url"] = reverse(f"admin:{name}", args=at)
            context["test_url"] = reverse("admin:agents_agent_test", args=at) if agent else ""
            context["relevance"] = json.dumps(RELEVANCE)
        return super().render_change_form(request, context, *args, **options)

    def preview_view(self, request: HttpRequest, pk: int | None = None) -> JsonResponse:
        """POST of the form's values: the command line that they come to, and the mistakes in them."""
        agent = self._agent(request, pk) if pk else None
        if agent is None and not self.has_add_permission(request):
            raise PermissionDenied
        forms = self._bound(request, agent)
        errors = {name: messages for form in forms for name, messages in mistakes(form)}
        return JsonResponse({**asdict(preview(configuration(forms))), "errors": errors})

    def test_view(self, request: HttpRequest, pk: int) -> JsonResponse:
        """POST has a worker test the agent as it is saved; GET says how far that is."""
        agent = self._agent(request, pk)
        progress = trial.begin(agent) if request.method == "POST" else trial.progress(agent)
        return JsonResponse(asdict(progress))

    def _agent(self, request: HttpRequest, pk: int) -> Agent:
        """One that this user may change; another is refused like its form."""
        agent = self.get_object(request, str(pk))
        if agent is None:
            raise Http404
        if not self.has_change_permission(request, agent):
            raise PermissionDenied
        found: Agent = agent
        return found

    def _bound(self, request: HttpRequest, agent: Agent | None) -> list[BaseForm]:
        """The forms of the page with what was typed, judged; what the user may not set stays as stored."""
        kind = self.get_form(request, agent, change=agent is not None)
        form = kind(request.POST, instance=agent)
        forms: list[BaseForm] = [form]
        for formset_kind, inline in self.get_formsets_with_inlines(request, agent):
            prefix = formset_kind.get_default_prefix()
            formset = formset_kind(**self.get_formset_kwargs(request, form.instance, inline, prefix))
            forms.extend(formset.forms)
        for each in forms:
            each.full_clean()
        return forms


# Which fields of the form only some runtimes read, and which of them each does.
RELEVANCE = {
    "some": sorted({name for runtime in RUNTIMES.values() for name in runtime.reads}),
    "by_runtime": {name: list(runtime.reads) for name, runtime in RUNTIMES.items()},
    "labels": dict(CHOICES),
}


def mistakes(form: BaseForm) -> Iterator[tuple[str, list[str]]]:
    """What is wrong, by the names of fields as they are on the page."""
    for name, messages in form.errors.items():
        yield form.add_prefix(name), [str(message) for message in messages]


def undo_mistakes(form: BaseForm) -> None:
    """Put back what is stored; Django has some rules judge a value when the row has it already."""
    for name in form.errors.keys() & {*PLAIN_FIELDS, *DOCKER_FIELDS} & form.initial.keys():
        setattr(form.instance, name, form.initial[name])  # type: ignore[attr-defined]


def configuration(forms: list[BaseForm]) -> AgentConfig:
    """What would be frozen into a run; a field with a mistake in it as it is stored."""
    for form in forms:
        undo_mistakes(form)
    agent: Agent = forms[0].instance  # type: ignore[attr-defined]
    typed = [form.instance for form in forms[1:]]  # type: ignore[attr-defined]
    docker = typed[0] if typed else agent.docker if agent.pk else DockerSettings()
    docker.agent = agent
    return AgentConfig.from_json(agent.freeze())
