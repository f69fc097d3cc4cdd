"""Which conversation a run continues, what is remembered of it, and why it cannot be continued."""

import shlex
from pathlib import Path

from django.core.exceptions import ValidationError
from django.db.models import F
from django.utils import timezone

from agents import machine
from agents.models import Agent, Run, Session, rules
from agents.runtimes import AgentConfig, Beneath, Conversation, Request, RunError, Runtime

TITLE_LENGTH = 120


def why_not(session: Session, agent: Agent, *, fork: bool = False) -> str:
    """The reason why this agent cannot continue (or fork) this session now; empty if it can."""
    config = AgentConfig.from_json(agent.freeze())
    runtime = machine.runtime(config)
    if session.agent_id != agent.pk:
        return "The session belongs to another agent."
    if session.runtime != config.runtime:
        return f"The session was made by the runtime {session.runtime}, the agent uses {config.runtime}."
    if not (runtime.supports_fork if fork else runtime.supports_resume):
        return f"The runtime {config.runtime} cannot {'fork' if fork else 'continue'} sessions."
    return missing_parts(session, config, runtime)


def missing_parts(session: Session, config: AgentConfig, runtime: Runtime) -> str:
    """What the state directory lacks for a continuation; empty if nothing."""
    request = request_for(session, config)
    working_directory = runtime.inside(request.paths).workspace
    if session.working_directory != working_directory:
        return f"The session worked in {session.working_directory}, the agent would in {working_directory}."
    home = beneath(request)
    lost = [path for path in runtime.transcripts(request) if not home.exists(path)]
    return f"Its transcript is missing: {', '.join(lost)}." if lost else ""


def workspace_of(config: AgentConfig) -> Path:
    """The host's directory that an agent works in."""
    return Path(config.working_directory or machine.state().workspace(config.name))


def request_for(session: Session, config: AgentConfig, run: Run | None = None) -> Request:
    """The request of a run in a session, with the host's paths; without a run, to look around."""
    state = machine.state()
    workspace = str(workspace_of(config))
    run_id = str(run.public_id) if run else "none"
    return Request(
        run=run_id,
        agent=config,
        prompt=run.prompt if run else "",
        conversation=conversation(session, run),
        paths=state.paths(run_id, session.home, workspace),
        secrets=machine.credentials(run_id) if run else {},
        attempt=run.attempt if run else 1,
        adopt=bool(run and (run.started_at or run.state == Run.State.CANCELLING)),
    )


def conversation(session: Session, run: Run | None) -> Conversation:
    """The runtime's view of a session in a run."""
    forked = str(run.forks.public_id) if run and run.forks else ""
    return Conversation(str(session.public_id), resume=bool(run and run.continues_id), forked_from=forked)


def settle(run: Run, config: AgentConfig, runtime: Runtime) -> tuple[Session, Request]:
    """The session of a claimed run, made if need be, with its directories ready.

    Raises RunError when the session that it should continue cannot be.
    """
    fresh = run.session is None
    session = run.session or open_session(run, config, runtime)
    request = request_for(session, config, run)
    if request.adopt:
        return session, request
    check_again(config)
    machine.state().make(request.paths, owner(request))
    if fresh:
        inherit(run, request, runtime)
    beneath(request).write(runtime.home_files(request))
    return session, request


def check_again(config: AgentConfig) -> None:
    """Judge the host's directories once more: a link may lead elsewhere since they were typed."""
    check_mounts(config)
    check_working_directory(config)


def check_mounts(config: AgentConfig) -> None:
    """Raises RunError when one of them may not be mounted."""
    try:
        rules.mounts(list(config.docker.mounts if config.docker.enabled else ()))
    except ValidationError as error:
        raise RunError(" ".join(error.messages)) from error


def check_working_directory(config: AgentConfig) -> None:
    """Raises RunError when it is not there or may not be worked in."""
    try:
        if config.working_directory:
            rules.working_directory(config.working_directory)
    except ValidationError as error:
        raise RunError(" ".join(error.messages)) from error


def open_session(run: Run, config: AgentConfig, runtime: Runtime) -> Session:
    """The session to continue, or a new one."""
    source = run.continues or run.forks
    reason = why_not(source, run.agent, fork=run.forks is not None) if source else ""
    if reason:
        raise RunError(f"Session {source} cannot be {'forked' if run.forks else 'continued'}: {reason}")
    session = run.continues or new_session(run, config, runtime)
    Run.objects.filter(pk=run.pk).update(session=session)
    run.session = session
    return session


def new_session(run: Run, config: AgentConfig, runtime: Runtime) -> Session:
    """A row with an id of our own, minted before anything starts."""
    session = Session(
        agent=run.agent,
        runtime=config.runtime,
        title=run.prompt.strip().partition("\n")[0][:TITLE_LENGTH],
        forked_from=run.forks,
    )
    session.home = machine.state().home(config.name, str(session.public_id))
    session.working_directory = runtime.inside(request_for(session, config).paths).workspace
    session.save()
    return session


def by_hand(run: Run) -> str:
    """The command that goes on with a run's conversation in a terminal of this machine; empty if none."""
    if run.session is None:
        return ""
    config = run.agent_config
    return shlex.join(machine.runtime(config).by_hand(request_for(run.session, config)))


def inherit(run: Run, request: Request, runtime: Runtime) -> None:
    """Copy the transcript of a forked session into the new one's own home."""
    if run.forks is None:
        return
    source = beneath(request_for(run.forks, request.agent))
    beneath(request).write({path: source.read(path) for path in runtime.transcripts(request)})


def beneath(request: Request) -> Beneath:
    """The home of a request, entered without following links."""
    return Beneath(Path(request.paths.home), owner(request))


def owner(request: Request) -> str:
    """Whose files an agent's are: the container's user, or ours without a container."""
    return owner_of(request.agent)


def owner_of(config: AgentConfig) -> str:
    """Likewise, as uid:gid."""
    if config.docker.enabled:
        return config.docker.user or machine.host().user
    return machine.own_user()


def remember(run: Run) -> None:
    """Add a finished run to its session's totals."""
    if run.session_id is None:
        return
    Session.objects.filter(pk=run.session_id).update(
        last_used=timezone.now(),
        turns=F("turns") + (run.turns or 0),
        cost_usd=F("cost_usd") + (run.cost_usd or 0),
        input_tokens=F("input_tokens") + (run.input_tokens or 0),
        output_tokens=F("output_tokens") + (run.output_tokens or 0),
    )
