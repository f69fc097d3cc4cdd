"""Transcripts beside their homes: kept after each run, compared before each start, given back."""

import gzip
import os
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from agents import archive, jobs, machine, recovery, removal
from agents.models import Agent, Archive, Audit, LeaseLost, Run, Session
from agents.runtimes import Beneath, RunError
from tests.conftest import execute

pytestmark = pytest.mark.django_db(transaction=True)
MakeAgent = Callable[..., Agent]
NAME = "talk/it.jsonl"


@pytest.fixture
def run(make_agent: MakeAgent) -> Run:
    return execute(jobs.submit(make_agent(), "x"))


@pytest.fixture
def session(run: Run) -> Session:
    assert run.session
    return run.session


@pytest.fixture
def home(session: Session) -> Beneath:
    return Beneath(machine.state().path / session.home, machine.own_user())


def path_of(home: Beneath) -> Path:
    return home.root / NAME


def said(home: Beneath, session: Session, text: str | bytes) -> str:
    """The transcript as it is after a run, archived."""
    home.write({NAME: text.encode() if isinstance(text, str) else text})
    return archive.store(session, home, NAME)


def kept(session: Session) -> list[bytes]:
    return [b"".join(archive.contents(row)) for row in session.archives.all()]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def files() -> set[str]:
    found = machine.state().path.glob("archive/*/*/*")
    return {str(path.relative_to(machine.state().path)) for path in found}


def known() -> set[str]:
    return set(Archive.objects.values_list("path", flat=True))


def verdict(session: Session, home: Beneath) -> str:
    return archive.contradiction(Session.objects.get(pk=session.pk), home, [NAME])


def test_of_a_transcript_that_grows_the_newest_is_kept(session: Session, home: Beneath) -> None:
    assert [said(home, session, text) for text in ("one\n", "one\ntwo\n", "one\ntwo\nthree")] == ["", "", ""]
    assert kept(session) == [b"one\ntwo\nthree"]
    row = session.archives.get()
    assert (row.lines, row.size, row.name) == (3, 13, NAME)
    assert row.packed_size == archive.location(row).stat().st_size
    assert files() >= known()
    assert len(list(archive.folder(session).iterdir())) == 1


def test_of_one_that_was_rewritten_both_are_kept_and_it_is_said(session: Session, home: Beneath) -> None:
    said(home, session, "one\ntwo\n")
    assert "was rewritten: it does not begin with what was archived" in said(home, session, "one\n")
    assert "was rewritten" in said(home, session, "eins\nzwei\n")
    assert kept(session) == [b"eins\nzwei\n", b"one\n", b"one\ntwo\n"]
    assert list(session.archives.values_list("current", flat=True)) == [True, False, False]


def test_one_that_is_rewritten_again_and_again_keeps_the_last_few(session: Session, home: Beneath) -> None:
    for number in range(archive.EARLIER + 4):
        said(home, session, f"{number}\n")
    assert len(kept(session)) == archive.EARLIER + 1
    assert len(list(archive.folder(session).iterdir())) == archive.EARLIER + 1


def test_one_that_did_not_change_is_not_packed_again(session: Session, home: Beneath) -> None:
    said(home, session, "one\n")
    before = session.archives.get()
    home.write({NAME: b"one\n"})
    assert archive.store(session, home, NAME) == ""
    after = session.archives.get()
    assert (after.pk, after.path) == (before.pk, before.path)
    assert after.seen != before.seen
    assert known() == {after.path}
    assert [path.name for path in archive.folder(session).iterdir()] == [Path(after.path).name]


def test_the_archive_is_closed_to_everybody_else(session: Session, home: Beneath) -> None:
    said(home, session, "one\n")
    place = archive.location(session.archives.get())
    assert [oct(path.stat().st_mode & 0o777) for path in (place, *place.parents[:3])] == [
        "0o600", "0o700", "0o700", "0o700",
    ]  # fmt: skip


def link(home: Beneath) -> None:
    outside = home.root.parent / "outside"
    outside.write_text("a secret of somebody else")
    path_of(home).symlink_to(outside)


def sparse(home: Beneath) -> None:
    path_of(home).touch()
    os.truncate(path_of(home), 10**12)


UNFIT: dict[str, tuple[Callable[[Beneath], None], str]] = {
    "link": (link, "Too many levels of symbolic links"),
    "fifo": (lambda home: os.mkfifo(path_of(home)), "is not a regular file"),
    "directory": (lambda home: path_of(home).mkdir(), "is not a regular file"),
    "sparse": (sparse, "it has 931.3 GB, and the limit is 256 MB"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_is_no_transcript_is_told_and_fails_nothing(kind: str, run: Run, home: Beneath) -> None:
    make, words = UNFIT[kind]
    home.write({NAME: b""})
    path_of(home).unlink()
    make(home)
    archive.keep(run, home, [NAME], lambda: None)
    assert words in run.events.latest("seq").text
    assert run.events.latest("seq").text.startswith("The transcript was not archived:")
    assert not Archive.objects.exists()


def test_one_that_is_gone_after_a_run_is_told_if_there_was_one(
    run: Run, session: Session, home: Beneath
) -> None:
    archive.keep(run, home, [NAME], lambda: None)
    before = run.events.count()
    said(home, session, "one\n")
    path_of(home).unlink()
    archive.keep(run, home, [NAME], lambda: None)
    assert run.events.count() == before + 1
    assert "is missing now" in run.events.latest("seq").text
    assert kept(session) == [b"one\n"]


def test_a_full_disk_fails_no_run(
    run: Run, session: Session, home: Beneath, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    home.write({NAME: b"one\n"})
    monkeypatch.setattr(os, "fsync", full)
    archive.keep(run, home, [NAME], lambda: None)
    assert run.events.latest("seq").text == "The transcript was not archived: No space left on device."
    assert names(archive.folder(session)) == set()


def test_a_lease_that_is_lost_meanwhile_archives_nothing(run: Run, session: Session, home: Beneath) -> None:
    def lost() -> None:
        raise LeaseLost("x")

    home.write({NAME: b"one\n"})
    with pytest.raises(LeaseLost):
        archive.keep(run, home, [NAME], lost)
    assert not Archive.objects.exists()
    assert list(archive.folder(session).iterdir()) == []


# Before a start


def test_a_transcript_that_grew_is_fine_and_read_once(
    session: Session, home: Beneath, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(home, session, "one\n")
    with path_of(home).open("ab") as file:
        file.write(b"two\n")
    assert verdict(session, home) == ""
    monkeypatch.delattr(archive, "Tally")
    assert verdict(session, home) == ""


def other(home: Beneath) -> None:
    path_of(home).write_bytes(b"uno\n" * 3)


def linked(home: Beneath) -> None:
    path_of(home).unlink()
    link(home)


def closed(home: Beneath) -> None:
    path_of(home).chmod(0)


def deleted(home: Beneath) -> None:
    path_of(home).unlink()


def folder_instead(home: Beneath) -> None:
    path_of(home).unlink()
    path_of(home).mkdir()


def fifo_instead(home: Beneath) -> None:
    path_of(home).unlink()
    os.mkfifo(path_of(home))


SPOILT: dict[str, tuple[Callable[[Beneath], None], str]] = {
    "deleted": (deleted, "Its transcript is missing: talk/it.jsonl."),
    "home lost": (lambda home: shutil.rmtree(home.root), "Its transcript is missing"),
    "truncated": (lambda home: os.truncate(path_of(home), 5), "has 5 bytes of the 8 bytes that"),
    "emptied": (lambda home: os.truncate(path_of(home), 0), "was truncated"),
    "replaced": (other, "was altered or replaced: talk/it.jsonl does not begin with what was archived"),
    "unreadable": (closed, "cannot be read: talk/it.jsonl (its mode is 0000)"),
    "link": (linked, "cannot be read: talk/it.jsonl (it is a link)"),
    "directory": (folder_instead, "is not a regular file"),
    "fifo": (fifo_instead, "is not a regular file"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_what_became_of_a_transcript_is_said_and_can_be_restored(
    kind: str, session: Session, home: Beneath
) -> None:
    said(home, session, "one\ntwo\n")
    spoil, words = SPOILT[kind]
    spoil(home)
    assert words in verdict(session, home)
    assert f"It can be restored from the archive of {session.archives.get()}." in verdict(session, home)
    before = names(path_of(home).parent)
    recovery.restore(session, "somebody")
    assert (verdict(session, home), path_of(home).read_bytes()) == ("", b"one\ntwo\n")
    assert names(path_of(home).parent) == {"it.jsonl"} | (
        {"it.jsonl.before-restore"} if "it.jsonl" in before else set()
    )


def test_without_an_archive_there_is_no_remedy(session: Session, home: Beneath) -> None:
    assert verdict(session, home) == "Its transcript is missing: talk/it.jsonl."


# Restoring


def test_restoring_is_noted_and_keeps_everything_that_was_there(session: Session, home: Beneath) -> None:
    said(home, session, "one\n")
    for text in (b"first damage", b"second damage"):
        path_of(home).write_bytes(text)
        recovery.restore(session, "somebody")
    beside = {path.name: path.read_bytes() for path in path_of(home).parent.iterdir()}
    assert beside == {
        "it.jsonl": b"one\n",
        "it.jsonl.before-restore": b"first damage",
        "it.jsonl.before-restore1": b"second damage",
    }
    note = Audit.objects.filter(deed="changed").latest("pk")
    assert note.who == "somebody"
    assert note.detail.startswith("Restored its transcript from the archive of ")


@pytest.mark.parametrize("damage", ["cut", "other", "garbage", "bomb", "gone"])
def test_a_damaged_archive_replaces_nothing(damage: str, session: Session, home: Beneath) -> None:
    said(home, session, "one\n" * 1000)
    path_of(home).write_bytes(b"what is there")
    place = archive.location(session.archives.get())
    packed = place.read_bytes()
    place.unlink()
    if damage != "gone":
        place.write_bytes(
            {
                "cut": packed[:-9],
                "other": gzip.compress(b"two\n" * 1000),
                "garbage": b"no gzip at all",
                "bomb": gzip.compress(bytes(50 * 1024**2)),
            }[damage]
        )
    with pytest.raises(RunError, match="The archived transcript"):
        recovery.restore(session, "somebody")
    assert path_of(home).read_bytes() == b"what is there"
    assert names(path_of(home).parent) == {"it.jsonl"}
    assert not Audit.objects.filter(deed="changed").exists()


def test_nothing_is_restored_below_a_live_run(run: Run, session: Session, home: Beneath) -> None:
    said(home, session, "one\n")
    path_of(home).write_bytes(b"being written")
    Run.objects.filter(pk=run.pk).update(state="running")
    with pytest.raises(RunError, match=f"in use by run {run.short_id}"):
        recovery.restore(session, "somebody")
    assert path_of(home).read_bytes() == b"being written"


def test_nothing_is_restored_through_a_link(session: Session, home: Beneath, tmp_path: Path) -> None:
    said(home, session, "one\n")
    shutil.rmtree(path_of(home).parent)
    path_of(home).parent.symlink_to(tmp_path)
    with pytest.raises(RunError, match="cannot be restored"):
        recovery.restore(session, "somebody")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_one_can_be_restored_and_counts_from_then_on(session: Session, home: Beneath) -> None:
    said(home, session, "one\ntwo\n")
    said(home, session, "ruined\n")
    earlier = session.archives.get(current=False)
    out = StringIO()
    call_command("session_restore", str(session.public_id)[:8], "--list", stdout=out)
    assert [line.split()[4] for line in out.getvalue().splitlines()] == ["current", "earlier"]
    call_command(
        "session_restore", str(session.public_id), "--archive", str(earlier.pk), stdout=out, stderr=out
    )
    assert path_of(home).read_bytes() == b"one\ntwo\n"
    assert verdict(session, home) == ""
    assert kept(session) == [b"one\ntwo\n", b"ruined\n"]


def test_the_command_says_why_it_did_nothing(session: Session) -> None:
    with pytest.raises(CommandError, match=r"Nothing was restored. Nothing is archived of this session."):
        call_command("session_restore", str(session.public_id))
    with pytest.raises(CommandError, match=r"The session has no archive 7. It has: none."):
        call_command("session_restore", str(session.public_id), "--archive", "7")
    with pytest.raises(CommandError, match=r"There is no session 00000000."):
        call_command("session_restore", "00000000")


def test_the_page_lists_what_is_archived_and_restores_it(
    client: Client, admin: User, session: Session, home: Beneath
) -> None:
    said(home, session, "one\ntwo\n")
    path_of(home).unlink()
    client.force_login(admin)
    html = client.get(session.get_absolute_url()).content.decode()
    assert "Archived transcript" in html
    assert session.archives.get().sha256[:12] in html
    client.post(f"{session.get_absolute_url()}restore/")
    assert path_of(home).read_bytes() == b"one\ntwo\n"
    path_of(home).unlink()
    wrong = {"archive": str(session.archives.get().pk + 1)}
    answer = client.post(f"{session.get_absolute_url()}restore/", wrong, follow=True)
    assert "This session has no such archive." in answer.content.decode()
    assert not path_of(home).exists()


# What is left over


def test_files_without_a_row_are_swept_when_they_are_old(session: Session, home: Beneath) -> None:
    said(home, session, "one\n")
    place = archive.location(session.archives.get())
    old, young, lonely = place.with_name("old.gz"), place.with_name(".young.draft"), place.parents[1] / "gone"
    lonely.mkdir()
    for path in (old, young, lonely / "x.gz"):
        path.touch()
    for path in (place, old, lonely / "x.gz", lonely):
        os.utime(path, (0, 0))
    archive.sweep()
    assert (place.exists(), young.exists()) == (True, True)
    assert (old.exists(), (lonely / "x.gz").exists()) == (False, False)


def test_a_deleted_session_takes_its_archive_along(session: Session, home: Beneath) -> None:
    said(home, session, "one\n")
    assert removal.remove(removal.of_session(session), lambda _: None) == []
    assert not archive.folder(session).exists()
    assert not Archive.objects.exists()


def test_a_deleted_run_leaves_the_archive(run: Run, session: Session, home: Beneath) -> None:
    home.write({NAME: b"one\n"})
    archive.store(session, home, NAME, run)
    assert session.archives.get().run == run
    removal.remove_run(run, lambda _: None)
    assert session.archives.get().run is None
