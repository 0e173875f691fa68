"""`datalake demo`: from nothing to sessions in a lake, and a first look at them."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import typer
from rich.table import Table

from datalake_assets import market_calendar
from datalake_assets.cli.arguments import open_lake, partitions
from datalake_assets.cli.runs import materialize, write_report
from datalake_assets.cli.terminal import command, out, plain_errors, show_table, sparkline, tell
from datalake_assets.collection.bars import price_text
from datalake_assets.collection.progress import many
from datalake_assets.lake.lake import Lake
from datalake_assets.settings import Settings
from datalake_assets.storage import layout

DEMO_SESSIONS = 6
"""The newest session, and the five before that its coverage is measured by. They cost no more
requests than one: a request has room for them."""


def demo() -> None:
    """Collect the newest sessions into a lake and have a first look; needs no key."""
    with plain_errors():
        settings = Settings.load()
        newest = date.fromisoformat(partitions(settings)[-1])
        first = [*market_calendar.previous_sessions(newest, DEMO_SESSIONS - 1), newest][0]
        good = materialize(settings, max(first, settings.first_session), newest)
        if good:
            good = write_report(settings)
            _first_look(open_lake(settings), newest)
    raise typer.Exit(0 if good else 1)


def _first_look(lake: Lake, newest: date) -> None:
    """The most traded names of the newest session, and how to read on."""
    import pyarrow.compute as pc

    days = [day for day in lake.sessions() if day <= newest][-DEMO_SESSIONS:]
    tables = {day: lake.read(day).bars for day in days}
    bars = tables[newest]
    # Without an average nothing was traded, or the source does not tell what for.
    turnover = pc.multiply(pc.fill_null(bars["vwap"], 0.0), pc.cast(bars["volume"], "float64"))
    top = bars.append_column("turnover", turnover).sort_by([("turnover", "descending")])
    closes = {
        day: dict(zip(table["symbol"].to_pylist(), table["close"].to_pylist(), strict=True))
        for day, table in tables.items()
    }
    if not bars.num_rows:
        tell(out, f"no symbol asked for has a bar on {newest}")
        return
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
    sessions = lake.store.url(layout.SESSIONS)
    python = Path(command()).with_name("python")
    out.print(
        f"{many(bars.num_rows, 'bar')} of {newest} lie in {sessions}. Next:\n"
        f'  {python} -c "from datalake_assets import Lake; '
        f"print(Lake.open('{lake.store.uri}').bars('{top['symbol'][0].as_py()}').to_pandas())\"\n"
        f"  {command()} show {top['symbol'][0].as_py()}: its bars, drawn\n"
        f"  {command()} status: what the lake holds; the same as a page:\n"
        f"    {lake.store.url(layout.REPORT)}\n"
        "  make dev: the same in Dagster's UI",
        highlight=False,
        soft_wrap=True,
    )
