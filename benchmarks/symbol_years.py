"""Publishing symbol-years: encoding the files, and whole years to a local S3 server.

A lake of random walks is made once in `--lake` (`make_lake`; a minute of CPU for 15 years of 5,000
symbols). Then, in this run and in turns:

- one year's symbol-years as Parquet by this project, by pyarrow's and Polars' defaults and by
  pandas: bytes and milliseconds for a file, each from the form that the library holds bars in;
- the publication of all years to SeaweedFS, in a process of its own (wall, CPU and peak memory by
  Linux's count), beside an upload of the same files by s5cmd and by this project's uploader;
- once more after one session changed for 37 symbols: so many objects may be written, and no more;
- the proof that both layouts hold the same rows.

    python -m benchmarks.symbol_years [--years 15] [--symbols 5000] [--workers 20] [--rounds 3]
        [--lake .datalake/benchmark] [--skip encode publish]
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime
from datetime import time as clock_time
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import measuring
from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.report import Ledger
from datalake_assets.lake import session_file, symbol_year_file
from datalake_assets.lake.session_file import Provenance, Session
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets.storage.upload import files, upload
from datalake_assets_tests.seaweedfs import BUCKET

LAST_YEAR = 2025
CHANGED = 37  # symbols that the changed session has other bars of
UNLISTED = 0.02  # share of symbols that don't trade in a session


def main() -> None:
    """Make the lake if need be, and measure; or publish in this process when told so."""
    given = _arguments()
    years = range(LAST_YEAR - given.years + 1, LAST_YEAR + 1)
    if given.only:
        measuring.tell(_ONLY[given.only](given, years))
        return
    make_lake(given.lake, years, given.symbols)
    if "encode" not in given.skip:
        _encode(given)
    if "publish" not in given.skip:
        _publish(given, years)


# --- the lake -------------------------------------------------------------------------------------


def make_lake(folder: Path, years: range, symbols: int) -> None:
    """Every layout of a lake of random walks in a folder, where it is not there yet."""
    store = open_store(str(folder))
    # A lake of other symbols is refused.
    LakeWriter(store).claim(f"random walks of {symbols:,} symbols")
    have = {year for year in years if not SymbolYears(store).behind(year)}
    missing = [year for year in years if year not in have or not _rows(store, year)]
    if missing:
        print(f"making {len(missing)} years of {symbols:,} symbols in {folder} …", flush=True)
        # Forked, a process would wait for the threads of obstore, which it does not inherit.
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as processes:
            list(processes.map(partial(_make_year, folder, symbols), missing))
    for year in years:
        YearFiles(store).publish(year)


def _rows(store: Store, year: int) -> int:
    return SymbolYears(store).manifest(year).fingerprint.rows


def _make_year(folder: Path, symbols: int, year: int) -> None:
    store = open_store(str(folder))
    draw = np.random.default_rng(year)
    names = np.array([name_of(number) for number in range(symbols)])
    close = np.exp(draw.normal(3.3, 1.1, symbols))
    for day in market_calendar.sessions(date(year, 1, 1), date(year, 12, 31)):
        close *= np.exp(draw.normal(0.0, 0.02, symbols))
        trades = draw.random(symbols) >= UNLISTED
        store.put(layout.session_key(day), _session(day, names[trades], close[trades], draw))
    SymbolYears(store).publish(year, workers=2)


def name_of(number: int) -> str:
    """A ticker: A to Z, then two letters and more, as short as it can be."""
    letters = ""
    number += 1
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(65 + letter) + letters
    return letters


def _session(day: date, names: np.ndarray, close: np.ndarray, draw: np.random.Generator) -> bytes:
    order = np.argsort(names)
    names, close = names[order], close[order]
    rows = len(names)
    moves = np.exp(draw.normal(0.0, 0.01, (3, rows)))
    start = datetime.combine(day, clock_time(), ZoneInfo("America/New_York")).astimezone(UTC)
    open_ = close * moves[0]
    bars = pa.table(
        [
            names.tolist(),
            [day] * rows,
            [start] * rows,
            np.round(open_, 2),
            np.round(np.maximum(open_, close) * np.maximum(moves[1], 1), 2),
            np.round(np.minimum(open_, close) * np.minimum(moves[2], 1), 2),
            np.round(close, 2),
            np.round((open_ + close) / 2, 6),
            draw.lognormal(13.0, 2.0, rows).astype(np.int64),
            draw.lognormal(8.0, 1.5, rows).astype(np.int64) + 1,
        ],
        schema=SCHEMA,
    )
    ledger = Ledger(session=day, present=tuple(names.tolist()))
    told = Provenance(datetime(2026, 1, 1, tzinfo=UTC), "random walks", day, "benchmark", "0")
    return session_file.encode(Session(bars, ledger, told), [])


def _change(store: Store, day: date) -> list[str]:
    """Restate a session for some symbols: which."""
    key = layout.session_key(day)
    session = session_file.decode(store.get(key), key)
    rows = np.linspace(0, session.bars.num_rows - 1, CHANGED).astype(int)
    volume = session.bars["volume"].to_numpy().copy()
    volume[rows] += 1
    at = SCHEMA.get_field_index("volume")
    bars = session.bars.set_column(at, SCHEMA.field(at), pa.array(volume))
    store.put(key, session_file.encode(Session(bars, session.ledger, session.provenance), []))
    return sorted(bars["symbol"].to_numpy()[rows].tolist())


# --- encoding -------------------------------------------------------------------------------------


def _encode(given: argparse.Namespace) -> None:
    import polars as pl

    store = open_store(str(given.lake))
    keys = [layout.symbol_year_key(name_of(n), LAST_YEAR) for n in range(given.symbols)]
    tables = [symbol_year_file.decode(store.get(key), key) for key in keys]

    def written(write: Callable[[Any, io.BytesIO], object]) -> Callable[[Any], int]:
        def encode(bars: object) -> int:
            buffer = io.BytesIO()
            write(bars, buffer)
            return buffer.tell()

        return encode

    ways: dict[str, tuple[list[Any], Callable[[Any], int]]] = {
        "this project": (tables, lambda bars: len(symbol_year_file.encode(bars))),
        "pyarrow": (tables, written(pq.write_table)),
        "Polars": (
            [pl.from_arrow(table) for table in tables],
            written(lambda bars, buffer: bars.write_parquet(buffer)),
        ),
        "pandas": (
            [table.to_pandas() for table in tables],
            written(lambda bars, buffer: bars.to_parquet(buffer, index=False)),
        ),
    }
    encoding = {way: partial(_sum, encode, held) for way, (held, encode) in ways.items()}
    taken = measuring.in_turns(encoding, given.rounds, warm_up=False)
    print(
        f"\n{len(tables):,} symbol-years, one thread\n{'way':<14}{'ms/file':>9}{'bytes/file':>12}"
    )
    for way, runs in taken.items():
        wall = measuring.median_wall(runs) / len(tables) * 1000
        print(f"{way:<14}{wall:>9.3f}{runs[0].result / len(tables):>12,.0f}")


def _sum(encode: Callable[[Any], int], held: list[Any]) -> int:
    return sum(map(encode, held))


# --- publishing -----------------------------------------------------------------------------------


def _publish(given: argparse.Namespace, years: range) -> None:
    from datalake_assets_tests.seaweedfs import seaweedfs

    daily = given.lake / layout.SYMBOL_YEARS
    with tempfile.TemporaryDirectory() as folder, seaweedfs(Path(folder)) as server:
        os.environ.update(server.environ(), NO_PROXY="127.0.0.1", S3_ENDPOINT_URL=server.endpoint)
        print("copying the sessions to the server …", flush=True)
        lake = open_store(f"s3://{BUCKET}/lake", retry=False)
        below = f"{layout.SESSIONS}/"
        sent = upload(files(given.lake / layout.SESSIONS), lambda k, d: lake.put(below + k, d))
        assert sent.passed, sent.failed
        print(f"{'what':<44}{'wall, s':>9}{'objects':>9}{'a second':>10}{'CPU, s':>8}{'MiB':>6}")
        told = _told("publication", _alone(given, "publish"))
        assert told["objects"] == given.years * given.symbols, told
        if shutil.which("s5cmd"):
            quiet = ["--log", "error", "--numworkers", str(given.workers)]
            there = f"s3://{BUCKET}/s5cmd/"
            _told(
                "s5cmd, the same files",
                measuring.run(["s5cmd", *quiet, "cp", f"{daily}/", there]),
                told,
            )
        else:
            print("s5cmd is not on the PATH: left out")
        _told("this uploader, the same files", _alone(given, "upload"), told)
        _told("publication, nothing changed", _alone(given, "publish"))
        day = market_calendar.sessions(date(LAST_YEAR, 6, 1), date(LAST_YEAR, 6, 30))[0]
        changed = _change(open_store(f"s3://{BUCKET}/lake"), day)
        again = _told(f"publication, {day} changed for {CHANGED} symbols", _alone(given, "publish"))
        assert again["symbols"] == changed, (again["symbols"], changed)
        _told("proof of both layouts", _alone(given, "prove"))


def _alone(given: argparse.Namespace, what: str) -> dict[str, Any]:
    """Do this in a process of its own."""
    return measuring.alone(
        "symbol_years",
        *("--only", what, "--years", str(given.years), "--symbols", str(given.symbols)),
        *("--workers", str(given.workers), "--lake", str(given.lake)),
    )


def _told(what: str, figures: dict[str, Any], like: dict[str, Any] | None = None) -> dict[str, Any]:
    objects = figures.get("objects", like["objects"] if like else 0)
    print(
        f"{what:<44}{figures['wall']:>9.1f}{objects:>9,}{objects / figures['wall']:>10,.0f}"
        f"{figures['cpu']:>8.1f}{figures.get('peak', math.nan):>6.0f}",
        flush=True,
    )
    return figures


def _publish_here(given: argparse.Namespace, years: range) -> dict[str, Any]:
    place = f"s3://{BUCKET}/lake"
    symbol_years = SymbolYears(open_store(place), open_store(place, retry=False))
    symbols: list[str] = []
    for year in years:
        symbols += symbol_years.publish(year, workers=given.workers).uploaded
    return {"objects": len(symbols), "symbols": symbols if len(symbols) <= 1000 else []}


def _upload_here(given: argparse.Namespace, years: range) -> dict[str, Any]:
    store = open_store(f"s3://{BUCKET}/uploaded", retry=False)
    report = upload(files(given.lake / layout.SYMBOL_YEARS), store.put, workers=given.workers)
    assert report.passed, report.failed
    return {"objects": len(report.uploaded)}


def _prove_here(given: argparse.Namespace, years: range) -> dict[str, Any]:
    symbol_years = SymbolYears(open_store(f"s3://{BUCKET}/lake"))
    for year in years:
        proof = symbol_years.prove(year)
        assert proof.holds, proof.differing
    return {"objects": given.years * given.symbols}


_ONLY = {"publish": _publish_here, "upload": _upload_here, "prove": _prove_here}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--years", type=int, default=15)
    parser.add_argument("--symbols", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="of encoding")
    parser.add_argument("--lake", type=Path, default=Path(".datalake/benchmark"))
    parser.add_argument("--skip", nargs="*", choices=("encode", "publish"), default=[])
    parser.add_argument("--only", choices=tuple(_ONLY), help="do it here; used by itself")
    return parser.parse_args()


if __name__ == "__main__":
    main()
