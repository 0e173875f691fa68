"""Session files made for a lake, damaged, and taken apart to compare what must be the same."""

import struct
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.report import Ledger
from datalake_assets.lake import session_file
from datalake_assets.lake.session_file import Provenance, Session


def collected(day: date, bars: pa.Table, minutes: float = 0, **states: Any) -> Session:
    """A session with these bars, collected so many minutes after another."""
    at = datetime(2026, 1, 5, 22, tzinfo=UTC) + timedelta(minutes=minutes)
    ledger = Ledger(day, present=tuple(bars["symbol"].to_pylist()), **states)
    return Session(bars, ledger, Provenance(at, "alpaca/sip", day, f"run {minutes}", "0"))


def session_bytes(day: date, bars: pa.Table, minutes: float = 0, **states: Any) -> bytes:
    """The file of such a session, not audited."""
    return session_file.encode(collected(day, bars, minutes, **states), [])


def flipped(data: bytes, place: int, bit: int) -> bytes:
    """The bytes with one bit the other way."""
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def metadata(data: bytes) -> dict[bytes, bytes]:
    """The texts that a session file carries."""
    return dict(pq.read_metadata(pa.BufferReader(data)).metadata)


def rewritten(data: bytes, bars: pa.Table) -> bytes:
    """The file as another program leaves it that changes rows and keeps what it says of itself."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, SCHEMA, compression="zstd", store_schema=False) as writer:
        writer.write_table(bars.cast(SCHEMA))
        writer.add_key_value_metadata(metadata(data))
    return bytes(sink.getvalue())


def footer_size(data: bytes) -> int:
    """Bytes of the footer, with its length and the magic number behind it."""
    (length,) = struct.unpack("<i", data[-8:-4])
    return int(length) + 8


def before_footer(data: bytes) -> bytes:
    """The bars: everything but the footer."""
    return data[: -footer_size(data)]


def alike_but_for(one: bytes, other: bytes, *keys: bytes) -> bool:
    """Are two files the same, byte by byte, but for these texts and the digest of all?"""
    told, tells = metadata(one), metadata(other)
    for key in (*keys, b"datalake.digest"):
        told.pop(key)
        tells.pop(key)
    return before_footer(one) == before_footer(other) and told == tells
