"""`datalake collect` and `datalake backfill`: sessions into the lake."""

from __future__ import annotations

from typing import Annotated

import typer

from datalake_assets.cli.arguments import From, To, one_session, partitions, span
from datalake_assets.cli.runs import materialize
from datalake_assets.cli.terminal import plain_errors
from datalake_assets.settings import Settings


def collect(
    session: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="The session to collect.")
    ] = None,
    first: Annotated[
        str | None,
        typer.Option("--from", metavar="YYYY-MM-DD", help="First day of a range of sessions."),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar="YYYY-MM-DD", help="Last day of the range.")
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Ask only for what is failed or pending, and merge; for all of what did not pass.",
        ),
    ] = False,
) -> None:
    """Collect one session, or every session of a range, into the lake."""
    with plain_errors():
        settings = Settings.load()
        if (session is None) == (first is None and last is None):
            raise typer.BadParameter("give either --session, or --from and --to")
        if session is not None:
            start = end = one_session(partitions(settings), session)
        elif first is not None and last is not None:
            start, end = span(partitions(settings), first, last)
        else:
            raise typer.BadParameter("a range needs both --from and --to")
        good = materialize(settings, start, end, repair=repair)
    raise typer.Exit(0 if good else 1)


def backfill(
    first: From = None,
    last: To = None,
) -> None:
    """Collect every session of a range that is not published yet.

    Stopped or killed at any moment, the same command goes on with those that are not.
    """
    with plain_errors():
        settings = Settings.load()
        keys = partitions(settings)
        start, end = span(keys, first or keys[0], last or keys[-1])
        good = materialize(settings, start, end, missing_only=True)
    raise typer.Exit(0 if good else 1)
