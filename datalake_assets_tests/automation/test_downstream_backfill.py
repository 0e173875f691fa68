"""Backfills over `daily_ticks` and assets that come after it, by Dagster's daemon.

Not here: single runs (`test_downstream`). This is a daemon, a code server with somebody's own
project, and runs in processes of their own.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from datalake_assets_tests import neighbour
from datalake_assets_tests.automation.test_daemon import ROOT, running
from datalake_assets_tests.workbench import FRIDAY, MONDAY, NEXT_MONDAY, TUESDAY, WEDNESDAY, Market

DONE_WITHIN_SECONDS = 280  # a guard against hanging


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[tuple[dg.DagsterInstance, Path]]:
    """Dagster's daemon on the neighbour's project: its records, and its log."""
    home = folder / "dagster"
    home.mkdir()
    shutil.copy(ROOT / "datalake_assets" / "dagster.yaml", home)
    workspace = folder / "workspace.yaml"
    workspace.write_text("load_from: [{python_module: datalake_assets_tests.neighbour}]\n")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
        "DAGSTER_HOME": str(home),
        neighbour.LAKE: str(folder / "lake"),
    }
    log = folder / "daemon.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(home))  # where the configuration has its folder from
        with (
            dg.DagsterInstance.from_config(str(home)) as instance,
            running(environment, log, workspace),
        ):
            yield instance, log


def launch(
    instance: dg.DagsterInstance, graph: object, assets: list[str], days: Sequence[date | str]
) -> str:
    """What the UI does at "Launch backfill"; returns the backfill's identifier."""
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="-".join([*assets, str(days[0])]).replace("/", "-"),
        asset_graph=graph,  # type: ignore[arg-type]
        partition_names=[str(day) for day in days],
        asset_selection=[dg.AssetKey(asset.split("/")) for asset in assets],
        backfill_timestamp=datetime.now(UTC).timestamp(),
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return backfill.backfill_id


def ended(instance: dg.DagsterInstance, backfills: list[str], log: Path) -> list[str]:
    """The statuses of these backfills, once all of them came to an end."""
    going_on = {BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING}
    deadline = time.monotonic() + DONE_WITHIN_SECONDS
    while True:
        found = [instance.get_backfill(one) for one in backfills]
        statuses = [one.status for one in found if one]
        if not going_on.intersection(statuses) and len(statuses) == len(backfills):
            return [status.value for status in statuses]
        if time.monotonic() > deadline:
            last = log.read_text(errors="replace").splitlines()[-60:]
            pytest.fail("\n".join([*map(str, statuses), *last]))
        time.sleep(0.5)


def test_a_backfill_runs_them_for_what_was_published_and_not_for_what_was_not(
    tmp_path: Path,
) -> None:
    theirs = neighbour.build(str(tmp_path / "lake"), Market(()))
    graph = theirs.resolve_asset_graph()
    good = [MONDAY, TUESDAY, WEDNESDAY]
    with daemon(tmp_path) as (instance, log):
        # With the policy of `daily_ticks` an asset shares its run.
        together = launch(instance, graph, ["daily_ticks", "same_policy"], good)
        # With another one it follows in runs of its own; Friday's session does not pass.
        apart = launch(
            instance, graph, ["daily_ticks", "no_policy", "single_run"], [FRIDAY, NEXT_MONDAY]
        )
        statuses = ended(instance, [together, apart], log)
        runs = [run for run in instance.get_runs() if run.tags["dagster/backfill"] == together]
        found = {
            asset: instance.get_materialized_partitions(dg.AssetKey(asset))
            for asset in ("daily_ticks", "same_policy", "no_policy", "single_run")
        }

    assert statuses == ["COMPLETED_SUCCESS", "COMPLETED_FAILED"]
    assert [run.asset_selection for run in runs] == [
        {dg.AssetKey("daily_ticks"), dg.AssetKey("same_policy")}
    ]
    assert found["daily_ticks"] == {str(day) for day in (*good, NEXT_MONDAY)}
    assert found["same_policy"] == {str(day) for day in good}
    assert found["no_policy"] == {str(NEXT_MONDAY)}
    assert found["single_run"] == {str(NEXT_MONDAY)}
