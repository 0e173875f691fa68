import gzip
import json
import math
import time
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets_tests.exchange.calling import BARS, KEYS, NOW, Answer, call, frozen, rows, walk

MARKET = SyntheticMarket()
EXCHANGE = frozen(MARKET)
ACTIVE = sorted(row["symbol"] for row in MARKET.assets() if row["status"] == "active")


def prints(symbol: str, first: int, stop: int) -> bool:
    """Whether there is a bar of it in each session."""
    return len(MARKET.bars([symbol], first, stop)) == stop - first


SEEN = MARKET.visible(NOW)
# They print every day under the same ticker, at the beginning, in January 2024, and now.
SPANS = ((0, 100), (3_260, 3_300), (SEEN - 5, SEEN + 1))
OLD = [s for s in ACTIVE[:2_000] if all(prints(s, *span) for span in SPANS)][:20]
A, B, C = OLD[:3]
WINTER = {"start": "2024-01-02T05:00:00Z", "end": "2024-01-05T05:00:00Z"}  # four sessions


def stamps(answer: Answer, symbol: str) -> list[str]:
    return [bar["t"] for bar in answer.json()["bars"].get(symbol, [])]


# Bars


def test_bars_come_by_symbol_in_alphabetical_order_whatever_the_request_says():
    page = call(EXCHANGE, symbols=f"{C},{A},{B},{A}", **WINTER).json()
    assert list(page["bars"]) == [A, B, C]
    assert [len(bars) for bars in page["bars"].values()] == [4, 4, 4]
    assert list(page) == ["bars", "next_page_token"]


def test_a_bar_has_its_eight_keys_in_order_and_the_body_is_compact():
    answer = call(EXCHANGE, symbols=A, **WINTER)
    assert list(answer.json()["bars"][A][0]) == ["c", "h", "l", "n", "o", "t", "v", "vw"]
    assert b" " not in answer.body
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


def test_a_daily_bar_is_stamped_with_new_yorks_midnight():
    winter = call(EXCHANGE, symbols=A, start="2024-03-08", end="2024-03-11")
    assert stamps(winter, A) == ["2024-03-08T05:00:00Z", "2024-03-11T04:00:00Z"]


@pytest.mark.parametrize(
    ("start", "end", "days"),
    [
        ("2024-01-02T05:00:00Z", "2024-01-05T05:00:00Z", [2, 3, 4, 5]),
        ("2024-01-02T05:00:00.000000001Z", "2024-01-05T05:00:00Z", [3, 4, 5]),
        ("2024-01-02T04:59:59.999999999Z", "2024-01-05T05:00:00Z", [2, 3, 4, 5]),
        ("2024-01-02T05:00:00Z", "2024-01-05T04:59:59.999999999Z", [2, 3, 4]),
        ("2024-01-02T05:00:00Z", "2024-01-05T00:00:00+00:00", [2, 3, 4]),  # a bare date's trap
        ("2024-01-02", "2024-01-05", [2, 3, 4, 5]),
        ("2024-01-05", "2024-01-05", [5]),
    ],
)
def test_both_bounds_are_inclusive(start, end, days):
    answer = call(EXCHANGE, symbols=A, start=start, end=end)
    assert stamps(answer, A) == [f"2024-01-{day:02d}T05:00:00Z" for day in days]


def test_a_symbol_without_bars_has_no_key_and_nothing_at_all_is_an_empty_object():
    mixed = call(EXCHANGE, symbols=f"NOSUCH,{A}", **WINTER)
    assert list(mixed.json()["bars"]) == [A]
    nothing = call(EXCHANGE, symbols="NOSUCH", **WINTER)
    assert (nothing.status, nothing.body) == (200, b'{"bars":{},"next_page_token":null}')
    weekend = call(EXCHANGE, symbols=A, start="2024-01-06", end="2024-01-07")
    assert weekend.body == nothing.body
    before_history = call(EXCHANGE, symbols=A, start="1990-01-01", end="1990-12-31")
    assert (before_history.status, before_history.body) == (200, nothing.body)


def test_symbols_straddle_pages_and_the_token_names_the_next_bar():
    pages = list(walk(EXCHANGE, symbols=f"{A},{B},{C}", limit=5, **WINTER))
    assert [[(s, len(b)) for s, b in page["bars"].items()] for page in pages] == [
        [(A, 4), (B, 1)],
        [(B, 3), (C, 2)],
        [(C, 2)],
    ]
    assert pages[0]["next_page_token"] is not None
    assert pages[2]["next_page_token"] is None


def test_a_last_page_that_is_exactly_full_has_no_token():
    assert call(EXCHANGE, symbols=f"{A},{B}", limit=8, **WINTER).json()["next_page_token"] is None
    assert call(EXCHANGE, symbols=f"{A},{B}", limit=7, **WINTER).json()["next_page_token"]
    full = call(EXCHANGE, symbols=f"{A},NOSUCH", limit=4, **WINTER).json()
    assert full["next_page_token"] is None


def test_a_page_holds_a_thousand_bars_unless_asked_otherwise():
    span = {"start": "2011-01-03", "end": "2016-12-31"}
    assert len(call(EXCHANGE, symbols=A, **span).json()["bars"][A]) == 1_000
    assert len(call(EXCHANGE, symbols=A, limit=1_200, **span).json()["bars"][A]) == 1_200


@pytest.mark.parametrize(
    ("limit", "status"), [("0", 400), ("1", 200), ("10000", 200), ("10001", 400), ("x", 400)]
)
def test_a_limit_is_one_to_ten_thousand(limit, status):
    assert call(EXCHANGE, symbols=A, limit=limit, **WINTER).status == status


def test_descending_order_turns_the_time_around():
    down = call(EXCHANGE, symbols=f"{A},{B}", sort="desc", **WINTER).json()["bars"]
    up = call(EXCHANGE, symbols=f"{A},{B}", sort="asc", **WINTER).json()["bars"]
    assert down == {symbol: bars[::-1] for symbol, bars in up.items()}
    assert list(down) == [A, B]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(ACTIVE[::40] + OLD), min_size=1, max_size=8, unique=True),
    st.integers(1, 40),
    st.sampled_from(["asc", "desc"]),
    st.dates(date(2011, 1, 3), date(2026, 8, 1)),
    st.integers(0, 30),
)
def test_every_walk_over_pages_gives_the_same_bars(symbols, limit, sort, start, days):
    query = {"start": start, "end": start + timedelta(days=days)}
    whole = rows(walk(EXCHANGE, symbols=",".join(symbols), limit=10_000, **query))
    paged = rows(walk(EXCHANGE, symbols=",".join(symbols), limit=limit, sort=sort, **query))
    assert len(paged) == len(whole)
    assert sorted(paged, key=lambda row: (row[0], row[1]["t"])) == whole
    if sort == "asc":
        assert paged == whole


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 30))
def test_every_way_to_cut_a_request_into_chunks_gives_the_same_bars(width, days):
    end = date(2024, 3, 1)
    symbols = ACTIVE[100:120]
    sessions = market_calendar.sessions(end - timedelta(days=30), end)
    whole = rows(walk(EXCHANGE, symbols=",".join(symbols), start=sessions[0], end=end))
    chunks = [
        row
        for at in range(0, len(symbols), width)
        for begin in range(0, len(sessions), days)
        for row in rows(
            walk(
                EXCHANGE,
                symbols=",".join(symbols[at : at + width]),
                start=sessions[begin],
                end=sessions[min(begin + days, len(sessions)) - 1],
            )
        )
    ]
    assert sorted(chunks, key=lambda row: (row[0], row[1]["t"])) == whole


def test_the_endpoint_of_one_symbol_gives_a_list():
    one = call(EXCHANGE, f"/v2/stocks/{A}/bars", limit=3, **WINTER).json()
    assert list(one) == ["bars", "symbol", "next_page_token"]
    assert one["symbol"] == A
    rest = call(
        EXCHANGE, f"/v2/stocks/{A}/bars", page_token=one["next_page_token"], **WINTER
    ).json()
    both = call(EXCHANGE, symbols=A, **WINTER).json()["bars"][A]
    assert one["bars"] + rest["bars"] == both
    none = call(EXCHANGE, "/v2/stocks/NOSUCH/bars", **WINTER).json()
    assert none == {"bars": [], "symbol": "NOSUCH", "next_page_token": None}
    assert call(EXCHANGE, "/v2/stocks/BRK-B/bars", **WINTER).status == 400


def test_the_currency_is_named_only_when_it_was_asked_for():
    assert "currency" not in call(EXCHANGE, symbols=A, **WINTER).json()
    assert call(EXCHANGE, symbols=A, currency="USD", **WINTER).json()["currency"] == "USD"


# Refusals


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            {"symbols": None},
            "Invalid format for parameter symbols: query parameter 'symbols' is required",
        ),
        ({"timeframe": "3Fortnight"}, "invalid timeframe: 3Fortnight"),
        ({"timeframe": None}, "invalid timeframe: "),
        (
            {"timeframe": "1Week"},
            "invalid timeframe: 1Week: this exchange serves minutes, hours, 1Day and 12Month",
        ),
        (
            {"start": "not-a-date"},
            "Invalid format for parameter start: error parsing 'not-a-date' as RFC3339",
        ),
        ({"start": "2024-02-01", "end": "2024-01-01"}, "end should not be before start"),
        ({"adjustment": "splits"}, "invalid adjustment: splits"),
        ({"adjustment": "raw,split"}, "invalid adjustment: raw,split"),
        ({"feed": "otc"}, "invalid feed: otc: this exchange serves sip and iex only"),
        ({"sort": "up"}, "invalid sort: up: this exchange serves asc and desc only"),
        ({"currency": "EUR"}, "invalid currency: EUR: this exchange serves USD only"),
        ({"page_token": "nonsense"}, "invalid page_token: nonsense"),
        ({"asof": "never"}, "Invalid format for parameter asof: error parsing 'never'"),
    ],
)
def test_a_wrong_parameter_is_refused_and_named(query, message):
    answer = call(EXCHANGE, **({"symbols": A} | WINTER | query))
    assert answer.status == 400
    assert answer.message.startswith(message)
    assert list(answer.json()) == ["message"]


@pytest.mark.parametrize(
    "symbol",
    ["0029900E0", "ATC.220816", "BRK-B", "TAOP:NASDAQ", "ZVZZTNX", "CONTRARX", "aapl", "", "A B"],
)
def test_one_malformed_symbol_costs_the_whole_batch_and_is_named(symbol):
    answer = call(EXCHANGE, symbols=f"{A},{symbol},{B},BAD-TOO", **WINTER)
    assert (answer.status, answer.message) == (400, f"invalid symbol: {symbol}")


@pytest.mark.parametrize("asof", ["2024-01-02", "-"])
def test_a_day_of_naming_is_accepted_and_changes_nothing(asof):
    assert call(EXCHANGE, symbols=A, asof=asof, **WINTER) == call(EXCHANGE, symbols=A, **WINTER)


@pytest.mark.parametrize(
    ("ago", "status"), [(timedelta(minutes=15, microseconds=-1), 403), (timedelta(minutes=15), 200)]
)
def test_the_last_fifteen_minutes_are_not_served(ago, status):
    end = (NOW - ago).isoformat()
    answer = call(EXCHANGE, symbols=A, start="2026-09-01", end=end)
    assert answer.status == status
    if status == 403:
        assert answer.body == (
            b'{"message":"subscription does not permit querying recent SIP data"}'
        )


def test_without_an_end_it_is_fifteen_minutes_ago_and_without_a_start_today():
    answer = call(EXCHANGE, symbols=A, start="2026-09-01")
    assert stamps(answer, A) == ["2026-09-01T04:00:00Z", "2026-09-02T04:00:00Z"]
    assert call(EXCHANGE, symbols=A).json()["bars"] == {}, "today's session has not closed"
    evening = frozen(MARKET, clock=lambda: datetime(2026, 9, 3, 20, 15, tzinfo=UTC))
    assert stamps(call(evening, symbols=A), A) == ["2026-09-03T04:00:00Z"]
    midnight = frozen(MARKET, clock=lambda: datetime(2026, 9, 4, 4, 5, tzinfo=UTC))
    assert call(midnight, symbols=A).status == 200


@pytest.mark.parametrize("missing", [*KEYS, None])
def test_a_data_request_without_keys_gets_the_gateways_page(missing):
    headers = {} if missing is None else {k: v for k, v in KEYS.items() if k != missing}
    answer = call(EXCHANGE, BARS, headers, symbols=A)
    assert answer.status == 401
    assert answer.headers["content-type"] == "text/html"
    assert answer.body.startswith(b"<html>\r\n<head><title>401 Authorization Required</title>")


def test_a_pair_of_keys_can_be_required():
    exchange = frozen(MARKET, keys=("key", "secret"))
    assert call(exchange, symbols=A, **WINTER).status == 200
    wrong = KEYS | {"APCA-API-SECRET-KEY": "guess"}
    assert call(exchange, BARS, wrong, symbols=A, **WINTER).status == 401
    trading = call(exchange, "/v2/clock", wrong)
    assert (trading.status, trading.body) == (401, b'{"message": "unauthorized."}')


def test_what_is_not_served_is_said():
    assert call(EXCHANGE, "/v2/stocks/trades").status == 404
    assert call(EXCHANGE, "/v2/orders").status == 404
    assert call(EXCHANGE, BARS, KEYS, "POST", symbols=A, **WINTER).status == 405


# The rate limit


class Ticking:
    """A monotonic clock that is moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def served(exchange: Exchange, path: str = "/v2/stocks/A/bars") -> bool:
    answer = call(exchange, path, **WINTER)
    if answer.status == 429:
        assert answer.body == b'{"message": "too many requests."}'
        assert not [name for name in answer.headers if "rate" in name or "retry" in name]
    return answer.status != 429


@pytest.mark.parametrize("per_minute", [1, 6, 200])
def test_the_limit_is_a_bucket_that_refills_evenly(per_minute):
    clock = Ticking()
    exchange = frozen(MARKET, requests_per_minute=per_minute, monotonic=clock)
    assert [served(exchange) for _ in range(per_minute + 3)] == [True] * per_minute + [False] * 3
    clock.now += 60 / per_minute - 1e-6
    assert not served(exchange)
    clock.now += 2e-6
    assert served(exchange)
    assert not served(exchange)
    clock.now += 3_600
    assert [served(exchange) for _ in range(per_minute + 1)] == [True] * per_minute + [False]


def test_the_data_and_the_trading_api_have_their_own_limits():
    exchange = frozen(MARKET, requests_per_minute=2, trading_requests_per_minute=1)
    assert [served(exchange) for _ in range(3)] == [True, True, False]
    assert [served(exchange, "/v2/clock") for _ in range(2)] == [True, False]
    assert not served(exchange, "/v1/corporate-actions")


@pytest.mark.parametrize("limit", [None, 0])
def test_without_a_limit_there_are_neither_refusals_nor_headers(limit):
    exchange = frozen(MARKET, requests_per_minute=limit)
    assert all(served(exchange) for _ in range(300))
    assert "x-ratelimit-limit" not in call(exchange, symbols=A, **WINTER).headers


def test_an_answer_tells_what_is_left_of_the_limit():
    exchange = frozen(MARKET, requests_per_minute=60)
    answers = [call(exchange, symbols=A, **WINTER), call(exchange, symbols="BRK-B", **WINTER)]
    assert [answer.status for answer in answers] == [200, 400]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["59", "58"]
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"60"}
    assert int(answers[1].headers["x-ratelimit-reset"]) == math.ceil(NOW.timestamp()) + 2


# What surrounds an answer


def test_gzip_is_spoken_when_the_client_does():
    query = {"symbols": ",".join(OLD), **WINTER}
    plain = call(EXCHANGE, **query)
    packed = call(EXCHANGE, BARS, KEYS | {"Accept-Encoding": "gzip, deflate"}, **query)
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert int(packed.headers["content-length"]) == len(packed.body)


def test_every_answer_names_the_market():
    answers = [call(EXCHANGE, symbols=A, **WINTER), call(EXCHANGE, BARS, {}, symbols=A)]
    answers += [call(EXCHANGE, path) for path in ("/v2/assets", "/v2/nothing")]
    assert {answer.headers["x-exchange-market"] for answer in answers} == {"synthetic/7"}


def test_the_log_tells_every_request_and_how_it_was_answered():
    clock = Ticking()
    exchange = frozen(MARKET, requests_per_minute=1, monotonic=clock)
    call(exchange, symbols=f"{A},{B}", **WINTER)
    clock.now = 101.5
    call(exchange, f"/v2/stocks/{A}/bars", **WINTER)
    call(exchange, "/v2/assets", {})
    log = call(exchange, "/_exchange/requests", {})
    assert log.status == 200
    assert [
        (r["number"], r["arrived"], r["api"], r["path"], r["symbols"], r["status"], r["fault"])
        for r in log.json()
    ] == [
        (1, 100.0, "data", BARS, 2, 200, None),
        (2, 101.5, "data", f"/v2/stocks/{A}/bars", 1, 429, None),
        (3, 101.5, "trading", "/v2/assets", 0, 401, None),
    ]
    assert len(exchange.requests) == 3, "reading the log is not logged"


def test_latency_delays_every_answer_but_not_the_log():
    exchange = frozen(MARKET, latency=0.05, requests_per_minute=1)
    begin = time.monotonic()
    assert [served(exchange) for _ in range(2)] == [True, False]
    assert time.monotonic() - begin >= 0.1
    assert [request.arrived for request in exchange.requests] == [0.0, 0.0]


@pytest.mark.parametrize("option", ["requests_per_minute", "latency"])
def test_a_negative_option_is_refused(option):
    with pytest.raises(ValueError, match=option):
        Exchange(MARKET, **{option: -1})


# Assets, calendar, clock, corporate actions


def test_assets_come_by_class_exchange_and_symbol_with_every_status():
    assets = call(EXCHANGE, "/v2/assets").json()
    assert assets == sorted(assets, key=lambda row: (row["class"], row["exchange"], row["symbol"]))
    assert {row["status"] for row in assets} == {"active", "inactive"}


def test_assets_are_filtered():
    everything = call(EXCHANGE, "/v2/assets").json()
    for query, field in (
        ({"status": "inactive"}, "status"),
        ({"exchange": "NYSE"}, "exchange"),
    ):
        some = call(EXCHANGE, "/v2/assets", **query).json()
        assert some == [row for row in everything if row[field] == next(iter(query.values()))]
        assert 0 < len(some) < len(everything)
    assert call(EXCHANGE, "/v2/assets", asset_class="us_equity").json() == everything
    assert call(EXCHANGE, "/v2/assets", asset_class="crypto").json() == []
    some = call(EXCHANGE, "/v2/assets", attributes="ipo,has_options").json()
    assert some == [row for row in everything if "has_options" in row["attributes"]]


def test_the_calendar_knows_half_days_and_closures():
    days = call(EXCHANGE, "/v2/calendar", start="2025-01-08", end="2025-01-10").json()
    assert [day["date"] for day in days] == ["2025-01-08", "2025-01-10"]
    (half,) = call(EXCHANGE, "/v2/calendar", start="2025-11-28", end="2025-11-28").json()
    assert half == {
        "date": "2025-11-28",
        "open": "09:30",
        "close": "13:00",
        "session_open": "0400",
        "session_close": "1700",
        "settlement_date": "2025-12-01",
    }
    whole = call(EXCHANGE, "/v2/calendar").json()
    assert len(whole) == len(market_calendar.sessions(market_calendar.FIRST, market_calendar.LAST))


@pytest.mark.parametrize(
    ("day", "settled"),
    [
        ("2017-09-01", "2017-09-07"),
        ("2017-09-05", "2017-09-07"),
        ("2024-05-24", "2024-05-29"),
        ("2024-05-28", "2024-05-29"),
    ],
)
def test_a_trade_settles_by_the_rule_of_its_time(day, settled):
    (row,) = call(EXCHANGE, "/v2/calendar", start=day, end=day).json()
    assert row["settlement_date"] == settled
    by_settlement = call(
        EXCHANGE, "/v2/calendar", start=settled, end=settled, date_type="SETTLEMENT"
    ).json()
    assert row in by_settlement


@pytest.mark.parametrize(
    ("now", "is_open", "next_open", "next_close"),
    [
        (datetime(2026, 9, 3, 13, 29, 59, tzinfo=UTC), False, "2026-09-03T09:30", "2026-09-03T16"),
        (datetime(2026, 9, 3, 13, 30, tzinfo=UTC), True, "2026-09-04T09:30", "2026-09-03T16"),
        (datetime(2026, 9, 3, 20, 0, tzinfo=UTC), False, "2026-09-04T09:30", "2026-09-04T16"),
        (datetime(2026, 9, 4, 20, 0, tzinfo=UTC), False, "2026-09-08T09:30", "2026-09-08T16"),
        (datetime(2025, 11, 28, 17, 59, tzinfo=UTC), True, "2025-12-01T09:30", "2025-11-28T13"),
    ],
)
def test_the_clock_knows_whether_the_market_is_open(now, is_open, next_open, next_close):
    clock = call(frozen(MARKET, clock=lambda: now), "/v2/clock").json()
    assert clock["is_open"] is is_open
    assert clock["next_open"].startswith(next_open)
    assert clock["next_close"].startswith(next_close)
    assert datetime.fromisoformat(clock["timestamp"]) == now
    assert clock["timestamp"][-6:] in ("-04:00", "-05:00")


def test_json_is_what_the_whole_page_is():
    body = call(EXCHANGE, symbols=",".join(ACTIVE[:500]), start="2026-09-02", limit=10_000).body
    page = json.loads(body)
    assert len(page["bars"]) > 450
    assert body == json.dumps(page, separators=(",", ":")).encode()
