"""The minute bars of the lake in numbers, and what to do about them.

Belongs here: counting the sessions of minutes that are published, incomplete and missing. Does not
belong here: how it is shown (`page`, `cli.status`), and daily bars (`numbers`).

Minute bars may begin at any session: what is before the first one that the lake holds is not
missing. Where the settings turn them off, nothing is: what the lake holds is told, and no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from itertools import groupby

from datalake_assets import market_calendar
from datalake_assets.collection.dataset import EXTENDED_MINUTE, MINUTE
from datalake_assets.collection.progress import many
from datalake_assets.lake.coverage import Coverage, Held, Narrow, coverage, narrow
from datalake_assets.lake.examination import spans
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.session_file import Summary
from datalake_assets.storage.store import BrokenFileError

SETTLED = timedelta(hours=3)
"""How long after the end of extended hours a session of minutes counts as missing: until then it
may still be collected."""


@dataclass(frozen=True, slots=True)
class MinuteYear:
    """A year of minute bars.

    Args:
        year: The year.
        due: Sessions that should be there.
        published, incomplete, missing: Sessions in these states.
        rows: Bars published.
        size: Bytes of the published sessions.
    """

    year: int
    due: int
    published: int
    incomplete: int
    missing: int
    rows: int
    size: int


@dataclass(frozen=True, slots=True)
class MinuteNumbers:
    """The minute bars of a lake.

    Args:
        years: Each year, ascending.
        first: The first session that the lake holds; None for none.
        newest: The newest published session; None for none.
        symbols: Symbols with a bar in the newest published session.
        rows_newest: Bars of this session.
        to_repair: Sessions that are incomplete, or have failed or pending symbols, ascending.
        damaged: Sessions whose file can't be read, ascending.
        gaps: Spans of sessions that are missing: first, last, and how many; ascending.
        narrow: Sessions that were asked for fewer symbols than are wanted, ascending.
        wanted: Whether the settings want minute bars. If not, only what the lake holds is counted,
            what can't be read is all that is missing, and there is nothing to do.
        summaries: What the file of each session says of itself, published or incomplete.
    """

    years: Sequence[MinuteYear]
    first: date | None = None
    newest: date | None = None
    symbols: int = 0
    rows_newest: int = 0
    to_repair: Sequence[date] = ()
    damaged: Sequence[date] = ()
    gaps: Sequence[tuple[date, date, int]] = ()
    narrow: Mapping[date, Narrow] = field(default_factory=dict)
    wanted: bool = True
    summaries: Sequence[Summary] = field(default=(), repr=False)

    @property
    def due(self) -> int:
        """Sessions that should be there."""
        return sum(year.due for year in self.years)

    @property
    def published(self) -> int:
        """Sessions that are published."""
        return sum(year.published for year in self.years)

    @property
    def incomplete(self) -> int:
        """Sessions that did not pass their audit, and were not published before."""
        return sum(year.incomplete for year in self.years)

    @property
    def missing(self) -> int:
        """Sessions that the lake lacks."""
        return sum(year.missing for year in self.years)

    @property
    def rows(self) -> int:
        """Bars published."""
        return sum(year.rows for year in self.years)

    @property
    def size(self) -> int:
        """Bytes of the published sessions."""
        return sum(year.size for year in self.years)

    @property
    def whole(self) -> bool:
        """Is nothing missing, damaged or to be repaired, or are minute bars turned off?"""
        wrong = self.missing or self.incomplete or self.to_repair or self.damaged or self.narrow
        return not (wrong and self.wanted)

    @property
    def sentence(self) -> str:
        """The sessions by state, in words."""
        if self.first is None:
            return "none collected yet"
        if not self.wanted:
            return self._held
        told = [f"{self.published:,} of {many(self.due, 'session')} since {self.first} published"]
        told += [f"{self.incomplete:,} incomplete"] if self.incomplete else []
        told += [f"{self.missing:,} missing"] if self.missing else []
        return ", ".join(told)

    @property
    def _held(self) -> str:
        """What the lake holds, where minute bars are turned off."""
        told = [f"{many(self.published, 'session')} since {self.first} published"]
        told += [f"{self.incomplete:,} incomplete"] if self.incomplete else []
        told += [f"{len(self.damaged):,} damaged"] if self.damaged else []
        return f"{', '.join(told)}; turned off (DATALAKE_MINUTES)"

    def steps(self, at_most: int) -> list[tuple[str, str]]:
        """What is wrong, and the command without the program's name, in order.

        Args:
            at_most: Up to so many sessions or gaps of a kind are told one by one.
        """
        if not self.wanted:
            return []
        found = [
            (f"minute bars of {day}: damaged", f"collect --minutes --session {day}")
            for day in self.damaged
        ]
        gaps = self.gaps
        if len(gaps) > at_most:
            gaps = [(gaps[0][0], gaps[-1][1], sum(count for *_, count in gaps))]
        found += [
            (
                f"minute bars missing: {many(count, 'session')}",
                f"backfill --minutes --from {first} --to {last}",
            )
            for first, last, count in gaps
        ]
        days = [day for day in self.to_repair if day not in self.damaged]
        runs = [(day, day) for day in days]
        if len(days) > at_most:
            runs = spans(days, market_calendar.sessions(days[0], days[-1]))
        found += [_repair(first, last, "symbols to retry") for first, last in runs]
        # A repair of the others asks for these symbols, too.
        few = [day for day in self.narrow if day not in {*self.to_repair, *self.damaged}]
        if few:
            among = market_calendar.sessions(few[0], few[-1])
            found += [
                _repair(first, last, str(self.narrow[last])) for first, last in spans(few, among)
            ]
        return found


def _repair(first: date, last: date, why: str) -> tuple[str, str]:
    """Why sessions need a repair, and its command."""
    told = f"{first}" if first == last else f"{first} to {last}"
    days = market_calendar.options(first, last)
    return f"minute bars of {told}: {why}", f"collect --minutes {days} --repair"


def minute_numbers(
    lake: LakeFiles,
    *,
    first: date,
    due: date,
    now: datetime,
    wanted: bool,
    chosen: Sequence[str] | None = None,
) -> MinuteNumbers | None:
    """The numbers of a lake's minute bars, from a listing and the footers of their files.

    Args:
        lake: The lake.
        first: The first session that it should hold.
        due: The last day whose session should be in it.
        now: The time, UTC.
        wanted: Whether the settings want minute bars. If not, there are numbers only of a lake that
            has some, and only of those.
        chosen: The symbols of minute bars; None for the source's list.

    Raises:
        StoreError: The lake can't be reached.
    """
    minutes = lake.of(MINUTE)
    sizes = minutes.store.sizes(minutes.folders.sessions)
    held = sorted({*minutes.folders.days(list(sizes)), *minutes.incomplete()})
    held = [day for day in held if first <= day <= due]
    if not held:
        return MinuteNumbers([]) if wanted else None
    expected = market_calendar.sessions(held[0], due) if wanted else held
    found = coverage(minutes, expected, besides=False)
    newest = max(found.published, key=lambda summary: summary.session, default=None)
    rows = {summary.session: summary.rows for summary in found.published}
    broken = frozenset(found.damaged)
    damaged = [
        day
        for day in found.sessions
        for key in (minutes.session_key(day), minutes.incomplete_key(day))
        if minutes.store.url(key) in broken
    ]
    states = _states(found, damaged, now)
    return MinuteNumbers(
        years=[
            _year(year, list(days), states, rows, minutes, sizes)
            for year, days in groupby(states, key=lambda day: day.year)
        ],
        first=held[0],
        newest=newest.session if newest else None,
        symbols=newest.counts["present"] if newest else 0,
        rows_newest=newest.rows if newest else 0,
        to_repair=found.to_repair if wanted else (),
        damaged=damaged,
        gaps=_gaps(states, damaged),
        narrow=_narrow(minutes, found, chosen) if wanted else {},
        wanted=wanted,
        summaries=(*found.published, *found.waiting),
    )


def _narrow(
    minutes: LakeFiles, found: Coverage, chosen: Sequence[str] | None
) -> dict[date, Narrow]:
    """The narrow sessions; none where the list can't be read, which is told elsewhere."""
    try:
        return dict(sorted(narrow(minutes, found.published, chosen).items()))
    except BrokenFileError:
        return {}


def _states(found: Coverage, damaged: Sequence[date], now: datetime) -> dict[date, Held]:
    """The state of each session, without those that may still be collected."""
    return {
        day: held
        for day, held in found.sessions.items()
        if held is not Held.MISSING
        or day in damaged
        or EXTENDED_MINUTE.hours(day).end + SETTLED <= now
    }


def _year(
    year: int,
    days: Sequence[date],
    states: dict[date, Held],
    rows: dict[date, int],
    minutes: LakeFiles,
    sizes: dict[str, int],
) -> MinuteYear:
    held = [states[day] for day in days]
    return MinuteYear(
        year=year,
        due=len(days),
        published=held.count(Held.PUBLISHED),
        incomplete=held.count(Held.INCOMPLETE),
        missing=held.count(Held.MISSING),
        rows=sum(rows.get(day, 0) for day in days),
        size=sum(sizes.get(minutes.session_key(day), 0) for day in days),
    )


def _gaps(states: dict[date, Held], damaged: Sequence[date]) -> list[tuple[date, date, int]]:
    """Spans of missing sessions; a damaged one has a step of its own."""
    days = [day for day, held in states.items() if held is Held.MISSING and day not in damaged]
    among = list(states)
    return [
        (first, last, sum(first <= day <= last for day in days))
        for first, last in spans(days, among)
    ]
