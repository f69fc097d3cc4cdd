"""Whose turn it is in a session: one run after the other, in the order in which they were asked for.

What became of the run before decides nothing: somebody wrote the next message, so it is sent.
"""

from django.db.models import Exists, OuterRef, Q, QuerySet

from agents.models import Agent, Run


def held(run: Run) -> str:
    """Why a run lets an older message of its session go first; empty if there is none."""
    if run.continues_id is None:
        return ""
    older = waiting(run.continues_id).filter(pk__lt=run.pk).only("public_id").first()
    return f"Run {older.short_id} of its session was asked for before it." if older else ""


def next_ones(agent: Agent) -> QuerySet[Run]:
    """The waiting runs of an agent that no other run of their session holds up, the oldest first."""
    mine, copied = OuterRef("continues"), OuterRef("forks")
    in_it = Q(session=mine) | Q(continues=mine) | Q(forks=mine, started_at=None)
    live = (in_it | Q(session=copied) | Q(continues=copied)) & Q(state__in=Run.LIVE)
    older = Q(continues=mine, state__in=Run.PENDING, pk__lt=OuterRef("pk"))
    waiting = Run.objects.filter(agent=agent, state=Run.State.WAITING)
    return waiting.exclude(Exists(Run.objects.filter(live | older))).order_by("id")


def waiting(session: int) -> QuerySet[Run]:
    """The messages of a session that wait for their turn, in its order."""
    return Run.objects.filter(continues=session, state__in=Run.PENDING).order_by("pk")
