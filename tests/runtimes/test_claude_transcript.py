"""Claude Code's transcripts, whole and broken: every line is accounted for, and nothing raises."""

import io
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agents.runtimes import claude_transcript
from agents.runtimes.claude_transcript import KINDS, ClaudeTranscript
from agents.runtimes.types import Entry, TranscriptFacts

PLACE = {"sessionId": "5e55-1", "cwd": "/work", "version": "2.1.330", "timestamp": "2026-11-01T10:00:00.5Z"}
no_rush = hypothesis_settings(deadline=None)


def person(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "user", "uuid": "u", **PLACE, "message": {"role": "user", "content": text}, **fields}


def agent(*blocks: dict[str, Any], id: str = "msg_1", tokens: int = 5, **fields: Any) -> dict[str, Any]:
    usage = {"input_tokens": 10, "cache_read_input_tokens": 2, "output_tokens": tokens}
    message = {"id": id, "role": "assistant", "model": "opus", "content": list(blocks), "usage": usage}
    return {"type": "assistant", "uuid": "a", **PLACE, "message": message, **fields}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def call(id: str = "toolu_1", name: str = "Bash") -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": {"command": "ls"}}


def answer(id: str = "toolu_1", content: Any = "a file") -> dict[str, Any]:
    return person("", message={"content": [{"type": "tool_result", "tool_use_id": id, "content": content}]})


def through(*lines: dict[str, Any] | bytes) -> tuple[list[Entry], TranscriptFacts]:
    raw = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    return gone_through(raw)


def gone_through(raw: bytes) -> tuple[list[Entry], TranscriptFacts]:
    transcript = ClaudeTranscript(io.BytesIO(raw))
    return list(transcript), transcript.facts()


def test_a_conversation_is_told() -> None:
    entries, facts = through(person("List."), agent(call()), answer(), agent(text("One file."), id="msg_2"))
    assert [entry.speaker for entry in entries] == ["person", "agent", "tool", "agent"]
    assert [message.kind for entry in entries for message in entry.messages] == [
        "text", "tool_use", "tool_result", "text",
    ]  # fmt: skip
    assert (facts.prompt, facts.answer, facts.turns, facts.prompts) == ("List.", "One file.", 2, 1)
    assert (facts.session, facts.working_directory, facts.model) == ("5e55-1", "/work", "opus")
    assert (facts.pending, facts.waiting, facts.error, facts.malformed) == ((), False, False, 0)


def test_the_blocks_of_one_message_are_counted_once() -> None:
    _, facts = through(
        agent(text("Look."), tokens=1), agent(call(), tokens=9), answer(), agent(call("toolu_2"))
    )
    assert (facts.turns, facts.input_tokens, facts.output_tokens) == (1, 12, 9)


def test_a_tool_without_a_result_is_pending() -> None:
    _, facts = through(person("Go."), agent(call("toolu_1"), call("toolu_2", "Read")), answer())
    assert facts.pending == ("Read",)
    assert facts.waiting


def test_what_a_sub_agent_says_is_aside() -> None:
    aside: dict[str, Any] = {"isSidechain": True, "agentId": "a1"}
    entries, facts = through(person("Go."), agent(call("t"), id="msg_9", **aside), agent(text("Done.")))
    assert [entry.aside for entry in entries] == [False, True, False]
    assert (facts.asides, facts.turns, facts.pending, facts.waiting) == (1, 1, ("Bash",), False)
    assert facts.output_tokens == 10


def test_what_the_program_says_is_nobody_s_prompt() -> None:
    summary = person("This session is being continued …", isCompactSummary=True)
    boundary = {"type": "system", "subtype": "compact_boundary", "content": "Conversation compacted"}
    meta = person("Caveat: …", isMeta=True)
    command = person("<command-name>/compact</command-name>")
    entries, facts = through(boundary, summary, meta, command, person("Hello"))
    assert [entry.speaker for entry in entries] == ["", "", "", "", "person"]
    assert (facts.prompt, facts.prompts, facts.compactions) == ("Hello", 1, 1)


@pytest.mark.parametrize(
    ("kind", "field"), [("summary", "summary"), ("ai-title", "aiTitle"), ("custom-title", "customTitle")]
)
def test_the_title_is_found(kind: str, field: str) -> None:
    assert through({"type": kind, field: "  The\nname "})[1].title == "The name"


def test_a_person_s_title_comes_before_the_model_s() -> None:
    lines = [{"type": "custom-title", "customTitle": "Mine"}, {"type": "ai-title", "aiTitle": "Its"}]
    assert through(*lines)[1].title == "Mine"


def test_notes_of_the_program_are_kept_whole() -> None:
    snapshot = {"type": "file-history-snapshot", "messageId": "m", "snapshot": {"files": {"a": 1}}}
    queued = {"type": "queue-operation", "operation": "enqueue", "content": "Hello", "future": [1]}
    entries, facts = through(snapshot, queued)
    assert [entry.messages[0].payload for entry in entries] == [snapshot, queued]
    assert facts.malformed == 0


def test_unknown_fields_are_kept_in_the_models() -> None:
    turn = claude_transcript.Turn.model_validate(agent(text("Hi"), inventedLater={"a": [1]}))
    assert turn.model_extra == {"inventedLater": {"a": [1]}}


def test_pictures_are_kept() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aaaa"}}
    entries, _ = through(agent(call()), answer(content=[picture]))
    payload = entries[1].messages[0].payload
    assert payload is not None
    assert payload["block"]["content"] == [picture]


def test_an_interrupted_and_a_failed_conversation_say_so() -> None:
    assert through(person("Go."), person("[Request interrupted by user]"))[1].interrupted
    assert through(person("Go."), agent(text("API Error: 400"), isApiErrorMessage=True))[1].error


@pytest.mark.parametrize(
    ("line", "problem", "kept"),
    [
        (b'{"type": "user", "mess\n', "It is not a JSON object with a type.", '{"type": "user", "mess'),
        (b'{"no": "type"}\n', "It is not a JSON object with a type.", '{"no": "type"}'),
        (b'{"type": "user", "mess', "The file ends in the middle of it.", '{"type": "user", "mess'),
        (b"\0" * 9 + b"\n", "It holds nothing but NUL bytes.", ""),
        (b'{"type": "user"}\n', "message: Field required.", "user"),
        (b'{"type": "x", "uuid": 7}\n', "uuid: Input should be a valid string.", "x"),
        (b'{"type": "x", "timestamp": "0001-01-01T00:00:00Z"}\n', "timestamp: Value error, should be", "x"),
    ],
)
def test_a_malformed_line_is_kept_and_reported_with_its_number(line: bytes, problem: str, kept: str) -> None:
    entries, facts = through(person("Before"), line)
    assert facts.problems[0][0] == 2
    assert facts.problems[0][1].startswith(problem)
    assert [message.text for message in entries[1].messages] == [kept]


def test_bytes_that_are_no_text_are_replaced_and_reported() -> None:
    line = json.dumps(person("caf?")).encode().replace(b"?", b"\xe9") + b"\n"
    entries, facts = through(line)
    assert (entries[0].messages[0].text, facts.prompt) == ("caf\ufffd", "caf\ufffd")
    assert facts.problems == ((1, "It holds bytes that are not UTF-8."),)


def test_a_line_of_16_mb_is_read() -> None:
    entries, facts = through(person("x" * 16 * 1024**2), agent(text("Long.")))
    assert (len(entries), facts.malformed, len(facts.prompt)) == (2, 0, 16 * 1024**2)


def test_a_longer_line_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude_transcript, "LONGEST_LINE", 1000)
    entries, facts = through(person("x" * 5000), agent(text("Short.")))
    assert facts.problems == ((1, f"It has {entries[0].length} bytes; lines of up to 1000 are read."),)
    assert entries[1].offset == entries[0].length > 5000
    assert facts.answer == "Short."


class Endless(io.RawIOBase):
    """Very many lines that nobody keeps."""

    def __init__(self, lines: int) -> None:
        self.lines: Iterator[bytes] = (
            json.dumps(agent(call(f"t{number}"), id=f"m{number}")).encode() + b"\n" for number in range(lines)
        )

    def readline(self, size: int | None = -1) -> bytes:
        return next(self.lines, b"")


@pytest.mark.slow
def test_very_many_lines_need_no_more_memory_than_some() -> None:
    tracemalloc.start()
    transcript = ClaudeTranscript(Endless(30_000))  # type: ignore[arg-type]
    assert sum(1 for _ in transcript) == 30_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 1024**2
    assert transcript.facts().output_tokens == 150_000


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "type subtype uuid sessionId timestamp cwd version isSidechain isMeta agentId message content id model"
    " usage name tool_use_id text summary aiTitle customTitle totalCostUSD input_tokens output_tokens"
).split()
blocks = st.dictionaries(st.sampled_from(FIELDS), values, max_size=5)
said = st.fixed_dictionaries({}, optional={"content": st.lists(blocks, max_size=3) | values, "usage": blocks})
objects = st.builds(
    lambda kind, fields, message: {"type": kind, **fields, "message": message},
    st.sampled_from([*KINDS, "system", "attachment"]),
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=5),
    said | values,
)
one_line = objects.map(lambda item: json.dumps(item).encode()) | st.binary(max_size=60).map(
    lambda raw: raw.replace(b"\n", b"")
)


@no_rush
@given(st.lists(one_line, max_size=8), st.booleans())
def test_every_line_of_anything_is_accounted_for(lines: list[bytes], whole: bool) -> None:
    raw = b"\n".join(lines) + (b"\n" if whole else b"")
    entries, facts = gone_through(raw)
    assert sum(entry.length for entry in entries) == len(raw)
    assert [entry.number for entry in entries] == list(range(1, facts.lines + 1))
    for entry in entries:
        there = raw[entry.offset : entry.offset + entry.length]
        assert entry.messages or entry.problem or not there.strip(), there


@no_rush
@given(st.data())
def test_a_transcript_that_is_cut_anywhere_loses_only_its_last_line(data: st.DataObject) -> None:
    lines = [person("One"), agent(call()), answer(), agent(text("Two"))]
    raw = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    cut = raw[: data.draw(st.integers(0, len(raw)))]
    entries, facts = gone_through(cut)
    whole = cut.count(b"\n")
    assert [entry.problem for entry in entries[:whole]] == [""] * whole
    assert facts.malformed <= 1
