"""One execution of an agent, from request to outcome, and the events in it.

Every move between states is one conditional UPDATE that says whether this process made it.
Nothing else writes `state`.
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection, models, transaction
from django.urls import reverse
from django.utils import timezone

from agents.models.agent import Agent
from agents.models.container import Container
from agents.models.keeping import Keeping
from agents.models.rights import Guarded
from agents.models.session import Session
from agents.models.sorting import OrZero, Seconds
from agents.runtimes import AgentConfig, Exit, Offsets, Outcome, Parsed, Report, Result, Status, human_size
from agents.runtimes.types import Message, Spent

TEXT_LIMIT = 64 * 1024
RESULT_LIMIT = 64 * 1024
# What is kept of the JSON of a longer line.
OUTLINED_TEXT, OUTLINED_ITEMS = 400, 40
# Of the last so many answers the parts may still come.
ANSWERS = 8
# A dead worker is noticed after at most this long.
LEASE = timedelta(seconds=12)


# What lists sort by; the same expressions are in the indexes.
COST = OrZero("cost_usd")
DURATION = Seconds("finished_at", "started_at")


class LeaseLost(Exception):
    """Another process owns the run now; this one has nothing more to say about it."""


class Run(Keeping):
    """A request and what became of it."""

    class State(models.TextChoices):
        """queued → starting → running → (cancelling) → one of the terminal ones."""

        QUEUED = "queued"
        WAITING = "waiting"
        STARTING = "starting"
        RUNNING = "running"
        CANCELLING = "cancelling"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"
        TIMED_OUT = "timed_out"
        LOST = "lost"

    PENDING = (State.QUEUED, State.WAITING)
    LIVE = (State.STARTING, State.RUNNING, State.CANCELLING)
    TERMINAL = (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT, State.LOST)

    class Trigger(models.TextChoices):
        """What asked for the run."""

        MANUAL = "manual"
        COMMAND = "command"
        FORK = "fork"
        IMPORT = "import"
        SCHEDULE = "schedule"
        RETRY = "retry"

    class Cause(models.TextChoices):
        """Why herdweb itself stops a run."""

        CANCEL = "cancel"
        TIME = "time"
        IDLE = "idle"
        RESULT = "result"
        OUTPUT = "output"
        WORKER = "worker"
        START = "start"
        BUDGET = "budget"

    class Failure(models.TextChoices):
        """What kind of failure it was, which decides whether it is tried again."""

        ENGINE = "engine", "the engine"
        START = "start", "it could not be started"
        RATE_LIMIT = "rate_limit", "the provider refused or was overloaded"
        USAGE_LIMIT = "usage_limit", "the provider's usage limit"
        LOST = "lost", "it was lost"
        AGENT = "agent", "the agent failed"
        LIMIT = "limit", "one of its own limits"
        HERDWEB = "herdweb", "a mistake of herdweb"

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    agent = models.ForeignKey(Agent, on_delete=models.PROTECT, related_name="runs")
    config = models.JSONField(help_text="The configuration it runs with, frozen when it was asked for.")
    prompt = models.TextField()
    attachments = models.JSONField(
        default=list, blank=True, help_text="Files that it was given: name, size in bytes, sha256."
    )
    trigger = models.CharField(max_length=20, choices=Trigger, default=Trigger.MANUAL)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="runs"
    )
    continues = models.ForeignKey(
        Session, null=True, blank=True, on_delete=models.PROTECT, related_name="continuations"
    )
    forks = models.ForeignKey(
        Session, null=True, blank=True, on_delete=models.PROTECT, related_name="fork_runs"
    )
    session = models.ForeignKey(Session, null=True, blank=True, on_delete=models.PROTECT, related_name="runs")
    container = models.ForeignKey(
        Container, null=True, blank=True, on_delete=models.SET_NULL, related_name="runs"
    )

    workspace = models.CharField(
        max_length=1000,
        blank=True,
        help_text="Where it worked: relative to the state directory, or a directory of the host.",
    )
    changes = models.JSONField(default=dict, blank=True, help_text="What it did to a git workspace.")

    priority = models.SmallIntegerField(default=0)
    key = models.CharField(
        max_length=100,
        blank=True,
        help_text="Chosen by who asked: the same key of the same agent is the same run.",
    )
    schedule = models.ForeignKey(
        "agents.Schedule", null=True, blank=True, on_delete=models.SET_NULL, related_name="runs"
    )
    first_attempt = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="further_attempts",
        help_text="Of a retry: the run that was asked for.",
    )
    not_before = models.DateTimeField(null=True, help_text="A pending run is left alone until then.")
    start_by = models.DateTimeField(null=True, help_text="A run that is still pending then is given up.")

    state = models.CharField(max_length=12, choices=State, default=State.QUEUED)
    reason = models.TextField(blank=True)
    suspect = models.BooleanField(default=False)
    attempt = models.PositiveSmallIntegerField(default=1)
    lease_owner = models.CharField(max_length=100, blank=True)
    lease_until = models.DateTimeField(null=True)
    rung_at = models.DateTimeField(null=True)
    held_by = models.CharField(
        max_length=150,
        blank=True,
        help_text="What about a worker kept it waiting: host:…, credential:… or runtime:…",
    )
    holds_slot = models.BooleanField(
        default=False, help_text="Counts for the limits: from its claim until its container is really gone."
    )
    host = models.CharField(
        max_length=100, blank=True, help_text="The machine or engine that it was taken to."
    )
    credential = models.CharField(
        max_length=100, blank=True, help_text="The name and a fingerprint of the credential that it uses."
    )
    leave = models.BooleanField(default=False, help_text="Its worker is asked to hand it over.")
    followed_up = models.BooleanField(default=True, help_text="What follows from its end has been done.")
    failure = models.CharField(max_length=12, choices=Failure, blank=True)
    stop_cause = models.CharField(max_length=10, choices=Cause, blank=True)
    stop_by = models.CharField(max_length=150, blank=True)
    stop_requested_at = models.DateTimeField(null=True)

    created = models.DateTimeField(auto_now_add=True)
    claimed_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    deadline_at = models.DateTimeField(null=True)
    last_output_at = models.DateTimeField(null=True)

    event_count = models.PositiveIntegerField(default=0)
    output_bytes = models.BigIntegerField(default=0)
    stderr_bytes = models.BigIntegerField(default=0)
    exit_code = models.IntegerField(null=True)
    signal = models.PositiveSmallIntegerField(null=True)
    oom = models.BooleanField(default=False)
    runtime_version = models.CharField(max_length=64, blank=True)

    contradiction = models.TextField(blank=True, help_text="Where its transcript says something else.")

    used = models.JSONField(
        default=dict, blank=True, help_text="What its messages add up to so far: turns and tokens."
    )

    result = models.TextField(blank=True)
    result_seen_at = models.DateTimeField(null=True)
    result_is_error = models.BooleanField(default=False)
    turns = models.BigIntegerField(null=True)
    cost_usd = models.FloatField(null=True)
    cost_before_usd = models.FloatField(
        default=0, help_text="What the conversation had cost before, if the agent counts that in."
    )
    input_tokens = models.BigIntegerField(null=True)
    output_tokens = models.BigIntegerField(null=True)

    objects = Guarded["Run"].as_manager()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["agent", "key"], name="run_key_once", condition=~models.Q(key=""))
        ]
        indexes = [
            # The line of those that wait: all that is asked of it, since rows are long. SQLite does
            # not use it for states that are passed as parameters: it finds the same rows by state.
            models.Index(
                fields=[
                    "state",
                    "priority",
                    "id",
                    "agent",
                    "continues",
                    "forks",
                    "not_before",
                    "start_by",
                    "held_by",
                    "rung_at",
                ],
                name="run_pending",
                condition=models.Q(state__in=("queued", "waiting")),
            ),
            models.Index(
                fields=["agent", "host", "credential", "state"],
                name="run_holding",
                condition=models.Q(holds_slot=True),
            ),
            models.Index(fields=["id"], name="run_to_follow", condition=models.Q(followed_up=False)),
            models.Index(fields=["agent", "-id"], name="run_by_agent"),
            models.Index(fields=["schedule", "state"], name="run_of_schedule_by_state"),
            # What was spent since a moment.
            models.Index(fields=["agent", "finished_at"], name="run_of_agent_by_end"),
            models.Index(fields=["state", "lease_until"], name="run_by_state"),
            models.Index(fields=["state", "-id"], name="run_of_state"),
            models.Index(fields=["trigger", "-id"], name="run_of_trigger"),
            models.Index(fields=["requested_by", "-id"], name="run_of_user"),
            models.Index(fields=["created", "id"], name="run_by_time"),
            models.Index(fields=["agent", "created", "id"], name="run_of_agent_by_time"),
            models.Index(COST, "id", name="run_by_cost"),
            models.Index(DURATION, "id", name="run_by_duration"),
            # All that the dashboard counts of a week, so that it reads the index alone.
            models.Index(fields=["created", "agent", "state", "cost_usd"], name="run_of_dashboard"),
            # All that retention asks of an agent's runs, which have long rows; and what is to be measured.
            # SQLite looks into the row for a condition whose column is not in the index as well.
            models.Index(
                fields=[
                    "agent",
                    "finished_at",
                    "id",
                    "session",
                    "pinned",
                    "files_bytes",
                    "public_id",
                    "files_removed_at",
                ],
                name="run_kept",
                condition=models.Q(files_removed_at=None),
            ),
            models.Index(
                fields=["finished_at"],
                name="run_unmeasured",
                condition=models.Q(files_removed_at=None, files_bytes=None),
            ),
        ]

    def __str__(self) -> str:
        return self.short_id

    def get_absolute_url(self) -> str:
        """The run's page."""
        return reverse("agents:run", args=[self.public_id])

    @property
    def short_id(self) -> str:
        """Enough of the id to tell runs apart when talking about them."""
        return str(self.public_id)[:8]

    @property
    def is_live(self) -> bool:
        """Whether a process may be working on it."""
        return self.state in self.LIVE

    @property
    def is_pending(self) -> bool:
        """Whether it waits for its turn."""
        return self.state in self.PENDING

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self.state in self.TERMINAL

    @property
    def duration(self) -> timedelta | None:
        """From its start to its end, or until now."""
        if not self.started_at:
            return None
        return (self.finished_at or timezone.now()) - self.started_at

    @property
    def kill_at(self) -> datetime | None:
        """When a run that was asked to end is killed; not known of one whose worker has to go."""
        asked = self.stop_requested_at
        if self.state != self.State.CANCELLING or asked is None or self.stop_cause == self.Cause.WORKER:
            return None
        return asked + timedelta(seconds=self.agent_config.cancel_grace)

    @property
    def starts_until(self) -> datetime | None:
        """When a run that a worker has taken and that does not start is given up."""
        if self.state != self.State.STARTING or self.claimed_at is None:
            return None
        return self.claimed_at + timedelta(seconds=self.agent_config.start_limit)

    @property
    def silent_until(self) -> datetime | None:
        """When a running agent that says nothing more is stopped."""
        if self.state != self.State.RUNNING or self.last_output_at is None:
            return None
        return self.last_output_at + timedelta(seconds=self.agent_config.idle_limit)

    @property
    def agent_config(self) -> AgentConfig:
        """The frozen configuration."""
        return AgentConfig.from_json(self.config)

    @property
    def offsets(self) -> Offsets:
        """How much of the output is stored."""
        return Offsets(self.output_bytes, self.stderr_bytes)

    @property
    def claim_made(self) -> Result | None:
        """What the agent's result message said, if there was one."""
        if self.result_seen_at is None:
            return None
        return Result(text=self.result, is_error=self.result_is_error)

    # Moves between states.

    def claim(self, owner: str, host: str = "", credential: str = "") -> bool:
        """Take a run that waits for its turn, or a live one whose owner has not been heard of.

        A new one takes a slot on this host, with this credential.
        """
        now = timezone.now()
        mine: dict[str, Any] = {"lease_owner": owner, "lease_until": now + LEASE, "leave": False}
        slot: dict[str, Any] = {"holds_slot": True, "host": host, "credential": credential, "held_by": ""}
        begun: dict[str, Any] = {
            "state": self.State.STARTING,
            "reason": "",
            "claimed_at": now,
            "followed_up": False,
        }
        if self._move(self.PENDING, **begun, **slot, **mine):
            return True
        # Nobody listened in between, so its silence starts now.
        forsaken = models.Q(lease_until__lt=now) | models.Q(lease_until=None)
        return self._move(self.LIVE, forsaken, last_output_at=now, **mine)

    def wait(self, reason: str, held_by: str = "") -> bool:
        """Put off a run that may not start yet; the reason names what it waits for."""
        return self._move(self.PENDING, state=self.State.WAITING, reason=reason, held_by=held_by)

    def expire(self, reason: str) -> bool:
        """Give up a run that has waited for too long."""
        return self._move(
            self.PENDING,
            state=self.State.TIMED_OUT,
            reason=reason,
            failure=self.Failure.LIMIT,
            finished_at=timezone.now(),
            followed_up=False,
        )

    def started(self, owner: str) -> bool:
        """The agent's process is on its way."""
        now = timezone.now()
        limit = timedelta(seconds=self.agent_config.time_limit)
        times = {"started_at": now, "last_output_at": now, "deadline_at": now + limit}
        mine = models.Q(lease_owner=owner)
        if self._move([self.State.STARTING], mine, state=self.State.RUNNING, **times):
            return True
        # Cancelled while it was starting: it stays so, but it did start.
        return self._move([self.State.CANCELLING], mine & models.Q(started_at=None), **times)

    def renew(self, owner: str) -> bool:
        """Say that the owner is alive."""
        return self._move(self.LIVE, models.Q(lease_owner=owner), lease_until=timezone.now() + LEASE)

    def release(self, owner: str) -> bool:
        """Let the next worker have it at once."""
        return self._move(self.LIVE, models.Q(lease_owner=owner), lease_until=None)

    def stop(self, cause: str, by: str, reason: str) -> bool:
        """Ask for the end of a live run; the first to ask decides why it ended."""
        return self._move(
            [self.State.STARTING, self.State.RUNNING],
            state=self.State.CANCELLING,
            stop_cause=cause,
            stop_by=by[:150],
            stop_requested_at=timezone.now(),
            reason=reason,
        )

    def withdraw(self, by: str) -> bool:
        """Cancel a run that has not started."""
        return self._move(
            self.PENDING,
            state=self.State.CANCELLED,
            reason=f"Cancelled by {by} before it started.",
            stop_cause=self.Cause.CANCEL,
            stop_by=by[:150],
            finished_at=timezone.now(),
            followed_up=False,
        )

    def finish(self, owner: str, state: str, outcome: Outcome, failure: str = "") -> bool:
        """The one way into a terminal state, for the owner of the lease alone."""
        return self._move(
            self.LIVE,
            models.Q(lease_owner=owner),
            state=state,
            reason=outcome.reason[:RESULT_LIMIT],
            suspect=outcome.suspect,
            failure=failure,
            finished_at=timezone.now(),
            lease_until=None,
        )

    def _move(self, states: Iterable[str], condition: models.Q | None = None, **changes: Any) -> bool:
        """One conditional UPDATE; True if this process made the move."""
        rows = Run.objects.filter(condition or models.Q(), pk=self.pk, state__in=list(states))
        moved = rows.update(**changes) == 1
        if moved:
            for name, value in changes.items():
                setattr(self, name, value)
        return moved

    # What happened.

    def note(self, text: str, **payload: Any) -> None:
        """Add a status line of ours, from whatever process."""
        with transaction.atomic():
            row = Run.objects.select_for_update().only("event_count").get(pk=self.pk)
            Event.objects.create(
                run=self,
                seq=row.event_count + 1,
                kind=Event.Kind.STATUS,
                text=text[:TEXT_LIMIT],
                payload=payload,
            )
            self._count(row.event_count + 1)

    def record(self, owner: str, reports: Sequence[Report]) -> None:
        """Store a batch: events numbered on, offsets and facts, in one transaction.

        Raises LeaseLost when the run belongs to somebody else by now; nothing is stored then.
        """
        with transaction.atomic():
            row = Run.objects.select_for_update().only("lease_owner", "state", "event_count").get(pk=self.pk)
            if row.lease_owner != owner or row.is_terminal:
                raise LeaseLost(str(self.public_id))
            rows = [event for report in reports for event in events_of(report)]
            insert(self.pk, row.event_count, rows)
            changes = self._changes(reports) | {"event_count": row.event_count + len(rows)}
            Run.objects.filter(pk=self.pk).update(**changes)
        for name, value in changes.items():
            setattr(self, name, value)

    def _count(self, events: int) -> None:
        Run.objects.filter(pk=self.pk).update(event_count=events)
        self.event_count = events

    def _changes(self, reports: Sequence[Report]) -> dict[str, Any]:
        """The columns of the run that a batch changes."""
        changes: dict[str, Any] = {}
        for report in reports:
            if isinstance(report, Parsed):
                changes[SIZE_COLUMNS[report.line.stream]] = report.offset + len(report.line.raw)
                for message in report.messages:
                    changes |= claims(message)
                    if message.spent:
                        changes["used"] = added(changes.get("used", self.used), message.spent)
            elif isinstance(report, Exit):
                changes |= {"exit_code": report.code, "signal": report.signal, "oom": report.oom}
        if any(name in changes for name in SIZE_COLUMNS.values()):
            changes["last_output_at"] = timezone.now()
        if changes.get("cost_usd"):
            changes["cost_usd"] = self.own_cost(changes["cost_usd"])
        return changes

    def own_cost(self, said: float) -> float:
        """Of what an agent says its conversation has cost, the part of this run.

        Less than before means that the agent has lost count and began again.
        """
        return said - self.cost_before_usd if said >= self.cost_before_usd else said


def added(used: Mapping[str, Any], spent: Spent) -> dict[str, Any]:
    """What a run has used, with one more answer; parts of the same answer count once."""
    known = dict(used.get("answers", {}))
    before = known.pop(spent.message, None)
    turn = 1 if before is None and spent.turn else 0
    known[spent.message] = max(spent.tokens, before or 0)
    return {
        "turns": used.get("turns", 0) + turn,
        "tokens": used.get("tokens", 0) + known[spent.message] - (before or 0),
        "answers": dict(list(known.items())[-ANSWERS:]),
    }


SIZE_COLUMNS = {"stdout": "output_bytes", "stderr": "stderr_bytes"}


def claims(message: Message) -> dict[str, Any]:
    """What an agent's message says of its run, for the columns of its claims."""
    result = message.result
    said: dict[str, Any] = {"runtime_version": message.version} if message.version else {}
    if result is None:
        return said
    return said | {
        "result": result.text[:RESULT_LIMIT],
        "result_is_error": result.is_error,
        "result_seen_at": timezone.now(),
        "turns": result.turns,
        "cost_usd": result.cost_usd,
        "input_tokens": result.input_tokens,
        "output_tokens": result.output_tokens,
    }


class Events(Guarded["Event"]):
    """Events, which belong to an agent by their run."""

    agent = "run__agent"


class Event(models.Model):
    """One ordered thing that happened in a run, and where its raw line lies in the output file."""

    class Kind(models.TextChoices):
        """Status lines are ours, all others the agent's."""

        STATUS = "status"
        SYSTEM = "system"
        TEXT = "text"
        THINKING = "thinking"
        TOOL_USE = "tool_use"
        TOOL_RESULT = "tool_result"
        STDERR = "stderr"
        RESULT = "result"
        ERROR = "error"

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events", db_index=False)
    seq = models.PositiveIntegerField(help_text="Contiguous from 1.")
    kind = models.CharField(max_length=12, choices=Kind)
    text = models.TextField(blank=True)
    payload = models.JSONField(null=True)
    offset = models.BigIntegerField(null=True, help_text="Of the raw line in its file.")
    length = models.BigIntegerField(null=True)
    created = models.DateTimeField(default=timezone.now)

    objects = Events.as_manager()

    class Meta:
        ordering = ["run", "seq"]
        constraints = [models.UniqueConstraint(fields=["run", "seq"], name="event_seq_once")]

    def __str__(self) -> str:
        return f"{self.kind} {self.seq}"

    @property
    def is_cut(self) -> bool:
        """Whether the row holds only the beginning."""
        return bool(self.length and self.length > TEXT_LIMIT and len(self.text) >= TEXT_LIMIT)


class NewEvent(NamedTuple):
    """An event that has no number yet; `payload` as JSON text."""

    kind: str
    text: str = ""
    payload: str | None = None
    offset: int | None = None
    length: int | None = None
    created: datetime | None = None


def events_of(report: Report) -> Iterable[NewEvent]:
    """The events that a report becomes; a line that means nothing to its runtime is still one."""
    if isinstance(report, Parsed):
        size = len(report.line.raw)
        for message in report.messages:
            payload = stored(message.payload, size) if message.payload else None
            yield NewEvent(message.kind, message.text[:TEXT_LIMIT], payload, report.offset, size)
    elif isinstance(report, Status):
        yield NewEvent("status", report.text[:TEXT_LIMIT], as_json(report.payload))
    elif isinstance(report, Exit):
        yield NewEvent("status", end_text(report), as_json({"exit_code": report.code, "oom": report.oom}))


def stored(payload: Mapping[str, Any], size: int) -> str | None:
    """The payload of a line of this size; of a long one its outline, which still says what it is."""
    if size <= TEXT_LIMIT:
        return as_json(payload)
    text = as_json(outline(payload) or {})
    return text if text and len(text) <= TEXT_LIMIT else None


def outline(value: Any, depth: int = 6) -> Any:
    """The same shape with the beginnings of its texts and lists."""
    if isinstance(value, str):
        return value[:OUTLINED_TEXT]
    if isinstance(value, Mapping):
        pairs = islice(value.items(), OUTLINED_ITEMS)
        return {key[:OUTLINED_TEXT]: outline(item, depth - 1) for key, item in pairs} if depth else None
    if isinstance(value, list):
        return [outline(item, depth - 1) for item in value[:OUTLINED_ITEMS]] if depth else None
    return value


def as_json(payload: Mapping[str, Any]) -> str | None:
    """The payload as text; none if it is nested deeper than anything can write it."""
    try:
        return json.dumps(dict(payload))
    except RecursionError:
        return None


def end_text(end: Exit) -> str:
    """How the process ended, in one line."""
    if end.code is None:
        return f"The exit code is not known. {end.note}"
    oom = f", out of memory (limit {human_size(end.memory_limit)})" if end.oom else ""
    return f"Ended with exit code {end.code}{oom}{duration_text(end)}."


def duration_text(end: Exit) -> str:
    """How long it took, if both times are known."""
    if not end.started_at or not end.finished_at:
        return ""
    # The engine's two clocks may differ by less than a millisecond.
    return f" after {max((end.finished_at - end.started_at).total_seconds(), 0):.2f} s"


def insert(run: int, count: int, events: Sequence[NewEvent]) -> None:
    """Insert a batch of events with the numbers after `count`.

    By hand, because an agent may print a hundred thousand lines at once and the ORM needs four
    times as long for them.
    """
    if not events:
        return
    adapt = connection.ops.adapt_datetimefield_value
    now = adapt(timezone.now())
    with connection.cursor() as cursor:
        cursor.executemany(
            INSERT,
            [
                (run, seq, *event[:-1], adapt(event.created) or now)
                for seq, event in enumerate(events, count + 1)
            ],
        )


COLUMNS = ("run_id", "seq", "kind", "text", "payload", "offset", "length", "created")
# Only our own names go into this text; what an agent printed travels as parameters.
INSERT = "INSERT INTO {table} ({columns}) VALUES ({values})".format(  # noqa: S608
    table=Event._meta.db_table,
    columns=", ".join(f'"{name}"' for name in COLUMNS),
    values=", ".join("%s" for _ in COLUMNS),
)
