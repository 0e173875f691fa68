"""Collecting a plan with threads: every chunk asked for, every symbol accounted for.

Belongs here: the worker threads, following page tokens, leaving out what the source rejects, and
turning what came into one table and one ledger per session. Does not belong here: how a request
is sent and an answer decoded (`sources`), or what is good enough (`audit`).
"""

from __future__ import annotations

import math
import random
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.collection import bars as bars_table
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import (
    OddBarError,
    PermanentError,
    RejectedSymbolError,
    StoppedError,
    UnreadableError,
)
from datalake_assets.collection.plan import Chunk, Plan
from datalake_assets.collection.progress import Display, Snapshot
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.report import Ledger, Statistics
from datalake_assets.collection.retry import Caller, RetryPolicy

_EMPTY_PAGES = 3
"""Pages in a row that may bring nothing new; one after a full page is normal."""

_WALKS = 3
"""Times that a chunk is walked from its first page when its tokens lead nowhere."""

_TURN = 0.1
"""Seconds between two looks at a collection that runs."""

_GRACE = 1.0
"""Seconds that threads get to end after a stop. One that waits for a silent server can't be
woken; it is a daemon thread, and what it still brings is ignored."""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the source.

    Args:
        bars: Rows in the schema of `bars.SCHEMA`, in the order in which they came.
        next_token: How to ask for the page after it; None at the end.
        size: Size of the decoded answer in bytes.
    """

    bars: pa.Table
    next_token: str | None
    size: int = 0


class Fetch(Protocol):
    """Sends one request and decodes its answer: the port through which bars come in.

    It raises the classes of `collection.errors` and nothing else for what the source does wrong.
    It must be safe to call from several threads.
    """

    def __call__(
        self, symbols: tuple[str, ...], first: date, last: date, page_token: str | None
    ) -> Page:
        """One page of the bars of these symbols, from the first to the last session."""
        ...


@dataclass(slots=True)
class _Outcome:
    """What became of one chunk."""

    bars: list[pa.Table] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)


class Collection:
    """One plan being collected.

    It can be asked for its sessions at any moment, also after `run` was interrupted: what was
    not answered then is pending.

    Args:
        plan: What to ask for.
        fetch: How one page is had.
        limiter: When a request may be sent; shared by all who use the account.
        retry: How often and how long a request is tried again.
        workers: Threads.
        rejected: Names that the source has called no symbols, with what it said. They are not
            asked for again, and new ones are added: collections of one run share it.
        stop: Set from outside to stop early; takes effect within about a second.
        deadline: Reading of the clock after which no request is sent.
        display: Where progress is shown.
        label: What is being collected, for people.
        clock, draw: Time, and random numbers from 0 to below 1.
    """

    def __init__(
        self,
        plan: Plan,
        fetch: Fetch,
        *,
        limiter: RateLimiter,
        retry: RetryPolicy | None = None,
        workers: int = 20,
        rejected: dict[str, str] | None = None,
        stop: threading.Event | None = None,
        deadline: float | None = None,
        display: Display | None = None,
        label: str = "",
        clock: Clock | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if workers < 1:
            raise ValueError(f"collecting takes at least one thread, not {workers}")
        self._plan, self._fetch, self._workers = plan, fetch, workers
        self._rejected = {} if rejected is None else rejected
        self._stop_outside, self._stop = stop or threading.Event(), threading.Event()
        self._deadline = math.inf if deadline is None else deadline
        self._display, self._label = display or Display(), label
        self._clock = clock or Clock()
        self._caller = Caller(
            limiter,
            retry,
            stop=self._stop,
            deadline=self._deadline,
            clock=self._clock,
            draw=draw,
        )
        self._queue = deque(plan.chunks)
        self._lock = threading.Lock()
        self._outcomes: dict[Chunk, _Outcome] = {}
        self._fatal: BaseException | None = None
        self._final: Statistics | None = None
        self._working = 0
        self._idle = threading.Event()
        self._bars = self._bytes = self._strays = self._answered = self._failed = 0
        self._began = self._clock.seconds()
        self._started = self._ended = self._clock.now()
        self._seconds = 0.0

    def run(self) -> None:
        """Collect until every chunk has its outcome, or the stop or the deadline comes.

        Raises:
            RefusedError: The source refuses every request of this kind (keys, plan, range).
            BaseException: Whatever interrupted the wait (a terminated run, Ctrl-C) passes
                through, after the threads were told to end.
        """
        self.start()
        try:
            while not self.wait(_TURN):
                self._display.show(self.snapshot(), final=False)
        finally:
            self.stop()
            self._display.show(self.snapshot(), final=True)

    def start(self) -> None:
        """Begin to collect; the threads end by themselves."""
        self._began, self._started = self._clock.seconds(), self._clock.now()
        self._working = min(self._workers, len(self._queue))
        if not self._working:
            self._idle.set()
        for number in range(self._working):
            threading.Thread(target=self._work, name=f"collect-{number}", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait for the end, in short turns that let a signal in; True when it has come.

        Raises:
            RefusedError: As `run`.
        """
        ended = (
            self._idle.wait(seconds)
            # Told to stop from outside, or by a thread whose request was refused.
            or self._stop_outside.is_set()
            or self._stop.is_set()
            or self._clock.seconds() >= self._deadline
        )
        if ended:
            self.stop()
            if self._fatal is not None:
                raise self._fatal
        return ended

    @property
    def drained(self) -> bool:
        """Is every chunk taken by a thread, so that the next collection can begin to ask?"""
        return not self._queue

    def stop(self) -> None:
        """Tell the threads to end, and give them a moment to bring in what they have."""
        self._stop.set()
        if self._working:
            self._idle.wait(_GRACE)
        with self._lock:
            if self._final is None:
                self._ended = self._clock.now()
                self._seconds = self._clock.seconds() - self._began
                self._final = self._count()

    def sessions(self) -> Iterator[tuple[pa.Table, Ledger]]:
        """For each session of the plan, ascending: its bars, by symbol, and its ledger."""
        with self._lock:
            outcomes = dict(self._outcomes)
        table, contradictions = bars_table.combine(
            part for outcome in outcomes.values() for part in outcome.bars
        )
        found = dict(bars_table.by_session(table))
        clashes: dict[date, dict[str, str]] = defaultdict(dict)
        for symbol, day in contradictions:
            clashes[day][symbol] = "the source gave two different bars for this session"
        nothing = bars_table.empty()
        chunks: dict[date, list[Chunk]] = defaultdict(list)
        for chunk in self._plan.chunks:
            for day in chunk.sessions:
                chunks[day].append(chunk)
        for day in self._plan.sessions:
            bars = found.get(day, nothing)
            yield bars, _ledger(day, bars, chunks[day], outcomes, clashes[day])

    @property
    def statistics(self) -> Statistics:
        """What the collection took; does not change any more when it has ended."""
        with self._lock:
            return self._final or self._count()

    def _count(self) -> Statistics:
        return Statistics(
            started=self._started,
            ended=self._ended,
            duration_seconds=self._seconds,
            planned_requests=self._plan.requests,
            requests=self._caller.requests,
            retries=self._caller.retries,
            throttled=self._caller.throttled,
            limiter_wait_seconds=self._caller.limiter_wait_seconds,
            bars=self._bars,
            bytes_received=self._bytes,
            stray_bars=self._strays,
        )

    def snapshot(self) -> Snapshot:
        """The collection as it is."""
        with self._lock:
            return Snapshot(
                label=self._label,
                chunks=len(self._plan.chunks),
                chunks_done=len(self._outcomes),
                symbols_ok=self._answered,
                symbols_failed=self._failed,
                bars=self._bars,
                requests=self._caller.requests,
                retries=self._caller.retries,
                throttled=self._caller.throttled,
                seconds=self._seconds if self._final else self._clock.seconds() - self._began,
            )

    def _work(self) -> None:
        """One thread: chunk after chunk, until none is left or it is told to stop."""
        try:
            while not self._stop.is_set() and (chunk := self._next_chunk()):
                self._record(chunk, self._collect(chunk.symbols, chunk))
        except StoppedError:
            pass  # its chunk stays pending
        except BaseException as error:  # noqa: BLE001 - `run` raises it again
            # Refused, or a defect: no thread needs to go on.
            with self._lock:
                self._fatal = self._fatal or error
            self._stop.set()
        finally:
            with self._lock:
                self._working -= 1
                if not self._working:
                    self._idle.set()

    def _next_chunk(self) -> Chunk | None:
        with self._lock:
            return self._queue.popleft() if self._queue else None

    def _record(self, chunk: Chunk, outcome: _Outcome) -> None:
        with self._lock:
            if self._final is not None:
                return
            self._outcomes[chunk] = outcome
            self._rejected |= outcome.rejected
            days = len(chunk.sessions)
            self._bars += sum(table.num_rows for table in outcome.bars)
            self._failed += len(outcome.failed) * days
            lost = len(outcome.failed) + len(outcome.rejected)
            self._answered += (len(chunk.symbols) - lost) * days

    def _collect(self, symbols: tuple[str, ...], chunk: Chunk) -> _Outcome:
        """Ask for these symbols of the chunk, leaving out what the source calls no symbol."""
        outcome = _Outcome(rejected={s: self._rejected[s] for s in symbols if s in self._rejected})
        symbols = tuple(symbol for symbol in symbols if symbol not in outcome.rejected)
        while symbols:
            try:
                outcome.bars.append(self._walk(symbols, chunk))
                break
            except RejectedSymbolError as error:
                if error.symbol in symbols:
                    outcome.rejected[error.symbol] = str(error)
                    symbols = tuple(symbol for symbol in symbols if symbol != error.symbol)
                elif len(symbols) == 1:
                    outcome.rejected[symbols[0]] = str(error)
                    break
                else:
                    # It names none of ours: halve until the one that it means stands alone.
                    middle = len(symbols) // 2
                    for half in (symbols[:middle], symbols[middle:]):
                        part = self._collect(half, chunk)
                        outcome.bars += part.bars
                        outcome.failed |= part.failed
                        outcome.rejected |= part.rejected
                    break
            except PermanentError as error:
                outcome.failed |= self._without_odd_bars(symbols, chunk, error, outcome.bars)
                break
        return outcome

    def _without_odd_bars(
        self, symbols: tuple[str, ...], chunk: Chunk, error: PermanentError, bars: list[pa.Table]
    ) -> dict[str, str]:
        """After an error, ask for those symbols of which there is an answer without it.

        Halves as long as one half is well: so one symbol is found, and a source that is unwell
        itself is not asked a thousand times. Stopped meanwhile, it keeps the answers it has.

        Returns:
            Those of which there is none, with the last error.
        """
        failed = {symbols: error}
        while len(symbols) > 1 and len(failed) == 1 and _about_a_bar(error):
            middle = len(symbols) // 2
            failed = {}
            for half in (symbols[:middle], symbols[middle:]):
                try:
                    bars.append(self._walk(half, chunk))
                except (PermanentError, StoppedError) as again:
                    if isinstance(again, PermanentError):
                        error = again  # else it is that of the request with both halves
                    failed[half], symbols = error, half
        return {symbol: str(why) for half, why in failed.items() for symbol in half}

    def _walk(self, symbols: tuple[str, ...], chunk: Chunk) -> pa.Table:
        """Follow the pages of one request to their end.

        Nothing is concluded before the last page: a symbol can straddle pages.
        """
        pages: list[pa.Table] = []
        seen: set[tuple[str, date]] = set()
        for _ in range(_WALKS):
            pages, seen = [], set()
            tokens: set[str] = set()
            token: str | None = None
            idle = 0
            while idle < _EMPTY_PAGES:
                page = self._ask(symbols, chunk, token)
                pages.append(self._asked_for(page.bars, symbols, chunk))
                token = page.next_token
                if token is None:
                    return pa.concat_tables(pages)
                before = len(seen)
                seen |= _keys(pages[-1])
                idle = idle + 1 if len(seen) == before else 0
                if token in tokens:
                    break
                tokens.add(token)
        raise PermanentError(
            f"the pages of {_described(symbols, chunk)} never end: after {len(pages)} pages with "
            f"{len(seen):,} bars the source still gave a token"
        )

    def _asked_for(self, table: pa.Table, symbols: tuple[str, ...], chunk: Chunk) -> pa.Table:
        """The rows of the chunk's sessions; days in between that are no session are left out.

        Raises:
            PermanentError: There are bars of a symbol that was not asked for.
        """
        if strangers := frozenset(pc.unique(table["symbol"]).to_pylist()).difference(symbols):
            raise PermanentError(
                f"asked for {_described(symbols, chunk)}, the source answered with bars of "
                f"{min(strangers)}: this is no answer to the question"
            )
        wanted = pc.is_in(table["session"], pa.array(chunk.sessions, pa.date32()))
        kept = table.filter(wanted)
        if strays := table.num_rows - kept.num_rows:
            with self._lock:
                self._strays += strays
        return kept

    def _ask(self, symbols: tuple[str, ...], chunk: Chunk, token: str | None) -> Page:
        first, last = chunk.sessions[0], chunk.sessions[-1]
        page = self._caller.call(lambda: self._fetch(symbols, first, last, token))
        with self._lock:
            self._bytes += page.size
        return page


def _about_a_bar(error: PermanentError) -> bool:
    return isinstance(error, OddBarError) or isinstance(error.__cause__, UnreadableError)


def _keys(table: pa.Table) -> set[tuple[str, date]]:
    return set(zip(table["symbol"].to_pylist(), table["session"].to_pylist(), strict=True))


def _described(symbols: tuple[str, ...], chunk: Chunk) -> str:
    """The chunk for a message: how many symbols, from where to where."""
    span = f"{chunk.sessions[0]}"
    if len(chunk.sessions) > 1:
        span += f" to {chunk.sessions[-1]}"
    return f"{len(symbols)} symbols ({symbols[0]} … {symbols[-1]}), {span}"


def _ledger(
    day: date,
    bars: pa.Table,
    chunks: list[Chunk],
    outcomes: dict[Chunk, _Outcome],
    clashes: dict[str, str],
) -> Ledger:
    """The state of every symbol of the session, from the outcomes of the chunks that hold it."""
    present = frozenset(bars["symbol"].to_pylist())
    failed, rejected = dict(clashes), dict[str, str]()
    pending: list[str] = []
    no_print: list[str] = []
    for chunk in chunks:
        outcome = outcomes.get(chunk)
        if outcome is None:
            pending += chunk.symbols
            continue
        failed |= outcome.failed
        rejected |= outcome.rejected
        no_print += [
            symbol
            for symbol in chunk.symbols
            if symbol not in present and symbol not in failed and symbol not in rejected
        ]
    return Ledger(day, tuple(present), tuple(no_print), failed, tuple(pending), rejected)
