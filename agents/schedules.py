"""Schedules: what is due next, what a run of one is given, and what follows from its end."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from agents import budgets, placeholders, sessions
from agents.models import Agent, Audit, Fire, Run, Schedule, Session
from agents.models.moments import jitter
from agents.models.rights import RUN
from agents.queueing import Turn
from agents.runtimes import RunError

Submit = Callable[..., Run]
Cancel = Callable[[Run, str], bool]

FAILED = (Run.State.FAILED, Run.State.TIMED_OUT, Run.State.LOST)
BREAKER = "circuit breaker"
# What is run when neither the schedule nor its agent says anything.
LAST_RESORT = "Execute your configured task"
# Runs of one schedule that wait behind each other.
WAITING_AT_MOST = 10
# The runs that begin with a new conversation, and further attempts at them.
OPENS = Q(first_attempt=None, continues=None) | Q(first_attempt__isnull=False, first_attempt__continues=None)
# How the name of whoever saved it in a terminal ends; such a person has no account.
TERMINAL = "(command)"


# When.


def upcoming(schedule: Schedule, after: datetime) -> tuple[datetime | None, datetime | None]:
    """The next moment and when it is acted on: later by its jitter, but before the one that follows."""
    moments = schedule.rule.next(after, 2 if schedule.jitter else 1)
    if not moments:
        return None, None
    late = moments[0] + jitter(str(schedule.pk), moments[0], schedule.jitter)
    return moments[0], min([late, *(moment - timedelta(seconds=1) for moment in moments[1:])])


def acted_on(schedule: Schedule, moment: datetime) -> datetime:
    """When one of its moments is acted on."""
    if not schedule.jitter:
        return moment
    return upcoming(schedule, moment - timedelta(seconds=1))[1] or moment


def broken(schedule: Schedule) -> str:
    """Why its rule cannot be read, which nobody can have typed; empty if it can."""
    try:
        upcoming(schedule, timezone.now())
    except ValidationError as error:
        return " ".join(error.messages)
    except Exception as error:
        # Whatever is stored there: one schedule that cannot be read is told, and hurts no other.
        return f"{type(error).__name__}: {error}"
    return ""


@transaction.atomic
def set_due(schedule: Schedule, now: datetime | None = None) -> None:
    """Work out anew what is due next, and store it; nothing while it is off, paused or waits for an end."""
    now = now or timezone.now()
    # Locked, and as it is: it may have been resumed, or its run may end, meanwhile.
    rows = Schedule.objects.select_for_update(no_key=True).only("enabled", "paused_at", "due_moment")
    row = rows.get(pk=schedule.pk)
    schedule.enabled, schedule.paused_at = row.enabled, row.paused_at
    drop(schedule, row.due_moment, now, "The schedule was changed before it was acted on.")
    off = not schedule.enabled or schedule.is_paused
    waits = schedule.counts_from_end and unended(schedule).exists()
    store_due(schedule, *((None, None) if off or waits else upcoming(schedule, now)))


def store_due(schedule: Schedule, moment: datetime | None, at: datetime | None) -> None:
    """These two columns and no others."""
    Schedule.objects.filter(pk=schedule.pk).update(due_moment=moment, due_at=at)
    schedule.due_moment, schedule.due_at = moment, at


def drop(schedule: Schedule, moment: datetime | None, now: datetime, reason: str) -> None:
    """Tell what became of a moment that was due, but had not been acted on: its jitter was not over, say."""
    if moment and moment <= now:
        fire = Fire(schedule=schedule, moment=moment, kind=Fire.Kind.SKIPPED, reason=reason, at=now)
        Fire.objects.bulk_create([fire], ignore_conflicts=True)


def unended(schedule: Schedule) -> QuerySet[Run]:
    """Its runs that have not ended, the oldest first."""
    return schedule.runs.filter(state__in=(*Run.PENDING, *Run.LIVE)).order_by("id")


@transaction.atomic
def pause(schedule: Schedule, by: Any, why: str = "", now: datetime | None = None) -> bool:
    """Nothing of it is due any more; False if it was paused already."""
    if not schedule.pause(str(by), why):
        return False
    schedule.refresh_from_db(fields=["due_moment"])
    now = now or timezone.now()
    drop(schedule, schedule.due_moment, now, "The schedule was paused before it was acted on.")
    store_due(schedule, None, None)
    note(schedule, by, f"Paused. {why}".strip())
    return True


def check_rule(schedule: Schedule) -> None:
    """Raises RunError when it cannot be read."""
    reason = broken(schedule)
    if reason:
        raise RunError(f"Its rule cannot be read: {reason}")


@transaction.atomic
def resume(schedule: Schedule, by: Any) -> bool:
    """Due again from now on: moments while it was paused are over. False if it was not paused.

    Raises RunError when its rule cannot be read.
    """
    check_rule(schedule)
    if not schedule.resume():
        return False
    Schedule.objects.filter(pk=schedule.pk).update(failures_since=timezone.now())
    set_due(schedule)
    note(schedule, by, "Resumed.")
    return True


def note(schedule: Schedule, by: Any, detail: str, deed: str = Audit.Deed.CHANGED) -> None:
    """A line in the audit trail."""
    facts = {"path": schedule.get_absolute_url(), "agent": schedule.agent}
    Audit.note(by, deed, f"schedule {schedule}", detail=detail, **facts)


# What.


def run_now(schedule: Schedule, by: Any, submit: Submit) -> Run:
    """A run as if a moment were due, asked for by a person; raises RunError with the reason against it."""
    check_rule(schedule)
    reason = closed(schedule) or session_trouble(schedule)
    if reason:
        raise RunError(reason)
    return start(schedule, timezone.now(), submit, by=by, trigger=Run.Trigger.MANUAL, ring=True)


def start(
    schedule: Schedule,
    moment: datetime,
    submit: Submit,
    *,
    by: Any = None,
    trigger: str = Run.Trigger.SCHEDULE,
    ring: bool = False,
) -> Run:
    """Create the run of a moment; whether it may be is asked before."""
    return submit(
        schedule.agent,
        prompt_of(schedule, moment),
        by=by or f"schedule {schedule.name}",
        trigger=trigger,
        continues=session_of(schedule),
        turn=Turn(priority=schedule.priority, schedule=schedule, ring=ring),
    )


def closed(schedule: Schedule) -> str:
    """Why nothing is run for its agent; empty if it may be. A pause is none: then the run waits."""
    if not schedule.agent.enabled:
        return f"The agent {schedule.agent} is switched off."
    return budgets.exhausted(schedule.agent)


def orphaned(schedule: Schedule) -> str:
    """That whoever saved it may not run the agent any more; empty if all is well."""
    owner = schedule.owner
    if owner is None:
        gone = schedule.saved_by and not schedule.saved_by.endswith(TERMINAL)
        return f"The account of {schedule.saved_by}, who saved it, is gone." if gone else ""
    sees = owner.is_active and Agent.objects.visible_to(owner).filter(pk=schedule.agent_id).exists()
    return "" if sees and owner.has_perm(RUN) else f"{owner}, who saved it, may not run the agent any more."


def session_of(schedule: Schedule) -> Session | None:
    """The conversation that its next run continues."""
    if schedule.conversation == Schedule.Conversation.OWN:
        opening = None if schedule.own_session else opener(schedule)
        return opening.session if opening else schedule.own_session
    return schedule.session if schedule.conversation == Schedule.Conversation.NAMED else None


def opener(schedule: Schedule) -> Run | None:
    """The run that opens the schedule's own session, and has not ended."""
    return unended(schedule).filter(OPENS).select_related("session").first()


@transaction.atomic
def begin_anew(schedule: Schedule, by: Any) -> bool:
    """Leave the schedule's own session, so that its next run opens a new one; False if it has none."""
    if not Schedule.objects.filter(pk=schedule.pk, own_session__isnull=False).update(own_session=None):
        return False
    schedule.own_session = None
    note(schedule, by, "Left its own session; its next run opens a new one.")
    return True


def session_trouble(schedule: Schedule) -> str:
    """Why its conversation cannot go on; nothing silently starts afresh."""
    session = session_of(schedule)
    if session is None:
        return session_missing(schedule)
    reason = sessions.why_not(session, schedule.agent)
    if not reason:
        return ""
    own = schedule.conversation == Schedule.Conversation.OWN
    remedy = " Its schedule's page has a button that begins a new one." if own else ""
    return f"Its session cannot be continued: {reason}{remedy}"


def session_missing(schedule: Schedule) -> str:
    """Why one that should go on has none; empty for one that is to open a new one."""
    if schedule.conversation == Schedule.Conversation.NAMED:
        return "The session that it should continue is gone."
    opening = opener(schedule) if schedule.conversation == Schedule.Conversation.OWN else None
    if opening is None or (opening.state in Run.PENDING and schedule.overlap == Schedule.Overlap.CANCEL):
        return ""
    return f"Run {opening.short_id}, which opens its own session, has not ended."


def prompt_of(schedule: Schedule, moment: datetime) -> str:
    """The prompt with its placeholders filled in; their values are text, and are not looked at again."""
    text = schedule.prompt if schedule.prompt.strip() else schedule.agent.default_prompt
    if not text.strip():
        return LAST_RESORT
    return placeholders.filled(text, schedule, moment)


# Afterwards.


def after_run(run: Run) -> None:
    """What follows for its schedule from the end of a run, once; of several attempts, of the last one."""
    schedule = Schedule.objects.select_related("agent").filter(runs=run).first()
    if schedule is None or attempts(run).exclude(state__in=Run.TERMINAL).exists():
        return
    keep_session(schedule, run)
    if schedule.counts_from_end and not unended(schedule).exists():
        ended = (run.finished_at or timezone.now()).replace(microsecond=0)
        count_from(schedule, ended + timedelta(seconds=schedule.interval or 0))
    if run.state in FAILED:
        break_circuit(schedule, run)


def attempts(run: Run) -> QuerySet[Run]:
    """The further attempts at what a run was asked for."""
    return Run.objects.filter(first_attempt=run.first_attempt_id or run.pk)


def keep_session(schedule: Schedule, run: Run) -> None:
    """The first conversation of one that has its own is that from now on, if it can go on at all."""
    if schedule.conversation != Schedule.Conversation.OWN or schedule.own_session:
        return
    first = run.first_attempt_id or run.pk
    opened = Run.objects.filter(OPENS, Q(pk=first) | Q(first_attempt=first), session__isnull=False)
    last = opened.order_by("-pk").first()
    if last and last.session and not sessions.why_not(last.session, run.agent):
        Schedule.objects.filter(pk=schedule.pk, own_session=None).update(own_session=last.session)


def count_on(schedule: Schedule, moment: datetime, now: datetime) -> None:
    """After a moment that no run was started for, whose end could be counted from."""
    if unended(schedule).exists():
        return
    step = timedelta(seconds=schedule.interval or 0)
    count_from(schedule, moment + max((now - moment) // step + 1, 1) * step)


def count_from(schedule: Schedule, moment: datetime) -> None:
    """This one is due next, unless it is off, paused or over by then."""
    schedule.refresh_from_db(fields=["enabled", "paused_at"])
    off = not schedule.enabled or schedule.is_paused
    if off or (schedule.ends_at and moment > schedule.ends_at):
        store_due(schedule, None, None)
    else:
        store_due(schedule, moment, moment + jitter(str(schedule.pk), moment, schedule.jitter))


def break_circuit(schedule: Schedule, run: Run) -> None:
    """Pause it when its last runs have all failed."""
    most = schedule.breaker
    if most and failures(schedule, most) >= most:
        counted = f"{most} failures in a row, the last one" if most > 1 else "A failure:"
        pause(schedule, BREAKER, f"{counted} run {run.short_id}: {run.reason[:150]}")


def failures(schedule: Schedule, most: int) -> int:
    """How many of its last runs failed one after the other; of several attempts the last one counts."""
    later = Run.objects.filter(
        first_attempt=Coalesce(OuterRef("first_attempt"), OuterRef("pk")), attempt__gt=OuterRef("attempt")
    )
    ended = schedule.runs.filter(state__in=Run.TERMINAL, finished_at__gte=schedule.failures_since)
    rows = ended.exclude(state=Run.State.CANCELLED).exclude(Exists(later)).order_by("-pk")
    states = list(rows.values_list("state", flat=True)[:most])
    return next((number for number, state in enumerate(states) if state not in FAILED), len(states))
