"""Symbols as an axis: what is known of thousands of them, in arrays with one value for each.

Belongs here: the axis, and subsets of it. Does not belong here: what is known (`report`, `audit`).

A set of strings costs about 50 ns for each symbol and operation, an array of flags about 1 ns. All
sessions of a window share one axis, so that sets become arrays without looking up a name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int32]


class Symbols:
    """Symbols in ascending order, each once.

    Args:
        names: The symbols, in any order.
    """

    def __init__(self, names: Iterable[str]) -> None:
        ordered = sorted(set(names))
        self.names: npt.NDArray[np.object_] = np.array(ordered, dtype=object)
        self._place = {name: place for place, name in enumerate(ordered)}

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


@dataclass(slots=True, eq=False)
class Subset:
    """Some of the symbols of an axis.

    Args:
        symbols: The axis.
        flags: For each of its symbols: does it belong here?
    """

    symbols: Symbols
    flags: Flags
    _elsewhere: tuple[Symbols, Flags] | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """The subset that is its whole axis."""
        symbols = Symbols(names)
        return cls(symbols, np.ones(len(symbols), bool))

    def on(self, symbols: Symbols) -> Flags:
        """Which symbols of an axis, this one's or another, belong here?

        The sessions of a window ask for the same axis again and again, so the last is remembered.
        """
        if symbols is self.symbols:
            return self.flags
        if self._elsewhere is None or self._elsewhere[0] is not symbols:
            self._elsewhere = symbols, symbols.flags(self.symbols.named(self.flags))
        return self._elsewhere[1]
