"""Two assets of the project's own: one per session, one per year. Both take bars as arguments."""

import dagster as dg
import pandas as pd
import polars as pl

from datalake_assets import TradingDays

START = "2011-01-03"
SESSIONS = TradingDays().partitions(START)
YEARS = TradingDays().years(START)


@dg.asset(
    ins={
        "sip": dg.AssetIn(["sip", "daily_ticks"], metadata={"columns": ["symbol", "volume"]}),
        "iex": dg.AssetIn(["iex", "daily_ticks"], metadata={"columns": ["symbol", "volume"]}),
    },
    partitions_def=SESSIONS,
    automation_condition=dg.AutomationCondition.eager(),
)
def iex_share(sip: pl.DataFrame, iex: pd.DataFrame) -> dg.MaterializeResult[float]:
    """The share of a session's volume that traded on IEX."""
    share = float(iex["volume"].sum() / sip["volume"].sum())
    return dg.MaterializeResult(value=share, metadata={"share": share, "symbols": sip.height})


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
