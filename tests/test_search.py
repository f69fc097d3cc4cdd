"""Finding events of a run, and opening one of many."""

import json
import re
import time
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client

from agents import jobs, search
from agents.models import Agent, Event, Run
from agents.models.run import NewEvent, insert
from tests.test_pages import HOSTILE, Markup

pytestmark = pytest.mark.django_db(transaction=True)
MANY = 50_000


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


@pytest.fixture
def run(make_agent: Callable[..., Agent]) -> Run:
    return jobs.submit(make_agent(), "x")


def fill(run: Run, *events: NewEvent) -> None:
    insert(run.pk, run.event_count, events)
    Run.objects.update(event_count=run.event_count + len(events))
    run.refresh_from_db()


def found(run: Run, text: str, group: str = "") -> list[int]:
    return [hit.seq for hit in search.find(run, text, group)]


def test_events_are_found_by_text_whatever_its_case(run: Run) -> None:
    fill(run, NewEvent("text", "a Needle"), NewEvent("stderr", "needle!"), NewEvent("text", "hay"))
    assert found(run, "nEEdle") == [2, 3]
    assert found(run, "needle", "errors") == [3]
    assert found(run, "", "text") == [2, 4]


def test_the_input_of_tools_is_searched_too(run: Run) -> None:
    given = '{"block": {"input": {"command": "echo \\"h\\u00e9llo\\" && ls"}}}'
    fill(run, NewEvent("tool_use", "Bash", given))
    assert found(run, '"h\u00e9llo"', "tools") == [2]
    assert search.find(run, "&& LS")[0].match == "&& ls"


@pytest.mark.parametrize("text", [*HOSTILE, "%", "_", "\\", "\x00", "'", "x" * 10_000, "\ud7ff"])
def test_nothing_that_is_looked_for_does_anything(browser: Client, run: Run, text: str) -> None:
    fill(run, *(NewEvent("text", hostile) for hostile in HOSTILE))
    answer = browser.get(run.get_absolute_url(), {"q": text, "kind": text[:5]})
    assert answer.status_code == 200
    assert Markup(answer.content.decode()).bad == []


def test_a_hit_leads_to_its_event(browser: Client, run: Run) -> None:
    fill(run, *(NewEvent("text", f"line-{number}") for number in range(1000)))
    html = browser.get(run.get_absolute_url(), {"q": "line-7"}).content.decode()
    target = re.search(r'href="(\?q=line-7&amp;kind=&amp;at=9#e9)"', html)
    assert target
    assert 'id="e9"' in browser.get(run.get_absolute_url() + target[1].replace("&amp;", "&")).content.decode()


def fastest(work: Callable[[], object]) -> float:
    """In seconds, of three times."""
    took = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return min(took)


def one_of_many(number: int) -> NewEvent:
    """A call, its result, and what is said of it, in turn."""
    if number % 3 == 0:
        block: dict[str, object] = {
            "id": f"t{number}",
            "input": {"command": f"pytest -q tests/test_{number}.py"},
        }
        return NewEvent("tool_use", "Bash", json.dumps({"block": block}))
    if number % 3 == 1:
        block = {"tool_use_id": f"t{number - 1}"}
        return NewEvent("tool_result", "." * 200, json.dumps({"block": block}))
    return NewEvent("text", f"I look at **number** {number} " + "and more " * 20, '{"block": {}}')


def test_a_run_of_fifty_thousand_events_opens_and_is_searched_at_once(browser: Client, run: Run) -> None:
    fill(run, *(one_of_many(number) for number in range(MANY)))
    path = run.get_absolute_url()
    opened = fastest(lambda: browser.get(path))
    middle = fastest(lambda: browser.get(f"{path}?at=25000"))
    nothing = fastest(lambda: search.find(run, "is not there"))
    print(f"opened {opened:.3f} s, in the middle {middle:.3f} s, searched {nothing:.3f} s")
    assert (opened < 1, middle < 1, nothing < 0.2) == (True, True, True)
    assert Event.objects.count() == MANY + 1
