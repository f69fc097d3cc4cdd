"""What lists can be filtered and sorted by; the whole of it is in the address.

A value that cannot be is refused in words and left out, and the rest of the address still holds.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, ClassVar
from uuid import UUID

from django import forms
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db.models import DateTimeField, Exists, F, Model, OuterRef, Q, QuerySet, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Coalesce, Left
from django.db.models.lookups import IContains
from django.http import QueryDict
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime

from agents.keyset import Listing, Order, moment
from agents.models import Agent, Container, DockerSettings, Run, SavedList, Schedule, Session, rules
from agents.models.container import MEMORY, OUTLIVING
from agents.models.fields import parse_seconds, shown
from agents.models.run import COST, DURATION

# How much of a result is searched.
BEGINNING = 1000
# At least as many digits of an id as the pages show.
SOME_ID = re.compile(r"[0-9a-f]{8,32}")
NAMED_AT_MOST = 20

# Links that one person keeps to one list.
KEPT = 50

# When what is never due is due, to sort by.
NEVER = Value(datetime(2999, 1, 1, tzinfo=UTC), output_field=DateTimeField())

ANY = ("", "any")
AGO = ("1h", "24h", "7d", "30d")


def ranked(label: str, key: Combinable) -> Order:
    """An order from most to least, in which newer and older mean nothing."""
    return Order(label, key, back="previous", forth="next")


class Choice(forms.ChoiceField):
    """One of a list, whose refusal says what is on it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(required=False, **options)

    def validate(self, value: Any) -> None:
        """Name what may be chosen, as far as that is readable."""
        if value and not self.valid_value(value):
            known = [str(name) for name, _ in flat(self.choices) if name]
            rest = f" and {len(known) - NAMED_AT_MOST} more" if len(known) > NAMED_AT_MOST else ""
            allowed = f"Choose: {', '.join(known[:NAMED_AT_MOST])}{rest}." if known else "There is none yet."
            raise ValidationError(f"{shown(value)} is not one of these. {allowed}")


def flat(choices: Any) -> Iterable[tuple[str, str]]:
    """Choices without their groups."""
    for value, label in choices:
        yield from label if isinstance(label, list | tuple) else [(value, label)]


class MomentField(forms.CharField):
    """A day, a moment, or how long ago; a day stands for its beginning, or with `ends` for its end."""

    def __init__(self, *, ends: bool = False, **options: Any) -> None:
        attributes = {"list": "ago", "placeholder": "a day, or 24h", "autocomplete": "off"}
        super().__init__(required=False, max_length=40, widget=forms.TextInput(attributes), **options)
        self.ends = ends

    def clean(self, value: Any) -> datetime | None:
        """The moment, in the server's zone unless another is written."""
        text = super().clean(value)
        try:
            # Where it is no moment of UTC any more, no database can compare it.
            return self.read(text).astimezone(UTC) if text else None
        except (ValueError, OverflowError, ValidationError):
            raise ValidationError(
                f"{shown(text)} is not a moment. Write a day like 2026-11-01, a moment like"
                " 2026-11-01 14:30, or how long ago like 24h or 7d."
            ) from None

    def read(self, text: str) -> datetime:
        """The moment, or an error of whoever noticed."""
        day = parse_date(text)
        if day:
            return self.of_day(day)
        found = parse_datetime(text)
        if found:
            return found if found.tzinfo else timezone.make_aware(found)
        return timezone.now() - timedelta(seconds=parse_seconds(text))

    def of_day(self, day: date) -> datetime:
        """Where a day begins, or where the next one does."""
        begin = day + timedelta(days=1) if self.ends else day
        return timezone.make_aware(datetime.combine(begin, time()))


@dataclass(frozen=True)
class Chip:
    """A filter that is on, and the address without it."""

    name: str
    value: str
    without: str


class ListForm(forms.Form):
    """The filters of one list, read from an address, for one user."""

    page: ClassVar[str]
    model: ClassVar[type[Model]]
    orders: ClassVar[Mapping[str, Order]]
    # The column that a range of dates is about.
    dated: ClassVar[str] = "created"

    text = forms.CharField(required=False, max_length=200, widget=forms.TextInput({"type": "search"}))
    agent = Choice()
    since = MomentField(label="From")
    until = MomentField(label="To", ends=True)
    sort = Choice(label="Sorted by")

    # Everything that narrows a list down, in the order of the page.
    narrow: ClassVar[Sequence[str]] = ("text", "agent", "since", "until")

    def __init__(self, user: Any, query: QueryDict) -> None:
        super().__init__(query)
        self.user = user
        self.agents = dict(Agent.objects.visible_to(user).order_by("name").values_list("name", "pk"))
        self.offer("agent", [(name, name) for name in self.agents])
        self.field("sort").choices = [(name, order.label) for name, order in self.orders.items()]
        for field in self.fields.values():
            style = "form-select" if isinstance(field, forms.ChoiceField) else "form-control"
            field.widget.attrs["class"] = style

    def field(self, name: str) -> Any:
        """A field of this form."""
        return self.fields[name]

    def offer(self, name: str, choices: Iterable[tuple[str, Any]]) -> None:
        """What may be chosen, beside nothing."""
        self.field(name).choices = [ANY, *choices]

    def clean(self) -> dict[str, Any]:
        """A range that ends before it begins holds nothing."""
        data = super().clean() or {}
        since, until = data.get("since"), data.get("until")
        if since and until and until <= since:
            self.add_error("until", "This lies before the beginning of the range. Choose a later one.")
        return data

    @property
    def given(self) -> dict[str, Any]:
        """The filters that hold: those that were given and could be understood."""
        self.is_valid()
        return {name: self.cleaned_data[name] for name in self.narrow if self.cleaned_data.get(name)}

    @property
    def suggestions(self) -> dict[str, Sequence[str]]:
        """What is offered beside what can be typed, by the lists' ids in the page."""
        return {"ago": AGO}

    @property
    def refusals(self) -> list[str]:
        """What was left out, and what is allowed."""
        return [
            f"{self.fields[name].label or name.capitalize()}: {' '.join(map(str, errors))} It was left out."
            for name, errors in self.errors.items()
        ]

    @property
    def order(self) -> str:
        """The name of the order; the first one is the usual."""
        self.is_valid()
        return self.cleaned_data.get("sort") or next(iter(self.orders))

    def query(self, without: str = "") -> str:
        """The address of what holds, after its question mark."""
        kept = {name: self.written(name) for name in self.given if name != without}
        if self.order != next(iter(self.orders)) and without != "sort":
            kept["sort"] = self.order
        query = QueryDict(mutable=True)
        query.update(kept)
        return query.urlencode()

    def written(self, name: str) -> str:
        """A value as it was typed: what is said as so long ago stays so."""
        return str(self.data.get(name, "")).strip()

    @property
    def chips(self) -> list[Chip]:
        """The filters that are on."""
        return [
            Chip(str(self.fields[name].label or name), self.spoken(name), self.query(without=name))
            for name in self.given
        ]

    def spoken(self, name: str) -> str:
        """A value as the page calls it."""
        choices = getattr(self.fields[name], "choices", [])
        return str(dict(flat(choices)).get(self.written(name), self.written(name)))

    # Rows.

    def visible(self) -> QuerySet[Any]:
        """What the user may see."""
        rows: QuerySet[Any] = self.model.objects.visible_to(self.user)  # type: ignore[attr-defined]
        return rows.order_by()

    def rows(self) -> QuerySet[Any]:
        """What is visible and passes the filters, all but the text."""
        rows, given = self.visible(), self.given
        if "agent" in given:
            rows = rows.filter(agent=self.agents[given["agent"]])
        if "since" in given:
            rows = rows.filter(**{f"{self.dated}__gte": given["since"]})
        if "until" in given:
            rows = rows.filter(**{f"{self.dated}__lt": given["until"]})
        return rows

    def saying(self, text: str) -> Q:
        """What contains a text."""
        raise NotImplementedError

    @property
    def sorting(self) -> Order:
        """The order; one by age goes by the date when dates are asked for, and finds them by it."""
        order = self.orders[self.order]
        if order.key is None and {"since", "until"} & self.given.keys():
            return replace(order, key=F(self.dated), read=moment)
        return order

    def listing(self) -> Listing[Any]:
        """The list, to be read in pages; a text that is an id finds that row at once."""
        rows, text = self.rows(), self.given.get("text", "")
        order = self.sorting
        if not text:
            return Listing(rows, self.order, order)
        by_id = self.with_id(rows, text)
        if by_id is not None and by_id.exists():
            return Listing(by_id, self.order, order)
        return Listing(rows, self.order, order, self.saying(text))

    def with_id(self, rows: QuerySet[Any], text: str) -> QuerySet[Any] | None:
        """Rows whose id begins with a text; none if no id can."""
        digits = text.lower().replace("-", "")
        if not SOME_ID.fullmatch(digits):
            return None
        return rows.filter(public_id__range=(UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))))

    def everything(self) -> QuerySet[Any]:
        """All that matches, however long it takes to look through it."""
        listing = self.listing()
        return listing.rows.filter(listing.text) if listing.text is not None else listing.rows

    # Links.

    def saved(self) -> QuerySet[SavedList]:
        """The user's own links to this list."""
        return SavedList.objects.filter(user=self.user, page=self.page)

    def save(self, name: str) -> SavedList:
        """Keep the list as it is filtered and sorted; a ValidationError says why not."""
        link = SavedList(user=self.user, page=self.page, name=name.strip(), query=self.query())
        if not link.query:
            raise ValidationError("Choose a filter or an order first: there is nothing to save.")
        if self.saved().count() >= KEPT:
            raise ValidationError(f"You have {KEPT} links to this list already. Delete one first.")
        rules.storable(link.name)
        link.full_clean()
        link.save()
        return link


PENDING, ENDED, WRONG = "pending", "ended", "wrong"


class RunList(ListForm):
    """The runs."""

    page, model = "runs", Run
    orders: ClassVar = {
        "newest": Order("newest"),
        "oldest": Order("oldest", descending=False, back="older", forth="newer"),
        "longest": ranked("longest", DURATION),
        "dearest": ranked("dearest", COST),
    }
    narrow = ("text", "agent", "state", "trigger", "user", "since", "until")

    state = Choice()
    trigger = Choice(choices=[ANY, *Run.Trigger.choices])
    user = Choice(label="Asked by")
    field_order = ("text", "agent", "state", "trigger", "user", "since", "until", "sort")

    # Groups of states by the name that they have in an address.
    GROUPS: ClassVar = {
        "live": ("live", Q(state__in=Run.LIVE)),
        PENDING: ("not started", Q(state__in=Run.PENDING)),
        # Said by what it is not: almost all runs have ended, and no index helps to find almost all.
        ENDED: ("ended", ~Q(state__in=Run.PENDING + Run.LIVE)),
        WRONG: (
            "went wrong",
            Q(state__in=(Run.State.FAILED, Run.State.TIMED_OUT, Run.State.LOST)),
        ),
    }

    def __init__(self, user: Any, query: QueryDict) -> None:
        super().__init__(user, query)
        self.people = people(Run.objects.visible_to(user))
        self.offer("user", [(name, name) for name in self.people])
        groups = [(name, label) for name, (label, _) in self.GROUPS.items()]
        states = [(state, state.replace("_", " ")) for state in Run.State.values]
        self.offer("state", [("groups", groups), ("states", states)])

    def rows(self) -> QuerySet[Any]:
        """Also by state, trigger and who asked."""
        rows, given = super().rows(), self.given
        if "state" in given:
            _, condition = self.GROUPS.get(given["state"], ("", Q(state=given["state"])))
            rows = rows.filter(condition)
        if "trigger" in given:
            rows = rows.filter(trigger=given["trigger"])
        if "user" in given:
            rows = rows.filter(requested_by=self.people[given["user"]])
        return rows

    def saying(self, text: str) -> Q:
        """In the prompt, the reason, or the beginning of the result."""
        result = Q(IContains(Left("result", BEGINNING), text))
        return Q(prompt__icontains=text) | Q(reason__icontains=text) | result


class SessionList(ListForm):
    """The sessions."""

    page, model, dated = "sessions", Session, "last_used"
    orders: ClassVar = {
        "used": Order("last used", F("last_used"), moment),
        "newest": Order("newest"),
        "turns": ranked("most turns", F("turns")),
        "dearest": ranked("dearest", F("cost_usd")),
    }

    def saying(self, text: str) -> Q:
        """In the title."""
        return Q(title__icontains=text)


class ContainerList(ListForm):
    """The containers."""

    page, model = "containers", Container
    orders: ClassVar = {
        "newest": Order("newest"),
        "oldest": Order("oldest", descending=False, back="older", forth="newer"),
        "memory": ranked("most memory", MEMORY),
    }
    narrow = ("text", "agent", "state", "image", "since", "until")

    state = Choice(
        choices=[ANY, ("live", "live"), ("ended", "ended"), ("kept", "kept"), ("removed", "removed")]
    )
    image = forms.CharField(
        required=False, max_length=255, widget=forms.TextInput({"list": "images", "autocomplete": "off"})
    )
    field_order = ("text", "agent", "state", "image", "since", "until", "sort")

    STATES: ClassVar = {
        "live": Q(removed_at=None, finished_at=None),
        "ended": Q(removed_at=None, finished_at__isnull=False),
        "kept": OUTLIVING & Q(removed_at=None, finished_at__isnull=False, unwanted=False),
        "removed": Q(removed_at__isnull=False),
    }

    @property
    def suggestions(self) -> dict[str, Sequence[str]]:
        """Also the images that agents have now; any other can be typed."""
        theirs = DockerSettings.objects.filter(agent__in=self.agents.values())
        images = theirs.order_by("image").values_list("image", flat=True).distinct()
        return {**super().suggestions, "images": list(images)}

    def rows(self) -> QuerySet[Any]:
        """Also by state and image."""
        rows, given = super().rows(), self.given
        if "state" in given:
            rows = rows.filter(self.STATES[given["state"]])
        if "image" in given:
            rows = rows.filter(image=given["image"])
        return rows

    def saying(self, text: str) -> Q:
        """In the name, the image, or the note on its end."""
        return Q(name__icontains=text) | Q(image__icontains=text) | Q(note__icontains=text)

    def with_id(self, rows: QuerySet[Any], text: str) -> QuerySet[Any] | None:
        """By the engine's id."""
        digits = text.lower()
        if not re.fullmatch(r"[0-9a-f]{8,64}", digits):
            return None
        return rows.filter(engine_id__gte=digits, engine_id__lt=f"{digits}g")


class ScheduleList(ListForm):
    """The schedules."""

    page, model = "schedules", Schedule
    orders: ClassVar = {
        "next": Order(
            "due next", Coalesce("due_at", NEVER), moment, descending=False, back="sooner", forth="later"
        ),
        "newest": Order("newest"),
    }
    narrow = ("text", "agent", "state", "since", "until")

    state = Choice(choices=[ANY, ("on", "on"), ("paused", "paused"), ("off", "off"), ("over", "over")])
    field_order = ("text", "agent", "state", "since", "until", "sort")

    STATES: ClassVar = {
        "on": Q(enabled=True, paused_at=None, due_at__isnull=False),
        "paused": Q(paused_at__isnull=False),
        "off": Q(enabled=False),
        # Nothing is due any more, or not before the end of a run.
        "over": Q(enabled=True, paused_at=None, due_at=None),
    }

    def rows(self) -> QuerySet[Any]:
        """Also by state."""
        rows, given = super().rows(), self.given
        return rows.filter(self.STATES[given["state"]]) if "state" in given else rows

    def saying(self, text: str) -> Q:
        """In the name, the rule, or the prompt."""
        return Q(name__icontains=text) | Q(cron__icontains=text) | Q(prompt__icontains=text)

    def with_id(self, rows: QuerySet[Any], text: str) -> QuerySet[Any] | None:
        """None: people know schedules by their names."""
        return None


LISTS: Mapping[str, type[ListForm]] = {
    form.page: form for form in (RunList, SessionList, ContainerList, ScheduleList)
}


def people(runs: QuerySet[Run]) -> dict[str, int]:
    """Who asked for any of these runs, by name."""
    asked = User.objects.filter(Exists(runs.filter(requested_by=OuterRef("pk"))))
    return dict(asked.order_by("username").values_list("username", "pk"))


def runs_matching(user: Any, query: QueryDict) -> QuerySet[Run]:
    """All runs that a list with this address shows on all its pages.

    Raises ValidationError when a part of the address means nothing: what is done to many runs is not
    done to more than were asked for.
    """
    form = RunList(user, query)
    if not form.is_valid():
        raise ValidationError(form.refusals)
    return form.everything()
