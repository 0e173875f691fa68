"""`datalake demo`: collect a few sessions into a new lake and show them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pyarrow.compute as pc
import typer
from rich.table import Table

from datalake_assets import market_calendar
from datalake_assets.actions.log import ActionLog
from datalake_assets.cli.arguments import load_settings, open_lake, partitions, show_lake
from datalake_assets.cli.chart import draw
from datalake_assets.cli.marks import marks, words
from datalake_assets.cli.runs import materialize, sweep_actions, write_report
from datalake_assets.cli.terminal import command, out, plain_errors, show_table, sparkline, tell
from datalake_assets.collection.bars import price_text
from datalake_assets.collection.dataset import DAILY
from datalake_assets.collection.progress import many
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.lake import Lake
from datalake_assets.securities.derivation import read_derived
from datalake_assets.securities.factors import SPLITS
from datalake_assets.storage import layout

DEMO_SESSIONS = 6
"""The newest session and the five before it, which its coverage is measured against. They take no
more requests than one session, as they fit into the same pages."""

MOST_SESSIONS = 12
"""The most sessions, if it takes more than `DEMO_SESSIONS` to include a split: in a market of 6,000
names, one period of two weeks in fifty has none."""


def demo() -> None:
    """Collect the newest sessions into a lake and show them. Needs no API key."""
    with plain_errors():
        settings = load_settings()
        show_lake(open_lake(settings))
        newest = date.fromisoformat(partitions(settings)[-1])
        days = [*market_calendar.previous_sessions(newest, MOST_SESSIONS - 1), newest]
        days = [day for day in days if day >= settings.first_session]
        # First, as renamed companies are requested by their earlier tickers, too.
        good = sweep_actions(settings, since=days[0])
        if good:
            good = materialize(settings, DAILY, with_a_split(open_lake(settings), days), newest)
        if good:
            good = write_report(settings)
            lake = open_lake(settings)
            if (symbol := _first_look(lake, newest)) is not None:
                _a_split(lake, newest)
                _how_to_go_on(lake, newest, symbol)
    raise typer.Exit(0 if good else 1)


def with_a_split(lake: LakeFiles, days: Sequence[date]) -> date:
    """The first session to collect, so that a split is included with a session before it."""
    few = days[-DEMO_SESSIONS:]
    actions = ActionLog(lake.store).current()
    told = zip(actions["kind"].to_pylist(), actions["effective_date"].to_pylist(), strict=True)
    splits = [day for kind, day in told if kind in SPLITS and days[0] < day <= days[-1]]
    newest = max(splits, default=few[-1])
    return few[0] if newest > few[0] else max(day for day in days if day < newest)


def _a_split(lake: LakeFiles, newest: date) -> None:
    """Show the most traded security that split in the newest sessions, as traded and adjusted."""
    days = lake.sessions()[-MOST_SESSIONS:]
    factors = read_derived(lake.store, layout.FACTORS_TABLE).to_pylist()
    split = {
        row["symbol"]
        for row in factors
        if row["adjustment"] == "split" and row["applied"] and row["session"] in days
    }
    reader = Lake(lake.store)
    bars = {symbol: reader.bars(symbol, days[0], newest) for symbol in split}
    traded = {
        symbol: pc.sum(pc.multiply(table["close"], pc.cast(table["volume"], "float64"))).as_py()
        for symbol, table in bars.items()
        if table.num_rows
    }
    if not traded:
        tell(out, "No security split in these sessions.")
        return
    symbol = max(sorted(traded), key=traded.__getitem__)
    adjusted = reader.bars(symbol, days[0], newest, "all").to_pylist()
    marked = marks(reader, adjusted)
    table = Table("session", "as traded", "adjusted", "event", title=f"{symbol} and its split")
    for column in table.columns[1:3]:
        column.justify = "right"
    for raw, bar in zip(bars[symbol].to_pylist(), adjusted, strict=True):
        event = words(marked.get(bar["session"], ()))
        closes = (price_text(raw["close"]), price_text(bar["close"]))
        table.add_row(str(bar["session"]), *closes, event)
    show_table(table)
    for line in draw(adjusted, min(out.width, 60), (), marked, ascii_only=out.options.ascii_only):
        out.print(line, soft_wrap=True)


def _first_look(lake: LakeFiles, newest: date) -> str | None:
    """Show the most traded names of the newest session; return the first of them, if any traded."""
    days = [day for day in lake.sessions() if day <= newest][-DEMO_SESSIONS:]
    tables = {day: lake.read(day).bars for day in days}
    bars = tables[newest]
    # Without vwap nothing was traded, or the source does not report it.
    turnover = pc.multiply(pc.fill_null(bars["vwap"], 0.0), pc.cast(bars["volume"], "float64"))
    top = bars.append_column("turnover", turnover).sort_by([("turnover", "descending")])
    closes = {
        day: dict(zip(table["symbol"].to_pylist(), table["close"].to_pylist(), strict=True))
        for day, table in tables.items()
    }
    if not bars.num_rows:
        tell(out, f"no requested symbol has a bar on {newest}")
        return None
    table = Table(
        "symbol",
        "close",
        "change",
        "volume",
        "turnover",
        f"last {len(days)} closes",
        title=f"Most traded on {newest}",
    )
    for column in table.columns[1:5]:
        column.justify = "right"
    for row in top.slice(0, 10).to_pylist():
        history = [closes[day].get(row["symbol"]) for day in days]
        before = history[-2] if len(history) > 1 else None
        change = f"{row['close'] / before - 1:+.2%}" if before else ""
        table.add_row(
            row["symbol"],
            price_text(row["close"]),
            f"[{'red' if change.startswith('-') else 'green'}]{change}[/]" if change else "",
            f"{row['volume']:,}",
            f"${row['turnover'] / 1e6:,.0f} M",
            sparkline([close for close in history if close is not None]),
        )
    show_table(table, spare=2)
    return str(top["symbol"][0].as_py())


def _how_to_go_on(lake: LakeFiles, newest: date, symbol: str) -> None:
    bars = lake.read(newest).bars
    sessions = lake.store.url(layout.SESSIONS)
    python = Path(command()).with_name("python")
    out.print(
        f"{many(bars.num_rows, 'bar')} of {newest} are in {sessions}. Next:\n"
        f'  {python} -c "from datalake_assets import Lake; '
        f"print(Lake.open('{lake.store.uri}').bars('{symbol}').to_pandas())\"\n"
        f"  {command()} show {symbol}: its bars as a table and a chart\n"
        f"  {command()} status: the state of the lake; the same as a page:\n"
        f"    {lake.store.url(layout.REPORT)}\n"
        f"  {command()} dev: the same in Dagster's UI",
        highlight=False,
        soft_wrap=True,
    )
