"""What is exported: which securities, over which sessions, with their bars and events.

Belongs here: whom the given symbols mean, the names under which securities are exported, and
reading them in groups. Does not belong here: any tool's format, and where files are written
(`folder`).

A security is exported once, over all of its tickers. Prices and volumes are as traded. Factors and
events count up to the last session of the export, which is as it traded: so an export that ends in
2020 knows nothing of a split in 2021.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datalake_assets import market_calendar
from datalake_assets.actions.log import ActionLog
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.reader import NotInLakeError, span_of, symbols_of
from datalake_assets.lake.security_reader import Tables, behind, meant, undecided
from datalake_assets.securities.adjusting import KINDS
from datalake_assets.securities.evidence import Days, days_of
from datalake_assets.securities.holders import Held
from datalake_assets.storage import layout

READ_AT_ONCE = 100
"""Tickers that are read together: with 15 years of bars some 40 MB."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Name:
    """A ticker of a security, clipped to the export.

    Args:
        symbol: The ticker.
        first: First session under it.
        last: Last session under it; the last one of the export while it trades.
    """

    symbol: str
    first: date
    last: date


@dataclass(frozen=True, slots=True)
class Listed:
    """A security in an export.

    Args:
        id: Its permanent identifier.
        symbol: The name it is exported under: its newest ticker in the export. Of several with
            the same one the latest has it, and the others go by their identifiers.
        names: Its tickers, oldest first.
        company: Name of the security, if a list of the source tells.
        exchange: Its primary exchange, if a list tells.
        ended: Whether it ended within the export.
    """

    id: str
    symbol: str
    names: Sequence[Name]
    company: str | None
    exchange: str | None
    ended: bool


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a security's shares before the open of a session.

    Args:
        session: The first session whose prices know it, in which the security has a bar.
        kind: "split" (also stock dividends and unit splits), "dividend" (cash), or "spin-off".
        price_factor: What earlier prices are multiplied by, by rule A.
        amount: US dollars for a share held after a split of the same day: the dividend, or the
            value of what was spun off; 0 for a split.
        pay_date: Day on which a dividend is paid, if the source tells.
    """

    session: date
    kind: str
    price_factor: float
    amount: float = 0.0
    pay_date: date | None = None


@dataclass(frozen=True)
class Exported:
    """A security with its bars.

    Args:
        listed: What it is called.
        bars: As traded, in `collection.bars.SCHEMA`, by session; at least one.
        total_return: What the price of each bar is multiplied by to be comparable with the last
            one, dividends reinvested at the close of their ex-date (rule B).
        volume: What its volume is multiplied by.
        events: Those that fall between its first and its last bar, by session.
    """

    listed: Listed
    bars: pa.Table
    total_return: Floats
    volume: Floats
    events: Sequence[Event]

    @property
    def first(self) -> date:
        """The session of its first bar."""
        day: date = self.bars["session"][0].as_py()
        return day

    @property
    def last(self) -> date:
        """The session of its last bar."""
        day: date = self.bars["session"][-1].as_py()
        return day

    @cached_property
    def days(self) -> Days:
        """The sessions of its bars as numbers, ascending."""
        return days_of(self.bars["session"])

    def column(self, name: str) -> Floats:
        """A column of the bars as numbers; NaN where it is null."""
        values: Floats = self.bars[name].cast(pa.float64()).to_numpy()
        return values


@dataclass(frozen=True)
class Selection:
    """What is to be exported from a lake, as it is now. `Selection.of` makes one.

    Args:
        lake: The lake.
        asked: The symbols that were asked for, ascending; None for all.
        tables: Its tables of securities.
        sessions: The published sessions of the range, ascending.
        securities: The securities, by the session and identifier that they began with.
        told: What the user should know, in sentences; `read` adds to it.
    """

    lake: Lake
    asked: Sequence[str] | None
    tables: Tables
    sessions: Sequence[date]
    securities: Sequence[Listed]
    told: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        lake: Lake,
        symbols: Iterable[str] | None,
        start: date | str | None,
        end: date | str | None,
    ) -> Selection:
        """The securities that these symbols mean at the end of the range, as for `Lake.bars`.

        Args:
            lake: The lake.
            symbols: The symbols; None for every security that has a bar in the range.
            start: First day; None: the first session.
            end: Last day; None: the newest session.

        Raises:
            ValueError: A day that is none, `end` before `start`, or no symbol.
            NotInLakeError: There is no session in the range, no table of securities, or nobody
                held a symbol.
        """
        names, (first, last) = symbols_of(symbols), span_of(start, end)
        days = lake.sessions()
        here = [day for day in days if first <= day <= last]
        if not here:
            held = f"holds {days[0]} to {days[-1]}" if days else "holds no session"
            raise NotInLakeError(
                f"nothing to export: {lake.store.uri} {held}, and none of them is in the range"
            )
        tables = lake.securities()
        holders = tables.holders
        found = meant(holders, names, here[0], here[-1], None, here[0])
        told = [str(warning) for warning in found.warnings]
        if names is None:
            ids = [
                security
                for security, tickers in holders.securities.items()
                if any(held.overlaps(here[0], here[-1]) for held in tickers)
            ]
        else:
            if unknown := sorted(name for name in names if name not in holders):
                raise NotInLakeError(
                    f"no security of {lake.store.uri} ever held the ticker {', '.join(unknown)}: "
                    "correct --symbols, or collect and derive it: datalake collect, "
                    "datalake securities"
                )
            ids = list(found.securities)
        listed = _listed(tables, ids, here[0], here[-1])
        if not listed:
            raise NotInLakeError(
                f"nothing to export: these symbols have no bar from {here[0]} to {here[-1]}"
            )
        kept = {one.id for one in listed}
        warned = [
            *undecided(tables, kept, tuple(KINDS), here[0], here[-1]),
            *behind(holders, here[-1]),
        ]
        asked = None if names is None else sorted(names)
        told += [str(warning) for warning in warned]
        return cls(lake, asked, tables, here, listed, told)

    @cached_property
    def groups(self) -> list[list[Listed]]:
        """The securities, those that ever shared a ticker together; in their order."""
        whose: dict[str, int] = {}
        groups: dict[int, list[Listed]] = {}
        for number, listed in enumerate(self.securities):
            joined = [listed]
            for other in sorted({whose[n.symbol] for n in listed.names if n.symbol in whose}):
                joined = groups.pop(other) + joined
            groups[number] = joined
            for one in joined:
                whose.update(dict.fromkeys((name.symbol for name in one.names), number))
        return [groups[number] for number in sorted(groups)]

    def state(self, *more: str) -> str:
        """A digest of everything that the export follows from: equal when nothing changed.

        Args:
            more: What else it follows from: the tool, and the version of its format.
        """
        store = self.lake.store
        versions = store.versions(layout.SESSIONS)
        keys = [layout.session_key(day) for day in self.sessions]
        told = {
            "more": more,
            "sessions": [(key, versions.get(key)) for key in keys],
            "tables": sorted(self.tables.versions.items()),
            "actions": sorted(store.versions(layout.ACTIONS).items()),
            "securities": [(one.id, one.symbol) for one in self.securities],
        }
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def read(self, groups: Sequence[Sequence[Listed]]) -> Iterator[list[Exported]]:
        """These groups with their bars, group by group; a security without a bar is left out.

        Raises:
            BrokenFileError: A file of the lake is damaged.
        """
        batch: list[Sequence[Listed]] = []
        count = 0
        for group in groups:
            batch.append(group)
            count += len({name.symbol for one in group for name in one.names})
            if count >= READ_AT_ONCE:
                yield from self._read(batch)
                batch, count = [], 0
        if batch:
            yield from self._read(batch)

    def _read(self, batch: Sequence[Sequence[Listed]]) -> Iterator[list[Exported]]:
        tickers = {name.symbol for group in batch for one in group for name in one.names}
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            bars = self.lake.bars(tickers, self.sessions[0], self.sessions[-1], follow=False)
        for warning in warned:
            if (text := str(warning.message)) not in self.told:
                self.told.append(text)
        spans = self.tables.spans
        rows = spans.rows(bars)
        place = spans.security(rows)
        # Bars come by ticker and session; a security that was renamed has several pieces.
        by_session = days_of(bars["session"])
        order = np.lexsort((by_session, place))
        order = order[np.searchsorted(place[order], 0) :]  # without those of no security
        starts = np.flatnonzero(np.diff(place[order], prepend=-1))
        pieces = {
            spans.securities[place[piece[0]]]: piece
            for piece in np.split(order, starts[1:])
            if len(piece)
        }
        for group in batch:
            found = []
            for listed in group:
                piece = pieces.get(listed.id)
                if piece is None:
                    continue
                own = rows[piece]
                factor = {name: spans.factor(name, own) for name in ("total_return", "volume")}
                table = bars.take(pa.array(piece)).combine_chunks()
                found.append(
                    Exported(
                        listed,
                        table,
                        factor["total_return"] / factor["total_return"][-1],
                        factor["volume"] / factor["volume"][-1],
                        self._events(listed.id, table),
                    )
                )
            yield found

    def _events(self, security: str, bars: pa.Table) -> list[Event]:
        first, last = bars["session"][0].as_py(), bars["session"][-1].as_py()
        return [one for one in self._applied.get(security, ()) if first < one.session <= last]

    @cached_property
    def _applied(self) -> dict[str, list[Event]]:
        """The events that are applied, by security."""
        table = self.tables.factors
        table = table.filter(pc.and_(table["applied"], pc.is_valid(table["session"])))
        table = table.sort_by([("session", "ascending"), ("action_id", "ascending")])
        found: dict[str, list[Event]] = {}
        for row in table.to_pylist():
            split = row["adjustment"] == "split"
            found.setdefault(row["security"], []).append(
                Event(
                    row["session"],
                    row["adjustment"],
                    row["price_factor"],
                    0.0 if split else row["amount"] or 0.0,
                    self._paid.get(row["action_id"]) if row["adjustment"] == "dividend" else None,
                )
            )
        return found

    @cached_property
    def _paid(self) -> dict[str, date]:
        """When the source says that cash dividends are paid, by action."""
        actions = ActionLog(self.lake.store).current()
        actions = actions.filter(pc.equal(actions["kind"], "cash_dividends"))
        columns = (actions["id"].to_pylist(), actions["process_date"].to_pylist())
        return dict(zip(*columns, strict=True))


def session_on_or_after(day: date) -> date:
    """The first session from a day on; the calendar's last one when there is none."""
    day = min(max(day, market_calendar.FIRST), market_calendar.LAST)
    days = market_calendar.sessions(day, market_calendar.LAST)
    return days[0] if days else market_calendar.previous_sessions(day, 1)[0]


def _listed(tables: Tables, ids: Iterable[str], first: date, last: date) -> list[Listed]:
    """The securities with their names in the range, by the session that they began with."""
    holders, rows = tables.holders, tables.securities
    parts: dict[str, list[Held]] = {}
    for security in ids:
        here = [held for held in holders.of_security(security) if held.overlaps(first, last)]
        if here:
            parts[security] = here
    # The newest ticker names a security; the latest of several keeps it.
    named: dict[str, str] = {}
    for security, here in sorted(parts.items(), key=lambda one: (one[1][-1].first, one[0])):
        named[here[-1].symbol.casefold()] = security
    found = []
    for security, here in parts.items():
        newest = here[-1]
        end = holders.end(security)
        found.append(
            Listed(
                security,
                newest.symbol if named[newest.symbol.casefold()] == security else security,
                [Name(h.symbol, max(h.first, first), min(h.until, last)) for h in here],
                rows["name"][newest.row].as_py(),
                rows["exchange"][newest.row].as_py(),
                end is not None and end.last <= last,
            )
        )
    return sorted(found, key=lambda one: (holders.of_security(one.id)[0].first, one.id))
