"""Many viewers of one live run on one web process: what they get, and what other pages take meanwhile.

    .venv/bin/python bench/viewers.py [viewers] [lines a second] [seconds]

The viewers are a process of their own. Every one of them must get every line, in order and once.
"""

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from stack import ROOT, logged_in, prepare, running

STATE = prepare()

import django  # noqa: E402

django.setup()

from agents import jobs  # noqa: E402
from agents.models import Agent, DockerSettings, Run  # noqa: E402

PAGES = ("/", "/runs/", "/help/")


def main(viewers: int = 500, rate: int = 50, seconds: int = 20) -> None:
    with running(STATE, workers=1) as address:
        client = logged_in(address)
        alone = times(client, 5)
        run = jobs.submit(make_agent(rate, seconds), "-")
        crowd = gather(address, run, client, viewers)
        (STATE / "go").touch()
        started = time.monotonic()
        meanwhile = times(client, seconds)
        found = json.loads(crowd.communicate(timeout=seconds + 120)[0])
        took = time.monotonic() - started
    print(f"pages alone: {line(alone)}")
    print(f"pages beside {viewers} viewers: {line(meanwhile)} (aim: under 200 ms)")
    print(f"{found['complete']} of {viewers} viewers got all {found['lines']} lines, in order and once")
    speed = found["delivered"] / took
    print(f"delivered in total: {found['delivered']} lines in {took:.1f} s, {speed:.0f} a second")
    sys.exit(0 if found["complete"] == viewers and found["lines"] == rate * seconds else 1)


def make_agent(rate: int, seconds: int) -> Agent:
    """Counts at the rate, once everybody is there."""
    count = (
        "import os, sys, time\n"
        f"while not os.path.exists({str(STATE / 'go')!r}): time.sleep(0.05)\n"
        "start = time.monotonic()\n"
        f"for number in range({rate * seconds}):\n"
        f"    time.sleep(max(0, start + number / {rate} - time.monotonic()))\n"
        "    print(f'line-{number + 1}', flush=True)\n"
    )
    agent = Agent.objects.create(name="counter", runtime="command", command=[sys.executable, "-c", count])
    DockerSettings.objects.create(agent=agent)
    return agent


def gather(address: str, run: Run, client: Any, viewers: int) -> "subprocess.Popen[str]":
    """The viewers, all connected."""
    port, path = address.rpartition(":")[2], f"{run.get_absolute_url()}stream/"
    cookie = f"sessionid={client.cookies['sessionid']}"
    started = time.monotonic()
    crowd = subprocess.Popen(
        [sys.executable, "-m", "tests.crowd", port, path, cookie, str(viewers)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert crowd.stdout
    assert crowd.stdout.readline() == "ready\n"
    print(f"{viewers} viewers connected in {time.monotonic() - started:.1f} s")
    return crowd


def times(client: Any, seconds: float) -> list[float]:
    """How long pages take, asked for one after the other, ten a second."""
    found: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for page in PAGES:
            started = time.monotonic()
            assert client.get(page).status_code == 200
            found.append(time.monotonic() - started)
            time.sleep(max(0.0, 0.1 - found[-1]))
    return found


def line(seconds: list[float]) -> str:
    ms = [value * 1000 for value in seconds]
    return f"median {statistics.median(ms):.0f} ms (min {min(ms):.0f}, max {max(ms):.0f}, n={len(ms)})"


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
