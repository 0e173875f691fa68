"""Peak memory and CPU of one session: the bare collection, and the whole Dagster run around it.

Each is measured in a process of its own, by the kernel's count for that process; the exchange is
another process and not in it. The bare collection ends with the session published in a local
lake; the Dagster run is what `datalake collect` does.

    python -m benchmarks.session_cost [--symbols 11000]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

SESSION = date(2026, 11, 19)
UNLIMITED = 1_000_000  # requests a minute: what the settings allow at most


def main() -> None:
    """Measure both in fresh processes, or one of them in this process when told so."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--symbols", type=int, default=11_000)
    parser.add_argument("--only", choices=tuple(WAYS), help="measure here; used by itself")
    given = parser.parse_args()
    if given.only:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            bars = WAYS[given.only](given.symbols, Path(folder))
        wall = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(
            f"{given.only}: {bars:,} bars, peak {used.ru_maxrss / 1024:,.0f} MiB, "
            f"CPU {used.ru_utime + used.ru_stime:.2f} s, wall {wall:.2f} s"
        )
        return
    for way in WAYS:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.session_cost", "--only", way]
        subprocess.run([*command, "--symbols", str(given.symbols)], check=True)


def _imports(symbols: int, folder: Path) -> int:
    """What importing alone takes, to take it off the others."""
    import alpaca.data.historical  # noqa: F401

    import datalake_assets.pipeline.publication
    import datalake_assets.sources.alpaca  # noqa: F401

    return 0


def _bare(symbols: int, folder: Path) -> int:
    from datalake_assets.collection.rate_limit import RateLimiter
    from datalake_assets.exchange.process import EmbeddedExchange, ExchangeOptions
    from datalake_assets.lake.writer import LakeWriter
    from datalake_assets.pipeline.publication import CollectionOptions, Origin, Publication
    from datalake_assets.sources.alpaca import Account, AlpacaSource
    from datalake_assets.storage.store import open_store

    lake = LakeWriter(open_store(str(folder / "lake")))
    with EmbeddedExchange(ExchangeOptions(active=symbols, inactive=0)) as exchange:
        source = AlpacaSource(
            Account("any", "any", data_url=exchange.url, trading_url=exchange.url)
        )
        assets = source.assets()
        names = tuple(
            row["symbol"]
            for row in assets.select(["symbol", "status"]).to_pylist()
            if row["status"] == "active"
        )
        publication = Publication({SESSION: names}, lake, CollectionOptions(RateLimiter(UNLIMITED)))
        origin = Origin("benchmark", listed=SESSION, run_id="benchmark")
        (outcome,) = publication.run(source.bars(), origin)
        assert outcome.published, outcome.findings
        return len(outcome.ledger.present)


def _dagster(symbols: int, folder: Path) -> int:
    import dagster as dg

    from datalake_assets.definitions import build_definitions
    from datalake_assets.resources import CollectorResource, EmbeddedExchangeResource
    from datalake_assets.settings import Settings

    definitions = build_definitions(
        Settings.load({}),
        source=EmbeddedExchangeResource(active=symbols, inactive=0),
        collector=CollectorResource(requests_per_minute=UNLIMITED),
    )
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        result = definitions.resolve_job_def("daily_ticks_job").execute_in_process(
            instance=instance,
            partition_key=SESSION.isoformat(),
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
        (event,) = (e for e in result.get_asset_materialization_events() if e.partition)
        return int(str(event.materialization.metadata["present"].value))


WAYS: dict[str, Callable[[int, Path], int]] = {
    "imports": _imports,
    "bare": _bare,
    "dagster": _dagster,
}


if __name__ == "__main__":
    main()
