"""What a container may use, uses and came to, in words."""

import re
import signal
from collections.abc import Callable, Mapping
from typing import Any

from django import template

from agents.models import Container
from agents.runtimes import human_size
from agents.runtimes.base import NOT_EXECUTABLE, NOT_FOUND
from agents.templatetags.wording import listing, words

register = template.Library()

SIZE = re.compile(r"\bsize=(\w+)")

ANY_ERROR = "Ended by itself, with an error. What the number means is up to the program."
CODES = {
    0: "Ended by itself, without an error.",
    NOT_EXECUTABLE: "A program in it cannot be executed.",
    NOT_FOUND: "A program in it was not found.",
}
SIGNALS: dict[int, str] = {
    signal.SIGTERM: "It was asked to end, and did.",
    signal.SIGKILL: "It was killed: it had no chance to tidy up.",
    signal.SIGSEGV: "A program in it crashed.",
}


@register.filter
def percent(value: float | None) -> str:
    """38 %, 1.4 %; nothing if it is not known."""
    if value is None:
        return ""
    return f"{value:.1f} %" if value < 10 else f"{value:.0f} %"


@register.filter
def cores(value: float) -> str:
    """1 core, 2.5 cores."""
    return f"{value:g} core{'' if value == 1 else 's'}"


@register.filter
def ending(container: Container) -> str:
    """What its exit code, signal and the kernel say of its end."""
    code = container.exit_code
    if code is None:
        return "Its exit code is not known."
    if container.oom:
        limit = f" of {human_size(container.memory_limit)}" if container.memory_limit else ""
        return f"A process in it went beyond the memory limit{limit}, and the kernel ended that process."
    if container.signal:
        return SIGNALS.get(container.signal, "A signal ended it.")
    return CODES.get(code, ANY_ERROR)


@register.filter
def signal_name(number: int) -> str:
    """SIGKILL; the number where it has no name."""
    return next((each.name for each in signal.Signals if each == number), str(number))


@register.filter
def in_words(limits: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The limits that the engine applied, each with what it means; those without a value left out."""
    told = [(name, value) for name, value in limits.items() if value not in (None, "", [], {})]
    return [said(name, value, limits) for name, value in told]


def said(name: str, value: Any, limits: Mapping[str, Any]) -> tuple[str, str]:
    """One limit; what we have no words for, as the engine calls it."""
    return SAID[name](value, limits) if name in SAID else (words(name), listing(value))


Said = Callable[[Any, Mapping[str, Any]], tuple[str, str]]


def memory(value: Any, _: Mapping[str, Any]) -> tuple[str, str]:
    """A container's memory."""
    return "Memory", f"{human_size(value)}; what goes beyond is ended by the kernel" if value else "no limit"


def swap(value: Any, limits: Mapping[str, Any]) -> tuple[str, str]:
    """The engine counts memory and swap together."""
    more = int(value) - int(limits.get("memory") or 0)
    if value == -1:
        return "Swap", "no limit"
    return "Swap", f"{human_size(more)} more" if more > 0 else "none"


def user(value: Any, _: Mapping[str, Any]) -> tuple[str, str]:
    """As number:number."""
    uid, gid = str(value).partition(":")[::2]
    who = "root" if uid == "0" else f"user {uid}"
    return "Runs as", f"{who}, group {gid}" if gid else who


def network(value: Any, _: Mapping[str, Any]) -> tuple[str, str]:
    """By name; two of them mean something everywhere."""
    meanings = {
        "none": "none: it reaches nothing, and nothing reaches it",
        "bridge": "bridge: it may reach out; no port of it is published",
        "host": "host: it shares the network of this machine",
    }
    return "Network", meanings.get(str(value), str(value))


def read_only(value: Any, _: Mapping[str, Any]) -> tuple[str, str]:
    """The image's own files."""
    return "Files of the image", "cannot be changed" if value else "can be changed; changes go with it"


def capabilities(value: Any, _: Mapping[str, Any]) -> tuple[str, str]:
    """What of root's powers was taken away."""
    return "Powers of root", "none at all" if value == ["ALL"] else f"all but {listing(value)}"


def security(value: Any, _: Mapping[str, Any]) -> tuple[str, str]:
    """The one option that we set is worth a sentence."""
    if value == ["no-new-privileges"]:
        return "Privileges", "no process in it can gain any"
    return "Security options", listing(value)


def ulimits(value: Any, _: Mapping[str, Any]) -> tuple[str, str]:
    """Those of every process."""
    meanings = {"nofile": "{} open files", "core": "core dumps up to {} bytes", "nproc": "{} processes"}
    told = [meanings.get(name, name + " {}").format(limit) for name, limit in value.items()]
    return "Each process", ", ".join(told).replace("core dumps up to 0 bytes", "no core dumps")


def in_memory(value: Any, _: Mapping[str, Any]) -> tuple[str, str]:
    """File systems that are part of the memory, with the size of each."""
    sizes = {path: SIZE.search(options) for path, options in value.items()}
    told = [f"{path} ({in_units(size[1])})" if size else path for path, size in sizes.items()]
    return "Files in memory", ", ".join(told)


def in_units(size: str) -> str:
    """Bytes as people write them; a size with a unit as it is."""
    return human_size(int(size)) if size.isdigit() else size


SAID: dict[str, Said] = {
    "memory": memory,
    "memory_swap": swap,
    "cpus": lambda value, _: ("CPU", f"the time of {cores(value)}"),
    "pids": lambda value, _: ("Processes", f"{value} at most, threads counted"),
    "user": user,
    "network": network,
    "read_only": read_only,
    "cap_drop": capabilities,
    "security_opt": security,
    "init": lambda value, _: ("First process", "tidies up after the others" if value else "the agent itself"),
    "tmpfs": in_memory,
    "ulimits": ulimits,
}
