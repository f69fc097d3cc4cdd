"""One claimed run, from its claim to its terminal state, whoever works on it."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from django.db import OperationalError, transaction
from django.utils import timezone

from agents import (
    archive,
    attachments,
    kept,
    machine,
    queueing,
    retries,
    sessions,
    spending,
    witness,
    workspaces,
)
from agents.models import Agent, Container, LeaseLost, Run, Session, Site
from agents.models.fields import write_seconds
from agents.runtimes import (
    ContainerFacts,
    Exit,
    NotRemoved,
    Outcome,
    Parsed,
    Report,
    Request,
    RunError,
    Runtime,
    Status,
    Usage,
    human_size,
)

logger = logging.getLogger(__name__)

# How often a run's row is read for a wish to stop, and its lease renewed; in seconds.
LOOK, RENEW = 0.3, 3.0
# What a process on the host is given when its worker has to go; in seconds.
LEAVE_GRACE = 3
WORKER_LEFT = "Its worker was stopped; only runs in containers go on without one."

# Where a run goes that was stopped by us; cancelling and the result have rules of their own.
ENDS = {
    Run.Cause.TIME: Run.State.TIMED_OUT,
    Run.Cause.IDLE: Run.State.TIMED_OUT,
    Run.Cause.OUTPUT: Run.State.FAILED,
    Run.Cause.WORKER: Run.State.LOST,
    Run.Cause.START: Run.State.TIMED_OUT,
    Run.Cause.BUDGET: Run.State.FAILED,
}
# What is left of a time when a run is warned of its end, as a part of it.
HALF = 0.5

Notify = Callable[[Run], None]


def claim(run: Run, owner: str) -> bool:
    """Take the run, or put it off with the reason.

    The site's row serialises those who give out slots; the agent's is locked as well, because whoever
    decides what happens to its containers locks that one.
    """
    try:
        place = machine.place(run.agent_config)
    except RunError as error:
        # Another version of herdweb may know its runtime.
        run.wait(str(error), f"runtime:{run.agent_config.runtime}")
        return False
    with transaction.atomic():
        site = Site.lock()
        # Without its key: whoever has a run already may then still write of its agent in the audit trail.
        rows = Agent.objects.select_for_update(of=("self",), no_key=True).select_related("fleet")
        agent = rows.get(pk=run.agent_id)
        run.refresh_from_db()
        found = queueing.obstacle(run, agent, site, place) if run.state in Run.PENDING else None
        if found:
            run.wait(found.reason, found.held_by)
            return False
        return run.claim(owner, place.host, place.credential)


class Supervision:
    """Watches over one claimed run: stores what it prints, keeps its limits, finishes it once."""

    def __init__(self, run: Run, owner: str, notify: Notify) -> None:
        self.run = run
        self.owner = owner
        self.notify = notify
        self.config = run.agent_config
        self.runtime: Runtime = machine.runtime(self.config)
        self.end: Exit | None = None
        self.error: Exception | None = None
        self.cut = 0
        self.leaving = False
        self.stopping = False
        self.warned: set[str] = set()
        self._looked = self._renewed = time.monotonic()

    def leave(self) -> None:
        """Hand over at the next opportunity: the worker has to go."""
        self.leaving = True

    def go(self) -> None:
        """Work until the run has ended, or belongs to another worker.

        Raises LeaseLost when it does; the container is left alone then.
        """
        try:
            handed_over = self._work()
        except RunError as error:
            self.error = error
            outcome = Outcome(ok=False, reason=str(error))
        else:
            if handed_over:
                return
            witness.hear(self.run, self.runtime, self._watch)
            outcome = self._outcome()
        self._capture(outcome)
        self._finish(outcome)

    def fail(self, error: Exception) -> None:
        """End a run over a mistake of ours; the reconciler removes what it left."""
        self.error = error
        self._finish(Outcome(ok=False, reason=f"herdweb failed: {type(error).__name__}: {error}"))

    def _work(self) -> bool:
        """Execute, or go on with what is executing; True if the run was handed over."""
        self.end = stored_end(self.run)
        if self.end:
            return False
        _, request = sessions.settle(self.run, self.config, self.runtime)
        if not request.adopt:
            if self._prepare():
                return True
            request = attachments.place(self.run, request, self.runtime, sessions.owner(request))
        try:
            return self._execute(request)
        except NotRemoved as error:
            self._tell(str(error))
            return False

    def _execute(self, request: Request) -> bool:
        """Store what is reported until its end; True if the run was handed over meanwhile."""
        with Output(self.run) as output:
            for reports in self.runtime.execute(request, self.run.offsets):
                self._store(reports, output)
                self._watch()
                if self.leaving and self._hand_over():
                    return True
        self._removed()
        return False

    def _prepare(self) -> bool:
        """Have the workspace ready; True if the run was handed over meanwhile."""
        with closing(workspaces.prepare(self.run, self.config)) as telling:
            for text in telling:
                self._tell(text)
                self._watch()
                if self.stopping:
                    raise RunError("It was stopped before the agent was started.")
                if self.leaving and self._hand_over():
                    return True
        return False

    def _capture(self, outcome: Outcome) -> None:
        """See what became of the workspace, before another run may work in it."""
        push = outcome.ok and not self.run.stop_cause
        for text in workspaces.capture(self.run, self.config, push=push):
            self._tell(text)
            self._stay()

    def _tell(self, text: str) -> None:
        if text:
            self.run.note(text)
            self.notify(self.run)

    def _store(self, reports: Sequence[Report], output: "Output") -> None:
        reports = self._within_limit(reports)
        for report in reports:
            if not isinstance(report, Parsed):
                self._learn(report)
        if all(isinstance(report, Usage) for report in reports):
            return
        output.append(reports)
        self.run.record(self.owner, reports)
        self.notify(self.run)

    def _within_limit(self, reports: Sequence[Report]) -> Sequence[Report]:
        """Nothing more of the output once the limit is passed; what is cut is counted."""
        if self.run.output_bytes + self.run.stderr_bytes <= self.config.output_limit:
            return reports
        self.cut += sum(len(report.line.raw) for report in reports if isinstance(report, Parsed))
        return [report for report in reports if not isinstance(report, Parsed)]

    def _learn(self, report: Report) -> None:
        """Take what concerns other rows than events."""
        if isinstance(report, Status) and report.container and self.run.session:
            self._lives_in(report.container, self.run.session)
        if isinstance(report, Status) and report.started:
            self.run.started(self.owner)
            if self.run.container:
                self.run.container.started()
        if isinstance(report, Usage):
            self._measured(report)
        if isinstance(report, Exit):
            self.end = report
            if self.run.container:
                self.run.container.ended(report)

    def _lives_in(self, facts: ContainerFacts, session: Session) -> None:
        """In one transaction, so that the end of a former run in it is never taken for this one's."""
        with transaction.atomic():
            container = Container.remember(facts, session)
            if self.run.container_id != container.pk:
                container.begins_again()
            Run.objects.filter(pk=self.run.pk).update(container=container)
        self.run.container = container

    def _measured(self, usage: Usage) -> None:
        """Store what the container uses now; a database that is busy hears of the next sample."""
        if self.run.container:
            with suppress(OperationalError):
                self.run.container.uses(usage)

    def _watch(self) -> None:
        """Look after the lease, a wish to stop, and the limits; each as often as it is due."""
        self._stay()
        if time.monotonic() - self._looked >= LOOK:
            self._looked = time.monotonic()
            self._look()

    def _stay(self) -> None:
        """Renew the lease when that is due."""
        if time.monotonic() - self._renewed >= RENEW:
            self._renewed = time.monotonic()
            if not self.run.renew(self.owner):
                raise LeaseLost(str(self.run.public_id))

    def _look(self) -> None:
        if self.stopping or self.end:
            return
        fields = ["state", "stop_cause", "stop_by", "stop_requested_at", "reason", "leave"]
        self.run.refresh_from_db(fields=fields)
        # Whoever drains this worker hands over only what lives on without it.
        self.leaving |= self.run.leave and self.runtime.survives_worker
        if self.run.state != Run.State.CANCELLING:
            self._enforce()
            self._warn()
        if self.run.state == Run.State.CANCELLING:
            self.stopping = True
            self.runtime.stop(self._grace_left())

    def _enforce(self) -> None:
        """Ask for the end of a run that went beyond one of its limits."""
        cause, reason = self._exceeded()
        if cause and self.run.stop(cause, "herdweb", reason):
            self.run.note(f"{reason} Stopping.", cause=cause)
            self.notify(self.run)

    def _exceeded(self) -> tuple[str, str]:
        run, config, now = self.run, self.config, timezone.now()
        if run.result_seen_at and now - run.result_seen_at > timedelta(seconds=config.exit_grace):
            return Run.Cause.RESULT, f"No exit within {write_seconds(config.exit_grace)} of its result."
        if run.starts_until and now > run.starts_until:
            return Run.Cause.START, f"It was not started within {write_seconds(config.start_limit)}."
        if run.deadline_at and now > run.deadline_at:
            return Run.Cause.TIME, f"Time limit of {write_seconds(config.time_limit)} reached."
        if run.started_at and self._quiet(now) > timedelta(seconds=config.idle_limit):
            return Run.Cause.IDLE, f"No output for {write_seconds(config.idle_limit)} (idle limit)."
        if run.output_bytes + run.stderr_bytes > config.output_limit:
            return Run.Cause.OUTPUT, f"More output than the limit of {human_size(config.output_limit)}."
        over = spending.exceeded(run, config)
        return (Run.Cause.BUDGET, over) if over else ("", "")

    def _quiet(self, now: datetime) -> timedelta:
        """How long it has been silent."""
        return now - (self.run.last_output_at or now)

    def _warn(self) -> None:
        """Say once that half of its time, or of its longest silence, is over."""
        run, config, now = self.run, self.config, timezone.now()
        if run.started_at is None:
            return
        if self._quiet(now) < HALF * timedelta(seconds=config.idle_limit):
            self.warned.discard(Run.Cause.IDLE)
        elif config.idle_limit > 1:
            quiet, left = self._quiet(now), config.idle_limit
            self._say(
                Run.Cause.IDLE, f"Silent for {spoken(quiet)}; it is stopped after {write_seconds(left)}."
            )
        if now - run.started_at >= HALF * timedelta(seconds=config.time_limit):
            limit = write_seconds(config.time_limit)
            self._say(Run.Cause.TIME, f"Half of its time is over; it is stopped after {limit}.")

    def _say(self, cause: str, text: str) -> None:
        """A warning, unless this worker or one before it has given it already."""
        if cause in self.warned:
            return
        self.warned.add(cause)
        before = self.run.events.filter(kind="status", payload__warns=str(cause))
        if cause == Run.Cause.IDLE and self.run.last_output_at:
            before = before.filter(created__gte=self.run.last_output_at)
        if not before.exists():
            self.run.note(text, warns=str(cause))
            self.notify(self.run)

    def _grace_left(self) -> float:
        """Of the agent's grace, what a former worker has not used up already."""
        asked = self.run.stop_requested_at or timezone.now()
        if self.run.stop_cause == Run.Cause.WORKER:
            return LEAVE_GRACE
        return max(0.0, self.config.cancel_grace - (timezone.now() - asked).total_seconds())

    def _hand_over(self) -> bool:
        """Let the next worker have a run that can live without this one; end one that cannot."""
        if self.runtime.survives_worker:
            self.run.note("The worker was stopped; the next one takes over.")
            return self.run.release(self.owner)
        self.leaving = False
        if self.run.stop(Run.Cause.WORKER, "herdweb", WORKER_LEFT):
            self.run.note(WORKER_LEFT)
        return False

    def _removed(self) -> None:
        if self.run.container and not self.config.docker.outlives_run:
            self.run.container.removed()

    def _outcome(self) -> Outcome:
        """The verdict over a run that was not stopped by us."""
        if self.end is None or self.end.code is None:
            return Outcome(ok=False, reason=self.end.note if self.end else "Nothing is known of its end.")
        return self.runtime.outcome(self.end, self.run.claim_made)

    def _finish(self, outcome: Outcome) -> None:
        """Into the terminal state that the cause of a stop, or else the outcome, leads to."""
        self._archive()
        self.run.refresh_from_db(fields=["state", "stop_cause", "stop_by", "reason"])
        state, verdict = self._verdict(outcome)
        if self.run.renew(self.owner):
            # While nobody else may enter its container.
            kept.put_to_rest(self.run)
        # One transaction: whoever sees the state sees the last event, too.
        failure = retries.classify(self.run, state, self.error, self.end)
        with transaction.atomic():
            if not self.run.finish(self.owner, state, verdict, failure):
                raise LeaseLost(str(self.run.public_id))
            sessions.remember(self.run)
            if self.cut:
                size = self.run.output_bytes + self.run.stderr_bytes
                self.run.note(f"Output cut: {size} bytes kept, {self.cut} more were printed.", cut=self.cut)
            self.run.note(f"Run {state.replace('_', ' ')}: {verdict.reason}", state=state)
            kept.mark(self.run)
        kept.settle(self.run)
        machine.forget_credentials(str(self.run.public_id))
        self.notify(self.run)

    def _archive(self) -> None:
        """Keep the transcript, while no other run may write to it yet."""
        if self.run.session:
            request = sessions.request_for(self.run.session, self.config)
            archive.keep(self.run, sessions.beneath(request), self.runtime.transcripts(request), self._watch)

    def _verdict(self, outcome: Outcome) -> tuple[str, Outcome]:
        cause, why = self.run.stop_cause, self.run.reason
        killed = " It did not end when asked and was killed." if self.end and self.end.signal == 9 else ""
        if cause == Run.Cause.CANCEL:
            return Run.State.CANCELLED, Outcome(ok=False, reason=f"Cancelled by {self.run.stop_by}.{killed}")
        if cause == Run.Cause.RESULT:
            return self._after_result(why)
        if cause:
            return ENDS[Run.Cause(cause)], Outcome(ok=False, reason=why + killed)
        if self.end and self.end.code is None:
            return Run.State.LOST, outcome
        return (Run.State.SUCCEEDED if outcome.ok else Run.State.FAILED), outcome

    def _after_result(self, why: str) -> tuple[str, Outcome]:
        """An agent that printed its result and did not go: the result counts, with a doubt."""
        if self.run.result_is_error:
            return Run.State.FAILED, Outcome(ok=False, reason=f"{self.run.result} {why}".strip())
        return Run.State.SUCCEEDED, Outcome(ok=True, reason=f"{why} It was stopped.", suspect=True)


def spoken(time: timedelta) -> str:
    """Whole seconds as people write them."""
    return write_seconds(int(time.total_seconds()))


def stored_end(run: Run) -> Exit | None:
    """The end that a dead worker has stored but not acted on."""
    container = run.container
    if container is None or container.finished_at is None:
        return None
    return Exit(
        code=container.exit_code,
        signal=container.signal,
        oom=container.oom,
        memory_limit=int(container.limits.get("memory") or 0),
        note=container.note,
    )


class Output:
    """The raw files of a run, cut to what the database knows and then appended to."""

    def __init__(self, run: Run) -> None:
        state, name = machine.state(), str(run.public_id)
        self._known = {state.output(name): run.output_bytes, state.errors(name): run.stderr_bytes}
        self._files: list[BinaryIO] = []

    def __enter__(self) -> "Output":
        self._files = [open_at(path, size) for path, size in self._known.items()]
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def append(self, reports: Sequence[Report]) -> None:
        """Write the raw lines of a batch, before the rows that point to them are stored."""
        lines = [report.line for report in reports if isinstance(report, Parsed)]
        for file, stream in zip(self._files, ("stdout", "stderr"), strict=True):
            raw = b"".join([line.raw for line in lines if line.stream == stream])
            if raw:
                file.write(raw)
                file.flush()


def open_at(path: Path, size: int) -> BinaryIO:
    """A file for appending at `size`; what a dead worker wrote without storing it goes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, size)
    file = os.fdopen(descriptor, "r+b")
    file.seek(size)
    return file
