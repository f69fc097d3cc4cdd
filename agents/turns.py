"""Whose turn it is in a session, and among the runs of a schedule's moments: one after the other, in order.

What became of the run before decides nothing: somebody wrote the next message, so it is sent.
"""

from django.db.models import Q, QuerySet

from agents.models import Run

# What is run for a schedule's moments, unlike what a person asks for in between.
OF_MOMENTS = (Run.Trigger.SCHEDULE, Run.Trigger.RETRY)


def held(run: Run) -> str:
    """Why a run lets another one of its session or its schedule go first; empty if there is none."""
    return behind_message(run) or behind_moment(run)


def behind_message(run: Run) -> str:
    """An older message of its session."""
    if run.continues_id is None:
        return ""
    older = waiting(run.continues_id).filter(pk__lt=run.pk).only("public_id").first()
    return f"Run {older.short_id} of its session was asked for before it." if older else ""


def behind_moment(run: Run) -> str:
    """An older run of its schedule, or one that is live."""
    if run.schedule_id is None or run.trigger not in OF_MOMENTS:
        return ""
    first = Q(state__in=Run.LIVE) | Q(state__in=Run.PENDING, pk__lt=run.pk)
    others = Run.objects.filter(first, schedule=run.schedule_id).exclude(pk=run.pk).order_by("pk")
    other = others.only("public_id").first()
    return f"Run {other.short_id} of its schedule has not ended." if other else ""


def held_by_moments() -> set[int]:
    """Likewise the numbers of all runs that wait for others of their schedule."""
    rows = Run.objects.filter(state__in=(*Run.PENDING, *Run.LIVE), schedule__isnull=False).order_by("pk")
    found = list(rows.values_list("pk", "schedule_id", "state", "trigger"))
    busy = {schedule for _, schedule, state, _ in found if state in Run.LIVE}
    held = set()
    for pk, schedule, state, trigger in found:
        if state in Run.PENDING and trigger in OF_MOMENTS and schedule in busy:
            held.add(pk)
        busy.add(schedule)
    return held


def busy() -> tuple[set[int], set[int]]:
    """The sessions that live runs work in, and those that they still have to copy."""
    rows = Run.objects.filter(state__in=Run.LIVE)
    working, copied = set(), set()
    for session, continues, forks, started in rows.values_list(
        "session_id", "continues_id", "forks_id", "started_at"
    ):
        working |= {session, continues} - {None}
        copied |= {forks} - {None} if started is None else set()
    return working, copied


def waiting(session: int) -> QuerySet[Run]:
    """The messages of a session that wait for their turn, in its order."""
    return Run.objects.filter(continues=session, state__in=Run.PENDING).order_by("pk")
