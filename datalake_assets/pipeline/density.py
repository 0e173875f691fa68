"""How many minute bars to expect of each symbol, by which its requests are packed.

Belongs here: what the lake's daily bars tell of it. Does not belong here: packing (`plan`), and the
estimate itself (`against_daily`).

Half of all symbols trade in fewer than half of the minutes. Planning as if each had a bar in all of
them takes twice as many requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date

import numpy as np

from datalake_assets import market_calendar
from datalake_assets.collection.against_daily import DailyBars, expected_minutes
from datalake_assets.collection.audit import LOOKBACK
from datalake_assets.collection.bars import NO_COUNT
from datalake_assets.collection.dataset import Dataset
from datalake_assets.collection.plan import Expected
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.session_file import Session
from datalake_assets.storage.store import BrokenFileError


def by_daily_bars(daily: LakeFiles, dataset: Dataset) -> Expected:
    """How many bars of a dataset to expect of a symbol, by its trades on that day.

    Where the session's own daily bars are not in the lake, those of the newest of the five sessions
    before it count. Of a symbol that was not asked for then, every minute is expected.

    Args:
        daily: The lake, with its daily bars.
        dataset: Whose bars are planned.
    """

    def expected(sessions: Sequence[date]) -> Callable[[str], float]:
        found = [_minutes(_nearest(daily, day), dataset.bars(day)) for day in sessions]
        return lambda symbol: sum(minutes.get(symbol, most) for minutes, most in found)

    return expected


def estimated(daily: LakeFiles, days: Iterable[date]) -> frozenset[date]:
    """The sessions of which `by_daily_bars` finds daily bars: their own, or earlier ones.

    Args:
        daily: The lake, with its daily bars.
        days: The sessions.
    """
    there = frozenset(daily.sessions())
    return frozenset(day for day in days if not there.isdisjoint(_near(day)))


def _minutes(daily: Session | None, most: int) -> tuple[Mapping[str, float], int]:
    """The minutes to expect of each symbol that was asked for its daily bar, and of all others."""
    if daily is None:
        return {}, most
    minutes: dict[str, float] = dict.fromkeys(daily.ledger.no_print, 0.0)
    symbols = daily.bars["symbol"].combine_chunks()
    told = DailyBars.of(daily.bars, symbols)
    # Each trade may be in a minute of its own: too much room is better than too little.
    trades = np.where(told.trades == NO_COUNT, told.lots, told.trades)
    known = expected_minutes(trades.astype(np.float64), most)
    return minutes | dict(zip(symbols.to_pylist(), known.tolist(), strict=True)), most


def _nearest(daily: LakeFiles, day: date) -> Session | None:
    """The daily bars of a session, or of the newest before it that the lake has."""
    for each in _near(day):
        with suppress(FileNotFoundError, BrokenFileError):
            return daily.read(each)
    return None


def _near(day: date) -> list[date]:
    """A session and the five before it, the newest first."""
    return [day, *reversed(market_calendar.previous_sessions(day, LOOKBACK))]
