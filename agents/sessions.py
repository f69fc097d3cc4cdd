"""Which conversation a run continues, what is remembered of it, and why it cannot be continued."""

import shlex
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import F
from django.utils import timezone

from agents import archive, machine, workspaces
from agents.models import Agent, Run, Session, rules
from agents.models.fields import write_seconds
from agents.models.rights import RUN
from agents.runtimes import AgentConfig, Beneath, Conversation, Paths, Request, RunError, Runtime, homes

TITLE_LENGTH = 120
# Below the directory of what is about to be deleted: what agents have left in their homes.
LEFT = "left"
NOT_READ_ONLY = (
    "An agent home that is read only (shared_home ro) needs a container: nothing else would keep the agent"
    " from writing there. Switch Docker on, or choose rw or none."
)


@dataclass(frozen=True)
class Verdict:
    """Whether a session can go on, judged now and again when a run in it starts.

    `continuing` and `forking` say why it cannot be continued or forked, and are empty if it can.
    `waits` says what a run in it would wait for first, which is no refusal.
    """

    continuing: str
    forking: str
    waits: str

    @property
    def may_continue(self) -> bool:
        """Whether a run may continue it."""
        return not self.continuing

    @property
    def may_fork(self) -> bool:
        """Whether a run may go on in a copy of it."""
        return not self.forking

    def __str__(self) -> str:
        if self.continuing and self.forking:
            return f"no. {self.continuing}"
        if self.continuing:
            return f"only in a copy. {self.continuing}"
        also = "yes, but not in a copy" if self.forking else "yes, also in a copy"
        return f"{also}. {self.waits}" if self.waits else also


@dataclass(frozen=True)
class Case:
    """A session that somebody wants to go on with, and the configuration that the run would have."""

    session: Session
    agent: Agent
    config: AgentConfig
    fork: bool
    at: datetime

    @property
    def runtime(self) -> Runtime:
        """What would execute it."""
        return machine.runtime(self.config)


def verdict(session: Session, agent: Agent, user: Any = None) -> Verdict:
    """The pre-flight for a run that is to be asked for now; with a user, whether by this one."""
    return verdicts([session], agent, user)[0]


def verdicts(rows: Sequence[Session], agent: Agent, user: Any = None) -> list[Verdict]:
    """Over several sessions, with as many queries as over one."""
    config, now = AgentConfig.from_json(agent.freeze()), timezone.now()
    against, live = barred(agent, user), live_runs(agent.pk)
    return [
        Verdict(
            objection(Case(session, agent, config, False, now)) or against,
            objection(Case(session, agent, config, True, now)) or against,
            next((waits_for(run) for run in live if works_in(run, session)), ""),
        )
        for session in rows
    ]


def waits_for(run: Run) -> str:
    """What is said of a session in which a run is live."""
    return f"Run {run.short_id} is live in it; another waits until that has ended."


def why_not(session: Session, agent: Agent, *, fork: bool = False) -> str:
    """The reason why this agent cannot continue (or fork) this session; empty if it can."""
    config = AgentConfig.from_json(agent.freeze())
    return objection(Case(session, agent, config, fork, timezone.now()))


def objection(case: Case) -> str:
    """The first reason against it; empty if there is none."""
    return next(filter(None, (judge(case) for judge in OBJECTIONS)), "")


def belongs_elsewhere(case: Case) -> str:
    """Another agent's, or made by another runtime."""
    if case.session.agent_id != case.agent.pk:
        return "The session belongs to another agent."
    if case.session.runtime != case.config.runtime:
        made, used = case.session.runtime, case.config.runtime
        return f"The session was made by the runtime {made}, the agent uses {used}."
    return ""


def taken(case: Case) -> str:
    """Its files have gone by the retention of its agent."""
    return case.session.farewell


def not_able(case: Case) -> str:
    """The runtime knows no such thing."""
    if case.runtime.supports_fork if case.fork else case.runtime.supports_resume:
        return ""
    return f"The runtime {case.config.runtime} cannot {'fork' if case.fork else 'continue'} sessions."


def moved(case: Case) -> str:
    """A conversation goes on only where it began."""
    scope, contained = case.config.workspace_scope, case.config.docker.enabled
    if not contained and (scope == "run" or (scope == "session" and case.fork)):
        return "It would work in another directory, and only in a container all are in the same place."
    there = case.runtime.inside(request_for(case.session, case.config).paths).workspace
    if case.session.working_directory == there:
        return ""
    return f"The session worked in {case.session.working_directory}, the agent would in {there}."


def expired(case: Case) -> str:
    """Unused for too long; a copy changes nothing in it and may be made."""
    limit, session = case.config.session_timeout, case.session
    if case.fork or not limit or case.at - session.last_used <= timedelta(seconds=limit):
        return ""
    if occupant(session):
        return ""
    ended = session.last_used + timedelta(seconds=limit)
    return f"The session expired on {ended:%Y-%m-%d %H:%M} UTC, unused for {write_seconds(limit)}."


def spoilt(case: Case) -> str:
    """Its files are not what they have to be, and no live run is still making them."""
    reason = damage(case)
    # What a live run leaves is judged again when the next one starts.
    in_the_making = reason and not case.fork and case.session.runs.filter(state__in=Run.LIVE).exists()
    return "" if in_the_making else reason


def damage(case: Case) -> str:
    """What is wrong with its files now; empty if nothing."""
    request, runtime = request_for(case.session, case.config), case.runtime
    home, paths = beneath(request), runtime.transcripts(request)
    damage = unfit(case.session, home, request, runtime)
    if damage:
        return damage + archive.remedy(case.session, paths)
    return archive.contradiction(case.session, home, paths)


def unfit(session: Session, home: Beneath, request: Request, runtime: Runtime) -> str:
    """What is wrong with them by themselves, whatever they were before."""
    if not home.root.is_dir():
        return f"Its home {session.home} is gone."
    for path in runtime.transcripts(request):
        problem = homes.trouble(home, path) or foreign(home, path, runtime, request)
        if problem:
            return f"Its transcript {problem}: {path}."
    return ""


def foreign(home: Beneath, path: str, runtime: Runtime, request: Request) -> str:
    """Whether a transcript is another conversation's, read no further than need be."""
    for head in homes.heads(home, path):
        said = runtime.foreign(request, head)
        if said is not None:
            return said
    return "holds no conversation"


# Every reason why a session cannot go on; one more is one more function here. The first one counts.
OBJECTIONS: tuple[Callable[[Case], str], ...] = (belongs_elsewhere, taken, not_able, moved, expired, spoilt)


def barred(agent: Agent, user: Any = None) -> str:
    """Why nobody, or not this user, may start the agent."""
    if not agent.enabled:
        return f"The agent {agent} is switched off."
    if user is None or (user.has_perm(RUN) and Agent.objects.visible_to(user).filter(pk=agent.pk).exists()):
        return ""
    return f"{user} may not run the agent {agent}."


def live_runs(agent_pk: int) -> list[Run]:
    """Of an agent, which has as many as its limit allows."""
    rows = Run.objects.filter(agent=agent_pk, state__in=Run.LIVE).order_by("id")
    return list(rows.only("public_id", "session", "continues", "forks", "started_at"))


def works_in(run: Run, session: Session) -> bool:
    """Whether a live run is in a session, is about to be, or still copies it."""
    copies = run.forks_id == session.pk and run.started_at is None
    return copies or session.pk in (run.session_id, run.continues_id)


def occupant(session: Session, besides: Run | None = None) -> Run | None:
    """The live run that works in a session."""
    live = live_runs(session.agent_id)
    return next((run for run in live if run != besides and works_in(run, session)), None)


def in_use(run: Run) -> str:
    """What a run that goes on with a session has to wait for; empty for nothing."""
    source = run.continues or run.forks
    busy = occupant(source, run) if source else None
    which = "Its session" if run.continues else "The session that it copies"
    return f"{which} is in use by run {busy.short_id}." if busy else ""


def workspace_of(config: AgentConfig, session: Session | None = None, run: Run | None = None) -> Path:
    """The host's directory that an agent works in: a run of it, a session of it, or any."""
    return workspaces.of(config, session, run)


def request_for(session: Session, config: AgentConfig, run: Run | None = None) -> Request:
    """The request of a run in a session, with the host's paths; without a run, to look around."""
    run_id = str(run.public_id) if run else "none"
    return Request(
        run=run_id,
        agent=config,
        prompt=run.prompt if run else "",
        conversation=conversation(session, run),
        paths=paths_of(session, config, run),
        secrets=machine.credentials(run_id) if run else {},
        attempt=run.attempt if run else 1,
        adopt=bool(run and begun(run)),
    )


def begun(run: Run) -> bool:
    """Whether its agent has been started before, or is never to be."""
    return bool(run.started_at or run.state == Run.State.CANCELLING)


def paths_of(session: Session, config: AgentConfig, run: Run | None = None) -> Paths:
    """The host's directories of a run in a session."""
    run_id = str(run.public_id) if run else "none"
    paths = machine.state().paths(run_id, session.home, str(workspace_of(config, session, run)))
    return replace(paths, shared=machine.shared(config))


def conversation(session: Session, run: Run | None) -> Conversation:
    """The runtime's view of a session in a run."""
    forked = str(run.forks.public_id) if run and run.forks else ""
    return Conversation(str(session.public_id), resume=bool(run and run.continues_id), forked_from=forked)


def settle(run: Run, config: AgentConfig, runtime: Runtime) -> tuple[Session, Request]:
    """The session of a claimed run, made if need be, with its directories ready.

    Raises RunError when the session that it should continue cannot be.
    """
    if not begun(run):
        check_source(run, config)
        note_cost(run, runtime)
    session = run.session or open_session(run, config, runtime)
    request = request_for(session, config, run)
    if request.adopt:
        return session, request
    check_again(config)
    workspaces.note(run, request.paths.workspace)
    machine.state().make(request.paths, owner(request))
    make_ready(run, request, runtime)
    return session, request


def check_source(run: Run, config: AgentConfig) -> None:
    """The pre-flight once more, for a run that goes on with a session; raises RunError."""
    source = run.continues or run.forks
    if source is None:
        return
    case = Case(source, run.agent, config, run.forks is not None, run.created)
    reason = objection(case) or barred(run.agent, run.requested_by)
    if reason:
        raise RunError(f"Session {source} cannot be {'forked' if run.forks else 'continued'}: {reason}")


def note_cost(run: Run, runtime: Runtime) -> None:
    """Keep what the conversation has cost so far, for a runtime that goes on counting from there."""
    source = run.continues or run.forks
    if source is None or not runtime.sums_cost:
        return
    last = source.runs.exclude(cost_usd=None).order_by("-id").first()
    run.cost_before_usd = last.cost_before_usd + (last.cost_usd or 0) if last else 0
    Run.objects.filter(pk=run.pk).update(cost_before_usd=run.cost_before_usd)


def make_ready(run: Run, request: Request, runtime: Runtime) -> None:
    """Have in the home what is the conversation's and ours, and nothing else that is hidden."""
    home, kept = beneath(request), runtime.kept(request)
    if request.paths.shared:
        homes.furnish(Beneath(Path(request.paths.shared), owner(request)), runtime.shared)
    if kept:
        homes.tidy(home, kept, machine.state().removed() / LEFT)
        forget_left()
    if run.forks:
        source = beneath(request_for(run.forks, request.agent))
        homes.inherit(home, source, runtime.transcripts(request), kept)
    home.write(runtime.home_files(request))
    home.link(runtime.home_links(request))


def forget_left() -> None:
    """Delete what was moved out of homes, however much it is, without keeping a run waiting."""
    folder = machine.state().removed() / LEFT
    if folder.is_dir():
        options = {"ignore_errors": True}
        threading.Thread(target=shutil.rmtree, args=[folder], kwargs=options, daemon=True).start()


def check_again(config: AgentConfig) -> None:
    """Judge the host's directories once more: a link may lead elsewhere since they were typed."""
    check_mounts(config)
    check_working_directory(config)
    check_shared_home(config)
    workspaces.check(config)


def check_shared_home(config: AgentConfig) -> None:
    """Raises RunError when nothing would keep the agent from changing what it may only read."""
    if config.shared_home == "ro" and not config.docker.enabled:
        raise RunError(NOT_READ_ONLY)


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
    session = run.continues or new_session(run, config, runtime)
    Run.objects.filter(pk=run.pk).update(session=session)
    run.session = session
    return session


def new_session(run: Run, config: AgentConfig, runtime: Runtime) -> Session:
    """A row with an id of our own, minted before anything starts."""
    session = Session(
        agent=run.agent,
        runtime=config.runtime,
        title=usual_title(run.prompt),
        forked_from=run.forks,
    )
    session.home = machine.state().home(config.name, str(session.public_id))
    session.working_directory = runtime.inside(paths_of(session, config, run)).workspace
    session.save()
    return session


def usual_title(prompt: str) -> str:
    """What a session is called until it has a better name: the beginning of its first prompt."""
    return prompt.strip().partition("\n")[0][:TITLE_LENGTH]


def by_hand(run: Run) -> str:
    """The command that goes on with a run's conversation in a terminal of this machine; empty if none."""
    if run.session is None:
        return ""
    config = run.agent_config
    request = replace(request_for(run.session, config), paths=paths_of(run.session, config, run))
    return shlex.join(machine.runtime(config).by_hand(request))


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
