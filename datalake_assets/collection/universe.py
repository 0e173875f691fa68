"""The universe: which symbols to ask for in a session.

Belongs here: the columns of a snapshot of the source's list, and which names a session is asked
for. Does not belong here: fetching the list (`sources`) or keeping it (`lake`).
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

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

FORMER = "former"
"""Status of a name that stood on an earlier list and is not on this one: a renamed company leaves
no trace of its old ticker there. Kept, so that the newest snapshot names every ticker ever seen."""

NEAR = timedelta(days=7)
"""Two lists this far apart miss no ticker between them but one that was listed and delisted in a
week."""

COLUMN_DESCRIPTIONS = {
    "symbol": "Ticker as the source spells it",
    "status": "active or inactive, as the source lists it, or former: on an earlier list only. The "
    "source gives no date of listing or delisting",
    "exchange": "Primary exchange as the source spells it",
    "name": "Name of the security",
    "tradable": "Whether orders for it are taken today",
    "asset_id": "The source's own identifier; it does not survive a rename",
}

GROWTH = 0.1
"""Share of the active names that may be unknown to a session without a doubt: those listed since.
Each week has new listings, which no earlier session needs to be asked for."""

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


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The snapshots of the source's list that a lake keeps.

    Args:
        days: The days (in New York) on which they were taken, ascending.
        of: The snapshot of one of these days, in `SCHEMA`.
        besides: Tickers known from elsewhere, such as the names in corporate actions.
    """

    days: Sequence[date]
    of: Callable[[date], pa.Table]
    besides: Callable[[], Iterable[str]] = tuple


def symbols_for(sessions: Iterable[date], snapshots: Snapshots) -> dict[date, tuple[str, ...]]:
    """For each session every ticker that can have traded in it, ascending, each once.

    Between two lists taken within a week of each other, one before the session and one on its day
    or later, these are the names that one of the two calls active; no later list changes that, so
    a session is asked for the same symbols whenever it is collected. For any other session, which
    is any of a backfill, these are all names ever seen: without the delisted ones, and the tickers
    before a rename, a history knows only survivors.

    Args:
        sessions: The sessions to collect.
        snapshots: The lists of assets.

    Raises:
        ValueError: There is no snapshot.
    """
    if not snapshots.days:
        raise ValueError("without a snapshot of the source's list nothing can be asked for")
    ever: tuple[str, ...] | None = None
    between: dict[tuple[date, date], tuple[str, ...]] = {}
    wanted: dict[date, tuple[str, ...]] = {}
    for day in sessions:
        later = bisect_left(snapshots.days, day)
        around = snapshots.days[max(0, later - 1) : later + 1]
        if later and len(around) == 2 and around[1] - around[0] <= NEAR:
            pair = (around[0], around[1])
            if pair not in between:
                between[pair] = _tickers(
                    name
                    for one in pair
                    for name in _active(snapshots.of(one))["symbol"].to_pylist()
                )
            wanted[day] = between[pair]
        else:
            if ever is None:
                newest = snapshots.of(snapshots.days[-1])
                ever = _tickers((*newest["symbol"].to_pylist(), *snapshots.besides()))
            wanted[day] = ever
    return wanted


def with_former(snapshot: pa.Table, before: pa.Table | None) -> pa.Table:
    """The snapshot, with the names of the one before that are not on it as `FORMER`."""
    if before is None:
        return snapshot
    gone = before.filter(pc.invert(pc.is_in(before["symbol"], snapshot["symbol"].combine_chunks())))
    tickers = [askable(name) for name in gone["symbol"].to_pylist()]
    gone = gone.filter(pa.array(tickers, pa.bool_()))
    # A ticker that several assets had is remembered once.
    seen: dict[str, int] = {name: row for row, name in enumerate(gone["symbol"].to_pylist())}
    gone = gone.take(pa.array(seen.values(), pa.int64()))
    gone = gone.set_column(
        SCHEMA.get_field_index("status"),
        SCHEMA.field("status"),
        pa.array([FORMER] * len(gone), pa.string()),
    )
    gone = gone.set_column(
        SCHEMA.get_field_index("tradable"),
        SCHEMA.field("tradable"),
        pa.array([False] * len(gone), pa.bool_()),
    )
    return pa.concat_tables([snapshot, gone.cast(SCHEMA)]).sort_by("symbol")


def _tickers(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name for name in names if askable(name)}))


def _active(snapshot: pa.Table) -> pa.Table:
    return snapshot.filter(pc.equal(snapshot["status"], "active"))


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
