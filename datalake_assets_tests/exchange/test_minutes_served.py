"""Requests for minutes and hours: bounds, pages, lengths, adjustment and mistakes."""

import base64
import json
from bisect import bisect_left
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from datalake_assets import market_calendar
from datalake_assets.exchange.errata import Errata, Erratum, read_errata
from datalake_assets.exchange.events import Kind
from datalake_assets.exchange.faults import Fault, FaultScript, Rule
from datalake_assets.exchange.market import DOLLAR, is_ticker
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets_tests.exchange.calling import BARS, NOW, call, frozen, rows, walk
from datalake_assets_tests.exchange.test_openapi import problems, specification

MARKET = SyntheticMarket(active=300, inactive=100)
EXCHANGE = frozen(MARKET)
DAY = date(2024, 1, 3)
AT = MARKET.sessions.index(DAY)
SYMBOLS = sorted(row["symbol"] for row in MARKET.assets() if is_ticker(row["symbol"]))
DAYS = MARKET.bars(SYMBOLS, AT, AT + 1)
BY_TRADES = sorted(range(len(DAYS)), key=lambda row: -int(DAYS.trade_count[row]))
LIQUID = sorted(DAYS.symbols[DAYS.symbol[row]] for row in BY_TRADES[:20])
THIN = DAYS.symbols[DAYS.symbol[BY_TRADES[-5]]]

REGULAR = {"start": "2024-01-03T14:30:00Z", "end": "2024-01-03T20:59:59.999Z"}
LIMIT = {"limit": 10_000}

Rows = list[tuple[str, dict[str, Any]]]


def minutes(exchange: Exchange = EXCHANGE, /, **query: Any) -> Rows:
    """All pages of a request for minutes."""
    return rows(walk(exchange, **({"timeframe": "1Min"} | LIMIT | REGULAR | query)))


def full(symbol: str) -> bool:
    return len(minutes(symbols=symbol)) == 390


A, B, C = [symbol for symbol in LIQUID if full(symbol)][:3]


def bar_of(symbol: str, day: date = DAY, exchange: Exchange = EXCHANGE, **query: Any) -> Any:
    """Its daily bar."""
    (bar,) = call(exchange, symbols=symbol, start=day, end=day, **query).json()["bars"][symbol]
    return bar


# Bounds


@pytest.mark.parametrize(
    ("end", "count"),
    [
        ("2024-01-03T21:00:00Z", 391),
        ("2024-01-03T20:59:59.999Z", 390),
        ("2024-01-03T20:59:00Z", 390),
        ("2024-01-03T20:58:59.999999999Z", 389),
    ],
)
def test_both_bounds_are_inclusive(end, count):
    found = minutes(symbols=A, end=end)
    assert len(found) == count
    assert found[0][1]["t"] == "2024-01-03T14:30:00Z"
    later = minutes(symbols=A, start="2024-01-03T14:30:00.000000001Z", end=end)
    assert later == found[1:]


def test_minutes_are_what_the_truth_says():
    table = MARKET.truth().minutes([A, THIN], DAY).to_pylist()
    served = [
        {
            "symbol": symbol,
            "session": DAY,
            "timestamp": datetime.fromisoformat(bar["t"]),
            "open": bar["o"],
            "high": bar["h"],
            "low": bar["l"],
            "close": bar["c"],
            "vwap": bar["vw"],
            "volume": bar["v"],
            "trade_count": bar["n"],
        }
        for symbol, bar in minutes(symbols=f"{A},{THIN}")
    ]
    assert served == table
    assert len({row["symbol"] for row in table}) == 2


def test_the_sums_of_a_day_are_its_bar():
    for symbol in (A, B, THIN):
        bars = [bar for _, bar in minutes(symbols=symbol, start=DAY, end="2024-01-04T01:00:00Z")]
        inner = [bar for _, bar in minutes(symbols=symbol)]
        day = bar_of(symbol)
        assert sum(bar["v"] for bar in bars) == day["v"]
        assert sum(bar["n"] for bar in bars) == day["n"]
        assert sum(bar["v"] * bar["vw"] for bar in bars) / day["v"] == pytest.approx(
            day["vw"], abs=1e-6
        )
        assert (inner[0]["o"], inner[-1]["c"]) == (day["o"], day["c"])
        assert max(bar["h"] for bar in bars) == max(bar["h"] for bar in inner) == day["h"]
        assert min(bar["l"] for bar in bars) == min(bar["l"] for bar in inner) == day["l"]
        assert 0.95 <= sum(bar["v"] for bar in inner) / day["v"] <= 1.05


def test_a_range_of_dates_brings_extended_hours_which_are_most_of_what_is_left():
    whole = minutes(symbols=A, start="2024-01-03", end="2024-01-05")
    clock = [
        datetime.fromisoformat(bar["t"]).astimezone(ZoneInfo("America/New_York")).time()
        for _, bar in whole
    ]
    assert min(clock) < time(4, 30)
    assert max(clock) > time(19, 30)
    inner = sum(time(9, 30) <= at < time(16) for at in clock)
    assert inner == 2 * 390
    assert 2 < len(whole) / inner <= 960 / 390


def test_trading_until_eight_in_winter_ends_on_the_next_day_in_utc():
    late = minutes(symbols=A, start="2024-01-04T00:00:00Z", end="2024-01-04T08:59:00Z")
    assert [bar["t"][:13] for _, bar in late] == ["2024-01-04T00"] * len(late)
    assert len(late) > 40


def test_a_half_day_has_210_minutes_and_no_session_none():
    friday = minutes(symbols=A, start="2023-11-24T14:30:00Z", end="2023-11-24T20:59:00Z")
    assert friday[-1][1]["t"] > "2023-11-24T21" or len(friday) > 210, "extended hours follow"
    inner = [bar for _, bar in friday if bar["t"] < "2023-11-24T18:00"]
    assert len(inner) <= 210
    assert inner[-1]["c"] == bar_of(A, date(2023, 11, 24))["c"]
    assert minutes(symbols=A, start="2023-11-23", end="2023-11-24T08:59:00Z") == []


def test_a_symbol_without_a_bar_that_day_has_no_minute():
    traded = {symbol for symbol, _ in minutes(symbols=",".join(SYMBOLS))}
    assert traded == {DAYS.symbols[at] for at in DAYS.symbol}
    assert len(traded) < len(SYMBOLS)


# Pages


@pytest.mark.parametrize("sort", ["asc", "desc"])
@pytest.mark.parametrize("timeframe", ["1Min", "5Min", "1Hour"])
def test_pages_of_any_size_hold_the_same_bars_and_only_the_last_has_no_token(sort, timeframe):
    query = {"symbols": f"{C},{A},{THIN},{B}", "start": "2024-01-02T20:30:00Z"}
    query |= {"end": "2024-01-04T15:10:00Z", "timeframe": timeframe, "sort": sort}
    everything = minutes(**query)
    assert len(everything) < 10_000
    assert [symbol for symbol, _ in everything] == sorted(symbol for symbol, _ in everything)
    for symbol in (A, B, C, THIN):
        stamps = [bar["t"] for name, bar in everything if name == symbol]
        assert stamps == sorted(set(stamps), reverse=sort == "desc")
    for limit in (37, len(everything) - 1, len(everything)):
        pages = list(walk(EXCHANGE, **(REGULAR | query | {"limit": limit})))
        assert rows(iter(pages)) == everything
        assert [len(rows(iter([page]))) for page in pages[:-1]] == [limit] * (len(pages) - 1)


def test_a_token_names_the_next_minute_as_alpacas_does():
    query = {"symbols": A, "limit": 5, "timeframe": "1Min"} | REGULAR
    token = call(EXCHANGE, **query).json()["next_page_token"]
    name, unit, at = base64.b64decode(token).decode().split("|")
    assert (name, unit) == (A, "M")
    assert int(at) == int(datetime(2024, 1, 3, 14, 35, tzinfo=UTC).timestamp()) * 10**9
    refused = call(EXCHANGE, symbols=A, start=DAY, end=DAY, page_token=token)
    assert (refused.status, refused.message) == (400, f"invalid page_token: {token}")


def test_many_thin_symbols_share_a_page():
    thin = ",".join(DAYS.symbols[DAYS.symbol[row]] for row in BY_TRADES[180:])
    page = call(EXCHANGE, symbols=thin, timeframe="1Min", **REGULAR, **LIMIT).json()
    assert page["next_page_token"] is None
    assert len(page["bars"]) > 50


@pytest.mark.parametrize("kind", ["repeated_bar", "overlapping_page", "empty_page"])
def test_pages_of_minutes_have_the_same_faults(kind):
    exchange = frozen(MARKET, faults=FaultScript([Rule(Fault(kind=kind), path=BARS)]))
    found = rows(walk(exchange, symbols=A, timeframe="1Min", limit=100, **REGULAR))
    true = minutes(symbols=A)
    assert [each for at, each in enumerate(found) if each not in found[:at]] == true
    assert len(found) == len(true) + (kind != "empty_page")


def test_an_odd_time_of_a_minute_is_half_a_minute_late():
    exchange = frozen(MARKET, faults=FaultScript([Rule(Fault(kind="odd_time"), path=BARS)]))
    found, true = minutes(exchange, symbols=A), minutes(symbols=A)
    assert found[0][1] == true[0][1] | {"t": "2024-01-03T14:30:30Z"}
    assert found[1:] == true[1:]


# Lengths


@pytest.mark.parametrize(
    ("timeframe", "every"),
    [("1T", 1), ("5Min", 5), ("59Min", 59), ("30T", 30), ("1Hour", 60), ("4H", 240)],
)
def test_a_longer_bar_is_made_of_the_minutes_from_its_beginning(timeframe, every):
    span = {"symbols": f"{A},{THIN}", "start": DAY, "end": "2024-01-04T01:00:00Z"}
    made = minutes(**span, timeframe=timeframe)
    found: dict[tuple[str, int], list[Any]] = {}
    for symbol, bar in minutes(**span):
        clock = datetime.fromisoformat(bar["t"]) - datetime(2024, 1, 3, 5, tzinfo=UTC)
        found.setdefault((symbol, clock // timedelta(minutes=every)), []).append(bar)
    assert len(made) == len(found)
    for (symbol, bar), ((name, at), of) in zip(made, found.items(), strict=True):
        begin = datetime(2024, 1, 3, 5, tzinfo=UTC) + at * timedelta(minutes=every)
        assert (symbol, bar["t"]) == (name, begin.strftime("%Y-%m-%dT%H:%M:%SZ"))
        assert (bar["o"], bar["c"]) == (of[0]["o"], of[-1]["c"])
        assert (bar["h"], bar["l"]) == (max(b["h"] for b in of), min(b["l"] for b in of))
        assert (bar["v"], bar["n"]) == (sum(b["v"] for b in of), sum(b["n"] for b in of))
        average = sum(b["vw"] * b["v"] for b in of) / bar["v"]
        assert bar["vw"] == pytest.approx(average, abs=1e-6)


def test_bars_of_an_hour_begin_on_the_hour():
    hours = [bar["t"] for _, bar in minutes(symbols=A, timeframe="1Hour")]
    assert hours == [f"2024-01-03T{hour}:00:00Z" for hour in range(15, 21)], "14:00 is before 14:30"


@pytest.mark.parametrize("timeframe", ["0Min", "60Min", "24Hour", "1Minute", "1Week", "Min"])
def test_other_lengths_are_refused(timeframe):
    answer = call(EXCHANGE, symbols=A, timeframe=timeframe, **REGULAR)
    assert (answer.status, answer.message.split(":")[0]) == (400, "invalid timeframe")


# What is not over yet


def test_minutes_appear_with_the_sessions_bar_and_later_ones_when_they_are_over():
    close = market_calendar.session_close(DAY)

    def last(now: datetime, **query: Any) -> str:
        exchange = frozen(MARKET, clock=lambda: now)
        end = query.pop("end", (now - timedelta(minutes=15)).strftime("%Y-%m-%dT%H:%M:%SZ"))
        found = minutes(exchange, symbols=A, start=DAY, end=end, **query)
        return str(found[-1][1]["t"]) if found else ""

    assert last(close + timedelta(minutes=14, seconds=59)) == ""
    assert last(close + timedelta(minutes=15)) == "2024-01-03T21:00:00Z"
    assert last(close + timedelta(minutes=75)) == "2024-01-03T22:00:00Z"
    half_past = close + timedelta(minutes=30)
    far = {"end": "2024-01-04T12:00:00Z", "feed": "iex"}  # which has no rule of 15 minutes
    assert last(half_past, **far) == "2024-01-03T21:29:00Z"
    assert last(half_past, **far, timeframe="15Min") == "2024-01-03T21:15:00Z"


def test_a_day_that_stayed_closed_after_all_has_no_minute():
    exchange = frozen(MARKET, closures=[DAY])
    assert minutes(exchange, symbols=A) == []


# Adjusted


def test_minutes_are_adjusted_as_their_day_is():
    truth = MARKET.truth()
    split = next(
        action
        for action in truth.actions(date(2018, 1, 1), date(2024, 1, 1), [Kind.FORWARD_SPLIT])
        if prints_around(action.row["symbol"], action.counts)
    )
    day, symbol = MARKET.sessions[before(split.counts)], split.row["symbol"]
    span = {
        "symbols": symbol,
        "start": f"{market_calendar.session_open(day):%Y-%m-%dT%H:%M:%SZ}",
        "end": f"{split.counts}T12:00:00Z",
    }
    days = [day, split.counts]
    more = {
        each: bar_of(symbol, each, adjustment="split")["v"] / bar_of(symbol, each)["v"]
        for each in days
    }
    assert more[day] > 1.4 * more[split.counts]
    for sort in ("asc", "desc"):
        raw = minutes(**span, sort=sort)
        adjusted = minutes(**span, sort=sort, adjustment="split")
        assert len(raw) == len(adjusted) > 0
        for (_, one), (_, other) in zip(raw, adjusted, strict=True):
            factor = more[day if one["t"] < f"{split.counts}T05" else split.counts]
            assert other["c"] == pytest.approx(one["c"] / factor, abs=0.0051)
            assert other["v"] == pytest.approx(one["v"] * factor, abs=1)
            assert other["t"] == one["t"]


def prints_around(symbol: str, day: date) -> bool:
    """Whether it has bars on the session before and on the day, and trades before its opening."""
    at = before(day)
    bars = MARKET.bars([symbol], at, at + 2)
    return len(bars) == 2 and bars.trade_count.min() > 20_000


def before(day: date) -> int:
    return bisect_left(MARKET.sessions, day) - 1


def test_of_a_mapping_a_renamed_company_has_the_minutes_of_its_earlier_ticker():
    holdings = MARKET.truth().holdings
    renamed = {each.security for each in holdings if each.last is not None}
    held = next(
        each
        for each in holdings
        if each.first > date(2018, 1, 1) and each.last is None and each.security in renamed
    )
    day = MARKET.sessions[before(held.first) - 5]
    old = MARKET.truth().ticker(held.security, day)
    span = {
        "start": f"{market_calendar.session_open(day):%Y-%m-%dT%H:%M:%SZ}",
        "end": f"{market_calendar.session_close(day):%Y-%m-%dT%H:%M:%SZ}",
    }
    today = minutes(symbols=held.ticker, **span, asof=None)
    then = minutes(symbols=old, **span)
    assert [bar for _, bar in today] == [bar for _, bar in then]
    assert {symbol for symbol, _ in today} <= {held.ticker}
    assert then


# Mistakes


def mistaken(mistake: str, symbol: str = A, now: datetime = NOW, **more: Any) -> Exchange:
    erratum = Erratum(mistake=mistake, symbol=symbol, day=DAY, **more)  # type: ignore[arg-type]
    return frozen(MARKET, errata=Errata([erratum]), clock=lambda: now)


def test_a_handful_of_minutes_is_left_of_a_session_until_it_is_filled_in():
    at = datetime(2024, 2, 1, 12, tzinfo=UTC)
    two = {"symbols": f"{A},{B}"}
    wrong = minutes(mistaken("few_minutes", at=at, now=at - timedelta(seconds=1)), **two)
    true = minutes(**two)
    assert wrong == true[:5] + true[390:]
    assert minutes(mistaken("few_minutes", at=at, now=at), **two) == true
    assert minutes(mistaken("few_minutes"), **two) == wrong, "never filled in"
    assert bar_of(A, exchange=mistaken("few_minutes")) == bar_of(A)


def test_what_is_left_of_a_session_does_not_depend_on_the_range_that_is_asked_for():
    wide = {"symbols": f"{A},{B}", "start": "2024-01-02", "end": "2024-01-03T14:32:00Z"}
    assert minutes(mistaken("few_minutes"), **wide) == [
        (symbol, bar)
        for symbol, bar in minutes(**wide)
        if symbol == B or not "2024-01-03T05" < bar["t"] < "2024-01-03T14:30"
    ]


@pytest.mark.parametrize("symbol", [A, "*"])
def test_an_hour_is_missing_of_one_symbol_or_of_all(symbol):
    span = {"symbols": ",".join(LIQUID), "end": "2024-01-04T20:59:00Z"}
    exchange = mistaken("missing_hour", symbol, hour=14)
    expected = [
        (name, bar)
        for name, bar in minutes(**span)
        if symbol not in (name, "*") or not bar["t"].startswith("2024-01-03T19:")
    ]
    assert minutes(exchange, **span) == expected
    assert len(minutes(**span)) - len(expected) >= (60 if symbol == A else 900)
    hours = minutes(exchange, symbols=A, timeframe="1Hour")
    assert "2024-01-03T19:00:00Z" not in [bar["t"] for _, bar in hours]


def test_a_cancelled_trade_stands_in_a_minute_and_not_in_the_day():
    wrong, true = minutes(mistaken("cancelled_trade"), symbols=A), minutes(symbols=A)
    different = [(one, other) for one, other in zip(wrong, true, strict=True) if one != other]
    ((_, bar), (_, right)) = different[0]
    day = bar_of(A, exchange=mistaken("cancelled_trade"))
    assert len(different) == 1
    assert right["v"] == max(each["v"] for _, each in true)
    assert bar["v"] - right["v"] == day["v"] // 10 + 1
    assert bar == right | {"v": bar["v"], "n": right["n"] + 1}
    assert day == bar_of(A)


@pytest.mark.parametrize("mistake", ["late_trade", "stray_high"])
def test_the_day_has_what_no_minute_has(mistake):
    exchange = mistaken(mistake)
    assert minutes(exchange, symbols=A) == minutes(symbols=A)
    wrong, true = bar_of(A, exchange=exchange), bar_of(A)
    if mistake == "late_trade":
        assert wrong == true | {"v": wrong["v"], "n": true["n"] + 1}
        assert wrong["v"] == true["v"] + true["v"] // 10 + 1
    else:
        assert wrong == true | {"h": wrong["h"]}
        assert wrong["h"] == pytest.approx(true["h"] * 1.04, abs=0.0101)
        assert wrong["h"] * 100 % 1 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"hour": 3}, "begins in the hours 4"),
        ({"hour": 20}, "begins in the hours 4"),
        ({"symbol": "*", "mistake": "few_minutes"}, "only missing_hour can be of all"),
    ],
)
def test_a_mistake_that_makes_no_sense_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        Erratum(**({"mistake": "missing_hour", "symbol": A, "day": DAY} | more))


def test_mistakes_about_minutes_are_read_as_json():
    text = json.dumps([{"mistake": "missing_hour", "symbol": "*", "day": "2024-01-03", "hour": 9}])
    exchange = frozen(MARKET, errata=read_errata(text))
    assert minutes(exchange, symbols=A)[0][1]["t"] == "2024-01-03T15:00:00Z"


# Alpaca's specification


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (BARS, {"symbols": f"{A},{THIN}", "timeframe": "1Min", "limit": 500}),
        (BARS, {"symbols": A, "timeframe": "1Hour", "currency": "USD"}),
        ("/v2/stocks/{symbol}/bars", {"timeframe": "5Min"}),
    ],
)
def test_a_page_of_minutes_is_as_specified(path, query):
    specification("data")  # skips here, before anything is asked
    answer = call(EXCHANGE, path.replace("{symbol}", A), **query, **REGULAR)
    assert answer.status == 200
    assert problems("data", path, 200, answer.json()) == []


def test_a_price_is_spelt_as_the_market_has_it():
    at = SYMBOLS.index(A)
    day = MARKET.bars([SYMBOLS[at]], AT, AT + 1)
    assert minutes(symbols=A)[0][1]["o"] == day.open[0] / DOLLAR
