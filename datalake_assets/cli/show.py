"""`datalake show`: one symbol's bars, as a table and a chart, or raw for a pipe.

The chart is drawn here, with characters. The libraries that draw candles in a terminal show only as
many sessions as it has columns, and no dates.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby, pairwise
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from datalake_assets import market_calendar
from datalake_assets.cli.arguments import open_lake, show_lake
from datalake_assets.cli.marks import LEGEND, Marks, letter, marks, words
from datalake_assets.cli.terminal import command, err, out, plain_errors, tell, working
from datalake_assets.collection.bars import price_text
from datalake_assets.collection.progress import many
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.reader import MissingSessionsWarning, NotInLakeError, as_day
from datalake_assets.lake.security_reader import SecuritiesWarning
from datalake_assets.securities.adjusting import RAW, kinds
from datalake_assets.settings import Settings

SESSIONS = 252
"""How many sessions are shown when no first day is given: about a year."""

_NEWEST = 20
"""How many rows the table has when no range is given; the chart shows all sessions."""

_GAPS = 5

_PRICE_ROWS, _VOLUME_ROWS = 14, 4

Bar = dict[str, Any]
Day = date | str | None


def show(
    symbols: Annotated[
        list[str],
        typer.Argument(metavar="SYMBOL...", help="One or more symbols, such as AAPL BRK.B."),
    ],
    first: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="YYYY-MM-DD", help=f"First day. Default: {SESSIONS} sessions back."
        ),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option("--to", metavar="YYYY-MM-DD", help="Last day. Default: the newest session."),
    ] = None,
    adjustment: Annotated[
        str,
        typer.Option(help="raw, all, or a comma-separated list of split, spin-off and dividend."),
    ] = RAW,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all bars as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all bars as JSON.")] = False,
    chart: Annotated[
        bool | None,
        typer.Option(
            "--chart/--no-chart", help="Draw a chart. Default: for one symbol, in a terminal."
        ),
    ] = None,
) -> None:
    """Show the bars of one or more symbols: a table and a chart, or CSV or JSON for a pipe."""
    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both")
    with plain_errors():
        try:
            held = open_lake(Settings.load())
            if not (as_csv or as_json):
                show_lake(held)
            lake = Lake(held.store)
            with warnings.catch_warnings(record=True) as warned, working("reading the lake"):
                warnings.simplefilter("always", SecuritiesWarning)
                named = [each for given in symbols for each in given.split(",") if each]
                found = [_bars(lake, symbol, first, last, adjustment) for symbol in named]
            marked = [{} if as_csv or as_json else marks(lake, bars) for bars, _, _ in found]
        except (NotInLakeError, ValueError) as error:
            tell(err, f"error: {error}")
            raise typer.Exit(2) from error
    for warning in warned:
        tell(err, f"warning: {warning.message}")
    # Outside `plain_errors`: a pipe that is closed early (`| head`) is not an error.
    if as_csv or as_json:
        rows = [bar for bars, _, _ in found for bar in bars]
        typer.echo(_csv(rows) if as_csv else _json(rows), nl=as_json)
        for bars, told, gaps in found:
            for line in gaps if bars else [told]:
                tell(err, str(line))
        return
    if chart is None:
        chart = out.is_terminal and len(found) == 1
    for number, ((bars, told, gaps), its_marks) in enumerate(zip(found, marked, strict=True)):
        if number:
            tell(out, "")
        tell(out, told)
        if bars:
            shown = bars if first or last else bars[-_NEWEST:]
            _show_bars(shown, bars, gaps, its_marks, chart=chart)


def _show_bars(
    shown: Sequence[Bar], bars: Sequence[Bar], gaps: Sequence[Gap], marked: Marks, *, chart: bool
) -> None:
    _print_table(shown, bars, gaps, marked)
    if chart:
        for line in draw(bars, out.width, gaps, marked, ascii_only=out.options.ascii_only):
            out.print(line, soft_wrap=True)
    for gap in gaps[-_GAPS:]:
        tell(out, str(gap))
    if len(gaps) > _GAPS:
        tell(out, f"… and {many(len(gaps) - _GAPS, 'earlier gap')}: {command()} status")


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
        if self.count == 1:
            span, days = f"--session {self.first}", f"{self.first}: 1 session"
        else:
            span = f"--from {self.first} --to {self.last}"
            days = f"{self.first} to {self.last}: {self.count:,} sessions"
        repair = "" if self.reasons == ("not published",) else " --repair"
        return f"{days} missing ({why})  →  {command()} collect {span}{repair}"


def _gaps(lake: Lake, symbol: str, bars: Sequence[Bar], start: Day, end: Day) -> list[Gap]:
    """The gaps between the bars, and before and after them in the range."""
    # Each ticker is checked from its first bar to the first bar of the next ticker.
    tickers = [
        (name, next(run)["session"]) for name, run in groupby(bars, key=lambda b: b["symbol"])
    ]
    parts = []
    for number, (name, first) in enumerate(tickers or [(symbol, start)]):
        until = tickers[number + 1][1] - timedelta(days=1) if number + 1 < len(tickers) else end
        parts.append(lake.missing(name, first if number else start, until))
    missing = pa.concat_tables(parts)
    days = {bar["session"] for bar in bars}
    among = sorted(days.union(missing["session"].to_pylist()))
    found: list[Gap] = []
    why = dict(zip(*(missing[c].to_pylist() for c in ("session", "reason")), strict=True))
    for there, run in groupby(among, key=days.__contains__):
        gap = list(run)
        if not there:
            reasons = tuple(dict.fromkeys(why[day] for day in gap))
            found.append(Gap(gap[0], gap[-1], len(gap), reasons))
    return found


def _bars(
    lake: Lake, symbol: str, first: str | None, last: str | None, adjustment: str
) -> tuple[list[Bar], str, list[Gap]]:
    """The bars, ascending, a summary line, and the gaps."""
    end = None if last is None else as_day(last)
    held = [day for day in lake.sessions() if end is None or day <= end]
    start = first if first is not None or not held else held[-SESSIONS:][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingSessionsWarning)  # the gaps are listed and drawn
        bars: list[Bar] = lake.bars(symbol, start, end, adjustment).to_pylist()
    name = symbol.strip().upper()
    if not bars:
        within = [day for day in held if start is None or day >= as_day(start)]
        why = lake.explain(name, within[-1] if within else _meant(start, end))
        told = f"{name} has no bar from {start or 'the first session'} to {end or 'now'}: {why}"
        return [], told, []
    gaps = _gaps(lake, name, bars, start, end)
    opened, closed = bars[0]["session"], bars[-1]["session"]
    lost = sum(gap.count for gap in gaps if opened < gap.first < closed)
    change = _change(bars[0], bars[-1])
    told = (
        f"{lost:,} between them {'is' if lost == 1 else 'are'} missing"
        if lost
        else "no change"
        if change is None
        else f"{change:+.2%}"
    )
    adjusted = "adjusted for " + ", ".join(kinds(adjustment)) if kinds(adjustment) else "unadjusted"
    sessions = many(len(bars), "session")
    first_close, last_close = (price_text(bar["close"]) for bar in (bars[0], bars[-1]))
    line = (
        f"{name}  {opened} to {closed}, {sessions}: {first_close} to {last_close} "
        f"({told}), US dollars, {adjusted}"
    )
    return bars, line, gaps


def _change(before: Bar, bar: Bar) -> float | None:
    """The change of the close, as a share; None if the earlier close is zero."""
    return bar["close"] / before["close"] - 1 if before["close"] else None


def _meant(start: date | str | None, end: date | None) -> date:
    """The day to explain for an empty range: its last session, if any."""
    if start is None or end is None:
        return as_day(start or end or date.max)
    return (market_calendar.sessions(as_day(start), end) or [end])[-1]


# --- raw ---


def _csv(bars: Sequence[Bar]) -> str:
    from datalake_assets.collection.bars import SCHEMA

    text = io.StringIO()
    rows = csv.DictWriter(text, list(bars[0]) if bars else SCHEMA.names, lineterminator="\n")
    rows.writeheader()
    rows.writerows({**bar, "timestamp": bar["timestamp"].isoformat()} for bar in bars)
    return text.getvalue()


def _json(bars: Sequence[Bar]) -> str:
    return json.dumps(bars, default=lambda value: value.isoformat())


# --- the table ---


def _print_table(
    shown: Sequence[Bar], bars: Sequence[Bar], gaps: Sequence[Gap], marked: Marks
) -> None:
    """Print `shown`, the last of all `bars`, in as many columns as fit."""
    unbounded = Console(width=1000)
    if not out.is_terminal:
        unbounded.print(_table(shown, bars, gaps, marked))  # a pipe has no width
        return
    table = _table(shown, bars, gaps, marked)
    least = 7 + any(column.header == "event" for column in table.columns)
    while len(table.columns) > least and unbounded.measure(table).maximum > out.width:
        table.columns.pop()  # the number of trades, then vwap
    out.print(table)


def _table(shown: Sequence[Bar], bars: Sequence[Bar], gaps: Sequence[Gap], marked: Marks) -> Table:
    events = any(bar["session"] in marked for bar in shown)
    names = ["session", "open", "high", "low", "close", "change", "volume", "vwap", "trades"]
    names[7:7] = ["event"] * events
    table = Table(*names, box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column.header in ("session", "event") else "right"
    before = bars[-len(shown) - 1] if len(shown) < len(bars) else None
    # A gap before all bars is listed below the table, not above its first row.
    ahead = deque(gap for gap in gaps if before is None or gap.first > before["session"])
    for bar in shown:
        while ahead and ahead[0].first < bar["session"]:
            table.add_row(f"… {ahead.popleft().count:,} missing", style="dim")
            before = None
        change = _change(before, bar) if before else None
        table.add_row(
            str(bar["session"]),
            *(price_text(bar[name]) for name in ("open", "high", "low", "close")),
            Text("", "green")
            if change is None
            else Text(f"{change:+.2%}", "red" if change < 0 else "green"),
            f"{bar['volume']:,.0f}",
            *([words(marked.get(bar["session"], ()))] if events else ()),
            _or_none(bar["vwap"], price_text),
            _or_none(bar["trade_count"], "{:,}".format),
        )
        before = bar
    for gap in ahead:
        table.add_row(f"… {gap.count:,} missing", style="dim")
    return table


def _or_none(value: float | None, text: Callable[[Any], str]) -> str:
    return "–" if value is None else text(value)


# --- the chart ---


@dataclass(frozen=True, slots=True)
class Candle:
    """One column of the chart: one session, or several consecutive ones."""

    session: date
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
) -> Iterator[Text]:
    """The chart, line by line: candles, volume and marks.

    Args:
        bars: At least one, ascending.
        width: The terminal's width in columns.
        gaps: The gaps between them, each drawn as a dotted column if there is room for all.
        marked: Events by session.
        ascii_only: Whether to use ASCII characters only.
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
    told = [f"each column: {each} sessions"] if each > 1 else []
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
