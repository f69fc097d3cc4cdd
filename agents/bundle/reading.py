"""The lines of a file, each understood, all of them confirmed by the last one."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from pydantic import ValidationError

from agents.bundle.shapes import FORMAT, LINE_BYTES, VERSION, AnyLine, EndLine, Line, Refused
from agents.runtimes import human_size


def read(file: BinaryIO, at_most: int) -> Iterator[tuple[Line, str]]:
    """Its lines and the checksum up to each; Refused unless the last one confirms all others."""
    digest, count, size = hashlib.sha256(), 0, 0
    with gzip.GzipFile(fileobj=file) as unpacked:
        while raw := next_line(unpacked, count):
            size += len(raw)
            if size > at_most:
                raise Refused(f"It unpacks to more than {human_size(at_most)}.")
            line = understood(raw, count)
            if isinstance(line, EndLine):
                confirm(line, count, digest.hexdigest())
                if next_line(unpacked, count):
                    raise Refused("Something follows its last line.")
                yield line, digest.hexdigest()
                return
            digest.update(raw)
            count += 1
            yield line, ""
    raise Refused("It is cut: its last line is missing.")


def next_line(unpacked: gzip.GzipFile, count: int) -> bytes:
    """The next line with its end; empty behind the last one."""
    try:
        raw = unpacked.readline(LINE_BYTES + 1)
    except EOFError as error:
        raise Refused("It is cut: its packed data end too early.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        why = "It is not a gzip file." if count == 0 else f"Its packed data are damaged: {error}."
        raise Refused(why) from error
    if len(raw) > LINE_BYTES:
        raise Refused(f"Line {count + 1} has more than {human_size(LINE_BYTES)}.")
    return bytes(raw)


def understood(raw: bytes, count: int) -> Line:
    """A line as what it says; the first must be a header of this version."""
    try:
        given = json.loads(raw)
    except (ValueError, RecursionError) as error:
        if count == 0:
            raise Refused("It is not a session's file of herdweb.") from error
        raise Refused(f"Line {count + 1} is not JSON.") from error
    if count == 0:
        known_version(given)
    try:
        return AnyLine.validate_python(given)
    except (ValidationError, TypeError, AttributeError) as error:
        raise Refused(f"Line {count + 1} cannot be understood: {first_fault(error)}.") from error


def first_fault(error: Exception) -> str:
    """Which field, and what is wrong with it."""
    if not isinstance(error, ValidationError):
        return "its configuration is none"
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in fault['loc'][1:]) or 'it'}: {fault['msg']}"


def known_version(header: Any) -> None:
    """Whether it is a file of ours, and of this version."""
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise Refused("It is not a session's file of herdweb.")
    if header.get("version") != VERSION:
        raise Refused(
            f"It has version {header.get('version')!r} of its format; this herdweb reads {VERSION}."
        )


def confirm(end: EndLine, count: int, sha256: str) -> None:
    """Whether all that was written was read."""
    if (end.lines, end.sha256) != (count, sha256):
        raise Refused("It was changed: its checksum differs.")
