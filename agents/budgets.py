"""What agents and fleets have spent, as their runs reported it, against what they may.

A run counts on the day and in the month of its end, in the site's time zone. At a limit nothing new
starts; what is live goes on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import F, Q, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from agents.models import Agent, Run

TOKENS = Coalesce(F("input_tokens"), 0) + Coalesce(F("output_tokens"), 0)


@dataclass(frozen=True)
class Purse:
    """What may be spent in a day or a month, in dollars and in tokens; None for no limit."""

    whose: str
    period: str
    counted: Q
    since: datetime
    until: datetime
    dollars: float | None
    tokens: int | None

    @property
    def spent(self) -> tuple[float, int]:
        """Dollars and tokens that were reported since."""
        rows = Run.objects.filter(self.counted, finished_at__gte=self.since).order_by()
        found = rows.aggregate(dollars=Sum("cost_usd"), tokens=Sum(TOKENS))
        return found["dollars"] or 0.0, found["tokens"] or 0

    @property
    def is_limited(self) -> bool:
        """Whether there is anything to keep to."""
        return self.dollars is not None or self.tokens is not None

    def exhausted(self) -> str:
        """That nothing is left, with the numbers and when it is filled again; empty if something is left."""
        dollars, tokens = self.spent
        if self.dollars is not None and dollars >= self.dollars:
            said = f"{dollars:.2f} of {self.dollars:.2f} USD"
        elif self.tokens is not None and tokens >= self.tokens:
            said = f"{tokens:,} of {self.tokens:,} tokens"
        else:
            return ""
        again = timezone.localtime(self.until)
        return (
            f"The budget of the {self.whose} for this {self.period} is used up: {said}."
            f" It is filled again on {again:%Y-%m-%d %H:%M} {again.tzname()}."
        )


def purses(agent: Agent, now: datetime | None = None) -> Iterator[Purse]:
    """The limited ones that a run of this agent would be paid from."""
    here = timezone.localtime(now or timezone.now())
    day = here.replace(hour=0, minute=0, second=0, microsecond=0)
    month = day.replace(day=1)
    mine = Purse(
        f"agent {agent}", "day", Q(agent=agent), day, next_day(day), agent.day_cost, agent.day_tokens
    )
    if mine.is_limited:
        yield mine
    if agent.fleet and (agent.fleet.month_cost is not None or agent.fleet.month_tokens is not None):
        fleet, after = agent.fleet, next_day(month + timedelta(days=31)).replace(day=1)
        counted = Q(agent__fleet=fleet)
        yield Purse(f"fleet {fleet}", "month", counted, month, after, fleet.month_cost, fleet.month_tokens)


def next_day(moment: datetime) -> datetime:
    """The next midnight there, whatever the clocks do in between."""
    day = moment.date() + timedelta(days=1)
    return datetime(day.year, day.month, day.day, tzinfo=moment.tzinfo)


def exhausted(agent: Agent, now: datetime | None = None) -> str:
    """Why nothing new of this agent may start, by what was spent; empty if it may."""
    return next(filter(None, (purse.exhausted() for purse in purses(agent, now))), "")
