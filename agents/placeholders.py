"""Names in braces that the prompt of a schedule may contain, and what they are replaced by."""

import re
from datetime import datetime
from zoneinfo import ZoneInfo

from agents.models import Run, Schedule

PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}|\{(\w+)\}")
# How those begin that need the schedule's last run.
LAST = "{last_"
# Of a result that a prompt repeats.
RESULT_AT_MOST = 4000


def filled(text: str, schedule: Schedule, moment: datetime) -> str:
    """Known names in braces replaced, doubled braces taken for one, everything else left alone."""
    there = moment.astimezone(ZoneInfo(schedule.time_zone))
    last = schedule.runs.filter(state__in=Run.TERMINAL).order_by("-id").first() if LAST in text else None
    values = {
        "date": f"{there:%Y-%m-%d}",
        "time": f"{there:%H:%M}",
        "moment": there.isoformat(timespec="seconds"),
        "schedule": schedule.name,
        "agent": schedule.agent.name,
        "last_outcome": str(last.state) if last else "none yet",
        "last_reason": last.reason if last else "none yet",
        "last_result": last.result[:RESULT_AT_MOST] if last else "none yet",
    }

    def value(found: re.Match[str]) -> str:
        literal, name = found[1], found[2]
        if literal in values:
            return f"{{{literal}}}"
        return values.get(name, found[0])

    return PLACEHOLDER.sub(value, text)
