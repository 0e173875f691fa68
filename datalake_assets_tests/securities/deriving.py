"""Tables of a lake, derived by the program itself from the lake's bars and log of actions."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from datalake_assets.actions.action import SCHEMA
from datalake_assets.actions.log import ActionLog, Answer
from datalake_assets.lake import session_file
from datalake_assets.securities.derivation import derive_factors, derive_securities, material
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store

_EVER = (date(2000, 1, 1), date(2035, 1, 1))


def say(
    store: Store,
    at: datetime,
    *rows: Mapping[str, Any],
    gone: Iterable[str] = (),
) -> None:
    """Let the source say these actions at an instant, and that some are gone."""
    log = ActionLog(store)
    known = next((sweep.number for sweep in log.sweeps()), 0)
    actions = pa.Table.from_pylist([dict(row) for row in rows], SCHEMA)
    log.append(Answer(at, known, *_EVER, actions, frozenset(gone)), at)


def derive(store: Store) -> None:
    """Derive the tables of securities and factors of what the lake holds now."""
    versions = store.versions(layout.SESSIONS)
    days = layout.dated(layout.SESSIONS, list(versions))

    def read(day: date) -> pa.Table:
        key = layout.session_key(day)
        return session_file.decode_bars(store.get(key), key)

    sessions = {day: versions[layout.session_key(day)] for day in days}
    given = material(store, sessions, read, ActionLog(store).current())
    derive_securities(store, given, None)
    derive_factors(store, given)


LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
