"""A session's minutes against its daily bars: each threshold, each reason, and any data."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.collection.against_daily import (
    DISAGREEMENTS,
    FAULTS,
    Comparison,
    DailyBars,
    Reason,
    compare,
    expected_minutes,
    round_lots,
)
from datalake_assets.collection.bars import NO_COUNT, SCHEMA, empty
from datalake_assets.collection.minute_totals import Hours, MinuteCounts, MinuteTotals, Stretches
from datalake_assets_tests.collection.minutes import (
    HALF_DAY,
    LENGTH,
    changed,
    days,
    extended,
    minutes,
    plainly,
    regular,
    told,
)
from datalake_assets_tests.collection.tables import table

THREE = ("AAA", "BBB", "CCC")
MISSING, NONE, CANCELLED = Reason.MISSING_MINUTES, Reason.NO_MINUTES, Reason.CANCELLED_TRADE
LATE, AUCTION, NO_DAILY = Reason.LATE_TRADE, Reason.AUCTION, Reason.NO_DAILY_BAR


def of_b(bars: pa.Table, hours: Hours | None = None, **daily: Any) -> list[tuple[str, str]]:
    """What and why the minutes of BBB disagree with these values of its daily bar."""
    found = told(compare(bars, changed(days(minutes(THREE)), "BBB", **daily), hours or regular()))
    assert {symbol for symbol, *_ in found} <= {"BBB"}
    return [(what, reason) for _, what, reason in found]


def with_b(offsets: Iterable[int] = range(LENGTH), **made: Any) -> pa.Table:
    """A session of three liquid symbols, of which BBB has these minutes."""
    parts = [minutes(["AAA"]), minutes(["BBB"], offsets, **made), minutes(["CCC"])]
    return pa.concat_tables(parts)


# Agreement


@pytest.mark.parametrize("hours", [regular(), extended()])
def test_minutes_that_add_up_to_the_daily_bar_agree(hours: Hours) -> None:
    bars = minutes(THREE)
    found = compare(bars, days(bars), hours)
    assert (found.compared, found.thin, found.table.num_rows, found.faulty) == (3, 0, 0, 0)
    assert found.table.schema == DISAGREEMENTS
    assert not found.reasons


def test_a_session_without_minutes_and_days_has_nothing_to_compare() -> None:
    found = compare(empty(), empty(), regular())
    assert (found.compared, found.thin, found.table.num_rows) == (0, 0, 0)


def test_minutes_of_a_day_that_is_no_session_are_refused() -> None:
    first, end = regular()
    weekend = timedelta(days=5)
    with pytest.raises(ValueError, match="a Saturday"):
        compare(minutes(THREE), empty(), (first + weekend, end + weekend))


# Volume


@pytest.mark.parametrize(
    ("shares", "daily", "reason"),
    [
        (380, 156_001, AUCTION),
        (380, 156_000, None),
        (380, 155_999, None),
        (420, 156_001, None),
        (420, 156_000, None),
        (420, 155_999, CANCELLED),
        (280, 155_999, AUCTION),
        (280, 156_000, AUCTION),
        (280, 156_001, LATE),
    ],
)
def test_the_volume_of_the_minutes_is_0_95_to_1_05_of_the_daily_one_or_0_7_with_an_auction(
    shares: int, daily: int, reason: Reason | None
) -> None:
    expected = [("volume", reason)] if reason else []
    assert of_b(with_b(shares=shares), volume=daily) == expected


def test_outside_the_regular_hours_an_auction_is_no_reason_as_the_minutes_have_it() -> None:
    assert of_b(with_b(shares=380), extended(), volume=156_001) == [("volume", LATE)]


def test_volume_that_is_missing_with_many_trades_was_traded_at_another_time() -> None:
    found = of_b(with_b(shares=380, trades=3), volume=160_000, trade_count=1_400)
    assert found == [("volume", LATE), ("trades", LATE)]


@pytest.mark.parametrize(
    ("trades", "daily", "reason"),
    [
        (19, 7_801, LATE),
        (19, 7_800, None),
        (21, 7_800, None),
        (21, 7_799, CANCELLED),
    ],
)
def test_the_trades_of_the_minutes_are_0_95_to_1_05_of_the_daily_ones(
    trades: int, daily: int, reason: Reason | None
) -> None:
    bars = with_b(trades=trades, shares=4_000)
    found = of_b(bars, trade_count=daily, volume=LENGTH * 4_000)
    assert found == ([("trades", reason)] if reason else [])


def test_trades_that_a_side_does_not_count_are_not_compared() -> None:
    assert of_b(with_b(trades=None)) == []
    assert of_b(with_b(), trade_count=None, volume=LENGTH * 400) == []
    assert of_b(with_b(trades=None, shares=380), volume=160_000) == [("volume", AUCTION)]


# Missing minutes


@pytest.mark.parametrize(("count", "reason"), [(194, MISSING), (195, AUCTION), (196, AUCTION)])
def test_fewer_than_half_of_the_expected_minutes_are_missing_ones(
    count: int, reason: Reason
) -> None:
    # So many trades that a bar is expected in each of the 390 minutes.
    spread = sorted([*range(1, LENGTH, 2), 100])[196 - count :]
    assert len(spread) == count
    whole = {"volume": count * 50_000, "trade_count": count * 300}
    found = of_b(with_b(spread, shares=40_000, trades=300), **whole)
    assert found == [("volume", reason)]


@pytest.mark.parametrize(("gap", "reason"), [(29, AUCTION), (30, MISSING), (31, MISSING)])
@pytest.mark.parametrize("begins", [0, 180, None])
def test_a_gap_of_half_an_hour_tells_of_missing_minutes_wherever_it_is(
    gap: int, reason: Reason, begins: int | None
) -> None:
    start = LENGTH - gap if begins is None else begins
    there = [place for place in range(LENGTH) if not start <= place < start + gap]
    volume = len(there) * 500
    trades = {"trade_count": len(there) * 3}
    close = minutes(["BBB"], there)["close"][-1].as_py()
    found = of_b(with_b(there), volume=volume, **trades, close=close)
    assert found == [("volume", reason)]


def test_a_gap_with_all_of_the_volume_is_a_halt() -> None:
    there = [*range(60), *range(200, LENGTH)]
    assert of_b(with_b(there, shares=700, trades=6), volume=250 * 700, trade_count=250 * 6) == []


def test_what_follows_from_missing_minutes_has_their_reason() -> None:
    # As really served: the opening and the closing auction, a trade each.
    bars = with_b([0], shares=28_718, trades=1)
    found = of_b(bars, volume=5_000_000, trade_count=40_000, high=300.0, low=1.0, close=290.0)
    assert found == [(what, MISSING) for what in ("volume", "trades", "high", "low", "close")]


def test_a_liquid_symbol_without_minutes_is_named_and_a_thin_one_is_not() -> None:
    daily = days(minutes(THREE))
    found = compare(minutes(["AAA", "CCC"]), daily, regular())
    assert told(found) == [("BBB", "volume", NONE)]
    assert found.table["minutes"].to_pylist() == [None]
    assert found.table["daily"].to_pylist() == [LENGTH * 400]
    thin = changed(daily, "BBB", trade_count=3, volume=300)
    found = compare(minutes(["AAA", "CCC"]), thin, regular())
    assert (told(found), found.thin, found.compared) == ([], 1, 3)


def test_minutes_without_a_daily_bar_are_named() -> None:
    found = compare(minutes(THREE), days(minutes(["AAA", "CCC"])), regular())
    assert told(found) == [("BBB", "volume", NO_DAILY)]
    assert (found.faulty, found.compared) == (0, 3)
    assert found.table["daily"].to_pylist() == [None]


# Liquid and thin


def test_a_symbol_is_liquid_from_one_round_lot_a_minute_on() -> None:
    lots = np.array([np.nextafter(390.0, 0), 390.0, np.nextafter(390.0, 400)])
    no = np.zeros(3)
    daily = DailyBars(lots > 0, no, no, no, no, no, no, lots)
    assert daily.liquid(390).tolist() == [False, True, True]
    assert daily.liquid(210).tolist() == [True, True, True]


@pytest.mark.parametrize(
    ("volume", "reason"), [(1_001, None), (1_000, CANCELLED), (999, CANCELLED), (0, CANCELLED)]
)
def test_a_round_lot_more_than_the_daily_volume_is_a_cancelled_trade_of_thin_symbols_too(
    volume: int, reason: Reason | None
) -> None:
    bars = with_b(range(11), shares=100, trades=1)
    own = days(bars).drop_columns(["symbol"]).to_pylist()[1]
    found = of_b(bars, **own | {"volume": volume, "trade_count": 3})
    assert found == ([("volume", reason)] if reason else [])


def test_what_hardly_trades_may_lack_volume_and_trades_but_not_differ_in_price() -> None:
    bars = with_b([5, 70, 300], shares=100, trades=1)
    high, low, close = (
        bars.filter(pc.equal(bars["symbol"], "BBB"))[n] for n in ("high", "low", "close")
    )
    thin = {"volume": 700, "trade_count": 11, "close": close[-1].as_py()}
    prices = {"high": pc.max(high).as_py(), "low": pc.min(low).as_py()}
    assert of_b(bars, **thin, **prices) == []
    lower = prices | {"high": prices["high"] - 0.01}
    assert of_b(bars, **thin, **lower) == [("high", CANCELLED)]


@pytest.mark.parametrize(
    ("volume", "trades", "share"),
    [
        (15_686_785, 117_796, 0.47),  # XOM, 2024-05-16
        (23_794_463, 145_181, 0.54),  # MRK, 2021-06-11
        (250_000, 20_000, 0.0),
        (3_000, 1_500, 0.0),
        (400, 2, 0.61),
    ],
)
def test_an_average_trade_tells_how_many_are_round_lots(
    volume: int, trades: int, share: float
) -> None:
    (lots,) = round_lots(np.array([volume]), np.array([trades])).tolist()
    assert lots / trades == pytest.approx(share, abs=0.006)


def test_what_did_not_trade_has_no_round_lots_and_an_unknown_count_is_one_of_round_lots() -> None:
    volume, trades = np.array([0, 100, 0, 40_000]), np.array([0, 0, 5, NO_COUNT])
    assert round_lots(volume, trades) == pytest.approx([0, 0, 0, 400 * np.exp(-1)])


def test_round_lots_leave_minutes_empty_by_chance() -> None:
    lots = np.array([0.0, 1.0, 390.0, 1e6])
    assert expected_minutes(lots, 390) == pytest.approx([0, 1, 246.5, 390], abs=0.05)


# Prices


def priced(**prices: float) -> pa.Table:
    """A session in which all minutes of BBB have these prices."""
    return changed(with_b(), "BBB", **{"open": 100.0, "high": 100.0, "low": 100.0, **prices})


FLAT = {"open": 100.0, "high": 100.0, "low": 100.0, "close": 100.0}


@pytest.mark.parametrize(
    ("high", "reason"), [(100.0001, CANCELLED), (100.00004, None), (100.0, None), (99.5, None)]
)
def test_the_minutes_are_not_above_the_daily_high(high: float, reason: Reason | None) -> None:
    found = of_b(priced(high=high, close=99.5), **FLAT | {"close": 99.5, "low": 99.5})
    assert found == ([("high", reason)] if reason else [])


@pytest.mark.parametrize(
    ("low", "reason"), [(99.9999, CANCELLED), (99.99996, None), (100.0, None), (100.5, None)]
)
def test_the_minutes_are_not_below_the_daily_low(low: float, reason: Reason | None) -> None:
    found = of_b(priced(low=low, close=100.0), **FLAT)
    assert found == ([("low", reason)] if reason else [])


def test_the_error_of_a_float_is_no_difference() -> None:
    bars = changed(with_b(), "BBB", open=0.3, high=0.1 + 0.2, low=0.3, close=0.3)
    assert 0.1 + 0.2 > 0.3
    assert of_b(bars, open=0.3, high=0.3, low=0.3, close=0.3) == []


@pytest.mark.parametrize(
    ("high", "reason"), [(98.9999, LATE), (99.0, None), (99.0001, None), (15.32, LATE)]
)
def test_a_daily_high_far_above_every_minute_is_a_late_trade(
    high: float, reason: Reason | None
) -> None:
    bars = changed(with_b(), "BBB", open=high, high=high, low=high, close=high)
    daily = {"open": high, "high": 100.0, "low": high, "close": high}
    assert of_b(bars, **daily) == ([("high", reason)] if reason else [])


@pytest.mark.parametrize(
    ("low", "reason"), [(101.0001, LATE), (101.0, None), (100.9999, None), (400.0, LATE)]
)
def test_a_daily_low_far_below_every_minute_is_a_late_trade(
    low: float, reason: Reason | None
) -> None:
    bars = changed(with_b(), "BBB", open=low, high=low, low=low, close=low)
    daily = {"open": low, "high": low, "low": 100.0, "close": low}
    assert of_b(bars, **daily) == ([("low", reason)] if reason else [])


@pytest.mark.parametrize("what", ["high", "low"])
@pytest.mark.parametrize("edge", ["open", "close"])
def test_a_daily_extreme_that_is_the_open_or_the_close_is_of_an_auction(
    what: str, edge: str
) -> None:
    price = 102.0 if what == "high" else 98.0
    bars = changed(with_b(), "BBB", **FLAT)
    found = of_b(bars, **FLAT | {what: price, edge: price})
    assert (what, AUCTION) in found
    assert {reason for _, reason in found} == {AUCTION}


@pytest.mark.parametrize(
    ("close", "reason"),
    [
        (98.9999, AUCTION),
        (99.0, None),
        (101.0, None),
        (101.0001, AUCTION),
        (90.0, AUCTION),
        (110.0, AUCTION),
        (89.9999, LATE),
        (110.0001, LATE),
    ],
)
def test_the_close_of_the_minutes_is_near_the_daily_one(
    close: float, reason: Reason | None
) -> None:
    wide = {"high": 120.0, "low": 80.0}
    bars = changed(with_b(), "BBB", open=100.0, close=close, **wide)
    found = of_b(bars, open=100.0, close=100.0, **wide)
    assert found == ([("close", reason)] if reason else [])


@pytest.mark.parametrize(
    ("close", "reason"), [(0.21, None), (0.2102, AUCTION), (0.7, AUCTION), (0.7001, LATE)]
)
def test_of_a_cheap_stock_cents_count_instead_of_shares(
    close: float, reason: Reason | None
) -> None:
    wide = {"high": 0.9, "low": 0.1}
    bars = changed(with_b(), "BBB", open=0.2, close=close, **wide)
    found = of_b(bars, open=0.2, close=0.2, **wide)
    assert found == ([("close", reason)] if reason else [])


def test_prices_outside_the_regular_hours_are_not_compared() -> None:
    early = minutes(["BBB"], range(-200, -190), shares=100, trades=1)
    early = changed(early, "BBB", open=900.0, high=999.0, low=0.5, close=900.0)
    bars = pa.concat_tables([with_b(), early]).sort_by(
        [("symbol", "ascending"), ("timestamp", "ascending")]
    )
    assert of_b(bars, extended(), volume=LENGTH * 400 + 1_000) == []


# The whole


def test_the_gravest_reasons_come_first_and_each_symbol_counts_once_for_each() -> None:
    bars = pa.concat_tables(
        [
            minutes(["AUCTION"], shares=380),
            minutes(["CANCELLED"], shares=500),
            minutes(["EXTRA"]),
            minutes(["MISSING"], range(20)),
        ]
    )
    daily = days(minutes(["AUCTION", "CANCELLED", "MISSING", "SILENT"], shares=410))
    found = compare(bars, daily, regular())
    assert [(symbol, reason) for symbol, what, reason in told(found) if what == "volume"] == [
        ("MISSING", MISSING),
        ("SILENT", NONE),
        ("CANCELLED", CANCELLED),
        ("AUCTION", AUCTION),
        ("EXTRA", NO_DAILY),
    ]
    assert dict(found.reasons) == dict.fromkeys([MISSING, NONE, CANCELLED, AUCTION, NO_DAILY], 1)
    assert found.faulty == 3


def test_a_half_day_is_whole_with_its_own_minutes() -> None:
    bars = minutes(THREE, range(210), day=HALF_DAY)
    found = compare(bars, days(bars, HALF_DAY), regular(HALF_DAY))
    assert (found.table.num_rows, found.thin) == (0, 0)
    assert MinuteTotals.of(Stretches.of(bars, regular(HALF_DAY)), regular(HALF_DAY)).length == 210


# Any data

prices = st.integers(1, 40_000).map(lambda steps: steps / 100)


@st.composite
def some_bars(draw: st.DrawFn, symbol: str, hours: Hours) -> pa.Table:
    """Minutes of a symbol: any of the hours, many or few, of any size."""
    first = (hours[0] - regular()[0]) // timedelta(minutes=1)
    end = (hours[1] - regular()[0]) // timedelta(minutes=1)
    if draw(st.booleans()):  # liquid, perhaps with a gap
        gap = draw(st.just(0) | st.integers(20, 380))
        begin = draw(st.integers(first, end))
        offsets = [at for at in range(first, end) if not begin <= at < begin + gap] or [0]
        shares = draw(st.integers(500, 2_000))
        trades = draw(st.none() | st.just(shares // 120))
    else:
        begin, step = draw(st.integers(first, end - 1)), draw(st.integers(1, 40))
        offsets = list(range(begin, end, step))[: draw(st.integers(1, 400))]
        shares, trades = draw(st.integers(1, 500)), draw(st.none() | st.integers(1, 20))
    size, draws = len(offsets), np.random.default_rng(draw(st.integers(0, 2**32)))
    bars = minutes([symbol], offsets, shares=shares, trades=trades)
    low = np.round(draws.uniform(1, 400, size), 2)
    high = np.round(low * draws.uniform(1, 1.02, size), 2)
    for name, values in (("low", low), ("high", high), ("open", low), ("close", high)):
        bars = bars.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), pa.array(values))
    return bars


@st.composite
def sessions(draw: st.DrawFn) -> tuple[pa.Table, Hours]:
    hours = draw(st.sampled_from([regular(), extended()]))
    symbols = draw(st.lists(st.sampled_from("ABCDEF"), unique=True, max_size=4))
    parts = [draw(some_bars(symbol, hours)) for symbol in sorted(symbols)]
    return pa.concat_tables([empty(), *parts]), hours


@settings(deadline=None, max_examples=30)
@given(sessions())
def test_whatever_trades_minutes_agree_with_the_days_that_they_add_up_to(
    session: tuple[pa.Table, Hours],
) -> None:
    bars, hours = session
    assert told(compare(bars, days(bars), hours)) == []


@settings(deadline=None, max_examples=25)
@given(sessions(), st.integers(0, 2**32))
def test_the_order_of_the_bars_does_not_matter(session: tuple[pa.Table, Hours], seed: int) -> None:
    bars, hours = session
    order = np.random.default_rng(seed).permutation(bars.num_rows)
    daily = changed(days(bars), "A", volume=77_000, trade_count=900)
    shuffled = compare(bars.take(pa.array(order)), daily, hours)
    assert shuffled.table.equals(compare(bars, daily, hours).table)


@settings(deadline=None, max_examples=100)
@given(st.data(), sessions())
def test_any_data_disagrees_as_it_does_one_symbol_at_a_time(
    data: st.DataObject, session: tuple[pa.Table, Hours]
) -> None:
    bars, hours = session
    rows = days(bars).to_pylist()
    for row in rows:
        for name in ("volume", "trade_count"):
            factor = data.draw(st.sampled_from([0.5, 0.9, 1.0, 1.0, 1.02, 1.1, 1.3, 2.0]))
            row[name] = row[name] and int(row[name] * factor)
        row |= data.draw(
            st.fixed_dictionaries({}, optional={"high": prices, "low": prices, "close": prices})
        )
    kept = [row for row in rows if data.draw(st.integers(0, 5))]
    extra = [row | {"symbol": "Z"} for row in rows[:1] if data.draw(st.booleans())]
    daily = table([*kept, *extra])
    found = compare(bars, daily, hours)
    assert set(told(found)) == plainly(bars, daily, hours)
    assert len(told(found)) == len(set(told(found)))
    assert found.faulty == len({s for s, _, reason in told(found) if Reason(reason) in FAULTS})


def minutes_are_lost(bars: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
    return bars.slice(0, 4), {}


def an_hour_is_lost(bars: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
    return pa.concat_tables([bars.slice(0, 100), bars.slice(160)]), {}


def all_is_lost(bars: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
    return bars.slice(0, 0), {}


PLANTED = {
    "minutes": (minutes_are_lost, MISSING),
    "hour": (an_hour_is_lost, MISSING),
    "all": (all_is_lost, NONE),
    "cancelled": (lambda bars: (bars, {"volume": 100_000}), CANCELLED),
    "cancelled high": (lambda bars: (bars, {"high": bars["low"][0].as_py()}), CANCELLED),
    "late": (lambda bars: (bars, {"high": 900.0}), LATE),
    "late low": (lambda bars: (bars, {"low": 13.19}), LATE),
    "outside": (lambda bars: (bars, {"volume": 400_000, "trade_count": 3_000}), LATE),
    "auction": (lambda bars: (bars, {"volume": 175_000, "trade_count": 1_171}), AUCTION),
    "auction close": (lambda bars: (bars, {"close": bars["close"][-1].as_py() * 1.03}), AUCTION),
}


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(st.sampled_from([f"S{n}" for n in range(9)]), st.sampled_from(list(PLANTED))),
    st.frozensets(st.sampled_from([f"S{n}" for n in range(9)])),
)
def test_each_planted_disagreement_is_named_with_its_reason_and_nobody_else(
    planted: dict[str, str], good: frozenset[str]
) -> None:
    bars, daily, expected = [empty()], [empty()], {}
    for symbol in sorted(good | planted.keys()):
        own = minutes([symbol])
        day = days(own)
        if symbol in planted:
            plant, reason = PLANTED[planted[symbol]]
            own, values = plant(own)
            day = changed(day, symbol, **values)
            expected[symbol] = reason
        bars.append(own)
        daily.append(day)
    found = compare(pa.concat_tables(bars), pa.concat_tables(daily), regular())
    assert {symbol: reason for symbol, _, reason in reversed(told(found))} == expected


# Totals


@settings(deadline=None, max_examples=30)
@given(sessions())
def test_the_minutes_of_each_symbol_are_counted_within_the_regular_hours(
    session: tuple[pa.Table, Hours],
) -> None:
    bars, hours = session
    opens, closes = regular()
    expected: dict[str, int] = {}
    for row in bars.to_pylist():
        expected.setdefault(row["symbol"], 0)
        expected[row["symbol"]] += opens <= row["timestamp"] < closes
    counts = MinuteCounts.of(bars, hours)
    assert (
        dict(zip(counts.symbols.names.tolist(), counts.minutes.tolist(), strict=True)) == expected
    )
    asked = pa.array([*sorted(expected), "ZZZ"], pa.string())
    shares = [expected[symbol] / LENGTH for symbol in sorted(expected)]
    assert counts.shares(asked).tolist() == [*shares, 0.0]


def test_bars_as_they_lie_in_the_lake_are_not_sorted_again() -> None:
    bars = minutes(THREE)
    assert Stretches.of(bars, regular()).bars is bars


def test_a_table_in_many_pieces_is_added_up_as_one() -> None:
    bars = minutes(THREE)
    pieces = pa.concat_tables([bars.slice(at, 100) for at in range(0, bars.num_rows, 100)])
    assert pieces["symbol"].num_chunks > 3
    assert told(compare(pieces, days(bars), regular())) == []


def test_a_comparison_does_not_print_its_table() -> None:
    found = compare(minutes(THREE), empty(), regular())
    assert repr(found) == "Comparison(compared=3, thin=0)"
    assert isinstance(found, Comparison)
