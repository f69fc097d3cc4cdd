"""Many viewers of one run: one reader for all of them, and every line for each."""

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.db import OperationalError, connection
from django.test import AsyncClient, Client

from agents import fanout, jobs, live
from agents.models import Agent, Run
from tests.conftest import ROOT, execute, until
from tests.crowd import Viewer

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
COUNT = (
    "import os, sys, time\n"
    "while not os.path.exists(sys.argv[1]): time.sleep(0.05)\n"
    "for number in range(200):\n"
    "    print(f'line-{number + 1}', flush=True); time.sleep(0.02)\n"
)


def look(run_id: UUID, seen: live.Seen) -> live.News | None:
    """`news` in a thread that lives on: a test database with open connections cannot be dropped."""
    try:
        return live.news(run_id, seen)
    finally:
        connection.close()


def closing(question: Callable[[], bool]) -> Callable[[], bool]:
    def ask() -> bool:
        try:
            return question()
        finally:
            connection.close()

    return ask


async def watch(stream: AsyncIterator[str], viewer: Viewer, pause: float = 0) -> Viewer:
    async for text in stream:
        for message in text.encode().split(b"\n\n"):
            viewer.take(message)
        await asyncio.sleep(pause)
    return viewer


def numbers(count: int, first: int = 1) -> list[int]:
    return list(range(first, count + 1))


@pytest.mark.slow
def test_five_hundred_viewers_get_every_line_while_pages_are_served(
    make_agent: MakeAgent,
    workers: Callable[..., object],
    web: str,
    client: Client,
    admin: User,
    tmp_path: Path,
) -> None:
    workers(1)
    client.force_login(admin)
    cookie = client.cookies["sessionid"].value
    go = tmp_path / "go"
    run = jobs.submit(make_agent(runtime="command", command=[sys.executable, "-c", COUNT, str(go)]), "-")
    crowd = subprocess.Popen(
        [sys.executable, "-m", "tests.crowd", web.rpartition(":")[2], f"{run.get_absolute_url()}stream/",
         f"sessionid={cookie}", "500"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert crowd.stdout
    assert crowd.stdout.readline() == "ready\n"
    go.touch()
    with httpx.Client(base_url=web, cookies={"sessionid": cookie}) as pages:
        took = [seconds(pages) for _ in range(30)]
    found = json.loads(crowd.communicate(timeout=30)[0])
    events = Run.objects.get().event_count
    assert found == {
        "viewers": 500, "complete": 500, "events": events, "lines": 200, "delivered": 100_000,
        "ends": ["succeeded"],
    }  # fmt: skip
    assert statistics.median(took) < 0.2, took


def seconds(pages: httpx.Client) -> float:
    """How long a page takes, a tenth of a second after the one before."""
    time.sleep(0.1)
    started = time.monotonic()
    assert pages.get("/runs/").status_code == 200
    return time.monotonic() - started


def test_viewers_share_what_is_read_and_late_ones_have_no_gap(make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    for number in numbers(50):
        run.note(f"line-{number}")
    looks: list[int] = []

    def counted(run_id: UUID, seen: live.Seen) -> live.News | None:
        looks.append(seen.last)
        return look(run_id, seen)

    async def gather() -> list[Viewer]:
        viewers = [
            asyncio.create_task(watch(live.stream(run.public_id, 0, counted), Viewer())) for _ in range(40)
        ]
        await asyncio.sleep(0.3)
        late = [
            asyncio.create_task(watch(live.stream(run.public_id, after, counted), Viewer()))
            for after in (0, 30, 51, 10**9)
        ]
        await asyncio.to_thread(more)
        return await asyncio.gather(*viewers, *late)

    def more() -> None:
        for number in range(51, 101):
            run.note(f"line-{number}")
        run.withdraw("somebody")
        connection.close()

    *viewers, first, some, last, ahead = asyncio.run(gather())
    assert all(viewer.numbers == numbers(101) for viewer in [*viewers, first])
    assert first.lines == numbers(100)
    assert (some.numbers, last.numbers) == (numbers(101, 31), numbers(101, 52))
    assert (ahead.numbers, ahead.end) == ([], "cancelled")
    # Forty each for himself would look at least eighty times.
    assert len(looks) < 40
    assert looks.count(0) <= 2


def test_a_slow_viewer_has_no_gap_though_little_is_kept(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fanout, "KEPT", 10)
    monkeypatch.setattr(fanout, "SLICE", 20)
    monkeypatch.setattr(live, "SLICE", 20)
    run = jobs.submit(make_agent(), "x")

    def work() -> None:
        for number in numbers(200):
            run.note(f"line-{number}")
        run.withdraw("somebody")
        connection.close()

    async def gather() -> list[Viewer]:
        slow, fast = (watch(live.stream(run.public_id, 0, look), Viewer(), pause) for pause in (0.1, 0))
        *viewers, _ = await asyncio.gather(slow, fast, asyncio.to_thread(work))
        return [viewer for viewer in viewers if viewer]

    for viewer in asyncio.run(gather()):
        assert (viewer.lines, viewer.end) == (numbers(200), "cancelled")


def test_what_is_kept_for_viewers_has_a_limit() -> None:
    recent = fanout.Recent(5)
    for number in range(6, 3006):
        recent.add(number, "x" * 10)
    assert (recent.last, recent.before >= 3005 - fanout.KEPT) == (3005, True)
    assert recent.after(3003) == ["x" * 10] * 2
    recent.add(3006, "x" * fanout.KEPT_SIZE * 2)
    assert (recent.before, recent.after(3006)) == (3006, [])
    recent.add(3007, "a")
    recent.add(3009, "b")
    assert (recent.before, recent.after(3008)) == (3008, ["b"])


def test_the_reader_ends_with_its_last_viewer(make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")

    async def come_and_go() -> list[int]:
        tasks = [asyncio.create_task(watch(live.stream(run.public_id, 0, look), Viewer())) for _ in range(2)]
        await asyncio.sleep(0.2)
        readers = [len(fanout.READERS)]
        task = next(iter(fanout.READERS.values())).task
        for each in tasks:
            each.cancel()
            await asyncio.gather(each, return_exceptions=True)
            readers.append(len(fanout.READERS))
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        return readers

    assert asyncio.run(come_and_go()) == [1, 1, 0]


def test_a_mistake_in_reading_ends_the_streams_instead_of_leaving_them_silent(make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")

    def wrong(run_id: UUID, seen: live.Seen) -> live.News | None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(watch(live.stream(run.public_id, 0, wrong), Viewer()))
    assert fanout.READERS == {}


def test_a_stream_ends_when_its_viewer_may_not_see_the_run_any_more(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "ASK_EVERY", 0.5)
    run = jobs.submit(make_agent(), "line-1")
    User.objects.create_user("viewer")
    asked: list[float] = []

    def allowed() -> bool:
        asked.append(time.monotonic())
        if len(asked) == 1:
            raise OperationalError("away")
        return User.objects.filter(is_active=True).exists()

    def later() -> None:
        until(lambda: len(asked) > 2, "It was not asked")
        User.objects.update(is_active=False)
        connection.close()

    async def gather() -> Viewer:
        stream = live.stream(run.public_id, 0, look, still_allowed=closing(allowed))
        viewer, _ = await asyncio.gather(watch(stream, Viewer()), asyncio.to_thread(later))
        return viewer

    viewer = asyncio.run(asyncio.wait_for(gather(), 15))
    # It was told what there was, and nothing of an end.
    assert (viewer.numbers, viewer.end) == ([1], "")
    assert asked[-1] - asked[0] > 0.5 * (len(asked) - 1) * 0.9


def log_out(user: User) -> None:
    Session.objects.all().delete()


def dismiss(user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def change_password(user: User) -> None:
    user.set_password("another-password-for-tests")
    user.save()


def take_group(user: User) -> None:
    user.groups.remove(Group.objects.get(name="ours"))


@pytest.mark.parametrize("take", [log_out, dismiss, change_password, take_group])
def test_an_open_stream_ends_with_the_login_and_the_rights_of_its_viewer(
    make_agent: MakeAgent,
    person: Callable[..., User],
    monkeypatch: pytest.MonkeyPatch,
    take: Callable[[User], None],
) -> None:
    monkeypatch.setattr(live, "ASK_EVERY", 0.1)
    agent = make_agent()
    agent.groups.add(Group.objects.create(name="ours"))
    run = jobs.submit(agent, "line-1")
    user = person("eve", "Viewer", "ours")
    browser = AsyncClient()
    browser.force_login(user)

    async def lose() -> int:
        answer: Any = await browser.get(f"{run.get_absolute_url()}stream/")
        reading = asyncio.create_task(watch((piece.decode() async for piece in answer), Viewer()))
        await asyncio.sleep(0.5)
        assert not reading.done()
        await sync_to_async(take)(user)
        assert (await reading).end == ""
        again: Any = await browser.get(f"{run.get_absolute_url()}stream/")
        return int(again.status_code)

    status = asyncio.run(asyncio.wait_for(lose(), 15))
    assert status == (404 if take is take_group else 401)


def test_a_browser_that_does_not_read_is_not_waited_for(
    make_agent: MakeAgent, web: str, client: Client, admin: User
) -> None:
    client.force_login(admin)
    run = jobs.submit(make_agent(), "x")
    request = (
        f"GET {run.get_absolute_url()}stream/ HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Cookie: sessionid={client.cookies['sessionid'].value}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", int(web.rpartition(":")[2])), 20) as slow:
        slow.sendall(request.encode())
        assert b"200 OK" in slow.recv(100)
        for number in numbers(300):
            run.note(f"line-{number} " + "x" * 4000)
        run.withdraw("somebody")
        address = f"{web}{run.get_absolute_url()}stream/"
        cookies = {"sessionid": client.cookies["sessionid"].value}
        assert "line-300 " in httpx.get(address, cookies=cookies, timeout=20).text
        viewer, rest = Viewer(), b""
        while not viewer.end:
            *messages, rest = (rest + slow.recv(65536)).split(b"\n\n")
            for message in messages:
                viewer.take(message)
    assert viewer.lines == numbers(300)


def test_an_ended_run_is_read_once_for_everybody_who_comes_at_once(make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(), "\n".join(f"line-{number}" for number in numbers(500))))
    looks: list[int] = []

    def counted(run_id: UUID, seen: live.Seen) -> live.News | None:
        looks.append(seen.last)
        return look(run_id, seen)

    async def gather() -> list[Viewer]:
        streams = [live.stream(run.public_id, 0, counted) for _ in range(50)]
        return await asyncio.gather(*(watch(stream, Viewer()) for stream in streams))

    for viewer in asyncio.run(gather()):
        assert (viewer.lines, viewer.end) == (numbers(500), "succeeded")
    assert len(looks) <= 8
