"""The same contract for every runtime, bare and wrapped in a real container."""

import gc
import itertools
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import docker
import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import strategies as st

from agents import machine
from agents.runtimes import (
    RUNTIMES,
    AgentConfig,
    Conversation,
    DockerConfig,
    Exit,
    Host,
    Parsed,
    Report,
    Request,
    RunError,
    Runtime,
    StateDir,
    Status,
    create,
)
from agents.runtimes.types import Message
from tests.environment import STATE
from tests.images import TINY
from tests.messages_api import MessagesAPI
from tests.test_claude import gateway

SECRET = "sentinel-4711-do-not-tell"
PROMPT = "first\n--flag \"quoted\" $(id) `id` 'single' ünïcode\nlast"

LAST = PROMPT.splitlines()[-1]


@dataclass(frozen=True)
class Case:
    """A runtime as configured, and what its whole text is expected to hold."""

    runtime: str
    image: str
    command: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()


@pytest.fixture(scope="session")
def messages_api(engine: docker.DockerClient) -> Iterator[MessagesAPI]:
    server = MessagesAPI(gateway(engine))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def claude_on_host(engine: docker.DockerClient) -> Iterator[str]:
    """The image's own binary on this host's PATH, for the bare half of the contract."""
    folder = Path(tempfile.mkdtemp(prefix="herdweb-claude-"))
    container = engine.containers.create(settings.HERDWEB_IMAGE)
    try:
        stream, _ = container.get_archive("/usr/local/bin/claude")
        with open(folder / "claude.tar", "wb") as file:
            file.writelines(stream)
    finally:
        container.remove()
    with tarfile.open(folder / "claude.tar") as tar:
        tar.extractall(folder, filter="data")
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{before}"
    yield str(folder)
    os.environ["PATH"] = before
    shutil.rmtree(folder)


CASES = {
    "echo": Case("echo", TINY, expected=tuple(PROMPT.splitlines())),
    "command": Case(
        "command", "herdweb-test/tiny", ("sh", "-c", "cat; echo; echo to-err >&2"), ("first", "to-err")
    ),
    "claude_cli": Case(
        "claude_cli", settings.HERDWEB_IMAGE, expected=("Understood: ", PROMPT.splitlines()[-1])
    ),
}


@pytest.fixture(params=itertools.product(sorted(RUNTIMES), ["bare", "wrapped"]), ids="-".join)
def case(
    request: pytest.FixtureRequest, tiny_image: str, messages_api: MessagesAPI, claude_on_host: str
) -> tuple[Runtime, Request]:
    """A runtime and a request for it; a runtime without a case fails here."""
    name, place = request.param
    return prepared(CASES[name], place == "wrapped", {"ANTHROPIC_BASE_URL": messages_api.url})


def prepared(case: Case, wrapped: bool, secrets: dict[str, str]) -> tuple[Runtime, Request]:
    agent = AgentConfig(
        name="contract",
        runtime=case.runtime,
        command=case.command,
        docker=DockerConfig(enabled=wrapped, image=case.image),
    )
    state, run = StateDir(STATE), str(uuid4())
    session = str(uuid4())
    request = Request(
        run=run,
        agent=agent,
        prompt=PROMPT,
        conversation=Conversation(session),
        paths=state.paths(run, state.home(agent.name, session), str(state.workspace(agent.name))),
        secrets={"ANTHROPIC_API_KEY": SECRET, **secrets},
    )
    host = machine.host()
    state.make(request.paths, host.user if wrapped else machine.own_user())
    return create(agent, STATE, host), request


def collect(runtime: Runtime, request: Request) -> list[Report]:
    return [report for batch in runtime.execute(request) for report in batch]


def with_program(request: Request, *program: str) -> tuple[Runtime, Request]:
    """The same place and limits, for an arbitrary program."""
    agent = replace(request.agent, runtime="command", command=program)
    return create(agent, STATE, machine.host()), replace(request, agent=agent)


def text_of(reports: list[Report]) -> str:
    return "\n".join(message.text for message in messages_of(reports))


def messages_of(reports: list[Report]) -> list[Message]:
    return [message for report in reports if isinstance(report, Parsed) for message in report.messages]


def test_every_runtime_has_a_case() -> None:
    assert set(CASES) == set(RUNTIMES)


def test_the_same_request_gives_the_same_command(case: tuple[Runtime, Request]) -> None:
    runtime, request = case
    assert runtime.command(request) == runtime.command(request)


def test_no_secret_and_no_prompt_is_in_the_arguments(case: tuple[Runtime, Request]) -> None:
    runtime, request = case
    command = runtime.command(request)
    assert SECRET not in f"{command.argv} {command.env}"
    assert "--flag" not in " ".join(command.argv)
    assert command.files[command.stdin].decode() == PROMPT


def test_it_tells_its_start_its_output_and_last_its_end(case: tuple[Runtime, Request]) -> None:
    runtime, request = case
    reports = collect(runtime, request)
    end = reports[-1]
    assert isinstance(end, Exit)
    assert (end.code, end.signal, end.oom) == (0, None, False)
    assert [report.started for report in reports if isinstance(report, Status)].count(True) == 1
    assert all(part in text_of(reports) for part in CASES[request.agent.runtime].expected)


def test_its_success_is_a_success(case: tuple[Runtime, Request]) -> None:
    runtime, request = case
    reports = collect(runtime, request)
    results = [message.result for message in messages_of(reports) if message.result]
    end = reports[-1]
    assert isinstance(end, Exit)
    assert runtime.outcome(end, results[-1] if results else None).ok


def test_offsets_are_contiguous_in_each_stream(case: tuple[Runtime, Request]) -> None:
    runtime, request = case
    at = {"stdout": 0, "stderr": 0}
    for report in collect(runtime, request):
        if isinstance(report, Parsed):
            assert report.offset == at[report.line.stream]
            at[report.line.stream] += len(report.line.raw)
    assert at["stdout"] > 0


def test_a_missing_program_is_named(case: tuple[Runtime, Request]) -> None:
    runtime, request = with_program(case[1], "/no/such/program", "--flag")
    reason = failure(runtime, request)
    assert "The program /no/such/program" in reason
    assert "was not found" in reason


def failure(runtime: Runtime, request: Request) -> str:
    try:
        end = collect(runtime, request)[-1]
    except RunError as error:
        return str(error)
    assert isinstance(end, Exit)
    return runtime.outcome(end, None).reason


def test_an_obedient_agent_ends_when_asked(case: tuple[Runtime, Request]) -> None:
    runtime, request = with_program(case[1], "sh", "-c", "trap 'exit 9' TERM; echo up; sleep 60 & wait")
    end, took = stopped(runtime, request, grace=20)
    assert end.code == 9
    assert took < 10


def test_a_stubborn_agent_is_killed_after_the_grace(case: tuple[Runtime, Request]) -> None:
    runtime, request = with_program(case[1], "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
    end, took = stopped(runtime, request, grace=1)
    assert (end.code, end.signal) == (137, 9)
    assert 0.9 < took < 10


def stopped(runtime: Runtime, request: Request, grace: float) -> tuple[Exit, float]:
    asked, end = 0.0, None
    for batch in runtime.execute(request):
        for report in batch:
            if isinstance(report, Parsed) and not asked:
                runtime.stop(grace)
                asked = time.monotonic()
            if isinstance(report, Exit):
                end = report
    assert end is not None
    return end, time.monotonic() - asked


def test_known_secrets_are_masked_with_as_many_stars(case: tuple[Runtime, Request]) -> None:
    script = 'printf "a"; printf "%s" "$ANTHROPIC_API_KEY" | head -c 9; sleep 0.3; '
    script += 'printf "%s" "$ANTHROPIC_API_KEY" | tail -c +10; echo b; echo "$ANTHROPIC_API_KEY" >&2'
    runtime, request = with_program(case[1], "sh", "-c", script)
    reports = collect(runtime, request)
    raw = b"".join(report.line.raw for report in reports if isinstance(report, Parsed))
    assert SECRET not in repr(reports)
    assert sorted(raw.splitlines()) == sorted([b"a" + b"*" * len(SECRET) + b"b", b"*" * len(SECRET)])


@pytest.mark.parametrize("runtime", [runtime() for runtime in RUNTIMES.values()], ids=sorted(RUNTIMES))
@given(line=st.text())
def test_no_line_breaks_a_parser(runtime: Runtime, line: str) -> None:
    assert runtime.parse(line)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = ["type", "subtype", "message", "content", "result", "is_error", "usage", "num_turns", "errors"]
TYPES = st.sampled_from(["system", "assistant", "user", "result", "error", "stream_event", "new"])


@pytest.mark.parametrize("runtime", [runtime() for runtime in RUNTIMES.values()], ids=sorted(RUNTIMES))
@given(item=st.dictionaries(st.sampled_from(KEYS), JSON), kind=TYPES)
def test_no_json_breaks_a_parser(runtime: Runtime, item: dict[str, object], kind: str) -> None:
    messages = runtime.parse(json.dumps({**item, "type": kind}))
    assert messages
    assert all(isinstance(message.text, str) for message in messages)


def test_an_unknown_runtime_is_refused_by_name() -> None:
    agent = AgentConfig(name="x", runtime="nonsense")
    with pytest.raises(RunError, match="no runtime named 'nonsense'"):
        create(agent, STATE, machine.host())


# The SDK leaves the socket of a failed connection to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*unclosed.*socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*socket.socket.*:pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_is_away_is_an_error_with_a_remedy(case: tuple[Runtime, Request]) -> None:
    _, request = case
    agent = replace(request.agent, docker=replace(request.agent.docker, enabled=True))
    runtime = create(agent, STATE, Host("test", "1000:1000", STATE, nowhere))
    with pytest.raises(RunError, match="systemctl start docker"):
        collect(runtime, replace(request, agent=agent))
    gc.collect()


def nowhere() -> docker.DockerClient:
    return docker.DockerClient(base_url="unix:///nowhere.sock")


def test_no_file_descriptor_is_left_open(case: tuple[Runtime, Request]) -> None:
    _, request = with_program(case[1], "sh", "-c", "echo out; echo err >&2")
    for _ in range(2):
        collect(*with_program(replace(request, run=str(uuid4())), *request.agent.command))
    before = open_files()
    for _ in range(5):
        collect(*with_program(replace(request, run=str(uuid4())), *request.agent.command))
    assert open_files() <= before


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
