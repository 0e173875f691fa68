"""The listing: what is fetched before any bars: the list of assets, the survey, the calendar.

Belongs here: fetching the list of assets, the survey of the years in which they traded, and the
source's calendar, which is needed if a session has no bar. Does not belong here: which of the
listed symbols a session requests (`collection.universe`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date
from functools import cache

import pyarrow as pa

from datalake_assets import market_calendar
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import DAILY
from datalake_assets.collection.errors import CollectionError, TruncatedError
from datalake_assets.collection.progress import Display, many
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import Caller, RetryPolicy
from datalake_assets.collection.survey import Survey, survey
from datalake_assets.collection.universe import active, lost, with_former
from datalake_assets.lake.writer import LakeWriter, Written
from datalake_assets.pipeline.publication import CollectionOptions
from datalake_assets.sources.alpaca import AlpacaSource

_log = logging.getLogger(__name__)

MAX_LOSS = 0.1
"""The largest share of active symbols that may be missing since the previous snapshot."""


def take_snapshot(
    alpaca: AlpacaSource,
    lake: LakeWriter,
    limiter: RateLimiter,
    policy: RetryPolicy,
    *,
    max_loss: float = MAX_LOSS,
    clock: Clock | None = None,
) -> tuple[date, pa.Table, Written]:
    """Fetch the list of assets and store it as today's snapshot (in New York).

    Names of the previous snapshot that are not on the list are kept, as former ones.

    Args:
        alpaca: The source.
        lake: The lake to store it in.
        limiter: The limiter of the trading API, which has its own limit.
        policy: How often and how long to retry.
        max_loss: The largest share of active symbols that may be missing since the previous
            snapshot.
        clock: Time.

    Raises:
        PermanentError: The list can't be fetched.
        TruncatedError: It lacks so many active symbols of the previous snapshot that it must be
            truncated. Nothing is written then.
        RefusedError: The source does not accept the keys.
    """
    clock = clock or Clock()
    snapshot = Caller(limiter, policy, clock=clock).call(alpaca.assets)
    found = lake.universe()
    now, before = active(snapshot), active(found[1]) if found else None
    if (share := lost(now, before)) > max_loss:
        raise TruncatedError(
            f"the source lists {many(now, 'active asset')}, the previous snapshot {before or 0:,}: "
            f"{share:.1%} are missing, more than {max_loss:.1%}, so the list was not used",
            "max_universe_loss",
        )
    taken = market_calendar.today(clock.now())
    snapshot = with_former(snapshot, found[1] if found else None)
    return taken, snapshot, lake.write_universe(taken, snapshot)


def calendar_of(
    alpaca: AlpacaSource,
    limiter: Callable[[], AbstractContextManager[RateLimiter]],
    policy: RetryPolicy,
) -> Callable[[date], bool | None]:
    """A function that says whether the source's calendar has a session on a day.

    It fetches each year once, and returns None if the source does not answer: a session without a
    bar is already an error, and must not become another one.

    Args:
        alpaca: The source.
        limiter: Opens the limiter of the trading API.
        policy: How often and how long to retry.
    """

    @cache
    def year(number: int) -> frozenset[date] | None:
        first, last = date(number, 1, 1), date(number, 12, 31)
        try:
            with limiter() as gate:
                return Caller(gate, policy).call(lambda: alpaca.calendar(first, last))
        except CollectionError as error:
            _log.warning("the source's calendar could not be fetched: %s", error)
            return None

    def held(day: date) -> bool | None:
        days = year(day.year)
        return None if days is None else day in days

    return held


def take_survey(
    alpaca: AlpacaSource,
    lake: LakeWriter,
    options: CollectionOptions,
    wanted: Mapping[date, Sequence[str]],
    since: int,
    taken: date,
    display: Display | None = None,
) -> Survey | None:
    """In which years the symbols traded: the lake's survey, or a new one, or None.

    A short range is not worth a survey. One survey covers all years, so that the runs of a backfill
    share it; past years do not change.

    Args:
        alpaca: The source.
        lake: The lake to store it in.
        options: The options of the collection.
        wanted: The symbols of each session.
        since: The first year.
        taken: The day of the list of assets.
        display: Shows the progress of a new one.

    Raises:
        RefusedError: The source refuses every request.
    """
    if len(wanted) <= DAILY.window:
        return None
    # Usually all sessions have the same symbols, in the same tuple object.
    distinct = {id(symbols): symbols for symbols in wanted.values()}.values()
    symbols = {symbol for symbols in distinct for symbol in symbols}
    # It may be a survey of a few configured symbols, or lack symbols whose requests failed. Names
    # listed later, or refused, are fewer than those of one request.
    if (
        (found := lake.survey())
        and found.covers(wanted)
        and len(symbols - found.years.keys()) < min(options.packing.symbols, len(symbols))
    ):
        return found
    stop = threading.Event()
    found = survey(
        symbols,
        since,
        taken.year,
        alpaca.years(),
        Caller(options.limiter, options.retry, stop=stop),
        symbols_per_request=options.packing.symbols,
        workers=options.workers,
        stop=stop,
        display=display,
    )
    if not found.years:
        return None
    lake.write_survey(taken, found)
    return found
