"""Bars of single minutes, made of a market's daily ones.

Here belongs what `timeframe=1Min` asks for, and what longer bars of minutes and hours are made
of. How a bar is spelt belongs in `wire`, which of them a request gets in `grains`.

The minutes of a security and a session are a function of its daily bar and of nothing else, so a
recorded bar has minutes too. They add up to it: volume, number of trades and average price over
all minutes from 04:00 to 20:00; open, high, low and close over the regular hours. Outside these
are 1 to 4 % of the volume. A minute without a trade has no bar.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache, cached_property
from typing import Any, Self
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from datalake_assets import market_calendar
from datalake_assets.exchange.draws import Floats, Words, draw, unit
from datalake_assets.exchange.market import DOLLAR, Bars, Ints

DAY = 1_440
"""Minutes of a day. A minute's position is its session's, times this, plus the minutes since New
York's midnight. No session is a day on which New York's clocks change."""

EARLY, OPEN, CLOSE = 4 * 60, 9 * 60 + 30, 16 * 60
LATE = 4 * 60
"""Minutes after the close until which it is traded: to 20:00, on half days to 17:00."""

_SHARES, _HALTS, _PLACES, _BAR = 64, 65, 66, 67  # streams
_HALTED = 300  # of 65,536 securities and sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What the bars of a part of the day add up to: columns by row.

    Attributes:
        row: Which daily bar it is a part of.
        key: What its draws are made of.
        begin: Its first minute.
        length: How many minutes it has.
        open, high, low, close: As of a daily bar.
        vwap: The average price; not rounded.
    """

    row: Ints
    key: Words
    begin: Ints
    length: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    vwap: Floats
    volume: Ints
    trade_count: Ints

    def take(self, rows: Any) -> Self:
        """The same columns with these rows."""
        return replace(self, **{name: getattr(self, name)[rows] for name in self.__slots__})


@dataclass(frozen=True, slots=True)
class MinuteBars:
    """Minute bars, and which row of the daily ones each of them is of."""

    bars: Bars
    day: Ints

    def take(self, rows: Any) -> Self:
        """Those rows, in that order."""
        return type(self)(self.bars.take(rows), self.day[rows])


class Minutes:
    """The minutes of a market's sessions.

    `session` in its bars is a position, as `DAY` has it.
    """

    def __init__(self, sessions: Sequence[date]) -> None:
        self._sessions = sessions

    @cached_property
    def closes(self) -> Ints:
        """The minute of each session at which its regular hours end."""
        zone = ZoneInfo("America/New_York")
        closes = np.full(len(self._sessions), CLOSE, np.int64)
        for at, day in enumerate(self._sessions):
            # A day that was declared closed may have bars from before.
            if market_calendar.is_session(day) and market_calendar.is_early_close(day):
                clock = market_calendar.session_close(day).astimezone(zone)
                closes[at] = clock.hour * 60 + clock.minute
        return closes

    @cached_property
    def _ordinals(self) -> Words:
        return np.array([day.toordinal() for day in self._sessions], np.uint64)

    def most(self, days: Bars, first: int, stop: int) -> Ints:
        """How many minutes of each daily bar there can be from one position up to another."""
        midnight = days.session * DAY
        late = np.minimum(stop, midnight + self.closes[days.session] + LATE)
        width = np.maximum(late - np.maximum(first, midnight + EARLY), 0)
        most: Ints = np.minimum(width, np.maximum(days.trade_count, 1))
        return most

    def of(self, days: Bars, first: int, stop: int) -> MinuteBars:
        """The minutes of daily bars from the position `first` up to `stop`, in the bars' order."""
        profiles = (_rising, _usual, _falling)
        made = [
            _made(self._within(part, days, first, stop), profile)
            for part, profile in zip(self._parts(days), profiles, strict=True)
        ]
        parts = [(day, minute, columns) for day, minute, columns in made if len(day)]
        if not parts:
            return MinuteBars(days.take(slice(0)), np.arange(0))
        day = np.concatenate([part[0] for part in parts])
        session = days.session[day] * DAY + np.concatenate([part[1] for part in parts])
        columns = {name: np.concatenate([part[2][name] for part in parts]) for name in parts[0][2]}
        bars = Bars(symbols=days.symbols, symbol=days.symbol[day], session=session, **columns)
        minutes = MinuteBars(bars, day)
        inside = (session >= first) & (session < stop)
        if len(parts) > 1:
            order = np.lexsort((session, day))
            return minutes.take(order[inside[order]])
        return minutes if inside.all() else minutes.take(np.flatnonzero(inside))

    def _within(self, part: _Part, days: Bars, first: int, stop: int) -> _Part:
        """The rows of a part that have minutes between the two positions."""
        begin = days.session[part.row] * DAY + part.begin
        inside = (begin < stop) & (begin + part.length > first)
        inside &= (part.volume > 0) | (part.trade_count > 0)
        return part if inside.all() else part.take(inside)

    def _parts(self, days: Bars) -> tuple[_Part, _Part, _Part]:
        """What is traded before the opening, in regular hours and after the close."""
        close = self.closes[days.session]
        key = _keys(days, self._ordinals)
        words = draw(key, _SHARES, 0)
        share = 0.01 + 0.03 * unit(words, 0)
        before = share * (0.25 + 0.5 * unit(words, 1))
        volume, count = days.volume, days.trade_count
        reach = (days.high - days.low) * 0.15
        extended = []
        for near, part in ((days.open, before), (days.close, share - before)):
            shares = np.floor(volume * part).astype(np.int64)
            trades = np.minimum(np.floor(count * part * 0.8).astype(np.int64), shares)
            # Regular hours keep a share for each of their trades.
            shares = np.minimum(shares, trades + np.maximum(volume - count, 0) // 2)
            low = np.maximum(days.low, np.minimum(_ticks(near - reach), near))
            high = np.minimum(days.high, np.maximum(_ticks(near + reach), near))
            far = np.clip(_ticks(low + (high - low) * unit(words, 2)), low, high)
            extended.append((np.where(trades > 0, shares, 0), trades, low, high, near, far))
        vwap = days.vwap.astype(np.float64)
        outside = sum((vwap - part[4]) * part[0] for part in extended)
        rest = vwap + outside / np.maximum(volume - extended[0][0] - extended[1][0], 1)
        # A recorded average price at an end of its range leaves no room for other hours, and of
        # one beyond its range no minutes make sense: they are as wrong as the day's.
        room = (rest >= days.low) & (rest <= days.high)
        rest = np.where(room, rest, vwap)
        (shares, trades, low, high, near, far), after = (
            (np.where(room, part[0], 0), np.where(room, part[1], 0), *part[2:]) for part in extended
        )
        row = np.arange(len(days))
        early = _Part(
            row=row, key=key, begin=np.full(len(days), EARLY),
            length=np.full(len(days), OPEN - EARLY), open=far, high=high, low=low, close=near,
            vwap=near.astype(np.float64), volume=shares, trade_count=trades,
        )  # fmt: skip
        regular = _Part(
            row=row, key=key + np.uint64(1), begin=np.full(len(days), OPEN), length=close - OPEN,
            open=days.open, high=days.high, low=days.low, close=days.close, vwap=rest,
            volume=volume - shares - after[0], trade_count=count - trades - after[1],
        )  # fmt: skip
        shares, trades, low, high, near, far = after
        late = _Part(
            row=row, key=key + np.uint64(2), begin=close, length=np.full(len(days), LATE),
            open=near, high=high, low=low, close=far, vwap=near.astype(np.float64),
            volume=shares, trade_count=trades,
        )  # fmt: skip
        return early, regular, late


def _keys(days: Bars, ordinals: Words) -> Words:
    """A number for each daily bar, made of all that it says, and of its day."""
    key = ordinals[days.session]
    for stream, name in enumerate(_SUMMED):
        key = draw(key, stream, 0) + getattr(days, name).astype(np.uint64)
    return draw(key, len(_SUMMED), 0)


_SUMMED = ("open", "high", "low", "close", "vwap", "volume", "trade_count")

Made = tuple[Ints, Ints, dict[str, Ints]]
Profile = Callable[[int], Ints]
Each = Callable[[Any], Any]
"""Gives each bar what its row has; `numpy.repeat` takes a third of the time of looking it up."""


def _made(part: _Part, profile: Profile) -> Made:
    """The bars of a part: the rows of the daily bars, minutes of the day, and columns.

    All sums over several bars are of whole numbers, or of one row's floats in order: so the bars
    of a row don't depend on what else is asked for.
    """
    if not len(part.row):
        return part.row, part.row, {}
    cell, trades, starts, count = _placed(part, profile)
    width = int(part.length.max())
    each = _repeated(count)
    row = each(np.arange(len(part.row)))
    minute = cell - row * width
    ends = np.append(starts[1:], len(row)) - 1
    words = draw(each(part.key), _BAR, minute)
    nth = np.arange(1, len(row) + 1) - each(starts)  # from 1 in each row

    # Shares: one for each trade, the others by chance.
    least = np.where(each(part.volume) > 0, trades, 0)
    weight = trades * ((words >> 16 & 0xFFFF).astype(np.int64) + 8_192)
    spare = part.volume - np.add.reduceat(least, starts)
    volume = _dealt(weight, spare, each, starts, ends) + least
    turnover = np.maximum(part.volume, 1)

    # The walk, as a fraction of the range: from open to close, reflected at its ends.
    low, spread = part.low.astype(np.float64), (part.high - part.low).astype(np.float64)
    scale = np.maximum(np.abs(spread), 1.0)
    begin, end, aim = (part.open - low) / scale, (part.close - low) / scale, part.vwap
    aim = (aim - low) / scale
    pace = 0.7 / (18_918.0 * np.sqrt(count))
    walk = np.cumsum((words & 0xFFFF).astype(np.int64) - 32_768)
    walk -= each(np.append(0, walk[ends[:-1]]))
    slope = (end - begin - walk[ends] * pace) / count
    at = walk * each(pace) + each(slope) * nth + each(begin)
    at = np.abs(at - 2.0 * np.rint(at * 0.5))
    # All but its ends is drawn towards the side on which the average price lies.
    share = volume / each(turnover)
    mean = np.add.reduceat(share * at, starts)
    upwards = aim > mean
    part_way = nth / each(count)
    pull = np.minimum(1.0, 6.0 * np.minimum(part_way, 1.0 - part_way)) * (each(upwards) - at)
    pulled = np.add.reduceat(share * pull, starts)
    at += each(np.clip((aim - mean) / np.where(pulled == 0.0, 1.0, pulled), 0.0, 1.0)) * pull

    # A bar opens on the way from the close before. One trade has one price.
    several = trades > 1
    before = np.empty_like(at)
    before[1:] = at[:-1]
    before[starts] = begin
    pieces = (words >> 32 & 0xFFFFFF).astype(np.int64)
    opening = at + (before - at) * (several * (0.5 + (pieces & 0xFF) / 512.0))
    floor, range_ = each(low), each(spread)
    open_ = _ticks(floor + opening * range_)
    close = _ticks(floor + at * range_)
    if (part.low % 10_000).any() or (part.high % 10_000).any():  # not all are in cents
        open_ = np.clip(open_, each(part.low), each(part.high))
        close = np.clip(close, each(part.low), each(part.high))
    lone = ~several[starts]
    close[starts[lone]] = part.open[lone]
    open_[starts] = part.open
    lone = ~several[ends]
    open_[ends[lone]] = part.close[lone]
    close[ends] = part.close
    single = count == 1
    open_[starts[single]] = part.open[single]

    fine = _tick(part.low)
    most = np.floor(spread * 1.2 / np.sqrt(count) / fine) + 1.5
    reach = each(most / 256.0) * several
    size = each(fine)
    up = (np.floor((pieces >> 8 & 0xFF) * reach)).astype(np.int64) * size
    down = (np.floor((pieces >> 16) * reach)).astype(np.int64) * size
    top, bottom = np.maximum(open_, close), np.minimum(open_, close)
    high, low_ = top + up, bottom - down
    if (below := part.low < DOLLAR).any():  # above a dollar, their ticks are cents, too
        size = _tick(high)
        high = np.where(each(below), np.maximum(high // size * size, top), high)
        size = _tick(low_)
        low_ = np.where(each(below), np.minimum(-(-low_ // size) * size, bottom), low_)
    high = np.minimum(high, each(part.high))
    low_ = np.maximum(low_, each(part.low))
    high[_first(high == each(np.maximum.reduceat(high, starts)), row)] = part.high
    low_[_first(low_ == each(np.minimum.reduceat(low_, starts)), row)] = part.low

    middle = (open_ + high + low_ + close) * 0.25 - floor
    vwap, high, low_ = _averages(part, share, middle, high, low_, each, starts)
    trades[ends] += part.trade_count - np.add.reduceat(trades, starts)
    columns = {
        "open": open_, "high": high, "low": low_, "close": close,
        "vwap": vwap, "volume": volume, "trade_count": trades,
    }  # fmt: skip
    return each(part.row), minute + each(part.begin), columns


def _repeated(count: Ints) -> Each:
    return lambda column: np.repeat(column, count)


def _placed(part: _Part, profile: Profile) -> tuple[Ints, Ints, Ints, Ints]:
    """Where trades fall, by the profile of the day and by chance.

    Returns:
        Of each minute with a trade its cell (row × the longest length + minute), and its trades;
        of each row where its minutes begin, and how many it has. No row has more trades than
        shares here; what is left belongs to its last minute.
    """
    width = int(part.length.max())
    lengths, of = np.unique(part.length, return_inverse=True)
    profiles = np.zeros((len(lengths), width), np.int64)
    for at, length in enumerate(lengths.tolist()):
        profiles[at, :length] = profile(length)
    # Four minutes share a word; seen as 16 bits each, the lowest first on any machine.
    words = draw(part.key[:, None], _PLACES, np.arange(-(-width // 4)))
    noise = words.astype("<u8").view("<u2").astype(np.uint32)[:, :width]
    weight = profiles[of] * ((noise * noise >> 16) + 8_192)
    if profile is _usual:
        _halt(part, weight)
    reached = np.cumsum(weight, axis=1)
    chance = unit(draw(part.key, _SHARES, 0), 3)
    trades = np.maximum(np.minimum(part.trade_count, part.volume), 1).astype(np.float64)
    bound = np.floor(reached / reached[:, -1:] * trades[:, None] + chance[:, None])
    bound[:, 1:] -= bound[:, :-1].copy()
    cell = np.flatnonzero(bound)
    count = np.count_nonzero(bound, axis=1)
    return cell, bound.ravel()[cell].astype(np.int64), np.cumsum(count) - count, count


def _halt(part: _Part, weight: Ints) -> None:
    """Takes 5 to 59 minutes in a row from some securities: nobody could trade."""
    words = draw(part.key, _HALTS, 0)
    for at in np.flatnonzero((words & 0xFFFF) < _HALTED).tolist():
        word = int(words[at]) >> 16
        begin = 5 + word % max(1, int(part.length[at]) - 70)
        weight[at, begin : begin + 5 + (word >> 16) % 55] = 0


def _dealt(weight: Ints, total: Ints, each: Each, starts: Ints, ends: Ints) -> Ints:
    """Deals each row's total, in whole numbers, to its bars by their weight."""
    reached = np.cumsum(weight)
    reached -= each(np.append(0, reached[ends[:-1]]))
    bound = np.floor(reached / each(reached[ends]) * each(total)).astype(np.int64)
    dealt: Ints = bound.copy()
    dealt[1:] -= bound[:-1]
    dealt[starts] = bound[starts]
    return dealt


def _averages(
    part: _Part, share: Floats, middle: Floats, high: Ints, low: Ints, each: Each, starts: Ints
) -> tuple[Ints, Ints, Ints]:
    """Average prices of bars, so that together they have that of their row.

    `middle`, above the row's low, moves towards the bar's high or low, in all bars by the same
    part of the way. Where that is too short the bars reach further out, but not beyond the row's:
    those that have several prices, and if that does not help, all.

    Returns:
        The average prices; the highs and lows.
    """
    floor = part.low.astype(np.float64)
    gap = part.vwap - floor - np.add.reduceat(share * middle, starts)
    upwards = gap > 0.0
    above = each(upwards)
    base = each(floor)
    room = np.where(above, high, low) - base - middle
    whole = np.add.reduceat(share * room, starts)
    short = np.abs(gap) > np.abs(whole)
    if short.any():
        far = each(np.where(upwards, part.high, part.low)) - base - middle
        room = np.where(each(short) & (high > low), far, room)
        whole = np.add.reduceat(share * room, starts)
        room = np.where(each(np.abs(gap) > np.abs(whole)), far, room)
        whole = np.add.reduceat(share * room, starts)
    nowhere = whole == 0.0
    way = gap / np.where(nowhere, 1.0, whole)
    vwap = np.rint(base + middle + each(way) * room).astype(np.int64)
    if short.any():
        lost = each(nowhere & short)
        vwap[lost] = each(np.rint(part.vwap).astype(np.int64))[lost]
        stretched = each(short)
        size = _tick(vwap)
        out = np.minimum(-(-vwap // size) * size, each(part.high))
        high = np.where(stretched, np.maximum(high, out), high)
        out = np.maximum(vwap // size * size, each(part.low))
        low = np.where(stretched, np.minimum(low, out), low)
    return vwap, high, low


def _first(there: npt.NDArray[np.bool_], row: Ints) -> Ints:
    """The first of the marked bars of each row; each has one."""
    marked = np.flatnonzero(there)
    of = row[marked]
    first = np.ones(len(of), bool)
    first[1:] = of[1:] != of[:-1]
    return marked[first]


def _tick(price: Ints | Floats) -> Ints:
    """The tick of a price: a cent from one dollar on, a hundredth of it below."""
    return np.where(price >= DOLLAR, 10_000, 100)


def _ticks(price: Floats) -> Ints:
    """The price on the tick; at least one."""
    cents = np.rint(price / 10_000.0) * 10_000.0
    fine = price < DOLLAR
    if fine.any():
        cents = np.where(fine, np.maximum(np.rint(price / 100.0), 1.0) * 100.0, cents)
    return cents.astype(np.int64)


# How much is traded in each minute of a part of the day, in thousandths of its usual minute.


@cache
def _usual(length: int) -> Ints:
    """Regular hours: most at both ends."""
    side = (np.arange(length) + 0.5) * 2.0 / length - 1.0
    profile = np.floor(650.0 + 1_200.0 * side * side).astype(np.int64)
    profile[0] *= 3
    profile[-1] *= 4
    return profile


@cache
def _rising(length: int) -> Ints:
    side = (np.arange(length) + 0.5) / length
    return np.floor(150.0 + 1_800.0 * side * side).astype(np.int64)


@cache
def _falling(length: int) -> Ints:
    return _rising(length)[::-1]


def longer(minutes: MinuteBars, every: int) -> MinuteBars:
    """Bars of `every` minutes, which begin at multiples of it since New York's midnight.

    So a staff member of Alpaca's tells of bars of four hours. A bar is made of the minutes that
    are given.
    """
    bars, day = minutes.bars, minutes.day
    if every == 1 or not len(bars):
        return minutes
    begin = bars.session - bars.session % DAY % every
    new = np.ones(len(bars), bool)
    new[1:] = (begin[1:] != begin[:-1]) | (day[1:] != day[:-1])
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(bars)) - 1
    volume = np.add.reduceat(bars.volume, starts)
    # A recording may have bars without volume; then all minutes count the same.
    row = np.repeat(np.arange(len(starts)), ends - starts + 1)
    weight = np.where(volume[row] > 0, bars.volume, 1).astype(np.float64)
    base = bars.vwap[starts]
    above = np.add.reduceat((bars.vwap - base[row]) * weight, starts)
    return MinuteBars(
        Bars(
            symbols=bars.symbols,
            symbol=bars.symbol[starts],
            session=begin[starts],
            open=bars.open[starts],
            high=np.maximum.reduceat(bars.high, starts),
            low=np.minimum.reduceat(bars.low, starts),
            close=bars.close[ends],
            vwap=base + np.rint(above / np.add.reduceat(weight, starts)).astype(np.int64),
            volume=volume,
            trade_count=np.add.reduceat(bars.trade_count, starts),
        ),
        day[starts],
    )
