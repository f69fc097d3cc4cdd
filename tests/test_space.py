"""On a disk with too little room nothing new starts, nothing typed is lost, and what waits goes on later."""

import os
import subprocess
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from agents import bells, doctor, execution, jobs, queueing, space
from agents.models import Agent, Run
from tests.conftest import end, execute, start, until

pytestmark = pytest.mark.django_db
MakeAgent = Callable[..., Agent]
MB = 1024**2


class SmallDisk:
    """A state directory on a disk of 24 MB, of which 8 MB are to be free."""

    def __init__(self, path: Path, settings: Any) -> None:
        self.path, self.settings, self.mounted = path, settings, False
        if os.getuid() == 0:
            mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "herdweb-test", str(path)]
            self.mounted = subprocess.run(mount, capture_output=True).returncode == 0
        settings.HERDWEB_STATE_DIR = path
        self.empty()

    def fill(self) -> None:
        """Until there is less than asked for; where nothing can be mounted, more is asked for."""
        if self.mounted:
            (self.path / "filling").write_bytes(b"x" * 18 * MB)
        else:
            self.settings.HERDWEB_FREE_SPACE = "900000t"

    def empty(self) -> None:
        (self.path / "filling").unlink(missing_ok=True)
        self.settings.HERDWEB_FREE_SPACE = "8m"

    def gone(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path, settings: Any) -> Iterator[SmallDisk]:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    small = SmallDisk(path, settings)
    yield small
    small.gone()


def test_a_form_refuses_with_what_is_free_and_keeps_what_was_typed(
    disk: SmallDisk, make_agent: MakeAgent, admin: User, client: Client
) -> None:
    agent = make_agent()
    client.force_login(admin)
    disk.fill()
    answer = client.post(agent.get_absolute_url(), {"prompt": "a long order", "time_limit": "7m"})
    page = answer.content.decode()
    assert answer.status_code == 422
    assert "free, and" in page
    assert "are asked for (HERDWEB_FREE_SPACE). Nothing new starts until there is room again." in page
    assert "a long order" in page
    assert 'value="7m"' in page
    assert not Run.objects.exists()
    if disk.mounted:
        assert "has 6 MB free, and 8 MB are asked for" in page
    disk.empty()
    assert client.post(agent.get_absolute_url(), {"prompt": "a long order"}).status_code == 303


def test_the_command_and_run_again_refuse_likewise(
    disk: SmallDisk, make_agent: MakeAgent, admin: User, client: Client
) -> None:
    run = execute(jobs.submit(make_agent(), "x"))
    disk.fill()
    with pytest.raises(CommandError, match="The disk of the state directory has"):
        call_command("trigger", "probe", "--prompt", "x", stdout=StringIO(), stderr=StringIO())
    client.force_login(admin)
    again = client.post(f"{run.get_absolute_url()}again/", follow=True)
    assert "The disk of the state directory has" in again.content.decode()
    assert Run.objects.count() == 1


def test_what_was_asked_for_before_waits_with_the_reason_and_starts_when_there_is_room(
    disk: SmallDisk, make_agent: MakeAgent
) -> None:
    run = jobs.submit(make_agent(), "x")
    disk.fill()
    assert execute(run).state == Run.State.WAITING
    assert run.reason.startswith("The disk of the state directory has ")
    assert run.reason.endswith("It starts when there is room again.")
    assert queueing.next_ones(5) == []
    disk.empty()
    assert queueing.next_ones(5) == [run]
    Run.objects.update(rung_at=None)
    bells.queue().empty()
    jobs.tick()
    assert [job.startswith(bells.job_id(run)) for job in bells.queue().get_job_ids()] == [True]
    assert execute(run).state == Run.State.SUCCEEDED


def test_a_live_run_is_neither_stopped_nor_kept_from_being_taken_over(
    disk: SmallDisk, make_agent: MakeAgent
) -> None:
    run = jobs.submit(make_agent(), "x")
    assert execution.claim(run, "a worker that dies")
    Run.objects.filter(pk=run.pk).update(lease_until=None)
    disk.fill()
    jobs.tick()
    assert execute(run).state == Run.State.SUCCEEDED


@pytest.mark.django_db(transaction=True)
def test_with_real_workers_and_ticker_it_starts_by_itself(
    disk: SmallDisk, make_agent: MakeAgent, workers: Callable[..., Any]
) -> None:
    if not disk.mounted:
        # What other processes ask for is in their environment.
        disk.settings.HERDWEB_STATE_DIR = Path(os.environ["HERDWEB_STATE_DIR"])
    else:
        disk.fill()
    state = {"HERDWEB_STATE_DIR": str(disk.settings.HERDWEB_STATE_DIR)}
    asked = state | {"HERDWEB_FREE_SPACE": "8m" if disk.mounted else "900000t"}
    pool, ticker = workers(1, **asked), start("manage.py", "ticker", **asked)
    try:
        run = jobs.submit(make_agent(), "x")
        waits = lambda: Run.objects.get(pk=run.pk).state == Run.State.WAITING  # noqa: E731
        until(waits, "It does not wait", 60)
        if disk.mounted:
            disk.empty()
        else:
            for process in (pool, ticker):
                end(process)
            workers(1, **state)
            ticker = start("manage.py", "ticker", **state)
        ended = lambda: Run.objects.get(pk=run.pk).state == Run.State.SUCCEEDED  # noqa: E731
        until(ended, "It did not start by itself", 90)
    finally:
        end(ticker)


@pytest.mark.parametrize(
    ("asked", "free", "status"),
    [("10%", 9, "fail"), ("10%", 11, "warn"), ("10%", 12, "ok"), ("0m", 0, "ok")],
)
def test_the_doctor_warns_before_nothing_starts_any_more(
    settings: Any, monkeypatch: pytest.MonkeyPatch, asked: str, free: int, status: str
) -> None:
    settings.HERDWEB_FREE_SPACE = asked
    monkeypatch.setattr(space, "disk", lambda: space.Disk(Path("/"), free * 2**30, space.wanted(100 * 2**30)))
    assert doctor.examine_disk().status == status
    assert bool(space.shortage()) == (status == "fail")
