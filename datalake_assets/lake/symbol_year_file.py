"""The symbol-year file: one symbol's bars of one year as Parquet.

Belongs here: the bytes of one file. Does not belong here: where it lies (`layout`) and when it is
written (`symbol_years`).

Nothing but the bars is in it, so the same bars make the same bytes: what is known about them
stands in the session files that they come from, and in the year's manifest.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from datalake_assets.collection.bars import SCHEMA
from datalake_assets.storage.store import BrokenFileError


def encode(bars: pa.Table) -> bytes:
    """The bars, in `SCHEMA` and ordered by session, as a Parquet file."""
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(
        buffer,
        SCHEMA,
        # With zstd a file is a quarter smaller and takes twice the time, to write and to read: most
        # of that is set-up, for each of ten columns of 2 KB.
        compression="snappy",
        # Of 252 rows half the file is about the rows. A dictionary pays for the one symbol only,
        # and readers prune by session alone. Deltas would save a sixth, but fastparquet reads them
        # wrong without an error; byte-split encodings it does not read at all.
        use_dictionary=["symbol"],
        write_statistics=["session"],
        store_schema=False,
        # Snappy as Parquet uses it has no checksum: a flipped bit would be another price.
        write_page_checksum=True,
    ) as writer:
        writer.write_table(bars)
    return bytes(buffer.getvalue())


def decode(data: bytes, where: str, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
    """The bars in a file, or some columns of them.

    Args:
        data: The file.
        where: Its place, for the message.
        columns: Which, in the order of `SCHEMA`; others are not decoded.

    Raises:
        BrokenFileError: The bytes are no whole symbol-year file.
    """
    every = columns == SCHEMA.names
    try:
        # What `ParquetFile` reads with: of a file this small a tenth of the time is its own.
        file = pq.ParquetReader()
        file.open(
            pa.BufferReader(data),
            page_checksum_verification=True,
            pre_buffer=False,  # what is in memory needs no thread to fetch it
        )
        places = None if every else [file.column_name_idx(name) for name in columns]
        bars = file.read_all(places, use_threads=False)  # decoded faster by one thread, too
        if bars.schema.metadata:
            bars = bars.replace_schema_metadata(None)
        schema = SCHEMA if every else pa.schema([SCHEMA.field(name) for name in columns])
        return bars if bars.schema == schema else bars.cast(schema)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise BrokenFileError(
            f"{where} is no whole symbol-year file ({error!r}): publish its year again"
        ) from error
