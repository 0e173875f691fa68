"""Calls an exchange as a client would, without a socket: the ASGI application itself.

And for clients with one: the environment of somebody who collects from it.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from datalake_assets.exchange.market import Market
from datalake_assets.exchange.server import Exchange

NOW = datetime(2026, 9, 3, 18, 0, tzinfo=UTC)  # a Thursday, within the session
KEYS = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
BARS = "/v2/stocks/bars"


def keys_to(url: str, **more: str) -> dict[str, str]:
    """The settings of somebody with keys to the exchange there, who may ask as fast as he can."""
    return {
        "ALPACA_API_KEY": "any",
        "ALPACA_SECRET_KEY": "pair",
        "ALPACA_DATA_URL": url,
        "ALPACA_TRADING_URL": url,
        "ALPACA_HISTORY_START": "2011-01-03",
        "ALPACA_REQUESTS_PER_MINUTE": "100000",
        **more,
    }


@dataclass
class LaterClock:
    """A clock of an exchange that a test can put on: by then it may have mended its mistakes."""

    by: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.by


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json()["message"])


def frozen(market: Market, **options: Any) -> Exchange:
    """An exchange whose clock stands still."""
    return Exchange(market, **({"clock": lambda: NOW, "monotonic": lambda: 0.0} | options))


def call(
    exchange: Exchange,
    path: str = BARS,
    headers: Mapping[str, str] = KEYS,
    method: str = "GET",
    /,
    **query: Any,
) -> Answer:
    """One request; for bars, by day and by the tickers of the day, unless it says otherwise."""
    if path.endswith("/bars"):
        query = {"timeframe": "1Day", "asof": "-"} | query
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": urlencode({k: v for k, v in query.items() if v is not None}).encode(),
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
    }
    asyncio.run(exchange(scope, receive, send))
    start, *rest = sent
    return Answer(
        start["status"],
        {name.decode(): value.decode() for name, value in start["headers"]},
        b"".join(message["body"] for message in rest),
    )


def walk(exchange: Exchange, /, **query: Any) -> Iterator[Any]:
    """The pages of a request, one after another, to the last."""
    token = None
    for _ in range(300):
        answer = call(exchange, BARS, **query, page_token=token)
        assert answer.status == 200, answer.body
        page = answer.json()
        yield page
        token = page["next_page_token"]
        if token is None:
            return
    raise AssertionError("the token never ends")


def rows(pages: Iterator[Any]) -> list[tuple[str, dict[str, Any]]]:
    """All bars of all pages in the order in which they came, each with its symbol."""
    return [
        (symbol, bar) for page in pages for symbol, bars in page["bars"].items() for bar in bars
    ]
