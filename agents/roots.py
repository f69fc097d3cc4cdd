"""The directories that agents work in, judged anew each time that herdweb itself is to enter one."""

import os
from pathlib import Path

from django.core.exceptions import ValidationError

from agents import machine
from agents.models import rules
from agents.runtimes import RunError
from agents.runtimes.files import Tree


def workspace(path: Path) -> Tree:
    """A workspace that may be entered; it need not exist. Raises RunError when nobody may look there.

    The one below the state directory has a name that no agent can replace by a link; one elsewhere
    lies where agents may write, so that what it leads to counts, and not what is written.
    """
    state = machine.state().path
    if not path.is_relative_to(state):
        return Tree(elsewhere(path))
    resolved = Path(os.path.realpath(path.parent)) / path.name
    if not resolved.is_relative_to(os.path.realpath(state)):
        raise RunError("The workspace has been moved out of the state directory.")
    return Tree(resolved)


def elsewhere(path: Path) -> Path:
    """A host directory without links, if it is still one that agents may work in."""
    try:
        return Path(rules.host_directory(str(path)))
    except ValidationError as error:
        raise RunError(" ".join(error.messages)) from error
