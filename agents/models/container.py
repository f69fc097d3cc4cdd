"""One Docker container that herdweb created: a row that outlives it."""

from django.db import models
from django.urls import reverse
from django.utils import timezone

from agents.models.agent import Agent
from agents.models.rights import Guarded
from agents.models.session import Session
from agents.runtimes import ContainerFacts, Exit


class Container(models.Model):
    """What the engine made, how it ended, and which session and runs lived in it."""

    engine_id = models.CharField(max_length=64, db_index=True)
    name = models.CharField(max_length=128, unique=True)
    image = models.CharField(max_length=255)
    image_digest = models.CharField(max_length=80)
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="containers")
    session = models.ForeignKey(Session, null=True, on_delete=models.SET_NULL, related_name="containers")
    labels = models.JSONField(default=dict)
    limits = models.JSONField(default=dict, help_text="As applied by the engine.")
    created = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    exit_code = models.IntegerField(null=True)
    signal = models.PositiveSmallIntegerField(null=True)
    oom = models.BooleanField(default=False)
    memory_peak = models.BigIntegerField(null=True, help_text="Bytes, sampled; none for a short run.")
    memory_now = models.BigIntegerField(null=True, help_text="Bytes at `sampled_at`; none once it ended.")
    cpu_percent = models.FloatField(null=True, help_text="Since the sample before; 100 is one core.")
    sampled_at = models.DateTimeField(null=True)
    removed_at = models.DateTimeField(null=True)
    note = models.TextField(blank=True)

    objects = Guarded["Container"].as_manager()

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """The container's page."""
        return reverse("agents:container", args=[self.pk])

    @classmethod
    def remember(cls, facts: ContainerFacts, session: Session) -> "Container":
        """The row of a container that was created or adopted."""
        container, _ = cls.objects.update_or_create(
            name=facts.name,
            defaults={
                "engine_id": facts.engine_id,
                "image": facts.image,
                "image_digest": facts.image_digest,
                "labels": dict(facts.labels),
                "limits": dict(facts.limits),
                "agent": session.agent,
                "session": session,
            },
        )
        return container

    def ended(self, end: Exit) -> None:
        """Store how it ended."""
        self.exit_code, self.signal, self.oom, self.note = end.code, end.signal, end.oom, end.note
        self.started_at, self.finished_at = end.started_at, end.finished_at or timezone.now()
        self.memory_peak = end.memory_peak or None
        fields = ["exit_code", "signal", "oom", "note", "started_at", "finished_at", "memory_peak"]
        self.save(update_fields=fields)

    def removed(self) -> None:
        """Note that the engine has it no more."""
        type(self).objects.filter(pk=self.pk, removed_at=None).update(removed_at=timezone.now())

    @property
    def state(self) -> str:
        """Live, ended or removed, for people."""
        if self.removed_at:
            return "removed"
        if self.finished_at:
            return "ended"
        return "live" if self.started_at else "created"
