"""The restatement log: what a later collection of a session changed, and when each value was known.

Belongs here: finding the changes between two states of a session, keeping them, and going back to
what was known at an instant. Does not belong here: when a session is collected again
(`automation`).

One small Parquet file for each collection that changed something, never touched again:
`data/ticks/restatements/year=YYYY/{session}/{changed_at}.parquet`. It is written just before the
session is replaced. Killed in between, the log tells of a change that was not made; undoing such
a change gives what stands there anyway, so what was known is still told right. Not so when another
collection replaced the session in between: then the file is taken back.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets.collection.bars import SCHEMA as BARS
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.lake.session_file import Session
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store

VALUES = tuple(name for name in BARS.names if name not in ("symbol", "session"))

_INSTANT = pa.timestamp("us", tz="UTC")

_Places = npt.NDArray[np.int64]

_ORDER = ("symbol", "session", "timestamp")

SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("session", pa.date32(), nullable=False),
        pa.field("change", pa.string(), nullable=False),
        pa.field("known_from", _INSTANT, nullable=False),
        pa.field("changed_at", _INSTANT, nullable=False),
        *(
            pa.field(f"{age}_{name}", BARS.field(name).type)
            for name in VALUES
            for age in ("old", "new")
        ),
    ]
)
"""One row per changed bar: `change` is added, removed or restated; the old values were known from
`known_from` to `changed_at`, the new ones since. An added bar has no old values, a removed one no
new ones. Units are those of the bars."""


def changes(
    before: pa.Table,
    after: pa.Table,
    known_from: datetime,
    at: datetime,
    dataset: Dataset = DAILY,
) -> pa.Table:
    """The bars that differ between two states of a session, in `SCHEMA`, by symbol and time.

    Args:
        before: The session's bars, in their schema, by symbol.
        after: The same after the later collection.
        known_from: When the first state was collected, UTC.
        at: When the second was.
        dataset: Whose bars.
    """
    if before.equals(after):
        before = after = after.slice(0, 0)
    # No join of the tables: of three million minutes it takes a gigabyte.
    _, old, new = np.intersect1d(
        *_places(before, after, dataset), assume_unique=True, return_indices=True
    )
    differs = np.zeros(len(old), dtype=bool)
    for name in VALUES:
        differs |= ~_same(before[name].take(pa.array(old)), after[name].take(pa.array(new)))
    gone, come = _others(before, old), _others(after, new)
    counts = {"restated": int(differs.sum()), "removed": len(gone), "added": len(come)}
    rows = sum(counts.values())
    was = pa.concat_arrays(
        [pa.array(old[differs]), pa.array(gone), pa.nulls(len(come), pa.int64())]
    )
    became = pa.concat_arrays(
        [pa.array(new[differs]), pa.nulls(len(gone), pa.int64()), pa.array(come)]
    )
    found = {"old": before.take(was), "new": after.take(became)}
    columns: dict[str, pa.Array] = {
        "symbol": pc.coalesce(found["old"]["symbol"], found["new"]["symbol"]),
        "change": pa.concat_arrays([pa.repeat(kind, count) for kind, count in counts.items()]),
        "session": pa.repeat(_session(before, after), rows),
        "known_from": pa.repeat(pa.scalar(known_from, _INSTANT), rows),
        "changed_at": pa.repeat(pa.scalar(at, _INSTANT), rows),
    }
    for age, bars in found.items():
        columns |= {f"{age}_{name}": bars[name] for name in VALUES}
    told = pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
    order = [
        ("symbol", "ascending"),
        ("old_timestamp", "ascending"),
        ("new_timestamp", "ascending"),
    ]
    return told.sort_by(order).combine_chunks()


def _places(before: pa.Table, after: pa.Table, dataset: Dataset) -> tuple[_Places, _Places]:
    """For each row of two states of a session a number of its own: equal for the same bar."""
    both = pa.chunked_array([*before["symbol"].chunks, *after["symbol"].chunks], pa.string())
    places = both.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    if dataset.several and len(places):
        ends = [table["timestamp"].cast(pa.int64()).to_numpy() for table in (before, after)]
        times = np.concatenate(ends)
        first = times.min()
        places *= times.max() - first + 1
        places += times - first
    return places[: before.num_rows], places[before.num_rows :]


def _others(bars: pa.Table, rows: _Places) -> _Places:
    """All rows but these."""
    others = np.ones(bars.num_rows, dtype=bool)
    others[rows] = False
    return np.flatnonzero(others)


def _same(old: pa.ChunkedArray, new: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """For each row: have both the same value, or neither one?"""
    equal = pc.fill_null(pc.equal(old, new), False).to_numpy()
    neither = pc.and_(pc.is_null(old), pc.is_null(new)).to_numpy()
    same: npt.NDArray[np.bool_] = equal | neither
    return same


class Restatements:
    """The restatement log of a lake.

    Args:
        store: Where the lake is.
        dataset: Whose sessions.
    """

    def __init__(self, store: Store, dataset: Dataset = DAILY) -> None:
        self._store, self._dataset = store, dataset
        self._folders = layout.FOLDERS[dataset.name]

    def between(self, before: Session, after: Session) -> pa.Table:
        """What differs between two states of a session: `changes`."""
        was, at = before.provenance.collected_at, after.provenance.collected_at
        return changes(before.bars, after.bars, was, at, self._dataset)

    def keep(self, changed: pa.Table) -> None:
        """Keep what one collection changed of a session; nothing when it changed nothing."""
        if not changed.num_rows:
            return
        buffer = pa.BufferOutputStream()
        pq.write_table(changed, buffer, compression="zstd", write_page_checksum=True)
        self._store.put(self._key(changed), bytes(buffer.getvalue()))

    def take_back(self, changed: pa.Table) -> None:
        """Remove what `keep` kept: another collection came first, and what stood is no more."""
        if changed.num_rows:
            self._store.delete(self._key(changed))

    def of(self, session: date) -> pa.Table:
        """Every change of a session's bars, in `SCHEMA`, oldest first."""
        return self._read(self._keys(layout.restatements_of(session, self._folders)))

    def sessions(self) -> list[date]:
        """The sessions of which something changed, ascending."""
        return sorted(
            {day for key in self._keys(self._folders.restatements) if (day := self._day(key))}
        )

    def after(self, at: datetime, days: Container[date] | None = None) -> pa.Table:
        """Every change that was made after an instant, in `SCHEMA`, oldest first.

        Args:
            at: The instant; aware.
            days: Of which sessions; None: of any.
        """
        # The name of a file is the instant of its change.
        name = layout.restatement_key(date.min, at.astimezone(UTC)).rpartition("/")[2]
        keys = [
            key
            for key in self._store.list(self._folders.restatements)
            if key.rpartition("/")[2] > name
        ]
        return self._read(key for key in keys if days is None or self._day(key) in days)

    def newest(self, count: int) -> pa.Table:
        """At least the newest changes of all sessions, in `SCHEMA`, newest first.

        Args:
            count: How many rows at most.
        """
        # The name of a file is the instant of its change.
        keys = sorted(
            self._keys(self._folders.restatements), key=lambda key: key.rpartition("/")[2]
        )
        found: list[pa.Table] = []
        while keys and sum(table.num_rows for table in found) < count:
            found.append(self._read([keys.pop()]))
        table = pa.concat_tables([SCHEMA.empty_table(), *found])
        by_age = [("changed_at", "descending"), ("session", "descending"), ("symbol", "ascending")]
        return table.sort_by(by_age).slice(0, count)

    def _keys(self, folder: str) -> list[str]:
        """The log's files below a folder; what else somebody put there is none of them."""
        return [key for key in self._store.list(folder) if self._day(key)]

    def _day(self, key: str) -> date | None:
        return layout.restatement(key, self._folders)

    def _key(self, changed: pa.Table) -> str:
        at = changed["changed_at"][0].as_py().astimezone(UTC)
        return layout.restatement_key(changed["session"][0].as_py(), at, self._folders)

    def _read(self, keys: Iterable[str]) -> pa.Table:
        tables = [SCHEMA.empty_table()]
        for key in keys:
            try:
                file = pq.ParquetFile(
                    pa.BufferReader(self._store.get(key)), page_checksum_verification=True
                )
                tables.append(file.read(use_threads=False).cast(SCHEMA))
            except (OSError, pa.ArrowException, ValueError) as error:
                raise BrokenFileError(
                    f"{self._store.url(key)} is no whole restatement file ({error!r}): restore it "
                    "from a backup, or remove it and lose what it knew"
                ) from error
        table = pa.concat_tables(tables)
        return table.sort_by([("changed_at", "ascending"), ("symbol", "ascending")])


def undone(bars: pa.Table, log: pa.Table, at: datetime, dataset: Dataset = DAILY) -> pa.Table:
    """The bars of some sessions as they were known at an instant, by symbol, session and time.

    Args:
        bars: Their bars now.
        log: All of their changes, oldest first.
        at: The instant, UTC.
        dataset: Whose bars.
    """
    later = log.filter(pc.greater(log["changed_at"], pa.scalar(at, _INSTANT)))
    # Of several bars in a session both values of one have the same time.
    later = later.append_column(
        "timestamp", pc.coalesce(later["old_timestamp"], later["new_timestamp"])
    )
    later = later.append_column("row", pa.array(np.arange(later.num_rows)))
    # The first change of a bar after the instant tells what it was then.
    key = list(dataset.key)
    rows = later.group_by(key, use_threads=False).aggregate([("row", "min")])["row_min"]
    first = later.take(rows)
    kept = bars.join(first.select(key), key, join_type="left anti", use_threads=False)
    first = first.filter(pc.not_equal(first["change"], "added"))
    old = {"symbol": first["symbol"], "session": first["session"]}
    old |= {name: first[f"old_{name}"] for name in VALUES}
    restored = pa.table({name: old[name] for name in BARS.names}, schema=BARS)
    every = pa.concat_tables([kept.select(BARS.names).cast(BARS), restored])
    return every.sort_by([(name, "ascending") for name in _ORDER]).combine_chunks()


def _session(before: pa.Table, after: pa.Table) -> pa.Scalar:
    filled = before if before.num_rows else after
    return filled["session"][0] if filled.num_rows else pa.scalar(date.min, pa.date32())
