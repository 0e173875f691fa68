"""Reading: this project's reader against DuckDB, Polars and pandas over the plain files.

Four questions, over the lake of random walks of `benchmarks.symbol_years` (made when it is not
there), in its folder and on a local S3 server: one symbol over all years, one session of all
symbols, 500 symbols over the last five years, and all symbols of the last year. Every way is told
the files that answer, reads all columns, and is checked to bring the same number of bars; the ways
take turns, warm, and the median counts. Beside them Polars over the year files alone, with a
filter, and a table of the same bars in one DuckDB file, sorted by symbol.

    python -m benchmarks.reads [--years 15] [--symbols 5000] [--panel 500] [--rounds 5]
        [--lake .datalake/benchmark] [--ways Polars] [--local-only]

A way gets `--patience` seconds of a question; past that it is measured twice instead of `--rounds`
times.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import duckdb
import duckdb_extensions
import pandas as pd
import polars as pl
import pyarrow.fs

from benchmarks.measuring import in_turns, median_cpu, median_wall
from benchmarks.symbol_years import LAST_YEAR, make_lake, name_of
from datalake_assets import Lake, market_calendar
from datalake_assets.lake.manifest import Manifest
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets.storage.upload import Item, upload
from datalake_assets_tests.seaweedfs import BUCKET

Way = Callable[[], int]
"""Answers a question: how many bars."""


class Questions:
    """The four questions, and the objects that answer each."""

    def __init__(self, years: int, symbols: int, panel: int) -> None:
        self.years = range(LAST_YEAR - years + 1, LAST_YEAR + 1)
        self.symbol = name_of(symbols // 2)
        self.day = market_calendar.sessions(date(LAST_YEAR, 6, 1), date(LAST_YEAR, 6, 30))[5]
        self.panel = [name_of(number * (symbols // panel)) for number in range(panel)]
        self.panel_years = self.years[-5:]

    def keys(self) -> dict[str, list[str]]:
        """By question, the objects that hold the answer and little else."""
        return {
            f"{self.symbol}, {len(self.years)} years": [
                layout.symbol_year_key(self.symbol, year) for year in self.years
            ],
            f"{self.day}, all symbols": [layout.session_key(self.day)],
            f"{len(self.panel)} symbols, {len(self.panel_years)} years": [
                layout.symbol_year_key(symbol, year)
                for symbol in self.panel
                for year in self.panel_years
            ],
            f"all symbols, {LAST_YEAR}": [layout.year_file_key(LAST_YEAR)],
        }

    def of_year_files(self, root: str, options: dict[str, str]) -> list[Way]:
        """Each question, asked of the year files by Polars."""

        def rows(years: Sequence[int], where: pl.Expr) -> Way:
            paths = [f"{root}/{layout.year_file_key(year)}" for year in years]
            scan = pl.scan_parquet(
                paths, storage_options=options or None, hive_partitioning=False
            ).filter(where)
            return lambda: scan.collect().height

        return [
            rows(self.years, pl.col("symbol") == self.symbol),
            rows([LAST_YEAR], pl.col("session") == self.day),
            rows(self.panel_years, pl.col("symbol").is_in(self.panel)),
            rows([LAST_YEAR], pl.lit(value=True)),
        ]

    def ours(self, lake: Lake) -> list[Way]:
        """Each question, asked of this project's reader."""
        first, last = date(self.panel_years[0], 1, 1), date(self.panel_years[-1], 12, 31)
        return [
            lambda: int(lake.bars(self.symbol).num_rows),
            lambda: int(lake.session(self.day).bars.num_rows),
            lambda: int(lake.bars(self.panel, first, last).num_rows),
            lambda: int(lake.bars(None, date(LAST_YEAR, 1, 1), last).num_rows),
        ]

    def of_table(self, table: duckdb.DuckDBPyConnection) -> list[Way]:
        """Each question, asked of a table `bars`."""

        def rows(where: str) -> Way:
            query = f"SELECT * FROM bars WHERE {where}"
            return lambda: int(table.sql(query).to_arrow_table().num_rows)

        first, last = self.panel_years[0], self.panel_years[-1]
        return [
            rows(f"symbol = '{self.symbol}'"),
            rows(f"session = '{self.day}'"),
            rows(
                f"symbol IN {tuple(self.panel)} "
                f"AND session BETWEEN '{first}-01-01' AND '{last}-12-31'"
            ),
            rows(f"session BETWEEN '{LAST_YEAR}-01-01' AND '{LAST_YEAR}-12-31'"),
        ]


def main() -> None:
    """Measure in the folder, then on the server."""
    given = _arguments()
    questions = Questions(given.years, given.symbols, given.panel)
    make_lake(given.lake, questions.years, given.symbols)
    folder = str(given.lake.resolve())
    ways = {
        "this project": questions.ours(Lake.open(folder)),
        "DuckDB": _over(questions, folder, _duckdb(duckdb.connect())),
        "Polars": _over(questions, folder, _polars({})),
        "Polars, year files": questions.of_year_files(folder, {}),
        "pandas": _over(questions, folder, _pandas(pyarrow.fs.LocalFileSystem())),
    }
    with tempfile.TemporaryDirectory() as scratch:
        table = duckdb.connect(f"{scratch}/bars.duckdb")
        if given.ways is None:
            table.execute(
                f"CREATE TABLE bars AS SELECT * EXCLUDE year FROM "
                f"'{folder}/{layout.SESSIONS}/*/*.parquet' ORDER BY symbol, session"
            )
            ways["DuckDB, one file"] = questions.of_table(table)
        print("in a folder")
        _compare(questions, ways, given)
        table.close()
        if not given.local_only:
            _on_server(questions, given, Path(scratch) / "server")


def _copy(source: Store, target: Store, questions: Questions) -> None:
    """Copy what the questions touch, with manifests that know the copies' versions."""
    asked = [key for keys in questions.keys().values() for key in keys]
    sessions = [key for year in questions.years for key in source.list(layout.sessions_of(year))]
    items = [Item(key, partial(source.get, key)) for key in {layout.MARKER, *asked, *sessions}]
    report = upload(items, target.put)
    assert report.passed, report.failed
    for year in questions.years:
        key = layout.manifest_key(year)
        versions = target.versions(layout.sessions_of(year))
        manifest = Manifest.decode(source.get(key), key)
        made_from = {day: versions[layout.session_key(day)] for day in manifest.sessions}
        target.put(key, replace(manifest, sessions=made_from).encode())
        YearFiles(target).publish(year)


def _on_server(questions: Questions, given: argparse.Namespace, folder: Path) -> None:
    from datalake_assets_tests.seaweedfs import seaweedfs

    with seaweedfs(folder) as server:
        os.environ.update(server.environ(), NO_PROXY="127.0.0.1")
        print("\ncopying what the questions touch to the server …", flush=True)
        uri = f"s3://{BUCKET}/lake"
        _copy(open_store(str(given.lake)), open_store(uri, retry=False), questions)
        _, secret_key = server.admin
        host = server.endpoint.removeprefix("http://")
        keys = {"access_key": server.admin[0], "secret_key": secret_key}
        filesystem = pyarrow.fs.S3FileSystem(
            **keys, endpoint_override=host, scheme="http", region="us-east-1"
        )
        ways = {
            "this project": questions.ours(Lake.open(uri)),
            "Polars": _over(questions, uri, _polars({"aws_endpoint_url": server.endpoint})),
            "Polars, year files": questions.of_year_files(
                uri, {"aws_endpoint_url": server.endpoint}
            ),
            "pandas": _over(questions, uri.removeprefix("s3://"), _pandas(filesystem)),
        }
        connection = duckdb.connect()
        duckdb_extensions.import_extension("httpfs", con=connection)
        connection.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{keys['access_key']}', SECRET '{secret_key}', "
            f"ENDPOINT '{host}', URL_STYLE 'path', USE_SSL false)"
        )
        ways["DuckDB"] = _over(questions, uri, _duckdb(connection))
        print("on the S3 server")
        _compare(questions, ways, given)


# --- the ways -------------------------------------------------------------------------------------


def _over(questions: Questions, root: str, read: Callable[[list[str]], int]) -> list[Way]:
    return [partial(read, [f"{root}/{key}" for key in keys]) for keys in questions.keys().values()]


def _duckdb(connection: duckdb.DuckDBPyConnection) -> Callable[[list[str]], int]:
    # No parameters: a relation made with them is built value by value, ten times slower.
    def read(paths: list[str]) -> int:
        query = f"SELECT * FROM read_parquet({paths}, hive_partitioning = false)"
        return int(connection.sql(query).to_arrow_table().num_rows)

    return read


def _polars(options: dict[str, str]) -> Callable[[list[str]], int]:
    def read(paths: list[str]) -> int:
        scan = pl.scan_parquet(paths, storage_options=options or None, hive_partitioning=False)
        return scan.collect().height

    return read


def _pandas(filesystem: pyarrow.fs.FileSystem) -> Callable[[list[str]], int]:
    def read(paths: list[str]) -> int:
        return len(
            pd.concat(
                [pd.read_parquet(path, filesystem=filesystem, partitioning=None) for path in paths]
            )
        )

    return read


def _compare(questions: Questions, ways: dict[str, list[Way]], given: argparse.Namespace) -> None:
    for number, question in enumerate(questions.keys()):
        wanted = ways.keys() if given.ways is None else {"this project", *given.ways}
        asked = {name: answers[number] for name, answers in ways.items() if name in wanted}
        taken = in_turns(asked, given.rounds, patience=given.patience)
        rows = {name: runs[-1].result for name, runs in taken.items()}
        assert len(set(rows.values())) == 1, rows
        print(f"  {question}: {next(iter(rows.values())):,} bars")
        ours = taken["this project"]
        for name, runs in taken.items():
            wall, cpu = median_wall(runs), median_cpu(runs)
            print(
                f"    {name:<18}{wall * 1000:>9.1f} ms {wall / median_wall(ours):>7.2f} × this "
                f"project's, of CPU {cpu * 1000:>9.1f} ms {cpu / median_cpu(ours):>7.2f} ×"
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--years", type=int, default=15)
    parser.add_argument("--symbols", type=int, default=5_000)
    parser.add_argument("--panel", type=int, default=500, help="symbols of the panel")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=20, help="seconds")
    parser.add_argument("--lake", type=Path, default=Path(".datalake/benchmark"))
    parser.add_argument("--ways", nargs="+", help="beside this project's only these, like Polars")
    parser.add_argument("--local-only", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
