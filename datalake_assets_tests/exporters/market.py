"""A lake with everything that an export must get right, and what its securities truly earned.

Belongs here: bars that follow from actions, the lake of them, whose tables the program derives, and
total returns by their definition. Does not belong here: any tool.

    LONG    a split of 4 for 1, dividends (one on the day of a reverse split, one after a session
            without a bar), a spin-off, a rename to LNG.B with another split on its day
    KID     what LONG spins off
    LONG    again, later: another company that took the free ticker
    DEAD    ends in a merger for cash
    DEAD    again, later: another company, so that two end with the same ticker
    THIN    without a bar in many sessions, also the last one
    ODD     prices of five decimals, a bar that opens above its high
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from datalake_assets import market_calendar
from datalake_assets.collection.report import Ledger
from datalake_assets.lake import session_file
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.security_reader import SecuritiesWarning
from datalake_assets.lake.session_file import Provenance, Session
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store
from datalake_assets_tests.collection.tables import table
from datalake_assets_tests.securities.bars import action
from datalake_assets_tests.securities.deriving import derive, say

DAYS = market_calendar.sessions(date(2023, 3, 1), date(2024, 2, 29))
"""A year of sessions, 252 of them."""

SPLIT, DIVIDEND, SPIN_OFF, REVERSE, AFTER_NO_BAR, RENAME, AGAIN = 40, 70, 100, 130, 145, 160, 205
"""On which sessions something happens to LONG."""
MERGED, REUSED, LATER = 120, 190, 210

PAID_AFTER = 12
"""Calendar days from an ex-date to its payment."""

Row = dict[str, Any]


@dataclass
class Share:
    """A security that trades, session by session.

    Args:
        ticker: Its ticker at first.
        first, last: Its first and last session, as places in `DAYS`.
        close: Its first close.
        silent: Sessions without a bar.
    """

    ticker: str
    first: int = 0
    last: int = len(DAYS) - 1
    close: float = 100.0
    silent: frozenset[int] = frozenset()
    splits: dict[int, tuple[int, int]] = field(default_factory=dict)
    pays: dict[int, float] = field(default_factory=dict)
    """What a share (after a split of the day) is paid, in cash or in shares of another company."""
    renamed: dict[int, str] = field(default_factory=dict)
    seed: int = 1

    def rows(self) -> list[Row]:
        """Its bars. It opens exactly as much lower as was paid and split."""
        random = np.random.default_rng(self.seed)
        close, ticker, found = self.close, self.ticker, []
        for at in range(self.first, self.last + 1):
            new, old = self.splits.get(at, (1, 1))
            ticker = self.renamed.get(at, ticker)
            opened = close * old / new - self.pays.get(at, 0.0)
            move = random.normal(0.0004, 0.012)
            if at in self.silent:
                continue
            opened = round(opened, 2)
            close = round(opened * (1 + move), 2)
            volume = int(random.integers(10_000, 2_000_000))
            found.append(
                {
                    "symbol": ticker,
                    "session": DAYS[at],
                    "timestamp": market_calendar.session_stamp(DAYS[at]),
                    "open": opened,
                    "high": round(max(opened, close) + 0.13, 2),
                    "low": round(min(opened, close) - 0.11, 2),
                    "close": close,
                    "vwap": round((opened + close) / 2, 4),
                    "volume": volume,
                    "trade_count": volume // 100,
                }
            )
        return found

    def earned(self, first: int, last: int) -> float:
        """What a dollar grows to from one close to another, all payments put into the shares.

        By definition: cash buys shares at the close of its session. Shares of another company are
        sold at the open, and buy shares then.
        """
        rows = {row["session"]: row for row in self.rows()}
        closes = {day: row["close"] for day, row in rows.items()}
        shares = 1.0
        for at in range(first + 1, last + 1):
            new, old = self.splits.get(at, (1, 1))
            shares *= new / old
            if at in self.pays:
                price = rows[DAYS[at]]["open"] if at == SPIN_OFF else closes[DAYS[at]]
                shares *= 1 + self.pays[at] / price
        return shares * closes[DAYS[last]] / closes[DAYS[first]]


KID = Share("KID", SPIN_OFF, close=18.0, seed=2)
LONG = Share(
    "LONG",
    close=400.0,
    silent=frozenset({AFTER_NO_BAR - 1}),
    splits={SPLIT: (4, 1), REVERSE: (1, 10), RENAME: (3, 1)},
    pays={
        DIVIDEND: 0.37,
        # One share of KID for two.
        SPIN_OFF: round(KID.rows()[0]["open"] / 2, 4),
        REVERSE: 1.5,
        AFTER_NO_BAR: 2.25,
        AGAIN: 0.123,
    },
    renamed={RENAME: "LNG.B"},
)
LONG_LATER = Share("LONG", LATER, close=33.0, seed=3)
DEAD = Share("DEAD", last=MERGED, close=54.0, seed=4)
DEAD_LATER = Share("DEAD", REUSED, close=12.0, seed=7)
THIN = Share("THIN", close=3.0, silent=frozenset(range(3, len(DAYS), 3)) | {len(DAYS) - 1}, seed=5)
SHARES = (LONG, KID, LONG_LATER, DEAD, DEAD_LATER, THIN)


def odd() -> list[Row]:
    """Bars with prices of five decimals, one of which opens above its high."""
    rows = Share("ODD", close=0.8, seed=6).rows()
    for row in rows:
        for name in ("open", "high", "low", "close"):
            row[name] = round(row[name] / 7 + 0.01, 5)
    rows[50]["open"] = rows[50]["high"] + 0.01
    return rows


def actions() -> list[Row]:
    """What the source says of all this."""

    def paid(day: date) -> date:
        return date.fromordinal(day.toordinal() + PAID_AFTER)

    def on(at: int) -> date:
        return DAYS[at]

    cash = {at: amount for at, amount in LONG.pays.items() if at != SPIN_OFF}
    rows = [
        action(
            f"d{at}",
            "cash_dividends",
            "LNG.B" if at >= RENAME else "LONG",
            on(at),
            process=paid(on(at)),
            cash=amount,
        )
        for at, amount in cash.items()
    ]
    rows += [
        action("s1", "forward_splits", "LONG", on(SPLIT), new_rate=4.0, old_rate=1.0),
        action("s2", "reverse_splits", "LONG", on(REVERSE), new_rate=1.0, old_rate=10.0),
        action("s3", "forward_splits", "LNG.B", on(RENAME), new_rate=3.0, old_rate=1.0),
        action(
            "o1",
            "spin_offs",
            "LONG",
            on(SPIN_OFF),
            new_symbol="KID",
            new_rate=1.0,
            old_rate=2.0,
        ),
        action("n1", "name_changes", "LONG", on(RENAME), new_symbol="LNG.B"),
        action("m1", "cash_mergers", "DEAD", on(MERGED + 1), cash=60.0),
    ]
    return rows


def lake_in(store: Store, days: Iterable[date] = DAYS) -> Lake:
    """A lake of this market, with tables that the program derived."""
    LakeWriter(store).claim("alpaca/sip")
    by_day: dict[date, list[Row]] = {}
    for row in [*(row for share in SHARES for row in share.rows()), *odd()]:
        by_day.setdefault(row["session"], []).append(row)
    days = sorted(days)
    for day in days:
        bars = table(sorted(by_day[day], key=lambda row: row["symbol"]))
        ledger = Ledger(day, present=tuple(bars["symbol"].to_pylist()))
        made = Provenance(datetime(2024, 3, 1, tzinfo=UTC), "alpaca/sip", day, "r", "0")
        data = session_file.encode(Session(bars, ledger, made), [])
        store.put(layout.session_key(day), data)
    for year in sorted({day.year for day in days}):
        SymbolYears(store).publish(year)
    say(store, datetime(2024, 3, 1, tzinfo=UTC), *actions())
    derive(store)
    return Lake(store)


def told(lake: Lake, name: str, first: date, last: date) -> float:
    """What a dollar grows to in a security, as the lake tells."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecuritiesWarning)
        returns = lake.returns(name, first, last)["total_return"].drop_null().to_numpy()
    return float(np.prod(1 + returns))
