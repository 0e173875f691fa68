"""The universe: which symbols to ask for in a session.

Belongs here: the columns of a snapshot, and choosing from it. Does not belong here: fetching the
list (`sources`) or keeping it (`lake`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("exchange", pa.string()),
        pa.field("name", pa.string()),
        pa.field("tradable", pa.bool_()),
        pa.field("asset_id", pa.string()),
    ]
)
"""One row per asset of the source's list, by symbol. A symbol can stand there more than once:
tickers are reused, and the asset that had it before stays on the list as inactive. Only symbol and
status decide what is asked for; the rest is null where the source does not tell it."""

COLUMN_DESCRIPTIONS = {
    "symbol": "Ticker as the source spells it",
    "status": "active or inactive; the source gives no date of listing or delisting",
    "exchange": "Primary exchange as the source spells it",
    "name": "Name of the security",
    "tradable": "Whether orders for it are taken today",
    "asset_id": "The source's own identifier; it does not survive a rename",
}

_TICKER = re.compile(r"[A-Z]+(\.[A-Z]+)*")


_ODD = b"datalake.odd_assets"


def with_odd(snapshot: pa.Table, odd: Sequence[str]) -> pa.Table:
    """The snapshot with what the source listed and nobody can take: it keeps that as metadata."""
    return snapshot.replace_schema_metadata({_ODD: json.dumps(odd)} if odd else None)


def odd(snapshot: pa.Table) -> list[str]:
    """What of the source's list is not in the snapshot, since it has no symbol or no status."""
    found: list[str] = json.loads((snapshot.schema.metadata or {}).get(_ODD, b"[]"))
    return found


def askable(symbol: str) -> bool:
    """Can this be a ticker?

    One name that the source calls no symbol costs the whole request that carries it. Alpaca's
    list has hundreds, all with digits, dashes or colons (`0029900E0`, `ATC.220816`, `BRK-B`);
    class shares are dotted (`BRK.B`).
    """
    return _TICKER.fullmatch(symbol) is not None


def symbols_for(
    sessions: Iterable[date], snapshot: pa.Table, taken: date
) -> dict[date, tuple[str, ...]]:
    """For each session the symbols to ask for, ascending, each once.

    Args:
        sessions: The sessions to collect.
        snapshot: The universe, in `SCHEMA`.
        taken: The day on which the snapshot was taken, in New York.

    For a session before the snapshot the inactive names are asked for too: some of them were
    alive then, and a history without them knows only survivors.
    """
    active = snapshot.filter(pc.equal(snapshot["status"], "active"))
    today, ever = (
        tuple(sorted({name for name in rows["symbol"].to_pylist() if askable(name)}))
        for rows in (active, snapshot)
    )
    return {day: ever if day < taken else today for day in sessions}


def active(snapshot: pa.Table) -> int:
    """The number of active assets."""
    return pc.sum(pc.equal(snapshot["status"], "active")).as_py() or 0


def lost(now: int, before: int | None) -> float:
    """Share of the active assets that are gone since the snapshot before, 0 when it has none.

    A list that was cut short would make every session after it look complete. A list without
    any active asset has lost all.
    """
    if not now:
        return 1.0
    return max(0.0, 1 - now / before) if before else 0.0
