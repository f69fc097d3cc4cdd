"""The Docker engine: how it is reached, and what it says of itself."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

from agents.runtimes.types import EngineAway

ENGINE_ERRORS = (DockerException, RequestException)
CONFLICT = 409
FORBIDDEN = "Join the group that may use it (sudo usermod -aG docker $USER), then log in again."
SILENT = (
    "Install and start it (apt-get install docker.io; systemctl start docker), name another one in"
    " DOCKER_HOST, or switch Docker off for this agent."
)

Connect = Callable[[], docker.DockerClient]


@dataclass(frozen=True)
class Host:
    """What a container runner knows of its machine: whose containers, which user, where secrets wait.

    `pass_env` names the variables that agents are given from the environment.
    """

    instance: str
    user: str
    secrets_dir: Path
    connect: Connect = docker.from_env
    pass_env: tuple[str, ...] = ()


def connect(host: Host) -> docker.DockerClient:
    """A client of the engine, or an error that says what to do."""
    try:
        return host.connect()
    except ENGINE_ERRORS as error:
        raise unreachable(error) from error


def unreachable(error: Exception) -> EngineAway:
    """That the engine cannot be reached, and what to do about it."""
    remedy = FORBIDDEN if "PermissionError" in str(error) else SILENT
    return EngineAway(f"The Docker engine cannot be reached. {remedy} The engine's client says: {error}")


def connected(host: Host) -> closing[docker.DockerClient]:
    """The same for a `with`: a client that is not closed keeps its sockets until it is collected."""
    return closing(connect(host))


def engine_time(text: str) -> datetime | None:
    """The engine's RFC 3339 time with nanoseconds; its zero time is none."""
    if text.startswith("0001-"):
        return None
    head, _, tail = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{tail[:6]:0<6}+00:00")


@dataclass(frozen=True)
class EngineReport:
    """The engine's own words: `memory` in bytes, `time` its clock, `runc` the version of it."""

    version: str
    api: str
    runtime: str
    runc: str
    cgroup: str
    time: datetime | None
    memory: int
    cpus: int
    root: str
    seccomp: bool


def engine_report(host: Host) -> EngineReport:
    """Ask the engine of this host; raises RunError when it does not answer."""
    with connected(host) as client:
        try:
            info, version = client.info(), client.version()
        except ENGINE_ERRORS as error:
            raise EngineAway(f"The Docker engine stopped answering: {error}") from error
    return EngineReport(
        version=str(info.get("ServerVersion", "")),
        api=str(version.get("ApiVersion", "")),
        runtime=str(info.get("DefaultRuntime", "")),
        runc=component(version, "runc"),
        cgroup=str(info.get("CgroupVersion") or "1"),
        time=engine_time(str(info["SystemTime"])) if info.get("SystemTime") else None,
        memory=int(info.get("MemTotal") or 0),
        cpus=int(info.get("NCPU") or 0),
        root=str(info.get("DockerRootDir", "")),
        seccomp=any("seccomp" in option for option in info.get("SecurityOptions") or []),
    )


def component(version: dict[str, Any], name: str) -> str:
    """The version of one of the engine's parts; empty if it names none."""
    parts = version.get("Components") or []
    return next((str(part.get("Version", "")) for part in parts if part.get("Name") == name), "")
