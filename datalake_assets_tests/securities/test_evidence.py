from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.securities.evidence import (
    LONG_GAP,
    LOOK_BACK,
    Evidence,
    Points,
    day_number,
    day_of,
    gather,
    no_day,
    quarter_of,
)
from datalake_assets.storage import layout
from datalake_assets.storage.store import Store, open_store
from datalake_assets_tests.securities.bars import History, sessions

DAYS = sessions("2020-01-02", "2020-12-31")


def row(found: Evidence, symbol: str, day: date) -> int:
    (code,) = found.codes([symbol])
    return int(found.at_or_after([code], [day_number(day)])[0])


def test_an_asked_day_finds_its_next_bar_and_the_one_before():
    history = History().add("A", [*DAYS[:40], *DAYS[45:]], list(range(1, len(DAYS) - 4)))
    found = history.evidence([("A", DAYS[42])])
    at = row(found, "A", DAYS[42])
    assert day_of(found.session[at]) == DAYS[45]
    assert day_of(found.session_before[at]) == DAYS[39]
    assert (found.close[at], found.close_before[at]) == (41.0, 40.0)
    days, closes = found.before(found.codes(["A"]), [day_number(DAYS[42])])
    assert (day_of(days[0]), closes[0]) == (DAYS[39], 40.0)


def test_the_bar_before_a_quarter_is_found_over_any_number_of_quarters():
    history = History().add("A", DAYS[:5], 7.0).add("A", DAYS[-5:], 8.0).add("B", DAYS)
    found = history.evidence([("A", DAYS[100])])
    at = row(found, "A", DAYS[100])
    assert day_of(found.session[at]) == DAYS[-5]
    assert day_of(found.session_before[at]) == DAYS[4]
    assert found.close_before[at] == 7.0
    assert found.sessions_between(found.session_before[at], found.session[at]) == len(DAYS) - 9


def test_a_day_after_the_last_bar_has_no_row_but_a_bar_before():
    found = History().add("A", DAYS[:50]).add("B", DAYS).evidence([("A", DAYS[60])])
    assert row(found, "A", DAYS[60]) == -1
    days, _ = found.before(found.codes(["A"]), [day_number(DAYS[60])])
    assert day_of(days[0]) == DAYS[49]


def test_a_symbol_without_any_bar_is_nowhere():
    found = History().add("A", DAYS[:50]).evidence([("X", DAYS[10])])
    assert found.codes(["X", None]).tolist() == [-1, -1]
    assert found.at_or_after([-1], [day_number(DAYS[0])]).tolist() == [-1]
    days, closes = found.before([-1], [day_number(DAYS[0])])
    assert no_day(days).all()
    assert np.isnan(closes).all()


@pytest.mark.parametrize(
    ("opened", "kept"), [(89.9, True), (90.1, False), (119.9, False), (120.1, True)]
)
def test_a_bar_that_opens_far_from_the_close_before_is_kept(opened: float, kept: bool):
    opens = [100.0] * 50
    opens[45] = opened
    found = History().add("A", DAYS[:50], 100.0, opens).evidence()
    assert (day_number(DAYS[45]) in found.session.tolist()) == kept


def test_what_is_usually_traded_is_the_median_of_twenty_sessions_before():
    volume = [*range(1, 31), 1_000]
    opens = [1.0] * 31
    opens[30] = 0.5
    found = History().add("A", DAYS[:31], 1.0, opens, volume).evidence()
    at = row(found, "A", DAYS[30])
    assert found.usual_dollars[at] == np.median(range(11, 31))
    assert found.dollars[at] == 1_000


def test_the_usual_distance_of_bars_is_known():
    held = DAYS[::3]
    found = History().add("A", held).add("B", DAYS).evidence([("A", held[15])])
    assert found.usual_distance[row(found, "A", held[15])] == 46 / 16
    assert found.usual_distance[row(found, "B", DAYS[0])] == 1.0


def test_a_jump_on_the_last_day_of_a_quarter_knows_the_bar_after():
    end = next(index for index, day in enumerate(DAYS) if quarter_of(day) == "2020-Q2") - 1
    closes = [100.0] * len(DAYS)
    closes[end] = 10.0
    found = History().add("A", DAYS, closes).evidence()
    at = row(found, "A", DAYS[end])
    assert day_of(found.session_after[at]) == DAYS[end + 1]
    assert (found.close_before[at], found.close_after[at]) == (100.0, 100.0)
    assert found.usual_dollars[at] == 1_000_000


class Counting:
    def __init__(self, history: History) -> None:
        self.history, self.read = history, set[date]()

    def __call__(self, day: date):
        self.read.add(day)
        return self.history.read(day)


def test_after_one_new_session_only_its_quarter_is_read_again():
    store = open_store("memory://")
    history = History().add("A", DAYS[:-1])
    history.evidence([("A", DAYS[3])], store)
    reading = Counting(history.add("A", DAYS[-1:]))
    gather(store, history.versions(), reading, Points.of([("A", DAYS[3])]))
    start = DAYS.index(next(day for day in DAYS if quarter_of(day) == "2020-Q4"))
    assert reading.read == set(DAYS[start - LOOK_BACK :])


def test_an_action_of_an_old_day_reads_only_that_quarter():
    store, history = open_store("memory://"), History().add("A", DAYS)
    history.evidence([("A", DAYS[3])], store)
    reading = Counting(history)
    gather(store, history.versions(), reading, Points.of([("A", DAYS[3]), ("A", DAYS[5])]))
    assert {quarter_of(day) for day in reading.read} == {"2020-Q1"}


@settings(max_examples=25, deadline=None)
@given(held=st.sets(st.integers(0, 250), min_size=1, max_size=40))
def test_the_ends_of_all_long_gaps_are_known(held: set[int]):
    """A naive look at all bars finds the same ends."""
    place = sorted(held)
    days = [DAYS[index] for index in place]
    found = History().add("B", DAYS).add("A", days).evidence()
    mine = found.symbol == found.codes(["A"])[0]
    firsts = {
        day
        for day, index, before in zip(days, place, [-99, *place], strict=False)
        if index - before > LONG_GAP
    }
    lasts = {
        day
        for day, index, after in zip(days, place, [*place[1:], 999], strict=True)
        if after - index > LONG_GAP
    }
    kept = {day_of(day) for day in found.session[mine]}
    assert kept >= firsts | lasts
    before = dict(zip(days[1:], days, strict=False))
    for at in np.flatnonzero(mine):
        was = found.session_before[at]
        told = None if no_day(np.array([was]))[0] else day_of(was)
        assert told == before.get(day_of(found.session[at]))


class KilledError(BaseException):
    pass


def test_killed_after_any_write_the_next_call_goes_on_with_what_stands():
    history = History().add("A", DAYS, [100 + (day.day % 7) for day in DAYS])
    whole = history.evidence([("A", DAYS[70])])
    for writes in range(4):
        store = open_store("memory://")
        left = writes

        def put(key: str, data: bytes, store: Store = store) -> None:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            Store.put(store, key, data)

        store.put = put  # type: ignore[method-assign]
        with pytest.raises(KilledError):
            history.evidence([("A", DAYS[70])], store)
        del store.put
        assert len(store.list(layout.EVIDENCE)) == writes
        again = history.evidence([("A", DAYS[70])], store)
        assert again.session.tolist() == whole.session.tolist()
        assert again.read < whole.read or not writes


def test_a_damaged_file_is_gathered_again():
    store, history = open_store("memory://"), History().add("A", DAYS)
    before = history.evidence([], store)
    store.put(layout.evidence_key("2020-Q2"), b"broken")
    after = history.evidence([], store)
    assert after.session.tolist() == before.session.tolist()
    assert after.read > 0
    assert history.evidence([], store).read == 0


@settings(max_examples=60, deadline=None)
@given(
    held=st.sets(st.integers(0, 199), min_size=1, max_size=120),
    asked=st.integers(0, 199),
)
def test_whatever_bars_there_are_the_bars_around_an_asked_day_are_found(held, asked):
    days = [DAYS[index] for index in sorted(held)]
    closes = [float(index + 1) for index in sorted(held)]
    found = History().add("B", DAYS).add("A", days, closes).evidence([("A", DAYS[asked])])
    at = row(found, "A", DAYS[asked])
    after = [index for index in sorted(held) if index >= asked]
    before = [index for index in sorted(held) if index < asked]
    assert (day_of(found.session[at]) if at >= 0 else None) == (DAYS[after[0]] if after else None)
    day, close = found.before(found.codes(["A"]), [day_number(DAYS[asked])])
    assert no_day(day)[0] == (not before)
    if before:
        assert (day_of(day[0]), close[0]) == (DAYS[before[-1]], float(before[-1] + 1))
