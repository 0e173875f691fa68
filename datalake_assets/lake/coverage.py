"""Coverage: which sessions the lake holds, which it lacks, and what is wrong with them.

Belongs here: counting what is there against the calendar. Does not belong here: showing it (`cli`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from itertools import groupby

from datalake_assets import market_calendar
from datalake_assets.collection.progress import many
from datalake_assets.collection.report import Reason, joined
from datalake_assets.collection.universe import least_asked, symbols_for
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.session_file import Summary
from datalake_assets.storage.store import BrokenFileError

MAX_LOSS = 0.1
"""The largest share of its symbols that a session may lose to a collection of chosen symbols."""


class Held(StrEnum):
    """How the lake holds a session."""

    PUBLISHED = "published"
    INCOMPLETE = "incomplete"
    """It did not pass its audit, and none was published before."""
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Coverage:
    """The lake against the calendar.

    Args:
        sessions: Every session that the lake should hold, ascending, and how it holds it.
        published: What each published session says of itself.
        waiting: What each session in `incomplete/` says of itself; one that was published
            before is in both.
        damaged: Where objects lie that are no whole session files; their sessions count as
            missing.
    """

    sessions: dict[date, Held]
    published: Sequence[Summary]
    waiting: Sequence[Summary]
    damaged: Sequence[str] = ()

    @property
    def gaps(self) -> list[tuple[date, date, int]]:
        """Spans of sessions that are missing: first, last, and how many; ascending."""
        spans = []
        for held, run in groupby(self.sessions.items(), key=lambda pair: pair[1]):
            days = [day for day, _ in run]
            if held is Held.MISSING:
                spans.append((days[0], days[-1], len(days)))
        return spans

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why symbols failed, the most frequent error first."""
        # Of a session that is published and waits, what waits is later.
        told = {each.session: each.reasons for each in (*self.published, *self.waiting)}
        return joined(reason for found in told.values() for reason in found)

    @property
    def to_repair(self) -> list[date]:
        """Sessions with failed or pending symbols, and those that did not pass, ascending."""
        return sorted(
            {
                summary.session
                for summary in (*self.published, *self.waiting)
                if summary.counts["failed"] or summary.counts["pending"]
            }
            | {summary.session for summary in self.waiting}
        )


@dataclass(frozen=True, slots=True)
class Narrow:
    """A session that was asked for fewer symbols than its universe has now.

    Args:
        asked: Symbols that it was asked for.
        universe: Symbols of its universe.
    """

    asked: int
    universe: int

    def __str__(self) -> str:
        return f"asked for {self.asked:,} of the {many(self.universe, 'symbol')} of the universe"


def narrow(
    lake: LakeFiles, summaries: Iterable[Summary], chosen: Sequence[str] | None
) -> dict[date, Narrow]:
    """The sessions that were asked for fewer symbols than their universe has now.

    Only numbers are compared, which the footers tell. Of chosen symbols each one counts. A list
    grows every week by symbols that earlier sessions need not know, so there a session is narrow
    only when it knows fewer symbols than the list of its time had active ones, less
    `universe.GROWTH`; the first list of each year stands for that year.

    Args:
        lake: The lake.
        summaries: What published sessions say of themselves.
        chosen: The symbols that are collected; None for the source's list.

    Returns:
        The narrow ones, in the order of the summaries; none when the lake has no list.

    Raises:
        BrokenFileError: A list is damaged.
    """
    found = None if chosen else lake.universe()
    if not chosen and not found:
        return {}
    fewest = len(chosen) if chosen else least_asked(found[1]) if found else 0
    doubtful = {each.session: each for each in summaries if _asked(each) < fewest}
    if not found:
        return {day: Narrow(_asked(each), fewest) for day, each in doubtful.items()}
    firsts: dict[int, date] = {}
    for day in lake.universe_days() if doubtful else ():
        firsts.setdefault(day.year, day)
    years = {each.provenance.collected_at.year for each in doubtful.values()}
    of_year = {
        year: least_asked(lake.universe_of(firsts[year])) for year in years if year in firsts
    }
    wanted = symbols_for(doubtful, lake.snapshots())
    return {
        day: Narrow(_asked(each), len(wanted[day]))
        for day, each in doubtful.items()
        if _asked(each) < of_year.get(each.provenance.collected_at.year, fewest)
    }


def _asked(summary: Summary) -> int:
    return sum(summary.counts.values())


@dataclass(frozen=True, slots=True)
class Loss:
    """A session that would lose symbols if it were replaced by one of chosen symbols.

    Args:
        session: The session.
        bars: Symbols that have a bar in it now.
        lost: Those of them that are not among the chosen ones.
    """

    session: date
    bars: int
    lost: int

    def __str__(self) -> str:
        return (
            f"{self.session} has bars of {many(self.bars, 'symbol')} in the lake, and this "
            f"collection would replace it without {self.lost:,} of them; nothing was requested"
        )


def loss(
    lake: LakeFiles, days: Iterable[date], chosen: Iterable[str], allowed: float = MAX_LOSS
) -> Loss | None:
    """The first of these sessions that would lose more than a share of its symbols, if one would.

    What waits in `incomplete/` counts as well: to publish the session removes it. A damaged file
    has nothing to lose.

    Args:
        lake: The lake.
        days: Sessions that are to be collected anew.
        chosen: The symbols that are asked for.
        allowed: The largest share of the symbols with a bar that may be left out, from 0 to 1.
    """
    wanted = frozenset(chosen)
    # In this order: one that is published meanwhile is gone from the first and in the second.
    waiting, published = frozenset(lake.incomplete()), frozenset(lake.sessions())
    for day in days:
        there: set[str] = set()
        for held, key in (
            (waiting, lake.incomplete_key(day)),
            (published, lake.session_key(day)),
        ):
            if day in held:
                with suppress(BrokenFileError, FileNotFoundError):
                    there.update(lake.symbols_with_bars(key))
        if there and len(there - wanted) > allowed * len(there):
            return Loss(day, len(there), len(there - wanted))
    return None


def coverage_between(
    lake: LakeFiles, start: date | None = None, end: date | None = None
) -> Coverage:
    """What the lake holds of the sessions from `start` to `end`, both included.

    Without them: from its first to its newest session, published or not.

    Raises:
        ValueError: A day outside the calendar, or `end` before `start`.
    """
    held = sorted({*lake.sessions(), *lake.incomplete()})
    first = start or min(held, default=None)
    last = end or max(held, default=None)
    if first is None or last is None:
        return coverage(lake, [])
    if last < first:
        raise ValueError(f"the end, {last}, is before the start, {first}")
    return coverage(lake, market_calendar.sessions(first, last), besides=False)


def coverage(lake: LakeFiles, expected: Sequence[date], *, besides: bool = True) -> Coverage:
    """Look at what the lake holds.

    Args:
        lake: The lake; one that is not there holds nothing.
        expected: The sessions that it should hold, ascending.
        besides: Whether to tell of the sessions, too, that it holds besides these.
    """
    wanted = frozenset(expected)
    # In this order: one that is published meanwhile is gone from the first and in the second.
    looks = (
        (Held.INCOMPLETE, lake.incomplete_key, lake.incomplete),
        (Held.PUBLISHED, lake.session_key, lake.sessions),
    )
    keys: dict[Held, list[str]] = {}
    found: dict[Held, list[Summary | BrokenFileError | FileNotFoundError]] = {}
    for state, key, days in looks:
        keys[state] = [key(day) for day in days() if besides or day in wanted]
        found[state] = lake.summaries(keys[state])
    whole = {
        state: [summary for summary in found[state] if isinstance(summary, Summary)]
        for state in keys
    }
    halves, there = (frozenset(summary.session for summary in whole[state]) for state in keys)
    return Coverage(
        sessions={
            day: Held.PUBLISHED
            if day in there
            else Held.INCOMPLETE
            if day in halves
            else Held.MISSING
            for day in expected
        },
        published=whole[Held.PUBLISHED],
        waiting=whole[Held.INCOMPLETE],
        damaged=tuple(
            lake.store.url(where)
            for state in (Held.PUBLISHED, Held.INCOMPLETE)
            for where, summary in zip(keys[state], found[state], strict=True)
            if isinstance(summary, BrokenFileError)
        ),
    )
