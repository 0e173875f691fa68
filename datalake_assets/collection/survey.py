"""The survey: in which years each symbol traded, so that requests are packed by expected bars.

Belongs here: requesting bars of whole years, and estimating how many bars to expect of a symbol in
some sessions. Does not belong here: concluding that a symbol has no bar. Every symbol is requested
in every session; one without bars takes no room on a page, only its name in a request, so it is
added to the requests of others.

The source has no dates of listing or delisting. Planning as if all symbols had always traded takes
a quarter more requests over 15 years. Yearly bars take a dozen requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import groupby
from typing import Protocol

from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import PermanentError, RejectedSymbolError
from datalake_assets.collection.progress import Display, Snapshot, many
from datalake_assets.collection.retry import Caller

_PAGES = 20
"""The most pages of one request; 500 symbols over 15 years fit one."""

_TURN = 0.1
"""Seconds between two updates of the progress."""


class AskYears(Protocol):
    """Sends one request for bars of whole years: the survey's interface to a source."""

    def __call__(
        self, symbols: tuple[str, ...], first: int, last: int, page_token: str | None
    ) -> tuple[Mapping[str, Sequence[int] | None] | None, str | None]:
        """The years in which each symbol traded, and the token of the next page.

        A symbol's years are None if they can't be read. The whole mapping is None if the source
        returned null.
        """
        ...


@dataclass(frozen=True, slots=True)
class Survey:
    """The years in which symbols traded.

    Args:
        first, last: The range of years requested.
        years: The years of each requested symbol; empty for one that never traded.
    """

    first: int
    last: int
    years: Mapping[str, frozenset[int]]

    def covers(self, sessions: Iterable[date]) -> bool:
        """Whether all their years were requested."""
        return all(self.first <= day.year <= self.last for day in sessions)

    def expected(self, sessions: Sequence[date]) -> Callable[[str], float]:
        """How many bars to expect of a symbol in these sessions.

        A symbol that traded in a year, and in the years before and after it, is expected in every
        session. In its first year it is expected with the share of the year that has passed by the
        session, and in its last year with the share that is left. A symbol that was not surveyed is
        always expected: too much room is better than too little.
        """
        spans = []
        for year, run in groupby(sessions, key=lambda day: day.year):
            days = list(run)
            passed = (days[len(days) // 2].timetuple().tm_yday - 0.5) / 366
            spans.append((year, len(days), passed))

        @cache  # thousands of symbols traded in the same years
        def in_all(years: frozenset[int] | None) -> float:
            if years is None:
                return float(len(sessions))
            total = 0.0
            for year, count, passed in spans:
                if year not in years:
                    continue
                share = 1.0
                if year > self.first and year - 1 not in years:
                    share *= passed
                if year < self.last and year + 1 not in years:
                    share *= 1.0 - passed
                total += share * count
            return total

        return lambda symbol: in_all(self.years.get(symbol))


def survey(
    symbols: Iterable[str],
    first: int,
    last: int,
    ask: AskYears,
    caller: Caller,
    *,
    symbols_per_request: int = 500,
    workers: int = 20,
    stop: threading.Event | None = None,
    display: Display | None = None,
    clock: Clock | None = None,
) -> Survey:
    """Find out in which years these symbols traded.

    Symbols whose request fails, or whose answer can't be read, are left out, since the survey only
    helps with packing.

    Args:
        symbols: The symbols.
        first: The first year.
        last: The last year.
        ask: Fetches one page.
        caller: Sends requests within the rate limit, with retries.
        symbols_per_request: The most symbols in one request.
        workers: The number of threads.
        stop: The caller's stop event, set when interrupted.
        display: Shows the progress.
        clock: The clock.

    Raises:
        RefusedError: The source refuses every request.
        StoppedError: The caller was stopped.
    """
    names = sorted(set(symbols))
    parts = [
        tuple(names[start : start + symbols_per_request])
        for start in range(0, len(names), symbols_per_request)
    ]

    def one(part: tuple[str, ...]) -> dict[str, frozenset[int]]:
        while part:
            try:
                return _years(part, first, last, ask, caller)
            except RejectedSymbolError as error:
                if not (named := error.of(part)):
                    return {}
                part = tuple(symbol for symbol in part if symbol not in named)
            except PermanentError:
                return {}
        return {}

    display, clock = display or Display(), clock or Clock()
    began = clock.seconds()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="survey")
    try:
        asked = {threads.submit(one, part): len(part) for part in parts}

        def show(*, final: bool) -> None:
            done = [future for future in asked if future.done()]
            known = sum(len(future.result()) for future in done)
            snapshot = Snapshot(
                label=f"years of {many(len(names), 'symbol')}",
                chunks=len(parts),
                chunks_done=len(done),
                symbols_ok=known,
                symbols_failed=sum(asked[future] for future in done) - known,
                requests=caller.requests,
                retries=caller.retries,
                throttled=caller.throttled,
                seconds=clock.seconds() - began,
            )
            display.show(snapshot, final=final)

        while wait(asked, _TURN, FIRST_EXCEPTION).not_done:
            show(final=False)  # raises the error of a failed one
        show(final=True)
        found = [future.result() for future in asked]
    except BaseException:
        if stop is not None:
            stop.set()
        raise
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
    return Survey(first, last, {name: years for part in found for name, years in part.items()})


def _years(
    symbols: tuple[str, ...], first: int, last: int, ask: AskYears, caller: Caller
) -> dict[str, frozenset[int]]:
    found: dict[str, set[int]] = {symbol: set() for symbol in symbols}
    unread: set[str] = set()
    token: str | None = None
    for _ in range(_PAGES):
        after = token
        page, token = caller.call(lambda: ask(symbols, first, last, after))  # noqa: B023
        if page is None:  # twice null means that none traded: a wrong survey only costs pages
            page, token = caller.call(lambda: ask(symbols, first, last, after))  # noqa: B023
        for symbol, years in (page or {}).items():
            if years is None:
                unread.add(symbol)
            elif symbol in found:
                found[symbol].update(years)
        if token is None:
            return {
                symbol: frozenset(years) for symbol, years in found.items() if symbol not in unread
            }
    raise PermanentError(f"the pages of years of {many(len(symbols), 'symbol')} never end")
