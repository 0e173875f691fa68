"""The year file: all bars of a year in one Parquet file, by symbol and session.

Belongs here: the bytes of one file, and reading some symbols or columns of it. Does not belong
here: where it lies (`layout`), and when it is written and proved (`year_files`).

Its row groups are the bands of `year_bars`, about 131,072 rows in 3 to 10 MB, and no symbol is
divided: whoever asks for one reads one row group, which the statistics name. Its footer tells which
sessions it was made from, as a year's manifest does for the symbol-years. So file and word can't
come apart, and a file is replaced in one write.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets.collection.bars import SCHEMA
from datalake_assets.lake.manifest import Manifest
from datalake_assets.lake.year_bars import YearBars
from datalake_assets.securities.evidence import Days, days_of
from datalake_assets.storage.store import BrokenFileError

_REPEATED = ["symbol", "session", "timestamp", "open", "high", "low", "close", "trade_count"]
"""The columns with a dictionary. In a band prices come again, to the cent; volumes and vwap do
not. It makes the file a fifth smaller and engines a third faster (docs/decisions/year-files.md)."""

_CODECS = dict.fromkeys(_REPEATED, "snappy") | {"vwap": "none", "volume": "none"}
"""Every engine reads Snappy. LZ4_RAW is faster still, and Trino and Velox don't read it; zstd is a
seventh smaller, and Polars takes a third longer. Snappy leaves vwap as long as it is, and takes a
quarter of the time to read a file for the tenth of its length that it saves of volumes."""

_TOGETHER = 6
"""Row groups that are decoded at once where only some of their rows are wanted: 60 MB."""

_SYMBOL = SCHEMA.get_field_index("symbol")
_ORDER = [pq.SortingColumn(SCHEMA.get_field_index(name)) for name in ("symbol", "session")]
_BROKEN = (OSError, pa.ArrowException, KeyError, ValueError, TypeError, AttributeError, IndexError)

_Counts = npt.NDArray[np.int64]


def encode(bars: YearBars, made_from: Manifest) -> bytes:
    """The bars of a year as a Parquet file.

    They go to a temporary file band by band: in memory is one band, and in the end the file.

    Args:
        bars: The bars.
        made_from: What the footer says of their sessions.

    Raises:
        StoreError: The temporary file of the bars gave back other rows.
    """
    with tempfile.TemporaryFile() as file:
        with pq.ParquetWriter(
            pa.PythonFile(file, mode="w"),
            SCHEMA,
            compression=_CODECS,
            use_dictionary=_REPEATED,
            write_statistics=True,
            write_page_index=True,
            sorting_columns=_ORDER,
            store_schema=False,
            # Without it a flipped bit would be another price.
            write_page_checksum=True,
        ) as writer:
            for band in bars.bands():
                writer.write_table(band.bars)
            writer.add_key_value_metadata(made_from.metadata())
        file.seek(0)
        return file.read()


@dataclass(frozen=True, slots=True)
class Rows:
    """Bars by symbol and session, with each symbol named once.

    Args:
        bars: The other columns that were asked for.
        symbols: The symbols, in the order of their rows.
        counts: How many rows each has; at least one.
    """

    bars: pa.Table
    symbols: Sequence[str]
    counts: _Counts

    def table(self, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
        """The bars as a table with these columns."""
        if "symbol" not in columns:
            return self.bars.select(columns)
        runs = pa.RunEndEncodedArray.from_arrays(
            pa.array(np.cumsum(self.counts)), pa.array(self.symbols, pa.string())
        )
        column = pc.run_end_decode(runs)
        schema = pa.schema([SCHEMA.field("symbol"), *self.bars.schema])
        every = pa.Table.from_arrays([column, *self.bars.columns], schema=schema)
        return every if every.column_names == list(columns) else every.select(columns)


def merged(parts: Sequence[Rows]) -> Rows:
    """Rows of several files or row groups in one order; of a symbol, the part before comes first.

    Args:
        parts: At least one, with the same columns. Of each symbol all rows of a part are earlier
            than those of the parts after it.
    """
    parts = [part for part in parts if part.symbols] or parts[:1]
    bars = pa.concat_tables(part.bars for part in parts)
    symbols = [name for part in parts for name in part.symbols]
    counts = np.concatenate([part.counts for part in parts])
    if all(before.symbols[-1] < after.symbols[0] for before, after in pairwise(parts)):
        return Rows(bars, symbols, counts)
    names = np.array(symbols, object)
    order = np.argsort(names, kind="stable")
    begins = np.cumsum(counts) - counts
    bars = bars.combine_chunks().take(pa.array(_places(begins[order], counts[order])))
    names, counts = names[order], counts[order]
    starts = _starts(names)
    return Rows(bars, names[starts].tolist(), np.add.reduceat(counts, starts))


class YearFile:
    """A year file that was opened: its footer is read, its rows are not.

    Row groups may be read by several threads at once.

    Args:
        source: The file: bytes, or a file of Arrow's that reads from any position.
        where: Its place, for messages.

    Raises:
        BrokenFileError: It is no whole year file.
    """

    def __init__(self, source: bytes | pa.NativeFile, where: str) -> None:
        self._source = source if isinstance(source, pa.NativeFile) else pa.BufferReader(source)
        self._where = where
        try:
            # Who changes a file in its place may do so while it is read; nobody here does.
            self._footer = pq.read_metadata(self._source)
            _ = self.made_from
        except _BROKEN as error:
            raise self._broken(error) from error

    @cached_property
    def made_from(self) -> Manifest:
        """The sessions that it was made from."""
        return Manifest.of_metadata(self._footer.metadata)

    @property
    def count(self) -> int:
        """How many row groups it has."""
        return int(self._footer.num_row_groups)

    def holding(self, names: frozenset[str]) -> list[int]:
        """The row groups in which some of these symbols can be, by their statistics.

        Raises:
            BrokenFileError: It has no statistics.
        """
        asked = sorted(names)
        found = []
        try:
            for number, (first, last) in enumerate(self._spans):
                at = int(np.searchsorted(asked, first))
                if at < len(asked) and asked[at] <= last:
                    found.append(number)
        except _BROKEN as error:
            raise self._broken(error) from error
        return found

    def read(
        self,
        groups: Sequence[int],
        names: frozenset[str] | None = None,
        days: Days | None = None,
        columns: Sequence[str] = SCHEMA.names,
    ) -> Rows:
        """Bars of some row groups, decoded by Arrow in all cores.

        Args:
            groups: Which row groups, ascending from 0.
            names: The symbols wanted; None for all.
            days: The sessions wanted, ascending; None for all.
            columns: Which columns, in the order of `SCHEMA`; others are not decoded.

        Raises:
            BrokenFileError: The file is damaged, or not sorted.
        """
        read = {"symbol", *columns} | ({"session"} if days is not None else set())
        fields = [field for field in SCHEMA if field.name in read]
        # In one go costs a tenth less; what is left out of the answer shall not fill the memory.
        every = names is None and days is None
        step = len(groups) if every and groups else _TOGETHER
        parts = [
            _kept(self._decoded(groups[at : at + step], fields), names, days)
            for at in range(0, max(1, len(groups)), step)
        ]
        rows = merged(parts)
        rest = [name for name in columns if name != "symbol"]
        return Rows(rows.bars.select(rest), rows.symbols, rows.counts)

    def unsorted(self) -> BrokenFileError:
        """What is wrong with it when its rows are not by symbol and session."""
        return self._broken(ValueError("its rows are not sorted"))

    def _decoded(self, groups: Sequence[int], fields: Sequence[pa.Field]) -> Rows:
        """These columns, the symbol first, of some row groups."""
        try:
            file = pq.ParquetReader()
            file.open(
                self._source,
                metadata=self._footer,
                page_checksum_verification=True,
                pre_buffer=False,
                read_dictionary=["symbol"],
            )
            places = [file.column_name_idx(field.name) for field in fields]
            bars = file.read_row_groups(list(groups), places, use_threads=True)
            symbols, counts = _runs(bars.column("symbol"))
            schema = pa.schema(fields[1:])
            bars = bars.select(schema.names)
            return Rows(bars if bars.schema == schema else bars.cast(schema), symbols, counts)
        except _BROKEN as error:
            raise self._broken(error) from error

    @cached_property
    def _spans(self) -> list[tuple[str, str]]:
        """The first and the last symbol of each row group."""
        groups = [self._footer.row_group(number) for number in range(self.count)]
        told = [group.column(_SYMBOL).statistics for group in groups]
        return [(one.min, one.max) for one in told]

    def _broken(self, error: Exception) -> BrokenFileError:
        return BrokenFileError(
            f"{self._where} is no whole year file ({error!r}): publish its year again"
        )


def _runs(column: pa.ChunkedArray) -> tuple[list[str], _Counts]:
    """The symbols in their order, and how many rows each has; a row group is a chunk.

    Raises:
        ValueError: They don't ascend.
    """
    names: list[str] = []
    counts = [np.zeros(0, np.int64)]
    for chunk in column.chunks:
        codes = chunk.indices.to_numpy()
        starts = _starts(codes)
        names += chunk.dictionary.take(pa.array(codes[starts])).to_pylist()
        counts.append(np.diff(starts, append=len(codes)))
    if any(after <= before for before, after in pairwise(names)):
        raise ValueError("its symbols are not sorted")
    return names, np.concatenate(counts)


def _starts(values: npt.NDArray[np.generic]) -> _Counts:
    """Where each run of the same value begins."""
    return np.flatnonzero(np.append([True] * bool(len(values)), values[1:] != values[:-1]))


def _kept(rows: Rows, names: frozenset[str] | None, days: Days | None) -> Rows:
    """Those of the rows that have these symbols and sessions."""
    kept: npt.NDArray[np.bool_] | None = None
    if names is not None and not names.issuperset(rows.symbols):
        kept = np.repeat([symbol in names for symbol in rows.symbols], rows.counts)
    if days is not None:
        there = np.isin(days_of(rows.bars["session"]), days)
        kept = there if kept is None else kept & there
    if kept is None or kept.all():
        return rows
    counts = np.add.reduceat(kept, np.cumsum(rows.counts) - rows.counts, dtype=np.int64)
    left = np.flatnonzero(counts)
    symbols = [rows.symbols[n] for n in left.tolist()]
    return Rows(rows.bars.filter(pa.array(kept)), symbols, counts[left])


def _places(begins: _Counts, counts: _Counts) -> _Counts:
    """The numbers of the rows of these runs."""
    places = np.arange(int(counts.sum()), dtype=np.int64)
    shifts: _Counts = np.repeat(begins - (np.cumsum(counts) - counts), counts)
    return places + shifts
