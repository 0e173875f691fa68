"""Small histories of bars, for tests of securities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import pyarrow as pa

from datalake_assets import market_calendar
from datalake_assets.actions.action import SCHEMA as ACTIONS
from datalake_assets.securities.evidence import Evidence, Points, gather
from datalake_assets.storage.store import Store, open_store

Bar = tuple[float, float, int]  # open, close, volume


class History:
    """Bars by symbol and session, as a lake would hold them."""

    def __init__(self) -> None:
        self.bars: dict[date, dict[str, Bar]] = {}

    def add(
        self,
        symbol: str,
        days: Sequence[date],
        closes: float | Sequence[float] = 100.0,
        opens: Sequence[float] | None = None,
        volume: int | Sequence[int] = 10_000,
    ) -> History:
        """Bars of a symbol; each opens where it closes unless `opens` says otherwise."""
        for index, day in enumerate(days):
            close = closes if isinstance(closes, int | float) else closes[index]
            opened = close if opens is None else opens[index]
            shares = volume if isinstance(volume, int) else volume[index]
            self.bars.setdefault(day, {})[symbol] = (float(opened), float(close), shares)
        return self

    def versions(self) -> dict[date, str]:
        return {day: f"v{hash(tuple(sorted(held.items())))}" for day, held in self.bars.items()}

    def read(self, day: date) -> pa.Table:
        held = sorted(self.bars[day].items())
        return pa.table(
            {
                "symbol": [symbol for symbol, _ in held],
                "open": [bar[0] for _, bar in held],
                "close": [bar[1] for _, bar in held],
                "volume": [bar[2] for _, bar in held],
            }
        )

    def evidence(
        self, pairs: Iterable[tuple[str, date]] = (), store: Store | None = None
    ) -> Evidence:
        return self.gathered(Points.of(pairs), store)

    def gathered(self, points: Points, store: Store | None = None) -> Evidence:
        store = store or open_store("memory://")
        return gather(store, self.versions(), self.read, points)


def sessions(first: str, last: str) -> list[date]:
    return market_calendar.sessions(date.fromisoformat(first), date.fromisoformat(last))


def action(
    id: str,
    kind: str,
    symbol: str,
    day: date | str,
    *,
    process: date | str | None = None,
    body: str = "{}",
    **more: Any,
) -> dict[str, Any]:
    effective = date.fromisoformat(day) if isinstance(day, str) else day
    processed = date.fromisoformat(process) if isinstance(process, str) else process
    empty = dict.fromkeys(ACTIONS.names)
    return empty | {
        "id": id,
        "kind": kind,
        "effective_date": effective,
        "process_date": processed or effective,
        "symbol": symbol,
        "body": body,
        **more,
    }


def actions(*rows: Mapping[str, Any]) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows], schema=ACTIONS)
