"""The form of an agent in a real browser: what would run, what a test found, what is folded away."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from agents.models import Agent
from tests.test_browser import chromium, context, page, picture  # noqa: F401

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]
MakeAgent = Callable[..., Agent]


def command(page: Page) -> Locator:  # noqa: F811
    return page.locator("[data-part=command]")


def beside(page: Page, field: str) -> Locator:  # noqa: F811
    return page.locator(f"[data-finding='{field}']")


def test_what_is_typed_is_seen_as_a_command_line_and_a_test_finds_all_well(
    page: Page,  # noqa: F811
    make_agent: MakeAgent,
    workers: Callable[..., object],
    tiny_image: str,
) -> None:
    agent = make_agent(
        runtime="command", command=["echo", "one"], docker_enabled=True, docker_image=tiny_image
    )
    workers(1)
    page.goto(f"/admin/agents/agent/{agent.pk}/change/")
    expect(command(page)).to_have_text("echo one")
    page.locator("#id_command").fill("echo 'two words'")
    expect(command(page)).to_have_text("echo 'two words'")
    page.locator("#id_docker-0-memory").fill("1m")
    expect(page.locator("#docker-0 .field-memory .errorlist")).to_contain_text("between 64 MB and 64 GB")
    expect(page.get_by_text("Fields with mistakes are shown as they are stored.")).to_be_visible()
    page.locator("#id_docker-0-memory").fill("128m")
    expect(page.locator("#docker-0 .errorlist")).to_have_count(0)
    page.get_by_text("Where and with what").click()
    expect(page.get_by_text("128 MB of memory, 2 CPUs, 512 processes")).to_be_visible()
    expect(page.locator("[data-part=container]")).to_contain_text("--memory=128m")
    page.get_by_role("button", name="Test configuration").click()
    expect(page.get_by_text("There are unsaved changes: the test is of what is saved.")).to_be_visible()
    expect(page.get_by_text("All is there: runs would start.")).to_be_visible(timeout=20_000)
    expect(beside(page, "docker.image")).to_contain_text(f"✓ {tiny_image}")
    expect(beside(page, "command")).to_contain_text("/bin/echo")
    picture(page, "admin-tested")
    page.locator("input[name=_save]").first.click()
    expect(page.get_by_text("was changed successfully")).to_be_visible()
    assert Agent.objects.get().command == ["echo", "two words"]


def test_what_a_runtime_does_not_read_is_folded_and_nothing_of_it_is_lost(
    page: Page,  # noqa: F811
    make_agent: MakeAgent,
) -> None:
    agent = make_agent(runtime="claude_cli", model="opus", docker_memory=512 * 1024**2)
    page.goto(f"/admin/agents/agent/{agent.pk}/change/")
    model, argv = page.locator("#id_model"), page.locator("#id_command")
    expect(model).to_be_visible()
    expect(argv).to_be_hidden()
    expect(page.locator("#id_docker-0-memory")).to_be_hidden()
    page.locator("#id_runtime").select_option("command")
    expect(model).to_be_hidden()
    expect(argv).to_be_visible()
    expect(command(page)).to_contain_text("has no command")
    page.get_by_role("button", name="Show 1 setting that the Command runtime does not read").click()
    expect(model).to_have_value("opus")
    argv.fill("true")
    page.locator("#id_docker-0-enabled").check()
    expect(page.locator("#id_docker-0-memory")).to_have_value("512m")
    page.locator("input[name=_save]").first.click()
    expect(page.get_by_text("was changed successfully")).to_be_visible()
    saved = Agent.objects.get()
    assert (saved.model, saved.docker.memory, saved.command) == ("opus", 512 * 1024**2, ["true"])


def test_a_new_agent_is_not_scolded_before_anything_is_typed(page: Page) -> None:  # noqa: F811
    page.goto("/admin/agents/agent/add/")
    expect(command(page)).to_contain_text("claude -p")
    expect(page.locator(".errorlist")).to_have_count(0)
    expect(page.get_by_role("button", name="Test configuration")).to_have_count(0)
    page.locator("#id_name").fill("Bad Name")
    expect(page.locator(".field-name .errorlist")).to_contain_text("Name may contain a-z")
    page.locator("#id_name").fill("good-name")
    expect(page.locator(".errorlist")).to_have_count(0)


def test_without_a_worker_the_page_says_so_instead_of_waiting_in_silence(
    page: Page,  # noqa: F811
    make_agent: MakeAgent,
) -> None:
    agent = make_agent(runtime="claude_cli", model="opus")
    page.goto(f"/admin/agents/agent/{agent.pk}/change/")
    page.get_by_role("button", name="Test configuration").click()
    expect(page.get_by_text(re.compile("No worker is alive.*make run"))).to_be_visible()
    for theme in ("light", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)
        picture(page, f"admin-form-{theme}")
    page.set_viewport_size({"width": 390, "height": 844})
    picture(page, "admin-form-phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
