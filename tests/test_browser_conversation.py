"""The page of a conversation in a real browser: written to while a run is live, read, found in, kept."""

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Page, expect

from agents import jobs
from agents.models import Agent, Event, Run, Session
from tests.conftest import execute, until
from tests.test_browser import chromium, context, page, picture
from tests.world import TRANSCRIPT, barriers, visitor

__all__ = ["chromium", "context", "page"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]
MakeAgent = Callable[..., Agent]
SLOW = 30_000


def patient(make_agent: MakeAgent, gates: Path) -> Agent:
    """Says what it was told, then waits until its gate is open."""
    script = (
        f'read word; echo "heard $word"; while [ ! -e {gates}/$word ]; do sleep 0.1; done; echo "did $word"'
    )
    return make_agent(runtime="command", command=["sh", "-c", script], cancel_grace=5)


def opened(agent: Agent, prompt: str) -> Session:
    session = execute(jobs.submit(agent, prompt)).session
    assert session
    return session


def address(session: Session) -> str:
    return f"{session.get_absolute_url()}conversation/"


def write(page: Page, text: str) -> None:
    field = page.get_by_role("textbox", name="Message to")
    field.fill(text)
    field.press("Control+Enter")
    expect(field).to_have_value("")


def said(page: Page) -> list[str]:
    return re.findall(r"(?:heard|did) \w+", page.locator("[data-turns]").inner_text())


def waiting(page: Page) -> list[str]:
    return [text.strip() for text in page.locator(".own-queue .own-text").all_inner_texts()]


def test_messages_that_are_typed_while_a_run_is_live_wait_and_start_one_after_the_other(
    page: Page, make_agent: MakeAgent, workers: Callable[..., object], tmp_path: Path
) -> None:
    workers(2)
    (tmp_path / "first").touch()
    session = opened(patient(make_agent, tmp_path), "first\n")
    page.goto(address(session))
    page.evaluate("window.stays = true")
    write(page, "second\n")
    expect(page.get_by_text("heard second")).to_be_visible(timeout=SLOW)
    write(page, "third\n")
    until(lambda: waiting(page) == ["third"], "The third did not wait")
    write(page, "fourth\n")
    until(lambda: waiting(page) == ["third", "fourth"], "The fourth did not wait")
    expect(page.locator(".own-queue")).to_contain_text("Its session is in use by run")
    field = page.get_by_role("textbox", name="Message to")
    field.fill("not yet sent")
    picture(page, "conversation-waiting")
    (tmp_path / "second").touch()
    expect(page.get_by_text("heard third")).to_be_visible(timeout=SLOW)
    until(lambda: waiting(page) == ["fourth"], "The fourth does not wait any more")
    assert "heard fourth" not in said(page)
    (tmp_path / "third").touch()
    expect(page.get_by_text("heard fourth")).to_be_visible(timeout=SLOW)
    (tmp_path / "fourth").touch()
    expect(page.get_by_text("did fourth")).to_be_visible(timeout=SLOW)
    # One page all the time, and what is being typed is there.
    assert page.evaluate("window.stays")
    expect(field).to_have_value("not yet sent")
    order = [f"{verb} {word}" for word in ("first", "second", "third", "fourth") for verb in ("heard", "did")]
    assert said(page) == order
    expect(page.locator("[data-outcome] [data-part=headline]").filter(has_text="succeeded")).to_have_count(4)
    expect(page.get_by_role("button", name="Stop run")).to_have_count(0)
    page.reload()
    assert said(page) == order
    expect(field).to_have_value("not yet sent")
    runs = list(Run.objects.order_by("pk"))
    assert all(before.finished_at < after.started_at for before, after in pairwise(runs))  # type: ignore[operator]


def test_a_live_run_is_stopped_and_a_waiting_message_goes_on_or_is_cancelled(
    page: Page, make_agent: MakeAgent, workers: Callable[..., object], tmp_path: Path
) -> None:
    workers(1)
    (tmp_path / "first").touch()
    session = opened(patient(make_agent, tmp_path), "first\n")
    page.goto(address(session))
    for text in ("second", "third", "fourth"):
        write(page, f"{text}\n")
    until(lambda: waiting(page) == ["third", "fourth"], "They did not wait")
    page.get_by_role("button", name="Cancel the message: third").click()
    until(lambda: waiting(page) == ["fourth"], "The third was not cancelled")
    expect(page.get_by_text("heard second")).to_be_visible(timeout=SLOW)
    page.get_by_role("button", name="Stop run").click()
    expect(page.get_by_text("heard fourth")).to_be_visible(timeout=SLOW)
    expect(page.locator("[data-part=state]").get_by_text("Cancelled by admin.")).to_be_visible()
    assert "heard third" not in said(page)


@pytest.mark.slow
def test_a_second_page_learns_of_messages_that_were_sent_elsewhere(page: Page, make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["cat"])
    session = opened(agent, "first")
    page.goto(address(session))
    run = jobs.submit(agent, "from elsewhere", continues=session)
    expect(page.locator(".own-queue").get_by_text("from elsewhere")).to_be_visible(timeout=SLOW)
    execute(run)
    expect(page.locator("[data-turns]").get_by_text("from elsewhere")).to_have_count(2, timeout=SLOW)
    expect(page.locator(".own-queue")).to_have_count(0)


def test_what_an_agent_does_is_folded_and_the_live_page_equals_the_reloaded_one(
    page: Page, make_agent: MakeAgent
) -> None:
    agent = make_agent(runtime="command", command=["cat"])
    session = opened(agent, "first")
    page.goto(address(session))
    expect(page.locator(".own-quiet").first).to_be_visible()
    run = jobs.submit(agent, TRANSCRIPT, continues=session)
    Run.objects.filter(pk=run.pk).update(state="running", session=session)
    expect(page.locator("[data-turn]")).to_have_count(2, timeout=SLOW)
    Run.objects.filter(pk=run.pk).update(state="queued", session=None)
    execute(run)
    shape = """() => [...document.querySelectorAll("[data-turn]:last-child [data-list] > *")].map((one) =>
        one.matches("details") ? one.firstElementChild.textContent : one.id)"""
    expect(page.locator("[data-turn]:last-child [data-part=headline]")).to_contain_text(
        "succeeded", timeout=SLOW
    )
    # How it ended may be told before the last of what it did.
    expect(page.locator("[data-turn]:last-child")).to_have_attribute("data-open", "0", timeout=SLOW)
    live = page.evaluate(shape)
    page.reload()
    assert page.evaluate(shape) == live
    assert any("tool call" in name for name in live)
    fold = page.locator("details.own-quiet", has_text="tool call").first
    fold.locator("summary").first.click()
    expect(fold.locator(".own-event-tool_use").first).to_be_visible()
    picture(page, "conversation-unfolded")
    whole = fold.locator("[data-whole]")
    if whole.count():
        name = whole.first.evaluate("one => one.closest('article').id")
        whole.first.click()
        expect(page.locator(f"#{name} > .own-what > [data-whole]")).to_have_count(0)


@pytest.mark.slow
def test_a_reader_who_scrolled_up_is_left_alone_and_led_back(page: Page, make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["cat"])
    session = opened(agent, "\n".join(f"line-{number}" for number in range(1, 150)))
    page.goto(address(session))
    last = page.get_by_text("line-149", exact=True).last
    expect(last).to_be_in_viewport()
    expect(page.get_by_role("button", name="Newest")).to_be_hidden()
    page.evaluate("scrollBy({top: -1200, behavior: 'instant'})")
    button = page.get_by_role("button", name="Newest")
    expect(button).to_be_visible()
    before = page.evaluate("scrollY")
    execute(jobs.submit(agent, "one more", continues=session))
    expect(page.locator("[data-turn]")).to_have_count(2, timeout=SLOW)
    assert page.evaluate("scrollY") == before
    button.click()
    expect(page.locator("[data-turns]").get_by_text("one more").last).to_be_in_viewport()
    expect(button).to_be_hidden()


def test_earlier_messages_come_when_the_reader_scrolls_up(page: Page, make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["cat"])
    session = opened(agent, "\n".join(f"line-{number}" for number in range(1, 300)))
    for number in range(3):
        text = "\n".join(f"part-{number}-{line}" for line in range(100))
        execute(jobs.submit(agent, text, continues=session))
    page.goto(address(session))
    expect(page.locator("[data-list]").get_by_text("line-1", exact=True)).to_have_count(0)

    def reached() -> bool:
        page.mouse.move(600, 300)
        page.mouse.wheel(0, -3000)
        return page.locator("[data-list]").get_by_text("line-1", exact=True).count() == 1

    until(reached, "The beginning was not reached")
    shown = re.findall(r"line-\d+", "\n".join(page.locator("[data-list]").all_inner_texts()))
    assert shown == [f"line-{number}" for number in range(1, 300)]
    expect(page.locator("[data-earlier]")).to_be_hidden()


def test_a_word_is_found_and_its_place_is_shown(page: Page, make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["cat"])
    session = opened(agent, "the needle is here")
    for number in range(4):
        text = "\n".join(f"part-{number}-{line}" for line in range(100))
        execute(jobs.submit(agent, text, continues=session))
    page.goto(address(session))
    page.locator("body").press("/")
    page.keyboard.type("NEEDLE")
    page.keyboard.press("Enter")
    hits = page.locator(".own-hits a[href*='at=']")
    expect(hits).to_have_count(2)
    hits.first.click()
    expect(page.locator(".own-said").get_by_text("the needle is here")).to_be_in_viewport()
    page.get_by_role("link", name="Go to the newest").click()
    expect(page.get_by_text("part-3-99", exact=True).last).to_be_in_viewport()


def test_the_conversation_is_kept_as_files(page: Page, make_agent: MakeAgent) -> None:
    session = opened(make_agent(runtime="command", command=["cat"]), "first words")
    page.goto(address(session))
    with page.expect_download() as markdown:
        page.get_by_role("link", name="Markdown").click()
    assert "first words" in markdown.value.path().read_text()
    with page.expect_download() as lines:
        page.get_by_role("link", name="JSONL").click()
    rows = [json.loads(line) for line in lines.value.path().read_text().splitlines()]
    assert [row["type"] for row in rows] == ["session", "run"] + ["event"] * Event.objects.count()


def test_the_keys_write_leave_and_keep(page: Page, make_agent: MakeAgent) -> None:
    session = opened(make_agent(runtime="command", command=["cat"]), "first")
    page.goto(address(session))
    field = page.get_by_role("textbox", name="Message to")
    page.locator("body").press("c")
    expect(field).to_be_focused()
    page.keyboard.type("c f / unsent")
    page.keyboard.press("Escape")
    expect(field).not_to_be_focused()
    page.goto("/")
    page.goto(address(session))
    expect(field).to_have_value("c f / unsent")


def test_a_refused_message_stays_where_it_was_typed(
    chromium: Browser, web: str, admin: User, make_agent: MakeAgent
) -> None:
    session = opened(make_agent(runtime="command", command=["cat"]), "first")
    with visitor(chromium, web, "admin") as (page, complaints):
        complaints.expected[f"{web}{address(session)}"] = 422
        page.goto(address(session))
        field = page.get_by_role("textbox", name="Message to")
        field.fill(" \n ")
        field.press("Control+Enter")
        expect(page.get_by_text("Type a message first.")).to_be_visible()
        expect(field).to_have_value(" \n ")
        assert complaints.found == []


def test_it_works_without_scripts(chromium: Browser, web: str, page: Page, make_agent: MakeAgent) -> None:
    session = opened(make_agent(runtime="command", command=["cat"]), "first")
    cookies = page.context.cookies()
    plain = chromium.new_context(base_url=web, java_script_enabled=False)
    plain.add_cookies(cookies)  # type: ignore[arg-type]
    tab = plain.new_page()
    tab.goto(address(session))
    tab.get_by_role("textbox", name="Message to").fill("without scripts")
    tab.get_by_role("button", name="Send").click()
    expect(tab.locator(".own-queue").get_by_text("without scripts")).to_be_visible()
    tab.get_by_role("button", name="Cancel the message").click()
    expect(tab.locator(".own-queue")).to_have_count(0)
    assert "/conversation/" in tab.url
    expect(tab.locator("[data-part=state]")).to_contain_text("Cancelled by admin before it started.")
    plain.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_screen_and_keeps_nobody_out(page: Page, make_agent: MakeAgent, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    agent = make_agent("reviewer", runtime="command", command=["cat"])
    session = opened(agent, TRANSCRIPT)
    Run.objects.update(prompt="Look through the pull request and say what is missing.")
    live = jobs.submit(agent, "And the tests?\nPlease run them, too.", continues=session)
    live.note("Container started (0.14 s).")
    Run.objects.filter(pk=live.pk).update(state="running", session=session)
    for text in ("Then write it up.", "In German, please: " + "lang " * 60):
        jobs.submit(agent, text, continues=session).wait(f"Its session is in use by run {live.short_id}.")
    for width, device in ((1280, "desk"), (390, "phone")):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(address(session))
        expect(page.get_by_role("button", name="Stop run")).to_be_visible()
        page.screenshot(path=f"artifacts/conversation-{device}-{scheme}.png")
        picture(page, f"conversation-whole-{device}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert barriers(page, f"conversation-{device}") == []
