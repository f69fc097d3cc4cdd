"""What holds for all agents: the pause switch, the limits of everybody together, hosts that are drained."""

from django.db import models
from django.utils import timezone

from agents.models.fields import Between


class Pausable(models.Model):
    """Something that can be told to start nothing new; what is live goes on."""

    paused_at = models.DateTimeField(null=True, blank=True, editable=False)
    paused_by = models.CharField(max_length=150, blank=True, editable=False)
    paused_why = models.CharField(max_length=300, blank=True, editable=False)

    class Meta:
        abstract = True

    @property
    def is_paused(self) -> bool:
        """Whether nothing new starts."""
        return self.paused_at is not None

    def pause(self, by: str, why: str = "") -> bool:
        """Pause it; False if it was paused already, which then stays as it is."""
        facts = {"paused_at": timezone.now(), "paused_by": by[:150], "paused_why": why[:300]}
        return self._switch(to_pause=True, **facts)

    def resume(self) -> bool:
        """Let it start again; False if it was not paused."""
        return self._switch(to_pause=False, paused_at=None, paused_by="", paused_why="")

    def _switch(self, *, to_pause: bool, **facts: object) -> bool:
        """One conditional UPDATE, which says whether it was this process that changed anything."""
        rows = type(self)._default_manager.filter(pk=self.pk, paused_at__isnull=to_pause)
        switched = rows.update(**facts) == 1
        self.refresh_from_db(fields=["paused_at", "paused_by", "paused_why"])
        return switched


class Site(Pausable):
    """The one row of it; whoever gives a run a slot locks it, so that limits are never exceeded."""

    max_runs = models.PositiveSmallIntegerField(
        "live runs",
        null=True,
        blank=True,
        validators=[Between(1, 1000)],
        help_text="Of all agents together, at once; others wait. Empty: as many as there are workers.",
    )
    max_per_host = models.PositiveSmallIntegerField(
        "live runs per host",
        null=True,
        blank=True,
        validators=[Between(1, 1000)],
        help_text="On one engine, or one machine for runs without a container. Empty: no limit.",
    )
    max_per_credential = models.PositiveSmallIntegerField(
        "live runs per credential",
        null=True,
        blank=True,
        validators=[Between(1, 1000)],
        help_text="Of agents that use the same key or subscription of the provider. Empty: no limit.",
    )

    class Meta:
        verbose_name = verbose_name_plural = "site settings"

    def __str__(self) -> str:
        return "Site settings"

    @classmethod
    def get(cls) -> "Site":
        """The row, made if it is not there."""
        return cls.objects.get_or_create(pk=1)[0]

    @classmethod
    def lock(cls) -> "Site":
        """The row, locked until the transaction ends: one process at a time gives out slots."""
        cls.get()
        return cls.objects.select_for_update().get(pk=1)


class Drain(models.Model):
    """A host, or one worker of it, that takes no new runs."""

    name = models.CharField(max_length=150, unique=True, help_text="The host's name, or the worker's.")
    by = models.CharField(max_length=150)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name
