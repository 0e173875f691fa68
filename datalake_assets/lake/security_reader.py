"""Bars by security: whose bars a symbol means, over all of its tickers, and their factors.

Belongs here: reading the tables of securities and factors, choosing the securities that are meant,
and putting their bars in order. Does not belong here: which object holds a bar (`reader`),
multiplying (`securities.adjusting`), and deriving those tables.

The tables are read once and kept. Whether they changed is asked with each read, by one listing that
waits beside the bars: factors that are older than the bars would be wrong factors.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from typing import Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from datalake_assets.actions.log import ActionLog
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.lake.reader import (
    NotInLakeError,
    as_day,
    span_of,
    symbol_of,
    symbols_of,
)
from datalake_assets.securities import tables
from datalake_assets.securities.adjusting import Rows, Spans
from datalake_assets.securities.holders import Held, Holders
from datalake_assets.securities.security import Name, Security
from datalake_assets.securities.tables import DERIVE
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store

_Out = TypeVar("_Out")

BARS = SCHEMA.append(pa.field("security", pa.string()))
"""Bars with their security, as the table of securities names it; null while it names none."""

_ORDER = ("symbol", "session")

_LEAD = 10
"""Sessions before a range in which the last bars before it are looked for first."""

_AFTER_ITS_END = timedelta(days=10)


class SecuritiesWarning(UserWarning):
    """Something about the securities of an answer that changes what it is worth."""


class HoldersWarning(SecuritiesWarning):
    """A symbol means one security, and another one had the ticker in the range, or nobody yet."""


class UndecidedWarning(SecuritiesWarning):
    """The prices contradict an action, it is not applied, and nobody decided about it."""


class BehindWarning(SecuritiesWarning):
    """There are bars that the tables of securities and factors don't cover yet."""


class MissingReturnsWarning(SecuritiesWarning):
    """Returns are missing: sessions without a bar, or an end whose payout no action tells."""


@dataclass(frozen=True)
class Tables:
    """The tables of a lake that tell of securities.

    Args:
        versions: Of their objects, by key, as they were read.
        securities: In `tables.SECURITIES`.
        factors: In `tables.FACTORS`.
        cumulative: In `tables.CUMULATIVE`.
    """

    versions: dict[str, str]
    securities: pa.Table
    factors: pa.Table
    cumulative: pa.Table

    @cached_property
    def holders(self) -> Holders:
        """The securities, to be asked."""
        return Holders(self.securities)

    @cached_property
    def spans(self) -> Spans:
        """The factors, to be looked up."""
        return Spans(self.cumulative)

    @cached_property
    def undecided(self) -> list[dict[str, object]]:
        """The actions that prices contradict and that the user has not decided about."""
        contradicted = pc.equal(self.factors["verdict"], "contradicted")
        open_ = pc.and_(contradicted, pc.is_null(self.factors["decision"]))
        return list(self.factors.filter(open_).to_pylist())


@dataclass(frozen=True, slots=True)
class Stretch:
    """The bars of one security in an answer: rows in a row, ascending by session.

    Args:
        symbol: Its newest ticker among them.
        security: The security; None when the tables don't know the ticker.
        start: Its first row.
        stop: The row after its last one.
    """

    symbol: str
    security: str | None
    start: int
    stop: int


@dataclass(frozen=True)
class Answer:
    """Raw bars of securities, and what is needed to adjust them.

    Args:
        bars: In `BARS`: by the newest ticker that the security has among them, and session.
        rows: For each the row of its span in `spans`.
        spans: The factors.
        stretches: The securities, in the order of their rows.
        holders: The securities of the lake.
        warnings: What the reader should know.
    """

    bars: pa.Table
    rows: Rows
    spans: Spans
    stretches: Sequence[Stretch]
    holders: Holders
    warnings: Sequence[SecuritiesWarning]


@dataclass(frozen=True)
class Meant:
    """What symbols mean.

    Args:
        asked: The symbols; None for all.
        securities: The securities; of no account for all.
        tickers: The tickers to read; None for all.
        warnings: What is to be said of it.
    """

    asked: frozenset[str] | None
    securities: frozenset[str]
    tickers: frozenset[str] | None
    warnings: Sequence[SecuritiesWarning]


class BarReader(Protocol):
    """What reads bars by ticker: `reader.Reader`, or `knowledge.KnownReader`."""

    def bars(
        self,
        symbols: Iterable[str] | None,
        start: date | str | None,
        end: date | str | None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Bars, or some of their columns, by symbol and session."""

    def published(self, first: date, last: date) -> dict[date, str]:
        """The published sessions of a range, and their versions."""

    def meanwhile(self, do: Callable[[], _Out]) -> Future[_Out]:
        """Begin something beside what is read."""


class SecurityReader:
    """Reads a lake by security.

    Args:
        store: Where the lake is.
        reader: Reads its bars.
    """

    def __init__(self, store: Store, reader: BarReader) -> None:
        self._store, self._reader = store, reader
        self._tables: Tables | None = None

    def over(self, reader: BarReader) -> Self:
        """The same over other bars of these securities, with the tables that are read already."""
        other = copy(self)
        other._reader, other._tables = reader, self._tables or self.tables()
        return other

    def refresh(self) -> None:
        """Read the tables again at the next question."""
        self._tables = None

    def tables(self) -> Tables | None:
        """The tables as they lie in the lake now; None when there are none.

        Raises:
            BrokenFileError: One of them is damaged.
        """
        return self._current(self._versions())

    def required(self, attempted: str) -> Tables:
        """The tables; without them NotInLakeError, which says what was attempted."""
        found = self.tables()
        if found is None:
            raise NotInLakeError(
                f"{attempted} needs the tables of securities and factors, and {self._store.uri} "
                f"has none: derive them: {DERIVE}"
            )
        return found

    def bars(
        self,
        symbols: str | Iterable[str] | None,
        start: date | str | None,
        end: date | str | None,
        adjust: Sequence[str],
        asof: date | str | None = None,
        columns: Sequence[str] | None = None,
        *,
        lead: bool = False,
    ) -> Answer | pa.Table:
        """The bars of the securities that these symbols mean.

        Args:
            symbols: As for `Reader.bars`.
            start: As there.
            end: As there; by its end a range decides whom a symbol means.
            adjust: The kinds of adjustment that are to follow; none for raw bars.
            asof: The day that decides instead.
            columns: Those of `BARS` that are wanted, in any order; None: all. Others are not read,
                but for symbol and session, which always come.
            lead: Whether the last bar before `start` comes too, of each security that has one;
                perhaps with more bars before it.

        Returns:
            The answer; for raw bars of a lake without tables, a table of bars by ticker.

        Raises:
            ValueError: As `Reader.bars`.
            NotInLakeError: As there; or the tables are needed, and there are none; or nobody held
                a ticker on the day of `asof`.
            BrokenFileError: As there, or one of the tables is damaged.
        """
        names, (first, last) = symbols_of(symbols), span_of(start, end)
        day = None if asof is None else as_day(asof)
        read = (
            SCHEMA.names
            if columns is None
            else [n for n in SCHEMA.names if n in {*_ORDER, *columns}]
        )
        known = self._tables or self.tables()
        while True:
            if known is None:
                if adjust or day is not None:
                    self.required("an adjusted read" if adjust else "asof")
                return self._reader.bars(names, start, end, read)
            since = self._since(first) if lead and start is not None else first
            whom = meant(known.holders, names, first, last, day, since)
            versions = self._reader.meanwhile(self._versions)
            here = self._derived(known, whom) if adjust else known
            answer = self._read(here, whom, start if since == first else since, end, read)
            if since < first:
                answer = self._with_lead(here, whom, answer, since, first, read)
            newer = versions.result()
            if newer == known.versions:
                break
            known = self._current(newer)
        told = [*whom.warnings, *answer.warnings]
        if adjust:
            securities = {one.security for one in answer.stretches if one.security}
            told += undecided(here, securities, adjust, first, last)
            told += behind(here.holders, pc.max(answer.bars["session"]).as_py())
        return replace(answer, warnings=told)

    def _read(
        self,
        known: Tables,
        meant: Meant,
        start: date | str | None,
        end: date | str | None,
        columns: Sequence[str],
    ) -> Answer:
        if meant.tickers is not None and not meant.tickers:
            return arranged(SCHEMA.empty_table().select(columns), known, meant)
        return arranged(self._reader.bars(meant.tickers, start, end, columns), known, meant)

    def _since(self, first: date) -> date:
        """From where on the last bars before a day are looked for first."""
        before = list(self._reader.published(date.min, first - timedelta(days=1)))
        return before[-_LEAD:][0] if before else first

    def _with_lead(
        self,
        known: Tables,
        meant: Meant,
        answer: Answer,
        since: date,
        first: date,
        columns: Sequence[str],
    ) -> Answer:
        """The answer, and the last bars before it of those that have none since `since`."""
        rare = _without_lead(known.holders, meant, answer, since, first)
        tickers = _tickers(known.holders, rare, date.min, since - timedelta(days=1))
        if not tickers:
            return answer
        theirs = replace(meant, asked=frozenset(), securities=rare, tickers=tickers)
        found = self._read(known, theirs, None, since - timedelta(days=1), columns)
        ends = pa.array([one.stop - 1 for one in found.stretches], pa.int64())
        bars = pa.concat_tables([found.bars.take(ends), answer.bars]).select(columns)
        by = [("symbol", "ascending"), ("session", "ascending")]
        return arranged(bars.sort_by(by), known, meant)

    def security(self, symbol: str, asof: date | str | None) -> Security:
        """The security that holds a ticker; `Lake.security` tells all."""
        name = symbol_of(symbol)
        day = date.max if asof is None else as_day(asof)
        known = self.required("a security")
        holders = known.holders
        held = holders.latest(name, day) if asof is None else None
        held = held or holder(holders, name, day)
        tickers = holders.of_security(held.security)
        rows = [known.securities.slice(one.row, 1).to_pylist()[0] for one in tickers]
        names = tuple(
            Name(
                one.symbol,
                one.first,
                None if one.followed_by is None else one.last,
                row["exchange"],
                row["name"],
                one.followed_by,
                row["evidence"],
            )
            for one, row in zip(tickers, rows, strict=True)
        )
        of_it = pc.equal(known.factors["security"], held.security)
        return Security(
            held.security,
            names,
            holders.end(held.security),
            known.factors.filter(of_it),
            actions_of(tickers, ActionLog(self._store).current()),
        )

    # The tables

    def _derived(self, known: Tables, meant: Meant) -> Tables:
        """The tables with the factors of what is meant: here those of the lake."""
        return known

    def _versions(self) -> dict[str, str]:
        found = self._store.versions(layout.SECURITIES)
        ours = (layout.SECURITIES_TABLE, layout.FACTORS_TABLE, layout.CUMULATIVE_TABLE)
        return {key: found[key] for key in ours if key in found}

    def _current(self, versions: dict[str, str]) -> Tables | None:
        """The tables in these versions, read when they are others than those that are kept."""
        if len(versions) < 3:
            self._tables = None
        elif self._tables is None or self._tables.versions != versions:
            schemas = (tables.SECURITIES, tables.FACTORS, tables.CUMULATIVE)
            self._tables = Tables(versions, *map(self._table, versions, schemas))
        return self._tables

    def _table(self, key: str, schema: pa.Schema) -> pa.Table:
        try:
            file = pq.ParquetFile(
                pa.BufferReader(self._store.get(key)), page_checksum_verification=True
            )
            return file.read(use_threads=False).select(schema.names).cast(schema)
        except (OSError, pa.ArrowException, ValueError, KeyError) as error:
            raise BrokenFileError(
                f"{self._store.url(key)} is no whole table ({error!r}): derive it again: {DERIVE}"
            ) from error


# --- whom a symbol means --------------------------------------------------------------------------


def meant(
    holders: Holders,
    names: frozenset[str] | None,
    first: date,
    last: date,
    asof: date | None,
    since: date,
) -> Meant:
    """Whom these symbols mean in a range, and the tickers that they have in it and from `since`."""
    if names is None:
        return Meant(None, frozenset(), None, ())
    wanted: set[str] = set()
    tickers: set[str] = set()
    told: list[SecuritiesWarning] = []
    for name in sorted(names):
        if name not in holders:
            tickers.add(name)  # the reader knows whether there is such a symbol
            continue
        held = holder(holders, name, asof) if asof else holders.latest(name, last)
        if held is None:
            told += _not_yet(holders, name, first, last)
            continue
        wanted.add(held.security)
        if asof is None:
            told += _others(holders, held, first, last)
    tickers |= _tickers(holders, wanted, since, last)
    return Meant(names, frozenset(wanted), frozenset(tickers), told)


def _tickers(
    holders: Holders, securities: Iterable[str], first: date, last: date
) -> frozenset[str]:
    """The tickers of these securities in a range."""
    return frozenset(
        held.symbol
        for security in securities
        for held in holders.of_security(security)
        if held.overlaps(first, last)
    )


def _without_lead(
    holders: Holders, meant: Meant, answer: Answer, since: date, first: date
) -> frozenset[str]:
    """The securities that began before `since`, and have no bar from then to before `first`."""
    every = holders.securities if meant.asked is None else meant.securities
    begins = answer.bars["session"].take(
        pa.array([one.start for one in answer.stretches], pa.int64())
    )
    have = {
        stretch.security
        for stretch, day in zip(answer.stretches, begins.to_pylist(), strict=True)
        if day < first
    }
    return frozenset(
        security
        for security in every
        if security not in have
        and holders.of_security(security)[0].first
        < since
        <= holders.of_security(security)[-1].until
    )


def holder(holders: Holders, symbol: str, day: date) -> Held:
    """Who held the ticker on this very day; NotInLakeError names those who ever did."""
    held = holders.on(symbol, day)
    if held is None:
        ever = holders.of_symbol(symbol)
        if not ever:
            raise NotInLakeError(f"no security of this lake ever held the ticker {symbol}")
        near = f": for {ever[-1].security}, asof='{ever[-1].last}'"
        raise NotInLakeError(
            f"no security that this lake knows held the ticker {symbol} on {day}; its holders: "
            f"{'; '.join(map(str, ever))}{near}"
        )
    return held


def actions_of(tickers: Sequence[Held], actions: pa.Table) -> pa.Table:
    """The actions of a security: those that name one of its tickers while it had it.

    Args:
        tickers: Its tickers, oldest first.
        actions: Of all, in `actions.action.SCHEMA`.
    """
    kept = pa.repeat(pa.scalar(False), actions.num_rows)
    for number, held in enumerate(tickers):
        # What ends a ticker counts on the first day without it; news of it may come days later.
        ahead = tickers[number + 1].first if number + 1 < len(tickers) else None
        until = ahead or (held.until if held.until == date.max else held.last + _AFTER_ITS_END)
        day = actions["effective_date"]
        here = pc.and_(pc.greater_equal(day, held.first), pc.less_equal(day, until))
        kept = pc.or_(kept, pc.and_(here, pc.equal(actions["symbol"], held.symbol)))
    return actions.filter(kept)


def _not_yet(holders: Holders, symbol: str, first: date, last: date) -> list[SecuritiesWarning]:
    """A ticker that nobody had yet, of a security that traded by another one then."""
    later = holders.of_symbol(symbol)[0]
    earlier = [
        held.symbol for held in holders.of_security(later.security) if held.overlaps(first, last)
    ]
    if not earlier:
        return []
    return [
        HoldersWarning(
            f"nobody held the ticker {symbol} by {last}, so there are no bars of it. "
            f"{later.security} has it since {later.first} and traded as "
            f"{', '.join(dict.fromkeys(earlier))} then: for its bars, asof='{later.first}'"
        )
    ]


def _others(holders: Holders, held: Held, first: date, last: date) -> list[SecuritiesWarning]:
    others = [
        other
        for other in holders.of_symbol(held.symbol)
        if other.security != held.security and other.overlaps(first, last)
    ]
    if not others:
        return []
    return [
        HoldersWarning(
            f"{held.symbol} means {held.security} here, and its ticker was also held by "
            f"{'; '.join(map(str, others))}, whose bars are left out: for them, "
            f"asof='{others[-1].last}'; for every row of the ticker, follow=False"
        )
    ]


# --- the order ------------------------------------------------------------------------------------


def arranged(bars: pa.Table, known: Tables, meant: Meant) -> Answer:
    """The bars of the securities that are meant in order, from bars by symbol and session.

    Args:
        bars: Of all the tickers that were read.
        known: The tables.
        meant: What was asked for.
    """
    spans = known.spans
    rows = spans.rows(bars)
    security = spans.security(rows)
    if meant.asked is not None:
        kept = spans.among(meant.securities)[security]
        if (rows < 0).any():
            # Bars that no table knows yet belong to whoever asked for their ticker.
            asked = pc.is_in(bars["symbol"], pa.array(meant.asked, pa.string()))
            kept |= (rows < 0) & asked.to_numpy()
        if not kept.all():
            bars = bars.filter(pa.array(kept)).combine_chunks()
            rows, security = rows[kept], security[kept]
    stretches, order = _in_order(bars, spans, rows, security)
    if order is not None:
        bars, rows = bars.take(pa.array(order)), rows[order]
    return Answer(
        bars.append_column(BARS.field("security"), _named(stretches, bars.num_rows)),
        rows,
        spans,
        stretches,
        known.holders,
        (),
    )


def _in_order(
    bars: pa.Table, spans: Spans, rows: Rows, security: Rows
) -> tuple[list[Stretch], Rows | None]:
    """The stretches of each security, and the order that brings its bars together, if any must."""
    count = bars.num_rows
    if not count:
        return [], None
    ticker = np.append(spans.codes, -1)[rows]
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        names = bars["symbol"].take(pa.array(unknown)).combine_chunks().dictionary_encode()
        # Each ticker without a security counts as one of its own.
        security, own = security.copy(), -2 - names.indices.to_numpy()
        ticker[unknown] = security[unknown] = own
    change = (ticker[1:] != ticker[:-1]) | (security[1:] != security[:-1])
    starts = np.concatenate([[0], np.flatnonzero(change) + 1])
    stops = np.append(starts[1:], count)
    symbols = bars["symbol"].take(pa.array(starts)).to_pylist()
    whose = security[starts].tolist()
    pieces: dict[int, list[tuple[object, int, int, str]]] = {}
    days = bars["session"].take(pa.array(starts)).to_pylist()
    for piece in zip(whose, days, starts.tolist(), stops.tolist(), symbols, strict=True):
        pieces.setdefault(piece[0], []).append(piece[1:])
    name_of = spans.securities
    if len(pieces) == len(whose):
        return [
            Stretch(symbol, name_of[place] if place >= 0 else None, start, stop)
            for place, start, stop, symbol in zip(
                whose, starts.tolist(), stops.tolist(), symbols, strict=True
            )
        ], None
    found: list[tuple[str, int, list[tuple[object, int, int, str]]]] = []
    for place, parts in pieces.items():
        parts.sort()  # by their first session
        found.append((parts[-1][3], place, parts))
    found.sort(key=lambda one: (one[0], one[2][0][:2]))
    stretches, order, start = [], [], 0
    for symbol, place, parts in found:
        size = sum(part[2] - part[1] for part in parts)
        order += [np.arange(part[1], part[2]) for part in parts]
        stretches.append(
            Stretch(symbol, name_of[place] if place >= 0 else None, start, start + size)
        )
        start += size
    return stretches, np.concatenate(order)


def _named(stretches: Sequence[Stretch], count: int) -> pa.Array:
    """A column of the securities' names."""
    names = pa.array([one.security for one in stretches], pa.string())
    places = np.repeat(np.arange(len(stretches)), [one.stop - one.start for one in stretches])
    return names.take(pa.array(places.astype(np.int64), pa.int64()))


# --- what to say ----------------------------------------------------------------------------------


def undecided(
    known: Tables, here: Collection[str], adjust: Sequence[str], first: date, last: date
) -> list[SecuritiesWarning]:
    """The actions of these securities in a range that are not applied until somebody decides."""
    if not known.undecided:
        return []
    told: list[SecuritiesWarning] = []
    for row in known.undecided:
        day = row["session"] or row["effective_date"]
        assert isinstance(day, date)
        if row["security"] in here and row["adjustment"] in adjust and first < day <= last:
            told.append(
                UndecidedWarning(
                    f"{row['symbol']} ({row['security']}): prices contradict the {row['kind']} of "
                    f"{day}, so it is not applied ({row['reason']}). To decide: datalake decide "
                    f"accept {row['action_id']}, or ignore {row['action_id']}"
                )
            )
    return told


def behind(holders: Holders, newest: date | None) -> list[SecuritiesWarning]:
    """What to say when bars are newer than the tables of securities and factors."""
    if newest is None or (holders.newest is not None and newest <= holders.newest):
        return []
    return [
        BehindWarning(
            f"the factors were derived from the sessions until {holders.newest}, and there are "
            f"bars until {newest}: a later split or dividend is not applied yet. Derive them "
            f"again: {DERIVE}"
        )
    ]
