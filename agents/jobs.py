"""The one door: `submit` and `cancel` for the web, `execute` and `tick` for the worker's side.

The row is the truth, the queue is a bell: it carries a run's id and nothing else, and losing it
costs latency only, because `tick` rings again for what it finds in the database.
"""

import json
import logging
import os
import signal
import socket
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any
from uuid import uuid4

import django_rq
import structlog
from django.core.exceptions import ValidationError
from django.db import OperationalError, transaction
from django.utils import timezone
from redis.exceptions import RedisError
from rq import Worker

from agents import attachments, execution, reconcile
from agents.models import Agent, Audit, LeaseLost, Run, Session

logger = logging.getLogger(__name__)

# A bell that was rung this long ago may have been lost.
RING_AGAIN = timedelta(seconds=5)
# Looking through the engine's containers costs more than looking at rows.
SWEEP_EVERY = timedelta(seconds=10)
FOREVER = -1
# A worker that has said nothing for so long is dead; `HerdWorker` speaks three times as often.
HEARTBEAT = timedelta(seconds=30)
# In seconds: how long a test of an agent may wait, and then take; how long its result is kept.
TRIAL_LIMIT, TRIAL_KEPT = 45, 300
# How the event begins that says in what a run differs from its agent.
DIFFERS = "For this run only: "


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
) -> Run:
    """Create a run, with the agent's configuration frozen, and ring for it once it is committed.

    `attached` are files, which are stored first. `config` is a frozen configuration that differs from
    the agent's, as a valid form has it. `by` is the user who asked, or the name of whoever did in a
    terminal. Validation is the caller's form; whether the session can really be continued is judged
    again when the run starts. Raises RunError when the files cannot be stored.
    """
    usual = agent.freeze()
    differs = {name: config[name] for name in usual if config and config[name] != usual[name]}
    public_id = uuid4()
    # Before the transaction, so that nobody waits for the files of others.
    with attachments.keeping(str(public_id), attached) as stored, transaction.atomic():
        run = Run.objects.create(
            public_id=public_id,
            agent=agent,
            config=config or usual,
            prompt=prompt,
            attachments=stored,
            trigger=Run.Trigger.FORK if forks else trigger,
            requested_by=None if isinstance(by, str) else by,
            continues=continues,
            forks=forks,
        )
        run.note(f"Queued by {by or trigger}.")
        if differs:
            run.note(f"{DIFFERS}{json.dumps(differs)[1:-1]}", differs=differs)
        witness(run, by or trigger, Audit.Deed.STARTED, prompt)
        if stored:
            run.note(f"Attached: {attachments.summary(run)}.", attachments=stored)
            witness(run, by or trigger, Audit.Deed.ADDED, attachments.summary(run), "attachments of ")
        transaction.on_commit(lambda: ring(run), robust=True)
    return run


def cancel(run: Run, by: Any) -> bool:
    """Ask for the end of a run; False when it had ended already. `by` is a user or a name.

    One that has not started ends at once; a live one is `cancelling` until the engine confirms.
    """
    with transaction.atomic():
        if run.withdraw(str(by)):
            run.note(f"Cancelled by {by} before it started.")
            # Others of its session may have waited for it.
            transaction.on_commit(lambda: ring_all(reconcile.startable(run.agent)), robust=True)
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
    run = known(run_id)
    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
    if run is None or not execution.claim(run, owner):
        return
    structlog.contextvars.bind_contextvars(run=str(run.public_id), agent=run.agent.name)
    publish(run)
    supervise(execution.Supervision(run, owner, publish))
    run.agent.refresh_from_db()
    ring_all(reconcile.startable(run.agent))


def known(run_id: str) -> Run | None:
    """The run of this id; whoever can write to the queue may have put anything there."""
    rows = Run.objects.select_related("agent", "session", "container")
    try:
        return rows.filter(public_id=run_id).first()
    except ValidationError:
        return None


def supervise(supervision: execution.Supervision) -> None:
    """Work on a claimed run; a TERM to this process hands it over instead of waiting for its end."""
    run = supervision.run
    before = signal.signal(signal.SIGTERM, lambda *_: supervision.leave())
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
    finally:
        signal.signal(signal.SIGTERM, before)
    if not run.is_terminal:
        ring(run)


def tick(now: datetime | None = None) -> None:
    """Repair what is left over from anything that died; idempotent, any number at once."""
    ring_all([*reconcile.abandoned(), *reconcile.pending()], now or timezone.now())


def sweep() -> None:
    """Remove what ended runs left behind; raises RunError when the engine is away."""
    removed = reconcile.sweep()
    if removed:
        logger.warning("Removed %d containers of runs that have ended.", removed)


def ring_all(runs: Iterable[Run], now: datetime | None = None) -> None:
    """Ring for each run whose bell is not waiting to be heard already."""
    due = [run for run in runs if now is None or not run.rung_at or run.rung_at < now - RING_AGAIN]
    if not due:
        return
    try:
        heard = set(queue().get_job_ids())
    except RedisError:
        return
    for run in due:
        if not any(job.startswith(job_id(run)) for job in heard):
            ring(run)


def ring(run: Run) -> None:
    """Enqueue `execute` for a run; when the queue cannot be reached, `tick` does it later."""
    Run.objects.filter(pk=run.pk).update(rung_at=timezone.now())
    try:
        queue().enqueue(
            "agents.jobs.execute",
            str(run.public_id),
            job_id=f"{job_id(run)}-{uuid4().hex[:6]}",
            job_timeout=FOREVER,
            result_ttl=0,
            failure_ttl=3600,
        )
    except RedisError as error:
        logger.warning("Run %s waits for the queue to come back: %s", run.short_id, error)


def job_id(run: Run) -> str:
    """What a run's bells have in common."""
    return f"run-{run.public_id}"


@lru_cache(maxsize=1)
def queue() -> Any:
    """The queue, one per process, because each new one opens connections of its own."""
    return django_rq.get_queue("default")


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


def publish(run: Run) -> None:
    """Tell open pages that there is something new; they look by themselves if this is lost."""
    try:
        queue().connection.publish(channel(str(run.public_id)), run.event_count)
    except RedisError:
        logger.debug("No hint for run %s: the queue is away.", run.short_id)


def channel(run_id: str) -> str:
    """The channel of hints about one run."""
    return f"herdweb:run:{run_id}"


def workers() -> list[str]:
    """Names of RQ's workers that are alive, for `doctor` and the pages; raises RedisError.

    RQ goes on to list a worker that was killed, until its entry expires.
    """
    recently = timezone.now() - HEARTBEAT
    found = Worker.all(queue=queue())
    return [worker.name for worker in found if worker.last_heartbeat and worker.last_heartbeat > recently]
