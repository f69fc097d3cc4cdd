"""The crontab of this user: read as bytes by the program `crontab`, replaced as a whole, and put back if
it is not what it should be afterwards.
"""

import fcntl
import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings

from agents.runtimes.host import write_files

# In seconds, for one call of the program.
PATIENCE = 10
COPIES = 10
ABSENT = b"no crontab for"
FORBIDDEN = b"not allowed"
INSTALL = "Install it: sudo apt-get install -y cron"
ALLOW = "Have an administrator name this user in /etc/cron.allow, or take the name out of /etc/cron.deny."


class CrontabError(Exception):
    """Why the crontab could not be read or changed; `remedy` says what to do, if that is known."""

    def __init__(self, text: str, remedy: str = "") -> None:
        super().__init__(text)
        self.remedy = remedy


def read() -> bytes | None:
    """What is in it; None if this user has none. Whatever else `crontab -l` says is a CrontabError."""
    done = call("-l")
    if done.returncode != 0 and ABSENT in done.stderr and not done.stdout:
        return None
    # A failure that ends with 0 would look like an empty crontab.
    if done.returncode != 0 or (done.stderr and not done.stdout):
        raise failed(done, "The crontab cannot be read")
    return done.stdout


def write(content: bytes | None) -> None:
    """Store this, or nothing at all, by the program."""
    if content is None:
        done = call("-r")
    else:
        # A file and no pipe: if we died while writing, the beginning would be taken for the whole.
        with tempfile.NamedTemporaryFile(dir=settings.HERDWEB_STATE_DIR, prefix="crontab-") as draft:
            draft.write(content)
            draft.flush()
            # By its bare name: crontab cuts off what is longer than 99 bytes.
            folder, name = os.path.split(draft.name)
            done = call(name, folder=folder)
    if done.returncode != 0:
        raise failed(done, "The crontab cannot be written")


def replace(before: bytes | None, after: bytes | None, right: Callable[[bytes | None], bool]) -> None:
    """Store `after`; unless what is read then is `right`, put back what was before and raise CrontabError."""
    copy = None
    try:
        copy = keep(before)
        write(after)
        if right(read()):
            return
        wrong = CrontabError("What crontab has stored is not what it was given.")
    except OSError as error:
        wrong = CrontabError(f"{error}.")
    except CrontabError as error:
        wrong = error
    raise CrontabError(f"{wrong} {put_back(before, copy)}", wrong.remedy)


def put_back(before: bytes | None, copy: Path | None) -> str:
    """Make it what it was before, and say whether it is."""
    with suppress(CrontabError):
        if read() == before:
            return "The crontab is as it was."
    with suppress(CrontabError):
        write(before)
        if read() == before:
            return "The crontab was put back as it was."
    return f"It could not be put back. {f'What it was is in {copy}.' if copy else 'There was none before.'}"


def keep(content: bytes | None) -> Path | None:
    """Store a copy in the state directory, of which the newest are kept."""
    if content is None:
        return None
    folder = Path(settings.HERDWEB_STATE_DIR)
    name = f"crontab-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}.bak"
    write_files(folder, {name: content})
    for old in sorted(folder.glob("crontab-*.bak"))[:-COPIES]:
        old.unlink(missing_ok=True)
    return folder / name


@contextmanager
def alone() -> Iterator[None]:
    """Let no other herdweb of this user change the crontab between our reading and writing."""
    try:
        home = os.open(pwd.getpwuid(os.getuid()).pw_dir, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, KeyError):
        # Without a home there is nothing that two of them have in common.
        yield
        return
    try:
        fcntl.flock(home, fcntl.LOCK_EX)
        yield
    finally:
        os.close(home)


def call(*arguments: str, folder: str | None = None) -> "subprocess.CompletedProcess[bytes]":
    """Start the program and wait, but not for ever; never for another user."""
    command = [settings.CRONTAB_EXECUTABLE, *arguments]
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise CrontabError(f"There is no program {command[0]}.", INSTALL) from error
    except OSError as error:
        raise CrontabError(f"{command[0]} cannot be executed: {error.strerror}.", ALLOW) from error
    try:
        out, complaint = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        end(process)
        raise CrontabError(f"crontab {arguments[0]} did not end within {PATIENCE} s.") from error
    return subprocess.CompletedProcess(command, process.returncode, out, complaint)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the program with its children, which may hold its pipes."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def failed(done: "subprocess.CompletedProcess[bytes]", what: str) -> CrontabError:
    """What the program said, as an error."""
    said = " ".join(done.stderr.decode(errors="replace").split()) or "it does not say why"
    remedy = ALLOW if FORBIDDEN in done.stderr else ""
    return CrontabError(f"{what} (exit code {done.returncode}): {said}", remedy)
