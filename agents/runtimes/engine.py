"""What the engine says of itself, for people who look for a fault."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agents.runtimes.container import ENGINE_ERRORS, Host, connect, engine_time
from agents.runtimes.types import RunError


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
    client = connect(host)
    try:
        info, version = client.info(), client.version()
    except ENGINE_ERRORS as error:
        raise RunError(f"The Docker engine stopped answering: {error}") from error
    finally:
        client.close()
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
