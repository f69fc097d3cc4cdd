"""What can be done with a run that is there."""

import re
import shlex
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client
from markdown_it import MarkdownIt

from agents import jobs, sessions
from agents.models import Agent, Event, Run
from tests.conftest import execute
from tests.test_pages import HOSTILE, download

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


def page(browser: Client, run: Run) -> str:
    return browser.get(run.get_absolute_url()).content.decode()


def test_a_run_is_asked_for_again(browser: Client, make_agent: MakeAgent) -> None:
    first = execute(jobs.submit(make_agent(), "say\n  this"))
    answer = browser.post(f"{first.get_absolute_url()}again/")
    second = Run.objects.latest("id")
    assert (answer.status_code, answer.headers["Location"]) == (303, second.get_absolute_url())
    assert (second.prompt, str(second.requested_by), second.continues) == (first.prompt, "admin", None)


def test_an_agent_that_is_off_is_not_run_again(browser: Client, make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(), "x"))
    Agent.objects.update(enabled=False)
    answer = browser.post(f"{run.get_absolute_url()}again/", follow=True)
    assert "is switched off" in answer.content.decode()
    assert Run.objects.count() == 1


def test_a_link_runs_nothing_again(browser: Client, make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    assert browser.get(f"{run.get_absolute_url()}again/").status_code == 405


def test_a_prompt_can_be_changed_before_it_is_sent_again(browser: Client, make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "\n  keep <this>")
    target = re.search(r'href="([^"]+from=[^"]+)#run"', page(browser, run))
    assert target
    assert "\n\n  keep &lt;this&gt;</textarea>" in browser.get(target[1]).content.decode()


def test_the_prompt_of_another_agent_s_run_is_not_shown(browser: Client, make_agent: MakeAgent) -> None:
    run, other = jobs.submit(make_agent(), "secret"), make_agent("other")
    for number in (run.public_id, "nonsense", "\x00", ""):
        answer = browser.get(other.get_absolute_url(), {"from": str(number)})
        assert answer.status_code == 200
        assert "secret" not in answer.content.decode()


def test_an_ended_run_is_continued_from_its_page(browser: Client, make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(runtime="command", command=["cat"]), "x"))
    assert 'value="continue"' in page(browser, run)
    assert "It cannot be forked: The runtime command cannot fork sessions." in page(browser, run)


def test_a_run_that_cannot_go_on_says_why(browser: Client, make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(), "x"))
    assert "The runtime echo cannot continue sessions." in page(browser, run)
    assert sessions.by_hand(run) == ""


@pytest.mark.parametrize("inside", [False, True])
def test_the_resume_command_names_session_and_home(make_agent: MakeAgent, inside: bool) -> None:
    agent = make_agent(docker_enabled=inside, docker_image="tiny")
    run = execute(jobs.submit(make_agent("echo"), "x"))
    Run.objects.update(config={**agent.freeze(), "runtime": "claude_cli"})
    run.refresh_from_db()
    assert run.session
    words = shlex.split(sessions.by_hand(run))
    assert words[-2:] == ["claude", f"--resume={run.session.public_id}"]
    assert (words[0], run.session.home in " ".join(words)) == ("docker" if inside else "env", True)


def test_an_export_holds_everything_as_text(admin: User, make_agent: MakeAgent) -> None:
    hostile = [*HOSTILE, "```\n<script>alert(1)</script>\n```", "~~~\n````\n<b>", "# a\n\n<img src=x>"]
    run = jobs.submit(make_agent(), "\n".join(hostile))
    for number, text in enumerate(hostile, 2):
        payload = {"block": {"name": text, "input": {text: text}}}
        Event.objects.create(
            run=run, seq=number, kind=Event.Kind.values[number % 9], text=text, payload=payload
        )
    headers, body = download(admin, f"{run.get_absolute_url()}markdown/")
    assert headers["Content-Disposition"] == f'attachment; filename="run-{run.short_id}.md"'
    assert headers["X-Content-Type-Options"] == "nosniff"
    tokens = MarkdownIt("commonmark").parse(body.decode())
    assert {token.type for token in tokens} <= {
        "heading_open", "heading_close", "inline", "fence", "bullet_list_open", "bullet_list_close",
        "list_item_open", "list_item_close", "paragraph_open", "paragraph_close",
    }  # fmt: skip
    assert all(child.type in ("text", "softbreak") for token in tokens for child in token.children or ())
    assert not {"\x1b", "\u202e"} & set(body.decode())
