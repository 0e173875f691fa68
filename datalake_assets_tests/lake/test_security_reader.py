"""Bars by security, adjusted, as panels and as returns, against the truth of a small market."""

import warnings
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from datalake_assets.collection.bars import SCHEMA
from datalake_assets.lake.lake import Lake
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.lake.returns import FIRST, NO_BAR, PAYOUT, RETURNS, TRADED, UNTOLD
from datalake_assets.lake.security_reader import (
    BARS,
    BehindWarning,
    HoldersWarning,
    MissingReturnsWarning,
    UndecidedWarning,
)
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, Store, open_store
from datalake_assets_tests.collection.tables import bar
from datalake_assets_tests.lake.test_reader import CountingStore, write
from datalake_assets_tests.securities.market import (
    DAYS,
    KINDS,
    MARKET,
    UNDECIDED,
    Truth,
    cumulative_of,
    factors_of,
    lake_of,
    raw,
    same,
    securities_of,
    truth_of,
    write_bars,
    write_tables,
)

BY_ID = {truth.id: truth for truth in MARKET}


@pytest.fixture(scope="module")
def lake() -> Lake:
    return lake_of(open_store("memory://"))


def expected(
    ids: Iterable[str], first: int = 0, last: int = len(DAYS) - 1, kinds: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The bars of these securities, by their newest ticker in the range and session."""
    return truth_of(ids, lambda symbol, at: [raw(symbol, at)], first, last, kinds)


# --- whom a symbol means --------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [(), ("split",), ("split", "spin-off"), KINDS])
def test_a_renamed_security_is_read_over_all_of_its_tickers(
    lake: Lake, kinds: Sequence[str]
) -> None:
    with pytest.warns(HoldersWarning):
        found = lake.bars("META", adjustment=kinds or "raw")

    same(found, expected(["FB-1"], kinds=kinds))
    assert found["symbol"].to_pylist()[9:11] == ["FB", "META"]


def test_the_end_of_the_range_says_whom_a_taken_over_ticker_means(lake: Lake) -> None:
    found = lake.bars("META", DAYS[0], DAYS[8], adjustment="all")

    same(found, expected(["META-1"], 0, 8, KINDS))
    with pytest.warns(HoldersWarning, match=r"META means FB-1 .* META-1, .* asof='2023-12-27'"):
        same(lake.bars("META", DAYS[0], DAYS[10]), expected(["FB-1"], 0, 10))


def test_asof_says_it_instead(lake: Lake) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(lake.bars("META", asof=DAYS[6]), expected(["META-1"]))
        same(lake.bars("META", DAYS[0], DAYS[4], asof=str(DAYS[10])), expected(["FB-1"], 0, 4))
        same(lake.bars("S", adjustment="split", asof=DAYS[0]), expected(["S-1"]))


@pytest.mark.parametrize("at", [7, 8, 9])
def test_asof_a_day_on_which_nobody_held_the_ticker_names_those_who_did(
    lake: Lake, at: int
) -> None:
    told = r"held the ticker META on .*; its holders: META-1, 2023.* to 2023.*; FB-1, since 2024"

    with pytest.raises(NotInLakeError, match=told):
        lake.bars("META", asof=DAYS[at])


def test_a_reused_ticker_means_its_newest_holder_and_tells_of_the_other(lake: Lake) -> None:
    with pytest.warns(HoldersWarning, match="S means S-2 here, .* S-1, .* follow=False"):
        found = lake.bars("S", adjustment="all")

    same(found, expected(["S-2"], kinds=KINDS))


@pytest.mark.parametrize(("last", "id_"), [(11, "S-1"), (12, "S-1"), (14, "S-1"), (15, "S-2")])
def test_a_ticker_that_nobody_holds_means_whoever_had_it_last(
    lake: Lake, last: int, id_: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HoldersWarning)
        same(lake.bars("S", DAYS[0], DAYS[last]), expected([id_], 0, last))


def test_an_old_ticker_means_the_security_that_goes_on_under_another(lake: Lake) -> None:
    same(lake.bars("FB"), expected(["FB-1"]))
    with pytest.warns(HoldersWarning):
        assert lake.bars(["FB", "META"]).num_rows == len(expected(["FB-1"]))


def test_a_ticker_of_later_tells_the_one_of_then(lake: Lake) -> None:
    with pytest.warns(HoldersWarning, match=r"nobody held the ticker AA by .* as ZZ .* asof='"):
        found = lake.bars("AA", DAYS[0], DAYS[13])

    assert found.num_rows == 0
    assert found.schema == BARS
    same(lake.bars("AA", DAYS[0], DAYS[13], asof=DAYS[15]), expected(["ZZ-1"], 0, 13))


def test_a_security_is_in_order_of_time_also_when_its_new_ticker_sorts_before(lake: Lake) -> None:
    found = lake.bars(["OLD", "AA", "ACQ"], adjustment="split")

    same(found, expected(["OLD-1", "ZZ-1", "ACQ-1"], kinds=["split"]))
    assert found["symbol"][0].as_py() == "ZZ"


def test_everything_is_each_bar_once_with_its_security(lake: Lake) -> None:
    found = lake.bars(None, adjustment="all")

    same(found, expected(BY_ID, kinds=KINDS))


def test_without_following_rows_are_of_tickers_as_before(lake: Lake) -> None:
    found = lake.bars(["META", "S"], follow=False)

    assert found.schema == SCHEMA
    rows = [raw("META", at) for at in (*range(7), *range(10, 30))]
    rows += [raw("S", at) for at in (*range(12), *range(15, 30))]
    assert found.to_pylist() == rows


@pytest.mark.parametrize("options", [{"adjustment": "split"}, {"asof": DAYS[0]}])
def test_what_needs_a_security_can_not_go_without_following(
    lake: Lake, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="follow=False gives the raw rows of tickers"):
        lake.bars("META", follow=False, **options)


@pytest.mark.parametrize(
    ("adjustment", "told"),
    [
        ("splits", r"'splits' is unknown \(do you mean 'split'\?\): give raw, all, or one or"),
        ("spin_off", "do you mean 'spin-off'"),
        (["split", 7], "'7' is unknown"),
        ("", "'' is unknown"),
        ([], "no adjustment is given"),
        ("raw,split", "both raw and adjusted"),
    ],
)
def test_an_unknown_adjustment_is_refused_before_anything_is_read(
    lake: Lake, adjustment: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        lake.bars("META", adjustment=adjustment)
    with pytest.raises(ValueError, match=told):
        lake.panel("close", "META", adjustment=adjustment)


@pytest.mark.parametrize(
    "same_as_all", ["ALL", " split , spin-off,dividend", list(KINDS), "all,split"]
)
def test_kinds_are_combined_in_any_form(lake: Lake, same_as_all: Any) -> None:
    assert lake.bars("FB", adjustment=same_as_all) == lake.bars("FB", adjustment="all")


def test_volume_is_whole_shares_unless_splits_are_adjusted(lake: Lake) -> None:
    for adjustment, kind in (("dividend,spin-off", pa.int64()), ("split", pa.float64())):
        found = lake.bars("FB", adjustment=adjustment)
        assert found.schema.field("volume").type == kind
        assert found["volume"][-1].as_py() == raw("META", 29)["volume"]
        assert found["trade_count"].to_pylist() == lake.bars("FB")["trade_count"].to_pylist()


# --- what the lake does not know ------------------------------------------------------------------


def test_in_a_lake_without_tables_raw_reads_are_as_before() -> None:
    lake = write_bars(open_store("memory://"), MARKET)

    assert lake.bars("META").schema == SCHEMA
    assert lake.bars("META") == lake.bars("META", follow=False)
    told = "needs the tables of securities and factors, and .* has none: derive them: datalake"
    for read in (
        lambda: lake.bars("META", adjustment="split"),
        lambda: lake.bars("META", asof=DAYS[0]),
        lambda: lake.panel("close", "META"),
        lambda: lake.returns("META"),
        lambda: lake.security("META"),
    ):
        with pytest.raises(NotInLakeError, match=told):
            read()


def test_an_unknown_symbol_is_refused_as_ever(lake: Lake) -> None:
    with pytest.raises(NotInLakeError, match="this lake knows no symbol NONE"):
        lake.bars(["META", "NONE"])


def behind(store: Store, through: int) -> Lake:
    """A lake whose tables were derived through a session, and then nothing more."""
    lake = write_bars(store, MARKET)
    write_tables(store, securities_of(MARKET, through), factors_of(MARKET), cumulative_of(MARKET))
    return lake


@pytest.mark.parametrize(("through", "warned"), [(27, True), (28, True), (29, False)])
def test_bars_that_are_newer_than_the_factors_are_told(through: int, warned: bool) -> None:
    lake = behind(open_store("memory://"), through)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        lake.bars("OLD", adjustment="all")
        lake.bars("OLD", DAYS[0], DAYS[27], adjustment="all")
        lake.bars("OLD")
    assert [type(one.message) for one in told] == ([BehindWarning] if warned else [])
    if warned:
        assert f"until {DAYS[through]}, and there are bars until {DAYS[29]}" in str(told[0].message)


def test_a_ticker_that_the_tables_do_not_know_yet_has_bars_without_a_security() -> None:
    store = open_store("memory://")
    lake = lake_of(store)
    day = date(2024, 2, 1)
    write(store, day, ["NEW", "OLD"])

    new = lake.bars(["NEW", "OLD"], day)
    assert new["security"].to_pylist() == [None, "OLD-1"]
    with pytest.warns(BehindWarning):
        assert lake.bars("NEW", adjustment="all")["close"].to_pylist() == [bar("NEW", day)["close"]]


def test_tables_that_were_derived_again_are_read_again_without_being_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = CountingStore(open_store("memory://"))
    lake = lake_of(store)
    store.read.clear()
    before = lake.bars("OLD", adjustment="all")
    lake.bars("OLD", adjustment="all")
    kept = [key for key in store.read if key.startswith(layout.SECURITIES)]
    assert len(kept) == 3

    market = [
        Truth(truth.id, truth.tickers, (), truth.ended, truth.payout, truth.silent)
        for truth in MARKET
    ]
    write_tables(store, securities_of(market), factors_of(market), cumulative_of(market))
    after = lake.bars("OLD", adjustment="all")

    assert after["close"].to_pylist() == lake.bars("OLD")["close"].to_pylist()
    assert after != before


def test_a_damaged_table_is_named() -> None:
    store = open_store("memory://")
    lake = lake_of(store)
    store.put(layout.CUMULATIVE_TABLE, b"PAR1")

    with pytest.raises(BrokenFileError, match="cumulative.parquet is no whole table"):
        lake.bars("OLD", adjustment="all")


def test_a_lake_that_was_read_from_goes_to_another_process(lake: Lake) -> None:
    assert lake.bars("FB", adjustment="all").num_rows
    assert set(lake.__getstate__()) == {"_clock", "_files", "_restatements", "store"}


# --- undecided contradictions ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def doubtful() -> Lake:
    """The market, and a split of FB-1 on the 13th session that the prices contradict."""
    return lake_of(open_store("memory://"), MARKET, UNDECIDED)


@pytest.mark.parametrize(
    ("first", "last", "adjustment", "warned"),
    [
        (0, 29, "all", True),
        (0, 29, "split", True),
        (0, 29, "dividend", False),
        (0, 29, "raw", False),
        (0, 12, "all", False),
        (0, 13, "all", True),
        (12, 29, "all", True),
        (13, 29, "all", False),
    ],
)
def test_a_range_over_an_undecided_contradiction_warns(
    doubtful: Lake, first: int, last: int, adjustment: str, warned: bool
) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        doubtful.bars(["FB", "OLD"], DAYS[first], DAYS[last], adjustment=adjustment)
    found = [one for one in told if isinstance(one.message, UndecidedWarning)]

    assert len(found) == warned
    for one in found:
        assert f"META (FB-1): prices contradict the forward_splits of {DAYS[13]}" in str(
            one.message
        )
        assert "datalake decide accept FB-1-13, or ignore FB-1-13" in str(one.message)
        assert one.filename == __file__


def test_others_are_not_told_of_it(doubtful: Lake) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        doubtful.bars("OLD", adjustment="all")


# --- panels ---------------------------------------------------------------------------------------


def test_a_panel_has_a_row_for_each_session_and_a_column_for_each_security(lake: Lake) -> None:
    found = lake.panel("close", ["FB", "ACQ", "AA"], adjustment="all")

    assert found.column_names == ["session", "AA", "ACQ", "META"]
    assert found["session"].to_pylist() == DAYS
    assert found.schema.field("META").metadata == {b"security": b"FB-1"}
    for column, id_ in (("AA", "ZZ-1"), ("ACQ", "ACQ-1"), ("META", "FB-1")):
        cells = dict(zip(DAYS, found[column].to_pylist(), strict=True))
        for row in expected([id_], kinds=KINDS):
            assert cells.pop(row["session"]) == pytest.approx(row["close"], rel=1e-14)
        assert list(cells.values()) == [None] * len(BY_ID[id_].silent)


def test_of_two_securities_with_one_ticker_the_latest_keeps_it(lake: Lake) -> None:
    found = lake.panel("volume", None)

    assert {"S", "S-1"} <= set(found.column_names)
    assert found.schema.field("S").metadata == {b"security": b"S-2"}
    assert found["S-1"].null_count == 18
    assert found.schema.field("S").type == pa.int64()


@pytest.mark.parametrize(
    "field", [name for name in SCHEMA.names if name not in ("symbol", "session")]
)
def test_every_field_has_a_panel_of_its_own_type(lake: Lake, field: str) -> None:
    found = lake.panel(field, "OLD")

    assert found.schema.field("OLD").type == SCHEMA.field(field).type
    assert found["OLD"].drop_null().to_pylist() == lake.bars("OLD")[field].to_pylist()


def test_a_panel_of_an_unknown_field_is_refused(lake: Lake) -> None:
    with pytest.raises(ValueError, match="bars have no field 'price': give one of timestamp, open"):
        lake.panel("price", "OLD")


def test_pandas_and_polars_take_a_panel_as_it_is(lake: Lake) -> None:
    found = lake.panel("close", ["ACQ", "OLD"])

    frame = found.to_pandas(date_as_object=False).set_index("session")
    assert isinstance(frame.index, pd.DatetimeIndex)
    assert np.isnan(frame["ACQ"].iloc[22])
    polars = pl.from_arrow(found)
    assert isinstance(polars, pl.DataFrame)
    assert polars["ACQ"].null_count() == 2


# --- returns --------------------------------------------------------------------------------------


def returns(lake: Lake, *symbols: str, **options: Any) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HoldersWarning)
        warnings.simplefilter("ignore", MissingReturnsWarning)
        return list(lake.returns(symbols, **options).to_pylist())


def test_returns_compound_to_the_total_return(lake: Lake) -> None:
    rows = returns(lake, "META")
    product = np.prod([1 + row["total_return"] for row in rows[1:]])
    total = np.prod([1 / event.total for event in BY_ID["FB-1"].events])

    assert [row["session"] for row in rows] == DAYS
    assert [row["status"] for row in rows] == [FIRST, *[TRADED] * 29]
    assert rows[0]["total_return"] is None
    closes = raw("META", 29)["close"] / raw("FB", 0)["close"]
    assert product == pytest.approx(closes * total, rel=1e-12)


def test_a_return_without_an_action_is_the_raw_one_to_the_last_bit(lake: Lake) -> None:
    rows = returns(lake, "META")
    acted = {event.at for event in BY_ID["FB-1"].events}
    closes = [row["close"] for row in expected(["FB-1"])]

    for at in set(range(1, 30)) - acted:
        assert rows[at]["total_return"] == closes[at] / closes[at - 1] - 1


@pytest.mark.parametrize("first", [1, 12, 29])
def test_the_first_return_of_a_range_is_measured_from_before_it(lake: Lake, first: int) -> None:
    whole, part = returns(lake, "META"), returns(lake, "META", start=DAYS[first])

    assert part == whole[first:]


def test_a_last_close_is_looked_for_as_far_back_as_it_lies() -> None:
    market = [
        Truth("RARE-1", (("RARE", 0, -1),), silent=range(2, 20)),
        Truth("A-1", (("A", 0, -1),)),
    ]
    lake = lake_of(open_store("memory://"), market)

    (row,) = returns(lake, "RARE", start=DAYS[20], end=DAYS[20])
    assert (row["since"], row["status"]) == (DAYS[1], TRADED)
    assert row["total_return"] == raw("RARE", 20)["close"] / raw("RARE", 1)["close"] - 1
    quiet = returns(lake, "RARE", start=DAYS[15], end=DAYS[17])
    assert [row["status"] for row in quiet] == [NO_BAR] * 3


def test_a_cash_merger_ends_with_its_payout(lake: Lake) -> None:
    rows = returns(lake, "S", asof=DAYS[0])
    last = rows[-1]

    assert [row["session"] for row in rows] == DAYS[:13]
    assert (last["status"], last["since"], last["symbol"]) == (PAYOUT, DAYS[11], "S")
    assert last["total_return"] == 4_321.0 / raw("S", 11)["close"] - 1


@pytest.mark.parametrize(("last", "paid"), [(11, False), (12, True), (13, True)])
def test_a_payout_is_in_the_range_when_the_session_after_the_last_one_is(
    lake: Lake, last: int, paid: bool
) -> None:
    rows = returns(lake, "S", start=DAYS[10], end=DAYS[last])

    assert [row["status"] for row in rows] == [TRADED] * 2 + [PAYOUT] * paid


def test_a_range_of_the_payout_alone_has_it(lake: Lake) -> None:
    (row,) = returns(lake, "S", start=DAYS[12], end=DAYS[12])

    assert row["total_return"] == 4_321.0 / raw("S", 11)["close"] - 1


def test_a_merger_for_shares_pays_what_they_were_worth(lake: Lake) -> None:
    last = returns(lake, "TGT")[-1]

    worth = 1.25 + 0.5 * raw("ACQ", 18)["close"]
    assert (last["session"], last["status"]) == (DAYS[18], PAYOUT)
    assert last["total_return"] == worth / raw("TGT", 17)["close"] - 1


def test_shares_that_the_lake_has_no_price_of_leave_the_payout_unknown() -> None:
    market = [truth for truth in MARKET if truth.id != "ACQ-1"]
    lake = lake_of(open_store("memory://"), market)

    last = returns(lake, "TGT")[-1]
    assert (last["total_return"], last["status"]) == (None, UNTOLD)


def test_missing_returns_stay_missing_and_are_counted(lake: Lake) -> None:
    told = (
        r"3 of 40 returns are missing: 2 sessions without a bar, 1 end whose payout is not known "
        r"\(GONE after 2024-01-02\)"
    )
    with pytest.warns(MissingReturnsWarning, match=told):
        found = lake.returns(["ACQ", "GONE"])

    assert found.schema == RETURNS
    by = {(row["symbol"], row["session"]): row for row in found.to_pylist()}
    for at in (22, 23):
        assert by["ACQ", DAYS[at]]["status"] == NO_BAR
        assert by["ACQ", DAYS[at]]["total_return"] is None
    assert by["ACQ", DAYS[24]]["since"] == DAYS[21]
    assert by["GONE", DAYS[9]]["status"] == UNTOLD
    assert by["GONE", DAYS[9]]["total_return"] is None


def test_whole_returns_warn_of_nothing(lake: Lake) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lake.returns("FB").num_rows == 30


# --- a security -----------------------------------------------------------------------------------


def test_a_security_tells_its_names_its_factors_and_its_end(lake: Lake) -> None:
    found = lake.security("meta")

    assert (found.id, found.symbol, found.end) == ("FB-1", "META", None)
    assert [str(name) for name in found.names] == [
        f"FB {DAYS[0]} to {DAYS[9]}, then rename",
        f"META {DAYS[10]} to today",
    ]
    assert found.factors["adjustment"].to_pylist() == ["split", "dividend", "spin-off"]
    assert repr(found).splitlines() == [
        "FB-1: FB-1 Inc., NYSE",
        f"  FB {DAYS[0]} to {DAYS[9]}, then rename",
        f"  META {DAYS[10]} to today",
        "  factors: 1 split, 1 dividend, 1 spin-off",
    ]


@pytest.mark.parametrize(
    ("symbol", "at", "end"),
    [
        ("S", 0, "merger after 2024-01-04: $4,321.0000 in cash"),
        ("TGT", None, "merger after 2024-01-12: $1.2500 in cash and 0.5 shares of ACQ"),
        ("GONE", None, "delisting after 2023-12-29: no action tells what its holders got"),
    ],
)
def test_a_security_that_ended_says_how(lake: Lake, symbol: str, at: int | None, end: str) -> None:
    found = lake.security(symbol, None if at is None else DAYS[at])

    assert str(found.end) == end
    assert repr(found).splitlines()[-1] == f"  ended: {end}"


def test_a_security_that_nobody_knows_is_refused(lake: Lake) -> None:
    with pytest.raises(NotInLakeError, match="no security of this lake ever held the ticker NONE$"):
        lake.security("NONE")
    with pytest.raises(NotInLakeError, match="no security that this lake knows held the ticker S"):
        lake.security("S", asof=DAYS[13])
