"""Workspaces: which directory a run works in, how a clone gets there, and what became of it.

Whatever touches a repository does so in an errand, a container of its own; the host only makes and
removes directories.
"""

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import DatabaseError
from django.utils import timezone

from agents import machine
from agents.models import Run, Session, rules
from agents.models.agent import GIT_NEEDS_DOCKER
from agents.models.fields import write_seconds
from agents.runtimes import AgentConfig, Beneath, RunError, gitwork
from agents.runtimes.errand import Bind, Done, Errand, send
from agents.runtimes.layout import give, make_private

logger = logging.getLogger(__name__)

# In seconds: what a clone may take, what looking at a change may, and how often progress is told.
CLONE_LIMIT, CAPTURE_LIMIT, TELL_EVERY = 1800, 600, 10
LISTS = ("names", "numbers", "sum", "log")
NEWS = {
    "cloned": "Cloned",
    "updated": "Brought up to date",
    "kept": "Fetched; the workspace stays as earlier runs left it. Branch",
}

# Texts for the run's page, empty ones five times a second in between.
Telling = Generator[str, None, None]


def of(config: AgentConfig, session: Session | None = None, run: Run | None = None) -> Path:
    """The host's directory that an agent works in; without session or run, one like it."""
    if config.working_directory:
        return Path(config.working_directory)
    state, leaf = machine.state(), leaf_of(config)
    if config.workspace_scope == "session":
        return state.session_workspace(str(session.public_id) if session else "none") / leaf
    if config.workspace_scope == "run":
        return state.run_workspace(str(run.public_id) if run else "none") / leaf
    return state.git_workspace(config.name) / leaf if config.git_url else state.workspace(config.name)


def of_run(run: Run) -> Path | None:
    """Where a run worked, as its row says; None if it never got that far."""
    return machine.state().path / run.workspace if run.workspace else None


def note(run: Run, workspace: str) -> None:
    """Keep in the run's row where it works."""
    path, root = Path(workspace), machine.state().path
    run.workspace = str(path.relative_to(root) if path.is_relative_to(root) else path)
    Run.objects.filter(pk=run.pk).update(workspace=run.workspace)


def leaf_of(config: AgentConfig) -> str:
    """Another repository or branch is another directory: nothing is lost by a change of mind."""
    return key(config.git_url, config.git_branch, owner(config)) if config.git_url else "files"


def key(*parts: object) -> str:
    """A directory's name for something that cannot be one."""
    return sha256(json.dumps(parts).encode()).hexdigest()[:16]


def owner(config: AgentConfig) -> str:
    """Whose files those of a git workspace are, as uid:gid."""
    return config.docker.user or machine.host().user


def check(config: AgentConfig) -> None:
    """Raises RunError when the agent's repository may not be used, or not like this."""
    if not config.git_url:
        return
    if not config.docker.enabled:
        raise RunError(f"Docker: {GIT_NEEDS_DOCKER}")
    try:
        rules.git_url(config.git_url)
        if config.git_credential:
            rules.git_credential(config.git_credential)
    except ValidationError as error:
        raise RunError(" ".join(error.messages)) from error
    if config.git_credential and not os.environ.get(config.git_credential):
        raise RunError(
            f"The variable {config.git_credential} is not set where this worker was started; the repository"
            " needs it."
        )


@dataclass(frozen=True)
class Repository:
    """The git repository of one run, and the errands around it."""

    run: Run
    config: AgentConfig

    @property
    def name(self) -> str:
        """The run's id."""
        return str(self.run.public_id)

    @property
    def mirror(self) -> Path:
        """Our own copy of the origin."""
        config = self.config
        leaf = key(config.git_url, config.git_branch, config.git_depth, owner(config))
        return machine.state().git_mirror(config.name) / leaf

    @property
    def folder(self) -> Path:
        """What captures the change, from before the start to after the end."""
        return machine.state().run(self.name) / "git"

    def ask(self, name: str, script: str, arguments: tuple[str, ...], *binds: Bind, limit: float) -> "Asked":
        """Execute a script without network and credentials."""
        return self._send(self._errand(name, script, arguments, binds, limit))

    def ask_origin(self, name: str, script: str, arguments: tuple[str, ...], *binds: Bind) -> "Asked":
        """The same with network and credential, or with the host's directory, to reach the origin."""
        url, variable = self.config.git_url, self.config.git_credential
        local = gitwork.local_path(url)
        given: dict[str, Any] = {"network": "none" if local else "bridge", "env": gitwork.env(url)}
        given["files"] = gitwork.files(url, credential=bool(variable), authorities=authorities())
        if variable and not local:
            said, hidden = gitwork.credential(os.environ[variable])
            given |= {"secrets": {"credential": said}, "hidden": hidden}
        if local:
            binds = (*binds, Bind(os.path.realpath(local), gitwork.ORIGIN, writable=name == "push"))
        return self._send(self._errand(name, script, arguments, binds, CLONE_LIMIT, **given))

    def _errand(
        self,
        name: str,
        script: str,
        arguments: tuple[str, ...],
        binds: tuple[Bind, ...],
        limit: float,
        **given: Any,
    ) -> Errand:
        files: Mapping[str, bytes] = given.pop("files", None) or gitwork.files(self.config.git_url)
        return Errand(
            name=name,
            run=self.name,
            image=settings.HERDWEB_IMAGE,
            user=owner(self.config),
            argv=("/bin/sh", f"{gitwork.FILES}/do", *arguments),
            folder=machine.state().run(self.name) / "errand" / name,
            binds=binds,
            files={**files, "do": script.encode()},
            limit=limit,
            **{"env": gitwork.env(), **given},
        )

    def _send(self, errand: Errand) -> "Asked":
        """Send it, and tell of its progress now and then."""
        told = time.monotonic()
        sending = send(errand, machine.host())
        try:
            while True:
                line = next(sending)
                due = time.monotonic() - told >= TELL_EVERY
                told = time.monotonic() if due else told
                yield line if due else ""
        except StopIteration as end:
            return judged(end.value, errand.limit)
        finally:
            sending.close()

    def made(self, folder: Path) -> Path:
        """A directory that errands may write to."""
        make_private(folder)
        give(folder, owner(self.config))
        return folder


Asked = Generator[str, None, Done]


def judged(done: Done, limit: float) -> Done:
    """What came of it; raises RunError with git's own words when nothing did."""
    if done.code is None:
        raise RunError(f"It took longer than {write_seconds(round(limit))}.")
    if not done.ok:
        raise RunError(done.complaint or f"Its container ended with exit code {done.code}.")
    return done


def authorities() -> bytes:
    """The certificates that vouch for git servers, where the usual ones do not."""
    path = settings.HERDWEB_GIT_CA
    try:
        return Path(path).read_bytes() if path else b""
    except OSError as error:
        raise RunError(f"HERDWEB_GIT_CA cannot be read: {error.strerror}.") from error


def prepare(run: Run, config: AgentConfig) -> Telling:
    """Bring a clone into the workspace, or one that is there up to date; nothing without a repository.

    Raises RunError with the reason: a run never starts in a directory that should be a clone and is none.
    """
    if not config.git_url:
        return
    repository = Repository(run, config)
    yield f"Fetching {config.git_url}."
    try:
        origin = yield from mirrored(repository)
        news = yield from checked_out(repository, of(config, run.session, run), origin["branch"])
    except RunError as error:
        raise RunError(f"The git workspace is not ready: {error}") from error
    remember(run, {"branch": origin["branch"], "base": news["base"], "start": news["start"]})
    yield f"{NEWS[news['news']]} {origin['branch']}, now at {news['base'][:12]}."


def mirrored(repository: Repository) -> Generator[str, None, dict[str, str]]:
    """Fetch the origin into the mirror, one run at a time; says branch and commit."""
    config = repository.config
    mirror = repository.made(repository.mirror)
    arguments = (gitwork.inside(config.git_url), config.git_branch, str(config.git_depth or ""))
    with alone(mirror.with_name(f"{mirror.name}.lock")) as turn:
        yield from turn
        done = yield from repository.ask_origin(
            "mirror", gitwork.MIRROR_SCRIPT, arguments, Bind(str(mirror), gitwork.MIRROR, writable=True)
        )
    return gitwork.said(done.stdout)


@contextmanager
def alone(path: Path) -> Iterator[Iterator[str]]:
    """Hold a lock that its owner's death releases; waiting for it yields, so that the lease is kept."""
    with open(path, "a") as file:

        def turn() -> Iterator[str]:
            while True:
                try:
                    return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield ""
                    time.sleep(0.2)

        yield turn()


def checked_out(repository: Repository, workspace: Path, branch: str) -> Generator[str, None, dict[str, str]]:
    """From the mirror into the workspace; a new clone is made beside it and put in its place whole."""
    run, config = repository.run, repository.config
    fresh = not any(workspace.iterdir())
    target = workspace
    if fresh:
        target = workspace.with_name(f"{workspace.name}.clone")
        shutil.rmtree(target, ignore_errors=True)
        repository.made(target)
    shutil.rmtree(repository.folder, ignore_errors=True)
    done = yield from repository.ask(
        "checkout",
        gitwork.CHECKOUT_SCRIPT,
        (config.git_url, branch, "new" if fresh else "there", run.short_id, config.name),
        Bind(str(target), gitwork.WORKSPACE, writable=True),
        Bind(str(repository.mirror), gitwork.MIRROR),
        Bind(str(repository.made(repository.folder)), gitwork.CAPTURE, writable=True),
        limit=CLONE_LIMIT,
    )
    if fresh:
        target.rename(workspace)
    return gitwork.said(done.stdout)


def capture(run: Run, config: AgentConfig, *, push: bool) -> Telling:
    """Store what a run did to its git workspace, and push it if that is wanted; once.

    What goes wrong is stored and told, and raised never: the run's outcome is another matter.
    """
    if "start" not in run.changes or run.changes.keys() & {"end", "problem"}:
        return
    repository = Repository(run, config)
    try:
        bundled = yield from captured(repository, push=push and bool(config.git_push))
        if bundled:
            yield from pushed(repository)
    except DatabaseError:
        # Whoever adopts the run does it again.
        raise
    except Exception as error:
        if not isinstance(error, RunError):
            logger.exception("The change of run %s could not be captured.", run.short_id)
        remember(run, {"problem": str(error)})
        yield f"The change could not be captured: {error}"
    finally:
        for folder in (repository.folder, repository.folder.with_name("errand")):
            shutil.rmtree(folder, ignore_errors=True)


def captured(repository: Repository, *, push: bool) -> Generator[str, None, bool]:
    """Compare the workspace with what it was; says whether there is something to push."""
    run, known, folder = repository.run, repository.run.changes, repository.made(repository.folder)
    workspace = of_run(run)
    done = yield from repository.ask(
        "capture",
        gitwork.CAPTURE_SCRIPT,
        (known["base"], known["start"], run.short_id, known["branch"], "push" if push else ""),
        Bind(str(workspace), gitwork.WORKSPACE),
        Bind(str(repository.mirror), gitwork.MIRROR),
        Bind(str(folder), gitwork.CAPTURE, writable=True),
        limit=CAPTURE_LIMIT,
    )
    out = Beneath(folder / "out", owner(repository.config))
    size = keep_patch(folder / "out" / "patch", machine.state().patch(repository.name))
    found = gitwork.changes(done.stdout, {name: out.read(name) for name in LISTS}, size)
    remember(run, known | found.as_json())
    yield summary(run.changes)
    return "bundle" in gitwork.said(done.stdout)


def keep_patch(source: Path, target: Path) -> int:
    """Keep the beginning; returns how long it is, or one more than is kept."""
    size = source.lstat().st_size
    os.truncate(source, min(size, gitwork.PATCH_LIMIT))
    source.rename(target)
    return size


def summary(changes: Mapping[str, Any]) -> str:
    """What was changed, in a line."""
    if not changes["file_count"]:
        return "Nothing was changed in the workspace."
    files, commits = changes["file_count"], changes["commit_count"]
    made = f" in {many(commits, 'commit')}" if commits else ", not committed"
    added = many(changes["added"], "line")
    return f"{many(files, 'file')} changed, {added} added, {changes['removed']} removed{made}."


def many(number: int, what: str) -> str:
    """1 file, 2 files."""
    return f"{number} {what}{'s' if number != 1 else ''}"


def pushed(repository: Repository) -> Telling:
    """Push what was captured to a branch of its own."""
    run = repository.run
    branch = branch_of(run, repository.config.git_push)
    outbox = repository.made(repository.folder / "outbox")
    push: dict[str, Any] = {"branch": branch, "commit": run.changes["end"]}
    try:
        rules.git_ref(branch)
        yield from repository.ask_origin(
            "push",
            gitwork.PUSH_SCRIPT,
            (gitwork.inside(repository.config.git_url), branch),
            Bind(str(outbox), gitwork.OUTBOX, writable=True),
            Bind(str(repository.folder), gitwork.CAPTURE),
            Bind(str(repository.mirror), gitwork.MIRROR),
        )
    except (RunError, ValidationError) as error:
        push["problem"] = " ".join(error.messages) if isinstance(error, ValidationError) else str(error)
    remember(run, run.changes | {"push": push})
    yield f"The push to {branch} failed: {push['problem']}" if "problem" in push else f"Pushed to {branch}."


def branch_of(run: Run, template: str) -> str:
    """The branch that a template means for a run."""
    session = str(run.session.public_id)[:8] if run.session else "none"
    date = timezone.localdate(run.created).isoformat()
    return template.format(agent=run.agent.name, session=session, run=run.short_id, date=date)


def remember(run: Run, changes: dict[str, Any]) -> None:
    """Store it in the run's row."""
    run.changes = run.changes | changes
    Run.objects.filter(pk=run.pk).update(changes=run.changes)
