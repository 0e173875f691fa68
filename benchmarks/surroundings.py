"""What a benchmark runs in: a client of an exchange, a user's environment, records, a store.

Belongs here: what more than one benchmark needs to have something to measure. Does not belong here:
how it is measured (`measuring`).

Imports that take long are inside: some benchmarks measure the start of a process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datalake_assets_tests.seaweedfs import BUCKET, seaweedfs

if TYPE_CHECKING:
    import dagster as dg

    from datalake_assets.sources.alpaca import AlpacaSource

LAST = date(2025, 12, 31)
"""The last day of backfills: a year that is over and stays the same."""

UNLIMITED = 1_000_000
"""Requests a minute: what the settings allow at most."""

KEYS = ("any", "any")
"""An exchange takes every pair of keys."""

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Of a run: its log goes to the records only."""


def years_until_last(years: int) -> list[date]:
    """The sessions of so many whole years, the last one `LAST`'s."""
    from datalake_assets import market_calendar

    return market_calendar.sessions(date(LAST.year - years + 1, 1, 1), LAST)


@contextmanager
def client(url: str, connections: int = 20) -> Iterator[AlpacaSource]:
    """This project's client of the exchange at this address."""
    from datalake_assets.sources.alpaca import Account, AlpacaSource

    account = Account(*KEYS, data_url=url, trading_url=url)
    with closing(AlpacaSource(account, connections=connections)) as source:
        yield source


def active_symbols(source: AlpacaSource) -> tuple[str, ...]:
    """The active symbols of the source's list, in its order."""
    rows = source.assets().select(["symbol", "status"]).to_pylist()
    return tuple(row["symbol"] for row in rows if row["status"] == "active")


def user_environment(
    folder: Path, url: str, per_minute: int, first: date | None = None
) -> dict[str, str]:
    """The environment of a user of this program, who has keys for the exchange at this address.

    Nothing of this one's own settings is in it. The lake is `folder`/lake, Dagster's records
    are in `folder`/dagster, and the file that holds the limit is in `folder`/tmp, so that
    nobody else shares the limit.

    Args:
        folder: Where all of that is.
        url: The exchange's.
        per_minute: Requests a minute.
        first: The first session of the history; None: the settings' own.
    """
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    of_ours = ("ALPACA_", "APCA_", "DATALAKE_", "AWS_", "DAGSTER_")
    others = {name: value for name, value in os.environ.items() if not name.startswith(of_ours)}
    history = {"ALPACA_HISTORY_START": str(first), "DATALAKE_START_DATE": str(first)}
    return {
        **others,
        **(history if first else {}),
        "ALPACA_API_KEY": KEYS[0],
        "ALPACA_SECRET_KEY": KEYS[1],
        "ALPACA_DATA_URL": url,
        "ALPACA_TRADING_URL": url,
        "ALPACA_REQUESTS_PER_MINUTE": str(per_minute),
        "DATALAKE_URI": str(folder / "lake"),
        "DAGSTER_HOME": str(folder / "dagster"),
        "TMPDIR": str(folder / "tmp"),
    }


def run_job(
    definitions: dg.Definitions,
    job: str,
    records: dg.DagsterInstance,
    first: date,
    last: date,
    config: dict[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run a job over a range of sessions in this process, as the command line does."""
    which: dict[str, Any] = {"partition_key": str(first)}
    if first != last:
        # The tags by which Dagster's own range runs name their partitions.
        first_tag, last_tag = (f"dagster/asset_partition_range_{end}" for end in ("start", "end"))
        which = {"tags": {first_tag: str(first), last_tag: str(last)}}
    result = definitions.resolve_job_def(job).execute_in_process(
        instance=records, run_config=QUIET | (config or {}), **which
    )
    assert result.success
    return result


@contextmanager
def store_at(kind: str, folder: Path) -> Iterator[str]:
    """The address of an empty store: `folder`, or `s3` for a local S3 server."""
    if kind == "folder":
        yield str(folder / "store")
        return
    with seaweedfs(folder / "server") as server:
        os.environ.update(server.environ(), NO_PROXY="127.0.0.1")
        yield f"s3://{BUCKET}/store"


@contextmanager
def working_folder() -> Iterator[Path]:
    """A new folder, which is the current one inside: nothing is written elsewhere."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)
