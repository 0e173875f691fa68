"""How Alpaca is asked, what its answers mean, and what alpaca-py must go on doing for us."""

import inspect
import json
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from importlib.metadata import version
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection import universe
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.dataset import DAILY
from datalake_assets.collection.errors import (
    BadRequestError,
    CollectionError,
    PermanentError,
    RefusedError,
    RejectedSymbolError,
    ThrottledError,
    TransientError,
)
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import Caller, RetryPolicy
from datalake_assets.collection.survey import Survey, survey
from datalake_assets.collection.universe import SCHEMA as UNIVERSE
from datalake_assets.exchange.events import REFERENCE
from datalake_assets.exchange.faults import Arrival, Fault, FaultScript, Rule
from datalake_assets.exchange.market import is_ticker
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.sources import alpaca
from datalake_assets.sources.alpaca import Account, AlpacaSource, classify
from datalake_assets.sources.pages import COMPILED
from datalake_assets.sources.transport import Answer, Timeouts, Transport

KEY, SECRET = "AKQ7NEVERSHOWN", "sEcReTnEvErShOwN"
NOW = datetime(2026, 9, 3, 22, 0, tzinfo=UTC)
DAY = date(2024, 7, 3)  # closes at 17:00 UTC, early


class At(Clock):
    """A clock that stands still."""

    def __init__(self, now: datetime = NOW) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now


@contextmanager
def source(url: str | None, now: datetime = NOW, **given: Any) -> Iterator[AlpacaSource]:
    account = Account(KEY, SECRET, data_url=url, trading_url=url, **given)
    asking = AlpacaSource(account, timeouts=Timeouts(5.0, 20.0, 60.0), clock=At(now))
    try:
        yield asking
    finally:
        asking.close()


def names(exchange: ExchangeServer, count: int = 5, status: str = "active") -> tuple[str, ...]:
    rows = exchange.exchange.market.assets()
    return tuple(sorted(row["symbol"] for row in rows if row["status"] == status))[:count]


class Recording(Transport):
    """A transport that sends nothing: it notes what it is given and answers from a list."""

    asked: ClassVar[list[tuple[str, dict[str, str], dict[str, str]]]]
    answers: ClassVar[list[Answer]]

    def get(
        self, url: str, params: Mapping[str, str], headers: Mapping[str, str], most: int
    ) -> Answer:
        assert most == (256 << 20 if url.endswith("/v2/assets") else 32 << 20)
        self.asked.append((url, dict(params), dict(headers)))
        return self.answers.pop(0)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> type[Recording]:
    monkeypatch.setattr(Recording, "asked", [], raising=False)
    monkeypatch.setattr(Recording, "answers", [], raising=False)
    monkeypatch.setattr(alpaca, "Transport", Recording)
    return Recording


EMPTY = Answer(200, {}, b'{"bars":{},"next_page_token":null}')


# What is relied upon in alpaca-py


def test_alpaca_py_is_the_version_whose_private_members_were_read() -> None:
    assert version("alpaca-py").startswith("0.44.")


def test_both_clients_send_every_request_through_one_method() -> None:
    from alpaca.common.rest import RESTClient
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.trading.client import TradingClient

    for client in (StockHistoricalDataClient, TradingClient):
        assert issubclass(client, RESTClient)
        assert client._one_request is RESTClient._one_request
        assert client.get is RESTClient.get
        taken = list(inspect.signature(client._one_request).parameters)
        assert taken == ["self", "method", "url", "opts", "retry"]


@pytest.mark.parametrize("name", ["data", "trading"])
def test_get_hands_over_url_headers_and_parameters_and_returns_what_it_is_given(name: str) -> None:
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.trading.client import TradingClient

    base: Any = StockHistoricalDataClient if name == "data" else TradingClient
    calls: list[tuple[Any, ...]] = []
    answered = object()

    class Client(base):  # type: ignore[misc]
        def _one_request(self, *given: Any) -> object:
            calls.append(given)
            return answered

    client = Client(KEY, SECRET, url_override="http://127.0.0.1:1")
    assert client.get("/path", {"a": 1}) is answered
    ((method, url, opts, retry),) = calls
    assert (method, url) == ("GET", "http://127.0.0.1:1/v2/path")
    assert opts["params"] == {"a": 1}
    assert opts["headers"]["APCA-API-KEY-ID"] == KEY
    assert opts["headers"]["APCA-API-SECRET-KEY"] == SECRET
    assert isinstance(retry, int)


def test_a_request_model_names_its_fields_as_the_wire_does() -> None:
    from alpaca.data.enums import Adjustment, DataFeed
    from alpaca.data.requests import StockBarsRequest
    from alpaca.data.timeframe import TimeFrame

    request = StockBarsRequest(
        symbol_or_symbols=["B", "A"],
        timeframe=TimeFrame.Day,
        start=datetime(2024, 7, 3, tzinfo=UTC),
        end=datetime(2024, 7, 3, 23, 59, 59, tzinfo=UTC),
        limit=10_000,
        adjustment=Adjustment.RAW,
        feed=DataFeed("sip"),
        asof="2026-09-03",
    )
    fields = request.to_request_fields()
    assert {name: str(getattr(value, "value", value)) for name, value in fields.items()} == {
        "symbols": "B,A",
        "timeframe": "1Day",
        "start": "2024-07-03T00:00:00+00:00",
        "end": "2024-07-03T23:59:59+00:00",
        "limit": "10000",
        "adjustment": "raw",
        "feed": "sip",
        "asof": "2026-09-03",
    }


# What is asked


def test_bars_are_asked_for_raw_and_as_of_a_pinned_day_in_whole_pages(
    exchange: ExchangeServer,
) -> None:
    seen: list[Arrival] = []
    exchange.exchange.faults = lambda arrival: seen.append(arrival)
    with source(exchange.url, feed="iex") as asking:
        asking.bars()(("B", "A.B"), date(2024, 7, 1), DAY, None)
    assert seen[0].path == "/v2/stocks/bars"
    assert seen[0].query == {
        "symbols": "B,A.B",
        "timeframe": "1Day",
        "start": "2024-07-01T00:00:00+00:00",
        "end": "2024-07-03T23:59:59+00:00",
        "limit": "10000",
        "adjustment": "raw",
        "feed": "iex",
        "asof": "-",
    }


def test_the_bars_of_the_exchange_arrive_session_by_session(exchange: ExchangeServer) -> None:
    symbols, days = names(exchange, 50), market_calendar.sessions(date(2024, 3, 7), DAY)
    with source(exchange.url) as asking:
        page = asking.bars()(symbols, days[0], days[-1], None)
    market = exchange.exchange.market
    first = market.sessions.index(days[0])
    held = market.bars(symbols, first, first + len(days))
    assert page.next_token is None
    assert page.bars["symbol"].to_pylist() == [held.symbols[n] for n in held.symbol]
    assert page.bars["session"].to_pylist() == [market.sessions[n] for n in held.session]
    for name in ("open", "high", "low", "close", "vwap"):
        assert page.bars[name].to_pylist() == (getattr(held, name) / 1e6).tolist()
    for name in ("volume", "trade_count"):
        assert page.bars[name].to_pylist() == getattr(held, name).tolist()
    assert {days[0], days[-1]} <= set(page.bars["session"].to_pylist())


def test_a_token_leads_to_the_next_page(exchange: ExchangeServer) -> None:
    symbols = names(exchange, 45)
    first, last = date(2023, 1, 3), date(2024, 7, 3)
    with source(exchange.url) as asking:
        fetch = asking.bars()
        page = fetch(symbols, first, last, None)
        assert page.bars.num_rows == 10_000
        assert page.next_token
        rest = fetch(symbols, first, last, page.next_token)
    assert rest.next_token is None
    keys = [
        (row["symbol"], row["session"])
        for table in (page.bars, rest.bars)
        for row in table.select(["symbol", "session"]).to_pylist()
    ]
    assert keys == sorted(set(keys))


def test_the_pages_of_the_exchange_are_regular_and_the_same_by_either_decoder(
    exchange: ExchangeServer,
) -> None:
    if COMPILED is None:
        pytest.skip("installed without a compiler")
    account = Account(KEY, SECRET, data_url=exchange.url, trading_url=exchange.url)
    taken = []

    def parse(body: bytes) -> Any:
        taken.append(found := COMPILED(body))
        return found

    answers = []
    for given_ in (parse, None):
        asking = AlpacaSource(account, clock=At(), parse=given_)
        first, last = date(2024, 7, 1), date(2024, 9, 27)
        answers.append(asking.bars()(names(exchange, 150), first, last, None))
        asking.close()
    assert answers[0] == answers[1]
    assert answers[0].bars.num_rows > 1000
    assert [found is not None for found in taken] == [True]


def test_many_threads_get_what_one_gets(exchange: ExchangeServer) -> None:
    parts = [names(exchange, 200)[start : start + 10] for start in range(0, 200, 10)]
    with source(exchange.url) as asking, ThreadPoolExecutor(20) as pool:
        fetch = asking.bars()
        alone = [fetch(part, date(2024, 6, 3), DAY, None).bars for part in parts]
        together = list(pool.map(lambda part: fetch(part, date(2024, 6, 3), DAY, None).bars, parts))
    assert all(a.equals(b) for a, b in zip(alone, together, strict=True))


# Years


@pytest.mark.parametrize(
    ("last", "end"),
    [(2024, "2024-12-31T23:59:59+00:00"), (2026, "2026-09-03T21:44:00+00:00")],
)
def test_years_are_asked_for_in_whole_pages_up_to_what_is_served(
    last: int, end: str, recording: type[Recording]
) -> None:
    recording.answers.append(EMPTY)
    with source(None, feed="iex") as asking:
        assert asking.years()(("B", "A.B"), 2016, last, "bmV4dA==") == ({}, None)
    ((url, params, _),) = recording.asked
    assert url == "https://data.alpaca.markets/v2/stocks/bars"
    assert params == {
        "symbols": "B,A.B",
        "timeframe": "12Month",
        "start": "2016-01-01T00:00:00+00:00",
        "end": end,
        "limit": "10000",
        "adjustment": "raw",
        "feed": "iex",
        "asof": "-",
        "page_token": "bmV4dA==",
    }


def years_of(exchange: ExchangeServer, symbols: Sequence[str]) -> dict[str, frozenset[int]]:
    """In which years the exchange's market has bars of these, by its daily ones."""
    market = exchange.exchange.market
    held = market.bars(symbols, 0, market.visible(NOW))
    found: dict[str, set[int]] = {symbol: set() for symbol in symbols}
    for symbol, session in zip(held.symbol, held.session, strict=True):
        found[held.symbols[symbol]].add(market.sessions[session].year)
    return {symbol: frozenset(years) for symbol, years in found.items()}


def surveyed(asking: AlpacaSource, symbols: Iterable[str]) -> Survey:
    caller = Caller(RateLimiter(1e6), RetryPolicy(wait_initial=0.001))
    years = asking.years()
    return survey(symbols, 2011, 2026, years, caller, symbols_per_request=20, workers=4)


@pytest.mark.parametrize("page", [10_000, 37])
def test_a_survey_of_the_exchange_tells_the_years_of_its_daily_bars(
    page: int, exchange: ExchangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alpaca, "PAGE_LIMIT", page)
    symbols = tuple(filter(is_ticker, names(exchange, 60) + names(exchange, 40, "inactive")))
    with source(exchange.url) as asking:
        found = surveyed(asking, symbols)
    assert found.years == years_of(exchange, symbols)
    requests = len(exchange.exchange.requests)
    assert requests == 5 if page == 10_000 else requests > 20


def test_faults_change_nothing_of_a_survey(exchange: ExchangeServer) -> None:
    symbols = names(exchange, 100)
    passing = [
        Fault(kind="status", status=503),
        Fault(kind="null_bars"),
        Fault(kind="cut"),
        Fault(kind="repeated_bar"),
        Fault(kind="trailing_page"),
    ]
    exchange.exchange.faults = FaultScript([Rule(fault, times=1) for fault in passing])
    with source(exchange.url) as asking:
        assert surveyed(asking, symbols).years == years_of(exchange, symbols)
    committed = {request.fault for request in exchange.exchange.requests}
    assert len(committed - {None}) == len(passing)


def test_names_that_the_source_refuses_are_left_out_of_a_survey(exchange: ExchangeServer) -> None:
    symbols = names(exchange, 30)
    with source(exchange.url) as asking:
        found = surveyed(asking, [*symbols, "TOOLONGX", "AB-C"])
    assert found.years == years_of(exchange, symbols)


sessions_ = st.sampled_from(market_calendar.sessions(date(2016, 1, 4), date(2026, 9, 2)))


@given(sessions_, st.timedeltas(timedelta(minutes=16), timedelta(days=400)))
def test_the_end_takes_in_the_last_sessions_bar_and_is_never_too_recent(
    last: date, later: timedelta
) -> None:
    now = market_calendar.session_close(last) + later
    with source(None, now) as asking:
        _, end = asking._bounds(DAILY, last, last)
    assert market_calendar.session_stamp(last) <= end <= now - timedelta(minutes=16)
    assert end < market_calendar.session_stamp(last) + timedelta(days=1)


@pytest.mark.parametrize(
    ("last", "close"),
    [(date(2024, 7, 2), "20:00"), (DAY, "17:00"), (date(2024, 1, 3), "21:00")],
)
def test_a_session_is_refused_until_its_bars_are_served_and_the_error_tells_when(
    last: date, close: str, recording: type[Recording]
) -> None:
    served = market_calendar.session_close(last) + timedelta(minutes=16)
    for early in (timedelta(microseconds=1), timedelta(hours=3), timedelta(days=2)):
        with source(None, served - early) as asking, pytest.raises(RefusedError) as caught:
            asking.bars()(("A",), last, last, None)
        assert f"closes at {last} {close} UTC" in str(caught.value)
        assert "16 minutes later" in str(caught.value)
    assert recording.asked == []
    recording.answers.append(EMPTY)
    with source(None, served) as asking:
        asking.bars()(("A",), last, last, None)
    assert recording.asked[0][1]["end"] == f"{last}T{close}:00+00:00"


def test_an_exchange_with_the_15_minute_rule_serves_a_session_at_the_first_moment_asked() -> None:
    now = market_calendar.session_close(DAY) + timedelta(minutes=16)
    strict = Exchange(SyntheticMarket(active=30, inactive=0), clock=lambda: now)
    with ExchangeServer(strict) as server, source(server.url, now) as asking:
        page = asking.bars()(names(server, 30), DAY, DAY, None)
    assert page.bars.num_rows > 10
    assert page.bars["session"].unique().to_pylist() == [DAY]


@pytest.mark.parametrize(
    ("key", "host"),
    [("PKABC", "https://paper-api.alpaca.markets"), ("AKABC", "https://api.alpaca.markets")],
)
def test_keys_of_a_paper_account_go_to_the_paper_host(
    key: str, host: str, recording: type[Recording]
) -> None:
    recording.answers += [Answer(200, {}, b"[]"), EMPTY]
    asking = AlpacaSource(Account(key, SECRET), clock=At())
    assert asking.assets().num_rows == 0
    asking.bars()(("A",), DAY, DAY, None)
    asking.close()
    assets, bars = recording.asked
    assert assets[0] == f"{host}/v2/assets"
    assert assets[1] == {"asset_class": "us_equity"}
    assert bars[0] == "https://data.alpaca.markets/v2/stocks/bars"
    assert {asked[2]["APCA-API-KEY-ID"] for asked in recording.asked} == {key}


# The list of assets


class Odd(SyntheticMarket):
    """A market whose list has an asset as alpaca-py's model refuses it."""

    def assets(self, today: date = REFERENCE) -> Sequence[dict[str, Any]]:
        first, second, *rest = super().assets(today)
        nameless = {name: value for name, value in second.items() if name != "name"}
        for gone in ("easy_to_borrow", "marginable", "shortable"):
            nameless.pop(gone)
        return [first | {"exchange": "MOON", "status": "halted"}, nameless, *rest]


def test_the_assets_are_all_there_by_symbol(exchange: ExchangeServer) -> None:
    listed = exchange.exchange.market.assets(datetime.now(ZoneInfo("America/New_York")).date())
    with source(exchange.url) as asking:
        table = asking.assets()
    assert table.schema == UNIVERSE
    assert table["symbol"].to_pylist() == sorted(row["symbol"] for row in listed)
    held = {row["id"]: row for row in listed}
    for row in table.to_pylist():
        told = held[row.pop("asset_id")]
        assert row == {name: told[name] for name in row}
    assert set(table["status"].to_pylist()) == {"active", "inactive"}


def test_an_unknown_exchange_and_missing_fields_do_not_cost_the_list() -> None:
    with ExchangeServer(Exchange(Odd(active=20, inactive=5))) as server:
        today = datetime.now(ZoneInfo("America/New_York")).date()
        listed = server.exchange.market.assets(today)
        odd, nameless = listed[:2]
        with source(server.url) as asking:
            rows = {row["asset_id"]: row for row in asking.assets().to_pylist()}
    assert len(rows) == len(listed)
    assert (rows[odd["id"]]["exchange"], rows[odd["id"]]["status"]) == ("MOON", "halted")
    assert rows[nameless["id"]]["name"] is None


def test_the_calendar_has_the_sessions_of_a_range(exchange: ExchangeServer) -> None:
    with source(exchange.url) as asking:
        found = asking.calendar(date(2025, 1, 8), date(2025, 1, 13))
    assert sorted(found) == [date(2025, 1, 8), date(2025, 1, 10), date(2025, 1, 13)]


@pytest.mark.parametrize("body", [b"", b"{}", b'[{"date":null}]', b'[{"day":"2025-01-08"}]'])
def test_a_calendar_that_can_not_be_read_is_asked_for_again(
    recording: type[Recording], body: bytes
) -> None:
    recording.answers.append(Answer(200, {}, body))
    with source(None) as asking, pytest.raises(TransientError, match="the calendar can't be read"):
        asking.calendar(DAY, DAY)
    (asked,) = recording.asked
    assert asked[0].endswith("/v2/calendar")
    assert asked[1] == {"start": str(DAY), "end": str(DAY)}


def test_a_ticker_with_two_assets_keeps_both_in_a_fixed_order(recording: type[Recording]) -> None:
    row = {"exchange": "NYSE", "tradable": True, "name": "n"}
    rows = [
        {"id": "3", "symbol": "S", "status": "inactive", **row},
        {"id": "2", "symbol": "S", "status": "inactive", **row},
        {"id": "1", "symbol": "S", "status": "active", **row},
        {"id": "0", "symbol": "A", "status": "inactive", **row},
    ]
    recording.answers += [
        Answer(200, {}, json.dumps(rows).encode()),
        Answer(200, {}, json.dumps(rows[::-1]).encode()),
    ]
    with source(None) as asking:
        first, second = asking.assets(), asking.assets()
    assert first["asset_id"].to_pylist() == ["0", "1", "2", "3"]
    assert first.equals(second)


@pytest.mark.parametrize(
    "body",
    [b"<html>maintenance</html>", b'[{"id":"1"}]', b'[{"id"', b"null", b"{}", b'"x"', b"[7, null]"],
)
def test_a_list_that_can_t_be_read_is_asked_again(body: bytes, recording: type[Recording]) -> None:
    recording.answers.append(Answer(200, {}, body))
    with source(None) as asking, pytest.raises(TransientError, match="list of assets"):
        asking.assets()


def listed(*assets: Any) -> Answer:
    return Answer(200, {}, json.dumps(assets).encode())


WHOLE = {"id": "1", "symbol": "A", "status": "active", "exchange": "NYSE", "tradable": True,
         "name": "Alpha"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "column"), [("exchange", "exchange"), ("tradable", "tradable"), ("id", "asset_id")]
)
@pytest.mark.parametrize("value", [None, "absent", [], {}])
def test_an_asset_without_what_is_not_needed_is_taken(
    name: str, column: str, value: Any, recording: type[Recording]
) -> None:
    odd = WHOLE | {"symbol": "B", name: value}
    if value == "absent":
        del odd[name]
    recording.answers.append(listed(WHOLE, odd))
    with source(None) as asking:
        table = asking.assets()
    assert table.schema == UNIVERSE
    assert [row["symbol"] for row in table.to_pylist()] == ["A", "B"]
    assert [row[column] is None for row in table.to_pylist()] == [False, True]
    assert universe.odd(table) == []


def test_an_id_that_is_a_number_is_taken_as_text(recording: type[Recording]) -> None:
    recording.answers.append(listed(WHOLE | {"id": 12345}))
    with source(None) as asking:
        assert asking.assets()["asset_id"].to_pylist() == ["12345"]


@pytest.mark.parametrize(
    "odd",
    [None, 7, "A", [], {}, {"symbol": "B"}, WHOLE | {"symbol": None}, WHOLE | {"symbol": 7},
     WHOLE | {"symbol": ""}, WHOLE | {"status": None}, WHOLE | {"status": True}],
)  # fmt: skip
def test_what_is_no_asset_is_left_out_and_named(odd: Any, recording: type[Recording]) -> None:
    recording.answers.append(listed(WHOLE, odd, WHOLE | {"symbol": "C"}))
    with source(None) as asking:
        table = asking.assets()
    assert table["symbol"].to_pylist() == ["A", "C"]
    (told,) = universe.odd(table)
    assert told.startswith("no. 2: ")
    assert len(told) < 120


def test_what_does_not_print_in_the_list_is_spelled_out(recording: type[Recording]) -> None:
    escape = "\x1b[31m"
    recording.answers.append(
        listed(
            {"id": escape, "symbol": f"A{escape}", "status": f"active{escape}",
             "exchange": escape, "name": f"Alpha\u00a0 {escape}\n Inc"},
            escape,
        )
    )  # fmt: skip
    with source(None) as asking:
        table = asking.assets()
    (row,) = table.to_pylist()
    assert row["name"] == "Alpha \\x1b[31m Inc"
    assert all(value.isprintable() for value in row.values() if value is not None)
    assert all(told.isprintable() for told in universe.odd(table))


# What an answer means


JSON_429 = b'{"message": "too many requests."}'
NGINX = b"<html>\r\n<head><title>%s</title></head>\r\n<body>\r\n<center><h1>%s</h1></center>\r\n"


def nginx(text: str) -> bytes:
    return NGINX.replace(b"%s", text.encode()) + b"<hr><center>nginx</center>\r\n</body></html>\r\n"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": format_datetime(NOW + timedelta(seconds=90), usegmt=True)}, 90.0),
        ({"retry-after": format_datetime(NOW - timedelta(seconds=90), usegmt=True)}, -90.0),
        ({"x-ratelimit-reset": f"{NOW.timestamp() + 21:.0f}"}, 21.0),
        ({"retry-after": "3", "x-ratelimit-reset": f"{NOW.timestamp() + 21:.0f}"}, 3.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 03 Sep 2026 22:00:30 -0000"}, None),  # of no zone
        ({"retry-after": ""}, None),
        ({"x-ratelimit-reset": "never"}, None),
    ],
)
def test_a_429_throttles_for_as_long_as_it_says(
    headers: dict[str, str], seconds: float | None
) -> None:
    error = classify(Answer(429, headers, JSON_429), "GET /stocks/bars", NOW)
    assert isinstance(error, ThrottledError)
    assert error.retry_after == (None if seconds is None else pytest.approx(seconds))
    assert str(error) == "GET /stocks/bars: HTTP 429: too many requests."


@pytest.mark.parametrize(
    "status", [408, 425, 500, 502, 503, 504, 507, 509, *range(520, 531), 561, 598, 599]
)
@pytest.mark.parametrize("after", [None, "12"])
def test_what_can_pass_is_transient(status: int, after: str | None) -> None:
    headers = {} if after is None else {"retry-after": after}
    error = classify(Answer(status, headers, nginx("Gateway")), "GET /stocks/bars", NOW)
    assert type(error) is TransientError
    assert error.retry_after == (None if after is None else 12.0)
    assert str(error) == f"GET /stocks/bars: HTTP {status}: Gateway Gateway nginx"


@pytest.mark.parametrize("body", [nginx("401 Authorization Required"), b'{"message": "no."}', b""])
def test_a_401_names_both_variables_whatever_its_body(body: bytes) -> None:
    error = classify(Answer(401, {}, body), "GET /stocks/bars", NOW)
    assert isinstance(error, RefusedError)
    assert "ALPACA_API_KEY and ALPACA_SECRET_KEY" in str(error)
    assert "<" not in str(error)


def test_a_407_says_how_a_proxy_is_given_a_login() -> None:
    error = classify(Answer(407, {}, b""), "GET /stocks/bars", NOW)
    assert isinstance(error, RefusedError)
    assert "HTTPS_PROXY=http://user:password@host:port" in str(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 503])
@pytest.mark.parametrize("form", ['{"message":"%s"}', "<html>%s</html>", "%s"])
def test_what_does_not_print_in_a_message_is_spelled_out(status: int, form: str) -> None:
    said = form % "a\x1b[31mred\u202egreen\x00\x9b2J\r\nend"
    body = json.dumps({"message": said}) if form.startswith("{") else said
    error = classify(Answer(status, {}, body.encode()), "GET /x", NOW)
    assert str(error).isprintable()
    assert "red" in str(error)
    assert "end" in str(error)


def test_a_403_says_what_may_be_wrong_with_the_plan() -> None:
    said = "subscription does not permit querying recent SIP data"
    error = classify(Answer(403, {}, json.dumps({"message": said}).encode()), "GET /x", NOW)
    assert isinstance(error, RefusedError)
    assert said in str(error)
    assert "ALPACA_FEED" in str(error)


@pytest.mark.parametrize(
    ("said", "symbols"),
    [
        ("invalid symbol: 0029900E0", ["0029900E0"]),
        ("invalid symbol: BRK-B", ["BRK-B"]),
        ("invalid symbol: TAOP:NASDAQ", ["TAOP:NASDAQ"]),
        ("invalid symbols: BRK-B, A1,C;D E", ["BRK-B", "A1", "C", "D", "E"]),
        ("Invalid Symbols: ['BRK-B', \"A1\"]", ["BRK-B", "A1"]),
        ("invalid symbol: ", []),
        ("invalid symbol:", []),
    ],
)
@pytest.mark.parametrize("status", [400, 422])
def test_an_answer_of_invalid_symbols_rejects_those_that_it_names(
    status: int, said: str, symbols: list[str]
) -> None:
    error = classify(Answer(status, {}, json.dumps({"message": said}).encode()), "GET /x", NOW)
    assert isinstance(error, RejectedSymbolError)
    assert list(error.symbols) == symbols
    assert str(error) == said.strip()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "invalid timeframe: 3Fortnight"),
        (400, "end should not be before start"),
        (402, "payment required"),
        (404, "endpoint not found."),
        (405, "method not allowed"),
        (410, "gone"),
        (414, "URI too long"),
        (422, "BRK-B is not a symbol"),
        (451, "unavailable for legal reasons"),
        (499, "client closed request"),
    ],
)
def test_another_refusal_may_be_of_one_of_its_symbols(status: int, said: str) -> None:
    error = classify(Answer(status, {}, json.dumps({"message": said}).encode()), "GET /x", NOW)
    assert type(error) is BadRequestError
    assert str(error) == f"GET /x: HTTP {status}: {said}"


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (302, "moved"),
        (304, "not modified"),
        (501, "not implemented"),
        (505, "HTTP version not supported"),
        (511, "network authentication required"),
    ],
)
def test_the_rest_fails_the_same_way_each_time(status: int, said: str) -> None:
    error = classify(Answer(status, {}, json.dumps({"message": said}).encode()), "GET /x", NOW)
    assert type(error) is PermanentError
    assert str(error) == f"GET /x: HTTP {status}: {said}"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "no message"),
        (b"<html></html>", "no message"),
        (b"plain words", "plain words"),
        (b'"a string"', '"a string"'),
        (b"[1]", "[1]"),
        (b'{"code":1}', '{"code":1}'),
        (b'{"message":"said","code":42210000}', "said"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 5000, "x" * 200),
    ],
)
def test_any_body_has_a_message_of_bounded_length(body: bytes, told: str) -> None:
    assert str(classify(Answer(404, {}, body), "GET /x", NOW)) == f"GET /x: HTTP 404: {told}"


@given(
    st.integers(201, 599),
    st.dictionaries(st.sampled_from(["retry-after", "x-ratelimit-reset"]), st.text(max_size=30)),
    st.binary(max_size=60),
)
def test_every_answer_has_a_meaning(status: int, headers: dict[str, str], body: bytes) -> None:
    assert isinstance(classify(Answer(status, headers, body), "GET /x", NOW), CollectionError)


# Through the exchange


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(kind="status", status=429), ThrottledError),
        (Fault(kind="status", status=429, retry_after=1), ThrottledError),
        (Fault(kind="status", status=500), TransientError),
        (Fault(kind="status", status=503), TransientError),
        (Fault(kind="status", status=529), TransientError),
        (Fault(kind="reset"), TransientError),
        (Fault(kind="cut"), TransientError),
        (Fault(kind="status", status=404), BadRequestError),
        (Fault(kind="status", status=403), RefusedError),
    ],
    ids=str,
)
def test_each_fault_of_the_exchange_is_the_error_that_it_should_be(
    fault: Fault, kind: type[Exception], exchange: ExchangeServer
) -> None:
    exchange.exchange.faults = FaultScript([Rule(fault)])
    with source(exchange.url) as asking:
        fetch = asking.bars()
        with pytest.raises(kind) as caught:
            fetch(names(exchange), DAY, DAY, None)
        assert type(caught.value) is kind
        assert_no_secret(caught.value)
        assert fetch(names(exchange), DAY, DAY, None).bars.num_rows  # and the next one is answered


def test_a_malformed_symbol_is_named_by_the_error(exchange: ExchangeServer) -> None:
    with source(exchange.url) as asking, pytest.raises(RejectedSymbolError) as caught:
        asking.bars()((*names(exchange), "BRX-B"), DAY, DAY, None)
    assert caught.value.symbols == ("BRX-B",)


def test_an_unknown_symbol_is_simply_absent(exchange: ExchangeServer) -> None:
    with source(exchange.url) as asking:
        page = asking.bars()((*names(exchange, 20), "ZZZZZZ"), DAY, DAY, None)
    assert page.bars.num_rows
    assert "ZZZZZZ" not in page.bars["symbol"].to_pylist()


def test_a_server_that_redirects_gets_no_second_request(recording: type[Recording]) -> None:
    recording.answers.append(Answer(302, {"location": "https://elsewhere.example"}, b""))
    with source(None) as asking, pytest.raises(PermanentError, match="HTTP 302"):
        asking.bars()(("A",), DAY, DAY, None)
    assert len(recording.asked) == 1


# Secrets


def assert_no_secret(told: object) -> None:
    text = f"{told} {told!r}"
    if isinstance(told, BaseException):
        text += "".join(traceback.format_exception(told))
    assert KEY not in text
    assert SECRET not in text


def test_wrong_keys_are_refused_naming_both_variables_and_showing_neither() -> None:
    guarded = Exchange(SyntheticMarket(active=10, inactive=0), keys=("right", "pair"))
    with ExchangeServer(guarded) as server, source(server.url) as asking:
        for question in (
            lambda: asking.bars()(("A",), DAY, DAY, None),
            asking.assets,
        ):
            with pytest.raises(
                RefusedError, match="ALPACA_API_KEY and ALPACA_SECRET_KEY"
            ) as caught:
                question()
            assert "HTTP 401" in str(caught.value)
            assert_no_secret(caught.value)


def test_neither_the_account_nor_the_source_shows_a_key() -> None:
    account = Account(KEY, SECRET, "https://data.example", "https://trading.example", "iex")
    assert_no_secret(account)
    assert_no_secret([account])
    assert "https://data.example" in repr(account)
    with source("http://127.0.0.1:1") as asking:
        assert_no_secret(asking)
        with pytest.raises(TransientError) as caught:
            asking.bars()(("A",), DAY, DAY, None)
        assert_no_secret(caught.value)


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 422, 429, 500])
def test_no_error_of_a_status_shows_a_key(status: int, recording: type[Recording]) -> None:
    recording.answers += [Answer(status, {}, b"{}")] * 2
    with source(None) as asking:
        for question in (lambda: asking.bars()(("A",), DAY, DAY, None), asking.assets):
            with pytest.raises(CollectionError) as caught:
                question()
            assert_no_secret(caught.value)
            assert "?" not in str(caught.value).split(" HTTP")[0]


@pytest.mark.parametrize(
    ("data_url", "feed", "told"),
    [
        (None, "sip", "alpaca/sip"),
        (None, "iex", "alpaca/iex"),
        ("https://data.sandbox.alpaca.markets", "sip", "data.sandbox.alpaca.markets/sip"),
        ("http://127.0.0.1:8000/", "sip", "127.0.0.1:8000/sip"),
    ],
)
def test_a_lake_remembers_host_and_feed(data_url: str | None, feed: str, told: str) -> None:
    assert Account(KEY, SECRET, data_url=data_url, feed=feed).source == told


def test_alpacas_own_host_spelt_out_is_the_same_source() -> None:
    spelt = Account(KEY, SECRET, data_url="https://data.alpaca.markets")
    assert spelt.source == Account(KEY, SECRET).source


@pytest.mark.parametrize("asked", ["bars", "years"])
def test_the_client_is_imported_before_threads_use_it(asked: str) -> None:
    program = (
        "import sys; from datalake_assets.sources.alpaca import Account, AlpacaSource\n"
        f"AlpacaSource(Account('key', 'secret')).{asked}()\n"
        "print('alpaca.data.historical' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False
    )

    assert result.stdout == "True\n", result.stderr
