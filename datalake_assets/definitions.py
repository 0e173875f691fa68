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
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from datalake_assets.assets.corporate_actions import build_corporate_actions
from datalake_assets.assets.lake_report import build_lake_report
from datalake_assets.assets.securities import build_adjustment_factors, build_securities
from datalake_assets.assets.session_ticks import build_daily_ticks, build_minute_ticks
from datalake_assets.assets.source_agrees import build_source_agrees
from datalake_assets.assets.stock_universe import build_stock_universe
from datalake_assets.assets.symbol_year_ticks import build_symbol_year_ticks
from datalake_assets.assets.year_ticks import build_year_ticks
from datalake_assets.automation import due, runs
from datalake_assets.automation.actions import build_actions_sensor
from datalake_assets.automation.alerts import build_failure_sensor
from datalake_assets.automation.freshness import build_freshness_check, build_freshness_sensor
from datalake_assets.automation.jobs import Jobs, build_daily_schedule
from datalake_assets.automation.lambda_session import build_lambda_session_job
from datalake_assets.automation.securities import build_securities_sensor
from datalake_assets.automation.sensors import build_sensors
from datalake_assets.automation.witness import build_witness_sensor
from datalake_assets.checks import build_universe_is_whole
from datalake_assets.collection.audit import Thresholds
from datalake_assets.collection.dataset import DAILY, minute_dataset
from datalake_assets.io_manager import LakeIOManager
from datalake_assets.names import OURS, READER, Names
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

MINUTE_SESSIONS_PER_RUN = 21
"""The most sessions of minute bars that a backfill puts in one run: at 200 requests a minute they
take three quarters of an hour."""

_OWN: Mapping[str, str] = {}
"""Secrets are in the variables that the settings are named by."""


def build_source(settings: Settings, variables: Mapping[str, str] = _OWN) -> SourceResource:
    """The source of the settings: Alpaca with keys, the embedded exchange without."""
    if settings.source == "embedded":
        return EmbeddedExchangeResource()
    return with_defaults(
        AlpacaResource,
        # Variable names, not values: Dagster stores configuration in clear text.
        api_key=_variable("ALPACA_API_KEY", variables),
        secret_key=_variable("ALPACA_SECRET_KEY", variables),
        feed=settings.alpaca_feed,
        data_url=settings.alpaca_data_url,
        trading_url=settings.alpaca_trading_url,
    )


def build_collector(settings: Settings, variables: Mapping[str, str] = _OWN) -> CollectorResource:
    """The collector, with the settings as defaults of its options."""
    # The embedded exchange resembles the consolidated tape, whatever the feed is.
    feed = "sip" if settings.source == "embedded" else settings.alpaca_feed
    limits = Thresholds.of_feed(feed)
    return with_defaults(
        CollectorResource,
        max_workers=settings.max_workers,
        requests_per_minute=settings.requests_per_minute,
        symbols=settings.symbols or "",
        minute_symbols=settings.minute_symbols or "",
        min_coverage=limits.coverage,
        min_row_ratio=limits.row_ratio,
        silent_allowed=limits.silent_allowed,
        # The variable's name, not its value, which may contain a password.
        rate_limit=""
        if settings.rate_limit is None
        else _variable("DATALAKE_RATE_LIMIT", variables),
    )


def _variable(setting: str, variables: Mapping[str, str]) -> dg.EnvVar:
    return dg.EnvVar(variables.get(setting, setting))


def build_lake(settings: Settings) -> LakeResource:
    """The lake, with the settings as defaults of its options."""
    return with_defaults(
        LakeResource, uri=settings.lake_uri, upload_workers=settings.upload_workers
    )


def build_definitions(
    settings: Settings | None = None,
    names: Names = OURS,
    variables: Mapping[str, str] = _OWN,
    **resources: Any,
) -> dg.Definitions:
    """All assets, checks, jobs and resources of one lake. No executor is set, but on the jobs.

    Args:
        settings: The defaults. None reads the environment, and warns of names that are almost a
            setting's; runs refuse these.
        names: What the definitions are called, if there is another lake beside this one.
        variables: The environment variables that hold the secrets of the settings: setting →
            variable, if they have other names.
        resources: Replacements for the resources of the settings: `collector`, `source`, `lake`,
            `clock`, `display`, `reader`.

    Raises:
        SettingsError: The environment is invalid.
    """
    settings = settings or Settings.load(misspelt="warn")
    jobs, lake = (
        Jobs(names, minutes=settings.minutes != "off"),
        resources.get("lake") or build_lake(settings),
    )
    return dg.Definitions(
        assets=_with_source(
            [
                build_stock_universe(names),
                build_daily_ticks(
                    session_partitions(settings.first_session), settings.sessions_per_run, names
                ),
                *_minute_ticks(settings, names),
                build_symbol_year_ticks(year_partitions(settings.first_session), names),
                build_year_ticks(year_partitions(settings.first_session), names),
                build_corporate_actions(names),
                build_securities(names),
                build_adjustment_factors(names),
                _report(settings, jobs),
            ]
        ),
        asset_checks=[
            build_universe_is_whole(names),
            build_freshness_check(settings, names),
            build_source_agrees(settings, names),
        ],
        jobs=[*jobs.all, *_lambda_jobs(settings, names)],
        schedules=[build_daily_schedule(settings, jobs)],
        sensors=[
            *build_sensors(settings, jobs),
            build_actions_sensor(settings, jobs),
            build_securities_sensor(settings, jobs),
            build_freshness_sensor(settings, jobs),
            build_witness_sensor(settings, jobs),
            build_failure_sensor(settings, jobs),
        ],
        resources={
            names.of(name): resource
            for name, resource in {
                "collector": build_collector(settings, variables),
                "source": build_source(settings, variables),
                "lake": lake,
                "display": display,
                "clock": clock,
                READER: LakeIOManager(lake=lake),
                **resources,
            }.items()
        },
    )


def _minute_ticks(settings: Settings, names: Names) -> list[dg.AssetsDefinition]:
    """The asset of minute bars, if it is turned on."""
    dataset = minute_dataset(settings.minutes)
    if dataset is None:
        return []
    partitions = session_partitions(settings.first_session)
    return [build_minute_ticks(partitions, MINUTE_SESSIONS_PER_RUN, dataset, names)]


def _report(settings: Settings, jobs: Jobs) -> dg.AssetsDefinition:
    """The report, which is told what only the automation knows."""
    delay = timedelta(minutes=settings.collect_after_minutes)
    return build_lake_report(
        settings.first_session,
        weekly=settings.running_year == "weekly",
        following=lambda now: NextSession(*due.following(now, delay)),
        latest_runs=partial(runs.latest, jobs=jobs),
        minutes=settings.minutes != "off",
        names=jobs.names,
    )


def _with_source(assets: list[dg.AssetsDefinition]) -> list[Any]:
    """The assets, each with a link to its code for the UI of a local Dagster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return list(dg.with_source_code_references(assets))


def _lambda_jobs(settings: Settings, names: Names) -> list[dg.JobDefinition]:
    """The jobs that collect with a Lambda function, if one is configured."""
    if not settings.lambda_function:
        return []
    partitions = session_partitions(settings.first_session)
    return [
        build_lambda_session_job(settings.lambda_function, partitions, names, dataset)
        for dataset in (DAILY, minute_dataset(settings.minutes))
        if dataset
    ]


if TYPE_CHECKING:
    defs: dg.Definitions


# Dagster searches the names in `dir` for definitions.
def __dir__() -> list[str]:
    return sorted({*globals(), "defs"})


def __getattr__(name: str) -> Any:
    if name != "defs":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # For assets that are launched without one of the jobs. Whoever merges our definitions with
    # others keeps the executor of the others.
    executor = dg.Definitions(executor=dg.in_process_executor)
    return globals().setdefault(name, dg.Definitions.merge(build_definitions(), executor))
