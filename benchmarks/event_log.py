"""A year in one run: what its record costs by Dagster's own storage, and by ours.

Each way collects the same sessions into an empty lake, in a process of its own, in turns; the
exchange is another process. Wall and CPU are those of the run alone, without imports. At the end
the events that each way has in its databases are counted, and must be the same.

    python -m benchmarks.event_log [--symbols 5000] [--rounds 3] [--postgres]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from datalake_assets import market_calendar

DAYS = market_calendar.sessions(date(2025, 1, 1), date(2025, 12, 31))
UNLIMITED = 1_000_000  # requests a minute: what the settings allow at most

SQLITE = {
    "Dagster's": "storage: {{sqlite: {{base_dir: {home}}}}}",
    "ours": (
        "storage: {{custom: {{module: datalake_assets.records.sqlite, class: SqliteStorage, "
        "config: {{base_dir: {home}}}}}}}"
    ),
}
POSTGRES = {
    "Dagster's": "storage: {{postgres: {{postgres_url: '{url}'}}}}",
    "ours": (
        "storage: {{custom: {{module: datalake_assets.records.postgres, class: PostgresStorage, "
        "config: {{postgres_url: '{url}'}}}}}}"
    ),
}
WAYS = {
    "Dagster's": ("Dagster's", "0"),
    "ours": ("ours", "0"),
    "ours, plans in batches": ("ours", "1000"),
}


def main() -> None:
    """Measure each way in a fresh process, or one of them in this process when told so."""
    given = _arguments()
    if given.only is not None:
        print(json.dumps(_measure(given)))
        return
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with _postgres(given.postgres) as address:
        for _ in range(given.rounds):
            for way, measured in found.items():
                measured.append(_measured(given, way, address))
    plain = found["Dagster's"]
    for way, measured in found.items():
        assert measured[0]["events"] == plain[0]["events"], (way, measured[0]["events"])
        cpu, wall = (_middle(measured, figure) for figure in ("cpu", "wall"))
        print(
            f"{way}: {sum(measured[0]['events'].values()):,} events, CPU {cpu:.2f} s "
            f"({cpu / _middle(plain, 'cpu') - 1:+.0%}), wall {wall:.1f} s "
            f"({wall / _middle(plain, 'wall') - 1:+.0%})"
        )


def _middle(measured: list[dict[str, Any]], figure: str) -> float:
    return statistics.median(each[figure] for each in measured)


def _measured(given: argparse.Namespace, way: str, address: str) -> dict[str, Any]:
    command = [
        *(sys.executable, "-W", "ignore", "-m", "benchmarks.event_log", "--only", way),
        *("--symbols", str(given.symbols), "--address", address),
    ]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return told


def _measure(given: argparse.Namespace) -> dict[str, Any]:
    import dagster as dg

    from datalake_assets.definitions import build_definitions
    from datalake_assets.resources import CollectorResource, EmbeddedExchangeResource, LakeResource
    from datalake_assets.settings import Settings

    storage, batch = WAYS[given.only]
    os.environ["DAGSTER_EVENT_BATCH_SIZE"] = batch
    with tempfile.TemporaryDirectory() as folder:
        configuration = (POSTGRES if given.address else SQLITE)[storage].format(
            home=folder, url=_database(given.address)
        )
        Path(folder, "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{configuration}")
        definitions = build_definitions(
            Settings.load({}),
            source=EmbeddedExchangeResource(active=given.symbols, inactive=0),
            collector=CollectorResource(requests_per_minute=UNLIMITED),
            lake=LakeResource(uri=f"{folder}/lake"),
        )
        job = definitions.resolve_job_def("daily_ticks_job")
        with dg.DagsterInstance.from_config(folder) as instance:
            began, before = time.perf_counter(), _cpu()
            result = job.execute_in_process(
                instance=instance,
                tags={
                    "dagster/asset_partition_range_start": DAYS[0].isoformat(),
                    "dagster/asset_partition_range_end": DAYS[-1].isoformat(),
                },
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
            wall, cpu = time.perf_counter() - began, _cpu() - before
            known = instance.get_materialized_partitions(dg.AssetKey("daily_ticks"))
            assert known == {day.isoformat() for day in DAYS}, len(known)
            told = [entry.dagster_event_type for entry in instance.all_logs(result.run_id)]
    events = Counter(kind.value for kind in told if kind)
    return {"wall": wall, "cpu": cpu, "events": dict(sorted(events.items()))}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def _postgres(wanted: bool) -> Iterator[str]:
    """The address of a Postgres that ends with the block; none for SQLite."""
    if not wanted:
        yield ""
        return
    from datalake_assets_tests.postgres import NOT_HERE, PostgresServer, binaries

    found = binaries()
    if found is None:
        sys.exit(NOT_HERE)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(found, Path(folder) / "postgres", secrets.token_hex(8))
        try:
            yield server.dsn().partition("?")[0]
        finally:
            server.stop()


def _database(address: str) -> str:
    """A new database of the server, as Dagster's driver is told of it."""
    if not address:
        return ""
    import psycopg

    name = f"records_{secrets.token_hex(4)}"
    with psycopg.connect(address, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}".encode())
    return f"{address.removesuffix('postgres')}{name}".replace(":", "+psycopg2:", 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--symbols", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", action="store_true", help="of the system; else SQLite")
    parser.add_argument("--only", choices=tuple(WAYS), help="measure here; used by itself")
    parser.add_argument("--address", default="", help="of the Postgres; used by itself")
    return parser.parse_args()


if __name__ == "__main__":
    main()
