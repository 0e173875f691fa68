"""Peak memory and CPU of one session: the bare collection, and the whole Dagster run around it.

Each is measured in a process of its own, by the kernel's count for that process; the exchange is
another process and not in it. The bare collection ends with the session published in a local
lake; the Dagster run is what `datalake collect` does.

    python -m benchmarks.session_cost [--symbols 11000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from benchmarks import measuring
from benchmarks.surroundings import UNLIMITED, active_symbols, client, run_job, working_folder

SESSION = date(2026, 11, 19)


def main() -> None:
    """Measure both in fresh processes, or one of them in this process when told so."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--symbols", type=int, default=11_000)
    parser.add_argument("--only", choices=tuple(WAYS), help="measure here; used by itself")
    given = parser.parse_args()
    if given.only:
        with working_folder() as folder:
            taken = measuring.timed(lambda: WAYS[given.only](given.symbols, folder))
        measuring.tell({"bars": taken.result, "wall": taken.wall, "cpu": time.process_time()})
        return
    for way in WAYS:
        found = measuring.alone("session_cost", "--only", way, "--symbols", str(given.symbols))
        print(
            f"{way}: {found['bars']:,} bars, peak {found['peak']:,.0f} MiB, "
            f"CPU {found['cpu']:.2f} s, wall {found['wall']:.2f} s",
            flush=True,
        )


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
    from datalake_assets.storage.store import open_store

    lake = LakeWriter(open_store(str(folder / "lake")))
    options = ExchangeOptions(active=symbols, inactive=0)
    with EmbeddedExchange(options) as exchange, client(exchange.url) as source:
        names = active_symbols(source)
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
        result = run_job(definitions, "daily_ticks_job", instance, SESSION, SESSION)
        (event,) = (e for e in result.get_asset_materialization_events() if e.partition)
        return int(str(event.materialization.metadata["present"].value))


WAYS: dict[str, Callable[[int, Path], int]] = {
    "imports": _imports,
    "bare": _bare,
    "dagster": _dagster,
}


if __name__ == "__main__":
    main()
