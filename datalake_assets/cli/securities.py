"""`datalake securities`: whose bar a row is, and what it is worth, derived anew."""

from __future__ import annotations

import typer

from datalake_assets.cli.arguments import open_lake, show_lake
from datalake_assets.cli.runs import derive_securities
from datalake_assets.cli.terminal import plain_errors
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.settings import Settings


def securities() -> None:
    """Derive securities and adjustment factors anew from sessions, actions and your decisions.

    Asks for the corporate actions first if they were never asked for as far back as the sessions
    go. `collect` and `backfill` do the same in a lake that has actions; so does a sensor.
    """
    with plain_errors():
        settings = Settings.load()
        lake = open_lake(settings)
        show_lake(lake)
        if not lake.sessions():
            raise NotInLakeError(
                f"no session is published in {lake.store.uri}: correct DATALAKE_URI, or collect "
                "some: datalake demo, datalake backfill"
            )
        good = derive_securities(settings)
    raise typer.Exit(0 if good else 1)
