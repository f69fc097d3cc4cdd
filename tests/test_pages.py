"""The pages, as a browser without scripts sees them."""

import asyncio
import re
import time
from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.test import AsyncClient, Client
from django.urls import URLPattern, reverse

from agents import jobs
from agents.models import Agent, Container, Event, Run, Schedule, Session
from agents.urls import urlpatterns
from tests.conftest import execute

# Fixed, for tests run in several processes that have to agree on their names.
NOBODYS = "829f9928-cdb9-48da-8960-e04f1e40b658"
pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "[x](javascript:alert(1))",
    "\x1b]8;;javascript:alert(1)\x07link\x1b]8;;\x07",
    "\x1b]0;title\x07\x1b[31mred\x1b[0m",
    "user\u202etxt.exe",
    "{{ 7|add:7 }} {% now 'Y' %}",
    '" onmouseover="alert(1)',
)


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


class Markup(HTMLParser):
    """What a strict policy forbids, found in a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = dict(attrs)
        handlers = [name for name in names if name.startswith("on") or name == "style"]
        elsewhere = [name for name in ("src", "href", "action") if is_foreign(names.get(name) or "")]
        inline = tag == "style" or (tag == "script" and "src" not in names)
        if handlers or elsewhere or inline:
            self.bad.append(self.get_starttag_text() or tag)


def is_foreign(address: str) -> bool:
    return bool(re.match(r"\s*(javascript|data|vbscript|https?):|//", address, re.IGNORECASE))


def address(pattern: URLPattern, run: Run) -> str:
    """An address of a page that exists, for every page there is."""
    values: dict[str, object] = {
        "name": run.agent.name,
        "page": "runs",
        "public_id": run.session.public_id
        if "session" in str(pattern.name) and run.session
        else run.public_id,
        "number": schedule_of(run) if "schedule" in str(pattern.name) else run.container_id or 1,
        "seq": 1,
        "place": 0,
    }
    wanted = pattern.pattern.converters
    return reverse(f"agents:{pattern.name}", kwargs={name: values[name] for name in wanted})


def schedule_of(run: Run) -> int:
    return int(Schedule.objects.get_or_create(agent=run.agent, name="nightly", cron="30 2 * * *")[0].pk)


def everywhere(run: Run) -> list[str]:
    return [address(pattern, run) for pattern in urlpatterns]


def pages(run: Run) -> list[str]:
    """Addresses that answer a GET with HTML."""
    posts = (
        "cancel/", "again/", "bulk/", "delete/", "stop/", "rename/", "restore/", "save/", "forget/", "pin/",
        "keep/", "remove/", "schedules/preview/", "pause/", "resume/", "/run/", "anew/",
    )  # fmt: skip
    files = ("markdown/", "jsonl/", "output/", "errors/", "download/", "picture/", "patch/")
    others = ("conversation/now/", "events/", "stream/", *files, *posts)
    return [
        path
        for path in everywhere(run)
        if not path.endswith(others) and not re.search("/(image|attachments)/", path)
    ]


@pytest.fixture
def lived(make_agent: MakeAgent, tiny_image: str) -> Run:
    """A run with a session and a container."""
    agent = make_agent(docker_enabled=True, docker_image=tiny_image, docker_network="none")
    return Run.objects.select_related("agent", "session").get(pk=execute(jobs.submit(agent, "hello")).pk)


def test_nothing_is_shown_to_those_who_are_not_logged_in(client: Client, lived: Run) -> None:
    for path in everywhere(lived):
        answer = client.get(path)
        to_login = answer.status_code == 302 and answer.headers["Location"].startswith("/login/?next=")
        assert to_login or answer.status_code == 401, path


def test_nothing_can_be_sent_by_those_who_are_not_logged_in(client: Client, lived: Run) -> None:
    for path in everywhere(lived):
        assert client.post(path, {"prompt": "x"}).status_code in (302, 401, 405), path
    assert Run.objects.count() == 1


def test_every_page_answers(browser: Client, lived: Run) -> None:
    for path in pages(lived):
        assert browser.get(path).status_code == 200, path


def test_every_page_keeps_the_strict_policy(browser: Client, lived: Run) -> None:
    for path in [*pages(lived), "/admin/", f"/admin/agents/agent/{lived.agent_id}/change/", "/nothing/"]:
        answer = browser.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy, path
        assert "unsafe" not in policy, path
        assert answer.headers["X-Frame-Options"] == "DENY"


def test_nothing_is_inline_and_nothing_comes_from_elsewhere(browser: Client, lived: Run) -> None:
    for path in [*pages(lived), "/nothing/"]:
        assert Markup(browser.get(path).content.decode()).bad == [], path


def test_the_login_page_keeps_the_policy_too(client: Client) -> None:
    answer = client.get("/login/")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert Markup(answer.content.decode()).bad == []


def test_logging_in_leads_to_the_agents(client: Client, admin: User) -> None:
    answer = client.post("/login/", {"username": "admin", "password": "a-password-for-tests"})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")


def test_a_wrong_password_is_said_to_be_wrong(client: Client, admin: User) -> None:
    answer = client.post("/login/", {"username": "admin", "password": "another"})
    assert "Please enter a correct username and password" in answer.content.decode()


def test_a_prompt_leads_to_the_page_of_its_run_at_once(browser: Client, make_agent: MakeAgent) -> None:
    agent = make_agent()
    answer = browser.post(agent.get_absolute_url(), {"prompt": "say hello"})
    run = Run.objects.get()
    assert (answer.status_code, answer.headers["Location"]) == (303, run.get_absolute_url())
    assert (run.state, run.prompt, str(run.requested_by)) == ("queued", "say hello", "admin")


def test_a_prompt_is_answered_within_a_tenth_of_a_second(browser: Client, make_agent: MakeAgent) -> None:
    path = make_agent().get_absolute_url()
    took = []
    for _ in range(9):
        begun = time.perf_counter()
        browser.post(path, {"prompt": "x"})
        took.append(time.perf_counter() - begun)
    assert sorted(took)[4] < 0.1


def test_the_page_shows_queued_and_afterwards_what_was_printed(
    browser: Client, make_agent: MakeAgent
) -> None:
    path = browser.post(make_agent().get_absolute_url(), {"prompt": "one\ntwo"}).headers["Location"]
    assert "queued" in browser.get(path).content.decode()
    execute(Run.objects.get())
    html = browser.get(path).content.decode()
    assert re.findall(r"<pre>\n(one|two)</pre>", html) == ["one", "two"]
    assert "succeeded" in html


def test_a_run_without_a_prompt_is_refused_with_the_reason(browser: Client, make_agent: MakeAgent) -> None:
    answer = browser.post(make_agent().get_absolute_url(), {"prompt": "  "})
    assert answer.status_code == 422
    assert "Prompt is required" in answer.content.decode()
    assert not Run.objects.exists()


def test_what_was_typed_is_still_there_after_a_mistake(browser: Client, make_agent: MakeAgent) -> None:
    typed = {"prompt": "\n  keep <this>", "mode": "continue", "session": str(uuid4())}
    answer = browser.post(make_agent(runtime="command", command=["cat"]).get_absolute_url(), typed)
    assert answer.status_code == 422
    assert "\n\n  keep &lt;this&gt;</textarea>" in answer.content.decode()
    assert "Not found: this agent has no such session." in answer.content.decode()


def test_a_session_without_saying_what_to_do_with_it_is_refused(
    browser: Client, make_agent: MakeAgent
) -> None:
    agent = make_agent(runtime="command", command=["cat"])
    session = execute(jobs.submit(agent, "first")).session
    assert session
    answer = browser.post(agent.get_absolute_url(), {"prompt": "x", "session": str(session.public_id)})
    assert answer.status_code == 422
    assert "Choose whether to continue the session or to fork it." in answer.content.decode()


def test_an_agent_that_is_off_refuses(browser: Client, make_agent: MakeAgent) -> None:
    answer = browser.post(make_agent(enabled=False).get_absolute_url(), {"prompt": "x"})
    assert (answer.status_code, Run.objects.count()) == (422, 0)
    assert "is switched off" in answer.content.decode()


def test_a_session_is_continued_from_its_page(browser: Client, make_agent: MakeAgent) -> None:
    agent = make_agent(runtime="command", command=["cat"])
    session = execute(jobs.submit(agent, "first")).session
    assert session
    assert 'value="continue"' in browser.get(session.get_absolute_url()).content.decode()
    typed = {"prompt": "second", "mode": "continue", "session": str(session.public_id)}
    assert browser.post(agent.get_absolute_url(), typed).status_code == 303
    assert Run.objects.latest("id").continues == session


def test_a_session_that_cannot_go_on_says_why(browser: Client, make_agent: MakeAgent) -> None:
    session = execute(jobs.submit(make_agent(), "x")).session
    assert session
    html = browser.get(session.get_absolute_url()).content.decode()
    assert "The runtime echo cannot continue sessions." in html
    assert "<textarea" not in html


def test_an_agent_without_memory_is_offered_no_sessions(browser: Client, make_agent: MakeAgent) -> None:
    agent = make_agent()
    execute(jobs.submit(agent, "x"))
    assert 'name="mode"' not in browser.get(agent.get_absolute_url()).content.decode()


def test_what_is_hostile_is_shown_as_text(browser: Client, make_agent: MakeAgent) -> None:
    text = "\n".join(HOSTILE)
    agent = make_agent(description=text, default_prompt=text)
    run = execute(jobs.submit(agent, text))
    Run.objects.filter(pk=run.pk).update(state="failed", reason=text, runtime_version="<b>1")
    for path in pages_of(run):
        html = browser.get(path).content.decode()
        found = Markup(html)
        assert (found.bad, {"b", "i", "u"} & set(found.tags)) == ([], set()), path
        assert not {"\x1b", "\u202e"} & set(html), path


def pages_of(run: Run) -> list[str]:
    run = Run.objects.select_related("agent", "session").get(pk=run.pk)
    Container.objects.create(
        name="c", image="<i>", image_digest="", agent=run.agent, session=run.session, note="<u>"
    )
    run.container_id = Container.objects.get().pk
    return pages(run)


@pytest.mark.parametrize("kind", Event.Kind.values)
def test_hostile_events_of_every_kind_are_shown_as_text(
    browser: Client, make_agent: MakeAgent, kind: str
) -> None:
    run = jobs.submit(make_agent(), "x")
    block = {"name": HOSTILE[1], "input": {text: text for text in HOSTILE}, "is_error": HOSTILE[0]}
    payload = {"block": block, "items": HOSTILE[0], "is_error": True}
    for number, text in enumerate(HOSTILE, 2):
        Event.objects.create(run=run, seq=number, kind=kind, text=text, payload=payload)
    html = browser.get(run.get_absolute_url()).content.decode()
    assert Markup(html).bad == []
    assert "\x1b" not in html
    assert html.count("&lt;svg/onload=alert(1)&gt;") >= 1


@pytest.mark.parametrize("query", ["page=-1", "page=9e9", "page=abc", "page=" + "9" * 40, "page=%00",
                                   "state=nonsense", "state=%00", "agent=%00", "agent=%F0%90", "per=100000",
                                   "sort=password", "before=-1", "before=" + "9" * 30])  # fmt: skip
@pytest.mark.parametrize("page", ["", "runs/", "sessions/", "containers/"])
def test_nonsense_in_a_query_is_no_mistake_of_ours(browser: Client, page: str, query: str) -> None:
    assert browser.get(f"/{page}?{query}").status_code == 200


def test_runs_are_found_by_agent_and_state(browser: Client, make_agent: MakeAgent) -> None:
    queued = jobs.submit(make_agent("first"), "x")
    ended = execute(jobs.submit(make_agent("second"), "x"))
    assert shown_runs(browser, "agent=first") == {queued.short_id}
    assert shown_runs(browser, "state=succeeded") == {ended.short_id}
    assert shown_runs(browser, "agent=first&state=succeeded") == set()


def shown_runs(browser: Client, query: str) -> set[str]:
    return set(re.findall(r'href="/runs/([0-9a-f]{8})-', browser.get(f"/runs/?{query}").content.decode()))


@pytest.mark.parametrize(
    "path", [f"/runs/{NOBODYS}/", f"/sessions/{NOBODYS}/", "/containers/1/", f"/containers/{10**30}/",
             "/agents/none/", "/runs/0/", "/runs/-1/", "/runs/9e99/", "/agents/%00/"])  # fmt: skip
def test_what_does_not_exist_is_not_found(browser: Client, db: None, path: str) -> None:
    assert browser.get(path).status_code == 404


def test_a_queued_run_is_cancelled_from_its_page(browser: Client, make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    answer = browser.post(f"{run.get_absolute_url()}cancel/", follow=True)
    assert "Cancelled by admin before it started." in answer.content.decode()
    assert Run.objects.get().state == "cancelled"


def test_a_run_that_has_ended_cannot_be_cancelled(browser: Client, make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(), "x"))
    answer = browser.post(f"{run.get_absolute_url()}cancel/", follow=True)
    assert "The run had ended already." in answer.content.decode()
    assert "cancel/" not in browser.get(run.get_absolute_url()).content.decode()


def test_a_run_that_is_being_stopped_is_not_said_to_have_ended(
    browser: Client, make_agent: MakeAgent
) -> None:
    run = jobs.submit(make_agent(), "x")
    Run.objects.update(state=Run.State.CANCELLING)
    answer = browser.post(f"{run.get_absolute_url()}cancel/", follow=True)
    assert b"The run is being stopped already." in answer.content


@pytest.mark.parametrize("state", Run.State)
def test_the_tab_of_a_run_has_an_icon_for_every_state(
    browser: Client, make_agent: MakeAgent, state: str
) -> None:
    run = jobs.submit(make_agent(), "x")
    Run.objects.update(state=state)
    icons = re.findall(
        r'<link rel="icon"\s+href="([^"]+)"', browser.get(run.get_absolute_url()).content.decode()
    )
    assert len(icons) == 1
    assert finders.find(icons[0].removeprefix("/static/"))


def test_a_link_cannot_cancel(browser: Client, make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    assert browser.get(f"{run.get_absolute_url()}cancel/").status_code == 405


def test_another_site_can_start_and_cancel_nothing(admin: User, make_agent: MakeAgent) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(admin)
    run = jobs.submit(make_agent(), "x")
    for path in (run.agent.get_absolute_url(), f"{run.get_absolute_url()}cancel/"):
        answer = strict.post(path, {"prompt": "x"})
        assert answer.status_code == 403
        assert "The form was refused" in answer.content.decode()
    assert [item.state for item in Run.objects.all()] == ["queued"]


def test_the_raw_output_is_downloaded_byte_for_byte(admin: User, make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(runtime="command", command=["printf", r"a\377\000b\n<b>"]), "x"))
    headers, body = download(admin, f"{run.get_absolute_url()}output/")
    assert body == b"a\xff\x00b\n<b>"
    assert headers["Content-Disposition"] == f'attachment; filename="run-{run.short_id}-output.jsonl"'
    assert headers["Content-Type"].startswith("text/plain")
    assert (headers["X-Content-Type-Options"], headers["Content-Length"]) == ("nosniff", str(len(body)))


def test_what_was_printed_as_errors_is_downloaded_too(admin: User, make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(runtime="command", command=["sh", "-c", "echo oops >&2"]), "x"))
    assert download(admin, f"{run.get_absolute_url()}errors/")[1] == b"oops\n"


def download(user: User, path: str) -> tuple[dict[str, str], bytes]:
    async def get() -> tuple[dict[str, str], bytes]:
        client = AsyncClient()
        await client.aforce_login(user)
        answer: Any = await client.get(path)
        return dict(answer.headers), b"".join([piece async for piece in answer.streaming_content])

    return asyncio.run(get())


def test_output_that_is_not_there_is_not_found(browser: Client, make_agent: MakeAgent) -> None:
    assert browser.get(f"{jobs.submit(make_agent(), 'x').get_absolute_url()}output/").status_code == 404


def test_a_long_line_says_that_it_was_cut(browser: Client, make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(), "x" * 100_000))
    html = browser.get(run.get_absolute_url()).content.decode()
    assert "This line has 97.66 KB; the page shows its beginning only." in html
    assert f"{run.get_absolute_url()}output/" in html


def test_a_long_run_shows_its_end_and_leads_to_its_beginning(browser: Client, make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(), "\n".join(f"line-{number}" for number in range(1000))))
    seen: list[str] = []
    query = ""
    while query is not None and len(seen) < run.event_count:
        html = browser.get(run.get_absolute_url() + query).content.decode()
        seen = re.findall(r'data-seq="(\d+)"', html) + seen
        query = f"?before={seen[0]}"
    assert [int(number) for number in seen] == list(range(1, run.event_count + 1))


@pytest.mark.parametrize("state", ["waiting", "failed", "timed_out", "lost", "cancelling"])
def test_the_reason_is_prominent(browser: Client, make_agent: MakeAgent, state: str) -> None:
    run = jobs.submit(make_agent(), "x")
    Run.objects.filter(pk=run.pk).update(state=state, reason="Because of this.")
    html = browser.get(run.get_absolute_url()).content.decode()
    assert re.search(
        r'class="alert alert-(danger|warning)"[^>]*>\s*<span class="own-text">Because of this', html
    )


def test_a_run_that_nobody_takes_says_so(browser: Client, make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    assert "No worker is running" not in browser.get(run.get_absolute_url()).content.decode()
    Run.objects.filter(pk=run.pk).update(created=run.created - timedelta(seconds=4))
    assert "No worker is running" in browser.get(run.get_absolute_url()).content.decode()


def test_a_container_shows_its_limits_its_end_and_what_lived_in_it(browser: Client, lived: Run) -> None:
    assert lived.container
    assert lived.session
    html = browser.get(lived.container.get_absolute_url()).content.decode()
    for text in ("2 GB", "512", "removed", lived.short_id, lived.session.get_absolute_url()):
        assert text in html


def test_there_is_a_next_step_where_nothing_is_yet(browser: Client) -> None:
    assert "Create the first agent" in browser.get("/agents/").content.decode()
    for path in ("/runs/", "/sessions/", "/containers/"):
        assert 'href="/"' in browser.get(path).content.decode()


def test_the_vendored_files_are_as_recorded() -> None:
    folder = Path(__file__).parent.parent / "agents/static/agents/vendor"
    assert "sourceMappingURL" not in (folder / "tabler.min.css").read_text()
    assert "Permission is hereby granted" in (folder / "tabler-core.LICENSE.txt").read_text()
    assert Session._meta.app_label == "agents"


def test_no_rule_of_a_style_sheet_lies_inside_another_by_mistake() -> None:
    for sheet in (Path(__file__).parent.parent / "agents/static/agents").glob("*.css"):
        depth = 0
        for number, line in enumerate(sheet.read_text().splitlines(), 1):
            assert not depth or line == "}" or line.startswith(" ") or not line, f"{sheet.name}:{number}"
            depth += line.count("{") - line.count("}")
        assert depth == 0, sheet.name
