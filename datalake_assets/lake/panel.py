"""A panel: sessions down, securities across, one value of the bars in each cell.

Belongs here: from bars by security to such a table, and how its columns are named. Does not belong
here: which bars (`security_reader`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.collection.bars import SCHEMA
from datalake_assets.lake.security_reader import Stretch
from datalake_assets.securities.evidence import days_of

FIELDS = tuple(name for name in SCHEMA.names if name not in ("symbol", "session"))


def field_of(field: str) -> str:
    """The column that is meant; ValueError when bars have none of that name."""
    name = str(field).strip().lower()
    if name not in FIELDS:
        raise ValueError(f"bars have no field {field!r}: give one of {', '.join(FIELDS)}")
    return name


def panel(
    bars: pa.Table, field: str, stretches: Sequence[Stretch], sessions: Sequence[date]
) -> pa.Table:
    """A column of the bars, as sessions × securities.

    Args:
        bars: By stretch and session.
        field: The column.
        stretches: The securities, each with its rows.
        sessions: The rows of the panel, ascending; every bar's session is one of them.

    Returns:
        The column `session`, then one for each security, null where it has no bar. A column's
        metadata tells its `security`.
    """
    axis = pa.array(sessions, pa.date32())
    places = np.searchsorted(days_of(pa.chunked_array([axis])), days_of(bars["session"]))
    values = bars[field].combine_chunks()
    kind = values.type
    names = names_of(stretches, bars)
    # As numbers of 64 bits, and back: a time is one, too.
    plain = values.cast(pa.int64()) if pa.types.is_timestamp(kind) else values
    there = plain.is_valid().to_numpy(zero_copy_only=False)
    numbers = pc.fill_null(plain, 0).to_numpy(zero_copy_only=False)
    columns: list[pa.Array] = [axis]
    fields = [pa.field("session", pa.date32(), nullable=False)]
    for stretch, name in zip(stretches, names, strict=True):
        rows = slice(stretch.start, stretch.stop)
        cells = np.zeros(len(sessions), numbers.dtype)
        missing = np.ones(len(sessions), bool)
        cells[places[rows]], missing[places[rows]] = numbers[rows], ~there[rows]
        columns.append(pa.array(cells, mask=missing).cast(kind))
        told = None if stretch.security is None else {"security": stretch.security}
        fields.append(pa.field(name, kind, metadata=told))
    return pa.table(columns, schema=pa.schema(fields))


def names_of(stretches: Sequence[Stretch], bars: pa.Table) -> list[str]:
    """The name of each security's column: its newest ticker among the bars.

    When several had the same one, the latest keeps it, and the others go by their identifiers.
    """
    ends = bars["session"].take(pa.array([one.stop - 1 for one in stretches], pa.int64()))
    latest: dict[str, tuple[date, int]] = {}
    for number, (stretch, end) in enumerate(zip(stretches, ends.to_pylist(), strict=True)):
        latest[stretch.symbol] = max(latest.get(stretch.symbol, (end, number)), (end, number))
    return [
        one.symbol
        if latest[one.symbol][1] == number
        else one.security or f"{one.symbol} without a security"
        for number, one in enumerate(stretches)
    ]
