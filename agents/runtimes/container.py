"""ContainerRunner: the same runtime, inside Docker.

The agent is the main process of a container whose name is made from instance, run and attempt. So
the engine itself is the lock (a second creator gets 409 and adopts), any process can take over
reading, waiting and stopping, and the exit code survives until it has been stored.
"""

import shlex
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from docker.types import LogConfig, Mount, Ulimit
from requests.exceptions import RequestException

from agents.runtimes.base import Runtime
from agents.runtimes.host import write_files
from agents.runtimes.layout import give
from agents.runtimes.stream import Collector
from agents.runtimes.types import (
    FROM_THE_START,
    Command,
    ContainerFacts,
    DockerConfig,
    Exit,
    Message,
    Offsets,
    Outcome,
    Output,
    Paths,
    Request,
    Result,
    RunError,
    Status,
    Stream,
)

INSIDE = Paths(workspace="/workspace", home="/home/agent", run="/run/herdweb")
SECRETS_INSIDE = "/run/herdweb-secrets"
TMP_SIZE = 256 * 1024**2
OPEN_FILES, NO_CORE = 4096, 0
# The engine's own copy of the output grows up to a hundred times as fast as the output (one JSON
# record a line); beyond this it is cut, which only happens while no worker reads.
LOG_FACTOR = 100
ENGINE_ERRORS = (DockerException, RequestException)
CONFLICT = 409
# How long an engine that does not answer is left alone before it is asked again.
RETRY_SECONDS = 1.0
# How long the last output may take after the end of the process before it is fetched again.
DRAIN_SECONDS = 3.0
SIGNAL_BASE = 128
VANISHED = "The container was removed from outside herdweb while it ran."

Connect = Callable[[], docker.DockerClient]


@dataclass(frozen=True)
class Host:
    """What a container runner knows of its machine: whose containers, which user, where secrets wait."""

    instance: str
    user: str
    secrets_dir: Path
    connect: Connect = docker.from_env


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
        self._life: Life | None = None

    def command(self, request: Request) -> Command:
        """What the wrapped runtime would execute at the paths inside."""
        return replace(self.runtime.command(self._moved(request)), request=request)

    def inside(self, paths: Paths) -> Paths:
        """Always the same three, so that a session finds its files in every container."""
        return INSIDE

    def parse(self, line: str) -> list[Message]:
        """As the wrapped runtime says."""
        return self.runtime.parse(line)

    def transcripts(self, request: Request) -> Sequence[str]:
        """As the wrapped runtime says of the paths inside."""
        return self.runtime.transcripts(self._moved(request))

    def home_files(self, request: Request) -> Mapping[str, bytes]:
        """As the wrapped runtime says of the paths inside."""
        return self.runtime.home_files(self._moved(request))

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
                yield [*batch]
            yield [*life.collector.flush(), life.exit(command.argv[0])]
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


class Life:
    """A container from the first look to its end: read, awaited and stopped by threads."""

    def __init__(self, client: docker.DockerClient, container: Container, host: Host, since: Offsets) -> None:
        self.container = container
        self.host = host
        self.api: Any = client.api
        self.engine_id = str(container.id)
        self.fresh = container.status == "created"
        self.found = "created" if self.fresh else f"found {container.status}"
        self.collector = Collector()
        self.received: dict[Stream, int] = {"stdout": since.stdout, "stderr": since.stderr}
        self.ended = threading.Event()
        self.left = threading.Event()
        self.vanished = False
        self._streams: list[Any] = []
        self._readers: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to read, then start the container if it has not been started yet.

        Attached before the start, nothing is lost; a container that already ran is read from the
        engine's log, because attaching to it with its past loses lines.
        """
        if self.fresh:
            self._attach()
            self._start_container()
        else:
            self._replay(follow=True)
        threading.Thread(target=self._watch, daemon=True).start()

    def stop(self, grace: float) -> None:
        """Stop in a thread, again and again until the engine has answered."""
        threading.Thread(target=self._stop, args=(grace,), daemon=True).start()

    def leave(self) -> None:
        """Let go of the engine's connections; the container goes on."""
        self.left.set()
        self._close_streams()

    def exit(self, program: str) -> Exit:
        """How it ended, from a last inspection."""
        attributes = self._inspect()
        if attributes is None:
            return Exit(code=None, note=VANISHED)
        state = attributes["State"]
        code = int(state["ExitCode"])
        return Exit(
            code=code,
            signal=code - SIGNAL_BASE if SIGNAL_BASE < code <= SIGNAL_BASE + 64 else None,
            oom=bool(state.get("OOMKilled")),
            memory_limit=int(attributes["HostConfig"].get("Memory") or 0),
            started_at=engine_time(state["StartedAt"]),
            finished_at=engine_time(state["FinishedAt"]),
            program=program,
            note=str(state.get("Error") or ""),
        )

    def _start_container(self) -> None:
        try:
            self.container.start()
        except APIError as error:
            self.leave()
            remove(self.container)
            raise RunError(f"The container could not be started: {error.explanation or error}") from error

    def _attach(self) -> None:
        stream = self.api.attach(
            self.engine_id, stdout=True, stderr=True, stream=True, logs=False, demux=True
        )
        self._read(stream, self._carry_both)

    def _replay(self, follow: bool) -> None:
        """Read the engine's log from the byte that comes next in each stream."""
        for name in ("stdout", "stderr"):
            stream = self.api.logs(
                self.engine_id,
                stdout=name == "stdout",
                stderr=name == "stderr",
                stream=True,
                follow=follow,
            )
            self._read(stream, self._carry_one, name)

    def _read(self, stream: Any, carry: Callable[..., None], *arguments: Any) -> None:
        self._streams.append(stream)
        reader = threading.Thread(target=carry, args=(stream, *arguments), daemon=True)
        self._readers.append(reader)
        reader.start()

    def _carry_both(self, stream: Any) -> None:
        with suppress(*ENGINE_ERRORS, OSError, ValueError, AttributeError):
            for out, err in stream:
                self._put("stdout", out)
                self._put("stderr", err)

    def _carry_one(self, stream: Any, name: Stream) -> None:
        known = self.received[name]
        with suppress(*ENGINE_ERRORS, OSError, ValueError, AttributeError):
            for data in stream:
                fresh = data[known:]
                known -= min(known, len(data))
                self._put(name, fresh)

    def _put(self, name: Stream, data: bytes | None) -> None:
        if data and not self.left.is_set():
            self.collector.put(name, data)
            self.received[name] += len(data)

    def _watch(self) -> None:
        """Wait for the end, see that everything was read, then close the collector."""
        threading.Thread(target=self._wait, daemon=True).start()
        while not self.ended.is_set() and not self.left.is_set():
            self._join()
            if not self.ended.wait(RETRY_SECONDS):
                # The stream broke, the container did not: go on where it broke.
                self._again(follow=True)
        self._join(DRAIN_SECONDS)
        if any(reader.is_alive() for reader in self._readers):
            self._close_streams()
            self._again(follow=False)
            self._join(DRAIN_SECONDS)
        self.collector.close()

    def _again(self, follow: bool) -> None:
        self._close_streams()
        with suppress(*ENGINE_ERRORS):
            self._replay(follow)

    def _join(self, seconds: float | None = None) -> None:
        """Wait for the readers; without a bound, as long as the container lives."""
        for reader in list(self._readers):
            while reader.is_alive() and seconds is None and not self.ended.is_set():
                reader.join(0.5)
            reader.join(seconds or 0)

    def _wait(self) -> None:
        while not self.left.is_set():
            try:
                self.api.wait(self.engine_id, timeout=60)
                break
            except NotFound:
                break
            except ENGINE_ERRORS:
                # A time-out, or an engine that is away: its own word on the state decides.
                if self._has_ended():
                    break
                self.left.wait(RETRY_SECONDS)
        self.ended.set()

    def _has_ended(self) -> bool:
        try:
            self.container.reload()
        except NotFound:
            return True
        except ENGINE_ERRORS:
            return False
        return bool(self.container.status in ("exited", "dead"))

    def _inspect(self) -> dict[str, Any] | None:
        """The container's attributes, as soon as the engine answers; None if it is gone."""
        while True:
            try:
                self.container.reload()
                return dict(self.container.attrs)
            except NotFound:
                return None
            except ENGINE_ERRORS:
                self.left.wait(RETRY_SECONDS)

    def _stop(self, grace: float) -> None:
        while not self.ended.is_set() and not self.left.is_set():
            with suppress(*ENGINE_ERRORS, RunError):
                self._stop_once(grace)
                break
            self.left.wait(RETRY_SECONDS)

    def _stop_once(self, grace: float) -> None:
        """By a client of its own, because stopping takes as long as the grace."""
        with connected(self.host) as client, suppress(NotFound):
            client.containers.get(self.engine_id).stop(timeout=max(0, round(grace)))

    def _close_streams(self) -> None:
        """Close each stream and the response under it, which the SDK leaves to the collector."""
        for stream in self._streams:
            with suppress(*ENGINE_ERRORS, OSError, ValueError, AttributeError):
                stream.close()
            with suppress(*ENGINE_ERRORS, OSError, ValueError, AttributeError):
                stream._response.close()
        self._streams.clear()
        self._readers = [reader for reader in self._readers if reader.is_alive()]


def connect(host: Host) -> docker.DockerClient:
    """A client of the engine, or a RunError that says what to do."""
    try:
        return host.connect()
    except ENGINE_ERRORS as error:
        raise RunError(
            "The Docker engine cannot be reached. Start it (for example: systemctl start docker), or"
            f" switch Docker off for this agent. The engine's client says: {error}"
        ) from error


def connected(host: Host) -> closing[docker.DockerClient]:
    """The same for a `with`: a client that is not closed keeps its sockets until it is collected."""
    return closing(connect(host))


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


def container_name(request: Request, host: Host) -> str:
    """The lock: one name for one attempt of one run of one instance."""
    return f"herdweb-{host.instance}-{request.run}-{request.attempt}"


def options(command: Command, host: Host) -> dict[str, Any]:
    """Everything that a container is created with; the hardened set is not an option."""
    request, config = command.request, command.request.agent.docker
    return {
        "image": config.image,
        "name": container_name(request, host),
        "entrypoint": ["/bin/sh", f"{INSIDE.run}/start"],
        "environment": {**config.env, **command.env},
        "user": config.user or host.user,
        "working_dir": INSIDE.workspace,
        "hostname": request.agent.name,
        "labels": {**config.labels, **labels(request, host)},
        "init": True,
        "read_only": True,
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
            config={"max-size": str(request.agent.output_limit * LOG_FACTOR), "max-file": "1"},
        ),
    }


def labels(request: Request, host: Host) -> dict[str, str]:
    """By these, and never by a name's beginning, our containers are found again."""
    return {
        "herdweb.instance": host.instance,
        "herdweb.run": request.run,
        "herdweb.agent": request.agent.name,
        "herdweb.session": request.conversation.id,
    }


def tmpfs(config: DockerConfig) -> dict[str, str]:
    """Memory file systems by path; programs may run from /tmp as they may from the workspace."""
    given = dict(entry.partition(":")[::2] for entry in config.tmpfs)
    return {"/tmp": f"rw,exec,nosuid,nodev,size={TMP_SIZE},mode=1777", **given}


def mounts(command: Command, host: Host, state_dir: Path) -> list[Mount]:
    """The session's home, the workspace, the run's files, the secrets, and what was asked for.

    Home and run's files must lie in the state directory: what is mounted alone there is what keeps
    one agent from seeing another's sessions.
    """
    paths, config = command.request.paths, command.request.agent.docker
    for path in (paths.home, paths.run):
        if not Path(path).resolve().is_relative_to(state_dir.resolve()):
            raise RunError(f"{path} lies outside the state directory {state_dir}.")
    ours = [
        Mount(INSIDE.workspace, paths.workspace, type="bind", read_only=config.workspace_mode == "ro"),
        Mount(INSIDE.home, paths.home, type="bind"),
        Mount(INSIDE.run, paths.run, type="bind", read_only=True),
    ]
    if command.request.secrets:
        secrets_of(command, host).mkdir(parents=True, exist_ok=True, mode=0o700)
        ours.append(Mount(SECRETS_INSIDE, str(secrets_of(command, host)), type="bind", read_only=True))
    return ours + [extra_mount(text) for text in config.mounts]


def extra_mount(text: str) -> Mount:
    """A mount as configured: host:container[:ro|rw]."""
    source, target, *mode = text.split(":")
    return Mount(target, source, type="bind", read_only=mode != ["rw"])


def prepare(command: Command, host: Host) -> None:
    """Write the run's files, its start script and its secrets, readable by the container's user."""
    request = command.request
    owner = request.agent.docker.user or host.user
    write_files(Path(request.paths.run), {**command.files, "start": start_script(command)})
    own(Path(request.paths.run), owner)
    if request.secrets:
        folder = secrets_of(command, host)
        write_files(folder, {"env": exports(request.secrets)})
        own(folder, owner)


def start_script(command: Command) -> bytes:
    """A container's command is fixed when it is created; this file is not, and no argument of it
    shows up in the engine's records."""
    stdin = f"{INSIDE.run}/{command.stdin}" if command.stdin else "/dev/null"
    secrets = f"if [ -r {SECRETS_INSIDE}/env ]; then . {SECRETS_INSIDE}/env; fi\n"
    return (f"#!/bin/sh\n{secrets}exec {shlex.join(command.argv)} < {shlex.quote(stdin)}\n").encode()


def exports(secrets: Mapping[str, str]) -> bytes:
    """The secrets as a file that a shell reads."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in secrets.items()).encode()


def secrets_of(command: Command, host: Host) -> Path:
    """Where this run's secrets wait for the container to start."""
    return host.secrets_dir / command.request.run


def forget_secrets(command: Command, host: Host) -> None:
    """Remove the file once the agent has read it; its environment has the values now."""
    shutil.rmtree(secrets_of(command, host), ignore_errors=True)


def own(folder: Path, owner: str) -> None:
    """Give a directory and the files in it to a uid:gid, closed to everybody else."""
    for path in (folder, *folder.iterdir()):
        path.chmod(0o700 if path.is_dir() else 0o400)
        give(path, owner)


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


def remove(container: Container) -> None:
    """Remove a container with its anonymous volumes; one that is gone already is fine."""
    with suppress(NotFound):
        try:
            container.remove(v=True, force=True)
        except APIError as error:
            # 409: the engine is removing it already.
            if error.status_code != CONFLICT:
                raise


def engine_time(text: str) -> datetime | None:
    """The engine's RFC 3339 time with nanoseconds; its zero time is none."""
    if text.startswith("0001-"):
        return None
    head, _, tail = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{head}.{tail[:6]:0<6}+00:00")


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
