"""The line in a crontab: with a stand-in for the program that fails in every way, and with a real daemon."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django import Settings

from agents import cron, crontab, doctor, machine
from agents.models import Beat
from tests.conftest import ROOT, process_environment, until

pytestmark = pytest.mark.django_db(transaction=True)
# Bytes that are no UTF-8, line ends that are none, lines that look like ours, and another herdweb's.
OTHERS = (
    b"# my own\nMAILTO=me@example.org\n\n"
    b"0 3 * * * backup /srv/\xe4\xff # caf\xe9\x85 \xa0\x0b\x0c\r\n"
    b"#* * * * * commented out # herdweb %(instance)s: manage.py cron\n"
    b"* * * * * /bin/sh /else/cron.sh crontab run 0 >/dev/null 2>&1 # herdweb another: manage.py cron\n"
    b"@daily echo 100\\% of it # herdweb %(instance)s\n"
)
STAND_IN = """#!/bin/sh
table={table}
{trouble}
case $1 in
-l) if [ -e "$table" ]; then exec cat "$table"; fi; echo "no crontab for tester" >&2; exit 1 ;;
-r) rm "$table" ;;
-*) exit 2 ;;
*) cat "$1" >"$table" ;;
esac
"""
ODD = "a b%c'd#e\\%f\"g $h"


class StandIn:
    """A crontab in a file, and the program that reads and writes it."""

    def __init__(self, folder: Path) -> None:
        self.program, self.file = folder / "crontab", folder / "table"
        self.behave("")

    def behave(self, trouble: str) -> None:
        """Do this first, whatever is asked for."""
        self.program.write_text(STAND_IN.format(table=shlex.quote(str(self.file)), trouble=trouble))
        self.program.chmod(0o755)

    @property
    def content(self) -> bytes | None:
        return self.file.read_bytes() if self.file.exists() else None


@pytest.fixture
def table(tmp_path: Path, settings: Settings) -> StandIn:
    found = StandIn(tmp_path)
    settings.CRONTAB_EXECUTABLE = str(found.program)
    settings.HERDWEB_STATE_DIR = tmp_path / ODD
    settings.HERDWEB_STATE_DIR.mkdir(mode=0o700)
    return found


@pytest.fixture
def others(settings: Settings) -> bytes:
    return OTHERS.replace(b"%(instance)s", settings.HERDWEB_INSTANCE.encode())


def state() -> Path:
    return cron.folder()


def give(*arguments: str) -> str:
    """The command in this process; what it prints."""
    out = StringIO()
    call_command("cron", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def refusal(*arguments: str) -> str:
    with pytest.raises(CommandError) as caught:
        give(*arguments)
    assert caught.value.returncode == 1
    return str(caught.value)


def status() -> tuple[int, Any]:
    """What it says, and its exit code; that no daemon runs here is nothing that tests could help."""
    out = StringIO()
    code = 0
    try:
        call_command("cron", "status", "--json", stdout=out)
    except SystemExit as ended:
        code = int(str(ended.code))
    found = json.loads(out.getvalue())
    assert code == bool(found["problems"])
    found["problems"] = [each["detail"] for each in found["problems"] if "daemon" not in each["detail"]]
    return int(bool(found["problems"])), found


def expected_since() -> Any:
    return Beat.objects.get(source="cron").expected_since


@contextmanager
def no_table() -> Iterator[None]:
    """As before `migrate`."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE agents_beat RENAME TO elsewhere")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE elsewhere RENAME TO agents_beat")


# With the stand-in.


@pytest.mark.parametrize("before", [None, b"", b"# only a comment\n", OTHERS], ids=str)
def test_what_was_installed_is_removed_and_nothing_else_changes(table: StandIn, before: bytes | None) -> None:
    if before is not None:
        table.file.write_bytes(before)
    assert give("install").startswith("Installed: ")
    assert table.content == (before or b"") + cron.line().encode()
    assert expected_since() is not None
    assert give("remove").startswith("Removed.")
    # An empty one and none are the same to cron.
    assert table.content == (before or None)
    assert expected_since() is None
    assert not [path for path in state().iterdir() if path.name.startswith("cron.")]


def test_lines_of_others_stay_byte_for_byte(table: StandIn, others: bytes) -> None:
    table.file.write_bytes(others)
    give("install")
    assert table.content == others + cron.line().encode()
    give("remove")
    assert table.content == others


def test_installing_twice_changes_nothing(table: StandIn, others: bytes) -> None:
    table.file.write_bytes(others)
    give("install")
    content, since, files = table.content, expected_since(), sorted(state().iterdir())
    assert give("install") == "Installed already. Nothing was changed.\n"
    assert (table.content, expected_since(), sorted(state().iterdir())) == (content, since, files)


def test_a_doubled_or_older_line_of_ours_is_replaced(table: StandIn, settings: Settings) -> None:
    older = f"*/5 * * * * /moved/python manage.py crontab run 1 # {settings.CRONTAB_COMMENT}\n"
    table.file.write_text(cron.line() + older + "0 0 * * * keep\n" + cron.line())
    give("install")
    assert table.content == b"0 0 * * * keep\n" + cron.line().encode()


def test_two_herdwebs_leave_each_other_alone(table: StandIn, settings: Settings) -> None:
    give("install")
    first = cron.line()
    settings.CRONTAB_COMMENT = "herdweb second: manage.py cron"
    give("install")
    assert table.content == (first + cron.line()).encode()
    give("remove")
    assert table.content == first.encode()


def test_the_crontab_as_it_was_is_kept_for_its_owner_alone(table: StandIn, others: bytes) -> None:
    for number in range(12):
        table.file.write_bytes(others + b"# %d\n" % number)
        give("install")
    copies = sorted(state().glob("crontab-*.bak"))
    assert [copy.read_bytes() for copy in copies] == [others + b"# %d\n" % number for number in range(2, 12)]
    assert {copy.stat().st_mode & 0o777 for copy in copies} == {0o600}


def test_a_last_line_without_its_end_stays_a_line_of_its_own(table: StandIn) -> None:
    table.file.write_bytes(b"0 0 * * * keep")
    give("install")
    assert table.content == b"0 0 * * * keep\n" + cron.line().encode()


TROUBLES = {
    "an unknown error": ('[ "$1" != -l ] || { echo "disk is broken" >&2; exit 1; }', "disk is broken"),
    "an error that says nothing": ('[ "$1" != -l ] || exit 3', "(exit code 3): it does not say why"),
    "an error that ends with 0": ('[ "$1" != -l ] || { echo "try later" >&2; exit 0; }', "try later"),
    "an error after some lines": ('[ "$1" != -l ] || { head -n 1 "$table"; exit 1; }', "cannot be read"),
    "a hint beside some lines": (
        '[ "$1" != -l ] || { head -n 1 "$table"; echo "no crontab for x" >&2; exit 1; }',
        "cannot be read",
    ),
    "no end": ('[ "$1" != -l ] || { sleep 60; exit 0; }', "crontab -l did not end within 1 s."),
    "not allowed": (
        'echo "You (me) are not allowed to use this program (crontab)" >&2; exit 1',
        "/etc/cron.allow",
    ),
    "a write that fails": (
        'case $1 in -*) ;; *) echo "no space" >&2; exit 1 ;; esac',
        "no space The crontab is as it was.",
    ),
    "a write that has no end": (
        'case $1 in -*) ;; *) sleep 60 ;; esac',
        "did not end within 1 s. The crontab is as it was.",
    ),
    "a write that stores nothing": (
        'case $1 in -*) ;; *) exit 0 ;; esac',
        "not what it was given. The crontab is as it was.",
    ),
    "a write that loses lines": (
        'case $1 in -*) ;; *) [ -e "$0.once" ] || { tail -n 1 "$1" >"$table"; : >"$0.once"; exit 0; } ;;'
        " esac",
        "not what it was given. The crontab was put back as it was.",
    ),
    "a write that doubles lines": (
        'case $1 in -*) ;; *) [ -e "$0.once" ] || { cat "$1" "$1" >"$table"; : >"$0.once"; exit 0; } ;; esac',
        "not what it was given. The crontab was put back as it was.",
    ),
    "a write that breaks bytes": (
        'case $1 in -*) ;; *) [ -e "$0.once" ] || { tr -d "\\377" <"$1" >"$table"; : >"$0.once"; exit 0; } ;;'
        ' esac',
        "not what it was given. The crontab was put back as it was.",
    ),
    "a reading that fails after the write": (
        '[ "$1" != -l ] || [ ! -e "$0.once" ] || { rm "$0.once"; exit 1; }\n'
        'case $1 in -*) ;; *) [ -e "$0.twice" ] || { : >"$0.once"; : >"$0.twice"; } ;; esac',
        "cannot be read (exit code 1): it does not say why The crontab was put back as it was.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TROUBLES)
def test_lines_of_others_survive(
    table: StandIn, others: bytes, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(crontab, "PATIENCE", 1)
    trouble, said = TROUBLES[name]
    table.file.write_bytes(others)
    table.behave(trouble)
    began = time.monotonic()
    assert said in refusal("install")
    assert time.monotonic() - began < 10
    assert table.content == others
    # Nobody waits for a line that is not there, and its script holds nothing any more.
    assert not Beat.objects.exclude(expected_since=None).exists()
    assert not (state() / "cron.sh").exists()


def test_where_nothing_helps_the_copy_has_all_lines(table: StandIn, others: bytes) -> None:
    table.file.write_bytes(others)
    table.behave('case $1 in -*) ;; *) tail -n 1 "$1" >"$table"; exit 0 ;; esac')
    said = refusal("install")
    (copy,) = state().glob("crontab-*.bak")
    assert f"It could not be put back. What it was is in {copy}." in said
    assert copy.read_bytes() == others


def test_a_line_that_cannot_be_removed_is_expected_no_more(table: StandIn, others: bytes) -> None:
    table.file.write_bytes(others)
    give("install")
    table.behave('case $1 in -*) ;; *) echo "no space" >&2; exit 1 ;; esac')
    assert "no space The crontab is as it was." in refusal("remove")
    assert table.content == others + cron.line().encode()
    assert expected_since() is None


def test_without_a_database_nothing_is_installed_and_yet_all_is_removed(
    table: StandIn, others: bytes
) -> None:
    table.file.write_bytes(others)
    with no_table():
        assert "The database does not answer" in refusal("install")
    assert table.content == others
    give("install")
    with no_table():
        assert refusal("remove").startswith("The crontab has no line of this herdweb any more.")
    assert table.content == others


def test_without_the_program_it_is_said_where_it_comes_from(table: StandIn) -> None:
    table.program.unlink()
    for action in ("install", "remove", "status"):
        assert "sudo apt-get install -y cron" in refusal(action)


def test_a_program_that_may_not_be_executed_is_named(table: StandIn) -> None:
    table.program.chmod(0o644)
    assert f"{table.program} cannot be executed: Permission denied." in refusal("install")


def test_bytes_that_are_no_text_are_no_trouble(table: StandIn) -> None:
    garbage = bytes(byte for byte in range(256) if byte != 10) * 3 + b"\n"
    table.file.write_bytes(garbage)
    give("install")
    assert table.content == garbage + cron.line().encode()
    give("remove")
    assert table.content == garbage


def test_a_state_directory_of_somebody_else_is_refused(table: StandIn, settings: Settings) -> None:
    if os.getuid():
        settings.HERDWEB_STATE_DIR = Path("/")
    else:
        os.chown(state(), 12345, 12345)
    assert "Install it as the user that herdweb runs as." in refusal("install")
    assert table.content is None


def test_a_line_break_in_the_path_is_refused(table: StandIn, settings: Settings, tmp_path: Path) -> None:
    settings.HERDWEB_STATE_DIR = tmp_path / "a\nb"
    assert "has a line break in its path" in refusal("install")
    assert table.content is None


def test_two_of_a_user_change_the_crontab_one_after_the_other() -> None:
    command = ["flock", "--nonblock", str(Path.home()), "true"]
    with crontab.alone():
        assert subprocess.run(command, check=False).returncode == 1
    assert subprocess.run(command, check=False).returncode == 0


@given(lines=st.lists(st.binary().map(lambda line: line.replace(b"\n", b"") + b"\n")))
def test_no_line_but_ours_is_ever_taken_for_ours(lines: list[bytes]) -> None:
    content = cron.split(b"".join(lines))
    assert "".join(content).encode(errors="surrogateescape") == b"".join(lines)
    assert cron.without_ours([*content, cron.line(), *content]) == content * 2
    assert cron.ours([*content, cron.line()]) == [cron.line()]


@given(name=st.text(st.characters(exclude_characters="\n\0/", codec="utf-8"), min_size=1))
@hypothesis_settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_path_reaches_the_shell_as_it_is(name: str) -> None:
    quoted = cron.quoted(Path("/x") / name)
    assert "#" not in quoted
    # As cron reads it: a percent sign after a backslash is one, any other would end the command.
    assert "%" not in quoted.replace("\\%", "")
    done = subprocess.run(
        ["sh", "-c", f"printf %s {quoted.replace(chr(92) + '%', '%')}"], capture_output=True
    )
    assert done.stdout == os.fsencode(Path("/x") / name)


# The script, as cron calls it.


def as_cron(line: str) -> "subprocess.CompletedProcess[bytes]":
    """What cron does with a line: hardly any environment, and the command without its time."""
    command = line.split(None, 5)[5].replace("\\%", "%")
    return subprocess.run(
        ["/bin/sh", "-c", command], env={"PATH": "/usr/bin:/bin"}, cwd="/", capture_output=True, timeout=60
    )


def test_the_line_ticks_without_any_environment(
    table: StandIn, monkeypatch: pytest.MonkeyPatch, others: bytes
) -> None:
    monkeypatch.setenv("DATABASE_URL", process_environment()["DATABASE_URL"])
    monkeypatch.setenv("HERDWEB_TIME_ZONE", "Europe/Berlin")
    give("install")
    done = as_cron(cron.line())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (state() / "cron.log").read_text() == ""
    assert Beat.objects.get(source="cron").host == machine.name()


def test_what_a_tick_complains_of_is_in_a_log_that_stays_small(
    table: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:////nowhere/at/all")
    give("install")
    log = state() / "cron.log"
    log.write_bytes(b"x" * (cron.LOG_LIMIT + 1))
    done = as_cron(cron.line())
    assert (done.stdout, done.stderr) == (b"", b"")
    assert "unable to open database file" in log.read_text()
    assert (state() / "cron.log.1").stat().st_size == cron.LOG_LIMIT + 1
    assert log.stat().st_mode & 0o077 == 0


def test_no_secret_is_in_the_crontab_or_in_arguments(table: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"HERDWEB_SECRET_KEY": "sentinel'\n\"$(id)%-" + "x" * 40, "PGPASSWORD": "sentinel-2"}
    secrets |= {"DATABASE_URL": "postgres://user:sentinel-3@host/name"}
    for name, value in {**secrets, "ANTHROPIC_API_KEY": "sentinel-4", "PORT": "8123"}.items():
        monkeypatch.setenv(name, value)
    give("install")
    assert b"sentinel" not in (table.content or b"sentinel")
    script = state() / "cron.sh"
    assert script.stat().st_mode & 0o777 == 0o600
    text = script.read_text()
    assert "sentinel" not in text.splitlines()[-1]
    done = subprocess.run(
        ["sh", "-c", text.replace("cd ", "env -0; exit; cd ").replace('exec </dev/null >>"$log" 2>&1', "")],
        env={}, capture_output=True, check=True,
    )  # fmt: skip
    found = dict(line.split("=", 1) for line in done.stdout.decode().rstrip("\0").split("\0"))
    assert {name: found.get(name) for name in secrets} == secrets
    assert not {"ANTHROPIC_API_KEY", "PORT"} & found.keys()


# What is said of it.


def test_what_is_not_installed_is_fine(table: StandIn) -> None:
    code, found = status()
    assert (code, found["installed"], found["lines"], found["last_tick"]) == (0, False, [], None)
    assert doctor.examine_cron().status == "ok"
    assert "Not used" in doctor.examine_cron().detail


def test_what_has_ticked_is_fine(table: StandIn) -> None:
    give("install")
    cron.tick()
    code, found = status()
    assert (code, found["installed"], found["current"], found["host"]) == (0, True, True, machine.name())
    assert doctor.examine_cron().status == "ok"
    assert f"on {machine.name()}." in doctor.examine_cron().detail


def test_what_was_just_installed_may_not_have_ticked(table: StandIn) -> None:
    give("install")
    assert status()[0] == 0
    assert doctor.examine_cron().detail == "It has not ticked yet."


def test_what_ticks_no_more_is_told(table: StandIn) -> None:
    give("install")
    earlier = timezone.now() - timedelta(minutes=4)
    Beat.objects.update(at=earlier, expected_since=earlier - timedelta(days=1), host="there")
    code, found = status()
    assert code == 1
    assert found["problems"][0].startswith("It should tick each minute. It ticked last at ")
    finding = doctor.examine_cron()
    assert (finding.status, "manage.py cron status" in finding.remedy) == ("warn", True)
    assert "4 min 0" in finding.detail


def test_a_line_that_somebody_took_away_is_missed(table: StandIn) -> None:
    give("install")
    table.file.unlink()
    assert status()[1]["problems"] == ["It is expected to tick, and there is no line of ours."]
    Beat.objects.update(at=timezone.now(), host="another machine")
    assert status()[0] == 0


def test_a_line_or_script_of_another_checkout_is_told(
    table: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    give("install")
    monkeypatch.setenv("HERDWEB_LOG_LEVEL", "DEBUG")
    code, found = status()
    assert (code, found["installed"], found["current"]) == (1, True, False)
    assert give("install").startswith("Installed: ")
    assert status()[0] == 0


def test_the_text_names_line_and_log(table: StandIn) -> None:
    give("install")
    out = StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cron, "DAEMONS", {Path("/proc/1/comm").read_text().strip()})
        call_command("cron", "status", stdout=out)
    said = dict(line.split(None, 1) for line in out.getvalue().splitlines())
    assert said["line"] == cron.line().strip()
    assert (said["installed"], said["daemon"]) == ("yes", "runs")
    assert said["log"] == f"{state()}/cron.log, 0 bytes"


def test_where_no_daemon_runs_the_remedy_is_told(
    table: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cron, "DAEMONS", {"no such program"})
    call_command("cron", "install")
    assert "sudo service cron start" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        call_command("cron", "status")


# With a real daemon.

OWN_CRONTABS = """
mount -t tmpfs tmpfs /var/spool/cron
mkdir -m 1730 /var/spool/cron/crontabs
chgrp crontab /var/spool/cron/crontabs
mount -t tmpfs tmpfs /etc/cron.d
for file in /etc/crontab /run/crond.pid; do
    if [ -e $file ]; then mount --bind "$0" $file; fi
done
exec cron -f
"""


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Callable[..., "subprocess.CompletedProcess[str]"]]:
    """A cron daemon with crontabs of its own; yields how to give commands where these are."""
    if os.getuid():
        pytest.skip("Only root can start a cron daemon.")
    empty, note = tmp_path / "empty", Path("/run/crond.pid")
    empty.touch(mode=0o644)
    was_there = note.exists()
    daemon = subprocess.Popen(["unshare", "--mount", "sh", "-ec", OWN_CRONTABS, str(empty)])
    until(lambda: cron.name_of(Path("/proc") / str(daemon.pid)) == "cron", "cron did not start")

    def run(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["nsenter", "--mount", "--target", str(daemon.pid), *command],
            env={**process_environment(), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    yield run
    # What it has started ends first, so that nothing of it meets the next test.
    until(lambda: subprocess.run(["pgrep", "-P", str(daemon.pid)], check=False).returncode, "A tick hangs")
    daemon.terminate()
    daemon.wait(10)
    if not was_there:
        note.unlink(missing_ok=True)


@pytest.mark.slow
def test_a_real_cron_ticks_within_a_minute(
    inside: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    before = b"# m\xfc\n0 0 1 1 * true # \xff\n"
    (tmp_path / "before").write_bytes(before)
    assert inside("crontab", str(tmp_path / "before")).returncode == 0
    # cron tells a changed crontab by its time in whole seconds.
    time.sleep(1.1)
    # crontab itself knows no longer names than 99 bytes.
    odd = tmp_path / ("l" * 100) / ODD
    odd.mkdir(mode=0o700, parents=True)

    def manage(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(ROOT / "manage.py"), "cron", *arguments]
        return inside(*command, HERDWEB_STATE_DIR=str(odd))

    installed = manage("install")
    assert installed.returncode == 0, installed.stderr
    assert installed.stderr == ""
    beat = Beat.objects.get(source="cron")
    assert beat.at is None
    until(lambda: Beat.objects.filter(source="cron", at__gte=beat.expected_since).exists(), "No tick", 75)
    checked = manage("status")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert manage("remove").returncode == 0
    inside("sh", "-c", f"crontab -l >{tmp_path}/after")
    assert (tmp_path / "after").read_bytes() == before
