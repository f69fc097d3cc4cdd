"""No page asks the database more often because there is more in it."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from agents import machine
from agents.models import Agent, Container, Event, Fire, Run, SavedList, Schedule, Session

pytestmark = pytest.mark.django_db
MakeAgent = Callable[..., Agent]

# Pages by the names of their addresses, and what is asked of them; one more list is one more line.
PAGES = (
    ("dashboard", ""),
    ("agents", ""),
    ("agent", ""),
    ("retention", ""),
    ("retention", "keep_runs=1"),
    ("runs", ""),
    ("runs", "state=live&agent=agent-0&user=person-0&sort=dearest"),
    ("runs", "text=nothing-contains-this"),
    ("run", ""),
    ("run", "q=event"),
    ("sessions", ""),
    ("sessions", "sort=turns&since=7d"),
    ("session", ""),
    ("session_files", ""),
    ("session_conversation", ""),
    ("session_conversation", "q=event"),
    ("session_now", ""),
    ("containers", ""),
    ("containers", "state=live&image=herdweb/agent"),
    ("container", ""),
    ("container_now", ""),
    ("schedules", ""),
    ("schedules", "state=on&agent=agent-0&sort=newest"),
    ("schedule", ""),
    ("schedule_new", ""),
    ("schedule_edit", ""),
    ("schedules_week", ""),
    ("agent", "tab=schedules"),
)
FEW, MANY, MOST = 2, 20, 20


class World:
    """Rows of every kind, all of them around the first agent, run, session and container."""

    def __init__(self, make_agent: MakeAgent) -> None:
        self.make_agent = make_agent
        self.agent: Agent | None = None
        self.session: Session | None = None
        self.container: Container | None = None
        self.run: Run | None = None
        self.schedule: Schedule | None = None

    def grow(self, first: int, last: int, reader: User) -> None:
        for number in range(first, last):
            # An agent of its own, and one more session, container and run of the first agent.
            group = Group.objects.create(name=f"group-{number}")
            reader.groups.add(group)
            other = self.make_agent(f"agent-{number}", docker_image=f"image:{number}")
            other.groups.add(group)
            person = User.objects.create(username=f"person-{number}")
            self.agent = self.agent or other
            for agent in {self.agent, other}:
                self.row(agent, person, number)
            SavedList.objects.create(user=reader, page="runs", name=str(number), query=f"text={number}")

    def row(self, agent: Agent, person: User, number: int) -> None:
        session = Session.objects.create(
            agent=agent, runtime="claude_cli", home=f"home-{number}", working_directory="/workspace",
            title=f"session {number}", forked_from=self.session,
        )  # fmt: skip
        self.session = self.session or session
        name = f"container-{agent.pk}-{number}"
        container = Container.objects.create(
            engine_id=name, name=name, image="herdweb/agent", image_digest="", agent=agent,
            session=self.session if agent == self.agent else session,
        )  # fmt: skip
        self.container = self.container or container
        state = (Run.State.RUNNING, Run.State.SUCCEEDED, Run.State.WAITING)[number % 3]
        run = Run.objects.create(
            agent=agent, config=agent.freeze(), prompt="x", requested_by=person, state=state,
            session=self.session if agent == self.agent else session,
            container=self.container if agent == self.agent else container,
        )  # fmt: skip
        self.run = self.run or run
        schedule = Schedule.objects.create(
            agent=agent, name=f"schedule-{number}", cron="0 3 * * *", time_zone="UTC", due_at=timezone.now()
        )
        self.schedule = self.schedule or schedule
        Run.objects.filter(pk=run.pk).update(schedule=schedule)
        Fire.objects.create(schedule=schedule, moment=timezone.now(), kind="started", run=run)
        before = timezone.now() - timedelta(days=number + 1)
        Fire.objects.create(schedule=self.schedule, moment=before, kind="skipped", reason="x", run=run)
        kinds = Event.Kind.values
        seq = self.run.event_count + 1
        Event.objects.create(run=self.run, seq=seq, kind=kinds[number % len(kinds)], text="event")
        self.run.event_count = seq
        self.run.save(update_fields=["event_count"])

    def address(self, name: str, query: str) -> str:
        assert self.agent
        machine.state().workspace(self.agent.name).mkdir(parents=True, exist_ok=True)
        assert self.run
        assert self.session
        assert self.container
        assert self.schedule
        keys: dict[str, list[object]] = {
            "agent": [self.agent.name],
            "retention": [self.agent.name],
            "run": [self.run.public_id],
            "session": [self.session.public_id],
            "session_files": [self.session.public_id],
            "session_conversation": [self.session.public_id],
            "session_now": [self.session.public_id],
            "container": [self.container.pk],
            "container_now": [self.container.pk],
            "schedule": [self.schedule.pk],
            "schedule_edit": [self.schedule.pk],
        }
        return f"{reverse(f'agents:{name}', args=keys.get(name))}?{query}"


def queries(client: Client, address: str) -> list[str]:
    with CaptureQueriesContext(connection) as captured:
        answer = client.get(address)
    assert answer.status_code == 200, address
    return [query["sql"] for query in captured.captured_queries]


def test_no_page_asks_more_often_when_there_are_more_rows(
    client: Client, make_agent: MakeAgent, person: Callable[..., User]
) -> None:
    reader = person("reader", "Operator")
    client.force_login(reader)
    world = World(make_agent)
    world.grow(0, FEW, reader)
    # What is asked but once in the life of a process is asked now.
    few = [[queries(client, world.address(*page)) for page in PAGES] for _ in range(2)][-1]
    world.grow(FEW, MANY, reader)
    many = [queries(client, world.address(*page)) for page in PAGES]
    grown = {
        page: sorted(set(after) - set(before))[:5]
        for page, before, after in zip(PAGES, few, many, strict=True)
        if len(after) != len(before)
    }
    assert grown == {}


def test_pages_ask_seldom(client: Client, admin: User, make_agent: MakeAgent) -> None:
    client.force_login(admin)
    world = World(make_agent)
    world.grow(0, MANY, admin)
    asked = {page: len(queries(client, world.address(*page))) for page in PAGES}
    assert {page: number for page, number in asked.items() if number > MOST} == {}


def test_an_error_s_page_asks_for_no_notices(client: Client, admin: User) -> None:
    """It may be made in a thread whose connection nobody closes."""
    client.force_login(admin)
    with CaptureQueriesContext(connection) as asked:
        assert client.get("/runs/00000000-0000-0000-0000-000000000000/").status_code == 404
    tables = [query["sql"] for query in asked.captured_queries]
    assert not [sql for sql in tables if any(name in sql for name in ("site", "beat", "drain"))]
    with CaptureQueriesContext(connection) as asked:
        assert client.get("/runs/").status_code == 200
    assert [query["sql"] for query in asked.captured_queries if "agents_site" in query["sql"]]
