"""What is left of runs in the engine: found, measured, put to rest, removed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from docker.errors import NotFound
from docker.models.containers import Container

from agents.runtimes.engine import ENGINE_ERRORS, Host, connected, engine_time
from agents.runtimes.life import remove
from agents.runtimes.obtaining import ended
from agents.runtimes.types import EngineAway


@dataclass(frozen=True)
class Leftover:
    """A container of ours that the engine still has."""

    container: Container
    run: str
    name: str
    age: timedelta

    @property
    def engine_id(self) -> str:
        """The engine's own."""
        return str(self.container.id)

    @property
    def runs(self) -> bool:
        """Whether anything runs in it."""
        return bool(self.container.status == "running")

    def remove(self) -> None:
        """Stop and remove it."""
        remove(self.container)

    def end(self) -> None:
        """End what runs in it, and leave it there."""
        ended(self.container)


def leftovers(host: Host) -> Iterator[Leftover]:
    """All containers of this instance, found by label; raises RunError without an engine."""
    with connected(host) as client:
        try:
            found = client.containers.list(
                all=True, ignore_removed=True, filters={"label": [f"herdweb.instance={host.instance}"]}
            )
        except ENGINE_ERRORS as error:
            raise EngineAway(f"The Docker engine stopped answering: {error}") from error
        yield from map(leftover, found)


def leftover(container: Container) -> Leftover:
    """What the reconciler wants to know of a container."""
    created = engine_time(container.attrs["Created"]) or datetime.now(UTC)
    return Leftover(
        container, container.labels.get("herdweb.run", ""), str(container.name), datetime.now(UTC) - created
    )


def put_to_rest(host: Host, engine_id: str) -> bool:
    """End what runs in a container; says whether it is there. Raises RunError without an engine."""
    with connected(host) as client:
        try:
            ended(client.containers.get(engine_id))
        except NotFound:
            return False
        except ENGINE_ERRORS as error:
            raise EngineAway(f"The Docker engine stopped answering: {error}") from error
        return True


def discard(host: Host, engine_id: str) -> None:
    """Remove a container that may be there; raises RunError without an engine."""
    with connected(host) as client:
        try:
            remove(client.containers.get(engine_id))
        except NotFound:
            return
        except ENGINE_ERRORS as error:
            raise EngineAway(f"The Docker engine stopped answering: {error}") from error


def disk_sizes(host: Host, engine_ids: Iterable[str]) -> dict[str, int]:
    """What containers keep in files of their own, in bytes by the engine's id; a while for many files."""
    wanted = list(engine_ids)
    with connected(host) as client:
        try:
            rows = client.api.containers(all=True, size=True, filters={"id": wanted}) if wanted else []
        except ENGINE_ERRORS as error:
            raise EngineAway(f"The Docker engine stopped answering: {error}") from error
        return {str(row["Id"]): int(row.get("SizeRw") or 0) for row in rows}
