"""Minutes are read by security as daily bars are, from a few row groups of each session's file."""

import pickle
import re
import warnings
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.lake import minute_file
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.minute_file import MinuteFile, ReplacedError
from datalake_assets.lake.minutes import MissingHoursWarning
from datalake_assets.lake.reader import MissingSessionsWarning, NotInLakeError
from datalake_assets.lake.resampling import resample
from datalake_assets.lake.security_reader import BARS, HoldersWarning
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Part, Store, open_store
from datalake_assets_tests.lake.files import flipped
from datalake_assets_tests.lake.minutes import (
    MINUTE,
    minute,
    publish_minutes,
    row_groups,
    session_of,
)
from datalake_assets_tests.securities.market import (
    DAYS,
    KINDS,
    MARKET,
    PRICES,
    Truth,
    lake_of,
    same,
    truth_of,
)

AT = (-3, 0, 1, 2, 100, 389, 395)
"""The minutes after the open in which each security of the market trades."""

SMALL = 15
"""Rows of a row group: those of two or three symbols."""


def opens(day: date) -> datetime:
    return market_calendar.session_open(day)


def traded(symbol: str, day: date) -> list[dict[str, Any]]:
    """The minutes of a ticker in a session, some of them out of regular hours."""
    return [minute(symbol, day, opens(day) + at * MINUTE) for at in AT]


def fill(store: Store, market: Iterable[Truth] = MARKET) -> Lake:
    """A lake of this market, daily and by the minute."""
    lake = lake_of(store, market)
    for at, day in enumerate(DAYS):
        here = sorted(s for truth in market for s, session in truth.bars() if session == at)
        rows = [row for symbol in here for row in traded(symbol, day)]
        bars = pa.Table.from_pylist(rows, SCHEMA)
        with row_groups(SMALL):
            publish_minutes(store, day, bars, no_print=("QUIET",), failed={"OUT": "HTTP 500"})
    return lake


@pytest.fixture(scope="module")
def lake() -> Lake:
    return fill(open_store("memory://"))


def expected(
    ids: Iterable[str],
    first: int = 0,
    last: int = len(DAYS) - 1,
    kinds: Sequence[str] = (),
    regular: bool = True,
) -> list[dict[str, Any]]:
    """The minutes of these securities, by their newest ticker in the range, session and time."""

    def minutes(symbol: str, at: int) -> list[dict[str, Any]]:
        day = DAYS[at]
        closes = market_calendar.session_close(day)
        return [
            row
            for row in traded(symbol, day)
            if not regular or opens(day) <= row["timestamp"] < closes
        ]

    return truth_of(ids, minutes, first, last, kinds)


# --- whose minutes, and how adjusted --------------------------------------------------------------


@pytest.mark.parametrize("kinds", [(), ("split",), ("split", "spin-off"), KINDS])
def test_a_renamed_security_is_read_over_all_of_its_tickers(
    lake: Lake, kinds: Sequence[str]
) -> None:
    with pytest.warns(HoldersWarning):
        found = lake.minutes("META", adjustment=kinds or "raw")

    same(found, expected(["FB-1"], kinds=kinds))
    assert found.schema.names == BARS.names


def test_a_minute_has_the_factor_of_its_session(lake: Lake) -> None:
    """The ratio of adjusted to raw is that of the daily bar, whatever the ticker."""
    for symbol in ("FB", "AA", "S", "OLD"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HoldersWarning)
            raw, adjusted = (lake.minutes(symbol, adjustment=kind) for kind in ("raw", "all"))
            daily, units = (lake.bars(symbol, adjustment=kind) for kind in ("raw", "all"))
        factor = {
            day: new / old
            for day, new, old in zip(
                *(daily["session"].to_pylist(), units["close"].to_pylist()),
                daily["close"].to_pylist(),
                strict=True,
            )
        }
        ratio = adjusted["close"].to_numpy() / raw["close"].to_numpy()
        assert ratio == pytest.approx([factor[day] for day in raw["session"].to_pylist()])


def test_a_reused_ticker_means_its_newest_holder_and_asof_another(lake: Lake) -> None:
    with pytest.warns(HoldersWarning, match="S means S-2 here"):
        same(lake.minutes("S", adjustment="all"), expected(["S-2"], kinds=KINDS))
    same(lake.minutes("S", asof=DAYS[0]), expected(["S-1"]))


def test_everything_is_each_minute_once_with_its_security(lake: Lake) -> None:
    same(lake.minutes(adjustment="all"), expected([one.id for one in MARKET], kinds=KINDS))


def test_without_following_rows_are_of_tickers(lake: Lake) -> None:
    found = lake.minutes(["META", "S"], follow=False, hours="extended")

    assert found.schema == SCHEMA
    days = [DAYS[at] for at in (*range(7), *range(10, 30))]
    rows = [row for day in days for row in traded("META", day)]
    rows += [row for at in (*range(12), *range(15, 30)) for row in traded("S", DAYS[at])]
    assert found.to_pylist() == rows
    for options in ({"adjustment": "all"}, {"asof": DAYS[0]}, {"columns": ["security"]}):
        with pytest.raises(ValueError, match="follow=False gives the"):
            lake.minutes("META", follow=False, **options)


def test_a_lake_without_tables_of_securities_gives_tickers() -> None:
    store = open_store("memory://")
    publish_minutes(store, DAYS[0], session_of(["A", "B"], DAYS[0]))
    lake = Lake(store)

    assert lake.minutes("b") == session_of(["B"], DAYS[0])
    with pytest.raises(NotInLakeError, match="needs the tables of securities and factors"):
        lake.minutes("B", adjustment="all")


@given(
    ids=st.sets(st.sampled_from(["FB-1", "META-1", "ACQ-1", "OLD-1", "ZZ-1", "TGT-1"]), min_size=1),
    span=st.tuples(st.integers(0, 29), st.integers(0, 29)).map(sorted),
    regular=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_any_securities_of_any_range_are_whole(
    lake: Lake, ids: set[str], span: list[int], regular: bool
) -> None:
    first, last = span
    # The ticker that each of them had last by the end of the range.
    tickers = [
        [symbol for symbol, begin, _ in truth.tickers if begin <= last][-1]
        for truth in MARKET
        if truth.id in ids
    ]
    hours = "regular" if regular else "extended"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HoldersWarning)
        found = lake.minutes(tickers, DAYS[first], DAYS[last], "all", hours=hours)

    same(found, expected(ids, first, last, KINDS, regular))


# --- which minutes --------------------------------------------------------------------------------


def test_regular_hours_begin_with_the_open_and_end_before_the_close() -> None:
    store = open_store("memory://")
    half = date(2024, 7, 3)
    publish_minutes(store, half, session_of(["A"], half, extended=30))
    lake = Lake(store)

    regular = lake.minutes("A", half, half)["timestamp"].to_pylist()
    assert (len(regular), regular[0]) == (210, opens(half))
    assert regular[-1] == market_calendar.session_close(half) - MINUTE
    assert lake.minutes("A", half, half, hours="extended").num_rows == 270


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_a_range_may_be_of_instants_and_has_both_of_its_ends(lake: Lake, zone: str) -> None:
    start = pd.Timestamp(opens(DAYS[2]) + MINUTE).tz_convert(zone)
    end = pd.Timestamp(opens(DAYS[3]) + MINUTE).tz_convert(zone)

    found = lake.minutes("OLD", start, end)["timestamp"].to_pylist()
    second, third = opens(DAYS[2]), opens(DAYS[3])
    assert found == [
        *(second + at * MINUTE for at in (1, 2, 100, 389)),
        *(third + at * MINUTE for at in (0, 1)),
    ]
    before = lake.minutes("OLD", start + timedelta(seconds=1), end - timedelta(seconds=1))
    assert before["timestamp"].to_pylist() == found[1:-1]


def test_days_may_be_given_as_for_bars(lake: Lake) -> None:
    day = DAYS[4]
    rows = expected(["OLD-1"], 4, 4)
    for given_ in (day, str(day), np.datetime64(day), pd.Timestamp(day)):
        same(lake.minutes("OLD", given_, given_), rows)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"start": pd.Timestamp(2024, 1, 2, 15)}, "has no time zone: give an instant with one"),
        ({"start": "2024-01-02T15:00"}, "is no day"),
        ({"start": pd.NaT}, "is no day"),
        ({"start": DAYS[3], "end": DAYS[2]}, "is before the start"),
        ({"start": opens(DAYS[3]), "end": opens(DAYS[3]) - MINUTE}, "is before the start"),
        ({"hours": "night"}, "hours='night' is unknown: give 'regular' or 'extended'"),
        ({"every": "5 seconds"}, "is no length of a bar"),
        ({"columns": ["price"]}, "bars have no column 'price'"),
        ({"symbols": []}, "no symbol is given"),
        ({"adjustment": "splits"}, "do you mean 'split'"),
    ],
)
def test_what_means_nothing_is_refused(lake: Lake, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        lake.minutes(**{"symbols": "OLD"} | options)


@pytest.mark.parametrize(
    "columns",
    [["close"], ["timestamp", "symbol"], ["vwap"], ["security", "volume"], "open", BARS.names],
)
@pytest.mark.parametrize("every", [None, "2min", "session"])
def test_only_the_columns_asked_for_come(
    lake: Lake, columns: str | list[str], every: str | None
) -> None:
    whole = lake.minutes("FB", every=every, adjustment="all")
    found = lake.minutes("FB", every=every, adjustment="all", columns=columns)

    wanted = [columns] if isinstance(columns, str) else columns
    assert found == whole.select(wanted)


@pytest.mark.parametrize("every", ["2min", "1h", "session", timedelta(minutes=3)])
def test_longer_bars_are_those_of_the_minutes(lake: Lake, every: Any) -> None:
    for symbols in ("FB", None):
        minutes = lake.minutes(symbols)
        assert lake.minutes(symbols, every=every) == resample(minutes, every)
    adjusted = resample(lake.minutes("FB", adjustment="all"), every)
    found = lake.minutes("FB", every=every, adjustment="all")
    assert found.select(["symbol", "timestamp"]) == adjusted.select(["symbol", "timestamp"])
    for name in (*PRICES, "volume"):
        assert found[name].to_pylist() == pytest.approx(adjusted[name].to_pylist(), rel=1e-12)


# --- what is not there ----------------------------------------------------------------------------


def test_a_lake_without_minutes_says_how_to_turn_them_on() -> None:
    lake = lake_of(open_store("memory://"))

    with pytest.raises(NotInLakeError, match="off until DATALAKE_MINUTES is set to regular or ext"):
        lake.minutes("FB")
    assert lake.minute_sessions() == []


def test_sessions_without_minutes_are_named() -> None:
    store = open_store("memory://")
    lake = fill(store)
    for at in (3, 4, 9):
        store.delete(layout.session_key(DAYS[at], layout.MINUTE))

    told = f"3 of the sessions asked for .* by the minute: {DAYS[3]}, {DAYS[4]}, {DAYS[9]}"
    with pytest.warns(MissingSessionsWarning, match=told):
        found = lake.minutes("OLD", DAYS[2], DAYS[10])
    missing = [DAYS[3], DAYS[4], DAYS[9]]
    rows = [row for row in expected(["OLD-1"], 2, 10) if row["session"] not in missing]
    same(found, rows)
    assert lake.minute_sessions() == [day for day in DAYS if day not in missing]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lake.minutes("OLD", DAYS[5], DAYS[8])


def test_the_names_of_many_missing_sessions_are_cut_short(lake: Lake) -> None:
    before = market_calendar.previous_sessions(DAYS[0], 7)

    with pytest.warns(MissingSessionsWarning, match=rf"7 of .* \S+ … {before[-1]}\. "):
        lake.minutes("OLD", before[0], DAYS[2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lake.minutes("OLD", None, DAYS[2]).num_rows == 3 * 5


@pytest.fixture
def of_both_hours() -> Lake:
    """A session of regular hours, one of extended hours, and one that doesn't tell its hours."""
    store = open_store("memory://")
    for at, hours in ((3, "regular"), (4, "extended"), (5, None)):
        publish_minutes(store, DAYS[at], session_of("A", DAYS[at], extended=0), hours=hours)
    return Lake(store)


@pytest.mark.parametrize("options", [{}, {"follow": False}, {"every": "1h"}, {"symbols": None}])
def test_sessions_of_regular_hours_are_named_where_extended_ones_are_asked_for(
    of_both_hours: Lake, options: dict[str, Any]
) -> None:
    told = (
        f"^1 of the sessions asked for has the minutes of regular hours only: {DAYS[3]}. For .* "
        f"DATALAKE_MINUTES=extended .* datalake collect --minutes --session {DAYS[3]}$"
    )
    asked = {"symbols": "A", "start": DAYS[3], "end": DAYS[5]} | options
    with pytest.warns(MissingHoursWarning, match=told) as warned:
        assert of_both_hours.minutes(**asked, hours="extended").num_rows
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_both_hours.minutes(**asked)
        of_both_hours.minutes(**asked | {"start": DAYS[4]}, hours="extended")


@pytest.mark.parametrize(
    ("before", "after", "told"), [(0, 0, False), (1, 0, True), (0, 1, True), (-1, -1, False)]
)
def test_instants_within_regular_hours_lack_nothing(
    of_both_hours: Lake, before: int, after: int, told: bool
) -> None:
    last = market_calendar.session_close(DAYS[3]) - MINUTE
    span = (opens(DAYS[3]) - before * MINUTE, last + after * MINUTE)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert of_both_hours.minutes("A", *span, hours="extended").num_rows
    assert [each.category for each in warned] == [MissingHoursWarning] * told


def test_a_symbol_without_a_minute_has_no_row_and_an_unknown_one_is_refused(lake: Lake) -> None:
    with pytest.warns(MissingSessionsWarning):
        assert lake.minutes("OLD", "2024-03-01", "2024-03-04").num_rows == 0
    assert lake.minutes("QUIET").num_rows == 0
    assert lake.minutes(["QUIET", "OUT", "OLD"], DAYS[0], DAYS[0]).num_rows == 5
    with pytest.raises(NotInLakeError, match="this lake knows no symbol OLDE: .* Close to it: OLD"):
        lake.minutes(["OLD", "OLDE"])


@pytest.mark.parametrize(
    ("symbol", "day", "told"),
    [
        ("quiet", DAYS[0], "QUIET did not trade on 2023-12-18"),
        ("OUT", DAYS[0], r"the minutes of OUT .* could not be had \(HTTP 500\)"),
        ("OLD", DAYS[0], "OLD has minutes on 2023-12-18, and none in the hours asked for"),
        ("S", DAYS[13], "the minutes of S were not asked for on"),
        ("OLD", date(2024, 7, 4), "2024-07-04 is no trading session but a holiday"),
        (
            "OLD",
            date(2024, 2, 1),
            "datalake collect --minutes --session 2024-02-01",
        ),
        ("OLD", date(1990, 1, 2), "outside the XNYS calendar"),
    ],
)
def test_it_is_explained_why_there_is_no_minute(
    lake: Lake, symbol: str, day: date, told: str
) -> None:
    assert re.search(told, lake.explain_minutes(symbol, day))


def test_a_session_that_waits_is_told() -> None:
    store = open_store("memory://")
    assert "DATALAKE_MINUTES" in Lake(store).explain_minutes("A", DAYS[0])
    store.put(layout.incomplete_key(DAYS[0], layout.MINUTE), b"")

    told = Lake(store).explain_minutes("A", DAYS[0])
    assert "did not pass their audit and wait in memory:///data/ticks/minute/incomplete/" in told


# --- what is read ---------------------------------------------------------------------------------


class CountingStore(Store):
    """A store that remembers how many bytes of its objects were asked for."""

    def __init__(self, store: Store) -> None:
        self.__dict__.update(vars(store))
        self.parts: list[tuple[int | None, int]] = []

    def get(self, key: str) -> bytes:
        assert not key.startswith(layout.MINUTE.sessions), "no file of minutes is read whole"
        return super().get(key)

    def part(self, key: str, length: int, start: int | None = None) -> Part:
        found = super().part(key, length, start)
        self.parts.append((start, len(found.data)))
        return found


def whole_market(count: int = 300) -> pa.Table:
    return session_of([f"S{n:03}" for n in range(count)], DAYS[0])


@pytest.mark.parametrize("near", [True, False])
def test_one_symbol_is_a_footer_and_one_range(tmp_path: Path, near: bool) -> None:
    store = CountingStore(open_store(str(tmp_path) if near else "memory://"))
    bars = whole_market()
    publish_minutes(store, DAYS[0], bars)

    found = Lake(store).minutes("S123", DAYS[0], DAYS[0])
    assert found == bars.filter(pa.compute.equal(bars["symbol"], "S123"))
    size = store.size(layout.session_key(DAYS[0], layout.MINUTE))
    (footer, start), (first, length) = store.parts[0][::-1], store.parts[1]
    assert (start, len(store.parts)) == (None, 2)
    assert footer <= minute_file.FOOTER_GUESS
    assert first is not None
    assert length < size / 5


def test_row_groups_end_where_a_symbol_does() -> None:
    store = open_store("memory://")
    publish_minutes(store, DAYS[0], whole_market())
    key = layout.session_key(DAYS[0], layout.MINUTE)
    footer = pq.read_metadata(pa.BufferReader(store.get(key)))

    groups = [footer.row_group(n) for n in range(footer.num_row_groups)]
    assert [g.num_rows for g in groups] == [*[43 * 390] * 6, 42 * 390]
    last = [g.column(0).statistics.max for g in groups]
    first = [g.column(0).statistics.min for g in groups]
    assert all(before < after for before, after in zip(last, first[1:], strict=False))


@given(st.sets(st.integers(0, 320), max_size=60), st.booleans())
@settings(max_examples=25, deadline=None)
def test_any_symbols_are_found_in_their_row_groups(chosen: set[int], beyond: bool) -> None:
    names = sorted({f"S{n:03}" for n in chosen} | ({"A", "S123.B", "Z"} if beyond else set()))
    file = MinuteFile(_MARKET, DAYS[0])

    found = [
        symbol
        for piece in file.pieces(names, SCHEMA.names)
        for rows in file.read(piece, pa.array(names, pa.string()), SCHEMA.names)
        for symbol in dict.fromkeys(rows["symbol"].to_pylist())
    ]
    assert found == [name for name in names if "S000" <= name <= "S299" and "." not in name]


_MARKET = open_store("memory://")


@pytest.fixture(scope="module", autouse=True)
def _published_market() -> None:
    with row_groups(1_000):
        publish_minutes(_MARKET, DAYS[0], whole_market())


def test_a_longer_footer_takes_a_second_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minute_file, "FOOTER_GUESS", 64)
    store = CountingStore(_MARKET)

    assert Lake(store).minutes("S299").num_rows == 390
    assert [start for start, _ in store.parts[:2]] == [None, None]


@pytest.mark.parametrize("most", [1, 200_000, 8 << 20])
def test_ranges_are_no_longer_than_a_read(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minute_file, "A_READ", most)
    store = CountingStore(_MARKET)

    assert Lake(store).minutes() == whole_market()
    ranges = [length for start, length in store.parts if start is not None]
    group = max(ranges) if most == 1 else most
    assert all(length <= group for length in ranges)
    # Two beside each other would have been too long for one.
    assert all(one + next_ > most for one, next_ in pairwise(ranges))


class ReplacingStore(Store):
    """A store in which another program replaces a session between two reads of it."""

    def __init__(self, store: Store, data: bytes, times: int) -> None:
        self.__dict__.update(vars(store))
        self.data, self.times = data, times

    def part(self, key: str, length: int, start: int | None = None) -> Part:
        found = super().part(key, length, start)
        if start is None and self.times:
            self.times -= 1
            self.put(key, self.data)
        return found


@pytest.mark.parametrize("symbols", ["A", None])
@pytest.mark.parametrize("most", [1, 8 << 20])
def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, symbols: str | None, most: int
) -> None:
    monkeypatch.setattr(minute_file, "A_READ", most)
    store = open_store(str(tmp_path))
    bars = session_of(["A", "B", "C"], DAYS[0])
    with row_groups(SMALL):
        publish_minutes(store, DAYS[0], bars)
    data = store.get(layout.session_key(DAYS[0], layout.MINUTE))

    found = Lake(ReplacingStore(store, data, 2)).minutes(symbols)
    assert found == (bars.slice(0, 390) if symbols else bars)
    with pytest.raises(ReplacedError, match="was replaced while it was read: run this again"):
        Lake(ReplacingStore(store, data, 9)).minutes(symbols)


@pytest.mark.parametrize("place", ["folder", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def test_a_file_that_a_shorter_one_replaces_is_read_again(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    uris = {"folder": str(tmp_path), "memory": "memory://"}
    store = open_store(uris.get(place) or request.getfixturevalue("s3_lake_uri"))
    short = session_of(["S299"], DAYS[0])
    publish_minutes(store, DAYS[0], short)
    data = store.get(layout.session_key(DAYS[0], layout.MINUTE))
    for symbols in ("S299", None):
        publish_minutes(store, DAYS[0], whole_market())
        assert Lake(ReplacingStore(store, data, 1)).minutes(symbols) == short


def test_a_flipped_bit_is_told_and_not_read(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    publish_minutes(store, DAYS[0], session_of(["A", "B"], DAYS[0]))
    key = layout.session_key(DAYS[0], layout.MINUTE)
    data = store.get(key)
    for place in range(10, len(data) - 2_000, 997):
        store.put(key, flipped(data, place, 3))
        with pytest.raises(BrokenFileError, match="is no whole file of minutes"):
            Lake(store).minutes("A")


@pytest.mark.parametrize("damaged", [b"", b"PAR1", b"no parquet at all" * 100])
def test_a_file_that_is_none_is_told(damaged: bytes) -> None:
    store = open_store("memory://")
    store.put(layout.session_key(DAYS[0], layout.MINUTE), damaged)

    with pytest.raises(BrokenFileError, match="collect the session again"):
        Lake(store).minutes("A")


def test_a_file_of_another_session_is_told_and_not_read() -> None:
    store = open_store("memory://")
    publish_minutes(store, DAYS[0], session_of(["A", "B"], DAYS[0]))
    data = store.get(layout.session_key(DAYS[0], layout.MINUTE))
    store.put(layout.session_key(DAYS[1], layout.MINUTE), data)

    assert Lake(store).minutes("A", DAYS[0], DAYS[0]).num_rows
    with pytest.raises(BrokenFileError, match=f"it holds the session of {DAYS[0]}"):
        Lake(store).minutes("A", DAYS[1], DAYS[1])


def test_row_groups_that_share_a_symbol_are_told() -> None:
    store = open_store("memory://")
    bars = session_of(["A", "B"], DAYS[0])
    data = pa.BufferOutputStream()
    pq.write_table(bars, data, row_group_size=100)
    store.put(layout.session_key(DAYS[0], layout.MINUTE), bytes(data.getvalue()))

    for symbols in ("A", None):
        with pytest.raises(BrokenFileError, match="a symbol is in several row groups"):
            Lake(store).minutes(symbols)


def test_a_session_without_a_row_is_empty() -> None:
    store = open_store("memory://")
    publish_minutes(store, DAYS[0], SCHEMA.empty_table(), no_print=("A",))

    assert Lake(store).minutes("A").num_rows == Lake(store).minutes().num_rows == 0


def test_a_new_session_is_found_at_once_and_a_lake_can_be_pickled(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    publish_minutes(store, DAYS[0], session_of(["A"], DAYS[0]))
    lake = Lake(store)
    assert lake.minutes("A").num_rows == 390
    publish_minutes(store, DAYS[1], session_of(["A"], DAYS[1]))

    assert lake.minutes("A").num_rows == 780
    assert pickle.loads(pickle.dumps(lake)).minutes("A") == lake.minutes("A")


@pytest.mark.s3
def test_a_lake_in_a_bucket_gives_the_same(s3_lake_uri: str, lake: Lake) -> None:
    there = fill(open_store(s3_lake_uri))

    for symbols in ("OLD", ["FB", "ACQ", "TGT"], None):
        assert there.minutes(symbols, adjustment="all") == lake.minutes(symbols, adjustment="all")
    assert there.minutes("OLD", every="session") == lake.minutes("OLD", every="session")
