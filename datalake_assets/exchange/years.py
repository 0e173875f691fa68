"""Bars of whole years, made of a market's daily ones.

Here belongs what `timeframe=12Month` asks for. How a bar is spelt belongs in `wire`.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

from datalake_assets.exchange.market import Bars, Ints, Market
from datalake_assets.exchange.wire import Stamps, nanoseconds

_CELLS = 1 << 17
"""Symbols × sessions whose daily bars are made at once. A megabyte for each column stays in the
processor's cache; 500 symbols × 15 years at once take four times as long."""

Daily = Callable[[Sequence[str], int, int], Bars]
"""Bars of symbols from one session up to another."""


class Years:
    """A market's years: one bar each, stamped with New York's midnight of the first of January.

    `session` in its bars is a position among the years. That Alpaca stamps a year's bar so is
    inferred from its monthly ones, which carry the first of the month.
    """

    def __init__(self, market: Market) -> None:
        # A recording may lack whole years: a session's year is its place among those that it has.
        self._years, self._place = np.unique(
            np.array([day.year for day in market.sessions], np.int64), return_inverse=True
        )

    @cached_property
    def stamps(self) -> Stamps:
        """The stamps of the years. On the first of January New York is five hours behind."""
        starts = [datetime(year, 1, 1, 5, tzinfo=UTC) for year in self._years.tolist()]
        at = np.array([nanoseconds(start) for start in starts], np.int64)
        text = np.array([f"{start:%Y-%m-%dT%H:%M:%SZ}".encode() for start in starts], "S20")
        return Stamps(at, text)

    def visible(self, sessions: int) -> int:
        """How many years have begun when this many sessions may be served."""
        return 0 if not sessions else int(self._place[sessions - 1]) + 1

    def bars(
        self, daily: Daily, symbols: Sequence[str], first: int, stop: int, sessions: int
    ) -> Bars:
        """The bars of `symbols` in the years from `first` up to `stop`, made of `daily` ones.

        `sessions` may be served; the year under way is made of those that are.
        """
        low, high = np.searchsorted(self._place, [first, stop]).tolist()
        high = max(low, min(high, sessions))
        step = max(1, _CELLS // max(1, high - low))
        made = [
            self._added_up(daily(symbols[start : start + step], low, high))
            for start in range(0, max(1, len(symbols)), step)
        ]
        if len(made) == 1:
            return made[0]
        return Bars.concatenate([name for part in made for name in part.symbols], made)

    def _added_up(self, days: Bars) -> Bars:
        """The years' bars that these daily ones make."""
        if not len(days):
            return days
        year = self._place[days.session]
        begins = np.ones(len(days), bool)
        begins[1:] = (days.symbol[1:] != days.symbol[:-1]) | (year[1:] != year[:-1])
        starts = np.flatnonzero(begins)
        ends = np.append(starts[1:], len(days)) - 1

        def total(column: Ints) -> Ints:
            return np.add.reduceat(column, starts)

        volume = total(days.volume)
        # A recording may have bars without volume; all of a year alike count the same then.
        weight = np.where(np.repeat(volume, ends - starts + 1) > 0, days.volume, 1)
        turnover = np.add.reduceat(days.vwap.astype(np.float64) * weight, starts)
        return Bars(
            symbols=days.symbols,
            symbol=days.symbol[starts],
            session=year[starts],
            open=days.open[starts],
            high=np.maximum.reduceat(days.high, starts),
            low=np.minimum.reduceat(days.low, starts),
            close=days.close[ends],
            vwap=np.rint(turnover / total(weight)).astype(np.int64),
            volume=volume,
            trade_count=total(days.trade_count),
        )
