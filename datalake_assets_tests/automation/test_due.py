"""The rules: when a session can be had, and whether to ask for it now."""

from datetime import date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.automation.due import (
    Attempt,
    RetrySchedule,
    available_at,
    decide,
    following,
    looked_at_again_at,
    newest,
    next_available,
)
from datalake_assets.collection.dataset import EXTENDED_MINUTE
from datalake_assets.partitions import session_partitions
from datalake_assets_tests.automation.world import utc

HALF_HOUR = timedelta(minutes=30)
RETRIES = RetrySchedule()


@pytest.mark.parametrize(
    ("session", "delay", "at"),
    [
        (date(2025, 12, 5), 30, "2025-12-05 22:00"),  # winter: the partition comes later
        (date(2025, 12, 5), 90, "2025-12-05 22:30"),  # 16:00 in New York is 21:00
        (date(2025, 7, 7), 30, "2025-07-07 22:00"),  # summer: the close is at 20:00
        (date(2025, 7, 7), 150, "2025-07-07 22:30"),
        (date(2025, 11, 28), 30, "2025-11-28 22:00"),  # a half day closes at 18:00
        (date(2025, 11, 28), 270, "2025-11-28 22:30"),
    ],
)
def test_a_session_can_be_had_some_time_after_its_close_and_not_before_its_partition(
    session: date, delay: int, at: str
) -> None:
    assert available_at(session, timedelta(minutes=delay)) == utc(at)


@pytest.mark.parametrize(
    ("after", "session", "at"),
    [
        (date(2025, 12, 4), date(2025, 12, 5), "2025-12-05 22:00"),
        (date(2025, 12, 5), date(2025, 12, 8), "2025-12-08 22:00"),  # over a weekend
        (date(2025, 11, 26), date(2025, 11, 28), "2025-11-28 22:00"),  # over Thanksgiving
    ],
)
def test_the_next_session_and_when_its_bars_can_be_had(after: date, session: date, at: str) -> None:
    assert next_available(after, timedelta(minutes=60)) == (session, utc(at))


@pytest.mark.parametrize(
    ("now", "delay", "session", "at"),
    [
        ("2025-12-05 21:59", 60, date(2025, 12, 5), "2025-12-05 22:00"),
        ("2025-12-05 22:00", 60, date(2025, 12, 8), "2025-12-08 22:00"),
        # After its partition appeared, and before its bars are collected.
        ("2025-12-05 22:30", 120, date(2025, 12, 5), "2025-12-05 23:00"),
        ("2025-12-06 20:59", 1440, date(2025, 12, 5), "2025-12-06 21:00"),
        ("2025-12-06 21:00", 1440, date(2025, 12, 8), "2025-12-09 21:00"),
    ],
)
def test_the_following_session_is_the_first_that_can_not_be_had_yet(
    now: str, delay: int, session: date, at: str
) -> None:
    assert following(utc(now), timedelta(minutes=delay)) == (session, utc(at))


@given(
    st.datetimes(utc("2011-01-10").replace(tzinfo=None), utc("2034-12-01").replace(tzinfo=None)),
    st.integers(1, 10),
    st.integers(0, 600),
)
def test_only_sessions_that_have_a_partition_are_ever_asked_for(
    moment: datetime, count: int, minutes: int
) -> None:
    now = utc(moment.isoformat())

    found = newest(now, count, timedelta(minutes=minutes))

    assert len(found) <= count
    assert found == sorted(set(found))
    assert all(market_calendar.is_session(day) for day in found)
    assert all(market_calendar.session_close(day) < now for day in found)
    partitions = session_partitions(date(2011, 1, 3))
    if found:
        keys = list(partitions.get_partition_keys(current_time=now))[-count - 5 :]
        assert set(map(str, found)) <= set(keys)


@pytest.mark.parametrize(
    ("now", "last"),
    [
        ("2025-11-26 21:59", date(2025, 11, 25)),
        ("2025-11-26 22:00", date(2025, 11, 26)),
        ("2025-11-27 23:59", date(2025, 11, 26)),  # Thanksgiving
        ("2025-11-28 21:59", date(2025, 11, 26)),
        ("2025-11-28 22:00", date(2025, 11, 28)),  # a half day
        ("2025-11-30 12:00", date(2025, 11, 28)),  # Sunday
        ("2035-12-31 21:59", date(2035, 12, 28)),  # the last one that the calendar knows
        ("2035-12-31 22:00", date(2035, 12, 31)),
    ],
)
def test_the_newest_session_is_the_last_one_that_can_be_had(now: str, last: date) -> None:
    assert newest(utc(now), 1, HALF_HOUR) == [last]


def test_a_second_look_comes_with_a_later_session() -> None:
    """Over Thanksgiving and a weekend."""
    wednesday = date(2025, 11, 26)
    assert looked_at_again_at(wednesday, 1, HALF_HOUR) == utc("2025-11-28 22:00")
    assert looked_at_again_at(wednesday, 2, HALF_HOUR) == utc("2025-12-01 22:00")


def test_a_second_look_at_extended_minutes_comes_after_the_later_sessions_hours() -> None:
    """Friday is a half day: its hours end at 17:00 in New York, those of Monday at 20:00."""
    wednesday = date(2025, 11, 26)
    again = [looked_at_again_at(wednesday, n, HALF_HOUR, EXTENDED_MINUTE) for n in (1, 2)]
    assert again == [utc("2025-11-28 22:30"), utc("2025-12-02 01:30")]


def verdict(
    now: str, *ended: str | None, busy: dict[str, str] | None = None
) -> tuple[int | None, str]:
    made = [Attempt(utc(end) if end else None) for end in ended]
    (found,) = decide(
        utc(now),
        {"2025-12-05": "it is wanted"},
        busy=busy or {},
        attempts={"2025-12-05": made},
        retries=RETRIES,
        by_hand="type this {}",
    )
    assert found.partition == "2025-12-05"
    return found.attempt, found.why


def test_what_is_not_wanted_is_not_spoken_of() -> None:
    made = {"2025-12-05": [Attempt(utc("2025-12-05 22:00"))]}
    busy = {"2025-12-05": "run 1"}
    now = utc("2025-12-06")
    assert decide(now, {}, busy=busy, attempts=made, retries=RETRIES, by_hand="") == []


def test_what_somebody_collects_is_left_alone() -> None:
    found = verdict("2025-12-06", busy={"2025-12-05": "run 1 includes it"})
    assert found == (None, "2025-12-05: run 1 includes it")


def test_an_attempt_under_way_is_waited_for() -> None:
    assert verdict("2025-12-06 00:00", "2025-12-05 22:00", None)[0] is None


def test_the_first_attempt_is_made_at_once() -> None:
    assert verdict("2025-12-05 22:00") == (1, "2025-12-05: it is wanted")


@pytest.mark.parametrize(("now", "attempt"), [("22:19", None), ("22:20", 2), ("22:21", 2)])
def test_the_next_attempt_waits_for_its_pause(now: str, attempt: int | None) -> None:
    assert verdict(f"2025-12-05 {now}", "2025-12-05 22:10")[0] == attempt


def test_the_pause_counts_from_the_last_end_in_whatever_order_they_are_told() -> None:
    ends = ("2025-12-05 23:00", "2025-12-05 22:10")
    assert verdict("2025-12-05 23:29", *ends)[0] is None
    assert verdict("2025-12-05 23:30", *ends)[0] == 3


@pytest.mark.parametrize(("made", "attempt"), [(5, 6), (6, 7), (7, None), (8, None)])
def test_the_last_attempt_is_the_last(made: int, attempt: int | None) -> None:
    ends = ["2025-12-05 22:00"] * made
    found, why = verdict("2025-12-20 00:00", *ends)

    assert found == attempt
    assert ("and last" in why, "gave up" in why) == (made == 6, made > 6)
    assert ("`type this 2025-12-05`" in why) == (made > 6)


def test_the_pauses_grow_to_a_bound_and_reach_beyond_a_day() -> None:
    pauses = [RETRIES.pause(made) for made in range(1, RETRIES.attempts)]

    assert [pause / timedelta(minutes=1) for pause in pauses] == [10, 30, 90, 270, 720, 720]
    assert sum(pauses, timedelta()) > timedelta(days=1)
    assert RETRIES.pause(10_000) == timedelta(hours=12)


@pytest.mark.parametrize(("ahead", "asks"), [(0, False), (1, True), (10**8, True)])
def test_an_attempt_that_ended_in_the_future_is_counted_and_not_waited_for(
    ahead: int, asks: bool
) -> None:
    """A clock was wrong; nobody waits until it would be right."""
    now = utc("2025-12-05 23:00")
    made = [Attempt(now + timedelta(seconds=ahead))]
    (verdict,) = decide(
        now, {"a": "due"}, busy={}, attempts={"a": made}, retries=RETRIES, by_hand="type"
    )
    assert verdict.attempt == (2 if asks else None)
