"""Errand: one program in a one-off container of the same hardened set, and what it printed.

For work on files that an agent could have prepared: nothing of them is executed, read or followed
on the host. It sees the directories that it is given and nothing else, and no network unless it
says so. Its labels let the sweeper find it.
"""

import shutil
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound
from docker.models.containers import Container
from docker.types import LogConfig, Mount, Ulimit

from agents.runtimes.base import Mask
from agents.runtimes.creation import NO_CORE, OPEN_FILES, own
from agents.runtimes.engine import CONFLICT, ENGINE_ERRORS, Host, connected
from agents.runtimes.host import write_files
from agents.runtimes.layout import make_private, own_private
from agents.runtimes.life import remove
from agents.runtimes.reading import CLOSED
from agents.runtimes.types import EngineAway, Line, RunError

FILES, SECRETS = "/run/herdweb", "/run/herdweb-secrets"
MEMORY, CPUS, PIDS = 2 * 1024**3, 2.0, 256
# In seconds: how often the caller gets a turn, and how long output may take to follow the end.
TURN, LATE = 0.2, 5.0


@dataclass(frozen=True)
class Bind:
    """A host directory in the container."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True)
class Errand:
    """What to execute, and with what in reach.

    `files` are written into `folder`, mounted at `/run/herdweb`; `secrets` into a directory in
    memory, mounted at `/run/herdweb-secrets` and gone afterwards. `limit` is in seconds, `most` the
    bytes of each stream that are kept.
    """

    name: str
    run: str
    image: str
    user: str
    argv: tuple[str, ...]
    folder: Path
    binds: tuple[Bind, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    hidden: Mapping[str, str] = field(default_factory=dict, repr=False)
    network: str = "none"
    limit: float = 600.0
    most: int = 256 * 1024


@dataclass(frozen=True)
class Done:
    """How it ended; `code` is None when it was cut off for taking longer than it may."""

    code: int | None
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        """Whether the program says that all went well."""
        return self.code == 0

    @property
    def complaint(self) -> str:
        """The last that it said of itself."""
        said = self.stderr.decode("utf-8", "replace").replace("\r", "\n").replace("\x00", "")
        return " ".join(said.split())[-1000:]


def send(errand: Errand, host: Host) -> Generator[str, None, Done]:
    """Execute; yields five times a second the last line that it has written to standard error.

    Returns a `Done`. A container of the same name is one that a dead worker has left: it is removed
    first. Whoever closes the generator ends the errand. Raises RunError when it could not be started
    or the engine went away.
    """
    try:
        with connected(host) as client:
            return (yield from followed(client, create(client, errand, host), errand))
    except ENGINE_ERRORS as error:
        raise EngineAway(f"The Docker engine stopped answering: {error}") from error
    finally:
        shutil.rmtree(secrets_of(errand, host), ignore_errors=True)


def create(client: docker.DockerClient, errand: Errand, host: Host) -> Container:
    """The container, with its files in place."""
    make_private(errand.folder)
    write_files(errand.folder, errand.files)
    own(errand.folder, errand.user)
    if errand.secrets:
        own_private(host.secrets_dir)
        make_private(secrets_of(errand, host))
        write_files(secrets_of(errand, host), errand.secrets)
        own(secrets_of(errand, host), errand.user)
    try:
        return made(client, options(errand, host))
    except ImageNotFound as error:
        raise RunError(
            f"The image {errand.image} is not on this host. Build it with `manage.py build_agent_image`."
        ) from error


def made(client: docker.DockerClient, wanted: Mapping[str, Any]) -> Container:
    """Create it in the place of one that is left over."""
    try:
        return client.containers.create(**wanted)
    except APIError as error:
        if error.status_code != CONFLICT:
            raise
    remove(client.containers.get(wanted["name"]))
    return client.containers.create(**wanted)


def options(errand: Errand, host: Host) -> dict[str, Any]:
    """Everything that it is created with."""
    mounts = [Mount(bind.target, bind.source, "bind", not bind.writable) for bind in errand.binds]
    mounts.append(Mount(FILES, str(errand.folder), type="bind", read_only=True))
    if errand.secrets:
        mounts.append(Mount(SECRETS, str(secrets_of(errand, host)), type="bind", read_only=True))
    return {
        "image": errand.image,
        "name": f"herdweb-{host.instance}-{errand.run}-{errand.name}",
        "entrypoint": list(errand.argv),
        "environment": {"HOME": "/tmp", "LC_ALL": "C.UTF-8", **errand.env},
        "user": errand.user,
        "working_dir": "/",
        "labels": {
            "herdweb.instance": host.instance,
            "herdweb.run": errand.run,
            "herdweb.errand": errand.name,
        },
        "init": True,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "network_mode": errand.network,
        "pids_limit": PIDS,
        "mem_limit": MEMORY,
        "memswap_limit": MEMORY,
        "nano_cpus": round(CPUS * 1e9),
        "ulimits": [
            Ulimit(name="nofile", soft=OPEN_FILES, hard=OPEN_FILES),
            Ulimit(name="core", soft=NO_CORE, hard=NO_CORE),
        ],
        "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,size=67108864,mode=1777"},
        "mounts": mounts,
        # What it prints is read live, byte for byte; the engine keeps no copy.
        "log_config": LogConfig(type="none"),
    }


def secrets_of(errand: Errand, host: Host) -> Path:
    """Apart from what the agent itself is given, and found by the sweeper all the same."""
    return host.secrets_dir / f"{errand.run}.{errand.name}"


class Listener(threading.Thread):
    """Keeps the beginning of what a container prints, and the end of what it complains of."""

    def __init__(self, api: Any, container: Container, most: int) -> None:
        super().__init__(daemon=True)
        self.most = most
        self.stdout, self.stderr = bytearray(), bytearray()
        both = {"stdout": True, "stderr": True}
        self.stream = api.attach(str(container.id), stream=True, logs=False, demux=True, **both)

    def run(self) -> None:
        """Until the streams end."""
        with suppress(*CLOSED):
            for out, err in self.stream:
                self.stdout += (out or b"")[: self.most - len(self.stdout)]
                self.stderr += err or b""
                del self.stderr[: -self.most]

    def close(self) -> None:
        """Let go of the stream, and of the response under it, which the SDK forgets."""
        if self.is_alive():
            self.join(LATE)
        for closable in (self.stream, self.stream._response):
            with suppress(*CLOSED):
                closable.close()


def followed(client: docker.DockerClient, container: Container, errand: Errand) -> Generator[str, None, Done]:
    """Start it, and listen until it has ended or its time is up; it is removed then."""
    listener, mask = Listener(client.api, container, errand.most), Mask(errand.hidden)
    try:
        container.start()
        listener.start()
        deadline = time.monotonic() + errand.limit
        while running(container) and time.monotonic() < deadline:
            yield last_line(masked(mask, bytes(listener.stderr)))
            listener.join(TURN)
            if not listener.is_alive():
                # Its streams have ended, so it is about to.
                time.sleep(TURN / 10)
        code = None if running(container) else int(container.attrs["State"]["ExitCode"])
    finally:
        remove(container)
        listener.close()
    return Done(code, masked(mask, bytes(listener.stdout)), masked(mask, bytes(listener.stderr)))


def running(container: Container) -> bool:
    """Whether it has not ended, as the engine says."""
    container.reload()
    return container.status not in ("exited", "dead")


def masked(mask: Mask, said: bytes) -> bytes:
    """Without the values of secrets."""
    return mask.line(Line("stderr", said)).raw


def last_line(said: bytes) -> str:
    """How far it says it is; programs go back to the beginning of a line for that."""
    lines = said.decode("utf-8", "replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
