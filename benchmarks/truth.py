"""Every session against the market's own truth, and once more a year of renames later.

Years of a synthetic market are collected over HTTP: the list of assets, a sweep of all corporate
actions, the survey, then each session by the ticker it traded under. Each session must hold exactly
the bars that truly traded, under the ticker of that day. Then the exchange's clock and the client's
move by a year, in which hundreds of companies are renamed. The same sessions are collected again,
into the same lake and into an empty one: bars must be the same bytes, and no bar may count as
restated.

A ticker that neither a list nor an action names can't be asked for. It is a hole, and is named.

    python -m benchmarks.truth [--symbols 2000] [--years 3] [--seed 7]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.compare_lakes import without_footer
from benchmarks.measuring import peak
from benchmarks.surroundings import KEYS
from datalake_assets import market_calendar
from datalake_assets.actions.log import ActionLog
from datalake_assets.actions.sweep import due, sweep, today
from datalake_assets.collection.bars import SCHEMA, by_session
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import Caller, RetryPolicy
from datalake_assets.collection.survey import Survey
from datalake_assets.collection.universe import inactive, symbols_for
from datalake_assets.exchange.errata import Errata
from datalake_assets.exchange.market import DOLLAR
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.restatements import Restatements
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.pipeline.listing import take_snapshot, take_survey
from datalake_assets.pipeline.publication import CollectionOptions, Origin, Publication
from datalake_assets.sources.alpaca import Account, AlpacaSource
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store

END = date(2025, 6, 30)
"""The last session. It is collected on the next day, and again a year later."""

_PRICES = ("open", "high", "low", "close", "vwap")
_DAY = timedelta(days=1)


class Moved(Clock):
    """The machine's clock, moved to another day."""

    def __init__(self, to: datetime) -> None:
        self.offset = to - datetime.now(UTC)

    def now(self) -> datetime:
        """The instant, so much earlier or later."""
        return datetime.now(UTC) + self.offset


@dataclass(frozen=True)
class Told:
    """What one collection did.

    Args:
        seconds: Wall.
        requests: For bars; the survey's are not among them.
        asked: Tickers that each session was asked for.
        unlisted: Of those that traded, the ones that only an action names.
    """

    seconds: float
    requests: int
    asked: frozenset[str]
    unlisted: frozenset[str]


class World:
    """A market, its exchange on loopback, and a client whose clock moves with the exchange's.

    Args:
        market: What is traded.
        days: The sessions.
        errata: What the exchange gets wrong.
    """

    def __init__(
        self, market: SyntheticMarket, days: Sequence[date], errata: Errata | None = None
    ) -> None:
        self.market, self.days = market, days
        self.truth = market.truth()
        self.clock = Moved(datetime.combine(days[-1] + _DAY, datetime.min.time(), UTC) + _DAY / 2)
        self.exchange = Exchange(market, clock=self.clock.now, errata=errata)

    def traded(self) -> set[str]:
        """The tickers under which anything truly has a bar in these sessions."""
        return set(self.bars["symbol"].to_pylist())

    def expected(self) -> Mapping[date, pa.Table]:
        """The bars of each session as they truly are, by ticker."""
        return dict(by_session(self.bars))

    @property
    def bars(self) -> pa.Table:
        """All of them, by session and ticker: security by security, from the truth alone."""
        if not hasattr(self, "_bars"):
            self._bars = self._made()
        return self._bars

    def _made(self) -> pa.Table:
        parts = []
        days = np.array(self.market.sessions, "datetime64[D]")
        stamps = {day: stamp for day in self.days if (stamp := market_calendar.session_stamp(day))}
        for held in self.truth.holdings:
            first = max(held.first, self.days[0])
            last = min(held.last or date.max, self.days[-1])
            if first > last:
                continue
            found = self.truth.bars(held.security, first, last)
            session = days[found.session]
            parts.append(
                pa.table(
                    {
                        "symbol": [held.ticker] * len(found),
                        "session": pa.array(session),
                        "timestamp": [stamps[day] for day in session.tolist()],
                        **{name: getattr(found, name) / DOLLAR for name in _PRICES},
                        "volume": found.volume,
                        "trade_count": found.trade_count,
                    }
                )
                .select(SCHEMA.names)
                .cast(SCHEMA)
            )
        by = [("session", "ascending"), ("symbol", "ascending")]
        return pa.concat_tables(parts).sort_by(by).combine_chunks()

    def collect(self, lake: LakeWriter, url: str) -> Told:
        """The list, the actions, the survey and all sessions, as the program asks for them."""
        began = time.perf_counter()
        with self.client(lake, url) as source:
            limiter, policy, log = RateLimiter(1e9), RetryPolicy(), ActionLog(lake.store)
            taken, listed, _ = take_snapshot(source, lake, limiter, policy, clock=self.clock)
            window = due(today(self.clock), log.sweeps(), whole=True)
            sweep(source, log, Caller(limiter, policy), window, clock=self.clock)
            wanted = symbols_for(self.days, lake.snapshots())
            since = self.market.sessions[0].year
            survey = take_survey(source, lake, CollectionOptions(limiter), wanted, since, taken)
            requests = self.publish(source, lake, wanted, taken, survey, inactive(listed))
        asked = frozenset(next(iter(wanted.values())))
        unlisted = self.traded() & asked - set(listed["symbol"].to_pylist())
        return Told(time.perf_counter() - began, requests, asked, frozenset(unlisted))

    @contextmanager
    def client(self, lake: LakeWriter, url: str) -> Iterator[AlpacaSource]:
        """Who asks the exchange there, for this lake."""
        account = Account(*KEYS, data_url=url, trading_url=url)
        lake.claim(account.source)
        source = AlpacaSource(account, connections=20, clock=self.clock)
        try:
            yield source
        finally:
            source.close()

    def publish(
        self,
        source: AlpacaSource,
        lake: LakeWriter,
        wanted: Mapping[date, tuple[str, ...]],
        taken: date,
        survey: Survey | None = None,
        dead: frozenset[str] = frozenset(),
    ) -> int:
        """Collect sessions and publish them; the number of requests for bars."""
        run = Publication(
            wanted, lake, CollectionOptions(RateLimiter(1e9)), survey=survey, inactive=dead
        )
        origin = Origin(lake.source() or "", listed=taken, run_id="truth")
        requests = {}
        for outcome in run.run(source.bars(), origin, clock=self.clock):
            assert outcome.published, [str(finding) for finding in outcome.findings]
            requests[outcome.statistics.started] = outcome.statistics.requests
        return sum(requests.values())

    def a_year_later(self) -> None:
        """Move both clocks."""
        self.clock.offset += timedelta(days=365)


def wrong(world: World, lake: LakeWriter, holes: frozenset[str]) -> Iterator[str]:
    """Each session of a lake that is not as it truly was, but for tickers that nobody names."""
    for day, bars in world.expected().items():
        if holes:
            keep = [symbol not in holes for symbol in bars["symbol"].to_pylist()]
            bars = bars.filter(pa.array(keep))
        found = lake.read(day).bars
        if not found.equals(bars.cast(found.schema)):
            missing = set(bars["symbol"].to_pylist()) - set(found["symbol"].to_pylist())
            surplus = set(found["symbol"].to_pylist()) - set(bars["symbol"].to_pylist())
            yield f"{day}: missing {sorted(missing)}, too many {sorted(surplus)}"


def pages(lake: LakeWriter, day: date) -> bytes:
    """The bytes of a session's bars: its file but for what tells where they are from."""
    return without_footer(bytes(lake.store.get(layout.session_key(day))))


def main() -> None:
    """Collect, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--symbols", type=int, default=2_000, help="listed on one day")
    parser.add_argument("--years", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    market = SyntheticMarket(given.seed, given.symbols, given.symbols // 3)
    days = market_calendar.sessions(END.replace(year=END.year - given.years) + _DAY, END)
    world = World(market, days)
    print(
        f"{len(days):,} sessions, {world.bars.num_rows:,} bars under {len(world.traded()):,} "
        "tickers truly traded"
    )
    with tempfile.TemporaryDirectory() as folder, ExchangeServer(world.exchange) as server:
        lake = LakeWriter(open_store(str(Path(folder) / "lake")), world.clock)
        first = world.collect(lake, server.url)
        _tell("on the day after", first, world, lake)
        before = {day: pages(lake, day) for day in days}
        names = _named(lake)
        world.a_year_later()
        fresh = LakeWriter(open_store(str(Path(folder) / "fresh")), world.clock)
        for name, place in (("a year later, the same lake", lake), ("… an empty lake", fresh)):
            told = world.collect(place, server.url)
            _tell(name, told, world, place)
            same = sum(before[day] == pages(place, day) for day in days)
            print(f"  bars of the same bytes: {same:,} of {len(days):,} sessions")
        log = Restatements(lake.store)
        print(f"  sessions in the restatement log: {len(log.sessions())}")
        print(f"  names in actions that are new in that year: {len(_named(lake) - names):,}")
    print(f"peak memory, with the exchange and the truth: {peak():,.0f} MiB")


def _named(lake: LakeWriter) -> set[str]:
    return {str(name) for name in ActionLog(lake.store).current()["new_symbol"].to_pylist()}


def _tell(name: str, told: Told, world: World, lake: LakeWriter) -> None:
    holes = frozenset(world.traded() - told.asked)
    bad = list(wrong(world, lake, holes))
    print(
        f"{name}: {told.seconds:.0f} s, {told.requests:,} requests, {len(told.asked):,} tickers "
        f"asked for; {len(told.unlisted)} that traded are named by actions alone, {len(holes)} by "
        f"nobody{': ' + ', '.join(sorted(holes)) if holes else ''}"
    )
    print(f"  sessions that equal the truth: {len(world.days) - len(bad):,} of {len(world.days):,}")
    for line in bad[:5]:
        print(f"    {line}")


if __name__ == "__main__":
    main()
