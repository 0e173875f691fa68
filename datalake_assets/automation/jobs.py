"""The jobs that a user, a sensor or the schedule launches."""

from datetime import UTC, timedelta

import dagster as dg
from dagster import AssetSelection

from datalake_assets import market_calendar
from datalake_assets.assets.corporate_actions import KEY as CORPORATE_ACTIONS
from datalake_assets.assets.daily_ticks import KEY as DAILY_TICKS
from datalake_assets.assets.lake_report import KEY as LAKE_REPORT
from datalake_assets.assets.securities import FACTORS_KEY, SECURITIES_KEY
from datalake_assets.assets.source_agrees import NAME as SOURCE_AGREES_NAME
from datalake_assets.assets.stock_universe import KEY as STOCK_UNIVERSE
from datalake_assets.assets.symbol_year_ticks import KEY as SYMBOL_YEAR_TICKS
from datalake_assets.assets.year_ticks import KEY as YEAR_TICKS
from datalake_assets.automation.due import PARTITION_APPEARS
from datalake_assets.automation.lambda_session import JOB as LAMBDA_SESSION_JOB
from datalake_assets.settings import Settings

NEWEST_SESSION = dg.AssetCheckKey(DAILY_TICKS, "newest_session_is_there")
"""The check of freshness: it depends on the clock, so runs over sessions don't include it."""

_OF_A_SESSION = AssetSelection.assets(DAILY_TICKS) - AssetSelection.checks(NEWEST_SESSION)

daily_ticks_job = dg.define_asset_job(
    "daily_ticks_job",
    selection=AssetSelection.assets(STOCK_UNIVERSE) | _OF_A_SESSION,
    description="Take today's universe and collect sessions: one partition, or a range of them.",
)

repair_job = dg.define_asset_job(
    "repair_job",
    selection=_OF_A_SESSION,
    description="Request the symbols that a session lacks, with the collector's `repair` on.",
)

symbol_year_ticks_job = dg.define_asset_job(
    "symbol_year_ticks_job",
    selection=AssetSelection.assets(SYMBOL_YEAR_TICKS),
    description="Publish years per symbol: one partition, or a range of them.",
)

year_ticks_job = dg.define_asset_job(
    "year_ticks_job",
    selection=AssetSelection.assets(YEAR_TICKS),
    description="Publish years as one file each: one partition, or a range of them.",
)

corporate_actions_job = dg.define_asset_job(
    "corporate_actions_job",
    selection=AssetSelection.assets(CORPORATE_ACTIONS),
    description="Fetch the corporate actions, and log what changed.",
)

SOURCE_AGREES = dg.AssetCheckKey(FACTORS_KEY, SOURCE_AGREES_NAME)
"""The check that sends requests to the source: it has its own budget and its own job."""

securities_job = dg.define_asset_job(
    "securities_job",
    selection=AssetSelection.assets(SECURITIES_KEY, FACTORS_KEY)
    - AssetSelection.checks(SOURCE_AGREES),
    description="Derive securities and adjustment factors; takes a few seconds.",
)

witness_job = dg.define_asset_job(
    "witness_job",
    selection=AssetSelection.checks(SOURCE_AGREES),
    description="Compare our adjusted bars and histories with the source's own.",
)

lake_report_job = dg.define_asset_job(
    "lake_report_job",
    selection=AssetSelection.assets(LAKE_REPORT),
    description="Write the report: the state of the lake, and what to do.",
)

freshness_job = dg.define_asset_job(
    "freshness_job",
    selection=AssetSelection.checks(NEWEST_SESSION),
    description="Check whether the newest session is in the lake. Collects nothing.",
)


JOBS = (
    daily_ticks_job.name,
    repair_job.name,
    symbol_year_ticks_job.name,
    year_ticks_job.name,
    corporate_actions_job.name,
    securities_job.name,
    witness_job.name,
    lake_report_job.name,
    freshness_job.name,
    LAMBDA_SESSION_JOB,
)
"""The names of all jobs."""

ASSETS = (
    STOCK_UNIVERSE,
    DAILY_TICKS,
    SYMBOL_YEAR_TICKS,
    YEAR_TICKS,
    CORPORATE_ACTIONS,
    SECURITIES_KEY,
    FACTORS_KEY,
    LAKE_REPORT,
)
"""The assets of all jobs."""


def sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    """Whether the sensors start automatically; a sensor switched in the UI stays as it is."""
    if settings.automation == "on":
        return dg.DefaultSensorStatus.RUNNING
    return dg.DefaultSensorStatus.STOPPED


def build_daily_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """A schedule as an alternative to the sensor `new_sessions`; off until it is started.

    It launches one run per session at a fixed hour, without retries. Dagster's own schedule for a
    partitioned job would request Friday's session again on Saturday and Sunday.

    Args:
        settings: How long after the close.
    """
    # The latest close is at 21:00 UTC, in winter; a few minutes allow for a clock that is ahead.
    after_close = timedelta(hours=21, minutes=settings.collect_after_minutes)
    after = max(PARTITION_APPEARS + timedelta(minutes=5), after_close)
    hours, minutes = divmod(after.seconds // 60, 60)

    @dg.schedule(
        name="daily_schedule",
        job=daily_ticks_job,
        cron_schedule=f"{minutes} {hours} * * *",
        execution_timezone="UTC",
        description="Collect each session once, on its evening. An alternative to the sensor "
        "new_sessions, which also retries and catches up.",
    )
    def daily_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = (context.scheduled_execution_time.astimezone(UTC) - after).date()
        if closed := market_calendar.why_closed(day):
            return dg.SkipReason(f"{day} was not a session but {closed}")
        if day < settings.first_session:
            return dg.SkipReason(f"{day} is before the first session, {settings.first_session}")
        return dg.RunRequest(run_key=str(day), partition_key=str(day))

    return daily_schedule
