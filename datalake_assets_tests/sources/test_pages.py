"""What Alpaca really sends, and what it becomes, by either decoder.

Not here: which pages the compiled one takes (`test_regular_pages`).
"""

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
from datalake_assets.collection.collect import OddItem, Page
from datalake_assets.collection.errors import TransientError, UnreadableError
from datalake_assets.sources import pages as decoders
from datalake_assets.sources.pages import decode_years

WINTER = "2024-03-08T05:00:00Z"
SUMMER = "2024-03-11T04:00:00Z"


def decode(data: bytes) -> Page:
    """As Python does it; C does the same with the page, or refuses it."""
    by_c = decoders.decode_regular(data)
    page = decoders.decode(data)
    assert by_c in (None, page)
    return page


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


@pytest.mark.parametrize("token", [None, "more"])
def test_null_for_bars_is_told_as_such_with_its_token(token: str | None) -> None:
    page = decode(body(None, token))
    assert (page.null, page.bars.num_rows, page.next_token) == (True, 0, token)
    assert not decode(body({}, token)).null


def test_null_beside_a_symbol_is_told_as_such() -> None:
    page = decode(body({"A": [bar()], "B": None, "C": None}))
    assert page.bars["symbol"].to_pylist() == ["A"]
    assert (page.nulls, page.null, page.odd) == ({"B", "C"}, False, ())


def test_null_beside_all_symbols_is_null_for_the_page() -> None:
    page = decode(body({"B": None, "C": None}))
    assert (page.nulls, page.null) == ({"B", "C"}, True)


@pytest.mark.parametrize("bars", [{}, {"A": [bar()]}, {"A": [bar()], "B": None}])
def test_an_empty_token_is_none(bars: dict[str, Any]) -> None:
    assert decode(body(bars, "")).next_token is None
    assert decode_years(body(bars, ""))[1] is None


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
        b'{"bars":{},"next_page_token":7}',
        b'{"bars":[],"next_page_token":null}',
        b'{"bars":"none","next_page_token":null}',
        b'{"bars":{},"bars":{},"next_page_token":null}  x',
        b'{"bars":{"A":[1],"B":' + b"[" * 100_000,
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
    [("9223372036854775807", 2**63 - 1), ("0", 0), ("1234.0", 1234), ("1.5e9", 1_500_000_000),
     ("9007199254740993.0", 2**53 + 1), ("9223372036854775807.0", 2**63 - 1), ("0.0", 0)],
)  # fmt: skip
def test_a_count_is_a_whole_number_however_it_is_written(
    count: str, number: str, held: int
) -> None:
    page = decode(written(count, number))
    assert page.bars[{"v": "volume", "n": "trade_count"}[count]].to_pylist() == [held, 1]
    assert (page.odd, page.rounded) == ((), 0)


@pytest.mark.parametrize("count", ["v", "n"])
@pytest.mark.parametrize(
    "number",
    ["9223372036854775808", "18446744073709551616", "1e400", "1e99999999999999999999", "-1",
     "-0.5", "1" * 5000, '"7"', "true", "[]", "{}", "NaN", "Infinity"],
)  # fmt: skip
def test_a_bar_with_a_count_that_is_none_is_odd_and_the_others_are_taken(
    count: str, number: str
) -> None:
    page = decode(written(count, number))
    assert page.bars["symbol"].to_pylist() == ["B"]
    ((symbol, session, why),) = page.odd
    assert (symbol, session) == ("A", date(2024, 3, 8))
    assert f"a bar's {count} is no count" in why
    assert len(why) < 120


def written(name: str, value: str) -> bytes:
    """Two bars, of the first of which one value is written so."""
    whole = body({"A": [bar(**{name: "HERE"})], "B": [bar(v=1, n=1, vw=1.0)]})
    return whole.replace(b'"HERE"', value.encode())


@pytest.mark.parametrize(
    ("number", "held"),
    [("0.5", 0), ("1.5", 2), ("2.5", 2), ("2.500001", 3), ("1234.25", 1234), ("0.000001", 0)],
)
def test_a_fraction_of_a_share_is_rounded_half_to_even_and_counted(number: str, held: int) -> None:
    page = decode(written("v", number))
    assert page.bars["volume"].to_pylist() == [held, 1]
    assert (page.odd, page.rounded) == ((), 1)


def test_a_fraction_of_a_trade_is_odd() -> None:
    page = decode(written("n", "12.5"))
    assert page.bars["symbol"].to_pylist() == ["B"]
    assert page.odd == (OddItem("A", date(2024, 3, 8), "a bar's number of trades (n) is 12.5"),)


@pytest.mark.parametrize(("name", "column"), [("n", "trade_count"), ("vw", "vwap")])
@pytest.mark.parametrize("absent", [True, False])
@pytest.mark.parametrize("more", [{}, {"B": None}], ids=["a whole page", "a page with null"])
def test_a_statistic_that_the_source_lacks_is_null_and_the_bar_is_kept(
    name: str, column: str, absent: bool, more: dict[str, Any]
) -> None:
    without = bar(**{name: None})
    if absent:
        del without[name]
    page = decode(body({"A": [without, bar(SUMMER)], **more}))
    assert page.bars[column].to_pylist()[0] is None
    assert page.bars[column].to_pylist()[1] is not None
    assert page.bars.schema == SCHEMA
    assert page.odd == ()


@pytest.mark.parametrize("name", ["o", "h", "l", "c", "vw"])
@pytest.mark.parametrize("value", ['"12.5"', "NaN", "Infinity", "1e400", "true", "[1]"])
def test_a_price_that_is_no_number_is_odd_and_the_other_bars_are_taken(
    name: str, value: str
) -> None:
    page = decode(written(name, value))
    assert page.bars["symbol"].to_pylist() == ["B"]
    ((symbol, session, why),) = page.odd
    assert (symbol, session) == ("A", date(2024, 3, 8))
    assert why.startswith(f"a bar's {name} is no price: ")


@pytest.mark.parametrize("name", ["o", "h", "l", "c", "v", "t"])
@pytest.mark.parametrize("absent", [True, False])
def test_prices_volume_and_time_are_never_missing(name: str, absent: bool) -> None:
    odd = bar(**{name: None})
    if absent:
        del odd[name]
    page = decode(body({"A": [odd, bar(SUMMER)]}))
    assert page.bars["session"].to_pylist() == [date(2024, 3, 11)]
    ((symbol, session, why),) = page.odd
    assert (symbol, session) == ("A", None if name == "t" else date(2024, 3, 8))
    assert "null or absent" in why


@pytest.mark.parametrize("odd", [7, "text", [[]], True, {"t": 1}])
def test_what_stands_in_the_place_of_bars_and_is_none_costs_its_symbol_only(odd: Any) -> None:
    page = decode(body({"A": odd, "B": [bar()]}))
    assert page.bars["symbol"].to_pylist() == ["B"]
    assert [(item.symbol, item.session) for item in page.odd] == [("A", None)]


def test_a_symbol_that_stands_twice_on_a_page_has_the_bars_of_both() -> None:
    first, second = (json.dumps([bar(stamp)]) for stamp in (WINTER, SUMMER))
    page = decode(f'{{"bars":{{"A":{first},"A":{second}}},"next_page_token":null}}'.encode())
    assert page.bars["session"].to_pylist() == [date(2024, 3, 8), date(2024, 3, 11)]
    assert page.odd == ()


@pytest.mark.parametrize("more", [{}, {"odd": 7}], ids=["at once", "item by item"])
def test_of_a_value_that_stands_twice_in_a_bar_the_last_counts_as_in_any_json(
    more: dict[str, Any],
) -> None:
    twice = body({"A": [bar(c="HERE")], **more}).replace(b'"HERE"', b'1.5,"c":227.5')
    assert decode(twice).bars["close"].to_pylist() == [227.5]


def test_the_answer_of_two_bars_objects_is_asked_again() -> None:
    with pytest.raises(UnreadableError):
        decode(b'{"bars":{"A":[' + json.dumps(bar()).encode() + b']},"bars":{},'
               b'"next_page_token":null}')  # fmt: skip


def test_what_does_not_print_in_a_symbol_or_a_value_is_spelled_out() -> None:
    page = decode(body({"\x1b[31mA": [bar()], "\ud800": [bar()], "B": [bar("\x1b[2J")]}))
    assert page.bars["symbol"].to_pylist() == ["\\x1b[31mA", "\\ud800"]
    assert all(text.isprintable() for item in page.odd for text in (item.symbol, item.why))
    assert decode(body({"\x1bA": [bar()]})).bars["symbol"].to_pylist() == ["\\x1bA"]


def test_a_page_with_odd_bars_among_many_keeps_all_others() -> None:
    symbols = [f"S{number}" for number in range(500)]
    sent: dict[str, Any] = {symbol: [bar(), bar(SUMMER)] for symbol in symbols}
    sent["S7"][1] = bar("2024-03-11T14:30:00Z")
    sent["S400"][0]["v"] = -1
    page = decode(body(sent))
    assert page.bars.num_rows == 998
    assert {item[:2] for item in page.odd} == {
        ("S7", date(2024, 3, 11)),
        ("S400", date(2024, 3, 8)),
    }


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
    ("stamp", "session"),
    [
        ("2024-03-08T04:00:00Z", None),  # summer's midnight, in winter: 23:00 of the day before
        ("2024-03-11T05:00:00Z", date(2024, 3, 11)),  # winter's midnight, in summer
        ("2024-03-08T14:30:00Z", date(2024, 3, 8)),  # a minute bar
        ("2024-03-08T05:00:01Z", date(2024, 3, 8)),
        ("2024-03-08T05:00:00.000001Z", date(2024, 3, 8)),
        ("2024-03-08T00:00:00Z", None),  # midnight in UTC: of that day, or the evening before?
        ("2024-03-08T23:59:59Z", date(2024, 3, 8)),
        ("2024-03-09T00:00:01Z", None),
        ("2024-03-08T05:00:00", None),  # of no zone
        ("2024-03-08", None),
    ],
)
def test_a_bar_that_does_not_start_at_new_yorks_midnight_is_odd_in_its_session(
    stamp: str, session: date | None
) -> None:
    page = decode(body({"A": [bar(WINTER), bar(stamp)]}))
    assert page.bars["session"].to_pylist() == [date(2024, 3, 8)]
    ((symbol, day, why),) = page.odd
    assert (symbol, day) == ("A", session)
    assert why == f"a bar of {stamp}, which is no midnight in New York: no daily bar"


@pytest.mark.parametrize(
    "stamp",
    ["", "yesterday", "2024-13-08T05:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00"],
)
def test_a_bar_whose_time_can_t_be_read_is_odd_in_no_known_session(stamp: str) -> None:
    page = decode(body({"A": [bar(WINTER), bar(stamp)]}))
    assert page.bars.num_rows == 1
    assert page.odd == (OddItem("A", None, f"a bar has an unreadable time: {stamp!r}"),)


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
    assert got.next_token == (token or None)
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


@given(pages)
def test_a_page_read_item_by_item_is_the_same_table(
    page: dict[str, list[tuple[date, dict[str, Any]]]],
) -> None:
    sent = {
        symbol: [{**row, "t": f"{market_calendar.session_stamp(day):%Y-%m-%dT%H:%M:%SZ}"}
                 for day, row in listed]
        for symbol, listed in page.items()
    }  # fmt: skip
    strict, tolerant = decode(body(sent)), decode(body({**sent, "odd": [7]}))
    assert tolerant.bars.equals(strict.bars)
    assert (strict.odd, [item.symbol for item in tolerant.odd]) == ((), ["odd"])


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


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"null", b"<html>", b'{"bars":{}}'])
def test_a_page_of_years_that_can_t_be_read_may_pass(damaged: bytes) -> None:
    with pytest.raises(TransientError, match="can't be read"):
        decode_years(damaged)


def test_null_instead_of_years_is_told_for_the_page_and_is_no_year_beside_a_symbol() -> None:
    assert decode_years(body(None, "QXxN")) == (None, "QXxN")
    assert decode_years(body({"A": None, "B": []})) == ({"A": [], "B": []}, None)


@pytest.mark.parametrize("odd", [[{}], 7, ["x"], [{"t": 2016}], [{"t": ""}], [{"t": "16-01-01"}]])
def test_a_symbol_whose_years_can_t_be_read_costs_no_other(odd: Any) -> None:
    told = {"A": odd, "B": [bar("2016-01-01T05:00:00Z")], "C": None}
    assert decode_years(body(told)) == ({"A": None, "B": [2016], "C": []}, None)


def test_a_page_of_years_cut_anywhere_may_pass() -> None:
    data = body({"A": [bar("2016-01-01T05:00:00Z")]}, "QXxN")
    for length in range(len(data)):
        with pytest.raises(TransientError):
            decode_years(data[:length])
