"""A session's minute bars against its daily bars: where do the two disagree, and why?

Belongs here: the comparison, what counts as a disagreement, and the likely reason. Does not belong
here: whether the session may be published (`minute_audit`), and the comparison of daily prices with
corporate actions or with the source's own adjusted bars (`securities`, `pipeline.witness`).

Both are made of the same trades, but not by the same rules:

- A minute bar needs a trade that may set a price. Odd lots, trades of fewer than 100 shares, may
  not: a minute that has only such trades has no bar, and their volume is in the daily bar alone.
- The closing auction is printed at or after the close, so the minutes of the regular hours don't
  have it. The daily bar does: about 9 % of its volume, and 20 % on days of index changes.
- The daily bar counts the volume of trades outside the regular hours, but not their prices.
- Corrections and late trades are added to the daily bar, and not always to a minute.

So most disagreements are no fault of the minutes. Two kinds are: minutes that are missing, and
minutes that still count a trade that was cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.collection.bars import NO_COUNT, Floats, Ints
from datalake_assets.collection.minute_totals import Hours, MinuteTotals, Stretches
from datalake_assets.collection.symbols import Flags

LEAST_SHARE, MOST_SHARE = 0.95, 1.05
"""Of the daily volume, and of the daily number of trades: what the minutes may add up to. Usual
bounds among those who check minutes against days."""

AUCTION_SHARE = 0.70
"""Of the daily volume: what the minutes of the regular hours have at least, if only auctions are
missing. The closing auction has 9 % of the volume on an ordinary day and 20 % on days of index
changes and of expiring options (BMLL, 2024); the rest is room for single names."""

TOLERANCE = 0.00005
"""US dollars by which a price may differ from another that is the same: half of the smallest step
of a price on the tape, 0.0001. The error of a float is below it even at 770,000 dollars."""

NEAR, NEAR_DOLLARS = 0.01, 0.01
"""How far the close of the minutes may be from the daily close, and the daily high and low from
theirs: a share of the daily price, or US dollars, whichever is more. The daily close is that of the
auction, which is usually at the bid or the ask before it (Bogousslavsky and Muravyev, 2023): half a
spread away, which is below 1 % but for names that hardly trade. A cent is the smallest step of a
quote from one dollar on."""

AUCTION_BAND, AUCTION_DOLLARS = 0.10, 0.50
"""How far the closing auction's price can be from the quotes before it: Nasdaq's threshold for its
closing cross, a share or US dollars, whichever is more."""

ROUND_LOT = 100
"""Shares. Since November 2025 a round lot of an expensive stock is smaller; then more of its
minutes have a bar than is expected here."""

LIQUID = 1.0
"""Round lots a minute, by the daily bar, from which on a symbol's volume and trades are compared.
Odd lots have about 12 % of the volume (Clearpool, 2020). If round lots come at random, one a
minute, then 37 % of the minutes have none, and with them 4.4 % of the volume has no bar: just less
than the 5 % that may be missing. With fewer, every thin name would disagree. That the minutes have
more volume than the daily bar, by a round lot at least, is told of all symbols."""

FEW = 0.5
"""Share of the expected minutes below which a symbol has few bars. Trades come in bursts, which
leaves more minutes empty than chance does."""

GAP = 30
"""Minutes without a bar that tell of missing ones, where volume is missing as well. Of symbols with
a round lot a minute, by chance one in a million has a gap of even 20 in a session. After a halt the
volume is whole."""


class Reason(StrEnum):
    """Why the minutes and the daily bar disagree, most likely; the gravest first."""

    MISSING_MINUTES = "missing minutes"
    """There are fewer minutes than so many trades make, or a long gap."""
    NO_MINUTES = "no minutes"
    """A liquid symbol has a daily bar and no minute."""
    CANCELLED_TRADE = "cancelled trade"
    """The minutes have more than the daily bar: of it a trade was taken back."""
    LATE_TRADE = "late trade or trade outside regular hours"
    """The daily bar has trades that no minute here has."""
    AUCTION = "auction"
    """The same, and they are what an auction brings: much volume in few trades, or a close."""
    NO_DAILY_BAR = "no daily bar"
    """There are minutes of a symbol without a daily bar."""


FAULTS = frozenset({Reason.MISSING_MINUTES, Reason.NO_MINUTES, Reason.CANCELLED_TRADE})
"""Reasons that the minutes are to blame for. With the others they are as they should be."""


class What(StrEnum):
    """What is compared."""

    VOLUME = "volume"
    TRADES = "trades"
    HIGH = "high"
    LOW = "low"
    CLOSE = "close"


DISAGREEMENTS = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("what", pa.string(), nullable=False),
        pa.field("minutes", pa.float64()),
        pa.field("daily", pa.float64()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""A row for each value that disagrees: what it is (`What`), what the minutes and the daily bar say
(null: nothing), and the likely `Reason`. Shares, numbers of trades, or US dollars."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of a session's minutes against its daily bars.

    Args:
        compared: Symbols that have minutes, a daily bar, or both.
        thin: How many of them trade too little for their volume and trades to be compared.
        table: What disagrees, in `DISAGREEMENTS`: by reason, the gravest first, then by symbol.
    """

    compared: int
    thin: int
    table: pa.Table = field(repr=False)

    @property
    def reasons(self) -> Mapping[Reason, int]:
        """How many symbols disagree by each reason. One with several counts for each of them."""
        pairs = self.table.select(["symbol", "reason"]).group_by(["symbol", "reason"]).aggregate([])
        counts = {one["values"]: one["counts"] for one in pc.value_counts(pairs["reason"]).tolist()}
        return {reason: counts[reason] for reason in Reason if reason in counts}

    @property
    def faulty(self) -> int:
        """How many symbols disagree by a fault of the minutes."""
        faults = pc.is_in(self.table["reason"], pa.array(sorted(FAULTS), pa.string()))
        return int(pc.count_distinct(self.table["symbol"].filter(faults)).as_py())


def compare(minutes: pa.Table, daily: pa.Table, hours: Hours) -> Comparison:
    """Hold a session's minutes against its daily bars, symbol by symbol.

    Args:
        minutes: The minute bars, in `bars.SCHEMA`.
        daily: The daily bars of the same session and the same symbols, in `bars.SCHEMA`.
        hours: From when to when the minutes start, UTC: the regular hours or longer ones.

    Raises:
        ValueError: The hours begin on a day that is no session.
    """
    return held_against(MinuteTotals.of(Stretches.of(minutes, hours), hours), daily)


def round_lots(volume: Ints, trades: Ints) -> Floats:
    """How many of a day's trades were of at least a round lot, estimated.

    Sizes of trades are taken to be exponential. Then of an average trade of 133 shares, as large
    companies have it, 47 % are round lots, which is the market's share (Cboe, 2021); of one of 10
    shares, as of a stock at 3,000 dollars, hardly any.

    Args:
        volume: Shares.
        trades: Number of trades; `NO_COUNT`: taken to be of 100 shares.
    """
    number = np.where(trades == NO_COUNT, volume / ROUND_LOT, trades).astype(float)
    size = np.divide(volume, number, out=np.zeros_like(number), where=number > 0)
    share = np.exp(-ROUND_LOT / np.maximum(size, 1e-9))
    lots: Floats = number * share
    return lots


def expected_minutes(lots: Floats, length: int) -> Floats:
    """In how many minutes so many round lots are expected, if they come at random."""
    minutes: Floats = length * -np.expm1(-lots / length)
    return minutes


@dataclass(frozen=True, slots=True, eq=False)
class DailyBars:
    """The daily bars of some symbols, in their order.

    Args:
        there: Which symbols have one. The other columns are 0 or NaN where there is none.
        volume: Shares.
        trades: Number of trades; `NO_COUNT` where the source has none.
        open, high, low, close: US dollars.
        lots: Estimated number of round lots.
    """

    there: Flags
    volume: Ints
    trades: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    lots: Floats

    @classmethod
    def of(cls, daily: pa.Table, symbols: pa.Array) -> DailyBars:
        """Look them up.

        Args:
            daily: Daily bars in `bars.SCHEMA`, one for a symbol.
            symbols: The symbols.
        """
        at = pc.index_in(symbols, daily["symbol"].combine_chunks())
        bars = daily.take(at)
        volume, trades = (
            pc.fill_null(bars[name], fill).to_numpy()
            for name, fill in (("volume", 0), ("trade_count", NO_COUNT))
        )
        prices = {
            name: pc.fill_null(bars[name], np.nan).to_numpy()
            for name in ("open", "high", "low", "close")
        }
        there = at.is_valid().to_numpy(zero_copy_only=False)
        return cls(there, volume, trades, **prices, lots=round_lots(volume, trades))

    def liquid(self, length: int) -> Flags:
        """Which symbols trade enough for their volume and trades to be compared?"""
        liquid: Flags = self.there & (self.lots >= LIQUID * length)
        return liquid


def held_against(totals: MinuteTotals, daily: pa.Table) -> Comparison:
    """The same as `compare`, of minutes that are already added up."""
    bars = DailyBars.of(daily, totals.symbols)
    told = list(_disagreements(totals, bars))
    alone = daily.filter(pc.invert(pc.is_in(daily["symbol"], totals.symbols)))
    silent = DailyBars.of(alone, alone["symbol"].combine_chunks())
    without = silent.liquid(totals.length)
    told.append(
        _rows(alone["symbol"], without, What.VOLUME, None, silent.volume, Reason.NO_MINUTES)
    )
    table = pa.concat_tables(told).combine_chunks()
    grave = pc.index_in(table["reason"], pa.array([*Reason], pa.string()))
    whats = pc.index_in(table["what"], pa.array([*What], pa.string()))
    order = pa.table({"grave": grave, "symbol": table["symbol"], "what": whats})
    by = [(name, "ascending") for name in order.column_names]
    return Comparison(
        compared=len(totals.symbols) + alone.num_rows,
        thin=int(np.count_nonzero(bars.there & ~bars.liquid(totals.length)))
        + int(np.count_nonzero(~without)),
        table=table.take(pc.sort_indices(order, by)),
    )


def _disagreements(totals: MinuteTotals, daily: DailyBars) -> list[pa.Table]:
    """What disagrees of symbols that have minutes."""
    symbols, there, liquid = totals.symbols, daily.there, daily.liquid(totals.length)
    volume, trades = _share(totals.volume, daily.volume), _share(totals.trades, daily.trades)
    little, few_trades = liquid & (volume < LEAST_SHARE), liquid & (trades < LEAST_SHARE)
    # Of thin ones as well: odd lots without a bar leave the minutes with less, never with more.
    more = there & (volume > MOST_SHARE) & (totals.volume - daily.volume >= ROUND_LOT)
    expected = expected_minutes(daily.lots, totals.length)
    lacking = little & ((totals.minutes < FEW * expected) | (totals.gap >= GAP))
    auction = np.zeros(len(symbols), bool)
    if not totals.extended:
        # Many trades are missing with what was traded outside these hours, few with an auction.
        auction = (volume >= AUCTION_SHARE) & ~(trades < LEAST_SHARE)
    distance = np.abs(totals.close - daily.close)
    beyond_high = daily.high - totals.high > _near(daily.high)
    beyond_low = totals.low - daily.low > _near(daily.low)
    at_high = _at_open_or_close(daily, daily.high)
    at_low = _at_open_or_close(daily, daily.low)
    band = np.maximum(AUCTION_BAND * daily.close, AUCTION_DOLLARS)

    def rows(which: Flags, what: What, own: npt.NDArray[np.generic], reason: Reason) -> pa.Table:
        return _rows(symbols, which, what, own, getattr(daily, what.value), reason)

    def less(which: Flags, what: What, own: npt.NDArray[np.generic], auction: Flags) -> pa.Table:
        """Rows of what the minutes have less of, by reason."""
        whole = which & ~lacking
        return pa.concat_tables(
            [
                rows(which & lacking, what, own, Reason.MISSING_MINUTES),
                rows(whole & auction, what, own, Reason.AUCTION),
                rows(whole & ~auction, what, own, Reason.LATE_TRADE),
            ]
        )

    cancelled = Reason.CANCELLED_TRADE
    nowhere = np.zeros(len(symbols), bool)
    alone = _rows(symbols, ~there, What.VOLUME, totals.volume, None, Reason.NO_DAILY_BAR)
    return [
        alone,
        less(little, What.VOLUME, totals.volume, auction),
        rows(more, What.VOLUME, totals.volume, cancelled),
        less(few_trades, What.TRADES, totals.trades, nowhere),
        rows(liquid & (trades > MOST_SHARE), What.TRADES, totals.trades, cancelled),
        less(beyond_high, What.HIGH, totals.high, at_high),
        rows(totals.high > daily.high + TOLERANCE, What.HIGH, totals.high, cancelled),
        less(beyond_low, What.LOW, totals.low, at_low),
        rows(totals.low < daily.low - TOLERANCE, What.LOW, totals.low, cancelled),
        less(distance > _near(daily.close), What.CLOSE, totals.close, distance <= band),
    ]


def _share(part: Ints, whole: Ints) -> Floats:
    """A share of what the daily bar has; NaN, which is neither more nor less, if one is unknown."""
    shares = np.full(len(part), np.nan)
    known = (part != NO_COUNT) & (whole != NO_COUNT)
    with np.errstate(divide="ignore", invalid="ignore"):  # a daily bar without volume
        np.divide(part, whole, out=shares, where=known)
    return shares


def _near(price: Floats) -> Floats:
    near: Floats = np.maximum(NEAR * price, NEAR_DOLLARS) + TOLERANCE
    return near


def _at_open_or_close(daily: DailyBars, price: Floats) -> Flags:
    """Is this price the daily open or close, as that of an auction is?"""
    distance = np.minimum(np.abs(daily.open - price), np.abs(daily.close - price))
    at: Flags = distance <= TOLERANCE
    return at


def _rows(
    symbols: pa.Array | pa.ChunkedArray,
    which: Flags,
    what: What,
    minutes: npt.NDArray[np.generic] | None,
    daily: npt.NDArray[np.generic] | None,
    reason: Reason,
) -> pa.Table:
    """These symbols as rows of `DISAGREEMENTS`."""
    size = int(np.count_nonzero(which))
    nothing = pa.nulls(size, pa.float64())
    return pa.table(
        {
            "symbol": symbols.filter(pa.array(which)),
            "what": pa.repeat(pa.scalar(what.value, pa.string()), size),
            "minutes": nothing if minutes is None else minutes[which].astype(float),
            "daily": nothing if daily is None else daily[which].astype(float),
            "reason": pa.repeat(pa.scalar(reason.value, pa.string()), size),
        },
        DISAGREEMENTS,
    )
