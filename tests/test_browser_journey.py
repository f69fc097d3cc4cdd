"""What a person does on the first day, in one go, in a real browser."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import until
from tests.test_browser import chromium, context, expected, lines, page, picture

__all__ = ["chromium", "context", "page"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]

# Counts, and keeps what it was told before in its session's home.
COUNTING = """sh
-c
cat $HOME/told; cat >> $HOME/told; echo >> $HOME/told; for i in $(seq 1 60); do echo line-$i; sleep 0.1; done
"""


def run(page: Page, prompt: str, button: str = "Run") -> None:
    """Ask for a run with the form on the page."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name=button, exact=True).click()
    page.wait_for_url("**/runs/*/")


def state(page: Page, word: str) -> None:
    expect(page.locator("[data-part=headline]").get_by_text(word)).to_be_visible(timeout=20_000)


def test_an_agent_from_its_creation_to_the_records_of_its_runs(
    page: Page, workers: Callable[..., object], tiny_image: str
) -> None:
    workers(1)
    add_the_agent(page, tiny_image)
    watch_it_count(page)
    address = page.url
    look_at_its_container(page)
    page.goto(address)
    run(page, "And once more.", "Continue")
    assert page.url != address
    # The session's home knows what was said in it.
    told = page.locator(".own-events").get_by_text("Count to sixty.", exact=True)
    expect(told).to_be_visible(timeout=20_000)
    cancel_it(page)


def add_the_agent(page: Page, image: str) -> None:
    page.goto("/agents/")
    page.get_by_role("link", name="Create the first agent").click()
    page.get_by_label("Name:").fill("counter")
    page.get_by_label("Runtime:").select_option("command")
    page.locator("#id_command").fill(COUNTING)
    page.locator("#id_docker-0-enabled").check()
    page.locator("#id_docker-0-image").fill(image)
    page.locator("#id_docker-0-network").select_option("none")
    picture(page, "admin-adding")
    page.locator("input[name=_save]").first.click()
    expect(page.get_by_text("was added successfully")).to_be_visible()


def watch_it_count(page: Page) -> None:
    """Line by line, also over a reload: no line is missing, none is there twice."""
    page.goto("/agents/counter/")
    expect(page.get_by_text("in a container of")).to_be_visible()
    run(page, "Count to sixty.")
    counts = []
    for number in (3, 9, 15):
        expect(page.get_by_text(f"line-{number}", exact=True)).to_be_visible(timeout=20_000)
        seen = lines(page)
        assert seen == expected(len(seen))
        counts.append(len(seen))
    assert counts == sorted(set(counts))
    assert counts[-1] < 60
    page.reload()
    seen = lines(page)
    assert seen == expected(len(seen))
    assert counts[-1] <= len(seen) < 60
    picture(page, "run-live")
    expect(page.get_by_text("line-60", exact=True)).to_be_visible(timeout=20_000)
    state(page, "succeeded")
    assert lines(page) == expected(60)
    assert page.title().startswith("succeeded")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    page.reload()
    assert lines(page) == expected(60)


def look_at_its_container(page: Page) -> None:
    """Its record leads to the session that lived in it, and back to the run."""
    page.get_by_role("link", name=re.compile("^herdweb-")).click()
    page.wait_for_url("**/containers/*/")
    expect(page.get_by_text("Limits, as the engine applied them")).to_be_visible()
    expect(page.get_by_text("Count to sixty.").first).to_be_visible()
    picture(page, "container-record")


def cancel_it(page: Page) -> None:
    """Seen without a reload."""
    until(lambda: len(lines(page)) > 1, "Nothing was printed")
    page.get_by_role("button", name="Cancel").click()
    state(page, "cancelled")
    expect(page.locator("[data-part=state]").get_by_text("Cancelled by admin.")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    assert len(lines(page)) < 60
