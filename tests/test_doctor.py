"""What is looked at, and what is said when it is broken; the broken parts are really broken."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.core.management import call_command
from django.utils import timezone
from pytest_django import Settings

from agents import doctor
from agents.runtimes import Host, RunError, engine_report
from tests.conftest import ROOT, process_environment

pytestmark = pytest.mark.django_db(transaction=True)
NAMES = [
    "engine", "runc", "cgroup", "engine clock", "redis", "workers", "image", "state directory",
    "configuration", "disk", "database", "database clock", "cron", "credentials",
]  # fmt: skip


class Diagnosis(NamedTuple):
    """What the command left."""

    code: int
    findings: dict[str, dict[str, str]]
    text: str


def diagnose(**environment: str) -> Diagnosis:
    """The command as an operator has it, with some of the environment changed."""
    done = subprocess.run(
        [sys.executable, "manage.py", "doctor", "--json"],
        cwd=ROOT,
        env={**process_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return Diagnosis(
        done.returncode, {each["name"]: each for each in json.loads(done.stdout)}, done.stdout + done.stderr
    )


def test_a_sound_machine_is_found_sound(
    engine: object, tiny_image: str, workers: Callable[..., object], settings: Settings
) -> None:
    workers(2)
    settings.HERDWEB_IMAGE = tiny_image
    findings = list(doctor.examine())
    assert [finding.name for finding in findings] == NAMES
    assert [finding for finding in findings if finding.status == "fail"] == []
    details = {finding.name: finding.detail for finding in findings}
    assert details["engine"].startswith("Docker ")
    assert details["runc"].startswith("runc ")
    assert details["cgroup"] in ("version 1", "version 2")
    assert details["redis"].startswith("Redis ")
    assert details["workers"] == "2 alive"
    assert details["image"] == f"{tiny_image}, no Claude Code version named"
    assert "mode 0700" in details["state directory"]


def test_every_finding_that_is_not_ok_has_a_remedy(engine: object) -> None:
    for environment in (
        {},
        {"DOCKER_HOST": "unix:///nowhere.sock", "HERDWEB_REDIS_URL": "unix:///nowhere.sock"},
    ):
        for finding in diagnose(**environment).findings.values():
            assert set(finding) == {"name", "status", "detail", "remedy"}
            assert bool(finding["remedy"]) == (finding["status"] != "ok")
            assert finding["detail"]


def test_an_engine_that_is_away_is_a_failure_and_the_rest_is_looked_at() -> None:
    found = diagnose(DOCKER_HOST="unix:///nowhere/docker.sock")
    assert (found.code, list(found.findings)) == (1, NAMES)
    assert found.findings["engine"]["status"] == "fail"
    assert "systemctl start docker" in found.findings["engine"]["remedy"]
    assert found.findings["runc"]["status"] == found.findings["image"]["status"] == "warn"
    assert found.findings["database"]["status"] == "ok"


def test_redis_that_is_away_is_a_failure() -> None:
    found = diagnose(HERDWEB_REDIS_URL="unix:///nowhere/redis.sock")
    assert (found.code, found.findings["redis"]["status"]) == (1, "fail")
    assert "make run" in found.findings["redis"]["remedy"]


def test_no_worker_is_a_failure() -> None:
    found = diagnose()
    assert (found.code, found.findings["workers"]["status"]) == (1, "fail")


def test_a_missing_image_is_a_failure(engine: object) -> None:
    found = diagnose(HERDWEB_IMAGE="herdweb-test/absent")
    assert found.findings["image"] == {
        "name": "image",
        "status": "fail",
        "detail": "herdweb-test/absent is not on this host.",
        "remedy": "Build it: manage.py build_agent_image (or make image).",
    }


def test_a_database_without_tables_is_a_failure(tmp_path: Path) -> None:
    found = diagnose(DATABASE_URL=f"sqlite:///{tmp_path}/empty.sqlite3")
    assert found.findings["database"]["status"] == "fail"
    assert "migrations not applied" in found.findings["database"]["detail"]
    assert found.findings["database"]["remedy"] == "Run: manage.py migrate"


def test_a_database_that_is_away_is_a_failure() -> None:
    found = diagnose(DATABASE_URL="postgres://nobody@127.0.0.1:1/nothing")
    assert (found.code, found.findings["database"]["status"]) == (1, "fail")


def test_an_open_state_directory_is_a_failure(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = diagnose(HERDWEB_STATE_DIR=str(tmp_path))
    assert found.findings["state directory"]["status"] == "fail"
    assert found.findings["state directory"]["remedy"] == f"chmod 700 {tmp_path}"


def test_a_published_state_directory_is_a_failure() -> None:
    found = diagnose(HERDWEB_STATE_DIR=str(ROOT / "staticfiles" / "state"))
    assert "which the web server publishes" in found.findings["state directory"]["detail"]


def test_a_missing_state_directory_is_a_failure(settings: Settings, tmp_path: Path) -> None:
    settings.HERDWEB_STATE_DIR = tmp_path / "absent"
    assert doctor.examine_state([]).detail == f"{tmp_path}/absent is not a directory."
    assert doctor.examine_disk().status in ("ok", "warn")


def test_credentials_are_named_and_never_shown() -> None:
    found = diagnose(ANTHROPIC_API_KEY="sk-sentinel-0123456789")
    assert found.findings["credentials"]["status"] == "ok"
    assert "ANTHROPIC_API_KEY" in found.findings["credentials"]["detail"]
    assert "sentinel" not in found.text
    assert diagnose().findings["credentials"]["status"] == "warn"


@pytest.mark.parametrize(("seconds", "status"), [(0, "ok"), (5, "warn"), (-60, "fail"), (3600, "fail")])
def test_clocks_that_differ_are_told(seconds: int, status: str) -> None:
    finding = doctor.examine_clock("clock", timezone.now() + timedelta(seconds=seconds))
    assert finding.status == status
    assert bool(finding.remedy) == (status != "ok")


def test_an_engine_that_stops_answering_is_a_run_error(tmp_path: Path) -> None:
    class Gone:
        def info(self) -> Any:
            import docker

            raise docker.errors.DockerException("gone")

        def close(self) -> None:
            pass

    host = Host(instance="x", user="1:1", secrets_dir=tmp_path, connect=Gone)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="stopped answering: gone"):
        engine_report(host)


def test_the_text_has_a_line_a_finding_and_one_for_its_remedy() -> None:
    out = StringIO()
    with pytest.raises(SystemExit, match="1"):
        call_command("doctor", stdout=out)
    lines = out.getvalue().splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("fail  workers"))
    assert lines[at + 1].strip().startswith("→ Start them")
