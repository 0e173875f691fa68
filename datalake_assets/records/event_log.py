"""Event log: events about assets, stored through one connection and in one transaction.

Belongs here: which events go that way, and when its connection is given up. Does not belong here:
a database (`sqlite`, `postgres`).

A run over a year stores some 500 events about assets, a plan and a materialization per session.
Dagster's storages connect anew for each of the statements that one event takes, and SQLite's also
compiles each statement anew. Here the statements of an event, or of a batch that Dagster hands
over, share a transaction, and events share a connection. An event is stored when the call returns,
as in Dagster's own classes: nothing waits in memory, so a process that is killed loses nothing
that it had recorded.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from dagster._core.events import EVENT_TYPE_TO_PIPELINE_RUN_STATUS, DagsterEventType
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqlEventLogStorage

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
        super().__init__(*arguments, **options)  # type: ignore[no-untyped-call]

    def store_event(self, event: EventLogEntry) -> None:
        """Store one event; it is in the database when this returns."""
        if _of_asset(event):
            self._store([event])
            return
        super().store_event(event)
        # A run is planned, started or ended. Its next events may come from another process, and
        # after the last one nothing is left open.
        if event.dagster_event_type in EVENT_TYPE_TO_PIPELINE_RUN_STATUS:
            with self._lock:
                self._release()

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store what Dagster hands over together: the plan of a run, where batches are on."""
        for (_, of_asset), group in groupby(events, lambda event: (event.run_id, _of_asset(event))):
            if of_asset:
                self._store(list(group))
            else:
                for event in group:
                    self.store_event(event)

    def dispose(self) -> None:
        """Close what is open."""
        with self._lock:
            self._release()
        super().dispose()

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
