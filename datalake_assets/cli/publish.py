"""`datalake publish`: sessions into symbol-years, without collecting anything."""

from __future__ import annotations

from typing import Annotated

import typer

from datalake_assets.cli.arguments import open_lake
from datalake_assets.cli.runs import publish_years
from datalake_assets.cli.terminal import plain_errors
from datalake_assets.settings import Settings


def publish(
    year: Annotated[
        int | None, typer.Option(metavar="YYYY", help="One year; every year of the lake if none.")
    ] = None,
) -> None:
    """Publish years per symbol from their sessions, write what changed, and prove both equal.

    `collect` and `backfill` do so by themselves; this mends what was damaged or cut off.
    """
    with plain_errors():
        settings = Settings.load()
        years = sorted({day.year for day in open_lake(settings).sessions()})
        if year is not None and year not in years:
            has = f"it has {years[0]} to {years[-1]}" if years else "it has none"
            raise typer.BadParameter(f"the lake has no session of {year}: {has}")
        good = publish_years(settings, years if year is None else [year])
    raise typer.Exit(0 if good else 1)
