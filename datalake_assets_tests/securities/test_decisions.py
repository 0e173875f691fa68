from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from datalake_assets.securities.decisions import (
    ACCEPT,
    ADD,
    IGNORE,
    WITHDRAW,
    Decision,
    Decisions,
    decide,
    read_decisions,
)
from datalake_assets.securities.evidence import day_number
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, ChangedError, Store, open_store
from datalake_assets_tests.securities.bars import actions

WHEN = datetime(2024, 3, 1, 12, tzinfo=UTC)
DAY = date(2024, 2, 1)


def said(what: str, subject: str | None = None, **more: Any) -> Decision:
    return Decision(what, "ann", WHEN, "because", subject, **more)


def test_decisions_are_kept_in_order_and_read_back():
    store = open_store("memory://")
    decide(store, said(ACCEPT, "x"))
    decide(store, said(ADD, kind="split", symbol="A", day=DAY, new=4.0, old=1.0))
    found = read_decisions(store)
    assert [each.id for each in found.made] == ["decision-1", "decision-2"]
    assert found.made[0] == Decision(ACCEPT, "ann", WHEN, "because", "x", id="decision-1")
    assert found.made[1].day == DAY
    assert b'"who": "ann"' in store.get(layout.DECISIONS)


def test_the_newest_decision_on_an_action_counts_and_a_withdrawn_one_does_not():
    store = open_store("memory://")
    decide(store, said(ACCEPT, "x"), said(IGNORE, "x"), said(ACCEPT, "y"))
    found = read_decisions(store)
    assert (found.accepted, found.ignored) == ({"y"}, {"x"})
    found = decide(store, said(WITHDRAW, "decision-2"))
    assert (found.accepted, found.ignored) == ({"x", "y"}, frozenset())
    assert len(found.made) == 4


def test_added_actions_stand_as_the_source_would_state_them():
    found = Decisions().adding(
        [
            said(ADD, kind="split", symbol="A", day=DAY, new=4.0, old=1.0),
            said(ADD, kind="split", symbol="B", day=DAY, new=1.0, old=8.0),
            said(ADD, kind="dividend", symbol="C", day=DAY, amount=1.5),
            said(ADD, kind="spin-off", symbol="D", day=DAY, amount=9.0),
            said(ADD, kind="rename", symbol="E", day=DAY, to="F"),
        ]
    )
    rows = found.with_added(actions()).to_pylist()
    assert [row["kind"] for row in rows] == [
        "forward_splits", "reverse_splits", "cash_dividends", "spin_offs", "name_changes",
    ]  # fmt: skip
    assert (rows[2]["cash"], rows[4]["new_symbol"]) == (1.5, "F")
    assert found.added == {f"decision-{number}" for number in range(1, 6)}


def test_an_ignored_jump_has_a_symbol_and_a_day():
    found = Decisions().adding([said(IGNORE, symbol="A", day=DAY)])
    assert found.ignored_jumps == {("A", day_number(DAY))}


@pytest.mark.parametrize(
    "wrong",
    [
        {"what": "perhaps"},
        {"what": ACCEPT},
        {"what": ACCEPT, "symbol": "A", "day": DAY},
        {"what": ADD, "kind": "merger", "symbol": "A", "day": DAY},
        {"what": ADD, "kind": "split", "symbol": "A", "day": DAY},
        {"what": ADD, "kind": "split", "symbol": "A", "day": DAY, "new": 0.0, "old": 1.0},
        {"what": ADD, "kind": "dividend", "symbol": "A", "day": DAY, "amount": 0.0},
        {"what": ADD, "kind": "spin-off", "symbol": "A", "day": DAY},
        {"what": ADD, "kind": "rename", "symbol": "A", "day": DAY},
    ],
)
def test_a_decision_that_says_nothing_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=r"."):
        Decision(who="ann", when=WHEN, why="", **wrong)


def test_two_who_decide_at_once_lose_nothing():
    store = open_store("memory://")
    replace = Store.replace
    others = [said(ACCEPT, "theirs")]

    def meanwhile(key: str, data: bytes, version: str | None) -> str:
        if others:
            decide(open_other, others.pop())
        return replace(store, key, data, version)

    open_other = Store(store.uri, base=store._base, backend=store._backend)
    store.replace = meanwhile  # type: ignore[method-assign]
    decide(store, said(ACCEPT, "ours"))
    assert read_decisions(store).accepted == {"ours", "theirs"}


def test_when_others_never_stop_it_says_so():
    store = open_store("memory://")

    def changed(key: str, data: bytes, version: str | None) -> str:
        raise ChangedError("again")

    store.replace = changed  # type: ignore[method-assign]
    with pytest.raises(ChangedError):
        decide(store, said(ACCEPT, "x"))


def test_what_was_never_decided_can_not_be_withdrawn():
    with pytest.raises(ValueError, match="no decision 'decision-7'"):
        decide(open_store("memory://"), said(WITHDRAW, "decision-7"))


def test_a_damaged_file_is_left_as_it_is():
    store = open_store("memory://")
    store.put(layout.DECISIONS, b"{")
    with pytest.raises(BrokenFileError, match="mend it by hand"):
        decide(store, said(ACCEPT, "x"))
    assert store.get(layout.DECISIONS) == b"{"
