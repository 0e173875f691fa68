"""What truly happened in the synthetic market, in plain Python, for those who compare with it.

Here belong answers that no source gives: who held which ticker, which actions are right, what an
owner really earned. Nothing that is served over the wire is made from it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np

from datalake_assets.exchange.actions import Action, Register
from datalake_assets.exchange.draws import Floats
from datalake_assets.exchange.events import NEVER, Events, Histories, Kind
from datalake_assets.exchange.market import DOLLAR, Bars, Ints, Market
from datalake_assets.exchange.minutes import DAY, OPEN, Minutes
from datalake_assets.exchange.prices import Prices
from datalake_assets.exchange.wire import MinuteStamps, Stamps

if TYPE_CHECKING:
    import pyarrow as pa

PRICES = ("open", "high", "low", "close")


def minute_table(
    market: Market, symbols: Sequence[str], day: date, *, extended: bool = False
) -> "pa.Table":
    """The true minutes of tickers on a session, as the table that a lake keeps of them.

    Args:
        market: Whose; a recorded one, too.
        symbols: By the tickers that they traded under that day.
        day: A session of the market.
        extended: Also those outside the regular hours, from 04:00 to 20:00.

    Returns:
        The columns of `collection.bars.SCHEMA`, by symbol, then in time.

    Raises:
        ValueError: the market has no such session.
    """
    import pyarrow as pa  # only those who compare need it

    from datalake_assets.collection.bars import SCHEMA

    session = bisect_left(market.sessions, day)
    if session == len(market.sessions) or market.sessions[session] != day:
        raise ValueError(f"the market has no session on {day}")
    days = market.bars(sorted(set(symbols)), session, session + 1)
    days = replace(days, session=np.zeros_like(days.session))  # the only one
    minutes = Minutes((day,))
    first, stop = (0, DAY) if extended else (OPEN, int(minutes.closes[0]))
    bars = minutes.of(days, first, stop).bars
    instants = MinuteStamps(Stamps.of((day,))).instants(bars.session) // 1_000
    columns = {
        "symbol": pa.array(bars.symbols, pa.string()).take(pa.array(bars.symbol)),
        "session": pa.array([day] * len(bars), pa.date32()),
        "timestamp": pa.array(instants).cast(SCHEMA.field("timestamp").type),
        **{name: getattr(bars, name) / DOLLAR for name in (*PRICES, "vwap")},
        "volume": bars.volume,
        "trade_count": bars.trade_count,
    }
    return pa.table([columns[name] for name in SCHEMA.names], schema=SCHEMA)


BarsOf = Callable[[int, int, int], Bars]
"""The bars of a security under all of its tickers, from one session up to another."""


@dataclass(frozen=True, slots=True)
class Held:
    """A security under one ticker, from the session `first` to `last`, both included.

    `last` is `None` while it goes on beyond the calendar.
    """

    security: int
    ticker: str
    first: date
    last: date | None


@dataclass(frozen=True, slots=True)
class Jump:
    """A jump of a price that no action explains: so many times the close of the session before."""

    security: int
    day: date
    factor: float


class Truth:
    """The truth of a synthetic market; a security is the number that `Market.held` gives it.

    Attributes:
        holdings: Who held which ticker when, by security, then in time.
        jumps: Crashes and leaps without an action, also the falls of those who end worthless.
    """

    def __init__(self, market: Market, histories: Histories, prices: Prices, bars: BarsOf) -> None:
        self._market, self._histories, self._prices = market, histories, prices
        self._bars = bars
        self._sessions = market.sessions
        self._register = Register(market.actions(), market.market_id)
        held = histories.holdings
        self.holdings = [
            Held(
                security,
                ticker,
                self._sessions[first],
                None if stop == NEVER else self._sessions[stop - 1],
            )
            for security, ticker, first, stop in zip(
                held.row.tolist(), held.ticker, held.first.tolist(), held.stop.tolist(), strict=True
            )
            if stop > first >= 0
        ]
        self.jumps = [
            Jump(row, self._sessions[day], factor)
            for jumps in (prices.shocks, prices.collapses)
            for row, day, factor in zip(*(column.tolist() for column in jumps), strict=True)
        ]
        self._by_ticker: dict[str, list[Held]] = {}
        for holding in self.holdings:
            self._by_ticker.setdefault(holding.ticker, []).append(holding)

    def holder(self, ticker: str, day: date) -> int | None:
        """The security that trades under a ticker on a session; `None`: none does."""
        return next((held.security for held in self._of(ticker) if _covers(held, day)), None)

    def _of(self, ticker: str) -> Sequence[Held]:
        return self._by_ticker.get(ticker, ())

    def ticker(self, security: int, day: date) -> str:
        """The ticker of a security on a session; of one that has ended, its last."""
        session = bisect_left(self._sessions, day)
        return self._histories.tickers(np.array([security]), np.array([session]))[0]

    def bars(self, security: int, start: date, end: date) -> Bars:
        """The bars of a security from a day to another, under whatever ticker they traded."""
        first, stop = bisect_left(self._sessions, start), bisect_right(self._sessions, end)
        return self._bars(security, first, stop)

    def minutes(self, symbols: Sequence[str], day: date, *, extended: bool = False) -> "pa.Table":
        """See `minute_table`."""
        return minute_table(self._market, symbols, day, extended=extended)

    def ending(self, security: int) -> Kind | None:
        """The action that ends a security; `None`: it is delisted without one, or does not end."""
        kind = int(self._histories.ending[security])
        return None if kind < 0 else Kind(kind)

    def last(self, security: int) -> date | None:
        """A security's last session; `None`: beyond the calendar, or before the history."""
        ended = int(self._histories.ended[security])
        return self._sessions[ended - 1] if 0 < ended < NEVER else None

    def actions(
        self, start: date, end: date, kinds: Collection[Kind] = tuple(Kind)
    ) -> Iterator[Action]:
        """The actions that the price knows from a day `start` … `end` on, as they truly are."""
        told = self._market.actions()
        low, high = start.toordinal(), end.toordinal()
        chosen = (told.counts >= low) & (told.counts <= high) & np.isin(told.kind, list(kinds))
        for index in np.flatnonzero(chosen).tolist():
            yield self._register.action(index)

    def total_return(self, security: int, start: date, end: date) -> float:
        """What a dollar at the close of `start` is worth at the close of `end`.

        All that holders get is put into the security again at the close of the day (rule B);
        after its end it stays what it was paid. Subscription rights count nothing: they are not
        traded here.

        Raises:
            ValueError: the security has no bar on `start`.
        """
        first, stop = bisect_left(self._sessions, start), bisect_right(self._sessions, end)
        bars = self._prices_of(security, first, stop)
        if not len(bars[0]) or bars[0][0] != first or self._sessions[first] != start:
            raise ValueError(f"security {security} has no bar on {start}")
        sessions, closes = bars
        events = self._prices.events
        mine = events.take(
            (events.row == security) & (events.session > first) & (events.session < stop)
        )
        shares = 1.0
        split = np.isin(mine.kind, (Kind.FORWARD_SPLIT, Kind.REVERSE_SPLIT, Kind.STOCK_DIVIDEND))
        for at in np.lexsort((~split, mine.session)).tolist():
            kind, day = Kind(mine.kind[at]), int(mine.session[at])
            after = int(np.searchsorted(sessions, day))
            if kind == self.ending(security):
                return float(shares * self._payout(mine, at, day) / closes[0])
            if after == len(sessions):
                continue  # it counts at the next bar, and there is none by then
            if kind in (Kind.FORWARD_SPLIT, Kind.REVERSE_SPLIT):
                shares *= float(mine.new[at] / mine.old[at])
            elif kind == Kind.STOCK_DIVIDEND:
                shares *= 1.0 + float(mine.new[at])
            elif kind == Kind.CASH_DIVIDEND:
                shares *= 1.0 + float(mine.cash[at]) / closes[after]
            elif kind == Kind.SPIN_OFF:
                value = self._close(int(mine.other[at]), int(sessions[after]))
                shares *= 1.0 + float(mine.new[at] / mine.old[at]) * value / closes[after]
        return float(shares * closes[-1] / closes[0])

    def payout(self, security: int) -> float | None:
        """Dollars a share that the holders of an ended security got; `None`: no action tells it."""
        kind = self.ending(security)
        if kind is None:
            return None
        events = self._prices.events
        (at,) = np.flatnonzero((events.row == security) & (events.kind == kind))
        return self._payout(events, int(at), int(events.session[at]))

    def _payout(self, events: Events, at: int, day: int) -> float:
        """Cash, and shares at the last close before."""
        paid = float(events.cash[at])
        for partner, ratio in ((events.other, events.new), (events.third, events.old)):
            if partner[at] >= 0 and events.kind[at] != Kind.CASH_MERGER:
                paid += float(ratio[at]) * self._close(int(partner[at]), day - 1)
        return paid

    def _close(self, security: int, session: int) -> float:
        """The close of a session, or the last one in the sixty before."""
        sessions, closes = self._prices_of(security, max(0, session - 60), session + 1)
        return float(closes[-1]) if len(sessions) else 0.0

    def _prices_of(self, security: int, first: int, stop: int) -> tuple[Ints, Floats]:
        bars = self._bars(security, first, stop)
        return bars.session, bars.close / DOLLAR


def _covers(held: Held, day: date) -> bool:
    return held.first <= day and (held.last is None or day <= held.last)
