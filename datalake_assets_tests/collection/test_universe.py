"""Which names are asked for, and which of them in which sessions."""

from datetime import date, timedelta

import pyarrow as pa
import pytest

from datalake_assets.collection.universe import (
    COLUMN_DESCRIPTIONS,
    SCHEMA,
    askable,
    symbols_for,
)
from datalake_assets_tests.collection.tables import MONDAY, WEEK


def snapshot(**status: str) -> pa.Table:
    """A snapshot of these assets; `_` stands for the dot, what follows `__` tells assets apart."""
    return pa.Table.from_pylist(
        [
            {
                "symbol": name.partition("__")[0].replace("_", "."),
                "status": each,
                "exchange": "NYSE",
                "name": None,
                "tradable": each == "active",
                "asset_id": name,
            }
            for name, each in status.items()
        ],
        SCHEMA,
    )


@pytest.mark.parametrize("symbol", ["A", "AAPL", "GOOGL", "BRK.B", "BRK.A.WS"])
def test_tickers_and_dotted_share_classes_are_asked_for(symbol: str) -> None:
    assert askable(symbol)


@pytest.mark.parametrize(
    "symbol",
    [
        "",
        "0029900E0",
        "ATC.220816",
        "BRK-B",
        "A:B",
        "brk.b",
        "BRK.",
        ".B",
        "A..B",
        "A B",
        "A,B",
        "A\n",
    ],
)
def test_names_that_cannot_be_tickers_are_not_asked_for(symbol: str) -> None:
    assert not askable(symbol)


def test_inactive_names_are_asked_for_before_the_day_of_the_snapshot_only() -> None:
    taken = WEEK[2]
    universe = snapshot(LIVES="active", GONE="inactive")
    wanted = symbols_for(WEEK[1:4], universe, taken)
    assert wanted == {
        WEEK[1]: ("GONE", "LIVES"),
        WEEK[2]: ("LIVES",),
        WEEK[3]: ("LIVES",),
    }


def test_a_reused_ticker_is_asked_for_once() -> None:
    universe = snapshot(FB="active", FB__old="inactive", FB__older="inactive")
    after = MONDAY + timedelta(days=1)
    assert symbols_for([MONDAY], universe, after) == {MONDAY: ("FB",)}
    assert symbols_for([MONDAY], universe, MONDAY) == {MONDAY: ("FB",)}


def test_symbols_are_ascending_and_without_what_cannot_be_one() -> None:
    universe = snapshot(ZZZ="active", BRK_B="active", A1="active", AAA="active", old="inactive")
    assert symbols_for([MONDAY], universe, date(2030, 1, 1))[MONDAY] == ("AAA", "BRK.B", "ZZZ")


def test_no_sessions_or_no_assets_ask_for_nothing() -> None:
    assert symbols_for([], snapshot(A="active"), MONDAY) == {}
    assert symbols_for([MONDAY], SCHEMA.empty_table(), MONDAY) == {MONDAY: ()}


def test_every_column_is_described() -> None:
    assert list(COLUMN_DESCRIPTIONS) == SCHEMA.names
