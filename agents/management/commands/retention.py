"""Show what is beyond the limits of agents, and remove it if told to."""

import sys
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from agents import retention
from agents.asjson import moment
from agents.management.terminal import as_text, find_agent, one_line, operator, table
from agents.models import Agent
from agents.retention import Leaving, Limits, Plan, Removed
from agents.runtimes import human_size

HEAD = ("AGENT", "KEEPS", "RUNS GO", "SESSIONS GO", "BYTES")
# In seconds: what the ticker has not measured yet is measured for so long.
PATIENCE = 30


Found = tuple[Agent, Plan, Removed | None]


class Command(BaseCommand):
    """Only looks unless told to remove; the ticker removes the same by and by."""

    help = "Show whose files are beyond the limits of an agent, or of all agents."

    def add_arguments(self, parser: CommandParser) -> None:
        """[AGENT] [--apply]."""
        parser.add_argument("agent", metavar="AGENT", nargs="?", help="default: all agents")
        parser.add_argument("--apply", action="store_true", help="remove these files now, for good")
        parser.add_argument("--json", action="store_true", help="print a list of objects, one an agent")

    def handle(self, *, agent: str | None, apply: bool, json: bool, **_: Any) -> None:
        """Print what would go, or what has gone."""
        retention.measure(time.monotonic() + PATIENCE)
        agents = [find_agent(agent)] if agent else list(Agent.objects.all())
        found = [(each, plan := retention.plan(each), self.removed(each, plan, apply)) for each in agents]
        if json:
            self.stdout.write(as_text([shown(*each) for each in found]))
        else:
            self.tell(found, whole=agent is not None)
        complaints = [complaint for _, _, done in found if done for complaint in done.left]
        for complaint in complaints:
            self.stderr.write(one_line(complaint))
        if complaints:
            sys.exit(1)

    def removed(self, agent: Agent, plan: Plan, apply: bool) -> Removed | None:
        """What has gone; None when nothing was to."""
        return retention.carry_out(agent, plan, operator()) if apply else None

    def tell(self, found: list[Found], *, whole: bool) -> None:
        """A line an agent; of one that was named also what goes, and why."""
        self.stdout.write(table(HEAD, [row(agent, plan) for agent, plan, _ in found]))
        for _, plan, _ in found if whole else ():
            for each in (*plan.runs, *plan.sessions):
                size = human_size(each.size)
                self.stdout.write(one_line(f"{each.kind} {each.public_id}  {size}  {each.why}"))
        for agent, _, done in found:
            if done is not None:
                self.stdout.write(f"Removed files of {agent.name}: {done}.")


def row(agent: Agent, plan: Plan) -> tuple[object, ...]:
    """An agent's line of the table."""
    return agent.name, Limits.of(agent), len(plan.runs), len(plan.sessions), human_size(plan.size)


def shown(agent: Agent, plan: Plan, done: Removed | None) -> dict[str, Any]:
    """An agent's limits, what is beyond them, and what was removed of it, or null."""
    limits, (size, runs) = Limits.of(agent), retention.keeps(agent)
    gone = done and {"runs": done.runs, "sessions": done.sessions, "bytes": done.size, "left": done.left}
    return {
        "agent": agent.name,
        "keep_days": limits.days,
        "keep_runs": limits.runs,
        "keep_bytes": limits.size,
        "kept": {"runs": runs, "bytes": size},
        "runs": [leaving(each) for each in plan.runs],
        "sessions": [leaving(each) for each in plan.sessions],
        "bytes": plan.size,
        "removed": gone,
    }


def leaving(each: Leaving) -> dict[str, Any]:
    """A run or a session whose files go; `at` is its end, or when it was last used."""
    return {"id": str(each.public_id), "why": each.why, "bytes": each.size, "at": moment(each.at)}
