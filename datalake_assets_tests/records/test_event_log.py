"""Dagster's records by our storages are those that Dagster's own would have made.

The same runs are recorded twice, by Dagster's storage and by ours, and every row of every table
that an event writes is compared.
"""

import contextlib
import inspect
import json
import os
import secrets
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as db
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.api import execute_run_iterator
from dagster._core.storage.event_log import SqlEventLogStorage, SqliteEventLogStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._time import get_current_timestamp
from dagster_postgres import DagsterPostgresStorage, PostgresEventLogStorage

from datalake_assets.assets.session_ticks import _Materializations
from datalake_assets.automation.runs import end_lost
from datalake_assets.collection.collect import Page
from datalake_assets.records.event_log import AssetEventLog, together
from datalake_assets.records.postgres import PostgresEventLog
from datalake_assets.records.sqlite import SqliteEventLog, SqliteStorage
from datalake_assets_tests.postgres import NOT_HERE, PostgresServer, binaries
from datalake_assets_tests.workbench import DAYS, QUIET, Market, Workbench, failure, names

ROOT = Path(__file__).parents[2]
SQLITE = """
storage:
  custom:
    module: datalake_assets.records.sqlite
    class: SqliteStorage
    config:
      base_dir: {home}
"""
TICKS = dg.AssetKey("daily_ticks")


def instance_at(home: Path, storage: str = "") -> dg.DagsterInstance:
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{storage}")
    return dg.DagsterInstance.from_config(str(home))


def ours_at(home: Path) -> dg.DagsterInstance:
    return instance_at(home, SQLITE.format(home=home))


# --- the same rows --------------------------------------------------------------------------------


def record(instance: dg.DagsterInstance, lake: Path) -> list[str]:
    """Runs of every outcome, and events that belong to none; the runs' identifiers."""
    wrong = {("AAB", DAYS[2]): {"open": 99.0, "high": 98.0}}
    bench = Workbench(lake, instance, Market(names(6), changed=wrong))
    bench.market.failing = {("AAC", DAYS[1])}
    failed = bench.run(DAYS[0], DAYS[-1])
    assert not failed.success, "one session lacks a symbol, and one has a bar that can't be"
    assert 0 < len(bench.materialized()) < len(DAYS)
    bench.market.failing.clear()
    repaired = bench.run(DAYS[1], repair=True)
    assert repaired.success
    again = bench.run(DAYS[0], DAYS[1], missing_only=True)
    years = (
        bench.definitions()
        .resolve_job_def("symbol_year_ticks_job")
        .execute_in_process(instance=instance, run_config=QUIET, partition_key="2024")
    )
    assert again.success
    reported = dg.AssetMaterialization("told_by_hand", tags={"dagster/data_version": "7"})
    instance.report_runless_asset_event(reported)
    instance.report_runless_asset_event(dg.AssetObservation("told_by_hand", partition="a"))
    return [failed.run_id, repaired.run_id, again.run_id, years.run_id]


TABLES = {
    "event_logs": "id, run_id, dagster_event_type, step_key, asset_key, partition",
    "asset_keys": "asset_key, last_run_id, last_materialization, last_materialization_timestamp",
    "asset_event_tags": "asset_key, key, value, event_id",
    "asset_check_executions": (
        "asset_key, check_name, partition, run_id, execution_status, evaluation_event_storage_id, "
        "materialization_event_storage_id"
    ),
}


def rows_of(ask: Callable[[str], list[tuple[Any, ...]]], runs: list[str]) -> dict[str, Any]:
    """What an event writes, with each run as its number and without the time."""
    found: dict[str, Any] = {}
    for table, columns in TABLES.items():
        rows = []
        for row in ask(f"SELECT {columns} FROM {table}"):
            told = dict(zip(columns.split(", "), row, strict=True))
            if told.get("run_id") in runs:
                told["run_id"] = runs.index(told["run_id"])
            if told.get("last_run_id") in runs:
                told["last_run_id"] = runs.index(told["last_run_id"])
            if "last_materialization" in told:
                newest = json.loads(told["last_materialization"] or "{}")
                event = newest.get("event_log_entry", {}).get("dagster_event", {})
                told["last_materialization"] = (newest.get("storage_id"), event.get("asset_key"))
                told["last_materialization_timestamp"] = bool(
                    told["last_materialization_timestamp"]
                )
            rows.append(told)
        found[table] = sorted(rows, key=str)
    return found


def files_of(home: Path, runs: list[str]) -> dict[str, Any]:
    """The rows of each SQLite file."""
    found = {}
    for shard in ("index", *runs):
        with closing(sqlite3.connect(home / f"history/runs/{shard}.db")) as file:
            name = shard if shard == "index" else f"{runs.index(shard)}"
            found[name] = rows_of(lambda query: file.execute(query).fetchall(), runs)
    return found


def read_back(instance: dg.DagsterInstance, runs: list[str]) -> dict[str, Any]:
    """What Dagster's own questions answer: what the UI, sensors and backfills go by."""
    storage = instance.event_log_storage
    attempts = storage.get_latest_asset_partition_materialization_attempts_without_materializations
    keys = sorted(instance.get_asset_keys())
    return {
        "events": [
            [
                (entry.dagster_event_type, entry.step_key, entry.level)
                for entry in instance.all_logs(run_id)
            ]
            for run_id in runs
        ],
        "newest": [
            (key, (event := instance.get_latest_materialization_event(key)) and event.level)
            for key in keys
        ],
        "partitions": {key: sorted(instance.get_materialized_partitions(key)) for key in keys},
        "ids": {
            key: storage.get_latest_storage_id_by_partition(
                key, dg.DagsterEventType.ASSET_MATERIALIZATION
            )
            for key in keys
        },
        "failed or going on": {
            key: {
                partition: (runs.index(run_id), storage_id)
                for partition, (run_id, storage_id) in attempts(key).items()
            }
            for key in keys
        },
        "planned": [
            sorted(
                (key.to_user_string(), sorted(map(str, partitions)))
                for key, partitions in storage.get_asset_partitions_for_run(
                    run_id, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
                ).items()
            )
            for run_id in runs
        ],
    }


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What Dagster's storage made of the runs."""
    folder = tmp_path_factory.mktemp("stock")
    with instance_at(folder / "home") as instance:
        assert type(instance.event_log_storage) is SqliteEventLogStorage
        return folder / "home", record(instance, folder / "lake")


@pytest.mark.parametrize("batch", ["0", "3"])
def test_every_row_is_the_one_that_dagster_would_have_written(
    batch: str, stock: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", batch)
    home = tmp_path / "home"
    with ours_at(home) as instance:
        assert type(instance.event_log_storage) is SqliteEventLog
        runs = record(instance, tmp_path / "lake")
        told = read_back(instance, runs)
    with instance_at(stock[0]) as instance:
        wanted = read_back(instance, stock[1])

    assert told == wanted
    made = files_of(stock[0], stock[1])
    assert {row["dagster_event_type"] for row in made["index"]["event_logs"]} >= {
        "ASSET_MATERIALIZATION",
        "ASSET_MATERIALIZATION_PLANNED",
        "ASSET_OBSERVATION",
        "ASSET_CHECK_EVALUATION",
        "PIPELINE_FAILURE",
        "PIPELINE_SUCCESS",
    }
    states = {row["execution_status"] for row in made["index"]["asset_check_executions"]}
    assert states >= {"SUCCEEDED", "FAILED"}
    assert files_of(home, runs) == made


def test_a_home_can_go_from_one_storage_to_the_other_and_back(
    stock: tuple[Path, list[str]], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with instance_at(home) as instance:
        first = Workbench(tmp_path / "lake", instance).run(DAYS[0], DAYS[1])
    with ours_at(home) as instance:
        bench = Workbench(tmp_path / "lake", instance)
        assert bench.materialized() == {f"{day}" for day in DAYS[:2]}
        second = bench.run(DAYS[2])
    with instance_at(home) as instance:
        bench = Workbench(tmp_path / "lake", instance)
        third = bench.run(DAYS[3])
        assert bench.materialized() == {f"{day}" for day in DAYS[:4]}
        for run in (first, second, third):
            assert run.success
            assert instance.all_logs(run.run_id)[-1].dagster_event_type is (
                dg.DagsterEventType.PIPELINE_SUCCESS
            )
        assert len(instance.get_runs()) == 3


# --- when, and for whom ---------------------------------------------------------------------------


def event(run_id: str, number: int) -> EventLogEntry:
    """That a session was published."""
    key = f"2024-01-{number:02d}"
    return EventLogEntry(
        error_info=None,
        user_message="",
        level=10,
        run_id=run_id,
        timestamp=get_current_timestamp(),
        step_key="daily_ticks",
        job_name="daily_ticks_job",
        dagster_event=dg.DagsterEvent(
            dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            "daily_ticks_job",
            step_key="daily_ticks",
            event_specific_data=_data(key),
        ),
    )


def _data(partition: str) -> Any:
    from dagster._core.events import StepMaterializationData

    return StepMaterializationData(dg.AssetMaterialization(TICKS, partition=partition))


def status_event(run_id: str, kind: dg.DagsterEventType) -> EventLogEntry:
    return EventLogEntry(
        error_info=None,
        user_message="",
        level=10,
        run_id=run_id,
        timestamp=get_current_timestamp(),
        job_name="daily_ticks_job",
        dagster_event=dg.DagsterEvent(kind.value, "daily_ticks_job"),
    )


def partitions(storage: SqlEventLogStorage) -> set[str]:
    return set(storage.get_materialized_partitions(TICKS))


def in_run(storage: SqlEventLogStorage, run_id: str) -> int:
    return len(storage.get_logs_for_run(run_id))


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SqliteEventLog]:
    storage = SqliteEventLog(str(tmp_path))
    yield storage
    storage.dispose()


def test_others_see_an_event_as_soon_as_it_is_stored(
    storage: SqliteEventLog, tmp_path: Path
) -> None:
    others = SqliteEventLogStorage(str(tmp_path))
    for number in range(1, 6):
        storage.store_event(event("run", number))
        assert len(partitions(others)) == in_run(others, "run") == number


@pytest.mark.parametrize("reader", [SqliteEventLogStorage, SqliteEventLog])
def test_who_watches_a_run_is_told_of_each_event(
    reader: type[SqliteEventLogStorage], storage: SqliteEventLog, tmp_path: Path
) -> None:
    """The UI watches the run's file, which does not change while its writer keeps it open."""
    storage.store_event(event("run", 1))
    told: list[str | None] = []
    news = threading.Event()

    def see(entry: EventLogEntry, cursor: str) -> None:
        told.append(entry.get_dagster_event().partition)
        news.set()

    watcher = reader(str(tmp_path))
    watcher.watch("run", None, see)
    for number in range(2, 5):
        news.clear()
        storage.store_event(event("run", number))
        while f"2024-01-{number:02d}" not in told:
            assert news.wait(30), f"nobody was told of event {number}: {told}"
            news.clear()
    watcher.end_watch("run", see)
    watcher.dispose()


@pytest.mark.parametrize(
    "kind",
    [
        dg.DagsterEventType.PIPELINE_ENQUEUED,
        dg.DagsterEventType.PIPELINE_STARTING,
        dg.DagsterEventType.PIPELINE_SUCCESS,
        dg.DagsterEventType.PIPELINE_FAILURE,
        dg.DagsterEventType.PIPELINE_CANCELED,
    ],
)
def test_nothing_is_left_open_when_a_run_changes_its_state(
    kind: dg.DagsterEventType, storage: SqliteEventLog, tmp_path: Path
) -> None:
    def logs() -> set[str]:
        return {path.name for path in tmp_path.glob("*.db-wal")}

    storage.store_event(event("run", 1))
    assert logs() == {"index.db-wal", "run.db-wal"}
    storage.store_event(status_event("run", kind))
    assert logs() == set()
    storage.store_event(event("run", 2))
    assert partitions(storage) == {"2024-01-01", "2024-01-02"}


def test_one_run_at_a_time_is_open_and_engines_are_kept_for_few(
    storage: SqliteEventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datalake_assets.records.sqlite._ENGINES", 3)
    for number in range(5):
        storage.store_event(event(f"run-{number}", 1))
        assert in_run(storage, f"run-{number}") == 1
        assert len(storage._engines) == min(number + 2, 3)
    assert {path.name for path in tmp_path.glob("*.db-wal")} == {"index.db-wal", "run-4.db-wal"}
    assert list(storage._engines) == ["run-3", "index", "run-4"]


def test_disposing_of_the_storage_and_wiping_it_leave_nothing_open(
    storage: SqliteEventLog, tmp_path: Path
) -> None:
    storage.store_event(event("run", 1))
    storage.wipe()
    assert partitions(storage) == set()
    storage.store_event(event("run", 2))
    assert partitions(storage) == {"2024-01-02"}
    assert in_run(storage, "run") == 1
    storage.dispose()
    assert list(tmp_path.glob("*.db-wal")) == []


def test_writers_and_readers_of_several_processes_do_not_hinder_each_other(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from datalake_assets.records.sqlite import SqliteEventLog\n"
        f"from {__name__} import event, partitions\n"
        "storage = SqliteEventLog(sys.argv[1])\n"
        "for number in range(1, 31):\n"
        "    storage.store_event(event(sys.argv[2], number))\n"
        "    assert f'2024-01-{number:02d}' in partitions(storage)\n"
    )
    SqliteEventLog(str(tmp_path)).dispose()
    writers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, str(tmp_path), f"run-{number}"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    reader = SqliteEventLogStorage(str(tmp_path))
    while any(writer.poll() is None for writer in writers):
        partitions(reader)
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    assert [in_run(reader, f"run-{number}") for number in range(2)] == [30, 30]
    with reader.index_connection() as index:
        assert index.execute(db.text("SELECT count(*) FROM event_logs")).scalar() == 60


# --- several at once ------------------------------------------------------------------------------


def test_events_of_a_block_are_stored_at_its_end_in_their_order(
    storage: SqliteEventLog, tmp_path: Path
) -> None:
    others = SqliteEventLogStorage(str(tmp_path))
    with storage.together():
        for number in range(1, 4):
            storage.store_event(event("run", number))
            with storage.together():  # a block within is part of it
                storage.store_event(event("run", number + 10))
        assert in_run(others, "run") == len(partitions(others)) == 0
    assert [entry.get_dagster_event().partition for entry in others.get_logs_for_run("run")] == [
        f"2024-01-{number:02d}" for number in (1, 11, 2, 12, 3, 13)
    ]
    ids = others.get_latest_storage_id_by_partition(
        TICKS, dg.DagsterEventType.ASSET_MATERIALIZATION
    )
    assert sorted(ids, key=lambda day: ids[day])[-1] == "2024-01-13"
    assert len(set(ids.values())) == 6
    storage.store_event(event("run", 20))
    assert "2024-01-20" in partitions(others), "after the block each is stored at once"


def test_another_event_in_a_block_comes_after_those_before_it(storage: SqliteEventLog) -> None:
    with storage.together():
        storage.store_event(event("run", 1))
        storage.store_event(status_event("run", dg.DagsterEventType.PIPELINE_START))
        storage.store_event(event("run", 2))
        storage.store_event(event("another", 3))
        storage.store_event_batch([event("run", 4), event("run", 5)])
    kinds = [
        entry.get_dagster_event().partition or entry.dagster_event_type
        for entry in storage.get_logs_for_run("run")
    ]
    start = dg.DagsterEventType.PIPELINE_START
    assert kinds == ["2024-01-01", start, "2024-01-02", "2024-01-04", "2024-01-05"]
    assert len(partitions(storage)) == 5


def test_a_block_that_ends_by_an_error_or_an_interrupt_has_stored_its_events(
    storage: SqliteEventLog,
) -> None:
    def store(number: int, error: BaseException) -> None:
        with storage.together():
            storage.store_event(event("run", number))
            raise error

    for number, error in enumerate([LookupError(), KeyboardInterrupt()], 1):
        with pytest.raises(type(error)):
            store(number, error)
    assert partitions(storage) == {"2024-01-01", "2024-01-02"}


def test_another_thread_waits_for_the_end_of_a_block(storage: SqliteEventLog) -> None:
    threads = threading.active_count()
    other = threading.Thread(target=lambda: storage.store_event(event("run", 3)))
    with storage.together():
        storage.store_event(event("run", 1))
        other.start()
        storage.store_event(event("run", 2))
    other.join(60)
    logs = storage.get_logs_for_run("run")
    assert [entry.get_dagster_event().partition for entry in logs] == [
        f"2024-01-{number:02d}" for number in (1, 2, 3)
    ]
    assert threading.active_count() == threads


def test_with_dagsters_own_storage_a_block_stores_each_event_at_once(tmp_path: Path) -> None:
    with instance_at(tmp_path / "home") as instance, together(instance):
        instance.event_log_storage.store_event(event("run", 1))
        assert instance.get_materialized_partitions(TICKS) == {"2024-01-01"}


class Waiting:
    """The context of a step: a storage, and what is logged to it."""

    def __init__(self, storage: SqliteEventLog) -> None:
        self.instance = self
        self.event_log_storage = storage
        self.logged: list[str | None] = []

    def log_event(self, materialization: dg.AssetMaterialization) -> None:
        self.logged.append(materialization.partition)


@pytest.mark.parametrize(("seconds", "are_due"), [(0.0, False), (0.4999, False), (0.5, True)])
def test_a_session_waits_half_a_second_for_others_and_not_longer(
    seconds: float, are_due: bool, storage: SqliteEventLog
) -> None:
    now = 100.0
    context = Waiting(storage)
    told = _Materializations(context, lambda: now)  # type: ignore[arg-type]
    assert not told.are_due
    told.add("a", lambda: dg.AssetMaterialization(TICKS, partition="a"))
    now += seconds
    told.add("b", lambda: dg.AssetMaterialization(TICKS, partition="b"))
    assert told.are_due is are_due, "since the first of them"
    told.log()
    assert context.logged == ["a", "b"]
    now += 10
    assert not told.are_due
    told.add("b", lambda: dg.AssetMaterialization(TICKS, partition="b"))
    told.log()
    assert context.logged == ["a", "b"], "one that is told again is logged once"


def test_an_interrupt_while_sessions_are_recorded_waits_until_they_are(tmp_path: Path) -> None:
    """Ctrl-C, a container's stop and the button Terminate are the same to Dagster."""
    call = f"from {__name__} import *; be_interrupted({str(tmp_path)!r})"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", call],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    with ours_at(tmp_path / "home") as instance:
        bench = Workbench(tmp_path / "lake", instance)
        (found,) = instance.get_runs()
        assert found.status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)
        assert bench.materialized() == {f"{day}" for day in DAYS}


def be_interrupted(folder: str) -> None:
    """Collect five sessions, and get a signal while they are written into the records."""

    class Interrupted(SqliteEventLog):
        def _store_asset_event(self, connection: Any, entry: EventLogEntry, event_id: int) -> None:
            told = entry.get_dagster_event()
            if told.is_step_materialization and told.asset_key == TICKS:
                os.kill(os.getpid(), signal.SIGTERM)
            super()._store_asset_event(connection, entry, event_id)

    class Storage(SqliteStorage):
        def __init__(self, base_dir: str, inst_data: Any = None) -> None:
            super().__init__(base_dir, inst_data)
            self._event_log_storage = Interrupted(f"{base_dir}/history/runs")

    vars(sys.modules["datalake_assets.records.sqlite"])["SqliteStorage"] = Storage
    with ours_at(Path(folder) / "home") as instance:
        result = Workbench(Path(folder) / "lake", instance).run(DAYS[0], DAYS[-1])
        assert not result.success


# --- what goes wrong ------------------------------------------------------------------------------


class Failing(SqliteEventLog):
    """Whose disk is full when the last row of an event is written."""

    full = False

    def _store_asset_event(self, *arguments: Any) -> None:
        if self.full:
            raise OSError("no space left")
        super()._store_asset_event(*arguments)


@pytest.mark.parametrize("together", [False, True])
def test_an_event_that_can_not_be_stored_is_in_neither_file_and_is_told(
    together: bool, tmp_path: Path
) -> None:
    storage = Failing(str(tmp_path))
    storage.store_event(event("run", 1))
    storage.full = True
    events = [event("run", 2), event("run", 3)] if together else [event("run", 2)]
    with pytest.raises(OSError, match="no space left"):
        storage.store_event_batch(events)
    assert partitions(storage) == {"2024-01-01"}
    assert in_run(storage, "run") == 1

    storage.full = False
    storage.store_event_batch([event("run", 2), event("run", 3)])
    assert len(partitions(storage)) == in_run(storage, "run") == 3
    storage.dispose()


def test_an_event_of_a_block_that_can_not_be_stored_is_told_at_its_end(tmp_path: Path) -> None:
    storage = Failing(str(tmp_path))
    storage.full = True
    block = storage.together()
    block.__enter__()
    storage.store_event(event("run", 1))
    storage.store_event(event("run", 2))
    with pytest.raises(OSError, match="no space left"):
        block.__exit__(None, None, None)
    assert partitions(storage) == set()
    assert in_run(storage, "run") == 0

    storage.full = False
    storage.store_event(event("run", 3))
    assert partitions(storage) == {"2024-01-03"}
    storage.dispose()


def test_a_run_whose_sessions_can_not_be_recorded_fails_with_the_reason(tmp_path: Path) -> None:
    class Storage(SqliteStorage):
        def __init__(self, base_dir: str, inst_data: Any = None) -> None:
            super().__init__(base_dir, inst_data)
            self._event_log_storage = Failing(f"{base_dir}/history/runs")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datalake_assets.records.sqlite.SqliteStorage", Storage)
        instance = ours_at(tmp_path / "home")
    with instance:
        storage = instance.event_log_storage
        assert isinstance(storage, Failing)

        class Filling(Market):
            def __call__(self, *request: Any) -> Page:
                storage.full = True
                return super().__call__(*request)

        bench = Workbench(tmp_path / "lake", instance, Filling(names(20)))
        result = bench.run(DAYS[0], DAYS[-1])
    assert not result.success
    assert "no space left" in failure(result)
    assert bench.lake.sessions() == DAYS


# --- a process that is killed ---------------------------------------------------------------------


def collect_until_killed(
    folder: str,
    lake: str,
    symbols: int,
    when: str,
    seconds: float,
    block: int,
    sessions: int = len(DAYS),
) -> None:
    """Collect sessions, and be killed as some of them are recorded.

    Args:
        folder: DAGSTER_HOME.
        lake: The lake.
        symbols: So many have bars.
        when: Before these are recorded, within it, or after.
        seconds: How long a session waits for others.
        block: Which time.
        sessions: So many are collected. The ones after those that are recorded may be published
            or not, as threads happen to run.
    """
    blocks = 0

    def die(moment: str) -> None:
        if blocks == block and when == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    class Deadly(SqliteEventLog):
        @contextmanager
        def together(self) -> Iterator[None]:
            nonlocal blocks
            blocks += 1
            die("before")
            with super().together():
                yield
            die("after")

        def _store_asset_event(self, *arguments: Any) -> None:
            super()._store_asset_event(*arguments)
            die("within")

    class Storage(SqliteStorage):
        def __init__(self, base_dir: str, inst_data: Any = None) -> None:
            super().__init__(base_dir, inst_data)
            self._event_log_storage = Deadly(f"{base_dir}/history/runs")

    # By name, as Dagster finds it.
    vars(sys.modules["datalake_assets.records.sqlite"])["SqliteStorage"] = Storage
    vars(sys.modules["datalake_assets.assets.session_ticks"])["_TOGETHER"] = seconds
    with ours_at(Path(folder)) as instance:
        Workbench(Path(lake), instance, Market(names(symbols))).run(DAYS[0], DAYS[sessions - 1])


def be_killed(folder: Path, **how: Any) -> None:
    """Let a process collect and be killed: DAGSTER_HOME and the lake are in the folder."""
    given = {"folder": str(folder / "home"), "lake": str(folder / "lake")} | how
    call = f"from {__name__} import *; collect_until_killed(**{given!r})"
    killed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", call],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr


ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="a process is told apart by /proc")


@ONLY_LINUX
@pytest.mark.parametrize(
    ("when", "seconds", "block", "known"),
    [
        ("before", 0.0, 3, 2),
        ("within", 0.0, 3, 2),
        ("after", 0.0, 3, 3),
        ("within", 60.0, 1, 0),
    ],
)
def test_a_kill_loses_no_event_that_was_stored_and_the_run_is_ended_at_the_next_start(
    when: str, seconds: float, block: int, known: int, tmp_path: Path
) -> None:
    be_killed(tmp_path, symbols=20, when=when, seconds=seconds, block=block)

    with ours_at(tmp_path / "home") as instance:
        bench = Workbench(tmp_path / "lake", instance)
        (run,) = instance.get_runs()
        in_the_run = [
            entry.get_dagster_event().partition
            for entry in instance.all_logs(
                run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
            )
            if entry.get_dagster_event().asset_key == TICKS
        ]
        assert bench.materialized() == set(in_the_run)
        assert len(in_the_run) == known
        assert len(bench.lake.sessions()) >= (3 if block == 3 else 5), "published before"

        (told,) = end_lost(instance, datetime.now(UTC))
        assert f"run {run.run_id[:8]} was marked as failed" in told
        (ended,) = instance.get_runs()
        assert ended.status is dg.DagsterRunStatus.FAILURE

        assert bench.run(DAYS[0], DAYS[-1], missing_only=True).success
        assert bench.materialized() == {f"{day}" for day in DAYS}


def retry(bench: Workbench) -> None:
    """Launch the newest run again, as the UI does and as Dagster does for a lost worker."""
    (lost, *_) = bench.instance.get_runs(limit=1)
    job = bench.definitions().resolve_job_def("daily_ticks_job")
    again = bench.instance.create_run_for_job(
        job, run_config=QUIET, tags=lost.tags, parent_run_id=lost.run_id, root_run_id=lost.run_id
    )
    list(execute_run_iterator(InMemoryJob(job), again, bench.instance))


def missing_ones(bench: Workbench) -> None:
    """Launch a run for each partition that Dagster shows as missing, as the UI offers."""
    for day in DAYS:
        if str(day) not in bench.materialized():
            assert bench.run(day).success


WAYS: dict[str, Callable[[Workbench], Any]] = {
    "the same backfill": lambda bench: bench.run(DAYS[0], DAYS[-1], missing_only=True),
    "a retry": retry,
    "a repair": lambda bench: bench.run(DAYS[0], DAYS[-1], repair=True),
    "all of it again": lambda bench: bench.run(DAYS[0], DAYS[-1]),
    "the partitions that are missing": missing_ones,
}


def told(bench: Workbench) -> dict[str, tuple[float, Any]]:
    """By partition, when its newest materialization was, and of how many bars it tells."""
    found = {}
    for record in bench.instance.fetch_materializations(TICKS, limit=100, ascending=True).records:
        assert record.partition_key
        metadata = record.asset_materialization.metadata  # type: ignore[union-attr]
        found[record.partition_key] = record.timestamp, metadata["row_count"].value
    return found


def assert_records_and_lake_agree(bench: Workbench) -> None:
    newest = told(bench)
    assert set(newest) == {f"{day}" for day in bench.lake.sessions()}
    for day in bench.lake.sessions():
        session = bench.lake.read(day)
        at, bars = newest[f"{day}"]
        assert at > session.provenance.collected_at.timestamp(), day
        assert bars == session.bars.num_rows, day


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sessions were published, and the process was killed before it recorded one."""
    folder = tmp_path_factory.mktemp("killed")
    be_killed(folder, symbols=20, when="before", seconds=60.0, block=1)
    return folder


@pytest.fixture(scope="module")
def killed_again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five sessions were collected, then three of them again, the last of which is not recorded."""
    folder = tmp_path_factory.mktemp("killed-again")
    with ours_at(folder / "home") as instance:
        assert Workbench(folder / "lake", instance).run(DAYS[0], DAYS[-1]).success
    be_killed(folder, symbols=21, when="before", seconds=0.0, block=3, sessions=3)
    return folder


@ONLY_LINUX
@pytest.mark.parametrize("way", WAYS)
def test_whichever_way_a_user_goes_on_after_a_kill_the_records_and_the_lake_agree(
    way: str, killed: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    with ours_at(tmp_path / "home") as instance:
        bench = Workbench(tmp_path / "lake", instance)
        assert bench.lake.sessions() == DAYS
        assert bench.materialized() == set()
        end_lost(instance, datetime.now(UTC))
        WAYS[way](bench)
        assert_records_and_lake_agree(bench)


@ONLY_LINUX
@pytest.mark.parametrize("way", [way for way in WAYS if "missing" not in way])
def test_what_a_killed_run_collected_again_is_told_although_dagster_knows_its_first_collection(
    way: str, killed_again: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed_again, tmp_path, dirs_exist_ok=True)
    with ours_at(tmp_path / "home") as instance:
        bench = Workbench(tmp_path / "lake", instance, Market(names(21)))
        bars = [bench.lake.read(day).bars.num_rows for day in DAYS]
        assert bars == [21, 21, 21, 20, 20], "two of them were not collected again"
        first = told(bench)
        assert [first[f"{day}"][1] for day in DAYS] == [21, 21, 20, 20, 20], "one is not told"
        end_lost(instance, datetime.now(UTC))

        WAYS[way](bench)
        assert_records_and_lake_agree(bench)

        before = told(bench)
        bench.run(DAYS[0], DAYS[-1], missing_only=True)
        assert told(bench) == before, "it is told once"


# --- Postgres -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(isolated_environment: None) -> Iterator[PostgresServer]:
    found = binaries()
    if found is None:
        pytest.skip(NOT_HERE)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(found, Path(folder) / "postgres", secrets.token_hex(8))
        yield server
        server.stop()


def url_of(server: PostgresServer, name: str) -> str:
    """The address of a new database."""
    server.run(f'CREATE DATABASE "{name}"')
    address = server.dsn().partition("?")[0].removesuffix("postgres")
    return f"{address}{name}".replace("postgresql://", "postgresql+psycopg2://")


def recorded_in_postgres(url: str, home: Path, storage: str, event_log: type) -> Any:
    """All rows of the runs, and what is read of them."""
    with instance_at(home, f"storage: {{{storage}}}".replace("URL", url)) as instance:
        assert type(instance.event_log_storage) is event_log
        runs = record(instance, home / "lake")
        with db.create_engine(url, poolclass=db.NullPool).connect() as connection:
            rows = rows_of(
                lambda query: [tuple(row) for row in connection.execute(db.text(query))], runs
            )
        return rows, read_back(instance, runs)


@pytest.fixture(scope="module")
def stock_in_postgres(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("postgres")
    storage = "postgres: {postgres_url: 'URL'}"
    return recorded_in_postgres(url_of(server, "stock"), home, storage, PostgresEventLogStorage)


@pytest.mark.parametrize("batch", ["0", "1000"])
def test_postgres_holds_the_rows_that_dagster_would_have_written(
    batch: str,
    server: PostgresServer,
    stock_in_postgres: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", batch)
    storage = (
        "custom: {module: datalake_assets.records.postgres, class: PostgresStorage, "
        "config: {postgres_url: 'URL'}}"
    )
    found = recorded_in_postgres(
        url_of(server, f"ours{batch}"), tmp_path, storage, PostgresEventLog
    )
    assert found == stock_in_postgres


def test_a_postgres_that_was_started_anew_between_two_events_is_connected_to_again(
    server: PostgresServer,
) -> None:
    storage = PostgresEventLog(url_of(server, "anew"))
    storage.store_event(event("run", 1))
    kept = storage._writer
    storage.store_event(event("run", 2))
    assert storage._writer is kept
    server.stop()
    server.start()
    storage.store_event(event("run", 3))
    storage.store_event(event("run", 4))
    assert len(partitions(storage)) == in_run(storage, "run") == 4
    storage.store_event(status_event("run", dg.DagsterEventType.PIPELINE_SUCCESS))
    assert storage._writer is None
    storage.dispose()


def test_a_postgres_that_is_gone_is_told_and_nothing_is_stored_twice(
    server: PostgresServer,
) -> None:
    class Refusing(PostgresEventLog):
        refuse = False

        def _store_asset_event(self, *arguments: Any) -> None:
            super()._store_asset_event(*arguments)
            if self.refuse:
                raise OSError("gone")

    storage = Refusing(url_of(server, "gone"))
    storage.store_event(event("run", 1))
    storage.refuse = True
    with pytest.raises(OSError, match="gone"):
        storage.store_event(event("run", 2))
    storage.refuse = False
    storage.store_event(event("run", 3))
    assert partitions(storage) == {"2024-01-01", "2024-01-03"}
    storage.dispose()


class Line:
    """A connection to a server that breaks when a COMMIT is sent, before it arrives or after.

    Args:
        port: Of the server, on loopback.
        arrives: Whether the server gets the COMMIT, and only its answer is lost.
    """

    def __init__(self, port: int, arrives: bool) -> None:
        self._far, self._arrives, self.armed = port, arrives, False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.broken = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        written = False
        with near, socket.create_connection(("127.0.0.1", self._far)) as far:
            while True:
                ready, _, _ = select.select([near, far], [], [])
                for one, other in ((near, far), (far, near)):
                    if one in ready:
                        try:
                            data = one.recv(1 << 20)
                        except ConnectionError:
                            return
                        if not data:
                            return
                        written = written or b"INSERT INTO event_logs" in data
                        if self.armed and written and one is near and b"COMMIT\0" in data:
                            self.armed = False
                            self.broken += 1
                            if self._arrives:
                                far.sendall(data)
                                assert far.recv(1 << 20)  # it is committed, and nobody is told
                            return
                        other.sendall(data)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize("arrives", [True, False], ids=["the answer is lost", "nothing arrives"])
def test_a_batch_is_stored_once_when_the_line_breaks_at_its_commit(
    arrives: bool, server: PostgresServer
) -> None:
    name = f"line {arrives}".replace(" ", "_")
    line = Line(server.port, arrives)
    storage = PostgresEventLog(url_of(server, name).replace(f":{server.port}/", f":{line.port}/"))
    storage.store_event(event("run", 1))
    line.armed = True
    with storage.together():
        storage.store_event(event("run", 2))
        storage.store_event(event("run", 3))
    storage.store_event(event("run", 4))

    assert line.broken == 1
    assert len(partitions(storage)) == in_run(storage, "run") == 4
    storage.dispose()
    line.close()


def test_a_first_batch_whose_commit_arrived_is_no_error(server: PostgresServer) -> None:
    line = Line(server.port, arrives=True)
    storage = PostgresEventLog(
        url_of(server, "first").replace(f":{server.port}/", f":{line.port}/")
    )
    line.armed = True
    storage.store_event(event("run", 1))

    assert (line.broken, in_run(storage, "run")) == (1, 1)
    storage.dispose()
    line.close()


# --- what Dagster calls its own -------------------------------------------------------------------

PRIVATE = {
    SqlEventLogStorage: {
        "_event_to_row": ["event"],
        "_get_asset_entry_values": ["event", "event_id", "has_asset_key_index_cols"],
        "_store_asset_event_tags": ["conn", "events", "event_ids"],
        "_store_asset_event": ["conn", "event", "event_id"],
        "_has_asset_key_index_cols_on_connection": ["conn"],
    },
    PostgresEventLogStorage: {"_store_asset_event": ["conn", "event", "event_id"]},
    AssetEventLog: {"_write": ["events"], "_release": []},
}


@pytest.mark.parametrize("owner", PRIVATE)
def test_what_is_used_of_dagster_and_is_not_public_is_as_it_was(owner: type) -> None:
    """A release of Dagster that moves one of these fails here first, by its name."""
    for name, parameters in PRIVATE[owner].items():
        method = getattr(owner, name, None)
        assert method is not None, f"Dagster has no {owner.__name__}.{name} any more"
        assert list(inspect.signature(method).parameters) == ["self", *parameters], name


@pytest.mark.parametrize("owner", [DagsterSqliteStorage, DagsterPostgresStorage])
def test_dagster_holds_its_event_log_where_another_is_put(owner: type) -> None:
    assert "_event_log_storage" in inspect.getsource(owner.event_log_storage.fget)  # type: ignore[attr-defined]
