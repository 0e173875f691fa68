"""How many minute bars to expect of each symbol, by which its requests are packed.

Belongs here: what the lake's daily bars tell of it. Does not belong here: packing (`plan`), and the
estimate itself (`against_daily`).

Half of all symbols trade in fewer than half of the minutes. Planning as if each had a bar in all of
them takes twice as many requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date

import numpy as np
import pyarrow as pa

from datalake_assets import market_calendar
from datalake_assets.collection.against_daily import DailyBars, expected_minutes
from datalake_assets.collection.audit import LOOKBACK
from datalake_assets.collection.bars import NO_COUNT
from datalake_assets.collection.dataset import Dataset
from datalake_assets.collection.plan import Expected
from datalake_assets.lake.files import LakeFiles
from datalake_assets.storage.store import BrokenFileError


def by_daily_bars(daily: LakeFiles, dataset: Dataset) -> Expected:
    """How many bars of a dataset to expect of a symbol, by its trades on that day.

    Where the session's own daily bars are not in the lake, those of the newest of the five sessions
    before it count. Without any, every minute is expected to have a bar.

    Args:
        daily: The lake, with its daily bars.
        dataset: Whose bars are planned.
    """

    def expected(sessions: Sequence[date]) -> Callable[[str], float]:
        found: dict[str, float] = {}
        full = 0.0
        for day in sessions:
            most = dataset.bars(day)
            bars = _nearest(daily, day)
            if bars is None:
                full += most
                continue
            symbols = bars["symbol"].combine_chunks()
            told = DailyBars.of(bars, symbols)
            # Each trade may be in a minute of its own: too much room is better than too little.
            trades = np.where(told.trades == NO_COUNT, told.lots, told.trades)
            minutes = expected_minutes(trades.astype(np.float64), most)
            for symbol, count in zip(symbols.to_pylist(), minutes.tolist(), strict=True):
                found[symbol] = found.get(symbol, 0.0) + count
        return lambda symbol: found.get(symbol, 0.0) + full

    return expected


def _nearest(daily: LakeFiles, day: date) -> pa.Table | None:
    """The daily bars of a session, or of the newest before it that the lake has."""
    for each in (day, *reversed(market_calendar.previous_sessions(day, LOOKBACK))):
        with suppress(FileNotFoundError, BrokenFileError):
            return daily.read(each).bars
    return None
