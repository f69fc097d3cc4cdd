"""The container of a run: created, adopted, or the one that served the run before."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound, NotFound
from docker.models.containers import Container

from agents.runtimes.creation import make_place, mounts, options
from agents.runtimes.engine import CONFLICT, ENGINE_ERRORS, Host
from agents.runtimes.keeping import Note, Place, container_name, differences, log_end, made_of
from agents.runtimes.life import remove
from agents.runtimes.types import Command, EngineAway, RunError

MADE = "herdweb.made"
ANOTHER = "Its container is made anew, for this has changed: {}. The files that the old one kept are gone."
STRAY = "Something still ran in its container although no run was in it, and was ended."


@dataclass(frozen=True)
class Obtained:
    """A run's container; `fresh` if the run is still to be started in it.

    `log_since` says where the run's part of the engine's log begins, `notes` what is to be told.
    """

    container: Container
    fresh: bool
    log_since: float = 0.0
    notes: tuple[str, ...] = ()


def obtain(client: docker.DockerClient, command: Command, host: Host, state_dir: Path) -> Obtained | None:
    """The run's container: created, or found by its name when somebody was faster.

    None when there is none and none may be created, because the agent ran already.
    """
    try:
        if command.request.agent.docker.scope:
            return kept(client, command, host, state_dir)
        return of_one_run(client, command, host, state_dir)
    except ENGINE_ERRORS as error:
        raise EngineAway(f"The Docker engine stopped answering: {error}") from error


def of_one_run(client: docker.DockerClient, command: Command, host: Host, state_dir: Path) -> Obtained | None:
    """A container that no other run was in or will be."""
    name = container_name(command.request, host)
    if command.request.adopt:
        container = find(client, name)
        return Obtained(container, container.status == "created") if container else None
    wanted = wishes(command, host, state_dir)
    container = create(client, wanted) or client.containers.get(name)
    return Obtained(container, container.status == "created")


def kept(client: docker.DockerClient, command: Command, host: Host, state_dir: Path) -> Obtained | None:
    """The container of the run's session or agent: the one that there is, as long as it is as wanted."""
    request = command.request
    container = find(client, container_name(request, host))
    note = Place.of(request, host, state_dir).note
    if container and note and note.is_of(request):
        return prepared(container, note)
    if request.adopt:
        return None
    wanted = wishes(command, host, state_dir)
    made = made_of(wanted, request.agent.docker, image_id(client, wanted["image"], container))
    wanted["labels"] |= {MADE: json.dumps(made)}
    notes = []
    if container and ended(container):
        notes.append(STRAY)
    changed = differences(json.loads(container.labels.get(MADE, "{}")), made) if container else []
    if container and changed:
        notes.append(ANOTHER.format("; ".join(changed)))
        remove(container)
        container = None
    container = container or create(client, wanted)
    if container is None:
        # Somebody was faster: look again whose it is.
        return kept(client, command, host, state_dir)
    return Obtained(container, True, log_end(client.api, str(container.id)), tuple(notes))


def prepared(container: Container, note: Note) -> Obtained:
    """A container that was prepared for this very run, and perhaps has been started for it."""
    fresh = container.attrs["State"]["StartedAt"] == note.started_before
    return Obtained(container, fresh, note.log_since)


def ended(container: Container) -> bool:
    """End what runs in a container that no run is in; says whether there was anything."""
    if container.status not in ("running", "paused", "restarting"):
        return False
    with suppress(APIError):
        container.kill()
    container.wait()
    container.reload()
    return True


def wishes(command: Command, host: Host, state_dir: Path) -> dict[str, Any]:
    """All that a container is to be created with; what it mounts is there afterwards."""
    make_place(command.request, host, Place.of(command.request, host, state_dir))
    return {**options(command, host), "mounts": mounts(command, host, state_dir)}


def create(client: docker.DockerClient, wanted: dict[str, Any]) -> Container | None:
    """A new container, or None when there is one of this name; RunError if it cannot be."""
    try:
        return client.containers.create(**wanted)
    except ImageNotFound as error:
        raise no_image(wanted["image"]) from error
    except APIError as error:
        if error.status_code == CONFLICT:
            return None
        raise RunError(f"The container could not be created: {error.explanation or error}") from error


def no_image(name: str) -> RunError:
    """What to do about it."""
    return RunError(
        f"The image {name} is not on this host. Build herdweb's own with"
        " `manage.py build_agent_image`, or pull it with `docker pull`."
    )


def image_id(client: docker.DockerClient, name: str, container: Container | None) -> str:
    """What the image's name stands for now; if for nothing any more, a container goes on as it is."""
    try:
        return str(client.images.get(name).id)
    except ImageNotFound as error:
        if container is None:
            raise no_image(name) from error
        return str(container.attrs["Image"])


def find(client: docker.DockerClient, name: str) -> Container | None:
    """The container of this name, if the engine has it."""
    with suppress(NotFound):
        return client.containers.get(name)
    return None
