"""`make run` for real: a copy of the checkout, its own state directory, its own port."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import httpx
import pytest

from tests.conftest import ROOT, until

# Set for the tests' own processes; a user's terminal has none of them.
OURS = ("HERDWEB_", "DATABASE_URL", "DJANGO_", "MAKE", "MFLAGS", "PORT")
LEFT_BEHIND = (
    ".git",
    ".venv",
    "media",
    "artifacts",
    "node_modules",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
)
# In seconds, generous: the machine has other things to do as well.
SITE_LIMIT, END_LIMIT, SECOND_START_LIMIT = 120, 20, 15


class Stack:
    """A checkout in which `make run` is given, and its manage.py in another terminal."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.address = f"http://127.0.0.1:{port}"
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
        self.log = folder / "run.log"
        self.make: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Begin `make run`; the seconds until the site answers."""
        before = time.monotonic()
        with self.log.open("wb") as log:
            self.make = subprocess.Popen(
                ["make", "run", f"VENV={sys.prefix}"],
                cwd=self.folder,
                env={**self.environment, "PORT": str(self.port)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            until(self.answers, "The site does not answer", SITE_LIMIT)
        except AssertionError:
            print(self.log.read_text())
            raise
        return time.monotonic() - before

    def answers(self) -> bool:
        assert self.make is None or self.make.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.address}/login/", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> float:
        """What a terminal does on Ctrl-C; the seconds until `make` has ended."""
        assert self.make
        before = time.monotonic()
        os.killpg(self.make.pid, number)
        self.make.wait(END_LIMIT)
        return time.monotonic() - before

    def manage(self, *arguments: str) -> str:
        """A command in another terminal, without any setting."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run_again(self, **settings: str) -> subprocess.CompletedProcess[str]:
        """Another `make run` in the same checkout, which is expected to refuse."""
        return subprocess.run(
            ["make", "run", f"VENV={sys.prefix}"],
            cwd=self.folder,
            env={**self.environment, "PORT": str(self.port), **settings},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient) -> Iterator[Stack]:
    """The stack after its first start."""
    folder = tmp_path_factory.mktemp("stack") / "herdweb"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    stack = Stack(folder, free_port())
    print(f"First start: {stack.start():.1f} s")
    yield stack
    if stack.make and stack.make.poll() is None:
        stack.interrupt()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def family(pid: int) -> set[tuple[int, str]]:
    """A process and all that descend from it, each with its start time, because ids are used again."""
    children: dict[int, list[int]] = {}
    started: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
        started[int(entry.parent.name)] = fields[19]
    found, todo = set(), [pid]
    while todo:
        one = todo.pop()
        found.add((one, started.get(one, "")))
        todo += children.get(one, [])
    return found


def alive(processes: set[tuple[int, str]]) -> list[int]:
    """Those of the processes that are still there."""
    return [pid for pid, start in processes if (pid, start) in family(pid) and Path(f"/proc/{pid}").exists()]


def credentials(stack: Stack) -> dict[str, str]:
    """What the block on the screen says."""
    text = stack.log.read_text()
    names = re.findall(r"\|  as +(\S+)", text)
    passwords = re.findall(r"\|  password +(\S+)", text)
    assert len(names) == len(passwords) == 1
    return {"username": names[0], "password": passwords[0]}


def runs(stack: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(stack.manage("runs", "--json"))
    return found


def test_the_printed_password_opens_the_site(stack: Stack) -> None:
    with httpx.Client(base_url=stack.address, follow_redirects=True, trust_env=False) as browser:
        browser.get("/login/")
        form = {**credentials(stack), "csrfmiddlewaretoken": browser.cookies["csrftoken"]}
        page = browser.post("/login/", data=form)
        assert page.url.path != "/login/"
        assert "hello" in page.text
        assert browser.get("/admin/").status_code == 200


def test_two_agents_are_there_to_begin_with(stack: Stack) -> None:
    agents = {agent["name"]: agent for agent in json.loads(stack.manage("agents", "--json"))}
    assert {name: agent["runtime"] for name, agent in agents.items()} == {
        "hello": "command",
        "claude": "claude_cli",
    }


def test_seeding_again_changes_nothing(stack: Stack) -> None:
    before = stack.manage("agents", "--json")
    assert stack.manage("seed") == ""
    assert stack.manage("agents", "--json") == before


def test_a_command_in_another_terminal_reaches_the_same_stack(stack: Stack) -> None:
    run = json.loads(
        stack.manage("trigger", "hello", "--prompt", "ahoy\n{there}", "--wait", "--json").splitlines()[-1]
    )
    assert run["state"] == "succeeded", run
    output = next((stack.folder / "media" / "state" / "runs").glob("*/output.jsonl")).read_text()
    assert "  | ahoy\n  | {there}\n" in output
    assert "uid=1000" in output
    assert "Linux" in output


def test_it_listens_to_this_machine_only(stack: Stack) -> None:
    listeners = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = {fields[1].split(":")[0] for fields in listeners if fields[1].endswith(f":{stack.port:04X}")}
    assert ours & {"0100007F"}
    assert "00000000" not in ours


def test_a_second_stack_on_the_same_state_directory_is_refused(stack: Stack) -> None:
    refused = stack.run_again(PORT=str(free_port()))
    assert refused.returncode != 0
    assert "herdweb runs on" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert stack.answers()


def test_a_port_in_use_is_refused(stack: Stack, tmp_path: Path) -> None:
    refused = stack.run_again(HERDWEB_STATE_DIR=str(tmp_path / "state"))
    assert refused.returncode != 0
    assert (
        f"Port {stack.port}: Address already in use. Choose another: PORT={stack.port + 1}" in refused.stderr
    )
    assert not (tmp_path / "state" / "redis.sock").exists()
    assert stack.answers()


def test_a_setting_that_makes_no_sense_is_named(stack: Stack) -> None:
    refused = stack.run_again(PORT="eighty", HERDWEB_WORKERS="0")
    assert refused.returncode != 0
    assert "PORT: " in refused.stderr
    assert "HERDWEB_WORKERS: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_ctrl_c_ends_everything_but_the_containers_and_the_next_start_adopts_them(
    stack: Stack, engine: docker.DockerClient
) -> None:
    # Lives on however long the stack takes to end and to start again.
    script = (
        "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo line $i; sleep 0.1; done;"
        " until [ -e /workspace/go ]; do sleep 0.1; done; echo line 101"
    )
    stack.manage(
        "agent_set", "counter", "runtime=command", f"command={json.dumps(['sh', '-c', script])}",
        "docker.enabled=true", "docker.network=none",
    )  # fmt: skip
    stack.manage("trigger", "counter", "--prompt", "count")
    until(lambda: counted(stack), "The counter does not count")
    assert stack.make
    processes = family(stack.make.pid)
    container = runs(stack)[0]["id"]

    print(f"Ctrl-C: {stack.interrupt():.1f} s")
    until(lambda: not alive(processes), f"Still there: {alive(processes)}", 5)
    assert any(container in str(one.name) for one in engine.containers.list(ignore_removed=True))

    seconds = stack.start()
    print(f"Second start: {seconds:.1f} s")
    assert seconds < SECOND_START_LIMIT
    assert "password" not in stack.log.read_text()
    (stack.folder / "media" / "state" / "workspaces" / "counter" / "go").touch()
    until(lambda: runs(stack)[0]["state"] == "succeeded", "The counter was not adopted", 60)
    assert counted(stack) == "".join(f"line {number}\n" for number in range(1, 102))


def counted(stack: Stack) -> str:
    """What the counter has printed so far."""
    outputs = (
        path.read_text() for path in (stack.folder / "media" / "state" / "runs").glob("*/output.jsonl")
    )
    return next((text for text in outputs if text.startswith("line 1\n")), "")


def test_a_stack_that_is_killed_leaves_no_process_behind(stack: Stack) -> None:
    assert stack.make
    processes = family(stack.make.pid)
    leader = int((stack.folder / "media" / "state" / "stack.lock").read_text())
    os.kill(leader, signal.SIGKILL)
    stack.make.wait(END_LIMIT)
    until(lambda: not alive(processes), f"Still there: {alive(processes)}", END_LIMIT)
    stack.start()


def test_a_stack_ends_with_its_redis_and_says_so(stack: Stack) -> None:
    assert stack.make
    processes = family(stack.make.pid)
    (server,) = [pid for pid, _ in processes if b"redis-server" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(server, signal.SIGKILL)
    stack.make.wait(END_LIMIT)
    until(lambda: not alive(processes), f"Still there: {alive(processes)}", END_LIMIT)
    stack.start()


def test_a_term_ends_it_as_well(stack: Stack) -> None:
    assert stack.make
    processes = family(stack.make.pid)
    leader = int((stack.folder / "media" / "state" / "stack.lock").read_text())
    os.kill(leader, signal.SIGTERM)
    assert stack.make.wait(END_LIMIT) == 0
    until(lambda: not alive(processes), f"Still there: {alive(processes)}", 5)
