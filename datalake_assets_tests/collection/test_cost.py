"""What a plan costs is arithmetic that can be done by hand."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date

import pytest

from datalake_assets.collection.cost import (
    BYTES_PER_BAR,
    BYTES_PER_BAR_IN_YEAR_FILE,
    BYTES_PER_BAR_OF_ONE,
    BYTES_PER_SYMBOL_IN_LEDGER,
    BYTES_PER_SYMBOL_YEAR,
    DOLLARS_PER_GB_MONTH,
    DOLLARS_PER_PUT,
    Cost,
    cost,
    cost_of_minutes,
)
from datalake_assets.collection.plan import Chunk, Packing, Plan, plan
from datalake_assets_tests.collection.tables import WEEK, names


def test_every_figure_of_a_plan() -> None:
    made = plan(names(1_000), WEEK, Packing(bars=1_000))  # 166 symbols x 6 sessions a request
    assert cost(made, 14, 0.75) == Cost(
        sessions=6,
        symbols=1_000,
        chunks=7,
        requests=7,
        minutes=0.5,
        bars=4_500,
        bars_at_most=6_000,
        symbol_years=750,
        bytes=4_500 * 1_008 // 10 + 1_500 * 9 + 750 * 1_210,
        objects=757,
        put_dollars=pytest.approx(757 * 0.005 / 1_000),
        storage_dollars_a_month=pytest.approx(1_374_600 / 1e9 * 0.023),
    )


def test_prices_and_sizes_are_the_ones_that_are_documented() -> None:
    assert (BYTES_PER_BAR, BYTES_PER_SYMBOL_IN_LEDGER) == (29.3, 9.0)
    assert (BYTES_PER_SYMBOL_YEAR, BYTES_PER_BAR_OF_ONE) == (1_210, 45.0)
    assert BYTES_PER_BAR_IN_YEAR_FILE == 26.5
    assert (DOLLARS_PER_PUT * 1_000, DOLLARS_PER_GB_MONTH) == (0.005, 0.023)


def test_what_is_known_of_the_symbols_counts_and_the_rest_stands_in_the_ledger() -> None:
    known = Plan((Chunk(names(10), tuple(WEEK), expected=45.0), Chunk(("Z",), (WEEK[0],))))
    told = cost(known, 200, 1.0)
    assert (told.bars, told.bars_at_most) == (46, 61)
    assert told.bytes == 18_082  # 46 x (29.3 + 45.0 + 26.5) + 15 x 9 + 11 x 1,210
    assert (told.symbols, told.sessions, told.objects) == (11, 6, 18)


def test_a_symbol_year_is_written_once_for_each_year_in_which_the_symbol_traded() -> None:
    turn = (date(2023, 12, 28), date(2023, 12, 29), date(2024, 1, 2))
    made = Plan((Chunk(("A", "B", "C", "NEW"), turn[:2]), Chunk(("A", "B", "C", "NEW"), turn[1:])))

    assert cost(made, 200, 1.0).symbol_years == 8, "nothing is known: every symbol in both years"
    traded = {"A": {2023, 2024}, "B": {2024}, "C": set[int]()}
    assert cost(made, 200, 1.0, traded).symbol_years == 5, "one that was not surveyed counts"


def test_nothing_to_do_costs_nothing() -> None:
    assert set(asdict(cost(Plan(), 200, 1.0)).values()) == {0}


def test_where_nothing_is_known_the_most_is_told_as_such() -> None:
    made = plan(names(100), WEEK)
    known, unknown = cost(made, 200, 1.0), cost(made, 200, None)
    assert (known.sessions_unknown, unknown.sessions_unknown) == (0, len(WEEK))
    assert unknown.bars == unknown.bars_at_most == known.bars


@pytest.mark.parametrize(("estimated", "unknown"), [((), 2), (WEEK[:1], 1), (WEEK, 0)])
def test_a_session_of_minutes_is_unknown_when_no_daily_bars_tell_of_it(
    estimated: Sequence[date], unknown: int
) -> None:
    # A symbol that trades all the time has every minute, also where that is known.
    made = Plan(tuple(Chunk(("SPY",), (day,), expected=390.0, each=390) for day in WEEK[:2]))
    told = cost_of_minutes(made, 200, estimated)
    assert (told.sessions, told.sessions_unknown) == (2, unknown)
    assert cost_of_minutes(Plan(), 200).sessions_unknown == 0


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_the_density_moves_bytes_from_bars_to_the_ledger(density: float) -> None:
    told = cost(plan(names(100), WEEK), 200, density)
    assert told.bytes == (60_480 + 121_000 if density else 5_400)
