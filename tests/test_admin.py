"""The admin: agents are made and changed there, records are looked up."""

import json
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from django.contrib.auth.models import User
from django.test import Client

from agents import jobs
from agents.models import Agent, Container, DockerSettings, Event, Run, Schedule, Session
from tests.conftest import execute

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
RECORDS = ("run", "session", "container", "event")


class Fields(HTMLParser):
    """What a browser would send if nobody typed anything."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.area = self.select = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        name, value = found.get("name") or "", found.get("value") or ""
        skipped = found.get("type") in ("submit", "button") or (
            found.get("type") == "checkbox" and "checked" not in found
        )
        if tag == "input" and name and not skipped:
            self.values[name] = "on" if found.get("type") == "checkbox" else value
        elif tag == "textarea":
            self.area, self.values[name] = name, ""
        elif tag == "select":
            self.select = name
        elif tag == "option" and "selected" in found:
            self.values[self.select] = value

    def handle_data(self, data: str) -> None:
        if self.area:
            self.values[self.area] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self.values[self.area] = self.values[self.area].removeprefix("\n")
            self.area = ""


def filled(browser: Client, path: str, **typed: str) -> dict[str, str]:
    return {**Fields(browser.get(path).content.decode()).values, **typed}


def complaints(html: str) -> str:
    return " ".join(part.split("</ul>")[0] for part in html.split('class="errorlist')[1:])


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


@pytest.fixture
def operator(person: Callable[..., User]) -> Client:
    """Staff who may edit agents, but are no administrators."""
    client = Client()
    client.force_login(person("operator", "Operator", staff=True))
    return client


def test_a_new_agent_has_docker_settings_even_if_nobody_touched_them(browser: Client) -> None:
    path = "/admin/agents/agent/add/"
    answer = browser.post(path, filled(browser, path, name="fresh"))
    assert answer.status_code == 302, complaints(answer.content.decode())
    agent = Agent.objects.get(name="fresh")
    time_limit = agent.freeze()["time_limit"]
    assert (agent.docker.enabled, agent.docker.memory, time_limit) == (False, 2 * 1024**3, 3600)


def test_a_new_agent_can_be_kept_in_a_container_from_the_start(browser: Client) -> None:
    path = "/admin/agents/agent/add/"
    typed = {"docker-0-enabled": "on", "docker-0-memory": "512m", "docker-0-env": "A=1", "time_limit": "90s"}
    answer = browser.post(path, filled(browser, path, name="kept", **typed))
    assert answer.status_code == 302, complaints(answer.content.decode())
    docker = Agent.objects.get(name="kept").docker
    assert (docker.enabled, docker.memory, docker.env) == (True, 512 * 1024**2, {"A": "1"})


def test_saving_without_a_change_changes_nothing(browser: Client, make_agent: MakeAgent) -> None:
    agent = make_agent(
        runtime="command", command=["a b", "--x", ""], mcp_servers={"s": {"command": "x"}},
        allowed_tools=["Read"], time_limit=3661, output_limit=3 * 1024**2, docker_env={"A": " b\nc"},
        docker_tmpfs=["/cache:size=1m"],
    )  # fmt: skip
    path = f"/admin/agents/agent/{agent.pk}/change/"
    answer = browser.post(path, filled(browser, path))
    assert answer.status_code == 302, complaints(answer.content.decode())
    assert Agent.objects.get().freeze() == agent.freeze()


def test_switching_docker_on_is_one_tick(browser: Client, make_agent: MakeAgent) -> None:
    path = f"/admin/agents/agent/{make_agent().pk}/change/"
    browser.post(path, filled(browser, path, **{"docker-0-enabled": "on"}))
    assert DockerSettings.objects.get().enabled


def test_a_mistake_is_explained_and_nothing_is_saved(browser: Client) -> None:
    path = "/admin/agents/agent/add/"
    typed = {"docker-0-memory": "1m", "docker-0-user": "0:0"}
    html = browser.post(path, filled(browser, path, name="../etc", **typed)).content.decode()
    for text in ("Name may contain a-z", "Must be between 64 MB and 64 GB", "non-root uid:gid"):
        assert text in html
    assert not Agent.objects.exists()


def test_an_agent_is_not_renamed(browser: Client, make_agent: MakeAgent) -> None:
    path = f"/admin/agents/agent/{make_agent('first').pk}/change/"
    browser.post(path, filled(browser, path, name="second"))
    assert Agent.objects.get().name == "first"


def test_the_admin_leads_back_to_the_agents_page(browser: Client, make_agent: MakeAgent) -> None:
    html = browser.get(f"/admin/agents/agent/{make_agent().pk}/change/").content.decode()
    assert 'href="/agents/probe/"' in html
    assert "Back to the site" in html


def test_an_operator_changes_what_operators_may(operator: Client, make_agent: MakeAgent) -> None:
    path = f"/admin/agents/agent/{make_agent(docker_enabled=True).pk}/change/"
    typed = filled(operator, path, description="mine", **{"docker-0-memory": "1g"})
    assert operator.post(path, typed).status_code == 302
    agent = Agent.objects.get()
    assert (agent.description, agent.docker.memory, agent.docker.enabled) == ("mine", 1024**3, True)


def test_an_operator_cannot_change_what_a_container_reaches(
    operator: Client, make_agent: MakeAgent, settings: object
) -> None:
    agent = make_agent(docker_enabled=True)
    before = agent.freeze()
    path = f"/admin/agents/agent/{agent.pk}/change/"
    attack = {
        "enabled": "",
        "image": "evil",
        "network": "none",
        "user": "7:7",
        "mounts": "/:/host:rw",
        "env": "A=1",
    }
    typed = filled(
        operator,
        path,
        working_directory="/",
        git_url="https://host/x",
        git_credential="GIT_TOKEN",
        **{f"docker-0-{key}": text for key, text in attack.items()},
    )
    assert operator.post(path, typed).status_code == 302
    assert Agent.objects.get().freeze() == before


def test_what_runs_on_the_host_is_for_administrators(operator: Client, make_agent: MakeAgent) -> None:
    agent = make_agent()
    path = f"/admin/agents/agent/{agent.pk}/change/"
    assert operator.post(path, {"command": "sh", "description": "mine"}).status_code == 403
    assert operator.get("/admin/agents/agent/add/").status_code == 403
    assert Agent.objects.get().description == ""


def test_an_operator_sees_what_is_for_administrators_but_no_boxes(
    operator: Client, make_agent: MakeAgent
) -> None:
    html = operator.get(f"/admin/agents/agent/{make_agent().pk}/change/").content.decode()
    assert "herdweb/agent" in html
    for name in (
        *(f"docker-0-{field}" for field in DockerSettings.ADMINISTRATOR_FIELDS),
        *Agent.ADMINISTRATOR_FIELDS,
    ):
        assert f'name="{name}"' not in html


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_read_only_even_for_administrators(
    browser: Client, make_agent: MakeAgent, name: str
) -> None:
    execute(jobs.submit(make_agent(), "x"))
    assert browser.get(f"/admin/agents/{name}/").status_code == 200
    assert browser.get(f"/admin/agents/{name}/add/").status_code == 403
    for path in ("change", "delete"):
        assert browser.post(f"/admin/agents/{name}/1/{path}/", {"post": "yes"}).status_code in (302, 403)
    assert Run.objects.get().state == "succeeded"


def test_every_record_can_be_opened(browser: Client, make_agent: MakeAgent) -> None:
    run = execute(jobs.submit(make_agent(), "x"))
    container = Container.objects.create(name="c", agent=run.agent, session=run.session, limits={"memory": 5})
    event = Event.objects.latest("id")
    event.payload = {"a": ["<b>"]}
    event.save()
    for record in (run, run.session, container, event):
        assert record
        html = browser.get(f"/admin/agents/{record._meta.model_name}/{record.pk}/change/").content.decode()
        assert "<b>" not in html
        assert str(record.pk) in html


def test_who_may_only_look_sees_a_schedule_without_its_boxes(
    client: Client, person: Callable[..., User], make_agent: MakeAgent
) -> None:
    client.force_login(person("viewer", "Viewer", staff=True))
    found = Schedule.objects.create(agent=make_agent(), name="nightly", cron="30 2 * * *")
    html = client.get(f"/admin/agents/schedule/{found.pk}/change/").content.decode()
    assert "30 2 * * *" in html
    assert 'name="cron"' not in html


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("query", ["q=abc", "q='\"<b>", "q=%00", "p=99999", "p=-1", "o=1.-2", "q=0123-zz"])
def test_lists_of_records_bear_any_search(
    browser: Client, make_agent: MakeAgent, name: str, query: str
) -> None:
    execute(jobs.submit(make_agent(), "x"))
    assert browser.get(f"/admin/agents/{name}/?{query}", follow=True).status_code == 200


def test_events_are_found_by_the_beginning_of_their_runs_id(browser: Client, make_agent: MakeAgent) -> None:
    runs = [execute(jobs.submit(make_agent(name), f"said-by-{name}")) for name in ("one", "two")]
    html = browser.get(f"/admin/agents/event/?q={runs[0].short_id}").content.decode()
    assert "said-by-one" in html
    assert "said-by-two" not in html


@pytest.mark.parametrize("name", [*RECORDS, "agent"])
def test_a_list_takes_as_many_queries_for_many_rows_as_for_one(
    browser: Client, make_agent: MakeAgent, name: str, django_assert_max_num_queries: Callable[..., object]
) -> None:
    for number in range(8):
        run = execute(jobs.submit(make_agent(f"agent{number}"), "x"))
        Container.objects.create(name=f"c{number}", agent=run.agent, session=run.session)
    with django_assert_max_num_queries(7):  # type: ignore[attr-defined]
        browser.get(f"/admin/agents/{name}/")


def test_a_large_table_is_not_counted_to_its_end(
    browser: Client, make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.admin.CappedPaginator.most", 20)
    execute(jobs.submit(make_agent(), "\n" * 60))
    assert "20 events" in browser.get("/admin/agents/event/").content.decode()


def test_an_agent_with_records_is_not_deleted_and_the_reason_is_said(
    browser: Client, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    execute(jobs.submit(agent, "x"))
    path = f"/admin/agents/agent/{agent.pk}/delete/"
    assert "1 run of probe" in browser.get(path).content.decode()
    answer = browser.post(path, {"post": "yes"})
    assert "Switch the agent off instead" in answer.content.decode()
    assert Agent.objects.exists()


def test_an_agent_with_records_survives_the_action_on_the_list(
    browser: Client, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    execute(jobs.submit(agent, "x"))
    typed = {"action": "delete_selected", "_selected_action": str(agent.pk), "post": "yes"}
    assert browser.post("/admin/agents/agent/", typed).status_code == 200
    assert Session.objects.exists()


def test_an_agent_without_records_is_deleted_with_its_settings(
    browser: Client, make_agent: MakeAgent
) -> None:
    browser.post(f"/admin/agents/agent/{make_agent().pk}/delete/", {"post": "yes"})
    assert not Agent.objects.exists()
    assert not DockerSettings.objects.exists()


def test_the_queues_own_pages_are_not_there(browser: Client, operator: Client) -> None:
    for client in (browser, operator):
        assert "Django-RQ" not in client.get("/admin/").content.decode()
        assert client.get("/admin/django_rq/dashboard/").status_code == 404


def test_what_is_hostile_is_text_in_the_admin_too(browser: Client, make_agent: MakeAgent) -> None:
    text = "<script>alert(1)</script>"
    agent = make_agent(description=text, default_prompt=text, system_prompt=text, docker_labels={"a": text})
    run = execute(jobs.submit(agent, text))
    Event.objects.update(payload={text: text})
    event = Event.objects.latest("id")
    for path in ("agent/", "run/", "session/", "event/", f"agent/{agent.pk}/change/", f"run/{run.pk}/change/",
                 f"event/{event.pk}/change/", f"agent/{agent.pk}/delete/"):  # fmt: skip
        html = browser.get(f"/admin/agents/{path}").content.decode()
        assert text not in html, path


def test_json_is_shown_with_line_breaks(browser: Client, make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x")
    html = browser.get(f"/admin/agents/run/{run.pk}/change/").content.decode()
    assert json.dumps(run.config, indent=2).replace('"', "&quot;")[:40] in html
