"""Minute bars for the tests of the collection, and the daily bars that they add up to.

Daily bars are made one row at a time, as the package does not make them. Belongs here: the tables,
and the plain comparison to hold the package's against. Does not belong here: tests.
"""

import math
import zlib
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from datalake_assets import market_calendar
from datalake_assets.collection import against_daily as rules
from datalake_assets.collection.against_daily import Reason
from datalake_assets.collection.bars import SCHEMA, empty
from datalake_assets.collection.minute_totals import Hours
from datalake_assets_tests.collection.tables import MONDAY, table

Row = dict[str, Any]

HALF_DAY = date(2024, 7, 3)
LENGTH = 390


def regular(day: date = MONDAY) -> Hours:
    """From the open to the close."""
    return market_calendar.session_open(day), market_calendar.session_close(day)


def extended(day: date = MONDAY) -> Hours:
    """From 04:00 to 20:00 in New York."""
    zone = ZoneInfo("America/New_York")
    first, end = (datetime(day.year, day.month, day.day, hour, tzinfo=zone) for hour in (4, 20))
    return first.astimezone(regular(day)[0].tzinfo), end.astimezone(regular(day)[0].tzinfo)


def minutes(
    symbols: Iterable[str],
    offsets: Iterable[int] = range(LENGTH),
    *,
    shares: int = 400,
    trades: int | None = 3,
    day: date = MONDAY,
) -> pa.Table:
    """For each symbol a bar in each of the minutes, counted from the open.

    With all of them and the usual shares and trades a symbol is liquid.
    """
    offsets = np.array(list(offsets), np.int64)
    tables = [empty()]
    opens = round(market_calendar.session_open(day).timestamp()) * 1_000_000
    for symbol in sorted(symbols):
        size = len(offsets)
        cents = 5_000 + zlib.crc32(symbol.encode()) % 10_000
        price = (cents + (offsets * 7) % 50) / 100
        columns = {
            "symbol": pa.repeat(symbol, size),
            "session": pa.repeat(pa.scalar(day, pa.date32()), size),
            "timestamp": pa.array(opens + offsets * 60_000_000, pa.timestamp("us", "UTC")),
            "open": price,
            "high": price + 0.05,
            "low": price - 0.05,
            "close": price + 0.01,
            "vwap": price,
            "volume": np.full(size, shares),
            "trade_count": pa.array([trades] * size, pa.int64()),
        }
        tables.append(pa.table(columns, SCHEMA))
    return pa.concat_tables(tables).combine_chunks()


def days(bars: pa.Table, day: date = MONDAY) -> pa.Table:
    """The daily bars that minutes add up to: prices of the regular hours, volume of all."""
    by_symbol: dict[str, list[Row]] = {}
    for row in bars.to_pylist():
        by_symbol.setdefault(row["symbol"], []).append(row)
    return table(_day(symbol, rows, day) for symbol, rows in sorted(by_symbol.items()))


def _day(symbol: str, rows: Sequence[Row], day: date) -> Row:
    rows = sorted(rows, key=lambda row: row["timestamp"])
    opens, closes = regular(day)
    priced = [row for row in rows if opens <= row["timestamp"] < closes] or rows
    return {
        "symbol": symbol,
        "session": day,
        "timestamp": market_calendar.session_stamp(day),
        "open": priced[0]["open"],
        "high": max(row["high"] for row in priced),
        "low": min(row["low"] for row in priced),
        "close": priced[-1]["close"],
        "vwap": priced[0]["open"],
        **_added(rows),
    }


def _added(rows: Sequence[Row]) -> Row:
    counts = [row["trade_count"] for row in rows]
    return {
        "volume": sum(row["volume"] for row in rows),
        "trade_count": None if None in counts else sum(counts),
    }


def changed(bars: pa.Table, symbol: str, **values: Any) -> pa.Table:
    """The same bars, of which those of a symbol have these values."""
    return table(
        row | values if row["symbol"] == symbol else row for row in bars.to_pylist()
    ).combine_chunks()


def told(comparison: rules.Comparison) -> list[tuple[str, str, str]]:
    """Symbol, value and reason of each disagreement."""
    columns = comparison.table.select(["symbol", "what", "reason"]).to_pylist()
    return [(row["symbol"], row["what"], row["reason"]) for row in columns]


# The comparison as anybody would write it down


def plainly(bars: pa.Table, daily: pa.Table, hours: Hours) -> set[tuple[str, str, str]]:
    """Symbol, value and reason of each disagreement, one symbol at a time."""
    own: dict[str, list[Row]] = {}
    for row in bars.to_pylist():
        own.setdefault(row["symbol"], []).append(row)
    days = {row["symbol"]: row for row in daily.to_pylist()}
    found: set[tuple[str, str, str]] = set()
    for symbol in own.keys() | days.keys():
        for what, reason in _plainly(own.get(symbol, []), days.get(symbol), hours):
            found.add((symbol, what, reason.value))
    return found


def _plainly(rows: list[Row], day: Row | None, hours: Hours) -> Iterable[tuple[str, Reason]]:
    if day is None:
        return [("volume", Reason.NO_DAILY_BAR)]
    opens, closes = regular(market_calendar.today(hours[0]))
    length = (closes - opens) // timedelta(minutes=1)
    lots = _lots(day)
    liquid = lots >= length
    if not rows:
        return [("volume", Reason.NO_MINUTES)] if liquid else []
    rows = sorted(rows, key=lambda row: row["timestamp"])
    priced = [row for row in rows if opens <= row["timestamp"] < closes]
    places = [(row["timestamp"] - opens) // timedelta(minutes=1) for row in priced]
    gaps = [b - a - 1 for a, b in zip([-1, *places], [*places, length], strict=True)]
    volume = _share([row["volume"] for row in rows], day["volume"])
    trades = _share([row["trade_count"] for row in rows], day["trade_count"])
    expected = length * (1 - math.exp(-lots / length))
    little = liquid and volume is not None and volume < 0.95
    few = liquid and trades is not None and trades < 0.95
    missing = little and (len(priced) < 0.5 * expected or max(gaps) >= 30)
    found: list[tuple[str, Reason]] = []

    def less(what: str, auction: bool) -> None:
        otherwise = Reason.AUCTION if auction else Reason.LATE_TRADE
        found.append((what, Reason.MISSING_MINUTES if missing else otherwise))

    if little and volume is not None:
        few_trades = trades is not None and trades < 0.95
        less("volume", hours == (opens, closes) and volume >= 0.7 and not few_trades)
    if few:
        less("trades", False)
    shares = sum(row["volume"] for row in rows)
    if shares - day["volume"] >= 100 and shares / max(day["volume"], 1e-9) > 1.05:
        found.append(("volume", Reason.CANCELLED_TRADE))
    if liquid and trades is not None and trades > 1.05:
        found.append(("trades", Reason.CANCELLED_TRADE))
    if not priced:
        return found
    high, low = max(row["high"] for row in priced), min(row["low"] for row in priced)
    edges = [day["open"], day["close"]]
    if day["high"] - high > _near(day["high"]):
        less("high", min(abs(edge - day["high"]) for edge in edges) <= 0.00005)
    if low - day["low"] > _near(day["low"]):
        less("low", min(abs(edge - day["low"]) for edge in edges) <= 0.00005)
    if high > day["high"] + 0.00005:
        found.append(("high", Reason.CANCELLED_TRADE))
    if low < day["low"] - 0.00005:
        found.append(("low", Reason.CANCELLED_TRADE))
    away = abs(priced[-1]["close"] - day["close"])
    if away > _near(day["close"]):
        less("close", away <= max(0.1 * day["close"], 0.5))
    return found


def _near(price: float) -> float:
    return max(0.01 * price, 0.01) + 0.00005


def _lots(day: Row) -> float:
    trades = day["volume"] / 100 if day["trade_count"] is None else day["trade_count"]
    if not trades or not day["volume"]:
        return 0.0
    return float(trades * math.exp(-100 / (day["volume"] / trades)))


def _share(parts: Sequence[int | None], whole: int | None) -> float | None:
    if not whole or None in parts:
        return None
    return sum(filter(None, parts)) / whole
