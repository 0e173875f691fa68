"""A manifest is read back as it was written, from its end alone too, and tells damage."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.lake.fingerprint import Fingerprint
from datalake_assets.lake.manifest import SCHEMA, Entry, Manifest
from datalake_assets.storage.store import BrokenFileError
from datalake_assets_tests.lake.files import before_footer, flipped, footer_size

sums = st.integers(0, 2**64 - 1)
entries = st.builds(
    Entry,
    st.builds(Fingerprint, st.integers(0, 2**31 - 1), st.tuples(sums, sums)),
    st.text(max_size=40),
    st.integers(0, 2**40),
)
manifests = st.builds(
    Manifest,
    year=st.integers(1, 9999),
    sessions=st.dictionaries(st.dates(), st.text(max_size=40), max_size=6),
    symbols=st.dictionaries(st.text(min_size=1, max_size=8), entries | st.none(), max_size=12),
    run_id=st.text(max_size=12),
    published_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)

FULL = Manifest(
    2024,
    {
        day: f'"{day:%m%d}-etag"'
        for day in market_calendar.sessions(date(2024, 1, 1), date(2024, 2, 1))
    },
    {
        f"S{number}": Entry(Fingerprint(number, (number, number << 40)), f'"v{number}"', 9_000)
        if number % 5
        else None
        for number in range(40)
    },
    "run",
    datetime(2024, 12, 31, 22, tzinfo=UTC),
)
DATA = FULL.encode()


@given(manifests)
@settings(max_examples=80)
def test_what_is_encoded_is_what_is_decoded(manifest: Manifest) -> None:
    data = manifest.encode()
    again = Manifest.decode(data, "here")
    assert again == manifest
    assert again.encode() == data
    assert list(again.symbols) == sorted(manifest.symbols)
    assert again.whole == (manifest.published_at is not None)


@given(manifests, st.randoms())
@settings(max_examples=40)
def test_the_same_manifest_makes_the_same_bytes_in_whatever_order_it_was_put_together(
    manifest: Manifest, random: st.DataObject
) -> None:
    symbols, sessions = list(manifest.symbols.items()), list(manifest.sessions.items())
    random.shuffle(symbols)
    random.shuffle(sessions)
    again = replace(manifest, symbols=dict(symbols), sessions=dict(sessions))
    assert again.encode() == manifest.encode()


@given(manifests)
@settings(max_examples=40)
def test_the_end_of_the_file_tells_everything_but_the_symbols(manifest: Manifest) -> None:
    data = manifest.encode()
    size = footer_size(data)
    for tail in (data, data[-size:], data[-size - 1 :]):
        assert Manifest.without_symbols(tail, "here") == replace(manifest, symbols={})
    with pytest.raises(BrokenFileError, match="here is no whole manifest"):
        Manifest.without_symbols(data[-size + 1 :], "here")


def test_a_manifest_s_fingerprint_is_that_of_the_objects_that_are_known() -> None:
    known = [number for number in range(40) if number % 5]
    assert FULL.fingerprint == Fingerprint(
        sum(known), (sum(known), sum(number << 40 for number in known))
    )
    assert Manifest(2024).fingerprint == Fingerprint()
    assert not Manifest(2024).whole


def test_any_parquet_reader_can_look_into_it() -> None:
    found = pq.read_table(pa.BufferReader(DATA)).cast(SCHEMA).to_pylist()
    assert len(found) == 40
    assert found[0] == dict.fromkeys(SCHEMA.names) | {"symbol": "S0"}
    assert found[1] == {
        "symbol": "S1",
        "rows": 1,
        "fingerprint": Fingerprint(1, (1, 1 << 40)).digest,
        "version": '"v1"',
        "size": 9_000,
    }


# Damage


def test_a_file_cut_anywhere_is_broken() -> None:
    for length in range(len(DATA)):
        with pytest.raises(BrokenFileError, match="2024 is no whole manifest"):
            Manifest.decode(DATA[:length], "2024")


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"<html>", b"PAR1" * 9])
def test_the_error_says_what_to_do(damage: bytes) -> None:
    with pytest.raises(BrokenFileError, match="delete it and publish its year again"):
        Manifest.decode(damage, "here")


def test_any_flipped_bit_in_the_pages_is_noticed_or_changes_nothing() -> None:
    for place in range(4, len(before_footer(DATA))):
        with suppress(BrokenFileError):
            assert Manifest.decode(flipped(DATA, place, place % 8), "here") == FULL


@given(st.integers(0, len(DATA) - 1), st.integers(0, 7))
@settings(max_examples=400)
def test_a_flipped_bit_anywhere_raises_nothing_but_broken_file_error(place: int, bit: int) -> None:
    damaged = flipped(DATA, place, bit)
    for reading in (Manifest.decode, Manifest.without_symbols):
        with suppress(BrokenFileError):
            reading(damaged, "here")


@pytest.mark.parametrize(
    "told",
    [
        "",
        "[]",
        "{}",
        '{"year":2024}',
        '{"year":"x","sessions":{},"run_id":"","published_at":null}',
        '{"year":2024,"sessions":{"x":""},"run_id":"","published_at":null}',
        '{"year":2024,"sessions":[],"run_id":"","published_at":null}',
        '{"year":2024,"sessions":{},"run_id":"","published_at":5}',
    ],
)
def test_a_table_that_tells_of_no_year_is_broken(told: str) -> None:
    buffer = pa.BufferOutputStream()
    table = SCHEMA.empty_table().replace_schema_metadata({"datalake.year": told})
    pq.write_table(table, buffer)
    for reading in (Manifest.decode, Manifest.without_symbols):
        with pytest.raises(BrokenFileError, match="here is no whole manifest"):
            reading(bytes(buffer.getvalue()), "here")
