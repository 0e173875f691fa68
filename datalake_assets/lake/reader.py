"""The reader: bars from whichever layout answers faster, and why something is not there.

Belongs here: choosing what to read, reading it in threads, and telling what is missing. Does not
belong here: writing, and opening a lake (`lake`).

The sessions are the truth, symbol-years and year files projections that can lag: a session came
after the year's last publication, or a publication is under way or was killed. So they stand only
for those sessions that they were made from in the version that lies in the lake now, or that hold
the same rows by their digest (`currency`); the others are read from their own files. Whatever the
projections are like, the answer is what the sessions hold.

Few symbols are read from symbol-years, few sessions from their own files, and much of a year from
its year file: year by year whichever is expected to take less of the processor.

Objects are written whole and read whole. What is published while a reader reads shows as it was
before or as it is after, session by session and symbol by symbol, never torn.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from difflib import get_close_matches
from functools import cached_property, partial
from itertools import chain
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA, empty, price_text
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.progress import verb
from datalake_assets.collection.report import Ledger, reasons
from datalake_assets.lake import currency, session_file, symbol_year_file, universe_file
from datalake_assets.lake.manifest import Manifest
from datalake_assets.lake.projection import read_made_from
from datalake_assets.lake.session_file import Session
from datalake_assets.lake.year_bars import BAND
from datalake_assets.lake.year_file import Rows, YearFile, merged
from datalake_assets.lake.year_files import YearFiles, of_year
from datalake_assets.securities.adjusting import several
from datalake_assets.securities.evidence import Days
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store, require_unforked

SESSION_COST = 3
"""How many symbol-years can be read in the time of one session of the whole market.

Measured with 5,000 symbols and 4 to 32 threads, in a folder as on an S3 server at hand: 2.1 (1.1
against 0.5 ms, nearly all of it Parquet). Over a network a session is 30 times the bytes besides.
Near the balance the choice hardly matters; far from it, any number between 2 and 10 chooses
the same."""

GROUP_COST = 28
"""How many symbol-years can be read in the time of one row group of a year file.

Measured in a folder: 6.4 ms of CPU for some symbols of 131,072 bars, all columns, against 0.2 ms;
by the clock 4.2, as it is decoded in two cores."""

_WORKERS = 32
"""Reads under way at once. They wait for the network, not for the processor."""

_TOGETHER = 16
"""Symbol-years of a folder that are read, and then decoded, together; more gain nothing."""

_ORDER = ("symbol", "session")

_REASONS = 3
"""Errors of the source that are told of a session that waits."""

_log = logging.getLogger(__name__)

_EVER = (market_calendar.FIRST.year, market_calendar.LAST.year)

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class NotInLakeError(LookupError):
    """The lake does not have what was asked for; says why, and what to do."""

    def __str__(self) -> str:
        return str(self.args[0])


class MissingSessionsWarning(UserWarning):
    """Bars were read over sessions that the lake does not hold.

    A return over such a gap spans more than one session.
    """


MISSING = pa.schema(
    [
        pa.field("symbol", pa.string(), nullable=False),
        pa.field("session", pa.date32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""What is not known of symbols. `reason`: `not published`, or `incomplete` when the session waits
for its repair; or else the symbol `failed` (with the source's `error`), is `pending`, or was
`never asked` for."""


@dataclass(frozen=True)
class _Shown:
    """What a projection of a year shows.

    Args:
        sessions: The year's published sessions, with the versions of their objects.
        made_from: Those that the projection was made from.
    """

    sessions: dict[date, str]
    made_from: Manifest

    @cached_property
    def same(self) -> frozenset[date]:
        """The sessions whose objects are those that it was made from."""
        known = self.made_from.sessions
        return frozenset(day for day, v in self.sessions.items() if known.get(day) == v)

    @cached_property
    def doubtful(self) -> frozenset[date]:
        """Those that it holds in another version, maybe with the same rows."""
        known = self.made_from.digests
        return frozenset(day for day in self.sessions if day in known) - self.same

    @property
    def all_same(self) -> bool:
        """Does it show all sessions, as nearly always in a year that is over?"""
        return len(self.same) == len(self.sessions)


@dataclass(frozen=True)
class _Year:
    """What lies in the lake of a year, as it was looked at.

    Args:
        year: The year.
        sessions: Its published sessions, ascending, with the versions of their objects.
        manifest: What the symbol-years were made from, without its symbols while it is `whole`;
            None when nothing was published.
    """

    year: int
    sessions: dict[date, str]
    manifest: Manifest | None

    @cached_property
    def shown(self) -> _Shown:
        """What the symbol-years show."""
        return _Shown(self.sessions, self.manifest or Manifest(self.year))

    @cached_property
    def days(self) -> list[date]:
        """Its published sessions, ascending."""
        return list(self.sessions)

    def within(self, first: date, last: date) -> list[date]:
        """Those from `first` to `last`, both included."""
        if first <= self.days[0] and self.days[-1] <= last:
            return self.days
        return self.days[bisect_left(self.days, first) : bisect_right(self.days, last)]

    @cached_property
    def numbers(self) -> Days:
        """Those sessions as numbers, ascending."""
        return as_numbers(self.days)

    @cached_property
    def lacking(self) -> list[date]:
        """The sessions of the calendar that are not published, also those still to come."""
        return [day for day in _calendar_of(self.year) if day not in self.sessions]

    def unknown(self, names: Iterable[str]) -> bool:
        """Is the object of one of the symbols being written or removed, so that nobody knows it?"""
        if self.manifest is None or self.manifest.whole:
            return False
        changing = {name for name, entry in self.manifest.symbols.items() if entry is None}
        return not changing.isdisjoint(names)


@dataclass(frozen=True, slots=True)
class _Part:
    """How a year's part of an answer is read.

    Args:
        year: The year.
        current: The sessions that are read from symbol-years or the year file, ascending.
        numbers: The same as numbers.
        days: The sessions that are read from their own files, ascending.
        file: The year file, if it is read instead of symbol-years.
        cost: What is expected, in symbol-years.
    """

    year: int
    current: Sequence[date]
    numbers: Days
    days: Sequence[date]
    file: _File | None = None
    cost: int = 0


@dataclass(frozen=True, slots=True)
class _File:
    """A year file as it was looked at.

    Args:
        shown: What it shows.
        opened: The file; None over a network, where it is fetched when it is read.
    """

    shown: _Shown
    opened: YearFile | None


@dataclass(frozen=True, slots=True)
class _Found:
    """What was read for an answer.

    Args:
        symbol_years: Bars of symbols, by symbol and session.
        files: Bars of years, each by symbol and session.
        sessions: Bars of sessions, by symbol.
    """

    symbol_years: Sequence[pa.Table]
    files: Sequence[Rows]
    sessions: Sequence[pa.Table]


class Reader:
    """Reads a lake. What lies there is looked up once, year by year; `refresh` forgets it.

    A session that the caller can know of is never answered as if it were not there: not one that
    was listed since (`listed`), and not one that is named and newer than any seen so far.

    Args:
        store: Where the lake is.
        workers: Reads under way at once, over a network.
        clock: Time.
    """

    def __init__(self, store: Store, workers: int = _WORKERS, clock: Clock | None = None) -> None:
        self._store, self._clock = store, clock or Clock()
        self._near = store.readers(workers) < workers  # in a folder, where nobody waits
        self._files_of_years = YearFiles(store)
        self._pool = ThreadPoolExecutor(store.readers(workers), "lake-reader")
        self._years: dict[int, _Year] = {}
        self._manifests: dict[int, Manifest] = {}
        self._files: dict[int, tuple[_Year, _File | None]] = {}
        self._reading_manifests = threading.Lock()

    @property
    def _threads(self) -> ThreadPoolExecutor:
        require_unforked()
        return self._pool

    def refresh(self) -> None:
        """Look again what lies in the lake at the next question."""
        self._years.clear()
        self._manifests.clear()
        self._files.clear()

    def listed(self, days: Iterable[date]) -> None:
        """Look again at the years in which other sessions are published than were seen.

        Args:
            days: All sessions that are published, as they were listed just now.
        """
        now: dict[int, set[date]] = {}
        for day in days:
            now.setdefault(day.year, set()).add(day)
        for year, seen in self._years.copy().items():
            if seen.sessions.keys() != now.get(year, set()):
                self._forget(year)

    def holes(
        self, start: date | str | None, end: date | str | None
    ) -> list[MissingSessionsWarning]:
        """What is to be said of the sessions of a range that are not published, if some are not."""
        lost = self._unpublished(*span_of(start, end), start, end)
        if not lost:
            return []
        also = f" … {lost[-1]}" if lost[1:] else ""
        return [
            MissingSessionsWarning(
                f"{len(lost):,} of the sessions asked for {verb(len(lost))} not in "
                f"{self._store.uri}: {lost[0]}{also}. A return over such a gap spans more "
                "than one session; `Lake.missing` and `Lake.coverage` tell which they are"
            )
        ]

    def missing(
        self,
        symbols: str | Iterable[str],
        start: date | str | None = None,
        end: date | str | None = None,
    ) -> pa.Table:
        """Of which sessions nobody knows whether these symbols traded, and why.

        A symbol that did not trade, as the source says, is not missing; nor is one that the
        source calls no symbol.

        Args:
            symbols: One or several; in any case of letters.
            start: First day; None: the first session of the lake.
            end: Last day; None: the newest session of the lake.

        Returns:
            A table in `MISSING`, by symbol and session; empty when every answer is there.

        Raises:
            ValueError: A day that is none, `end` before `start`, or no symbol at all.
            NotInLakeError: A symbol that neither the lake nor its newest universe knows.
            BrokenFileError: The file of a session, or of the universe, is damaged.
        """
        names = symbols_of(symbols)
        if names is None:
            raise ValueError("no symbol is given: give one or more")
        bars = self.bars(names, start, end)
        first, last = span_of(start, end)
        waiting = frozenset(layout.dated(layout.INCOMPLETE, self._store.list(layout.INCOMPLETE)))
        rows: list[tuple[str, date, str, str | None]] = [
            (name, day, "incomplete" if day in waiting else "not published", None)
            for day in self._unpublished(first, last, start, end)
            for name in names
        ]
        years = self._looked_at(first.year, last.year)
        days = [day for year in years for day in year.sessions if first <= day <= last]
        printed: dict[date, set[str]] = {day: set() for day in days}
        for name, day in zip(*(bars[c].to_pylist() for c in ("symbol", "session")), strict=True):
            printed[day].add(name)
        # What lies in the lake of a day that was no session lacks nothing that could be collected.
        sessions = frozenset(closed_sessions(first, last, self._clock.now()))
        doubtful = [day for day in days if len(printed[day]) < len(names) and day in sessions]
        for day, ledger in zip(doubtful, self._each(self._unbarred, doubtful), strict=True):
            known = ledger.symbols
            for name in names - printed[day]:
                if name in ledger.failed:
                    rows.append((name, day, "failed", ledger.failed[name]))
                elif name in ledger.pending:
                    rows.append((name, day, "pending", None))
                elif name not in known:
                    rows.append((name, day, "never asked", None))
        rows.sort(key=lambda row: row[:2])
        return pa.Table.from_pylist(
            [dict(zip(MISSING.names, row, strict=True)) for row in rows], schema=MISSING
        )

    def bars(
        self,
        symbols: str | Iterable[str] | None,
        start: date | str | None = None,
        end: date | str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Bars of these symbols from `start` to `end`, both included, by symbol and session.

        Args:
            symbols: One, several (also as an array of numpy, pandas, Polars or Arrow), or None for
                all; in any case of letters.
            start: First day; None: as far back as there is anything.
            end: Last day; None: the newest session.
            columns: The columns wanted, in this order; None: all. Others are not decoded.

        Returns:
            A table in `collection.bars.SCHEMA`, or these columns of it. A known symbol without a
            bar in the range has no row; `explain` tells why. What is to be said of sessions that
            are not there: `holes`.

        Raises:
            ValueError: A day that is none, `end` before `start`, no symbol at all, or a column
                that bars don't have.
            NotInLakeError: A symbol that neither the lake nor its newest universe knows.
            BrokenFileError: The file of a session, or of the universe, is damaged.
        """
        names = symbols_of(symbols)
        schema = schema_of(columns)
        first, last = span_of(start, end)
        if named := [day for day in (start, end) if day is not None]:
            self._look_beyond(max(map(as_day, named)))
        read = [name for name in SCHEMA.names if name in _ORDER or name in schema.names]
        parts = [
            self._part(year, names, first, last) for year in self._looked_at(first.year, last.year)
        ]
        found = self._read(parts, names, read)
        if found.files and not (found.symbol_years or found.sessions):  # their order is known
            rows = merged(found.files)
            self.require_known((names or frozenset()) - frozenset(rows.symbols))
            return rows.table(schema.names)
        bars, there = _ordered(found, parts, read)
        self.require_known((names or frozenset()) - there)
        return bars if read == schema.names else bars.select(schema.names)

    def session(self, day: date | str) -> Session:
        """A published session: its bars, its ledger, its provenance.

        Raises:
            ValueError: No day.
            NotInLakeError: It is not published, and why.
            BrokenFileError: Its file is damaged.
        """
        found = self._session(as_day(day))
        if isinstance(found, str):
            raise NotInLakeError(found)
        return found

    def symbols(self, year: int | None = None) -> list[str]:
        """The symbols that have a bar, ascending: ever, or in this year."""
        years = self._looked_at(*(_EVER if year is None else (year, year)))
        unread: list[date] = []
        found: set[str] = set()
        for held in years:
            current = self._current(held.shown, held.sessions)
            # Only of what was added since the publication can a manifest's symbols be completed;
            # where something was restated or is being written, it may name one too many.
            if held.manifest and held.manifest.whole and current >= held.manifest.sessions.keys():
                found.update(self._manifest(held.year).symbols)
                unread += held.sessions.keys() - current
            else:
                unread += held.sessions
        for bars in self._each(lambda day: self._session_bars(day, None, ["symbol"]), unread):
            found.update(bars["symbol"].to_pylist())
        return sorted(found)

    def explain(self, symbol: str, day: date | str) -> str:
        """Why there is a bar of this symbol on this day, or none, in a sentence or two.

        Raises:
            ValueError: No day, or no symbol.
            NotInLakeError: A symbol that neither the lake nor its newest universe knows.
            BrokenFileError: The session's file is damaged.
        """
        name = symbol_of(symbol)
        found = self._session(as_day(day))
        if isinstance(found, str):
            return found
        if name not in found.ledger.symbols:
            self.require_known({name})
        return _told(name, found)

    def published(self, first: date, last: date) -> dict[date, str]:
        """The published sessions of a range, ascending, with the versions of their objects."""
        years = self._looked_at(first.year, last.year)
        held = [item for year in years for item in year.sessions.items()]
        return {day: version for day, version in sorted(held) if first <= day <= last}

    def meanwhile(self, do: Callable[[], _Out]) -> Future[_Out]:
        """Begin something short that waits for the store, beside what is read.

        In a folder it is done at once: there it takes less time than a thread to wake.
        """
        if not self._near:
            return self._threads.submit(do)
        done: Future[_Out] = Future()
        done.set_result(do())
        return done

    # What lies in the lake

    def _looked_at(self, first: int, last: int) -> list[_Year]:
        """The years from `first` to `last` that have a session."""
        span = range(max(first, _EVER[0]), min(last, _EVER[1]) + 1)
        known = self._years.copy()  # another thread may forget some meanwhile
        if new := [year for year in span if year not in known]:
            # A listing for each year: side by side they take no longer than one page of a long one.
            for found in self._each(self._look, new):
                known[found.year] = self._years[found.year] = found
        return [known[year] for year in span if known[year].sessions]

    def _unpublished(
        self, first: date, last: date, start: date | str | None, end: date | str | None
    ) -> list[date]:
        """The closed sessions of a range that are not published, ascending.

        Where the range has no bound of its own, the first and the newest session are its bounds.
        """
        years = self._looked_at(first.year, last.year)
        held = [days for year in years if (days := year.within(first, last))]
        if not held and (start is None or end is None):
            return []
        first = held[0][0] if start is None else first
        last = held[-1][-1] if end is None else last
        first, last = _closed(first, last, self._clock.now())
        # Nearly always there is none: to look for each session takes a tenth of a read of 15 years.
        lacking = {year.year: year.lacking for year in years}
        return [
            day
            for year in range(first.year, last.year + 1)
            for day in (lacking[year] if year in lacking else _calendar_of(year))
            if first <= day <= last
        ]

    def _unbarred(self, day: date) -> Ledger:
        key = layout.session_key(day)
        footer = session_file.read_footer(self._store, key)
        return session_file.unbarred(footer, self._store.url(key))

    def _look_beyond(self, day: date) -> None:
        """Forget the year of a day that is newer than every session seen of it."""
        # Nothing of a session that has not closed is there: who asks up to today, or to the end of
        # the year, symbol by symbol, pays for no listing each time.
        with suppress(market_calendar.OutsideCalendar):
            day = min(day, market_calendar.latest_closed_session(self._clock.now()))
        seen = self._years.get(day.year)
        if seen and day > max(seen.days[-1:], default=date.min):
            self._forget(day.year)

    def _forget(self, year: int) -> None:
        self._years.pop(year, None)
        self._manifests.pop(year, None)
        self._files.pop(year, None)

    def _look(self, year: int) -> _Year:
        versions = self._store.versions(layout.sessions_of(year))
        days = layout.dated(layout.SESSIONS, list(versions))
        sessions = {day: versions[layout.session_key(day)] for day in days}
        return _Year(year, sessions, self._made_from(year) if sessions else None)

    def _made_from(self, year: int) -> Manifest | None:
        try:
            told = read_made_from(self._store, layout.manifest_key(year), Manifest.decode)
            return replace(told, symbols={}) if told.whole else self._manifest(year)
        except FileNotFoundError:
            return None
        except BrokenFileError as error:
            _log.warning("%s. Until then sessions are read", error)
            return None

    def _manifest(self, year: int) -> Manifest:
        """With its symbols; of a whole market it takes 15 ms to decode."""
        with self._reading_manifests:
            if year not in self._manifests:
                key = layout.manifest_key(year)
                self._manifests[year] = Manifest.decode(self._store.get(key), self._store.url(key))
            return self._manifests[year]

    def _newest(self) -> date | None:
        years = self._looked_at(*_EVER)
        return max(years[-1].sessions) if years else None

    # What to read

    def _current(self, shown: _Shown, days: Iterable[date]) -> frozenset[date]:
        """Those of these sessions that a projection holds as they lie in the lake now."""
        current = shown.same.intersection(days)
        if doubtful := shown.doubtful.intersection(days):
            current |= currency.unchanged(self._store, shown.made_from, shown.sessions, doubtful)
        return current

    def _part(self, year: _Year, names: frozenset[str] | None, first: date, last: date) -> _Part:
        days = year.within(first, last)
        numbers = year.numbers if days is year.days else as_numbers(days)
        part = _Part(year.year, (), numbers[:0], days, cost=SESSION_COST * len(days))
        if names is not None and not year.unknown(names):
            by_symbol = self._showing(year.shown, year, days, numbers, len(names))
            part = by_symbol if by_symbol.cost < part.cost else part
        if part.cost <= GROUP_COST or not (file := self._file(year)):
            return part
        by_file = self._showing(file.shown, year, days, numbers, self._cost(file, names))
        return replace(by_file, file=file) if by_file.cost < part.cost else part

    def _showing(
        self, shown: _Shown, year: _Year, days: Sequence[date], numbers: Days, cost: int
    ) -> _Part:
        """These sessions from a projection of this cost, and what it does not show from theirs."""
        if shown.all_same:
            return _Part(year.year, days, numbers, (), cost=cost)
        there = self._current(shown, days)
        current, behind = (
            [day for day in days if (day in there) is here] for here in (True, False)
        )
        cost += SESSION_COST * len(behind)
        # Without a session that it shows, it is no way to read them.
        return _Part(year.year, current, as_numbers(current), behind, cost=cost)

    # Reading

    def _read(
        self, parts: Sequence[_Part], names: frozenset[str] | None, columns: list[str]
    ) -> _Found:
        """Read all parts; what can't be had from a projection, from its sessions."""
        files = [part for part in parts if part.file]
        by_symbol = [part for part in parts if part.current and not part.file]
        asked = [(name, part.year) for name in sorted(names or ()) for part in by_symbol]
        together = _TOGETHER if self._near else 1
        groups = [asked[at : at + together] for at in range(0, len(asked), together)]
        days = [day for part in parts for day in part.days]
        read_session = partial(self._session_bars, columns=columns)
        read_symbol_years = partial(self._symbol_years, columns=columns)
        read_file = partial(self._file_rows, names=names, columns=columns)
        # All reads are under way before the first is waited for. What is no session is read by
        # this thread in a folder: others would take more of the processor, and little less time
        # (folder-reads.md).
        with (
            self._reading(partial(read_session, names=names), days) as of_days,
            self._reading(read_symbol_years, groups, here=self._near) as of_symbols,
            self._reading(read_file, files, here=self._near) as of_files,
        ):
            symbol_years = list(chain.from_iterable(of_symbols))
            rows, sessions = list(of_files), list(of_days)
        lost: dict[int, frozenset[str] | None] = {
            part.year: names for part, each in zip(files, rows, strict=True) if each is None
        }
        for (name, year), bars in zip(asked, symbol_years, strict=True):
            if bars is None:
                lost[year] = (lost.get(year) or frozenset()) | {name}
        for part in parts:
            if part.year in lost:
                sessions += self._each(partial(read_session, names=lost[part.year]), part.current)
        return _Found(
            [bars for bars in symbol_years if bars is not None],
            [each for each in rows if each is not None],
            sessions,
        )

    # Year files

    def _file(self, year: _Year) -> _File | None:
        """The year's file, as it is looked at once; None when there is none to read."""
        # Another thread may have looked at the year again since: its file was held against other
        # sessions.
        of, file = self._files.get(year.year, (None, None))
        if of is not year:
            file = self._look_at_file(year)
            self._files[year.year] = year, file
        return file

    def _look_at_file(self, year: _Year) -> _File | None:
        key = layout.year_file_key(year.year)
        where = self._store.url(key)
        try:
            # One that is replaced later stays what it is for who has opened it.
            opened = YearFile(pa.OSFile(where), where) if self._near else None
            made_from = (
                of_year(year.year, opened.made_from, where)
                if opened
                else self._files_of_years.made_from(year.year)
            )
        except FileNotFoundError:
            return None
        except (OSError, BrokenFileError) as error:
            _log.warning("%s. Until then it is not read", error)
            return None
        if not made_from.whole:
            return None
        return _File(_Shown(year.sessions, made_from), opened)

    def _cost(self, file: _File, names: frozenset[str] | None) -> int:
        """What reading these symbols from a year file is expected to take, in symbol-years."""
        if file.opened is None:  # it comes whole
            rows = sum(each.rows for each in file.shown.made_from.digests.values())
            return GROUP_COST * -(-rows // BAND)
        groups = file.opened.count if names is None else len(file.opened.holding(names))
        return GROUP_COST * groups

    def _file_rows(
        self, part: _Part, names: frozenset[str] | None, columns: list[str]
    ) -> Rows | None:
        """A part's bars from its year file; None when they can't be had."""
        assert part.file is not None
        made_from = part.file.shown.made_from
        days = None if len(part.current) == len(made_from.sessions) else part.numbers
        key = layout.year_file_key(part.year)
        try:
            if (file := part.file.opened) is None:
                file = YearFile(self._store.get(key), where := self._store.url(key))
                if file.made_from != made_from:
                    raise FileNotFoundError(f"{where} was replaced while it was read")
            groups = range(file.count) if names is None else file.holding(names)
            return file.read(groups, names, days, columns)
        except (BrokenFileError, FileNotFoundError) as error:
            _log.warning("%s. Until then sessions are read", error)
            return None

    def _symbol_years(
        self, asked: Sequence[tuple[str, int]], columns: Sequence[str]
    ) -> list[pa.Table | None]:
        """The bars of symbols' years; None when there should be some and can't be had.

        All are read before the first is decoded, as `symbol_year_file.decode_all` wants them.
        """
        read = [self._symbol_year(name, year, columns) for name, year in asked]
        files = {where: data for where, data in read if isinstance(data, bytes)}
        decoded = dict(zip(files, symbol_year_file.decode_all(files, columns), strict=True))
        found: list[pa.Table | None] = []
        for where, data in read:
            bars = decoded[where] if isinstance(data, bytes) else data
            if isinstance(bars, BrokenFileError):
                _log.warning("%s. Until then sessions are read", bars)
                bars = None
            found.append(bars)
        return found

    def _symbol_year(
        self, name: str, year: int, columns: Sequence[str]
    ) -> tuple[str, bytes | pa.Table | None]:
        """The place of a symbol's year, and its file; or no bars where it needs none; or None."""
        key = layout.symbol_year_key(name, year)
        try:
            where = self._store.url(key)
        except ValueError:
            return key, empty().select(columns)  # no name of an object, so of no symbol
        try:
            return where, self._store.get(key)
        except FileNotFoundError:
            if not self._may_be_there(name, year):
                return where, empty().select(columns)  # it has no bar in this year
            _log.warning("%s is gone: publish %s again. Until then sessions are read", where, year)
        except BrokenFileError as error:
            _log.warning("%s. Until then sessions are read", error)
        return where, None

    def _may_be_there(self, name: str, year: int) -> bool:
        try:
            return name in self._manifest(year).symbols
        except (FileNotFoundError, BrokenFileError):
            return True  # nobody can tell

    def _session_bars(
        self, day: date, names: frozenset[str] | None = None, columns: Sequence[str] = SCHEMA.names
    ) -> pa.Table:
        key = layout.session_key(day)
        data, where = self._store.get(key), self._store.url(key)
        bars = (
            session_file.decode_bars(data, where)
            if columns == SCHEMA.names
            else session_file.decode_columns(data, where, columns)
        )
        if names is None:
            return bars
        return bars.filter(pc.is_in(bars["symbol"], pa.array(names, pa.string())))

    @contextmanager
    def _reading(
        self, do: Callable[[_In], _Out], items: Iterable[_In], *, here: bool = False
    ) -> Iterator[Iterator[_Out]]:
        """Read side by side, which has begun at once; or one after the other, when asked for."""
        if here:
            yield map(do, items)
            return
        begun = [self._threads.submit(do, item) for item in items]
        try:
            yield (reading.result() for reading in begun)
        finally:
            # After an error or Ctrl-C nobody waits for them, but the end of the process would.
            for reading in begun:
                reading.cancel()

    def _each(self, do: Callable[[_In], _Out], items: Iterable[_In]) -> list[_Out]:
        return list(self._threads.map(do, items))

    # What is not there

    def _session(self, day: date) -> Session | str:
        """A published session, or why there is none."""
        key = layout.session_key(day)
        try:
            return session_file.decode(self._store.get(key), self._store.url(key))
        except FileNotFoundError:
            return self._absence(day)

    def _absence(self, day: date) -> str:
        if not market_calendar.FIRST <= day <= market_calendar.LAST:
            return str(market_calendar.OutsideCalendar(day))
        if why := market_calendar.why_closed(day):
            before = market_calendar.previous_sessions(day, 1)
            return f"{day} is no trading session but {why}; " + (
                f"the one before it is {before[0]}" if before else "the calendar begins there"
            )
        key = layout.incomplete_key(day)
        try:
            waiting = session_file.decode(self._store.get(key), self._store.url(key)).ledger
        except FileNotFoundError:
            return self._not_collected(day)
        counts = ", ".join(f"{count:,} {state}" for state, count in waiting.counts.items() if count)
        why = "".join(f"; {reason}" for reason in reasons(waiting.failed)[:_REASONS])
        return (
            f"{day} did not pass its audit and waits in {self._store.url(key)} ({counts}){why}; to "
            f"ask for what is missing: datalake collect --session {day} --repair"
        )

    def _not_collected(self, day: date) -> str:
        newest = self._newest()
        if newest is None:
            return self._nothing()
        oldest = min(self._looked_at(*_EVER)[0].sessions)
        told = (
            f"is after the newest session of this lake, {newest}"
            if day > newest
            else f"is before the first session of this lake, {oldest}"
            if day < oldest
            else "was not collected"
        )
        once = ", once it has closed" if day > newest else ""
        return f"{day} {told}; to have it: datalake collect --session {day}{once}"

    def _nothing(self) -> str:
        return (
            f"no session is published in {self._store.uri}: correct the lake's URI "
            "(DATALAKE_URI), or collect some: datalake demo, datalake backfill"
        )

    def require_known(self, names: Iterable[str]) -> None:
        """Refuse names that are no symbols of this lake."""
        doubtful = sorted(names)
        if not doubtful:
            return
        newest = self._newest()
        if newest is None:
            raise NotInLakeError(self._nothing())
        universe = "and there is no universe"
        found = self._session(newest)
        known = set(found.ledger.symbols) if isinstance(found, Session) else set()
        for year in self._looked_at(*_EVER):
            if year.manifest:
                known.update(self._manifest(year.year).symbols)
        listed_on = layout.dated(layout.UNIVERSE, self._store.list(layout.UNIVERSE))
        if days := known_days(listed_on, self._clock.now()):
            key = layout.universe_key(days[-1])
            listed = universe_file.decode(self._store.get(key), self._store.url(key))
            known.update(listed["symbol"].to_pylist())
            universe = f"nor in the universe of {days[-1]}"
        unknown = [name for name in doubtful if name not in known]
        if unknown:
            near = sorted(
                {near for name in unknown[:5] for near in get_close_matches(name, known, 3)}
            )
            shown = ", ".join(unknown[:5]) + (" …" if len(unknown) > 5 else "")
            raise NotInLakeError(
                f"this lake knows no symbol {shown}: it is in no published year, not in "
                f"the session of {newest}, {universe}"
                + (f". Close to it: {', '.join(near[:6])}" if near else "")
            )


def as_day(day: date | str | np.datetime64) -> date:
    """The day that is meant.

    Args:
        day: A date, YYYY-MM-DD, a `numpy.datetime64`, or an instant that is a midnight (as pandas
            has days).

    Raises:
        ValueError: It is none.
    """
    if isinstance(day, np.datetime64):
        midnight = day.astype("datetime64[D]")
        if np.isnat(day) or np.datetime_data(day.dtype)[0] in ("Y", "M", "W") or midnight != day:
            raise ValueError(f"{day} is no day: give one, like np.datetime64('2024-07-03')")
        found = midnight.item()
        if not isinstance(found, date):  # of a year after 9999
            raise ValueError(f"{day} is no day: give one, like np.datetime64('2024-07-03')")
        return found
    if isinstance(day, datetime):
        if day != day:
            raise ValueError(f"{day!r} is no day: give a date, or text like 2024-07-03")
        if day.time() != time.min:
            raise ValueError(f"{day} is an instant, and a day is wanted: pass its date()")
        return day.date()
    if isinstance(day, date):
        return day
    try:
        found = date.fromisoformat(day)
        # It would take 20240703 and 2024-W27-3, too.
        if found.isoformat() != day:
            raise ValueError("another form of a date")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{day!r} is no day: give a date, or text like 2024-07-03") from error
    return found


def known_days(days: Sequence[date], now: datetime) -> list[date]:
    """Those of these ascending days that are not still to come in New York."""
    return list(days[: bisect_right(days, market_calendar.today(now))])


def closed_sessions(first: date, last: date, now: datetime) -> list[date]:
    """The sessions from the first to the last day that have closed, as far as the calendar goes."""
    first, last = _closed(first, last, now)
    return market_calendar.sessions(first, last) if first <= last else []


def _closed(first: date, last: date, now: datetime) -> tuple[date, date]:
    """This range as far as the calendar goes and its sessions have closed."""
    first, last = max(first, market_calendar.FIRST), min(last, market_calendar.LAST)
    with suppress(market_calendar.OutsideCalendar):
        last = min(last, market_calendar.latest_closed_session(now))
    return first, last


def _calendar_of(year: int) -> list[date]:
    """The sessions of a year, as far as the calendar goes."""
    first, last = date(year, 1, 1), date(year, 12, 31)
    return market_calendar.sessions(
        max(first, market_calendar.FIRST), min(last, market_calendar.LAST)
    )


def span_of(start: date | str | None, end: date | str | None) -> tuple[date, date]:
    """The first and the last day of a range, both included.

    Raises:
        ValueError: A day that is none, or `end` before `start`.
    """
    first = date.min if start is None else as_day(start)
    last = date.max if end is None else as_day(end)
    if last < first:
        raise ValueError(f"the end, {last}, is before the start, {first}")
    return first, last


def symbols_of(symbols: str | Iterable[str] | None) -> frozenset[str] | None:
    """The symbols that are meant, in capitals; None for all.

    Raises:
        ValueError: No symbol, or something that is none.
    """
    if symbols is None:
        return None
    if isinstance(symbols, pa.Array | pa.ChunkedArray):
        symbols = symbols.to_pylist()  # what they iterate over are scalars, no text
    names = frozenset(map(symbol_of, several("symbols", symbols)))
    if not names:
        raise ValueError("no symbol is given: give one or more, or None for all")
    return names


def symbol_of(symbol: object) -> str:
    """The symbol that is meant, in capitals; ValueError when it is none."""
    name = symbol.strip().upper() if isinstance(symbol, str) else ""
    if not name:
        raise ValueError(f"{symbol!r} is no symbol: give one like AAPL or BRK.B")
    return name


def schema_of(columns: Sequence[str] | None) -> pa.Schema:
    """The schema of these columns of the bars, in this order; None: of all.

    Raises:
        ValueError: No column, one that bars don't have, or one twice.
    """
    if columns is None or columns == SCHEMA.names:
        return SCHEMA
    names = [columns] if isinstance(columns, str) else list(columns)
    unknown = [name for name in names if name not in SCHEMA.names]
    if unknown or not names or len(set(names)) < len(names):
        wrong = f"bars have no column {unknown[0]!r}" if unknown else f"{names} are no columns"
        raise ValueError(f"{wrong}: give some of {', '.join(SCHEMA.names)}, each once")
    return pa.schema([SCHEMA.field(name) for name in names])


def as_numbers(days: Sequence[date]) -> Days:
    """Days as numbers, as `securities.evidence.days_of` has them."""
    return np.array(days, "datetime64[D]").astype(np.int32)


def _ordered(
    found: _Found, parts: Sequence[_Part], columns: Sequence[str]
) -> tuple[pa.Table, frozenset[str]]:
    """The bars by symbol and session, in one piece, and which symbols there are.

    A symbol-year may hold bars that were published since the reader looked, or that are none of
    the lake's any more: they are left out.

    Files are sorted and read in order, so mostly there is nothing to do but to see that. A number
    for each symbol and session, compared with the one before, tells it in a twentieth of the time
    that sorting by text takes.
    """
    others = [*found.sessions, *(each.table(columns) for each in found.files)]
    tables = [*found.symbol_years, *others]
    bars = pa.concat_tables(tables).combine_chunks() if tables else empty().select(columns)
    if not bars.num_rows:
        return bars, frozenset()
    days = bars["session"].chunk(0).view(pa.int32()).to_numpy()
    held = sum(each.num_rows for each in found.symbol_years)
    stays = _among(days[:held], [part.numbers for part in parts if not part.file])
    if held < len(days):
        stays = np.append(stays, np.ones(len(days) - held, bool))
    symbols = bars["symbol"].chunk(0).dictionary_encode()
    names, codes = np.array(symbols.dictionary.to_pylist(), object), symbols.indices.to_numpy()
    place = days
    if len(names) > 1:
        rank = np.empty(len(names), np.int64)
        rank[np.argsort(names)] = np.arange(len(names))
        place = (rank[codes] << 32) + days
    if not stays.all() or (place[1:] < place[:-1]).any():
        order = np.argsort(place, kind="stable")
        order = order[stays[order]]
        bars, names = bars.take(pa.array(order)), names[np.unique(codes[order])]
    return bars, frozenset(names)


def _among(days: Days, spans: Sequence[Days]) -> npt.NDArray[np.bool_]:
    """Which of these days are among those of the spans, which ascend.

    By a table of days: `numpy.isin` makes one, too, and takes four times as long.
    """
    if not len(days) or not any(map(len, spans)):
        return np.zeros(len(days), bool)
    shown = np.concatenate(spans)
    before = shown[0] - 1
    # Its first and its last entry stand for all days before and after, and are none of the spans'.
    table = np.zeros(shown[-1] - before + 2, bool)
    table[shown - before] = True
    among: npt.NDArray[np.bool_] = table.take(days - before, mode="clip")
    return among


def _told(name: str, session: Session) -> str:
    """What the ledger says of a symbol, and what to do."""
    ledger = session.ledger
    day, again = ledger.session, f"datalake collect --session {ledger.session}"
    if name in ledger.present:
        (bar,) = session.bars.filter(pc.equal(session.bars["symbol"], name)).to_pylist()
        last = price_text(bar["close"])
        return f"{name} has a bar on {day}: {bar['volume']:,} shares, the last at {last}"
    if name in ledger.no_print:
        return f"{name} did not trade on {day}: the source answered and had no bar"
    if name in ledger.failed:
        return (
            f"{name} was asked for on {day} and could not be had ({ledger.failed[name]}); to ask "
            f"again: {again} --repair"
        )
    if name in ledger.pending:
        return (
            f"{name} was not asked for on {day}: the collection was stopped before; to go on: "
            f"{again} --repair"
        )
    if name in ledger.rejected:
        return f"the source calls {name} no symbol on {day}: {ledger.rejected[name]}"
    collected = session.provenance.collected_at
    return (
        f"{name} was not asked for on {day}: it was in no list of symbols when the session was "
        f"collected, {collected:%Y-%m-%d}; to ask for it: {again}"
    )
