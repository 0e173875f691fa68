"""The same rows have the same fingerprint, in any order and split; any other bit has another."""

import hashlib
import struct
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets.collection.bars import SCHEMA, empty
from datalake_assets.lake import fingerprint as fingerprint_module
from datalake_assets.lake.fingerprint import (
    _BLOCK,
    Fingerprint,
    RowHashes,
    fingerprint,
    fingerprints,
    fingerprints_of,
)
from datalake_assets_tests.collection.tables import MONDAY, WEEK, bar, every, names, table

ROWS = every(names(5), WEEK[:4])
GOLDEN = "14555eff5eb63df8ac6605643c824fcb"
"""Of `ROWS`. Manifests in people's lakes hold such numbers: another one uploads every lake anew."""

bits = st.integers(0, 2**64 - 1)


def as_float(word: int) -> float:
    """The number of these bits: any, NaNs and infinities of all kinds included."""
    (number,) = struct.unpack("<d", struct.pack("<Q", word))
    return float(number)


@st.composite
def rows(draw: st.DrawFn) -> pa.Table:
    found = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["A", "B", "BRK.B", ""]),
                st.sampled_from(WEEK),
                st.floats(),
                st.integers(-(2**63), 2**63 - 1),
            ),
            max_size=12,
        )
    )
    return table(
        bar(symbol, day, close=price, volume=volume) for symbol, day, price, volume in found
    )


def mixed(word: int) -> int:
    """The finalizer of splitmix64."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31


def word_of(value: Any) -> int:
    """The 64 bits of a value, as Arrow keeps it in a table of bars."""
    match value:
        case datetime():
            value = (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        case date():
            value = (value - date(1970, 1, 1)).days
        case float():
            (value,) = struct.unpack("<Q", struct.pack("<d", value))
    return int(value or 0) % 2**64


def hashes_of(row: dict[str, Any]) -> tuple[int, int]:
    """The two hashes of a row, as they are defined, one number after the other."""
    name = row["symbol"].encode()
    state = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
    for value in list(row.values())[1:]:
        state = mixed(state * 0x9E3779B97F4A7C15 % 2**64 ^ word_of(value))
        if value is None:
            state = mixed(state ^ 0x7FF4_6E75_6C6C_2E2E)
    return mixed(state ^ 0x9E3779B97F4A7C15), mixed(state ^ 0xD1B54A32D192ED03)


@given(rows(), st.data())
def test_each_row_hashes_to_what_the_definition_says(bars: pa.Table, data: st.DataObject) -> None:
    told = bars.to_pylist()
    for row in told:
        row["vwap"] = data.draw(st.none() | st.floats(allow_nan=False))
        row["trade_count"] = data.draw(st.none() | st.integers(0, 2**63 - 1))
        if row["close"] != row["close"]:
            row["close"] = 0.0  # which NaN it is does not survive Python
    bars = table(told)
    cut = data.draw(st.integers(0, bars.num_rows))
    for some in (bars, bars.slice(cut), pa.concat_tables([bars.slice(0, cut), bars.slice(cut)])):
        found = RowHashes.of(some)
        expected = [hashes_of(row) for row in some.to_pylist()]
        assert list(zip(found.low.tolist(), found.high.tolist(), strict=True)) == expected


@pytest.mark.parametrize("rows", [1, _BLOCK - 1, _BLOCK, _BLOCK + 1, 2 * _BLOCK, 2 * _BLOCK + 1])
def test_rows_hash_the_same_in_a_table_of_any_length(rows: int) -> None:
    some = [bar("A"), bar("B", vwap=None), bar("C", close=-0.0, trade_count=None)]
    places = np.arange(rows) % len(some)
    alone = RowHashes.of(table(some))
    found = RowHashes.of(table(some).take(pa.array(places)))
    assert np.array_equal(found.low, alone.low[places])
    assert np.array_equal(found.high, alone.high[places])


def test_neither_the_rows_nor_the_given_hashes_of_symbols_are_changed() -> None:
    bars = table([bar("A"), bar("B", vwap=None)])
    before, given_ = bars.to_pylist(), np.array([7, 8], np.uint64)
    RowHashes.of(bars, given_)
    assert bars.to_pylist() == before
    assert given_.tolist() == [7, 8]


@given(rows(), st.randoms())
def test_the_order_of_the_rows_does_not_matter(bars: pa.Table, random: Any) -> None:
    order = list(range(bars.num_rows))
    random.shuffle(order)
    assert fingerprint(bars.take(pa.array(order, pa.int64()))) == fingerprint(bars)


@given(rows(), st.lists(st.integers(0, 12), max_size=4))
def test_the_parts_add_up_to_the_whole_however_it_is_split(
    bars: pa.Table, cuts: Sequence[int]
) -> None:
    places = [0, *sorted(min(cut, bars.num_rows) for cut in cuts), bars.num_rows]
    parts = [bars.slice(a, b - a) for a, b in pairwise(places)]
    assert sum(map(fingerprint, parts), Fingerprint()) == fingerprint(bars)
    assert fingerprint(pa.concat_tables(parts)) == fingerprint(bars)  # several chunks


@given(rows(), st.data())
def test_runs_of_rows_have_the_fingerprints_that_they_have_alone(
    bars: pa.Table, data: st.DataObject
) -> None:
    if not bars.num_rows:
        return
    more = data.draw(st.sets(st.integers(1, bars.num_rows - 1))) if bars.num_rows > 1 else set()
    starts = [0, *sorted(more)]
    ends = [*starts[1:], bars.num_rows]
    assert fingerprints(bars, np.array(starts)) == [
        fingerprint(bars.slice(a, b - a)) for a, b in zip(starts, ends, strict=True)
    ]


@given(st.lists(rows(), max_size=6), st.integers(1, 20))
def test_tables_that_are_hashed_together_have_the_fingerprints_that_they_have_alone(
    tables: list[pa.Table], block: int
) -> None:
    def of_symbol(name: str) -> int:
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")

    symbols = [
        np.array([of_symbol(name) for name in each["symbol"].to_pylist()], np.uint64)
        for each in tables
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fingerprint_module, "_BLOCK", block)
        found = fingerprints_of(tables, symbols)
    assert found == [fingerprint(each) for each in tables]


def test_a_row_twice_is_not_the_row_once() -> None:
    twice = pa.concat_tables([ROWS, ROWS.slice(0, 1)])
    assert fingerprint(twice) != fingerprint(ROWS)
    assert fingerprint(twice).digest != fingerprint(ROWS).digest


def test_no_rows_have_the_fingerprint_that_adds_nothing() -> None:
    assert fingerprint(empty()) == Fingerprint()
    assert fingerprint(ROWS) + Fingerprint() == fingerprint(ROWS)


WORDS = [name for name in SCHEMA.names if SCHEMA.field(name).type in (pa.float64(), pa.int64())]


@pytest.mark.parametrize("name", WORDS)
@given(word=bits, bit=st.integers(0, 63))
def test_any_changed_bit_of_a_number_changes_the_fingerprint(
    name: str, word: int, bit: int
) -> None:
    one, other = (with_bits(name, bits) for bits in (word, word ^ 1 << bit))
    assert fingerprint(one).digest != fingerprint(other).digest


@pytest.mark.parametrize("name", ["vwap", "trade_count"])
@given(word=bits)
def test_a_missing_value_is_another_one_than_any_number_and_the_same_wherever_it_stands(
    name: str, word: int
) -> None:
    given_ = with_bits(name, word)
    none = given_.set_column(
        SCHEMA.get_field_index(name),
        SCHEMA.field(name),
        pc.if_else(pa.array([True, False]), given_[name], None),
    )
    assert none[name].null_count == 1
    assert fingerprint(none).digest != fingerprint(given_).digest
    assert fingerprint(none) == fingerprint(table(none.to_pylist()))  # whatever lay below it
    parts = [none.slice(0, 1), none.slice(1)]
    assert sum(map(fingerprint, parts), Fingerprint()) == fingerprint(none)


@given(st.integers(0, 2**40), st.binary(min_size=16, max_size=16))
def test_a_fingerprint_goes_into_metadata_and_comes_back(rows: int, digest: bytes) -> None:
    given_ = Fingerprint.of_digest(rows, digest)
    assert Fingerprint.from_text(given_.to_text()) == given_


@pytest.mark.parametrize("text", ["", "3", "3:", "3:00", "x:" + "0" * 32, "3:" + "g" * 32])
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"fingerprint|literal|hexadecimal"):
        Fingerprint.from_text(text)


def with_bits(name: str, word: int) -> pa.Table:
    """Two rows, one of them with these bits in a column."""
    of = table([bar("A"), bar("B")])
    words = of[name].to_numpy().view(np.uint64).copy()
    words[1] = word
    column = words.view(SCHEMA.field(name).type.to_pandas_dtype())
    place = SCHEMA.get_field_index(name)
    return of.set_column(place, SCHEMA.field(name), pa.array(column, from_pandas=False))


@given(st.text(max_size=4), st.text(max_size=4))
def test_another_symbol_changes_the_fingerprint(one: str, other: str) -> None:
    same = fingerprint(table([bar("A") | {"symbol": one}])) == fingerprint(
        table([bar("A") | {"symbol": other}])
    )
    assert same == (one == other)


@given(st.dates(), st.dates())
def test_another_session_changes_the_fingerprint(one: Any, other: Any) -> None:
    same = fingerprint(table([bar("A") | {"session": one}])) == fingerprint(
        table([bar("A") | {"session": other}])
    )
    assert same == (one == other)


@given(st.datetimes(), st.datetimes())
def test_another_timestamp_changes_the_fingerprint(one: Any, other: Any) -> None:
    same = fingerprint(table([bar("A") | {"timestamp": one}])) == fingerprint(
        table([bar("A") | {"timestamp": other}])
    )
    assert same == (one == other)


def test_values_do_not_move_between_columns_or_rows_unnoticed() -> None:
    first, second = bar("A", open=1.0, close=2.0), bar("B", open=1.0, close=2.0)
    before = fingerprint(table([first, second]))
    within = fingerprint(table([{**first, "open": 2.0, "close": 1.0}, second]))
    between = fingerprint(
        table([{**first, "volume": second["volume"]}, {**second, "volume": first["volume"]}])
    )
    assert len({before, within, between}) == 3


def test_minus_zero_is_not_zero_and_a_nan_is_itself() -> None:
    found = [
        fingerprint(table([bar("A", close=close)]))
        for close in (0.0, -0.0, float("nan"), -float("nan"), float("inf"))
    ]
    assert len(set(found)) == 5
    assert fingerprint(table([bar("A", close=float("nan"))])) == found[2]


@given(st.integers(0, 2**31), bits, bits)
def test_a_digest_is_read_back(count: int, low: int, high: int) -> None:
    made = Fingerprint(count, (low, high))
    assert len(made.digest) == 16
    assert Fingerprint.of_digest(count, made.digest) == made


def test_a_fingerprint_is_the_same_for_ever_and_in_every_process() -> None:
    assert (fingerprint(ROWS).rows, fingerprint(ROWS).digest.hex()) == (20, GOLDEN)
    script = (
        "from datalake_assets_tests.lake.test_fingerprint import ROWS, fingerprint\n"
        "print(fingerprint(ROWS).digest.hex(), end='')"
    )
    told = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == GOLDEN


def test_a_row_is_read_by_its_values_and_not_by_how_arrow_holds_them() -> None:
    dictionary = ROWS.set_column(0, "symbol", ROWS["symbol"].combine_chunks().dictionary_encode())
    assert fingerprint(dictionary.cast(SCHEMA)) == fingerprint(ROWS)
    sliced = pa.concat_tables([every(["ZZ"], [MONDAY]), ROWS]).slice(1)
    assert fingerprint(sliced) == fingerprint(ROWS)
