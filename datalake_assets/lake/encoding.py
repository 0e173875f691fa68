"""How the bars of a session are written as Parquet: one value for each dataset.

Belongs here: the settings of Parquet's writer, and where row groups end. Does not belong here: what
a file says of itself (`session_file`), and where it lies (`layout`).

Readers need none of this: a Parquet file tells its own encodings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets.collection.bars import SCHEMA

_Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a dataset's session file is written.

    Args:
        order: The columns that its rows are sorted by. No two rows have the same values in them.
        group_rows: How many rows a row group has.
        whole_symbols: Whether a row group ends only where a symbol ends. It then has at least
            `group_rows` rows, but for the last one, and fewer than a symbol's rows more.
        dictionary: The columns with a dictionary.
        statistics: The columns with statistics.
    """

    order: tuple[str, ...]
    group_rows: int
    whole_symbols: bool
    dictionary: tuple[str, ...]
    statistics: tuple[str, ...]


DAILY_ENCODING = Encoding(
    order=("symbol",),
    group_rows=65_536,
    whole_symbols=False,
    # Only these two repeat within a session. Statistics serve the columns that readers filter by; a
    # file is read whole or by symbol.
    dictionary=("session", "timestamp"),
    statistics=("symbol", "session"),
)
"""One bar for each symbol: a file of 5,000 rows, which is read whole."""

MINUTE_ENCODING = Encoding(
    order=("symbol", "timestamp"),
    # 265 KB, and 108 KB of footer: one symbol is a read of each. Fewer rows make the footer longer,
    # and more rows the range that is read.
    group_rows=16_384,
    whole_symbols=True,
    # Prices, vwap and volume are smaller without one. Deltas would be smaller for times and
    # fastparquet reads them wrong (docs/decisions/encodings.md).
    dictionary=("symbol", "session", "timestamp", "trade_count"),
    # Engines skip the files of other sessions, and in a file the groups of other symbols.
    statistics=("symbol", "session"),
)
"""Up to 390 bars for each symbol: three million rows, of which a reader wants a few hundred."""


ENCODINGS = {"daily": DAILY_ENCODING, "minute": MINUTE_ENCODING}
"""How each dataset is written, by its name."""


def encode_bars(bars: pa.Table, metadata: Mapping[bytes, str | bytes], encoding: Encoding) -> bytes:
    """The bars as a Parquet file.

    Args:
        bars: In `SCHEMA`, in the encoding's order.
        metadata: The texts of the file's own key-value metadata.
        encoding: How it is written.
    """
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(
        buffer,
        SCHEMA,
        compression="zstd",
        use_dictionary=list(encoding.dictionary),
        write_statistics=list(encoding.statistics),
        # Sorted rows, so a reader's range on `symbol` skips whole row groups.
        sorting_columns=[pq.SortingColumn(SCHEMA.get_field_index(n)) for n in encoding.order],
        # Arrow's own schema blob would be a fifth of the footer; Parquet's types are enough.
        store_schema=False,
        # zstd as Parquet uses it has no checksum: a flipped bit would be another price.
        write_page_checksum=True,
    ) as writer:
        if encoding.whole_symbols:
            for part in _whole_symbols(bars, encoding.group_rows):
                writer.write_table(part, row_group_size=max(1, part.num_rows))
        else:
            writer.write_table(bars, row_group_size=encoding.group_rows)
        writer.add_key_value_metadata(metadata)
    return bytes(buffer.getvalue())


def _whole_symbols(bars: pa.Table, least: int) -> Iterator[pa.Table]:
    """The rows in parts of at least so many, but for the last one, that end where a symbol does."""
    if not bars.num_rows:
        yield bars
    _, counts = runs(bars["symbol"])
    ends = np.cumsum(counts)
    start = 0
    while start < bars.num_rows:
        place = min(int(np.searchsorted(ends, start + least)), len(ends) - 1)
        end = int(ends[place])
        yield bars.slice(start, end - start)
        start = end


def runs(column: pa.ChunkedArray) -> tuple[pa.Array, _Counts]:
    """The values of a column where each differs from the one before, and how many rows each has."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # as an empty column is combined
        return pa.array([], column.type), np.zeros(0, np.int64)
    found = pc.run_end_encode(array, run_end_type=pa.int64())
    return found.values, np.diff(found.run_ends.to_numpy(), prepend=0)
