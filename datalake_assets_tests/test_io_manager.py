"""The I/O manager: what an argument of somebody's asset holds, and what is refused."""

from collections.abc import Callable
from datetime import date
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from datalake_assets import Lake, TradingDays
from datalake_assets.assets.failure import reason
from datalake_assets.definitions import build_definitions
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.resources import (
    CollectorResource,
    EmbeddedExchangeResource,
    LakeResource,
)
from datalake_assets.settings import Settings
from datalake_assets.storage.store import open_store
from datalake_assets_tests.workbench import QUIET

START = "2023-12-01"
SESSIONS, YEARS = TradingDays().partitions(START), TradingDays().years(START)
LAST_OF_2023, FIRST, SECOND, THIRD = (
    date(2023, 12, 29),
    date(2024, 1, 2),
    date(2024, 1, 3),
    date(2024, 1, 4),
)
YEARLY = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    """Ours, over a lake with the sessions around New Year."""
    folder = tmp_path_factory.mktemp("io") / "lake"
    made = build_definitions(
        Settings.load({"DATALAKE_URI": str(folder), "DATALAKE_START_DATE": START}),
        source=EmbeddedExchangeResource(active=60, inactive=10),
        collector=CollectorResource(requests_per_minute=60_000),
    )
    days = {
        "dagster/asset_partition_range_start": str(LAST_OF_2023),
        "dagster/asset_partition_range_end": str(THIRD),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        for job, tags in (
            ("daily_ticks_job", days),
            ("corporate_actions_job", {}),
            ("securities_job", {}),
        ):
            done = made.resolve_job_def(job).execute_in_process(
                instance=instance, tags=tags, run_config=QUIET
            )
            assert done.success, job
    SymbolYears(open_store(str(folder))).publish(2024)
    return made


@pytest.fixture(scope="module")
def lake(ours: dg.Definitions) -> Lake:
    return LakeResource(uri=ours.resources["lake"].uri).read()


class Run:
    """A run of somebody's asset that takes one of ours as the argument `table`."""

    def __init__(self, ours: dg.Definitions) -> None:
        self._ours = ours
        self.got: Any = None
        self.reason = ""

    def __call__(
        self,
        upstream: str = "daily_ticks",
        kind: Any = pa.Table,
        *,
        metadata: dict[str, Any] | None = None,
        mapping: dg.PartitionMapping | None = None,
        partitions: dg.PartitionsDefinition[str] | None = SESSIONS,
        of: str | tuple[str, str] | None = None,
    ) -> Any:
        def take(table: Any) -> None:
            self.got = table

        take.__annotations__["table"] = kind
        asset = dg.asset(
            name="theirs",
            ins={
                "table": dg.AssetIn(
                    upstream,
                    metadata=metadata or {},
                    partition_mapping=mapping,
                    # The report has no table, and so another I/O manager.
                    input_manager_key="reader" if upstream == "lake_report" else None,
                )
            },
            partitions_def=partitions,
            backfill_policy=dg.BackfillPolicy.single_run(),
        )(take)
        job = dg.Definitions.merge(
            self._ours,
            dg.Definitions(
                assets=[asset], jobs=[dg.define_asset_job("theirs_job", selection=[asset])]
            ),
        ).resolve_job_def("theirs_job")
        key, tags = (of, {}) if isinstance(of, str) else (None, {})
        if isinstance(of, tuple):
            tags = {
                "dagster/asset_partition_range_start": of[0],
                "dagster/asset_partition_range_end": of[1],
            }
        with dg.DagsterInstance.ephemeral() as instance:
            done = job.execute_in_process(
                instance=instance,
                partition_key=key,
                tags=tags,
                run_config=QUIET,
                raise_on_error=False,
            )
        failures = [event for event in done.all_events if event.is_step_failure]
        self.reason = "\n".join(map(reason, failures))
        assert done.success != bool(failures)
        return self.got


@pytest.fixture
def run(ours: dg.Definitions) -> Run:
    return Run(ours)


def of_days(lake: Lake, first: date, last: date) -> pa.Table:
    return lake.bars(start=first, end=last, follow=False)


# --- which rows -----------------------------------------------------------------------------------


def test_a_partition_gives_the_bars_of_its_session(run: Run, lake: Lake) -> None:
    bars = run(of=str(FIRST))

    assert bars.num_rows > 20
    assert bars.equals(of_days(lake, FIRST, FIRST))


def test_a_range_gives_the_bars_of_its_sessions(run: Run, lake: Lake) -> None:
    bars = run(of=(str(LAST_OF_2023), str(SECOND)))

    assert bars.equals(of_days(lake, LAST_OF_2023, SECOND))
    assert bars["session"].unique().to_pylist() == [LAST_OF_2023, FIRST, SECOND]


def test_a_year_gives_its_own_sessions_and_not_the_last_of_the_year_before(
    run: Run, lake: Lake
) -> None:
    allowed = {"allow_missing_partitions": True}
    bars = run(mapping=YEARLY, partitions=YEARS, metadata=allowed, of="2024")

    assert bars.equals(of_days(lake, FIRST, THIRD))


def test_a_mapping_that_asks_for_earlier_sessions_gets_them(run: Run, lake: Lake) -> None:
    before = dg.TimeWindowPartitionMapping(start_offset=-1)
    bars = run(mapping=before, of=str(SECOND))

    assert bars.equals(of_days(lake, FIRST, SECOND))


def test_without_partitions_of_its_own_an_asset_gets_all_sessions(run: Run, lake: Lake) -> None:
    bars = run(partitions=None, metadata={"allow_missing_partitions": True})

    assert bars.equals(of_days(lake, LAST_OF_2023, THIRD))


@pytest.mark.parametrize("upstream", ["symbol_year_ticks", "year_ticks"])
def test_assets_of_years_give_the_bars_of_the_year(run: Run, lake: Lake, upstream: str) -> None:
    bars = run(upstream, partitions=YEARS, of="2024")

    assert bars.equals(of_days(lake, FIRST, THIRD))


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ("stock_universe", lambda lake: lake.universe()),
        ("securities", lambda lake: lake.securities().securities),
        ("adjustment_factors", lambda lake: lake.securities().factors),
    ],
)
def test_an_asset_without_partitions_gives_its_table(
    run: Run, lake: Lake, upstream: str, expected: Callable[[Lake], pa.Table]
) -> None:
    assert run(upstream, partitions=None).equals(expected(lake))


def test_actions_are_those_that_stand_now(run: Run) -> None:
    actions = run("corporate_actions", partitions=None, metadata={"columns": ["symbol", "kind"]})

    assert actions.column_names == ["symbol", "kind"]
    assert actions.num_rows > 0


# --- as what --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        (Any, pa.Table),
        (pa.Table, pa.Table),
        (pd.DataFrame, pd.DataFrame),
        (pl.DataFrame, pl.DataFrame),
        (pl.LazyFrame, pl.LazyFrame),
    ],
)
def test_the_annotation_says_what_kind_of_table_it_is(run: Run, kind: Any, made: type) -> None:
    bars = run(kind=kind, of=str(FIRST))

    assert type(bars) is made
    if made is pd.DataFrame:
        assert str(bars["session"].dtype).startswith("datetime64"), "not dates as objects"


def test_columns_of_the_inputs_metadata_are_read_and_no_others(run: Run, lake: Lake) -> None:
    bars = run(metadata={"columns": ["close", "symbol"]}, of=str(FIRST))

    assert bars.equals(of_days(lake, FIRST, FIRST).select(["close", "symbol"]))


# --- what is refused ------------------------------------------------------------------------------


def test_a_session_that_is_not_published_is_an_error_that_names_it(run: Run) -> None:
    run(of=("2024-01-04", "2024-01-08"))

    assert run.got is None
    assert "daily_ticks can't be read: 2 of 3 sessions are not published" in run.reason
    assert "2024-01-05, 2024-01-08. Collect them" in run.reason


def test_it_is_left_out_if_the_input_allows_it(run: Run, lake: Lake) -> None:
    bars = run(metadata={"allow_missing_partitions": True}, of=("2024-01-04", "2024-01-08"))

    assert bars.equals(of_days(lake, THIRD, THIRD))


def test_of_no_published_session_there_are_no_rows_but_all_columns(run: Run, lake: Lake) -> None:
    bars = run(metadata={"allow_missing_partitions": True}, of="2024-01-08")

    assert bars.equals(of_days(lake, FIRST, FIRST).slice(0, 0))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"kind": list, "of": "2024-01-02"}, "an argument can be a pyarrow.Table"),
        ({"metadata": {"columns": ["prize"]}, "of": "2024-01-02"}, "prize"),
        ({"upstream": "lake_report", "partitions": None}, "the lake has no table of it"),
        (
            {"upstream": "symbol_year_ticks", "partitions": YEARS, "of": "2025"},
            "no session of 2025",
        ),
    ],
)
def test_what_can_not_be_read_is_told(run: Run, arguments: dict[str, Any], told: str) -> None:
    run(**arguments)

    assert told in run.reason
    assert run.got is None


def test_it_never_writes(ours: dg.Definitions, lake: Lake) -> None:
    before = lake.sessions()

    @dg.asset(io_manager_key="reader")
    def theirs() -> int:
        return 1

    job = dg.define_asset_job("theirs_job", selection=[theirs])
    made = dg.Definitions.merge(ours, dg.Definitions(assets=[theirs], jobs=[job]))
    done = made.resolve_job_def("theirs_job").execute_in_process(
        run_config=QUIET, raise_on_error=False
    )
    (failure,) = [event for event in done.all_events if event.is_step_failure]

    assert "theirs can't be written: this I/O manager only reads the lake" in str(
        failure.step_failure_data.error
    )
    assert lake.sessions() == before
