"""`corporate_actions`: what the source says of splits, dividends, renames and ends, and since when.

Belongs here: the asset, its check, and what its runs tell. Does not belong here: which window is
asked (`actions.sweep`), how it is kept (`actions.log`), and what is odd (`actions.oddities`).
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from datalake_assets import __version__, liveness
from datalake_assets.actions.action import COLUMN_DESCRIPTIONS, KINDS, SCHEMA
from datalake_assets.actions.log import CHANGED, INSERTED, VANISHED, ActionLog, Sweep
from datalake_assets.actions.oddities import Oddity, counted, oddities
from datalake_assets.actions.sweep import MAX_LOSS, due, sweep, today
from datalake_assets.assets.failure import plainly
from datalake_assets.assets.stock_universe import KEY as STOCK_UNIVERSE
from datalake_assets.assets.stock_universe import OWNERS
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.retry import Caller
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.reader import Reader
from datalake_assets.resources import CollectorResource, LakeResource, SourceResource
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError

KEY = dg.AssetKey("corporate_actions")
CHECK = "actions_are_sound"
GROUP = "securities"

_SHOWN = 50


class SweepConfig(dg.Config):
    """What one run asks for."""

    whole_history: bool = Field(
        default=False,
        description="Ask for the whole history, as is done once a month anyway. Off: for what is "
        "processed from five weeks before the last run to a year ahead.",
    )
    since: str = Field(
        default="",
        description="Ask for what is processed from this day on (YYYY-MM-DD), and leave the "
        "history before it to another run.",
    )
    max_loss: float = Field(
        default=MAX_LOSS,
        ge=0,
        le=1,
        description="The answer is taken when no larger share of the actions that stood is gone.",
    )


@dg.asset(
    key=KEY,
    deps=[STOCK_UNIVERSE],
    group_name=GROUP,
    owners=OWNERS,
    kinds={"python", "parquet"},
    code_version=__version__,
    description="What the source says of splits, dividends, renames, mergers and ends, by the day "
    "on which the price knows it: `data/actions/actions.parquet`. What it said when is in the log "
    "beside it, so that what was known on a day can be told: `datalake actions SYMBOL --known-at "
    "DAY`. Each evening asks for a window of process dates, each month for the whole history.",
    metadata={
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn(field.name, str(field.type), COLUMN_DESCRIPTIONS[field.name])
                for field in SCHEMA
            ]
        )
    },
    check_specs=[
        dg.AssetCheckSpec(
            CHECK,
            asset=KEY,
            description="No action is listed twice, on two days, with an impossible or missing "
            "rate, for a ticker that nobody knows, or on a day without a session; and every row "
            "of the answer could be read. Nothing is left out or mended because of it.",
        )
    ],
)
@plainly
def corporate_actions(
    context: dg.AssetExecutionContext,
    config: SweepConfig,
    collector: CollectorResource,
    source: SourceResource,
    lake: LakeResource,
    clock: dg.ResourceParam[Clock],
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Ask for what is due, log what changed, and judge what stands."""
    liveness.mark(context)
    target = lake.open(source.identity)
    log = ActionLog(target.store)
    since = date.fromisoformat(config.since) if config.since else None
    window = due(today(clock), log.sweeps(), whole=config.whole_history, since=since)
    context.log.info(
        "asking for the actions that are processed from %s to %s", window.first, window.last
    )
    with source.open(collector) as alpaca, collector.options(source.account) as options:
        deadline = clock.seconds() + options.seconds if options.seconds else math.inf
        caller = Caller(options.limiter, options.retry, deadline=deadline, clock=clock)
        swept, events = sweep(alpaca, log, caller, window, max_loss=config.max_loss, clock=clock)
    standing = log.current()
    odd = oddities(standing, _known(context, target, standing))
    yield dg.MaterializeResult(
        metadata=sweep_metadata(swept, events, standing, odd)
        | {"dagster/uri": target.store.url(layout.STANDING_ACTIONS)}
    )
    yield judge(swept, odd)


def _known(
    context: dg.AssetExecutionContext, lake: LakeFiles, standing: pa.Table
) -> frozenset[str]:
    """The tickers on the newest list of assets and, if that does not name all, those with bars."""
    try:
        universe = lake.universe()
        listed = frozenset(universe[1]["symbol"].to_pylist() if universe else ())
        if listed.issuperset(standing["symbol"].to_pylist()):
            return listed
        known = listed.union(Reader(lake.store).symbols())
        # A lake that holds neither list nor bars yet knows no ticker, which tells nothing.
        return known or frozenset(standing["symbol"].to_pylist())
    except BrokenFileError as error:
        # The actions are right all the same; `datalake doctor` is there for the bars.
        context.log.warning("tickers are not judged: %s", error)
        return frozenset(standing["symbol"].to_pylist())


def sweep_metadata(
    swept: Sweep, events: pa.Table, standing: pa.Table, odd: Sequence[Oddity]
) -> dict[str, Any]:
    """What the UI shows and plots of a sweep."""
    kinds = Counter(standing["kind"].to_pylist())
    seen = Counter(events["event"].to_pylist())
    metadata: dict[str, Any] = {
        "dagster/row_count": standing.num_rows,
        "window": f"{swept.first} to {swept.last}",
        "requests": swept.requests,
        "answered": swept.actions,
        INSERTED: seen[INSERTED],
        CHANGED: seen[CHANGED],
        VANISHED: seen[VANISHED],
        "skipped": swept.skipped,
        "unknown_lists": len(swept.unknown),
        "oddities": len(odd),
        **{kind.replace(" ", "_"): number for kind, number in counted(odd).items()},
        **{kind: kinds[kind] for kind in KINDS},
    }
    # Of a history that is new all is inserted, which tells nothing.
    changes = events.filter(pc.not_equal(events["event"], INSERTED)).slice(0, _SHOWN)
    if changes.num_rows:
        metadata["changes"] = dg.MetadataValue.table(
            [
                dg.TableRecord({name: str(row[name]) for name in ("event", *_TOLD)})
                for row in changes.to_pylist()
            ]
        )
    return metadata


_TOLD = ("symbol", "kind", "effective_date", "id", "body")


def judge(swept: Sweep, odd: Sequence[Oddity]) -> dg.AssetCheckResult:
    """The check: it names what is odd, the newest first."""
    counts = counted(odd)
    told = [f"{number:,} × {kind}" for kind, number in counts.items() if number]
    if swept.skipped:
        told.append(f"{swept.skipped:,} × unreadable row")
    told += [f"{rows:,} × row in the unknown list {name}" for name, rows in swept.unknown.items()]
    metadata: dict[str, Any] = {kind.replace(" ", "_"): number for kind, number in counts.items()}
    if odd:
        metadata["offenders"] = dg.MetadataValue.table(
            [
                dg.TableRecord(
                    {
                        "symbol": one.symbol,
                        "effective_date": str(one.effective_date),
                        "what": one.text,
                        "ids": ", ".join(one.ids),
                    }
                )
                for one in odd[:_SHOWN]
            ]
        )
    if swept.examples:
        metadata["skipped_rows"] = dg.MetadataValue.json(list(swept.examples))
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not told,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(told) or "nothing is odd",
        metadata={"skipped": swept.skipped, **metadata},
    )
