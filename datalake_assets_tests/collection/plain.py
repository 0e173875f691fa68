"""Ledger and audit as anybody would write them down: with sets, and one row at a time.

The package does the same in arrays, which is hard to see through. Belongs here: the plain way, to
hold it against. Does not belong here: tests.
"""

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import date
from statistics import median
from typing import Any

import pyarrow as pa

from datalake_assets.collection.audit import Finding, Thresholds, Verdict
from datalake_assets.collection.bars import PRICES
from datalake_assets.collection.collect import OddItem
from datalake_assets.collection.plan import Chunk
from datalake_assets.collection.report import Ledger
from datalake_assets_tests.collection.tables import table

Row = dict[str, Any]

Judged = tuple[Verdict, float | None, tuple[str, ...]]
"""Verdict, value and offenders of a rule."""


@dataclass
class Answer:
    """What the source says to one chunk: nothing of the rest when it has an `error`."""

    rows: list[Row] = field(default_factory=list)
    odd: list[OddItem] = field(default_factory=list)
    rejected: frozenset[str] = frozenset()
    error: str | None = None


def sessions(answers: Mapping[Chunk, Answer | None]) -> list[tuple[pa.Table, Ledger]]:
    """Bars and ledger of each session; a chunk without an answer is pending."""
    days = sorted({day for chunk in answers for day in chunk.sessions})
    return [_session(day, answers) for day in days]


def _session(day: date, answers: Mapping[Chunk, Answer | None]) -> tuple[pa.Table, Ledger]:
    bars: dict[str, Row] = {}
    no_print, pending = list[str](), list[str]()
    failed, rejected = dict[str, str](), dict[str, str]()
    for chunk, answer in answers.items():
        for symbol in chunk.symbols if day in chunk.sessions else ():
            if answer is None:
                pending.append(symbol)
            elif symbol in answer.rejected:
                rejected[symbol] = "no symbol"
            elif answer.error:
                failed[symbol] = answer.error
            elif (rows := _distinct(answer, symbol, day)) and len(rows) > 1:
                failed[symbol] = "the source gave two different bars for this session"
            elif why := _odd(answer, symbol, day, chunk):
                failed[symbol] = why
            elif rows:
                (bars[symbol],) = rows
            else:
                no_print.append(symbol)
    ledger = Ledger(day, tuple(bars), tuple(no_print), failed, tuple(pending), rejected)
    return table(row for _, row in sorted(bars.items())), ledger


def _distinct(answer: Answer, symbol: str, day: date) -> list[Row]:
    """The different bars of a symbol on a day."""
    found: list[Row] = []
    for row in answer.rows:
        if (row["symbol"], row["session"]) == (symbol, day) and row not in found:
            found.append(row)
    return found


def _odd(answer: Answer, symbol: str, day: date, chunk: Chunk) -> str | None:
    """Why a symbol's bar of a day can't be used, in the words of the first odd item about it.

    One that is of no session of the chunk, or nobody knows of which, may be of any without a bar.
    """
    for item in answer.odd:
        somewhere = item.session not in chunk.sessions and not _distinct(answer, symbol, day)
        if item.symbol == symbol and (item.session == day or somewhere):
            return item.why
    return None


def audit(
    bars: pa.Table,
    ledger: Ledger,
    before: Sequence[Set[str]],
    limits: Thresholds,
    inactive: Set[str],
) -> dict[str, Judged]:
    """For each rule its verdict, its value, and all of its offenders."""
    present, asked = set(ledger.present), set(ledger.symbols)
    known = [set(symbols) & asked for symbols in before]
    rows = bars.to_pylist()
    others = sorted({row["session"] for row in rows} - {ledger.session})
    unread = (Verdict.FAIL, None, ())
    return {
        "success_rate": _success_rate(ledger, limits),
        "coverage": _coverage(present, known, inactive, limits),
        "schema": _absolute([f"session: bars of {day}" for day in others]),
        "one_row_per_symbol": unread
        if others
        else _absolute(_apart([row["symbol"] for row in rows], present)),
        "valid_prices": unread if others else _valid_prices(rows, limits),
        "row_count": _row_count(len(present), [len(symbols) for symbols in known], limits),
    }


def judged(findings: Iterable[Finding]) -> dict[str, Judged]:
    """What the package's findings say of the same; they name the first 50 offenders."""
    return {one.rule: (one.verdict, one.value, one.offenders) for one in findings}


def _share(reached: bool, allowed: bool) -> Verdict:
    return Verdict.PASS if reached else Verdict.WARN if allowed else Verdict.FAIL


def _absolute(offenders: Sequence[str]) -> Judged:
    verdict = Verdict.FAIL if offenders else Verdict.PASS
    return verdict, float(len(offenders)), tuple(offenders)


def _success_rate(ledger: Ledger, limits: Thresholds) -> Judged:
    missing = sorted([*ledger.failed, *ledger.pending])
    answered = len(ledger.present) + len(ledger.no_print)
    requested = answered + len(missing)
    rate = answered / requested if requested else 0.0
    few = answered > 0 and len(missing) <= limits.unanswered_allowed
    return _share(rate >= limits.success_rate, few), rate, tuple(missing)


def _coverage(
    present: Set[str], known: Sequence[Set[str]], inactive: Set[str], limits: Thresholds
) -> Judged:
    printed = {symbol for symbols in known for symbol in symbols}
    expected = {symbol for symbol in printed if symbol in present or symbol not in inactive}
    if not expected:
        return Verdict.PASS, None, ()
    silent = sorted(expected - present)
    share = (len(expected) - len(silent)) / len(expected)
    few = len(silent) <= limits.silent_allowed and len(silent) < len(expected)
    return _share(share >= limits.coverage, few), share, tuple(silent)


def _apart(symbols: Sequence[str], present: Set[str]) -> list[str]:
    twice = {symbol for symbol in symbols if symbols.count(symbol) > 1}
    return sorted(twice | set(symbols) ^ set(present))


def _valid_prices(rows: Sequence[Row], limits: Thresholds) -> Judged:
    offenders = tuple(row["symbol"] for row in rows if not _valid(row))
    share = len(offenders) / len(rows) if rows else 0.0
    few = share <= limits.invalid_bars or len(offenders) <= limits.invalid_bars_allowed
    return _share(not offenders, few), share, offenders


def _valid(row: Row) -> bool:
    opened, high, low, close = (row[name] for name in PRICES)
    if not all(math.isfinite(price) and price > 0 for price in (opened, high, low, close)):
        return False
    if not (low <= opened <= high and low <= close <= high):
        return False
    average = row["vwap"]
    if average is None:
        return True
    if average == 0.0 and (row["volume"] == 0 or row["trade_count"] == 0):
        return True
    return math.isfinite(average) and average > 0


def _row_count(bars: int, known: Sequence[int], limits: Thresholds) -> Judged:
    usual = median(known) if known else 0
    if not usual:
        return (Verdict.PASS if bars else Verdict.WARN), None, ()
    few = usual - bars <= limits.silent_allowed
    return _share(bars / usual >= limits.row_ratio, few), bars / usual, ()
