"""Tables of bars for the tests of the collection: valid ones, each different from every other."""

import zlib
from collections.abc import Iterable
from datetime import date
from itertools import product
from typing import Any

import pyarrow as pa

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA

WEEK = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 9))
"""Six sessions around a holiday and a weekend."""

MONDAY = WEEK[0]


def names(count: int) -> tuple[str, ...]:
    """So many symbols, ascending."""
    return tuple(f"S{number:05}" for number in range(count))


def bar(symbol: str, session: date = MONDAY, **changed: Any) -> dict[str, Any]:
    """One bar whose numbers are of this symbol and session only."""
    cents = zlib.crc32(f"{symbol} {session}".encode()) % 1_000_000
    price = 1.0 + cents / 100
    return {
        "symbol": symbol,
        "session": session,
        "timestamp": market_calendar.session_stamp(session),
        "open": price,
        "high": price + 1,
        "low": price - 0.5,
        "close": price + 0.5,
        "vwap": price + 0.25,
        "volume": 100 + cents,
        "trade_count": 1 + cents // 100,
        **changed,
    }


def table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """These bars, in this order."""
    return pa.Table.from_pylist(list(rows), SCHEMA)


def every(symbols: Iterable[str], sessions: Iterable[date] = (MONDAY,)) -> pa.Table:
    """A bar for each of the symbols in each of the sessions, by session and symbol."""
    return table(bar(symbol, day) for day, symbol in product(sorted(sessions), sorted(symbols)))
