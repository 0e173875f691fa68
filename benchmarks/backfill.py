"""The whole backfill through Dagster: does its cost grow with the bars, and its memory not at all?

Each span is collected in a process of its own into an empty lake, by one Dagster run as `datalake
backfill` makes it, from an exchange that answers after `--latency` seconds and has no limit. Wall,
CPU and peak memory are the kernel's for that process; the exchange is another one. In the same
run, alpaca-py's own way (`get_stock_bars(...).df` to Parquet) reads pages of the same shape.

    python -m benchmarks.backfill [--years 1 5 15] [--symbols 5000] [--latency 0.05]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from datalake_assets import market_calendar

LAST = date(2025, 12, 31)
UNLIMITED = 1_000_000  # requests a minute: what the settings allow at most
PAGE = 10_000


def main() -> None:
    """Measure each span in a fresh process, or one of them in this process when told so."""
    given = _arguments()
    if given.only is not None:
        print(json.dumps(WAYS[given.only](given)))
        return
    plain = _measured(given, "alpaca-py", given.years[0])
    print(f"alpaca-py: {plain['bars']:,} bars, {plain['bars'] / plain['cpu']:,.0f} bars a CPU s")
    for years in given.years:
        told = _measured(given, "backfill", years)
        floor = -(-told["bars"] // PAGE)
        rate = told["bars"] / told["cpu"]
        print(
            f"{years} years: {told['sessions']:,} sessions, {told['bars']:,} bars, wall "
            f"{told['wall']:.1f} s, CPU {told['cpu']:.1f} s, peak {told['peak']:,.0f} MiB, "
            f"{told['requests']:,} requests ({told['requests'] / floor:.3f} of "
            f"{floor:,}), {rate:,.0f} bars a CPU s, "
            f"{rate / (plain['bars'] / plain['cpu']):.1f} times alpaca-py's"
        )


def _measured(given: argparse.Namespace, way: str, years: int) -> dict[str, Any]:
    command = [
        *(sys.executable, "-W", "ignore", "-m", "benchmarks.backfill", "--only", way),
        *("--years", str(years), "--symbols", str(given.symbols), "--latency", str(given.latency)),
    ]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return told


def _backfill(given: argparse.Namespace) -> dict[str, Any]:
    import dagster as dg

    from datalake_assets.definitions import build_definitions
    from datalake_assets.lake.files import LakeFiles
    from datalake_assets.lake.session_file import Summary
    from datalake_assets.resources import CollectorResource, EmbeddedExchangeResource, LakeResource
    from datalake_assets.settings import Settings
    from datalake_assets.storage import layout
    from datalake_assets.storage.store import open_store

    first = date(LAST.year - given.years[0] + 1, 1, 1)
    days = market_calendar.sessions(first, LAST)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("dagster.yaml").write_text("telemetry: {enabled: false}\n")
        definitions = build_definitions(
            Settings.load({}),
            source=EmbeddedExchangeResource(
                active=given.symbols, inactive=0, latency=given.latency
            ),
            collector=CollectorResource(requests_per_minute=UNLIMITED),
            lake=LakeResource(uri=f"{folder}/lake"),
        )
        began = time.perf_counter()
        with dg.DagsterInstance.from_config(folder) as instance:
            result = definitions.resolve_job_def("daily_ticks_job").execute_in_process(
                instance=instance,
                tags={
                    "dagster/asset_partition_range_start": days[0].isoformat(),
                    "dagster/asset_partition_range_end": days[-1].isoformat(),
                },
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
            assert result.success
        wall = time.perf_counter() - began
        lake = LakeFiles(open_store(f"{folder}/lake"))
        found = lake.summaries(layout.session_key(day) for day in lake.sessions())
        summaries = [summary for summary in found if isinstance(summary, Summary)]
        assert len(summaries) == len(days), (len(summaries), len(days))
        bars = sum(summary.rows for summary in summaries)
        # The sessions of a window share its numbers, which end at the same instant.
        windows = {
            summary.provenance.collected_at: summary.provenance.collection["requests"]
            for summary in summaries
        }
    return _usage() | {
        "wall": wall,
        "bars": bars,
        "sessions": len(days),
        "requests": sum(windows.values()),
    }


def _plain(given: argparse.Namespace) -> dict[str, Any]:
    """alpaca-py's own way over a few pages of the same shape, after its imports."""
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import StockBarsRequest
    from alpaca.data.timeframe import TimeFrame

    from datalake_assets.exchange.process import EmbeddedExchange, ExchangeOptions
    from datalake_assets.sources.alpaca import Account, AlpacaSource

    options = ExchangeOptions(active=given.symbols, inactive=0, latency=given.latency)
    with EmbeddedExchange(options) as exchange, tempfile.TemporaryDirectory() as folder:
        source = AlpacaSource(
            Account("any", "any", data_url=exchange.url, trading_url=exchange.url)
        )
        rows = source.assets().select(["symbol", "status"]).to_pylist()
        names = [row["symbol"] for row in rows if row["status"] == "active"]
        client = StockHistoricalDataClient("any", "any", url_override=exchange.url)
        days = market_calendar.sessions(date(LAST.year, 10, 1), LAST)[-63:]
        began, before, bars = time.perf_counter(), _usage()["cpu"], 0
        for page in range(12):
            request = StockBarsRequest(
                symbol_or_symbols=names[page * 157 : (page + 1) * 157],
                timeframe=TimeFrame.Day,
                start=datetime.combine(days[0], datetime.min.time(), UTC),
                end=datetime.combine(days[-1], datetime.max.time(), UTC),
            )
            frame = client.get_stock_bars(request).df
            frame.to_parquet(Path(folder) / f"{page}.parquet")
            bars += len(frame)
        wall = time.perf_counter() - began
        return {"wall": wall, "cpu": _usage()["cpu"] - before, "bars": bars}


def _usage() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu": used.ru_utime + used.ru_stime, "peak": used.ru_maxrss / 1024}


WAYS = {"backfill": _backfill, "alpaca-py": _plain}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--years", type=int, nargs="+", default=[1, 5, 15])
    parser.add_argument("--symbols", type=int, default=5_000)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds")
    parser.add_argument("--only", choices=tuple(WAYS), help="measure here; used by itself")
    return parser.parse_args()


if __name__ == "__main__":
    main()
