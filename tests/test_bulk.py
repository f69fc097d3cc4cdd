"""Many runs at once: what is shown before it goes, what goes, and what stays."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from agents import jobs, machine, removal
from agents.models import Agent, Audit, Container, Event, Run, Session
from tests.conftest import execute

pytestmark = pytest.mark.django_db
MakeAgent = Callable[..., Agent]


@pytest.fixture
def administrator(client: Client, person: Callable[..., User]) -> Client:
    client.force_login(person("boss", "Administrator"))
    return client


def ran(agent: Agent, prompt: str = "x", **options: Any) -> Run:
    return execute(jobs.submit(agent, prompt, **options))


def folder(run: Run) -> Any:
    return machine.state().run(str(run.public_id))


def home(session: Session | None) -> Any:
    assert session is not None
    return machine.state().path / session.home


def bulk(client: Client, action: str, *runs: Run, query: str = "", **more: str) -> Any:
    form = {"action": action, "run": [str(run.public_id) for run in runs], **more}
    return client.post(f"/runs/bulk/{query}", form)


def test_deleting_is_previewed_then_takes_rows_files_session_and_home(
    administrator: Client, make_agent: MakeAgent
) -> None:
    run, kept = ran(make_agent(), "goes"), ran(make_agent("other"), "stays")
    gone = home(run.session)
    preview = bulk(administrator, "delete", run)
    shown = " ".join(preview.content.decode().split())
    assert f"1 run with {run.event_count} events and {run.output_bytes} bytes of raw output" in shown
    assert "1 session with home directory and transcript" in shown
    assert Run.objects.count() == 2
    answer = bulk(administrator, "delete", run, confirmed="1")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/runs/")
    assert list(Run.objects.all()) == [kept]
    assert set(Event.objects.values_list("run", flat=True)) == {kept.pk}
    assert list(Session.objects.all()) == [kept.session]
    assert (folder(run).exists(), gone.exists()) == (False, False)
    assert (folder(kept).exists(), home(kept.session).exists()) == (True, True)
    notes = Audit.objects.filter(deed="deleted").values_list("who", "what", "agent", "address")
    assert set(notes) == {
        ("boss", f"run {run.short_id} of probe", run.agent_id, "127.0.0.1"),
        ("boss", "session goes", run.agent_id, "127.0.0.1"),
    }


def test_what_has_not_ended_stays_and_is_named(administrator: Client, make_agent: MakeAgent) -> None:
    agent = make_agent()
    done, waiting = ran(agent), jobs.submit(agent, "later")
    preview = bulk(administrator, "delete", done, waiting).content.decode()
    assert "Not ended yet" in preview
    assert waiting.short_id in preview
    bulk(administrator, "delete", done, waiting, confirmed="1")
    assert list(Run.objects.all()) == [waiting]


def test_a_session_stays_while_another_run_took_part_in_it(
    administrator: Client, make_agent: MakeAgent
) -> None:
    agent = make_agent(runtime="command", command=["cat"])
    first = ran(agent)
    Run.objects.filter(pk=ran(agent).pk).update(session=first.session)
    assert removal.of_runs(Run.objects.filter(pk=first.pk)).sessions == []
    bulk(administrator, "delete", first, confirmed="1")
    assert Session.objects.filter(pk=str(first.session_id)).exists()
    assert home(first.session).exists()


def test_a_container_s_record_goes_with_the_last_that_lived_in_it(
    administrator: Client, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    first, second = ran(agent), ran(agent)
    box = {"engine_id": "e", "image": "i", "image_digest": "d", "agent": agent}
    shared, own, live = (Container.objects.create(name=name, **box) for name in ("shared", "own", "live"))
    for row in (shared, own):
        row.removed()
    Run.objects.filter(pk__in=[first.pk, second.pk]).update(container=shared)
    bulk(administrator, "delete", first, confirmed="1")
    assert Container.objects.filter(pk=shared.pk).exists()
    bulk(administrator, "delete", second, confirmed="1")
    assert set(Container.objects.all()) == {own, live}


def test_a_session_is_deleted_with_its_runs_and_forks_of_it_stay(
    administrator: Client, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    run, fork = ran(agent, "parent"), ran(agent, "child")
    Run.objects.filter(pk=fork.pk).update(forks=run.session)
    session = run.session
    assert session is not None
    path = f"/sessions/{session.public_id}/delete/"
    assert "Delete for good" in administrator.post(path).content.decode()
    assert Session.objects.filter(pk=session.pk).exists()
    assert administrator.post(path, {"confirmed": "1"}).status_code == 303
    assert list((machine.state().path / "removed").iterdir()) == []
    assert list(Run.objects.all()) == [fork]
    fork.refresh_from_db()
    assert fork.forks is None
    assert not home(session).exists()


def test_a_session_in_use_is_not_deleted(administrator: Client, make_agent: MakeAgent) -> None:
    agent = make_agent()
    run = ran(agent)
    session = run.session
    assert session is not None
    Run.objects.filter(pk=jobs.submit(agent, "next").pk).update(continues=session)
    answer = administrator.post(f"/sessions/{session.public_id}/delete/", {"confirmed": "1"})
    assert (answer.status_code, "nothing is deleted" in answer.content.decode()) == (422, True)
    assert home(session).exists()
    assert Run.objects.count() == 2


@pytest.mark.parametrize("way", ["continues", "forks"])
def test_a_session_that_is_asked_for_meanwhile_stays(
    administrator: Client, make_agent: MakeAgent, way: str
) -> None:
    agent = make_agent()
    run = ran(agent)
    asked: dict[str, Any] = {way: run.session}
    plan = removal.of_session(run.session)  # type: ignore[arg-type]
    late = jobs.submit(agent, "late", **asked)
    left = removal.remove(plan, lambda _: None)
    assert [text for text in left if "has a run again and stays" in text]
    late.refresh_from_db()
    assert getattr(late, way) == run.session
    assert home(run.session).exists()


def test_links_of_an_agent_lead_nowhere(administrator: Client, make_agent: MakeAgent, tmp_path: Any) -> None:
    run = ran(make_agent())
    (tmp_path / "precious").write_text("kept")
    (home(run.session) / "trap").symlink_to(tmp_path)
    bulk(administrator, "delete", run, confirmed="1")
    assert (tmp_path / "precious").read_text() == "kept"
    assert not home(run.session).exists()


def test_files_that_cannot_be_deleted_keep_their_row_and_are_named(
    administrator: Client, make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ran(make_agent())

    def refuse(path: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(removal, "dispose", refuse)
    bulk(administrator, "delete", run, confirmed="1")
    assert Run.objects.filter(pk=run.pk).exists()
    assert "cannot be deleted: Permission denied" in administrator.get("/runs/").content.decode()
    assert not Audit.objects.filter(deed="deleted").exists()


def test_too_much_at_once_is_refused(
    administrator: Client, make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [ran(make_agent(name)) for name in ("one", "two")]
    monkeypatch.setattr(removal, "RUNS_AT_MOST", 1)
    answer = bulk(administrator, "delete", *runs, confirmed="1")
    assert (answer.status_code, "At most 1 runs" in answer.content.decode()) == (422, True)
    assert Run.objects.count() == 2


def test_cancelling_asks_first_and_leaves_ended_ones_alone(
    administrator: Client, make_agent: MakeAgent
) -> None:
    agent = make_agent()
    done, queued = ran(agent), jobs.submit(agent, "later")
    preview = bulk(administrator, "cancel", done, queued)
    assert "Cancel 1 run" in preview.content.decode()
    assert Run.objects.get(pk=queued.pk).state == "queued"
    bulk(administrator, "cancel", done, queued, confirmed="1")
    states = dict(Run.objects.values_list("pk", "state"))
    assert states == {done.pk: "succeeded", queued.pk: "cancelled"}
    assert Audit.objects.filter(who="boss", deed="cancelled").count() == 1


def test_all_that_the_list_shows(administrator: Client, make_agent: MakeAgent) -> None:
    one, two = make_agent("one"), make_agent("two")
    runs = [jobs.submit(one, "x"), jobs.submit(one, "y"), jobs.submit(two, "z")]
    answer = bulk(administrator, "cancel", query="?agent=one", all="1")
    assert "Cancel 2 runs" in answer.content.decode()
    assert str(runs[2].public_id) not in answer.content.decode()


def test_operators_cancel_but_do_not_delete_and_only_what_they_see(
    make_agent: MakeAgent, person: Callable[..., User]
) -> None:
    client, agent, hidden = Client(), make_agent(), make_agent("hidden")
    client.force_login(person("hand", "Operator"))
    hidden.groups.set(person("other", "secret").groups.all())
    mine, theirs = jobs.submit(agent, "x"), jobs.submit(hidden, "x")
    assert bulk(client, "delete", mine, confirmed="1").status_code == 403
    bulk(client, "cancel", mine, theirs, confirmed="1")
    assert dict(Run.objects.values_list("pk", "state")) == {mine.pk: "cancelled", theirs.pk: "queued"}


@pytest.mark.parametrize(
    "form",
    [{}, {"action": "explode"}, {"action": "cancel"}, {"action": "cancel", "run": "nonsense,,1"}],
    ids=str,
)
def test_nonsense_leads_back_with_a_reason(administrator: Client, form: dict[str, str]) -> None:
    answer = administrator.post("/runs/bulk/", form, follow=True)
    assert "Choose" in answer.content.decode()
