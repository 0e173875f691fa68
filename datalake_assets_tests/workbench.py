"""A workbench for the assets: a lake, Dagster's records, and a market that does as it is told."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import product
from pathlib import Path
from string import ascii_uppercase
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.collect import Page
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.collection.errors import PermanentError
from datalake_assets.collection.progress import Display
from datalake_assets.collection.universe import SCHEMA as UNIVERSE
from datalake_assets.definitions import build_definitions
from datalake_assets.lake import session_file
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.resources import CollectorResource, LakeResource, SourceResource
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.fakes import ScriptedSource

DAYS = [date(2024, 7, day) for day in (1, 2, 3, 5, 8)]
"""Five sessions around a holiday and a weekend."""
MONDAY, TUESDAY, WEDNESDAY, FRIDAY, NEXT_MONDAY = DAYS
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
TODAY = datetime.now(UTC).astimezone(ZoneInfo("America/New_York")).date()


def names(count: int) -> tuple[str, ...]:
    """So many tickers, ascending."""
    return tuple("".join(letters) for letters in list(product(ascii_uppercase, repeat=3))[:count])


def universe(active: Iterable[str], inactive: Iterable[str] = ()) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "symbol": symbol,
                "status": status,
                "exchange": "NYSE",
                "name": symbol,
                "tradable": status == "active",
                "asset_id": f"id-{symbol}",
            }
            for status, symbols in (("active", active), ("inactive", inactive))
            for symbol in symbols
        ],
        UNIVERSE,
    )


class Market(ScriptedSource):
    """A source in this process, of which a test says what it fails to answer.

    Args:
        symbols: Every one has a bar in each of `DAYS`.
        changed: Columns of single bars that are otherwise than usual.
    """

    def __init__(
        self,
        symbols: Sequence[str],
        *,
        inactive: Sequence[str] = (),
        silent: Iterable[str] = (),
        changed: dict[tuple[str, date], dict[str, Any]] | None = None,
    ) -> None:
        changed, quiet = changed or {}, frozenset(silent)
        super().__init__(
            table(
                bar(symbol, day, **changed.get((symbol, day), {}))
                for day in DAYS
                for symbol in (*symbols, *inactive)
                if symbol not in quiet
            )
        )
        self.listed = universe(symbols, inactive)
        self.failing: set[tuple[str, date]] = set()
        self.assets_taken = self.calendars_asked = 0
        self.closed: frozenset[date] = frozenset()
        self.slow: set[str] = set()
        self.release = threading.Event()

    def __call__(
        self, symbols: tuple[str, ...], first: date, last: date, page_token: str | None
    ) -> Page:
        page = super().__call__(symbols, first, last, page_token)
        for symbol, day in sorted(self.failing):
            if symbol in symbols and first <= day <= last:
                raise PermanentError(f"HTTP 500 for {symbol}")
        if self.slow.intersection(symbols):
            self.release.wait(60)
        return page

    def bars(self, dataset: Dataset = DAILY) -> ScriptedSource:
        return self if dataset is DAILY else self.minutes

    @cached_property
    def minutes(self) -> "MinuteMarket":
        """The same bars by the minute."""
        return MinuteMarket(self._bars, self)

    def assets(self) -> pa.Table:
        self.assets_taken += 1
        return self.listed

    def calendar(self, first: date, last: date) -> frozenset[date]:
        self.calendars_asked += 1
        return frozenset(market_calendar.sessions(first, last)) - self.closed

    def asked(self) -> set[tuple[str, date]]:
        """What was asked for so far, and forget it."""
        found = {
            (symbol, day)
            for request in self.requests
            for symbol in request.symbols
            for day in DAYS
            if request.first <= day <= request.last
        }
        self.requests.clear()
        return found


class MinuteMarket(ScriptedSource):
    """Minute bars that add up to daily ones, from the open of each session to its close.

    Args:
        daily: The daily bars.
        market: The market that they are of; what it fails to answer is not answered here either.
    """

    def __init__(self, daily: pa.Table, market: Market) -> None:
        super().__init__(pa.concat_tables(map(minutes_of, daily.to_batches(max_chunksize=1))))
        self._market = market
        self.missing: dict[tuple[str, date], int] = {}
        """Symbols in sessions of which only so many minutes are served, the first ones."""

    def __call__(
        self, symbols: tuple[str, ...], first: date, last: date, page_token: str | None
    ) -> Page:
        page = super().__call__(symbols, first, last, page_token)
        for symbol, day in sorted(self._market.failing):
            if symbol in symbols and first <= day <= last:
                raise PermanentError(f"HTTP 500 for {symbol}")
        kept = page.bars
        for (symbol, day), count in self.missing.items():
            if first <= day <= last and symbol in symbols:
                until = market_calendar.session_open(day) + count * timedelta(minutes=1)
                gone = pc.and_(
                    pc.equal(kept["symbol"], symbol),
                    pc.greater_equal(kept["timestamp"], pa.scalar(until, kept["timestamp"].type)),
                )
                kept = kept.filter(pc.invert(gone))
        return Page(kept, page.next_token, page.size)


def minutes_of(daily: pa.RecordBatch) -> pa.Table:
    """Minutes that add up to one daily bar: the first has its high, its low and the odd shares."""
    (day,) = daily.to_pylist()
    opens = market_calendar.session_open(day["session"])
    count = (market_calendar.session_close(day["session"]) - opens) // timedelta(minutes=1)
    columns: dict[str, Any] = {
        name: [day[name]] * count for name in ("symbol", "session", "open", "close", "vwap")
    }
    columns["timestamp"] = [opens + minute * timedelta(minutes=1) for minute in range(count)]
    highest, lowest = max(day["open"], day["close"]), min(day["open"], day["close"])
    columns["high"] = [day["high"], *[highest] * (count - 1)]
    columns["low"] = [day["low"], *[lowest] * (count - 1)]
    for name in ("volume", "trade_count"):
        share, rest = divmod(day[name], count)
        columns[name] = [share + rest, *[share] * (count - 1)]
    table = pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
    return table.filter(pc.greater(table["volume"], 0))


def source_of(market: Market, name: str = "the tests' market") -> SourceResource:
    """The market as a resource. Dagster copies resources, so the copies' class holds it."""

    class InProcess(SourceResource):
        @property
        def identity(self) -> str:
            return name

        @property
        def account(self) -> str | None:
            return None

        @contextmanager
        def open(self, collector: CollectorResource) -> Iterator[Any]:
            yield market

    return InProcess()


@dataclass
class Workbench:
    """A lake, a Dagster instance, and a market to collect from."""

    folder: Path
    instance: dg.DagsterInstance
    market: Market = field(default_factory=lambda: Market(names(20)))
    source: str = "the tests' market"
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def lake(self) -> LakeWriter:
        return LakeWriter(open_store(str(self.folder)))

    def definitions(self, display: Display | None = None, **collector: Any) -> dg.Definitions:
        # One symbol and session each request, so that each can fail alone; one that does is one
        # too many for these twenty.
        usual = {"requests_per_minute": 10_000_000, "bars_per_request": 1, "attempts": 1}
        usual |= {"unanswered_allowed": 0}
        return build_definitions(
            Settings.load(self.settings),
            collector=CollectorResource(**(usual | collector)),
            source=source_of(self.market, self.source),
            lake=LakeResource(uri=str(self.folder)),
            display=display or Display(),
        )

    def run(
        self,
        first: date,
        last: date | None = None,
        *,
        job: str = "daily_ticks_job",
        definitions: dg.Definitions | None = None,
        display: Display | None = None,
        **collector: Any,
    ) -> dg.ExecuteInProcessResult:
        definitions = definitions or self.definitions(display, **collector)
        span = {
            "dagster/asset_partition_range_start": f"{first}",
            "dagster/asset_partition_range_end": f"{last}",
        }
        return definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            run_config=QUIET,
            raise_on_error=False,
            **({"partition_key": f"{first}"} if last is None else {"tags": span}),
        )

    def files(self) -> dict[str, bytes]:
        """Everything that lies in the lake."""
        store = self.lake.store
        return {key: store.get(key) for key in store.list("")}

    def incomplete(self, day: date) -> session_file.Session:
        key = layout.incomplete_key(day)
        return session_file.decode(self.lake.store.get(key), key)

    def materialized(self, asset: str = "daily_ticks") -> set[str]:
        return set(self.instance.get_materialized_partitions(dg.AssetKey(asset)))


def materializations(
    result: dg.ExecuteInProcessResult, asset: str = "daily_ticks"
) -> dict[str | None, dict[str, Any]]:
    """Metadata by partition."""
    return {
        event.partition: dict(event.materialization.metadata)
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(asset)
    }


def checks(
    result: dg.ExecuteInProcessResult, asset: str = "daily_ticks"
) -> dict[str, dg.AssetCheckEvaluation]:
    return {
        check.check_name: check
        for check in result.get_asset_check_evaluations()
        if check.asset_key == dg.AssetKey(asset)
    }


def number(check: dg.AssetCheckEvaluation, name: str) -> float:
    value = check.metadata[name].value
    assert isinstance(value, int | float)
    return value


def failure(result: dg.ExecuteInProcessResult, step: str = "daily_ticks") -> str:
    """What a person reads of a failed step."""
    (event,) = [event for event in result.get_step_failure_events() if event.step_key == step]
    data = event.step_failure_data
    told = [data.user_failure_data.description] if data.user_failure_data else []
    error = data.error
    while error is not None:
        told.append(error.message)
        error = error.cause
    return "\n".join(filter(None, told))


def logged(bench: Workbench, result: dg.ExecuteInProcessResult) -> str:
    return "\n".join(entry.user_message for entry in bench.instance.all_logs(result.run_id))
