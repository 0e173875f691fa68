"""What the exchange answers: Alpaca's endpoints, errors and rate limit, as an ASGI application.

Here belongs the behaviour of one exchange. The spelling of the wire is in `wire`, the bars in the
markets, and how the application is run in `process`.

Deliberately not as Alpaca: bars of weeks and of single months are not served, history begins
where the market's does (Alpaca's in 2016), and a session's bars appear at once, 15 minutes after
its close; minutes later than that appear when they are over. Where Alpaca's text of an error is
not known, this one says plainly what is wrong.
"""

import asyncio
import math
import os
import re
import socket
import struct
import time
from bisect import bisect_left
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any, Literal
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
from isal import isal_zlib

from datalake_assets import market_calendar
from datalake_assets.exchange.actions import KINDS, Asked, Register
from datalake_assets.exchange.adjusting import Adjusting, read_adjustment
from datalake_assets.exchange.errata import Errata
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.faults import ODD_KINDS, PAGE_KINDS, Arrival, Fault, Faults
from datalake_assets.exchange.grains import DayGrain, Grain, MinuteGrain, minutes_of
from datalake_assets.exchange.market import Bars, Market, is_ticker
from datalake_assets.exchange.minutes import Minutes
from datalake_assets.exchange.wire import (
    Position,
    Stamps,
    nanoseconds,
    odd_page,
    page_json,
    pages_json,
    parse_instant,
)
from datalake_assets.exchange.years import Years

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Api = Literal["data", "trading"]

TRANSPORT = "datalake.transport"
"""The ASGI extension whose `transport` is the connection's: some faults need it."""

RECENT = timedelta(minutes=15)
"""Without a real-time subscription, `end` may not be later than this long ago."""

_JSON = b"application/json; charset=utf-8"
_HTML = b"text/html"
_TIMEFRAME = re.compile(
    r"([1-5]?\d)(Min|T)|(1?\d|2[0-3])(Hour|H)|1(Day|D|Week|W)|([12346]|12)(Month|M)"
)
_SERVED = ("1Day", "1D", "12Month", "12M")  # beside minutes and hours
_SINGLE = re.compile(r"/v2/stocks/([^/]+)/bars")
_PHRASES = {
    401: "Authorization Required",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Temporarily Unavailable",
    504: "Gateway Time-out",
}


@dataclass(slots=True)
class Request:
    """One line of the exchange's log.

    Attributes:
        number: From 1, in the order of arrival.
        arrived: Seconds on the monotonic clock (on Linux the same one for all processes).
        api: Whose rate limit it counts against.
        method: As sent.
        path: Without the query.
        symbols: How many were asked for.
        status: What was answered; 0 while it is not, or when the connection was reset.
        fault: Which one was committed.
    """

    number: int
    arrived: float
    api: Api
    method: str
    path: str
    symbols: int
    status: int = 0
    fault: str | None = None


class TokenBucket:
    """Alpaca's rate limit as measured: a full bucket, refilled evenly over the minute."""

    def __init__(self, per_minute: int | None, monotonic: Callable[[], float]) -> None:
        self.capacity = per_minute or 0
        self._monotonic = monotonic
        self._level = float(self.capacity)
        self._at = monotonic()

    def take(self) -> bool:
        """Takes one token; `False` when there is none. Without a limit there always is."""
        if not self.capacity:
            return True
        now = self._monotonic()
        self._level = min(self.capacity, self._level + (now - self._at) * self.capacity / 60.0)
        self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def headers(self, now: datetime) -> tuple[tuple[bytes, bytes], ...]:
        """`X-RateLimit-*` of an answer; none without a limit."""
        if not self.capacity:
            return ()
        full = now.timestamp() + (self.capacity - self._level) * 60.0 / self.capacity
        return (
            (b"x-ratelimit-limit", b"%d" % self.capacity),
            (b"x-ratelimit-remaining", b"%d" % self._level),
            (b"x-ratelimit-reset", b"%d" % math.ceil(full)),
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """A status, a body and the headers that are its own."""

    status: int
    body: bytes
    content_type: bytes = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure of the exchange
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class BarsQuery:
    """A request for bars, checked: positions in the grain's stamps, symbols in order."""

    grain: Grain
    symbols: Sequence[str]
    first: int
    stop: int
    limit: int
    descending: bool
    position: Position | None
    currency: str | None


class Exchange:
    """One exchange: an ASGI application over a market.

    Args:
        market: What is traded.
        requests_per_minute: The data API's limit; `None` or 0: none. Alpaca's: 200, or 10000.
        trading_requests_per_minute: The trading API's own limit. Alpaca's: 200.
        latency: Seconds that each answer takes longer.
        faults: Which requests get a fault; may be replaced at any time.
        errata: What it gets wrong about actions and bars.
        keys: The pair of key and secret that is accepted; `None`: any that is not empty.
        closures: Sessions of the market on which it stayed closed after all: no bar, and not in the
            calendar.
        clock: What time it is; aware.
        monotonic: Seconds that never go back, for the limit and the log.

    Attributes:
        requests: The log of all requests, in the order of arrival.
    """

    def __init__(
        self,
        market: Market,
        *,
        requests_per_minute: int | None = None,
        trading_requests_per_minute: int | None = None,
        latency: float = 0.0,
        faults: Faults | None = None,
        errata: Errata | None = None,
        keys: tuple[str, str] | None = None,
        closures: Collection[date] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, value in (
            ("requests_per_minute", requests_per_minute or 0),
            ("trading_requests_per_minute", trading_requests_per_minute or 0),
            ("latency", latency),
        ):
            if value < 0:
                raise ValueError(f"{name}={value}: it is not negative")
        self.market = market
        self.latency = latency
        self.faults = faults
        self.requests: list[Request] = []
        self._errata = errata
        self._keys = keys
        self._closures = frozenset(closures)
        self._closed = [at for at, day in enumerate(market.sessions) if day in self._closures]
        self._clock = clock
        self._monotonic = monotonic
        self._stamps = Stamps.of(market.sessions)
        self._years = Years(market)
        self._minutes = Minutes(market.sessions)
        # Mistakes about what is not there are found here, not by the first request.
        self._blemishes = None if errata is None else errata.blemishes(market, self._register)
        self._buckets: dict[Api, TokenBucket] = {
            "data": TokenBucket(requests_per_minute, monotonic),
            "trading": TokenBucket(trading_requests_per_minute, monotonic),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            raise ValueError(f"the exchange speaks HTTP, not {scope['type']}")
        if scope["path"] == "/_exchange/requests":
            log = msgspec.json.encode([asdict(request) for request in self.requests])
            await self._send(Reply(200, log), scope, send)
            return
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        request = self._log(scope, query)
        reply, fault = self._admit(request, scope, query), None
        if self.latency:
            await asyncio.sleep(self.latency)
        if reply is None:
            reply, fault = self._answer(request, query)
        request.fault = None if fault is None else str(fault)
        connection = _Connection(scope, receive, send)
        if fault is not None and fault.kind == "reset":
            await connection.reset()
            return
        request.status = reply.status
        if fault is not None and fault.kind in ("cut", "silence", "drip"):
            headers, body = self._render(reply, scope)
            await connection.disturb(fault, reply.status, headers, body)
            return
        await self._send(reply, scope, send)

    def _log(self, scope: Scope, query: Mapping[str, str]) -> Request:
        path = scope["path"]
        symbols = query["symbols"].count(",") + 1 if query.get("symbols") else 0
        request = Request(
            number=len(self.requests) + 1,
            arrived=self._monotonic(),
            api="data" if path.startswith(("/v2/stocks", "/v1/")) else "trading",
            method=scope["method"],
            path=path,
            symbols=1 if _SINGLE.fullmatch(path) else symbols,
        )
        self.requests.append(request)
        return request

    def _admit(self, request: Request, scope: Scope, query: Mapping[str, str]) -> Reply | None:
        """The refusal of a request that has no right to an answer."""
        headers = dict(scope["headers"])
        given = tuple(
            headers.get(name, b"").decode("latin-1")
            for name in (b"apca-api-key-id", b"apca-api-secret-key")
        )
        if not all(given) or (self._keys is not None and given != self._keys):
            if request.api == "data":
                return Reply(401, _nginx(401), _HTML)
            return _error(401, "unauthorized.", spaced=True)
        if not self._buckets[request.api].take():
            return _error(429, "too many requests.", spaced=True)
        return None

    def _answer(self, request: Request, query: Mapping[str, str]) -> tuple[Reply, Fault | None]:
        """The answer, and the fault to commit on it (a page fault is in the answer already)."""
        arrival = Arrival(request.number, request.path, query)
        fault = self.faults(arrival) if self.faults is not None else None
        if fault is not None and fault.kind == "status":
            return _failure(fault), fault
        try:
            if request.method != "GET":
                raise Refusal(405, f"method {request.method} is not allowed")
            reply, committed = self._route(request.path, query, fault)
        except Refusal as refusal:
            reply, committed = _error(refusal.status, str(refusal)), False
        if fault is not None and fault.kind in PAGE_KINDS and not committed:
            fault = None
        headers = self._buckets[request.api].headers(self._clock())
        return replace(reply, headers=reply.headers + headers), fault

    def _route(
        self, path: str, query: Mapping[str, str], fault: Fault | None
    ) -> tuple[Reply, bool]:
        if path == "/v2/stocks/bars":
            return self._bars(query, None, fault)
        if single := _SINGLE.fullmatch(path):
            return self._bars(query, single[1], fault)
        endpoints = {
            "/v1/corporate-actions": self._corporate_actions,
            "/v2/assets": self._assets,
            "/v2/calendar": self._calendar,
            "/v2/clock": self._clock_now,
        }
        if path not in endpoints:
            raise Refusal(404, "endpoint not found.")
        return Reply(200, msgspec.json.encode(endpoints[path](query))), False

    # Bars

    def _bars(
        self, query: Mapping[str, str], single: str | None, fault: Fault | None
    ) -> tuple[Reply, bool]:
        asked = self._bars_query(query, single)
        bars, following = self._page(asked)
        kind = fault.kind if fault is not None else None
        if kind == "null_bars":
            return Reply(200, b'{"bars":null,"next_page_token":null}'), True
        changed = None if kind is None else self._disturb_page(kind, asked, bars, following)
        bars, following = changed or (bars, following)
        token = following.token() if following is not None else None
        body = (
            pages_json(bars, asked.grain.stamps, token, currency=asked.currency)
            if single is None
            else page_json(single, bars, asked.grain.stamps, token, currency=asked.currency)
        )
        if fault is not None and kind in ODD_KINDS and single is None:
            odd = odd_page(fault.kind, body, fault.symbol)
            return Reply(200, odd or body), odd is not None
        return Reply(200, body), changed is not None

    def _bars_query(self, query: Mapping[str, str], single: str | None) -> BarsQuery:
        text = query.get("symbols", "") if single is None else single
        if not text:
            raise Refusal(
                400, "Invalid format for parameter symbols: query parameter 'symbols' is required"
            )
        timeframe = query.get("timeframe", "")
        known = _TIMEFRAME.fullmatch(timeframe) is not None
        if not known or (timeframe not in _SERVED and minutes_of(timeframe) is None):
            more = ": this exchange serves minutes, hours, 1Day and 12Month" if known else ""
            raise Refusal(400, f"invalid timeframe: {timeframe}{more}")
        for name, legal in (
            ("feed", ("sip", "iex")),
            ("currency", ("USD",)),
            ("sort", ("asc", "desc")),
        ):
            if (value := query.get(name)) is not None and value not in legal:
                raise Refusal(
                    400, f"invalid {name}: {value}: this exchange serves {' and '.join(legal)} only"
                )
        limit = _limit(query, default=1_000, most=10_000)
        now = self._clock()
        start, end = self._bounds(query, now)
        symbols = text.split(",")
        for symbol in symbols:
            if not is_ticker(symbol):
                raise Refusal(400, f"invalid symbol: {symbol}")  # the whole batch, naming one
        if query.get("feed", "sip") == "sip" and end > nanoseconds(now - RECENT):
            raise Refusal(403, "subscription does not permit querying recent SIP data")
        position = None
        if token := query.get("page_token"):
            try:
                position = Position.parse(token)
                if position.unit != ("M" if minutes_of(timeframe) else "D"):
                    raise ValueError(f"invalid page_token: {token}")
            except ValueError as error:
                raise Refusal(400, str(error)) from error
        try:
            kinds = read_adjustment(query.get("adjustment") or "raw")
        except ValueError as error:
            raise Refusal(400, str(error)) from error
        today = _new_york(now)
        given = query.get("asof") or today.isoformat()
        asof = None if given == "-" else min(_date(given, "asof"), today)
        grain = self._grain(timeframe, asof, kinds, now)
        return BarsQuery(
            grain=grain,
            symbols=sorted(set(symbols)),
            first=grain.stamps.place(start),
            stop=min(grain.stamps.place(end, after=True), grain.visible),
            limit=limit,
            descending=query.get("sort") == "desc",
            position=position,
            currency=query.get("currency"),
        )

    def _grain(
        self, timeframe: str, asof: date | None, kinds: Collection[Kind], now: datetime
    ) -> Grain:
        sessions = self.market.visible(now)

        def held(symbol: str) -> int | None:
            return None if asof is None else self.market.held(symbol, asof)

        def true(symbols: Sequence[str], first: int, stop: int) -> Bars:
            bars = self.market.bars(symbols, first, stop, asof)
            if self._closed:
                bars = bars.take(np.flatnonzero(~np.isin(bars.session, self._closed)))
            return bars

        def raw(symbols: Sequence[str], first: int, stop: int) -> Bars:
            bars = true(symbols, first, stop)
            return bars if self._blemishes is None else self._blemishes.on(bars, held, now)

        daily, adjusting = raw, None
        if kinds:
            adjusting = Adjusting(
                raw=raw,
                traded=self.market.bars,
                kinds=kinds,
                counting=self._register.counting(now),
                held=held,
                sessions=self.market.sessions,
                visible=sessions,
            )
            daily = adjusting.bars

        if every := minutes_of(timeframe):
            blemished = None if self._blemishes is None else self._blemishes.of_minutes(held, now)
            return MinuteGrain(
                minutes=self._minutes,
                every=every,
                midnights=self._stamps,
                sessions=sessions,
                now=nanoseconds(now),
                days=true,
                adjusting=adjusting,
                blemished=blemished,
            )

        def yearly(symbols: Sequence[str], first: int, stop: int) -> Bars:
            return self._years.bars(daily, symbols, first, stop, sessions)

        if timeframe.startswith("1D"):
            return DayGrain(self._stamps, sessions, daily)
        return DayGrain(self._years.stamps, self._years.visible(sessions), yearly)

    def _bounds(self, query: Mapping[str, str], now: datetime) -> tuple[int, int]:
        """Start and end in nanoseconds, both inclusive."""
        try:
            start = parse_instant(query.get("start") or _new_york(now).isoformat(), "start")
            given = query.get("end")
            end = parse_instant(given, "end") if given else nanoseconds(now - RECENT)
        except ValueError as error:
            raise Refusal(400, str(error)) from error
        if end < start and (given or query.get("start")):
            raise Refusal(400, "end should not be before start")
        return start, end

    def _page(self, query: BarsQuery) -> tuple[Bars, Position | None]:
        """One page, and where the next one begins; `None` after the last bar.

        Symbols in alphabetical order, each one's bars in order of time. That descending order
        leaves the symbols ascending is inferred from tokens of Alpaca's that invert only the time.
        """
        parts: list[Bars] = []
        found = 0
        for part in self._from_position(query):
            parts.append(part)
            found += len(part)
            if found > query.limit:
                break
        if not parts:
            return Bars.none(), None
        bars = parts[0] if len(parts) == 1 else Bars.concatenate(query.symbols, parts)
        if len(bars) <= query.limit:
            return bars, None
        return bars.take(slice(query.limit)), _position(query, bars, query.limit)

    def _from_position(self, query: BarsQuery) -> Iterator[Bars]:
        """The bars from the query's position on, in parts; ended early when a page is full."""
        symbols, first, stop, grain = query.symbols, query.first, query.stop, query.grain
        enough, descending = query.limit + 1, query.descending
        if (position := query.position) is not None:
            symbols = symbols[bisect_left(symbols, position.symbol) :]
            if symbols and symbols[0] == position.symbol:
                low, high = first, stop
                if descending:
                    high = min(stop, grain.stamps.place(position.at, after=True))
                else:
                    low = max(first, grain.stamps.place(position.at))
                for part in grain.parts(symbols[:1], low, high, enough, descending=descending):
                    enough -= len(part)
                    yield part
                symbols = symbols[1:]
        yield from grain.parts(symbols, first, stop, max(1, enough), descending=descending)

    def _disturb_page(
        self, kind: str, query: BarsQuery, bars: Bars, following: Position | None
    ) -> tuple[Bars, Position | None] | None:
        """The page with a fault of `kind`; `None` when it cannot have it."""
        if not len(bars):
            return None
        here = _position(query, bars, 0)
        onward = -1 if query.descending else 1
        if kind == "empty_page":
            # The same place by a token that the client has not seen: repeating its own would be
            # another fault, a token that never ends.
            asked = query.position
            at = asked.at if asked is not None and asked.symbol == here.symbol else here.at
            return bars.take(slice(0)), replace(here, at=at - onward)
        if kind == "trailing_page" and following is None:
            last = _position(query, bars, len(bars) - 1)
            return bars, replace(last, at=last.at + onward)
        if kind == "repeated_bar":
            return bars.take(np.append(0, np.arange(len(bars)))), following
        if kind == "overlapping_page" and following is not None and len(bars) > 1:
            return bars, _position(query, bars, len(bars) - 1)
        if kind == "endless_token":
            return bars, here
        return None

    # The other endpoints: JSON-able answers

    def _corporate_actions(self, query: Mapping[str, str]) -> dict[str, Any]:
        now = self._clock()
        asked = _actions_query(query, _new_york(now))
        limit = _limit(query, default=100, most=1_000)
        token = query.get("page_token") or "0"
        if not token.isdecimal():
            raise Refusal(400, f"invalid page_token: {token}")
        begin = int(token)
        found, more = self._register.asked(asked, now, begin, limit)
        actions: dict[str, list[Mapping[str, Any]]] = {}
        for action in found:
            actions.setdefault(action.kind.plural, []).append(action.row)
        following = str(begin + limit) if more else None
        return {"corporate_actions": actions, "next_page_token": following}

    @cached_property
    def _register(self) -> Register:
        actions, market_id = self.market.actions(), self.market.market_id
        true = Register(actions, market_id)
        return (
            true if self._errata is None else Register(actions, market_id, self._errata.edits(true))
        )

    def _assets(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        asked = {
            key: query[name]
            for name, key in (
                ("status", "status"),
                ("asset_class", "class"),
                ("exchange", "exchange"),
            )
            if query.get(name)
        }
        attributes = {name for name in query.get("attributes", "").split(",") if name}
        return [
            row
            for row in self.market.assets(_new_york(self._clock()))
            if all(row[key] == value for key, value in asked.items())
            and (not attributes or attributes.intersection(row["attributes"]))
        ]

    def _calendar(self, query: Mapping[str, str]) -> list[dict[str, str]]:
        low, high = market_calendar.FIRST, market_calendar.LAST
        start = _date(query["start"][:10], "start") if query.get("start") else low
        end = _date(query["end"][:10], "end") if query.get("end") else high
        days = market_calendar.sessions(low, high)
        settled = [_settlement(days, index) for index in range(len(days))]
        by_settlement = query.get("date_type") == "SETTLEMENT"
        return [
            {
                "date": day.isoformat(),
                "open": "09:30",
                "close": "13:00" if early else "16:00",
                "session_open": "0400",
                "session_close": "1700" if early else "2000",
                "settlement_date": settlement.isoformat(),
            }
            for day, settlement in zip(days, settled, strict=True)
            if start <= (settlement if by_settlement else day) <= end and day not in self._closures
            for early in [market_calendar.is_early_close(day)]
        ]

    def _clock_now(self, query: Mapping[str, str]) -> dict[str, Any]:
        now = self._clock()
        zone = ZoneInfo("America/New_York")
        today = now.astimezone(zone).date()
        ahead = market_calendar.sessions(today, today + timedelta(days=14))
        near = [day for day in ahead if day not in self._closures]
        opens = [market_calendar.session_open(day) for day in near]
        closes = [market_calendar.session_close(day) for day in near]
        following_close = next(at for at in closes if at > now)
        following_open = next(at for at in opens if at > now)
        return {
            "timestamp": now.astimezone(zone).isoformat(),
            "is_open": following_close < following_open,
            "next_open": following_open.astimezone(zone).isoformat(),
            "next_close": following_close.astimezone(zone).isoformat(),
        }

    # Sending

    def _render(self, reply: Reply, scope: Scope) -> tuple[list[tuple[bytes, bytes]], bytes]:
        headers = [
            (b"content-type", reply.content_type),
            (b"x-exchange-market", self.market.market_id.encode()),
            *reply.headers,
        ]
        body = reply.body
        accepted = dict(scope["headers"]).get(b"accept-encoding", b"")
        if b"gzip" in accepted and len(body) >= 512:
            body = isal_zlib.compress(body, 1, 31)  # a tenth of what gzip's own level costs
            headers += [(b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding")]
        headers.append((b"content-length", b"%d" % len(body)))
        return headers, body

    async def _send(self, reply: Reply, scope: Scope, send: Send) -> None:
        headers, body = self._render(reply, scope)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class _Connection:
    """One request's connection, for faults that no ASGI message can express."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extension = scope.get("extensions", {}).get(TRANSPORT, {})
        self._transport: asyncio.Transport | None = extension.get("transport")
        self._receive = receive
        self._send = send

    async def reset(self) -> None:
        """Closes at once with a TCP reset."""
        handle = self._wire.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(handle)) as wire:
            # Lingering for no time makes the kernel reset instead of closing in order.
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._wire.abort()
        await self._gone(None)

    async def disturb(
        self, fault: Fault, status: int, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> None:
        """Sends the headers, and of the body what the fault leaves of it."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        if fault.kind == "cut":
            await self._part(body[: len(body) // 2])
            self._wire.close()
            await self._gone(None)
        elif fault.kind == "silence":
            await self._gone(fault.seconds)
            self._wire.abort()
            await self._gone(None)
        else:
            size = max(1, math.ceil(len(body) / 20))
            pieces = [body[at : at + size] for at in range(0, len(body), size)]
            for piece in pieces:
                if await self._gone(fault.seconds / len(pieces)):
                    return
                await self._part(piece)
            await self._send({"type": "http.response.body", "body": b""})

    @property
    def _wire(self) -> asyncio.Transport:
        if self._transport is None:
            raise RuntimeError(
                "this fault needs the connection itself; run the exchange with "
                "datalake_assets.exchange.process, not by another ASGI server"
            )
        return self._transport

    async def _part(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _gone(self, seconds: float | None) -> bool:
        """Whether the client has gone within `seconds`; `None`: waits until it has."""
        try:
            async with asyncio.timeout(seconds):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return False
        return True


def _position(query: BarsQuery, bars: Bars, row: int) -> Position:
    (at,) = query.grain.stamps.instants(bars.session[row : row + 1]).tolist()
    return Position(bars.symbols[bars.symbol[row]], at, query.grain.unit)


def _error(status: int, message: str, *, spaced: bool = False) -> Reply:
    """An error in JSON; the gateway before the API puts a space after its colon."""
    text = msgspec.json.encode(message)
    return Reply(status, (b'{"message": ' if spaced else b'{"message":') + text + b"}")


def _failure(fault: Fault) -> Reply:
    reply = (
        _error(429, "too many requests.", spaced=True)
        if fault.status == 429
        else _error(fault.status, fault.message)
        if fault.message is not None
        else Reply(fault.status, _nginx(fault.status), _HTML)
    )
    if fault.retry_after is not None:
        reply = replace(reply, headers=((b"retry-after", b"%d" % fault.retry_after),))
    return reply


def _nginx(status: int) -> bytes:
    title = f"{status} {_PHRASES.get(status, 'Error')}"
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    ).encode()


def _new_york(now: datetime) -> date:
    """The day it is on the exchange's clock."""
    return now.astimezone(ZoneInfo("America/New_York")).date()


def _date(text: str, parameter: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise Refusal(
            400,
            f"Invalid format for parameter {parameter}: error parsing '{text}' as 2006-01-02 date",
        ) from error


def _limit(query: Mapping[str, str], *, default: int, most: int) -> int:
    text = query.get("limit") or str(default)
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise Refusal(400, f"invalid limit: {text}: it is 1 to {most}")
    return int(text)


_FILTERS = ("symbols", "cusips", "types", "region", "start", "end", "data_quality")


def _actions_query(query: Mapping[str, str], today: date) -> Asked:
    """What a request for corporate actions asks for."""
    listed = {
        name: frozenset(query[name].split(","))
        for name in ("symbols", "cusips", "types", "ids")
        if query.get(name)
    }
    if "ids" in listed and (others := [name for name in _FILTERS if query.get(name)]):
        raise Refusal(400, f"ids is mutually exclusive with other filters: {', '.join(others)}")
    for name, legal in (
        ("region", ("us",)),
        ("data_quality", ("complete", "all")),
        ("sort", ("asc", "desc")),
    ):
        if (value := query.get(name)) and value not in legal:
            raise Refusal(400, f"invalid {name}: {value}: it is {' or '.join(legal)}")
    if unknown := sorted(listed.get("types", frozenset()) - KINDS.keys()):
        raise Refusal(400, f"invalid types: {unknown[0]}: it is one of {', '.join(KINDS)}")
    start = _date(query["start"], "start") if query.get("start") else today
    end = _date(query["end"], "end") if query.get("end") else today
    if end < start:
        raise Refusal(400, "end should not be before start")
    return Asked(
        start=start,
        end=end,
        kinds=[KINDS[name] for name in listed["types"]] if "types" in listed else None,
        symbols=listed.get("symbols"),
        cusips=listed.get("cusips"),
        ids=listed.get("ids"),
        complete=query.get("data_quality") != "all",
        descending=query.get("sort") == "desc",
    )


def _settlement(days: Sequence[date], index: int) -> date:
    """The settlement date: one session later since 2024-05-28, two since 2017-09-05, then three."""
    day = days[index]
    later = 1 if day >= date(2024, 5, 28) else 2 if day >= date(2017, 9, 5) else 3
    return days[min(index + later, len(days) - 1)]
