"""A small market whose truth is told beside its bars: who traded, by which ticker, and what for.

Belongs here: a lake of it, the tables as they must be, and adjusted prices by their definition,
worked out one action at a time. Does not belong here: the program's own way to any of that.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datalake_assets import market_calendar
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.securities.tables import CUMULATIVE, FACTORS, SECURITIES
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.lake.test_reader import encoded

DAYS = market_calendar.sessions(date(2023, 12, 18), date(2024, 1, 31))
"""Thirty sessions in two years."""

FAR = date(9999, 12, 31)

PRICES = ("open", "high", "low", "close", "vwap")


@dataclass(frozen=True)
class Event:
    """An action that counts, on the n-th session.

    Args:
        at: The session.
        kind: split, spin-off or dividend.
        price: What earlier prices are multiplied by.
        total: The same by rule B.
        volume: What earlier volumes are multiplied by.
        changed: Columns of its row of the table of factors that are not the usual ones.
    """

    at: int
    kind: str
    price: float
    total: float
    volume: float = 1.0
    changed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Truth:
    """A security.

    Args:
        id: Its identifier.
        tickers: Ticker, first and last session of it; -1 while it trades.
        events: Its actions.
        ended: merger, delisting or unknown; None while it trades.
        payout: Columns of its last row that tell of the payout.
        silent: Sessions without a bar.
    """

    id: str
    tickers: Sequence[tuple[str, int, int]]
    events: Sequence[Event] = ()
    ended: str | None = None
    payout: Mapping[str, Any] = field(default_factory=dict)
    silent: Sequence[int] = ()

    def bars(self) -> Iterable[tuple[str, int]]:
        """Its bars: the ticker, and which session."""
        for symbol, first, last in self.tickers:
            for at in range(first, (len(DAYS) - 1 if last < 0 else last) + 1):
                if at not in self.silent:
                    yield symbol, at


MARKET = (
    # Renamed, with an action before and one after it.
    Truth(
        "FB-1",
        (("FB", 0, 9), ("META", 10, -1)),
        (
            Event(5, "split", 0.25, 0.25, 4.0),
            Event(12, "dividend", 0.99, 0.991),
            Event(15, "spin-off", 0.9, 0.9),
        ),
    ),
    # Had the ticker that META took over three sessions later.
    Truth("META-1", (("META", 0, 6), ("METV", 7, -1)), (Event(9, "dividend", 0.98, 0.981),)),
    # A ticker that was reused: the first one ended in a merger for cash.
    Truth("S-1", (("S", 0, 11),), ended="merger", payout={"payout_cash": 4_321.0}),
    Truth("S-2", (("S", 15, -1),), (Event(20, "split", 0.5, 0.5, 2.0),)),
    # Renamed to one that sorts before, with a split on the same day.
    Truth("ZZ-1", (("ZZ", 0, 14), ("AA", 15, -1)), (Event(15, "split", 10.0, 10.0, 0.1),)),
    Truth("ACQ-1", (("ACQ", 0, -1),), silent=(22, 23)),
    # Ends: for shares and cash, and nobody knows for what.
    Truth(
        "TGT-1",
        (("TGT", 0, 17),),
        ended="merger",
        payout={"payout_cash": 1.25, "payout_shares": 0.5, "payout_symbol": "ACQ"},
    ),
    Truth("GONE-1", (("GONE", 0, 8),), ended="delisting"),
    Truth("OLD-1", (("OLD", 0, -1),), (Event(11, "dividend", 0.97, 0.971),), silent=(11,)),
)

UNDECIDED = Event(
    13,
    "split",
    0.1,
    0.1,
    10.0,
    {"verdict": "contradicted", "applied": False, "reason": "the price did not move"},
)


def raw(symbol: str, at: int) -> dict[str, Any]:
    """A bar as it traded."""
    return bar(symbol, DAYS[at])


def factors(truth: Truth, at: int, kinds: Iterable[str]) -> tuple[float, float]:
    """What price and volume of a session are multiplied by: all later actions of these kinds."""
    price = volume = 1.0
    for event in truth.events:
        if at < event.at and event.kind in kinds:
            price, volume = price * event.price, volume * event.volume
    return price, volume


def truth_of(
    ids: Iterable[str],
    rows: Callable[[str, int], Iterable[Mapping[str, Any]]],
    first: int = 0,
    last: int = len(DAYS) - 1,
    kinds: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The rows of these securities, by their newest ticker in the range, session and time.

    Args:
        ids: The securities.
        rows: The bars of a ticker in a session, as they traded, ascending.
        first: The first session of the range.
        last: The last one.
        kinds: The kinds of adjustment.
    """
    found = []
    for truth in (one for one in MARKET if one.id in set(ids)):
        here = [(s, at) for s, at in truth.bars() if first <= at <= last]
        for symbol, at in here:
            price, volume = factors(truth, at, kinds)
            for row in rows(symbol, at):
                told = {**row, "security": truth.id, "volume": row["volume"] * volume}
                told |= {name: row[name] * price for name in PRICES}
                found.append((here[-1][0], at, told))
    return [row for *_, row in sorted(found, key=lambda one: one[:2])]


def same(found: pa.Table, rows: list[dict[str, Any]]) -> None:
    """The table has these rows, prices and volumes but for their rounding."""
    assert found.num_rows == len(rows)
    for name in found.column_names:
        values = [row[name] for row in rows]
        if name in (*PRICES, "volume"):
            values = pytest.approx(values, rel=1e-14)
        assert found[name].to_pylist() == values, name


def write_bars(store: Store, market: Iterable[Truth], publish: bool = True) -> Lake:
    """A lake of these bars."""
    LakeWriter(store).claim("alpaca/sip")
    for at, day in enumerate(DAYS):
        here = sorted(s for truth in market for s, session in truth.bars() if session == at)
        store.put(layout.session_key(day), encoded(day, table(bar(s, day) for s in here)))
    for year in sorted({day.year for day in DAYS}) if publish else ():
        SymbolYears(store).publish(year)
    return Lake(store)


def write_tables(store: Store, securities: pa.Table, factors: pa.Table, spans: pa.Table) -> None:
    """Put the tables where readers look."""
    for key, rows in (
        (layout.SECURITIES_TABLE, securities),
        (layout.FACTORS_TABLE, factors),
        (layout.CUMULATIVE_TABLE, spans),
    ):
        buffer = pa.BufferOutputStream()
        pq.write_table(rows, buffer)
        store.put(key, bytes(buffer.getvalue()))


def securities_of(market: Iterable[Truth], through: int = len(DAYS) - 1) -> pa.Table:
    """The table of securities, as it was after a session."""
    rows = []
    for truth in market:
        for number, (symbol, first, last) in enumerate(truth.tickers):
            ended = 0 <= last <= through
            final = number == len(truth.tickers) - 1
            if first > through:
                continue
            rows.append(
                {
                    "security": truth.id,
                    "symbol": symbol,
                    "first_session": DAYS[first],
                    "last_session": DAYS[last if ended else through],
                    "followed_by": (truth.ended if final else "rename") if ended else None,
                    "next_symbol": None if final else truth.tickers[number + 1][0],
                    "name": f"{truth.id} Inc.",
                    "exchange": "NYSE",
                    "evidence": "the truth",
                    **(truth.payout if final and ended else {}),
                }
            )
    by = [("symbol", "ascending"), ("first_session", "ascending")]
    return pa.Table.from_pylist(rows, SECURITIES).sort_by(by)


def factors_of(market: Iterable[Truth]) -> pa.Table:
    """The table of factors."""
    rows = [
        {
            "security": truth.id,
            "symbol": [s for s, first, _ in truth.tickers if first <= event.at][-1],
            "session": DAYS[event.at],
            "effective_date": DAYS[event.at],
            "kind": {"split": "forward_splits", "dividend": "cash_dividends"}.get(
                event.kind, "spin_offs"
            ),
            "adjustment": event.kind,
            "action_id": f"{truth.id}-{event.at}",
            "new_shares": 4 if event.kind == "split" else None,
            "old_shares": 1 if event.kind == "split" else None,
            "amount": None if event.kind == "split" else 0.5,
            "price_factor": event.price,
            "volume_factor": event.volume,
            "total_return_factor": event.total,
            "verdict": "confirmed",
            "applied": True,
            "reason": "confirmed by the prices",
            **event.changed,
        }
        for truth in market
        for event in truth.events
    ]
    return pa.Table.from_pylist(rows, FACTORS)


def cumulative_of(market: Iterable[Truth]) -> pa.Table:
    """The table of cumulative factors, one action at a time."""
    rows = []
    for truth in market:
        for symbol, first, last in truth.tickers:
            stop = len(DAYS) - 1 if last < 0 else last
            cuts = sorted({first, *(e.at for e in truth.events if first < e.at <= stop)})
            for cut, following in zip(cuts, [*cuts[1:], None], strict=True):
                one = {kind: factors(truth, cut, [kind])[0] for kind in KINDS}
                total = 1.0
                for event in truth.events:
                    total *= event.total if cut < event.at else 1.0
                open_end = FAR if last < 0 else DAYS[last]
                rows.append(
                    {
                        "security": truth.id,
                        "symbol": symbol,
                        "first_session": DAYS[cut],
                        "last_session": open_end if following is None else DAYS[following - 1],
                        "split": one["split"],
                        "spin_off": one["spin-off"],
                        "dividend": one["dividend"],
                        "total_return": total,
                        "volume": factors(truth, cut, ["split"])[1],
                    }
                )
    by = [("symbol", "ascending"), ("first_session", "ascending")]
    return pa.Table.from_pylist(rows, CUMULATIVE).sort_by(by)


KINDS = ("split", "spin-off", "dividend")


def lake_of(store: Store, market: Iterable[Truth] = MARKET, *undecided: Event) -> Lake:
    """A lake of this market with its tables; undecided events are FB-1's."""
    market = tuple(market)
    lake = write_bars(store, market)
    listed = factors_of(market)
    if undecided:
        more = factors_of([Truth("FB-1", (("FB", 0, 9), ("META", 10, -1)), undecided)])
        listed = pa.concat_tables([listed, more])
    write_tables(store, securities_of(market), listed, cumulative_of(market))
    return lake
