"""What an agent's configuration comes to: the command line that a run of it would execute, and where."""

import shlex
from dataclasses import dataclass, replace

from agents import machine, workspaces
from agents.models.fields import write_seconds
from agents.runtimes import AgentConfig, Conversation, DockerConfig, Paths, Request, RunError, human_size
from agents.runtimes.base import Mask
from agents.runtimes.types import Line

# What a run gets at its start stands here as a word.
SESSION, RUN, UNNAMED = "SESSION", "RUN", "NAME"


@dataclass(frozen=True)
class Preview:
    """`command` and `container` are typed for a shell, to be read; `facts` are words about them.

    With a `problem` there is no command yet.
    """

    command: str = ""
    container: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    problem: str = ""


def preview(config: AgentConfig) -> Preview:
    """The command of a new session; executes nothing and asks no engine.

    Values of this process's credentials are masked, should somebody have typed one.
    """
    runtime = machine.runtime(config)
    request = placeholder(config)
    try:
        command = runtime.command(request)
        container = runtime.container_line(request)
    except RunError as error:
        return Preview(problem=str(error))
    files = ", ".join(name for name in command.files if name != command.stdin)
    facts = [*place(config, runtime.inside(request.paths)), *([("Files", files)] if files else [])]
    if command.stdin:
        facts.append(("Standard input", f"the {command.stdin}"))
    return Preview(masked(command.argv), masked(container), tuple(facts))


def placeholder(config: AgentConfig) -> Request:
    """A first run in a new session, without an id, a prompt or secrets."""
    state, name = machine.state(), config.name or UNNAMED
    workspace = str(workspaces.of(replace(config, name=name)))
    return Request(
        run=RUN,
        agent=config,
        prompt="",
        conversation=Conversation(SESSION),
        paths=replace(state.paths(RUN, state.home(name, SESSION), workspace), shared=machine.shared(config)),
    )


def place(config: AgentConfig, paths: Paths) -> list[tuple[str, str]]:
    """Where it would run, in words."""
    docker = config.docker
    if not docker.enabled:
        return [
            ("Where", "On this machine, as the user that herdweb runs as: no container, no limits but time"),
            ("Works in", paths.workspace),
        ]
    reach = "" if docker.network == "none" else ": the internet, and services of this host"
    unchanged = ", which it cannot change" if docker.workspace_mode == "ro" else ""
    memory = f"{human_size(docker.memory)} of memory, {docker.cpus:g} CPUs, {docker.pids_limit} processes"
    return [
        ("Where", f"In a container of {docker.image}, {after_run(docker)}"),
        ("Network", f"{docker.network}{reach}"),
        ("Limits", memory),
        ("User", docker.user or f"{machine.host().user} (herdweb's choice)"),
        ("Works in", f"{paths.workspace}{unchanged}"),
        ("Mounts", "; ".join(map(mount_in_words, docker.mounts)) or "none beside workspace and home"),
        ("Environment", ", ".join(docker.env) or "nothing beside herdweb's own"),
    ]


def after_run(docker: DockerConfig) -> str:
    """What becomes of a container after a run."""
    if docker.scope:
        return f"stopped after each run and kept for the next one of the same {docker.scope}"
    if docker.keep_failed:
        return f"removed after each run, or {write_seconds(docker.keep_failed)} later if that failed"
    return "removed after each run"


def mount_in_words(entry: str) -> str:
    """host:container[:rw], as people say it."""
    source, target, *mode = entry.split(":")
    return f"{source} as {target}, {'to read and write' if mode == ['rw'] else 'to read'}"


def masked(argv: tuple[str, ...]) -> str:
    """An argument list as a shell would be given it."""
    raw = shlex.join(argv).encode("utf-8", "replace")
    return Mask(machine.own_credentials()).line(Line("stdout", raw)).raw.decode("utf-8", "replace")
