"""Pages of minute bars: each bar is of the day in New York on which it starts, on a full minute.

Not here: what every page has in common, whatever the timeframe (`test_pages`).
"""

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.collect import Page
from datalake_assets.collection.dataset import EXTENDED_MINUTE, MINUTE
from datalake_assets.sources import pages as decoders
from datalake_assets_tests.sources.test_pages import bar, body

NEW_YORK = ZoneInfo("America/New_York")
WINTER, SUMMER = "2024-03-08T14:30:00Z", "2024-03-11T13:30:00Z"


def decode(data: bytes) -> Page:
    """As Python does it; C does the same with the page, or refuses it."""
    by_c = decoders.decode_regular(data, dataset=MINUTE)
    page = decoders.decode(data, MINUTE)
    assert by_c in (None, page)
    return page


def wire(instant: datetime) -> str:
    return f"{instant.astimezone(ZoneInfo('UTC')):%Y-%m-%dT%H:%M:%SZ}"


def test_the_open_is_another_hour_of_utc_in_summer_than_in_winter() -> None:
    page = decode(body({"A": [bar(WINTER), bar(SUMMER), bar("2024-11-04T14:30:00Z")]}))

    assert page.odd == ()
    assert page.bars["session"].to_pylist() == [
        date(2024, 3, 8),
        date(2024, 3, 11),
        date(2024, 11, 4),
    ]
    assert [stamp.hour for stamp in page.bars["timestamp"].to_pylist()] == [14, 13, 14]


@pytest.mark.parametrize("day", [date(2024, 3, 8), date(2024, 3, 11), date(2024, 7, 3)])
def test_the_evening_of_a_session_is_of_that_session_though_utc_has_the_next_day(day: date) -> None:
    """20:00 in New York is the end of the extended hours: 00:00 UTC in summer, 01:00 in winter."""
    last = EXTENDED_MINUTE.hours(day).end - timedelta(minutes=1)
    evening = datetime(day.year, day.month, day.day, 23, 59, tzinfo=NEW_YORK)
    midnight = evening + timedelta(minutes=1)

    page = decode(body({"A": [bar(wire(at)) for at in (last, evening, midnight)]}))

    assert page.bars["session"].to_pylist() == [day, day, day + timedelta(days=1)]


@pytest.mark.parametrize(
    ("stamp", "session"),
    [
        ("2024-03-08T14:30:01Z", date(2024, 3, 8)),
        ("2024-03-08T14:30:00.000001Z", date(2024, 3, 8)),
        ("2024-03-09T00:30:30Z", date(2024, 3, 8)),  # the evening before, in New York
        ("2024-03-08T14:30:00", None),  # of no zone
    ],
)
def test_a_bar_that_does_not_start_on_a_full_minute_is_odd_in_its_session(
    stamp: str, session: date | None
) -> None:
    page = decode(body({"A": [bar(WINTER), bar(stamp)]}))

    assert page.bars["timestamp"].to_pylist() == [datetime.fromisoformat(WINTER)]
    ((symbol, day, why),) = page.odd
    assert (symbol, day) == ("A", session)
    assert why == f"a bar of {stamp}, which is no full minute: no minute bar"


@pytest.mark.parametrize("stamp", ["", "yesterday", "0001-01-01T00:00:00Z"])
def test_a_bar_whose_time_can_t_be_read_is_odd_in_no_known_session(stamp: str) -> None:
    page = decode(body({"A": [bar(WINTER), bar(stamp)]}))

    assert page.bars.num_rows == 1
    ((symbol, day, why),) = page.odd
    assert (symbol, day) == ("A", None)
    assert "unreadable time" in why


def test_a_daily_bar_is_a_minute_of_its_own_night_and_no_error_of_the_page() -> None:
    """Midnight is a full minute. That no session has one then is found by its cell."""
    page = decode(body({"A": [bar("2024-03-08T05:00:00Z")]}))

    assert page.odd == ()
    assert page.bars["session"].to_pylist() == [date(2024, 3, 8)]


days = st.sampled_from(market_calendar.sessions(date(2011, 1, 3), date(2026, 9, 3)))
minutes = st.tuples(days, st.integers(0, 959), st.integers(1, 10**6))


@given(st.dictionaries(st.sampled_from(["A", "BRK.B", "ZZZ"]), st.lists(minutes, max_size=6)))
def test_any_minute_of_any_session_arrives_in_that_session(
    told: dict[str, list[tuple[date, int, int]]],
) -> None:
    """From 04:00 in New York on, also on the days on which the clocks change."""

    def start(day: date, minute: int) -> datetime:
        return EXTENDED_MINUTE.hours(day).first + timedelta(minutes=minute)

    sent: dict[str, list[dict[str, Any]]] = {
        symbol: [bar(wire(start(day, at)), v=volume) for day, at, volume in some]
        for symbol, some in told.items()
    }
    page, tolerant = decode(body(sent)), decode(body({**sent, "odd": [7]}))

    expected = [
        {
            "symbol": symbol,
            "session": day,
            "timestamp": start(day, at),
            "open": 227.41,
            "high": 227.5,
            "low": 227.3,
            "close": 227.455,
            "vwap": 227.383742,
            "volume": volume,
            "trade_count": 2264,
        }
        for symbol, some in told.items()
        for day, at, volume in some
    ]
    assert page.odd == ()
    assert page.bars.equals(pa.Table.from_pylist(expected, SCHEMA))
    assert tolerant.bars.equals(page.bars), "item by item, they are the same"
