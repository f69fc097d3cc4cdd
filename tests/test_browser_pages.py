"""Every page in a real browser: no complaint of it, nothing that keeps people out, fit for any screen."""

from collections.abc import Callable

import pytest
from axes.models import AccessAttempt
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Page, ViewportSize, expect

from agents.models import Agent
from agents.urls import urlpatterns
from tests.conftest import ROOT
from tests.test_browser import chromium, picture
from tests.world import NO_PAGES, PAGES, Complaints, World, barriers, go, visitor, world

__all__ = ["chromium"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]

DESK: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 390, "height": 844}
# What a viewer is refused, in the admin; the page says so.
REFUSED = {
    "admin-agent-add", "admin-agent-delete", "admin-audits", "admin-audit", "admin-users", "admin-user",
    "admin-user-add", "admin-groups", "admin-group", "admin-schedule-add", "admin-fleet-add", "forbidden",
}  # fmt: skip

# What a viewer has no button for.
FOR_OTHERS = ("runs_bulk", "session_delete", "schedule_new", "schedule_edit", "schedule_delete")


@pytest.fixture
def seeded(
    make_agent: Callable[..., Agent], person: Callable[..., User], tiny_image: str, admin: User
) -> World:
    return world(make_agent, person, tiny_image, admin)


def test_every_address_is_a_page_that_is_looked_at_or_none() -> None:
    assert {pattern.name for pattern in urlpatterns} == set(PAGES) | set(NO_PAGES)
    assert not set(PAGES) & set(NO_PAGES)


def test_every_rule_of_our_style_sheets_ends() -> None:
    """A browser would take all that follows for a part of it, and say nothing."""
    for sheet in (ROOT / "agents" / "static" / "agents").glob("*.css"):
        depth = 0
        for line in sheet.read_text().splitlines():
            assert depth == 0 or line[:1] in (" ", "}", ""), f"{sheet.name}: {line}"
            depth += line.count("{") - line.count("}")
        assert depth == 0, sheet.name


# Four pictures and two examinations of every page there is.
@pytest.mark.timeout(600)
@pytest.mark.slow
def test_every_page_is_sound_accessible_and_fits(chromium: Browser, web: str, seeded: World) -> None:
    wrong: list[str] = []
    with visitor(chromium, web, "admin", reduced_motion="reduce") as (page, complaints):
        complaints.expected = {f"{web}/nothing/": 404, f"{web}/admin/agents/run/add/": 403}
        for name, path in seeded.pages().items():
            page.set_viewport_size(DESK)
            go(page, path)
            wrong += looked_at(page, name)
    wrong += complaints.found
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_what_a_viewer_sees_is_sound_and_accessible(chromium: Browser, web: str, seeded: World) -> None:
    wrong: list[str] = []
    pages = seeded.pages()
    with visitor(chromium, web, "viewer", reduced_motion="reduce") as (page, complaints):
        complaints.expected = {f"{web}{pages[name]}": 403 for name in REFUSED} | {f"{web}/nothing/": 404}
        for name, path in pages.items():
            if not name.startswith(FOR_OTHERS):
                go(page, path)
                # The admin is the same for all who are let in.
                wrong += [] if name.startswith("admin") else barriers(page, f"{name} of a viewer")
    wrong += complaints.found
    assert not wrong, "\n".join(wrong)


def test_the_ways_in_are_sound_and_accessible(chromium: Browser, web: str, admin: User) -> None:
    AccessAttempt.objects.create(username="locked", ip_address="127.0.0.1", failures_since_start=10)
    context = chromium.new_context(base_url=web, reduced_motion="reduce")
    complaints = Complaints(context)
    complaints.expected = {f"{web}/login/": 429}
    page = context.new_page()
    wrong: list[str] = []
    for name, (user, heading) in {
        "login": ("", "Log in"),
        "login-wrong": ("admin", "Log in"),
        "login-locked": ("locked", "Too many wrong passwords"),
    }.items():
        page.goto("/login/")
        if user:
            page.get_by_label("Username").fill(user)
            page.get_by_label("Password").fill("a guess")
            page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
        wrong += looked_at(page, name)
    # A form that was left open for too long.
    complaints.expected = {f"{web}/login/": 403}
    page.goto("/login/")
    context.clear_cookies()
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill("a guess")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("button", name="Log in")).to_have_count(0)
    wrong += looked_at(page, "login-expired")
    wrong += complaints.found
    assert not wrong, "\n".join(wrong)
    context.close()


def looked_at(page: Page, name: str) -> list[str]:
    """A page in both colours on both devices; what is wrong with it."""
    wrong: list[str] = []
    for device, size in (("desk", DESK), ("phone", PHONE)):
        page.set_viewport_size(size)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            picture(page, f"{name}-{device}-{scheme}")
            wrong += barriers(page, f"{name}, {scheme}") if device == "desk" else []
        wide = page.evaluate("document.documentElement.scrollWidth")
        wrong += [f"{name} is {wide} pixels wide on a {device}"] if wide > size["width"] else []
    return wrong
