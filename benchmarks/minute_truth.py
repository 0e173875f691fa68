"""A month of minute bars against the market's own, under faults.

The daily bars of a synthetic market are collected over HTTP, and then the minutes of a month while
the exchange commits a fault of a random kind on a share of all requests: errors, cut and silent
answers, pages repeated or empty, bars with odd values. What is missing is repaired until nothing
is. After each collection the bars that the lake holds must be the market's own
(`exchange.truth.minute_table`) for each symbol that its ledger calls present, and at the end all of
them, bar by bar. Waits between attempts take no time.

    python -m benchmarks.minute_truth [--symbols 2000] [--month 2025-09] [--faults 0.3] [--seed 7]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.measuring import machine, peak
from benchmarks.surroundings import KEYS
from datalake_assets import market_calendar
from datalake_assets.collection.dataset import DAILY, MINUTE
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.exchange.faults import RandomFaults, every_fault
from datalake_assets.exchange.market import is_ticker
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.exchange.truth import minute_table
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.pipeline.density import by_daily_bars
from datalake_assets.pipeline.publication import CollectionOptions, Origin, Publication
from datalake_assets.sources.alpaca import Account, AlpacaSource
from datalake_assets.sources.transport import Timeouts
from datalake_assets.storage.store import open_store
from datalake_assets_tests.fakes import FakeClock

ATTEMPTS = 20
"""Collections and repairs after which it ends all the same."""


class World:
    """A market, its exchange and a lake.

    Args:
        market: The market.
        days: The sessions that are collected.
        lake: Where they go; empty.
        url: Of the exchange's server.
    """

    def __init__(
        self, market: SyntheticMarket, days: Sequence[date], lake: LakeWriter, url: str
    ) -> None:
        self.market, self.days, self.lake, self._url = market, days, lake, url
        names = {row["symbol"] for row in market.assets(days[-1])}
        self.symbols = tuple(sorted(filter(is_ticker, names)))

    def collect(self, lake: LakeWriter, retry: RetryPolicy) -> int:
        """Collect what the lake lacks of its dataset; the requests that it took."""
        clock = FakeClock()
        options = CollectionOptions(RateLimiter(1e9, clock=clock), retry=retry, workers=8)
        expected = None if lake.dataset is DAILY else by_daily_bars(self.lake, lake.dataset)
        run = Publication(
            dict.fromkeys(self.days, self.symbols), lake, options, expected=expected, repair=True
        )
        account = Account(*KEYS, data_url=self._url, trading_url=self._url)
        timeouts = Timeouts(connect=5.0, read=0.5, total=5.0)
        origin = Origin("truth", listed=self.days[-1], run_id="truth")
        with closing(AlpacaSource(account, connections=8, timeouts=timeouts)) as source:
            told = run.run(source.bars(lake.dataset), origin, clock=clock)
            return sum(each.statistics.requests for each in told if each.last)

    def check(self, lake: LakeWriter) -> int:
        """Hold what the lake has of minutes against the truth; the symbols that it lacks."""
        missing = 0
        for day in self.days:
            stored = lake.stored(day)
            if stored is None:
                missing += len(self.symbols)
                continue
            true, ledger = minute_table(self.market, self.symbols, day), stored.session.ledger
            if ledger.missing:
                missing += len(ledger.missing)
                present = pa.array(ledger.present, pa.string())
                true = true.filter(pc.is_in(true["symbol"], present))
            if not stored.session.bars.equals(true):
                sys.exit(f"{day}: the lake holds other minutes than the market's")
        return missing


def main() -> None:
    """Collect, compare and print."""
    given = _arguments()
    first = date.fromisoformat(f"{given.month}-01")
    days = market_calendar.sessions(
        first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
    )
    market = SyntheticMarket(given.seed, given.symbols, 0)
    exchange = Exchange(market)
    print(f"{machine()}; python -m benchmarks.minute_truth {' '.join(sys.argv[1:])}")
    with tempfile.TemporaryDirectory() as folder, ExchangeServer(exchange) as server:
        lake = LakeWriter(open_store(str(Path(folder) / "lake")))
        lake.claim("truth")
        world = World(market, days, lake, server.url)
        world.collect(lake, RetryPolicy())
        if lake.sessions() != days:
            sys.exit("the daily bars were not published")
        minutes = lake.of(MINUTE)
        exchange.requests.clear()
        exchange.faults = RandomFaults(given.faults, given.seed, every_fault(seconds=1.0))
        for attempt in range(ATTEMPTS):
            began = time.perf_counter()
            # Without a second attempt at first, so that there is much to repair.
            retry = RetryPolicy(attempts=4 if attempt else 1, seconds=1e6)
            requests = world.collect(minutes, retry)
            missing = world.check(minutes)
            print(
                f"{'repair' if attempt else 'collection'}: {time.perf_counter() - began:.0f} s, "
                f"{requests:,} requests, {len(minutes.sessions())} of {len(days)} sessions "
                f"published, {missing:,} symbols of sessions missing",
                flush=True,
            )
            if not missing and minutes.sessions() == days:
                break
        else:
            sys.exit(f"it is not whole after {ATTEMPTS} collections")
        faults = Counter(request.fault for request in exchange.requests if request.fault)
        rows = sum(minutes.read(day).bars.num_rows for day in days)
    print(
        f"{len(days)} sessions of {len(world.symbols):,} symbols, {rows:,} minutes, all equal to "
        f"the market's; {sum(faults.values()):,} faults in {len(exchange.requests):,} requests, of "
        f"{len(faults)} kinds; peak {peak():,.0f} MiB with the exchange and the truth"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--symbols", type=int, default=2_000, help="listed ones of the market")
    parser.add_argument("--month", default="2025-09", metavar="YYYY-MM")
    parser.add_argument("--faults", type=float, default=0.3, help="share of requests with a fault")
    parser.add_argument("--seed", type=int, default=7, help="of the market and of the faults")
    return parser.parse_args()


if __name__ == "__main__":
    main()
