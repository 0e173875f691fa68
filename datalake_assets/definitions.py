"""The definitions that Dagster loads.

Belongs here: turning settings into resources, and combining the parts. Does not belong here: any of
the parts. Loading reads the environment, but neither disk nor network.

`defs` is created on first access, so that importing this module never fails, whatever is in the
environment. Another project adds its own definitions to ours:

    from datalake_assets.definitions import build_definitions

    defs = dg.Definitions.merge(build_definitions(), dg.Definitions(assets=[mine]))

This includes the sensors, which start automatically unless DATALAKE_AUTOMATION is off.
"""

import warnings
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from datalake_assets.assets.corporate_actions import corporate_actions
from datalake_assets.assets.daily_ticks import build_daily_ticks
from datalake_assets.assets.lake_report import build_lake_report
from datalake_assets.assets.securities import adjustment_factors, securities
from datalake_assets.assets.source_agrees import build_source_agrees
from datalake_assets.assets.stock_universe import stock_universe
from datalake_assets.assets.symbol_year_ticks import build_symbol_year_ticks
from datalake_assets.assets.year_ticks import build_year_ticks
from datalake_assets.automation import due, runs
from datalake_assets.automation.actions import build_actions_sensor
from datalake_assets.automation.alerts import build_failure_sensor
from datalake_assets.automation.freshness import build_freshness_check, build_freshness_sensor
from datalake_assets.automation.jobs import (
    build_daily_schedule,
    corporate_actions_job,
    daily_ticks_job,
    freshness_job,
    lake_report_job,
    repair_job,
    securities_job,
    symbol_year_ticks_job,
    witness_job,
    year_ticks_job,
)
from datalake_assets.automation.lambda_session import build_lambda_session_job
from datalake_assets.automation.securities import build_securities_sensor
from datalake_assets.automation.sensors import build_sensors
from datalake_assets.automation.witness import build_witness_sensor
from datalake_assets.checks import universe_is_whole
from datalake_assets.collection.audit import Thresholds
from datalake_assets.overview.numbers import NextSession
from datalake_assets.partitions import session_partitions, year_partitions
from datalake_assets.resources import (
    AlpacaResource,
    CollectorResource,
    EmbeddedExchangeResource,
    LakeResource,
    SourceResource,
    clock,
    display,
    with_defaults,
)
from datalake_assets.settings import Settings


def build_source(settings: Settings) -> SourceResource:
    """The source of the settings: Alpaca with keys, the embedded exchange without."""
    if settings.source == "embedded":
        return EmbeddedExchangeResource()
    return with_defaults(
        AlpacaResource,
        # Variable names, not values: Dagster stores configuration in clear text.
        api_key=dg.EnvVar("ALPACA_API_KEY"),
        secret_key=dg.EnvVar("ALPACA_SECRET_KEY"),
        feed=settings.alpaca_feed,
        data_url=settings.alpaca_data_url,
        trading_url=settings.alpaca_trading_url,
    )


def build_collector(settings: Settings) -> CollectorResource:
    """The collector, with the settings as defaults of its options."""
    # The embedded exchange resembles the consolidated tape, whatever the feed is.
    feed = "sip" if settings.source == "embedded" else settings.alpaca_feed
    limits = Thresholds.of_feed(feed)
    return with_defaults(
        CollectorResource,
        max_workers=settings.max_workers,
        requests_per_minute=settings.requests_per_minute,
        symbols=settings.symbols or "",
        min_coverage=limits.coverage,
        min_row_ratio=limits.row_ratio,
        silent_allowed=limits.silent_allowed,
        # The variable's name, not its value, which may contain a password.
        rate_limit="" if settings.rate_limit is None else dg.EnvVar("DATALAKE_RATE_LIMIT"),
    )


def build_lake(settings: Settings) -> LakeResource:
    """The lake, with the settings as defaults of its options."""
    return with_defaults(
        LakeResource, uri=settings.lake_uri, upload_workers=settings.upload_workers
    )


def build_definitions(settings: Settings | None = None, **resources: Any) -> dg.Definitions:
    """All assets, checks, jobs and resources.

    Args:
        settings: The defaults. None reads the environment, and warns of names that are almost a
            setting's; runs refuse these.
        resources: Replacements for the resources of the settings: `collector`, `source`, `lake`,
            `display`.

    Raises:
        SettingsError: The environment is invalid.
    """
    settings = settings or Settings.load(misspelt="warn")
    return dg.Definitions(
        assets=_with_source(
            [
                stock_universe,
                build_daily_ticks(
                    session_partitions(settings.first_session), settings.sessions_per_run
                ),
                build_symbol_year_ticks(year_partitions(settings.first_session)),
                build_year_ticks(year_partitions(settings.first_session)),
                corporate_actions,
                securities,
                adjustment_factors,
                _report(settings),
            ]
        ),
        asset_checks=[
            universe_is_whole,
            build_freshness_check(settings),
            build_source_agrees(settings),
        ],
        jobs=[
            daily_ticks_job,
            repair_job,
            symbol_year_ticks_job,
            year_ticks_job,
            lake_report_job,
            corporate_actions_job,
            securities_job,
            witness_job,
            freshness_job,
            *_lambda_jobs(settings),
        ],
        schedules=[build_daily_schedule(settings)],
        sensors=[
            *build_sensors(settings),
            build_actions_sensor(settings),
            build_securities_sensor(settings),
            build_freshness_sensor(settings),
            build_witness_sensor(settings),
            build_failure_sensor(settings),
        ],
        resources={
            "collector": build_collector(settings),
            "source": build_source(settings),
            "lake": build_lake(settings),
            "display": display,
            "clock": clock,
            **resources,
        },
        # A subprocess per step would import everything again, which takes six seconds.
        executor=dg.in_process_executor,
    )


def _report(settings: Settings) -> dg.AssetsDefinition:
    """The report, which is told what only the automation knows."""
    delay = timedelta(minutes=settings.collect_after_minutes)
    return build_lake_report(
        settings.first_session,
        weekly=settings.running_year == "weekly",
        following=lambda now: NextSession(*due.following(now, delay)),
        latest_runs=runs.latest,
    )


def _with_source(assets: list[dg.AssetsDefinition]) -> list[Any]:
    """The assets, each with a link to its code for the UI of a local Dagster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return list(dg.with_source_code_references(assets))


def _lambda_jobs(settings: Settings) -> list[dg.JobDefinition]:
    """The job that collects with a Lambda function, if one is configured."""
    if not settings.lambda_function:
        return []
    partitions = session_partitions(settings.first_session)
    return [build_lambda_session_job(settings.lambda_function, partitions)]


if TYPE_CHECKING:
    defs: dg.Definitions


# Dagster searches the names in `dir` for definitions.
def __dir__() -> list[str]:
    return sorted({*globals(), "defs"})


def __getattr__(name: str) -> Any:
    if name != "defs":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, build_definitions())
