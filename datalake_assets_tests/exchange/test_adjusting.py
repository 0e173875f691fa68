"""Adjusted bars against the rule, computed bar by bar from the raw ones and the list of actions."""

from datetime import date, timedelta
from functools import cache
from typing import Any

import numpy as np
import pytest

from datalake_assets.exchange.adjusting import ADJUSTMENTS, read_adjustment
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets_tests.exchange.calling import NOW, call, frozen, rows, walk
from datalake_assets_tests.exchange.test_actions import told

MARKET = SyntheticMarket(active=300, inactive=100)
TRUTH = MARKET.truth()
EXCHANGE = frozen(MARKET)
SPAN = {"start": "2014-01-02", "end": "2026-09-02", "limit": 10_000}
LISTED = told(EXCHANGE, start="2011-01-01", end="2027-01-01")

Bar = dict[str, Any]


@cache
def bars(symbol: str, adjustment: str | None = None, asof: str | None = None) -> list[Bar]:
    query = SPAN | {"symbols": symbol, "adjustment": adjustment, "asof": asof}
    return [bar for _, bar in rows(walk(EXCHANGE, **query))]


def opening(symbol: str, day: str) -> float:
    """What a new company's first bar opens at."""
    page = call(EXCHANGE, symbols=symbol, start=day, end=date.fromisoformat(day) + timedelta(14))
    return page.json()["bars"][symbol][0]["o"]  # type: ignore[no-any-return]


def expected(symbol: str, kinds: set[str]) -> list[Bar]:
    """The rule, by hand, for a security that had one ticker all the time."""
    raw = bars(symbol)
    days = [bar["t"][:10] for bar in raw]
    price, volume = np.ones(len(raw)), np.ones(len(raw))
    by_day: dict[str, list[tuple[str, Bar]]] = {}
    for kind, row in LISTED:
        own = row.get("symbol") or row.get("source_symbol")
        if kind in kinds and own == symbol and row["ex_date"] <= f"{NOW.date()}":
            by_day.setdefault(row["ex_date"], []).append((kind, row))
    for ex, actions in by_day.items():
        before = [at for at, day in enumerate(days) if day < ex]
        if not before:
            continue
        ratio, left = 1.0, 1.0
        for kind, row in actions:
            if kind.endswith("splits"):
                ratio *= row["new_rate"] / row["old_rate"]
            elif kind == "stock_dividends":
                ratio *= 1 + row["rate"]
        close = raw[before[-1]]["c"] / ratio
        for kind, row in actions:
            if kind == "cash_dividends":
                left *= 1 - row["rate"] / close
            elif kind == "spin_offs":
                worth = row["new_rate"] / row["source_rate"] * opening(row["new_symbol"], ex)
                left *= 1 - worth / close
        price[before] *= left / ratio
        volume[before] *= ratio
    made = []
    for bar, p, v in zip(raw, price, volume, strict=True):
        touched = p != 1.0 or v != 1.0
        scaled = {
            name: bar[name] * p if touched else bar[name] for name in ("o", "h", "l", "c", "vw")
        }
        made.append(bar | scaled | {"v": bar["v"] * v})
    return made


def alike(got: list[Bar], right: list[Bar]) -> bool:
    """Within half a cent, and half a share."""
    return len(got) == len(right) and all(
        one["t"] == two["t"]
        and one["n"] == two["n"]
        and abs(one["v"] - two["v"]) <= 0.5 + 1e-9 * two["v"]
        and all(abs(one[name] - two[name]) <= 0.005 + 1e-6 for name in ("o", "h", "l", "c", "vw"))
        for one, two in zip(got, right, strict=True)
    )


def symbols_with(kind: str) -> list[str]:
    """Symbols that one security held all the time, with such an action in the span."""
    held = [holding.ticker for holding in TRUTH.holdings]
    own = [
        row.get("symbol") or row["source_symbol"]
        for k, row in LISTED
        if k == kind and "2015" < row["ex_date"] < "2026-09"
    ]
    of = {h.security: h for h in TRUTH.holdings}
    renamed = {h.ticker for h in TRUTH.holdings if of[h.security] != h}
    renamed |= {of[h.security].ticker for h in TRUTH.holdings if of[h.security] != h}
    return sorted({s for s in own if held.count(s) == 1 and s not in renamed})


@pytest.mark.parametrize(
    ("adjustment", "kinds"),
    [
        ("split", {"forward_splits", "reverse_splits", "stock_dividends"}),
        ("dividend", {"cash_dividends"}),
        ("spin-off", {"spin_offs"}),
        (
            "split,dividend",
            {"forward_splits", "reverse_splits", "stock_dividends", "cash_dividends"},
        ),
        (
            "all",
            {"forward_splits", "reverse_splits", "stock_dividends", "cash_dividends", "spin_offs"},
        ),
    ],
)
def test_adjusted_bars_follow_the_rule(adjustment: str, kinds: set[str]) -> None:
    of = [symbols_with(kind)[:3] for kind in ("forward_splits", "reverse_splits", "spin_offs")]
    symbols = [s for each in of for s in each] + symbols_with("cash_dividends")[:3]
    assert len(set(symbols)) > 6
    changed = 0
    for symbol in symbols:
        right = expected(symbol, kinds)
        assert alike(bars(symbol, adjustment), right)
        changed += right != bars(symbol)
    assert changed >= 1


def test_combinations_say_the_same_as_all() -> None:
    for symbol in symbols_with("cash_dividends")[:2] + symbols_with("spin_offs")[:1]:
        assert bars(symbol, "dividend,split,spin-off") == bars(symbol, "all")
        assert bars(symbol, "raw") == bars(symbol)


def test_a_splits_adjusted_series_is_continuous_and_keeps_its_turnover() -> None:
    symbol = symbols_with("forward_splits")[0]
    raw, adjusted = bars(symbol), bars(symbol, "split")
    for one, two in zip(raw, adjusted, strict=True):
        assert two["c"] * two["v"] == pytest.approx(one["c"] * one["v"], rel=0.01)
    moves = np.abs(np.diff(np.log([bar["c"] for bar in adjusted])))
    assert moves.max() < np.log(1.45)


def test_prices_come_in_cents() -> None:
    symbol = symbols_with("cash_dividends")[0]
    raw = {bar["t"]: bar for bar in bars(symbol)}
    for bar in bars(symbol, "all"):
        if bar != raw[bar["t"]]:
            assert all(round(bar[name], 2) == bar[name] for name in ("o", "h", "l", "c", "vw"))


def test_of_a_renamed_security_the_actions_under_its_earlier_ticker_count_too() -> None:
    split = next(
        action
        for action in TRUTH.actions(date(2015, 1, 1), date(2022, 1, 1), [Kind.FORWARD_SPLIT])
        if TRUTH.ticker(action.security, NOW.date()) != action.row["symbol"]
        and (TRUTH.last(action.security) or NOW.date()) > date(2024, 1, 1)
    )
    today = TRUTH.ticker(split.security, date(2024, 1, 2))
    asof = next(
        f"{h.first + timedelta(1)}"
        for h in TRUTH.holdings
        if h.security == split.security and h.ticker == today
    )
    raw, adjusted = bars(today, "raw", asof), bars(today, "split", asof)
    days = [at for at, bar in enumerate(raw) if bar["t"][:10] < split.row["ex_date"]]
    assert days
    assert raw[days[-1]]["c"] / adjusted[days[-1]]["c"] > 1.4


def test_an_action_of_the_future_is_not_applied() -> None:
    ahead = [
        row
        for kind, row in told(EXCHANGE, start="2026-09-03", end="2026-12-31")
        if kind == "cash_dividends" and row["ex_date"] > f"{NOW.date()}"
    ]
    for row in ahead[:5]:
        last = bars(row["symbol"], "dividend")
        assert not last or last[-1] == bars(row["symbol"])[-1]
    assert ahead


def test_the_years_are_made_of_adjusted_days() -> None:
    symbol = symbols_with("forward_splits")[0]
    yearly = call(EXCHANGE, symbols=symbol, **SPAN, timeframe="12Month", adjustment="all").json()
    daily = bars(symbol, "all")
    for bar in yearly["bars"][symbol]:
        days = [day for day in daily if day["t"][:4] == bar["t"][:4]]
        assert bar["h"] == max(day["h"] for day in days)
        assert bar["c"] == days[-1]["c"]


@pytest.mark.parametrize("text", ["", "none", "raw,split", "split,,dividend", "split dividend"])
def test_other_adjustments_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid adjustment"):
        read_adjustment(text)


def test_all_is_every_kind() -> None:
    assert read_adjustment("split,dividend,spin-off") == ADJUSTMENTS["all"]
    assert read_adjustment("raw") == frozenset()
