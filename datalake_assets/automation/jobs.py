"""Jobs: what a person or a sensor launches."""

import dagster as dg

from datalake_assets.assets.daily_ticks import KEY as DAILY_TICKS
from datalake_assets.assets.stock_universe import KEY as STOCK_UNIVERSE
from datalake_assets.assets.symbol_year_ticks import KEY as SYMBOL_YEAR_TICKS

daily_ticks_job = dg.define_asset_job(
    "daily_ticks_job",
    selection=dg.AssetSelection.assets(STOCK_UNIVERSE, DAILY_TICKS),
    description="Take today's universe and collect sessions: one partition, or a range of them.",
)

repair_job = dg.define_asset_job(
    "repair_job",
    selection=dg.AssetSelection.assets(DAILY_TICKS),
    description="Ask again for what a session lacks, with the collector's `repair` on.",
)

symbol_year_ticks_job = dg.define_asset_job(
    "symbol_year_ticks_job",
    selection=dg.AssetSelection.assets(SYMBOL_YEAR_TICKS),
    description="Publish years per symbol: one partition, or a range of them.",
)
