"""The export for LEAN: daily zips, map files and factor files, as its `Data` folder has them.

Belongs here: LEAN's files. Does not belong here: what they are made from (`selection`).

    equity/usa/daily/{ticker}.zip        {ticker}.csv: the bars that traded under the ticker,
                                         whoever had it: time, open, high, low, close in 1/10,000
                                         dollars, volume
    equity/usa/map_files/{name}.csv      a security's tickers: the first session, then the last one
                                         under each ticker; 20501231 while it trades
    equity/usa/factor_files/{name}.csv   date, price factor, split factor, close: what prices until
                                         that day are multiplied by

A row of a factor file has the last session before the action, and the factor of all later ones.
Splits are in the split factor; dividends and spin-offs, by rule A, in the price factor. With raw
prices LEAN pays the difference as a dividend, rounded to cents, to whoever holds the share. `name`
is a security's newest ticker; when several had the same one, the latest has it, and the ones before
are `{ticker}.1`, `{ticker}.2`.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import partial
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from datalake_assets import market_calendar
from datalake_assets.exporters.folder import Folder
from datalake_assets.exporters.run import File, Progress, by_group
from datalake_assets.exporters.selection import Exported, Floats, Selection
from datalake_assets.lake.reader import as_numbers
from datalake_assets.securities.evidence import Days, day_number, days_of

ROOT = "equity/usa"

FOREVER = "20501231"
"""LEAN's last day: of a security that still trades."""

_PRICES = ("open", "high", "low", "close")
_SCALE = 10_000
_EXCHANGES = {"NYSE": "N", "NASDAQ": "Q", "ARCA": "P", "AMEX": "A", "BATS": "Z"}


def version() -> str:
    """The version of what is written."""
    return "1"


def export(selection: Selection, folder: Folder, state: str, progress: Progress) -> None:
    """Write the export."""
    times = pa.array([f"{day:%Y%m%d} 00:00" for day in selection.sessions])
    axis = as_numbers(selection.sessions)
    by_group(selection, folder, state, progress, partial(_files, axis, times))


def _files(axis: Days, times: pa.Array, group: Sequence[Exported]) -> Iterator[File]:
    for ticker in sorted({name.symbol for one in group for name in one.listed.names}):
        parts = [_under(ticker, one) for one in group]
        bars = pa.concat_tables([part for part in parts if part.num_rows] or parts[:1])
        if not bars.num_rows:
            continue
        days = days_of(bars["session"])
        if (np.diff(days) < 0).any():
            bars, days = bars.sort_by("session"), np.sort(days)
        time = times.take(pa.array(np.searchsorted(axis, days)))
        name = ticker.lower()
        yield f"{ROOT}/daily/{name}.zip", _zipped(f"{name}.csv", _bars(time, bars))
    for name, one in _names(group).items():
        yield f"{ROOT}/map_files/{name}.csv", _map(one).encode()
        yield f"{ROOT}/factor_files/{name}.csv", _factors(one).encode()


def _under(ticker: str, one: Exported) -> pa.Table:
    """Its bars that traded under the ticker."""
    if len(one.listed.names) == 1 and one.listed.names[0].symbol == ticker:
        return one.bars
    return one.bars.filter(pc.equal(one.bars["symbol"], ticker))


def _names(group: Sequence[Exported]) -> dict[str, Exported]:
    """The names of their files: the newest holder of a ticker has it without a number."""
    found: dict[str, Exported] = {}
    newest_first = sorted(group, key=lambda one: one.listed.names[-1].first, reverse=True)
    for one in newest_first:
        ticker = one.listed.names[-1].symbol.lower()
        number = sum(other.listed.names[-1].symbol.lower() == ticker for other in found.values())
        found[f"{ticker}.{number}" if number else ticker] = one
    return found


def _bars(time: pa.Array, bars: pa.Table) -> bytes:
    columns = {"time": time} | {name: _scaled(bars[name].to_numpy()) for name in _PRICES}
    out = io.BytesIO()
    plain = csv.WriteOptions(include_header=False, quoting_style="none")
    csv.write_csv(pa.table(columns | {"volume": bars["volume"]}), out, plain)
    return out.getvalue()


def _scaled(prices: Floats) -> pa.Array:
    """Prices in 1/10,000 dollars: whole numbers where that is exact, as nearly everywhere."""
    whole = np.rint(prices * _SCALE)
    if (whole / _SCALE == prices).all():
        return pa.array(whole.astype(np.int64))
    # LEAN reads a decimal point as well.
    return pa.array([_text(Decimal(repr(price)) * _SCALE) for price in prices.tolist()])


def _zipped(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        # The same bars give the same bytes: without the time of day.
        # A third of the time of the usual level, for a quarter more bytes.
        file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, compresslevel=1)
    return out.getvalue()


def _map(one: Exported) -> str:
    exchange = _EXCHANGES.get(one.listed.exchange or "", "")
    names = [name for name in one.listed.names if name.last >= one.first]
    days = [f"{name.last:%Y%m%d}" for name in names]
    if not one.listed.ended:
        days[-1] = FOREVER
    rows = [(f"{one.first:%Y%m%d}", names[0].symbol)]
    rows += [(day, name.symbol) for day, name in zip(days, names, strict=True)]
    letter = f",{exchange}" if exchange else ""
    lines = [f"{day},{symbol.lower()}{letter}" for day, symbol in rows]
    return "".join(f"{line}\n" for line in dict.fromkeys(lines))


def _factors(one: Exported) -> str:
    close = one.column("close")
    rows = {FOREVER: (1.0, 1.0, 0.0)}
    price = split = 1.0
    backwards = reversed(one.events)
    for session, events in groupby(backwards, key=lambda event: event.session):
        for event in events:
            if event.kind == "split":
                split *= event.price_factor
            else:
                price *= event.price_factor
        (before,) = market_calendar.previous_sessions(session, 1)
        last = close[np.searchsorted(one.days, day_number(session)) - 1]
        rows[f"{before:%Y%m%d}"] = (price, split, float(last))
    rows.setdefault(f"{one.first:%Y%m%d}", (price, split, float(close[0])))
    lines = [
        ",".join([day, *(_text(Decimal(repr(value))) for value in values)])
        for day, values in sorted(rows.items())
    ]
    return "".join(f"{line}\n" for line in lines)


def _text(value: Decimal) -> str:
    """A number without an exponent, which LEAN takes for infinity."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
