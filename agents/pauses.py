"""Telling the whole site, or one agent, to start nothing new, and to start again."""

from typing import Any

from agents.models import Agent, Audit, Site

Paused = Site | Agent


def pause(row: Paused, by: Any, why: str = "", address: str | None = None) -> bool:
    """Accepted runs wait from now on, live ones go on; False if it was paused already."""
    if not row.pause(str(by), why):
        return False
    note(row, by, f"Paused. {why}".strip(), address)
    return True


def resume(row: Paused, by: Any, address: str | None = None) -> bool:
    """What waits may start again; False if it was not paused."""
    if not row.resume():
        return False
    note(row, by, "Resumed.", address)
    return True


def note(row: Paused, by: Any, detail: str, address: str | None) -> None:
    """A line in the audit trail."""
    facts: dict[str, Any] = {"detail": detail, "address": address}
    if isinstance(row, Agent):
        facts |= {"agent": row, "path": row.get_absolute_url()}
    Audit.note(by, Audit.Deed.CHANGED, name_of(row), **facts)


def name_of(row: Paused) -> str:
    """What is paused, in words."""
    return f"agent {row}" if isinstance(row, Agent) else "herdweb"
