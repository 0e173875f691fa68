"""Minutes: which sessions have some, and reading those of some symbols, hours and instants.

Belongs here: choosing sessions, reading their files side by side, and telling what is missing. Does
not belong here: one file (`minute_file`), putting minutes together (`resampling`), and whose
minutes a symbol means (`security_reader`).

Sessions are read in their order, some ahead of the one that is waited for. Rows that nobody asked
for go, and minutes are put together, row group by row group. So what is in memory is the answer,
and a few reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.progress import verb
from datalake_assets.lake.minute_file import MinuteFile, Piece, ReplacedError
from datalake_assets.lake.reader import (
    MissingSessionsWarning,
    NotInLakeError,
    Reader,
    as_day,
    closed_sessions,
    schema_of,
    span_of,
    symbol_of,
    symbols_of,
)
from datalake_assets.lake.resampling import minutes_of, resample
from datalake_assets.securities.evidence import days_of
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, require_unforked

REGULAR, EXTENDED = "regular", "extended"

_WORKERS = 16
"""Reads under way at once, over a network."""

_AHEAD = 2
"""Reads that are begun for each that is under way."""

_TRIES = 3
"""How often a file is opened that is replaced again and again."""

_FOLDERS = 2
"""Years that are listed one by one; of more the folder of all of them is listed."""

_NAMED = 5
"""Sessions without minutes that a warning names."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_READ = ("symbol", "session", "timestamp")

_Part = Callable[[date, pa.Table], pa.Table]
"""What is done with some rows of a session."""

_Look = Callable[[date, MinuteFile], object]
"""What is done with the file of a session."""

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class MissingHoursWarning(UserWarning):
    """Minutes of extended hours were read over sessions that hold those of regular hours alone."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which minutes somebody wants.

    Args:
        first: The first session; None: the first that has minutes.
        last: The last session; None: the newest that has minutes.
        since: The first minute's start, in microseconds since 1970, UTC; None: no bound.
        until: The last minute's start; None: no bound.
        regular: Whether only those of regular hours.
        every: What to put them together to, as for `resample`; None: nothing.
    """

    first: date | None
    last: date | None
    since: int | None
    until: int | None
    regular: bool
    every: str | timedelta | None

    @classmethod
    def of(
        cls,
        start: date | str | np.datetime64 | None,
        end: date | str | np.datetime64 | None,
        hours: str,
        every: str | timedelta | None,
    ) -> Asked:
        """What these words mean; `Lake.minutes` tells them.

        Raises:
            ValueError: One of them means nothing, or `end` is before `start`.
        """
        if hours not in (REGULAR, EXTENDED):
            raise ValueError(f"hours={hours!r} is unknown: give {REGULAR!r} or {EXTENDED!r}")
        if every is not None:
            minutes_of(every)
        first, since = _bound(start)
        last, until = _bound(end)
        span_of(first, last)
        if since is not None and until is not None and until < since:
            raise ValueError(f"the end, {end}, is before the start, {start}")
        return cls(first, last, since, until, hours == REGULAR, every)

    def beyond_regular(self, day: date) -> bool:
        """Are minutes of this session wanted that are before its open or after its close?"""
        if self.regular:
            return False
        opens = _number(market_calendar.session_open(day))
        closes = _number(market_calendar.session_close(day))
        return (
            self.since is None or self.until is None or self.since < opens or self.until >= closes
        )

    def kept(self, rows: pa.Table, day: date) -> pa.Table:
        """Those of a session's rows that are wanted."""
        since, until = self.since, self.until
        if self.regular:
            opens, closes = market_calendar.session_open(day), market_calendar.session_close(day)
            since = max(_number(opens), since or 0)
            last = _number(closes) - 1
            until = last if until is None else min(last, until)
        if since is None and until is None:
            return rows
        times = rows["timestamp"].cast(pa.int64()).to_numpy()
        there = np.ones(len(times), bool)
        if since is not None:
            there &= times >= since
        if until is not None:
            there &= times <= until
        return rows if there.all() else rows.take(pa.array(np.flatnonzero(there)))


class Minutes:
    """The minutes of a lake.

    What is published is listed with each question, so an answer is never older than that.

    Args:
        store: Where the lake is.
        daily: Reads its daily bars: it knows the lake's symbols.
        clock: Time.
    """

    def __init__(self, store: Store, daily: Reader, clock: Clock | None = None) -> None:
        self._store, self._daily, self._clock = store, daily, clock or Clock()
        self._workers = store.readers(_WORKERS)
        self._pool = ThreadPoolExecutor(self._workers, "lake-minutes")

    def asked(self, asked: Asked) -> AskedMinutes:
        """What reads these minutes by ticker."""
        return AskedMinutes(self, self._daily, asked)

    def sessions(self, first: date = date.min, last: date = date.max) -> dict[date, str]:
        """The sessions of a range whose minutes are published, ascending, with their versions."""
        years = range(first.year, last.year + 1)
        of_years = [layout.sessions_of(year, layout.MINUTE) for year in years[:_FOLDERS]]
        folders = of_years if len(years) <= _FOLDERS else [layout.MINUTE.sessions]
        found: dict[date, str] = {}
        for folder in folders:
            versions = self._store.versions(folder)
            for day in layout.MINUTE.days(versions):
                if first <= day <= last:
                    found[day] = versions[layout.session_key(day, layout.MINUTE)]
        return dict(sorted(found.items()))

    def holes(self, asked: Asked, held: Mapping[date, str]) -> list[MissingSessionsWarning]:
        """What is to be said of the closed sessions of a range that have no minutes.

        Args:
            asked: Which minutes.
            held: The sessions of the range whose minutes are published.
        """
        first, last = span_of(asked.first, asked.last)
        if not held and (asked.first is None or asked.last is None):
            return []
        begin = min(held) if asked.first is None else first
        end = max(held) if asked.last is None else last
        lost = [d for d in closed_sessions(begin, end, self._clock.now()) if d not in held]
        if not lost:
            return []
        return [
            MissingSessionsWarning(
                f"{len(lost):,} of the sessions asked for {verb(len(lost))} not in "
                f"{self._store.uri} by the minute: {named(lost)}. "
                "`Lake.minute_sessions` lists those that are"
            )
        ]

    def nothing(self) -> str:
        """What to say of a lake without minutes, and what to do."""
        return (
            f"no minute bars are in {self._store.uri}: they are off until DATALAKE_MINUTES is set "
            "to regular or extended. Set it, and collect some: datalake collect --minutes "
            "--session DAY"
        )

    def explain(self, symbol: str, day: date) -> str:
        """Why there are minutes of a symbol in a session, or none, in a sentence.

        Raises:
            NotInLakeError: A symbol that the lake does not know.
            BrokenFileError: The file is damaged.
        """
        name = symbol_of(symbol)
        again = f"datalake collect --minutes --session {day}"
        if why := self.absence(day):
            return why
        if self.read([day], frozenset([name]), _READ, lambda _, rows: rows):
            return f"{name} has minutes on {day}, and none in the hours asked for"
        ledger = MinuteFile(self._store, day).unbarred()
        if name in ledger.no_print:
            return f"{name} did not trade on {day}: the source answered and had no minute"
        if name in ledger.failed or name in ledger.pending:
            why = ledger.failed.get(name, "the collection was stopped before")
            return f"the minutes of {name} on {day} could not be had ({why}): {again} --repair"
        if name in ledger.rejected:
            return f"the source calls {name} no symbol on {day}: {ledger.rejected[name]}"
        self._daily.require_known({name})
        return f"the minutes of {name} were not asked for on {day}"

    def require_known(self, names: frozenset[str], days: Sequence[date]) -> None:
        """Refuse names that are no symbols of the lake.

        Args:
            names: Symbols without a minute in these sessions.
            days: Published sessions; the last one's ledger mostly knows them.

        Raises:
            NotInLakeError: One of the names is none.
        """
        if days:
            file = MinuteFile(self._store, days[-1])
            names -= file.unbarred().symbols
        self._daily.require_known(names)

    def absence(self, day: date) -> str | None:
        """Why no minutes of a day are published; None if they are."""
        again = f"datalake collect --minutes --session {day}"
        if self._store.exists(layout.session_key(day, layout.MINUTE)):
            return None
        if not market_calendar.FIRST <= day <= market_calendar.LAST:
            return str(market_calendar.OutsideCalendar(day))
        if why := market_calendar.why_closed(day):
            return f"{day} is no trading session but {why}"
        waiting = layout.incomplete_key(day, layout.MINUTE)
        if self._store.exists(waiting):
            place = self._store.url(waiting)
            return (
                f"the minutes of {day} did not pass their audit and wait in {place}; to ask for "
                f"what is missing: {again} --repair"
            )
        if not self.sessions():
            return self.nothing()
        return f"the minutes of {day} were not collected: {again}"

    def read(
        self,
        days: Sequence[date],
        names: frozenset[str] | None,
        columns: Sequence[str],
        do: _Part,
        look: _Look = lambda day, file: None,
    ) -> list[pa.Table]:
        """The rows of these symbols in these sessions, each part as `do` leaves it.

        Args:
            days: Published sessions, ascending.
            names: The symbols; None for all.
            columns: The columns, in the order of `SCHEMA`.
            do: What to do with the rows of each row group, which has whole symbols.
            look: Is given each file when it was opened.

        Returns:
            Tables by session, and symbol in it. `symbol` is a dictionary.
        """
        wanted = None if names is None else sorted(names)
        tables: list[pa.Table] = []
        each = partial(self._opened, names=wanted, columns=columns, do=do, look=look)
        with closing(self._ahead(each, days)) as opened:
            for day, found in zip(days, opened, strict=True):
                if isinstance(found, list):
                    tables += found
                    continue
                file, pieces = found
                read = partial(self._done, file, names=wanted, columns=columns, do=partial(do, day))
                try:
                    with closing(self._ahead(read, pieces)) as parts:
                        tables += [part for many in list(parts) for part in many]
                except ReplacedError:
                    tables += self._again(day, wanted, columns, do, look)
        return tables

    def _opened(
        self,
        day: date,
        names: Sequence[str] | None,
        columns: Sequence[str],
        do: _Part,
        look: _Look,
    ) -> list[pa.Table] | tuple[MinuteFile, list[Piece]]:
        """What a session has of these symbols; what to read, when that is more than one range."""
        file = MinuteFile(self._store, day)
        look(day, file)
        pieces = file.pieces(names, columns)
        if len(pieces) > 1:
            return file, pieces
        try:
            return self._whole(file, pieces, names, columns, partial(do, day))
        except ReplacedError:
            return self._again(day, names, columns, do, look)

    def _again(
        self,
        day: date,
        names: Sequence[str] | None,
        columns: Sequence[str],
        do: _Part,
        look: _Look,
    ) -> list[pa.Table]:
        """The same of a session whose file was replaced while it was read."""
        for left in reversed(range(_TRIES)):
            try:
                file = MinuteFile(self._store, day)
                look(day, file)
                pieces = file.pieces(names, columns)
                return self._whole(file, pieces, names, columns, partial(do, day))
            except ReplacedError:
                if not left:
                    raise
        raise AssertionError  # unreachable: the last error was raised

    def _whole(
        self,
        file: MinuteFile,
        pieces: Sequence[Piece],
        names: Sequence[str] | None,
        columns: Sequence[str],
        do: Callable[[pa.Table], pa.Table],
    ) -> list[pa.Table]:
        """The rows of all pieces, one piece after another."""
        parts = (self._done(file, piece, names, columns, do) for piece in pieces)
        return [part for some in parts for part in some]

    def _done(
        self,
        file: MinuteFile,
        piece: Piece,
        names: Sequence[str] | None,
        columns: Sequence[str],
        do: Callable[[pa.Table], pa.Table],
    ) -> list[pa.Table]:
        asked = None if names is None else pa.array(names, pa.string())
        parts = map(do, file.read(piece, asked, columns))
        return [part for part in parts if part.num_rows]

    def _ahead(
        self, do: Callable[[_In], _Out], items: Sequence[_In]
    ) -> Generator[_Out, None, None]:
        """What this gives for each of the items, in their order; some are done ahead."""
        require_unforked()
        waiting: deque[Future[_Out]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(do, item))
                if len(waiting) >= _AHEAD * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # After an error or Ctrl-C nobody waits for them, but the end of the process would.
            for each in waiting:
                each.cancel()


class AskedMinutes:
    """Reads some minutes by ticker, as `Reader` reads daily bars: what `SecurityReader` asks.

    Args:
        minutes: The lake's minutes.
        daily: Reads its daily bars.
        asked: Which minutes.
    """

    def __init__(self, minutes: Minutes, daily: Reader, asked: Asked) -> None:
        self._minutes, self._daily, self._asked = minutes, daily, asked
        # Whether what was read has the hours that were asked for.
        self._whole: dict[date, bool] = {}

    def bars(
        self,
        symbols: str | Iterable[str] | None,
        start: date | str | None = None,
        end: date | str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The minutes of these tickers from `start` to `end`, by symbol, session and time.

        Raises:
            ValueError: As `Reader.bars`.
            NotInLakeError: As there; or the lake has no minutes at all.
            BrokenFileError: A file is damaged.
        """
        names, schema, (first, last) = symbols_of(symbols), schema_of(columns), span_of(start, end)
        days = list(self.published(first, last))
        if not days and not self._minutes.sessions():
            raise NotInLakeError(self._minutes.nothing())
        needed = {*_READ, *schema.names}
        if self._asked.every is not None and "vwap" in needed:
            needed.add("volume")
        read = [name for name in SCHEMA.names if name in needed]
        found, there = _ordered(self._read(days, names, read), read)
        if missing := (names or frozenset()) - there:
            self._minutes.require_known(missing, days)
        return found.select(schema.names)

    def published(self, first: date, last: date) -> dict[date, str]:
        """The sessions of a range whose minutes are published, with the versions of their files."""
        return self._minutes.sessions(first, last)

    def meanwhile(self, do: Callable[[], _Out]) -> Future[_Out]:
        """Begin something beside what is read."""
        return self._daily.meanwhile(do)

    def warnings(self) -> list[UserWarning]:
        """What is to be said of sessions without minutes, and of those read with fewer hours."""
        return self._warnings(self._minutes.sessions(*span_of(self._asked.first, self._asked.last)))

    def _warnings(self, held: Mapping[date, str]) -> list[UserWarning]:
        """As `warnings`, of a range in which the minutes of these sessions are published."""
        told: list[UserWarning] = [*self._minutes.holes(self._asked, held)]
        if lacking := sorted(day for day, whole in self._whole.items() if not whole):
            told.append(
                MissingHoursWarning(
                    f"{len(lacking):,} of the sessions asked for "
                    f"{verb(len(lacking), 'has', 'have')} the minutes of regular hours "
                    f"only: {named(lacking)}. For those before and after too, set "
                    "DATALAKE_MINUTES=extended and collect them again: datalake collect --minutes "
                    f"--session {lacking[0]}"
                )
            )
        return told

    def _look(self, day: date, file: MinuteFile) -> None:
        if self._asked.beyond_regular(day):
            self._whole[day] = file.hours() != REGULAR

    def _read(
        self, days: Sequence[date], names: frozenset[str] | None, columns: Sequence[str]
    ) -> list[pa.Table]:
        """The rows of these symbols in these sessions, as `Minutes.read` gives them."""
        return self._minutes.read(days, names, columns, self._part, self._look)

    def _part(self, day: date, rows: pa.Table) -> pa.Table:
        """What is wanted of some rows of a session, which has all minutes of their symbols."""
        rows = self._asked.kept(rows, day)
        return rows if self._asked.every is None else resample(rows, self._asked.every)


def _bound(
    at: date | str | np.datetime64 | None,
) -> tuple[date | None, int | None]:
    """The session that a bound of a range lies in, and the instant where it is one."""
    if at is None:
        return None, None
    if isinstance(at, datetime) and at == at:  # no NaT
        if at.tzinfo is not None:
            return market_calendar.today(at), _number(at)
        if at.time() != time.min:
            raise ValueError(
                f"{at} has no time zone: give an instant with one, such as "
                f"{at.isoformat(timespec='minutes')}-04:00, or a day"
            )
    return as_day(at), None


def named(days: Sequence[date]) -> str:
    """The first of these sessions, and the last one."""
    also = f" … {days[-1]}" if len(days) > _NAMED else ""
    return f"{', '.join(map(str, days[:_NAMED]))}{also}"


def _number(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _ordered(tables: Sequence[pa.Table], columns: Sequence[str]) -> tuple[pa.Table, frozenset[str]]:
    """The rows by symbol and session, and which symbols there are.

    Args:
        tables: By session; in each of them rows by symbol and time.
        columns: Their columns.
    """
    empty = SCHEMA.empty_table().select(columns)
    rows = [table for table in tables if table.num_rows]
    if not rows:
        return empty, frozenset()
    every = pa.concat_tables(rows).unify_dictionaries().combine_chunks()
    symbols = every["symbol"].combine_chunks()
    codes = symbols.indices.to_numpy()
    names = np.array(symbols.dictionary.to_pylist(), object)
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(names)] = np.arange(len(names))
    place = (rank[codes] << 32) + days_of(every["session"])
    if (place[1:] < place[:-1]).any():
        every = every.take(pa.array(np.argsort(place, kind="stable")))
    return every.cast(empty.schema), frozenset(names[np.unique(codes)])
