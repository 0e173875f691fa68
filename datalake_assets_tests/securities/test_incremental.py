"""What is derived upon evidence that is kept is what is derived from nothing, whatever came."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.securities.decisions import ACCEPT, ADD, IGNORE, Decision, decide
from datalake_assets.securities.derivation import derive_factors, derive_securities, material
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets_tests.securities.bars import History, action, actions, sessions

DAYS = sessions("2020-02-03", "2020-10-30")
BEGUN = 70
"""Sessions that are there before anything happens: the rest lies over the ends of two quarters."""

WHEN = datetime(2024, 3, 1, 12, tzinfo=UTC)
TICKERS = ("A", "B", "C", "D")
KINDS: dict[str, dict[str, Any]] = {
    "cash_dividends": {"cash": 1.0},
    "forward_splits": {"new_rate": 2.0, "old_rate": 1.0},
    "reverse_splits": {"new_rate": 1.0, "old_rate": 4.0},
    "name_changes": {"new_symbol": "D"},
    "spin_offs": {"new_symbol": "C", "new_rate": 1.0, "old_rate": 3.0},
    "cash_mergers": {"cash": 90.0},
}
PRICES = (100.0, 104.0, 50.0, 25.0, 400.0)

days = st.integers(0, len(DAYS) - 1)
bars = st.lists(st.sampled_from([None, 0, 0, 0, 0, 1, 2, 3, 4]), min_size=4, max_size=4)
steps = st.one_of(
    st.tuples(st.just("sessions"), st.lists(bars, min_size=1, max_size=45)),
    st.tuples(st.just("restated"), days, bars),
    st.tuples(st.just("said"), st.integers(0, 7), st.sampled_from(list(KINDS)), days,
              st.sampled_from(TICKERS)),
    st.tuples(st.just("vanished"), st.integers(0, 7)),
    st.tuples(st.just("decided"), st.sampled_from([ACCEPT, IGNORE]), st.integers(0, 7)),
    st.tuples(st.just("added"), days, st.sampled_from(TICKERS)),
    st.tuples(st.just("killed"), st.integers(0, 8)),
)  # fmt: skip


@dataclass
class World:
    """A lake's sessions and actions while things happen to them."""

    history: History = field(default_factory=History)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    store: Store = field(default_factory=lambda: open_store("memory://"))
    held: int = 0

    def trade(self, day: date, row: list[int | None]) -> None:
        self.history.bars[day] = {"Z": (10.0, 10.0, 100)}  # so that no session is empty
        for symbol, price in zip(TICKERS, row, strict=True):
            if price is not None:
                self.history.add(symbol, [day], PRICES[price])

    def happens(self, what: str, *how: Any) -> None:
        match what, how:
            case "sessions", (rows,):
                for row in rows:
                    if self.held < len(DAYS):
                        self.trade(DAYS[self.held], row)
                        self.held += 1
            case "restated", (index, row):
                self.trade(DAYS[index % self.held], row)
            case "said", (number, kind, index, symbol):
                self.told[f"a{number}"] = action(
                    f"a{number}", kind, symbol, DAYS[index], **KINDS[kind]
                )
            case "vanished", (number,):
                self.told.pop(f"a{number}", None)
            case "decided", (which, number):
                decide(self.store, Decision(which, "ann", WHEN, "", f"a{number}"))
            case "added", (index, symbol):
                split = {"kind": "split", "symbol": symbol, "day": DAYS[index]}
                decide(self.store, Decision(ADD, "ann", WHEN, "", **split, new=2.0, old=1.0))
            case "killed", (writes,):
                self.derive_until_killed(writes)

    def derive(self, store: Store) -> None:
        history, told = self.history, actions(*self.told.values())
        given = material(store, history.versions(), history.read, told)
        derive_securities(store, given, None)
        derive_factors(store, given)

    def derive_until_killed(self, writes: int) -> None:
        left = writes

        def stopped(name: str, *args: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            return getattr(Store, name)(self.store, *args)

        for name in ("put", "replace"):
            setattr(self.store, name, lambda *args, name=name: stopped(name, *args))
        try:
            self.derive(self.store)
        except KilledError:
            pass
        finally:
            del self.store.put, self.store.replace

    def afresh(self) -> Store:
        """A lake with nothing derived but the identifiers that were given, and the decisions."""
        store = open_store("memory://")
        for key in (layout.DECISIONS, layout.REGISTRY):
            if self.store.exists(key):
                store.put(key, self.store.get(key))
        return store


class KilledError(BaseException):
    pass


def objects(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list(layout.SECURITIES)}


@settings(max_examples=20, deadline=None)
@given(happened=st.lists(steps, min_size=1, max_size=6))
def test_whatever_happened_the_kept_evidence_gives_the_bytes_of_a_derivation_from_nothing(
    happened: list[tuple[Any, ...]],
):
    world = World()
    world.happens("sessions", [[0, 0, 0, None]] * BEGUN)
    world.derive(world.store)
    for what, *how in happened:
        world.happens(what, *how)
        world.derive(world.store)
        fresh = world.afresh()
        world.derive(fresh)
        assert objects(world.store) == objects(fresh)


def test_the_sequences_are_such_that_most_of_the_evidence_is_kept():
    world = World()
    world.happens("sessions", [[0, 0, 0, None]] * 120)
    world.derive(world.store)
    world.happens("sessions", [[2, 0, None, 0]])
    given = material(
        world.store,
        world.history.versions(),
        world.history.read,
        pa.Table.from_pylist([], actions().schema),
    )
    assert 0 < given.evidence.read < 121
