"""A session's minute bars, added up for each symbol.

Belongs here: what can be told of a symbol's minutes by themselves. Does not belong here: holding
them against something else (`against_daily`), and judging the session (`minute_audit`).

A session has three million minute bars of 11,000 symbols. They lie one symbol after the other, so
the sums are made over stretches of the columns, without a look at a name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets import market_calendar
from datalake_assets.collection.bars import NO_COUNT, Floats, Ints
from datalake_assets.collection.symbols import Symbols

Hours = tuple[datetime, datetime]
"""When the first minute of a session starts, and when the last one is over, UTC."""

MINUTE = 60_000_000
"""Microseconds."""

Offsets = npt.NDArray[np.int32]

_WHEN = ("symbol", "timestamp")


def regular_hours(hours: Hours) -> Hours:
    """The regular hours of the session that these hours belong to.

    Raises:
        ValueError: They begin on a day that is no session.
    """
    day = market_calendar.today(hours[0])
    return market_calendar.session_open(day), market_calendar.session_close(day)


def microseconds(instant: datetime) -> int:
    """An instant as the column `timestamp` has it: microseconds since 1970, UTC."""
    return round(instant.astimezone(UTC).timestamp()) * 1_000_000


@dataclass(frozen=True, eq=False)
class Stretches:
    """Bars in the order of symbol and time, and where each symbol's begin.

    Args:
        bars: The bars.
        symbols: Their symbols, each once.
        starts: For each symbol the row of its first bar.
        times: For each bar when it starts, in microseconds since 1970, UTC.
        offsets: For each bar, how many whole minutes after the open of the regular hours it starts.
        length: Minutes of the regular hours.
    """

    bars: pa.Table
    symbols: pa.Array
    starts: Ints
    times: Ints
    offsets: Offsets
    length: int

    @classmethod
    def of(cls, bars: pa.Table, hours: Hours) -> Self:
        """Find them.

        Args:
            bars: At least the columns `symbol` and `timestamp`. By symbol and time, as they lie in
                the lake; others are sorted first.
            hours: From when to when the session's minutes start.
        """
        opens, closes = map(microseconds, regular_hours(hours))
        symbols, starts = _runs(bars["symbol"])
        times = _times(bars)
        if not _ascending(symbols, starts, times):
            bars = bars.sort_by([("symbol", "ascending"), ("timestamp", "ascending")])
            symbols, starts = _runs(bars["symbol"])
            times = _times(bars)
        offsets = np.floor_divide(times - opens, MINUTE).astype(np.int32)
        return cls(bars, symbols, starts, times, offsets, (closes - opens) // MINUTE)

    @cached_property
    def counts(self) -> Ints:
        """How many bars each symbol has."""
        return np.diff(self.starts, append=self.bars.num_rows)

    @cached_property
    def regular(self) -> npt.NDArray[np.bool_]:
        """For each bar: does it start within the regular hours?"""
        regular: npt.NDArray[np.bool_] = (self.offsets >= 0) & (self.offsets < self.length)
        return regular

    def column(self, name: str) -> npt.NDArray[Any]:
        """The values of a column."""
        values: npt.NDArray[Any] = self.bars[name].to_numpy()
        return values


@dataclass(frozen=True, slots=True, eq=False)
class MinuteTotals:
    """For each symbol what its minutes add up to.

    Volume and trades are those of all its bars, prices and minutes those of the regular hours: the
    daily bar's prices are, too, while its volume counts the trades of the whole day.

    Args:
        symbols: The symbols, ascending, each once.
        bars: How many bars each one has.
        minutes: How many of them start within the regular hours.
        gap: The longest stretch of the regular hours without a bar, in minutes.
        volume: Shares.
        trades: Number of trades; `NO_COUNT` if a bar of the symbol has none.
        high, low, close: Of the regular hours, US dollars; NaN without a bar in them.
        length: Minutes of the regular hours.
        extended: Whether the minutes are of more than the regular hours.
    """

    symbols: pa.Array
    bars: Ints
    minutes: Ints
    gap: Ints
    volume: Ints
    trades: Ints
    high: Floats
    low: Floats
    close: Floats
    length: int
    extended: bool

    @classmethod
    def of(cls, found: Stretches, hours: Hours) -> Self:
        """Add them up.

        Args:
            found: The bars, in `bars.SCHEMA`.
            hours: From when to when they start.
        """
        size = len(found.symbols)
        trades = _added(_counted(found.bars["trade_count"]), found.starts, size)
        rows = slice(None) if found.regular.all() else found.regular
        offsets = found.offsets[rows]
        whose = np.repeat(np.arange(size), found.counts)[rows]
        minutes = np.bincount(whose, minlength=size)
        traded = np.flatnonzero(minutes)  # symbols with a bar in the regular hours
        first = np.cumsum(minutes)[traded] - minutes[traded]
        last = first + minutes[traded] - 1

        def per_symbol(reduced: npt.NDArray[np.float64]) -> Floats:
            values = np.full(size, np.nan)
            values[traded] = reduced
            return values

        gap = np.full(size, found.length, np.int64)
        if len(traded):
            between = np.diff(offsets, prepend=0) - 1
            between[first] = offsets[first]
            longest = np.maximum.reduceat(between, first)
            gap[traded] = np.maximum(longest, found.length - 1 - offsets[last])
        high, low, close = (found.column(name)[rows] for name in ("high", "low", "close"))
        return cls(
            symbols=found.symbols,
            bars=found.counts,
            minutes=minutes,
            gap=gap,
            volume=_added(found.column("volume"), found.starts, size),
            trades=np.where(trades < 0, NO_COUNT, trades),
            high=per_symbol(_reduced(np.maximum.reduceat, high, first)),
            low=per_symbol(_reduced(np.minimum.reduceat, low, first)),
            close=per_symbol(close[last]),
            length=found.length,
            extended=hours != regular_hours(hours),
        )


@dataclass(frozen=True, slots=True, eq=False)
class MinuteCounts:
    """How many minutes of the regular hours each symbol had in a session.

    Args:
        symbols: The symbols that had any bar.
        minutes: Of each, the number of its minutes.
        length: Minutes of the regular hours: 390, on most half days 210.
    """

    symbols: Symbols
    minutes: npt.NDArray[np.int32]
    length: int

    @classmethod
    def of(cls, bars: pa.Table, hours: Hours) -> Self:
        """Count them.

        Args:
            bars: The session's minute bars; the columns `symbol` and `timestamp` are enough.
            hours: From when to when they start.
        """
        found = Stretches.of(bars.select(_WHEN), hours)
        size = len(found.symbols)
        minutes = _added(found.regular.astype(np.int32), found.starts, size)
        return cls(Symbols(found.symbols.to_pylist()), minutes.astype(np.int32), found.length)

    @classmethod
    def of_rows(cls, rows: Mapping[str, int], length: int) -> Self:
        """Those of a session of which it is known how many bars each symbol has.

        Where bars of extended hours are among them, at most all minutes of the regular hours count.

        Args:
            rows: The bars of each symbol.
            length: Minutes of the regular hours.
        """
        symbols = Symbols(rows)
        minutes = np.fromiter((rows[name] for name in symbols.names), np.int32, len(rows))
        return cls(symbols, np.minimum(minutes, np.int32(length)), length)

    def shares(self, symbols: pa.Array) -> Floats:
        """For each of these symbols the share of the regular minutes in which it had a bar."""
        at = pc.fill_null(pc.index_in(symbols, self.symbols.column), -1).to_numpy()
        if not len(self.symbols):
            return np.zeros(len(symbols))
        return np.where(at < 0, 0.0, self.minutes[at] / self.length)


def _runs(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """The values of a column that follow each other, and where each begins."""
    encoded = pc.run_end_encode(_whole(column), run_end_type=pa.int64())
    ends = encoded.run_ends.to_numpy()
    return encoded.values, np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1]])


def _whole(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _times(bars: pa.Table) -> Ints:
    times: Ints = _whole(bars["timestamp"]).view(pa.int64()).to_numpy()
    return times


def _ascending(symbols: pa.Array, starts: Ints, times: Ints) -> bool:
    """Do the bars lie by symbol and time? A minute twice is in order."""
    if len(symbols) > 1 and not pc.all(pc.less(symbols[:-1], symbols[1:])).as_py():
        return False
    falls = np.diff(times, prepend=times[:1]) < 0
    falls[starts] = False
    return not falls.any()


def _counted(column: pa.ChunkedArray) -> Ints:
    """Trade counts; a missing one makes the sum of its symbol negative."""
    if not column.null_count:
        counts: Ints = column.to_numpy()
        return counts
    return np.asarray(pc.fill_null(column, -(2**50)).to_numpy(), dtype=np.int64)


def _added(values: npt.NDArray[Any], starts: Ints, size: int) -> Ints:
    if not size:
        return np.zeros(0, np.int64)
    return np.asarray(np.add.reduceat(values, starts), dtype=np.int64)


def _reduced(reduce: Callable[..., Floats], values: Floats, first: Ints) -> Floats:
    return reduce(values, first) if len(first) else np.zeros(0)
