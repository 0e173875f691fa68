"""Recent changes of securities: renames, ends, splits, dividends, and what needs a decision.

Belongs here: selecting what a person acts on from the tables of securities. Does not belong here:
how it is drawn, and how the tables are derived.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.collection.bars import price_text
from datalake_assets.securities.derivation import NothingDerivedError, read_derived
from datalake_assets.securities.jumps import Kind
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store

LATEST = 20
"""How many of the newest sessions are searched: about a month."""

LISTED = 10
"""Rows of each kind, the newest first."""

KNOWN = 20
"""How many sessions the lake must have before a security's first bar for it to count as new: what
rarely trades has no bar in the first sessions of a lake either."""


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """An event in the life of a security.

    Args:
        day: The effective date; the first session of a new security, the last session of a ticker
            that ended.
        symbol: Its ticker on that day.
        what: A short description.
    """

    day: date
    symbol: str
    what: str


@dataclass(frozen=True, slots=True)
class OpenFinding:
    """A finding that needs a decision or an explanation.

    Args:
        day: The day that it concerns, if any.
        symbol: The ticker.
        what: The finding, in a sentence.
        decide: The command to type, or where to look.
    """

    day: date | None
    symbol: str
    what: str
    decide: str


@dataclass(frozen=True, slots=True)
class SecurityNews:
    """Recent changes of securities.

    Args:
        since: The first session that was searched.
        derived: The newest session that the tables cover.
        published: The newest session of the lake.
        changed: Renames, ends and new securities, newest first.
        undecided: Actions that are not applied until the user decides, newest first.
        suspected: Jumps that look like a split or a spin-off that no list names, newest first.
        splits: Splits and spin-offs, newest first.
        dividends: The number of cash dividends.
        largest: The largest of them as a share of the price, the largest first.
    """

    since: date
    derived: date | None
    published: date
    changed: Sequence[SecurityEvent] = ()
    undecided: Sequence[OpenFinding] = ()
    suspected: Sequence[OpenFinding] = ()
    splits: Sequence[SecurityEvent] = ()
    dividends: int = 0
    largest: Sequence[SecurityEvent] = ()

    @property
    def behind(self) -> bool:
        """Are there sessions that the tables don't cover?"""
        return self.derived is None or self.derived < self.published


def security_news(store: Store, days: Sequence[date]) -> SecurityNews | None:
    """Changes of securities in the newest sessions; None if no securities were derived.

    Args:
        store: The lake's store.
        days: Its published sessions, ascending.

    Raises:
        BrokenFileError: A table is damaged.
    """
    if not days:
        return None
    since, newest = days[-LATEST:][0], days[-1]
    try:
        securities = read_derived(store, layout.SECURITIES_TABLE)
        factors = read_derived(store, layout.FACTORS_TABLE)
        findings = read_derived(store, layout.FINDINGS_TABLE)
    except NothingDerivedError:
        return None
    recent = pc.and_(
        pc.greater_equal(factors["effective_date"], pa.scalar(since)),
        pc.less_equal(factors["effective_date"], pa.scalar(newest)),
    )
    acts = factors.filter(recent).to_pylist()
    paid = [row for row in acts if row["adjustment"] == "dividend"]
    jumps = pc.equal(findings["about"], "jump")
    changed = _changed(securities.to_pylist(), since, days)
    return SecurityNews(
        since=since,
        derived=pc.max(securities["last_session"]).as_py(),
        published=newest,
        changed=_newest(changed),
        undecided=_open(findings.filter(pc.and_not(findings["undecided"], jumps))),
        suspected=_open(
            findings.filter(pc.is_in(findings["kind"], pa.array([Kind.SPLIT, Kind.SPIN_OFF])))
        ),
        splits=_newest(_split(row) for row in acts if row["adjustment"] != "dividend"),
        dividends=len(paid),
        largest=[_paid(row) for row in sorted(paid, key=_yield, reverse=True)[:LISTED]],
    )


def _changed(
    rows: list[dict[str, Any]], since: date, days: Sequence[date]
) -> Iterator[SecurityEvent]:
    begun: dict[str, dict[str, Any]] = {}
    for row in rows:
        first = begun.setdefault(row["security"], row)
        if row["first_session"] < first["first_session"]:
            begun[row["security"]] = row
        if row["followed_by"] and row["last_session"] >= since:
            yield _end(row)
    for row in begun.values():
        if row["first_session"] >= since and row["first_session"] in days[KNOWN:]:
            yield SecurityEvent(row["first_session"], row["symbol"], "first session")


def _end(row: dict[str, Any]) -> SecurityEvent:
    last, symbol, how = row["last_session"], row["symbol"], row["followed_by"]
    if row["next_symbol"]:
        return SecurityEvent(last, symbol, f"{how}, continues as {row['next_symbol']}")
    payouts = []
    if row["payout_cash"] is not None:
        payouts.append(f"${row['payout_cash']:g}")
    if row["payout_shares"] is not None:
        payouts.append(f"{row['payout_shares']:g} {row['payout_symbol']}")
    paid = f", {' and '.join(payouts)} a share" if payouts else ""
    why = "ended, unexplained by any action" if how == "unknown" else how
    return SecurityEvent(last, symbol, f"{why}{paid}")


def _split(row: dict[str, Any]) -> SecurityEvent:
    what = row["adjustment"]
    if row["new_shares"] is not None:
        what += f" {row['new_shares']:,}:{row['old_shares']:,}"
    elif row["amount"] is not None:
        what += f" worth ${price_text(row['amount'])} a share"
    how = row["verdict"] if row["applied"] else f"not applied: {row['reason']}"
    return SecurityEvent(row["effective_date"], row["symbol"], f"{what}, {how}")


def _paid(row: dict[str, Any]) -> SecurityEvent:
    share = f", {_yield(row):.2%} of the price" if _yield(row) else ""
    applied = "" if row["applied"] else " (not applied)"
    amount = row["amount"] or 0.0
    return SecurityEvent(
        row["effective_date"], row["symbol"], f"${amount:g} a share{share}{applied}"
    )


def _yield(row: dict[str, Any]) -> float:
    """The dividend as a share of the price before it; 0 if that is unknown."""
    before = row["close_before"]
    return float(row["amount"] or 0.0) / before if before else 0.0


def _open(findings: pa.Table) -> list[OpenFinding]:
    newest = findings.sort_by([("session", "descending"), ("symbol", "ascending")])
    columns = ("session", "symbol", "what", "decide")
    return [OpenFinding(*row.values()) for row in newest.select(columns).to_pylist()]


def _newest(events: Iterator[SecurityEvent]) -> list[SecurityEvent]:
    return sorted(events, key=lambda one: (-one.day.toordinal(), one.symbol))
