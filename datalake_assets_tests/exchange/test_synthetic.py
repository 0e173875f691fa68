import hashlib
import subprocess
import sys
from bisect import bisect_left
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.exchange.market import DOLLAR, Bars, is_ticker
from datalake_assets.exchange.synthetic import SyntheticMarket, market_id

MARKET = SyntheticMarket()
SYMBOLS = sorted(row["symbol"] for row in MARKET.assets() if is_ticker(row["symbol"]))
SESSIONS = 3_900
NAMES = [name for name in Bars.__slots__ if name not in ("symbols", "symbol")]


def session(day: str) -> int:
    return bisect_left(MARKET.sessions, date.fromisoformat(day))


def bar(bars: Bars, symbol: str, at: int) -> list[int] | None:
    """One bar's values, or None when it is not there."""
    if symbol not in bars.symbols:
        return None
    found = np.flatnonzero((bars.symbol == list(bars.symbols).index(symbol)) & (bars.session == at))
    assert len(found) <= 1
    return [int(getattr(bars, name)[found[0]]) for name in NAMES] if len(found) else None


def test_there_are_thousands_of_active_and_inactive_symbols_each_once():
    rows = MARKET.assets()
    active = [row["symbol"] for row in rows if row["status"] == "active"]
    inactive = [row["symbol"] for row in rows if row["status"] == "inactive"]
    assert len(active) >= 5_000
    assert len(inactive) >= 1_500
    assert len(set(active) | set(inactive)) == len(rows)
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(is_ticker(symbol) for symbol in active)


def test_a_session_of_today_has_more_than_five_thousand_bars():
    last = session("2026-09-02")
    assert 5_000 < len(MARKET.bars(SYMBOLS, last, last + 1)) < len(SYMBOLS)


def test_names_look_like_the_real_list():
    lengths = np.bincount([len(symbol) for symbol in SYMBOLS if "." not in symbol])
    assert lengths[3] + lengths[4] > 0.8 * len(SYMBOLS)
    assert 0 < lengths[1] < lengths[2] < lengths[3]
    assert any(symbol.endswith(".B") for symbol in SYMBOLS)
    refused = [row for row in MARKET.assets() if not is_ticker(row["symbol"])]
    assert {"0029900E0", "ATC.220816"} < {row["symbol"] for row in refused}
    assert all(row["status"] == "inactive" for row in refused)
    assert any(row["symbol"].isalpha() for row in refused), "one that no prefilter of digits finds"


def test_a_listing_begins_and_a_delisting_ends_during_history():
    bars = MARKET.bars(SYMBOLS[::8], 0, SESSIONS)
    seen = np.unique(bars.symbol, return_index=True)
    first = bars.session[seen[1]]
    ends = np.append(seen[1][1:], len(bars)) - 1
    last = bars.session[ends]
    status = {row["symbol"]: row["status"] for row in MARKET.assets()}
    inactive = np.array([status[bars.symbols[index]] == "inactive" for index in seen[0]])
    assert np.mean(first[~inactive] > 250) > 0.3
    assert inactive.sum() > 100, "delisted symbols that still have their history"
    assert np.mean(last[inactive] < SESSIONS - 100) > 0.9
    assert np.mean(last[~inactive] > SESSIONS - 10) > 0.99


def test_there_are_halts_and_days_without_a_print():
    held = Counter(holding.ticker for holding in MARKET.truth().holdings)
    bars = MARKET.bars([s for s in SYMBOLS if held[s] == 1][:400], 0, SESSIONS)
    gap = np.diff(bars.session)[np.diff(bars.symbol) == 0]
    assert (gap == 2).sum() > 40, "single days without a print"
    assert (gap > 10).sum() > 40, "halts"
    assert gap.max() < 60
    assert np.mean(gap == 1) > 0.95, "most symbols print most days"


def test_daily_moves_are_of_one_to_four_percent_and_volume_has_a_heavy_tail():
    bars = MARKET.bars(SYMBOLS[:300], 3_000, SESSIONS)
    moves = np.diff(np.log(bars.close))[np.diff(bars.symbol) == 0]
    assert 0.01 < np.median(np.abs(moves)) / 0.6745 < 0.04
    last = MARKET.bars(SYMBOLS, SESSIONS - 1, SESSIONS)
    dollars = np.sort(last.close / DOLLAR * last.volume)[::-1]
    assert dollars[: len(dollars) // 100].sum() > 0.3 * dollars.sum()
    assert dollars[0] > 1e9


symbols_of_it = st.sampled_from(SYMBOLS)
positions = st.integers(0, SESSIONS - 1)


@settings(deadline=None)
@given(st.lists(symbols_of_it, min_size=1, max_size=40, unique=True), positions, positions)
def test_every_bar_keeps_the_rules_of_ohlc(symbols, one, other):
    first, stop = sorted((one, other))
    bars = MARKET.bars(symbols, first, min(stop, first + 300) + 1)
    assert (bars.low > 0).all()
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    assert (bars.high >= np.maximum(bars.open, bars.close)).all()
    assert ((bars.low <= bars.vwap) & (bars.vwap <= bars.high)).all()
    assert ((bars.trade_count >= 1) & (bars.trade_count <= bars.volume)).all()
    for prices in (bars.open, bars.high, bars.low, bars.close):
        assert (prices % np.where(prices >= DOLLAR, 10_000, 100) == 0).all()


@settings(deadline=None)
@given(
    symbols_of_it,
    positions,
    st.lists(symbols_of_it, max_size=20, unique=True),
    st.integers(0, 300),
    st.integers(0, 300),
)
def test_a_bar_does_not_depend_on_the_request_that_contains_it(symbol, at, others, before, after):
    alone = MARKET.bars([symbol], at, at + 1)
    company = list(dict.fromkeys([*others, symbol]))
    together = MARKET.bars(company, max(0, at - before), at + after + 1)
    assert bar(together, symbol, at) == bar(alone, symbol, at)


def test_bars_are_by_symbol_as_given_then_by_session_and_unknown_symbols_have_none():
    bars = MARKET.bars(["ZZZZZZ", SYMBOLS[9], SYMBOLS[3]], 3_000, 3_020)
    assert list(bars.symbols) == [SYMBOLS[9], SYMBOLS[3]]
    order = bars.symbol * 10_000 + bars.session
    assert len(bars) > 10
    assert (np.diff(order) > 0).all()


@pytest.mark.parametrize(("first", "stop"), [(0, 0), (100, 100), (3_999, 4_000)])
def test_an_empty_or_one_session_range_is_served(first, stop):
    assert len(MARKET.bars(SYMBOLS[:50], first, stop)) <= 50 * (stop - first)
    assert len(MARKET.bars([], first, stop)) == 0


def test_the_market_reaches_from_2011_to_the_end_of_the_calendar():
    assert MARKET.sessions[0] == date(2011, 1, 3)
    assert MARKET.sessions[-1] == market_calendar.latest_closed_session(
        datetime(2035, 12, 31, 23, tzinfo=UTC)
    )
    end = len(MARKET.sessions)
    active = [
        row["symbol"] for row in MARKET.assets(MARKET.sessions[-1]) if row["status"] == "active"
    ]
    assert len(MARKET.bars(active, end - 1, end)) > 5_000


@pytest.mark.parametrize(
    ("after", "served"),
    [(timedelta(minutes=15, seconds=-1), False), (timedelta(minutes=15), True)],
)
@pytest.mark.parametrize("day", ["2026-09-02", "2025-11-28"])
def test_a_session_is_visible_from_fifteen_minutes_after_its_close(day, after, served):
    close = market_calendar.session_close(date.fromisoformat(day))
    assert (MARKET.visible(close + after) > session(day)) is served


def test_other_seeds_are_other_markets():
    other = SyntheticMarket(seed=8)
    assert other.market_id != MARKET.market_id
    theirs = {row["symbol"] for row in other.assets()}
    assert theirs != {row["symbol"] for row in MARKET.assets()}
    shared = [symbol for symbol in SYMBOLS if symbol in theirs][:200]
    ours, others = (m.bars(shared, 3_000, 3_001) for m in (MARKET, other))
    assert all(
        bar(ours, symbol, 3_000) != bar(others, symbol, 3_000)
        for symbol in shared
        if bar(ours, symbol, 3_000)
    )


def test_a_market_of_another_size_has_another_name():
    small = SyntheticMarket(seed=7, active=30, inactive=10)
    assert small.market_id == market_id(7, 30, 10) == "synthetic/7/30+10"
    assert MARKET.market_id == market_id() == "synthetic/7"
    tickers = [row for row in small.assets() if is_ticker(row["symbol"])]
    assert sum(row["status"] == "active" for row in tickers) == 30
    assert 35 <= len(tickers) <= 40, "a ticker that somebody took over is listed once"


@pytest.mark.parametrize(
    "arguments", [{"seed": -1}, {"active": 0}, {"inactive": -1}, {"active": 70_000}]
)
def test_a_market_that_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        SyntheticMarket(**arguments)


def digest(market: SyntheticMarket) -> str:
    """Of all that a market tells: assets, splits, and bars of many symbols and sessions."""
    told = hashlib.sha256(repr(market.assets()).encode())
    actions = market.actions()
    told.update(repr([actions.row(at) for at in range(0, len(actions.kind), 97)]).encode())
    told.update(actions.announced.astype("<i8").tobytes())
    symbols = sorted(row["symbol"] for row in market.assets())
    for bars in (market.bars(symbols, 3_900, 3_901), market.bars(symbols[::500], 0, 3_900)):
        for name in ("symbol", *NAMES):
            told.update(getattr(bars, name).astype("<i8").tobytes())
    return told.hexdigest()


def test_the_market_is_the_same_on_every_machine():
    """If it changes on purpose, so must its name: lakes remember `synthetic/7` as their source."""
    assert digest(MARKET) == "294e5c735fe3eb5e028e84d8f3a63292a807788cb1f32374df3fd916a9bbc0bf"


def test_another_process_serves_the_same_market():
    code = (
        "from datalake_assets_tests.exchange.test_synthetic import MARKET, digest\n"
        "print(digest(MARKET))"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == digest(MARKET)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.sampled_from([*SYMBOLS, "NOSUCH"]), min_size=1, max_size=40, unique=True),
    st.integers(0, SESSIONS - 1),
)
def test_a_session_that_is_asked_for_again_is_the_same(symbols, at):
    """The second time its bars are taken from those of all tickers."""
    first = MARKET._bars_under(symbols, at, at + 1, None)
    MARKET.bars(["NOSUCH"], at, at + 1)
    again = MARKET.bars(symbols, at, at + 1)
    assert list(again.symbols) == list(first.symbols)
    for name in ("symbol", *NAMES):
        assert np.array_equal(getattr(again, name), getattr(first, name))
