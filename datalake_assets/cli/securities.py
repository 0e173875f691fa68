"""`datalake securities`: derive securities and adjustment factors."""

from __future__ import annotations

import typer

from datalake_assets.cli.arguments import load_settings, open_lake, show_lake
from datalake_assets.cli.runs import derive_securities
from datalake_assets.cli.terminal import plain_errors
from datalake_assets.lake.reader import NotInLakeError


def securities() -> None:
    """Derive securities and adjustment factors from sessions, actions and your decisions.

    Fetches the corporate actions first if they don't reach back as far as the sessions. In a lake
    that has actions, `collect`, `backfill` and a sensor do the same.
    """
    with plain_errors():
        settings = load_settings()
        lake = open_lake(settings)
        show_lake(lake)
        if not lake.sessions():
            raise NotInLakeError(
                f"no session is published in {lake.store.uri}: correct DATALAKE_URI, or collect "
                "sessions with datalake demo or datalake backfill"
            )
        good = derive_securities(settings)
    raise typer.Exit(0 if good else 1)
