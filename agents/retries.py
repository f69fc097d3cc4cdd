"""What kind of failure a run's was, and the next attempt at what it was asked for.

An attempt is a run of its own, linked to the first one. It waits until its time comes: longer from
attempt to attempt, and not before the provider said when to come back.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from agents import attachments, sessions
from agents.models import Run, Session
from agents.queueing import Turn
from agents.runtimes import ENGINE_LEFT, EngineAway, Exit, Refusal, RunError, kept_its_limit, read_refusal
from agents.runtimes.base import NOT_EXECUTABLE, NOT_FOUND

Submit = Callable[..., Run]

LONGEST_DELAY = timedelta(hours=1)
# A delay differs by up to this part, so that what failed together does not come back together.
SPREAD = 0.2
# For a usage limit whose reset was not told; and how often one run goes on after such limits.
UNTOLD, USAGE_ATTEMPTS = timedelta(hours=1), 20
# A reset is told in minutes, without the seconds, and the provider's clock and ours may differ a little.
MARGIN = timedelta(seconds=65)
GO_ON = "The usage limit that interrupted you has been reset. Go on where you were."
BY_LIMITS = (Run.Cause.TIME, Run.Cause.IDLE, Run.Cause.OUTPUT, Run.Cause.BUDGET)


def classify(run: Run, state: str, error: Exception | None = None, end: Exit | None = None) -> str:
    """The class of a failure; empty for a run that did not fail.

    `error` is what kept it from going on, `end` how its process ended.
    """
    if state in (Run.State.SUCCEEDED, Run.State.CANCELLED):
        return ""
    if run.stop_cause in BY_LIMITS or (run.result_is_error and kept_its_limit(run.result)):
        return Run.Failure.LIMIT
    if run.stop_cause == Run.Cause.START:
        return Run.Failure.START
    if state == Run.State.LOST:
        return Run.Failure.LOST
    if error is not None:
        return of_error(error)
    if end and end.note == ENGINE_LEFT:
        return Run.Failure.ENGINE
    refusal = refused(run)
    if refusal:
        return Run.Failure.USAGE_LIMIT if refusal.kind == "usage" else Run.Failure.RATE_LIMIT
    return Run.Failure.START if run.exit_code in (NOT_EXECUTABLE, NOT_FOUND) else Run.Failure.AGENT


def of_error(error: Exception) -> str:
    """What kept a run from its start, or from going on."""
    if isinstance(error, EngineAway):
        return Run.Failure.ENGINE
    return Run.Failure.START if isinstance(error, RunError) else Run.Failure.HERDWEB


def refused(run: Run) -> Refusal | None:
    """The provider's refusal that its result tells."""
    if not run.result_is_error:
        return None
    docker = run.agent_config.docker
    zone = docker.env.get("TZ", "UTC") if docker.enabled else settings.TIME_ZONE
    return read_refusal(run.result, run.result_seen_at or timezone.now(), zone)


@dataclass(frozen=True)
class Next:
    """The next attempt: when, why, and with what."""

    at: datetime
    reason: str
    prompt: str
    continues: Session | None
    forks: Session | None


def after(run: Run, submit: Submit) -> Run | None:
    """The next attempt at a run that has just ended; none if it is not to be tried again."""
    planned = plan(run)
    if planned is None:
        return None
    try:
        again = submit(
            run.agent,
            planned.prompt,
            by=run.requested_by or f"retry of run {run.short_id}",
            trigger=Run.Trigger.RETRY,
            continues=planned.continues,
            forks=planned.forks,
            config=configuration(run),
            attached=attachments.of(run),
            turn=Turn(
                priority=run.priority,
                schedule=run.schedule,
                first_attempt=run.first_attempt or run,
                attempt=run.attempt + 1,
                not_before=planned.at,
                reason=planned.reason,
            ),
        )
    except RunError as error:
        run.note(f"It is not tried again: {error}")
        return None
    run.note(f"{planned.reason} That is run {again.short_id}.", retry=str(again.public_id))
    return again


def configuration(run: Run) -> dict[str, Any]:
    """What it ran with; fields that are newer than it as the agent has them."""
    return {**run.agent.freeze(), **run.config, "name": run.agent.name}


def plan(run: Run) -> Next | None:
    """When and how it is tried again, by its agent's settings and its kind of failure."""
    agent = run.agent
    if run.failure == Run.Failure.USAGE_LIMIT and agent.continue_after_limit:
        return after_usage_limit(run)
    if run.failure not in agent.retry_on or run.attempt > agent.max_retries:
        return None
    at = timezone.now() + delay(agent.retry_delay, run.attempt)
    refusal = refused(run)
    if refusal and refusal.until:
        at = max(at, refusal.until + MARGIN)
    reason = (
        f"Attempt {run.attempt + 1} of {agent.max_retries + 1} begins at {spoken(at)}, after: {cause(run)}"
    )
    return Next(at, reason, *same_again(run))


def after_usage_limit(run: Run) -> Next | None:
    """It goes on when the limit is reset: in the same session, if anything was said in it."""
    if run.attempt > USAGE_ATTEMPTS:
        return None
    refusal = refused(run)
    until = refusal.until if refusal else None
    at = until + MARGIN if until else timezone.now() + UNTOLD
    told = "is reset then" if until else "did not say when it is reset"
    session = run.session
    resumable = session is not None and sessions.why_not(session, run.agent) == ""
    where = "in the same session" if resumable else "from the beginning: its session cannot be continued"
    reason = f"The provider's usage limit {told}. Attempt {run.attempt + 1} goes on at {spoken(at)}, {where}."
    if not resumable:
        return Next(at, reason, *same_again(run))
    return Next(at, reason, GO_ON if run.used.get("tokens") else run.prompt, session, None)


def same_again(run: Run) -> tuple[str, Session | None, Session | None]:
    """Prompt and session as they were asked for."""
    return run.prompt, run.continues, run.forks


def delay(first: int, attempt: int) -> timedelta:
    """How long to wait before the attempt after this one: twice as long each time, never quite the same."""
    seconds = min(first * 2 ** (attempt - 1), LONGEST_DELAY.total_seconds())
    return timedelta(seconds=seconds * random.uniform(1 - SPREAD, 1 + SPREAD))  # noqa: S311, no secret


def spoken(at: datetime) -> str:
    """A moment in the site's zone."""
    local = timezone.localtime(at)
    return f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"


def cause(run: Run) -> str:
    """The kind of failure in words, with the beginning of its reason."""
    return f"{Run.Failure(run.failure).label} ({run.reason[:200]})"
