"""Symbols as an axis: what is known of thousands of them, in arrays with one value for each.

Belongs here: the axis, and subsets of it. Does not belong here: what is known (`report`, `audit`).

A set of strings costs about 50 ns for each symbol and operation, an array of flags about 1 ns. The
sessions of a window share one axis, as do windows with the same symbols, so that sets become arrays
without looking up a name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int32]

Bits = int
"""Flags as one number, the first of them the highest bit of whole bytes; the bits that fill up the
last byte are 0. Python compares 5,000 of them in 0.07 µs and keeps its lock, which numpy gives up
for each operation."""


def bits_of(flags: Flags) -> Bits:
    """Flags as one number."""
    (bits,) = rows_of_bits(flags[np.newaxis])
    return bits


def rows_of_bits(rows: Flags) -> list[Bits]:
    """Each row of flags as one number."""
    return [int.from_bytes(row.tobytes(), "big") for row in np.packbits(rows, axis=1)]


class Symbols:
    """Symbols in ascending order, each once.

    Args:
        names: The symbols, in any order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        ordered = sorted(set(names))
        self.names: npt.NDArray[np.object_] = np.array(ordered, dtype=object)
        self.names.flags.writeable = False  # many share it
        self._place = {name: place for place, name in enumerate(ordered)}

    @staticmethod
    def shared(names: Iterable[str]) -> Symbols:
        """The axis of these symbols, mostly the same object as the last time that it was asked for.

        The windows of a backfill have the same symbols. What is kept with their axis, such as the
        hashes of the names and other subsets on it, is then made once for all of them.
        """
        return _shared(frozenset(names))

    def __len__(self) -> int:
        return len(self._place)

    def __repr__(self) -> str:
        ends = f" ({self.names[0]} … {self.names[-1]})" if len(self) else ""
        return f"Symbols({len(self):,}{ends})"

    @cached_property
    def column(self) -> pa.Array:
        """The symbols as Arrow has them."""
        return pa.array(self.names, pa.string())

    def places(self, symbols: Iterable[str]) -> Places:
        """Where these symbols stand.

        Raises:
            KeyError: One is not there.
        """
        return np.fromiter((self._place[symbol] for symbol in symbols), np.int32)

    def flags(self, symbols: Iterable[str]) -> Flags:
        """For each symbol: is it one of these? Others are left out."""
        flags = np.zeros(len(self), bool)
        flags[[self._place[symbol] for symbol in symbols if symbol in self._place]] = True
        return flags

    def named(self, flags: Flags) -> tuple[str, ...]:
        """The symbols with a flag, ascending."""
        return tuple(self.names[flags].tolist())

    def with_bits(self, bits: Bits) -> tuple[str, ...]:
        """The symbols with a bit, ascending."""
        if not bits:
            return ()
        packed = np.frombuffer(bits.to_bytes(-(-len(self) // 8), "big"), np.uint8)
        return self.named(np.unpackbits(packed, count=len(self)).view(bool))

    def first_with_bits(self, bits: Bits, most: int) -> tuple[str, ...]:
        """The first symbols with a bit, ascending, and no more than `most`.

        Of a few this keeps Python's lock, which `with_bits` gives up and has to wait for.
        """
        found, end = list[str](), -(-len(self) // 8) * 8
        while bits and len(found) < most:
            left = bits.bit_length()
            found.append(self.names[end - left])
            bits ^= 1 << (left - 1)
        return tuple(found)


@lru_cache(maxsize=2)  # the daily bars' and the minutes'
def _shared(names: frozenset[str]) -> Symbols:
    return Symbols(names)


@dataclass(slots=True, eq=False)
class Subset:
    """Some of the symbols of an axis.

    Args:
        symbols: The axis.
        bits: For each of its symbols: does it belong here?
    """

    symbols: Symbols
    bits: Bits
    _elsewhere: tuple[Symbols, Bits] | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """The subset that is its whole axis."""
        symbols = Symbols(names)
        return cls(symbols, bits_of(np.ones(len(symbols), bool)))

    def on(self, symbols: Symbols) -> Bits:
        """Which symbols of an axis, this one's or another, belong here?

        The sessions of a window ask for the same axis again and again, so the last is remembered.
        """
        if symbols is self.symbols:
            return self.bits
        if self._elsewhere is None or self._elsewhere[0] is not symbols:
            names = self.symbols.with_bits(self.bits)
            self._elsewhere = symbols, bits_of(symbols.flags(names))
        return self._elsewhere[1]
