"""The field of a run's form by which files are attached; the same wherever a run is started."""

from typing import Any

from django import template
from django.conf import settings

from agents import attachments
from agents.models import Agent
from agents.runtimes import AgentConfig

register = template.Library()


@register.inclusion_tag("agents/_attach.html")
def attach(agent: Agent, form: Any = None) -> dict[str, Any]:
    """The field, or why there is none."""
    config = AgentConfig.from_json(agent.freeze())
    return {
        "refusal": attachments.READ_ONLY if attachments.is_read_only(config) else "",
        "errors": form["attachments"].errors if form else [],
        "again": bool(form and form.errors and form.files),
        "limit": settings.HERDWEB_UPLOAD_LIMIT,
        "total": settings.HERDWEB_UPLOAD_TOTAL,
        "most": attachments.MOST,
    }
