"""Continue, fork, fresh: over restarts, beside live runs, and when a session's files were spoilt."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from agents import execution, jobs, machine, sessions
from agents.forms import RunForm
from agents.models import Agent, Run, Session
from agents.runtimes import homes
from tests.conftest import ROOT, execute, until
from tests.messages_api import MessagesAPI
from tests.test_claude import KEY, run
from tests.test_claude import claude as claude
from tests.test_claude import messages_api as messages_api
from tests.test_faults import Workers, current, ended
from tests.test_stack import LEFT_BEHIND, Stack, free_port

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


def transcript_of(session: Session) -> Path:
    folder = Path(machine.state().path / session.home / ".claude/projects/-workspace")
    return folder / f"{session.public_id}.jsonl"


def session_of(done: Run) -> Session:
    assert done.session is not None, done.reason
    return done.session


@pytest.fixture
def stack(tmp_path: Path, messages_api: MessagesAPI) -> Iterator[Stack]:
    """Everything that `make run` starts, with credentials for its agents."""
    folder = tmp_path / "herdweb"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    stack = Stack(folder, free_port())
    stack.environment |= {"ANTHROPIC_BASE_URL": messages_api.url, "ANTHROPIC_API_KEY": KEY}
    stack.start()
    yield stack
    if stack.make and stack.make.poll() is None:
        stack.interrupt()


@pytest.mark.slow
def test_a_session_goes_on_after_everything_was_restarted(stack: Stack) -> None:
    stack.manage("agent_set", "claude", "runtime=claude_cli", "docker.enabled=true", "max_turns=5")
    first = ask(stack, "--prompt", "The word is heliotrope.")
    stack.interrupt()
    stack.start()
    second = ask(stack, "--prompt", "RECALL", "--continue", "last")
    assert "heliotrope" in second["result"]
    assert second["session"] == first["session"]
    stack.interrupt()
    stack.start()
    fork = ask(stack, "--prompt", "RECALL", "--fork", first["session"])
    assert "heliotrope" in fork["result"]
    assert fork["session"] != first["session"]


def ask(stack: Stack, *arguments: str) -> dict[str, str]:
    return dict(json.loads(stack.manage("trigger", "claude", "--wait", "--json", *arguments)))


def test_each_run_costs_what_it_cost_itself(claude: Agent) -> None:
    """The CLI says what the whole conversation has cost, also in a copy."""
    first = run(claude, "The word is heliotrope.")
    second = run(claude, "RECALL", continues=first.session)
    copy = run(claude, "RECALL", forks=first.session)
    again = run(claude, "RECALL", continues=copy.session)
    assert first.cost_usd
    assert [each.cost_usd for each in (second, copy, again)] == [pytest.approx(first.cost_usd)] * 3
    for each in (second, again):
        session = Session.objects.get(pk=session_of(each).pk)
        assert session.cost_usd == pytest.approx(2 * first.cost_usd)


def test_a_session_outlives_the_absence_of_the_engine(claude: Agent, workers: Workers) -> None:
    first = run(claude, "The word is heliotrope.")
    pool = workers(1, DOCKER_HOST="unix:///nonexistent/docker.sock")
    failed = ended(jobs.submit(claude, "RECALL", continues=first.session))
    assert (failed.state, "engine" in failed.reason) == ("failed", True)
    pool.terminate()
    pool.wait()
    workers(1)
    assert "heliotrope" in ended(jobs.submit(claude, "RECALL", continues=first.session)).result


def test_two_runs_of_one_session_go_one_after_the_other(claude: Agent, workers: Workers) -> None:
    Agent.objects.update(max_concurrent=3, allowed_tools=["Bash"])
    claude.refresh_from_db()
    session = session_of(run(claude, "The word is heliotrope."))
    workers(3)
    go = machine.state().workspace("claude") / "go"
    go.unlink(missing_ok=True)
    first = jobs.submit(claude, "RUN until [ -e /workspace/go ]; do sleep 0.1; done", continues=session)
    until(lambda: current(first).state == "running", "The first one did not start")
    second = jobs.submit(claude, "RECALL", continues=session)
    fork = jobs.submit(claude, "RECALL", forks=session)
    until(lambda: current(second).state == current(fork).state == "waiting", "They did not wait")
    assert current(second).reason == f"Its session is in use by run {first.short_id}."
    assert current(fork).reason == f"The session that it copies is in use by run {first.short_id}."
    assert f"Run {first.short_id} is live in it" in sessions.verdict(session, claude).waits
    go.touch()
    assert ended(first, 180).state == "succeeded"
    jobs.tick(timezone.now() + timedelta(minutes=1))
    # Whichever of the two was first, both know what was said before.
    for waited in (ended(second, 180), ended(fork, 180)):
        assert "heliotrope" in waited.result
        assert "until [ -e /workspace/go ]" in waited.result


def test_a_copy_has_the_long_results_that_its_transcript_refers_to(claude: Agent) -> None:
    Agent.objects.update(allowed_tools=["Bash"])
    claude.refresh_from_db()
    first = run(claude, "RUN seq 1 60000")
    fork = run(claude, "RECALL", forks=first.session)
    again = run(claude, "RECALL", continues=fork.session)
    assert "seq 1 60000" in again.result
    source, copy = transcript_of(session_of(first)), transcript_of(session_of(fork))
    results = [path.name for path in (source.with_suffix("") / "tool-results").iterdir()]
    assert results
    theirs, ours = source.parent / source.stem / "tool-results", copy.parent / source.stem / "tool-results"
    assert [path.name for path in ours.iterdir()] == results
    assert (ours / results[0]).read_bytes() == (theirs / results[0]).read_bytes()


def test_a_command_typed_in_a_terminal_goes_on_with_the_conversation(
    claude: Agent, messages_api: MessagesAPI
) -> None:
    first = run(claude, "The word is heliotrope.")
    typed = f"{sessions.by_hand(first)} -p RECALL"
    environment = {**os.environ, "ANTHROPIC_BASE_URL": messages_api.url, "ANTHROPIC_API_KEY": KEY}
    # It asks for a terminal, which `script` is.
    done = subprocess.run(
        ["script", "-qec", typed, "/dev/null"], env=environment, capture_output=True, timeout=120, check=False
    )
    assert b"The word is heliotrope." in done.stdout, done.stdout
    assert messages_api.requests[-1]["key"] == KEY


def test_the_command_for_a_terminal_names_every_credential(
    claude: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(claude, "Hello")
    monkeypatch.setattr(settings, "HERDWEB_PASS_ENV", ["ANTHROPIC_API_KEY", "OTHER_TOKEN"])
    words = shlex.split(sessions.by_hand(done))
    assert {"--env=ANTHROPIC_API_KEY", "--env=OTHER_TOKEN"} <= set(words)
    assert KEY not in " ".join(words)


def deleted(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def closed(path: Path) -> None:
    path.chmod(0)


def anothers(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(path.stem.encode(), b"11111111-2222-4333-8444-555555555555"))


def nonsense(path: Path) -> None:
    path.write_bytes(b"\x00\xff\n" * 1000 + b"[[" * 100_000 + b"\n{}\nnull\n")


def huge(path: Path) -> None:
    os.truncate(path, homes.LARGEST + 1)


def behind_a_link(path: Path) -> None:
    moved = path.parent.with_name("moved")
    path.parent.rename(moved)
    path.parent.symlink_to(moved)


def without_home(path: Path) -> None:
    shutil.rmtree(path.parents[3])


SPOILT = {
    deleted: "Its transcript is missing",
    emptied: "Its transcript is empty",
    directory: "Its transcript is no plain file",
    fifo: "Its transcript is no plain file",
    link: "Its transcript is a link",
    closed: "may not be read and written by the agent (mode 000)",
    anothers: "holds another conversation, 11111111-2222-4333-8444-555555555555",
    nonsense: "holds no conversation",
    huge: "is larger than 2 GB",
    behind_a_link: "lies behind a link",
    without_home: "is gone",
}


def test_a_spoilt_session_is_refused_with_its_reason_and_stays_readable(
    claude: Agent, browser: Client, tmp_path: Path
) -> None:
    first = run(claude, "The word is heliotrope.")
    session = session_of(first)
    transcript = transcript_of(session)
    home = transcript.parents[3]
    subprocess.run(["cp", "-a", home, tmp_path / "kept"], check=True)
    for spoil, reason in SPOILT.items():
        spoil(transcript)
        judged = sessions.verdict(session, claude)
        assert (judged.may_continue, judged.may_fork) == (False, False), spoil
        for mode in ("continue", "fork"):
            asked = {"prompt": "RECALL", "mode": mode, "session": str(session.public_id)}
            refused = browser.post(claude.get_absolute_url(), asked)
            assert (refused.status_code, reason in refused.content.decode()) == (422, True), spoil
        for chosen in ({"continues": session}, {"forks": session}):
            failed = run(claude, "RECALL", **chosen)
            assert (failed.state, reason in failed.reason) == ("failed", True), (spoil, failed.reason)
        assert reason in browser.get(session.get_absolute_url()).content.decode()
        assert "heliotrope" in browser.get(first.get_absolute_url()).content.decode()
        subprocess.run(["rm", "-rf", home], check=True)
        subprocess.run(["cp", "-a", tmp_path / "kept", home], check=True)
    assert "heliotrope" in run(claude, "RECALL", continues=session).result


@pytest.fixture
def cat(make_agent: MakeAgent) -> Agent:
    return make_agent("cat", runtime="command", command=["cat"])


def verdict(agent: Agent, session: Session, user: User | None = None) -> sessions.Verdict:
    return sessions.verdict(session, Agent.objects.get(pk=agent.pk), user)


def test_a_session_unused_for_too_long_is_only_forked(claude: Agent) -> None:
    session = session_of(run(claude, "The word is heliotrope."))
    Agent.objects.update(session_timeout=3600)
    Session.objects.update(last_used=timezone.now() - timedelta(minutes=59))
    session.refresh_from_db()
    assert verdict(claude, session).may_continue
    Session.objects.update(last_used=timezone.now() - timedelta(minutes=61))
    session.refresh_from_db()
    judged = verdict(claude, session)
    assert "The session expired on" in judged.continuing
    assert "unused for 1h" in judged.continuing
    assert judged.may_fork


def test_a_session_does_not_expire_while_a_run_waits_for_its_turn(cat: Agent) -> None:
    session = session_of(execute(jobs.submit(cat, "x")))
    Agent.objects.update(session_timeout=60)
    asked = jobs.submit(Agent.objects.get(), "y", continues=session)
    Session.objects.update(last_used=timezone.now() - timedelta(hours=1))
    Run.objects.filter(pk=asked.pk).update(created=timezone.now() - timedelta(minutes=59, seconds=30))
    assert execute(asked).state == "succeeded"


def test_the_verdict_names_who_may_not_and_what_is_off(cat: Agent, person: Callable[..., User]) -> None:
    session = session_of(execute(jobs.submit(cat, "x")))
    viewer = person("viewer", "Viewer")
    assert verdict(cat, session, viewer).continuing == "viewer may not run the agent cat."
    assert verdict(cat, session, person("operator", "Operator")).may_continue
    Agent.objects.update(enabled=False)
    assert verdict(cat, session).continuing == "The agent cat is switched off."


def test_somebody_who_lost_the_right_while_waiting_continues_nothing(
    cat: Agent, person: Callable[..., User]
) -> None:
    session = session_of(execute(jobs.submit(cat, "x")))
    operator = person("operator", "Operator")
    asked = jobs.submit(cat, "y", continues=session, by=operator)
    operator.groups.clear()
    failed = execute(asked)
    assert (failed.state, "may not run the agent" in failed.reason) == ("failed", True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"runtime": "echo", "command": []}, "made by the runtime command, the agent uses echo"),
        ({"runtime": "echo"}, "made by the runtime command"),
    ],
)
def test_a_session_of_another_runtime_is_refused(cat: Agent, change: dict[str, object], reason: str) -> None:
    session = session_of(execute(jobs.submit(cat, "x")))
    Agent.objects.update(**change)
    assert reason in verdict(cat, session).continuing


def test_a_session_of_another_agent_or_directory_is_refused(cat: Agent, make_agent: MakeAgent) -> None:
    session = session_of(execute(jobs.submit(cat, "x")))
    other = make_agent("other", runtime="command", command=["cat"])
    assert verdict(other, session).continuing == "The session belongs to another agent."
    Session.objects.update(working_directory="/elsewhere")
    session.refresh_from_db()
    assert "The session worked in /elsewhere, the agent would in " in verdict(cat, session).continuing


def test_a_copy_waits_for_a_run_that_is_only_about_to_begin(cat: Agent) -> None:
    Agent.objects.update(max_concurrent=5)
    session = session_of(execute(jobs.submit(cat, "x")))
    first, second = jobs.submit(cat, "a", continues=session), jobs.submit(cat, "b", continues=session)
    assert execution.claim(first, "somebody")
    assert not execution.claim(second, "else")
    second.refresh_from_db()
    assert second.reason == f"Its session is in use by run {first.short_id}."


def test_a_fork_that_died_before_its_copy_was_made_makes_it_again(
    claude: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(claude, "The word is heliotrope.")
    asked = jobs.submit(claude, "RECALL", forks=first.session)
    sessions.open_session(asked, asked.agent_config, machine.runtime(asked.agent_config))
    assert "heliotrope" in execute(asked).result


# What is said where a run is asked for.


def test_the_form_offers_sessions_with_what_keeps_them(cat: Agent, browser: Client) -> None:
    session = session_of(execute(jobs.submit(cat, "first words")))
    assert "yes, but not in a copy" in browser.get(cat.get_absolute_url()).content.decode()
    shutil.rmtree(machine.state().path / session.home)
    shown = browser.get(cat.get_absolute_url()).content.decode()
    assert f'<option value="{session.public_id}" disabled>first words' in shown
    assert "is gone" in shown


def test_a_session_without_a_choice_is_no_fresh_start(cat: Agent) -> None:
    session = session_of(execute(jobs.submit(cat, "x")))
    form = RunForm(cat, {"prompt": "y", "session": str(session.public_id)})
    assert "Choose whether to continue the session or to fork it." in form.errors["mode"]


def test_the_last_session_is_a_word(cat: Agent, make_agent: MakeAgent) -> None:
    session = session_of(execute(jobs.submit(cat, "x")))
    form = RunForm(cat, {"prompt": "y", "mode": "continue", "session": "last"})
    assert form.is_valid(), form.errors
    assert form.submission["continues"] == session
    none = RunForm(make_agent("new"), {"prompt": "y", "mode": "continue", "session": "last"})
    assert none.errors["session"] == ["Not found: this agent has no session yet."]


def test_running_again_goes_on_where_the_run_did(cat: Agent, browser: Client) -> None:
    first = execute(jobs.submit(cat, "x"))
    second = execute(jobs.submit(cat, "y", continues=first.session))
    assert "Run again in a new session" in words(browser, first)
    assert "Run again in the same session" in words(browser, second)
    browser.post(f"{second.get_absolute_url()}again/")
    third = Run.objects.latest("id")
    assert (third.prompt, third.continues) == ("y", first.session)


def words(browser: Client, shown: Run) -> str:
    return " ".join(browser.get(shown.get_absolute_url()).content.decode().split())


def test_running_again_what_cannot_go_on_says_so_and_starts_nothing(cat: Agent, browser: Client) -> None:
    first = execute(jobs.submit(cat, "x"))
    second = execute(jobs.submit(cat, "y", continues=first.session))
    shutil.rmtree(machine.state().path / session_of(first).home)
    answer = browser.post(f"{second.get_absolute_url()}again/", follow=True)
    assert "This session cannot be continued: Its home" in answer.content.decode()
    assert Run.objects.count() == 2


def test_running_again_takes_the_settings_of_the_run_or_of_the_agent(cat: Agent, browser: Client) -> None:
    browser.post(cat.get_absolute_url(), {"prompt": "x", "time_limit": "2m", "max_turns": "3"})
    first = Run.objects.get()
    shown = words(browser, first)
    assert "Run again in a new session, with max turns 3, time limit 2m" in shown
    assert "Run again in a new session, with the agent&#x27;s settings" in shown.replace("'", "&#x27;")
    browser.post(f"{first.get_absolute_url()}again/", {"settings": "same"})
    assert Run.objects.latest("id").agent_config.time_limit == 120
    browser.post(f"{first.get_absolute_url()}again/", {"settings": "agent"})
    assert Run.objects.latest("id").agent_config.time_limit == 3600


def test_a_run_is_edited_with_its_session_and_settings(cat: Agent, browser: Client) -> None:
    first = execute(jobs.submit(cat, "x"))
    id = str(session_of(first).public_id)
    typed = {"prompt": "y", "mode": "continue", "session": id, "time_limit": "2m"}
    browser.post(cat.get_absolute_url(), typed)
    second = Run.objects.latest("id")
    shown = browser.get(cat.get_absolute_url(), {"from": str(second.public_id)}).context["form"]
    assert {name: shown[name].value() for name in typed} == typed


def test_an_agent_shows_where_its_home_is(cat: Agent, browser: Client) -> None:
    assert "Agent home" not in browser.get(cat.get_absolute_url()).content.decode()
    Agent.objects.update(shared_home="rw")
    assert str(machine.state().shared("cat")) in browser.get(cat.get_absolute_url()).content.decode()


def test_what_may_only_be_read_is_refused_without_a_container(cat: Agent, browser: Client) -> None:
    Agent.objects.update(shared_home="ro")
    answer = browser.post(cat.get_absolute_url(), {"prompt": "x"})
    assert (answer.status_code, "needs a container" in answer.content.decode()) == (422, True)
