"""Coverage: which sessions the lake holds, which it lacks, and what is wrong with them.

Belongs here: counting what is there against the calendar. Does not belong here: showing it (`cli`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from itertools import groupby

from datalake_assets.lake import layout
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.session_file import Summary


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
    """

    sessions: dict[date, Held]
    published: Sequence[Summary]
    waiting: Sequence[Summary]

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
    def to_repair(self) -> list[date]:
        """Sessions with failed or pending symbols, published or not, ascending."""
        return sorted(
            {
                summary.session
                for summary in (*self.published, *self.waiting)
                if summary.counts["failed"] or summary.counts["pending"]
            }
            | {summary.session for summary in self.waiting}
        )


def coverage(lake: Lake, expected: Sequence[date]) -> Coverage:
    """Look at what the lake holds.

    Args:
        lake: The lake; one that is not there holds nothing.
        expected: The sessions that it should hold, ascending.

    Raises:
        BrokenFileError: An object is no session file.
    """
    published, waiting = lake.sessions(), lake.incomplete()
    there, halves = frozenset(published), frozenset(waiting)
    return Coverage(
        sessions={
            day: Held.PUBLISHED
            if day in there
            else Held.INCOMPLETE
            if day in halves
            else Held.MISSING
            for day in expected
        },
        published=lake.summaries(map(layout.session_key, published)),
        waiting=lake.summaries(map(layout.incomplete_key, waiting)),
    )
