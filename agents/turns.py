"""Whose turn it is in a session: one run after the other, in the order in which they were asked for.

What became of the run before decides nothing: somebody wrote the next message, so it is sent.
"""

from django.db.models import QuerySet

from agents.models import Run


def held(run: Run) -> str:
    """Why a run lets an older message of its session go first; empty if there is none."""
    if run.continues_id is None:
        return ""
    older = waiting(run.continues_id).filter(pk__lt=run.pk).only("public_id").first()
    return f"Run {older.short_id} of its session was asked for before it." if older else ""


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
