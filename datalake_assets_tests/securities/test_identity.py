from __future__ import annotations

import random
from datetime import date

import pyarrow as pa
import pytest

from datalake_assets.collection.universe import SCHEMA as LIST
from datalake_assets.securities.evidence import LONG_GAP
from datalake_assets.securities.identity import Identities, asked_of, identify
from datalake_assets.securities.registry import Registry
from datalake_assets_tests.securities.bars import History, action, actions, sessions

DAYS = sessions("2020-01-02", "2020-12-31")
MID = DAYS[100]


def names(*entries: tuple[str, str]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "symbol": symbol,
                "status": status,
                "exchange": "NYSE",
                "name": f"{symbol} {status}",
                "tradable": True,
                "asset_id": f"{index}",
            }
            for index, (symbol, status) in enumerate(entries)
        ],
        schema=LIST,
    )


def derive(
    history: History,
    *rows: dict,
    listed: pa.Table | None = None,
    registry: Registry | None = None,
    **decided,
) -> Identities:
    table = actions(*rows)
    found = history.gathered(asked_of(table))
    return identify(found, table, listed, registry or Registry(), **decided)


def rows(found: Identities) -> list[tuple]:
    columns = ("security", "symbol", "first_session", "last_session", "followed_by", "next_symbol")
    table = found.table.select(columns).to_pylist()
    return [tuple(row[name] for name in columns) for row in table]


def kinds(found: Identities) -> list[str]:
    return [finding.kind for finding in found.findings]


def test_a_renamed_company_is_one_security_under_two_tickers():
    history = History().add("FB", DAYS[:100]).add("META", DAYS[100:])
    found = derive(history, action("r", "name_changes", "FB", MID, new_symbol="META"))
    first = f"FB-{DAYS[0]}"
    assert rows(found) == [
        (first, "FB", DAYS[0], DAYS[99], "rename", "META"),
        (first, "META", MID, DAYS[-1], None, None),
    ]
    assert not found.findings
    assert found.table["action_id"].to_pylist() == ["r", None]
    assert "FB to META" in found.table["evidence"][0].as_py()


def test_a_ticker_taken_over_on_the_day_it_is_left_belongs_to_two_securities():
    history = History().add("FB", DAYS[:100], 200.0).add("META", DAYS[100:], 200.0)
    history.add("META", DAYS[:100], 12.0).add("METV", DAYS[100:], 12.0)
    found = derive(
        history,
        action("a", "name_changes", "META", MID, new_symbol="METV"),
        action("b", "name_changes", "FB", MID, new_symbol="META"),
    )
    fund, company = f"META-{DAYS[0]}", f"FB-{DAYS[0]}"
    assert rows(found) == [
        (company, "FB", DAYS[0], DAYS[99], "rename", "META"),
        (fund, "META", DAYS[0], DAYS[99], "rename", "METV"),
        (company, "META", MID, DAYS[-1], None, None),
        (fund, "METV", MID, DAYS[-1], None, None),
    ]
    assert not found.findings


def test_two_tickers_that_are_swapped_are_two_securities():
    history = History().add("A", DAYS[:100], 10.0).add("B", DAYS[:100], 99.0)
    history.add("B", DAYS[100:], 10.0).add("A", DAYS[100:], 99.0)
    found = derive(
        history,
        action("a", "name_changes", "A", MID, new_symbol="B"),
        action("b", "name_changes", "B", MID, new_symbol="A"),
    )
    assert {row[1:4]: row[0] for row in rows(found)} == {
        ("A", DAYS[0], DAYS[99]): f"A-{DAYS[0]}",
        ("B", DAYS[0], DAYS[99]): f"B-{DAYS[0]}",
        ("A", MID, DAYS[-1]): f"B-{DAYS[0]}",
        ("B", MID, DAYS[-1]): f"A-{DAYS[0]}",
    }


def test_a_rename_whose_old_ticker_goes_on_is_named_and_not_followed():
    history = History().add("A", DAYS).add("B", DAYS[100:])
    found = derive(history, action("r", "name_changes", "A", MID, new_symbol="B"))
    assert [row[0] for row in rows(found)] == [f"A-{DAYS[0]}", f"B-{MID}"]
    assert kinds(found) == ["rename contradicted"]
    assert "datalake decide accept r" in found.findings[0].decide


def test_a_rename_to_a_ticker_that_traded_beside_it_is_named_and_not_followed():
    history = History().add("A", DAYS[:100], 50.0).add("B", DAYS, 49.0)
    found = derive(history, action("r", "name_changes", "A", MID, new_symbol="B"))
    assert len({row[0] for row in rows(found)}) == 2
    assert kinds(found) == ["rename contradicted"]


def test_prices_tell_that_a_ticker_was_taken_over_without_an_end():
    # As NationsBank took the ticker of BankAmerica, which ended the day before.
    closes = [60.0] * 100 + [55.0] * (len(DAYS) - 100)
    history = (
        History()
        .add("NB", DAYS[:100], 55.0)
        .add("BAC", DAYS, [c * 2 for c in closes[:100]] + closes[100:])
    )
    found = derive(history, action("r", "name_changes", "NB", MID, new_symbol="BAC"))
    assert [(row[0], row[1]) for row in rows(found)] == [
        (f"BAC-{DAYS[0]}", "BAC"),
        (f"NB-{DAYS[0]}", "BAC"),
        (f"NB-{DAYS[0]}", "NB"),
    ]
    assert rows(found)[0][4] == "unknown"


def test_a_merger_whose_ticker_the_acquirer_takes_ends_the_one_and_renames_the_other():
    history = History().add("NB", DAYS[:100], 55.0).add("BAC", DAYS, 56.0)
    found = derive(
        history,
        action("m", "stock_mergers", "BAC", MID, new_symbol="NB", new_rate=1.1316, old_rate=1.0),
        action("r", "name_changes", "NB", MID, new_symbol="BAC"),
    )
    assert [(row[0], row[1], row[4]) for row in rows(found)] == [
        (f"BAC-{DAYS[0]}", "BAC", "merger"),
        (f"NB-{DAYS[0]}", "BAC", None),
        (f"NB-{DAYS[0]}", "NB", "rename"),
    ]
    assert found.table["payout_shares"][0].as_py() == 1.1316
    assert found.table["payout_symbol"][0].as_py() == "NB"
    assert not found.findings


@pytest.mark.parametrize("off", [-5, -1, 0, 1, 5])
def test_the_day_of_a_rename_may_miss_the_bars_by_five_sessions(off: int):
    history = History().add("A", DAYS[:100]).add("B", DAYS[100:])
    found = derive(history, action("r", "name_changes", "A", DAYS[100 + off], new_symbol="B"))
    assert [row[:5] for row in rows(found)] == [
        (f"A-{DAYS[0]}", "A", DAYS[0], DAYS[99], "rename"),
        (f"A-{DAYS[0]}", "B", MID, DAYS[-1], None),
    ]
    assert not found.findings


def test_a_day_that_misses_the_bars_by_six_sessions_is_contradicted():
    history = History().add("A", DAYS[:100]).add("B", DAYS[100:])
    found = derive(history, action("r", "name_changes", "A", DAYS[93], new_symbol="B"))
    assert kinds(found) == ["rename contradicted"]


def test_a_reverse_split_with_a_new_ticker_goes_on():
    history = History().add("A", DAYS[:100], 1.0).add("AN", DAYS[100:], 10.0)
    row = action("s", "reverse_splits", "A", MID, new_symbol="AN", new_rate=1.0, old_rate=10.0)
    found = derive(history, row)
    assert {row[0] for row in rows(found)} == {f"A-{DAYS[0]}"}
    assert rows(found)[0][4:] == ("split", "AN")


def test_a_cash_merger_ends_a_security_with_its_payout():
    history = History().add("A", DAYS[:100]).add("B", DAYS)
    found = derive(history, action("m", "cash_mergers", "A", MID, cash=42.5))
    ended = found.table.to_pylist()[0]
    assert (ended["followed_by"], ended["payout_cash"], ended["action_id"]) == ("merger", 42.5, "m")


def test_a_merger_and_a_rename_that_are_announced_have_not_happened():
    history = History().add("A", DAYS[:101]).add("B", DAYS[:101])
    told = (
        action("m", "cash_mergers", "A", DAYS[101], cash=42.5),
        action("r", "name_changes", "B", DAYS[101], new_symbol="C"),
    )
    assert [row[4] for row in rows(derive(history, *told))] == [None, None]


def test_a_merger_whose_ticker_goes_on_is_named():
    history = History().add("A", DAYS)
    found = derive(history, action("m", "cash_mergers", "A", MID, cash=42.5))
    assert rows(found) == [(f"A-{DAYS[0]}", "A", DAYS[0], DAYS[-1], None, None)]
    assert kinds(found) == ["end contradicted"]


def test_a_bankrupt_company_pays_nothing():
    history = History().add("A", DAYS[:100]).add("B", DAYS)
    found = derive(history, action("w", "worthless_removals", "A", MID))
    ended = found.table.to_pylist()[0]
    assert (ended["followed_by"], ended["payout_cash"]) == ("delisting", 0.0)


@pytest.mark.parametrize(("gap", "securities"), [(LONG_GAP, 1), (LONG_GAP + 1, 2)])
def test_a_long_gap_alone_is_unknown_and_named(gap: int, securities: int):
    history = History().add("A", DAYS[:100]).add("A", DAYS[99 + gap :]).add("B", DAYS)
    found = derive(history, listed=names(("A", "active"), ("B", "active")))
    mine = [row for row in rows(found) if row[1] == "A"]
    assert len({row[0] for row in mine}) == securities
    assert kinds(found) == ["long gap"] * (securities - 1)
    assert [row[4] for row in mine] == ["unknown", None][-securities:]


def test_a_gap_is_explained_by_a_list_with_two_securities_of_that_ticker():
    history = History().add("S", DAYS[:100]).add("S", DAYS[180:]).add("B", DAYS)
    found = derive(history, listed=names(("S", "inactive"), ("S", "active"), ("B", "active")))
    mine = [row for row in rows(found) if row[1] == "S"]
    assert [row[4] for row in mine] == ["delisting", None]
    assert not found.findings
    assert found.table["name"].to_pylist() == ["B active", "S inactive", "S active"]


def test_what_rarely_trades_has_no_long_gap():
    history = History().add("A", [*DAYS[:60:10], *DAYS[110::10]]).add("B", DAYS)
    assert len({row[0] for row in rows(derive(history))}) == 2


def test_what_the_list_calls_inactive_ended_with_its_last_bar():
    history = History().add("A", DAYS[:-1]).add("B", DAYS)
    listed = names(("A", "inactive"), ("B", "active"))
    assert rows(derive(history, listed=listed))[0][4] == "delisting"
    assert rows(derive(history))[0][4] is None


@pytest.mark.parametrize(("silent", "ended"), [(LONG_GAP, None), (LONG_GAP + 1, "unknown")])
def test_what_is_silent_for_long_has_ended_though_nobody_says_so(silent: int, ended: str | None):
    history = History().add("A", DAYS[:-silent]).add("B", DAYS)
    assert rows(derive(history))[0][4] == ended


def test_an_earlier_ticker_without_bars_is_named():
    history = History().add("B", DAYS[100:]).add("C", DAYS)
    found = derive(history, action("r", "name_changes", "A", MID, new_symbol="B"))
    assert kinds(found) == ["earlier ticker missing"]


def test_a_decision_to_accept_follows_a_contradicted_rename():
    history = History().add("A", DAYS).add("B", DAYS[100:])
    row = action("r", "name_changes", "A", MID, new_symbol="B")
    found = derive(history, row, accepted={"r"})
    assert rows(found)[-1][:2] == (f"A-{DAYS[0]}", "B")
    assert not found.findings
    assert not derive(history, row, ignored={"r"}).findings


def test_a_decision_joins_what_a_long_gap_divides():
    history = History().add("A", DAYS[:100]).add("A", DAYS[150:]).add("B", DAYS)
    row = action("decision-1", "name_changes", "A", DAYS[150], new_symbol="A")
    found = derive(history, row, accepted={"decision-1"})
    assert [row[0] for row in rows(found)] == [f"A-{DAYS[0]}"] * 2 + [f"B-{DAYS[0]}"]
    assert not found.findings


def test_the_order_of_actions_changes_nothing():
    history = History().add("FB", DAYS[:100], 200.0).add("META", DAYS[100:], 200.0)
    history.add("META", DAYS[:100], 12.0).add("METV", DAYS[100:], 12.0).add("X", DAYS[:50])
    told = [
        action("a", "name_changes", "META", MID, new_symbol="METV"),
        action("b", "name_changes", "FB", MID, new_symbol="META"),
        action("b2", "name_changes", "FB", DAYS[101], new_symbol="META"),
        action("c", "cash_mergers", "X", DAYS[50], cash=1.0),
    ]
    expected = derive(history, *told)
    for seed in range(5):
        random.Random(seed).shuffle(told)
        found = derive(history, *told)
        assert found.table.equals(expected.table)
        assert found.registry == expected.registry


# --- identifiers ---


def part(history: History, first: date, last: date) -> History:
    cut = History()
    cut.bars = {day: held for day, held in history.bars.items() if first <= day <= last}
    return cut


def test_identifiers_stay_when_history_grows_at_either_end():
    history = History().add("A", DAYS[:100]).add("B", DAYS[100:]).add("C", DAYS[50:120])
    rename = action("r", "name_changes", "A", MID, new_symbol="B")
    registry = Registry()
    for start, end in ((110, 150), (90, 150), (90, 200), (0, len(DAYS) - 1)):
        held = part(history, DAYS[start], DAYS[end])
        found = derive(held, rename, registry=registry)
        registry = found.registry
        assert {row[0] for row in rows(found) if row[1] in "AB"} == {f"B-{DAYS[110]}"}
        assert {row[0] for row in rows(found) if row[1] == "C"} == {f"C-{DAYS[110]}"}


def test_when_a_rename_is_learned_later_the_older_identifier_stays_and_the_other_is_an_alias():
    history = History().add("A", DAYS[:100]).add("B", DAYS[100:])
    before = derive(history, registry=Registry())
    assert [row[0] for row in rows(before)] == [f"A-{DAYS[0]}", f"B-{MID}"]
    rename = action("r", "name_changes", "A", MID, new_symbol="B")
    after = derive(history, rename, registry=before.registry)
    assert {row[0] for row in rows(after)} == {f"A-{DAYS[0]}"}
    assert after.registry.resolve(f"B-{MID}") == f"A-{DAYS[0]}"
    # And when it turns out that they were two after all, no identifier is used again.
    again = derive(history, registry=after.registry)
    assert [row[0] for row in rows(again)] == [f"A-{DAYS[0]}", f"B-{MID}-2"]
    assert again.registry.resolve(f"B-{MID}") == f"A-{DAYS[0]}"


def test_what_is_divided_later_keeps_the_identifier_where_its_anchor_lies():
    history = History().add("A", DAYS)
    before = derive(history)
    rename = action("r", "name_changes", "X", MID, new_symbol="A")
    history.add("X", DAYS[:100], 7.0)
    gone = action("m", "cash_mergers", "A", MID, cash=1.0)
    after = derive(history, rename, gone, registry=before.registry)
    assert [row[:3] for row in rows(after)] == [
        (f"A-{DAYS[0]}", "A", DAYS[0]),
        (f"X-{DAYS[0]}", "A", MID),
        (f"X-{DAYS[0]}", "X", DAYS[0]),
    ]
