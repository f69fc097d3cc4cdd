"""Room for what agents write: how much the disk of the state directory has, and how much is asked for."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from agents.models.fields import parse_size
from agents.runtimes import human_size


@dataclass(frozen=True)
class Disk:
    """In bytes; `folder` is the state directory, or what there is of its path."""

    folder: Path
    free: int
    wanted: int


def disk() -> Disk:
    """One question to the file system, at any rate."""
    path = Path(settings.HERDWEB_STATE_DIR)
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    usage = shutil.disk_usage(existing)
    return Disk(existing, usage.free, wanted(usage.total))


def wanted(total: int) -> int:
    """How many bytes of a disk of this size are to be free."""
    asked = str(settings.HERDWEB_FREE_SPACE)
    return int(total * float(asked[:-1]) / 100) if asked.endswith("%") else parse_size(asked)


def shortage() -> str:
    """Why nothing new may start now; empty if there is room. What is live goes on."""
    found = disk()
    if found.free >= found.wanted:
        return ""
    return (
        f"The disk of the state directory has {human_size(found.free)} free,"
        f" and {human_size(found.wanted)} are asked for (HERDWEB_FREE_SPACE)."
    )
