"""The export for qlib: its bin format, which needs no package to be written.

Belongs here: qlib's files. Does not belong here: what they are made from (`selection`).

    calendars/day.txt                  the sessions, one a line
    calendars/day_future.txt           the same and the year to come: a backtest needs a session
                                       after its last one
    instruments/all.txt                name, first and last session of each security
    features/{name}/{field}.day.bin    the place of the first session in the calendar, then a value
                                       for each session, as float32; NaN where there is no bar

Prices are multiplied by `factor` and volume is divided by it, so that `$close / $factor` is the
price as it traded, as qlib expects. The factor is that of total returns, dividends reinvested at
the close of their ex-date: buying and holding earns in qlib what `Lake.returns` tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from functools import partial
from typing import Any

import numpy as np

from datalake_assets import market_calendar
from datalake_assets.exporters.folder import Folder
from datalake_assets.exporters.run import File, Progress, by_group
from datalake_assets.exporters.selection import Exported, Floats, Selection
from datalake_assets.lake.reader import as_numbers
from datalake_assets.securities.evidence import Days

_PRICES = ("open", "high", "low", "close", "vwap")

_RESERVED = {"con", "prn", "aux", "nul"} | {f"{p}{n}" for p in ("com", "lpt") for n in range(10)}
"""Names that can't be folders on Windows: qlib looks for them behind a prefix, everywhere."""


def version() -> str:
    """The version of what is written."""
    return "1"


def export(selection: Selection, folder: Folder, state: str, progress: Progress) -> None:
    """Write the export."""
    sessions = selection.sessions
    by_group(
        selection,
        folder,
        state,
        progress,
        partial(_features, as_numbers(sessions)),
        partial(_index, sessions),
    )


def folder_of(name: str) -> str:
    """The folder of a security's features, as qlib looks for it."""
    name = name.lower()
    return f"features/{'_qlib_' if name in _RESERVED else ''}{name}"


def _features(axis: Days, group: Iterable[Exported]) -> Iterator[File]:
    for one in group:
        places = np.searchsorted(axis, one.days)
        first = places[0]
        for field, values in _fields(one).items():
            # Where there is no bar there is no price and no factor.
            row = np.full(places[-1] - first + 2, np.nan, "<f4")
            row[0] = first
            row[1 + places - first] = values
            yield f"{folder_of(one.listed.symbol)}/{field}.day.bin", row.tobytes()


def _fields(one: Exported) -> dict[str, Floats]:
    factor = one.total_return
    fields = {name: one.column(name) * factor for name in _PRICES}
    close = fields["close"]
    change = np.full(len(close), np.nan)
    change[1:] = close[1:] / close[:-1] - 1
    return fields | {"volume": one.column("volume") / factor, "factor": factor, "change": change}


def _index(sessions: Sequence[date], told: Sequence[dict[str, Any]]) -> Iterator[File]:
    newest = sessions[-1]
    ahead = min(newest + timedelta(days=365), market_calendar.LAST)
    to_come = market_calendar.sessions(newest + timedelta(days=1), ahead) if ahead > newest else []
    for name, days in (("day", sessions), ("day_future", [*sessions, *to_come])):
        yield f"calendars/{name}.txt", "".join(f"{day}\n" for day in days).encode()
    lines = sorted(f"{one['symbol']}\t{one['first']}\t{one['last']}\n" for one in told)
    yield "instruments/all.txt", "".join(lines).encode()
