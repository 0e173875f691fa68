"""Session files taken apart, to compare what must be the same in two of them."""

import struct

import pyarrow as pa
import pyarrow.parquet as pq


def metadata(data: bytes) -> dict[bytes, bytes]:
    """The texts that a session file carries."""
    return dict(pq.read_metadata(pa.BufferReader(data)).metadata)


def footer_size(data: bytes) -> int:
    """Bytes of the footer, with its length and the magic number behind it."""
    (length,) = struct.unpack("<i", data[-8:-4])
    return int(length) + 8


def before_footer(data: bytes) -> bytes:
    """The bars: everything but the footer."""
    return data[: -footer_size(data)]


def alike_but_for(one: bytes, other: bytes, *keys: bytes) -> bool:
    """Are two files the same, byte by byte, but for these texts?"""
    told, tells = metadata(one), metadata(other)
    for key in keys:
        told.pop(key)
        tells.pop(key)
    return before_footer(one) == before_footer(other) and told == tells
