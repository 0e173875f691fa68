"""Adjusted series and total returns, from the actions to what a reader gives, on real bars too."""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.lake.knowledge import evidence_of
from datalake_assets.lake.panel import panel
from datalake_assets.lake.returns import total_returns
from datalake_assets.lake.security_reader import Answer, Meant, Tables, arranged
from datalake_assets.securities import factors, identity
from datalake_assets.securities.adjusting import kinds
from datalake_assets.securities.registry import Registry
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.securities.bars import action, actions

DAYS = market_calendar.sessions(date(2024, 1, 2), date(2024, 2, 29))
EX = DAYS[10]
Row = dict[str, Any]


@dataclass
class Series:
    """Bars with their actions, as a reader gives them."""

    answer: Answer
    factors: pa.Table

    def adjusted(self, adjustment: str) -> pa.Table:
        return self.answer.spans.adjusted(self.answer.bars, self.answer.rows, kinds(adjustment))

    def closes(self, adjustment: str) -> np.ndarray:
        return self.adjusted(adjustment)["close"].to_numpy()

    def returns(self) -> np.ndarray:
        days = sorted(set(self.answer.bars["session"].to_pylist()))
        told = total_returns(self.answer, days[0], days[-1], days, lambda *_: None)
        return told["total_return"].to_numpy()[1:]


def series(bars: pa.Table, *rows: Row, accepted: bool = False) -> Series:
    """One symbol's bars, with the factors that the program derives from these actions."""
    listed = actions(*rows)
    days = sorted(set(bars["session"].to_pylist()))
    evidence = evidence_of(bars, days, {})
    who = identity.identify(evidence, listed, None, Registry()).table
    every = [row["id"] for row in rows] if accepted else ()
    found = factors.derive(evidence, who, listed, accepted=every)
    known = Tables({}, who, found.table, found.cumulative)
    return Series(arranged(bars, known, Meant(None, frozenset(), None, ())), found.table)


def flat(closes: Sequence[float], days: Sequence[date] = DAYS, symbol: str = "A") -> pa.Table:
    """Bars that trade at one price all day."""
    names = ("open", "high", "low", "close", "vwap")
    return table(
        bar(symbol, day) | dict.fromkeys(names, float(close))
        for day, close in zip(days, closes, strict=False)
    )


def split(day: date, new: float, old: float = 1.0, id: str = "s") -> Row:
    kind = "forward_splits" if new > old else "reverse_splits"
    return action(id, kind, "A", day, new_rate=new, old_rate=old)


def dividend(day: date, cash: float, id: str = "d") -> Row:
    return action(id, "cash_dividends", "A", day, cash=cash)


# --- real bars, real actions ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[dict[str, str]]]:
    data = files("bokeh_sampledata").joinpath("_data/stocks.csv.gz").read_bytes()
    found: dict[str, list[dict[str, str]]] = {}
    for line in csv.DictReader(gzip.decompress(data).decode().splitlines()):
        found.setdefault(line["Ticker"], []).append(line)
    return found


def real_actions(symbol: str, until: date = date.max) -> list[Row]:
    text = Path(__file__).parents[1].joinpath("securities", "bokeh_actions.csv").read_text()
    rows = []
    for number, line in enumerate(csv.DictReader(text.splitlines())):
        day = date.fromisoformat(line["ex_date"])
        if line["symbol"] == symbol and day <= until:
            one = (
                split(day, float(line["ratio"]), id=f"{number}")
                if line["kind"] == "split"
                else dividend(day, float(line["amount"]), id=f"{number}")
            )
            rows.append(one | {"symbol": symbol})
    return rows


def real_bars(lines: Sequence[dict[str, str]], until: date = date.max) -> pa.Table:
    rows = []
    for line in lines:
        day = date.fromisoformat(line["Date"])
        if day <= until:
            prices = {name: float(line[name.title()]) for name in ("open", "high", "low", "close")}
            volume = int(float(line["Volume"]))
            rows.append(bar(line["Ticker"], day) | prices | {"volume": volume})
    return table(rows)


@pytest.fixture(scope="module")
def real(recorded: dict[str, list[dict[str, str]]]) -> dict[str, Series]:
    return {
        symbol: series(real_bars(recorded[symbol]), *real_actions(symbol))
        for symbol in ("AAPL", "MSFT", "IBM")
    }


def theirs(lines: Sequence[dict[str, str]]) -> np.ndarray:
    return np.array([float(line["Adj Close"]) for line in lines])


@pytest.mark.parametrize("symbol", ["AAPL", "MSFT", "IBM"])
def test_total_returns_are_those_of_the_vendors_adjusted_closes(
    symbol: str, real: dict[str, Series], recorded: dict[str, list[dict[str, str]]]
) -> None:
    grown = np.cumprod(1 + real[symbol].returns())
    vendor = theirs(recorded[symbol])

    assert np.max(np.abs(grown / (vendor[1:] / vendor[0]) - 1)) < 1e-9


@pytest.mark.parametrize(("symbol", "within"), [("AAPL", 2.5e-4), ("MSFT", 2.3e-3), ("IBM", 2e-3)])
def test_prices_by_rule_a_are_as_near_to_them_as_the_rules_are_to_each_other(
    symbol: str, within: float, real: dict[str, Series], recorded: dict[str, list[dict[str, str]]]
) -> None:
    ours, vendor = real[symbol].closes("all"), theirs(recorded[symbol])
    # His later actions shift the whole series by a constant.
    apart = np.max(np.abs(ours / ours[-1] / (vendor / vendor[-1]) - 1))

    assert within / 100 < apart < within * 1.1


@pytest.mark.parametrize(
    ("symbol", "day"),
    [("AAPL", "2000-06-21"), ("MSFT", "2003-02-18"), ("AAPL", "2005-02-28")],
)
def test_a_real_split_is_gone_from_prices_and_from_volumes(
    symbol: str, day: str, real: dict[str, Series]
) -> None:
    raw, found = real[symbol].answer.bars, real[symbol].adjusted("split")
    at = raw["session"].to_pylist().index(date.fromisoformat(day))
    closes, adjusted = raw["close"].to_numpy(), found["close"].to_numpy()

    assert closes[at] / closes[at - 1] < 0.6
    assert 0.9 < adjusted[at] / adjusted[at - 1] < 1.1
    before, after = (raw["volume"][row].as_py() for row in (at - 1, at))
    later = found["volume"][at].as_py() / after
    assert found["volume"][at - 1].as_py() == 2 * later * before


def test_the_special_dividend_of_2004_is_a_factor_of_the_close_before_it(
    real: dict[str, Series],
) -> None:
    found = real["MSFT"]
    days = found.answer.bars["session"].to_pylist()
    at = days.index(date(2004, 11, 15))
    raw, ours = found.closes("raw"), found.closes("dividend")
    step = (ours[at - 1] / raw[at - 1]) / (ours[at] / raw[at])

    assert step == pytest.approx(1 - 3.08 / raw[at - 1], rel=1e-14)


@pytest.mark.parametrize("symbol", ["AAPL", "MSFT", "IBM"])
def test_anchored_at_another_day_the_series_differ_by_a_constant(
    symbol: str, real: dict[str, Series], recorded: dict[str, list[dict[str, str]]]
) -> None:
    until = date(2004, 12, 31)
    earlier = series(real_bars(recorded[symbol], until), *real_actions(symbol, until))
    ours = earlier.closes("all")
    ratio = real[symbol].closes("all")[: len(ours)] / ours

    assert ours[-1] == earlier.closes("raw")[-1]
    assert ratio == pytest.approx(np.full(len(ours), ratio[-1]), rel=1e-12)


# --- days on which much happens -------------------------------------------------------------------


def test_an_ex_date_without_a_bar_acts_at_the_next_bar() -> None:
    days = [day for day in DAYS if day != EX]
    found = series(flat([100.0] * len(days), days), dividend(EX, 2.0))

    assert found.closes("dividend").tolist() == [98.0] * 10 + [100.0] * (len(days) - 10)
    assert found.returns()[9] == pytest.approx(0.02)
    assert np.count_nonzero(found.returns()) == 1


def test_two_amounts_on_one_day_are_their_sum() -> None:
    prices = [100.0] * 10 + [97.0] * (len(DAYS) - 10)
    found = series(flat(prices), dividend(EX, 2.0, "a"), dividend(EX, 1.0, "b"))

    assert found.closes("dividend")[:10] == pytest.approx([97.0] * 10, rel=1e-15)
    assert found.returns() == pytest.approx(np.zeros(len(DAYS) - 1), abs=1e-15)


def test_on_the_day_of_a_split_cash_is_per_new_share() -> None:
    prices = [100.0] * 10 + [49.0] * (len(DAYS) - 10)
    found = series(flat(prices), split(EX, 2.0), dividend(EX, 1.0))

    assert found.closes("all") == pytest.approx([49.0] * len(DAYS), rel=1e-15)
    assert found.closes("split")[0] == 50.0
    assert found.closes("dividend")[0] == pytest.approx(98.0, rel=1e-15)
    assert found.returns() == pytest.approx(np.zeros(len(DAYS) - 1), abs=1e-15)


def test_cash_of_a_day_that_has_not_come_changes_nothing() -> None:
    found = series(flat([100.0] * 10), dividend(DAYS[12], 2.0))

    assert found.closes("all").tolist() == [100.0] * 10


# --- what holds for all series --------------------------------------------------------------------

RATIOS = st.sampled_from(
    [(2.0, 1.0), (3.0, 1.0), (3.0, 2.0), (1.0, 10.0), (1.0, 3.0), (21.0, 20.0)]
)
HAPPENED = st.dictionaries(
    st.integers(1, len(DAYS) - 1),
    st.one_of(RATIOS, st.floats(0.01, 20.0).map(lambda cash: round(cash, 4))),
    max_size=8,
)
MOVES = st.lists(st.floats(-0.2, 0.2), min_size=len(DAYS), max_size=len(DAYS))


def happened(moves: Sequence[float], what: dict[int, Any]) -> tuple[np.ndarray, Series]:
    """A walk with these actions at these sessions, all of them applied."""
    closes = 50 * np.exp(np.cumsum(moves) / 10)
    rows = [
        split(DAYS[at], *one, id=f"a{at}")
        if isinstance(one, tuple)
        else dividend(DAYS[at], one, id=f"a{at}")
        for at, one in what.items()
    ]
    return closes, series(flat(closes.tolist()), *rows, accepted=True)


@settings(max_examples=40, deadline=None)
@given(moves=MOVES, what=HAPPENED)
def test_on_days_without_an_action_adjusted_returns_are_the_raw_ones(
    moves: Sequence[float], what: dict[int, Any]
) -> None:
    closes, found = happened(moves, what)
    quiet = [at for at in range(1, len(DAYS)) if at not in what]
    raw = closes[1:] / closes[:-1] - 1
    for adjustment in ("all", "split", "dividend", "split,spin-off"):
        ours = found.closes(adjustment)
        grown = ours[1:] / ours[:-1] - 1
        for at in quiet:
            assert grown[at - 1] == pytest.approx(raw[at - 1], abs=1e-14)
    # Total returns to the last bit.
    assert [found.returns()[at - 1] for at in quiet] == [raw[at - 1] for at in quiet]


@settings(max_examples=40, deadline=None)
@given(moves=MOVES, what=HAPPENED)
def test_adjusting_can_be_undone(moves: Sequence[float], what: dict[int, Any]) -> None:
    closes, found = happened(moves, what)
    spans, rows = found.answer.spans, found.answer.rows
    ours = found.adjusted("all")
    back = ours["close"].to_numpy()
    for column in ("dividend", "spin_off", "split"):
        back = back / spans.factor(column, rows)

    assert back == pytest.approx(closes, rel=1e-14)
    volume = ours["volume"].to_numpy() / spans.factor("volume", rows)
    assert volume == pytest.approx(found.answer.bars["volume"].to_numpy(), rel=1e-14)
    assert ours["close"][-1].as_py() == closes[-1]


@settings(max_examples=40, deadline=None)
@given(what=st.dictionaries(st.integers(1, len(DAYS) - 1), RATIOS, max_size=6))
def test_a_series_of_nothing_but_splits_is_continuous(what: dict[int, tuple[float, float]]) -> None:
    price, closes = 64.0, []
    for at in range(len(DAYS)):
        if at in what:
            price *= what[at][1] / what[at][0]
        closes.append(price)
    rows = [split(DAYS[at], *one, id=f"a{at}") for at, one in what.items()]
    found = series(flat(closes), *rows, accepted=True)

    assert found.closes("split") == pytest.approx(np.full(len(DAYS), price), rel=1e-12)
    assert found.returns() == pytest.approx(np.zeros(len(DAYS) - 1), abs=1e-12)
    worth = found.adjusted("split")
    turnover = worth["volume"].to_numpy() * worth["vwap"].to_numpy()
    raw = found.answer.bars["volume"].to_numpy() * np.array(closes)
    assert turnover == pytest.approx(raw, rel=1e-12)


def test_the_schema_of_adjusted_bars_is_that_of_bars_but_for_volume() -> None:
    found = series(flat([100.0] * 20), split(EX, 2.0), accepted=True).adjusted("split")

    changed = SCHEMA.set(8, SCHEMA.field("volume").with_type(pa.float64()))
    assert found.schema.names == [*changed.names, "security"]
    assert pa.schema(list(found.schema)[:-1]).equals(changed)


def test_what_a_feed_does_not_tell_stays_null() -> None:
    bars = flat([100.0] * 20)
    told = SCHEMA.field("vwap").nullable
    if not told:
        bars = bars.cast(SCHEMA.set(8 - 1, SCHEMA.field("vwap").with_nullable(True)))
    empty = pa.nulls(20, pa.float64())
    bars = bars.set_column(bars.schema.get_field_index("vwap"), "vwap", empty)
    found = series(bars, split(EX, 2.0), accepted=True)

    assert found.adjusted("all")["vwap"].null_count == 20
    days = bars["session"].to_pylist()
    cells = panel(found.adjusted("all"), "vwap", found.answer.stretches, days)
    assert cells["A"].null_count == 20
