"""The rows, their states, and the moves between states."""

from agents.models.agent import Agent, DockerSettings
from agents.models.archive import Archive
from agents.models.container import Container
from agents.models.fleet import Fleet
from agents.models.people import Audit, SavedList
from agents.models.run import Event, LeaseLost, Run
from agents.models.schedule import Beat, Fire, Schedule
from agents.models.session import Session
from agents.models.site import Drain, Site

__all__ = [
    "Agent",
    "Archive",
    "Audit",
    "Beat",
    "Container",
    "DockerSettings",
    "Drain",
    "Event",
    "Fire",
    "Fleet",
    "LeaseLost",
    "Run",
    "SavedList",
    "Schedule",
    "Session",
    "Site",
]
