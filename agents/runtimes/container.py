"""ContainerRunner: the same runtime, inside Docker.

The agent is the main process of a container whose name is made from instance, run and attempt. So
the engine itself is the lock (a second creator gets 409 and adopts), any process can take over
reading, waiting and stopping, and the exit code survives until it has been stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from docker.models.containers import Container

from agents.runtimes.base import Runtime
from agents.runtimes.creation import (
    INSIDE,
    as_docker_run,
    forget_secrets,
    mounts,
    moved,
    options,
    prepare,
)
from agents.runtimes.engine import ENGINE_ERRORS, Host, connected
from agents.runtimes.keeping import Note, Place
from agents.runtimes.life import VANISHED, Life, remove
from agents.runtimes.obtaining import obtain
from agents.runtimes.types import (
    FROM_THE_START,
    Command,
    ContainerFacts,
    Exit,
    Kept,
    Message,
    NotRemoved,
    Offsets,
    Outcome,
    Output,
    Paths,
    Request,
    Result,
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
        self.sums_cost = runtime.sums_cost
        self.reads = runtime.reads
        self.version_arguments = runtime.version_arguments
        self.shared = runtime.shared
        self._life: Life | None = None

    def command(self, request: Request) -> Command:
        """What the wrapped runtime would execute at the paths inside."""
        return replace(self.runtime.command(moved(request)), request=request)

    def inside(self, paths: Paths) -> Paths:
        """Always the same, so that a session finds its files in every container.

        Only where one container has all homes of an agent, each is a directory below this one's.
        """
        return replace(INSIDE, shared=INSIDE.shared if paths.shared else "")

    def parse(self, line: str) -> list[Message]:
        """As the wrapped runtime says."""
        return self.runtime.parse(line)

    def transcripts(self, request: Request) -> Sequence[str]:
        """As the wrapped runtime says of the paths inside."""
        return self.runtime.transcripts(moved(request))

    def read_transcript(self, file: BinaryIO) -> Transcript | None:
        """As the wrapped runtime says."""
        return self.runtime.read_transcript(file)

    def home_files(self, request: Request) -> Mapping[str, bytes]:
        """As the wrapped runtime says of the paths inside."""
        return self.runtime.home_files(moved(request))

    def home_links(self, request: Request) -> Mapping[str, str]:
        """As the wrapped runtime says of the paths inside."""
        return self.runtime.home_links(moved(request))

    def kept(self, request: Request) -> Kept | None:
        """As the wrapped runtime says of the paths inside."""
        return self.runtime.kept(moved(request))

    def foreign(self, request: Request, head: bytes) -> str | None:
        """As the wrapped runtime says."""
        return self.runtime.foreign(request, head)

    def by_hand(self, request: Request) -> tuple[str, ...]:
        """The same in a container of the same image, with the session's directories and no rights."""
        inside, config, paths = moved(request), request.agent.docker, request.paths
        inner, home = self.runtime.by_hand(inside), f"{paths.home}:{inside.paths.home}"
        mode = ":ro" if config.workspace_mode == "ro" else ""
        shared = "" if request.agent.shared_home == "rw" else ":ro"
        return inner and (
            "docker", "run", "--rm", "-it", f"--user={config.user or self.host.user}", "--cap-drop=ALL",
            "--security-opt=no-new-privileges", f"--network={config.network}",
            f"--volume={home}", f"--volume={paths.workspace}:{INSIDE.workspace}{mode}",
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
        is never lost between the two; NotRemoved is raised if the engine refuses. A caller that stops
        iterating leaves the container alone; so does this, if the agent's settings let it outlive the run.
        """
        place = Place.of(command.request, self.host, self.state_dir)
        with connected(self.host) as client:
            got = obtain(client, command, self.host, self.state_dir)
            if got is None:
                yield [Exit(code=None, note=VANISHED)]
                return
            life = Life(client, got.container, self.host, since, got.fresh, got.log_since)
            yield [Status(note) for note in got.notes]
            yield from self._live(life, command, place)

    def _live(self, life: Life, command: Command, place: Place) -> Iterator[list[Output]]:
        self._life = life
        container, request = life.container, command.request
        if life.fresh:
            if request.agent.docker.outlives_run:
                began = container.attrs["State"]["StartedAt"]
                # Before the credentials, which are swept away where no run is noted.
                place.write_note(Note(request.run, request.attempt, began, life.reading.log_since))
            prepare(command, self.host, place)
        yield [Status(f"Container {container.name} {life.found}.", container=facts(container))]
        try:
            life.start()
            yield [Status("Container started." if life.fresh else "Container adopted.", started=True)]
            for batch in life.collector.batches():
                if batch:
                    forget_secrets(request, place)
                yield [*batch, *life.news()]
            yield [*life.collector.flush(), *missing(life), life.exit(command.argv[0])]
            forget_secrets(request, place)
            if not request.agent.docker.outlives_run:
                remove_at_the_end(container)
        finally:
            life.leave()

    def stop(self, grace: float) -> None:
        """Have the engine send TERM, and KILL after `grace` seconds; returns at once."""
        if self._life:
            self._life.stop(grace)


def remove_at_the_end(container: Container) -> None:
    """Remove it when its end is known; raises NotRemoved, which changes nothing about that end."""
    try:
        remove(container)
    except ENGINE_ERRORS as error:
        raise NotRemoved(f"The engine did not remove the container; it is asked again: {error}") from error


def missing(life: Life) -> list[Output]:
    """Say so when the engine did not hand out all that was printed."""
    if life.complete:
        return []
    received = {str(stream): count for stream, count in life.reading.received.items()}
    return [Status("The engine's log could not be read to its end: output is missing after this.", received)]


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
