"""The log of corporate actions: every version of each action, and since when it is known.

Belongs here: appending the changes of an answer, and what was known at an instant. Does not belong
here: the window to fetch and the meaning of its answer (`sweep`).

The log is `data/actions/log/000001.parquet` and following: the events in the order in which they
were seen, and in each file's metadata the sweeps that saw them. A sweep without changes is recorded
as well, since "nothing changed" is information. Only the newest object grows, by a conditional
write. When it is full, the next one is started; a full one never changes again. So two concurrent
sweeps append one after the other, and a killed one leaves the log unchanged or with all its events.

`data/actions/actions.parquet` has the current actions, for readers. It is derived from the log and
names the sweep up to which it is current; the log never needs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import count
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets.actions.action import SCHEMA
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, ChangedError, Store

INSERTED, CHANGED, VANISHED = "inserted", "changed", "vanished"

EVENTS = pa.schema(
    [
        pa.field("sweep", pa.int64(), nullable=False),
        pa.field("seen_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("event", pa.string(), nullable=False),
        *SCHEMA,
    ]
)
"""One row per event, in the order in which they were seen: the number of the sweep, its instant,
`inserted`, `changed` or `vanished`, and the action as it was said from then on (of a vanished one:
as it was said last)."""

SWEEPS_IN_AN_OBJECT = 32
EVENTS_IN_AN_OBJECT = 20_000
"""The limits at which an object of the log is full. A day has about 500 events, so an object has at
most about two MB, except the first, which has the whole history from a single sweep."""

_ATTEMPTS = 10
_SWEEPS, _UP_TO = b"datalake.sweeps", b"datalake.sweep"
_ORDER = [("effective_date", "ascending"), ("symbol", "ascending"), ("id", "ascending")]
_LEAST = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Answer:
    """The source's complete answer for a window of process dates.

    Args:
        asked_at: When its first page was requested, UTC.
        known: The number of the newest sweep at that time.
        first, last: The window, both days included.
        actions: The rows, in `SCHEMA`; also those asked for by id.
        gone: Ids of known actions that the source no longer has, checked by requesting them.
        requests: The number of requests.
        skipped: Rows that could not be read.
        unknown: Lists that this program does not know, and their rows.
    """

    asked_at: datetime
    known: int
    first: date
    last: date
    actions: pa.Table = field(repr=False)
    gone: frozenset[str] = frozenset()
    requests: int = 0
    skipped: tuple[str, ...] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sweep:
    """What the log records of a sweep, besides its events.

    Args:
        number: From 1.
        asked_at, seen_at: When it started, and since when its answer is known, UTC.
        first, last: The window of process dates.
        actions: The number of rows in the answer.
        requests: The number of requests.
        skipped: Rows that could not be read; the first few are named in `examples`.
        unknown: Rows in lists that this program does not know, by list.
    """

    number: int
    asked_at: datetime
    seen_at: datetime
    first: date
    last: date
    actions: int
    requests: int
    skipped: int
    examples: tuple[str, ...]
    unknown: Mapping[str, int]

    @property
    def mark(self) -> str:
        """A unique identifier, also across logs: its number and instant."""
        return f"{self.number} {self.seen_at.isoformat()}"

    def as_dict(self) -> dict[str, Any]:
        """The sweep as JSON values."""
        return {
            "number": self.number,
            "asked_at": self.asked_at.isoformat(),
            "seen_at": self.seen_at.isoformat(),
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            "actions": self.actions,
            "requests": self.requests,
            "skipped": self.skipped,
            "examples": list(self.examples),
            "unknown": dict(self.unknown),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The sweep from what `as_dict` returned.

        Raises:
            KeyError, ValueError, TypeError: The values are not a sweep.
        """
        return cls(
            int(values["number"]),
            datetime.fromisoformat(values["asked_at"]),
            datetime.fromisoformat(values["seen_at"]),
            date.fromisoformat(values["first"]),
            date.fromisoformat(values["last"]),
            int(values["actions"]),
            int(values["requests"]),
            int(values["skipped"]),
            tuple(values["examples"]),
            dict(values["unknown"]),
        )


@dataclass(frozen=True, slots=True)
class _Object:
    """One object of the log: its place in the order, the sweeps, and their events."""

    number: int
    sweeps: tuple[Sweep, ...]
    events: pa.Table
    version: str | None = None

    @property
    def full(self) -> bool:
        return (
            len(self.sweeps) >= SWEEPS_IN_AN_OBJECT or self.events.num_rows >= EVENTS_IN_AN_OBJECT
        )


@dataclass(frozen=True, slots=True)
class _Published:
    """The table for readers: its rows, the sweep up to which it is current, and its version.

    It has no rows if it is missing or damaged; it is then rebuilt from the log.
    """

    table: pa.Table | None
    mark: str
    version: str | None


class ActionLog:
    """The log of corporate actions of a lake.

    Every method raises `BrokenFileError` when an object of the log is damaged, and `StoreError`
    when the store refuses or can't be reached.

    Args:
        store: Where the lake is.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def append(self, answer: Answer, at: datetime) -> tuple[Sweep, pa.Table]:
        """Append the changes of an answer, and the sweep, in one atomic write.

        If another sweep saw an action change in the meantime, that version stays, since it is
        unknown which answer is newer. The next sweep fetches the action again.

        Args:
            answer: The answer.
            at: The instant since which it is known, UTC. Made later by a microsecond than the
                newest one of the log if it is not: instants ascend, whatever clocks say.

        Returns:
            The sweep, and its events in `EVENTS`.

        Raises:
            ChangedError: Other sweeps kept appending in the meantime; nothing was written.
        """
        for attempt in count(1):
            published = self._published()
            newest = self._newest()
            last = newest.sweeps[-1] if newest else None
            events = _changes(self._standing(newest, published), answer.actions, answer.gone)
            if newest and last and last.number > answer.known:
                objects = self._back_to(answer.known + 1, newest)
                meanwhile = _after(answer.known, objects)["id"].combine_chunks()
                events = events.filter(pc.invert(pc.is_in(events["id"], meanwhile)))
            sweep = Sweep(
                last.number + 1 if last else 1,
                answer.asked_at,
                max(at, last.seen_at + _LEAST) if last else at,
                answer.first,
                answer.last,
                answer.actions.num_rows,
                answer.requests,
                len(answer.skipped),
                answer.skipped[:20],
                answer.unknown,
            )
            events = _seen_by(sweep, events)
            grown = (
                _Object(newest.number + 1 if newest else 1, (sweep,), events)
                if newest is None or newest.full
                else _Object(
                    newest.number,
                    (*newest.sweeps, sweep),
                    pa.concat_tables([newest.events, events]),
                    newest.version,
                )
            )
            key = layout.action_log_key(grown.number)
            try:
                self._store.replace(key, _encode(grown), grown.version)
            except ChangedError:
                if attempt == _ATTEMPTS:
                    raise
                continue
            return sweep, events
        raise AssertionError("unreachable")

    def publish(self) -> bool:
        """Update the table of current actions from the log; False if it was up to date.

        If the process is killed before this, the next sweep does it.
        """
        for _ in range(_ATTEMPTS):
            # In this order, so that the log is never older than the table that is compared with it.
            published = self._published()
            newest = self._newest()
            if newest is None:
                return False
            since = self._since(published.mark, newest)
            if published.table is not None and since is not None and not since.num_rows:
                return False  # nothing new: the table is up to date
            try:
                standing = self._standing(newest, published)
                data = _encode_standing(standing, newest.sweeps[-1].mark)
                self._store.replace(layout.STANDING_ACTIONS, data, published.version)
            except ChangedError:
                continue  # by another sweep, with as much or less
            return True
        return False

    def difference(self) -> str:
        """What is wrong with the table of current actions; empty if it matches the log.

        A lake without a log needs no table.
        """
        published, newest = self._published(), self._newest()
        if newest is None:
            return "the log that it was made from does not exist" if published.version else ""
        if published.version is None:
            return "it does not exist"
        if published.table is None:
            return "it is damaged"
        since = self._since(published.mark, newest)
        if since is None:
            return "it was made from another log, or from an older one"
        if since.num_rows:
            return "it lacks the newest sweeps"
        told = _folded((one.events for one in self._objects(newest)), None)
        return "" if told.equals(published.table) else "it differs from the log"

    def current(self, at: datetime | None = None) -> pa.Table:
        """The actions as known at an instant, in `action.SCHEMA`, by effective date and symbol.

        Args:
            at: The instant; aware. None: now.

        Raises:
            ValueError: The instant has no zone.
        """
        if at is not None and at.utcoffset() is None:
            raise ValueError(
                f"{at!r} has no time zone: use an aware datetime, such as datetime.now(UTC)"
            )
        published = self._published()
        newest = self._newest()
        if newest is None:
            return SCHEMA.empty_table()
        if at is None or at >= newest.sweeps[-1].seen_at:
            return self._standing(newest, published)
        return _folded((found.events for found in self._objects()), at)

    def events(self, symbol: str | None = None) -> pa.Table:
        """The events, in `EVENTS`, in the order in which they were seen.

        Args:
            symbol: Only of actions that were ever about this ticker, or bring it; None: all.
        """
        if symbol is None:
            tables = [one.events for one in self._objects()]
        else:
            ids: set[str] = set()
            for one in self._objects(columns=["id", "symbol", "new_symbol"]):
                named = pc.or_kleene(
                    pc.equal(one.events["symbol"], symbol),
                    pc.equal(one.events["new_symbol"], symbol),
                )
                ids.update(one.events.filter(named)["id"].to_pylist())
            wanted = pa.array(sorted(ids), pa.string())
            found = self._objects() if ids else ()
            tables = [one.events.filter(pc.is_in(one.events["id"], wanted)) for one in found]
        return pa.concat_tables([EVENTS.empty_table(), *reversed(tables)])

    def sweeps(self) -> Iterator[Sweep]:
        """The sweeps, newest first; objects are read as far as they are asked for."""
        for number in reversed(self._numbers()):
            yield from reversed(self._read(number).sweeps)

    def _standing(self, newest: _Object | None, published: _Published) -> pa.Table:
        """What stands after the newest object: the published table, and the events since."""
        if newest is None:
            return SCHEMA.empty_table()
        since = self._since(published.mark, newest)
        if published.table is None or since is None:
            return _folded((one.events for one in self._objects(newest)), None)
        if not since.num_rows:
            return published.table
        return _folded([since, _as_events(INSERTED, published.table)], None)

    def _published(self) -> _Published:
        try:
            data, version = self._store.get_versioned(layout.STANDING_ACTIONS)
        except FileNotFoundError:
            return _Published(None, "", None)
        try:
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            mark = file.schema_arrow.metadata[_UP_TO].decode()
            return _Published(file.read(use_threads=False).cast(SCHEMA), mark, version)
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
            return _Published(None, "", version)

    def _since(self, mark: str, newest: _Object) -> pa.Table | None:
        """The events after the sweep with this mark, in their order.

        None when the log does not have that sweep: it is an older one, from a backup, or another.
        """
        told = mark.partition(" ")[0]
        number = int(told) if told.isdecimal() else 0
        if not 1 <= number <= newest.sweeps[-1].number:
            return None
        objects = self._back_to(number, newest)
        if mark not in (sweep.mark for sweep in objects[-1].sweeps):
            return None
        return _after(number, objects)

    def _back_to(self, number: int, newest: _Object) -> list[_Object]:
        """The objects down to the one that holds this sweep, newest first."""
        found = [newest]
        while found[-1].sweeps[0].number > number and found[-1].number > 1:
            found.append(self._read(found[-1].number - 1))
        return found

    def _newest(self) -> _Object | None:
        numbers = self._numbers()
        return self._read(numbers[-1]) if numbers else None

    def _objects(
        self, newest: _Object | None = None, columns: list[str] | None = None
    ) -> Iterator[_Object]:
        """All objects, newest first.

        Args:
            newest: Begin with this one, taken as it is.
            columns: Read of the events only these.
        """
        numbers = self._numbers()[::-1]
        if newest is not None:
            yield newest
            numbers = [number for number in numbers if number < newest.number]
        # A few at a time: all of them decoded at once can be a gigabyte.
        at_once = self._store.readers(16)
        with ThreadPoolExecutor(at_once) as threads:
            for begin in range(0, len(numbers), at_once):
                some = numbers[begin : begin + at_once]
                yield from threads.map(lambda number: self._read(number, columns), some)

    def _numbers(self) -> list[int]:
        found = map(layout.action_log_number, self._store.list(layout.ACTION_LOG))
        numbers = sorted(number for number in found if number is not None)
        if numbers != list(range(1, len(numbers) + 1)):
            missing = min(set(range(1, numbers[-1] + 1)) - set(numbers), default=0)
            raise BrokenFileError(
                f"{self._store.url(layout.action_log_key(missing))} is missing, so it is unknown "
                "what was known when: restore it from a backup"
            )
        return numbers

    def _read(self, number: int, columns: list[str] | None = None) -> _Object:
        key = layout.action_log_key(number)
        data, version = self._store.get_versioned(key)
        try:
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            told = json.loads(file.schema_arrow.metadata[_SWEEPS])
            sweeps = tuple(map(Sweep.from_dict, told))
            if not sweeps:
                raise ValueError("it has no sweep")
            schema = pa.schema([EVENTS.field(name) for name in columns or EVENTS.names])
            table = file.read(columns, use_threads=False).cast(schema)
            return _Object(number, sweeps, table, version)
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
            raise BrokenFileError(
                f"{self._store.url(key)} is a damaged object of the log of corporate actions "
                f"({error!r}): restore it from a backup; without it, it is unknown what was "
                "known when"
            ) from error


def _after(number: int, objects: Sequence[_Object]) -> pa.Table:
    """The events of the sweeps after one, in their order.

    Args:
        number: Of that sweep.
        objects: Those that have them, newest first.
    """
    tables = [one.events.filter(pc.greater(one.events["sweep"], number)) for one in objects]
    return pa.concat_tables([EVENTS.empty_table(), *reversed(tables)])


def _changes(before: pa.Table, said: pa.Table, gone: Iterable[str]) -> pa.Table:
    """What differs, as rows with their `event`: by kind of event, effective date and symbol."""
    at = pc.index_in(said["id"], before["id"].combine_chunks())
    new = said.filter(pc.is_null(at))
    old = said.filter(pc.is_valid(at))
    stood = before.take(at.drop_null())
    differs = pa.repeat(pa.scalar(False), old.num_rows)
    for name in SCHEMA.names:
        one, other = old[name], stood[name]
        both_null = pc.and_(pc.is_null(one), pc.is_null(other))
        same = pc.or_(both_null, pc.fill_null(pc.equal(one, other), False))
        differs = pc.or_(differs, pc.invert(same))
    lost = pc.is_in(before["id"], pa.array(sorted(gone), pa.string()))
    lost = pc.and_(lost, pc.invert(pc.is_in(before["id"], said["id"].combine_chunks())))
    parts = (
        (INSERTED, new),
        (CHANGED, old.filter(differs)),
        (VANISHED, before.filter(lost)),
    )
    return pa.concat_tables(_as_events(event, rows.sort_by(_ORDER)) for event, rows in parts)


def _as_events(event: str, actions: pa.Table) -> pa.Table:
    """The actions, each with this event."""
    return actions.append_column("event", pa.repeat(pa.scalar(event), actions.num_rows))


def _seen_by(sweep: Sweep, events: pa.Table) -> pa.Table:
    """The events in `EVENTS`, as seen by this sweep."""
    seen = {"sweep": sweep.number, "seen_at": sweep.seen_at}
    columns = {
        name: pa.repeat(pa.scalar(value, EVENTS.field(name).type), events.num_rows)
        for name, value in seen.items()
    }
    columns |= {name: events[name] for name in events.column_names}
    return pa.table({name: columns[name] for name in EVENTS.names}, schema=EVENTS)


def _folded(newest_first: Iterable[pa.Table], at: datetime | None) -> pa.Table:
    """The current actions after these events, up to an instant.

    Args:
        newest_first: Tables of events, each in the order in which they were seen.
        at: The instant; None for all events.
    """
    seen: set[str] = set()
    kept: list[pa.Table] = [SCHEMA.empty_table()]
    for events in newest_first:
        if at is not None:
            then = pa.scalar(at, EVENTS.field("seen_at").type)
            events = events.filter(pc.less_equal(events["seen_at"], then))
        last = dict(zip(events["id"].to_pylist(), range(events.num_rows), strict=True))
        rows = [row for action, row in last.items() if action not in seen]
        seen.update(last)
        table = events.take(pa.array(rows, pa.int64()))
        kept.append(table.filter(pc.not_equal(table["event"], VANISHED)).select(SCHEMA.names))
    return pa.concat_tables(kept).sort_by(_ORDER).combine_chunks()


def _encode(log: _Object) -> bytes:
    told = json.dumps([sweep.as_dict() for sweep in log.sweeps])
    return _parquet(log.events.replace_schema_metadata({_SWEEPS: told}))


def _encode_standing(actions: pa.Table, mark: str) -> bytes:
    return _parquet(actions.replace_schema_metadata({_UP_TO: mark}))


def _parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    # Parquet's zstd has no checksum: a flipped bit could change a rate.
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return bytes(buffer.getvalue())
