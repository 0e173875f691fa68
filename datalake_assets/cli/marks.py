"""What `datalake show` marks in a symbol's bars: splits, dividends, spin-offs and new tickers.

Belongs here: which sessions are marked, and with which text and letter. Does not belong here: the
table and the chart (`show`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from datalake_assets.lake.lake import Lake
from datalake_assets.lake.reader import NotInLakeError

LETTERS = {"split": "S", "spin-off": "O", "rename": "R", "dividend": "D"}
"""The letter below a candle, by kind. Of several, the first in this order is shown."""

LEGEND = {"S": "split", "O": "spin-off", "R": "new ticker", "D": "dividend"}


@dataclass(frozen=True, slots=True)
class Mark:
    """An event of a security in a session.

    Args:
        kind: One of `LETTERS`.
        text: A short description.
    """

    kind: str
    text: str


Marks = dict[date, list[Mark]]


def marks(lake: Lake, bars: Sequence[dict[str, Any]]) -> Marks:
    """The marks of these bars, by session; empty in a lake without derived securities.

    Args:
        lake: The lake.
        bars: Rows of `Lake.bars`, ascending.
    """
    if not bars or bars[-1].get("security") is None:
        return {}
    try:
        security = lake.security(bars[-1]["symbol"], asof=bars[-1]["session"])
    except NotInLakeError:
        return {}
    sessions = {bar["session"] for bar in bars}
    found: Marks = {}
    for row in security.factors.to_pylist():
        day = row["session"] or row["effective_date"]
        if day in sessions:
            found.setdefault(day, []).append(Mark(row["adjustment"], _words(row)))
    for before, after in zip(security.names, security.names[1:], strict=False):
        if after.first in sessions:
            text = f"{after.symbol}, formerly {before.symbol}"
            found.setdefault(after.first, []).append(Mark("rename", text))
    return found


def _words(row: dict[str, Any]) -> str:
    if row["adjustment"] == "split":
        text = f"split {row['new_shares']}:{row['old_shares']}" if row["new_shares"] else "split"
    else:
        worth = "" if row["amount"] is None else f" ${row['amount']:g}"
        text = f"{row['adjustment']}{worth}"
    return text if row["applied"] else f"{text} (not applied: {row['verdict']})"


def letter(held: Sequence[Mark]) -> str:
    """The letter for these marks."""
    kinds = {mark.kind for mark in held}
    return next((sign for kind, sign in LETTERS.items() if kind in kinds), " ")


def words(held: Sequence[Mark]) -> str:
    """The descriptions of these marks."""
    return ", ".join(mark.text for mark in held)
