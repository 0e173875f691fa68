"""What changed on the source's list of assets: new, vanished and renamed symbols.

Belongs here: comparing the two newest lists. Does not belong here: fetching a list, and symbols
that stopped trading (`numbers`), which can still be listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.lake.files import LakeFiles
from datalake_assets.securities.derivation import NothingDerivedError, read_derived
from datalake_assets.storage import layout

BEFORE = timedelta(days=30)
"""A rename explains a changed list if the old ticker last traded at most so long before the first
of the two lists: the source may change its list late, and tickers are used again after years."""


NAMED = 5
"""How many symbols of each kind a line names."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A symbol on a list of the source.

    Args:
        symbol: The symbol.
        exchange: Its primary exchange; empty if the list does not tell.
        name: The security's name; empty if the list does not tell.
        now: The symbol that it was renamed to; empty for all others.
    """

    symbol: str
    exchange: str
    name: str
    now: str = ""


@dataclass(frozen=True, slots=True)
class ListChanges:
    """What changed between the two newest lists, of the assets that are active.

    Args:
        before, after: The days of the two lists.
        active: Active assets on the newer one.
        new: Active now and not before, ascending.
        vanished: Active before and not now, ascending.
        renamed: Vanished, and continued under a new symbol, ascending. Such pairs are in neither
            of the other two.
    """

    before: date
    after: date
    active: int
    new: Sequence[Listed] = ()
    vanished: Sequence[Listed] = ()
    renamed: Sequence[Listed] = ()

    @property
    def told(self) -> str:
        """The changes in a line, with the first symbols of each kind."""
        kinds = (
            ("new", [each.symbol for each in self.new]),
            ("vanished", [each.symbol for each in self.vanished]),
            ("renamed", [f"{each.symbol} to {each.now}" for each in self.renamed]),
        )
        parts = [
            f"{len(names):,} {kind}: {', '.join(names[:NAMED])}{' …' if names[NAMED:] else ''}"
            for kind, names in kinds
            if names
        ]
        return "; ".join(parts) or "no change"


def list_changes(lake: LakeFiles) -> ListChanges | None:
    """Compare the two newest lists of a lake; None if it has fewer than two.

    Renames are those that the lake's securities know; without securities, the two symbols of a
    rename are told as vanished and new.

    Raises:
        BrokenFileError: A list or the table of securities is damaged.
    """
    days = lake.universe_days()[-2:]
    if len(days) < 2:
        return None
    before, after = (_active(lake.universe_of(day)) for day in days)
    new, vanished = after.keys() - before.keys(), before.keys() - after.keys()
    renames = {
        old: now
        for old, now in (_renames(lake, days[0] - BEFORE) if new and vanished else {}).items()
        if old in vanished and now in new
    }
    return ListChanges(
        before=days[0],
        after=days[1],
        active=len(after),
        new=[_listed(after[symbol]) for symbol in sorted(new.difference(renames.values()))],
        vanished=[_listed(before[symbol]) for symbol in sorted(vanished.difference(renames))],
        renamed=[_listed(before[old], renames[old]) for old in sorted(renames)],
    )


def _active(snapshot: pa.Table) -> dict[str, dict[str, Any]]:
    rows = snapshot.filter(pc.equal(snapshot["status"], "active"))
    return {row["symbol"]: row for row in rows.select(["symbol", "exchange", "name"]).to_pylist()}


def _listed(row: dict[str, Any], now: str = "") -> Listed:
    return Listed(row["symbol"], row["exchange"] or "", row["name"] or "", now)


def _renames(lake: LakeFiles, since: date) -> dict[str, str]:
    """Each ticker that a security left since a day, and its next one."""
    try:
        table = read_derived(lake.store, layout.SECURITIES_TABLE)
    except NothingDerivedError:
        return {}
    columns = ["symbol", "last_session", "next_symbol"]
    return {
        row["symbol"]: row["next_symbol"]
        for row in table.select(columns).to_pylist()
        if row["next_symbol"] and row["last_session"] and row["last_session"] >= since
    }
