"""One session of many symbols: this collector against one alpaca-py call per symbol.

Both ask the same exchange (a process of its own) for the same symbols in the same run, with the
same number of threads: first the plain sketch, `get_stock_bars` for each symbol in a thread pool,
then a `Collection`. The exchange answers after `--latency` seconds and has no rate limit.

    python -m benchmarks.one_session [--symbols 5000] [--latency 0.2] [--threads 20]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from datetime import time as clock_time

import urllib3

from benchmarks.measuring import timed
from benchmarks.surroundings import KEYS, active_symbols, client
from datalake_assets.collection.collect import Collection
from datalake_assets.collection.plan import plan
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.exchange.process import EmbeddedExchange, ExchangeOptions

SESSION = date(2026, 11, 19)
UNLIMITED = 1e9


def main() -> None:
    """Measure both and print the ratio."""
    given = _arguments()
    options = ExchangeOptions(active=given.symbols, inactive=0, latency=given.latency)
    with EmbeddedExchange(options) as exchange, client(exchange.url, given.threads) as source:
        symbols = sorted(active_symbols(source))[: given.symbols]
        fetch = source.bars()
        fetch(("AAPL",), SESSION, SESSION, None)  # imports and connects, as the sketch does below

        def collect() -> int:
            collection = Collection(
                plan(symbols, [SESSION]),
                fetch,
                limiter=RateLimiter(UNLIMITED),
                workers=given.threads,
            )
            collection.run()
            ((bars, ledger),) = collection.sessions()
            assert not ledger.missing, ledger.failed
            print(f"  requests: {collection.statistics.requests}")
            return int(bars.num_rows)

        sketch = _sketch(symbols, exchange.url, given.threads)
        plain = timed(sketch)
        print(f"one call per symbol: {plain.wall:.2f} s, {plain.result:,} bars")
        for _ in range(given.rounds):
            ours = timed(collect)
            assert ours.result == plain.result, (ours.result, plain.result)
            print(f"this collector: {ours.wall:.3f} s, {ours.result:,} bars")
            print(f"  ratio: {plain.wall / ours.wall:.0f} times faster")


def _sketch(symbols: list[str], url: str, threads: int) -> Callable[[], int]:
    """The plain way: a shared alpaca-py client, one call per symbol."""
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import StockBarsRequest
    from alpaca.data.timeframe import TimeFrame

    urllib3.disable_warnings()
    client = StockHistoricalDataClient(*KEYS, url_override=url)

    def one(symbol: str) -> int:
        request = StockBarsRequest(
            symbol_or_symbols=symbol,
            timeframe=TimeFrame.Day,
            start=datetime.combine(SESSION, clock_time(), UTC),
            end=datetime.combine(SESSION, clock_time(23, 59, 59), UTC),
        )
        return len(client.get_stock_bars(request).df)

    def run() -> int:
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(one, symbols))

    one(symbols[0])
    return run


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--symbols", type=int, default=5000)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    parser.add_argument("--threads", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="of this collector")
    return parser.parse_args()


if __name__ == "__main__":
    main()
