"""The listing: what is asked of the source before any bar, so that the right bars are asked for.

Belongs here: taking the list of assets, the survey of the years in which they traded, and the
source's calendar, which is asked when a session brought no bar. Does not belong here: which of the
listed symbols a session asks for (`collection.universe`).
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
from datalake_assets.collection.errors import CollectionError, PermanentError
from datalake_assets.collection.plan import WINDOW
from datalake_assets.collection.progress import Display
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import Caller, RetryPolicy
from datalake_assets.collection.survey import Survey, survey
from datalake_assets.collection.universe import active, lost, with_former
from datalake_assets.lake.writer import LakeWriter, Written
from datalake_assets.pipeline.publication import CollectionOptions
from datalake_assets.sources.alpaca import AlpacaSource

_log = logging.getLogger(__name__)

MAX_LOSS = 0.1
"""Share of the active symbols that may be gone since the snapshot before."""


def take_snapshot(
    alpaca: AlpacaSource,
    lake: LakeWriter,
    limiter: RateLimiter,
    policy: RetryPolicy,
    *,
    max_loss: float = MAX_LOSS,
    clock: Clock | None = None,
) -> tuple[date, pa.Table, Written]:
    """Fetch the list of assets and keep it as the snapshot of today (in New York).

    Names that stood on the snapshot before and are not on the list stay, as former ones.

    Args:
        alpaca: Whom to ask.
        lake: Where it is kept.
        limiter: Of the trading API, which has a limit of its own.
        policy: How often and how long to try again.
        max_loss: Share of the active symbols that may be gone since the snapshot before.
        clock: Time.

    Raises:
        PermanentError: The list can't be had, or so many active symbols are gone since the
            snapshot before that it must have been cut short; nothing is written then.
        RefusedError: The source does not accept the keys.
    """
    clock = clock or Clock()
    snapshot = Caller(limiter, policy, clock=clock).call(alpaca.assets)
    found = lake.universe()
    now, before = active(snapshot), active(found[1]) if found else None
    if (share := lost(now, before)) > max_loss:
        raise PermanentError(
            f"the source lists {now:,} active assets, the snapshot before {before or 0:,}: "
            f"{share:.1%} are gone, more than {max_loss:.1%}, so the list was "
            "not taken. If it is right, raise the collector's max_universe_loss for one run"
        )
    taken = market_calendar.today(clock.now())
    snapshot = with_former(snapshot, found[1] if found else None)
    return taken, snapshot, lake.write_universe(taken, snapshot)


def calendar_of(
    alpaca: AlpacaSource,
    limiter: Callable[[], AbstractContextManager[RateLimiter]],
    policy: RetryPolicy,
) -> Callable[[date], bool | None]:
    """How to ask whether the source had a session on a day, by its own calendar.

    The function that is returned asks once for each year, and gives None when the source can't
    say: a session without a bar is strange, and must not become an error of another kind.

    Args:
        alpaca: Whom to ask.
        limiter: Opens the limiter of the trading API.
        policy: How often and how long to try again.
    """

    @cache
    def year(number: int) -> frozenset[date] | None:
        first, last = date(number, 1, 1), date(number, 12, 31)
        try:
            with limiter() as gate:
                return Caller(gate, policy).call(lambda: alpaca.calendar(first, last))
        except CollectionError as error:
            _log.warning("the source's calendar could not be asked: %s", error)
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
    """In which years the symbols traded: the survey that the lake has, or a new one, if any.

    A short range is not worth one. It is taken of all years at once, so that the runs of a
    backfill share it, and years that are over do not change.

    Args:
        alpaca: Whom to ask.
        lake: Where it is kept.
        options: How to collect.
        wanted: The symbols of each session.
        since: The first year.
        taken: The day of the list of assets.
        display: Shows how far a new one is.

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
