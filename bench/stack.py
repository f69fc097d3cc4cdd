"""A whole herdweb in a temporary directory: Redis, web, workers, ticker; ended with the script."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "bench-password-1"


def prepare() -> Path:
    """Point the settings to a fresh directory; before anything imports Django."""
    sys.path.insert(0, str(ROOT))
    state = Path(tempfile.mkdtemp(prefix="herdweb-bench-"))
    os.environ.update(
        HERDWEB_STATE_DIR=str(state),
        HERDWEB_SECRET_KEY=f"bench-{state.name}-only-lives-as-long-as-the-script",
        HERDWEB_REDIS_URL=f"unix://{state}/redis.sock",
        DJANGO_SETTINGS_MODULE="herdweb.settings",
        HERDWEB_LOG_LEVEL="WARNING",
    )
    os.environ.setdefault("DATABASE_URL", f"sqlite:///{state}/herdweb.sqlite3")
    return state


@contextlib.contextmanager
def running(state: Path, workers: int = 2) -> Iterator[str]:
    """The stack; yields the site's address."""
    port = free_port()
    processes: list[subprocess.Popen[bytes]] = []
    log = open(state / "stack.log", "ab")

    def start(*arguments: str) -> None:
        processes.append(
            subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        )

    try:
        start(
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            f"{state}/redis.sock",
            "--save",
            "",
            "--dir",
            str(state),
        )
        wait((state / "redis.sock").exists)
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, check=True)
        start(
            sys.executable, "-m", "uvicorn", "herdweb.asgi:application", "--port", str(port),
            "--no-access-log", "--timeout-graceful-shutdown", "3",
        )  # fmt: skip
        start(
            sys.executable, "manage.py", "rqworker-pool", "default", "--num-workers", str(workers),
            "--serializer", "rq.serializers.JSONSerializer", "-v0",
        )  # fmt: skip
        wait(lambda: answers(port))
        wait_for_workers(workers)
        yield f"http://127.0.0.1:{port}"
    finally:
        for process in reversed(processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in reversed(processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        shutil.rmtree(state, ignore_errors=True)


def wait_for_workers(count: int) -> None:
    from agents import bells

    wait(lambda: len(bells.workers()) >= count)


def wait(condition: Callable[[], Any], seconds: float = 60, pause: float = 0.02) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(pause)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def logged_in(address: str) -> Any:
    """An HTTP client with a session of a new administrator."""
    import httpx
    from django.contrib.auth.models import User

    User.objects.create_superuser("bench", password=PASSWORD)
    client = httpx.Client(base_url=address, timeout=30)
    client.get("/login/")
    token = client.cookies["csrftoken"]
    client.post("/login/", data={"username": "bench", "password": PASSWORD, "csrfmiddlewaretoken": token})
    return client
