"""The one door: `submit` and `cancel` for the web, `execute` and `tick` for the worker's side."""

import json
import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import uuid4

import structlog
from django.core.exceptions import ValidationError
from django.db import IntegrityError, OperationalError, transaction
from django.utils import timezone

from agents import (
    attachments,
    draining,
    execution,
    firing,
    limits,
    machine,
    queueing,
    reconcile,
    retries,
    schedules,
)
from agents.bells import here, publish, queue, ring, ring_all, ring_elsewhere, ring_next, workers
from agents.models import Agent, Audit, Beat, LeaseLost, Run, Session
from agents.models.fields import write_seconds
from agents.models.run import TEXT_LIMIT, NewEvent, insert
from agents.queueing import Turn
from agents.runtimes import RunError

logger = logging.getLogger(__name__)

# Looking through the engine's containers costs more than looking at rows.
SWEEP_EVERY = timedelta(seconds=10)
# Queued runs that are told in one tick what they wait for.
EXPLAINED_AT_ONCE = 50
# In seconds: how long a test of an agent may wait, and then take; how long its result is kept.
TRIAL_LIMIT, TRIAL_KEPT = 45, 300
# When its turn comes, for no reason but the asking.
AT_ONCE = Turn()
# How the event begins that says in what a run differs from its agent.
DIFFERS = "For this run only: "


class Asked(NamedTuple):
    """What was asked for, by which a key is compared."""

    agent: Agent
    prompt: str
    continues: Session | None
    forks: Session | None


def submit(
    agent: Agent,
    prompt: str,
    *,
    by: Any = None,
    trigger: str = Run.Trigger.MANUAL,
    continues: Session | None = None,
    forks: Session | None = None,
    config: dict[str, Any] | None = None,
    attached: Sequence[attachments.Attachment] = (),
    turn: Turn = AT_ONCE,
) -> Run:
    """Create a run, with the agent's configuration frozen, and ring for it once it is committed.

    `attached` are files, which are stored first. `config` is a frozen configuration that differs from
    the agent's, as a valid form has it. `by` is the user who asked, or the name of whoever did in a
    terminal. `turn` says when it may start, and what it belongs to; with a key that the agent has a
    run of already, that one is returned and nothing is created. Validation is the caller's form;
    whether the session can really be continued is judged again when the run starts. Raises RunError
    when the files cannot be stored, or the key was used for something else.
    """
    asked = Asked(agent, prompt, continues, forks)
    known = of_key(asked, turn.key)
    if known:
        return known
    try:
        return create(asked, by, trigger, config, attached, turn)
    except IntegrityError:
        # Somebody else was quicker with the same key.
        known = of_key(asked, turn.key)
        if known is None:
            raise
        return known


def create(
    asked: Asked,
    by: Any,
    trigger: str,
    config: dict[str, Any] | None,
    attached: Sequence[attachments.Attachment],
    turn: Turn,
) -> Run:
    """The run with its first events and its lines in the audit trail; then it is announced."""
    usual = asked.agent.freeze()
    public_id = uuid4()
    # Before the transaction, so that nobody waits for the files of others.
    with attachments.keeping(str(public_id), attached) as stored, transaction.atomic():
        told = list(opening(by or trigger, turn, differing(config, usual), stored))
        run = Run.objects.create(
            public_id=public_id,
            **asked._asdict(),
            config=config or usual,
            attachments=stored,
            trigger=Run.Trigger.FORK if asked.forks else trigger,
            requested_by=None if isinstance(by, str) else by,
            event_count=len(told),
            **turn.columns(asked.agent, config or usual),
        )
        insert(run.pk, 0, told)
        witness(run, by or trigger, Audit.Deed.STARTED, asked.prompt)
        if stored:
            witness(run, by or trigger, Audit.Deed.ADDED, attachments.summary(stored), "attachments of ")
        if turn.ring:
            transaction.on_commit(lambda: announce(run), robust=True)
    return run


def differing(config: dict[str, Any] | None, usual: dict[str, Any]) -> dict[str, Any]:
    """The settings that are others for this run only."""
    return {name: config[name] for name in usual if config[name] != usual[name]} if config else {}


def of_key(asked: Asked, key: str) -> Run | None:
    """The run that was asked for with this key before; RunError when it was for something else."""
    run = Run.objects.filter(agent=asked.agent, key=key).select_related("agent").first() if key else None
    if run and (run.prompt, run.continues, run.forks) != asked[1:]:
        raise RunError(f"The key {key} was used for another request, run {run.short_id}. Choose a new one.")
    return run


def opening(by: Any, turn: Turn, differs: dict[str, Any], stored: list[Any]) -> Iterator[NewEvent]:
    """The first events of a run: who asked, in what it differs from its agent, and what it was given."""
    yield NewEvent("status", f"Queued by {by}.{f' {turn.reason}' if turn.reason else ''}")
    if differs:
        payload = json.dumps({"differs": differs})
        yield NewEvent("status", f"{DIFFERS}{json.dumps(differs)[1:-1]}"[:TEXT_LIMIT], payload)
    if stored:
        text = f"Attached: {attachments.summary(stored)}."
        yield NewEvent("status", text[:TEXT_LIMIT], json.dumps({"attachments": stored}))


def announce(run: Run) -> None:
    """Ring for a new run, or for whoever is before it in the line; or say what it waits for."""
    if run.not_before:
        return
    if not Run.objects.filter(state__in=Run.PENDING).exclude(pk=run.pk).exists():
        # As ever: whether it may start is judged by the worker.
        ring(run)
        return
    free = queueing.startable()
    if run.pk in {each.pk for each in free}:
        ring_next(free=free)
    else:
        explained(run)


def cancel(run: Run, by: Any) -> bool:
    """Ask for the end of a run; False when it had ended already. `by` is a user or a name.

    One that has not started ends at once; a live one is `cancelling` until the engine confirms.
    """
    with transaction.atomic():
        if run.withdraw(str(by)):
            run.note(f"Cancelled by {by} before it started.")
            # Others of its session may have waited for it.
            transaction.on_commit(lambda: follow_up(run), robust=True)
        elif run.stop(Run.Cause.CANCEL, str(by), f"Cancelled by {by}; waiting for the agent to end."):
            run.note(f"Cancelled by {by}.")
        else:
            return False
        witness(run, by, Audit.Deed.CANCELLED)
    publish(run)
    return True


def witness(run: Run, by: Any, deed: str, detail: str = "", part: str = "") -> None:
    """Note in the audit trail who started or cancelled a run, or gave it something."""
    what = f"{part}run {run.short_id} of {run.agent.name}"
    Audit.note(by, deed, what, path=run.get_absolute_url(), detail=detail, agent=run.agent)


def execute(run_id: str) -> None:
    """RQ's job: work on the run with this public id, unless it ended or somebody else does.

    A second delivery, a foreign id or an ended run are no errors. Returns when the run has ended
    or was handed over; then the bell has been rung for the next worker.
    """
    run, names = known(run_id), here()
    if run is None:
        return
    if draining.is_drained(names):
        # The bell was heard before its worker was told to take nothing more.
        ring(run)
        return
    owner = ":".join([names[0][:40], str(os.getpid()), uuid4().hex[:8], *names[1:]])
    if not execution.claim(run, owner):
        if run.is_terminal:
            # Whoever ended it may have died before it was followed up.
            follow_up(run)
        else:
            ring_next()
        return
    structlog.contextvars.bind_contextvars(run=str(run.public_id), agent=run.agent.name)
    publish(run)
    # Its bell was heard by one worker; the next run in the line is for another.
    ring_next()
    supervision = execution.Supervision(run, owner, publish)
    with handing_over(supervision):
        supervise(supervision)
        follow_up(run)


def follow_up(run: Run) -> None:
    """What follows from the end of a run, once, whoever comes to it first; `tick` does if nobody did."""
    with transaction.atomic():
        mine = Run.objects.filter(pk=run.pk, followed_up=False, state__in=Run.TERMINAL)
        if mine.update(followed_up=True):
            run.refresh_from_db()
            retries.after(run, submit)
            if run.schedule:
                schedules.after_run(run)
    limits.release()
    ring_next(released=True)


def known(run_id: str) -> Run | None:
    """The run of this id; whoever can write to the queue may have put anything there."""
    rows = Run.objects.select_related("agent", "session", "container")
    try:
        return rows.filter(public_id=run_id).first()
    except ValidationError:
        return None


@contextmanager
def handing_over(supervision: execution.Supervision) -> Iterator[None]:
    """A TERM to this process hands the run over; it ends nothing before the run is followed up."""
    before = signal.signal(signal.SIGTERM, lambda *_: supervision.leave())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def supervise(supervision: execution.Supervision) -> None:
    """Work on a claimed run until it has ended or is handed over; then the bell is rung for the next."""
    run = supervision.run
    try:
        supervision.go()
    except LeaseLost:
        logger.warning("Another worker owns run %s now.", run.short_id)
    except OperationalError:
        # Without its database nobody can finish a run; when it is back, the next worker adopts it.
        raise
    except Exception as error:
        logger.exception("Run %s failed by a mistake of ours.", run.short_id)
        supervision.fail(error)
    if not run.is_terminal:
        ring(run)


def tick(now: datetime | None = None, source: str = "") -> None:
    """Start what is due, and repair what is left over from anything that died.

    Idempotent; any number at once. `source` is who looks at the clock, one of `Beat.Source`.
    """
    now = now or timezone.now()
    if source:
        Beat.note(source, machine.name(), now)
    firing.tick(now, submit, cancel, source)
    each(queueing.late(now), give_up)
    ended = Run.objects.filter(followed_up=False, state__in=Run.TERMINAL)
    each(ended.select_related("agent")[:100], follow_up)
    ring_all(reconcile.abandoned())
    released = limits.release() > 0
    if Run.objects.filter(state__in=Run.PENDING).exists():
        line = queueing.line(now)
        explain(line.unhindered())
        elsewhere = line.elsewhere()
        ring_next(released=released, free=list(line.startable(len(line.order))))
        ring_elsewhere(elsewhere)


def each(runs: Iterable[Run], deed: Callable[[Run], object]) -> None:
    """Do it for all of them, though it fails for one; a database that is away is none's mistake."""
    for run in runs:
        try:
            deed(run)
        except OperationalError:
            raise
        except Exception:
            logger.exception("Run %s is looked after again with the next tick.", run.short_id)


def give_up(run: Run) -> None:
    """End a run that has waited for longer than it may, with what it waited for."""
    limit = write_seconds(run.agent_config.wait_limit or 0)
    reason = f"It did not start within {limit} (wait limit). {run.reason}".strip()
    if run.expire(reason):
        run.note(f"Run timed out: {reason}", state=run.state)
        publish(run)
        follow_up(run)


def explain(unhindered: set[int]) -> None:
    """Tell queued runs that may not start yet what they wait for."""
    for run in queueing.unexplained(unhindered, EXPLAINED_AT_ONCE):
        explained(run)


def explained(run: Run) -> bool:
    """Whether something speaks against the start of a run now, which it then tells."""
    reason = queueing.why(run)
    if not reason or not run.wait(reason):
        return False
    publish(run)
    return True


def sweep() -> None:
    """Remove what ended runs left behind; raises RunError when the engine is away."""
    removed = reconcile.sweep()
    if removed:
        logger.warning("Removed %d containers of runs that have ended.", removed)


def ring_trial(agent: Agent) -> None:
    """Have a worker test an agent's stored configuration, unless one is about to; raises RedisError.

    The queue carries the agent's id. Its result is kept for some minutes, and forgotten with a
    change of the configuration.
    """
    name = trial_id(agent)
    if trial(agent)[0] in ("queued", "started"):
        return
    queue().remove(name)
    queue().enqueue(
        "agents.trial.execute",
        str(agent.pk),
        job_id=name,
        at_front=True,
        job_timeout=TRIAL_LIMIT,
        ttl=TRIAL_LIMIT,
        result_ttl=TRIAL_KEPT,
        failure_ttl=TRIAL_KEPT,
    )


def trial(agent: Agent) -> tuple[str, Any]:
    """The state of the test of an agent as it is now configured, and its result; raises RedisError.

    `finished`, `failed`, `started`, `queued`, or empty when there is none that could still end.
    """
    job = queue().fetch_job(trial_id(agent))
    status = str(job.get_status(refresh=False).value) if job else ""
    if status not in ("finished", "failed") and job and age(job.enqueued_at) > 2 * TRIAL_LIMIT:
        return "", None
    if status == "started" and job and job.worker_name not in workers():
        return "failed", None
    return status, job.return_value() if status == "finished" else None


def trial_id(agent: Agent) -> str:
    """One test at a time for each configuration of an agent."""
    stored = sha256(json.dumps([agent.freeze(), agent.enabled], sort_keys=True).encode())
    return f"trial-{agent.pk}-{stored.hexdigest()[:16]}"


def age(since: datetime | None) -> float:
    """Seconds."""
    return (timezone.now() - since).total_seconds() if since else 0.0
