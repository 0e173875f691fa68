"""What every test stands on: an environment with nothing of the developer's, and a real S3 server.

Not here: fixtures of one subject, which live in the folder of its tests.
"""

import functools
import gc
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from alembic.script import ScriptDirectory

from datalake_assets_tests.seaweedfs import BUCKET, S3Server
from datalake_assets_tests.seaweedfs import seaweedfs as server_in

if TYPE_CHECKING:
    from datalake_assets_tests.workbench import Workbench

# An example may take as long as a busy machine needs.
hypothesis.settings.register_profile("untimed", deadline=None, max_examples=60)
hypothesis.settings.load_profile("untimed")

# Dagster's modules and what thousands of tests leave make each look for garbage a long one.
gc.set_threshold(50_000, 20, 20)

# For each file of records Dagster reads all scripts of its migrations, two or three times.
ScriptDirectory.from_config = functools.cache(ScriptDirectory.from_config)  # type: ignore[method-assign]

OF_THE_DEVELOPER = ("AWS_", "ALPACA_", "DATALAKE_")


@pytest.fixture(scope="session", autouse=True)
def isolated_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No keys, no settings, no Dagster instance and no files of whoever runs the tests."""
    # A shell's background job ignores SIGINT, and so would every process that a test starts; and
    # Dagster, which handles SIGTERM as SIGINT is handled, would have them ignore that as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(OF_THE_DEVELOPER) or name == "DAGSTER_HOME":
                patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        # Where AWS's chain would go on looking: a service of the machine, over the network.
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        # A proxy of the developer's must not stand between a test and its own server.
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        yield


@pytest.fixture(scope="session")
def seaweedfs(
    isolated_environment: None,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[S3Server]:
    """A real S3 server on loopback that checks signatures; gone with its data at the end."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    try:
        with server_in(folder) as server:
            request.config.stash[_SERVER] = server
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def s3_lake_uri(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix of the server's bucket, with the AWS variables set that lead to it."""
    for name, value in seaweedfs.environ().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{secrets.token_hex(8)}"


@pytest.fixture
def folder_of_nobody() -> Iterator[Path]:
    """A folder in which `rights.as_nobody` may look and write, as it may not in pytest's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture
def bench(tmp_path: Path) -> "Iterator[Workbench]":
    """A lake, Dagster's records and a market; the market answers at the end whoever waits."""
    import dagster as dg

    from datalake_assets_tests.workbench import Workbench

    with dg.DagsterInstance.ephemeral() as instance:
        bench = Workbench(tmp_path / "lake", instance)
        yield bench
        bench.market.release.set()


_SERVER = pytest.StashKey[S3Server]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the S3 server's log beside a failure of a test that uses it."""
    report = yield
    server = item.config.stash.get(_SERVER, None)
    if report.failed and server and "seaweedfs" in getattr(item, "fixturenames", ()):
        report.sections.append(("SeaweedFS log", server.log_tail()))
    return report
