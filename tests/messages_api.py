"""A stand-in for the model's Messages API, enough to drive the real Claude Code offline.

What it answers is decided by the last thing the user said:
`RUN <command>` asks for the Bash tool, a tool's result is repeated, `THINK` thinks first, `RECALL`
lists everything the user said before, `FAIL` is refused, `LIMIT <text>` with that text as a rate limit
(while `limited` is true), `SPENT <window> <epoch>` by a subscription of which this window is used up,
`OVERLOAD` because of too much load, `FLAKY <n>` for the first n requests, `HANG` is never answered.
`LONG` makes an answer of 500 tokens, which the API tells at its end only.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG_SECONDS = 60


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "MessagesAPI"

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or b"{}")
        self.server.requests.append({"path": self.path, "key": self.headers.get("x-api-key"), "body": body})
        if "count_tokens" in self.path:
            return self._json(200, {"input_tokens": 10})
        said = last_said(body)
        if "FAIL" in said:
            error = {"type": "invalid_request_error", "message": "refused by the stand-in"}
            return self._json(400, {"type": "error", "error": error})
        if "LIMIT " in said and self.server.limited:
            message = said.rpartition("LIMIT ")[2].splitlines()[0]
            return self._json(
                429, {"type": "error", "error": {"type": "rate_limit_error", "message": message}}
            )
        if "SPENT " in said:
            return self._used_up(*said.rpartition("SPENT ")[2].split()[:2])
        if "OVERLOAD" in said or self._is_flaky(said):
            error = {"type": "overloaded_error", "message": "Overloaded"}
            return self._json(529, {"type": "error", "error": error})
        if "HANG" in said:
            threading.Event().wait(HANG_SECONDS)
        return self._stream(body) if body.get("stream") else self._json(200, whole(body))

    def log_message(self, *_: Any) -> None:
        """Silence."""

    def _used_up(self, window: str, epoch: str) -> None:
        """As the API answers a subscription: the headers tell more than the text."""
        error = {
            "type": "rate_limit_error",
            "message": "This request would exceed your account's rate limit.",
        }
        told = {"status": "rejected", "reset": epoch, "representative-claim": window}
        headers = {f"anthropic-ratelimit-unified-{name}": value for name, value in told.items()}
        self._json(429, {"type": "error", "error": error}, headers)

    def _is_flaky(self, said: str) -> bool:
        times = said.rpartition("FLAKY ")[2].split() if "FLAKY " in said else []
        self.server.refused += 1 if times else 0
        return bool(times) and self.server.refused <= int(times[0])

    def _json(self, status: int, answer: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in events(body):
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        self.close_connection = True


class MessagesAPI(ThreadingHTTPServer):
    """The server; `requests` holds what it was asked."""

    daemon_threads = True

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.limited = True
        self.refused = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"


def blocks_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def last_said(body: dict[str, Any]) -> str:
    users = [message for message in body.get("messages", []) if message["role"] == "user"]
    return "\n".join(block.get("text", "") for block in blocks_of(users[-1])) if users else ""


def said_before(body: dict[str, Any]) -> list[str]:
    texts = [
        block["text"]
        for message in body["messages"]
        if message["role"] == "user"
        for block in blocks_of(message)
        if block["type"] == "text" and not block["text"].startswith("<system-reminder>")
    ]
    return texts[:-1]


def answer(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The content blocks of the reply."""
    results = [block for block in blocks_of(body["messages"][-1]) if block["type"] == "tool_result"]
    said = last_said(body)
    if results:
        return [{"type": "text", "text": f"The tool said: {json.dumps(results[-1]['content'])}"}]
    if "RUN " in said and any(tool["name"] == "Bash" for tool in body.get("tools", [])):
        command = said.rpartition("RUN ")[2].splitlines()[0]
        tool = {"type": "tool_use", "id": f"toolu_{len(body['messages'])}", "name": "Bash"}
        return [{"type": "text", "text": "I will look."}, {**tool, "input": {"command": command}}]
    if "RECALL" in said:
        return [{"type": "text", "text": f"You said: {' | '.join(said_before(body))}"}]
    thinking = (
        [{"type": "thinking", "thinking": "Let me think.", "signature": "sig"}] if "THINK" in said else []
    )
    return [*thinking, {"type": "text", "text": f"Understood: {said.strip()[-200:]}"}]


def whole(body: dict[str, Any]) -> dict[str, Any]:
    content = answer(body)
    used = any(block["type"] == "tool_use" for block in content)
    return {**frame(body), "content": content, "stop_reason": "tool_use" if used else "end_turn"}


def frame(body: dict[str, Any]) -> dict[str, Any]:
    usage = {
        "input_tokens": 100,
        "output_tokens": 1 if "LONG" in last_said(body) else 20,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 7,
    }
    return {
        "id": f"msg_{len(body['messages'])}", "type": "message", "role": "assistant", "model": body["model"],
        "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage,
    }  # fmt: skip


def events(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    reply = whole(body)
    yield {"type": "message_start", "message": frame(body)}
    for index, block in enumerate(reply["content"]):
        yield {"type": "content_block_start", "index": index, "content_block": empty(block)}
        for delta in deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ended = {"stop_reason": reply["stop_reason"], "stop_sequence": None}
    used = {"output_tokens": 500 if "LONG" in last_said(body) else 20}
    yield {"type": "message_delta", "delta": ended, "usage": used}
    yield {"type": "message_stop"}


def empty(block: dict[str, Any]) -> dict[str, Any]:
    blank: dict[str, dict[str, Any]] = {
        "text": {"text": ""},
        "thinking": {"thinking": "", "signature": ""},
        "tool_use": {"input": {}},
    }
    return {**block, **blank[block["type"]]}


def deltas(block: dict[str, Any]) -> list[dict[str, Any]]:
    if block["type"] == "tool_use":
        return [{"type": "input_json_delta", "partial_json": json.dumps(block["input"])}]
    if block["type"] == "thinking":
        return [
            {"type": "thinking_delta", "thinking": block["thinking"]},
            {"type": "signature_delta", "signature": block["signature"]},
        ]
    return [{"type": "text_delta", "text": block["text"]}]
