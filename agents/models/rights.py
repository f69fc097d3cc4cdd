"""Who may see and do what: roles are groups with permissions, an agent may be limited to groups.

A row belongs to an agent, and who may see the agent may see the row. Nobody asks in another way, so
lists, pages, streams, downloads and the admin cannot differ.
"""

from typing import Any, ClassVar, Self, TypeVar

from django.apps import apps
from django.db import models

# What an operator may: start, cancel, continue.
RUN = "agents.run_agent"
# What an administrator may: see every agent, and set what containers can reach.
ADMINISTER = "agents.administer"
SEE = "agents.view_agent"
# What operators may: change an agent, or how it does one run.
CHANGE = "agents.change_agent"
# Records are deleted for good, by administrators.
DELETE = "agents.delete_run"

VIEWER, OPERATOR, ADMINISTRATOR = ROLES = ("Viewer", "Operator", "Administrator")

Row = TypeVar("Row", bound=models.Model)


def is_administrator(user: Any) -> bool:
    """Whether the user may see every agent and change what a container can reach."""
    return bool(user.is_active and user.has_perm(ADMINISTER))


class Guarded(models.QuerySet[Row]):
    """Rows that belong to an agent."""

    # From the row to its agent.
    agent: ClassVar[str] = "agent"

    def visible_to(self, user: Any) -> Self:
        """Those of the agents that the user may see."""
        if is_administrator(user):
            return self
        if not user.is_active or not user.has_perm(SEE):
            return self.none()
        everybodys, theirs = models.Q(groups=None), models.Q(groups__in=user.groups.all())
        agents = apps.get_model("agents", "Agent")._default_manager.filter(everybodys | theirs)
        return self.filter(**{f"{self.agent}__in": agents.values("pk")})
