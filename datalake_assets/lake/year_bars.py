"""The bars of a year as its sessions have them, by symbol, in bounded memory.

Belongs here: reading each session of a year once, proving its rows by its digest, hashing them by
symbol, and giving them back sorted by symbol and session, a band of symbols at a time. Does not
belong here: what is made of them, and where that is written (`symbol_years`).

A year of 11,000 symbols is 2.8 million rows: 220 MB, and as much again while they are sorted. So
this is an external merge sort. Some sessions at a time are read and sorted by symbol, and these
sorted runs go to a temporary file. A band is read back from all runs when its turn comes: as many
symbols as have `BAND` rows together, whose rows are then in one table. Nothing is read twice from
the store, so what is given back is one state of the year, whatever is published meanwhile.
"""

from __future__ import annotations

import tempfile
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import IO, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.collection.bars import SCHEMA
from datalake_assets.lake import session_file
from datalake_assets.lake.fingerprint import Fingerprint, RowHashes, fingerprints
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store, StoreError

BAND = 1 << 17
"""Rows of a band, about: 10 MB. A symbol's rows are never divided."""

_RUN = 1 << 17
"""Rows that are sorted together, about."""

_PIECE = 1 << 11
"""Rows of a run that are written, and read back, together. A band begins within a piece of most
runs, so longer ones are read more often than they are used."""


_IN_MEMORY = 8 << 20
"""Bytes up to which a year needs no file."""

_OTHER_ROWS = (
    "the bars of a year came back other than they were kept while they were sorted, {}: publish "
    "the year again; if it happens again, let TMPDIR name a folder on another disk, and test this "
    "machine's memory"
)

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Band:
    """All bars of some symbols that follow each other, by symbol and session.

    Args:
        bars: The rows, in `collection.bars.SCHEMA`.
        spans: Of each symbol, ascending, its first row and how many it has.
    """

    bars: pa.Table
    spans: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Session:
    """A session as it was read: its object's version, its bars, what they must hash to."""

    day: date
    version: str
    bars: pa.Table
    digest: Fingerprint


@dataclass(frozen=True, slots=True)
class _Run:
    """Some sessions' rows by symbol, as they lie in the temporary file.

    Args:
        symbols: The numbers of its symbols, in the symbols' order.
        starts: The first row of each, and the number of all rows.
        pieces: Offset and length of each piece.
    """

    symbols: _Places
    starts: _Places
    pieces: Sequence[tuple[int, int]]


class YearBars:
    """The bars of a year; made by `read`, and to be closed.

    Attributes:
        sessions: The version of each session's object, ascending.
        digests: What the rows of each session hash to.
        fingerprints: What the rows of each symbol hash to, ascending.
    """

    def __init__(self, file: IO[bytes] | None) -> None:
        self.sessions: dict[date, str] = {}
        self.digests: dict[date, Fingerprint] = {}
        self.fingerprints: dict[str, Fingerprint] = {}
        self._file, self._lock = file, threading.Lock()
        self._runs: list[_Run] = []
        # By the number of a symbol, in the order in which symbols were seen.
        self._numbers: dict[str, int] = {}
        self._sums = np.zeros((2, 0), np.uint64)
        self._rows = np.zeros(0, np.int64)
        self._ranks = np.zeros(0, np.int64)
        self._bands: list[Sequence[str]] = []
        self._firsts: list[str] = []
        self._loaded: deque[tuple[int, Band]] = deque(maxlen=2)
        # One thread makes all bands: Arrow keeps what a thread has freed for that thread, and each
        # of 20 uploading ones would come to hold a band of its own.
        self._merging = ThreadPoolExecutor(1, "year-bars")

    @classmethod
    def read(cls, store: Store, days: Iterable[date], *, keep: bool = True) -> Self:
        """Read these sessions of one year.

        Args:
            store: Where they are.
            days: The sessions, ascending.
            keep: Whether bars will be asked for; if not, nothing but the hashes is kept.

        Raises:
            BrokenFileError: Files of sessions are damaged, or were changed by another program.
            FileNotFoundError: A session is not there.
            StoreError: The store can't be read, or there is no room for the temporary file.
        """
        bars = cls(tempfile.SpooledTemporaryFile(_IN_MEMORY) if keep else None)  # noqa: SIM115
        try:
            bars._read(store, list(days))
        except BaseException:
            bars.close()
            raise
        return bars

    def close(self) -> None:
        """Give the temporary file back."""
        self._merging.shutdown(wait=False)
        with self._lock:
            self._loaded.clear()
            if self._file is not None:
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def of(self, symbol: str) -> pa.Table:
        """A symbol's bars, by session. Whoever asks in the symbols' order reads each band once.

        They hash to the symbol's fingerprint: that was verified.

        Raises:
            KeyError: It has none.
            StoreError: The temporary file gave back other rows.
        """
        if symbol not in self.fingerprints:
            raise KeyError(symbol)
        band = self._band(bisect_right(self._firsts, symbol) - 1)
        return band.bars.slice(*band.spans[symbol])

    def bands(self) -> Iterator[Band]:
        """All bars, band by band."""
        yield from map(self._band, range(len(self._bands)))

    # Reading

    def _read(self, store: Store, days: list[date]) -> None:
        run: list[_Session] = []
        altered: list[BrokenFileError] = []
        with ThreadPoolExecutor(threads := store.readers()) as pool:
            found = _ahead(pool, lambda day: _read_session(store, day), days, threads)
            for session in found:
                run.append(session)
                if sum(one.bars.num_rows for one in run) >= _RUN:
                    altered += self._add(store, run)
                    run = []
        altered += self._add(store, run)
        # Before a row of them is spread over other files, or proves these.
        if altered:
            raise BrokenFileError("; ".join(map(str, altered)))
        names = sorted(self._numbers)
        numbers = np.array([self._numbers[name] for name in names], np.int64)
        self._ranks = np.argsort(numbers)
        sums, rows = self._sums[:, numbers].tolist(), self._rows[numbers]
        told = zip(rows.tolist(), zip(*sums, strict=True), strict=True)
        self.fingerprints = {
            name: Fingerprint(*each) for name, each in zip(names, told, strict=True)
        }
        # A band ends with the symbol that fills it.
        filled = (np.cumsum(rows) - rows) // BAND
        begins = np.flatnonzero(np.diff(filled, prepend=-1)).tolist()
        self._bands = [names[a:b] for a, b in zip(begins, [*begins[1:], len(names)], strict=False)]
        self._firsts = [band[0] for band in self._bands]
        pa.default_memory_pool().release_unused()

    def _add(self, store: Store, sessions: Sequence[_Session]) -> list[BrokenFileError]:
        """Hash some sessions, and write them as a run; tells which of them were altered."""
        self.sessions |= {session.day: session.version for session in sessions}
        self.digests |= {session.day: Fingerprint() for session in sessions}
        filled = [session for session in sessions if session.bars.num_rows]
        if filled:
            bars = pa.concat_tables(session.bars for session in filled).combine_chunks()
            hashes = RowHashes.of(bars)
            lengths = [session.bars.num_rows for session in filled]
            begins = np.cumsum([0, *lengths[:-1]], dtype=np.int64)
            days = [session.day for session in filled]
            self.digests |= zip(days, hashes.sums(begins), strict=True)
            self._sort(bars, hashes)
        return [
            session_file.altered(
                store.url(layout.session_key(one.day)), one.digest, self.digests[one.day]
            )
            for one in sessions
            if one.digest != self.digests[one.day]
        ]

    def _sort(self, bars: pa.Table, hashes: RowHashes) -> None:
        symbols = bars["symbol"].combine_chunks().dictionary_encode()
        by_name = pc.array_sort_indices(symbols.dictionary).to_numpy()
        rank_of_row = np.argsort(by_name)[symbols.indices.to_numpy()]
        # Stable, so the sessions of a symbol stay in their order.
        order = np.argsort(rank_of_row.astype(np.int32), kind="stable")
        starts = np.flatnonzero(np.diff(rank_of_row[order], prepend=-1))
        numbers = self._numbers_of(symbols.dictionary.take(pa.array(by_name)).to_pylist())
        # Each symbol is there once, so these add up without meeting each other.
        self._sums[:, numbers] += np.stack(hashes.ordered(order).added(starts))
        self._rows[numbers] += np.diff(starts, append=len(order))
        if self._file is not None:
            pieces = self._write(self._file, bars.take(pa.array(order)).combine_chunks())
            self._runs.append(_Run(numbers, np.append(starts, len(order)), pieces))

    def _numbers_of(self, names: list[str]) -> _Places:
        numbers = [self._numbers.setdefault(name, len(self._numbers)) for name in names]
        new = len(self._numbers) - len(self._rows)
        self._sums = np.pad(self._sums, ((0, 0), (0, new)))
        self._rows = np.pad(self._rows, (0, new))
        return np.array(numbers, np.int64)

    def _write(self, file: IO[bytes], bars: pa.Table) -> list[tuple[int, int]]:
        pieces = []
        try:
            for batch in bars.to_batches(max_chunksize=_PIECE):
                data = batch.serialize()
                pieces.append((file.tell(), data.size))
                file.write(data)
        except OSError as error:
            raise StoreError(
                f"the bars of a year could not be kept in {tempfile.gettempdir()} while they are "
                f"sorted ({error}): free some room there, or let TMPDIR name another folder; a "
                "year of 11,000 symbols takes 250 MB"
            ) from error
        return pieces

    # Giving back

    def _band(self, number: int) -> Band:
        # One thread reads it, and those that need it, too, wait for that.
        with self._lock:
            for loaded, band in self._loaded:
                if loaded == number:
                    return band
            band = self._merging.submit(self._merged, self._bands[number]).result()
            self._loaded.append((number, band))
            return band

    def _merged(self, names: Sequence[str]) -> Band:
        first, last = (self._ranks[self._numbers[name]] for name in (names[0], names[-1]))
        parts = [self._part(run, int(first), int(last)) for run in self._runs]
        bars = pa.concat_tables(part for part, _ in parts)
        # Stable, and the runs stand in the order of their sessions.
        order = np.argsort(np.concatenate([ranks for _, ranks in parts]), kind="stable")
        bars = bars.take(pa.array(order)).combine_chunks()
        told = [self.fingerprints[name] for name in names]
        rows = [each.rows for each in told]
        begins = np.cumsum([0, *rows[:-1]], dtype=np.int64)
        # What is made of these rows is taken for the sessions' without being decoded again.
        if fingerprints(bars, begins) != told:
            raise StoreError(_OTHER_ROWS.format(f"from {names[0]} to {names[-1]}"))
        return Band(bars, dict(zip(names, zip(begins.tolist(), rows, strict=True), strict=True)))

    def _part(self, run: _Run, first: int, last: int) -> tuple[pa.Table, npt.NDArray[np.int32]]:
        """The rows of a run whose symbols rank from `first` to `last`, and their ranks."""
        ranks = self._ranks[run.symbols]
        a, b = np.searchsorted(ranks, [first, last + 1]).tolist()
        if a == b:
            return SCHEMA.empty_table(), np.zeros(0, np.int32)
        begin, end = int(run.starts[a]), int(run.starts[b])
        piece = begin // _PIECE
        batches = [self._piece(*at) for at in run.pieces[piece : -(-end // _PIECE)]]
        bars = pa.Table.from_batches(batches, SCHEMA).slice(begin - piece * _PIECE, end - begin)
        of_rows = np.repeat(ranks[a:b], np.diff(run.starts[a : b + 1]))
        return bars, of_rows.astype(np.int32)

    def _piece(self, offset: int, length: int) -> pa.RecordBatch:
        assert self._file is not None
        self._file.seek(offset)
        try:
            return pa.ipc.read_record_batch(pa.py_buffer(self._file.read(length)), SCHEMA)
        except (OSError, pa.ArrowException) as error:
            raise StoreError(_OTHER_ROWS.format(f"({error})")) from error


def _read_session(store: Store, day: date) -> _Session:
    key = layout.session_key(day)
    where = store.url(key)
    data, version = store.get_versioned(key)
    bars, digest = session_file.decode_with_digest(data, where)
    if strange := [other for other in pc.unique(bars["session"]).to_pylist() if other != day]:
        raise BrokenFileError(f"{where} holds rows of {strange[0]}: collect the session again")
    return _Session(day, version, bars, digest)


def _ahead(
    pool: ThreadPoolExecutor, do: Callable[[_In], _Out], items: Iterable[_In], ahead: int
) -> Iterator[_Out]:
    """The results in their order, of which so many at most wait for who takes them.

    `Executor.map` would do everything at once, and hold whatever comes faster than it is used.
    """
    waiting: deque[Future[_Out]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(do, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
