"""What the provider says when it refuses, in all spellings, and when it will work again."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents.runtimes import read_refusal
from agents.runtimes.refusals import FARTHEST

REJECTED = "API Error: Request rejected (429) · "
# A Saturday.
NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_times_beyond_all_calendars_are_no_times() -> None:
    refusal = read_refusal("You've hit your limit, resets in " + ", ".join(["999999 days"] * 4), NOW, "UTC")
    assert refusal is None or refusal.until is None


@pytest.mark.parametrize(
    ("said", "until"),
    [
        ("Claude AI usage limit reached|1795878000", "2026-11-28T15:00"),
        ("Claude AI usage limit reached|1795878000123", "2026-11-28T15:00"),
        ("Claude usage limit reached. Your limit will reset at 1pm (Etc/GMT+5).", "2026-11-28T18:00"),
        ("Claude Max usage limit reached. Your limit will reset at 12am.", "2026-11-29T00:00"),
        ("You've hit your limit · resets 7am (UTC)", "2026-11-29T07:00"),
        ("You\u2019ve hit your session limit · resets 2:30pm (Pacific/Auckland)", "2026-11-29T01:30"),
        ("You've hit your weekly limit · resets Dec 3, 1pm (Europe/Berlin)", "2026-12-03T12:00"),
        ("You've hit your Opus limit ∙ resets Nov 30 at 9am (PST)", "2026-11-30T17:00"),
        ("5-hour limit reached ∙ resets 11pm", "2026-11-28T23:00"),
        ("Weekly limit reached • resets Monday 9am", "2026-11-30T09:00"),
        ("weekly limit reached - resets Sat 9am", "2026-12-05T09:00"),
        ("Session limit reached | resets 14:05", "2026-11-28T14:05"),
        ("You've hit your session limit. Resets in 3 hours", "2026-11-28T15:00"),
        ("You're out of extra usage · resets Dec 1, 3pm (PDT)", "2026-12-01T22:00"),
        (f"{REJECTED}You've hit your session limit · resets 3pm (Asia/Tokyo)", "2026-11-29T06:00"),
        (f"Exit code 1. {REJECTED}Claude AI usage limit reached|1795878000", "2026-11-28T15:00"),
        # It is just over: to wait for the same time of tomorrow would be wrong.
        ("You've hit your limit · resets 11:55am (UTC)", "2026-11-28T12:01"),
        ("You've hit your limit · resets 3pm (Nowhere/AtAll)", "2026-11-28T15:00"),
        ("You've hit your limit · resets in 2h 15m", "2026-11-28T14:15"),
        ("You've hit your limit · resets tomorrow at 3pm", "2026-11-29T15:00"),
        ("You've hit your limit for Claude messages. Limits will reset at 1:30 PM.", "2026-11-28T13:30"),
        ("You've reached your Fable 5 limit · resets 3pm (UTC)", "2026-11-28T15:00"),
        ("Opus weekly limit reached ∙ resets 3pm", "2026-11-28T15:00"),
        ("You're out of usage credits · resets 12pm (UTC)", "2026-11-28T12:00"),
        (f"{REJECTED}spend limit reached · resets Dec 1", "2026-12-01T00:00"),
        ("You've hit your channel's monthly spend limit. It resets Dec 1, 1am (CET)", "2026-12-01T00:00"),
        ("Your org is out of usage · contact your admin", None),
        ("You've hit your limit", None),
        ("Claude AI usage limit reached|1995878000", None),
        ("You've hit your limit · resets Feb 30, 3pm", None),
        ("You've hit your limit · resets 99:99", None),
        ("You've hit your limit · resets 13pm", None),
        ("You've hit your limit · resets Jan 2, 2027, 1pm (UTC)", None),
        ("You've hit your limit · resets Dec 31, 9999, 11pm (PST)", None),
        ("You've hit your limit · resets Jan 1, 0001, 1am (JST)", None),
    ],
)  # fmt: skip
def test_usage_limits_are_read_with_the_time_of_their_reset(said: str, until: str | None) -> None:
    found = read_refusal(said, NOW)
    assert found is not None
    assert found.kind == "usage"
    assert found.until == (utc(until) if until else None)


def test_a_time_without_a_zone_is_one_of_the_agent_s() -> None:
    found = read_refusal("5-hour limit reached ∙ resets 11pm", NOW, "Europe/Berlin")
    assert found is not None
    assert found.until == datetime(2026, 11, 28, 22, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "shown", "zone", "until"),
    [
        # Clocks skip from 2:00 to 3:00.
        ("2027-03-27T20:00", "2:30am", "Europe/Berlin", "2027-03-28T01:00"),
        # Clocks show 2:00 to 3:00 twice: the first time, the second time, and in between.
        ("2026-10-25T00:30", "2:45am", "Europe/Berlin", "2026-10-25T00:45"),
        ("2026-10-25T01:30", "2:45am", "Europe/Berlin", "2026-10-25T01:45"),
        ("2026-10-25T00:40", "2:15am", "Europe/Berlin", "2026-10-25T01:15"),
        # Just over, though it was yesterday or last year.
        ("2026-11-29T00:02", "11:55pm", "UTC", "2026-11-29T00:03"),
        ("2027-01-01T00:02", "Dec 31, 11:55pm", "UTC", "2027-01-01T00:03"),
        ("2026-11-30T00:02", "Sun 11:55pm", "UTC", "2026-11-30T00:03"),
        ("2028-02-27T03:00", "Feb 29, 3pm", "UTC", "2028-02-29T15:00"),
    ],
)
def test_the_next_moment_at_which_a_clock_shows_it(now: str, shown: str, zone: str, until: str) -> None:
    found = read_refusal(f"You've hit your limit · resets {shown}", utc(now), zone)
    assert found is not None
    assert found.until == utc(until)


def test_the_end_of_the_year_and_of_summer_time_are_no_traps() -> None:
    eve = datetime(2026, 12, 31, 20, 0, tzinfo=UTC)
    found = read_refusal("You've hit your weekly limit · resets Jan 2, 1pm (America/New_York)", eve)
    assert found is not None
    assert found.until == datetime(2027, 1, 2, 18, 0, tzinfo=UTC)
    spring = datetime(2027, 3, 27, 20, 0, tzinfo=UTC)
    found = read_refusal("You've hit your limit · resets 9am (Europe/Berlin)", spring)
    assert found is not None
    assert found.until == datetime(2027, 3, 28, 7, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "kind", "seconds"),
    [
        ("API Error: Request rejected (429) · This would exceed your account's rate limit.", "rate", None),
        ('API Error: 429 {"type":"error","error":{"type":"rate_limit_error"}} retry-after: 30', "rate", 30),
        ("API Error: 529 Overloaded. This is a server-side issue, usually temporary", "overload", None),
        ("API Error: Repeated 529 Overloaded errors", "overload", None),
        ("API Error (503): try again in 2 m", "overload", 120),
        ("Overloaded", "overload", None),
        ("Repeated 529 Overloaded errors", "overload", None),
        ('529 {"type":"error","error":{"type":"overloaded_error"}}', "overload", None),
        ("API Error (us.anthropic.claude: 503 Service Unavailable)", "overload", None),
        ("API Error: Server is temporarily limiting requests (not your usage limit) · Wait", "rate", None),
        ("API Error: 429 try again in 1 minute, 30 seconds", "rate", 90),
        ("API Error: 429 retry-after: 1500ms", "rate", None),
    ],
)
def test_rate_limits_and_overload_are_told_apart(said: str, kind: str, seconds: int | None) -> None:
    found = read_refusal(said, NOW)
    assert found is not None
    assert (found.kind, found.until) == (kind, NOW + timedelta(seconds=seconds) if seconds else None)


@pytest.mark.parametrize(
    "said",
    [
        "I added rate limiting (429) to the API; its window resets at 3pm.",
        "The function returns 'usage limit reached' when you've hit your limit · resets 3pm",
        "Done. The 5-hour limit reached in the tests is now 6 hours.",
        "API Error: 400 refused by the server",
        "API Error: 400 The text that begins with 429 is no image, see 503",
        "You've hit your limit of two files in this exercise, so I stopped.",
        "Session limit reached in the test now raises; it resets 3pm.",
        "Overloaded functions are fine here.",
        "API Error: Connection refused: a firewall or proxy may be blocking it (ECONNREFUSED)",
        "The turn limit was reached.",
        "",
    ],
)
def test_prose_about_limits_is_none(said: str) -> None:
    assert read_refusal(said, NOW) is None


BEGINNINGS = (
    "You've hit your limit · resets ",
    "Claude AI usage limit reached|",
    "API Error: 429 retry-after: ",
)


@given(st.sampled_from(BEGINNINGS), st.text(max_size=40), st.text(max_size=20))
@example("You've hit your limit · resets ", "Feb 29, 2027, 12am", "UTC")
@example("You've hit your limit · resets ", "Dec 31, 9999, 11pm", "America/New_York")
@example("Claude AI usage limit reached|", "9999999999999", "\x00")
def test_whatever_is_said_the_moment_lies_ahead_and_not_far(begin: str, rest: str, zone: str) -> None:
    found = read_refusal(begin + rest, NOW, zone)
    assert found is not None
    assert found.until is None or NOW <= found.until <= NOW + FARTHEST


@given(
    st.text(max_size=60), st.sampled_from(["resets", "429", "You've hit your limit", ""]), st.text(max_size=9)
)
def test_no_text_is_too_strange(begin: str, middle: str, rest: str) -> None:
    found = read_refusal(f"{begin}{middle} {rest}", NOW, rest)
    assert found is None or found.until is None or NOW <= found.until <= NOW + FARTHEST


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2029, 1, 1), timezones=st.just(UTC)),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
    st.integers(1, 7 * 24 * 60),
)
def test_a_moment_as_claude_code_spells_it_is_found_again(now: datetime, zone: str, minutes: int) -> None:
    reset = now.replace(second=0, microsecond=0) + timedelta(minutes=minutes)
    shown = reset.astimezone(ZoneInfo(zone))
    told = f"{shown:%b} {shown.day}, {shown:%Y}, {shown.hour % 12 or 12}:{shown:%M%p}".lower()
    found = read_refusal(f"You've hit your weekly limit · resets {told} ({zone})", now)
    assert found is not None
    assert found.until is not None
    # Where clocks show a time twice, the first is meant, unless that is over.
    once = shown.replace(fold=0).utcoffset() == shown.replace(fold=1).utcoffset()
    assert found.until == reset if once else reset - timedelta(hours=1) <= found.until <= reset
