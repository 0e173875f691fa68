"""Asset checks that read the lake.

Belongs here: checks that read what is already in the lake. Does not belong here: the audit of a
session, which decides whether it gets there (`collection.audit`, shown by `assets.session_ticks`).

https://docs.dagster.io/guides/test/asset-checks
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from datalake_assets.assets.session_metadata import SHOWN
from datalake_assets.assets.stock_universe import KEY as STOCK_UNIVERSE
from datalake_assets.collection.progress import many
from datalake_assets.collection.universe import active, lost, odd
from datalake_assets.lake.files import LakeFiles
from datalake_assets.names import OURS, Names
from datalake_assets.resources import CollectorResource, LakeResource
from datalake_assets.storage.store import open_store


def build_universe_is_whole(names: Names = OURS) -> dg.AssetChecksDefinition:
    """The check of the newest list of assets.

    Args:
        names: What the lake's definitions are called.
    """
    check = dg.asset_check(
        name="universe_is_whole",
        asset=names.key(STOCK_UNIVERSE),
        blocking=True,
        description="The list has active symbols, and not many fewer than the previous snapshot: "
        "with a truncated list, incomplete sessions would look complete.",
    )
    return check(names.bind(_universe_is_whole))


def _universe_is_whole(collector: CollectorResource, lake: LakeResource) -> dg.AssetCheckResult:
    """Compare the newest snapshot with the previous one; sessions don't use a list that fails."""
    held = LakeFiles(open_store(lake.uri))
    snapshots = [held.universe_of(day) for day in held.universe_days()[-2:]]
    *before, now = [active(snapshot) for snapshot in snapshots] or [0]
    untaken = odd(snapshots[-1]) if snapshots else []
    return judge(now, before[0] if before else None, collector.max_universe_loss, untaken)


def judge(
    now: int, before: int | None, most: float, untaken: Sequence[str] = ()
) -> dg.AssetCheckResult:
    """Compare the number of active symbols with that of the previous snapshot, if any.

    Args:
        now: Active symbols of the newest snapshot.
        before: Active symbols of the previous snapshot; None if there is none.
        most: The largest share of them that may be missing.
        untaken: Items of the source's list that could not be read as assets. They are only named;
            if too many are missing, the numbers show it.
    """
    share = lost(now, before)
    metadata: dict[str, Any] = {"active": now, "lost": share, "threshold": most}
    if untaken:
        metadata |= {"untaken": len(untaken), "first_untaken": list(untaken[:SHOWN])}
    if before is not None:
        metadata["active_before"] = before
    return dg.AssetCheckResult(
        passed=share <= most,
        metadata=metadata,
        description=many(now, "active symbol")
        + ("" if before is None else f", {before:,} in the previous snapshot")
        + (f"; {many(len(untaken), 'item')} of the list could not be read" if untaken else ""),
    )
