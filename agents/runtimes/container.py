"""ContainerRunner: the same runtime, inside Docker.

The agent is the main process of a container whose name is made from instance, run and attempt. So
the engine itself is the lock (a second creator gets 409 and adopts), any process can take over
reading, waiting and stopping, and the exit code survives until it has been stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import docker
from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import Container

from agents.runtimes.base import Runtime
from agents.runtimes.creation import (
    INSIDE,
    as_docker_run,
    container_name,
    forget_secrets,
    mounts,
    options,
    prepare,
)
from agents.runtimes.engine import CONFLICT, ENGINE_ERRORS, Host, connected, engine_time
from agents.runtimes.life import VANISHED, Life, remove
from agents.runtimes.types import (
    FROM_THE_START,
    Command,
    ContainerFacts,
    Exit,
    Kept,
    Message,
    Offsets,
    Outcome,
    Output,
    Paths,
    Request,
    Result,
    RunError,
    Status,
    Transcript,
)


class ContainerRunner(Runtime):
    """Wraps any runtime and replaces only *where* its lines come from.

    It asks the wrapped runtime nothing but the contract, and translates paths: the wrapped one
    sees `/workspace`, `/home/agent` and `/run/herdweb`.
    """

    name = "container"
    label = "Container"
    survives_worker = True

    def __init__(self, runtime: Runtime, state_dir: Path, host: Host) -> None:
        self.runtime = runtime
        self.state_dir = state_dir
        self.host = host
        self.supports_resume = runtime.supports_resume
        self.supports_fork = runtime.supports_fork
        self.supports_input = runtime.supports_input
        self.expects_result = runtime.expects_result
        self.uses_command = runtime.uses_command
        self.needs_credentials = runtime.needs_credentials
        self.reads = runtime.reads
        self.version_arguments = runtime.version_arguments
        self.shared = runtime.shared
        self._life: Life | None = None

    def command(self, request: Request) -> Command:
        """What the wrapped runtime would execute at the paths inside."""
        return replace(self.runtime.command(self._moved(request)), request=request)

    def inside(self, paths: Paths) -> Paths:
        """Always the same, so that a session finds its files in every container."""
        return replace(INSIDE, shared=INSIDE.shared if paths.shared else "")

    def parse(self, line: str) -> list[Message]:
        """As the wrapped runtime says."""
        return self.runtime.parse(line)

    def transcripts(self, request: Request) -> Sequence[str]:
        """As the wrapped runtime says of the paths inside."""
        return self.runtime.transcripts(self._moved(request))

    def read_transcript(self, file: BinaryIO) -> Transcript | None:
        """As the wrapped runtime says."""
        return self.runtime.read_transcript(file)

    def home_files(self, request: Request) -> Mapping[str, bytes]:
        """As the wrapped runtime says of the paths inside."""
        return self.runtime.home_files(self._moved(request))

    def home_links(self, request: Request) -> Mapping[str, str]:
        """As the wrapped runtime says of the paths inside."""
        return self.runtime.home_links(self._moved(request))

    def kept(self, request: Request) -> Kept | None:
        """As the wrapped runtime says of the paths inside."""
        return self.runtime.kept(self._moved(request))

    def foreign(self, request: Request, head: bytes) -> str | None:
        """As the wrapped runtime says."""
        return self.runtime.foreign(request, head)

    def by_hand(self, request: Request) -> tuple[str, ...]:
        """The same in a container of the same image, with the session's directories and no rights."""
        inner, config, paths = self.runtime.by_hand(self._moved(request)), request.agent.docker, request.paths
        mode = ":ro" if config.workspace_mode == "ro" else ""
        shared = "" if request.agent.shared_home == "rw" else ":ro"
        return inner and (
            "docker", "run", "--rm", "-it", f"--user={config.user or self.host.user}", "--cap-drop=ALL",
            "--security-opt=no-new-privileges", f"--network={config.network}",
            f"--volume={paths.home}:{INSIDE.home}", f"--volume={paths.workspace}:{INSIDE.workspace}{mode}",
            *([f"--volume={paths.shared}:{INSIDE.shared}{shared}"] if paths.shared else ()),
            *(f"--env={name}" for name in self.host.pass_env), "--entrypoint=", config.image, *inner,
        )  # fmt: skip

    def container_line(self, request: Request) -> tuple[str, ...]:
        """Made of the very options that the engine is given."""
        command = self.command(request)
        return as_docker_run(
            options(command, self.host), mounts(command, self.host, self.state_dir), command.argv
        )

    def encode(self, message: Mapping[str, Any]) -> bytes:
        """As the wrapped runtime says."""
        return self.runtime.encode(message)

    def outcome(self, end: Exit, result: Result | None) -> Outcome:
        """As the wrapped runtime says."""
        return self.runtime.outcome(end, result)

    def lines(self, command: Command, since: Offsets = FROM_THE_START) -> Iterator[list[Output]]:
        """Create or adopt the run's container, read it from `since`, yield its `Exit`, remove it.

        The container is removed only after the caller has taken the `Exit`, so that the exit code
        is never lost between the two. A caller that stops iterating leaves the container alone.
        """
        with connected(self.host) as client:
            container = obtain(client, command, self.host, self.state_dir)
            if container is None:
                yield [Exit(code=None, note=VANISHED)]
                return
            yield from self._live(Life(client, container, self.host, since), command)

    def _live(self, life: "Life", command: Command) -> Iterator[list[Output]]:
        self._life = life
        if life.fresh:
            prepare(command, self.host)
        container = life.container
        yield [Status(f"Container {container.name} {life.found}.", container=facts(container))]
        try:
            life.start()
            yield [Status("Container started." if life.fresh else "Container adopted.", started=True)]
            for batch in life.collector.batches():
                if batch:
                    forget_secrets(command, self.host)
                yield [*batch, *life.news()]
            yield [*life.collector.flush(), *missing(life), life.exit(command.argv[0])]
            remove(container)
            forget_secrets(command, self.host)
        finally:
            life.leave()

    def stop(self, grace: float) -> None:
        """Have the engine send TERM, and KILL after `grace` seconds; returns at once."""
        if self._life:
            self._life.stop(grace)

    def _moved(self, request: Request) -> Request:
        return replace(request, paths=self.inside(request.paths))


def missing(life: Life) -> list[Output]:
    """Say so when the engine did not hand out all that was printed."""
    if life.complete:
        return []
    received = {str(stream): count for stream, count in life.reading.received.items()}
    return [Status("The engine's log could not be read to its end: output is missing after this.", received)]


def obtain(client: docker.DockerClient, command: Command, host: Host, state_dir: Path) -> Container | None:
    """The run's container: created, or found by its name when somebody was faster.

    None when there is none and none may be created, because the agent ran already.
    """
    if command.request.adopt:
        return find(client, container_name(command.request, host))
    config = command.request.agent.docker
    wanted = {**options(command, host), "mounts": mounts(command, host, state_dir)}
    try:
        return client.containers.create(**wanted)
    except ImageNotFound as error:
        raise RunError(
            f"The image {config.image} is not on this host. Build herdweb's own with"
            " `manage.py build_agent_image`, or pull it with `docker pull`."
        ) from error
    except APIError as error:
        if error.status_code == CONFLICT:
            return client.containers.get(container_name(command.request, host))
        raise RunError(f"The container could not be created: {error.explanation or error}") from error
    except ENGINE_ERRORS as error:
        raise RunError(f"The Docker engine stopped answering: {error}") from error


def find(client: docker.DockerClient, name: str) -> Container | None:
    """The container of this name, if the engine has it."""
    with suppress(NotFound):
        return client.containers.get(name)
    return None


def facts(container: Container) -> ContainerFacts:
    """What the engine made of our wishes."""
    attributes = container.attrs
    host, config = attributes["HostConfig"], attributes["Config"]
    return ContainerFacts(
        engine_id=str(container.id),
        name=str(container.name),
        image=str(config["Image"]),
        image_digest=str(attributes["Image"]),
        labels=dict(config.get("Labels") or {}),
        limits={
            "memory": host.get("Memory"),
            "memory_swap": host.get("MemorySwap"),
            "cpus": (host.get("NanoCpus") or 0) / 1e9,
            "pids": host.get("PidsLimit"),
            "user": config.get("User"),
            "network": host.get("NetworkMode"),
            "read_only": host.get("ReadonlyRootfs"),
            "cap_drop": host.get("CapDrop"),
            "security_opt": host.get("SecurityOpt"),
            "init": host.get("Init"),
            "tmpfs": host.get("Tmpfs"),
            "ulimits": {limit["Name"]: limit["Hard"] for limit in host.get("Ulimits") or []},
        },
    )


@dataclass(frozen=True)
class Leftover:
    """A container of ours that the engine still has."""

    container: Container
    run: str
    name: str
    age: timedelta

    def remove(self) -> None:
        """Stop and remove it."""
        remove(self.container)


def leftovers(host: Host) -> Iterator[Leftover]:
    """All containers of this instance, found by label; raises RunError without an engine."""
    with connected(host) as client:
        try:
            found = client.containers.list(
                all=True, ignore_removed=True, filters={"label": [f"herdweb.instance={host.instance}"]}
            )
        except ENGINE_ERRORS as error:
            raise RunError(f"The Docker engine stopped answering: {error}") from error
        yield from map(leftover, found)


def leftover(container: Container) -> Leftover:
    """What the reconciler wants to know of a container."""
    created = engine_time(container.attrs["Created"]) or datetime.now(UTC)
    return Leftover(
        container, container.labels.get("herdweb.run", ""), str(container.name), datetime.now(UTC) - created
    )
