"""A session as one file, to carry it elsewhere; docs/session-file.md says what is in it."""

from agents.bundle.packing import file_name, obstacle, packed
from agents.bundle.shapes import Refused
from agents.bundle.unpacking import AT_MOST, take_in

__all__ = ["AT_MOST", "Refused", "file_name", "obstacle", "packed", "take_in"]
