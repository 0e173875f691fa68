"""Minutes of a small market, and files of them, as a collection would publish them."""

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from datalake_assets import market_calendar
from datalake_assets.collection import dataset
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.report import Ledger
from datalake_assets.lake import encoding, session_file
from datalake_assets.lake.session_file import Provenance, Session
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store

MINUTE = timedelta(minutes=1)


def minute(symbol: str, day: date, at: datetime, **changed: Any) -> dict[str, Any]:
    """One bar whose numbers are of this symbol and minute only."""
    cents = zlib.crc32(f"{symbol} {at}".encode()) % 10_000
    price = 10.0 + cents / 100
    return {
        "symbol": symbol,
        "session": day,
        "timestamp": at,
        "open": price,
        "high": price + 0.75,
        "low": price - 0.5,
        "close": price + 0.25,
        "vwap": price + 0.125,
        "volume": 1 + cents,
        "trade_count": 1 + cents // 100,
        **changed,
    }


def session_of(symbols: Iterable[str], day: date, extended: int = 0) -> pa.Table:
    """Every minute of a session, and so many before and after it, of each of these symbols."""
    first = market_calendar.session_open(day) - extended * MINUTE
    count = (market_calendar.session_close(day) - first) // MINUTE + extended
    rows = [
        minute(symbol, day, first + at * MINUTE)
        for symbol in sorted(symbols)
        for at in range(count)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def collected_minutes(
    day: date, bars: pa.Table, hours: str | None = None, **states: Any
) -> Session:
    """A session with these minutes, as it was collected."""
    at = datetime(2026, 1, 5, 22, tzinfo=UTC)
    present = tuple(dict.fromkeys(bars["symbol"].to_pylist()))
    ledger = Ledger(day, present=present, **states)
    return Session(bars, ledger, Provenance(at, "alpaca/sip", day, "run", "0", hours=hours))


def publish_minutes(store: Store, day: date, bars: pa.Table, **states: Any) -> None:
    """Publish a session of minutes."""
    data = session_file.encode(collected_minutes(day, bars, **states), [], dataset.MINUTE)
    store.put(layout.session_key(day, layout.MINUTE), data)


@contextmanager
def row_groups(rows: int) -> Iterator[None]:
    """Minutes are written in row groups of so many rows: a small market has several then."""
    usual = encoding.ENCODINGS["minute"]
    encoding.ENCODINGS["minute"] = replace(usual, group_rows=rows)
    try:
        yield
    finally:
        encoding.ENCODINGS["minute"] = usual
