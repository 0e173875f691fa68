"""The year file: sorted, whole, read right by every reader, and only what is asked for."""

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from unittest.mock import patch

import duckdb
import fastparquet
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.lake import year_bars, year_file
from datalake_assets.lake.manifest import Manifest
from datalake_assets.lake.year_bars import YearBars
from datalake_assets.lake.year_file import YearFile, merged
from datalake_assets.securities.evidence import days_of
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, open_store
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.lake.files import flipped, session_bytes

DAYS = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 8))
Traded = Mapping[date, Iterable[str]]
"""The symbols that traded in each session."""

FOUR: Traded = {
    DAYS[0]: "ABCD",
    DAYS[1]: "AC",
    DAYS[2]: "ABCD",
    DAYS[3]: "D",
}


def encoded(traded: Traded, band: int = 4) -> bytes:
    """A year file of these sessions, in bands of so many rows."""
    store = open_store("memory://")
    for day, symbols in traded.items():
        store.put(layout.session_key(day), session_bytes(day, rows_of(day, symbols)))
    with (
        patch.object(year_bars, "BAND", band),
        closing(YearBars.read(store, sorted(traded))) as bars,
    ):
        at = datetime(2024, 7, 9, tzinfo=UTC)
        return year_file.encode(bars, Manifest(2024, bars.sessions, {}, "r", at, bars.digests))


def rows_of(day: date, symbols: Iterable[str]) -> pa.Table:
    vwaps = {symbol: None if symbol == "B" else 1.0 + ord(symbol) for symbol in symbols}
    return table(bar(symbol, day, vwap=vwaps[symbol]) for symbol in sorted(vwaps))


def truth(
    traded: Traded, names: Iterable[str] | None = None, days: Sequence[date] | None = None
) -> pa.Table:
    """The rows by symbol and session, made without the code under test."""
    every = [
        (symbol, day)
        for day, symbols in traded.items()
        for symbol in symbols
        if (names is None or symbol in names) and (days is None or day in days)
    ]
    return pa.concat_tables(
        [SCHEMA.empty_table(), *(rows_of(day, [symbol]) for symbol, day in sorted(every))]
    )


def read(
    data: bytes,
    names: frozenset[str] | None = None,
    days: Sequence[date] | None = None,
    columns: Sequence[str] = SCHEMA.names,
) -> pa.Table:
    file = YearFile(data, "here")
    numbers = None if days is None else days_of(pa.chunked_array([pa.array(days, pa.date32())]))
    groups = range(file.count) if names is None else file.holding(names)
    return file.read(groups, names, numbers, columns).table(columns)


def test_a_file_holds_all_rows_by_symbol_and_session() -> None:
    found = read(encoded(FOUR))
    assert found.schema == SCHEMA
    assert found.equals(truth(FOUR))


def test_no_symbol_is_divided_and_the_statistics_tell_where_it_is() -> None:
    data = encoded(FOUR)
    footer = pq.read_metadata(io.BytesIO(data))
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    spans = [(group.column(0).statistics.min, group.column(0).statistics.max) for group in groups]
    assert spans == [("A", "B"), ("C", "C"), ("D", "D")]
    for group in groups:
        assert [(one.column_index, one.descending) for one in group.sorting_columns] == [
            (SCHEMA.get_field_index("symbol"), False),
            (SCHEMA.get_field_index("session"), False),
        ]
        for number in range(group.num_columns):
            column = group.column(number)
            assert column.statistics.has_min_max
            assert column.has_offset_index
            packed = column.path_in_schema not in ("vwap", "volume")
            assert column.compression == ("SNAPPY" if packed else "UNCOMPRESSED")
    file = YearFile(data, "here")
    held = [file.holding(frozenset(names)) for names in ("A", "BC", "DA", ["AA"], ["BB"], "0E")]
    # Between A and B only reading tells.
    assert held == [[0], [0, 1], [0, 2], [0], [], []]


def test_the_footer_tells_which_sessions_it_was_made_from() -> None:
    made_from = YearFile(encoded(FOUR), "here").made_from
    assert (made_from.year, made_from.run_id, made_from.whole) == (2024, "r", True)
    assert list(made_from.sessions) == list(made_from.digests) == sorted(FOUR)


@given(
    names=st.none() | st.frozensets(st.sampled_from("ABCDE")),
    days=st.none() | st.sets(st.sampled_from(DAYS)).map(sorted),
    columns=st.sets(st.sampled_from(SCHEMA.names), min_size=1),
)
def test_what_is_asked_for_is_what_comes(
    names: frozenset[str] | None, days: list[date] | None, columns: set[str]
) -> None:
    wanted = [name for name in SCHEMA.names if name in columns]
    assert read(ENCODED, names, days, wanted).equals(truth(FOUR, names, days).select(wanted))


ENCODED = encoded(FOUR)


@pytest.mark.parametrize("days", [None, DAYS[:2]])
def test_row_groups_that_are_decoded_one_after_the_other_bring_the_same(
    days: list[date] | None,
) -> None:
    with patch.object(year_file, "_TOGETHER", 1):
        found = read(ENCODED, frozenset("ABD"), days)
    assert found.equals(truth(FOUR, "ABD", days))


@pytest.mark.parametrize("name", SCHEMA.names)
def test_a_flipped_bit_is_found_in_every_column(name: str) -> None:
    group = pq.read_metadata(io.BytesIO(ENCODED)).row_group(1)
    chunk = group.column(SCHEMA.get_field_index(name))
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    with pytest.raises(BrokenFileError, match="here is no whole year file"):
        read(flipped(ENCODED, begin + chunk.total_compressed_size - 1, 0))


def test_columns_that_nobody_wants_are_not_decoded() -> None:
    file = YearFile(ENCODED, "here")
    damaged = bytearray(ENCODED)
    chunk = pq.read_metadata(io.BytesIO(ENCODED)).row_group(0).column(4)
    damaged[chunk.data_page_offset + 40] ^= 1
    assert YearFile(bytes(damaged), "here").read([0], columns=["symbol", "close"]).symbols == [
        *file.read([0]).symbols
    ]
    with pytest.raises(BrokenFileError, match="here is no whole year file"):
        YearFile(bytes(damaged), "here").read([0])


def test_years_are_put_in_one_order() -> None:
    parts = [
        YearFile(encoded({DAYS[0]: "BD"}), "a").read([0]),
        YearFile(encoded({DAYS[1]: "ABC"}), "b").read([0]),
        YearFile(encoded({DAYS[2]: "BE"}), "c").read([0]),
    ]
    every: Traded = {DAYS[0]: "BD", DAYS[1]: "ABC", DAYS[2]: "BE"}
    assert merged(parts).table().equals(truth(every))
    assert merged(parts).symbols == ["A", "B", "C", "D", "E"]
    names = [YearFile(encoded({day: "BA"}), "").read([0], columns=["symbol"]) for day in DAYS[:2]]
    assert merged(names).table(["symbol"])["symbol"].to_pylist() == ["A", "A", "B", "B"]
    nothing = YearFile(ENCODED, "").read([])
    assert merged([nothing, parts[0], nothing]).table().equals(truth({DAYS[0]: "BD"}))


def test_a_year_without_a_bar_is_a_file_without_rows() -> None:
    data = encoded({DAYS[0]: ""})
    assert read(data).num_rows == 0
    assert pl.read_parquet(io.BytesIO(data)).height == 0


def test_every_reader_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "bars.parquet"
    path.write_bytes(ENCODED)
    expected = truth(FOUR).to_pylist()
    found = {
        "pyarrow": pq.read_table(path).to_pylist(),
        "Polars": pl.read_parquet(path).to_dicts(),
        "DuckDB": duckdb.sql(f"SET TimeZone = 'UTC'; FROM '{path}'").to_arrow_table().to_pylist(),
    }
    for reader, rows in found.items():
        assert rows == expected, reader
    frames = [pd.read_parquet(path), fastparquet.ParquetFile(io.BytesIO(ENCODED)).to_pandas()]
    for frame in frames:
        for name in ("open", "high", "low", "close", "volume", "trade_count"):
            assert frame[name].tolist() == truth(FOUR)[name].to_pylist(), name
        assert frame["symbol"].astype(str).tolist() == truth(FOUR)["symbol"].to_pylist()
        assert frame["vwap"].isna().sum() == 2


def test_bytes_that_are_none_are_refused() -> None:
    broken = [b"", ENCODED[:-9], ENCODED[-9:], session_bytes(DAYS[0], rows_of(DAYS[0], "A"))]
    for data in broken:
        with pytest.raises(BrokenFileError, match="here is no whole year file .* publish its year"):
            YearFile(data, "here")


def test_a_file_that_another_program_shuffled_is_refused() -> None:
    rows = truth(FOUR)
    shuffled = io.BytesIO()
    with pq.ParquetWriter(shuffled, SCHEMA, store_schema=False) as writer:
        writer.write_table(rows.take(list(range(rows.num_rows))[::-1]))
        writer.add_key_value_metadata(YearFile(ENCODED, "").made_from.metadata())
    with pytest.raises(BrokenFileError, match="here is no whole year file"):
        YearFile(ENCODED[9:], "here").read([0])
    with pytest.raises(BrokenFileError, match="its symbols are not sorted"):
        YearFile(shuffled.getvalue(), "here").read([0])
