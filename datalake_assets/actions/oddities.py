"""Oddities: actions that can't be right as stated, or contradict each other.

Belongs here: what the rows alone, the calendar and the known tickers tell. Does not belong here:
what prices tell of an action, and whether it is applied (`securities`).

No action is removed or changed because of an oddity. The kinds are those that Alpaca was seen to
serve: one split on two neighbouring days (HLT, 2017), a dividend listed twice (PFE, 2023), a
reverse split entered as a forward one (DOV, 2018).
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pyarrow as pa

from datalake_assets import market_calendar

DUPLICATE = "duplicate"
TWO_DAYS = "on two days"
IMPOSSIBLE = "impossible rate"
INCOMPLETE = "incomplete"
UNKNOWN_SYMBOL = "unknown symbol"
NO_SESSION = "no session"

KINDS = (DUPLICATE, TWO_DAYS, IMPOSSIBLE, INCOMPLETE, UNKNOWN_SYMBOL, NO_SESSION)

NEIGHBOURING = timedelta(days=4)
"""Two days are neighbours over a long weekend too."""

MOST_SHARES = 1_000.0
"""A larger ratio of shares, in either direction, is implausible."""

MOST_CASH = 1_000.0
"""A larger cash dividend per share, in US dollars, is implausible."""

_SPLITS = ("forward_splits", "reverse_splits")
_ON_PRICES = (*_SPLITS, "unit_splits", "stock_dividends", "cash_dividends", "spin_offs")
_RATES = {
    **dict.fromkeys(
        (
            *("forward_splits", "reverse_splits", "unit_splits", "stock_dividends", "spin_offs"),
            *("rights_distributions", "stock_mergers"),
        ),
        ("new_rate", "old_rate"),
    ),
    **dict.fromkeys(("cash_dividends", "cash_mergers", "redemptions"), ("cash",)),
    "stock_and_cash_mergers": ("new_rate", "old_rate", "cash"),
}
_BRINGS = ("unit_splits", "spin_offs", "rights_distributions", "name_changes")
"""Kinds that need a new symbol."""


@dataclass(frozen=True, slots=True)
class Oddity:
    """What is wrong with one action, or with two.

    Args:
        kind: One of `KINDS`.
        symbol: The ticker.
        effective_date: Of the action, or of the first of them.
        ids: The actions.
        text: What is wrong, as text.
    """

    kind: str
    symbol: str
    effective_date: date
    ids: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.symbol} {self.effective_date}: {self.text} ({', '.join(self.ids)})"


def oddities(actions: pa.Table, known: Collection[str]) -> list[Oddity]:
    """The oddities of these actions, the newest first.

    Args:
        actions: The standing ones, in `action.SCHEMA`.
        known: Tickers that are on a list of assets or have bars. A ticker before or after a
            rename that an action tells need not be among them.
    """
    rows = actions.to_pylist()
    renamed = {
        name
        for row in rows
        if row["kind"] in ("name_changes", *_SPLITS)
        for name in (row["symbol"], row["new_symbol"])
        if name and row["new_symbol"]
    }
    found = [*_repeated(rows)]
    for row in rows:
        found += _alone(row)
        if row["symbol"] not in known and row["symbol"] not in renamed:
            text = f"{_kind(row)} of a ticker that is on no list and has no bar"
            found.append(_oddity(UNKNOWN_SYMBOL, text, row))
    return sorted(found, key=lambda one: (one.effective_date, one.symbol, one.kind), reverse=True)


def counted(found: Iterable[Oddity]) -> dict[str, int]:
    """The number of each kind, including those without any."""
    counts = Counter(one.kind for one in found)
    return {kind: counts[kind] for kind in KINDS}


def _alone(row: dict[str, Any]) -> Iterator[Oddity]:
    """The oddities of a single row."""
    kind = row["kind"]
    lacking = [name for name in _RATES.get(kind, ()) if row[name] is None]
    if kind in _BRINGS and row["new_symbol"] is None:
        lacking.append("new_symbol")
    if "cash" in lacking and (currency := json.loads(row["body"]).get("currency")):
        lacking.remove("cash")
        yield _oddity(INCOMPLETE, f"{_kind(row)} in {currency}: no amount in dollars", row)
    if lacking:
        yield _oddity(INCOMPLETE, f"{_kind(row)} without {', '.join(lacking)}", row)
    if why := _impossible(row):
        yield _oddity(IMPOSSIBLE, f"{_kind(row)}: {why}", row)
    if kind in _ON_PRICES and not _session(row["effective_date"]):
        text = f"{_kind(row)} on a day without a session: it takes effect in the next session"
        yield _oddity(NO_SESSION, text, row)


def _impossible(row: dict[str, Any]) -> str | None:
    """Why no security can have had these rates; None if one can."""
    kind = row["kind"]
    for name in _RATES.get(kind, ()):
        value = row[name]
        if value is None:
            continue
        # A merger for shares and no cash is one for shares.
        if not math.isfinite(value) or value < 0 or (value == 0 and name != "cash"):
            return f"{name} is {value:g}"
        if value == 0 and kind == "cash_dividends":
            return "cash is 0"
    if kind == "cash_dividends" and row["cash"] is not None and row["cash"] > MOST_CASH:
        return f"{row['cash']:,g} dollars a share"
    new, old = row["new_rate"], row["old_rate"]
    if new is None or old is None:
        return None
    if not 1 / MOST_SHARES <= new / old <= MOST_SHARES:
        return f"{new:g} for {old:g}"
    if kind == "forward_splits" and new <= old:
        return f"{new:g} for {old:g} makes no more shares"
    if kind == "reverse_splits" and new >= old:
        return f"{new:g} for {old:g} makes no fewer shares"
    return None


def _repeated(rows: Sequence[dict[str, Any]]) -> Iterator[Oddity]:
    """Duplicates: on one day, or for splits and dividends on neighbouring days."""
    same: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        rates = (row["new_rate"], row["old_rate"], row["cash"])
        same[row["symbol"], row["kind"], rates, row["new_symbol"]].append(row)
    for group in same.values():
        group.sort(key=lambda row: (row["effective_date"], row["id"]))
        for at, row in enumerate(group):
            if twin := _twin(row, (group[i] for i in range(at - 1, -1, -1))):
                same_day = row["effective_date"] == twin["effective_date"]
                when = "twice" if same_day else f"again on {row['effective_date']}"
                text = f"{_kind(row)} listed {when} with the same rate"
                yield _oddity(DUPLICATE if same_day else TWO_DAYS, text, twin, row)


def _twin(row: dict[str, Any], earlier: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """The action, of the same rates, that this one repeats; None if it stands for itself."""
    for other in earlier:
        apart = row["effective_date"] - other["effective_date"]
        if apart and (apart > NEIGHBOURING or row["kind"] not in (*_SPLITS, "cash_dividends")):
            return None
        if _nature(row) == _nature(other):
            return other
    return None


def _nature(row: dict[str, Any]) -> tuple[Any, ...]:
    """Interest and return of capital, paid on one day, are two dividends."""
    body = json.loads(row["body"])
    return body.get("sub_type"), body.get("special"), body.get("currency")


def _oddity(kind: str, text: str, *rows: dict[str, Any]) -> Oddity:
    ids = tuple(row["id"] for row in rows)
    return Oddity(kind, rows[0]["symbol"], rows[0]["effective_date"], ids, text)


def _kind(row: dict[str, Any]) -> str:
    name: str = row["kind"]
    return name.removesuffix("s").replace("_", " ")


def _session(day: date) -> bool:
    """Whether it is one; of a day outside of the calendar nobody can tell."""
    if not market_calendar.FIRST <= day <= market_calendar.LAST:
        return True
    return market_calendar.is_session(day)
