"""Name → runtime, wrapped in a container when the agent wants one."""

from collections.abc import Mapping
from pathlib import Path

from agents.runtimes.base import Runtime
from agents.runtimes.claude_cli import ClaudeCLI
from agents.runtimes.command import ProgramRuntime
from agents.runtimes.container import ContainerRunner
from agents.runtimes.echo import EchoRuntime
from agents.runtimes.engine import Host
from agents.runtimes.probe import Probe
from agents.runtimes.types import AgentConfig, RunError

RUNTIMES: Mapping[str, type[Runtime]] = {
    runtime.name: runtime for runtime in (ClaudeCLI, ProgramRuntime, EchoRuntime)
}
CHOICES = [(name, runtime.label) for name, runtime in RUNTIMES.items()]


def create(agent: AgentConfig, state_dir: Path, host: Host) -> Runtime:
    """The agent's runtime, ready for one run; `state_dir` is the directory that holds its files.

    Raises RunError for a name that no runtime has.
    """
    return placed(bare(agent.runtime), agent, state_dir, host)


def create_probe(agent: AgentConfig, state_dir: Path, host: Host) -> Runtime:
    """The same, but it only looks for the agent's program, where and with what the agent would run."""
    return placed(Probe(bare(agent.runtime)), agent, state_dir, host)


def placed(runtime: Runtime, agent: AgentConfig, state_dir: Path, host: Host) -> Runtime:
    """On the host, or in a container."""
    return ContainerRunner(runtime, state_dir, host) if agent.docker.enabled else runtime


def bare(name: str) -> Runtime:
    """The runtime of this name, on the host."""
    try:
        return RUNTIMES[name]()
    except KeyError:
        known = ", ".join(sorted(RUNTIMES))
        raise RunError(f"There is no runtime named {name!r}. Known are: {known}.") from None
