"""The newest runs for the report, from Dagster's own records of real runs."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from datalake_assets.assets.failure import Failed
from datalake_assets.automation.runs import latest

DAILY = dg.DailyPartitionsDefinition("2024-07-01")


class Config(dg.Config):
    """Whether it fails."""

    fails: bool = False


@dg.asset(name="daily_ticks", partitions_def=DAILY)
def ours(config: Config) -> None:
    if config.fails:
        raise Failed("1 session did not pass the audit:\n2024-07-02: coverage")


@dg.asset(name="theirs")
def theirs() -> None:
    raise ValueError("somebody else's")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as records:
        yield records


def now() -> datetime:
    return datetime.now(UTC)


def run(instance: dg.DagsterInstance, day: str, *, fails: bool = False) -> str:
    """Materialize a session in a job of ours; the run's identifier."""
    job = dg.Definitions(
        assets=[ours], jobs=[dg.define_asset_job("daily_ticks_job", selection=[ours])]
    ).resolve_job_def("daily_ticks_job")
    config = {"ops": {"daily_ticks": {"config": {"fails": fails}}}}
    return job.execute_in_process(
        config, partition_key=day, instance=instance, raise_on_error=False
    ).run_id


def test_the_newest_run_comes_first_with_its_partition_and_outcome(
    instance: dg.DagsterInstance,
) -> None:
    first, second = run(instance, "2024-07-01"), run(instance, "2024-07-02", fails=True)

    found = latest(instance, now())

    told = [(each.run_id, each.what, each.partitions, each.outcome) for each in found.newest]
    assert told == [
        (second, "daily_ticks_job", ["2024-07-02"], "failed"),
        (first, "daily_ticks_job", ["2024-07-01"], "succeeded"),
    ]
    for each in found.newest:
        assert each.seconds is not None
        assert each.seconds >= 0
        assert abs(each.created - now()) < timedelta(minutes=10)


def test_a_failed_run_has_the_reason_of_its_step_without_a_stack_trace(
    instance: dg.DagsterInstance,
) -> None:
    failed = run(instance, "2024-07-02", fails=True)
    run(instance, "2024-07-01")

    found = latest(instance, now())

    (only,) = found.failed
    assert (only.run_id, found.failures) == (failed, 1)
    assert only.reason == "1 session did not pass the audit:\n2024-07-02: coverage"


def test_a_run_that_failed_outside_its_steps_has_dagster_s_reason(
    instance: dg.DagsterInstance,
) -> None:
    lost = create_run_for_test(
        instance, job_name="daily_ticks_job", status=dg.DagsterRunStatus.STARTED
    )
    instance.report_run_failed(lost, "its process is gone")
    (only,) = latest(instance, now()).failed
    assert only.reason == "its process is gone"
    assert only.seconds is None


def test_runs_of_other_code_and_the_asking_run_are_left_out(instance: dg.DagsterInstance) -> None:
    dg.materialize([theirs], instance=instance, raise_on_error=False)
    asking = run(instance, "2024-07-01")
    found = latest(instance, now(), asking)
    assert (list(found.newest), list(found.failed), found.failures) == ([], [], 0)


def test_a_run_that_was_started_by_selecting_assets_is_named_after_them(
    instance: dg.DagsterInstance,
) -> None:
    create_run_for_test(
        instance,
        job_name="__ASSET_JOB",
        asset_selection=frozenset({dg.AssetKey("securities"), dg.AssetKey("adjustment_factors")}),
        status=dg.DagsterRunStatus.STARTED,
    )
    (only,) = latest(instance, now()).newest
    assert only.what == "adjustment_factors, securities"
    assert (only.outcome, only.seconds, only.partitions) == ("running", None, [])


def test_ten_are_shown_and_all_failures_counted(instance: dg.DagsterInstance) -> None:
    for _ in range(11):
        lost = create_run_for_test(instance, job_name="repair_job")
        instance.report_run_failed(lost, "boom")
    found = latest(instance, now())
    assert (len(found.newest), len(found.failed), found.failures) == (10, 10, 11)


def test_failures_older_than_30_days_do_not_count(instance: dg.DagsterInstance) -> None:
    run(instance, "2024-07-02", fails=True)
    at = now()
    assert latest(instance, at + timedelta(days=29)).failures == 1
    later = latest(instance, at + timedelta(days=31))
    assert (later.failures, list(later.failed)) == (0, [])
    assert later.since == at + timedelta(days=1)
