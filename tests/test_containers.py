"""The pages of containers and sessions: each shows what lived in, or with, the other."""

from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from agents import jobs
from agents.models import Agent, Audit, Container, Run, Session
from agents.runtimes import Exit, Usage
from agents.templatetags.containers import ending, in_words
from tests.conftest import execute
from tests.test_faults import Workers, current, ended
from tests.test_usage import holder, measured

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
__all__ = ["holder"]
GB = 1024**3


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


@pytest.fixture
def live(make_agent: MakeAgent) -> Run:
    """A live run in a container with its numbers, as a worker leaves it in the database."""
    agent = make_agent()
    session = Session.objects.create(agent=agent, runtime="echo", title="About the weather")
    limits = {"memory": 2 * GB, "memory_swap": 2 * GB, "cpus": 2.0, "network": "none"}
    container = Container.objects.create(
        name="herdweb-live", engine_id="abc123", agent=agent, session=session, limits=limits
    )
    container.started()
    container.uses(Usage(memory=GB // 2, cpu_percent=150.0, at=timezone.now(), peak=GB))
    run = jobs.submit(agent, "x")
    Run.objects.filter(pk=run.pk).update(state="running", container=container, session=session)
    return current(run)


def text(browser: Client, address: str) -> str:
    answer = browser.get(address)
    assert answer.status_code == 200
    return " ".join(unescape(answer.content.decode()).split())


def page(browser: Client, row: Any) -> str:
    return text(browser, row.get_absolute_url())


def test_a_live_container_shows_what_it_uses_of_its_limits(browser: Client, live: Run) -> None:
    assert live.container
    for html in (page(browser, live.container), text(browser, f"{live.container.get_absolute_url()}now/")):
        assert '<span data-fact="memory">512 MB</span> of 2 GB, 25 %' in html
        assert '<span data-fact="cpu">150 %</span> of a core, 75 % of its 2 cores' in html
        assert 'aria-label="CPU: 75 % of its limit"> <rect width="75.0"' in html
        assert "data-ended" not in html
    listed = text(browser, "/containers/")
    assert "512 MB of 2 GB" in listed
    assert "150 % of a core" in listed


def test_numbers_that_nobody_renews_are_said_to_be_old(browser: Client, live: Run) -> None:
    Container.objects.update(sampled_at=timezone.now() - timedelta(minutes=2))
    assert "Nobody has measured it since" in page(browser, live.container)
    assert "512 MB" not in text(browser, "/containers/")


def test_an_ended_container_shows_how_and_no_numbers_of_now(browser: Client, live: Run) -> None:
    assert live.container
    live.container.ended(Exit(code=137, signal=9, oom=True))
    Run.objects.update(state="failed", reason="Out of memory (limit 2 GB).", finished_at=timezone.now())
    html = page(browser, live.container)
    for said in ("137 (signal 9, SIGKILL)", "beyond the memory limit of 2 GB", "Out of memory (limit 2 GB)."):
        assert said in html
    assert "512 MB" not in html + text(browser, "/containers/")
    assert "data-refresh" not in html
    assert f"{live.container.get_absolute_url()}stop/" not in html
    assert "data-ended" in text(browser, f"{live.container.get_absolute_url()}now/")


def test_session_and_container_lead_to_each_other(browser: Client, live: Run) -> None:
    assert live.container
    assert live.session
    html = page(browser, live.container)
    for said in (
        "Session that lived in it",
        "About the weather",
        live.session.get_absolute_url(),
        live.short_id,
    ):
        assert said in html
    assert "1 run in 1 container, 1 of them in this one" in html
    html = page(browser, live.session)
    assert live.container.get_absolute_url() in html
    assert "1: 0 succeeded, 1 live" in html


def test_what_happened_is_told_in_its_order(browser: Client, live: Run) -> None:
    jobs.cancel(live, "somebody")
    html = page(browser, live.container)
    told = ["Created", "Started", "asked for", f"Run {live.short_id} asked to end by somebody"]
    places = [html.index(said, html.index("What happened")) for said in told]
    assert places == sorted(places)


def test_limits_are_said_in_words() -> None:
    limits = {
        "memory": GB, "memory_swap": GB, "cpus": 1.0, "pids": 512, "user": "1000:1000", "network": "none",
        "read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "init": True,
        "tmpfs": {"/tmp": "rw,size=268435456,mode=1777", "/x": "size=9m", "/y": ""},
        "ulimits": {"nofile": 1024, "core": 0}, "new_one": [1, 2], "empty": None,
    }  # fmt: skip
    assert dict(in_words(limits)) == {
        "Memory": "1 GB; what goes beyond is ended by the kernel",
        "Swap": "none",
        "CPU": "the time of 1 core",
        "Processes": "512 at most, threads counted",
        "Runs as": "user 1000, group 1000",
        "Network": "none: it reaches nothing, and nothing reaches it",
        "Files of the image": "cannot be changed",
        "Powers of root": "none at all",
        "Privileges": "no process in it can gain any",
        "First process": "tidies up after the others",
        "Files in memory": "/tmp (256 MB), /x (9m), /y",
        "Each process": "1024 open files, no core dumps",
        "new one": "1, 2",
    }


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"exit_code": None}, "not known"),
        ({"exit_code": 0}, "without an error"),
        ({"exit_code": 3}, "with an error"),
        ({"exit_code": 127}, "not found"),
        ({"exit_code": 143, "signal": 15}, "asked to end"),
        ({"exit_code": 137, "signal": 9}, "killed"),
        ({"exit_code": 164, "signal": 36}, "A signal"),
        ({"exit_code": 1, "oom": True}, "memory limit"),
    ],
)
def test_an_end_is_said_in_words(facts: dict[str, Any], said: str) -> None:
    assert said in ending(Container(**facts))


def test_an_end_by_a_signal_without_a_name_is_shown(browser: Client, live: Run) -> None:
    assert live.container
    live.container.ended(Exit(code=164, signal=36))
    assert "164 (signal 36, 36)" in page(browser, live.container)


def test_a_container_is_stopped_from_its_page(browser: Client, holder: Agent, workers: Workers) -> None:
    workers(1)
    run = jobs.submit(holder, "-")
    address = f"{measured(run).get_absolute_url()}stop/"
    assert f'action="{address}"' in page(browser, current(run).container)
    html = browser.post(address, follow=True).content.decode()
    assert f"Run {run.short_id} is asked to end. What is still there after 10s is killed." in html
    done = ended(run)
    assert (done.state, done.reason) == ("cancelled", "Cancelled by admin.")
    assert Audit.objects.filter(deed="cancelled", who="admin").exists()
    assert "No run is live in it" in browser.post(address, follow=True).content.decode()


def test_stopping_twice_says_who_was_first(browser: Client, live: Run) -> None:
    assert live.container
    jobs.cancel(live, "somebody")
    html = browser.post(f"{live.container.get_absolute_url()}stop/", follow=True).content.decode()
    assert "was already asked to end by somebody" in html


def test_a_session_is_renamed_by_name(browser: Client, live: Run) -> None:
    assert live.session
    address = f"{live.session.get_absolute_url()}rename/"
    html = browser.post(address, {"title": "  Rain\n and <b>wind</b> "}, follow=True).content.decode()
    assert "Rain and &lt;b&gt;wind&lt;/b&gt;" in html
    assert Session.objects.get().title == "Rain and <b>wind</b>"
    note = Audit.objects.get(deed="changed")
    assert (note.who, note.agent, note.detail) == ("admin", live.agent, "Renamed from: About the weather")
    browser.post(address, {"title": ""})
    assert str(Session.objects.get().public_id) in page(browser, live.session)


@pytest.mark.parametrize("title", ["x" * 201, "a\x00b"])
def test_a_title_that_cannot_be_is_refused_with_the_reason(browser: Client, live: Run, title: str) -> None:
    assert live.session
    html = browser.post(
        f"{live.session.get_absolute_url()}rename/", {"title": title}, follow=True
    ).content.decode()
    assert "200" in html or "cannot be stored" in html
    assert Session.objects.get().title == "About the weather"
    assert not Audit.objects.filter(deed="changed").exists()


def test_those_who_only_look_can_neither_stop_nor_rename(
    client: Client, person: Callable[..., User], live: Run
) -> None:
    assert live.container
    assert live.session
    client.force_login(person("viewer", "Viewer"))
    for row, action in ((live.container, "stop/"), (live.session, "rename/")):
        assert f'action="{row.get_absolute_url()}{action}"' not in page(client, row)
        assert client.post(f"{row.get_absolute_url()}{action}", {"title": "mine"}).status_code == 403
    assert current(live).state == "running"
    assert Session.objects.get().title == "About the weather"


def test_what_belongs_to_others_is_not_there(client: Client, person: Callable[..., User], live: Run) -> None:
    assert live.container
    assert live.session
    other = person("operator", "Operator", "mine")
    live.agent.groups.add(person("owner", "Operator", "theirs").groups.get(name="theirs"))
    client.force_login(other)
    container, session = live.container.get_absolute_url(), live.session.get_absolute_url()
    for address in (container, f"{container}now/", session):
        assert client.get(address).status_code == 404
    for address in (f"{container}stop/", f"{session}rename/"):
        assert client.post(address, {"title": "mine"}).status_code == 404
    assert current(live).state == "running"


def test_a_forked_session_shows_its_lineage(browser: Client, make_agent: MakeAgent) -> None:
    agent = make_agent()
    facts = {"agent": agent, "runtime": "echo"}
    oldest = Session.objects.create(title="the oldest", **facts)
    middle = Session.objects.create(title="the middle", forked_from=oldest, **facts)
    youngest = Session.objects.create(title="the youngest", forked_from=middle, **facts)
    html = page(browser, youngest)
    tree = html[html.index('class="own-tree"') :]
    assert tree.index("the oldest") < tree.index("the middle") < tree.index("this session")
    for other in (oldest, middle):
        assert f'<a href="{other.get_absolute_url()}">' in tree


@pytest.mark.parametrize("tab", ["runs", "sessions", "containers"])
def test_the_agents_page_has_a_tab_for_each(browser: Client, live: Run, tab: str) -> None:
    html = text(browser, f"{live.agent.get_absolute_url()}?tab={tab}")
    first = {"runs": live.short_id, "sessions": "<th>Session</th>", "containers": "herdweb-live"}
    shown = html[html.index('id="lately"') :]
    assert [name for name, said in first.items() if said in shown] == [tab]
    assert f'href="/{tab}/?agent={live.agent.name}"' in shown


def test_a_tab_that_is_not_there_is_the_first(browser: Client, live: Run) -> None:
    assert live.short_id in text(browser, f"{live.agent.get_absolute_url()}?tab=nonsense")


def test_details_take_as_many_queries_for_many_runs_as_for_one(
    browser: Client, live: Run, django_assert_max_num_queries: Any
) -> None:
    for _ in range(20):
        run = jobs.submit(live.agent, "x")
        Run.objects.filter(pk=run.pk).update(
            container=live.container, session=live.session, state="succeeded"
        )
        Container.objects.create(name=f"c{run.pk}", agent=live.agent, session=live.session)
    for row in (live.container, live.session):
        with django_assert_max_num_queries(16):
            page(browser, row)


def test_a_run_that_is_over_leaves_a_container_whose_record_is_whole(
    browser: Client, make_agent: MakeAgent, tiny_image: str
) -> None:
    run = execute(
        jobs.submit(make_agent(docker_enabled=True, docker_image=tiny_image, docker_network="none"), "x")
    )
    html = page(browser, run.container)
    for said in (
        "without an error",
        "Removed; this record stays",
        "none: it reaches nothing",
        "cannot be changed",
    ):
        assert said in html
