"""How an agent is executed: plain Python, no Django. This is all that others need of it."""

from agents.runtimes import homes
from agents.runtimes.base import Runtime, human_size
from agents.runtimes.engine import EngineReport, Host, engine_report
from agents.runtimes.factory import CHOICES, RUNTIMES, bare, create, create_probe
from agents.runtimes.keeping import Place, places
from agents.runtimes.layout import Beneath, StateDir
from agents.runtimes.probe import Sight, look
from agents.runtimes.refusals import Refusal, read_refusal
from agents.runtimes.remains import Leftover, discard, disk_sizes, leftovers, put_to_rest
from agents.runtimes.streamjson import kept_its_limit
from agents.runtimes.types import (
    ENGINE_LEFT,
    AgentConfig,
    ContainerFacts,
    Conversation,
    DockerConfig,
    EngineAway,
    Exit,
    NotRemoved,
    Offsets,
    Outcome,
    Parsed,
    Paths,
    Report,
    Request,
    Result,
    RunError,
    Status,
    Usage,
)

__all__ = [
    "CHOICES",
    "ENGINE_LEFT",
    "RUNTIMES",
    "AgentConfig",
    "Beneath",
    "ContainerFacts",
    "Conversation",
    "DockerConfig",
    "EngineAway",
    "EngineReport",
    "Exit",
    "Host",
    "Leftover",
    "NotRemoved",
    "Offsets",
    "Outcome",
    "Parsed",
    "Paths",
    "Place",
    "Refusal",
    "Report",
    "Request",
    "Result",
    "RunError",
    "Runtime",
    "Sight",
    "StateDir",
    "Status",
    "Usage",
    "bare",
    "create",
    "create_probe",
    "discard",
    "disk_sizes",
    "engine_report",
    "homes",
    "human_size",
    "kept_its_limit",
    "leftovers",
    "look",
    "places",
    "put_to_rest",
    "read_refusal",
]
