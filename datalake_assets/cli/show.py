"""`datalake show`: one symbol's bars, as a table and a chart, or raw for a pipe.

The chart is drawn here, of characters: of the libraries that draw one, those that know candles
show only as many sessions as the terminal has columns, without their dates.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from datalake_assets import market_calendar
from datalake_assets.cli.arguments import open_lake
from datalake_assets.cli.marks import LEGEND, Marks, letter, marks, words
from datalake_assets.cli.terminal import err, out, plain_errors, tell
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.reader import NotInLakeError, as_day
from datalake_assets.lake.security_reader import SecuritiesWarning
from datalake_assets.securities.adjusting import RAW, kinds
from datalake_assets.settings import Settings

SESSIONS = 252
"""Shown when no first day is given: about a year."""

_NEWEST = 20
"""Rows of the table when no range is given; the chart shows all."""

_PRICE_ROWS, _VOLUME_ROWS = 14, 4

Bar = dict[str, Any]


def show(
    symbol: Annotated[str, typer.Argument(help="Like AAPL or BRK.B.")],
    first: Annotated[
        str | None,
        typer.Option("--from", metavar="YYYY-MM-DD", help=f"First day; {SESSIONS} sessions back."),
    ] = None,
    last: Annotated[
        str | None,
        typer.Option("--to", metavar="YYYY-MM-DD", help="Last day; the newest session if none."),
    ] = None,
    adjustment: Annotated[
        str,
        typer.Option(help="raw, all, or some of split,spin-off,dividend, separated by commas."),
    ] = RAW,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all bars as CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all bars as JSON.")] = False,
    chart: Annotated[
        bool | None, typer.Option("--chart/--no-chart", help="Default: on a terminal only.")
    ] = None,
) -> None:
    """Show a symbol's bars: a table and a chart, or raw for a pipe."""
    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both")
    with plain_errors():
        try:
            lake = open_lake(Settings.load())
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always", SecuritiesWarning)
                bars, told = _bars(lake, symbol, first, last, adjustment)
            marked = {} if as_csv or as_json else marks(lake, bars)
        except (NotInLakeError, ValueError) as error:
            tell(err, f"error: {error}")
            raise typer.Exit(2) from error
    for warning in warned:
        tell(err, f"warning: {warning.message}")
    # Beyond `plain_errors`: a pipe that is closed early (`| head`) is no error of ours.
    if as_csv or as_json:
        typer.echo(_csv(bars) if as_csv else _json(bars), nl=as_json)
        if not bars:
            tell(err, told)
        return
    tell(out, told)
    if bars:
        _print_table(bars if first or last else bars[-_NEWEST:], bars, marked)
        if out.is_terminal if chart is None else chart:
            for line in draw(bars, out.width, marked, ascii_only=out.options.ascii_only):
                out.print(line, soft_wrap=True)


def _bars(
    lake: Lake, symbol: str, first: str | None, last: str | None, adjustment: str
) -> tuple[list[Bar], str]:
    """The bars asked for, ascending, and what they are in a line."""
    end = None if last is None else as_day(last)
    held = [day for day in lake.sessions() if end is None or day <= end]
    start = first if first is not None or not held else held[-SESSIONS:][0]
    bars: list[Bar] = lake.bars(symbol, start, end, adjustment).to_pylist()
    name = symbol.strip().upper()
    if not bars:
        within = [day for day in held if start is None or day >= as_day(start)]
        why = lake.explain(name, within[-1] if within else _meant(start, end))
        return [], f"{name} has no bar from {start or 'the first session'} to {end or 'now'}: {why}"
    change = bars[-1]["close"] / bars[0]["close"] - 1
    adjusted = "adjusted for " + ", ".join(kinds(adjustment)) if kinds(adjustment) else "unadjusted"
    return bars, (
        f"{name}  {bars[0]['session']} to {bars[-1]['session']}, {len(bars):,} sessions: "
        f"{bars[0]['close']:,.2f} to {bars[-1]['close']:,.2f} ({change:+.2%}), "
        f"US dollars, {adjusted}"
    )


def _meant(start: date | str | None, end: date | None) -> date:
    """The day to explain of a range of which the lake holds nothing: its last session, if any."""
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


def _print_table(shown: Sequence[Bar], bars: Sequence[Bar], marked: Marks) -> None:
    """Print the bars `shown`, which are the last of all `bars`, in as many columns as fit."""
    unbounded = Console(width=1000)
    if not out.is_terminal:
        unbounded.print(_table(shown, bars, marked))  # a pipe has no width
        return
    table = _table(shown, bars, marked)
    least = 7 + any(column.header == "event" for column in table.columns)
    while len(table.columns) > least and unbounded.measure(table).maximum > out.width:
        table.columns.pop()  # the number of trades, then vwap
    out.print(table)


def _table(shown: Sequence[Bar], bars: Sequence[Bar], marked: Marks) -> Table:
    events = any(bar["session"] in marked for bar in shown)
    names = ["session", "open", "high", "low", "close", "change", "volume", "vwap", "trades"]
    names[7:7] = ["event"] * events
    table = Table(*names, box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column.header in ("session", "event") else "right"
    before = bars[-len(shown) - 1] if len(shown) < len(bars) else None
    for bar in shown:
        change = bar["close"] / before["close"] - 1 if before else 0.0
        table.add_row(
            str(bar["session"]),
            *(_price(bar[name]) for name in ("open", "high", "low", "close")),
            Text(f"{change:+.2%}" if before else "", style="red" if change < 0 else "green"),
            f"{bar['volume']:,.0f}",
            *([words(marked.get(bar["session"], ()))] if events else ()),
            _price(bar["vwap"]),
            f"{bar['trade_count']:,}",
        )
        before = bar
    return table


def _price(value: float) -> str:
    """In cents, as US prices are; below a dollar they go by hundredths of a cent."""
    return f"{value:,.2f}" if value >= 1 else f"{value:,.4f}"


# --- the chart ---


@dataclass(frozen=True, slots=True)
class Candle:
    """What one column of the chart shows: one session, or several in a row."""

    session: date
    open: float
    high: float
    low: float
    close: float
    volume: float
    letter: str = " "

    @property
    def style(self) -> str:
        """Green when it closed no lower than it opened, as elsewhere."""
        return "green" if self.close >= self.open else "red"


def candles(bars: Sequence[Bar], columns: int, marked: Marks | None = None) -> list[Candle]:
    """All bars in at most so many candles, each of equally many sessions but for the first."""
    marked = marked or {}
    each = _each(bars, columns)
    # Counted from the newest, whose candle must be a whole one.
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


def _each(bars: Sequence[Bar], columns: int) -> int:
    return -(-len(bars) // columns)


_EMPTY, _WICK, _BODY = range(3)
# The upper and the lower half of a character.
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
    bars: Sequence[Bar], width: int, marked: Marks | None = None, *, ascii_only: bool = False
) -> Iterator[Text]:
    """The bars as candles over their volume and marks, line by line.

    Args:
        bars: Ascending, at least one.
        width: Columns of the terminal.
        marked: What happened in some of the sessions.
        ascii_only: Whether it shows no other characters.
    """
    top: float = max(bar["high"] for bar in bars)
    bottom: float = min(bar["low"] for bar in bars)
    margin = max(len(_price(top)), len(_price(bottom)), len("100.0 M")) + 2
    columns = max(8, width - margin)
    shown = candles(bars, columns, marked)
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
            upper, lower = part(candle, 2 * row + 1), part(candle, 2 * row)
            mark = " |#"[max(upper, lower)] if ascii_only else _HALVES[upper, lower]
            line.append(mark + gap, candle.style)
        labelled = row % 4 == (_PRICE_ROWS - 1) % 4
        yield line.append(f"  {_price(bottom + (2 * row + 1) * step)}" if labelled else "", "dim")
    most = max(candle.volume for candle in shown) or 1
    for row in reversed(range(_VOLUME_ROWS)):
        line = Text()
        for candle in shown:
            filled = min(8, max(0, round(8 * (_VOLUME_ROWS * candle.volume / most - row))))
            mark = " #"[filled >= 4] if ascii_only else _EIGHTHS[filled]
            line.append(mark + gap, candle.style)
        yield line.append(f"  {_short(most)}" if row == _VOLUME_ROWS - 1 else "", "dim")
    if letters := {candle.letter for candle in shown} - {" "}:
        yield Text(gap.join(candle.letter for candle in shown).rstrip(), "bold")
        told = (f"{sign} {what}" for sign, what in LEGEND.items() if sign in letters)
        yield Text("  ".join(told), "dim")
    yield Text(_dates(shown, len(gap) + 1), "dim")
    if len(shown) < len(bars):
        yield Text(f"each column: {_each(bars, columns)} sessions", "dim")


def _dates(shown: Sequence[Candle], stride: int) -> str:
    """The first session of some candles, below them."""
    text = ""
    for column, candle in enumerate(shown):
        at, day = column * stride, str(candle.session)
        if not text or len(text) + 4 <= at <= len(shown) * stride - len(day):
            text = text.ljust(at) + day
    return text


def _short(count: float) -> str:
    """A number of shares in few characters."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:.0f}"
