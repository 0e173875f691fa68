"""Uploading many small files: this project's uploader against s5cmd, rclone and boto3's ways.

Every way is a process of its own. They take turns, against a sink that answers each request after
a latency (`benchmarks.sink`) or a real S3 server (SeaweedFS); medians count. Of a way in Python
the time from listing the files to the last answer counts, its client's making included, and what
its imports take is told beside it (`start`); of s5cmd and rclone the whole process. The slow ways
get `--few` files. After each turn the server is asked whether it has them all. s5cmd and rclone
are measured where they are on the PATH.

    python -m benchmarks.upload [--files 5000] [--few 400] [--workers 20 100 400]
        [--latency 0 0.06] [--rounds 3] [--ways ours s5cmd …] [--seaweedfs]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.sink import sink
from datalake_assets.storage.layout import symbol_year_key
from datalake_assets_tests.seaweedfs import BUCKET

MEAN_SIZE = 15_000  # bytes of a symbol-year


def main() -> None:
    """Measure every way in turns, or one of them in this process when told so."""
    given = _arguments()
    if given.only:
        _import(given.only)
        taken = measuring.timed(
            lambda: WAYS[given.only](Path(given.folder), given.prefix, given.workers[0])
        )
        measuring.tell({"own_wall": taken.wall, "own_cpu": taken.cpu})
        return
    here = [way for way in given.ways if way not in TOOLS or shutil.which(way)]
    for way in set(given.ways) - set(here):
        print(f"{way} is not on the PATH: left out")
    with tempfile.TemporaryDirectory() as folder:
        many, few = Path(folder) / "many", Path(folder) / "few"
        write_files(many, given.files)
        write_files(few, min(given.few, given.files))
        settings = [
            Setting(way, workers, few if way in SLOW else many)
            for workers in given.workers
            for way in here
            if workers <= MOST_WORKERS.get(way, workers)
        ]
        for latency in given.latency:
            print(f"\nsink, {latency * 1000:g} ms a request")
            with sink(latency) as server:
                environment = _environment(server.url, "any", "any")
                _measure(settings, environment, given.rounds, lambda _: server.taken()[0])
        if given.seaweedfs:
            from datalake_assets_tests.seaweedfs import seaweedfs

            print("\nSeaweedFS")
            with seaweedfs(Path(folder) / "server") as real:
                environment = _environment(real.endpoint, *real.admin)
                os.environ.update(environment)
                _measure(settings, environment, given.rounds, _count_objects)


@dataclass(frozen=True)
class Setting:
    """One line of the table: who uploads which folder with how many workers."""

    way: str
    workers: int
    folder: Path

    def command(self, prefix: str) -> list[str]:
        """What to run."""
        if self.way in TOOLS:
            return TOOLS[self.way](self.folder, prefix, self.workers)
        return [
            *(sys.executable, "-m", "benchmarks.upload", "--only", self.way),
            *("--folder", str(self.folder), "--prefix", prefix, "--workers", str(self.workers)),
        ]


def _measure(
    settings: list[Setting],
    environment: dict[str, str],
    rounds: int,
    count: Callable[[str], int],
) -> None:
    taken: dict[Setting, list[tuple[float, float, float]]] = {setting: [] for setting in settings}
    for turn in range(rounds):
        for number, setting in enumerate(settings):
            prefix = f"{turn}-{number}"
            before = count(prefix)
            taken[setting].append(_timed(setting.command(prefix), environment))
            arrived, sent = count(prefix) - before, len(list(setting.folder.rglob("*.parquet")))
            if arrived < sent:
                raise SystemExit(f"{setting}: {arrived} of {sent} objects arrived")
    files = {setting: len(list(setting.folder.rglob("*.parquet"))) for setting in settings}
    figures = {
        setting: [statistics.median(column) for column in zip(*runs, strict=True)]
        for setting, runs in taken.items()
    }
    rates = {(s.way, s.workers): files[s] / wall for s, (wall, _, _) in figures.items()}
    print(
        f"{'way':<12}{'workers':>8}{'files':>7}{'objects/s':>11}{'CPU s/1,000':>13}{'start, s':>10}"
        f"{'x s5cmd':>9}{'x sketch':>10}"
    )
    for setting, (_, cpu, start) in figures.items():
        rate = rates[setting.way, setting.workers]
        others = (rates.get(("s5cmd", setting.workers)), rates.get(("sketch", 20)))
        ratios = [f"{rate / other:.2f}" if other else "–" for other in others]
        print(
            f"{setting.way:<12}{setting.workers:>8}{files[setting]:>7,}{rate:>11,.0f}"
            f"{cpu / files[setting] * 1000:>13.2f}{start:>10.2f}{ratios[0]:>9}{ratios[1]:>10}"
        )


def _timed(command: list[str], environment: dict[str, str]) -> tuple[float, float, float]:
    """Seconds by the clock and of CPU that the upload took, and those before and after it."""
    run = measuring.run(command, environment)
    own = run.get("own_wall", run["wall"])
    return own, run.get("own_cpu", run["cpu"]), run["wall"] - own


def write_files(folder: Path, count: int) -> None:
    """Files of the size of symbol-years, in their layout, of bytes that nothing compresses."""
    draw = random.Random(7)
    for number in range(count):
        file = folder / symbol_year_key(f"S{number:05}", 2024)
        file.parent.mkdir(parents=True)
        file.write_bytes(draw.randbytes(draw.randint(MEAN_SIZE - 5_000, MEAN_SIZE + 5_000)))


def _environment(endpoint: str, access_key: str, secret_key: str) -> dict[str, str]:
    return os.environ | {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": endpoint,
        "S3_ENDPOINT_URL": endpoint,  # s5cmd's name for it
        "NO_PROXY": "127.0.0.1",
    }


def _count_objects(prefix: str) -> int:
    from datalake_assets.storage.store import open_store

    return len(open_store(f"s3://{BUCKET}/{prefix}").list())


# --- the ways -------------------------------------------------------------------------------------


def _import(way: str) -> None:
    """What a way in Python loads before it starts."""
    if way == "ours":
        import datalake_assets.storage.upload  # noqa: F401
    else:
        import boto3.s3.transfer  # noqa: F401


def _ours(folder: Path, prefix: str, workers: int) -> None:
    from datalake_assets.storage.store import open_store
    from datalake_assets.storage.upload import files, upload

    store = open_store(f"s3://{BUCKET}/{prefix}", retry=False)
    report = upload(files(folder), store.put, workers=workers)
    assert report.passed, report.failed


def _sketch(folder: Path, prefix: str, workers: int) -> None:
    """The first sketch of this system: 20 threads, a client for each file."""
    import boto3

    # One session at a time: making a client is not thread-safe.
    making = threading.Lock()

    def one(file: Path) -> None:
        with making:
            client = boto3.client("s3")
        client.upload_file(str(file), BUCKET, f"{prefix}/{file.relative_to(folder)}")

    _in_threads(one, folder, workers)


def _one_client(folder: Path, prefix: str, workers: int) -> None:
    import boto3

    client = boto3.client("s3")

    def one(file: Path) -> None:
        client.upload_file(str(file), BUCKET, f"{prefix}/{file.relative_to(folder)}")

    _in_threads(one, folder, workers)


def _boto3_tuned(folder: Path, prefix: str, workers: int) -> None:
    """`put_object`, as many connections as threads, nothing waited for before a body is sent."""
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", config=Config(max_pool_connections=workers))
    client.meta.events.register_first("before-call.s3.PutObject", _without_expect)

    def one(file: Path) -> None:
        key = f"{prefix}/{file.relative_to(folder)}"
        client.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())

    _in_threads(one, folder, workers)


def _without_expect(params: dict[str, Any], **_: object) -> None:
    params["headers"].pop("Expect", None)


def _in_threads(one: Callable[[Path], None], folder: Path, workers: int) -> None:
    with ThreadPoolExecutor(workers) as threads:
        for _ in threads.map(one, sorted(folder.rglob("*.parquet"))):
            pass


def _s5cmd(folder: Path, prefix: str, workers: int) -> list[str]:
    quiet = ("--log", "error", "--numworkers", str(workers))
    return ["s5cmd", *quiet, "cp", f"{folder}/", f"s3://{BUCKET}/{prefix}/"]


def _rclone(folder: Path, prefix: str, workers: int) -> list[str]:
    """Told that everything is new, so that it asks for nothing beforehand or afterwards."""
    endpoint = "endpoint='${AWS_ENDPOINT_URL_S3}'"
    remote = f":s3,provider=Other,env_auth,no_check_bucket,no_head,{endpoint}:{BUCKET}/{prefix}"
    copy = f'exec rclone copy --config= --no-check-dest --transfers {workers} "{folder}" "{remote}"'
    return ["sh", "-c", copy]


WAYS = {"sketch": _sketch, "one client": _one_client, "boto3 tuned": _boto3_tuned, "ours": _ours}
TOOLS = {"s5cmd": _s5cmd, "rclone": _rclone}
SLOW = {"sketch", "one client", "boto3 tuned"}
MOST_WORKERS = {"sketch": 20, "one client": 20, "boto3 tuned": 100, "rclone": 100}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--few", type=int, default=400, help="files for the slow ways")
    parser.add_argument("--workers", type=int, nargs="+", default=[20, 100, 400])
    parser.add_argument("--latency", type=float, nargs="*", default=[0, 0.06], help="seconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, *TOOLS], default=[*WAYS, *TOOLS])
    parser.add_argument("--seaweedfs", action="store_true", help="also to a real S3 server")
    parser.add_argument("--only", choices=tuple(WAYS), help="upload here; used by itself")
    parser.add_argument("--folder", help="used by itself")
    parser.add_argument("--prefix", help="used by itself")
    return parser.parse_args()


if __name__ == "__main__":
    main()
