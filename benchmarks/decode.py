"""Pages of bars, decoded: this project's way against alpaca-py's and plain JSON, in CPU seconds.

The pages are fetched once from the embedded exchange, as bytes, and each way decodes the same ones,
turn by turn; a way's best round counts. Then the whole client path, from the question to a Parquet
file: alpaca-py's `get_stock_bars(...).df` against this project's source, again for the same pages,
by the CPU time of this process alone (the exchange is another one). This project has two ways: in
Python, and in C where it was compiled. The last figures are pages a second of the clock, by one
thread and by two: only C leaves Python's lock to others.

    python -m benchmarks.decode [--rounds 5] [--pages 8]

orjson is measured too where it is installed; nothing else here needs it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from datetime import time as clock_time
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
from alpaca.data.historical import StockHistoricalDataClient
from alpaca.data.models import BarSet
from alpaca.data.requests import StockBarsRequest
from alpaca.data.timeframe import TimeFrame

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.exchange.process import EmbeddedExchange, ExchangeOptions
from datalake_assets.sources.alpaca import AS_TRADED, PAGE_LIMIT, Account, AlpacaSource
from datalake_assets.sources.pages import COMPILED, Parse, decode, decode_regular
from datalake_assets.sources.transport import Transport

SHAPES = ((157, 63), (500, 1), (1, 3_780))
"""Symbols × sessions: a request of a long backfill, one of a single session, one of one symbol's
fifteen years."""

END = date(2026, 1, 14)  # the sessions before it are asked for: 3,780 reach back to 2011-01-03
CALLS = 100  # of one timing with threads
SECONDS = 0.2  # of work in one timing at least: the CPU clock is coarse
OURS = "this project, in Python"
OURS_IN_C = "this project, in C"
THEIRS = "alpaca-py, models and .df"
NEW_YORK = ZoneInfo("America/New_York")

Way = Callable[[bytes], Any]


@dataclass(frozen=True)
class Asked:
    """One request."""

    symbols: tuple[str, ...]
    first: date
    last: date

    @property
    def fields(self) -> dict[str, str]:
        """As the query says it."""
        return {
            "symbols": ",".join(self.symbols),
            "timeframe": "1Day",
            "start": f"{self.first}T00:00:00Z",
            "end": f"{self.last}T23:59:59Z",
            "limit": str(PAGE_LIMIT),
        }


def main() -> None:
    """Measure every way on every shape, then both client paths."""
    given = _arguments()
    with EmbeddedExchange(ExchangeOptions(inactive=0)) as exchange:
        names = _listed(exchange.url)
        for symbols, sessions in SHAPES:
            days = market_calendar.previous_sessions(END, sessions)
            body = _body(exchange.url, Asked(names[:symbols], days[0], days[-1]))
            _tell(f"{symbols} symbols × {sessions:,} sessions", *_decoded(body, given.rounds))
        days = market_calendar.previous_sessions(END, 63)
        pages = [
            Asked(names[start : start + 157], days[0], days[-1])
            for start in range(0, 157 * given.pages, 157)
        ]
        _tell(f"whole client path, {given.pages} pages", *_whole(exchange.url, pages, given.rounds))
        body = _body(exchange.url, pages[0])
    print("pages of the last shape a second of the clock, by one thread and by two:")
    for way, decoding in ((OURS, decode), (OURS_IN_C, _in_c)):
        if decoding is decode or COMPILED is not None:
            one, two = _threads(partial(decoding, body), given.rounds)
            print(f"  {way}: {one:,.0f} and {two:,.0f}, ratio {two / one:.2f}")


def _tell(title: str, bars: int, seconds: Mapping[str, float]) -> None:
    print(f"{title}, {bars:,} bars:")
    for way, taken in seconds.items():
        rate, ratio = bars / taken, seconds[THEIRS] / taken
        print(f"  {way}: {rate:,.0f} bars a CPU s, ratio {ratio:.1f}")


# --- bytes to a table ---


def _decoded(body: bytes, rounds: int) -> tuple[int, dict[str, float]]:
    """The bars of a page, and the CPU seconds that each way takes to decode it."""
    expected = decode(body).bars
    ways: dict[str, Way] = {
        THEIRS: _models,
        "alpaca-py, raw_data, row by row to Arrow": lambda body: _row_by_row(json.loads(body)),
        "json, column by column to Arrow": lambda body: _by_column(json.loads(body)),
        OURS: lambda body: decode(body).bars,
    }
    if COMPILED is not None:
        ways[OURS_IN_C] = _in_c
    if find_spec("orjson"):
        loads = import_module("orjson").loads
        ways["orjson, column by column to Arrow"] = lambda body: _by_column(loads(body))
    for name, way in ways.items():
        found = way(body)
        same = found.equals(expected) if isinstance(found, pa.Table) else _same(found, expected)
        assert same, f"{name} decodes other bars"
    return expected.num_rows, _best(
        {name: partial(way, body) for name, way in ways.items()}, rounds
    )


def _in_c(body: bytes) -> pa.Table:
    page = decode_regular(body)
    assert page is not None, "the page is not regular"
    return page.bars


def _models(body: bytes) -> Any:
    return BarSet(json.loads(body)["bars"]).df


def _row_by_row(answer: dict[str, Any]) -> pa.Table:
    """What one writes first: a dictionary a bar, then Arrow's own conversion."""
    return pa.Table.from_pylist(
        [
            {
                "symbol": symbol,
                "session": (start := datetime.fromisoformat(bar["t"])).astimezone(NEW_YORK).date(),
                "timestamp": start,
                "open": bar["o"],
                "high": bar["h"],
                "low": bar["l"],
                "close": bar["c"],
                "vwap": bar["vw"],
                "volume": bar["v"],
                "trade_count": bar["n"],
            }
            for symbol, bars in answer["bars"].items()
            for bar in bars
        ],
        schema=SCHEMA,
    )


def _by_column(answer: dict[str, Any]) -> pa.Table:
    """The same work as this project's decoding does after its own parser."""
    rows = [bar for bars in answer["bars"].values() for bar in bars]
    stamps = [bar["t"] for bar in rows]
    starts = {stamp: datetime.fromisoformat(stamp) for stamp in set(stamps)}
    days = {stamp: start.astimezone(NEW_YORK).date() for stamp, start in starts.items()}
    columns = [
        [symbol for symbol, bars in answer["bars"].items() for _ in bars],
        [days[stamp] for stamp in stamps],
        [starts[stamp] for stamp in stamps],
        *([bar[key] for bar in rows] for key in ("o", "h", "l", "c", "vw", "v", "n")),
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _same(frame: Any, bars: pa.Table) -> bool:
    """Does alpaca-py's frame hold these bars?"""
    told = frame.reset_index()
    names = ("symbol", "open", "high", "low", "close", "vwap", "volume", "trade_count")
    return len(told) == bars.num_rows and all(
        told[name].tolist() == bars[name].to_pylist() for name in names
    )


# --- from the question to a file ---


def _whole(url: str, pages: list[Asked], rounds: int) -> tuple[int, dict[str, float]]:
    """The bars of these pages, and the CPU seconds from asking for them to Parquet."""
    plain = StockHistoricalDataClient("any", "any", url_override=url)
    account = Account("any", "any", data_url=url, trading_url=url)
    parsers: dict[str, Parse | None] = {OURS: None}
    if COMPILED is not None:
        parsers[OURS_IN_C] = COMPILED
    sources = {way: AlpacaSource(account, parse=parse) for way, parse in parsers.items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.parquet"

        def theirs() -> int:
            bars = 0
            for page in pages:
                request = StockBarsRequest(
                    symbol_or_symbols=list(page.symbols),
                    timeframe=TimeFrame.Day,
                    start=datetime.combine(page.first, clock_time(), UTC),
                    end=datetime.combine(page.last, clock_time(23, 59, 59), UTC),
                    asof=AS_TRADED,
                )
                frame = cast(BarSet, plain.get_stock_bars(request)).df
                frame.to_parquet(file)
                bars += len(frame)
            return bars

        def ours(way: str, *, write: bool = True) -> int:
            fetch = sources[way].bars()
            bars = 0
            for page in pages:
                answer = fetch(page.symbols, page.first, page.last, None)
                assert answer.next_token is None, "the question is larger than a page"
                if write:
                    # As the lake writes: prices and volumes hardly repeat.
                    pq.write_table(
                        answer.bars,
                        file,
                        compression="zstd",
                        use_dictionary=["symbol", "session", "timestamp"],
                    )
                bars += answer.bars.num_rows
            return bars

        bars = ours(OURS)
        assert theirs() == bars, "the two paths bring other bars"
        ways: dict[str, Callable[[], object]] = {THEIRS: theirs}
        for way in sources:
            assert ours(way) == bars, "C brings other bars"
            ways[way] = partial(ours, way)
            ways[f"{way}, to Arrow only"] = partial(ours, way, write=False)
        seconds = _best(ways, rounds)
    for source in sources.values():
        source.close()
    return bars, seconds


# --- measuring ---


def _best(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """CPU seconds of one call of each way: the best of some rounds, the ways taking turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            began, calls = time.process_time(), 0
            while (taken := time.process_time() - began) < SECONDS:
                way()
                calls += 1
            best[name] = min(best[name], taken / calls)
    return best


def _threads(decoding: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Calls a second of the clock by one thread and by two: the best of some rounds, in turns."""
    best = [0.0, 0.0]
    for _ in range(rounds):
        for place, threads in enumerate((1, 2)):
            with ThreadPoolExecutor(threads) as pool:
                began = time.perf_counter()
                futures = [pool.submit(decoding) for _ in range(CALLS)]
                for future in futures:
                    future.result()
                best[place] = max(best[place], CALLS / (time.perf_counter() - began))
    return best[0], best[1]


def _listed(url: str) -> tuple[str, ...]:
    """The symbols that have traded since the market began, so that every page is full."""
    source = AlpacaSource(Account("any", "any", data_url=url, trading_url=url))
    rows = source.assets().select(["symbol", "status"]).to_pylist()
    names = [row["symbol"] for row in rows if row["status"] == "active"]
    first = market_calendar.previous_sessions(END, max(count for _, count in SHAPES))[0]
    fetch = source.bars()
    printed = [
        fetch(tuple(names[start : start + 500]), first, first, None).bars["symbol"].to_pylist()
        for start in range(0, len(names), 500)
    ]
    source.close()
    return tuple(name for page in printed for name in page)


def _body(url: str, asked: Asked) -> bytes:
    """The answer's bytes, decompressed."""
    keys = {"APCA-API-KEY-ID": "any", "APCA-API-SECRET-KEY": "any"}
    answer = Transport(1).get(f"{url}/v2/stocks/bars", asked.fields, keys, 1 << 25)
    assert answer.status == 200, answer.body
    return answer.body


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pages", type=int, default=8, help="of the whole client path")
    return parser.parse_args()


if __name__ == "__main__":
    main()
