"""What is misconfigured, each finding with an id and a hint."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.checks import CheckMessage, Error, register

SECRETS_HINT = "Set HERDWEB_STATE_DIR to a directory that no web server publishes."


@register()
def state_dir_is_private(**_: Any) -> list[CheckMessage]:
    """Refuse a state directory that the web server would publish: it holds every conversation."""
    state = Path(settings.HERDWEB_STATE_DIR)
    return [
        Error(
            f"The state directory {state} lies in {folder}, which the web server publishes.",
            hint=SECRETS_HINT,
            id="herdweb.E001",
        )
        for folder in published()
        if state.is_relative_to(folder) or folder.is_relative_to(state)
    ]


@register()
def state_dir_is_closed(**_: Any) -> list[CheckMessage]:
    """Refuse a state directory that other users of this machine can read."""
    state = Path(settings.HERDWEB_STATE_DIR)
    if not state.exists() or not state.stat().st_mode & 0o077:
        return []
    mode = f"{state.stat().st_mode & 0o777:o}"
    return [
        Error(
            f"The state directory {state} is open to other users (mode {mode}).",
            hint=f"chmod 700 {state}",
            id="herdweb.E002",
        )
    ]


@register()
def state_dir_can_be_mounted(**_: Any) -> list[CheckMessage]:
    """Refuse a path that Docker's mount syntax would cut in two."""
    if ":" not in str(settings.HERDWEB_STATE_DIR) and "," not in str(settings.HERDWEB_STATE_DIR):
        return []
    return [
        Error(
            f"The state directory {settings.HERDWEB_STATE_DIR} has a ':' or ',' in its path.",
            hint="Docker cannot mount such a path; choose another HERDWEB_STATE_DIR.",
            id="herdweb.E003",
        )
    ]


def published() -> Iterable[Path]:
    """Every directory whose files the site hands out."""
    folders = [Path(settings.STATIC_ROOT)]
    for finder in get_finders():
        storages = getattr(finder, "storages", {})
        folders += [
            Path(storage.location) for storage in storages.values() if getattr(storage, "location", "")
        ]
    if settings.MEDIA_URL not in ("", "/"):
        folders.append(Path(settings.MEDIA_ROOT))
    root = getattr(settings, "WHITENOISE_ROOT", None)
    return [*folders, Path(root)] if root else folders
