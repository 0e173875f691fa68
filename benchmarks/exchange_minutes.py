"""How many minute bars the embedded exchange serves in a CPU second of its process.

One session of all symbols, asked for in requests that each fit a page: packed by the trades that
the daily bars tell, with the session's own bounds. The CPU time is that of the exchange's process,
with everything that it does for an answer: the bars, the JSON, gzip if it is asked for, HTTP.

    python -m benchmarks.exchange_minutes [--symbols 11000] [--session 2026-07-01] [--rounds 2]
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import date, timedelta
from pathlib import Path

import msgspec
import urllib3

from datalake_assets import market_calendar
from datalake_assets.exchange.market import is_ticker
from datalake_assets.exchange.process import EmbeddedExchange, ExchangeOptions

KEYS = {"APCA-API-KEY-ID": "any", "APCA-API-SECRET-KEY": "pair"}
PAGE = 10_000
STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"


def main() -> None:
    """Measures plain and gzipped answers in turns."""
    given = _arguments()
    options = ExchangeOptions(active=given.symbols, inactive=0)
    with EmbeddedExchange(options) as exchange, urllib3.PoolManager() as pool:
        session = _Session(pool, exchange.url, given.session)
        chunks = session.chunks()
        print(f"{sum(map(len, chunks)):,} symbols with a bar in {len(chunks)} requests")
        for _ in range(given.rounds):
            for encoding in ("identity", "gzip"):
                before, begun = _cpu(exchange.pid), time.perf_counter()
                bodies = [session.minutes(chunk, encoding) for chunk in chunks]
                wall, spent = time.perf_counter() - begun, _cpu(exchange.pid) - before
                bars = sum(body.count(b'"t":') for body in bodies)
                assert all(b'"next_page_token":null' in body[-30:] for body in bodies)
                print(
                    f"{encoding:8}: {bars:,} bars, {sum(map(len, bodies)) / bars:.0f} bytes each "
                    f"as JSON, {spent:.2f} CPU s, {bars / spent / 1e6:.2f} million a CPU second, "
                    f"{1e3 * spent / len(chunks):.1f} ms a page; {wall:.2f} s"
                )


class _Session:
    """The requests for one session."""

    def __init__(self, pool: urllib3.PoolManager, url: str, day: date) -> None:
        self._pool, self._url, self._day = pool, url, day

    def chunks(self) -> list[list[str]]:
        """Symbols that fit a page: none has more minutes than trades."""
        assets = msgspec.json.decode(self._get("/v2/assets", {}, "gzip"))
        names = sorted(row["symbol"] for row in assets if is_ticker(row["symbol"]))
        length = market_calendar.session_close(self._day) - market_calendar.session_open(self._day)
        most = length // timedelta(minutes=1)
        chunks: list[list[str]] = [[]]
        room = PAGE
        for begin in range(0, len(names), 1_000):
            query = {
                "symbols": ",".join(names[begin : begin + 1_000]),
                "timeframe": "1Day",
                "limit": str(PAGE),
                "asof": "-",
                "start": f"{self._day}",
                "end": f"{self._day}",
            }
            page = msgspec.json.decode(self._get("/v2/stocks/bars", query, "gzip"))
            for symbol, (bar,) in page["bars"].items():
                need = min(most, bar["n"])
                if need > room:
                    chunks.append([])
                    room = PAGE
                chunks[-1].append(symbol)
                room -= need
        return chunks

    def minutes(self, symbols: list[str], encoding: str) -> bytes:
        """The minutes of symbols in regular hours."""
        end = market_calendar.session_close(self._day) - timedelta(milliseconds=1)
        query = {
            "symbols": ",".join(symbols),
            "timeframe": "1Min",
            "limit": str(PAGE),
            "asof": "-",
            "start": market_calendar.session_open(self._day).strftime(STAMP),
            "end": end.strftime(STAMP),
        }
        return self._get("/v2/stocks/bars", query, encoding)

    def _get(self, path: str, query: dict[str, str], encoding: str) -> bytes:
        headers = KEYS | {"Accept-Encoding": encoding}
        answer = self._pool.request("GET", self._url + path, fields=query, headers=headers)
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {answer.data[:200]!r}")
        return answer.data


def _cpu(pid: int) -> float:
    """Seconds that a process has computed, in user mode and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--symbols", type=int, default=11_000, help="listed securities")
    parser.add_argument("--session", type=date.fromisoformat, default=date(2026, 7, 1))
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
