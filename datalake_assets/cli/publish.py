"""`datalake publish`: publish sessions per symbol and year and in one file a year."""

from __future__ import annotations

from typing import Annotated

import typer

from datalake_assets.cli.arguments import load_settings, open_lake, show_lake
from datalake_assets.cli.runs import publish_years
from datalake_assets.cli.terminal import plain_errors
from datalake_assets.lake.reader import NotInLakeError


def publish(
    year: Annotated[
        int | None, typer.Option(metavar="YYYY", help="One year. Default: every year of the lake.")
    ] = None,
) -> None:
    """Publish symbol-years and year files from the sessions, and verify that all are equal.

    Only changed files are written. `collect` and `backfill` do this automatically; run it after
    damage or an interruption.
    """
    with plain_errors():
        settings = load_settings()
        lake = open_lake(settings)
        show_lake(lake)
        years = sorted({day.year for day in lake.sessions()})
        if not years:
            raise NotInLakeError(
                f"no session is published in {lake.store.uri}: correct DATALAKE_URI, or collect "
                "sessions with datalake demo or datalake backfill"
            )
        if year is not None and year not in years:
            raise typer.BadParameter(
                f"the lake has no session of {year}: it has {years[0]} to {years[-1]}"
            )
        good = publish_years(settings, years if year is None else [year])
    raise typer.Exit(0 if good else 1)
