"""The real parts that tests stand on: Redis, the engine, workers, a web server."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest
from django.apps import apps
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group, User
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from agents import bells, jobs, machine
from agents.models import Agent, DockerSettings, Run
from tests.environment import STATE
from tests.images import engine_client, make_tiny

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """A file instead of memory, so that worker processes see the tests' database."""
    if connection.vendor == "sqlite":
        settings.DATABASES["default"].setdefault("TEST", {})["NAME"] = str(STATE / "test.sqlite3")
        connection.settings_dict["TEST"]["NAME"] = str(STATE / "test.sqlite3")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """PostgreSQL drops no database that a process of ours is just letting go of."""
    yield
    with django_db_blocker.unblock():
        if connection.vendor == "postgresql":
            others = "datname = current_database() AND pid <> pg_backend_pid()"
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")


@pytest.fixture(scope="session", autouse=True)
def redis_server() -> Iterator[None]:
    """A real Redis on a socket in the tests' state directory."""
    socket = STATE / "redis.sock"
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(STATE)],
        stdout=subprocess.DEVNULL,
    )
    until(socket.exists, "Redis did not start")
    yield
    server.terminate()
    server.wait()


@pytest.fixture(autouse=True)
def empty_queue() -> Iterator[None]:
    """No bell of one test is heard in another."""
    yield
    bells.queue().connection.flushdb()


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The Docker engine; `make setup` starts one, and tests without it are failures, not skips."""
    client = engine_client()
    yield client
    leftovers = client.containers.list(
        all=True, filters={"label": f"herdweb.instance={settings.HERDWEB_INSTANCE}"}
    )
    for container in leftovers:
        container.remove(force=True)
    client.close()


@pytest.fixture(scope="session")
def tiny_image(engine: docker.DockerClient) -> str:
    return make_tiny(engine)


@pytest.fixture
def make_agent(db: None) -> Iterator[Callable[..., Agent]]:
    """Creates agents: fields by name, those of the Docker settings with `docker_` before it.

    What they work on goes with the test; another one's agent of the same name begins with nothing.
    """
    names = set()

    def make(name: str = "probe", **fields: Any) -> Agent:
        docker_fields = {key[7:]: fields.pop(key) for key in list(fields) if key.startswith("docker_")}
        agent = Agent.objects.create(name=name, **{"runtime": "echo", **fields})
        DockerSettings.objects.create(agent=agent, **docker_fields)
        names.add(name)
        return agent

    yield make
    for name in names:
        shutil.rmtree(machine.state().workspace(name), ignore_errors=True)


@pytest.fixture
def admin(db: None) -> User:
    password = hashed("a-password-for-tests")
    return User.objects.create(username="admin", password=password, is_staff=True, is_superuser=True)


@pytest.fixture
def person(db: None) -> Callable[..., User]:
    """Creates users: a role and further groups by name.

    Tests that empty all tables take the roles along, so they are made again by their migration.
    """
    editor = SimpleNamespace(connection=connection)
    import_module("agents.migrations.0002_rights_and_pages").make_roles(apps, editor)
    import_module("agents.migrations.0014_schedule_rights").add_rights(apps, editor)

    def make(name: str, *groups: str, staff: bool = False) -> User:
        user = User.objects.create(username=name, password=hashed("a-password-for-tests"), is_staff=staff)
        user.groups.set([Group.objects.get_or_create(name=group)[0] for group in groups])
        return user

    return make


@lru_cache
def hashed(password: str) -> str:
    """Once: hashing is meant to be slow."""
    return make_password(password)


def execute(run: Run) -> Run:
    """Work on a run in this process, as a work horse would."""
    jobs.execute(str(run.public_id))
    run.refresh_from_db()
    return run


def until(condition: Callable[[], Any], complaint: str, seconds: float = 30) -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(complaint)


def process_environment() -> dict[str, str]:
    """For processes of ours that tests start: the same settings, the tests' database."""
    database = connection.settings_dict
    url = f"sqlite:///{database['NAME']}"
    if connection.vendor == "postgresql":
        host = f"{database['HOST']}:{database['PORT']}" if database["PORT"] else database["HOST"]
        url = f"postgres://{database['USER']}:{database['PASSWORD']}@{host}/{database['NAME']}"
    return {**os.environ, "DATABASE_URL": url, "PYTHONUNBUFFERED": "1"}


def start(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """A process of ours, in its own group so that it can be ended whole."""
    log = open(STATE / "processes.log", "ab")
    with log:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**process_environment(), **environment},
            start_new_session=True,
            stdout=log,
            stderr=log,
        )


def end(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> None:
    """End a process and its group."""
    if process.poll() is None:
        os.killpg(process.pid, number)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def workers(transactional_db: None) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts pools of real workers; all are ended with the test."""
    pools: list[subprocess.Popen[bytes]] = []

    def pool(count: int = 1, **environment: str) -> subprocess.Popen[bytes]:
        # Of those there may be one that was killed, and is listed a little longer.
        before = set(bells.workers())
        pools.append(
            start(
                "manage.py", "rqworker-pool", "default", "--num-workers", str(count),
                "--serializer", "rq.serializers.JSONSerializer", **environment,
            )
        )  # fmt: skip
        until(lambda: len({*bells.workers()} - before) >= count, "The workers did not start")
        return pools[-1]

    yield pool
    for process in pools:
        end(process)


@pytest.fixture
def web(transactional_db: None) -> Iterator[str]:
    """The site served by uvicorn as in production; yields its address."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = start(
        "-m", "uvicorn", "herdweb.asgi:application", "--port", str(port), "--timeout-graceful-shutdown", "3"
    )  # fmt: skip
    until(lambda: listens(port), "The web server did not start")
    yield f"http://127.0.0.1:{port}"
    end(server)


def listens(port: int) -> bool:
    import socket

    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
