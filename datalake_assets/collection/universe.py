"""The universe: which symbols to ask for in a session.

Belongs here: the columns of a snapshot, and choosing from it. Does not belong here: fetching the
list (`sources`) or keeping it (`lake`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

SCHEMA = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("exchange", pa.string(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("tradable", pa.bool_(), nullable=False),
        pa.field("asset_id", pa.string(), nullable=False),
    ]
)
"""One row per asset of the source's list, by symbol. A symbol can stand there more than once:
tickers are reused, and the asset that had it before stays on the list as inactive."""

COLUMN_DESCRIPTIONS = {
    "symbol": "Ticker as the source spells it",
    "status": "active or inactive; the source gives no date of listing or delisting",
    "exchange": "Primary exchange as the source spells it",
    "name": "Name of the security",
    "tradable": "Whether orders for it are taken today",
    "asset_id": "The source's own identifier; it does not survive a rename",
}

GROWTH = 0.1
"""Share of the active names that may be unknown to a session without a doubt: those listed since.
Each week has new listings, which no earlier session needs to be asked for."""

_TICKER = re.compile(r"[A-Z]+(\.[A-Z]+)*")


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


def least_asked(snapshot: pa.Table) -> int:
    """How many symbols a session was asked for at least, if it was asked for the whole list.

    One that was asked for fewer knows a smaller universe: a few chosen symbols, or a list that was
    cut short.
    """
    names = snapshot["symbol"].filter(pc.equal(snapshot["status"], "active"))
    return math.ceil((1 - GROWTH) * sum(map(askable, set(names.to_pylist()))))


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


def inactive(snapshot: pa.Table) -> frozenset[str]:
    """The names that only inactive assets have."""
    alive = pc.equal(snapshot["status"], "active")
    dead, living = (snapshot["symbol"].filter(rows) for rows in (pc.invert(alive), alive))
    return frozenset(dead.to_pylist()).difference(living.to_pylist())


def unlisted(symbols: Iterable[str], snapshot: pa.Table) -> tuple[str, ...]:
    """Those of these symbols that are not on the source's list, ascending."""
    return tuple(sorted(set(symbols).difference(snapshot["symbol"].to_pylist())))


def told_unlisted(symbols: Sequence[str], taken: date) -> str:
    """What to tell of chosen symbols that are not on the list.

    Args:
        symbols: At least one.
        taken: The day of the list.
    """
    named = ", ".join(symbols[:10]) + (" …" if len(symbols) > 10 else "")
    return (
        f"not on the source's list of {taken}: {named}. Correct DATALAKE_SYMBOLS if that is a "
        "mistake; a ticker from before a rename may be missing there"
    )
