"""`datalake collect` and `datalake backfill`: sessions into the lake."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated

import typer

from datalake_assets import market_calendar
from datalake_assets.cli.arguments import (
    From,
    Minutes,
    SessionLoss,
    Symbols,
    To,
    dataset_of,
    load_settings,
    one_session,
    open_lake,
    partitions,
    span,
    with_thresholds,
)
from datalake_assets.cli.runs import materialize
from datalake_assets.cli.terminal import plain_errors
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.lake.coverage import MAX_LOSS, loss
from datalake_assets.settings import Settings


@with_thresholds
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
            help="Request only symbols that failed, are pending or were never requested; all "
            "symbols of a session that did not pass.",
        ),
    ] = False,
    minutes: Minutes = False,
    symbols: Symbols = None,
    max_session_loss: SessionLoss = None,
    *,
    limits: Mapping[str, float],
) -> None:
    """Collect one session, or every session of a range, into the lake."""
    with plain_errors():
        settings = load_settings(symbols)
        dataset = dataset_of(settings, minutes=minutes)
        if (session is None) == (first is None and last is None):
            raise typer.BadParameter("give either --session, or --from and --to")
        if session is not None:
            start = end = one_session(partitions(settings), session)
        elif first is not None and last is not None:
            start, end = span(partitions(settings), first, last)
        else:
            raise typer.BadParameter("a range needs both --from and --to")
        if not repair:
            _refuse_to_lose_symbols(settings, dataset, start, end, max_session_loss)
        loss_allowed = {} if max_session_loss is None else {"max_session_loss": max_session_loss}
        options = {"repair": repair, **limits, **loss_allowed}
        good = materialize(settings, dataset, start, end, symbols=symbols, **options)
    raise typer.Exit(0 if good else 1)


@with_thresholds
def backfill(
    first: From = None,
    last: To = None,
    minutes: Minutes = False,
    symbols: Symbols = None,
    *,
    limits: Mapping[str, float],
) -> None:
    """Collect the sessions of a range that are not published yet.

    It can be stopped or killed at any moment; the same command goes on with
    the rest. Sessions that were under way are requested again; after Ctrl-C,
    `datalake collect --repair` requests only what they lack.
    """
    with plain_errors():
        settings = load_settings(symbols)
        dataset = dataset_of(settings, minutes=minutes)
        keys = partitions(settings)
        start, end = span(keys, first or keys[0], last or keys[-1])
        options = {"missing_only": True, **limits}
        good = materialize(settings, dataset, start, end, symbols=symbols, **options)
    raise typer.Exit(0 if good else 1)


def _refuse_to_lose_symbols(
    settings: Settings, dataset: Dataset, start: date, end: date, allowed: float | None
) -> None:
    """Refuse to replace a session by one of a few chosen symbols, before Dagster starts a run."""
    if chosen := settings.read_symbols(minutes=dataset is not DAILY):
        share = MAX_LOSS if allowed is None else allowed
        days = market_calendar.sessions(start, end)
        if found := loss(open_lake(settings).of(dataset), days, chosen, share):
            raise typer.BadParameter(
                f"{found}. Add --repair to request the symbols that it lacks and keep the others. "
                "To keep a few symbols only, set DATALAKE_URI to another location. To drop the "
                "others all the same, add --max-session-loss 1"
            )
