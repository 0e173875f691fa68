"""The audit: is a session good enough to be published?

Belongs here: what a rule says and is told, the rules that every dataset shares, and those of daily
bars. Does not belong here: the rules that only minute bars have (`minute_audit`), and what follows
from a finding (`assets`: publish, keep as incomplete, fail the run).

A rule that can't be judged, because the lake holds no session before, says so and passes: at the
start of history there is nothing to compare with.

Most rules hold a share against a threshold. Of ten symbols one is already a tenth, so a few may be
missing or odd by their number as well: what the share forbids and the number allows is warned of.

The rules work on arrays with a value for each symbol or bar, not on sets of names: a session of
5,000 symbols is judged in 0.3 ms instead of 3.2. Only offenders are named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from datetime import date, timedelta
from enum import StrEnum
from functools import cached_property, reduce
from operator import or_
from statistics import median
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.collection.bars import PRICES, SCHEMA
from datalake_assets.collection.minute_totals import Hours, MinuteCounts
from datalake_assets.collection.progress import many, verb
from datalake_assets.collection.report import Ledger, State
from datalake_assets.collection.symbols import Bits, Flags, Subset

MOST_OFFENDERS = 50
"""Offenders that a finding names."""

LOOKBACK = 5
"""Sessions before that tell which symbols are expected to print."""


_EPOCH = date(1970, 1, 1)

_NEEDED = tuple(field.name for field in SCHEMA if not field.nullable)
"""The columns in which no value may be missing."""


class Verdict(StrEnum):
    """How a rule judges a session."""

    PASS = "pass"
    WARN = "warn"
    """Told, but the session may be published."""
    FAIL = "fail"
    """The session must not be published."""


THIN_FEEDS = frozenset({"iex", "otc", "boats"})
"""Feeds of one venue, or of one market, where many symbols have no trade on an ordinary day. On
thin names IEX covers 83 % of the minutes that the consolidated tape has 99.7 % of."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a session must reach: shares from 0 to 1, and numbers of symbols beside them.

    A session that misses a share passes all the same, with a warning, while no more symbols than
    allowed are behind it: the looser of the two decides.

    Args:
        success_rate: Least share of requested symbols that the source answered for.
        coverage: Least share of expected symbols that have a bar.
        invalid_bars: Largest share of bars with impossible prices that is only warned of.
            Alpaca really serves such bars now and then (AAAA, 2021-04-01: open above high).
        row_ratio: Least number of bars, relative to the median of the sessions before.
        unanswered_allowed: Symbols that may be failed or pending, whatever their share,
            while at least one was answered.
        silent_allowed: Expected symbols that may have no bar, whatever their share, while
            at least one has a bar; and bars that may be missing to the number that is usual.
        invalid_bars_allowed: Bars with impossible prices that are only warned of, whatever their
            share.

    Raises:
        ValueError: A share is not from 0 to 1, or a number is negative.
    """

    success_rate: float = 0.99
    coverage: float = 0.95
    invalid_bars: float = 0.001
    row_ratio: float = 0.8
    unanswered_allowed: int = 1
    silent_allowed: int = 2
    invalid_bars_allowed: int = 1

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(each.default, float) and not 0.0 <= value <= 1.0:
                raise ValueError(f"{each.name} is a share from 0 to 1, not {value}")
            if isinstance(each.default, int) and value < 0:
                raise ValueError(f"{each.name} is a number from 0 up, not {value}")

    @classmethod
    def of_feed(cls, feed: str) -> Self:
        """What a session of this feed must reach when nobody says otherwise.

        On a thin feed a symbol that printed in one of five sessions often does not in the next.
        """
        if feed in THIN_FEEDS:
            return cls(coverage=0.7, row_ratio=0.7, silent_allowed=5)
        return cls()


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


@dataclass(frozen=True, eq=False)
class Case:
    """A session, and all that its audit may hold it against.

    Args:
        bars: The session's bars.
        ledger: The state of each of its symbols.
        before: The symbols that printed, for each of the sessions before that the lake holds.
            Symbols that are not asked for today are not expected today.
        thresholds: What the session must reach.
        inactive: The symbols that the source lists as inactive: silence of theirs is no fault.
            None: it lists none.
        hours: Of minute bars: from when to when they start. None: the regular hours.
        daily: Of minute bars: the session's daily bars. None: the lake has none.
        minutes_before: Of minute bars: how many minutes each symbol had, for each of the sessions
            before that the lake holds.
        sound: Whether `sound` found no fault in its bars, which then are not looked at again.
    """

    bars: pa.Table = field(repr=False)
    ledger: Ledger
    before: Sequence[Subset] = ()
    thresholds: Thresholds = field(default_factory=Thresholds)
    inactive: Subset | None = None
    hours: Hours | None = None
    daily: pa.Table | None = field(default=None, repr=False)
    minutes_before: Sequence[MinuteCounts] = ()
    sound: bool = False

    @cached_property
    def known(self) -> list[Bits]:
        """For each session before: which of the symbols asked for today printed in it?"""
        states = self.ledger.states
        asked = states.bits()
        return [printed.on(states.symbols) & asked for printed in self.before]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that the sessions of a dataset are judged by.

    Args:
        meanings: The name of every rule and what it means, in the order of the findings.
        judge: The findings of a session, one for each rule.
        needs_daily: Whether they hold a session against its daily bars, and against the minutes of
            the sessions before: who audits reads both for them.
    """

    meanings: Mapping[str, str]
    judge: Callable[[Case], list[Finding]]
    needs_daily: bool = False


SHARED_RULES = {
    "success_rate": "Share of the requested symbols that the source answered for, with a bar or "
    "with the answer that there is none",
    "coverage": "Share of the symbols that printed in one of the five sessions before and have a "
    "bar in this one; symbols that the source lists as inactive are not expected",
    "schema": "Columns and types are those of the lake's contract, no value is missing that must "
    "be there, and all bars are of the session",
    "valid_prices": "Prices are positive and finite; low <= open, close <= high; an average only "
    "where something was traded",
}
"""The rules that every dataset has, and what they mean."""

RULES = {
    "success_rate": SHARED_RULES["success_rate"],
    "coverage": SHARED_RULES["coverage"],
    "schema": SHARED_RULES["schema"],
    "one_row_per_symbol": "No symbol has two bars, and bars and ledger name the same symbols",
    "valid_prices": SHARED_RULES["valid_prices"],
    "row_count": "Number of bars against the median of the five sessions before",
}
"""Every rule of daily bars and what it means."""


def audit(
    bars: pa.Table,
    ledger: Ledger,
    before: Sequence[Subset],
    thresholds: Thresholds | None = None,
    inactive: Subset | None = None,
) -> list[Finding]:
    """Judge one session of daily bars by every rule.

    Args:
        bars: The session's bars.
        ledger: The state of each of its symbols.
        before: The symbols that printed, for each of the sessions before that the lake holds.
            Symbols that are not asked for today are not expected today.
        thresholds: What the session must reach.
        inactive: The symbols that the source lists as inactive: silence of theirs is no fault.
            None: it lists none.

    Returns:
        One finding for each of `RULES`, in their order.
    """
    return DAILY_RULES.judge(Case(bars, ledger, before, thresholds or Thresholds(), inactive))


def _daily(case: Case) -> list[Finding]:
    if case.sound:
        rows = [_of_schema([]), _of_rows([], frozenset()), _of_prices(case, [])]
    elif (schema := schema_finding(case)).verdict is Verdict.FAIL:
        rows = [schema, *unread_findings("one_row_per_symbol", "valid_prices")]
    else:
        rows = [schema, _one_row_per_symbol(case.bars, case.ledger), valid_prices(case)]
    return [success_rate(case), coverage(case), *rows, _row_count(case)]


def sound(sessions: Sequence[tuple[pa.Table, Ledger]]) -> frozenset[date]:
    """The sessions of daily bars whose rows break no rule: `schema`, one row for a symbol, prices.

    The sessions of a window are looked at together. One alone is thirty operations of numpy and
    Arrow on 20 KB each, each of which gives up Python's lock, which other threads want: in a
    backfill that takes three times as long as where nothing else runs.

    Args:
        sessions: The bars and the ledger of each.
    """
    schemas = (bars.schema for bars, _ in sessions)
    if not sessions or not all(schema.equals(SCHEMA) for schema in schemas):
        return frozenset()  # each is told what is wrong with it
    rows = pa.concat_tables([bars for bars, _ in sessions])
    if not rows_match_ledger(sessions) or any(rows[name].null_count for name in _NEEDED):
        return frozenset()
    counts = [bars.num_rows for bars, _ in sessions]
    days = [(ledger.session - _EPOCH).days for _, ledger in sessions]
    valid = _valid_prices(rows)
    valid &= rows["session"].cast(pa.int32()).to_numpy() == np.repeat(days, counts)
    broken = np.searchsorted(np.cumsum(counts), np.flatnonzero(~valid), side="right")
    return frozenset(ledger.session for _, ledger in sessions).difference(
        sessions[number][1].session for number in broken.tolist()
    )


def rows_match_ledger(sessions: Sequence[tuple[pa.Table, Ledger]]) -> bool:
    """Whether each session has a row for each symbol that its ledger calls present, in their order.

    The ledger names each symbol once: a column that is equal to its names has no two bars.

    Args:
        sessions: The daily bars and the ledger of each, at least one.
    """
    names = [ledger.states.column(State.PRESENT) for _, ledger in sessions]
    if [len(each) for each in names] != [bars.num_rows for bars, _ in sessions]:
        return False
    columns = [bars["symbol"] for bars, _ in sessions]
    found = pa.chunked_array([part for each in columns for part in each.chunks], columns[0].type)
    return bool(found.equals(pa.chunked_array(names)))


DAILY_RULES = Rules(RULES, _daily)
"""The rules of daily bars."""


def unread_findings(*rules: str) -> list[Finding]:
    """Findings of rules that can't be judged, as they read columns that may not be there."""
    return [
        Finding(rule, Verdict.FAIL, None, 0.0, "not judged: the schema is broken") for rule in rules
    ]


def passed(findings: Sequence[Finding]) -> bool:
    """May the session be published?"""
    return all(finding.verdict is not Verdict.FAIL for finding in findings)


def success_rate(case: Case) -> Finding:
    """The share of the requested symbols that were answered for."""
    ledger, limits = case.ledger, case.thresholds
    answered = len(ledger.present) + len(ledger.no_print)
    rate, missing = ledger.success_rate, ledger.missing
    return Finding.of(
        "success_rate",
        verdict_of(
            rate >= limits.success_rate,
            answered > 0 and len(missing) <= limits.unanswered_allowed,
        ),
        rate,
        limits.success_rate,
        f"{answered:,} of {many(ledger.requested, 'symbol')} answered, "
        f"{len(ledger.failed):,} failed, {len(ledger.pending):,} pending",
        missing,
    )


def verdict_of(reached: bool, allowed: bool) -> Verdict:
    """Pass when the share is reached, a warning when only the number of symbols allows it."""
    if reached:
        return Verdict.PASS
    return Verdict.WARN if allowed else Verdict.FAIL


def coverage(case: Case) -> Finding:
    """The share of the expected symbols that have a bar."""
    states, inactive, limits = case.ledger.states, case.inactive, case.thresholds
    printed = reduce(or_, case.known, 0)
    silent = printed & ~states.bits(State.PRESENT)
    delisted = silent & inactive.on(states.symbols) if inactive else 0
    gone = delisted.bit_count()
    expected, missing = printed.bit_count() - gone, silent & ~delisted
    count = missing.bit_count()
    told = f"; {gone:,} silent and inactive by the source's list" if gone else ""
    if not expected:
        why = "no symbol is expected" if told else _nothing_before(case)
        return Finding("coverage", Verdict.PASS, None, limits.coverage, f"unknown: {why}{told}")
    share = (expected - count) / expected
    return Finding(
        "coverage",
        # Without a single bar nobody can tell a quiet day from a source that has nothing.
        verdict_of(
            share >= limits.coverage,
            count <= limits.silent_allowed and count < expected,
        ),
        share,
        limits.coverage,
        f"{expected - count:,} of {many(expected, 'expected symbol')} "
        f"{verb(expected - count, 'has', 'have', of=expected)} a bar{told}",
        states.symbols.first_with_bits(missing, MOST_OFFENDERS),
        count,
    )


def _nothing_before(case: Case) -> str:
    """Why a session can't be held against those before it."""
    if not case.before:
        return "the lake holds none of the five sessions before"
    most = "most of " if any(case.known) else ""
    return f"in {most}the sessions before, none of the symbols asked for has a bar"


def schema_finding(case: Case) -> Finding:
    """Columns, types, missing values, and bars of another session."""
    bars, ledger = case.bars, case.ledger
    wrong = list[str]()
    # What is in order is told in a third of the time.
    if not bars.schema.equals(SCHEMA) or any(bars[name].null_count for name in _NEEDED):
        wrong = _wrong_columns(bars)
    if not wrong:
        own, others = (ledger.session - _EPOCH).days, set[int]()
        for piece in bars["session"].chunks:
            days = piece.view(pa.int32()).to_numpy()
            if (other := days != own).any():
                others.update(days[other].tolist())
        wrong = [f"session: bars of {_EPOCH + timedelta(day)}" for day in sorted(others)]
    return _of_schema(wrong)


def _of_schema(wrong: Sequence[str]) -> Finding:
    return Finding.of(
        "schema",
        Verdict.FAIL if wrong else Verdict.PASS,
        float(len(wrong)),
        0.0,
        f"{len(SCHEMA)} columns" if not wrong else many(len(wrong), "fault"),
        wrong,
    )


def _wrong_columns(bars: pa.Table) -> list[str]:
    """What is wrong with the columns, by name."""
    schema, wrong = bars.schema, list[str]()  # made anew each time that a table is asked
    for expected in SCHEMA:
        if schema.get_field_index(expected.name) < 0:
            wrong.append(f"{expected.name}: missing")
        elif schema.field(expected.name).type != expected.type:
            wrong.append(f"{expected.name}: {schema.field(expected.name).type}")
        elif not expected.nullable and (missing := bars[expected.name].null_count):
            wrong.append(f"{expected.name}: {missing} missing values")
    return wrong + [f"{name}: unknown" for name in schema.names if name not in SCHEMA.names]


def _one_row_per_symbol(bars: pa.Table, ledger: Ledger) -> Finding:
    symbols, twice, apart = bars["symbol"], list[str](), frozenset[str]()
    if not rows_match_ledger([(bars, ledger)]):
        counts = pc.value_counts(symbols)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist()
        apart = frozenset(symbols.to_pylist()).symmetric_difference(ledger.present)
    return _of_rows(twice, apart)


def _of_rows(twice: Sequence[str], apart: Set[str]) -> Finding:
    offenders = sorted({*twice, *apart})
    return Finding.of(
        "one_row_per_symbol",
        Verdict.FAIL if offenders else Verdict.PASS,
        float(len(offenders)),
        0.0,
        f"{many(len(twice), 'symbol')} with two bars, {len(apart)} in the bars or the ledger only",
        offenders,
    )


def impossible_prices(bars: pa.Table) -> list[str]:
    """The symbols whose bars have prices that can't be: the offenders of `valid_prices`.

    Args:
        bars: The bars of a session, in `bars.SCHEMA`.
    """
    valid = _valid_prices(bars)
    if valid.all():
        return []
    return list(bars["symbol"].filter(pa.array(~valid)).to_pylist())


def _valid_prices(bars: pa.Table) -> Flags:
    """Which bars have prices that can be."""
    opened, high, low, close = (bars[name].to_numpy() for name in PRICES)
    # What is between a positive and a finite number is both, and a NaN is between none.
    valid: Flags = (
        (low > 0.0) & (low <= opened) & (opened <= high) & (low <= close) & (close <= high)
    )
    valid &= high < np.inf
    average = bars["vwap"].to_numpy()
    impossible = ~((average > 0.0) & (average < np.inf))
    if impossible.any():
        # Without trades there is no average: sources send 0 or nothing then.
        untraded = (bars["volume"].to_numpy() == 0) | (bars["trade_count"].to_numpy() == 0)
        absent = bars["vwap"].is_null().to_numpy() | (untraded & (average == 0.0))
        valid &= ~impossible | absent
    return valid


def valid_prices(case: Case, *, each_once: bool = False) -> Finding:
    """The share of the bars with impossible prices.

    Args:
        case: The session.
        each_once: Whether a symbol is named once, however many of its bars are impossible.
    """
    offenders = impossible_prices(case.bars)
    return _of_prices(case, offenders, each_once=each_once)


def _of_prices(case: Case, offenders: Sequence[str], *, each_once: bool = False) -> Finding:
    bars, limits = case.bars, case.thresholds
    share = len(offenders) / bars.num_rows if bars.num_rows else 0.0
    few = share <= limits.invalid_bars or len(offenders) <= limits.invalid_bars_allowed
    verdict = verdict_of(not offenders, few)
    return Finding.of(
        "valid_prices",
        verdict,
        share,
        limits.invalid_bars,
        f"{len(offenders):,} of {many(bars.num_rows, 'bar')} "
        f"{verb(len(offenders), 'has', 'have', of=bars.num_rows)} impossible prices",
        list(dict.fromkeys(offenders)) if each_once else offenders,
    )


def _row_count(case: Case) -> Finding:
    ledger, before, limits = case.ledger, case.known, case.thresholds
    usual = median([printed.bit_count() for printed in before]) if before else 0
    if not usual:
        detail = f"unknown: {_nothing_before(case)}"
        verdict = Verdict.PASS
        if not ledger.present:
            # A symbol before its first trade, or a source without data: only people can tell.
            detail, verdict = f"{detail}, and no symbol has a bar", Verdict.WARN
        return Finding("row_count", verdict, None, limits.row_ratio, detail)
    ratio = len(ledger.present) / usual
    return Finding.of(
        "row_count",
        verdict_of(
            ratio >= limits.row_ratio,
            usual - len(ledger.present) <= limits.silent_allowed,
        ),
        ratio,
        limits.row_ratio,
        f"{many(len(ledger.present), 'bar')}, {usual:,.0f} is usual",
    )
