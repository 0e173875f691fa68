"""A window of sessions as one array: which symbol has a bar in which session, and in which row.

Belongs here: where a row belongs, and putting the pages of many requests in the order of the lake.
Does not belong here: which pages there are (`collect`), or what a symbol without a bar is
(`report`).

Each symbol in each session is a cell of a grid, numbered session by session and symbol by symbol,
which is the order of the lake. A row is looked up once, when its page comes. Writing each row's
number into its cell orders the rows of a window without a sort, shows which cells have a bar, and
finds the bars that came twice: their number is then less than that of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.collection.bars import SCHEMA, combine, empty
from datalake_assets.collection.symbols import Flags, Places, Symbols

Cells = npt.NDArray[np.int32]
"""Numbers of cells, one for each row."""

_EPOCH = date(1970, 1, 1).toordinal()


class Grid:
    """The symbols and sessions of a plan: one cell for each symbol in each session.

    Args:
        symbols: The symbols, in any order.
        sessions: The sessions, ascending.
    """

    def __init__(self, symbols: Symbols, sessions: Sequence[date]) -> None:
        self.symbols, self.sessions = symbols, tuple(sessions)
        self._row = {day: row for row, day in enumerate(self.sessions)}

    def __len__(self) -> int:
        return len(self.symbols) * len(self.sessions)

    @property
    def shape(self) -> tuple[int, int]:
        """Sessions and symbols: what a flat array of cells is reshaped to."""
        return len(self.sessions), len(self.symbols)

    @cached_property
    def dates(self) -> pa.Array:
        """The sessions as Arrow has them."""
        return pa.array(self.sessions, pa.date32())

    def rows(self, sessions: Sequence[date]) -> Places:
        """Where these sessions stand."""
        return np.fromiter((self._row[day] for day in sessions), np.int32)

    def cell(self, symbol: str, session: date) -> int:
        """The number of a cell."""
        (place,) = self.symbols.places([symbol]).tolist()
        return self._row[session] * len(self.symbols) + int(place)

    def at(self, cell: int) -> tuple[str, date]:
        """The symbol and the session of a cell."""
        row, place = divmod(cell, len(self.symbols))
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
        self._starts[days] = grid.rows(sessions) * np.int32(len(grid.symbols))

    def cells(self, bars: pa.Table) -> tuple[Cells, list[str]]:
        """The cell of each row, -1 for one that was not asked for.

        Returns:
            And the symbols that were not asked for, ascending.
        """
        codes = pc.fill_null(pc.index_in(bars["symbol"], self._names), -1).to_numpy()
        places = self._places[codes]
        days = bars["session"].cast(pa.int32()).to_numpy() - np.int32(self._first)
        starts = self._starts[np.clip(days, -1, len(self._starts) - 1)]
        cells = np.where((places < 0) | (starts < 0), np.int32(-1), starts + places)
        others: list[str] = []
        if (unknown := places < 0).any():
            others = sorted(pc.unique(bars["symbol"].filter(pa.array(unknown))).to_pylist())
        return cells, others


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
    """The bars of a grid, by session and symbol, one for a cell.

    Args:
        grid: The grid.
        bars: The bars.
        present: For each session and symbol: is there a bar?
    """

    grid: Grid
    bars: pa.Table
    present: Flags

    def by_session(self) -> Iterator[pa.Table]:
        """The bars of each session of the grid, without copying."""
        start = 0
        for count in np.count_nonzero(self.present, axis=1).tolist():
            yield self.bars.slice(start, count)
            start += count


def ordered(grid: Grid, rows: Rows, without: Sequence[int] = ()) -> tuple[Window, list[int]]:
    """Put rows in the order of the lake, one for a cell.

    Pages may repeat a bar (facts of the wire: a token can resume on a bar already served). The
    same bar twice is one bar. Two different bars in one cell contradict each other: neither is
    kept.

    Args:
        grid: The grid of the cells.
        rows: Rows that all have a cell.
        without: Cells whose bars are left out.

    Returns:
        The window, and the cells whose bars contradicted each other.
    """
    place, clashing = _places(grid, rows.cells), list[int]()
    if np.count_nonzero(place >= 0) < len(rows.cells):
        rows, clashing = _each_once(grid, rows)
        place = _places(grid, rows.cells)
    place[list(without)] = -1
    present = place >= 0
    taken = pa.array(place[present])
    sessions, symbols = np.divmod(np.flatnonzero(present), max(1, len(grid.symbols)))
    columns = {
        "symbol": grid.symbols.column.take(pa.array(symbols)),
        "session": grid.dates.take(pa.array(sessions)),
    }
    for name in SCHEMA.names[2:]:
        columns[name] = rows.bars[name].combine_chunks().take(taken)
    bars = pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)
    return Window(grid, bars, present.reshape(grid.shape)), clashing


def _places(grid: Grid, cells: Cells) -> Places:
    """For each cell the number of its row, the last of several; -1 where there is none."""
    place = np.full(len(grid), -1, np.int32)
    place[cells] = np.arange(len(cells), dtype=np.int32)
    return place


def _each_once(grid: Grid, rows: Rows) -> tuple[Rows, list[int]]:
    """The rows without repetitions, and the cells that contradict themselves."""
    several = np.bincount(rows.cells, minlength=len(grid))[rows.cells] > 1
    kept, contradictions = combine([rows.bars.filter(pa.array(several))])
    block = Block(grid, grid.symbols.names.tolist(), grid.sessions)
    single = Rows(rows.bars.filter(pa.array(~several)), rows.cells[~several])
    clashing = [grid.cell(*pair) for pair in contradictions]
    return joined([single, Rows(kept, block.cells(kept)[0])]), clashing
