"""Engines over each layout of the lake: which one answers which question fastest.

Three questions, over the lake of random walks of `benchmarks.symbol_years` (made when it is not
there): the mean close of every symbol over a year, all bars of one symbol over two years, and all
bars of one session. Each is asked of the sessions, of the symbol-years and of the year files, by
DuckDB, Polars and pandas, and by Dask and Spark where they are installed. Paths are what an
analyst would write: a pattern, or one symbol's files. All must bring the same number of rows; they
are asked warm, and the fastest of `--rounds` counts.

    python -m benchmarks.engines [--years 15] [--symbols 5000] [--rounds 5] [--engines DuckDB]
        [--lake .datalake/benchmark] [--patience 20]
"""

from __future__ import annotations

import argparse
import glob
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import duckdb
import pandas as pd
import polars as pl

from benchmarks.measuring import in_turns
from benchmarks.symbol_years import LAST_YEAR, make_lake, name_of
from datalake_assets import market_calendar

Kind = Literal["means", "symbol", "session"]
Engine = Callable[[Kind, list[str], str], int]
"""Answers a question over these paths or patterns, about this symbol or session: how many rows."""

LAYOUTS = ("sessions", "symbol-years", "year files")


def main() -> None:
    """Ask every engine, and tell."""
    given = _arguments()
    make_lake(given.lake, range(LAST_YEAR - given.years + 1, LAST_YEAR + 1), given.symbols)
    root = given.lake.resolve() / "data/ticks"
    symbol = name_of(given.symbols // 2)
    day = str(market_calendar.sessions(date(LAST_YEAR, 6, 1), date(LAST_YEAR, 6, 30))[5])
    asked: list[tuple[str, Kind, str, list[list[str]]]] = [
        (f"mean close of each symbol, {LAST_YEAR}", "means", "", _paths(root, [LAST_YEAR])),
        (
            f"{symbol}, {LAST_YEAR - 1} and {LAST_YEAR}",
            "symbol",
            symbol,
            _paths(root, [LAST_YEAR - 1, LAST_YEAR], symbol),
        ),
        (f"session {day}", "session", day, _paths(root, [LAST_YEAR], day=day)),
    ]
    for question, kind, about, of_layouts in asked:
        print(question)
        for name, engine in _engines():
            if given.engines and name not in given.engines:
                continue
            ways = {
                layout: partial(engine, kind, paths, about)
                for layout, paths in zip(LAYOUTS, of_layouts, strict=True)
            }
            taken = in_turns(ways, given.rounds, patience=given.patience)
            rows = {layout: runs[-1].result for layout, runs in taken.items()}
            assert len(set(rows.values())) == 1, (name, rows)
            told = [
                f"{layout} {min(run.wall for run in runs) * 1000:,.0f} ms "
                f"(CPU {min(run.cpu for run in runs) * 1000:,.0f})"
                for layout, runs in taken.items()
            ]
            print(f"  {name:<8}" + ", ".join(told), flush=True)


def _paths(root: Path, years: list[int], symbol: str = "*", day: str = "*") -> list[list[str]]:
    """The paths of each layout."""
    return [
        [f"{root}/sessions/year={year}/{day}.parquet" for year in years],
        [f"{root}/daily/{symbol}/{year}/ticks.parquet" for year in years],
        [f"{root}/years/year={year}/bars.parquet" for year in years],
    ]


def _engines() -> Iterator[tuple[str, Engine]]:
    yield "DuckDB", _duckdb
    yield "Polars", _polars
    yield "pandas", _pandas
    with suppress(ImportError):
        yield "Dask", _dask()
    with suppress(ImportError):
        yield "Spark", _spark()


def _duckdb(kind: Kind, paths: list[str], about: str) -> int:
    source = f"read_parquet({paths}, hive_partitioning = false)"
    query = {
        "means": f"SELECT symbol, avg(close) FROM {source} GROUP BY symbol",
        "symbol": f"SELECT * FROM {source} WHERE symbol = '{about}'",
        "session": f"SELECT * FROM {source} WHERE session = DATE '{about}'",
    }[kind]
    return int(duckdb.sql(query).to_arrow_table().num_rows)


def _polars(kind: Kind, paths: list[str], about: str) -> int:
    bars = pl.scan_parquet(paths, hive_partitioning=False)
    match kind:
        case "means":
            return bars.group_by("symbol").agg(pl.col("close").mean()).collect().height
        case "symbol":
            return bars.filter(pl.col("symbol") == about).collect().height
    return bars.filter(pl.col("session") == date.fromisoformat(about)).collect().height


def _filters(kind: Kind, about: str) -> list[tuple[str, str, Any]] | None:
    if kind == "means":
        return None
    return [(kind, "==", about if kind == "symbol" else date.fromisoformat(about))]


def _pandas(kind: Kind, paths: list[str], about: str) -> int:
    files = [path for pattern in paths for path in sorted(glob.glob(pattern))]  # noqa: PTH207
    columns = ["symbol", "close"] if kind == "means" else None
    bars = pd.read_parquet(files, columns=columns, filters=_filters(kind, about), partitioning=None)
    return len(bars.groupby("symbol")["close"].mean() if kind == "means" else bars)


def _dask() -> Engine:
    import dask.dataframe as dd

    def ask(kind: Kind, paths: list[str], about: str) -> int:
        files = [path for pattern in paths for path in sorted(glob.glob(pattern))]  # noqa: PTH207
        columns = ["symbol", "close"] if kind == "means" else None
        bars = dd.read_parquet(files, columns=columns, filters=_filters(kind, about))
        found = bars.groupby("symbol")["close"].mean() if kind == "means" else bars
        return len(found.compute())

    return ask


def _spark() -> Engine:
    from pyspark.sql import SparkSession
    from pyspark.sql import functions as f

    spark = SparkSession.builder.master("local[*]").config("spark.ui.enabled", "false")
    session = spark.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")

    def ask(kind: Kind, paths: list[str], about: str) -> int:
        bars = session.read.parquet(*paths)
        if kind == "means":
            return len(bars.groupBy("symbol").agg(f.avg("close")).collect())
        return len(bars.filter(f.col(kind) == about).collect())

    return ask


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--years", type=int, default=15)
    parser.add_argument("--symbols", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=20, help="seconds")
    parser.add_argument("--lake", type=Path, default=Path(".datalake/benchmark"))
    parser.add_argument("--engines", nargs="+", help="only these, like DuckDB")
    return parser.parse_args()


if __name__ == "__main__":
    main()
