"""`corporate_actions`: the source's splits, dividends, renames and delistings, with their history.

Belongs here: the asset, its check, and the metadata of its runs. Does not belong here: the window
to fetch (`actions.sweep`), the log (`actions.log`), and finding errors (`actions.oddities`).
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from datalake_assets import liveness
from datalake_assets.actions.action import COLUMN_DESCRIPTIONS, KINDS, SCHEMA
from datalake_assets.actions.log import CHANGED, INSERTED, VANISHED, ActionLog, Sweep
from datalake_assets.actions.oddities import Oddity, counted, oddities
from datalake_assets.actions.sweep import MAX_LOSS, due, sweep, today
from datalake_assets.assets.lake_asset import column_schema, lake_asset
from datalake_assets.assets.stock_universe import KEY as STOCK_UNIVERSE
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.retry import Caller
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.reader import Reader
from datalake_assets.names import OURS, Names
from datalake_assets.resources import CollectorResource, LakeResource, SourceResource
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError

KEY = dg.AssetKey("corporate_actions")
CHECK = "actions_are_sound"
GROUP = "securities"

_SHOWN = 50


class SweepConfig(dg.Config):
    """What one run fetches."""

    whole_history: bool = Field(
        default=False,
        description="Fetch the whole history, as the first run of each month does. Off: actions "
        "processed from five weeks before the last run to a year ahead.",
    )
    since: str = Field(
        default="",
        description="Fetch actions processed from this day on (YYYY-MM-DD), and leave earlier ones "
        "to another run.",
    )
    max_loss: float = Field(
        default=MAX_LOSS,
        ge=0,
        le=1,
        description="Accept the answer only if at most this share of the known actions is missing.",
    )


def build_corporate_actions(names: Names = OURS) -> dg.AssetsDefinition:
    """The asset.

    Args:
        names: What the lake's definitions are called.
    """
    asset = lake_asset(
        KEY,
        names,
        GROUP,
        deps=[names.key(STOCK_UNIVERSE)],
        description=_DESCRIPTION,
        metadata={"dagster/column_schema": column_schema(SCHEMA, COLUMN_DESCRIPTIONS)},
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=names.key(KEY),
                description="No action is listed twice, on two days, with an impossible or missing "
                "rate, for an unknown ticker, or on a day without a session; and every row of the "
                "answer could be read. The check only reports: no action is removed or changed.",
            )
        ],
    )
    return asset(_corporate_actions)


_DESCRIPTION = (
    "Splits, dividends, renames, mergers and delistings from the source, by effective "
    "date: `data/actions/actions.parquet`. A log keeps every change of them, so that you can see "
    "what was known on a day: `datalake actions SYMBOL --known-at DAY`. Each evening fetches a "
    "window of process dates, each month the whole history."
)


def _corporate_actions(
    context: dg.AssetExecutionContext,
    config: SweepConfig,
    collector: CollectorResource,
    source: SourceResource,
    lake: LakeResource,
    clock: dg.ResourceParam[Clock],
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Fetch what is due, log what changed, and check the result."""
    liveness.mark(context)
    target = lake.open(source.identity)
    log = ActionLog(target.store)
    since = date.fromisoformat(config.since) if config.since else None
    window = due(today(clock), log.sweeps(), whole=config.whole_history, since=since)
    context.log.info("fetching the actions processed from %s to %s", window.first, window.last)
    with source.open(collector) as alpaca, collector.options(source.account) as options:
        deadline = clock.seconds() + options.seconds if options.seconds else math.inf
        caller = Caller(options.limiter, options.retry, deadline=deadline, clock=clock)
        swept, events = sweep(alpaca, log, caller, window, max_loss=config.max_loss, clock=clock)
    standing = log.current()
    odd = oddities(standing, _known(context, target, standing))
    yield dg.MaterializeResult(
        metadata=sweep_metadata(swept, events, standing, odd)
        | {"dagster/uri": target.store.url(layout.STANDING_ACTIONS)}
    )
    yield judge(swept, odd)


def _known(
    context: dg.AssetExecutionContext, lake: LakeFiles, standing: pa.Table
) -> frozenset[str]:
    """The tickers of the newest list of assets and, if that is incomplete, those with bars."""
    try:
        universe = lake.universe()
        listed = frozenset(universe[1]["symbol"].to_pylist() if universe else ())
        if listed.issuperset(standing["symbol"].to_pylist()):
            return listed
        known = listed.union(Reader(lake.store).symbols())
        # Without a list and bars no ticker is known, so unknown tickers mean nothing.
        return known or frozenset(standing["symbol"].to_pylist())
    except BrokenFileError as error:
        # The actions are still right; `datalake doctor` checks the bars.
        context.log.warning("tickers are not checked: %s", error)
        return frozenset(standing["symbol"].to_pylist())


def sweep_metadata(
    swept: Sweep, events: pa.Table, standing: pa.Table, odd: Sequence[Oddity]
) -> dict[str, Any]:
    """The metadata of a sweep, for the UI and its plots."""
    kinds = Counter(standing["kind"].to_pylist())
    seen = Counter(events["event"].to_pylist())
    metadata: dict[str, Any] = {
        "dagster/row_count": standing.num_rows,
        "window": f"{swept.first} to {swept.last}",
        "requests": swept.requests,
        "answered": swept.actions,
        INSERTED: seen[INSERTED],
        CHANGED: seen[CHANGED],
        VANISHED: seen[VANISHED],
        "skipped": swept.skipped,
        "unknown_lists": len(swept.unknown),
        "oddities": len(odd),
        **{kind.replace(" ", "_"): number for kind, number in counted(odd).items()},
        **{kind: kinds[kind] for kind in KINDS},
    }
    # In a new history everything is inserted, which means nothing.
    changes = events.filter(pc.not_equal(events["event"], INSERTED)).slice(0, _SHOWN)
    if changes.num_rows:
        metadata["changes"] = dg.MetadataValue.table(
            [
                dg.TableRecord({name: str(row[name]) for name in ("event", *_TOLD)})
                for row in changes.to_pylist()
            ]
        )
    return metadata


_TOLD = ("symbol", "kind", "effective_date", "id", "body")


def judge(swept: Sweep, odd: Sequence[Oddity]) -> dg.AssetCheckResult:
    """The check: it names what can't be right, the newest first."""
    counts = counted(odd)
    told = [f"{number:,} × {kind}" for kind, number in counts.items() if number]
    if swept.skipped:
        told.append(f"{swept.skipped:,} × unreadable row")
    told += [f"{rows:,} × row in the unknown list {name}" for name, rows in swept.unknown.items()]
    metadata: dict[str, Any] = {kind.replace(" ", "_"): number for kind, number in counts.items()}
    if odd:
        metadata["offenders"] = dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "symbol": one.symbol,
                        "effective_date": str(one.effective_date),
                        "what": one.text,
                        "ids": ", ".join(one.ids),
                    }
                )
                for one in odd[:_SHOWN]
            ]
        )
    if swept.examples:
        metadata["skipped_rows"] = dg.MetadataValue.json(list(swept.examples))
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not told,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(told) or "no errors found",
        metadata={"skipped": swept.skipped, **metadata},
    )
