"""Containers that outlive a run: whose they are, what lies behind their mounts, which run is in them.

A container's mounts and its command are fixed when it is created. So one that serves many runs has
directories of its own on the host, and what lies in them is prepared for each run:

containers/<name>/in/       the run's files and its start script, as /run/herdweb
containers/<name>/run.json  which run is in it, and where its output begins in the engine's log
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from agents.runtimes.base import human_size
from agents.runtimes.engine import Host, engine_time
from agents.runtimes.layout import give, make_private, own_private
from agents.runtimes.types import DockerConfig, Request, RunError

FOLDER = "containers"
# What the engine's log has is dated to the nanosecond, and no container ends and starts in so short
# a time: the next run's output begins after the last line of the former by at least this, in seconds.
BETWEEN_RUNS = 0.001
# The engine's own copy of the output grows up to a hundred times as fast as the output (one JSON
# record a line); beyond this it is cut, which only happens while no worker reads.
LOG_FACTOR = 100
# In place of an agent, so that somebody who starts a kept container can look around in it.
IDLE = b"#!/bin/sh\n# No run is in this container.\ntrap 'exit 0' TERM INT\nwhile :; do sleep 1; done\n"
DIGEST = "#"
# Enough to enter the directory that is named, not to list what else is there.
PASSAGE = 0o711


def container_name(request: Request, host: Host) -> str:
    """The lock: one name for one attempt of one run, or for all runs of a session, or of an agent."""
    whose = {
        "session": f"session-{request.conversation.id}",
        "agent": f"agent-{request.agent.name}",
    }.get(request.agent.docker.scope, f"{request.run}-{request.attempt}")
    return f"herdweb-{host.instance}-{whose}"


@dataclass(frozen=True)
class Note:
    """Which run a container was prepared for.

    `started_before` is the engine's time of the start before its own; `log_since` where in the
    engine's log its output begins, in seconds, 0 for the beginning.
    """

    run: str
    attempt: int
    started_before: str
    log_since: float = 0.0

    def is_of(self, request: Request) -> bool:
        """Whether it was this run."""
        return (self.run, self.attempt) == (request.run, request.attempt)


@dataclass(frozen=True)
class Place:
    """The host's directories behind `/run/herdweb` and the credentials of one container."""

    run: Path
    secrets: Path

    @classmethod
    def of(cls, request: Request, host: Host, state_dir: Path) -> "Place":
        """Those of the run, or of the container if that may outlive it."""
        if request.agent.docker.outlives_run:
            return cls.named(container_name(request, host), host, state_dir)
        return cls(Path(request.paths.run), host.secrets_dir / request.run)

    @classmethod
    def named(cls, name: str, host: Host, state_dir: Path) -> "Place":
        """By the container's name."""
        return cls(state_dir / FOLDER / name / "in", host.secrets_dir / FOLDER / name)

    @property
    def note(self) -> Note | None:
        """Which run it was prepared for, if for any."""
        with suppress(FileNotFoundError, ValueError, TypeError):
            return Note(**json.loads((self.run.parent / "run.json").read_text()))
        return None

    def make(self, host: Host) -> None:
        """Create what is missing; credentials wait where nobody else may enter."""
        make_private(self.run)
        own_private(host.secrets_dir)
        make_private(self.secrets)
        os.utime(self.run.parent)

    @property
    def age(self) -> timedelta:
        """How long ago a run last asked for it."""
        with suppress(FileNotFoundError):
            return timedelta(seconds=time.time() - self.run.parent.stat().st_mtime)
        return timedelta.max

    def empty(self) -> None:
        """Forget the files of the run before."""
        for path in (*self.run.iterdir(), *self.secrets.iterdir()):
            path.unlink()

    def write_note(self, note: Note) -> None:
        """Whole or not at all."""
        draft = self.run.parent / "run.json.new"
        draft.write_text(json.dumps(asdict(note)))
        draft.replace(draft.with_suffix(""))

    def retire(self, owner: str) -> None:
        """After a run: nothing of it is left to be read, and starting the container starts no agent."""
        if not self.run.is_dir() or not self.secrets.is_dir():
            return
        self.empty()
        start = self.run / "start"
        start.write_bytes(IDLE)
        start.chmod(0o400)
        give(start, owner)

    def forget(self) -> None:
        """The container is gone."""
        shutil.rmtree(self.run.parent, ignore_errors=True)
        shutil.rmtree(self.secrets, ignore_errors=True)


def places(host: Host, state_dir: Path) -> Iterator[str]:
    """The names of all containers that have directories."""
    names = set()
    for folder in (state_dir / FOLDER, host.secrets_dir / FOLDER):
        names |= {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    yield from sorted(names)


def homes(request: Request, state_dir: Path) -> Path:
    """The directory of all homes of an agent: what its one container has mounted.

    Raises RunError for a home that does not lie there: it could not be entered in the container.
    """
    home = Path(request.paths.home)
    parent = state_dir / "docker-sessions" / request.agent.name
    if home.parent != parent:
        raise RunError(f"{home} does not lie in {parent}, which is what the agent's container can see.")
    if os.getuid() == 0:
        # Ours, so that no agent can put a link where a home should be; entered by name alone.
        parent.chmod(PASSAGE)
    return parent


def made_of(wanted: Mapping[str, Any], config: DockerConfig, image: str) -> dict[str, str]:
    """What a container is made of, by names for people; `image` is the id behind the image's name."""
    binds = [[bind["Source"], bind["Target"], bind["ReadOnly"]] for bind in wanted["mounts"]]
    return {
        "image": f"{config.image} {image[:19]}".strip(),
        "memory": human_size(config.memory),
        "CPUs": f"{config.cpus:g}",
        "process limit": str(config.pids_limit),
        "network": config.network,
        "user": str(wanted["user"]),
        "mounts": digest(sorted(binds)),
        "tmpfs": digest(wanted["tmpfs"]),
        "environment": digest(dict(config.env)),
        "labels": digest(dict(config.labels)),
        "output limit": human_size(int(wanted["log_config"].config["max-size"]) // LOG_FACTOR),
    }


def digest(value: Any) -> str:
    """What changes when the value does, and tells nothing of it."""
    return DIGEST + sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What changed, in words."""
    changed = [name for name in after if before.get(name) != after[name]]
    return [
        name if after[name].startswith(DIGEST) else f"{name} from {before.get(name)} to {after[name]}"
        for name in changed
    ]


def log_end(api: Any, engine_id: str) -> float:
    """The moment in the engine's log behind all that it has now, in seconds; 0 for an empty one."""
    last = api.logs(engine_id, stdout=True, stderr=True, timestamps=True, tail=1)
    stamp = last.split(b" ", 1)[0].decode("ascii", "replace")
    moment: datetime | None = engine_time(stamp) if stamp else None
    return moment.timestamp() + BETWEEN_RUNS if moment else 0.0
