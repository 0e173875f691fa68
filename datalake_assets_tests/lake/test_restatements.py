"""The restatement log: what changed, and what was known at any instant."""

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets.lake.lake import Lake
from datalake_assets.lake.reader import NotInLakeError
from datalake_assets.lake.restatements import SCHEMA, VALUES, Restatements, changes
from datalake_assets.lake.writer import LakeWriter, Written
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, ChangedError, Store, open_store
from datalake_assets_tests.collection.tables import MONDAY, bar, names, table
from datalake_assets_tests.lake.files import collected
from datalake_assets_tests.storage.stores import Interlude, WatchedStore

EVENING = datetime(2026, 1, 5, 22, tzinfo=UTC)
"""When the first state of a session is collected (`files.collected`)."""


@pytest.fixture
def lake() -> LakeWriter:
    return LakeWriter(open_store("memory://"))


def collect(lake: LakeWriter, hours: int, *bars: dict[str, Any], day: date = MONDAY) -> Written:
    """Publish the session as it was collected so many hours after the evening."""
    return lake.publish(collected(day, table(bars), minutes=60 * hours), [])


def known(lake: LakeWriter, hours: float) -> dict[str, float]:
    """The closes that were known so many hours after the evening."""
    bars = Lake(lake.store).known(MONDAY, EVENING + timedelta(hours=hours))
    return dict(zip(bars["symbol"].to_pylist(), bars["close"].to_pylist(), strict=True))


def test_each_changed_bar_is_kept_with_both_values_and_when_each_was_known(
    lake: LakeWriter,
) -> None:
    collect(lake, 0, bar("A", close=1.0), bar("B", close=2.0), bar("C", close=3.0))
    written = collect(lake, 24, bar("A", close=1.5), bar("C", close=3.0), bar("D", close=4.0))

    log = Restatements(lake.store).of(MONDAY)

    assert log.schema == SCHEMA
    assert log.equals(written.changes)
    rows = log.select(["symbol", "change", "old_close", "new_close"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("A", "restated", 1.0, 1.5),
        ("B", "removed", 2.0, None),
        ("D", "added", None, 4.0),
    ]
    assert log["known_from"].to_pylist() == [EVENING] * 3
    assert log["changed_at"].to_pylist() == [EVENING + timedelta(hours=24)] * 3
    assert lake.store.list(layout.RESTATEMENTS) == [
        "data/ticks/restatements/year=2024/2024-07-01/20260106T220000.000000Z.parquet"
    ]


def test_the_first_collection_and_one_that_changes_nothing_leave_no_entry(lake: LakeWriter) -> None:
    assert collect(lake, 0, bar("A")).changes is None
    written = collect(lake, 24, bar("A"))

    assert written.changes is not None
    assert written.changes.num_rows == 0
    assert lake.store.list(layout.RESTATEMENTS) == []


def test_what_was_known_on_a_day_is_told_for_every_state_of_a_session(lake: LakeWriter) -> None:
    collect(lake, 0, bar("A", close=1.0), bar("B", close=2.0))
    collect(lake, 24, bar("A", close=1.5), bar("B", close=2.0))
    collect(lake, 30, bar("A", close=1.5), bar("B", close=2.0))
    collect(lake, 48, bar("A", close=1.7), bar("C", close=3.0))

    first, second, third = {"A": 1.0, "B": 2.0}, {"A": 1.5, "B": 2.0}, {"A": 1.7, "C": 3.0}
    assert [known(lake, hours) for hours in (0, 23.999, 24, 30, 47.999, 48, 1000)] == [
        *(first, first, second, second, second, third, third)
    ]


def test_before_its_first_publication_nothing_was_known(lake: LakeWriter) -> None:
    collect(lake, 0, bar("A"))
    collect(lake, 24, bar("A"))

    with pytest.raises(NotInLakeError, match="first published at 2026-01-05 22:00:00 UTC"):
        known(lake, -0.001)


def test_what_was_known_is_asked_by_day_and_instant_as_all_else(lake: LakeWriter) -> None:
    collect(lake, 0, bar("A"))
    at = EVENING + timedelta(hours=1)

    assert Lake(lake.store).known(str(MONDAY), at) == Lake(lake.store).known(MONDAY, at)
    with pytest.raises(NotInLakeError, match="2024-07-04 is no trading session"):
        Lake(lake.store).known("2024-07-04", at)
    with pytest.raises(ValueError, match="is no instant: give a datetime with its zone"):
        Lake(lake.store).known(MONDAY, at.replace(tzinfo=None))


def test_an_entry_of_a_change_that_was_never_made_changes_no_answer(lake: LakeWriter) -> None:
    """As a writer leaves it that was killed between the log and the session."""
    collect(lake, 0, bar("A", close=1.0))
    before, lost = table([bar("A", close=1.0)]), table([bar("A", close=9.0), bar("Z")])
    at = EVENING + timedelta(hours=12)
    Restatements(lake.store).keep(changes(before, lost, EVENING, at))
    collect(lake, 24, bar("A", close=1.5))

    assert [known(lake, hours) for hours in (6, 18, 30)] == [{"A": 1.0}, {"A": 1.0}, {"A": 1.5}]


STATE = st.dictionaries(st.sampled_from(names(4)), st.integers(1, 3), max_size=4)


@given(st.lists(STATE, min_size=1, max_size=5))
def test_every_state_that_a_session_ever_had_can_be_had_again(states: list[dict[str, int]]) -> None:
    lake = LakeWriter(open_store("memory://"))
    for number, state in enumerate(states):
        bars = [bar(symbol, close=float(close)) for symbol, close in sorted(state.items())]
        collect(lake, number, *bars)

    for number, state in enumerate(states):
        assert known(lake, number + 0.5) == state


@given(STATE, STATE)
def test_a_change_is_what_differs_and_nothing_else(
    before: dict[str, int], after: dict[str, int]
) -> None:
    old, new = (
        table(bar(symbol, close=float(close)) for symbol, close in sorted(state.items()))
        for state in (before, after)
    )

    found = changes(old, new, EVENING, EVENING)

    kinds = dict(zip(found["symbol"].to_pylist(), found["change"].to_pylist(), strict=True))
    assert kinds == {
        **dict.fromkeys(after.keys() - before.keys(), "added"),
        **dict.fromkeys(before.keys() - after.keys(), "removed"),
        **{s: "restated" for s in before.keys() & after.keys() if before[s] != after[s]},
    }
    added = found.filter(pc.equal(found["change"], "added"))
    assert all(added[f"old_{name}"].null_count == added.num_rows for name in VALUES)
    assert all(added[f"new_{name}"].null_count == 0 for name in VALUES)


def test_the_newest_changes_of_all_sessions_come_first(lake: LakeWriter) -> None:
    days = [date(2024, 7, 1), date(2023, 12, 29), date(2024, 7, 2)]
    for hours, day in enumerate(days):
        collect(lake, 0, bar("A", day), day=day)
        collect(lake, 24 + hours, bar("A", day, close=1.0), bar("B", day), day=day)

    found = Restatements(lake.store).newest(3)

    assert list(zip(found["session"].to_pylist(), found["symbol"].to_pylist(), strict=True)) == [
        (days[2], "A"),
        (days[2], "B"),
        (days[1], "A"),
    ]
    assert Restatements(lake.store).newest(100).num_rows == 6


def test_what_others_put_beside_the_log_is_none_of_it(lake: LakeWriter) -> None:
    collect(lake, 0, bar("A", close=1.0))
    collect(lake, 24, bar("A", close=2.0))
    (key,) = lake.store.list(layout.RESTATEMENTS)
    folder = key.rpartition("/")[0]
    for name in (".DS_Store", "notes.txt", "20240701.parquet", "copy/x.parquet"):
        lake.store.put(f"{folder}/{name}", b"\0")
    assert known(lake, 1) == {"A": 1.0}
    log = Restatements(lake.store)
    assert (log.newest(9).num_rows, log.of(MONDAY).num_rows, log.sessions()) == (1, 1, [MONDAY])


def test_a_damaged_entry_is_named(lake: LakeWriter) -> None:
    collect(lake, 0, bar("A", close=1.0))
    collect(lake, 24, bar("A", close=2.0))
    (key,) = lake.store.list(layout.RESTATEMENTS)
    lake.store.put(key, lake.store.get(key)[:-5])

    with pytest.raises(BrokenFileError, match="is no whole restatement file"):
        known(lake, 1)


class _Dying(Store):
    """A store whose writer is killed before it replaces a session."""

    def replace(self, key: str, data: bytes, version: str | None) -> str:
        raise KeyboardInterrupt


def test_killed_before_the_session_is_replaced_the_old_one_stands_and_is_known(
    tmp_path: Any,
) -> None:
    lake = LakeWriter(open_store(str(tmp_path)))
    collect(lake, 0, bar("A", close=1.0))
    dying = LakeWriter(open_store(str(tmp_path)))
    dying.store.__class__ = _Dying
    with pytest.raises(KeyboardInterrupt):
        collect(dying, 24, bar("A", close=2.0))

    assert lake.read(MONDAY).bars["close"].to_pylist() == [1.0]
    assert (known(lake, 1), known(lake, 48)) == ({"A": 1.0}, {"A": 1.0})
    collect(lake, 72, bar("A", close=3.0))
    assert [known(lake, hours) for hours in (1, 48, 96)] == [{"A": 1.0}, {"A": 1.0}, {"A": 3.0}]


@pytest.mark.parametrize("repair", [False, True])
def test_of_two_collections_that_found_the_same_change_only_the_first_made_it(
    lake: LakeWriter, repair: bool
) -> None:
    collect(lake, 0, bar("A", close=1.0), bar("B"))
    replacing = lake.stored(MONDAY) if repair else None
    corrected = (bar("A", close=2.0), bar("B"))
    interlude = Interlude(2, False, lambda: collect(lake, 24, *corrected))  # the first is the log
    watched = LakeWriter(WatchedStore(lake.store, **interlude.moments))
    with suppress(ChangedError):
        watched.publish(collected(MONDAY, table(corrected), minutes=60 * 48), [], replacing)

    assert interlude.happened
    assert [known(lake, hours)["A"] for hours in (12, 36, 60)] == [1.0, 2.0, 2.0]
    assert Restatements(lake.store).of(MONDAY).num_rows == 1


def test_bars_of_a_lake_are_never_changed_by_looking_back(lake: LakeWriter) -> None:
    collect(lake, 0, bar("A", close=1.0))
    collect(lake, 24, bar("A", close=2.0))
    now = Lake(lake.store).known(MONDAY, EVENING + timedelta(hours=24))

    assert isinstance(now, pa.Table)
    assert now.equals(lake.read(MONDAY).bars)
