"""When the symbol-years of the running year follow their sessions, and when they may wait."""

from datetime import UTC, date, datetime

import pytest

from datalake_assets import market_calendar
from datalake_assets.lake.currency import follow_with
from datalake_assets.lake.manifest import Manifest

WEEKS = market_calendar.sessions(date(2025, 6, 2), date(2025, 6, 27))
"""Four weeks; the third has no Thursday, 2025-06-19."""
MONDAY, TUESDAY, WEDNESDAY, THURSDAY, FRIDAY = WEEKS[5:10]
TODAY = date(2025, 6, 12)


def shown(*days: date, year: int = 2025, whole: bool = True) -> Manifest:
    ended = datetime(2025, 6, 6, tzinfo=UTC) if whole else None
    return Manifest(year, dict.fromkeys(days, "v"), published_at=ended)


BEFORE = WEEKS[:5]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_sessions_of_a_week_wait_for_its_last_one(count: int) -> None:
    assert follow_with(shown(*BEFORE), WEEKS[: 5 + count], TODAY) == FRIDAY


def test_the_last_session_of_a_week_waits_for_nothing() -> None:
    assert follow_with(shown(*BEFORE), WEEKS[:10], TODAY) is None
    assert follow_with(shown(*BEFORE, MONDAY), WEEKS[:10], TODAY) is None


def test_a_week_whose_last_session_never_came_is_over_with_the_next_session() -> None:
    there = [*WEEKS[:9], WEEKS[10]]
    assert follow_with(shown(*BEFORE), there, TODAY) is None


def test_a_holiday_on_friday_makes_thursday_the_last_session() -> None:
    week = market_calendar.sessions(date(2025, 4, 14), date(2025, 4, 17))
    assert follow_with(shown(*week[:1]), week[:3], TODAY) == date(2025, 4, 17)
    assert follow_with(shown(*week[:1]), week, TODAY) is None


def test_restated_sessions_wait_for_the_end_of_the_week_that_is_or_comes() -> None:
    assert follow_with(shown(*WEEKS[:6]), WEEKS[:6], TODAY) == FRIDAY
    assert follow_with(shown(*WEEKS[:10]), WEEKS[:10], TODAY) == date(2025, 6, 20)


def test_a_hole_of_an_earlier_week_that_was_filled_does_not_wait() -> None:
    there = [*BEFORE, MONDAY]
    assert follow_with(shown(*BEFORE[1:]), there, TODAY) is None


def test_what_was_never_published_or_was_cut_off_does_not_wait() -> None:
    assert follow_with(Manifest(2025), WEEKS[:6], TODAY) is None
    assert follow_with(shown(*BEFORE, whole=False), WEEKS[:6], TODAY) is None
    assert follow_with(shown(), [], TODAY) is None


def test_a_session_that_is_gone_does_not_wait() -> None:
    assert follow_with(shown(*BEFORE), [*BEFORE[1:], MONDAY], TODAY) is None


@pytest.mark.parametrize(
    ("today", "waits"), [(date(2025, 12, 31), True), (date(2026, 1, 1), False)]
)
def test_a_year_that_is_over_does_not_wait(today: date, waits: bool) -> None:
    days = market_calendar.sessions(date(2025, 12, 26), date(2025, 12, 30))
    told = follow_with(shown(*days[:1]), days, today)
    assert told == (date(2025, 12, 31) if waits else None)


def test_the_last_session_of_a_year_ends_its_week() -> None:
    days = market_calendar.sessions(date(2025, 12, 26), date(2025, 12, 31))
    assert follow_with(shown(*days[:1]), days, date(2025, 12, 31)) is None
    # Restated after it was shown: there is no other session to wait for.
    assert follow_with(shown(*days), days, date(2025, 12, 31)) is None
