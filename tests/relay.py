"""A way to the engine that can be cut, so that the engine itself need not be."""

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

ENGINE = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


class Relay:
    """A socket that leads to the engine's until it is `cut`, which `before` a request it does by itself."""

    def __init__(self, path: Path, before: str = "") -> None:
        self.url = f"unix://{path}"
        self.before = before.encode()
        self.whole = True
        self._ends: list[socket.socket] = []
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.whole = False
        ends, self._ends = self._ends, []
        for end in ends:
            shut(end)

    def mend(self) -> None:
        self.whole = True

    def close(self) -> None:
        self.cut()
        shut(self._listening)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                if self.whole:
                    self._join(client)
                else:
                    shut(client)

    def _join(self, client: socket.socket) -> None:
        engine = socket.socket(socket.AF_UNIX)
        engine.connect(ENGINE)
        self._ends += [client, engine]
        for source, target, watched in ((client, engine, True), (engine, client, False)):
            threading.Thread(target=self._carry, args=(source, target, watched), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, watched: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if watched and self.before and self.before in data.partition(b"\r\n")[0]:
                    self.cut()
                    return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


def shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
