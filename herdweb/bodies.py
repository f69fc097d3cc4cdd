"""Requests that are larger than any form may be end here, before they are stored anywhere."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
# Servers and Django describe their messages each in a way of its own.
App = Callable[[Any, Any, Any], Awaitable[None]]


class TooLargeError(Exception):
    """More came than was announced and is allowed."""


class BodyLimit:
    """The site behind it reads no more than `limit` bytes of a request; it answers 413 to what has more."""

    def __init__(self, app: App, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] == "http" and announced(scope) > self.limit:
            await self.refuse(send)
            return
        try:
            await self.app(scope, self.counted(receive), send)
        except TooLargeError:
            await self.refuse(send)

    def counted(self, receive: Receive) -> Receive:
        """The same, which ends when too much has come."""
        total = 0

        async def receive_some() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self.limit:
                raise TooLargeError
            return message

        return receive_some

    async def refuse(self, send: Send) -> None:
        """Say what is allowed."""
        text = f"The request is too large: the limit is {self.limit // 1024**2} MB. Nothing was started.\n"
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})


def announced(scope: Message) -> int:
    """How large a request says that it is; 0 when it does not."""
    said = dict(scope["headers"]).get(b"content-length", b"")
    return int(said) if said.isdigit() else 0
