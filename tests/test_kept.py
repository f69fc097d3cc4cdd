"""Kept containers on their pages and in the command; no engine is asked by either."""

import json
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import docker
import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from agents import jobs
from agents.models import Agent, Audit, Container, Run
from tests.test_containers import page, text
from tests.test_persistent import failing, go, keeper, ours, session_of, tidy

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["failing", "keeper", "tidy"]


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


@pytest.fixture
def container(make_agent: Callable[..., Agent]) -> Container:
    """As the engine is said to have one of a failed run."""
    now = timezone.now()
    return Container.objects.create(
        name="herdweb-kept", engine_id="a" * 64, agent=make_agent(), started_at=now, finished_at=now,
        exit_code=3, kept_until=now + timedelta(hours=1), disk_bytes=3 * 1024**2, disk_at=now,
    )  # fmt: skip


def listing(*arguments: str) -> Any:
    out = StringIO()
    call_command("containers", *arguments, stdout=out)
    return json.loads(out.getvalue()) if "--json" in arguments else out.getvalue()


def test_its_page_says_until_when_how_big_and_how_to_look_inside(
    browser: Client, container: Container
) -> None:
    html = page(browser, container)
    for said in (
        "Kept for inspection", "3 MB of files written into it", "docker export herdweb-kept | tar -tv",
        "docker start herdweb-kept && docker exec -it herdweb-kept /bin/sh", "Remove now",
    ):  # fmt: skip
        assert said in html
    listed = text(browser, "/containers/?state=kept")
    assert "herdweb-kept" in listed
    assert "3 MB" in listed
    Container.objects.update(kept_until=None)
    assert "Remove now" not in page(browser, container)
    assert "herdweb-kept" not in text(browser, "/containers/?state=kept")


def test_an_operator_keeps_it_longer_or_has_it_removed(browser: Client, container: Container) -> None:
    address = container.get_absolute_url()
    html = browser.post(f"{address}keep/", {"hours": "48"}, follow=True).content.decode()
    assert "kept for 48 hours from now" in html
    container.refresh_from_db()
    assert container.kept_until
    assert timedelta(hours=47) < container.kept_until - timezone.now() < timedelta(hours=49)
    html = browser.post(f"{address}remove/", follow=True).content.decode()
    assert "It is removed within 20 seconds" in html
    container.refresh_from_db()
    assert (container.unwanted, container.state) == (True, "ended")
    assert Audit.objects.filter(deed="changed", what="container herdweb-kept").count() == 2


@pytest.mark.parametrize("hours", ["0", "721", "x", ""])
def test_hours_that_cannot_be_are_refused_with_the_range(
    browser: Client, container: Container, hours: str
) -> None:
    html = browser.post(f"{container.get_absolute_url()}keep/", {"hours": hours}, follow=True).content
    assert b"Must be between 1 and 720." in html


def test_what_is_not_kept_can_be_neither_kept_longer_nor_removed(
    browser: Client, container: Container
) -> None:
    Container.objects.update(kept_until=None)
    address = container.get_absolute_url()
    assert b"It is not kept" in browser.post(f"{address}keep/", {"hours": "1"}, follow=True).content
    assert b"It is not kept" in browser.post(f"{address}remove/", follow=True).content


def test_the_command_lists_what_is_kept_and_what_it_keeps(container: Container) -> None:
    Container.objects.create(name="herdweb-gone", agent=container.agent, removed_at=timezone.now())
    assert [each["name"] for each in listing("--json")] == ["herdweb-gone", "herdweb-kept"]
    (only,) = listing("--kept", "--json")
    assert (only["name"], only["state"], only["disk_bytes"]) == ("herdweb-kept", "kept", 3 * 1024**2)
    assert "3 MB" in listing("--kept")
    assert [each["name"] for each in listing("--agent", "probe", "--kept", "--json")] == ["herdweb-kept"]


def test_the_command_removes_a_kept_one_and_no_other(failing: Agent, engine: docker.DockerClient) -> None:
    run = go(failing, "exit 3")
    assert run.container
    (removed,) = listing("--remove", run.container.name, "--json")
    assert (removed["state"], ours(engine)) == ("removed", [])
    for name in (run.container.name, "nonsense"):
        with pytest.raises(CommandError, match="There is no container"):
            listing("--remove", name)


def test_the_command_removes_none_with_a_live_run(keeper: Agent, engine: docker.DockerClient) -> None:
    first = go(keeper, "true")
    live = jobs.submit(keeper, "x", continues=session_of(first))
    Run.objects.filter(pk=live.pk).update(state="starting", lease_until=timezone.now() + timedelta(hours=1))
    assert first.container
    with pytest.raises(CommandError, match="a run is live in it"):
        listing("--remove", first.container.name)
    assert len(ours(engine)) == 1
