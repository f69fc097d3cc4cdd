"""The page of a run in a real browser: its lines as they come, found, folded, linked."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from agents import jobs
from agents.models import Agent, Run
from agents.runtimes.types import Kind, Line, Message, Parsed
from tests.conftest import ROOT, execute, until
from tests.world import TRANSCRIPT

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]
MakeAgent = Callable[..., Agent]
ARTIFACTS = ROOT / "artifacts"
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Playwright's loop runs in this thread, and Django would take our queries for a mistake.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser, web: str) -> Iterator[BrowserContext]:
    context = chromium.new_context(base_url=web, viewport={"width": 1280, "height": 800})
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, admin: User) -> Iterator[Page]:
    """Logged in; every complaint of the browser, also about the policy, fails the test."""
    page = context.new_page()
    complaints: list[str] = []
    page.on(
        "console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto("/")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill("a-password-for-tests")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Agents")).to_be_visible()
    yield page
    assert complaints == []


def picture(page: Page, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)


def lines(page: Page) -> list[str]:
    return re.findall(r"line-\d+", page.locator(".own-events").inner_text())


def expected(count: int) -> list[str]:
    return [f"line-{number}" for number in range(1, count + 1)]


def test_a_second_tab_sees_the_same_and_the_reader_who_scrolled_up_is_left_alone(
    page: Page, context: BrowserContext, make_agent: MakeAgent
) -> None:
    run = jobs.submit(make_agent(), "x")
    for text in expected(100):
        run.note(text)
    page.goto(run.get_absolute_url())
    other = context.new_page()
    other.goto(run.get_absolute_url())
    expect(page.get_by_text("line-100", exact=True)).to_be_in_viewport()
    other.evaluate("scrollTo({top: 0})")
    expect(other.get_by_role("button", name="To the end")).to_be_visible()
    for text in expected(130)[100:]:
        run.note(text)
    expect(page.get_by_text("line-130", exact=True)).to_be_in_viewport()
    expect(other.get_by_text("line-130", exact=True)).not_to_be_in_viewport()
    assert lines(page) == lines(other) == expected(130)
    other.get_by_role("button", name="To the end").click()
    expect(other.get_by_text("line-130", exact=True)).to_be_in_viewport()


def test_a_page_whose_stream_is_held_back_asks_by_itself(page: Page, make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    # A proxy that waits for the end of an answer before it passes anything on.
    page.add_init_script("window.EventSource = class extends EventTarget { close() {} };")
    page.goto(run.get_absolute_url())
    for text in expected(3):
        run.note(text)
    expect(page.get_by_text("line-3", exact=True)).to_be_visible(timeout=15_000)
    run.withdraw("somebody")
    run.note("the last word")
    expect(page.get_by_text("the last word")).to_be_visible()
    assert lines(page) == expected(3)
    assert page.title().startswith("cancelled")


def test_a_result_that_comes_later_is_put_into_its_call_as_on_a_reload(
    page: Page, make_agent: MakeAgent
) -> None:
    run = jobs.submit(make_agent(), "x")
    Run.objects.update(state="running")
    calls = [said("tool_use", "Bash", id=number, input={"command": "ls"}) for number in ('a"]', "b")]
    results = [said("tool_result", "out", tool_use_id=number) for number in ("b", 'a"]', "c", "b")]
    run.record("", [calls[0]])
    page.goto(run.get_absolute_url())
    expect(page.get_by_text("no result yet")).to_have_count(1)
    for report in [calls[1], *results]:
        run.record("", [report])
    expect(page.locator(".own-event-tool_result")).to_have_count(4)
    expect(page.get_by_text("no result yet")).to_have_count(0)
    seen = outline(page)
    page.reload()
    assert outline(page) == seen
    assert "e2[e5] e3[e4] e6 e7" in seen


def test_what_is_folded_is_shown_whole_and_copied_whole(page: Page, make_agent: MakeAgent) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = "\n".join(expected(100))
    run = jobs.submit(make_agent(), "x")
    Run.objects.update(state="running")
    call = said("tool_use", "Bash", id="t1", input={"command": "seq"})
    run.record("", [call, said("tool_result", text, tool_use_id="t1")])
    page.goto(run.get_absolute_url())
    assert lines(page) == expected(40)
    page.get_by_role("button", name="Copy the output").click()
    expect(page.get_by_text("copied", exact=True)).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == text
    assert lines(page) == expected(100)
    page.reload()
    page.get_by_role("link", name="Show all").click()
    expect(page.get_by_text("line-100")).to_be_visible()
    assert outline(page) == "e1 e2[e3]"


def test_a_link_to_an_event_leads_to_it_wherever_it_lies(page: Page, make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    run.record("", [said("text", text) for text in expected(900)])
    page.goto(f"{run.get_absolute_url()}#e12")
    expect(page.locator("#e12")).to_be_in_viewport()


def test_kinds_are_hidden_and_text_is_found(page: Page, make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    run.record("", [said("text", "line-1"), said("thinking", "hm"), said("error", "line-2")])
    page.goto(run.get_absolute_url())
    page.get_by_role("button", name="errors", exact=True).click()
    assert lines(page) == ["line-1"]
    page.get_by_role("button", name="errors", exact=True).click()
    assert lines(page) == ["line-1", "line-2"]
    page.get_by_label("Find in the whole run").fill("LINE-2")
    page.get_by_role("button", name="Find", exact=True).click()
    page.get_by_role("link", name="error 4").click()
    expect(page.locator("#e4")).to_be_in_viewport()


def test_earlier_and_later_events_come_as_the_reader_scrolls(page: Page, make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    run.record("", [said("text", text) for text in expected(1000)])
    page.goto(f"{run.get_absolute_url()}?at=500#e500")
    assert len(lines(page)) == 300
    middle = page.locator("#e500")
    expect(middle).to_be_in_viewport()
    until(lambda: scrolled(page, -3000) and page.locator("#e2").count(), "The beginning did not come")
    until(lambda: scrolled(page, 3000) and page.locator("#e1001").count(), "The end did not come")
    assert lines(page) == expected(1000)
    run.note("line-1001")
    scrolled(page, 100_000)
    expect(page.get_by_text("line-1001", exact=True)).to_be_in_viewport()
    assert lines(page) == expected(1001)


def test_what_is_read_stays_where_it_is_when_earlier_events_come(page: Page, make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    call = said("tool_use", "Bash", id="t1", input={"command": "ls"})
    early, late = expected(1000)[:500], expected(1000)[500:]
    run.record("", [said("text", text) for text in early])
    run.record(
        "", [call, *(said("text", text) for text in late[:299]), said("tool_result", "out", tool_use_id="t1")]
    )
    run.withdraw("somebody")
    page.goto(run.get_absolute_url())
    # The result's call is one event before the page.
    assert outline(page).startswith("e503 ")
    page.mouse.move(400, 500)
    scrolled(page, 900)
    before = page.locator("#e520").bounding_box()
    scrolled(page, -100)
    expect(page.locator("#e400")).to_be_attached()
    after = page.locator("#e520").bounding_box()
    assert before
    assert after
    assert abs(after["y"] - before["y"] - 100) < 2
    assert "e502[e802]" in outline(page)


def scrolled(page: Page, distance: int) -> bool:
    """Turn the wheel, and give the page a moment."""
    page.mouse.wheel(0, distance)
    page.wait_for_timeout(150)
    return True


def said(kind: Kind, text: str, parent: str = "", **block: Any) -> Parsed:
    """A line of an agent with one content block."""
    payload = {"block": block, "parent_tool_use_id": parent}
    return Parsed(Line("stdout", b"x"), 0, (Message(kind, text, payload),))


def outline(page: Page) -> str:
    """The events of a page by their ids, in brackets those inside another."""
    script = """list => [...list.children].map(each =>
        each.id + [...each.querySelectorAll("article")].map(inner => `[${inner.id}]`).join("")).join(" ")"""
    return str(page.locator(".own-events").evaluate(script))


def test_a_picture_in_a_result_is_shown(page: Page, make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(runtime="command", command=["cat"]), TRANSCRIPT))
    page.goto(run.get_absolute_url())
    shown = page.locator(".own-image img")
    shown.scroll_into_view_if_needed()
    until(lambda: shown.evaluate("image => image.naturalWidth") == 160, "It was not loaded")
