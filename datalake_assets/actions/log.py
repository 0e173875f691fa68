"""The log of corporate actions: what the source said of each, and since when.

Belongs here: keeping what an answer changed, and telling what was known at an instant. Does not
belong here: which window is asked and what its answer means (`sweep`).

The log is `data/actions/log/000001.parquet` and on: the events in the order in which they were
seen, and in each file's own metadata the sweeps that saw them. A sweep that saw nothing new is kept
too: that nothing changed is knowledge. Only the newest object grows, by a conditional write; once
it is full the next one is begun, and a full one never changes again. So two sweeps at once append
one after the other, and a killed one leaves the log as it was or with all that it saw.

`data/actions/actions.parquet` holds what stands now, for readers; it is made from the log, says up
to which sweep, and is never needed to know anything.
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
"""With either an object of the log is full. A day brings about 500 events, so that one has about
two MB at most, but for the first, whose single sweep brings the whole history."""

_ATTEMPTS = 10
_SWEEPS, _UP_TO = b"datalake.sweeps", b"datalake.sweep"
_ORDER = [("effective_date", "ascending"), ("symbol", "ascending"), ("id", "ascending")]
_LEAST = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the source said of a window of process dates, whole.

    Args:
        asked_at: When the first of its pages was asked for, UTC.
        known: The number of the newest sweep by then.
        first, last: The window, both days included.
        actions: The rows, in `SCHEMA`; also those asked for by id.
        gone: Ids that stood and stand no more, as the source said when it was asked for them.
        requests: Requests that it took.
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
    """What the log remembers of a sweep beside its events.

    Args:
        number: From 1.
        asked_at, seen_at: When it began to ask, and since when its answer is known, UTC.
        first, last: The window of process dates that it asked for.
        actions: Rows that it was answered.
        requests: Requests that it took.
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
        """What tells it from every other sweep, also of another log: its number and instant."""
        return f"{self.number} {self.seen_at.isoformat()}"

    def told(self) -> dict[str, Any]:
        """It as JSON-able values."""
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
    def read(cls, told: Mapping[str, Any]) -> Self:
        """It from what `told` gave.

        Raises:
            KeyError, ValueError, TypeError: That is no sweep.
        """
        return cls(
            int(told["number"]),
            datetime.fromisoformat(told["asked_at"]),
            datetime.fromisoformat(told["seen_at"]),
            date.fromisoformat(told["first"]),
            date.fromisoformat(told["last"]),
            int(told["actions"]),
            int(told["requests"]),
            int(told["skipped"]),
            tuple(told["examples"]),
            dict(told["unknown"]),
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
    """The table for readers: its rows, the mark of the sweep up to which it is, and its version.

    No rows when there is no table, or a damaged one: the log has it all, it is made anew.
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
        """Keep what an answer changed, and that it was asked for; one atomic write.

        Of an action that another sweep saw change meanwhile its word stands: which of the two
        answers is the newer one nobody can tell, and the next sweep asks again.

        Args:
            answer: The answer.
            at: The instant since which it is known, UTC. Made later by a microsecond than the
                newest one of the log if it is not: instants ascend, whatever clocks say.

        Returns:
            The sweep, and its events in `EVENTS`.

        Raises:
            ChangedError: Others appended again and again meanwhile; nothing was written.
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
        """Make the table of standing actions what the log says; False when it already was.

        Killed before it, the next sweep does it.
        """
        for _ in range(_ATTEMPTS):
            # In this order, so that the log is never behind the table that is compared with it.
            published = self._published()
            newest = self._newest()
            if newest is None:
                return False
            since = self._since(published.mark, newest)
            if published.table is not None and since is not None and not since.num_rows:
                return False  # nothing new since: the table is right as it is
            try:
                standing = self._standing(newest, published)
                data = _encode_standing(standing, newest.sweeps[-1].mark)
                self._store.replace(layout.STANDING_ACTIONS, data, published.version)
            except ChangedError:
                continue  # by another sweep, with as much or less
            return True
        return False

    def difference(self) -> str:
        """What is wrong with the table of standing actions; empty when it says what the log does.

        A lake without a log needs none.
        """
        published, newest = self._published(), self._newest()
        if newest is None:
            return "the log that it was made from is not there" if published.version else ""
        if published.version is None:
            return "it is not there"
        if published.table is None:
            return "it is damaged"
        since = self._since(published.mark, newest)
        if since is None:
            return "it was made from another log, or from an older one"
        if since.num_rows:
            return "it lacks what the newest sweeps saw"
        told = _folded((one.events for one in self._objects(newest)), None)
        return "" if told.equals(published.table) else "it is not what the log says"

    def current(self, at: datetime | None = None) -> pa.Table:
        """The actions as known at an instant, in `action.SCHEMA`, by effective date and symbol.

        Args:
            at: The instant; aware. None: now.

        Raises:
            ValueError: The instant has no zone.
        """
        if at is not None and at.utcoffset() is None:
            raise ValueError(
                f"{at!r} is no instant: give a datetime with its zone, like datetime.now(UTC)"
            )
        published = self._published()
        newest = self._newest()
        if newest is None:
            return SCHEMA.empty_table()
        if at is None or at >= newest.sweeps[-1].seen_at:
            return self._standing(newest, published)
        return _folded((found.events for found in self._objects()), at)

    def events(self, symbol: str | None = None) -> pa.Table:
        """What was seen, in `EVENTS`, in the order in which it was.

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
            return _Published(file.read().cast(SCHEMA), mark, version)
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
                f"{self._store.url(layout.action_log_key(missing))} is missing, so nobody can tell "
                "what was known when: restore it from a backup"
            )
        return numbers

    def _read(self, number: int, columns: list[str] | None = None) -> _Object:
        key = layout.action_log_key(number)
        data, version = self._store.get_versioned(key)
        try:
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            told = json.loads(file.schema_arrow.metadata[_SWEEPS])
            sweeps = tuple(map(Sweep.read, told))
            if not sweeps:
                raise ValueError("it names no sweep")
            schema = pa.schema([EVENTS.field(name) for name in columns or EVENTS.names])
            return _Object(number, sweeps, file.read(columns).cast(schema), version)
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
            raise BrokenFileError(
                f"{self._store.url(key)} is no whole object of the log of corporate actions "
                f"({error!r}): restore it from a backup; without it nobody can tell what was "
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
    """What stands after these events, up to an instant.

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
    told = json.dumps([sweep.told() for sweep in log.sweeps])
    return _parquet(log.events.replace_schema_metadata({_SWEEPS: told}))


def _encode_standing(actions: pa.Table, mark: str) -> bytes:
    return _parquet(actions.replace_schema_metadata({_UP_TO: mark}))


def _parquet(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    # zstd as Parquet uses it has no checksum: a flipped bit would be another rate.
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return bytes(buffer.getvalue())
