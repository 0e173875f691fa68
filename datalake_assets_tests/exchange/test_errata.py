"""Each mistake of the real source, made on purpose: what the list says, and the adjusted bars."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from datalake_assets.exchange.actions import Action
from datalake_assets.exchange.errata import Errata, Erratum, random_errata, read_errata
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets_tests.exchange.calling import NOW, call, frozen
from datalake_assets_tests.exchange.test_actions import told
from datalake_assets_tests.exchange.test_openapi import problems, specification

MARKET = SyntheticMarket(active=300, inactive=100)
TRUTH = MARKET.truth()
RIGHT = frozen(MARKET)
DAY = timedelta(days=1)


def first(*kinds: Kind) -> Action:
    """An action alone on its day, with a bar the session before and on the day."""
    for action in TRUTH.actions(date(2018, 1, 1), date(2025, 1, 1), kinds):
        at = MARKET.sessions.index(action.counts)
        symbol = symbol_of(action)
        if len(MARKET.bars([symbol], at - 1, at + 1)) == 2 and action.row.get("rate", 1) > 0.1:
            return action
    raise AssertionError(kinds)


def symbol_of(action: Action) -> str:
    return str(action.row.get("symbol") or action.row["source_symbol"])


DIVIDEND = first(Kind.CASH_DIVIDEND)
FORWARD = first(Kind.FORWARD_SPLIT)
SPIN_OFF = first(Kind.SPIN_OFF)
INSTANT = datetime.combine(DIVIDEND.counts + 10 * DAY, datetime.min.time(), UTC)


def wrong(mistake: str, action: Action, **more: Any) -> Exchange:
    """An exchange that makes this mistake about an action."""
    return frozen(MARKET, errata=Errata([erratum(mistake, action, **more)]))


def erratum(mistake: str, action: Action, **more: Any) -> Erratum:
    day, symbol = action.counts, symbol_of(action)
    return Erratum(mistake=mistake, symbol=symbol, day=day, **more)  # type: ignore[arg-type]


def rows(exchange: Exchange, action: Action) -> list[tuple[str, dict[str, Any]]]:
    """What is told of the security around the day, but for other things."""
    span = {"start": action.counts - 5 * DAY, "end": action.counts + 45 * DAY}
    others = {row["id"] for _, row in told(RIGHT, symbols=symbol_of(action), **span)}
    others.discard(action.row["id"])
    found = told(exchange, symbols=symbol_of(action), **span)
    return [(kind, row) for kind, row in found if row["id"] not in others]


def close_before(exchange: Exchange, action: Action, adjustment: str = "all") -> float:
    """The adjusted close of the session before."""
    before = MARKET.sessions[MARKET.sessions.index(action.counts) - 1]
    query = {"symbols": symbol_of(action), "start": before, "end": before}
    page = call(exchange, **query, adjustment=adjustment).json()
    return page["bars"][symbol_of(action)][0]["c"]  # type: ignore[no-any-return]


def effect(exchange: Exchange, action: Action) -> float:
    """By what its mistake multiplies the adjusted close, as against the right one."""
    return close_before(exchange, action) / close_before(RIGHT, action)


def raw_before(action: Action) -> float:
    return close_before(RIGHT, action, "raw")


def near(value: float, action: Action) -> Any:
    """Within the cent that adjusted bars are rounded to."""
    return pytest.approx(value, rel=0.011 / close_before(RIGHT, action))


def test_without_errata_the_source_is_right() -> None:
    exchange = frozen(MARKET, errata=Errata())
    span = {"start": "2024-01-01", "end": "2024-06-30"}
    assert told(exchange, **span) == told(RIGHT, **span)


def test_a_spin_offs_ratio_is_entered_as_a_split() -> None:
    exchange = wrong("ratio_as_split", SPIN_OFF)
    ((kind, row),) = rows(exchange, SPIN_OFF)
    assert kind in ("forward_splits", "reverse_splits")
    new, old = SPIN_OFF.row["new_rate"], SPIN_OFF.row["source_rate"]
    assert (row["new_rate"], row["old_rate"]) == (new, old)
    assert "source_symbol" not in row


@pytest.mark.parametrize("action", [FORWARD, SPIN_OFF, DIVIDEND], ids=["split", "spin", "cash"])
def test_an_action_is_missing(action: Action) -> None:
    exchange = wrong("missing", action)
    assert rows(exchange, action) == []
    assert told(exchange, ids=action.row["id"]) == []
    assert effect(exchange, action) > 1, "adjusted bars lack it, too"


def test_a_split_is_listed_on_two_days_and_applied_twice() -> None:
    exchange = wrong("twice", FORWARD)
    one, two = (row for _, row in rows(exchange, FORWARD))
    assert one["ex_date"] == f"{FORWARD.counts}"
    assert date.fromisoformat(two["ex_date"]) in MARKET.sessions
    assert DAY <= date.fromisoformat(two["ex_date"]) - FORWARD.counts <= 4 * DAY
    assert one["id"] != two["id"]
    ratio = FORWARD.row["new_rate"] / FORWARD.row["old_rate"]
    assert effect(exchange, FORWARD) == near(1 / ratio, FORWARD)


def test_a_forward_split_is_listed_as_a_reverse_one() -> None:
    exchange = wrong("inverted", FORWARD)
    ((kind, row),) = rows(exchange, FORWARD)
    assert kind == "reverse_splits"
    assert (row["new_rate"], row["old_rate"]) == (FORWARD.row["old_rate"], FORWARD.row["new_rate"])
    ratio = FORWARD.row["new_rate"] / FORWARD.row["old_rate"]
    assert effect(exchange, FORWARD) == near(ratio * ratio, FORWARD)


def test_a_dividend_is_listed_twice() -> None:
    exchange = wrong("listed_twice", DIVIDEND)
    one, two = (row for _, row in rows(exchange, DIVIDEND))
    assert one | {"id": two["id"]} == two
    assert one["id"] != two["id"]
    factor = 1 - DIVIDEND.row["rate"] / raw_before(DIVIDEND)
    assert effect(exchange, DIVIDEND) == near(factor, DIVIDEND)


def test_a_dividend_is_applied_twice_though_listed_once() -> None:
    exchange = wrong("applied_twice", DIVIDEND)
    assert rows(exchange, DIVIDEND) == rows(RIGHT, DIVIDEND)
    factor = 1 - DIVIDEND.row["rate"] / raw_before(DIVIDEND)
    assert effect(exchange, DIVIDEND) == near(factor, DIVIDEND)


def test_a_rate_is_corrected_later_and_adjusted_bars_keep_the_old_one() -> None:
    rate = DIVIDEND.row["rate"] + 0.04
    errata = Errata([erratum("corrected", DIVIDEND, rate=rate, at=INSTANT)])
    before = frozen(MARKET, errata=errata, clock=lambda: INSTANT - timedelta(seconds=1))
    after = frozen(MARKET, errata=errata, clock=lambda: INSTANT)
    assert [row["rate"] for _, row in rows(before, DIVIDEND)] == [rate]
    assert rows(after, DIVIDEND) == [("cash_dividends", DIVIDEND.row)]
    right = frozen(MARKET, clock=lambda: INSTANT)
    wrong_close = close_before(after, DIVIDEND, "dividend")
    assert wrong_close == close_before(before, DIVIDEND, "dividend")
    assert wrong_close < close_before(right, DIVIDEND, "dividend")


def test_a_dividend_is_larger_than_the_price() -> None:
    exchange = wrong("excessive", DIVIDEND, rate=round(raw_before(DIVIDEND) + 1, 2))
    ((_, row),) = rows(exchange, DIVIDEND)
    assert row["rate"] > raw_before(DIVIDEND)
    assert close_before(exchange, DIVIDEND) > close_before(RIGHT, DIVIDEND), "it is not applied"
    ((_, row),) = rows(wrong("excessive", DIVIDEND), DIVIDEND)
    assert row["rate"] == DIVIDEND.row["rate"] * 100


@pytest.mark.parametrize(("mistake", "before"), [("vanishes", True), ("late", False)])
def test_an_action_vanishes_or_comes_late(mistake: str, before: bool) -> None:
    errata = Errata([erratum(mistake, DIVIDEND, at=INSTANT)])
    for instant, there in ((INSTANT - timedelta(seconds=1), before), (INSTANT, not before)):
        exchange = frozen(MARKET, errata=errata, clock=lambda instant=instant: instant)
        assert bool(rows(exchange, DIVIDEND)) is there
        assert bool(told(exchange, ids=DIVIDEND.row["id"])) is there


# Bars


def bar(exchange: Exchange, symbol: str, day: date, **query: Any) -> dict[str, Any]:
    page = call(exchange, symbols=symbol, start=day, end=day, **query).json()
    return page["bars"][symbol][0]  # type: ignore[no-any-return]


def test_the_bar_of_a_splits_day_has_no_volume_and_the_close_before() -> None:
    symbol, day = symbol_of(FORWARD), FORWARD.counts
    blank = bar(wrong("zero_volume", FORWARD), symbol, day)
    assert (blank["v"], blank["n"]) == (0, 0)
    assert {blank[name] for name in ("o", "h", "l", "c", "vw")} == {raw_before(FORWARD)}
    assert bar(RIGHT, symbol, day)["v"] > 0


def test_the_prices_of_a_day_are_a_tenth() -> None:
    symbol, day = symbol_of(DIVIDEND), DIVIDEND.counts
    right, tenth = bar(RIGHT, symbol, day), bar(wrong("tenth", DIVIDEND), symbol, day)
    assert tenth["c"] == pytest.approx(right["c"] / 10, abs=2e-4)
    assert tenth["v"] == right["v"]
    after = MARKET.sessions[MARKET.sessions.index(day) + 1]
    assert bar(wrong("tenth", DIVIDEND), symbol, after) == bar(RIGHT, symbol, after)


def test_a_low_is_restated_next_morning_and_nothing_else() -> None:
    symbol, day = symbol_of(DIVIDEND), DIVIDEND.counts
    errata = Errata([erratum("low_restated", DIVIDEND, at=INSTANT)])
    right = bar(RIGHT, symbol, day)
    before = frozen(MARKET, errata=errata, clock=lambda: INSTANT - timedelta(seconds=1))
    assert bar(before, symbol, day)["l"] < right["l"]
    assert bar(before, symbol, day) | {"l": right["l"]} == right
    after = frozen(MARKET, errata=errata, clock=lambda: INSTANT)
    assert bar(after, symbol, day) == right


def test_a_wrong_bar_is_wrong_under_whatever_ticker_it_is_asked_for() -> None:
    old, new = next(
        (one, two)
        for one, two in zip(TRUTH.holdings, TRUTH.holdings[1:], strict=False)
        if one.security == two.security and date(2016, 1, 1) < two.first < date(2024, 1, 1)
    )
    assert old.last is not None
    page = call(RIGHT, symbols=old.ticker, start=old.last - 30 * DAY, end=old.last).json()
    day = date.fromisoformat(page["bars"][old.ticker][-1]["t"][:10])
    errata = Errata([Erratum(mistake="tenth", symbol=old.ticker, day=day)])
    exchange = frozen(MARKET, errata=errata)
    asof = {"asof": new.first + DAY}
    assert bar(exchange, new.ticker, day, **asof) == bar(exchange, old.ticker, day)
    assert bar(exchange, new.ticker, day, **asof) != bar(RIGHT, new.ticker, day, **asof)


# Giving them


def test_a_mistake_about_what_is_not_there_is_refused_at_once() -> None:
    nothing = Errata([Erratum(mistake="twice", symbol="NOSUCH", day=date(2024, 1, 2))])
    with pytest.raises(ValueError, match="NOSUCH has no forward_split or reverse_split on 2024"):
        frozen(MARKET, errata=nothing)
    weekend = Errata([Erratum(mistake="tenth", symbol="A", day=date(2024, 1, 6))])
    with pytest.raises(ValueError, match="no session on that day"):
        frozen(MARKET, errata=weekend)


@pytest.mark.parametrize("mistake", ["corrected", "vanishes", "late", "low_restated"])
def test_a_mistake_that_changes_needs_to_know_when(mistake: str) -> None:
    with pytest.raises(ValueError, match="needs `at`"):
        erratum(mistake, DIVIDEND)
    with pytest.raises(ValueError, match="needs `at`"):
        erratum(mistake, DIVIDEND, at=datetime(2024, 1, 2), rate=1.0)  # noqa: DTZ001


def test_errata_are_given_as_json_too() -> None:
    text = json.dumps(
        [{"mistake": "twice", "symbol": symbol_of(FORWARD), "day": f"{FORWARD.counts}"}]
    )
    exchange = frozen(MARKET, errata=read_errata(text))
    assert rows(exchange, FORWARD) == rows(wrong("twice", FORWARD), FORWARD)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"rate": 2}', '[{"mistake": "none", "symbol": "A", "day": "2024-01-02"}]']
)
def test_errata_that_make_no_sense_are_refused_with_what_would(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read: .*give for example"):
        read_errata(text)


def test_random_errata_are_a_share_and_the_same_each_time() -> None:
    span = {"start": "2011-01-01", "end": "2026-09-01"}
    right = told(RIGHT, **span)
    some = told(frozen(MARKET, errata=random_errata(0.2, seed=1)), **span)
    assert some == told(frozen(MARKET, errata=random_errata(0.2, seed=1)), **span)
    assert some != told(frozen(MARKET, errata=random_errata(0.2, seed=2)), **span)
    kept = {row["id"] for kind, row in right if kind.endswith("splits")}
    wrong_ones = kept - {r["id"] for k, r in some if (k, r) in right}
    assert 0.03 < len(wrong_ones) / len(kept) < 0.3
    assert told(frozen(MARKET, errata=random_errata(0.0)), **span) == right


def test_wrong_rows_are_as_specified() -> None:
    specification("data")  # skips here, before anything is asked
    exchange = frozen(MARKET, errata=random_errata(1.0))
    for kind in ("forward_split", "reverse_split", "spin_off", "cash_dividend"):
        query = {"start": "2011-01-01", "end": "2026-09-01", "types": kind, "limit": 1_000}
        page = call(exchange, "/v1/corporate-actions", **query).json()
        assert problems("data", "/v1/corporate-actions", 200, page) == []


def test_the_clock_of_the_tests_is_after_all_of_it() -> None:
    assert max(DIVIDEND.counts, FORWARD.counts, SPIN_OFF.counts) < NOW.date()
