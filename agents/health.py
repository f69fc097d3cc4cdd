"""What is wrong right now, with its remedy: the ticker looks, pages read what it left in Redis.

The site itself never asks the engine, because one that hangs would hang the pages. What the ticker
left says when it looked, so that its own death is one more thing that pages show.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import redis
from django.conf import settings
from django.utils import timezone
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from agents import doctor
from agents.doctor import Finding
from agents.models import DockerSettings
from agents.templatetags.wording import duration

KEY = "herdweb:health"
LOOK_EVERY = timedelta(seconds=10)
# What the ticker found is believed for so long, and remembered for so long to say since when it is silent.
STALE, KEPT = timedelta(seconds=40), timedelta(days=1)
# What is away for less is being started again, and no problem.
PATIENCE = {"workers": timedelta(seconds=30), "engine": timedelta(seconds=30)}
AT_ONCE = timedelta(0)
# In seconds: a Redis that hangs must not hang every page.
REDIS_PATIENCE = 0.5

# A headline, and what those are told who can do nothing about it.
WORDS = {
    "workers": ("No worker is running", "New runs wait until a worker is started."),
    "drained": ("Workers take no new runs", "They are being drained; what is live goes on."),
    "redis": ("The queue cannot be reached", "New runs wait until it is back."),
    "ticker": ("Nothing looks after the runs", "Runs may wait longer than they should."),
    "engine": ("The Docker engine cannot be reached", "Agents in containers cannot run."),
    "disk": ("The disk is getting full", "New runs wait when it has too little room."),
    "cron": ("cron does not look at the clock", "Schedules go on as long as the ticker runs."),
    "image": ("An image is missing", "Runs of the agents that need it fail."),
}

# When the ticker looked, and what was wrong since when.
Report = tuple[datetime, list[tuple[datetime, Finding]]]


@dataclass(frozen=True)
class Problem:
    """Something that keeps runs from going well; `detail` and `remedy` are for administrators."""

    headline: str
    plain: str
    severe: bool
    detail: str
    remedy: str


def look(now: datetime | None = None) -> None:
    """Leave for the pages what is wrong, and since when; raises RedisError."""
    now = now or timezone.now()
    before = remembered()
    known = {} if before is None or stale(before, now) else {each.name: since for since, each in before[1]}
    found = [asdict(finding) | {"since": known.get(finding.name, now).isoformat()} for finding in wrong()]
    connection().set(KEY, json.dumps({"at": now.isoformat(), "found": found}), ex=KEPT)


def wrong() -> Iterator[Finding]:
    """What the doctor finds wrong with what runs need all the time."""
    for finding in doctor.examine_queue():
        if finding.status != "ok" and "Drained" in finding.detail:
            yield replace(finding, name="drained")
        elif finding.status == "fail":
            yield finding
    yield from (
        finding for finding in (doctor.examine_disk(), doctor.examine_cron()) if finding.status != "ok"
    )
    needed = images()
    if not needed:
        return
    engine = next(doctor.examine_engine())
    if engine.status != "ok":
        yield engine
        return
    for image, agents in needed.items():
        if doctor.image_warning(image):
            detail = f"{image} is not on this host; runs of {', '.join(agents)} fail until it is."
            yield Finding(f"image {image}", "warn", detail, doctor.get_image(image))


def images() -> dict[str, list[str]]:
    """Images that are needed, with the names of the agents that need them."""
    found: dict[str, list[str]] = {}
    rows = DockerSettings.objects.filter(enabled=True, agent__enabled=True).order_by("image", "agent__name")
    for image, agent in rows.values_list("image", "agent__name"):
        found.setdefault(image, []).append(agent)
    return found


def problems(now: datetime | None = None) -> list[Problem]:
    """What to show now, the severe ones first; one question to Redis and none to anybody else."""
    now = now or timezone.now()
    try:
        report = remembered()
    except RedisError as error:
        return [problem(doctor.without_redis(error))]
    if report is None or stale(report, now):
        return [problem(unattended(report[0] if report else None, now))]
    lasting = [finding for since, finding in report[1] if now - since >= patience(finding)]
    return sorted(map(problem, lasting), key=lambda each: not each.severe)


def problem(finding: Finding) -> Problem:
    """A finding as pages show it."""
    headline, plain = WORDS[kind(finding.name)]
    return Problem(headline, plain, finding.status == "fail", finding.detail, finding.remedy)


def unattended(last: datetime | None, now: datetime) -> Finding:
    """That there is no ticker: nobody rings again, adopts, removes, or looks."""
    silence = f"for {duration(now - last)}" if last else "since the queue was started"
    detail = f"Nothing has looked after the runs {silence}."
    return Finding("ticker", "fail", detail, "Start: make run (or manage.py ticker).")


def patience(finding: Finding) -> timedelta:
    """How long something may be wrong before it is a problem."""
    return PATIENCE.get(kind(finding.name), AT_ONCE)


def kind(name: str) -> str:
    """What a finding is about; an image's has the image's name in it."""
    return name.split()[0]


def remembered() -> Report | None:
    """What the ticker left; raises RedisError."""
    stored = connection().get(KEY)
    if not stored:
        return None
    report = json.loads(stored)
    found = [(datetime.fromisoformat(each.pop("since")), Finding(**each)) for each in report["found"]]
    return datetime.fromisoformat(report["at"]), found


def stale(report: Report, now: datetime) -> bool:
    """Whether the ticker has been silent for too long."""
    return now - report[0] >= STALE


@lru_cache(maxsize=1)
def connection() -> Any:
    """Redis without the queue's patience: no page waits for it."""
    return redis.from_url(
        settings.HERDWEB_REDIS_URL,
        socket_timeout=REDIS_PATIENCE,
        socket_connect_timeout=REDIS_PATIENCE,
        retry=Retry(NoBackoff(), 0),
    )
