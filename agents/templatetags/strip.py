"""The strip of an agent's last runs: one bar each, drawn on the server."""

from datetime import timedelta
from functools import lru_cache
from math import log10

from django import template
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from agents.activity import STRIP
from agents.models import Run
from agents.templatetags.wording import duration, words

register = template.Library()

# In pixels: a bar, a bar with the gap beside it, and the whole.
BAR, SLOT, HEIGHT = 6, 9, 28
# Of the bars in the key below.
KEY_HEIGHT = 20
# How much larger it is shown.
SCALE = 1.2
# A bar grows with the logarithm of the seconds, up to an hour.
LOWEST, HIGHEST, LONGEST = 5, 17, 3600
# What tells the states apart without their colours: a mark above the bar.
DOT = "M4.5 1a2 2 0 1 1 0 4a2 2 0 1 1 0 -4"
MARKS = {
    "starting": DOT,
    "running": DOT,
    "cancelling": DOT,
    "failed": "M2 .5l5 5m0 -5l-5 5",
    "timed_out": "M2 .5h5l-5 5h5z",
    "lost": "M2.5 1.5q2 -2.5 4 0t-2 2.7m0 1.2v.6",
    "cancelled": "M2 3.5h5",
    "doubtful": "M4.5 .5l2.5 5h-5z",
}


@register.simple_tag
def strip(runs: list[Run], name: str) -> SafeString:
    """The runs, oldest first; each is a link that says what it is.

    Only the newest is reached by the tabulator, the others from it by the arrow keys.
    """
    width = SLOT * STRIP
    begin = width - SLOT * len(runs)
    bars = "".join(bar(run, begin + SLOT * at, at == len(runs) - 1) for at, run in enumerate(runs))
    return format_html(
        '<svg class="own-strip" width="{4}" height="{5}" viewBox="0 0 {0} {1}" role="group"'
        ' aria-label="The last runs of {2}, the newest on the right">'
        '<path d="M0 {3}h{0}"/>{6}</svg>',
        width, HEIGHT, name, HEIGHT - 0.5, round(width * SCALE), round(HEIGHT * SCALE), SafeString(bars),
    )  # fmt: skip


def bar(run: Run, left: int, newest: bool) -> str:
    """One run: its state by colour and mark, its duration by height.

    A page has hundreds of them, so this is plain text: nothing in it was written by people or agents.
    """
    reach = "" if newest else ' tabindex="-1"'
    return (
        f'<a class="own-bar own-bar-{look(run)}" href="{run_url(run)}"{reach}><title>{said(run)}</title>'
        f'<path class="own-slot" d="M{left} 0h{SLOT}v{HEIGHT}h-{SLOT}"/>{body(run, left)}</a>'
    )


def run_url(run: Run) -> str:
    """The address of a run's page; Django's own way to it takes longer than the whole bar."""
    return f"{runs_url()}{run.public_id}/"


@lru_cache(maxsize=1)
def runs_url() -> str:
    """Where addresses of runs begin."""
    return reverse("agents:runs")


def look(run: Run) -> str:
    """What decides the colour."""
    return "doubtful" if run.suspect else run.state


def body(run: Run, left: int) -> str:
    """The bar, and the sign above it."""
    height = tall(run)
    top = HEIGHT - 1 - height
    sign = MARKS.get(look(run))
    rect = f'<rect x="{left + 1.5}" y="{top}" width="{BAR}" height="{height}" rx="1.5"/>'
    return f'{rect}<path transform="translate({left} {top - 8})" d="{sign}"/>' if sign else rect


def tall(run: Run) -> int:
    """The height of a run's bar, in pixels."""
    took = run.duration.total_seconds() if run.duration else 0
    part = log10(min(max(took, 1), LONGEST)) / log10(LONGEST)
    return LOWEST + round((HIGHEST - LOWEST) * part)


def said(run: Run) -> str:
    """A run in words: its state, how long it took, when it was asked for."""
    state = words(run.state) + (", doubtful" if run.suspect else "")
    took = duration(run.duration) if run.is_terminal else ""
    when = f"{timezone.localtime(run.created):%Y-%m-%d %H:%M %Z}"
    return " · ".join(part for part in (state, took, when) if part)


@register.simple_tag
def strip_key(state: str) -> SafeString:
    """The bar of a state, for the key below the strips."""
    now = timezone.now()
    run = Run(state=state, started_at=now - timedelta(minutes=1), finished_at=now)
    if state == "doubtful":
        run.state, run.suspect = Run.State.SUCCEEDED, True
    return format_html(
        '<svg class="own-strip" width="{0}" height="{1}" viewBox="0 {2} {0} {1}" aria-hidden="true">'
        '<g class="own-bar own-bar-{3}">{4}</g></svg>',
        SLOT, KEY_HEIGHT, HEIGHT - KEY_HEIGHT, state, SafeString(body(run, 0)),
    )  # fmt: skip
