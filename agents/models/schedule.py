"""A rule that starts runs, what became of each due moment, and who looks at the clock."""

from datetime import datetime, timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models.functions import Lower
from django.urls import reverse
from django.utils import timezone

from agents.models import rules
from agents.models.agent import Agent
from agents.models.fields import Between, LinesField, SecondsField, write_seconds
from agents.models.moments import (
    MAX_INTERVAL,
    MIN_INTERVAL,
    Rule,
    parse_blackout,
    parse_cron,
    parse_zone,
)
from agents.models.rights import Guarded
from agents.models.run import Run
from agents.models.session import Session
from agents.models.site import Pausable

DAY = 86400
# How often whoever looks at the clock says so, in seconds.
SAY_EVERY = 5
# One that should look each minute and has not for so long does not.
LATE = timedelta(minutes=3)


def usual_zone() -> str:
    """The site's own."""
    return str(settings.TIME_ZONE)


class Schedule(Pausable):
    """When an agent is run by itself, with which prompt, and what to do when it cannot be.

    `due_moment` is the moment that is due next by the rule, `due_at` when it is acted on: later by
    its jitter. Both are empty when nothing is due any more, or not before the end of a run.
    """

    class CountedFrom(models.TextChoices):
        """Where an interval begins to count."""

        START = "start", "start: from one due moment to the next"
        END = "end", "end: from the end of a run to the next due moment"

    class Conversation(models.TextChoices):
        """Which session a run of it takes place in."""

        FRESH = "fresh", "fresh: a new one each time"
        OWN = "own", "own: the schedule's own, continued each time"
        NAMED = "named", "named: a chosen one, continued each time"

    class Missed(models.TextChoices):
        """What becomes of moments that passed while nobody looked at the clock."""

        SKIP = "skip", "skip: nothing is run for them"
        ONCE = "once", "once: one run for all of them"
        ALL = "all", "all: a run for each, up to the limit"

    class Overlap(models.TextChoices):
        """What a due moment does while a run of the same schedule has not ended."""

        SKIP = "skip", "skip: nothing is run"
        WAIT = "wait", "wait: its run waits for the end of the other"
        CANCEL = "cancel", "cancel: the other one is cancelled for it"

    agent = models.ForeignKey(Agent, on_delete=models.CASCADE, related_name="schedules")
    name = models.CharField(
        max_length=63,
        validators=[rules.schedule_name],
        error_messages={"blank": "Name is required.", "required": "Name is required."},
        help_text="a-z, A-Z, 0-9, - and _; each name once for an agent.",
    )
    cron = models.CharField(
        "cron expression",
        max_length=200,
        blank=True,
        validators=[rules.cron],
        help_text="minute hour day-of-month month day-of-week, like 30 2 * * mon-fri, or @daily.",
    )
    interval = SecondsField(
        null=True,
        blank=True,
        validators=[Between(MIN_INTERVAL, MAX_INTERVAL, write_seconds)],
        help_text="Like 30s, 5m, 2h or 1d, instead of a cron expression.",
    )
    counted_from = models.CharField(
        max_length=5,
        choices=CountedFrom,
        default=CountedFrom.START,
        help_text="What an interval counts from.",
    )
    time_zone = models.CharField(
        max_length=64,
        default=usual_zone,
        validators=[rules.time_zone],
        help_text="Where its clock hangs, like Europe/Berlin.",
    )
    prompt = models.TextField(
        blank=True,
        validators=[rules.prompt],
        help_text="Empty: the agent's default prompt. {date}, {time}, {last_outcome}, {last_reason} and"
        " {last_result} are filled in.",
    )
    conversation = models.CharField(
        "session",
        max_length=5,
        choices=Conversation,
        default=Conversation.FRESH,
        help_text="Which conversation its runs take place in.",
    )
    session = models.ForeignKey(
        Session,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        verbose_name="named session",
        help_text="The one to continue, when it is a named one.",
    )
    own_session = models.ForeignKey(
        Session, null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )
    enabled = models.BooleanField(default=True, help_text="Off: no moment is due.")
    starts_at = models.DateTimeField(
        "from", null=True, blank=True, help_text="No moment before this one. An interval begins with it."
    )
    ends_at = models.DateTimeField("until", null=True, blank=True, help_text="No moment after this one.")
    jitter = SecondsField(
        default=0,
        validators=[Between(0, DAY, write_seconds)],
        help_text="Each moment is acted on later by a part of this, like 5m, so that not all start at once.",
    )
    blackouts = LinesField(
        validators=[rules.blackouts],
        help_text="When nothing is started, one a line: 22:00-06:00, sat,sun 00:00-24:00 or"
        " 2026-12-24 to 2026-12-26.",
    )
    missed = models.CharField(
        "missed moments",
        max_length=4,
        choices=Missed,
        default=Missed.ONCE,
        help_text="What becomes of moments that passed while nobody looked at the clock.",
    )
    missed_limit = models.PositiveSmallIntegerField(
        default=10,
        validators=[Between(1, 100)],
        help_text="With all: so many runs at the most, for the newest moments.",
    )
    overlap = models.CharField(
        max_length=6,
        choices=Overlap,
        default=Overlap.SKIP,
        help_text="What a moment does while a run of this schedule has not ended.",
    )
    priority = models.SmallIntegerField(
        null=True,
        blank=True,
        validators=[Between(-10, 10)],
        help_text="Waiting runs of higher numbers start first, from -10 to 10. Empty: the agent's.",
    )
    breaker = models.PositiveSmallIntegerField(
        "circuit breaker",
        null=True,
        blank=True,
        validators=[Between(1, 100)],
        help_text="So many failures in a row pause it. Empty: never.",
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        editable=False,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="Who saved it last; it is paused when that account may not run the agent any more.",
    )
    saved_by = models.CharField(max_length=150, blank=True, editable=False)

    anchor = models.DateTimeField(
        default=timezone.now, editable=False, help_text="From where intervals count."
    )
    failures_since = models.DateTimeField(
        default=timezone.now, editable=False, help_text="Failures before it do not count for the breaker."
    )
    due_moment = models.DateTimeField(null=True, editable=False)
    due_at = models.DateTimeField(null=True, editable=False)
    created = models.DateTimeField(auto_now_add=True)
    updated = models.DateTimeField(auto_now=True)

    objects = Guarded["Schedule"].as_manager()

    class Meta:
        ordering = ["agent__name", "name"]
        constraints = [
            models.UniqueConstraint(
                "agent",
                Lower("name"),
                name="schedule_name_once",
                violation_error_message="The agent has a schedule of this name already (names are compared"
                " without case).",
            )
        ]
        indexes = [
            models.Index(
                fields=["due_at"],
                name="schedule_due",
                condition=models.Q(enabled=True, paused_at=None, due_at__isnull=False),
            ),
            models.Index(fields=["due_at", "id"], name="schedule_by_due"),
        ]

    def __str__(self) -> str:
        return f"{self.agent.name}/{self.name}"

    def get_absolute_url(self) -> str:
        """The schedule's page."""
        return reverse("agents:schedule", args=[self.pk])

    @property
    def rule(self) -> Rule:
        """When it is due."""
        return Rule(
            cron=parse_cron(self.cron) if self.cron else "",
            interval=0 if self.cron else self.interval or 0,
            zone=parse_zone(self.time_zone),
            anchor=self.starts_at or self.anchor,
            begins=self.starts_at,
            ends=self.ends_at,
            blackouts=tuple(parse_blackout(text) for text in self.blackouts),
        )

    @property
    def words(self) -> str:
        """The rule in English; what cannot be read, as it is."""
        try:
            return self.rule.explain() + self._counting
        except ValidationError:
            return f"{self.cron} cannot be read"

    @property
    def condition(self) -> str:
        """What is to be said of it in one word."""
        if self.is_paused:
            return "paused"
        if not self.enabled:
            return "off"
        if self.due_at:
            return "on"
        return "running" if self.counts_from_end else "over"

    @property
    def _counting(self) -> str:
        return ", counted from the end of a run" if self.counts_from_end else ""

    @property
    def counts_from_end(self) -> bool:
        """Whether its next moment is known only when its last run has ended."""
        return not self.cron and self.counted_from == self.CountedFrom.END

    def clean(self) -> None:
        """Rules between fields."""
        if bool(self.cron) == bool(self.interval):
            both = "not both" if self.cron else "one of the two is needed"
            raise ValidationError({"cron": f"Give a cron expression or an interval, {both}."})
        if self.starts_at and self.ends_at and self.ends_at <= self.starts_at:
            raise ValidationError({"ends_at": "Must lie after its beginning."})
        self._clean_session()

    def _clean_session(self) -> None:
        """A named session is one of the agent's own."""
        named = self.conversation == self.Conversation.NAMED
        if named and self.session is None:
            raise ValidationError({"session": "Choose the session to continue."})
        if self.session and self.session.agent_id != self.agent_id:
            raise ValidationError({"session": "Not found: this agent has no such session."})


class Fires(Guarded["Fire"]):
    """Fires, which belong to an agent by their schedule."""

    agent = "schedule__agent"


class Fire(models.Model):
    """One due moment, or `count` of them up to this one, and what became of it. Written once."""

    class Kind(models.TextChoices):
        """What became of it."""

        STARTED = "started"
        LATE = "late"
        MERGED = "merged"
        SKIPPED = "skipped"

    schedule = models.ForeignKey(Schedule, on_delete=models.CASCADE, related_name="fires", db_index=False)
    moment = models.DateTimeField(help_text="When it was due by the rule; of several the last one.")
    since = models.DateTimeField(null=True, help_text="Of several: the first one.")
    count = models.PositiveIntegerField(default=1)
    kind = models.CharField(max_length=8, choices=Kind)
    reason = models.CharField(max_length=500, blank=True)
    run = models.ForeignKey(Run, null=True, blank=True, on_delete=models.SET_NULL, related_name="fires")
    source = models.CharField(max_length=10, blank=True, help_text="Who looked at the clock.")
    at = models.DateTimeField(default=timezone.now, help_text="When it was acted on.")

    objects = Fires.as_manager()

    class Meta:
        ordering = ["-moment", "-id"]
        constraints = [models.UniqueConstraint(fields=["schedule", "moment"], name="fire_once")]

    def __str__(self) -> str:
        return f"{self.schedule_id} {self.moment:%Y-%m-%d %H:%M:%S} {self.kind}"

    @property
    def delay(self) -> timedelta:
        """How much later it was acted on than it was due by the rule."""
        return self.at - self.moment


class Beat(models.Model):
    """Who looks at the clock, and when it last did."""

    class Source(models.TextChoices):
        """The ticker of a running stack, and the line in a crontab."""

        TICKER = "ticker"
        CRON = "cron"

    source = models.CharField(max_length=10, choices=Source, unique=True)
    at = models.DateTimeField(null=True)
    host = models.CharField(max_length=100, blank=True)
    expected_since = models.DateTimeField(null=True, help_text="Since when it should; empty if it need not.")

    class Meta:
        ordering = ["source"]

    def __str__(self) -> str:
        return self.source

    @classmethod
    def note(cls, source: str, host: str, now: datetime | None = None) -> None:
        """Say that a source has looked; what was said some seconds ago is not said again."""
        now = now or timezone.now()
        recent = now - timedelta(seconds=SAY_EVERY)
        if cls.objects.filter(source=source, at__gt=recent, at__lte=now).exists():
            return
        cls.objects.update_or_create(source=source, defaults={"at": now, "host": host[:100]})

    @classmethod
    def expect(cls, source: str, *, wanted: bool) -> bool:
        """Say that a source should look from now on, or need not; False when that was known already."""
        row, _ = cls.objects.get_or_create(source=source)
        if wanted == bool(row.expected_since):
            return False
        row.expected_since = timezone.now() if wanted else None
        row.save(update_fields=["expected_since"])
        return True

    def is_late(self, now: datetime | None = None) -> bool:
        """Whether it should have looked by now, and did not for some minutes."""
        if self.expected_since is None:
            return False
        return (now or timezone.now()) - max(self.at or self.expected_since, self.expected_since) > LATE
