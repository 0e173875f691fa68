"""What the audit of a session of minute bars costs: against the daily bars, and all rules.

A session of random bars: a third of the symbols trade in every minute, the others in some. The CPU
is that of the process, the least of several rounds. Nothing is asked for and nothing is written.

    python -m benchmarks.minute_audit [--symbols 11000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from datetime import date
from typing import TypeVar

import numpy as np
import pyarrow as pa

from datalake_assets import market_calendar
from datalake_assets.collection.against_daily import compare
from datalake_assets.collection.audit import Case, impossible_prices
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.minute_audit import MINUTE_RULES
from datalake_assets.collection.minute_totals import MinuteCounts, MinuteTotals, Stretches
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.symbols import Subset

T = TypeVar("T")

DAY = date(2025, 1, 2)
HOURS = market_calendar.session_open(DAY), market_calendar.session_close(DAY)
LENGTH = 390


def main() -> None:
    """Measure each part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--symbols", type=int, default=11_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    bars, daily = _session(given.symbols)
    symbols = tuple(daily["symbol"].to_pylist())
    print(f"{bars.num_rows:,} bars of {given.symbols:,} symbols")

    def measured(part: str, work: Callable[[], T]) -> T:
        took, result = [], work()
        for _ in range(given.rounds):
            began = time.process_time()
            result = work()
            took.append(time.process_time() - began)
        print(f"{part:44} {min(took):6.3f} CPU s {min(took) / bars.num_rows * 1e9:6.1f} ns a bar")
        return result

    found = measured("find each symbol's bars", lambda: Stretches.of(bars, HOURS))
    measured("add them up", lambda: MinuteTotals.of(found, HOURS))
    told = measured(
        "the comparison with daily bars, from the bars", lambda: compare(bars, daily, HOURS)
    )
    measured("valid prices", lambda: impossible_prices(bars))
    counts = measured("minutes of a session before", lambda: MinuteCounts.of(bars, HOURS))
    ledger = Ledger(DAY, present=symbols)
    before = [Subset(ledger.states.symbols, ledger.states.bits())] * 5
    case = Case(bars, ledger, before, hours=HOURS, daily=daily, minutes_before=[counts] * 5)
    findings = measured("the whole audit", lambda: MINUTE_RULES.judge(case))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak {peak:,.0f} MiB, {bars.nbytes / 2**20:,.0f} of it bars; {told}")
    for finding in findings:
        print(f"{finding.verdict:5} {finding.rule:19} {finding.detail}")


def _session(size: int) -> tuple[pa.Table, pa.Table]:
    """Minutes by symbol and time, and the daily bars that they add up to."""
    draw = np.random.default_rng(7)
    counts = np.where(draw.random(size) < 0.35, LENGTH, draw.integers(1, 2 * LENGTH, size) * 0.55)
    counts = np.clip(counts.astype(np.int64), 1, LENGTH)
    starts = np.cumsum(counts) - counts
    rows = int(counts.sum())
    whose = np.repeat(np.arange(size), counts)
    # As many different minutes as there are bars, from a place of its own for each symbol.
    steps = (np.arange(rows) - starts[whose]) * LENGTH // counts[whose]
    opens = round(HOURS[0].timestamp()) * 1_000_000
    price = np.round(draw.uniform(5, 500, size)[whose] * draw.uniform(0.99, 1.01, rows), 2)
    trades = draw.integers(1, 60, rows)
    volume = trades * draw.integers(80, 200, rows)
    names = pa.array([f"S{number:05}" for number in range(size)])
    columns = {
        "symbol": names.take(pa.array(whose)),
        "session": pa.repeat(pa.scalar(DAY, pa.date32()), rows),
        "timestamp": pa.array(opens + steps * 60_000_000, SCHEMA.field("timestamp").type),
        "open": price,
        "high": price + 0.03,
        "low": price - 0.03,
        "close": price + 0.01,
        "vwap": price,
        "volume": volume,
        "trade_count": trades,
    }
    bars = pa.table(columns, SCHEMA)
    last = starts + counts - 1
    stamp = pa.scalar(market_calendar.session_stamp(DAY), SCHEMA.field("timestamp").type)
    daily = {
        "symbol": names,
        "session": pa.repeat(pa.scalar(DAY, pa.date32()), size),
        "timestamp": pa.repeat(stamp, size),
        "open": price[starts],
        "high": np.maximum.reduceat(price + 0.03, starts),
        "low": np.minimum.reduceat(price - 0.03, starts),
        "close": price[last] + 0.01,
        "vwap": price[starts],
        "volume": (np.add.reduceat(volume, starts) / draw.uniform(0.96, 1.0, size)).astype(
            np.int64
        ),
        "trade_count": np.add.reduceat(trades, starts),
    }
    return bars, pa.table(daily, SCHEMA)


if __name__ == "__main__":
    main()
