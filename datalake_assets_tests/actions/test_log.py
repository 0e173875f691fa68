"""The log of corporate actions: what was known when, two writers at once, and kills.

Not here: which window is asked, and what a missing action means (`test_sweep`).
"""

import io
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.actions import log as module
from datalake_assets.actions.action import SCHEMA
from datalake_assets.actions.log import CHANGED, EVENTS, INSERTED, VANISHED, ActionLog
from datalake_assets.storage import layout
from datalake_assets.storage.store import BrokenFileError, ChangedError, Store, open_store
from datalake_assets_tests.actions.sayings import Row, action, answer, minutes
from datalake_assets_tests.storage.stores import Interlude, WatchedStore


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "lake"))
    return open_store(request.getfixturevalue("s3_lake_uri"))


@pytest.fixture
def folder(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "lake"))


def rates(known: pa.Table) -> dict[str, float]:
    return dict(zip(known["id"].to_pylist(), known["cash"].to_pylist(), strict=True))


def told(events: pa.Table) -> list[tuple[str, str]]:
    return list(zip(events["event"].to_pylist(), events["id"].to_pylist(), strict=True))


def test_what_was_inserted_changed_and_vanished_is_known_as_it_was_at_each_instant(
    store: Store,
) -> None:
    log = ActionLog(store)
    assert log.current().schema == SCHEMA
    assert log.current(minutes(0)).num_rows == 0

    _, first = log.append(answer(action("a", cash=0.65), action("b")), minutes(0))
    _, second = log.append(answer(action("a", cash=0.61), action("b"), known=1), minutes(1))
    _, third = log.append(answer(action("a", cash=0.61), gone=["b"], known=2), minutes(2))

    assert told(first) == [(INSERTED, "a"), (INSERTED, "b")]
    assert told(second) == [(CHANGED, "a")]
    assert told(third) == [(VANISHED, "b")]
    assert rates(third) == {"b": 0.25}, "of a vanished action what was said last is kept"
    instants = [minutes(0) - timedelta(microseconds=1), minutes(0), minutes(0.99), minutes(1)]
    known = [rates(log.current(at)) for at in (*instants, minutes(2), minutes(99))]
    both = {"a": 0.65, "b": 0.25}
    assert known == [{}, both, both, {"a": 0.61, "b": 0.25}, {"a": 0.61}, {"a": 0.61}]
    assert rates(log.current()) == {"a": 0.61}
    assert log.events().schema == EVENTS
    assert told(log.events()) == [*told(first), *told(second), *told(third)]


def test_that_nothing_was_new_is_kept_too(folder: Store) -> None:
    log = ActionLog(folder)
    log.append(answer(action(), requests=3, skipped=("a row",)), minutes(0))
    log.append(answer(action(), known=1, first=date(2026, 2, 1)), minutes(5))

    newest, oldest = log.sweeps()
    assert (newest.number, newest.first, newest.seen_at) == (2, date(2026, 2, 1), minutes(5))
    assert (oldest.requests, oldest.skipped, oldest.examples) == (3, 1, ("a row",))
    assert log.events().num_rows == 1
    assert folder.list(layout.ACTION_LOG) == [layout.action_log_key(1)]


def test_instants_ascend_whatever_the_clocks_of_two_machines_say(folder: Store) -> None:
    log = ActionLog(folder)
    log.append(answer(action("a")), minutes(10))
    behind, _ = log.append(answer(action("a"), action("b"), known=1), minutes(3))

    assert behind.seen_at == minutes(10) + timedelta(microseconds=1)
    assert rates(log.current(minutes(10))) == {"a": 0.25}


def test_an_instant_needs_its_zone(folder: Store) -> None:
    with pytest.raises(ValueError, match="has no time zone: use an aware datetime"):
        ActionLog(folder).current(minutes(0).replace(tzinfo=None))


def test_the_events_of_a_ticker_are_those_of_every_action_that_was_ever_about_it(
    folder: Store,
) -> None:
    log = ActionLog(folder)
    rename = action("r", "FB", kind="name_changes", new_symbol="META")
    log.append(answer(action("a", "FBX"), action("b", "AAPL"), rename), minutes(0))
    log.append(answer(action("a", "FB"), action("b", "AAPL"), rename, known=1), minutes(1))

    assert told(log.events("FB")) == [(INSERTED, "r"), (INSERTED, "a"), (CHANGED, "a")]
    assert told(log.events("META")) == [(INSERTED, "r")]
    assert log.events("ZZZ").num_rows == 0


# --- objects --------------------------------------------------------------------------------------


def test_only_the_newest_object_grows_and_a_full_one_never_changes_again(folder: Store) -> None:
    log = ActionLog(folder)
    most = module.SWEEPS_IN_AN_OBJECT
    seen: dict[str, bytes] = {}
    for number in range(2 * most + 1):
        log.append(answer(action(f"{number:03}"), known=number), minutes(number))
        keys = folder.list(layout.ACTION_LOG)
        assert len(keys) == number // most + 1, "just below, at and above a full one"
        for key in keys[:-1]:
            assert seen.setdefault(key, folder.get(key)) == folder.get(key)

    assert [sweep.number for sweep in log.sweeps()] == list(range(2 * most + 1, 0, -1))
    assert log.current().num_rows == 2 * most + 1
    assert log.current(minutes(most)).num_rows == most + 1


@pytest.mark.parametrize(("events", "objects"), [(4, 1), (5, 2), (6, 2)])
def test_an_object_with_many_events_is_full_whatever_its_sweeps(
    folder: Store, monkeypatch: pytest.MonkeyPatch, events: int, objects: int
) -> None:
    monkeypatch.setattr(module, "EVENTS_IN_AN_OBJECT", 5)
    log = ActionLog(folder)
    rows = [action(f"{number}") for number in range(events)]
    log.append(answer(*rows), minutes(0))
    log.append(answer(*rows, action("new"), known=1), minutes(1))

    assert len(folder.list(layout.ACTION_LOG)) == objects
    assert log.current().num_rows == events + 1


def test_a_damaged_object_of_the_log_is_named_with_what_to_do(folder: Store) -> None:
    log = ActionLog(folder)
    log.append(answer(action()), minutes(0))
    folder.put(layout.action_log_key(1), folder.get(layout.action_log_key(1))[:-9])

    with pytest.raises(BrokenFileError, match=r"000001\.parquet is a damaged object of the log"):
        log.current()


def test_an_object_that_is_missing_between_others_is_named(
    folder: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SWEEPS_IN_AN_OBJECT", 1)
    log = ActionLog(folder)
    for number in range(3):
        log.append(answer(action(f"{number}"), known=number), minutes(number))
    folder.delete(layout.action_log_key(2))

    with pytest.raises(BrokenFileError, match=r"000002\.parquet is missing"):
        log.current()


# --- the table for readers ------------------------------------------------------------------------


def test_other_engines_read_what_stands_from_one_file(folder: Store, tmp_path: Path) -> None:
    log = ActionLog(folder)
    log.append(answer(action("a"), action("b", day=date(2026, 3, 4))), minutes(0))
    assert log.publish()
    path = str(tmp_path / "lake" / layout.STANDING_ACTIONS)

    assert pq.read_table(path).to_pylist() == log.current().to_pylist()
    assert pl.read_parquet(path)["id"].to_list() == ["b", "a"], "by the day that the price knows"
    assert duckdb.sql(f"SELECT count(*) FROM '{path}'").fetchall() == [(2,)]


def test_the_table_is_written_when_something_changed_and_only_then(store: Store) -> None:
    log = ActionLog(store)
    assert not log.publish(), "there is no log yet"
    log.append(answer(action("a")), minutes(0))
    assert log.publish()
    assert not log.publish()
    log.append(answer(action("a"), known=1), minutes(1))
    assert not log.publish()
    log.append(answer(action("a", cash=1.0), known=2), minutes(2))
    assert log.publish()
    assert rates(pq.read_table(io.BytesIO(store.get(layout.STANDING_ACTIONS)))) == {"a": 1.0}


@pytest.mark.parametrize("damage", ["gone", "cut", "another file"])
def test_the_table_is_never_needed_and_made_anew_from_the_log(folder: Store, damage: str) -> None:
    log = ActionLog(folder)
    log.append(answer(action("a"), action("b")), minutes(0))
    log.publish()
    whole = folder.get(layout.STANDING_ACTIONS)
    match damage:
        case "gone":
            folder.delete(layout.STANDING_ACTIONS)
        case "cut":
            folder.put(layout.STANDING_ACTIONS, whole[:50])
        case _:
            folder.put(layout.STANDING_ACTIONS, folder.get(layout.action_log_key(1)))

    assert log.current().num_rows == 2
    assert log.publish()
    assert folder.get(layout.STANDING_ACTIONS) == whole


def test_a_table_of_sweeps_that_the_log_does_not_have_is_made_anew(store: Store) -> None:
    """The log was restored from a backup, and the table was not."""
    log = ActionLog(store)
    log.append(answer(action("a")), minutes(0))
    backup = store.get(layout.action_log_key(1))
    for number in (1, 2):
        log.append(answer(action("a"), action(f"lost {number}"), known=number), minutes(number))
    log.publish()

    store.put(layout.action_log_key(1), backup)
    assert rates(log.current()) == {"a": 0.25}
    for number in (1, 2, 3):  # one less, as many and one more than the table has
        log.append(answer(action("a"), action(f"new {number}"), known=number), minutes(9 + number))
        assert "lost 1" not in rates(log.current())
    assert log.publish()
    assert set(rates(log.current())) == {"a", "new 1", "new 2", "new 3"}
    assert not log.publish()


def test_a_late_writer_of_the_table_does_not_put_an_older_one_in_the_place_of_a_newer_one(
    folder: Store,
) -> None:
    log = ActionLog(folder)
    log.append(answer(action("a")), minutes(0))

    def overtake() -> None:
        log.append(answer(action("a"), action("b"), known=1), minutes(1))
        log.publish()

    ActionLog(WatchedStore(folder, **Interlude(1, False, overtake).moments)).publish()

    table = pq.read_table(io.BytesIO(folder.get(layout.STANDING_ACTIONS)))
    assert rates(table) == {"a": 0.25, "b": 0.25}


# --- two writers, and kills -----------------------------------------------------------------------


def test_two_sweeps_at_once_lose_nothing(store: Store) -> None:
    """Each appends while the other does, again and again."""
    logs = [ActionLog(store) for _ in range(2)]

    def write(who: int) -> None:
        for number in range(8):
            known = next((sweep.number for sweep in logs[who].sweeps()), 0)
            rows = [action(f"{who}-{earlier}") for earlier in range(number + 1)]
            logs[who].append(answer(*rows, known=known), minutes(number))
            logs[who].publish()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, range(2)))

    log = logs[0]
    everything = {f"{who}-{number}" for who in range(2) for number in range(8)}
    assert set(log.current()["id"].to_pylist()) == everything
    assert log.events().num_rows == 16, "none was inserted twice"
    assert [sweep.number for sweep in log.sweeps()] == list(range(16, 0, -1))
    store.delete(layout.STANDING_ACTIONS)
    assert set(log.current()["id"].to_pylist()) == everything


def test_of_an_action_that_another_sweep_saw_meanwhile_its_word_stands(folder: Store) -> None:
    log = ActionLog(folder)
    log.append(answer(action("a", cash=1.0), action("b"), action("c")), minutes(0))
    # Both asked after the first sweep; this one is done first.
    log.append(
        answer(action("a", cash=2.0), action("b"), action("d"), gone=["c"], known=1), minutes(1)
    )
    _, late = log.append(
        answer(action("a", cash=1.0), action("c"), action("e"), gone=["b", "d"], known=1),
        minutes(2),
    )

    assert told(late) == [(INSERTED, "e"), (VANISHED, "b")]
    assert rates(log.current()) == {"a": 2.0, "d": 0.25, "e": 0.25}


def test_a_log_that_others_write_to_without_end_is_an_error_and_stays_whole(folder: Store) -> None:
    def interfere(verb: str, key: str) -> None:
        other = ActionLog(folder)
        known = next((sweep.number for sweep in other.sweeps()), 0)
        other.append(answer(action(f"other {known}"), known=known), minutes(known))

    log = ActionLog(WatchedStore(folder, before=interfere))
    with pytest.raises(ChangedError):
        log.append(answer(action("mine")), minutes(0))

    ids = ActionLog(folder).current()["id"].to_pylist()
    assert "mine" not in ids
    assert len(ids) == 10


class Killed(BaseException):
    """The process is gone."""


def kill() -> None:
    raise Killed


@pytest.mark.parametrize("reached", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("writes", [1, 2])
def test_killed_at_any_write_the_log_is_whole_and_the_next_sweep_goes_on(
    store: Store, writes: int, reached: bool
) -> None:
    log = ActionLog(store)
    log.append(answer(action("a", cash=1.0), action("b")), minutes(0))
    log.publish()
    watched = ActionLog(WatchedStore(store, **Interlude(writes, reached, kill).moments))
    new = (action("a", cash=2.0), action("c"))

    def killed() -> None:
        watched.append(answer(*new, gone=["b"], known=1), minutes(1))
        watched.publish()

    with pytest.raises(Killed):
        killed()

    appended = writes == 2 or reached
    old, now = {"a": 1.0, "b": 0.25}, {"a": 2.0, "c": 0.25}
    assert rates(log.current()) == (now if appended else old)
    assert rates(log.current(minutes(0))) == old
    known = next(log.sweeps()).number
    log.append(answer(*new, gone=["b"], known=known), minutes(2))
    log.publish()
    assert rates(log.current()) == now
    assert rates(pq.read_table(io.BytesIO(store.get(layout.STANDING_ACTIONS)))) == now
    assert log.events().num_rows == 5, "nothing is told twice"


# --- any history ----------------------------------------------------------------------------------

IDS = st.sampled_from("abcd")
ROWS: st.SearchStrategy[Row] = st.builds(
    action, IDS, st.sampled_from(["X", "Y"]), cash=st.sampled_from([1.0, 2.0, None])
)
STEPS = st.lists(
    st.tuples(st.lists(ROWS, max_size=3), st.sets(IDS, max_size=2), st.booleans()), max_size=12
)


@settings(max_examples=60)
@given(steps=STEPS, full=st.integers(1, 4))
def test_any_sequence_of_inserts_changes_and_losses_tells_what_was_known_when(
    steps: list[tuple[list[Row], set[str], bool]], full: int
) -> None:
    """Against a reference that keeps a copy of everything for each instant."""
    store = open_store("memory://")
    log = ActionLog(store)
    known: dict[str, Row] = {}
    copies = [(minutes(-1), dict(known))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SWEEPS_IN_AN_OBJECT", full)
        for number, (rows, gone, published) in enumerate(steps):
            said = {row["id"]: row for row in rows}
            log.append(
                answer(*said.values(), gone=gone - said.keys(), known=number), minutes(number)
            )
            if published:
                log.publish()
            known = {one: row for one, row in known.items() if one not in gone} | said
            copies.append((minutes(number), dict(known)))

    def same(found: pa.Table, expected: dict[str, Row]) -> bool:
        rows = {row["id"]: row for row in found.to_pylist()}
        return len(rows) == found.num_rows and rows == expected

    assert same(log.current(), known)
    for (at, copy), (following, _) in zip(copies, [*copies[1:], (minutes(99), {})], strict=True):
        assert same(log.current(at), copy)
        assert same(log.current(following - timedelta(microseconds=1)), copy)
    # The table is a projection: without it the log says the same.
    store.delete(layout.STANDING_ACTIONS)
    assert same(log.current(), known)
