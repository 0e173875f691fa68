"""The lake: its sessions, its universe, and the source that it belongs to.

Belongs here: what is written, in which order, and what is read back. Does not belong here: bytes
of a file (`session_file`), paths (`layout`), how an object is stored (`store`).
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets import market_calendar
from datalake_assets.collection.audit import Finding
from datalake_assets.collection.bars import combine
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.survey import Survey
from datalake_assets.collection.universe import Snapshots
from datalake_assets.lake import session_file, universe_file
from datalake_assets.lake.coverage import Coverage, coverage
from datalake_assets.lake.reader import NotInLakeError, Reader, as_day, known_days
from datalake_assets.lake.restatements import Restatements, changes, undone
from datalake_assets.lake.session_file import Session, Summary
from datalake_assets.settings import Settings
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, ChangedError, Store, open_store

FORMAT = 2
"""Version of the layout; a lake of another one is not written to. In 1 a bar stood under the ticker
that its security had on the day of the collection, so renamed companies stood there twice."""

_YEARS = pa.list_(pa.int16())

_log = logging.getLogger(__name__)


class WrongLakeError(RuntimeError):
    """The lake belongs to another source, or to another version of this program."""


@dataclass(frozen=True, slots=True)
class Written:
    """What writing a session did.

    Args:
        key: Where it lies.
        size: Bytes.
        changes: The bars that the session published before did not have, has no longer, or had
            with other values (`restatements.SCHEMA`). None when there was none.
        ledger: Of the session as it was published.
        unchanged: The session that was published before has the same bars and the same ledger,
            and was left as it is, provenance included.
    """

    key: str
    size: int
    changes: pa.Table | None = field(default=None, compare=False, repr=False)
    ledger: Ledger | None = field(default=None, compare=False, repr=False)
    unchanged: bool = False

    def changed(self, kind: str) -> int | None:
        """How many bars were `added`, `removed` or `restated`; None when there were none before."""
        if self.changes is None:
            return None
        kinds: list[str] = self.changes["change"].to_pylist()
        return kinds.count(kind)


@dataclass(frozen=True, slots=True)
class Standing:
    """A session as the lake holds it before a repair.

    Args:
        session: The newer of the published and the incomplete one.
        published: Whether it is the published one.
        versions: Of the objects looked at, by key; none for one that was not there.
    """

    session: Session
    published: bool
    versions: Mapping[str, str]


class Lake:
    """A lake in a store.

    Args:
        store: Where its objects are.
        clock: Time: what claims to be of a day to come is not believed.
    """

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        self.store, self._clock = store, clock or Clock()
        self._restatements = Restatements(store)

    def __repr__(self) -> str:
        return f"Lake({self.store.uri!r})"

    def __getstate__(self) -> dict[str, Any]:
        """Without the reader's threads: another process looks for itself."""
        return {name: value for name, value in vars(self).items() if name != "_reader"}

    def claim(self, source: str) -> None:
        """Make the lake this source's, or make sure that it already is.

        Bars of two sources must not mix: the embedded exchange's never enter a lake of real
        ones, nor one feed's volumes a lake of another's.

        Raises:
            WrongLakeError: It belongs to another source, or has another layout.
        """
        marker = {"format": FORMAT, "source": source}
        if self.store.create(layout.MARKER, json.dumps(marker, indent=2).encode() + b"\n"):
            return
        found = self._marker()
        if found.get("format") != FORMAT:
            raise WrongLakeError(
                f"the lake at {self.store.uri} has layout {found.get('format')!r}, this program "
                f"writes {FORMAT}: nothing was written. Set DATALAKE_URI to an empty place and "
                "collect into it, or use the version of this program that made the lake"
            )
        if found.get("source") != source:
            raise WrongLakeError(
                f"the lake at {self.store.uri} holds bars of {found.get('source')!r}, and this "
                f"run collects from {source!r}: nothing was written. Set DATALAKE_URI to another "
                "place, or the source's settings to the ones that the lake was collected with"
            )

    def source(self) -> str | None:
        """The source that the lake belongs to; None for a lake that was never written to."""
        try:
            return str(self._marker().get("source"))
        except FileNotFoundError:
            return None

    def _marker(self) -> dict[str, Any]:
        where = self.store.url(layout.MARKER)
        try:
            found = json.loads(self.store.get(layout.MARKER))
        except ValueError as error:
            raise WrongLakeError(f"{where} can't be read ({error}): restore it") from error
        if not isinstance(found, dict):
            raise WrongLakeError(f"{where} is no marker of a lake: restore it")
        return found

    def publish(
        self, session: Session, findings: Sequence[Finding], over: Standing | None = None
    ) -> Written:
        """Put a session that passed its audit in its place, in one atomic write.

        A symbol that could not be had this time (failed or pending) keeps what is published of
        it: for want of an answer no bar is taken back.

        Bars and ledger that are published already are not written once more: a table format that
        registered the object, and the symbol-years made from it, go on as they are. When the
        session was looked at again is told by Dagster's record of it, not by the file.

        Killed before the incomplete one is removed, the lake holds the new session and an older
        incomplete one, which `standing` tells apart by their age.

        Args:
            session: The session.
            findings: Its audit.
            over: What the session is a repair of; None when it was collected whole, and takes
                the place of whatever stands there.

        Raises:
            ChangedError: Somebody else wrote what is repaired in the meantime: repair that.
        """
        day = session.ledger.session
        key = layout.session_key(day)
        collected = session
        while True:
            before, version, size = self._published(day)
            changed = None
            if before:
                # Anew each time: what was kept of one that is replaced by now is out of date.
                session = completed(collected, before)
                if _same(before, session):
                    self.store.delete(layout.incomplete_key(day))
                    nothing = changes(before.bars, before.bars, _at(before), _at(session))
                    return Written(key, size, nothing, session.ledger, unchanged=True)
                told, was = session.provenance, before.provenance
                since = was.known_since or was.collected_at
                session = replace(session, provenance=replace(told, known_since=since))
                changed = changes(before.bars, session.bars, was.collected_at, told.collected_at)
                self._restatements.keep(changed)
            data = session_file.encode(session, findings)
            try:
                self.store.replace(key, data, over.versions.get(key) if over else version)
                break
            except ChangedError:
                if changed is not None:
                    self._restatements.take_back(changed)
                # Of two whole ones the later stands, and tells what it changed of the other's.
                if over:
                    raise
        self.store.delete(layout.incomplete_key(day))
        return Written(key, len(data), changed, session.ledger)

    def keep_incomplete(
        self, session: Session, findings: Sequence[Finding], over: Standing | None = None
    ) -> Written:
        """Keep a session that did not pass for its repair; what was published stays untouched.

        Args:
            session: The session.
            findings: Its audit.
            over: What it is a repair of, as for `publish`.

        Raises:
            ChangedError: Somebody else wrote what is repaired in the meantime: repair that.
        """
        key = layout.incomplete_key(session.ledger.session)
        data = session_file.encode(session, findings)
        if over:
            self.store.replace(key, data, over.versions.get(key))
        else:
            self.store.put(key, data)
        return Written(key, len(data))

    def clear_incomplete(self, day: date) -> None:
        """Remove the incomplete session that a killed run left beside a newer published one."""
        self.store.delete(layout.incomplete_key(day))

    def read(self, day: date) -> Session:
        """A published session.

        Raises:
            FileNotFoundError: It is not published.
            BrokenFileError: The object is damaged.
        """
        key = layout.session_key(day)
        return session_file.decode(self.store.get(key), self.store.url(key))

    def known(self, day: date | str, at: datetime) -> pa.Table:
        """A session's bars as the lake had them published at an instant.

        Args:
            day: The session.
            at: The instant; aware.

        Raises:
            ValueError: No day, or an instant without its zone.
            NotInLakeError: The session is not published, or was not yet then.
        """
        if at.utcoffset() is None:
            raise ValueError(
                f"{at!r} is no instant: give a datetime with its zone, like datetime.now(UTC)"
            )
        session = self.session(day)
        since = session.provenance.known_since or session.provenance.collected_at
        if at < since:
            raise NotInLakeError(
                f"{as_day(day)} was first published at {since:%Y-%m-%d %H:%M:%S} UTC: nothing of "
                f"it was known at {at:%Y-%m-%d %H:%M:%S %Z}"
            )
        return undone(session.bars, self._restatements.of(as_day(day)), at)

    def standing(self, day: date) -> Standing | None:
        """What a repair starts from; None when the lake has neither session.

        Raises:
            BrokenFileError: The incomplete one is damaged, or the published one and none waits.
        """
        found, versions, broken = [], {}, None
        for key, published in (
            (layout.session_key(day), True),
            (layout.incomplete_key(day), False),
        ):
            try:
                data, versions[key] = self.store.get_versioned(key)
                session = session_file.decode(data, self.store.url(key))
            except FileNotFoundError:
                continue
            except BrokenFileError as error:
                broken = error
                continue
            found.append(Standing(session, published, versions))
        # What waits beside a damaged published one is none the worse.
        if broken and all(one.published for one in found):
            raise broken
        return max(found, key=lambda one: one.session.provenance.collected_at, default=None)

    def printed(self, days: Iterable[date]) -> dict[date, frozenset[str]]:
        """The symbols that printed in each of these sessions that is published, and whole."""
        found: dict[date, frozenset[str]] = {}
        for day in days:
            try:
                found[day] = frozenset(self.read(day).ledger.present)
            except FileNotFoundError:
                continue
            except BrokenFileError as error:
                # Those after it are collected all the same: nobody else may be there to mend it.
                _log.warning("%s. Until then no session is compared with it", error)
        return found

    def sessions(self) -> list[date]:
        """The published sessions, ascending; `bars` gives what is listed here."""
        days = layout.dated(layout.SESSIONS, self.store.list(layout.SESSIONS))
        self._reader.listed(days)
        return days

    def incomplete(self) -> list[date]:
        """The sessions that wait in `incomplete/`, ascending."""
        return layout.dated(layout.INCOMPLETE, self.store.list(layout.INCOMPLETE))

    def summaries(
        self, keys: Iterable[str], workers: int = 16
    ) -> list[Summary | BrokenFileError | FileNotFoundError]:
        """What these session files say of themselves, in the order of the keys.

        Only their footers are read, several at a time. In the place of a damaged file stands
        what is wrong with it, so that one of them does not hide all others; and in the place of
        one that is gone, as an incomplete session is once it was published, that it is.
        """
        with ThreadPoolExecutor(self.store.readers(workers)) as threads:
            return list(threads.map(self._summary, keys))

    def write_universe(self, taken: date, snapshot: pa.Table) -> Written:
        """Keep the universe of a day; a later snapshot of the same day takes its place."""
        key, data = layout.universe_key(taken), universe_file.encode(snapshot)
        self.store.put(key, data)
        return Written(key, len(data))

    def universe(self) -> tuple[date, pa.Table] | None:
        """The newest snapshot of the universe and its day; None when there is none.

        Raises:
            BrokenFileError: The object is damaged.
        """
        days = self.universe_days()
        return (days[-1], self.universe_of(days[-1])) if days else None

    def universe_of(self, taken: date) -> pa.Table:
        """The snapshot of a day.

        Raises:
            FileNotFoundError: There is none of that day.
            BrokenFileError: The object is damaged.
        """
        key = layout.universe_key(taken)
        return universe_file.decode(self.store.get(key), self.store.url(key))

    def snapshots(self) -> Snapshots:
        """All snapshots of the universe, each read when it is asked for."""
        return Snapshots(self.universe_days(), self.universe_of)

    def universe_days(self) -> list[date]:
        """The days of which there is a snapshot, ascending.

        One of a day to come is left out with a warning: it would be the newest until then.
        """
        return self._so_far(layout.UNIVERSE, layout.universe_key)

    def write_survey(self, taken: date, found: Survey) -> None:
        """Keep the survey of a day."""
        table = pa.table(
            {
                "symbol": pa.array(list(found.years), pa.string()),
                "years": pa.array([sorted(y) for y in found.years.values()], _YEARS),
            }
        )
        span = {"first": str(found.first), "last": str(found.last)}
        buffer = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(span), buffer, compression="zstd")
        self.store.put(layout.survey_key(taken), bytes(buffer.getvalue()))

    def survey(self) -> Survey | None:
        """The newest survey; None when there is none, or it is damaged: it is only a hint."""
        days = self._so_far(layout.SURVEYS, layout.survey_key)
        if not days:
            return None
        try:
            table = pq.read_table(io.BytesIO(self.store.get(layout.survey_key(days[-1]))))
            span = table.schema.metadata
            symbols, years = table["symbol"].to_pylist(), table["years"].to_pylist()
            return Survey(
                int(span[b"first"]),
                int(span[b"last"]),
                dict(zip(symbols, map(frozenset, years), strict=True)),
            )
        except (BrokenFileError, OSError, pa.ArrowException, KeyError, ValueError, TypeError):
            return None

    def _so_far(self, folder: str, key: Callable[[date], str]) -> list[date]:
        days = layout.dated(folder, self.store.list(folder))
        known = known_days(days, self._clock.now())
        for day in days[len(known) :]:
            _log.warning(
                "%s is of a day that is still to come, and is not used: remove it",
                self.store.url(key(day)),
            )
        return known

    def _published(self, day: date) -> tuple[Session | None, str | None, int]:
        """The published session, and the version and the length of its object."""
        key = layout.session_key(day)
        try:
            data, version = self.store.get_versioned(key)
        except FileNotFoundError:
            return None, None, 0
        try:
            return session_file.decode(data, self.store.url(key)), version, len(data)
        except BrokenFileError:
            # A damaged session is what a new one mends; it has no bars to compare with.
            return None, version, len(data)

    def _summary(self, key: str) -> Summary | BrokenFileError | FileNotFoundError:
        where = self.store.url(key)
        try:
            return session_file.summarize(session_file.read_footer(self.store, key), where)
        except (BrokenFileError, FileNotFoundError) as error:
            return error

    # Reading, as analysts do: see `reader`

    @classmethod
    def open(cls, uri: str | Path | None = None) -> Self:
        """The lake at `uri`, to read from.

        Args:
            uri: A local path or `s3://bucket/prefix`; None: where the settings say.

        Raises:
            ValueError: `uri` names no place that a lake can be in.
            NotInLakeError: There is no lake.
            StoreError: The store can't be reached, or refuses.
            WrongLakeError: The lake was made by another version of this program.
        """
        # An empty one is an unset variable: not a wish for whatever lake the settings have.
        lake = cls(open_store(str(Settings.load().lake_uri if uri is None else uri)))
        try:
            found = lake._marker()
        except FileNotFoundError as error:
            raise NotInLakeError(
                f"there is no lake at {lake.store.uri}: correct the URI (or DATALAKE_URI, when "
                "none is given), or make one: datalake demo, datalake backfill"
            ) from error
        if found.get("format") != FORMAT:
            raise WrongLakeError(
                f"the lake at {lake.store.uri} has layout {found.get('format')!r}, this program "
                f"reads {FORMAT}: use the version that made it"
            )
        return lake

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.store, clock=self._clock)

    def bars(
        self,
        symbols: str | Iterable[str] | None,
        start: date | str | None = None,
        end: date | str | None = None,
    ) -> pa.Table:
        """Bars of these symbols (None: all) from `start` to `end`; `Reader.bars` tells all."""
        return self._reader.bars(symbols, start, end)

    def missing(
        self,
        symbols: str | Iterable[str],
        start: date | str | None = None,
        end: date | str | None = None,
    ) -> pa.Table:
        """What is not known of these symbols from `start` to `end`; `Reader.missing` tells all."""
        return self._reader.missing(symbols, start, end)

    def session(self, day: date | str) -> Session:
        """A published session, or NotInLakeError that says why there is none."""
        return self._reader.session(day)

    def symbols(self, year: int | None = None) -> list[str]:
        """The symbols that have a bar, ascending: ever, or in this year."""
        return self._reader.symbols(year)

    def coverage(self, start: date | str | None = None, end: date | str | None = None) -> Coverage:
        """What the lake holds of the sessions from `start` to `end`, both included.

        Without them: from its first to its newest session, published or not.

        Raises:
            ValueError: A day that is none, or outside the calendar, or `end` before `start`.
        """
        held = sorted({*self.sessions(), *self.incomplete()})
        first = as_day(start) if start is not None else min(held, default=None)
        last = as_day(end) if end is not None else max(held, default=None)
        if first is None or last is None:
            return coverage(self, [])
        if last < first:
            raise ValueError(f"the end, {last}, is before the start, {first}")
        return coverage(self, market_calendar.sessions(first, last), besides=False)

    def explain(self, symbol: str, day: date | str) -> str:
        """Why there is a bar of this symbol on this day, or none: a sentence from the ledger."""
        return self._reader.explain(symbol, day)

    def refresh(self) -> None:
        """Look again at the next question what was published since the first one."""
        self._reader.refresh()


def _same(before: Session, session: Session) -> bool:
    """Do both hold the same bars and ledger of the same source?"""
    return (
        before.ledger == session.ledger
        and before.bars.equals(session.bars)
        and before.provenance.source == session.provenance.source
        # One that says it was collected later than this one just now says what can't be.
        and _at(before) <= _at(session)
    )


def _at(session: Session) -> datetime:
    return session.provenance.collected_at


def completed(session: Session, earlier: Session) -> Session:
    """The session, with the earlier answers for the symbols that it failed to ask or to get."""
    told = earlier.ledger
    if told.session != session.ledger.session:
        return session  # somebody put another session in its place, which this one mends
    answered = frozenset((*told.present, *told.no_print))
    told = told.restricted_to(answered.intersection(session.ledger.missing))
    bars, ledger = repaired(session, earlier.bars, told)
    return replace(session, bars=bars, ledger=ledger)


def repaired(standing: Session, bars: pa.Table, ledger: Ledger) -> tuple[pa.Table, Ledger]:
    """The bars and the ledger of a session after a repair brought some of what it missed."""
    # What another repair brought in the meantime stands.
    told = standing.ledger
    ledger = ledger.restricted_to(ledger.symbols - (told.symbols - frozenset(told.missing)))
    bars = bars.filter(pc.is_in(bars["symbol"], pa.array(ledger.present, pa.string())))
    merged, _ = combine([standing.bars, bars])
    return merged, told.repaired_by(ledger)
