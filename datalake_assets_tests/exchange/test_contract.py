"""Alpaca's own client against the exchange: what it reads is what the market holds."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from alpaca.common.exceptions import APIError
from alpaca.data.enums import DataFeed
from alpaca.data.historical import StockHistoricalDataClient
from alpaca.data.historical.corporate_actions import CorporateActionsClient
from alpaca.data.requests import CorporateActionsRequest, StockBarsRequest
from alpaca.data.timeframe import TimeFrame
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import AssetStatus
from alpaca.trading.requests import GetAssetsRequest, GetCalendarRequest

from datalake_assets import market_calendar
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.market import DOLLAR
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets_tests.exchange.calling import NOW, frozen

MARKET = SyntheticMarket(active=300, inactive=100)


@pytest.fixture(scope="module")
def server() -> Iterator[ExchangeServer]:
    with ExchangeServer(frozen(MARKET, keys=("key", "secret"))) as running:
        yield running


@pytest.fixture
def data(server: ExchangeServer) -> Iterator[StockHistoricalDataClient]:
    client = StockHistoricalDataClient("key", "secret", url_override=server.url)
    yield client
    client._session.close()


@pytest.fixture
def trading(server: ExchangeServer) -> Iterator[TradingClient]:
    client = TradingClient("key", "secret", url_override=server.url)
    yield client
    client._session.close()


def request(symbols: list[str], **more: object) -> StockBarsRequest:
    return StockBarsRequest(
        symbol_or_symbols=symbols,
        timeframe=TimeFrame.Day,
        start=datetime(2020, 1, 1, tzinfo=UTC),
        end=datetime(2024, 12, 31, 23, 59, 59, tzinfo=UTC),
        feed=DataFeed.SIP,
        asof="-",
        **more,
    )


def test_the_frame_of_many_pages_is_the_markets_bars(server, data):
    symbols = sorted(row["symbol"] for row in MARKET.assets() if row["status"] == "active")[:30]
    frame = data.get_stock_bars(request(symbols)).df
    first = MARKET.sessions.index(date(2020, 1, 2))
    bars = MARKET.bars(symbols, first, MARKET.sessions.index(date(2024, 12, 31)) + 1)
    assert len(server.exchange.requests) == -(-len(bars) // 10_000) > 2
    assert list(frame.index.get_level_values("symbol")) == [symbols[i] for i in bars.symbol]
    stamps = frame.index.get_level_values("timestamp").tz_convert("America/New_York")
    assert list(stamps.date) == [MARKET.sessions[i] for i in bars.session]
    assert {str(stamp.time()) for stamp in stamps} == {"00:00:00"}
    for name in ("open", "high", "low", "close", "vwap"):
        assert np.array_equal(frame[name].to_numpy(), getattr(bars, name) / DOLLAR)
    for name in ("volume", "trade_count"):
        assert np.array_equal(frame[name].to_numpy(), getattr(bars, name))


def test_the_frame_of_minutes_is_what_the_truth_says(server, data):
    server.exchange.requests.clear()
    day = date(2024, 1, 3)
    at = MARKET.sessions.index(day)
    days = MARKET.bars(sorted(row["symbol"] for row in MARKET.assets()), at, at + 1)
    symbols = [days.symbols[place] for place in days.symbol[:60]]
    asked = request(symbols).model_copy(
        update={
            "timeframe": TimeFrame.Minute,
            "start": market_calendar.session_open(day),
            "end": market_calendar.session_close(day) - timedelta(milliseconds=1),
        }
    )
    frame = data.get_stock_bars(asked).df.reset_index()
    true = MARKET.truth().minutes(symbols, day)
    assert len(server.exchange.requests) == -(-true.num_rows // 10_000) > 1
    for name in true.column_names:
        if name != "session":
            assert frame[name].tolist() == true[name].to_pylist()
    hours = data.get_stock_bars(asked.model_copy(update={"timeframe": TimeFrame.Hour})).df
    assert hours["volume"].sum() < frame["volume"].sum(), "09:00 begins before 09:30"
    assert set(hours.reset_index()["timestamp"].dt.minute) == {0}


def test_a_limit_is_filled_over_pages(data):
    symbols = [row["symbol"] for row in MARKET.assets()[:40]]
    symbols = [symbol for symbol in symbols if symbol.isalpha() and len(symbol) < 7]
    bars = data.get_stock_bars(request(symbols, limit=11_000)).data
    assert sum(map(len, bars.values())) == 11_000


def test_the_assets_parse_and_are_the_markets(trading):
    assets = trading.get_all_assets(GetAssetsRequest(status=AssetStatus.INACTIVE))
    assert [asset.symbol for asset in assets] == [
        row["symbol"] for row in MARKET.assets(NOW.date()) if row["status"] == "inactive"
    ]
    assert len(trading.get_all_assets()) == len(MARKET.assets(NOW.date()))


def test_the_calendar_and_the_clock_parse(trading):
    days = trading.get_calendar(GetCalendarRequest(start=date(2025, 11, 26), end=date(2025, 12, 1)))
    assert [day.date for day in days] == [date(2025, 11, 26), date(2025, 11, 28), date(2025, 12, 1)]
    assert [day.close.hour for day in days] == [16, 13, 16]
    clock = trading.get_clock()
    assert clock.timestamp == NOW
    assert clock.is_open


def test_the_corporate_actions_parse(server):
    client = CorporateActionsClient("key", "secret", url_override=server.url)
    span = {"start": date(2024, 1, 1), "end": date(2024, 12, 31)}
    actions = client.get_corporate_actions(CorporateActionsRequest(**span)).data
    client._session.close()
    true = Counter(
        action.kind.plural
        for action in MARKET.truth().actions(date(2023, 6, 1), span["end"])
        if span["start"] <= action.process <= span["end"]
        # Its client drops these two lists.
        and action.kind not in (Kind.PARTIAL_CALL, Kind.REORGANIZATION)
    )
    assert {kind: len(rows) for kind, rows in actions.items()} == dict(true)
    assert true["cash_dividends"] > 400
    assert len(true) > 6


def test_its_errors_carry_the_status_and_alpacas_message(server, data):
    with pytest.raises(APIError) as error:
        data.get_stock_bars(request(["AAA", "BRK-B"]))
    assert (error.value.status_code, error.value.message) == (400, "invalid symbol: BRK-B")
    stranger = StockHistoricalDataClient("key", "wrong", url_override=server.url)
    with pytest.raises(APIError) as error:
        stranger.get_stock_bars(request(["AAA"]))
    stranger._session.close()
    assert error.value.status_code == 401
