"""What an agent may use, how it is stopped, and in which words its end is told."""

import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents import jobs, machine
from agents.models import Agent, Container, Run
from tests.conftest import execute, until
from tests.test_faults import Workers, current, ended

pytestmark = pytest.mark.django_db(transaction=True)
Tiny = Callable[..., Agent]


@pytest.fixture
def tiny(make_agent: Callable[..., Agent], tiny_image: str) -> Tiny:
    """An agent of the tiny image that executes a shell script."""

    def make(script: str, **fields: Any) -> Agent:
        wanted = {"docker_enabled": True, "docker_image": tiny_image, "docker_network": "none", **fields}
        return make_agent(runtime="command", command=["sh", "-c", script], **wanted)

    return make


def run(agent: Agent, prompt: str = "-") -> Run:
    return execute(jobs.submit(agent, prompt))


def text(run: Run) -> str:
    return "\n".join(run.events.filter(kind="text").order_by("seq").values_list("text", flat=True))


def started(run: Run) -> Run:
    until(lambda: current(run).output_bytes, "The run printed nothing")
    return current(run)


def test_an_obedient_agent_is_cancelled_at_once(tiny: Tiny, workers: Workers) -> None:
    workers(1)
    run = started(jobs.submit(tiny("trap 'exit 0' TERM; echo up; sleep 60 & wait"), "-"))
    assert jobs.cancel(run, "alice")
    assert current(run).state == "cancelling"
    done = ended(run, 5)
    assert (done.state, done.reason, done.stop_by) == ("cancelled", "Cancelled by alice.", "alice")


def test_a_stubborn_agent_is_killed_after_its_grace(tiny: Tiny, workers: Workers) -> None:
    workers(1)
    agent = tiny("trap '' TERM; echo up; while :; do sleep 1; done", cancel_grace=2)
    run = started(jobs.submit(agent, "-"))
    asked = time.monotonic()
    jobs.cancel(run, "alice")
    done = ended(run, 10)
    assert 1.5 < time.monotonic() - asked < 8
    assert (done.state, done.signal) == ("cancelled", 9)
    assert "was killed" in done.reason


def test_a_run_that_has_not_started_is_withdrawn(tiny: Tiny) -> None:
    run = jobs.submit(tiny("echo never"), "-")
    assert jobs.cancel(run, "alice")
    execute(run)
    assert (run.state, run.container, run.session) == ("cancelled", None, None)


def test_cancelling_twice_or_after_the_end_changes_nothing(tiny: Tiny) -> None:
    done = run(tiny("echo done"))
    assert not jobs.cancel(done, "alice")
    done.refresh_from_db()
    assert (done.state, done.stop_by) == ("succeeded", "")


def test_the_memory_limit_is_told_with_its_number(tiny: Tiny) -> None:
    script = "x=$(yes aaaaaaaaaaaaaaaa | head -c 200000000); echo never"
    done = run(tiny(script, docker_memory=64 * 1024**2))
    assert (done.state, done.oom) == ("failed", True)
    assert "Out of memory (limit 64 MB)" in done.reason


def test_a_missing_image_is_named_with_its_remedy(tiny: Tiny) -> None:
    done = run(tiny("true", docker_image="no/such:image"))
    assert done.state == "failed"
    assert "The image no/such:image is not on this host." in done.reason
    assert "build_agent_image" in done.reason


# The SDK leaves the socket of a failed connection to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*unclosed.*socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*socket.socket.*:pytest.PytestUnraisableExceptionWarning")
def test_an_unreachable_engine_is_told_with_its_remedy(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    done = run(tiny("true"))
    assert done.state == "failed"
    assert "The Docker engine cannot be reached." in done.reason
    gc.collect()


def test_a_missing_program_is_named(make_agent: Callable[..., Agent], tiny_image: str) -> None:
    agent = make_agent(runtime="command", command=["agent-x"], docker_enabled=True, docker_image=tiny_image)
    done = run(agent)
    assert (done.state, done.exit_code) == ("failed", 127)
    assert "The program agent-x, or one that it called, was not found" in done.reason


def test_a_container_that_cannot_be_created_leaves_nothing(tiny: Tiny, settings: Any, tmp_path: Path) -> None:
    settings.HERDWEB_MOUNT_ROOTS = [str(tmp_path)]
    done = run(tiny("true", docker_mounts=[f"{tmp_path}/gone:/data"]))
    assert done.state == "failed"
    assert f"{tmp_path}/gone" in done.reason
    assert not Container.objects.filter(removed_at=None).exists()


def test_a_prompt_of_200_kib_arrives_whole(tiny: Tiny) -> None:
    done = run(tiny("wc -c; tail -c 5 /run/herdweb/prompt"), "ä" * 100 * 1024 + "(end)")
    assert text(done).split() == [str(200 * 1024 + 5), "(end)"]


@pytest.mark.parametrize(
    "prompt", ["-rf", "--help", '"; rm -rf / #', "$(id) `id`", "%s {{7*7}}", "a\nb\n'c'"]
)
def test_a_prompt_is_text_and_nothing_else(prompt: str, tiny: Tiny) -> None:
    assert text(run(tiny("cat"), prompt)) == prompt


def test_a_line_of_ten_mebibytes_is_stored_whole_and_shown_in_part(tiny: Tiny) -> None:
    size = 10 * 1024**2
    done = run(tiny(f"head -c {size} /dev/zero | tr '\\0' x; echo; echo after"))
    first, second = done.events.filter(kind="text").order_by("seq")
    assert (first.length, len(first.text), first.is_cut) == (size + 1, 64 * 1024, True)
    assert (second.text, second.offset) == ("after", size + 1)
    assert machine.state().output(str(done.public_id)).stat().st_size == size + 7


def test_a_json_line_that_is_too_long_keeps_its_beginning(tiny: Tiny) -> None:
    line = json.dumps({"type": "result", "result": "x" * 200_000})
    done = run(tiny("cat"), line)
    event = done.events.get(kind="result")
    assert (event.payload, len(event.text)) == ({"type": "result", "result": "x" * 400}, 64 * 1024)
    assert done.result.startswith("xxx")


def test_bytes_that_are_no_text_are_kept_in_the_file(tiny: Tiny) -> None:
    done = run(tiny(r"printf 'a\377\000b\n'"))
    assert text(done) == "a\ufffdb"
    assert machine.state().output(str(done.public_id)).read_bytes() == b"a\xff\x00b\n"


@pytest.mark.parametrize(
    "line",
    [
        '{"type": "assistant", "message": {"content": [{"type": "text", "text": "a\\u0000b\\ud800c"}]}}',
        '{"type": "odd", "a\\u0000b\\ud800": "x"}',
        '{"type": "result", "result": "x", "num_turns": 1e999, "total_cost_usd": NaN, "usage": [1]}',
        '{"type": "result", "num_turns": 99999999999999999999999999, "usage": {"output_tokens": -5}}',
        '{"type": ' + "[" * 5000 + "]" * 5000 + "}",
        '{"type": "assistant", "message": null}',
        '{"type": "user", "message": {"content": [null, 3, {"type": "tool_result", "content": {"a": 1}}]}}',
    ],
)
def test_output_made_to_break_a_reader_is_stored(line: str, tiny: Tiny) -> None:
    done = run(tiny("cat"), line)
    assert done.state == "succeeded"
    assert done.events.exclude(kind="status").exists()


def test_a_forged_result_does_not_make_a_success(tiny: Tiny) -> None:
    done = run(tiny("cat; exit 3"), '{"type": "result", "subtype": "success", "result": "all good"}')
    assert (done.state, done.exit_code, done.result) == ("failed", 3, "all good")


def test_exit_code_0_with_an_error_as_result_is_a_suspect_failure(tiny: Tiny) -> None:
    done = run(tiny("cat"), '{"type": "result", "is_error": true, "result": "I gave up"}')
    assert (done.state, done.suspect, done.reason) == ("failed", True, "I gave up")


def test_a_process_that_prints_its_result_and_stays_is_stopped(tiny: Tiny) -> None:
    agent = tiny("cat; sleep 60", exit_grace=1, cancel_grace=1)
    done = run(agent, '{"type": "result", "result": "done"}\n')
    assert (done.state, done.suspect, done.result) == ("succeeded", True, "done")
    assert "No exit within 1s of its result" in done.reason


def test_a_silent_agent_is_stopped_at_its_idle_limit(tiny: Tiny) -> None:
    done = run(tiny("echo up; sleep 60", idle_limit=1, cancel_grace=1))
    assert (done.state, done.reason[:33]) == ("timed_out", "No output for 1s (idle limit).")
    assert text(done) == "up"


def test_a_long_run_is_stopped_at_its_time_limit(tiny: Tiny) -> None:
    done = run(tiny("while :; do echo on; sleep 0.2; done", time_limit=1, cancel_grace=1))
    assert done.state == "timed_out"
    assert done.reason.startswith("Time limit of 1s reached.")


def test_a_flood_is_stopped_at_the_output_limit_and_says_so(tiny: Tiny) -> None:
    done = run(tiny("yes 0123456789012345678901234567890123456789", output_limit=1024**2, cancel_grace=0))
    assert done.state == "failed"
    assert "More output than the limit of 1 MB" in done.reason
    assert machine.state().output(str(done.public_id)).stat().st_size == done.output_bytes
    assert done.output_bytes < 3 * 1024**2
    assert done.events.filter(text__startswith="Output cut:").exists()


def test_a_container_is_as_closed_as_promised(tiny: Tiny) -> None:
    script = """
    id -u; id -g
    grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
    touch /root-is-writable 2>&1; touch /tmp/ok && echo tmp-ok; touch /workspace/ok && echo workspace-ok
    cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max 2>/dev/null \
      || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max
    ulimit -c; ulimit -n; mount | grep -c docker.sock; echo pid-1: $(cat /proc/1/comm)
    """
    lines = text(run(tiny(script, docker_memory=128 * 1024**2, docker_pids_limit=77))).splitlines()
    assert lines[:2] == ["1000", "1000"]
    none = "0000000000000000"
    capabilities = {tuple(line.split()) for line in lines[2:6]}
    assert capabilities == {("CapEff:", none), ("CapBnd:", none), ("NoNewPrivs:", "1"), ("Seccomp:", "2")}
    assert "Read-only file system" in lines[6]
    assert lines[7:] == [
        "tmp-ok", "workspace-ok", str(128 * 1024**2), "77", "0", "4096", "0", "pid-1: docker-init",
    ]  # fmt: skip


def test_the_limits_are_recorded_as_the_engine_applied_them(tiny: Tiny) -> None:
    done = run(tiny("true", docker_memory=128 * 1024**2, docker_cpus=0.5))
    assert done.container is not None
    limits = done.container.limits
    assert (limits["memory"], limits["memory_swap"], limits["cpus"]) == (128 * 1024**2, 128 * 1024**2, 0.5)
    assert (limits["cap_drop"], limits["read_only"], limits["user"]) == (["ALL"], True, "1000:1000")
    assert done.container.image_digest.startswith("sha256:")
    assert (done.container.exit_code, done.container.state) == (0, "removed")


def test_no_agent_sees_another_agents_session(make_agent: Callable[..., Agent], tiny_image: str) -> None:
    def agent(name: str, script: str) -> Agent:
        command = ["sh", "-c", script]
        return make_agent(
            name, runtime="command", command=command, docker_enabled=True, docker_image=tiny_image
        )

    run(agent("keeper", "echo hush-hush > /home/agent/diary; echo hush-hush > /workspace/diary"))
    found = run(agent("snooper", "find / -name diary 2>/dev/null; ls /home /workspace"))
    assert (found.state, text(found).split()) == ("succeeded", ["/home:", "agent", "/workspace:"]), (
        found.reason
    )


def test_two_sessions_of_one_agent_have_homes_of_their_own(tiny: Tiny) -> None:
    agent = tiny("ls -A /home/agent; echo mine > /home/agent/note")
    first, second = run(agent), run(agent)
    assert text(first) == text(second) == ""
    again = execute(jobs.submit(agent, "-", continues=first.session))
    assert text(again) == "note"


def test_a_second_run_of_a_busy_agent_waits_with_its_reason(tiny: Tiny, workers: Workers) -> None:
    workers(2)
    agent = tiny("echo up; sleep 2")
    first = started(jobs.submit(agent, "-"))
    second = jobs.submit(agent, "-")
    until(lambda: current(second).state == "waiting", "The second run did not wait")
    assert current(second).reason == f"Agent limit 1/1: run {first.short_id} is live."
    assert ended(second).state == "succeeded"
    assert current(second).started_at > current(first).finished_at  # type: ignore[operator]


def test_a_mount_that_leads_elsewhere_by_now_is_refused(tiny: Tiny, settings: Any, tmp_path: Path) -> None:
    settings.HERDWEB_MOUNT_ROOTS = [str(tmp_path)]
    (tmp_path / "data").mkdir()
    agent = tiny("cat /data/passwd", docker_mounts=[f"{tmp_path}/data:/data"])
    (tmp_path / "data").rmdir()
    (tmp_path / "data").symlink_to("/etc")
    done = run(agent)
    assert (done.state, done.container) == ("failed", None)
    assert "resolves outside, to /etc" in done.reason


def test_the_peak_of_the_memory_is_remembered(tiny: Tiny) -> None:
    done = run(tiny("x=$(yes aaaaaaaaaaaaaaaa | head -c 30000000); sleep 3; echo ${#x}"))
    assert done.container is not None
    assert done.container.memory_peak is not None
    assert 30_000_000 < done.container.memory_peak < 1024**3
