"""A session as one file: what is in it, what comes back of it, and what is refused."""

import gzip
import hashlib
import json
import os
import resource
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from agents import bundle, jobs, machine, removal
from agents.models import Agent, Archive, Audit, Event, Run, Session
from agents.models.agent import MB
from tests.conftest import execute
from tests.test_pages import download

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
Lines = list[dict[str, Any]]


@pytest.fixture
def agent(make_agent: MakeAgent) -> Agent:
    return make_agent(
        docker_env={"TOKEN": "value-of-a-variable"},
        mcp_servers={"wiki": {"command": "wiki", "env": {"KEY": "value-of-a-server"}}},
    )


@pytest.fixture
def session(agent: Agent) -> Session:
    """Two runs, the second of which was asked for before the first ended."""
    first = execute(jobs.submit(agent, "one\ntwo\nthree"))
    assert first.session
    Session.objects.update(title="A talk: über alles?")
    second = jobs.submit(agent, "four")
    Run.objects.filter(pk=second.pk).update(session=first.session, continues=first.session)
    execute(Run.objects.get(pk=second.pk))
    return Session.objects.select_related("agent").get()


@pytest.fixture
def path(session: Session, tmp_path: Path) -> Path:
    path = tmp_path / "it.herdweb.gz"
    call_command("session_export", str(session.public_id)[:8], "-o", str(path), stdout=StringIO())
    return path


def lines_of(path: Path) -> Lines:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def sealed(lines: Lines) -> bytes:
    """The lines as a file that is whole."""
    raw = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    last = {"line": "end", "lines": len(lines), "sha256": hashlib.sha256(raw).hexdigest()}
    return gzip.compress(raw + json.dumps(last).encode() + b"\n")


def everything() -> dict[str, Any]:
    """All rows but their keys, and all files of runs."""
    dropped = {"id", "agent_id", "session_id", "continues_id", "run_id", "requested_by_id", "rung_at",
               "lease_owner", "config", "workspace", "changes", "host", "credential"}  # fmt: skip
    tables: list[Any] = [model.objects.order_by("id") for model in (Session, Run, Event)]
    rows = [
        [{name: value for name, value in row.items() if name not in dropped} for row in table.values()]
        for table in tables
    ]
    runs = machine.state().path / "runs"
    ours = {str(run.public_id) for run in Run.objects.all()}
    files = {
        str(file.relative_to(runs)): file.read_bytes()
        for file in runs.glob("*/*")
        if file.is_file() and file.parent.name in ours
    }
    return {"rows": rows, "files": files}


def remove(session: Session) -> None:
    assert removal.remove(removal.of_session(session), lambda _: None) == []


def take_in(path: Path, *more: str, agent: str = "probe") -> str:
    out = StringIO()
    call_command("session_import", agent, str(path), *more, stdout=out)
    return out.getvalue()


def refusal(path: Path, *more: str) -> str:
    """Why it was refused, and nothing of it is there."""
    before = (Session.objects.count(), Run.objects.count(), Event.objects.count(), tree())
    with pytest.raises(CommandError) as caught:
        take_in(path, *more)
    assert (Session.objects.count(), Run.objects.count(), Event.objects.count(), tree()) == before
    return str(caught.value).removeprefix("Nothing was imported. ")


def tree() -> set[str]:
    state = machine.state().path
    return {
        str(path.relative_to(state))
        for name in ("docker-sessions", "runs", "archive", "imports")
        for path in (state / name).rglob("*")
        if path.is_file() or path.parent.name in ("imports", "runs")
    }


def test_what_comes_back_is_what_was_there(session: Session, path: Path) -> None:
    before = everything()
    assert len(before["files"]) >= 2
    remove(session)
    take_in(path)
    assert everything() == before
    first, second = Run.objects.order_by("created")
    assert (first.continues, second.continues) == (None, Session.objects.get())
    note = Audit.objects.filter(deed="added").latest("pk")
    assert (note.what, note.detail) == (f"session {session}", "Imported from it.herdweb.gz.")


def test_its_pages_answer_after_the_import(client: Client, admin: User, session: Session, path: Path) -> None:
    remove(session)
    take_in(path)
    client.force_login(admin)
    pages = [session.get_absolute_url(), *(run.get_absolute_url() for run in Run.objects.all())]
    assert [client.get(page).status_code for page in pages] == [200, 200, 200]


def test_no_value_of_a_variable_or_a_server_is_in_it(path: Path) -> None:
    raw = gzip.decompress(path.read_bytes())
    assert b"value-of" not in raw
    config = next(line for line in lines_of(path) if line["line"] == "run")["config"]
    assert (config["docker"]["env"], config["mcp_servers"]) == ({"TOKEN": ""}, {"wiki": {}})


def test_the_file_is_named_after_the_session_and_never_written_over(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = StringIO()
    call_command("session_export", str(session.public_id), stdout=out)
    name = f"a-talk-uber-alles-{str(session.public_id)[:8]}.herdweb.gz"
    assert out.getvalue() == f"{name}\n"
    assert oct((tmp_path / name).stat().st_mode & 0o777) == "0o600"
    with pytest.raises(CommandError, match="File exists"):
        call_command("session_export", str(session.public_id))


def test_the_page_offers_the_same_file(session: Session, path: Path, admin: User) -> None:
    headers, body = download(admin, f"{session.get_absolute_url()}download/")
    assert headers["Content-Disposition"].endswith(f'-{str(session.public_id)[:8]}.herdweb.gz"')
    assert headers["Content-Type"] == "application/gzip"
    offered = [json.loads(line) for line in gzip.decompress(body).splitlines()]
    assert offered[1:-1] == lines_of(path)[1:-1]


def test_a_session_with_a_live_run_is_not_exported(
    session: Session, admin: User, client: Client, tmp_path: Path
) -> None:
    run = session.runs.latest("pk")
    Run.objects.filter(pk=run.pk).update(state="running")
    words = f"Run {run.short_id} of the session has not ended."
    with pytest.raises(CommandError, match=words):
        call_command("session_export", str(session.public_id), "-o", str(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []
    client.force_login(admin)
    answer = client.get(f"{session.get_absolute_url()}download/", follow=True)
    assert words in answer.content.decode()


# What is refused


def test_what_is_there_already_is_never_written_over(session: Session, path: Path) -> None:
    assert refusal(path) == f"It is already there: session {session.public_id} of probe."
    Session.objects.update(public_id="00000000-0000-4000-8000-000000000000")
    assert "It is already there: run " in refusal(path)
    Event.objects.all().delete()
    Run.objects.all().delete()
    assert refusal(path).startswith("It is already there: /")


def test_every_byte_that_is_cut_is_missed(session: Session, path: Path) -> None:
    whole = path.read_bytes()
    remove(session)
    for size in range(0, len(whole), max(len(whole) // 40, 1)):
        path.write_bytes(whole[:size])
        assert refusal(path).startswith(("It is cut", "It is not a")), size
    path.write_bytes(whole)
    take_in(path)


def test_every_byte_that_is_changed_is_noticed(session: Session, path: Path) -> None:
    raw = gzip.decompress(path.read_bytes())
    remove(session)
    for place in range(0, len(raw), max(len(raw) // 60, 1)):
        path.write_bytes(gzip.compress(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]))
        assert refusal(path), place
    packed = gzip.compress(raw)
    for place in range(10, len(packed), max(len(packed) // 40, 1)):
        path.write_bytes(packed[:place] + bytes([packed[place] ^ 1]) + packed[place + 1 :])
        assert refusal(path), place


def first(lines: Lines, kind: str) -> dict[str, Any]:
    return next(line for line in lines if line["line"] == kind)


def change(kind: str, **values: Any) -> Callable[[Lines], Lines]:
    def changed(lines: Lines) -> Lines:
        first(lines, kind).update(values)
        return lines

    return changed


def without(kind: str) -> Callable[[Lines], Lines]:
    return lambda lines: [line for line in lines if line is not first(lines, kind)]


def doubled(kind: str) -> Callable[[Lines], Lines]:
    return lambda lines: [*lines, first(lines, kind)]


def again(*kinds: str) -> Callable[[Lines], Lines]:
    return lambda lines: [*lines, *(first(lines, kind) for kind in kinds)]


def another(name: str) -> Callable[[Lines], Lines]:
    """A transcript in another place."""
    data = [{"line": "data", "base64": "eA=="}]
    end = {"line": "file_end", "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    return lambda lines: [*lines, {"line": "file", "kind": "transcript", "path": name}, *data, end]


DEEP = json.loads("[" * 500 + "]" * 500)
FORGED: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "version": (change("header", version=2), "It has version 2 of its format; this herdweb reads 1."),
    "format": (change("header", format="tar"), "It is not a session's file of herdweb."),
    "headless": (without("header"), "It is not a session's file of herdweb."),
    "no session": (without("session"), "It does not begin with a session."),
    "runtime": (change("session", runtime="claude_cli"), "made by the runtime claude_cli; probe uses echo"),
    "unknown key": (change("session", home="../../etc"), "Line 2 cannot be understood: home: Extra inputs"),
    "id": (change("session", id="../x"), "id: Input should be a valid UUID"),
    "live": (change("run", state="running"), "state: Value error, must be one of succeeded"),
    "trigger": (change("run", trigger="magic"), "trigger: Value error, must be one of manual"),
    "config": (change("run", config={"name": "x"}), "config.runtime: Field required"),
    "docker": (change("run", config={"name": "x", "runtime": "echo", "docker": 7}), "config.docker"),
    "calendar": (change("run", created="0001-01-01T00:00:00+00:00"), "must be between 1970 and 3000"),
    "no zone": (change("run", created="2026-01-01T00:00:00"), "should have timezone info"),
    "infinite": (change("session", cost_usd=float("inf")), "should be a finite number"),
    "huge": (change("run", exit_code=10**30), "exit_code"),
    "event lost": (without("event"), "Event 2 stands where number 1 should."),
    "event twice": (doubled("event"), "stands where number"),
    "run twice": (doubled("run"), "is in it twice"),
    "session twice": (doubled("session"), "A line of the kind session stands where none may."),
    "data": (doubled("data"), "of the kind data stands where none may"),
    "base64": (change("data", base64="no!"), "A file in it cannot be decoded."),
    "other data": (change("data", base64="eA=="), "A file in it was changed: its checksum differs."),
    "file end": (without("file_end"), "A file in it was changed"),
    "file open": (lambda lines: lines[: lines.index(first(lines, "file_end"))], "A file in it was changed"),
    "file twice": (again(*("file", "data", "file_end") * 2), "is in it twice"),
    "settings": (another(".claude/settings.json"), "'.claude/settings.json' is not where the transcript"),
    "escape": (another("../../../../etc/cron.d/x"), "is not where the transcript of this session belongs"),
    "absolute": (another("/etc/passwd"), "is not where the transcript"),
    "payload": (change("event", payload=DEEP), "payload"),
    "half a character": (change("event", text="\ud800"), "unable to parse raw data as a unicode string"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORGED)
def test_what_is_forged_is_refused_in_words(kind: str, session: Session, path: Path) -> None:
    forge, words = FORGED[kind]
    remove(session)
    path.write_bytes(sealed(forge(lines_of(path)[:-1])))
    assert words in refusal(path)


def test_what_follows_the_last_line_is_refused(session: Session, path: Path) -> None:
    whole = path.read_bytes()
    remove(session)
    path.write_bytes(whole + gzip.compress(b'{"line":"run"}\n'))
    assert refusal(path) == "Something follows its last line."
    path.write_bytes(whole + b"rubbish")
    assert refusal(path).startswith("Its packed data are damaged")


def test_a_bomb_costs_neither_memory_nor_disk(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(bytes(MB))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(path) == "Line 1 has more than 16 MB."
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_a_file_that_unpacks_to_too_much_is_refused(session: Session, path: Path) -> None:
    remove(session)
    assert refusal(path, "--at-most", "1k") == "It unpacks to more than 1 KB."
    with pytest.raises(CommandError, match="--at-most: 'much' is not a size"):
        take_in(path, "--at-most", "much")
    take_in(path)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "text", "empty"])
def test_what_is_no_such_file_is_refused(kind: str, agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "it"
    make: dict[str, Callable[[], Any]] = {
        "missing": lambda: None,
        "folder": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "text": lambda: path.write_text("hello\n"),
        "empty": path.touch,
    }
    make[kind]()
    words = {"text": "It is not a gzip file.", "empty": "It is cut", "folder": "has no transcripts"}
    assert words.get(kind, f"{path} is no file.") in refusal(path)


def test_a_failure_in_the_end_leaves_nothing_behind(
    session: Session, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove(session)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Audit, "note", full)
    assert refusal(path) == "No space left on device."
    assert not Archive.objects.exists()
    monkeypatch.undo()
    take_in(path)


@pytest.mark.slow
def test_a_long_session_is_carried_with_little_memory(make_agent: MakeAgent, tmp_path: Path) -> None:
    agent = make_agent(
        "long", runtime="command", command=["sh", "-c", "yes 'a line of output' | head -n 60000"]
    )
    run = execute(jobs.submit(agent, "x"))
    assert run.session
    assert run.event_count > 60000
    path = tmp_path / "long.herdweb.gz"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with path.open("wb") as file:
        for piece in bundle.packed(run.session):
            file.write(piece)
    remove(run.session)
    bundle.take_in(agent, path, "somebody")
    assert Event.objects.filter(run__public_id=run.public_id).count() == run.event_count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 * 1024
