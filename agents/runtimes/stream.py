"""From pieces of output, as pipes and engines deliver them, to batches of lines."""

import queue
import time
from collections.abc import Iterator

from agents.runtimes.types import Line, Stream

# Longer lines are cut into several, so that one endless line cannot fill the memory.
LINE_LIMIT = 16 * 1024**2
# How long a batch may grow before it is handed on: what a viewer waits at most, and what a
# transaction costs, are balanced here.
BATCH_SECONDS = 0.05
BATCH_BYTES = 1024**2
BATCH_LINES = 10_000
# Pieces of at most 32 KB that wait between a reader and the database: enough to keep both busy, and
# little enough to be stored soon after a flood has been stopped.
WAITING_PIECES = 32
# In silence the caller still wants to look at its limits.
TICK_SECONDS = 0.2

Piece = tuple[Stream, bytes] | None
Pieces = queue.Queue[Piece]


class Splitter:
    """Cuts one stream into lines; the unfinished rest waits until its newline or the end."""

    def __init__(self, stream: Stream, limit: int = LINE_LIMIT) -> None:
        self.stream: Stream = stream
        self.limit = limit
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Line]:
        """The lines that are complete with this piece."""
        head, newline, tail = data.rpartition(b"\n")
        if not newline:
            return self._keep(data)
        whole = b"".join([*self._rest, head])
        self._rest, self._size = ([tail], len(tail)) if tail else ([], 0)
        return [Line(self.stream, part + b"\n") for part in whole.split(b"\n")]

    def flush(self) -> list[Line]:
        """The last line, if it has no newline."""
        rest = b"".join(self._rest)
        self._rest, self._size = [], 0
        return [Line(self.stream, rest)] if rest else []

    def _keep(self, data: bytes) -> list[Line]:
        self._rest.append(data)
        self._size += len(data)
        return self.flush() if self._size >= self.limit else []


class Collector:
    """Both streams of a process: pieces go in from reader threads, batches of lines come out."""

    def __init__(self) -> None:
        # Bounded, so that a slow database holds the agent back instead of filling the memory.
        self.pieces: Pieces = queue.Queue(maxsize=WAITING_PIECES)
        self.taken = 0
        self._splitters: dict[Stream, Splitter] = {
            "stdout": Splitter("stdout"),
            "stderr": Splitter("stderr"),
        }

    def put(self, stream: Stream, data: bytes) -> None:
        """Take a piece from a reader thread, which waits here while there are too many."""
        self.taken += len(data)
        self.pieces.put((stream, data))

    def close(self) -> None:
        """Say that no more will come."""
        self.pieces.put(None)

    def batches(self) -> Iterator[list[Line]]:
        """Yield lines as they come, an empty list after each fifth of a second of silence."""
        open_ = True
        while open_:
            lines: list[Line] = []
            open_ = self._gather(lines)
            yield lines

    def flush(self) -> list[Line]:
        """What was left without a newline when the streams ended."""
        return [line for splitter in self._splitters.values() for line in splitter.flush()]

    def _gather(self, lines: list[Line]) -> bool:
        """Collect one batch; says whether more may come."""
        size, until = 0, None
        while size < BATCH_BYTES and len(lines) < BATCH_LINES:
            wait = TICK_SECONDS if until is None else max(0.0, until - time.monotonic())
            try:
                piece = self.pieces.get(timeout=wait)
            except queue.Empty:
                return True
            if piece is None:
                return False
            until = until or time.monotonic() + BATCH_SECONDS
            lines += self._splitters[piece[0]].feed(piece[1])
            size += len(piece[1])
        return True
