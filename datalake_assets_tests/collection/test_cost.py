"""What a plan costs is arithmetic that can be done by hand."""

from dataclasses import asdict

import pytest

from datalake_assets.collection.cost import (
    BYTES_PER_BAR,
    BYTES_PER_SYMBOL_IN_LEDGER,
    DOLLARS_PER_GB_MONTH,
    DOLLARS_PER_PUT,
    Cost,
    cost,
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
        bytes=4_500 * 293 // 10 + 1_500 * 9,
        objects=6,
        put_dollars=pytest.approx(6 * 0.005 / 1_000),
        storage_dollars_a_month=pytest.approx(145_350 / 1e9 * 0.023),
    )


def test_prices_and_sizes_are_the_ones_that_are_documented() -> None:
    assert (BYTES_PER_BAR, BYTES_PER_SYMBOL_IN_LEDGER) == (29.3, 9.0)
    assert (DOLLARS_PER_PUT * 1_000, DOLLARS_PER_GB_MONTH) == (0.005, 0.023)


def test_what_is_known_of_the_symbols_counts_and_the_rest_stands_in_the_ledger() -> None:
    known = Plan((Chunk(names(10), tuple(WEEK), expected=45.0), Chunk(("Z",), (WEEK[0],))))
    told = cost(known, 200, 1.0)
    assert (told.bars, told.bars_at_most) == (46, 61)
    assert told.bytes == 1_483  # 46 x 29.3 + 15 x 9
    assert (told.symbols, told.sessions, told.objects) == (11, 6, 6)


def test_nothing_to_do_costs_nothing() -> None:
    assert set(asdict(cost(Plan(), 200, 1.0)).values()) == {0}


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_the_density_moves_bytes_from_bars_to_the_ledger(density: float) -> None:
    told = cost(plan(names(100), WEEK), 200, density)
    assert told.bytes == (17_580 if density else 5_400)
