"""What docs/deploying.md says of S3, tried with a real server and a real instance."""

import os
import re
import secrets
import subprocess
import sys
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from datalake_assets.lake.lake import Lake
from datalake_assets.lake.store import open_store
from datalake_assets_tests.seaweedfs import BUCKET, S3Server

ROOT = Path(__file__).parents[1]
DEPLOYING = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.s3


def compute_logs(bucket: str, prefix: str) -> str:
    """The document's lines for dagster.yaml, with its bucket and prefix filled in."""
    (found,) = re.findall(r"^```yaml\n(compute_logs:\n.*?)^```", DEPLOYING, re.M | re.S)
    assert "bucket: BUCKET" in found
    assert "prefix: dagster" in found
    return str(found.replace("BUCKET", bucket).replace("prefix: dagster", f"prefix: {prefix}"))


def instance_in(folder: Path, configuration: str) -> Path:
    """The home of the project's instance with these compute logs."""
    folder.mkdir()
    own = (ROOT / "datalake_assets" / "dagster.yaml").read_text(encoding="utf-8")
    (folder / "dagster.yaml").write_text(f"{own}\n{configuration}", encoding="utf-8")
    return folder


def collect(home: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """One session, by the command line."""
    return subprocess.run(
        [sys.executable, "-m", "datalake_assets", "collect", "--session", "2024-07-03"],
        cwd=home.parent,
        env={
            "HOME": os.environ["HOME"],
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(home.parent),
            "DAGSTER_HOME": str(home),
            "DATALAKE_SYMBOLS": "AAPL,MSFT,SPY",
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def prefix() -> str:
    return f"logs-{secrets.token_hex(4)}"


def logs_of_runs(home: Path) -> list[str]:
    """What each run of the job wrote to its standard error, as another machine finds it."""
    found = []
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for run in instance.get_runs(dg.RunsFilter(job_name="daily_ticks_job")):
            (captured,) = instance.get_records_for_run(
                run.run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED
            ).records
            event = captured.event_log_entry.get_dagster_event()
            key = [run.run_id, "compute_logs", event.logs_captured_data.file_key]
            found.append((instance.compute_log_manager.get_log_data(key).stderr or b"").decode())
    return found


def test_another_machine_reads_the_log_of_a_run_from_the_bucket(
    seaweedfs: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = instance_in(tmp_path / "dagster", compute_logs(BUCKET, prefix))
    lake = f"s3://{BUCKET}/{prefix}-lake"
    # Once in seven runs on a busy machine the captured file was empty: what is read then is right,
    # but tells nothing of whether a log gets there.
    for _ in range(3):
        result = collect(home, seaweedfs.environ() | {"DATALAKE_URI": lake})
        assert result.returncode == 0, result.stdout + result.stderr
        # Where the other machine keeps local copies there are none.
        elsewhere = tmp_path / secrets.token_hex(4)
        elsewhere.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr("tempfile.tempdir", str(elsewhere))
            for name, value in seaweedfs.environ().items():
                patch.setenv(name, value)
            assert date(2024, 7, 3) in Lake(open_store(lake)).sessions()
            read = logs_of_runs(home)
        if any(read):
            break

    assert any("2024-07-03: 1/1 chunks" in log for log in read)
    for name, value in seaweedfs.environ().items():
        monkeypatch.setenv(name, value)
    kept = open_store(f"s3://{BUCKET}/{prefix}").list()
    assert [key for key in kept if key.endswith((".err", ".out"))] == kept != []


def test_a_bucket_for_logs_that_is_not_there_costs_no_run(
    seaweedfs: S3Server, prefix: str, tmp_path: Path
) -> None:
    home = instance_in(tmp_path / "dagster", compute_logs("no-such-bucket", prefix))
    lake = tmp_path / "lake"
    result = collect(home, seaweedfs.environ() | {"DATALAKE_URI": str(lake)})

    assert result.returncode == 0, result.stdout + result.stderr
    assert date(2024, 7, 3) in Lake(open_store(str(lake))).sessions()
