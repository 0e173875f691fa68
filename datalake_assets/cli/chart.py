"""The chart of `datalake show`: candles and volume, drawn with characters.

The libraries that draw candles in a terminal show only as many sessions as it has columns, and no
dates.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

from rich.text import Text

from datalake_assets import market_calendar
from datalake_assets.cli.marks import LEGEND, Marks, letter
from datalake_assets.cli.terminal import command
from datalake_assets.collection.bars import price_text
from datalake_assets.collection.progress import many

_PRICE_ROWS, _VOLUME_ROWS = 14, 4

Bar = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Gap:
    """Consecutive sessions for which it is unknown whether the symbol traded.

    Args:
        first, last: The first and the last session.
        count: The number of sessions.
        reasons: The distinct reasons, from `lake.reader.MISSING`.
    """

    first: date
    last: date
    count: int
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        """The gap and its command: --repair for gaps of this symbol alone."""
        why = ", ".join(self.reasons)
        days = f"{self.first}" if self.count == 1 else f"{self.first} to {self.last}"
        which = market_calendar.options(self.first, self.last)
        repair = "" if self.reasons == ("not published",) else " --repair"
        missing = f"{days}: {many(self.count, 'session')} missing ({why})"
        return f"{missing}  →  {command()} collect {which}{repair}"


@dataclass(frozen=True, slots=True)
class Candle:
    """One column of the chart: one bar, or several consecutive ones.

    `session` is what the axis calls it: the first bar's session, or its time.
    """

    session: date | str
    open: float
    high: float
    low: float
    close: float
    volume: float
    letter: str = " "

    @property
    def style(self) -> str:
        """Green if it closed no lower than it opened, as is usual."""
        return "green" if self.close >= self.open else "red"


def segments(bars: Sequence[Bar], gaps: Sequence[Gap]) -> list[Sequence[Bar]]:
    """The bars, split wherever sessions are missing between them."""
    days = [bar["session"] for bar in bars]
    cuts = sorted({bisect_left(days, gap.first) for gap in gaps} - {0, len(bars)})
    return [bars[first:stop] for first, stop in pairwise([0, *cuts, len(bars)])]


def _together(parts: Sequence[Sequence[Bar]], columns: int) -> int:
    """How many sessions a candle covers, so that all candles and one column per gap fit.

    0 if they don't fit even with one candle per part.
    """
    if 2 * len(parts) - 1 > columns:
        return 0
    each = 1
    while sum(-(-len(part) // each) for part in parts) + len(parts) - 1 > columns:
        each += 1
    return each


def candles(bars: Sequence[Bar], each: int, marked: Marks | None = None) -> list[Candle]:
    """The bars in candles of `each` sessions; the first candle may have fewer."""
    marked = marked or {}
    # Counted from the newest, so that the last candle is complete.
    ends = range(len(bars), 0, -each)
    groups = [bars[max(0, end - each) : end] for end in reversed(ends)]
    return [
        Candle(
            group[0]["session"],
            group[0]["open"],
            max(bar["high"] for bar in group),
            min(bar["low"] for bar in group),
            group[-1]["close"],
            sum(bar["volume"] for bar in group),
            letter([mark for bar in group for mark in marked.get(bar["session"], ())]),
        )
        for group in groups
    ]


_EMPTY, _WICK, _BODY = range(3)
# The upper and the lower half of a character cell.
_HALVES = {
    (_EMPTY, _EMPTY): " ",
    (_WICK, _WICK): "│",
    (_BODY, _BODY): "┃",
    (_WICK, _EMPTY): "╵",
    (_EMPTY, _WICK): "╷",
    (_BODY, _EMPTY): "╹",
    (_EMPTY, _BODY): "╻",
    (_WICK, _BODY): "╽",
    (_BODY, _WICK): "╿",
}
_EIGHTHS = " ▁▂▃▄▅▆▇█"


def draw(
    bars: Sequence[Bar],
    width: int,
    gaps: Sequence[Gap] = (),
    marked: Marks | None = None,
    *,
    ascii_only: bool = False,
    unit: str = "sessions",
) -> Iterator[Text]:
    """The chart, line by line: candles, volume and marks.

    Args:
        bars: At least one, ascending.
        width: The terminal's width in columns.
        gaps: The gaps between them, each drawn as a dotted column if there is room for all.
        marked: Events by session.
        ascii_only: Whether to use ASCII characters only.
        unit: What the bars are: sessions or minutes.
    """
    top: float = max(bar["high"] for bar in bars)
    bottom: float = min(bar["low"] for bar in bars)
    margin = max(len(price_text(top)), len(price_text(bottom)), len("100.0 M")) + 2
    columns = max(8, width - margin)
    parts = segments(bars, gaps)
    each = _together(parts, columns)
    if not each:
        parts, each = [bars], -(-len(bars) // columns)
    shown: list[Candle | None] = []
    for part_of in parts:
        found = candles(part_of, each, marked)
        shown += [None, *found] if shown else found
    gap = " " * (min(4, columns // len(shown)) - 1)
    step = (top - bottom) / (2 * _PRICE_ROWS - 1) or 1.0

    def half(price: float) -> int:
        return round((price - bottom) / step)

    def part(candle: Candle, at: int) -> int:
        low, high = sorted((half(candle.open), half(candle.close)))
        if low <= at <= high:
            return _BODY
        return _WICK if half(candle.low) <= at <= half(candle.high) else _EMPTY

    for row in reversed(range(_PRICE_ROWS)):
        line = Text()
        for candle in shown:
            if candle is None:
                line.append((":" if ascii_only else "┊") + gap, "dim")
                continue
            upper, lower = part(candle, 2 * row + 1), part(candle, 2 * row)
            mark = " |#"[max(upper, lower)] if ascii_only else _HALVES[upper, lower]
            line.append(mark + gap, candle.style)
        labelled = row % 4 == (_PRICE_ROWS - 1) % 4
        yield line.append(
            f"  {price_text(bottom + (2 * row + 1) * step)}" if labelled else "", "dim"
        )
    most = max(candle.volume for candle in shown if candle) or 1
    for row in reversed(range(_VOLUME_ROWS)):
        line = Text()
        for candle in shown:
            if candle is None:
                line.append((":" if ascii_only else "┊") + gap, "dim")
                continue
            filled = min(8, max(0, round(8 * (_VOLUME_ROWS * candle.volume / most - row))))
            mark = " #"[filled >= 4] if ascii_only else _EIGHTHS[filled]
            line.append(mark + gap, candle.style)
        yield line.append(f"  {_short(most)}" if row == _VOLUME_ROWS - 1 else "", "dim")
    signs = [candle.letter if candle else " " for candle in shown]
    if any(sign != " " for sign in signs):
        yield Text(gap.join(signs).rstrip(), "bold")
        meant = (f"{sign} {what}" for sign, what in LEGEND.items() if sign in signs)
        yield Text("  ".join(meant), "dim")
    yield Text(_dates(shown, len(gap) + 1), "dim")
    told = [f"each column: {each} {unit}"] if each > 1 else []
    if len(parts) > 1:
        told.append(f"{':' if ascii_only else '┊'} missing sessions")
    elif segments(bars, gaps)[1:]:
        told.append("too many gaps to mark the missing sessions")
    if told:
        yield Text("; ".join(told), "dim")


def _dates(shown: Sequence[Candle | None], stride: int) -> str:
    """The axis: the first session of some candles."""
    text = ""
    for column, candle in enumerate(shown):
        if candle is None:
            continue
        at, day = column * stride, str(candle.session)
        if not text or len(text) + 4 <= at <= len(shown) * stride - len(day):
            text = text.ljust(at) + day
    return text


def _short(count: float) -> str:
    """A compact number of shares."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f}"
