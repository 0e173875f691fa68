"""Two assets of the project's own: one per session, one per year. Both take bars as arguments."""

import dagster as dg
import pandas as pd
import polars as pl

from datalake_assets import TradingDays

START = "2011-01-03"
SESSIONS = TradingDays().partitions(START)
YEARS = TradingDays().years(START)


COLUMNS = {"columns": ["session", "symbol", "volume"]}


@dg.asset(
    ins={
        "sip": dg.AssetIn(["sip", "daily_ticks"], metadata=COLUMNS),
        "iex": dg.AssetIn(["iex", "daily_ticks"], metadata=COLUMNS),
    },
    partitions_def=SESSIONS,
    # Many sessions in one run; not the policy of daily_ticks, so that it has runs of its own.
    backfill_policy=dg.BackfillPolicy.multi_run(1000),
    automation_condition=dg.AutomationCondition.eager(),
)
def iex_share(context: dg.AssetExecutionContext, sip: pl.DataFrame, iex: pd.DataFrame) -> None:
    """The share of each session's volume that traded on IEX."""
    on_iex = iex.groupby("session")["volume"].sum()
    for session, volume in sip.group_by("session").agg(pl.sum("volume")).iter_rows():
        share = float(on_iex.get(pd.Timestamp(session), 0) / volume)
        context.add_asset_metadata({"share": share}, partition_key=str(session))


@dg.asset(
    ins={
        "bars": dg.AssetIn(
            ["sip", "daily_ticks"],
            # The year has sessions to come, and may have some that are not published.
            partition_mapping=dg.TimeWindowPartitionMapping(
                allow_nonexistent_upstream_partitions=True
            ),
            metadata={"allow_missing_partitions": True},
        )
    },
    partitions_def=YEARS,
)
def yearly_range(bars: pl.LazyFrame) -> dg.MaterializeResult[pl.DataFrame]:
    """The highest and lowest price of each symbol in a year."""
    found = (
        bars.group_by("symbol")
        .agg(pl.max("high"), pl.min("low"), pl.len().alias("sessions"))
        .sort("symbol")
        .collect()
    )
    metadata = {"symbols": found.height, "sessions": found["sessions"].max() or 0}
    return dg.MaterializeResult(value=found, metadata=metadata)
