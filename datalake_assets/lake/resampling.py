"""Resampling: bars of one minute put together to bars of several, or of a session.

Belongs here: which minutes belong together, and what becomes of their values. Does not belong here:
which minutes (`minutes`), and adjusting (`securities.adjusting`).

Bars are counted from the session's open, and none goes over the open or the close. So the last bar
of regular hours is a short one when they are no multiple of its length. Bars before the open are
counted back from it, and bars after the close on from that. Where nothing traded there is no bar,
as in a halt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datalake_assets import market_calendar

SESSION = "session"

_LENGTH = re.compile(r"([1-9][0-9]{0,3}) ?(min|m|h)")
_MINUTE = 60_000_000  # microseconds
_LONGEST = 24 * 60
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_Ints = npt.NDArray[np.int64]

_KEY = ("symbol", "session", "timestamp")


def minutes_of(every: str | timedelta) -> int | None:
    """The length of a bar in minutes; None for a session.

    Args:
        every: "session", a number of minutes or hours ("5min", "5m", "1h"), or a timedelta.

    Raises:
        ValueError: It is none of these, or longer than a day.
    """
    if every == SESSION:
        return None
    minutes: float = 0
    if isinstance(every, timedelta):
        minutes = every / timedelta(minutes=1)
    elif found := _LENGTH.fullmatch(str(every).strip().lower()):
        minutes = int(found[1]) * (60 if found[2] == "h" else 1)
    if not 1 <= minutes <= _LONGEST or minutes != int(minutes):
        raise ValueError(
            f"every={every!r} is no length of a bar: give whole minutes or hours, such as "
            "'5min' or '1h', of a day at most, or 'session'"
        )
    return int(minutes)


def resample(minutes: pa.Table, every: str | timedelta) -> pa.Table:
    """Minute bars put together to bars of N minutes, or of sessions.

    Example:
        >>> five = resample(lake.minutes("AAPL", "2024-07-03"), "5min")
        >>> resample(five, "session")  # the same as of the minutes, but for the rounding of vwap

    Bars are counted from the session's open, on half days too. None goes over the open or the
    close: of one hour the last bar of regular hours has 30 minutes. Where nothing traded there is
    no bar.

    Args:
        minutes: A table with `symbol`, `session` and `timestamp`, and some of the other columns of
            bars, as `Lake.minutes` gives it: each symbol's rows of a session one after the other,
            ascending by `timestamp`. To have `vwap`, `volume` must be there.
        every: "session", a number of minutes or hours ("5min", "5m", "1h"), or a timedelta.

    Returns:
        The same columns. `timestamp` is the start of the bar; of a session it is midnight in New
        York, as daily bars have it. `open` is the first one, `high` the highest, `low` the lowest,
        `close` the last; `volume` and `trade_count` are sums, `vwap` is weighted by volume. Where
        one of the minutes has no `trade_count`, the sum has none; so with `vwap`, but that minutes
        without volume don't count.

    Raises:
        ValueError: `every` is no length of a bar; a column is missing; the rows are not in order;
            or a session is none of the exchange.
    """
    length = minutes_of(every)
    names = minutes.column_names
    missing = [name for name in _KEY if name not in names]
    if "vwap" in names and "volume" not in names:
        missing.append("volume")
    if missing:
        raise ValueError(f"the minutes have no column {missing[0]!r}, which resampling needs")
    minutes = minutes.combine_chunks()
    if not minutes.num_rows:
        return minutes
    days = minutes["session"].cast(pa.int32()).to_numpy()
    times = minutes["timestamp"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    whose = _changes(_codes(minutes["symbol"])) | _changes(days)
    if "security" in names:  # two securities may have had a ticker, and rows beside each other
        whose |= _changes(_codes(minutes["security"]))
    if (~whose[1:] & (times[1:] < times[:-1])).any():
        raise ValueError("the minutes are not in order: sort them by symbol, session and timestamp")
    begins = _begins(days, times, length)
    starts = np.flatnonzero(whose | _changes(begins))
    return _put_together(minutes, starts, begins[starts])


def _begins(days: npt.NDArray[np.int32], times: _Ints, length: int | None) -> _Ints:
    """When the bar of each minute begins, in microseconds since 1970, UTC."""
    distinct, places = np.unique(days, return_inverse=True)
    dates = [date(1970, 1, 1) + timedelta(days=day) for day in distinct.tolist()]
    if length is None:
        return _instants(map(market_calendar.session_stamp, dates))[places]
    step = length * _MINUTE
    opens = _instants(map(market_calendar.session_open, dates))[places]
    closes = _instants(map(market_calendar.session_close, dates))[places]
    since = np.where(times < closes, opens, closes)
    begins: _Ints = since + (times - since) // step * step
    return begins


def _instants(instants: Iterable[datetime]) -> _Ints:
    micro = timedelta(microseconds=1)
    return np.array([(each - _EPOCH) // micro for each in instants], np.int64)


def _put_together(minutes: pa.Table, starts: _Ints, begins: _Ints) -> pa.Table:
    """The bars of which each begins at one of these rows."""
    counts = np.diff(starts, append=minutes.num_rows)
    firsts, lasts = pa.array(starts), pa.array(starts + counts - 1)
    columns = []
    for field in minutes.schema:
        column = minutes[field.name]
        if field.name == "timestamp":
            made = pa.array(begins).cast(pa.timestamp("us", "UTC")).cast(field.type)
        elif field.name in ("high", "low"):
            most = np.maximum if field.name == "high" else np.minimum
            made = pa.array(most.reduceat(column.to_numpy(), starts))
        elif field.name == "close":
            made = column.take(lasts)
        elif field.name in ("volume", "trade_count"):
            made = _sums(column, starts)
        elif field.name == "vwap":
            made = _vwap(column, minutes["volume"], starts, counts)
        else:  # open; symbol, session and security, which all rows of a bar have
            made = column.take(firsts)
        columns.append(made)
    return pa.Table.from_arrays(columns, schema=minutes.schema)


def _sums(column: pa.ChunkedArray, starts: _Ints) -> pa.Array:
    """The sum of each run; null where one of its values is."""
    values, missing = _values(column)
    lacking = np.logical_or.reduceat(missing, starts)
    return pa.array(np.add.reduceat(values, starts), mask=lacking).cast(column.type)


def _vwap(
    column: pa.ChunkedArray, volume: pa.ChunkedArray, starts: _Ints, counts: _Ints
) -> pa.Array:
    """The average of each run, weighted by volume; null where it is not known."""
    values, missing = _values(column)
    weights, _ = _values(volume)
    weights = weights.astype(np.float64)
    counted = weights > 0
    known = counted & ~missing
    sums = np.add.reduceat(np.where(known, values * weights, 0.0), starts)
    total = np.add.reduceat(weights, starts)
    found = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
    # It is no lower than the lowest of them and no higher than the highest, also when rounded.
    lowest = np.minimum.reduceat(np.where(known, values, np.inf), starts)
    highest = np.maximum.reduceat(np.where(known, values, -np.inf), starts)
    found = np.minimum(np.maximum(found, lowest), highest)
    lacking = (total <= 0) | np.logical_or.reduceat(counted & missing, starts)
    alone = counts == 1
    found = np.where(alone, values[starts], found)
    lacking = np.where(alone, missing[starts], lacking)
    return pa.array(found, mask=lacking)


def _values(column: pa.ChunkedArray) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """The values of a column, 0 where there is none, and where that is."""
    if not column.null_count:
        return column.to_numpy(), np.zeros(len(column), bool)
    missing = column.is_null().to_numpy()
    return column.fill_null(0).to_numpy(), missing


def _codes(column: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    """A number for each row, the same where the text is; -1 where there is none."""
    array = column.combine_chunks()
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    codes: npt.NDArray[np.int32] = array.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return codes


def _changes(values: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Is each value another one than that before it? So the first one is."""
    changed = np.ones(len(values), bool)
    changed[1:] = values[1:] != values[:-1]
    return changed
