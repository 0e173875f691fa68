"""Sessions against the market's own truth, and collected again a year of renames later.

A small market over HTTP, as `benchmarks.truth` does it with three years of 2,000 symbols. One
rename is withheld by the source, so that nobody names a ticker: that must be the only hole.
"""

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest

from benchmarks.truth import Told, World, pages, wrong
from datalake_assets import market_calendar
from datalake_assets.actions.log import ActionLog
from datalake_assets.exchange.errata import Errata, Erratum
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.restatements import Restatements
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.storage.store import open_store

DAYS = market_calendar.sessions(date(2012, 7, 2), date(2013, 1, 31))
MARKET = SyntheticMarket(active=260, inactive=90)
TRUTH = MARKET.truth()


def lost() -> tuple[str, date]:
    """A ticker before a rename that nobody had before or after, and the day of the rename."""
    named = {asset["symbol"] for year in (2013, 2014) for asset in MARKET.assets(date(year, 2, 1))}
    for action in TRUTH.actions(DAYS[5], DAYS[-5], [Kind.NAME_CHANGE]):
        old = action.row["old_symbol"]
        others = [
            other
            for other in TRUTH.actions(date(2011, 1, 1), date(2015, 12, 31))
            if old in other.row.values() and other.row["id"] != action.row["id"]
        ]
        if old != action.row["new_symbol"] and old not in named and not others:
            return old, action.counts
    raise AssertionError("no rename is told by one action alone")


@dataclass
class Twice:
    """A lake that was collected twice, and an empty one that was collected a year later."""

    world: World
    lake: LakeWriter
    fresh: LakeWriter
    hole: str
    told: list[Told] = field(default_factory=list)
    first: dict[date, bytes] = field(default_factory=dict)
    names: list[set[str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Twice:
    folder = Path(tmp_path_factory.mktemp("truth"))
    hole, day = lost()
    errata = Errata([Erratum(mistake="missing", symbol=hole, day=day, kind=Kind.NAME_CHANGE)])
    world = World(MARKET, DAYS, errata)
    lake, fresh = (LakeWriter(open_store(str(folder / n)), world.clock) for n in ("lake", "fresh"))
    made = Twice(world, lake, fresh, hole)
    with ExchangeServer(world.exchange) as server:
        made.told.append(world.collect(lake, server.url))
        made.first = {day: pages(lake, day) for day in DAYS}
        made.names.append(named(lake))
        world.a_year_later()
        for place in (lake, fresh):
            made.told.append(world.collect(place, server.url))
        made.names.append(named(lake))
    return made


def named(lake: LakeWriter) -> set[str]:
    rows = ActionLog(lake.store).current()
    return {name for c in ("symbol", "new_symbol") for name in rows[c].to_pylist() if name}


def test_every_session_is_the_market_itself_but_for_the_ticker_that_nobody_names(
    twice: Twice,
) -> None:
    holes = frozenset({twice.hole})
    assert twice.hole in twice.world.traded()
    for lake in (twice.lake, twice.fresh):
        assert list(wrong(twice.world, lake, holes)) == []
        assert len(list(wrong(twice.world, lake, frozenset()))) > 5
    assert [twice.world.traded() - told.asked for told in twice.told] == [holes] * 3


def test_tickers_that_only_an_action_names_are_asked_for(twice: Twice) -> None:
    assert all(len(told.unlisted) >= 3 for told in twice.told)


def test_a_year_of_renames_later_the_bars_are_the_same_bytes(twice: Twice) -> None:
    before, after = twice.names
    assert len(after - before) > 5
    for lake in (twice.lake, twice.fresh):
        assert {day: pages(lake, day) for day in DAYS} == twice.first


def test_a_year_of_renames_restates_nothing(twice: Twice) -> None:
    assert Restatements(twice.lake.store).sessions() == []


def test_what_was_answered_first_is_answered_again(twice: Twice) -> None:
    for day in (DAYS[0], DAYS[-1]):
        one, other = twice.lake.read(day).ledger, twice.fresh.read(day).ledger
        assert one.present == other.present
        assert set(one.no_print) <= set(other.no_print)
