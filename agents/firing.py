"""Due moments: claimed once, whoever looks at the clock, and acted on or skipped with the reason.

A moment is claimed by moving its schedule on to the next one, if nobody has done so before; what
became of it is stored in the same transaction, a run included.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import DatabaseError, transaction
from django.db.models import QuerySet

from agents import schedules
from agents.models import Fire, Run, Schedule
from agents.runtimes import RunError
from agents.schedules import Cancel, Submit

logger = logging.getLogger(__name__)

# Acted on within this time a moment is not late.
ON_TIME = timedelta(seconds=60)
# So many moments of a claim get a row each; those before share one.
SINGLY = 50
# So many are claimed in one go, so that what else a tick does is not kept waiting for long.
AT_ONCE = 1000

# So few are acted on in one transaction that others who write wait for some tenths of a second at most.
TOGETHER = 25

NOBODY_LOOKED = "Missed: nobody looked at the clock."


@dataclass(frozen=True)
class Clock:
    """Who looks at the clock, when, and how runs are asked for and cancelled."""

    now: datetime
    source: str
    submit: Submit
    cancel: Cancel


@dataclass(frozen=True)
class Due:
    """The moments of a claim in their order, the newest ones singly; `count` is all of them."""

    count: int
    moments: list[datetime]

    @property
    def newest(self) -> datetime:
        """The one that is due last."""
        return self.moments[-1]


def tick(now: datetime, submit: Submit, cancel: Cancel, source: str = "") -> int:
    """Act on all that is due; says on how many schedules. Any number of processes may at once."""
    clock = Clock(now, source, submit, cancel)
    rows = list(due(now).order_by("due_at", "pk").only("pk", "due_moment", "due_at")[:AT_ONCE])
    return sum(some(rows[begin : begin + TOGETHER], clock) for begin in range(0, len(rows), TOGETHER))


def some(rows: list[Schedule], clock: Clock) -> int:
    """Act on some schedules in one transaction, because each has its price; each can fail alone."""
    with transaction.atomic():
        return sum(attempt(row, clock) for row in rows)


def due(now: datetime) -> QuerySet[Schedule]:
    """The schedules whose time has come."""
    return Schedule.objects.filter(enabled=True, paused_at=None, due_at__isnull=False, due_at__lte=now)


def attempt(row: Schedule, clock: Clock) -> bool:
    """Act on one schedule; a mistake in it is told in its log and hurts no other."""
    try:
        with transaction.atomic():
            return act(row, clock)
    except DatabaseError:
        raise
    except Exception as error:
        logger.exception("Schedule %s could not be acted on.", row.pk)
        return set_aside(row, error, clock)


def act(row: Schedule, clock: Clock) -> bool:
    """Claim what is due of a schedule and say what became of it; False if another was quicker."""
    schedule = schedule_of(row)
    found = passed(schedule, row.due_moment or clock.now, clock.now)
    if not claim(row, *following(schedule, found.newest)):
        return False
    Fire.objects.bulk_create(Verdict(schedule, found, clock).fires())
    return True


def schedule_of(row: Schedule) -> Schedule:
    """The same with what is asked of each; few have a session or an owner who is still to be looked at."""
    return Schedule.objects.select_related("agent__docker", "agent__fleet").get(pk=row.pk)


def passed(schedule: Schedule, moment: datetime, now: datetime) -> Due:
    """The claimed moment and those that have passed since; one whose jitter is not over is left."""
    if schedule.counts_from_end:
        return Due(1, [moment])
    count, newest = schedule.rule.last(moment, now, SINGLY)
    if count and (schedules.upcoming(schedule, newest[-1] - timedelta(seconds=1))[1] or now) > now:
        count, newest = count - 1, newest[:-1]
    return Due(count + 1, [moment, *newest] if count < SINGLY else newest)


def following(schedule: Schedule, moment: datetime) -> tuple[datetime | None, datetime | None]:
    """What is due behind this moment; of one that counts from the end, nothing yet."""
    return (None, None) if schedule.counts_from_end else schedules.upcoming(schedule, moment)


def claim(row: Schedule, after: datetime | None, after_at: datetime | None) -> bool:
    """Compare and set: whether it was this process that moved the schedule on."""
    same = {"due_moment": row.due_moment, "due_at": row.due_at, "enabled": True, "paused_at": None}
    return Schedule.objects.filter(pk=row.pk, **same).update(due_moment=after, due_at=after_at) == 1


def set_aside(row: Schedule, error: Exception, clock: Clock) -> bool:
    """Pause a schedule that cannot be acted on, with the reason where people look for it."""
    reason = f"herdweb failed: {type(error).__name__}: {error}"[:500]
    with transaction.atomic():
        if not claim(row, None, None):
            return False
        schedule = schedule_of(row)
        Fire.objects.create(
            schedule=schedule, moment=row.due_moment or clock.now, kind=Fire.Kind.SKIPPED, reason=reason,
            source=clock.source, at=clock.now,
        )  # fmt: skip
        return schedules.pause(schedule, "herdweb", reason[:300])


class Verdict:
    """What becomes of the moments of one claim, by the policies of their schedule."""

    def __init__(self, schedule: Schedule, due: Due, clock: Clock) -> None:
        self.schedule, self.due, self.clock = schedule, due, clock
        self.live = list(schedules.unended(schedule).only("public_id", "state", "agent"))

    def fires(self) -> list[Fire]:
        """A row for each moment that is told singly, and one for all before these."""
        chosen = self._chosen()
        reason = self._objection() if chosen else ""
        told = {moment: self._told(moment, reason) for moment in chosen}
        last = told[chosen[-1]] if chosen else None
        rows = [told.get(moment) or self._left(moment, last) for moment in self.due.moments]
        if self.schedule.counts_from_end and not (last and last.run):
            self._count_on()
        return [*self._earlier(last), *rows]

    def _chosen(self) -> list[datetime]:
        """The moments that a run is to be started for, in their order."""
        moments, policy = self.due.moments, self.schedule.missed
        if policy == Schedule.Missed.ALL:
            return moments[-self.schedule.missed_limit :]
        newest = moments[-1:]
        return newest if policy == Schedule.Missed.ONCE or not self._is_late(newest[0]) else []

    def _is_late(self, moment: datetime) -> bool:
        acted_on = schedules.upcoming(self.schedule, moment - timedelta(seconds=1))[1] or moment
        if self.schedule.counts_from_end:
            acted_on = moment + timedelta(seconds=self.schedule.jitter)
        return self.clock.now - acted_on > ON_TIME

    def _objection(self) -> str:
        """Why nothing is started now; empty if something is."""
        schedule = self.schedule
        orphaned = schedules.orphaned(schedule)
        if orphaned:
            schedules.pause(schedule, "herdweb", orphaned)
            return orphaned
        return schedules.closed(schedule) or self._overlap() or schedules.session_trouble(schedule)

    def _overlap(self) -> str:
        """What runs of it that have not ended mean for the next one."""
        policy, live = self.schedule.overlap, self.live
        if policy == Schedule.Overlap.CANCEL:
            for run in live:
                self.clock.cancel(run, f"schedule {self.schedule.name}")
            return ""
        if policy == Schedule.Overlap.WAIT and len(live) >= schedules.WAITING_AT_MOST:
            return f"{len(live)} runs of this schedule have not ended; no more wait than that."
        if policy == Schedule.Overlap.SKIP and live:
            return f"Run {live[0].short_id} of this schedule has not ended."
        return ""

    def _told(self, moment: datetime, reason: str) -> Fire:
        """A moment with its run, or why there is none."""
        rule = self.schedule.rule
        window = rule.blackout(moment) or rule.blackout(self.clock.now)
        reason = reason or (f"Blackout window {window}." if window else "")
        return self._skipped(moment, reason) if reason else self._start(moment)

    def _start(self, moment: datetime) -> Fire:
        try:
            run = schedules.start(self.schedule, moment, self.clock.submit)
        except RunError as error:
            return self._skipped(moment, str(error))
        late = self._is_late(moment)
        kind = Fire.Kind.LATE if late else Fire.Kind.STARTED
        return self._fire(moment, kind, NOBODY_LOOKED.replace("Missed", "Late") if late else "", run)

    def _left(self, moment: datetime, last: Fire | None) -> Fire:
        """A moment that no run was started for."""
        if self.schedule.missed == Schedule.Missed.ONCE and last:
            return self._merged(moment, last)
        return self._skipped(moment, NOBODY_LOOKED)

    def _merged(self, moment: datetime, last: Fire) -> Fire:
        if last.run is None:
            return self._skipped(moment, last.reason)
        return self._fire(moment, Fire.Kind.MERGED, "One run for all missed moments.", last.run)

    def _skipped(self, moment: datetime, reason: str) -> Fire:
        return self._fire(moment, Fire.Kind.SKIPPED, reason)

    def _fire(self, moment: datetime, kind: str, reason: str, run: Run | None = None) -> Fire:
        return Fire(
            schedule=self.schedule, moment=moment, kind=kind, reason=reason[:500], run=run,
            source=self.clock.source, at=self.clock.now,
        )  # fmt: skip

    def _earlier(self, last: Fire | None) -> list[Fire]:
        """One row for the moments before those that are told singly."""
        count = self.due.count - len(self.due.moments)
        if count < 1:
            return []
        first, second = self.schedule.due_moment or self.due.moments[0], self.due.moments[0]
        ends = schedules_before(self.schedule, first, second)
        fire = self._left(ends, last)
        fire.since, fire.count = first, count
        return [fire]

    def _count_on(self) -> None:
        """Nothing was started whose end could be counted from."""
        if self.live:
            return
        step = timedelta(seconds=self.schedule.interval or 0)
        moment = max(self.due.newest + step, self.clock.now.replace(microsecond=0))
        schedules.store_due(self.schedule, moment, moment)


def schedules_before(schedule: Schedule, first: datetime, second: datetime) -> datetime:
    """The last moment of a schedule in [first, second)."""
    found = schedule.rule.last(first, second - timedelta(seconds=1), 1)[1]
    return found[0] if found else first
