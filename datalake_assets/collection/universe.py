"""The universe: which symbols to request in a session.

Belongs here: the columns of a snapshot of the source's list, and which symbols of it to request.
Does not belong here: fetching the list (`sources`) or storing it (`lake`).
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
"""One row per asset of the source's list, by symbol. A symbol can occur more than once: tickers are
reused, and the previous asset stays on the list as inactive. Only symbol and status decide what is
requested; the other columns are null if the source does not provide them."""

FORMER = "former"
"""The status of a name on an earlier list that is not on this one: the old ticker of a renamed
company vanishes from the list. It is kept so that the newest snapshot has every ticker ever
seen."""

NEAR = timedelta(days=7)
"""Two lists this far apart miss only tickers that were listed and delisted within a week."""

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
"""The share of active names that a session may lack because they were listed later. Each week has
new listings, which earlier sessions don't need to request."""

_TICKER = re.compile(r"[A-Z]+(\.[A-Z]+)*")


_ODD = b"datalake.odd_assets"


def with_odd(snapshot: pa.Table, odd: Sequence[str]) -> pa.Table:
    """The snapshot, with unreadable items of the source's list in its metadata."""
    return snapshot.replace_schema_metadata({_ODD: json.dumps(odd)} if odd else None)


def odd(snapshot: pa.Table) -> list[str]:
    """The items of the source's list that are not in the snapshot: without symbol or status."""
    found: list[str] = json.loads((snapshot.schema.metadata or {}).get(_ODD, b"[]"))
    return found


def askable(symbol: str) -> bool:
    """Whether this can be a ticker.

    A name that the source rejects makes the whole request fail. Alpaca's
    list has hundreds, all with digits, dashes or colons (`0029900E0`, `ATC.220816`, `BRK-B`);
    class shares are dotted (`BRK.B`).
    """
    return _TICKER.fullmatch(symbol) is not None


@dataclass(frozen=True, slots=True)
class Snapshots:
    """The snapshots of the source's list in a lake.

    Args:
        days: The days (in New York) on which they were taken, ascending.
        of: Returns the snapshot of one of these days, in `SCHEMA`.
        besides: Other known tickers, such as those in corporate actions.
    """

    days: Sequence[date]
    of: Callable[[date], pa.Table]
    besides: Callable[[], Iterable[str]] = tuple


def symbols_for(sessions: Iterable[date], snapshots: Snapshots) -> dict[date, tuple[str, ...]]:
    """For each session, every ticker that can have traded in it, ascending and unique.

    For a session between two lists taken within a week of each other (one before the session, one
    on its day or later), these are the names that are active on one of the two. Later lists don't
    change that, so the same symbols are requested whenever the session is collected. For any other
    session, as in a backfill, these are all names ever seen: without delisted names and tickers
    from before a rename, the history would have survivorship bias.

    Args:
        sessions: The sessions to collect.
        snapshots: The lists of assets.

    Raises:
        ValueError: There is no snapshot.
    """
    if not snapshots.days:
        raise ValueError("nothing can be requested without a snapshot of the source's list")
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
    """The snapshot, with names that are only on the previous one added as `FORMER`."""
    if before is None:
        return snapshot
    gone = before.filter(pc.invert(pc.is_in(before["symbol"], snapshot["symbol"].combine_chunks())))
    tickers = [askable(name) for name in gone["symbol"].to_pylist()]
    gone = gone.filter(pa.array(tickers, pa.bool_()))
    # A ticker of several assets is kept once.
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
    """The least number of symbols that a session has if the whole list was requested.

    A session with fewer was collected for a smaller universe: a few configured symbols, or a
    truncated list.
    """
    names = snapshot["symbol"].filter(pc.equal(snapshot["status"], "active"))
    return math.ceil((1 - GROWTH) * sum(map(askable, set(names.to_pylist()))))


def active(snapshot: pa.Table) -> int:
    """The number of active assets."""
    return pc.sum(pc.equal(snapshot["status"], "active")).as_py() or 0


def lost(now: int, before: int | None) -> float:
    """The share of active assets missing since the previous snapshot; 0 if that had none.

    With a truncated list, every later session would look complete. A list without any active asset
    has lost all.
    """
    if not now:
        return 1.0
    return max(0.0, 1 - now / before) if before else 0.0


def inactive(snapshot: pa.Table) -> frozenset[str]:
    """The names of inactive assets that are not also names of active ones."""
    alive = pc.equal(snapshot["status"], "active")
    dead, living = (snapshot["symbol"].filter(rows) for rows in (pc.invert(alive), alive))
    return frozenset(dead.to_pylist()).difference(living.to_pylist())


def unlisted(symbols: Iterable[str], snapshot: pa.Table) -> tuple[str, ...]:
    """Those of these symbols that are not on the source's list, ascending."""
    return tuple(sorted(set(symbols).difference(snapshot["symbol"].to_pylist())))


def unlisted_message(symbols: Sequence[str], taken: date, setting: str = "DATALAKE_SYMBOLS") -> str:
    """The message about configured symbols that are not on the list.

    Args:
        symbols: At least one.
        taken: The day of the list.
        setting: The variable or option that names the symbols.
    """
    named = ", ".join(symbols[:10]) + (" …" if len(symbols) > 10 else "")
    return (
        f"not on the source's list of {taken}: {named}. Correct {setting} if this is a "
        "mistake; a ticker from before a rename may be missing there"
    )
