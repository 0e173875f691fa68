"""A stranger's Dagster project, with two lakes that `dg` scaffolds, and assets of its own.

Here: `dg` itself, and Dagster's daemon on that project. It is the one in `examples/own_project`,
so that the example is what works. Not here: each attribute (`test_component`), and what arguments
hold (`test_io_manager`).
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from datalake_assets.resources import LakeResource
from datalake_assets_tests.automation.test_daemon import ROOT, running, steady
from datalake_assets_tests.automation.test_downstream_backfill import ended, launch
from datalake_assets_tests.workbench import QUIET

EXAMPLE = ROOT / "examples" / "own_project"
COMPONENT = "datalake_assets.DatalakeComponent"
LAKES = ("sip", "iex")
SESSIONS = [date(2024, 7, 3), date(2024, 7, 5)]
RANGE = {
    "dagster/asset_partition_range_start": f"{SESSIONS[0]}",
    "dagster/asset_partition_range_end": f"{SESSIONS[-1]}",
}


def environment(project: Path) -> dict[str, str]:
    """What `dg` and the daemon are started with: no key, no setting, a home of their own."""
    home = project / "dagster"
    home.mkdir(exist_ok=True)
    shutil.copy(ROOT / "datalake_assets" / "dagster.yaml", home)
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(project),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(project / "src")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
        "DAGSTER_HOME": str(home),
        "DAGSTER_DG_UPDATE_CHECK_ENABLED": "0",
    }


def dg_says(project: Path, *words: str) -> str:
    """What `dg` prints; it must not fail."""
    done = subprocess.run(
        ["dg", *words],
        cwd=project,
        env=environment(project),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"dg {' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example, with its lakes scaffolded anew."""
    folder = tmp_path_factory.mktemp("stranger") / "own_project"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("*.yaml", ".datalake"))
    for lake in LAKES:
        shutil.rmtree(folder / "src/trader/defs" / lake)
    with ThreadPoolExecutor() as pool:
        scaffold = partial(dg_says, folder, "scaffold", "defs", COMPONENT)
        assert len(list(pool.map(scaffold, LAKES))) == len(LAKES)
    return folder


def defs_yaml(project: Path, lake: str) -> Path:
    return project / "src/trader/defs" / lake / "defs.yaml"


def test_the_examples_lakes_are_as_dg_scaffolds_them(project: Path) -> None:
    for lake in LAKES:
        text = defs_yaml(project, lake).read_text(encoding="utf-8")
        assert text == defs_yaml(EXAMPLE, lake).read_text(encoding="utf-8")
        assert len(text.splitlines()) == 5


@pytest.mark.parametrize("name", ["1st", "é"])
def test_a_name_that_no_lake_can_have_is_refused_by_dg_scaffold(project: Path, name: str) -> None:
    done = subprocess.run(
        ["dg", "scaffold", "defs", COMPONENT, name],
        cwd=project,
        env=environment(project) | {"PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert f"nothing was written: as the name of a lake, {name!r} is not a name" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "src/trader/defs" / name).exists()


def test_dg_checks_and_lists_it_and_a_downstream_asset_is_made_by_a_backfill(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = ",".join(steady(SESSIONS[0])[:40])
    for lake in LAKES:
        with defs_yaml(project, lake).open("a", encoding="utf-8") as file:
            # As YAML has it, this `off` is a boolean.
            file.write(f"  automation: off\n  start_date: '2024-06-03'\n  symbols: {symbols}\n")
            file.write("  alpaca_requests_per_minute: 60000\n")
    monkeypatch.syspath_prepend(project / "src")
    monkeypatch.setenv("DAGSTER_HOME", environment(project)["DAGSTER_HOME"])
    from trader.definitions import defs  # type: ignore[import-not-found]

    loaded = defs()
    graph = loaded.resolve_asset_graph()
    workspace = project / "workspace.yaml"
    workspace.write_text(
        "load_from: [{python_module: {module_name: trader.definitions, "
        "location_name: own_project}}]\n",
        encoding="utf-8",
    )
    log = project / "daemon.log"
    days = [str(day) for day in SESSIONS]
    wanted = [*(f"{lake}/daily_ticks" for lake in LAKES), "iex_share"]
    with (
        ThreadPoolExecutor() as meanwhile,
        dg.DagsterInstance.from_config(environment(project)["DAGSTER_HOME"]) as instance,
        running(environment(project), log, workspace),
    ):
        checked = meanwhile.submit(dg_says, project, "check", "defs")
        listed = meanwhile.submit(dg_says, project, "list", "defs", "--json")
        # Here, and not in processes of their own, as what matters is what comes after.
        for lake in LAKES:
            collected = loaded.resolve_job_def(f"{lake}_daily_ticks_job").execute_in_process(
                instance=instance, tags=RANGE, run_config=QUIET
            )
            assert collected.success
        share_of_days = launch(instance, graph, ["iex_share"], SESSIONS)
        statuses = ended(instance, [share_of_days], log)
        (share,) = instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey("iex_share"), asset_partitions=days[:1]), limit=1
        ).records
        job = loaded.resolve_implicit_global_asset_job_def()
        year = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey("yearly_range")],
            partition_key="2024",
            run_config=QUIET,
        )
        made = {
            key: instance.get_materialized_partitions(dg.AssetKey(key.split("/")))
            for key in (*wanted, "yearly_range")
        }
        stored = project / "dagster" / "storage" / "yearly_range" / "2024"

    assert "All definitions loaded successfully." in checked.result()
    found = {asset["asset_key"] for asset in json.loads(listed.result())["assets"]}
    assert {*wanted, "yearly_range"} <= found
    assert statuses == ["COMPLETED_SUCCESS"]
    assert year.success
    assert made == {**{key: set(days) for key in wanted}, "yearly_range": {"2024"}}
    # Both lakes hold the same market, so the share is all of it.
    assert share.asset_materialization.metadata["share"].value == 1.0
    lake = LakeResource(uri=str(project / ".datalake" / "sip")).read()
    assert lake.sessions() == SESSIONS
    expected = (
        pl.from_arrow(lake.bars(follow=False))
        .group_by("symbol")
        .agg(pl.max("high"), pl.min("low"), pl.len().alias("sessions"))
        .sort("symbol")
    )
    assert pickle.loads(stored.read_bytes()).equals(expected)
