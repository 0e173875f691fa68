"""Minutes add up to the daily bar that they are made of, whatever it is and however it is asked."""

from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.exchange.market import DOLLAR, Bars
from datalake_assets.exchange.minutes import (
    CLOSE,
    DAY,
    EARLY,
    LATE,
    OPEN,
    MinuteBars,
    Minutes,
    longer,
)
from datalake_assets.exchange.recorded import RecordedMarket
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.exchange.truth import minute_table

MARKET = SyntheticMarket()
MINUTES = Minutes(MARKET.sessions)
SYMBOLS = sorted(MARKET._tickers)
NAMES = ("open", "high", "low", "close", "vwap", "volume", "trade_count")

USUAL, HALF_DAY, SUMMER = date(2024, 1, 3), date(2023, 11, 24), date(2026, 7, 1)
FIRST = MARKET.sessions[0]


def daily(**columns: list[int]) -> Bars:
    """Daily bars of one session, a symbol each."""
    count = len(columns["open"])
    return Bars(
        symbols=[f"S{'ABCDEFGHIJ'[at]}" for at in range(count)],
        symbol=np.arange(count),
        session=np.full(count, MARKET.sessions.index(USUAL)),
        **{name: np.array(values, np.int64) for name, values in columns.items()},
    )


def whole(days: Bars) -> MinuteBars:
    return MINUTES.of(days, 0, len(MARKET.sessions) * DAY)


@cache
def session(day: date) -> tuple[Bars, MinuteBars]:
    """The daily bars of a session, and all their minutes."""
    at = MARKET.sessions.index(day)
    days = MARKET.bars(SYMBOLS, at, at + 1)
    return days, whole(days)


def regular(days: Bars, minutes: MinuteBars) -> MinuteBars:
    """Those of regular hours."""
    clock = minutes.bars.session % DAY
    close = MINUTES.closes[days.session][minutes.day]
    return minutes.take(np.flatnonzero((clock >= OPEN) & (clock < close)))


def complaints(days: Bars, minutes: MinuteBars) -> list[str]:
    """What is wrong about the minutes of sound daily bars."""
    bars, day = minutes.bars, minutes.day
    inner = regular(days, minutes)
    of = inner.bars
    starts = np.searchsorted(inner.day, np.arange(len(days)))
    ends = np.append(starts[1:], len(of)) - 1
    turnover = np.zeros(len(days))
    np.add.at(turnover, day, (bars.vwap - days.vwap[day]).astype(float) * bars.volume)
    clock = bars.session % DAY
    close = MINUTES.closes[days.session][day]
    body = np.minimum(bars.open, bars.close), np.maximum(bars.open, bars.close)
    sums = {}
    for name in ("volume", "trade_count"):
        sums[name] = np.zeros(len(days), np.int64)
        np.add.at(sums[name], day, getattr(bars, name))
    rules = {
        "a day has no minute": np.array_equal(np.unique(inner.day), np.arange(len(days))),
        "in order": bool((np.diff(day * DAY + clock) > 0).all()),
        "of the day's symbol": np.array_equal(bars.symbol, days.symbol[day]),
        "of the day's session": np.array_equal(bars.session // DAY, days.session[day]),
        "between 04:00 and 20:00": bool(((clock >= EARLY) & (clock < close + LATE)).all()),
        "volume": np.array_equal(sums["volume"], days.volume),
        "trade_count": np.array_equal(sums["trade_count"], days.trade_count),
        "open": np.array_equal(of.open[starts], days.open),
        "close": np.array_equal(of.close[ends], days.close),
        "high": np.array_equal(np.maximum.reduceat(of.high, starts), days.high),
        "low": np.array_equal(np.minimum.reduceat(of.low, starts), days.low),
        "vwap": bool((np.abs(turnover) <= 0.5001 * days.volume).all()),
        "within the day": bool(((bars.high <= days.high[day]) & (bars.low >= days.low[day])).all()),
        "high is highest": bool((bars.high >= np.maximum(body[1], bars.vwap)).all()),
        "low is lowest": bool((bars.low <= np.minimum(body[0], bars.vwap)).all()),
        "each has a trade of a share": bool(
            ((bars.trade_count >= 1) & (bars.volume >= bars.trade_count)).all()
        ),
    }
    return [name for name, kept in rules.items() if not kept]


# All symbols of a session


@pytest.mark.parametrize("day", [FIRST, USUAL, HALF_DAY, SUMMER])
def test_the_minutes_of_all_symbols_add_up_to_their_daily_bars(day):
    days, minutes = session(day)
    assert len(days) > 4_000
    assert complaints(days, minutes) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_column_would_be_found(name):
    days, minutes = session(USUAL)
    columns = {name: getattr(minutes.bars, name) + DOLLAR for name in (name,)}
    bars = Bars(
        **{f.name: getattr(minutes.bars, f.name) for f in fields(Bars) if f.name != name}, **columns
    )
    assert complaints(days, MinuteBars(bars, minutes.day))


def test_prices_are_on_the_tick():
    bars = session(USUAL)[1].bars
    for name in ("open", "high", "low", "close"):
        price = getattr(bars, name)
        assert (price % np.where(price >= DOLLAR, 10_000, 100) == 0).all()


def test_a_session_looks_like_one_of_the_real_market():
    days, minutes = session(USUAL)
    inner = regular(days, minutes)
    of_each = np.bincount(inner.day, minlength=len(days))
    assert 0.2 < (of_each == CLOSE - OPEN).mean() < 0.6, "many are traded in every minute"
    assert 0.05 < (of_each < 10).mean() < 0.2, "thin ones have a handful"
    extended = 1 - inner.bars.volume.sum() / days.volume.sum()
    assert 0.01 < extended < 0.04
    assert 1.2 < len(minutes.day) / len(inner.day) < 2.5
    # U-shaped, and the first and the last minute stand out.
    volume = np.bincount(inner.bars.session % DAY - OPEN, weights=inner.bars.volume / 1e6)
    hour, noon = volume[1:60].mean(), volume[150:240].mean()
    assert volume[0] > 1.5 * hour > 2 * noon
    assert volume[-1] > 1.5 * volume[-60:-1].mean() > 2 * noon
    # Prices walk: most minutes don't open where the one before closed, but near.
    gap = np.abs(inner.bars.open[1:] - inner.bars.close[:-1])[np.diff(inner.day) == 0]
    reach = (days.high - days.low)[inner.day[1:]][np.diff(inner.day) == 0]
    assert np.median(gap[reach > 0] / reach[reach > 0]) < 0.03
    assert (gap > 0).mean() > 0.3


def test_one_trade_has_one_price():
    """But for four that have to show the day's prices; a few days leave no other way."""
    days, minutes = session(USUAL)
    of = regular(days, minutes)
    wide = (of.bars.trade_count == 1) & (of.bars.high != of.bars.low)
    assert (of.bars.trade_count == 1).sum() > 100_000
    assert (np.bincount(of.day[wide], minlength=len(days)) > 4).mean() < 0.01


def test_a_half_day_ends_at_one_and_its_late_trading_at_five():
    days, minutes = session(HALF_DAY)
    clock = minutes.bars.session % DAY
    assert (clock.min(), clock.max()) == (EARLY, 17 * 60 - 1)
    inner = regular(days, minutes)
    assert (inner.bars.session % DAY).max() == 13 * 60 - 1
    assert np.bincount(inner.day).max() == 210


def test_a_declared_early_close_shortens_the_session(monkeypatch):
    days = session(USUAL)[0].take(slice(300))
    monkeypatch.setenv("DATALAKE_CLOSURES", f"{USUAL}T14:00")
    minutes = Minutes(MARKET.sessions).of(days, 0, len(MARKET.sessions) * DAY)
    clock = minutes.bars.session % DAY
    assert clock.max() == 18 * 60 - 1
    assert np.bincount(minutes.day[(clock >= OPEN) & (clock < 14 * 60)]).max() == 270


def test_some_are_halted_for_minutes_in_a_row():
    days, minutes = session(USUAL)
    inner = regular(days, minutes)
    liquid = np.isin(inner.day, np.flatnonzero(days.trade_count > 50_000))
    assert liquid.sum() > 100_000
    gaps = np.diff(inner.bars.session)[liquid[1:] & (np.diff(inner.day) == 0)] - 1
    assert set(gaps.tolist()) - {0} <= set(range(5, 60))
    assert 1 <= (gaps > 0).sum() < 20


def test_no_symbol_has_more_minutes_than_trades_nor_than_the_plan_reckons_with():
    days, minutes = session(USUAL)
    count = np.bincount(minutes.day, minlength=len(days))
    at = int(days.session[0])
    assert (count <= days.trade_count).all()
    assert (count <= MINUTES.most(days, at * DAY, (at + 1) * DAY)).all()


# Any daily bar


@st.composite
def sound(draw: st.DrawFn) -> Bars:
    """Daily bars with any prices in order; prices off the tick, too."""
    columns: dict[str, list[int]] = {name: [] for name in NAMES}
    for _ in range(draw(st.integers(1, 5))):
        tick = draw(st.sampled_from([1, 100, 10_000]))
        low = draw(st.integers(1, 400_000)) * tick
        spread = draw(st.sampled_from([0, 1, 3, 40, 3_000])) * tick
        inside = st.integers(0, spread).map(lambda above, low=low: low + above)
        trades = draw(st.integers(1, 3) | st.integers(1, 500) | st.integers(1, 10**7))
        for name in ("open", "close", "vwap"):
            columns[name].append(draw(inside))
        columns["low"].append(low)
        columns["high"].append(low + spread)
        columns["trade_count"].append(trades)
        columns["volume"].append(trades * draw(st.integers(1, 300)) + draw(st.integers(0, 99)))
    return daily(**columns)


@settings(deadline=None)
@given(sound())
def test_the_minutes_of_any_sound_bar_add_up_to_it(days):
    assert complaints(days, whole(days)) == []


@settings(deadline=None, max_examples=40)
@given(sound(), st.integers(EARLY - 5, CLOSE + LATE + 5), st.integers(0, 500), st.data())
def test_a_minute_is_the_same_whatever_else_is_asked_for(days, begin, length, data):
    at = int(days.session[0]) * DAY
    everything = whole(days)
    place = everything.bars.session - at
    inside = np.flatnonzero((place >= begin) & (place < begin + length))
    assert equal(
        MINUTES.of(days, at + begin, at + begin + length).bars, everything.take(inside).bars
    )
    row = data.draw(st.integers(0, len(days) - 1))
    alone = whole(days.take(slice(row, row + 1)))
    assert equal(alone.bars, everything.take(everything.day == row).bars)


def equal(one: Bars, other: Bars) -> bool:
    names = ("symbol", "session", *NAMES)
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(*[st.integers(0, 10**9)] * 5, st.integers(0, 10**12), st.integers(0, 10**12)),
        min_size=1,
        max_size=4,
    )
)
def test_minutes_of_a_broken_bar_are_as_wrong_as_it_is_and_lose_no_share(rows):
    days = daily(**dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True)))
    minutes = whole(days)
    for at in range(len(days)):
        bars = minutes.take(minutes.day == at).bars
        if not days.volume[at] and not days.trade_count[at]:
            assert not len(bars), "nothing was traded"
            continue
        assert bars.volume.sum() == days.volume[at]
        assert bars.trade_count.sum() == days.trade_count[at]
        inner = bars.take((bars.session % DAY >= OPEN) & (bars.session % DAY < CLOSE))
        assert (inner.open[0], inner.close[-1]) == (days.open[at], days.close[at])
        if days.low[at] <= min(days.open[at], days.close[at]):
            assert inner.low.min() == days.low[at]


@pytest.mark.parametrize(
    ("volume", "trades", "count"),
    [(0, 0, 0), (0, 1, 1), (5, 0, 1), (1, 1, 1), (2, 2, 2), (2, 7, 2), (1, 10**6, 1)],
)
def test_a_bar_of_few_shares_has_at_most_a_minute_for_each(volume, trades, count):
    prices = {"open": [5], "high": [9], "low": [1], "close": [6], "vwap": [4]}
    cents = {name: [cents * 10_000 for cents in value] for name, value in prices.items()}
    bars = whole(daily(**cents, volume=[volume], trade_count=[trades])).bars
    assert (len(bars), bars.volume.sum(), bars.trade_count.sum()) == (
        count,
        volume,
        trades if count else 0,
    )


# Recorded bars


def test_a_recorded_bar_has_minutes_too(tmp_path: Path):
    path = tmp_path / "bars.csv"
    path.write_text(
        "symbol,session,open,high,low,close,volume\n"
        "AAA,2018-07-03,10.1,10.5,9.9,10.2,40000\nBBB,2018-07-05,0.5,0.51,0.4999,0.5,700\n"
    )
    market = RecordedMarket(path)
    days = market.bars(["AAA", "BBB"], 0, 2)
    minutes = Minutes(market.sessions).of(days, 0, 2 * DAY)
    table = minute_table(market, ["BBB", "AAA"], date(2018, 7, 3))  # a half day
    assert set(table["symbol"].to_pylist()) == {"AAA"}
    assert table["timestamp"][0].as_py() >= market_calendar.session_open(date(2018, 7, 3))
    assert table["timestamp"][-1].as_py() < market_calendar.session_close(date(2018, 7, 3))
    assert 100 < table.num_rows <= 210
    assert (table["open"][0].as_py(), table["close"][-1].as_py()) == (10.1, 10.2)
    assert [minutes.take(minutes.day == at).bars.volume.sum() for at in (0, 1)] == [40_000, 700]


# Longer bars


@settings(deadline=None, max_examples=30)
@given(sound(), st.sampled_from([2, 5, 7, 30, 59, 60, 240, 23 * 60]))
def test_a_longer_bar_is_made_of_its_minutes(days, every):
    minutes = whole(days)
    made = longer(minutes, every)
    place = minutes.bars.session
    begin = place // DAY * DAY + place % DAY // every * every
    found = []
    for key in dict.fromkeys(zip(minutes.day.tolist(), begin.tolist(), strict=True)):
        bars = minutes.take((minutes.day == key[0]) & (begin == key[1])).bars
        total = int(bars.volume.sum())
        exact = sum(int(p) * int(v) for p, v in zip(bars.vwap, bars.volume, strict=True)) / total
        found.append(
            (
                *key,
                *(bars.open[0], bars.high.max(), bars.low.min(), bars.close[-1]),
                *(total, bars.trade_count.sum(), pytest.approx(exact, abs=0.6)),
            )
        )
    names = ("open", "high", "low", "close", "volume", "trade_count", "vwap")
    columns = (made.day, made.bars.session, *(getattr(made.bars, name) for name in names))
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == found


# The truth


def test_the_truth_is_a_table_as_a_lake_keeps_it():
    days, minutes = session(HALF_DAY)
    names = [days.symbols[days.symbol[at]] for at in (5, 17, 400)]
    table = MARKET.truth().minutes(names[::-1], HALF_DAY, extended=True)
    for at, name in zip((5, 17, 400), names, strict=True):
        bars = minutes.take(minutes.day == at).bars
        mine = table.filter([symbol == name for symbol in table["symbol"].to_pylist()])
        assert mine["volume"].to_pylist() == bars.volume.tolist()
        assert mine["vwap"].to_pylist() == (bars.vwap / DOLLAR).tolist()
        midnight = datetime(2023, 11, 24, 5, tzinfo=UTC)
        expected = [midnight + timedelta(minutes=m) for m in (bars.session % DAY).tolist()]
        assert mine["timestamp"].to_pylist() == expected
    with pytest.raises(ValueError, match="no session on 2023-11-25"):
        MARKET.truth().minutes(names, date(2023, 11, 25))
