"""The source as a witness, once a day: the sensor that asks for a run.

Belongs here: when it is time. Does not belong here: whom to ask (`pipeline.witness`).
"""

import dagster as dg

from datalake_assets import market_calendar
from datalake_assets.assets.daily_ticks import KEY as DAILY_TICKS
from datalake_assets.assets.securities import FACTORS_KEY
from datalake_assets.automation import runs
from datalake_assets.automation.jobs import sensor_status, witness_job
from datalake_assets.automation.sensors import COLLECTING, DAY_TAG
from datalake_assets.collection.clock import Clock
from datalake_assets.settings import Settings

WITNESS = "witness"
"""What the runs are for: the value of the tag `runs.FOR`."""


def build_witness_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that asks for one run a day, after the factors were derived.

    Args:
        settings: How many requests a day it may take; 0: never.
    """
    budget = settings.witness_requests_per_day

    @dg.sensor(
        name="witness",
        job=witness_job,
        minimum_interval_seconds=900,
        default_status=sensor_status(settings),
        description="Hold our adjusted bars against the source's own once a day, with "
        f"{budget} requests at most (DATALAKE_WITNESS_REQUESTS_PER_DAY).",
    )
    def witness(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock]
    ) -> dg.SensorResult | dg.SkipReason:
        if not budget:
            return dg.SkipReason("DATALAKE_WITNESS_REQUESTS_PER_DAY is 0: the source is not asked")
        now = runs.begin_tick(context, clock)
        # Of the day in New York, in which the evening's session and its actions are.
        today = market_calendar.today(now)
        derived = runs.last_materialized(context.instance, FACTORS_KEY, now)
        if derived is None or market_calendar.today(derived) < today:
            return dg.SkipReason("the factors were not derived today")
        tags = {runs.FOR: WITNESS, DAY_TAG: str(today)}
        if context.instance.get_run_records(dg.RunsFilter(tags=tags), limit=1):
            return dg.SkipReason(f"the source was asked on {today}")
        definitions = context.repository_def
        graph = definitions.asset_graph if definitions else None
        if busy := runs.under_way(context.instance, DAILY_TICKS, COLLECTING, graph):
            return dg.SkipReason(f"{len(busy):,} sessions are still being collected")
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=f"{WITNESS} {today}", tags=tags)]
        )

    return witness
