"""Postgres: Dagster's records in a database that several machines share.

Belongs here: what keeps the writing connection to it. Does not belong here: tables and queries,
which are Dagster's. Needs the extra `postgres`.

`dagster.yaml` names it, with the keys that Dagster's own `storage: postgres:` has:

    storage:
      custom:
        module: datalake_assets.records.postgres
        class: PostgresStorage
        config:
          postgres_db: { … }
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import sqlalchemy as db
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log import SqlEventLogStorageTable
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage
from dagster_postgres.utils import get_token_provider_from_config, pg_url_from_config

from datalake_assets.records.event_log import AssetEventLog, newest

if TYPE_CHECKING:
    from dagster._serdes import ConfigurableClassData
    from dagster_postgres.auth import PgTokenProvider


class PostgresEventLog(AssetEventLog, PostgresEventLogStorage):
    """Dagster's event log in Postgres, whose rows either class reads and writes.

    When the connection is lost, events are stored again by a new one, unless the rows of the first
    attempt are there: the server may have committed them and its answer was lost.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._kept = ExitStack()
        self._writer: db.Connection | None = None
        self._ids: list[int] = []  # of the rows that were sent last, committed or not
        super().__init__(*arguments, **options)

    def _write(self, events: Sequence[EventLogEntry]) -> None:
        kept = self._writer is not None
        self._ids = []
        try:
            self._write_once(events)
        except db.exc.DBAPIError as error:
            # The server was started anew since the last event, or a proxy closed what was idle, or
            # the connection was lost in between.
            if not error.connection_invalidated:
                raise
            self._release()
            if self._ids and self._are_there(events):
                return
            if not kept:
                raise
            self._write_once(events)

    def _are_there(self, events: Sequence[EventLogEntry]) -> bool:
        """Whether the rows of the last attempt were committed: their numbers are nobody else's."""
        row = SqlEventLogStorageTable.c
        there = db.select(db.func.count()).where(
            row.id.in_(self._ids), row.run_id == events[0].run_id
        )
        with self.run_connection(events[0].run_id) as connection:
            return connection.execute(there).scalar_one() == len(self._ids)

    def _write_once(self, events: Sequence[EventLogEntry]) -> None:
        if self._writer is None:
            connection = self._kept.enter_context(self.run_connection(events[0].run_id))
            # Dagster's connections commit each statement by itself.
            self._writer = connection.execution_options(isolation_level="READ COMMITTED")
        insert = self.prepare_insert_event_batch(events).returning(SqlEventLogStorageTable.c.id)
        with self._writer.begin():
            self._ids = ids = [int(row[0]) for row in self._writer.execute(insert)]
            self._store_asset_event_tags(self._writer, events, ids)
            for event, event_id in newest(events, ids):
                self._store_asset_event(self._writer, event, event_id)

    def _release(self) -> None:
        self._writer = None
        self._kept.close()


class PostgresStorage(DagsterPostgresStorage):
    """Dagster's storage in Postgres, with this event log. Named by `dagster.yaml`.

    Args:
        postgres_url: The database.
        should_autocreate_tables: Make the tables when they are not there.
        inst_data: What Dagster knows of the configuration.
        token_provider: Of passwords that change.
    """

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
        token_provider: PgTokenProvider | None = None,
    ) -> None:
        super().__init__(postgres_url, should_autocreate_tables, inst_data, token_provider)
        self._event_log_storage = PostgresEventLog(
            postgres_url, should_autocreate_tables, token_provider=token_provider
        )

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> PostgresStorage:
        """What Dagster calls with the checked configuration."""
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data,
            get_token_provider_from_config(config_value),
        )
