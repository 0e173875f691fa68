"""The table of bars: its columns, its order, and one row for each bar.

Belongs here: the Arrow schema that sources fill and the lake stores, and putting pages together.
Does not belong here: how a page is decoded (`sources`) or encoded as Parquet (`lake`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

PRICES = ("open", "high", "low", "close")

SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("session", pa.date32(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("open", pa.float64(), nullable=False),
        pa.field("high", pa.float64(), nullable=False),
        pa.field("low", pa.float64(), nullable=False),
        pa.field("close", pa.float64(), nullable=False),
        pa.field("vwap", pa.float64()),
        pa.field("volume", pa.int64(), nullable=False),
        pa.field("trade_count", pa.int64()),
    ]
)
"""Raw prices in US dollars, volume in shares. `timestamp` is the bar's start as the source gives
it, New York midnight for a daily bar; `session` is the trading day that it belongs to. `vwap` and
`trade_count` are null where the source has none: they are statistics beside the bar, and not all
sources keep them; prices and volume are the bar."""

A_SESSION = ("session", "symbol")
"""What tells one daily bar from another, in the order of the lake."""

A_TIME = (*A_SESSION, "timestamp")
"""What tells one bar from another where a symbol has several in a session."""

NO_COUNT = -1  # of trades: what stands in `Columns` for the table's null

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Columns(NamedTuple):
    """The bars of a page, of any timeframe, as arrays that share one block of memory.

    Args:
        symbols: Their names, each once, in the order in which they came.
        counts: Bars of each symbol. They stand one symbol after the other.
        instant: Start of each bar, in microseconds since 1970, UTC.
        open, high, low, close: Prices in US dollars.
        vwap: NaN where the source has none.
        volume: Shares.
        trade_count: `NO_COUNT` where the source has none.
    """

    symbols: Sequence[str]
    counts: Ints
    instant: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    vwap: Floats
    volume: Ints
    trade_count: Ints


COLUMN_DESCRIPTIONS = {
    "symbol": "Ticker that it traded under in this session (class shares are dotted: BRK.B)",
    "session": "Trading day of the XNYS calendar",
    "timestamp": "Start of the bar: midnight in New York, as an instant in UTC",
    "open": "First price, US dollars, unadjusted",
    "high": "Highest price, US dollars, unadjusted",
    "low": "Lowest price, US dollars, unadjusted",
    "close": "Last price, US dollars, unadjusted",
    "vwap": "Volume-weighted average price, US dollars, unadjusted; null if the source has none",
    "volume": "Shares traded",
    "trade_count": "Number of trades; null if the source has none",
}


def empty() -> pa.Table:
    """A table of bars without rows."""
    return SCHEMA.empty_table()


def price_text(price: float) -> str:
    """A price for people: cents from a dollar on, below it at least four decimals.

    What costs less than a cent shows three digits that count: 0.0000123.
    """
    if not math.isfinite(price) or not price or abs(price) >= 1:
        return f"{price:,.2f}"
    decimals = max(4, 2 - math.floor(math.log10(abs(price))))
    text = f"{price:.{decimals}f}"
    kept = text[: text.index(".") + 5]
    return kept + text[len(kept) :].rstrip("0")


def combine(
    tables: Iterable[pa.Table], key: Sequence[str] = A_SESSION
) -> tuple[pa.Table, list[tuple[str, date]]]:
    """Put pages together, in the order of their key, each bar once.

    Pages may repeat a bar (facts of the wire: a token can resume on a bar already served). The
    same bar twice is one bar. Two different bars with one key contradict each other: neither is
    kept.

    Args:
        tables: The pages.
        key: What tells one bar from another: `A_SESSION` or `A_TIME`.

    Returns:
        The bars, and the (symbol, session) pairs of which bars contradicted each other.
    """
    order = [(name, "ascending") for name in key]
    table = pa.concat_tables([empty(), *tables]).combine_chunks().sort_by(order)
    if not _repeats(table, key).any():
        return table, []
    table = table.group_by(SCHEMA.names, use_threads=False).aggregate([])
    table = table.cast(SCHEMA).sort_by(order)
    later = _repeats(table, key)
    contradicting = later | np.append(later[1:], False)
    clash = table.filter(pa.array(contradicting)).select(["symbol", "session"]).to_pylist()
    pairs = sorted({(row["symbol"], row["session"]) for row in clash})
    return table.filter(pa.array(~contradicting)).combine_chunks(), pairs


def _repeats(table: pa.Table, key: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """For each row of a sorted table: has it the key of the row before?"""
    same = np.ones(max(0, table.num_rows - 1), dtype=bool)
    for name in key:
        column = table[name]
        same &= pc.equal(column.slice(1), column.slice(0, len(column) - 1)).to_numpy()
    return np.concatenate([np.zeros(min(1, table.num_rows), dtype=bool), same])


def by_session(table: pa.Table) -> Iterator[tuple[date, pa.Table]]:
    """Split a combined table into one table per session that has bars, without copying."""
    if not table.num_rows:
        return
    days = table["session"].to_numpy()
    starts = np.flatnonzero(np.append(True, days[1:] != days[:-1])).tolist()
    for start, end in zip(starts, [*starts[1:], len(days)], strict=True):
        part = table.slice(start, end - start)
        yield part["session"][0].as_py(), part
