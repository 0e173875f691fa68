import json
from datetime import UTC, date, datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datalake_assets.exchange.market import DOLLAR, Bars
from datalake_assets.exchange.wire import Position, Stamps, page_json, pages_json, parse_instant

SESSIONS = (date(2024, 3, 8), date(2024, 3, 11), date(2024, 11, 1), date(2024, 11, 4))
STAMPS = Stamps.of(SESSIONS)
millionths = st.one_of(
    st.integers(0, 100 * DOLLAR - 1),
    st.integers(0, 100_000_000 * DOLLAR - 1),
    st.integers(0, 99_999_999).map(lambda dollars: dollars * DOLLAR),
    st.integers(0, 9_999_999).map(lambda cents: cents * 10_000),
)
patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # busy machines
counts = st.one_of(st.integers(0, 20_000), st.integers(0, 10**12 - 1))


@st.composite
def some_bars(draw: st.DrawFn) -> Bars:
    """Bars of up to four symbols on up to four sessions, with any values the wire carries."""
    symbols = draw(st.lists(st.from_regex(r"[A-Z]{1,6}(\.B)?", fullmatch=True), unique=True))[:4]
    places = [(i, j) for i in range(len(symbols)) for j in range(4) if draw(st.booleans())]
    columns = {
        name: np.array(
            [draw(counts if name in ("volume", "trade_count") else millionths) for _ in places],
            np.int64,
        )
        for name in ("open", "high", "low", "close", "vwap", "volume", "trade_count")
    }
    where = np.array(places, np.int64).reshape(-1, 2)
    return Bars(symbols=symbols, symbol=where[:, 0], session=where[:, 1], **columns)


def by_hand(bars: Bars, row: int) -> str:
    """What the wire should carry, by the language's own number formatting."""

    def number(value: int) -> str:
        text = f"{value // DOLLAR}.{value % DOLLAR:06d}"
        return text.rstrip("0").rstrip(".")

    stamp = ["2024-03-08T05:00:00Z", "2024-03-11T04:00:00Z"]
    stamp += ["2024-11-01T04:00:00Z", "2024-11-04T05:00:00Z"]
    return (
        f'{{"c":{number(bars.close[row])},"h":{number(bars.high[row])},'
        f'"l":{number(bars.low[row])},"n":{bars.trade_count[row]},"o":{number(bars.open[row])},'
        f'"t":"{stamp[bars.session[row]]}","v":{bars.volume[row]},"vw":{number(bars.vwap[row])}}}'
    )


@patiently
@given(some_bars())
def test_bars_are_spelt_as_the_language_would_spell_them(bars):
    lists = {
        symbol: [by_hand(bars, row) for row in np.flatnonzero(bars.symbol == index)]
        for index, symbol in enumerate(bars.symbols)
    }
    inner = ",".join(f'"{symbol}":[{",".join(rows)}]' for symbol, rows in lists.items() if rows)
    body = pages_json(bars, STAMPS, None, currency=None)
    assert body.decode() == f'{{"bars":{{{inner}}},"next_page_token":null}}'
    flat = ",".join(by_hand(bars, row) for row in range(len(bars)))
    body = page_json("AAPL", bars, STAMPS, "Zm8=", currency="USD")
    ending = '"symbol":"AAPL","currency":"USD","next_page_token":"Zm8="'
    assert body.decode() == f'{{"bars":[{flat}],{ending}}}'


@patiently
@given(some_bars())
def test_prices_on_the_wire_are_the_doubles_nearest_to_their_millionths(bars):
    parsed = json.loads(pages_json(bars, STAMPS, None, currency=None))["bars"]
    for row in range(len(bars)):
        symbol = bars.symbols[bars.symbol[row]]
        at = int(np.sum(bars.symbol[:row] == bars.symbol[row]))
        assert parsed[symbol][at]["vw"] == bars.vwap[row] / DOLLAR


def test_an_integral_price_is_a_json_integer():
    whole = np.array([1105 * DOLLAR])
    one = np.array([1])
    bars = Bars(
        symbols=["A"], symbol=one - 1, session=one - 1, open=whole, high=whole, low=whole,
        close=whole, vwap=whole + 500_000, volume=one, trade_count=one,
    )  # fmt: skip
    assert pages_json(bars, STAMPS, None, currency=None) == (
        b'{"bars":{"A":[{"c":1105,"h":1105,"l":1105,"n":1,"o":1105,"t":"2024-03-08T05:00:00Z",'
        b'"v":1,"vw":1105.5}]},"next_page_token":null}'
    )


def at(*clock: int, nanoseconds: int = 0) -> int:
    return int(datetime(*clock, tzinfo=UTC).timestamp()) * 10**9 + nanoseconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-02T05:00:00Z", at(2024, 1, 2, 5)),
        ("2024-01-02t05:00:00z", at(2024, 1, 2, 5)),
        ("2024-01-02T00:00:00-05:00", at(2024, 1, 2, 5)),
        ("2024-01-02T06:30:00+01:30", at(2024, 1, 2, 5)),
        ("2024-01-02T05:00:00.5Z", at(2024, 1, 2, 5, nanoseconds=500_000_000)),
        ("2024-01-02T05:00:00.123456789Z", at(2024, 1, 2, 5, nanoseconds=123_456_789)),
        ("2024-01-02", at(2024, 1, 2, 5)),  # New York's midnight, in winter
        ("2024-07-02", at(2024, 7, 2, 4)),  # and in summer
    ],
)
def test_an_instant_is_read_to_the_nanosecond(text, expected):
    assert parse_instant(text, "start") == expected


@pytest.mark.parametrize(
    "text",
    [
        "not-a-date",
        "2024-13-01",
        "2024-01-02T25:00:00Z",
        "2024-01-02T05:00:00",
        "2024-01-02T05:00:00 00:00",  # a + that was not escaped is a space
        "20240102",
        "",
    ],
)
def test_what_is_no_instant_is_refused_in_alpacas_words(text):
    with pytest.raises(
        ValueError, match="Invalid format for parameter end: error parsing"
    ) as error:
        parse_instant(text, "end")
    assert f"'{text}' as RFC3339 or 2006-01-02 time: parsing time" in str(error.value)


def test_a_token_is_base64_of_the_next_bar():
    token = "TlZEQXxEfDE3ODg0NTU0MDAwMDAwMDAwMDA="
    assert Position("NVDA", 1788455400000000000).token() == token
    assert Position.parse(token) == Position("NVDA", 1788455400000000000)


def test_a_token_of_minutes_says_so():
    position = Position("NVDA", 1788455400000000000, "M")
    assert position.token() == "TlZEQXxNfDE3ODg0NTU0MDAwMDAwMDAwMDA="  # as recorded from Alpaca
    assert Position.parse(position.token()) == position


@pytest.mark.parametrize("token", ["*", "QQ", "QXxXfDE=", "QXxEfHg=", "QXxE", "/////w=="])
def test_a_token_of_somebody_else_is_refused(token):
    with pytest.raises(ValueError, match="invalid page_token"):
        Position.parse(token)
