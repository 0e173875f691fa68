"""A sweep: its window, its pages, and what it concludes from an action that is not there.

Not here: how the events are kept (`test_log`), and Alpaca's bytes (`sources.test_action_pages`).
"""

from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.actions import sweep as module
from datalake_assets.actions.log import CHANGED, INSERTED, VANISHED, ActionLog
from datalake_assets.actions.sweep import (
    AHEAD,
    BEHIND,
    FIRST,
    IDS_AT_ONCE,
    WHOLE_EVERY,
    ActionsPage,
    Window,
    due,
    sweep,
)
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.errors import PermanentError, TransientError
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.retry import Caller, RetryPolicy
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets_tests.actions.sayings import NOON, Row, ScriptedActions, action, caller
from datalake_assets_tests.actions.test_log import told

TODAY = date(2026, 3, 2)
SPRING = Window(date(2026, 2, 1), date(2026, 5, 31))


class SetClock(Clock):
    """A clock that is set, and moves on by a minute when it is read."""

    def __init__(self) -> None:
        self.time = NOON

    def now(self) -> datetime:
        self.time += timedelta(minutes=1)
        return self.time


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "lake"))


def swept(store: Store, source: ScriptedActions, window: Window = SPRING) -> list[tuple[str, str]]:
    """The events of one sweep."""
    clock = SetClock()
    newest = next(ActionLog(store).sweeps(), None)
    if newest:
        clock.time = newest.seen_at
    _, events = sweep(source, ActionLog(store), caller(), window, clock=clock)
    return told(events)


def ids(store: Store) -> list[str]:
    return sorted(ActionLog(store).current()["id"].to_pylist())


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "requests"), [(0, 1), (1, 1), (99, 1), (100, 1), (101, 2), (1000, 10), (1001, 11)]
)
def test_a_window_takes_the_fewest_requests_that_its_pages_allow(
    store: Store, actions: int, requests: int
) -> None:
    source = ScriptedActions(*(action(f"{number:04}") for number in range(actions)), page=100)
    done, events = sweep(source, ActionLog(store), caller(), SPRING)

    assert events.num_rows == actions
    assert done.requests == len(source.asked) == requests


def test_a_failing_request_is_sent_again_and_a_lost_one_leaves_the_lake_as_it_was(
    store: Store,
) -> None:
    class Failing(ScriptedActions):
        failures = 0

        def actions(self, first: date, last: date, page_token: str | None) -> ActionsPage:
            if page_token and self.failures:
                self.failures -= 1
                raise TransientError("HTTP 503")
            return super().actions(first, last, page_token)

    source = Failing(*map(action, "abc"), page=2)
    source.failures = 3
    patient = Caller(RateLimiter(10**7), RetryPolicy(attempts=2, wait_initial=0))
    with pytest.raises(PermanentError, match="gave up after 2 attempts"):
        sweep(source, ActionLog(store), patient, SPRING)
    assert store.list() == []

    again = Caller(RateLimiter(10**7), RetryPolicy(attempts=2, wait_initial=0))
    done, events = sweep(source, ActionLog(store), again, SPRING)
    assert events.num_rows == 3
    assert done.requests == 3, "the one that was sent again included"


def test_a_page_token_that_comes_again_ends_the_sweep(store: Store) -> None:
    class Circling(ScriptedActions):
        def actions(self, first: date, last: date, page_token: str | None) -> ActionsPage:
            page = super().actions(first, last, None)
            return ActionsPage(page.actions, (), {}, "again")

    with pytest.raises(PermanentError, match="the same token for a second page"):
        swept(store, Circling(action()))
    assert store.list() == []


def test_pages_without_end_end_the_sweep(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGES", 3)
    three = [action(f"{number}") for number in range(3)]
    assert len(swept(store, ScriptedActions(*three, page=1))) == 3

    with pytest.raises(PermanentError, match="more than 3 pages"):
        swept(store, ScriptedActions(*three, action("3"), page=1))


def test_an_action_that_slides_to_the_next_page_meanwhile_comes_once_and_as_said_last(
    store: Store,
) -> None:
    def slide() -> None:
        source.say(action("0", day=date(2026, 2, 2)), action("b", cash=2.0))

    source = ScriptedActions(action("a"), action("b"), action("c"), page=2, between=slide)
    swept(store, source)

    rows = ActionLog(store).current().to_pylist()
    assert [(row["id"], row["cash"]) for row in rows] == [("a", 0.25), ("b", 2.0), ("c", 0.25)]


# --- what is not there ----------------------------------------------------------------------------


def test_an_action_has_vanished_when_its_window_is_asked_and_so_says_the_source_by_its_id(
    store: Store,
) -> None:
    source = ScriptedActions(action("a"), action("b"), action("later", day=date(2026, 8, 1)))
    swept(store, source, Window(date(2026, 1, 1), date(2026, 12, 31)))
    del source.rows["b"], source.rows["later"]
    source.asked.clear()

    assert swept(store, source) == [(VANISHED, "b")], "of August nobody asked"
    assert source.asked == [(SPRING.first, SPRING.last), ("b",)]
    assert ids(store) == ["a", "later"]


@pytest.mark.parametrize(
    ("day", "asked"),
    [
        (SPRING.first - timedelta(days=1), False),
        (SPRING.first, True),
        (SPRING.last, True),
        (SPRING.last + timedelta(days=1), False),
    ],
)
def test_a_window_has_both_of_its_days(store: Store, day: date, asked: bool) -> None:
    source = ScriptedActions(action("a", day=day))
    swept(store, source, Window(date(2026, 1, 1), date(2026, 12, 31)))
    source.rows.clear()

    assert swept(store, source) == ([(VANISHED, "a")] if asked else [])


def test_an_action_that_moved_out_of_the_window_has_changed_and_not_vanished(store: Store) -> None:
    source = ScriptedActions(action("a", processed=date(2026, 3, 5)))
    swept(store, source)
    source.say(action("a", processed=date(2026, 9, 1)))

    assert swept(store, source) == [(CHANGED, "a")]
    assert ActionLog(store).current()["process_date"].to_pylist() == [date(2026, 9, 1)]


def test_an_action_that_can_not_be_read_any_more_stands_as_it_was_read_last(store: Store) -> None:
    source = ScriptedActions(action("a"), action("b"))
    swept(store, source)
    source.unreadable = {"a"}
    assert swept(store, source) == []
    assert ids(store) == ["a", "b"]

    source.say(action("b", processed=date(2026, 9, 1)))  # moved, and then unreadable by its id
    source.unreadable = {"b"}
    assert swept(store, source) == []


def test_an_action_that_comes_back_is_inserted_anew(store: Store) -> None:
    source = ScriptedActions(action("a"))
    swept(store, source)
    row = source.rows.pop("a")
    assert swept(store, source) == [(VANISHED, "a")]
    source.say(row)
    assert swept(store, source) == [(INSERTED, "a")]


def test_missing_actions_are_asked_for_a_hundred_at_a_time(store: Store) -> None:
    rows = [action(f"{number:04}") for number in range(10 * IDS_AT_ONCE + 10)]
    source = ScriptedActions(*rows)
    swept(store, source)
    source.say(*(action(row["id"], processed=date(2026, 9, 1)) for row in rows[: IDS_AT_ONCE + 1]))
    source.asked.clear()

    assert len(swept(store, source)) == IDS_AT_ONCE + 1
    assert [len(asked) for asked in source.asked[1:]] == [IDS_AT_ONCE, 1]


@pytest.mark.parametrize(
    ("stood", "missing", "taken"),
    [(50, 50, True), (100, 100, True), (101, 101, False), (2000, 200, True), (2000, 201, False)],
)
def test_an_answer_that_lacks_more_than_a_tenth_is_not_taken_unless_they_are_few(
    store: Store, stood: int, missing: int, taken: bool
) -> None:
    source = ScriptedActions(*(action(f"{number:04}") for number in range(stood)))
    swept(store, source)
    before = {key: store.get(key) for key in store.list()}
    for number in range(missing):
        del source.rows[f"{number:04}"]
    if taken:
        assert len(swept(store, source)) == missing
        return
    with pytest.raises(PermanentError, match=f"lacks {missing:,} of the {stood:,} known corporate"):
        swept(store, source)
    assert {key: store.get(key) for key in store.list()} == before
    done, events = sweep(source, ActionLog(store), caller(), SPRING, max_loss=1.0)
    assert events.num_rows == missing
    assert done.number == 2


def test_the_table_for_readers_is_as_the_log_after_every_sweep(store: Store) -> None:
    source = ScriptedActions(action("a"))
    swept(store, source)
    table = pa.parquet.read_table(pa.BufferReader(store.get(layout.STANDING_ACTIONS)))

    assert table["id"].to_pylist() == ["a"]


# --- windows --------------------------------------------------------------------------------------


def windows(*past: tuple[int, Window], store: Store, whole: bool = False) -> Window:
    """What is due today after sweeps so many days ago, oldest first."""
    log = ActionLog(store)
    for days, window in past:
        clock = SetClock()
        clock.time = NOON - timedelta(days=days)
        sweep(ScriptedActions(), log, caller(), window, clock=clock)
    return due(TODAY, log.sweeps(), whole=whole)


WHOLE = Window(FIRST, TODAY + AHEAD)


def test_the_first_sweep_is_of_the_whole_history(store: Store) -> None:
    assert windows(store=store) == WHOLE
    assert windows((1, SPRING), store=store) == WHOLE, "no sweep of it all was ever done"


def test_a_daily_window_reaches_five_weeks_behind_and_a_year_ahead(store: Store) -> None:
    found = windows((1, WHOLE), store=store)

    assert found == Window(TODAY - timedelta(days=1) - BEHIND, TODAY + AHEAD)
    assert timedelta(days=90) <= AHEAD
    assert BEHIND > WHOLE_EVERY, "what a daily window lets go of was in the last sweep of it all"


def test_after_a_pause_the_window_reaches_back_to_the_sweep_before_it(store: Store) -> None:
    found = windows((25, WHOLE), (20, SPRING), store=store)

    assert found.first == TODAY - timedelta(days=20) - BEHIND


@pytest.mark.parametrize(("days", "whole"), [(29, False), (30, True), (31, True)])
def test_once_a_month_the_whole_history_is_asked_for(store: Store, days: int, whole: bool) -> None:
    past = [(days, WHOLE), *((day, SPRING) for day in range(days - 1, 0, -1))]

    assert (windows(*past, store=store) == WHOLE) is whole


def test_the_whole_history_can_be_asked_for_at_any_time(store: Store) -> None:
    assert windows((1, WHOLE), store=store, whole=True) == WHOLE


# --- any history ----------------------------------------------------------------------------------

DAYS = [date(2026, 1, 1) + timedelta(days=30 * number) for number in range(6)]
IDS = st.sampled_from("abcde")
SAY = st.builds(
    lambda id, day, cash: ("say", action(id, processed=day, cash=cash)),
    IDS,
    st.sampled_from(DAYS),
    st.sampled_from([1.0, 2.0]),
)
DROP = st.tuples(st.just("drop"), IDS)
SWEEP = st.tuples(
    st.just("sweep"),
    st.tuples(st.sampled_from(DAYS), st.sampled_from(DAYS)).map(
        lambda days: Window(min(days), max(days))
    ),
)


@settings(max_examples=80)
@given(steps=st.lists(st.one_of(SAY, DROP, SWEEP), max_size=25))
def test_sweeps_of_any_windows_in_any_order_know_what_they_asked_for(
    steps: list[tuple[str, object]],
) -> None:
    """Against a reference that knows what the source said in each window, and of what it lost."""
    log, source, clock = ActionLog(open_store("memory://")), ScriptedActions(page=2), SetClock()
    known: dict[str, Row] = {}
    copies: list[tuple[datetime, dict[str, Row]]] = []
    for verb, what in steps:
        if verb == "say":
            assert isinstance(what, dict)
            source.say(what)
        elif verb == "drop":
            source.rows.pop(str(what), None)
        else:
            assert isinstance(what, Window)
            done, _ = sweep(source, log, caller(), what, clock=clock)
            for one, row in [*known.items()]:
                if what.first <= row["process_date"] <= what.last:
                    if one in source.rows:
                        known[one] = source.rows[one]
                    else:
                        del known[one]
            known |= {
                one: row
                for one, row in source.rows.items()
                if what.first <= row["process_date"] <= what.last
            }
            copies.append((done.seen_at, dict(known)))

    for at, copy in copies:
        assert {row["id"]: row for row in log.current(at).to_pylist()} == copy
    assert {row["id"]: row for row in log.current().to_pylist()} == known
