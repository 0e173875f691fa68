"""From a question to published sessions: plan, collect, audit, write.

Belongs here: the order of these steps, the same for Dagster, the command line and the Lambda.
Does not belong here: Dagster, or how any one step works.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from inspect import GEN_CLOSED, getgeneratorstate

import pyarrow as pa

from datalake_assets import __version__, market_calendar
from datalake_assets.collection.audit import (
    LOOKBACK,
    Case,
    Finding,
    Thresholds,
    Verdict,
    passed,
    sound,
)
from datalake_assets.collection.bars import empty
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.collect import Collection, Fetch
from datalake_assets.collection.dataset import DAILY, MINUTE, Dataset
from datalake_assets.collection.minute_totals import MinuteCounts
from datalake_assets.collection.plan import Expected, Packing, Plan, plan_windows
from datalake_assets.collection.progress import Display, many
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.report import Ledger, State, Statistics
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.collection.survey import Survey
from datalake_assets.collection.symbols import Subset
from datalake_assets.lake.fingerprint import Fingerprint
from datalake_assets.lake.session_file import Provenance, Session, hash_rows
from datalake_assets.lake.writer import (
    LakeWriter,
    StoredSession,
    Written,
    completed,
    repaired,
)
from datalake_assets.pipeline.under_way import UnderWay
from datalake_assets.storage.store import BrokenFileError, ChangedError, StoreError

_AHEAD = 16
"""Sessions that are audited before the first of them is written: threads that write have enough to
do while the next window is begun or Dagster's records are written."""

_WRITERS = 4
"""Threads that encode sessions and write them, where they wait side by side. In a folder one does
(`Store.writers`): with four a backfill took a tenth more CPU and time."""

_LISTED = 16
"""So many sessions, or more, are looked for in the lake's list, and not one by one."""


@dataclass(frozen=True, slots=True)
class CollectionOptions:
    """How to collect: everything that is the same for each session.

    Args:
        limiter: When a request may be sent.
        retry, packing, workers: As for `Collection` and `plan`.
        thresholds: What a session must reach.
        seconds: Time after which no further request is sent; None for no bound.
    """

    limiter: RateLimiter
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    packing: Packing = field(default_factory=Packing)
    workers: int = 20
    thresholds: Thresholds = field(default_factory=Thresholds)
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the bars come from, for their provenance.

    Args:
        source: As the lake's marker names it.
        listed: The day of the list of assets that the symbols were taken from.
        run_id: The Dagster run, or another caller's own mark.
    """

    source: str
    listed: date
    run_id: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """One session at the end of its way.

    Args:
        ledger: The state of each symbol, as it was written.
        findings: The audit of what was collected.
        published: Whether the session passed and is in its place.
        written: What was written; None when a repair found the published session whole, or when
            nothing was answered.
        rows: Bars of the session, as it was written.
        asked: Symbols asked for by this collection: fewer than the ledger's after a repair.
        statistics: What the collection took, shared by `sessions` sessions.
        failed: Why symbols failed in this collection, those included of which the ledger has an
            earlier answer.
        closed: Whether there was no session by the source's own calendar: a closure to declare.
        last: Whether it is the last of those that were collected together; the next one can take
            as long as its requests.
    """

    ledger: Ledger
    findings: list[Finding]
    published: bool
    written: Written | None
    rows: int
    asked: int
    statistics: Statistics
    sessions: int
    failed: Mapping[str, str] = field(default_factory=dict)
    closed: bool = False
    last: bool = True


class Publication:
    """Some sessions, collected together and published one by one.

    Args:
        wanted: The symbols to ask for in each session.
        lake: Where they go, and of which dataset; already claimed for the source.
        options: How to collect.
        survey: What is known of the years in which symbols traded, to pack by.
        expected: How many bars to expect of symbols, where that is known better than by a survey.
        repair: Start from what the lake holds and ask for its failed and pending symbols, and for
            those that are wanted and were never asked for; of one that lacks nothing and did not
            pass, for all of its symbols. A session that it does not hold, or holds damaged, is
            collected whole.
        inactive: The symbols that the source lists as inactive, which need not print.
        least: A repair asks for symbols that were never asked for only in sessions that know
            fewer symbols than this. None: in all of them.
        part: Which symbols are this collection's, of a session that several collections share; a
            repair. All others stay pending until theirs bring them, and no session is published
            before. None: all symbols are.
    """

    def __init__(
        self,
        wanted: Mapping[date, tuple[str, ...]],
        lake: LakeWriter,
        options: CollectionOptions,
        *,
        survey: Survey | None = None,
        expected: Expected | None = None,
        repair: bool = False,
        inactive: Set[str] = frozenset(),
        least: int | None = None,
        part: Callable[[str], bool] | None = None,
    ) -> None:
        self._part = part
        self._left: dict[date, frozenset[str]] = {}
        self._lake, self._options, self._inactive = lake, options, Subset.of(inactive)
        self._asked = {day: tuple(symbols) for day, symbols in wanted.items()}
        self._standing: set[date] = set()
        self._whole: set[date] = set()
        self._printed: dict[date, Subset | None] = {}
        self._minutes: dict[date, MinuteCounts | None] = {}
        for day in wanted if repair else ():
            found = None
            with suppress(BrokenFileError):  # there is nothing to start from
                found = lake.stored(day)
            if found and part is None and _hours(found) != lake.dataset.hours_name:
                continue  # minutes of other hours are asked for anew
            if not found:
                if part is not None:
                    self._standing.add(day)  # what others bring meanwhile is started from
                continue
            ledger = found.session.ledger
            narrow = least is None or len(ledger.symbols) < least
            new = frozenset(wanted[day]) - ledger.symbols if narrow else frozenset()
            missing = tuple(sorted(new.union(ledger.missing)))
            if (
                not ledger.missing
                and not found.published
                and not passed(self._audit(found.session))
            ):
                # It was answered whole and did not pass: all of it is asked for again, its own
                # symbols too: with fewer, those that are wanted now, the others would be lost.
                self._asked[day] = tuple(sorted(ledger.symbols | new))
                continue
            # Only what is missing is remembered; the bars are read again when it is there.
            self._asked[day] = missing
            self._standing.add(day)
            if found.published and not missing:
                self._whole.add(day)
        if part is not None:
            for day, symbols in self._asked.items():
                self._asked[day] = tuple(filter(part, symbols))
                self._left[day] = frozenset(wanted[day]) | frozenset(symbols)
                self._left[day] -= frozenset(self._asked[day])
        if expected is None and survey is not None and survey.covers(self._asked):
            expected = survey.expected
        self._published: set[date] = set()
        self._fresh: frozenset[date] = frozenset()
        if part is None and len(self._asked) >= _LISTED:
            self._fresh = frozenset(self._asked).difference(lake.sessions(), lake.incomplete())
        self._windows = plan_windows(self._asked, options.packing, expected, lake.dataset)

    @property
    def plan(self) -> Plan:
        """Every request that it takes when none is sent twice."""
        return Plan(tuple(chunk for _, plan in self._windows for chunk in plan.chunks))

    def run(
        self,
        fetch: Fetch,
        origin: Origin,
        *,
        display: Display | None = None,
        stop: threading.Event | None = None,
        clock: Clock | None = None,
        seconds: float | None = None,
        calendar: Callable[[date], bool | None] = lambda day: None,
    ) -> Generator[Outcome, None, None]:
        """Collect window after window; audit and write the sessions of each, ascending.

        While one window is written, the next ones are collected. Sessions are audited one after
        another; a few at a time are encoded and written by threads. When it is interrupted, the
        sessions that these threads published are told, what was answered of the others is kept as
        incomplete sessions for a repair, and the interruption goes on. `tell_each` hands an
        interruption of whoever reads the outcomes over to it. The outcome that was told last is
        told once more then: nobody knows how far its reader came.

        Args:
            fetch: Asks for a page.
            origin: Where the bars come from.
            display: Shows how far it is.
            stop: Set to end it.
            clock: What to wait by.
            seconds: Time from now after which no further request is sent; None: as the options say.
            calendar: Whether the source had a session on a day, by its own calendar; None when it
                can't say. Asked when a session brings no bar at all.

        Raises:
            RefusedError: The source refuses every request of this kind.
        """
        clock = clock or Clock()
        seconds = self._options.seconds if seconds is None else seconds
        deadline = None if seconds is None else clock.seconds() + seconds
        rejected: dict[str, str] = {}

        def collection(plan: Plan) -> Collection:
            return Collection(
                plan,
                fetch,
                limiter=self._options.limiter,
                retry=self._options.retry,
                workers=self._options.workers,
                rejected=rejected,
                stop=stop,
                deadline=deadline,
                dataset=self._lake.dataset,
                clock=clock,
            )

        at_once = self._lake.dataset.under_way
        under_way = UnderWay(self._windows, at_once, collection, display or Display(), clock)
        threads = ThreadPoolExecutor(self._lake.store.writers(_WRITERS), "publish")

        def written() -> None:
            under_way.advance()
            under_way.show()  # the next windows go on while this one is written

        try:
            for days, collected in under_way:
                yield from self._outcomes(days, collected, origin, calendar, threads, written)
                del collected  # its bars must not be held beside those of the next ones
            if fresh := self._published & self._fresh:
                # What another collection left of these since the lake was listed is done with.
                for day in fresh.intersection(self._lake.incomplete()):
                    self._clear_older(day)
        except BaseException as error:
            for days, interrupted in under_way.stop():
                try:
                    # Ctrl-C, Terminate and a signal are no `Exception`.
                    by_hand = not isinstance(error, Exception)
                    self._salvage(days, interrupted, origin, by_hand)
                except StoreError as lost:
                    error.add_note(f"what was answered besides could not be kept: {lost}")
            raise
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _outcomes(
        self,
        days: deque[date],
        collected: Collection,
        origin: Origin,
        calendar: Callable[[date], bool | None],
        threads: ThreadPoolExecutor,
        written: Callable[[], None],
    ) -> Generator[Outcome, None, None]:
        """Audit and write the sessions of a window, which are taken off as they are written.

        `written` is called after each of them.
        """
        statistics, together = collected.statistics, len(days)
        provenance = _provenance(origin, statistics, self._lake.dataset)
        found = {ledger.session: (bars, ledger) for bars, ledger in collected.sessions()}
        hashes: Mapping[date, Fingerprint] = {}
        fine: Set[date] = frozenset()
        if len(found) > 1 and not self._lake.dataset.several:
            rows = list(found.values())
            hashes, fine = hash_rows(rows), sound(rows)
        # A repair asks nothing for a session that has all it can have.
        nothing = empty()

        def audited(day: date) -> _Audited:
            bars, ledger = found.get(day, (nothing, Ledger(day)))
            session, replacing = self._session(bars, ledger, provenance)
            findings = self._audit(session, sound=session.bars is bars and day in fine)
            # What a repair put together is hashed by itself.
            hashed = hashes.get(day) if session.bars is bars else None
            return self._audited(session, replacing, findings, calendar, hashed)

        def begin(audited: _Audited) -> None:
            # Called when it stands in `ahead`: what a thread publishes is never out of sight.
            if audited.good and audited.session.ledger.session not in self._whole:
                audited.published = threads.submit(self._publish, audited)
            self._remember(audited)

        def outcome(audited: _Audited, stored: Written | None) -> Outcome:
            day = audited.session.ledger.session
            if audited.good:
                self._published.add(day)
            return Outcome(
                ledger=stored.ledger if stored and stored.ledger else audited.session.ledger,
                findings=audited.findings,
                published=audited.good,
                written=stored,
                rows=stored.rows if stored else audited.session.bars.num_rows,
                asked=len(self._asked[day]),
                statistics=statistics,
                sessions=together,
                failed=audited.session.ledger.failed,
                closed=audited.closed,
                last=not days,
            )

        ahead: deque[_Audited] = deque()
        most = _AHEAD
        try:
            while days:
                try:
                    for day in list(days)[len(ahead) : most]:
                        ahead.append(audited(day))
                        begin(ahead[-1])
                except StoreError:
                    if not ahead:
                        raise
                    most = 1  # its turn comes again when those before it are written
                try:
                    stored = self._write(ahead[0])
                except ChangedError:
                    # Another repair wrote it since it was read: these answers go on top of that.
                    self._forget(ahead.popleft())
                    ahead.appendleft(audited(days[0]))
                    begin(ahead[0])
                    continue
                if stored and stored.ledger and stored.ledger != ahead[0].known:
                    # Somebody else published it as well: those audited from now on know that.
                    self._forget(ahead[0])
                days.popleft()
                ahead[0].outcome = outcome(ahead[0], stored)
                yield ahead[0].outcome
                ahead.popleft()
                written()
                most = most if ahead else _AHEAD
        except BaseException as error:
            threads.shutdown(cancel_futures=True)  # what is being written is written
            ended = [each for each in ahead if each.outcome or each.written]
            for each in ended:
                if (day := each.session.ledger.session) in days:
                    days.remove(day)
            if not isinstance(error, GeneratorExit):  # who closes it hears no more
                for each in ended:
                    yield each.outcome or outcome(each, each.written)
            raise

    def _audited(
        self,
        session: Session,
        replacing: StoredSession | None,
        findings: list[Finding],
        calendar: Callable[[date], bool | None],
        hashed: Fingerprint | None,
    ) -> _Audited:
        """A session, with what its audit comes to."""
        ledger = session.ledger
        findings, closed = _held_against(calendar, ledger, findings)
        if self._part is not None:
            findings = _whole_only(findings, ledger)
        return _Audited(session, replacing, findings, closed, hashed)

    def _publish(self, audited: _Audited) -> Written:
        """Publish a session, in a thread of its own."""
        session, replacing = audited.session, audited.replacing
        fresh = not replacing and session.ledger.session in self._fresh
        audited.written = self._lake.publish(
            session, audited.findings, replacing, audited.hashed, fresh=fresh
        )
        return audited.written

    def _remember(self, audited: _Audited) -> None:
        """Let the sessions after it know who printed in a session that passed."""
        if not audited.good:
            return
        ledger, published = audited.session.ledger, audited.published
        if published and ledger.missing and not published.exception():
            # What the lake had of these stays.
            ledger = published.result().ledger or ledger
        audited.known, states = ledger, ledger.states
        self._printed[ledger.session] = Subset(states.symbols, states.bits(State.PRESENT))

    def _write(self, audited: _Audited) -> Written | None:
        """Wait until a session is published, or keep it as incomplete.

        Returns:
            None when there is nothing to write.

        Raises:
            ChangedError: Somebody else wrote it since it was read for its repair.
        """
        session, findings, replacing = audited.session, audited.findings, audited.replacing
        day = session.ledger.session
        if audited.closed:
            return None  # there is nothing to keep, and nothing that a repair could ask for
        if audited.published:
            return audited.published.result()
        if audited.good and replacing and replacing.published:
            # Not a newer one, which another collection left since: its answers are later.
            self._lake.clear_incomplete(day)
        elif day not in self._whole and _tells_something(session.ledger):
            alone = self._part is None
            return self._lake.keep_incomplete(session, findings, replacing, alone=alone)
        return None

    def _clear_older(self, day: date) -> None:
        """Remove what waits of a published session, unless that was collected later."""
        with suppress(BrokenFileError):  # told by whoever looks for damage
            if (standing := self._lake.stored(day)) and standing.published:
                self._lake.clear_incomplete(day)

    def _forget(self, audited: _Audited) -> None:
        """Look for what is published of it when sessions after it are audited."""
        self._printed.pop(audited.session.ledger.session, None)
        self._minutes.pop(audited.session.ledger.session, None)

    def _salvage(
        self,
        days: deque[date],
        collection: Collection,
        origin: Origin,
        by_hand: bool,
    ) -> None:
        """Keep what was answered of these sessions; not audited, as it is not whole."""
        provenance = _provenance(origin, collection.statistics, self._lake.dataset)
        provenance = replace(provenance, interrupted=by_hand)

        def keep(bars: pa.Table, ledger: Ledger) -> None:
            session, replacing = self._session(bars, ledger, provenance)
            # Another repair's may stand there now; then this one's answers are asked again.
            with suppress(ChangedError):
                self._lake.keep_incomplete(session, [], replacing, alone=self._part is None)

        threads = ThreadPoolExecutor(self._lake.store.writers(_WRITERS), "keep")
        try:
            kept = [
                threads.submit(keep, bars, ledger)
                for bars, ledger in collection.sessions()
                if ledger.session in days and _tells_something(ledger)
            ]
            # A store that fails one will fail the others, each after a minute of trying.
            for waiting in wait(kept, return_when=FIRST_EXCEPTION).not_done:
                waiting.cancel()
            for each in kept:
                if not each.cancelled():
                    each.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _with_what_waits(self, session: Session) -> tuple[Session, StoredSession | None]:
        """The session with the answers that wait for its repair: none is asked for twice.

        Returns:
            And what waits; None when nothing does, and the session is as it was.
        """
        waiting = None
        with suppress(BrokenFileError):  # a damaged one has no answers
            waiting = self._lake.stored(session.ledger.session)
        if not waiting or waiting.published or not _tells_something(session.ledger):
            return session, None
        if waiting.session.ledger.session != session.ledger.session:
            return session, None  # somebody put another session in its place
        return completed(session, waiting.session), waiting

    def _session(
        self, bars: pa.Table, ledger: Ledger, provenance: Provenance
    ) -> tuple[Session, StoredSession | None]:
        """What was collected, on top of what a repair starts from or of what waits, and that."""
        if self._part is not None:
            return self._shared(bars, ledger, provenance)
        replacing = self._lake.stored(ledger.session) if ledger.session in self._standing else None
        if replacing:
            bars, ledger = repaired(replacing.session, bars, ledger)
        session = Session(bars, ledger, provenance)
        # Also when it is good enough without: what waits is later than what is published of them.
        return (
            self._with_what_waits(session)
            if not replacing and ledger.missing
            else (session, replacing)
        )

    def _shared(
        self, bars: pa.Table, ledger: Ledger, provenance: Provenance
    ) -> tuple[Session, StoredSession | None]:
        """What was collected of a session that others collect, too, on top of what they brought.

        It is looked at whenever this one is to be written: another one may have been there since.
        """
        day = ledger.session
        standing = self._lake.stored(day)
        if standing and day in self._standing:
            known = standing.session.ledger.symbols
            ledger = ledger.with_pending(self._left[day] - known)
            bars, ledger = repaired(standing.session, bars, ledger)
            return Session(bars, ledger, provenance), standing
        if not standing:
            return Session(bars, ledger.with_pending(self._left[day]), provenance), None
        # It was whole and did not pass: this collection's answers take the place of earlier ones.
        earlier = standing.session.ledger.rejected
        rejected = {name: why for name, why in earlier.items() if name in self._left[day]}
        ledger = replace(ledger, rejected={**rejected, **ledger.rejected})
        session = Session(bars, ledger.with_pending(self._left[day]), provenance)
        return completed(session, standing.session), standing

    def _audit(self, session: Session, *, sound: bool = False) -> list[Finding]:
        before = market_calendar.previous_sessions(session.ledger.session, LOOKBACK)
        unread = [day for day in before if day not in self._printed]
        found = self._lake.printed(unread)
        self._printed |= {day: Subset.of(found[day]) if day in found else None for day in unread}
        dataset = self._lake.dataset
        if dataset.rules.needs_daily:
            # The same footers tell of both.
            self._minutes |= {day: _minutes_of(found, day) for day in unread}
        # Only these are looked at again, and later ones that are being published: those of 15 years
        # would take more than a gigabyte.
        day = session.ledger.session
        self._printed = {
            each: told for each, told in self._printed.items() if each in before or each > day
        }
        printed = [told for each in before if (told := self._printed[each]) is not None]
        if not printed and not session.ledger.present:
            printed = self._printed_last(session.ledger.session)
        case = Case(
            session.bars,
            session.ledger,
            printed,
            self._options.thresholds,
            self._inactive,
            sound=sound,
        )
        if dataset.rules.needs_daily:
            case = self._with_daily(case, before)
        return dataset.rules.judge(case)

    def _with_daily(self, case: Case, before: Sequence[date]) -> Case:
        """The case of a session of minutes, with its daily bars and the minutes before it."""
        day, dataset = case.ledger.session, self._lake.dataset
        # Of those that this run published it is known who printed, and not how often.
        unread = [each for each in before if each not in self._minutes]
        found = self._lake.printed(unread)
        self._minutes |= {each: _minutes_of(found, each) for each in unread}
        self._minutes = {each: self._minutes[each] for each in before}
        daily = None
        with suppress(FileNotFoundError, BrokenFileError):  # then nothing is known of it
            daily = self._lake.of(DAILY).read(day).bars
        known = [counts for counts in self._minutes.values() if counts is not None]
        return replace(case, hours=dataset.hours(day), daily=daily, minutes_before=known)

    def _printed_last(self, day: date) -> list[Subset]:
        """The symbols that printed in the newest published session before this one, if any.

        When none of the sessions just before is published, a session without a bar has nothing to
        be held against: a source that went silent would be believed as soon as it had been so for
        a week.
        """
        earlier = [each for each in self._lake.sessions() if each < day]
        return [Subset.of(symbols) for symbols in self._lake.printed(earlier[-1:]).values()]


def tell_each(outcomes: Generator[Outcome, None, None], tell: Callable[[Outcome], None]) -> None:
    """Call `tell` with each outcome of a run.

    If that fails or is interrupted, the run ends by the same error, and the sessions that its
    threads published by then are told before. A plain `for` loop would leave them untold.

    `tell` gets the one that it was interrupted with again, and must not count it twice.
    """
    failed: BaseException | None = None
    while True:
        try:
            outcome = outcomes.throw(failed) if failed is not None else next(outcomes, None)
            while outcome:
                tell(outcome)
                outcome = next(outcomes, None)
            return
        except BaseException as error:
            if getgeneratorstate(outcomes) == GEN_CLOSED:
                raise
            failed = error


@dataclass(slots=True)
class _Audited:
    """A session that is being published, or waits to be kept as incomplete.

    Args:
        session: The session.
        replacing: What it is a repair of.
        findings: Its audit.
        closed: As for `Outcome`.
        hashed: What its rows hash to, where that is known.
        published: What publishing it does, when it passed.
        written: What publishing it did, once it is published.
        known: Its ledger as the sessions after it are held against it, when it passed.
        outcome: What is told of it, once that is known.
    """

    session: Session
    replacing: StoredSession | None
    findings: list[Finding]
    closed: bool
    hashed: Fingerprint | None
    published: Future[Written] | None = None
    written: Written | None = None
    known: Ledger | None = None
    outcome: Outcome | None = None

    @property
    def good(self) -> bool:
        """Did it pass?"""
        return passed(self.findings)


def _minutes_of(found: Mapping[date, Mapping[str, int]], day: date) -> MinuteCounts | None:
    """How many minutes each symbol has in a session, by its bars; None when nobody can tell."""
    return MinuteCounts.of_rows(found[day], MINUTE.bars(day)) if day in found else None


def _hours(stored: StoredSession) -> str | None:
    return stored.session.provenance.hours


def _provenance(origin: Origin, statistics: Statistics, dataset: Dataset) -> Provenance:
    """Of all sessions that were collected together."""
    return Provenance(
        collected_at=statistics.ended,
        source=origin.source,
        listed=origin.listed,
        run_id=origin.run_id,
        version=__version__,
        collection=statistics.to_dict(),
        hours=dataset.hours_name,
    )


def _held_against(
    calendar: Callable[[date], bool | None], ledger: Ledger, findings: list[Finding]
) -> tuple[list[Finding], bool]:
    """The findings, with what the source's calendar says of a session that brought no bar at all.

    Returns:
        And whether there was no session by that calendar.
    """
    if ledger.present or not ledger.no_print or (held := calendar(ledger.session)) is None:
        return findings, False
    verdict, more = None, "the source's calendar has a session on this day"
    if not held:
        verdict = Verdict.FAIL
        more = (
            f"no symbol has a bar, and the source's calendar has no session on {ledger.session}: "
            f"the exchange was closed. Declare it: {market_calendar.declaration(ledger.session)}"
        )
    told = [
        replace(one, verdict=verdict or one.verdict, detail=f"{one.detail}; {more}")
        if one.rule == "coverage"
        else one
        for one in findings
    ]
    return told, not held


def _whole_only(findings: list[Finding], ledger: Ledger) -> list[Finding]:
    """The findings, by which no session passes while other collections have to bring a part."""
    if not ledger.pending:
        return findings
    more = f"{many(len(ledger.pending), 'symbol')} to be collected yet, such as {ledger.pending[0]}"
    return [
        replace(one, verdict=Verdict.FAIL, detail=f"{one.detail}; {more}")
        if one.rule == "success_rate"
        else one
        for one in findings
    ]


def _tells_something(ledger: Ledger) -> bool:
    """Is anything known of the session? One that was never asked for needs no file."""
    return len(ledger.pending) < ledger.requested
