"""Asset checks that look at the lake by themselves.

Belongs here: checks that read what is already in the lake. Does not belong here: the audit of a
session, which decides whether it gets there (`collection.audit`, shown by `assets.daily_ticks`).

https://docs.dagster.io/guides/test/asset-checks
"""

from typing import Any

import dagster as dg

from datalake_assets.assets.stock_universe import stock_universe
from datalake_assets.collection.universe import active, lost
from datalake_assets.lake.lake import Lake
from datalake_assets.resources import CollectorResource, LakeResource
from datalake_assets.storage.store import open_store


@dg.asset_check(
    asset=stock_universe,
    blocking=True,
    description="The list has active symbols, and not many fewer than the snapshot before: a list "
    "cut short would make incomplete sessions look complete.",
)
def universe_is_whole(collector: CollectorResource, lake: LakeResource) -> dg.AssetCheckResult:
    """Hold the newest snapshot against the one before; failing it keeps the session from it."""
    held = Lake(open_store(lake.uri))
    *before, now = [active(held.universe_of(day)) for day in held.universe_days()[-2:]] or [0]
    return judge(now, before[0] if before else None, collector.max_universe_loss)


def judge(now: int, before: int | None, most: float) -> dg.AssetCheckResult:
    """Judge the number of active symbols against the one of the snapshot before, if any."""
    share = lost(now, before)
    metadata: dict[str, Any] = {"active": now, "lost": share, "threshold": most}
    if before is not None:
        metadata["active_before"] = before
    return dg.AssetCheckResult(
        passed=share <= most,
        metadata=metadata,
        description=f"{now:,} active symbols"
        + ("" if before is None else f", {before:,} in the snapshot before"),
    )
