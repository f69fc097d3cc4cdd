"""Execute a command as a process of this machine."""

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from agents.runtimes.stream import Collector
from agents.runtimes.types import Command, Exit, Output, RunError, Status, Stream

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)

# What an agent needs of the worker's environment; everything else, our own settings first of all,
# is none of its business.
INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE")
PIECE = 65536


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it dies."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_parent() -> None:
    """The same more gently: with the chance to hand over."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class HostProcess:
    """One process with its own process group, so that its children end with it."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.process: subprocess.Popen[bytes] | None = None
        self.kill_at: float | None = None

    def lines(self) -> Iterator[list[Output]]:
        """Start the process, yield its lines in batches and last its `Exit`."""
        started = datetime.now(UTC)
        process = self.process = self._start()
        collector = Collector()
        readers = self._readers(process, collector)
        yield [Status("Process started.", {"pid": process.pid}, started=True)]
        try:
            for batch in collector.batches():
                self._kill_when_due()
                yield [*batch]
            yield [*collector.flush(), self._exit(process, started)]
        finally:
            self._kill()
            for reader in readers:
                reader.join(timeout=1)

    def stop(self, grace: float) -> None:
        """Ask the process group to end and note when patience is over."""
        self._signal(signal.SIGTERM)
        self.kill_at = time.monotonic() + grace

    def _start(self) -> subprocess.Popen[bytes]:
        run = Path(self.command.request.paths.run)
        write_files(run, self.command.files)
        program = self.command.argv[0]
        try:
            with open(run / self.command.stdin if self.command.stdin else os.devnull, "rb") as stdin:
                return subprocess.Popen(
                    self.command.argv,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=self.command.request.paths.workspace,
                    env=self._environment(),
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
        except FileNotFoundError as error:
            raise RunError(f"The program {program} was not found on this machine.") from error
        except OSError as error:
            raise RunError(f"The program {program} cannot be executed: {error.strerror}.") from error

    def _environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return {**inherited, **self.command.env, **self.command.request.secrets}

    def _readers(self, process: subprocess.Popen[bytes], collector: Collector) -> list[threading.Thread]:
        pipes: list[tuple[Stream, IO[bytes]]] = []
        if process.stdout and process.stderr:
            pipes = [("stdout", process.stdout), ("stderr", process.stderr)]
        readers = [threading.Thread(target=pump, args=(collector, *pipe), daemon=True) for pipe in pipes]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._watch, args=(process, collector, readers), daemon=True).start()
        return readers

    @staticmethod
    def _watch(
        process: subprocess.Popen[bytes], collector: Collector, readers: list[threading.Thread]
    ) -> None:
        """Close the collector once the process has ended, even if a child holds the pipes open."""
        process.wait()
        for reader in readers:
            before = -1
            # One that waits for the collector, or still brings something, has not ended.
            while reader.is_alive() and (collector.pieces.full() or collector.taken != before):
                before = collector.taken
                reader.join(timeout=1)
        collector.close()

    def _exit(self, process: subprocess.Popen[bytes], started: datetime) -> Exit:
        code = process.wait()
        number = -code if code < 0 else None
        return Exit(
            code=128 - code if code < 0 else code,
            signal=number,
            started_at=started,
            finished_at=datetime.now(UTC),
            program=self.command.argv[0],
        )

    def _kill_when_due(self) -> None:
        if self.kill_at and time.monotonic() >= self.kill_at:
            self._signal(signal.SIGKILL)

    def _kill(self) -> None:
        """End whatever is left of the group, also after a normal end."""
        self._signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


def pump(collector: Collector, stream: Stream, pipe: IO[bytes]) -> None:
    """Carry a pipe's bytes to the collector until its end."""
    with pipe:
        while data := os.read(pipe.fileno(), PIECE):
            collector.put(stream, data)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put a command's files where it expects them, readable by the owner alone."""
    for name, content in files.items():
        path = folder / name
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
