"""A window of sessions as one array: which symbol has a bar at which time, and in which row.

Belongs here: where a row belongs, and putting the pages of many requests in the order of the lake.
Does not belong here: which pages there are (`collect`), or what a symbol without a bar is
(`report`).

Each time at which a bar of a symbol may start is a cell of a grid: one for each symbol in each
session for daily bars, one for each minute of it for others. Cells are numbered session by session,
symbol by symbol and minute by minute, which is the order of the lake. A row is looked up once, when
its page comes. Writing each row's number into its cell orders the rows of a window without a sort,
shows which cells have a bar, and finds the bars that came twice: their number is then less than
that of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.collection.bars import SCHEMA, combine, empty
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.collection.symbols import Flags, Places, Symbols

Cells = npt.NDArray[np.int32]
"""Numbers of cells, one for each row."""

_EPOCH = date(1970, 1, 1).toordinal()


class Grid:
    """The symbols and sessions of a plan: one cell for each bar that a symbol may have in each.

    Args:
        symbols: The symbols, in any order.
        sessions: The sessions, ascending.
        dataset: Whose bars.
    """

    def __init__(
        self, symbols: Symbols, sessions: Sequence[date], dataset: Dataset = DAILY
    ) -> None:
        self.symbols, self.sessions, self.dataset = symbols, tuple(sessions), dataset
        self.width = max((dataset.bars(day) for day in self.sessions), default=1)
        self._row = {day: row for row, day in enumerate(self.sessions)}

    def __len__(self) -> int:
        return math.prod(self.shape)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sessions, symbols, and cells of a symbol: what a flat array of cells is reshaped to."""
        return len(self.sessions), len(self.symbols), self.width

    @cached_property
    def dates(self) -> pa.Array:
        """The sessions as Arrow has them."""
        return pa.array(self.sessions, pa.date32())

    def rows(self, sessions: Sequence[date]) -> Places:
        """Where these sessions stand."""
        return np.fromiter((self._row[day] for day in sessions), np.int32)

    def cells(self, symbol: str, session: date) -> range:
        """The cells of a symbol in a session."""
        (place,) = self.symbols.places([symbol]).tolist()
        first = (self._row[session] * len(self.symbols) + int(place)) * self.width
        return range(first, first + self.width)

    def at(self, cell: int) -> tuple[str, date]:
        """The symbol and the session of a cell."""
        row, place = divmod(cell // self.width, len(self.symbols))
        return str(self.symbols.names[place]), self.sessions[row]


class Block:
    """What one request asks for: some symbols of a grid in some of its sessions.

    Args:
        grid: The grid.
        symbols: The symbols.
        sessions: The sessions, ascending.
    """

    def __init__(self, grid: Grid, symbols: Sequence[str], sessions: Sequence[date]) -> None:
        self._names = pa.array(symbols, pa.string())
        # What is not found has the code -1, and the last value of each of these.
        self._places = np.append(grid.symbols.places(symbols), np.int32(-1))
        self._first = sessions[0].toordinal() - _EPOCH
        days = [day.toordinal() - sessions[0].toordinal() for day in sessions]
        self._starts = np.full(days[-1] + 2, -1, np.int32)
        self._starts[days] = grid.rows(sessions) * np.int32(len(grid.symbols) * grid.width)
        self._places[:-1] *= grid.width
        self._times = _Times(grid.dataset, sessions, len(self._starts)) if grid.width > 1 else None

    def cells(self, bars: pa.Table) -> tuple[Cells, list[str]]:
        """The cell of each row, -1 for one that was not asked for.

        Returns:
            And the symbols that were not asked for, ascending.
        """
        codes = pc.fill_null(pc.index_in(bars["symbol"], self._names), -1).to_numpy()
        places = self._places[codes]
        days = bars["session"].cast(pa.int32()).to_numpy() - np.int32(self._first)
        days = np.clip(days, -1, len(self._starts) - 1)
        starts = self._starts[days]
        outside = (places < 0) | (starts < 0)
        cells = starts + places
        if self._times:
            number, other = self._times.numbers(bars["timestamp"], days)
            cells += number
            outside |= other
        cells[outside] = -1
        others: list[str] = []
        if (unknown := places < 0).any():
            others = sorted(pc.unique(bars["symbol"].filter(pa.array(unknown))).to_pylist())
        return cells, others


class _Times:
    """When the bars of a block may start, for sessions that have many.

    Args:
        dataset: Whose bars.
        sessions: The sessions, ascending.
        size: How many days there are from the first one on, and one more.
    """

    def __init__(self, dataset: Dataset, sessions: Sequence[date], size: int) -> None:
        self._first, self._count = np.zeros(size, np.int64), np.zeros(size, np.int64)
        days = [(day - sessions[0]).days for day in sessions]
        self._first[days] = [dataset.first(day) for day in sessions]
        self._count[days] = [dataset.bars(day) for day in sessions]
        self._step = dataset.step_microseconds

    def numbers(self, timestamp: pa.ChunkedArray, days: Cells) -> tuple[Cells, Flags]:
        """The number of each bar in its session, and which start when none does.

        Args:
            timestamp: When the bars start.
            days: The days of their sessions, from the first one on.
        """
        since = timestamp.cast(pa.int64()).to_numpy() - self._first[days]
        number, rest = np.divmod(since, self._step)
        outside: Flags = (rest != 0) | (number < 0) | (number >= self._count[days])
        return np.where(outside, 0, number).astype(np.int32), outside


@dataclass(frozen=True, slots=True)
class Rows:
    """Bars and the cell of each of them."""

    bars: pa.Table
    cells: Cells

    def asked_for(self) -> Rows:
        """Without the rows that have no cell."""
        inside = self.cells >= 0
        if inside.all():
            return self
        return Rows(self.bars.filter(pa.array(inside)), self.cells[inside])


def joined(parts: Sequence[Rows]) -> Rows:
    """All rows, one part after another."""
    if len(parts) == 1:
        return parts[0]
    return Rows(
        pa.concat_tables([empty(), *(part.bars for part in parts)]),
        np.concatenate([np.empty(0, np.int32), *(part.cells for part in parts)]),
    )


@dataclass(frozen=True, slots=True)
class Window:
    """The bars of a grid, by session, symbol and time, one for a cell.

    Args:
        grid: The grid.
        bars: The bars.
        present: For each session and symbol: is there a bar?
        counts: The bars of each session.
    """

    grid: Grid
    bars: pa.Table
    present: Flags
    counts: Places

    def by_session(self) -> Iterator[pa.Table]:
        """The bars of each session of the grid, without copying."""
        start = 0
        for count in self.counts.tolist():
            yield self.bars.slice(start, count)
            start += count


def ordered(
    grid: Grid, parts: list[Rows], without: Iterable[tuple[str, date]] = ()
) -> tuple[Window, list[tuple[str, date]]]:
    """Put rows in the order of the lake, one for a cell.

    Pages may repeat a bar (facts of the wire: a token can resume on a bar already served). The
    same bar twice is one bar. Two different bars in one cell contradict each other: no bar of that
    symbol is kept in that session.

    Args:
        grid: The grid of the cells.
        parts: Rows that all have a cell. The list is emptied, so that each column of them can go as
            soon as it is in order, if nobody else holds them.
        without: Symbols in sessions whose bars are left out.

    Returns:
        The window, and which symbols had bars that contradicted each other, in which sessions.
    """
    rows = joined(parts)
    parts.clear()
    place, clashing = _places(grid, rows.cells), list[tuple[str, date]]()
    if np.count_nonzero(place >= 0) < len(rows.cells):
        rows, clashing = _each_once(grid, rows)
        place = _places(grid, rows.cells)
    for symbol, day in (*without, *clashing):
        place[grid.cells(symbol, day)] = -1
    present = place >= 0
    taken = pa.array(place[present])
    cells = present.reshape(grid.shape)
    each = (cells[:, :, 0] if grid.width == 1 else np.count_nonzero(cells, axis=2)).ravel()
    whose = np.arange(len(each), dtype=np.int32)
    sessions, symbols = np.divmod(whose, np.int32(max(1, len(grid.symbols))))
    sessions, symbols = np.repeat(sessions, each), np.repeat(symbols, each)
    columns = {
        "symbol": grid.symbols.column.take(pa.array(symbols)),
        "session": grid.dates.take(pa.array(sessions)),
    }
    unordered = rows.bars.drop_columns(list(columns))
    del rows, place, whose, sessions, symbols
    for name in SCHEMA.names[2:]:
        column = unordered[name]
        unordered = unordered.drop_columns([name])
        columns[name] = column.combine_chunks().take(taken)
    bars = pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)
    counts = np.count_nonzero(cells, axis=(1, 2))
    printed = each.reshape(grid.shape[:2]) > 0
    return Window(grid, bars, printed, counts), clashing


def _places(grid: Grid, cells: Cells) -> Places:
    """For each cell the number of its row, the last of several; -1 where there is none."""
    place = np.full(len(grid), -1, np.int32)
    place[cells] = np.arange(len(cells), dtype=np.int32)
    return place


def _each_once(grid: Grid, rows: Rows) -> tuple[Rows, list[tuple[str, date]]]:
    """The rows without repetitions, and whose bars contradicted each other in which session."""
    several = np.bincount(rows.cells, minlength=len(grid))[rows.cells] > 1
    kept, contradictions = combine([rows.bars.filter(pa.array(several))], grid.dataset.key)
    block = Block(grid, grid.symbols.names.tolist(), grid.sessions)
    single = Rows(rows.bars.filter(pa.array(~several)), rows.cells[~several])
    return joined([single, Rows(kept, block.cells(kept)[0])]), contradictions
