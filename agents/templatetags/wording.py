"""How states, sizes, durations, money and foreign text are written: once, for every page."""

from datetime import datetime, timedelta

from django import template
from django.utils import timezone

from agents import transcript
from agents.models import Event, Run
from agents.models.fields import write_seconds
from agents.models.run import TEXT_LIMIT
from agents.prose import markdown, plain, pretty
from agents.runtimes import human_size

register = template.Library()
register.filter(plain)
register.filter(pretty)
register.filter(markdown)

COLOURS = {
    Run.State.QUEUED: "secondary",
    Run.State.WAITING: "yellow",
    Run.State.STARTING: "azure",
    Run.State.RUNNING: "blue",
    Run.State.CANCELLING: "orange",
    Run.State.SUCCEEDED: "green",
    Run.State.FAILED: "red",
    Run.State.CANCELLED: "secondary",
    Run.State.TIMED_OUT: "orange",
    Run.State.LOST: "purple",
}


@register.filter
def colour(state: str) -> str:
    """The colour of a run's state."""
    return COLOURS.get(Run.State(state), "secondary")


ICONS = {
    Run.State.QUEUED: "waiting",
    Run.State.WAITING: "waiting",
    Run.State.SUCCEEDED: "succeeded",
    Run.State.FAILED: "failed",
    Run.State.CANCELLED: "cancelled",
    Run.State.TIMED_OUT: "failed",
    Run.State.LOST: "failed",
}


@register.filter
def icon(run: Run) -> str:
    """The file of the icon that a browser's tab shows for a run; its shape says it without colours."""
    name = "doubtful" if run.suspect else ICONS.get(Run.State(run.state), "live")
    return f"agents/run-{name}.svg"


@register.filter
def alarm(state: str) -> str:
    """The colour of the box in which a state's reason stands."""
    if state in (Run.State.FAILED, Run.State.TIMED_OUT, Run.State.LOST):
        return "danger"
    return "secondary" if state == Run.State.CANCELLED else "warning"


@register.filter
def words(name: str) -> str:
    """A stored name as words."""
    return name.replace("_", " ")


@register.filter
def duration(value: timedelta | None) -> str:
    """0.42 s, 12 s, 3 min 05 s, 1 h 02 min."""
    if value is None:
        return ""
    seconds = value.total_seconds()
    if seconds < 10:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


@register.filter
def seconds(value: int) -> str:
    """A limit as it is typed: 30s, 10m, 2h."""
    return write_seconds(value)


@register.filter
def clock(moment: datetime) -> str:
    """The time of day on the server; a script writes it in the reader's own zone."""
    return timezone.localtime(moment).strftime("%H:%M:%S")


@register.filter
def number(value: int) -> str:
    """Plain digits, for addresses."""
    return str(value)


@register.filter
def size(value: int | None) -> str:
    """Bytes as people write them."""
    return "" if value is None else human_size(value)


@register.filter
def money(value: float | None) -> str:
    """Dollars; small amounts with the digits that matter."""
    if value is None:
        return ""
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.4f}"


@register.filter
def failed(event: Event) -> bool:
    """Whether the result of a tool is an error."""
    return bool(transcript.block(event).get("is_error"))


@register.filter
def left_out(event: Event) -> bool:
    """Whether the row of an event holds less than the line it came from."""
    return event.is_cut or (event.length or 0) > TEXT_LIMIT


@register.filter
def listing(value: object) -> str:
    """A limit of whatever type, in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {item}" for name, item in value.items())
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
