"""Claude Code's stream-json, read tolerantly: what is not understood is kept, nothing raises.

Shapes as printed by `claude -p --output-format stream-json --verbose` 2.1: one JSON object a line
with a `type` of system, assistant, user, result, stream_event and others.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from agents.runtimes.types import Kind, Message, Result, Spent

# Counts beyond this are not counts, and would not fit the database's columns.
LARGEST_COUNT = 2**53
NO_MODEL = "<synthetic>"
BLOCK_KINDS: Mapping[str, Kind] = {
    "text": "text",
    "thinking": "thinking",
    "redacted_thinking": "thinking",
    "tool_use": "tool_use",
    "server_tool_use": "tool_use",
    "tool_result": "tool_result",
    "web_search_tool_result": "tool_result",
}
RESULT_ERRORS = {
    "error_max_turns": "The turn limit was reached",
    "error_max_budget_usd": "The budget was reached",
    "error_during_execution": "The agent failed while it was executing",
}


OWN_LIMITS = ("error_max_turns", "error_max_budget_usd")


def kept_its_limit(result: str) -> bool:
    """Whether a result tells that the agent ended itself at the limit of turns or dollars it was given."""
    return result.startswith(tuple(RESULT_ERRORS[name] for name in OWN_LIMITS))


def messages(line: str) -> list[Message]:
    """The events that one line of output holds; text if it is not a JSON object with a type."""
    item = json_object(line)
    return [Message("text", line)] if item is None else read(item)


def read(item: dict[str, Any]) -> list[Message]:
    """The events that an object with a type holds; one at least."""
    reader = READERS.get(str(item.get("type")))
    found = reader(item) if reader else []
    return found or [Message("system", title(item), item)]


def json_object(line: str) -> dict[str, Any] | None:
    """The object on this line, if it is one that says its type."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        item = json.loads(line, parse_constant=str, parse_float=finite)
    except (ValueError, RecursionError):
        return None
    if not isinstance(item, dict) or "type" not in item:
        return None
    # Escapes can spell characters that no database takes, in names as well.
    return dict(storable(item)) if "\\u" in line else item


def finite(text: str) -> float | str:
    """A number, or its spelling when it is too large to be one."""
    value = float(text)
    return value if math.isfinite(value) else text


def storable(value: Any) -> Any:
    """The same value without NUL and half characters, which databases refuse."""
    if isinstance(value, str):
        return value.replace("\x00", "").encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return value


def read_system(item: dict[str, Any]) -> list[Message]:
    """Status lines of the agent itself; the first one tells its version."""
    return [Message("system", title(item), item, version=str(item.get("claude_code_version") or "")[:64])]


def read_turn(item: dict[str, Any]) -> list[Message]:
    """The content blocks of an assistant's or user's message, one event each."""
    message = item.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return [Message("text", content, item)]
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    context = {key: value for key, value in item.items() if key != "message"}
    found = [read_block(block, context) for block in blocks]
    return [found[0]._replace(spent=spent(message, context)), *found[1:]] if found else []


def spent(message: Any, context: dict[str, Any]) -> Spent | None:
    """What an answer of the model says it used; None for anything else."""
    usage, name = (message.get("usage"), message.get("id")) if isinstance(message, dict) else (None, None)
    if not isinstance(usage, dict) or not isinstance(name, str) or not name:
        return None
    # What the program says in the place of an answer, an error of the API for example, is no turn.
    if message.get("model") == NO_MODEL:
        return None
    tokens = (input_tokens(usage) or 0) + (count(usage.get("output_tokens")) or 0)
    return Spent(name[:100], min(tokens, LARGEST_COUNT), turn=not context.get("parent_tool_use_id"))


def read_block(block: dict[str, Any], context: dict[str, Any]) -> Message:
    """One content block; kinds that nobody knows yet are kept as system events."""
    kind = BLOCK_KINDS.get(str(block.get("type")), "system")
    return Message(kind, block_text(block), {**context, "block": block})


def block_text(block: dict[str, Any]) -> str:
    """What a person reads of a block."""
    for key in ("text", "thinking"):
        if isinstance(block.get(key), str):
            return str(block[key])
    if "name" in block:
        return str(block["name"])
    return content_text(block.get("content"))


def content_text(content: object) -> str:
    """The text of a tool's result, which is a string or a list of blocks."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [str(part["text"]) for part in content if isinstance(part, dict) and "text" in part]
        return "\n".join(texts)
    return ""


def read_result(item: dict[str, Any]) -> list[Message]:
    """The last message: what the agent claims of its run."""
    usage = item.get("usage") if isinstance(item.get("usage"), dict) else {}
    result = Result(
        text=result_text(item),
        is_error=bool(item.get("is_error")) or str(item.get("subtype", "success")).startswith("error"),
        turns=count(item.get("num_turns")),
        cost_usd=amount(item.get("total_cost_usd")),
        input_tokens=input_tokens(usage or {}),
        output_tokens=count((usage or {}).get("output_tokens")),
    )
    return [Message("result", result.text, item, result=result)]


def result_text(item: dict[str, Any]) -> str:
    """The result in words, or the errors when there is none."""
    if isinstance(item.get("result"), str):
        return str(item["result"])
    errors = item.get("errors")
    told = "; ".join(str(error) for error in errors) if isinstance(errors, list) else ""
    subtype = str(item.get("subtype") or "")
    label = RESULT_ERRORS.get(subtype, subtype.replace("_", " "))
    return f"{label}: {told}" if label and told else f"{label}." if label else told


def input_tokens(usage: dict[str, Any]) -> int | None:
    """Everything that was read, whether it came from the cache or not."""
    keys = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    counts = [found for found in (count(usage.get(key)) for key in keys) if found is not None]
    return min(sum(counts), LARGEST_COUNT) if counts else None


def read_error(item: dict[str, Any]) -> list[Message]:
    """An error that was printed as a message of its own."""
    error = item.get("error")
    text = error.get("message") if isinstance(error, dict) else error or item.get("message")
    return [Message("error", str(text or "error"), item)]


def title(item: dict[str, Any]) -> str:
    """A system message in one line: its type and subtype, and its text if it has one."""
    words = [str(item[key]) for key in ("type", "subtype") if isinstance(item.get(key), str)]
    text = item.get("text") or item.get("content")
    return ": ".join(["/".join(words), text] if isinstance(text, str) else ["/".join(words)])


def count(value: object) -> int | None:
    """A number of things, if it is one; an agent may claim anything."""
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_COUNT
    return int(str(value)) if fits else None


def amount(value: object) -> float | None:
    """A sum of money, if it is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and 0 <= value < 1e9 else None


READERS = {
    "system": read_system,
    "assistant": read_turn,
    "user": read_turn,
    "result": read_result,
    "error": read_error,
}
