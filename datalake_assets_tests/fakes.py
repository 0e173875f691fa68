"""Stand-ins for time and for the source, so that a collection is tested without waiting.

Belongs here: subclasses of the package's ports that more than one test file uses. Does not belong
here: fixtures (`conftest`), and tables of bars to fill them with.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets.collection import bars as bars_table
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.collect import Page
from datalake_assets.collection.errors import RejectedSymbolError


class FakeClock(Clock):
    """Time that stands still until somebody waits.

    Args:
        crowd: Threads that live by this clock. Time moves on when all of them wait, to the first
            instant that one waits for: nobody wakes late, as on a machine that is never busy.
            With one, whoever waits moves it at once. A thread that ends must `leave`.
        start: The first reading.
    """

    def __init__(self, crowd: int = 1, start: float = 1_000.0) -> None:
        self._crowd, self._start, self._seconds = crowd, start, start
        self._awaited: list[float] = []
        self._moved = threading.Condition()

    def seconds(self) -> float:
        with self._moved:
            return self._seconds

    def now(self) -> datetime:
        elapsed = self.seconds() - self._start
        return datetime(2024, 7, 3, 21, tzinfo=UTC) + timedelta(seconds=elapsed)

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        with self._moved:
            until = self._seconds + seconds
            if until > self._seconds and not stop.is_set():
                self._awaited.append(until)
                self._move()
                while self._seconds < until and not stop.is_set():
                    self._moved.wait(0.01)  # a stop is not announced here: look for it
                if self._seconds < until:
                    self._awaited.remove(until)
            return stop.is_set()

    def advance(self, seconds: float) -> None:
        """Let time pass without anybody waiting."""
        with self._moved:
            self._seconds += seconds

    def leave(self) -> None:
        """One of the crowd has ended: the others' time goes on without it."""
        with self._moved:
            self._crowd -= 1
            self._move()

    def _move(self) -> None:
        if self._awaited and len(self._awaited) >= self._crowd:
            self._seconds = max(self._seconds, min(self._awaited))
            self._awaited = [until for until in self._awaited if until > self._seconds]
            self._moved.notify_all()


@dataclass(frozen=True, slots=True)
class Request:
    """What a `ScriptedSource` was asked; `number` counts from 0."""

    number: int
    symbols: tuple[str, ...]
    first: date
    last: date
    token: str | None

    @property
    def offset(self) -> int:
        """Bars on the pages before it. A token is this number, then whatever tells it apart."""
        return int(self.token.partition("/")[0]) if self.token else 0


Fault = Exception | Callable[[Page, Request], Page]
"""What goes wrong with a request: the error raised instead of an answer, or the answer spoiled."""


class ScriptedSource:
    """A source that answers from a table, in Alpaca's order and pages, and errs by a script.

    Args:
        bars: All bars that it has.
        script: For the number of a request, counted from 0, what goes wrong with it.
        page_limit: Bars of one page at most. A full page has a token, even if nothing follows.
        malformed: Names of which one is enough to refuse a whole request.
        named: Does the refusal tell the name?
    """

    def __init__(
        self,
        bars: pa.Table,
        script: Callable[[int], Fault | None] = lambda number: None,
        *,
        page_limit: int = 10_000,
        malformed: Iterable[str] = (),
        named: bool = True,
    ) -> None:
        self._bars = bars.sort_by([("symbol", "ascending"), ("session", "ascending")])
        self._script, self._page_limit = script, page_limit
        self._malformed, self._named = frozenset(malformed), named
        self._lock = threading.Lock()
        self.requests: list[Request] = []

    def __call__(
        self, symbols: tuple[str, ...], first: date, last: date, page_token: str | None
    ) -> Page:
        with self._lock:
            request = Request(len(self.requests), symbols, first, last, page_token)
            self.requests.append(request)
        fault = self._script(request.number)
        if isinstance(fault, Exception):
            raise fault
        if refused := sorted(self._malformed.intersection(symbols)):
            name = refused[:1] if self._named else []
            raise RejectedSymbolError(f"invalid symbol: {' '.join(name) or 'one of them'}", *name)
        page = self._page(request)
        return fault(page, request) if fault else page

    def _page(self, request: Request) -> Page:
        asked = pc.is_in(self._bars["symbol"], pa.array(request.symbols, pa.string()))
        for bound in (
            pc.greater_equal(self._bars["session"], pa.scalar(request.first, pa.date32())),
            pc.less_equal(self._bars["session"], pa.scalar(request.last, pa.date32())),
        ):
            asked = pc.and_(asked, bound)
        rows = self._bars.filter(asked).slice(request.offset, self._page_limit)
        full = rows.num_rows == self._page_limit
        token = str(request.offset + rows.num_rows) if full else None
        return Page(pa.concat_tables([bars_table.empty(), rows]), token, size=rows.nbytes)
