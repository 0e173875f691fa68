"""The account's limit as the server sees it: its fullest sliding minute, and how much is used.

Some processes, started together and sharing one limit file as runs of one account do, ask the
exchange as fast as they may. The exchange enforces nothing; its log tells when each request
arrived. With `--kill`, one process is killed (SIGKILL) in the middle.

    python -m benchmarks.limit [--per-minute 200] [--processes 1] [--seconds 150] [--kill]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from datetime import date
from pathlib import Path
from urllib.request import urlopen

from datalake_assets.collection.collect import Collection
from datalake_assets.collection.plan import Packing, plan
from datalake_assets.collection.rate_limit import SharedRateLimiter
from datalake_assets.exchange.process import EmbeddedExchange, ExchangeOptions
from datalake_assets.sources.alpaca import Account, AlpacaSource

SESSION = date(2026, 11, 19)
THREADS = 20


def main() -> None:
    """Start the processes, let them ask, and read the exchange's log."""
    given = _arguments()
    if given.url:
        _ask(given.url, Path(given.file), given.per_minute, given.seconds)
        return
    with (
        EmbeddedExchange(ExchangeOptions(latency=0.05)) as exchange,
        tempfile.TemporaryDirectory() as folder,
    ):
        command = [
            *(sys.executable, "-W", "ignore", "-m", "benchmarks.limit"),
            *("--url", exchange.url, "--file", str(Path(folder) / "limit")),
            *("--per-minute", str(given.per_minute), "--seconds", str(given.seconds)),
        ]
        asking = [subprocess.Popen(command) for _ in range(given.processes)]
        if given.kill:
            time.sleep(given.seconds / 2)
            asking[0].kill()
        for process in asking:
            process.wait()
        with urlopen(f"{exchange.url}/_exchange/requests") as answer:
            log = json.load(answer)
    arrived = sorted(entry["arrived"] for entry in log if entry["path"].endswith("/bars"))
    _tell(arrived, given)


def _tell(arrived: list[float], given: argparse.Namespace) -> None:
    fullest = max(bisect_left(arrived, at + 60.0) - place for place, at in enumerate(arrived))
    # From the first request to the last: what came before or after was not limited by us.
    span = arrived[-1] - arrived[0]
    used = (len(arrived) - 1) / (span / 60.0 * given.per_minute)
    print(
        f"{given.processes} processes{', one killed' if given.kill else ''}, "
        f"{given.per_minute:,} a minute: {len(arrived):,} requests in {span:.1f} s, "
        f"fullest sliding minute {fullest:,}, {used:.1%} of the limit used"
    )


def _ask(url: str, file: Path, per_minute: int, seconds: float) -> None:
    """Ask for one symbol at a time, until the time is over."""
    source = AlpacaSource(Account("any", "any", data_url=url, trading_url=url), connections=THREADS)
    symbols = [row["symbol"] for row in source.assets().slice(0, 7_000).to_pylist()]
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    while not stop.is_set():
        Collection(
            plan([symbol for symbol in symbols if symbol.isalpha()], [SESSION], Packing(symbols=1)),
            source.bars(SESSION),
            limiter=SharedRateLimiter(file, per_minute),
            workers=THREADS,
            stop=stop,
        ).run()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--per-minute", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--url", help="used by itself")
    parser.add_argument("--file", help="used by itself")
    return parser.parse_args()


if __name__ == "__main__":
    main()
