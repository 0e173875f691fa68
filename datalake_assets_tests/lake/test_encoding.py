"""A session's bars are written as its dataset says, and any reader reads them right."""

import hashlib
import io
from dataclasses import replace
from datetime import date
from typing import Any

import fastparquet
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.lake import session_file
from datalake_assets.lake.encoding import DAILY_ENCODING, MINUTE_ENCODING, encode_bars, runs
from datalake_assets.storage.store import BrokenFileError
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.lake.files import alike_but_for, rewritten, session_bytes
from datalake_assets_tests.lake.minutes import collected_minutes, session_of

DAY = date(2024, 7, 3)


def minute_bytes(bars: pa.Table, **states: Any) -> bytes:
    return session_file.encode(collected_minutes(DAY, bars, **states), [], MINUTE)


@pytest.fixture(scope="module")
def minutes() -> pa.Table:
    """Three symbols, with missing values among them."""
    rows = session_of(["A", "B", "BRK.B"], DAY).to_pylist()
    for n in range(0, len(rows), 7):
        rows[n] |= {"vwap": None, "trade_count": None}
    return pa.Table.from_pylist(rows, SCHEMA)


def test_a_session_of_minutes_comes_back_with_its_ledger(minutes: pa.Table) -> None:
    data = minute_bytes(minutes, no_print=("C",), failed={"D": "HTTP 500"})
    found = session_file.decode(data, "here")

    assert found.bars == minutes
    assert found.ledger.present == ("A", "B", "BRK.B")
    assert (found.ledger.no_print, found.ledger.failed) == (("C",), {"D": "HTTP 500"})


def test_its_footer_tells_symbols_and_rows(minutes: pa.Table) -> None:
    data = minute_bytes(minutes, no_print=("C",))
    told = session_file.summarize(data[-session_file.footer_size(data) :], "here")

    assert (told.rows, told.counts["present"], told.counts["no_print"]) == (630, 3, 1)
    daily = session_file.summarize(session_bytes(DAY, table([bar("A", DAY)])), "here")
    assert (daily.rows, daily.counts["present"]) == (1, 1)


def test_a_minute_that_is_gone_is_told(minutes: pa.Table) -> None:
    changed = rewritten(minute_bytes(minutes), minutes.slice(1))

    with pytest.raises(BrokenFileError, match="it holds 629 rows, .* was written with 630 rows"):
        session_file.decode(changed, "here")


def test_the_same_minutes_make_the_same_bytes(minutes: pa.Table) -> None:
    chunked = pa.concat_tables([minutes.slice(0, 100), minutes.slice(100)])

    assert alike_but_for(minute_bytes(minutes), minute_bytes(chunked))
    assert minute_bytes(minutes) == minute_bytes(chunked)


@pytest.mark.parametrize("wrong", ["a minute twice", "two minutes in another order", "of symbols"])
def test_minutes_that_are_not_in_order_are_not_encoded(minutes: pa.Table, wrong: str) -> None:
    order = list(range(minutes.num_rows))
    match wrong:
        case "a minute twice":
            order.insert(5, 5)
        case "two minutes in another order":
            order[5], order[6] = order[6], order[5]
        case "of symbols":
            order = [*order[210:], *order[:210]]
    session = replace(collected_minutes(DAY, minutes), bars=minutes.take(order))

    with pytest.raises(ValueError, match="ledger calls present, by symbol and timestamp, each"):
        session_file.encode(session, [], MINUTE)


def test_a_symbol_with_two_rows_is_no_daily_session() -> None:
    rows = [bar("A", DAY), bar("A", DAY), bar("B", DAY)]
    session = replace(collected_minutes(DAY, table(rows)))

    with pytest.raises(ValueError, match="by symbol, each of them once"):
        session_file.encode(session, [])


def test_daily_bars_are_written_as_ever() -> None:
    """The same bytes: what is published again must not look like a change."""
    rows = table(bar(f"S{n:05}", DAY) for n in range(3))
    data = encode_bars(rows, {}, DAILY_ENCODING)
    before = io.BytesIO()
    with pq.ParquetWriter(
        before,
        SCHEMA,
        compression="zstd",
        use_dictionary=["session", "timestamp"],
        write_statistics=["symbol", "session"],
        sorting_columns=[pq.SortingColumn(0)],
        store_schema=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(rows, row_group_size=65_536)
        writer.add_key_value_metadata({})

    assert hashlib.sha256(data).digest() == hashlib.sha256(before.getvalue()).digest()
    many = pa.concat_tables([rows] * 30_000)
    footer = pq.read_metadata(pa.BufferReader(encode_bars(many, {}, DAILY_ENCODING)))
    assert [footer.row_group(n).num_rows for n in range(2)] == [65_536, 24_464]


@given(st.lists(st.integers(1, 12), max_size=20), st.integers(1, 15))
@settings(deadline=None)
def test_a_row_group_ends_with_a_symbol_once_it_is_full(counts: list[int], least: int) -> None:
    day = session_of(["A"], DAY).slice(0, 12)
    parts = [
        day.slice(0, count).set_column(0, SCHEMA.field(0), pa.array([f"S{n:02}"] * count))
        for n, count in enumerate(counts)
    ]
    bars = pa.concat_tables([SCHEMA.empty_table(), *parts])
    data = encode_bars(bars, {}, replace(MINUTE_ENCODING, group_rows=least))
    file = pq.ParquetFile(pa.BufferReader(data))

    assert file.read().cast(SCHEMA) == bars
    ends = set(np.cumsum(counts).tolist())
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert set(np.cumsum(sizes).tolist()) - {0} <= ends
    for size, end in zip(sizes[:-1], np.cumsum(sizes).tolist(), strict=False):
        # It would not have been full without its last symbol.
        assert size >= least > size - max(c for c, e in _ends(counts) if e == end)


def _ends(counts: list[int]) -> list[tuple[int, int]]:
    return list(zip(counts, np.cumsum(counts).tolist(), strict=True))


def test_runs_are_each_value_and_how_often_it_comes_in_a_row() -> None:
    column = pa.chunked_array([["A", "A"], ["A", "B"], [], ["A"]])
    values, counts = runs(column)

    assert (values.to_pylist(), counts.tolist()) == (["A", "B", "A"], [3, 1, 1])
    values, counts = runs(pa.chunked_array([], pa.string()))
    assert (len(values), len(counts)) == (0, 0)


def test_its_pages_have_checksums_and_encodings_that_every_reader_knows(
    minutes: pa.Table,
) -> None:
    data = minute_bytes(minutes)
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    used = {e for n in range(group.num_columns) for e in group.column(n).encodings}
    assert used == {"PLAIN", "RLE", "RLE_DICTIONARY"}

    truth = minutes.to_pydict()
    frame = fastparquet.ParquetFile(io.BytesIO(data)).to_pandas()
    found = pl.read_parquet(data).to_dict(as_series=False)
    for name in ("open", "high", "low", "close", "volume", "symbol"):
        assert frame[name].tolist() == truth[name] == found[name]
    assert found["timestamp"] == truth["timestamp"]
    assert found["trade_count"] == truth["trade_count"]
    times = frame["timestamp"].dt.tz_localize("UTC").tolist()
    assert [each.to_pydatetime() for each in times] == truth["timestamp"]
    counts = frame["trade_count"].astype(object).where(frame["trade_count"].notna(), None)
    assert counts.tolist() == truth["trade_count"]
