"""The compiled decoder: which pages it takes, and that it reads them as the one in Python does.

Here: equal or refused, limits of numbers and times, memory. Not here: what a page means
(`test_pages`).
"""

import json
import shutil
import sys
import sysconfig
import threading
import tracemalloc
from array import array
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fuzz_decode import compare
from datalake_assets import market_calendar
from datalake_assets.collection.bars import Columns
from datalake_assets.sources.pages import COMPILED, decode, decode_regular, regular_columns
from datalake_assets_tests.sources.sent_pages import Drawn
from datalake_assets_tests.sources.test_pages import SUMMER, WINTER, bar, body

compiled = pytest.mark.skipif(COMPILED is None, reason="installed without a compiler")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def taken(page: bytes) -> bool:
    """Does C take the page? If so, it must read what Python reads."""
    assert COMPILED is not None
    return compare(page, COMPILED)


def columns(page: bytes) -> Columns:
    found = regular_columns(page)
    assert found is not None, "refused"
    return found[0]


def with_value(name: str, value: str) -> bytes:
    """A page of one bar in which a part is written so."""
    return body({"A": [bar(**{name: "here"})]}).replace(b'"here"', value.encode())


def test_where_there_is_a_compiler_there_is_a_compiled_decoder() -> None:
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    if COMPILED is None and not (shutil.which(compiler) and header.exists()):
        pytest.skip("there is no compiler here, or no Python.h")
    assert COMPILED is not None, "it was not built: pip install -v -e . says why"


@compiled
def test_a_regular_page_is_taken_and_read_the_same() -> None:
    page = body({"A": [bar(WINTER), bar(SUMMER)], "BRK.B": [bar()]}, "TlZEQXxN")
    assert decode_regular(page) == decode(page)
    assert columns(page).symbols == ("A", "BRK.B")
    assert columns(page).counts.tolist() == [2, 1]


def test_without_a_compiler_every_page_is_for_the_decoder_in_python() -> None:
    assert decode_regular(body({"A": [bar()]}), None) is None


@compiled
def test_bars_of_any_minute_are_columns_but_no_daily_bars() -> None:
    page = body({"A": [bar("2024-03-08T14:30:00Z"), bar("2024-03-08T14:31:00Z")]})
    instants = columns(page).instant
    assert [EPOCH + timedelta(microseconds=int(at)) for at in instants] == [
        datetime(2024, 3, 8, 14, 30, tzinfo=UTC),
        datetime(2024, 3, 8, 14, 31, tzinfo=UTC),
    ]
    assert decode_regular(page) is None


@compiled
def test_every_midnight_in_new_york_is_a_session_and_no_other_hour_is() -> None:
    for year in (1970, 1974, 1975, 2006, 2007, 2026, 2038, 2199):
        first = datetime(year, 1, 1, tzinfo=UTC)
        for hours, wanted in ((4, False), (5, True)):  # in January
            page = body({"A": [bar(f"{first + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}")]})
            assert (decode_regular(page) is not None) == (wanted and taken(page)), (year, hours)
    days = market_calendar.sessions(datetime(2011, 1, 3).date(), datetime(2026, 9, 3).date())  # noqa: DTZ001
    stamps = [f"{market_calendar.session_stamp(day):%Y-%m-%dT%H:%M:%SZ}" for day in days]
    whole = decode_regular(body({"A": [bar(stamp) for stamp in stamps]}))
    assert whole is not None
    assert whole.bars["session"].to_pylist() == days


@compiled
@pytest.mark.parametrize(
    "page",
    [
        body({}),
        body(None),
        body({"A": []}),
        body({"A": None}),
        body({"A": [None]}),
        body({"A": [bar()], "B": []}),
        body({"A": [bar()], "é": [bar()]}),
        body({"A": [bar()], 'B"': [bar()]}),
        body({"A": [bar()], "B\\": [bar()]}),
        body({"A": [bar()], "[": [bar()]}),
        body({"A": [bar()], "}": [bar()]}),
        body({"A": [bar()]}, "é"),
        body({"A": [bar()]}, currency="USD"),
        body({"A": [{**bar(), "x": 1}]}),
        body({"A": [dict(reversed(bar().items()))]}),
        body({"A": [{key: value for key, value in bar().items() if key != "vw"}]}),
        body({"A": [bar()]}).replace(b":[", b": ["),
        body({"A": [bar()]}).replace(b'{"A"', b'{ "A"'),
        b'{"bars":{"A":[' + b"]" * 100,
        b" " + body({"A": [bar()]}),
        b"\xef\xbb\xbf" + body({"A": [bar()]}),
        body({"A": [bar()]}) + b"\0",
        body({"A": [bar()]}) + body({"A": [bar()]}),
        b"",
        b"}" * 1_000_000 + b"[",
        b'{"bars":{"A":[' + b"{}," * 100_000 + b"[" * 100_000,
        body({"A": [bar()]}).replace(b'"A":', b'"A":[{}],"A":'),
    ],
)
def test_what_is_not_as_alpaca_writes_it_is_refused(page: bytes) -> None:
    assert not taken(page)


@compiled
def test_a_symbol_that_is_there_twice_is_refused() -> None:
    page = body({"A": [bar()], "B": [bar(SUMMER)]}).replace(b'"B"', b'"A"')
    assert not taken(page)
    assert decode(page).bars.num_rows == 2


@compiled
def test_white_space_after_the_page_is_none_of_its_bars() -> None:
    assert taken(body({"A": [bar()]}) + b" \t\r\n")


@compiled
def test_a_page_that_is_cut_anywhere_is_refused() -> None:
    page = body({"A": [bar()], "B": [bar(SUMMER)]}, "TlZEQXxN")
    for length in range(len(page)):
        assert not taken(page[:length])


@compiled
@pytest.mark.parametrize("name", ["o", "h", "l", "c", "vw"])
@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("0", True),
        ("0.0", True),
        ("1105", True),
        ("0.1", True),
        ("0.000000000000000001", True),  # 19 digits
        ("0.0000000000000000001", False),
        ("9007199254740992", True),  # 2^53
        ("9007199254740993", False),
        ("900719925474.0992", True),
        ("900719925474.0993", False),
        ("18446744073709551617", False),  # 2^64 + 1, which wraps around to 1
        ("1" + "0" * 400, False),
        ("00", False),
        ("00.5", False),
        (".5", False),
        ("5.", False),
        ("5.5.5", False),
        ("-1", False),
        ("-0", False),
        ("+1", False),
        ("1e2", False),
        ("1E2", False),
        ("null", False),
        ("true", False),
        ('"1"', False),
        ("NaN", False),
        ("Infinity", False),
        ("1 ", False),
        ("", False),
    ],
)
def test_a_price_is_digits_that_a_double_holds(name: str, value: str, wanted: bool) -> None:
    page = with_value(name, value)
    assert taken(page) == wanted
    if wanted:
        place = {"o": "open", "h": "high", "l": "low", "c": "close", "vw": "vwap"}[name]
        assert getattr(columns(page), place).tolist() == [float(value)]


@compiled
@pytest.mark.parametrize(("name", "place"), [("v", "volume"), ("n", "trade_count")])
@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("0", True),
        ("1", True),
        ("999999999999999999", True),
        ("1000000000000000000", False),  # for 64 bits, but not for this decoder
        ("18446744073709551617", False),
        ("00", False),
        ("01", False),
        ("-1", False),
        ("1.0", False),
        ("1.5", False),
        ("1e3", False),
        ("null", False),
        ("", False),
    ],
)
def test_a_count_is_at_most_eighteen_digits(
    name: str, place: str, value: str, wanted: bool
) -> None:
    page = with_value(name, value)
    assert taken(page) == wanted
    if wanted:
        assert getattr(columns(page), place).tolist() == [int(value)]


@compiled
@pytest.mark.parametrize(
    ("stamp", "wanted"),
    [
        ("1969-12-31T23:59:59Z", False),
        ("1970-01-01T00:00:00Z", True),
        ("2199-12-31T23:59:59Z", True),
        ("2200-01-01T00:00:00Z", False),
        ("2023-02-28T05:00:00Z", True),
        ("2023-02-29T05:00:00Z", False),
        ("2024-02-29T05:00:00Z", True),
        ("2024-02-30T05:00:00Z", False),
        ("2000-02-29T05:00:00Z", True),
        ("2100-02-29T05:00:00Z", False),
        ("2024-04-30T04:00:00Z", True),
        ("2024-04-31T04:00:00Z", False),
        ("2024-12-31T05:00:00Z", True),
        ("2024-12-32T05:00:00Z", False),
        ("2024-00-08T05:00:00Z", False),
        ("2024-13-08T05:00:00Z", False),
        ("2024-03-00T05:00:00Z", False),
        ("2024-03-08T23:00:00Z", True),
        ("2024-03-08T24:00:00Z", False),
        ("2024-03-08T05:59:59Z", True),
        ("2024-03-08T05:60:00Z", False),
        ("2024-03-08T05:00:60Z", False),
        ("2024-03-08T05:00:00.0Z", False),
        ("2024-03-08T05:00:00+00:00", False),
        ("2024-03-08T05:00:00", False),
        ("2024-03-08t05:00:00Z", False),
        ("2024-03-08T05:00:00z", False),
        ("2024-03-08 05:00:00Z", False),
        ("2024-3-8T05:00:00Z", False),
        ("2024-/3-08T05:00:00Z", False),
        ("2024-:3-08T05:00:00Z", False),
        ("20240308T050000Z", False),
        ("", False),
    ],
)
def test_a_time_is_a_second_in_utc_of_the_years_that_this_decoder_knows(
    stamp: str, wanted: bool
) -> None:
    page = body({"A": [bar(stamp)]})
    assert taken(page) == wanted
    if wanted:
        since = datetime.fromisoformat(stamp) - EPOCH
        assert columns(page).instant.tolist() == [since // timedelta(microseconds=1)]


@compiled
@given(st.integers(0, 83_999), st.integers(0, 86_399))
def test_every_second_of_these_years_is_read_as_python_reads_it(day: int, second: int) -> None:
    instant = EPOCH + timedelta(days=day, seconds=second)
    found = columns(body({"A": [bar(f"{instant:%Y-%m-%dT%H:%M:%SZ}")]})).instant
    assert found.tolist() == [(instant - EPOCH) // timedelta(microseconds=1)]


@compiled
@given(st.integers(0, 1 << 53), st.integers(0, 18))
def test_a_price_is_rounded_as_python_rounds_it(digits: int, places: int) -> None:
    text = str(digits).zfill(places + 1)
    price = f"{text[:-places]}.{text[-places:]}" if places else text
    page = with_value("vw", price)
    assert taken(page) == (len(text) <= 19)
    if len(text) <= 19:
        assert columns(page).vwap.tolist() == [float(price)]


@compiled
@given(st.randoms(use_true_random=False))
def test_a_drawn_page_is_taken_and_a_damaged_one_is_read_the_same_or_refused(
    random: Random,
) -> None:
    drawn = Drawn(random)
    page = drawn.page(daily=random.random() < 0.5)
    assert taken(page)
    for _ in range(10):
        taken(drawn.damaged(page))


@compiled
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from("tohlcvn") | st.text(), inner)
        ),
        max_leaves=8,
    )
)
def test_any_json_in_place_of_a_bar_is_read_the_same_or_refused(value: Any) -> None:
    for told in ({"A": [bar(), value]}, {"A": value}, value):
        taken(body(told))
        taken(json.dumps({"bars": told, "next_page_token": value}, separators=(",", ":")).encode())


@compiled
def test_neither_a_page_that_is_taken_nor_one_that_is_refused_keeps_memory() -> None:
    good = body({name: [bar(), bar(SUMMER)] for name in ("A", "B", "C")}, "TlZEQXxN")
    given_pages = [good, good[:-1], good.replace(b"227.5,", b"null,"), b"", b"}" * 1000]
    assert COMPILED is not None

    def kept(times: int) -> int:
        for _ in range(times):
            for page in given_pages:
                COMPILED(page)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = kept(10)
        assert kept(1000) - before < 1000, "not one byte for each call"
    finally:
        tracemalloc.stop()


@compiled
def test_only_bytes_are_a_page() -> None:
    assert COMPILED is not None
    for thing in (None, 7, "text", [b""]):
        with pytest.raises(TypeError, match="bytes-like"):
            COMPILED(thing)  # type: ignore[arg-type]


@compiled
def test_other_threads_run_while_a_page_is_decoded() -> None:
    page = body({f"A{number}": [bar()] * 500 for number in range(20)})
    begin, ran = threading.Event(), []

    def work() -> None:
        begin.wait()
        ran.append(True)

    thread = threading.Thread(target=work)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody has to give up the lock: who runs got it from the decoder
    try:
        thread.start()
        begin.set()
        assert COMPILED is not None
        assert not ran
        for _ in range(10_000):
            COMPILED(page)
            if ran:
                break
        else:
            pytest.fail("the decoder held the lock")
    finally:
        sys.setswitchinterval(interval)
        thread.join()


@compiled
def test_pages_that_many_threads_decode_are_each_its_own() -> None:
    drawn = [Drawn(Random(seed), bars=200).page(daily=True) for seed in range(8)]
    expected = [decode(page) for page in drawn]
    found: dict[int, list[Any]] = {place: [] for place in range(8)}

    def work(place: int) -> None:
        for _ in range(50):
            found[place].append(decode_regular(drawn[place]))

    threads = [threading.Thread(target=work, args=(place,)) for place in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, told in found.items():
        assert told == [expected[place]] * 50


@compiled
def test_a_page_is_read_to_the_last_byte_of_its_memory_and_no_further() -> None:
    page = body({"A": [bar()]})
    beside = array("B", page + b"}}}}")
    whole = memoryview(beside)[: len(page)]
    assert regular_columns(whole) is not None  # type: ignore[arg-type]
    assert regular_columns(memoryview(beside)) is None  # type: ignore[arg-type]
    assert np.frombuffer(whole, np.uint8).tobytes() == page
