"""Minutes are put together as a loop over them would do it, at half days and over halts too."""

import random
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.lake.resampling import minutes_of, resample
from datalake_assets_tests.lake.minutes import minute, session_of

FULL, HALF = date(2024, 7, 2), date(2024, 7, 3)
MINUTE = timedelta(minutes=1)


def table(rows: Iterable[dict[str, Any]], schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema)


def naive(rows: Sequence[dict[str, Any]], length: int | None) -> list[dict[str, Any]]:
    """By the definition, minute by minute."""
    bars: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        day, at = row["session"], row["timestamp"]
        if length is None:
            start = market_calendar.session_stamp(day)
        else:
            opens, closes = market_calendar.session_open(day), market_calendar.session_close(day)
            start = opens if at < closes else closes
            while start > at:
                start -= length * MINUTE
            while start + length * MINUTE <= at:
                start += length * MINUTE
        bars.setdefault((row["symbol"], day, start), []).append(row)
    return [
        {
            "symbol": symbol,
            "session": day,
            "timestamp": start,
            "open": of[0]["open"],
            "high": max(row["high"] for row in of),
            "low": min(row["low"] for row in of),
            "close": of[-1]["close"],
            "vwap": average(of),
            "volume": sum(row["volume"] for row in of),
            "trade_count": None
            if any(row["trade_count"] is None for row in of)
            else sum(row["trade_count"] for row in of),
        }
        for (symbol, day, start), of in bars.items()
    ]


def average(rows: Sequence[dict[str, Any]]) -> float | None:
    if len(rows) == 1:
        return rows[0]["vwap"]
    counted = [row for row in rows if row["volume"]]
    if not counted or any(row["vwap"] is None for row in counted):
        return None
    total = sum(row["volume"] for row in counted)
    return pytest.approx(sum(row["vwap"] * row["volume"] for row in counted) / total, rel=1e-12)


@st.composite
def markets(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Minutes of a few symbols and sessions, extended hours among them, some values missing."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    rows: list[dict[str, Any]] = []
    for symbol in sorted(draw(st.sets(st.sampled_from(["A", "B", "BRK.B"]), max_size=3))):
        for day in (FULL, HALF, date(2024, 7, 5)):
            opens = market_calendar.session_open(day)
            count = draw(st.sampled_from([0, 1, 5, 300]))
            for at in sorted(rng.sample(range(-330, 630), count)):
                row = minute(symbol, day, opens + at * MINUTE)
                if rng.random() < 0.05:
                    row["vwap"] = None
                if rng.random() < 0.05:
                    row["trade_count"] = None
                if rng.random() < 0.05:
                    row["volume"] = 0
                rows.append(row)
    return rows


@given(markets(), st.sampled_from([None, 1, 2, 5, 7, 13, 30, 60, 390, 1440]))
def test_a_loop_over_the_minutes_gives_the_same(
    rows: list[dict[str, Any]], length: int | None
) -> None:
    found = resample(table(rows), "session" if length is None else f"{length}min")

    assert found.schema == SCHEMA
    assert found.to_pylist() == naive(rows, length)
    assert sum(found["volume"].to_pylist()) == sum(row["volume"] for row in rows)


@given(markets(), st.sampled_from(["5min", "1h", "session"]))
def test_an_average_is_within_the_bar(rows: list[dict[str, Any]], every: str) -> None:
    for bar in resample(table(rows), every).to_pylist():
        assert bar["low"] <= bar["open"] <= bar["high"]
        assert bar["low"] <= bar["close"] <= bar["high"]
        assert bar["vwap"] is None or bar["low"] <= bar["vwap"] <= bar["high"]


@given(markets(), st.sampled_from([1, 5, 13, 30]))
def test_a_session_of_bars_is_the_session_of_their_minutes(
    rows: list[dict[str, Any]], length: int
) -> None:
    minutes = table([row | {"vwap": None} for row in rows])

    assert resample(resample(minutes, f"{length}m"), "session") == resample(minutes, "session")


def test_bars_of_one_minute_are_the_minutes() -> None:
    minutes = session_of(["A", "B"], HALF)

    assert resample(minutes, "1min") == minutes


@pytest.mark.parametrize(
    ("day", "length", "count", "last"),
    [
        (FULL, 5, 78, "19:55"),
        (FULL, 60, 7, "19:30"),
        (FULL, 7, 56, "19:55"),
        (FULL, 390, 1, "13:30"),
        (HALF, 60, 4, "16:30"),
        (HALF, 5, 42, "16:55"),
    ],
)
def test_bars_are_counted_from_the_open_and_the_last_may_be_short(
    day: date, length: int, count: int, last: str
) -> None:
    found = resample(session_of(["A"], day), f"{length}min")["timestamp"].to_pylist()

    assert len(found) == count
    assert found[0] == market_calendar.session_open(day)
    assert f"{found[-1]:%H:%M}" == last


def test_no_bar_goes_over_the_open_or_the_close() -> None:
    opens, closes = market_calendar.session_open(HALF), market_calendar.session_close(HALF)
    rows = [
        minute("A", HALF, at) for at in (opens - MINUTE, opens, closes - MINUTE, closes + MINUTE)
    ]

    found = resample(table(rows), "1h")["timestamp"].to_pylist()
    half = 30 * MINUTE
    assert found == [opens - 2 * half, opens, closes - half, closes]


def test_there_is_no_bar_where_nothing_traded() -> None:
    opens = market_calendar.session_open(FULL)
    rows = [minute("A", FULL, opens + at * MINUTE) for at in (*range(20), *range(47, 60))]

    found = resample(table(rows), "10m")["timestamp"].to_pylist()
    assert [(at - opens) // MINUTE for at in found] == [0, 10, 40, 50]


def test_a_session_has_the_stamp_of_a_daily_bar() -> None:
    found = resample(session_of(["A"], HALF), "session")

    assert found["timestamp"].to_pylist() == [datetime(2024, 7, 3, 4, tzinfo=UTC)]
    assert found["session"].to_pylist() == [HALF]


def test_only_the_columns_that_are_there_come_back() -> None:
    minutes = session_of(["A"], HALF).select(["close", "timestamp", "session", "symbol"])

    found = resample(minutes, "30min")
    assert found.column_names == minutes.column_names
    assert found["close"].to_pylist() == minutes["close"].to_pylist()[29::30]


def test_two_securities_with_one_ticker_are_two_bars() -> None:
    minutes = session_of(["A"], HALF)
    names = pa.array(["A-1"] * 100 + [None] * 110)
    minutes = minutes.append_column(pa.field("security", pa.string()), names)

    found = resample(minutes, "session")
    assert found["security"].to_pylist() == ["A-1", None]
    assert sum(found["volume"].to_pylist()) == sum(minutes["volume"].to_pylist())


@pytest.mark.parametrize(
    ("every", "minutes"),
    [
        ("5min", 5),
        ("5m", 5),
        (" 1H ", 60),
        ("session", None),
        (timedelta(minutes=3), 3),
        ("24h", 1440),
        ("1440min", 1440),
    ],
)
def test_a_length_may_be_written_as_pandas_and_polars_do(every: Any, minutes: int | None) -> None:
    assert minutes_of(every) == minutes


@pytest.mark.parametrize(
    "every",
    [
        *("", "0min", "min", "-5min", "1441min", "25h", "1d", "5 seconds", 5, None),
        *(timedelta(0), timedelta(seconds=90), timedelta(days=1, minutes=1)),
    ],
)
def test_what_is_no_length_is_refused(every: Any) -> None:
    with pytest.raises(ValueError, match="is no length of a bar: give whole minutes or hours"):
        resample(session_of(["A"], HALF), every)


def test_minutes_that_are_not_in_order_are_refused() -> None:
    minutes = session_of(["A"], HALF)
    shuffled = minutes.take(pa.array([*range(1, minutes.num_rows), 0]))

    with pytest.raises(ValueError, match="the minutes are not in order: sort them by symbol"):
        resample(shuffled, "5min")


@pytest.mark.parametrize("missing", ["symbol", "session", "timestamp", "volume"])
def test_a_column_that_is_needed_and_missing_is_named(missing: str) -> None:
    with pytest.raises(ValueError, match=f"the minutes have no column '{missing}'"):
        resample(session_of(["A"], HALF).drop_columns(missing), "5min")
