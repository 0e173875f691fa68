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

from datalake_assets.lake.files import LakeFiles
from datalake_assets.storage.store import open_store
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


def python(
    *arguments: str, home: Path, environ: dict[str, str], temporary: Path
) -> subprocess.CompletedProcess[str]:
    """What a machine of its own does: nothing that this process remembers, boto3's keys say."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=home.parent,
        env={
            "HOME": os.environ["HOME"],
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(temporary),
            "DAGSTER_HOME": str(home),
            "DATALAKE_SYMBOLS": "AAPL,MSFT,SPY",
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def collect(home: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """One session, as a run worker executes it. `datalake collect` leaves its output uncaptured."""
    job = ("job", "execute", "-m", "datalake_assets.definitions", "-j", "daily_ticks_job")
    tags = ("--tags", '{"dagster/partition": "2024-07-03"}')
    command = ("-W", "ignore", "-m", "dagster", *job, *tags)
    return python(*command, home=home, environ=environ, temporary=home.parent)


@pytest.fixture
def prefix() -> str:
    return f"logs-{secrets.token_hex(4)}"


def print_logs_of_runs() -> None:
    """What each run of the job wrote to its standard error, as this machine finds it."""
    with dg.DagsterInstance.get() as instance:
        for run in instance.get_runs(dg.RunsFilter(job_name="daily_ticks_job")):
            (captured,) = instance.get_records_for_run(
                run.run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED
            ).records
            event = captured.event_log_entry.get_dagster_event()
            key = [run.run_id, "compute_logs", event.logs_captured_data.file_key]
            print((instance.compute_log_manager.get_log_data(key).stderr or b"").decode())


def test_another_machine_reads_the_log_of_a_run_from_the_bucket(
    seaweedfs: S3Server, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = instance_in(tmp_path / "dagster", compute_logs(BUCKET, prefix))
    environ = seaweedfs.environ() | {"DATALAKE_URI": f"s3://{BUCKET}/{prefix}-lake"}
    result = collect(home, environ)
    assert result.returncode == 0, result.stdout + result.stderr

    elsewhere = tmp_path / "elsewhere"  # where that machine keeps local copies there are none
    elsewhere.mkdir()
    read = python(
        "-c",
        f"from {__name__} import print_logs_of_runs; print_logs_of_runs()",
        home=home,
        environ=environ,
        temporary=elsewhere,
    )

    assert "2024-07-03: 1/1 chunk," in read.stdout, read.stdout + read.stderr
    for name, value in seaweedfs.environ().items():
        monkeypatch.setenv(name, value)
    assert date(2024, 7, 3) in LakeFiles(open_store(environ["DATALAKE_URI"])).sessions()
    kept = open_store(f"s3://{BUCKET}/{prefix}").list()
    assert [key for key in kept if key.endswith((".err", ".out"))] == kept != []


def test_a_bucket_for_logs_that_is_not_there_costs_no_run(
    seaweedfs: S3Server, prefix: str, tmp_path: Path
) -> None:
    home = instance_in(tmp_path / "dagster", compute_logs("no-such-bucket", prefix))
    lake = tmp_path / "lake"
    result = collect(home, seaweedfs.environ() | {"DATALAKE_URI": str(lake)})

    assert result.returncode == 0, result.stdout + result.stderr
    assert date(2024, 7, 3) in LakeFiles(open_store(str(lake))).sessions()
