"""Images, as the engine sees them: found, pulled, imported, built."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import ImageNotFound

from agents.runtimes.engine import ENGINE_ERRORS, unreachable
from agents.runtimes.types import EngineAway, RunError

# In seconds: how long a registry may take to say that it has an image.
REGISTRY_PATIENCE = 15
# Lines of a failed build's output that its error repeats.
TAIL = 15


@dataclass(frozen=True)
class Image:
    """An image that the engine has; `size` in bytes."""

    digest: str
    size: int
    labels: Mapping[str, str]


class Images:
    """The engine's images; every expected failure is a RunError with its remedy."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.client = client

    @property
    def architecture(self) -> str:
        """The engine's, like amd64: it need not be this machine's."""
        return str(self.client.version()["Arch"])

    def find(self, name: str) -> Image | None:
        """The image of this name, if the engine has it."""
        try:
            found = self.client.images.get(name)
        except ImageNotFound:
            return None
        return Image(str(found.id), int(found.attrs["Size"]), dict(found.labels))

    def pull(self, name: str) -> bool:
        """Get an image from its registry; False when the registry cannot be reached or has none."""
        try:
            self.client.images.get_registry_data(name)
            self.client.images.pull(name)
        except ENGINE_ERRORS:
            return False
        return True

    def import_tar(self, tar: Path, name: str) -> None:
        """Make an image of a file system that was packed into a tar file."""
        repository, _, tag = name.partition(":")
        answer = self.client.api.import_image_from_file(str(tar), repository=repository, tag=tag)
        if "errorDetail" in str(answer):
            raise RunError(f"The engine did not take the base image: {answer}")

    def build(
        self, folder: Path, name: str, base: str, labels: Mapping[str, str], fresh: bool
    ) -> Iterator[str]:
        """Build a folder's Dockerfile, yielding the engine's output line by line.

        On the host's network: a bridge may have no name server that the host's packages come by.
        """
        options: dict[str, Any] = {"buildargs": {"BASE": base}, "labels": dict(labels), "nocache": fresh}
        said: list[str] = []
        for message in self.client.api.build(
            path=str(folder), tag=name, network_mode="host", rm=True, forcerm=True, decode=True, **options
        ):
            if "error" in message:
                raise RunError("\n".join(["The image could not be built:", *said[-TAIL:], message["error"]]))
            for line in str(message.get("stream", "")).splitlines():
                said.append(line)
                yield line


@contextmanager
def images() -> Iterator[Images]:
    """The engine's images for a while; raises RunError whenever the engine does not answer."""
    try:
        client = docker.from_env(timeout=REGISTRY_PATIENCE)
    except ENGINE_ERRORS as error:
        raise unreachable(error) from error
    try:
        yield Images(client)
    except ENGINE_ERRORS as error:
        raise EngineAway(f"The Docker engine refused or stopped answering: {error}") from error
    finally:
        client.close()
