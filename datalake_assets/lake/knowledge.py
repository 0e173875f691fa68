"""What was known at an instant: the bars as the lake held them then, and the factors of then.

Belongs here: undoing what was published, restated or said after the instant. Does not belong here:
keeping the logs (`restatements`, `actions.log`), the arithmetic (`securities.factors`).

Sessions that were first published later do not exist; restated bars have their old values; actions
that were first seen later do not exist, changed ones say what they said; the user's later decisions
were not made. So the last bar by then is the anchor. Only who held a ticker is told by what is
known now: that is no value that anybody could have traded on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets.actions.log import ActionLog
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.collection.progress import verb
from datalake_assets.lake.minute_file import schema_read
from datalake_assets.lake.minutes import Asked, AskedMinutes, Minutes, named
from datalake_assets.lake.reader import (
    MissingSessionsWarning,
    Reader,
    closed_sessions,
    span_of,
    symbols_of,
)
from datalake_assets.lake.restatements import Restatements, undone
from datalake_assets.lake.security_reader import Meant, SecurityReader, Tables
from datalake_assets.securities import factors, tables
from datalake_assets.securities.decisions import Decisions, read_decisions
from datalake_assets.securities.evidence import (
    NO_DAY,
    Days,
    Evidence,
    Floats,
    day_number,
    days_of,
    encode,
)
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store

_NEAR = timedelta(days=10)
"""After an ex-date, in which a new company's first bar is looked for."""

_COLLECTIONS = ["session", "changed_at"]
"""The columns of the restatement log that tell which collections changed something."""

_Out = TypeVar("_Out")
_Values = TypeVar("_Values", Days, Floats)

Since = Callable[[Mapping[date, str]], Mapping[date, datetime]]
"""When sessions were first published, by their day and the version of their object."""


def instant(at: datetime) -> datetime:
    """The instant; ValueError when it is none, or has no zone."""
    told: object = at  # a notebook has no type checker
    if not isinstance(told, datetime) or told.utcoffset() is None:
        raise ValueError(
            f"{at!r} is no instant: give a datetime with its zone, like datetime.now(UTC)"
        )
    try:
        at.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"{at!r} is no instant: it is outside the years 1 to 9999") from error
    return at


class KnownReader:
    """Reads bars as they were known at an instant.

    Args:
        reader: Reads them as they are now.
        restatements: What changed of them.
        since: When sessions were first published.
        at: The instant; aware.
    """

    def __init__(
        self, reader: Reader, restatements: Restatements, since: Since, at: datetime
    ) -> None:
        self._reader, self._since, self._at = reader, since, at
        self._restatements = restatements

    def published(self, first: date, last: date) -> dict[date, str]:
        """As `Reader.published`: the sessions of a range that were published by then."""
        return _by_then(self._reader.published(first, last), self._since, self._at)

    def meanwhile(self, do: Callable[[], _Out]) -> Future[_Out]:
        """As `Reader.meanwhile`."""
        return self._reader.meanwhile(do)

    def holes(
        self, start: date | str | None, end: date | str | None
    ) -> list[MissingSessionsWarning]:
        """As `Reader.holes`, of what is missing now; and of what is not, but was missing then."""
        held = self._reader.published(*span_of(start, end))
        later = _later(held, self._since, self._at, newest=end is None)
        return [*self._reader.holes(start, end), *later]

    def bars(
        self,
        symbols: str | Iterable[str] | None,
        start: date | str | None = None,
        end: date | str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """As `Reader.bars`, as they were known."""
        # A bar is told apart from what it became by all of its values.
        bars = self._known(symbols, start, end)
        return bars if columns is None else bars.select(columns)

    def _known(
        self, symbols: str | Iterable[str] | None, start: date | str | None, end: date | str | None
    ) -> pa.Table:
        names = symbols_of(symbols)
        days = list(self.published(*span_of(start, end)))
        bars = self._reader.bars(names, start, end)
        bars = bars.filter(pc.is_in(bars["session"], pa.array(days, pa.date32())))
        # After the bars: a session that is replaced has its changes in the log by then.
        log = self._restatements.after(self._at, frozenset(days))
        if names is not None:
            log = log.filter(pc.is_in(log["symbol"], pa.array(names, pa.string())))
        if not log.num_rows:
            return bars.combine_chunks()
        changed = pc.is_in(bars["session"], pc.unique(log["session"]))
        parts = [
            bars.filter(pc.invert(changed)),
            undone(bars.filter(changed), log, self._at),
        ]
        by = [("symbol", "ascending"), ("session", "ascending")]
        return pa.concat_tables(parts).sort_by(by).combine_chunks()


class KnownMinutes(AskedMinutes):
    """Reads minutes as they were known at an instant.

    Args:
        minutes: The lake's minutes, as they are now.
        daily: Reads its daily bars: it knows the lake's symbols.
        asked: Which minutes.
        restatements: What changed of them.
        since: When their sessions were first published.
        at: The instant; aware.
    """

    def __init__(
        self,
        minutes: Minutes,
        daily: Reader,
        asked: Asked,
        restatements: Restatements,
        since: Since,
        at: datetime,
    ) -> None:
        super().__init__(minutes, daily, asked)
        self._restatements, self._since, self._at = restatements, since, at

    def published(self, first: date, last: date) -> dict[date, str]:
        """The sessions of a range whose minutes were published by then."""
        return _by_then(super().published(first, last), self._since, self._at)

    def _warnings(self, held: Mapping[date, str]) -> list[UserWarning]:
        """As of minutes as they are now; and of sessions whose minutes were published later."""
        later = _later(held, self._since, self._at, newest=self._asked.last is None)
        return [*super()._warnings(held), *later]

    def _read(
        self, days: Sequence[date], names: frozenset[str] | None, columns: Sequence[str]
    ) -> list[pa.Table]:
        # A session that is replaced meanwhile has its changes in the log by then.
        log = self._restatements.after(self._at, frozenset(days))
        while True:
            tables = self._undone(log, days, names, columns)
            now = self._restatements.after(self._at, frozenset(days))
            if now.select(_COLLECTIONS).equals(log.select(_COLLECTIONS)):
                return tables
            log = now

    def _undone(
        self,
        log: pa.Table,
        days: Sequence[date],
        names: frozenset[str] | None,
        columns: Sequence[str],
    ) -> list[pa.Table]:
        """As `_read`, with the changes in a log undone."""
        if names is not None:
            log = log.filter(pc.is_in(log["symbol"], pa.array(names, pa.string())))
        changes = {
            day: log.filter(pc.equal(log["session"], pa.scalar(day)))
            for day in pc.unique(log["session"]).to_pylist()
        }

        def unchanged(day: date, rows: pa.Table) -> pa.Table:
            if day in changes:
                symbols = rows["symbol"].cast(pa.string())
                rows = rows.filter(pc.invert(pc.is_in(symbols, pc.unique(changes[day]["symbol"]))))
            return self._part(day, rows)

        tables = self._minutes.read(days, names, columns, unchanged, self._look)
        for day, later in changes.items():
            symbols = frozenset(later["symbol"].to_pylist())
            now = self._minutes.read([day], symbols, SCHEMA.names, lambda _, rows: rows)
            bars = pa.concat_tables([SCHEMA.empty_table(), *(each.cast(SCHEMA) for each in now)])
            rows = undone(bars, later, self._at, MINUTE).select(columns)
            tables.append(self._part(day, rows.cast(schema_read(columns))))
        return tables


def _by_then(held: Mapping[date, str], since: Since, at: datetime) -> dict[date, str]:
    """Those of these sessions that were published at an instant."""
    first = since(held)
    return {day: version for day, version in held.items() if first[day] <= at}


def _later(
    held: Mapping[date, str], since: Since, at: datetime, *, newest: bool
) -> list[MissingSessionsWarning]:
    """What is to be said of sessions of a range that were published after an instant.

    Args:
        held: The sessions of the range that are published now, with their versions.
        since: When they were first published.
        at: The instant; aware.
        newest: Whether the range ends with the newest session that was known. That a later one was
            not is what was asked for, unless there is none at all.
    """
    published = since(held)
    known = [day for day in held if published[day] <= at]
    later = sorted(set(held).difference(known))
    if later and known:
        # Those that were still to come are no surprise either.
        last = min(later[-1], max(known)) if newest else later[-1]
        had_closed = frozenset(closed_sessions(later[0], last, at))
        later = [day for day in later if day in had_closed]
    if not later:
        return []
    first = min(published[day] for day in later).astimezone(UTC)
    return [
        MissingSessionsWarning(
            f"{len(later):,} of the sessions asked for {verb(len(later), 'was', 'were')} not in "
            f"the lake by {at.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {named(later)}. "
            f"{verb(len(later), 'It was', 'They were')} published later, "
            f"{verb(len(later), 'at', 'the first at')} {first:%Y-%m-%d %H:%M} UTC"
        )
    ]


class KnownSecurities(SecurityReader):
    """Reads by security, by what was known at an instant.

    Args:
        store: Where the lake is.
        reader: Reads bars as they were known then.
        at: The instant; aware.
    """

    def __init__(self, store: Store, reader: KnownReader, at: datetime) -> None:
        super().__init__(store, reader)
        self._at = at
        self._daily = reader  # factors come of daily bars, whatever bars are read
        made = tuple(each for each in read_decisions(store).made if each.when <= at)
        self._decisions = Decisions(made)
        self._actions = self._decisions.with_added(ActionLog(store).current(at))

    def _current(self, versions: dict[str, str]) -> Tables | None:
        found = super()._current(versions)
        if found is None:
            return None
        days = list(self._daily.published(date.min, date.max))
        return replace(found, securities=self._known(found.securities, days))

    def _known(self, securities: pa.Table, days: Sequence[date]) -> pa.Table:
        """The table of securities, without what came after these sessions."""
        last = pa.scalar(max(days, default=date.min), pa.date32())
        rows = securities.filter(pc.less_equal(securities["first_session"], last))
        # What ended a ticker later had not happened, or nobody had said what was paid.
        ended = pc.less_equal(rows["last_session"], last)
        said = pc.is_in(rows["action_id"], self._actions["id"].combine_chunks())
        for name in rows.column_names:
            if name == "last_session":
                values = pc.min_element_wise(rows[name], last)
            elif name in ("followed_by", "next_symbol"):
                values = pc.if_else(ended, rows[name], None)
            elif name.startswith("payout_") or name == "action_id":
                values = pc.if_else(pc.and_(ended, said), rows[name], None)
            else:
                continue
            index = rows.schema.get_field_index(name)
            rows = rows.set_column(index, rows.schema.field(name), values)
        return rows.cast(tables.SECURITIES)

    def _derived(self, known: Tables, meant: Meant) -> Tables:
        """The factors of the securities that are meant, from what was known."""
        rows = known.securities
        if meant.asked is not None:
            wanted = pa.array(meant.securities, pa.string())
            rows = rows.filter(pc.is_in(rows["security"], wanted))
        tickers = pc.unique(rows["symbol"]).to_pylist()
        actions = self._actions
        actions = actions.filter(pc.is_in(actions["symbol"], pa.array(tickers, pa.string())))
        bars = self._daily.bars(tickers, None, None) if tickers else SCHEMA.empty_table()
        others = [
            self._daily.bars([name], day, day + _NEAR)
            for name, day in self._spun_off(actions)
            if name not in tickers
        ]
        days = list(self._daily.published(date.min, date.max))
        evidence = evidence_of(pa.concat_tables([bars, *others]), days, self._market())
        derived = factors.derive(
            evidence,
            rows,
            actions,
            accepted=self._decisions.accepted,
            ignored=self._decisions.ignored,
            added=self._decisions.added,
        )
        return replace(known, factors=derived.table, cumulative=derived.cumulative)

    def _spun_off(self, actions: pa.Table) -> list[tuple[str, date]]:
        kinds = pa.array(factors.SPIN_OFFS)
        rows = actions.filter(pc.is_in(actions["kind"], kinds))
        pairs = zip(rows["new_symbol"].to_pylist(), rows["effective_date"].to_pylist(), strict=True)
        return [(name, day) for name, day in pairs if name]

    def _market(self) -> dict[int, float]:
        """How the whole market opened in each session that evidence was kept of."""
        found: dict[int, float] = {}
        for key in self._store.list(layout.EVIDENCE):
            file = pq.ParquetFile(pa.BufferReader(self._store.get(key)))
            table = file.read(["session", "market"], use_threads=False).drop_null()
            found.update(
                zip(days_of(table["session"]).tolist(), table["market"].to_pylist(), strict=True)
            )
        return found


def evidence_of(bars: pa.Table, sessions: Iterable[date], market: Mapping[int, float]) -> Evidence:
    """All bars of some symbols as evidence, which is otherwise gathered for the whole market.

    Args:
        bars: In `collection.bars.SCHEMA`, in any order, each once.
        sessions: All published sessions.
        market: The median opening move of the whole market, by the number of the day.
    """
    by = [("symbol", "ascending"), ("session", "ascending")]
    bars = bars.sort_by(by).combine_chunks()
    encoded = encode(bars["symbol"])
    symbol = encoded.indices.to_numpy()
    session = days_of(bars["session"])
    open_, close = bars["open"].to_numpy(), bars["close"].to_numpy()
    same = symbol[1:] == symbol[:-1]

    def before(values: _Values, none: float | np.int32) -> _Values:
        moved = np.full_like(values, none)
        moved[1:] = np.where(same, values[:-1], none)
        return moved

    def after(values: _Values, none: float | np.int32) -> _Values:
        moved = np.full_like(values, none)
        moved[:-1] = np.where(same, values[1:], none)
        return moved

    return Evidence(
        symbols=encoded.dictionary,
        sessions=np.array(sorted(map(day_number, sessions)), dtype=np.int32),
        symbol=symbol.astype(np.int32),
        session=session,
        open=open_,
        close=close,
        dollars=close * bars["volume"].to_numpy(),
        session_before=before(session, NO_DAY),
        close_before=before(close, np.nan),
        usual_distance=np.ones(bars.num_rows),
        usual_dollars=np.full(bars.num_rows, np.nan),
        usual_move=np.full(bars.num_rows, np.nan),
        session_after=after(session, NO_DAY),
        close_after=after(close, np.nan),
        market=np.array([market.get(day, 0.0) for day in session.tolist()]),
    )
