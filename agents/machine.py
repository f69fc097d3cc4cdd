"""This machine, from the settings: the state directory, the engine's client, the credentials."""

import os

from django.conf import settings

from agents.runtimes import AgentConfig, Host, Runtime, StateDir, create


def state() -> StateDir:
    """The configured state directory."""
    return StateDir(settings.HERDWEB_STATE_DIR)


def host() -> Host:
    """What a container runner needs to know of this machine."""
    return Host(
        instance=settings.HERDWEB_INSTANCE,
        user=settings.HERDWEB_CONTAINER_USER,
        secrets_dir=settings.HERDWEB_SECRETS_DIR,
    )


def runtime(agent: AgentConfig) -> Runtime:
    """The runtime of an agent on this machine."""
    return create(agent, state().path, host())


def credentials() -> dict[str, str]:
    """The variables that agents are given, from this process's environment."""
    return {name: os.environ[name] for name in settings.HERDWEB_PASS_ENV if os.environ.get(name)}


def own_user() -> str:
    """uid:gid of this process."""
    return f"{os.getuid()}:{os.getgid()}"
