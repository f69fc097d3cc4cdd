"""A transcript as it was after a run, kept beside the session's home."""

from django.db import models
from django.utils import timezone

from agents.models.rights import Guarded
from agents.models.run import Run
from agents.models.session import Session


class Archives(Guarded["Archive"]):
    """Archived transcripts, which belong to an agent by their session."""

    agent = "session__agent"


class Archive(models.Model):
    """One packed file; the current one is what the transcript in the home has to begin with."""

    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="archives")
    run = models.ForeignKey(
        Run, null=True, blank=True, on_delete=models.SET_NULL, related_name="archives", db_index=True
    )
    name = models.CharField(max_length=1000, help_text="The transcript's path in the home.")
    path = models.CharField(max_length=255, unique=True, help_text="Relative to the state directory.")
    sha256 = models.CharField(max_length=64, help_text="Of the transcript.")
    size = models.BigIntegerField(help_text="Bytes of the transcript.")
    packed_size = models.BigIntegerField(help_text="Bytes of the packed file.")
    lines = models.BigIntegerField()
    created = models.DateTimeField(default=timezone.now)
    current = models.BooleanField(default=True, help_text="Earlier ones are kept when it was rewritten.")
    seen = models.CharField(
        max_length=100, blank=True, help_text="The file in the home that was found to begin with it."
    )

    objects = Archives.as_manager()

    class Meta:
        ordering = ["-current", "-created", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["session", "name"], condition=models.Q(current=True), name="archive_current_once"
            )
        ]

    def __str__(self) -> str:
        return f"{timezone.localtime(self.created):%Y-%m-%d %H:%M %Z}"
