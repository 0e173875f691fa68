"""The state of the lake at an instant, in numbers, and what to do about it.

Belongs here: counting, comparing, and summing it up in a sentence. Does not belong here: how it is
drawn (`pictures`, `page`, `cli.status`).

Everything comes from the lake: the footers of its session files, its manifests, its restatement
log, and the bars of the newest sessions. A damaged object is named and does not hide the rest.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from itertools import groupby
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets import market_calendar
from datalake_assets.collection.audit import Verdict, impossible_prices
from datalake_assets.collection.bars import price_text
from datalake_assets.collection.progress import many, verb
from datalake_assets.collection.report import Reason
from datalake_assets.collection.universe import unlisted
from datalake_assets.lake import currency, restatements, session_file
from datalake_assets.lake.coverage import Coverage, Held, Narrow, coverage, narrow
from datalake_assets.lake.examination import spans
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.manifest import Manifest
from datalake_assets.lake.restatements import Restatements
from datalake_assets.lake.session_file import Summary
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.overview.minutes import MinuteNumbers, minute_numbers
from datalake_assets.overview.runs import Run, Runs
from datalake_assets.overview.securities import SecurityNews, security_news
from datalake_assets.overview.sizes import Sizes, sizes
from datalake_assets.overview.universe import ListChanges, list_changes
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError

COMPARED = 20
"""How many sessions the newest one is compared with: about a month."""

TRADED_FOR, ABSENT_FOR = 5, 3
"""A symbol stopped trading when it has a bar in each of the first number of sessions and in none of
the next: delisted, renamed, halted, or lost by the source."""

RESTATEMENTS = 20
"""How many changed bars are listed, the newest first."""

HISTORY = 120
"""How many sessions the charts show: as many as Dagster's plots."""

LISTED_ONE_BY_ONE = 5
"""Up to this many steps of a kind are listed one by one; more are summed up in one step."""

_UNANSWERED = ("failed", "pending")


class SessionState(StrEnum):
    """The state of a session in an overview."""

    PUBLISHED = "published"
    """The source answered for every symbol."""
    FLAWED = "published, some symbols to retry"
    """It passed its audit, but some symbols failed or were never requested, or a later collection
    of it did not pass."""
    INCOMPLETE = "did not pass its audit"
    MISSING = "missing"
    NOT_COLLECTED = "not collected yet"
    """History before the first session that was ever collected."""
    NOT_DUE = "not due yet"


class Health(StrEnum):
    """The verdict on the lake, from good to bad."""

    GOOD = "good"
    UNFINISHED = "unfinished"
    """What is published can be relied on; something is still to be collected or published."""
    BAD = "bad"
    """A session that should be there is not, or an object is damaged."""


class LakeStatus(StrEnum):
    """The status that a monitoring job needs, from good to bad.

    History before the lake's first session does not count: it may not be wanted.
    """

    WHOLE = "whole"
    """Every session from the first to the newest is published, and nothing is damaged."""
    LAGGING = "lagging"
    """The same, but symbols must be retried, or per-symbol files or securities are out of date."""
    BROKEN = "broken"
    """A session is missing, did not pass, or is damaged."""


@dataclass(frozen=True, slots=True)
class SessionNumbers:
    """What a session's file says about it.

    Args:
        session: The session.
        rows: Bars.
        requested: Symbols requested.
        no_print, failed, pending: Symbols in these states.
        coverage: Share of the expected symbols that have a bar; None if unknown.
        thresholds: The audit's thresholds, by rule.
        collected_at: When the collection ended, UTC.
        duration: Seconds that its collection took; None if unknown, or if it was collected together
            with other sessions: the time of a batch is not that of one session.
        requests: Requests sent by its collection, including those for other sessions of the same
            batch; None if unknown.
    """

    session: date
    rows: int
    requested: int
    no_print: int
    failed: int
    pending: int
    coverage: float | None
    thresholds: Mapping[str, float]
    collected_at: datetime
    duration: float | None
    requests: int | None

    @classmethod
    def of(cls, summary: Summary, *, alone: bool = True) -> SessionNumbers:
        """From the summary of a session file.

        Args:
            summary: The summary.
            alone: Whether it was collected alone.
        """
        counts, collection = summary.counts, summary.provenance.collection
        values = {finding["rule"]: finding["value"] for finding in summary.audit}
        return cls(
            session=summary.session,
            rows=summary.rows,
            requested=sum(counts.values()) - counts["rejected"],
            no_print=counts["no_print"],
            failed=counts["failed"],
            pending=counts["pending"],
            coverage=values.get("coverage"),
            thresholds={finding["rule"]: finding["threshold"] for finding in summary.audit},
            collected_at=summary.provenance.collected_at,
            duration=collection.get("duration_seconds") if alone else None,
            requests=collection.get("requests"),
        )

    @property
    def success_rate(self) -> float | None:
        """Share of the requested symbols that the source answered for; None without any."""
        return (self.rows + self.no_print) / self.requested if self.requested else None


@dataclass(frozen=True, slots=True)
class YearNumbers:
    """A year of the lake.

    Args:
        year: The year.
        counts: Its sessions by state, including those that are not due yet.
        rows: Bars published.
        answered: Share of the requested symbols that the source answered for, over all published
            sessions; None when there is none.
        failed: Symbols to retry (failed or pending) in the published sessions.
        behind: Sessions whose current version is not in the symbol-years.
        whole: Whether the last publication of the symbol-years was completed.
        follows: The session with which the symbol-years follow, while they lag on purpose.
        file_behind: Sessions whose current version is not in the year file.
    """

    year: int
    counts: Mapping[SessionState, int]
    rows: int
    answered: float | None
    failed: int
    behind: int
    whole: bool
    follows: date | None = None
    file_behind: int = 0

    @property
    def due(self) -> int:
        """Sessions that should be there."""
        return sum(self.counts.values()) - self.counts[SessionState.NOT_DUE]

    @property
    def published(self) -> int:
        """Sessions that are published."""
        return self.counts[SessionState.PUBLISHED] + self.counts[SessionState.FLAWED]

    @property
    def current(self) -> bool:
        """Are the symbol-years up to date with the sessions, or out of date on purpose?"""
        return self.whole and not (self.behind and self.follows is None)

    @property
    def year_file(self) -> str:
        """The state of the year file, in words."""
        if self.file_behind:
            return f"{many(self.file_behind, 'session')} out of date"
        return "up to date" if self.published else "–"

    @property
    def symbol_years(self) -> str:
        """The state of the symbol-years, in words."""
        if self.behind and self.follows:
            return f"follow on {self.follows:%m-%d}"
        if self.behind:
            return f"{many(self.behind, 'session')} out of date"
        if not self.whole:
            return "interrupted, or in progress"
        return "up to date" if self.published else "–"


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of the newest session, and of the sessions before it.

    Args:
        name: What it is.
        unit: How it is formatted: "count", "share" or "seconds".
        newest: Its value in the newest session; None if unknown.
        before: Its values in the sessions before, ascending, where they are known.
    """

    name: str
    unit: str
    newest: float | None
    before: Sequence[float]

    @property
    def usual(self) -> float | None:
        """The median of the sessions before."""
        return median(self.before) if self.before else None

    @property
    def change(self) -> str:
        """The difference between the newest value and the usual one, formatted."""
        if self.newest is None or self.usual is None:
            return "–"
        if self.unit == "share":
            return f"{100 * (self.newest - self.usual):+.2f} points"
        if self.newest == self.usual:
            return "none"
        if not self.usual or self.newest > 10 * self.usual:
            more = self.newest - self.usual
            return f"{more:+,.1f} s" if self.unit == "seconds" else f"{more:+,.0f}"
        return f"{100 * (self.newest / self.usual - 1):+.1f} %"


@dataclass(frozen=True, slots=True)
class StoppedSymbol:
    """A symbol that traded in every session and then stopped.

    Args:
        symbol: The symbol.
        last: The last session in which it has a bar.
        close: Its last price there, in dollars.
        volume: Shares traded there.
    """

    symbol: str
    last: date
    close: float
    volume: int


@dataclass(frozen=True, slots=True)
class PriceWarning:
    """A published session with a few bars whose prices can't be (the rule `valid_prices`).

    Args:
        session: The session.
        detail: What the audit says.
        symbols: The symbols, of the sessions whose bars were read; None of older ones.
    """

    session: date
    detail: str
    symbols: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class NextSession:
    """The session that is collected next.

    Args:
        session: The session.
        at: From when it is collected, UTC.
    """

    session: date
    at: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """Requests on the last day (UTC) with a collection, from what the sessions record.

    Those for daily bars and for minutes count, as both share the plan's limit. A session records
    only its last collection, so one that was later replaced is not counted.

    Args:
        day: The day.
        collections: Collections that started on that day.
        requests, retries, throttled: Requests sent, retries among them, and answers of 429.
        minutes: Time during which at least one of them ran.
        per_minute: Requests per minute that the plan allows.
    """

    day: date
    collections: int
    requests: int
    retries: int
    throttled: int
    minutes: float
    per_minute: int

    @property
    def share(self) -> float | None:
        """Requests sent, as a share of what the plan allows in these minutes."""
        # The first request of a collection does not wait: 31 in the time of 30 are allowed.
        allowed = self.per_minute * self.minutes + self.collections
        return self.requests / allowed if self.minutes else None


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do.

    Args:
        why: What is wrong, and what must be done by hand.
        command: The command, without the program's name; None when no command fixes it.
    """

    why: str
    command: str | None


@dataclass(frozen=True, slots=True)
class Damage:
    """An object that can't be read.

    Args:
        where: Where it is.
        step: What to do about it.
        session: The session that the file belongs to, if that session is due.
    """

    where: str
    step: Step
    session: date | None = None

    @classmethod
    def of_session(cls, where: str, session: date | None) -> Damage:
        """Damage to a session's file, or an object in its place."""
        command = None if session is None else f"collect --session {session}"
        return cls(where, Step(f"damaged: {where}", command), session)

    @classmethod
    def of_manifest(cls, where: str, year: int) -> Damage:
        """Damage to a year's manifest."""
        return cls(where, Step(f"damaged: {where}: delete it, then", f"publish --year {year}"))


@dataclass(frozen=True)
class Overview:
    """The lake's state.

    Args:
        now: When it was read, UTC.
        uri: Where the lake is.
        source: The source of its bars; None for a lake that was never written to.
        held: The coverage of its due sessions.
        states: The state of every session from the first to the end of the newest year, ascending.
        sessions: The numbers of each of these that is published or incomplete, ascending.
        years: Each year, ascending.
        measures: The newest published session compared with those before; empty without one.
        stopped: The symbols that stopped trading, the most traded first; None when the lake holds
            too few sessions to tell.
        usage: Requests used; None when no session records any.
        restatements: The newest changes (`lake.restatements.SCHEMA`), newest first.
        damaged: What can't be read.
        narrow: The published sessions collected for fewer symbols than their universe has
            now, ascending.
        unlisted: The configured symbols that are not on the source's list, ascending.
        securities: Recent changes of securities; None when none were derived.
        price_warnings: The published sessions with impossible prices, newest first.
        listed: What changed between the two newest lists of assets; None without two.
        following: The session that is collected next; None when nobody told.
        sizes: The size of the lake; None when it was not measured.
        runs: Dagster's runs; None without Dagster.
        minutes: The minute bars; None when the lake has none, and the settings want none.
    """

    now: datetime
    uri: str
    source: str | None
    held: Coverage
    states: Mapping[date, SessionState]
    sessions: dict[date, SessionNumbers]
    years: Sequence[YearNumbers]
    measures: Sequence[Measure]
    stopped: Sequence[StoppedSymbol] | None
    usage: Usage | None
    restatements: pa.Table
    damaged: Sequence[Damage]
    narrow: Mapping[date, Narrow] = field(default_factory=dict)
    unlisted: Sequence[str] = ()
    securities: SecurityNews | None = None
    price_warnings: Sequence[PriceWarning] = ()
    listed: ListChanges | None = None
    following: NextSession | None = None
    sizes: Sizes | None = None
    runs: Runs | None = None
    minutes: MinuteNumbers | None = None

    @cached_property
    def counts(self) -> Mapping[SessionState, int]:
        """Sessions by state."""
        return _counts(self.states.values())

    @cached_property
    def reasons(self) -> tuple[Reason, ...]:
        """Why symbols failed in the sessions, the most frequent error first."""
        return self.held.reasons

    @property
    def due(self) -> int:
        """Sessions that should be there."""
        return len(self.held.sessions)

    @property
    def published(self) -> int:
        """Sessions that are published, of those that should be there."""
        return sum(year.published for year in self.years)

    @property
    def rows(self) -> int:
        """Bars published."""
        return sum(year.rows for year in self.years)

    @property
    def newest_due(self) -> date | None:
        """The newest session that should be there."""
        return next(reversed(self.held.sessions), None)

    @cached_property
    def newest(self) -> SessionNumbers | None:
        """The newest published session."""
        published = (day for day in reversed(self.sessions) if self.states[day] in _PUBLISHED)
        return next((self.sessions[day] for day in published), None)

    @cached_property
    def holes(self) -> list[date]:
        """The sessions that are missing. One that can't be read counts as damaged instead."""
        damaged = frozenset(damage.session for damage in self.damaged)
        missing = [day for day, state in self.states.items() if state is SessionState.MISSING]
        return [day for day in missing if day not in damaged]

    @property
    def behind(self) -> list[YearNumbers]:
        """Years whose symbol-years should be up to date and are not."""
        return [year for year in self.years if not year.current]

    @property
    def files_behind(self) -> list[YearNumbers]:
        """Years whose year file is not up to date with the sessions."""
        return [year for year in self.years if year.file_behind]

    @property
    def history(self) -> dict[date, SessionNumbers | None]:
        """The newest due sessions since the first that was collected, ascending.

        None for those that are not published.
        """
        begun = [day for day, s in self.states.items() if s is not SessionState.NOT_COLLECTED]
        days = [day for day in begun if day in self.held.sessions][-HISTORY:]
        return {day: self.sessions[day] if self.states[day] in _PUBLISHED else None for day in days}

    @property
    def health(self) -> Health:
        """The verdict."""
        if self.damaged or self.holes or self.counts[SessionState.INCOMPLETE]:
            return Health.BAD
        if (
            self.counts[SessionState.NOT_COLLECTED]
            or self.counts[SessionState.FLAWED]
            or self.behind
            or self.files_behind
        ):
            return Health.UNFINISHED
        if self.securities and self.securities.behind:
            return Health.UNFINISHED
        if self.minutes and not self.minutes.whole:
            return Health.UNFINISHED
        return Health.GOOD

    @property
    def status(self) -> LakeStatus:
        """The status that a monitoring job needs."""
        newest = self.newest_due
        if self.health is Health.BAD or (newest and self.states[newest] not in _PUBLISHED):
            return LakeStatus.BROKEN
        if self.counts[SessionState.FLAWED] or self.behind or self.files_behind:
            return LakeStatus.LAGGING
        if self.securities and self.securities.behind:
            return LakeStatus.LAGGING
        if self.minutes and not self.minutes.whole:
            return LakeStatus.LAGGING
        return LakeStatus.WHOLE

    @property
    def headline(self) -> str:
        """The verdict in a few words."""
        if not self.due:
            return "No session is due yet."
        if not self.sessions and not self.damaged:
            return "The lake is empty."
        return {
            Health.GOOD: "The lake is good.",
            Health.UNFINISHED: "The published data is good. Some work is left.",
            Health.BAD: "The lake needs attention.",
        }[self.health]

    @property
    def sentence(self) -> str:
        """The reasons for the verdict, in one sentence."""
        if not self.due:
            return "The first session has not closed."
        last = f"up to {self.newest_due}"
        if self.health is Health.GOOD:
            return (
                f"All {many(self.due, 'session')} {last} {verb(self.due)} published, and the "
                "source answered for every symbol."
            )
        flawed, incomplete = self.counts[SessionState.FLAWED], self.counts[SessionState.INCOMPLETE]
        untouched = self.counts[SessionState.NOT_COLLECTED]
        behind = _listed([str(year.year) for year in self.behind])
        to_retry = f"{verb(flawed, 'has', 'have')} symbols to retry"
        untold = f"{verb(untouched, 'has', 'have')} not been collected yet"
        reasons = [
            (len(self.damaged), f"{many(len(self.damaged), 'object')} can't be read"),
            (len(self.holes), self._missing_text()),
            (incomplete, f"{incomplete:,} did not pass the audit"),
            (untouched, f"{untouched:,} of the history {untold}"),
            (flawed, f"{many(flawed, 'published session')} {to_retry}"),
            (len(self.behind), f"the per-symbol files of {behind} are out of date"),
            (len(self.files_behind), f"{_files(self.files_behind)} out of date"),
            (len(self._derive()), "securities and factors are out of date"),
            (len(self._minutes()), "minute bars are missing or incomplete"),
        ]
        text = "; ".join(reason for count, reason in reasons if count)
        are = verb(self.published, of=self.due)
        return f"{self.published:,} of {many(self.due, 'session')} {last} {are} published; {text}."

    @property
    def steps(self) -> list[Step]:
        """What to do, in order; empty when there is nothing."""
        return [
            *self._fix_damage(),
            *self._collect(),
            *self._repair(),
            *self._add_symbols(),
            *self._publish(),
            *self._derive(),
            *self._minutes(),
        ]

    def undone(self, run: Run) -> int:
        """How many of a run's sessions and years are not published, or out of date."""
        current = {str(year.year) for year in self.years if year.current and not year.file_behind}
        there = {str(day) for day, state in self.states.items() if state in _PUBLISHED}
        return sum(each not in current and each not in there for each in run.partitions)

    @property
    def decisions(self) -> list[Step]:
        """What the user has to decide. It does not affect the health of the lake."""
        news = self.securities
        waiting = [*news.undecided, *news.suspected] if news else []
        if not waiting:
            return []
        wait = "waits" if len(waiting) == 1 else "wait"
        return [Step(f"{many(len(waiting), 'finding')} {wait} for your decision", "decide")]

    def _missing_text(self) -> str:
        if self.holes == [self.newest_due]:
            return "the newest is missing"
        newest = ", the newest among them" if self.newest_due in self.holes else ""
        return f"{len(self.holes):,} {verb(len(self.holes))} missing{newest}"

    def _fix_damage(self) -> list[Step]:
        return [damage.step for damage in self.damaged]

    def _collect(self) -> list[Step]:
        # A damaged session also counts as missing, and has a step of its own.
        damaged = frozenset(damage.session for damage in self.damaged)
        gaps = [gap for gap in self.held.gaps if gap[2] > 1 or gap[0] not in damaged]
        if len(gaps) > LISTED_ONE_BY_ONE:
            sessions = sum(count for _, _, count in gaps)
            why = f"missing: {many(sessions, 'session')} in {many(len(gaps), 'gap')}"
            return [Step(why, "backfill")]
        return [
            Step(f"missing: {many(count, 'session')}", f"backfill --from {first} --to {last}")
            for first, last, count in gaps
        ]

    def _repair(self) -> list[Step]:
        damaged = frozenset(damage.session for damage in self.damaged)
        # A session can be published and incomplete; the incomplete one lacks more symbols.
        counts = {s.session: s.counts for s in (*self.held.published, *self.held.waiting)}
        days = [day for day in self.held.to_repair if day not in damaged]
        # An interrupted backfill leaves up to three windows of adjacent incomplete sessions.
        runs = [(day, day) for day in days]
        if len(days) > LISTED_ONE_BY_ONE:
            runs = spans(days, list(self.held.sessions))
        steps = []
        for first, last in runs:
            held = [counts[day] for day in days if first <= day <= last]
            failed, pending = (sum(each[state] for each in held) for state in _UNANSWERED)
            why = f"{failed:,} failed, {pending:,} pending"
            if not failed and not pending:
                why = "complete, but did not pass its audit"
            steps.append(_repair(first, last, len(held), why))
        return steps

    def _add_symbols(self) -> list[Step]:
        # A repair of the other sessions requests these symbols, too.
        days = [day for day in self.narrow if day not in frozenset(self.held.to_repair)]
        steps = []
        for first, last in spans(days, list(self.held.sessions)):
            count = sum(first <= day <= last for day in days)
            steps.append(_repair(first, last, count, str(self.narrow[last])))
        return steps

    def _derive(self) -> list[Step]:
        news = self.securities
        if not news or not news.behind:
            return []
        why = f"securities and factors cover sessions up to {news.derived}"
        return [Step(f"{why}, the lake has {news.published}", "securities")]

    def _minutes(self) -> list[Step]:
        told = self.minutes.steps(LISTED_ONE_BY_ONE) if self.minutes else []
        return [Step(why, command) for why, command in told]

    def _publish(self) -> list[Step]:
        damaged = {damage.step.command for damage in self.damaged}
        behind, in_files = (
            [year for year in years if f"publish --year {year.year}" not in damaged]
            for years in (self.behind, self.files_behind)
        )
        wanted = sorted({year.year for year in (*behind, *in_files)})
        if len(wanted) > 1:
            what = [("per-symbol files", behind), ("year files", in_files)]
            told = [
                f"{name} out of date: {_listed([str(year.year) for year in years])}"
                for name, years in what
                if years
            ]
            return [Step("; ".join(told), "publish")]
        told = [
            f"per-symbol files of {year.year} out of date: {many(year.behind, 'session')}"
            if year.behind
            else f"the publication of {year.year} was interrupted, or is in progress"
            for year in behind
        ] or [
            f"the year file of {year.year} is out of date: {many(year.file_behind, 'session')}"
            for year in in_files
        ]
        return [Step(why, f"publish --year {year}") for why, year in zip(told, wanted, strict=True)]


def _repair(first: date, last: date, count: int, why: str) -> Step:
    """The repair of some sessions between two of them."""
    what = f"{first}" if first == last else f"{many(count, 'session')} from {first} to {last}"
    days = market_calendar.options(first, last)
    return Step(f"{what}: {why}", f"collect {days} --repair")


def _files(years: Sequence[YearNumbers]) -> str:
    listed = _listed([str(year.year) for year in years])
    return f"the year files of {listed} are" if years[1:] else f"the year file of {listed} is"


_PUBLISHED = (SessionState.PUBLISHED, SessionState.FLAWED)


def overview(
    lake: LakeFiles,
    *,
    first: date,
    due: date,
    now: datetime,
    requests_per_minute: int,
    chosen: Sequence[str] | None = None,
    weekly: bool = False,
    following: NextSession | None = None,
    runs: Runs | None = None,
    measure: bool = False,
    minutes: bool = False,
    minute_symbols: Sequence[str] | None = None,
) -> Overview:
    """Read the state of a lake; one that does not exist holds nothing.

    Args:
        lake: The lake.
        first: Its first session.
        due: The last day whose session should be in the lake.
        now: The time, UTC.
        requests_per_minute: Requests per minute that the source's plan allows.
        chosen: The symbols that are collected instead of the source's list; None for all of it.
        weekly: Whether the symbol-years of the running year follow once a week.
        following: The session that is collected next, if that is known.
        runs: Dagster's runs, if there is Dagster.
        measure: Whether to list the whole lake for its size: a request for each 1,000 objects.
        minutes: Whether the settings want minute bars.
        minute_symbols: The symbols of minute bars; None for the source's list.

    Raises:
        StoreError: The lake can't be reached.
        OutsideCalendar: `first` or `due` is outside the calendar.
    """
    everything = coverage(lake, market_calendar.sessions(first, due))
    # Sessions outside this range are neither counted nor listed: no command collects a session
    # before the first one, or one whose partition does not exist yet.
    held = replace(
        everything,
        published=[each for each in everything.published if each.session in everything.sessions],
        waiting=[each for each in everything.waiting if each.session in everything.sessions],
    )
    damaged: list[Damage] = []
    few, unlisted_symbols = _universe(lake, held, chosen, damaged)
    states = _states(held, first, due, few)
    together = Counter(map(_collection_of, (*everything.waiting, *everything.published)))
    sessions = {
        summary.session: SessionNumbers.of(summary, alone=together[_collection_of(summary)] == 1)
        for summaries in (held.waiting, held.published)  # of both, the published one
        for summary in summaries
    }
    sessions = {day: sessions[day] for day in states if day in sessions}
    published = [day for day in states if states[day] in _PUBLISHED]
    damaged += _damaged(lake, held)
    bars = _bars(lake, published[-COMPARED - 1 :], damaged)
    years = _years(lake, states, sessions, damaged, now.date() if weekly else None)
    of_minutes = minute_numbers(
        lake, first=first, due=due, now=now, wanted=minutes, chosen=minute_symbols
    )
    of_both = [*everything.published, *everything.waiting]
    of_both += of_minutes.summaries if of_minutes else []
    return Overview(
        now=now,
        uri=lake.store.uri,
        source=lake.source(),
        held=held,
        states=states,
        sessions=sessions,
        years=years,
        measures=_measures([sessions[day] for day in published[-COMPARED - 1 :]], bars),
        stopped=_stopped(
            [bars[day] for day in published[-TRADED_FOR - ABSENT_FOR :] if day in bars]
        ),
        usage=_usage(of_both, requests_per_minute),
        restatements=_restatements(lake, damaged),
        damaged=damaged,
        narrow=few,
        unlisted=unlisted_symbols,
        securities=_securities(lake, published, damaged),
        price_warnings=_price_warnings(held.published, bars),
        listed=_list_changes(lake, damaged),
        following=following,
        sizes=sizes(lake.store) if measure else None,
        runs=runs,
        minutes=of_minutes,
    )


def _collection_of(summary: Summary) -> object:
    """A key that is equal for sessions that were collected together."""
    return summary.provenance.collection.get("started", summary.session)


def _securities(
    lake: LakeFiles, published: Sequence[date], damaged: list[Damage]
) -> SecurityNews | None:
    try:
        return security_news(lake.store, published)
    except BrokenFileError as error:
        damaged.append(Damage(lake.store.url(layout.SECURITIES), Step(str(error), "securities")))
        return None


def _price_warnings(
    summaries: Iterable[Summary], bars: Mapping[date, pa.Table]
) -> list[PriceWarning]:
    """The sessions whose audit warned of prices, newest first."""
    found = [
        PriceWarning(
            each.session,
            finding["detail"],
            impossible_prices(bars[each.session]) if each.session in bars else None,
        )
        for each in summaries
        for finding in each.audit
        if finding["rule"] == "valid_prices" and finding["verdict"] == Verdict.WARN
    ]
    return sorted(found, key=lambda warning: warning.session, reverse=True)


def _list_changes(lake: LakeFiles, damaged: list[Damage]) -> ListChanges | None:
    try:
        return list_changes(lake)
    except BrokenFileError as error:
        # Each of them may be told already, with the step that mends it.
        if str(error) not in {damage.step.why for damage in damaged}:
            damaged.append(Damage(lake.store.url(layout.UNIVERSE), Step(str(error), None)))
        return None


def _universe(
    lake: LakeFiles, held: Coverage, chosen: Sequence[str] | None, damaged: list[Damage]
) -> tuple[dict[date, Narrow], tuple[str, ...]]:
    """The narrow sessions and the unlisted symbols; a damaged list is appended to `damaged`."""
    try:
        listed = lake.universe() if chosen else None
        return narrow(lake, held.published, chosen), (
            unlisted(chosen, listed[1]) if chosen and listed else ()
        )
    except BrokenFileError as error:
        damaged.append(Damage(lake.store.url(layout.UNIVERSE), Step(str(error), None)))
        return {}, ()


def _states(
    held: Coverage, first: date, due: date, few: Collection[date]
) -> dict[date, SessionState]:
    """The state of every session from the first to the end of the newest year."""
    flawed = frozenset((*held.to_repair, *few))
    begun = next((day for day, how in held.sessions.items() if how is not Held.MISSING), date.max)
    found = {
        day: SessionState.INCOMPLETE
        if how is Held.INCOMPLETE
        else (SessionState.NOT_COLLECTED if day < begun else SessionState.MISSING)
        if how is Held.MISSING
        else SessionState.FLAWED
        if day in flawed
        else SessionState.PUBLISHED
        for day, how in held.sessions.items()
    }
    tomorrow = max(first, due + timedelta(days=1))
    end = min(date(max(first, due).year, 12, 31), market_calendar.LAST)
    return found | dict.fromkeys(
        market_calendar.sessions(tomorrow, end) if tomorrow <= end else (), SessionState.NOT_DUE
    )


def _damaged(lake: LakeFiles, held: Coverage) -> list[Damage]:
    """The session files that can't be read."""
    if not held.damaged:
        return []
    places = {
        lake.store.url(key(day)): day
        for day in held.sessions
        for key in (layout.session_key, layout.incomplete_key)
    }
    return [Damage.of_session(where, places.get(where)) for where in held.damaged]


def _bars(lake: LakeFiles, days: Sequence[date], damaged: list[Damage]) -> dict[date, pa.Table]:
    """The bars of these sessions; files that can't be read are appended to `damaged`."""

    def read(day: date) -> pa.Table | None:
        key = layout.session_key(day)
        try:
            return session_file.decode_bars(lake.store.get(key), lake.store.url(key))
        except FileNotFoundError:
            return None  # removed since it was listed
        except BrokenFileError:
            damaged.append(Damage.of_session(lake.store.url(key), day))
            return None

    with ThreadPoolExecutor(lake.store.readers()) as threads:
        found = dict(zip(days, threads.map(read, days), strict=True))
    return {day: bars for day, bars in found.items() if bars is not None}


def _years(
    lake: LakeFiles,
    states: Mapping[date, SessionState],
    sessions: Mapping[date, SessionNumbers],
    damaged: list[Damage],
    today: date | None,
) -> list[YearNumbers]:
    """The numbers of each year; `today` where the running one may lag on purpose."""
    now: dict[int, dict[date, str]] = defaultdict(dict)
    versions = lake.store.versions(layout.SESSIONS)
    for day in layout.dated(layout.SESSIONS, list(versions)):
        now[day.year][day] = versions[layout.session_key(day)]
    years = [(year, list(days)) for year, days in groupby(states, key=lambda day: day.year)]

    def made_from(year: int) -> Manifest:
        try:
            return SymbolYears(lake.store).made_from(year)
        except BrokenFileError:
            where = lake.store.url(layout.manifest_key(year))
            damaged.append(Damage.of_manifest(where, year))
            return Manifest(year)

    def in_one_file(year: int) -> Manifest:
        try:
            return YearFiles(lake.store).made_from(year)
        except BrokenFileError:
            return Manifest(year)  # it is made anew, without further ado

    with ThreadPoolExecutor(lake.store.readers()) as threads:
        numbers = [year for year, _ in years]
        manifests = list(threads.map(made_from, numbers))
        files = list(threads.map(in_one_file, numbers))
    found = []
    for (year, days), manifest, file in zip(years, manifests, files, strict=True):
        published = [sessions[day] for day in days if states[day] in _PUBLISHED]
        requested = sum(each.requested for each in published)
        answered = sum(each.rows + each.no_print for each in published)
        found.append(
            YearNumbers(
                year=year,
                counts=_counts(states[day] for day in days),
                rows=sum(each.rows for each in published),
                answered=answered / requested if requested else None,
                failed=sum(each.failed + each.pending for each in published),
                behind=len(currency.behind(lake.store, manifest, now[year])),
                whole=manifest.whole or not now[year],
                follows=today and currency.follow_with(manifest, now[year], today),
                file_behind=len(currency.behind(lake.store, file, now[year])),
            )
        )
    return found


def _measures(numbers: Sequence[SessionNumbers], bars: Mapping[date, pa.Table]) -> list[Measure]:
    if not numbers:
        return []
    volumes = {day: float(pc.sum(table["volume"]).as_py() or 0) for day, table in bars.items()}
    rows: list[tuple[str, str, list[float | None]]] = [
        ("bars", "count", [each.rows for each in numbers]),
        ("volume traded", "count", [volumes.get(each.session) for each in numbers]),
        ("to retry", "count", [each.failed + each.pending for each in numbers]),
        ("success rate", "share", [each.success_rate for each in numbers]),
        ("coverage", "share", [each.coverage for each in numbers]),
        ("duration", "seconds", [each.duration for each in numbers]),
    ]
    return [
        Measure(name, unit, values[-1], [value for value in values[:-1] if value is not None])
        for name, unit, values in rows
    ]


def _stopped(tables: Sequence[pa.Table]) -> list[StoppedSymbol] | None:
    """The symbols that stopped trading in these newest sessions; None for too few sessions."""
    if len(tables) < TRADED_FOR + ABSENT_FOR:
        return None
    names = [frozenset(table["symbol"].to_pylist()) for table in tables]
    stopped = frozenset.intersection(*names[:TRADED_FOR]).difference(*names[TRADED_FOR:])
    last = tables[TRADED_FOR - 1]
    found = last.filter(pc.is_in(last["symbol"], pa.array(sorted(stopped), pa.string())))
    columns = ("symbol", "session", "close", "volume")
    rows = found.sort_by([("volume", "descending"), ("symbol", "ascending")]).select(columns)
    return [StoppedSymbol(*row.values()) for row in rows.to_pylist()]


def _usage(summaries: Iterable[Summary], per_minute: int) -> Usage | None:
    # Sessions that were collected together carry the numbers of the same collection.
    collections = {
        collection["started"]: collection
        for summary in summaries
        if "started" in (collection := summary.provenance.collection)
    }
    if not collections:
        return None
    day = max(map(datetime.fromisoformat, collections)).date()
    found = [c for started, c in collections.items() if started.startswith(day.isoformat())]
    return Usage(
        day=day,
        collections=len(found),
        requests=sum(each["requests"] for each in found),
        retries=sum(each["retries"] for each in found),
        throttled=sum(each["throttled"] for each in found),
        minutes=_busy_seconds(found) / 60,
        per_minute=per_minute,
    )


def _busy_seconds(collections: Iterable[Mapping[str, str]]) -> float:
    """Seconds during which at least one of these ran: the windows of a backfill overlap."""
    spans = sorted(
        (datetime.fromisoformat(each["started"]), datetime.fromisoformat(each["ended"]))
        for each in collections
    )
    busy, reached = 0.0, spans[0][0]
    for start, end in spans:
        busy += max(0.0, (end - max(start, reached)).total_seconds())
        reached = max(reached, end)
    return busy


def _restatements(lake: LakeFiles, damaged: list[Damage]) -> pa.Table:
    try:
        return Restatements(lake.store).newest(RESTATEMENTS)
    except BrokenFileError as error:
        damaged.append(Damage(lake.store.url(layout.RESTATEMENTS), Step(str(error), None)))
        return restatements.SCHEMA.empty_table()


def written(value: float | None, unit: str) -> str:
    """A formatted number. A share is rounded down, so that 100 % means all.

    Args:
        value: The number; None reads as a dash.
        unit: "count", "share", "seconds" or "bytes".
    """
    if value is None:
        return "–"
    if unit == "bytes":
        return _bytes(value)
    if unit == "share":
        percent = math.floor(round(value * 1e5, 6)) / 1e3
        return f"{percent:.0f} %" if percent.is_integer() else f"{percent:.3f} %"
    return f"{value:,.1f} s" if unit == "seconds" else f"{value:,.0f}"


def _bytes(size: float) -> str:
    """A size with about three digits, in units of a thousand."""
    unit = next(units := iter(("B", "kB", "MB", "GB", "TB")))
    while size >= 999.5 and unit != "TB":
        size, unit = size / 1000, next(units)
    if unit == "B" or size >= 99.95:
        return f"{size:,.0f} {unit}"
    return f"{size:.1f} {unit}" if size >= 9.995 else f"{size:.2f} {unit}"


def restated_rows(log: pa.Table) -> list[tuple[dict[str, Any], str]]:
    """Each row of a restatement log, and a description of the change."""
    return [(row, _what_changed(row)) for row in log.to_pylist()]


def _what_changed(row: Mapping[str, Any]) -> str:
    if row["change"] != "restated":
        return f"close {price_text(row['new_close' if row['change'] == 'added' else 'old_close'])}"
    return ", ".join(
        f"{name} {_whole(row[f'old_{name}'])} → {_whole(row[f'new_{name}'])}"
        for name in restatements.VALUES
        if row[f"old_{name}"] != row[f"new_{name}"]
    )


def _whole(value: object) -> str:
    """A value with all its digits, never in exponential notation."""
    if isinstance(value, float):
        return f"{value:.12f}".rstrip("0").ljust(len(f"{value:.0f}") + 2, "0")
    return str(value)


def _counts(states: Iterable[SessionState]) -> dict[SessionState, int]:
    found = dict.fromkeys(SessionState, 0)
    for state in states:
        found[state] += 1
    return found


def _listed(names: Sequence[str]) -> str:
    """The first names, and the number of others."""
    if len(names) > 3:
        return f"{', '.join(names[:2])} and {len(names) - 2:,} more years"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
