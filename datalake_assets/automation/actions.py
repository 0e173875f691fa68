"""The sensor that requests a run for corporate actions every evening.

Belongs here: when a run is due. Does not belong here: which window it fetches, and when it fetches
the whole history (`actions.sweep`).
"""

from datetime import timedelta

import dagster as dg

from datalake_assets.assets.corporate_actions import KEY as CORPORATE_ACTIONS
from datalake_assets.automation import due, runs
from datalake_assets.automation.following import follow
from datalake_assets.automation.jobs import OUR_JOBS, Jobs, sensor_status
from datalake_assets.collection.clock import Clock
from datalake_assets.settings import Settings

ACTIONS = "corporate actions"
"""The purpose of the runs: the value of the tag `runs.PURPOSE`."""


def build_actions_sensor(settings: Settings, jobs: Jobs = OUR_JOBS) -> dg.SensorDefinition:
    """The sensor that requests a run after each session, and retries with growing pauses.

    Args:
        settings: How long after the close, and whether it starts automatically.
        jobs: The lake's jobs.
    """
    names = jobs.names
    delay = timedelta(minutes=settings.collect_after_minutes)

    @dg.sensor(
        name=names.of("new_actions"),
        job=jobs.corporate_actions,
        minimum_interval_seconds=300,
        default_status=sensor_status(settings),
        description="Fetch corporate actions once after each session, with retries at growing "
        "intervals. Once a month, fetch the whole history.",
    )
    @names.bind
    def new_actions(
        context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock]
    ) -> dg.SensorResult | dg.SkipReason:
        now = runs.begin_tick(context, clock, jobs)
        (session,) = due.newest(now, 1, delay)
        return follow(
            context,
            now,
            asset=names.key(CORPORATE_ACTIONS),
            purpose=names.purpose(ACTIONS),
            since=due.available_at(session, delay),
            occasion=str(session),
            because=f"the session of {session} is over",
            done=f"the actions were fetched after the session of {session}",
            by_hand=names.command("datalake actions --sweep", CORPORATE_ACTIONS),
        )

    return new_actions
