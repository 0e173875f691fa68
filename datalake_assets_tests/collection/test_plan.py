"""What is asked for: everything, once, in requests that fit a page."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.dataset import DAILY
from datalake_assets.collection.plan import (
    Chunk,
    Packing,
    Plan,
    plan,
    plan_each,
    plan_windows,
)
from datalake_assets.collection.survey import Survey
from datalake_assets_tests.collection.tables import MONDAY, WEEK, names

WINDOW = DAILY.window
YEAR = market_calendar.sessions(date(2024, 1, 1), date(2024, 12, 31))
DECADE = market_calendar.sessions(date(2015, 1, 1), date(2024, 12, 31))

packings = st.builds(Packing, bars=st.integers(1, 60), symbols=st.integers(1, 12))
days = st.lists(st.sampled_from(YEAR[:40]), max_size=25)
some_names = st.lists(st.sampled_from(names(30)), max_size=40)
unhurried = settings(deadline=None)


def asked(of: Plan) -> Counter[tuple[str, date]]:
    return Counter((s, day) for chunk in of.chunks for s in chunk.symbols for day in chunk.sessions)


def fits(chunk: Chunk, packing: Packing) -> bool:
    return (
        chunk.bars == len(chunk.symbols) * len(chunk.sessions)
        and 1 <= chunk.bars <= packing.bars
        and len(chunk.symbols) <= packing.symbols
    )


def contiguous(chunk: Chunk) -> bool:
    first, last = chunk.sessions[0], chunk.sessions[-1]
    return list(chunk.sessions) == market_calendar.sessions(first, last)


@unhurried
@given(some_names, days, packings)
def test_every_symbol_of_every_session_is_asked_for_exactly_once(
    symbols: list[str], sessions: list[date], packing: Packing
) -> None:
    made = plan(symbols, sessions, packing)
    assert asked(made) == Counter({(s, day): 1 for s in set(symbols) for day in set(sessions)})
    assert all(fits(chunk, packing) and contiguous(chunk) for chunk in made.chunks)
    assert made.bars == len(set(symbols)) * len(set(sessions))
    assert made.requests == len(made.chunks)


@unhurried
@given(st.dictionaries(st.sampled_from(YEAR[:30]), some_names, max_size=20), packings)
def test_sets_that_differ_from_session_to_session_are_each_asked_for_exactly_once(
    wanted: dict[date, list[str]], packing: Packing
) -> None:
    made = plan_each(wanted, packing)
    expected = {(s, day): 1 for day, symbols in wanted.items() for s in set(symbols)}
    assert asked(made) == Counter(expected)
    assert all(fits(chunk, packing) and contiguous(chunk) for chunk in made.chunks)
    assert made.sessions == tuple(sorted(day for day, symbols in wanted.items() if symbols))


@unhurried
@given(st.data(), some_names, days, packings)
def test_order_and_duplicates_of_the_question_do_not_change_the_plan(
    data: st.DataObject, symbols: list[str], sessions: list[date], packing: Packing
) -> None:
    straight = plan(sorted(set(symbols)), sorted(set(sessions)), packing)
    shuffled = data.draw(st.permutations(symbols)), data.draw(st.permutations(sessions))
    assert plan(*shuffled, packing) == straight
    assert plan(symbols * 2, sessions * 2, packing) == straight


def test_iterators_are_as_good_as_lists() -> None:
    assert plan(iter(names(3)), iter(WEEK)) == plan(names(3), WEEK)


def test_a_session_of_5000_symbols_takes_at_most_11_requests() -> None:
    assert plan(names(5_000), [MONDAY]).requests <= 11


def test_a_year_of_5000_symbols_takes_at_most_130_requests_of_at_most_39_symbols() -> None:
    made = plan(names(5_000), YEAR)
    assert len(YEAR) == 252
    assert made.requests <= 130
    assert {len(chunk.sessions) for chunk in made.chunks} == {252}
    assert {len(chunk.symbols) for chunk in made.chunks} == {38, 39}
    assert made.bars == 5_000 * 252


def test_fifteen_years_in_windows_are_minutes_of_the_free_plan() -> None:
    history = market_calendar.sessions(date(2010, 1, 1), date(2024, 12, 31))
    requests = sum(made.requests for _, made in windows(history, names(5_000)))
    assert requests <= 1_950
    assert Plan(tuple(plan(names(1), [day]).chunks[0] for day in WEEK)).minutes(60) == 0.1


def test_no_page_is_planned_full_because_a_full_one_can_cost_an_empty_one_more() -> None:
    assert max(chunk.bars for chunk in plan(names(5_000), YEAR).chunks) < 10_000
    assert max(chunk.bars for chunk in plan(names(1), DECADE).chunks) < 10_000


@pytest.mark.parametrize(("count", "shape"), [(499, [499]), (500, [500]), (501, [250, 251])])
def test_symbols_that_need_a_further_request_are_spread_evenly(
    count: int, shape: list[int]
) -> None:
    assert [len(chunk.symbols) for chunk in plan(names(count), [MONDAY]).chunks] == shape


def test_more_sessions_than_a_page_holds_are_cut() -> None:
    made = plan(["A"], YEAR, Packing(bars=100))
    assert [len(chunk.sessions) for chunk in made.chunks] == [100, 100, 52]


def test_sessions_with_one_left_out_between_them_are_not_asked_for_in_one_request() -> None:
    made = plan(["A"], [WEEK[0], WEEK[1], WEEK[3]])
    assert [chunk.sessions for chunk in made.chunks] == [(WEEK[0], WEEK[1]), (WEEK[3],)]


def test_a_weekend_or_a_holiday_does_not_part_two_sessions() -> None:
    thursday_is_the_fourth = [date(2024, 7, 3), date(2024, 7, 5), date(2024, 7, 8)]
    (chunk,) = plan(["A"], thursday_is_the_fourth).chunks
    assert chunk.sessions == tuple(thursday_is_the_fourth)


def test_sessions_that_want_the_same_symbols_share_their_request() -> None:
    made = plan_each({WEEK[0]: ["B", "A"], WEEK[1]: ["A", "B", "A"], WEEK[2]: ["A"]})
    assert made.chunks == (
        Chunk(("A", "B"), (WEEK[0], WEEK[1])),
        Chunk(("A",), (WEEK[2],)),
    )


@pytest.mark.parametrize("wanted", [{}, {MONDAY: []}])
def test_nothing_wanted_is_an_empty_plan(wanted: dict[date, list[str]]) -> None:
    assert plan_each(wanted) == Plan()
    assert plan_each(wanted).bars == plan_each(wanted).requests == 0


@pytest.mark.parametrize("day", [date(2024, 7, 4), date(2024, 7, 6), date(2018, 12, 5)])
def test_a_day_that_is_no_session_is_refused_and_named(day: date) -> None:
    with pytest.raises(ValueError, match=str(day)):
        plan(["A"], [MONDAY, day])
    with pytest.raises(ValueError, match=str(day)):
        plan_each({day: ["A"], MONDAY: ["B"]})


@pytest.mark.parametrize("wrong", [{"bars": 0}, {"symbols": 0}, {"bars": -1}])
def test_a_packing_that_can_hold_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Packing(**wrong)


def windows(
    days: Iterable[date], symbols: Sequence[str] = ("A",), size: int = WINDOW
) -> list[tuple[tuple[date, ...], Plan]]:
    """The windows of these sessions, of which nobody knows what they bring."""
    return plan_windows(dict.fromkeys(days, symbols), dataset=replace(DAILY, window=size))


@unhurried
@given(st.lists(st.sampled_from(DECADE), max_size=60), st.integers(1, 20))
def test_windows_hold_every_session_once_in_order_and_all_but_the_last_are_full(
    sessions: list[date], size: int
) -> None:
    split = [window for window, _ in windows(sessions, size=size)]
    assert [day for window in split for day in window] == sorted(set(sessions))
    assert all(len(window) == size for window in split[:-1])
    assert all(1 <= len(window) <= size for window in split)


@pytest.mark.parametrize(
    ("count", "shape"),
    [(WINDOW - 1, [62]), (WINDOW, [63]), (WINDOW + 1, [63, 1]), (0, [])],
)
def test_a_window_is_a_quarter_of_a_year(count: int, shape: list[int]) -> None:
    assert [len(window) for window, _ in windows(YEAR[:count])] == shape


def test_a_window_of_5000_symbols_takes_32_requests() -> None:
    made = windows(YEAR, names(5_000))[0][1]
    assert made.requests == 32
    assert max(len(chunk.symbols) for chunk in made.chunks) <= 157


@unhurried
@given(
    st.dictionaries(st.sampled_from(DECADE[:200]), some_names, max_size=150),
    packings,
    st.floats(0, 1) | st.none(),
)
def test_windows_hold_every_session_once_and_are_packed_each_on_its_own(
    wanted: dict[date, list[str]], packing: Packing, share: float | None
) -> None:
    expected = None if share is None else lambda days: lambda symbol: share * len(days)
    found = plan_windows(wanted, packing, expected)
    assert [day for days, _ in found for day in days] == sorted(wanted)
    for days, made in found:
        assert made == plan_each({day: wanted[day] for day in days}, packing, expected)
    lengths = [len(days) for days, _ in found]
    if expected is None:
        assert all(length == WINDOW for length in lengths[:-1])
    assert all(56 <= length <= WINDOW for length in lengths[:-1])


@pytest.mark.parametrize(
    ("bars", "length"),
    [
        (9_900, 63),  # each session fills a request
        (1_000, 59),  # 5.9 pages in 6 requests, not 6.3 in 7
        (10, 63),
        (0, 63),
    ],
)
def test_a_window_ends_where_its_last_request_is_about_full(bars: float, length: int) -> None:
    found = plan_windows(
        dict.fromkeys(YEAR, ("A",)), None, lambda days: lambda symbol: bars * len(days)
    )
    assert len(found[0][0]) == length


# Packed by what is expected

surveys = st.builds(
    Survey,
    st.integers(2020, 2024),
    st.integers(2024, 2026),
    st.dictionaries(
        st.sampled_from(names(30)), st.frozensets(st.integers(2022, 2026)), max_size=30
    ),
)


@unhurried
@given(st.dictionaries(st.sampled_from(YEAR[:30]), some_names, max_size=20), packings, surveys)
def test_with_any_survey_everything_is_asked_for_exactly_once(
    wanted: dict[date, list[str]], packing: Packing, survey: Survey
) -> None:
    made = plan_each(wanted, packing, survey.expected)
    assert asked(made) == Counter(
        {(s, day): 1 for day, symbols in wanted.items() for s in set(symbols)}
    )
    assert all(contiguous(chunk) and chunk.symbols for chunk in made.chunks)
    assert made == plan_each({day: wanted[day][::-1] for day in wanted}, packing, survey.expected)
    assert 0 <= made.expected <= made.bars + 1e-9


@unhurried
@given(st.lists(st.sampled_from(names(30)), min_size=1), days, packings, surveys)
def test_no_request_names_too_many_symbols_or_expects_much_more_than_the_packing(
    symbols: list[str], sessions: list[date], packing: Packing, survey: Survey
) -> None:
    """Dealt like cards, the fullest hand has less than one symbol's bars above the mean.

    The mean is at most `packing.bars`, and a symbol has one bar in a session at most. So a
    request expects less than `packing.bars` + its sessions: 9,993 of a page of 10,000 with the
    usual packing in a window of 63.
    """
    for chunk in plan_each(dict.fromkeys(sessions, symbols), packing, survey.expected).chunks:
        assert len(chunk.symbols) <= packing.symbols
        assert chunk.expected is not None
        assert chunk.expected < packing.bars + len(chunk.sessions)
        assert len(chunk.sessions) <= packing.bars


@pytest.mark.parametrize(("bars", "requests"), [(19.9, 2), (20.0, 1), (20.1, 1)])
def test_one_more_request_is_made_only_when_the_bars_do_not_fit(bars: float, requests: int) -> None:
    made = plan_each(
        {MONDAY: names(4)}, Packing(bars=math.floor(bars)), lambda days: lambda symbol: 5.0
    )
    assert made.requests == requests
    assert made.expected == 20.0


def test_hands_are_filled_alike_those_with_most_bars_first() -> None:
    bars = dict(zip(names(6), (6.0, 1.0, 5.0, 2.0, 4.0, 0.0), strict=True))
    made = plan_each({MONDAY: names(6)}, Packing(bars=9), lambda days: bars.__getitem__)
    assert [chunk.expected for chunk in made.chunks] == [9.0, 9.0]
    assert made.expected == sum(bars.values())
    assert all(list(chunk.symbols) == sorted(chunk.symbols) for chunk in made.chunks)


@given(
    bars=st.lists(st.floats(0, 9, allow_subnormal=False), min_size=1, max_size=60),
    most=st.integers(9, 40),
    symbols=st.integers(1, 20),
)
def test_every_symbol_is_in_one_request_and_none_names_too_many(
    bars: list[float], most: int, symbols: int
) -> None:
    known = dict(zip(names(len(bars)), bars, strict=True))
    made = plan_each({MONDAY: tuple(known)}, Packing(most, symbols), lambda days: known.__getitem__)
    for chunk in made.chunks:
        assert 1 <= len(chunk.symbols) <= symbols
    assert sorted(each for chunk in made.chunks for each in chunk.symbols) == sorted(known)


@pytest.mark.parametrize(
    ("alive", "silent", "requests"),
    [
        (157, 0, 1),
        (157, 343, 1),  # 500 names
        (157, 344, 2),
        (157, 5_000, 11),  # 5,157 names, and all bars would fit one page
        (5_000, 0, 32),
        (5_000, 5_000, 32),  # 10,000 names in 20 requests, 315,000 bars in 32
        (0, 5_000, 10),
    ],
)
def test_silent_symbols_ride_along(alive: int, silent: int, requests: int) -> None:
    symbols, window = names(alive + silent), YEAR[:WINDOW]
    trading = frozenset(symbols[::2][:alive] + symbols[1::2][: max(0, alive - len(symbols[::2]))])
    years = {True: frozenset({2023, 2024, 2025}), False: frozenset[int]()}
    known = Survey(2023, 2025, {symbol: years[symbol in trading] for symbol in symbols})
    made = plan_each(dict.fromkeys(window, symbols), None, known.expected)
    assert made.requests == requests
    assert made.expected == alive * WINDOW
    assert made.bars == len(symbols) * WINDOW
    assert max(chunk.expected or 0 for chunk in made.chunks) < 10_000


def test_a_survey_that_knows_nobody_packs_about_as_without_one() -> None:
    window, symbols = YEAR[:WINDOW], names(5_000)
    made = plan_each(dict.fromkeys(window, symbols), None, Survey(2011, 2026, {}).expected)
    without = plan(symbols, window)
    assert made.requests == without.requests == 32
    assert made.expected == without.expected == without.bars
