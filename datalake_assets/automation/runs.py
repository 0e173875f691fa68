"""Dagster's runs: what is in progress and what was done for sessions and years.

Belongs here: queries of Dagster's instance, few and quick whatever its history, for the sensors and
the report, and marking lost runs as failed. Does not belong here: what follows from the answers
(`due`, `sensors`), and when a run is lost (`liveness`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

from datalake_assets import liveness, market_calendar
from datalake_assets.assets.failure import reason, run_reason
from datalake_assets.automation.due import Attempt
from datalake_assets.automation.jobs import OUR_JOBS, Jobs
from datalake_assets.collection.clock import Clock
from datalake_assets.overview.runs import Run, Runs

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

PURPOSE = "datalake/purpose"
"""The tag with the purpose of a sensor's runs. It tells attempts of different kinds apart."""

TERMINAL = "datalake/terminal"
"""The tag of runs that were started in a terminal with `datalake`."""

_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_UNFINISHED = [status for status in dg.DagsterRunStatus if status not in _ENDED]

_LATEST = 20
"""How many attempts are read: more than a sensor makes for one reason; a year has had hundreds."""

_SHOWN, _SEARCHED = 10, 200
"""How many runs are shown, and among how many they are looked for: Dagster may run other code."""

_COUNTED = timedelta(days=30)
"""For how long a failed run is shown and counted."""

_OUTCOMES = {
    dg.DagsterRunStatus.SUCCESS: "succeeded",
    dg.DagsterRunStatus.FAILURE: "failed",
    dg.DagsterRunStatus.CANCELED: "canceled",
    dg.DagsterRunStatus.QUEUED: "queued",
}

_PARTITION = "dagster/partition"
_RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")


def collected(instance: dg.DagsterInstance, asset: dg.AssetKey) -> frozenset[str]:
    """The materialized partitions of an asset."""
    return frozenset(instance.get_materialized_partitions(asset))


def begin_tick(context: dg.SensorEvaluationContext, clock: Clock, jobs: Jobs) -> datetime:
    """The time of a sensor's tick, after ending lost runs."""
    now = clock.now()
    for ended in end_lost(context.instance, now, jobs):
        context.log.warning(ended)
    return now


def end_lost(instance: dg.DagsterInstance, now: datetime, jobs: Jobs = OUR_JOBS) -> list[str]:
    """Mark each lost run of this program as failed, and say which and why.

    Then nothing waits for it, and its place in the queue is free. If a silent run was working after
    all, nothing breaks: sessions are written atomically, and never over a newer version.

    Args:
        instance: Dagster's instance.
        now: The time, UTC.
        jobs: The lake's jobs.
    """
    told = []
    going_on = dg.RunsFilter(statuses=list(liveness.GOING_ON))
    for record in instance.get_run_records(going_on):
        run = record.dagster_run
        ours = jobs.made(run) or liveness.TAG in run.tags
        if not ours or not (why := liveness.lost(instance, record, now)):
            continue
        # It may have ended since it was listed.
        again = instance.get_run_by_id(run.run_id)
        if again is None or again.status != run.status:
            continue
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, why)
        else:
            instance.report_run_failed(run, why)
        told.append(f"run {run.run_id[:8]} was marked as failed: {why}")
    return told


def _is_ours(run: dg.DagsterRun, jobs: Jobs) -> bool:
    # The tag has no name of a lake: beside other lakes, it tells nothing.
    return jobs.made(run) or (not jobs.names.lake and liveness.TAG in run.tags)


def asset_graph(context: dg.SensorEvaluationContext) -> BaseAssetGraph[Any] | None:
    """All assets that a sensor's code location has; None without a repository, as in some tests."""
    return context.repository_def.asset_graph if context.repository_def else None


def under_way(
    context: dg.SensorEvaluationContext, asset: dg.AssetKey, jobs: Collection[str]
) -> dict[str, str]:
    """The partitions of an asset that are queued or in progress, and in which run or backfill.

    Args:
        context: The sensor's context. Without a repository, asset backfills are ignored.
        asset: The asset.
        jobs: The jobs that include it.
    """
    instance, graph = context.instance, asset_graph(context)
    found: dict[str, str] = {}
    statuses = [BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING]
    for backfill in instance.get_backfills(filters=BulkActionsFilter(statuses=statuses)):
        keys: Iterable[str] = ()
        if graph and backfill.is_asset_backfill:
            target = backfill.get_asset_backfill_data(graph).target_subset
            if asset in target.asset_keys:
                keys = target.get_partitions_subset(asset).get_partition_keys()
        elif backfill.partition_set_name in {f"{job}_partition_set" for job in jobs}:
            keys = backfill.partition_names or ()
        found |= dict.fromkeys(keys, f"backfill {backfill.backfill_id} includes it")
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        if run.job_name in jobs or asset in (run.asset_selection or ()):
            found |= dict.fromkeys(partitions_of(run.tags), f"run {run.run_id[:8]} includes it")
    return found


def partitions_of(tags: Mapping[str, str]) -> list[str]:
    """The sessions or years of a run, from its tags."""
    if _PARTITION in tags:
        return [tags[_PARTITION]]
    first, last = (tags.get(name) for name in _RANGE)
    if not first or not last:
        return []
    if len(first) == 4:
        return [str(year) for year in range(int(first), int(last) + 1)]
    days = market_calendar.sessions(date.fromisoformat(first), date.fromisoformat(last))
    return [day.isoformat() for day in days]


def going_on(instance: dg.DagsterInstance, jobs: Collection[str]) -> str:
    """Which run of these jobs is queued or in progress, as text; empty if none is."""
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        if run.job_name in jobs:
            return f"run {run.run_id[:8]} of {run.job_name} is in progress"
    return ""


def attempts(
    instance: dg.DagsterInstance, purpose: str, partition: str | None = None
) -> list[Attempt]:
    """The newest runs that were requested for this purpose, and for this partition if given."""
    about = {_PARTITION: partition} if partition else {}
    records = instance.get_run_records(
        dg.RunsFilter(tags={PURPOSE: purpose, **about}), limit=_LATEST
    )
    return [
        Attempt(
            datetime.fromtimestamp(record.end_time or record.update_timestamp.timestamp(), UTC)
            if record.dagster_run.is_finished
            else None
        )
        for record in records
    ]


def materialized_at(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partitions: Iterable[str], now: datetime
) -> dict[str, datetime]:
    """When each of these partitions was last materialized, UTC; times in the future are ignored."""
    found = {}
    for key in partitions:
        so_far = dg.AssetRecordsFilter(
            asset_key=asset, asset_partitions=[key], before_timestamp=_after(now)
        )
        records = instance.fetch_materializations(so_far, limit=1).records
        if records:
            found[key] = datetime.fromtimestamp(records[0].timestamp, UTC)
    return found


def last_materialized(
    instance: dg.DagsterInstance, asset: dg.AssetKey, now: datetime
) -> datetime | None:
    """When any partition of an asset was last materialized, UTC, not later than now."""
    so_far = dg.AssetRecordsFilter(asset_key=asset, before_timestamp=_after(now))
    records = instance.fetch_materializations(so_far, limit=1).records
    return datetime.fromtimestamp(records[0].timestamp, UTC) if records else None


def newest_news(
    instance: dg.DagsterInstance,
    assets: Iterable[dg.AssetKey],
    jobs: Iterable[str],
    now: datetime,
) -> datetime | None:
    """When one of these assets was last materialized or a run of these jobs last failed, UTC.

    Times in the future, from a wrong clock, are ignored: they would stay the newest until then.
    """
    found = [last_materialized(instance, asset, now) for asset in assets]
    for job in jobs:
        failed = dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.FAILURE])
        for record in instance.get_run_records(failed, limit=_LATEST):
            if record.end_time and record.end_time < _after(now):
                found.append(datetime.fromtimestamp(record.end_time, UTC))
    return max(filter(None, found), default=None)


def latest(
    instance: dg.DagsterInstance, now: datetime, besides: str = "", jobs: Jobs = OUR_JOBS
) -> Runs:
    """The newest runs, and the newest that failed within 30 days, with their reasons.

    Args:
        instance: Dagster's instance.
        now: The time, UTC.
        besides: A run to leave out: the one that asks.
        jobs: The lake's jobs.
    """
    since = now - _COUNTED
    newest = [
        record
        for record in instance.get_run_records(limit=_SEARCHED)
        if _is_ours(record.dagster_run, jobs) and record.dagster_run.run_id != besides
    ]
    # Of jobs that run often, a failure may be older than the newest runs of all.
    failures = [
        record
        for record in instance.get_run_records(
            dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], created_after=since),
            limit=_SEARCHED,
        )
        if _is_ours(record.dagster_run, jobs)
    ]
    return Runs(
        since=since,
        newest=[_run(record) for record in newest[:_SHOWN]],
        failed=[
            _run(record, why_failed(instance, record.dagster_run.run_id))
            for record in failures[:_SHOWN]
        ],
        failures=len(failures),
    )


def why_failed(instance: dg.DagsterInstance, run_id: str) -> str:
    """Why a run failed: the reasons of its steps, or Dagster's own; a line for each."""
    # Of a run that failed there are few of these; the newest tells most of it.
    kinds = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    found = instance.get_records_for_run(run_id, of_type=kinds, limit=_LATEST).records
    events = [record.event_log_entry.get_dagster_event() for record in found]
    reasons = [reason(event) for event in events if event.is_step_failure]
    told = [run_reason(event) for event in events if not event.is_step_failure]
    return "\n".join(reasons or told) or "no reason given"


def _run(record: dg.RunRecord, why: str = "") -> Run:
    run = record.dagster_run
    chosen = sorted(key.to_user_string() for key in run.asset_selection or ())
    ended = record.end_time if run.is_finished else None
    return Run(
        run_id=run.run_id,
        # Dagster's own name for a selection of assets tells nothing.
        what=", ".join(chosen) if run.job_name.startswith("__") and chosen else run.job_name,
        partitions=partitions_of(run.tags),
        created=record.create_timestamp.astimezone(UTC),
        seconds=ended - record.start_time if ended and record.start_time else None,
        outcome=_OUTCOMES.get(run.status, "running"),
        reason=why,
    )


def _after(now: datetime) -> float:
    """Just after an instant, since the bounds of Dagster's queries are exclusive."""
    return now.timestamp() + 1e-3
