from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.securities.registry import (
    Registry,
    Stretch,
    keep_registry,
    read_registry,
)
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, ChangedError, open_store

DAY = date(2020, 1, 1)


def day(number: int) -> date:
    return DAY + timedelta(days=number)


# Each ticker's stretches begin on different days, and each stretch has one owner.
worlds = st.lists(
    st.tuples(st.sampled_from("ABC"), st.integers(0, 60), st.integers(0, 4)),
    min_size=1,
    max_size=12,
    unique_by=lambda one: one[:2],
)


def owned(world: list[tuple[str, int, int]], since: int) -> dict[int, list[Stretch]]:
    """The securities of a world whose bars begin on a day, by owner."""
    found: dict[int, list[Stretch]] = {}
    for symbol, start, owner in world:
        later = [other for name, other, _ in world if name == symbol and other > start]
        if not later or min(later) > since:
            first = day(max(start, since))
            found.setdefault(owner, []).append(Stretch(symbol, first, first))
    return found


def grouped(world: list[tuple[str, int, int]], since: int) -> list[list[Stretch]]:
    return list(owned(world, since).values())


@settings(max_examples=150, deadline=None)
@given(world=worlds, since=st.lists(st.integers(0, 70), min_size=2, max_size=5))
def test_a_security_keeps_its_identifier_when_history_grows_at_its_beginning(world, since):
    registry, names = Registry(), {}
    for begin in sorted(since, reverse=True):
        securities = owned(world, begin)
        found, registry = registry.assign(list(securities.values()))
        for owner, identifier in zip(securities, found, strict=True):
            assert names.setdefault(owner, identifier) == identifier
        assert len(set(found)) == len(found)


@settings(max_examples=150, deadline=None)
@given(worlds=st.lists(worlds, min_size=1, max_size=5))
def test_whatever_is_learned_identifiers_are_only_added_and_never_shared(worlds):
    registry = Registry()
    for world in worlds:
        before = registry
        found, registry = registry.assign(grouped(world, 0))
        assert registry.rows[: len(before.rows)] == before.rows
        assert len(set(found)) == len(found)
        assert not set(found) & set(registry.aliases)
        for identifier in registry.aliases:
            assert registry.resolve(identifier) not in registry.aliases
        first_rows = [row[0] for row in registry.rows if row[3] is None]
        assert len(set(first_rows)) == len(first_rows)
        again, same = registry.assign(grouped(world, 0))
        assert (again, same) == (found, registry)


@settings(max_examples=50, deadline=None)
@given(world=worlds, seed=st.randoms())
def test_the_order_of_securities_changes_no_identifier(world, seed):
    securities = grouped(world, 0)
    found, registry = Registry().assign(securities)
    named = dict(zip(map(tuple, securities), found, strict=True))
    seed.shuffle(securities)
    again, other = Registry().assign(securities)
    assert dict(zip(map(tuple, securities), again, strict=True)) == named
    assert other == registry


def test_it_is_read_back_as_it_was_kept_and_nobody_elses_is_lost():
    store = open_store("memory://")
    registry, version = read_registry(store)
    assert (registry, version) == (Registry(), None)
    _, grown = registry.assign([[Stretch("A", DAY, DAY)]])
    keep_registry(store, grown, version)
    assert read_registry(store)[0] == grown
    with pytest.raises(ChangedError):
        keep_registry(store, grown.assign([[Stretch("B", DAY, DAY)]])[1], version)
    assert read_registry(store)[0] == grown


def test_a_damaged_registry_is_an_error_and_not_an_empty_one():
    store = open_store("memory://")
    store.put(layout.REGISTRY, b"broken")
    with pytest.raises(BrokenFileError, match="restore it from a backup"):
        read_registry(store)
