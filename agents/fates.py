"""What becomes of the due moments of a schedule, by its policies: a run, or the reason why there is none."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from agents import schedules
from agents.models import Fire, Run, Schedule
from agents.runtimes import RunError
from agents.schedules import Cancel, Submit

# Acted on within this time a moment is not late.
ON_TIME = timedelta(seconds=60)

MISSED = "Missed: nobody looked at the clock."
LATE = "Late: nobody looked at the clock."
MERGED = "One run for all missed moments."


@dataclass(frozen=True)
class Clock:
    """Who looks at the clock, when, and how runs are asked for and cancelled."""

    now: datetime
    source: str
    submit: Submit
    cancel: Cancel
    # By account and agent what `schedules.orphaned` said: many schedules have the same two.
    known: dict[tuple[int, int], str] = field(default_factory=dict)


@dataclass(frozen=True)
class Due:
    """The moments of one claim in their order, of which the newest are told singly.

    `last` is where the schedule goes on: also when that moment is told already.
    """

    every: Sequence[datetime]
    most: int
    last: datetime

    @property
    def singly(self) -> Sequence[datetime]:
        """Those that get a row each."""
        return self.every[-self.most :]

    @property
    def earlier(self) -> Sequence[datetime]:
        """Those before, which share one."""
        return self.every[: -self.most]


class Fate:
    """What becomes of the moments of one claim; whoever asks for it has claimed them."""

    def __init__(self, schedule: Schedule, due: Due, clock: Clock) -> None:
        self.schedule, self.due, self.clock = schedule, due, clock
        self.started = 0

    def fires(self) -> list[Fire]:
        """A row for each moment that is told singly, and one for all before these."""
        chosen = self._chosen()
        against = self._objection() if chosen else ""
        told = {moment: self._told(moment, against) for moment in chosen}
        last = told[chosen[-1]] if chosen else None
        rows = [told.get(moment) or self._left(moment, last) for moment in self.due.singly]
        if self.due.earlier:
            rows.insert(0, together(self.due.earlier, self._left(self.due.earlier[-1], last)))
        if self.schedule.counts_from_end and not self.started:
            schedules.count_on(self.schedule, self.due.last, self.clock.now)
        return rows

    def skipped_together(self, reason: str) -> Fire:
        """One row for all of them."""
        return together(self.due.every, self._skipped(self.due.every[-1], reason))

    @cached_property
    def windows(self) -> dict[datetime, str]:
        """Of these moments and of now, those that lie in a window in which nothing is started."""
        if not self.schedule.blackouts:
            return {}
        rule, moments = self.schedule.rule, (*self.due.singly, self.clock.now)
        found = {moment: rule.blackout(moment) for moment in moments}
        return {moment: f"Blackout window {window}." for moment, window in found.items() if window}

    def _chosen(self) -> Sequence[datetime]:
        """The moments that a run is to be started for, in their order."""
        policy, newest = self.schedule.missed, self.due.singly[-1]
        free = [moment for moment in self.due.singly if moment not in self.windows]
        if policy == Schedule.Missed.ALL:
            return free[-self.schedule.missed_limit :]
        if policy == Schedule.Missed.ONCE:
            return free[-1:]
        return [] if self._is_late(newest) else [moment for moment in free if moment == newest]

    def _is_late(self, moment: datetime) -> bool:
        at = self.schedule.due_at if moment == self.schedule.due_moment else None
        return self.clock.now - (at or schedules.acted_on(self.schedule, moment)) > ON_TIME

    def _objection(self) -> str:
        """Why nothing at all is started now; empty if something may be."""
        orphaned = self._orphaned()
        if orphaned:
            schedules.pause(self.schedule, "herdweb", orphaned, self.clock.now)
        return orphaned or schedules.closed(self.schedule) or self.windows.get(self.clock.now, "")

    def _orphaned(self) -> str:
        if self.schedule.owner_id is None:
            return schedules.orphaned(self.schedule)
        pair = (self.schedule.owner_id, self.schedule.agent_id)
        if pair not in self.clock.known:
            self.clock.known[pair] = schedules.orphaned(self.schedule)
        return self.clock.known[pair]

    def _told(self, moment: datetime, against: str) -> Fire:
        """A moment with its run, or why there is none; others are cancelled only for one that starts."""
        reason = against or schedules.session_trouble(self.schedule) or self._overlap()
        try:
            return self._skipped(moment, reason) if reason else self._start(moment)
        except RunError as error:
            return self._skipped(moment, str(error))

    @cached_property
    def _others(self) -> list[Run]:
        """Its runs that have not ended, without those that are started for this claim."""
        return list(schedules.unended(self.schedule).only("public_id", "state", "agent"))

    def _overlap(self) -> str:
        """What those mean for the next one: the reason against it, or nothing."""
        policy, others = self.schedule.overlap, self._others
        if policy == Schedule.Overlap.CANCEL:
            while others:
                self.clock.cancel(others.pop(), f"schedule {self.schedule.name}")
        if policy == Schedule.Overlap.SKIP and others:
            return f"Run {others[0].short_id} of this schedule has not ended."
        waiting = len(others) + self.started
        if policy == Schedule.Overlap.WAIT and waiting >= schedules.WAITING_AT_MOST:
            return f"{waiting} runs of this schedule have not ended; no more wait than that."
        return ""

    def _start(self, moment: datetime) -> Fire:
        # Read before, so that it is not among the others.
        _ = self._others
        run = schedules.start(self.schedule, moment, self.clock.submit)
        self.started += 1
        late = self._is_late(moment)
        return self._fire(moment, Fire.Kind.LATE if late else Fire.Kind.STARTED, LATE if late else "", run)

    def _left(self, moment: datetime, last: Fire | None) -> Fire:
        """A moment that no run was started for."""
        if moment in self.windows:
            return self._skipped(moment, self.windows[moment])
        if self.schedule.missed != Schedule.Missed.ONCE or last is None:
            return self._skipped(moment, MISSED)
        if last.run is None:
            return self._skipped(moment, last.reason)
        return self._fire(moment, Fire.Kind.MERGED, MERGED, last.run)

    def _skipped(self, moment: datetime, reason: str) -> Fire:
        return self._fire(moment, Fire.Kind.SKIPPED, reason)

    def _fire(self, moment: datetime, kind: str, reason: str, run: Run | None = None) -> Fire:
        return Fire(
            schedule=self.schedule, moment=moment, kind=kind, reason=reason[:500], run=run,
            source=self.clock.source, at=self.clock.now,
        )  # fmt: skip


def together(moments: Sequence[datetime], fire: Fire) -> Fire:
    """One row that stands for several moments, the last of which it names."""
    fire.count, fire.since = len(moments), moments[0] if len(moments) > 1 else None
    return fire
