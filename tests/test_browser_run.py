"""What the page of a run tells beside its lines: what is left, how it ended, by which keys."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from agents import jobs
from agents.models import Agent, Run
from tests.conftest import execute, until
from tests.test_browser import chromium, context, expected, page, picture

__all__ = ["chromium", "context", "page"]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]
MakeAgent = Callable[..., Agent]
# Told to end, it does not.
STUBBORN = ["sh", "-c", "trap '' TERM; echo line-1; while :; do sleep 0.1; done"]
# Notes what it is given; the browser of the tests has no desktop on which to show it.
NOTED = """
window.noted = [];
window.asked = 0;
const given = window.Notification;
window.Notification = class extends EventTarget {
  static permission = "default";
  static async requestPermission() {
    window.asked += 1;
    return (this.permission = window.answer || "granted");
  }
  constructor(title, options) { super(); window.noted.push([title, options.body, options.icon]); }
};
"""


def live(make_agent: MakeAgent, name: str = "probe", **columns: Any) -> Run:
    """A run that looks as if a worker had it."""
    run = jobs.submit(make_agent(name, time_limit=600, idle_limit=120, cancel_grace=50), "Count to three.")
    now = timezone.now()
    Run.objects.filter(pk=run.pk).update(
        **{
            "state": "running", "started_at": now, "last_output_at": now,
            "deadline_at": now + timedelta(seconds=600), **columns,
        }
    )  # fmt: skip
    run.refresh_from_db()
    return run


def finish(run: Run, state: str) -> None:
    Run.objects.filter(pk=run.pk).update(state=state, finished_at=timezone.now(), reason="Because.")


def icon(page: Page) -> str:
    return page.locator("link[rel=icon]").get_attribute("href") or ""


def left(page: Page) -> int:
    found = re.search(r"(\d+) s", page.get_by_role("timer").inner_text())
    return int(found[1]) if found else -1


def test_a_cancel_counts_down_to_the_kill_also_after_a_reload(
    page: Page, make_agent: MakeAgent, workers: Callable[..., object]
) -> None:
    workers(1)
    run = jobs.submit(make_agent(runtime="command", command=STUBBORN, cancel_grace=5), "x")
    page.goto(run.get_absolute_url())
    expect(page.get_by_text("line-1", exact=True)).to_be_visible(timeout=15_000)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("timer")).to_have_text(re.compile(r"It is killed in [1-5] s"))
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    before = left(page)
    until(lambda: left(page) < before, "It does not count")
    page.reload()
    assert 0 < left(page) < before
    picture(page, "run-cancelling")
    expect(page.locator("[data-part=state]").get_by_text("was killed")).to_be_visible(timeout=15_000)
    expect(page.get_by_role("timer")).to_have_count(0)
    assert page.title().startswith("cancelled")


def test_somebody_else_s_cancel_is_counted_too_until_the_agent_is_being_killed(
    page: Page, make_agent: MakeAgent
) -> None:
    run = live(make_agent)
    page.goto(run.get_absolute_url())
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    jobs.cancel(run, "somebody")
    expect(page.get_by_text("Cancelled by somebody; waiting")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    assert 40 < left(page) <= 50
    Run.objects.update(stop_requested_at=timezone.now() - timedelta(seconds=48))
    expect(page.get_by_role("timer")).to_have_text("Its time to end by itself is over; it is being killed.")


def test_what_is_left_of_time_and_silence_is_counted(page: Page, make_agent: MakeAgent) -> None:
    run = live(make_agent)
    page.goto(run.get_absolute_url())
    time, silence = (page.locator(f"dt:text-is('{name} left') + dd") for name in ("Time", "Silence"))
    expect(time).to_have_text(re.compile(r"^\s*(10 min 00|9 min 5\d) s\s+of 10m\s*$"))
    expect(silence).to_have_text(re.compile(r"^\s*(2 min 00|1 min 5\d) s\s+of 2m\s*$"))
    expect(silence).to_have_text(re.compile("1 min 5[0-6] s"), timeout=15_000)
    Run.objects.update(last_output_at=timezone.now(), output_bytes=7)
    expect(silence).to_have_text(re.compile("2 min 00 s|1 min 5[89] s"))
    finish(run, "succeeded")
    expect(time).to_have_count(0)


def test_the_tab_says_how_a_run_ended(page: Page, make_agent: MakeAgent) -> None:
    ends = (
        ("succeeded", False, "succeeded"),
        ("succeeded", True, "doubtful"),
        ("timed_out", False, "failed"),
    )
    for number, (state, suspect, file) in enumerate(ends):
        run = live(make_agent, name=f"agent-{number}")
        page.goto(run.get_absolute_url())
        assert (page.title().split(" · ")[0], icon(page)) == ("running", "/static/agents/run-live.svg")
        Run.objects.filter(pk=run.pk).update(suspect=suspect)
        finish(run, state)
        words = re.compile(rf"^{state.replace('_', ' ')} · run {run.short_id}")
        expect(page).to_have_title(words)
        assert icon(page) == f"/static/agents/run-{file}.svg"
        page.reload()
        expect(page).to_have_title(words)
        assert icon(page) == f"/static/agents/run-{file}.svg"


def test_a_notification_comes_to_those_who_asked_for_it(page: Page, make_agent: MakeAgent) -> None:
    page.add_init_script(NOTED)
    run = live(make_agent)
    page.goto(run.get_absolute_url())
    button = page.get_by_role("button", name="Notify me")
    expect(button).to_have_attribute("aria-pressed", "false")
    assert page.evaluate("asked") == 0
    button.click()
    on = page.get_by_role("button", name="Notification on")
    expect(on).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("asked") == 1
    picture(page, "run-notify")
    finish(run, "timed_out")
    until(lambda: page.evaluate("noted.length"), "Nothing was told")
    page.wait_for_timeout(700)
    name = f"Run {run.short_id} of probe: timed out"
    assert page.evaluate("noted") == [[name, "Count to three.", "/static/agents/run-failed.svg"]]
    expect(on).to_have_count(0)
    page.reload()
    expect(button).to_have_count(0)
    assert page.evaluate("localStorage.length") == 0


def test_the_wish_for_a_notification_survives_a_reload_and_can_be_taken_back(
    page: Page, make_agent: MakeAgent
) -> None:
    page.context.grant_permissions(["notifications"])
    run = live(make_agent)
    page.goto(run.get_absolute_url())
    page.get_by_role("button", name="Notify me").click()
    expect(page.get_by_role("button", name="Notification on")).to_be_visible()
    page.reload()
    page.get_by_role("button", name="Notification on").click()
    page.reload()
    expect(page.get_by_role("button", name="Notify me")).to_be_visible()
    # A real one, once more: what the browser does with it is its own affair, but it is no error.
    page.get_by_role("button", name="Notify me").click()
    finish(run, "succeeded")
    until(lambda: page.title().startswith("succeeded"), "The title did not change")


def test_a_refused_permission_is_said_and_a_browser_without_it_has_no_button(
    page: Page, make_agent: MakeAgent
) -> None:
    run = live(make_agent)
    page.add_init_script(NOTED + "window.answer = 'denied';")
    page.goto(run.get_absolute_url())
    page.get_by_role("button", name="Notify me").click()
    expect(page.get_by_role("button", name="Blocked by the browser")).to_be_disabled()
    page.add_init_script("delete window.Notification;")
    page.reload()
    expect(page.get_by_text("Facts")).to_be_visible()
    expect(page.locator("[data-notify]")).to_be_hidden()


def test_keys_follow_find_and_help_unless_somebody_types(page: Page, make_agent: MakeAgent) -> None:
    run = live(make_agent)
    for text in expected(100):
        run.note(text)
    page.goto(run.get_absolute_url())
    page.evaluate("scrollTo({top: 0})")
    expect(page.get_by_text("line-100", exact=True)).not_to_be_in_viewport()
    field = page.get_by_label("Find in the whole run")
    page.keyboard.press("/")
    expect(field).to_be_focused()
    page.keyboard.type("f?/")
    expect(field).to_have_value("f?/")
    expect(page.get_by_text("line-100", exact=True)).not_to_be_in_viewport()
    field.evaluate("field => field.blur()")
    page.keyboard.press("Control+f")
    expect(page.get_by_text("line-100", exact=True)).not_to_be_in_viewport()
    page.keyboard.press("f")
    expect(page.get_by_text("line-100", exact=True)).to_be_in_viewport()
    run.note("line-101")
    expect(page.get_by_text("line-101", exact=True)).to_be_in_viewport()
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="On the page of a run")).to_be_visible()
    assert page.locator("#keys kbd").all_inner_texts() == ["f", "/", "?"]


def test_a_reader_with_keys_sees_where_he_is_and_can_pass_over_the_events(
    page: Page, make_agent: MakeAgent
) -> None:
    # So many that the link to the latest stays when the reader comes near it and more are shown.
    run = execute(jobs.submit(make_agent(), "\n".join(expected(1000))))
    page.goto(f"{run.get_absolute_url()}?before=400")
    passed: list[str] = []
    while "Skip the events" not in passed:
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert (
            focused.evaluate("one => getComputedStyle(one).outlineStyle + getComputedStyle(one).boxShadow")
            != "nonenone"
        )
        passed.append(focused.evaluate("one => (one.innerText || one.ariaLabel || one.name || '').trim()"))
        assert len(passed) < 60, passed
    looked_for = ["Run again in a new session", "Edit and run again", "Find"]
    assert [name for name in passed if name in looked_for] == looked_for
    expect(page.locator(":focus")).to_be_visible()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Go to the latest")).to_be_focused()


def test_nothing_moves_for_those_who_do_not_want_it(page: Page, make_agent: MakeAgent) -> None:
    run = live(make_agent)
    page.goto(run.get_absolute_url())
    moving = """() => [...document.querySelectorAll("*")].flatMap((one) =>
        ["", "::before", "::after"].filter((part) => {
            const style = getComputedStyle(one, part || null);
            return style.animationName !== "none" || style.scrollBehavior === "smooth";
        })).length"""
    assert page.evaluate(moving) > 0
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moving) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_live_page_fits_a_telephone(page: Page, make_agent: MakeAgent, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    run = live(make_agent)
    for number in range(5):
        run.note(f"line-{number}")
    for width, device in ((1280, "desk"), (390, "phone")):
        page.set_viewport_size({"width": width, "height": 800})
        for state, reason in (
            ("running", ""),
            ("cancelling", "Cancelled by ada; waiting for the agent to end."),
        ):
            Run.objects.update(state=state, reason=reason, stop_requested_at=timezone.now())
            page.goto(run.get_absolute_url())
            if device == "phone":
                page.locator(".own-side > summary").click()
            picture(page, f"run-{state}-{device}-{scheme}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (state, device)
    page.goto("/help/")
    picture(page, f"help-keys-phone-{scheme}")
