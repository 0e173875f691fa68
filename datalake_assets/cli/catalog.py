"""`datalake catalog`: write the views of the lake into a file for DuckDB."""

from __future__ import annotations

from rich.table import Table

from datalake_assets.catalog import MADE_BY, write
from datalake_assets.cli.arguments import existing_lake, show_lake
from datalake_assets.cli.terminal import command, out, plain_errors, tell, working
from datalake_assets.settings import Settings
from datalake_assets.storage import layout

_ASKED_FOR = ("bars", "ledger", "bars_all", "securities", "factors", "actions", "universe")
"""Views that a user misses when a lake has not got them."""


def catalog() -> None:
    """Write catalog.duckdb into the lake: views of its bars and tables for DuckDB.

    Once it is there, each publication of a year and of factors writes it again.
    """
    with plain_errors():
        lake = existing_lake(Settings.load())
        show_lake(lake)
        with working("writing the catalog"):
            views = write(lake.store)
    table = Table(box=None, show_header=False, pad_edge=False)
    for view in views:
        table.add_row(view.name, view.meaning)
    names = {view.name for view in views}
    for ledger in sorted(names & {"ledger", "minute_ledger"}):
        only = "The same of some sessions, without opening all"
        table.add_row(f"{ledger}_of('2026-11-*')", only)
    out.print(table, soft_wrap=not out.is_terminal)
    lacking = [name for name in _ASKED_FOR if name not in names]
    if lacking:
        needed = " and ".join(dict.fromkeys(f"{command()} {MADE_BY[name]}" for name in lacking))
        tell(out, f"not there yet: {', '.join(lacking)}. Run {needed}, then this again")
    where = lake.store.url(layout.CATALOG)
    if lake.store.near:
        folder = where.removesuffix(f"/{layout.CATALOG}")
        tell(out, f"open it: cd {folder} && duckdb -readonly {layout.CATALOG}")
    else:
        tell(out, f"open it: ATTACH '{where}' AS lake (READ_ONLY)")
    bars = "bars" if "bars" in names else "minutes"
    tell(out, f'or ask here: {command()} sql "SELECT max(session) FROM {bars}"')
