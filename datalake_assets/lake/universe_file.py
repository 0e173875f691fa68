"""The universe file: a snapshot of the source's list of assets as Parquet.

Belongs here: the bytes of one file. Does not belong here: where it lies (`layout`) and when it is
written (`writer`).
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from datalake_assets.collection.universe import SCHEMA
from datalake_assets.storage.store import BrokenFileError


def encode(snapshot: pa.Table) -> bytes:
    """The snapshot, in `SCHEMA` and with its metadata, as a Parquet file."""
    buffer = pa.BufferOutputStream()
    # zstd as Parquet uses it has no checksum: a flipped bit would be another name.
    with pq.ParquetWriter(
        buffer, SCHEMA, compression="zstd", store_schema=False, write_page_checksum=True
    ) as writer:
        writer.write_table(snapshot.replace_schema_metadata(None).cast(SCHEMA))
        # What could not be taken of the source's list.
        writer.add_key_value_metadata(snapshot.schema.metadata or {})
    return bytes(buffer.getvalue())


def decode(data: bytes, where: str) -> pa.Table:
    """The snapshot in a file.

    Args:
        data: The file.
        where: Its place, for the message.

    Raises:
        BrokenFileError: The bytes are no whole snapshot.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        schema = SCHEMA.with_metadata(file.metadata.metadata)
        return file.read(use_threads=False).cast(schema)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise BrokenFileError(
            f"{where} is no whole snapshot of the universe ({error!r}): remove it, and the next "
            "collection takes another"
        ) from error
