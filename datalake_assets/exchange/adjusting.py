"""Adjusted bars as Alpaca makes them: of raw ones, and of the actions that it has on record.

Here belongs the arithmetic of `adjustment=`. It knows the source's actions only, the wrong ones
too, never what truly happened. Which actions are on record belongs in `actions`.

The rule: bars before the day on which an action counts are multiplied. A split of `new` for `old`
and a stock dividend divide prices and multiply volume; cash of D dollars leaves 1 − D ÷ P of a
price, where P is the close of the last session before, after a split of the same day; a spin-off
leaves 1 − V ÷ P, where V is what comes of the new company for a share, at its open on that day.
That Alpaca takes the open is not published. Prices come out in cents. Where no action counts, the
raw bar stands; and one that would leave nothing of the price is not applied.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np

from datalake_assets.exchange.actions import Action, Counting
from datalake_assets.exchange.draws import Floats
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.market import DOLLAR, Bars, Ints
from datalake_assets.exchange.years import Daily

ADJUSTMENTS: dict[str, frozenset[Kind]] = {
    "raw": frozenset(),
    "split": frozenset((Kind.FORWARD_SPLIT, Kind.REVERSE_SPLIT, Kind.STOCK_DIVIDEND)),
    "dividend": frozenset((Kind.CASH_DIVIDEND,)),
    "spin-off": frozenset((Kind.SPIN_OFF,)),
}
ADJUSTMENTS["all"] = frozenset().union(*ADJUSTMENTS.values())

_CENT = DOLLAR // 100
_PATIENCE = 10  # sessions after its ex-date within which a new company has its first bar


def read_adjustment(text: str) -> frozenset[Kind]:
    """The kinds of actions that a value of `adjustment` means, such as `split,dividend`.

    Raises:
        ValueError: it is none, or `raw` together with another.
    """
    names = text.split(",")
    if any(name not in ADJUSTMENTS for name in names) or ("raw" in names and len(names) > 1):
        raise ValueError(f"invalid adjustment: {text}")
    return frozenset().union(*(ADJUSTMENTS[name] for name in names))


@dataclass(frozen=True, slots=True)
class Adjusting:
    """Daily bars, adjusted.

    Attributes:
        raw: The bars to adjust, by the tickers that are asked for.
        traded: Raw bars by the tickers that they traded under, for what new companies cost.
        kinds: Which actions.
        counting: What the source has on record.
        held: Which security a ticker means in `raw`; `None`: what traded under it.
        sessions: The calendar.
        visible: How many of them may be served.
    """

    raw: Daily
    traded: Daily
    kinds: Collection[Kind]
    counting: Counting
    held: Callable[[str], int | None]
    sessions: Sequence[date]
    visible: int

    def bars(self, symbols: Sequence[str], first: int, stop: int) -> Bars:
        """The adjusted bars of `symbols` in the sessions `first` … `stop`."""
        bars = self.raw(symbols, first, stop)
        return multiplied(bars, *self.factors(bars, first)) if len(bars) else bars

    def factors(self, bars: Bars, first: int) -> tuple[Floats, Floats]:
        """What prices and volumes of daily bars are multiplied by; `first` is not after them."""
        prices, volumes = np.ones(len(bars)), np.ones(len(bars))
        begin = np.searchsorted(bars.symbol, np.arange(len(bars.symbols) + 1))
        for at, symbol in enumerate(bars.symbols):
            rows = slice(begin[at], begin[at + 1])
            if rows.start == rows.stop:
                continue
            session = bars.session[rows]
            after = self.sessions[int(session[0])]
            actions = self.counting.of(symbol, self.held(symbol), self.kinds, after)
            if actions:
                day, price, volume = self._factors(symbol, actions, first)
                place = np.searchsorted(day, session, side="right")
                prices[rows], volumes[rows] = price[place], volume[place]
        return prices, volumes

    def _factors(
        self, symbol: str, actions: Sequence[Action], first: int
    ) -> tuple[Ints, Floats, Floats]:
        """Positions of days, and the factors of prices and volume before each, 1 after the last."""
        days = [bisect_left(self.sessions, action.counts) for action in actions]
        history = self.raw([symbol], first, min(max(days), self.visible))
        factors: dict[int, tuple[float, float]] = {}
        # Splits first: cash of the same day is per new share.
        of_day = sorted(
            zip(days, actions, strict=True), key=lambda each: (each[0], each[1].kind not in _SPLITS)
        )
        for day, action in of_day:
            price, volume = factors.get(day, (1.0, 1.0))
            if action.kind in _SPLITS:
                ratio = _ratio(action)
                price, volume = price / ratio, volume * ratio
            else:
                before = int(np.searchsorted(history.session, day)) - 1
                split = 1.0 / volume
                close = float(history.close[before]) / DOLLAR * split if before >= 0 else 0.0
                left = 1.0 - self._worth(action, day) / close if close else 1.0
                price *= left if left > 0 else 1.0
            factors[day] = (price, volume)
        day_ = np.array(sorted(factors), np.int64)
        pairs = np.array([factors[day] for day in day_.tolist()])
        later = np.vstack([pairs, [1.0, 1.0]])[::-1].cumprod(axis=0)[::-1]
        return day_, later[:, 0], later[:, 1]

    def _worth(self, action: Action, day: int) -> float:
        """Dollars that leave a share: the cash, or what comes of a new company."""
        row = action.row
        if action.kind == Kind.CASH_DIVIDEND:
            return float(row["rate"])
        new = self.traded([row["new_symbol"]], day, min(day + _PATIENCE, self.visible))
        if not len(new):
            return 0.0
        return float(row["new_rate"]) / float(row["source_rate"]) * float(new.open[0]) / DOLLAR


_SPLITS = ADJUSTMENTS["split"]


def _ratio(action: Action) -> float:
    row = action.row
    if action.kind == Kind.STOCK_DIVIDEND:
        return 1.0 + float(row["rate"])
    return float(row["new_rate"]) / float(row["old_rate"])


def multiplied(bars: Bars, prices: Floats, volumes: Floats) -> Bars:
    """The bars, multiplied; prices come out in cents."""
    touched = (prices != 1.0) | (volumes != 1.0)

    def cents(column: Ints) -> Ints:
        rounded = np.rint(column * prices / _CENT).astype(np.int64) * _CENT
        return np.where(touched, rounded, column)

    made = {name: cents(getattr(bars, name)) for name in ("open", "high", "low", "close", "vwap")}
    made["volume"] = np.rint(bars.volume * volumes).astype(np.int64)
    return replace(bars, symbols=bars.symbols, **made)
