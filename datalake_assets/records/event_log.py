"""Event log: events about assets, stored through one connection and in few transactions.

Belongs here: which events go that way, which share a transaction, and when the connection is given
up. Does not belong here: a database (`sqlite`, `postgres`).

A run over a year stores some 500 events about assets, a plan and a materialization per session.
Dagster's storages connect anew for each of the statements that one event takes, and SQLite's also
compiles each statement anew. Here the statements of an event share a transaction, and events share
a connection. Many events in one transaction cost a third to a quarter of what each costs alone: a
batch that Dagster hands over is one transaction, and so is what a block of `together` stores.

Outside such a block an event is in the database when the call returns, as in Dagster's own classes.
Nothing is stored later than its caller asks for: no thread and no timer writes here, so an error
reaches the caller, and a process that ends leaves nothing behind.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from typing import Any

import dagster as dg
from dagster._core.events import EVENT_TYPE_TO_PIPELINE_RUN_STATUS, DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqlEventLogStorage

from datalake_assets.records.event_text import EventText

_OF_ASSETS = frozenset(
    {
        DagsterEventType.ASSET_MATERIALIZATION,
        DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
        DagsterEventType.ASSET_OBSERVATION,
    }
)


class AssetEventLog(SqlEventLogStorage):
    """Stores events of runs about assets by `_write`, and leaves all others to Dagster's class.

    To be put before one of Dagster's storages among the bases of a class.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._lock = threading.RLock()
        self._gathered: list[EventLogEntry] | None = None  # in a block of `together`
        self._text = EventText()
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]

    def store_event(self, event: EventLogEntry) -> None:
        """Store one event; it is in the database when this returns, or at the end of the block."""
        with self._lock:
            if not _of_asset(event):
                self._store_gathered()
                self._store_other(event)
            elif self._gathered is None:
                self._store([event])
            else:
                self._gathered.append(event)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store what Dagster hands over together: the plan of a run, where batches are on."""
        self._store_gathered()
        for (_, of_asset), group in groupby(events, lambda event: (event.run_id, _of_asset(event))):
            if of_asset:
                self._store(list(group))
            else:
                for event in group:
                    self.store_event(event)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block whose events about assets are stored at its end, in one transaction.

        Other threads that store events wait for it. The events are stored also when the block ends
        by an error. An event of another kind is stored after those before it. A question that is
        asked in the block does not see its events.

        Raises:
            Exception: What keeps the database from storing them. Those of a run are stored, or none
                of them is, but that SQLite's two files are committed one after the other.
        """
        with self._lock:
            if self._gathered is not None:
                yield  # the outer block stores them
                return
            self._gathered = []
            try:
                try:
                    yield
                finally:
                    self._store_gathered()
            finally:
                self._gathered = None

    def dispose(self) -> None:
        """Close what is open."""
        with self._lock:
            self._release()
        super().dispose()

    def _event_to_row(self, event: EventLogEntry) -> dict[str, Any]:
        parts = self._text.without_metadata(event)
        if parts is None:
            return super()._event_to_row(event)
        bare, metadata = parts
        row = super()._event_to_row(bare)
        row["event"] = self._text.joined(row["event"], metadata)
        return row

    def _store_other(self, event: EventLogEntry) -> None:
        super().store_event(event)
        # A run is planned, started or ended. Its next events may come from another process, and
        # after the last one nothing is left open.
        if event.dagster_event_type in EVENT_TYPE_TO_PIPELINE_RUN_STATUS:
            self._release()

    def _store_gathered(self) -> None:
        with self._lock:
            if self._gathered:
                events, self._gathered = self._gathered, []
                for _, group in groupby(events, lambda event: event.run_id):
                    self._store(list(group))

    def _store(self, events: Sequence[EventLogEntry]) -> None:
        with self._lock:
            try:
                self._write(events)
            except BaseException:
                # Also of an interrupt, which can come between any two statements.
                self._release()
                raise

    @abstractmethod
    def _write(self, events: Sequence[EventLogEntry]) -> None:
        """Store events of one run about assets, all of them or none, and keep the connection."""

    @abstractmethod
    def _release(self) -> None:
        """Close the connection; the next event opens one."""


def together(instance: dg.DagsterInstance) -> AbstractContextManager[None]:
    """A block whose events about assets are stored at its end, in one transaction.

    With one of Dagster's own storages each event is stored by itself, as without the block.

    Args:
        instance: Dagster's instance.
    """
    storage = instance.event_log_storage
    return storage.together() if isinstance(storage, AssetEventLog) else nullcontext()


def newest(
    events: Iterable[EventLogEntry], event_ids: Iterable[int]
) -> Iterator[tuple[EventLogEntry, int]]:
    """Of each asset and type the last event, in the order of the events.

    An asset's row tells its newest materialization and its newest run: the last one overwrites
    what those before it in the same transaction would have written.
    """
    found: dict[tuple[object, object], tuple[EventLogEntry, int]] = {}
    for event, event_id in zip(events, event_ids, strict=True):
        key = (event.get_dagster_event().asset_key, event.dagster_event_type)
        found.pop(key, None)
        found[key] = (event, event_id)
    yield from found.values()


def _of_asset(event: EventLogEntry) -> bool:
    # Events without a run come one by one, from the UI or a script, and would leave it open.
    return bool(event.run_id) and event.dagster_event_type in _OF_ASSETS
