"""The dashboard in a real browser: it refreshes itself and leaves its reader alone."""

from collections.abc import Callable
from datetime import timedelta
from random import Random

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import BrowserContext, Page, expect

from agents import health, jobs
from agents.models import Agent, Run
from tests.conftest import execute

# Fixtures are found by their names.
from tests.test_browser import MakeAgent, chromium, context, page, picture

__all__ = ["chromium", "context", "page"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]


def refreshed(page: Page) -> None:
    """Ten seconds pass."""
    with page.expect_response(lambda answer: answer.request.resource_type == "fetch"):
        page.clock.run_for(10_000)


def test_a_run_that_ends_is_seen_without_a_reload_and_the_focus_stays(
    page: Page, make_agent: MakeAgent
) -> None:
    health.look()
    execute(jobs.submit(make_agent(), "first"))
    waiting = jobs.submit(make_agent("second"), "the one that waits")
    page.clock.install()
    page.goto("/")
    page.evaluate("window.mark = 1")
    expect(page.locator(".own-number")).to_have_text(["0", "1", "1", "0", "$0.00"])
    link = page.get_by_role("link", name="second", exact=True).first
    link.focus()
    execute(waiting)
    refreshed(page)
    expect(page.locator(".own-number")).to_have_text(["0", "0", "2", "0", "$0.00"])
    expect(page.locator("[data-part=recent]").get_by_text("the one that waits")).to_be_visible()
    expect(page.locator(f'.own-bar-succeeded[href="{waiting.get_absolute_url()}"]')).to_have_count(1)
    expect(link).to_be_focused()
    assert page.evaluate("window.mark") == 1


def test_arrow_keys_go_from_bar_to_bar(page: Page, make_agent: MakeAgent) -> None:
    agent = make_agent()
    runs = [execute(jobs.submit(agent, "x")) for _ in range(3)]
    page.goto("/agents/")
    page.locator(f'.own-bar[href="{runs[2].get_absolute_url()}"]').focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(f'.own-bar[href="{runs[0].get_absolute_url()}"]')).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{runs[0].get_absolute_url()}")


def test_a_server_that_is_away_and_a_lost_login_are_said(
    page: Page, context: BrowserContext, make_agent: MakeAgent
) -> None:
    make_agent()
    page.clock.install()
    page.goto("/")
    sign = page.locator("[data-reread]")
    context.clear_cookies()
    page.clock.run_for(10_000)
    expect(sign).to_have_text("You were logged out. Log in again")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_dashboard_fits_a_telephone_and_a_desk(
    page: Page, make_agent: MakeAgent, admin: User, scheme: str
) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    health.look()
    shots(page, f"empty-{scheme}")
    gallery(make_agent, admin)
    health.look()
    shots(page, scheme)
    make_agent("broken", docker_enabled=True, docker_image="herdweb-test/absent")
    health.connection().delete(health.KEY)
    health.look(timezone.now() - timedelta(seconds=35))
    health.look()
    shots(page, f"problems-{scheme}")
    page.goto("/")
    expect(page.get_by_text("No worker is running")).to_be_visible()


def shots(page: Page, name: str) -> None:
    """Pictures of a page, and that it is not wider than the screen."""
    for width, device in ((1280, "desk"), (390, "phone")):
        page.set_viewport_size({"width": width, "height": 800})
        for path, title in (("/", "dashboard"), ("/agents/", "agents-list")):
            page.goto(path)
            picture(page, f"{title}-{name}-{device}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (title, name, device)


def gallery(make_agent: MakeAgent, admin: User) -> None:
    """Agents with a past."""
    chance = Random(7)
    make: Callable[..., Agent] = make_agent
    for name, description, number in (
        ("reviewer", "Reads pull requests and comments on them.", 30),
        ("docs-checker", "Checks every link in docs/ and opens an issue for each that is broken.", 20),
        ("nightly-report", "Sums up what changed since yesterday.", 7),
        ("dependency-updates", "", 12),
        ("translator", "Keeps the translations in step.", 0),
    ):
        agent = make(name, description=description, enabled=name != "dependency-updates")
        for at in range(number):
            state = chance.choices(Run.State.values[5:], [30, 4, 2, 1, 1])[0]
            state = state if at < number - 1 or name != "reviewer" else "running"
            state = "failed" if name == "docs-checker" and at == number - 1 else state
            run = Run.objects.create(
                agent=agent, config={}, prompt="Look at the branch feature/paging.", state=state,
                requested_by=admin, suspect=state == "succeeded" and chance.random() < 0.1,
            )  # fmt: skip
            created = timezone.now() - timedelta(hours=2 * (number - at))
            took = timedelta(seconds=chance.expovariate(1 / 300))
            Run.objects.filter(pk=run.pk).update(
                created=created, started_at=created, cost_usd=chance.random() * 2,
                finished_at=None if state == "running" else created + took,
            )  # fmt: skip
        if name == "reviewer":
            jobs.submit(agent, "And the branch feature/lists.").wait("Agent limit 1/1: a run is live.")
