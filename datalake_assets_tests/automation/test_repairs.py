"""Repairs: which holes are found, and which of them are asked for within a day's requests."""

import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.automation.repairs import AT_ONCE, RETRIES, Broken, Holes
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.automation.world import utc
from datalake_assets_tests.collection.tables import WEEK, every, names
from datalake_assets_tests.lake.files import collected

NOW = utc("2025-12-09 00:00")


def holes(*symbols: int, tries: int = 0) -> Holes:
    """Sessions of December that lack so many symbols each."""
    broken = {
        f"2025-12-{day:02}": Broken(missing=count, symbols=count, incomplete=False, tries=tries)
        for day, count in enumerate(symbols, start=1)
    }
    return Holes(broken=broken)


def granted(found: Holes, left: int, running: int = 0) -> dict[str, int]:
    chosen, told = found.choose(NOW, busy={}, running=running, left=left)
    assert len(told) == len(found.broken), "every session with holes is spoken of"
    return {repair.session[-2:]: repair.granted for repair in chosen}


@pytest.mark.parametrize(("symbols", "requests"), [(1, 1), (500, 1), (501, 2), (1000, 2)])
def test_a_repair_takes_a_request_for_five_hundred_symbols(symbols: int, requests: int) -> None:
    assert Broken(symbols, symbols, incomplete=False).requests == requests


@pytest.mark.parametrize(
    ("left", "chosen"), [(0, {}), (1, {"01": 1}), (4, {"01": 4}), (5, {"01": 4, "02": 1})]
)
def test_a_repair_may_use_three_more_requests_and_never_more_than_are_left(
    left: int, chosen: dict[str, int]
) -> None:
    assert granted(holes(1, 1), left) == chosen


def test_a_session_too_large_for_what_is_left_does_not_hold_up_a_smaller_one() -> None:
    assert granted(holes(5_000, 1), left=5) == {"02": 4}


@pytest.mark.parametrize("running", [0, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1])
def test_few_repairs_are_under_way_at_once(running: int) -> None:
    chosen = granted(holes(*[1] * 10), left=1000, running=running)
    assert len(chosen) == max(0, AT_ONCE - running)


@pytest.mark.parametrize("tries", [RETRIES.attempts - 1, RETRIES.attempts])
def test_the_last_repair_is_said_to_be_the_last(tries: int) -> None:
    chosen, told = holes(1, tries=tries).choose(NOW, busy={}, running=0, left=9)
    assert [repair.last for repair in chosen] == [True] * (RETRIES.attempts - tries)
    assert ("gave up" in told[0]) == (not chosen)


@pytest.mark.parametrize(
    ("missing", "why"),
    [(0, "it is complete, but did not pass its audit"), (1, "1 symbol is missing")],
)
def test_what_is_given_up_is_said_with_what_is_wrong_with_it(missing: int, why: str) -> None:
    _, (told,) = holes(missing, tries=RETRIES.attempts).choose(NOW, busy={}, running=0, left=9)
    assert f"2025-12-01: gave up after {RETRIES.attempts} repairs, {why}; run `" in told


@pytest.mark.parametrize(("minutes", "count"), [(59, 0), (60, 1), (61, 1)])
def test_the_next_repair_waits_for_its_pause(minutes: int, count: int) -> None:
    found = holes(1)
    found.choose(NOW, busy={}, running=0, left=9)
    later = NOW + timedelta(minutes=minutes)
    assert len(found.choose(later, busy={}, running=0, left=9)[0]) == count


def test_what_somebody_else_is_about_is_left_to_them() -> None:
    busy = {"2025-12-01": "run 1 includes it"}
    chosen, told = holes(1, 1).choose(NOW, busy=busy, running=0, left=9)
    assert [repair.session for repair in chosen] == ["2025-12-02"]
    assert "2025-12-01: run 1 includes it" in told


@given(st.lists(st.integers(0, 3_000), max_size=12), st.integers(0, 40), st.integers(0, 5))
def test_no_more_is_granted_than_is_left_and_the_oldest_that_fits_comes_first(
    symbols: list[int], left: int, running: int
) -> None:
    found = holes(*symbols)
    chosen, _ = found.choose(NOW, busy={}, running=running, left=left)

    assert sum(repair.granted for repair in chosen) <= left
    assert len(chosen) <= max(0, AT_ONCE - running)
    days = [repair.session for repair in chosen]
    assert days == sorted(days)
    for repair in chosen:
        assert repair.granted >= found.broken[repair.session].requests
    assert Holes.remembered(found.cursor()) == found


def test_a_first_look_opens_a_part_of_a_big_lake_and_the_next_ones_the_rest(tmp_path: Path) -> None:
    lake = LakeWriter(open_store(str(tmp_path)))
    days = market_calendar.sessions(date(2025, 10, 29), date(2025, 12, 3))
    for day in days:
        whole = collected(day, every(names(5), [day]))
        failed = {"ZZZ": "boom"} if day == days[-1] else {}
        lake.publish(replace(whole, ledger=replace(whole.ledger, failed=failed)), [])

    found = Holes()
    left = [found.look(lake, at_most=4) for _ in range(3)]

    assert left == [22, 3, 0], "a month belongs together"
    assert list(found.broken) == [str(days[-1])]


def test_a_session_that_lacks_more_than_before_is_granted_what_it_takes_now(tmp_path: Path) -> None:
    lake, symbols, (day, *_) = LakeWriter(open_store(str(tmp_path))), names(1_200), WEEK
    lake.publish(collected(day, every(symbols[1:], [day]), failed={symbols[0]: "HTTP 503"}), [])
    found = Holes()
    found.look(lake)
    found.broken[str(day)].tries = 1
    # A second look that was stopped.
    stopped = collected(day, every(symbols[:9], [day]), pending=symbols[9:])
    later = stopped.provenance.collected_at + timedelta(days=1)
    told = replace(stopped.provenance, collected_at=later)
    lake.keep_incomplete(replace(stopped, provenance=told), [])
    found.look(lake)
    assert found.broken == {str(day): Broken(1_191, 1_191, incomplete=True, tries=1)}
    assert granted(found, left=100) == {f"{day:%d}": 6}


def test_a_session_written_in_a_second_that_was_looked_at_is_seen_the_next_time() -> None:
    """S3's clock has whole seconds."""
    lake, found = LakeWriter(open_store("memory://")), Holes()
    for number, day in enumerate(WEEK, 1):
        lake.publish(collected(day, every("A", [day]), failed={"B": "HTTP 500"}), [])
        assert found.look(lake) == 0
        assert list(found.broken) == [str(day) for day in WEEK[:number]]
    found.broken[str(WEEK[0])].tries = 2
    found.look(lake)
    assert found.broken[str(WEEK[0])].tries == 2


def dated(lake: LakeWriter, day: date, at: datetime) -> None:
    """Give a session's file a date."""
    os.utime(lake.store.url(layout.session_key(day)), (at.timestamp(), at.timestamp()))


def test_a_file_with_a_date_in_the_future_hides_no_session(tmp_path: Path) -> None:
    lake, found, (first, second, *_) = LakeWriter(open_store(str(tmp_path))), Holes(), WEEK
    lake.publish(collected(first, every("A", [first])), [])
    dated(lake, first, datetime(2099, 1, 1, tzinfo=UTC))
    found.look(lake)
    lake.publish(collected(second, every("A", [second]), failed={"B": "HTTP 500"}), [])
    found.look(lake)
    assert list(found.broken) == [str(second)]


def test_a_session_that_was_restored_with_its_old_date_is_seen(tmp_path: Path) -> None:
    lake, found, (first, second, *_) = LakeWriter(open_store(str(tmp_path))), Holes(), WEEK
    lake.publish(collected(first, every("A", [first]), failed={"B": "HTTP 500"}), [])
    backup = lake.store.get(layout.session_key(first))
    old = lake.store.modified(layout.SESSIONS)[layout.session_key(first)]
    for day in (first, second):
        lake.publish(collected(day, every("AB", [day])), [])
    found.look(lake)
    assert not found.broken
    lake.store.put(layout.session_key(first), backup)
    dated(lake, first, old)
    found.look(lake)
    assert list(found.broken) == [str(first)]


def test_a_session_that_is_gone_has_no_holes_any_more(tmp_path: Path) -> None:
    lake, found, (first, *_) = LakeWriter(open_store(str(tmp_path))), Holes(), WEEK
    lake.publish(collected(first, every("A", [first]), failed={"B": "HTTP 500"}), [])
    found.look(lake)
    lake.store.delete(layout.session_key(first))
    found.look(lake)
    assert found == Holes()


def test_a_lake_that_did_not_change_is_not_opened_again(tmp_path: Path) -> None:
    lake, (first, *_) = LakeWriter(open_store(str(tmp_path))), WEEK
    lake.publish(collected(first, every("A", [first]), failed={"B": "HTTP 500"}), [])
    found = Holes()
    found.look(lake)
    again = Holes.remembered(found.cursor())
    again.broken[str(first)].missing = 77  # what another opening would mend
    again.look(lake)
    assert again.broken[str(first)].missing == 77


@pytest.mark.parametrize(
    ("hours", "alone"), [(-25, False), (-1, False), (0, True), (23.99, True), (24, False)]
)
def test_what_somebody_stopped_is_left_alone_for_a_day(hours: float, alone: bool) -> None:
    """One that was stopped in the future was so by a clock that was wrong."""
    found = holes(1)
    found.broken["2025-12-01"].stopped = NOW.isoformat()
    now = NOW + timedelta(hours=hours)
    chosen, (told,) = found.choose(now, busy={}, running=0, left=9)
    assert bool(chosen) != alone
    if alone:
        assert told == (
            "2025-12-01: its collection was stopped by hand, so it is not repaired until "
            "2025-12-10 00:00 UTC; to continue now, run "
            "`datalake collect --session 2025-12-01 --repair`"
        )


@pytest.mark.parametrize(("ahead", "waits"), [(RETRIES.longest, True), (timedelta(1), False)])
def test_a_pause_noted_by_a_clock_that_was_wrong_is_not_kept(ahead: timedelta, waits: bool) -> None:
    found = holes(1)
    found.broken["2025-12-01"].not_before = (NOW + ahead).isoformat()
    assert bool(found.choose(NOW, busy={}, running=0, left=9)[0]) != waits


def test_a_repair_that_somebody_made_ends_the_waiting(tmp_path: Path) -> None:
    lake, found, (day, *_) = LakeWriter(open_store(str(tmp_path))), Holes(), WEEK
    half = collected(day, every("A", [day]), pending=("B",))
    stopped = replace(half, provenance=replace(half.provenance, interrupted=True))
    lake.keep_incomplete(stopped, [])
    found.look(lake)
    assert found.broken[str(day)].stopped == half.provenance.collected_at.isoformat()
    lake.keep_incomplete(half, [])
    found.look(lake)
    assert found.broken[str(day)].stopped == ""
