"""The bells of the queue: which run is rung for, and that open pages are told of news.

The row is the truth, the queue is a bell: it carries a run's id and nothing else, and losing it costs
latency only. No more bells are rung than workers could hear, so that the line is made anew, from the
rows, whenever one of them is free.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any
from uuid import uuid4

import django_rq
from django.conf import settings
from django.utils import timezone
from redis.exceptions import RedisError
from rq import Worker, get_current_job
from rq.worker import WorkerStatus

from agents import machine, queueing
from agents.models import Run
from agents.queueing import Waiting

logger = logging.getLogger(__name__)

# A bell that was rung this long ago may have been lost.
RING_AGAIN = timedelta(seconds=5)
FOREVER = -1
# A worker that has said nothing for so long is dead; `HerdWorker` speaks three times as often.
HEARTBEAT = timedelta(seconds=30)
BELL = "run-"


def ring_next(*, released: bool = False, free: Sequence[Waiting] | None = None) -> None:
    """Ring for the runs whose turn it is, as many as there are workers to hear it.

    One that was rung for just now, and put off, is left alone unless a slot was `released` meanwhile.
    `free` are those that may start, for a caller who knows them already.
    """
    if free is None and not Run.objects.filter(state__in=Run.PENDING).exists():
        return
    try:
        heard = waiting_bells()
        room = capacity() - len(heard)
    except RedisError:
        return
    lately = timezone.now() - RING_AGAIN
    for run in queueing.next_ones(room + len(heard), free) if room > 0 else ():
        put_off = released and run.state == Run.State.WAITING
        if str(run.public_id) not in heard and (put_off or not run.rung_at or run.rung_at < lately):
            ring(run)


def ring_elsewhere(runs: Sequence[Run]) -> None:
    """Ring for runs that one host or credential is too full for, while some worker has nothing to hear.

    Who hears it is chance: on the same host it is put off once more, and rung for again some seconds later.
    """
    try:
        room = capacity() - len(waiting_bells())
    except RedisError:
        return
    ring_all(runs[: max(room, 0)])


def capacity() -> int:
    """How many bells workers could hear at once; one at least, so that whoever is free next finds it."""
    busy = Run.objects.filter(state__in=Run.LIVE, lease_until__gt=timezone.now()).count()
    return max((len(listening()) or settings.HERDWEB_WORKERS) - busy, 1)


def waiting_bells() -> set[str]:
    """The public ids of runs whose bell no worker has heard yet; raises RedisError."""
    names = (str(name) for name in queue().get_job_ids())
    return {name.removeprefix(BELL).rpartition("-")[0] for name in names if name.startswith(BELL)}


def ring_all(runs: Iterable[Run]) -> None:
    """Ring for each of these runs whose bell is neither waiting to be heard nor was rung just now."""
    lately = timezone.now() - RING_AGAIN
    due = [run for run in runs if not run.rung_at or run.rung_at < lately]
    if not due:
        return
    try:
        heard = waiting_bells()
    except RedisError:
        return
    for run in due:
        if str(run.public_id) not in heard:
            ring(run)


def ring(run: Run) -> None:
    """Enqueue `execute` for a run; when the queue cannot be reached, `tick` does it later."""
    Run.objects.filter(pk=run.pk).update(rung_at=timezone.now())
    try:
        queue().enqueue(
            "agents.jobs.execute",
            str(run.public_id),
            job_id=f"{job_id(run)}-{uuid4().hex[:6]}",
            at_front=run.priority > 0,
            job_timeout=FOREVER,
            result_ttl=0,
            failure_ttl=3600,
        )
    except RedisError as error:
        logger.warning("Run %s waits for the queue to come back: %s", run.short_id, error)


def job_id(run: Run) -> str:
    """What a run's bells have in common."""
    return f"{BELL}{run.public_id}"


@lru_cache(maxsize=1)
def queue() -> Any:
    """The queue, one per process, because each new one opens connections of its own."""
    return django_rq.get_queue("default")


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
    """Names of RQ's workers that are alive, for `doctor` and the pages; raises RedisError."""
    return [worker.name for worker in alive()]


def listening() -> list[str]:
    """Those of them that take new runs: none that is drained; raises RedisError."""
    return [worker.name for worker in alive() if worker.get_state() != WorkerStatus.SUSPENDED]


def alive() -> list[Any]:
    """RQ goes on to list a worker that was killed, until its entry expires."""
    recently = timezone.now() - HEARTBEAT
    found = Worker.all(queue=queue())
    return [worker for worker in found if worker.last_heartbeat and worker.last_heartbeat > recently]


def here() -> list[str]:
    """What this process goes by: the machine's name, and in a work horse its worker's."""
    job = get_current_job()
    return [machine.name(), *([job.worker_name] if job and job.worker_name else [])]
