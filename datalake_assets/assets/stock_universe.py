"""`stock_universe`: a daily snapshot of every US equity on the source's list.

Belongs here: taking the snapshot and its metadata. Does not belong here: which of its symbols a
session requests (`collection.universe`).
"""

from collections import Counter
from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets import liveness
from datalake_assets.assets.lake_asset import column_schema, lake_asset
from datalake_assets.collection.progress import Display
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.collection.universe import COLUMN_DESCRIPTIONS, SCHEMA, askable, odd
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.writer import LakeWriter, Written
from datalake_assets.names import OURS, Names
from datalake_assets.pipeline.listing import take_snapshot
from datalake_assets.resources import CollectorResource, LakeResource, SourceResource
from datalake_assets.sources.alpaca import AlpacaSource

GROUP = "ticks"
KEY = dg.AssetKey("stock_universe")


def build_stock_universe(names: Names = OURS) -> dg.AssetsDefinition:
    """The asset.

    Args:
        names: What the lake's definitions are called.
    """
    asset = lake_asset(
        KEY,
        names,
        GROUP,
        description=_DESCRIPTION,
        metadata={"dagster/column_schema": column_schema(SCHEMA, COLUMN_DESCRIPTIONS)},
    )
    return asset(_stock_universe)


_DESCRIPTION = (
    "Every US equity on the source's list, active and inactive. One snapshot a day, in "
    "`data/universe/{day}.parquet`, from which `daily_ticks` takes the symbols to request."
)


def _stock_universe(
    context: dg.AssetExecutionContext,
    collector: CollectorResource,
    source: SourceResource,
    lake: LakeResource,
    display: dg.ResourceParam[Display],
) -> dg.MaterializeResult[None]:
    """Take today's snapshot."""
    liveness.mark(context)
    display.begin("fetching the list of assets")
    context.log.info("fetching the list of assets …")
    target = lake.open(source.identity)
    with source.open(collector) as alpaca:
        taken, snapshot, written = take_universe(alpaca, target, collector, source)
    return dg.MaterializeResult(metadata=snapshot_metadata(taken, snapshot, written, target))


def take_universe(
    alpaca: AlpacaSource, lake: LakeWriter, collector: CollectorResource, source: SourceResource
) -> tuple[date, pa.Table, Written]:
    """Take today's snapshot with the collector's options.

    Raises:
        PermanentError, TruncatedError: As `take_snapshot`.
        RefusedError: The source does not accept the keys.
    """
    with collector.trading_limiter(source.account) as limiter:
        policy = RetryPolicy(attempts=collector.attempts, seconds=collector.retry_seconds)
        return take_snapshot(alpaca, lake, limiter, policy, max_loss=collector.max_universe_loss)


def snapshot_metadata(
    taken: date, snapshot: pa.Table, written: Written, lake: LakeFiles
) -> dict[str, Any]:
    """The metadata of a snapshot."""
    status = Counter(snapshot["status"].to_pylist())
    names = pc.unique(snapshot["symbol"]).to_pylist()
    return {
        "dagster/row_count": snapshot.num_rows,
        "dagster/uri": lake.store.url(written.key),
        "day": taken.isoformat(),
        "active": status["active"],
        "inactive": status["inactive"],
        "symbols": len(names),
        "no_tickers": sum(not askable(name) for name in names),
        "untaken": len(odd(snapshot)),
        "file_size_bytes": written.size,
    }
