"""The lake: its sessions, its universe, and the source that it belongs to.

Belongs here: what is written, in which order, and what is read back. Does not belong here: bytes
of a file (`session_file`), paths (`layout`), how an object is stored (`store`).
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets import market_calendar
from datalake_assets.actions.log import ActionLog
from datalake_assets.collection.audit import Finding
from datalake_assets.collection.bars import combine
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.survey import Survey
from datalake_assets.collection.universe import Snapshots
from datalake_assets.lake import session_file, universe_file
from datalake_assets.lake.coverage import Coverage, coverage
from datalake_assets.lake.knowledge import KnownReader, KnownSecurities, instant
from datalake_assets.lake.panel import field_of, panel
from datalake_assets.lake.reader import NotInLakeError, Reader, as_day, known_days, span_of
from datalake_assets.lake.restatements import Restatements, changes, undone
from datalake_assets.lake.returns import missing, total_returns
from datalake_assets.lake.security_reader import SecurityReader, Tables
from datalake_assets.lake.session_file import Session, Summary
from datalake_assets.securities.adjusting import KINDS, RAW, kinds
from datalake_assets.securities.decisions import read_decisions
from datalake_assets.securities.security import Security
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
class Prepared:
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
        readers = ("_reader", "_securities", "_firsts")
        return {name: value for name, value in vars(self).items() if name not in readers}

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
        self,
        session: Session,
        findings: Sequence[Finding],
        replacing: StoredSession | None = None,
        prepared: Prepared | None = None,
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
            prepared: What `prepare` made of them; None to do it here.

        Raises:
            ChangedError: Somebody else wrote what is repaired in the meantime: repair that.
        """
        day = session.ledger.session
        key = layout.session_key(day)
        while True:
            ready = prepared or self.prepare(session, findings)
            changed = ready.changes
            if ready.data is None:
                self.store.delete(layout.incomplete_key(day))
                return Written(key, ready.size, changed, ready.session.ledger, unchanged=True)
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
                # What was kept of one that is replaced by now is out of date.
                prepared = None
        self.store.delete(layout.incomplete_key(day))
        return Written(key, ready.size, changed, ready.session.ledger)

    def prepare(self, session: Session, findings: Sequence[Finding]) -> Prepared:
        """Everything that publishing a session takes, but for writing it; in any thread.

        Args:
            session: The session.
            findings: Its audit.
        """
        before, version, size = self._published(session.ledger.session)
        changed = None
        if before:
            session = completed(session, before)
            if _same(before, session):
                nothing = changes(before.bars, before.bars, _at(before), _at(session))
                return Prepared(session, None, size, version, nothing)
            told, was = session.provenance, before.provenance
            since = was.known_since or was.collected_at
            session = replace(session, provenance=replace(told, known_since=since))
            changed = changes(before.bars, session.bars, was.collected_at, told.collected_at)
        data = session_file.encode(session, findings)
        return Prepared(session, data, len(data), version, changed)

    def keep_incomplete(
        self, session: Session, findings: Sequence[Finding], replacing: StoredSession | None = None
    ) -> Written:
        """Keep a session that did not pass for its repair; what was published stays untouched.

        Args:
            session: The session.
            findings: Its audit.
            replacing: What it is a repair of, as for `publish`.

        Raises:
            ChangedError: Somebody else wrote what is repaired in the meantime: repair that.
        """
        key = layout.incomplete_key(session.ledger.session)
        data = session_file.encode(session, findings)
        if replacing:
            self.store.replace(key, data, replacing.versions.get(key))
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
        instant(at)
        session = self.session(day)
        since = session.provenance.known_since or session.provenance.collected_at
        if at < since:
            raise NotInLakeError(
                f"{as_day(day)} was first published at {since:%Y-%m-%d %H:%M:%S} UTC: nothing of "
                f"it was known at {at:%Y-%m-%d %H:%M:%S %Z}"
            )
        return undone(session.bars, self._restatements.of(as_day(day)), at)

    def stored(self, day: date) -> StoredSession | None:
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
            found.append(StoredSession(session, published, versions))
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
        """All snapshots of the universe, and the names in corporate actions, read when needed."""
        return Snapshots(self.universe_days(), self.universe_of, self._named_in_actions)

    def _named_in_actions(self) -> set[str]:
        """Every ticker that an action of the source or the user names: of many no list does."""
        actions = read_decisions(self.store).with_added(ActionLog(self.store).current())
        names = {*actions["symbol"].to_pylist(), *actions["new_symbol"].to_pylist()}
        return {name for name in names if name}

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

    @cached_property
    def _firsts(self) -> dict[tuple[date, str], datetime]:
        return {}

    @cached_property
    def _securities(self) -> SecurityReader:
        return SecurityReader(self.store, self._reader)

    def bars(
        self,
        symbols: str | Iterable[str] | None,
        start: date | str | None = None,
        end: date | str | None = None,
        adjustment: str | Iterable[str] = RAW,
        known_at: datetime | None = None,
        asof: date | str | None = None,
        follow: bool = True,
    ) -> pa.Table:
        """Bars of these securities from `start` to `end`, both included, raw or adjusted.

        A symbol means the security that holds the ticker at the end of the range, or held it last
        before. You get its bars under all of its tickers: `bars("META")` begins with those that
        traded as FB. Another security that once had the ticker is left out, with a warning.

        Adjusted prices and vwap are in units of the security's newest session, which is as it
        traded: each earlier one is multiplied by a factor for each split, spin-off and cash
        dividend since (rule A: 1 - dividend / close before; gross, without taxes). Splits also
        multiply volume, which is then float64; else it is int64. The number of trades stays.
        An action that the prices contradict is not applied, with a warning, until somebody decides.

        Example:
            >>> lake = Lake.open("s3://bucket/prefix")
            >>> bars = lake.bars(["META", "AAPL"], "2020-01-02", adjustment="all")
            >>> frame = bars.to_pandas(date_as_object=False)
            >>> lake.bars("META", "2021-07-01", "2022-07-01", asof="2021-12-31")  # its holder then
            >>> lake.bars("TPG", adjustment="all", known_at=datetime(2026, 2, 20, tzinfo=UTC))

        Args:
            symbols: One, several (also as an array of numpy, pandas, Polars or Arrow), or None for
                all; in any case of letters.
            start: First day; None: as far back as there is anything.
            end: Last day; None: the newest session.
            adjustment: "raw", "all", or one or several of "split" (also stock dividends and unit
                splits), "spin-off" and "dividend": "split,spin-off" or ["split", "spin-off"].
            known_at: An instant with its zone: bars as the lake held them then, adjusted by the
                actions that were known then; the last bar by then is as it traded. Who held a
                ticker is told by what is known now. Slower: factors are derived for the question.
            asof: A day that tells which security a symbol means, instead of the end of the range.
            follow: False: the rows of the tickers alone, whosever they were. Raw only.

        Returns:
            A table with the columns of `collection.bars.SCHEMA` and `security`, the identifier of
            the row's security, null while the table of securities doesn't know it. `symbol` is the
            ticker as traded. Ordered by the security's newest ticker in the answer, and session.
            With `follow=False`, and in a lake without tables of securities, there is no column
            `security`, and rows are of tickers. A known symbol without a bar in the range has no
            row; `explain` tells why.

        Raises:
            ValueError: A day that is none, `end` before `start`, no symbol at all, an unknown
                adjustment, an instant without its zone, or options that exclude each other.
            NotInLakeError: A symbol that neither the lake nor its newest universe knows; nobody
                held the ticker on `asof`; or the tables of securities are needed and not there.
            BrokenFileError: A file is damaged.

        Warns:
            HoldersWarning: Another security had the ticker in the range, or nobody had it yet.
            UndecidedWarning: An action in the range is contradicted by prices and undecided.
            BehindWarning: There are newer bars than the factors were derived from.
            MissingSessionsWarning: The lake does not hold every session of the range.
        """
        adjust = kinds(adjustment)
        reader, securities = self._readers(known_at)
        if not follow:
            if adjust or asof is not None:
                raise ValueError(
                    "follow=False gives the raw rows of tickers: leave out adjustment and asof, "
                    "or follow the security"
                )
            rows = reader.bars(symbols, start, end)
            _warn(reader.holes(start, end))
            return rows
        answer = securities.bars(symbols, start, end, adjust, asof)
        if isinstance(answer, pa.Table):
            _warn(reader.holes(start, end))
            return answer
        _warn([*answer.warnings, *reader.holes(start, end)])
        return answer.spans.adjusted(answer.bars, answer.rows, adjust)

    def panel(
        self,
        field: str,
        symbols: str | Iterable[str] | None,
        start: date | str | None = None,
        end: date | str | None = None,
        adjustment: str | Iterable[str] = RAW,
        known_at: datetime | None = None,
        asof: date | str | None = None,
    ) -> pa.Table:
        """One field of the bars as sessions × securities, ready for pandas and Polars.

        Example:
            >>> close = lake.panel("close", ["META", "AAPL"], "2020-01-02", adjustment="all")
            >>> frame = close.to_pandas(date_as_object=False).set_index("session")
            >>> frame["META"]["2021-01-04"]  # traded as FB then

        Args:
            field: A column of the bars, like close or volume.
            symbols: As for `bars`.
            start: As there.
            end: As there.
            adjustment: As there.
            known_at: As there.
            asof: As there.

        Returns:
            A table with the column `session` first, a row for each session of the range that the
            lake holds, then a column for each security with a bar in the range, null where it has
            none. A column is named by the newest ticker that its security has in the range; when
            several had the same one, the latest keeps it and the others go by their identifiers.
            Each column's metadata tells its `security`.

        Raises:
            ValueError: As for `bars`, or bars have no such field.
            NotInLakeError: As for `bars`; a panel needs the tables of securities.
            BrokenFileError: A file is damaged.

        Warns:
            As for `bars`.
        """
        name, adjust = field_of(field), kinds(adjustment)
        reader, securities = self._readers(known_at)
        securities.required("a panel")
        answer = securities.bars(symbols, start, end, adjust, asof)
        assert not isinstance(answer, pa.Table)
        _warn([*answer.warnings, *reader.holes(start, end)])
        bars = answer.spans.adjusted(answer.bars, answer.rows, adjust)
        sessions = list(reader.published(*span_of(start, end)))
        return panel(bars, name, answer.stretches, sessions)

    def returns(
        self,
        symbols: str | Iterable[str] | None,
        start: date | str | None = None,
        end: date | str | None = None,
        known_at: datetime | None = None,
        asof: date | str | None = None,
    ) -> pa.Table:
        """Total returns per session, dividends reinvested, and the payout at a security's end.

        Dividends are reinvested at the close of their ex-date (rule B, close / (close + dividend)),
        as total return indices do; gross, without taxes. A security that ended has one more return,
        in the session after its last one: what its holders got for a share, in cash and at the
        first close of the acquirer's shares, if an action tells it. Nothing is filled in: the usual
        guesses of studies for delistings without a payout are -30 % (NYSE) and -55 % (Nasdaq).

        Example:
            >>> returns = lake.returns(["META", "TWTR"], "2022-01-03").to_pandas()
            >>> returns.pivot(index="session", columns="security", values="total_return")
            >>> returns["status"].value_counts()  # traded, payout, and what is missing

        Args:
            symbols: As for `bars`.
            start: As there.
            end: As there.
            known_at: As there.
            asof: As there.

        Returns:
            A table in `lake.returns.RETURNS`: `session`, `security`, `symbol` as traded,
            `total_return` as a fraction since the close of the session `since`, and `status`:
            "traded"; "first bar" (null: there is nothing before it); "no bar" (null: the lake holds
            the session and no bar of the security; the next return is measured from the last
            close); "payout"; "payout unknown" (null). The first return of the range is measured
            from the last close before it.

        Raises:
            ValueError: As for `bars`.
            NotInLakeError: As for `bars`; returns need the tables of securities.
            BrokenFileError: A file is damaged.

        Warns:
            MissingReturnsWarning: How many returns are missing, and of which ends.
            And as for `bars`.
        """
        reader, securities = self._readers(known_at)
        securities.required("a total return")
        first, last = span_of(start, end)
        answer = securities.bars(symbols, start, end, tuple(KINDS), asof, lead=True)
        assert not isinstance(answer, pa.Table)
        sessions = list(reader.published(date.min, last))
        last = min(last, max(sessions, default=last))
        found = total_returns(answer, first, last, sessions, partial(_close, reader))
        _warn([*answer.warnings, *reader.holes(start, end), *missing(found)])
        return found

    def securities(self) -> Tables:
        """The tables of securities and factors, as they are now.

        Raises:
            NotInLakeError: They were not derived yet; says what to type.
            BrokenFileError: One of them is damaged.
        """
        return self._securities.required("what is known of securities")

    def security(self, symbol: str, asof: date | str | None = None) -> Security:
        """The security that holds a ticker: its names over time, its actions, and how it ended.

        Example:
            >>> lake.security("META")
            META-2016-01-04: Meta Platforms, Inc., NASDAQ
              FB 2016-01-04 to 2022-06-08, then rename
              META 2022-06-09 to today
              factors: 4 dividends
            >>> lake.security("META", asof="2021-12-31").names[-1].followed_by
            >>> lake.security("AAPL").factors.to_pandas()  # each split and dividend

        Args:
            symbol: The ticker, in any case of letters.
            asof: A day on which it held the ticker; None: now, or whoever had it last.

        Raises:
            ValueError: No symbol, or no day.
            NotInLakeError: No security ever had this ticker, or none on that day; or the lake has
                no table of securities.
            BrokenFileError: A file is damaged.
        """
        return self._securities.security(symbol, asof)

    def _readers(self, known_at: datetime | None) -> tuple[Reader | KnownReader, SecurityReader]:
        """What reads bars as they are, or as they were known at an instant."""
        if known_at is None:
            return self._reader, self._securities
        known = KnownReader(
            self._reader, self._restatements, self._first_published, instant(known_at)
        )
        return known, KnownSecurities(self.store, known, known_at)

    def _first_published(self, sessions: Mapping[date, str]) -> Mapping[date, datetime]:
        """When these sessions, in these versions, were first published."""
        new = [day for day, version in sessions.items() if (day, version) not in self._firsts]
        for day, told in zip(new, self.summaries(map(layout.session_key, new)), strict=True):
            if isinstance(told, Exception):
                raise told
            since = told.provenance.known_since or told.provenance.collected_at
            self._firsts[day, sessions[day]] = since
        return {day: self._firsts[day, version] for day, version in sessions.items()}

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
        self._securities.refresh()


def _close(reader: Reader | KnownReader, symbol: str, day: date) -> float | None:
    """The close of a ticker on a day, or in the week after it."""
    try:
        bars = reader.bars(symbol, day, day + timedelta(days=7))
    except NotInLakeError:
        return None
    return bars["close"][0].as_py() if bars.num_rows else None


def _warn(warned: Iterable[Warning]) -> None:
    """Warn whoever called the method that calls this."""
    for warning in warned:
        warnings.warn(warning, stacklevel=3)


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
    if not session.ledger.missing:
        return session
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
