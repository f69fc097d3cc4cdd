"""Files in a real browser: given to a run, found in its workspace, looked at and taken along."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from agents import machine
from agents.models import Agent
from tests.test_browser import chromium, context, page, picture
from tests.test_faults import Workers

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]
__all__ = ["chromium", "context", "page"]
MAKE = "mkdir -p made; cp attachments/*/* made/; ln -sf /etc/passwd made/passwd; cat"


def test_what_is_attached_is_found_in_the_workspace_and_taken_along(
    page: Page, make_agent: Callable[..., Agent], workers: Workers, tmp_path: Path
) -> None:
    make_agent("porter", runtime="command", command=["sh", "-c", MAKE])
    workers(1)
    (tmp_path / "notes & plans.txt").write_text("first line\nsecond line\n")
    (tmp_path / "odd.bin").write_bytes(b"\0\1\2")
    page.goto("/agents/porter/")
    page.get_by_label("Prompt").fill("Carry them.")
    page.get_by_label("Attach files").set_input_files([tmp_path / "notes & plans.txt", tmp_path / "odd.bin"])
    picture(page, "attach")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("link", name="notes & plans.txt")).to_be_visible()
    expect(page.get_by_text("Attached files:")).to_be_visible(timeout=60_000)
    with page.expect_download() as download:
        page.get_by_role("link", name="odd.bin").click()
    assert download.value.path().read_bytes() == b"\0\1\2"
    expect(page.get_by_text("Run succeeded")).to_be_visible(timeout=60_000)
    page.get_by_role("link", name="its files").click()
    page.get_by_role("link", name="made/").click()
    expect(page.get_by_text("leads to /etc/passwd; links are not followed")).to_be_visible()
    page.get_by_role("link", name="notes & plans.txt").click()
    expect(page.get_by_text("second line")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.path().read_text() == "first line\nsecond line\n"
    assert download.value.suggested_filename == "notes & plans.txt"
    page.get_by_role("link", name="workspace", exact=True).click()
    expect(page.get_by_role("link", name="attachments/")).to_be_visible()
    # And more of them in the same conversation.
    page.get_by_role("link", name="session", exact=True).click()
    page.get_by_label("Prompt").fill("One more.")
    page.get_by_label("Attach files").set_input_files(tmp_path / "odd.bin")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_text("Run succeeded")).to_be_visible(timeout=60_000)
    assert len(list((machine.state().workspace("porter") / "attachments").iterdir())) == 2


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(
    page: Page, make_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    make_agent("porter")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(21 * 1024**2)
    page.goto("/agents/porter/")
    page.get_by_label("Prompt").fill("x")
    field = page.get_by_label("Attach files")
    field.set_input_files(tmp_path / "large")
    said = field.evaluate("field => field.validationMessage")
    assert said == "large has 21.0 MB; the limit of a file is 20.0 MB."
    page.get_by_role("button", name="Run").click()
    assert page.url.endswith("/agents/porter/")
    field.set_input_files([])
    assert field.evaluate("field => field.validationMessage") == ""


def test_a_large_directory_is_read_page_by_page_on_a_telephone(
    page: Page, make_agent: Callable[..., Agent], workers: Workers
) -> None:
    agent = make_agent("many")
    workspace = machine.state().workspace("many")
    workspace.mkdir(parents=True)
    for number in range(450):
        os.close(os.open(workspace / f"a-rather-long-name-without-any-space-in-it-{number:04}", os.O_CREAT))
    session = agent.sessions.create(runtime="echo", home="x", working_directory="x")
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{session.get_absolute_url()}files/")
    expect(page.get_by_text("450 entries, directories first")).to_be_visible()
    expect(page.get_by_role("link", name="before")).to_have_count(0)
    page.get_by_role("link", name="after").click()
    expect(page.get_by_role("link", name="-0200")).to_be_visible()
    page.get_by_role("link", name="after").click()
    expect(page.get_by_role("link", name="-0449")).to_be_visible()
    expect(page.get_by_role("link", name="after")).to_have_count(0)
    page.get_by_role("link", name="before").click()
    expect(page.get_by_role("link", name="-0399")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
