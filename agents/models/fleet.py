"""A named group of agents that share defaults, limits and a purse."""

from typing import Any

from django.db import models

from agents.models import rules
from agents.models.fields import Between, SecondsField, write_seconds

DAY = 86400
# What holds where neither the agent nor its fleet says anything, in seconds; None is no limit.
DEADLINES: dict[str, int | None] = {
    "time_limit": 3600,
    "idle_limit": 600,
    "start_limit": 600,
    "cancel_grace": 10,
    "wait_limit": None,
}


class Deadlines(models.Model):
    """How long each part of a run may take; empty asks the next one: the agent, its fleet, herdweb."""

    time_limit = SecondsField(
        null=True,
        blank=True,
        validators=[Between(1, 7 * DAY, write_seconds)],
        help_text="Wall clock, like 30m or 2h. Empty: the fleet's, or 1h.",
    )
    idle_limit = SecondsField(
        null=True,
        blank=True,
        validators=[Between(1, DAY, write_seconds)],
        help_text="Longest silence, like 10m. Empty: the fleet's, or 10m.",
    )
    start_limit = SecondsField(
        null=True,
        blank=True,
        validators=[Between(1, DAY, write_seconds)],
        help_text="From being taken by a worker to the agent's start, like 5m. Empty: the fleet's, or 10m.",
    )
    wait_limit = SecondsField(
        null=True,
        blank=True,
        validators=[Between(1, 30 * DAY, write_seconds)],
        help_text="Longest wait for a worker or a free slot, like 2h. Empty: the fleet's, or none.",
    )
    cancel_grace = SecondsField(
        null=True,
        blank=True,
        validators=[Between(0, 300, write_seconds)],
        help_text="From being asked to stop to being killed. Empty: the fleet's, or 10s.",
    )

    class Meta:
        abstract = True


class Fleet(Deadlines):
    """Defaults and limits for all of its agents."""

    name = models.CharField(
        max_length=63,
        unique=True,
        validators=[rules.agent_name],
        error_messages={"unique": "This name is already used."},
        help_text="a-z, 0-9, - and _, starting with a letter.",
    )
    description = models.TextField(blank=True, max_length=2000, help_text="For people.")
    max_concurrent = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[Between(1, 1000)],
        help_text="Live runs of all its agents at once; others wait. Empty: no limit.",
    )
    month_cost = models.FloatField(
        null=True,
        blank=True,
        validators=[Between(0.01, 1_000_000)],
        help_text="Dollars that its agents may report in a calendar month; then nothing new starts.",
    )
    month_tokens = models.BigIntegerField(
        null=True,
        blank=True,
        validators=[Between(1000, 10**13)],
        help_text="Tokens, in and out, that its agents may report in a calendar month.",
    )
    created = models.DateTimeField(auto_now_add=True)
    updated = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def default(self, name: str) -> Any:
        """A deadline of its agents that say nothing themselves."""
        own = getattr(self, name)
        return DEADLINES[name] if own is None else own
