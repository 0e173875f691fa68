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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.collection.errors import (
    BadRequestError,
    CollectionError,
    PermanentError,
    RejectedSymbolError,
    StoppedError,
    TransientError,
    UnreadableError,
)
from datalake_assets.collection.plan import Chunk, Plan
from datalake_assets.collection.progress import Display, Snapshot, many
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.report import NOT_ASKED, Ledger, State, States, Statistics
from datalake_assets.collection.retry import Caller, RetryPolicy
from datalake_assets.collection.symbols import Symbols
from datalake_assets.collection.window import Block, Grid, Rows, Window, joined, ordered

_EMPTY_PAGES = 3
"""Pages in a row that may bring nothing new; one after a full page is normal."""

_WALKS = 3
"""Times that a chunk is walked from its first page when its tokens lead nowhere."""

_SEARCH = 100
"""Requests that may be sent in search of the symbols for which a request is refused. Each symbol
takes 18 among 500 (9 times both halves), so five are found; and one takes 63 if the answers with it
come damaged and are asked for six times each. What is not found by then fails; a repair goes on."""

_HOPELESS = 12
"""Requests of a search after which it ends if none was answered: refused down to a single one of
500 symbols, or damaged for both halves, six times each. It is the source then that is unwell."""

_SURELY = 10.0
"""Bars to expect of a request so that null for all of them is no ordinary answer. One symbol that
traded all year has a day without a trade now and then; ten of them at once have not."""

_TURN = 0.1
"""Seconds between two looks at a collection that runs."""

_GRACE = 1.0
"""Seconds that threads get to end after a stop. One that waits for a silent server can't be
woken; it is a daemon thread, and what it still brings is ignored."""


class OddItem(NamedTuple):
    """Something in an answer that can't be used: whose it is, of which session, and why not."""

    symbol: str
    session: date | None
    why: str


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the source.

    Args:
        bars: Rows in the schema of `bars.SCHEMA`, in the order in which they came.
        next_token: How to ask for the page after it; None at the end.
        size: Size of the decoded answer in bytes.
        odd: What else it holds and can't be used.
        nulls: Symbols beside which it says null.
        null: Does it say null instead of any bar?
        rounded: Bars whose volume had a fraction of a share.
    """

    bars: pa.Table
    next_token: str | None
    size: int = 0
    odd: tuple[OddItem, ...] = ()
    nulls: frozenset[str] = frozenset()
    null: bool = False
    rounded: int = 0

    def confirmed_by(self, again: Page) -> Page:
        """The second answer to the same question, and what only the first one had."""
        return replace(
            again,
            bars=pa.concat_tables([self.bars, again.bars]),
            odd=self.odd + again.odd,
            null=self.null and again.null,
            rounded=max(self.rounded, again.rounded),
            next_token=again.next_token or self.next_token,
        )


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
    """What became of one chunk: symbols `failed` in all of its sessions, `odd` in single ones."""

    bars: list[Rows] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    odd: dict[date, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))


@dataclass(slots=True)
class _Search:
    """The search for the symbols of a chunk for which its request is refused.

    `blocks` are what is still to be asked for, with the reason why it is asked for again; `sent`
    counts the requests since the first refusal, `asked` the blocks. `found`: did one bring an
    answer, or a name that the source rejects?
    """

    blocks: deque[tuple[tuple[str, ...], CollectionError | None]]
    sent: int = 0
    asked: int = 0
    found: bool = False

    @property
    def over(self) -> bool:
        """Is what is left given up?"""
        return self.sent >= _SEARCH or (self.sent >= _HOPELESS and not self.found)

    def next(self) -> tuple[tuple[str, ...], CollectionError | None]:
        """After both halves down to a small block, until one is answered; then the largest first.

        So a source that refuses everything is soon told from one that refuses many symbols, and a
        search that is cut off has left as few symbols as possible.
        """
        self.asked += 1
        return self.blocks.popleft() if self.found or self.asked <= 3 else self.blocks.pop()


@dataclass(frozen=True, slots=True)
class _Walk:
    """The pages of one request.

    Bars of what was asked for, odd items, symbols that were not asked for, volumes rounded.
    """

    bars: Rows
    odd: list[OddItem]
    strangers: frozenset[str]
    rounded: int


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
        dataset: Whose bars.
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
        dataset: Dataset = DAILY,
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
        symbols = Symbols.shared(symbol for chunk in plan.chunks for symbol in chunk.symbols)
        self._grid = Grid(symbols, plan.sessions, dataset)
        self._queue = deque(plan.chunks)
        self._lock = threading.Lock()
        self._outcomes: dict[Chunk, _Outcome] = {}
        self._fatal: BaseException | None = None
        self._final: Statistics | None = None
        self._ordering = threading.Lock()
        self._told: Future[list[tuple[pa.Table, Ledger]]] = Future()
        self._working = 0
        self._idle = threading.Event()
        self._bars = self._bytes = self._strays = self._odd = self._rounded = 0
        self._answered = self._failed = 0
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
        if self._queue:
            self._begin(0)
        else:
            self._idle.set()

    def _begin(self, number: int) -> None:
        """Begin a thread. Each begins the next one, as whoever begins one waits for it."""
        with self._lock:
            self._working += 1
        name = f"collect-{number}"
        try:
            threading.Thread(target=self._work, args=(number,), name=name, daemon=True).start()
        except BaseException:
            with self._lock:
                self._working -= 1
            raise

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
        """For each session of the plan, ascending: its bars, by symbol, and its ledger.

        When a collection has ended, its pages go as their bars are put in order: both of a session
        of minutes would be half a gigabyte. That is done in a thread, which no signal interrupts:
        who is interrupted while waiting for it can ask again, and loses nothing.
        """
        with ThreadPoolExecutor(1, "order") as thread:
            return iter(thread.submit(self._in_order).result())

    def _in_order(self) -> list[tuple[pa.Table, Ledger]]:
        with self._lock:
            outcomes, ended = dict(self._outcomes), self._final is not None
        if not ended:
            pages = [part for outcome in outcomes.values() for part in outcome.bars]
            return list(self._made(outcomes, pages))
        with self._ordering:
            if not self._told.done():
                pages = []
                for outcome in outcomes.values():
                    pages += outcome.bars
                    outcome.bars.clear()
                try:
                    self._told.set_result(list(self._made(outcomes, pages)))
                except BaseException as error:  # noqa: BLE001 - raised again, whenever it is asked
                    self._told.set_exception(error)
            return self._told.result()

    def _made(
        self, outcomes: Mapping[Chunk, _Outcome], pages: list[Rows]
    ) -> Iterator[tuple[pa.Table, Ledger]]:
        """The sessions of these outcomes; the list of pages is emptied."""
        grid = self._grid
        odd: dict[date, dict[str, str]] = defaultdict(dict)
        for outcome in outcomes.values():
            for day, items in outcome.odd.items():
                odd[day] |= items
        window, contradictions = ordered(
            grid,
            pages,
            # A bar beside one that can't be used contradicts it, as two different ones do.
            without=[(symbol, day) for day, items in odd.items() for symbol in items],
        )
        for symbol, day in contradictions:
            odd[day][symbol] = "the source gave two different bars for this session"
        ledgers = _ledgers(self._plan, window, outcomes, odd)
        yield from zip(window.by_session(), ledgers, strict=True)

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
            odd_bars=self._odd,
            rounded_volumes=self._rounded,
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

    def _work(self, number: int) -> None:
        """One thread: chunk after chunk, until none is left or it is told to stop."""
        try:
            if number + 1 < min(self._workers, len(self._plan.chunks)) and self._queue:
                self._begin(number + 1)
            while not self._stop.is_set() and (chunk := self._next_chunk()):
                self._record(chunk, self._collect(chunk))
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
            self._bars += sum(len(rows.cells) for rows in outcome.bars)
            odd = sum(len(items) for items in outcome.odd.values())
            self._failed += len(outcome.failed) * days + odd
            lost = len(outcome.failed) + len(outcome.rejected)
            self._answered += (len(chunk.symbols) - lost) * days - odd

    def _collect(self, chunk: Chunk) -> _Outcome:
        """Ask for the symbols of the chunk, and find those for which a request is refused.

        Where the source names the symbols that it refuses, or an answer holds others than were
        asked for, only the rest is asked for again. Where it names none, both halves are, then
        theirs, as long as `_Search` says.

        Raises:
            StoppedError: Stopped before the first answer. Stopped later, the outcome has what was
                answered until then, and the rest fails for the reason that it was asked again.
        """
        rejected = {s: self._rejected[s] for s in chunk.symbols if s in self._rejected}
        outcome = _Outcome(rejected=rejected)
        asked = tuple(symbol for symbol in chunk.symbols if symbol not in rejected)
        search = _Search(deque([(asked, None)] if asked else []))
        while search.blocks:
            symbols, reason = search.next()
            if reason is not None and search.over:
                outcome.failed |= dict.fromkeys(symbols, str(reason))
                continue
            try:
                walk = self._walk(symbols, chunk, search)
            except StoppedError:
                if reason is None:
                    raise
                for block, why in ((symbols, reason), *search.blocks):
                    outcome.failed |= dict.fromkeys(block, str(why))
                break
            except RejectedSymbolError as error:
                named = error.of(symbols) or frozenset(symbols if len(symbols) == 1 else ())
                if named:
                    search.found = True
                    outcome.rejected |= dict.fromkeys(named, str(error))
                    if left := tuple(symbol for symbol in symbols if symbol not in named):
                        search.blocks.appendleft((left, reason))
                    continue
                why, left = error, symbols
            except PermanentError as error:
                why, left = error, symbols
            else:
                search.found = True
                if not (left := self._keep(walk, symbols, chunk, outcome)):
                    continue
                why = BadRequestError(
                    f"asked for {_described(symbols, chunk)}, the source answered with bars of "
                    f"{min(walk.strangers)}, which was not asked for, and none of this symbol"
                )
            if reason is None:
                search.sent = 0  # what comes from here on is the search
            if len(symbols) == 1 or not _may_be_of_one_symbol(why):
                outcome.failed |= dict.fromkeys(left, str(why))
            elif len(left) < len(symbols):
                search.blocks.append((left, why))
            else:
                middle = len(left) // 2
                search.blocks += [(left[:middle], why), (left[middle:], why)]
        return outcome

    def _keep(
        self, walk: _Walk, symbols: tuple[str, ...], chunk: Chunk, outcome: _Outcome
    ) -> tuple[str, ...]:
        """Take what an answer holds into the outcome.

        Returns:
            The symbols of which it tells nothing: with bars of others in it, that it has none of
            theirs may be a mistake too.
        """
        outcome.bars.append(walk.bars)
        grid = self._grid
        told: frozenset[tuple[str, date]] = frozenset()
        if walk.odd or walk.strangers:
            told = frozenset(map(grid.at, walk.bars.cells.tolist()))
        for symbol, session, why in walk.odd:
            # Of which session it is may be unknown: then it may be any without a bar, or any at
            # all where a session has several.
            some = session is None and chunk.each > 1
            days = [day for day in chunk.sessions if some or (symbol, day) not in told]
            for day in (session,) if session in chunk.sessions else days:
                outcome.odd[day].setdefault(symbol, why)
        with self._lock:
            self._odd += len(walk.odd)
            self._rounded += walk.rounded
        if not walk.strangers:
            return ()
        known = {symbol for symbol, _ in told} | {item.symbol for item in walk.odd}
        return tuple(symbol for symbol in symbols if symbol not in known)

    def _walk(self, symbols: tuple[str, ...], chunk: Chunk, search: _Search) -> _Walk:
        """Follow the pages of one request to their end.

        Nothing is concluded before the last page: a symbol can straddle pages.
        """
        block = Block(self._grid, symbols, chunk.sessions)
        pages: list[Rows] = []
        seen: set[int] = set()
        for _ in range(_WALKS):
            pages, seen = [], set()
            odd: list[OddItem] = []
            strangers: set[str] = set()
            tokens: set[str] = set()
            token: str | None = None
            idle = rounded = 0
            while idle < _EMPTY_PAGES:
                page = self._ask(symbols, chunk, token, search, bool(seen))
                pages.append(self._asked_for(page, symbols, block, odd, strangers))
                rounded += page.rounded
                token = page.next_token
                if token is None:
                    return _Walk(joined(pages), odd, frozenset(strangers), rounded)
                before = len(seen)
                seen.update(pages[-1].cells.tolist())
                idle = idle + 1 if len(seen) == before else 0
                if token in tokens:
                    break
                tokens.add(token)
        raise PermanentError(
            f"the pages of {_described(symbols, chunk)} never end: after {len(pages)} pages with "
            f"{many(len(seen), 'bar')} the source still gave a token"
        )

    def _asked_for(
        self,
        page: Page,
        symbols: tuple[str, ...],
        block: Block,
        odd: list[OddItem],
        strangers: set[str],
    ) -> Rows:
        """The rows of the block; the others are counted and left out.

        Odd items of these symbols are added to `odd`, symbols that were not asked for to
        `strangers`. A name in another case is told as odd: it may be theirs (`aapl`), or another
        security (`BACpA`).
        """
        asked = frozenset(symbols)
        cells, strange = block.cells(page.bars)
        kept = Rows(page.bars, cells).asked_for()
        odd += [item for item in page.odd if item.symbol in asked]
        other = {item.symbol for item in page.odd}.difference(asked).union(strange)
        if other:
            spelt = {symbol.upper(): symbol for symbol in symbols}
            for name in sorted(other):
                if (symbol := spelt.get(name.upper())) is None:
                    strangers.add(name)
                else:
                    odd.append(OddItem(symbol, None, f"the source answered under the name {name}"))
        with self._lock:
            self._strays += len(cells) - len(kept.cells)
        return kept

    def _ask(
        self,
        symbols: tuple[str, ...],
        chunk: Chunk,
        token: str | None,
        search: _Search,
        seen: bool,
    ) -> Page:
        """One page. Null in it is asked for a second time before it is taken for no bars.

        Null instead of all bars where many were expected is no answer: it is asked for again as
        often as any other failure that can pass.
        """
        first, last = chunk.sessions[0], chunk.sessions[-1]

        def fetch() -> Page:
            search.sent += 1
            page = self._fetch(symbols, first, last, token)
            with self._lock:
                self._bytes += page.size
            return page

        def fetch_bars() -> Page:
            if (page := fetch()).null:
                raise TransientError(
                    f"null instead of the bars of {_described(symbols, chunk)}, of which "
                    f"about {expected:,.0f} were expected"
                )
            return page

        page = self._caller.call(fetch)
        if page.null or page.nulls:
            page = page.confirmed_by(self._caller.call(fetch))
        expected = 0.0 if seen else self._expected(symbols, chunk)
        if page.null and expected >= _SURELY:
            page = self._caller.call(fetch_bars)
        return page

    def _expected(self, symbols: tuple[str, ...], chunk: Chunk) -> float:
        """Bars to expect of these symbols: as the plan says, or as others had until now."""
        if chunk.expected is not None:
            return chunk.expected * len(symbols) / len(chunk.symbols)
        with self._lock:
            share = min(chunk.each, self._bars / self._answered) if self._answered else 0.0
        return share * len(symbols) * len(chunk.sessions)


def _may_be_of_one_symbol(error: CollectionError) -> bool:
    return isinstance(error, BadRequestError | RejectedSymbolError) or isinstance(
        error.__cause__, UnreadableError
    )


def _described(symbols: tuple[str, ...], chunk: Chunk) -> str:
    """The chunk for a message: how many symbols, from where to where."""
    span = f"{chunk.sessions[0]}"
    if len(chunk.sessions) > 1:
        span += f" to {chunk.sessions[-1]}"
    return f"{many(len(symbols), 'symbol')} ({symbols[0]} … {symbols[-1]}), {span}"


def _ledgers(
    plan: Plan,
    window: Window,
    outcomes: Mapping[Chunk, _Outcome],
    odd: Mapping[date, dict[str, str]],
) -> Iterator[Ledger]:
    """The state of every symbol of each session, from the outcomes of the chunks that hold it."""
    grid = window.grid
    codes = np.full(grid.shape[:2], NOT_ASKED, np.uint8)
    why: dict[date, dict[str, str]] = {day: dict(odd.get(day, {})) for day in grid.sessions}

    def put(state: State, symbols: Iterable[str], sessions: Sequence[date]) -> None:
        codes[np.ix_(grid.rows(sessions), grid.symbols.places(symbols))] = States.code(state)

    for chunk in plan.chunks:
        outcome = outcomes.get(chunk)
        put(State.NO_PRINT if outcome else State.PENDING, chunk.symbols, chunk.sessions)
    for day, items in odd.items():
        put(State.FAILED, items, [day])
    for chunk, outcome in outcomes.items():
        for state, told in (State.FAILED, outcome.failed), (State.REJECTED, outcome.rejected):
            put(state, told, chunk.sessions)
            for day in chunk.sessions if told else ():
                why[day] |= told
    if (twice := window.present & (codes != States.code(State.NO_PRINT))).any():
        row, place = np.argwhere(twice)[0].tolist()
        symbol, day = grid.symbols.names[place], grid.sessions[row]
        raise ValueError(f"{day}: two states for one symbol: {symbol} has a bar beside another")
    codes[window.present] = States.code(State.PRESENT)
    for day, states in zip(grid.sessions, States.of_rows(grid.symbols, codes), strict=True):
        yield Ledger.of(day, states, why[day])
