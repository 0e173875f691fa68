"""The examination of a lake: every object read whole, and held against what it must agree with.

Belongs here: what is looked at, what is wrong with it, and the command that repairs it. Does not
belong here: repairing, showing it (`cli`), and what Dagster knows of the lake (`cli.doctor`).

A session is held against its own ledger, its name and the calendar; the symbol-years against the
sessions. Nothing is written.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import pyarrow.compute as pc

from datalake_assets import market_calendar
from datalake_assets.collection.clock import Clock
from datalake_assets.lake import session_file
from datalake_assets.lake.lake import FORMAT, Lake, WrongLakeError
from datalake_assets.lake.reader import known_days
from datalake_assets.lake.restatements import Restatements
from datalake_assets.lake.session_file import Session, Summary
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store

_READERS = 16

_AHEAD = timedelta(hours=1)
"""How far another machine's clock may be ahead of this one's."""

Progress = Callable[[str, int, int], object]
"""Told what is being looked at, how many were, and how many there are."""


@dataclass(frozen=True, slots=True)
class Defect:
    """Something that is wrong in a lake.

    Args:
        where: The object or folder, as a person finds it.
        what: What is wrong with it.
        repair: The command that repairs it; empty where none does, and `what` says what to do.
    """

    where: str
    what: str
    repair: str


@dataclass(frozen=True, slots=True)
class Examination:
    """One kind of objects, examined.

    Args:
        subject: What was looked at.
        count: How many.
        defects: What is wrong with them.
        seconds: How long it took.
    """

    subject: str
    count: int
    defects: Sequence[Defect]
    seconds: float


def examine(
    lake: Lake,
    years: Collection[int] | None = None,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> Iterator[Examination]:
    """Look at a lake; each kind of objects when it is done.

    Args:
        lake: The lake; one that was never written to has nothing wrong with it.
        years: Look at their sessions and symbol-years only; None for everything.
        progress: Called now and then.
        clock: Time.

    Raises:
        StoreError: The store can't be read.
    """
    timed = clock or Clock()
    examiner = _Examiner(lake, years, progress or (lambda subject, done, count: None), timed.now())
    for look in examiner.looks:
        began = timed.seconds()
        subject, count, defects = look()
        yield Examination(subject, count, defects, timed.seconds() - began)


def spans(days: Iterable[date], among: Sequence[date]) -> list[tuple[date, date]]:
    """The days as spans without holes: first and last of each.

    Args:
        days: Some days.
        among: All that there are, ascending; between two neighbours there is no hole.
    """
    place = {day: position for position, day in enumerate(among)}
    found: list[tuple[date, date]] = []
    for day in sorted(days):
        if found and place[day] == place[found[-1][1]] + 1:
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found


def removal(store: Store, key: str) -> str:
    """The command that removes an object."""
    place = store.url(key)
    return shlex.join(["aws", "s3", "rm", place] if place.startswith("s3:") else ["rm", place])


_Found = tuple[str, int, list[Defect]]


class _Examiner:
    """Looks at one lake."""

    def __init__(
        self, lake: Lake, years: Collection[int] | None, progress: Progress, now: datetime
    ) -> None:
        self._now = now
        self._lake, self._store, self._years, self._progress = lake, lake.store, years, progress
        # Years whose publication is still to come: nobody knows yet what is a stray of theirs.
        self._unsettled: set[int] = set()
        self.looks: list[Callable[[], _Found]] = [
            self._marker,
            self._published,
            self._incomplete,
            self._symbol_years,
        ]
        if years is None:
            self.looks += [self._restatements, self._universe, self._strays]

    def _marker(self) -> _Found:
        subject = "the lake's marker"
        try:
            source = self._lake.source()
        except WrongLakeError as error:
            return subject, 1, [self._unmarked(str(error))]
        if source is None:
            if not self._store.list(layout.SESSIONS):
                return subject, 0, []
            return subject, 1, [self._unmarked("it is not there, although sessions are")]
        found = json.loads(self._store.get(layout.MARKER)).get("format")
        if found != FORMAT:
            what = f"the layout is {found!r}, this program's is {FORMAT}: use the version of that"
            return subject, 1, [Defect(self._store.url(layout.MARKER), what, "")]
        return subject, 1, []

    def _unmarked(self, what: str) -> Defect:
        """A marker to be made again, from what the newest session says of its source."""
        repair = ""
        for day in reversed(self._lake.sessions()):
            (newest,) = self._lake.summaries([layout.session_key(day)])
            if isinstance(newest, Summary):
                marker = json.dumps({"format": FORMAT, "source": newest.provenance.source})
                repair = f"echo {shlex.quote(marker)} {self._into(layout.MARKER)}"
                break
        return Defect(self._store.url(layout.MARKER), what, repair)

    def _into(self, key: str) -> str:
        place = self._store.url(key)
        to = shlex.quote(place)
        return f"| aws s3 cp - {to}" if place.startswith("s3:") else f"> {to}"

    def _published(self) -> _Found:
        return self._sessions("published sessions", self._lake.sessions(), layout.session_key)

    def _incomplete(self) -> _Found:
        return self._sessions("incomplete sessions", self._lake.incomplete(), layout.incomplete_key)

    def _sessions(self, subject: str, days: list[date], key: Callable[[date], str]) -> _Found:
        days = [day for day in days if self._years is None or day.year in self._years]
        source = self._source()
        defects = []

        def look(day: date) -> str:
            return self._session(day, key(day), source)

        with ThreadPoolExecutor(self._store.readers(_READERS)) as threads:
            for done, what in enumerate(threads.map(look, days)):
                if what:
                    where = self._store.url(key(days[done]))
                    repair = f"datalake collect --session {days[done]}"
                    if not _has_closed(days[done], self._now):
                        repair = removal(self._store, key(days[done]))
                    defects.append(Defect(where, what, repair))
                self._progress(subject, done + 1, len(days))
        return subject, len(days), defects

    def _source(self) -> str | None:
        try:
            return self._lake.source()
        except WrongLakeError:
            return None

    def _session(self, day: date, key: str, source: str | None) -> str:
        """What is wrong with a session's file; nothing, mostly."""
        try:
            data = self._store.get(key)
        except FileNotFoundError:
            return ""  # an incomplete one that was repaired meanwhile
        try:
            session = session_file.decode(data, self._store.url(key))
        except BrokenFileError as error:
            return f"it is damaged ({error.__cause__!r})"
        return _contradiction(day, session, source, self._now)

    def _symbol_years(self) -> _Found:
        subject = "symbol-years against their sessions"
        symbol_years = SymbolYears(self._store)
        years = {day.year for day in self._lake.sessions()} | set(symbol_years.years())
        chosen = sorted(years if self._years is None else years & set(self._years))
        defects, count = [], 0
        for done, year in enumerate(chosen):
            self._progress(subject, done, len(chosen))
            number, found = self._year(symbol_years, year)
            count += number
            defects += found
        return subject, count, defects

    def _year(self, symbol_years: SymbolYears, year: int) -> tuple[int, list[Defect]]:
        """How many symbol-years a year has, and what is wrong with them."""
        publish = f"datalake publish --year {year}"
        key = layout.manifest_key(year)
        where = self._store.url(key)
        try:
            manifest = symbol_years.manifest(year)
        except BrokenFileError as error:
            self._unsettled.add(year)
            what = f"the year's manifest is damaged ({error.__cause__ or error!r})"
            return 0, [Defect(where, what, f"{removal(self._store, key)} && {publish}")]
        count = len(manifest.symbols)
        if not manifest.whole:
            self._unsettled.add(year)
            what = "its publication was cut off, or is under way" if count else "never published"
            return count, [Defect(where, f"{year}: {what}", publish)]
        if behind := symbol_years.behind(year):
            what = f"{year}: {len(behind):,} sessions are not shown as they are, first {behind[0]}"
            return count, [Defect(where, what, publish)]
        try:
            proof = symbol_years.prove(year)
        except BrokenFileError:
            what = f"{year}: not compared with its sessions, one of which is damaged: mend it first"
            return count, [Defect(where, what, publish)]
        return count, [
            Defect(self._store.url(layout.symbol_year_key(symbol, year)), what, publish)
            for symbol, what in proof.differing.items()
        ]

    def _restatements(self) -> _Found:
        keys = self._store.list(layout.RESTATEMENTS)
        log = Restatements(self._store)
        defects = []
        for folder in sorted({key.rpartition("/")[0] for key in keys}):
            try:
                log.of(date.fromisoformat(folder.rpartition("/")[2]))
            except BrokenFileError as error:
                defects.append(Defect(self._store.url(folder), str(error), ""))
            except ValueError:
                continue  # a folder of another shape, which nobody reads
        # The name of each is the instant of its change.
        latest = layout.restatement_key(date.min, self._now + _AHEAD).rpartition("/")[2]
        ahead = [key for key in keys if key.rpartition("/")[2] > latest]
        return "restatements", len(keys), defects + self._to_come(ahead)

    def _universe(self) -> _Found:
        days = layout.dated(layout.UNIVERSE, self._store.list(layout.UNIVERSE))
        known = known_days(days, self._now)
        surveys = layout.dated(layout.SURVEYS, self._store.list(layout.SURVEYS))
        ahead = [layout.universe_key(day) for day in days[len(known) :]]
        ahead += map(layout.survey_key, surveys[len(known_days(surveys, self._now)) :])
        defects = self._to_come(ahead)
        for day in known:
            try:
                self._lake.universe_of(day)
            except BrokenFileError as error:
                key = layout.universe_key(day)
                what = (
                    f"it can't be read ({error.__cause__!r}); without it the next collection takes "
                    "another"
                )
                defects.append(Defect(self._store.url(key), what, removal(self._store, key)))
        return "snapshots of the universe", len(days), defects

    def _to_come(self, keys: Iterable[str]) -> list[Defect]:
        what = "its time is still to come, so what it says can't be true"
        return [Defect(self._store.url(key), what, removal(self._store, key)) for key in keys]

    def _strays(self) -> _Found:
        """Objects among those that readers find by a pattern, and that are none of the lake's."""
        strays, count = SymbolYears(self._store).strays(self._unsettled), 0
        for folder, key, days in (
            (layout.SESSIONS, layout.session_key, self._lake.sessions()),
            (layout.INCOMPLETE, layout.incomplete_key, self._lake.incomplete()),
        ):
            keys = self._store.list(folder)
            count += len(keys)
            strays += sorted(frozenset(keys).difference(map(key, days)))
        return (
            "objects that nobody knows",
            count,
            [
                Defect(
                    self._store.url(key),
                    "it is no object of the lake, and who reads by a pattern sees it",
                    removal(self._store, key),
                )
                for key in strays
            ],
        )


def _contradiction(day: date, session: Session, source: str | None, now: datetime) -> str:
    """What a session's file says that can't be true of this day in a lake of this source."""
    if not _is_session(day):
        return f"{day} is no trading session"
    if not _has_closed(day, now):
        return f"the session of {day} is still to come"
    if (collected := session.provenance.collected_at) > now + _AHEAD:
        return f"it says that it was collected at {collected:%Y-%m-%d %H:%M} UTC, which is to come"
    bars, ledger = session.bars, session.ledger
    if ledger.session != day:
        return f"its ledger is of {ledger.session}"
    if bars["symbol"].to_pylist() != list(ledger.present):
        return "its rows are not sorted by symbol"
    if days := set(pc.unique(bars["session"]).to_pylist()) - {day}:
        return f"{len(days)} other sessions stand in its rows, such as {min(days)}"
    stamp = market_calendar.session_stamp(day)
    if stamps := set(pc.unique(bars["timestamp"]).to_pylist()) - {stamp}:
        return f"timestamps other than {stamp} stand in its rows, such as {min(stamps)}"
    if source is not None and session.provenance.source != source:
        return f"its bars come from {session.provenance.source!r}, the lake's from {source!r}"
    return ""


def _has_closed(day: date, now: datetime) -> bool:
    return _is_session(day) and market_calendar.session_close(day) <= now


def _is_session(day: date) -> bool:
    try:
        return market_calendar.is_session(day)
    except market_calendar.OutsideCalendar:
        return False
