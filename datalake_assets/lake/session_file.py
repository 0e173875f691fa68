"""The session file: one session's bars as Parquet, with its ledger and provenance inside.

Belongs here: what one file says of itself, and its proof. Does not belong here: how its rows are
encoded (`encoding`), where it lies (`layout`) and when it is written (`writer`).

Bars and ledger are one object, so they can't come apart, and a file tells by itself what is in
it, what is not, and why. These texts are in the file's key-value metadata, as JSON:

    datalake.ledger      the state of every symbol that has no row, with reasons
    datalake.audit       every rule, its value and its verdict, of what the collection brought
    datalake.provenance  when, by which run and from which source it was collected
    datalake.symbols     the rows of each symbol, where one can have several
    datalake.digest      what the rows and the other texts hash to

The digest proves what was written: when another program rewrites the file, a dropped row, another
price or an edited text is told. It also tells from their footers alone whether two files hold the
same rows, wherever they lie.

Bars and ledger depend on the source's answers alone, and the audit on the sessions before as well:
the same answers in the same lake make the same bytes, but for the provenance. A symbol without an
answer keeps the earlier one that is published: the audit counts it as failed, the ledger does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datalake_assets.collection.audit import Finding, rows_match_ledger
from datalake_assets.collection.bars import SCHEMA, Ints
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.collection.report import Ledger, Reason, State, reasons
from datalake_assets.lake.encoding import ENCODINGS, encode_bars, runs
from datalake_assets.lake.fingerprint import (
    Fingerprint,
    fingerprint,
    fingerprints_of,
    symbol_hashes,
)
from datalake_assets.storage.store import BrokenFileError, Store

T = TypeVar("T")

_LEDGER = b"datalake.ledger"
_AUDIT = b"datalake.audit"
_PROVENANCE = b"datalake.provenance"
_DIGEST = b"datalake.digest"
_SYMBOLS = b"datalake.symbols"

FOOTER_GUESS = 64 * 1024
"""Bytes from the end of a session file that mostly hold its footer, ledger included: one that names
6,000 symbols without a bar has about 50 KB. A longer one takes a second request."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a session's bars come from.

    Args:
        collected_at: Instant (UTC) at which the collection ended.
        source: Host and feed, or the embedded exchange's market.
        listed: The day of the list of assets that the symbols were taken from. A symbol means
            the bars that traded under it, on whatever day it was asked for.
        run_id: The Dagster run, or another caller's own mark.
        version: Version of this program.
        collection: Numbers of the collection (`report.Statistics.to_dict`).
        known_since: Instant (UTC) at which the session was first published, when that was an
            earlier collection; None when it was this one.
        interrupted: Whether somebody stopped the collection before its end.
        hours: Of minute bars: `regular` or `extended`, the hours that were asked for.
    """

    collected_at: datetime
    source: str
    listed: date
    run_id: str
    version: str
    collection: Mapping[str, Any] = field(default_factory=dict)
    known_since: datetime | None = None
    interrupted: bool = False
    hours: str | None = None

    def to_json(self) -> str:
        """As text."""
        # Not `asdict`, which copies each value: six times as long.
        told = {each.name: getattr(self, each.name) for each in fields(self)} | {
            "collected_at": self.collected_at.isoformat(),
            "listed": self.listed.isoformat(),
            "known_since": self.known_since and self.known_since.isoformat(),
        }
        if self.hours is None:
            del told["hours"]
        return json.dumps(told, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Provenance:
        """Read back what `to_json` wrote."""
        told = json.loads(text)
        told["collected_at"] = datetime.fromisoformat(told["collected_at"])
        told["listed"] = date.fromisoformat(told["listed"])
        if told.get("known_since"):
            told["known_since"] = datetime.fromisoformat(told["known_since"])
        return cls(**told)


@dataclass(frozen=True, slots=True)
class Session:
    """One session as the lake holds it."""

    bars: pa.Table
    ledger: Ledger
    provenance: Provenance


def hash_rows(sessions: Sequence[tuple[pa.Table, Ledger]]) -> Mapping[date, Fingerprint]:
    """What the rows of sessions with one bar for a symbol hash to: of many at once, for `encode`.

    Args:
        sessions: For each its bars and its ledger.

    Returns:
        Nothing when the rows of one are not those that its ledger calls present, in their order.
    """
    if not sessions or not rows_match_ledger(sessions):
        return {}
    states = [ledger.states for _, ledger in sessions]
    symbols = [symbol_hashes(each.symbols)[each.are(State.PRESENT)] for each in states]
    hashed = fingerprints_of([bars for bars, _ in sessions], symbols)
    return {ledger.session: told for (_, ledger), told in zip(sessions, hashed, strict=True)}


def encode(
    session: Session,
    findings: Sequence[Finding],
    dataset: Dataset = DAILY,
    hashed: Fingerprint | None = None,
) -> bytes:
    """The session as a Parquet file.

    Args:
        session: Its bars, in the order of its dataset.
        findings: What its audit found.
        dataset: Whose bars.
        hashed: What `hash_rows` says of it, which also holds its rows against its ledger; None to
            do both here.

    Raises:
        ValueError: The rows are not those of the ledger, at least one for each present symbol, or
            are not in the dataset's order.
    """
    bars, ledger = session.bars, session.ledger
    states, several = ledger.states, dataset.several
    names, counts = states.column(State.PRESENT), None
    if several:
        found, counts = runs(bars["symbol"])
        right = found.equals(names) and _in_order(bars, counts)
    else:
        right = hashed is not None or rows_match_ledger([(bars, ledger)])
    if not right:
        raise ValueError(
            f"{ledger.session}: the bars are not those that the ledger calls present, by "
            f"{' and '.join(dataset.key[1:])}, each of them once"
        )
    audit = [
        {
            "rule": finding.rule,
            "verdict": finding.verdict.value,
            "value": finding.value,
            "threshold": finding.threshold,
            "detail": finding.detail,
        }
        for finding in findings
    ]
    metadata = {
        _LEDGER: ledger.to_json(),
        _AUDIT: json.dumps(audit, separators=(",", ":")),
        _PROVENANCE: session.provenance.to_json(),
    }
    if counts is not None:
        rows = dict(zip(names.to_pylist(), counts.tolist(), strict=True))
        metadata[_SYMBOLS] = json.dumps(rows, separators=(",", ":"))
    if hashed is None:
        symbols = symbol_hashes(states.symbols)[states.are(State.PRESENT)]
        hashed = fingerprint(bars, symbols if counts is None else symbols.repeat(counts))
    metadata[_DIGEST] = _digest(hashed, metadata)
    return encode_bars(bars, metadata, ENCODINGS[dataset.name])


def _in_order(bars: pa.Table, counts: Ints) -> bool:
    """Are the rows of each symbol in order, each once? `counts` tells how many each has."""
    times = bars["timestamp"].cast(pa.int64()).to_numpy()
    later = times[1:] > times[:-1]
    later[np.cumsum(counts)[:-1] - 1] = True  # where the next symbol begins
    return bool(later.all())


def decode(data: bytes, where: str) -> Session:
    """The session in a file, proved by its digest.

    Args:
        data: The file.
        where: Its place, for the message.

    Raises:
        BrokenFileError: The bytes are no whole session file, or not what was written.
    """
    try:
        bars, told = _read(data)
        whose = runs(bars["symbol"])[0] if _SYMBOLS in told else bars["symbol"]
        ledger = Ledger.from_json(told[_LEDGER], tuple(whose.to_pylist()))
        session = Session(bars, ledger, Provenance.from_json(told[_PROVENANCE]))
        digest = _digest_of(told)
    except _BROKEN as error:
        raise _broken(where, error) from error
    rows = fingerprint(bars)
    if told[_DIGEST].decode() != _digest(rows, told):
        raise altered(where, digest, rows)
    return session


def decode_bars(data: bytes, where: str) -> pa.Table:
    """The bars in a file, without what it says of them and unproved: a fifth of the time.

    Raises:
        BrokenFileError: The bytes are no whole session file.
    """
    try:
        return _read(data)[0]
    except _BROKEN as error:
        raise _broken(where, error) from error


def decode_with_digest(data: bytes, where: str) -> tuple[pa.Table, Fingerprint]:
    """The bars in a file, and what they must hash to: for who hashes many sessions at once.

    Raises:
        BrokenFileError: The bytes are no whole session file.
    """
    try:
        bars, told = _read(data)
        return bars, _digest_of(told)
    except _BROKEN as error:
        raise _broken(where, error) from error


def altered(where: str, told: Fingerprint, found: Fingerprint) -> BrokenFileError:
    """What is wrong with a file whose rows or texts are not what its digest tells.

    Args:
        where: Its place.
        told: What its digest says of the rows.
        found: What they are.
    """
    what = (
        f"it holds {found}, and was written with {told}"
        if found != told
        else "its ledger, audit or provenance is not the one that it was written with"
    )
    return BrokenFileError(
        f"{where} was changed by another program ({what}): collect the session again"
    )


_BROKEN = (OSError, pa.ArrowException, KeyError, ValueError, TypeError)


def _read(data: bytes) -> tuple[pa.Table, Mapping[bytes, bytes]]:
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    table = file.read(use_threads=False).replace_schema_metadata(None).cast(SCHEMA)
    return table, file.metadata.metadata or {}


_PIECE = 2047
"""Bytes that are hashed at once. For more, hashlib gives up Python's lock, and the wait to have it
back takes longer than to hash a ledger of 20 KB: 2 % of a backfill's time."""


def _digest(rows: Fingerprint, texts: Mapping[bytes, str | bytes]) -> str:
    """What the digest's text is for these rows and texts."""
    hashed = hashlib.blake2b(digest_size=16)
    for text in map(texts.get, (_LEDGER, _AUDIT, _PROVENANCE, _SYMBOLS)):
        if text is None:
            continue
        data = memoryview(text.encode() if isinstance(text, str) else text)
        for start in range(0, len(data), _PIECE):
            hashed.update(data[start : start + _PIECE])
        hashed.update(b"\0")
    told = {"rows": rows.to_text(), "texts": hashed.hexdigest()}
    return json.dumps(told, separators=(",", ":"))


def _digest_of(texts: Mapping[bytes, bytes]) -> Fingerprint:
    return Fingerprint.from_text(json.loads(texts[_DIGEST])["rows"])


def _broken(where: str, error: Exception) -> BrokenFileError:
    return BrokenFileError(
        f"{where} is no whole session file ({error!r}): collect the session again"
    )


def decode_columns(data: bytes, where: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of the bars in a file: of four a quarter of the time of all.

    Raises:
        BrokenFileError: The bytes are no whole session file.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        schema = pa.schema([SCHEMA.field(name) for name in columns])
        table = file.read(columns=list(columns), use_threads=False)
        return table.replace_schema_metadata(None).cast(schema)
    except _BROKEN as error:
        raise _broken(where, error) from error


@dataclass(frozen=True, slots=True)
class Summary:
    """What a session file says of itself, read from its footer alone."""

    session: date
    rows: int
    counts: Mapping[str, int]
    audit: Sequence[Mapping[str, Any]]
    provenance: Provenance
    reasons: Sequence[Reason] = ()


def unbarred(footer: bytes, where: str) -> Ledger:
    """The ledger without its present symbols, which are rows: from the footer alone.

    Args:
        footer: The end of the file, at least its footer.
        where: Its place, for the message.

    Raises:
        BrokenFileError: These are not the last bytes of a session file, or too few of them.
    """
    return _told(footer, where, lambda texts: Ledger.from_json(texts[_LEDGER], ()))


def rows_of_symbols(footer: bytes, where: str) -> Mapping[str, int]:
    """How many rows each symbol has, in their order: of a file in which one can have several.

    Args:
        footer: The end of the file, at least its footer.
        where: Its place, for the message.

    Raises:
        BrokenFileError: These are not the last bytes of such a file, or too few of them.
    """
    rows: dict[str, int] = _told(footer, where, lambda texts: json.loads(texts[_SYMBOLS]))
    return rows


def read_footer(store: Store, key: str) -> bytes:
    """The end of a session's object, from its footer on.

    Raises:
        FileNotFoundError: There is none.
    """
    size = FOOTER_GUESS
    while True:
        end = store.tail(key, size)
        needed = footer_size(end)
        if needed <= size or len(end) < size:
            return end
        size = needed


def digest(footer: bytes, where: str) -> Fingerprint:
    """What a session file says that its rows hash to.

    Args:
        footer: The end of the file, at least its footer.
        where: Its place, for the message.

    Raises:
        BrokenFileError: These are not the last bytes of a session file, or too few of them.
    """
    return _told(footer, where, _digest_of)


def _told(footer: bytes, where: str, read: Callable[[Mapping[bytes, bytes]], T]) -> T:
    """What one of the texts in a footer says; `read` takes it from them."""
    try:
        return read(pq.read_metadata(pa.BufferReader(footer)).metadata or {})
    except _BROKEN as error:
        raise _broken(where, error) from error


def footer_size(end: bytes) -> int:
    """How long the footer is of a Parquet file with this end, in bytes.

    Its length stands before the last four bytes: https://parquet.apache.org/docs/file-format
    """
    return int.from_bytes(end[-8:-4], "little") + 8


def summarize(footer: bytes, where: str) -> Summary:
    """What a session file says of itself.

    Args:
        footer: The end of the file, at least its footer.
        where: Its place, for the message.

    Raises:
        BrokenFileError: These are not the last bytes of a session file, or too few of them.
    """
    try:
        metadata = pq.read_metadata(pa.BufferReader(footer))
        told = metadata.metadata or {}
        ledger = json.loads(told[_LEDGER])
        session = date.fromisoformat(ledger.pop("session"))
        counts = {state: len(symbols) for state, symbols in ledger.items()}
        several = told.get(_SYMBOLS)
        counts["present"] = len(json.loads(several)) if several else metadata.num_rows
        return Summary(
            session,
            metadata.num_rows,
            counts,
            json.loads(told[_AUDIT]),
            Provenance.from_json(told[_PROVENANCE]),
            reasons(ledger["failed"]),
        )
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, AttributeError) as error:
        raise BrokenFileError(f"{where} is no whole session file ({error!r})") from error
