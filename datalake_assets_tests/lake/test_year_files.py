"""A year file holds the rows of its sessions, whoever publishes, fails or dies, and when."""

import io
from datetime import date
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datalake_assets.collection.bars import SCHEMA, empty
from datalake_assets.lake import projection, year_bars
from datalake_assets.lake.fingerprint import fingerprint
from datalake_assets.lake.manifest import Manifest
from datalake_assets.lake.projection import OvertakenError
from datalake_assets.lake.year_files import PublishedFile, YearFiles
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store, StoreError, open_store
from datalake_assets_tests.fakes import FakeClock
from datalake_assets_tests.lake.files import flipped
from datalake_assets_tests.lake.test_symbol_years import (
    CHANGED,
    DAYS,
    TINY,
    YEAR,
    Year,
    symbol_rows,
    whole,
    write,
)
from datalake_assets_tests.storage.stores import WatchedStore

KEY = layout.year_file_key(YEAR)


def publish(store: Store, *, anew: bool = False) -> PublishedFile:
    return YearFiles(store, FakeClock()).publish(YEAR, run_id="r", anew=anew)


def published(sessions: Year = TINY) -> Store:
    """A store with these sessions, and their file published."""
    store = open_store("memory://")
    write(store, sessions)
    publish(store)
    return store


def rows_of(sessions: Year) -> pa.Table:
    return pa.concat_tables([empty(), *symbol_rows(sessions).values()])


def assert_published(store: Store, sessions: Year) -> Manifest:
    """The year is published, in every respect, and nothing but it."""
    files, expected = YearFiles(store), rows_of(sessions)
    assert list(store.versions(layout.YEARS)) == [KEY]
    found = pq.read_table(io.BytesIO(store.get(KEY))).cast(SCHEMA)
    assert found.replace_schema_metadata(None).equals(expected)
    assert files.years() == [YEAR]
    made_from = files.made_from(YEAR)
    assert made_from.whole
    assert list(made_from.sessions) == sorted(sessions)
    assert (files.behind(YEAR), files.due(YEAR)) == ([], False)
    proof = files.prove(YEAR)
    assert proof.holds
    assert proof.sessions == proof.file == fingerprint(whole(symbol_rows(sessions)))
    assert (proof.symbols, proof.bytes) == (len(symbol_rows(sessions)), store.size(KEY))
    return made_from


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "lake")
    return str(request.getfixturevalue("s3_lake_uri"))


def test_a_year_is_published_and_published_anew_when_its_sessions_changed(uri: str) -> None:
    store = open_store(uri)
    assert (YearFiles(store).years(), YearFiles(store).made_from(YEAR)) == ([], Manifest(YEAR))
    write(store, TINY)
    assert YearFiles(store).due(YEAR)

    first = publish(store)
    assert first.written
    assert assert_published(store, TINY) == first.made_from
    assert (first.made_from.run_id, first.made_from.published_at) == ("r", FakeClock().now())

    write(store, CHANGED)
    assert YearFiles(store).behind(YEAR) == [DAYS[0], DAYS[2], DAYS[3]]
    assert publish(store).written
    assert_published(store, CHANGED)


def test_nothing_is_written_while_the_sessions_hold_the_same_rows() -> None:
    store = published()
    before = store.versions(layout.YEARS)
    for day in TINY:  # collected again at another time, with the same answers
        store.delete(layout.session_key(day))
    write(store, TINY, minutes=5)
    again = publish(store)
    assert not again.written
    assert again.made_from.whole
    assert store.versions(layout.YEARS) == before
    assert_published(store, TINY)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(DAYS),
            st.dictionaries(st.sampled_from("ABCDE"), st.integers(0, 2)),
            min_size=1,
        ),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 5),
)
def test_whatever_became_of_the_sessions_the_file_holds_them(states: list[Year], band: int) -> None:
    store = open_store("memory://")
    with patch.object(year_bars, "BAND", band):
        for sessions in states:
            write(store, sessions)
            publish(store)
            assert_published(store, sessions)


def test_a_year_whose_sessions_are_gone_has_no_file() -> None:
    store = published()
    write(store, {})
    assert YearFiles(store).behind(YEAR) == sorted(TINY)
    assert not publish(store).made_from.whole
    assert store.list(layout.YEARS) == []
    assert YearFiles(store).behind(YEAR) == []


def test_a_damaged_session_leaves_the_file_before() -> None:
    store = published()
    before = store.get(KEY)
    store.put(layout.session_key(DAYS[1]), b"PAR1 and no more")
    with pytest.raises(BrokenFileError, match="collect the session again"):
        publish(store)
    assert store.get(KEY) == before


@pytest.mark.parametrize("damage", ["footer", "page", "gone", "of another year", "no file"])
def test_damage_is_found_and_published_anew(damage: str) -> None:
    store = published()
    data = store.get(KEY)
    page = pq.read_metadata(io.BytesIO(data)).row_group(0).column(3).data_page_offset
    match damage:
        case "footer":
            store.put(KEY, data[:-9])
        case "page":
            store.put(KEY, flipped(data, page + 40, 3))
        case "gone":
            store.delete(KEY)
        case "of another year":
            other = io.BytesIO()
            with pq.ParquetWriter(other, SCHEMA, store_schema=False) as writer:
                writer.write_table(rows_of(TINY))
                writer.add_key_value_metadata(Manifest(1999).metadata())
            store.put(KEY, other.getvalue())
        case "no file":
            store.put(KEY, b"")
    proof = YearFiles(store).prove(YEAR)
    assert not proof.holds
    assert proof.broken == proof.disagreement
    assert "bars.parquet" in proof.broken
    publish(store, anew=True)
    assert_published(store, TINY)


def test_a_footer_that_is_damaged_is_mended_by_any_publication() -> None:
    store = published()
    store.put(KEY, store.get(KEY)[:-9])
    with pytest.raises(BrokenFileError, match="is no whole year file .* publish its year again"):
        YearFiles(store).made_from(YEAR)
    assert publish(store).written
    assert_published(store, TINY)


def rewritten(store: Store, rows: pa.Table) -> None:
    """Another program wrote the file with other rows, and kept what its footer says."""
    told = YearFiles(store).made_from(YEAR).metadata()
    written = io.BytesIO()
    with pq.ParquetWriter(written, SCHEMA, store_schema=False) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata(told)
    store.put(KEY, written.getvalue())


def test_each_session_that_differs_is_named() -> None:
    store = published()
    rows = rows_of(TINY)
    rewritten(store, rows.slice(1))  # without A of the first session
    proof = YearFiles(store).prove(YEAR)
    assert not proof.holds
    assert list(proof.differing) == [DAYS[0]]
    assert "2 rows, " in proof.differing[DAYS[0]]
    assert f"2024: the year file differs from 1 of its sessions ({DAYS[0]}: 2 rows" in (
        proof.disagreement
    )
    close = rows["close"].to_pylist()
    changed = rows.set_column(
        SCHEMA.get_field_index("close"), SCHEMA.field("close"), [[close[0] + 0.01, *close[1:]]]
    )
    rewritten(store, changed)
    assert list(YearFiles(store).prove(YEAR).differing) == [DAYS[0]]


def test_rows_out_of_order_are_found() -> None:
    store = published()
    rows = rows_of(TINY)
    rewritten(store, rows.take([1, 0, *range(2, rows.num_rows)]))  # A's sessions changed places
    assert "its rows are not sorted" in YearFiles(store).prove(YEAR).broken


def test_a_footer_longer_than_guessed_is_read_nevertheless() -> None:
    store = published()
    with patch.object(projection, "FOOTER_GUESS", 64):
        assert YearFiles(store).made_from(YEAR).whole


def test_of_two_publications_at_once_the_later_one_looks_again(uri: str) -> None:
    """The earlier one read the sessions before one of them was restated."""
    store = open_store(uri)
    write(store, TINY)

    def meanwhile(verb: str, key: str) -> None:
        if not done:
            done.append(key)
            write(store, CHANGED)
            publish(store)

    done: list[str] = []
    late = publish(WatchedStore(store, before=meanwhile))
    assert done == [KEY]
    assert not late.written
    assert_published(store, CHANGED)


def test_others_that_come_between_every_time_are_an_error_in_the_end() -> None:
    store = open_store("memory://")
    write(store, TINY)
    turns: list[str] = []

    def meanwhile(verb: str, key: str) -> None:
        turns.append(key)
        write(store, {DAYS[0]: {"A": len(turns)}})
        publish(store)
        write(store, {DAYS[0]: {"A": len(turns) + 100}})

    with pytest.raises(OvertakenError, match="2024: other publications .* came between 5 times"):
        publish(WatchedStore(store, before=meanwhile))
    assert len(turns) == 5


def test_a_write_that_fails_leaves_the_file_before() -> None:
    store = published()
    before = store.get(KEY)
    write(store, CHANGED)

    def fail(verb: str, key: str) -> None:
        raise StoreError(f"can't {verb} {key}: the disk is full")

    with pytest.raises(StoreError, match="the disk is full"):
        publish(WatchedStore(store, before=fail))
    assert store.get(KEY) == before
    assert pl.read_parquet(io.BytesIO(before)).height == rows_of(TINY).num_rows


def test_the_years_are_found_by_their_files() -> None:
    store = open_store("memory://")
    for key in ("data/ticks/years/year=2024/bars.parquet", "data/ticks/years/year=24/x.parquet"):
        store.put(key, b"")
    assert YearFiles(store).years() == [2024]
    assert layout.year_of_file(layout.year_file_key(date(2011, 1, 3).year)) == 2011
