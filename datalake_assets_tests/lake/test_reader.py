"""A reader gives what the sessions hold, whatever the symbol-years are, and tells why not."""

import logging
import pickle
import random
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import datalake_assets
from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.universe import SCHEMA as UNIVERSE
from datalake_assets.lake import reader, session_file, symbol_year_file
from datalake_assets.lake.coverage import Held
from datalake_assets.lake.files import FORMAT, LakeFiles, WrongLakeError
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.projection import FOOTER_GUESS
from datalake_assets.lake.reader import (
    GROUP_COST,
    MISSING,
    SESSION_COST,
    MissingSessionsWarning,
    NotInLakeError,
    Reader,
)
from datalake_assets.lake.session_file import Provenance, Session
from datalake_assets.lake.symbol_years import SymbolYears
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.lake.year_files import YearFiles
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store, StoreError, open_store
from datalake_assets_tests.collection.tables import bar, every, table
from datalake_assets_tests.fakes import FakeClock
from datalake_assets_tests.lake.files import flipped as with_flipped_bit
from datalake_assets_tests.lake.files import session_bytes

DAYS = [date(2023, 12, 28), date(2023, 12, 29), date(2024, 1, 2), date(2024, 1, 3)]
"""Four sessions in a row, two of each year."""

SYMBOLS = ("AAPL", "BRK.B", "MSFT", "ZM")

Bars = Mapping[date, Iterable[str]]
"""The symbols that have a bar, by session."""


class CountingStore(Store):
    """A store that remembers what was read of it.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self.__dict__.update(vars(store))
        self.read: list[str] = []

    def get(self, key: str) -> bytes:
        self.read.append(key)
        return super().get(key)

    def kinds(self) -> tuple[int, int]:
        """How many sessions and how many symbol-years were read."""
        sessions = sum(key.startswith(layout.SESSIONS) for key in self.read)
        return sessions, sum(key.startswith(layout.SYMBOL_YEARS) for key in self.read)


def write(store: Store, day: date, symbols: Iterable[str], shift: float = 0, **states: Any) -> None:
    """Publish a session in which these symbols have a bar; `shift` restates their prices."""
    rows = [bar(symbol, day) for symbol in sorted(symbols)]
    for row in rows:
        for name in ("open", "high", "low", "close", "vwap"):
            row[name] += shift
    store.put(layout.session_key(day), encoded(day, table(rows), **states))


def encoded(day: date, rows: pa.Table, **states: Any) -> bytes:
    ledger = Ledger(day, present=tuple(rows["symbol"].to_pylist()), **states)
    at = datetime(2024, 2, 1, tzinfo=UTC)
    return session_file.encode(
        Session(rows, ledger, Provenance(at, "alpaca/sip", day, "r", "0")), []
    )


def publish(store: Store, *years: int) -> None:
    for year in years:
        SymbolYears(store).publish(year)


def truth(store: Store, symbols: Iterable[str], first: date, last: date) -> list[dict[str, Any]]:
    """The bars that the sessions hold, read one by one."""
    lake = LakeFiles(store)
    rows = [
        row
        for day in lake.sessions()
        if first <= day <= last
        for row in lake.read(day).bars.to_pylist()
        if row["symbol"] in symbols
    ]
    return sorted(rows, key=lambda row: (row["symbol"], row["session"]))


@pytest.fixture
def store() -> Store:
    """Four sessions of four symbols, both of their years published."""
    made = open_store("memory://")
    fill(made)
    return made


def fill(store: Store) -> None:
    LakeWriter(store).claim("alpaca/sip")
    for day in DAYS:
        write(store, day, SYMBOLS)
    publish(store, 2023, 2024)


def put_sessions(store: Store, days: Iterable[date]) -> None:
    """These sessions, of A and B."""
    for day in days:
        store.put(layout.session_key(day), session_bytes(day, every(["A", "B"], [day])))


def universe(store: Store, *symbols: str) -> None:
    rows = [
        {"symbol": s, "status": "active", "exchange": "NYSE", "tradable": True, "asset_id": s}
        for s in symbols
    ]
    LakeWriter(store).write_universe(date(2024, 1, 4), pa.Table.from_pylist(rows, UNIVERSE))


# What is read


def test_bars_come_in_the_schema_by_symbol_and_session(store: Store) -> None:
    bars = Lake(store).bars(["ZM", "AAPL"], DAYS[1], DAYS[2])

    assert bars.schema.equals(SCHEMA, check_metadata=True)
    assert bars.to_pylist() == truth(store, {"AAPL", "ZM"}, DAYS[1], DAYS[2])
    assert bars["symbol"].to_pylist() == ["AAPL", "AAPL", "ZM", "ZM"]


def test_one_symbol_all_of_them_and_small_letters_are_understood(store: Store) -> None:
    lake = Lake(store)

    assert lake.bars("AAPL") == lake.bars([" aapl "]) == lake.bars(iter(["AAPL"]))
    assert lake.bars("AAPL").to_pylist() == truth(store, {"AAPL"}, DAYS[0], DAYS[-1])
    assert lake.bars(None).to_pylist() == truth(store, SYMBOLS, DAYS[0], DAYS[-1])


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2023-12-29", "2024-01-02"),
        (DAYS[1], DAYS[2]),
        (datetime(2023, 12, 29), pd.Timestamp("2024-01-02")),  # noqa: DTZ001 - as pandas has days
    ],
)
def test_a_day_is_a_date_or_its_text(store: Store, start: Any, end: Any) -> None:
    assert Lake(store).bars("ZM", start, end)["session"].to_pylist() == DAYS[1:3]


@pytest.mark.parametrize("array", [np.array, pd.Series, pd.Index, pl.Series, pa.array])
def test_symbols_come_as_the_array_that_one_has(store: Store, array: Any) -> None:
    assert Lake(store).bars(array(["AAPL", "ZM"])).num_rows == 2 * len(DAYS)
    assert Lake(store).bars(pa.chunked_array([["AAPL"], ["ZM"]])).num_rows == 2 * len(DAYS)


def test_pandas_and_polars_take_the_table_as_it_is(store: Store) -> None:
    bars = Lake(store).bars(["AAPL", "ZM"])

    assert list(bars.to_pandas().columns) == SCHEMA.names
    frame = pl.from_arrow(bars)
    assert isinstance(frame, pl.DataFrame)
    assert frame.to_dicts() == bars.to_pylist()


def test_a_known_symbol_without_a_bar_in_the_range_gives_no_row(store: Store) -> None:
    write(store, date(2024, 1, 4), ["AAPL"])
    universe(store, "NEW")
    lake = Lake(store)

    for symbol, start in (("ZM", "2024-01-04"), ("ZM", "2030-01-01"), ("NEW", None)):
        found = lake.bars(symbol, start)
        assert found.num_rows == 0
        assert found.schema.equals(SCHEMA)


# The choice between the layouts


def test_a_few_symbols_over_many_sessions_are_read_from_their_symbol_years(store: Store) -> None:
    counting = CountingStore(store)
    Reader(counting).bars("AAPL")

    assert counting.kinds() == (0, 2)


def test_of_a_copied_lake_one_symbol_is_read_from_its_symbol_years(
    store: Store, tmp_path: Path
) -> None:
    copy = open_store(str(tmp_path / "the copy"))
    for key in store.list():
        copy.put(key, store.get(key))
    counting = CountingStore(copy)
    reader = Reader(counting)
    assert reader.bars("AAPL").equals(Reader(store).bars("AAPL"))
    assert counting.kinds() == (0, 2)
    assert reader.symbols() == Reader(store).symbols()
    assert counting.kinds() == (0, 2)


def test_many_symbols_of_one_session_are_read_from_the_session(store: Store) -> None:
    counting = CountingStore(store)
    Reader(counting).bars(SYMBOLS, DAYS[0], DAYS[0])

    assert counting.kinds() == (1, 0)


@pytest.mark.parametrize(("more", "by_session"), [(-1, False), (0, True), (1, True)])
def test_the_layout_changes_where_both_cost_the_same(more: int, by_session: bool) -> None:
    store = open_store("memory://")
    symbols = [f"S{number:03}" for number in range(2 * SESSION_COST + more)]
    for day in DAYS[2:]:
        write(store, day, symbols)
    publish(store, 2024)
    counting = CountingStore(store)

    assert Reader(counting).bars(symbols).num_rows == 2 * len(symbols)
    assert counting.kinds() == ((2, 0) if by_session else (0, len(symbols)))


def test_a_year_in_which_a_symbol_did_not_trade_costs_no_session() -> None:
    store = open_store("memory://")
    for day in DAYS:
        write(store, day, ["AAPL", "ZM"] if day.year == 2024 else ["AAPL"])
    publish(store, 2023, 2024)
    counting = CountingStore(store)

    assert Reader(counting).bars("ZM")["session"].to_pylist() == DAYS[2:]
    assert counting.kinds()[0] == 0


def test_what_lies_there_is_looked_up_once_until_it_is_refreshed(store: Store) -> None:
    lake = Lake(store)
    before = lake.bars("AAPL")
    write(store, date(2024, 1, 4), ["AAPL"])

    assert lake.bars("AAPL") == before
    lake.refresh()
    assert lake.bars("AAPL")["session"].to_pylist() == [*DAYS, date(2024, 1, 4)]


def test_what_the_lake_lists_has_bars_however_long_ago_it_was_first_asked(store: Store) -> None:
    lake = Lake(store)
    lake.bars("AAPL")
    write(store, date(2024, 1, 4), ["AAPL"])
    write(store, date(2023, 12, 27), ["AAPL"])
    store.delete(layout.session_key(DAYS[2]))

    days = [date(2023, 12, 27), DAYS[0], DAYS[1], DAYS[3], date(2024, 1, 4)]
    assert lake.sessions() == days
    assert lake.bars("AAPL")["session"].to_pylist() == days
    assert lake.symbols(2024) == list(SYMBOLS)


@pytest.mark.parametrize("newer", [date(2024, 1, 4), date(2025, 1, 2)])
@pytest.mark.parametrize("asked", ["from", "to"])
def test_a_day_that_is_named_is_looked_for_when_it_is_newer_than_all_seen(
    store: Store, newer: date, asked: str
) -> None:
    lake = Lake(store)
    span = (newer, None) if asked == "from" else (None, newer)
    assert newer not in lake.bars("AAPL", *span)["session"].to_pylist()
    write(store, newer, ["AAPL"])

    assert lake.bars("AAPL", *span)["session"].to_pylist()[-1] == newer


@pytest.mark.parametrize("end", [date(2024, 7, 5), date(2024, 12, 31)])
def test_a_session_is_not_looked_for_before_it_has_closed(store: Store, end: date) -> None:
    clock, newest, next_one = FakeClock(), date(2024, 7, 3), date(2024, 7, 5)
    clock.advance((datetime(2024, 7, 5, 19, 59, 59, tzinfo=UTC) - clock.now()).total_seconds())
    write(store, newest, ["AAPL"])
    reader = Reader(store, clock=clock)
    reader.bars("AAPL", newest, end)
    write(store, next_one, ["AAPL"])

    assert reader.bars("AAPL", newest, end)["session"].to_pylist() == [newest]
    clock.advance(1)
    assert reader.bars("AAPL", newest, end)["session"].to_pylist() == [newest, next_one]


def test_of_a_year_that_is_over_nothing_is_looked_up_twice(store: Store) -> None:
    counting = CountingStore(store)
    reader = Reader(counting)
    reader.bars("AAPL", DAYS[0], DAYS[1])
    counting.versions = pytest.fail  # type: ignore[method-assign, assignment]

    assert reader.bars("ZM", DAYS[0], DAYS[1]).num_rows == 2


# Symbol-years that are not what the sessions are


def test_a_year_that_was_never_published_is_read_from_its_sessions() -> None:
    store = open_store("memory://")
    for day in DAYS:
        write(store, day, SYMBOLS)
    publish(store, 2023)

    assert Reader(store).bars("ZM").to_pylist() == truth(store, {"ZM"}, DAYS[0], DAYS[-1])


def test_a_session_that_came_after_the_publication_is_read_beside_the_symbol_year(
    store: Store,
) -> None:
    newer = date(2024, 1, 4)
    write(store, newer, [*SYMBOLS, "NEW"])
    counting = CountingStore(store)
    bars = Reader(counting).bars(["AAPL", "NEW"])

    assert bars.to_pylist() == truth(store, {"AAPL", "NEW"}, DAYS[0], newer)
    assert layout.session_key(newer) in counting.read
    assert layout.session_key(DAYS[2]) not in counting.read


def test_a_session_that_was_restated_or_is_gone_counts_as_the_sessions_have_it(
    store: Store,
) -> None:
    write(store, DAYS[0], ["AAPL"], shift=1.5)
    store.delete(layout.session_key(DAYS[2]))
    lake = Lake(store)

    assert lake.bars(["AAPL", "ZM"]).to_pylist() == truth(store, {"AAPL", "ZM"}, DAYS[0], DAYS[-1])
    assert lake.bars("ZM")["session"].to_pylist() == [DAYS[1], DAYS[3]]


def test_a_session_in_another_years_folder_is_none_of_the_lake_s(store: Store) -> None:
    there = Lake(store).bars(None)
    store.put("data/ticks/sessions/year=2023/2024-07-03.parquet", b"moved by hand")

    publish(store, 2023)
    lake = Lake(store)
    assert lake.bars(None).equals(there)
    assert lake.bars("ZM").to_pylist() == truth(store, {"ZM"}, DAYS[0], DAYS[-1])
    assert [day for day, held in lake.coverage().sessions.items() if held is Held.PUBLISHED] == DAYS


def test_a_symbol_whose_object_is_being_written_is_read_from_the_sessions(store: Store) -> None:
    key = layout.manifest_key(2024)
    whole = SymbolYears(store).manifest(2024)
    symbols = {**whole.symbols, "ZM": None, "GONE": None}
    changing = type(whole)(2024, whole.sessions, symbols, "r", None)
    store.put(key, changing.encode())
    store.put(layout.symbol_year_key("ZM", 2024), b"of a killed publication")
    counting = CountingStore(store)
    reader = Reader(counting)

    assert reader.bars("ZM").to_pylist() == truth(store, {"ZM"}, DAYS[0], DAYS[-1])
    assert layout.symbol_year_key("ZM", 2024) not in counting.read
    assert reader.symbols() == list(SYMBOLS)
    counting.read.clear()
    assert reader.bars("AAPL").to_pylist() == truth(store, {"AAPL"}, DAYS[0], DAYS[-1])
    assert counting.kinds() == (0, 2)


@pytest.mark.parametrize("what", ["lost", "damaged"])
def test_a_symbol_year_that_is_lost_or_damaged_is_read_from_the_sessions_and_told(
    store: Store, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    key = layout.symbol_year_key("ZM", 2024)
    if what == "lost":
        store.delete(key)
    else:
        store.put(key, store.get(key)[:-30])
    with caplog.at_level(logging.WARNING):
        bars = Reader(store).bars(["AAPL", "ZM"])

    assert bars.to_pylist() == truth(store, {"AAPL", "ZM"}, DAYS[0], DAYS[-1])
    (told,) = caplog.messages
    assert store.url(key) in told
    assert "publish" in told


def test_of_symbol_years_read_together_those_that_can_not_be_had_come_from_the_sessions(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_TOGETHER", 3)
    store = CountingStore(open_store(str(tmp_path)))
    LakeWriter(store).claim("alpaca/sip")
    symbols = ["A", "B", "C", "D", "E"]
    for day in DAYS:
        write(store, day, symbols[1:] if day.year == 2023 else symbols)
    publish(store, 2023, 2024)
    lost, cut, turned = (layout.symbol_year_key(name, 2024) for name in "BCE")
    store.delete(lost)
    store.put(cut, store.get(cut)[:-30])
    data = store.get(turned)
    place = pq.read_metadata(pa.BufferReader(data)).row_group(0).column(2).data_page_offset
    store.put(turned, with_flipped_bit(data, place + 60, 0))  # seen when the page is decoded
    with caplog.at_level(logging.WARNING):
        bars = Reader(store).bars(symbols, DAYS[0], DAYS[-1])

    assert bars.to_pylist() == truth(store, symbols, DAYS[0], DAYS[-1])
    assert len(caplog.messages) == 3
    for key in (lost, cut, turned):
        assert sum(f"{store.url(key)} is " in told for told in caplog.messages) == 1


def test_a_damaged_manifest_is_told_and_the_sessions_are_read(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.put(layout.manifest_key(2024), b"no manifest")
    with caplog.at_level(logging.WARNING):
        bars = Reader(store).bars("ZM")

    assert bars.to_pylist() == truth(store, {"ZM"}, DAYS[0], DAYS[-1])
    assert store.url(layout.manifest_key(2024)) in caplog.text


def test_a_damaged_session_is_an_error_that_names_it(store: Store) -> None:
    key = layout.session_key(DAYS[0])
    store.put(key, store.get(key)[:-30])
    for ask in (lambda r: r.bars("ZM"), lambda r: r.session(DAYS[0])):
        with pytest.raises(BrokenFileError, match=f"{DAYS[0]}.*collect the session again"):
            ask(Reader(store))


class _Held(CountingStore):
    """A store in which reads of all sessions but the first wait until they are let go."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.let_go = threading.Event()

    def get(self, key: str) -> bytes:
        if key.startswith(layout.SESSIONS) and key != layout.session_key(DAYS[0]):
            self.let_go.wait(60)
        return super().get(key)


def test_after_an_error_what_was_not_begun_is_not_read(store: Store) -> None:
    store.put(layout.session_key(DAYS[0]), b"damaged")
    held = _Held(store)
    reader = Reader(held, workers=1)
    with pytest.raises(BrokenFileError, match=str(DAYS[0])):
        reader.bars(None)
    held.let_go.set()
    reader.bars("ZM", DAYS[1], DAYS[1])  # behind whatever is still to be read
    assert held.kinds()[0] <= 3  # the damaged one, one that was begun, and this one


def test_a_footer_longer_than_guessed_is_read_whole() -> None:
    store = open_store("memory://")
    days = [day for day in DAYS if day.year == 2024]
    for day in days:
        write(store, day, SYMBOLS)
    publish(store, 2024)
    whole = SymbolYears(store).manifest(2024)
    mark = "x" * FOOTER_GUESS
    long = type(whole)(2024, whole.sessions, whole.symbols, mark, whole.published_at)
    store.put(layout.manifest_key(2024), long.encode())
    counting = CountingStore(store)

    assert Reader(counting).bars("ZM")["session"].to_pylist() == days
    assert counting.kinds() == (0, 1)


def test_while_a_year_is_published_every_answer_is_what_the_sessions_hold(tmp_path: Path) -> None:
    uri = str(tmp_path)
    store = open_store(uri)
    fill(store)
    expected = []
    for round_ in range(1, 6):
        write(store, DAYS[2], SYMBOLS[round_ % 4 :], shift=round_)
        expected = truth(store, SYMBOLS, DAYS[2], DAYS[3])
        publishing = threading.Thread(target=publish, args=(open_store(uri), 2024))
        publishing.start()
        answers = []
        while publishing.is_alive() or not answers:
            answers.append(Reader(store).bars(SYMBOLS, DAYS[2], DAYS[3]).to_pylist())
        publishing.join()
        assert all(answer == expected for answer in answers)
    counting = CountingStore(store)
    assert Reader(counting).bars("ZM", DAYS[2]).to_pylist() == [
        row for row in expected if row["symbol"] == "ZM"
    ]
    assert counting.kinds() == (0, 1)


def symbols_held() -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(SYMBOLS))


@st.composite
def changes(draw: st.DrawFn) -> tuple[dict[date, frozenset[str]], set[int], dict[date, Any]]:
    """Sessions, the years published of them, and what became of some sessions afterwards."""
    before = draw(st.dictionaries(st.sampled_from(DAYS), symbols_held()))
    years = draw(st.sets(st.sampled_from([2023, 2024])))
    after = draw(
        st.dictionaries(
            st.sampled_from(DAYS), st.none() | st.tuples(symbols_held(), st.sampled_from([0, 2.5]))
        )
    )
    return before, years, after


def change(store: Store, changed: Any) -> None:
    before, years, after = changed
    for day, held in before.items():
        write(store, day, held)
    publish(store, *sorted(years))
    for day, now in after.items():
        if now is None:
            store.delete(layout.session_key(day))
        else:
            write(store, day, now[0], now[1])


@given(
    changed=changes(),
    lost=st.sets(st.tuples(st.sampled_from(SYMBOLS), st.sampled_from([2023, 2024]))),
    asked=st.none() | st.sets(st.sampled_from(SYMBOLS), min_size=1),
    span=st.tuples(st.sampled_from(DAYS), st.sampled_from(DAYS)).map(sorted),
)
@settings(max_examples=150)
def test_bars_are_those_of_the_sessions_whatever_happened_to_the_symbol_years(
    changed: Any, lost: set[tuple[str, int]], asked: set[str] | None, span: list[date]
) -> None:
    store = open_store("memory://")
    universe(store, *SYMBOLS)
    change(store, changed)
    for symbol, year in lost:
        store.delete(layout.symbol_year_key(symbol, year))
    expected = truth(store, asked or SYMBOLS, *span)
    reader = Reader(store)
    try:
        assert reader.bars(asked, *span).to_pylist() == expected
    except NotInLakeError:
        assert Lake(store).sessions() == []
    for year in (2023, 2024, None):
        there = {
            row["symbol"]
            for row in truth(store, SYMBOLS, DAYS[0], DAYS[-1])
            if year in (None, row["session"].year)
        }
        assert reader.symbols(year) == sorted(there)


def scanned(
    store: Store, symbols: Iterable[str], first: date, last: date, columns: list[str]
) -> pa.Table:
    """What Arrow finds in the session files by itself, read whole, filtered and sorted."""
    files = [pq.read_table(pa.BufferReader(store.get(key))) for key in store.list(layout.SESSIONS)]
    bars = pa.concat_tables([SCHEMA.empty_table(), *(file.cast(SCHEMA) for file in files)])
    days = pc.and_(pc.greater_equal(bars["session"], first), pc.less_equal(bars["session"], last))
    named = pc.is_in(bars["symbol"], pa.array(list(symbols), pa.string()))
    by = [("symbol", "ascending"), ("session", "ascending")]
    return bars.filter(pc.and_(days, named)).sort_by(by).select(columns).combine_chunks()


WHENEVER = st.none() | st.dates(date(2023, 12, 20), date(2024, 1, 10))


@given(
    changed=changes(),
    asked=st.none() | st.sets(st.sampled_from(SYMBOLS), min_size=1),
    start=WHENEVER,
    end=WHENEVER,
    columns=st.none() | st.lists(st.sampled_from(SCHEMA.names), min_size=1, unique=True),
)
@settings(max_examples=60)
def test_any_range_and_columns_of_a_folder_are_what_a_plain_scan_finds(
    changed: Any,
    asked: set[str] | None,
    start: date | None,
    end: date | None,
    columns: list[str] | None,
) -> None:
    first, last = start or date.min, end or date.max
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        universe(store, *SYMBOLS)
        change(store, changed)
        if last < first or not Lake(store).sessions():
            return
        expected = scanned(store, asked or SYMBOLS, first, last, columns or SCHEMA.names)

        assert Reader(store).bars(asked, start, end, columns).equals(expected)


@pytest.mark.parametrize("columns", [["symbol", "close"], ["close"], ["session", "volume"], None])
def test_columns_are_those_asked_for_where_a_newer_session_lies_beside_a_year_file(
    tmp_path: Path, columns: list[str] | None
) -> None:
    store = open_store(str(tmp_path))
    days = market_calendar.sessions(date(2024, 1, 2), date(2024, 3, 28))
    universe(store, "A", "B")
    put_sessions(store, days[:-1])
    YearFiles(store).publish(2024)
    put_sessions(store, days[-1:])

    expected = every(["A", "B"], days).sort_by([("symbol", "ascending"), ("session", "ascending")])
    found = Reader(store).bars(None, columns=columns)
    assert found.equals(expected.select(columns or SCHEMA.names))


def test_a_year_file_is_held_against_the_sessions_that_a_question_sees(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    days = market_calendar.sessions(date(2024, 1, 2), date(2024, 3, 28))
    universe(store, "A", "B")
    put_sessions(store, days[:-1])
    YearFiles(store).publish(2024)
    reader = Reader(store)
    (before,) = reader._looked_at(2024, 2024)
    put_sessions(store, days[-1:])
    reader.refresh()
    (after,) = reader._looked_at(2024, 2024)
    # As another thread does, which began before the lake was looked at again.
    assert reader._file(before)
    assert reader._file(after) is not reader._file(before)
    assert reader.bars(None)["session"].to_pylist()[-1] == days[-1]


def test_a_symbol_year_in_another_order_comes_by_session_and_without_sessions_that_are_gone(
    tmp_path: Path,
) -> None:
    store = open_store(str(tmp_path))
    fill(store)
    key = layout.symbol_year_key("ZM", 2024)
    rows = [bar("ZM", day) for day in (date(2024, 1, 4), *reversed(DAYS[2:]))]
    store.put(key, symbol_year_file.encode(table(rows)))

    assert Reader(store).bars("ZM")["session"].to_pylist() == DAYS


def test_of_a_file_only_the_columns_that_are_wanted_are_decoded(tmp_path: Path) -> None:
    store = CountingStore(open_store(str(tmp_path)))
    fill(store)
    key = layout.symbol_year_key("ZM", 2024)
    data = bytearray(store.get(key))
    vwap = pq.read_metadata(pa.BufferReader(bytes(data))).row_group(0).column(7)
    assert vwap.path_in_schema == "vwap"
    data[vwap.data_page_offset + vwap.total_compressed_size - 1] ^= 1
    store.put(key, bytes(data))
    store.read.clear()

    closes = Reader(store).bars("ZM", "2024-01-02", columns=["session", "close"])
    assert closes.column_names == ["session", "close"]
    assert store.kinds() == (0, 1)
    # Where the damage shows, the sessions answer.
    assert Reader(store).bars("ZM", "2024-01-02", columns=["vwap"]).num_rows == 2
    assert store.kinds() == (2, 2)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (["close", "adjusted"], "bars have no column 'adjusted': give some of symbol, session"),
        ("adjusted", "no column 'adjusted'"),
        ([], "are no columns"),
        (["close", "close"], "each once"),
    ],
)
def test_columns_that_bars_do_not_have_are_refused(store: Store, columns: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Reader(store).bars("ZM", columns=columns)


@pytest.mark.s3
@pytest.mark.parametrize("seed", range(3))
def test_on_s3_the_same(s3_lake_uri: str, seed: int) -> None:
    store, draw = open_store(s3_lake_uri), random.Random(seed)
    fill(store)
    write(store, DAYS[draw.randrange(4)], draw.sample(SYMBOLS, 2), shift=1)
    write(store, date(2024, 1, 4), SYMBOLS[:3])
    store.delete(layout.symbol_year_key(draw.choice(SYMBOLS), 2023))
    lake = Lake.open(s3_lake_uri)

    for asked in (SYMBOLS, SYMBOLS[:1], ("ZM",)):
        assert lake.bars(asked).to_pylist() == truth(store, asked, DAYS[0], date(2024, 1, 4))
    assert lake.symbols() == list(SYMBOLS)
    assert lake.session(DAYS[0]).bars.num_rows in (2, 4)
    with pytest.raises(NotInLakeError, match="is no trading session"):
        lake.session("2024-01-06")


# What is not there


def test_a_session_comes_with_its_ledger_and_provenance(store: Store) -> None:
    write(store, DAYS[0], ["AAPL"], no_print=("ZM",))
    session = Lake(store).session(DAYS[0].isoformat())

    assert session.bars["symbol"].to_pylist() == ["AAPL"]
    assert session.ledger.no_print == ("ZM",)
    assert session.provenance.source == "alpaca/sip"


@pytest.mark.parametrize(
    ("day", "told"),
    [
        ("2024-01-06", "2024-01-06 is no trading session but a Saturday.* before it is 2024-01-05"),
        ("2024-01-01", "is no trading session but a holiday.* before it is 2023-12-29"),
        ("2023-12-27", "before the first session of this lake, 2023-12-28; to have it: datalake "),
        ("2024-01-04", "after the newest session of this lake, 2024-01-03.*once it has closed"),
        ("1999-12-31", "outside the XNYS calendar"),
        ("2036-01-02", "outside the XNYS calendar"),
    ],
)
def test_a_day_that_is_not_there_is_explained(store: Store, day: str, told: str) -> None:
    lake = Lake(store)
    with pytest.raises(NotInLakeError, match=told) as caught:
        lake.session(day)

    assert isinstance(caught.value, LookupError)
    assert lake.explain("AAPL", day) == str(caught.value)


def test_a_session_that_was_not_collected_is_explained(store: Store) -> None:
    store.delete(layout.session_key(DAYS[1]))

    with pytest.raises(
        NotInLakeError,
        match="2023-12-29 was not collected; to have it: datalake collect --session 2023-12-29",
    ):
        Lake(store).session(DAYS[1])


def test_a_session_that_waits_for_its_repair_is_explained_with_its_counts(store: Store) -> None:
    day = date(2024, 1, 4)
    waiting = encoded(day, table([bar("AAPL", day)]), pending=("MSFT", "ZM"), failed={"X": "500"})
    store.put(layout.incomplete_key(day), waiting)

    with pytest.raises(NotInLakeError) as caught:
        Lake(store).session(day)
    for part in (
        "2024-01-04 did not pass its audit and waits in",
        store.url(layout.incomplete_key(day)),
        "(1 present, 1 failed, 2 pending)",
        "datalake collect --session 2024-01-04 --repair",
    ):
        assert part in str(caught.value)


def test_a_symbol_that_nobody_knows_is_an_error_with_names_close_to_it(store: Store) -> None:
    lake = Lake(store)
    with pytest.raises(NotInLakeError) as caught:
        lake.bars(["AAPL", "MSFTT"])

    assert str(caught.value) == (
        "this lake knows no symbol MSFTT: it is in no published year, not in the session of "
        "2024-01-03, and there is no universe. Close to it: MSFT"
    )
    universe(store, "QQQ")
    with pytest.raises(NotInLakeError, match="nor in the universe of 2024-01-04$"):
        lake.explain("1/..", DAYS[0])
    with pytest.raises(NotInLakeError, match="no symbol 1/..: "):
        lake.bars("1/..")


def test_of_many_unknown_symbols_the_first_are_named(store: Store) -> None:
    with pytest.raises(NotInLakeError, match="no symbol Q0, Q1, Q2, Q3, Q4 …: "):
        Lake(store).bars([f"q{number}" for number in range(6)])


def test_a_symbol_that_only_the_newest_ledger_knows_is_known(store: Store) -> None:
    write(store, DAYS[-1], SYMBOLS, no_print=("QUIET",))

    assert Lake(store).bars("QUIET").num_rows == 0


def test_a_lake_without_sessions_says_so() -> None:
    store = open_store("memory://")
    LakeWriter(store).claim("alpaca/sip")
    lake = Lake(store)

    for ask in (lambda: lake.bars("AAPL"), lambda: lake.session(DAYS[0])):
        with pytest.raises(NotInLakeError, match="no session is published in memory://: .*demo"):
            ask()
    assert lake.symbols() == []
    assert lake.bars(None).num_rows == 0
    assert lake.coverage().sessions == {}


@pytest.mark.parametrize(
    ("symbol", "told"),
    [
        ("AAPL", r"AAPL has a bar on 2024-01-04: [\d,]+ shares, the last at [\d,]+\.\d\d$"),
        ("zm", "ZM did not trade on 2024-01-04: the source answered and had no bar"),
        ("BAD", r"BAD .* could not be had \(500 Oops\); to ask again: .*2024-01-04 --repair"),
        ("LATE", "LATE was not asked for on 2024-01-04: the collection was stopped .*--repair"),
        ("NONE", "the source calls NONE no symbol on 2024-01-04: invalid symbol"),
        ("MSFT", "MSFT was not asked for on 2024-01-04: .*when.* collected, 2024-02-01; to ask"),
    ],
)
def test_the_ledger_explains_a_symbol_in_a_session(store: Store, symbol: str, told: str) -> None:
    states: dict[str, Any] = {
        "no_print": ("ZM",),
        "failed": {"BAD": "500 Oops"},
        "pending": ("LATE",),
        "rejected": {"NONE": "invalid symbol"},
    }
    write(store, date(2024, 1, 4), ["AAPL"], **states)

    assert re.search(told, Lake(store).explain(symbol, "2024-01-04"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("AAPL", "20240102"), "'20240102' is no day"),
        (("AAPL", "2024-02-30"), "'2024-02-30' is no day"),
        (("AAPL", None, 2024), "2024 is no day"),
        (("AAPL", datetime(2024, 1, 2, 9, tzinfo=UTC)), "is an instant"),
        (("AAPL", "2024-01-03", "2024-01-02"), "the end, 2024-01-02, is before the start"),
        (([],), "no symbol is given"),
        ((["AAPL", " "],), "' ' is no symbol"),
        (("",), "'' is no symbol"),
        ((["AAPL", None],), "None is no symbol"),
        ((["AAPL", float("nan")],), "nan is no symbol"),
        ((pa.array(["AAPL", None]),), "None is no symbol"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_read(arguments: Any, told: str) -> None:
    counting = CountingStore(open_store("memory://"))
    with pytest.raises(ValueError, match=told):
        Reader(counting).bars(*arguments)
    assert counting.read == []


# Opening a lake


def test_a_lake_is_opened_by_uri_by_path_or_by_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(open_store(str(tmp_path)))
    monkeypatch.setenv("DATALAKE_URI", str(tmp_path))

    for lake in (Lake.open(str(tmp_path)), Lake.open(tmp_path), Lake.open()):
        assert lake.symbols() == list(SYMBOLS)
        assert repr(lake) == f"Lake('{tmp_path}')"


def test_an_empty_uri_opens_no_other_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(open_store(str(tmp_path / "lake")))
    monkeypatch.setenv("DATALAKE_URI", str(tmp_path / "lake"))
    monkeypatch.chdir(tmp_path)

    with pytest.raises(NotInLakeError, match="there is no lake"):
        Lake.open("")


def test_a_place_without_a_lake_is_an_error_that_writes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "typo"
    with pytest.raises(NotInLakeError, match="there is no lake at .*typo: correct the URI"):
        Lake.open(place)
    assert not place.exists()


def test_a_lake_of_another_layout_is_not_read(tmp_path: Path) -> None:
    open_store(str(tmp_path)).put("_lake.json", b'{"format": 9, "source": "alpaca/sip"}')
    with pytest.raises(WrongLakeError, match=f"layout 9, this program reads {FORMAT}"):
        Lake.open(tmp_path)


@pytest.mark.s3
def test_a_bucket_without_a_lake_or_that_is_not_there_is_an_error(s3_lake_uri: str) -> None:
    with pytest.raises(NotInLakeError, match="there is no lake at s3://"):
        Lake.open(s3_lake_uri)
    with pytest.raises(StoreError, match="NoSuchBucket.*create the bucket"):
        Lake.open(f"s3://absent-{secrets.token_hex(6)}")


def test_coverage_reaches_from_the_first_to_the_newest_session_unless_told(store: Store) -> None:
    store.delete(layout.session_key(DAYS[1]))
    day = date(2024, 1, 4)
    store.put(layout.incomplete_key(day), encoded(day, table([])))
    lake = Lake(store)

    held = {Held.PUBLISHED: [DAYS[0], *DAYS[2:]], Held.MISSING: [DAYS[1]], Held.INCOMPLETE: [day]}
    found = lake.coverage().sessions
    assert {how: [d for d, h in found.items() if h is how] for how in held} == held
    assert list(lake.coverage("2024-01-01", "2024-01-05").sessions) == [
        *DAYS[2:],
        day,
        date(2024, 1, 5),
    ]


def test_coverage_of_some_days_tells_of_these_alone(store: Store) -> None:
    store.put(layout.incomplete_key(DAYS[3]), encoded(DAYS[3], table([])))
    store.put(layout.session_key(DAYS[1]), b"damaged")
    lake = Lake(store)

    found = lake.coverage(DAYS[2], DAYS[2])
    assert [summary.session for summary in found.published] == [DAYS[2]]
    assert not (*found.waiting, *found.damaged, *found.to_repair)
    with pytest.raises(ValueError, match="the end, 2023-12-29, is before the start"):
        lake.coverage(DAYS[2], DAYS[1])


def test_a_lake_that_was_read_goes_to_another_process(tmp_path: Path) -> None:
    fill(open_store(str(tmp_path)))
    lake = Lake.open(tmp_path)
    bars = lake.bars("AAPL")

    assert pickle.loads(pickle.dumps(lake)).bars("AAPL") == bars


@pytest.mark.parametrize(
    "question",
    ["lake.bars('AAPL')", "lake.session('2024-01-02')", f"Lake.open({'{}'!r}).bars('AAPL')"],
)
def test_a_forked_child_is_told_what_to_do_instead_of_waiting_for_ever(
    tmp_path: Path, question: str
) -> None:
    fill(open_store(str(tmp_path)))
    code = (
        "import faulthandler, os, sys\n"
        "from datalake_assets import Lake\n"
        "lake = Lake.open(sys.argv[1])\n"
        "lake.bars('AAPL')\n"
        "if (child := os.fork()) == 0:\n"
        "    faulthandler.dump_traceback_later(30, exit=True)\n"
        f"    print({question.format(tmp_path)})\n"
        "else:\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 1
    assert "StoreError: this process was forked from one that had used a lake" in done.stderr
    assert "get_context('spawn')" in done.stderr


def test_importing_the_package_imports_neither_arrow_nor_the_lake() -> None:
    code = (
        "import sys, datalake_assets; "
        "assert not {'pyarrow', 'obstore', 'datalake_assets.lake'} & set(sys.modules); "
        "from datalake_assets import Lake; "
        "from datalake_assets.lake.lake import Lake as same; assert Lake is same; "
        "assert 'dagster' not in sys.modules and 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not hasattr(datalake_assets, "Lakes")


# Holes


HOLED = market_calendar.sessions(date(2024, 1, 2), date(2024, 1, 12))


@pytest.fixture
def holed() -> Lake:
    """Of nine sessions three are published, and one waits; in one of them X failed."""
    lake = Lake(open_store("memory://"))
    LakeWriter(lake.store).claim("alpaca/sip")
    write(lake.store, HOLED[0], ["A", "X"])
    write(lake.store, HOLED[3], ["A"], no_print=("N",), failed={"X": "HTTP 500"}, pending=("P",))
    write(lake.store, HOLED[5], ["A", "X"], rejected={"R": "invalid symbol"})
    lake.store.put(layout.incomplete_key(HOLED[4]), b"whatever waits")
    return lake


def missing(lake: Lake, *asked: Any) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in lake.missing(*asked).to_pylist()]


def test_what_is_missing_is_told_by_symbol_and_session_with_the_reason(holed: Lake) -> None:
    assert holed.missing("X").schema == MISSING
    assert missing(holed, "x") == [
        ("X", HOLED[1], "not published", None),
        ("X", HOLED[2], "not published", None),
        ("X", HOLED[3], "failed", "HTTP 500"),
        ("X", HOLED[4], "incomplete", None),
    ]


def test_each_state_but_an_answer_is_missing(holed: Lake) -> None:
    asked = (["A", "N", "P", "R", "X"], HOLED[3], HOLED[3])
    universe(holed.store, "N", "P", "R")
    assert missing(holed, *asked) == [
        ("P", HOLED[3], "pending", None),
        ("R", HOLED[3], "never asked", None),
        ("X", HOLED[3], "failed", "HTTP 500"),
    ]
    assert missing(holed, ["R"], HOLED[5], HOLED[5]) == []


def test_a_bound_that_is_given_counts_and_one_that_is_not_is_the_lakes_own(holed: Lake) -> None:
    days = {row[1] for row in missing(holed, "A", "2023-12-28")}
    assert days == {date(2023, 12, 28), date(2023, 12, 29), *HOLED[1:3], HOLED[4]}
    days = {row[1] for row in missing(holed, "A", None, "2024-01-12")}
    assert days == {*HOLED[1:3], HOLED[4], *HOLED[6:]}
    assert missing(holed, "A", HOLED[0], HOLED[0]) == []


def test_sessions_that_have_not_closed_are_not_missing() -> None:
    store = open_store("memory://")
    write(store, date(2024, 7, 1), ["A"])
    found = Reader(store, clock=FakeClock()).missing("A", "2024-07-01", "2024-12-31")
    assert found["session"].to_pylist() == [date(2024, 7, 2), date(2024, 7, 3)]


def test_nothing_is_missing_of_a_day_that_was_no_session_after_all(
    holed: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its closure was declared later: what it says to collect would be refused."""
    monkeypatch.setenv("DATALAKE_CLOSURES", f"{HOLED[2]},{HOLED[3]}")
    universe(holed.store, "P", "X")
    days = [row[1] for row in missing(holed, ["P", "X"], HOLED[2], HOLED[4])]
    assert days == [HOLED[4]] * 2
    assert holed.bars("A", HOLED[3], HOLED[3]).num_rows == 1


def test_nothing_is_missing_of_a_session_that_is_dated_in_the_future() -> None:
    store = open_store("memory://")
    write(store, date(2024, 7, 1), ["A", "X"])
    write(store, date(2024, 12, 2), ["A"])
    universe(store, "X")
    assert Reader(store, clock=FakeClock()).missing("X", "2024-12-02").num_rows == 0


def test_what_is_missing_takes_symbols_that_are_known(holed: Lake) -> None:
    with pytest.raises(NotInLakeError, match="knows no symbol ZZZ"):
        holed.missing("ZZZ")
    with pytest.raises(ValueError, match="no symbol is given"):
        holed.missing([])


def test_bars_over_missing_sessions_are_warned_of_once_a_call(holed: Lake) -> None:
    with pytest.warns(MissingSessionsWarning) as told:
        holed.bars(["A", "X"])
    (warning,) = told
    span = f"{HOLED[1]} … {HOLED[4]}"
    assert f"3 of the sessions asked for are not in memory://: {span}" in str(warning.message)
    assert Path(warning.filename).name == Path(__file__).name
    with pytest.warns(MissingSessionsWarning, match=f": {HOLED[4]}. A return"):
        holed.bars("A", HOLED[3], HOLED[5])


@pytest.mark.parametrize("seed", range(6))
def test_of_a_range_every_closed_session_that_is_not_published_is_told(seed: int) -> None:
    draw, store, clock = random.Random(seed), open_store("memory://"), FakeClock()
    closed = market_calendar.sessions(date(2021, 12, 27), date(2024, 7, 3))  # when it is now
    others = draw.sample([day for day in closed if day.year < 2023], 12)
    published = [day for day in closed if day in others or day.year == 2024]  # 2023 lacks wholly
    put_sessions(store, published)
    found = Reader(store, clock=clock)
    for _ in range(20):
        start, end = sorted(draw.sample(closed, 2))
        first, last = draw.choice([(start, end), (None, end), (start, None), (None, None)])
        within = [d for d in published if (first or d) <= d <= (last or d)]
        begins, ends = first or min(within, default=None), last or max(within, default=None)
        known = begins and ends  # else there is nothing in a range without a bound
        span = [day for day in closed if known and begins <= day <= ends]
        lacking = [day for day in span if day not in published]
        told = [str(warning) for warning in found.holes(first, last)]
        if not lacking:
            assert told == []
            continue
        also = f" … {lacking[-1]}." if lacking[1:] else "."
        are = "is" if len(lacking) == 1 else "are"
        count = f"{len(lacking):,} of the sessions asked for {are} not in memory://: {lacking[0]}"
        assert told[0].startswith(count + also)


@given(
    st.lists(st.lists(st.integers(14_000, 14_040), unique=True, max_size=9).map(sorted)),
    st.lists(st.integers(13_990, 14_050) | st.integers(-(2**31), 2**31 - 1), max_size=30),
)
def test_days_are_found_among_those_of_some_spans(spans: list[list[int]], days: list[int]) -> None:
    numbers = sorted({number for span in spans for number in span})
    cuts = [np.array(part, np.int32) for part in np.array_split(np.array(numbers, np.int32), 3)]
    found = reader._among(np.array(days, np.int32), cuts)
    assert found.tolist() == [day in numbers for day in days]


@pytest.mark.parametrize("asked", [("A", HOLED[0], HOLED[0]), ("A", HOLED[5]), (None, HOLED[5])])
def test_bars_of_sessions_that_are_all_there_are_not_warned_of(holed: Lake, asked: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        holed.bars(*asked)


def test_a_session_that_waits_is_explained_with_the_errors_of_the_source(holed: Lake) -> None:
    rows = table([bar("A", HOLED[4])])
    data = encoded(HOLED[4], rows, failed={"X": "HTTP 500 for X", "Y": "HTTP 500 for Y"})
    holed.store.put(layout.incomplete_key(HOLED[4]), data)
    assert "; 2 failed (X, Y): HTTP 500 for X; to ask" in holed.explain("X", HOLED[4])


# Year files


LONG = market_calendar.sessions(date(2024, 1, 2), date(2024, 1, 24))
"""So many sessions that a year file is worth reading."""


def long_year(store: Store, symbols: Iterable[str] = SYMBOLS) -> list[str]:
    """A year of these symbols, in every layout."""
    LakeWriter(store).claim("alpaca/sip")
    names = sorted(symbols)
    for day in LONG:
        write(store, day, names)
    publish(store, 2024)
    YearFiles(store).publish(2024)
    return names


@pytest.fixture(params=["memory", "folder"])
def long(request: pytest.FixtureRequest, tmp_path: Path) -> CountingStore:
    """A store with such a year, over which everything comes from the year file."""
    uri = "memory://" if request.param == "memory" else str(tmp_path / "lake")
    store = open_store(uri)
    long_year(store)
    return CountingStore(store)


def others_read(store: CountingStore) -> list[str]:
    """What was read of the bars, the year files aside."""
    known = (layout.SESSIONS, layout.SYMBOL_YEARS)
    return [key for key in store.read if key.startswith(known)]


@pytest.mark.parametrize("columns", [None, ["close"], ["symbol", "session"], ["volume", "symbol"]])
def test_all_symbols_of_a_year_come_from_its_file(
    long: CountingStore, columns: list[str] | None
) -> None:
    bars = Lake(long).bars(columns=columns)

    assert others_read(long) == []
    expected = truth(long, SYMBOLS, LONG[0], LONG[-1])
    assert bars.to_pylist() == [
        {name: row[name] for name in columns or SCHEMA.names} for row in expected
    ]
    if columns is None:
        assert bars.schema.equals(SCHEMA, check_metadata=True)


def test_a_part_of_a_year_and_the_years_beside_it_are_put_together(long: CountingStore) -> None:
    for day in market_calendar.sessions(date(2023, 11, 22), date(2023, 12, 29)):
        write(long, day, ["AAPL", "OLD"])
    YearFiles(long).publish(2023)
    long.read.clear()

    first, last = date(2023, 12, 1), LONG[-3]
    bars = Lake(long).bars(None, first, last)

    assert others_read(long) == []
    assert bars.to_pylist() == truth(long, {*SYMBOLS, "OLD"}, first, last)


def test_what_a_year_file_does_not_show_comes_from_the_sessions(long: CountingStore) -> None:
    write(long, LONG[3], SYMBOLS, shift=1)  # restated
    write(long, LONG[7], ["AAPL", "NEW"])  # others traded
    long.delete(layout.session_key(LONG[9]))
    new = date(2024, 1, 25)
    write(long, new, ["AAPL", "ZM"])

    bars = Lake(long).bars(None, LONG[0], new)

    assert others_read(long) == [layout.session_key(day) for day in (LONG[3], LONG[7], new)]
    assert bars.to_pylist() == truth(long, {*SYMBOLS, "NEW"}, LONG[0], new)


@pytest.mark.parametrize("damage", ["footer", "page", "another year's", "gone"])
def test_a_year_file_that_can_not_be_read_is_no_loss(
    long: CountingStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = layout.year_file_key(2024)
    data = bytearray(long.get(key))
    match damage:
        case "footer":
            long.put(key, bytes(data[:-9]))
        case "page":
            chunk = pq.read_metadata(pa.BufferReader(bytes(data))).row_group(0).column(3)
            data[chunk.data_page_offset + 40] ^= 1
            long.put(key, bytes(data))
        case "another year's":
            write(long, DAYS[0], SYMBOLS)
            YearFiles(long).publish(2023)
            long.put(key, long.get(layout.year_file_key(2023)))
            long.delete(layout.session_key(DAYS[0]))
        case "gone":
            long.delete(key)

    bars = Lake(long).bars(None, LONG[0], LONG[-1])

    assert bars.to_pylist() == truth(long, SYMBOLS, LONG[0], LONG[-1])
    assert ("publish its year again" in caplog.text) == (damage != "gone")


def test_one_symbol_and_one_session_are_not_read_from_a_year_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "lake"))
    names = long_year(store, [f"S{n:02}" for n in range(GROUP_COST + 1)])
    for symbols, days, from_file in (
        (names[:1], LONG, False),
        (names[:GROUP_COST], LONG, False),
        (names[: GROUP_COST + 1], LONG, True),
        (names, LONG[: GROUP_COST // SESSION_COST], False),
        (names, LONG[: GROUP_COST // SESSION_COST + 1], True),
    ):
        counting = CountingStore(store)
        bars = Lake(counting).bars(symbols, days[0], days[-1])
        assert bars.num_rows == len(symbols) * len(days)
        assert (others_read(counting) == []) is from_file


def test_a_year_file_that_is_replaced_after_it_was_looked_at_answers_as_it_was_or_is(
    long: CountingStore,
) -> None:
    lake = Lake(long)
    before = lake.bars()
    write(long, LONG[0], SYMBOLS, shift=1)
    YearFiles(long).publish(2024)

    again = lake.bars()
    now = truth(long, SYMBOLS, LONG[0], LONG[-1])
    assert again.to_pylist() in (before.to_pylist(), now)
    lake.refresh()
    assert lake.bars().to_pylist() == now


def test_a_symbol_that_no_year_file_has_is_explained(long: CountingStore) -> None:
    names = [*SYMBOLS, *(f"NO{n}" for n in range(GROUP_COST))]
    with pytest.raises(NotInLakeError, match="this lake knows no symbol NO0"):
        Lake(long).bars(names)
