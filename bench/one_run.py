"""What herdweb adds to a container: POST to terminal state against the Engine API alone.

    .venv/bin/python bench/one_run.py [runs] [lines]

Both are measured in turns in the same process. The floor is the same container, with the same
limits and mounts, created, attached, started, read, awaited and removed through the Engine API.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from stack import logged_in, prepare, running, wait

STATE = prepare()

import django  # noqa: E402

django.setup()

from agents import machine, sessions  # noqa: E402
from agents.models import Agent, DockerSettings, Run  # noqa: E402
from agents.runtimes import creation  # noqa: E402
from agents.runtimes.engine import connected  # noqa: E402
from agents.runtimes.keeping import Place  # noqa: E402
from tests.images import engine_client, make_tiny  # noqa: E402

PROGRAM = ["sh", "-c", "cat"]


def main(runs: int = 20, lines: int = 100_000) -> None:
    make_tiny(engine_client())
    with running(STATE) as address:
        client = logged_in(address)
        agent = make_agent("trivial", PROGRAM)
        many = make_agent("lines", ["sh", "-c", f"seq 1 {lines}"])
        trivial(client, agent, runs)
        volume(client, many, lines)
        memory(client)


def make_agent(name: str, program: list[str]) -> Agent:
    agent = Agent.objects.create(name=name, runtime="command", command=program, max_concurrent=8)
    DockerSettings.objects.create(agent=agent, enabled=True, image="herdweb-test/tiny", network="none")
    return Agent.objects.get(pk=agent.pk)


def trivial(client: Any, agent: Agent, runs: int) -> None:
    floor(agent), through_herdweb(client, agent)
    bare, ours, posts = [], [], []
    for _ in range(runs):
        bare.append(floor(agent))
        post, whole, _run = through_herdweb(client, agent)
        ours.append(whole)
        posts.append(post)
    over = statistics.median(ours) - statistics.median(bare)
    print(f"floor: {line(bare)}")
    print(f"POST to 303: {line(posts)} (aim: under 100 ms)")
    print(f"POST to terminal: {line(ours)}")
    print(f"over the floor at the median: {over * 1000:.0f} ms (aim: at most 150 ms)")


def volume(client: Any, agent: Agent, lines: int) -> None:
    engine, ours = [], []
    for _ in range(3):
        engine.append(floor(agent))
        _, whole, run = through_herdweb(client, agent)
        stored = run.events.filter(kind="text").count()
        assert (run.state, stored) == ("succeeded", lines), (run.state, stored)
        ours.append(whole)
    ratio = statistics.median(ours) / statistics.median(engine)
    print(f"{lines} lines, engine alone: {line(engine)}")
    print(f"{lines} lines, stored: {line(ours)}")
    print(f"ratio at the median: {ratio:.2f} (aim: at most 3)")


def floor(agent: Agent) -> float:
    """One life of the agent's container with nothing of herdweb's around it."""
    command, host = prepared(agent)
    started = time.monotonic()
    with connected(host) as client:
        wanted = {**creation.options(command, host), "mounts": creation.mounts(command, host, STATE)}
        container = client.containers.create(**wanted)
        name = str(container.id)
        stream = client.api.attach(name, stream=True, demux=True)
        container.start()
        for _ in stream:
            pass
        client.api.wait(name)
        container.reload()
        container.remove(v=True, force=True)
    return time.monotonic() - started


def prepared(agent: Agent) -> tuple[Any, Any]:
    run = Run.objects.create(agent=agent, config=agent.freeze(), prompt="hello\n", state=Run.State.SUCCEEDED)
    config, host = run.agent_config, machine.host()
    runtime = machine.runtime(config)
    _, request = sessions.settle(run, config, runtime)
    command = runtime.command(request)
    creation.prepare(command, host, Place.of(command.request, host, STATE))
    return command, host


def through_herdweb(client: Any, agent: Agent) -> tuple[float, float, Run]:
    """One run by the web form; seconds to the redirect and to the terminal state."""
    token = client.cookies["csrftoken"]
    started = time.monotonic()
    answer = client.post(
        f"/agents/{agent.name}/", data={"prompt": "hello\n", "mode": "new", "csrfmiddlewaretoken": token}
    )
    posted = time.monotonic() - started
    assert answer.status_code in (302, 303), answer.status_code
    run_id = answer.headers["location"].rstrip("/").rpartition("/")[2]
    wait(lambda: Run.objects.filter(public_id=run_id, state__in=Run.TERMINAL).exists(), pause=0.005)
    return posted, time.monotonic() - started, Run.objects.get(public_id=run_id)


def memory(client: Any) -> None:
    """PSS of the processes of one live run: the work horse beside its waiting worker."""
    agent = make_agent("sleeper", ["sleep", "4"])
    through = client.post(
        f"/agents/{agent.name}/",
        data={"prompt": "-", "mode": "new", "csrfmiddlewaretoken": client.cookies["csrftoken"]},
    )
    run_id = through.headers["location"].rstrip("/").rpartition("/")[2]
    wait(lambda: Run.objects.get(public_id=run_id).state == "running")
    horse = int(Run.objects.get(public_id=run_id).lease_owner.split(":")[1])
    parent = int(Path(f"/proc/{horse}/stat").read_text().rpartition(")")[2].split()[1])
    print(f"memory of a live run: work horse {pss(horse):.0f} MB, its worker {pss(parent):.0f} MB (PSS)")


def pss(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(row.split()[1]) for row in rollup.splitlines() if row.startswith("Pss:")) / 1024


def line(seconds: list[float]) -> str:
    ms = [value * 1000 for value in seconds]
    return f"median {statistics.median(ms):.0f} ms (min {min(ms):.0f}, max {max(ms):.0f}, n={len(ms)})"


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
