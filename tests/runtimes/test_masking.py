"""Secrets in what an agent prints: every spelling, wherever a line is cut."""

import json
import os
from pathlib import Path

import pytest

from agents.runtimes import Exit, Parsed, RunError
from agents.runtimes.base import Mask, Reader
from agents.runtimes.layout import own_private
from agents.runtimes.stream import Splitter
from agents.runtimes.types import FROM_THE_START, Message, Output

SECRET = "sk-ant-sentinel-ü€-4711"


def stored(data: bytes, limit: int) -> bytes:
    """What is kept of output whose lines are cut at `limit`."""
    splitter = Splitter("stdout", limit)
    reader = Reader(lambda line: [Message("text", line)], Mask({"KEY": SECRET}), FROM_THE_START)
    pieces = [data[at : at + 7] for at in range(0, len(data), 7)]
    lines = [line for piece in pieces for line in splitter.feed(piece)] + splitter.flush()
    outputs: list[Output] = [*lines, Exit(code=0)]
    reports = [report for output in outputs for report in reader.read(output)]
    return b"".join(report.line.raw for report in reports if isinstance(report, Parsed))


@pytest.mark.parametrize("limit", range(20, 60))
def test_a_secret_is_masked_wherever_a_long_line_is_cut(limit: int) -> None:
    secret = SECRET.encode()
    data = b"before " + secret * 9 + b" after"
    assert stored(data, limit) == b"before " + b"*" * len(secret) * 9 + b" after"


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_secret_inside_json_is_masked(ascii_only: bool) -> None:
    line = json.dumps({"key": SECRET}, ensure_ascii=ascii_only).encode() + b"\n"
    kept = stored(line, 1024)
    assert len(kept) == len(line)
    assert b"4711" not in kept


def test_where_secrets_wait_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir(mode=0o755)
    own_private(tmp_path / "secrets")
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a directory of somebody else's")
def test_a_directory_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    os.chown(tmp_path / "secrets", 12345, 12345)
    with pytest.raises(RunError, match="belongs to somebody else"):
        own_private(tmp_path / "secrets")
