"""The plan: which requests fetch the bars of these symbols in these sessions.

Belongs here: packing symbols and sessions into chunks. Does not belong here: sending them
(`collect`), or the calendar itself.

One request returns at most 10,000 bars (a page). The next page needs the token of the one before,
so pages of one request can't be fetched in parallel, but requests can. A chunk is therefore packed
to fit one page: symbols x sessions just below the page's limit, because an exactly full page can
cause another, empty one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import groupby

from datalake_assets import market_calendar
from datalake_assets.collection.dataset import DAILY, Dataset

Expected = Callable[[Sequence[date]], Callable[[str], float]]
"""How many bars to expect of a symbol in some sessions."""


@dataclass(frozen=True, slots=True)
class Packing:
    """The limits of one request.

    Args:
        bars: The most bars that one request is expected to bring: just below the page limit of
            10,000.
        symbols: The most symbols in one request. Alpaca documents no limit, but URLs have one: 500
            names are about 3.5 KB, and web servers accept 8 KB by default.
    """

    bars: int = 9_990
    symbols: int = 500

    def __post_init__(self) -> None:
        for name in ("bars", "symbols"):
            if getattr(self, name) < 1:
                raise ValueError(f"a request needs at least one: {name} is {self}")


@dataclass(frozen=True, slots=True)
class Chunk:
    """The content of one request: each of the symbols in each of the sessions.

    The sessions are consecutive, because a request names only the first and
    the last. `expected` is how many bars are expected; None: all. `each` is how many a symbol can
    have in a session.
    """

    symbols: tuple[str, ...]
    sessions: tuple[date, ...]
    expected: float | None = None
    each: int = 1

    @property
    def bars(self) -> int:
        """The most bars that can come back."""
        return len(self.symbols) * len(self.sessions) * self.each


@dataclass(frozen=True, slots=True)
class Plan:
    """The chunks that cover every symbol of every session once."""

    chunks: tuple[Chunk, ...] = field(default=())

    @property
    def sessions(self) -> tuple[date, ...]:
        """The sessions to request, ascending."""
        return tuple(sorted({day for chunk in self.chunks for day in chunk.sessions}))

    @property
    def requests(self) -> int:
        """The number of requests if every chunk fits its page and none is retried."""
        return len(self.chunks)

    @property
    def bars(self) -> int:
        """The number of bars if every symbol traded in every session."""
        return sum(chunk.bars for chunk in self.chunks)

    @property
    def expected(self) -> float:
        """The expected number of bars, from what is known of the symbols."""
        return sum(
            chunk.bars if chunk.expected is None else chunk.expected for chunk in self.chunks
        )

    def minutes(self, requests_per_minute: float) -> float:
        """The minutes that the requests take at this rate, if nothing else is slower."""
        return self.requests / requests_per_minute


def plan(
    symbols: Iterable[str],
    sessions: Iterable[date],
    packing: Packing | None = None,
    dataset: Dataset = DAILY,
) -> Plan:
    """Pack all these symbols in all these sessions.

    Symbols are sorted and made unique, so that the same input gives the same plan.

    Raises:
        ValueError: A day is not a session.
    """
    return plan_each(dict.fromkeys(sessions, tuple(symbols)), packing, dataset=dataset)


def plan_each(
    wanted: Mapping[date, Sequence[str]],
    packing: Packing | None = None,
    expected: Expected | None = None,
    dataset: Dataset = DAILY,
) -> Plan:
    """Pack symbols that differ from session to session, as in a repair.

    Consecutive sessions with the same symbols share their requests.

    Args:
        wanted: The symbols to request, by session.
        packing: The limits of one request.
        expected: How many bars to expect of a symbol in some sessions; None: all that there can be.
        dataset: Whose bars.
    """
    packing = packing or Packing()
    days = sorted(wanted)
    if odd := [day for day in days if not market_calendar.is_session(day)]:
        raise ValueError(f"not a trading session, so nothing can be planned for it: {odd[0]}")
    # Usually all sessions share one set of symbols, one object, so each set is sorted once.
    distinct = {id(symbols): symbols for symbols in wanted.values()}
    ordered = {each: tuple(sorted(set(symbols))) for each, symbols in distinct.items()}
    asked = [(day, ordered[id(wanted[day])]) for day in days]
    chunks: list[Chunk] = []
    for symbols, alike in groupby(asked, key=lambda pair: pair[1]):
        for run in _runs([day for day, _ in alike], dataset):
            chunks += (
                _pack(symbols, run, packing, dataset)
                if expected is None
                else _pack_by(expected(run), symbols, run, packing, dataset)
            )
    return Plan(tuple(chunks))


def plan_windows(
    wanted: Mapping[date, Sequence[str]],
    packing: Packing | None = None,
    expected: Expected | None = None,
    dataset: Dataset = DAILY,
) -> list[tuple[tuple[date, ...], Plan]]:
    """Split sessions into windows, which are collected, held in memory and published together.

    Each is packed: its sessions, and its plan.

    Args:
        wanted: As for `plan_each`.
        packing: As for `plan_each`.
        expected: As for `plan_each`. Where it is known what sessions bring, a window is as long as
            fills its requests best.
        dataset: Whose bars.
    """
    packing = packing or Packing()
    days, found = sorted(wanted), []
    while days:
        size = min(len(days), dataset.window)
        if expected is not None and size > dataset.shortest:
            size = _best_size(wanted, days[:size], packing, expected, dataset.shortest)
        window, days = tuple(days[:size]), days[size:]
        plan = plan_each({day: wanted[day] for day in window}, packing, expected, dataset)
        found.append((window, plan))
    return found


def _best_size(
    wanted: Mapping[date, Sequence[str]],
    days: list[date],
    packing: Packing,
    expected: Expected,
    shortest: int,
) -> int:
    """How many of the first of these sessions take the fewest requests for each of them."""
    symbols = wanted[days[0]]
    a_session = sum(map(expected(days), symbols)) / len(days)
    least = math.ceil(len(symbols) / packing.symbols)

    def requests(size: int) -> float:
        # A thousandth more: symbols are not split, so no request is quite full.
        return max(least, math.ceil(a_session * size * 1.001 / packing.bars)) / size

    return min(range(len(days), shortest - 1, -1), key=requests)


def _runs(days: Sequence[date], dataset: Dataset) -> Iterator[tuple[date, ...]]:
    """Split ascending sessions into those that requests may span, each with as many bars."""
    for run in _consecutive(days):
        size = dataset.a_request or len(run)
        for start in range(0, len(run), size):
            part = run[start : start + size]
            for _, alike in groupby(part, key=dataset.bars):
                yield tuple(alike)


def _consecutive(days: Sequence[date]) -> Iterator[tuple[date, ...]]:
    """Split ascending sessions wherever the calendar has another session in between."""
    calendar = market_calendar.sessions(days[0], days[-1])
    position = {day: place for place, day in enumerate(calendar)}
    for _, run in groupby(enumerate(days), key=lambda pair: position[pair[1]] - pair[0]):
        yield tuple(day for _, day in run)


def _pack(
    symbols: tuple[str, ...], run: tuple[date, ...], packing: Packing, dataset: Dataset
) -> Iterator[Chunk]:
    each = dataset.bars(run[0])
    most = max(1, packing.bars // each)
    for start in range(0, len(run), most):
        days = run[start : start + most]
        width = min(packing.symbols, max(1, most // len(days)))
        # Spread evenly: 501 symbols are two requests of about 250, which run in parallel, rather
        # than one of 500 and one of 1.
        count = -(-len(symbols) // width)
        for part in range(count):
            low, high = part * len(symbols) // count, (part + 1) * len(symbols) // count
            yield Chunk(symbols[low:high], days, each=each)


def _pack_by(
    expected: Callable[[str], float],
    symbols: tuple[str, ...],
    run: tuple[date, ...],
    packing: Packing,
    dataset: Dataset,
) -> Iterator[Chunk]:
    """Pack by the expected bars; symbols without any are added to the requests of others."""
    packing = replace(packing, bars=max(1, int(packing.bars * dataset.filled)))
    each = dataset.bars(run[0])
    for start in range(0, len(run), packing.bars):
        days = run[start : start + packing.bars]
        share = len(days) / len(run)
        bars = {symbol: expected(symbol) * share for symbol in symbols}
        count = max(
            math.ceil(sum(bars.values()) / packing.bars), math.ceil(len(symbols) / packing.symbols)
        )
        # One symbol can bring more bars than fit a request; then it has a request of its own.
        hands = _dealt(bars, min(count, len(symbols)), packing.symbols)
        # Where all symbols trade every day, a request is longer than others by a whole symbol, and
        # one request more can spare many a second page.
        while (pages := _pages(hands, packing)) > len(hands):
            more = _dealt(bars, len(hands) + 1, packing.symbols)
            if _pages(more, packing) >= pages:
                break
            hands = more
        yield from (Chunk(tuple(sorted(hand.symbols)), days, hand.expected, each) for hand in hands)


@dataclass(slots=True)
class _Hand:
    """The symbols dealt to one request, and the bars expected of them."""

    symbols: list[str] = field(default_factory=list)
    expected: float = 0.0


def _pages(hands: Iterable[_Hand], packing: Packing) -> int:
    return sum(max(1, math.ceil(hand.expected / packing.bars)) for hand in hands)


def _dealt(bars: Mapping[str, float], count: int, most: int) -> list[_Hand]:
    """Deal out symbols, those with most bars first, each to the hand that expects least.

    Args:
        bars: The bars expected of each symbol.
        count: The number of hands.
        most: The most symbols in a hand; `count` hands have room for all.
    """
    hands = [_Hand() for _ in range(count)]
    # Among equals, the hand with fewest symbols: of those without bars, each gets its share.
    least = [(0.0, 0, number) for number in range(count)]
    for symbol in sorted(bars, key=bars.__getitem__, reverse=True):
        expected, held, number = least[0]
        hand = hands[number]
        hand.symbols.append(symbol)
        hand.expected = expected + bars[symbol]
        if held + 1 < most:
            heapq.heapreplace(least, (hand.expected, held + 1, number))
        else:
            heapq.heappop(least)
    return hands
