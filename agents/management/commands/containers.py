"""List containers, the newest first, or have a kept one removed."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from agents import kept, reconcile
from agents.asjson import container_json, moment
from agents.management.terminal import as_text, find_agent, one_line, operator, table, whole_number
from agents.models import Audit, Container
from agents.runtimes import RunError, human_size

HEAD = ("NAME", "AGENT", "STATE", "CREATED", "ENDED", "KEPT UNTIL", "ON DISK", "MEASURED")


class Command(BaseCommand):
    """Containers of all agents or of one; the engine is asked for nothing but a removal."""

    help = "List containers, the newest first; --remove removes one that is kept."

    def add_arguments(self, parser: CommandParser) -> None:
        """What to list, or what to remove."""
        parser.add_argument("--agent", metavar="A", help="only containers of this agent")
        parser.add_argument("--kept", action="store_true", help="only those that stay after their run")
        parser.add_argument(
            "--limit", metavar="N", type=whole_number(1, 100_000), default=20, help="default: 20"
        )
        parser.add_argument("--json", action="store_true", help="print a list of objects")
        parser.add_argument("--remove", metavar="NAME", help="remove this kept container")

    def handle(
        self, *, agent: str | None, kept: bool, limit: int, json: bool, remove: str | None, **_: Any
    ) -> None:
        """Print a table, or JSON."""
        found = [removed(remove)] if remove else listed(agent, kept, limit)
        self.stdout.write(
            as_text([container_json(each) for each in found]) if json else table(HEAD, map(row, found))
        )


def listed(agent: str | None, only_kept: bool, limit: int) -> list[Container]:
    """The containers that were asked for."""
    rows = kept.kept() if only_kept else Container.objects.all()
    if agent:
        rows = rows.filter(agent=find_agent(agent))
    return list(rows.select_related("agent", "session")[:limit])


def removed(name: str) -> Container:
    """Remove a kept container; refuses any other."""
    there = Container.objects.select_related("agent", "session").filter(name=name, removed_at=None)
    container = there.first()
    if container is None:
        raise CommandError(one_line(f"There is no container {name!r}. See `manage.py containers --kept`."))
    if kept.in_use(container) or not kept.give_up(container):
        raise CommandError(one_line(f"{name} is not removed: a run is live in it, or it is not kept."))
    what, path = f"container {container.name}", container.get_absolute_url()
    Audit.note(operator(), Audit.Deed.CHANGED, what, path=path, detail="Removed.", agent=container.agent)
    try:
        reconcile.sweep()
    except RunError as error:
        raise CommandError(one_line(f"{error} The ticker removes it when the engine is back.")) from error
    container.refresh_from_db()
    return container


def row(container: Container) -> tuple[object, ...]:
    """A container's line of the table."""
    return (
        container.name,
        container.agent.name,
        container.state,
        moment(container.created),
        moment(container.finished_at) or "-",
        moment(container.kept_until) or "-",
        human_size(container.disk_bytes) if container.disk_bytes is not None else "-",
        moment(container.disk_at) or "-",
    )
