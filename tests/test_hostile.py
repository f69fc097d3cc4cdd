"""What is hostile is text in every answer: downloads, exports, fragments, refusals, what was asked for."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.test import Client
from markdown_it import MarkdownIt

from agents import jobs
from agents.models import Agent, Run
from tests.attacks import ATTACKS, TAME, output
from tests.conftest import execute
from tests.test_pages import Markup, download

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]


class Tags(HTMLParser):
    """The names of all tags in a text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names |= {tag, *(name for name, _ in attrs)}


@pytest.fixture
def attacking(make_agent: MakeAgent, admin: User) -> Run:
    """A run that printed all attacks, on both of its outputs."""
    agent = make_agent("hostile", runtime="command", command=["sh", "-c", "tee /dev/fd/2"])
    return execute(jobs.submit(agent, output(), by=admin))


def test_downloads_are_files_and_no_pages(attacking: Run, admin: User) -> None:
    for name in ("output", "errors", "markdown"):
        headers, body = download(admin, f"{attacking.get_absolute_url()}{name}/")
        assert re.fullmatch(r'attachment; filename="run-[0-9a-f]{8}[a-z.-]*"', headers["Content-Disposition"])
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert re.match("text/(plain|markdown); charset=utf-8$", headers["Content-Type"])
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert len(body) > 100_000
    assert ATTACKS[0].encode() in download(admin, f"{attacking.get_absolute_url()}output/")[1]


def test_an_export_is_nothing_but_text_when_it_is_rendered(attacking: Run, admin: User) -> None:
    text = download(admin, f"{attacking.get_absolute_url()}markdown/")[1].decode()
    rendered = Tags(MarkdownIt("commonmark", {"html": True}).render(text)).names
    assert rendered <= {"h1", "h2", "h3", "ul", "li", "p", "pre", "code", "em", "class"}
    assert not set("\x00\x07\x1b\x9b\x7f\u202e\u2066\u200f") & set(text)


def test_events_are_sent_as_json_and_pictures_as_what_they_are(attacking: Run, admin: User) -> None:
    client = Client()
    client.force_login(admin)
    sent = client.get(f"{attacking.get_absolute_url()}events/?after=0")
    assert sent.headers["Content-Type"] == "application/json"
    assert sent.headers["X-Content-Type-Options"] == "nosniff"
    html = "".join(event["html"] for event in sent.json()["events"])
    assert Markup(html.replace('href="http', 'name="http')).bad == []
    result = attacking.events.filter(kind="tool_result").earliest("seq")
    # The one says that it is a PNG and is none; the other says that it is an SVG.
    for place in (1, 2):
        address = f"{attacking.get_absolute_url()}events/{result.seq}/image/{place}/"
        assert client.get(address).status_code == 404


def test_what_is_asked_for_is_answered_as_text(client: Client, make_agent: MakeAgent, admin: User) -> None:
    """In an address, which may come from a link that somebody else wrote."""
    client.force_login(admin)
    here = execute(jobs.submit(make_agent(), "x")).get_absolute_url()
    ours = ("/", "/agents/", "/runs/", "/sessions/", "/containers/", "/agents/probe/", here)
    names = "q text agent state kind tab sort before after at from since until whole next page".split()
    for path in (*ours, "/admin/agents/run/"):
        for attack in ATTACKS[:-1]:
            answer = client.get(path, dict.fromkeys(names, attack))
            assert answer.status_code in (200, 302, 400, 404), (path, attack)
            assert Markup(answer.content.decode()).bad == [], (path, attack)
    for attack in ATTACKS[:-1]:
        answer = client.get(f"/{quote(attack)}/")
        assert answer.status_code == 404
        assert Markup(answer.content.decode()).bad == []


@pytest.mark.parametrize("next_page", ["javascript:alert(1)", "//evil.example", "http://evil.example/"])
def test_the_login_leads_nowhere_else(client: Client, admin: User, next_page: str) -> None:
    assert Markup(client.get("/login/", {"next": next_page}).content.decode()).bad == []
    form = {"username": "admin", "password": "a-password-for-tests", "next": next_page}
    assert client.post("/login/", form).headers["Location"] == "/"


def test_names_that_attack_are_refused_and_repeated_as_text(client: Client, admin: User) -> None:
    client.force_login(admin)
    for attack in (*ATTACKS[:-1], TAME):
        form = {"name": attack, "docker-0-image": attack, "model": attack, "docker-TOTAL_FORMS": "1"}
        answer = client.post("/admin/agents/agent/add/", {**form, "docker-INITIAL_FORMS": "0"})
        assert answer.status_code == 200, attack
        assert b"errorlist" in answer.content
        tags = Tags(answer.content.decode()).names
        assert not {"onerror", "onload", "onclick", "onfocus", "iframe", "srcdoc", "object"} & tags, attack
    assert not Agent.objects.exists()
