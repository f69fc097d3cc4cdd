"""The files of a workspace that was made to lead elsewhere, to hang, or to fill the memory."""

import os
import re
import socket
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.test import Client

from agents import files, jobs, machine
from agents.models import Agent, Run, Session
from agents.runtimes import RunError
from agents.runtimes.files import PER_PAGE, Listing, Tree, spelt, way
from tests.attacks import ATTACKS
from tests.conftest import execute
from tests.test_pages import Markup, download

MakeAgent = Callable[..., Agent]
SECRET = b"a secret of the host"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
# Neither UTF-8, nor in one line, nor without an address's own characters.
NAMES = (b"two\nlines", b"\xff\xfe", "naïve 文".encode(), b"a&b=c?d#e%2F+f", b"-rf", b"$(id)",
         b"\x1b[31m", b"a\\nb", "\u202etxt.exe".encode(), b"<img src=x onerror=alert(1)>",
         b" ", b"\"'", b"...")  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with something beside it that nobody may see."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    (tmp_path / "root").mkdir()
    return (tmp_path / "root").resolve()


def names(listing: Listing) -> list[bytes]:
    return [entry.name for entry in listing.entries]


def refused(call: Callable[[], Any], match: str) -> None:
    with pytest.raises(RunError, match=match):
        call()


# Entering.


@pytest.mark.parametrize(
    "path", [b"..", b"a/..", b"./x", b"a/../../secret", b"x\0y", b"x" * 256, b"a/" * 251]
)
def test_a_path_leads_nowhere_but_down(path: bytes) -> None:
    refused(lambda: way(path), "no path below the workspace")


def test_absolute_and_doubled_slashes_begin_at_the_workspace(root: Path) -> None:
    (root / "etc").mkdir()
    assert way(b"//etc///") == (b"etc",)
    assert Tree(root).listing(way(b"/etc")).entries == []


def test_links_are_named_and_followed_nowhere(root: Path) -> None:
    (root / "file").symlink_to("../secret")
    (root / "folder").symlink_to("../outside")
    (root / "absolute").symlink_to("/etc")
    (root / "loop").symlink_to("loop")
    tree = Tree(root)
    assert {entry.name: entry.target for entry in tree.listing(()).entries} == {
        b"file": b"../secret", b"folder": b"../outside", b"absolute": b"/etc", b"loop": b"loop",
    }  # fmt: skip
    refused(lambda: tree.open((b"file",)), "no file but a link")
    refused(lambda: tree.open((b"loop",)), "no file but a link")
    for name in (b"folder", b"absolute", b"loop"):
        refused(lambda: tree.listing((name,)), "links are not followed")  # noqa: B023
        refused(lambda: tree.open((name, b"secret")), "links are not followed")  # noqa: B023
        refused(lambda: tree.look((name, b"secret")), "links are not followed")  # noqa: B023


def test_a_root_that_was_swapped_for_a_link_is_not_entered(root: Path) -> None:
    tree = Tree(root)
    root.rename(root.with_name("gone"))
    root.symlink_to(root.with_name("outside"))
    refused(lambda: tree.listing(()), "links are not followed")
    refused(lambda: tree.open((b"secret",)), "links are not followed")


def test_a_directory_that_links_to_what_holds_it_ends(root: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "up").symlink_to("..")
    assert names(Tree(root).listing((b"a",))) == [b"up"]
    refused(lambda: Tree(root).listing((b"a", b"up", b"a", b"up")), "links are not followed")


def test_what_is_swapped_between_looking_and_opening_is_never_the_link(root: Path) -> None:
    """A thousand times in turn, as fast as another process can."""
    (root / "kept").write_bytes(b"mine")
    (root / "folder").mkdir()
    (root / "folder" / "secret").write_bytes(b"mine")
    (root / "link").symlink_to("../secret")
    (root / "elsewhere").symlink_to("../outside")
    child = os.fork()
    if child == 0:
        while True:
            for one, other in (("x", "kept"), ("x", "link"), ("y", "folder"), ("y", "elsewhere")):
                try:
                    (root / other).rename(root / one)
                    (root / one).rename(root / other)
                except OSError:
                    os._exit(1)
    seen = set()
    try:
        tree, end = Tree(root), time.monotonic() + 1.5
        while time.monotonic() < end:
            for place in ((b"x",), (b"y", b"secret")):
                try:
                    with tree.open(place) as file:
                        seen.add(file.read())
                except RunError:
                    pass
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert seen <= {b"mine"}


def test_pipes_sockets_and_devices_are_named_and_not_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        kinds = {entry.name: entry.kind for entry in Tree(root).listing(()).entries}
        assert kinds == {b"pipe": "named pipe", b"socket": "socket"}
        refused(lambda: Tree(root).open((b"pipe",)), "no file but a named pipe, and is not opened")
        refused(lambda: Tree(root).open((b"socket",)), "no file but a socket")
    refused(lambda: Tree(Path("/dev")).open((b"zero",)), "no file but a device")
    refused(lambda: Tree(root).listing((b"pipe",)), "pipe is no directory")


def test_what_is_not_there_or_closed_is_said_so(root: Path) -> None:
    tree = Tree(root)
    refused(lambda: tree.look((b"x",)), "There is nothing named x there")
    refused(lambda: tree.listing((b"x",)), "There is no directory x there")
    refused(lambda: tree.open(()), "is a directory")
    refused(lambda: Tree(root / "never").listing(()), "There is no directory never there")
    (root / "closed").write_bytes(b"")
    (root / "closed").chmod(0)
    if os.getuid():
        refused(lambda: tree.open((b"closed",)), "Permission denied")


def test_every_name_has_an_address_of_its_own(root: Path) -> None:
    for name in NAMES:
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(name)
    found = Tree(root).listing(()).entries
    assert {entry.name for entry in found} == set(NAMES)
    shown = [spelt(entry.name) for entry in found]
    assert len(set(shown)) == len(NAMES)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202e\udc80-\udcff]", "".join(shown))
    for name in NAMES:
        asked = files.asked(f"run=&path={quote(name)}", "path")
        with Tree(root).open(way(asked)) as file:
            assert file.read() == name


# Listing.


@pytest.mark.slow
def test_a_directory_of_a_hundred_thousand_files_is_listed_a_page_at_a_time(root: Path) -> None:
    for number in range(100_000):
        os.close(os.open(root / f"file-{number:06}", os.O_CREAT | os.O_WRONLY))
    (root / "zoo").mkdir()
    tree = Tree(root)
    begun = time.process_time()
    first = tree.listing(())
    taken = time.process_time() - begun
    print(f"The first of 100,001 entries took {taken:.3f} s of CPU.")
    # The time of this process alone, for the machine may be busy with others.
    assert taken < 1
    assert first.count == 100_001
    assert names(first)[:2] == [b"zoo", b"file-000000"]
    assert len(first.entries) == PER_PAGE
    tracemalloc.start()
    middle = tree.listing((), after=b"1file-050000")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 1024**2
    assert names(middle)[0] == b"file-050001"
    assert middle.before
    assert middle.after
    back = tree.listing((), before=middle.entries[0].key)
    assert names(back)[-1] == b"file-050000"
    last = tree.listing((), after=b"1file-099998")
    assert (names(last), last.before, last.after) == ([b"file-099999"], True, False)
    assert not first.before


def test_pages_are_complete_and_survive_what_comes_and_goes(root: Path) -> None:
    for number in range(450):
        (root / f"{number:03}").write_bytes(b"")
    tree, seen, after = Tree(root), [], b""
    while page := tree.listing((), after=after).entries:
        seen += [entry.name for entry in page]
        after = page[-1].key
        # What the position was made of may go.
        (root / os.fsdecode(page[-1].name)).unlink()
    assert seen == [f"{number:03}".encode() for number in range(450)]


def test_a_directory_without_end_is_cut_and_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.runtimes.files.MOST", 30)
    for number in range(31):
        (root / str(number)).write_bytes(b"")
    listing = Tree(root).listing(())
    assert (listing.count, listing.cut, len(listing.entries)) == (30, True, 30)


def test_a_file_of_a_terabyte_costs_nothing(root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        file.write(b"begins\n")
        file.truncate(1024**4)
    entry = Tree(root).look((b"sparse",))
    assert entry.size == 1024**4
    assert entry.is_sparse
    with Tree(root).open((b"sparse",)) as opened:
        assert files.preview(opened) == files.Preview()


# What is shown.


def shown(root: Path, content: bytes) -> files.Preview:
    (root / "x").write_bytes(content)
    with Tree(root).open((b"x",)) as file:
        return files.preview(file)


def test_text_is_shown_with_all_that_is_not_seen_spelt_out(root: Path) -> None:
    found = shown(root, b"one\r\ntwo\x1b[31m\xff\n\x07\xe2\x80\xae\tend\n")
    assert found.lines == ["one", "two\\x1b[31m\ufffd", "\\x07[U+202E]\tend"]
    assert found.is_text
    assert not found.is_cut


@pytest.mark.parametrize("content", [b"x" * 262_145, b"\n" * 5002])
def test_only_the_beginning_of_a_long_text_is_shown(root: Path, content: bytes) -> None:
    found = shown(root, content)
    assert found.is_cut
    assert sum(map(len, found.lines)) + len(found.lines) <= 262_145
    assert not shown(root, content[: 5000 if content[:1] == b"\n" else 262_144]).is_cut


@pytest.mark.parametrize("content", [b"a\0b", b"<svg xmlns='http://www.w3.org/2000/svg'/>"])
def test_neither_binaries_nor_drawings_with_programs_are_pictures(root: Path, content: bytes) -> None:
    assert shown(root, content).picture == ""
    assert shown(root, content).is_text == (b"\0" not in content)


# Pages.


@pytest.fixture
def lived(make_agent: MakeAgent) -> Run:
    """A run with files in its workspace."""
    run = execute(jobs.submit(make_agent("files"), "x"))
    workspace = machine.state().workspace("files")
    for name, content in (
        ("page.html", b"<script>alert(1)</script>"),
        ("dot.png", PNG),
        ("a.svg", b"<svg/>"),
    ):
        (workspace / name).write_bytes(content)
    return run


def page(user: User, session: Session, path: bytes = b"", name: str = "", **more: str) -> Any:
    client = Client()
    client.force_login(user)
    query = "&".join(f"{key}={value}" for key, value in {"path": quote(path), **more}.items())
    return client.get(f"{session.get_absolute_url()}files/{name}?{query}")


@pytest.mark.django_db(transaction=True)
def test_a_workspace_is_browsed_from_the_pages_of_its_session_and_run(lived: Run, admin: User) -> None:
    assert lived.session
    text = page(admin, lived.session).content.decode()
    assert "page.html" in text
    for where in (lived, lived.session):
        client = Client()
        client.force_login(admin)
        links = re.findall(
            r'href="(/sessions/[^"]+/files/[^"]*)"', client.get(where.get_absolute_url()).content.decode()
        )
        assert "dot.png" in client.get(links[0]).content.decode()
    other = execute(jobs.submit(lived.agent, "y"))
    assert page(admin, lived.session, run=str(other.public_id)).status_code == 404
    assert page(admin, lived.session, run="x").status_code == 404


@pytest.mark.django_db(transaction=True)
def test_every_hostile_name_is_shown_as_text_and_its_link_leads_to_it(lived: Run, admin: User) -> None:
    assert lived.session
    folder = os.fsencode(machine.state().workspace("files") / "odd")
    Path(os.fsdecode(folder)).mkdir()
    attacks = [attack.replace("/", "\u2215").replace("\0", "").encode()[:200] for attack in ATTACKS]
    for name in {*NAMES, *attacks}:
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(b"content of " + name)
    answer = page(admin, lived.session, b"odd")
    text = answer.content.decode()
    assert Markup(text).bad == []
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    client = Client()
    client.force_login(admin)
    links = re.findall(r'<a href="(/sessions/[^"]+path=odd/[^"]+)"', text)
    assert len(links) == len({*NAMES, *attacks})
    for link in links:
        found = client.get(link.replace("&amp;", "&"))
        assert found.status_code == 200, link
        assert "content of" in found.content.decode(), link
        assert Markup(found.content.decode()).bad == [], link


@pytest.mark.django_db(transaction=True)
def test_a_link_a_pipe_and_a_loop_have_pages_that_say_why_not(lived: Run, admin: User) -> None:
    assert lived.session
    workspace = machine.state().workspace("files")
    (workspace / "out").symlink_to("/etc")
    (workspace / "passwd").symlink_to("/etc/passwd")
    os.mkfifo(workspace / "pipe")
    text = page(admin, lived.session).content.decode()
    assert "leads to /etc/passwd; links are not followed" in text
    assert "path=out" not in text
    answer = page(admin, lived.session, b"out")
    assert "Links are not followed" in answer.content.decode()
    for path in (b"out/passwd", b"../files", b"nothing"):
        answer = page(admin, lived.session, path)
        assert answer.status_code == 404
        assert b"root:" not in answer.content
    for name in ("download/", "picture/"):
        for path in (b"passwd", b"out/passwd", b"pipe", b"", b"nothing", b".."):
            answer = page(admin, lived.session, path, name)
            assert (answer.status_code, b"root:" in answer.content) == (404, False), (name, path)
    assert "It is not opened" in page(admin, lived.session, b"pipe").content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_download_is_a_file_and_no_page(lived: Run, admin: User) -> None:
    assert lived.session
    address = f"{lived.session.get_absolute_url()}files/download/?path="
    headers, body = download(admin, f"{address}page.html")
    assert body == b"<script>alert(1)</script>"
    assert headers["Content-Disposition"] == 'attachment; filename="page.html"'
    assert headers["Content-Type"] == "application/octet-stream"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    Path(os.fsdecode(os.fsencode(machine.state().workspace("files")) + b'/a\r\n\xffb"c')).write_bytes(b"odd")
    headers, body = download(admin, f"{address}a%0D%0A%FFb%22c")
    assert body == b"odd"
    assert headers["Content-Disposition"] == r'attachment; filename="a\\r\\n\\xffb\"c"'


@pytest.mark.django_db(transaction=True)
def test_a_picture_is_shown_as_what_it_is_and_a_drawing_never(lived: Run, admin: User) -> None:
    assert lived.session
    assert "<img" in page(admin, lived.session, b"dot.png").content.decode()
    answer = page(admin, lived.session, b"dot.png", "picture/")
    assert (answer.content, answer.headers["Content-Type"]) == (PNG, "image/png")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert answer.headers["Content-Disposition"] == 'inline; filename="dot.png"'
    for path in (b"a.svg", b"page.html"):
        assert page(admin, lived.session, path, "picture/").status_code == 404
        assert "own-picture" not in page(admin, lived.session, path).content.decode()


@pytest.mark.django_db(transaction=True)
def test_what_is_too_large_is_refused_with_the_limit(lived: Run, admin: User, settings: Any) -> None:
    assert lived.session
    with (machine.state().workspace("files") / "sparse").open("wb") as file:
        file.truncate(1024**4)
    text = page(admin, lived.session, b"sparse").content.decode()
    assert "It is too large to be downloaded: 1 TB, and the limit is 1 GB." in text
    assert "download/" not in text
    begun = time.process_time()
    answer = page(admin, lived.session, b"sparse", "download/")
    assert (answer.status_code, b"limit is 1 GB" in answer.content) == (422, True)
    assert page(admin, lived.session, b"sparse", "picture/").status_code == 404
    assert time.process_time() - begun < 2


@pytest.mark.django_db(transaction=True)
def test_a_host_directory_is_browsed_as_long_as_agents_may_work_there(
    make_agent: MakeAgent, admin: User, root: Path, settings: Any
) -> None:
    settings.HERDWEB_MOUNT_ROOTS = [str(root)]
    inner = root / "inner" / "work"
    inner.mkdir(parents=True)
    (inner / "notes").write_text("mine")
    session = execute(jobs.submit(make_agent(working_directory=str(inner)), "x")).session
    assert session
    assert "notes" in page(admin, session).content.decode()
    # What an agent may write, it may swap: for what is outside, and for the state of others.
    (root / "inner").rename(root / "was")
    for target in (root.parent / "outside", machine.state().path / "runs"):
        (target / "work").mkdir(exist_ok=True)
        (target / "work" / "secret").write_bytes(SECRET)
        (root / "inner").unlink(missing_ok=True)
        (root / "inner").symlink_to(target)
        answer = page(admin, session)
        assert answer.status_code == 404
        assert "it resolves outside" in answer.content.decode()
        assert page(admin, session, b"secret", "download/").status_code == 404
    (root / "inner").unlink()
    (root / "was").rename(root / "inner")
    settings.HERDWEB_MOUNT_ROOTS = []
    assert page(admin, session).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_files_are_for_those_who_see_the_agent(lived: Run, person: Callable[..., User]) -> None:
    assert lived.session
    lived.agent.groups.set(person("ours", "Viewer", "ours").groups.filter(name="ours"))
    viewer, stranger = User.objects.get(username="ours"), person("stranger", "Operator")
    for name, path in (("", b""), ("", b"page.html"), ("picture/", b"dot.png")):
        assert page(viewer, lived.session, path, name).status_code == 200
        assert page(stranger, lived.session, path, name).status_code == 404
    address = f"{lived.session.get_absolute_url()}files/download/?path=page.html"
    assert download(viewer, address)[1] == b"<script>alert(1)</script>"
    client = Client()
    client.force_login(stranger)
    assert client.get(address).status_code == 404


@pytest.mark.django_db(transaction=True)
def test_a_workspace_that_nobody_made_is_said_to_be_missing(make_agent: MakeAgent, admin: User) -> None:
    session = Session.objects.create(
        agent=make_agent("never"), runtime="echo", home="x", working_directory="/x"
    )
    answer = page(admin, session)
    assert answer.status_code == 404
    assert "There is no directory never there" in answer.content.decode()
