"""Securities and factors follow the sessions: the sensor that asks for a run.

Belongs here: when the two are out of date. Does not belong here: how they are derived
(`datalake_assets.securities`).
"""

import dagster as dg

from datalake_assets.assets.corporate_actions import KEY as CORPORATE_ACTIONS
from datalake_assets.assets.daily_ticks import KEY as DAILY_TICKS
from datalake_assets.assets.securities import FACTORS_KEY
from datalake_assets.automation import due, runs
from datalake_assets.automation.jobs import securities_job
from datalake_assets.automation.sensors import COLLECTING
from datalake_assets.collection.clock import Clock
from datalake_assets.resources import LakeResource
from datalake_assets.securities.decisions import read_decisions
from datalake_assets.storage.store import open_store

SECURITIES = "securities"
"""What the runs are for: the value of the tag `runs.FOR`."""

PATIENCE = due.Patience()

_ASSET = FACTORS_KEY.to_user_string()


def build_securities_sensor() -> dg.SensorDefinition:
    """The sensor that derives both anew after sessions, actions and decisions."""

    @dg.sensor(
        name="securities_follow",
        job=securities_job,
        minimum_interval_seconds=120,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Derive securities and factors anew when a session or the actions came, or the "
        "user decided something, and no more sessions are under way.",
    )
    def securities_follow(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock], lake: LakeResource
    ) -> dg.SensorResult | dg.SkipReason:
        now = runs.begin_tick(context, clock)
        newest = runs.newest_news(context.instance, (DAILY_TICKS, CORPORATE_ACTIONS), (), now)
        if newest is None:
            return dg.SkipReason("no session and no action was materialized yet")
        decided = [each.when for each in read_decisions(open_store(lake.uri)).made]
        newest = max([newest, *decided])
        derived = runs.last_materialized(context.instance, FACTORS_KEY, now)
        if derived and newest <= derived:
            return dg.SkipReason("nothing came since they were derived")
        definitions = context.repository_def
        graph = definitions.asset_graph if definitions else None
        busy = runs.under_way(context.instance, DAILY_TICKS, COLLECTING, graph)
        if busy:
            return dg.SkipReason(f"{len(busy):,} sessions are still being collected")
        made = runs.attempts(context.instance, SECURITIES)
        (verdict,) = due.decide(
            now,
            {_ASSET: "something came since it was derived"},
            busy={},
            attempts={_ASSET: [one for one in made if not one.ended or one.ended >= newest]},
            patience=PATIENCE,
            by_hand="dagster asset materialize -m datalake_assets.definitions --select",
        )
        if not verdict.attempt:
            return dg.SkipReason(verdict.why)
        request = dg.RunRequest(
            run_key=f"{SECURITIES} {newest.isoformat()} #{verdict.attempt}",
            tags={runs.FOR: SECURITIES},
        )
        return dg.SensorResult(run_requests=[request])

    return securities_follow
