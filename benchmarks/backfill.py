"""The whole backfill, as a user runs it, against alpaca-py's `.df` on the same recorded pages.

Each span of years is collected in a process of its own into an empty lake, by one Dagster run with
the settings, records and limit that `datalake backfill` has. The answers are replayed
(`benchmarks.replay`): what the two cores do is the client. A folder without a recording gets one
first: all that the spans ask for is asked once, and nothing is written. In turns with it,
alpaca-py reads some of the same pages, evenly spread (`get_stock_bars(...).df` to Parquet), after
its imports; of a backfill the CPU is the whole process's, imports included. Requests are those for
daily bars, against the fewest that could bring as many bars; used is the share of the limit from
the first request to the last, and to the end of the run.

    python -m benchmarks.backfill FOLDER [--years 1 3 15] [--symbols 5000] [--per-minute 10000]
        [--latency 0.05] [--rounds 1] [--pages 24] [--record] [--pure] [--stages] [--keep LAKES]
        [--bucket SECONDS]

`--pure` turns the compiled decoder off and `--stages` tells once more, in a run that is not
measured, where the CPU goes. `--keep` leaves the lakes, for `benchmarks.compare_lakes`. `--bucket`
puts the lake into SeaweedFS, to which each piece of a request takes so many seconds. The lakes of
all rounds lie in the folder for temporary files until the end. Wait some minutes before the next
start, where that is an ext4 without a journal (`docs/benchmarks.md`).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.collecting import collected, print_stages
from benchmarks.distance import distant
from benchmarks.replay import Recording, Replay, Told
from benchmarks.surroundings import (
    KEYS,
    UNLIMITED,
    client,
    user_environment,
    years_until_last,
)
from datalake_assets.exchange.process import ExchangeOptions

PAGE = 10_000

AT_ONCE = 100
"""Requests of a recording whose bars are in memory at once."""

HEAD = (
    "what",
    "sessions",
    "bars",
    "wall, s",
    "CPU, s",
    "server's CPU, s",
    "peak, MiB",
    "requests",
    "of the floor",
    "used",
    "used, to the end",
    "fullest minute",
    "bars a CPU s",
    "× alpaca-py's",
)


def main() -> None:
    """Measure each span in a fresh process, or one of them in this process when told so."""
    given = _arguments()
    if given.only is not None:
        measuring.tell(WAYS[given.only](given))
        return
    options = ExchangeOptions(active=given.symbols, inactive=0)
    if given.record or not given.folder.exists():
        for years in given.years:
            _record(given, years, options)
    _require(given.folder, options)
    print(f"{measuring.machine()}; python -m benchmarks.backfill {' '.join(sys.argv[1:])}")
    # Removed when all is measured: for minutes after thousands of files were removed, an ext4
    # without a journal passes over each of their inodes for each new file: 6 % of a backfill's CPU.
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for _ in range(given.rounds):
            plain = alpaca_py(given.folder, max(given.years), given.pages, work)
            print(f"alpaca-py: {plain:,.0f} bars a CPU s on the same pages", flush=True)
            rows = (
                row(f"{years} years", _backfill(given, years, work), given.per_minute, plain)
                for years in given.years
            )
            measuring.print_table(HEAD, rows)
        if given.stages:
            for years in given.years:
                print_stages(_backfill(given, years, work, stages=True))


def _require(folder: Path, options: ExchangeOptions) -> None:
    """End the program unless the folder holds answers of this market."""
    try:
        with closing(Recording(folder)) as recording:
            held = recording.market
    except ValueError as error:
        sys.exit(f"{error}")
    if held != options.market_id:
        sys.exit(
            f"{folder} holds answers of the market {held}, not of {options.market_id}: name "
            "another folder, which gets a recording first"
        )


def _record(given: argparse.Namespace, years: int, options: ExchangeOptions) -> None:
    """Ask for a span once, of a replay that asks the exchange."""
    began = time.perf_counter()
    with (
        Replay(given.folder, record=options, latency=0.0) as replay,
        tempfile.TemporaryDirectory() as folder,
    ):
        environment = user_environment(
            Path(folder), replay.url, UNLIMITED, years_until_last(years)[0]
        )
        _alone(given, "ask", years, replay, environment)
        requests = len(replay.told().arrivals)
    took = time.perf_counter() - began
    print(f"recorded {years} years, {requests:,} requests, in {took:.0f} s", flush=True)


def _backfill(
    given: argparse.Namespace, years: int, work: Path, *, stages: bool = False
) -> dict[str, Any]:
    """One span, measured."""
    folder = Path(tempfile.mkdtemp(dir=work))
    with Replay(given.folder, per_minute=given.per_minute, latency=given.latency) as replay:
        words = ["--stages"] if stages else []
        environment = user_environment(
            folder, replay.url, given.per_minute, years_until_last(years)[0]
        )
        with _lake(given, folder) as where:
            figures = _alone(given, "backfill", years, replay, environment | where, *words)
        told = replay.told()
        told.require_recorded()
        if given.keep and not stages:
            place = given.keep / f"{years}-{'pure' if given.pure else 'usual'}"
            if place.exists():
                shutil.move(place, folder / "kept before")
            shutil.copytree(folder / "lake", place)
    return figures | {"told": told}


@contextmanager
def _lake(given: argparse.Namespace, folder: Path) -> Iterator[dict[str, str]]:
    """Where the lake is, as settings: in the folder, or in a bucket."""
    if given.bucket is None:
        yield {}
        return
    from datalake_assets_tests.seaweedfs import BUCKET, seaweedfs

    with (
        seaweedfs(folder / "bucket") as server,
        distant(server.endpoint, given.bucket) as endpoint,
    ):
        yield {
            **server.environ(),
            "AWS_ENDPOINT_URL_S3": endpoint,
            "DATALAKE_URI": f"s3://{BUCKET}/lake",
        }


def alpaca_py(recording: Path, years: int, pages: int, work: Path) -> float:
    """Bars a CPU second of alpaca-py, on so many pages of a recording."""
    folder = Path(tempfile.mkdtemp(dir=work))
    with Replay(recording, latency=0.0) as replay:
        figures = measuring.alone(
            "backfill",
            *(str(recording.resolve()), "--only", "alpaca-py", "--url", replay.url),
            *("--years", str(years), "--pages", str(pages)),
            environment=user_environment(folder, replay.url, UNLIMITED, years_until_last(years)[0]),
        )
        replay.told().require_recorded()
    rate: float = figures["bars"] / figures["cpu"]
    return rate


def _alone(
    given: argparse.Namespace,
    way: str,
    years: int,
    replay: Replay,
    environment: Mapping[str, str],
    *words: str,
) -> dict[str, Any]:
    pure = ["--pure"] if given.pure else []
    return measuring.alone(
        "backfill",
        *(str(given.folder.resolve()), "--only", way, "--url", replay.url),
        *("--years", str(years), *pure, *words),
        environment=environment,
    )


def row(what: str, figures: Mapping[str, Any], per_minute: int, plain: float) -> tuple[str, ...]:
    """A row below `HEAD`.

    Args:
        what: Was measured.
        figures: What `collecting.collected` tells; `told` by the replay; `bars` and `sessions`.
        per_minute: The limit of requests.
        plain: alpaca-py's bars a CPU second.
    """
    told: Told = figures["told"]
    floor, rate = -(-figures["bars"] // PAGE), figures["bars"] / figures["cpu"]
    first, last = told.arrivals[0], told.arrivals[-1]
    count = len(told.arrivals)

    def used(requests: int, seconds: float) -> str:
        return f"{requests / (seconds / 60 * per_minute):.1%}"

    return (
        f"{what}, {figures['decoder']}",
        f"{figures['sessions']:,}",
        f"{figures['bars']:,}",
        f"{figures['wall']:.1f}",
        f"{figures['cpu']:.1f}",
        f"{told.cpu:.1f}",
        f"{figures['peak']:,.0f}",
        f"{told.daily:,}",
        f"{told.daily / floor:.3f}",
        used(count - 1, last - first),
        used(count, figures["ended"] - first),
        f"{told.fullest():,}",
        f"{rate:,.0f}",
        f"{rate / plain:.1f}",
    )


# --- in a process of its own ----------------------------------------------------------------------


def _backfill_here(given: argparse.Namespace) -> dict[str, Any]:
    """Collect the span with the settings of the environment."""
    days = years_until_last(given.years[0])
    uri, took = collected(
        "daily_ticks_job", days[0], days[-1], pure=given.pure, by_stage=given.stages
    )
    return {"bars": bars_of(uri, len(days)), "sessions": len(days), **took}


def _ask_here(given: argparse.Namespace) -> dict[str, Any]:
    """Ask for what a backfill of the span asks for, and keep nothing of it."""
    from datalake_assets.collection.collect import Collection
    from datalake_assets.collection.plan import Plan
    from datalake_assets.collection.rate_limit import RateLimiter
    from datalake_assets.collection.retry import RetryPolicy
    from datalake_assets.collection.universe import symbols_for
    from datalake_assets.lake.writer import LakeWriter
    from datalake_assets.pipeline.listing import take_snapshot, take_survey
    from datalake_assets.pipeline.publication import CollectionOptions, Publication
    from datalake_assets.storage.store import open_store

    days, limiter = years_until_last(given.years[0]), RateLimiter(UNLIMITED)
    with client(given.url) as source, tempfile.TemporaryDirectory() as folder:
        lake, options = LakeWriter(open_store(folder)), CollectionOptions(limiter)
        taken, _, _ = take_snapshot(source, lake, limiter, RetryPolicy())
        wanted = symbols_for(days, lake.snapshots())
        survey = take_survey(source, lake, options, wanted, days[0].year, taken)
        chunks = Publication(wanted, lake, options, survey=survey).plan.chunks
        for begin in range(0, len(chunks), AT_ONCE):
            some = Plan(chunks[begin : begin + AT_ONCE])
            collection = Collection(some, source.bars(), limiter=limiter, workers=options.workers)
            collection.run()
            if failed := collection.snapshot().symbols_failed:
                sys.exit(f"{failed:,} symbol-sessions failed: run again with --record for the rest")
    return {"requests": len(chunks)}


def bars_of(uri: str, sessions: int) -> int:
    """The bars that the lake holds, in so many sessions."""
    from datalake_assets.lake.files import LakeFiles
    from datalake_assets.lake.session_file import Summary
    from datalake_assets.storage import layout
    from datalake_assets.storage.store import open_store

    lake = LakeFiles(open_store(uri))
    found = list(lake.summaries(layout.session_key(day) for day in lake.sessions()))
    assert len(found) == sessions, (len(found), sessions)
    assert all(isinstance(summary, Summary) for summary in found), "a footer can't be read"
    return sum(summary.rows for summary in found if isinstance(summary, Summary))


def _alpaca_py_here(given: argparse.Namespace) -> dict[str, Any]:
    """alpaca-py's own way over some of the recorded pages, evenly spread, after its imports."""
    from alpaca.data.enums import Adjustment, DataFeed
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import StockBarsRequest
    from alpaca.data.timeframe import TimeFrame

    first = str(years_until_last(given.years[0])[0])
    asked = [query for query in Recording(given.folder).bars() if query["start"][:10] >= first]
    step = max(1, len(asked) // given.pages)
    requests = [
        StockBarsRequest(
            symbol_or_symbols=query["symbols"].split(","),
            timeframe=TimeFrame.Day,
            start=datetime.fromisoformat(query["start"]),
            end=datetime.fromisoformat(query["end"]),
            limit=int(query["limit"]),
            adjustment=Adjustment(query["adjustment"]),
            feed=DataFeed(query["feed"]),
            asof=query["asof"],
        )
        for query in asked[::step][: given.pages]
    ]
    plain = StockHistoricalDataClient(*KEYS, url_override=given.url)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.parquet"

        def read() -> int:
            bars = 0
            for request in requests:
                frame = plain.get_stock_bars(request).df  # type: ignore[union-attr]
                frame.to_parquet(file)
                bars += len(frame)
            return bars

        taken = measuring.timed(read)
    return {"wall": taken.wall, "cpu": taken.cpu, "bars": taken.result}


WAYS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "ask": _ask_here,
    "backfill": _backfill_here,
    "alpaca-py": _alpaca_py_here,
}


def add_replay(parser: argparse.ArgumentParser) -> None:
    """Add what says which answers are replayed, and how, to a command line."""
    parser.add_argument("folder", type=Path, help="of the recording; made when it is not there")
    parser.add_argument("--symbols", type=int, default=5_000, help="of the market")
    parser.add_argument("--per-minute", type=int, default=10_000, help="the account's limit")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds of each answer")
    parser.add_argument("--pages", type=int, default=24, help="that alpaca-py reads")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_replay(parser)
    parser.add_argument("--years", type=int, nargs="+", default=[1, 3, 15])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="ask the exchange what is unknown")
    parser.add_argument("--pure", action="store_true", help="without the compiled decoder")
    parser.add_argument("--stages", action="store_true", help="tell where the CPU goes, too")
    parser.add_argument("--keep", type=Path, metavar="LAKES", help="folder for the lakes")
    parser.add_argument("--bucket", type=float, metavar="SECONDS", help="a bucket, so far away")
    parser.add_argument("--only", choices=tuple(WAYS), help="measure here; used by itself")
    parser.add_argument("--url", help="used by itself")
    given = parser.parse_args()
    if min(given.years) < 1:
        parser.error("--years are whole numbers from 1")
    if given.keep and given.bucket is not None:
        parser.error("--keep leaves a lake in a folder: leave --bucket out")
    return given


if __name__ == "__main__":
    main()
