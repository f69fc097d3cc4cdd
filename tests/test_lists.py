"""Lists: filters, orders, pages that stay put, and links to them."""

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.http import QueryDict
from django.test import Client
from django.utils import timezone

from agents import keyset
from agents.lists import KEPT, LISTS, RunList, SessionList, runs_matching
from agents.management.history import RARE
from agents.models import Agent, Container, Event, Run, SavedList, Schedule, Session

pytestmark = pytest.mark.django_db
MakeAgent = Callable[..., Agent]
NOON = datetime(2026, 6, 15, 12, tzinfo=UTC)


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of three rows; a text is looked for in five."""
    monkeypatch.setattr(keyset, "PER_PAGE", 3)
    monkeypatch.setattr(keyset, "WINDOW", 5)
    monkeypatch.setattr(keyset, "AT_ONCE", 2)


def make_run(agent: Agent, created: datetime | None = None, **fields: Any) -> Run:
    run = Run.objects.create(agent=agent, config={}, **{"prompt": "x", **fields})
    if created:
        Run.objects.filter(pk=run.pk).update(created=created)
    return run


def make_session(agent: Agent, **fields: Any) -> Session:
    return Session.objects.create(agent=agent, runtime="echo", home="h", working_directory="/", **fields)


def make_container(agent: Agent, name: str, **fields: Any) -> Container:
    values = {"engine_id": "e" * 64, "image": "one", "image_digest": "", **fields}
    return Container.objects.create(agent=agent, name=name, **values)


def html_of(browser: Client, path: str) -> str:
    answer = browser.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def shown(html: str) -> list[str]:
    """The prompts, titles or names of a page's rows, in their order."""
    found = re.findall(r'class="(?:text-reset|font-monospace)"\s+href="/\w+/[^"]+">([^<]+)</a>', html)
    titles = re.findall(r'<td class="own-grow">\s*<a href="[^"]+">([^<]+)</a>', html)
    return titles or [text for text in found if not re.fullmatch("[0-9a-f]{8}", text)]


def listed(browser: Client, query: str = "", page: str = "runs") -> list[str]:
    return shown(html_of(browser, f"/{page}/?{query}"))


def link(html: str, name: str) -> str:
    found = re.search(rf'rel="{name}"\s+href="([^"]+)"', html)
    return found[1].replace("&amp;", "&") if found else ""


def walk(browser: Client, path: str, name: str = "next") -> list[list[str]]:
    """The rows of one page after another, until there is no link further on."""
    pages = []
    while path:
        html = html_of(browser, path)
        pages.append(shown(html))
        path = link(html, name)
        assert len(pages) < 50
    return pages


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).replace("&#x27;", "'")


# Filters


@pytest.fixture
def many(make_agent: MakeAgent) -> None:
    """Runs of two agents, of several people, in several states."""
    first, second = make_agent("first"), make_agent("second")
    make_run(first, NOON, prompt="queued", state="queued", requested_by=User.objects.create(username="ann"))
    make_run(first, NOON - timedelta(days=1), prompt="waiting", state="waiting", trigger="command")
    make_run(second, NOON - timedelta(days=2), prompt="running", state="running")
    make_run(second, NOON - timedelta(days=3), prompt="failed", state="failed", reason="Out of memory.")
    make_run(second, NOON - timedelta(days=30), prompt="done", state="succeeded", result="All is well.")


CHOSEN = [
    ("", "queued waiting running failed done"),
    ("agent=first", "queued waiting"),
    ("state=waiting", "waiting"),
    ("state=pending", "queued waiting"),
    ("state=live", "running"),
    ("state=ended", "failed done"),
    ("state=wrong", "failed"),
    ("trigger=command", "waiting"),
    ("user=ann", "queued"),
    ("text=OUT+OF", "failed"),
    ("text=is+well", "done"),
    ("text=wait", "waiting"),
    ("text=%25", ""),
    ("since=2026-06-14", "queued waiting"),
    ("until=2026-06-13", "running failed done"),
    ("since=2026-06-13&until=2026-06-14", "waiting running"),
    ("since=73h", "queued waiting running failed"),
    ("until=2026-06-14+11:59", "running failed done"),
    ("agent=second&state=ended&since=7d", "failed"),
    ("agent=&state=&text=&sort=", "queued waiting running failed done"),
    ("sort=oldest&since=2026-06-01", "failed running waiting queued"),
]


def test_runs_are_chosen_by_the_address(browser: Client, many: None) -> None:
    with time_machine.travel(NOON + timedelta(seconds=1), tick=False):
        for query, expected in CHOSEN:
            # They were made in the order in which they are younger.
            order = "" if re.search("sort=o|since|until", query) else "&sort=oldest"
            assert listed(browser, query + order) == expected.split(), query


def test_a_run_is_found_by_its_id(browser: Client, make_agent: MakeAgent) -> None:
    run, _ = make_run(make_agent(), prompt="this"), make_run(Agent.objects.get(), prompt="other")
    for text in (run.short_id, str(run.public_id), run.short_id.upper()):
        assert listed(browser, f"text={text}") == ["this"]


def test_sessions_are_chosen_by_the_address(browser: Client, make_agent: MakeAgent) -> None:
    first = make_session(make_agent("first"), title="Paging", turns=3, cost_usd=0.1)
    make_session(make_agent("second"), title="Release", turns=2, cost_usd=0.5)
    Session.objects.filter(title="Release").update(last_used=timezone.now() - timedelta(days=9))
    for query, expected in (
        ("", "Paging Release"), ("agent=second", "Release"), ("text=pag", "Paging"),
        ("since=7d", "Paging"), ("until=7d", "Release"), ("sort=newest", "Release Paging"),
        ("sort=turns", "Paging Release"), ("sort=dearest", "Release Paging"),
        (f"text={str(first.public_id)[:8]}", "Paging"),
    ):  # fmt: skip
        assert listed(browser, query, "sessions") == expected.split(), query


def test_containers_are_chosen_by_the_address(browser: Client, make_agent: MakeAgent) -> None:
    agent, now = make_agent(), timezone.now()
    make_container(agent, "live", engine_id="abcdef0123" + "0" * 54)
    make_container(agent, "ended", finished_at=now, memory_peak=5, note="Killed.")
    make_container(
        make_agent("other"), "removed", image="two", finished_at=now, removed_at=now, memory_peak=9
    )
    for query, expected in (
        ("", "removed ended live"), ("state=live", "live"), ("state=ended", "ended"),
        ("state=removed", "removed"), ("image=two", "removed"), ("agent=other", "removed"),
        ("text=killed", "ended"), ("text=abcdef01", "live"), ("sort=oldest", "live ended removed"),
        ("sort=memory", "removed ended live"), ("until=1d", ""), ("since=1d&state=ended", "ended"),
    ):  # fmt: skip
        assert listed(browser, query, "containers") == expected.split(), query


REFUSED = [
    ("state=nonsense", "State: 'nonsense' is not one of these. Choose: live, pending, ended, wrong, queued"),
    ("agent=none", "Agent: 'none' is not one of these. Choose: first, second."),
    ("trigger=x", "Choose: manual, command, fork"),
    ("user=nobody", "Asked by: 'nobody' is not one of these. Choose: ann."),
    ("since=yesterday", "From: 'yesterday' is not a moment. Write a day like 2026-11-01"),
    ("until=2026-13-01", "To: '2026-13-01' is not a moment"),
    ("since=2026-02-30T25:00", "is not a moment"),
    ("until=9999-12-31", "is not a moment"),
    ("since=99999999999d", "is not a moment"),
    ("since=999999999d", "is not a moment"),
    ("since=0001-01-01T00:00:00%2B14:00", "is not a moment"),
    ("until=9999-12-31T23:59:59-14:00", "is not a moment"),
    ("since=2026-06-02&until=2026-06-01", "To: This lies before the beginning of the range."),
    ("sort=password", "Sorted by: 'password' is not one of these. Choose: newest, oldest"),
    ("text=%00", "Text: Null characters are not allowed."),
    ("text=" + "x" * 300, "at most 200 characters"),
    ("agent=%F0%90", "is not one of these"),
    ("agent=<script>", "is not one of these"),
]


def test_a_bad_value_says_what_is_allowed_and_is_left_out(browser: Client, many: None) -> None:
    for query, allowed in REFUSED:
        html = html_of(browser, f"/runs/?{query}")
        assert allowed in text_of(html), query
        assert "It was left out." in text_of(html), query
        assert "<script>" not in html.partition("<body")[2], query
        # The good half of a bad range still holds.
        assert len(shown(html)) == (4 if "&" in query else 5), query


@pytest.mark.parametrize("page", LISTS)
def test_what_the_address_does_not_know_is_nothing(browser: Client, page: str, make_agent: MakeAgent) -> None:
    make_agent()
    for query in ("page=9e9", "per=100000", "state=%00", "x" * 5000, "after=&before=", "image=%00"):
        html_of(browser, f"/{page}/?{query}")


def test_a_filter_that_is_on_can_be_taken_off_and_the_others_stay(browser: Client, many: None) -> None:
    html = html_of(browser, "/runs/?agent=first&state=ended&since=365d&sort=oldest&bogus=1")
    chips = re.findall(r'class="own-chip"\s+href="([^"]+)"', html)
    assert [chip.replace("&amp;", "&") for chip in chips] == [
        "/runs/?state=ended&since=365d&sort=oldest",
        "/runs/?agent=first&since=365d&sort=oldest",
        "/runs/?agent=first&state=ended&sort=oldest",
    ]
    assert "Nothing matches" in html
    assert "Take one of the filters off" in html


def test_a_list_says_how_many_there_are_as_far_as_that_is_cheap(
    browser: Client, make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent()
    make_run(agent)
    assert ">1 run<" in html_of(browser, "/runs/")
    make_run(agent)
    assert ">2 runs<" in html_of(browser, "/runs/")
    monkeypatch.setattr(keyset, "COUNTED", 1)
    monkeypatch.setattr("agents.views.lists.COUNTED", 1)
    assert ">more than 1 runs<" in html_of(browser, "/runs/")


# Rights


def test_lists_and_their_choices_show_only_what_is_visible(
    client: Client, make_agent: MakeAgent, person: Callable[..., User]
) -> None:
    ann, bob = person("ann", "Viewer", "theirs"), person("bob", "Viewer")
    for name in ("secret", "open"):
        agent = make_agent(name)
        session = make_session(agent, title=f"{name} session")
        make_run(
            agent, prompt=f"{name} prompt", requested_by=ann if name == "secret" else bob, session=session
        )
        make_container(agent, f"{name}-container", session=session)
        Schedule.objects.create(agent=agent, name=f"{name}-schedule", interval=60)
    agent = Agent.objects.get(name="secret")
    agent.groups.set(ann.groups.filter(name="theirs"))
    for user, expected in ((ann, 2), (bob, 1)):
        client.force_login(user)
        for page in LISTS:
            html = html_of(client, f"/{page}/")
            assert html.count("<tr>") - 1 == expected, page
            assert ("secret" in html) == (user == ann), page
        assert ('value="ann"' in html_of(client, "/runs/")) == (user == ann)
        assert len(listed(client, "agent=secret")) == 1
    run = Run.objects.get(prompt="secret prompt")
    assert "Nothing matches" in html_of(client, f"/runs/?text={run.short_id}&agent=open")
    assert "secret prompt" not in html_of(client, f"/runs/?text={run.short_id}")


# Pages


@pytest.mark.parametrize("order", ["newest", "oldest", "longest", "dearest"])
def test_pages_have_every_row_once_in_both_directions(
    browser: Client, make_agent: MakeAgent, small: None, order: str
) -> None:
    agent, now = make_agent(), timezone.now()
    for number in range(10):
        # Many rows share a cost and a duration, and some have none.
        took = timedelta(seconds=number // 4, microseconds=number // 4 * 7)
        ended = {"started_at": now, "finished_at": now + took} if number % 3 else {}
        cost = [None, 0.1, 0.30000000000000004][number % 3]
        make_run(agent, prompt=f"run-{number}", cost_usd=cost, **ended)
    forth = walk(browser, f"/runs/?sort={order}")
    rows = [row for page in forth for row in page]
    assert [len(page) for page in forth] == [3, 3, 3, 1]
    assert sorted(rows) == [f"run-{number}" for number in range(10)]
    last = f"/runs/?sort={order}"
    while link(html_of(browser, last), "next"):
        last = link(html_of(browser, last), "next")
    back = walk(browser, last, "prev")
    assert [len(page) for page in back] == [1, 3, 3, 3]
    assert [row for page in reversed(back) for row in page] == rows


@pytest.mark.parametrize(("page", "order"), [
    ("sessions", "used"), ("sessions", "turns"), ("sessions", "dearest"), ("containers", "memory"),
    ("containers", "oldest"), ("sessions", "newest&since=1d"), ("runs", "newest&since=1d")])  # fmt: skip
def test_the_other_orders_page_as_well(
    browser: Client, make_agent: MakeAgent, small: None, page: str, order: str
) -> None:
    agent = make_agent()
    for number in range(8):
        make_session(agent, title=f"n{number}", turns=number // 3, cost_usd=number // 3 / 7)
        make_container(agent, f"n{number}", memory_peak=[None, 5][number % 2])
        make_run(agent, prompt=f"n{number}")
    Session.objects.update(last_used=timezone.now())
    rows = [row for each in walk(browser, f"/{page}/?sort={order}") for row in each]
    assert sorted(rows) == [f"n{number}" for number in range(8)]


def test_what_is_added_or_deleted_meanwhile_neither_doubles_nor_hides_another(
    browser: Client, make_agent: MakeAgent, small: None
) -> None:
    agent = make_agent()
    for number in range(1, 9):
        make_run(agent, prompt=f"n{number}")
    first = html_of(browser, "/runs/")
    assert shown(first) == ["n8", "n7", "n6"]
    make_run(agent, prompt="n9")
    Run.objects.filter(prompt__in=["n6", "n5"]).delete()
    second = html_of(browser, link(first, "next"))
    assert shown(second) == ["n4", "n3", "n2"]
    assert shown(html_of(browser, link(second, "prev"))) == ["n9", "n8", "n7"]


def test_a_page_whose_rows_are_gone_leads_back(browser: Client, make_agent: MakeAgent, small: None) -> None:
    agent = make_agent()
    for number in range(1, 8):
        make_run(agent, prompt=f"n{number}")
    path = link(html_of(browser, "/runs/?agent=probe"), "next")
    Run.objects.filter(prompt__in=["n1", "n2", "n3", "n4"]).delete()
    html = html_of(browser, path)
    assert "There is nothing more here" in html
    assert 'href="/runs/?agent=probe"' in html


def test_the_way_back_from_a_short_page_is_the_first_page(
    browser: Client, make_agent: MakeAgent, small: None
) -> None:
    agent = make_agent()
    for number in range(1, 5):
        make_run(agent, prompt=f"n{number}")
    second = html_of(browser, link(html_of(browser, "/runs/"), "next"))
    assert shown(second) == ["n1"]
    Run.objects.filter(prompt="n4").delete()
    # Two rows before it, and the page is full all the same.
    assert shown(html_of(browser, link(second, "prev"))) == ["n3", "n2", "n1"]


def position(*values: object) -> str:
    return urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


DAMAGED = [
    "x", "-1", "9" * 400, "%00", "%F0%90", "=", "W10", "bnVsbA", position("newest", 1),
    position("newest", 1, "1"),
    position("newest", None, 2), position("newest", True, 2), position("newest", 1, True),
    position("newest", float("nan"), 1), position("newest", 1e400, 1), position("newest", 1, 10**40),
    position("newest", 10**40, 1), position("dearest", 0.5, 3), position("nonsense", 1, 1),
    position("newest", "0001-01-01T00:00:00+14:00", 1), position("newest", "9999-12-31T23:59:59-14:00", 1),
    position("newest", {}, 1), position([], 1, 1), urlsafe_b64encode(b"[" * 9000).decode(),
]  # fmt: skip


def test_a_damaged_position_is_the_first_page(browser: Client, make_agent: MakeAgent, small: None) -> None:
    for number in range(1, 5):
        make_run(make_agent(f"a{number}"), prompt=f"n{number}")
    for text in DAMAGED:
        for query in (f"after={text}", f"before={text}", f"after={text}&since=1d"):
            assert listed(browser, query) == ["n4", "n3", "n2"], query


@pytest.mark.parametrize("values", [("newest", 2**62, 2**62), ("newest", 5, -(2**62)),
                                    ("newest", -(2**62), 0), ("dearest", 1e18, 1),
                                    ("dearest", 5, 1)])  # fmt: skip
def test_a_position_may_be_anywhere(browser: Client, make_agent: MakeAgent, values: tuple[Any, ...]) -> None:
    make_run(make_agent())
    for name in ("after", "before"):
        html_of(browser, f"/runs/?sort={values[0]}&{name}={position(*values)}")


# Texts


def test_a_text_is_looked_for_in_so_many_rows_and_the_search_goes_on(
    browser: Client, make_agent: MakeAgent, small: None
) -> None:
    agent = make_agent()
    for number in range(1, 13):
        make_run(agent, prompt=f"{'needle' if number in (2, 9) else 'straw'}-{number}")
    first = html_of(browser, "/runs/?text=needle")
    assert shown(first) == ["needle-9"]
    assert "5 were looked through for this text. The search goes on with “older”." in text_of(first)
    second = html_of(browser, link(first, "next"))
    assert shown(second) == []
    assert "None of the 5 that were looked through contains this text." in text_of(second)
    third = html_of(browser, link(second, "next"))
    assert shown(third) == ["needle-2"]
    assert link(third, "next") == ""
    assert "needle-9" in [row for page in walk(browser, link(second, "prev"), "prev") for row in page]


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_a_search_finds_every_row_once(
    browser: Client, make_agent: MakeAgent, small: None, every: int
) -> None:
    agent = make_agent()
    for number in range(23):
        make_run(agent, prompt=f"{'straw' if number % every else 'needle'}-{number:02}")
    expected = [f"needle-{number:02}" for number in range(23) if number % every == 0]
    forth = [row for page in walk(browser, "/runs/?text=needle") for row in page]
    assert forth == expected[::-1]
    path = "/runs/?text=needle"
    while link(html_of(browser, path), "next"):
        path = link(html_of(browser, path), "next")
    back = {row for page in walk(browser, path, "prev") for row in page}
    assert back == set(expected)


# Links


def test_a_filtered_list_is_kept_as_a_link_and_deleted_again(browser: Client, many: None) -> None:
    sent = {"name": " My <b>failures ", "query": "state=wrong&since=7d&after=xyz&bogus=1&sort=newest"}
    answer = browser.post("/lists/runs/save/", sent)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/runs/?state=wrong&since=7d")
    kept = SavedList.objects.get()
    assert (kept.page, kept.name, kept.query) == ("runs", "My <b>failures", "state=wrong&since=7d")
    html = html_of(browser, "/runs/")
    assert 'href="/runs/?state=wrong&amp;since=7d"' in html
    assert "My &lt;b&gt;failures" in html
    assert "failures" not in html_of(browser, "/sessions/")
    answer = browser.post(f"/lists/{kept.pk}/forget/")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/runs/")
    assert not SavedList.objects.exists()


@pytest.mark.parametrize(("sent", "reason"), [
    ({"name": "x", "query": ""}, "there is nothing to save"),
    ({"name": "x", "query": "state=nonsense&after=1"}, "there is nothing to save"),
    ({"name": "", "query": "state=live"}, "This field cannot be blank."),
    ({"name": "n" * 61, "query": "state=live"}, "at most 60 characters"),
    ({"name": "taken", "query": "state=live"}, "You have a link of this name already."),
    ({"name": "x\x00", "query": "state=live"}, "NUL character at position 2"),
    ({}, "there is nothing to save"),
])  # fmt: skip
def test_a_link_that_cannot_be_kept_says_why(
    browser: Client, admin: User, sent: dict[str, str], reason: str
) -> None:
    SavedList.objects.create(user=admin, page="runs", name="taken", query="state=lost")
    assert reason in text_of(browser.post("/lists/runs/save/", sent, follow=True).content.decode())
    assert SavedList.objects.count() == 1


def test_links_are_their_owner_s(browser: Client, admin: User, person: Callable[..., User]) -> None:
    other = SavedList.objects.create(
        user=person("ann", "Viewer"), page="runs", name="theirs", query="state=live"
    )
    assert "theirs" not in html_of(browser, "/runs/")
    assert browser.post(f"/lists/{other.pk}/forget/").status_code == 404
    browser.post("/lists/runs/save/", {"name": "theirs", "query": "state=lost", "user": other.user_id})
    assert SavedList.objects.get(name="theirs", user=admin).query == "state=lost"
    assert SavedList.objects.count() == 2


def test_links_are_changed_by_forms_of_our_own_alone(admin: User) -> None:
    kept = SavedList.objects.create(user=admin, page="runs", name="x", query="state=live")
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(admin)
    for path in ("/lists/runs/save/", f"/lists/{kept.pk}/forget/"):
        assert strict.post(path, {"name": "y", "query": "state=live"}).status_code == 403
        assert strict.get(path).status_code == 405
    assert SavedList.objects.count() == 1


def test_there_is_no_link_to_a_list_that_is_none(browser: Client) -> None:
    assert browser.post("/lists/nothing/save/", {"name": "x", "query": "state=live"}).status_code == 404


def test_nobody_keeps_links_without_end(browser: Client, admin: User) -> None:
    SavedList.objects.bulk_create(
        SavedList(user=admin, page="runs", name=str(number), query="state=live") for number in range(KEPT)
    )
    browser.post("/lists/runs/save/", {"name": "one more", "query": "state=live"})
    assert SavedList.objects.count() == KEPT


# For what is done to many runs


def test_what_is_done_to_many_runs_is_done_to_all_pages_of_the_list(
    admin: User, make_agent: MakeAgent, small: None
) -> None:
    for number in range(20):
        make_run(make_agent(f"a{number}"), prompt=f"{'needle' if number % 9 == 0 else 'straw'}-{number}")
    found = runs_matching(admin, QueryDict("text=needle&state=queued&after=whatever"))
    assert sorted(found.values_list("prompt", flat=True)) == ["needle-0", "needle-18", "needle-9"]
    assert runs_matching(admin, QueryDict("")).count() == 20


def test_a_word_that_means_nothing_never_means_all_runs(admin: User, make_agent: MakeAgent) -> None:
    make_run(make_agent())
    with pytest.raises(ValidationError, match="nonsense"):
        runs_matching(admin, QueryDict("state=nonsense"))


def test_many_runs_are_only_those_that_are_visible(
    make_agent: MakeAgent, person: Callable[..., User], admin: User
) -> None:
    make_run(make_agent("secret"))
    ann = person("ann", "Operator")
    Agent.objects.get().groups.set(person("bob", "theirs").groups.all())
    assert runs_matching(ann, QueryDict("")).count() == 0
    assert runs_matching(admin, QueryDict("")).count() == 1


# What the database makes of it


@pytest.mark.parametrize(("query", "index"), [
    ("sort=longest", "run_by_duration"), ("sort=dearest", "run_by_cost"), ("since=2020-01-01", "run_by_time"),
    ("state=lost", "run_of_state"), ("trigger=fork", "run_of_trigger")])  # fmt: skip
def test_lists_are_read_in_the_order_of_an_index(
    admin: User, make_agent: MakeAgent, query: str, index: str
) -> None:
    make_agent()
    form = RunList(admin, QueryDict(query))
    rows = form.sorting.sorted(form.rows())[:51]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # With next to no rows it would read them all.
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute("SET LOCAL enable_sort = off")
    plan = rows.explain()
    assert index in plan
    assert "TEMP B-TREE" not in plan


def test_sessions_are_read_in_the_order_of_their_last_use(admin: User) -> None:
    form = SessionList(admin, QueryDict(""))
    if connection.vendor == "sqlite":
        assert "session_by_use" in form.sorting.sorted(form.rows())[:51].explain()


# The history for load tests


def history(*arguments: str) -> str:
    out = StringIO()
    call_command("make_history", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


@pytest.mark.django_db(transaction=True)
def test_a_history_has_runs_of_every_kind() -> None:
    assert history("--runs", "300", "--events", "3000", "--agents", "3") == (
        "Added 300 runs of 3 agents with about 3000 events.\n"
    )
    assert (Run.objects.count(), Agent.objects.count()) == (300, 3)
    assert {"succeeded", "failed", "queued"} <= set(Run.objects.values_list("state", flat=True))
    assert abs(Event.objects.count() - 3000) < 200
    assert sum(Run.objects.values_list("event_count", flat=True)) == Event.objects.count()
    assert 0 < Session.objects.count() < 300
    assert 0 < Container.objects.filter(runs__isnull=False).count() < 300
    assert Run.objects.filter(prompt__contains=RARE).count() == 1
    first, last = Run.objects.earliest("pk"), Run.objects.latest("pk")
    assert last.created - first.created > timedelta(days=300)
    assert not User.objects.filter(username="person-01").get().has_usable_password()


@pytest.mark.django_db(transaction=True)
def test_a_history_is_not_mixed_into_what_is_real(make_agent: MakeAgent) -> None:
    make_run(make_agent())
    with pytest.raises(CommandError, match="--yes-add"):
        history("--runs", "10", "--events", "10")
    assert Run.objects.count() == 1
    history("--runs", "10", "--events", "10", "--yes-add")
    history("--runs", "10", "--events", "10", "--yes-add")
    assert Run.objects.count() == 21
