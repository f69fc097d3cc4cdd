"""Events on their way to open browsers."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test import Client

from agents import fanout, jobs, live
from agents.models import Agent, Run
from tests.conftest import execute, until

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
COUNTING = ["sh", "-c", "for i in $(seq 1 40); do echo line-$i; sleep 0.03; done"]


def messages(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Server-sent events as a browser reads them."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = f"{fields[name]}\n{value}" if name in fields else value
        elif fields:
            yield fields
            fields = {}


@contextmanager
def listening(
    web: str, cookies: dict[str, str], run: Run, after: str = ""
) -> Iterator[Iterator[dict[str, str]]]:
    headers = {"Last-Event-ID": after} if after else {}
    url = f"{web}{run.get_absolute_url()}stream/"
    with httpx.stream("GET", url, cookies=cookies, headers=headers, timeout=30) as response:
        assert response.status_code == 200, response.read()
        yield messages(response.iter_lines())


@pytest.fixture
def cookies(client: Client, admin: User) -> dict[str, str]:
    client.force_login(admin)
    return {"sessionid": client.cookies["sessionid"].value}


def printed(found: list[dict[str, str]]) -> list[str]:
    """The numbered lines among the events, in the order in which they came."""
    return re.findall(r"line-\d+", "\n".join(item["data"] for item in found if item["event"] == "event"))


def expected(count: int) -> list[str]:
    return [f"line-{number}" for number in range(1, count + 1)]


def test_a_viewer_gets_every_line_once_and_in_order(
    make_agent: MakeAgent, workers: Callable[..., object], web: str, cookies: dict[str, str]
) -> None:
    workers(1)
    run = jobs.submit(make_agent(runtime="command", command=COUNTING), "go")
    with listening(web, cookies, run) as stream:
        found = list(stream)
    assert printed(found) == expected(40)
    assert [int(item["id"]) for item in found if "id" in item] == list(
        range(1, Run.objects.get().event_count + 1)
    )
    assert found[-1] == {"event": "end", "data": "succeeded"}


def test_a_reconnecting_viewer_goes_on_without_gap_or_double(
    make_agent: MakeAgent, workers: Callable[..., object], web: str, cookies: dict[str, str]
) -> None:
    workers(1)
    run = jobs.submit(make_agent(runtime="command", command=COUNTING), "go")
    found: list[dict[str, str]] = []
    with listening(web, cookies, run) as stream:
        while len(printed(found)) < 10:
            found.append(next(stream))
    seen = [item["id"] for item in found if "id" in item][-1]
    with listening(web, cookies, run, after=seen) as stream:
        found += list(stream)
    assert printed(found) == expected(40)


def test_an_ended_run_is_streamed_whole_and_then_closed(
    make_agent: MakeAgent, web: str, cookies: dict[str, str]
) -> None:
    run = execute(jobs.submit(make_agent(), "\n".join(expected(500))))
    with listening(web, cookies, run) as stream:
        assert printed(list(stream)) == expected(500)


def test_lines_arrive_without_any_hint(make_agent: MakeAgent, web: str, cookies: dict[str, str]) -> None:
    run = jobs.submit(make_agent(), "x")
    with listening(web, cookies, run) as stream:
        for text in expected(5):
            run.note(text)
        run.withdraw("somebody")
        assert printed(list(stream)) == expected(5)


@pytest.mark.parametrize("after", ["abc", "-1", "1e3", "9" * 18, "²", "1 2"])
def test_nonsense_as_the_last_event_means_from_the_start(after: str) -> None:
    assert live.sequence(after) == 0


def test_a_nonsense_header_is_answered_with_everything(
    make_agent: MakeAgent, web: str, cookies: dict[str, str]
) -> None:
    run = execute(jobs.submit(make_agent(), "line-1"))
    with listening(web, cookies, run, after="999999999999999999") as stream:
        assert printed(list(stream)) == ["line-1"]


def test_a_stream_is_not_buffered_on_its_way(
    make_agent: MakeAgent, web: str, cookies: dict[str, str]
) -> None:
    run = execute(jobs.submit(make_agent(), "x"))
    with httpx.stream("GET", f"{web}{run.get_absolute_url()}stream/", cookies=cookies) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-cache, no-transform"
        assert response.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("page", ["stream/", "events/"])
def test_a_script_without_login_is_told_so(client: Client, make_agent: MakeAgent, page: str) -> None:
    run = jobs.submit(make_agent(), "x")
    answer = client.get(run.get_absolute_url() + page)
    assert (answer.status_code, answer.json()) == (401, {"error": "Log in first."})


def test_asking_again_and_again_gives_the_same_events(
    make_agent: MakeAgent, client: Client, admin: User
) -> None:
    run = execute(jobs.submit(make_agent(), "\n".join(expected(250))))
    client.force_login(admin)
    found: list[dict[str, Any]] = []
    while len(found) < run.event_count:
        after = found[-1]["seq"] if found else 0
        found += client.get(f"{run.get_absolute_url()}events/?after={after}").json()["events"]
    assert [item["seq"] for item in found] == list(range(1, run.event_count + 1))
    assert re.findall(r"line-\d+", "".join(item["html"] for item in found)) == expected(250)


def test_asking_says_when_nothing_more_will_come(make_agent: MakeAgent, client: Client, admin: User) -> None:
    run = execute(jobs.submit(make_agent(), "x"))
    client.force_login(admin)
    ask = f"{run.get_absolute_url()}events/?after={run.event_count}"
    answer = until(lambda: (found := client.get(ask).json())["ended"] and found, "It never ended")
    assert (answer["state"], answer["events"]) == ("succeeded", [])


def test_the_events_of_no_run_are_not_found(client: Client, admin: User) -> None:
    client.force_login(admin)
    nobody = "/runs/00000000-0000-4000-8000-000000000000/"
    assert [client.get(nobody + page).status_code for page in ("events/", "stream/")] == [404, 404]


def test_every_kind_of_line_end_stays_inside_its_message() -> None:
    assert fanout.message("event", "a\rb\r\nc\nd\u2028e", 7) == (
        "id: 7\nevent: event\ndata: a\ndata: b\ndata: c\ndata: d\u2028e\n\n"
    )


def test_a_quiet_line_is_kept_open_by_a_comment() -> None:
    now = [0.0]
    line = live.Line(0, lambda: now[0])
    assert line.text([], "f") == "f"
    now[0] = 14.0
    assert line.text([], "f") == ""
    now[0] = 15.0
    assert line.text([], "f") == ": still here\n\n"


def test_facts_are_told_when_they_change_and_not_again(make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    first = live.news(run.public_id, live.Seen())
    assert first
    told = live.Seen(first.last, first.version, first.state)
    again = live.news(run.public_id, told)
    assert again
    assert (first.facts != "", again.facts) == (True, "")
    run.wait("Because.")
    changed = live.news(run.public_id, told)
    assert changed
    assert "Because." in changed.facts


def test_output_changes_the_facts_at_most_once_a_second(make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    first = live.news(run.public_id, live.Seen())
    assert first
    Run.objects.update(output_bytes=5)
    for rested, told in ((False, False), (True, True)):
        seen = live.Seen(first.last, first.version, first.state, rested=rested)
        found = live.news(run.public_id, seen)
        assert found
        assert bool(found.facts) == told


def test_a_database_that_was_away_does_not_end_the_stream(make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(), "line-1"))
    failures = [OperationalError("away")]

    def look(run_id: UUID, seen: live.Seen) -> live.News | None:
        if failures:
            raise failures.pop()
        try:
            return live.news(run_id, seen)
        finally:
            # The thread lives on, and a test database with open connections cannot be dropped.
            connection.close()

    async def collect() -> list[str]:
        return [text async for text in live.stream(run.public_id, 0, look)]

    found = "".join(asyncio.run(collect()))
    assert "line-1" in found
    assert found.endswith("event: end\ndata: succeeded\n\n")
