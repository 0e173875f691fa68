import csv
import gzip
from datetime import UTC, date, datetime
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from datalake_assets import market_calendar
from datalake_assets.exchange.market import DOLLAR
from datalake_assets.exchange.recorded import RecordedMarket, RecordingError, market_id
from datalake_assets_tests.exchange.calling import NOW, call, frozen, rows, walk


@pytest.fixture(scope="module")
def stocks() -> Path:
    """Real bars of AAPL, FB, GOOG, IBM and MSFT, 2000 to 2013 (WIKI data, public domain)."""
    spec = find_spec("bokeh_sampledata")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "_data" / "stocks.csv.gz"


@pytest.fixture(scope="module")
def recorded(stocks: Path) -> RecordedMarket:
    return RecordedMarket(stocks)


def test_a_walk_over_all_pages_replays_the_file_value_by_value(recorded, stocks):
    with gzip.open(stocks, "rt", newline="") as file:
        expected = {
            (row["Ticker"], row["Date"]): tuple(
                float(row[name]) for name in ("Open", "High", "Low", "Close", "Volume")
            )
            for row in csv.DictReader(file)
        }
    pages = walk(
        frozen(recorded),
        symbols="MSFT,AAPL,GOOG,IBM,FB",
        start="2000-01-01",
        end="2013-12-31",
        limit=5_000,
    )
    found = rows(pages)
    served = {
        (symbol, bar["t"][:10]): (bar["o"], bar["h"], bar["l"], bar["c"], bar["v"])
        for symbol, bar in found
    }
    assert len(found) == len(served) == len(expected) == 12_154
    assert served == expected


def test_what_the_file_lacks_is_made_up_as_documented(recorded):
    bars = recorded.bars(["AAPL", "FB"], 0, len(recorded.sessions))
    mean = (bars.high + bars.low + bars.close) / 3 / DOLLAR
    assert np.abs(bars.vwap / DOLLAR - mean).max() <= 0.00005 + 1e-9
    assert (bars.vwap % 100 == 0).all()
    assert np.array_equal(bars.trade_count, np.maximum(bars.volume // 100, 1))


def test_the_sessions_are_those_of_the_calendar(recorded):
    first, last = date(2000, 3, 1), date(2013, 3, 1)
    assert list(recorded.sessions) == market_calendar.sessions(first, last)
    assert recorded.visible(NOW) == len(recorded.sessions) == 3_270


def test_the_symbols_are_the_assets_all_of_them_active(recorded):
    assets = call(frozen(recorded), "/v2/assets").json()
    assert [row["symbol"] for row in assets] == ["AAPL", "FB", "GOOG", "IBM", "MSFT"]
    assert {row["status"] for row in assets} == {"active"}
    assert call(frozen(recorded), "/v1/corporate-actions", start="2000-01-01").json() == {
        "corporate_actions": {},
        "next_page_token": None,
    }


def test_a_part_of_the_history_and_an_unknown_symbol_are_served(recorded):
    page = call(
        frozen(recorded), symbols="FB,NOSUCH,IBM", start="2012-05-17", end="2012-05-18"
    ).json()
    assert {symbol: len(bars) for symbol, bars in page["bars"].items()} == {"FB": 1, "IBM": 2}
    assert call(frozen(recorded), symbols="FB", start="2000-01-01", end="2000-12-31").json() == {
        "bars": {},
        "next_page_token": None,
    }
    assert len(recorded.bars((), 0, 10)) == 0


def test_the_market_is_named_by_the_content_of_its_file(recorded, stocks, tmp_path):
    copy = tmp_path / "other.csv.gz"
    copy.write_bytes(stocks.read_bytes())
    assert market_id(copy) == recorded.market_id
    assert recorded.market_id.startswith("recorded/")
    copy.write_bytes(stocks.read_bytes() + b"\0")
    assert market_id(copy) != recorded.market_id


BARS = {
    "symbol": ["B", "A", "B"],
    "session": [date(2024, 1, 3), date(2024, 1, 2), date(2024, 1, 2)],
    "open": [10.5, 1105.0, 0.1234],
    "high": [11.0, 1110.0, 0.2],
    "low": [10.0, 1100.25, 0.1],
    "close": [10.25, 1105.0, 0.15],
    "volume": [100, 200, 300],
    "vwap": [10.333333, 1104.5, 0.123456],
    "trade_count": [7, 8, 9],
}


MIXED = pa.array(
    [
        datetime(2024, 1, 3, 5, tzinfo=UTC),
        datetime(2024, 1, 2, tzinfo=UTC),
        datetime(2024, 1, 2, 5, tzinfo=UTC),
    ],
    pa.timestamp("us", "UTC"),
)


def write(folder: Path, **columns: object) -> Path:
    """A Parquet file of BARS with some columns replaced, or left out (None)."""
    kept = {name: column for name, column in (BARS | columns).items() if column is not None}
    pyarrow.parquet.write_table(pa.table(kept), folder / "bars.parquet")
    return folder / "bars.parquet"


def served(path: Path) -> list[tuple[str, dict[str, object]]]:
    exchange = frozen(RecordedMarket(path))
    return rows(walk(exchange, symbols="A,B", start="2024-01-01", end="2024-02-01"))


def test_a_parquet_file_in_any_order_is_replayed_with_its_own_vwap_and_trade_count(tmp_path):
    assert served(write(tmp_path)) == [
        ("A", {"c": 1105, "h": 1110, "l": 1100.25, "n": 8, "o": 1105, "t": "2024-01-02T05:00:00Z"}
         | {"v": 200, "vw": 1104.5}),
        ("B", {"c": 0.15, "h": 0.2, "l": 0.1, "n": 9, "o": 0.1234, "t": "2024-01-02T05:00:00Z"}
         | {"v": 300, "vw": 0.123456}),
        ("B", {"c": 10.25, "h": 11, "l": 10, "n": 7, "o": 10.5, "t": "2024-01-03T05:00:00Z"}
         | {"v": 100, "vw": 10.333333}),
    ]  # fmt: skip


def test_instants_count_by_their_day_in_new_york(tmp_path):
    stamps = [market_calendar.session_stamp(day) for day in BARS["session"]]
    instants = pa.array(stamps, pa.timestamp("us", "UTC"))
    late = pa.array([stamp.replace(hour=23) for stamp in stamps], pa.timestamp("ns", "UTC"))
    naive = [datetime(day.year, day.month, day.day) for day in BARS["session"]]  # noqa: DTZ001
    expected = served(write(tmp_path))
    for column in (instants, late, naive):
        assert served(write(tmp_path, session=None, timestamp=column)) == expected


def test_instants_that_are_all_midnights_in_utc_are_dates(tmp_path):
    midnights = [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in BARS["session"]]
    for unit, zone in (("us", "UTC"), ("ns", "+00:00"), ("s", "America/New_York")):
        column = pa.array(midnights, pa.timestamp(unit, zone))
        assert served(write(tmp_path, session=None, timestamp=column)) == served(write(tmp_path))


def test_instants_of_a_csv_that_are_midnights_in_utc_are_dates(tmp_path):
    path = tmp_path / "bars.csv"
    path.write_text(HEADER + "A,2024-01-05T00:00:00Z,1,1,1,1,5\nA,2024-01-08T00:00:00Z,1,1,1,1,5\n")
    assert RecordedMarket(path).sessions == (date(2024, 1, 5), date(2024, 1, 8))


@pytest.mark.parametrize("kind", [pa.int32(), pa.int64(), pa.uint32()])
def test_days_may_be_numbers_of_eight_digits(tmp_path, kind):
    column = pa.array([20240103, 20240102, 20240102], kind)
    assert served(write(tmp_path, session=column)) == served(write(tmp_path))


def test_days_of_a_csv_may_be_numbers_of_eight_digits(tmp_path):
    path = tmp_path / "bars.csv"
    path.write_text(HEADER + "A,20240105,1,1,1,1,5\n")
    assert RecordedMarket(path).sessions == (date(2024, 1, 5),)


HEADER = "Symbol,date,open,high,low,close,volume\n"


@pytest.mark.parametrize("symbol", ["TRUE", "FALSE", "NA", "NAN", "INF", "NULL", "N", "T"])
def test_a_ticker_that_reads_like_another_type_is_a_ticker(tmp_path, symbol):
    path = tmp_path / "bars.csv"
    path.write_text(HEADER + f"{symbol},2024-01-05,1,1,1,1,5\n")
    assert [asset["symbol"] for asset in RecordedMarket(path).assets()] == [symbol]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"session": [20240103, 20240102, 1704240000]}, "must be like 20240105"),
        ({"session": [20240103.0, 20240102.0, 20240102.0]}, "cannot be read"),
        ({"session": [True, False, True]}, "cannot be read"),
        ({"open": ["a", "b", "c"]}, "cannot be read"),
        ({"session": None, "timestamp": MIXED}, "row 2 is a midnight in UTC"),
        ({"volume": None}, "no column volume"),
        ({"symbol": ["A", "A", "brk-b"]}, "'brk-b' is no ticker"),
        ({"symbol": ["A", None, "B"]}, "no symbol in row 2"),
        ({"close": [1.0, 2.0, None]}, "no close in row 3"),
        ({"session": [date(2024, 1, 1)] * 3}, "2024-01-01 is no XNYS session"),
        ({"session": [date(1999, 1, 4)] * 3}, "outside the XNYS calendar"),
        ({"session": [date(2024, 1, 2)] * 3}, "B has more than one bar on 2024-01-02"),
        ({"session": ["a", "b", "c"]}, "cannot be read"),
        ({"open": [1.0, -0.01, 1.0]}, "open -0.01 in row 2"),
        ({"high": [1.0, 2.0, float("nan")]}, "high nan in row 3"),
        ({"low": [float("inf"), 2.0, 1.0]}, "low inf in row 1"),
        ({"vwap": [1.0, 2.0, 1.0000001]}, "vwap 1.0000001 in row 3"),
        ({"vwap": [1.0, 2.0, 1e8]}, "vwap 100000000.0 in row 3"),
        ({"volume": [1, -1, 1]}, "volume is not everywhere"),
        ({"volume": [1.0, 1.5, 1.0]}, "volume 1.5 in row 2 is no whole number"),
        ({"trade_count": [1.0, 1.0, float("nan")]}, "trade_count nan in row 3"),
        ({name: [] for name in BARS}, "no bar"),
    ],
)
def test_a_file_that_cannot_be_replayed_is_refused_by_name(columns, message, tmp_path):
    path = write(tmp_path, **columns)
    with pytest.raises(RecordingError) as error:
        RecordedMarket(path)
    text = str(error.value).replace("np.float64(", "").replace(")", "")
    assert message in text
    assert str(path) in text


def test_a_bar_that_breaks_the_rules_of_ohlc_is_replayed_as_it_is(tmp_path):
    odd = served(write(tmp_path, open=[99.0, 1105.0, 0.1234]))
    assert (odd[2][1]["o"], odd[2][1]["h"]) == (99, 11)
