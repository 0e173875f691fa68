"""The export for NautilusTrader: its Parquet catalog, written by its own package.

Belongs here: instruments and bars as Nautilus has them. Does not belong here: what they are made
from (`selection`).

    data/equity/{SYMBOL.VENUE}/…                                 the instrument
    data/bar/{SYMBOL.VENUE}-1-DAY-LAST-EXTERNAL/{from}_{to}…      its bars, stamped at their close

Nautilus has no splits and dividends. So bars are adjusted by the factor of total returns, dividends
reinvested at the close of their ex-date, and volumes by splits: buying and holding earns there what
`Lake.returns` tells. Prices have nine decimals, volumes are whole shares.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datalake_assets import market_calendar
from datalake_assets.collection.progress import many
from datalake_assets.exporters.folder import Folder
from datalake_assets.exporters.run import File, MissingToolError, Progress, by_group
from datalake_assets.exporters.selection import Exported, Selection

PRECISION = 9
"""Decimals of a price: as many as every build of Nautilus has."""

_VENUES = {
    "NYSE": "XNYS",
    "NASDAQ": "XNAS",
    "ARCA": "ARCX",
    "AMEX": "XASE",
    "BATS": "BATS",
    "OTC": "OTCM",
}
_NO_VENUE = "XXXX"
"""The market identifier code of no market."""


def version() -> str:
    """The version of what is written: with that of the package, which defines it.

    Raises:
        MissingToolError: The package is not installed.
    """
    try:
        import nautilus_trader
        import nautilus_trader.persistence.catalog
    except ImportError as error:
        raise MissingToolError("nautilus_trader", "nautilus") from error
    return f"1 {nautilus_trader.__version__}"


def export(selection: Selection, folder: Folder, state: str, progress: Progress) -> None:
    """Write the export."""
    widened: list[str] = []
    by_group(selection, folder, state, progress, partial(_files, folder.staging, widened))
    if widened:
        shown = ", ".join(widened[:3]) + (" …" if widened[3:] else "")
        selection.told.append(
            f"{many(len(widened), 'bar')} with an open or close outside of its high and low "
            f"({shown}), which Nautilus refuses: the high or low was moved to the open or close"
        )


def venue_of(exchange: str | None) -> str:
    """The market identifier code of an exchange; that of no market when it is unknown."""
    return _VENUES.get(exchange or "", _NO_VENUE)


def _files(staging: Path, widened: list[str], group: Sequence[Exported]) -> Iterator[File]:
    from nautilus_trader.persistence.catalog import ParquetDataCatalog

    scratch = staging / "catalog"
    for one in group:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        instrument, bars = _objects(one, widened)
        catalog = ParquetDataCatalog(scratch)
        catalog.write_data([instrument])
        catalog.write_data(bars)
        for path in sorted(scratch.rglob("*.parquet")):
            yield str(path.relative_to(scratch)), path.read_bytes()


def _objects(one: Exported, widened: list[str]) -> tuple[Any, list[Any]]:
    """The instrument and the bars, as Nautilus's own objects."""
    import pandas as pd
    from nautilus_trader.model.currencies import USD
    from nautilus_trader.model.data import BarType
    from nautilus_trader.model.identifiers import InstrumentId, Symbol, Venue
    from nautilus_trader.model.instruments import Equity
    from nautilus_trader.model.objects import Price, Quantity
    from nautilus_trader.persistence.wranglers import BarDataWrangler

    days: list[date] = one.bars["session"].to_pylist()
    closes = pd.DatetimeIndex([market_calendar.session_close(day) for day in days])
    symbol = Symbol(one.listed.symbol)
    began = closes[0].value
    instrument = Equity(
        InstrumentId(symbol, Venue(venue_of(one.listed.exchange))),
        symbol,
        USD,
        PRECISION,
        Price(10**-PRECISION, PRECISION),
        Quantity.from_int(1),
        began,
        began,
        info={"security": one.listed.id, "name": one.listed.company},
    )
    names = ("open", "high", "low", "close")
    prices = {name: one.column(name) * one.total_return for name in names}
    high = np.maximum.reduce([*prices.values()])
    low = np.minimum.reduce([*prices.values()])
    for place in np.flatnonzero((high != prices["high"]) | (low != prices["low"])).tolist():
        widened.append(f"{one.listed.symbol} {days[place]}")
    prices |= {"high": high, "low": low}
    volume = np.rint(one.column("volume") * one.volume)
    frame = pd.DataFrame(prices | {"volume": volume}, index=closes)
    bar_type = BarType.from_str(f"{instrument.id}-1-DAY-LAST-EXTERNAL")
    return instrument, BarDataWrangler(bar_type, instrument).process(frame)
