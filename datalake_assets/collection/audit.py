"""The audit: is a session good enough to be published?

Belongs here: the rules, their thresholds, and the offenders that they name. Does not belong here:
what follows from them (`assets`: publish, keep as incomplete, fail the run).

A rule that can't be judged, because the lake holds no session before, says so and passes: at the
start of history there is nothing to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.collection.bars import PRICES, SCHEMA
from datalake_assets.collection.report import Ledger

MOST_OFFENDERS = 50
"""Offenders that a finding names."""

LOOKBACK = 5
"""Sessions before that tell which symbols are expected to print."""


class Verdict(StrEnum):
    """How a rule judges a session."""

    PASS = "pass"
    WARN = "warn"
    """Told, but the session may be published."""
    FAIL = "fail"
    """The session must not be published."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a session must reach, as shares from 0 to 1.

    Args:
        success_rate: Least share of requested symbols that the source answered for.
        coverage: Least share of expected symbols that have a bar.
        invalid_bars: Largest share of bars with impossible prices that is only warned of.
            Alpaca really serves such bars now and then (AAAA, 2021-04-01: open above high).
        row_ratio: Least number of bars, relative to the median of the sessions before.
    """

    success_rate: float = 0.99
    coverage: float = 0.95
    invalid_bars: float = 0.001
    row_ratio: float = 0.8

    def __post_init__(self) -> None:
        for name in ("success_rate", "coverage", "invalid_bars", "row_ratio"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share from 0 to 1, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says of one session.

    Args:
        rule: Name of the rule, one of `RULES`.
        verdict: Its judgement.
        value: The number judged; None when it can't be known.
        threshold: The number that it is held against.
        detail: The numbers behind it, in words.
        offenders: What breaks the rule, symbols or columns: the first `MOST_OFFENDERS`.
        offender_count: How many there are.
    """

    rule: str
    verdict: Verdict
    value: float | None
    threshold: float
    detail: str
    offenders: tuple[str, ...] = ()
    offender_count: int = 0

    @classmethod
    def of(
        cls,
        rule: str,
        verdict: Verdict,
        value: float | None,
        threshold: float,
        detail: str,
        offenders: Sequence[str] = (),
    ) -> Finding:
        """A finding that names the first of its offenders.

        A source that is down makes every symbol one, in every session of a long run, and a run
        remembers its findings to its end.
        """
        named = tuple(offenders[:MOST_OFFENDERS])
        return cls(rule, verdict, value, threshold, detail, named, len(offenders))


RULES = {
    "success_rate": "Share of the requested symbols that the source answered for, with a bar or "
    "with the word that there is none",
    "coverage": "Share of the symbols that printed in one of the five sessions before and have a "
    "bar in this one",
    "schema": "Columns and types are those of the lake's contract, no value is missing, and all "
    "bars are of the session",
    "one_row_per_symbol": "No symbol has two bars, and bars and ledger name the same symbols",
    "valid_prices": "Prices are positive and finite; low <= open, close <= high",
    "row_count": "Number of bars against the median of the five sessions before",
}
"""Every rule of the audit and what it means."""


def audit(
    bars: pa.Table,
    ledger: Ledger,
    before: Sequence[frozenset[str]],
    thresholds: Thresholds | None = None,
) -> list[Finding]:
    """Judge one session by every rule.

    Args:
        bars: The session's bars.
        ledger: The state of each of its symbols.
        before: The symbols that printed, for each of the sessions before that the lake holds.
            Symbols that are not asked for today are not expected today.
        thresholds: What the session must reach.

    Returns:
        One finding for each of `RULES`, in their order.
    """
    limits = thresholds or Thresholds()
    asked = ledger.symbols
    known = [symbols & asked for symbols in before]
    schema = _schema(bars, ledger)
    if schema.verdict is Verdict.FAIL:
        # The other rules read columns that may not be there.
        unread = [
            Finding(rule, Verdict.FAIL, None, 0.0, "not judged: the schema is broken")
            for rule in ("one_row_per_symbol", "valid_prices")
        ]
    else:
        unread = [_one_row_per_symbol(bars, ledger), _valid_prices(bars, limits)]
    return [
        _success_rate(ledger, limits),
        _coverage(ledger, known, limits),
        schema,
        *unread,
        _row_count(ledger, known, limits),
    ]


def passed(findings: Sequence[Finding]) -> bool:
    """May the session be published?"""
    return all(finding.verdict is not Verdict.FAIL for finding in findings)


def _success_rate(ledger: Ledger, limits: Thresholds) -> Finding:
    answered = len(ledger.present) + len(ledger.no_print)
    return Finding.of(
        "success_rate",
        Verdict.PASS if ledger.success_rate >= limits.success_rate else Verdict.FAIL,
        ledger.success_rate,
        limits.success_rate,
        f"{answered:,} of {ledger.requested:,} symbols answered, {len(ledger.failed):,} failed, "
        f"{len(ledger.pending):,} pending",
        ledger.missing,
    )


def _coverage(ledger: Ledger, before: Sequence[frozenset[str]], limits: Thresholds) -> Finding:
    expected = frozenset().union(*before)
    if not expected:
        detail = "unknown: the lake holds none of the five sessions before"
        return Finding("coverage", Verdict.PASS, None, limits.coverage, detail)
    silent = expected.difference(ledger.present)
    share = (len(expected) - len(silent)) / len(expected)
    return Finding.of(
        "coverage",
        Verdict.PASS if share >= limits.coverage else Verdict.FAIL,
        share,
        limits.coverage,
        f"{len(expected) - len(silent):,} of {len(expected):,} expected symbols have a bar",
        sorted(silent),
    )


def _schema(bars: pa.Table, ledger: Ledger) -> Finding:
    wrong = []
    for expected in SCHEMA:
        if bars.schema.get_field_index(expected.name) < 0:
            wrong.append(f"{expected.name}: missing")
        elif bars.schema.field(expected.name).type != expected.type:
            wrong.append(f"{expected.name}: {bars.schema.field(expected.name).type}")
        elif bars[expected.name].null_count:
            wrong.append(f"{expected.name}: {bars[expected.name].null_count} missing values")
    wrong += [f"{name}: unknown" for name in bars.schema.names if name not in SCHEMA.names]
    if not wrong:
        days = [day for day in pc.unique(bars["session"]).to_pylist() if day != ledger.session]
        wrong += [f"session: bars of {day}" for day in days]
    return Finding.of(
        "schema",
        Verdict.FAIL if wrong else Verdict.PASS,
        float(len(wrong)),
        0.0,
        f"{len(SCHEMA)} columns" if not wrong else f"{len(wrong)} faults",
        wrong,
    )


def _one_row_per_symbol(bars: pa.Table, ledger: Ledger) -> Finding:
    counts = pc.value_counts(bars["symbol"])
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
    apart = frozenset(bars["symbol"].to_pylist()).symmetric_difference(ledger.present)
    offenders = sorted({*twice, *apart})
    return Finding.of(
        "one_row_per_symbol",
        Verdict.FAIL if offenders else Verdict.PASS,
        float(len(offenders)),
        0.0,
        f"{len(twice)} symbols with two bars, {len(apart)} in the bars or the ledger only",
        offenders,
    )


def _valid_prices(bars: pa.Table, limits: Thresholds) -> Finding:
    prices = [bars[name] for name in (*PRICES, "vwap")]
    opened, high, low, close = prices[:4]
    valid = pc.and_(
        pc.and_(pc.less_equal(low, opened), pc.less_equal(opened, high)),
        pc.and_(pc.less_equal(low, close), pc.less_equal(close, high)),
    )
    for price in prices:
        valid = pc.and_(valid, pc.and_(pc.is_finite(price), pc.greater(price, 0.0)))
    offenders = bars["symbol"].filter(pc.invert(valid)).to_pylist()
    share = len(offenders) / bars.num_rows if bars.num_rows else 0.0
    verdict = Verdict.PASS
    if offenders:
        verdict = Verdict.WARN if share <= limits.invalid_bars else Verdict.FAIL
    return Finding.of(
        "valid_prices",
        verdict,
        share,
        limits.invalid_bars,
        f"{len(offenders):,} of {bars.num_rows:,} bars have impossible prices",
        offenders,
    )


def _row_count(ledger: Ledger, before: Sequence[frozenset[str]], limits: Thresholds) -> Finding:
    usual = median([len(symbols) for symbols in before]) if before else 0
    if not usual:
        detail = "unknown: the lake holds none of the five sessions before"
        verdict = Verdict.PASS
        if not ledger.present:
            # A symbol before its first trade, or a source without data: only people can tell.
            detail, verdict = f"{detail}, and no symbol has a bar", Verdict.WARN
        return Finding("row_count", verdict, None, limits.row_ratio, detail)
    ratio = len(ledger.present) / usual
    return Finding.of(
        "row_count",
        Verdict.PASS if ratio >= limits.row_ratio else Verdict.FAIL,
        ratio,
        limits.row_ratio,
        f"{len(ledger.present):,} bars, {usual:,.0f} is usual",
    )
