"""The sensors, ticked at given times over Dagster's own records: what they ask for, and why not."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import create_run_for_test

from datalake_assets import market_calendar
from datalake_assets.assets.lake_report import KEY as LAKE_REPORT
from datalake_assets.automation import runs, sensors
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.lake.session_file import Session
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.liveness import SILENCE
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.automation.world import Asked, World, instants, moments, utc
from datalake_assets_tests.collection.tables import every, names
from datalake_assets_tests.lake.files import collected
from datalake_assets_tests.lake.minutes import collected_minutes, session_of


def live(
    world: World,
    first: str,
    last: str,
    *,
    passes: Callable[[Asked, list[Asked]], bool] = lambda one, before: True,
    off: tuple[str, str] = ("2000-01-01", "2000-01-02"),
    eventful: tuple[str, str] = ("2000-01-01", "2000-01-02"),
) -> list[Asked]:
    """Tick as `moments` says, unless the machine is off; each run takes until the next tick."""
    asked: list[Asked] = []
    running: list[Asked] = []
    for now in moments(first, last, eventful):
        world.clock.time = now
        for one in running:
            good = passes(one, asked)
            world.end(one.run_id, good=good, materialized=[one.partition] if good else [])
        running = []
        if utc(off[0]) <= now < utc(off[1]):
            continue
        for name in ("new_sessions", "second_look"):
            running += [world.launch(one, "daily_ticks_job") for one in world.tick(name)]
        asked += running
    return asked


def test_a_fortnight_with_all_that_happens(tmp_path: Path) -> None:
    """Thanksgiving, a half day after it, two days off, a source that is down for a day, and a
    session that passes at its third attempt.
    """
    world = World(tmp_path, utc("2025-11-24 21:00"), {"DATALAKE_START_DATE": "2025-11-24"})

    def passes(one: Asked, asked: list[Asked]) -> bool:
        if utc("2025-12-03 20:00") <= one.at < utc("2025-12-04 21:00"):
            return False
        attempts = [each for each in asked if (each.purpose, each.partition) == THIRD]
        return (one.purpose, one.partition) != THIRD or len(attempts) >= 3

    THIRD = ("new session", "2025-12-05")  # noqa: N806
    asked = live(
        world,
        "2025-11-24 21:00",
        "2025-12-08 23:50",
        passes=passes,
        off=("2025-12-01 00:00", "2025-12-03 00:00"),
        eventful=("2025-12-03 00:00", "2025-12-06 00:00"),
    )

    assert list(map(str, asked)) == [
        "11-24 22:00 new session: 2025-11-24",
        "11-25 22:00 new session: 2025-11-25",
        "11-25 22:00 second look: 2025-11-24",
        "11-26 22:00 new session: 2025-11-26",
        "11-26 22:00 second look: 2025-11-25",
        # Thursday is Thanksgiving; Friday closes at 13:00.
        "11-28 22:00 new session: 2025-11-28",
        "11-28 22:00 second look: 2025-11-26",
        # Off on Monday and Tuesday: caught up with as soon as it is on again.
        "12-03 00:00 new session: 2025-12-01",
        "12-03 00:00 new session: 2025-12-02",
        "12-03 00:00 second look: 2025-11-28",
        # Tuesday was collected after its second look was due. Wednesday's source is down.
        "12-03 22:00 new session: 2025-12-03",
        "12-03 22:00 second look: 2025-12-02",
        "12-03 22:20 new session: 2025-12-03",
        "12-03 22:20 second look: 2025-12-02",
        "12-03 23:00 new session: 2025-12-03",
        "12-03 23:00 second look: 2025-12-02",
        "12-04 00:40 new session: 2025-12-03",
        "12-04 00:40 second look: 2025-12-02",
        "12-04 05:20 new session: 2025-12-03",
        "12-04 05:20 second look: 2025-12-02",
        "12-04 17:30 new session: 2025-12-03",
        "12-04 17:30 second look: 2025-12-02",
        "12-04 22:00 new session: 2025-12-04",
        # The last attempts find it up again.
        "12-05 05:40 new session: 2025-12-03",
        "12-05 05:40 second look: 2025-12-02",
        # Friday passes at the third attempt.
        "12-05 22:00 new session: 2025-12-05",
        "12-05 22:00 second look: 2025-12-04",
        "12-05 22:20 new session: 2025-12-05",
        "12-05 23:00 new session: 2025-12-05",
        "12-08 22:00 new session: 2025-12-08",
        "12-08 22:00 second look: 2025-12-05",
    ]


def test_sessions_too_old_to_be_caught_up_with_are_named_with_what_to_type(tmp_path: Path) -> None:
    world = World(
        tmp_path,
        utc("2025-12-05 23:00"),
        {"DATALAKE_START_DATE": "2025-11-24", "DATALAKE_CATCH_UP_SESSIONS": "2"},
    )

    asked = [world.launch(one, "daily_ticks_job") for one in world.tick("new_sessions")]
    assert [one.partition for one in asked] == ["2025-12-04", "2025-12-05"]
    for one in asked:
        world.end(one.run_id, good=True, materialized=[one.partition])
    assert world.tick("new_sessions") == []

    assert world.skipped == (
        "the newest session, 2025-12-05, is published; "
        "2025-12-08 is collected from 2025-12-08 22:00 UTC; "
        "7 older sessions are missing and need a backfill: "
        "`datalake backfill --from 2025-11-24 --to 2025-12-03`"
    )


@pytest.mark.parametrize(
    "tags",
    [
        {"dagster/partition": "2025-12-05"},
        {
            "dagster/asset_partition_range_start": "2025-12-03",
            "dagster/asset_partition_range_end": "2025-12-08",
        },
    ],
)
@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTED", "CANCELING"])
def test_what_a_run_is_about_already_is_left_alone(
    tmp_path: Path, tags: dict[str, str], status: str
) -> None:
    world = World(tmp_path, utc("2025-12-05 23:00"), {"DATALAKE_START_DATE": "2025-12-05"})
    # As the UI names a run of selected assets.
    run = create_run_for_test(
        world.instance,
        job_name="__ASSET_JOB",
        asset_selection=frozenset({dg.AssetKey("daily_ticks")}),
        status=dg.DagsterRunStatus(status),
        tags=tags,
    )

    assert world.tick("new_sessions") == []
    assert world.skipped == f"2025-12-05: run {run.run_id[:8]} includes it"


@pytest.mark.parametrize(
    ("silent", "waited_for"),
    [
        (timedelta(minutes=5), True),
        (SILENCE - timedelta(seconds=1), True),
        (SILENCE, False),
        (timedelta(days=1), False),
    ],
)
def test_a_run_that_died_is_not_waited_for(
    tmp_path: Path, silent: timedelta, waited_for: bool
) -> None:
    world = World(tmp_path, utc("2025-12-05 23:00"), {"DATALAKE_START_DATE": "2025-12-05"})
    run = create_run_for_test(
        world.instance,
        job_name="daily_ticks_job",
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": "2025-12-05"},
    )
    world.log(run.run_id, "PIPELINE_START")
    world.clock.time += silent

    asked = world.tick("new_sessions")

    assert [one.partition_key for one in asked][:1] == ([] if waited_for else ["2025-12-05"])
    found = world.instance.get_run_by_id(run.run_id)
    assert found is not None
    assert found.is_finished is not waited_for
    if waited_for:
        assert world.skipped == f"2025-12-05: run {run.run_id[:8]} includes it"


def test_a_run_of_the_sensor_that_died_was_an_attempt(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-05 23:00"), {"DATALAKE_START_DATE": "2025-12-05"})
    (request,) = world.tick("new_sessions")
    one = world.launch(request, "daily_ticks_job")
    world.log(one.run_id, "PIPELINE_START")
    world.clock.time += SILENCE

    (again,) = world.tick("new_sessions")
    assert again.run_key == "new session 2025-12-05 #2"


@pytest.mark.parametrize("sensor", ["second_look", "repair", "years_follow", "report_follows"])
def test_every_sensor_ends_a_run_that_died(tmp_path: Path, sensor: str) -> None:
    world = World(tmp_path, utc("2025-12-05 23:00"))
    run = create_run_for_test(
        world.instance, job_name="daily_ticks_job", status=dg.DagsterRunStatus.STARTED
    )
    world.log(run.run_id, "PIPELINE_START")
    world.clock.time += timedelta(days=1)

    world.tick(sensor)

    ended = world.instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE


def test_what_a_backfill_is_about_is_left_alone(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-05 23:00"), {"DATALAKE_START_DATE": "2025-12-04"})
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="abc",
        asset_graph=world.repository.asset_graph,
        partition_names=["2025-12-05"],
        asset_selection=[dg.AssetKey("daily_ticks")],
        backfill_timestamp=world.clock.time.timestamp(),
        tags={},
        dynamic_partitions_store=world.instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    world.instance.add_backfill(backfill)

    assert [one.partition_key for one in world.tick("new_sessions")] == ["2025-12-04"]
    world.instance.update_backfill(backfill.with_status(BulkActionStatus.CANCELED))
    assert [one.partition_key for one in world.tick("new_sessions")] == ["2025-12-05"]


def test_runs_of_other_assets_and_runs_that_ended_are_in_nobodys_way(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-05 23:00"), {"DATALAKE_START_DATE": "2025-12-05"})
    for name, status in (("symbol_year_ticks", "STARTED"), ("daily_ticks", "CANCELED")):
        create_run_for_test(
            world.instance,
            job_name="__ASSET_JOB",
            asset_selection=frozenset({dg.AssetKey(name)}),
            status=dg.DagsterRunStatus(status),
            tags={"dagster/partition": "2025-12-05"},
        )

    assert [one.partition_key for one in world.tick("new_sessions")] == ["2025-12-05"]


def test_the_second_look_is_off_by_one_switch(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-05 23:00"), {"DATALAKE_SECOND_LOOK_SESSIONS": "0"})

    assert world.tick("second_look") == []
    assert "DATALAKE_SECOND_LOOK_SESSIONS is 0" in world.skipped


def test_a_session_collected_late_enough_is_not_looked_at_again(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-05 21:59"), {"DATALAKE_START_DATE": "2025-12-04"})
    run = create_run_for_test(world.instance, job_name="daily_ticks_job")
    world.clock.time = utc("2025-12-05 22:00")
    world.end(run.run_id, good=True, materialized=["2025-12-04"])

    world.clock.time = utc("2025-12-05 23:00")
    assert world.tick("second_look") == []


# Repairs


def session(day: date) -> Session:
    """A whole session of five symbols."""
    return collected(day, every(names(5), [day]))


def broken_lake(world: World, days: list[date], missing: int = 1) -> LakeWriter:
    lake = LakeWriter(open_store(world.lake.uri))
    for day in days:
        fail(lake, day, missing)
    return lake


def fail(lake: LakeWriter, day: date, missing: int) -> None:
    """Publish a session in which so many symbols failed."""
    whole = session(day)
    failed = {f"F{number:05}": "boom" for number in range(missing)}
    ledger = replace(whole.ledger, failed=failed) if missing else whole.ledger
    lake.publish(replace(whole, ledger=ledger), [])


def mend(lake: LakeWriter, day: date) -> None:
    fail(lake, day, 0)


def test_three_hundred_broken_sessions_are_healed_in_the_days_expected_within_the_budget(
    tmp_path: Path,
) -> None:
    """120 requests a day, one for each session: three days."""
    world = World(tmp_path, utc("2025-12-08 23:00"), {"DATALAKE_REPAIR_REQUESTS_PER_DAY": "120"})
    days = market_calendar.sessions(date(2024, 1, 2), date(2025, 12, 1))[:300]
    lake = broken_lake(world, days)
    spent: dict[str, int] = {}
    healed: list[str] = []
    world.clock.time = utc("2025-12-09 00:00")
    while len(healed) < len(days):
        asked = [(request, world.launch(request, "repair_job")) for request in world.tick("repair")]
        for request, one in asked:
            mend(lake, date.fromisoformat(one.partition))
            world.instance.add_run_tags(one.run_id, {sensors.REQUESTS_TAG: "1"})
            world.end(one.run_id, good=True)
            today = request.tags[sensors.DAY_TAG]
            spent[today] = spent.get(today, 0) + 1
            healed.append(one.partition)
        world.clock.time += timedelta(minutes=10)
        assert world.clock.time < utc("2025-12-20 00:00")

    assert spent == {"2025-12-09": 120, "2025-12-10": 120, "2025-12-11": 60}
    assert healed == sorted(healed), "oldest harm first"
    world.tick("repair")
    assert world.skipped == "no session is incomplete"


def test_a_repair_may_use_what_is_left_of_the_day_and_no_more(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-08 23:00"), {"DATALAKE_REPAIR_REQUESTS_PER_DAY": "5"})
    broken_lake(world, [date(2025, 11, 24), date(2025, 11, 25), date(2025, 11, 26)], missing=501)

    asked = world.tick("repair")

    granted = [one.run_config["resources"]["collector"]["config"]["max_requests"] for one in asked]
    assert granted == [5], "two are needed, three are for failures; nothing is left for a second"
    assert all(one.run_config["resources"]["collector"]["config"]["repair"] for one in asked)
    world.launch(asked[0], "repair_job")
    assert world.tick("repair") == []
    assert "2025-11-25: needs 2 requests, 0 are left for today" in world.skipped


def test_what_can_not_be_healed_is_told_and_not_asked_for_for_ever(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-08 23:00"))
    day = date(2025, 11, 24)
    lake = broken_lake(world, [day], missing=3)
    asked = 0
    for now in instants("2025-12-09 00:00", "2025-12-12 00:00", 30):
        world.clock.time = now
        for request in world.tick("repair"):
            one = world.launch(request, "repair_job")
            fail(lake, day, 3)
            world.end(one.run_id, good=True)
            asked += 1

    assert asked == 3
    assert world.skipped == (
        "2025-11-24: gave up after 3 repairs, 3 symbols are missing; run "
        "`datalake collect --session 2025-11-24 --repair`"
    )
    fail(lake, day, 2)  # somebody found one of them
    assert len(world.tick("repair")) == 1
    mend(lake, day)
    assert world.tick("repair") == []
    assert world.skipped == "no session is incomplete"


def test_a_session_that_waits_in_incomplete_is_repaired(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-08 23:00"))
    lake = LakeWriter(open_store(world.lake.uri))
    day = date(2025, 11, 24)
    whole = session(day)
    lake.keep_incomplete(replace(whole, ledger=replace(whole.ledger, pending=("ZZZ",))), [])

    assert [one.partition_key for one in world.tick("repair")] == ["2025-11-24"]
    lake.publish(whole, [])
    world.clock.time += timedelta(hours=2)
    assert world.tick("repair") == []
    assert world.skipped == "no session is incomplete"


def test_the_newest_sessions_are_left_to_the_sensor_that_collects_them(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-05 23:00"))
    lake = LakeWriter(open_store(world.lake.uri))
    whole = session(date(2025, 12, 5))
    lake.keep_incomplete(replace(whole, ledger=replace(whole.ledger, pending=("ZZZ",))), [])

    assert world.tick("repair") == []
    assert world.skipped == "2025-12-05: left to the sensor new_sessions"


def test_repairs_are_off_without_a_budget(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-08 23:00"), {"DATALAKE_REPAIR_REQUESTS_PER_DAY": "0"})

    assert world.tick("repair") == []
    assert "DATALAKE_REPAIR_REQUESTS_PER_DAY is 0" in world.skipped


# The years


def test_a_year_is_published_once_after_its_sessions_and_not_while_they_are_collected(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, utc("2025-12-08 23:00"))
    lake = LakeWriter(open_store(world.lake.uri))
    for day in (date(2024, 12, 31), date(2025, 1, 2), date(2025, 1, 3)):
        mend(lake, day)
    busy = create_run_for_test(
        world.instance,
        job_name="daily_ticks_job",
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": "2025-01-06"},
    )

    (in_file, first) = world.tick("years_follow")
    assert (in_file.job_name, in_file.partition_key) == ("year_ticks_job", "2024")
    assert (first.job_name, first.partition_key) == ("symbol_year_ticks_job", "2024")
    mend(lake, date(2025, 1, 6))
    world.end(busy.run_id, good=True)
    run = world.launch(first, "symbol_year_ticks_job")
    (in_file, second) = world.tick("years_follow")
    assert (in_file.partition_key, second.partition_key) == ("2025", "2025")
    for year in (2024, 2025):
        YearFiles(lake.store).publish(year)
    SymbolYears(lake.store).publish(2024)
    world.end(run.run_id, good=True)
    run = world.launch(second, "symbol_year_ticks_job")
    SymbolYears(lake.store).publish(2025)
    world.end(run.run_id, good=True)

    assert world.tick("years_follow") == []
    assert world.skipped == "every year is up to date"
    world.clock.time += timedelta(minutes=1)
    fail(lake, date(2024, 12, 31), 1)  # another file with the same bars, as a copy is
    assert world.tick("years_follow") == []
    day = date(2024, 12, 31)
    lake.publish(collected(day, every(names(1), [day]), minutes=9), [])
    assert [one.partition_key for one in world.tick("years_follow")] == ["2024", "2024"]


def test_the_year_file_of_the_running_year_follows_each_session_and_symbol_years_once_a_week(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, utc("2025-12-08 23:00"))
    lake = LakeWriter(open_store(world.lake.uri))
    mend(lake, date(2025, 12, 5))
    SymbolYears(lake.store).publish(2025)
    YearFiles(lake.store).publish(2025)
    assert world.tick("years_follow") == []

    mend(lake, date(2025, 12, 8))
    (only,) = world.tick("years_follow")

    assert (only.job_name, only.partition_key) == ("year_ticks_job", "2025")
    assert only.tags[runs.PURPOSE] == "year file"
    YearFiles(lake.store).publish(2025)
    assert world.tick("years_follow") == []
    assert world.skipped == (
        "2025: it follows with the session of 2025-12-12, the last of its week"
    )


def test_a_year_that_can_not_be_published_is_tried_with_growing_pauses_and_given_up(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, utc("2025-12-08 23:00"))
    lake = LakeWriter(open_store(world.lake.uri))
    mend(lake, date(2025, 1, 2))
    YearFiles(lake.store).publish(2025)
    # The runs come after the session, by the clock of the world and of the lake's files.
    start = max(lake.store.modified(layout.SESSIONS).values()) + timedelta(minutes=1)
    asked = []
    for minutes in range(0, 3 * 24 * 60, 10):
        world.clock.time = start + timedelta(minutes=minutes)
        for request in world.tick("years_follow"):
            run = world.launch(request, "symbol_year_ticks_job")
            world.end(run.run_id, good=False)
            asked.append(minutes)

    assert asked == [0, 10, 40, 130, 400, 1120, 1840]
    assert world.skipped == (
        "2025: gave up after 7 attempts; see the last run, then run `datalake publish --year 2025`"
    )


# The report


def test_the_report_is_written_once_after_all_that_happened(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-05 22:00"))
    assert world.tick("report_follows") == []
    one, other = (
        create_run_for_test(
            world.instance,
            job_name="daily_ticks_job",
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": day},
        )
        for day in ("2025-12-04", "2025-12-05")
    )
    world.end(one.run_id, good=True, materialized=["2025-12-04"])
    assert world.tick("report_follows") == []
    assert world.skipped == "1 partition is still in progress"

    world.clock.time = utc("2025-12-05 22:10")
    world.end(other.run_id, good=False)
    assert len(world.tick("report_follows")) == 1
    assert world.tick("report_follows") == [], "the same run key"
    report = create_run_for_test(world.instance, job_name="lake_report_job")
    world.clock.time = utc("2025-12-05 22:11")
    world.end(report.run_id, good=True, materialized=[None], asset=LAKE_REPORT)
    assert world.tick("report_follows") == []
    assert world.skipped == "nothing has changed since the last report"


@pytest.mark.parametrize(
    ("asset", "job"),
    [("corporate_actions", "corporate_actions_job"), ("adjustment_factors", "securities_job")],
)
def test_the_report_follows_new_actions_and_new_factors_too(
    tmp_path: Path, asset: str, job: str
) -> None:
    world = World(tmp_path, utc("2025-12-05 22:00"))
    report = create_run_for_test(world.instance, job_name="lake_report_job")
    world.end(report.run_id, good=True, materialized=[None], asset=LAKE_REPORT)
    world.clock.time = utc("2025-12-05 22:10")
    run = create_run_for_test(world.instance, job_name=job, status=dg.DagsterRunStatus.STARTED)
    session = create_run_for_test(world.instance, job_name="daily_ticks_job")
    world.end(session.run_id, good=True, materialized=["2025-12-05"])
    assert world.tick("report_follows") == []
    assert world.skipped == f"run {run.run_id[:8]} of {job} is in progress"
    world.clock.time = utc("2025-12-05 22:20")
    world.end(run.run_id, good=True, materialized=[None], asset=dg.AssetKey(asset))
    (request,) = world.tick("report_follows")
    assert "22:20" in str(request.run_key)


def test_a_report_that_failed_is_tried_again_with_growing_pauses_and_given_up(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, utc("2025-12-05 22:00"))
    run = create_run_for_test(world.instance, job_name="daily_ticks_job")
    world.end(run.run_id, good=True, materialized=["2025-12-05"])
    asked = []
    # Every ten minutes while the pauses are short.
    for minutes in (*range(0, 400, 10), *range(400, 3 * 24 * 60, 40)):
        world.clock.time = utc("2025-12-05 22:01") + timedelta(minutes=minutes)
        for request in world.tick("report_follows"):
            report = create_run_for_test(
                world.instance, job_name="lake_report_job", tags=request.tags
            )
            world.end(report.run_id, good=False)
            asked.append(minutes)

    assert asked == [0, 10, 40, 130, 400, 1120, 1840]
    assert world.skipped == (
        "lake_report: gave up after 7 attempts; see the last run, then run "
        "`dagster asset materialize -m datalake_assets.definitions --select lake_report`"
    )
    world.end(run.run_id, good=True, materialized=["2025-12-08"])
    assert len(world.tick("report_follows")) == 1


# Minute bars

MINUTE_TICKS = dg.AssetKey("minute_ticks")


def minutes_world(tmp_path: Path, now: str, minutes: str = "regular", **environ: str) -> World:
    return World(tmp_path, utc(now), {"DATALAKE_MINUTES": minutes, **environ})


def published(world: World, *days: str, asset: str = "daily_ticks") -> None:
    """Let a run that ended have published these sessions."""
    run = create_run_for_test(
        world.instance, job_name=f"{asset}_job", status=dg.DagsterRunStatus.STARTED
    )
    world.end(run.run_id, good=True, materialized=days, asset=dg.AssetKey(asset))


def published_at(world: World, at: str, *days: str, asset: str) -> None:
    """Let a run that ended at another time have published these sessions."""
    now, world.clock.time = world.clock.time, utc(at)
    published(world, *days, asset=asset)
    world.clock.time = now


def test_without_minute_bars_there_is_no_sensor_for_them(tmp_path: Path) -> None:
    world = World(tmp_path, utc("2025-12-05 23:00"))

    assert not world.repository.has_sensor_def("new_minutes")


def test_minutes_are_collected_on_their_evening_once_their_daily_bars_are_published(
    tmp_path: Path,
) -> None:
    world = minutes_world(tmp_path, "2025-12-05 23:00", DATALAKE_START_DATE="2025-12-04")
    published(world, "2025-12-04")

    (request,) = world.tick("new_minutes")
    assert (request.partition_key, request.job_name) == ("2025-12-04", None)
    assert request.tags[runs.PURPOSE] == "new minutes"
    one = world.launch(request, "minute_ticks_job")
    world.end(one.run_id, good=True, materialized=["2025-12-04"], asset=MINUTE_TICKS)
    assert world.tick("new_minutes") == []
    assert world.skipped == "2025-12-05: waits until its daily bars are published"

    published(world, "2025-12-05")
    assert [each.partition_key for each in world.tick("new_minutes")] == ["2025-12-05"]
    published(world, "2025-12-05", asset="minute_ticks")
    assert world.tick("new_minutes") == []
    assert world.skipped == (
        "the newest session, 2025-12-05, is published; "
        "2025-12-08 is collected from 2025-12-08 22:16 UTC"
    )


def test_minutes_that_failed_are_tried_again_after_a_pause(tmp_path: Path) -> None:
    world = minutes_world(tmp_path, "2025-12-05 23:00", DATALAKE_START_DATE="2025-12-05")
    published(world, "2025-12-05")
    (request,) = world.tick("new_minutes")
    world.end(world.launch(request, "minute_ticks_job").run_id, good=False)

    assert world.tick("new_minutes") == []
    assert world.skipped == "2025-12-05: attempt 1 failed, the next is at 2025-12-05 23:10 UTC"
    world.clock.time += timedelta(minutes=10)
    (again,) = world.tick("new_minutes")
    assert again.run_key == "new minutes 2025-12-05 #2"


@pytest.mark.parametrize(
    ("now", "due"),
    [
        # 20:00 in New York is 01:00 UTC in winter; 16 minutes, and DATALAKE_COLLECT_AFTER_MINUTES.
        ("2025-12-06 02:35", False),
        ("2025-12-06 02:36", True),
    ],
)
def test_minutes_of_extended_hours_wait_until_these_are_over_and_served(
    tmp_path: Path, now: str, due: bool
) -> None:
    world = minutes_world(
        tmp_path,
        now,
        "extended",
        DATALAKE_START_DATE="2025-12-05",
        DATALAKE_COLLECT_AFTER_MINUTES="80",
    )
    published(world, "2025-12-05")

    assert [each.partition_key for each in world.tick("new_minutes")] == ["2025-12-05"] * due


def test_a_second_look_at_minutes_is_off_unless_it_is_set(tmp_path: Path) -> None:
    world = minutes_world(tmp_path, "2025-12-08 23:00")
    published_at(world, "2025-12-05 22:30", "2025-12-05", asset="minute_ticks")

    assert world.tick("second_look_at_minutes") == []
    assert world.skipped == "DATALAKE_MINUTE_SECOND_LOOK_SESSIONS is 0: nothing is collected again"
    off = World(tmp_path, utc("2025-12-08 23:00"), {"DATALAKE_MINUTE_SECOND_LOOK_SESSIONS": "1"})
    assert not off.repository.has_sensor_def("second_look_at_minutes")


@pytest.mark.parametrize(
    ("minutes", "now", "due"),
    [
        # The close of Monday, 16 minutes and DATALAKE_COLLECT_AFTER_MINUTES later.
        ("regular", "2025-12-08 22:15", False),
        ("regular", "2025-12-08 22:16", True),
        # Its extended hours end at 01:00 UTC.
        ("extended", "2025-12-09 02:15", False),
        ("extended", "2025-12-09 02:16", True),
    ],
)
def test_minutes_are_looked_at_again_with_a_later_session(
    tmp_path: Path, minutes: str, now: str, due: bool
) -> None:
    on = {"DATALAKE_MINUTE_SECOND_LOOK_SESSIONS": "1", "DATALAKE_START_DATE": "2025-12-04"}
    world = minutes_world(tmp_path, now, minutes, **on)
    for asset in ("daily_ticks", "minute_ticks"):
        # Of Thursday the minutes were collected again on Saturday; of Monday never.
        published_at(world, "2025-12-06 12:00", "2025-12-04", "2025-12-05", asset=asset)

    found = world.tick("second_look_at_minutes")

    assert [each.partition_key for each in found] == ["2025-12-05"] * due
    for request in found:
        assert request.tags[runs.PURPOSE] == "second look at minutes"
        one = world.launch(request, "minute_ticks_job")
        assert world.tick("second_look_at_minutes") == []
        world.end(one.run_id, good=True, materialized=["2025-12-05"], asset=MINUTE_TICKS)
        assert world.tick("second_look_at_minutes") == []
        assert world.skipped == "every session had its second look"


def test_minutes_whose_second_look_fails_are_named_with_what_to_type(tmp_path: Path) -> None:
    on = {"DATALAKE_MINUTE_SECOND_LOOK_SESSIONS": "1", "DATALAKE_START_DATE": "2025-12-05"}
    world = minutes_world(tmp_path, "2025-12-08 23:00", **on)
    published_at(world, "2025-12-05 22:30", "2025-12-05", asset="minute_ticks")
    for now in instants("2025-12-08 23:00", "2025-12-10 12:00", 60):
        world.clock.time = now
        for request in world.tick("second_look_at_minutes"):
            world.end(world.launch(request, "minute_ticks_job").run_id, good=False)

    assert world.skipped == (
        "2025-12-05: gave up after 7 attempts; see the last run, then run "
        "`datalake collect --minutes --session 2025-12-05`"
    )


def test_minutes_older_than_their_first_session_are_not_missing(tmp_path: Path) -> None:
    world = minutes_world(
        tmp_path,
        "2025-12-05 23:00",
        DATALAKE_START_DATE="2025-11-03",
        DATALAKE_CATCH_UP_SESSIONS="1",
    )
    published(world, "2025-12-05")
    published(world, "2025-12-02", "2025-12-05", asset="minute_ticks")

    assert world.tick("new_minutes") == []
    assert world.skipped.endswith(
        "2 older sessions are missing and need a backfill: "
        "`datalake backfill --minutes --from 2025-12-03 --to 2025-12-04`"
    )


def minutes_with_holes(world: World, day: date, present: int, pending: int) -> LakeWriter:
    """Daily bars of a busy session, and its minutes without some of the symbols."""
    symbols = names(present + pending)
    bars = every(symbols, [day])
    busy = pa.array([1_000_000] * bars.num_rows)
    position = bars.schema.get_field_index("trade_count")
    lake = LakeWriter(open_store(world.lake.uri))
    lake.publish(collected(day, bars.set_column(position, "trade_count", busy)), [])
    minutes = lake.of(MINUTE)
    some = session_of(symbols[:present], day)
    minutes.keep_incomplete(collected_minutes(day, some, pending=symbols[present:]), [])
    return minutes


def test_a_repair_of_minutes_is_granted_the_requests_that_its_bars_take(tmp_path: Path) -> None:
    world = minutes_world(tmp_path, "2025-12-08 23:00")
    day = date(2025, 11, 24)
    minutes_with_holes(world, day, present=2, pending=60)

    (request,) = world.tick("repair")

    assert (request.partition_key, request.job_name) == (str(day), "minute_ticks_job")
    knobs = request.run_config["resources"]["collector"]["config"]
    # 60 symbols x 390 minutes are three pages, although their names fit into one request.
    assert knobs == {"repair": True, "max_requests": 6}


def test_minutes_and_daily_bars_share_the_repairs_of_a_day(tmp_path: Path) -> None:
    world = minutes_world(tmp_path, "2025-12-08 23:00", DATALAKE_REPAIR_REQUESTS_PER_DAY="6")
    day = date(2025, 11, 24)
    minutes_with_holes(world, day, present=2, pending=60)
    fail(LakeWriter(open_store(world.lake.uri)), day, 1)

    (request,) = world.tick("repair")
    assert request.job_name == "repair_job"
    world.launch(request, "repair_job")
    assert world.tick("repair") == []
    assert f"minute bars of {day}: needs 3 requests, 2 are left for today" in world.skipped


def test_the_newest_minutes_are_left_to_the_sensor_that_collects_them(tmp_path: Path) -> None:
    world = minutes_world(tmp_path, "2025-12-05 23:00")
    minutes_with_holes(world, date(2025, 12, 5), present=1, pending=1)
    published(world, "2025-12-05")

    assert world.tick("repair") == []
    assert world.skipped == "minute bars of 2025-12-05: left to the sensor new_minutes"


def test_minutes_that_can_not_be_healed_are_told_with_what_to_type(tmp_path: Path) -> None:
    world = minutes_world(tmp_path, "2025-12-08 23:00")
    day = date(2025, 11, 24)
    minutes_with_holes(world, day, present=1, pending=1)
    for now in instants("2025-12-09 00:00", "2025-12-10 12:00", 60):
        world.clock.time = now
        for request in world.tick("repair"):
            world.end(world.launch(request, "minute_ticks_job").run_id, good=False)

    assert world.skipped == (
        f"minute bars of {day}: gave up after 3 repairs, 1 symbol is missing; run "
        f"`datalake collect --minutes --session {day} --repair`"
    )


def test_the_report_follows_new_minutes_too(tmp_path: Path) -> None:
    world = minutes_world(tmp_path, "2025-12-05 23:00")
    published(world, "2025-12-05", asset="minute_ticks")

    assert len(world.tick("report_follows")) == 1
