"""Due moments: claimed once, whoever looks at the clock, and told once.

A moment is claimed by moving its schedule on to the next one, if nobody has done so before; what
became of it is stored in the same transaction, a run included. A clock that is set back therefore
repeats nothing: what is due next stays where it is, and that lies as far ahead as the clock jumped.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice

from django.core.exceptions import ValidationError
from django.db import OperationalError, transaction
from django.db.models import F, QuerySet

from agents import schedules
from agents.fates import Clock, Due, Fate
from agents.models import Fire, Schedule
from agents.models.moments import COUNTED
from agents.schedules import Cancel, Submit

# From one moment to another, both included.
Span = tuple[datetime, datetime]

logger = logging.getLogger(__name__)

# Of very many missed moments so many get a row each; those before share one.
SINGLY = 50
# So many are acted on in one go, so that what else a tick does is not kept waiting for long.
AT_ONCE = 1000
# So many rows are read at once, right before they are acted on.
READ_AT_ONCE = 50
# So often in one go the database may fail a schedule, until it is taken to be away.
PATIENCE = 3


class Taken(Exception):
    """Another process was quicker, or somebody changed the schedule meanwhile."""


def tick(now: datetime, submit: Submit, cancel: Cancel, source: str = "") -> int:
    """Act on all that is due; says on how many schedules. Any number of processes may at once."""
    clock = Clock(now, source, submit, cancel)
    # Twice, for those that were left to another process which did not come to them.
    return sum(several(few, clock) for _ in range(2) for few in read(now))


def due(now: datetime) -> QuerySet[Schedule]:
    """The schedules whose time has come."""
    return Schedule.objects.filter(enabled=True, paused_at=None, due_at__isnull=False, due_at__lte=now)


def read(now: datetime) -> Iterator[list[Schedule]]:
    """The same in order, some at a time, with what is asked of each."""
    numbers = list(due(now).order_by("due_at", "pk").values_list("pk", flat=True)[:AT_ONCE])
    rows = due(now).select_related("agent__docker", "agent__fleet", "owner").order_by("due_at", "pk")
    for start in range(0, len(numbers), READ_AT_ONCE):
        yield list(rows.filter(pk__in=numbers[start : start + READ_AT_ONCE]))


def several(rows: Sequence[Schedule], clock: Clock) -> int:
    """Act on these, until another process is at them as well."""
    done = failed = 0
    known = told(rows)
    for schedule in rows:
        try:
            done += attempt(schedule, known.get(schedule.pk, ()), clock)
        except Taken:
            break
        except OperationalError:
            # A deadlock with another process, say: it is still due, and the others are as well.
            failed += 1
            if failed == PATIENCE:
                raise
            logger.warning("Schedule %s is acted on later.", schedule.pk, exc_info=True)
    return done


def attempt(schedule: Schedule, known: Sequence[Span], clock: Clock) -> bool:
    """Act on one schedule; a mistake in it is told in its log and hurts no other."""
    try:
        with transaction.atomic():
            act(schedule, known, clock)
    except (Taken, OperationalError):
        raise
    except Exception as error:
        logger.exception("Schedule %s could not be acted on.", schedule.pk)
        return set_aside(schedule, known, error, clock)
    return True


def act(schedule: Schedule, known: Sequence[Span], clock: Clock) -> None:
    """Claim what is due of a schedule, and say what became of it."""
    found = passed(schedule, known, clock.now)
    claim(schedule, *following(schedule, found))
    if found.every:
        Fire.objects.bulk_create(Fate(schedule, found, clock).fires())


def claim(schedule: Schedule, after: datetime | None, after_at: datetime | None) -> None:
    """Compare and set: move the schedule on, as it was read; raises Taken when it is not so any more."""
    same = {
        "due_moment": schedule.due_moment,
        "due_at": schedule.due_at,
        "updated": schedule.updated,
        "enabled": True,
        "paused_at": None,
    }
    if not Schedule.objects.filter(pk=schedule.pk, **same).update(due_moment=after, due_at=after_at):
        raise Taken


def following(schedule: Schedule, found: Due) -> tuple[datetime | None, datetime | None]:
    """What is due behind these; of one that counts from the end, nothing yet."""
    return (None, None) if schedule.counts_from_end else schedules.upcoming(schedule, found.last)


def passed(schedule: Schedule, known: Sequence[Span], now: datetime) -> Due:
    """The claimed moment and those that have passed since, without those that are told already."""
    every = list(reached(schedule, schedule.due_moment or now, now))
    untold = [moment for moment in every if not any(since <= moment <= until for since, until in known)]
    return Due(untold, singly(schedule), every[-1])


def singly(schedule: Schedule) -> int:
    """How many moments get a row each: all that a run may be started for."""
    return max(SINGLY, schedule.missed_limit if schedule.missed == Schedule.Missed.ALL else 0)


def reached(schedule: Schedule, first: datetime, now: datetime) -> Iterator[datetime]:
    """The moments from the first one on, as far as they are counted; not one whose jitter is not over."""
    yield first
    if schedule.counts_from_end:
        return
    jitter = timedelta(seconds=schedule.jitter)
    for moment in islice(schedule.rule.between(first, now), COUNTED):
        if moment + jitter > now and schedules.acted_on(schedule, moment) > now:
            return
        yield moment


def told(rows: Iterable[Schedule]) -> dict[int, list[Span]]:
    """Of what is due there are rows already: a clock was set back, or an older state was saved again."""
    fires = Fire.objects.filter(schedule__in=rows, moment__gte=F("schedule__due_moment")).order_by()
    found = defaultdict(list)
    for number, since, moment in fires.values_list("schedule", "since", "moment"):
        found[number].append((since or moment, moment))
    return found


def set_aside(schedule: Schedule, known: Sequence[Span], error: Exception, clock: Clock) -> bool:
    """Tell what is due of a schedule that could not be acted on; others are not kept waiting for it."""
    said = " ".join(error.messages) if isinstance(error, ValidationError) else error
    try:
        with transaction.atomic():
            skip(schedule, known, f"herdweb failed: {type(error).__name__}: {said}"[:500], clock)
    except (Taken, OperationalError):
        raise
    except Exception:
        logger.exception("Schedule %s could not even be set aside.", schedule.pk)
        return False
    return True


def skip(schedule: Schedule, known: Sequence[Span], reason: str, clock: Clock) -> None:
    """One row for all that is due, and on to the next; without a rule to go by it is paused."""
    broken, moment = schedules.broken(schedule), schedule.due_moment or clock.now
    found = Due([moment], 1, moment) if broken else passed(schedule, known, clock.now)
    claim(schedule, *((None, None) if broken else following(schedule, found)))
    if found.every:
        Fire.objects.bulk_create([Fate(schedule, found, clock).skipped_together(reason)])
    if broken:
        schedules.pause(schedule, "herdweb", reason, clock.now)
    elif schedule.counts_from_end:
        schedules.count_on(schedule, found.last, clock.now)
