"""A real S3 server from a wheel: SeaweedFS on loopback, with keys of its own that it checks.

The tests, `make demo-s3` and the benchmarks start it here. By itself it runs a command that finds
the server by AWS's variables, then tells what the bucket holds, and ends:

    python -m datalake_assets_tests.seaweedfs --data .datalake/s3 -- datalake demo

Not here: what is done with the server.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BUCKET = "us-equity-datalake"


@dataclass(frozen=True)
class S3Server:
    """A SeaweedFS with one bucket: `admin` may do everything, `reader` may only read and list."""

    endpoint: str
    log: Path
    admin: tuple[str, str]
    reader: tuple[str, str]
    pid: int

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


@contextmanager
def seaweedfs(folder: Path) -> Iterator[S3Server]:
    """A server that holds its objects in `folder`, and what it held there before.

    Its keys are new each time. It ends with the `with` block, and a Ctrl-C in the terminal is not
    meant for it.

    Raises:
        RuntimeError: It did not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Between finding free ports and using them, somebody else may take one.
    for attempts_left in (2, 1, 0):
        process, server = _start(folder)
        try:
            if _answers(server, process):
                yield server
                return
        finally:
            _stop(process)
        if not attempts_left:
            raise RuntimeError(f"SeaweedFS did not start; its log ends:\n{server.log_tail()}")


def _start(folder: Path) -> tuple[subprocess.Popen[bytes], S3Server]:
    port = _free_block_of_ports()
    admin = ("admin-key", secrets.token_urlsafe(30))
    reader = ("reader-key", secrets.token_urlsafe(30))
    identities = [
        ("admin", admin, ["Admin", "Read", "Write", "List", "Tagging"]),
        ("reader", reader, ["Read", "List"]),
    ]
    config = folder / "identities.json"
    config.touch(mode=0o600)
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
    data, log = folder / "data", folder / "server.log"
    data.mkdir(exist_ok=True)
    ports = zip(("s3", "master", "volume", "filer", "admin"), range(port, port + 5), strict=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                Path(sysconfig.get_path("scripts")) / "weed",
                "-logtostderr=true",
                "mini",
                f"-dir={data}",
                # Else in /tmp, and left there. Relative: a socket's path has 104 bytes at most.
                "-s3.localSocket=s3.sock",
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
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, S3Server(f"http://127.0.0.1:{port}", log, admin, reader, process.pid)


def _answers(server: S3Server, process: subprocess.Popen[bytes]) -> bool:
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
            client.delete_object(Bucket=BUCKET, Key="ready")
            client.close()
            return True
    client.close()
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
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


# --- by itself ------------------------------------------------------------------------------------


def main() -> int:
    """Run a command with the server, tell what the bucket holds; the command's exit code."""
    parser = argparse.ArgumentParser(description="Run a command with an S3 server of its own.")
    parser.add_argument(
        "--data", type=Path, default=Path(".datalake/s3"), help="where the server keeps its objects"
    )
    parser.add_argument("command", nargs="+", help="what to run, after --")
    given = parser.parse_args()
    with seaweedfs(given.data.resolve()) as server:
        print(f"→ SeaweedFS on {server.endpoint}, data in {given.data}", flush=True)
        # Nothing of AWS's that was set for another server: a profile would win over the keys.
        inherited = {name: value for name, value in os.environ.items() if name[:4] != "AWS_"}
        lake = {"DATALAKE_URI": f"s3://{BUCKET}"}
        process = subprocess.Popen(given.command, env=inherited | server.environ() | lake)
        # A stop is the command's, which ends in its own way; the server ends after it.
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        except KeyboardInterrupt:  # which a terminal sends to both
            return process.wait() or 130
        _tell(server)
    again = shlex.join(["--data", str(given.data), "--", os.environ.get("SHELL", "sh")])
    print(
        f"→ the server has ended, its objects are kept; a shell with it again:\n"
        f"  {os.path.relpath(sys.executable)} -m datalake_assets_tests.seaweedfs {again}"
    )
    return code if code >= 0 else 128 - code  # as a shell tells of a signal


def _tell(server: S3Server) -> None:
    """The folders of the bucket: objects and bytes, and one name as an example."""
    import boto3

    access_key, secret_key = server.admin
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
    )
    folders: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for found in page.get("Contents", ()):
            # What precedes the first name that is a year, a day or a symbol.
            folder = "/".join(found["Key"].split("/")[:4][:-1])
            folders[folder].append((found["Key"], found["Size"]))
    client.close()
    print(f"→ in s3://{BUCKET}:")
    for _, objects in sorted(folders.items()):
        size = sum(size for _, size in objects)
        print(f"  {len(objects):>6,} objects {size / 1024:>9,.0f} KiB  {max(objects)[0]}")


if __name__ == "__main__":
    sys.exit(main())
