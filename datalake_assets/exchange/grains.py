"""How long a bar is: days, years, minutes and hours, and which of them a request gets.

Here belongs what the timeframes have in common and where they differ. How minutes and years are
made of days belongs in `minutes` and `years`, requests and their answers in `server`.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from datalake_assets.exchange.adjusting import Adjusting, multiplied
from datalake_assets.exchange.market import Bars
from datalake_assets.exchange.minutes import DAY, MinuteBars, Minutes, longer
from datalake_assets.exchange.wire import MinuteStamps, Stamps, Times
from datalake_assets.exchange.years import Daily

_MINUTES = re.compile(r"(\d+)(?:Min|T)")
_HOURS = re.compile(r"(\d+)(?:Hour|H)")

_CELLS = 256
"""Symbols × sessions whose daily bars are made at once for minutes; a page holds 26 full ones."""


def minutes_of(timeframe: str) -> int | None:
    """How many minutes a bar of a timeframe has, such as `5Min`; `None`: it is not of minutes."""
    if found := _MINUTES.fullmatch(timeframe):
        return int(found[1]) or None
    if found := _HOURS.fullmatch(timeframe):
        return int(found[1]) * 60 or None
    return None


class Grain(Protocol):
    """Bars of one length."""

    @property
    def unit(self) -> str:
        """The letter that it has in page tokens."""

    @property
    def stamps(self) -> Times:
        """The instants of its bars."""

    @property
    def visible(self) -> int:
        """The first place that may not be served."""

    def parts(
        self, symbols: Sequence[str], first: int, stop: int, enough: int, *, descending: bool
    ) -> Iterator[Bars]:
        """The bars of symbols from the place `first` up to `stop`, in the order of the wire.

        They come in parts that are made one after another; together the first parts have hardly
        more than `enough` bars.
        """


@dataclass(frozen=True, slots=True)
class DayGrain:
    """Bars of days or of years: at most one at each place of their stamps."""

    stamps: Stamps
    visible: int
    bars: Daily
    unit: str = "D"

    def parts(
        self, symbols: Sequence[str], first: int, stop: int, enough: int, *, descending: bool
    ) -> Iterator[Bars]:
        """See `Grain`."""
        begin = 0
        while begin < len(symbols) and first < stop:
            # No more symbols at a time than the page needs if each of them is full.
            count = max(1, math.ceil(enough / (stop - first)))
            part = self.bars(symbols[begin : begin + count], first, stop)
            if descending:
                part = part.take(np.lexsort((-part.session, part.symbol)))
            yield part
            enough -= len(part)
            begin += count


@dataclass(frozen=True, kw_only=True)
class MinuteGrain:
    """Bars of minutes or hours.

    Attributes:
        minutes: What makes them.
        every: How many minutes a bar has.
        midnights: The stamps of the sessions.
        sessions: How many of them may be served.
        now: Nanoseconds since 1970: a bar that is not over yet may not be served.
        days: The true daily bars that they are made of.
        adjusting: What they are adjusted by; `None`: they are raw.
        blemished: Puts mistakes into the minutes of whole days; `None`: there are none.
    """

    minutes: Minutes
    every: int
    midnights: Stamps
    sessions: int
    now: int
    days: Daily
    adjusting: Adjusting | None
    blemished: Callable[[MinuteBars], MinuteBars] | None
    unit: str = "M"

    @cached_property
    def stamps(self) -> MinuteStamps:
        """See `Grain`."""
        return MinuteStamps(self.midnights, self.every)

    @cached_property
    def visible(self) -> int:
        """See `Grain`."""
        over = self.stamps.place(self.now - self.every * 60 * 10**9, after=True)
        return min(self.sessions * DAY, over)

    def parts(
        self, symbols: Sequence[str], first: int, stop: int, enough: int, *, descending: bool
    ) -> Iterator[Bars]:
        """See `Grain`."""
        low, high = first // DAY, -(-stop // DAY)
        if first >= stop:
            return
        step = max(1, _CELLS // (high - low))
        for begin in range(0, len(symbols), step):
            days = self.days(symbols[begin : begin + step], low, high)
            if not len(days):
                continue
            factors = None if self.adjusting is None else self.adjusting.factors(days, low)
            if descending:
                order = np.lexsort((-days.session, days.symbol))
                days = days.take(order)
                factors = factors and (factors[0][order], factors[1][order])
            reached = np.cumsum(self.minutes.most(days, first, stop))
            at = 0
            while at < len(days):
                before = int(reached[at - 1]) if at else 0
                # One day more than enough: few have all the minutes that they can have.
                end = int(np.searchsorted(reached, before + enough)) + 1
                some = slice(at, end)
                made = self._made(days.take(some), first, stop)
                if descending:
                    made = made.take(np.lexsort((-made.bars.session, made.day)))
                part = made.bars
                if factors is not None:
                    prices, volumes = (each[some][made.day] for each in factors)
                    part = multiplied(part, prices, volumes)
                yield part
                enough = max(1, enough - len(part))
                at = end

    def _made(self, days: Bars, first: int, stop: int) -> MinuteBars:
        if self.blemished is None:
            made = self.minutes.of(days, first, stop)
        else:
            whole = self.blemished(self.minutes.of(days, 0, len(self.midnights.at) * DAY))
            place = whole.bars.session
            made = whole.take(np.flatnonzero((place >= first) & (place < stop)))
        return longer(made, self.every)
