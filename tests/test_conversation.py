"""The conversation of a session: all its runs as one transcript, what waits, what is found, what is kept."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from agents import conversation, jobs
from agents.conversation import Place
from agents.models import Agent, Audit, Event, Run, Session
from tests.conftest import execute
from tests.test_pages import HOSTILE, download
from tests.world import TRANSCRIPT

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


@pytest.fixture
def agent(make_agent: MakeAgent) -> Agent:
    return make_agent(runtime="command", command=["cat"])


def talk(agent: Agent, *prompts: str) -> Session:
    """A session with a run for each prompt."""
    session = None
    for prompt in prompts:
        session = execute(jobs.submit(agent, prompt, continues=session)).session
    assert session
    return session


def long(agent: Agent, runs: int, events: int) -> Session:
    """A session of many runs, quickly."""
    session = Session.objects.create(agent=agent, runtime="command", home="x", working_directory="/")
    config = agent.freeze()
    Run.objects.bulk_create(
        Run(agent=agent, config=config, prompt=f"prompt {number}", session=session, state="succeeded",
            event_count=events)
        for number in range(runs)
    )  # fmt: skip
    Event.objects.bulk_create(
        Event(run_id=pk, seq=seq, kind="text", text=f"said {pk}.{seq}")
        for pk in session.runs.values_list("pk", flat=True)
        for seq in range(1, events + 1)
    )
    return session


def path(session: Session, page: str = "session_conversation", query: str = "") -> str:
    return reverse(f"agents:{page}", args=[session.public_id]) + query


def read(browser: Client, session: Session, query: str = "") -> str:
    return browser.get(path(session, query=query)).content.decode()


def said(window: conversation.Window) -> list[tuple[int, int]]:
    """The numbers of everything in a window; 0 for the prompts."""
    return [
        (turn.run.pk, number)
        for turn in window.turns
        for number in ([0] if turn.begins else [])
        + [item.event.seq for fold in turn.folds for item in fold.items]
    ]


def test_all_runs_of_a_session_are_one_transcript(browser: Client, agent: Agent) -> None:
    html = read(browser, talk(agent, "first words", "second words"))
    order = [html.index(text) for text in ("first words", "second words")]
    assert order == sorted(order)
    assert html.count('class="own-turn"') == 2
    assert html.count('data-part="headline"') == 2
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_what_was_withdrawn_or_refused_is_part_of_it(browser: Client, agent: Agent, admin: User) -> None:
    session = talk(agent, "first")
    jobs.cancel(jobs.submit(agent, "second thoughts", continues=session), admin)
    Session.objects.update(runtime="claude_cli")
    execute(jobs.submit(agent, "too late", continues=session))
    html = read(browser, session)
    assert "second thoughts" in html
    assert "Cancelled by admin before it started." in html
    assert "was made by the runtime claude_cli" in html


@pytest.mark.parametrize(("runs", "events"), [(7, 90), (3, 450), (90, 1), (1, 0), (5, 200), (60, 0)])
def test_windows_show_everything_once_in_both_directions(agent: Agent, runs: int, events: int) -> None:
    session = long(agent, runs, events)
    all_of_it = [(run, number) for run in session.runs.order_by("pk").values_list("pk", flat=True)
                 for number in range(events + 1)]  # fmt: skip
    window = conversation.newest(session)
    assert window.later is None
    backwards = said(window)
    while window.earlier:
        window = conversation.before(session, window.earlier)
        assert window.later
        backwards = said(window) + backwards
    assert backwards == all_of_it
    forwards = said(window)
    while window.later:
        window = conversation.after(session, window.later)
        forwards += said(window)
    assert forwards == all_of_it


@pytest.mark.parametrize("seq", [0, 1, 40, 90])
def test_a_place_is_shown_with_what_is_around_it(agent: Agent, seq: int) -> None:
    session = long(agent, 9, 90)
    run = session.runs.order_by("pk")[4]
    shown = said(conversation.around(session, Place(run.pk, seq)))
    at = shown.index((run.pk, seq))
    assert at > 50
    assert len(shown) - at > 50


def test_a_place_that_is_not_there_is_the_end(browser: Client, agent: Agent) -> None:
    session = talk(agent, "first")
    other = talk(agent, "other")
    run = other.runs.get()
    far = f"{10**18 - 1}.9999999999"
    queries = ("?at=1", "?at=x.y", f"?at={run.pk}.1", f"?at={far}", "?before=\x00", "?after=0.0")
    for query in queries:
        assert "first" in read(browser, session, query), query
        assert "other" not in re.sub(r"\?next=.*", "", read(browser, session, query)), query


@pytest.mark.slow
def test_long_sessions_are_read_in_few_queries(browser: Client, agent: Agent) -> None:
    session = long(agent, 1000, 100)
    middle = session.runs.order_by("pk")[500].pk
    for query in ("", f"?before={middle}.50", f"?after={middle}.50", f"?at={middle}.50", "?q=said"):
        with CaptureQueriesContext(connection) as captured:
            assert browser.get(path(session, query=query)).status_code == 200
        assert len(captured.captured_queries) <= 22, query


def test_a_message_is_sent_and_waits_for_its_turn(browser: Client, agent: Agent, admin: User) -> None:
    session = talk(agent, "first")
    first = jobs.submit(agent, "live now", continues=session)
    Run.objects.filter(pk=first.pk).update(state="running", session=session)
    for text in ("one more", "and another"):
        answer = browser.post(path(session), {"prompt": text})
        assert (answer.status_code, answer.headers["Location"]) == (303, f"{path(session)}#newest")
    sent = list(Run.objects.order_by("pk"))[-2:]
    assert [(run.prompt, run.continues, run.requested_by) for run in sent] == [
        ("one more", session, admin), ("and another", session, admin),
    ]  # fmt: skip
    execute(sent[0])
    html = read(browser, session)
    assert f"Its session is in use by run {first.short_id}." in html
    queue = html[html.index('class="own-queue"') :]
    assert queue.index("one more") < queue.index("and another")
    browser.post(f"{sent[0].get_absolute_url()}cancel/", {"from": "conversation"})
    assert "one more" not in read(browser, session).partition('class="own-queue"')[2]


def test_nothing_is_sent_when_nothing_was_typed(browser: Client, make_agent: MakeAgent) -> None:
    session = talk(make_agent(runtime="command", command=["cat"], default_prompt="The usual."), "first")
    answer = browser.post(path(session), {"prompt": " \n"})
    assert answer.status_code == 422
    assert "Type a message first." in answer.content.decode()
    assert Run.objects.count() == 1


def test_a_refused_message_stays_in_the_field(browser: Client, agent: Agent) -> None:
    session = talk(agent, "first")
    Agent.objects.update(enabled=False)
    answer = browser.post(path(session), {"prompt": "<keep> this"})
    assert (answer.status_code, Run.objects.count()) == (422, 1)
    assert "&lt;keep&gt; this</textarea>" in answer.content.decode()
    assert "is switched off" in answer.content.decode()
    answer = browser.post(path(session), {"prompt": "x"}, headers={"Accept": "application/json"})
    assert (answer.status_code, list(answer.json())) == (422, ["error"])


def test_files_are_attached_to_a_message(browser: Client, agent: Agent) -> None:
    session = talk(agent, "first")
    notes = SimpleUploadedFile("notes.txt", b"from a person\n")
    answer = browser.post(path(session), {"prompt": "read them", "attachments": [notes]})
    assert answer.status_code == 303
    sent = Run.objects.latest("pk")
    assert [(each["name"], each["size"]) for each in sent.attachments] == [("notes.txt", 14)]
    execute(sent)
    name = f"attachments/{sent.short_id}/notes.txt"
    assert sent.events.filter(kind="text", text__endswith=name).exists()
    html = read(browser, session)
    assert re.search(r'<form id="composer".*?name="attachments".*?</form>', html, re.DOTALL)


def test_files_that_are_too_large_are_refused_with_the_message_kept(
    browser: Client, agent: Agent, settings: Any
) -> None:
    session = talk(agent, "first")
    settings.HERDWEB_UPLOAD_LIMIT = 10
    large = SimpleUploadedFile("large.txt", b"x" * 11)
    answer = browser.post(path(session), {"prompt": "read it", "attachments": [large]})
    html = answer.content.decode()
    assert (answer.status_code, Run.objects.count()) == (422, 1)
    assert "read it</textarea>" in html
    assert "has 11 bytes; the limit of a file is 10 bytes." in html
    assert "Choose the files again." in html


def test_the_reason_stands_where_nobody_can_write(browser: Client, make_agent: MakeAgent) -> None:
    session = talk(make_agent(), "first")
    html = read(browser, session)
    assert "<strong>It cannot be continued.</strong> The runtime echo cannot continue sessions." in html
    assert re.search(r"data-box\s+hidden", html)


def test_viewers_read_and_do_not_write(client: Client, agent: Agent, person: Callable[..., User]) -> None:
    session = talk(agent, "first")
    client.force_login(person("viewer", "Viewer"))
    assert "<textarea" not in read(client, session)
    assert client.post(path(session), {"prompt": "x"}).status_code == 403
    assert Audit.objects.filter(deed="refused").exists()


def test_what_an_open_page_does_not_have_is_told(browser: Client, agent: Agent) -> None:
    session = talk(agent, "first", "second", "third")
    runs = list(session.runs.order_by("pk"))
    news = browser.get(path(session, "session_now", f"?after={runs[0].pk}&watch={runs[0].pk},x")).json()
    assert re.findall(r'data-turn="(\d+)"', news["html"]) == [str(run.pk) for run in runs[1:]]
    assert list(news["outcomes"]) == [str(runs[0].pk)]
    assert re.findall(r'data-part="(\w+)"', news["parts"]) == ["queue", "verdict", "controls"]
    news = browser.get(path(session, "session_now", f"?before={runs[2].pk}.0")).json()
    assert re.findall(r'data-turn="(\d+)"', news["html"]) == [str(run.pk) for run in runs[:2]]
    assert news["earlier"] == ""


def test_another_session_s_runs_are_not_told(browser: Client, agent: Agent) -> None:
    session, other = talk(agent, "first"), talk(agent, "other").runs.get()
    news = browser.get(path(session, "session_now", f"?watch={other.pk}")).json()
    assert news["outcomes"] == {}
    assert "other" not in news["html"]


def test_words_are_found_in_prompts_and_events_and_lead_to_their_place(browser: Client, agent: Agent) -> None:
    session = talk(agent, "a needle here", "nothing", TRANSCRIPT)
    html = read(browser, session, "?q=NEEDLE")
    run = session.runs.order_by("pk")[0]
    links = [(at, anchor) for at, anchor in re.findall(r"at=([0-9.]+)#(\S+)\"", html)]
    assert (f"{run.pk}.0", f"r{run.pk}") in links
    for at, anchor in links:
        assert f'id="{anchor}"' in read(browser, session, f"?q=needle&at={at}")
    assert "Nothing was found." in read(browser, session, "?q=haystack-of-nowhere")


def test_a_found_tool_call_is_unfolded(browser: Client, agent: Agent) -> None:
    session = talk(agent, TRANSCRIPT)
    call = Event.objects.filter(kind="tool_use").first()
    assert call
    html = read(browser, session, f"?at={call.run_id}.{call.seq}")
    opened = html.partition('<details class="own-quiet" open>')[2]
    assert f'-e{call.seq}"' in opened
    assert html.count('own-quiet" open') == 1
    assert '<details class="own-quiet" open>' not in read(browser, session)


def test_what_agents_and_people_write_is_only_text(browser: Client, agent: Agent) -> None:
    hostile = "\n".join(HOSTILE)
    session = talk(agent, hostile, TRANSCRIPT)
    Run.objects.update(reason=hostile, state="failed")
    Session.objects.update(title=hostile[:200])
    for query in ("", "?q=script", "?q=<"):
        html = read(browser, session, query)
        assert not re.search(r"<(script>|img src=x|iframe)", html), query
        assert "\x1b" not in html


def test_a_session_is_kept_as_markdown(agent: Agent, admin: User) -> None:
    session = talk(agent, "first words", "```\nsecond words")
    headers, body = download(admin, path(session, "session_markdown"))
    text = body.decode()
    assert headers["Content-Disposition"] == f'attachment; filename="session-{session.public_id}.md"'
    assert text.startswith(f"# Session {session.public_id} of probe\n")
    order = [text.index(part) for part in ("first words", "Run succeeded", "````\n```\nsecond words")]
    assert order == sorted(order)


def test_a_session_is_kept_as_lines_of_json(agent: Agent, admin: User) -> None:
    session = talk(agent, "first", "line\u2028separators\nare kept")
    _, body = download(admin, path(session, "session_jsonl"))
    rows = [json.loads(line) for line in body.split(b"\n")[:-1]]
    assert rows[0]["type"] == "session"
    assert rows[0]["id"] == str(session.public_id)
    kinds = [row["type"] for row in rows]
    assert kinds.count("run") == 2
    assert kinds.count("event") == Event.objects.count()
    for run in session.runs.order_by("pk"):
        events = [row for row in rows if row["type"] == "event" and row["run"] == str(run.public_id)]
        assert [event["seq"] for event in events] == list(range(1, run.event_count + 1))
    prompts = [row["prompt"] for row in rows if row["type"] == "run"]
    assert prompts == ["first", "line\u2028separators\nare kept"]


def test_a_title_is_changed_where_one_is(browser: Client, agent: Agent) -> None:
    session = talk(agent, "first")
    data = {"title": "A better one", "from": "conversation"}
    answer = browser.post(path(session, "session_rename"), data)
    assert answer.headers["Location"] == path(session)
    assert "A better one</h1>" in read(browser, session)
