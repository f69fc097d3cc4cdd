"""The rows, their states, and the moves between states."""

from agents.models.agent import Agent, DockerSettings
from agents.models.archive import Archive
from agents.models.container import Container
from agents.models.people import Audit, SavedList
from agents.models.run import Event, LeaseLost, Run
from agents.models.session import Session

__all__ = [
    "Agent",
    "Archive",
    "Audit",
    "Container",
    "DockerSettings",
    "Event",
    "LeaseLost",
    "Run",
    "SavedList",
    "Session",
]
