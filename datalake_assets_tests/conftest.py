"""What every test stands on: an environment with nothing of the developer's, and a real S3 server.

Not here: fixtures of one subject, which live in the folder of its tests.
"""

import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

# An example may take as long as a busy machine needs.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

BUCKET = "us-equity-datalake"
OF_THE_DEVELOPER = ("AWS_", "ALPACA_", "DATALAKE_")


@pytest.fixture(scope="session", autouse=True)
def isolated_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No keys, no settings, no Dagster instance and no files of whoever runs the tests."""
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


@dataclass(frozen=True)
class S3Server:
    """A SeaweedFS with one bucket: `admin` may do everything, `reader` may only read and list."""

    endpoint: str
    log: Path
    admin: tuple[str, str]
    reader: tuple[str, str]

    def environ(self, keys: tuple[str, str] | None = None) -> dict[str, str]:
        """The AWS variables for a client of this server."""
        access_key, secret_key = keys or self.admin
        return {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": self.endpoint,
        }

    def log_tail(self) -> str:
        """The end of what the server logged."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-4000:]


@pytest.fixture(scope="session")
def seaweedfs(
    isolated_environment: None,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[S3Server]:
    """A real S3 server on loopback that checks signatures; gone with its data at the end."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    try:
        # Between finding free ports and using them, somebody else may take one.
        for attempts_left in (2, 1, 0):
            process, server = _start_seaweedfs(folder)
            try:
                if _answers(server, process):
                    request.config.stash[_SERVER] = server
                    yield server
                    return
                if not attempts_left:
                    pytest.fail(f"SeaweedFS did not start; its log ends:\n{server.log_tail()}")
            finally:
                _stop(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def s3_lake_uri(seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh prefix of the server's bucket, with the AWS variables set that lead to it."""
    for name, value in seaweedfs.environ().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{secrets.token_hex(8)}"


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


def _start_seaweedfs(folder: Path) -> tuple["subprocess.Popen[bytes]", S3Server]:
    port = _free_block_of_ports()
    server = S3Server(
        endpoint=f"http://127.0.0.1:{port}",
        log=folder / f"{port}.log",
        admin=("admin-key", secrets.token_urlsafe(30)),
        reader=("reader-key", secrets.token_urlsafe(30)),
    )
    identities = [
        ("admin", server.admin, ["Admin", "Read", "Write", "List", "Tagging"]),
        ("reader", server.reader, ["Read", "List"]),
    ]
    config = folder / "identities.json"
    config.write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": name,
                        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
                        "actions": actions,
                    }
                    for name, (access_key, secret_key), actions in identities
                ]
            }
        )
    )
    data = folder / str(port)
    data.mkdir()
    ports = zip(("s3", "master", "volume", "filer", "admin"), range(port, port + 5), strict=True)
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            [
                Path(sysconfig.get_path("scripts")) / "weed",
                "-logtostderr=true",
                "mini",
                f"-dir={data}",
                f"-s3.localSocket={data}/s3.sock",  # else in /tmp, and left there
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-master.telemetry=false",
                "-admin.ui=false",
                "-webdav=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                f"-s3.config={config}",
                f"-bucket={BUCKET}",
                *(f"-{name}.port={number}" for name, number in ports),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return process, server


def _answers(server: S3Server, process: "subprocess.Popen[bytes]") -> bool:
    """Waits until a signed write succeeds; False when the server ends first, or after a minute."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    access_key, secret_key = server.admin
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
        else:
            client.close()
            return True
    client.close()
    return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_block_of_ports() -> int:
    """The first of five ports in a row that are free, as are those 10000 above (for gRPC)."""
    for port in random.sample(range(15000, 32000, 10), k=200):
        if all(
            _is_free(number + offset) for number in range(port, port + 5) for offset in (0, 10000)
        ):
            return port
    raise OSError("no five free ports in a row from 15000 to 32000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
