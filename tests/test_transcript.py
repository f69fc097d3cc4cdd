"""What the page of a run makes of its events."""

import json
import re
from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from agents import jobs, live, transcript
from agents.models import Agent, Event, Run
from tests.conftest import execute
from tests.test_pages import HOSTILE, Markup

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
Add = Callable[..., Event]
NONSENSE: list[Any] = [None, 1, "x", [], ["x"], {}, {"x": [1]}, True, [[[]]], HOSTILE[0]]

SHAPES = [
    *NONSENSE,
    *({"block": each} for each in NONSENSE),
    {"parent_tool_use_id": {"a": 1}, "block": {"id": ["x"]}},
]


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


@pytest.fixture
def run(make_agent: MakeAgent) -> Run:
    found = jobs.submit(make_agent(), "x")
    Run.objects.update(state="running")
    found.refresh_from_db()
    return found


@pytest.fixture
def add(run: Run) -> Add:
    """Adds one event to the run."""

    def more(kind: str, text: str = "", payload: Any = None, **fields: Any) -> Event:
        run.event_count += 1
        Run.objects.update(event_count=run.event_count)
        return Event.objects.create(
            run=run, seq=run.event_count, kind=kind, text=text, payload=payload, **fields
        )

    return more


def call(add: Add, name: str, given: Any, number: Any = "t1", **more: Any) -> Event:
    return add("tool_use", name, {"block": {"id": number, "name": name, "input": given}, **more})


def answer(add: Add, text: str, number: Any = "t1", error: bool = False, **fields: Any) -> Event:
    block = {"tool_use_id": number, "is_error": error, "content": text}
    return add("tool_result", text, {"block": block}, **fields)


def page(browser: Client, run: Run, query: str = "") -> str:
    return browser.get(run.get_absolute_url() + query).content.decode()


def shape(found: list[transcript.Item]) -> list[tuple[int, int | None]]:
    """Numbers of events, each with that of its answer."""
    return [(item.event.seq, item.answer.event.seq if item.answer else None) for item in found]


def shown(run: Run) -> list[transcript.Item]:
    return transcript.items(run, list(run.events.order_by("seq")))


def test_a_result_stands_in_the_card_of_its_call_with_its_duration(
    browser: Client, run: Run, add: Add
) -> None:
    begun = call(add, "Bash", {"command": "ls", "description": "Look around"})
    add("text", "meanwhile")
    answer(add, "README.md", created=begun.created + timedelta(seconds=1.5))
    assert shape(shown(run)) == [(1, None), (2, 4), (3, None)]
    html = page(browser, run)
    assert "Look around" in html
    assert re.search(
        r'id="e2".*data-answer>\s*<article[^>]*id="e4".*1\.50 s.*README\.md.*id="e3"', html, re.S
    )
    assert "no result yet" not in html


def test_a_call_without_result_is_pending_for_as_long_as_the_run_goes_on(
    browser: Client, run: Run, add: Add
) -> None:
    call(add, "Bash", {"command": "sleep 9"})
    assert "no result yet" in page(browser, run)
    Run.objects.update(state="succeeded")
    assert "no result yet" not in page(browser, run)


def test_a_call_on_an_earlier_page_is_not_called_pending(browser: Client, run: Run, add: Add) -> None:
    call(add, "Bash", {"command": "sleep 9"})
    answer(add, "done")
    assert "no result yet" not in page(browser, run, "?before=3")


def test_a_result_whose_call_is_not_there_stands_alone(browser: Client, run: Run, add: Add) -> None:
    answer(add, "orphan")
    answer(add, "second", number="")
    assert shape(shown(run)) == [(1, None), (2, None), (3, None)]
    assert "orphan" in page(browser, run)


def test_a_second_result_of_the_same_call_does_not_replace_the_first(run: Run, add: Add) -> None:
    call(add, "Bash", {"command": "ls"})
    answer(add, "one")
    answer(add, "two")
    assert shape(shown(run)) == [(1, None), (2, 3), (4, None)]


@pytest.mark.parametrize("number", ['"onmouseover="alert(1)', "'><b>", '"]', "\\", "{{7}}", "7", "null"])
def test_any_printable_id_pairs_and_stays_inside_its_attribute(
    browser: Client, run: Run, add: Add, number: str
) -> None:
    begun = call(add, "Bash", {"command": "ls"}, number)
    answer(add, "out", number, created=begun.created + timedelta(seconds=2))
    assert shape(shown(run)) == [(1, None), (2, 3)]
    assert Markup(page(browser, run)).bad == []
    news = live.news(run.public_id, live.Seen(last=2))
    assert news
    assert "2.00 s" in news.events[0][1]


def test_the_duration_is_known_when_the_result_comes_later(run: Run, add: Add) -> None:
    begun = call(add, "Bash", {"command": "ls"})
    answer(add, "out", created=begun.created + timedelta(seconds=2))
    news = live.news(run.public_id, live.Seen(last=2))
    assert news
    assert 'data-answers="t1"' in news.events[0][1]
    assert "2.00 s" in news.events[0][1]


def test_a_failure_is_marked(browser: Client, run: Run, add: Add) -> None:
    call(add, "Read", {"file_path": "/a"})
    answer(add, "File does not exist.", error=True)
    assert "tool failed" in page(browser, run)


def test_a_sub_agent_is_indented_and_names_its_caller(browser: Client, run: Run, add: Add) -> None:
    call(add, "Task", {"prompt": "look"})
    call(add, "Read", {"file_path": "/a"}, "t2", parent_tool_use_id="t1")
    html = page(browser, run)
    assert re.search(r'class="own-event own-event-tool_use own-sub" id="e3"', html)
    assert '<a href="#e2">sub-agent</a>' in html


def test_edits_are_shown_as_diffs(browser: Client, run: Run, add: Add) -> None:
    call(add, "Edit", {"file_path": "/a.py", "old_string": "a\nb\nc", "new_string": "a\nB\nc", "x": 7})
    html = page(browser, run)
    assert re.findall(r'<div class="own-(add|del|same)">(.)</div>', html) == [
        ("same", "a"), ("del", "b"), ("add", "B"), ("same", "c"),
    ]  # fmt: skip
    assert "&quot;x&quot;: 7" in html


def test_several_edits_and_a_new_file_are_diffs_too(run: Run, add: Add) -> None:
    edits = [{"old_string": "a", "new_string": "b"}, {"old_string": "", "new_string": "c"}]
    call(add, "MultiEdit", {"file_path": "/a.py", "edits": edits})
    call(add, "Write", {"file_path": "/b.py", "content": "x\ny"}, "t2")
    found = [
        [(change.sort, change.text) for change in (item.tool.diff if item.tool else ())]
        for item in shown(run)[1:]
    ]
    assert found == [[("del", "a"), ("add", "b"), ("add", "c")], [("add", "x"), ("add", "y")]]


def test_a_list_is_shown_as_a_list(browser: Client, run: Run, add: Add) -> None:
    todos = [{"content": "Read", "status": "completed"}, {"content": "Write", "status": "in_progress"}]
    call(add, "TodoWrite", {"todos": todos})
    html = page(browser, run)
    assert re.findall(r'class="own-todo-(\w+)">', html) == ["done", "doing"]


def test_an_unknown_tool_is_shown_as_json(browser: Client, run: Run, add: Add) -> None:
    call(add, "mcp__x__y", {"deep": [1]})
    assert "&quot;deep&quot;: [" in page(browser, run)


def test_a_huge_edit_is_not_compared() -> None:
    text = "\n".join("ab"[number % 2] for number in range(20_000))
    assert len(list(transcript.changes(text, text[::-1]))) == 40_000


@pytest.mark.parametrize("name", [*transcript.TOOLS, "Other", *HOSTILE])
def test_tools_of_any_shape_are_shown_as_text(browser: Client, run: Run, add: Add, name: str) -> None:
    keys = ("file_path", "command", "description", "content", "old_string", "new_string", "todos", "edits")
    for value in [*NONSENSE, *HOSTILE]:
        call(add, name, value, number=value)
        call(add, name, dict.fromkeys(keys, value), number=str(value))
        call(add, name, {**dict.fromkeys(keys, str(value)), "todos": [value], "edits": [value]})
        call(add, name, {"file_path": "x", "todos": [{"content": value, "status": value}],
                         "edits": [{"old_string": str(value), "new_string": str(value) * 2}]})  # fmt: skip
        answer(add, str(value), number=value)
        answer(add, str(value), number=str(value))
    html = page(browser, run)
    markup = Markup(html)
    assert (markup.bad, {"b", "i", "u"} & set(markup.tags)) == ([], set())
    assert not {"\x1b", "\u202e"} & set(html)


@pytest.mark.slow
@pytest.mark.parametrize("kind", Event.Kind.values)
@pytest.mark.parametrize("payload", SHAPES, ids=json.dumps)
def test_payloads_of_any_shape_make_a_page(
    browser: Client, run: Run, add: Add, kind: str, payload: Any
) -> None:
    add(kind, "Bash", payload)
    assert browser.get(run.get_absolute_url()).status_code == 200
    assert live.news(run.public_id, live.Seen(last=1))


def test_a_page_takes_as_many_queries_for_many_events_as_for_few(
    browser: Client, run: Run, add: Add, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    for number in range(120):
        call(add, "Bash", {"command": "ls"}, str(number), parent_tool_use_id="gone")
        answer(add, "out", str(number - 1))
    with django_assert_max_num_queries(8):
        page(browser, run)


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
PICTURES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF....WEBPVP8 ",
}


def sent(kind: str, content: bytes | str) -> dict[str, Any]:
    data = b64encode(content).decode() if isinstance(content, bytes) else content
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}


def printed(make_agent: MakeAgent, *parts: Any) -> Run:
    """A run whose agent printed a text and a result with these parts, in one line."""
    blocks = [
        {"type": "text", "text": "first"},
        {"type": "tool_result", "tool_use_id": "t9", "content": list(parts)},
    ]
    line = json.dumps({"type": "user", "message": {"content": blocks}})
    return execute(jobs.submit(make_agent("painter", runtime="command", command=["cat"]), line))


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("size", [0, 200_000])
def test_a_picture_is_shown_under_a_policy_of_its_own(
    browser: Client, make_agent: MakeAgent, kind: str, size: int
) -> None:
    content = PICTURES[kind] + b"x" * size
    made = printed(make_agent, {"type": "text", "text": "look"}, sent(kind, content))
    address = re.findall(r'<img src="([^"]+/image/[^"]+)"', page(browser, made))
    assert len(address) == 1
    reply = browser.get(address[0])
    assert (reply.content, reply.headers["Content-Type"]) == (content, kind)
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"


OTHER = [
    sent("image/svg+xml", b"<svg onload='alert(1)'/>"),
    sent("text/html", b"<b>"),
    {"type": "image", "source": {"type": "url", "url": "http://evil.example/a.png"}},
    *({"type": "image", "source": each} for each in NONSENSE),
]


@pytest.mark.parametrize("part", OTHER, ids=str)
def test_other_pictures_are_not_shown(browser: Client, make_agent: MakeAgent, part: Any) -> None:
    made = printed(make_agent, part)
    assert "/image/" not in page(browser, made)
    for event in made.events.all():
        assert browser.get(f"{made.get_absolute_url()}events/{event.seq}/image/0/").status_code == 404


@pytest.mark.parametrize(
    "content", [b"<svg onload='alert(1)'/>", b"", "no base64", "\u0000", b"<html>"], ids=str
)
def test_what_only_claims_to_be_a_picture_is_not_sent(
    browser: Client, make_agent: MakeAgent, content: bytes | str
) -> None:
    made = printed(make_agent, sent("image/png", content))
    address = re.findall(r'<img src="([^"]+/image/[^"]+)"', page(browser, made))
    assert browser.get(address[0]).status_code == 404


def test_a_picture_that_is_nowhere_is_not_found(browser: Client, make_agent: MakeAgent) -> None:
    made = printed(make_agent, sent("image/png", PNG))
    for rest in (
        "events/1/image/0/",
        "events/99/image/0/",
        f"events/{10**30}/image/0/",
        f"events/3/image/{10**30}/",
    ):
        assert browser.get(made.get_absolute_url() + rest).status_code == 404


def test_a_long_result_still_finds_its_call(make_agent: MakeAgent) -> None:
    call_line = json.dumps({"type": "assistant", "message": {"content": [
        {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "cat"}}]}})  # fmt: skip
    result = json.dumps({"type": "user", "message": {"content": [
        {"type": "tool_result", "tool_use_id": "t1", "content": "x" * 100_000}]}})  # fmt: skip
    made = execute(jobs.submit(make_agent(runtime="command", command=["cat"]), f"{call_line}\n{result}"))
    assert [item for item in shown(made) if item.answer]


def whole(browser: Client, run: Run, number: int) -> str:
    return str(browser.get(f"{run.get_absolute_url()}events/?whole={number}").json()["events"][0]["html"])


def test_long_output_is_folded_and_shown_whole_on_demand(browser: Client, run: Run, add: Add) -> None:
    call(add, "Bash", {"command": "seq 100"})
    result = answer(add, "\n".join(f"line-{number}" for number in range(100)))
    html = page(browser, run)
    assert ("line-39" in html, "line-40" in html) == (True, False)
    assert f'href="?whole={result.seq}#e{result.seq}"' in html
    assert "line-99" in whole(browser, run, result.seq)
    assert "line-99" in page(browser, run, f"?whole={result.seq}")
    assert "data-whole" not in whole(browser, run, result.seq)


@pytest.mark.parametrize("name", [*transcript.TOOLS, "Other"])
def test_no_part_of_a_call_is_long_before_it_is_asked_for(
    browser: Client, run: Run, add: Add, name: str
) -> None:
    text = "\n".join("y" * 60 for _ in range(500))
    keys = ("file_path", "command", "description", "content", "old_string", "new_string", "other")
    edits = [{"old_string": text, "new_string": "b"}]
    call(add, name, {**dict.fromkeys(keys, text), "edits": edits, "todos": [{"content": text}] * 100})
    assert page(browser, run).count("y" * 60) < 400
    assert whole(browser, run, 2).count("y" * 60) >= 500


def test_one_event_has_an_address_wherever_it_lies(browser: Client, run: Run, add: Add) -> None:
    for number in range(2, 700):
        add("text", f"line-{number}")
    for number in (1, 2, 10, 350, 698, 699):
        html = page(browser, run, f"?at={number}")
        seen = re.findall(r'id="e(\d+)"', html)
        assert str(number) in seen
        assert len(seen) == 300
    assert 'id="e699"' in page(browser, run, "?at=99999")


def test_an_event_that_is_not_there_cannot_be_shown_whole(browser: Client, run: Run) -> None:
    assert browser.get(f"{run.get_absolute_url()}events/?whole=99").status_code == 404
