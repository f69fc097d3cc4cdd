"""What kind of failure a run's was, and whether it is tried again."""

from collections.abc import Callable

from agents.models import Run
from agents.runtimes import Outcome, RunError

Submit = Callable[..., Run]


def classify(run: Run, state: str, outcome: Outcome, error: RunError | None) -> str:
    """The class of a failure; empty for a run that did not fail."""
    if state in (Run.State.SUCCEEDED, Run.State.CANCELLED):
        return ""
    return Run.Failure.AGENT


def after(run: Run, submit: Submit) -> Run | None:
    """The next attempt at a run that has just ended; none if it is not to be tried again."""
    return None
