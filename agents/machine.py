"""This machine, from the settings: the state directory, the engine's client, the credentials."""

import hmac
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from agents.runtimes import AgentConfig, Host, Runtime, StateDir, bare, create, create_probe
from agents.runtimes.host import write_files
from agents.runtimes.layout import own_private

KEPT = ".json"
# Digits of a credential's fingerprint: enough to tell two apart, too few to be of other use.
FINGERPRINT = 8


@dataclass(frozen=True)
class Place:
    """Where a process here would take a run: the engine or machine, and the credential it would use."""

    host: str
    credential: str


def state() -> StateDir:
    """The configured state directory."""
    return StateDir(settings.HERDWEB_STATE_DIR)


def host() -> Host:
    """What a container runner needs to know of this machine."""
    return Host(
        instance=settings.HERDWEB_INSTANCE,
        user=settings.HERDWEB_CONTAINER_USER,
        secrets_dir=settings.HERDWEB_SECRETS_DIR,
        pass_env=tuple(settings.HERDWEB_PASS_ENV),
    )


def shared(agent: AgentConfig) -> str:
    """The agent home on the host; empty if its sessions share nothing."""
    return "" if agent.shared_home == "none" else str(state().shared(agent.name))


def runtime(agent: AgentConfig) -> Runtime:
    """The runtime of an agent on this machine."""
    return create(agent, state().path, host())


def probe(agent: AgentConfig) -> Runtime:
    """The same in the same place, only looking whether the agent's program is there."""
    return create_probe(agent, state().path, host())


def credentials(run: str) -> dict[str, str]:
    """The variables that a run's agent is given, from the environment of the worker that began it.

    They are kept, in memory and for this user alone, until the run has ended: a worker that adopts
    it may have others, and must mask these.
    """
    kept = kept_credentials(run)
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    found = own_credentials()
    if found:
        own_private(kept.parent)
        write_files(kept.parent, {kept.name: json.dumps(found).encode()})
    return found


def own_credentials() -> dict[str, str]:
    """The variables for agents that this process itself was started with."""
    return {name: os.environ[name] for name in settings.HERDWEB_PASS_ENV if os.environ.get(name)}


def place(agent: AgentConfig) -> Place:
    """Where a run of this agent would be taken by this process."""
    return Place(
        engine() if agent.docker.enabled else name(),
        credential() if bare(agent.runtime).needs_credentials else "",
    )


def name() -> str:
    """What this machine is called."""
    return socket.gethostname()[:100]


def engine() -> str:
    """The engine's address, or this machine's name for one that is reached by a socket."""
    address = os.environ.get("DOCKER_HOST", "")
    return name() if not address or address.startswith("unix:") else address[:100]


def credential() -> str:
    """Which credential agents are given here: its variable's name and a keyed fingerprint; empty for none."""
    found = {name: value for name, value in own_credentials().items() if not name.endswith("_URL")}
    for variable, value in found.items():
        digest = hmac.new(settings.SECRET_KEY.encode(), f"credential {value}".encode(), "sha256")
        return f"{variable[:80]} {digest.hexdigest()[:FINGERPRINT]}"
    return ""


def kept_credentials(run: str) -> Path:
    """Where the credentials of a live run are kept."""
    return Path(settings.HERDWEB_SECRETS_DIR) / f"{run}{KEPT}"


def forget_credentials(run: str) -> None:
    """The run has ended."""
    kept_credentials(run).unlink(missing_ok=True)


def own_user() -> str:
    """uid:gid of this process."""
    return f"{os.getuid()}:{os.getgid()}"
