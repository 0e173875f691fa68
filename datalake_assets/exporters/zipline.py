"""The export for zipline: a bundle, written by zipline's own writers into a ZIPLINE_ROOT.

Belongs here: the bundle, and the extension that registers it. Does not belong here: what it is made
from (`selection`).

    extension.py                       registers the bundle; zipline reads it by itself
    data/datalake/{time}/              an ingestion: bars, adjustments, assets

Bars are as traded. zipline adjusts them by splits, and by dividends, which it pays to whoever holds
the share: on the pay date where the source tells it, else on the ex-date. What is spun off is paid
as a dividend of its value. Which security a ticker means, zipline knows for each day. An ingestion
is never changed: an export of something new adds one, and `zipline clean` removes old ones.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from datalake_assets.collection.progress import Display
from datalake_assets.exporters.folder import Folder
from datalake_assets.exporters.run import MissingToolError, Progress
from datalake_assets.exporters.selection import Exported, Selection, session_on_or_after
from datalake_assets.lake.lake import Lake

BUNDLE = "datalake"
"""The bundle's name."""

CALENDAR = "XNYS"

_MOST = 2**32 - 2
"""The largest volume that a bar of zipline holds."""

_EXTENSION = '''\
"""Registers the bundle {bundle} with zipline. Written by `datalake export zipline`."""

from datalake_assets.exporters.zipline import register

register({lake!r}, {symbols!r}, {first!r}, {last!r})
'''


def version() -> str:
    """The version of what is written: with that of the package, which defines it.

    Raises:
        MissingToolError: The package is not installed.
    """
    try:
        import zipline
        import zipline.data.bundles
    except ImportError as error:
        raise MissingToolError("zipline-reloaded", "zipline") from error
    return f"1 {zipline.__version__}"


def export(selection: Selection, folder: Folder, state: str, progress: Progress) -> None:
    """Ingest the bundle beside the folder's own files, and move it to its place whole."""
    from zipline.data import bundles

    if folder.begin(state):  # only the last line of its record is lacking
        folder.finish(())
        return
    first, last = f"{selection.sessions[0]}", f"{selection.sessions[-1]}"
    _register(first, last, lambda writers: _write(selection, writers, progress))
    staged = folder.staging / "root"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # zipline's own, about pandas
        bundles.ingest(BUNDLE, environ={**os.environ, "ZIPLINE_ROOT": str(staged)})
    (made,) = (path for path in (staged / "data" / BUNDLE).iterdir() if path.name[0] != ".")
    target = folder.move(made, f"data/{BUNDLE}/{made.name}")
    uri, symbols = selection.lake.store.uri, selection.asked
    text = _EXTENSION.format(bundle=BUNDLE, lake=uri, symbols=symbols, first=first, last=last)
    folder.write("extension.py", text.encode())
    parts = [str(path.relative_to(folder.root)) for path in sorted(target.glob("*.sqlite"))]
    folder.done("bundle", ["extension.py"], [{"ingestion": made.name}], parts)
    folder.finish(())


def register(lake: str, symbols: Sequence[str] | None, first: str, last: str) -> None:
    """Register the bundle, so that `zipline ingest` makes it from the lake as it is then.

    Args:
        lake: The lake's URI.
        symbols: As traded at the end of the range; None: every security with a bar in it.
        first: The first session.
        last: The last session.
    """

    def ingest(writers: _Writers) -> None:
        selection = Selection.of(Lake.open(lake), symbols, first, last)
        _write(selection, writers, Progress(Display(), len(selection.securities), time.monotonic))
        for told in selection.told:
            warnings.warn(told, stacklevel=2)

    _register(first, last, ingest)


@dataclass(frozen=True, slots=True)
class _Writers:
    """What zipline hands to whoever makes a bundle."""

    assets: Any
    daily: Any
    adjustments: Any
    calendar: Any


def _register(first: str, last: str, ingest: Callable[[_Writers], None]) -> None:
    import pandas as pd
    from zipline.data import bundles

    def adapted(environ: Any, assets: Any, minute: Any, *given: Any) -> None:
        daily, adjustments, calendar, *_ = given
        ingest(_Writers(assets, daily, adjustments, calendar))

    with suppress(bundles.UnknownBundle):
        bundles.unregister(BUNDLE)
    bundles.register(
        BUNDLE,
        adapted,
        calendar_name=CALENDAR,
        start_session=pd.Timestamp(first),
        end_session=pd.Timestamp(last),
    )


def _write(selection: Selection, writers: _Writers, progress: Progress) -> None:
    """Give everything to zipline's writers."""
    import pandas as pd

    sids = {one.id: sid for sid, one in enumerate(selection.securities)}
    axis = writers.calendar.sessions_in_range(
        f"{selection.sessions[0]}", f"{selection.sessions[-1]}"
    )
    names: list[dict[str, Any]] = []
    splits: list[dict[str, Any]] = []
    payments: list[dict[str, Any]] = []

    def frames() -> Iterator[tuple[int, Any]]:
        groups = selection.groups
        for group, found in zip(groups, selection.read(groups), strict=True):
            for one in found:
                sid = sids[one.listed.id]
                frame = _frame(one, axis)
                names.extend(_names(sid, one, frame.index))
                here, paid = _adjustments(sid, one)
                splits.extend(here)
                payments.extend(paid)
                yield sid, frame
            progress.advance(len(group), sum(one.bars.num_rows for one in found))

    writers.daily.write(frames())
    equities = pd.DataFrame(names).set_index("sid")
    exchanges = pd.DataFrame({"exchange": sorted(set(equities["exchange"])), "country_code": "US"})
    writers.assets.write(equities=equities, exchanges=exchanges)
    _write_adjustments(writers.adjustments, splits, payments)


def _frame(one: Exported, axis: Any) -> Any:
    """Its bars from the first to the last session; zeros, which zipline reads as no bar."""
    import pandas as pd

    days = pd.DatetimeIndex(one.days.astype("datetime64[D]").astype("datetime64[ns]"))
    places = axis.get_indexer(days)
    if (places < 0).any():
        raise ValueError(
            f"zipline's calendar {CALENDAR} has no session on {days[places < 0][0].date()}, and "
            "the lake has: install a newer exchange_calendars"
        )
    # One that still trades goes on to the end, bar or not: zipline closes what ends.
    stop = places[-1] + 1 if one.listed.ended else len(axis)
    columns = {name: one.column(name) for name in ("open", "high", "low", "close")}
    columns["volume"] = np.minimum(one.column("volume"), _MOST)
    frame = pd.DataFrame(0.0, index=axis[places[0] : stop], columns=list(columns))
    frame.iloc[places - places[0]] = np.column_stack([*columns.values()])
    return frame


def _names(sid: int, one: Exported, days: Any) -> Iterator[dict[str, Any]]:
    """A row for each of its tickers, of which zipline makes an asset."""
    import pandas as pd

    names = [name for name in one.listed.names if name.last >= days[0].date()]
    for number, name in enumerate(names):
        yield {
            "sid": sid,
            "symbol": name.symbol,
            "asset_name": one.listed.company or one.listed.id,
            "start_date": pd.Timestamp(name.first) if number else days[0],
            "end_date": pd.Timestamp(name.last) if number < len(names) - 1 else days[-1],
            "first_traded": days[0],
            "auto_close_date": days[-1] + pd.Timedelta(days=1),
            "exchange": one.listed.exchange or "unknown",
        }


def _adjustments(sid: int, one: Exported) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Its splits, and what was paid for a share, as of the session before."""
    splits, payments = [], []
    for session, events in groupby(one.events, key=lambda event: event.session):
        here = list(events)
        split = math.prod(event.price_factor for event in here if event.kind == "split")
        if split != 1.0:
            splits.append({"sid": sid, "effective_date": session, "ratio": split})
        for event in here:
            if event.kind != "split":
                # zipline pays before it splits: for a share of before.
                paid = event.pay_date or session
                payments.append(
                    {
                        "sid": sid,
                        "ex_date": session,
                        "pay_date": session_on_or_after(max(paid, session)),
                        "amount": event.amount / split,
                        "ratio": event.price_factor,
                    }
                )
    return splits, payments


def _write_adjustments(
    writer: Any, splits: list[dict[str, Any]], payments: list[dict[str, Any]]
) -> None:
    """Splits, what is paid, and what that does to earlier prices.

    zipline would work out the last from its own closes, which are rounded, and not at all where
    the session before has none. The lake knows it.
    """
    import pandas as pd

    columns = ["sid", "ex_date", "pay_date", "amount", "ratio"]
    paid = _dated(pd.DataFrame(payments, columns=columns), "ex_date", "pay_date")
    ratios = paid[["sid", "ex_date", "ratio"]].rename(columns={"ex_date": "effective_date"})
    paid = paid.drop(columns="ratio")
    paid["declared_date"] = paid["record_date"] = paid["ex_date"]
    writer.calc_dividend_ratios = lambda dividends: ratios
    writer.write(_dated(pd.DataFrame(splits), "effective_date"), dividends=paid)


def _dated(frame: Any, *columns: str) -> Any:
    import pandas as pd

    for name in columns if len(frame) else ():
        frame[name] = pd.to_datetime(frame[name])
    return frame
