"""The moments of rules, against a clock that is read minute by minute, and every refusal."""

import re
import time
from calendar import monthrange
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from functools import lru_cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from django.core.exceptions import ValidationError
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agents.models import clocks
from agents.models.blackouts import WEEKDAYS, Blackout
from agents.models.moments import (
    MAX_INTERVAL,
    MIN_INTERVAL,
    Rule,
    jitter,
    parse_blackout,
    parse_cron,
    parse_interval,
    parse_zone,
)

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
# An hour forward and back, half an hour, over midnight, fifteen minutes once, a day that was left out.
CHANGES = [
    ("Europe/Berlin", "2027-03-28T01:00Z"),
    ("Europe/Berlin", "2027-10-31T01:00Z"),
    ("America/New_York", "2027-03-14T07:00Z"),
    ("America/New_York", "2027-11-07T06:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30Z"),
    ("Australia/Lord_Howe", "2027-04-03T15:00Z"),
    ("Asia/Beirut", "2026-03-28T22:00Z"),
    ("America/Havana", "2026-11-01T05:00Z"),
    ("America/St_Johns", "2010-11-07T02:31Z"),
    ("Asia/Kathmandu", "1985-12-31T18:30Z"),
    ("Pacific/Apia", "2010-09-26T11:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00Z"),
    ("Pacific/Apia", "2012-03-31T14:00Z"),
    ("UTC", "2027-03-28T01:00Z"),
]
ZONES = sorted({zone for zone, _ in CHANGES})
often = hypothesis_settings(deadline=None, max_examples=150)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def cron(text: str, zone: str = "UTC", **options: object) -> Rule:
    return Rule(cron=parse_cron(text), zone=zone, **options)  # type: ignore[arg-type]


def local(moments: list[datetime], zone: str) -> list[str]:
    return [f"{moment.astimezone(ZoneInfo(zone)):%d %H:%M%z}" for moment in moments]


# --- An oracle: Debian's cron, which looks at the clock every minute.


@dataclass
class Spoken:
    """An expression, and what it means without anybody reading it."""

    text: str
    minutes: set[int]
    hours: set[int]
    months: set[int]
    day: Callable[[date], bool]
    starred: bool = field(init=False)

    def __post_init__(self) -> None:
        self.starred = any(part.startswith("*") for part in self.text.split()[:2])

    def matches(self, shows: datetime) -> bool:
        if shows.minute not in self.minutes or shows.hour not in self.hours:
            return False
        return shows.month in self.months and self.day(shows.date())


@lru_cache(maxsize=64)
def clock_of(zone: str, change: str) -> list[tuple[datetime, datetime]]:
    begin = at(change) - 36 * HOUR
    minutes = (begin + number * MINUTE for number in range(3 * 24 * 60))
    return [(minute, minute.astimezone(ZoneInfo(zone)).replace(tzinfo=None)) for minute in minutes]


def watched(spoken: Spoken, zone: str, change: str) -> list[datetime]:
    """Minute by minute: what the clock shows; for fixed times all that it went past, and nothing twice."""
    fired, (_, furthest) = [], clock_of(zone, change)[0]
    for moment, shows in clock_of(zone, change)[1:]:
        passed = [shows]
        if not spoken.starred:
            steps = max((shows - furthest) // MINUTE, 0)
            passed = [furthest + (step + 1) * MINUTE for step in range(steps)]
            furthest = max(furthest, shows)
        if any(spoken.matches(reading) for reading in passed):
            fired.append(moment)
    return fired


# --- Expressions with their meaning.


@st.composite
def terms(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int]]:
    first, last = sorted(draw(st.lists(st.integers(low, high), min_size=2, max_size=2)))
    step = draw(st.integers(1, 20))
    return draw(
        st.sampled_from(
            [
                (f"{first}", {first}),
                (f"{first}-{last}", set(range(first, last + 1))),
                (f"{first}-{last}/{step}", set(range(first, last + 1, step))),
                (f"{first}/{step}", set(range(first, high + 1, step))),
                (f"*/{step}", set(range(low, high + 1, step))),
            ]
        )
    )


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int]]:
    if draw(st.booleans()):
        return "*", set(range(low, high + 1))
    listed = draw(st.lists(terms(low, high), min_size=1, max_size=3))
    return ",".join(text for text, _ in listed), set().union(*(values for _, values in listed))


def any_day(day: date) -> bool:
    return True


def last_day(day: date) -> int:
    return monthrange(day.year, day.month)[1]


def last_workday(day: date) -> int:
    return max(n for n in range(1, last_day(day) + 1) if day.replace(day=n).weekday() < 5)


Days = tuple[str, Callable[[date], bool]]
MONTH_DAYS: st.SearchStrategy[Days] = st.one_of(
    fields(1, 31).map(lambda item: (item[0], lambda day: day.day in item[1])),
    st.just(("L", lambda day: day.day == last_day(day))),
    st.just(("LW", lambda day: day.day == last_workday(day))),
    st.just(("?", any_day)),
)
WEEK_DAYS: st.SearchStrategy[Days] = st.one_of(
    st.just(("*", any_day)),
    fields(0, 7).map(
        lambda item: (item[0], lambda day: bool({day.isoweekday(), day.isoweekday() % 7} & item[1]))
    ),
    st.just(("mon-fri", lambda day: day.weekday() < 5)),
    st.just(("SAT,sun", lambda day: day.weekday() >= 5)),
    st.just(("5L", lambda day: day.weekday() == 4 and day.day + 7 > last_day(day))),
    st.just(("sun#2", lambda day: day.weekday() == 6 and 7 < day.day <= 14)),
)


@st.composite
def expressions(draw: st.DrawFn) -> Spoken:
    minute, minutes = draw(fields(0, 59))
    hour, hours = draw(fields(0, 23))
    month, months = draw(st.one_of(st.just(("*", set(range(1, 13)))), fields(1, 12)))
    in_month, dom = draw(MONTH_DAYS)
    in_week, dow = draw(WEEK_DAYS)
    both = in_month.startswith(("*", "?")) or in_week.startswith("*")
    join = all if both else any
    text = f"{minute} {hour} {in_month} {month} {in_week}"
    return Spoken(text, minutes, hours, months, lambda day: join((dom(day), dow(day))))


def parsed(spoken: Spoken, zone: str) -> Rule | None:
    """The rule; none where no day of 28 years, which are all there are, is meant."""
    try:
        return cron(spoken.text, zone)
    except ValidationError:
        days = (date(2000, 1, 1) + n * DAY for n in range(28 * 366))
        assert not any(day.month in spoken.months and spoken.day(day) for day in days)
        return None


# Where it is difficult: around changes of the clocks, ends of years and leap days.
CORNERS = [at(change) for _, change in CHANGES] + [
    at(text) for text in ("2026-12-31T23:59Z", "2028-02-29T00:00Z", "2028-03-01T00:00Z", "2100-02-28T23:00Z")
]
INSTANTS = st.builds(
    lambda corner, seconds, micro: corner + timedelta(seconds=seconds, microseconds=micro),
    st.sampled_from(CORNERS),
    st.one_of(st.integers(-7500, 7500), st.integers(-200, 200).map(lambda minutes: minutes * 60)),
    st.sampled_from([0, 0, 1, 999_999]),
)
SPELLED = st.sampled_from(
    "* * * * *|*/15 2 * * *|0,30 2 * * *|30 2 * * *|45 1 * * *|5/10 1-3 * * *|0 0 * * *|0 * * * *|1 0 * * *"
    "|59 23 31 12 *|0 0 29 2 *|0 0 L * *|*/20 0 1 1 *|15,45 * * * sun".split("|")
)
RULES = st.builds(cron, SPELLED, st.sampled_from(ZONES)) | st.builds(
    parsed, expressions(), st.sampled_from(ZONES)
).filter(bool)


@pytest.mark.slow
@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_a_rule_fires_as_a_clock_that_is_watched_all_the_time(zone: str, change: str) -> None:
    (first, _), (last, _) = clock_of(zone, change)[0], clock_of(zone, change)[-1]

    @hypothesis_settings(deadline=None, max_examples=60)
    @given(expressions())
    def agree(spoken: Spoken) -> None:
        if rule := parsed(spoken, zone):
            assert list(rule.between(first, last)) == watched(spoken, zone, change)

    agree()


@often
@given(RULES, INSTANTS, st.integers(0, 200))
def test_asking_step_by_step_is_going_through(rule: Rule, begin: datetime, many: int) -> None:
    going = rule.next(begin, many)
    moment, asked = begin, []
    for _ in going:
        step = rule.after(moment)
        assert step is not None
        assert step > moment
        assert step.tzinfo is UTC
        moment = step
        asked.append(step)
    assert asked == going


@often
@given(RULES, INSTANTS, st.lists(st.integers(-9000, 9000), max_size=20))
def test_it_does_not_matter_from_where_it_is_asked(rule: Rule, corner: datetime, seconds: list[int]) -> None:
    through = list(islice(rule.between(corner - 3 * DAY, corner + 900 * DAY), 4000))
    for moment in (corner + timedelta(seconds=second) for second in seconds):
        later = next((due for due in through if due > moment), None)
        assert later is None or rule.after(moment) == later


@often
@given(RULES, INSTANTS, st.integers(0, 4000), st.integers(0, 20))
def test_the_last_ones_are_the_end_of_all(rule: Rule, after: datetime, minutes: int, most: int) -> None:
    until = after + timedelta(minutes=minutes)
    due = list(rule.between(after, until))
    assert rule.last(after, until, most) == (len(due), due[max(len(due) - most, 0) :])
    assert all(after < earlier < later <= until for earlier, later in pairwise([*due[:1], *due][1:]))


@often
@given(expressions(), INSTANTS)
def test_in_utc_it_is_what_cronsim_says(spoken: Spoken, begin: datetime) -> None:
    if rule := parsed(spoken, "UTC"):
        assert rule.next(begin, 20) == list(islice(CronSim(rule.cron, begin), 20))


@often
@given(
    st.integers(MIN_INTERVAL, MAX_INTERVAL) | st.integers(MIN_INTERVAL, 4000),
    INSTANTS,
    st.timedeltas(-400 * DAY, 400 * DAY),
    st.sampled_from(ZONES),
)
def test_an_interval_is_a_grid_in_real_time(
    seconds: int, anchor: datetime, away: timedelta, zone: str
) -> None:
    rule, moment = Rule(interval=seconds, anchor=anchor.astimezone(ZoneInfo(zone)), zone=zone), anchor + away
    due = rule.after(moment)
    assert due
    count, rest = divmod(due - anchor, timedelta(seconds=seconds))
    assert (rest, count >= 1, due > moment) == (timedelta(), True, True)
    assert count == 1 or due - timedelta(seconds=seconds) <= moment
    assert rule.next(moment, 3) == [due + n * timedelta(seconds=seconds) for n in range(3)]


@often
@given(RULES, INSTANTS, st.integers(0, 6000), st.integers(0, 6000))
def test_nothing_is_due_before_it_begins_and_after_it_ends(
    rule: Rule, begin: datetime, one: int, two: int
) -> None:
    begins, ends = begin + one * MINUTE, begin + two * MINUTE
    limited = Rule(cron=rule.cron, zone=rule.zone, begins=begins, ends=ends)
    everything = rule.between(begin - HOUR, begin + 7 * DAY)
    assert limited.next(begin - HOUR, 20_000) == [due for due in everything if begins <= due <= ends]


def test_limits_are_included() -> None:
    noon = at("2026-05-01T12:00Z")
    for rule in (Rule(cron="0 * * * *", begins=noon, ends=noon), Rule(interval=3600, begins=noon, ends=noon)):
        assert rule.next(noon - DAY, 5) == [noon]
        assert rule.after(noon) is None
        assert rule.last(noon - DAY, noon + DAY, 5) == (1, [noon])


# --- Single cases, as they can be read on a wall.


@pytest.mark.parametrize(
    ("text", "since", "expected"),
    [
        ("30 2 * * *", "2027-03-27T12:00Z", ["28 03:00+0200", "29 02:30+0200"]),
        ("0,30 2 * * *", "2027-03-27T12:00Z", ["28 03:00+0200", "29 02:00+0200"]),
        ("0,30 2,3 * * *", "2027-03-27T12:00Z", ["28 03:00+0200", "28 03:30+0200"]),
        ("*/30 2 * * *", "2027-03-27T12:00Z", ["29 02:00+0200", "29 02:30+0200"]),
        ("0 * * * *", "2027-03-28T00:30Z", ["28 03:00+0200", "28 04:00+0200"]),
        ("30 2 * * *", "2027-10-30T12:00Z", ["31 02:30+0200", "01 02:30+0100"]),
        ("*/30 2 * * *", "2027-10-31T00:15Z", ["31 02:30+0200", "31 02:00+0100", "31 02:30+0100"]),
        ("0 * * * *", "2027-10-30T23:30Z", ["31 02:00+0200", "31 02:00+0100", "31 03:00+0100"]),
        # Asked in the second pass of the hour.
        ("45 2 * * *", "2027-10-31T01:30Z", ["01 02:45+0100"]),
        ("*/45 2 * * *", "2027-10-31T01:30Z", ["31 02:45+0100", "01 02:00+0100"]),
        ("45 3 * * *", "2027-10-31T01:30Z", ["31 03:45+0100"]),
    ],
)
def test_changes_of_the_clocks_in_berlin(text: str, since: str, expected: list[str]) -> None:
    rule = cron(text, "Europe/Berlin")
    assert local(rule.next(at(since), len(expected)), "Europe/Berlin") == expected


def test_half_an_hour_is_skipped_and_repeated_on_lord_howe() -> None:
    zone = "Australia/Lord_Howe"
    spring, autumn = at("2026-10-03T14:00Z"), at("2027-04-03T13:50Z")
    assert local(cron("15 2 * * *", zone).next(spring, 2), zone) == ["04 02:30+1100", "05 02:15+1100"]
    assert local(cron("*/20 2 * * *", zone).next(spring, 2), zone) == ["04 02:40+1100", "05 02:00+1100"]
    assert local(cron("*/20 2 * * *", zone).next(autumn, 1), zone) == ["04 02:00+1030"]
    assert local(cron("45 1 * * *", zone).next(autumn, 2), zone) == ["04 01:45+1100", "05 01:45+1030"]
    assert local(cron("*/45 1 * * *", zone).next(autumn, 3), zone)[1:] == ["04 01:45+1100", "04 01:45+1030"]


def test_a_moment_of_another_zone_is_understood() -> None:
    second = datetime(2027, 10, 31, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    assert cron("*/15 * * * *", "Europe/Berlin").after(second) == at("2027-10-31T01:45Z")
    assert Rule(interval=60).last(second.replace(fold=0), second, 1) == (60, [second.astimezone(UTC)])


def test_a_leap_day_waits_for_its_year() -> None:
    assert cron("0 0 29 2 *").after(at("2096-03-01T00:00Z")) == at("2104-02-29T00:00Z")
    assert cron("0 0 29 2 */7").after(at("2072-01-01T00:00Z")) == at("2088-02-29T00:00Z")


@pytest.mark.parametrize("rule", [cron("30 2 * * *", "Pacific/Apia"), Rule(interval=3600), cron("* * * * *")])
def test_the_ends_of_the_calendar_are_no_errors(rule: Rule) -> None:
    for end in (datetime.max, datetime(9999, 6, 1)):
        for zone in (UTC, timezone(-14 * HOUR)):
            assert rule.after(end.replace(tzinfo=zone)) is None
            assert rule.last(end.replace(tzinfo=zone), end.replace(tzinfo=zone), 5) == (0, [])
    for zone in (UTC, timezone(14 * HOUR)):
        assert rule.after(datetime.min.replace(tzinfo=zone))
        assert rule.notes(datetime.max.replace(tzinfo=zone)) == ["It never fires again."]
    assert (
        Rule(cron="* * * * *", begins=datetime.max.replace(tzinfo=UTC)).after(at("2027-01-01T00:00Z")) is None
    )


def test_a_rule_without_anything_is_never_due() -> None:
    assert Rule().after(at("2027-01-01T00:00Z")) is None


def test_a_year_of_minutes_is_counted_quickly() -> None:
    begun, since = time.perf_counter(), at("2026-01-01T00:00Z")
    count, newest = cron("* * * * *", "Europe/Berlin").last(since, since + 365 * DAY, 2)
    assert (count, newest) == (100_000, [since + 365 * DAY - MINUTE, since + 365 * DAY])
    assert time.perf_counter() - begun < 2


# --- What may be written.


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" 5  04\t* * * ", "5 4 * * *"),
        ("0 0 ? * MON-Fri", "0 0 * * mon-fri"),
        ("0 0 ? * ?", "0 0 * * *"),
        ("0 0 l jan,JUL *", "0 0 L jan,jul *"),
        ("0 0 lw * 7", "0 0 LW * 7"),
        ("0 0 * * 5l,fri#02", "0 0 * * 5L,fri#2"),
        ("5/10 */2 1-7 * *", "5/10 */2 1-7 * *"),
        ("5-5/10 3-3 * * mon-mon/2", "5 3 * * mon"),
        ("@Hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@MIDNIGHT", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        (" @annually ", "0 0 1 1 *"),
    ],
)
def test_expressions_get_one_spelling(text: str, normal: str) -> None:
    assert parse_cron(text) == normal == parse_cron(normal)


FIVE = "minute hour day-of-month month day-of-week"
REFUSED: list[tuple[Callable[[str], object], str, str]] = [
    (
        parse_cron,
        "60 * * * *",
        "minute: '60' is not allowed. Write 0-59, a list like 0,30, a range like 1-5, a step like */15, or"
        " *.",
    ),
    (parse_cron, "0,61 * * * *", "minute: '61' is not allowed. Write 0-59,"),
    (parse_cron, "0 24 * * *", "hour: '24' is not allowed. Write 0-23,"),
    (parse_cron, "0 0 0 * *", "day-of-month: '0' is not allowed. Write 1-31,"),
    (parse_cron, "0 0 32 * *", "day-of-month: '32' is not allowed. Write 1-31,"),
    (parse_cron, "0 0 L-3 * *", "day-of-month: 'L-3' is not allowed."),
    (parse_cron, "0 0 L/2 * *", "day-of-month: 'L/2' is not allowed."),
    (parse_cron, "0 0 15W * *", "day-of-month: '15W' is not allowed."),
    (parse_cron, "0 0 * 13 *", "month: '13' is not allowed. Write 1-12 or jan-dec,"),
    (parse_cron, "0 0 * foo *", "month: 'foo' is not allowed."),
    (parse_cron, "0 0 * mon *", "month: 'mon' is not allowed."),
    (parse_cron, "0 0 * * 8", "day-of-week: '8' is not allowed. Write 0-7 or sun-sat (0 and 7 are Sunday),"),
    (parse_cron, "0 0 * * 5#6", "day-of-week: '5#6' is not allowed."),
    (parse_cron, "0 0 * * \u017fun", "day-of-week: '\u017fun' is not allowed."),
    (parse_cron, "*/0 * * * *", "minute: '*/0' is not allowed."),
    (parse_cron, "*/ * * * *", "minute: '*/' is not allowed."),
    (parse_cron, "1,,2 * * * *", "minute: '' is not allowed."),
    (parse_cron, "-5 * * * *", "minute: '-5' is not allowed."),
    (parse_cron, "1.5 * * * *", "minute: '1.5' is not allowed."),
    (parse_cron, "\u0661 * * * *", "minute: '\u0661' is not allowed."),
    (parse_cron, "H * * * *", "minute: 'H' is not allowed."),
    (parse_cron, "? * * * *", "minute: '?' is not allowed."),
    (parse_cron, "0 ? * * *", "hour: '?' is not allowed."),
    (parse_cron, "30-10 * * * *", "minute: '30-10' runs backwards. Write 0-59,"),
    (parse_cron, "0 22-6 * * *", "hour: '22-6' runs backwards."),
    (parse_cron, "0 0 * * fri-mon/2", "day-of-week: 'fri-mon/2' runs backwards."),
    (parse_cron, "0 0 * * * *", f"'0 0 * * * *' has 6 fields; write five: {FIVE}."),
    (parse_cron, "0 0 * *", f"'0 0 * *' has 4 fields; write five: {FIVE}."),
    (parse_cron, "junk", f"'junk' has 1 field; write five: {FIVE}."),
    (parse_cron, "", f"Nothing is written. Write five fields: {FIVE}; or a shortcut like @daily."),
    (parse_cron, "  \t ", "Nothing is written."),
    (
        parse_cron,
        "@reboot",
        "'@reboot' is no shortcut here. Choose from @hourly, @daily, @midnight, @weekly,",
    ),
    (parse_cron, "@daily @daily", "is no shortcut here."),
    (parse_cron, "0 0\n* * *", "an expression is one line"),
    (parse_cron, "0 0 * * *\n", "an expression is one line"),
    (parse_cron, "0 0 * * \x00", "an expression is one line"),
    (parse_cron, "1," * 120 + "1 * * * *", "An expression has at most 200 characters; this one has 249."),
    (parse_cron, "9" * 190 + " * * * *", "minute: '99"),
    *[
        (parse_cron, text, f"'{text}' never fires: no year has a day")
        for text in (
            "0 0 31 2 *",
            "0 0 30 2 *",
            "0 0 31 2,4 *",
            "0 0 31 4,6,9,11 *",
            "0 0 */31 * mon#5",
            "0 0 30 2 */2",
        )
    ],
    *[
        (
            parse_interval,
            text,
            "is not an interval. Write it like 30s, 5m, 2h or 1d: at least 30s, at most 366d.",
        )
        for text in (
            *("", "0", "0s", "-5m", "1x", "5", "1.5h", "1h30m", "999999d", "29s", "367d", "\u0665m", "5m\n"),
            *("5  m", "m", "+5m", "5min", "1e3s", "5m\x00", "9" * 5000 + "s"),
        )
    ],
    (parse_zone, "", "'' is an unknown time zone. Write a name like UTC, Europe/Berlin or America/New_York."),
    (parse_zone, "Mars/Base", "'Mars/Base' is an unknown time zone."),
    (parse_zone, "GMT+25", "'GMT+25' is an unknown time zone."),
    (parse_zone, "Europe/Berln", "The nearest names are Europe/Berlin,"),
    (parse_zone, "berlin", "The nearest names are Europe/Berlin."),
    (parse_zone, "new york", "The nearest names are America/New_York."),
    (parse_zone, "../etc/passwd", "is an unknown time zone."),
    (parse_zone, "Europe/Berlin\x00", "is an unknown time zone."),
    (parse_zone, "localtime", "is an unknown time zone."),
    (parse_zone, "Asia/\u212aathmandu", "is an unknown time zone."),
    (parse_zone, "x" * 100_000, "is an unknown time zone."),
    *[
        (parse_blackout, text, "is not a blackout window. Write it like 22:00-06:00, mon-fri 08:00-18:00,")
        for text in (
            *("", "22:00", "22-06", "mon-fri", "-1:00-02:00", "08:00-18:00 mon", "2026-12-24 to", "1" * 200),
            *("\u0662\u0662:00-06:00", "22:00-06:00\x00", "08:00-10:00,12:00-14:00"),
        )
    ],
    (parse_blackout, "8:00-24:01", "has a time that no clock shows."),
    (parse_blackout, "24:00-06:00", "has a time that no clock shows."),
    (parse_blackout, "08:60-09:00", "has a time that no clock shows."),
    (parse_blackout, "08:00-8:00", "ends when it begins. Write 00:00-24:00 for whole days."),
    (parse_blackout, "mon,foo 08:00-18:00", "'foo' in 'mon,foo 08:00-18:00' is no weekday. Write mon, tue,"),
    (parse_blackout, "mon- 08:00-18:00", "is no weekday."),
    (parse_blackout, "2026-02-29 to 2026-03-01", "has a date that does not exist."),
    (parse_blackout, "2026-12-26 to 2026-12-24", "ends before it begins."),
]


@pytest.mark.parametrize(("rule", "text", "expected"), REFUSED)
def test_a_refusal_says_what_is_allowed(rule: Callable[[str], object], text: str, expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        rule(text)
    assert expected in caught.value.messages[0]


JUNK = st.one_of(
    st.text(),
    st.text("0123456789*/,-?LWHlw#@ \tmonfrijaneb"),
    st.lists(st.text("01234567*/,-?LW#", max_size=6), min_size=5, max_size=5).map(" ".join),
    expressions().map(lambda spoken: spoken.text),
)


@hypothesis_settings(deadline=None, max_examples=500)
@given(JUNK)
def test_no_text_breaks_a_parser(text: str) -> None:
    for parse in (parse_zone, parse_blackout, parse_cron):
        with suppress(ValidationError):
            assert parse(str(parse(text))) == parse(text)
    with suppress(ValidationError):
        assert MIN_INTERVAL <= parse_interval(text) <= MAX_INTERVAL
    with suppress(ValidationError):
        assert cron(text).after(CORNERS[0])
        assert re.fullmatch("(At|Every) [ -~]+", cron(text).explain())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), (" 2 H ", 7200), ("1D", 86400), ("366d", MAX_INTERVAL), ("007m", 420)],
)
def test_intervals_are_read_as_they_are_written(text: str, seconds: int) -> None:
    assert parse_interval(text) == seconds


def test_zones_are_found_in_any_case() -> None:
    names = ["utc", "EUROPE/berlin", " America/Argentina/Buenos_Aires ", "etc/gmt+5", "gb-eire"]
    expected = ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "GB-Eire"]
    assert [parse_zone(name) for name in names] == expected


def test_a_system_without_zones_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "available_timezones", set)
    clocks.zones.cache_clear()
    with pytest.raises(ValidationError, match="Install its package tzdata"):
        parse_zone("UTC")
    monkeypatch.undo()
    clocks.zones.cache_clear()
    assert parse_zone("utc") == "UTC"


# --- Windows.


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("22:00-06:00", "22:00-06:00"),
        (" MON-FRI  8:00 - 18:00 ", "mon-fri 08:00-18:00"),
        ("sat,sun 00:00-24:00", "sat,sun 00:00-24:00"),
        ("fri-mon 01:00-02:00", "mon,fri-sun 01:00-02:00"),
        ("mon,tue,wed,sun 01:00-02:00", "mon-wed,sun 01:00-02:00"),
        ("mon-sun 01:00-02:00", "01:00-02:00"),
        ("2026-12-24 to 2026-12-26", "2026-12-24 to 2026-12-26"),
        ("2026-12-24", "2026-12-24"),
    ],
)
def test_windows_are_written_as_they_are_read(text: str, written: str) -> None:
    assert str(parse_blackout(text)) == written
    assert parse_blackout(written) == parse_blackout(text)


@often
@given(
    st.builds(
        Blackout,
        st.integers(0, 1439),
        st.integers(0, 1440),
        st.frozensets(st.sampled_from(range(len(WEEKDAYS))), min_size=1),
    ).filter(lambda window: window.begins != window.ends)
)
def test_every_window_can_be_read_back(window: Blackout) -> None:
    assert parse_blackout(str(window)) == window


def inside(window: str, moments: Iterator[str], zone: str = "UTC") -> list[bool]:
    rule = Rule(cron="* * * * *", zone=zone, blackouts=(parse_blackout(window),))
    return [rule.blackout(at(moment)) == str(parse_blackout(window)) for moment in moments]


@pytest.mark.parametrize(
    ("window", "zone", "within", "without"),
    [
        ("22:00-06:00", "UTC", ["2026-05-01T22:00Z", "2026-05-02T05:59:59Z"], ["2026-05-02T06:00Z"]),
        ("22:00-00:00", "UTC", ["2026-05-01T23:59Z"], ["2026-05-01T00:00Z", "2026-05-01T21:59Z"]),
        # Friday's window goes on into Saturday, Sunday's early hours belong to Saturday.
        ("fri 22:00-06:00", "UTC", ["2026-05-01T22:00Z", "2026-05-02T05:00Z"], ["2026-05-01T05:00Z"]),
        ("fri 22:00-06:00", "UTC", ["2026-05-02T00:00Z"], ["2026-05-02T22:00Z", "2026-05-03T05:00Z"]),
        ("sun 22:00-06:00", "UTC", ["2026-05-04T01:00Z"], ["2026-05-03T01:00Z", "2026-05-04T22:00Z"]),
        ("mon-fri 08:00-18:00", "UTC", ["2026-05-01T08:00Z"], ["2026-05-01T18:00Z", "2026-05-02T08:00Z"]),
        ("sat,sun 00:00-24:00", "UTC", ["2026-05-02T00:00Z", "2026-05-03T23:59Z"], ["2026-05-04T00:00Z"]),
        ("08:00-09:00", "Europe/Berlin", ["2026-05-01T06:30Z"], ["2026-05-01T08:30Z"]),
        ("02:00-03:00", "Europe/Berlin", ["2027-10-31T00:30Z", "2027-10-31T01:30Z"], ["2027-10-31T02:30Z"]),
        ("2026-12-24 to 2026-12-26", "Europe/Berlin", ["2026-12-23T23:00Z"], ["2026-12-26T23:00Z"]),
        (
            "2026-12-24 to 2026-12-26",
            "UTC",
            ["2026-12-24T00:00Z", "2026-12-26T23:59Z"],
            ["2026-12-27T00:00Z"],
        ),
    ],
)
def test_windows_hold_what_clocks_show(window: str, zone: str, within: list[str], without: list[str]) -> None:
    assert all(inside(window, iter(within), zone))
    assert not any(inside(window, iter(without), zone))


def test_moments_in_a_window_are_due_and_told() -> None:
    rule = Rule(
        cron="0 * * * *", blackouts=(parse_blackout("sat 00:00-24:00"), parse_blackout("22:00-06:00"))
    )
    due = rule.next(at("2026-05-01T20:30Z"), 4)
    assert [rule.blackout(moment) for moment in due] == ["", "22:00-06:00", "22:00-06:00", "sat 00:00-24:00"]


# --- In words.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("* * * * *", "Every minute"),
        ("0-59 */1 * * *", "Every minute"),
        ("*/5 * * * *", "Every 5 minutes"),
        ("*/2 * * * mon", "Every 2 minutes on Monday"),
        ("*/20 * * * *", "Every 20 minutes"),
        ("*/25 * * * *", "At minutes 0, 25, and 50 of every hour"),
        ("*/90 * * * *", "At the start of every hour"),
        ("*/15 9-17 * * 1-5", "Every 15 minutes from 09:00 through 17:59 on Monday through Friday"),
        ("*/5 9,17 * * *", "Every 5 minutes of hours 9 and 17"),
        ("5/10 * * * *", "At minutes 5, 15, 25, 35, 45, and 55 of every hour"),
        ("30 2 * * *", "At 02:30 every day"),
        ("0,30 2 * * *", "At 02:00 and 02:30 every day"),
        ("0 */2 * * *", "Every 2 hours"),
        ("30 */3 * * *", "At minute 30 past every 3rd hour"),
        ("0 */12 * * *", "At 00:00 and 12:00 every day"),
        ("0 */5 * * *", "At minute 0 past hours 0, 5, 10, 15, and 20"),
        ("0 * * * *", "At the start of every hour"),
        ("* */2 * * *", "Every minute of every 2nd hour"),
        ("0 0 1 * *", "At 00:00 on the first day of every month"),
        ("0 0 22 * *", "At 00:00 on the 22nd day of every month"),
        ("0 0 11,21,31 * *", "At 00:00 on the 11th, the 21st, and the 31st day of the month"),
        ("0 0 */2 * *", "At 00:00 on every 2nd day of the month"),
        ("0 0 L * *", "At 00:00 on the last day of every month"),
        ("0 0 LW * *", "At 00:00 on the last weekday of every month"),
        ("0 0 * * 5L", "At 00:00 on the last Friday of the month"),
        ("0 0 * * 5#2", "At 00:00 on the second Friday of the month"),
        ("0 0 * * 7", "At 00:00 on Sunday"),
        ("0 0 * * */2", "At 00:00 on Sunday, Tuesday, Thursday, and Saturday"),
        ("0 0 * * 5L,*/3", "At 00:00 on the last Friday of the month, Sunday, Wednesday, and Saturday"),
        ("0 0 13 * 5", "At 00:00 on the 13th day of the month, and also on Friday"),
        ("0 0 */2 * 5", "At 00:00 on every 2nd day of the month, but only on Friday"),
        ("0 0 13 * 0-6", "At 00:00 every day"),
        ("0 0 1-31 * mon", "At 00:00 every day"),
        ("0 0 * jan-jun *", "At 00:00 every day from January through June"),
        ("0 0 * */4 *", "At 00:00 every day in January, May, and September"),
        ("0 0 1 1 *", "At 00:00 on January 1"),
    ],
)
def test_expressions_are_told_in_words(text: str, said: str) -> None:
    assert cron(text).explain() == said
    assert cron(text, "Europe/Berlin").explain() == f"{said} (Europe/Berlin)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1h", "Every hour, counted from 2026-05-01 12:00 UTC"),
        ("90m", "Every 90 minutes, counted from 2026-05-01 12:00 UTC"),
        ("2d", "Every 2 days, counted from 2026-05-01 12:00 UTC"),
        ("45s", "Every 45 seconds, counted from 2026-05-01 12:00 UTC"),
    ],
)
def test_intervals_are_told_in_words(text: str, said: str) -> None:
    assert Rule(interval=parse_interval(text), anchor=at("2026-05-01T12:00Z")).explain() == said


def test_an_interval_is_told_by_the_clocks_of_its_zone() -> None:
    rule = Rule(interval=7200, anchor=at("2026-05-01T12:00:05Z"), zone="Europe/Berlin")
    assert rule.explain() == "Every 2 hours, counted from 2026-05-01 14:00:05 (Europe/Berlin)"


BERLIN = "clocks in Europe/Berlin go"


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (
            "30 2 * * *",
            [
                f"On 2027-03-28 {BERLIN} forward and 02:30 does not exist: it fires at 03:00.",
                f"On 2027-10-31 {BERLIN} back and 02:30 comes twice: it fires once, the first time.",
            ],
        ),
        (
            "0,30 2 * * *",
            [
                f"On 2027-03-28 {BERLIN} forward and 02:00 and 02:30 do not exist: it fires once, at 03:00.",
                f"On 2027-10-31 {BERLIN} back and 02:00 and 02:30 come twice: it fires once for each, the"
                " first time.",
            ],
        ),
        (
            "*/10 2 * * sun",
            [
                f"On 2027-03-28 {BERLIN} forward and 02:00 to 02:50 do not exist: it does not fire then.",
                f"On 2027-10-31 {BERLIN} back and 02:00 to 02:50 come twice: it fires both times.",
            ],
        ),
        ("30 2 * * mon", []),
        ("30 3 * * *", []),
        ("*/5 * * * *", []),
        ("* * * * *", ["It fires every minute."]),
        (
            "* 9 * * *",
            ["It fires 60 times in each of its hours. To fire once in an hour, write 0 as the minute."],
        ),
    ],
)
def test_what_may_surprise_is_noted(text: str, notes: list[str]) -> None:
    assert cron(text, "Europe/Berlin").notes(at("2027-01-01T00:00Z"), days=365) == notes


def test_notes_of_other_clocks() -> None:
    apia = cron("30 2 * * *", "Pacific/Apia").notes(at("2011-12-01T00:00Z"), 60)
    assert apia == [
        "On 2011-12-30 clocks in Pacific/Apia go forward and 02:30 does not exist:"
        " it fires at 00:00 on 2011-12-31."
    ]
    howe = cron("0 * * * *", "Australia/Lord_Howe").notes(at("2026-09-01T00:00Z"), 300)
    assert howe == [
        "On 2026-10-04 clocks in Australia/Lord_Howe go forward and 02:00 does not exist:"
        " it does not fire then."
    ]
    assert cron("30 2 * * *").notes(at("2027-01-01T00:00Z")) == []


def test_notes_keep_to_the_time_of_the_rule() -> None:
    since, summer = at("2027-01-01T00:00Z"), at("2027-06-01T00:00Z")
    assert len(cron("30 2 * * *", "Europe/Berlin", begins=summer).notes(since)) == 1
    assert len(cron("30 2 * * *", "Europe/Berlin", ends=summer).notes(since)) == 1
    assert cron("30 2 * * *", ends=since).notes(since) == ["It never fires again."]
    assert Rule(interval=60).notes(since) == ["It fires every minute."]
    assert Rule(interval=30).notes(since) == ["It fires every 30 seconds."]
    assert Rule(interval=300, zone="Europe/Berlin").notes(since) == []


# --- Jitter.


@often
@given(st.text(), INSTANTS, st.integers(-5, 5000))
def test_a_delay_is_the_same_each_time_and_never_too_long(key: str, moment: datetime, most: int) -> None:
    delay = jitter(key, moment, most)
    assert timedelta() <= delay <= timedelta(seconds=max(most, 0))
    assert delay == jitter(key, moment.astimezone(ZoneInfo("Asia/Kathmandu")), most)


def test_delays_are_spread() -> None:
    moments = Rule(interval=3600).next(at("2026-05-01T12:00Z"), 300)
    delays = [jitter("schedule 1", moment, 9).seconds for moment in moments]
    assert set(delays) == set(range(10))
    assert delays != [jitter("schedule 2", moment, 9).seconds for moment in moments]
