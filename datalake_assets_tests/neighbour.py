"""Somebody's own Dagster project: assets that come after ours, in definitions merged with ours.

Not here: what must be true of them (`test_downstream`, `automation.test_downstream_backfill`).
"""

import os

import dagster as dg

from datalake_assets.definitions import build_definitions
from datalake_assets.resources import CollectorResource, LakeResource
from datalake_assets.settings import Settings
from datalake_assets_tests.workbench import FRIDAY, MONDAY, Market, names, source_of

LAKE = "NEIGHBOUR_LAKE"
"""The variable that names the folder of the lake."""


def build(lake: str, market: Market) -> dg.Definitions:
    """Ours, without automation, and theirs.

    Args:
        lake: The folder.
        market: What to collect from.
    """
    ours = build_definitions(
        Settings.load({"DATALAKE_AUTOMATION": "off", "DATALAKE_START_DATE": f"{MONDAY}"}),
        collector=CollectorResource(
            requests_per_minute=10_000_000, bars_per_request=1, attempts=1, unanswered_allowed=0
        ),
        source=source_of(market),
        lake=LakeResource(uri=lake),
    )
    ticks = ours.resolve_assets_def("daily_ticks")
    years = ours.resolve_assets_def("symbol_year_ticks")

    @dg.asset(
        deps=["daily_ticks"],
        partitions_def=ticks.partitions_def,
        backfill_policy=ticks.backfill_policy,
    )
    def same_policy(context: dg.AssetExecutionContext) -> None:
        context.log.info("%s", context.partition_keys)

    @dg.asset(deps=["daily_ticks"], partitions_def=ticks.partitions_def)
    def no_policy(context: dg.AssetExecutionContext) -> None:
        context.log.info("%s", context.partition_keys)

    @dg.asset(
        deps=["daily_ticks"],
        partitions_def=ticks.partitions_def,
        backfill_policy=dg.BackfillPolicy.single_run(),
        automation_condition=dg.AutomationCondition.eager(),
    )
    def single_run(context: dg.AssetExecutionContext) -> None:
        context.log.info("%s", context.partition_keys)

    @dg.asset(
        deps=["symbol_year_ticks"],
        partitions_def=years.partitions_def,
        backfill_policy=years.backfill_policy,
    )
    def of_a_year(context: dg.AssetExecutionContext) -> None:
        context.log.info("%s", context.partition_keys)

    theirs = dg.Definitions(
        assets=[same_policy, no_policy, single_run, of_a_year],
        jobs=[
            dg.define_asset_job(
                "sessions_and_theirs", ["daily_ticks", "same_policy", "no_policy", "single_run"]
            ),
            dg.define_asset_job("years_and_theirs", ["symbol_year_ticks", "of_a_year"]),
        ],
    )
    return dg.Definitions.merge(ours, theirs)


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads: of Friday's session one symbol is never answered."""
    market = Market(names(20))
    market.failing = {("AAB", FRIDAY)}
    return build(os.environ[LAKE], market)
