"""Minutes as cells: planned once, found where they belong, put in order; others are none.

Not here: the same of daily bars (`test_plan`, `test_window`), minutes from the exchange into a lake
(`test_minutes`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.collect import Collection, OddItem, Page
from datalake_assets.collection.dataset import EXTENDED_MINUTE, MINUTE, Dataset, minute_dataset
from datalake_assets.collection.plan import Packing, plan, plan_each, plan_windows
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.symbols import Symbols
from datalake_assets.collection.window import Block, Grid, Rows, ordered
from datalake_assets_tests.collection.tables import names
from datalake_assets_tests.fakes import FakeClock
from datalake_assets_tests.lake.minutes import minute

SPRING, AUTUMN = (date(2024, 3, 8), date(2024, 3, 11)), (date(2024, 11, 1), date(2024, 11, 4))
"""The sessions before and after the clocks change."""
JULY, CHRISTMAS = date(2024, 7, 3), date(2024, 12, 24)
HALF_DAYS = (JULY, date(2024, 11, 29), CHRISTMAS)
DAYS = sorted({*SPRING, *AUTUMN, *HALF_DAYS, date(2024, 7, 2), date(2024, 7, 5)})
ONE, WEEKEND = timedelta(minutes=1), timedelta(days=3)

both = pytest.mark.parametrize("dataset", [MINUTE, EXTENDED_MINUTE], ids=["regular", "extended"])
datasets = st.sampled_from([MINUTE, EXTENDED_MINUTE])
packings = st.builds(Packing, bars=st.integers(1, 3_000), symbols=st.integers(1, 12))
wanted_symbols = st.dictionaries(
    st.sampled_from(DAYS), st.lists(st.sampled_from(names(15)), max_size=15), max_size=5
)
unhurried = settings(deadline=None)

Counts = dict[str, float]


def expecting(counts: Counts) -> Callable[[Sequence[date]], Callable[[str], float]]:
    return lambda sessions: lambda symbol: counts.get(symbol, 390.0) * len(sessions)


# --- when the bars of a session start ---


def new_york(instant: datetime) -> time:
    return instant.astimezone(ZoneInfo("America/New_York")).time()


@pytest.mark.parametrize("day", DAYS)
def test_the_minutes_of_a_session_start_from_its_open_to_the_minute_before_its_close(
    day: date,
) -> None:
    half = day in HALF_DAYS
    assert MINUTE.bars(day) == (210 if half else 390)
    assert EXTENDED_MINUTE.bars(day) == (780 if half else 960)
    assert [new_york(at) for at in MINUTE.hours(day)] == [time(9, 30), time(13 if half else 16)]
    assert [new_york(at) for at in EXTENDED_MINUTE.hours(day)] == [
        time(4),
        time(17 if half else 20),
    ]


@pytest.mark.parametrize("days", [SPRING, AUTUMN], ids=["spring", "autumn"])
def test_when_the_clocks_change_the_minutes_do_in_utc_alone(days: tuple[date, date]) -> None:
    before, after = (MINUTE.hours(day).first for day in days)

    hour = timedelta(hours=1)
    assert after - before == WEEKEND + (-hour if days is SPRING else hour)
    assert MINUTE.first(days[0]) == before.timestamp() * 1_000_000


@both
@pytest.mark.parametrize("day", [date(2024, 7, 4), date(2024, 7, 6)], ids=["holiday", "Saturday"])
def test_a_day_that_is_no_session_has_no_hours(dataset: Dataset, day: date) -> None:
    with pytest.raises(ValueError, match=f"{day}"):
        dataset.hours(day)


def test_the_words_of_the_setting_are_these_three() -> None:
    words = {"off": None, "regular": MINUTE, "extended": EXTENDED_MINUTE}
    assert {word: minute_dataset(word) for word in words} == words
    with pytest.raises(KeyError):
        minute_dataset("on")


# --- the plan ---


@unhurried
@given(wanted_symbols, packings, datasets)
def test_every_session_of_every_symbol_is_asked_for_once_in_requests_of_one_session_that_fit(
    wanted: dict[date, list[str]], packing: Packing, dataset: Dataset
) -> None:
    made = plan_each(wanted, packing, dataset=dataset)

    asked = Counter((symbol, chunk.sessions) for chunk in made.chunks for symbol in chunk.symbols)
    assert asked == Counter({(s, (day,)): 1 for day, some in wanted.items() for s in set(some)})
    for chunk in made.chunks:
        (day,) = chunk.sessions
        assert chunk.bars == len(chunk.symbols) * dataset.bars(day)
        assert 1 <= len(chunk.symbols) <= packing.symbols
        # One symbol can have more than fit a page; then it is alone.
        assert chunk.bars <= packing.bars or len(chunk.symbols) == 1


@unhurried
@given(
    wanted_symbols,
    packings,
    datasets,
    st.dictionaries(st.sampled_from(names(15)), st.floats(0, 390), max_size=15),
)
def test_packed_by_what_is_expected_it_is_still_each_once_and_no_request_is_empty(
    wanted: dict[date, list[str]], packing: Packing, dataset: Dataset, counts: Counts
) -> None:
    made = plan_each(wanted, packing, expecting(counts), dataset)

    asked = Counter((symbol, chunk.sessions) for chunk in made.chunks for symbol in chunk.symbols)
    assert asked == Counter({(s, (day,)): 1 for day, some in wanted.items() for s in set(some)})
    for chunk in made.chunks:
        assert 1 <= len(chunk.symbols) <= packing.symbols
        # Dealt like cards, the fullest hand has less than one symbol's bars above the mean.
        assert chunk.expected is not None
        assert chunk.expected < packing.bars + 390


@pytest.mark.parametrize(("fit", "requests"), [(389, 2), (390, 2), (779, 2), (780, 1)])
def test_two_symbols_share_a_request_from_two_sessions_of_minutes_on(
    fit: int, requests: int
) -> None:
    assert plan(names(2), [DAYS[0]], Packing(bars=fit), MINUTE).requests == requests


@pytest.mark.parametrize("fit", [1, 100, 402])
def test_symbols_with_more_minutes_than_fit_a_request_have_one_each_and_no_other_is_sent(
    fit: int,
) -> None:
    known = expecting(dict.fromkeys(names(3), 390.0))
    made = plan_each({DAYS[0]: names(3)}, Packing(bars=fit), known, MINUTE)

    assert [chunk.symbols for chunk in made.chunks] == [(symbol,) for symbol in names(3)]


def test_by_their_trades_thin_names_share_their_requests() -> None:
    """10,000 names, of which a fifth trades all the time: as many requests as their bars fill."""
    some = names(10_000)
    counts = {symbol: 390.0 if number % 5 == 0 else 20.0 for number, symbol in enumerate(some)}
    made = plan_each({DAYS[0]: some}, None, expecting(counts), MINUTE)

    pages = -(-sum(counts.values()) // 10_000)
    assert made.requests <= 1.1 * pages
    assert all(chunk.expected and chunk.expected < 10_000 for chunk in made.chunks)
    assert plan(some, [DAYS[0]], dataset=MINUTE).requests == 400


@unhurried
@given(st.sets(st.sampled_from(DAYS)))
def test_a_window_is_one_session(days: set[date]) -> None:
    wanted = dict.fromkeys(days, names(2))
    windows = plan_windows(wanted, expected=expecting({}), dataset=MINUTE)

    assert [window for window, _ in windows] == [(day,) for day in sorted(days)]
    assert all(plan.sessions == window for window, plan in windows)


# --- cells ---


def starts(dataset: Dataset, day: date) -> list[datetime]:
    hours = dataset.hours(day)
    return [hours.first + at * ONE for at in range(dataset.bars(day))]


def table(keys: Sequence[tuple[str, date, datetime]], volume: int = 1) -> pa.Table:
    rows = [minute(symbol, day, at, volume=volume) for symbol, day, at in keys]
    return pa.Table.from_pylist(rows, SCHEMA)


@both
@pytest.mark.parametrize("days", [SPRING, AUTUMN, (date(2024, 7, 2), JULY, date(2024, 7, 5))])
def test_each_minute_of_the_hours_has_a_cell_of_its_own_and_what_is_beside_them_has_none(
    dataset: Dataset, days: tuple[date, ...]
) -> None:
    grid = Grid(Symbols(names(3)), days, dataset)
    block = Block(grid, names(3)[1:], days)
    inside = [(s, day, at) for day in days for s in names(3)[1:] for at in starts(dataset, day)]
    cells, others = block.cells(table(inside))

    assert others == []
    assert len(set(cells.tolist())) == len(inside)
    assert all(grid.at(cell) == key[:2] for cell, key in zip(cells.tolist(), inside, strict=True))
    assert cells.tolist() == sorted(cells.tolist())
    outside = []
    for day in days:
        first, last = starts(dataset, day)[0], starts(dataset, day)[-1]
        wrong = (first - ONE, last + ONE, first + ONE / 2, first + timedelta(microseconds=1))
        outside += [(names(3)[1], day, at) for at in wrong]
        # The minute of a session that is said to be of another one.
        outside += [(names(3)[1], other, first) for other in days if other != day]
    assert block.cells(table(outside))[0].tolist() == [-1] * len(outside)


def test_a_symbol_or_a_session_that_was_not_asked_for_has_no_cell() -> None:
    grid = Grid(Symbols(names(3)), SPRING, MINUTE)
    block = Block(grid, names(2), SPRING[:1])
    keys = [(s, day, MINUTE.hours(day).first) for s in names(3) for day in SPRING]

    cells, others = block.cells(table(keys))

    assert (cells >= 0).tolist() == [True, False, True, False, False, False]
    assert others == [names(3)[2]]


@unhurried
@given(st.data(), datasets)
def test_the_rows_of_all_pages_in_order_are_a_plain_sort_without_repetitions(
    data: st.DataObject, dataset: Dataset
) -> None:
    days = (JULY, date(2024, 7, 5))
    places = [starts(dataset, day)[:2] + starts(dataset, day)[-2:] for day in days]
    key = st.sampled_from(
        [
            (s, day, at)
            for day, some in zip(days, places, strict=True)
            for s in names(3)
            for at in some
        ]
    )
    row = st.tuples(key, st.sampled_from([1, 1, 1, 2]))
    pages = data.draw(st.lists(st.lists(row, max_size=8), max_size=4))
    grid = Grid(Symbols(names(3)), days, dataset)
    block = Block(grid, names(3), days)
    parts = []
    for page in pages:
        bars = pa.concat_tables([SCHEMA.empty_table(), *(table([k], v) for k, v in page)])
        parts.append(Rows(bars, block.cells(bars)[0]))

    window, clashing = ordered(grid, list(parts))

    rows = {row for page in pages for row in page}
    times = Counter(key for key, _ in rows)
    wrong = {key[:2] for key, count in times.items() if count > 1}
    assert set(clashing) == wrong
    right = sorted((key[1], key[0], key[2]) for key in times if key[:2] not in wrong)
    shown = [(bar["session"], bar["symbol"], bar["timestamp"]) for bar in window.bars.to_pylist()]
    assert shown == right
    assert window.counts.tolist() == [sum(r[0] == day for r in right) for day in days]
    assert {
        (str(grid.symbols.names[place]), days[number])
        for number, place in np.argwhere(window.present).tolist()
    } == {(symbol, day) for day, symbol, _ in right}
    sessions = [bars["session"].to_pylist() for bars in window.by_session()]
    assert all(set(told) <= {day} for told, day in zip(sessions, days, strict=True))


def test_a_symbol_that_is_left_out_loses_all_of_its_minutes_in_that_session_alone() -> None:
    days = (JULY, date(2024, 7, 5))
    grid = Grid(Symbols(names(2)), days, MINUTE)
    bars = table([(s, day, at) for day in days for s in names(2) for at in starts(MINUTE, day)])
    rows = Rows(bars, Block(grid, names(2), days).cells(bars)[0])

    window, _ = ordered(grid, [rows], [(names(2)[0], JULY)])

    assert window.counts.tolist() == [210, 780]
    assert window.present.tolist() == [[False, True], [True, True]]


def collected(*odd: OddItem) -> tuple[pa.Table, Ledger]:
    """A session of two symbols of which the source has all minutes, with these odd items."""
    bars = table([(s, JULY, at) for s in names(2) for at in starts(MINUTE, JULY)])

    def fetch(symbols: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        return Page(bars, None, odd=odd)

    clock = FakeClock()
    made = plan(names(2), [JULY], dataset=MINUTE)
    limiter = RateLimiter(1e9, clock=clock)
    collection = Collection(made, fetch, limiter=limiter, workers=1, dataset=MINUTE, clock=clock)
    collection.run()
    (found,) = collection.sessions()
    return found


@pytest.mark.parametrize(
    ("session", "failed"),
    [(JULY, True), (None, True), (date(2024, 7, 5), False)],
    ids=["of the session", "of an unknown one", "of another one"],
)
def test_a_minute_that_can_t_be_used_costs_its_symbol_whose_other_minutes_would_lack_it(
    session: date | None, failed: bool
) -> None:
    """A daily bar that can't be used is not that of a session that has one; a minute may be."""
    bars, ledger = collected(OddItem(names(2)[0], session, "an unreadable time"))

    assert dict(ledger.failed) == ({names(2)[0]: "an unreadable time"} if failed else {})
    assert bars.num_rows == (1 if failed else 2) * 210


def test_an_instant_is_the_same_whatever_its_zone() -> None:
    day = DAYS[0]
    opens = market_calendar.session_open(day)
    grid = Grid(Symbols(names(1)), [day], MINUTE)
    bars = table([(names(1)[0], day, opens.astimezone(ZoneInfo("Asia/Tokyo")))])

    assert opens.tzinfo is UTC
    assert Block(grid, names(1), [day]).cells(bars)[0].tolist() == [0]
