"""The examination of a lake: every object read whole, and held against what it must agree with.

Belongs here: what is looked at, what is wrong with it, and the command that repairs it. Does not
belong here: repairing, showing it (`cli`), and what Dagster knows of the lake (`cli.doctor`).

A session is held against its own digest, its ledger, its name and the calendar; symbol-years and
year files against the sessions. Nothing is written.

Each kind of objects is a `Subject`. A package that keeps objects of its own in the lake makes one
more, and hands it to `examine`: what is no subject's object is foreign.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets import market_calendar
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import DAILY, EXTENDED_MINUTE, MINUTE, Dataset
from datalake_assets.collection.progress import many, verb
from datalake_assets.lake import session_file
from datalake_assets.lake.files import FORMAT, LakeFiles, WrongLakeError
from datalake_assets.lake.reader import known_days
from datalake_assets.lake.restatements import Restatements
from datalake_assets.lake.session_file import Session, Summary
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store, UnreadableError

AHEAD = timedelta(hours=1)
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
        counted: Whether the defects count against the lake. Those of a dataset that is turned off
            don't, and have no repair.
    """

    subject: str
    count: int
    defects: Sequence[Defect]
    seconds: float
    counted: bool = True


@dataclass(frozen=True, slots=True)
class Subject:
    """A kind of objects that a lake keeps, and how they are looked at.

    Args:
        name: As a person calls them.
        look: Looks at all of them; tells how many there are, and what is wrong with them.
        owns: Is this the key of one of them?
        by_year: Whether it is also looked at when only some years are.
        optional: Whether nothing is told of it where there is none.
        counted: As for `Examination`.
    """

    name: str
    look: Callable[[Progress], tuple[int, list[Defect]]]
    owns: Callable[[str], bool]
    by_year: bool = False
    optional: bool = False
    counted: bool = True


def examine(
    lake: LakeFiles,
    years: Collection[int] | None = None,
    progress: Progress | None = None,
    clock: Clock | None = None,
    besides: Sequence[Subject] = (),
    *,
    weekly: bool = False,
    minutes: bool = True,
) -> Iterator[Examination]:
    """Look at a lake; each kind of objects when it is done.

    Args:
        lake: The lake; one that was never written to has nothing wrong with it.
        years: Look at their sessions, symbol-years and year files only; None for everything.
        progress: Called now and then.
        clock: Time.
        besides: Kinds of objects that other packages keep in the lake.
        weekly: Whether the symbol-years of the running year follow once a week. While they lag
            they are held against what they were made from.
        minutes: Whether the settings want minute bars. If not, they are looked at all the same, and
            what is wrong with them does not count.

    Raises:
        StoreError: The store can't be read.
    """
    timed = clock or Clock()
    examiner = _Examiner(lake, years, timed.now(), weekly=weekly, minutes=minutes)
    subjects = [*examiner.subjects, *besides]
    foreign = Subject("untracked objects", partial(examiner.foreign, subjects), lambda key: False)
    for subject in [*subjects, foreign]:
        if years is None or subject.by_year:
            began = timed.seconds()
            count, defects = subject.look(progress or (lambda subject, done, count: None))
            if not subject.counted:
                defects = [replace(defect, repair="") for defect in defects]
            if count or defects or not subject.optional:
                seconds = timed.seconds() - began
                yield Examination(subject.name, count, defects, seconds, subject.counted)


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


def removal(store: Store, name: str) -> str:
    """The command that removes an object, or what stands in the place of one."""
    place = store.place(name)
    if place.startswith("s3:"):
        return shlex.join(["aws", "s3", "rm", place])
    folder = not place.startswith("memory:") and Path(place).is_dir()
    return shlex.join(["rm", "-r", place] if folder else ["rm", place])


_Found = tuple[int, list[Defect]]

_PUBLISHED, _WAITING = "published sessions", "incomplete sessions"
_YEARS = "symbol-years against their sessions"
_FILES = "year files against their sessions"

_AT_ONCE = 2
"""How many sessions of minutes are looked at at once: one of all symbols takes half a gigabyte."""


class _Examiner:
    """Looks at one lake."""

    def __init__(
        self,
        lake: LakeFiles,
        years: Collection[int] | None,
        now: datetime,
        *,
        weekly: bool,
        minutes: bool,
    ) -> None:
        self._lake, self._store, self._years, self._now = lake, lake.store, years, now
        self._weekly = weekly
        # Years whose publication is still to come: nobody knows yet what is a stray of theirs.
        self._unsettled: set[int] = set()
        self._source: str | None = None
        daily, by_minute = lake.of(DAILY), lake.of(MINUTE)
        self.subjects = [
            Subject("the lake's marker", self._marker, layout.MARKER.__eq__, by_year=True),
            *self._of_dataset(daily),
            *self._of_dataset(by_minute, "minute bars: ", counted=minutes),
            Subject(
                _YEARS,
                self._symbol_years,
                lambda key: bool(layout.symbol_year(key) or layout.manifest_year(key)),
                by_year=True,
            ),
            Subject(
                _FILES,
                self._year_files,
                lambda key: layout.year_of_file(key) is not None,
                by_year=True,
            ),
            self._restated(daily),
            self._restated(by_minute, "minute bars: ", counted=minutes),
            Subject(
                "snapshots of the universe",
                self._universe,
                lambda key: _dated(layout.UNIVERSE, key) or _dated(layout.SURVEYS, key),
            ),
        ]

    def _of_dataset(
        self, lake: LakeFiles, named: str = "", *, counted: bool = True
    ) -> list[Subject]:
        """The sessions of a dataset, published and incomplete."""
        folders, published, waiting = lake.folders, f"{named}{_PUBLISHED}", f"{named}{_WAITING}"
        look = partial(self._sessions, lake)
        return [
            Subject(
                published,
                partial(look, published, lake.sessions, lake.session_key),
                lambda key: bool(folders.days([key])),
                by_year=True,
                optional=bool(named),
                counted=counted,
            ),
            Subject(
                waiting,
                partial(look, waiting, lake.incomplete, lake.incomplete_key),
                partial(_dated, folders.incomplete),
                by_year=True,
                optional=bool(named),
                counted=counted,
            ),
        ]

    def _restated(self, lake: LakeFiles, named: str = "", *, counted: bool = True) -> Subject:
        """What later collections changed of the sessions of a dataset."""
        return Subject(
            f"{named}restatements",
            partial(self._restatements, lake),
            lambda key: bool(layout.restatement(key, lake.folders)),
            optional=bool(named),
            counted=counted,
        )

    def _marker(self, progress: Progress) -> _Found:
        days = self._lake.sessions()
        sources = Counter(
            told.provenance.source
            for told in self._lake.summaries(map(layout.session_key, days))
            if isinstance(told, Summary)
        )
        # What most of the sessions say: that a few may have been copied in is what they show.
        self._source = most = next((source for source, _ in sources.most_common(1)), None)
        try:
            source = self._lake.source()
        except WrongLakeError as error:
            return 1, [self._unmarked(str(error), most)]
        except UnreadableError as error:
            return 1, [Defect(self._store.url(layout.MARKER), str(error), error.repair)]
        if source is None:
            if not days:
                return 0, []
            return 1, [self._unmarked("it does not exist, although sessions do", most)]
        found = json.loads(self._store.get(layout.MARKER)).get("format")
        if found != FORMAT:
            what = f"the layout is {found!r}, this program's is {FORMAT}: use the version of that"
            return 1, [Defect(self._store.url(layout.MARKER), what, "")]
        # Of one session alone nobody can tell which of the two is wrong, and it can be had again.
        if most is not None and source not in sources and len(days) > 1:
            what = f"it says {source!r}, and all sessions come from {most!r} or others"
            return 1, [self._unmarked(what, most)]
        self._source = source
        return 1, []

    def _unmarked(self, what: str, source: str | None) -> Defect:
        """A marker to be made again, of the source that the sessions name."""
        repair = ""
        if source is not None:
            marker = json.dumps({"format": FORMAT, "source": source})
            repair = f"echo {shlex.quote(marker)} {self._into(layout.MARKER)}"
            if layout.MARKER in self._store.foreign():
                repair = f"{removal(self._store, layout.MARKER)} && {repair}"
        return Defect(self._store.url(layout.MARKER), what, repair)

    def _into(self, key: str) -> str:
        place = self._store.url(key)
        to = shlex.quote(place)
        return f"| aws s3 cp - {to}" if place.startswith("s3:") else f"> {to}"

    def _sessions(
        self,
        lake: LakeFiles,
        subject: str,
        listed: Callable[[], list[date]],
        key: Callable[[date], str],
        progress: Progress,
    ) -> _Found:
        days = [day for day in listed() if self._years is None or day.year in self._years]
        defects = []

        def look(day: date) -> Defect | None:
            return self._session(day, key(day), lake.dataset)

        readers = self._store.readers()
        if lake.dataset.several:
            readers = min(readers, _AT_ONCE)
        with ThreadPoolExecutor(readers) as threads:
            for done, found in enumerate(threads.map(look, days)):
                if found:
                    defects.append(found)
                progress(subject, done + 1, len(days))
        return len(days), defects

    def _session(self, day: date, key: str, dataset: Dataset) -> Defect | None:
        """What is wrong with a session's file; nothing, mostly."""
        where = self._store.url(key)
        minutes = "" if dataset is DAILY else "--minutes "
        repair = f"datalake collect {minutes}--session {day}"
        if not _is_session(day) or not _has_closed(day, self._now):
            repair = removal(self._store, key)
        try:
            session = session_file.decode(self._store.get(key), where)
        except FileNotFoundError:
            return None  # an incomplete one that was repaired meanwhile
        except UnreadableError as error:
            return Defect(where, str(error), error.repair)
        except BrokenFileError as error:
            why = (
                f"it is damaged ({error.__cause__!r})" if error.__cause__ else _short(error, where)
            )
            return Defect(where, why, repair)
        what = _contradiction(day, session, self._source, self._now, dataset)
        return Defect(where, what, repair) if what else None

    def _symbol_years(self, progress: Progress) -> _Found:
        symbol_years = SymbolYears(self._store)
        years = {day.year for day in self._lake.sessions()} | set(symbol_years.years())
        chosen = sorted(years if self._years is None else years & set(self._years))
        defects, count = [], 0
        for done, year in enumerate(chosen):
            progress(_YEARS, done, len(chosen))
            number, found = self._year(symbol_years, year)
            count += number
            defects += found
        return count, defects

    def _year(self, symbol_years: SymbolYears, year: int) -> tuple[int, list[Defect]]:
        """How many symbol-years a year has, and what is wrong with them."""
        publish = f"datalake publish --year {year}"
        key = layout.manifest_key(year)
        where = self._store.url(key)
        try:
            manifest = symbol_years.manifest(year)
        except UnreadableError as error:
            self._unsettled.add(year)
            return 0, [Defect(where, str(error), error.repair)]
        except BrokenFileError as error:
            self._unsettled.add(year)
            what = f"the year's manifest is damaged ({error.__cause__ or error!r})"
            return 0, [Defect(where, what, f"{removal(self._store, key)} && {publish}")]
        count = len(manifest.symbols)
        if not manifest.whole:
            self._unsettled.add(year)
            what = "its publication was cut off, or is under way" if count else "never published"
            return count, [Defect(where, f"{year}: {what}", publish)]
        behind = symbol_years.behind(year)
        waits = behind and self._weekly and symbol_years.follow_with(year, self._now)
        if behind and not waits:
            return count, [Defect(where, _not_shown(year, behind), publish)]
        try:
            proof = symbol_years.prove_published(year) if waits else symbol_years.prove(year)
        except BrokenFileError:
            what = f"{year}: not compared with its sessions, one of which is damaged: mend it first"
            return count, [Defect(where, what, publish)]
        return count, [
            Defect(self._store.url(layout.symbol_year_key(symbol, year)), what, publish)
            for symbol, what in proof.differing.items()
        ]

    def _year_files(self, progress: Progress) -> _Found:
        files = YearFiles(self._store)
        years = {day.year for day in self._lake.sessions()} | set(files.years())
        chosen = sorted(years if self._years is None else years & set(self._years))
        defects = []
        for done, year in enumerate(chosen):
            progress(_FILES, done, len(chosen))
            if found := self._year_file(files, year):
                defects.append(found)
        return len(chosen), defects

    def _year_file(self, files: YearFiles, year: int) -> Defect | None:
        """What is wrong with a year's file; nothing, mostly."""
        where = self._store.url(layout.year_file_key(year))
        publish = f"datalake publish --year {year}"
        try:
            made_from = files.made_from(year)
        except UnreadableError as error:
            return Defect(where, str(error), error.repair)
        except BrokenFileError as error:
            why = error.__cause__ or _short(error, where)
            return Defect(where, f"it is damaged ({why})", publish)
        if not made_from.whole:
            return Defect(where, f"{year}: never published", publish)
        if behind := files.behind(year):
            return Defect(where, _not_shown(year, behind), publish)
        proof = files.prove(year)
        return None if proof.holds else Defect(where, proof.disagreement, publish)

    def _restatements(self, lake: LakeFiles, progress: Progress) -> _Found:
        log, folders = Restatements(self._store, lake.dataset), lake.folders
        days, defects = log.sessions(), []
        for day in days:
            try:
                log.of(day)
            except UnreadableError as error:
                where = self._store.url(layout.restatements_of(day, folders))
                defects.append(Defect(where, str(error), error.repair))
            except BrokenFileError as error:
                where = self._store.url(layout.restatements_of(day, folders))
                defects.append(Defect(where, str(error), ""))
        # The name of each is the instant of its change.
        latest = layout.restatement_key(date.min, self._now + AHEAD).rpartition("/")[2]
        keys = self._store.list(folders.restatements)
        found = [key for key in keys if layout.restatement(key, folders)]
        ahead = [key for key in found if key.rpartition("/")[2] > latest]
        return len(days), defects + self._to_come(ahead)

    def _universe(self, progress: Progress) -> _Found:
        days = layout.dated(layout.UNIVERSE, self._store.list(layout.UNIVERSE))
        known = known_days(days, self._now)
        surveys = layout.dated(layout.SURVEYS, self._store.list(layout.SURVEYS))
        ahead = [layout.universe_key(day) for day in days[len(known) :]]
        ahead += map(layout.survey_key, surveys[len(known_days(surveys, self._now)) :])
        defects = self._to_come(ahead)
        for day in known:
            key = layout.universe_key(day)
            where = self._store.url(key)
            try:
                self._lake.universe_of(day)
            except UnreadableError as error:
                defects.append(Defect(where, str(error), error.repair))
            except BrokenFileError as error:
                what = (
                    f"it can't be read ({error.__cause__!r}); without it the next collection takes "
                    "another"
                )
                defects.append(Defect(where, what, removal(self._store, key)))
        return len(days), defects

    def _to_come(self, keys: Iterable[str]) -> list[Defect]:
        what = "its time is still to come, so what it says can't be true"
        return [Defect(self._store.url(key), what, removal(self._store, key)) for key in keys]

    def foreign(self, subjects: Sequence[Subject], progress: Progress) -> _Found:
        """What lies where readers find data by a pattern, and is no object of any subject.

        And what killed writers left in the staging folder, of which readers see nothing.
        """
        keys = self._store.list(_DATA)
        names = self._store.foreign(_DATA)
        strays = {key for key in keys if not any(subject.owns(key) for subject in subjects)}
        strays.update(SymbolYears(self._store).strays(self._unsettled))
        # What is in a folder that is named like a file goes with it.
        strays = {key for key in strays if not key.startswith(tuple(f"{name}/" for name in names))}
        defects = [
            Defect(
                self._store.url(key),
                "it is no object of the lake, and who reads all files of a folder reads it, too",
                removal(self._store, key),
            )
            for key in sorted(strays)
        ]
        defects += [
            Defect(
                self._store.place(name),
                "it is a folder, and a file belongs there"
                if (repair := removal(self._store, name)).startswith("rm -r ")
                else "it is no object of the lake, whose names have only A-Z, a-z, 0-9 and ._=-",
                repair,
            )
            for name in names
        ]
        defects += [
            Defect(
                place,
                "a writer that was killed left it; no reader sees it, and the next writer removes "
                "it",
                shlex.join(["rm", "-f", place]),
            )
            for place in self._store.leftovers()
        ]
        return len(keys), defects


_DATA = "data"
"""The folder of all that readers look for by a pattern."""


def _not_shown(year: int, behind: Sequence[date]) -> str:
    told = f"{many(len(behind), 'session')} {verb(len(behind))} not shown as "
    told += verb(len(behind), "it is now", "they are now")
    return f"{year}: {told}, first {behind[0]}"


def _dated(prefix: str, key: str) -> bool:
    return bool(layout.dated(prefix, [key]))


def _short(error: BrokenFileError, where: str) -> str:
    """The error without the place, which is told before it, and without the cure, told after."""
    return str(error).removeprefix(f"{where} ").rpartition(": ")[0]


def _contradiction(
    day: date, session: Session, source: str | None, now: datetime, dataset: Dataset
) -> str:
    """What a session's file says that can't be true of this day in a lake of this source."""
    if not _is_session(day):
        return f"{day} is no trading session"
    if not _has_closed(day, now):
        return f"the session of {day} is still to come"
    if (collected := session.provenance.collected_at) > now + AHEAD:
        return f"it says that it was collected at {collected:%Y-%m-%d %H:%M} UTC, in the future"
    bars, ledger = session.bars, session.ledger
    if ledger.session != day:
        return f"its ledger is of {ledger.session}"
    if pc.run_end_encode(bars["symbol"].combine_chunks()).values.to_pylist() != list(
        ledger.present
    ):
        return "its rows are not sorted by symbol"
    if days := set(pc.unique(bars["session"]).to_pylist()) - {day}:
        others = f"{many(len(days), 'other session')} {verb(len(days), 'stands', 'stand')}"
        return f"{others} in its rows, such as {min(days)}"
    if what := _times(day, bars, dataset):
        return what
    if source is not None and session.provenance.source != source:
        return f"its bars come from {session.provenance.source!r}, the lake's from {source!r}"
    return ""


def _times(day: date, bars: pa.Table, dataset: Dataset) -> str:
    """What is wrong with the times of a session's bars."""
    if not dataset.several:
        stamp = market_calendar.session_stamp(day)
        if stamps := set(pc.unique(bars["timestamp"]).to_pylist()) - {stamp}:
            return f"timestamps other than {stamp} stand in its rows, such as {min(stamps)}"
        return ""
    # The lake may have been collected with either setting.
    hours = EXTENDED_MINUTE.hours(day)
    odd = [
        at
        for at in pc.unique(bars["timestamp"]).to_pylist()
        if not hours.first <= at < hours.end or (at - hours.first) % dataset.step
    ]
    if odd:
        return f"its rows have times that are no minutes of its hours, such as {min(odd)}"
    same = pc.equal(bars["symbol"].slice(1), bars["symbol"].slice(0, max(0, bars.num_rows - 1)))
    times = bars["timestamp"]
    later = pc.greater(times.slice(1), times.slice(0, max(0, bars.num_rows - 1)))
    if not pc.all(pc.or_(pc.invert(same), later), min_count=0).as_py():
        return "its rows are not sorted by symbol and time"
    return ""


def _has_closed(day: date, now: datetime) -> bool:
    return _is_session(day) and market_calendar.session_close(day) <= now


def _is_session(day: date) -> bool:
    try:
        return market_calendar.is_session(day)
    except market_calendar.OutsideCalendar:
        return False
