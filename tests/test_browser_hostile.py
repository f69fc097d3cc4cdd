"""What is hostile does nothing in a browser: not in pages, live or later, not in the admin."""

from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, BrowserContext, Dialog, Page

from agents import jobs
from agents.models import Agent, Run
from tests.attacks import ATTACKS, ELSEWHERE, hostile_agent, output, poison, reports
from tests.conftest import execute, until
from tests.test_browser import chromium
from tests.world import PRESSES, World, go, log_in, world

__all__ = ["chromium"]
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]
MakeAgent = Callable[..., Agent]

# What would do something, or could: it need not be clicked to be wrong.
FOUND = r"""() => {
  const turning = /[\u0000-\u0008\u000e-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/;
  const loading = /^(src|href|action|formaction|data|poster|xlink:href)$/;
  const wrong = window.pwned ? ["something was executed"] : [];
  if (/owned/.test(document.title)) wrong.push("the title was changed");
  for (const element of document.querySelectorAll("*")) {
    const told = element.outerHTML.slice(0, 120);
    for (const { name, value } of element.attributes) {
      if (/^on/.test(name) || name === "srcdoc") wrong.push(`${name}: ${told}`);
      if (name !== "value" && turning.test(value)) wrong.push(`control characters in ${name}: ${told}`);
      if (!loading.test(name) || element.tagName === "A") continue;
      const url = new URL(value, location.href);
      if (url.origin !== location.origin && url.protocol !== "data:") wrong.push(`elsewhere: ${told}`);
    }
    if (element.tagName === "A" && element.hasAttribute("href")) {
      const outside = new URL(element.href).origin !== location.origin;
      const named = element.rel.includes("noopener") && element.rel.includes("nofollow");
      if (!/^(https?|mailto):/.test(element.protocol) || (outside && !named)) wrong.push(`link: ${told}`);
    }
  }
  if (document.querySelector("iframe, frame, object, embed, base, style, meta[http-equiv]"))
    wrong.push("an element that no page of ours has");
  const text = document.body.innerText;
  const found = turning.exec(text);
  const told = found && JSON.stringify(text.slice(found.index - 40, found.index + 40));
  if (found) wrong.push(`control characters: ${told}`);
  return [...new Set(wrong)];
}"""


class Alarms:
    """What a browser was made to do: dialogs, windows, requests to anywhere else."""

    def __init__(self, context: BrowserContext, web: str) -> None:
        self.rung: list[str] = []
        context.on("dialog", self.opened)
        context.on("page", self.window)
        context.on("request", lambda request: self.asked(request.url, web))
        context.route(f"{ELSEWHERE}/**", lambda route: route.abort())

    def opened(self, dialog: Dialog) -> None:
        self.rung.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def window(self, page: Page) -> None:
        if len(page.context.pages) > 1:
            self.rung.append(f"a window at {page.url}")

    def asked(self, url: str, web: str) -> None:
        if not url.startswith((f"{web}/", "data:image/")):
            self.rung.append(f"request {url}")


@pytest.fixture
def hostile(make_agent: MakeAgent, person: Callable[..., User], tiny_image: str, admin: User) -> World:
    """A world whose every text is an attack, with a run that printed all of them."""
    there = world(make_agent, person, tiny_image, admin)
    agent = make_agent("hostile", runtime="command", command=["sh", "-c", "tee /dev/fd/2"])
    run = execute(jobs.submit(agent, output(), by=admin))
    poison()
    hostile_agent(there.run.agent)
    there.values["attacking"] = run.public_id
    there.values["attacking_pk"] = run.pk
    return there


@pytest.fixture
def naive(chromium: Browser, web: str, hostile: World) -> Iterator[tuple[Page, Alarms]]:
    """A browser that does not enforce the policy: our pages must do without it."""
    context = chromium.new_context(base_url=web, bypass_csp=True)
    alarms = Alarms(context, web)
    page = context.new_page()
    log_in(page, "admin")
    yield page, alarms
    context.close()


@pytest.mark.slow
def test_no_page_does_what_a_text_says(naive: tuple[Page, Alarms], hostile: World, web: str) -> None:
    page, alarms = naive
    run = "/runs/{attacking}/"
    more = {
        "run-attacking": run, "run-begin": f"{run}?at=1", "run-found": f"{run}?q=pwned",
        "admin-run-attacking": "/admin/agents/run/{attacking_pk}/change/",
    }  # fmt: skip
    wrong = []
    for name, path in (
        hostile.pages() | {name: path.format_map(hostile.values) for name, path in more.items()}
    ).items():
        go(page, path)
        wrong += [f"{name}: {each}" for each in page.evaluate(FOUND)]
        wrong += [] if PRESSES in path or page.url == f"{web}{path}" else [f"{name} led to {page.url}"]
    wrong += alarms.rung
    assert not wrong, "\n".join(wrong)


def test_nothing_happens_while_it_arrives(naive: tuple[Page, Alarms], make_agent: MakeAgent) -> None:
    page, alarms = naive
    run = jobs.submit(make_agent("live-one"), "\n".join(ATTACKS).replace("\x00", ""))
    Run.objects.filter(pk=run.pk).update(state="running")
    page.goto(run.get_absolute_url())
    run.record("", reports(output()))
    run.note("the last word")
    until(lambda: page.locator(f"#e{run.event_count}").count(), "The events did not come")
    # Every event is there, each once: no line end in a text ended its message.
    numbers = page.evaluate(
        "[...document.querySelectorAll('[data-seq]')].map(each => Number(each.dataset.seq))"
    )
    assert sorted(numbers) == list(range(1, run.event_count + 1))
    wrong = page.evaluate(FOUND) + alarms.rung
    assert not wrong, "\n".join(wrong)
