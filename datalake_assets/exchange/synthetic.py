"""The synthetic market: a US-like universe whose every bar is a function of a seed.

A bar depends on (seed, symbol, session) and on nothing else: no state, no request, no order, no
machine. Only integer operations and those of floating point that IEEE 754 rounds exactly
(+ − × ÷ and the square root) take part; `exp`, `log` and sums whose order a CPU chooses do not,
because their last bit differs between processors.

The shape is taken from the real market: class shares, listings and delistings during history,
halts, thin names that do not print every day, splits in raw prices, names in the list of assets
that the bars endpoint refuses. The companies are invented; a ticker that also exists is chance.
Recorded bars of real companies belong in `recorded`.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from functools import cache, cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from datalake_assets import market_calendar
from datalake_assets.exchange.market import DOLLAR, Bars, Ints, Split, asset, is_ticker

Words = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]

FIRST = date(2011, 1, 3)
LAST_EVENT = date(2026, 6, 30)
"""The last day on which a symbol is listed, delisted or split: what a market has told stays."""

DELAY = timedelta(minutes=15)
"""A bar is served from this long after its session's close. Alpaca serves a growing bar before;
a bar that changes from request to request could not be a function of its session."""

NEVER = 1 << 30

# One stream of random numbers for each thing that is decided, so that adding one moves no other.
# 1 … LEVELS are the levels of the price path.
LEVELS = 13  # 8,192 sessions: to the end of the market calendar and beyond
_TRADING, _PRICES, _HALT = 32, 33, 34
_SPELLING, _LIFE, _END, _CHARACTER, _SIZE, _SPLIT, _SPLIT_DAY = range(64, 71)

_LETTERS = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZAEINRS", np.uint8)
_CLASSES = (b".A", b".B", b".U", b".WS")
# New shares, old shares, log2 of new ÷ old.
_RATIOS = (
    (2, 1, 1.0),
    (3, 1, 1.5849625007211562),
    (3, 2, 0.5849625007211562),
    (4, 1, 2.0),
    (10, 1, 3.3219280948873626),
    (1, 5, -2.321928094887362),
    (1, 10, -3.3219280948873626),
    (1, 20, -4.321928094887363),
)

_REFUSED = ("0029900E0", "0115670C9", "4470B1014", "ATC.220816", "BRX-B", "GNL-A", "HALTED:OTC")
_REFUSED_TICKERS = ("ZVZZTNX", "CONTRARX")
"""Inactive names that the bars endpoint refuses. The first look like no ticker; the others do."""


def market_id(seed: int = 7, active: int = 6_000, inactive: int = 2_000) -> str:
    """The name of the market that `SyntheticMarket` makes of the same arguments."""
    name = f"synthetic/{seed}"
    return name if (active, inactive) == (6_000, 2_000) else f"{name}/{active}+{inactive}"


class SyntheticMarket:
    """A market of `active` + `inactive` symbols from 2011-01-03 on.

    Args:
        seed: Which market; 0 … 2**63 − 1.
        active: Symbols that are still listed.
        inactive: Symbols that are not; three in four print until the day they are delisted, the
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
        self._symbols = _spell(self._key(b""), active + inactive)
        self._row = {symbol: row for row, symbol in enumerate(self._symbols)}
        self._active = active
        self._keys = np.array([self._key(s.encode()) for s in self._symbols], np.uint64)
        self._decide()

    def _key(self, text: bytes) -> int:
        return int.from_bytes(blake2b(text, key=self._seed, digest_size=8).digest(), "little")

    def _decide(self) -> None:
        """What each symbol is: its life, volatility, price, size, and splits (arrays by row)."""
        keys, count = self._keys, len(self._keys)
        last = bisect_left(self.sessions, LAST_EVENT)
        life, end = _draw(keys, _LIFE, 0), _draw(keys, _END, 0)

        newcomer = (life & 0xFF) >= 140  # 45 % of the names were listed during history
        self._listed = np.where(newcomer, _below(life, last, skip=8), 0)
        self._delisted = np.full(count, NEVER, np.int64)
        gone = np.arange(count) >= self._active
        told = gone & ((end & 3) != 0)  # their delisting lies within the history
        self._listed[gone] //= 2
        span = last - self._listed
        self._delisted[told] = (self._listed + 1 + _below(end, np.maximum(span - 1, 1), skip=8))[
            told
        ]
        self._delisted[gone & ~told] = 0

        character = _draw(keys, _CHARACTER, 0)
        wild = _unit(character, 0)
        # Standard deviation of a day in log2: 1 … 4 %, more names near the lower end.
        self._volatility = (0.01 + 0.03 * wild * wild) * 1.4426950408889634
        rank = _unit(character, 1)
        rare = rank * rank * rank
        self._log2_price = 1.8 + 5.0 * _unit(character, 2) + 4.5 * rare * rare * rare
        size = _unit(_draw(keys, _SIZE, 0), 0)
        fourth = size * size * size * size
        # Dollars a day, 2**15 ($33 thousand) … 2**31 ($2 billion): a few names are most of it.
        self._dollars = _exp2(15.0 + 10.0 * size + 6.0 * fourth * fourth)
        # Of 65,536 sessions, in how many it prints: the smallest do not print every day.
        thin = np.minimum(1.0, 0.45 + 7.0 * size)
        self._prints = np.where(size < 0.08, np.floor(thin * 65_536), 65_536).astype(np.int64)

        split = _draw(keys, _SPLIT, 0)
        day = _draw(keys, _SPLIT_DAY, 0)
        begin, stop = self._listed + 20, np.minimum(self._delisted, last) - 20
        room = stop - begin
        splits = (split & 0xFF) < 60  # 23 % of the names, if they live long enough
        splits &= room > 40
        middle = begin + room // 2
        first = np.where(splits, begin + _below(day, np.maximum(middle - begin, 1)), NEVER)
        again = splits & (((split >> 8) & 0xFF) < 60)
        second = np.where(again, middle + _below(day, np.maximum(stop - middle, 1), skip=32), NEVER)
        self._split_day = np.stack([first, second], axis=1)
        self._split_ratio = np.stack([_below(split, 8, skip=16), _below(split, 8, skip=40)], axis=1)
        steps = np.array(_RATIOS)[self._split_ratio, 2]
        steps[self._split_day == NEVER] = 0.0
        # Prices that were split have risen before: the path drifts by what its splits take away.
        self._drift = (steps[:, 0] + steps[:, 1]) / (1 << LEVELS - 1)

    def visible(self, now: datetime) -> int:
        """The sessions that have closed at least `DELAY` before `now`."""
        closed = market_calendar.latest_closed_session(now - DELAY)
        return bisect_left(self.sessions, closed + timedelta(days=1))

    def bars(self, symbols: Sequence[str], first: int, stop: int) -> Bars:
        """See `Market.bars`. Prices are in cents; below one dollar, in hundredths of a cent."""
        known = [symbol for symbol in symbols if symbol in self._row]
        rows = np.array([self._row[symbol] for symbol in known], np.intp)
        keys = self._keys[rows, None]
        session = np.arange(first, stop, dtype=np.int64)

        trading = _draw(keys, _TRADING, session)
        held = _draw(keys, _HALT, np.arange(first >> 8, ((max(stop, first + 1) - 1) >> 8) + 1))
        held = held[:, (session >> 8) - (first >> 8)]
        begin, day = ((held >> 8) & 0xFF).astype(np.int64), session & 0xFF
        length = 1 + _below(held, 24, skip=16)
        halted = ((held & 0xFF) < 16) & (begin <= day) & (day < begin + length)
        present = (
            (session >= self._listed[rows, None])
            & (session < self._delisted[rows, None])
            & ((trading >> 48).astype(np.int64) < self._prints[rows, None])
            & ~halted
        )
        symbol, column = np.nonzero(present)
        picked = rows[symbol]
        volatility = self._volatility[picked]

        path = self._path(rows, first, stop)
        session = session[column]
        factor = self._split_factor(picked, session)
        close = path[symbol, column + 1] * factor
        before = path[symbol, column] * factor  # the close before, as today's shares count

        trading, prices = trading[present], _draw(keys[symbol, 0], _PRICES, session)
        gap = (_unit(prices, 0) + _unit(prices, 1) - 1.0) * volatility
        opening = before * (1.0 + gap)
        top, bottom = np.maximum(opening, close), np.minimum(opening, close)
        reach = 0.8 * volatility
        high = _tick(top * (1.0 + reach * _unit(prices, 2)))
        low = _tick(bottom * (1.0 - reach * _unit(prices, 3)))
        opening, close = _tick(opening), _tick(close)
        middle = 0.25 + 0.5 * _unit(trading, 0)

        heat, calm = 0.3 + _unit(trading, 1), 0.15 + _unit(trading, 2)
        shares = self._dollars[picked] * (heat * heat / calm) * DOLLAR / close
        volume = np.clip(np.rint(shares), 1.0, 9e11).astype(np.int64)
        return Bars(
            symbols=known,
            symbol=symbol,
            session=session,
            open=opening.astype(np.int64),
            high=high.astype(np.int64),
            low=low.astype(np.int64),
            close=close.astype(np.int64),
            vwap=np.rint(low + (high - low) * middle).astype(np.int64),
            volume=volume,
            trade_count=1 + volume // (40 + _below(trading, 200)),
        )

    def _path(self, rows: npt.NDArray[np.intp], first: int, stop: int) -> Floats:
        """Prices before splits at `first` − 1 … `stop` − 1: rows × (sessions + 1), in dollars.

        A Brownian motion in the logarithm, by Lévy's construction: on each level the middle of a
        dyadic interval moves off the line between its ends, by a normal number times half the
        root of its length. So any point is known without the ones before it. Above 512 sessions
        the root grows no more: prices roam over years, but come back.
        """
        time = np.arange(first, stop + 1)
        walk = np.zeros((len(rows), len(time)))
        for level in range(1, LEVELS + 1):
            cell = time >> level
            kicks = _normal(_draw(self._keys[rows, None], level, np.arange(cell[0], cell[-1] + 1)))
            period = 1 << level
            into = time & (period - 1)
            tent = np.minimum(into, period - into) * (math.sqrt(min(period, 512)) / period)
            walk += kicks[:, cell - cell[0]] * tent
        walk *= self._volatility[rows, None]
        walk += self._drift[rows, None] * time
        walk += self._log2_price[rows, None]
        return np.clip(_exp2(walk), 0.05, 400_000.0)

    def _split_factor(self, rows: npt.NDArray[np.intp], session: Ints) -> Floats:
        """What the splits up to each session have made of one dollar of the path."""
        factor = np.ones(len(rows))
        for which in (0, 1):
            done = session >= self._split_day[rows, which]
            new, old, _ = np.array(_RATIOS)[self._split_ratio[rows, which]].T
            factor[done] *= (old / new)[done]
        return factor

    def splits(self) -> Sequence[Split]:
        """See `Market.splits`."""
        return self._splits

    @cached_property
    def _splits(self) -> list[Split]:
        found = [
            Split(self._symbols[row], self.sessions[day], *_RATIOS[ratio][:2])
            for row, which in zip(*np.nonzero(self._split_day != NEVER), strict=True)
            for day, ratio in [(self._split_day[row, which], self._split_ratio[row, which])]
        ]
        return sorted(found, key=lambda split: (split.day, split.symbol))

    def assets(self) -> Sequence[dict[str, Any]]:
        """See `Market.assets`."""
        return self._assets

    @cached_property
    def _assets(self) -> list[dict[str, Any]]:
        listed = [
            self._asset(symbol, active=row < self._active)
            for row, symbol in enumerate(self._symbols)
        ]
        refused = [self._asset(symbol, active=False) for symbol in _REFUSED + _REFUSED_TICKERS]
        return sorted(listed + refused, key=lambda row: (row["exchange"], row["symbol"]))

    def _asset(self, symbol: str, *, active: bool) -> dict[str, Any]:
        pick = self._key(b"asset " + symbol.encode())
        # Four-letter names are NASDAQ's, as in life; delisted ones mostly went over the counter.
        places = ("NASDAQ",) * 7 + ("ARCA",) if len(symbol) >= 4 else ("NYSE",) * 7 + ("AMEX",)
        if not active:
            places = (*places[4:], "OTC", "OTC", "OTC", "BATS")
        return asset(
            symbol,
            market=self._seed,
            name=_company(pick >> 32, symbol),
            exchange=places[pick % 8],
            active=active,
            tradable=(pick >> 3) % 64 != 0,
            easy_to_borrow=(pick >> 9) % 4 != 0,
            fractionable=(pick >> 11) % 4 != 0,
            has_options=(pick >> 13) % 4 != 0,
        )


@cache
def _sessions() -> tuple[date, ...]:
    # Whatever was declared: the bars of a session depend on its place among these.
    return tuple(market_calendar.undeclared_sessions(FIRST, market_calendar.LAST))


def _spell(key: int, count: int) -> list[str]:
    """`count` different tickers: mostly three and four letters, some class shares among them."""
    spelt: dict[str, None] = {}
    drawn = 0
    while len(spelt) < count:
        number = np.arange(drawn, drawn + count + 64)
        words = _draw(np.array([key], np.uint64), _SPELLING, number)
        drawn += len(number)
        letters = _LETTERS[(words[:, None] >> np.arange(0, 25, 5, dtype=np.uint64)) & 31]
        # Of 256: 1 has one letter, 9 two, 86 three, 145 four, 15 five.
        lengths = 1 + np.searchsorted([1, 10, 96, 241], (words >> 32) & 0xFF, side="right")
        kinds = ((words >> 40) & 0xFF).tolist()
        texts = letters.astype(np.uint8).tobytes().decode()
        for index, (length, kind) in enumerate(zip(lengths.tolist(), kinds, strict=True)):
            symbol = texts[5 * index : 5 * index + length]
            if kind < 2 * len(_CLASSES):
                symbol += _CLASSES[kind // 2].decode()
            spelt[symbol] = None
    return [symbol for symbol in spelt if is_ticker(symbol)][:count]


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


# Random numbers: splitmix64 over counters (Steele, Lea and Flood, 2014).


def _draw(keys: Words, stream: int, counter: Ints | int) -> Words:
    """64 random bits for each key and counter (broadcast) of a stream."""
    step = np.atleast_1d(np.asarray(counter, np.uint64)) + np.uint64((stream << 32) + 1)
    word: Words = keys + step * np.uint64(0x9E3779B97F4A7C15)
    word ^= word >> 30
    word *= np.uint64(0xBF58476D1CE4E5B9)
    word ^= word >> 27
    word *= np.uint64(0x94D049BB133111EB)
    word ^= word >> 31
    return word


def _below(words: Words, bound: Ints | int, *, skip: int = 0) -> Ints:
    """Whole numbers 0 … bound − 1 from 31 bits after the lowest `skip`; bound is at least 1."""
    below: Ints = (words >> np.uint64(skip) & 0x7FFFFFFF).astype(np.int64) % bound
    return below


def _unit(words: Words, quarter: int) -> Floats:
    """Numbers in [0, 1) from one of a word's four quarters of 16 bits."""
    unit: Floats = ((words >> (16 * quarter)) & 0xFFFF).astype(np.float64) / 65_536
    return unit


def _normal(words: Words) -> Floats:
    """Nearly normal numbers (mean 0, deviation 1, within ±3.47): a sum of four uniform ones."""
    total = (words & 0xFFFF) + (words >> 16 & 0xFFFF) + (words >> 32 & 0xFFFF) + (words >> 48)
    normal: Floats = (total.astype(np.float64) - 131_070.0) * (1.7320508075688772 / 65_536)
    return normal


def _exp2(x: Floats) -> Floats:
    """2**x, the same bits on every machine; within 1e-7 of it, relatively."""
    whole = np.rint(x)
    t = (x - whole) * 0.6931471805599453
    series = 1.0 + t * (1.0 + t * (1 / 2 + t * (1 / 6 + t * (1 / 24 + t * (1 / 120 + t / 720)))))
    power: Floats = np.ldexp(series, whole.astype(np.int64))
    return power


def _tick(dollars: Floats) -> Floats:
    """Dollars to millionths, on the tick: a cent from one dollar on, 0.01 cent below (Rule 612)."""
    cents = np.rint(dollars * 100.0) * 10_000.0
    finer = np.maximum(np.rint(dollars * 10_000.0), 1.0) * 100.0
    ticked: Floats = np.where(dollars >= 1.0, cents, finer)
    return ticked
