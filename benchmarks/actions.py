"""Corporate actions of a whole market over many years: requests, and what the log costs to read.

The embedded exchange is swept over HTTP by the client that ships: all that happened to its market
in these years, whole, whole once more, and for a day. A source in this process, which answers in
Alpaca's bytes at once, is swept likewise: there the CPU time is the program's own. Then a log of
one sweep each session of those years is laid down, as they would have left it, and read: what
stands now, what was known years ago, one symbol's history; and one day's answer is appended.

    python -m benchmarks.actions [--years 15] [--symbols 11000] [--a-day 300] [--s3]
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.measuring import peak, timed
from benchmarks.surroundings import client, store_at
from datalake_assets import market_calendar
from datalake_assets.actions import log as actions_log
from datalake_assets.actions.log import EVENTS, ActionLog, Sweep
from datalake_assets.actions.sweep import ActionSource, ActionsPage, Window, sweep
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import Caller
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.sources.action_pages import ACTIONS_PAGE_LIMIT, decode_actions
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store

TODAY = date(2026, 11, 20)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--years", type=int, default=15)
    parser.add_argument("--symbols", type=int, default=11_000)
    parser.add_argument("--a-day", type=int, default=300, help="events of a daily sweep")
    parser.add_argument("--s3", action="store_true", help="on a local S3 server, not in a folder")
    given = parser.parse_args()
    source = Said(given.years, given.symbols)
    kind = "s3" if given.s3 else "folder"
    with tempfile.TemporaryDirectory() as folder, store_at(kind, Path(folder)) as uri:
        _sweep_exchange(open_store(f"{uri}/exchange"), given.years, given.symbols)
        _sweeps(source, open_store(f"{uri}/swept"), "in this process")
        _log(source, open_store(f"{uri}/daily"), given.years, given.a_day)
    print(f"peak memory {peak():,.0f} MiB")


def _sweep_exchange(store: Store, years: int, symbols: int) -> None:
    """Sweep an exchange whose clock shows that so many years have passed."""
    market = SyntheticMarket(active=symbols * 3 // 4, inactive=symbols // 4)
    first = market.sessions[0]
    now = datetime(first.year + years, first.month, first.day, 22, tzinfo=UTC)
    exchange = Exchange(market, clock=lambda: now)
    with ExchangeServer(exchange) as server, client(server.url, connections=1) as source:
        _sweeps(source, store, "the exchange", now.date())


def _sweeps(source: ActionSource, store: Store, name: str, today: date = TODAY) -> None:
    log = ActionLog(store)
    whole = Window(date(2000, 1, 1), today + timedelta(days=366))
    daily = Window(today - timedelta(days=36), whole.last)
    print(f"{name}:")
    print("         sweep   actions  requests  of the fewest  wall, s  CPU, s")
    for kind, window in (("whole", whole), ("whole again", whole), ("a day", daily)):
        caller = Caller(RateLimiter(10**9))
        taken = timed(lambda: sweep(source, log, caller, window)[0])  # noqa: B023
        done = taken.result
        fewest = -(-done.actions // ACTIONS_PAGE_LIMIT)
        ratio = done.requests / fewest
        counts = f"{done.actions:9,} {done.requests:9,}"
        print(f"{kind:>14} {counts} {ratio:14.3f} {taken.wall:8.1f} {taken.cpu:7.1f}")


def _log(source: Said, store: Store, years: int, a_day: int) -> None:
    log = ActionLog(store)
    sweeps, events = _lay_down(source, store, years, a_day)
    size = sum(store.size(key) for key in store.list(layout.ACTION_LOG)) / 2**20
    objects = len(store.list(layout.ACTION_LOG))
    print(f"{sweeps:,} sweeps, {events:,} events: {objects} objects, {size:,.0f} MiB")
    log.publish()
    middle = datetime(TODAY.year - years // 2, 6, 3, tzinfo=UTC)
    symbol = source.name(source.symbols // 2)
    page = source.actions(TODAY - timedelta(days=36), TODAY + timedelta(days=366), None)
    answer = actions_log.Answer(datetime.now(UTC), sweeps, TODAY, TODAY, page.actions, requests=1)
    asked = {
        "what stands": lambda: log.current().num_rows,
        f"what was known on {middle.date()}": lambda: log.current(middle).num_rows,
        f"all that was said of {symbol}": lambda: log.events(symbol).num_rows,
        "a day's answer appended": lambda: log.append(answer, datetime.now(UTC))[1].num_rows,
        "the table written": log.publish,
    }
    for name, ask in asked.items():
        taken = timed(ask)
        print(
            f"{name:>32}: {taken.result:9,} rows  {taken.wall:6.2f} s wall {taken.cpu:6.2f} s CPU"
        )


class Said:
    """A source that has said the same for years, in Alpaca's bytes."""

    def __init__(self, years: int, symbols: int) -> None:
        self.symbols = symbols
        self._draw = random.Random(7)
        rows = sorted(self._rows(years), key=lambda row: row[0])
        self.days = [day for day, _, _ in rows]
        self._rows_of = rows

    @staticmethod
    def name(number: int) -> str:
        """A ticker."""
        letters = [chr(65 + number // 26**power % 26) for power in range(4)]
        return "".join(reversed(letters))

    def actions(self, first: date, last: date, page_token: str | None) -> ActionsPage:
        """One page."""
        begin = int(page_token or bisect_left(self.days, first))
        end = bisect_right(self.days, last)
        lists: dict[str, list[dict[str, Any]]] = {}
        for _, kind, row in self._rows_of[begin : min(end, begin + ACTIONS_PAGE_LIMIT)]:
            lists.setdefault(kind, []).append(row)
        token = str(begin + ACTIONS_PAGE_LIMIT) if begin + ACTIONS_PAGE_LIMIT < end else None
        answer = {"corporate_actions": lists, "next_page_token": token}
        return decode_actions(json.dumps(answer).encode())

    def actions_by_id(self, ids: Sequence[str]) -> ActionsPage:
        """Nothing is ever missing."""
        raise AssertionError(ids)

    def _rows(self, years: int) -> Iterator[tuple[date, str, dict[str, Any]]]:
        draw = self._draw
        begin = TODAY - timedelta(days=365 * years)
        for number in range(self.symbols):
            symbol = self.name(number)
            base = {"symbol": symbol, "cusip": f"{number:09}"}
            for quarter in range(4 * years) if number % 5 < 2 else ():
                ex = begin + timedelta(days=91 * quarter + number % 90)
                paid = ex + timedelta(days=draw.randrange(10, 40))
                rate = round(draw.uniform(0.05, 2), 4)
                flags = {"special": False, "foreign": False}
                yield self._row("cash_dividends", ex, paid, base | flags | {"rate": rate})
            if draw.random() < 0.2:
                ex = begin + timedelta(days=draw.randrange(365 * years))
                rates = {"new_rate": draw.randrange(2, 11), "old_rate": 1}
                yield self._row("forward_splits", ex, ex, base | rates)
            if draw.random() < 0.3:
                day = begin + timedelta(days=draw.randrange(365 * years))
                names = {"old_symbol": symbol, "new_symbol": symbol[::-1] + "N"}
                yield self._row("name_changes", day, day, names)

    def _row(
        self, kind: str, ex: date, processed: date, row: dict[str, Any]
    ) -> tuple[date, str, dict[str, Any]]:
        dates = {"ex_date": str(ex), "record_date": str(ex), "payable_date": str(processed)}
        said = row | dates | {"process_date": str(processed)}
        return processed, kind, said | {"id": f"{self._draw.getrandbits(128):032x}"}


def _lay_down(source: Said, store: Store, years: int, a_day: int) -> tuple[int, int]:
    """A log whose first sweep brought all, and each later one changed a few actions."""
    pages, token = [], "0"
    while token:
        page = source.actions(date.min, date.max, token)
        pages.append(page.actions)
        token = page.token or ""
    everything = pa.concat_tables(pages)
    days = market_calendar.sessions(TODAY - timedelta(days=365 * years), TODAY)
    draw = random.Random(8)
    objects, number, events = 0, 0, 0
    sweeps: list[Sweep] = []
    tables: list[pa.Table] = []
    for day in days:
        at = datetime(day.year, day.month, day.day, 22, tzinfo=UTC)
        number += 1
        some = [draw.randrange(everything.num_rows) for _ in range(a_day)]
        rows = everything.take(pa.array(some)) if number > 1 else everything
        event = "changed" if number > 1 else "inserted"
        columns = {
            "sweep": pa.repeat(pa.scalar(number, pa.int64()), rows.num_rows),
            "seen_at": pa.repeat(pa.scalar(at, pa.timestamp("us", tz="UTC")), rows.num_rows),
            "event": pa.repeat(pa.scalar(event), rows.num_rows),
        } | {name: rows[name] for name in rows.column_names}
        tables.append(pa.table(columns, schema=EVENTS))
        events += rows.num_rows
        sweeps.append(Sweep(number, at, at, day, day, rows.num_rows, 1, 0, (), {}))
        grown = actions_log._Object(objects + 1, tuple(sweeps), pa.concat_tables(tables))
        if grown.full or day == days[-1]:
            objects += 1
            store.put(layout.action_log_key(objects), actions_log._encode(grown))
            sweeps, tables = [], []
    return number, events


if __name__ == "__main__":
    main()
