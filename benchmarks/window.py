"""What a window costs between its pages and its files: each stage alone, in one thread.

Pages of random bars for symbols × 63 sessions, packed as a plan packs them, are put through the
stages that a backfill has after decoding. The CPU is the thread's, the least of several rounds.
Nothing is asked for and nothing is written.

    python -m benchmarks.window [--symbols 5000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import TypeVar

import numpy as np
import pyarrow as pa

from datalake_assets import market_calendar
from datalake_assets.collection.audit import LOOKBACK, audit
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.dataset import DAILY
from datalake_assets.collection.plan import plan
from datalake_assets.collection.report import Ledger, State, States
from datalake_assets.collection.symbols import Subset, Symbols
from datalake_assets.collection.window import Block, Grid, Rows, joined, ordered
from datalake_assets.lake.fingerprint import fingerprint, symbol_hashes
from datalake_assets.lake.session_file import Provenance, Session, encode

T = TypeVar("T")

DAYS = market_calendar.sessions(date(2025, 1, 2), date(2025, 5, 1))[: DAILY.window]
TRADING = 0.985
"""Share of the bars that are there."""


def main() -> None:
    """Measure each stage, in its order."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--symbols", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    names = [f"S{number:05}" for number in range(given.symbols)]
    grid = Grid(Symbols(names), DAYS)
    pages = [(chunk.symbols, _page(chunk.symbols)) for chunk in plan(names, DAYS).chunks]
    bars = sum(page.num_rows for _, page in pages)

    def measured(stage: str, work: Callable[[], T]) -> T:
        took, result = [], work()
        for _ in range(given.rounds):
            began = time.thread_time()
            result = work()
            took.append(time.thread_time() - began)
        a_bar, a_session = min(took) / bars * 1e6, min(took) / DAILY.window * 1e3
        print(f"{stage:34} {a_bar:6.3f} µs a bar {a_session:6.2f} ms a session")
        return result

    def placed() -> list[Rows]:
        return [Rows(p, Block(grid, s, DAYS).cells(p)[0]).asked_for() for s, p in pages]

    rows = measured("what was asked for", placed)
    window, _ = measured("order, one row for a symbol", lambda: ordered(grid, joined(rows)))
    parts = measured("split by session", lambda: list(window.by_session()))
    codes = np.where(window.present, States.code(State.PRESENT), States.code(State.NO_PRINT))
    states = [States(grid.symbols, row) for row in codes.astype(np.uint8)]
    ledgers = measured(
        "ledgers", lambda: [Ledger.of(day, states[row], {}) for row, day in enumerate(DAYS)]
    )
    printed = [Subset(grid.symbols, each.bits(State.PRESENT)) for each in states[:LOOKBACK]]
    told = list(zip(parts, ledgers, strict=True))
    findings = measured("audit", lambda: [audit(b, ledger, printed) for b, ledger in told])
    hashes = symbol_hashes(grid.symbols)
    measured(
        "digest, of a session's file",
        lambda: [fingerprint(b, hashes[ledger.states.are(State.PRESENT)]) for b, ledger in told],
    )
    origin = Provenance(datetime.now(UTC), "benchmark", DAYS[-1], "benchmark", "0")
    measured(
        "a session's file, digest included",
        lambda: [encode(Session(b, ledger, origin), findings[0]) for b, ledger in told],
    )


def _page(symbols: Sequence[str]) -> pa.Table:
    """A page as a source brings it: by symbol, then by session."""
    draw = np.random.default_rng(len(symbols[0]) + int(symbols[0][1:]))
    rows = len(symbols) * len(DAYS)
    opened = np.round(draw.uniform(5, 500, rows), 2)
    close = np.round(opened * draw.uniform(0.98, 1.02, rows), 2)
    stamps = [market_calendar.session_stamp(day) for day in DAYS]
    columns = {
        "symbol": np.repeat(np.array(symbols, object), len(DAYS)),
        "session": pa.array(DAYS * len(symbols), pa.date32()),
        "timestamp": pa.array(stamps * len(symbols), SCHEMA.field("timestamp").type),
        "open": opened,
        "high": np.maximum(opened, close) + 0.5,
        "low": np.minimum(opened, close) - 0.5,
        "close": close,
        "vwap": np.round((opened + close) / 2, 4),
        "volume": draw.integers(100, 10**7, rows),
        "trade_count": draw.integers(1, 10**4, rows),
    }
    table = pa.table(columns, SCHEMA)
    return table.filter(pa.array(draw.random(rows) < TRADING)).combine_chunks()


if __name__ == "__main__":
    main()
