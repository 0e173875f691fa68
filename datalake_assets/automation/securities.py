"""The sensor that requests a derivation of securities and factors after new sessions.

Belongs here: when they are out of date. Does not belong here: how they are derived
(`datalake_assets.securities`).
"""

import dagster as dg

from datalake_assets.assets.corporate_actions import KEY as CORPORATE_ACTIONS
from datalake_assets.assets.securities import FACTORS_KEY
from datalake_assets.assets.session_ticks import DAILY_TICKS
from datalake_assets.automation import runs
from datalake_assets.automation.following import follow
from datalake_assets.automation.jobs import OUR_JOBS, Jobs, sensor_status
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.progress import many, verb
from datalake_assets.resources import LakeResource
from datalake_assets.securities.decisions import read_decisions
from datalake_assets.settings import Settings
from datalake_assets.storage.store import open_store

SECURITIES = "securities"
"""The purpose of the runs: the value of the tag `runs.PURPOSE`."""


def build_securities_sensor(settings: Settings, jobs: Jobs = OUR_JOBS) -> dg.SensorDefinition:
    """The sensor that derives both after new sessions, actions and decisions.

    Args:
        settings: Whether it starts automatically.
        jobs: The lake's jobs.
    """
    names = jobs.names

    @dg.sensor(
        name=names.of("securities_follow"),
        job=jobs.securities,
        minimum_interval_seconds=120,
        default_status=sensor_status(settings),
        description="Derive securities and factors after a new session, new actions or a decision, "
        "once no session is being collected.",
    )
    @names.bind
    def securities_follow(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock], lake: LakeResource
    ) -> dg.SensorResult | dg.SkipReason:
        now = runs.begin_tick(context, clock, jobs)
        if sessions := runs.under_way(context, names.key(DAILY_TICKS), jobs.collecting):
            busy = f"{many(len(sessions), 'session')} {verb(len(sessions))} still being collected"
        else:
            busy = runs.going_on(context.instance, (jobs.corporate_actions.name,))
        came = runs.newest_news(
            context.instance, map(names.key, (DAILY_TICKS, CORPORATE_ACTIONS)), (), now
        )
        decided = [each.when for each in read_decisions(open_store(lake.uri)).made]
        newest = max([came, *decided]) if came else None
        return follow(
            context,
            now,
            asset=names.key(FACTORS_KEY),
            purpose=names.purpose(SECURITIES),
            since=newest,
            because="there is new data since the last derivation",
            done="no new session, action or decision since the last derivation",
            by_hand=names.command("datalake securities", FACTORS_KEY),
            busy=busy,
        )

    return securities_follow
