"""One conversation of an agent, kept between runs."""

import uuid

from django.db import models
from django.urls import reverse

from agents.models.agent import Agent
from agents.models.keeping import Keeping
from agents.models.rights import Guarded


class Session(Keeping):
    """A conversation; `public_id` is also the runtime's own id, minted before its start."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="sessions")
    runtime = models.CharField(max_length=40)
    home = models.CharField(max_length=255, help_text="Relative to the state directory.")
    working_directory = models.CharField(max_length=1000, help_text="As the agent saw it.")
    title = models.CharField(max_length=200, blank=True)
    forked_from = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.SET_NULL, related_name="forks"
    )
    turns = models.PositiveIntegerField(default=0)
    cost_usd = models.FloatField(default=0)
    input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    created = models.DateTimeField(auto_now_add=True)
    last_used = models.DateTimeField(auto_now_add=True)
    measured_at = models.DateTimeField(null=True, help_text="When its files were measured.")

    objects = Guarded["Session"].as_manager()

    class Meta:
        ordering = ["-last_used", "-id"]
        indexes = [
            models.Index(fields=["agent", "-last_used"], name="session_by_agent"),
            models.Index(fields=["last_used", "id"], name="session_by_use"),
            models.Index(fields=["turns", "id"], name="session_by_turns"),
            models.Index(fields=["cost_usd", "id"], name="session_by_cost"),
            # What an agent keeps is added up from the index alone.
            models.Index(
                fields=["agent", "files_bytes", "files_removed_at"],
                name="session_kept",
                condition=models.Q(files_removed_at=None),
            ),
        ]

    def __str__(self) -> str:
        return self.title or str(self.public_id)

    def get_absolute_url(self) -> str:
        """The session's page."""
        return reverse("agents:session", args=[self.public_id])
