"""Raw prices move with what happens, and nothing depends on when or how it is asked."""

from collections import Counter
from datetime import date
from itertools import pairwise

import numpy as np
import pytest

from datalake_assets.exchange.events import REFERENCE, Kind
from datalake_assets.exchange.market import DOLLAR, Bars
from datalake_assets.exchange.synthetic import SyntheticMarket

MARKET = SyntheticMarket(active=1_500, inactive=500)
TRUTH = MARKET.truth()
SPAN = (date(2011, 1, 3), date(2026, 9, 2))
NOISE = 0.06  # of a night: the wildest names


def around(symbol: str, before: str, day: date) -> tuple[Bars, Bars] | None:
    """The bars of the session before, and of a session, when both are there."""
    at = MARKET.sessions.index(day)
    one, two = MARKET.bars([before], at - 1, at), MARKET.bars([symbol], at, at + 1)
    return (one, two) if len(one) and len(two) else None


ACTIONS = list(TRUTH.actions(*SPAN))
TIMES = Counter((action.security, action.counts) for action in ACTIONS)
TIMES.update((jump.security, jump.day) for jump in TRUTH.jumps)


def nights(*kinds: Kind, since: date = SPAN[0]) -> list[tuple[dict[str, object], float, float]]:
    """Rows of actions alone on their day, the close before and the open of the day."""
    found = []
    for action in ACTIONS:
        day = action.counts
        if action.kind not in kinds or day < since or TIMES[action.security, day] > 1:
            continue
        previous = MARKET.sessions[MARKET.sessions.index(day) - 1]
        names = [TRUTH.ticker(action.security, d) for d in (previous, day)]
        if bars := around(names[1], names[0], day):
            close, opening = bars[0].close[0] / DOLLAR, bars[1].open[0] / DOLLAR
            if close > 2:  # below, a tick is too much of the price
                found.append((action.row, close, opening))
    return found


def check(ratios: list[float], least: int) -> None:
    """Each within the noise of a night, and together right."""
    assert len(ratios) > least
    assert max(abs(ratio - 1) for ratio in ratios) < NOISE
    assert np.mean(ratios) == pytest.approx(1, abs=0.006)


def test_a_split_divides_the_price() -> None:
    splits = nights(Kind.FORWARD_SPLIT, Kind.REVERSE_SPLIT)
    check([o / c * row["new_rate"] / row["old_rate"] for row, c, o in splits], 200)
    assert {row["new_rate"] > row["old_rate"] for row, _, _ in splits} == {True, False}


def test_a_stock_dividend_takes_its_part_of_the_price() -> None:
    check([o / c * (1 + row["rate"]) for row, c, o in nights(Kind.STOCK_DIVIDEND)], 60)


def test_a_dividend_takes_its_dollars_from_the_open() -> None:
    dividends = nights(Kind.CASH_DIVIDEND, since=date(2025, 6, 1))
    check([o / (c - row["rate"]) for row, c, o in dividends], 500)
    special = [
        (row["rate"] / c, o / (c - row["rate"])) for row, c, o in dividends if row["special"]
    ]
    assert max(part for part, _ in special) > 0.05


def test_a_spin_off_takes_what_the_new_company_is_worth_and_its_bars_begin_that_day() -> None:
    ratios = []
    for row, close, opening in nights(Kind.SPIN_OFF):
        day = date.fromisoformat(row["ex_date"])
        at = MARKET.sessions.index(day)
        new = MARKET.bars([row["new_symbol"]], at, at + 1)
        listed = min(
            h.first for h in TRUTH.holdings if h.security == holder(row["new_symbol"], day)
        )
        assert listed == day
        if len(new):
            worth = row["new_rate"] / row["source_rate"] * new.open[0] / DOLLAR
            ratios.append((opening + worth) / close)
    check(ratios, 30)


def holder(symbol: str, day: date) -> int | None:
    return TRUTH.holder(symbol, day)


def test_a_dividend_stays_the_same_and_grows_for_most() -> None:
    of: dict[int, list[float]] = {}
    splits = {a.security for a in TRUTH.actions(*SPAN, [Kind.FORWARD_SPLIT, Kind.REVERSE_SPLIT])}
    for action in ACTIONS:
        if (
            action.kind is Kind.CASH_DIVIDEND
            and not action.row["special"]
            and action.security not in splits
        ):
            of.setdefault(action.security, []).append(action.row["rate"])
    long = [rates for rates in of.values() if len(rates) > 40]
    same = [sum(a == b for a, b in pairwise(r)) / len(r) for r in long]
    assert np.median(same) > 0.6
    assert np.mean([rates[-1] > rates[0] for rates in long]) > 0.6
    yearly = [max(b / a for a, b in pairwise(r)) for r in long]
    assert np.median(yearly) < 1.3


def test_there_are_jumps_that_no_action_explains_on_heavy_volume() -> None:
    explained = {(a.security, a.counts) for a in ACTIONS}
    jumps = [j for j in TRUTH.jumps if SPAN[0] < j.day < SPAN[1]]
    heavy = []
    for jump in jumps:
        if (jump.security, jump.day) in explained:
            continue
        at = MARKET.sessions.index(jump.day)
        bars = MARKET.bars([TRUTH.ticker(jump.security, jump.day)], at - 20, at + 1)
        if len(bars) == 21 and bars.close[0] > 2 * DOLLAR:
            assert bars.open[-1] / bars.close[-2] == pytest.approx(jump.factor, rel=0.06)
            dollars = bars.close * bars.volume.astype(float)
            heavy.append(dollars[-1] / np.median(dollars[:-1]))
    assert len(heavy) > 150
    assert np.median(heavy) > 10
    assert {jump.factor > 1 for jump in jumps} == {True, False}


def test_things_go_on_happening_to_the_end_of_the_calendar() -> None:
    for year in range(2011, 2036):
        kinds = {a.kind for a in TRUTH.actions(date(year, 1, 1), date(year, 12, 31))}
        assert {Kind.NAME_CHANGE, Kind.CASH_DIVIDEND, Kind.CASH_MERGER} <= kinds
    after = [held for held in TRUTH.holdings if held.first > REFERENCE]
    assert len(after) > 500


# What an owner earned


def test_the_total_return_is_that_of_the_prices_when_nothing_happens() -> None:
    busy = {a.security for a in TRUTH.actions(date(2023, 12, 1), date(2024, 12, 31))}
    quiet = [h for h in TRUTH.holdings if h.first < date(2023, 1, 1) and not h.last]
    for held in [h for h in quiet if h.security not in busy][:20]:
        first, stop = (MARKET.sessions.index(date(2024, m, 3)) for m in (1, 6))
        bars = MARKET.bars([held.ticker], first, stop + 1)
        if len(bars) and bars.session[0] == first:
            growth = TRUTH.total_return(held.security, date(2024, 1, 3), date(2024, 6, 3))
            assert growth == pytest.approx(bars.close[-1] / bars.close[0], rel=1e-12)


def test_the_total_return_over_an_ex_date_counts_the_dividend() -> None:
    action = next(
        a
        for a in TRUTH.actions(date(2024, 2, 1), date(2024, 3, 1), [Kind.CASH_DIVIDEND])
        if around(a.row["symbol"], a.row["symbol"], a.counts)
    )
    before, day = around(action.row["symbol"], action.row["symbol"], action.counts) or (None, None)
    assert before is not None
    assert day is not None
    previous = MARKET.sessions[MARKET.sessions.index(action.counts) - 1]
    growth = TRUTH.total_return(action.security, previous, action.counts)
    dollars = action.row["rate"]
    expected = (day.close[0] / DOLLAR + dollars) / (before.close[0] / DOLLAR)
    assert growth == pytest.approx(expected, rel=1e-12)


def test_the_total_return_over_a_cash_merger_ends_with_its_payout() -> None:
    action = next(
        a
        for a in TRUTH.actions(date(2020, 1, 1), date(2024, 1, 1), [Kind.CASH_MERGER])
        if around(a.row["acquiree_symbol"], a.row["acquiree_symbol"], TRUTH.last(a.security))
    )
    last = TRUTH.last(action.security)
    bars = around(action.row["acquiree_symbol"], action.row["acquiree_symbol"], last)
    assert last is not None
    assert bars is not None
    growth = TRUTH.total_return(action.security, last, date(2026, 1, 5))
    assert growth == pytest.approx(action.row["rate"] / (bars[1].close[0] / DOLLAR), rel=1e-12)
    assert TRUTH.payout(action.security) == action.row["rate"]


def test_a_return_from_a_day_without_a_bar_is_refused() -> None:
    with pytest.raises(ValueError, match="has no bar on 2024-01-06"):
        TRUTH.total_return(TRUTH.holdings[0].security, date(2024, 1, 6), date(2024, 2, 1))
