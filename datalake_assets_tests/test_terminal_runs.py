"""Runs of the command line in Dagster's records: they belong to the code location's jobs.

Not here: what the commands print (`test_cli`).
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._utils.error import SerializableErrorInfo
from typer.testing import CliRunner

from datalake_assets.assets.failure import INTERRUPTED
from datalake_assets.automation.runs import TERMINAL, partitions_of
from datalake_assets.cli import app
from datalake_assets.cli.runs import LOCATION, _reason

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """Dagster's records of commands that run in an empty folder. Nobody adds to them."""
    folder = tmp_path_factory.mktemp("terminal")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DAGSTER_HOME", str(folder / ".datalake" / "dagster"))
        patch.setenv("DATALAKE_SYMBOLS", "AEF,ALES")
        for days in ("--session 2024-07-01", "--from 2024-07-01 --to 2024-07-02"):
            result = CliRunner().invoke(app, ("collect", *days.split()))
            assert result.exit_code == 0, result.output
        with dg.DagsterInstance.get() as instance:
            yield instance


def test_a_run_in_a_terminal_is_one_of_its_job_in_the_code_location(
    records: dg.DagsterInstance,
) -> None:
    runs = {run.run_id: run for run in records.get_runs()}
    by_job = {
        job: records.get_runs(
            dg.RunsFilter(
                job_name=job,
                tags={".dagster/repository": f"{SINGLETON_REPOSITORY_NAME}@{LOCATION}"},
            )
        )
        for job in ("daily_ticks_job", "symbol_year_ticks_job", "year_ticks_job")
    }

    # The filter by which the UI shows the runs of a job.
    assert sum(map(len, by_job.values())) == len(runs) == 6
    for job, found in by_job.items():
        for run in found:
            assert run.remote_job_origin is not None
            assert run.remote_job_origin.job_name == job
            assert run.tags[TERMINAL] == "datalake"
            assert run.is_success
    one, both = reversed(by_job["daily_ticks_job"])
    assert partitions_of(one.tags) == ["2024-07-01"]
    assert partitions_of(both.tags) == ["2024-07-01", "2024-07-02"]
    assert records.get_materialized_partitions(dg.AssetKey("daily_ticks")) == {
        "2024-07-01",
        "2024-07-02",
    }


def test_their_origin_is_that_of_the_workspace(records: dg.DagsterInstance) -> None:
    (origin,) = WorkspaceFileTarget([str(ROOT / "workspace.yaml")]).create_origins()
    (run, *_) = records.get_runs()
    assert run.remote_job_origin is not None

    ours = run.remote_job_origin.repository_origin.code_location_origin
    assert ours.location_name == origin.location_name == LOCATION
    assert ours.loadable_target_origin.module_name == origin.loadable_target_origin.module_name
    # Other files that name it.
    deployed = yaml.safe_load((ROOT / "deploy" / "workspace.yaml").read_text())
    assert deployed["load_from"][0]["grpc_server"]["location_name"] == LOCATION
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["dagster"]["code_location_name"] == LOCATION


@pytest.mark.parametrize(
    ("job", "command"),
    [
        ("daily_ticks_job", "collect --from 2024-07-01 --to 2024-07-02 --repair"),
        ("minute_ticks_job", "collect --minutes --from 2024-07-01 --to 2024-07-02 --repair"),
    ],
)
def test_an_interrupted_run_names_the_command_that_goes_on_with_the_same_bars(
    job: str, command: str
) -> None:
    error = SerializableErrorInfo("interrupted", [], INTERRUPTED)
    event = SimpleNamespace(
        step_key="stock_universe", step_failure_data=SimpleNamespace(error=error)
    )

    told = _reason(cast(dg.DagsterEvent, event), job, "2024-07-01", "2024-07-02")

    assert told.endswith(f": datalake {command}")
