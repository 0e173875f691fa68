"""The jobs that a user, a sensor or the schedule launches."""

from datetime import UTC, timedelta

import dagster as dg
from dagster import AssetSelection
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from datalake_assets import market_calendar
from datalake_assets.assets.corporate_actions import KEY as CORPORATE_ACTIONS
from datalake_assets.assets.lake_report import KEY as LAKE_REPORT
from datalake_assets.assets.securities import FACTORS_KEY, SECURITIES_KEY
from datalake_assets.assets.session_ticks import DAILY_TICKS, MINUTE_TICKS
from datalake_assets.assets.source_agrees import NAME as SOURCE_AGREES_NAME
from datalake_assets.assets.stock_universe import KEY as STOCK_UNIVERSE
from datalake_assets.assets.symbol_year_ticks import KEY as SYMBOL_YEAR_TICKS
from datalake_assets.assets.year_ticks import KEY as YEAR_TICKS
from datalake_assets.automation.due import PARTITION_APPEARS
from datalake_assets.automation.lambda_session import JOB as LAMBDA_SESSION_JOB
from datalake_assets.automation.lambda_session import MINUTES_JOB as LAMBDA_MINUTES_JOB
from datalake_assets.names import OURS, Names
from datalake_assets.settings import Settings

NEWEST_SESSION = dg.AssetCheckKey(DAILY_TICKS, "newest_session_is_there")
"""The check of freshness: it depends on the clock, so runs over sessions don't include it."""

SOURCE_AGREES = dg.AssetCheckKey(FACTORS_KEY, SOURCE_AGREES_NAME)
"""The check that sends requests to the source: it has its own budget and its own job."""

ASSETS = (
    STOCK_UNIVERSE,
    DAILY_TICKS,
    MINUTE_TICKS,
    SYMBOL_YEAR_TICKS,
    YEAR_TICKS,
    CORPORATE_ACTIONS,
    SECURITIES_KEY,
    FACTORS_KEY,
    LAKE_REPORT,
)
"""The assets of all jobs."""


UnresolvedJob = UnresolvedAssetJobDefinition
"""A job of assets, as the definitions hold it."""


class Jobs:
    """The jobs of one lake.

    Each runs in one process, whatever the executor of the code location: a process per step would
    import everything again, which takes six seconds.

    Args:
        names: What the lake's definitions are called.
        minutes: Whether the lake has minute bars.
    """

    def __init__(self, names: Names = OURS, *, minutes: bool = False) -> None:
        self.names, self.minutes = names, minutes
        sessions = self._of(DAILY_TICKS) - AssetSelection.checks(names.check(NEWEST_SESSION))
        self.daily_ticks = self._job(
            "daily_ticks_job",
            self._of(STOCK_UNIVERSE) | sessions,
            "Take today's universe and collect sessions: one partition, or a range of them.",
        )
        self.repair = self._job(
            "repair_job",
            sessions,
            "Request the symbols that a session lacks, with the collector's `repair` on.",
        )
        self.minute_ticks = self._job(
            "minute_ticks_job",
            self._of(MINUTE_TICKS),
            "Collect the minute bars of sessions, or with the collector's `repair` on what they "
            "lack: one partition, or a range of them.",
        )
        self.symbol_year_ticks = self._job(
            "symbol_year_ticks_job",
            self._of(SYMBOL_YEAR_TICKS),
            "Publish years per symbol: one partition, or a range of them.",
        )
        self.year_ticks = self._job(
            "year_ticks_job",
            self._of(YEAR_TICKS),
            "Publish years as one file each: one partition, or a range of them.",
        )
        self.corporate_actions = self._job(
            "corporate_actions_job",
            self._of(CORPORATE_ACTIONS),
            "Fetch the corporate actions, and log what changed.",
        )
        self.securities = self._job(
            "securities_job",
            self._of(SECURITIES_KEY, FACTORS_KEY)
            - AssetSelection.checks(names.check(SOURCE_AGREES)),
            "Derive securities and adjustment factors; takes a few seconds.",
        )
        self.witness = self._job(
            "witness_job",
            AssetSelection.checks(names.check(SOURCE_AGREES)),
            "Compare our adjusted bars and histories with the source's own.",
        )
        self.lake_report = self._job(
            "lake_report_job",
            self._of(LAKE_REPORT),
            "Write the report: the state of the lake, and what to do.",
        )
        self.freshness = self._job(
            "freshness_job",
            AssetSelection.checks(names.check(NEWEST_SESSION)),
            "Check whether the newest session is in the lake. Collects nothing.",
        )
        self.all = (
            self.daily_ticks,
            self.repair,
            *((self.minute_ticks,) if minutes else ()),
            self.symbol_year_ticks,
            self.year_ticks,
            self.corporate_actions,
            self.securities,
            self.witness,
            self.lake_report,
            self.freshness,
        )

    @property
    def collecting(self) -> tuple[str, ...]:
        """The names of the jobs that collect sessions."""
        return (self.daily_ticks.name, self.repair.name, self.names.of(LAMBDA_SESSION_JOB))

    @property
    def collecting_minutes(self) -> tuple[str, ...]:
        """The names of the jobs that collect minute bars; none if the lake has none."""
        if not self.minutes:
            return ()
        return (self.minute_ticks.name, self.names.of(LAMBDA_MINUTES_JOB))

    @property
    def publishing(self) -> tuple[str, ...]:
        """The names of the jobs that publish years."""
        return (self.symbol_year_ticks.name, self.year_ticks.name)

    @property
    def deriving(self) -> tuple[str, ...]:
        """The names of the jobs about securities and corporate actions."""
        return (self.corporate_actions.name, self.securities.name)

    def made(self, run: dg.DagsterRun) -> bool:
        """Whether a run is of one of these jobs, or of assets of this lake."""
        names = {
            *(job.name for job in (*self.all, self.minute_ticks)),
            *map(self.names.of, (LAMBDA_SESSION_JOB, LAMBDA_MINUTES_JOB)),
        }
        assets = frozenset(map(self.names.key, ASSETS))
        return run.job_name in names or not assets.isdisjoint(run.asset_selection or ())

    def _of(self, *assets: dg.AssetKey) -> AssetSelection:
        return AssetSelection.assets(*map(self.names.key, assets))

    def _job(
        self, name: str, selection: AssetSelection, description: str
    ) -> UnresolvedAssetJobDefinition:
        return dg.define_asset_job(
            self.names.of(name),
            selection=selection,
            description=description,
            executor_def=dg.in_process_executor,
        )


OUR_JOBS = Jobs()
"""The jobs in our own code location."""


def sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    """Whether the sensors start automatically; a sensor switched in the UI stays as it is."""
    if settings.automation == "on":
        return dg.DefaultSensorStatus.RUNNING
    return dg.DefaultSensorStatus.STOPPED


def build_daily_schedule(settings: Settings, jobs: Jobs = OUR_JOBS) -> dg.ScheduleDefinition:
    """A schedule as an alternative to the sensor `new_sessions`; off until it is started.

    It launches one run per session at a fixed hour, without retries. Dagster's own schedule for a
    partitioned job would request Friday's session again on Saturday and Sunday.

    Args:
        settings: How long after the close.
        jobs: The lake's jobs.
    """
    # The latest close is at 21:00 UTC, in winter; a few minutes allow for a clock that is ahead.
    after_close = timedelta(hours=21, minutes=settings.collect_after_minutes)
    after = max(PARTITION_APPEARS + timedelta(minutes=5), after_close)
    hours, minutes = divmod(after.seconds // 60, 60)

    @dg.schedule(
        name=jobs.names.of("daily_schedule"),
        job=jobs.daily_ticks,
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
