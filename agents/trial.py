"""Tests an agent's stored configuration: what its next run would fail over, said before it does.

Takes place on the workers' side, because there the engine and the credentials are. Nothing stays: a
container that the engine kept to itself is removed by `jobs.sweep`, files by the next test.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from uuid import uuid4

from redis.exceptions import RedisError

from agents import bells, doctor, jobs, machine, sessions, workspaces
from agents.doctor import Finding, Status
from agents.models import Agent
from agents.runtimes import AgentConfig, Conversation, Paths, Request, RunError, Sight, bare, look
from agents.runtimes.base import exit_failure

# In seconds: how long the engine may take to say what it has, and the program to tell its version.
ENGINE_PATIENCE, LOOK_LIMIT = 6.0, 15.0
# In seconds, on top: to make the container, to end it and to remove it.
SLACK = 10.0
# In seconds: no test takes so long, so what is older was left by one that died.
FORGOTTEN = 300
DRY_RUN = "dry run"
T = TypeVar("T")
RESTART_ENGINE = "Look at the engine's log (journalctl -u docker) and restart it."
NOT_TRIED = "Not tried"
NO_CREDENTIALS = Finding("credentials", "ok", "This runtime needs none.")
NOBODY = f"No worker took the test within {jobs.TRIAL_LIMIT} s, or the agent was changed meanwhile."


@dataclass(frozen=True)
class Progress:
    """How far a test has come: `state` is waiting, done or failed; `remedy` belongs to `message`."""

    state: str
    message: str = ""
    remedy: str = ""
    findings: tuple[dict[str, str], ...] = ()


def execute(agent_id: str) -> list[dict[str, str]]:
    """RQ's job: test the agent of this id as it is stored; plain JSON without a value of a secret."""
    agent = Agent.objects.select_related("docker").get(pk=int(agent_id))
    findings = examine(agent, credentials=lambda: doctor.examine_credentials("the worker that tested it", ""))
    return [asdict(finding) for finding in findings]


def examine(
    agent: Agent, credentials: Callable[[], Finding] = doctor.examine_credentials
) -> Iterator[Finding]:
    """Look at everything that a run of this agent needs; findings carry the names of its fields.

    Takes little more than half a minute at the most, whatever hangs. A worker says of the
    `credentials` what no other process knows.
    """
    config = AgentConfig.from_json(agent.freeze())
    if not agent.enabled:
        yield Finding("enabled", "warn", "The agent is switched off: nothing starts it.", "Switch it on.")
    places = [examine_working_directory(config), *examine_repository(config), *examine_mounts(config)]
    yield from places
    yield credentials() if bare(config.runtime).needs_credentials else NO_CREDENTIALS
    image = examine_image(config)
    if image:
        yield image
    blocked = [finding.name for finding in (*places, image) if finding and finding.status == "fail"]
    yield from not_tried(config, blocked) if blocked else dry_run(config)


def examine_working_directory(config: AgentConfig) -> Finding:
    """Whether it is there, and allowed."""
    name = "working_directory"
    if not config.working_directory:
        return Finding(name, "ok", "A workspace of its own, made at its first run.")
    try:
        sessions.check_working_directory(config)
    except RunError as error:
        return Finding(name, "fail", str(error), "Create it, choose another, or leave the field empty.")
    return Finding(name, "ok", f"{config.working_directory} is there and allowed.")


def examine_repository(config: AgentConfig) -> Iterator[Finding]:
    """Whether a run may use it from here; only a run shows whether it can be fetched."""
    if not config.git_url:
        return
    try:
        workspaces.check(config)
    except RunError as error:
        yield Finding("git_url", "fail", str(error), "Change git_url, git_credential or docker.enabled.")
    else:
        named = f", and {config.git_credential} is set here" if config.git_credential else ""
        yield Finding("git_url", "ok", f"{config.git_url} is allowed{named}. A run fetches it.")


def examine_mounts(config: AgentConfig) -> Iterator[Finding]:
    """Whether each is there, and allowed."""
    name, entries = "docker.mounts", config.docker.mounts
    if not config.docker.enabled or not entries:
        return
    missing = [source for source in (entry.split(":")[0] for entry in entries) if not Path(source).exists()]
    try:
        sessions.check_mounts(config)
    except RunError as error:
        yield Finding(name, "fail", str(error), "Mount another directory, or allow its root.")
        return
    if missing:
        detail = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not on this host."
        yield Finding(name, "fail", detail, "Create what is missing, or take its line out.")
    else:
        yield Finding(name, "ok", "All are there and allowed.")


def examine_image(config: AgentConfig) -> Finding | None:
    """Whether the engine answers and has the image; None without a container."""
    if not config.docker.enabled:
        return None
    name = "docker.image"
    try:
        image = within(ENGINE_PATIENCE, lambda: doctor.find_image(config.docker.image))
    except TimeoutError:
        detail = f"The Docker engine has not answered within {ENGINE_PATIENCE:g} s."
        return Finding(name, "fail", detail, RESTART_ENGINE)
    except RunError as error:
        return Finding(name, "fail", str(error), doctor.START_ENGINE)
    return doctor.judge_image(name, config.docker.image, image)


def program_field(config: AgentConfig) -> str:
    """The field that says what is executed."""
    return "command" if bare(config.runtime).uses_command else "runtime"


def not_tried(config: AgentConfig, blocked: list[str]) -> Iterator[Finding]:
    """What cannot be known before something else is repaired."""
    remedy = f"First repair: {', '.join(blocked)}."
    for name in (program_field(config), DRY_RUN):
        yield Finding(name, "warn", f"{NOT_TRIED}: it would fail.", remedy)


def dry_run(config: AgentConfig) -> Iterator[Finding]:
    """Start what a run would be started in, and look for the agent's program there."""
    started = time.monotonic()
    try:
        seen = within(LOOK_LIMIT + SLACK, lambda: look_around(config))
    except TimeoutError:
        detail = f"It has not ended within {LOOK_LIMIT + SLACK:g} s: the Docker engine hangs."
        yield Finding(DRY_RUN, "fail", detail, RESTART_ENGINE)
    except (RunError, OSError) as error:
        yield Finding(program_field(config), "warn", f"{NOT_TRIED}: nothing could be started.", "See below.")
        yield Finding(DRY_RUN, "fail", str(error), "Change what it names, then test again.")
    else:
        yield judge_program(config, seen)
        yield judge_start(config, seen, time.monotonic() - started)


def judge_program(config: AgentConfig, seen: Sight) -> Finding:
    """Whether the program is there, and works as far as it can be asked."""
    name = program_field(config)
    where = f"in {config.docker.image}" if config.docker.enabled else "on this machine"
    if seen.end is None:
        what = f"{seen.program or 'The program'} did not just tell its version within {LOOK_LIMIT:g} s"
        return Finding(name, "fail", f"{what} and was ended.", f"See what it waits for: {where}.")
    if not seen.program:
        problem = exit_failure(seen.end) if seen.end.code not in (126, 127) else ""
        detail = problem or f"{machine_program(config)} is not there, or cannot be executed, {where}."
        return Finding(name, "fail", detail, program_remedy(config))
    if seen.end.code:
        said = f"{seen.program}: {exit_failure(seen.end)} {seen.said}".strip()
        return Finding(name, "fail", said, program_remedy(config))
    version = seen.said.partition("\n")[0]
    return Finding(name, "ok", f"{seen.program} {where}{f', {version}' if version else ''}.")


def machine_program(config: AgentConfig) -> str:
    """What is executed, as it is called."""
    request = request_of(config, Paths("/", "/", "/"))
    return bare(config.runtime).command(request).argv[0]


def program_remedy(config: AgentConfig) -> str:
    """Where a program comes from."""
    if config.docker.enabled:
        return "Choose an image that holds it, or name its path inside the container."
    return "Install it where the workers find it (their PATH), or switch Docker on."


def judge_start(config: AgentConfig, seen: Sight, seconds: float) -> Finding:
    """Whether it started with all its settings, and what it may not use."""
    denied = [path for path in seen.denied if path != "." or config.docker.workspace_mode == "rw"]
    if denied:
        names = ", ".join("its workspace" if path == "." else path for path in denied)
        user = sessions.owner_of(config)
        return Finding(DRY_RUN, "warn", f"{user} may not use {names}.", f"Let {user} read and write there.")
    status: Status = "ok" if seen.started else "fail"
    if config.docker.enabled:
        detail = f"A container with the agent's own settings started and was gone after {seconds:.1f} s."
    else:
        detail = f"A process on this machine started and ended after {seconds:.1f} s."
    return Finding(DRY_RUN, status, detail)


def look_around(config: AgentConfig) -> Sight:
    """With directories that are gone afterwards; the workspace is the agent's, once it has one."""
    tidy()
    # Never in a container that is kept for runs.
    config = replace(config, docker=replace(config.docker, ephemeral=True, keep_failed=0))
    folder = machine.state().trials() / str(uuid4())
    workspace = sessions.workspace_of(config)
    if not workspace.is_dir():
        workspace = folder / "workspace"
    paths = Paths(workspace=str(workspace), home=str(folder / "home"), run=str(folder / "in"))
    try:
        machine.state().make(paths, sessions.owner_of(config))
        return look(machine.probe(config), request_of(config, paths), LOOK_LIMIT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def request_of(config: AgentConfig, paths: Paths) -> Request:
    """A run without a row, a prompt or secrets; its id is one that the sweep knows for nobody's."""
    conversation = Conversation(str(uuid4()))
    return Request(run=str(uuid4()), agent=config, prompt="", conversation=conversation, paths=paths)


def tidy() -> None:
    """Remove what tests that were killed have left."""
    folder = machine.state().trials()
    for left in folder.iterdir() if folder.is_dir() else ():
        if left.stat().st_mtime < time.time() - FORGOTTEN:
            shutil.rmtree(left, ignore_errors=True)


def within(seconds: float, work: Callable[[], T]) -> T:
    """The work's result; TimeoutError when it takes longer, and it is left to itself then.

    The engine's client has time-outs for each of its questions, but not for all of them together.
    """
    answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def answer() -> None:
        try:
            answers.put((work(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=answer, daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    if error:
        raise error
    return result  # type: ignore[no-any-return]


def begin(agent: Agent) -> Progress:
    """Have a worker test the agent, unless one does already; how far that has come."""
    try:
        jobs.ring_trial(agent)
    except RedisError as error:
        return away(error)
    return progress(agent)


def progress(agent: Agent) -> Progress:
    """What there is to say to somebody who waits, with what to do about it."""
    try:
        state, result = jobs.trial(agent)
        alive = len(bells.workers()) if state == "queued" else 0
    except RedisError as error:
        return away(error)
    if state == "finished":
        return Progress("done", findings=tuple(result or ()))
    if state == "started":
        return Progress("waiting", "A worker is testing it.")
    if state == "queued" and not alive:
        return Progress("waiting", "No worker is alive, so nobody tests it.", doctor.START_WORKERS)
    if state == "queued":
        return Progress("waiting", f"Waiting for a worker to be free; {alive} alive.")
    if state == "failed":
        return Progress("failed", "The test broke off.", "Look at the workers' log, then test again.")
    return Progress("failed", NOBODY, "Test again.")


def away(error: RedisError) -> Progress:
    """The queue cannot be reached."""
    return Progress("failed", f"Redis does not answer, so no worker hears of it: {error}", doctor.START_REDIS)
