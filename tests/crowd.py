"""Many viewers of one run at once, as a process of its own: they must not slow down who measures.

    python -m tests.crowd PORT PATH COOKIE COUNT

Prints "ready" when all of them are connected, and in the end what they got, as JSON.
"""

import asyncio
import json
import re
import resource
import sys
from dataclasses import dataclass, field


@dataclass
class Viewer:
    """One open page: the numbers it was sent, and how its stream ended."""

    numbers: list[int] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    end: str = ""

    def take(self, message: bytes) -> None:
        """One server-sent event; before it there may be the size of an HTTP chunk."""
        numbered = re.search(rb"id: (\d+)\nevent: event\n", message)
        if numbered:
            self.numbers.append(int(numbered[1]))
            self.lines += [int(line) for line in re.findall(rb"line-(\d+)", message)]
        ended = re.search(rb"event: end\ndata: (\w+)", message)
        if ended:
            self.end = ended[1].decode()


async def connect(port: int, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A viewer's connection, once the server has begun to answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError(head.decode())
    return reader, writer


async def watch(reader: asyncio.StreamReader, viewer: Viewer) -> None:
    """Read until the run has ended."""
    rest = b""
    while not viewer.end:
        piece = await reader.read(65536)
        if not piece:
            return
        *messages, rest = (rest + piece).split(b"\n\n")
        for message in messages:
            viewer.take(message)


async def crowd(port: int, path: str, cookie: str, count: int) -> list[Viewer]:
    """All viewers, connected twenty at a time, and what they were told."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n".encode()
    connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    while len(connections) < count:
        some = min(20, count - len(connections))
        connections += await asyncio.gather(*(connect(port, request) for _ in range(some)))
    print("ready", flush=True)
    viewers = [Viewer() for _ in connections]
    pairs = zip(connections, viewers, strict=True)
    await asyncio.gather(*(watch(reader, viewer) for (reader, _), viewer in pairs))
    for _, writer in connections:
        writer.close()
    return viewers


def said(viewers: list[Viewer]) -> dict[str, object]:
    """What can be judged of it: how many had everything that the first one had, without gap or double."""
    first = viewers[0]
    whole = list(range(1, len(first.numbers) + 1))
    lines = list(range(1, len(first.lines) + 1))
    same = [each for each in viewers if each.numbers == whole and each.lines == lines]
    return {
        "viewers": len(viewers),
        "complete": len(same),
        "events": len(whole),
        "lines": len(lines),
        "delivered": sum(len(each.lines) for each in viewers),
        "ends": sorted({each.end for each in viewers}),
    }


def main(port: str, path: str, cookie: str, count: str) -> None:
    """Each viewer takes a file descriptor."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard > 0 else 4096, hard))
    print(json.dumps(said(asyncio.run(crowd(int(port), path, cookie, int(count))))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
