"""Whatever happens to a lake, in whatever order and killed wherever: what its readers are told is
what its sessions hold, both layouts end equal, and no bar goes for want of an answer.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from itertools import chain
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from datalake_assets.collection.audit import Thresholds
from datalake_assets.collection.collect import Page
from datalake_assets.collection.errors import PermanentError
from datalake_assets.collection.plan import Packing
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.lake import symbol_year_file
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.projection import PublicationError
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.pipeline.publication import CollectionOptions, Origin, Publication
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.fakes import FakeClock, ScriptedSource
from datalake_assets_tests.storage.stores import WatchedStore

DAYS = [date(2023, 12, 28), date(2023, 12, 29), date(2024, 1, 2), date(2024, 1, 3)]
"""Four sessions in a row, two of each year."""

SYMBOLS = ("AAPL", "BRK.A", "BRK.B", "CON", "MSFT", "ZM")
LENIENT = Thresholds(success_rate=0.6, coverage=0, row_ratio=0)


class KilledError(BaseException):
    """The process ends here."""


@dataclass(frozen=True)
class Collect:
    """Ask for these sessions; no request that names one of the lost symbols is answered."""

    days: frozenset[date]
    lost: frozenset[str]
    repair: bool


@dataclass(frozen=True)
class Restate:
    """The source has another volume for these symbols from now on, and no bar of those gone."""

    symbols: frozenset[str]
    gone: frozenset[str]


@dataclass(frozen=True)
class Publish:
    """Publish a year per symbol."""

    year: int


@dataclass(frozen=True)
class Remove:
    """Somebody deletes a session."""

    day: date


some = st.frozensets(st.sampled_from(SYMBOLS), max_size=3)
steps = st.one_of(
    st.builds(
        Collect,
        st.frozensets(st.sampled_from(DAYS), min_size=1),
        st.just(frozenset()) | some | st.just(frozenset(SYMBOLS)),
        st.booleans(),
    ),
    st.builds(Restate, some, some.filter(lambda gone: len(gone) < 2)),
    st.builds(Publish, st.sampled_from([2023, 2024])),
    st.builds(Remove, st.sampled_from(DAYS)),
)
kills = st.none() | st.tuples(st.integers(1, 8), st.booleans())
"""Which write of a step it is killed at, if any, and whether before it or after."""


class World:
    """A source, a lake, and whoever works on it."""

    def __init__(self) -> None:
        self.store, self.clock = open_store("memory://"), FakeClock()
        self.lake = LakeWriter(self.store)
        self.lake.claim("test")
        self.market = {(symbol, day): bar(symbol, day) for symbol in SYMBOLS for day in DAYS}
        self.volume = 1

    def take(self, step: object, kill: tuple[int, bool] | None) -> None:
        """Do this, perhaps killed."""
        self.clock.advance(60)
        left, before = kill or (0, True)
        dead = False

        def moment(verb: str, key: str) -> None:
            nonlocal left, dead
            left -= 1
            dead = dead or left == 0
            alive(verb, key)

        def alive(verb: str, key: str) -> None:
            # What is killed writes nothing more, as an error could on its way out.
            if dead:
                raise KilledError

        store = (
            WatchedStore(self.store, before=moment)
            if before
            else WatchedStore(self.store, before=alive, after=moment)
        )
        if isinstance(step, Collect):
            self.collect(LakeWriter(store), step)
        elif isinstance(step, Publish):
            with suppress(PublicationError):
                SymbolYears(store, clock=self.clock).publish(step.year)
        elif isinstance(step, Remove):
            self.store.delete(layout.session_key(step.day))
        elif isinstance(step, Restate):
            self.volume += 1
            for symbol, day in list(self.market):
                if symbol in step.symbols:
                    self.market[symbol, day] |= {"volume": self.volume}
                if symbol in step.gone:
                    del self.market[symbol, day]

    def collect(self, lake: LakeWriter, step: Collect) -> None:
        source = ScriptedSource(table(self.market.values()), page_limit=3)

        def fetch(symbols: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
            if step.lost.intersection(symbols):
                raise PermanentError("HTTP 404")
            return source(symbols, first, last, token)

        options = CollectionOptions(
            RateLimiter(1e9, clock=self.clock),
            retry=RetryPolicy(attempts=1),
            packing=Packing(symbols=2),
            workers=1,
            thresholds=LENIENT,
        )
        wanted = dict.fromkeys(sorted(step.days), SYMBOLS)
        publication = Publication(wanted, lake, options, repair=step.repair)
        list(publication.run(fetch, Origin("test", DAYS[-1], "run"), clock=self.clock))

    @property
    def truth(self) -> list[dict[str, Any]]:
        """The bars of all published sessions, by symbol and session."""
        return ordered(
            chain.from_iterable(
                self.lake.read(day).bars.to_pylist() for day in self.lake.sessions()
            )
        )


def ordered(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["symbol"], row["session"]))


@settings(max_examples=100)
@example([(Collect(frozenset(DAYS[:1]), frozenset(SYMBOLS[:1]), repair=False), None)])
@given(st.lists(st.tuples(steps, kills), min_size=3, max_size=14))
def test_whatever_happens_readers_are_told_what_the_sessions_hold(
    history: list[tuple[object, tuple[int, bool] | None]],
) -> None:
    world = World()
    world.take(Collect(frozenset(DAYS), frozenset(), repair=False), None)
    lake = Lake(world.lake.store)
    for step, kill in history:
        before = {(row["symbol"], row["session"]) for row in world.truth}
        with suppress(KilledError):
            world.take(step, kill)
        lake.refresh()
        truth = world.truth

        if isinstance(step, Collect):
            # Of what could not be had, what was published stays, wherever it was killed.
            there = {(row["symbol"], row["session"]) for row in truth}
            assert {pair for pair in before if pair[0] in step.lost} <= there
        for day in world.lake.sessions():
            held = world.lake.read(day)
            assert held.ledger.symbols == set(SYMBOLS)
            assert list(held.ledger.present) == held.bars["symbol"].to_pylist()
        for symbols in (None, ["brk.b"], SYMBOLS):
            names = {name.upper() for name in symbols or SYMBOLS}
            with suppress(NotInLakeError):  # while nothing is published
                found = lake.bars(symbols, DAYS[1], DAYS[2]).to_pylist()
                wanted = [row for row in truth if DAYS[1] <= row["session"] <= DAYS[2]]
                assert found == [row for row in wanted if row["symbol"] in names]
        assert lake.symbols() == sorted({row["symbol"] for row in truth})

    for year in (2023, 2024):
        SymbolYears(world.store).publish(year)
        assert SymbolYears(world.store).prove(year).holds
    assert not SymbolYears(world.store).strays()
    by_symbol = (
        symbol_year_file.decode(world.store.get(key), key).to_pylist()
        for key in world.store.list(layout.SYMBOL_YEARS)
    )
    assert ordered(chain.from_iterable(by_symbol)) == world.truth
