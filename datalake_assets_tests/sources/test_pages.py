"""What Alpaca really sends, and what it becomes."""

import json
import math
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.errors import PermanentError, TransientError
from datalake_assets.sources.pages import decode, decode_years

WINTER = "2024-03-08T05:00:00Z"
SUMMER = "2024-03-11T04:00:00Z"


def bar(stamp: str = WINTER, **changed: Any) -> dict[str, Any]:
    known = {"c": 227.455, "h": 227.5, "l": 227.3, "n": 2264, "o": 227.41}
    return {**known, "t": stamp, "v": 127715, "vw": 227.383742, **changed}


def body(bars: Any, token: str | None = None, **more: Any) -> bytes:
    told = {"bars": bars, **more, "next_page_token": token}
    return json.dumps(told, separators=(",", ":")).encode()


def test_a_bar_becomes_a_row_of_the_schema() -> None:
    data = body({"NVDA": [bar()]}, "TlZEQXxN")
    page = decode(data)
    assert page.bars.schema == SCHEMA
    assert page.bars.to_pylist() == [
        {
            "symbol": "NVDA",
            "session": date(2024, 3, 8),
            "timestamp": datetime(2024, 3, 8, 5, tzinfo=UTC),
            "open": 227.41,
            "high": 227.5,
            "low": 227.3,
            "close": 227.455,
            "vwap": 227.383742,
            "volume": 127715,
            "trade_count": 2264,
        }
    ]
    assert page.next_token == "TlZEQXxN"
    assert page.size == len(data)


def test_an_integral_price_comes_as_a_json_integer_and_is_a_float_here() -> None:
    page = decode(body({"A": [bar(o=1105, h=1106, l=1104, c=1105, vw=1105)]}))
    row = page.bars.to_pylist()[0]
    prices = [row[name] for name in ("open", "high", "low", "close", "vwap")]
    assert prices == [1105.0, 1106.0, 1104.0, 1105.0, 1105.0]
    assert all(isinstance(price, float) for price in prices)


def test_a_symbol_without_bars_has_no_key_and_no_row() -> None:
    page = decode(body({"A": [bar()], "C": [bar()]}))
    assert page.bars["symbol"].to_pylist() == ["A", "C"]


def test_a_symbol_with_an_empty_list_has_no_row_either() -> None:
    page = decode(body({"A": [], "B": [bar(), bar(SUMMER)], "C": []}, "next"))
    assert page.bars["symbol"].to_pylist() == ["B", "B"]
    assert page.next_token == "next"


@pytest.mark.parametrize("bars", [{}, {"A": []}])
@pytest.mark.parametrize("token", [None, "more"])
def test_no_bars_at_all_are_an_empty_page_that_keeps_its_token(
    bars: dict[str, Any], token: str | None
) -> None:
    page = decode(body(bars, token))
    assert page.bars.num_rows == 0
    assert page.bars.schema == SCHEMA
    assert page.next_token == token
    assert page.size == len(body(bars, token))


def test_a_currency_beside_the_bars_is_passed_over() -> None:
    assert decode(body({"A": [bar()]}, currency="USD")).bars.num_rows == 1


def test_null_for_bars_tells_nothing_so_it_is_asked_again() -> None:
    with pytest.raises(TransientError, match='"bars": null'):
        decode(body(None))


def test_a_body_cut_anywhere_is_asked_again() -> None:
    whole = body({"NVDA": [bar(), bar(SUMMER)]}, "TlZEQXxN")
    for length in range(len(whole)):
        with pytest.raises(TransientError, match="can't be read"):
            decode(whole[:length])


@pytest.mark.parametrize(
    "odd",
    [
        b"<html>\r\n<head><title>502 Bad Gateway</title></head>",
        b'{"message":"too many requests."}',
        b'{"bars":{"A":[{"t":"2024-03-08T05:00:00Z"}]},"next_page_token":null}',
        b'{"bars":{},"next_page_token":7}',
        b"[]",
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_no_page_of_bars_is_asked_again(odd: bytes) -> None:
    with pytest.raises(TransientError, match="can't be read"):
        decode(odd)


@pytest.mark.parametrize("count", ["v", "n"])
@pytest.mark.parametrize(
    ("number", "held"),
    [
        (2**63 - 1, True),
        (2**63, False),
        (2**64, False),
        (0, True),
        (-1, False),
    ],
)
def test_a_count_is_zero_or_more_and_what_64_bits_hold_or_the_answer_is_asked_again(
    count: str, number: int, held: bool
) -> None:
    answer = body({"A": [bar(**{count: number})]})
    if held:
        column = {"v": "volume", "n": "trade_count"}[count]
        assert decode(answer).bars[column].to_pylist() == [number]
    else:
        with pytest.raises(TransientError, match="can't be read"):
            decode(answer)


def test_a_page_without_the_token_s_key_is_not_taken_for_the_last_one() -> None:
    with pytest.raises(TransientError, match="next_page_token"):
        decode(b'{"bars":{}}')


def test_midnight_in_new_york_is_another_hour_of_utc_in_summer_than_in_winter() -> None:
    page = decode(body({"A": [bar(WINTER), bar(SUMMER), bar("2024-11-04T05:00:00Z")]}))
    assert page.bars["session"].to_pylist() == [
        date(2024, 3, 8),
        date(2024, 3, 11),
        date(2024, 11, 4),
    ]
    assert [stamp.hour for stamp in page.bars["timestamp"].to_pylist()] == [5, 4, 5]


def test_every_session_s_stamp_is_that_session() -> None:
    sessions = market_calendar.sessions(date(2011, 1, 3), date(2026, 9, 3))
    stamps = [market_calendar.session_stamp(day) for day in sessions]
    page = decode(body({"A": [bar(f"{stamp:%Y-%m-%dT%H:%M:%SZ}") for stamp in stamps]}))
    assert page.bars["session"].to_pylist() == sessions
    assert page.bars["timestamp"].to_pylist() == stamps


@pytest.mark.parametrize(
    "stamp",
    [
        "2024-03-08T04:00:00Z",  # summer's midnight, in winter
        "2024-03-11T05:00:00Z",  # winter's midnight, in summer
        "2024-03-08T14:30:00Z",  # a minute bar
        "2024-03-08T05:00:01Z",
        "2024-03-08T05:00:00.000001Z",
        "2024-03-08T05:00:00",  # of no zone
        "2024-03-08",
    ],
)
def test_a_bar_that_does_not_start_at_new_yorks_midnight_is_no_daily_bar(stamp: str) -> None:
    with pytest.raises(PermanentError, match=f"{stamp}.*no midnight in New York"):
        decode(body({"A": [bar(WINTER), bar(stamp)]}))


@pytest.mark.parametrize(
    "stamp",
    ["", "yesterday", "2024-13-08T05:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00"],
)
def test_a_time_that_can_t_be_read_is_asked_again(stamp: str) -> None:
    with pytest.raises(TransientError, match="unreadable time"):
        decode(body({"A": [bar(stamp)]}))


sessions_ = st.sampled_from(market_calendar.sessions(date(2011, 1, 3), date(2026, 9, 3)))
prices = st.floats(0, 1e9, allow_nan=False) | st.integers(0, 10**9)
counts = st.integers(0, 2**63 - 1)
rows = st.fixed_dictionaries(
    dict.fromkeys(("o", "h", "l", "c", "vw"), prices) | {"v": counts, "n": counts}
)
symbols = st.from_regex(r"[A-Z]{1,5}(\.[A-Z]{1,2})?", fullmatch=True)
pages = st.dictionaries(symbols, st.lists(st.tuples(sessions_, rows), max_size=6), max_size=8)


@given(pages, st.none() | st.text(max_size=20))
def test_any_page_of_bars_arrives_value_by_value(
    page: dict[str, list[tuple[date, dict[str, Any]]]], token: str | None
) -> None:
    stamps = {
        day: f"{market_calendar.session_stamp(day):%Y-%m-%dT%H:%M:%SZ}"
        for listed in page.values()
        for day, _ in listed
    }
    sent = {
        symbol: [{**row, "t": stamps[day]} for day, row in listed]
        for symbol, listed in page.items()
    }
    got = decode(body(sent, token))
    assert got.next_token == token
    expected = [
        {
            "symbol": symbol,
            "session": day,
            "timestamp": market_calendar.session_stamp(day),
            "open": float(row["o"]),
            "high": float(row["h"]),
            "low": float(row["l"]),
            "close": float(row["c"]),
            "vwap": float(row["vw"]),
            "volume": row["v"],
            "trade_count": row["n"],
        }
        for symbol, listed in page.items()
        for day, row in listed
    ]
    assert got.bars.equals(pa.Table.from_pylist(expected, SCHEMA))
    for name in ("open", "high", "low", "close", "vwap"):
        assert all(math.isfinite(price) for price in got.bars[name].to_pylist())


# Years


def test_of_a_years_bar_only_its_year_counts() -> None:
    years = [bar("2016-01-01T05:00:00Z"), {"t": "2020-01-01T05:00:00Z"}]
    assert decode_years(body({"A": years, "B": [bar("2024-01-01T05:00:00Z")]})) == (
        {"A": [2016, 2020], "B": [2024]},
        None,
    )


def test_a_page_of_years_tells_the_next_ones_token() -> None:
    assert decode_years(body({"A": []}, "QXxN")) == ({"A": []}, "QXxN")
    assert decode_years(body({})) == ({}, None)


@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"[]", b"null", b"<html>", b'{"bars":{"A":[{}]},"next_page_token":null}']
)
def test_a_page_of_years_that_can_t_be_read_may_pass(damaged: bytes) -> None:
    with pytest.raises(TransientError, match="can't be read"):
        decode_years(damaged)


def test_of_null_bars_of_years_nothing_is_concluded() -> None:
    with pytest.raises(TransientError, match='"bars": null'):
        decode_years(body(None))


def test_a_page_of_years_cut_anywhere_may_pass() -> None:
    data = body({"A": [bar("2016-01-01T05:00:00Z")]}, "QXxN")
    for length in range(len(data)):
        with pytest.raises(TransientError):
            decode_years(data[:length])


@pytest.mark.parametrize("stamp", ["", "yesterday", "16-01-01"])
def test_a_year_that_can_t_be_read_may_pass(stamp: str) -> None:
    with pytest.raises(TransientError, match="time"):
        decode_years(body({"A": [{"t": stamp}]}))
