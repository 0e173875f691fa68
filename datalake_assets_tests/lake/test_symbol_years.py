"""The symbol-years hold the rows of the sessions, whoever publishes, fails, or dies, and when.

Not here: real processes killed in the middle of a year (`benchmarks.publication_kills`).
"""

import hashlib
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA, empty
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.lake import projection, session_file, symbol_year_file
from datalake_assets.lake.fingerprint import fingerprint
from datalake_assets.lake.manifest import Manifest
from datalake_assets.lake.projection import PublicationError
from datalake_assets.lake.symbol_years import _ENCODED, Published, SymbolYears
from datalake_assets.lake.year_bars import YearBars
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store, StoreError, open_store
from datalake_assets.storage.upload import HOPELESS, Snapshot
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.fakes import FakeClock
from datalake_assets_tests.lake.files import flipped, rewritten, session_bytes
from datalake_assets_tests.storage.stores import Interlude, WatchedStore

YEAR = 2024
DAYS = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 8))
AT_ONCE = RetryPolicy(attempts=2)

Year = Mapping[date, Mapping[str, int]]
"""The closing cents of each symbol in each session: other cents are a restated bar."""

TINY: Year = {
    DAYS[0]: {"A": 0, "B": 0, "C": 0},
    DAYS[1]: {"A": 0, "B": 0},
    DAYS[2]: {"A": 0, "C": 0},
}
CHANGED: Year = {
    DAYS[0]: {"A": 0, "B": 5},  # B restated, C gone
    DAYS[1]: {"A": 0, "B": 0},
    DAYS[2]: {"A": 0},
    DAYS[3]: {"D": 0},  # appears
}


def rows_of(day: date, closes: Mapping[str, int]) -> pa.Table:
    return table(bar(symbol, day, vwap=1.0 + closes[symbol]) for symbol in sorted(closes))


def write(store: Store, sessions: Year, minutes: float = 0) -> None:
    """Make these the year's sessions; one that is the same already keeps its object."""
    for day in DAYS:
        key = layout.session_key(day)
        if day not in sessions:
            store.delete(key)
            continue
        bars = rows_of(day, sessions[day])
        with suppress(FileNotFoundError):
            if session_file.decode_bars(store.get(key), "").equals(bars):
                continue
        store.put(key, session_bytes(day, bars, minutes))


def symbol_rows(sessions: Year) -> dict[str, pa.Table]:
    """What each symbol's file must hold, made without the code under test."""
    symbols = sorted({symbol for closes in sessions.values() for symbol in closes})
    return {
        symbol: pa.concat_tables(
            rows_of(day, {symbol: sessions[day][symbol]})
            for day in sorted(sessions)
            if symbol in sessions[day]
        )
        for symbol in symbols
    }


def assert_published(store: Store, sessions: Year) -> Manifest:
    """The year is published, in every respect, and nothing but it."""
    years, truth = SymbolYears(store), symbol_rows(sessions)
    manifest = years.manifest(YEAR)
    assert manifest.whole
    objects = store.versions(layout.SYMBOL_YEARS)
    assert list(objects) == [layout.symbol_year_key(symbol, YEAR) for symbol in truth]
    for symbol, rows in truth.items():
        found = store.get(layout.symbol_year_key(symbol, YEAR))
        assert pq.read_table(pa.BufferReader(found)).cast(SCHEMA).equals(rows)
        entry = manifest.symbols[symbol]
        assert entry is not None
        assert (entry.fingerprint, entry.size) == (fingerprint(rows), len(found))
    assert list(manifest.symbols) == list(truth)
    assert list(manifest.sessions) == sorted(sessions)
    assert (years.behind(YEAR), years.strays()) == ([], [])
    proof = years.prove(YEAR)
    assert proof.holds
    assert proof.symbol_years == manifest.fingerprint == fingerprint(whole(truth))
    return manifest


def whole(truth: Mapping[str, pa.Table]) -> pa.Table:
    return pa.concat_tables([empty(), *truth.values()])


def publish(store: Store, **given: Any) -> Published:
    """Publish the year; nobody waits for a retry."""
    given = {"workers": 3, "policy": AT_ONCE} | given
    return SymbolYears(store, clock=FakeClock()).publish(YEAR, **given)


def published(sessions: Year = TINY) -> Store:
    """A store with these sessions, and the year published."""
    store = open_store("memory://")
    write(store, sessions)
    publish(store)
    return store


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "lake")
    return str(request.getfixturevalue("s3_lake_uri"))


# What is published


def test_a_year_is_published_per_symbol(uri: str) -> None:
    store = open_store(uri)
    write(store, TINY)
    done = SymbolYears(store).publish(YEAR, run_id="run 7")
    assert (done.uploaded, done.removed, done.retries) == (["A", "B", "C"], [], 0)
    manifest = assert_published(store, TINY)
    assert (manifest, manifest.run_id) == (done.manifest, "run 7")
    assert {symbol: entry and entry.version for symbol, entry in manifest.symbols.items()} == {
        symbol: store.versions(layout.SYMBOL_YEARS)[layout.symbol_year_key(symbol, YEAR)]
        for symbol in "ABC"
    }
    assert SymbolYears(store).years() == [YEAR]


def test_publishing_again_writes_nothing(uri: str) -> None:
    store = open_store(uri)
    write(store, TINY)
    publish(store)
    before = store.versions()
    watched = WatchedStore(open_store(uri))
    done = publish(watched, run_id="another")
    assert (watched.written, *map(len, (done.uploaded, done.removed)), done.bytes) == ([], 0, 0, 0)
    assert store.versions() == before


def test_a_session_collected_again_with_the_same_bars_uploads_nothing() -> None:
    store = published()
    objects = store.versions(layout.SYMBOL_YEARS)
    store.put(
        layout.session_key(DAYS[0]), session_bytes(DAYS[0], rows_of(DAYS[0], TINY[DAYS[0]]), 9)
    )
    assert SymbolYears(store).behind(YEAR) == []
    watched = WatchedStore(store)
    assert list(publish(watched).uploaded) == []
    assert watched.written == [("replace", layout.manifest_key(YEAR))]
    assert store.versions(layout.SYMBOL_YEARS) == objects
    assert_published(store, TINY)


def test_a_year_without_sessions_has_no_symbol_years() -> None:
    store = open_store("memory://")
    assert SymbolYears(store).prove(YEAR).holds
    assert SymbolYears(store).years() == []
    assert not publish(store).uploaded
    assert_published(store, {})
    watched = WatchedStore(store)
    publish(watched)
    assert watched.written == []


def test_the_years_do_not_touch_each_other() -> None:
    store = published()
    day = date(2023, 12, 29)
    store.put(layout.session_key(day), session_bytes(day, rows_of(day, {"A": 1, "Z": 1})))
    before = store.versions(layout.SYMBOL_YEARS)
    assert SymbolYears(store).publish(2023).uploaded == ["A", "Z"]
    after = store.versions(layout.SYMBOL_YEARS)
    assert {key: after[key] for key in before} == before
    assert SymbolYears(store).years() == [2023, YEAR]
    assert SymbolYears(store).strays() == []
    assert SymbolYears(store).prove(YEAR).holds


def test_files_are_the_same_whatever_was_published_before() -> None:
    direct, detour = published(CHANGED), published(TINY)
    write(detour, CHANGED)
    publish(detour)
    for key in direct.list(layout.SYMBOL_YEARS):
        assert direct.get(key) == detour.get(key)


years_ = st.dictionaries(
    st.sampled_from(DAYS),
    st.dictionaries(st.sampled_from(["A", "B", "BRK.B", "C", "D"]), st.integers(0, 2)),
)


@given(st.lists(years_, min_size=1, max_size=5), st.integers(1, 5))
@settings(max_examples=60)
def test_each_publication_writes_the_changed_symbols_only(years: list[Year], workers: int) -> None:
    store = open_store("memory://")
    before: dict[str, pa.Table] = {}
    for number, year in enumerate(years):
        write(store, year, minutes=number)
        objects = store.versions(layout.SYMBOL_YEARS)
        watched = WatchedStore(store)
        done = publish(watched, workers=workers)
        after = symbol_rows(year)
        uploaded = [s for s in after if s not in before or not after[s].equals(before[s])]
        removed = [s for s in before if s not in after]
        assert (list(done.uploaded), list(done.removed)) == (uploaded, removed)
        of_symbols = sorted(w for w in watched.written if w[1].startswith(layout.SYMBOL_YEARS))
        assert of_symbols == sorted(
            [("replace", layout.symbol_year_key(symbol, YEAR)) for symbol in uploaded]
            + [("delete", layout.symbol_year_key(symbol, YEAR)) for symbol in removed]
        )
        assert_published(store, year)
        now = store.versions(layout.SYMBOL_YEARS)
        kept = [layout.symbol_year_key(s, YEAR) for s in after if s not in uploaded]
        assert [now[key] for key in kept] == [objects[key] for key in kept]
        before = after


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_session_in_which_k_symbols_changed_uploads_k_objects(count: int) -> None:
    names = [f"S{number}" for number in range(10)]
    sessions = {day: dict.fromkeys(names, 0) for day in DAYS}
    store = published(sessions)
    changed = {**sessions, DAYS[1]: {**sessions[DAYS[1]], **dict.fromkeys(names[:count], 7)}}
    write(store, changed)
    assert list(publish(store).uploaded) == names[:count]
    assert_published(store, changed)


def test_a_copied_lake_has_other_versions_and_is_published_all_the_same(tmp_path: Path) -> None:
    store, copy = published(), open_store(str(tmp_path / "copy"))
    for key in store.list():
        copy.put(key, store.get(key))
    assert list(publish(copy).uploaded) == []  # the bars are the same
    assert_published(copy, TINY)
    write(copy, CHANGED)
    done = publish(copy)
    assert (done.uploaded, done.removed) == (["B", "D"], ["C"])
    assert_published(copy, CHANGED)


def copied(store: Store, copy: Store) -> Store:
    """Every object, as a copy or a restored backup has it: with another version."""
    for key in store.list():
        copy.put(key, store.get(key))
    return copy


def test_a_copied_lake_is_current_at_once(tmp_path: Path) -> None:
    store = copied(published(), open_store(str(tmp_path / "copy")))
    assert SymbolYears(store).behind(YEAR) == []
    assert SymbolYears(store).prove(YEAR).holds
    put = session_bytes(DAYS[1], rows_of(DAYS[1], CHANGED[DAYS[1]] | {"B": 7}), 3)
    store.put(layout.session_key(DAYS[1]), put)
    assert SymbolYears(store).behind(YEAR) == [DAYS[1]]


def test_publishing_a_copied_lake_reads_footers_and_remembers_the_new_versions(
    tmp_path: Path,
) -> None:
    store = copied(published(), open_store(str(tmp_path / "copy")))
    watched = WatchedStore(store)
    publish(watched)
    assert watched.written == [("replace", layout.manifest_key(YEAR))]
    manifest = SymbolYears(store).manifest(YEAR)
    versions = store.versions(layout.SESSIONS)
    assert manifest.whole
    assert manifest.sessions == {day: versions[layout.session_key(day)] for day in sorted(TINY)}
    assert_published(store, TINY)


@pytest.mark.parametrize("whole", [False, True], ids=["published first", "never published"])
def test_rows_that_are_not_what_was_written_are_never_spread(whole: bool) -> None:
    store = open_store("memory://")
    write(store, TINY)
    if not whole:
        publish(store)
    before = store.versions(layout.SYMBOL_YEARS)
    for day in DAYS[:2]:
        key = layout.session_key(day)
        store.put(key, rewritten(store.get(key), rows_of(day, TINY[day]).slice(1)))
    if not whole:  # the footers say nothing new, and the symbol-years have the right rows
        assert SymbolYears(store).behind(YEAR) == []
        with pytest.raises(BrokenFileError):
            SymbolYears(store).prove(YEAR)
        store.put(layout.session_key(DAYS[2]), session_bytes(DAYS[2], rows_of(DAYS[2], {"A": 4})))
    with pytest.raises(BrokenFileError) as caught:
        publish(store)
    for day in DAYS[:2]:
        assert f"{day}.parquet was changed by another program" in str(caught.value)
    assert "collect the session again" in str(caught.value)
    assert store.versions(layout.SYMBOL_YEARS) == before


def test_a_session_of_another_day_is_never_spread() -> None:
    store = published()
    store.put(layout.session_key(DAYS[3]), store.get(layout.session_key(DAYS[0])))
    with pytest.raises(BrokenFileError, match=f"{DAYS[3]}.parquet holds rows of {DAYS[0]}"):
        publish(store)
    assert SymbolYears(store).manifest(YEAR).whole


def test_progress_is_told_to_the_end() -> None:
    store = open_store("memory://")
    write(store, TINY)
    told: list[Any] = []
    publish(store, display=told.append)
    assert (told[-1].final, told[-1].uploaded, told[-1].objects) == (True, 3, 3)


# The proof


DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-9],
    "a bit flipped": lambda data: flipped(data, 40, 3),
    "another symbol's": lambda data: published(CHANGED).get(layout.symbol_year_key("B", YEAR)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_proof_names_what_was_damaged_and_a_suspect_is_written_again(damage: str) -> None:
    store, key = published(), layout.symbol_year_key("A", YEAR)
    store.put(key, DAMAGES[damage](store.get(key)))
    proof = SymbolYears(store).prove(YEAR)
    assert not proof.holds
    assert list(proof.differing) == ["A"]
    # The manifest does not know, so an ordinary publication is blind to it.
    assert not publish(store).uploaded
    assert publish(store, suspects=proof.differing).uploaded == ["A"]
    assert_published(store, TINY)


def test_the_proof_names_what_was_deleted_and_a_suspect_is_written_again(uri: str) -> None:
    store = open_store(uri)
    write(store, TINY)
    publish(store)
    store.delete(layout.symbol_year_key("B", YEAR))
    proof = SymbolYears(store).prove(YEAR)
    assert dict(proof.differing) == {"B": "there is no such object"}
    assert publish(store, suspects=["B"]).uploaded == ["B"]
    assert_published(store, TINY)


def test_the_proof_names_symbols_that_only_one_layout_has() -> None:
    store = published()
    write(store, CHANGED)
    proof = SymbolYears(store).prove(YEAR)
    assert list(proof.differing) == ["B", "C", "D"]
    assert proof.differing["C"].endswith("where the sessions have 0 rows, " + "0" * 32)
    assert (proof.sessions.rows, proof.symbol_years.rows) == (6, 7)


def test_rows_under_another_symbols_name_do_not_cancel_out() -> None:
    store = published({DAYS[0]: {"A": 0, "B": 0}})
    keys = [layout.symbol_year_key(symbol, YEAR) for symbol in "AB"]
    one, other = map(store.get, keys)
    store.put(keys[0], other)
    store.put(keys[1], one)
    proof = SymbolYears(store).prove(YEAR)
    assert proof.sessions == proof.symbol_years  # as a set of rows they are the same
    assert list(proof.differing) == ["A", "B"]
    assert not proof.holds


def test_a_proof_of_what_was_written_reads_nothing_else() -> None:
    store = published()
    write(store, CHANGED)
    done = publish(store)
    assert done.uploaded == ["B", "D"]
    read: list[str] = []

    class Reading(WatchedStore):
        def get(self, key: str) -> bytes:
            read.append(key)
            return super().get(key)

    proof = SymbolYears(Reading(store)).prove_published(YEAR, done.uploaded)
    assert read == [layout.symbol_year_key(symbol, YEAR) for symbol in "BD"]
    assert proof.holds
    assert (proof.read, proof.unread) == (2, 1)
    assert proof.sessions == proof.symbol_years == fingerprint(whole(symbol_rows(CHANGED)))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_proof_after_a_publication_finds_what_has_not_the_bytes_that_were_encoded(
    damage: str,
) -> None:
    store = open_store("memory://")
    write(store, TINY)
    done = publish(store)
    years, key = SymbolYears(store, clock=FakeClock()), layout.symbol_year_key("A", YEAR)
    assert years.prove_published(YEAR, done.uploaded, done).holds
    store.put(key, DAMAGES[damage](store.get(key)))
    assert list(years.prove_published(YEAR, done.uploaded, done).differing) == ["A"]
    store.delete(key)
    assert list(years.prove_published(YEAR, done.uploaded, done).differing) == ["A"]


def test_other_bytes_with_the_same_rows_are_right() -> None:
    store = open_store("memory://")
    write(store, TINY)
    done, key = publish(store), layout.symbol_year_key("A", YEAR)
    years = SymbolYears(store, clock=FakeClock())
    before = years.prove_published(YEAR, done.uploaded, done)
    sink = pa.BufferOutputStream()
    pq.write_table(symbol_year_file.decode(store.get(key), key), sink, compression="zstd")
    store.put(key, bytes(sink.getvalue()))
    after = years.prove_published(YEAR, done.uploaded, done)
    assert after.holds
    assert 0 <= before.same_bytes - after.same_bytes <= 1


def test_a_publication_that_came_after_is_what_counts() -> None:
    store = open_store("memory://")
    write(store, TINY)
    done = publish(store)
    write(store, CHANGED)
    publish(store)
    proof = SymbolYears(store, clock=FakeClock()).prove_published(YEAR, done.uploaded, done)
    assert proof.holds
    # And one whose manifest stands before its objects do: the bytes are still those of the first.
    key = layout.symbol_year_key("B", YEAR)
    store.put(key, published().get(key))
    proof = SymbolYears(store, clock=FakeClock()).prove_published(YEAR, done.uploaded, done)
    assert list(proof.differing) == ["B"]


@pytest.mark.parametrize("days", [1, 7])
def test_each_symbol_is_decoded_in_its_turn_whether_a_job_runs_daily_or_weekly(days: int) -> None:
    symbols = [f"{letter}{other}" for letter in "ABCDEFGHIJ" for other in "ABCDEFGHIJ"]
    store, clock = open_store("memory://"), FakeClock()
    write(store, {DAYS[0]: dict.fromkeys(symbols, 0)})
    done = publish(store)
    decoded = Counter[str]()
    real = symbol_year_file.decode

    def decode(data: bytes, where: str) -> pa.Table:
        decoded[where] += 1
        return real(data, where)

    for _ in range(16):
        clock.advance(timedelta(days=days).total_seconds())
        years = SymbolYears(store, clock=clock)
        with patch.object(symbol_year_file, "decode", decode):
            before = decoded.total()
            proof = years.prove_published(YEAR, done.uploaded, done)
        assert proof.holds
        assert proof.read == len(symbols)
        assert proof.read - proof.same_bytes == decoded.total() - before
        assert not proof.whole
    assert set(decoded.values()) == {1}
    assert len(decoded) == len(symbols)


def test_a_proof_by_bytes_does_not_count_as_a_reading_of_all_of_the_year() -> None:
    store = open_store("memory://")
    write(store, TINY)
    done = publish(store)
    years = SymbolYears(store, clock=FakeClock())
    years.note_proved(years.prove_published(YEAR, done.uploaded, done))
    assert years.manifest(YEAR).proved_at is None
    years.note_proved(years.prove_published(YEAR, done.uploaded))
    assert years.manifest(YEAR).proved_at


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_proof_of_what_was_written_finds_what_is_not_as_it_was_written(damage: str) -> None:
    store, key = published(), layout.symbol_year_key("A", YEAR)
    store.put(key, DAMAGES[damage](store.get(key)))
    assert list(SymbolYears(store).prove_published(YEAR, ["A"]).differing) == ["A"]
    assert list(SymbolYears(store).prove_published(YEAR).differing) == ["A"]
    unread = SymbolYears(store).prove_published(YEAR, ["B"])
    assert (unread.holds, unread.unread) == (True, 2)


def test_symbol_years_that_lag_are_proved_to_be_what_they_were_made_from() -> None:
    store = published()
    write(store, CHANGED)
    assert SymbolYears(store).prove_published(YEAR).holds
    assert not SymbolYears(store).prove(YEAR).holds


def test_it_is_remembered_when_all_of_a_year_was_proved_and_publications_keep_it() -> None:
    store = published()
    clock = FakeClock()
    years = SymbolYears(store, clock=clock)
    years.note_proved(years.prove(YEAR))
    assert years.manifest(YEAR).proved_at == clock.now()
    write(store, CHANGED)
    # It is of other rows than the manifest's by now.
    years.note_proved(years.prove(YEAR))
    publish(store)
    assert years.manifest(YEAR).proved_at == clock.now()
    assert_published(store, CHANGED)


@pytest.mark.parametrize(
    "now", [datetime(2024, 7, 2, 23, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)]
)
def test_the_running_year_is_due_with_the_last_session_of_a_week(now: datetime) -> None:
    class Then(FakeClock):
        def now(self) -> datetime:
            return now

    monday, tuesday, *_, friday = DAYS[:4]
    store = published({monday: {"A": 0}})
    years = SymbolYears(store, clock=Then())
    assert not years.due(YEAR, weekly=True)
    write(store, {monday: {"A": 0}, tuesday: {"A": 0}})
    assert years.due(YEAR, weekly=True) == (now.year != YEAR)
    assert years.due(YEAR, weekly=False)
    write(store, {monday: {"A": 0}, tuesday: {"A": 0}, friday: {"A": 0}})
    assert years.due(YEAR, weekly=True)


def test_a_suspect_that_no_manifest_knows_is_removed() -> None:
    store = published()
    store.put(layout.symbol_year_key("STRAY", YEAR), b"of somebody")
    assert SymbolYears(store).strays() == [layout.symbol_year_key("STRAY", YEAR)]
    assert publish(store, suspects=["STRAY"]).removed == ["STRAY"]
    assert_published(store, TINY)


def test_whatever_else_lies_among_the_symbol_years_is_a_stray() -> None:
    store = published()
    strays = [
        f"{layout.SYMBOL_YEARS}/A/2023/ticks.parquet",
        f"{layout.SYMBOL_YEARS}/A/2024/notes.txt",
        f"{layout.SYMBOL_YEARS}/Z/2024/ticks.parquet",
        f"{layout.SYMBOL_YEARS}/notes.txt",
    ]
    for key in strays:
        store.put(key, b"")
    assert SymbolYears(store).strays() == strays
    assert SymbolYears(store).strays(besides=[2024]) == [strays[0], strays[1], strays[3]]


def test_a_damaged_session_is_an_error_that_names_it_and_nothing_is_written() -> None:
    store = published()
    key = layout.session_key(DAYS[1])
    store.put(key, store.get(key)[:-5])
    before = store.versions()
    for doing in (SymbolYears(store).publish, SymbolYears(store).prove):
        with pytest.raises(BrokenFileError, match="2024-07-02.parquet is no whole session file"):
            doing(YEAR)
    assert store.versions() == before


def test_a_damaged_manifest_is_an_error_that_names_it_and_without_it_all_is_written() -> None:
    store = published()
    key = layout.manifest_key(YEAR)
    store.put(key, store.get(key)[:-5])
    with pytest.raises(BrokenFileError, match="manifests/2024.parquet is no whole manifest"):
        publish(store)
    store.delete(key)
    assert publish(store).uploaded == ["A", "B", "C"]
    assert_published(store, TINY)


def test_the_manifest_of_another_year_is_an_error() -> None:
    store = published()
    store.put(layout.manifest_key(2023), store.get(layout.manifest_key(YEAR)))
    for doing in (SymbolYears(store).publish, SymbolYears(store).made_from):
        with pytest.raises(BrokenFileError, match="manifests/2023.parquet is the manifest of 2024"):
            doing(2023)


def test_what_a_year_was_made_from_is_told_alike_by_a_footer_longer_than_guessed() -> None:
    years = SymbolYears(published())
    told = years.made_from(YEAR)
    assert (told.whole, list(told.sessions), told.symbols) == (True, list(TINY), {})
    with patch.object(projection, "FOOTER_GUESS", 64):
        assert years.made_from(YEAR) == told


# Stopped, refused


def test_a_stopped_publication_says_what_is_missing_and_the_next_one_completes_it() -> None:
    store, stop, ended = open_store("memory://"), threading.Event(), threading.Event()
    write(store, TINY)

    def stop_at_b(verb: str, key: str) -> None:
        if key == layout.symbol_year_key("B", YEAR):
            stop.set()
            assert ended.wait(60)

    def show(snapshot: Snapshot) -> None:
        if snapshot.final:
            ended.set()

    watched = WatchedStore(store, stop_at_b)
    with pytest.raises(PublicationError, match=r"2024: 2 of 3 .* not written \(stopped\)"):
        publish(watched, workers=1, stop=stop, display=show)
    manifest = SymbolYears(store).manifest(YEAR)
    assert not manifest.whole
    assert {symbol: bool(entry) for symbol, entry in manifest.symbols.items()} == {
        "A": True,
        "B": False,
        "C": False,
    }
    # The write that hung may arrive only now.
    assert publish(store).uploaded == ["B", "C"]
    assert_published(store, TINY)


def refusing(*symbols: str, transient: bool) -> Any:
    def refuse(verb: str, key: str) -> None:
        if (layout.symbol_year(key) or ("", 0))[0] in symbols:
            raise StoreError(f"can't write {key}: 503, slow down", transient=transient)

    return refuse


@pytest.mark.parametrize("transient", [True, False])
def test_an_object_that_is_refused_is_named_and_holds_up_no_other(transient: bool) -> None:
    store = published()
    write(store, CHANGED)
    watched = WatchedStore(store, refusing("B", transient=transient))
    with pytest.raises(PublicationError, match=r"2024: 1 of 2 .*/B/2024/.*503, slow down"):
        publish(watched)
    manifest = SymbolYears(store).manifest(YEAR)
    # C is not removed before everything else is there.
    assert store.exists(layout.symbol_year_key("C", YEAR))
    assert [symbol for symbol, entry in manifest.symbols.items() if entry] == ["A", "D"]
    assert [symbol for symbol, entry in manifest.symbols.items() if not entry] == ["B", "C"]
    done = publish(store)
    assert (done.uploaded, done.removed) == (["B"], ["C"])
    assert_published(store, CHANGED)


def test_what_passes_when_it_is_sent_again_is_no_failure() -> None:
    store, times = open_store("memory://"), iter([True, False, True, False, True, False])
    write(store, TINY)

    def fail(verb: str, key: str) -> None:
        if key.startswith(layout.SYMBOL_YEARS) and next(times):
            raise StoreError("500", transient=True)

    done = publish(WatchedStore(store, fail), workers=1)
    assert (done.uploaded, done.retries) == (["A", "B", "C"], 3)
    assert_published(store, TINY)


def test_an_object_that_can_t_be_removed_is_an_error_and_the_next_publication_removes_it() -> None:
    store = published()
    write(store, CHANGED)
    with pytest.raises(StoreError, match="/C/2024/"):
        publish(WatchedStore(store, refusing("C", transient=False)))
    assert not SymbolYears(store).manifest(YEAR).whole
    publish(store)
    assert_published(store, CHANGED)


# Killed at any write


class Killed(BaseException):
    """The process is gone."""


class Death:
    """A process dies at its n-th write: before it reached the store, or just after."""

    def __init__(self, writes: int, reached: bool) -> None:
        self._left, self._reached, self.dead = writes, reached, False

    def before(self, verb: str, key: str) -> None:
        if self.dead or (self._left == 1 and not self._reached):
            self.dead = True
            raise Killed
        self._left -= 1

    def after(self, verb: str, key: str) -> None:
        if self._left == 0 and self._reached:
            self.dead = True
            raise Killed


def killed(store: Store, writes: int, reached: bool) -> bool:
    """Publish, and die at this write; False when it ended before."""
    death = Death(writes, reached)
    with suppress(Killed):
        publish(WatchedStore(store, death.before, death.after), workers=1)
    return death.dead


def every_kill(before: Year, after: Year) -> Iterator[Store]:
    """Stores in which the publication that leads from one year to the other was killed.

    At each of its writes, before and after it reached the store.
    """
    for reached in (False, True):
        writes = 0
        while True:
            writes += 1
            store = published(before)
            write(store, after, minutes=1)
            if not killed(store, writes, reached):
                break
            yield store
        # The manifest twice, and each object.
        changed = set(symbol_rows(after)) ^ set(symbol_rows(before)) | {"B"}
        assert writes - 1 == 2 + len(changed)


def assert_objects_whole(store: Store, *years: Year) -> None:
    """Each object is what one of these years has of its symbol."""
    for key in store.list(layout.SYMBOL_YEARS):
        (symbol, _) = layout.symbol_year(key) or ("", 0)
        rows = pq.read_table(pa.BufferReader(store.get(key))).cast(SCHEMA)
        assert any(rows.equals(symbol_rows(year).get(symbol)) for year in years)


def test_killed_at_any_write_it_leaves_whole_objects_and_the_next_one_completes_it() -> None:
    kills = 0
    for store in every_kill(TINY, CHANGED):
        kills += 1
        assert_objects_whole(store, TINY, CHANGED)
        if not SymbolYears(store).due(YEAR):  # killed after its last write
            assert_published(store, CHANGED)
        publish(store)
        assert_published(store, CHANGED)
        assert not SymbolYears(store).due(YEAR)
    assert kills == 10


@pytest.mark.parametrize(
    "then", [TINY, {}, {**CHANGED, DAYS[0]: {"A": 3, "B": 5}}], ids=["back", "none", "on"]
)
def test_the_sessions_may_change_between_a_kill_and_the_next_publication(then: Year) -> None:
    for store in every_kill(TINY, CHANGED):
        write(store, then, minutes=2)
        publish(store)
        assert_published(store, then)


def test_killed_again_and_again_it_ends_all_the_same() -> None:
    for first in every_kill(TINY, CHANGED):
        for writes in range(1, 20):
            if not killed(first, writes, reached=writes % 2 == 0):
                break
        assert_published(first, CHANGED)


# Two at once


def error_of(publishing: Callable[[], object]) -> PublicationError | None:
    """What a publication ended with; any other error is a defect."""
    try:
        publishing()
    except PublicationError as error:
        return error
    return None


def assert_ends_well(store: Store, sessions: Year, *errors: PublicationError | None) -> None:
    """What the manifest says holds, and another publication makes the year what it should be."""
    years = SymbolYears(store)
    if not any(errors) or (years.manifest(YEAR).whole and not years.behind(YEAR)):
        assert_published(store, sessions)
    publish(store)
    assert_published(store, sessions)


THEN = {
    "the same": CHANGED,
    "back": TINY,
    "none": {},
    "on": {**CHANGED, DAYS[0]: {"A": 3, "B": 7, "C": 1}},
}


@pytest.mark.parametrize("then", THEN)
@pytest.mark.parametrize("reached", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("before", [{}, TINY], ids=["first", "again"])
def test_an_earlier_publication_undoes_nothing_of_one_that_began_and_ended_meanwhile(
    before: Year, reached: bool, then: str
) -> None:
    for writes in range(1, 20):
        store = published(before)
        write(store, CHANGED, minutes=1)
        later: list[PublicationError | None] = []

        def publish_later(store: Store = store, later: Any = later) -> None:
            write(store, THEN[then], minutes=2)
            later.append(error_of(lambda: publish(store)))

        interlude = Interlude(writes, reached, publish_later)
        watched = WatchedStore(store, **interlude.moments)
        error = error_of(lambda watched=watched: publish(watched, workers=1))
        if not interlude.happened:
            assert writes > 5
            return
        assert later == [None]
        assert_ends_well(store, THEN[then], error)
    raise AssertionError("it never ended")


@pytest.mark.parametrize("then", THEN)
@pytest.mark.parametrize("before", [{}, TINY], ids=["first", "again"])
def test_two_publications_that_take_turns_end_equal_or_say_that_they_did_not(
    before: Year, then: str
) -> None:
    """The later one begins at any write of the earlier, and waits at any of its own."""
    turns = 0
    for writes in range(1, 20):
        for later_writes in range(1, 20):
            store = published(before)
            write(store, CHANGED, minutes=1)
            began, paused = take_turns(store, THEN[then], writes, later_writes)
            if not paused:
                break
            turns += 1
        if not began:
            break
    assert turns >= 15


def take_turns(store: Store, then: Year, writes: int, later_writes: int) -> tuple[bool, bool]:
    """Whether the later publication began, and whether it waited for the earlier one's end."""
    waiting, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        waiting.set()
        assert go_on.wait(60)

    pause = Interlude(later_writes, False, wait)
    with ThreadPoolExecutor(1) as threads:
        later: list[Future[PublicationError | None]] = []

        def begin_later() -> None:
            write(store, then, minutes=2)
            watched = WatchedStore(store, **pause.moments)
            later.append(threads.submit(error_of, lambda: publish(watched, workers=1)))
            later[0].add_done_callback(lambda _: waiting.set())
            assert waiting.wait(60)

        beginning = Interlude(writes, False, begin_later)
        watched = WatchedStore(store, **beginning.moments)
        try:
            error = error_of(lambda: publish(watched, workers=1))
        finally:
            go_on.set()
        errors = [error, *(future.result(60) for future in later)]
    if beginning.happened:
        assert_ends_well(store, then, *errors)
    return beginning.happened, pause.happened


@pytest.mark.parametrize("then", ["back", "on"])
def test_a_delayed_write_of_an_earlier_publication_does_not_outlive_the_next(
    uri: str, then: str
) -> None:
    # On S3 the same bytes have the same version, so here the store itself lets the write pass.
    store = open_store(uri)
    write(store, TINY)
    publish(store)
    write(store, CHANGED, minutes=1)

    def publish_later() -> None:
        write(store, THEN[then], minutes=2)
        publish(store)

    interlude = Interlude(2, False, publish_later)
    with pytest.raises(PublicationError, match="another publication of 2024 .* took over"):
        publish(WatchedStore(store, **interlude.moments), workers=1)
    publish(store)
    assert_published(store, THEN[then])


def test_an_overtaken_publication_stops_writing() -> None:
    names = [f"S{number:03}" for number in range(200)]
    store = published({DAYS[0]: dict.fromkeys(names, 0)})
    write(store, {DAYS[0]: dict.fromkeys(names, 1)}, minutes=1)
    last = {DAYS[0]: dict.fromkeys(names, 2)}

    def publish_later() -> None:
        write(store, last, minutes=2)
        publish(store)

    interlude, attempts = Interlude(10, False, publish_later), []

    def attempt(verb: str, key: str) -> None:
        attempts.append(key)
        interlude.moments["before"](verb, key)

    watched = WatchedStore(store, attempt)
    with pytest.raises(PublicationError, match="took over"):
        publish(watched, workers=1)
    assert len(watched.written) == 9
    # One that the store refused, and the manifest: not each of the 190 that were left.
    assert len(attempts) == 11
    assert_published(store, last)


def test_publications_that_always_come_between_are_an_error_in_the_end() -> None:
    store = published()
    write(store, CHANGED)

    def come_between(verb: str, key: str) -> None:
        if key == layout.manifest_key(YEAR):
            store.put(key, store.get(key))  # so that it has another version

    with pytest.raises(PublicationError, match="came between 5 times, and nothing was written"):
        publish(WatchedStore(store, come_between))
    assert_objects_whole(store, TINY)
    publish(store)
    assert_published(store, CHANGED)


MANY = {day: {f"S{number:03}": 0 for number in range(120)} for day in DAYS[:3]}
MORE = {
    DAYS[0]: {f"S{number:03}": number % 3 for number in range(0, 120, 2)},
    DAYS[3]: {f"S{number:03}": 0 for number in range(100, 140)},
}


def publish_in_another_process(uri: str, environ: dict[str, str], start: Any, turns: int) -> None:
    """Publish several times, over and over anew."""
    os.environ.update(environ)
    years = SymbolYears(open_store(uri))
    start.wait(60)
    for _ in range(turns):
        with suppress(PublicationError):
            years.publish(YEAR, suspects=[f"S{number:03}" for number in range(0, 120, 5)])


def test_two_processes_that_publish_at_once_while_sessions_change(uri: str) -> None:
    store = open_store(uri)
    write(store, MANY)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    start = context.Barrier(3)
    processes = [
        context.Process(target=publish_in_another_process, args=(uri, dict(os.environ), start, 6))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    start.wait(60)
    for minutes, sessions in enumerate([MORE, MANY, MORE]):
        # Never without an object that was there: only publications are raced here.
        for day, closes in sessions.items():
            key = layout.session_key(day)
            store.put(key, session_bytes(day, rows_of(day, closes), minutes))
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
        process.close()
    last = {**MANY, **MORE}
    years = SymbolYears(store)
    if years.manifest(YEAR).whole and not years.behind(YEAR):
        assert years.prove(YEAR).holds
    publish(store)
    assert_published(store, last)


def manifest_of(store: Store, run_id: str, *, whole: bool) -> None:
    """Let a year be published, or being published, by this run."""
    ended = datetime(2024, 7, 9, tzinfo=UTC) if whole else None
    found = Manifest(YEAR, run_id=run_id, published_at=ended)
    store.put(layout.manifest_key(YEAR), found.encode())


@pytest.mark.parametrize(
    ("run_id", "whole", "waited"),
    [("another", True, 0), ("mine", False, 0), ("another", False, 30)],
)
def test_another_publication_is_waited_for_until_it_ends_or_counts_as_killed(
    run_id: str, whole: bool, waited: float
) -> None:
    store, clock = open_store("memory://"), FakeClock()
    manifest_of(store, run_id, whole=whole)
    began = clock.seconds()

    years = SymbolYears(store, clock=clock)
    years.wait_for_other(YEAR, "mine", seconds=30, stop=threading.Event())

    assert clock.seconds() - began == waited


def test_nobody_is_waited_for_where_nothing_was_ever_published() -> None:
    clock = FakeClock()
    began = clock.seconds()
    years = SymbolYears(open_store("memory://"), clock=clock)
    years.wait_for_other(YEAR, "mine", seconds=30, stop=threading.Event())
    assert clock.seconds() == began


def test_the_wait_for_another_publication_ends_when_it_does() -> None:
    store = open_store("memory://")
    manifest_of(store, "another", whole=False)

    class Ending(FakeClock):
        def wait(self, seconds: float, stop: threading.Event) -> bool:
            if self.seconds() >= 1_005:
                manifest_of(store, "another", whole=True)
            return super().wait(seconds, stop)

    clock = Ending()
    years = SymbolYears(store, clock=clock)
    years.wait_for_other(YEAR, "mine", seconds=600, stop=threading.Event())

    assert clock.seconds() == 1_006


@pytest.mark.parametrize("symbols", [_ENCODED - 1, _ENCODED, _ENCODED + 1, 3 * _ENCODED])
@pytest.mark.parametrize("workers", [1, 5])
def test_files_that_are_encoded_together_are_each_symbols_own(symbols: int, workers: int) -> None:
    store = open_store("memory://")
    closes = {f"S{number:03}": number for number in range(symbols)}
    write(store, {DAYS[0]: closes})
    done = SymbolYears(store).publish(YEAR, workers=workers)
    assert list(done.uploaded) == list(closes)
    for symbol, rows in symbol_rows({DAYS[0]: closes}).items():
        data = store.get(layout.symbol_year_key(symbol, YEAR))
        assert symbol_year_file.decode(data, symbol).equals(rows)
        assert done.written[symbol] == hashlib.sha256(data).digest()


def test_bars_that_can_not_be_had_fail_the_symbols_encoded_together_and_are_asked_for_once() -> (
    None
):
    store, asked = open_store("memory://"), Counter[str]()
    symbols = [f"S{number:03}" for number in range(3 * _ENCODED)]
    write(store, {DAYS[0]: dict.fromkeys(symbols, 0)})
    of, lost = YearBars.of, symbols[_ENCODED + 2]

    def failing(bars: YearBars, symbol: str) -> pa.Table:
        asked[symbol] += 1
        if symbol == lost:
            raise StoreError("the bars of a year came back other than they were kept")
        return of(bars, symbol)

    told = f"{_ENCODED} of {len(symbols)} symbol-years were not written .the bars of a year came"
    with patch.object(YearBars, "of", failing), pytest.raises(PublicationError, match=told):
        SymbolYears(store).publish(YEAR, workers=3)
    assert asked[lost] == 1
    assert len(store.list(layout.SYMBOL_YEARS)) == len(symbols) - _ENCODED
    assert SymbolYears(store).publish(YEAR).manifest.whole


def test_a_publication_that_is_refused_encodes_no_more_than_it_tried_to_write() -> None:
    store, encoded = open_store("memory://"), []
    write(store, {DAYS[0]: {f"S{number:03}": number for number in range(5 * _ENCODED)}})
    encode_all = symbol_year_file.encode_all

    def counted(bars: Iterable[pa.Table]) -> list[bytes]:
        tables = list(bars)
        encoded.extend(table["symbol"][0].as_py() for table in tables)
        return encode_all(tables)

    def refuse(verb: str, key: str) -> None:
        if key.startswith(layout.SYMBOL_YEARS):
            raise StoreError("403 Forbidden")

    refusing = WatchedStore(store, before=refuse)
    with patch.object(symbol_year_file, "encode_all", counted), pytest.raises(PublicationError):
        SymbolYears(refusing).publish(YEAR, workers=1)
    assert len(encoded) == -(-HOPELESS // _ENCODED) * _ENCODED
    assert SymbolYears(store).publish(YEAR).manifest.whole
