"""The bars that tell something: of each security's first and last day, and around each action.

Belongs here: choosing them, a quarter at a time, keeping them in the lake, and finding one again.
Does not belong here: what they say of a security (`identity`), of an action (`verdicts`) or of
a fall (`jumps`).

Of 41 million bars some 600,000 are needed: the first and the last of each symbol, and those around
a long gap; the first one on or after a day that an action names; and those that opened far from
the close before. Each is kept with the bars around it. A quarter's are one object, which says
which versions of which sessions, and which days, it was made from: after one new session one
quarter is read again.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store

BAR_COLUMNS = ("symbol", "open", "close", "volume")
"""The columns that are needed of a session's bars."""

LONG_GAP = 30
"""Sessions without a bar beyond which a ticker's next bar may be another security's, or that of one
that was halted: the price before says nothing of the price after."""

LOOK_BACK = 2 * LONG_GAP
"""Sessions before a quarter that are read with it: those in which a bar may wait for its next one,
and as many before them, in which theirs before is found if the gap is not long."""

USUAL = 20
"""Sessions before a bar whose median tells how many dollars are usually traded."""

FALL, RISE = 0.90, 1.20
"""A bar that opens below, or above, so much of the close before is kept."""

A_MARKET = 100
"""Symbols whose median is the move of the market; of fewer it may be one security's own."""

OBSERVED = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("session", pa.date32(), nullable=False),
        pa.field("open", pa.float64(), nullable=False),
        pa.field("close", pa.float64(), nullable=False),
        pa.field("dollars", pa.float64(), nullable=False),
        pa.field("usual_distance", pa.float64(), nullable=False),
        pa.field("session_before", pa.date32()),
        pa.field("close_before", pa.float64()),
        pa.field("usual_dollars", pa.float64()),
        pa.field("usual_move", pa.float64()),
        pa.field("session_after", pa.date32()),
        pa.field("close_after", pa.float64()),
        pa.field("market", pa.float64()),
    ]
)
"""One row per bar that tells something, by symbol and session. `dollars` is close times volume,
`usual_distance` the sessions from one bar to the next until then, `usual_dollars` and `usual_move`
the medians of the dollars and of |ln(open / close before)| in the 20 sessions before, and `market`
the median of ln(open / close before) over all symbols, if there are `A_MARKET`. The bar before is
looked for in the 30 sessions before, the one after in the quarter. A bar
that is followed by one of the next quarter may stand in both, there with the bar after."""

_VERSION = b"1"
"""Of the rule that chooses the bars: another one gathers them again."""

_MADE_FROM = b"datalake.made_from"
_EPOCH = date(1970, 1, 1).toordinal()
NO_DAY = np.int32(-(2**31))
"""In place of a day where there is none: before all others."""

Days = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_log = logging.getLogger(__name__)


def day_number(day: date) -> int:
    """A day as Arrow's date32 counts it."""
    return day.toordinal() - _EPOCH


def day_of(number: int) -> date:
    """The day with this number."""
    return date.fromordinal(int(number) + _EPOCH)


def days_of(column: pa.ChunkedArray | pa.Array) -> Days:
    """A column of days as numbers; `NO_DAY`, before all others, where it is null."""
    filled = pc.fill_null(column.cast(pa.int32()), int(NO_DAY))
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.int32)


def as_days(numbers: npt.ArrayLike) -> pa.Array:
    """Numbers as a column of days, null where there is none."""
    values = np.asarray(numbers, dtype=np.int32)
    return pa.array(values, pa.int32(), mask=values == NO_DAY).cast(pa.date32())


def no_day(numbers: Days) -> npt.NDArray[np.bool_]:
    """Where there is no day."""
    found: npt.NDArray[np.bool_] = numbers == NO_DAY
    return found


@dataclass(frozen=True)
class Points:
    """Symbols and days of which the first bar on or after the day is wanted.

    Args:
        symbols: The symbols.
        days: The days, as numbers.
    """

    symbols: pa.Array
    days: Days

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, date]]) -> Points:
        """From pairs of symbol and day."""
        listed = list(pairs)
        return cls(
            pa.array([symbol for symbol, _ in listed], pa.string()),
            np.array([day_number(day) for _, day in listed], dtype=np.int32),
        )

    def ordered(self) -> Points:
        """By day and symbol, each once."""
        table = pa.table({"day": pa.array(self.days), "symbol": self.symbols})
        table = table.group_by(["day", "symbol"], use_threads=False).aggregate([])
        table = table.sort_by([("day", "ascending"), ("symbol", "ascending")]).combine_chunks()
        symbols = table["symbol"].combine_chunks()
        return Points(symbols, table["day"].to_numpy().astype(np.int32))

    def within(self, start: date, end: date) -> Points:
        """Those from `start` to `end`, both included; of ordered ones."""
        low, high = np.searchsorted(self.days, [day_number(start), day_number(end) + 1])
        return Points(self.symbols.slice(low, high - low), self.days[low:high])

    def digest(self) -> bytes:
        """The same for the same points, in the same order."""
        _, offsets, text = self.symbols.buffers()
        begin = self.symbols.offset
        at = np.frombuffer(offsets or b"", np.int32)[begin : begin + len(self.symbols) + 1]
        names = memoryview(text or b"")[at[0] : at[-1]] if len(at) else b""
        found = hashlib.blake2b(names, digest_size=16)
        found.update(np.diff(at).tobytes() + self.days.tobytes())
        return found.digest()


# --- one quarter ---


def observe(
    tables: Sequence[tuple[date, pa.Table]], since: date, points: Points, *, newest: bool
) -> pa.Table:
    """The bars of a quarter that tell something.

    Args:
        tables: Sessions and their bars (`BAR_COLUMNS`), ascending: those of the quarter, and up to
            `LOOK_BACK` before it.
        since: First day of the quarter.
        points: Days among these sessions whose next bar is wanted.
        newest: Whether no session is published after these: then each symbol's last bar is kept.

    Returns:
        A table in `OBSERVED`.
    """
    days = np.array([day_number(day) for day, _ in tables], dtype=np.int32)
    begins, stop = int(np.searchsorted(days, day_number(since))), len(tables)
    if begins == stop:
        return OBSERVED.empty_table()
    names = pa.chunked_array(
        [chunk for _, table in tables for chunk in table["symbol"].chunks], pa.string()
    )
    encoded = encode(names)
    code, symbols = encoded.indices.to_numpy(), encoded.dictionary
    column = np.repeat(np.arange(stop), [table.num_rows for _, table in tables])
    shape = (len(symbols), stop)

    def panel(values: Sequence[Floats]) -> Floats:
        filled = np.full(shape, np.nan)
        filled[code, column] = np.concatenate(values)
        return filled

    opened = panel([table["open"].to_numpy() for _, table in tables])
    closed = panel([table["close"].to_numpy() for _, table in tables])
    dollars = panel([table["close"].to_numpy() * table["volume"].to_numpy() for _, table in tables])

    there = ~np.isnan(closed)
    at = np.arange(stop, dtype=np.int32)
    latest = np.maximum.accumulate(np.where(there, at, -1), axis=1)
    before = np.hstack([np.full((shape[0], 1), -1), latest[:, :-1]])
    soonest = np.minimum.accumulate(np.where(there, at, stop)[:, ::-1], axis=1)[:, ::-1]
    after = np.hstack([soonest[:, 1:], np.full((shape[0], 1), stop)])

    close_before = np.take_along_axis(closed, np.maximum(before, 0), axis=1)
    close_before[before < 0] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = opened / close_before

    tells = (ratio < FALL) | (ratio > RISE)
    rows, columns = _asked(points, symbols, days, soonest)
    tells[rows, columns] = True
    # Those of the sessions before the quarter stand there; again if the bar after is in this one.
    tells[:, :begins] &= (after[:, :begins] >= begins) & (after[:, :begins] < stop)
    tells[:, begins:] |= there[:, begins:] & (at[begins:] - before[:, begins:] > LONG_GAP)
    tells[:, begins:] |= there[:, begins:] & (before[:, begins:] < 0)
    # The last ones before a silence that is known to be long, and in the end all last ones.
    tells |= there & (after - at > LONG_GAP) & (stop - at > LONG_GAP)
    if newest:
        tells |= there & (after == stop)
    # What was not followed by then stands in an earlier quarter.
    tells[:, : max(0, begins - LONG_GAP)] = False

    row, col = np.nonzero(tells)
    market = _market(np.where(before == at - 1, ratio, np.nan))
    earlier, later = before[row, col], after[row, col]
    ended = later == stop
    later = np.minimum(later, stop - 1)
    begun = np.argmax(there, axis=1)[row]
    bars = np.cumsum(there, axis=1)[row, col]
    with np.errstate(divide="ignore", invalid="ignore"):
        moves = np.abs(np.log(ratio))
    table = pa.table(
        {
            "symbol": symbols.take(pa.array(row)),
            "session": as_days(days[col]),
            "open": opened[row, col],
            "close": closed[row, col],
            "dollars": dollars[row, col],
            "usual_distance": (col - begun + 1) / bars,
            "session_before": as_days(np.where(earlier < 0, NO_DAY, days[np.maximum(earlier, 0)])),
            "close_before": _or_null(close_before[row, col]),
            "usual_dollars": _or_null(_usual(dollars, row, col)),
            "usual_move": _or_null(_usual(moves, row, col)),
            "session_after": as_days(np.where(ended, NO_DAY, days[later])),
            "close_after": _or_null(np.where(ended, np.nan, closed[row, later])),
            "market": _or_null(market[col]),
        }
    )
    return table.cast(OBSERVED).sort_by([("symbol", "ascending"), ("session", "ascending")])


def encode(names: pa.ChunkedArray | pa.Array) -> pa.DictionaryArray:
    """A column of names as one array of codes and the names."""
    whole = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    encoded = whole.dictionary_encode()
    return encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded


def _asked(
    points: Points, symbols: pa.Array, days: Days, soonest: npt.NDArray[np.integer[Any]]
) -> tuple[Ints, Ints]:
    """The rows and columns of the first bars on or after the days that are asked for."""
    row = pc.fill_null(pc.index_in(points.symbols, symbols), -1).to_numpy(zero_copy_only=False)
    column = np.searchsorted(days, points.days)
    inside = (row >= 0) & (column < len(days))
    row, column = row[inside].astype(np.int64), column[inside]
    found = soonest[row, column].astype(np.int64)
    return row[found < len(days)], found[found < len(days)]


def _market(ratio: Floats) -> Floats:
    """Ln of the median of each session's column, or not a number."""
    found = np.full(ratio.shape[1], np.nan)
    for each in range(ratio.shape[1]):
        moves = ratio[:, each]
        moves = moves[~np.isnan(moves)]
        if moves.size >= A_MARKET:
            found[each] = np.log(max(float(np.median(moves)), FALL))
    return found


def _usual(values: Floats, row: Ints, col: Ints) -> Floats:
    """The median of the 20 sessions before each of these cells; what is missing is left out."""
    back = col[:, None] - np.arange(USUAL, 0, -1)
    window = np.where(back >= 0, values[row[:, None], np.maximum(back, 0)], np.nan)
    window.sort(axis=1)  # what is missing goes to the end
    count = (~np.isnan(window)).sum(axis=1)
    lines = np.arange(len(row))
    low, high = np.maximum(count - 1, 0) // 2, np.maximum(count, 1) // 2
    median: Floats = (window[lines, low] + window[lines, high]) / 2
    return median


def _or_null(values: Floats) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))


# --- all quarters ---


@dataclass(frozen=True)
class Evidence:
    """The bars that tell something, of all quarters, by symbol and session.

    Days are numbers (`day_number`), and "none" is before all others (`no_day`). A symbol is its
    place in `symbols`.
    """

    symbols: pa.Array
    """Ascending."""
    sessions: Days
    """All sessions that are published, ascending."""
    symbol: npt.NDArray[np.int32]
    session: Days
    open: Floats
    close: Floats
    dollars: Floats
    session_before: Days
    close_before: Floats
    usual_distance: Floats
    usual_dollars: Floats
    usual_move: Floats
    session_after: Days
    close_after: Floats
    market: Floats
    read: int = 0
    """Sessions that had to be read for it."""

    @classmethod
    def of(cls, tables: Sequence[pa.Table], sessions: Iterable[date], read: int = 0) -> Evidence:
        """From the tables of quarters, ascending."""
        table = pa.concat_tables([OBSERVED.empty_table(), *tables])
        encoded = encode(table["symbol"])
        by_name = pc.sort_indices(encoded.dictionary).to_numpy()
        place = np.empty(len(by_name), dtype=np.int32)
        place[by_name] = np.arange(len(by_name), dtype=np.int32)
        symbol = place[encoded.indices.to_numpy()] if len(by_name) else np.zeros(0, np.int32)
        session = days_of(table["session"])
        # Of the two rows of one bar the quarter's own is first, which knows more of the past.
        order = np.argsort(_key(symbol.astype(np.int64), session.astype(np.int64)), kind="stable")
        symbol, session = symbol[order], session[order]
        again = np.append(False, (symbol[1:] == symbol[:-1]) & (session[1:] == session[:-1]))
        again = again[: len(symbol)]
        second = np.flatnonzero(again)

        def days(name: str) -> Days:
            return days_of(table[name])[order]

        def floats(name: str) -> Floats:
            column = pc.fill_null(table[name], np.nan).to_numpy()
            return np.asarray(column, dtype=np.float64)[order]

        before, close_before, close = (
            days("session_before"),
            floats("close_before"),
            floats("close"),
        )
        after, close_after = days("session_after"), floats("close_after")
        # The other has the bar after.
        after[second - 1] = np.maximum(after[second - 1], after[second])
        close_after[second - 1] = np.where(
            np.isnan(close_after[second - 1]), close_after[second], close_after[second - 1]
        )
        once = ~again
        symbol, session, before, after = symbol[once], session[once], before[once], after[once]
        close, close_before, close_after = close[once], close_before[once], close_after[once]
        # A bar after a long gap does not see the one before it, which is the row before.
        same = np.append(False, symbol[1:] == symbol[:-1])[: len(symbol)]
        late = np.flatnonzero(same & no_day(before))
        before[late], close_before[late] = session[late - 1], close[late - 1]
        early = np.flatnonzero(same & no_day(np.append(0, after[:-1])[: len(after)]))
        after[early - 1], close_after[early - 1] = session[early], close[early]
        return cls(
            symbols=encoded.dictionary.take(pa.array(by_name)),
            sessions=np.array(sorted(map(day_number, sessions)), dtype=np.int32),
            symbol=symbol,
            session=session,
            open=floats("open")[once],
            close=close,
            dollars=floats("dollars")[once],
            session_before=before,
            close_before=close_before,
            usual_distance=floats("usual_distance")[once],
            usual_dollars=floats("usual_dollars")[once],
            usual_move=floats("usual_move")[once],
            session_after=after,
            close_after=close_after,
            market=floats("market")[once],
            read=read,
        )

    def codes(self, symbols: pa.Array | pa.ChunkedArray | Sequence[str | None]) -> Ints:
        """The places of these symbols; -1 for one without any bar."""
        column = (
            symbols
            if isinstance(symbols, pa.Array | pa.ChunkedArray)
            else pa.array(symbols, pa.string())
        )
        found = pc.fill_null(pc.index_in(column, self.symbols), -1)
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)

    def at_or_after(self, codes: npt.ArrayLike, days: npt.ArrayLike) -> Ints:
        """The rows of each symbol's first bar on or after a day; -1 where there is none.

        Right for the days that were asked for when the evidence was gathered; else the bar may be
        a later one.
        """
        wanted, since = np.asarray(codes, np.int64), np.asarray(days, np.int64)
        found = np.searchsorted(self._key, _key(wanted, since))
        safe = np.minimum(found, max(len(self.symbol) - 1, 0))
        if not len(self.symbol):
            return np.full(wanted.shape, -1, np.int64)
        there = (found < len(self.symbol)) & (self.symbol[safe] == wanted) & (wanted >= 0)
        return np.where(there, safe, -1)

    def before(self, codes: npt.ArrayLike, days: npt.ArrayLike) -> tuple[Days, Floats]:
        """The day and the close of each symbol's last bar before a day; none where there is none.

        For the same days as `at_or_after`.
        """
        wanted, since = np.asarray(codes, np.int64), np.asarray(days, np.int64)
        if not len(self.symbol):
            return np.full(wanted.shape, NO_DAY), np.full(wanted.shape, np.nan)
        row = self.at_or_after(wanted, since)
        final = np.searchsorted(self._key, _key(wanted + 1, np.int64(NO_DAY))) - 1
        ends = np.clip(final, 0, None)
        ended = (row < 0) & (final >= 0) & (self.symbol[ends] == wanted)
        day = np.where(
            row >= 0, self.session_before[row], np.where(ended, self.session[ends], NO_DAY)
        )
        close = np.where(
            row >= 0, self.close_before[row], np.where(ended, self.close[ends], np.nan)
        )
        return day.astype(np.int32), close

    def sessions_between(self, earlier: npt.ArrayLike, later: npt.ArrayLike) -> Ints:
        """How many published sessions the later day is after the earlier one."""
        low, high = np.searchsorted(self.sessions, earlier), np.searchsorted(self.sessions, later)
        return np.asarray(high - low, dtype=np.int64)

    @cached_property
    def _key(self) -> Ints:
        keys: Ints = _key(self.symbol.astype(np.int64), self.session.astype(np.int64))
        return keys


def _key(symbol: Any, day: Any) -> Any:
    return (symbol << 33) + day + 2**32


def quarter_of(day: date) -> str:
    """The calendar quarter of a day, like 2024-Q1."""
    return f"{day.year:04}-Q{(day.month + 2) // 3}"


def gather(
    store: Store,
    sessions: Mapping[date, str],
    read: Callable[[date], pa.Table],
    points: Points,
    workers: int = 8,
) -> Evidence:
    """The evidence of all published sessions; only quarters that changed are read.

    Killed at any moment, the quarters that are written stand, and the next call goes on.

    Args:
        store: Where the lake is.
        sessions: The published sessions, and the versions of their objects.
        read: Gives a session's bars (`BAR_COLUMNS`); called in threads.
        points: Symbols and days whose next bar is wanted.
        workers: Reads under way at once, over a network.

    Raises:
        StoreError: The store refuses, or can't be reached.
    """
    days = sorted(sessions)
    points = points.ordered()
    quarters: dict[str, list[date]] = {}
    for day in days:
        quarters.setdefault(quarter_of(day), []).append(day)
    place = {day: index for index, day in enumerate(days)}
    made, kept = [], dict[date, pa.Table]()
    number = 0
    with ThreadPoolExecutor(store.readers(workers), "evidence") as threads:
        for quarter, held in quarters.items():
            start = date(held[0].year, 3 * ((held[0].month - 1) // 3) + 1, 1)
            end = (start + timedelta(days=95)).replace(day=1) - timedelta(days=1)
            first = place[held[0]]
            needed = days[max(0, first - LOOK_BACK) : first + len(held)]
            # The next bar after a day before the quarter may lie in it.
            asked = points.within(min(start, days[max(0, first - LONG_GAP)]), end)
            newest = held[-1] == days[-1]
            digest = _digest(needed, sessions, asked, newest=newest)
            table = _stored(store, quarter, digest)
            if table is None:
                new = [day for day in needed if day not in kept]
                kept = {day: kept[day] for day in needed if day in kept}
                kept.update(zip(new, threads.map(read, new), strict=True))
                number += len(new)
                table = observe([(day, kept[day]) for day in needed], start, asked, newest=newest)
                store.put(layout.evidence_key(quarter), _encoded(table, digest))
            else:
                kept = {}
            made.append(table)
    for key in store.list(layout.EVIDENCE):
        if key not in {layout.evidence_key(quarter) for quarter in quarters}:
            store.delete(key)  # of a quarter whose sessions are all gone
    return Evidence.of(made, days, number)


def _digest(
    needed: Sequence[date], sessions: Mapping[date, str], points: Points, *, newest: bool
) -> bytes:
    told = "\n".join(f"{day} {sessions[day]}" for day in needed)
    whole = b"\0".join((_VERSION, told.encode(), points.digest(), b"newest" if newest else b""))
    return hashlib.blake2b(whole, digest_size=16).hexdigest().encode()


def _encoded(table: pa.Table, digest: bytes) -> bytes:
    buffer = io.BytesIO()
    with pq.ParquetWriter(
        buffer,
        OBSERVED,
        compression="zstd",
        use_dictionary=["symbol"],
        store_schema=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_MADE_FROM: digest})
    return buffer.getvalue()


def _stored(store: Store, quarter: str, digest: bytes) -> pa.Table | None:
    """The bars of a quarter, if they are kept and nothing changed."""
    key = layout.evidence_key(quarter)
    try:
        return _decoded(store.get(key), digest, store.url(key))
    except FileNotFoundError:
        return None
    except BrokenFileError as error:
        _log.warning("%s: it is gathered again", error)
        return None


def _decoded(data: bytes, digest: bytes, where: str) -> pa.Table | None:
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        if (file.metadata.metadata or {}).get(_MADE_FROM) != digest:
            return None
        return file.read().replace_schema_metadata(None).cast(OBSERVED)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise BrokenFileError(f"{where} is no whole file of evidence ({error!r})") from error
