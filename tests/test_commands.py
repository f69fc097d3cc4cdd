"""What an operator types."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from agents import jobs
from agents.models import Agent, Event, Run
from tests.conftest import ROOT, execute, process_environment, until

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
SCHEMA = json.loads((ROOT / "docs" / "run.schema.json").read_text())
RESULT = {"type": "result", "subtype": "success", "result": "42", "num_turns": 2, "total_cost_usd": 0.5,
          "usage": {"input_tokens": 7, "output_tokens": 3}}  # fmt: skip


def command(*arguments: str) -> str:
    """What a command prints, called in this process."""
    out = StringIO()
    call_command(*arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def as_json(*arguments: str) -> Any:
    return json.loads(command(*arguments, "--json"))


def manage(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command as a process of its own."""
    options = {"cwd": ROOT, "env": process_environment(), "timeout": 60, "check": False, **options}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments], capture_output=True, text=True, **options
    )


def refusal(*arguments: str) -> tuple[str, int]:
    with pytest.raises(CommandError) as caught:
        command(*arguments)
    return str(caught.value), caught.value.returncode


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is what the schema says, for as much of JSON Schema as ours uses."""
    schema = {**SCHEMA["$defs"].get(str(schema.get("$ref")).rpartition("/")[2], {}), **schema}
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None),
             "array": list, "object": dict}  # fmt: skip
    wanted = schema.get("type", [])
    kinds = [types[name] for name in ([wanted] if isinstance(wanted, str) else wanted)]
    right = not kinds or any(isinstance(value, kind) for kind in kinds)  # type: ignore[arg-type]
    listed = value in schema.get("enum", [value])
    return (
        right
        and listed
        and bool(re.fullmatch(schema.get("pattern", ".*").strip("^$"), str(value), re.S) or value is None)
    )


def check_schema(run: dict[str, Any]) -> None:
    assert set(run) == set(SCHEMA["properties"]) == set(SCHEMA["required"])
    assert [key for key, schema in SCHEMA["properties"].items() if not fits(run[key], schema)] == []


# agent_set and agents


def test_agent_set_creates_changes_and_leaves_alone() -> None:
    assert command("agent_set", "web", "runtime=echo", "docker.memory=512m") == "created web\n"
    assert (
        command("agent_set", "web", "time_limit=5m", "docker.enabled=yes", "enabled=off") == "changed web\n"
    )
    assert command("agent_set", "web", "time_limit=300s", "docker.enabled=1") == "unchanged web\n"
    agent = Agent.objects.get(name="web")
    assert (agent.runtime, agent.time_limit, agent.enabled) == ("echo", 300, False)
    assert (agent.docker.memory, agent.docker.enabled) == (512 * 1024**2, True)


def test_agent_set_keeps_what_was_not_named() -> None:
    command("agent_set", "web", "runtime=command", 'command=["sh","-c","it\'s\\nfine"]', "docker.env=A=1")
    command("agent_set", "web", "description=x")
    agent = Agent.objects.get(name="web")
    assert (agent.command, agent.docker.env) == (["sh", "-c", "it's\nfine"], {"A": "1"})


def test_what_agents_prints_can_be_given_back(make_agent: MakeAgent) -> None:
    make_agent(
        "web", runtime="command", command=["sh", "-c", "echo 'a b'"], max_turns=None, description="a\nb",
        allowed_tools=["Read", "Bash(git *)"], mcp_servers={"m": {"command": "x"}}, time_limit=90,
        docker_cpus=1.5, docker_env={"A": "b\nc"}, docker_tmpfs=["/cache:size=64m"],
    )  # fmt: skip
    (printed,) = as_json("agents")
    assert printed.pop("url") == "/agents/web/"
    docker = printed.pop("docker")
    given = {**printed, **{f"docker.{name}": value for name, value in docker.items()}}
    texts = [
        f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items()
    ]
    assert command("agent_set", "web", *texts) == "unchanged web\n"
    copy = [text if not text.startswith("name=") else "name=copy" for text in texts]
    made = as_json("agent_set", "copy", *copy)
    assert (made["docker"], made["command"]) == (docker, printed["command"])


def test_agents_prints_a_table(make_agent: MakeAgent) -> None:
    make_agent("web", description="a\x1b[31m")
    head, line = command("agents").splitlines()
    assert head.split()[:3] == ["NAME", "ENABLED", "RUNTIME"]
    assert line.split() == ["web", "yes", "echo", "-", "no", "-", "a\\e[31m"]


def test_agent_set_saves_both_or_nothing(make_agent: MakeAgent) -> None:
    said, code = refusal(
        "agent_set", "web", "runtime=echo", "docker.memory=1m", "time_limit=0", "enabled=maybe"
    )
    assert said.splitlines() == [
        "Nothing was saved.",
        "enabled: Must be true or false (on, off, yes, no, 1 and 0 will do).",
        "time_limit: Must be between 1s and 7d.",
        "docker.memory: Must be between 64 MB and 64 GB.",
    ]
    assert (code, Agent.objects.count()) == (1, 0)
    make_agent("web", description="before")
    refusal("agent_set", "web", "description=after", "docker.memory=1m")
    assert Agent.objects.get().description == "before"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["web", "colour=red"], "There is no field 'colour'. Allowed: name, description, enabled"),
        (["web", "docker.privileged=true"], "docker.memory"),
        (["web", "enabled"], "is not of the form field=value"),
        (["web", "model=a", "model=b"], "model is given twice."),
        (["web", "name=other"], "name: It cannot be changed."),
        (["../x"], "name: Name may contain a-z"),
        (["w" * 64], "This one has 64."),
        ([""], "name: Name is required."),
        (["web\x1b[2J"], "name: Name may contain a-z"),
        (["web", "docker.network=host"], "docker.network: host is not allowed. Choose: bridge, none."),
        (["web", "docker.mounts=/etc:/x"], "docker.mounts: /etc is outside the allowed roots."),
        (["web", "docker.env=PATH=x"], "docker.env: PATH is reserved by herdweb."),
        (
            ["web", "docker.image=a\nname: forged"],
            "docker.image: 'a\\nname: forged' is not a valid image reference.",
        ),
    ],
)
def test_agent_set_says_what_is_allowed(arguments: list[str], expected: str) -> None:
    said, code = refusal("agent_set", *arguments)
    assert expected in said
    assert (code, Agent.objects.count()) == (1, 0)
    assert "\x1b" not in said


def test_agent_set_says_that_a_name_is_taken_in_another_case(make_agent: MakeAgent) -> None:
    make_agent("web")
    assert "names are compared without case" in refusal("agent_set", "Web", "runtime=echo")[0]


def test_agent_set_warns_of_an_image_that_is_not_there(engine: object) -> None:
    done = manage("agent_set", "web", "docker.enabled=true", "docker.image=herdweb-test/absent")
    assert (done.returncode, done.stdout) == (0, "created web\n")
    assert "docker.image: herdweb-test/absent is not on this host" in done.stderr


def test_agent_set_ends_with_an_exit_code() -> None:
    done = manage("agent_set", "web", "docker.memory=1m")
    assert (done.returncode, done.stdout) == (1, "")
    assert "docker.memory: Must be between 64 MB and 64 GB." in done.stderr.splitlines()
    assert "Traceback" not in done.stderr


def test_agent_set_lists_the_fields_in_its_help() -> None:
    assert "docker.pids_limit" in manage("agent_set", "--help").stdout


# trigger


def test_trigger_prints_the_run_s_id_and_address(make_agent: MakeAgent) -> None:
    make_agent("web")
    id_, url = command("trigger", "web", "--prompt", "go").splitlines()
    run = Run.objects.get()
    assert (id_, url) == (str(run.public_id), f"/runs/{run.public_id}/")
    assert (run.prompt, run.trigger, run.requested_by, run.state) == ("go", "command", None, "queued")


def test_trigger_prints_a_run_that_fits_its_schema(make_agent: MakeAgent) -> None:
    make_agent("web")
    run = as_json("trigger", "web", "--prompt", "go")
    check_schema(run)
    assert (run["state"], run["session"], run["result"], run["started_at"]) == ("queued", None, None, None)


def test_trigger_waits_for_a_success(make_agent: MakeAgent, workers: Callable[..., object]) -> None:
    workers(1)
    make_agent("web", runtime="command", command=["sh", "-c", f"echo '{json.dumps(RESULT)}'"])
    done = manage("trigger", "web", "--prompt", "go", "--wait", "--json")
    run = json.loads(done.stdout)
    check_schema(run)
    assert (done.returncode, done.stderr, run["state"], run["result"]) == (0, "", "succeeded", "42")
    assert (run["turns"], run["cost_usd"], run["input_tokens"], run["output_tokens"]) == (2, 0.5, 7, 3)
    assert (run["exit_code"], run["oom"], run["container"]) == (0, False, None)
    assert run["output_bytes"] == len(json.dumps(RESULT)) + 1
    assert run["events"] >= Event.objects.filter(run__public_id=run["id"]).count() - 1
    assert run["session"] == str(Run.objects.get().session.public_id)  # type: ignore[union-attr]


def test_trigger_waits_for_a_failure_and_tells_how_it_goes(
    make_agent: MakeAgent, workers: Callable[..., object]
) -> None:
    workers(1)
    make_agent("web", runtime="command", command=["sh", "-c", "sleep 0.5; exit 3"])
    done = manage("trigger", "web", "--prompt", "go", "--wait")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "failed: Exit code 3."
    assert done.stdout.splitlines()[0] == str(Run.objects.get().public_id)


def test_trigger_names_the_container(
    make_agent: MakeAgent, workers: Callable[..., object], tiny_image: str
) -> None:
    workers(1)
    make_agent("web", docker_enabled=True, docker_image=tiny_image, docker_network="none")
    run = json.loads(manage("trigger", "web", "--prompt", "go", "--wait", "--json").stdout)
    check_schema(run)
    assert (run["state"], run["reason"]) == ("succeeded", "Finished.")
    assert re.fullmatch(rf"herdweb-[0-9a-z]+-{run['id']}-1", run["container"])


def test_trigger_says_that_no_worker_is_alive(make_agent: MakeAgent) -> None:
    make_agent("web")
    arguments = [sys.executable, "manage.py", "trigger", "web", "--prompt", "go", "--wait"]
    options: dict[str, Any] = {"cwd": ROOT, "env": process_environment(), "stdout": subprocess.DEVNULL}
    # A shell's background job would have it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, **options) as waiting:
        signal.signal(signal.SIGINT, before)
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "In a new session.\n"
        assert waiting.stderr.readline() == "queued\n"
        assert waiting.stderr.readline().startswith("No worker is alive")
        waiting.send_signal(signal.SIGINT)
        assert "The run goes on." in waiting.stderr.read()
    assert waiting.returncode == 130
    assert Run.objects.get().state == "queued"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nobody", "--prompt", "go"], "There is no agent named 'nobody'. Agents: web."),
        (["\x00", "--prompt", "go"], "There is no agent named"),
        (["web"], "prompt: Prompt is required"),
        (["web", "--prompt", "  "], "prompt: Prompt is required"),
        (["web", "--prompt", "a\x00"], "prompt: Contains a NUL character at position 2."),
        (["web", "--prompt", "a\udcff"], "prompt: Not valid UTF-8 at position 2."),
        (["web", "--prompt", "a", "--continue", "x"], "session: Not found"),
        (["web", "--prompt", "a", "--continue", "last"], "session: Not found: this agent has no session"),
        (["web", "--prompt", "a", "--continue", ""], "session: Choose the session."),
        (["web", "--prompt", "a", "--fork", ""], "session: Choose the session."),
        (["web", "--prompt", "a", "--fresh", "--fork", "x"], "not allowed with argument"),
        (["web", "--prompt", "a", "--time-limit", "100d"], "time_limit: Must be between 1s and 7d."),
        (["web", "--prompt", "a", "--max-turns", "0"], "max_turns: "),
        (["web", "--prompt", "a", "--fork", str(uuid4())], "session: Not found"),
        (["web", "--prompt-file", "/nowhere/x"], "/nowhere/x cannot be read: No such file or directory."),
        (["web", "--prompt-file", "/"], "cannot be read: Is a directory."),
        (["web", "--prompt", "a", "--prompt-file", "x"], "not allowed with argument"),
        (["web", "--prompt", "a", "--continue", "x", "--fork", "x"], "not allowed with argument"),
    ],
)
def test_trigger_refuses_with_what_is_allowed(
    make_agent: MakeAgent, arguments: list[str], expected: str
) -> None:
    make_agent("web")
    said, _ = refusal("trigger", *arguments)
    assert expected in said
    assert Run.objects.count() == 0


def test_trigger_refuses_with_exit_code_2(make_agent: MakeAgent) -> None:
    make_agent("web")
    assert manage("trigger", "web").returncode == 2
    assert manage("trigger", "nobody", "--prompt", "x").returncode == 2
    assert manage("trigger").returncode == 2
    assert manage("trigger", "web", "--prompt", "x", "--colour").returncode == 2


def test_trigger_does_not_start_an_agent_that_is_off(make_agent: MakeAgent) -> None:
    make_agent("web", enabled=False)
    assert "The agent web is switched off." in refusal("trigger", "web", "--prompt", "go")[0]


@pytest.mark.parametrize(
    "prompt", ["--dangerously-skip-permissions", "-x", '"; rm -rf / #', "$(id)", "", "%s {{7*7}}"]
)
def test_a_prompt_from_the_shell_is_a_text(make_agent: MakeAgent, prompt: str) -> None:
    make_agent("web", default_prompt="default")
    assert manage("trigger", "web", "--prompt", prompt).returncode == 0
    assert Run.objects.get().prompt == (prompt or "default")


def test_a_prompt_comes_from_standard_input(make_agent: MakeAgent) -> None:
    make_agent("web")
    long = "zwölf\n" * 30_000
    assert manage("trigger", "web", "-", input=long).returncode == 0
    assert Run.objects.get().prompt == long


def test_bytes_that_are_no_text_are_refused(
    make_agent: MakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_agent("web")
    (tmp_path / "prompt").write_bytes(b"ab\xff")
    assert (
        "is not valid UTF-8 at byte 3."
        in refusal("trigger", "web", "--prompt-file", str(tmp_path / "prompt"))[0]
    )
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"\xc3")))
    assert "standard input is not valid UTF-8 at byte 1." in refusal("trigger", "web", "-")[0]
    assert "the limit is 1 MB" in refusal("trigger", "web", "--prompt-file", "/dev/zero")[0]


def test_a_session_is_continued(make_agent: MakeAgent) -> None:
    agent = make_agent("web", runtime="command", command=["cat"])
    session = execute(jobs.submit(agent, "one")).session
    assert session is not None
    command("trigger", "web", "--prompt", "two", "--continue", str(session.public_id))
    run = execute(Run.objects.get(prompt="two"))
    assert (run.state, run.session) == ("succeeded", session)
    said, code = refusal("trigger", "web", "--prompt", "x", "--fork", str(session.public_id))
    assert ("session: This session cannot be forked" in said, code) == (True, 2)


def test_trigger_says_in_which_session(make_agent: MakeAgent) -> None:
    agent = make_agent("web", runtime="command", command=["cat"])
    assert manage("trigger", "web", "--prompt", "one").stderr == "In a new session.\n"
    session = execute(Run.objects.get()).session
    assert session is not None
    said = manage("trigger", "web", "--prompt", "two").stderr
    assert said == f"In a new session; --continue last would go on with {session.public_id} (one).\n"
    assert manage("trigger", "web", "--prompt", "three", "--fresh").stderr == "In a new session.\n"
    said = manage("trigger", "web", "--prompt", "four", "--continue", "last").stderr
    assert said == f"Continues session {session.public_id} (one).\n"
    assert agent.runs.get(prompt="four").continues == session


def test_a_run_from_the_terminal_may_differ_from_its_agent(make_agent: MakeAgent) -> None:
    make_agent("web", model="haiku")
    differing = ["--model", "sonnet", "--max-turns", "3", "--time-limit", "2m", "--idle-limit", "1m"]
    command("trigger", "web", "--prompt", "go", *differing)
    config = Run.objects.get().agent_config
    found = (config.model, config.max_turns, config.time_limit, config.idle_limit)
    assert found == ("sonnet", 3, 120, 60)


def test_a_run_is_accepted_while_redis_is_away(make_agent: MakeAgent) -> None:
    make_agent("web")
    environment = {**process_environment(), "HERDWEB_REDIS_URL": "unix:///nowhere/redis.sock"}
    done = manage("trigger", "web", "--prompt", "go", "--json", env=environment)
    assert (done.returncode, json.loads(done.stdout)["state"]) == (0, "queued")
    assert "Traceback" not in done.stderr


# runs


def test_runs_lists_the_newest_first(make_agent: MakeAgent) -> None:
    web, other = make_agent("web"), make_agent("other")
    runs = [execute(jobs.submit(web, "one")), jobs.submit(web, "two"), jobs.submit(other, "three")]
    listed = as_json("runs")
    for run in listed:
        check_schema(run)
    assert [run["prompt"] for run in listed] == ["three", "two", "one"]
    assert [run["prompt"] for run in as_json("runs", "--agent", "web", "--state", "queued")] == ["two"]
    assert len(as_json("runs", "--limit", "1")) == 1
    lines = command("runs").splitlines()
    assert (len(lines), lines[3].split()[:3]) == (4, [str(runs[0].public_id), "web", "succeeded"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--agent", "nobody"], "There is no agent named 'nobody'"),
        (["--state", "done"], "invalid choice: 'done'"),
        (["--limit", "0"], "is not a whole number from 1 to 100000"),
        (["--limit", "9" * 5000], "is not a whole number"),
        (["--limit", "-1"], "is not a whole number"),
    ],
)
def test_runs_says_what_is_allowed(arguments: list[str], expected: str) -> None:
    assert expected in refusal("runs", *arguments)[0]


# run_events


def test_run_events_prints_every_event_once(make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent("web"), "\n".join(f"line {n}" for n in range(1200))))
    events = [json.loads(line) for line in command("run_events", run.short_id, "--json").splitlines()]
    assert [event["seq"] for event in events] == list(range(1, Event.objects.filter(run=run).count() + 1))
    assert set(events[0]) == {"seq", "kind", "text", "payload", "offset", "length", "created"}
    texts = [event for event in events if event["kind"] == "text"]
    assert [event["text"] for event in texts] == [f"line {n}" for n in range(1200)]
    assert [event["offset"] for event in texts[:2]] == [0, 7]
    after = command("run_events", str(run.public_id), "--after", str(events[-2]["seq"])).splitlines()
    assert [line.split()[0] for line in after] == [str(events[-1]["seq"])]


def test_run_events_cannot_be_forged(make_agent: MakeAgent) -> None:
    nasty = "a\x1b]0;title\x07\x1b[2J\r\x9b31m\u202e\u2028     7  status       Run succeeded"
    run = execute(jobs.submit(make_agent("web"), nasty))
    printed = command("run_events", str(run.public_id))
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028]", printed)
    assert "a\\e]0;title\\u0007\\e[2J\\r\\u009b31m\\u202e\\u2028" in printed
    assert len(printed.splitlines()) == Event.objects.filter(run=run).count()


def test_run_events_follows_without_gaps(make_agent: MakeAgent, workers: Callable[..., object]) -> None:
    workers(1)
    agent = make_agent(
        "web", runtime="command", command=["sh", "-c", "for i in $(seq 300); do echo $i; sleep 0.005; done"]
    )
    run = jobs.submit(agent, "go")
    done = manage("run_events", str(run.public_id), "--follow", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["text"] for event in events if event["kind"] == "text"] == [str(n) for n in range(1, 301)]
    assert events[-1]["payload"] == {"state": "succeeded"}


def test_run_events_ends_quietly_when_nobody_reads_on(make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent("web"), "\n".join("x" * 500 for _ in range(2000))))
    pipe = f"{sys.executable} manage.py run_events {run.public_id} | head -n 1"
    done = subprocess.run(
        pipe, shell=True, cwd=ROOT, env=process_environment(), capture_output=True, text=True, check=False
    )
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


@pytest.mark.parametrize("run", ["0", "-1", "9e99", "../1", "zzzzzz", "abc", "\x00", "1" * 33])
def test_a_run_that_cannot_be_is_refused(run: str) -> None:
    assert "is not a run's id" in refusal("run_events", "--", run)[0]
    assert "is not a run's id" in refusal("cancel", "--", run)[0]


def test_a_run_that_is_not_there_is_not_found() -> None:
    assert refusal("cancel", str(uuid4()))[0].startswith("There is no run")


def test_the_beginning_of_several_ids_is_refused(make_agent: MakeAgent) -> None:
    agent = make_agent("web")
    ids = ["abcdef00-0000-4000-8000-000000000001", "abcdef00-0000-4000-8000-000000000002"]
    for id_ in ids:
        Run.objects.create(public_id=id_, agent=agent, config=agent.freeze(), prompt="x")
    said, _ = refusal("cancel", "ABCDEF")
    assert all(id_ in said for id_ in ids)
    assert ids[0] in command("cancel", ids[0].upper())


# cancel


def test_cancel_ends_a_run_that_has_not_started(make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent("web"), "go")
    printed = as_json("cancel", run.short_id)
    check_schema(printed)
    assert printed["state"] == "cancelled"
    assert "(command) before it started" in printed["reason"]


def test_cancel_waits_for_a_live_run(make_agent: MakeAgent, workers: Callable[..., object]) -> None:
    workers(1)
    run = jobs.submit(make_agent("web", runtime="command", command=["sleep", "60"]), "go")
    until(lambda: Run.objects.get(pk=run.pk).state == "running", "The run did not start")
    assert as_json("cancel", str(run.public_id), "--wait")["state"] == "cancelled"


def test_cancel_leaves_an_ended_run_as_it_is(make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent("web"), "go"))
    done = manage("cancel", str(run.public_id), "--wait")
    assert (done.returncode, done.stdout) == (0, f"{run.public_id} succeeded: Finished.\n")
    assert done.stderr == "The run had ended already.\n"
