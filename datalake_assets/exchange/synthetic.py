"""The synthetic market: a US-like universe whose every bar is a function of a seed.

A bar depends on (seed, security, session) and on nothing else: no state, no request, no order, no
machine. What happens to the securities is decided in `events`, what they are worth in `prices`;
here are the bars, who trades under which ticker, and the list of assets.

The shape is taken from the real market: class shares, listings, mergers and bankruptcies, renames
and tickers that are used again, splits, dividends and spin-offs, halts, thin names that do not
print every day, names in the list of assets that the bars endpoint refuses. The companies are
invented; a ticker that also exists is chance. Recorded bars of real companies belong in
`recorded`.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from functools import cache, cached_property, lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

from datalake_assets import market_calendar
from datalake_assets.exchange.draws import Floats, below, draw, unit
from datalake_assets.exchange.events import NEVER, REFERENCE, Histories
from datalake_assets.exchange.market import DOLLAR, Bars, Ints, asset
from datalake_assets.exchange.prices import Prices
from datalake_assets.exchange.synthetic_actions import SyntheticActions
from datalake_assets.exchange.truth import Truth

FIRST = date(2011, 1, 3)

DELAY = timedelta(minutes=15)
"""A bar is served from this long after its session's close. Alpaca serves a growing bar before;
a bar that changes from request to request could not be a function of its session."""

_TRADING, _PRICES, _HALT = 32, 33, 34

_REFUSED = ("0029900E0", "0115670C9", "4470B1014", "ATC.220816", "BRX-B", "GNL-A", "HALTED:OTC")
_REFUSED_TICKERS = ("ZVZZTNX", "CONTRARX")
"""Inactive names that the bars endpoint refuses. The first look like no ticker; the others do."""


def market_id(seed: int = 7, active: int = 6_000, inactive: int = 2_000) -> str:
    """The name of the market that `SyntheticMarket` makes of the same arguments."""
    name = f"synthetic/{seed}"
    return name if (active, inactive) == (6_000, 2_000) else f"{name}/{active}+{inactive}"


class SyntheticMarket:
    """A market with `active` + `inactive` securities on 2026-06-30, from 2011-01-03 on.

    Securities are listed, renamed and ended to the end of the calendar: what a clock has not
    reached yet is not told.

    Args:
        seed: Which market; 0 … 2**63 − 1.
        active: Securities that are listed on `events.REFERENCE`.
        inactive: Those that are not, any more; three in four print until the day they end, the
            others ended before 2011. A handful of refused names is added to them.
    """

    def __init__(self, seed: int = 7, active: int = 6_000, inactive: int = 2_000) -> None:
        if not 0 <= seed < 1 << 63:
            raise ValueError(f"seed={seed}: the seed of a synthetic market is 0 … 2**63 - 1")
        if active < 1 or inactive < 0 or active + inactive > 60_000:
            raise ValueError(
                f"active={active}, inactive={inactive}: a synthetic market has at least one active "
                "symbol, no negative number of inactive ones, and at most 60000 of both"
            )
        self.market_id = market_id(seed, active, inactive)
        self.sessions: Sequence[date] = _sessions()
        self._seed = blake2b(str(seed).encode(), digest_size=16).digest()
        self._histories = Histories(self._key(b""), active, inactive, self.sessions)
        self._prices = Prices(self._histories)
        # By ticker, then in time: a ticker's holders stand side by side.
        held = self._histories.holdings
        self._tickers = {ticker: place for place, ticker in enumerate(sorted(set(held.ticker)))}
        of = np.array([self._tickers[ticker] for ticker in held.ticker])
        self._place = np.lexsort((held.first, of))
        self._begin = np.searchsorted(of[self._place], np.arange(len(self._tickers) + 1))
        self._asked: deque[int] = deque(maxlen=32)
        self._session = lru_cache(maxsize=8)(self._all_on)
        self._today: tuple[date, list[dict[str, Any]]] | None = None

    def _key(self, text: bytes) -> int:
        return int.from_bytes(blake2b(text, key=self._seed, digest_size=8).digest(), "little")

    def visible(self, now: datetime) -> int:
        """The sessions that have closed at least `DELAY` before `now`."""
        closed = market_calendar.latest_closed_session(now - DELAY)
        return bisect_left(self.sessions, closed + timedelta(days=1))

    # Whose bars a ticker means

    def held(self, symbol: str, asof: date) -> int | None:
        """See `Market.held`. A listing and an end are known at once."""
        begun, renamed = bisect_right(self.sessions, asof), bisect_left(self.sessions, asof)
        histories, holdings = self._histories, self._histories.holdings
        if symbol not in self._tickers:
            return None
        ticker = self._tickers[symbol]
        for place in self._place[self._begin[ticker] : self._begin[ticker + 1]].tolist():
            row, first = int(holdings.row[place]), int(holdings.first[place])
            stop = int(holdings.stop[place])
            since = begun if first == histories.listed[row] else renamed
            until = begun if stop == histories.ended[row] else renamed
            if first < since and stop >= until and first < stop and stop > 0:
                return row
        return None

    # Bars

    def bars(self, symbols: Sequence[str], first: int, stop: int, asof: date | None = None) -> Bars:
        """See `Market.bars`. Prices are in cents; below one dollar, in hundredths of a cent."""
        if asof is None and stop == first + 1:
            # Whoever asks for a session of some symbols asks for its other ones next.
            if first in self._asked:
                return self._of_all(symbols, first)
            self._asked.append(first)
        return self._bars_under(symbols, first, stop, asof)

    def _of_all(self, symbols: Sequence[str], session: int) -> Bars:
        """The bars of a session, taken from those of all tickers."""
        everything, begin = self._session(session)
        known = [symbol for symbol in symbols if symbol in self._tickers]
        ticker = np.array([self._tickers[symbol] for symbol in known], np.intp)
        traded = np.flatnonzero(begin[ticker + 1] > begin[ticker])
        bars = everything.take(begin[ticker[traded]])
        return Bars(
            symbols=known, symbol=traded, **{name: getattr(bars, name) for name in _COLUMNS}
        )

    def _all_on(self, session: int) -> tuple[Bars, Ints]:
        """The bars of all tickers, and where those of each begin; a ticker has at most one."""
        bars = self._bars_under(list(self._tickers), session, session + 1, None)
        return bars, np.searchsorted(bars.symbol, np.arange(len(self._tickers) + 1))

    def _bars_under(self, symbols: Sequence[str], first: int, stop: int, asof: date | None) -> Bars:
        tickers = self._tickers
        known = [symbol for symbol in symbols if symbol in tickers]
        ticker = np.array([tickers[symbol] for symbol in known], np.intp)
        begin = self._begin[ticker]
        count = self._begin[ticker + 1] - begin
        labels = np.repeat(np.arange(len(known)), count)
        within = np.arange(len(labels)) - np.repeat(np.cumsum(count) - count, count)
        place = self._place[begin[labels] + within]
        held = self._histories.holdings
        row, since, until = held.row[place], held.first[place], held.stop[place]
        if asof is not None:
            whole = {
                label: security
                for label, symbol in enumerate(known)
                if (security := self.held(symbol, asof)) is not None
            }
            kept = ~np.isin(labels, list(whole))
            labels = np.append(labels[kept], list(whole)).astype(np.int64)
            row = np.append(row[kept], list(whole.values())).astype(np.int64)
            since = np.append(since[kept], np.zeros(len(whole), np.int64))
            until = np.append(until[kept], np.full(len(whole), NEVER))
            order = np.argsort(labels, kind="stable")
            labels, row, since, until = labels[order], row[order], since[order], until[order]
        # Most second holders of a ticker traded in other years.
        here = (since < stop) & (until > first)
        labels, row = labels[here], row[here]
        bars = self._bars(row, since[here], until[here], first, stop)
        return Bars(
            symbols=known,
            symbol=labels[bars.symbol],
            **{name: getattr(bars, name) for name in _COLUMNS},
        )

    def _bars_of(self, security: int, first: int, stop: int) -> Bars:
        """The bars of a security under all of its tickers."""
        row, begin, end = np.array([[security], [0], [NEVER]])
        return self._bars(row, begin, end, first, stop)

    def _bars(self, rows: Ints, since: Ints, until: Ints, first: int, stop: int) -> Bars:
        """The bars of rows within their own `since` … `until`; `symbol` is the place in `rows`."""
        prices, histories = self._prices, self._histories
        keys = histories.keys[rows, None]
        session = np.arange(first, stop, dtype=np.int64)
        since = np.maximum(since, histories.listed[rows])
        until = np.minimum(until, histories.ended[rows])

        trading = draw(keys, _TRADING, session)
        held = draw(keys, _HALT, np.arange(first >> 8, ((max(stop, first + 1) - 1) >> 8) + 1))
        held = held[:, (session >> 8) - (first >> 8)]
        begin, day = ((held >> 8) & 0xFF).astype(np.int64), session & 0xFF
        length = 1 + below(held, 24, skip=16)
        halted = ((held & 0xFF) < 16) & (begin <= day) & (day < begin + length)
        present = (
            (session >= since[:, None])
            & (session < until[:, None])
            & ((trading >> 48).astype(np.int64) < prices.prints[rows, None])
            & ~halted
        )
        symbol, column = np.nonzero(present)
        picked = rows[symbol]
        volatility = prices.volatility[picked]

        path = prices.path(rows, first, stop)
        session = session[column]
        entry = prices.entries(rows, first, stop)[present]
        factor = prices.factor(entry)
        close = path[symbol, column + 1] * factor
        before = path[symbol, column] * factor  # the close before, after what happens today
        dollars = prices.dollars[picked] * prices.surge(entry, picked, session)
        dealing = (histories.quiet[rows] < stop) & (histories.ended[rows] > first)
        if dealing.any():
            at = np.flatnonzero(dealing[symbol])
            at = at[prices.is_dealing(picked[at], session[at])]
            both = np.concatenate([session[at] - 1, session[at]])
            dealt = prices.dealt(np.tile(picked[at], 2), both)
            before[at], close[at] = dealt[: len(at)], dealt[len(at) :]
            volatility[at] *= 0.1

        trading, noise = trading[present], draw(keys[symbol, 0], _PRICES, session)
        gap = (unit(noise, 0) + unit(noise, 1) - 1.0) * volatility
        opening = before * (1.0 + gap)
        top, bottom = np.maximum(opening, close), np.minimum(opening, close)
        reach = 0.8 * volatility
        high = _tick(top * (1.0 + reach * unit(noise, 2)))
        low = _tick(bottom * (1.0 - reach * unit(noise, 3)))
        opening, close = _tick(opening), _tick(close)
        middle = 0.25 + 0.5 * unit(trading, 0)

        heat, calm = 0.3 + unit(trading, 1), 0.15 + unit(trading, 2)
        shares = dollars * (heat * heat / calm) * DOLLAR / close
        volume = np.clip(np.rint(shares), 1.0, 9e11).astype(np.int64)
        return Bars(
            symbols=(),
            symbol=symbol,
            session=session,
            open=opening.astype(np.int64),
            high=high.astype(np.int64),
            low=low.astype(np.int64),
            close=close.astype(np.int64),
            vwap=np.rint(low + (high - low) * middle).astype(np.int64),
            volume=volume,
            trade_count=1 + volume // (40 + below(trading, 200)),
        )

    # Actions

    def actions(self) -> SyntheticActions:
        """See `Market.actions`."""
        return self._actions

    @cached_property
    def _actions(self) -> SyntheticActions:
        return SyntheticActions(self._prices.events, self._histories, self.sessions, self._seed)

    def truth(self) -> Truth:
        """What truly happened, for those who compare with it."""
        return Truth(self, self._histories, self._prices, self._bars_of)

    # The list of assets

    def assets(self, today: date = REFERENCE) -> Sequence[dict[str, Any]]:
        """See `Market.assets`.

        The list knows today's tickers: of a renamed company nothing under its earlier ones, of
        one that ended its last, unless somebody else has it now. One in sixteen of those that
        ended by an action is on no list at all: only the action names it.
        """
        if self._today is None or self._today[0] != today:
            self._today = (today, self._list(today))
        return self._today[1]

    def _list(self, today: date) -> list[dict[str, Any]]:
        begun = bisect_right(self.sessions, today)
        histories, holdings = self._histories, self._histories.holdings
        active = (holdings.first < begun) & (holdings.stop >= begun)
        ended = (holdings.stop < begun) & (holdings.stop == histories.ended[holdings.row])
        told = (histories.ending < 0) | ((histories.keys >> 7 & 15) != 0)
        ended &= told[holdings.row]
        rows: dict[str, dict[str, Any]] = {}
        for of, listed in ((ended, False), (active, True)):
            for at in np.flatnonzero(of).tolist():
                symbol = holdings.ticker[at]
                rows[symbol] = self._asset(symbol, int(holdings.row[at]), active=listed)
        for symbol in _REFUSED + _REFUSED_TICKERS:
            rows[symbol] = self._asset(symbol, -1, active=False)
        return sorted(rows.values(), key=lambda row: (row["exchange"], row["symbol"]))

    def _asset(self, symbol: str, row: int, *, active: bool) -> dict[str, Any]:
        pick = self._key(f"asset {row} {symbol}".encode())
        # Four-letter names are NASDAQ's, as in life; delisted ones mostly went over the counter.
        places = ("NASDAQ",) * 7 + ("ARCA",) if len(symbol) >= 4 else ("NYSE",) * 7 + ("AMEX",)
        if not active:
            places = (*places[4:], "OTC", "OTC", "OTC", "BATS")
        return asset(
            symbol,
            identity=f"{row} {symbol}",
            market=self._seed,
            name=_company(pick >> 32, symbol),
            exchange=places[pick % 8],
            active=active,
            tradable=(pick >> 3) % 64 != 0,
            easy_to_borrow=(pick >> 9) % 4 != 0,
            fractionable=(pick >> 11) % 4 != 0,
            has_options=(pick >> 13) % 4 != 0,
        )


_COLUMNS = tuple(name for name in Bars.__slots__ if name not in ("symbols", "symbol"))


@cache
def _sessions() -> tuple[date, ...]:
    # Whatever was declared: the bars of a session depend on its place among these.
    return tuple(market_calendar.undeclared_sessions(FIRST, market_calendar.LAST))


_FIRST_NAMES = (
    "Alder Amber Arbor Atlas Bay Beacon Birch Blue Bright Cedar Clear Cobalt Copper Coral Crown "
    "Delta Eagle East Elm Ember Falcon First Garnet Glen Golden Granite Green Harbor Hazel Heron "
    "High Iron Ivory Juniper Lake Laurel Liberty Linden Maple Meridian North Oak Ocean Onyx "
    "Orchard Pacific Pine Pioneer Prairie Quartz River Rock Sage Silver South Spruce Sterling "
    "Summit Union Valley Vista West White Willow"
).split()
_TRADES = (
    "Acquisition Airlines Apparel Bancorp Biosciences Brands Capital Chemical Communications "
    "Corporation Devices Diagnostics Energy Entertainment Financial Foods Gaming Gold Health "
    "Holdings Industries Insurance Logistics Media Networks Oil Pharmaceuticals Properties "
    "Resources Semiconductor Software Therapeutics"
).split()
_SHARES = {"A": "Class A", "B": "Class B", "U": "Units", "WS": "Warrants"}


def _company(pick: int, symbol: str) -> str:
    suffix = _SHARES.get(symbol.rpartition(".")[2] if "." in symbol else "", "Common Stock")
    return f"{_FIRST_NAMES[pick % 64]} {_TRADES[(pick >> 6) % 32]} Inc. {suffix}"


def _tick(dollars: Floats) -> Floats:
    """Dollars to millionths, on the tick: a cent from one dollar on, 0.01 cent below (Rule 612)."""
    cents = np.rint(dollars * 100.0) * 10_000.0
    finer = np.maximum(np.rint(dollars * 10_000.0), 1.0) * 100.0
    ticked: Floats = np.where(dollars >= 1.0, cents, finer)
    return ticked
