"""What may be typed into an agent's fields, and the words in which it is refused.

Validators of the models, so that admin, pages and commands say the same.
"""

import json
import math
import os
import posixpath
import re
from collections.abc import Iterable, Sized
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError

from agents.models.moments import parse_blackout, parse_cron, parse_zone

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
SCHEDULE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\[\]/@-]{0,127}")
TOOL = re.compile(r"[A-Za-z_*][A-Za-z0-9_*-]{0,127}(\([^()\x00-\x1f\x7f\ud800-\udfff]{1,500}\))?")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
REPOSITORY = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
# Without a dot, a port or this very name, Docker takes the first part for a folder of its hub.
REGISTRY = r"(?:(?=localhost/|[^/]*[.:])[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?/)?"
IMAGE = re.compile(
    rf"{REGISTRY}{REPOSITORY}(?:/{REPOSITORY})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?"
)
USER = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")
TMPFS_OPTION = re.compile(
    r"(rw|ro|exec|noexec|nosuid|nodev|size=([1-9][0-9]{0,14})([kmg]?)|mode=[01]?[0-7]{3})"
)

GIT_URL = re.compile(r"https://[^\s/?#\\]+/[^\s?#\\]+|file:///[^\s?#%\\]+")
GIT_REF = re.compile(r"(?:[A-Za-z0-9_.][A-Za-z0-9_.-]*/)*[A-Za-z0-9_.][A-Za-z0-9_.-]*")
# Each with a value of the longest kind.
GIT_PLACEHOLDERS = {"agent": "a" * 63, "session": "0" * 8, "run": "0" * 8, "date": "2000-01-01"}

PROMPT_LIMIT = 1024**2
VALUE_LIMIT = 32 * 1024
ARGUMENT_LIMIT = 128 * 1024
ARGUMENTS_LIMIT, TOOLS_LIMIT, VARIABLES_LIMIT, LABELS_LIMIT, MOUNTS_LIMIT = 1000, 200, 200, 32, 32
WINDOWS_LIMIT = 50
# The classes of failures that a new attempt may mend; "agent" is one that the agent itself told.
RETRIED = ("engine", "start", "rate_limit", "lost", "agent")
JSON_LIMIT, JSON_DEPTH = 256 * 1024, 20
LARGEST_ID = 2**31 - 1
TMPFS_LIMIT = 16 * 1024**3
RESERVED_ENV = {
    "PATH", "HOME", "LD_PRELOAD", "LD_LIBRARY_PATH", "NODE_OPTIONS", "DOCKER_HOST", "ANTHROPIC_BASE_URL",
    "IFS", "ENV", "BASH_ENV", "SHELLOPTS", "CLAUDE_CONFIG_DIR",
}  # fmt: skip
RESERVED_TARGETS = (
    "/", "/proc", "/sys", "/dev", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/tmp", "/run",
    "/home", "/home/agent", "/workspace", "/agent-home",
)  # fmt: skip
MAY_HOLD_MOUNTS = {"/workspace", "/home", "/home/agent"}
# Whatever the allowed roots: the kernel's own files, and the engine's socket.
NEVER_MOUNTED = ("/proc", "/sys", "/dev", "/run")


def agent_name(value: str) -> None:
    """A name that is safe in a path, a label, a URL and a log line."""
    if not value.strip():
        raise ValidationError("Name is required.")
    if not NAME.fullmatch(value):
        length = f" This one has {len(value)}." if len(value) > 63 else ""
        raise ValidationError(
            "Name may contain a-z, 0-9, - and _ (1 to 63 characters), starting with a letter." + length
        )


def schedule_name(value: str) -> None:
    """A name that is safe in a path, a label, a URL and a log line, as people wrote them in their files."""
    if not value.strip():
        raise ValidationError("Name is required.")
    if not SCHEDULE_NAME.fullmatch(value):
        length = f" This one has {len(value)}." if len(value) > 63 else ""
        raise ValidationError(
            "Name may contain a-z, A-Z, 0-9, - and _ (1 to 63 characters), starting with a letter or digit."
            + length
        )


def cron(value: str) -> None:
    """Five fields, or one of the shortcuts, that come true some day."""
    parse_cron(value)


def time_zone(value: str) -> None:
    """A name of the zone database."""
    parse_zone(value)


def blackouts(value: list[str]) -> None:
    """Windows in which nothing starts."""
    at_most(WINDOWS_LIMIT, value, "windows")
    for window in value:
        parse_blackout(window)


def failure_classes(value: list[str]) -> None:
    """Failures after which a run may be tried again."""
    refuse_others(value, RETRIED)


def prompt(value: str) -> None:
    """A text of at most a megabyte that can travel and be stored."""
    size = len(value.encode("utf-8", "replace"))
    if size > PROMPT_LIMIT:
        raise ValidationError(f"Prompt is {max(size / PROMPT_LIMIT, 1.01):.3g} MB; the limit is 1 MB.")
    storable(value)


def storable(value: str) -> None:
    """No NUL, which PostgreSQL refuses, and no half characters, which no encoding can carry."""
    if "\x00" in value:
        raise ValidationError(f"Contains a NUL character at position {value.index(chr(0)) + 1}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValidationError(f"Not valid UTF-8 at position {error.start + 1}.") from error


def model(value: str) -> None:
    """A model's name or alias."""
    if not MODEL.fullmatch(value):
        raise ValidationError(
            "A model's name has up to 128 of A-Z, a-z, 0-9 . _ : / @ [ ] - and starts with a letter or digit,"
            " for example sonnet or claude-opus-4-5."
        )


def arguments(value: list[str]) -> None:
    """An argument list that an operating system accepts."""
    at_most(ARGUMENTS_LIMIT, value)
    for item in value:
        storable(item)
        if len(item.encode()) >= ARGUMENT_LIMIT:
            raise ValidationError("One argument may have at most 128 KB. Give longer texts as the prompt.")
    if value and not value[0].strip():
        raise ValidationError("The first item must be the program.")


def tools(value: list[str]) -> None:
    """Names of tools, with a pattern in brackets where wanted."""
    at_most(TOOLS_LIMIT, value)
    for item in value:
        if not TOOL.fullmatch(item):
            raise ValidationError(
                f"{item!r} is not a tool. Write one a line, like Read, Bash(git *) or mcp__x__*."
            )


def setting_sources(value: list[str]) -> None:
    """Where Claude Code may read settings from."""
    refuse_others(value, ("user", "project", "local"))


def refuse_others(value: Iterable[str], allowed: Iterable[str]) -> None:
    """Only these."""
    others = [repr(item) for item in value if item not in allowed]
    if others:
        raise ValidationError(f"{', '.join(others)} is not allowed. Choose from: {', '.join(allowed)}.")


def at_most(limit: int, value: Sized, what: str = "entries") -> None:
    """No more than that."""
    if len(value) > limit:
        raise ValidationError(f"At most {limit} {what}; there are {len(value)}.")


def plain_json(value: object, depth: int = JSON_DEPTH) -> None:
    """JSON that every database takes: no NUL, no half character, no NaN, not endlessly deep."""
    if depth < 0:
        raise ValidationError(f"This JSON is nested deeper than {JSON_DEPTH} levels.")
    if isinstance(value, str):
        storable(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValidationError("JSON has no NaN and no infinite numbers.")
    elif isinstance(value, list | dict):
        for item in value if isinstance(value, list) else [*value, *value.values()]:
            plain_json(item, depth - 1)


def mcp_servers(value: object) -> None:
    """A JSON object: a name, and what starts or reaches the server."""
    plain_json(value)
    if len(json.dumps(value)) > JSON_LIMIT:
        raise ValidationError(f"This JSON is longer than {JSON_LIMIT // 1024} KB.")
    if not isinstance(value, dict) or not all(isinstance(item, dict) for item in value.values()):
        raise ValidationError('A JSON object is expected, like {"name": {"command": "server", "args": []}}.')
    for name, server in value.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise ValidationError(f"The server's name {name!r} may contain A-Z, a-z, 0-9, - and _ only.")
        if not {"command", "url"} & set(server):
            raise ValidationError(f"The server {name} needs a command or a url.")


def host_directory(value: str) -> str:
    """A directory of the host below the allowed roots; what it resolves to, links followed."""
    roots = settings.HERDWEB_MOUNT_ROOTS
    allowed = f"Allowed roots: {', '.join(roots)}." if roots else "No root is allowed (HERDWEB_MOUNT_ROOTS)."
    storable(value)
    if not value.startswith("/") or not value.isprintable():
        raise ValidationError(f"{value!r} is not an absolute path. {allowed}")
    if ":" in value:
        raise ValidationError(f"{value} cannot be used: a path cannot contain ':'.")
    resolved = os.path.realpath(value)
    where = f" (it resolves outside, to {resolved})" if resolved != value else ""
    if not any(PurePosixPath(resolved).is_relative_to(root) for root in roots):
        raise ValidationError(f"{value} is outside the allowed roots{where}. {allowed}")
    if any(overlap(resolved, path) for path in NEVER_MOUNTED):
        raise ValidationError(f"{value} is refused{where}: the system's own directories are never mounted.")
    if any(overlap(resolved, path) for path in (settings.HERDWEB_STATE_DIR, settings.BASE_DIR)):
        raise ValidationError(f"{value} is refused{where}: it holds or is part of herdweb itself.")
    return resolved


def overlap(path: str, other: str | Path) -> bool:
    """Whether one of the two directories holds the other."""
    return PurePosixPath(path).is_relative_to(other) or PurePosixPath(other).is_relative_to(path)


def working_directory(value: str) -> None:
    """A host directory that exists and may be worked in."""
    resolved = host_directory(value)
    if not Path(resolved).is_dir():
        raise ValidationError(f"{value} is not a directory on this host.")


def git_url(value: str) -> None:
    """Where a git repository is: https, or a directory of this host below the allowed roots."""
    storable(value)
    if not value.isprintable() or not value.isascii() or not GIT_URL.fullmatch(value):
        raise ValidationError(
            f"{value!r} is not the address of a git repository. Write https://host/path, or file:///path for"
            " one on this host; other protocols are refused."
        )
    parts = urlsplit(value)
    if "@" in parts.netloc:
        raise ValidationError(
            "The address must not hold a name or a password: it is shown on pages. Put the password into a"
            " variable of the workers, and the variable's name into git_credential."
        )
    if parts.scheme == "file" and not Path(host_directory(parts.path)).is_dir():
        raise ValidationError(f"{parts.path} is not a directory on this host.")


def git_ref(value: str) -> None:
    """A branch's name as git allows it, of characters that need no quoting anywhere."""
    parts = value.split("/")
    bad = any(not part or part.startswith(".") or part.endswith((".", ".lock")) for part in parts)
    if bad or ".." in value or not GIT_REF.fullmatch(value):
        raise ValidationError(
            f"{value!r} is not a branch's name: A-Z, a-z, 0-9 . _ - and / between its parts, which begin with"
            " no dot or dash and do not end with a dot or .lock."
        )


def git_push(value: str) -> None:
    """A branch's name with placeholders, at least one, so that it is nobody's own branch."""
    names = re.findall(r"\{([^{}]*)\}", value)
    if not names or set(names) - set(GIT_PLACEHOLDERS):
        raise ValidationError(
            f"{value!r} needs one of the placeholders {{agent}}, {{session}}, {{run}} and {{date}}, and no"
            " others, like herdweb/{agent}/{run}."
        )
    git_ref(value.format_map(GIT_PLACEHOLDERS) if value.count("{") == len(names) else value)


def git_credential(value: str) -> None:
    """The name of a variable that the workers may give away."""
    allowed = settings.HERDWEB_GIT_ENV
    if value not in allowed:
        raise ValidationError(
            f"{value!r} is not allowed. Give the name of a variable of the workers' environment that"
            f" HERDWEB_GIT_ENV lists: {', '.join(allowed) or 'it lists none'}."
        )


def image(value: str) -> None:
    """An image reference as Docker reads it."""
    if not IMAGE.fullmatch(value) or len(value) > 255:
        raise ValidationError(
            f"{value!r} is not a valid image reference. Write it like herdweb/agent or name:tag."
        )


def user(value: str) -> None:
    """uid:gid, neither of them root's."""
    match = USER.fullmatch(value)
    if not match or not all(0 < int(number) <= LARGEST_ID for number in match.groups()):
        raise ValidationError("Must be a non-root uid:gid in numbers, like 1000:1000.")
    if os.getuid() and int(match[1]) != os.getuid():
        raise ValidationError(
            f"herdweb runs as uid {os.getuid()} and can give files to no other user. Leave this empty."
        )


def tmpfs(value: list[str]) -> None:
    """Memory file systems: /path[:options]."""
    at_most(MOUNTS_LIMIT, value)
    paths = [entry.partition(":")[0] for entry in value]
    for entry, path in zip(value, paths, strict=True):
        if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", path) or ".." in path.split("/"):
            raise ValidationError(
                f"{entry!r} does not begin with an absolute path. Write it like /cache:size=64m."
            )
        if path != "/tmp":
            free_target(path)
        options = entry.partition(":")[2]
        for option in options.split(",") if options else []:
            tmpfs_option(entry, option)
    refuse_doubles(paths)


def tmpfs_option(entry: str, option: str) -> None:
    """One option of a memory file system."""
    match = TMPFS_OPTION.fullmatch(option)
    if not match:
        raise ValidationError(
            f"{option!r} in {entry!r} is not allowed. Allowed are rw, ro, exec, noexec, nosuid, nodev,"
            " size=64m and mode=1777."
        )
    if match[2] and int(match[2]) * {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}[match[3]] > TMPFS_LIMIT:
        raise ValidationError(f"{entry!r} is larger than 16 GB.")


def mounts(value: list[str]) -> None:
    """Host directories in the container: host:container[:ro|rw]."""
    at_most(MOUNTS_LIMIT, value)
    for entry in value:
        parts = entry.split(":")
        if len(parts) not in (2, 3):
            raise ValidationError(
                f"{entry!r} is not of the form /host:/container[:ro]; a path cannot contain ':'."
            )
        if len(parts) == 3 and parts[2] not in ("ro", "rw"):
            raise ValidationError(f"{entry!r}: the mode is ro or rw.")
        host_directory(parts[0])
        free_target(parts[1])
    refuse_doubles([entry.split(":")[1] for entry in value])


def free_target(path: str) -> None:
    """A path inside the container that is not the system's or herdweb's."""
    storable(path)
    plain = posixpath.normpath("/" + path.lstrip("/"))
    parents = [str(parent) for parent in PurePosixPath(plain).parents if str(parent) != "/"]
    if plain in RESERVED_TARGETS or any(p in RESERVED_TARGETS and p not in MAY_HOLD_MOUNTS for p in parents):
        raise ValidationError(f"{path!r} is a reserved path inside the container.")
    if path != plain or "," in path or not path.isprintable():
        raise ValidationError(f"{path!r} is not a plain absolute path inside the container.")


def refuse_doubles(paths: list[str]) -> None:
    """Each path once."""
    doubles = sorted({path for path in paths if paths.count(path) > 1})
    if doubles:
        raise ValidationError(f"{', '.join(doubles)} is used twice.")


def env(value: dict[str, str]) -> None:
    """Environment variables; those that decide what is executed are herdweb's."""
    at_most(VARIABLES_LIMIT, value, "variables")
    reserved = RESERVED_ENV | set(settings.HERDWEB_PASS_ENV)
    for name, text in value.items():
        if not ENV_NAME.fullmatch(name):
            raise ValidationError(
                f"{name!r} is invalid as a variable's name: A-Z, a-z, 0-9 and _, no digit first."
            )
        if name.upper() in reserved or name.upper().startswith("HERDWEB_"):
            raise ValidationError(f"{name} is reserved by herdweb.")
        storable(text)
        if len(text.encode()) > VALUE_LIMIT:
            raise ValidationError(f"The value of {name} is longer than 32 KB.")


def labels(value: dict[str, str]) -> None:
    """Labels of the container; the prefix herdweb. is ours."""
    at_most(LABELS_LIMIT, value, "labels")
    for name, text in value.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}", name):
            raise ValidationError(
                f"{name!r} is not a label's name: A-Z, a-z, 0-9 . _ / -, a letter or digit first."
            )
        if name.startswith("herdweb."):
            raise ValidationError(f"{name}: the prefix herdweb. is reserved.")
        storable(text)
        if len(text.encode()) > VALUE_LIMIT:
            raise ValidationError(f"The value of {name} is longer than 32 KB.")
