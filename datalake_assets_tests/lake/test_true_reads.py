"""Reads by security against what truly happened in the embedded exchange's market.

Two years of some 340 tickers, with their renames, reused and taken-over tickers, mergers and ends;
the tables are derived by the program from the bars and from what the exchange says.
"""

import json
import warnings
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA, by_session
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.market import DOLLAR
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.exchange.truth import Held
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.returns import PAYOUT
from datalake_assets.lake.security_reader import SecuritiesWarning
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.securities.findings import read_findings
from datalake_assets.sources.action_pages import decode_actions
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.lake.test_reader import encoded
from datalake_assets_tests.securities.deriving import derive, say

FIRST, LAST = date(2021, 1, 4), date(2022, 12, 30)
DAYS = market_calendar.sessions(FIRST, LAST)


class World:
    """The market, its truth, and a lake that holds it.

    Args:
        uri: Where the lake is made.
    """

    def __init__(self, uri: str = "memory://") -> None:
        self.market = SyntheticMarket(active=300, inactive=120)
        self.truth = self.market.truth()
        self.held = [h for h in self.truth.holdings if h.first <= LAST and until(h) >= FIRST]
        self.by_security: dict[int, list[Held]] = defaultdict(list)
        for held in self.held:
            self.by_security[held.security].append(held)
        self.bars = self._bars()
        self.days: dict[str, list[date]] = defaultdict(list)
        columns = (self.bars["symbol"].to_pylist(), self.bars["session"].to_pylist())
        for symbol, day in zip(*columns, strict=True):
            self.days[symbol].append(day)
        self.lake = Lake(open_store(uri))
        LakeWriter(self.lake.store).claim("synthetic")
        for day, rows in by_session(self.bars):
            self.lake.store.put(layout.session_key(day), encoded(day, rows))
        for year in (FIRST.year, LAST.year):
            SymbolYears(self.lake.store).publish(year)
        said = defaultdict(list)
        for one in self.truth.actions(date(2020, 12, 1), date(2023, 3, 1)):
            said[one.kind.plural].append(one.row)
        body = json.dumps({"corporate_actions": said, "next_page_token": None}).encode()
        page = decode_actions(body)
        assert not page.skipped
        say(self.lake.store, datetime(2023, 1, 1, tzinfo=UTC), *page.actions.to_pylist())
        derive(self.lake.store)

    def _bars(self) -> pa.Table:
        tickers = sorted({held.ticker for held in self.held})
        low, high = (self.market.sessions.index(day) for day in (DAYS[0], DAYS[-1]))
        found = self.market.bars(tickers, low, high + 1)
        days = [self.market.sessions[index] for index in found.session.tolist()]
        stamps = {day: market_calendar.session_stamp(day) for day in DAYS}
        prices = ("open", "high", "low", "close", "vwap")
        table = pa.table(
            {
                "symbol": np.array(found.symbols)[found.symbol],
                "session": pa.array(days, pa.date32()),
                "timestamp": [stamps[day] for day in days],
                **{name: getattr(found, name) / DOLLAR for name in prices},
                "volume": found.volume,
                "trade_count": found.trade_count,
            }
        ).cast(SCHEMA)
        return table.sort_by([("session", "ascending"), ("symbol", "ascending")])

    def of(self, security: int, first: date = FIRST, last: date = LAST) -> dict[date, str]:
        """The sessions in which a security truly has a bar, and its ticker in each."""
        return {
            day: held.ticker
            for held in self.by_security[security]
            for day in self.days[held.ticker]
            if max(first, held.first) <= day <= min(last, until(held))
        }


def until(held: Held) -> date:
    return held.last or date.max


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecuritiesWarning)
        yield


def read(world: World, ticker: str, *args: Any, **options: Any) -> dict[date, str]:
    rows = world.lake.bars(ticker, *args, **options)
    return dict(zip(rows["session"].to_pylist(), rows["symbol"].to_pylist(), strict=True))


def several(world: World, of: str) -> list[list[Held]]:
    """Holdings by security, or by ticker, where there are several in the span."""
    found = defaultdict(list)
    for held in sorted(world.held, key=lambda held: held.first):
        found[getattr(held, of)].append(held)
    return [group for group in found.values() if len({(h.security, h.ticker) for h in group}) > 1]


def test_the_span_has_what_is_to_be_told_apart(world: World) -> None:
    assert len(several(world, "security")) > 20
    assert len(several(world, "ticker")) >= 5


def test_nothing_that_truly_happened_contradicts_itself(world: World) -> None:
    found = read_findings(world.lake.store)
    assert found.filter(pc.equal(found["about"], "identity")).to_pylist() == []


def test_a_ticker_that_trades_again_two_sessions_after_a_merger_is_another_security(
    world: World,
) -> None:
    at = DAYS.index(date(2022, 9, 27))
    holders = [held for held in world.held if held.ticker == "HVZD"]
    old, new = sorted(holders, key=lambda held: held.first)
    assert world.truth.ending(old.security) == Kind.CASH_MERGER
    assert (old.last, new.first) == (DAYS[at - 1], DAYS[at + 2])

    assert read(world, "HVZD", asof=old.last) == world.of(old.security)
    assert read(world, "HVZD") == world.of(new.security)
    rows = world.lake.returns("HVZD", asof=old.last).to_pylist()
    assert rows[-1]["status"] == PAYOUT


def test_a_renamed_security_is_read_whole_by_its_newest_ticker(world: World) -> None:
    for group in several(world, "security"):
        newest = group[-1]
        if world.truth.holder(newest.ticker, LAST) in (newest.security, None):
            assert read(world, newest.ticker) == world.of(newest.security), newest


def test_a_ticker_of_several_means_the_one_that_asof_names(world: World) -> None:
    for group in several(world, "ticker"):
        for held in group:
            days = [day for day, symbol in world.of(held.security).items() if symbol == held.ticker]
            if days:
                found = read(world, held.ticker, asof=days[-1])
                assert found == world.of(held.security), held


def test_a_range_that_ends_before_a_rename_is_read_by_the_ticker_of_then(world: World) -> None:
    for group in several(world, "security"):
        for old in group[:-1]:
            end = min(until(old), LAST)
            found = read(world, old.ticker, FIRST, end)
            assert found == world.of(old.security, FIRST, end), old


def test_without_following_each_ticker_has_the_rows_that_traded_under_it(world: World) -> None:
    for group in several(world, "ticker"):
        rows = world.bars.filter(pc.equal(world.bars["symbol"], group[0].ticker))
        assert world.lake.bars(group[0].ticker, follow=False).to_pylist() == rows.to_pylist()


def test_all_bars_are_each_of_one_security_and_none_is_lost(world: World) -> None:
    rows = world.lake.bars(None, adjustment="all")

    assert rows.num_rows == world.bars.num_rows
    assert rows["security"].null_count == 0
    told = {(s, d): one for s, d, one in zip(*(rows[c].to_pylist() for c in KEYS), strict=True)}
    numbers: dict[int, set[str]] = defaultdict(set)
    for held in world.held:
        for day, symbol in world.of(held.security).items():
            numbers[held.security].add(told[symbol, day])
    assert {number: len(names) for number, names in numbers.items() if len(names) != 1} == {}
    assert len(set().union(*numbers.values())) == len(numbers)


KEYS = ("symbol", "session", "security")


def ended_by(world: World, kind: Kind) -> list[Held]:
    return [
        held
        for held in world.held
        if world.truth.ending(held.security) == kind
        and FIRST < until(held) < LAST
        and held.last == world.truth.last(held.security)
    ]


def grown(rows: list[dict[str, Any]]) -> float:
    return float(np.prod([1 + r["total_return"] for r in rows if r["total_return"] is not None]))


def test_mergers_for_cash_end_with_their_payout(world: World) -> None:
    ended = ended_by(world, Kind.CASH_MERGER)
    assert len(ended) >= 4
    for held in ended:
        mine = world.of(held.security)
        rows = world.lake.returns(held.ticker, asof=until(held)).to_pylist()

        assert rows[-1]["status"] == PAYOUT
        true = world.truth.total_return(held.security, min(mine), LAST)
        assert grown(rows) == pytest.approx(true, rel=1e-9), held


@pytest.mark.parametrize("kind", [Kind.STOCK_MERGER, Kind.STOCK_AND_CASH_MERGER])
def test_mergers_for_shares_end_with_the_first_close_of_the_acquirers(
    world: World, kind: Kind
) -> None:
    ended = ended_by(world, kind)
    assert ended
    for held in ended:
        last = until(held)
        (told,) = (
            one for one in world.truth.actions(last, LAST, [kind]) if one.security == held.security
        )
        acquirer = world.truth.holder(told.row["acquirer_symbol"], told.counts)
        assert acquirer is not None
        close = world.truth.bars(acquirer, told.counts, LAST).close[0] / DOLLAR
        own = world.truth.bars(held.security, FIRST, last).close[-1] / DOLLAR
        paid = told.row.get("cash_rate", 0) + told.row["acquirer_rate"] * close
        rows = world.lake.returns(held.ticker, asof=last).to_pylist()

        assert (rows[-1]["status"], rows[-1]["session"]) == (PAYOUT, told.counts)
        until_then = world.truth.total_return(held.security, min(world.of(held.security)), last)
        assert grown(rows) == pytest.approx(until_then * paid / own, rel=1e-9), held
