"""A symbol-year file holds one symbol's bars, is the same for the same bars, and tells damage."""

from contextlib import suppress
from datetime import date

import duckdb
import fastparquet
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA, empty
from datalake_assets.lake.symbol_year_file import decode, decode_all, encode
from datalake_assets.storage.store import BrokenFileError
from datalake_assets_tests.collection.tables import bar, every, table
from datalake_assets_tests.lake.files import before_footer, flipped

SESSIONS = market_calendar.sessions(date(2024, 1, 1), date(2024, 12, 31))
BARS = every(["BRK.B"], SESSIONS)
DATA = encode(BARS)
SMALL = every(["A"], SESSIONS[:3])
SMALL_DATA = encode(SMALL)

counts = st.integers(-(2**63), 2**63 - 1)


@st.composite
def years(draw: st.DrawFn) -> pa.Table:
    symbol = draw(st.from_regex(r"[A-Z]{1,5}(\.[A-Z]{1,2})?", fullmatch=True))
    days = sorted(draw(st.sets(st.sampled_from(SESSIONS), max_size=20)))
    prices = ("open", "high", "low", "close", "vwap")
    return table(
        bar(
            symbol,
            day,
            **{name: draw(st.floats(allow_nan=False)) for name in prices},
            volume=draw(counts),
            trade_count=draw(counts),
        )
        for day in days
    )


@given(years())
@settings(max_examples=60)
def test_what_is_encoded_is_what_is_decoded(bars: pa.Table) -> None:
    data = encode(bars)
    again = decode(data, "here")
    assert again.schema == SCHEMA
    assert again.equals(bars)
    assert encode(again) == data


@given(st.integers(0, 251), st.integers(0, 251))
@settings(max_examples=30)
def test_the_same_bars_make_the_same_bytes_wherever_they_were_cut_from(a: int, b: int) -> None:
    first, last = sorted((a, b))
    part = BARS.slice(first, last - first + 1)
    chunks = pa.concat_tables([part.slice(0, 1), part.slice(1)])
    assert encode(part) == encode(chunks) == encode(every(["BRK.B"], SESSIONS[first : last + 1]))


def test_a_file_without_bars_is_one_all_the_same() -> None:
    assert decode(encode(empty()), "here").equals(empty())


def test_a_year_takes_no_more_room_than_it_must() -> None:
    assert len(DATA) < 16_000  # six columns of random numbers of 252 rows: 12,096 bytes of them


def test_other_readers_see_the_same_rows() -> None:
    arrow = pq.read_table(pa.BufferReader(DATA))
    assert arrow.cast(SCHEMA).equals(BARS)
    assert arrow.schema.field("timestamp").type == pa.timestamp("us", tz="UTC")
    assert pl.read_parquet(DATA).to_arrow().cast(SCHEMA).equals(BARS)


def test_duckdb_sees_the_same_rows(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("duckdb") / "ticks.parquet"
    path.write_bytes(DATA)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.execute(f"SELECT * FROM '{path}'").to_arrow_table()
    assert rows.cast(SCHEMA).equals(BARS)


@given(years())
@settings(max_examples=40)
def test_fastparquet_sees_the_same_numbers(
    tmp_path_factory: pytest.TempPathFactory, bars: pa.Table
) -> None:
    """It reads some encodings of whole numbers wrong and says nothing."""
    if not bars.num_rows:
        return
    path = tmp_path_factory.mktemp("fastparquet") / "ticks.parquet"
    path.write_bytes(encode(bars))
    with path.open("rb") as file:
        found = fastparquet.ParquetFile(file).to_pandas()
    assert list(found.columns) == SCHEMA.names
    for name in ("symbol", "open", "high", "low", "close", "vwap", "volume", "trade_count"):
        assert found[name].tolist() == bars[name].to_pylist(), name
    assert found["session"].dt.date.tolist() == bars["session"].to_pylist()
    stamps = (
        found["timestamp"].dt.tz_localize("UTC")
        if found["timestamp"].dt.tz is None
        else (found["timestamp"])
    )
    assert stamps.tolist() == bars["timestamp"].to_pylist()


def test_only_encodings_are_used_that_every_reader_knows() -> None:
    group = pq.read_metadata(pa.BufferReader(DATA)).row_group(0)
    used = {name for n in range(group.num_columns) for name in group.column(n).encodings}
    assert used <= {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY"}


def test_files_of_another_codec_are_read_as_well() -> None:
    for codec in ("zstd", "lz4", "none"):
        buffer = pa.BufferOutputStream()
        pq.write_table(BARS, buffer, compression=codec)
        assert decode(bytes(buffer.getvalue()), "here").equals(BARS)


def test_readers_find_in_the_footer_which_sessions_there_are() -> None:
    metadata = pq.read_metadata(pa.BufferReader(DATA))
    statistics = metadata.row_group(0).column(SCHEMA.get_field_index("session")).statistics
    assert (statistics.min, statistics.max) == (SESSIONS[0], SESSIONS[-1])


# Damage


def test_a_file_cut_anywhere_is_broken() -> None:
    for length in range(len(SMALL_DATA)):
        with pytest.raises(BrokenFileError, match="A/2024 is no whole symbol-year file"):
            decode(SMALL_DATA[:length], "A/2024")


def test_the_error_says_what_to_do() -> None:
    with pytest.raises(BrokenFileError, match="publish its year again"):
        decode(b"<html>", "here")


def test_any_flipped_bit_in_the_pages_is_noticed_or_changes_nothing() -> None:
    for place in range(4, len(before_footer(SMALL_DATA))):
        for bit in range(8):
            with suppress(BrokenFileError):
                assert decode(flipped(SMALL_DATA, place, bit), "here").equals(SMALL)


@given(st.integers(0, len(DATA) - 1), st.integers(0, 7))
@settings(max_examples=300)
def test_a_flipped_bit_anywhere_raises_nothing_but_broken_file_error(place: int, bit: int) -> None:
    with suppress(BrokenFileError):
        decode(flipped(DATA, place, bit), "here")


def test_of_several_files_each_is_read_or_broken_as_it_would_be_alone() -> None:
    pages = pq.read_metadata(pa.BufferReader(SMALL_DATA)).row_group(0)
    page = flipped(SMALL_DATA, pages.column(3).data_page_offset + 60, 0)
    buffer = pa.BufferOutputStream()
    pq.write_table(BARS.drop_columns(["close"]), buffer)
    files = {
        "whole": DATA,
        "cut": SMALL_DATA[:-30],
        "page": page,
        "lacking": bytes(buffer.getvalue()),
        "small": SMALL_DATA,
        "nothing": b"",
    }
    found = dict(zip(files, decode_all(files), strict=True))
    assert found["whole"].equals(BARS)
    assert found["small"].equals(SMALL)
    for where in ("cut", "page", "lacking", "nothing"):
        with pytest.raises(BrokenFileError) as alone:
            decode(files[where], where)
        assert str(found[where]) == str(alone.value)
        assert str(found[where]).startswith(f"{where} is no whole symbol-year file")
        assert type(found[where].__cause__) is type(alone.value.__cause__) is not type(None)
    assert decode_all({}) == []


def test_of_several_files_the_columns_that_are_wanted_come() -> None:
    columns = ["session", "close"]
    found = decode_all({"one": DATA, "other": SMALL_DATA}, columns)
    assert [bars.equals(of.select(columns)) for bars, of in zip(found, (BARS, SMALL), strict=True)]


@pytest.mark.parametrize("name", ["symbol", "close"])
def test_a_file_that_lacks_a_column_is_broken(name: str) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(BARS.drop_columns([name]), buffer)
    with pytest.raises(BrokenFileError):
        decode(bytes(buffer.getvalue()), "here")
