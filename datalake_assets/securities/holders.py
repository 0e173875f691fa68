"""Who holds a ticker: which security a symbol means on a day, and by which tickers it traded.

Belongs here: questions to the table of securities. Does not belong here: how that table is derived
(`identity`), and what a security's bars are worth (`adjusting`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import pyarrow as pa

GOES_ON = ("rename", "split")
"""How a ticker ends whose security goes on under another one."""


@dataclass(frozen=True, slots=True)
class Held:
    """A ticker while one security had it.

    Args:
        symbol: The ticker.
        security: The security.
        first: First session with a bar under this ticker.
        last: Last session with one, as far as the table goes.
        followed_by: How the ticker ended; None while it trades.
        row: Its row in the table.
    """

    symbol: str
    security: str
    first: date
    last: date
    followed_by: str | None
    row: int

    @property
    def until(self) -> date:
        """The last day on which a bar of the ticker is its own."""
        return date.max if self.followed_by is None else self.last

    def overlaps(self, first: date, last: date) -> bool:
        """Can there be a bar in this range?"""
        return self.first <= last and first <= self.until

    def __str__(self) -> str:
        span = f"since {self.first}" if self.followed_by is None else f"{self.first} to {self.last}"
        return f"{self.security}, {span}"


@dataclass(frozen=True, slots=True)
class End:
    """How a security ended, and what its holders got for a share.

    Args:
        last: Its last session.
        how: merger, delisting, or unknown.
        cash: US dollars, if an action tells.
        shares: Shares of `shares_of`, if an action tells.
        shares_of: The ticker of the acquirer whose shares were paid.
        action_id: The action that tells.
        evidence: What says so.
    """

    last: date
    how: str
    cash: float | None
    shares: float | None
    shares_of: str | None
    action_id: str | None
    evidence: str

    @property
    def told(self) -> bool:
        """Does an action tell what its holders got?"""
        return self.cash is not None or self.shares is not None

    def __str__(self) -> str:
        got = [f"${self.cash:,.4f} in cash"] if self.cash is not None else []
        got += [f"{self.shares:g} shares of {self.shares_of}"] if self.shares is not None else []
        paid = " and ".join(got) or "no action tells what its holders got"
        return f"{self.how} after {self.last}: {paid}"


class Holders:
    """The table of securities, ready to be asked.

    Args:
        securities: Rows of `tables.SECURITIES`.
    """

    def __init__(self, securities: pa.Table) -> None:
        self.table = securities
        columns = ("symbol", "security", "first_session", "last_session", "followed_by")
        values = [securities[name].to_pylist() for name in columns]
        self._by_symbol: dict[str, list[Held]] = {}
        self._by_security: dict[str, list[Held]] = {}
        every = [Held(*row) for row in zip(*values, range(securities.num_rows), strict=True)]
        for held in sorted(every, key=lambda held: held.first):
            self._by_symbol.setdefault(held.symbol, []).append(held)
            self._by_security.setdefault(held.security, []).append(held)

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._by_symbol

    @cached_property
    def newest(self) -> date | None:
        """The newest session that the table was derived from; None when it is empty."""
        lasts = (held[-1].last for held in self._by_security.values())
        return max(lasts, default=None)

    def of_symbol(self, symbol: str) -> list[Held]:
        """All who ever had the ticker, oldest first."""
        return self._by_symbol.get(symbol, [])

    def of_security(self, security: str) -> list[Held]:
        """The tickers of a security, oldest first."""
        return self._by_security.get(security, [])

    def end(self, security: str) -> End | None:
        """How a security ended; None while it trades."""
        last = self._by_security[security][-1]
        if last.followed_by is None or last.followed_by in GOES_ON:
            return None
        names = ("payout_cash", "payout_shares", "payout_symbol", "action_id", "evidence")
        told = (self.table[name][last.row].as_py() for name in names)
        return End(last.last, last.followed_by, *told)

    @property
    def securities(self) -> Mapping[str, list[Held]]:
        """All securities and their tickers."""
        return self._by_security

    def latest(self, symbol: str, day: date) -> Held | None:
        """Who has the ticker on a day, or had it last before; None when nobody had it by then."""
        held = self.of_symbol(symbol)
        at = bisect_right(held, day, key=lambda one: one.first)
        return held[at - 1] if at else None

    def on(self, symbol: str, day: date) -> Held | None:
        """Who has the ticker on this very day."""
        held = self.latest(symbol, day)
        return held if held and day <= held.until else None
