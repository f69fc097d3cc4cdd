"""Looks for what keeps runs from going well, and says what to do about it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from django.conf import settings
from django.core.checks import ERROR, WARNING, CheckMessage, run_checks
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from redis.exceptions import RedisError

from agents import bells, machine, space
from agents.models import Beat, Drain
from agents.runtimes import EngineReport, RunError, engine_report, human_size
from agents.runtimes.image import Image, images
from agents.templatetags.wording import duration

Status = Literal["ok", "warn", "fail"]

# With less than this part of the wanted space it is not low, but a failure.
DISK_WARN = 1.2
# In seconds. Leases are compared between machines, and the shortest one has twelve.
CLOCK_WARN, CLOCK_FAIL = 2, 10
VERSION_LABEL = "herdweb.claude-code.version"
BUILD_IMAGE = "Build it: manage.py build_agent_image (or make image)."
START_ENGINE = (
    "Start Docker (for example: systemctl start docker), or set DOCKER_HOST to an engine that runs."
)
NOT_THE_WORKERS = "What counts is the environment of the workers, which may differ."
UNKNOWN = "Not known, because the engine does not answer."
START_REDIS = "Start it (make run does), or set HERDWEB_REDIS_URL."
START_WORKERS = "Start them: make run."
LOOK_AT_CRON = "manage.py cron status says why. If it is not wanted any more: manage.py cron remove"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` is empty when all is well."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def examine() -> Iterator[Finding]:
    """Look at everything, whatever is broken; no value of a credential is in any finding."""
    yield from examine_engine()
    yield from examine_queue()
    yield examine_image()
    yield from examine_configuration()
    yield examine_disk()
    yield from examine_database()
    yield examine_cron()
    yield examine_credentials()


def examine_engine() -> Iterator[Finding]:
    """The engine, what it executes containers with, and its clock."""
    try:
        engine = engine_report(machine.host())
    except RunError as error:
        yield Finding("engine", "fail", str(error), START_ENGINE)
        yield from (
            Finding(name, "warn", UNKNOWN, START_ENGINE) for name in ("runc", "cgroup", "engine clock")
        )
        return
    yield Finding(
        "engine",
        "ok",
        f"Docker {engine.version}, API {engine.api}, {engine.cpus} CPUs, {human_size(engine.memory)}",
    )
    yield examine_runc(engine)
    yield examine_cgroup(engine)
    yield examine_clock("engine clock", engine.time)


def examine_runc(engine: EngineReport) -> Finding:
    """The program that makes containers, and the filter of system calls."""
    runc = f"{engine.runtime} {engine.runc}".strip()
    if engine.seccomp:
        return Finding("runc", "ok", f"{runc}, with seccomp")
    return Finding(
        "runc", "warn", f"{runc}, without seccomp", "Use a kernel and an engine that support seccomp."
    )


def examine_cgroup(engine: EngineReport) -> Finding:
    """What enforces the limits; both versions do, version 2 counts memory better."""
    return Finding("cgroup", "ok", f"version {engine.cgroup}")


def examine_clock(name: str, time: datetime | None) -> Finding:
    """Another clock against ours."""
    if time is None:
        return Finding(name, "warn", "It does not say its time.", "Compare the clocks by hand.")
    apart = abs((time - timezone.now()).total_seconds())
    status: Status = "fail" if apart > CLOCK_FAIL else "warn" if apart > CLOCK_WARN else "ok"
    remedy = "Synchronise the clocks of both machines (for example with chrony)." if status != "ok" else ""
    return Finding(name, status, f"{apart:.1f} s from this machine's", remedy)


def examine_queue() -> Iterator[Finding]:
    """Redis, and who listens to it."""
    try:
        version = bells.queue().connection.info("server")["redis_version"]
        workers = bells.workers()
    except RedisError as error:
        yield without_redis(error)
        yield Finding("workers", "warn", "Not known, because Redis does not answer.", "Start Redis first.")
        return
    yield Finding("redis", "ok", f"Redis {version}")
    if workers:
        yield examine_drained(len(workers))
    else:
        yield Finding("workers", "fail", "None is alive, so no run starts.", START_WORKERS)


def examine_drained(alive: int) -> Finding:
    """How many workers are alive, and whether some take nothing new."""
    drained, listening = list(Drain.objects.all()), len(bells.listening())
    if not drained:
        return Finding("workers", "ok", f"{alive} alive")
    names = ", ".join(f"{each.name} (by {each.by})" for each in drained)
    remedy = f"When that is over: manage.py drain {drained[0].name} --end"
    detail = f"{alive} alive, {listening} of them take new runs. Drained: {names}."
    return Finding("workers", "warn" if listening else "fail", detail, remedy)


def without_redis(error: Exception) -> Finding:
    """That the queue cannot be reached."""
    return Finding("redis", "fail", f"It does not answer: {error}", START_REDIS)


def examine_image() -> Finding:
    """The agent image and the CLI in it."""
    name = settings.HERDWEB_IMAGE
    try:
        return judge_image("image", name, find_image(name))
    except RunError:
        return Finding("image", "warn", UNKNOWN, START_ENGINE)


def judge_image(title: str, name: str, image: Image | None) -> Finding:
    """What was found under an image's name."""
    if image is None:
        return Finding(title, "fail", f"{name} is not on this host.", get_image(name))
    version = image.labels.get(VERSION_LABEL)
    return Finding(
        title, "ok", f"{name}, " + (f"Claude Code {version}" if version else "no Claude Code version named")
    )


def get_image(name: str) -> str:
    """How an image comes onto this host."""
    return BUILD_IMAGE if name == settings.HERDWEB_IMAGE else f"Get it: docker pull {name}."


def find_image(name: str) -> Image | None:
    """The image of this name, if the engine has it; raises RunError when the engine is away."""
    with images() as engine:
        return engine.find(name)


def image_warning(name: str) -> str:
    """What to tell somebody who has chosen an image that is not there (yet); empty if it is."""
    try:
        if find_image(name):
            return ""
    except RunError:
        return ""
    return f"{name} is not on this host; runs will fail until it is. {get_image(name)}"


def examine_configuration() -> Iterator[Finding]:
    """The state directory, and what Django's system checks say of everything else."""
    messages = [message for message in run_checks() if message.level >= WARNING]
    of_state = [message for message in messages if str(message.id).startswith("herdweb.E00")]
    yield examine_state(of_state)
    others = [message for message in messages if message not in of_state]
    yield verdict("configuration", others, "System checks found nothing.")


def verdict(name: str, messages: list[CheckMessage], fine: str) -> Finding:
    """System checks as one finding."""
    if not messages:
        return Finding(name, "ok", fine)
    status: Status = "fail" if any(message.level >= ERROR for message in messages) else "warn"
    details = " ".join(message.msg for message in messages)
    return Finding(name, status, details, " ".join(message.hint for message in messages if message.hint))


def examine_state(messages: list[CheckMessage]) -> Finding:
    """Whether agents' files can be kept where they should be, and are private there."""
    path = Path(settings.HERDWEB_STATE_DIR)
    name = "state directory"
    if messages:
        return verdict(name, messages, "")
    if not path.is_dir():
        return Finding(name, "fail", f"{path} is not a directory.", f"Create it: install -d -m 700 {path}")
    status = path.stat()
    mode = f"mode {status.st_mode & 0o777:04o}"
    if status.st_uid != os.getuid():
        remedy = f"Give it to the user that herdweb runs as: chown {os.getuid()} {path}"
        return Finding(
            name, "fail", f"{path} belongs to uid {status.st_uid}, herdweb runs as {os.getuid()}.", remedy
        )
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK) or status.st_mode & 0o777 != 0o700:
        return Finding(name, "fail", f"{path} has {mode}; only its owner may use it.", f"chmod 700 {path}")
    return Finding(name, "ok", f"{path}, {mode}, owner uid {status.st_uid}, writable, not published")


def examine_disk() -> Finding:
    """Room for what agents write."""
    disk = space.disk()
    if disk.free >= disk.wanted * DISK_WARN:
        return Finding("disk", "ok", f"{human_size(disk.free)} free")
    closed = disk.free < disk.wanted
    return Finding(
        "disk",
        "fail" if closed else "warn",
        f"{human_size(disk.free)} free; below {human_size(disk.wanted)} no run starts",
        f"Free some space on the disk of {disk.folder}, let retention remove files (manage.py retention),"
        " or lower HERDWEB_FREE_SPACE.",
    )


def examine_database() -> Iterator[Finding]:
    """The database, whether its tables are those of this version, and its clock."""
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
        time = database_time()
        version = ".".join(str(part) for part in connection.get_database_version())
    except DatabaseError as error:
        yield Finding(
            "database", "fail", f"It does not answer: {error}".strip(), "Check DATABASE_URL and the server."
        )
        return
    detail = f"{connection.display_name} {version}"
    if missing:
        yield Finding(
            "database", "fail", f"{detail}, {len(missing)} migrations not applied", "Run: manage.py migrate"
        )
    else:
        yield Finding("database", "ok", f"{detail}, all migrations applied")
    yield examine_clock("database clock", time)


def database_time() -> datetime:
    """The database's idea of now; SQLite's comes as text, in UTC and whole seconds."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT CURRENT_TIMESTAMP")
        (now,) = cursor.fetchone()
    return datetime.fromisoformat(now).replace(tzinfo=UTC) if isinstance(now, str) else now


def examine_cron() -> Finding:
    """Whether cron looks at the clock, if it should; nothing depends on it while the ticker does."""
    try:
        beat = Beat.objects.filter(source=Beat.Source.CRON).first() or Beat(source=Beat.Source.CRON)
    except DatabaseError:
        return Finding(
            "cron", "warn", "Not known, because the database does not answer.", "Check the database first."
        )
    if beat.is_late():
        return Finding("cron", "warn", f"It should tick each minute. {last_tick(beat)}", LOOK_AT_CRON)
    if beat.expected_since:
        return Finding("cron", "ok", last_tick(beat))
    return Finding("cron", "ok", "Not used: only the ticker looks at the clock.")


def last_tick(beat: Beat) -> str:
    """When somebody looked at the clock last, and where."""
    if beat.at is None:
        return "It has not ticked yet."
    ago = duration(max(timezone.now() - beat.at, timedelta()))
    return f"It ticked last at {beat.at:%Y-%m-%d %H:%M:%S} UTC, {ago} ago, on {beat.host}."


def examine_credentials(whose: str = "this process", note: str = NOT_THE_WORKERS) -> Finding:
    """Names, never values."""
    names = settings.HERDWEB_PASS_ENV
    there = ", ".join(machine.own_credentials())
    if there:
        return Finding("credentials", "ok", f"Set for {whose}: {there}. {note}".strip())
    remedy = "Set one where the workers are started, for example ANTHROPIC_API_KEY."
    detail = f"Set for {whose}: none of {', '.join(names)}. {note}".strip()
    return Finding("credentials", "warn", detail, remedy)
