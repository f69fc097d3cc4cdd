"""Without a mouse, and without things that move."""

import re
from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Page, expect

from agents.models import Agent
from tests.test_browser import chromium
from tests.world import World, visitor, world

__all__ = ["chromium"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]

# The element with the focus: what it is, whether it can be seen, and how it looks; and how the one
# before it looks now that it has lost it.
LOOK = """() => {
  const look = (element) => {
    const style = getComputedStyle(element);
    return [style.outlineStyle, style.outlineWidth, style.boxShadow, style.borderColor].join(" ");
  };
  const element = document.activeElement;
  const box = element.getBoundingClientRect();
  const before = window.before ? look(window.before) : "";
  window.before = element;
  const inside = box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth;
  const text = element.textContent.trim().slice(0, 30);
  const name = `${element.tagName} ${element.name || element.className} ${text}`;
  return [name, look(element), before, inside && box.width > 1 && box.height > 1, element === document.body];
}"""


@pytest.fixture
def seeded(
    make_agent: Callable[..., Agent], person: Callable[..., User], tiny_image: str, admin: User
) -> World:
    return world(make_agent, person, tiny_image, admin)


@pytest.fixture
def page(chromium: Browser, web: str, seeded: World) -> Iterator[Page]:
    with visitor(chromium, web, "admin", reduced_motion="reduce") as (page, complaints):
        yield page
        assert complaints.found == []


def unseen(page: Page, most: int = 40) -> list[str]:
    """What has the focus on the way through a page without showing it."""
    wrong, last, with_focus = [], "", ""
    for _ in range(most):
        page.keyboard.press("Tab")
        name, looks, looked, visible, over = page.evaluate(LOOK)
        wrong += [f"{last} looks alike with and without the focus"] if last and looked == with_focus else []
        wrong += [] if visible or over else [f"{name} has the focus and is not to be seen"]
        if over:
            break
        last, with_focus = name, looks
    return wrong


def test_the_focus_is_seen_wherever_it_goes(page: Page, seeded: World) -> None:
    wrong = {}
    paths = ["/", "/runs/", "/agents/reviewer/", f"/runs/{seeded.run.public_id}/", "/admin/agents/agent/add/"]
    for path in paths:
        page.goto(path)
        wrong[path] = unseen(page)
    page.context.clear_cookies()
    page.goto("/login/")
    wrong["/login/"] = unseen(page)
    assert not any(wrong.values()), "\n".join(f"{path}: {each}" for path in wrong for each in wrong[path])


def test_a_run_is_started_by_keys_alone(page: Page) -> None:
    page.goto("/agents/parrot/")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    while not page.evaluate("document.activeElement.matches('textarea')"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null"), "It leads past the form"
    page.keyboard.type("By hand.")
    page.keyboard.press("Control+Enter")
    page.wait_for_url("**/runs/*/")


def test_menus_open_and_close_by_keys(page: Page) -> None:
    for name in ("Colours", "admin"):
        button = page.get_by_role("button", name=name, exact=True)
        menu = button.locator("xpath=following-sibling::*")
        button.focus()
        page.keyboard.press("Enter")
        expect(button).to_have_attribute("aria-expanded", "true")
        page.keyboard.press("ArrowDown")
        expect(menu.locator(".dropdown-item").first).to_be_focused()
        page.keyboard.press("Escape")
        expect(button).to_have_attribute("aria-expanded", "false")
        expect(menu).to_be_hidden()
        expect(button).to_be_focused()
    page.set_viewport_size({"width": 390, "height": 844})
    links = page.locator("#navbar-menu")
    expect(links).to_be_hidden()
    page.get_by_role("button", name="Menu", exact=True).focus()
    page.keyboard.press("Enter")
    # While it unfolds it takes no other key.
    expect(links).to_have_class(re.compile(r"\bcollapse show\b"))
    page.keyboard.press("Enter")
    expect(links).to_be_hidden()


def moving(page: Page) -> list[str]:
    return list(
        page.evaluate(
            """document.getAnimations().filter((each) => each.playState === "running")
            .map((each) => each.animationName || each.transitionProperty)"""
        )
    )


def test_nothing_moves_for_those_who_do_not_want_it(page: Page, seeded: World, chromium: Browser) -> None:
    paths = ["/", "/agents/", f"/runs/{seeded.values['live']}/", f"/containers/{seeded.values['living']}/"]
    for path in paths:
        page.goto(path)
        page.locator("a:visible").last.hover()
        assert moving(page) == [], path
    page.emulate_media(reduced_motion="no-preference")
    page.goto(paths[2])
    assert moving(page), "Nothing moves for those who do not mind, so this tests nothing"
