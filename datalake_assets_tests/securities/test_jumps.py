from __future__ import annotations

import math
from datetime import date

import numpy as np
import pytest

from datalake_assets.securities import factors, identity, jumps
from datalake_assets.securities.evidence import day_number, day_of
from datalake_assets.securities.jumps import Jumps, Kind, classify
from datalake_assets.securities.registry import Registry
from datalake_assets_tests.securities.bars import History, action, actions, sessions

DAYS = sessions("2020-01-02", "2020-12-31")


def find(history: History, *rows: dict, **decided) -> Jumps:
    table = actions(*rows)
    found = history.gathered(identity.asked_of(table))
    who = identity.identify(found, table, None, Registry())
    applied = factors.derive(found, who.table, table, **decided)
    return jumps.find(found, who.table, applied.table)


def one(move: float, traded: float, *, reverses: bool = False, begins: bool = False) -> str | None:
    return classify(
        np.array([math.log(move)]), np.array([traded]), np.array([reverses]), np.array([begins])
    )[0]


@pytest.mark.parametrize(
    ("move", "traded", "kind"),
    [
        (0.5, 3.9, Kind.SPLIT),
        (0.5, 4.0, Kind.MOVE),
        (0.5 * math.exp(0.099), 1.0, Kind.SPLIT),
        (0.5 * math.exp(-0.101), 1.0, Kind.MOVE),
        (10 * math.exp(-0.129), 39.0, Kind.SPLIT),
        (10.0, 40.0, Kind.MOVE),
        (0.651, 1.0, None),
        (1.599, 1.0, None),
        (2.0, math.nan, Kind.MOVE),
        (10.0, math.nan, Kind.SPLIT),
    ],
)
def test_the_rule_at_its_thresholds(move: float, traded: float, kind: Kind | None):
    assert one(move, traded) == kind


def test_what_is_gone_the_next_day_is_a_glitch():
    assert one(0.5, 1.0, reverses=True) is Kind.GLITCH


@pytest.mark.parametrize(
    ("move", "kind"), [(0.80, Kind.SPIN_OFF), (0.899, Kind.SPIN_OFF), (0.901, None)]
)
def test_a_quiet_fall_while_another_security_begins_may_be_a_spin_off(
    move: float, kind: Kind | None
):
    assert one(move, 1.0, begins=True) == kind
    assert one(move, 1.0) is None


def prices(by: float, at: int = 30) -> list[float]:
    return [100.0 * (by if index >= at else 1) for index in range(60)]


def told(found: Jumps) -> list[tuple[str, date, str]]:
    days = [day_of(day) for day in found.session]
    return list(zip(found.symbol.to_pylist(), days, map(str, found.kind), strict=True))


def test_a_missing_split_is_suspected_and_a_listed_one_is_explained():
    history = History().add("A", DAYS[:60], prices(0.25))
    assert told(find(history)) == [("A", DAYS[30], "suspected split")]
    split = action("s", "forward_splits", "A", DAYS[30], new_rate=4.0, old_rate=1.0)
    assert told(find(history, split)) == []
    (finding,) = jumps.findings(find(history))
    assert "datalake decide add split A" in finding.decide
    assert "--ratio 4:1" in finding.decide
    assert finding.undecided
    assert not jumps.findings(find(history), {("A", day_number(DAYS[30]))})


def test_a_wrong_split_that_was_accepted_is_a_jump_itself():
    split = action("s", "forward_splits", "A", DAYS[30], new_rate=4.0, old_rate=1.0)
    found = find(History().add("A", DAYS[:60], 100.0), split, accepted={"s"})
    assert told(found) == [("A", DAYS[30], "suspected split")]


def test_a_crash_is_a_market_move():
    volume = [10_000 * (20 if index == 30 else 1) for index in range(60)]
    history = History().add("A", DAYS[:60], prices(0.5), volume=volume)
    assert told(find(history)) == [("A", DAYS[30], "market move")]


def test_a_glitch_is_named_there_and_back():
    closes = [100.0] * 60
    closes[30] = 10.0
    found = find(History().add("A", DAYS[:60], closes))
    assert told(found) == [("A", DAYS[30], "one-day glitch"), ("A", DAYS[31], "one-day glitch")]


def test_a_jump_over_a_long_gap_is_none():
    history = History().add("A", DAYS[:60], 100.0).add("A", DAYS[100:], 10.0).add("B", DAYS)
    assert told(find(history)) == []


def test_a_jump_over_a_rename_is_found():
    history = History().add("A", DAYS[:30], 100.0).add("B", DAYS[30:60], 10.0)
    rename = action("r", "name_changes", "A", DAYS[30], new_symbol="B")
    assert told(find(history, rename)) == [("B", DAYS[30], "suspected split")]


def test_the_bars_of_another_security_before_it_are_no_jump():
    history = History().add("A", DAYS[:60], prices(0.1)).add("X", DAYS[:30], 10.0)
    gone = action("m", "cash_mergers", "A", DAYS[30], cash=100.0)
    rename = action("r", "name_changes", "X", DAYS[30], new_symbol="A")
    assert told(find(history, gone, rename)) == []


def test_a_missing_spin_off_of_a_large_security_is_suspected():
    history = History().add("A", DAYS[:60], prices(0.8), volume=1_000_000)
    history.add("N", DAYS[30:60], 20.0)
    assert told(find(history)) == [("A", DAYS[30], "suspected spin-off")]
