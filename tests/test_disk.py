"""Directories of agents: what they take up, and that whatever is in them goes."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agents.runtimes.disk import dispose, used


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


def nest(folder: Path, depth: int) -> None:
    """Directories in each other, deeper than a path may be long."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_deeper_than_any_path_goes_all_the_same(folder: Path) -> None:
    nest(folder, 5000)
    assert used(folder) >= 0
    dispose(folder)
    assert not folder.exists()


def test_no_link_is_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"x" * 100_000)
    (folder / "link").symlink_to(outside)
    (folder / "inner").mkdir()
    (folder / "inner" / "link").symlink_to(outside, target_is_directory=True)
    (folder / "inner" / "dangling").symlink_to("/nowhere")
    assert used(folder) < 100_000
    dispose(folder)
    assert (outside / "kept").exists()
    assert not folder.exists()


def test_a_link_in_the_place_of_the_directory_is_not_entered(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    with pytest.raises(OSError, match="link"):
        dispose(link)
    assert folder.exists()


def test_a_sparse_file_counts_as_what_it_holds_and_names_of_one_file_once(folder: Path) -> None:
    with open(folder / "sparse", "wb") as file:
        file.truncate(2**40)
    assert used(folder) < 2**20
    (folder / "real").write_bytes(b"x" * 2**20)
    once = used(folder)
    assert once >= 2**20
    for number in range(20):
        os.link(folder / "real", folder / f"name-{number}")
    assert used(folder) < once + 2**20


def test_fifos_strange_names_and_locked_directories_go(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    for name in (b"new\nline", b"\xff\xfe", b"-rf", b"x" * 255):
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).write_text("")
    inner = folder / "locked" / "cache"
    inner.mkdir(parents=True)
    (inner / "file").write_text("")
    inner.chmod(0o555)
    (folder / "locked").chmod(0)
    folder.chmod(0o500)
    as_nobody(lambda: dispose(folder), folder.parent)
    assert not folder.exists()


def as_nobody(work: object, *owned: Path) -> None:
    """In a process without root's rights: it owns the directories and what is in them."""
    assert callable(work)
    if os.getuid():
        work()
        return
    for top in owned:
        for path in (top, *top.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)
        top.chmod(0o755)
        for above in top.parents:
            if above.stat().st_uid == os.getuid() and above != Path("/"):
                above.chmod(above.stat().st_mode | 0o011)
    child = os.fork()
    if not child:
        try:
            os.setgid(65534)
            os.setuid(65534)
            work()
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_several_empty_the_same_directory_at_once(folder: Path) -> None:
    for number in range(40):
        inner = folder / str(number) / "a" / "b"
        inner.mkdir(parents=True)
        for name in range(20):
            (inner / str(name)).write_text("")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(dispose, [folder] * 4))
    assert not folder.exists()


def test_what_is_not_there_takes_nothing_up_and_needs_no_deleting(folder: Path) -> None:
    assert used(folder / "missing") == 0
    dispose(folder / "missing")
