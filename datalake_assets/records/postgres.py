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
    """Dagster's event log in Postgres, whose rows either class reads and writes."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._kept = ExitStack()
        self._writer: db.Connection | None = None
        super().__init__(*arguments, **options)

    def _write(self, events: Sequence[EventLogEntry]) -> None:
        kept = self._writer is not None
        try:
            self._write_once(events)
        except db.exc.DBAPIError as error:
            # The server was started anew since the last event, or a proxy closed what was idle.
            # Nothing was committed, so a new connection may try.
            if not kept or not error.connection_invalidated:
                raise
            self._release()
            self._write_once(events)

    def _write_once(self, events: Sequence[EventLogEntry]) -> None:
        if self._writer is None:
            connection = self._kept.enter_context(self.run_connection(events[0].run_id))
            # Dagster's connections commit each statement by itself.
            self._writer = connection.execution_options(isolation_level="READ COMMITTED")
        insert = self.prepare_insert_event_batch(events).returning(SqlEventLogStorageTable.c.id)
        with self._writer.begin():
            ids = [int(row[0]) for row in self._writer.execute(insert)]
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
