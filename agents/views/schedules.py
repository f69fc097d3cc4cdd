"""Schedules: the list, one schedule with its log, its form, the coming week, and its switches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from agents import beats, jobs
from agents import schedules as rules
from agents.lists import ScheduleList
from agents.models import Agent, Audit, Fire, Schedule
from agents.models.moments import parse_zone
from agents.models.rights import RUN
from agents.runtimes import RunError
from agents.scheduleform import ScheduleForm, outlook, preview
from agents.views.access import needs, reason_in, seen
from agents.views.lists import address, listed_page
from agents.views.runs import listed

# Rows of a log's page, runs below it, sessions that a form offers, agents to choose from.
LOG, RECENT, OFFERED, AGENTS = 50, 10, 20, 500
# Of a week: schedules, and moments of one schedule in a day that are shown one by one.
WEEK, SINGLY = 300, 6
DAYS = timedelta(days=7)


@require_safe
def schedules(request: HttpRequest) -> HttpResponse:
    """The schedules that the address asks for, those due next first, and who looks at the clock."""
    form = ScheduleList(request.user, request.GET)
    return listed_page(
        request, form, with_last(Schedule.objects.all()), "schedules", {"clocks": beats.seen()}
    )


def with_last(rows: QuerySet[Schedule]) -> QuerySet[Any]:
    """With what became of the last due moment of each."""
    last = Fire.objects.filter(schedule=OuterRef("pk")).order_by("-moment")
    return rows.select_related("agent").annotate(
        last_kind=Subquery(last.values("kind")[:1]),
        last_moment=Subquery(last.values("moment")[:1]),
        last_run=Subquery(last.values("run__public_id")[:1]),
        last_state=Subquery(last.values("run__state")[:1]),
        last_reason=Subquery(last.values("reason")[:1]),
    )


def one(request: HttpRequest, number: int) -> Schedule:
    """The schedule of this number, if the user may see its agent."""
    return seen(request, Schedule.objects.select_related("agent", "session", "own_session"), pk=number)


@require_safe
def schedule(request: HttpRequest, number: int) -> HttpResponse:
    """One schedule: its rule, what is due next, and what became of each moment."""
    found, now = one(request, number), timezone.now()
    fires = found.fires.select_related("run").order_by("-moment", "-id")
    before = moment_of(request.GET.get("before"))
    rows = list((fires.filter(moment__lt=before) if before else fires)[: LOG + 1])
    broken = rules.broken(found)
    context = {
        "schedule": found,
        "outlook": outlook(found, now) if not broken else None,
        "broken": broken,
        "fires": rows[:LOG],
        "older": rows[LOG - 1].moment.isoformat() if len(rows) > LOG else "",
        "before": before,
        "runs": listed(found.runs.all())[:RECENT],
        "failures": rules.failures(found, found.breaker) if found.breaker else 0,
    }
    return render(request, "agents/schedule.html", context)


def moment_of(text: str | None) -> datetime | None:
    """A moment in an address; nonsense means none."""
    try:
        found = parse_datetime(text or "")
    except ValueError:
        return None
    return found if found and found.tzinfo and 1980 <= found.year <= 2999 else None


# The form.


@require_http_methods(["GET", "HEAD", "POST"])
@needs(RUN)
def schedule_new(request: HttpRequest) -> HttpResponse:
    """A schedule of an agent, which is chosen first."""
    agents = Agent.objects.visible_to(request.user)
    name = request.POST.get("agent") or request.GET.get("agent") or ""
    agent = seen(request, Agent.objects.all(), name=name) if name else None
    if agent is None:
        return render(request, "agents/schedule_agent.html", {"agents": agents.order_by("name")[:AGENTS]})
    form = ScheduleForm(request.POST or None, instance=Schedule(agent=agent))
    return edited(request, form, agent)


@require_http_methods(["GET", "HEAD", "POST"])
@needs(RUN)
def schedule_edit(request: HttpRequest, number: int) -> HttpResponse:
    """Change a schedule; its agent stays."""
    found = one(request, number)
    return edited(request, ScheduleForm(request.POST or None, instance=found), found.agent)


def edited(request: HttpRequest, form: ScheduleForm, agent: Agent) -> HttpResponse:
    """The form, or once it is valid the page of what it made."""
    if request.method == "POST" and form.is_valid():
        saved = form.save_by(request.user)
        messages.success(request, f"Saved. {saved.rule.explain()}.")
        return HttpResponseRedirect(saved.get_absolute_url(), status=303)
    context = {
        "form": form,
        "agent": agent,
        "schedule": form.instance if form.instance.pk else None,
        "kind": form.data.get("kind") or ("interval" if form["interval"].value() else "cron"),
        "zones": sorted(available_timezones()),
        "offers": agent.sessions.all()[:OFFERED],
        "outlook": shown_outlook(form),
    }
    return render(request, "agents/schedule_form.html", context, status=422 if form.errors else 200)


def shown_outlook(form: ScheduleForm) -> dict[str, Any] | None:
    """What a stored schedule comes to; a form that was sent has its script, or its mistakes."""
    stored = form.instance.pk and not form.is_bound and not rules.broken(form.instance)
    return outlook(form.instance, timezone.now()) if stored else None


@require_POST
@needs(RUN)
def schedule_preview(request: HttpRequest) -> JsonResponse:
    """What the form comes to while somebody types; nothing is saved."""
    agent = seen(request, Agent.objects.all(), name=request.POST.get("agent", ""))
    number = request.POST.get("schedule", "")
    rows = (
        Schedule.objects.filter(agent=agent, pk=number)
        if len(number) < 19 and number.isascii() and number.isdigit()
        else []
    )
    form = ScheduleForm(request.POST, instance=next(iter(rows), None) or Schedule(agent=agent))
    return JsonResponse(preview(form, timezone.now()))


# Switches.


@require_POST
@needs(RUN)
def schedule_run(request: HttpRequest, number: int) -> HttpResponse:
    """A run of it now, whatever the clock says."""
    found = one(request, number)
    try:
        run = rules.run_now(found, request.user, jobs.submit)
    except RunError as error:
        messages.error(request, f"Nothing was started. {error}")
        return HttpResponseRedirect(found.get_absolute_url(), status=303)
    return HttpResponseRedirect(run.get_absolute_url(), status=303)


@require_POST
@needs(RUN)
def schedule_pause(request: HttpRequest, number: int) -> HttpResponse:
    """Nothing of it is due until it is resumed."""
    found = one(request, number)
    if not rules.pause(found, request.user, reason_in(request)):
        messages.info(request, "It was paused already.")
    return HttpResponseRedirect(found.get_absolute_url(), status=303)


@require_POST
@needs(RUN)
def schedule_resume(request: HttpRequest, number: int) -> HttpResponse:
    """Due again from now on."""
    found = one(request, number)
    try:
        if not rules.resume(found, request.user):
            messages.info(request, "It was not paused.")
    except RunError as error:
        messages.error(request, f"It stays paused. {error}")
    return HttpResponseRedirect(found.get_absolute_url(), status=303)


@require_POST
@needs(RUN)
def schedule_anew(request: HttpRequest, number: int) -> HttpResponse:
    """Its next run opens a new session of its own; the one that was, stays where it is."""
    found = one(request, number)
    if rules.begin_anew(found, request.user):
        messages.success(request, "Its next run opens a new session.")
    else:
        messages.info(request, "It has no session of its own to leave.")
    return HttpResponseRedirect(found.get_absolute_url(), status=303)


@require_POST
@needs(RUN)
def schedule_delete(request: HttpRequest, number: int) -> HttpResponse:
    """Delete it with its log, after a page that says what goes; its runs stay."""
    found = one(request, number)
    if request.POST.get("sure") != "1":
        context = {"schedule": found, "fires": found.fires.count(), "runs": found.runs.count()}
        return render(request, "agents/schedule_delete.html", context)
    name, agent = str(found), found.agent
    found.delete()
    facts = {"path": agent.get_absolute_url(), "agent": agent}
    Audit.note(request.user, Audit.Deed.DELETED, f"schedule {name}", **facts)
    messages.info(request, f"Deleted the schedule {name}.")
    return HttpResponseRedirect(reverse("agents:schedules"), status=303)


@require_POST
@needs(RUN)
def schedules_pause(request: HttpRequest) -> HttpResponse:
    """Pause all that a list shows, or all of an agent."""
    rows, query = shown_by(request)
    why = reason_in(request)
    count = sum(rules.pause(each, request.user, why) for each in rows.filter(paused_at=None))
    messages.info(request, f"Paused {count} schedule{'' if count == 1 else 's'}.")
    return HttpResponseRedirect(address("schedules", query), status=303)


@require_POST
@needs(RUN)
def schedules_resume(request: HttpRequest) -> HttpResponse:
    """Resume all that a list shows, or all of an agent."""
    rows, query = shown_by(request)
    paused = rows.exclude(paused_at=None)
    count = sum(rules.resume(each, request.user) for each in paused if not rules.broken(each))
    messages.info(request, f"Resumed {count} schedule{'' if count == 1 else 's'}.")
    return HttpResponseRedirect(address("schedules", query), status=303)


def shown_by(request: HttpRequest) -> tuple[QuerySet[Schedule], str]:
    """The schedules of a list, by its address; what means nothing in it would widen what is done."""
    form = ScheduleList(request.user, QueryDict(request.POST.get("query", "")[:4000]))
    if not form.is_valid():
        raise Http404
    return form.everything().select_related("agent").order_by("pk"), form.query()


# The coming week.


@dataclass
class Entry:
    """Moments of one schedule in a day: one, or so many that only their number is shown."""

    schedule: Schedule
    at: datetime
    count: int = 1
    blackout: str = ""


@dataclass
class Day:
    """A day of the calendar."""

    date: date
    entries: list[Entry] = field(default_factory=list)


@require_safe
def schedules_week(request: HttpRequest) -> HttpResponse:
    """What is due in seven days, on the clock of the site or of a zone that was chosen."""
    zone = chosen_zone(request.GET.get("zone"))
    first = day_of(request.GET.get("from")) or timezone.now().astimezone(zone).date()
    rows = Schedule.objects.visible_to(request.user).filter(enabled=True, paused_at=None)
    found = list(rows.select_related("agent").order_by("pk")[: WEEK + 1])
    days = week(found[:WEEK], first, zone)
    context = {
        "days": days,
        "zone": zone.key,
        "zones": sorted(available_timezones()),
        "today": timezone.now().astimezone(zone).date(),
        "before": first - DAYS,
        "after": first + DAYS,
        "first": first,
        "cut": WEEK if len(found) > WEEK else 0,
        "any": any(day.entries for day in days),
    }
    return render(request, "agents/schedules_week.html", context)


def chosen_zone(text: str | None) -> ZoneInfo:
    """A zone by its name in an address; the site's for nonsense."""
    try:
        return ZoneInfo(parse_zone(text or ""))
    except ValidationError:
        return ZoneInfo(timezone.get_default_timezone_name())


def day_of(text: str | None) -> date | None:
    """A day in an address; nonsense means none."""
    try:
        found = parse_date(text or "")
    except ValueError:
        return None
    return found if found and 1980 <= found.year <= 2999 else None


def week(rows: Sequence[Schedule], first: date, zone: ZoneInfo) -> list[Day]:
    """Seven days with what is due in them, by the time of day."""
    days = [Day(first + timedelta(days=number)) for number in range(7)]
    for day in days:
        begin = datetime.combine(day.date, time(), zone)
        end = datetime.combine(day.date + timedelta(days=1), time(), zone) - timedelta(seconds=1)
        for each in rows:
            day.entries += entries(each, max(begin, timezone.now()), end, zone)
        day.entries.sort(key=lambda entry: entry.at)
    return days


def entries(found: Schedule, begin: datetime, end: datetime, zone: ZoneInfo) -> Iterable[Entry]:
    """The moments of one schedule in a day; many of them as one entry."""
    if begin >= end or rules.broken(found) or found.counts_from_end:
        return []
    rule = found.rule
    count, newest = rule.last(begin - timedelta(seconds=1), end, SINGLY)
    if count > SINGLY:
        return [Entry(found, begin.astimezone(zone), count)]
    return [Entry(found, moment.astimezone(zone), 1, rule.blackout(moment)) for moment in newest]
