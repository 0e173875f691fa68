"""`datalake show`: one symbol's bars, as a table and a chart (`chart`), or raw for a pipe.

Bars are daily, or the minutes of one session.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from itertools import groupby
from typing import Annotated, Any

import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from datalake_assets import market_calendar
from datalake_assets.cli.arguments import open_lake, show_lake
from datalake_assets.cli.chart import Bar, Gap, draw
from datalake_assets.cli.marks import Marks, marks, words
from datalake_assets.cli.terminal import command, err, out, plain_errors, tell, working
from datalake_assets.collection.bars import price_text
from datalake_assets.collection.progress import many, verb
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.minutes import REGULAR, MissingHoursWarning
from datalake_assets.lake.reader import MissingSessionsWarning, NotInLakeError, as_day
from datalake_assets.lake.resampling import SESSION
from datalake_assets.lake.security_reader import SecuritiesWarning
from datalake_assets.securities.adjusting import RAW, kinds
from datalake_assets.settings import Settings

SESSIONS = 252
"""How many sessions are shown when no first day is given: about a year."""

_NEWEST = 20
"""How many rows the table has when no range is given; the chart shows all sessions."""

_GAPS = 5

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
    minutes: Annotated[
        bool, typer.Option("--minutes", help="Show the minutes of one session.")
    ] = False,
    session: Annotated[
        str | None,
        typer.Option(
            metavar="YYYY-MM-DD", help="With --minutes: the session. Default: the newest one."
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTH", help="With --minutes: bars of this length, such as 5min or 1h."
        ),
    ] = None,
    hours: Annotated[
        str,
        typer.Option(help="With --minutes: regular, or extended for those before and after too."),
    ] = REGULAR,
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
    if minutes and (first or last):
        raise typer.BadParameter("--minutes shows one session: give --session, not --from or --to")
    if not minutes and (session or every or hours != REGULAR):
        raise typer.BadParameter("--session, --every and --hours are for --minutes: add it")
    with plain_errors():
        try:
            held = open_lake(Settings.load())
            if not (as_csv or as_json):
                show_lake(held)
            lake = Lake(held.store)
            with warnings.catch_warnings(record=True) as warned, working("reading the lake"):
                warnings.simplefilter("always", SecuritiesWarning)
                warnings.simplefilter("always", MissingHoursWarning)
                named = [each for given in symbols for each in given.split(",") if each]
                if minutes:
                    day = _session_of(lake, session)
                    found = [_minutes(lake, n, day, every, hours, adjustment) for n in named]
                else:
                    found = [_bars(lake, symbol, first, last, adjustment) for symbol in named]
            raw = as_csv or as_json or minutes
            marked = [{} if raw else marks(lake, bars) for bars, _, _ in found]
        except (NotInLakeError, ValueError) as error:
            tell(err, f"error: {error}")
            raise typer.Exit(2) from error
    for text in dict.fromkeys(str(warning.message) for warning in warned):
        tell(err, f"warning: {text}")
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
        if bars and minutes:
            _show_minutes(bars, every, chart=chart)
        elif bars:
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
        f"{lost:,} between them {verb(lost)} missing"
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


def _session_of(lake: Lake, session: str | None) -> date:
    """The session whose minutes are meant: by default the newest that has some."""
    if session is not None:
        return as_day(session)
    # Of a lake that has none, the read says so, whatever the day.
    return max(lake.minute_sessions(), default=market_calendar.FIRST)


def _minutes(
    lake: Lake, symbol: str, day: date, every: str | None, hours: str, adjustment: str
) -> tuple[list[Bar], str, list[Gap]]:
    """The minutes of a session, ascending, and a summary line; no gaps."""
    name = symbol.strip().upper()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MissingSessionsWarning)  # told below
        bars: list[Bar] = lake.minutes(
            symbol, day, day, adjustment, hours=hours, every=every
        ).to_pylist()
    if not bars:
        return [], f"{name} has no minutes on {day}: {lake.explain_minutes(name, day)}", []
    change = _change(bars[0] | {"close": bars[0]["open"]}, bars[-1])
    told = "no change" if change is None else f"{change:+.2%}"
    adjusted = "adjusted for " + ", ".join(kinds(adjustment)) if kinds(adjustment) else "unadjusted"
    count = many(len(bars), "bar" if every else "minute")
    # A bar of a session has no time of its own, but the stamp of a daily bar.
    what = (
        f"the {hours} hours"
        if every == SESSION
        else f"{count} from {_clock(bars[0])} to {_clock(bars[-1])} in New York"
    )
    line = (
        f"{name}  {day}, {what}: "
        f"{price_text(bars[0]['open'])} to {price_text(bars[-1]['close'])} "
        f"({told}), US dollars, {adjusted}"
    )
    return bars, line, []


def _clock(bar: Bar) -> str:
    """When a bar starts, in New York."""
    at: str = market_calendar.new_york(bar["timestamp"]).strftime("%H:%M")
    return at


def _show_minutes(bars: Sequence[Bar], every: str | None, *, chart: bool) -> None:
    whole = every == SESSION
    shown = [bar | {"session": str(bar["session"]) if whole else _clock(bar)} for bar in bars]
    _print_table(shown[-_NEWEST:], shown, (), {}, header="session" if whole else "time")
    if len(shown) > _NEWEST:
        tell(out, f"the last {_NEWEST} of {len(shown):,}; for all of them: --csv, or --every 30min")
    if chart:
        for line in draw(shown, out.width, ascii_only=out.options.ascii_only, unit="bars"):
            out.print(line, soft_wrap=True)


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
    shown: Sequence[Bar],
    bars: Sequence[Bar],
    gaps: Sequence[Gap],
    marked: Marks,
    header: str = "session",
) -> None:
    """Print `shown`, the last of all `bars`, in as many columns as fit."""
    unbounded = Console(width=1000)
    if not out.is_terminal:
        unbounded.print(_table(shown, bars, gaps, marked, header))  # a pipe has no width
        return
    table = _table(shown, bars, gaps, marked, header)
    least = 7 + any(column.header == "event" for column in table.columns)
    while len(table.columns) > least and unbounded.measure(table).maximum > out.width:
        table.columns.pop()  # the number of trades, then vwap
    out.print(table)


def _table(
    shown: Sequence[Bar], bars: Sequence[Bar], gaps: Sequence[Gap], marked: Marks, header: str
) -> Table:
    events = any(bar["session"] in marked for bar in shown)
    names = [header, "open", "high", "low", "close", "change", "volume", "vwap", "trades"]
    names[7:7] = ["event"] * events
    table = Table(*names, box=None, pad_edge=False)
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column.header in (header, "event") else "right"
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
