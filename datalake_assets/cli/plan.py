"""`datalake plan`: the requests, time and cost of collecting a range."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from typing import Annotated

import typer
from rich.table import Table

from datalake_assets import market_calendar
from datalake_assets.cli.arguments import (
    From,
    Json,
    Minutes,
    Symbols,
    To,
    claimed_lake,
    dataset_of,
    load_settings,
    open_lake,
    partitions,
    show_lake,
    span,
)
from datalake_assets.cli.terminal import (
    TerminalDisplay,
    err,
    out,
    plain_errors,
    show_table,
    tell,
    working,
)
from datalake_assets.collection.cost import PRICES_OF, Cost, cost, cost_of_minutes
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.collection.progress import many
from datalake_assets.collection.universe import symbols_for
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.session_file import Summary
from datalake_assets.settings import Settings
from datalake_assets.storage import layout


def plan(
    first: From = None,
    last: To = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only sessions not published yet: a backfill.")
    ] = False,
    minutes: Minutes = False,
    symbols: Symbols = None,
    as_json: Json = False,
) -> None:
    """Estimate the requests, time and cost of collecting a range, without collecting.

    If the lake has no universe, or no survey for a long range, they are requested first.
    """
    with plain_errors():
        settings = load_settings(symbols)
        dataset = dataset_of(settings, minutes=minutes)
        keys = partitions(settings)
        start, end = span(keys, first or keys[0], last or keys[-1])
        if not as_json:
            show_lake(open_lake(settings))
        days = market_calendar.sessions(start, end)
        told = _cost(settings, dataset, days, missing=missing)
        if as_json:
            out.print_json(json.dumps(asdict(told)))
        else:
            _show_cost(told, settings, dataset)


def _cost(settings: Settings, dataset: Dataset, days: Sequence[date], *, missing: bool) -> Cost:
    """The plan of a run over these days, as the run would make it, and its cost."""
    from datalake_assets.assets.stock_universe import take_universe
    from datalake_assets.definitions import build_collector, build_source
    from datalake_assets.pipeline.density import by_daily_bars, estimated
    from datalake_assets.pipeline.listing import take_survey
    from datalake_assets.pipeline.publication import Publication

    with working("starting Dagster"):
        lake = claimed_lake(settings).of(dataset)
    # As in a run, fields that name an environment variable get its value.
    collector = build_collector(settings).process_config_and_initialize()
    source = build_source(settings).process_config_and_initialize()
    published = lake.sessions()
    if missing:
        days = sorted(frozenset(days).difference(s.session for s in lake.finished(days)))
    with (
        TerminalDisplay(err) as display,
        source.open(collector) as alpaca,
        collector.options(source.account) as options,
    ):
        if not (listed := lake.universe_days()):
            display.begin("fetching the list of assets, as the lake has none")
            listed = [take_universe(alpaca, lake, collector, source)[0]]
        chosen = collector.chosen_for(dataset)
        wanted = dict.fromkeys(days, chosen) if chosen else symbols_for(days, lake.snapshots())
        known = expected = None
        if dataset is DAILY:
            since = settings.first_session.year
            known = take_survey(alpaca, lake, options, wanted, since, listed[-1], display)
        else:
            expected = by_daily_bars(lake.of(DAILY), dataset)
        display.begin("planning the requests")
        planned = Publication(wanted, lake, options, survey=known, expected=expected).plan
    if dataset is not DAILY:
        estimated_by_daily = estimated(lake.of(DAILY), planned.sessions)
        return cost_of_minutes(planned, settings.requests_per_minute, estimated_by_daily)
    # A survey already leaves out symbols that did not trade: don't count that twice.
    density = 1.0 if known else _density(lake, published)
    return cost(planned, settings.requests_per_minute, density, known.years if known else None)


def _density(lake: LakeFiles, published: Sequence[date]) -> float | None:
    """The share of symbols with a bar in a few sessions of the lake; None if it has none."""
    few = published[:: max(1, len(published) // 20)]
    found = lake.summaries(map(layout.session_key, few))
    summaries = [summary for summary in found if isinstance(summary, Summary)]
    asked = sum(sum(summary.counts.values()) for summary in summaries)
    return sum(summary.rows for summary in summaries) / asked if asked else None


def _show_cost(told: Cost, settings: Settings, dataset: Dataset) -> None:
    at_most = "up to " if told.sessions_unknown else ""
    # Of minute bars a session is all that is written, however many there are.
    files_at_most = at_most if dataset is DAILY else ""
    table = Table(show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    for name, text in (
        ("sessions", f"{told.sessions:,}"),
        ("symbols", f"{told.symbols:,}"),
        ("requests", f"{told.requests:,}"),
        (
            f"minutes, at {settings.requests_per_minute:,} requests per minute",
            f"{told.minutes:,.1f}",
        ),
        ("expected bars", f"{at_most}{told.bars:,}"),
        ("maximum bars", f"{told.bars_at_most:,}"),
        (
            "size of both layouts" if dataset is DAILY else "size of the sessions",
            f"{at_most}{told.bytes / 1e6:,.1f} MB",
        ),
        ("objects", f"{files_at_most}{told.objects:,}"),
        *(
            [("symbol-years among them", f"{at_most}{told.symbol_years:,}")]
            if dataset is DAILY
            else []
        ),
        ("PUTs on S3", f"{files_at_most}${told.put_dollars:,.4f}"),
        ("storage on S3, per month", f"{at_most}${told.storage_dollars_a_month:,.4f}"),
    ):
        table.add_row(name, text)
    show_table(table)
    if told.sessions_unknown:
        tell(out, _unknown(told, dataset))
    out.print(f"S3 prices as of {PRICES_OF}, us-east-1.", highlight=False)


def _unknown(told: Cost, dataset: Dataset) -> str:
    """Why numbers are a maximum."""
    if dataset is DAILY:
        return (
            "The lake holds no session to estimate by: each symbol counts with a bar in each one."
        )
    sessions = f"{told.sessions_unknown:,} of {many(told.sessions, 'session')}"
    return (
        f"The lake holds no daily bars to estimate {sessions} by: "
        "there each symbol counts with a bar in each minute."
    )
