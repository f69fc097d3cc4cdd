"""Workspaces: who shares one, clones in them, what is captured of a change, and what is pushed."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from agents import image, jobs, machine, reconcile, removal, sessions, trial
from agents.asjson import run_json
from agents.models import Agent, Run
from agents.runtimes.image import images
from tests import git_server
from tests.conftest import end, execute, until
from tests.environment import STATE
from tests.test_faults import Workers, crash_at, current, ended, horse
from tests.test_pages import download

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
OURS = f"herdweb.instance={settings.HERDWEB_INSTANCE}"
WHO = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "A"), ("EMAIL", "a@b"))
}
# The repositories belong to the container's user.
ANY_OWNER = STATE / "any-owner.gitconfig"
ANY_OWNER.write_text("[safe]\n\tdirectory = *\n")


@pytest.fixture(scope="module")
def agent_image(engine: docker.DockerClient) -> str:
    with images() as there:
        image.ensure(there, settings.HERDWEB_IMAGE, print)
    return str(settings.HERDWEB_IMAGE)


def git(folder: Path, *arguments: str, **options: Any) -> str:
    env = {**os.environ, **WHO, "GIT_CONFIG_GLOBAL": str(ANY_OWNER), "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, env=env, **options)
    return str(done.stdout.decode("utf-8", "surrogateescape").strip())


@pytest.fixture
def origin(tmp_path: Path, settings: Any) -> Path:
    """A bare repository below an allowed root, which the container's user may write to."""
    settings.HERDWEB_MOUNT_ROOTS = [str(tmp_path)]
    bare = tmp_path / "origin.git"
    bare.mkdir()
    git(bare, "init", "--quiet", "--bare", "--initial-branch=main")
    commit(bare, {"README.md": b"Read me.\n", "src/a.py": b"one\ntwo\nthree\n", "gone.txt": b"soon\n"})
    return bare


def commit(bare: Path, files: dict[str, bytes], branch: str = "main") -> str:
    """One more commit in a bare repository, with these files."""
    work = bare.parent / "work"
    if not work.exists():
        git(bare.parent, "clone", "--quiet", str(bare), "work")
    git(work, "checkout", "--quiet", "-B", branch)
    for name, content in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content)
    git(work, "add", "--all", "--force")
    git(work, "commit", "--quiet", "--message", "More")
    git(work, "push", "--quiet", "origin", branch)
    uid, _, gid = settings.HERDWEB_CONTAINER_USER.partition(":")
    for path in (bare, *bare.rglob("*")):
        os.chown(path, int(uid), int(gid))
    return git(work, "rev-parse", "HEAD")


@pytest.fixture
def coder(make_agent: MakeAgent, agent_image: str, origin: Path) -> Callable[..., Agent]:
    """Makes an agent that works in a clone; its prompt is a shell script."""

    def make(name: str = "coder", **fields: Any) -> Agent:
        wanted = {"runtime": "command", "command": ["sh", "-e"], "git_url": f"file://{origin}"}
        container = {"docker_enabled": True, "docker_image": agent_image, "docker_network": "none"}
        return make_agent(name, **{**wanted, **container, **fields})

    return make


def work(agent: Agent, script: str, **options: Any) -> Run:
    """One run, which succeeds."""
    run = execute(jobs.submit(agent, script, **options))
    assert run.state == "succeeded", f"{run.reason}: {said(run)}"
    return run


def said(run: Run) -> str:
    return "\n".join(run.events.order_by("seq").values_list("text", flat=True))


def workspace(run: Run) -> Path:
    return machine.state().path / run.workspace


# Who shares a workspace.


def test_by_default_all_sessions_of_an_agent_share_one(make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["sh"])
    first, second = work(agent, "echo x > left"), work(agent, "cat left")
    assert first.workspace == second.workspace == "workspaces/probe"
    assert "x" in said(second)


def test_a_workspace_per_session_or_run_is_seen_by_no_other(make_agent: MakeAgent, tiny_image: str) -> None:
    inside = {"docker_enabled": True, "docker_image": tiny_image, "docker_network": "none"}
    for scope in ("session", "run"):
        agent = make_agent(f"per-{scope}", runtime="command", command=["sh"], workspace_scope=scope, **inside)
        runs = [work(agent, "pwd; ls -a; touch mine") for _ in range(2)]
        assert len({run.workspace for run in runs}) == 2
        assert [line for run in runs for line in said(run).splitlines() if line == "mine"] == []
        assert all((workspace(run) / "mine").exists() for run in runs)
        assert all("/workspace" in said(run) for run in runs)


def test_a_session_finds_its_own_clone_again_and_a_run_its_fresh_one(coder: Callable[..., Agent]) -> None:
    for scope, left in (("session", ["mine", "other"]), ("run", ["other"])):
        agent = coder(f"per-{scope}", workspace_scope=scope, max_concurrent=2)
        first = work(agent, "echo 1 > mine")
        second = work(agent, "echo 1 > other", continues=first.session)
        names = {path.name for path in workspace(second).iterdir() if not path.suffix}
        assert names == {".git", "src", *left}
        assert first.session == second.session


def test_workspaces_go_with_their_session_or_run(make_agent: MakeAgent) -> None:
    for scope in ("session", "run"):
        agent = make_agent(f"per-{scope}", runtime="command", command=["sh"], workspace_scope=scope)
        run = work(agent, "touch mine")
        assert (workspace(run) / "mine").exists()
        assert run.session
        plan = removal.of_session(run.session)
        assert removal.remove(plan, lambda _: None) == []
        assert not workspace(run).parent.exists()


# Clones.


def test_of_a_long_history_so_many_commits_are_fetched(coder: Callable[..., Agent], origin: Path) -> None:
    for number in range(5):
        commit(origin, {"n": b"%d" % number})
    agent = coder(git_depth=2, git_push="herdweb/{run}")
    run = work(agent, "git rev-list --count HEAD; echo x > x; git add x; git commit -qm x")
    assert "\n2\n" in said(run)
    assert git(origin, "rev-list", "--count", run.changes["push"]["branch"]) == "7"
    commit(origin, {"n": b"new"})
    assert "problem" not in work(agent, "echo y > y").changes


def test_a_run_works_in_a_clone_without_hooks_or_traces_of_the_mirror(
    coder: Callable[..., Agent], origin: Path
) -> None:
    run = work(coder(), "cat README.md; git status --short; git remote -v; ls .git/hooks 2>&1 || true")
    text = said(run)
    assert "Read me." in text
    assert f"file://{origin}" in text
    assert "Cloned main, now at" in text
    assert "No such file" in text
    assert "/mirror" not in (workspace(run) / ".git/config").read_text()
    assert run.changes["base"] == git(origin, "rev-parse", "main")
    assert run.changes["file_count"] == 0


def test_the_next_run_finds_what_is_new_in_the_repository(coder: Callable[..., Agent], origin: Path) -> None:
    agent = coder()
    work(agent, "true")
    newest = commit(origin, {"new.txt": b"news\n"})
    run = work(agent, "cat new.txt")
    assert "Brought up to date main" in said(run)
    assert run.changes["base"] == newest


def test_what_earlier_runs_left_stays_and_is_not_counted_again(
    coder: Callable[..., Agent], origin: Path
) -> None:
    agent = coder()
    work(agent, "echo changed > README.md; echo fresh > fresh")
    commit(origin, {"new.txt": b"news\n"})
    run = work(agent, "cat README.md; echo more > more; test ! -e new.txt; git rev-parse origin/main")
    assert "stays as earlier runs left it" in said(run)
    assert [each["path"] for each in run.changes["files"]] == ["more"]
    assert git(origin, "rev-parse", "main") in said(run)


def test_the_whole_change_is_captured_and_its_patch_applies(
    coder: Callable[..., Agent], origin: Path, tmp_path: Path
) -> None:
    script = r"""
        echo four >> src/a.py
        rm gone.txt
        git mv README.md READ.md
        git -c user.name=x -c user.email=x@y commit -qm 'Rename it'
        head -c 2000 /dev/urandom > picture.bin
        echo odd > "$(printf 'new\nline')"
        echo odd > "$(printf 'latin-\344')"
        printf 'caf\351\n' > latin1.txt
        printf '#!/bin/sh\n' > tool; chmod +x tool
        ln -s /etc/passwd link
        echo ignored > skip.log; echo '*.log' > .gitignore
    """
    run = work(coder(), script)
    changes = run.changes
    found = {each["path"]: each for each in changes["files"]}
    assert {name: each["status"] for name, each in found.items()} == {
        ".gitignore": "A", "READ.md": "R", "gone.txt": "D", "src/a.py": "M", "picture.bin": "A", "tool": "A",
        "new\nline": "A", "latin-\\xe4": "A", "latin1.txt": "A", "link": "A",
    }  # fmt: skip
    assert found["READ.md"]["was"] == "README.md"
    assert (found["src/a.py"]["added"], found["src/a.py"]["removed"]) == (1, 0)
    assert found["picture.bin"]["added"] is None
    assert [each["subject"] for each in changes["commits"]] == ["Rename it"]
    assert (changes["file_count"], changes["commit_count"], changes["removed"]) == (10, 1, 1)
    assert "10 files changed" in said(run)
    applied(origin, run, tmp_path / "again")


def applied(origin: Path, run: Run, folder: Path) -> None:
    """The patch, on a fresh clone, gives the workspace as it is."""
    git(origin.parent, "clone", "--quiet", str(origin), str(folder))
    git(folder, "apply", "--index", str(machine.state().patch(str(run.public_id))))
    assert sums(folder) == sums(workspace(run))


def sums(folder: Path) -> bytes:
    listed = "find . -type f -not -path './.git/*' -not -name '*.log' -exec sha256sum {} + | sort"
    return subprocess.run(["sh", "-c", listed], cwd=folder, check=True, capture_output=True).stdout


# What must not happen.


def test_a_clone_that_fails_fails_the_run_and_starts_nothing(
    coder: Callable[..., Agent], origin: Path
) -> None:
    run = execute(jobs.submit(coder(git_branch="absent"), "echo started"))
    assert run.state == "failed"
    assert "The git workspace is not ready" in run.reason
    assert "absent" in run.reason
    assert run.container is None
    assert "started" not in said(run)
    assert list(workspace(run).iterdir()) == []
    assert run.changes == {}


def test_an_empty_repository_is_said_to_be_empty(coder: Callable[..., Agent], origin: Path) -> None:
    git(origin, "update-ref", "-d", "refs/heads/main")
    run = execute(jobs.submit(coder(), "true"))
    assert "It has no branch to begin with" in run.reason


def test_the_test_of_an_agent_says_what_its_repository_lacks(coder: Callable[..., Agent]) -> None:
    agent = coder(git_credential="GIT_TOKEN")
    found = next(finding for finding in trial.examine(agent) if finding.name == "git_url")
    assert found.status == "fail"
    assert "GIT_TOKEN is not set" in found.detail
    Agent.objects.update(git_credential="")
    agent.refresh_from_db()
    assert [f.status for f in trial.examine(agent) if f.name == "git_url"] == ["ok"]


def test_on_the_host_a_session_goes_on_only_where_it_began(make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["sh"], workspace_scope="run")
    run = work(agent, "true")
    assert run.session
    assert "another directory" in sessions.why_not(run.session, agent)
    agent.workspace_scope = "session"
    agent.save()
    run = work(agent, "echo 1 > mine")
    assert run.session
    assert sessions.why_not(run.session, agent) == ""
    assert sessions.why_not(run.session, agent, fork=True) != ""
    assert "1" in said(work(agent, "cat mine", continues=run.session))


def test_a_link_out_of_the_allowed_roots_is_refused_at_the_start(
    coder: Callable[..., Agent], origin: Path
) -> None:
    agent = coder()
    origin.rename(origin.with_name("moved"))
    origin.symlink_to("/etc")
    run = execute(jobs.submit(agent, "true"))
    assert "is outside the allowed roots" in run.reason


def test_without_docker_a_repository_is_refused(coder: Callable[..., Agent]) -> None:
    run = execute(jobs.submit(coder(docker_enabled=False), "touch here"))
    assert run.state == "failed"
    assert "handled in containers only" in run.reason


def test_a_lost_repository_is_not_replaced_silently(coder: Callable[..., Agent]) -> None:
    agent = coder()
    first = work(agent, "rm -rf .git; echo mine > mine")
    assert [each["path"] for each in first.changes["files"]] == ["mine"]
    second = execute(jobs.submit(agent, "true"))
    assert "is no git repository any more" in second.reason
    assert (workspace(second) / "mine").exists()


HOSTILE = r"""
    touch_it() {
        printf '#!/bin/sh\n(id; cat /run/herdweb-secrets/*) > /workspace/pwned-%s\n' "$1"
    }
    mkdir -p .git/hooks .claude
    for hook in pre-push post-checkout post-merge pre-commit reference-transaction post-index-change; do
        touch_it $hook > .git/hooks/$hook; chmod +x .git/hooks/$hook
    done
    touch_it program > .evil; chmod +x .evil
    evil=/workspace/.evil
    git config core.fsmonitor $evil
    git config core.sshCommand $evil
    git config core.hooksPath .git/hooks
    git config core.excludesFile /workspace/.hidden
    git config diff.external $evil
    git config diff.evil.textconv $evil
    git config filter.evil.clean "$evil; cat"
    git config filter.evil.smudge "$evil; cat"
    git config credential.helper "!$evil"
    git config http.proxy http://10.255.255.1:1
    git config url.https://10.255.255.1/.insteadOf https://
    git config remote.origin.uploadpack $evil
    git config remote.origin.receivepack $evil
    printf '* filter=evil diff=evil\n' > .gitattributes
    printf 'secret-plan\n' > .hidden
    printf '{"hooks": {}}' > .claude/settings.json
    printf '[submodule "x"]\n\tpath = x\n\turl = ext::sh -c id\n' > .gitmodules
    echo plan > secret-plan
    ln -s / root; ln -s /etc/passwd passwd
    mkfifo pipe
    truncate -s 1T sparse
    mkdir -p inner; git init -q inner
    mkdir locked; echo x > locked/x; chmod 000 locked
    echo "$(id -u)" > agent-was-here
"""


def test_a_hostile_workspace_executes_nothing_and_hides_nothing(
    coder: Callable[..., Agent], origin: Path
) -> None:
    agent = coder(git_push="herdweb/{run}")
    run = work(agent, HOSTILE)
    assert "problem" not in run.changes
    paths = {each["path"] for each in run.changes["files"]}
    assert {"secret-plan", ".gitattributes", "root", "passwd", "agent-was-here", ".evil"} <= paths
    assert not any(path.startswith("root/") for path in paths)
    assert run.changes["left_out"] == ["sparse"]
    assert list(workspace(run).glob("pwned*")) == []
    assert run.changes["push"]["branch"] == f"herdweb/{run.short_id}"
    assert "problem" not in run.changes["push"]
    pushed = git(origin, "show", f"herdweb/{run.short_id}:secret-plan")
    assert pushed == "plan"
    again = work(agent, "rm -f pwned*; chmod 700 locked")
    assert again.changes["base"] == run.changes["base"]


# What dies, and what is stopped.


@pytest.fixture
def slow(
    coder: Callable[..., Agent], origin: Path, engine: docker.DockerClient, settings: Any
) -> Iterator[tuple[Agent, threading.Event, dict[str, str]]]:
    """An agent whose repository answers when it is told to, and what a worker needs for that."""
    answers = threading.Event()
    with git_server.serving(engine, origin.parent, hold=answers) as (address, vouching):
        settings.HERDWEB_GIT_CA = str(vouching)
        token = f"{git_server.USER}:{git_server.TOKEN}"
        agent = coder(git_url=f"{address}/origin.git", git_credential="GIT_TOKEN")
        yield agent, answers, {"HERDWEB_GIT_CA": str(vouching), "GIT_TOKEN": token}
        answers.set()


def errands(engine: docker.DockerClient, run: Run) -> list[Any]:
    wanted: Any = {"label": [OURS, f"herdweb.run={run.public_id}", "herdweb.errand"]}
    return list(engine.containers.list(all=True, ignore_removed=True, filters=wanted))


@pytest.mark.slow
def test_a_clone_goes_on_with_another_worker_when_its_own_dies(
    slow: Any, workers: Workers, engine: docker.DockerClient
) -> None:
    agent, answers, environment = slow
    pool = workers(1, **environment)
    run = jobs.submit(agent, "cat README.md")
    until(lambda: errands(engine, run), "No errand was sent")
    first = horse(run)
    end(pool, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{first}").exists(), "The horse outlived its worker")
    answers.set()
    workers(1, **environment)
    run = ended(run, tick=True)
    assert run.state == "succeeded", said(run)
    assert "Read me." in said(run)
    assert errands(engine, run) == []


def test_a_run_is_cancelled_while_it_clones(slow: Any, workers: Workers, engine: docker.DockerClient) -> None:
    agent, _, environment = slow
    workers(1, **environment)
    run = jobs.submit(agent, "true")
    until(lambda: errands(engine, run), "No errand was sent")
    jobs.cancel(run, "somebody")
    run = ended(run)
    assert (run.state, run.reason) == ("cancelled", "Cancelled by somebody.")
    assert errands(engine, run) == []
    assert run.container is None


def test_the_lease_is_kept_while_a_clone_takes_its_time(slow: Any, workers: Workers) -> None:
    agent, answers, environment = slow
    workers(1, **environment)
    run = jobs.submit(agent, "true")
    until(lambda: "Fetching" in said(run), "It does not fetch")
    before = current(run).lease_until
    assert before
    until(lambda: (current(run).lease_until or before) > before, "The lease was not renewed")
    answers.set()
    assert ended(run).state == "succeeded"


@pytest.mark.parametrize(
    "point", ["workspaces.gitwork.changes", "workspaces.keep_patch", "sessions.remember"]
)
def test_a_change_is_captured_by_the_next_worker(
    point: str, coder: Callable[..., Agent], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERDWEB_MOUNT_ROOTS", str(tmp_path))
    run = jobs.submit(coder(), "echo new > new")
    crash_at(f"jobs.execution.{point}", run)
    Run.objects.update(lease_until=None)
    run = execute(run)
    assert run.state == "succeeded"
    assert [each["path"] for each in run.changes["files"]] == ["new"]
    assert (machine.state().patch(str(run.public_id))).stat().st_size == run.changes["patch_bytes"]
    assert not (machine.state().run(str(run.public_id)) / "git").exists()


def test_the_sweeper_finds_an_errand_that_was_left(
    coder: Callable[..., Agent], engine: docker.DockerClient
) -> None:
    run = work(coder(), "true")
    labels = {"herdweb.instance": settings.HERDWEB_INSTANCE, "herdweb.run": str(run.public_id)}
    engine.containers.create("herdweb/agent", ["true"], labels={**labels, "herdweb.errand": "push"})
    left = Path(settings.HERDWEB_SECRETS_DIR) / f"{run.public_id}.push"
    left.mkdir(parents=True)
    reconcile.sweep()
    assert errands(engine, run) == []
    assert not left.exists()


# The page.


def test_the_page_shows_files_and_lines_and_gives_the_patch(
    coder: Callable[..., Agent], client: Client, admin: User
) -> None:
    client.force_login(admin)
    run = work(coder(git_push="herdweb/{run}"), "echo '<b>four</b>' >> src/a.py; printf '\\0' > zero")
    html = client.get(run.get_absolute_url()).content.decode()
    for part in (
        "2 files changed, 1 line added, 0 removed, not committed.",
        "src/a.py", "changed, +1", '<div class="own-add">&lt;b&gt;four&lt;/b&gt;</div>', "No text.",
        f"herdweb/{run.short_id}", f"/runs/{run.public_id}/patch/",
    ):  # fmt: skip
        assert part in html
    patch = download(admin, f"/runs/{run.public_id}/patch/")[1]
    assert patch == machine.state().patch(str(run.public_id)).read_bytes()
    assert b"+<b>four</b>\n" in patch
    assert run_json(run)["changes"]["file_count"] == 2


def test_a_change_that_could_not_be_captured_is_said(
    coder: Callable[..., Agent], client: Client, admin: User
) -> None:
    client.force_login(admin)
    run = work(coder(), "rm -rf .git/objects; mkfifo .git/objects; echo x > x")
    said_of_it = run.changes.get("problem") or run.changes["files"][0]["path"]
    assert said_of_it in client.get(run.get_absolute_url()).content.decode()


def test_a_long_patch_is_cut_and_many_files_are_counted(
    coder: Callable[..., Agent], client: Client, admin: User
) -> None:
    client.force_login(admin)
    run = work(coder(), "i=0; while [ $i -lt 600 ]; do i=$((i+1)); seq 1 4000 > f$i; done")
    changes = run.changes
    assert (changes["file_count"], len(changes["files"]), changes["added"]) == (600, 500, 2_400_000)
    assert changes["patch_cut"]
    assert machine.state().patch(str(run.public_id)).stat().st_size == changes["patch_bytes"] == 10 * 1024**2
    html = client.get(run.get_absolute_url()).content.decode()
    assert "and 100 more files" in html
    assert "only its beginning was kept" in html
    assert len(html) < 1024**2


# Rules between fields.


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"git_url": "https://host/x"}, "docker.enabled: Must be on: the agent has a git workspace"),
        ({"git_url": "https://host/x", "docker.enabled": "on", "max_concurrent": "2"}, "Must be 1"),
        ({"working_directory": "{root}", "workspace_scope": "run"}, "choose agent"),
        ({"working_directory": "{root}", "git_url": "https://h/x", "docker.enabled": "on"}, "in one"),
    ],
)
def test_fields_that_exclude_each_other_are_refused(
    fields: dict[str, str], complaint: str, db: None, tmp_path: Path, settings: Any
) -> None:
    settings.HERDWEB_MOUNT_ROOTS = [str(tmp_path)]
    given = [f"{name}={text.format(root=tmp_path)}" for name, text in fields.items()]
    with pytest.raises(CommandError, match=complaint):
        call_command("agent_set", "coder", "runtime=echo", *given)


# Pushing, and the credential.


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GIT_TOKEN", f"{git_server.USER}:{git_server.TOKEN}")
    return git_server.TOKEN


def test_fetch_and_push_by_https_with_a_credential_that_appears_nowhere(
    coder: Callable[..., Agent], origin: Path, engine: docker.DockerClient, secret: str, settings: Any
) -> None:
    with git_server.serving(engine, origin.parent) as (address, vouching):
        settings.HERDWEB_GIT_CA = str(vouching)
        agent = coder(
            git_url=f"{address}/origin.git", git_credential="GIT_TOKEN", git_push="herdweb/{agent}/{run}"
        )
        with inspected(engine) as seen:
            run = work(
                agent, "env; cat .git/config; ls /run; git commit -q --allow-empty -m x; echo new > new"
            )
    branch = f"herdweb/coder/{run.short_id}"
    assert run.changes["push"] == {"branch": branch, "commit": git(origin, "rev-parse", branch)}
    assert git(origin, "show", f"{branch}:new") == "new"
    assert git(origin, "log", "-1", "--format=%s", branch) == f"Left uncommitted by run {run.short_id}"
    assert f"Pushed to {branch}." in said(run)
    assert len([name for name in seen if name.endswith(("mirror", "checkout", "capture", "push"))]) == 4
    assert secret not in "".join(seen.values()) + said(run) + str(Run.objects.values().get(pk=run.pk))
    everything = ["grep", "-rl", "-e", secret, str(machine.state().path), str(settings.HERDWEB_SECRETS_DIR)]
    assert subprocess.run(everything, capture_output=True).stdout == b""


@contextmanager
def inspected(engine: docker.DockerClient) -> Iterator[dict[str, str]]:
    """What the engine says of each container that is created meanwhile, by its name."""
    seen: dict[str, str] = {}
    events = engine.events(decode=True, filters={"event": "create", "label": OURS})

    def look() -> None:
        for event in events:
            with suppress(docker.errors.NotFound):
                container = engine.containers.get(event["id"])
                seen[str(container.name)] = str(container.attrs)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield seen
    events.close()
    thread.join(10)


def test_a_wrong_password_fails_the_run_with_the_server_s_words(
    coder: Callable[..., Agent], origin: Path, engine: docker.DockerClient, settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("GIT_TOKEN", "wrong-password")
    with git_server.serving(engine, origin.parent) as (address, vouching):
        settings.HERDWEB_GIT_CA = str(vouching)
        run = execute(jobs.submit(coder(git_url=f"{address}/origin.git", git_credential="GIT_TOKEN"), "true"))
    assert run.state == "failed"
    assert "Authentication failed" in run.reason
    assert "wrong-password" not in run.reason + said(run)


def test_a_server_that_leads_elsewhere_does_not_get_the_credential_there(
    coder: Callable[..., Agent], origin: Path, engine: docker.DockerClient, secret: str, settings: Any
) -> None:
    with (
        git_server.serving(engine, origin.parent) as (target, vouching),
        git_server.serving(engine, origin.parent, redirect=target) as (address, other),
    ):
        settings.HERDWEB_GIT_CA = str(origin.parent / "both.pem")
        Path(settings.HERDWEB_GIT_CA).write_bytes(vouching.read_bytes() + other.read_bytes())
        run = execute(jobs.submit(coder(git_url=f"{address}/origin.git", git_credential="GIT_TOKEN"), "true"))
    assert run.state == "failed"
    assert "could not read Username" in run.reason


def test_a_push_that_is_refused_is_said_and_changes_no_outcome(
    coder: Callable[..., Agent], origin: Path
) -> None:
    agent = coder(git_push="herdweb/{agent}", workspace_scope="run")
    assert "problem" not in work(agent, "echo 1 > one").changes["push"]
    run = work(agent, "echo 2 > two")
    assert "rejected" in run.changes["push"]["problem"]
    assert "The push to herdweb/coder failed" in said(run)


def test_nothing_is_pushed_of_a_failure_but_its_change_is_kept(coder: Callable[..., Agent]) -> None:
    run = execute(jobs.submit(coder(git_push="herdweb/{run}"), "echo half > half; exit 1"))
    assert (run.state, run.reason) == ("failed", "Exit code 1.")
    assert [each["path"] for each in run.changes["files"]] == ["half"]
    assert "push" not in run.changes


def test_a_variable_that_the_worker_lacks_fails_the_run_with_its_name(coder: Callable[..., Agent]) -> None:
    run = execute(jobs.submit(coder(git_credential="GIT_TOKEN"), "true"))
    assert "The variable GIT_TOKEN is not set" in run.reason
