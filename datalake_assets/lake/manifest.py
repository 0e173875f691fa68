"""The manifest of a year: which symbols it has, and which sessions they were made from.

Belongs here: what a manifest says, and its bytes. Does not belong here: when it is written, and in
which order with the objects that it tells of (`symbol_years`).

One small Parquet file a year, beside the symbol-years and not among them, so that a reader's
pattern over `data/ticks/daily/` finds bars only. Analysts don't need it. It lets a publication
upload only what changed, and tells our own reader whether a year is as new as its sessions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from datalake_assets.lake.fingerprint import FINGERPRINT, Fingerprint
from datalake_assets.storage.store import BrokenFileError

SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("rows", pa.int32()),
        pa.field("fingerprint", FINGERPRINT),
        pa.field("version", pa.string()),
        pa.field("size", pa.int64()),
    ]
)
"""One row per symbol-year, by symbol: its number of bars and their fingerprint, the version that
the store gave its object, and the object's length in bytes. All but the symbol are null while the
object is being written or removed: then nobody knows what is there."""

_YEAR = b"datalake.year"


@dataclass(frozen=True, slots=True)
class Entry:
    """One symbol-year as it lies in the store."""

    fingerprint: Fingerprint
    version: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is published of a year.

    Args:
        year: The year.
        sessions: The version of each session's object that the symbol-years were made from.
        symbols: Each symbol's object; None while it is being written or removed.
        run_id: Who wrote it: the Dagster run, or another caller's own mark.
        published_at: When, UTC; None while a publication is under way.
        digests: What the rows of each of these sessions hash to. It is the same wherever the lake
            lies, unlike the versions, which are there because a listing tells them.
        proved_at: When all of its symbol-years were last read and compared with the sessions, UTC;
            None when they never were.
    """

    year: int
    sessions: Mapping[date, str] = field(default_factory=dict)
    symbols: Mapping[str, Entry | None] = field(default_factory=dict)
    run_id: str = ""
    published_at: datetime | None = None
    digests: Mapping[date, Fingerprint] = field(default_factory=dict)
    proved_at: datetime | None = None

    @property
    def whole(self) -> bool:
        """Is every object what the manifest says, as no publication was cut off?"""
        return self.published_at is not None

    @property
    def fingerprint(self) -> Fingerprint:
        """Of all rows of the year that are known."""
        found = (entry.fingerprint for entry in self.symbols.values() if entry)
        return sum(found, Fingerprint())

    def encode(self) -> bytes:
        """The manifest as a Parquet file."""
        entries = [self.symbols[symbol] for symbol in sorted(self.symbols)]
        columns = {
            "symbol": sorted(self.symbols),
            "rows": [entry and entry.fingerprint.rows for entry in entries],
            "fingerprint": [entry and entry.fingerprint.digest for entry in entries],
            "version": [entry and entry.version for entry in entries],
            "size": [entry and entry.size for entry in entries],
        }
        buffer = pa.BufferOutputStream()
        with pq.ParquetWriter(
            buffer,
            SCHEMA,
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,
            store_schema=False,
            write_page_checksum=True,
        ) as writer:
            writer.write_table(pa.table(columns, schema=SCHEMA))
            writer.add_key_value_metadata(self.metadata())
        return bytes(buffer.getvalue())

    def metadata(self) -> dict[bytes, bytes]:
        """What it says of its sessions, as the key-value metadata of a file made from them."""
        told = {
            "year": self.year,
            "sessions": {day.isoformat(): self.sessions[day] for day in sorted(self.sessions)},
            "digests": {
                day.isoformat(): self.digests[day].to_text() for day in sorted(self.digests)
            },
            "run_id": self.run_id,
            "published_at": self.published_at and self.published_at.isoformat(),
            "proved_at": self.proved_at and self.proved_at.isoformat(),
        }
        return {_YEAR: json.dumps(told, separators=(",", ":")).encode()}

    @classmethod
    def decode(cls, data: bytes, where: str) -> Self:
        """Read back what `encode` wrote.

        Args:
            data: The file.
            where: Its place, for the message.

        Raises:
            BrokenFileError: The bytes are no whole manifest.
        """
        try:
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            columns = file.read(use_threads=False).cast(SCHEMA).to_pydict()
            entries = [
                Entry(Fingerprint.of_digest(rows, digest), version, size)
                if digest is not None
                else None
                for rows, digest, version, size in zip(
                    columns["rows"],
                    columns["fingerprint"],
                    columns["version"],
                    columns["size"],
                    strict=True,
                )
            ]
            symbols = dict(zip(columns["symbol"], entries, strict=True))
            return cls(symbols=symbols, **_told(file.metadata.metadata))
        except _BROKEN as error:
            raise BrokenFileError(
                f"{where} is no whole manifest ({error!r}): delete it and publish its year again"
            ) from error

    @classmethod
    def without_symbols(cls, footer: bytes, where: str) -> Self:
        """What a manifest says of its sessions, from the end of its file alone.

        Raises:
            BrokenFileError: These are not the last bytes of a manifest, or too few of them.
        """
        try:
            return cls.of_metadata(pq.read_metadata(pa.BufferReader(footer)).metadata)
        except _BROKEN as error:
            raise BrokenFileError(f"{where} is no whole manifest ({error!r})") from error

    @classmethod
    def of_metadata(cls, metadata: Mapping[bytes, bytes] | None) -> Self:
        """Read back what `metadata` gave.

        Raises:
            KeyError, ValueError, TypeError, AttributeError: It is no such metadata.
        """
        return cls(**_told(metadata))


_BROKEN = (OSError, pa.ArrowException, KeyError, ValueError, TypeError, AttributeError)


def _told(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    told = json.loads((metadata or {})[_YEAR])
    at, proved = told["published_at"], told.get("proved_at")  # which manifests once did not have
    return {
        "year": int(told["year"]),
        "sessions": {date.fromisoformat(day): version for day, version in told["sessions"].items()},
        "digests": {
            date.fromisoformat(day): Fingerprint.from_text(text)
            for day, text in told["digests"].items()
        },
        "run_id": told["run_id"],
        "published_at": at and datetime.fromisoformat(at),
        "proved_at": proved and datetime.fromisoformat(proved),
    }
