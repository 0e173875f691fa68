"""The Iceberg table shows the lake, and its old snapshots what the lake was, whatever happens."""

import json
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import duckdb_extensions
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.schema import Schema
from pyiceberg.table import StaticTable, Table

from datalake_assets.collection.bars import SCHEMA, empty
from datalake_assets.collection.clock import Clock
from datalake_assets.iceberg import table as iceberg
from datalake_assets.iceberg.registration import RegistrationError
from datalake_assets.iceberg.table import BarsTable, Registration, bars_schema, default_catalog
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.lake.files import flipped, session_bytes
from datalake_assets_tests.storage.stores import Interlude, WatchedStore

OLD = [date(2023, 12, 28), date(2023, 12, 29)]
NEW = [date(2024, 1, 2), date(2024, 1, 3), date(2024, 1, 4)]
Bars = dict[date, pa.Table]


class LaterClock(Clock):
    """A clock that is ahead of the machine's."""

    def __init__(self, **ahead: float) -> None:
        self._ahead = timedelta(**ahead)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead


class KilledError(BaseException):
    """The process ends here."""


def killed() -> None:
    raise KilledError


def day_bars(day: date, close: float | None = None) -> pa.Table:
    """Two bars of a session; with another close of the first one: what a second look brought."""
    changed = {} if close is None else {"close": close}
    return table([bar("AUE", day, **changed), bar("BRK.B", day, vwap=None)])


def lake_of(days: list[date], **closes: float) -> Bars:
    return {day: day_bars(day, closes.get(f"d{day:%Y%m%d}")) for day in days}


def write(store: Store, sessions: Bars, *years: int, minutes: float = 0) -> None:
    """Put sessions into the lake, and publish the year files of these years."""
    for day, bars in sessions.items():
        store.put(layout.session_key(day), session_bytes(day, bars, minutes))
    for year in years:
        YearFiles(store).publish(year)


def rows(sessions: Mapping[date, pa.Table]) -> pa.Table:
    whole = pa.concat_tables([empty(), *sessions.values()])
    return whole.sort_by([("symbol", "ascending"), ("session", "ascending")])


def opened(store: Store) -> Table:
    return default_catalog(store)[0].load_table("datalake.bars")


def register(store: Store, **options: Any) -> Registration:
    return BarsTable(store, default_catalog(store)[0], **options).register()


def read(source: Table | StaticTable, snapshot: int | None = None) -> pa.Table:
    """All rows by PyIceberg, as the lake has them."""
    found = source.scan(snapshot_id=snapshot).to_arrow()
    assert found.schema.names == SCHEMA.names
    found = pa.table(
        [found[field.name].cast(field.type) for field in SCHEMA], schema=SCHEMA
    ).combine_chunks()
    return found.sort_by([("symbol", "ascending"), ("session", "ascending")])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> duckdb.DuckDBPyConnection:
    """DuckDB with its own reader of Iceberg, and the way to the test's S3 server."""
    connection = duckdb.connect()
    for extension in ("httpfs", "avro", "iceberg"):
        duckdb_extensions.import_extension(extension, con=connection)
    connection.execute("SET TimeZone = 'UTC'")
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3"):
        given = {
            "KEY_ID": os.environ["AWS_ACCESS_KEY_ID"],
            "SECRET": os.environ["AWS_SECRET_ACCESS_KEY"],
            "ENDPOINT": endpoint.removeprefix("http://"),
            "URL_STYLE": "path",
            "REGION": "us-east-1",
        }
        named = ", ".join(f"{name} '{value}'" for name, value in given.items())
        connection.execute(f"CREATE SECRET (TYPE s3, USE_SSL false, {named})")
    return connection


def by_duckdb(
    engine: duckdb.DuckDBPyConnection, folder: str, snapshot: int | None = None
) -> pa.Table:
    """All rows by DuckDB, found without a catalog."""
    at = f", snapshot_from_id = {snapshot}" if snapshot else ""
    found = engine.sql(
        f"FROM iceberg_scan('{folder}'{at}) ORDER BY symbol, session"
    ).to_arrow_table()
    return pa.table([found[field.name].cast(field.type) for field in SCHEMA], schema=SCHEMA)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty lake."""
    monkeypatch.chdir(tmp_path)  # where the catalog of a bucket goes
    if request.param == "folder":
        return open_store(str(tmp_path / "a lake"))
    return open_store(request.getfixturevalue("s3_lake_uri"))


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    """A lake in a folder, with a year that is over and a running one."""
    made = open_store(str(tmp_path / "lake"))
    write(made, lake_of([*OLD, *NEW]), 2023, 2024)
    return made


# --- what the table shows -------------------------------------------------------------------------


def test_a_second_look_that_changes_a_bar_leaves_the_snapshot_before_as_it_was(
    store: Store, engine: duckdb.DuckDBPyConnection
) -> None:
    before = lake_of([*OLD, *NEW])
    write(store, before, 2023, 2024)
    first = register(store)
    assert (first.files, first.sessions, first.bars) == (2, 5, 10)

    after = before | lake_of([NEW[1]], d20240103=777.0)
    write(store, after, 2024, minutes=5)
    # So the lake's own file, under the key that it had, has other bytes.
    second = register(store)
    assert (second.added, second.removed, second.files) == (1, 1, 2)

    assert rows(before) != rows(after)
    held = opened(store)
    assert [one.snapshot_id for one in held.snapshots()] == [first.snapshot, second.snapshot]
    for snapshot, sessions in ((first.snapshot, before), (second.snapshot, after)):
        assert read(held, snapshot).equals(rows(sessions))
        assert by_duckdb(engine, second.folder, snapshot).equals(rows(sessions))
    assert read(held).equals(rows(after))
    assert by_duckdb(engine, second.folder).equals(rows(after))


def test_the_session_that_no_year_file_has_yet_is_a_file_of_its_own(
    store: Store, engine: duckdb.DuckDBPyConnection
) -> None:
    sessions = lake_of([*OLD, *NEW])
    write(store, lake_of([*OLD, *NEW[:2]]), 2023, 2024)
    first = register(store)
    write(store, lake_of(NEW[2:]))

    second = register(store)
    assert (second.added, second.removed, second.files) == (1, 0, 3)
    assert read(opened(store)).equals(rows(sessions))
    assert by_duckdb(engine, second.folder).equals(rows(sessions))
    assert read(opened(store), first.snapshot).num_rows == 8

    YearFiles(store).publish(2024)
    third = register(store)
    assert (third.added, third.removed, third.files) == (1, 2, 2)
    assert read(opened(store)).equals(rows(sessions))


@pytest.mark.parametrize(
    "state", ["never made", "behind a second look", "behind a removal", "damaged"]
)
def test_where_a_year_file_is_of_no_use_its_sessions_are_registered(
    state: str, folder: Store
) -> None:
    register(folder)
    sessions, key = lake_of([*OLD, *NEW]), layout.year_file_key(2024)
    match state:
        case "never made":
            folder.delete(key)
            folder.delete(layout.session_key(NEW[0]))  # or the copy would be as good as before
            del sessions[NEW[0]]
        case "behind a second look":
            sessions |= lake_of([NEW[0]], d20240102=777.0)
            write(folder, lake_of([NEW[0]], d20240102=777.0))
        case "behind a removal":
            folder.delete(layout.session_key(NEW[0]))
            del sessions[NEW[0]]
        case "damaged":
            folder.put(key, folder.get(key)[:-9])
            sessions |= lake_of([NEW[0]], d20240102=777.0)
            write(folder, lake_of([NEW[0]], d20240102=777.0))
    done = register(folder)

    assert done.files == 1 + len(sessions) - len(OLD)
    assert read(opened(folder)).equals(rows(sessions))


def test_nothing_is_copied_or_committed_while_the_rows_are_the_same(folder: Store) -> None:
    first = register(folder)
    watched = WatchedStore(folder)
    assert register(watched) == replace(first, changed=False, added=0)
    # Collected again with the same answers, and published anew: other objects, the same rows.
    write(watched, lake_of([*OLD, *NEW]), minutes=5)
    for year in (2023, 2024):
        YearFiles(folder).publish(year, anew=True)
    watched.written.clear()

    assert register(watched) == replace(first, changed=False, added=0)
    assert watched.written == []


def test_a_copy_is_no_link_so_bytes_written_into_the_lakes_file_do_not_reach_it(
    folder: Store,
) -> None:
    register(folder)
    place = Path(folder.url(layout.year_file_key(2024)))
    with place.open("r+b") as file:  # as `cp` does, and an editor
        file.write(b"garbage!" * 1000)

    assert read(opened(folder)).equals(rows(lake_of([*OLD, *NEW])))


def test_a_copy_that_somebody_removed_or_damaged_is_replaced(folder: Store) -> None:
    register(folder)
    keys = [key for key in folder.list(layout.ICEBERG) if layout.registered(key)]
    folder.delete(keys[0])
    folder.put(keys[1], flipped(folder.get(keys[1])[:-4] + b"PARE", 0, 0))
    done = register(folder)

    assert (done.added, done.removed) == (2, 2)
    assert read(opened(folder)).equals(rows(lake_of([*OLD, *NEW])))


def test_the_table_declares_its_columns_partitions_order_and_key(folder: Store) -> None:
    register(folder)
    held = opened(folder)
    (task,) = held.scan(row_filter="session < '2024-01-01'").plan_files()  # of two files

    assert held.schema().as_struct() == bars_schema().as_struct()
    assert [(field.field_id, field.name) for field in held.schema().fields] == list(
        enumerate(SCHEMA.names, 1)
    )
    assert [field.required for field in held.schema().fields] == [not f.nullable for f in SCHEMA]
    assert held.schema().identifier_field_names() == {"symbol", "session"}
    assert str(held.spec().fields[0]) == "1000: session_year: year(2)"
    assert [field.source_id for field in held.sort_order().fields] == [1, 2]
    assert task.file.sort_order_id == held.sort_order().order_id != 0
    assert task.file.partition[0] == 2023 - 1970
    assert (task.file.record_count, task.file.file_size_in_bytes) == (
        4,
        folder.size(layout.year_file_key(2023)),
    )
    mapping = held.name_mapping()
    assert mapping
    assert [(one.field_id, one.names) for one in mapping] == [
        (number, [name]) for number, name in enumerate(SCHEMA.names, 1)
    ]


def test_a_table_that_lacks_a_column_gets_it_and_its_old_snapshot_goes_on(
    folder: Store, monkeypatch: pytest.MonkeyPatch, engine: duckdb.DuckDBPyConnection
) -> None:
    # A table of a version of this program whose bars had no number of trades.
    with monkeypatch.context() as patch:
        fewer = Schema(*bars_schema().fields[:-1], identifier_field_ids=[1, 2])
        patch.setattr(iceberg, "bars_schema", lambda: fewer)
        catalog, _ = default_catalog(folder)
        BarsTable(folder, catalog)._opened()
    assert "trade_count" not in catalog.load_table("datalake.bars").schema().column_names

    done = register(folder)
    held = opened(folder)
    assert held.schema().find_field("trade_count").required is False
    assert read(held).equals(rows(lake_of([*OLD, *NEW])))
    assert by_duckdb(engine, done.folder).equals(rows(lake_of([*OLD, *NEW])))
    mapping = held.name_mapping()
    assert mapping
    assert [one.field_id for one in mapping][-1] == 10


def test_engines_without_a_catalog_find_the_table_by_its_folder(
    folder: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")  # or it warns that it would be faster
    done = register(folder)

    held = StaticTable.from_metadata(done.folder)
    assert read(held).equals(rows(lake_of([*OLD, *NEW])))
    assert Path(done.metadata).is_file()
    found = pl.scan_iceberg(held).sort("symbol", "session").collect()
    assert found.to_dicts() == rows(lake_of([*OLD, *NEW])).to_pylist()


def test_manifests_do_not_pile_up(folder: Store) -> None:
    for turn in range(6):
        write(folder, lake_of([NEW[0]], d20240102=500.0 + turn), 2024, minutes=turn)
        register(folder)
    held = opened(folder)
    snapshot = held.current_snapshot()
    assert snapshot

    assert len(held.snapshots()) == 6
    assert len(snapshot.manifests(held.io)) <= 3


def test_a_session_without_a_bar_is_no_file_of_the_table(
    folder: Store, engine: duckdb.DuckDBPyConnection
) -> None:
    write(folder, {date(2024, 1, 5): empty()})
    done = register(folder)

    assert (done.files, done.sessions, done.bars) == (2, 5, 10)
    assert not register(folder).changed
    there = [key for key in folder.list(layout.ICEBERG) if layout.registered(key)]
    assert len(there) == 2
    YearFiles(folder).publish(2024)
    assert register(folder).sessions == 6
    assert read(opened(folder)).equals(rows(lake_of([*OLD, *NEW])))
    assert by_duckdb(engine, done.folder).equals(rows(lake_of([*OLD, *NEW])))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_happened_the_table_shows_the_lake_and_its_snapshots_what_it_was(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("any")))
    days, sessions, then = [*OLD, *NEW], {}, {}
    for turn in range(data.draw(st.integers(2, 4))):
        for _ in range(data.draw(st.integers(1, 4))):
            day = data.draw(st.sampled_from(days))
            match data.draw(st.sampled_from(["collect", "collect", "publish", "remove"])):
                case "collect":
                    close = data.draw(st.sampled_from([10.0, 20.0, 30.0]))
                    sessions[day] = day_bars(day, close)
                    write(store, {day: sessions[day]}, minutes=turn)
                case "publish":
                    YearFiles(store).publish(day.year)
                case "remove" if len(sessions) > 1:
                    sessions.pop(day, None)
                    store.delete(layout.session_key(day))
        if not sessions:
            continue
        done = register(store)
        then[done.snapshot] = rows(sessions)
        assert read(opened(store)).equals(rows(sessions))
        assert (done.sessions, done.bars) == (len(sessions), 2 * len(sessions))
    for snapshot, expected in then.items():
        assert read(opened(store), snapshot).equals(expected)


# --- several at once ------------------------------------------------------------------------------


def test_a_reader_sees_the_table_before_or_after_and_never_half(folder: Store) -> None:
    def state(turn: int) -> Bars:
        # One change in each year: two files are replaced by every commit.
        return lake_of([*OLD, *NEW], d20231229=100.0 + turn, d20240103=100.0 + turn)

    write(folder, state(0), 2023, 2024)
    register(folder)
    stop, seen, broken = threading.Event(), [], []

    def look() -> None:
        catalog, _ = default_catalog(folder)
        while not stop.is_set():
            try:
                found = read(catalog.load_table("datalake.bars"))
                changed = [
                    row["close"]
                    for row in found.to_pylist()
                    if row["symbol"] == "AUE" and row["session"] in (OLD[1], NEW[1])
                ]
                seen.append((found.num_rows, *changed))
            except Exception as error:
                broken.append(error)
                raise

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for turn in range(1, 9):
            write(folder, state(turn), 2023, 2024, minutes=turn)
            assert register(folder).changed
    finally:
        stop.set()
        reader.join()

    assert broken == []
    assert {count for count, _, _ in seen} == {10}
    assert [one for one in seen if one[1] != one[2]] == []
    assert len({one[1] for one in seen}) > 1  # it looked while the table changed


@pytest.mark.parametrize("followed", [True, False])
def test_of_two_registrations_at_once_both_end_and_no_bar_is_in_the_table_twice(
    followed: bool, store: Store
) -> None:
    write(store, lake_of([*OLD, *NEW[:2]]), 2023, 2024)
    register(store)
    # With its year file one file replaces another; without it, one is added and none is removed.
    write(store, lake_of(NEW[2:]), *([2024] if followed else []))
    other = Interlude(1, True, lambda: register(store))
    done = register(WatchedStore(store, **other.moments))

    assert other.happened
    assert not done.changed
    assert read(opened(store)).equals(rows(lake_of([*OLD, *NEW])))


def test_a_file_that_is_replaced_while_it_is_copied_is_chosen_again(folder: Store) -> None:
    more = lake_of([date(2024, 1, 5)])
    write(folder, more)  # a session that the year file lacks, and so one to be copied
    happened = []

    def follow(verb: str, key: str) -> None:
        if verb == "copy" and layout.registered(key) == 2024 and not happened:
            happened.append(YearFiles(folder).publish(2024).written)  # now it has the session

    done = register(WatchedStore(folder, before=follow))

    assert happened == [True]
    assert (done.files, done.sessions) == (2, 6)
    assert read(opened(folder)).equals(rows(lake_of([*OLD, *NEW]) | more))


def test_a_lake_that_never_stands_still_is_not_registered_and_says_so(folder: Store) -> None:
    turns = iter(range(100))

    def change(verb: str, key: str) -> None:
        if verb == "copy" and key.startswith("iceberg/bars/data/year=2024"):
            turn = next(turns)
            write(folder, lake_of([NEW[0]], d20240102=500.0 + turn), 2024, minutes=turn)

    with pytest.raises(RegistrationError, match="changed 5 times while it was registered"):
        register(WatchedStore(folder, before=change))
    assert opened(folder).current_snapshot() is None


# --- killed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reached", [False, True])
@pytest.mark.parametrize("writes", [1, 2, 3])
def test_killed_at_any_write_the_next_registration_is_whole(
    writes: int, reached: bool, folder: Store
) -> None:
    """Two copies and the name of the current metadata: what is written, PyIceberg's part aside."""
    end = Interlude(writes, reached, killed)
    with pytest.raises(KilledError):
        register(WatchedStore(folder, **end.moments))
    assert end.happened
    done = register(folder)

    assert (done.files, done.sessions) == (2, 5)
    assert read(opened(folder)).equals(rows(lake_of([*OLD, *NEW])))
    assert read(StaticTable.from_metadata(done.folder)).equals(rows(lake_of([*OLD, *NEW])))


class DyingCatalog(SqlCatalog):
    """A catalog whose process ends at a commit, before it is made or when it was."""

    dying: str = ""

    def commit_table(self, *args: Any) -> Any:
        if self.dying == "before":
            killed()
        made = super().commit_table(*args)
        if self.dying == "after":
            killed()
        return made


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_the_commit_the_table_is_the_old_or_the_new_one(
    moment: str, folder: Store
) -> None:
    first = register(folder)
    changed = lake_of([NEW[1]], d20240103=777.0)
    write(folder, changed, 2024, minutes=1)
    dying = DyingCatalog("datalake", uri=f"sqlite:///{folder.url(layout.ICEBERG_CATALOG)}")
    dying.dying = moment
    with pytest.raises(KilledError):
        BarsTable(folder, dying).register()

    before, after = rows(lake_of([*OLD, *NEW])), rows(lake_of([*OLD, *NEW]) | changed)
    assert read(opened(folder)).equals(before if moment == "before" else after)
    done = register(folder)
    assert done.changed == (moment == "before")
    assert read(opened(folder)).equals(after)
    assert read(opened(folder), first.snapshot).equals(before)
    assert read(StaticTable.from_metadata(done.folder)).equals(after)


# --- what is old ----------------------------------------------------------------------------------


def test_a_snapshot_is_kept_for_its_days_after_it_was_replaced_and_then_its_files_go(
    store: Store,
) -> None:
    write(store, lake_of([*OLD, *NEW]), 2023, 2024)
    first = register(store)
    write(store, lake_of([NEW[0]], d20240102=1.5), 2024, minutes=1)
    second = register(store)
    write(store, lake_of([NEW[0]], d20240102=2.5), 2024, minutes=2)
    third = register(store, clock=LaterClock(days=29, hours=23))
    assert (third.expired, third.deleted) == (0, [])
    write(store, lake_of([NEW[0]], d20240102=3.5), 2024, minutes=3)
    fourth = register(store, clock=LaterClock(days=30, minutes=1))

    # The first and the second one were replaced today; so was the third, a moment ago.
    assert fourth.expired == 3
    held = opened(store)
    assert [one.snapshot_id for one in held.snapshots()] == [fourth.snapshot]
    copies = [key for key in fourth.deleted if layout.registered(key)]
    assert len(copies) == 3
    assert first.snapshot != second.snapshot
    there = [key for key in store.list(layout.ICEBERG) if layout.registered(key)]
    assert len(there) == 2
    assert read(held).equals(rows(lake_of([*OLD, *NEW], d20240102=3.5)))


def test_a_snapshot_with_a_name_is_kept_for_ever(folder: Store) -> None:
    first = register(folder)
    opened(folder).manage_snapshots().create_tag(first.snapshot, "backtest").commit()
    write(folder, lake_of([NEW[0]], d20240102=777.0), 2024, minutes=1)
    register(folder, clock=LaterClock(days=400))
    write(folder, lake_of([NEW[0]], d20240102=778.0), 2024, minutes=2)
    done = register(folder, clock=LaterClock(days=500))

    assert done.expired == 1
    assert read(opened(folder), first.snapshot).equals(rows(lake_of([*OLD, *NEW])))


def test_what_a_killed_registration_left_goes_when_it_is_a_day_old(folder: Store) -> None:
    register(folder)
    stray = layout.registered_key("bars", 2024, "0" * 16)
    folder.put(stray, b"of a registration that did not end")
    for ahead, there in ((timedelta(hours=23), True), (timedelta(hours=25), False)):
        write(folder, lake_of([NEW[0]], d20240102=ahead.total_seconds()), 2024, minutes=1)
        register(folder, clock=LaterClock(seconds=ahead.total_seconds()))
        assert folder.exists(stray) is there

    assert read(opened(folder)).num_rows == 10


# --- catalogs -------------------------------------------------------------------------------------


def sqlite(path: Path) -> Catalog:
    return SqlCatalog("mine", uri=f"sqlite:///{path}")


def test_a_lake_without_sessions_is_not_registered(tmp_path: Path) -> None:
    with pytest.raises(NotInLakeError, match="no session is published"):
        register(open_store(str(tmp_path)))


def test_a_lake_without_a_bar_is_not_registered(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    write(store, {NEW[0]: empty()})
    with pytest.raises(NotInLakeError, match="has a bar: nothing to register"):
        register(store)


def test_a_lake_in_memory_is_not_registered() -> None:
    with pytest.raises(RegistrationError, match="nobody else can read it"):
        default_catalog(open_store("memory://"))


def test_a_catalog_that_was_lost_goes_on_from_what_lies_in_the_lake(folder: Store) -> None:
    first = register(folder)
    folder.delete(layout.ICEBERG_CATALOG)
    write(folder, lake_of([NEW[0]], d20240102=777.0), 2024, minutes=1)
    done = register(folder)

    assert (done.added, done.removed) == (1, 1)
    assert read(opened(folder), first.snapshot).equals(rows(lake_of([*OLD, *NEW])))


def test_two_catalogs_that_do_not_know_of_each_other_are_kept_apart(
    folder: Store, tmp_path: Path
) -> None:
    register(folder)
    mine = BarsTable(folder, sqlite(tmp_path / "mine.db"))
    assert not mine.register().changed  # it went on from what lies there
    write(folder, lake_of([NEW[0]], d20240102=777.0), 2024, minutes=1)
    mine.register()

    with pytest.raises(RegistrationError, match="another catalog registers this lake in the same"):
        register(folder)
    default_catalog(folder)[0].drop_table("datalake.bars")  # as the message says
    assert not register(folder).changed
    assert register(folder, table="datalake.others").files == 2


def test_a_lake_that_was_copied_is_not_registered_in_the_table_of_the_other(
    folder: Store, tmp_path: Path
) -> None:
    register(folder)
    shutil.copytree(folder.url("data").removesuffix("/data"), tmp_path / "copy")
    copy = open_store(str(tmp_path / "copy"))
    with pytest.raises(RegistrationError, match="An Iceberg table can't be moved"):
        register(copy)
    shutil.rmtree(tmp_path / "copy" / layout.ICEBERG)  # as the message says

    assert register(copy).files == 2
    assert read(opened(copy)).equals(rows(lake_of([*OLD, *NEW])))


def test_a_table_with_files_of_others_is_left_alone(folder: Store) -> None:
    register(folder)
    opened(folder).add_files([folder.url(layout.session_key(NEW[0]))])

    with pytest.raises(RegistrationError, match="files that were not registered here"):
        register(folder)


def test_a_catalog_that_is_not_configured_is_told(tmp_path: Path) -> None:
    with pytest.raises(RegistrationError, match="can't open the catalog 'nowhere'"):
        iceberg.open_catalog("nowhere")


def test_a_password_in_the_address_of_a_catalog_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(name: str) -> Catalog:
        raise ValueError("Could not infer the catalog type from the uri: odd://me:secret@host/x")

    monkeypatch.setattr(iceberg, "load_catalog", refuse)
    with pytest.raises(RegistrationError, match="odd://…@host/x") as told:
        iceberg.open_catalog("mine")
    assert "secret" not in str(told.value)


def test_no_secret_is_in_the_tables_metadata(store: Store) -> None:
    write(store, lake_of(OLD), 2023)
    done = register(store)
    text = store.get(done.metadata.removeprefix(store.url("x").removesuffix("x"))).decode()
    assert json.loads(text)["table-uuid"]
    assert os.environ.get("AWS_SECRET_ACCESS_KEY", "of no bucket") not in text
