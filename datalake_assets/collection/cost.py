"""The cost of a plan: requests, minutes, bars, bytes, objects and dollars, before it runs.

Belongs here: the arithmetic and the prices. Does not belong here: making the plan (`plan`) or
knowing what the lake holds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date

from datalake_assets.collection.plan import Plan

PRICES_OF = date(2025, 1, 1)
"""The day of the prices below. Amazon S3 Standard, us-east-1, first tier, without tax."""

DOLLARS_PER_PUT = 0.005 / 1_000
DOLLARS_PER_GB_MONTH = 0.023

BYTES_PER_BAR = 29.3
"""Bytes per bar in a session file, without the ledger: 5,867 bars of the synthetic market take
172,000 bytes. Real prices have fewer digits and compress a little better."""

BYTES_PER_SYMBOL_IN_LEDGER = 9.0
"""Bytes per symbol without a bar: its name, quoted."""

BYTES_PER_SYMBOL_YEAR, BYTES_PER_BAR_OF_ONE = 1_210, 45.0
"""Bytes of a symbol-year: its footer, and each bar. 7 bars take 1,524 bytes, 250 take 12,536."""

BYTES_PER_BAR_IN_YEAR_FILE = 26.5
"""Bytes per bar in a year file, its statistics included."""


BYTES_PER_MINUTE_BAR = 14.2
"""Bytes per minute bar in a session file, its footer included: 277,906 bars of 1,223 symbols of the
synthetic market take 3.94 MB."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a plan.

    Args:
        sessions, symbols, chunks, requests: What is requested, and in how many requests.
        minutes: Minutes at the account's rate, if nothing else is slower.
        bars: Expected bars; `bars_at_most` if every symbol traded in every session.
        symbol_years: Files per symbol and year that these sessions change.
        bytes: Size of the bars in all layouts.
        objects: Sessions, symbol-years and year files, each written by one PUT.
        put_dollars: Price of the PUTs on S3.
        storage_dollars_a_month: Price of storing the bytes on S3.
        sessions_unknown: Sessions to estimate which the lake holds nothing: their `bars` are the
            most that there can be.
    """

    sessions: int
    symbols: int
    chunks: int
    requests: int
    minutes: float
    bars: int
    bars_at_most: int
    symbol_years: int
    bytes: int
    objects: int
    put_dollars: float
    storage_dollars_a_month: float
    sessions_unknown: int = 0


def cost(
    plan: Plan,
    requests_per_minute: float,
    density: float | None,
    traded: Mapping[str, Collection[int]] | None = None,
) -> Cost:
    """The cost of a plan, if each year is published once at the end.

    Args:
        plan: The plan.
        requests_per_minute: The account's limit.
        density: Share of the expected bars that exist, from earlier sessions; None if nothing is
            known of them.
        traded: The years in which symbols traded, from a survey; None if unknown.
    """
    sessions, share = len(plan.sessions), 1.0 if density is None else density
    bars = round(plan.expected * share)
    symbol_years = round(_symbol_years(plan, traded or {}) * share)
    size = round(
        bars * (BYTES_PER_BAR + BYTES_PER_BAR_OF_ONE + BYTES_PER_BAR_IN_YEAR_FILE)
        + (plan.bars - bars) * BYTES_PER_SYMBOL_IN_LEDGER
        + symbol_years * BYTES_PER_SYMBOL_YEAR
    )
    objects = sessions + symbol_years + len({day.year for day in plan.sessions})
    told = _cost(plan, requests_per_minute, bars, size, objects, symbol_years)
    return replace(told, sessions_unknown=sessions if density is None else 0)


def cost_of_minutes(
    plan: Plan, requests_per_minute: float, estimated: Collection[date] = ()
) -> Cost:
    """The cost of a plan of minute bars: their sessions are all that is written.

    Args:
        plan: The plan.
        requests_per_minute: The account's limit.
        estimated: The sessions whose bars are expected by daily bars; in others each symbol has a
            bar in every minute.
    """
    sessions, bars = len(plan.sessions), round(plan.expected)
    pairs = sum(len(chunk.symbols) * len(chunk.sessions) for chunk in plan.chunks)
    size = round(bars * BYTES_PER_MINUTE_BAR + pairs * BYTES_PER_SYMBOL_IN_LEDGER)
    unknown = sum(day not in estimated for day in plan.sessions)
    told = _cost(plan, requests_per_minute, bars, size, objects=sessions)
    return replace(told, sessions_unknown=unknown)


def _cost(
    plan: Plan,
    requests_per_minute: float,
    bars: int,
    size: int,
    objects: int,
    symbol_years: int = 0,
) -> Cost:
    """What so many bars, bytes and objects cost; the rest is the plan's."""
    return Cost(
        sessions=len(plan.sessions),
        symbols=len({symbol for chunk in plan.chunks for symbol in chunk.symbols}),
        chunks=len(plan.chunks),
        requests=plan.requests,
        minutes=plan.minutes(requests_per_minute),
        bars=bars,
        bars_at_most=plan.bars,
        symbol_years=symbol_years,
        bytes=size,
        objects=objects,
        put_dollars=objects * DOLLARS_PER_PUT,
        storage_dollars_a_month=size / 1e9 * DOLLARS_PER_GB_MONTH,
    )


def _symbol_years(plan: Plan, traded: Mapping[str, Collection[int]]) -> int:
    found: set[tuple[str, int]] = set()
    for chunk in plan.chunks:
        for year in {day.year for day in chunk.sessions}:
            found.update((s, year) for s in chunk.symbols if year in traded.get(s, (year,)))
    return len(found)
