"""One Docker container that herdweb created: a row that outlives it."""

from datetime import timedelta
from typing import Any

from django.db import models
from django.urls import reverse
from django.utils import timezone

from agents.models.agent import Agent
from agents.models.rights import Guarded
from agents.models.session import Session
from agents.models.sorting import OrZero
from agents.runtimes import ContainerFacts, Exit, Usage

# It is measured every few seconds; when it was not for so long, the numbers are of the past.
STALE = timedelta(seconds=15)
# What is true of a live container only.
NOTHING_NOW = {"memory_now": None, "cpu_percent": None, "sampled_at": None}
# What is true of one run in it only.
AS_NEW: dict[str, Any] = {
    "started_at": None, "finished_at": None, "exit_code": None, "signal": None, "oom": False,
    "memory_peak": None, "note": "", "kept_until": None, **NOTHING_NOW,
}  # fmt: skip

# What may stay after its run.
OUTLIVING = models.Q(scope__gt="") | models.Q(kept_until__isnull=False)

# What lists sort by; the same expression is in an index.
MEMORY = OrZero("memory_peak")


class Container(models.Model):
    """What the engine made, how it ended, and which session and runs lived in it."""

    engine_id = models.CharField(max_length=64, db_index=True)
    # Only one at a time has it, which the engine sees to: one that serves many runs may be made anew.
    name = models.CharField(max_length=128, db_index=True)
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
    scope = models.CharField(max_length=10, blank=True, help_text="Whose it is, if it serves many runs.")
    kept_until = models.DateTimeField(null=True, help_text="Until then it is not removed.")
    unwanted = models.BooleanField(default=False, help_text="It is removed once nothing lives in it.")
    disk_bytes = models.BigIntegerField(null=True, help_text="Of files written into its own, at `disk_at`.")
    disk_at = models.DateTimeField(null=True)

    objects = Guarded["Container"].as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["agent", "-id"], name="container_of_agent"),
            models.Index(fields=["removed_at", "-id"], name="container_by_removal"),
            models.Index(fields=["image", "-id"], name="container_of_image"),
            models.Index(fields=["created", "id"], name="container_by_time"),
            models.Index(MEMORY, "id", name="container_by_memory"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """The container's page."""
        return reverse("agents:container", args=[self.pk])

    @classmethod
    def remember(cls, facts: ContainerFacts, session: Session) -> "Container":
        """The row of a container that was created, adopted or started again.

        Another of the same name is gone: the engine has only one.
        """
        others = cls.objects.filter(name=facts.name, removed_at=None).exclude(engine_id=facts.engine_id)
        others.update(removed_at=timezone.now(), **NOTHING_NOW)
        container, _ = cls.objects.update_or_create(
            engine_id=facts.engine_id,
            defaults={
                "name": facts.name,
                "scope": facts.labels.get("herdweb.scope", ""),
                "image": facts.image,
                "image_digest": facts.image_digest,
                "labels": dict(facts.labels),
                "limits": dict(facts.limits),
                "agent": session.agent,
                "session": session,
            },
        )
        return container

    def begins_again(self) -> None:
        """Another run begins in it: what is told of an end was the former's."""
        for name, value in AS_NEW.items():
            setattr(self, name, value)
        type(self).objects.filter(pk=self.pk).update(**AS_NEW)

    def started(self) -> None:
        """The engine has started it; the engine's own time comes with its end."""
        if self.started_at is None:
            self._set(started_at=timezone.now())

    def uses(self, usage: Usage) -> None:
        """Store what it uses at this moment, and the peak, lest the worker's death loses that."""
        self._set(
            memory_now=usage.memory,
            cpu_percent=usage.cpu_percent,
            sampled_at=usage.at,
            memory_peak=max(self.memory_peak or 0, usage.peak),
        )

    def ended(self, end: Exit) -> None:
        """Store how it ended; what it used last is no more."""
        self._set(
            exit_code=end.code,
            signal=end.signal,
            oom=end.oom,
            note=end.note,
            started_at=end.started_at or self.started_at,
            finished_at=end.finished_at or timezone.now(),
            memory_peak=max(self.memory_peak or 0, end.memory_peak) or None,
            **NOTHING_NOW,
        )

    def removed(self) -> None:
        """Note that the engine has it no more."""
        type(self).objects.filter(pk=self.pk, removed_at=None).update(
            removed_at=timezone.now(), **NOTHING_NOW
        )

    def _set(self, **changes: Any) -> None:
        """One UPDATE of a container whose end is not known yet; what has ended stays as it was told."""
        type(self).objects.filter(pk=self.pk, finished_at=None).update(**changes)
        for name, value in changes.items():
            setattr(self, name, value)

    @property
    def is_live(self) -> bool:
        """Whether it has not ended as far as anybody knows."""
        return self.finished_at is None and self.removed_at is None

    @property
    def is_kept(self) -> bool:
        """Whether it has ended and the engine still has it on purpose."""
        there = self.finished_at is not None and self.removed_at is None
        return there and bool(self.scope or self.kept_until) and not self.unwanted

    @property
    def is_measured(self) -> bool:
        """Whether what it uses now is known."""
        return self.is_live and self.memory_now is not None and self.sampled_at is not None

    @property
    def is_stale(self) -> bool:
        """Whether nobody has measured it lately although it is live."""
        return bool(self.is_measured and self.sampled_at and self.sampled_at < timezone.now() - STALE)

    @property
    def memory_limit(self) -> int:
        """In bytes; 0 without a limit."""
        return int(self.limits.get("memory") or 0)

    @property
    def memory_share(self) -> float | None:
        """Of its limit, in percent."""
        return 100 * (self.memory_now or 0) / self.memory_limit if self.memory_limit else None

    @property
    def cpus(self) -> float:
        """Its limit in cores; 0 without one."""
        return float(self.limits.get("cpus") or 0)

    @property
    def cpu_share(self) -> float | None:
        """Of the cores that it may use, in percent; None if either is not known."""
        return self.cpu_percent / self.cpus if self.cpus and self.cpu_percent is not None else None

    @property
    def duration(self) -> timedelta | None:
        """From its start to its end, if it had both."""
        return self.finished_at - self.started_at if self.finished_at and self.started_at else None

    @property
    def state(self) -> str:
        """Live, kept, ended or removed, for people."""
        if self.removed_at:
            return "removed"
        if self.is_kept:
            return "kept"
        if self.finished_at:
            return "ended"
        return "live" if self.started_at else "created"
