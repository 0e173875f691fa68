"""The catalog's views give what the lake holds, whatever was published since it was written.

Not here: what a person types and sees (`test_sql`).
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datalake_assets import catalog, market_calendar
from datalake_assets.actions.log import ActionLog
from datalake_assets.catalog import CatalogError
from datalake_assets.collection.dataset import MINUTE
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.universe import SCHEMA as UNIVERSE
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.lake.restatements import Restatements, changes
from datalake_assets.lake.security_reader import SecuritiesWarning
from datalake_assets.lake.session_file import Provenance, Session
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store, open_store
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.lake.minutes import publish_minutes, session_of
from datalake_assets_tests.lake.test_reader import write
from datalake_assets_tests.lake.test_true_reads import World
from datalake_assets_tests.securities.bars import action
from datalake_assets_tests.securities.deriving import say
from datalake_assets_tests.securities.market import DAYS, MARKET, lake_of, write_bars

DERIVED = ["cumulative", "bars_split", "bars_all", "securities", "factors"]
AT = datetime(2024, 2, 2, tzinfo=UTC)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "a lake's")
    return str(request.getfixturevalue("s3_lake_uri"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Thirty sessions in two years, with year files, and their tables."""
    made = open_store(str(tmp_path / "lake"))
    lake_of(made)
    publish(made)
    return made


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecuritiesWarning)
        yield


def publish(store: Store, *years: int) -> None:
    for year in years or (2023, 2024):
        YearFiles(store).publish(year)


def ask(store: Store, query: str) -> list[dict[str, Any]]:
    """What a query of the catalog gives that lies in a folder, from another folder."""
    path = store.url(layout.CATALOG)
    with duckdb.connect(path, read_only=True) as connection:
        connection.execute("SET file_search_path = $1", [store.place("")])
        connection.execute("SET TimeZone = 'UTC'")
        return list(connection.sql(query).to_arrow_table().to_pylist())


def ordered(rows: pa.Table | list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = rows if isinstance(rows, list) else rows.to_pylist()
    return sorted(found, key=lambda row: (row["symbol"], row["session"]))


def bars(store: Store) -> list[dict[str, Any]]:
    return ordered(ask(store, "FROM bars"))


def held(store: Store) -> list[dict[str, Any]]:
    """The bars of the sessions as they lie in the lake."""
    return ordered(Lake(store).bars(follow=False))


def restate(store: Store, day: date, shift: float = 1.0) -> None:
    """Collect a session again; every price is another one."""
    symbols = [symbol for truth in MARKET for symbol, at in truth.bars() if DAYS[at] == day]
    write(store, day, symbols, shift)


# --- the same numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize(("view", "adjustment"), [("bars_split", "split"), ("bars_all", "all")])
def test_adjusted_views_are_the_readers_rows_to_the_last_bit(
    view: str, adjustment: str, uri: str
) -> None:
    store = open_store(uri)
    lake = lake_of(store)
    publish(store, 2023)  # and 2024 comes from its sessions
    expected = lake.bars(adjustment=adjustment)

    with catalog.connected(store) as connection:
        catalog.create_views(connection, store)
        found = connection.sql(f"FROM {view}").to_arrow_table()

    assert found.column_names == expected.column_names
    assert [field.type for field in found.schema] == [field.type for field in expected.schema]
    assert ordered(found) == ordered(expected)
    assert expected["close"].to_pylist() != lake.bars()["close"].to_pylist()


def test_adjusted_views_are_the_readers_in_two_years_of_the_embedded_market(tmp_path: Path) -> None:
    world = World(str(tmp_path / "lake"))
    store = world.lake.store
    publish(store, 2021)
    catalog.write(store)

    for view, adjustment in (("bars_split", "split"), ("bars_all", "all")):
        expected = world.lake.bars(adjustment=adjustment)
        assert ordered(ask(store, f"FROM {view}")) == ordered(expected), view
    of_two = "SELECT count(*) AS n FROM (SELECT symbol FROM bars_all GROUP BY symbol "
    reused = ask(store, f"{of_two} HAVING count(DISTINCT security) > 1)")
    renamed = ask(
        store,
        of_two.replace("symbol", "security", 2).partition("GROUP")[0]
        + ("GROUP BY security HAVING count(DISTINCT symbol) > 1)"),
    )
    assert reused[0]["n"] > 0
    assert renamed[0]["n"] > 0


def test_a_bar_that_no_factor_covers_is_there_as_it_traded(store: Store) -> None:
    day = DAYS[-1] + timedelta(days=1)
    write(store, day, ["META", "NEW"])
    catalog.write(store)

    found = {row["symbol"]: row for row in ask(store, f"FROM bars_all WHERE session = '{day}'")}

    assert found["META"]["security"] == "FB-1"
    assert found["NEW"] == bar("NEW", day) | {"security": None}
    assert ordered(ask(store, "FROM bars_all")) == ordered(Lake(store).bars(adjustment="all"))


def test_bars_have_the_contracts_columns_and_the_tables_theirs(store: Store) -> None:
    say(store, AT, action("a", "cash_dividends", "META", DAYS[12], cash=0.5))
    ActionLog(store).publish()
    catalog.write(store)

    assert bars(store) == held(store)
    told = Lake(store).securities()
    for name, rows in (
        ("securities", told.securities),
        ("factors", told.factors),
        ("cumulative", told.cumulative),
    ):
        assert ask(store, f"FROM {name}") == rows.to_pylist(), name
    (found,) = ask(store, "FROM actions")
    assert (found["id"], found["symbol"], found["cash"]) == ("a", "META", 0.5)


# --- right while the lake changes -----------------------------------------------------------------


def test_a_session_is_there_once_before_and_after_its_year_file(store: Store) -> None:
    catalog.write(store)
    day = DAYS[-1] + timedelta(days=1)

    write(store, day, ["META", "AA"])
    assert bars(store) == held(store)
    assert {row["session"] for row in bars(store)} >= {day}
    publish(store, 2024)
    assert bars(store) == held(store)
    catalog.write(store)
    assert bars(store) == held(store)


def test_a_catalog_of_a_lake_without_year_files_stays_right_when_they_come(store: Store) -> None:
    for year in (2023, 2024):
        store.delete(layout.year_file_key(year))
    catalog.write(store)

    assert bars(store) == held(store)
    publish(store)
    assert bars(store) == held(store)


def test_the_first_year_file_of_a_year_does_not_double_its_sessions(store: Store) -> None:
    store.delete(layout.year_file_key(2024))
    catalog.write(store)

    assert bars(store) == held(store)
    publish(store, 2024)
    assert bars(store) == held(store)


@pytest.mark.parametrize("newest", [date(2024, 12, 31), date(2029, 12, 31)])
def test_the_first_session_of_a_new_year_is_there_before_its_year_file(
    newest: date, tmp_path: Path
) -> None:
    store = open_store(str(tmp_path / "lake"))
    for year in (2019, 2020, newest.year):
        write(store, date(year, 12, 31), ["A", "B"])
        publish(store, year)
    write(store, date(2020, 12, 31), ["A", "C"])  # collected again since
    catalog.write(store)
    assert bars(store) == held(store)

    first = newest + timedelta(days=2)
    write(store, first, ["A"])
    assert bars(store) == held(store)
    publish(store, first.year)
    assert bars(store) == held(store)


def test_a_session_that_was_collected_again_shows_when_the_catalog_or_its_year_is_written(
    store: Store,
) -> None:
    catalog.write(store)
    before = bars(store)

    restate(store, DAYS[3])
    assert bars(store) == before
    catalog.write(store)
    assert bars(store) == held(store) != before
    publish(store, 2023)
    assert bars(store) == held(store)
    catalog.write(store)
    restate(store, DAYS[3], 2.0)
    publish(store, 2023)
    assert bars(store) == held(store)


def test_a_session_that_was_removed_or_came_late_is_told_when_the_catalog_is_written(
    store: Store,
) -> None:
    late = store.get(layout.session_key(DAYS[2]))
    store.delete(layout.session_key(DAYS[2]))
    publish(store, 2023)
    store.put(layout.session_key(DAYS[2]), late)
    store.delete(layout.session_key(DAYS[15]))
    store.delete(layout.session_key(DAYS[-1]))
    catalog.write(store)

    assert bars(store) == held(store)
    publish(store)
    assert bars(store) == held(store)


def test_a_year_that_lost_all_of_its_sessions_is_gone(store: Store) -> None:
    for day in DAYS:
        if day.year == 2023:
            store.delete(layout.session_key(day))
    catalog.write(store)

    assert bars(store) == held(store)


def test_a_query_of_the_year_opens_no_session_that_its_file_shows(store: Store) -> None:
    catalog.write(store)
    write(store, DAYS[-1] + timedelta(days=1), ["META"])

    told = str(ask(store, "EXPLAIN ANALYZE SELECT max(session) FROM bars"))

    assert f"Scanning Files: 1/{sum(day.year == 2024 for day in DAYS) + 1}" in told


def test_a_damaged_year_file_is_an_error_that_says_what_to_do(store: Store) -> None:
    catalog.write(store)
    before = store.get(layout.CATALOG)
    store.put(layout.year_file_key(2024), b"PAR1")

    with pytest.raises(BrokenFileError, match="publish its year again"):
        catalog.write(store)
    assert store.get(layout.CATALOG) == before


# --- ledger, universe, restatements ---------------------------------------------------------------


def test_the_ledger_has_a_row_for_each_symbol_without_a_bar(store: Store) -> None:
    states = {"no_print": ("A", "B'S"), "failed": {"C": 'HTTP 500: "x"', "D": ""}}
    write(store, DAYS[0], ["META"], **states, pending=("E",), rejected={"F": "no such symbol"})
    write(store, DAYS[-1], ["META"], no_print=("A",))
    catalog.write(store)

    expected = [
        ("A", DAYS[0], "no_print", None),
        ("B'S", DAYS[0], "no_print", None),
        ("C", DAYS[0], "failed", 'HTTP 500: "x"'),
        ("D", DAYS[0], "failed", ""),
        ("E", DAYS[0], "pending", None),
        ("F", DAYS[0], "rejected", "no such symbol"),
    ]
    newest = ("A", DAYS[-1], "no_print", None)

    def rows(table: str) -> list[tuple[Any, ...]]:
        return sorted(tuple(row.values()) for row in ask(store, f"FROM {table}"))

    assert rows("ledger") == sorted([*expected, newest])
    assert rows(f"ledger_of('{DAYS[0]}')") == expected
    assert rows("ledger_of('2024-*')") == [newest]
    assert rows("ledger_of('*')") == rows("ledger")
    assert rows(f"ledger_of('{DAYS[5]}')") == []
    assert rows(f"ledger_of(DATE '{DAYS[0]}')") == expected


@pytest.mark.parametrize("macro", ["ledger_of", "minute_ledger_of"])
@pytest.mark.parametrize("given", ["'rubbish'", "'../x'", "''", "5", "2024-11-24", "NULL"])
def test_a_ledger_of_what_is_no_session_is_refused_in_its_own_words(
    given: str, macro: str, store: Store
) -> None:
    catalog.write(store)

    with pytest.raises(duckdb.InvalidInputException, match=f" {macro} takes a session like '20"):
        ask(store, f"FROM {macro}({given})")


def test_the_universe_has_each_days_list(store: Store) -> None:
    for day, symbols in ((DAYS[0], ["A"]), (DAYS[1], ["A", "B"])):
        rows = [{"symbol": symbol, "status": "active"} for symbol in symbols]
        LakeWriter(store).write_universe(day, pa.Table.from_pylist(rows, UNIVERSE))
    catalog.write(store)

    rows = ask(store, "SELECT day, symbol FROM universe ORDER BY ALL")
    assert [tuple(row.values()) for row in rows] == [
        (DAYS[0], "A"),
        (DAYS[1], "A"),
        (DAYS[1], "B"),
    ]


def test_restatements_are_there_and_their_lack_is_an_empty_table(store: Store) -> None:
    catalog.write(store)
    assert ask(store, "FROM restatements") == []
    shape = ask(store, "DESCRIBE restatements")

    before, after = (table([bar("META", DAYS[12]) | {"close": x}]) for x in (1.0, 2.0))
    Restatements(store).keep(changes(before, after, AT, AT + timedelta(days=1)))
    catalog.write(store)

    (found,) = ask(store, "FROM restatements")
    assert found == Restatements(store).of(DAYS[12]).to_pylist()[0]
    assert ask(store, "DESCRIBE restatements") == shape


# --- the file -------------------------------------------------------------------------------------


def test_each_view_says_what_it_is(store: Store) -> None:
    made = catalog.write(store)

    told = ask(store, "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal")
    assert {row["view_name"]: row["comment"] for row in told} == {v.name: v.meaning for v in made}
    assert [view.name for view in made] == ["bars", *DERIVED, "ledger", "restatements"]


def test_a_lake_without_tables_has_no_views_of_them(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))
    write_bars(store, MARKET)

    assert [view.name for view in catalog.write(store)] == ["bars", "ledger", "restatements"]
    assert bars(store) == held(store)


def test_minutes_are_a_table_where_the_lake_has_any(store: Store) -> None:
    opens = market_calendar.session_open(DAYS[12])
    minutes = table(
        [bar("META", DAYS[12]) | {"timestamp": opens + timedelta(minutes=n)} for n in range(3)]
    )
    ledger = Ledger(DAYS[12], present=("META",), no_print=("A",), failed={"B": "HTTP 500"})
    origin = Provenance(AT, "test", DAYS[12], "run", "0")
    LakeWriter(store).of(MINUTE).publish(Session(minutes, ledger, origin), [])

    catalog.write(store)

    assert ask(store, "FROM minutes ORDER BY timestamp") == minutes.to_pylist()
    day = DAYS[12].isoformat()
    assert len(ask(store, f"FROM minutes WHERE symbol = 'META' AND session = '{day}'")) == 3
    assert ask(store, "FROM minutes WHERE symbol = 'AAPL'") == []
    without = [("A", DAYS[12], "no_print", None), ("B", DAYS[12], "failed", "HTTP 500")]
    names = ("symbol", "session", "state", "reason")
    for table_of in ("minute_ledger", f"minute_ledger_of('{day}')", "minute_ledger_of('*')"):
        found = ask(store, f"FROM {table_of} ORDER BY symbol")
        assert found == [dict(zip(names, row, strict=True)) for row in without]


def test_a_lake_of_minutes_alone_has_their_view(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))
    minutes = session_of(["AUE"], DAYS[12])
    publish_minutes(store, DAYS[12], minutes)

    assert [view.name for view in catalog.write(store)] == [
        "minutes",
        "minute_ledger",
        "restatements",
    ]
    assert ask(store, "FROM minutes ORDER BY timestamp") == minutes.to_pylist()
    assert catalog.difference(store) == ""
    write_bars(store, MARKET)
    assert catalog.difference(store) == "it lacks bars, ledger, which the lake has"


def test_tables_of_securities_without_a_session_have_no_view_of_adjusted_bars(
    store: Store,
) -> None:
    publish_minutes(store, DAYS[12], session_of(["AUE"], DAYS[12]))
    for key in store.list(layout.SESSIONS):
        store.delete(key)
    for key in store.list(layout.YEARS):
        store.delete(key)

    made = [view.name for view in catalog.write(store)]

    assert made == ["securities", "factors", "minutes", "minute_ledger", "restatements"]


def test_a_lake_without_a_session_has_no_catalog(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))

    with pytest.raises(NotInLakeError, match="no session is published in .*datalake backfill"):
        catalog.write(store)
    assert not store.exists(layout.CATALOG)


def test_the_folder_can_be_moved_and_another_lake_may_be_the_working_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.write(store)
    expected = held(store)
    other = open_store(str(tmp_path / "other"))
    lake_of(other, MARKET[:1])
    publish(other)
    monkeypatch.chdir(tmp_path / "other")

    moved = open_store(str(shutil.move(tmp_path / "lake", tmp_path / "moved")))
    assert bars(moved) == expected
    assert {row["security"] for row in ask(moved, "FROM cumulative")} > {"FB-1"}


@pytest.mark.parametrize("name", ["it's, a lake", 'a "lake"', "lake [1]*?"])
def test_any_name_of_the_folder_will_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path / name))
    lake_of(store)
    publish(store, 2023)
    catalog.write(store)

    with catalog.connected(store) as connection:
        catalog.create_views(connection, store)
        assert ordered(connection.sql("FROM bars").to_arrow_table()) == held(store)
    monkeypatch.chdir(store.place(""))
    with duckdb.connect(layout.CATALOG, read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        assert ordered(connection.sql("FROM bars").to_arrow_table()) == held(store)


def test_it_can_be_attached_beside_other_databases(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog.write(store)
    monkeypatch.chdir(store.place(""))
    with duckdb.connect() as connection:
        connection.execute(f"ATTACH '{layout.CATALOG}' AS lake (READ_ONLY)")
        count = connection.sql("SELECT count(*) FROM lake.bars_all").fetchone()
        assert count == (len(held(store)),)
        assert connection.sql("FROM lake.ledger_of('2024-*')").fetchall() == []


@pytest.mark.s3
def test_in_a_bucket_it_is_attached_where_it_lies(s3_lake_uri: str) -> None:
    store = open_store(s3_lake_uri)
    lake = lake_of(store)
    publish(store)
    catalog.write(store)

    with catalog.connected(store) as connection:
        connection.execute(f"ATTACH '{store.url(layout.CATALOG)}' AS lake (READ_ONLY)")
        found = connection.sql("FROM lake.bars_all").to_arrow_table()
    assert ordered(found) == ordered(lake.bars(adjustment="all"))


@pytest.mark.s3
def test_the_secret_key_stands_nowhere(s3_lake_uri: str) -> None:
    store = open_store(s3_lake_uri)
    write(store, DAYS[0], ["META"])
    secret = store.s3_access().secret
    catalog.write(store)

    assert secret not in repr(store.s3_access())
    assert secret.encode() not in store.get(layout.CATALOG)
    with catalog.connected(store) as connection:
        assert secret not in str(connection.sql("FROM duckdb_secrets()").fetchall())


def test_a_folder_has_no_access_to_a_bucket(store: Store) -> None:
    with pytest.raises(ValueError, match="is no bucket"):
        store.s3_access()


# --- after each publication -----------------------------------------------------------------------


def test_it_follows_a_publication_once_it_is_there(store: Store) -> None:
    catalog.follow(store)
    assert not store.exists(layout.CATALOG)

    catalog.write(store)
    before = store.get(layout.CATALOG)
    write(store, DAYS[-1] + timedelta(days=1), ["META"])
    publish(store, 2024)
    catalog.follow(store)
    assert store.get(layout.CATALOG) != before
    assert bars(store) == held(store)


def test_without_duckdb_it_stays_as_it_is_with_a_warning(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    catalog.write(store)
    before = store.get(layout.CATALOG)

    with patch.object(catalog, "find_spec", return_value=None):
        with pytest.raises(CatalogError, match=r"not installed: pip install .*\[sql\]"):
            catalog.write(store)
        catalog.follow(store)

    assert "was not written again, so queries of it will get slower" in caplog.text
    assert store.get(layout.CATALOG) == before


# --- whatever happens -----------------------------------------------------------------------------

FEW = [DAYS[0], DAYS[1], *DAYS[-2:], DAYS[-1] + timedelta(days=1)]
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("collect"), st.sampled_from(FEW), st.integers(0, 2)),
        st.tuples(st.just("publish"), st.sampled_from([2023, 2024]), st.just(0)),
        st.tuples(st.just("catalog"), st.none(), st.just(0)),
    ),
    max_size=8,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(before=EVENTS, after=EVENTS)
def test_no_bar_is_twice_and_none_of_a_new_session_is_missing(
    before: list[tuple[str, Any, int]], after: list[tuple[str, Any, int]]
) -> None:
    def happen(event: tuple[str, Any, int]) -> None:
        kind, what, shift = event
        match kind:
            case "collect":
                write(store, what, ["A", "B"], shift)
            case "publish":
                YearFiles(store).publish(what)
            case "catalog":
                catalog.write(store)

    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        write(store, FEW[0], ["A", "B"])
        for event in before:
            happen(event)
        catalog.write(store)
        known = held(store)
        newest = max(row["session"] for row in known)
        assert bars(store) == known

        for event in after:
            happen(event)
            found, there = bars(store), held(store)
            if event[0] == "catalog":  # from now on it finds by itself what is newer than that
                known, newest = there, max(row["session"] for row in there)
            keys = [(row["symbol"], row["session"]) for row in found]
            assert len(keys) == len(set(keys))
            now = {(row["symbol"], row["session"]) for row in there}
            assert set(keys) <= now
            assert set(keys) >= {key for key in now if key[1] > newest}
            assert set(keys) >= {(row["symbol"], row["session"]) for row in known}
        catalog.write(store)
        assert bars(store) == held(store)
