"""The audit of a session of minute bars: its rules, beside those that it shares with daily bars.

Belongs here: the rules that need more than one bar a symbol, or the session's daily bars, and their
thresholds. Does not belong here: how minutes and days are compared (`against_daily`), and the rules
that every dataset has (`audit`).

What these rules are for really happened: of 2 and 3 May 2018 Alpaca served two minutes of AAPL, QQQ
and TQQQ instead of 390, those of the opening and the closing auction. No request failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets import market_calendar
from datalake_assets.collection.against_daily import (
    TOLERANCE,
    Comparison,
    DailyBars,
    What,
    expected_minutes,
    held_against,
)
from datalake_assets.collection.audit import (
    MOST_OFFENDERS,
    SHARED_RULES,
    Case,
    Finding,
    Rules,
    Thresholds,
    Verdict,
    coverage,
    schema_finding,
    success_rate,
    unread_findings,
    valid_prices,
    verdict_of,
)
from datalake_assets.collection.bars import Floats, price_text
from datalake_assets.collection.minute_totals import (
    MINUTE,
    Hours,
    MinuteCounts,
    MinuteTotals,
    Stretches,
    microseconds,
)
from datalake_assets.collection.progress import many
from datalake_assets.collection.report import State
from datalake_assets.collection.symbols import Flags

HANDFUL = 0.1
"""Share of the minutes that a symbol should have, below which it has a handful: 39 of 390. What was
really served was 2; of a liquid symbol a tenth is never left by chance."""

HALF = 0.5
"""Share of the daily volume from which on a handful of minutes is all there is. A stock that is
halted after ten minutes has few minutes and all of its volume."""

OFTEN = 0.5
"""Share of the regular minutes from which on a symbol counts as liquid where it has no daily bar:
the median of the sessions before."""

MANY = 10
"""Liquid symbols from which on their bars tell of a missing hour. Several symbols can be halted in
the same hour; so many of a small list are not."""

HOUR = 60
"""Minutes."""


@dataclass(frozen=True, slots=True)
class MinuteThresholds(Thresholds):
    """What a session of minute bars must reach.

    Args:
        contradicted: Largest share of the symbols whose minutes the daily bars contradict that is
            only warned of.
        hour_ratio: Least number of bars of the liquid symbols in any 60 minutes of the regular
            hours, relative to the 60 minutes with the most. When half of the market was halted for
            three hours (Nasdaq, 22 August 2013), the other half still traded; after a halt of 15
            minutes (March 2020) three quarters of an hour are left.
        contradicted_allowed: Symbols that may be contradicted, whatever their share, while at
            least one is not.
        sparse_allowed: Liquid symbols that may have a handful of minutes where the daily bar tells
            that there were more.
        halted_allowed: Symbols that may have a handful of minutes where there is no daily bar: a
            halt for the rest of the day looks the same.
    """

    contradicted: float = 0.01
    hour_ratio: float = 0.2
    contradicted_allowed: int = 2
    sparse_allowed: int = 0
    halted_allowed: int = 2

    @classmethod
    def including(cls, thresholds: Thresholds) -> MinuteThresholds:
        """These thresholds, with the defaults of those that only minute bars have."""
        if isinstance(thresholds, MinuteThresholds):
            return thresholds
        return cls(**asdict(thresholds))


def _judge(case: Case) -> list[Finding]:
    limits = MinuteThresholds.including(case.thresholds)
    schema = schema_finding(case)
    shared = [success_rate(case), coverage(case), schema]
    if schema.verdict is Verdict.FAIL:
        return [*shared, *unread_findings(*list(MEANINGS)[len(shared) :])]
    hours = case.hours or _regular(case)
    found = Stretches.of(case.bars, hours)
    totals = MinuteTotals.of(found, hours)
    daily = _asked(case)
    return [
        *shared,
        _one_row_per_minute(case, found, hours),
        valid_prices(case, each_once=True),
        _against_daily(totals, daily, limits),
        _complete_minutes(case, found, totals, daily, limits),
    ]


MEANINGS = {
    "success_rate": SHARED_RULES["success_rate"],
    "coverage": SHARED_RULES["coverage"],
    "schema": SHARED_RULES["schema"],
    "one_row_per_minute": "No symbol has two bars in a minute, all bars start on a minute within "
    "the session's hours, and bars and ledger name the same symbols",
    "valid_prices": SHARED_RULES["valid_prices"],
    "against_daily": "Share of the symbols whose minutes the daily bars do not contradict: volume, "
    "trades, high, low and close. Differences that an auction or a late trade makes are named, and "
    "do not count",
    "complete_minutes": "No liquid symbol has only a handful of minutes, and in no hour most bars "
    "of the liquid symbols are missing",
}
"""Every rule of minute bars and what it means."""

MINUTE_RULES = Rules(MEANINGS, _judge, needs_daily=True)
"""The rules of minute bars."""


def _regular(case: Case) -> Hours:
    day = case.ledger.session
    return market_calendar.session_open(day), market_calendar.session_close(day)


def _asked(case: Case) -> pa.Table | None:
    """The daily bars of the symbols that were answered for: of the others nothing is known yet."""
    if case.daily is None:
        return None
    states = case.ledger.states
    answered = pa.concat_arrays([states.column(State.PRESENT), states.column(State.NO_PRINT)])
    return case.daily.filter(pc.is_in(case.daily["symbol"], answered))


def _one_row_per_minute(case: Case, found: Stretches, hours: Hours) -> Finding:
    first, end = map(microseconds, hours)
    times = found.times - first
    same = np.diff(times, prepend=-1) == 0
    same[found.starts] = False
    outside = (times < 0) | (times >= end - first) | (times % MINUTE != 0)
    wrong = same | outside
    named = found.bars["symbol"].filter(pa.array(wrong)).to_pylist() if wrong.any() else []
    present, apart = case.ledger.states.column(State.PRESENT), frozenset[str]()
    if not found.symbols.equals(present):
        apart = frozenset(found.symbols.to_pylist()).symmetric_difference(present.to_pylist())
    offenders = sorted({*named, *apart})
    return Finding.of(
        "one_row_per_minute",
        Verdict.FAIL if offenders else Verdict.PASS,
        float(len(offenders)),
        0.0,
        f"{many(int(np.count_nonzero(same)), 'bar')} of a minute that has one, "
        f"{np.count_nonzero(outside):,} off the minutes of the session's hours, "
        f"{many(len(apart), 'symbol')} in the bars or the ledger only",
        offenders,
    )


def _against_daily(
    totals: MinuteTotals, daily: pa.Table | None, limits: MinuteThresholds
) -> Finding:
    rule, threshold = "against_daily", 1.0 - limits.contradicted
    if daily is None:
        detail = "unknown: the lake has no daily bars of this session"
        return Finding(rule, Verdict.PASS, None, threshold, detail)
    found = held_against(totals, daily)
    if not found.compared:
        return Finding(rule, Verdict.PASS, None, threshold, "unknown: there is nothing to compare")
    faulty = found.faulty
    few = faulty <= limits.contradicted * found.compared or (
        faulty <= limits.contradicted_allowed and faulty < found.compared
    )
    told = "".join(f"; {count:,} {reason}" for reason, count in found.reasons.items())
    offenders, count = _named(found)
    return Finding(
        rule,
        verdict_of(not faulty, few),
        (found.compared - faulty) / found.compared,
        threshold,
        f"{faulty:,} of {many(found.compared, 'symbol')} contradicted by the daily bars, "
        f"{found.thin:,} thin{told}",
        offenders,
        count,
    )


def _named(found: Comparison) -> tuple[tuple[str, ...], int]:
    """The symbols that disagree, with both values and the reason, and how many there are."""
    symbols = pc.unique(found.table["symbol"])
    first = symbols[:MOST_OFFENDERS]
    rows = found.table.filter(pc.is_in(found.table["symbol"], first)).to_pylist()
    texts = {symbol: list[str]() for symbol in first.to_pylist()}
    for row in rows:
        texts[row["symbol"]].append(_difference(**row))
    named = tuple(f"{symbol}: {', '.join(told)}" for symbol, told in texts.items())
    return named, len(symbols)


def _difference(
    symbol: str, what: str, minutes: float | None, daily: float | None, reason: str
) -> str:
    def text(value: float | None) -> str:
        if value is None:
            return "none"
        if what in (What.VOLUME, What.TRADES):
            return f"{value:,.0f}"
        cents = abs(value - round(value, 2)) <= TOLERANCE
        return price_text(value) if cents or value < 1 else f"{value:,.4f}"

    return f"{what} {text(minutes)}, daily {text(daily)} ({reason})"


def _complete_minutes(
    case: Case,
    found: Stretches,
    totals: MinuteTotals,
    daily: pa.Table | None,
    limits: MinuteThresholds,
) -> Finding:
    bars = DailyBars.of(case.bars.slice(0, 0) if daily is None else daily, totals.symbols)
    usual = _usual(case.minutes_before, totals)
    by_daily, by_before = bars.liquid(totals.length), ~bars.there & (usual >= OFTEN)
    expected = np.where(
        bars.there, expected_minutes(bars.lots, totals.length), usual * totals.length
    )
    handful = totals.minutes < HANDFUL * expected
    proven = by_daily & handful & (totals.volume < HALF * bars.volume)
    halted = by_before & handful
    silent = _silent(totals, daily)
    sparse = [
        f"{symbol}: {many(minutes, 'minute')}, about {about:,.0f} expected"
        for symbol, minutes, about in zip(
            totals.symbols.filter(pa.array(proven | halted)).to_pylist(),
            totals.minutes[proven | halted].tolist(),
            expected[proven | halted].tolist(),
            strict=True,
        )
    ] + [f"{symbol}: no minute" for symbol in silent]
    count_proven = int(np.count_nonzero(proven)) + len(silent)
    count_halted = int(np.count_nonzero(halted))
    emptiest = _emptiest_hour(found, totals, by_daily | by_before)
    enough = emptiest is None or emptiest.ratio >= limits.hour_ratio
    few = count_proven <= limits.sparse_allowed and count_halted <= limits.halted_allowed
    verdict = verdict_of(not sparse, few) if enough else Verdict.FAIL
    detail = f"{many(len(sparse), 'liquid symbol')} with no more than a handful of minutes"
    if emptiest:
        detail += (
            f"; {many(emptiest.bars, 'bar')} of liquid symbols in the 60 minutes from "
            f"{_new_york(case, emptiest.offset)} (New York), {emptiest.most:,} in the fullest 60"
        )
    elif not case.ledger.present and daily is None and not case.minutes_before:
        # A list of new symbols, or a source without data: only people can tell.
        detail, verdict = "unknown: no symbol has a minute", Verdict.WARN
    return Finding.of(
        "complete_minutes",
        verdict,
        float(len(sparse)),
        float(limits.sparse_allowed),
        detail,
        sparse,
    )


def _usual(before: Sequence[MinuteCounts], totals: MinuteTotals) -> Floats:
    """The share of the regular minutes in which each symbol usually has a bar.

    Without a session before it is what it has in this one: good enough to tell liquid symbols from
    others, and then none of them has a handful.
    """
    if not before:
        return totals.minutes / totals.length
    usual: Floats = np.median([each.shares(totals.symbols) for each in before], axis=0)
    return usual


def _silent(totals: MinuteTotals, daily: pa.Table | None) -> list[str]:
    """The liquid symbols that have a daily bar and no minute."""
    if daily is None:
        return []
    alone = daily.filter(pc.invert(pc.is_in(daily["symbol"], totals.symbols)))
    liquid = DailyBars.of(alone, alone["symbol"].combine_chunks()).liquid(totals.length)
    silent: list[str] = alone["symbol"].filter(pa.array(liquid)).to_pylist()
    return silent


class _EmptiestHour(NamedTuple):
    """The 60 minutes of the regular hours with the fewest bars.

    Args:
        offset: Minutes after the open at which they begin.
        bars: How many bars of liquid symbols they have.
        most: How many the 60 minutes with the most of them have.
    """

    offset: int
    bars: int
    most: int

    @property
    def ratio(self) -> float:
        return self.bars / self.most


def _emptiest_hour(found: Stretches, totals: MinuteTotals, liquid: Flags) -> _EmptiestHour | None:
    """None where too few symbols are liquid to tell, or none of them has a bar."""
    if np.count_nonzero(liquid) < MANY:
        return None
    counted = np.repeat(liquid, found.counts) & found.regular
    minutes = np.bincount(found.offsets[counted], minlength=totals.length)
    until = np.concatenate([[0], np.cumsum(minutes)])
    hour = min(HOUR, totals.length)
    bars = until[hour:] - until[:-hour]
    offset, most = int(np.argmin(bars)), int(bars.max())
    return _EmptiestHour(offset, int(bars[offset]), most) if most else None


def _new_york(case: Case, offset: int) -> str:
    begins = market_calendar.session_open(case.ledger.session) + timedelta(minutes=offset)
    return f"{begins.astimezone(ZoneInfo('America/New_York')):%H:%M}"
