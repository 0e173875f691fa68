"""Adjusting: raw bars times the factors of their spans.

Belongs here: which kinds of adjustment there are, finding the span of each bar, multiplying. Does
not belong here: where factors come from (`factors`), or which bars somebody asked for (`lake`).

The order of the multiplications is fixed (`tables.CUMULATIVE`), and multiplying by 1 changes no
bit. So a join in SQL gives the same numbers, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.collection.bars import PRICES
from datalake_assets.securities.evidence import Days, days_of, encode

KINDS = {"split": "split", "spin-off": "spin_off", "dividend": "dividend"}
"""The kinds of adjustment and their columns in `tables.CUMULATIVE`, in the order in which prices
are multiplied."""

RAW, ALL = "raw", "all"

_PRICES = (*PRICES, "vwap")

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def several(name: str, given: str | Iterable[str]) -> list[str]:
    """One text, or several, as a list.

    Args:
        name: What they are, for the error.
        given: What an argument is.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(given, str):
        return [given]
    told: object = given  # a notebook has no type checker
    if isinstance(told, bytes) or not isinstance(told, Iterable):
        raise ValueError(f"{name} {given!r} is neither a text nor several: give one or a list")
    return list(given)


def kinds(adjustment: str | Iterable[str]) -> tuple[str, ...]:
    """The kinds that are meant, in the order of `KINDS`; none of them for raw bars.

    Args:
        adjustment: "raw", "all", or one or several of "split", "spin-off" and "dividend", as a
            sequence or separated by commas.

    Raises:
        ValueError: Another word, none at all, or "raw" beside others.
    """
    given = several("adjustment", adjustment)
    words = given[0].split(",") if isinstance(adjustment, str) else given
    named = {str(word).strip().lower() for word in words}
    known = (RAW, *KINDS, ALL)
    if unknown := sorted(named.difference(known)):
        near = get_close_matches(unknown[0].replace("_", "-"), known, 1)
        raise ValueError(
            f"adjustment {unknown[0]!r} is unknown"
            + (f" (do you mean {near[0]!r}?)" if near else "")
            + ": give raw, all, or one or more of "
            + ", ".join(KINDS)
        )
    if not named or (RAW in named and len(named) > 1):
        raise ValueError(
            f"adjustment {adjustment!r} says both raw and adjusted: give one of them"
            if named
            else "no adjustment is given: give raw, all, or one or more of " + ", ".join(KINDS)
        )
    return tuple(kind for kind in KINDS if kind in named or ALL in named)


class Spans:
    """The factors of a lake, ready to be looked up.

    `codes` has a number per row of `table`, the same for the same ticker; `securities` the names,
    each once.

    Args:
        cumulative: Rows of `tables.CUMULATIVE`; fastest when they are in its order.
    """

    def __init__(self, cumulative: pa.Table) -> None:
        self.table = _ordered(cumulative)
        symbols = encode(self.table["symbol"])
        self._code = {symbol: code for code, symbol in enumerate(symbols.dictionary.to_pylist())}
        self.codes = symbols.indices.to_numpy().astype(np.int64)
        self._last = days_of(self.table["last_session"])
        self._keys = _keys(self.codes, days_of(self.table["first_session"]))
        self._factors = {
            # A bar without a span has the row -1: the last one here, a factor of 1.
            name: np.append(self.table[name].to_numpy(), 1.0)
            for name in (*KINDS.values(), "total_return", "volume")
        }
        securities = encode(self.table["security"])
        self.securities: list[str] = securities.dictionary.to_pylist()
        self._place = {name: place for place, name in enumerate(self.securities)}
        self._security = np.append(securities.indices.to_numpy().astype(np.int64), -1)

    def rows(self, bars: pa.Table) -> Rows:
        """For each bar the row of its span in `table`; -1 where it has none."""
        symbols = encode(bars["symbol"])
        # Once per ticker, not per bar.
        codes = np.array([self._code.get(name, -1) for name in symbols.dictionary.to_pylist()])
        if not len(self._keys) or not len(codes):
            return np.full(bars.num_rows, -1, np.int64)
        code = codes.astype(np.int64)[symbols.indices.to_numpy()]
        days = days_of(bars["session"])
        found = np.searchsorted(self._keys, _keys(code, days), side="right") - 1
        inside = (code >= 0) & (self.codes[found] == code) & (days <= self._last[found])
        return np.where(inside & (found >= 0), found, -1)

    def security(self, rows: Rows) -> Rows:
        """For each of these rows the place of its security in `securities`; -1 where none is."""
        return self._security[rows]

    def among(self, securities: Iterable[str]) -> Flags:
        """By the place in `securities`: is it one of these? False at the end, for none (-1)."""
        flags = np.zeros(len(self.securities) + 1, dtype=bool)
        flags[[self._place[name] for name in securities if name in self._place]] = True
        return flags

    def factor(self, column: str, rows: Rows) -> Floats:
        """A column of factors for these rows; 1 where there is no span."""
        return self._factors[column][rows]

    def adjusted(self, bars: pa.Table, rows: Rows, adjust: Sequence[str]) -> pa.Table:
        """The bars in units of the newest session.

        Prices and vwap are multiplied; the number of trades stays. Volume is multiplied when
        splits are adjusted, and is then float64, since a share of old may be a part of a new one;
        else it stays int64.

        Args:
            bars: Raw bars, with some columns of `collection.bars.SCHEMA` and perhaps others.
            rows: Their spans, as `rows` gives them.
            adjust: The kinds, as `kinds` gives them.
        """
        factors = [self.factor(column, rows) for kind, column in KINDS.items() if kind in adjust]
        factors = [factor for factor in factors if (factor != 1.0).any()]
        for name in (each for each in _PRICES if factors and each in bars.column_names):
            values = bars[name]
            for factor in factors:
                values = pc.multiply(values, pa.array(factor))  # what is null stays so
            bars = _with(bars, name, values)
        if "split" in adjust and "volume" in bars.column_names:
            volume = bars["volume"].cast(pa.float64())
            factor = pa.array(self.factor("volume", rows))
            bars = _with(bars, "volume", pc.multiply(volume, factor))
        return bars


def _ordered(cumulative: pa.Table) -> pa.Table:
    """By ticker and first session, as the table mostly is already."""
    symbols = encode(cumulative["symbol"]).indices.to_numpy().astype(np.int64)
    keys = _keys(symbols, days_of(cumulative["first_session"]))
    if (np.diff(keys) > 0).all():
        return cumulative.combine_chunks()
    by = [("symbol", "ascending"), ("first_session", "ascending")]
    return cumulative.sort_by(by).combine_chunks()


def _keys(codes: Rows, days: Days) -> Rows:
    """One number by which ticker and day are ordered; days of the calendar are above zero."""
    keys: Rows = (codes << 32) + days
    return keys


def _with(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    field = table.schema.field(name).with_type(values.type)
    return table.set_column(table.schema.get_field_index(name), field, values)
