"""Minutes: what a session of the whole market takes on disk, to encode and to read.

The minutes are those of the embedded exchange for one session, moved to each of the others: a file
of its own for each. Questions are asked of a lake in a folder, and of the same on a local S3
server: one symbol over all sessions, one session of all symbols, and the same put together. The
first round does not count; the median of the others does.

    python -m benchmarks.read_minutes [--sessions 252] [--symbols 11000] [--rounds 3]
        [--lake .datalake/minutes] [--local-only]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.measuring import in_turns, machine, median_cpu, median_wall, peak, timed
from datalake_assets import Lake, market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.collection.report import Ledger
from datalake_assets.exchange.minutes import DAY, OPEN, Minutes
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake import session_file
from datalake_assets.lake.encoding import runs
from datalake_assets.lake.session_file import Provenance, Session
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets_tests.seaweedfs import BUCKET, seaweedfs

MADE = date(2026, 7, 1)
LAST = date(2026, 6, 30)
_SYMBOLS = 500  # whose minutes are made at once
_EPOCH = date(1970, 1, 1)


def main() -> None:
    """Makes the lake, and asks it."""
    given = _arguments()
    warnings.simplefilter("ignore")
    days = [
        day
        for day in market_calendar.previous_sessions(LAST, 2 * given.sessions)
        if not market_calendar.is_early_close(day)
    ][-given.sessions :]
    store = open_store(str(given.lake))
    print(machine())
    bars = minutes_of(given.symbols)
    names, counts = runs(bars["symbol"])
    print(f"{bars.num_rows:,} minutes of {len(names):,} symbols, {len(days)} sessions")
    _fill(store, bars, days)
    of = {
        "the symbol with the most minutes": names[int(np.argmax(counts))].as_py(),
        "one with half as many": names[int(np.argsort(counts)[len(counts) // 2])].as_py(),
    }
    _ask("folder", store, of, days, given.rounds)
    if not given.local_only:
        with tempfile.TemporaryDirectory() as folder, seaweedfs(Path(folder)) as server:
            os.environ.update(server.environ(), NO_PROXY="127.0.0.1")
            there = open_store(f"s3://{BUCKET}/lake")
            for day in days:
                key = layout.session_key(day, layout.MINUTE)
                there.put(key, store.get(key))
            _ask("SeaweedFS", there, of, days, given.rounds)
    print(f"peak {peak():,.0f} MiB")


def minutes_of(symbols: int) -> pa.Table:
    """A session of regular hours as the embedded exchange has it."""
    market = SyntheticMarket(active=symbols, inactive=0)
    sessions = list(market.sessions)
    at, made = sessions.index(MADE), Minutes(sessions)
    first, stop = at * DAY + OPEN, at * DAY + int(made.closes[at])
    names = sorted({str(asset["symbol"]) for asset in market.assets(MADE)})
    parts = []
    for begin in range(0, len(names), _SYMBOLS):
        daily = market.bars(names[begin : begin + _SYMBOLS], at, at + 1)
        if not len(daily):
            continue
        rows = made.of(daily, first, stop).bars
        codes = pa.array(rows.symbol.astype(np.int32))
        parts.append(
            [
                pa.DictionaryArray.from_arrays(codes, pa.array(list(rows.symbols))).cast("string"),
                np.full(len(rows), (MADE - _EPOCH).days, np.int32),
                _number(MADE) + (rows.session - first) * 60_000_000,
                *(getattr(rows, name) / 1e6 for name in ("open", "high", "low", "close", "vwap")),
                rows.volume,
                rows.trade_count,
            ]
        )
    tables = [_table(part) for part in parts]
    return pa.concat_tables(tables).combine_chunks()


def _table(columns: Sequence[object]) -> pa.Table:
    made = [
        pa.array(column).cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(made, schema=SCHEMA)


def _number(day: date) -> int:
    """When a session opens, in microseconds since 1970."""
    return int(market_calendar.session_open(day).timestamp()) * 1_000_000


def _fill(store: Store, bars: pa.Table, days: Sequence[date]) -> None:
    there = set(layout.MINUTE.days(store.list(layout.MINUTE.sessions)))
    sizes, cpu = [], []
    for day in days:
        key = layout.session_key(day, layout.MINUTE)
        if day not in there:
            encoding = timed(lambda day=day: _encoded(bars, day))
            store.put(key, encoding.result)
            cpu.append(encoding.cpu)
        sizes.append(store.size(key))
    print(f"{statistics.mean(sizes) / bars.num_rows:.2f} bytes a bar")
    if cpu:
        print(f"{statistics.median(cpu):.2f} CPU s to move and encode a session")


def _encoded(bars: pa.Table, day: date) -> bytes:
    """The minutes as those of another session."""
    times = bars["timestamp"].cast(pa.int64()).to_numpy() + (_number(day) - _number(MADE))
    columns = [*bars.columns]
    columns[1] = pa.array(np.full(bars.num_rows, (day - _EPOCH).days, np.int32))
    columns[2] = pa.array(times)
    moved = pa.Table.from_arrays(
        [column.cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)],
        schema=SCHEMA,
    )
    present = tuple(runs(bars["symbol"])[0].to_pylist())
    at = datetime(2026, 7, 1, 22, tzinfo=UTC)
    provenance = Provenance(at, "a benchmark", day, "benchmark", "0")
    return session_file.encode(Session(moved, Ledger(day, present), provenance), [], MINUTE)


def _ask(
    where: str, store: Store, symbols: dict[str, str], days: Sequence[date], rounds: int
) -> None:
    lake, last = Lake(store), days[-1]
    questions: dict[str, Callable[[], int]] = {
        f"{what}, {len(days)} sessions": lambda name=name: (
            lake.minutes(name, days[0], last).num_rows
        )
        for what, name in symbols.items()
    }
    questions |= {
        "all symbols, one session": lambda: lake.minutes(None, last, last).num_rows,
        "the same, every 5min": lambda: lake.minutes(None, last, last, every="5min").num_rows,
        "the same, a bar each": lambda: lake.minutes(None, last, last, every="session").num_rows,
    }
    for question, taken in in_turns(questions, rounds).items():
        print(
            f"{where:10} {question:48} {taken[-1].result:>9,} bars "
            f"{median_wall(taken):6.2f} s {median_cpu(taken):6.2f} CPU s"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=252)
    parser.add_argument("--symbols", type=int, default=11_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lake", type=Path, default=Path(".datalake/minutes"))
    parser.add_argument("--local-only", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
