"""Dagster as it is deployed: several processes, Postgres and S3, and what happens when some die.

Everything is real but the source, which is the embedded exchange. What each test tells of Dagster
is what docs/deploying.md says of it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
import yaml

from datalake_assets import market_calendar
from datalake_assets.assets.session_ticks import DAILY_TICKS as KEY
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.files import LakeFiles
from datalake_assets.storage.store import open_store
from datalake_assets_tests.postgres import NOT_HERE, binaries
from datalake_assets_tests.seaweedfs import BUCKET
from datalake_assets_tests.stack import CODE_SERVER, DAEMON, DEPLOY, ROOT, Stack

pytestmark = [
    pytest.mark.stack,
    pytest.mark.skipif(binaries() is None, reason=NOT_HERE),
]

HANG = 240.0
PAST_ITS_TIME = (
    1
    + yaml.safe_load((DEPLOY / "dagster.yaml").read_text(encoding="utf-8"))["run_monitoring"][
        "max_runtime_seconds"
    ]
)
YEAR = market_calendar.sessions(date(2024, 1, 1), date(2024, 12, 31))
SETTINGS = {
    "DATALAKE_SESSIONS_PER_RUN": "63",
    # The sensors run as in any deployment, and ask for the newest session alone.
    "DATALAKE_CATCH_UP_SESSIONS": "1",
    "DATALAKE_SECOND_LOOK_SESSIONS": "0",
    "DATALAKE_REPAIR_REQUESTS_PER_DAY": "0",
}


@cache
def twenty_symbols() -> str:
    """Such as print in every session, as a few that don't would fail the audit of so few."""
    market = SyntheticMarket()
    first, stop = (bisect_left(market.sessions, day) for day in (YEAR[0], YEAR[-1]))
    names = [row["symbol"] for row in market.assets() if row["symbol"].isalpha()][:2_000]
    bars = market.bars(names, first, stop)
    counts = Counter(bars.symbol.tolist())
    always = [bars.symbols[place] for place in sorted(counts) if counts[place] == stop - first]
    return ",".join(always[:20])


LAUNCH = """mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}"""
BACKFILL = """mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
  }
}"""
BACKFILL_STATUS = """query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
    status
    assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts {
      numPartitionsTargeted numPartitionsMaterialized numPartitionsFailed } } } } }
}"""
RUNS = """query ($tags: [ExecutionTag!]!) {
  runsOrError(filter: {tags: $tags}) { ... on Runs { results {
    runId parentRunId status tags { key value } } } }
}"""
LOCATION = {
    "repositoryLocationName": "us_equity_datalake",
    "repositoryName": "__repository__",
}


@pytest.fixture(scope="module")
def stack(isolated_environment: None) -> Iterator[Stack]:
    # Not below pytest's own folder, which the user that Postgres needs may not enter.
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        with Stack(Path(folder), SETTINGS | {"DATALAKE_SYMBOLS": twenty_symbols()}) as stack:
            yield stack


@pytest.fixture
def s3(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack's bucket is this process's, too, and so is its Dagster."""
    for name, value in stack.environ().items():
        if name.startswith(("AWS_", "DAGSTER_")):
            monkeypatch.setenv(name, value)


@pytest.fixture
def lake(stack: Stack, s3: None) -> LakeFiles:
    return LakeFiles(open_store(stack.settings["DATALAKE_URI"]))


@pytest.fixture
def records(stack: Stack, s3: None) -> Iterator[dg.DagsterInstance]:
    """Dagster's records, read as each of its processes reads them."""
    with dg.DagsterInstance.from_config(str(stack.home)) as instance:
        yield instance


def until(happened: Callable[[], Any], what: str, stack: Stack) -> Any:
    """Wait until something true comes back, and give that."""
    end = time.monotonic() + HANG
    while time.monotonic() < end:
        if found := happened():
            return found
        time.sleep(0.1)
    logs = "\n".join(f"--- {name}\n{stack.log_tail(name)}" for name in stack.processes)
    pytest.fail(f"in {HANG:g} seconds it did not happen: {what}\n{logs}")


def launched(stack: Stack, mutation: str, params: Mapping[str, Any], field: str) -> Any:
    (told,) = stack.graphql(mutation, params=params).values()
    assert told["__typename"].endswith("Success"), told
    return told[field]


def worker(records: dg.DagsterInstance, run_id: str) -> int | None:
    """The process of a run, as it told itself when it started."""
    for event in records.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.ENGINE_EVENT
    ).records:
        told = event.event_log_entry.get_dagster_event()
        metadata = told.engine_event_data.metadata if told.event_specific_data else {}
        if (pid := metadata.get("pid")) is not None:
            return int(str(pid.value))
    return None


def messages(records: dg.DagsterInstance, run_id: str) -> str:
    found = records.get_records_for_run(run_id, limit=1000).records
    return "\n".join(entry.event_log_entry.message for entry in found)


def test_a_session_is_collected_into_s3_and_any_machine_can_read_the_log_of_its_run(
    stack: Stack, lake: LakeFiles, records: dg.DagsterInstance
) -> None:
    day = date(2023, 7, 3)
    run_id = launched(
        stack,
        LAUNCH,
        {
            "selector": {**LOCATION, "jobName": "daily_ticks_job"},
            "mode": "default",
            "runConfigData": "{}",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": str(day)}]},
        },
        "run",
    )["runId"]

    def ended() -> dg.DagsterRun | None:
        run = records.get_run_by_id(run_id)
        return run if run and run.is_finished else None

    run = until(ended, "the run ends", stack)
    assert run.status == dg.DagsterRunStatus.SUCCESS, messages(records, run_id)
    assert day in lake.sessions()
    assert str(day) in records.get_materialized_partitions(KEY)
    # What a read-only container needs: nothing is written beside the configuration.
    written = {path.name for path in stack.home.rglob("*")}
    assert written == {"dagster.yaml", "workspace.yaml"}
    kept = open_store(f"s3://{BUCKET}/dagster").list()
    assert [key for key in kept if run_id in key and key.endswith(".err")]


def test_neither_a_killed_run_nor_a_killed_code_server_loses_a_session_of_a_backfill(
    stack: Stack, lake: LakeFiles, records: dg.DagsterInstance, undisturbed: Callable[[], LakeFiles]
) -> None:
    """Run worker: the code server tells, and the run is retried. Code server: nobody tells."""
    backfill = launched(
        stack,
        BACKFILL,
        {"assetSelection": [{"path": KEY.path}], "partitionNames": [str(day) for day in YEAR]},
        "backfillId",
    )

    def started(parent: str | None = None) -> str | None:
        """A run of the backfill that goes on, and has published something."""
        for run in records.get_runs(
            dg.RunsFilter(
                tags={"dagster/backfill": backfill}, statuses=[dg.DagsterRunStatus.STARTED]
            )
        ):
            of = (run.parent_run_id == parent) if parent else not run.parent_run_id
            if of and worker(records, run.run_id) and (parent or published_by(run.run_id)):
                return run.run_id
        return None

    def published_by(run_id: str) -> bool:
        return bool(
            records.get_records_for_run(
                run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION, limit=1
            ).records
        )

    def failed(run_id: str) -> bool:
        run = records.get_run_by_id(run_id)
        return run is not None and run.status == dg.DagsterRunStatus.FAILURE

    first = until(started, "a run of the backfill publishes", stack)
    os.kill(worker(records, first) or 0, signal.SIGKILL)
    until(lambda: failed(first), "the killed run is noticed", stack)
    assert "was terminated by signal 9 (SIGKILL)" in messages(records, first)
    standing = lake.store.versions("data/ticks/sessions")
    assert standing, "nothing was published before the kill"

    second = until(lambda: started(first), "the killed run is launched again", stack)
    stack.kill(CODE_SERVER)
    stack.start(CODE_SERVER)
    # Its container is new, and knows nothing of the runs of the old one: they seem to go on.
    ghosts = records.get_runs(
        dg.RunsFilter(tags={"dagster/backfill": backfill}, statuses=[dg.DagsterRunStatus.STARTED])
    )
    assert second in [run.run_id for run in ghosts]
    # Two hours later. (A tag would do for one run, but those that are launched again inherit it.)
    with psycopg.connect(stack.dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE runs SET start_time = start_time - %s WHERE run_id = ANY(%s)",
            [PAST_ITS_TIME, [run.run_id for run in ghosts]],
        )
    until(lambda: all(failed(run.run_id) for run in ghosts), "the ghosts are noticed", stack)
    for run in ghosts:
        assert "exceeding maximum runtime" in messages(records, run.run_id)

    def status() -> Any:
        told = stack.graphql(BACKFILL_STATUS, id=backfill)["partitionBackfillOrError"]
        return told if told["status"].startswith(("COMPLETED", "CANCELED", "FAILED")) else None

    told = until(status, "the backfill ends", stack)
    runs = runs_of(stack, backfill)
    print(json.dumps(runs, indent=1))
    assert told["status"] == "COMPLETED_SUCCESS", (told, stack.log_tail(DAEMON))
    (counts,) = told["assetBackfillData"]["assetBackfillStatuses"]
    assert counts == {
        "numPartitionsTargeted": len(YEAR),
        "numPartitionsMaterialized": len(YEAR),
        "numPartitionsFailed": 0,
    }
    assert {str(day) for day in YEAR} <= records.get_materialized_partitions(KEY)
    bars = {day: lake.read(day).bars for day in YEAR}
    expected = undisturbed()
    assert bars == {day: expected.read(day).bars for day in YEAR}
    # What was published before the first kill was not collected again.
    now = lake.store.versions("data/ticks/sessions")
    assert {key: now[key] for key in standing} == standing


def runs_of(stack: Stack, backfill: str) -> list[dict[str, Any]]:
    tags = [{"key": "dagster/backfill", "value": backfill}]
    found = stack.graphql(RUNS, tags=tags)["runsOrError"]["results"]
    return [
        {
            "run": run["runId"][:8],
            "retry of": (run["parentRunId"] or "")[:8],
            "status": run["status"],
            "from": next(
                tag["value"]
                for tag in run["tags"]
                if tag["key"] in ("dagster/asset_partition_range_start", "dagster/partition")
            ),
        }
        for run in found
    ]


@pytest.fixture
def undisturbed(tmp_path: Path) -> Iterator[Callable[[], LakeFiles]]:
    """The same year by the command line into a lake of its own, meanwhile."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore", "-m", "datalake_assets", "backfill"),
            *("--from", str(YEAR[0]), "--to", str(YEAR[-1])),
        ],
        cwd=tmp_path,
        env={
            "HOME": str(tmp_path),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "DAGSTER_HOME": str(tmp_path / "dagster"),
            "DATALAKE_URI": str(tmp_path / "lake"),
            "DATALAKE_SYMBOLS": twenty_symbols(),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def lake() -> LakeFiles:
        told, _ = process.communicate(timeout=HANG)
        assert process.returncode == 0, told
        return LakeFiles(open_store(str(tmp_path / "lake")))

    with process:
        yield lake
        process.kill()
