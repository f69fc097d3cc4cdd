"""Schedules and pauses in a real browser: from the first key to the last run."""

import re
from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Locator, Page, expect

from agents import firing, jobs
from agents.models import Agent, Fire, Run, Schedule
from tests.conftest import execute
from tests.test_browser import chromium
from tests.world import visitor

__all__ = ["chromium"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]


@pytest.fixture
def page(chromium: Browser, web: str, admin: User, make_agent: Callable[..., Agent]) -> Iterator[Page]:
    """A visitor from Berlin, and an agent."""
    make_agent("sweeper", default_prompt="Sweep.")
    with visitor(chromium, web, "admin", timezone_id="Europe/Berlin") as (page, complaints):
        yield page
        assert complaints.found == []


def wrong(page: Page, name: str) -> Locator:
    """What is said to be wrong beside a field."""
    return page.locator(f"[data-field={name}] [role=alert]")


def cron(page: Page) -> Locator:
    return page.get_by_label("Cron expression", exact=True)


def moments(page: Page) -> Locator:
    return page.locator("[data-next] li")


def test_a_schedule_is_made_while_the_page_says_what_it_comes_to(page: Page) -> None:
    page.goto("/schedules/")
    page.get_by_role("link", name="New schedule").first.click()
    page.get_by_role("link", name="sweeper").click()
    page.evaluate("window.mark = 1")
    a_wrong_expression_is_refused_beside_it(page)
    its_moments_are_shown(page)
    an_interval_is_chosen(page)
    assert page.evaluate("window.mark") == 1
    page.get_by_label("Interval", exact=True).press("Enter")
    page.wait_for_url(re.compile(r"/schedules/\d+/$"))
    expect(page.get_by_role("status").get_by_text("Saved. Every 12 hours, counted from ")).to_be_visible()
    expect(moments(page)).to_have_count(5)
    made = Schedule.objects.get()
    assert (made.name, made.cron, made.interval, made.time_zone) == ("sweep", "", 43200, "Europe/Berlin")
    assert (made.counted_from, made.owner, made.is_paused) == ("start", User.objects.get(), False)


def a_wrong_expression_is_refused_beside_it(page: Page) -> None:
    expect(page.get_by_label("Time zone")).to_have_value("Europe/Berlin")
    expect(page.get_by_label("Named session")).to_be_hidden()
    page.get_by_label("Name", exact=True).focus()
    page.keyboard.type("sweep")
    page.keyboard.press("Tab")
    expect(page.get_by_label("at certain times")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.type("61 2 * * *")
    expect(wrong(page, "cron")).to_contain_text("61")
    expect(cron(page)).to_have_attribute("aria-invalid", "true")
    expect(wrong(page, "name")).to_be_empty()
    expect(moments(page)).to_have_count(0)


def its_moments_are_shown(page: Page) -> None:
    cron(page).press("Control+a")
    page.keyboard.type("30 2 * * *")
    outlook = page.locator("[data-outlook]")
    expect(outlook.get_by_text("At 02:30 every day (Europe/Berlin)")).to_be_visible()
    expect(moments(page)).to_have_count(5)
    expect(moments(page).first).to_contain_text("02:30:00 CE")
    expect(outlook.locator("[data-notes] li")).to_have_count(2)
    for change in ("go forward and 02:30 does not exist", "go back and 02:30 comes twice"):
        expect(outlook.get_by_text(change)).to_be_visible()
    expect(wrong(page, "cron")).to_be_empty()
    expect(cron(page)).to_have_attribute("aria-invalid", "false")


def an_interval_is_chosen(page: Page) -> None:
    """What is wrong in the field that is left is no longer."""
    cron(page).fill("whenever")
    expect(wrong(page, "cron")).not_to_be_empty()
    page.get_by_label("at certain times").focus()
    page.keyboard.press("ArrowRight")
    expect(cron(page)).to_be_hidden()
    expect(page.get_by_label("Counted from")).to_be_visible()
    page.get_by_label("Interval", exact=True).fill("12h")
    expect(page.locator("[data-words]")).to_contain_text("Every 12 hours, counted from ")
    expect(moments(page)).to_have_count(5)


def test_a_schedule_is_run_paused_followed_and_deleted(page: Page) -> None:
    made = Schedule.objects.create(agent=Agent.objects.get(), name="sweep", interval=43200, time_zone="UTC")
    page.goto(made.get_absolute_url())
    it_is_paused_and_resumed(page)
    page.get_by_role("button", name="Run now").click()
    page.wait_for_url("**/runs/*/")
    run = Run.objects.get()
    assert page.url.endswith(run.get_absolute_url())
    next_moment(made)
    execute(run)
    next_moment(made)
    its_log_says_what_became_of_both(page, made, run)
    the_week_has_it(page, made)
    page.goto(made.get_absolute_url())
    it_is_deleted(page)


def it_is_paused_and_resumed(page: Page) -> None:
    page.get_by_label("Why it is paused").focus()
    page.keyboard.type("the floor is wet")
    page.keyboard.press("Enter")
    notice = page.get_by_role("status").filter(has_text="Paused by admin")
    expect(notice).to_contain_text("the floor is wet")
    page.goto("/schedules/")
    expect(page.get_by_text("by admin: the floor is wet")).to_be_visible()
    page.get_by_role("link", name="sweep", exact=True).click()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(notice).to_have_count(0)


def next_moment(schedule: Schedule) -> None:
    """The clock comes to it."""
    schedule.refresh_from_db()
    assert schedule.due_at
    assert firing.tick(schedule.due_at, jobs.submit, jobs.cancel, "ticker") == 1


def its_log_says_what_became_of_both(page: Page, schedule: Schedule, before: Run) -> None:
    page.goto(schedule.get_absolute_url())
    rows = page.locator("tr", has=page.locator("time")).filter(has_text=re.compile("started|skipped"))
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text(f"Run {before.short_id} of this schedule has not ended.")
    expect(rows.nth(1)).to_contain_text("skipped")
    expect(rows.nth(0)).to_contain_text("started")
    started = schedule.fires.get(kind=Fire.Kind.STARTED).run
    assert started
    rows.nth(0).get_by_role("link", name=started.short_id).click()
    page.wait_for_url(f"**{started.get_absolute_url()}")
    expect(page.get_by_text("schedule sweep").first).to_be_visible()


def the_week_has_it(page: Page, schedule: Schedule) -> None:
    page.goto("/schedules/")
    page.get_by_role("link", name="The coming week").click()
    links = page.locator(".own-day").nth(3).get_by_role("link", name="sweep")
    expect(links).to_have_count(2)
    links.first.click()
    page.wait_for_url(f"**{schedule.get_absolute_url()}")


def it_is_deleted(page: Page) -> None:
    page.get_by_role("button", name="Delete …").click()
    expect(page.get_by_role("heading", name="Delete the schedule sweep of sweeper?")).to_be_visible()
    expect(page.get_by_text("its log of 2 due moments. Its 2 runs and their sessions stay.")).to_be_visible()
    assert Schedule.objects.count() == 1
    page.get_by_role("link", name="Keep it").click()
    page.get_by_role("button", name="Delete …").click()
    page.get_by_role("button", name="Delete it for good").click()
    expect(page.get_by_text("Deleted the schedule sweeper/sweep.")).to_be_visible()
    assert (Schedule.objects.count(), Run.objects.count()) == (0, 2)


def test_what_is_paused_waits_with_the_reason_until_somebody_resumes_it(
    page: Page, workers: Callable[..., object]
) -> None:
    workers(1)
    page.goto("/")
    page.locator("summary", has_text="Pause everything").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("we move house")
    page.keyboard.press("Enter")
    banner = page.get_by_role("status").filter(has_text="herdweb is paused by admin since")
    expect(banner).to_be_visible()
    run = jobs.submit(Agent.objects.get(), "Sweep the hall.")
    page.goto(run.get_absolute_url())
    expect(banner).to_contain_text("we move house")
    waits = page.locator("[data-part=state]").get_by_text("herdweb is paused by admin: we move house")
    expect(waits).to_be_visible(timeout=20_000)
    banner.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("heading", name="Dashboard")).to_be_visible()
    expect(banner).to_have_count(0)
    page.goto(run.get_absolute_url())
    expect(page.locator("[data-part=headline]").get_by_text("succeeded")).to_be_visible(timeout=20_000)
