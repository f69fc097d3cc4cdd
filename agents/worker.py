"""RQ's worker, with what runs in containers need: quick hand-over and no orphaned work horse."""

import gc
import multiprocessing
import os
import signal
import time
from typing import Any

from django.db import DatabaseError, connections
from django.utils import timezone
from redis.exceptions import RedisError
from rq import Worker
from rq.worker import WorkerStatus
from rq.worker_registration import REDIS_WORKER_KEYS

from agents import bells, draining, jobs, machine
from agents.models import Run
from agents.runtimes.host import die_with_parent, end_with_parent

# In seconds: how often a busy worker says that it is alive, and an idle one cleans up.
MONITORING, MAINTENANCE = 5, 60
# An idle worker says so 15 seconds before this is over.
IDLE_TTL = 25
# Allocations between two collections in a work horse; Python's own default is 700.
GARBAGE = 100_000


class HerdWorker(Worker):
    """Forks a work horse for each run; importing this module has loaded Docker's client already."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        options.update(
            job_monitoring_interval=MONITORING, maintenance_interval=MAINTENANCE, worker_ttl=IDLE_TTL
        )
        super().__init__(*arguments, **options)

    def heartbeat(self, *arguments: Any, **options: Any) -> None:
        """Come back after the queue lost everything."""
        if not self.connection.sismember(REDIS_WORKER_KEYS, self.key):
            self.connection.delete(self.key)
            self.register_birth()  # type: ignore[no-untyped-call]
        super().heartbeat(*arguments, **options)

    def maintain_heartbeats(self, job: Any, execution: Any) -> None:
        """A queue that is away must not end the worker of a live run: the run does not need it."""
        try:
            super().maintain_heartbeats(job, execution)
        except RedisError as error:
            self.log.warning("The queue is away while a run goes on: %s", error)

    def work(self, *arguments: Any, **options: Any) -> bool:
        """Without RQ's scheduler, which a pool would start: due moments are rows, not jobs."""
        if multiprocessing.parent_process():
            # A pool that was killed cannot end its workers, and nobody would replace those that die.
            end_with_parent()
        return bool(super().work(*arguments, **{**options, "with_scheduler": False}))

    def check_for_suspension(self, burst: bool) -> None:
        """Hear no bell while this worker, or its host, is drained; it says that it is alive all the same."""
        super().check_for_suspension(burst)
        drained = False
        while not self._stop_requested and self._is_drained():
            drained = True
            self.set_state(WorkerStatus.SUSPENDED)
            self.heartbeat()
            time.sleep(1)
        if drained:
            self.set_state(WorkerStatus.IDLE)

    def _is_drained(self) -> bool:
        """Asked of the database; one that is away drains nobody."""
        try:
            return draining.is_drained([machine.name(), self.name])
        except DatabaseError:
            return False
        finally:
            # Nothing of it may be left open when a horse is forked.
            connections.close_all()

    def subscribe(self) -> None:
        """Its thread must not take the signals that are to interrupt the main thread's wait."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        super().subscribe()  # type: ignore[no-untyped-call]
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def fork_work_horse(self, job: Any, queue: Any) -> None:
        """A database connection must not be shared between two processes."""
        connections.close_all()
        super().fork_work_horse(job, queue)

    def setup_work_horse_signals(self) -> None:
        """The horse dies with its worker, so that its lease runs out and the next one adopts."""
        super().setup_work_horse_signals()  # type: ignore[no-untyped-call]
        die_with_parent()
        # What was loaded before the fork is shared memory as long as the collector leaves it alone,
        # and a burst of lines makes many objects but no cycles.
        gc.freeze()
        gc.set_threshold(GARBAGE)

    def handle_warm_shutdown_request(self) -> None:
        """Tell the horse to hand its run over instead of waiting for the end of the agent."""
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        if self.horse_pid:
            os.kill(self.horse_pid, signal.SIGTERM)

    def handle_work_horse_killed(self, job: Any, retpid: int, ret_val: int, rusage: Any) -> None:
        """Free the run of a horse that died, so that it is adopted now and not after its lease."""
        run = jobs.known(job.args[0])
        owner = run.lease_owner if run else ""
        if (
            run
            and f":{retpid}:" in owner
            and Run.objects.filter(pk=run.pk, lease_owner=owner).update(lease_until=timezone.now())
        ):
            bells.ring(run)
        connections.close_all()
