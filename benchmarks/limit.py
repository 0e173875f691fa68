"""The account's limit as the server sees it: its fullest sliding minute, and how much is used.

Some processes, started together and sharing one limit as runs of one account do, ask the exchange
as fast as they may. The exchange enforces nothing; its log tells when each request arrived. They
share a file, or with `--postgres` a row, as machines do; with `--lambda` one invocation of the
Lambda function is beside them. In the middle `--kill` kills one process (SIGKILL), `--stop` the
Postgres.

    python -m benchmarks.limit [--per-minute 200] [--processes 1] [--seconds 150] [--kill]
    python -m benchmarks.limit --postgres --processes 4 [--lambda] [--kill | --stop]
"""

from __future__ import annotations

import argparse
import json
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from contextlib import AbstractContextManager, closing
from datetime import date
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

from benchmarks.surroundings import KEYS, client, user_environment
from datalake_assets.collection.collect import Collection
from datalake_assets.collection.plan import Packing, plan
from datalake_assets.collection.rate_limit import RateLimiter, SharedRateLimiter
from datalake_assets.exchange.process import EmbeddedExchange, ExchangeOptions
from datalake_assets.rate_limits.opening import open_limiter
from datalake_assets.sources.alpaca import Account
from datalake_assets_tests.postgres import NOT_HERE, PostgresServer, binaries

SESSION = date(2026, 11, 19)
THREADS = 20


def main() -> None:
    """Start the processes, let them ask, and read the exchange's log."""
    given = _arguments()
    if given.url:
        _ask(given.url, given.share, given.per_minute, given.seconds)
        return
    with (
        EmbeddedExchange(ExchangeOptions(latency=0.05)) as exchange,
        tempfile.TemporaryDirectory(dir="/tmp") as folder,  # which the user of Postgres may enter
    ):
        Path(folder).chmod(0o755)
        server = _postgres(Path(folder)) if given.postgres else None
        share = server.dsn() if server else str(Path(folder) / "limit")
        command = [
            *(sys.executable, "-W", "ignore", "-m", "benchmarks.limit"),
            *("--url", exchange.url, "--share", share),
            *("--per-minute", str(given.per_minute), "--seconds", str(given.seconds)),
        ]
        asking = [
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            for _ in range(given.processes)
        ]
        if given.invoke:
            asking.append(_invoke(exchange.url, share, given.per_minute, Path(folder)))
        happened = None
        if given.kill or given.stop:
            time.sleep(given.seconds / 2)
            happened = time.monotonic()  # the exchange's own clock
            if given.kill:
                asking[0].kill()
            elif server:
                server.stop()
        said = [process.communicate()[1].strip() for process in asking]
        if server and not given.stop:
            server.stop()
        with urlopen(f"{exchange.url}/_exchange/requests") as answer:
            log = json.load(answer)
    arrived = sorted(entry["arrived"] for entry in log if entry["path"].endswith("/bars"))
    _tell(arrived, given, happened)
    for text in said:
        if text:
            print("  said:", text.splitlines()[-1])


def _tell(arrived: list[float], given: argparse.Namespace, happened: float | None) -> None:
    fullest = max(bisect_left(arrived, at + 60.0) - place for place, at in enumerate(arrived))
    # From the first request to the last: what came before or after was not limited by us.
    span = arrived[-1] - arrived[0]
    used = (len(arrived) - 1) / (span / 60.0 * given.per_minute)
    beside = " and a Lambda function" if given.invoke else ""
    event = ", one killed" if given.kill else ", Postgres stopped" if given.stop else ""
    print(
        f"{given.processes} processes{beside}{event}, "
        f"{given.per_minute:,} a minute: {len(arrived):,} requests in {span:.1f} s, "
        f"fullest sliding minute {fullest:,}, {used:.1%} of the limit used"
    )
    if happened is not None:
        after = [at for at in arrived if happened <= at]
        longest = max((b - a for a, b in pairwise([happened, *after])), default=None)
        print(
            f"  in the minute after it {bisect_left(after, happened + 60.0)} requests"
            + ("" if longest is None else f", the longest time without one {longest:.2f} s")
        )


def _postgres(folder: Path) -> PostgresServer:
    found = binaries()
    if found is None:
        raise SystemExit(NOT_HERE)
    return PostgresServer(found, folder / "postgres", secrets.token_hex(12))


INVOKE = """
import sys
from datalake_assets.lambda_handler import lambda_handler
from datalake_assets_tests.lambda_api import Context
answer = lambda_handler({"session": sys.argv[1]}, Context())
print("the function answered", answer["statusCode"], file=sys.stderr)
"""


def _invoke(url: str, share: str, per_minute: int, folder: Path) -> subprocess.Popen[str]:
    """The function, collecting a session of its own with the limit that the others have."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", INVOKE, str(SESSION)],
        env=user_environment(folder, url, per_minute) | {"DATALAKE_RATE_LIMIT": share},
        stderr=subprocess.PIPE,
        text=True,
    )


def _ask(url: str, share: str, per_minute: int, seconds: float) -> None:
    """Ask for one symbol at a time, until the time is over."""
    account = Account(*KEYS, data_url=url, trading_url=url)
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    with _limiter(share, per_minute, account) as limiter, client(url, THREADS) as source:
        symbols = [row["symbol"] for row in source.assets().slice(0, 7_000).to_pylist()]
        while not stop.is_set():
            Collection(
                plan([name for name in symbols if name.isalpha()], [SESSION], Packing(symbols=1)),
                source.bars(),
                limiter=limiter,
                workers=THREADS,
                stop=stop,
            ).run()


def _limiter(share: str, per_minute: int, account: Account) -> AbstractContextManager[RateLimiter]:
    if share.startswith("postgresql://"):
        return open_limiter(per_minute, account.mark, "data", share)
    return closing(SharedRateLimiter(Path(share), per_minute))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--per-minute", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--lambda", dest="invoke", action="store_true")
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--url", help="used by itself")
    parser.add_argument("--share", help="used by itself")
    given = parser.parse_args()
    if (given.invoke or given.stop) and not given.postgres:
        parser.error("--lambda and --stop need --postgres")
    if given.kill and given.stop:
        parser.error("--kill or --stop, not both")
    return given


if __name__ == "__main__":
    main()
