"""What a container is created with: the hardened set, its mounts, its files, its secrets."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from docker.types import LogConfig, Mount, Ulimit

from agents.runtimes.engine import Host
from agents.runtimes.host import write_files
from agents.runtimes.keeping import LOG_FACTOR, Place, container_name, homes
from agents.runtimes.layout import give, own_private
from agents.runtimes.types import Command, DockerConfig, Paths, Request, RunError

INSIDE = Paths(workspace="/workspace", home="/home/agent", run="/run/herdweb", shared="/agent-home")
SECRETS_INSIDE = "/run/herdweb-secrets"
MB = 1024**2
TMP_SIZE = 256 * MB
OPEN_FILES, NO_CORE = 4096, 0


def options(command: Command, host: Host) -> dict[str, Any]:
    """Everything that a container is created with; the hardened set is not an option.

    One that serves many runs keeps what is written into its root, and gets the environment of each
    run from its start script.
    """
    request, config = command.request, command.request.agent.docker
    return {
        "image": config.image,
        "name": container_name(request, host),
        "entrypoint": ["/bin/sh", f"{INSIDE.run}/start"],
        "environment": {**config.env, **({} if config.scope else command.env)},
        "user": config.user or host.user,
        "working_dir": INSIDE.workspace,
        "hostname": request.agent.name,
        "labels": {**config.labels, **labels(request, host)},
        "init": True,
        "read_only": not config.scope,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "network_mode": config.network,
        "pids_limit": config.pids_limit,
        "mem_limit": config.memory,
        "memswap_limit": config.memory,
        "nano_cpus": round(config.cpus * 1e9),
        "ulimits": [
            Ulimit(name="nofile", soft=OPEN_FILES, hard=OPEN_FILES),
            Ulimit(name="core", soft=NO_CORE, hard=NO_CORE),
        ],
        "tmpfs": tmpfs(config),
        "log_config": LogConfig(
            type=LogConfig.types.JSON,
            # With two files the log of many runs always holds all of the last one.
            config={
                "max-size": str(request.agent.output_limit * LOG_FACTOR),
                "max-file": "2" if config.scope else "1",
            },
        ),
    }


def labels(request: Request, host: Host) -> dict[str, str]:
    """By these, and never by a name's beginning, our containers are found again."""
    return {
        "herdweb.instance": host.instance,
        "herdweb.run": request.run,
        "herdweb.agent": request.agent.name,
        "herdweb.session": request.conversation.id,
        **({"herdweb.scope": scope} if (scope := request.agent.docker.scope) else {}),
    }


def tmpfs(config: DockerConfig) -> dict[str, str]:
    """Memory file systems by path; programs may run from /tmp as they may from the workspace."""
    given = dict(entry.partition(":")[::2] for entry in config.tmpfs)
    return {"/tmp": f"rw,exec,nosuid,nodev,size={TMP_SIZE},mode=1777", **given}


def mounts(command: Command, host: Host, state_dir: Path) -> list[Mount]:
    """The session's home, the workspace, the run's files, the secrets, and what was asked for.

    Home and run's files must lie in the state directory, behind no link: what is mounted alone there
    is what keeps one agent from seeing another's sessions.
    """
    request, config = command.request, command.request.agent.docker
    place = Place.of(request, host, state_dir)
    home = homes(request, state_dir) if config.scope == "agent" else Path(request.paths.home)
    shared = request.paths.shared
    for path in (Path(request.paths.home), home, place.run, *([Path(shared)] if shared else [])):
        check_beneath(path, state_dir)
    ours = [
        Mount(
            INSIDE.workspace, request.paths.workspace, type="bind", read_only=config.workspace_mode == "ro"
        ),
        Mount(INSIDE.home, str(home), type="bind"),
        Mount(INSIDE.run, str(place.run), type="bind", read_only=True),
    ]
    if shared:
        unchangeable = request.agent.shared_home != "rw"
        ours.append(Mount(INSIDE.shared, shared, type="bind", read_only=unchangeable))
    if request.secrets or config.outlives_run:
        ours.append(Mount(SECRETS_INSIDE, str(place.secrets), type="bind", read_only=True))
    return ours + [extra_mount(text) for text in config.mounts]


def check_beneath(path: Path, state_dir: Path) -> None:
    """Raises RunError for a path that lies elsewhere, or that a link leads elsewhere."""
    if not path.is_relative_to(state_dir):
        raise RunError(f"{path} lies outside the state directory {state_dir}.")
    if path.resolve() != state_dir.resolve() / path.relative_to(state_dir):
        raise RunError(f"{path} is a link, or lies behind one: it is not mounted.")


def moved(request: Request) -> Request:
    """The same with the paths inside: where all homes are mounted, each is below by its own name."""
    home = INSIDE.home
    if request.agent.docker.scope == "agent":
        home = f"{home}/{Path(request.paths.home).name}"
    return replace(
        request, paths=replace(INSIDE, home=home, shared=INSIDE.shared if request.paths.shared else "")
    )


def extra_mount(text: str) -> Mount:
    """A mount as configured: host:container[:ro|rw]."""
    source, target, *mode = text.split(":")
    return Mount(target, source, type="bind", read_only=mode != ["rw"])


def as_docker_run(
    wanted: Mapping[str, Any], binds: Sequence[Mapping[str, Any]], argv: Sequence[str]
) -> tuple[str, ...]:
    """What a container is created with as a command line for people; nothing executes it.

    Of the environment only the names, and the agent's arguments in place of the start script.
    """
    given = [
        *(f"--cap-drop={name}" for name in wanted["cap_drop"]),
        *(f"--security-opt={name}" for name in wanted["security_opt"]),
        f"--network={wanted['network_mode']}",
        f"--user={wanted['user']}",
        f"--memory={human_flag(wanted['mem_limit'])}",
        f"--memory-swap={human_flag(wanted['memswap_limit'])}",
        f"--cpus={wanted['nano_cpus'] / 1e9:g}",
        f"--pids-limit={wanted['pids_limit']}",
        *(f"--ulimit={limit['Name']}={limit['Hard']}" for limit in wanted["ulimits"]),
        *(f"--tmpfs={path}:{said}".rstrip(":") for path, said in wanted["tmpfs"].items()),
        *(f"--volume={bind['Source']}:{bind['Target']}{':ro' * bind['ReadOnly']}" for bind in binds),
        *(f"--env={name}" for name in wanted["environment"]),
        *(f"--label={name}={value}" for name, value in wanted["labels"].items()),
        f"--hostname={wanted['hostname']}",
        f"--workdir={wanted['working_dir']}",
    ]
    switches = [f"--{name.replace('_', '-')}" for name in ("init", "read_only") if wanted[name]]
    return ("docker", "run", *switches, *given, "--entrypoint=", wanted["image"], *argv)


def human_flag(size: int) -> str:
    """Bytes as Docker's client reads them."""
    return f"{size // MB}m" if size % MB == 0 else str(size)


def prepare(command: Command, host: Host, place: Place) -> None:
    """Write the run's files, its start script and its secrets, readable by the container's user."""
    request = command.request
    owner = request.agent.docker.user or host.user
    if request.agent.docker.outlives_run:
        place.empty()
    write_files(place.run, {**command.files, "start": start_script(command)})
    own(place.run, owner)
    if request.secrets:
        write_files(place.secrets, {"env": exports(request.secrets)})
    if place.secrets.is_dir():
        own(place.secrets, owner)


def start_script(command: Command) -> bytes:
    """A container's command is fixed when it is created; this file is not, and no argument of it
    shows up in the engine's records."""
    stdin = f"{INSIDE.run}/{command.stdin}" if command.stdin else "/dev/null"
    given = exports(command.env).decode() if command.request.agent.docker.scope else ""
    secrets = f"if [ -r {SECRETS_INSIDE}/env ]; then . {SECRETS_INSIDE}/env; fi\n"
    return (f"#!/bin/sh\n{given}{secrets}exec {shlex.join(command.argv)} < {shlex.quote(stdin)}\n").encode()


def exports(variables: Mapping[str, str]) -> bytes:
    """Variables as a shell reads them."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()).encode()


def make_place(request: Request, host: Host, place: Place) -> None:
    """What the engine wants to find before it mounts it."""
    if request.agent.docker.outlives_run:
        place.make(host)
    elif request.secrets:
        own_private(host.secrets_dir)
        place.secrets.mkdir(exist_ok=True, mode=0o700)


def forget_secrets(request: Request, place: Place) -> None:
    """Remove the file once the agent has read it; its environment has the values now."""
    if request.agent.docker.outlives_run:
        (place.secrets / "env").unlink(missing_ok=True)
    else:
        shutil.rmtree(place.secrets, ignore_errors=True)


def own(folder: Path, owner: str) -> None:
    """Give a directory and the files in it to a uid:gid, closed to everybody else."""
    for path in (folder, *folder.iterdir()):
        path.chmod(0o700 if path.is_dir() else 0o400)
        give(path, owner)
