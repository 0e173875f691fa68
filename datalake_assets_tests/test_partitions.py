"""Partitions: every session of the calendar, nothing else, and each from its own evening on.

Not here: whether the calendar itself is right (`test_market_calendar`).
"""

from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.automation.due import PARTITION_APPEARS
from datalake_assets.partitions import session_partitions, why_no_partition

FIRST = date(2011, 1, 3)
LATER = datetime(2031, 1, 1, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")

INSTANTS = st.timedeltas(timedelta(days=30), timedelta(days=7_300)).map(
    lambda passed: datetime(2011, 1, 3, tzinfo=UTC) + passed
)


@cache
def partitions() -> dg.DailyPartitionsDefinition:
    return session_partitions(FIRST)


@cache
def all_keys() -> list[str]:
    return list(partitions().get_partition_keys(current_time=LATER))


def keys_at(now: datetime, since: date) -> list[str]:
    """The partitions that there are at an instant; those of `since` and later."""
    while not market_calendar.is_session(since):
        since += timedelta(days=1)
    return list(session_partitions(since).get_partition_keys(current_time=now))


def days(texts: list[str]) -> list[date]:
    return [date.fromisoformat(text) for text in texts]


def test_every_session_from_2011_to_2030_is_a_partition_and_nothing_else() -> None:
    assert days(all_keys()) == market_calendar.sessions(FIRST, date(2030, 12, 31))


@pytest.mark.parametrize(
    "closed",
    [
        "2012-10-29",  # hurricane Sandy
        "2012-10-30",
        "2018-12-05",  # mourning for George H. W. Bush
        "2025-01-09",  # mourning for Jimmy Carter
        "2021-12-24",  # Christmas observed
        "2022-06-20",  # Juneteenth observed, in its first year
        "2026-04-03",  # Good Friday
        "2026-07-03",  # Independence Day observed
        "2024-07-06",  # a Saturday
        "2024-07-07",  # a Sunday
    ],
)
def test_a_day_on_which_the_exchange_is_closed_is_no_partition(closed: str) -> None:
    assert closed not in all_keys()
    assert not partitions().has_partition_key(closed)


@pytest.mark.parametrize(
    "session",
    [
        "2024-07-03",  # half days
        "2024-11-29",
        "2024-12-24",
        "2012-10-31",  # the first session after Sandy
        "2021-06-18",  # Juneteenth was no holiday of the exchange yet
        "2021-12-31",  # New Year's Day on a Saturday closes no Friday
    ],
)
def test_a_half_day_or_an_unusual_session_is_a_partition(session: str) -> None:
    assert session in all_keys()
    assert partitions().has_partition_key(session)


def test_each_partition_is_one_day_long_also_before_a_weekend_and_a_holiday() -> None:
    definition = partitions()

    for key in ("2024-07-03", "2024-07-05", "2026-07-02", "2024-12-31"):
        window = definition.time_window_for_partition_key(key)
        assert window.end - window.start == timedelta(days=1)


@pytest.mark.parametrize(
    ("newest", "appears", "local"),
    [
        # The last Friday of winter time, the first Monday of summer time, and back.
        ("2024-03-08", "2024-03-08T22:00", "17:00"),
        ("2024-03-11", "2024-03-11T22:00", "18:00"),
        ("2024-11-01", "2024-11-01T22:00", "18:00"),
        ("2024-11-04", "2024-11-04T22:00", "17:00"),
        # Half days close at 13:00, and their partitions appear with the others'.
        ("2024-07-03", "2024-07-03T22:00", "18:00"),
        ("2024-11-29", "2024-11-29T22:00", "17:00"),
        # A year's first session and last one.
        ("2024-12-31", "2024-12-31T22:00", "17:00"),
        ("2025-01-02", "2025-01-02T22:00", "17:00"),
    ],
)
def test_a_session_appears_on_its_own_evening_and_not_a_moment_before(
    newest: str, appears: str, local: str
) -> None:
    instant = datetime.fromisoformat(appears).replace(tzinfo=UTC)
    session = date.fromisoformat(newest)
    (before,) = market_calendar.previous_sessions(session, 1)

    assert keys_at(instant - timedelta(microseconds=1), before) == [before.isoformat()]
    assert keys_at(instant, before) == [before.isoformat(), newest]
    assert instant > market_calendar.session_close(session)
    assert f"{instant.astimezone(NEW_YORK):%H:%M}" == local


def test_over_a_weekend_with_a_holiday_the_newest_partition_stays_the_last_closed_session() -> None:
    """With `end_offset=1` Dagster shows Monday's session on Friday's holiday (dagster#33551)."""
    thursday_evening = datetime(2026, 7, 2, 22, tzinfo=UTC)
    monday_evening = datetime(2026, 7, 6, 22, tzinfo=UTC)

    instant = thursday_evening
    while instant < monday_evening:
        assert keys_at(instant, date(2026, 7, 1)) == ["2026-07-01", "2026-07-02"], instant
        instant += timedelta(hours=1)

    assert keys_at(monday_evening, date(2026, 7, 1))[-1] == "2026-07-06"


@given(now=INSTANTS)
@settings(max_examples=60)
def test_at_any_instant_the_newest_partition_is_closed_and_none_that_closed_is_late(
    now: datetime,
) -> None:
    keys = keys_at(now, now.date() - timedelta(days=20))
    newest = date.fromisoformat(keys[-1])
    closed = market_calendar.latest_closed_session(now)

    assert market_calendar.session_close(newest) < now
    assert newest == closed or now < datetime.combine(closed, datetime.min.time(), UTC) + (
        PARTITION_APPEARS
    )
    assert days(keys) == market_calendar.sessions(days(keys)[0], newest)


@given(now=INSTANTS)
@settings(max_examples=60)
def test_what_status_expects_without_dagster_is_what_dagster_shows(now: datetime) -> None:
    since = now.date() - timedelta(days=20)

    expected = market_calendar.sessions(since, (now - PARTITION_APPEARS).date())

    assert days(keys_at(now, since)) == expected


def test_status_and_dagster_agree_at_the_very_instant() -> None:
    for day in market_calendar.sessions(date(2024, 2, 26), date(2024, 3, 22)):
        instant = datetime.combine(day, datetime.min.time(), UTC) + PARTITION_APPEARS
        assert (instant - PARTITION_APPEARS).date() == day
        assert keys_at(instant, day) == [day.isoformat()]
        assert (instant - timedelta(microseconds=1) - PARTITION_APPEARS).date() < day
        assert keys_at(instant - timedelta(microseconds=1), day) == []


@pytest.mark.parametrize("start", [date(2011, 1, 1), date(2011, 1, 2), date(2012, 10, 29)])
def test_a_start_that_is_no_session_is_refused(start: date) -> None:
    with pytest.raises(ValueError, match=f"start at a trading session, and {start} is not one"):
        session_partitions(start)


def test_partitions_start_at_the_session_they_are_told_to() -> None:
    partitions_of_alpaca = session_partitions(date(2016, 1, 4))

    assert partitions_of_alpaca.get_first_partition_key() == "2016-01-04"
    assert not partitions_of_alpaca.has_partition_key("2015-12-31")


@pytest.mark.parametrize(
    ("day", "now", "why"),
    [
        ("2024-07-06", "2024-07-09 00:00", "it is not a trading session but a Saturday"),
        (
            "2024-07-04",
            "2024-07-09 00:00",
            "it is not a trading session but a holiday or a special",
        ),
        (
            "2024-07-05",
            "2024-07-09 00:00",
            "it is not a trading session but a closure that DATALAKE_C",
        ),
        ("2023-12-29", "2024-07-09 00:00", "the first session is 2024-01-02 (DATALAKE_START_DATE"),
        ("2036-01-02", "2024-07-09 00:00", "2036-01-02 is outside the XNYS calendar"),
        (
            "2024-07-08",
            "2024-07-08 19:59",
            "it has not closed. It closes at 2024-07-08 20:00 UTC and can be collected from 22:00",
        ),
        (
            "2024-07-08",
            "2024-07-08 20:00",
            "it closed at 2024-07-08 20:00 UTC and can be collected from 22:00 UTC",
        ),
        (
            "2024-07-08",
            "2024-07-08 21:59",
            "it closed at 2024-07-08 20:00 UTC and can be collected",
        ),
        ("2024-07-08", "2024-07-08 22:00", None),
        # A half day, in summer and in winter.
        (
            "2024-07-03",
            "2024-07-03 17:00",
            "it closed at 2024-07-03 17:00 UTC and can be collected",
        ),
        ("2024-11-29", "2024-11-29 17:59", "it has not closed. It closes at 2024-11-29 18:00 UTC"),
    ],
)
def test_why_a_day_can_t_be_collected(
    day: str, now: str, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATALAKE_CLOSURES", "2024-07-05")
    at = datetime.fromisoformat(now).replace(tzinfo=UTC)

    found = why_no_partition(date.fromisoformat(day), date(2024, 1, 2), at)

    assert found is None if why is None else found and found.startswith(why)


@given(now=INSTANTS, ahead=st.integers(-12, 4))
@settings(max_examples=100)
def test_a_day_has_a_partition_or_a_reason_why_it_has_none(now: datetime, ahead: int) -> None:
    day = now.date() + timedelta(days=ahead)
    first = market_calendar.sessions(now.date() - timedelta(days=40), now.date())[0]

    assert (why_no_partition(day, first, now) is None) == (day.isoformat() in keys_at(now, first))
