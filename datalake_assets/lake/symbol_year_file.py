"""The symbol-year file: one symbol's bars of one year as Parquet.

Belongs here: the bytes of one file. Does not belong here: where it lies (`layout`) and when it is
written (`symbol_years`).

Nothing but the bars is in it, so the same bars make the same bytes: what is known about them
stands in the session files that they come from, and in the year's manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from datalake_assets.collection.bars import SCHEMA
from datalake_assets.storage.store import BrokenFileError

_Given = ParamSpec("_Given")
_Out = TypeVar("_Out")


def encode(bars: pa.Table) -> bytes:
    """The bars, in `SCHEMA` and ordered by session, as a Parquet file."""
    (data,) = encode_all([bars])
    return data


def encode_all(bars: Iterable[pa.Table]) -> list[bytes]:
    """The files of several symbol-years, each as from `encode`, in seven eighths of the time.

    As when they are decoded, each step is done for all before the next one. 16 at a time are best.
    """
    begun = [(*_begin(), rows) for rows in bars]
    for _, writer, rows in begun:
        writer.write_table(rows)
    for _, writer, _ in begun:
        writer.close()
    return [bytes(buffer.getvalue()) for buffer, _, _ in begun]


def _begin() -> tuple[pa.BufferOutputStream, pq.ParquetWriter]:
    buffer = pa.BufferOutputStream()
    writer = pq.ParquetWriter(
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
    )
    return buffer, writer


def decode(data: bytes, where: str, columns: Sequence[str] = SCHEMA.names) -> pa.Table:
    """The bars in a file, or some columns of them.

    Args:
        data: The file.
        where: Its place, for the message.
        columns: Which, in the order of `SCHEMA`; others are not decoded.

    Raises:
        BrokenFileError: The bytes are no whole symbol-year file.
    """
    (found,) = decode_all({where: data}, columns)
    if isinstance(found, BrokenFileError):
        raise found
    return found


def decode_all(
    files: Mapping[str, bytes], columns: Sequence[str] = SCHEMA.names
) -> list[pa.Table | BrokenFileError]:
    """The bars of several files, each as from `decode`, or the error that it would raise.

    All are opened before the first is decoded, in five sixths of the time: both are much code for
    little data, and taking turns they would push each other out of the processor's cache.

    Args:
        files: The files, by their places.
        columns: As for `decode`.
    """
    opened = {where: _whole(where, _open, data) for where, data in files.items()}
    return [
        file if isinstance(file, BrokenFileError) else _whole(where, _bars, file, columns)
        for where, file in opened.items()
    ]


def _whole(
    where: str, do: Callable[_Given, _Out], *given: _Given.args, **kwargs: _Given.kwargs
) -> _Out | BrokenFileError:
    """What comes of reading a file; the error when that shows that it is damaged."""
    try:
        return do(*given, **kwargs)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        return _broken(where, error)


def _broken(where: str, cause: Exception) -> BrokenFileError:
    broken = BrokenFileError(
        f"{where} is no whole symbol-year file ({cause!r}): publish its year again"
    )
    broken.__cause__ = cause
    return broken


def _open(data: bytes) -> pq.ParquetReader:
    # What `ParquetFile` reads with: of a file this small a tenth of the time is its own.
    file = pq.ParquetReader()
    file.open(
        pa.BufferReader(data),
        page_checksum_verification=True,
        pre_buffer=False,  # what is in memory needs no thread to fetch it
    )
    return file


def _bars(file: pq.ParquetReader, columns: Sequence[str]) -> pa.Table:
    every = columns == SCHEMA.names
    places = None if every else [file.column_name_idx(name) for name in columns]
    bars = file.read_all(places, use_threads=False)  # decoded faster by one thread, too
    if bars.schema.metadata:
        bars = bars.replace_schema_metadata(None)
    schema = SCHEMA if every else pa.schema([SCHEMA.field(name) for name in columns])
    return bars if bars.schema == schema else bars.cast(schema)
