"""SQLite: Dagster's records in files of one machine.

Belongs here: what keeps the engines and the writing connections of those files. Does not belong
here: tables and queries, which are Dagster's.

`dagster.yaml` names it:

    storage:
      custom:
        module: datalake_assets.records.sqlite
        class: SqliteStorage
        config:
          base_dir: { env: DAGSTER_HOME }
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as db
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import (
    AssetKeyTable,
    SqlEventLogStorageTable,
    SqliteEventLogStorage,
)
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import NullPool

from datalake_assets.records.event_log import AssetEventLog, newest

if TYPE_CHECKING:
    from dagster._serdes import ConfigurableClassData

_INDEX = "index"
"""Dagster's name for the file with the events of all runs about assets, and with their state."""

_ENGINES = 32
"""Files whose compiled statements are kept: a webserver reads the file of each run it shows."""


class SqliteEventLog(AssetEventLog, SqliteEventLogStorage):
    """Dagster's event log in SQLite files, one for each run and one for all.

    The files are those of `SqliteEventLogStorage`: either class reads what the other wrote.

    Events about assets are committed without waiting for the disk (`synchronous=NORMAL`): they
    outlive the process, whatever kills it. A machine that loses its power may lose those since the
    run's last event of another kind, which waits for the disk, with all before it.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: dict[str, db.Engine] = {}
        self._writers: list[db.Connection] = []
        self._written: str | None = None  # the run whose file is open
        self._has_index_columns = False
        super().__init__(base_dir, inst_data)

    def run_connection(self, run_id: str | None = None) -> AbstractContextManager[db.Connection]:
        """A transaction on the file of a run."""
        return self._transaction(run_id or "")

    def index_connection(self) -> AbstractContextManager[db.Connection]:
        """A transaction on the file of all runs."""
        return self._transaction(_INDEX)

    def wipe(self) -> None:
        """Delete all events. Dagster unlinks the files of runs."""
        with self._lock:
            self._release()
            self._engines.clear()
        super().wipe()

    @contextmanager
    def _transaction(self, shard: str) -> Iterator[db.Connection]:
        with self._lock, self._engine(shard).connect() as connection, connection.begin():
            yield connection

    def _engine(self, shard: str) -> db.Engine:
        """The engine of a file; an engine keeps compiled statements, and no connection."""
        engine = self._engines.pop(shard, None)
        if engine is None:
            with super().run_connection(shard):
                pass  # which makes the file when there is none
            engine = db.create_engine(
                self.conn_string_for_shard(shard),
                poolclass=NullPool,
                connect_args={
                    "timeout": SQLITE_BUSY_TIMEOUT_SECONDS,
                    "check_same_thread": False,  # whoever uses a connection has the lock
                },
            )
            if len(self._engines) >= _ENGINES:
                self._engines.pop(next(iter(self._engines)))
        self._engines[shard] = engine
        return engine

    def _write(self, events: Sequence[EventLogEntry]) -> None:
        rows = [self._event_to_row(event) for event in events]
        run, index = self._writers_of(events[0].run_id)
        # Both are written before one is committed, so an error leaves both as they were.
        with run.begin(), index.begin():
            run.execute(_INSERT, rows)
            index.execute(_INSERT, rows)
            # Nobody else writes meanwhile, and each row has the number after the last one's.
            # https://www.sqlite.org/autoinc.html
            last = index.execute(_LAST_ROW).scalar_one()
            ids = range(last - len(rows) + 1, last + 1)
            self._store_asset_event_tags(index, events, ids)
            for event, event_id in newest(events, ids):
                self._store_asset_event(index, event, event_id)
        self._touch(events[0].run_id)

    def _store_other(self, event: EventLogEntry) -> None:
        super()._store_other(event)
        self._touch(event.run_id)

    def _writers_of(self, run_id: str) -> list[db.Connection]:
        """The connections to the file of a run and to that of all runs."""
        if run_id != self._written:
            self._release()
            self._written = run_id
            for shard in (run_id, _INDEX):
                self._writers.append(self._engine(shard).connect())
                # The write-ahead log is not synced at each commit.
                # https://www.sqlite.org/pragma.html#pragma_synchronous
                self._writers[-1].execute(db.text("PRAGMA synchronous = NORMAL"))
                self._writers[-1].commit()
        return self._writers

    def _release(self) -> None:
        self._written = None
        while self._writers:
            self._writers.pop().close()

    def _touch(self, run_id: str) -> None:
        """Let whoever watches a run see that there is news.

        Dagster's UI waits for its file to change, and while a connection is kept open only the
        write-ahead log beside it does.
        """
        os.utime(self.path_for_shard(run_id))

    def _store_asset_event(self, conn: db.Connection, event: EventLogEntry, event_id: int) -> None:
        """Write the row of an asset in one statement, as Dagster's storage for Postgres does."""
        key = event.get_dagster_event().asset_key
        values = self._get_asset_entry_values(
            event, event_id, self._has_asset_key_index_cols_on_connection(conn)
        )
        if key and values:
            insert = sqlite.insert(AssetKeyTable).values(asset_key=key.to_string(), **values)
            conn.execute(
                insert.on_conflict_do_update(
                    index_elements=[AssetKeyTable.c.asset_key], set_=values
                )
            )

    def _has_asset_key_index_cols_on_connection(self, conn: db.Connection) -> bool:
        # Asked for each event by Dagster. A migration adds the columns, and nothing removes them.
        if not self._has_index_columns:
            self._has_index_columns = super()._has_asset_key_index_cols_on_connection(conn)
        return self._has_index_columns


_INSERT = SqlEventLogStorageTable.insert()
_LAST_ROW = db.text("SELECT last_insert_rowid()")


class SqliteStorage(DagsterSqliteStorage):
    """Dagster's storage in SQLite files, with this event log. Named by `dagster.yaml`.

    Args:
        base_dir: DAGSTER_HOME.
        inst_data: What Dagster knows of the configuration.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        index = Path(self._event_log_storage.path_for_shard(_INDEX))
        self._event_log_storage = SqliteEventLog(str(index.parent))

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> SqliteStorage:
        """What Dagster calls with the checked configuration."""
        # DAGSTER_HOME may be written with a ~, which Dagster resolves for itself alone.
        return cls.from_local(str(Path(config_value["base_dir"]).expanduser()), inst_data)
