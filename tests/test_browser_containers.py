"""A live container's page in a real browser."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from agents import jobs
from agents.models import Agent
from tests.test_browser import chromium, context, page, picture
from tests.test_faults import Workers, current
from tests.test_usage import container, measured

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]
__all__ = ["chromium", "context", "page"]

# Takes more and more memory, and a core for as long as it lives.
GROWING = "x=; while :; do x=$x$(seq 1 60000); done"


@pytest.fixture
def live(make_agent: Callable[..., Agent], tiny_image: str, workers: Workers) -> Iterator[str]:
    """The address of a container that lives, and is gone with the test."""
    where = {"docker_enabled": True, "docker_image": tiny_image, "docker_network": "none"}
    agent = make_agent("growing", runtime="command", command=["sh", "-c", GROWING], **where)
    workers(1)
    run = jobs.submit(agent, "Grow until you are stopped.")
    measured(run)
    yield container(run).get_absolute_url()
    jobs.cancel(current(run), "a test")


def test_a_live_containers_numbers_change_until_it_is_stopped(page: Page, live: str) -> None:
    page.goto(live)
    memory = page.locator("[data-fact=memory]")
    before = memory.inner_text()
    expect(memory).not_to_have_text(before, timeout=15_000)
    expect(page.locator("[data-fact=cpu]")).to_have_text(re.compile(r"^\d[\d.]* %$"), timeout=15_000)
    picture(page, "container-live")
    page.emulate_media(color_scheme="dark")
    page.goto("/containers/")
    expect(page.get_by_text("of a core")).to_be_visible()
    picture(page, "containers-dark")
    page.goto(live)
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("is asked to end")).to_be_visible()
    # The page that is open learns of the end by itself.
    expect(page.get_by_role("heading", name="How it ended")).to_be_visible(timeout=20_000)
    expect(page.locator("[data-part=records]").get_by_text("cancelled", exact=True)).to_be_visible()
    expect(page.get_by_text("Cancelled by admin.").first).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    picture(page, "container-ended-dark")
    page.set_viewport_size({"width": 390, "height": 844})
    picture(page, "container-phone")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("link", name="Grow until you are stopped.").first.click()
    page.get_by_text("Rename").click()
    picture(page, "session-phone")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.set_viewport_size({"width": 1280, "height": 800})
    page.emulate_media(color_scheme="light")
    picture(page, "session")
    page.goto("/agents/growing/")
    page.get_by_role("link", name="Containers").last.click()
    expect(page.get_by_role("link", name=re.compile("^herdweb-"))).to_be_visible()
    picture(page, "agent-containers")


def test_a_page_that_is_not_seen_asks_nothing_and_one_that_is_asks_again(page: Page, live: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/now/") else None)
    hide = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => %s});"
    page.goto(live)
    page.evaluate(hide % "true")
    page.wait_for_timeout(4000)
    assert asked == []
    page.evaluate(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'));")
    page.wait_for_timeout(500)
    assert len(asked) == 1


def test_an_id_is_copied(page: Page, live: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(live)
    page.get_by_role("button", name="Copy the engine id").click()
    expect(page.get_by_text("copied")).to_be_visible()
    assert len(page.evaluate("navigator.clipboard.readText()")) == 64
