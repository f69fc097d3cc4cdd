"""Fifty workers that claim, hold and finish runs as fast as they can: python -m tests.hammer SECONDS

Started by a test as a process of its own. Each worker is a forked process; every now and then one is
killed and replaced. Prints as JSON the most slots of each kind that were ever seen taken at once.
"""

import json
import os
import random
import signal
import sys
import time

WORKERS, KILL_EVERY = 50, 0.5


def main(seconds: float) -> None:
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "herdweb.settings")
    django.setup()
    end = time.time() + seconds
    workers = {start(end) for _ in range(WORKERS)}
    most: dict[str, int] = {}
    killed, next_kill = 0, time.time() + KILL_EVERY
    while time.time() < end:
        most |= {name: max(number, most.get(name, 0)) for name, number in taken().items()}
        if time.time() > next_kill:
            victim = random.choice(sorted(workers))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            workers = {*workers - {victim}, start(end)}
            killed, next_kill = killed + 1, time.time() + KILL_EVERY
    for worker in workers:
        os.waitpid(worker, 0)
    print(json.dumps({"most": most, "killed": killed}))


def start(end: float) -> int:
    """A worker; its connection is its own."""
    from django.db import connections

    connections.close_all()
    child = os.fork()
    if child == 0:
        random.seed()
        try:
            work(end)
        finally:
            os._exit(0)
    return child


def work(end: float) -> None:
    from django.db import OperationalError

    while time.time() < end:
        try:
            turn()
        except OperationalError:
            # Fifty writers at once: one of them has waited for too long, and tries again.
            time.sleep(0.1)


def turn() -> None:
    """One bell: any run that waits, or one whose worker was killed."""
    from agents import execution, queueing, reconcile
    from agents.runtimes import Outcome

    owner = f"hammer:{os.getpid()}:{random.random()}"
    run = next(iter(reconcile.abandoned()), None) or random.choice(queueing.next_ones(8) or [None])
    if run is None or not execution.claim(run, owner):
        time.sleep(0.02)
        return
    # Long enough that the limits are reached, not only the pace at which a machine claims.
    time.sleep(random.uniform(0, 0.4))
    run.finish(owner, "succeeded", Outcome(ok=True, reason="Done."))
    released()


def released() -> None:
    from agents import limits

    limits.release()


def taken() -> dict[str, int]:
    """How many slots are held of all, of each agent and each fleet; one query, so that it is one moment."""
    from collections import Counter

    from agents.models import Run

    rows = list(Run.objects.filter(holds_slot=True).values_list("agent__name", "agent__fleet__name"))
    return {
        "all": len(rows),
        **{f"agent {name}": number for name, number in Counter(agent for agent, _ in rows).items()},
        **{f"fleet {name}": number for name, number in Counter(fleet for _, fleet in rows if fleet).items()},
    }


if __name__ == "__main__":
    main(float(sys.argv[1]))
