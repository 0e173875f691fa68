"""What the assets share that hold the bars once more, year by year.

Belongs here: their partitions, what they depend on, and their check of equality with the sessions.
Does not belong here: either of them (`symbol_year_ticks`, `year_ticks`).
"""

import warnings
from collections.abc import Callable
from typing import Any

import dagster as dg

from datalake_assets.assets.lake_asset import lake_asset
from datalake_assets.assets.session_ticks import BARS_METADATA, DAILY_TICKS
from datalake_assets.assets.stock_universe import GROUP
from datalake_assets.collection.progress import many, verb
from datalake_assets.names import Names


def year_asset(
    key: dg.AssetKey,
    partitions: dg.PartitionsDefinition[str],
    names: Names,
    *,
    description: str,
    check: str,
    equality: str,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """The decorator of an asset whose partitions are years of `daily_ticks`.

    Args:
        key: Its key in our own code location.
        partitions: Its years.
        names: What the lake's definitions are called.
        description: Of the asset.
        check: The name of its check.
        equality: What the check says of sessions and files.
    """

    def decorate(body: Callable[..., Any]) -> dg.AssetsDefinition:
        with warnings.catch_warnings():
            # Both are beta; tests cover what we rely on.
            warnings.simplefilter("ignore", dg.BetaWarning)
            policy = dg.BackfillPolicy.multi_run(1)
            # The current year has future sessions.
            mapping = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
            return lake_asset(
                key,
                names,
                GROUP,
                deps=[dg.AssetDep(names.key(DAILY_TICKS), partition_mapping=mapping)],
                partitions_def=partitions,
                backfill_policy=policy,
                output_required=False,
                check_specs=[dg.AssetCheckSpec(check, asset=names.key(key), description=equality)],
                description=description,
                metadata=BARS_METADATA,
            )(body)

    return decorate


def compared(rows: int, years: int, where: str) -> str:
    """What a check says when all is equal.

    Args:
        rows: How many rows were compared.
        years: Of how many years.
        where: Between what.
    """
    if not years:
        return "no year was published, so nothing was compared"
    are = verb(rows)
    return f"{many(rows, 'row')} of {many(years, 'year')} {are} the same in {where}"
