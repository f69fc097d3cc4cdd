"""The form of a schedule, on the pages, in the admin and in the commands alike."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from agents import schedules
from agents.forms import RowForm, SwitchField
from agents.models import Agent, Audit, Schedule, Session
from agents.models.fields import Written, shown, write_seconds
from agents.models.moments import parse_interval, parse_zone

SCHEDULE_HELP = {
    "name": "Unique for its agent: a-z, A-Z, 0-9, - and _.",
    "cron": "Five fields: minute, hour, day of the month, month, day of the week, like 30 2 * * mon-fri. Or"
    " one of @hourly, @daily, @weekly, @monthly, @yearly.",
    "interval": "A whole number and a unit, like 30s, 5m, 2h or 1d.",
    "counted_from": "From start: every so often, however long a run takes. From end: so long after the end of"
    " a run.",
    "time_zone": "Whose wall clock counts, like Europe/Berlin; with its summer time.",
    "prompt": "Empty: the agent's default prompt. {date}, {time}, {schedule}, {agent}, {last_outcome},"
    " {last_reason} and {last_result} are filled in; {{date}} stays {date}.",
    "conversation": "Its own: the first run opens a session, all others continue it. When a session cannot be"
    " continued nothing starts afresh: the moment is skipped with the reason.",
    "session": "The id of the session to continue, if it is a named one.",
    "enabled": "Off: no moment is due.",
    "starts_at": "No moment before, like 2026-12-01 08:00 in its time zone; an interval begins with it."
    " Empty: from now on.",
    "ends_at": "No moment after. Empty: for ever.",
    "jitter": "Each moment is acted on later by a part of this, like 5m, always the same for the same moment."
    " 0s: at once.",
    "blackouts": "When nothing is started, one a line, in its time zone: 22:00-06:00, mon-fri 08:00-18:00,"
    " sat,sun 00:00-24:00, 2026-12-24 to 2026-12-26. The moment is skipped, not put off.",
    "missed": "What becomes of moments that passed while nobody looked at the clock, because herdweb was not"
    " running.",
    "missed_limit": "With all: a run for each of the newest so many moments.",
    "overlap": "What a moment does while a run of this schedule has not ended.",
    "priority": "Of runs that wait those of higher numbers start first, from -10 to 10. Empty: the agent's.",
    "breaker": "After so many failures in a row it is paused, and says so. Empty: never.",
}
# A change of these means other moments.
WHEN = {"cron", "interval", "counted_from", "time_zone", "enabled", "starts_at", "ends_at", "jitter"}
TYPED_MOMENT = "%Y-%m-%d %H:%M"


class IntervalField(Written):
    """30s, 5m, 2h, 1d: a number needs its unit."""

    parse = staticmethod(parse_interval)
    write = staticmethod(write_seconds)


class SessionField(forms.CharField):
    """A session by its id."""

    def clean(self, value: Any) -> Any:
        """The session, whoever's it is; the row's own rule says that it must be the agent's."""
        # What it is checked for before, its length for one, are rules for a text.
        text = str(super().clean(value) or "").strip()
        if not text:
            return None
        try:
            return Session.objects.get(public_id=text)
        except (Session.DoesNotExist, ValidationError):
            raise ValidationError("Not found: this agent has no such session.") from None

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Whether another id is shown than before."""
        return super().has_changed(self.prepare_value(initial), data)

    def prepare_value(self, value: Any) -> Any:
        """The id that pages show."""
        if isinstance(value, int):
            return str(Session.objects.values_list("public_id", flat=True).filter(pk=value).first() or "")
        return value


class ScheduleForm(RowForm):
    """Every field of a schedule; its agent is fixed."""

    session = SessionField(required=False, max_length=40, label="Named session")
    starts_at = forms.CharField(required=False, max_length=40, label="From")
    ends_at = forms.CharField(required=False, max_length=40, label="Until")

    class Meta:
        model = Schedule
        fields = [
            "name", "cron", "interval", "counted_from", "time_zone", "prompt", "conversation", "session",
            "enabled", "starts_at", "ends_at", "jitter", "blackouts", "missed", "missed_limit", "overlap",
            "priority", "breaker",
        ]  # fmt: skip
        field_classes = {"enabled": SwitchField, "interval": IntervalField}
        error_messages = {"name": {"required": "Name is required."}}
        help_texts = SCHEDULE_HELP

    def __init__(self, *arguments: Any, agent: Agent | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if agent is not None:
            self.instance.agent = agent
        # Django would compare with a hidden field, for a default that is worked out. Who may only
        # look in the admin gets a form without most fields.
        for field in self.fields.values():
            field.show_hidden_initial = False
        for name in self.fields.keys() & {"session", "starts_at", "ends_at", "time_zone"}:
            self.fields[name].help_text = SCHEDULE_HELP[name]
        for name in ("starts_at", "ends_at"):
            self.initial[name] = written(getattr(self.instance, name), self.instance.time_zone)

    def clean_name(self) -> str:
        """Each name once for an agent."""
        name: str = self.cleaned_data["name"]
        agent = self.cleaned_data.get("agent") or self.instance.agent_id
        same = Schedule.objects.filter(agent=agent, name__iexact=name)
        if same.exclude(pk=self.instance.pk).exists():
            raise ValidationError(
                "The agent has a schedule of this name already (names are compared without case)."
            )
        return name

    def clean_time_zone(self) -> str:
        """As the zone database spells it."""
        return parse_zone(self.cleaned_data["time_zone"])

    def clean_cron(self) -> str:
        """None, when an interval was chosen."""
        text: str = " ".join(self.cleaned_data["cron"].split())
        return "" if self.data.get(self.add_prefix("kind")) == "interval" else text

    def clean_interval(self) -> int | None:
        """None, when an expression was chosen."""
        return None if self.data.get(self.add_prefix("kind")) == "cron" else self.cleaned_data["interval"]

    def clean_starts_at(self) -> datetime | None:
        """On the clock of the schedule."""
        return self._moment("starts_at")

    def clean_ends_at(self) -> datetime | None:
        """Likewise."""
        return self._moment("ends_at")

    def clean(self) -> dict[str, Any]:
        """What was typed for the kind of rule that was not chosen is no mistake."""
        data = super().clean() or {}
        unused = {"cron": "interval", "interval": "cron"}.get(self.data.get(self.add_prefix("kind"), ""), "")
        if self.errors.pop(unused, None):
            data[unused] = "" if unused == "cron" else None
        return data

    def _moment(self, name: str) -> datetime | None:
        text = self.cleaned_data[name].strip()
        if not text:
            return None
        try:
            found = parse_datetime(text)
        except ValueError:
            found = None
        if found is None or not 1980 <= found.year <= 2999:
            raise ValidationError(f"{shown(text)} is not a moment. Write it like 2026-12-01 08:00.")
        return found if found.tzinfo else found.replace(tzinfo=ZoneInfo(self._zone()))

    def _zone(self) -> str:
        """What was chosen, if it is one."""
        return str(self.cleaned_data.get("time_zone") or timezone.get_default_timezone_name())

    def save_by(self, who: Any) -> Schedule:
        """Store it with its owner, the next moment and a line in the audit trail; a user, or a name."""
        made, before = self.instance.pk is None, set(self.changed_data)
        schedule: Schedule = self.instance
        schedule.owner = who if getattr(who, "pk", None) else None
        schedule.saved_by = str(who)[:150]
        if before & WHEN:
            schedule.anchor = timezone.now().replace(microsecond=0)
        if made:
            self.save()
        else:
            # Nothing but the form's: it may have been paused, or fired, meanwhile.
            self.save(commit=False)
            schedule.save(update_fields=[*self.Meta.fields, "owner", "saved_by", "anchor", "updated"])
        if made or before & WHEN:
            schedules.set_due(schedule)
        if made or before:
            deed = Audit.Deed.ADDED if made else Audit.Deed.CHANGED
            what = "" if made else f"Changed {', '.join(sorted(before))}."
            schedules.note(schedule, who, what, deed)
        return schedule


def written(moment: datetime | None, zone: str) -> str:
    """A moment as it is typed, on the clock of that zone."""
    return moment.astimezone(ZoneInfo(parse_zone(zone))).strftime(TYPED_MOMENT) if moment else ""


def preview(form: ScheduleForm, now: datetime) -> dict[str, Any]:
    """What a form comes to, as JSON: its mistakes, the rule in words, the next moments, what to know."""
    form.is_valid()
    errors = {name: [str(error) for error in found] for name, found in form.errors.items()}
    if errors.keys() & {*WHEN, "blackouts"}:
        return {"errors": errors, "words": "", "next": [], "notes": []}
    schedule: Schedule = form.instance
    schedule.anchor = now.replace(microsecond=0)
    return {"errors": errors, **outlook(schedule, now)}


def outlook(schedule: Schedule, now: datetime, count: int = 5) -> dict[str, Any]:
    """The rule in words, the next moments on the schedule's clock and in UTC, and what to know of it."""
    rule = schedule.rule
    zone = ZoneInfo(rule.zone)
    return {
        "words": rule.explain(),
        "next": [
            {
                "utc": moment.isoformat(),
                "there": f"{moment.astimezone(zone):%a %Y-%m-%d %H:%M:%S %Z}",
                "blackout": rule.blackout(moment),
            }
            for moment in rule.next(now, count)
        ],
        "notes": rule.notes(now),
    }
