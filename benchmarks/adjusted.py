"""Adjusted reads: what following securities and multiplying by factors cost beside a raw read.

Over the lake of random walks of `benchmarks.symbol_years` (made when it is not there), with tables
of securities and factors: two fifths of the symbols pay a dividend each quarter, every symbol
splits once in seven years, one in fifty spins something off. One symbol over all years, and 500
symbols over the last five, as bars and as a panel. Raw means by ticker alone (`follow=False`).
The ways take turns, warm, and the median counts, of the wall's clock and of the process's CPU.

    python -m benchmarks.adjusted [--years 15] [--symbols 5000] [--listed 11000] [--panel 500]
        [--rounds 15] [--lake .datalake/benchmark]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measuring import in_turns, median_cpu, median_wall, timed
from benchmarks.symbol_years import LAST_YEAR, make_lake, name_of
from datalake_assets import Lake, market_calendar
from datalake_assets.securities.tables import CUMULATIVE, FACTORS, SECURITIES
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store

FAR = date(9999, 12, 31)


def main() -> None:
    """Measure."""
    given = _arguments()
    years = range(LAST_YEAR - given.years + 1, LAST_YEAR + 1)
    make_lake(given.lake, years, given.symbols)
    store = open_store(str(given.lake))
    write_tables(store, years, given.listed)
    lake = Lake.open(given.lake)
    one = name_of(given.symbols // 2)
    panel = [name_of(number * (given.symbols // given.panel)) for number in range(given.panel)]
    first, last = date(years[-5:][0], 1, 1), date(LAST_YEAR, 12, 31)
    tables = timed(lambda: lake.bars(one, last, last, adjustment="all"))
    print(f"reading the tables, once: {tables.wall * 1000:.0f} ms")
    questions: dict[str, dict[str, Callable[[], pa.Table]]] = {
        f"{one}, {given.years} years": {
            "raw, by ticker": lambda: lake.bars(one, follow=False),
            "raw, by security": lambda: lake.bars(one),
            "adjusted": lambda: lake.bars(one, adjustment="all"),
            "total returns": lambda: lake.returns(one),
        },
        f"{given.panel} symbols, {last.year - first.year + 1} years": {
            "raw, by ticker": lambda: lake.bars(panel, first, last, follow=False),
            "raw, by security": lambda: lake.bars(panel, first, last),
            "adjusted": lambda: lake.bars(panel, first, last, adjustment="all"),
            "adjusted panel": lambda: lake.panel("close", panel, first, last, adjustment="all"),
        },
    }
    for question, ways in questions.items():
        _compare(question, ways, given.rounds)


def _compare(question: str, ways: dict[str, Callable[[], pa.Table]], rounds: int) -> None:
    taken = in_turns({name: partial(_rows, read) for name, read in ways.items()}, rounds)
    rows = max(runs[-1].result for runs in taken.values())
    print(f"{question}: {rows:,} bars")
    for name in ways:
        told = []
        for median in (median_wall, median_cpu):
            found, raw = median(taken[name]), median(taken["raw, by ticker"])
            told.append(f"{found * 1000:>9.1f} ms {found / raw:>6.2f} × raw")
        print(f"    {name:<18}{told[0]}, of CPU {told[1]}")


def _rows(read: Callable[[], pa.Table]) -> int:
    return int(read().num_rows)


def write_tables(store: Store, years: range, symbols: int) -> None:
    """Write tables for these symbols, as `datalake_assets.securities` would derive them."""
    draw = np.random.default_rng(1)
    days = np.array(market_calendar.sessions(date(years[0], 1, 1), date(years[-1], 12, 31)))
    names = [name_of(number) for number in range(symbols)]
    quarterly = np.arange(20, len(days), 63)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in CUMULATIVE.names}
    for number, name in enumerate(names):
        dividends = quarterly + number % 20 if number % 5 < 2 else quarterly[:0]
        splits = draw.integers(1, len(days), draw.poisson(len(days) / 252 / 7))
        spun_off = draw.integers(1, len(days), draw.poisson(1 / 50))
        cuts = np.unique(np.concatenate([dividends, splits, spun_off]))
        cuts = cuts[cuts < len(days)]
        firsts = np.concatenate([[0], cuts])
        count = len(firsts)

        def later(events: np.ndarray, factor: float, firsts: np.ndarray = firsts) -> np.ndarray:
            return factor ** (events[None, :] > firsts[:, None]).sum(axis=1)

        dividend = later(dividends, 0.994)
        split, spin_off = later(splits, 0.5), later(spun_off, 0.93)
        columns["security"].append(np.full(count, f"{name}-{days[0]}"))
        columns["symbol"].append(np.full(count, name))
        columns["first_session"].append(days[firsts])
        columns["last_session"].append(np.append(days[cuts - 1], FAR))
        for column, values in (
            ("split", split),
            ("spin_off", spin_off),
            ("dividend", dividend),
            ("total_return", split * spin_off * dividend),
            ("volume", 1 / split),
        ):
            columns[column].append(values)
    spans = pa.table(
        {name: pa.array(np.concatenate(parts).tolist()) for name, parts in columns.items()}
    ).cast(CUMULATIVE)
    securities = [
        {
            "security": f"{name}-{days[0]}",
            "symbol": name,
            "first_session": days[0],
            "last_session": days[-1],
            "evidence": "random walks",
        }
        for name in names
    ]
    by = [("symbol", "ascending"), ("first_session", "ascending")]
    for key, rows in (
        (layout.SECURITIES_TABLE, pa.Table.from_pylist(securities, SECURITIES).sort_by("symbol")),
        (layout.FACTORS_TABLE, FACTORS.empty_table()),
        (layout.CUMULATIVE_TABLE, spans.sort_by(by)),
    ):
        buffer = pa.BufferOutputStream()
        pq.write_table(rows, buffer, compression="zstd")
        store.put(key, bytes(buffer.getvalue()))
    print(f"{spans.num_rows:,} spans of {symbols:,} symbols")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--years", type=int, default=15)
    parser.add_argument("--symbols", type=int, default=5_000)
    parser.add_argument("--listed", type=int, default=11_000, help="symbols in the tables")
    parser.add_argument("--panel", type=int, default=500, help="symbols of the panel")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--lake", type=Path, default=Path(".datalake/benchmark"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
