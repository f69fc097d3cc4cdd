"""Files that runs are given: what is accepted, where it is kept, and where the agent finds it."""

import os
from collections.abc import Callable
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client

from agents import attachments, jobs, machine, removal
from agents.attachments import Attachment
from agents.models import Agent, Audit, Run
from tests.conftest import execute
from tests.test_commands import as_json, check_schema
from tests.test_pages import download

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
# Prints all that it finds attached, and its prompt after it.
READER = ["sh", "-c", "cat attachments/*/*; cat"]


@pytest.fixture
def browser(client: Client, admin: User) -> Client:
    client.force_login(admin)
    return client


def given(name: str = "notes.txt", content: bytes = b"from a person\n") -> Attachment:
    return Attachment(name, len(content), lambda: [content])


def upload(browser: Client, agent: Agent, *files: tuple[str, bytes], **fields: str) -> Any:
    uploads = [SimpleUploadedFile(name, content) for name, content in files]
    return browser.post(agent.get_absolute_url(), {"prompt": "Read.", "attachments": uploads, **fields})


def folder(run: Run) -> Path:
    return machine.state().workspace(run.agent.name) / "attachments" / run.short_id


def test_attached_files_are_found_by_the_agent_and_named_in_what_it_is_given(
    browser: Client, make_agent: MakeAgent
) -> None:
    agent = make_agent("reader", runtime="command", command=READER)
    files = (("notes.txt", b"from a person\n"), ("two words.bin", b"\0\xff\n"), ("empty", b""))
    assert upload(browser, agent, *files).status_code == 303
    run = execute(Run.objects.get())
    assert run.attachments == [
        {"name": name, "size": len(content), "sha256": sha256(content).hexdigest()} for name, content in files
    ]
    printed = machine.state().output(str(run.public_id)).read_bytes()
    lines = "\n".join(f"- {folder(run)}/{name}" for name, _ in files)
    assert printed.startswith(b"from a person\n\0\xff\n")
    assert printed.decode("utf-8", "replace").endswith(f"Read.\n\nAttached files:\n{lines}\n")
    # The prompt stays as it was typed.
    assert run.prompt == "Read."
    page = browser.get(run.get_absolute_url()).content.decode()
    assert "notes.txt</a>" in page
    assert "Attached: notes.txt (14 bytes), two words.bin (3 bytes), empty (0 bytes)." in page


def test_attachments_are_downloaded_from_the_run_and_go_with_it(make_agent: MakeAgent, admin: User) -> None:
    run = execute(jobs.submit(make_agent(), "x", attached=[given("ä.html", b"<b>")]))
    address = f"{run.get_absolute_url()}attachments/0/"
    headers, body = download(admin, address)
    assert body == b"<b>"
    assert headers["Content-Disposition"].startswith("attachment; ")
    assert headers["Content-Type"] == "application/octet-stream"
    kept = machine.state().run(str(run.public_id))
    assert (kept / "attachments" / "ä.html").read_bytes() == b"<b>"
    removal.remove(removal.of_runs(Run.objects.all()), lambda _: None)
    assert not kept.exists()


def test_an_attachment_that_is_gone_is_not_found(browser: Client, make_agent: MakeAgent) -> None:
    run = jobs.submit(make_agent(), "x", attached=[given()])
    for number in (0, 1, 10**6):
        (machine.state().run(str(run.public_id)) / "attachments" / "notes.txt").unlink(missing_ok=True)
        assert browser.get(f"{run.get_absolute_url()}attachments/{number}/").status_code == 404
    assert execute(run).reason.startswith("The attachment notes.txt cannot be placed: notes.txt cannot be")


def test_a_run_is_asked_for_again_with_its_attachments(browser: Client, make_agent: MakeAgent) -> None:
    first = execute(jobs.submit(make_agent(), "x", attached=[given()]))
    browser.post(f"{first.get_absolute_url()}again/")
    second = execute(Run.objects.latest("id"))
    assert second.attachments == first.attachments
    assert (folder(second) / "notes.txt").read_bytes() == b"from a person\n"
    (machine.state().run(str(first.public_id)) / "attachments" / "notes.txt").unlink()
    answer = browser.post(f"{first.get_absolute_url()}again/", follow=True)
    assert "Nothing was started: notes.txt cannot be reached" in answer.content.decode()
    assert Run.objects.count() == 2


def test_uploads_are_noted_with_who_did_them(browser: Client, make_agent: MakeAgent) -> None:
    upload(browser, make_agent(), ("notes.txt", b"x"))
    noted = Audit.objects.get(deed="added")
    assert (noted.who, noted.detail) == ("admin", "notes.txt (1 byte)")
    assert noted.what == f"attachments of run {Run.objects.get().short_id} of probe"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "no name of a file"),
        ("..", "no name of a file"),
        ("..x", "no name of a file"),
        (".", "no name of a file"),
        ("a/b", "no name of a file"),
        ("a\0b", "without control characters"),
        ("a\nb", "without control characters"),
        ("a\x1b[31m", "without control characters"),
        ("\udcff", "only UTF-8"),
        ("ä" * 101, "a name may have 200 bytes"),
    ],
)
def test_names_that_are_none_are_refused_with_words(name: str, why: str) -> None:
    assert why in attachments.name_complaint(name)


@pytest.mark.parametrize("name", [".bashrc", "-rf", "$(id)", "a b", "ä" * 100, "x", "a\\b"])
def test_odd_names_are_names(name: str) -> None:
    assert attachments.name_complaint(name) == ""


def test_what_cannot_be_attached_starts_nothing_and_says_why(
    browser: Client, make_agent: MakeAgent, settings: Any
) -> None:
    settings.HERDWEB_UPLOAD_LIMIT, settings.HERDWEB_UPLOAD_TOTAL = 1024, 2048
    agent = make_agent()
    refusals = {
        "has 1.001 KB; the limit of a file is 1 KB": [("a", b"x" * 1025)],
        "All files together have 2.93 KB; the limit is 2 KB": [(name, b"x" * 1000) for name in "abc"],
        "is attached twice": [("a", b"1"), ("a", b"2")],
        "At most 20 files can be attached; these are 21": [(str(number), b"") for number in range(21)],
    }
    for why, files in refusals.items():
        answer = upload(browser, agent, *files)
        assert answer.status_code == 422, why
        assert why in answer.content.decode()
        assert "Choose the files again" in answer.content.decode()
    assert not Run.objects.exists()
    assert not list(machine.state().path.glob("runs/*/attachments/a"))


def test_a_read_only_workspace_takes_nothing_and_says_so(
    browser: Client, make_agent: MakeAgent, tiny_image: str
) -> None:
    agent = make_agent("ro", docker_enabled=True, docker_image=tiny_image, docker_workspace_mode="ro")
    assert "Nothing can be attached: the agent" in browser.get(agent.get_absolute_url()).content.decode()
    answer = upload(browser, agent, ("a", b"x"))
    assert (answer.status_code, b"workspace is read-only" in answer.content) == (422, True)
    assert upload(browser, agent).status_code == 303


def test_a_file_that_cannot_be_stored_starts_nothing(
    browser: Client, make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent()

    def full(_: SimpleUploadedFile) -> Any:
        raise OSError(28, "No space left on device")

    before = set(machine.state().path.glob("runs/*"))
    monkeypatch.setattr("django.core.files.uploadedfile.InMemoryUploadedFile.chunks", full)
    answer = upload(browser, agent, ("a", b"x"))
    assert answer.status_code == 422
    assert "a could not be stored: No space left on device." in answer.content.decode()
    assert not Run.objects.exists()
    assert set(machine.state().path.glob("runs/*")) == before


# A workspace that its agent has prepared.


def hostile(make_agent: MakeAgent, prepare: Callable[[Path, Run], object]) -> Run:
    agent = make_agent("hostile")
    workspace = machine.state().workspace("hostile")
    workspace.mkdir(parents=True, exist_ok=True)
    run = jobs.submit(agent, "x", attached=[given()])
    prepare(workspace, run)
    return execute(run)


def test_nothing_is_placed_where_a_link_leads(make_agent: MakeAgent, tmp_path: Path) -> None:
    run = hostile(make_agent, lambda workspace, _: (workspace / "attachments").symlink_to(tmp_path))
    assert run.state == "failed"
    assert run.reason.startswith("The attachment notes.txt cannot be placed: attachments is a link")
    assert list(tmp_path.iterdir()) == []
    (machine.state().workspace("hostile") / "attachments").unlink()


def test_nothing_is_placed_through_a_link_further_down(make_agent: MakeAgent, tmp_path: Path) -> None:
    def prepare(workspace: Path, run: Run) -> None:
        (workspace / "attachments").mkdir()
        (workspace / "attachments" / run.short_id).symlink_to(tmp_path)

    run = hostile(make_agent, prepare)
    assert (run.state, list(tmp_path.iterdir())) == ("failed", [])


@pytest.mark.parametrize("kind", ["file", "link", "pipe", "directory", "draft"])
def test_nothing_is_overwritten_or_waited_for(make_agent: MakeAgent, tmp_path: Path, kind: str) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")

    def prepare(workspace: Path, run: Run) -> None:
        place = workspace / "attachments" / run.short_id / "notes.txt"
        place.parent.mkdir(parents=True)
        if kind == "file":
            place.write_bytes(b"theirs")
        elif kind == "link":
            place.symlink_to(tmp_path / "theirs")
        elif kind == "pipe":
            os.mkfifo(place)
        elif kind == "directory":
            place.mkdir()
        else:
            place.with_name(".notes.txt.herdweb").symlink_to(tmp_path / "theirs")

    run = hostile(make_agent, prepare)
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    if kind == "draft":
        assert run.state == "succeeded"
        assert (folder(run) / "notes.txt").read_bytes() == b"from a person\n"
    else:
        assert "Something else named notes.txt is there already." in run.reason
        assert [path.name for path in folder(run).iterdir()] == ["notes.txt"]


def test_an_attempt_that_was_cut_short_is_no_obstacle(make_agent: MakeAgent) -> None:
    def prepare(_: Path, run: Run) -> None:
        folder(run).mkdir(parents=True)
        (folder(run) / "notes.txt").write_bytes(b"from a person\n")
        (folder(run) / ".notes.txt.herdweb").write_bytes(b"from a p")

    run = hostile(make_agent, prepare)
    assert run.state == "succeeded"
    assert [path.name for path in folder(run).iterdir()] == ["notes.txt"]


def test_a_container_finds_them_under_its_own_path(make_agent: MakeAgent, tiny_image: str) -> None:
    agent = make_agent(
        "inside", runtime="command", command=READER, docker_enabled=True, docker_image=tiny_image,
        docker_network="none",
    )  # fmt: skip
    run = execute(jobs.submit(agent, "Read.", attached=[given()]))
    assert run.state == "succeeded", run.reason
    printed = machine.state().output(str(run.public_id)).read_text()
    path = f"/workspace/attachments/{run.short_id}/notes.txt"
    assert printed == f"from a person\nRead.\n\nAttached files:\n- {path}\n"


# Commands, and what is too large to be a form.


def test_files_are_attached_by_the_command(make_agent: MakeAgent, tmp_path: Path) -> None:
    make_agent()
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"22")
    files = ("--attach", str(tmp_path / "one"), "--attach", str(tmp_path / "two"))
    said = as_json("trigger", "probe", "--prompt", "x", *files)
    check_schema(said)
    assert [(each["name"], each["size"]) for each in said["attachments"]] == [("one", 1), ("two", 2)]
    run = execute(Run.objects.get())
    assert (folder(run) / "two").read_bytes() == b"22"


def test_the_command_refuses_what_is_no_file(make_agent: MakeAgent, tmp_path: Path) -> None:
    make_agent()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "..odd").write_bytes(b"")
    refusals = {
        "pipe": "is no regular file", "none": "cannot be read: No such file", "..odd": "no name of a file",
    }  # fmt: skip
    for name, why in refusals.items():
        with pytest.raises(CommandError, match=why) as caught:
            call_command("trigger", "probe", "--prompt", "x", "--attach", str(tmp_path / name))
        assert caught.value.returncode == 2
    assert not Run.objects.exists()


@pytest.mark.parametrize("announced", [True, False])
def test_a_request_that_is_too_large_for_any_form_is_ended_early(web: str, announced: bool) -> None:
    connection = HTTPConnection(urlsplit(web).netloc, timeout=60)
    piece = b"x" * 1024**2
    if announced:
        connection.putrequest("POST", "/login/")
        connection.putheader("Content-Length", str(60 * len(piece)))
        connection.endheaders()
    else:
        connection.putrequest("POST", "/login/")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for _ in range(55):
            connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
    answer = connection.getresponse()
    assert (answer.status, b"the limit is 54 MB" in answer.read()) == (413, True)
    connection.close()
