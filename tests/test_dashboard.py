"""The dashboard: its numbers, its strips, what is wrong, and the first steps; the agents' list likewise."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis
import time_machine
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils import timezone
from pydantic import ValidationError
from pytest_django import Settings

from agents import activity, doctor, health, jobs
from agents.models import Agent, Run
from herdweb.environment import Environment
from tests.conftest import end, execute, start, until

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
Person = Callable[..., User]


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


@pytest.fixture
def watched() -> None:
    """A ticker has just looked, and found nothing wrong."""
    leave([])


def leave(findings: list[doctor.Finding], seconds: float = 0) -> None:
    """What a ticker would leave that found this so many seconds ago, and since."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(health, "wrong", lambda: iter(findings))
        for ago in (seconds, seconds / 2, 0):
            health.look(timezone.now() - timedelta(seconds=ago))


def past(agent: Agent, state: str, ago: timedelta = timedelta(0), **fields: object) -> Run:
    """A run that is in this state, asked for so long ago."""
    run = Run.objects.create(agent=agent, config={}, prompt="x", state=state)
    created = timezone.now() - ago
    ended = created if state in Run.TERMINAL else None
    Run.objects.filter(pk=run.pk).update(created=created, started_at=created, finished_at=ended, **fields)
    run.refresh_from_db()
    return run


def html(browser: Client, path: str = "/") -> str:
    answer = browser.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def text(page: str) -> str:
    """What a page says, without its tags."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def numbers(page: str) -> list[str]:
    return re.findall(r'class="own-number[^>]*>\s*([^<]*?)\s*<', page)


def bars(page: str, name: str = "probe") -> list[tuple[str, str]]:
    """The bars of an agent's strip, left to right: their looks and their runs."""
    svg = re.search(rf'<svg class="own-strip"[^>]*The last runs of {name},.*?</svg>', page, re.DOTALL)
    return re.findall(r'own-bar own-bar-(\w+)" href="(.*?)"', svg[0]) if svg else []


# Numbers.


def test_the_numbers_count_what_is_there_now_and_what_ended_in_a_day(
    browser: Client, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    hours = timedelta(hours=1)
    for state in ("queued", "waiting", "starting", "running", "cancelling", "cancelled", "lost"):
        past(agent, state)
    past(agent, "succeeded", 23 * hours, cost_usd=1.25)
    past(agent, "succeeded", 25 * hours, cost_usd=2.5)
    past(agent, "succeeded", 8 * 24 * hours, cost_usd=100)
    past(agent, "failed", 23 * hours, cost_usd=0.25)
    past(agent, "failed", 25 * hours)
    past(agent, "timed_out", 2 * hours)
    page = html(browser)
    assert numbers(page) == ["3", "2", "1", "3", "$4.00"]
    assert re.findall(r">\s*(\d+ (?:timed out|lost))\s*<", page) == ["1 timed out", "1 lost"]
    assert "reported" in page


def test_windows_move_with_the_clock(browser: Client, make_agent: MakeAgent) -> None:
    past(make_agent(), "succeeded", cost_usd=3)
    later = timezone.now() + timedelta(hours=23, minutes=58)
    with time_machine.travel(later):
        assert numbers(html(browser))[2] == "1"
    with time_machine.travel(later + timedelta(minutes=5)):
        page = numbers(html(browser))
        assert (page[2], page[4]) == ("0", "$3.00")


def test_each_number_leads_to_the_runs_that_it_counts(browser: Client, make_agent: MakeAgent) -> None:
    agent, hours = make_agent(), timedelta(hours=1)
    now = [past(agent, state) for state in ("running", "cancelling", "queued", "waiting", "waiting")]
    day = [past(agent, state, 23 * hours) for state in ("succeeded", "failed", "lost", "timed_out", "lost")]
    week = [past(agent, state, 25 * hours) for state in ("succeeded", "failed", "lost")]
    past(agent, "succeeded", 8 * 24 * hours)
    page = html(browser).replace("\n", " ")
    links = [link.replace("&amp;", "&") for link in re.findall(r'class="own-number .*?href="([^"]*)"', page)]
    links += re.findall(r'href="([^"]*)">\d (?:timed out|lost)<', page.replace("&amp;", "&"))
    expected = [now[:2], now[2:], day[:1], day[1:], now + day + week, [day[3]], [day[2], day[4]]]
    for link, runs in zip(links, expected, strict=True):
        shown = set(re.findall(r'href="(/runs/[0-9a-f-]{36}/)"', html(browser, link)))
        assert shown == {run.get_absolute_url() for run in runs}, link


def test_agents_of_others_are_not_counted_and_not_shown(
    client: Client, person: Person, make_agent: MakeAgent
) -> None:
    mine, theirs = make_agent("mine"), make_agent("theirs")
    theirs.groups.add(Group.objects.create(name="others"))
    for agent in (mine, theirs):
        for state in ("running", "waiting", "succeeded", "failed"):
            past(agent, state, cost_usd=1)
    client.force_login(person("reader", "Viewer"))
    page = html(client)
    assert numbers(page) == ["1", "1", "1", "1", "$4.00"]
    assert "theirs" not in page
    assert "theirs" not in html(client, "/agents/")
    client.force_login(person("another", "Viewer", "others"))
    assert numbers(html(client))[4] == "$8.00"


# Agents and their strips.


def test_a_strip_shows_the_last_runs_the_newest_on_the_right(browser: Client, make_agent: MakeAgent) -> None:
    agent, other = make_agent(), make_agent("other")
    runs = []
    for number in range(25):
        runs.append(past(agent, "failed" if number % 3 == 0 else "succeeded"))
        past(other, "cancelled")
    for path in ("/", "/agents/"):
        shown = bars(html(browser, path))
        assert shown == [(run.state, run.get_absolute_url()) for run in runs[5:]]
    assert {look for look, _ in bars(html(browser), "other")} == {"cancelled"}


def test_a_bar_says_what_it_is_and_has_a_mark_beside_its_colour(
    browser: Client, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    for state in Run.State.values:
        past(agent, state)
    past(agent, "succeeded", suspect=True)
    page = html(browser)
    found = re.findall(r'own-bar-(\w+)" href.*?<title>(.*?)</title>(.*?)</a>', page)
    assert [title.split(" · ")[0] for _, title, _ in found] == [
        *(state.replace("_", " ") for state in Run.State.values), "succeeded, doubtful",
    ]  # fmt: skip
    shapes = {look: re.findall(r'transform.*? d="(.*?)"', drawing) for look, _, drawing in found}
    ends = ("succeeded", "doubtful", "failed", "timed_out", "lost", "cancelled")
    assert len({str(shapes[look]) for look in ends}) == len(ends)
    assert page.count('tabindex="-1"') == len(found) - 1


def test_the_status_of_an_agent_is_that_of_its_runs(browser: Client, make_agent: MakeAgent) -> None:
    past(make_agent("live"), "running")
    past(make_agent("waiting"), "waiting")
    past(make_agent("failing"), "timed_out")
    past(make_agent("fine"), "succeeded")
    make_agent("fresh")
    make_agent("off", enabled=False)
    table = {row.agent.name: row for row in activity.about(Agent.objects.all())}
    activity.counted(list(table.values()), activity.count([row.agent.pk for row in table.values()],
                                                          activity.Windows.now()))  # fmt: skip
    assert {name: row.status for name, row in table.items()} == {
        "live": "running", "waiting": "waiting", "failing": "failing", "fine": "idle", "fresh": "new",
        "off": "off",
    }  # fmt: skip
    for path in ("/", "/agents/"):
        said = text(html(browser, path))
        assert all(word in said for word in ("1 live", "1 waiting", "failing", "idle", "never run", "off"))


def test_the_last_outcome_is_known_behind_many_runs_that_wait(make_agent: MakeAgent) -> None:
    agent = make_agent()
    lost = past(agent, "lost")
    for _ in range(30):
        past(agent, "queued")
    (row,) = activity.about(Agent.objects.all())
    assert (row.ended, len(row.strip), row.strip[0].state) == (lost, 20, "queued")


def test_agents_are_found_by_name_and_description(browser: Client, make_agent: MakeAgent) -> None:
    make_agent("reviewer", description="Reads pull requests.")
    make_agent("reporter")
    assert "reporter" not in html(browser, "/agents/?q=PULL")
    assert "reviewer" in html(browser, "/agents/?q=PULL")
    assert "No agent matches" in html(browser, "/agents/?q=nothing")
    assert html(browser, "/agents/?q=%00%27")


def test_pages_take_as_many_queries_for_many_rows_as_for_one(
    browser: Client, make_agent: MakeAgent, django_assert_num_queries: Callable[..., object]
) -> None:
    def fill(agents: range, runs: int) -> None:
        for number in agents:
            agent = make_agent(f"agent{number}")
            for _ in range(runs):
                past(agent, "succeeded", cost_usd=1)
                past(agent, "running")

    fill(range(1), 1)
    for path, queries in (("/", 12), ("/agents/", 10)):
        with django_assert_num_queries(queries):  # type: ignore[attr-defined]
            browser.get(path)
    fill(range(1, 15), 6)
    for path, queries in (("/", 12), ("/agents/", 10)):
        with django_assert_num_queries(queries):  # type: ignore[attr-defined]
            browser.get(path)


def test_of_very_many_agents_those_are_shown_that_ran_last(browser: Client, make_agent: MakeAgent) -> None:
    agents = [make_agent(f"agent{number:02}") for number in range(45)]
    for agent in agents[:42]:
        past(agent, "succeeded")
    page = html(browser)
    assert "40 of 45, those that ran last" in text(page)
    assert "agent01" not in page
    assert "agent44" not in page
    assert page.index("agent02") < page.index("agent41")


# The first steps.


def step(page: str, name: str) -> str:
    """One step of the checklist: `done`, the address it leads to, or nothing."""
    found = re.search(rf'<li class="list-group-item([^"]*)">(?:(?!</li>).)*?{name}.*?</li>', page, re.DOTALL)
    assert found, name
    if "own-step-done" in found[1]:
        return "done"
    link = re.search(r'href="(.*?)"', found[0])
    return link[1] if link else ""


def test_an_empty_site_leads_to_its_first_result(browser: Client, make_agent: MakeAgent) -> None:
    page = html(browser)
    assert step(page, "Add an agent") == "/admin/agents/agent/add/"
    assert step(page, "Run it") == ""
    agent = make_agent(runtime="command", command=["false"])
    page = html(browser)
    assert step(page, "Add an agent") == "done"
    assert step(page, "Test its configuration") == f"/admin/agents/agent/{agent.pk}/change/"
    assert step(page, "Run it") == "/agents/probe/#run"
    execute(jobs.submit(agent, "x"))
    page = html(browser)
    assert (step(page, "Test its configuration"), step(page, "Run it")) == ("done", "/agents/probe/#run")
    execute(jobs.submit(make_agent("works"), "x"))
    assert "own-steps" not in html(browser)


def test_operators_are_led_to_what_they_may_do(client: Client, person: Person, make_agent: MakeAgent) -> None:
    client.force_login(person("op", "Operator"))
    assert "An administrator does this" in html(client)
    make_agent()
    page = html(client)
    assert "/admin/" not in page
    assert step(page, "Run it") == "/agents/probe/#run"
    client.force_login(person("reader", "Viewer"))
    page = html(client)
    assert "own-steps" not in page
    assert "#run" not in page


def test_somebody_without_a_role_is_told_so(client: Client, person: Person, make_agent: MakeAgent) -> None:
    past(make_agent(), "running")
    client.force_login(person("nobody"))
    page = html(client)
    assert "You have no role yet" in page
    assert "probe" not in page
    assert numbers(page) == []


def test_a_viewer_of_nothing_is_told_whom_to_ask(client: Client, person: Person) -> None:
    client.force_login(person("reader", "Viewer"))
    assert "Ask an administrator to add one, or to let you see one." in text(html(client))


# What is wrong.


def headlines(page: str) -> list[str]:
    return re.findall(r'class="alert-title">\s*(.*?)\s*</h2>', page)


def test_nothing_is_wrong_when_a_ticker_found_nothing(browser: Client, watched: None) -> None:
    assert headlines(html(browser)) == []
    assert 'role="alert"' not in html(browser, "/runs/")


def test_a_site_without_a_ticker_says_so_on_every_page(browser: Client, watched: None) -> None:
    with time_machine.travel(timezone.now() + timedelta(seconds=41), tick=False):
        page = html(browser)
        assert headlines(page) == ["Nothing looks after the runs"]
        assert "Nothing has looked after the runs for 41 s." in page
        assert "Start: make run" in page
        assert "Nothing looks after the runs" in html(browser, "/runs/")
        assert headlines(html(browser, "/help/")) == []


def test_a_real_ticker_looks(browser: Client, workers: Callable[..., object]) -> None:
    assert headlines(html(browser)) == ["Nothing looks after the runs"]
    workers(1)
    ticker = start("manage.py", "ticker")
    try:
        until(lambda: headlines(html(browser)) == [], "It did not look")
    finally:
        end(ticker)


def test_no_worker_is_a_problem_only_after_half_a_minute(browser: Client) -> None:
    begun = timezone.now()
    for seconds, shown in ((0, []), (10, []), (29, []), (31, ["No worker is running"])):
        moment = begun + timedelta(seconds=seconds)
        health.look(moment)
        with time_machine.travel(moment, tick=False):
            assert headlines(html(browser)) == shown, seconds
    with time_machine.travel(moment, tick=False):
        page = html(browser)
    assert "None is alive, so no run starts." in page
    assert "Start them: make run." in page


def test_a_worker_that_is_restarted_is_no_problem(
    browser: Client, workers: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    begun = timezone.now()
    health.look(begun)
    workers(1)
    health.look(begun + timedelta(seconds=20))
    assert health.problems(begun + timedelta(seconds=35)) == []


def test_what_was_wrong_before_a_ticker_died_does_not_count(watched: None) -> None:
    begun = timezone.now()
    health.look(begun)
    again = begun + timedelta(minutes=5)
    health.look(again)
    assert health.problems(again) == []


@pytest.fixture
def away(settings: Settings, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A Redis of the pages' own, to be stopped."""
    socket = tmp_path / "r.sock"
    server = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    until(lambda: socket.exists() and redis.Redis(unix_socket_path=str(socket)).ping(), "It did not start")
    settings.HERDWEB_REDIS_URL = f"unix://{socket}"
    health.connection().close()
    health.connection.cache_clear()
    yield server
    server.kill()
    server.wait()
    health.connection().close()
    health.connection.cache_clear()


def test_a_queue_that_is_away_is_said_on_every_page(
    browser: Client, person: Person, away: "subprocess.Popen[bytes]"
) -> None:
    leave([])
    assert headlines(html(browser)) == []
    away.terminate()
    away.wait()
    page = html(browser)
    assert headlines(page) == ["The queue cannot be reached"]
    assert "Start it (make run does), or set HERDWEB_REDIS_URL." in page
    assert "The queue cannot be reached" in html(browser, "/help/")
    browser.force_login(person("reader", "Viewer"))
    page = html(browser)
    assert "Ask an administrator." in page
    assert "HERDWEB_REDIS_URL" not in page
    assert "r.sock" not in page


# Docker's client does not close the socket with which it did not reach its engine.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_engine_that_is_away_matters_to_agents_in_containers(
    make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    agent = make_agent()
    assert "engine" not in [finding.name for finding in health.wrong()]
    agent.docker.enabled = True
    agent.docker.save()
    (engine,) = [finding for finding in health.wrong() if finding.name == "engine"]
    leave([engine], seconds=31)
    (problem,) = health.problems()
    assert (problem.headline, problem.severe) == ("The Docker engine cannot be reached", True)
    assert "systemctl start docker" in problem.remedy


def test_an_image_that_is_missing_is_named_with_the_agents_that_need_it(
    browser: Client, person: Person, make_agent: MakeAgent, engine: object, tiny_image: str
) -> None:
    make_agent("sound", docker_enabled=True, docker_image=tiny_image)
    make_agent("broken", docker_enabled=True, docker_image="herdweb-test/absent")
    make_agent("off", docker_enabled=True, docker_image="herdweb-test/other", enabled=False)
    make_agent("bare", docker_image="herdweb-test/other")
    health.look()
    page = html(browser)
    assert headlines(page) == ["An image is missing"]
    assert "herdweb-test/absent is not on this host; runs of broken fail until it is." in page
    assert "Get it: docker pull herdweb-test/absent." in page
    assert 'role="alert"' not in html(browser, "/runs/")
    browser.force_login(person("reader", "Viewer"))
    assert "herdweb-test/absent is not" not in html(browser)


@pytest.mark.parametrize(
    ("wanted", "status", "shown"),
    [("1m", "ok", []), ("0.01%", "ok", []), ("900000t", "fail", ["The disk is getting full"])],
)
def test_a_disk_is_full_below_the_space_that_was_asked_for(
    browser: Client, settings: Settings, wanted: str, status: str, shown: list[str]
) -> None:
    settings.HERDWEB_FREE_SPACE = wanted
    assert doctor.examine_disk().status == status
    health.look()
    assert headlines(html(browser)) == shown


def test_a_disk_below_the_wanted_share_is_low_before_it_is_full(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.HERDWEB_FREE_SPACE = "10%"
    for free, status in ((12, "ok"), (11, "warn"), (10, "warn"), (9, "fail")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(100, 100 - free, free))
        assert doctor.examine_disk().status == status


class Usage:
    """A disk."""

    def __init__(self, total: int, used: int, free: int) -> None:
        self.total, self.used, self.free = total * 2**30, used * 2**30, free * 2**30


@pytest.mark.parametrize("wanted", ["5", "-1g", "100%", "much", "5 g", "1g 5%"])
def test_nonsense_as_wanted_space_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setenv("HERDWEB_FREE_SPACE", wanted)
    with pytest.raises(ValidationError, match="herdweb_free_space"):
        Environment()


def test_pages_ask_redis_once_and_the_engine_never(
    browser: Client, make_agent: MakeAgent, watched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    make_agent(docker_enabled=True)
    counted = health.connection()
    for path in ("/", "/agents/", "/runs/"):
        before = counted.info("commandstats")["cmdstat_get"]["calls"]
        html(browser, path)
        assert counted.info("commandstats")["cmdstat_get"]["calls"] == before + 1, path
