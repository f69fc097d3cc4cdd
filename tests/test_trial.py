"""What would run, and whether it could: on the form of an agent, and as a command."""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import docker
import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import Group, User
from django.core.management import call_command
from django.test import Client
from pytest_django import Settings
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from agents import bells, jobs, machine, reconcile, trial
from agents.doctor import Finding
from agents.forms import AgentForm, DockerSettingsForm
from agents.models import Agent, Container, Run
from agents.preview import preview
from agents.runtimes import RUNTIMES, AgentConfig
from tests.conftest import process_environment, until
from tests.environment import STATE
from tests.test_admin import Fields, operator  # noqa: F401
from tests.test_commands import manage

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
SECRET = "sentinel-4711-do-not-tell"


def found(agent: Agent) -> dict[str, Finding]:
    return {finding.name: finding for finding in trial.examine(agent)}


def left_behind(engine: docker.DockerClient) -> list[Any]:
    trials = machine.state().trials()
    ours: dict[str, Any] = {"label": f"herdweb.instance={django_settings.HERDWEB_INSTANCE}"}
    return [
        *(trials.iterdir() if trials.is_dir() else ()),
        *engine.containers.list(all=True, filters=ours, ignore_removed=True),
    ]


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


@pytest.fixture
def silent_engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An engine that takes questions and answers none."""
    path = STATE / "silent.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(16)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        yield
    path.unlink()


# -- the test itself


def test_a_sound_agent_in_a_container_is_found_sound_and_nothing_is_left(
    make_agent: MakeAgent, engine: docker.DockerClient, tiny_image: str
) -> None:
    agent = make_agent(docker_enabled=True, docker_image=tiny_image, docker_memory=64 * 1024**2)
    findings = found(agent)
    assert {name: finding.status for name, finding in findings.items()} == {
        "working_directory": "ok",
        "credentials": "ok",
        "docker.image": "ok",
        "runtime": "ok",
        "dry run": "ok",
    }
    assert findings["runtime"].detail == f"/bin/cat in {tiny_image}."
    assert "A container with the agent's own settings started" in findings["dry run"].detail
    assert left_behind(engine) == []
    assert not Run.objects.exists()
    assert not Container.objects.exists()


def test_the_dry_container_has_the_agent_s_own_limits(
    make_agent: MakeAgent, engine: docker.DockerClient, tiny_image: str
) -> None:
    agent = make_agent(
        runtime="claude_cli", docker_enabled=True, docker_image=make_claude(engine, tiny_image),
        docker_network="none", docker_memory=96 * 1024**2, docker_pids_limit=77,
        docker_env={"PLACE": "here"},
    )  # fmt: skip
    seen: list[dict[str, Any]] = []
    watching = threading.Thread(target=lambda: seen.append(watched(engine)), daemon=True)
    watching.start()
    findings = found(agent)
    watching.join(10)
    host, config = seen[0]["HostConfig"], seen[0]["Config"]
    assert (host["Memory"], host["PidsLimit"], host["NetworkMode"]) == (96 * 1024**2, 77, "none")
    assert (host["ReadonlyRootfs"], host["CapDrop"]) == (True, ["ALL"])
    assert "PLACE=here" in config["Env"]
    assert findings["runtime"].detail.endswith("9.9.9 (pretended).")
    assert left_behind(engine) == []


def watched(engine: docker.DockerClient) -> dict[str, Any]:
    """The dry container, as the engine knows it."""
    ours: dict[str, Any] = {"label": f"herdweb.instance={django_settings.HERDWEB_INSTANCE}"}
    containers = until(
        lambda: engine.containers.list(all=True, filters=ours, ignore_removed=True), "No container came"
    )
    return dict(containers[0].attrs)


def make_claude(
    engine: docker.DockerClient, base: str, script: str = "sleep 1; echo 9.9.9 '(pretended)'"
) -> str:
    """An image whose `claude` is a script that knows `--version` only."""
    name = f"herdweb-test/claude-{sha256(script.encode()).hexdigest()[:8]}"
    if engine.images.list(name):
        return name
    container = engine.containers.create(base, ["true"])
    try:
        put(container, "bin/claude", f'#!/bin/sh\n[ "$*" = --version ] || exit 3\n{script}\n')
        container.commit(name)
    finally:
        container.remove()
    return name


def put(container: Any, path: str, text: str) -> None:
    import io
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(path)
        info.size, info.mode = len(text), 0o755
        tar.addfile(info, io.BytesIO(text.encode()))
    container.put_archive("/", buffer.getvalue())


def test_claude_code_itself_tells_its_version_without_a_network(
    make_agent: MakeAgent, engine: docker.DockerClient
) -> None:
    findings = found(make_agent(runtime="claude_cli", docker_enabled=True, docker_network="none"))
    assert findings["runtime"].status == "ok", findings
    assert "(Claude Code)" in findings["runtime"].detail
    assert left_behind(engine) == []


def test_a_missing_image_is_said_with_where_it_comes_from(make_agent: MakeAgent, engine: object) -> None:
    findings = found(make_agent(docker_enabled=True, docker_image="herdweb-test/absent"))
    image = findings["docker.image"]
    assert (image.status, image.remedy) == ("fail", "Get it: docker pull herdweb-test/absent.")
    assert findings["dry run"].detail == "Not tried: it would fail."
    assert findings["dry run"].remedy == "First repair: docker.image."


def test_a_program_that_the_image_lacks_is_the_command_s_fault(
    make_agent: MakeAgent, engine: docker.DockerClient, tiny_image: str
) -> None:
    for number, program in enumerate(("no-such-program", "/no/such", "./here")):
        agent = make_agent(
            f"agent{number}", runtime="command", command=[program, "--x"], docker_enabled=True,
            docker_image=tiny_image,
        )  # fmt: skip
        finding = found(agent)["command"]
        assert finding.status == "fail"
        assert finding.detail == f"{program} is not there, or cannot be executed, in {tiny_image}."
        assert "image" in finding.remedy
    assert left_behind(engine) == []


def test_a_claude_agent_in_an_image_without_it_is_told(make_agent: MakeAgent, tiny_image: str) -> None:
    findings = found(make_agent(runtime="claude_cli", docker_enabled=True, docker_image=tiny_image))
    assert findings["runtime"].status == "fail"
    assert findings["runtime"].detail.startswith("claude is not there")


def test_a_program_of_the_command_runtime_is_never_executed(make_agent: MakeAgent, tmp_path: Path) -> None:
    program = tmp_path / "deploy"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/deployed\n")
    program.chmod(0o755)
    findings = found(make_agent(runtime="command", command=[str(program)]))
    assert findings["command"].detail == f"{program} on this machine."
    assert not (tmp_path / "deployed").exists()


@pytest.mark.parametrize("mode", [0o644, None], ids=["not executable", "a directory"])
def test_what_cannot_be_executed_is_no_program(
    make_agent: MakeAgent, tmp_path: Path, mode: int | None
) -> None:
    program = tmp_path / "program"
    program.mkdir() if mode is None else program.write_text("x")
    assert found(make_agent(runtime="command", command=[str(program)]))["command"].status == "fail"


def test_hostile_names_of_programs_are_only_names(make_agent: MakeAgent, tmp_path: Path) -> None:
    for number, program in enumerate(
        [f"$(touch {tmp_path}/x)", f"'; touch {tmp_path}/x; '", "a\ntouch b", "-x", "cd"]
    ):
        finding = found(make_agent(f"a{number}", runtime="command", command=[program]))["command"]
        assert finding.status == "fail", program
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_hangs_is_ended(
    make_agent: MakeAgent, engine: docker.DockerClient, tiny_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "LOOK_LIMIT", 2.0)
    image = make_claude(engine, tiny_image, "sleep 60")
    findings = found(make_agent(runtime="claude_cli", docker_enabled=True, docker_image=image))
    assert findings["runtime"].status == "fail"
    assert "within 2 s and was ended" in findings["runtime"].detail
    assert left_behind(engine) == []


def test_what_a_hanging_engine_keeps_is_left_to_the_sweep(
    make_agent: MakeAgent, engine: docker.DockerClient, tiny_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the engine did not end the container that it is told to end.
    monkeypatch.setattr(trial, "LOOK_LIMIT", 60.0)
    monkeypatch.setattr(trial, "SLACK", -57.0)
    image = make_claude(engine, tiny_image, "sleep 60")
    agent = make_agent(runtime="claude_cli", docker_enabled=True, docker_image=image)
    began = time.monotonic()
    assert found(agent)["dry run"].detail == "It has not ended within 3 s: the Docker engine hangs."
    assert time.monotonic() - began < 10
    monkeypatch.setattr(reconcile, "YOUNG", timedelta(0))
    assert reconcile.sweep() == 1
    until(lambda: left_behind(engine) == [], "Something is left")


def test_a_version_that_fails_is_told_with_what_it_said(
    make_agent: MakeAgent, engine: docker.DockerClient, tiny_image: str
) -> None:
    image = make_claude(engine, tiny_image, "echo broken library >&2; exit 4")
    finding = found(make_agent(runtime="claude_cli", docker_enabled=True, docker_image=image))["runtime"]
    assert finding.status == "fail"
    assert "/bin/claude: Exit code 4. broken library" in finding.detail


def test_mounts_and_working_directory_are_judged_one_by_one(
    make_agent: MakeAgent, engine: object, tiny_image: str, settings: Settings, tmp_path: Path
) -> None:
    settings.HERDWEB_MOUNT_ROOTS = [str(tmp_path)]
    agent = make_agent(
        docker_enabled=True,
        docker_image=tiny_image,
        docker_mounts=[f"{tmp_path}/gone:/data"],
        working_directory="/etc",
    )
    findings = found(agent)
    assert findings["docker.mounts"].detail == f"{tmp_path}/gone is not on this host."
    assert "outside the allowed roots" in findings["working_directory"].detail
    assert findings["dry run"].remedy == "First repair: working_directory, docker.mounts."
    agent.docker.mounts = ["/etc:/data"]
    assert "outside the allowed roots" in found(agent)["docker.mounts"].detail


def test_a_mount_that_the_container_s_user_cannot_read_is_told(
    make_agent: MakeAgent, engine: object, tiny_image: str, settings: Settings
) -> None:
    root = Path("/var/tmp") / f"herdweb-trial-{os.getpid()}"
    closed = root / "closed"
    closed.mkdir(parents=True)
    closed.chmod(0)
    settings.HERDWEB_MOUNT_ROOTS = [str(root)]
    try:
        agent = make_agent(docker_enabled=True, docker_image=tiny_image, docker_mounts=[f"{closed}:/data"])
        findings = found(agent)
    finally:
        closed.rmdir()
        root.rmdir()
    assert findings["docker.mounts"].status == "ok"
    assert (findings["dry run"].status, "may not use /data" in findings["dry run"].detail) == ("warn", True)


def test_credentials_are_named_and_never_told(
    make_agent: MakeAgent, engine: object, tiny_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(runtime="claude_cli", docker_enabled=True, docker_image=tiny_image)
    assert found(agent)["credentials"].status == "warn"
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    findings = found(agent)
    assert "ANTHROPIC_API_KEY" in findings["credentials"].detail
    assert SECRET not in json.dumps([asdict(finding) for finding in findings.values()])


def test_an_engine_that_is_away_is_told_at_once(make_agent: MakeAgent) -> None:
    make_agent(docker_enabled=True)
    environment = {**process_environment(), "DOCKER_HOST": "unix:///nowhere/docker.sock"}
    done = manage("agent_test", "probe", "--json", env=environment)
    (finding,) = [each for each in json.loads(done.stdout) if each["name"] == "docker.image"]
    assert (done.returncode, finding["status"]) == (1, "fail")
    assert "cannot be reached" in finding["detail"]
    assert "systemctl start docker" in finding["remedy"]


def test_an_engine_that_hangs_is_cut_off(
    make_agent: MakeAgent, silent_engine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "ENGINE_PATIENCE", 1.0)
    began = time.monotonic()
    finding = found(make_agent(docker_enabled=True))["docker.image"]
    assert time.monotonic() - began < 5
    assert (finding.detail, finding.status) == ("The Docker engine has not answered within 1 s.", "fail")


def test_files_of_a_test_that_was_killed_are_removed_by_the_next(
    make_agent: MakeAgent, engine: object
) -> None:
    old, young = machine.state().trials() / "old", machine.state().trials() / "young"
    for folder in (old, young):
        (folder / "home").mkdir(parents=True)
    os.utime(old, (0, 0))
    found(make_agent())
    assert (old.exists(), young.exists()) == (False, True)
    (young / "home").rmdir()
    young.rmdir()


# -- the command


def test_the_command_says_the_same(make_agent: MakeAgent, engine: object, tiny_image: str) -> None:
    make_agent("sound", docker_enabled=True, docker_image=tiny_image)
    done = manage("agent_test", "sound")
    assert done.returncode == 0, done.stderr
    assert f"ok    runtime           /bin/cat in {tiny_image}." in done.stdout
    make_agent("broken", runtime="command", command=["no-such-program"])
    done = manage("agent_test", "broken", "--json")
    assert done.returncode == 1
    assert {each["name"]: each["status"] for each in json.loads(done.stdout)}["command"] == "fail"


def test_the_command_knows_no_other_agents() -> None:
    done = manage("agent_test", "nobody")
    assert (done.returncode, "There is no agent named" in done.stderr) == (1, True)


# -- the test on the form


def ask(browser: Client, agent: Agent, method: str = "get") -> dict[str, Any]:
    answer = getattr(browser, method)(f"/admin/agents/agent/{agent.pk}/test/")
    assert answer.status_code == 200
    return dict(answer.json())


def test_a_real_worker_tests_the_saved_agent(
    browser: Client,
    make_agent: MakeAgent,
    workers: Callable[..., object],
    engine: docker.DockerClient,
    tiny_image: str,
) -> None:
    workers(1, ANTHROPIC_API_KEY=SECRET)
    agent = make_agent(
        runtime="claude_cli", docker_enabled=True, docker_image=make_claude(engine, tiny_image)
    )
    assert ask(browser, agent, "post")["state"] == "waiting"
    done = until(lambda: ended(ask(browser, agent)), "No result", 30)
    assert done["state"] == "done"
    findings = {each["name"]: each for each in done["findings"]}
    assert {each["status"] for each in findings.values()} == {"ok"}, findings
    assert findings["credentials"]["detail"] == "Set for the worker that tested it: ANTHROPIC_API_KEY."
    assert SECRET not in json.dumps(done)
    assert SECRET not in everything_in_redis()
    assert left_behind(engine) == []


def ended(progress: dict[str, Any]) -> dict[str, Any] | None:
    return progress if progress["state"] != "waiting" else None


def everything_in_redis() -> str:
    redis = bells.queue().connection
    dumps = [redis.dump(key) for key in redis.scan_iter("rq:*")]
    return b"".join(filter(None, dumps)).decode("latin-1")


def test_without_a_worker_it_is_said_at_once(
    browser: Client, make_agent: MakeAgent, silent_engine: None
) -> None:
    said = ask(browser, make_agent(docker_enabled=True), "post")
    assert said["message"] == "No worker is alive, so nobody tests it."
    assert said["remedy"] == "Start them: make run."


def test_a_test_waits_for_a_busy_worker_and_says_so(
    browser: Client, make_agent: MakeAgent, workers: Callable[..., object]
) -> None:
    workers(1)
    busy = jobs.submit(make_agent("busy", runtime="command", command=["sleep", "60"]), "x")
    until(lambda: Run.objects.get().state == "running", "It did not start")
    agent = make_agent()
    assert ask(browser, agent, "post")["message"] == "Waiting for a worker to be free; 1 alive."
    jobs.cancel(busy, "a test")
    assert until(lambda: ended(ask(browser, agent)), "No result")["state"] == "done"


def test_a_test_whose_worker_was_killed_breaks_off(browser: Client, make_agent: MakeAgent) -> None:
    agent = make_agent()
    ask(browser, agent, "post")
    (job,) = bells.queue().jobs
    job.set_status("started")
    assert ask(browser, agent)["message"] == "The test broke off."
    assert ask(browser, agent, "post")["state"] == "waiting"


def test_the_queue_carries_the_agent_s_id_and_keeps_one_test_of_it(
    browser: Client, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    for _ in range(3):
        ask(browser, agent, "post")
    (job,) = bells.queue().jobs
    assert (job.func_name, job.args) == ("agents.trial.execute", [str(agent.pk)])


def test_a_test_that_nobody_took_is_given_up(browser: Client, make_agent: MakeAgent) -> None:
    agent = make_agent()
    ask(browser, agent, "post")
    bells.queue().connection.delete(*[job.key for job in bells.queue().jobs])
    assert ask(browser, agent)["state"] == "failed"
    assert ask(browser, agent, "post")["state"] == "waiting"
    assert len(bells.queue().get_job_ids()) == 1


def test_a_changed_agent_is_not_shown_the_result_of_another(browser: Client, make_agent: MakeAgent) -> None:
    agent = make_agent()
    ask(browser, agent, "post")
    Agent.objects.update(model="other")
    assert ask(browser, agent)["state"] == "failed"


def test_redis_that_is_away_is_said(
    browser: Client, make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent()
    away = Redis(unix_socket_path="/nowhere/redis.sock")
    monkeypatch.setattr(jobs, "queue", lambda: Queue("default", connection=away, serializer=JSONSerializer))
    for method in ("post", "get"):
        said = ask(browser, agent, method)
        assert (said["state"], said["message"].startswith("Redis does not answer")) == ("failed", True)
        assert "make run" in said["remedy"]
    monkeypatch.undo()


def test_a_test_that_breaks_off_is_said(
    browser: Client, make_agent: MakeAgent, workers: Callable[..., object]
) -> None:
    agent = make_agent()
    ask(browser, agent, "post")
    bells.queue().jobs[0].delete()
    # What a mistake of ours would leave: a job that cannot be executed.
    bells.queue().enqueue("agents.trial.nothing", str(agent.pk), job_id=jobs.trial_id(agent), failure_ttl=60)
    workers(1)
    said = until(lambda: ended(ask(browser, agent)), "No end")
    assert (said["state"], said["message"]) == ("failed", "The test broke off.")


# -- the command line


def config(agent: Agent) -> AgentConfig:
    return AgentConfig.from_json(agent.freeze())


def see(browser: Client, agent: Agent | None, **typed: str) -> dict[str, Any]:
    """The preview of what a browser would send with something typed."""
    form = f"/admin/agents/agent/{agent.pk}/change/" if agent else "/admin/agents/agent/add/"
    values = {**Fields(browser.get(form).content.decode()).values, **typed}
    answer = browser.post(form.replace("change/", "preview/") if agent else f"{form}preview/", values)
    assert answer.status_code == 200, answer.content
    return dict(answer.json())


def test_the_command_line_follows_what_is_typed_and_nothing_is_saved(
    browser: Client, make_agent: MakeAgent
) -> None:
    agent = make_agent(runtime="claude_cli")
    before = agent.freeze()
    seen = see(
        browser, agent, model="opus", max_turns="7", allowed_tools="Bash(git *)", system_prompt="Be kind."
    )
    assert seen["command"].startswith("claude -p --output-format=stream-json --verbose --session-id=SESSION")
    for flag in ("--model=opus", "--max-turns=7", "'--allowedTools=Bash(git *)'"):
        assert flag in seen["command"]
    assert "Be kind." not in seen["command"]
    assert ["Files", "system-prompt"] in seen["facts"]
    assert Agent.objects.get().freeze() == before


def test_a_container_is_told_in_words_and_as_a_line_without_asking_the_engine(
    browser: Client, make_agent: MakeAgent, silent_engine: None
) -> None:
    typed = {"enabled": "on", "memory": "512m", "network": "none", "env": f"TOKEN={SECRET}"}
    seen = see(browser, make_agent(), **{f"docker-0-{name}": text for name, text in typed.items()})
    facts = dict(seen["facts"])
    assert facts["Network"] == "none"
    assert facts["Limits"] == "512 MB of memory, 2 CPUs, 512 processes"
    assert seen["command"] == "cat"
    for flag in (
        "docker run --init --read-only",
        "--network=none",
        "--memory=512m",
        "--env=TOKEN ",
        "--cap-drop=ALL",
    ):
        assert flag in seen["container"]
    assert SECRET not in json.dumps(seen)


def test_the_line_of_a_container_says_what_the_engine_is_asked(
    make_agent: MakeAgent, engine: docker.DockerClient, tiny_image: str, settings: Settings
) -> None:
    """Docker's own client makes of it what herdweb makes."""
    agent = make_agent(docker_enabled=True, docker_image=tiny_image, docker_tmpfs=["/cache:size=1m"])
    line = preview(config(agent)).container
    words = [word for word in line.split() if not word.startswith("--volume")]
    words[1] = "create"
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    container = engine.containers.get(made.stdout.strip())
    host = container.attrs["HostConfig"]
    container.remove()
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (2 * 1024**3, 2 * 1024**3, 512)
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Init"]) == (True, ["ALL"], True)
    assert host["Tmpfs"]["/cache"] == "size=1m"


def test_a_credential_that_somebody_typed_is_masked(
    browser: Client, make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    seen = see(browser, make_agent(runtime="command", command=["curl"]), command=f"curl -H {SECRET}")
    assert seen["command"] == f"curl -H {'*' * len(SECRET)}"


def test_mistakes_come_with_the_names_of_their_fields(browser: Client, make_agent: MakeAgent) -> None:
    seen = see(browser, make_agent(runtime="claude_cli"), model="a b", **{"docker-0-memory": "1m"})
    assert set(seen["errors"]) == {"model", "docker-0-memory"}
    assert "Must be between 64 MB" in seen["errors"]["docker-0-memory"][0]
    assert "--model" not in seen["command"]


def test_a_new_agent_has_a_command_line_before_it_has_a_name(browser: Client) -> None:
    seen = see(browser, None, model="opus")
    assert "--model=opus" in seen["command"]
    assert set(seen["errors"]) == {"name"}
    assert not Agent.objects.exists()
    assert "program" in see(browser, None, runtime="command")["errors"]["command"][0]
    assert "has no command" in see(browser, None, runtime="command")["problem"]


def test_a_form_without_anything_is_no_mistake_of_ours(browser: Client, make_agent: MakeAgent) -> None:
    agent = make_agent(docker_enabled=True)
    for path in (f"{agent.pk}/preview/", "add/preview/"):
        assert browser.post(f"/admin/agents/agent/{path}", {}).status_code == 200


def test_every_runtime_s_own_fields_are_fields() -> None:
    for runtime in RUNTIMES.values():
        assert set(runtime.reads) <= set(AgentForm.base_fields)


def test_every_field_is_explained() -> None:
    for form in (AgentForm, DockerSettingsForm):
        assert [name for name, field in form.base_fields.items() if not field.help_text] == []


# -- who may


def test_an_operator_s_preview_takes_from_the_row_what_operators_may_not_set(
    operator: Client,  # noqa: F811
    make_agent: MakeAgent,
) -> None:
    agent = make_agent(docker_enabled=True, docker_image="mine")
    typed = {
        "docker-0-image": "evil",
        "docker-0-network": "none",
        "docker-0-memory": "1g",
        "working_directory": "/etc",
    }
    seen = see(operator, agent, **typed)
    assert dict(seen["facts"])["Where"] == "In a container of mine, removed after each run"
    assert dict(seen["facts"])["Network"].startswith("bridge")
    assert dict(seen["facts"])["Limits"].startswith("1 GB")
    assert seen["errors"] == {}


def test_who_may_not_change_an_agent_may_not_try_it(operator: Client, make_agent: MakeAgent) -> None:  # noqa: F811
    agent = make_agent()
    assert operator.post(f"/admin/agents/agent/{agent.pk}/preview/", {}).status_code == 403
    assert operator.post("/admin/agents/agent/add/preview/", {}).status_code == 403
    for method in ("get", "post"):
        assert getattr(operator, method)(f"/admin/agents/agent/{agent.pk}/test/").status_code == 403
    assert bells.queue().get_job_ids() == []
    assert "data-tryout" not in operator.get(f"/admin/agents/agent/{agent.pk}/change/").content.decode()


def test_an_agent_that_an_operator_does_not_see_is_like_none(
    operator: Client,  # noqa: F811
    make_agent: MakeAgent,
) -> None:
    agent = make_agent(docker_enabled=True)
    agent.groups.add(Group.objects.create(name="others"))
    for path in (f"{agent.pk}/test/", f"{agent.pk}/preview/", "4711/test/", "4711/preview/"):
        assert operator.post(f"/admin/agents/agent/{path}").status_code == 404
    assert bells.queue().get_job_ids() == []


def test_strangers_and_missing_agents_are_refused(
    client: Client, browser: Client, make_agent: MakeAgent
) -> None:
    assert browser.get("/admin/agents/agent/4711/test/").status_code == 404
    assert browser.post("/admin/agents/agent/4711/preview/").status_code == 404
    assert browser.get(f"/admin/agents/agent/{make_agent().pk}/preview/").status_code == 405
    browser.logout()
    assert browser.post(f"/admin/agents/agent/{Agent.objects.get().pk}/test/").status_code == 302
    assert bells.queue().get_job_ids() == []


def test_the_test_asks_for_the_form_s_token(admin: User, make_agent: MakeAgent) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(admin)
    assert strict.post(f"/admin/agents/agent/{make_agent().pk}/test/").status_code == 403


def test_the_command_is_the_only_other_door(make_agent: MakeAgent, engine: object) -> None:
    make_agent()
    call_command("agent_test", "probe", "--json")
