"""When a schedule is due: every moment once, none invented, whatever the clocks do."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from django.core.exceptions import ValidationError
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agents.models.cron import fits, is_fixed
from agents.models.moments import Rule, jitter, parse_blackout, parse_cron, parse_interval, parse_zone

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kathmandu", "Pacific/Apia")
# Around changes of the clocks in both directions, ends of years, and leap days.
CORNERS = [
    datetime.fromisoformat(f"{text}+00:00")
    for text in (
        "2026-03-29T01:00", "2026-10-25T01:00", "2026-03-08T07:00", "2026-11-01T06:00", "2026-04-04T15:00",
        "2026-10-03T15:30", "2026-12-31T23:30", "2028-02-28T22:00", "2028-02-29T12:00", "2027-02-28T23:00",
        "2011-12-30T10:00",
    )
]  # fmt: skip
MINUTES = ("*", "0", "30", "*/15", "*/30", "0,30", "59", "10-20/5", "5/20", "45")
HOURS = ("*", "0", "1", "2", "3", "*/2", "1,2,3", "0-4", "23", "2/12", "1-3")
DAYS = ("*", "1", "L", "29", "31", "28-31", "*/2", "LW", "?")
MONTHS = ("*", "2", "mar,oct", "3-4", "*/6", "nov")
WEEK = ("*", "sun", "7", "mon-fri", "5L", "0#2", "6", "?")
expressions = st.tuples(*map(st.sampled_from, (MINUTES, HOURS, DAYS, MONTHS, WEEK))).map(" ".join)
zones = st.sampled_from(ZONES)
instants = st.builds(
    lambda corner, seconds: corner + timedelta(seconds=seconds),
    st.sampled_from(CORNERS),
    st.integers(-3 * 86400, 3 * 86400),
)


def rule(expression: str, zone: str) -> Rule:
    try:
        return Rule(cron=parse_cron(expression), zone=zone)
    except ValidationError:
        assume(False)
        raise


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


@given(expressions, zones, instants)
def test_going_on_from_any_moment_is_going_on_from_long_before(
    expression: str, zone: str, instant: datetime
) -> None:
    found = rule(expression, zone)
    end = instant + timedelta(days=40)
    whole = list(islice(found.between(instant - timedelta(days=3), end), 3000))
    moment, steps = instant, 0
    for expected in [each for each in whole if each > instant][:40]:
        following = found.after(moment)
        assert following == expected
        # Nor is one lost or invented for who asks in between, at any second.
        between = moment + (following - moment) / 2
        assert found.after(between.replace(microsecond=0)) == expected
        moment, steps = following, steps + 1
    assert whole == sorted(set(whole))


@given(expressions, zones, st.sampled_from(CORNERS))
@settings(max_examples=60, deadline=None)
def test_an_oracle_that_looks_at_the_clock_each_minute_says_the_same(
    expression: str, zone: str, corner: datetime
) -> None:
    found = rule(expression, zone)
    begin, end = corner - timedelta(hours=30), corner + timedelta(hours=30)
    assert set(found.between(begin, end)) == set(oracle(found.cron, zone, begin, end))


def oracle(expression: str, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """As Debian's cron: it wakes each minute, and looks after what a change left out or shows again."""
    there, found, shown = ZoneInfo(zone), [], set()
    moment = begin - timedelta(days=2)
    before = moment.astimezone(there).replace(tzinfo=None)
    while moment <= end:
        local = moment.astimezone(there).replace(tzinfo=None)
        walls = [local]
        if is_fixed(expression):
            step = before + timedelta(minutes=1)
            walls = [wall for wall in minutes(step, local) if wall not in shown] if local >= step else [local]
            walls = [wall for wall in walls if wall not in shown]
            shown.update(walls)
        if any(matches(expression, wall) for wall in walls) and moment > begin:
            found.append(moment)
        before, moment = max(before, local), moment + timedelta(minutes=1)
    return found


def minutes(first: datetime, last: datetime) -> list[datetime]:
    return [first + timedelta(minutes=n) for n in range(int((last - first).total_seconds()) // 60 + 1)]


def matches(expression: str, wall: datetime) -> bool:
    """Field by field, with no help of what is tested."""
    minute, hour, day, month, week = expression.split()
    by_day = any(of_month(term, wall) for term in day.split(","))
    by_week = any(of_week(term, wall) for term in week.split(","))
    either = not day.startswith("*") and not week.startswith("*")
    days = by_day or by_week if either else by_day and by_week
    return days and all(
        any(within(term, value, low, high) for term in text.split(","))
        for text, value, low, high in (
            (minute, wall.minute, 0, 59), (hour, wall.hour, 0, 23), (names(month), wall.month, 1, 12)
        )
    )  # fmt: skip


def names(text: str) -> str:
    for number, name in enumerate("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split(), 1):
        text = text.replace(name, str(number))
    return text


def within(term: str, value: int, low: int, high: int) -> bool:
    values, _, step = term.partition("/")
    first, _, last = values.partition("-")
    begin = low if values == "*" else int(first)
    end = high if values == "*" or (step and not last) else int(last or first)
    return begin <= value <= end and (value - begin) % int(step or 1) == 0


def last_day(wall: datetime) -> int:
    return ((wall.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)).day


def of_month(term: str, wall: datetime) -> bool:
    if term == "L":
        return wall.day == last_day(wall)
    if term == "LW":
        day = wall.replace(day=last_day(wall))
        while day.weekday() > 4:
            day -= timedelta(days=1)
        return wall.day == day.day
    return within(term, wall.day, 1, 31)


def of_week(term: str, wall: datetime) -> bool:
    today = wall.isoweekday() % 7
    for number, name in enumerate("SUN MON TUE WED THU FRI SAT".split()):
        term = term.replace(name, str(number))
    if term.endswith("L"):
        return int(term[0]) % 7 == today and wall.day + 7 > last_day(wall)
    if "#" in term:
        return int(term[0]) % 7 == today and (wall.day + 6) // 7 == int(term[2])
    return within(term, today, 0, 7) or (today == 0 and within(term, 7, 0, 7))


@given(expressions, zones, instants, st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_the_last_ones_are_those_in_between(expression: str, zone: str, instant: datetime, most: int) -> None:
    found = rule(expression, zone)
    end = instant + timedelta(days=2)
    between = list(found.between(instant, end))
    assert found.last(instant, end, most) == (len(between), between[-most:])


@given(st.integers(30, 10**6), instants, instants)
def test_an_interval_counts_from_its_anchor(seconds: int, anchor: datetime, instant: datetime) -> None:
    found = Rule(interval=seconds, anchor=anchor).after(instant)
    assert found is not None
    assert found > max(instant, anchor)
    assert (found - anchor) % timedelta(seconds=seconds) == timedelta()
    assert found - timedelta(seconds=seconds) <= max(instant, anchor)


def test_an_interval_with_a_beginning_starts_with_it() -> None:
    begin = at("2026-01-01T00:00")
    found = Rule(interval=3600, anchor=begin, begins=begin, ends=begin + timedelta(hours=2))
    assert found.next(begin - timedelta(days=9), 9) == [begin + timedelta(hours=n) for n in range(3)]
    assert found.after(begin + timedelta(hours=2)) is None


@given(st.text(max_size=60))
def test_whatever_is_typed_is_refused_in_words_or_understood(text: str) -> None:
    for parse in (parse_cron, parse_interval, parse_zone, parse_blackout):
        try:
            found = parse(text)
        except ValidationError:
            continue
        assert parse is parse_interval or str(parse(str(found))) == str(found)


@pytest.mark.parametrize(
    ("typed", "understood"),
    [
        ("@daily", "0 0 * * *"), ("@HOURLY", "0 * * * *"), ("@Annually", "0 0 1 1 *"),
        ("  30 2 * *   mon-fri ", "30 2 * * MON-FRI"), ("0 0 ? * 5#2", "0 0 * * 5#2"),
        ("5/10 * * jan sun", "5/10 * * JAN SUN"), ("0 0 L * 7", "0 0 L * 7"), ("0 0 1 * ?", "0 0 1 * *"),
    ],
)  # fmt: skip
def test_what_people_write_is_understood(typed: str, understood: str) -> None:
    assert parse_cron(typed) == understood


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("* * * *", "has 4 fields; write five: minute hour day-of-month month day-of-week"),
        ("* * * * * *", "has 6 fields"), ("", "is empty; write five"), ("60 * * * *", "minute: '60'"),
        ("*/0 * * * *", "minute: '*/0' is not allowed. Write 0-59"), ("* 24 * * *", "hour: '24'"),
        ("* * 0 * *", "day-of-month: '0'"), ("* * * 13 *", "month: '13'"), ("* * * * 8", "day-of-week: '8'"),
        ("20-10 * * * *", "minute: '20-10'"), ("H * * * *", "minute: 'H'"), ("? * * * *", "minute: '?'"),
        ("@reboot", "Choose from: @hourly"), ("0 0 31 2 *", "This never fires"),
        ("0 0 30,31 feb *", "This never fires"), ("0 0 31 2,4 *", "This never fires"),
        ("\u0661 * * * *", "minute:"), ("1,,2 * * * *", "minute: ''"), ("* " * 200, "at most 200 characters"),
        ("* * * * mon-", "day-of-week: 'mon-'"), ("* * * * 5#6", "day-of-week: '5#6'"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_and_what_is_allowed(typed: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_cron(typed)
    assert said in caught.value.messages[0]


@pytest.mark.parametrize(
    "typed", ["0", "-5m", "1x", "5", "999999d", "1h30m", "1.5h", "29s", "", "0s", "367d"]
)
def test_an_interval_that_is_none_is_refused_with_examples(typed: str) -> None:
    with pytest.raises(ValidationError, match="Write it like 30s, 5m, 2h or 1d: at least 30s"):
        parse_interval(typed)


@pytest.mark.parametrize(("typed", "seconds"), [("30s", 30), ("5M", 300), ("2 h", 7200), ("1d", 86400)])
def test_intervals(typed: str, seconds: int) -> None:
    assert parse_interval(typed) == seconds


def test_zones_are_known_in_any_case_and_others_named() -> None:
    assert parse_zone("europe/berlin") == "Europe/Berlin"
    with pytest.raises(ValidationError, match="Did you mean Europe/Berlin"):
        parse_zone("Europe/Berlim")
    for text in ("Mars/Base", "GMT+25", ""):
        with pytest.raises(ValidationError, match="unknown time zone"):
            parse_zone(text)


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("22:00-06:00", "2026-11-30T23:00 2026-11-30T05:59", "2026-11-30T06:00 2026-11-30T21:59"),
        ("mon-fri 08:00-18:00", "2026-11-30T08:00", "2026-11-29T09:00 2026-11-30T18:00"),
        ("sat,sun 00:00-24:00", "2026-11-28T00:00 2026-11-29T23:59", "2026-11-30T00:00"),
        ("fri 22:00-04:00", "2026-11-27T22:00 2026-11-28T03:59", "2026-11-27T03:00 2026-11-28T22:00"),
        ("2026-12-24 to 2026-12-26", "2026-12-24T00:00 2026-12-26T23:59", "2026-12-27T00:00"),
        ("fri-mon 10:00-11:00", "2026-11-29T10:30", "2026-12-01T10:30"),
    ],
)  # fmt: skip
def test_what_lies_in_a_blackout(window: str, inside: str, outside: str) -> None:
    found = Rule(interval=60, zone="America/New_York", blackouts=(parse_blackout(window),))
    assert all(found.blackout(at(text, "America/New_York")) for text in inside.split())
    assert not any(found.blackout(at(text, "America/New_York")) for text in outside.split())


@pytest.mark.parametrize("text", ["", "25:00-26:00", "10:00", "10:00-10:00", "may 10:00-11:00", "2026-02-30"])
def test_a_window_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_blackout(text)


def test_changes_of_the_clocks_are_told() -> None:
    found = Rule(cron="30 2 * * *", zone="Europe/Berlin")
    assert found.notes(at("2026-11-28T00:00")) == [
        "On 2027-03-28 the clocks in Europe/Berlin go forward and do not show 02:30: it fires at 03:00.",
        "On 2027-10-31 the clocks in Europe/Berlin go back and show 02:30 twice:"
        " it fires once, the first time.",
    ]
    assert Rule(cron="30 12 * * *", zone="Europe/Berlin").notes(at("2026-11-28T00:00")) == []
    assert Rule(cron="* * * * *").notes(at("2026-11-28T00:00")) == ["It fires every minute."]


def test_the_end_of_the_calendar_is_no_error() -> None:
    assert Rule(cron="0 0 1 1 *").after(datetime(9998, 1, 1, tzinfo=UTC)) is None
    assert Rule(interval=3600).after(datetime(9999, 12, 31, tzinfo=UTC)) is None


def test_jitter_is_the_same_each_time_and_within_its_limit() -> None:
    moments = [at("2026-01-01T00:00") + timedelta(minutes=n) for n in range(500)]
    found = [jitter("7", moment, 300) for moment in moments]
    assert found == [jitter("7", moment, 300) for moment in moments]
    assert all(timedelta() <= each <= timedelta(seconds=300) for each in found)
    assert len(set(found)) > 100
    assert jitter("7", moments[0], 0) == timedelta()


def test_terms_are_judged_in_their_field() -> None:
    assert fits(4, "mon-fri")
    assert not fits(3, "mon")
    assert Rule(cron="0 2 * * MON-FRI").explain() == "At 02:00 on Monday through Friday (UTC)"
