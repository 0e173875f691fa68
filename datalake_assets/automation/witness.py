"""The sensor that requests a daily comparison with the source.

Belongs here: when a run is due. Does not belong here: what to request (`pipeline.witness`).
"""

import dagster as dg

from datalake_assets import market_calendar
from datalake_assets.assets.securities import FACTORS_KEY
from datalake_assets.assets.session_ticks import DAILY_TICKS
from datalake_assets.automation import runs
from datalake_assets.automation.jobs import OUR_JOBS, Jobs, sensor_status
from datalake_assets.automation.sensors import DAY_TAG
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.progress import many, verb
from datalake_assets.settings import Settings

WITNESS = "witness"
"""The purpose of the runs: the value of the tag `runs.PURPOSE`."""


def build_witness_sensor(settings: Settings, jobs: Jobs = OUR_JOBS) -> dg.SensorDefinition:
    """The sensor that requests one run a day, after the factors were derived.

    Args:
        settings: How many requests a day the run may send; 0: never run.
        jobs: The lake's jobs.
    """
    names = jobs.names
    budget = settings.witness_requests_per_day

    @dg.sensor(
        name=names.of("witness"),
        job=jobs.witness,
        minimum_interval_seconds=900,
        default_status=sensor_status(settings),
        description="Compare our adjusted bars with the source's own once a day, with at most "
        f"{many(budget, 'request')} (DATALAKE_WITNESS_REQUESTS_PER_DAY).",
    )
    @names.bind
    def witness(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock]
    ) -> dg.SensorResult | dg.SkipReason:
        if not budget:
            return dg.SkipReason("DATALAKE_WITNESS_REQUESTS_PER_DAY is 0: nothing is compared")
        now = runs.begin_tick(context, clock, jobs)
        # The day in New York, which includes the evening's session and its actions.
        today = market_calendar.today(now)
        derived = runs.last_materialized(context.instance, names.key(FACTORS_KEY), now)
        if derived is None or market_calendar.today(derived) < today:
            return dg.SkipReason("the factors have not been derived today")
        tags = {runs.PURPOSE: names.purpose(WITNESS), DAY_TAG: str(today)}
        if context.instance.get_run_records(dg.RunsFilter(tags=tags), limit=1):
            return dg.SkipReason(f"the comparison of {today} is done")
        if busy := runs.under_way(context, names.key(DAILY_TICKS), jobs.collecting):
            sessions = many(len(busy), "session")
            return dg.SkipReason(f"{sessions} {verb(len(busy))} still being collected")
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=f"{WITNESS} {today}", tags=tags)]
        )

    return witness
