"""Bars of whole years are what the daily bars that are served add up to."""

from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.exchange import years
from datalake_assets.exchange.market import Bars, is_ticker
from datalake_assets.exchange.recorded import RecordedMarket
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets_tests.exchange.calling import BARS, NOW, call, frozen, rows, walk
from datalake_assets_tests.exchange.test_openapi import problems, specification

MARKET = SyntheticMarket(active=30, inactive=12)
EXCHANGE = frozen(MARKET)
SYMBOLS = sorted(row["symbol"] for row in MARKET.assets() if is_ticker(row["symbol"]))
ALL = {"symbols": ",".join(SYMBOLS), "start": "2011-01-01", "end": "2026-09-03T17:00:00Z"}
YEARLY = {"timeframe": "12Month"}

Rows = list[tuple[str, dict[str, Any]]]


def added_up(daily: Rows) -> Rows:
    """The years' bars that these daily ones make, computed bar by bar."""

    def year(row: tuple[str, dict[str, Any]]) -> tuple[str, str]:
        return row[0], row[1]["t"][:4]

    made = []
    for (symbol, of), group in groupby(daily, key=year):
        bars = [bar for _, bar in group]
        volume = sum(bar["v"] for bar in bars)
        whole = {
            "c": bars[-1]["c"],
            "h": max(bar["h"] for bar in bars),
            "l": min(bar["l"] for bar in bars),
            "n": sum(bar["n"] for bar in bars),
            "o": bars[0]["o"],
            "t": f"{of}-01-01T05:00:00Z",
            "v": volume,
            "vw": sum(bar["vw"] * bar["v"] for bar in bars) / volume,
        }
        made.append((symbol, whole))
    return made


def alike(yearly: Rows, expected: Rows) -> bool:
    """Equal, but for the last digit of the average price."""
    return len(yearly) == len(expected) and all(
        got == (symbol, {**bar, "vw": pytest.approx(bar["vw"], abs=2e-6)})
        for got, (symbol, bar) in zip(yearly, expected, strict=True)
    )


def answers(exchange: Exchange, **query: Any) -> tuple[Rows, Rows]:
    """The yearly bars, and the daily ones of the same range."""
    return rows(walk(exchange, **query, **YEARLY)), rows(walk(exchange, limit=10_000, **query))


@settings(max_examples=25)
@given(
    st.lists(st.sampled_from([*SYMBOLS, "NOSUCH"]), min_size=1, max_size=5, unique=True),
    st.integers(2011, 2026),
    st.integers(0, 15),
    st.integers(1, 40),
)
def test_a_years_bar_is_made_of_the_daily_ones(
    symbols: list[str], first: int, more: int, limit: int
) -> None:
    last = min(first + more, 2026)
    end = f"{last}-12-31T23:59:59Z" if last < 2026 else ALL["end"]
    span = {"symbols": ",".join(symbols), "start": f"{first}-01-01", "end": end}
    yearly = rows(walk(EXCHANGE, limit=limit, **span, **YEARLY))
    assert alike(yearly, added_up(rows(walk(EXCHANGE, limit=10_000, **span))))


def test_the_comparison_would_find_a_fault() -> None:
    span = {"start": "2015-01-01", "end": "2017-12-31"}
    traded = next(s for s in SYMBOLS if len(call_years(s, *span.values())) == 3)
    yearly, daily = answers(EXCHANGE, symbols=traded, **span)
    assert yearly
    assert alike(yearly, added_up(daily))
    for name in yearly[0][1]:
        if name != "t":
            wrong = [(yearly[0][0], {**yearly[0][1], name: yearly[0][1][name] + 1}), *yearly[1:]]
            assert not alike(wrong, added_up(daily))


def test_a_year_in_which_a_symbol_did_not_trade_has_no_bar_and_one_that_never_did_no_key() -> None:
    page = call(EXCHANGE, **ALL, **YEARLY, limit=10_000).json()
    daily = {
        (MARKET_BARS.symbols[symbol], MARKET.sessions[session].year)
        for symbol, session in zip(MARKET_BARS.symbol, MARKET_BARS.session, strict=True)
    }
    told = {(s, int(bar["t"][:4])) for s, bars in page["bars"].items() for bar in bars}
    assert told == daily
    assert set(page["bars"]) < set(SYMBOLS), "some of them ended before the market's history"


MARKET_BARS = MARKET.bars(SYMBOLS, 0, MARKET.visible(NOW))


@pytest.mark.parametrize("timeframe", ["12Month", "12M"])
def test_both_spellings_of_the_timeframe_are_served(timeframe: str) -> None:
    answer = call(EXCHANGE, **ALL, timeframe=timeframe)
    assert answer.body == call(EXCHANGE, **ALL, **YEARLY).body


@pytest.mark.parametrize("timeframe", ["1Month", "6M", "13Month", "12Mon", "1Year"])
def test_other_spans_are_refused(timeframe: str) -> None:
    answer = call(EXCHANGE, **ALL, timeframe=timeframe)
    assert (answer.status, timeframe in answer.message) == (400, True)


# Bounds and pages


@pytest.mark.parametrize(
    ("start", "end", "years"),
    [
        ("2015-01-01T05:00:00Z", "2017-01-01T05:00:00Z", [2015, 2016, 2017]),
        ("2015-01-01T05:00:00.000000001Z", "2017-01-01T05:00:00Z", [2016, 2017]),
        ("2015-01-01T05:00:00Z", "2017-01-01T04:59:59.999999999Z", [2015, 2016]),
        ("2015-01-01T00:00:00Z", "2016-12-31T23:59:59Z", [2015, 2016]),
        ("2015-01-01", "2016-01-01", [2015, 2016]),
        ("2015-01-02", "2015-12-31", []),
    ],
)
def test_a_year_is_served_whose_first_instant_lies_in_the_range(
    start: str, end: str, years: list[int]
) -> None:
    symbol = next(
        name for name in SYMBOLS if len(call_years(name, "2011-01-01", "2026-01-01")) == 16
    )
    assert call_years(symbol, start, end) == years


def call_years(symbol: str, start: str, end: str) -> list[int]:
    answer = call(EXCHANGE, symbols=symbol, start=start, end=end, **YEARLY)
    return [int(bar["t"][:4]) for bar in answer.json()["bars"].get(symbol, [])]


@pytest.mark.parametrize("sort", ["asc", "desc"])
def test_pages_of_any_size_hold_the_same_bars_and_only_the_last_has_no_token(sort: str) -> None:
    query = ALL | YEARLY | {"sort": sort}
    (whole,) = walk(EXCHANGE, limit=10_000, **query)
    everything = rows(iter([whole]))
    for limit in (2, 15, 16, 17, len(everything) - 1, len(everything), len(everything) + 1):
        pages = list(walk(EXCHANGE, limit=limit, **query))
        assert len(pages) == -(-len(everything) // limit)
        assert rows(iter(pages)) == everything
        assert [len(rows(iter([page]))) for page in pages[:-1]] == [limit] * (len(pages) - 1)


# The year under way


@pytest.mark.parametrize("day", [date(2024, 1, 2), date(2024, 7, 3), date(2024, 12, 31)])
def test_the_year_under_way_is_made_of_the_sessions_that_are_served(day: date) -> None:
    served = market_calendar.session_close(day) + timedelta(minutes=15)
    seen = {}
    for name, now in (("before", served - timedelta(seconds=1)), ("after", served)):
        exchange = frozen(MARKET, clock=lambda now=now: now)
        end = (now - timedelta(minutes=16)).strftime("%Y-%m-%dT%H:%M:%SZ")
        yearly, daily = answers(exchange, symbols=ALL["symbols"], start="2024-01-01", end=end)
        assert alike(yearly, added_up(daily))
        seen[name] = {bar["t"][:10] for _, bar in daily}
    assert f"{day}" in seen["after"]
    assert f"{day}" not in seen["before"]


def test_a_year_that_has_begun_without_a_session_has_no_bar() -> None:
    holiday = frozen(MARKET, clock=lambda: datetime(2024, 1, 1, 20, tzinfo=UTC))
    query = {"symbols": ALL["symbols"], "start": "2023-01-01", "end": "2024-01-01T19:00:00Z"}
    yearly = rows(walk(holiday, **query, **YEARLY))
    assert {bar["t"] for _, bar in yearly} == {"2023-01-01T05:00:00Z"}


# Recorded bars


def test_years_of_recorded_bars_are_made_of_the_recorded_ones() -> None:
    spec = find_spec("bokeh_sampledata")
    assert spec is not None
    assert spec.origin is not None
    recorded = frozen(RecordedMarket(Path(spec.origin).parent / "_data" / "stocks.csv.gz"))
    query = {"symbols": "AAPL,FB,GOOG,IBM,MSFT", "start": "2000-01-01", "end": "2013-12-31"}
    yearly, daily = answers(recorded, **query)
    assert alike(yearly, added_up(daily))
    years = [int(bar["t"][:4]) for symbol, bar in yearly if symbol == "FB"]
    assert years == [2012, 2013]
    assert len(yearly) == 3 * 14 + 2 + 10  # GOOG went public in 2004


def recording(folder: Path, *lines: str) -> Exchange:
    path = folder / "bars.csv"
    path.write_text("\n".join(["symbol,session,open,high,low,close,volume", *lines]) + "\n")
    return frozen(RecordedMarket(path))


def test_the_volume_of_a_year_is_told_to_the_last_share(tmp_path: Path) -> None:
    days = market_calendar.sessions(date(2018, 1, 1), date(2018, 12, 31))
    exchange = recording(tmp_path, *(f"A,{day},1,1,1,1,{10**12 - 1}" for day in days))
    page = call(exchange, symbols="A", start="2018-01-01", end="2018-12-31", **YEARLY).json()
    assert [bar["v"] for bar in page["bars"]["A"]] == [251 * (10**12 - 1)]


def test_a_recording_that_lacks_a_whole_year_serves_the_others(tmp_path: Path) -> None:
    exchange = recording(tmp_path, "A,2018-07-03,1,1,1,1,5", "A,2020-07-02,2,2,2,2,7")
    query = {"symbols": "A", "start": "2018-01-01", "end": "2020-12-31"}
    yearly, daily = answers(exchange, **query)
    assert [(bar["t"][:4], bar["v"]) for _, bar in yearly] == [("2018", 5), ("2020", 7)]
    assert alike(yearly, added_up(daily))


@pytest.mark.filterwarnings("error")
def test_a_recorded_year_without_volume_has_a_price_all_the_same(tmp_path: Path) -> None:
    exchange = recording(tmp_path, "A,2018-07-03,1,1,1,1,0", "A,2018-07-05,2,2,2,2,0")
    page = call(exchange, symbols="A", start="2018-01-01", end="2018-12-31", **YEARLY).json()
    (bar,) = page["bars"]["A"]
    assert bar["v"] == 0
    assert 1 <= bar["vw"] <= 2


# Alpaca's specification


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (BARS, {**ALL, "limit": 100}),
        (BARS, {**ALL, "limit": 10_000, "currency": "USD"}),
        (BARS, {**ALL, "symbols": "NOSUCH"}),
        ("/v2/stocks/{symbol}/bars", {**ALL, "symbols": None}),
    ],
)
def test_a_page_of_years_is_as_specified(path: str, query: dict[str, Any]) -> None:
    specification("data")  # skips here, before anything is asked
    answer = call(EXCHANGE, path.replace("{symbol}", SYMBOLS[0]), **query, **YEARLY)
    assert answer.status == 200
    assert problems("data", path, 200, answer.json()) == []


@settings(max_examples=20)
@given(
    st.lists(st.sampled_from([*SYMBOLS, "NOSUCH"]), min_size=1, unique=True),
    st.integers(1, 1 << 16),
    st.integers(0, 15),
    st.integers(1, 16),
)
def test_how_many_daily_bars_are_made_at_once_changes_nothing(
    symbols: list[str], cells: int, first: int, more: int
) -> None:
    def asked(cells: int) -> Bars:
        with patch.object(years, "_CELLS", cells):
            return years.Years(MARKET).bars(
                MARKET.bars, symbols, first, min(first + more, 16), MARKET.visible(NOW)
            )

    whole, parts = asked(1 << 40), asked(cells)
    assert list(parts.symbols) == list(whole.symbols)
    for name in (field.name for field in fields(Bars) if field.name != "symbols"):
        assert getattr(parts, name).tolist() == getattr(whole, name).tolist()
