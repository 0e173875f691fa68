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

from collections.abc import Iterable
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
    key = [name for name in dataset.key if name != "session"]
    if before.equals(after):
        before = after = after.slice(0, 0)
    old, new = (
        bars.select(key).append_column(f"{age}_row", pa.array(np.arange(bars.num_rows)))
        for age, bars in (("old", before), ("new", after))
    )
    both = old.join(new, key, join_type="full outer", use_threads=False)
    rows = {age: both[f"{age}_row"].combine_chunks() for age in ("old", "new")}
    found = {"old": before.take(rows["old"]), "new": after.take(rows["new"])}
    differs = np.zeros(both.num_rows, dtype=bool)
    for name in VALUES:
        differs |= ~_same(found["old"][name], found["new"][name])
    was, new_one = (found[age]["symbol"].is_valid().to_numpy() for age in ("old", "new"))
    kind = np.where(was & new_one, "restated", np.where(was, "removed", "added"))
    table = both.select(key)
    columns: dict[str, pa.Array] = {
        "symbol": table["symbol"],
        "change": pa.array(kind.tolist(), pa.string()),
        "session": pa.repeat(_session(before, after), both.num_rows),
        "known_from": pa.repeat(pa.scalar(known_from, _INSTANT), both.num_rows),
        "changed_at": pa.repeat(pa.scalar(at, _INSTANT), both.num_rows),
    }
    for age, bars in found.items():
        columns |= {f"{age}_{name}": bars[name] for name in VALUES}
    told = pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
    order = [
        ("symbol", "ascending"),
        ("old_timestamp", "ascending"),
        ("new_timestamp", "ascending"),
    ]
    return told.filter(pa.array(differs)).sort_by(order).combine_chunks()


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

    def after(self, at: datetime) -> pa.Table:
        """Every change of any session that was made after an instant, in `SCHEMA`, oldest first.

        Args:
            at: The instant; aware.
        """
        # The name of a file is the instant of its change.
        name = layout.restatement_key(date.min, at.astimezone(UTC)).rpartition("/")[2]
        keys = self._store.list(self._folders.restatements)
        return self._read(key for key in keys if key.rpartition("/")[2] > name)

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


def undone(bars: pa.Table, log: pa.Table, at: datetime) -> pa.Table:
    """A session's daily bars as they were known at an instant: one for each symbol.

    Args:
        bars: Its daily bars now.
        log: All of its changes, oldest first.
        at: The instant, UTC.
    """
    later = log.filter(pc.greater(log["changed_at"], pa.scalar(at, _INSTANT)))
    # The first change of a bar after the instant tells what it was then.
    seen: dict[str, int] = {}
    for row, symbol in enumerate(later["symbol"].to_pylist()):
        seen.setdefault(symbol, row)
    first = later.take(pa.array(list(seen.values()), pa.int64()))
    kept = bars.filter(pc.invert(pc.is_in(bars["symbol"], first["symbol"].combine_chunks())))
    first = first.filter(pc.not_equal(first["change"], "added"))
    old = {"symbol": first["symbol"], "session": first["session"]}
    old |= {name: first[f"old_{name}"] for name in VALUES}
    restored = pa.table({name: old[name] for name in BARS.names}, schema=BARS)
    return pa.concat_tables([kept, restored]).sort_by("symbol").combine_chunks()


def _session(before: pa.Table, after: pa.Table) -> pa.Scalar:
    filled = before if before.num_rows else after
    return filled["session"][0] if filled.num_rows else pa.scalar(date.min, pa.date32())
