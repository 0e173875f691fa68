"""The file of a session of minutes, of which a few row groups are read.

Belongs here: which byte range holds a symbol, and the rows in it. Does not belong here: which
sessions there are and what was asked (`minutes`), and what a file says of itself (`session_file`).

A file of the whole market has 48 MB, and a symbol's minutes are in 265 KB of them. So the footer is
read, and then the range of the row groups that can hold the symbol, by the statistics that the
footer has of them. Each page that is decoded is checked by its checksum. The digest of the file is
not: that would take all of its rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from datetime import date
from mmap import mmap

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.report import Ledger
from datalake_assets.lake import session_file
from datalake_assets.lake.session_file import footer_size
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Part, Store, StoreError

FOOTER_GUESS = 320 * 1024
"""Bytes from the end of a file that mostly hold its footer: of three million bars 108 KB of row
groups, 120 KB of symbols with their counts, and the ledger. A longer one takes a second request."""

A_READ = 8 << 20
"""Bytes that are asked for at once, at most, unless one row group has more."""

Piece = tuple[Sequence[int], int, int]
"""Row groups beside each other, and the range of bytes that they are read from."""

_SYMBOL, _SESSION = (SCHEMA.get_field_index(name) for name in ("symbol", "session"))
_BROKEN = (OSError, pa.ArrowException, KeyError, ValueError, TypeError, AttributeError, IndexError)


class ReplacedError(StoreError):
    """The file was replaced after its footer was read: open it again."""

    def __init__(self, where: str) -> None:
        super().__init__(f"{where} was replaced while it was read: run this again", transient=True)


class MinuteFile:
    """A file of minutes that was opened: its footer is read, its rows are not.

    Several threads may read it at once.

    Args:
        store: Where it is.
        day: Its session.

    Raises:
        FileNotFoundError: There is none.
        BrokenFileError: It is no whole session file.
    """

    def __init__(self, store: Store, day: date) -> None:
        self._store, self._key = store, layout.session_key(day, layout.MINUTE)
        end = _end(store, self._key)
        self._end, self._version, self._size = end.data, end.version, end.size
        try:
            self._footer = pq.read_metadata(pa.BufferReader(self._end))
            self._count = self._footer.num_row_groups if self._footer.num_rows else 0
            self._spans: dict[int, tuple[str, str]] = {}
            # Not its `schema`: the two would keep each other, 3 MB, until Python looks for cycles.
            first = self._footer.row_group(0)
            self._names = [first.column(n).path_in_schema for n in range(first.num_columns)]
            told = first.column(_SESSION).statistics
            if self._count and told is not None and told.min != day:
                raise ValueError(f"it holds the session of {told.min}")
        except _BROKEN as error:
            raise self._broken(error) from error

    @property
    def where(self) -> str:
        """Its place, for people."""
        return self._store.url(self._key)

    def hours(self) -> str | None:
        """The hours that it was collected with, `regular` or `extended`; None if it tells none.

        Raises:
            BrokenFileError: Its footer is no session file's.
        """
        return session_file.summarize(self._end, self.where).provenance.hours

    def unbarred(self) -> Ledger:
        """Its ledger without the symbols that are present, which are in the rows.

        Raises:
            BrokenFileError: It has none.
        """
        return session_file.unbarred(self._end, self.where)

    def pieces(self, names: Sequence[str] | None, columns: Collection[str]) -> list[Piece]:
        """What to read for these symbols.

        Args:
            names: The symbols, ascending; None for all.
            columns: The columns to be decoded, at least one.

        Raises:
            BrokenFileError: It has no statistics, or a symbol is in several row groups.
        """
        found: list[tuple[list[int], int, int]] = []
        try:
            for number in range(self._count) if names is None else self._holding(names):
                self._check(number)
                start, stop = self._range(number, columns)
                if found and found[-1][0][-1] == number - 1 and stop - found[-1][1] <= A_READ:
                    found[-1] = ([*found[-1][0], number], found[-1][1], stop)
                else:
                    found.append(([number], start, stop))
        except _BROKEN as error:
            raise self._broken(error) from error
        return list(found)

    def read(
        self,
        piece: Piece,
        names: pa.Array | None,
        columns: Sequence[str],
    ) -> Iterator[pa.Table]:
        """The rows of a piece, one row group after the other.

        Args:
            piece: As `pieces` gave it for these columns.
            names: The symbols wanted; None for all.
            columns: The columns wanted, `symbol` among them, in the order of `SCHEMA`.

        Returns:
            Tables with these columns, in which `symbol` is a dictionary.

        Raises:
            ReplacedError: The file is another one by now.
            BrokenFileError: It is damaged.
        """
        groups, start, stop = piece
        part = self._part(start, stop)
        try:
            # Parquet's offsets count from the start of the file. The rest of this memory is never
            # touched, so the system gives none for it.
            whole = mmap(-1, self._size)
            whole[start : start + len(part.data)] = part.data
            file = pq.ParquetReader()
            file.open(
                pa.py_buffer(whole),
                metadata=self._footer,
                page_checksum_verification=True,
                pre_buffer=False,
                read_dictionary=["symbol"],
            )
            places = [self._names.index(name) for name in columns]
        except _BROKEN as error:
            raise self._broken(error) from error
        for number in groups:
            try:
                rows = file.read_row_group(number, places, use_threads=False)
                yield _kept(rows.replace_schema_metadata(None).cast(schema_read(columns)), names)
            except _BROKEN as error:
                raise self._broken(error) from error

    def _part(self, start: int, stop: int) -> Part:
        try:
            part = self._store.part(self._key, stop - start, start)
        except StoreError:
            # A bucket refuses a range beyond the end of a shorter file.
            if self._store.part(self._key, 1).version == self._version:
                raise
            raise ReplacedError(self.where) from None
        if part.version != self._version:
            raise ReplacedError(self.where)
        return part

    def _holding(self, names: Sequence[str]) -> Iterator[int]:
        """The row groups that can hold some of these symbols, which ascend."""
        at = 0
        while at < len(names):
            after = bisect_right(range(self._count), names[at], key=lambda n: self._span(n)[0])
            if after and names[at] <= (last := self._span(after - 1)[1]):
                yield after - 1
                at = bisect_right(names, last)
            else:
                at += 1

    def _span(self, number: int) -> tuple[str, str]:
        """The first and the last symbol of a row group."""
        if number not in self._spans:
            told = self._footer.row_group(number).column(_SYMBOL).statistics
            self._spans[number] = (told.min, told.max)
        return self._spans[number]

    def _check(self, number: int) -> None:
        """Refuse a row group that shares a symbol with one beside it, or is not in order.

        Raises:
            ValueError: It is so.
        """
        first, last = self._span(number)
        if (number and self._span(number - 1)[1] >= first) or (
            number + 1 < self._count and self._span(number + 1)[0] <= last
        ):
            raise ValueError("a symbol is in several row groups")

    def _range(self, number: int, columns: Collection[str]) -> tuple[int, int]:
        """From where to where these columns of a row group lie."""
        group = self._footer.row_group(number)
        spans = []
        for name in columns:
            column = group.column(self._names.index(name))
            first = column.data_page_offset
            if column.has_dictionary_page:
                first = min(first, column.dictionary_page_offset)
            spans.append((first, first + column.total_compressed_size))
        return min(first for first, _ in spans), max(stop for _, stop in spans)

    def _broken(self, error: Exception) -> BrokenFileError:
        return BrokenFileError(
            f"{self.where} is no whole file of minutes ({error!r}): collect the session again"
        )


def schema_read(columns: Sequence[str]) -> pa.Schema:
    """The schema of these columns as `MinuteFile.read` gives them: `symbol` is a dictionary."""
    fields = [SCHEMA.field(name) for name in columns]
    symbols = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([f.with_type(symbols) if f.name == "symbol" else f for f in fields])


def _kept(rows: pa.Table, names: pa.Array | None) -> pa.Table:
    """Those of the rows that have these symbols."""
    if names is None:
        return rows
    (symbols,) = rows["symbol"].unify_dictionaries().chunks or [None]
    if symbols is None:
        return rows
    wanted = pc.is_in(symbols.dictionary, names)
    flags = wanted.to_numpy(zero_copy_only=False)[symbols.indices.to_numpy()]
    places = np.flatnonzero(flags)
    if len(places) == len(flags):
        return rows
    return rows.take(pa.array(places))  # no slice, which would keep the whole group in memory


def _end(store: Store, key: str) -> Part:
    """The end of a file, from its footer on."""
    end = store.part(key, FOOTER_GUESS)
    while (needed := footer_size(end.data)) > len(end.data) < end.size:
        end = store.part(key, needed)
    return end
