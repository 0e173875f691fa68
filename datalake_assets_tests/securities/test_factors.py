from __future__ import annotations

import csv
import gzip
import math
import random
from collections.abc import Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.securities import factors, identity
from datalake_assets.securities.factors import NEAR, OPEN_END, Factors, ratio
from datalake_assets.securities.registry import Registry
from datalake_assets_tests.securities.bars import History, action, actions, sessions

DAYS = sessions("2020-01-02", "2020-12-31")
EX = DAYS[30]
Row = dict[str, Any]


def derive(history: History, *rows: Row, **decided: Any) -> Factors:
    table = actions(*rows)
    found = history.gathered(identity.asked_of(table))
    who = identity.identify(found, table, None, Registry())
    return factors.derive(found, who.table, table, **decided)


def only(found: Factors) -> Row:
    (row,) = found.table.to_pylist()
    return row


def rows(found: Factors) -> dict[str, Row]:
    return {row["action_id"]: row for row in found.table.to_pylist()}


def dividend(id: str, symbol: str, day: date, cash: float, **more: Any) -> Row:
    return action(id, "cash_dividends", symbol, day, cash=cash, **more)


def split(id: str, symbol: str, day: date, new: float, old: float, **more: Any) -> Row:
    kind = "forward_splits" if new > old else "reverse_splits"
    return action(id, kind, symbol, day, new_rate=new, old_rate=old, **more)


def moved(by: float, at: int = 30, symbol: str = "A", count: int = 60) -> History:
    """A price of 100 that is multiplied on one day."""
    closes = [100.0 * (by if index >= at else 1) for index in range(count)]
    return History().add(symbol, DAYS[:count], closes).add("Z", DAYS[:count])


def adjusted(
    found: Factors, history: History, kinds: Sequence[str]
) -> dict[tuple[str, date], float]:
    """Each bar's close times the factors of the span that holds it, which must be exactly one."""
    spans = found.cumulative.to_pylist()
    result = {}
    for day, held in history.bars.items():
        for symbol, (_, close, _) in held.items():
            (span,) = [
                span
                for span in spans
                if span["symbol"] == symbol and span["first_session"] <= day <= span["last_session"]
            ]
            result[symbol, day] = close * math.prod(span[kind] for kind in kinds)
    return result


# --- the arithmetic ---


@pytest.mark.parametrize(
    ("new", "old", "pair"),
    [(2.0, 1.0, (2, 1)), (1.05, 1.0, (21, 20)), (1.0, 3.0, (1, 3)), (3.0, 2.0, (3, 2))],
)
def test_ratios_are_pairs_of_whole_numbers(new: float, old: float, pair: tuple[int, int]):
    assert ratio(new, old) == pair


def test_a_split_divides_prices_and_multiplies_volumes():
    row = only(derive(moved(0.5), split("s", "A", EX, 2.0, 1.0)))
    assert (row["price_factor"], row["volume_factor"], row["total_return_factor"]) == (
        0.5,
        2.0,
        0.5,
    )
    assert (row["verdict"], row["applied"], row["session"]) == ("confirmed", True, EX)
    assert (row["new_shares"], row["old_shares"]) == (2, 1)


def test_a_stock_dividend_is_a_split_by_what_comes_on_top():
    row = only(derive(moved(1 / 1.05), action("s", "stock_dividends", "A", EX, new_rate=0.05)))
    assert (row["new_shares"], row["old_shares"], row["adjustment"]) == (21, 20, "split")
    assert row["price_factor"] == 20 / 21
    assert (row["verdict"], row["applied"]) == ("too small to tell", True)


def test_a_dividend_by_both_rules():
    closes = [100.0] * 30 + [98.0] * 30
    row = only(derive(History().add("A", DAYS[:60], closes), dividend("d", "A", EX, 2.0)))
    assert row["price_factor"] == 1 - 2.0 / 100.0
    assert row["total_return_factor"] == 98.0 / (98.0 + 2.0)
    assert (row["volume_factor"], row["close_before"], row["close"]) == (1.0, 100.0, 98.0)
    assert row["verdict"] == "too small to tell"


def test_two_amounts_on_one_day_are_summed():
    found = rows(derive(moved(0.97), dividend("a", "A", EX, 1.0), dividend("b", "A", EX, 2.0)))
    assert found["a"]["price_factor"] * found["b"]["price_factor"] == pytest.approx(0.97, rel=1e-15)
    product = found["a"]["total_return_factor"] * found["b"]["total_return_factor"]
    assert product == pytest.approx(97 / 100, rel=1e-15)


def test_cash_on_the_day_of_a_split_is_per_new_share():
    found = rows(derive(moved(0.49), split("s", "A", EX, 2.0, 1.0), dividend("d", "A", EX, 1.0)))
    assert found["d"]["price_factor"] == 1 - 1.0 / 50.0
    assert (found["s"]["verdict"], found["s"]["price_factor"]) == ("confirmed", 0.5)


def test_an_ex_date_without_a_bar_acts_at_the_next_bar():
    history = History().add("A", [*DAYS[:30], *DAYS[33:60]]).add("Z", DAYS[:60])
    row = only(derive(history, dividend("d", "A", EX, 1.0)))
    assert (row["session"], row["effective_date"], row["applied"]) == (DAYS[33], EX, True)


@pytest.mark.parametrize(
    ("silent", "counts", "verdict"),
    [
        # With trades at the price before there was no split.
        (0, 30, "contradicted"),
        (1, 31, "confirmed"),
        (NEAR, 30 + NEAR, "confirmed"),
        # After so long it is not that split any more.
        (NEAR + 1, 30, "unseen"),
    ],
)
def test_a_bar_without_trades_that_repeats_the_close_is_no_bar(
    silent: int, counts: int, verdict: str
):
    closes = [100.0 if at < 30 + max(silent, 1) else 50.0 for at in range(60)]
    volume = [0 if 30 <= at < 30 + silent else 10_000 for at in range(60)]
    history = History().add("A", DAYS[:60], closes, volume=volume)
    row = only(derive(history, split("s", "A", EX, 2.0, 1.0)))
    assert (row["session"], row["verdict"]) == (DAYS[counts], verdict)
    assert row["applied"] is (verdict != "contradicted")


@pytest.mark.parametrize("day", [date(2019, 12, 2), DAYS[0]])
def test_on_or_before_the_first_bar_it_does_nothing(day: date):
    found = derive(moved(1.0), dividend("d", "A", day, 1.0))
    row = only(found)
    assert (row["session"], row["applied"], row["reason"]) == (None, False, "no bar before it")
    assert found.cumulative.num_rows == 2


def test_without_a_single_bar_an_action_does_nothing_yet():
    assert derive(History(), split("s", "A", EX, 4.0, 1.0)).table.num_rows == 0


def test_after_the_last_bar_it_does_nothing_yet():
    row = only(derive(moved(1.0), dividend("d", "A", DAYS[60], 1.0)))
    assert (row["session"], row["applied"], row["reason"]) == (None, False, "no bar since")
    assert row["verdict"] == "unseen"


def test_p_is_the_close_before_also_over_a_rename_and_a_quarter():
    history = History().add("A", DAYS[:100], 80.0).add("B", DAYS[100:], 78.0)
    rename = action("r", "name_changes", "A", DAYS[100], new_symbol="B")
    for symbol in ("A", "B"):
        found = derive(history, rename, dividend("d", symbol, DAYS[100], 2.0))
        row = only(found)
        assert (row["symbol"], row["security"]) == ("B", f"A-{DAYS[0]}")
        assert (row["close_before"], row["price_factor"]) == (80.0, 1 - 2.0 / 80.0)
        assert [span["dividend"] for span in found.cumulative.to_pylist()] == [0.975, 1.0]


def test_an_action_is_found_under_a_later_and_an_earlier_ticker():
    history = History().add("A", DAYS[:100]).add("B", DAYS[100:])
    rename = action("r", "name_changes", "A", DAYS[100], new_symbol="B")
    found = rows(
        derive(history, rename, dividend("x", "B", EX, 1.0), dividend("y", "A", DAYS[150], 1.0))
    )
    assert (found["x"]["symbol"], found["x"]["session"]) == ("A", EX)
    assert (found["y"]["symbol"], found["y"]["session"]) == ("B", DAYS[150])


def test_of_a_taken_over_ticker_an_action_happens_to_the_holder_of_its_day():
    history = History().add("A", DAYS[:50], 10.0).add("A", DAYS[120:], 90.0).add("Z", DAYS)
    found = rows(derive(history, dividend("x", "A", EX, 1.0), dividend("y", "A", DAYS[150], 1.0)))
    assert found["x"]["security"] == f"A-{DAYS[0]}"
    assert found["y"]["security"] == f"A-{DAYS[120]}"
    assert (found["x"]["close_before"], found["y"]["close_before"]) == (10.0, 90.0)


def spin_off(id: str, source: str, day: date, new_symbol: str, new: float, old: float) -> Row:
    more = {"new_symbol": new_symbol, "new_rate": new, "old_rate": old}
    return action(id, "spin_offs", source, day, **more)


def test_a_spin_off_is_worth_the_open_of_the_new_company():
    history = moved(0.75).add("N", DAYS[30:60], 52.0, [50.0] + [52.0] * 29)
    row = only(derive(history, spin_off("x", "A", EX, "N", 1.0, 2.0)))
    assert (row["amount"], row["amount_from"]) == (25.0, f"open of N on {EX}")
    assert (row["price_factor"], row["volume_factor"]) == (0.75, 1.0)
    assert (row["verdict"], row["applied"], row["adjustment"]) == ("confirmed", True, "spin-off")


def test_a_spin_off_whose_company_has_no_bar_is_named():
    found = derive(moved(0.75), spin_off("x", "A", EX, "N", 1.0, 2.0))
    row = only(found)
    assert (row["applied"], row["verdict"], row["price_factor"]) == (False, "unseen", 1.0)
    assert [finding.kind for finding in found.findings] == ["value unknown"]


def test_a_rename_and_a_spin_off_on_one_day():
    history = History().add("A", DAYS[:30], 100.0).add("B", DAYS[30:60], 75.0)
    history.add("A", DAYS[30:60], 25.0).add("Z", DAYS[:60])
    found = derive(
        history,
        action("r", "name_changes", "A", EX, new_symbol="B"),
        spin_off("x", "A", EX, "A", 1.0, 1.0),
    )
    row = only(found)
    assert (row["symbol"], row["security"]) == ("B", f"A-{DAYS[0]}")
    assert (row["amount"], row["close_before"], row["verdict"]) == (25.0, 100.0, "confirmed")


# --- wrong actions ---


def test_the_ratio_of_a_spin_off_entered_as_a_split_is_contradicted():
    # DHR 2016-07-05 fell by a quarter, and one share of Fortive came for two.
    found = derive(moved(0.755), split("s", "A", EX, 3.0, 2.0))
    row = only(found)
    assert (row["verdict"], row["applied"]) == ("contradicted", False)
    assert row["price_factor"] == 2 / 3  # what would be applied
    (finding,) = found.findings
    assert finding.kind == "split contradicted"
    assert "opened at -24.5%" in finding.what
    assert "datalake decide accept s" in finding.decide
    assert found.cumulative["split"].to_pylist() == [1.0, 1.0]


def test_beside_the_spin_off_itself_only_that_is_confirmed():
    history = moved(0.755).add("N", DAYS[30:60], 49.0)
    found = rows(
        derive(history, split("s", "A", EX, 3.0, 2.0), spin_off("x", "A", EX, "N", 1.0, 2.0))
    )
    assert (found["s"]["verdict"], found["s"]["applied"]) == ("contradicted", False)
    assert (found["x"]["verdict"], found["x"]["applied"]) == ("confirmed", True)
    assert found["x"]["price_factor"] == 1 - 24.5 / 100


def test_a_reverse_split_that_was_a_forward_one_is_contradicted():
    row = only(derive(moved(0.5), split("s", "A", EX, 1.0, 2.0)))
    assert (row["verdict"], row["applied"]) == ("contradicted", False)


@pytest.mark.parametrize("real", [30, 31])
def test_of_one_split_on_two_days_only_the_real_one_is_applied(real: int):
    found = derive(
        moved(3.0, at=real),
        split("a", "A", DAYS[30], 1.0, 3.0),
        split("b", "A", DAYS[31], 1.0, 3.0),
    )
    good, bad = ("a", "b") if real == 30 else ("b", "a")
    told = rows(found)
    assert (told[good]["verdict"], told[good]["applied"]) == ("confirmed", True)
    assert (told[bad]["verdict"], told[bad]["applied"]) == ("contradicted", False)
    assert [finding.action_id for finding in found.findings] == [bad]
    assert found.findings[0].kind == "listed twice"


def test_a_dividend_listed_twice_is_applied_once():
    found = derive(moved(0.99), dividend("a", "A", EX, 0.41), dividend("b", "A", EX, 0.41))
    told = rows(found)
    assert (told["a"]["applied"], told["b"]["applied"]) == (True, False)
    assert (told["b"]["verdict"], told["b"]["reason"]) == ("contradicted", "it is listed twice")
    assert told["a"]["price_factor"] == 1 - 0.41 / 100
    assert [finding.kind for finding in found.findings] == ["listed twice"]


def test_a_special_dividend_of_the_same_amount_is_another_one():
    special = dividend("b", "A", EX, 0.41, body='{"special": true}')
    found = derive(moved(0.99), dividend("a", "A", EX, 0.41, body='{"special": false}'), special)
    assert all(row["applied"] for row in rows(found).values())


def test_a_weekly_payer_of_equal_amounts_is_listed_once_each():
    told = [
        dividend(f"{n}", "A", DAYS[30 + 5 * n], 0.1, process=DAYS[32 + 5 * n]) for n in range(4)
    ]
    assert all(row["applied"] for row in rows(derive(moved(1.0), *told)).values())


@pytest.mark.parametrize(("cash", "impossible"), [(99.99, False), (100.0, True), (130.0, True)])
def test_a_dividend_not_less_than_the_price_is_an_error(cash: float, impossible: bool):
    found = derive(moved(0.0001), dividend("d", "A", EX, cash))
    row = only(found)
    assert row["applied"] != impossible
    if impossible:
        assert (row["price_factor"], row["verdict"]) == (1.0, "contradicted")
        assert [finding.kind for finding in found.findings] == ["impossible"]


def test_a_large_special_dividend_that_the_price_does_not_know_is_contradicted():
    row = only(derive(moved(1.0), dividend("d", "A", EX, 40.0)))
    assert (row["verdict"], row["applied"]) == ("contradicted", False)


def test_a_crash_on_the_day_of_a_reverse_split_does_not_contradict_it():
    row = only(derive(moved(10 * 0.75), split("s", "A", EX, 1.0, 10.0)))
    assert (row["verdict"], row["applied"]) == ("confirmed", True)


def test_a_rate_that_is_impossible_is_named():
    found = derive(moved(1.0), action("s", "forward_splits", "A", EX, new_rate=0.0, old_rate=1.0))
    assert (only(found)["applied"], found.findings[0].kind) == (False, "impossible")


def test_the_users_decisions_stand_above_the_prices():
    wrong = split("s", "A", EX, 3.0, 2.0)
    accepted = derive(moved(1.0), wrong, accepted={"s"})
    assert (only(accepted)["applied"], only(accepted)["decision"]) == (True, "accept")
    assert not accepted.findings
    ignored = derive(moved(0.5), split("s", "A", EX, 2.0, 1.0), ignored={"s"})
    assert (only(ignored)["applied"], only(ignored)["verdict"]) == (False, "confirmed")
    assert not derive(moved(1.0), wrong, ignored={"s"}).findings


# --- the spans ---


def test_spans_hold_each_bar_once_and_the_newest_has_one_everywhere():
    history = History().add("A", DAYS[:100], 80.0).add("B", DAYS[100:], 40.0).add("Z", DAYS)
    found = derive(
        history,
        action("r", "name_changes", "A", DAYS[100], new_symbol="B"),
        split("s", "A", DAYS[100], 2.0, 1.0),
        dividend("d", "A", DAYS[40], 1.0),
        dividend("e", "B", DAYS[140], 1.0),
    )
    adjusted(found, history, ["split"])
    newest = {row["security"]: row for row in found.cumulative.to_pylist()}
    for row in newest.values():
        names = ("split", "spin_off", "dividend", "total_return", "volume")
        assert [row[name] for name in names] == [1.0] * 5
        assert row["last_session"] == OPEN_END
    mine = [row for row in found.cumulative.to_pylist() if row["symbol"] in "AB"]
    assert [row["split"] for row in mine] == [0.5, 0.5, 1.0, 1.0]
    assert [row["volume"] for row in mine] == [2.0, 2.0, 1.0, 1.0]


action_of = st.one_of(
    st.tuples(st.just("split"), st.sampled_from([(2, 1), (3, 2), (1, 10), (1, 4)])),
    st.tuples(st.just("cash"), st.floats(0.01, 0.2)),
)


@settings(max_examples=25, deadline=None)
@given(
    told=st.dictionaries(st.integers(1, 58), action_of, max_size=8),
    renamed=st.none() | st.integers(5, 55),
    seed=st.integers(0, 1000),
)
def test_adjusting_is_continuous_invertible_and_changes_no_other_return(told, renamed, seed):
    """A price that moves with its actions: splits whole, dividends by a share of the price."""
    draw = random.Random(seed)
    price, closes, opens, returns, listed = 100.0, [], [], [], []
    for index in range(60):
        opened, gain = price, draw.uniform(-0.02, 0.02)
        if index in told:
            kind, value = told[index]
            if kind == "split":
                new, old = value
                listed.append(split(f"a{index}", "A", DAYS[index], float(new), float(old)))
                opened = price * old / new
            else:
                cash = price * value * 0.5
                listed.append(dividend(f"a{index}", "A", DAYS[index], cash))
                opened = price - cash
        price = opened * (1 + gain)
        opens.append(opened)
        closes.append(price)
        returns.append(gain)
    history = History().add("Z", DAYS[:60])
    if renamed is None:
        history.add("A", DAYS[:60], closes, opens)
        name = lambda index: "A"  # noqa: E731
    else:
        history.add("A", DAYS[:renamed], closes[:renamed], opens[:renamed])
        history.add("B", DAYS[renamed:60], closes[renamed:], opens[renamed:])
        listed.append(action("r", "name_changes", "A", DAYS[renamed], new_symbol="B"))
        name = lambda index: "A" if index < renamed else "B"  # noqa: E731
    found = derive(history, *listed)
    assert found.table["applied"].to_pylist() == [True] * len(told)
    kinds = ["split", "spin_off", "dividend"]
    series = adjusted(found, history, kinds)
    mine = [series[name(index), DAYS[index]] for index in range(60)]
    measured = np.diff(mine) / np.array(mine[:-1])
    # On days without an action the raw return, on others what was not the action's own.
    assert measured == pytest.approx(returns[1:], abs=1e-9)
    assert mine[-1] == closes[-1]
    spans = {
        row["first_session"]: row for row in found.cumulative.to_pylist() if row["symbol"] != "Z"
    }
    back = 0.0
    for row in spans.values():
        factor = math.prod(row[kind] for kind in kinds)
        assert factor > 0
        back = max(back, abs(factor / factor - 1))
    for index in range(60):
        row = max(
            (row for day, row in spans.items() if day <= DAYS[index]),
            key=lambda row: row["first_session"],
        )
        factor = math.prod(row[kind] for kind in kinds)
        assert series[name(index), DAYS[index]] / factor == pytest.approx(closes[index], rel=1e-12)
    shuffled = listed.copy()
    draw.shuffle(shuffled)
    again = derive(history, *shuffled)
    assert again.table.equals(found.table)
    assert again.cumulative.equals(found.cumulative)


# --- real bars ---

ACTIONS = Path(__file__).with_name("bokeh_actions.csv")


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[dict[str, str]]]:
    data = files("bokeh_sampledata").joinpath("_data/stocks.csv.gz").read_bytes()
    found: dict[str, list[dict[str, str]]] = {}
    for line in csv.DictReader(gzip.decompress(data).decode().splitlines()):
        found.setdefault(line["Ticker"], []).append(line)
    return found


@pytest.fixture(scope="module")
def real(recorded: dict[str, list[dict[str, str]]]) -> tuple[History, Factors]:
    history = History()
    for symbol, lines in recorded.items():
        history.add(
            symbol,
            [date.fromisoformat(line["Date"]) for line in lines],
            [float(line["Close"]) for line in lines],
            [float(line["Open"]) for line in lines],
            [int(float(line["Volume"])) for line in lines],
        )
    told = []
    for number, line in enumerate(csv.DictReader(ACTIONS.read_text().splitlines())):
        day = date.fromisoformat(line["ex_date"])
        if line["kind"] == "split":
            told.append(split(f"{number}", line["symbol"], day, float(line["ratio"]), 1.0))
        else:
            told.append(dividend(f"{number}", line["symbol"], day, float(line["amount"])))
    return history, derive(history, *told)


@pytest.mark.parametrize("symbol", ["AAPL", "MSFT", "IBM"])
def test_total_returns_of_real_bars_are_those_of_the_vendors_adjusted_close(
    symbol: str, real: tuple[History, Factors], recorded: dict[str, list[dict[str, str]]]
):
    history, found = real
    theirs = np.array([float(line["Adj Close"]) for line in recorded[symbol]])
    days = [date.fromisoformat(line["Date"]) for line in recorded[symbol]]
    for kinds, within in ((["total_return"], 1e-9), (["split", "spin_off", "dividend"], 2.5e-3)):
        part = History()
        part.bars = {day: {symbol: history.bars[day][symbol]} for day in days}
        series = adjusted(found, part, kinds)
        ours = np.array([series[symbol, day] for day in days])
        # His later actions shift the whole series by a constant.
        assert np.max(np.abs(ours / ours[-1] / (theirs / theirs[-1]) - 1)) < within


def test_every_real_split_is_confirmed_and_every_real_action_applied(real: tuple[History, Factors]):
    _, found = real
    told = found.table.to_pylist()
    assert len(told) == 95
    assert all(row["applied"] for row in told)
    assert {row["verdict"] for row in told if row["adjustment"] == "split"} == {"confirmed"}
    assert not found.findings
