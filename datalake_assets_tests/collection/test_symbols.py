"""An axis of symbols: what is asked of it, and that windows with the same symbols share one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets.collection.collect import Collection, Page
from datalake_assets.collection.plan import Chunk, Plan
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.symbols import Symbols, bits_of
from datalake_assets_tests.collection.tables import MONDAY, names


@given(st.lists(st.booleans(), max_size=70), st.integers(0, 80))
def test_the_first_symbols_with_a_bit_are_the_first_of_all_with_one(
    flags: list[bool], most: int
) -> None:
    symbols = Symbols(names(len(flags)))
    bits = bits_of(np.array(flags, bool))
    every = tuple(name for name, flag in zip(symbols.names, flags, strict=True) if flag)
    assert symbols.with_bits(bits) == every
    assert symbols.first_with_bits(bits, most) == every[:most]


def test_the_same_symbols_in_any_order_have_one_axis() -> None:
    axis = Symbols.shared(["B", "A", "B"])
    assert Symbols.shared(iter(["A", "B"])) is axis
    assert Symbols.shared(["A"]) is not axis


def test_windows_that_ask_for_the_same_symbols_have_one_axis() -> None:
    def axis(*chunks: tuple[str, ...]) -> Symbols:
        plan = Plan(tuple(Chunk(symbols, (MONDAY,)) for symbols in chunks))
        collection = Collection(plan, no_answer, limiter=RateLimiter(1e9))
        ((_, ledger),) = collection.sessions()
        return ledger.states.symbols

    assert axis(("A", "B"), ("C",)) is axis(("C", "A"), ("B",))
    assert axis(("A", "B")) is not axis(("C", "A"), ("B",))


def no_answer(*request: object) -> Page:
    raise AssertionError("nothing is asked")
