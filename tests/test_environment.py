"""What an operator sets, and what follows from it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from herdweb.environment import SOCKET_PATH_LIMIT, Environment, remembered_secret
from tests.conftest import ROOT


def environment(**given: object) -> Environment:
    return Environment.model_validate({"herdweb_secret_key": "x" * 50, **given})


def test_the_sites_own_address_is_a_host_that_it_answers_to() -> None:
    assert "herd.example" in environment(herdweb_base_url="https://herd.example:8443").hosts


@pytest.mark.parametrize("address", ["herd.example", "ftp://herd.example", "https://herd.example/path"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValidationError, match="herdweb_base_url"):
        environment(herdweb_base_url=address)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        environment(herdweb_workers=0, herdweb_log_level="LOUD", port=99999)
    assert {error["loc"][0] for error in caught.value.errors()} == {
        "herdweb_workers", "herdweb_log_level", "port",
    }  # fmt: skip


def test_a_socket_in_a_deep_directory_gets_a_short_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    found = environment(herdweb_state_dir=deep).redis_socket
    assert len(os.fsencode(found)) <= SOCKET_PATH_LIMIT
    assert environment(herdweb_state_dir=deep).redis_socket == found


def test_processes_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    found: list[str] = []
    path = tmp_path / "secret_key"
    threads = [threading.Thread(target=lambda: found.append(remembered_secret(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("folder", ["agents/static", "staticfiles/state"])
def test_a_state_directory_that_would_be_published_is_refused(folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={**os.environ, "HERDWEB_STATE_DIR": str(ROOT / folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "herdweb.E001" in done.stderr
    assert "HERDWEB_STATE_DIR" in done.stderr


def test_a_state_directory_that_others_can_read_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={**os.environ, "HERDWEB_STATE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"chmod 700 {tmp_path}" in done.stderr
