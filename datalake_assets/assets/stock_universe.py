"""`stock_universe`: a snapshot of every US equity that the source knows, one a day.

Belongs here: taking the snapshot and describing it. Does not belong here: which of its symbols a
session asks for (`collection.universe`).
"""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets import __version__
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import PermanentError
from datalake_assets.collection.plan import WINDOW
from datalake_assets.collection.retry import Caller, RetryPolicy
from datalake_assets.collection.survey import Survey, survey
from datalake_assets.collection.universe import (
    COLUMN_DESCRIPTIONS,
    SCHEMA,
    active,
    askable,
    lost,
)
from datalake_assets.lake.lake import Lake, Written
from datalake_assets.publication import How
from datalake_assets.resources import CollectorResource, LakeResource, SourceResource
from datalake_assets.sources.alpaca import AlpacaSource

GROUP = "ticks"
OWNERS = ["team:data-platform"]
KEY = dg.AssetKey("stock_universe")

_NEW_YORK = ZoneInfo("America/New_York")


@dg.asset(
    key=KEY,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "parquet"},
    code_version=__version__,
    description="Every US equity on the source's list, active and inactive. One snapshot a day, in "
    "`data/universe/{day}.parquet`: it tells `daily_ticks` which symbols to ask for.",
    metadata={
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn(field.name, str(field.type), COLUMN_DESCRIPTIONS[field.name])
                for field in SCHEMA
            ]
        )
    },
)
def stock_universe(
    collector: CollectorResource, source: SourceResource, lake: LakeResource
) -> dg.MaterializeResult[None]:
    """Take today's snapshot."""
    target = lake.open(source.identity)
    with source.open(collector) as alpaca:
        taken, snapshot, written = take_snapshot(alpaca, target, collector, source)
    return dg.MaterializeResult(metadata=snapshot_metadata(taken, snapshot, written, target))


def take_snapshot(
    alpaca: AlpacaSource,
    lake: Lake,
    collector: CollectorResource,
    source: SourceResource,
    clock: Clock | None = None,
) -> tuple[date, pa.Table, Written]:
    """Fetch the list of assets and keep it as the snapshot of today (in New York).

    Raises:
        PermanentError: The list can't be had, or so many active symbols are gone since the
            snapshot before that it must have been cut short; nothing is written then.
        RefusedError: The source does not accept the keys.
    """
    clock = clock or Clock()
    with collector.trading_limiter(source.account) as limiter:
        policy = RetryPolicy(attempts=collector.attempts, seconds=collector.retry_seconds)
        snapshot = Caller(limiter, policy, clock=clock).call(alpaca.assets)
    found = lake.universe()
    now, before = active(snapshot), active(found[1]) if found else None
    if (share := lost(now, before)) > collector.max_universe_loss:
        raise PermanentError(
            f"the source lists {now:,} active assets, the snapshot before {before or 0:,}: "
            f"{share:.1%} are gone, more than {collector.max_universe_loss:.1%}, so the list was "
            "not taken. If it is right, raise the collector's max_universe_loss for one run"
        )
    taken = clock.now().astimezone(_NEW_YORK).date()
    return taken, snapshot, lake.write_universe(taken, snapshot)


def snapshot_metadata(
    taken: date, snapshot: pa.Table, written: Written, lake: Lake
) -> dict[str, Any]:
    """What the UI shows of a snapshot."""
    status = Counter(snapshot["status"].to_pylist())
    names = pc.unique(snapshot["symbol"]).to_pylist()
    return {
        "dagster/row_count": snapshot.num_rows,
        "dagster/uri": lake.store.url(written.key),
        "day": taken.isoformat(),
        "active": status["active"],
        "inactive": status["inactive"],
        "symbols": len(names),
        "no_tickers": sum(not askable(name) for name in names),
        "file_size_bytes": written.size,
    }


def take_survey(
    alpaca: AlpacaSource,
    lake: Lake,
    how: How,
    wanted: Mapping[date, Sequence[str]],
    since: int,
    asof: date,
) -> Survey | None:
    """In which years the symbols traded: the survey that the lake has, or a new one, if any.

    A short range is not worth one. It is taken of all years at once, so that the runs of a
    backfill share it, and years that are over do not change.

    Args:
        alpaca: Whom to ask.
        lake: Where it is kept.
        how: How to collect.
        wanted: The symbols of each session.
        since: The first year.
        asof: The day whose symbols are meant.

    Raises:
        RefusedError: The source refuses every request.
    """
    if len(wanted) <= WINDOW:
        return None
    # Mostly all sessions want the same symbols, by one and the same tuple.
    distinct = {id(symbols): symbols for symbols in wanted.values()}.values()
    symbols = {symbol for symbols in distinct for symbol in symbols}
    # It may be one of a few chosen symbols, or lack those whose questions failed. Names listed
    # since, or refused, are fewer than a request's.
    if (
        (found := lake.survey())
        and found.covers(wanted)
        and len(symbols - found.years.keys()) < min(how.packing.symbols, len(symbols))
    ):
        return found
    stop = threading.Event()
    found = survey(
        symbols,
        since,
        asof.year,
        alpaca.years(asof),
        Caller(how.limiter, how.retry, stop=stop),
        symbols_per_request=how.packing.symbols,
        workers=how.workers,
        stop=stop,
    )
    if not found.years:
        return None
    lake.write_survey(asof, found)
    return found
