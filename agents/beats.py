"""Who looks at the clock, and whether somebody who should does not."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone

from agents.models import Beat
from agents.models.schedule import LATE

# The ticker looks each second and says so every few; cron looks each minute.
PATIENCE = {Beat.Source.TICKER: timedelta(seconds=40), Beat.Source.CRON: LATE}
REMEDIES = {
    Beat.Source.TICKER: "Start it: make run, or manage.py ticker.",
    Beat.Source.CRON: "Look at: manage.py cron status.",
}


@dataclass(frozen=True)
class Clock:
    """One that looks, when it last did, and what is wrong with that; empty if nothing is."""

    source: str
    at: datetime | None
    host: str
    expected: bool
    trouble: str = ""
    remedy: str = ""


def seen(now: datetime | None = None) -> list[Clock]:
    """All who might look; at least one has to."""
    now = now or timezone.now()
    beats = {beat.source: beat for beat in Beat.objects.all()}
    found = [judged(source, beats.get(source), now) for source in Beat.Source.values]
    if any(clock.at and now - clock.at < PATIENCE[Beat.Source(clock.source)] for clock in found):
        # While one looks, it is no trouble that the other one, which nobody expects, does not.
        return [clock if clock.expected else quiet(clock) for clock in found]
    return found


def judged(source: str, beat: Beat | None, now: datetime) -> Clock:
    """One of them: too long a silence is trouble."""
    at, patience = beat.at if beat else None, PATIENCE[Beat.Source(source)]
    since = max(filter(None, [at, beat.expected_since if beat else None]), default=None)
    silent = since is None or now - since >= patience
    expected = source == Beat.Source.TICKER or bool(beat and beat.expected_since)
    trouble = f"Nothing for {spoken(now - at)}." if at else "It has never looked."
    if not silent or not expected:
        trouble = ""
    remedy = REMEDIES[Beat.Source(source)] if trouble else ""
    needed = bool(beat and beat.expected_since)
    return Clock(source, at, beat.host if beat else "", needed, trouble, remedy)


def quiet(clock: Clock) -> Clock:
    """The same without a complaint."""
    return Clock(clock.source, clock.at, clock.host, clock.expected)


def spoken(time: timedelta) -> str:
    """How long, in the largest unit that fits."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if time.total_seconds() >= 2 * size:
            return f"{int(time.total_seconds() // size)} {unit}"
    return f"{int(time.total_seconds())} seconds"
