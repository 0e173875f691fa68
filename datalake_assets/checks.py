"""Asset checks that look at the lake by themselves.

Belongs here: checks that read what is already in the lake. Does not belong here: the audit of a
session, which decides whether it gets there (`collection.audit`, shown by `assets.daily_ticks`).

https://docs.dagster.io/guides/test/asset-checks
"""

from typing import Any

import dagster as dg
import pyarrow.compute as pc

from datalake_assets.assets.stock_universe import stock_universe
from datalake_assets.resources import LakeResource, SourceResource

MAX_SHRINKAGE = 0.1
"""Share of the active symbols that may vanish from one snapshot to the next. A list that was cut
short would make every session after it look complete."""


@dg.asset_check(
    asset=stock_universe,
    blocking=True,
    description="The list has active symbols, and not many fewer than the snapshot before: a list "
    "cut short would make incomplete sessions look complete.",
)
def universe_is_whole(source: SourceResource, lake: LakeResource) -> dg.AssetCheckResult:
    """Hold the newest snapshot against the one before; failing it keeps the session from it."""
    held = lake.open(source.identity)
    days = held.universe_days()
    active = [
        pc.sum(pc.equal(held.universe_of(day)["status"], "active")).as_py() or 0
        for day in days[-2:]
    ]
    before, now = (active[0] if len(active) > 1 else None), active[-1]
    return shrinkage(now, before)


def shrinkage(now: int, before: int | None) -> dg.AssetCheckResult:
    """Judge the number of active symbols against the one of the snapshot before, if any."""
    lost = 0.0 if not before else max(0.0, 1 - now / before)
    metadata: dict[str, Any] = {
        "active": now,
        "lost": lost,
        "threshold": MAX_SHRINKAGE,
    }
    if before is not None:
        metadata["active_before"] = before
    return dg.AssetCheckResult(
        passed=now > 0 and lost <= MAX_SHRINKAGE,
        metadata=metadata,
        description=f"{now:,} active symbols"
        + ("" if before is None else f", {before:,} in the snapshot before"),
    )
