"""Hosts and workers that take no new runs, so that they can be stopped without anybody waiting."""

from collections.abc import Sequence

from django.db.models import Q

from agents.models import Audit, Drain, Run


def drain(name: str, by: str) -> bool:
    """Have the workers of this host, or the worker of this name, take nothing new; False if they do not."""
    _, made = Drain.objects.get_or_create(name=name[:150], defaults={"by": by[:150]})
    if made:
        Audit.note(by, Audit.Deed.CHANGED, f"workers of {name}", detail="Drained: no new runs.")
    return made


def refill(name: str, by: str) -> bool:
    """Have them take runs again; False if they do."""
    ended, _ = Drain.objects.filter(name=name[:150]).delete()
    if ended:
        Audit.note(by, Audit.Deed.CHANGED, f"workers of {name}", detail="Take runs again.")
    return bool(ended)


def is_drained(names: Sequence[str]) -> bool:
    """Whether one of these names, a worker's and its host's, is drained."""
    return Drain.objects.filter(name__in=names).exists()


def live_on(name: str) -> list[Run]:
    """The live runs that a worker of this host, or of this name, works on."""
    theirs = Q(lease_owner__startswith=f"{name[:40]}:") | Q(lease_owner__endswith=f":{name}")
    rows = Run.objects.filter(theirs, state__in=Run.LIVE)
    return list(rows.select_related("agent").order_by("id"))


def hand_over(name: str) -> int:
    """Ask for the live runs there to be given to others; those on the host itself go on. How many."""
    ids = [run.pk for run in live_on(name) if run.agent_config.docker.enabled]
    return Run.objects.filter(pk__in=ids, state__in=Run.LIVE).update(leave=True)
