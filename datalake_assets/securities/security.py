"""A security as a person asks for it: its names over time, its actions and factors, and its end.

Belongs here: what `Lake.security` gives. Does not belong here: how any of it is found out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pyarrow as pa

from datalake_assets.securities.holders import End


@dataclass(frozen=True, slots=True)
class Name:
    """A ticker of a security.

    Args:
        symbol: The ticker.
        first: First session with a bar under it.
        last: Last session with one; None while it trades under it.
        exchange: Primary exchange, if a list of the source tells.
        name: The security's name, if a list tells.
        followed_by: How the ticker ended: rename, split, merger, delisting, unknown; None while it
            trades.
        evidence: What says so.
    """

    symbol: str
    first: date
    last: date | None
    exchange: str | None
    name: str | None
    followed_by: str | None
    evidence: str

    def __str__(self) -> str:
        return f"{self.symbol} {self.first} to {self.last or 'today'}" + (
            f", then {self.followed_by}" if self.followed_by else ""
        )


@dataclass(frozen=True)
class Security:
    """What the lake knows of a security.

    Args:
        id: Its permanent identifier.
        names: Its tickers, oldest first.
        end: How it ended; None while it trades.
        factors: Its rows of the table of factors (`securities.tables.FACTORS`): every split,
            dividend and spin-off with its verdict, also those that are not applied.
        actions: Its corporate actions as the source states them (`actions.action.SCHEMA`).
    """

    id: str
    names: Sequence[Name]
    end: End | None
    factors: pa.Table = field(repr=False, compare=False)
    actions: pa.Table = field(repr=False, compare=False)

    @property
    def symbol(self) -> str:
        """Its newest ticker."""
        return self.names[-1].symbol

    def __repr__(self) -> str:
        newest = self.names[-1]
        told = ", ".join(text for text in (newest.name, newest.exchange) if text)
        lines = [f"{self.id}" + (f": {told}" if told else "")]
        lines += [f"  {name}" for name in self.names]
        applied = Counter(_applied(self.factors))
        not_applied = self.factors.num_rows - sum(applied.values())
        counts = [f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in applied.items()]
        counts += [f"{not_applied} not applied"] if not_applied else []
        lines.append(f"  factors: {', '.join(counts) or 'none'}")
        lines += [f"  ended: {self.end}"] if self.end else []
        return "\n".join(lines)


def _applied(factors: pa.Table) -> list[Any]:
    rows = zip(factors["adjustment"].to_pylist(), factors["applied"].to_pylist(), strict=True)
    return [kind for kind, applied in rows if applied]
