"""Writing a lake: what is written, in which order, and whom it belongs to.

Belongs here: publishing a session or keeping it for its repair, and keeping universes and surveys.
Does not belong here: reading what is there (`files`), the bytes of a file (`session_file`), paths
(`layout`), symbol-years (`symbol_years`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets.collection.audit import Finding
from datalake_assets.collection.bars import A_TIME, combine
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import DAILY, Dataset
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.survey import Survey
from datalake_assets.lake import session_file, universe_file
from datalake_assets.lake.files import FORMAT, LakeFiles, WrongLakeError
from datalake_assets.lake.fingerprint import Fingerprint
from datalake_assets.lake.restatements import Restatements
from datalake_assets.lake.session_file import Session
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, ChangedError, Store

_YEARS = pa.list_(pa.int16())


@dataclass(frozen=True, slots=True)
class Written:
    """What writing a session did.

    Args:
        key: Where it lies.
        size: Bytes.
        rows: Of a session, its bars.
        changes: The bars that the session published before did not have, has no longer, or had
            with other values (`restatements.SCHEMA`). None when there was none.
        ledger: Of the session as it was published.
        unchanged: The session that was published before has the same bars and the same ledger,
            and was left as it is, provenance included.
    """

    key: str
    size: int
    rows: int = 0
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
class _Prepared:
    """A session that needs only be written to be published.

    Args:
        session: With the earlier answers for what this collection failed to get.
        data: Its file; None when bars and ledger are published already.
        size: Bytes of the file, or of the published one.
        version: Of what was published then; None when nothing was.
        changes: As in `Written`.
    """

    session: Session
    data: bytes | None
    size: int
    version: str | None
    changes: pa.Table | None

    def written(self, key: str, *, unchanged: bool = False) -> Written:
        """What writing it did."""
        rows, ledger = self.session.bars.num_rows, self.session.ledger
        return Written(key, self.size, rows, self.changes, ledger, unchanged)


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as the lake holds it before a repair.

    Args:
        session: The newer of the published and the incomplete one.
        published: Whether it is the published one.
        versions: Of the objects looked at, by key; none for one that was not there.
    """

    session: Session
    published: bool
    versions: Mapping[str, str]


class LakeWriter(LakeFiles):
    """The files of a lake, to be written, too.

    Args:
        store: Where its objects are.
        clock: Time: files dated in the future are ignored.
        dataset: Whose sessions.
    """

    def __init__(self, store: Store, clock: Clock | None = None, dataset: Dataset = DAILY) -> None:
        super().__init__(store, clock, dataset)
        self._restatements = Restatements(store, dataset)

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
        found = self.marker()
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

    def publish(
        self,
        session: Session,
        findings: Sequence[Finding],
        replacing: StoredSession | None = None,
        hashed: Fingerprint | None = None,
        *,
        fresh: bool = False,
    ) -> Written:
        """Put a session that passed its audit in its place, in one atomic write.

        A symbol that could not be had this time (failed or pending) keeps what is published of
        it: for want of an answer no bar is taken back.

        Bars and ledger that are published already are not written once more: a table format that
        registered the object, and the symbol-years made from it, go on as they are. When the
        session was looked at again is told by Dagster's record of it, not by the file.

        Killed before the incomplete one is removed, the lake holds the new session and an older
        incomplete one, which `stored` tells apart by their age.

        Args:
            session: The session.
            findings: Its audit.
            replacing: What the session is a repair of; None when it was collected whole, and takes
                the place of whatever stands there.
            hashed: What its rows hash to, by `session_file.hash_rows`; None to do it here.
            fresh: Whether the lake had nothing of this session a while ago. It is then not asked
                again; if another writer came meanwhile, the store says so.

        Raises:
            ChangedError: Somebody else wrote what is repaired in the meantime: repair that.
        """
        day = session.ledger.session
        key = self.session_key(day)
        while True:
            ready = self._prepared(session, findings, hashed, fresh)
            changed = ready.changes
            if ready.data is None:
                self.store.delete(self.incomplete_key(day))
                return ready.written(key, unchanged=True)
            if changed is not None:
                self._restatements.keep(changed)
            try:
                version = replacing.versions.get(key) if replacing else ready.version
                self.store.replace(key, ready.data, version)
                break
            except ChangedError:
                if changed is not None:
                    self._restatements.take_back(changed)
                # Of two whole ones the later stands, and tells what it changed of the other's.
                if replacing:
                    raise
                fresh = False
        if not fresh:
            self.store.delete(self.incomplete_key(day))
        return ready.written(key)

    def _prepared(
        self,
        session: Session,
        findings: Sequence[Finding],
        hashed: Fingerprint | None,
        fresh: bool,
    ) -> _Prepared:
        """Everything that publishing a session takes, but for writing it."""
        collected = session.bars
        before, version, size = None, None, 0
        if not fresh:
            before, version, size = self._published(session.ledger.session)
        changed = None
        if before:
            session = completed(session, before)
            if _same(before, session):
                nothing = self._restatements.between(before, session)
                return _Prepared(session, None, size, version, nothing)
            told, was = session.provenance, before.provenance
            since = was.known_since or was.collected_at
            session = replace(session, provenance=replace(told, known_since=since))
            changed = self._restatements.between(before, session)
        if session.bars is not collected:
            hashed = None
        data = session_file.encode(session, findings, self.dataset, hashed)
        return _Prepared(session, data, len(data), version, changed)

    def keep_incomplete(
        self,
        session: Session,
        findings: Sequence[Finding],
        replacing: StoredSession | None = None,
        *,
        alone: bool = True,
    ) -> Written:
        """Keep a session that did not pass for its repair; what was published stays untouched.

        Args:
            session: The session.
            findings: Its audit.
            replacing: What it is a repair of, as for `publish`.
            alone: Whether it takes the place of what waits there, if it is no repair. Otherwise
                there must be nothing.

        Raises:
            ChangedError: Somebody else wrote what is repaired in the meantime, or wrote the first
                part of what several collections bring: repair that.
        """
        key = self.incomplete_key(session.ledger.session)
        data = session_file.encode(session, findings, self.dataset)
        if replacing or not alone:
            version = replacing.versions.get(key) if replacing else None
            self.store.replace(key, data, version)
        else:
            self.store.put(key, data)
        return Written(key, len(data), session.bars.num_rows)

    def clear_incomplete(self, day: date) -> None:
        """Remove the incomplete session that a killed run left beside a newer published one."""
        self.store.delete(self.incomplete_key(day))

    def stored(self, day: date) -> StoredSession | None:
        """What a repair starts from; None when the lake has neither session.

        Raises:
            BrokenFileError: The incomplete one is damaged, or the published one and none waits.
        """
        found, versions, broken = [], {}, None
        for key, published in (
            (self.session_key(day), True),
            (self.incomplete_key(day), False),
        ):
            try:
                data, versions[key] = self.store.get_versioned(key)
                session = session_file.decode(data, self.store.url(key))
            except FileNotFoundError:
                continue
            except BrokenFileError as error:
                broken = error
                continue
            found.append(StoredSession(session, published, versions))
        # What waits beside a damaged published one is none the worse.
        if broken and all(one.published for one in found):
            raise broken
        return max(found, key=lambda one: one.session.provenance.collected_at, default=None)

    def _published(self, day: date) -> tuple[Session | None, str | None, int]:
        """The published session, and the version and the length of its object."""
        key = self.session_key(day)
        try:
            data, version = self.store.get_versioned(key)
        except FileNotFoundError:
            return None, None, 0
        try:
            return session_file.decode(data, self.store.url(key)), version, len(data)
        except BrokenFileError:
            # A damaged session is what a new one mends; it has no bars to compare with.
            return None, version, len(data)

    def write_universe(self, taken: date, snapshot: pa.Table) -> Written:
        """Keep the universe of a day; a later snapshot of the same day takes its place."""
        key, data = layout.universe_key(taken), universe_file.encode(snapshot)
        self.store.put(key, data)
        return Written(key, len(data))

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


def _same(before: Session, session: Session) -> bool:
    """Do both hold the same bars and ledger of the same source?"""
    return (
        before.ledger == session.ledger
        and before.bars.equals(session.bars)
        and before.provenance.source == session.provenance.source
        and before.provenance.hours == session.provenance.hours
        # One that says it was collected later than this one just now says what can't be.
        and _at(before) <= _at(session)
    )


def _at(session: Session) -> datetime:
    return session.provenance.collected_at


def completed(session: Session, earlier: Session) -> Session:
    """The session, with the earlier answers for the symbols that it failed to ask or to get."""
    told = earlier.ledger
    if not session.ledger.missing:
        return session
    if told.session != session.ledger.session:
        return session  # somebody put another session in its place, which this one mends
    if earlier.provenance.hours != session.provenance.hours:
        return session  # symbols with the minutes of other hours are no part of it
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
    # A symbol has bars of one of the two, so no two of them contradict each other.
    merged, _ = combine([standing.bars, bars], A_TIME)
    return merged, told.repaired_by(ledger)
