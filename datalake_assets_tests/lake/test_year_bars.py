"""A year's bars come back sorted, whatever its size and that of bands, runs and pieces."""

import tempfile
from collections.abc import Mapping
from datetime import date
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.bars import empty
from datalake_assets.lake import year_bars
from datalake_assets.lake.fingerprint import fingerprint
from datalake_assets.lake.year_bars import YearBars
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store, StoreError, open_store
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.lake.files import rewritten, session_bytes

DAYS = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 12))
NAMES = ["A", "AA", "AB", "B", "BRK.A", "BRK.B", "C", "Z"]

Year = Mapping[date, frozenset[str]]


def rows_of(day: date, symbols: frozenset[str]) -> pa.Table:
    made = [bar(symbol, day, vwap=None if symbol == "C" else 2.0) for symbol in sorted(symbols)]
    return table(made) if made else empty()


def written(year: Year) -> Store:
    store = open_store("memory://")
    for day, symbols in year.items():
        store.put(layout.session_key(day), session_bytes(day, rows_of(day, symbols)))
    return store


years = st.dictionaries(st.sampled_from(DAYS), st.frozensets(st.sampled_from(NAMES)))


@given(years, st.integers(1, 9), st.integers(1, 20), st.integers(1, 9), st.sampled_from([1, 9999]))
@settings(max_examples=80)
def test_the_bands_are_all_rows_by_symbol_and_session(
    year: Year, band: int, run: int, piece: int, memory: int
) -> None:
    days = sorted(year)
    all_rows = pa.concat_tables([empty(), *(rows_of(day, year[day]) for day in days)])
    expected = all_rows.sort_by([("symbol", "ascending"), ("session", "ascending")])
    sizes = {"BAND": band, "_RUN": run, "_PIECE": piece, "_IN_MEMORY": memory}
    with patch.multiple(year_bars, **sizes), YearBars.read(written(year), days) as bars:
        bands = list(bars.bands())
        assert pa.concat_tables([empty(), *(each.bars for each in bands)]).equals(expected)
        for each in bands:
            # The symbol that fills it ends it.
            before_the_last = list(each.spans.values())[-1][0]
            assert before_the_last < band
        assert list(bars.fingerprints) == sorted(set(expected["symbol"].to_pylist()))
        for symbol, told in bars.fingerprints.items():
            start, rows = expected["symbol"].index(symbol).as_py(), told.rows
            assert bars.of(symbol).equals(expected.slice(start, rows))
            assert fingerprint(bars.of(symbol)) == told
        assert bars.digests == {day: fingerprint(rows_of(day, year[day])) for day in days}


def test_a_symbol_without_bars_is_an_error() -> None:
    store = written({DAYS[0]: frozenset("A")})
    with YearBars.read(store, DAYS[:1]) as bars, pytest.raises(KeyError):
        bars.of("B")


def test_bars_that_come_back_other_than_they_were_kept_are_not_given_to_anybody() -> None:
    class Forgetful(tempfile.SpooledTemporaryFile[bytes]):
        def write(self, data: Any) -> int:
            # A bit of a price: what is around it is whole.
            at, kept = bytes(data).rindex(np.float64(2.0).tobytes()), bytearray(data)
            kept[at + 6] ^= 1
            return super().write(bytes(kept))

    store = written({DAYS[0]: frozenset("A")})
    with (
        patch.object(tempfile, "SpooledTemporaryFile", Forgetful),
        YearBars.read(store, DAYS[:1]) as bars,
        pytest.raises(StoreError, match="came back other than they were kept.*publish the year"),
    ):
        bars.of("A")


def test_sessions_that_were_altered_are_all_named() -> None:
    store = written({day: frozenset("AB") for day in DAYS[:3]})
    for day in DAYS[:2]:
        key = layout.session_key(day)
        store.put(key, rewritten(store.get(key), rows_of(day, frozenset("A"))))
    with pytest.raises(BrokenFileError) as caught:
        YearBars.read(store, DAYS[:3])
    assert [f"{day}.parquet was changed" in str(caught.value) for day in DAYS[:3]] == [
        True,
        True,
        False,
    ]


def test_no_room_for_the_temporary_file_says_what_to_do() -> None:
    class Full(tempfile.SpooledTemporaryFile[bytes]):
        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    store = written({DAYS[0]: frozenset("A")})
    with (
        patch.object(tempfile, "SpooledTemporaryFile", Full),
        pytest.raises(StoreError, match="No space left on device.*TMPDIR"),
    ):
        YearBars.read(store, DAYS[:1])
