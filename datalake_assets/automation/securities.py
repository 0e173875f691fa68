"""Securities and factors follow the sessions: the sensor that asks for a run.

Belongs here: when the two are out of date. Does not belong here: how they are derived
(`datalake_assets.securities`).
"""

import dagster as dg

from datalake_assets.assets.corporate_actions import KEY as CORPORATE_ACTIONS
from datalake_assets.assets.daily_ticks import KEY as DAILY_TICKS
from datalake_assets.assets.securities import FACTORS_KEY
from datalake_assets.automation import runs
from datalake_assets.automation.following import follow
from datalake_assets.automation.jobs import corporate_actions_job, securities_job, sensor_status
from datalake_assets.automation.sensors import COLLECTING
from datalake_assets.collection.clock import Clock
from datalake_assets.resources import LakeResource
from datalake_assets.securities.decisions import read_decisions
from datalake_assets.settings import Settings
from datalake_assets.storage.store import open_store

SECURITIES = "securities"
"""What the runs are for: the value of the tag `runs.FOR`."""


def build_securities_sensor(settings: Settings) -> dg.SensorDefinition:
    """The sensor that derives both anew after sessions, actions and decisions.

    Args:
        settings: Whether it starts by itself.
    """

    @dg.sensor(
        name="securities_follow",
        job=securities_job,
        minimum_interval_seconds=120,
        default_status=sensor_status(settings),
        description="Derive securities and factors anew when a session or the actions came, or the "
        "user decided something, and no more sessions are under way.",
    )
    def securities_follow(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock], lake: LakeResource
    ) -> dg.SensorResult | dg.SkipReason:
        now = runs.begin_tick(context, clock)
        definitions = context.repository_def
        graph = definitions.asset_graph if definitions else None
        sessions = runs.under_way(context.instance, DAILY_TICKS, COLLECTING, graph)
        if sessions:
            busy = f"{len(sessions):,} sessions are still being collected"
        else:
            busy = runs.going_on(context.instance, (corporate_actions_job.name,))
        came = runs.newest_news(context.instance, (DAILY_TICKS, CORPORATE_ACTIONS), (), now)
        decided = [each.when for each in read_decisions(open_store(lake.uri)).made]
        newest = max([came, *decided]) if came else None
        return follow(
            context,
            now,
            asset=FACTORS_KEY,
            purpose=SECURITIES,
            since=newest,
            occasion=newest.isoformat() if newest else "",
            because="something came since it was derived",
            done="no session, no action and no decision came since they were derived",
            by_hand="datalake securities",
            busy=busy,
        )

    return securities_follow
