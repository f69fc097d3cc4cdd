"""Cron expressions in plain English: cronsim's sentences, with what they get wrong put right."""

import re
from collections.abc import Callable

from cronsim.cronsim import RANGES, Field
from cronsim.explain import ORDINALS
from cronsim.explain import Expression as Sentence

from agents.models.cron import FIELDS

# So many values are named instead of their step.
NAMED = 12
# What steps go round in, and how many values are named all the same.
EVEN = {Field.MINUTE: (60, 1), Field.HOUR: (24, 4)}
NUMBERS = {word: number for number, word in ORDINALS.items()}
ENDINGS = {1: "st", 2: "nd", 3: "rd"}


def ordinal(match: re.Match[str]) -> str:
    """2nd and 31st, for second and 31th."""
    number = NUMBERS.get(match[1]) or int(match[1].removesuffix("th"))
    ending = "th" if number % 100 in (11, 12, 13) else ENDINGS.get(number % 10, "th")
    return f"{number}{ending}"


BETTER: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"\b([0-9]+th)\b", ordinal),
    (
        r"(?<=very )([a-z]+)(?= (?:minute|hour|day)\b)",
        lambda word: ordinal(word) if word[1] in NUMBERS else word[0],
    ),
    (r"\bday of month\b", "day of the month"),
    (r"^Every ([0-9]+)\w\w minute of every hour", r"Every \1 minutes"),
    (r"^Every ([0-9]+)\w\w minute from (?=[0-9]+:)", r"Every \1 minutes from "),
    (r"^Every ([0-9]+)\w\w minute past", r"Every \1 minutes of"),
    (r"^(Every minute(?: from [0-9]+ through [0-9]+)?) past", r"\1 of"),
    (r"^At minute 0 past every ([0-9]+)\w\w hour\b(?! from)", r"Every \1 hours"),
    (r" if it's on ", ", but only on "),
    (r" and on ", ", and also on "),
    (r"\bin every month from ", "from "),
    (r"^(At [0-9:, and]+) (?=from )", r"\1 every day "),
)


def explain_cron(text: str) -> str:
    """What the five fields mean, as a sentence without its full stop."""
    fields = text.upper().split()
    both = fields[2].startswith("*") or fields[4].startswith("*")
    if not both and (full(Field.DAY, fields[2]) or full(Field.DOW, fields[4])):
        # One of the two is enough, and one of them is every day.
        fields[2] = fields[4] = "*"
    sentence = Sentence(list(map(plainer, FIELDS, fields)))
    sentence.day_and = both
    said = sentence.explain()
    for pattern, better in BETTER:
        said = re.sub(pattern, better, said)
    return said


def full(field: Field, text: str) -> bool:
    """Whether it leaves out nothing."""
    every = {value % 7 for value in RANGES[field]} if field == Field.DOW else set(RANGES[field])
    return values(field, text) >= every


def values(field: Field, text: str) -> set[int]:
    """What a field names by numbers, Sunday as 0; without L and #."""
    found = {value for value in field.parse(text) if isinstance(value, int) and value >= 0}
    return {value % 7 for value in found} if field == Field.DOW else found


def plainer(field: Field, text: str) -> str:
    """The same in words that are easier to say: every value, or the few that a step leaves."""
    if full(field, text):
        return "*"
    found = values(field, text)
    if "," in text and len(found) < len(field.parse(text)) and set("L#") & set(text):
        return ",".join(plainer(field, term) for term in text.split(","))
    if "/" not in text or len(found) > NAMED:
        return text
    return text if regular(field, text, len(found)) else ",".join(map(str, sorted(found)))


def regular(field: Field, text: str, count: int) -> bool:
    """Whether its step goes on evenly into the next hour or day, and is shorter to say than its values."""
    size, most = EVEN.get(field, (0, 0))
    step = re.fullmatch(r"\*/([0-9]+)", text)
    return step is not None and size > 0 and count > most and size % int(step[1]) == 0
