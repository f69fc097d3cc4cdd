"""Fields that people write as they think: sizes, durations, lists and maps."""

import json
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.deconstruct import deconstructible

UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
SHOWN = 60
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def shown(text: str) -> str:
    """What was typed, as an error repeats it."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")


def parse_size(text: str) -> int:
    """Bytes from `512m`, `2g`, `1.5 GB`; the units are those of Docker, 1024 to the next."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,6})?)\s*([kmgt]?)i?b?", text.strip().lower())
    if not match:
        raise ValidationError(f"{shown(text)} is not a size. Write it like 512m or 2g.")
    return int(Decimal(match[1]) * UNITS[match[2]])


def parse_seconds(text: str) -> int:
    """Seconds from `30s`, `5m`, `2h`, `1d`, or a bare number of seconds."""
    match = re.fullmatch(r"([0-9]{1,9})\s*([smhd]?)", text.strip().lower())
    if not match:
        raise ValidationError(f"{shown(text)} is not a duration. Write it like 30s, 5m, 2h or 1d.")
    return int(match[1]) * SECONDS[match[2] or "s"]


def write_size(size: int) -> str:
    """The shortest spelling that reads back as the same number."""
    for unit in ("g", "m", "k"):
        if size and size % UNITS[unit] == 0:
            return f"{size // UNITS[unit]}{unit}"
    return str(size)


def write_seconds(seconds: int) -> str:
    """The shortest spelling that reads back as the same number."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % SECONDS[unit] == 0:
            return f"{seconds // SECONDS[unit]}{unit}"
    return f"{seconds}s"


class Written(forms.CharField):
    """A number that is written with a unit."""

    parse: Callable[[str], int]
    write: Callable[[int], str]

    def to_python(self, value: Any) -> Any:
        """The number, or an error that shows how to write it."""
        text = super().to_python(value)
        try:
            return type(self).parse(text) if text else None
        except ValidationError as error:
            # A form says the range there, so that one refusal is enough to get it right.
            raise ValidationError(
                [*error.messages, *filter(None, [self.error_messages.get("invalid")])]
            ) from error

    def prepare_value(self, value: Any) -> Any:
        """The number as people write it; what was typed comes back as it was."""
        return type(self).write(value) if isinstance(value, int) else value


class SizeFormField(Written):
    """512m, 2g."""

    parse = staticmethod(parse_size)
    write = staticmethod(write_size)


class SecondsFormField(Written):
    """30s, 5m, 2h."""

    parse = staticmethod(parse_seconds)
    write = staticmethod(write_seconds)


class LinesFormField(forms.CharField):
    """A list, one item a line, or as JSON; with `words`, one line is split like a shell does it."""

    widget = forms.Textarea(attrs={"rows": 3})

    def __init__(self, *, words: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.words = words

    def to_python(self, value: Any) -> Any:
        """A list of strings."""
        text = super().to_python(json.dumps(value) if isinstance(value, list) else value) or ""
        if text.lstrip().startswith("["):
            return strings(text)
        lines = [line for line in text.splitlines() if line.strip()]
        return split_words(lines[0]) if self.words and len(lines) == 1 else [line.strip() for line in lines]

    def prepare_value(self, value: Any) -> Any:
        """One item a line; as JSON where that would not read back the same."""
        if not isinstance(value, list):
            return value
        return written(self, "\n".join(map(str, value)), value)


class PairsFormField(forms.CharField):
    """A map of texts, one NAME=value a line, or as JSON."""

    widget = forms.Textarea(attrs={"rows": 3})

    def to_python(self, value: Any) -> Any:
        """A map of strings to strings."""
        text = super().to_python(json.dumps(value) if isinstance(value, dict) else value) or ""
        if text.lstrip().startswith("{"):
            return string_map(text)
        return dict(pair(line) for line in text.splitlines() if line.strip())

    def prepare_value(self, value: Any) -> Any:
        """One pair a line; as JSON where that would not read back the same."""
        if not isinstance(value, dict):
            return value
        return written(self, "\n".join(f"{name}={item}" for name, item in value.items()), value)


class ObjectFormField(forms.JSONField):
    """A JSON object; empty means an empty one, and no text is too strange to be refused."""

    def to_python(self, value: Any) -> Any:
        """A map."""
        if isinstance(value, str):
            value = load_json(value) if value.strip() else None
        if not isinstance(value, dict | None):
            raise ValidationError('A JSON object is expected, like {"name": {}}.')
        return value or {}

    def bound_data(self, data: Any, initial: Any) -> Any:
        """What was typed, as it was typed."""
        return data if data is None else forms.fields.InvalidJSONInput(data)


def written(field: forms.Field, text: str, value: object) -> str:
    """The text if it reads back as the value; its JSON, which always does, if not."""
    with suppress(ValidationError):
        if field.to_python(text) == value:
            return text
    return json.dumps(value)


def split_words(line: str) -> list[str]:
    """Words of one line, quotes respected; no shell is involved and nothing is expanded."""
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ValidationError(f"A quote is not closed in {shown(line)}.") from error


def load_json(text: str) -> Any:
    """The value of a JSON text, or an error of one line."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise ValidationError(f"This is not valid JSON: {reason}.") from error


def strings(text: str) -> list[str]:
    """A JSON list of strings."""
    items = load_json(text)
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValidationError("A JSON list here may hold strings only.")
    return items


def string_map(text: str) -> dict[str, str]:
    """A JSON object with strings as values."""
    items = load_json(text)
    if not isinstance(items, dict) or not all(isinstance(item, str) for item in items.values()):
        raise ValidationError("A JSON object here may hold strings only.")
    return items


def pair(line: str) -> tuple[str, str]:
    """NAME=value."""
    name, equals, value = line.strip().partition("=")
    if not equals:
        raise ValidationError(f"{shown(line.strip())} is not of the form NAME=value.")
    return name, value


class SizeField(models.BigIntegerField):  # type: ignore[type-arg]
    """Bytes."""

    def formfield(self, **options: Any) -> Any:
        """Written with a unit."""
        return super(models.IntegerField, self).formfield(**{"form_class": SizeFormField, **options})


class SecondsField(models.PositiveIntegerField):  # type: ignore[type-arg]
    """Seconds."""

    def formfield(self, **options: Any) -> Any:
        """Written with a unit."""
        return super(models.IntegerField, self).formfield(**{"form_class": SecondsFormField, **options})


class LinesField(models.JSONField):
    """A list of strings; `words` as in the form's field."""

    def __init__(self, *arguments: Any, words: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **{"default": list, "blank": True, **options})
        self.words = words

    def formfield(self, **options: Any) -> Any:
        """One item a line."""
        wanted = {"form_class": LinesFormField, "words": self.words, **options}
        return super(models.JSONField, self).formfield(**wanted)


class PairsField(models.JSONField):
    """A map of strings to strings."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{"default": dict, "blank": True, **options})

    def formfield(self, **options: Any) -> Any:
        """One pair a line."""
        return super(models.JSONField, self).formfield(**{"form_class": PairsFormField, **options})


@deconstructible
class Between:
    """A validator that names the range as people write it."""

    def __init__(self, low: float, high: float, write: Callable[[Any], str] = str) -> None:
        self.low, self.high, self.write = low, high, write

    def __str__(self) -> str:
        return f"Must be between {self.write(self.low)} and {self.write(self.high)}."

    def __call__(self, value: float) -> None:
        """Refuse what lies outside, NaN included."""
        if not self.low <= value <= self.high:
            raise ValidationError(str(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Between) and vars(self) == vars(other)
