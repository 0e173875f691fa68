"""Fingerprints of bars: the same rows, in whatever order and whichever files, have the same.

Belongs here: hashing rows. Does not belong here: what is compared with what (`symbol_years`).

Each row is hashed over its exact bits, and the hashes of many rows are added up, so that the
fingerprint of a year is the sum of its symbols' and equally the sum of its sessions'. That is what
lets two layouts of the same rows be held against each other without sorting either. It tells
accidents, not attacks: a row's hash has 64 bits, mixed in two ways, and is not cryptographic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.progress import many
from datalake_assets.collection.symbols import Symbols

Words = npt.NDArray[np.uint64]

_COLUMNS = [name for name in SCHEMA.names if name != "symbol"]
_LANES = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03))
_MASK = (1 << 64) - 1
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST_SHIFT = np.uint64(31)
_NULL = np.uint64(0x7FF4_6E75_6C6C_2E2E)
"""What is mixed into the hash of a row where a value is missing."""

_BLOCK = 32_768
"""Rows that are hashed at once: their words stay in the processor's cache over all columns."""

_PART = 8 * _BLOCK
"""Rows whose hashes are kept at once while only their sum is wanted."""

_SIGNED: Mapping[int, np.dtype[Any]] = {4: np.dtype(np.int32), 8: np.dtype(np.int64)}
"""Whole numbers by their width in bytes."""

FINGERPRINT = pa.binary(16)
"""How a fingerprint is stored, beside the number of rows."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The number of some rows, and the sums of their hashes.

    Two of them can be added: the fingerprint of both sets of rows together.
    """

    rows: int = 0
    sums: tuple[int, int] = (0, 0)

    def __add__(self, other: Fingerprint) -> Fingerprint:
        low, high = ((mine + its) & _MASK for mine, its in zip(self.sums, other.sums, strict=True))
        return Fingerprint(self.rows + other.rows, (low, high))

    def __str__(self) -> str:
        return f"{many(self.rows, 'row')}, {self.digest.hex()}"

    @property
    def digest(self) -> bytes:
        """The sums as 16 bytes."""
        return b"".join(part.to_bytes(8, "big") for part in self.sums)

    def to_text(self) -> str:
        """Rows and digest as text, for metadata."""
        return f"{self.rows}:{self.digest.hex()}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read back what `to_text` gave.

        Raises:
            ValueError: It is no such text.
        """
        rows, _, digest = text.partition(":")
        if len(digest) != 2 * FINGERPRINT.byte_width:
            raise ValueError(f"{text!r} is no fingerprint")
        return cls.of_digest(int(rows), bytes.fromhex(digest))

    @classmethod
    def of_digest(cls, rows: int, digest: bytes) -> Self:
        """Read back what `digest` gave."""
        return cls(rows, (int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")))


def fingerprint(bars: pa.Table, symbols: Words | None = None) -> Fingerprint:
    """The fingerprint of all rows.

    Args:
        bars: The rows.
        symbols: The hash of each row's symbol, where they are known already.
    """
    total = Fingerprint()
    for start in range(0, bars.num_rows, _PART):
        words = None if symbols is None else symbols[start : start + _PART]
        total += RowHashes.of(bars.slice(start, _PART), words).sum()
    return total


_AXES: WeakKeyDictionary[Symbols, Words] = WeakKeyDictionary()


def symbol_hashes(symbols: Symbols) -> Words:
    """The hash of each symbol of an axis.

    They are kept as long as the axis is: hashing the 5,000 symbols of a session takes 5 ms, and
    the windows of a backfill have the same.
    """
    if (words := _AXES.get(symbols)) is None:
        words = _AXES[symbols] = _words(symbols.names.tolist())
    return words


def fingerprints(bars: pa.Table, starts: npt.NDArray[np.int64]) -> list[Fingerprint]:
    """The fingerprint of each run of rows.

    Args:
        bars: The rows, at least one.
        starts: Where each run begins, ascending, the first at 0.
    """
    return RowHashes.of(bars).sums(starts)


def fingerprints_of(tables: Sequence[pa.Table], symbols: Sequence[Words]) -> list[Fingerprint]:
    """The fingerprint of each table, where there are many small ones.

    They are hashed a block at a time. A session alone is a hundred operations on 20 KB each, and
    numpy gives Python's lock up for each of them: where other threads want it, that takes three
    times as long as to hash.

    Args:
        tables: The tables.
        symbols: For each of them the hash of each row's symbol.
    """
    found = [Fingerprint()] * len(tables)
    block: list[int] = []
    size = 0
    for number, table in enumerate(tables):
        if table.num_rows:
            block.append(number)
            size += table.num_rows
        if block and (size >= _BLOCK or number == len(tables) - 1):
            rows = pa.concat_tables([tables[each] for each in block])
            hashes = RowHashes.of(rows, np.concatenate([symbols[each] for each in block]))
            ends = np.cumsum([tables[each].num_rows for each in block])
            starts = np.concatenate([[0], ends[:-1]])
            for each, told in zip(block, hashes.sums(starts), strict=True):
                found[each] = told
            block, size = [], 0
    return found


@dataclass(frozen=True, slots=True)
class RowHashes:
    """Two hashes of each row of a table, each of 64 bits: hashed once, added up in several ways."""

    low: Words
    high: Words

    @classmethod
    def of(cls, bars: pa.Table, symbols: Words | None = None) -> Self:
        """Of these rows, in their order; `symbols` as for `fingerprint`."""
        hashed = _symbols(bars["symbol"]) if symbols is None else symbols
        columns = [_bits(each) for each in bars.select(_COLUMNS).combine_chunks().itercolumns()]
        low, high = (np.empty(bars.num_rows, np.uint64) for _ in _LANES)
        scratch = np.empty(min(bars.num_rows, _BLOCK), np.uint64)
        for start in range(0, bars.num_rows, _BLOCK):
            rows = slice(start, start + _BLOCK)
            state, other = low[rows], high[rows]
            spare = scratch[: len(state)]
            state[:] = hashed[rows]
            for bits, missing in columns:
                np.multiply(state, _LANES[0], out=state)
                np.bitwise_xor(state, bits[rows], out=state)
                _mix(state, spare)
                if missing is not None:
                    # Once more: each word of 64 bits is some number's, and none stands for a null.
                    absent = missing[rows]
                    again = state[absent] ^ _NULL
                    _mix(again, np.empty_like(again))
                    state[absent] = again
            np.bitwise_xor(state, _LANES[1], out=other)
            _mix(other, spare)
            np.bitwise_xor(state, _LANES[0], out=state)
            _mix(state, spare)
        return cls(low, high)

    def ordered(self, order: npt.NDArray[np.int64]) -> RowHashes:
        """Those of the rows in another order."""
        return RowHashes(self.low[order], self.high[order])

    def sum(self) -> Fingerprint:
        """The fingerprint of all rows."""
        low, high = (int(lane.sum(dtype=np.uint64)) for lane in (self.low, self.high))
        return Fingerprint(len(self.low), (low, high))

    def added(self, starts: npt.NDArray[np.int64]) -> tuple[Words, Words]:
        """The two sums of each run of rows; `starts` as for `fingerprints`."""
        low, high = (np.add.reduceat(lane, starts) for lane in (self.low, self.high))
        return low, high

    def sums(self, starts: npt.NDArray[np.int64]) -> list[Fingerprint]:
        """The fingerprint of each run of rows; `starts` as for `fingerprints`."""
        low, high = (lane.tolist() for lane in self.added(starts))
        counts = np.diff(np.append(starts, len(self.low))).tolist()
        return [
            Fingerprint(*told) for told in zip(counts, zip(low, high, strict=True), strict=True)
        ]


def _symbols(symbols: pa.ChunkedArray) -> Words:
    encoded = symbols.combine_chunks().dictionary_encode()
    words = _words(encoded.dictionary.to_pylist())
    hashed: Words = words[encoded.indices.to_numpy(zero_copy_only=False)]
    return hashed


def _words(names: Iterable[str]) -> Words:
    return np.array([_word(name) for name in names], np.uint64)


@lru_cache(1 << 16)
def _word(symbol: str) -> int:
    # Every session has nearly the same symbols as the one before.
    return int.from_bytes(hashlib.blake2b(symbol.encode(), digest_size=8).digest(), "big")


def _bits(column: pa.ChunkedArray) -> tuple[Words, npt.NDArray[np.bool_] | None]:
    """The column's values as they are, bit by bit, and which are missing; None when none is.

    -0.0 is not 0.0, and a NaN is itself. A null is 0: what lies below it in memory says nothing.

    Args:
        column: In one piece.
    """
    if not len(column):
        return np.empty(0, np.uint64), None
    array = column.chunk(0)
    width = array.type.bit_width // 8
    # Arrow's memory itself: its kernels would cast a session's column as long as it takes to hash.
    numbers = np.frombuffer(array.buffers()[1], _SIGNED[width], len(array), array.offset * width)
    bits = numbers.astype(np.int64, copy=False).view(np.uint64)
    if not array.null_count:
        return bits, None
    missing = array.is_null().to_numpy(zero_copy_only=False)
    return np.where(missing, np.uint64(0), bits), missing


def _mix(words: Words, spare: Words) -> None:
    """Mix the bits of each word in its place: the finalizer of splitmix64 (Steele et al., 2014).

    Args:
        words: The words.
        spare: As many words, which are overwritten.
    """
    for shift, factor in _ROUNDS:
        np.right_shift(words, shift, out=spare)
        np.bitwise_xor(words, spare, out=words)
        np.multiply(words, factor, out=words)
    np.right_shift(words, _LAST_SHIFT, out=spare)
    np.bitwise_xor(words, spare, out=words)
