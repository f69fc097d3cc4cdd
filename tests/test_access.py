"""Who may do what: every address, every role, every method; an address without its row fails."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from agents import jobs, machine
from agents.attachments import Attachment
from agents.management.terminal import operator
from agents.models import Agent, Audit, Container, Event, Fire, Fleet, Run, Schedule, Session, Site
from tests.conftest import execute

ACTORS = ("anonymous", "viewer", "stranger", "operator", "administrator")
OTHERS = ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
# What is answered, in the order of the actors: L is the login page, a dash means not tried.
LIST = "L 200 200 200 200"
OBJECT = "L 200 404 200 200"
REFUSED = "L 403 403 403 403"
OPERATORS = "L 403 404 303 303"
NOBODY = "L 405 405 405 405"
SCRIPTS = "401 200 404 200 200"
SCRIPTS_NOBODY = "401 405 405 405 405"

# For each address of ours: what GET answers, and what POST answers.
PAGES = {
    "dashboard": (LIST, NOBODY),
    "agents": (LIST, NOBODY),
    "agent": (OBJECT, OPERATORS),
    "retention": (OBJECT, NOBODY),
    "runs": (LIST, NOBODY),
    "run": (OBJECT, NOBODY),
    "run_cancel": (NOBODY, "L 403 404 303 303"),
    "runs_bulk": (NOBODY, "L 303 303 303 303"),
    "session_delete": (NOBODY, "L 403 403 403 200"),
    "run_pin": (NOBODY, OPERATORS),
    "run_again": (NOBODY, "L 403 404 303 303"),
    "run_markdown": (OBJECT, NOBODY),
    "run_output": (OBJECT, NOBODY),
    "run_errors": (OBJECT, NOBODY),
    "run_patch": ("L 404 404 404 404", NOBODY),
    "run_events": (SCRIPTS, "405 405 405 405 405"),
    "run_stream": ("401 - 404 - -", "405 405 405 405 405"),
    "run_image": ("L 404 404 404 404", NOBODY),
    "run_attachment": ("L 200 404 200 200", NOBODY),
    "sessions": (LIST, NOBODY),
    "session": (OBJECT, NOBODY),
    "session_files": (OBJECT, NOBODY),
    "session_file": ("L 404 404 404 404", NOBODY),
    "session_picture": ("L 404 404 404 404", NOBODY),
    "session_conversation": (OBJECT, "L 403 404 422 422"),
    "session_now": (OBJECT, NOBODY),
    "session_markdown": (OBJECT, NOBODY),
    "session_jsonl": (OBJECT, NOBODY),
    "session_rename": (NOBODY, OPERATORS),
    "session_download": (OBJECT, NOBODY),
    "session_restore": (NOBODY, OPERATORS),
    "session_pin": (NOBODY, OPERATORS),
    "containers": (LIST, NOBODY),
    "container": (OBJECT, NOBODY),
    "container_now": (OBJECT, NOBODY),
    "container_stop": (NOBODY, OPERATORS),
    "container_keep": (NOBODY, OPERATORS),
    "container_remove": (NOBODY, OPERATORS),
    "agent_pause": (NOBODY, OPERATORS),
    "agent_resume": (NOBODY, OPERATORS),
    "site_pause": (NOBODY, "L 403 403 403 303"),
    "site_resume": (NOBODY, "L 403 403 403 303"),
    "schedules": (LIST, NOBODY),
    "schedule": (OBJECT, NOBODY),
    "schedule_new": ("L 403 200 200 200", "L 403 200 200 200"),
    "schedule_preview": (NOBODY, "L 403 404 404 404"),
    "schedules_week": (LIST, NOBODY),
    "schedules_pause": (NOBODY, "L 403 303 303 303"),
    "schedules_resume": (NOBODY, "L 403 303 303 303"),
    "schedule_edit": ("L 403 404 200 200", "L 403 404 422 422"),
    "schedule_run": (NOBODY, OPERATORS),
    "schedule_pause": (NOBODY, OPERATORS),
    "schedule_anew": (NOBODY, OPERATORS),
    "schedule_resume": (NOBODY, OPERATORS),
    "schedule_delete": (NOBODY, "L 403 404 200 200"),
    "list_save": (NOBODY, "L 303 303 303 303"),
    "list_forget": (NOBODY, "L 404 404 404 404"),
    "help": (LIST, NOBODY),
    "login": ("200 302 302 302 302", "200 302 302 302 302"),
    "logout": (NOBODY, "L 302 302 302 302"),
}

# The admin: for each model what its pages answer. A forbidden row leads to the index, like a missing one.
SEEN = "L 200 302 200 200"
NEVER = "L 403 403 403 403"
RECORD = {"changelist": LIST, "add": NEVER, "change": SEEN, "delete": NEVER, "history": SEEN}
FOR_ADMINISTRATORS = "L 403 403 403 200"
PEOPLE = dict.fromkeys(("changelist", "add", "change", "delete", "history"), FOR_ADMINISTRATORS)
SUPERUSERS = {
    **dict.fromkeys(("changelist", "add", "change", "delete"), NEVER),
    "history": "L 302 302 302 302",
}
ADMIN = {
    "agents_agent": {
        "changelist": LIST,
        "add": FOR_ADMINISTRATORS,
        "change": SEEN,
        "delete": "L 403 403 403 200",
        "history": SEEN,
    },
    "agents_schedule": {
        "changelist": LIST,
        "add": "L 403 200 200 200",
        "change": SEEN,
        "delete": "L 403 302 200 200",
        "history": SEEN,
    },
    "agents_fire": RECORD,
    "agents_fleet": {
        "changelist": LIST,
        "add": FOR_ADMINISTRATORS,
        "change": LIST,
        "delete": FOR_ADMINISTRATORS,
        "history": LIST,
    },
    "agents_site": {
        "changelist": "L 403 403 403 302",
        "add": NEVER,
        "change": FOR_ADMINISTRATORS,
        "delete": NEVER,
        "history": FOR_ADMINISTRATORS,
    },
    "agents_run": RECORD,
    "agents_session": RECORD,
    "agents_container": RECORD,
    "agents_event": RECORD,
    "agents_audit": {**RECORD, "changelist": FOR_ADMINISTRATORS, "change": FOR_ADMINISTRATORS,
                     "history": "L 403 302 403 200"},
    "auth_user": {**PEOPLE, "password_change": FOR_ADMINISTRATORS},
    "auth_group": PEOPLE,
    "axes_accessattempt": SUPERUSERS,
    "axes_accesslog": SUPERUSERS,
    "axes_accessfailurelog": SUPERUSERS,
}  # fmt: skip
# What the form of an agent asks: what GET answers, and what POST answers.
TRYOUT = {
    "agents_agent_add_preview": (NOBODY, FOR_ADMINISTRATORS),
    "agents_agent_preview": (NOBODY, "L 403 404 200 200"),
    "agents_agent_test": ("L 403 404 200 200", "L 403 404 200 200"),
}
ADMIN_SITE = {
    "admin/": LIST,
    "admin/login/": "L 403 403 403 403",
    "admin/logout/": NOBODY,
    "admin/password_change/": LIST,
    "admin/password_change/done/": LIST,
    "admin/autocomplete/": REFUSED,
    "admin/jsi18n/": LIST,
    "admin/r/<path:rest>": "L 404 404 404 404",
    "admin/r/<path:content_type_id>/<path:object_id>/": "L 404 404 404 404",
    "admin/^(?P<app_label>agents|auth|axes)/$": LIST,
    "admin/(?P<url>.*)$": "L 404 404 404 404",
}


def addresses(patterns: Any = None, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every address of the site with its name."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        whole = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from addresses(pattern.url_patterns, whole)
        elif isinstance(pattern, URLPattern):
            # Django writes the admin's apps in any order.
            apps = "admin/^(?P<app_label>"
            yield (
                ("admin/^(?P<app_label>agents|auth|axes)/$" if whole.startswith(apps) else whole),
                (pattern.name or ""),
            )


def rows() -> dict[str, tuple[str, str | None]]:
    """Address, and what GET and POST answer; `None` where a POST is a test of its own."""
    table: dict[str, tuple[str, str | None]] = {}
    for address, name in addresses():
        model, _, page = name.rpartition("_")
        if name == "auth_user_password_change":
            model, page = "auth_user", "password_change"
        if not address.startswith("admin/") and name in PAGES:
            table[address] = PAGES[name]
        elif name in TRYOUT:
            table[address] = TRYOUT[name]
        elif address in ADMIN_SITE:
            table[address] = (ADMIN_SITE[address], None)
        elif model in ADMIN and page in ADMIN[model]:
            table[address] = (ADMIN[model][page], None)
        elif address.startswith("admin/") and address.endswith("<path:object_id>/") and not name:
            # The old address of a row, which leads to the new one.
            table[address] = ("L 302 302 302 302", None)
    return table


def test_every_address_has_its_row() -> None:
    known = rows()
    assert [address for address, _ in addresses() if address not in known] == []
    names = {name for address, name in addresses() if not address.startswith("admin/")}
    assert set(PAGES) - names == set()


@pytest.fixture
def world(make_agent: Callable[..., Agent], person: Callable[..., User]) -> dict[str, Any]:
    """An agent of one group with a run, its session and container; people in and out of the group."""
    people = {
        "viewer": person("viewer", "Viewer", "ours", staff=True),
        "stranger": person("stranger", "Operator", "others", staff=True),
        "operator": person("operator", "Operator", "ours", staff=True),
        "administrator": person("administrator", "Administrator", staff=True),
    }
    agent = make_agent(docker_enabled=True, docker_image="herdweb-test/none:1")
    agent.groups.set(people["operator"].groups.filter(name="ours"))
    theirs = make_agent("theirs")
    theirs.groups.set(people["stranger"].groups.filter(name="others"))
    agent.docker.enabled = False
    agent.docker.save()
    given = Attachment("given", 1, lambda: [b"x"])
    run = execute(jobs.submit(agent, "seen by ours only", attached=[given]))
    agent.docker.enabled = True
    agent.docker.save()
    state = machine.state()
    state.errors(str(run.public_id)).write_bytes(b"")
    container = Container.objects.create(
        engine_id="e" * 64, name="kept", image="x", image_digest="sha256:0", agent=agent, session=run.session
    )
    clients = {"anonymous": Client(), **{name: Client() for name in people}}
    for name, user in people.items():
        clients[name].force_login(user)
    Audit.note("somebody", Audit.Deed.CHANGED, "something")
    return {
        "agent": agent,
        "run": run,
        "container": container,
        "clients": clients,
        "people": people,
        "fleet": Fleet.objects.create(name="night"),
        "schedule": schedule_of(agent),
    }


def schedule_of(agent: Agent) -> Schedule:
    """One with a moment that was skipped."""
    schedule = Schedule.objects.create(agent=agent, name="nightly", cron="30 2 * * *")
    Fire.objects.create(schedule=schedule, moment=schedule.anchor, kind="skipped")
    return schedule


def filled(address: str, world: dict[str, Any]) -> str:
    """The address with the world's rows in it."""
    run, agent, container = world["run"], world["agent"], world["container"]
    objects = {
        "agents/agent": agent.pk,
        "agents/run": run.pk,
        "agents/session": run.session.pk,
        "agents/container": container.pk,
        "agents/event": run.events.first().pk,
        "agents/audit": Audit.objects.earliest("id").pk,
        "agents/fleet": world["fleet"].pk,
        "agents/schedule": world["schedule"].pk,
        "agents/fire": world["schedule"].fires.get().pk,
        "agents/site": Site.get().pk,
        "auth/user": world["people"]["viewer"].pk,
        "auth/group": world["people"]["viewer"].groups.first().pk,
        "axes/accessattempt": 1,
    }
    for path, key in objects.items():
        if address.startswith(f"admin/{path}/"):
            address = address.replace("<path:object_id>", str(key)).replace("<id>", str(key))
            address = address.replace("<int:pk>", str(key))
    public = run.session.public_id if address.startswith("sessions/") else run.public_id
    filled_in = {
        "<slug:name>": agent.name,
        "<slug:page>": "runs",
        "<uuid:public_id>": str(public),
        "attachments/<int:number>/": "attachments/0/",
        "schedules/<int:number>/": f"schedules/{world['schedule'].pk}/",
        "<int:number>": str(container.pk),
        "<int:seq>/image/<int:place>": "1/image/0",
        "<path:content_type_id>": str(ContentType.objects.get_for_model(Run).pk),
        "<path:object_id>": str(run.pk),
        "<path:rest>": f"{ContentType.objects.get_for_model(Run).pk}/{run.pk}/",
        "^(?P<app_label>agents|auth|axes)/$": "agents/",
        "(?P<url>.*)$": "no/such/page/",
    }
    for part, value in filled_in.items():
        address = address.replace(part, value)
    return "/" + address


def answered(response: Any) -> str:
    """The status, with the way to the login as L."""
    if response.streaming and not response.is_async:
        b"".join(response.streaming_content)
    # As the end of an answer does, which would close the test's database as well.
    for close in getattr(response, "_resource_closers", []):
        close()
    location = response.headers.get("Location", "")
    return "L" if response.status_code == 302 and "/login/?next=" in location else str(response.status_code)


def snapshot() -> list[list[Any]]:
    """What nobody may change without a right."""
    return [
        list(Agent.objects.values()),
        list(Run.objects.values("pk", "state", "reason")),
        list(Session.objects.values()),
        list(Container.objects.values()),
        list(Schedule.objects.values()),
        list(User.objects.values("pk", "username", "password", "is_superuser", "is_staff")),
    ]


ROWS = sorted(rows().items())


@pytest.mark.django_db
def test_reading(world: dict[str, Any]) -> None:
    """GET, and HEAD, which is GET without its body."""
    before = snapshot()
    wrong = {
        (method, address, actor): (status, got)
        for address, (expected, _) in ROWS
        for actor, status in zip(ACTORS, expected.split(), strict=True)
        for method in ("GET", "HEAD")
        if status != "-" and (got := asked(world, actor, method, address)) != status
    }
    assert wrong == {}
    assert snapshot() == before


@pytest.mark.django_db
def test_writing(world: dict[str, Any]) -> None:
    """What is answered to a POST, and that a refused one changed nothing."""
    wrong = {}
    # The way out comes last: a client forgets its cookie there.
    for address, (_, expected) in sorted(ROWS, key=lambda row: row[0] == "logout/"):
        for actor, status in zip(ACTORS, expected.split() if expected else [], strict=bool(expected)):
            before = snapshot()
            with undone():
                got = asked(world, actor, "POST", address, {"prompt": "x"})
                changed = status not in ("303", "302") and snapshot() != before
            if got != status or changed:
                wrong[address, actor] = (status, got, changed)
    assert wrong == {}


@pytest.mark.django_db
def test_writing_in_the_admin_is_for_those_who_may(world: dict[str, Any]) -> None:
    """Whoever may not see a page may not post to it; who sees only may change nothing."""
    before, wrong = snapshot(), {}
    change = {"post": "yes", "name": "x", "time_limit": "1", "username": "x", "action": "delete_selected"}
    for address, _ in ROWS:
        for actor in ("anonymous", "viewer", "stranger") if address.startswith("admin/") else ():
            reading = asked(world, actor, "GET", address)
            writing = asked(world, actor, "POST", address, change)
            if writing not in (reading, "403", "404", "405", "302", "200") or snapshot() != before:
                wrong[address, actor] = (reading, writing)
    assert wrong == {}


@pytest.mark.django_db
def test_no_other_method_does_anything(world: dict[str, Any]) -> None:
    before = snapshot()
    wrong = {
        (method, address, actor): got
        for address, (_, posted) in ROWS
        for actor in ACTORS
        for method in OTHERS
        # The login's form takes PUT for POST, as Django has it; without fields it is refused.
        if posted is not None and address != "login/"
        if (got := asked(world, actor, method, address)) not in ("405", "L", "401", "403", "404")
        # OPTIONS says what there is.
        and not (method == "OPTIONS" and address == "logout/")
    }
    assert wrong == {}
    assert snapshot() == before


def asked(world: dict[str, Any], actor: str, method: str, address: str, data: Any = None) -> str:
    """What the site answers to this person."""
    client, path = world["clients"][actor], filled(address, world)
    if method == "POST":
        return answered(client.post(path, data))
    return answered(client.generic(method, path))


@contextmanager
def undone() -> Iterator[None]:
    """What happens inside did not happen."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@pytest.mark.django_db
def test_lists_show_what_the_user_may_see(world: dict[str, Any]) -> None:
    clients, theirs = world["clients"], Agent.objects.get(name="theirs")
    jobs.submit(theirs, "seen by others only")
    lists = ("", "runs/", "agents/", "sessions/", "containers/", "admin/agents/agent/", "admin/agents/run/")
    for path in lists:
        ours, others = (clients[name].get(f"/{path}").content.decode() for name in ("operator", "stranger"))
        assert not re.search("seen by others only|theirs", ours), path
        assert not re.search("seen by ours only|>probe<", others), path
    both = clients["administrator"].get("/runs/").content.decode()
    assert "seen by ours only" in both
    assert "seen by others only" in both


@pytest.mark.django_db
def test_without_a_role_nothing_is_seen(world: dict[str, Any], person: Callable[..., User]) -> None:
    client = Client()
    client.force_login(person("newcomer", "ours"))
    assert client.get(world["run"].get_absolute_url()).status_code == 404
    assert b"seen by ours only" not in client.get("/runs/").content


@pytest.mark.django_db
def test_an_agent_without_groups_is_for_everybody_with_a_role(
    make_agent: Callable[..., Agent], person: Callable[..., User]
) -> None:
    agent, viewer = make_agent(), person("viewer", "Viewer")
    assert list(Agent.objects.visible_to(viewer)) == [agent]
    person("two", "Viewer", "a", "b")
    agent.groups.set(User.objects.get(username="two").groups.exclude(name="Viewer"))
    assert list(Agent.objects.visible_to(viewer)) == []
    # Two groups of one person are no reason to see an agent twice.
    assert list(Agent.objects.visible_to(User.objects.get(username="two"))) == [agent]


@pytest.mark.django_db
def test_switched_off_accounts_see_nothing(world: dict[str, Any]) -> None:
    user = world["people"]["administrator"]
    user.is_active = False
    assert not Agent.objects.visible_to(user).exists()


@pytest.mark.django_db
def test_a_forbidden_row_answers_like_a_missing_one(world: dict[str, Any]) -> None:
    stranger, run = world["clients"]["stranger"], world["run"]
    answers = [stranger.get(f"/runs/{public_id}/") for public_id in (run.public_id, uuid4())]
    # What keeps two answers to the same question apart is their CSRF token.
    texts = {re.sub(r'(value|name)="[^"]*"', "", answer.content.decode()) for answer in answers}
    assert [answer.status_code for answer in answers] == [404, 404]
    assert len(texts) == 1


# The audit trail.


@pytest.mark.django_db
def test_deeds_and_refusals_are_noted_with_who_did_them(world: dict[str, Any]) -> None:
    clients, run, agent = world["clients"], world["run"], world["agent"]
    Audit.objects.all().delete()
    clients["operator"].post(agent.get_absolute_url(), {"prompt": "go"})
    started = Run.objects.latest("id")
    clients["operator"].post(started.get_absolute_url() + "cancel/")
    for _ in range(3):
        clients["stranger"].get(run.get_absolute_url())
    clients["viewer"].post(run.get_absolute_url() + "again/")
    noted = list(Audit.objects.order_by("id").values_list("who", "deed", "what"))
    name = f"run {started.short_id} of probe"
    assert noted == [
        ("operator", "started", name),
        ("operator", "cancelled", name),
        ("stranger", "refused", f"GET {run.get_absolute_url()}"),
        ("viewer", "refused", f"POST {run.get_absolute_url()}again/"),
    ]
    assert Audit.objects.get(deed="started").path == started.get_absolute_url()


@pytest.mark.django_db
def test_a_refusal_tells_whom_to_ask(world: dict[str, Any]) -> None:
    answer = world["clients"]["viewer"].post(world["run"].get_absolute_url() + "again/")
    assert "Only operators may do this." in answer.content.decode()


@pytest.mark.django_db
def test_changes_in_the_admin_are_noted(world: dict[str, Any]) -> None:
    administrator = world["clients"]["administrator"]
    group = {"name": "Night watch"}
    administrator.post("/admin/auth/group/add/", group)
    assert Audit.objects.filter(who="administrator", deed="added", what="group Night watch").exists()


@pytest.mark.django_db
def test_a_group_that_agents_are_limited_to_cannot_be_deleted(world: dict[str, Any]) -> None:
    administrator, stranger = world["clients"]["administrator"], world["people"]["stranger"]
    group = world["agent"].groups.get()
    path = f"/admin/auth/group/{group.pk}/delete/"
    shown = administrator.get(path).content.decode()
    assert f"The agent {world['agent']} is limited to it" in shown
    administrator.post(path, {"post": "yes"})
    chosen = {"action": "delete_selected", "_selected_action": [group.pk], "post": "yes"}
    administrator.post("/admin/auth/group/", chosen)
    assert world["agent"] not in Agent.objects.visible_to(stranger)
    world["agent"].groups.clear()
    administrator.post(path, {"post": "yes"})
    assert not Group.objects.filter(pk=group.pk).exists()


@pytest.mark.django_db
def test_an_administrator_cannot_become_a_superuser(world: dict[str, Any]) -> None:
    user, client = world["people"]["administrator"], world["clients"]["administrator"]
    root = User.objects.create_superuser("root", password="another-password-for-tests")
    form = {"username": "administrator", "is_superuser": "on", "is_active": "on", "is_staff": "on"}
    client.post(f"/admin/auth/user/{user.pk}/change/", form)
    user.refresh_from_db()
    assert not user.is_superuser
    for path in (f"{root.pk}/password/", f"{root.pk}/delete/"):
        assert client.get(f"/admin/auth/user/{path}").status_code == 403
    client.post(f"/admin/auth/user/{root.pk}/password/", {"password1": "x" * 12, "password2": "x" * 12})
    client.post(f"/admin/auth/user/{root.pk}/change/", {**form, "username": "root2"})
    root.refresh_from_db()
    assert root.username == "root"
    assert root.check_password("another-password-for-tests")


# The login.


@pytest.mark.django_db
def test_guessing_is_paused_for_that_account_alone(world: dict[str, Any], client: Client) -> None:
    for _ in range(10):
        answer = client.post("/login/", {"username": "viewer", "password": "guess"})
    assert answer.status_code == 429
    assert b"Too many wrong passwords" in answer.content
    right = {"username": "viewer", "password": "a-password-for-tests"}
    assert client.post("/login/", right).status_code == 429
    right["username"] = "operator"
    assert client.post("/login/", right).status_code == 302
    assert Audit.objects.filter(who="viewer", deed="refused", what="login").exists()
    assert Audit.objects.filter(who="operator", deed="logged_in").exists()


@pytest.mark.django_db
def test_a_password_in_the_field_of_the_name_is_not_kept(world: dict[str, Any], client: Client) -> None:
    client.post("/login/", {"username": "hunter2-secret", "password": ""})
    client.post("/login/", {"username": "hunter2-secret\x00", "password": "x"})
    assert not Audit.objects.filter(who__contains="hunter2").exists()
    assert Audit.objects.filter(who="an unknown name", deed="refused").exists()


@pytest.mark.django_db
def test_people_without_staff_status_are_told(person: Callable[..., User], client: Client) -> None:
    client.force_login(person("operator", "Operator"))
    answer = client.get("/admin/", follow=True)
    assert answer.status_code == 403
    assert b"staff status" in answer.content
    assert Event.objects.visible_to(User.objects.get(username="operator")).count() == 0


@pytest.mark.django_db
def test_what_commands_do_is_noted_with_the_terminal_s_user() -> None:
    call_command("agent_set", "typed", "runtime=echo", stdout=StringIO())
    call_command("agent_set", "typed", "model=sonnet", stdout=StringIO())
    call_command("agent_set", "typed", "model=sonnet", stdout=StringIO())
    call_command("trigger", "typed", "--prompt", "go", stdout=StringIO(), stderr=StringIO())
    noted = list(Audit.objects.order_by("id").values_list("who", "deed", "detail"))
    who = operator()
    assert noted == [
        (who, "added", "runtime, name"),
        (who, "changed", "model, name"),
        (who, "started", "go"),
    ]


@pytest.mark.django_db
def test_a_refusal_from_another_address_is_another_one(world: dict[str, Any], client: Client) -> None:
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        client.post("/login/", {"username": "viewer", "password": "guess"}, REMOTE_ADDR=address)
    noted = Audit.objects.filter(what="login").values_list("address", flat=True)
    assert set(noted) == {"192.0.2.1", "192.0.2.2"}
    assert len(noted) == 2
