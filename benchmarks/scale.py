"""What 15 years of 11,000 symbols take: daily bars, minute bars, trades. The numbers of the page.

Every number of `docs/scale.md` comes from here, and a test holds the page against it:

- requests, by the planner that plans collections;
- bytes, of samples that are generated and really encoded (`--measure` does it again);
- dollars, at the prices below;
- Dagster's records, of runs that are really made (`--measure`);
- a month of minute bars through the real `Collection`, `RateLimiter` and `RetryPolicy`, on a
  clock that stands still until all threads wait: threads, latency, and the limit.

    python -m benchmarks.scale [--measure]
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import math
import random
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.surroundings import UNLIMITED, run_job
from datalake_assets import market_calendar
from datalake_assets.collection import bars as bars_table
from datalake_assets.collection.collect import Collection, Page
from datalake_assets.collection.cost import (
    BYTES_PER_BAR,
    BYTES_PER_MINUTE_BAR,
    DOLLARS_PER_GB_MONTH,
    DOLLARS_PER_PUT,
    PRICES_OF,
)
from datalake_assets.collection.dataset import DAILY as DAILY_BARS
from datalake_assets.collection.dataset import MINUTE as MINUTE_BARS
from datalake_assets.collection.dataset import Dataset
from datalake_assets.collection.errors import TransientError
from datalake_assets.collection.plan import Chunk, Packing, Plan, plan_each
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.lake import session_file, symbol_year_file
from datalake_assets.lake.fingerprint import Fingerprint
from datalake_assets.lake.manifest import Entry, Manifest
from datalake_assets.lake.session_file import Provenance, Session
from datalake_assets.lambda_handler import RESERVE
from datalake_assets_tests.fakes import FakeClock

SYMBOLS = 11_000
YEARS = range(2011, 2026)
SESSIONS = market_calendar.sessions(date(YEARS[0], 1, 1), date(YEARS[-1], 12, 31))
A_YEAR, A_MONTH = 252, 21  # sessions
PEOPLE, READ_SYMBOLS = 10, 100

LIMITS = (200, 10_000)
"""Requests a minute: Alpaca's free plan, and the paid one."""

SLACK = 0.01
"""Of the limit, left unused by the limiter."""

PAGE = 10_000
MINUTES = 390
MINUTES_A_SESSION = 3_000_000
"""Of 11,000 symbols, as a real session has them: at the live API, by others."""
A_WINDOW = DAILY_BARS.window
TRADES_A_SESSION = 58_652_656
"""Average of 2020, all venues: FINRA, 2021 Industry Snapshot, table 3.2."""

# --- measured, here or elsewhere ------------------------------------------------------------------

BYTES_PER_TRADE = 8.4
BYTES_PER_SYMBOL_YEAR = 12_536
"""Of a file of daily bars."""
BYTES_PER_MANIFEST = 415_000

BYTES_OF_PAGE = 1_050_183
"""A full page of minute bars as JSON, measured at the live API by others; gzip makes it a third."""

BYTES_PER_BAR_IN_MEMORY = 76
"""As Arrow; `docs/decisions/windows.md`."""

BACKFILL_BARS_PER_CPU_SECOND = 108_000
MINUTE_BARS_PER_CPU_SECOND = 884_000
PATH_BARS_PER_CPU_SECOND = 726_000
"""`docs/benchmarks.md`: a backfill of 15 years with everything around it, where a session has
5,000 bars; three sessions of minute bars; and the path from the question to a Parquet file, which
is what counts for trades."""

RUN_MEMORY, MINUTE_RUN_MEMORY, DEV_MEMORY = 286, 1_130, 690
"""MiB: a run of one session of 11,000 symbols at its peak, and of three sessions of minute bars
(`docs/benchmarks.md`); `make dev`."""

READ_KB, FOOTER_KB = 265, 228
"""Of a file of minutes (`lake.minute_file`): the range that a symbol's bars lie in, and what the
file says of itself."""

EXTENDED_HOURS = 2.35
"""Minute bars of a session from early to late, against those of its regular hours: measured at the
live API by others."""

PERMIT_SECONDS = 310e-6
"""`docs/decisions/rate-limiter.md`: one permit of the limiter in Postgres, on the same machine."""

UPLOADS = {20: 322, 100: 1_594}
"""`docs/decisions/store.md`: threads, and objects a second at a bucket that answers in 60 ms."""

FREEZING_PARTITIONS, MOST_PARTITIONS = 40_000, 100_000
"""Of one asset: the UI froze above the one (dagster#15679), the other is the ceiling that its
makers recommend (dagster#28697)."""

SQLITE_BYTES_PER_RUN, SQLITE_BYTES_PER_SESSION = 240_000, 18_300
ROWS_PER_RUN, ROWS_PER_SESSION = 46, 2
"""Events of Dagster. SQLite keeps most of them twice, in the run's file and in the index."""

# --- prices: us-east-1, first tier, on demand, without tax, of cost.PRICES_OF ---------------------

DOLLARS_PER_GET = 0.0004 / 1_000
DOLLARS_PER_LIST = 0.005 / 1_000
DOLLARS_PER_GB_OUT = 0.09
DOLLARS_PER_LAMBDA_GB_SECOND = 0.0000166667
DOLLARS_PER_FARGATE_VCPU_HOUR, DOLLARS_PER_FARGATE_GB_HOUR = 0.04048, 0.004445
DOLLARS_PER_T4G_SMALL_HOUR = 0.0168
HOURS_A_MONTH = 730
LAMBDA_SECONDS = 900
"""How long a function may run; ours stops asking `lambda_handler.RESERVE` before."""

SMALLEST_INFREQUENT_KB = 128
"""What S3's Infrequent Access charges an object for at least."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What is collected of each symbol in each session.

    Args:
        name: As the page calls it.
        rows: Of a symbol in a session: at most for daily bars, on average otherwise.
        bytes: Of a row in Parquet.
        packing: Of its requests.
        window: Sessions that share requests.
        rows_per_cpu_second: From the question to the file.
        bytes_of_symbol_year: Of its file; 0 where there is none.
        memory: GB that a collection needs.
        ranges: Objects that a session is split into, by symbol.
    """

    name: str
    rows: float
    bytes: float
    packing: Packing
    window: int
    rows_per_cpu_second: int
    bytes_of_symbol_year: float
    memory: int
    ranges: int = 1

    @property
    def all_rows(self) -> float:
        """Of all symbols in all sessions."""
        return self.rows * SYMBOLS * len(SESSIONS)

    @property
    def all_bytes(self) -> float:
        """In Parquet, by session."""
        return self.all_rows * self.bytes

    @property
    def bytes_in_memory(self) -> float:
        """Of a session, as Arrow."""
        return self.rows * SYMBOLS * BYTES_PER_BAR_IN_MEMORY

    @property
    def session_objects(self) -> int:
        """Of the layout by session."""
        return len(SESSIONS) * self.ranges

    @property
    def cpu_hours(self) -> float:
        """Of the whole history."""
        return self.all_rows / self.rows_per_cpu_second / 3600


DAILY = Kind(
    "daily bars",
    1,
    BYTES_PER_BAR,
    Packing(),
    A_WINDOW,
    BACKFILL_BARS_PER_CPU_SECOND,
    BYTES_PER_SYMBOL_YEAR,
    memory=1,
)
MINUTE = Kind(
    "minute bars",
    MINUTES_A_SESSION / SYMBOLS,
    BYTES_PER_MINUTE_BAR,
    Packing(),
    MINUTE_BARS.window,
    MINUTE_BARS_PER_CPU_SECOND,
    0,
    memory=2,
)
TRADES = Kind(
    "trades",
    TRADES_A_SESSION / SYMBOLS,
    BYTES_PER_TRADE,
    Packing(),
    1,
    PATH_BARS_PER_CPU_SECOND,
    TRADES_A_SESSION / SYMBOLS * A_YEAR * BYTES_PER_TRADE,
    memory=16,
    ranges=16,
)
KINDS = (DAILY, MINUTE, TRADES)


@cache
def names() -> tuple[str, ...]:
    """As many symbols as there are."""
    return tuple(f"S{number:05}" for number in range(SYMBOLS))


def planned(kind: Kind, days: Sequence[date]) -> Plan:
    """The requests that bring these sessions, window by window, as a collection plans them."""
    expected = {"minute bars": _minutes, "trades": _average_trades}.get(kind.name)
    dataset: Dataset = MINUTE_BARS if kind is MINUTE else DAILY_BARS
    chunks: list[Chunk] = []
    for begin in range(0, len(days), kind.window):
        wanted = dict.fromkeys(days[begin : begin + kind.window], names())
        chunks += plan_each(wanted, kind.packing, expected, dataset).chunks
    return Plan(tuple(chunks))


def _minutes(days: Sequence[date]) -> Callable[[str], float]:
    """Two fifths of the symbols trade in every minute, the others in any number of them."""

    def expected(symbol: str) -> float:
        place, kind = divmod(int(symbol[1:]), 5)
        return len(days) * MINUTES * (1.0 if kind < 2 else place / (SYMBOLS // 5 - 1))

    return expected


def _average_trades(days: Sequence[date]) -> Callable[[str], float]:
    """How many trades a symbol has is not known before: the average packs them."""
    return lambda symbol: TRADES.rows * len(days)


@cache
def requests(kind: Kind) -> int:
    """Of the whole history. Where sessions share no request, one is planned for all: all alike."""
    if kind.window == 1:
        return planned(kind, SESSIONS[:1]).requests * len(SESSIONS)
    return planned(kind, SESSIONS).requests


def hours(kind: Kind, limit: int) -> float:
    """That the requests of the whole history take when nothing is slower than the limit."""
    return requests(kind) / (limit * (1 - SLACK)) / 60


# --- the tables -----------------------------------------------------------------------------------


def tables() -> dict[str, str]:
    """The tables of the page that need no simulation, by their section."""
    return {
        "Requests and hours": _requests(),
        "Bytes and objects": _objects(),
        "Dollars on S3": _s3(),
        "Reading": _reading(),
        "Computing": _computing(),
        "Dagster's records": _records(),
        "Listings": _listings(),
    }


def _requests() -> str:
    def row(name: str, rows: float, asked: int, cores: str) -> list[str]:
        taken = [_time(asked / (limit * (1 - SLACK)) / 60) for limit in LIMITS]
        return [name, _big(rows), f"{asked:,}", *taken, cores]

    return _table(
        ["", "rows", "requests", "at 200", "at 10,000", "cores to keep up"],
        [
            row(
                kind.name,
                kind.all_rows,
                requests(kind),
                f"{kind.cpu_hours / hours(kind, LIMITS[1]):.1f}",
            )
            for kind in KINDS
        ]
        + [
            row(
                f"{kind.name}, each session",
                kind.rows * SYMBOLS,
                planned(kind, SESSIONS[:1]).requests,
                "–",
            )
            for kind in KINDS
        ],
    )


def _objects() -> str:
    head = ["", "bytes a row", "all, GB", "a session, MB", "the same in memory, MB"]
    return _table(
        [*head, "objects by session", "by symbol and year", "a symbol-year, KB"],
        (
            [
                kind.name,
                f"{kind.bytes:g}",
                f"{kind.all_bytes / 1e9:,.1f}",
                _number(kind.all_bytes / len(SESSIONS) / 1e6),
                _number(kind.bytes_in_memory / 1e6),
                f"{kind.session_objects:,}",
                f"{SYMBOLS * len(YEARS):,}" if kind.bytes_of_symbol_year else "–",
                _number(kind.bytes_of_symbol_year / 1e3) if kind.bytes_of_symbol_year else "–",
            ]
            for kind in KINDS
        ),
    )


def _s3() -> str:
    """A session changes the symbol-year of every symbol that traded, so all are written again."""
    head = ["", "writing all of it", "keeping both layouts, a month", "following, a month"]
    return _table(
        [*head, "written anew each day, GB"],
        (
            [
                kind.name,
                _dollars((kind.session_objects + _by_symbol(kind) * len(YEARS)) * DOLLARS_PER_PUT),
                _dollars(
                    (kind.all_bytes + kind.bytes_of_symbol_year * SYMBOLS * len(YEARS))
                    / 1e9
                    * DOLLARS_PER_GB_MONTH
                ),
                _dollars(((_by_symbol(kind) or 1) + kind.ranges - 1) * A_MONTH * DOLLARS_PER_PUT),
                _number(kind.bytes_of_symbol_year * SYMBOLS / 1e9)
                if kind.bytes_of_symbol_year
                else "–",
            ]
            for kind in KINDS
        ),
    )


def _by_symbol(kind: Kind) -> int:
    """Objects of a year in the layouts by symbol."""
    return SYMBOLS + 1 if kind.bytes_of_symbol_year else 0


def _reading() -> str:
    """A month of ten people who each read, each day, 100 symbols' years and the newest session.

    Of minutes a year is read: for each session what its file says of itself, and a range of it for
    each symbol.
    """
    times = PEOPLE * A_MONTH
    files, asked = times * READ_SYMBOLS * len(YEARS), times * A_YEAR
    rows = []
    for name, kind, gets, size in (
        ("daily bars", DAILY, files, files * DAILY.bytes_of_symbol_year),
        (
            "minute bars, of one year",
            MINUTE,
            asked * (READ_SYMBOLS + 1),
            asked * (READ_SYMBOLS * READ_KB + FOOTER_KB) * 1e3,
        ),
    ):
        every = size + times * kind.all_bytes / len(SESSIONS)
        rows.append(
            [
                name,
                f"{gets + times:,}",
                _dollars((gets + times) * DOLLARS_PER_GET),
                _number(every / 1e9),
                _dollars(every / 1e9 * DOLLARS_PER_GB_OUT),
            ]
        )
    return _table(["", "GETs", "their price", "read, GB", "if it leaves AWS"], rows)


def _computing() -> str:
    """A backfill on Fargate at each limit, and each day's session on Lambda."""
    rows = []
    for kind in KINDS:
        cells = [kind.name]
        for limit in LIMITS:
            # Fargate has 1, 2 and 4 vCPUs with 8 GB each at most.
            wanted = max(kind.cpu_hours / hours(kind, limit), kind.memory / 8)
            cores = next((cores for cores in (1, 2, 4) if cores >= wanted), 4)
            taken = max(hours(kind, limit), kind.cpu_hours / cores)
            memory = max(kind.memory, 2 * cores)
            price = taken * (
                cores * DOLLARS_PER_FARGATE_VCPU_HOUR + memory * DOLLARS_PER_FARGATE_GB_HOUR
            )
            cells.append(f"{_time(taken)} with {cores} vCPU, {memory} GB: {_dollars(price)}")
        seconds = lambda_seconds(kind)
        month = seconds * kind.memory * A_MONTH * DOLLARS_PER_LAMBDA_GB_SECOND
        fits = seconds <= LAMBDA_SECONDS
        rows.append(
            [
                *cells,
                f"{seconds:,.0f} s with {kind.memory} GB: {_dollars(month)}"
                if fits
                else f"{seconds:,.0f} s: no",
            ]
        )
    head = ["", "backfill at 200", "backfill at 10,000", "each session on Lambda at 200, a month"]
    return _table(head, rows)


def lambda_seconds(kind: Kind) -> float:
    """Of a session on Lambda at the lower limit: its requests, and start, audit and write."""
    asked = planned(kind, SESSIONS[:1]).requests
    return asked / (LIMITS[0] * (1 - SLACK) / 60) + 5.0


def _records() -> str:
    # Each session twice, as it gets a second look, and its year after each.
    followed = (3 * A_YEAR, 2 * A_YEAR)
    counts = {
        "backfill, a run a year": (len(YEARS), len(SESSIONS)),
        "backfill, a run a session": (len(SESSIONS), len(SESSIONS)),
        "a year of following the market": followed,
        "15 years of it": (len(YEARS) * followed[0], len(YEARS) * followed[1]),
    }
    return _table(
        ["", "runs", "sessions told", "events", "SQLite, MB"],
        (
            [
                name,
                f"{runs:,}",
                f"{sessions:,}",
                f"{runs * ROWS_PER_RUN + sessions * ROWS_PER_SESSION:,}",
                _number((runs * SQLITE_BYTES_PER_RUN + sessions * SQLITE_BYTES_PER_SESSION) / 1e6),
            ]
            for name, (runs, sessions) in counts.items()
        ),
    )


def _listings() -> str:
    """S3 lists a thousand keys at a time, one answer after the other."""
    counts = {
        "sessions of a year": A_YEAR,
        "all sessions": len(SESSIONS),
        "all sessions, in 16 ranges": TRADES.session_objects,
        "all symbol-years": SYMBOLS * len(YEARS),
        "all symbol-months": SYMBOLS * len(YEARS) * 12,
        "a file for each symbol and session": SYMBOLS * len(SESSIONS),
    }
    return _table(
        ["", "keys", "answers", "at 100 ms each"],
        (
            [name, f"{keys:,}", f"{(calls := -(-keys // 1_000)):,}", _time(calls * 0.1 / 3600)]
            for name, keys in counts.items()
        ),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("|  |", "| |")


def _time(hours: float) -> str:
    """In the unit that a person would use."""
    for unit, size in (("days", 24.0), ("h", 1.0), ("min", 1 / 60)):
        if hours >= 2 * size:
            return f"{_number(hours / size)} {unit}"
    return f"{_number(hours * 3600)} s"


def _number(value: float) -> str:
    """Three digits at most: more would seem to tell more than they do."""
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f}".removesuffix(".0" if digits == 1 else "")


def _big(value: float) -> str:
    for name, size in (("billion", 1e9), ("million", 1e6)):
        if value >= size:
            return f"{_number(value / size)} {name}"
    return f"{value:,.0f}"


def _dollars(value: float) -> str:
    return f"${value:,.2f}" if value >= 0.01 else "less than $0.01"


# --- the simulation -------------------------------------------------------------------------------

MONTH = market_calendar.sessions(date(2025, 9, 1), date(2025, 9, 30))
FAILING = 0.005
"""Share of requests that fail in a way that passes."""

SPREAD = 0.6
"""Of the latencies, in their logarithm: one in fourteen is more than twice the mean."""

CASES = (
    # limit, threads, mean seconds to an answer
    (200, 1, 0.5),
    (200, 2, 0.5),
    (200, 20, 0.5),
    (200, 20, 8.0),
    (10_000, 20, 0.1),
    (10_000, 20, 0.5),
    (10_000, 50, 0.5),
    (10_000, 83, 0.5),
    (10_000, 125, 0.5),
    (10_000, 250, 1.0),
)


class Crowd(FakeClock):
    """The clock of a crowd that wakes whoever is due, and nobody else: a hundred threads are many.

    Each thread of the crowd waits by it until it ends, and must `leave` then.
    """

    def __init__(self, crowd: int) -> None:
        super().__init__(crowd)
        self._waiting: list[tuple[float, int, threading.Event]] = []
        self._order = itertools.count()

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait until so much of its time has passed; True when `stop` is set."""
        with self._moved:
            if seconds <= 0 or stop.is_set():
                return stop.is_set()
            due = threading.Event()
            heapq.heappush(self._waiting, (self._seconds + seconds, next(self._order), due))
            self._move()
        while not due.wait(1.0) and not stop.is_set():
            pass  # a stop is not announced here: look for it
        return stop.is_set()

    def _move(self) -> None:
        if self._waiting and len(self._waiting) >= self._crowd:
            self._seconds = self._waiting[0][0]
            while self._waiting and self._waiting[0][0] <= self._seconds:
                heapq.heappop(self._waiting)[2].set()


class _Simulated(Collection):
    """A collection whose threads tell the crowd's clock when they end."""

    def _work(self, number: int) -> None:
        try:
            super()._work(number)
        finally:
            assert isinstance(self._clock, Crowd)
            self._clock.leave()


class _Source:
    """Answers after a while; some requests fail. Both depend on the request, not on the thread."""

    def __init__(self, clock: Crowd, latency: float) -> None:
        self._clock, self._latency = clock, latency
        self._lock, self._never = threading.Lock(), threading.Event()
        self._asked = Counter[tuple[str, date]]()
        self._page = Page(bars_table.empty(), None, BYTES_OF_PAGE)
        self.sent: list[float] = []

    def __call__(
        self, symbols: tuple[str, ...], first: date, last: date, page_token: str | None
    ) -> Page:
        asked = symbols[0], first
        with self._lock:
            self.sent.append(self._clock.seconds())
            self._asked[asked] += 1
            draw = random.Random(f"{asked} {self._asked[asked]}")
        # Its mean is exp(mu + sigma² / 2).
        mu = math.log(self._latency) - SPREAD**2 / 2
        self._clock.wait(draw.lognormvariate(mu, SPREAD), self._never)
        if draw.random() < FAILING:
            raise TransientError("503 Service Unavailable")
        return self._page


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a collection took, in the time of its clock.

    Args:
        limit, threads, latency: What was given; the latency is the mean, in seconds.
        requests, retries: Sent, and how many of them again.
        hours: From the first to the last.
        used: Share of the limit that was used, from the first twentieth of the requests to the
            last: a beginning and an end are none of a long collection's concern.
        most: Requests in the fullest minute.
    """

    limit: int
    threads: int
    latency: float
    requests: int
    retries: int
    hours: float
    used: float
    most: int

    @property
    def foretold(self) -> float:
        """The share that Little's law lets the threads use: threads ÷ (rate × latency)."""
        return min(1.0, self.threads / threads_needed(self.limit, self.latency))


def threads_needed(limit: float, latency: float) -> float:
    """Little's law: requests under way are their rate times the seconds that each takes."""
    return limit * (1 - SLACK) / 60 * latency


def simulate(limit: int, threads: int, latency: float, days: Sequence[date] = MONTH) -> Simulated:
    """Collect minute bars of these sessions on a clock that takes no time."""
    clock = Crowd(threads)
    source = _Source(clock, latency)
    collection = _Simulated(
        planned(MINUTE, days),
        source,
        limiter=RateLimiter(limit, slack=SLACK, clock=clock),
        retry=RetryPolicy(),
        workers=threads,
        clock=clock,
        draw=random.Random(7).random,
    )
    collection.run()
    told, sent = collection.statistics, sorted(source.sent)
    assert told.requests == len(sent)
    low, high = len(sent) // 20, len(sent) - len(sent) // 20 - 1
    rate = (high - low) / (sent[high] - sent[low]) * 60
    first, most = 0, 0
    for last, at in enumerate(sent):
        while at - sent[first] > 60:
            first += 1
        most = max(most, last - first + 1)
    return Simulated(
        limit,
        threads,
        latency,
        told.requests,
        told.retries,
        told.duration_seconds / 3600,
        rate / (limit * (1 - SLACK)),
        most,
    )


def simulations() -> str:
    """The table of the page's simulation."""
    rows = []
    for case in CASES:
        done = simulate(*case)
        rows.append(
            [
                f"{done.limit:,}",
                f"{done.latency:g}",
                f"{threads_needed(done.limit, done.latency):,.1f}",
                f"{done.threads}",
                f"{done.requests:,}",
                f"{done.hours * 60:,.1f}",
                f"{done.foretold * 100:.0f} %",
                f"{done.used * 100:.0f} %",
                f"{done.most:,}",
            ]
        )
    return _table(
        [
            "limit a minute",
            "latency, s",
            "threads by the law",
            "threads",
            "requests",
            "minutes",
            "used, by the law",
            "used, simulated",
            "fullest minute",
        ],
        rows,
    )


# --- samples that are really encoded --------------------------------------------------------------


def measured_bytes() -> dict[str, float]:
    """Bytes of a row or a file, of samples of the embedded market and of random walks."""
    daily = _market_bars(SESSIONS[-1:], slice(None))
    year = _market_bars([day for day in SESSIONS if day.year == YEARS[-1]], slice(0, 1000, 25))
    per_symbol = [
        year.filter(pa.compute.equal(year["symbol"], name)).sort_by("session")
        for name in pa.compute.unique(year["symbol"]).to_pylist()
    ]
    # Names that trade all year; a listing in between would make a shorter file.
    whole = [table for table in per_symbol if table.num_rows >= A_YEAR * 0.95]
    minutes, trades = _minute_bars(slice(0, None, 9)), _trades(40)
    return {
        "BYTES_PER_BAR": len(_session(daily)) / daily.num_rows,
        "BYTES_PER_SYMBOL_YEAR": float(
            np.mean([len(symbol_year_file.encode(table)) for table in whole])
        ),
        "BYTES_PER_MANIFEST": len(_manifest()),
        "BYTES_PER_MINUTE_BAR": len(_session(minutes, MINUTE_BARS)) / minutes.num_rows,
        "BYTES_PER_TRADE": _encoded(trades, ["exchange", "size", "conditions", "tape"])
        / trades.num_rows,
    }


def _market_bars(days: Sequence[date], some: slice) -> pa.Table:
    from datalake_assets.exchange.market import DOLLAR
    from datalake_assets.exchange.synthetic import SyntheticMarket

    market = SyntheticMarket(active=SYMBOLS, inactive=0)
    symbols = sorted(row["symbol"] for row in market.assets())[some]
    first = market.sessions.index(days[0])
    bars = market.bars(symbols, first, first + len(days))
    sessions = [market.sessions[position] for position in bars.session]
    prices = [getattr(bars, name) / DOLLAR for name in ("open", "high", "low", "close", "vwap")]
    return pa.table(
        [
            [bars.symbols[position] for position in bars.symbol],
            sessions,
            [datetime(day.year, day.month, day.day, 5, tzinfo=UTC) for day in sessions],
            *prices,
            bars.volume,
            bars.trade_count,
        ],
        schema=bars_table.SCHEMA,
    ).sort_by([("session", "ascending"), ("symbol", "ascending")])


def _session(bars: pa.Table, dataset: Dataset = DAILY_BARS) -> bytes:
    day = bars["session"][0].as_py()
    ledger = Ledger(day, tuple(pa.compute.unique(bars["symbol"]).to_pylist()))
    told = Provenance(datetime(2026, 1, 1, tzinfo=UTC), "synthetic", day, "benchmark", "0")
    return session_file.encode(Session(bars, ledger, told), [], dataset)


def _manifest() -> bytes:
    draw = random.Random(7)
    days = [day for day in SESSIONS if day.year == YEARS[-1]]
    entries = {
        name: Entry(
            Fingerprint(len(days), (draw.getrandbits(64), draw.getrandbits(64))),
            f'"{draw.getrandbits(128):032x}"',
            draw.randrange(9_000, 13_000),
        )
        for name in names()
    }
    return Manifest(
        YEARS[-1],
        {day: f'"{draw.getrandbits(128):032x}"' for day in days},
        entries,
        "benchmark",
        datetime(2026, 1, 1, tzinfo=UTC),
        {day: Fingerprint(SYMBOLS, (draw.getrandbits(64), draw.getrandbits(64))) for day in days},
    ).encode()


def _minute_bars(some: slice) -> pa.Table:
    """The minutes of some symbols of the embedded market in the last session."""
    from datalake_assets.exchange.synthetic import SyntheticMarket
    from datalake_assets.exchange.truth import minute_table

    market = SyntheticMarket(active=SYMBOLS, inactive=0)
    symbols = sorted(row["symbol"] for row in market.assets())[some]
    return minute_table(market, symbols, SESSIONS[-1])


def _trades(symbols: int) -> pa.Table:
    """Trades of one session: times to the nanosecond, prices in cents, mostly a hundred or less."""
    draw = np.random.default_rng(7)
    counts = np.ceil(np.exp(draw.normal(7.5, 1.6, symbols))).astype(int)
    opening = np.datetime64("2025-09-02T13:30:00", "ns").astype(np.int64)
    parts = []
    for name, count in zip(names(), counts, strict=False):
        moves = draw.normal(0, 0.02 / math.sqrt(count), count)
        sizes = np.where(draw.random(count) < 0.4, 100, np.ceil(draw.exponential(40, count)))
        times = opening + np.sort(draw.integers(0, 23_400 * 10**9, count))
        middle = np.exp(draw.normal(3.3, 1.1) + np.cumsum(moves))
        bounce = draw.choice([-0.01, 0.0, 0.01], count) * np.maximum(1, middle // 50)
        parts.append(
            pa.table(
                {
                    "symbol": [name] * count,
                    "timestamp": pa.array(times, pa.timestamp("ns", tz="UTC")),
                    "exchange": np.array(list("DKNPQVYZ"))[draw.integers(0, 8, count)],
                    "price": np.round(middle + bounce, 2),
                    "size": sizes.astype(np.int64),
                    "conditions": np.array(["@", "@I", "@F", "@FI"])[draw.integers(0, 4, count)],
                    "id": np.cumsum(draw.integers(1, 400, count)),
                    "tape": ["C"] * count,
                }
            )
        )
    return pa.concat_tables(parts)


def _encoded(table: pa.Table, repeating: list[str]) -> int:
    """As a session file is, with the columns in a dictionary whose values repeat."""
    buffer = pa.BufferOutputStream()
    steady = [name for name in ("id",) if name in table.schema.names]
    if table.schema.field("timestamp").type.unit == "ns":
        steady.append("timestamp")
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=[
            name for name in ("symbol", "session", *repeating) if name in table.schema.names
        ],
        column_encoding=dict.fromkeys(steady, "DELTA_BINARY_PACKED"),
        write_statistics=["symbol"],
        store_schema=False,
    )
    return int(buffer.getvalue().size)


# --- Dagster's records of runs that are really made -----------------------------------------------


def measured_records() -> dict[str, float]:
    """Events, and bytes of SQLite, of a run and of each of its sessions."""
    import dagster as dg

    from datalake_assets.definitions import build_definitions
    from datalake_assets.resources import CollectorResource, EmbeddedExchangeResource
    from datalake_assets.settings import Settings

    days = [day for day in SESSIONS if day.year == 2024]
    sizes, events = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        definitions = build_definitions(
            Settings.load({"DATALAKE_URI": str(folder / "lake")}),
            source=EmbeddedExchangeResource(active=500, inactive=0),
            collector=CollectorResource(requests_per_minute=UNLIMITED),
        )
        (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        with dg.DagsterInstance.from_config(name) as instance:
            for some in (days[:1], days[1:2], days[2:3], days[3:45]):
                result = run_job(definitions, "daily_ticks_job", instance, some[0], some[-1])
                sizes.append(sum(path.stat().st_size for path in folder.rglob("*.db")))
                database = folder / "history" / "runs" / f"{result.run_id}.db"
                with contextlib.closing(sqlite3.connect(database)) as opened:
                    events += opened.execute("SELECT count(*) FROM event_logs").fetchone()
    first, _, third, many = sizes
    more = 42 - 1
    row = (events[3] - events[2]) / more
    alone = (third - first) / 2  # the first made the tables
    of_session = (many - third - alone) / more
    return {
        "ROWS_PER_RUN": events[2] - row,
        "ROWS_PER_SESSION": row,
        "SQLITE_BYTES_PER_RUN": alone - of_session,
        "SQLITE_BYTES_PER_SESSION": of_session,
    }


def figures() -> dict[str, str]:
    """What the page says besides its tables."""
    allowed = LIMITS[1] * (1 - SLACK) / 60
    alpaca = [day for day in SESSIONS if day >= date(2016, 1, 4)]
    waiting = 0.5 * DOLLARS_PER_FARGATE_VCPU_HOUR + 2 * DOLLARS_PER_FARGATE_GB_HOUR
    years = (FREEZING_PARTITIONS - len(SESSIONS)) / A_YEAR
    in_time = (LAMBDA_SECONDS - RESERVE) * LIMITS[0] * (1 - SLACK) / 60
    return {
        "sessions since 2016-01-04, where Alpaca begins": f"{len(alpaca):,}",
        "rows of a page": f"{PAGE:,}",
        "symbols × sessions on a page of daily bars": f"{Packing().bars // A_WINDOW} × {A_WINDOW}",
        "minutes of a session, and with early and late trading": f"{MINUTES}, ×{EXTENDED_HOURS}",
        "trades of a session": f"{TRADES_A_SESSION:,} in 2020 (FINRA, table 3.2)",
        "requests against full pages, of a session of minute bars": (
            f"{planned(MINUTE, SESSIONS[:1]).requests / (MINUTES_A_SESSION / PAGE):.3f}"
        ),
        "pages a second at 10,000, MB of JSON, rows": f"{allowed:,.0f}, "
        f"{allowed * BYTES_OF_PAGE / 1e6:,.0f}, {_big(allowed * PAGE * MINUTE_BARS.filled)}",
        "rows a CPU second": f"{BACKFILL_BARS_PER_CPU_SECOND:,}, {MINUTE_BARS_PER_CPU_SECOND:,}, "
        f"{PATH_BARS_PER_CPU_SECOND:,}",
        "daily bars by one process": _time(DAILY.cpu_hours),
        "bytes of a row in memory, MiB of a run of minute bars": (
            f"{BYTES_PER_BAR_IN_MEMORY}, {MINUTE_RUN_MEMORY:,}"
        ),
        "KB that a symbol's minutes of a session are read from, and of its footer": (
            f"{READ_KB}, {FOOTER_KB}"
        ),
        "KB that Infrequent Access charges at least": f"{SMALLEST_INFREQUENT_KB}",
        "KB of a manifest": f"{BYTES_PER_MANIFEST / 1e3:,.0f}",
        "MiB of make dev, and of a run": f"{DEV_MEMORY}, {RUN_MEMORY}",
        "a machine that waits, a month": f"{_dollars(DOLLARS_PER_T4G_SMALL_HOUR * HOURS_A_MONTH)} "
        f"on EC2, {_dollars(waiting * HOURS_A_MONTH)} on Fargate",
        "requests that fit a Lambda": f"{in_time:,.0f}, "
        f"in {LAMBDA_SECONDS - RESERVE:.0f} of {LAMBDA_SECONDS} s",
        "KB of SQLite for a run, a session": f"{SQLITE_BYTES_PER_RUN / 1e3:g}, "
        f"{SQLITE_BYTES_PER_SESSION / 1e3:g}",
        "permits a second from Postgres": f"{1 / PERMIT_SECONDS:,.0f} of "
        f"{PERMIT_SECONDS * 1e6:.0f} µs",
        "seconds for the symbol-years of a year": ", ".join(
            f"{SYMBOLS / rate:.0f} with {threads} threads" for threads, rate in UPLOADS.items()
        ),
        "partitions": f"{FREEZING_PARTITIONS:,} in {years:,.0f} years, {MOST_PARTITIONS:,}",
    }


def main() -> None:
    """Print the page's tables; with --measure also what its constants are measured as."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--measure", action="store_true", help="encode samples, make runs")
    given = parser.parse_args()
    print(f"{SYMBOLS:,} symbols, {len(SESSIONS):,} sessions; prices of {PRICES_OF}, us-east-1\n")
    for title, text in tables().items():
        print(f"{title}\n\n{text}\n")
    print(f"A month of minute bars, simulated\n\n{simulations()}\n")
    for name, value in figures().items():
        print(f"{name}: {value}")
    if given.measure:
        for name, found in (measured_bytes() | measured_records()).items():
            print(f"{name} = {found:,.1f}, written down as {globals()[name]:,}")


if __name__ == "__main__":
    main()
