"""Which names are asked for, and which of them in which sessions."""

from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from datalake_assets.collection.universe import (
    COLUMN_DESCRIPTIONS,
    SCHEMA,
    Snapshots,
    askable,
    symbols_for,
    with_former,
)


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


def kept(**lists: pa.Table) -> Snapshots:
    """Snapshots of these days, named like `d2024_07_03`."""
    held = {date.fromisoformat(day[1:].replace("_", "-")): rows for day, rows in lists.items()}
    return Snapshots(sorted(held), held.__getitem__)


SESSION = date(2024, 7, 3)


def asked(snapshots: Snapshots, *besides: str) -> tuple[str, ...]:
    known = Snapshots(snapshots.days, snapshots.of, lambda: besides)
    return symbols_for([SESSION], known)[SESSION]


def test_a_session_between_two_lists_is_asked_for_what_one_of_them_calls_active() -> None:
    lists = kept(
        d2024_07_02=snapshot(LIVES="active", LEAVES="active", GONE="inactive"),
        d2024_07_03=snapshot(LIVES="active", LEAVES="inactive", COMES="active", GONE="inactive"),
    )
    assert asked(lists, "OLD") == ("COMES", "LEAVES", "LIVES")


def test_no_later_list_changes_what_a_session_is_asked_for() -> None:
    first = {
        "d2024_07_02": snapshot(FB="active"),
        "d2024_07_03": snapshot(FB="active"),
    }
    later = {"d2024_07_05": snapshot(META="active"), "d2024_07_08": snapshot(NEW="active")}
    assert asked(kept(**first)) == asked(kept(**first, **later)) == ("FB",)


@pytest.mark.parametrize(("before", "everything"), [("06_27", False), ("06_26", True)])
def test_lists_more_than_a_week_apart_may_have_missed_a_ticker(
    before: str, everything: bool
) -> None:
    lists = kept(
        **{f"d2024_{before}": snapshot(LIVES="active", GONE="inactive")},
        d2024_07_04=snapshot(LIVES="active", GONE="inactive"),
    )
    assert asked(lists) == (("GONE", "LIVES") if everything else ("LIVES",))


def test_a_session_before_the_first_list_is_asked_for_every_name_ever_seen() -> None:
    lists = kept(d2024_07_05=snapshot(LIVES="active", GONE="inactive", FB="former"))
    assert asked(lists, "ACTED", "N0.TICKER") == ("ACTED", "FB", "GONE", "LIVES")


def test_the_first_list_of_a_lake_does_not_tell_who_left_just_before_it() -> None:
    lists = kept(d2024_07_03=snapshot(LIVES="active", GONE="inactive"))
    assert asked(lists) == ("GONE", "LIVES")


def test_a_reused_ticker_is_asked_for_once() -> None:
    universe = snapshot(FB="active", FB__old="inactive", FB__older="inactive")
    assert asked(kept(d2024_07_05=universe)) == ("FB",)
    assert asked(kept(d2024_07_02=universe, d2024_07_03=universe)) == ("FB",)


def test_symbols_are_ascending_and_without_what_cannot_be_one() -> None:
    universe = snapshot(ZZZ="active", BRK_B="active", A1="active", AAA="active", old="inactive")
    assert asked(kept(d2030_01_01=universe)) == ("AAA", "BRK.B", "ZZZ")


def test_no_sessions_or_no_assets_ask_for_nothing() -> None:
    assert symbols_for([], kept(d2024_07_03=snapshot(A="active"))) == {}
    assert asked(kept(d2024_07_03=SCHEMA.empty_table())) == ()


def test_without_any_list_nothing_can_be_asked_for() -> None:
    with pytest.raises(ValueError, match="without a snapshot"):
        asked(kept())


def test_a_name_that_left_the_list_is_remembered_for_ever() -> None:
    first = snapshot(FB="active", A1="inactive", S="active", S__old="inactive", STAYS="active")
    second = with_former(snapshot(META="active", STAYS="inactive"), first)
    third = with_former(snapshot(META="active"), second)
    assert dict(zip(second["symbol"].to_pylist(), second["status"].to_pylist(), strict=True)) == {
        "FB": "former",
        "META": "active",
        "S": "former",
        "STAYS": "inactive",
    }
    assert second.schema == SCHEMA
    assert set(third["symbol"].to_pylist()) == {"FB", "META", "S", "STAYS"}


def test_a_name_that_comes_back_to_the_list_is_a_former_one_no_more() -> None:
    second = with_former(snapshot(B="active"), snapshot(A="active"))
    third = with_former(snapshot(A="active"), second)
    assert third.filter(pc.equal(third["symbol"], "A"))["status"].to_pylist() == ["active"]


def test_a_list_that_lost_nobody_is_kept_as_it_is() -> None:
    assert with_former(snapshot(A="active"), snapshot(A="active")) == snapshot(A="active")


def test_the_first_list_remembers_nobody() -> None:
    assert with_former(snapshot(A="active"), None) == snapshot(A="active")


def test_every_column_is_described() -> None:
    assert list(COLUMN_DESCRIPTIONS) == SCHEMA.names
