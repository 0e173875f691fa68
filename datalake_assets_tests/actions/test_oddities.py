"""Oddities: each as the source has been seen to serve it, and next to it what is none."""

from datetime import date, timedelta
from typing import Any

import pytest

from datalake_assets.actions.oddities import (
    DUPLICATE,
    IMPOSSIBLE,
    INCOMPLETE,
    KINDS,
    NEIGHBOURING,
    NO_SESSION,
    TWO_DAYS,
    UNKNOWN_SYMBOL,
    counted,
    oddities,
)
from datalake_assets_tests.actions.sayings import Row, action, split, table

MONDAY = date(2026, 3, 2)
KNOWN = frozenset({"AAPL", "PFE", "HLT", "TWO"})


def odd(*rows: Row) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.kind, one.ids) for one in oddities(table(*rows), KNOWN)]


def test_ordinary_actions_are_not_odd() -> None:
    quarters = [action(f"q{n}", day=MONDAY + timedelta(days=91 * n)) for n in range(4)]
    others = [
        split("f", "AAPL", MONDAY, 4, 1),
        split("r", "PFE", MONDAY, 1, 20),
        action("n", "FB", kind="name_changes", new_symbol="META"),
        action("w", "TWO", kind="worthless_removals"),
        action("m", "TWO", kind="stock_and_cash_mergers", new_rate=1.0, old_rate=2.0, cash=0.0),
        action("s", "TWO", MONDAY, kind="spin_offs", new_symbol="ONE", new_rate=1.0, old_rate=3.0),
        action("d", "TWO", MONDAY, kind="stock_dividends", new_rate=0.05, old_rate=1.0),
    ]

    assert odd(*quarters, *others) == []


def test_a_dividend_listed_twice_on_its_day_is_a_duplicate() -> None:
    """PFE, ex 2023-07-26: applied twice."""
    twice = [action(name, "PFE", MONDAY, cash=0.41) for name in ("one", "two")]

    assert odd(*twice) == [(DUPLICATE, ("one", "two"))]
    (found,) = oddities(table(*twice), KNOWN)
    assert str(found) == "PFE 2026-03-02: cash dividend listed twice with the same rate (one, two)"


@pytest.mark.parametrize(
    "other",
    [
        {"cash": 0.42},
        {"symbol": "AAPL"},
        {"body": {"sub_type": "return_of_capital"}},
        {"body": {"special": True}},
        {"body": {"currency": "CAD"}},
    ],
)
def test_two_dividends_of_one_day_that_differ_are_two(other: dict[str, Any]) -> None:
    usual = {"symbol": "PFE", "cash": 0.41}

    assert odd(action("one", day=MONDAY, **usual), action("two", day=MONDAY, **usual | other)) == []


def test_the_same_dividend_a_third_time_is_named_beside_its_like() -> None:
    rows = [action(name, "PFE", MONDAY) for name in ("one", "two", "three")]
    between = action("special", "PFE", MONDAY, body={"special": True})

    assert [kind for kind, _ in odd(*rows, between)] == [DUPLICATE, DUPLICATE]


@pytest.mark.parametrize(
    ("apart", "named"), [(1, True), (NEIGHBOURING.days, True), (NEIGHBOURING.days + 1, False)]
)
@pytest.mark.parametrize("kind", ["split", "dividend"])
def test_one_split_or_dividend_on_two_neighbouring_days_is_named(
    kind: str, apart: int, named: bool
) -> None:
    """HLT, 2017-01-03 and -04."""
    days = (MONDAY, MONDAY + timedelta(days=apart))
    rows = [
        split(name, "HLT", day, 1, 3) if kind == "split" else action(name, "HLT", day)
        for name, day in zip("ab", days, strict=True)
    ]
    found = [one for one in odd(*rows) if one[0] == TWO_DAYS]

    assert found == ([(TWO_DAYS, ("a", "b"))] if named else [])


def test_renames_on_neighbouring_days_are_not_the_same_action() -> None:
    rows = [
        action(name, "FB", day, kind="name_changes", new_symbol="META")
        for name, day in (("a", MONDAY), ("b", MONDAY + timedelta(days=1)))
    ]

    assert odd(*rows) == []


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"cash": 0.0}, "cash is 0"),
        ({"cash": -0.1}, "cash is -0.1"),
        ({"cash": float("inf")}, "cash is inf"),
        ({"cash": 1000.01}, "1,000.01 dollars a share"),
        ({"kind": "forward_splits", "new_rate": 0.0, "old_rate": 1.0}, "new_rate is 0"),
        ({"kind": "forward_splits", "new_rate": 4.0, "old_rate": 0.0}, "old_rate is 0"),
        ({"kind": "forward_splits", "new_rate": 1001.0, "old_rate": 1.0}, "1001 for 1"),
        ({"kind": "reverse_splits", "new_rate": 1.0, "old_rate": 1001.0}, "1 for 1001"),
        ({"kind": "forward_splits", "new_rate": 1.0, "old_rate": 1.0}, "makes no more shares"),
        ({"kind": "forward_splits", "new_rate": 1.0, "old_rate": 2.0}, "makes no more shares"),
        ({"kind": "reverse_splits", "new_rate": 2.0, "old_rate": 1.0}, "makes no fewer shares"),
        ({"kind": "cash_mergers", "cash": -1.0}, "cash is -1"),
    ],
)
def test_a_rate_that_no_security_can_have_is_named(values: dict[str, Any], why: str) -> None:
    (found,) = oddities(table(action("a", "AAPL", MONDAY, **values)), KNOWN)

    assert found.kind == IMPOSSIBLE
    assert found.text.endswith(why)


@pytest.mark.parametrize(
    "values",
    [
        {"cash": 1000.0},
        {"cash": 0.0001},
        {"kind": "forward_splits", "new_rate": 1000.0, "old_rate": 1.0},
        {"kind": "reverse_splits", "new_rate": 1.0, "old_rate": 1000.0},
        {"kind": "cash_mergers", "cash": 0.0},
    ],
)
def test_a_rate_at_the_edge_is_believed(values: dict[str, Any]) -> None:
    assert odd(action("a", "AAPL", MONDAY, **values)) == []


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        ("cash_dividends", {"cash": None}, "cash dividend without cash"),
        ("forward_splits", {"new_rate": 4.0}, "forward split without old_rate"),
        ("spin_offs", {}, "spin off without new_rate, old_rate, new_symbol"),
        ("name_changes", {}, "name change without new_symbol"),
        (
            "cash_dividends",
            {"cash": None, "body": {"currency": "CAD"}},
            "cash dividend in CAD: no amount in dollars",
        ),
    ],
)
def test_a_rate_or_a_symbol_that_is_missing_is_named(
    kind: str, values: dict[str, Any], text: str
) -> None:
    (found,) = oddities(table(action("a", "AAPL", MONDAY, kind=kind, **values)), KNOWN)

    assert (found.kind, found.text) == (INCOMPLETE, text)


def test_a_ticker_that_nobody_knows_is_named_unless_a_rename_tells_of_it() -> None:
    rename = action("n", "OLD", kind="name_changes", new_symbol="NEW")
    reverse = split("r", "SHORT", MONDAY, 1, 9, new_symbol="SHRT")
    rows = [action("a", "ZZZ"), action("b", "OLD"), action("c", "NEW"), action("d", "SHORT")]

    assert odd(*rows, rename, reverse) == [(UNKNOWN_SYMBOL, ("a",))]


@pytest.mark.parametrize(
    ("day", "named"),
    [
        (date(2026, 2, 27), False),
        (date(2026, 2, 28), True),
        (date(2026, 4, 3), True),  # Good Friday
        (date(1990, 1, 6), False),  # before the calendar: nobody can tell
        (date(2050, 1, 1), False),
    ],
)
def test_a_dividend_on_a_day_without_a_session_is_named(day: date, named: bool) -> None:
    assert odd(action("a", "AAPL", day)) == ([(NO_SESSION, ("a",))] if named else [])


def test_a_rename_on_a_weekend_is_ordinary() -> None:
    assert odd(action("a", day=date(2026, 2, 28), kind="name_changes", new_symbol="X")) == []


def test_the_newest_come_first_and_every_kind_is_counted() -> None:
    rows = [
        action("old", "ZZZ", date(2020, 3, 2)),
        action("new", "ZZZ", date(2026, 3, 2)),
        action("x", "AAPL", MONDAY, cash=0.0),
    ]
    found = oddities(table(*rows), KNOWN)

    assert [one.ids for one in found] == [("new",), ("x",), ("old",)]
    assert counted(found) == {**dict.fromkeys(KINDS, 0), UNKNOWN_SYMBOL: 2, IMPOSSIBLE: 1}
    assert counted([]) == dict.fromkeys(KINDS, 0)
