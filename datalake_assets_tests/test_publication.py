"""Whatever goes wrong on the way, a session ends as an undisturbed collection leaves it, or its
ledger tells what it lacks and a repair brings exactly that.
"""

import csv
import gzip
import importlib.util
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from linecache import getline
from pathlib import Path
from types import FrameType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets import market_calendar
from datalake_assets.collection.audit import Finding, Thresholds, Verdict
from datalake_assets.collection.bars import empty
from datalake_assets.collection.collect import Fetch, Page
from datalake_assets.collection.errors import (
    PermanentError,
    RefusedError,
    StoppedError,
    TransientError,
)
from datalake_assets.collection.plan import Packing
from datalake_assets.collection.progress import Display, Snapshot
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.report import State
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets.exchange.faults import Arrival, RandomFaults, every_fault
from datalake_assets.exchange.process import ExchangeOptions, ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.coverage import coverage
from datalake_assets.lake.session_file import Session
from datalake_assets.lake.writer import LakeWriter, StoredSession, Written
from datalake_assets.pipeline.publication import (
    CollectionOptions,
    Origin,
    Outcome,
    Publication,
    tell_each,
)
from datalake_assets.sources.alpaca import Account, AlpacaSource
from datalake_assets.sources.transport import Timeouts
from datalake_assets.storage import layout
from datalake_assets.storage.store import ChangedError, Store, StoreError, open_store
from datalake_assets_tests.collection.tables import bar, every, names, table
from datalake_assets_tests.fakes import FakeClock, ScriptedSource
from datalake_assets_tests.lake.files import alike_but_for
from datalake_assets_tests.storage.stores import Interlude, WatchedStore

DAYS = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 15))
MONDAY = DAYS[0]
SYMBOLS = names(200)
AUDIT, PROVENANCE = b"datalake.audit", b"datalake.provenance"

Wanted = Mapping[date, tuple[str, ...]]


def new_lake() -> LakeWriter:
    lake = LakeWriter(open_store("memory://"))
    lake.claim("test")
    return lake


def how(clock: FakeClock | None = None, **given: Any) -> CollectionOptions:
    """Without waiting, one symbol a request and four threads, where nothing else is told."""
    given = {"packing": Packing(symbols=1), "workers": 4, "retry": RetryPolicy(attempts=2)} | given
    limiter = given.pop("limiter", None) or RateLimiter(1e9, clock=clock or FakeClock())
    return CollectionOptions(limiter, **given)


def collect(
    lake: LakeWriter, fetch: Fetch, wanted: Wanted, repair: bool = False, **given: Any
) -> dict[date, Outcome]:
    """Collect and write; the clock is fake, so that nobody waits."""
    clock = given.pop("clock", None) or FakeClock()
    display = given.pop("display", None)
    calendar = given.pop("calendar", lambda day: None)
    whose = {name: given.pop(name) for name in ("inactive", "least") if name in given}
    publication = Publication(wanted, lake, how(clock, **given), repair=repair, **whose)
    origin = Origin("test", DAYS[-1], "run")
    told = publication.run(fetch, origin, display=display, clock=clock, calendar=calendar)
    return {outcome.ledger.session: outcome for outcome in told}


def finding(outcome: Outcome, rule: str) -> Finding:
    (found,) = [each for each in outcome.findings if each.rule == rule]
    return found


def standing(lake: LakeWriter, day: date) -> Session:
    found = lake.stored(day)
    assert found is not None
    return found.session


def object_of(lake: LakeWriter, day: date) -> bytes:
    return lake.store.get(layout.session_key(day))


def on_days(symbols: tuple[str, ...]) -> pa.Table:
    """A bar of each of these symbols on each day."""
    return table([bar(symbol, day) for day in DAYS for symbol in symbols])


def without(fetch: Fetch, lost: frozenset[str], error: Exception) -> Fetch:
    """The source, but a request that names one of these fails."""

    def failing(symbols: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        if lost.intersection(symbols):
            raise error
        return fetch(symbols, first, last, token)

    return failing


# Thresholds


@pytest.mark.parametrize(
    ("lost", "published"), [(0, True), (1, True), (2, True), (3, False), (200, False)]
)
def test_the_success_rate_decides_what_is_published(lost: int, published: bool) -> None:
    # Of 200 symbols: one lost is above the 0.99, two are at it, three below.
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS))
    failing = without(source, frozenset(SYMBOLS[:lost]), PermanentError("HTTP 404: gone"))
    (outcome,) = collect(lake, failing, {MONDAY: SYMBOLS}).values()
    assert outcome.published is published
    assert finding(outcome, "success_rate").value == (200 - lost) / 200
    assert (lake.sessions(), lake.incomplete()) == (([MONDAY], []) if published else ([], [MONDAY]))
    assert outcome.written is not None
    assert lake.store.exists(outcome.written.key)
    ledger = standing(lake, MONDAY).ledger
    assert dict(ledger.failed) == dict.fromkeys(SYMBOLS[:lost], "HTTP 404: gone")
    assert ledger.present == SYMBOLS[lost:]


@pytest.mark.parametrize("count", [1, 10])
def test_a_symbol_that_is_delisted_costs_a_small_universe_no_session(count: int) -> None:
    # The source's own list says that it is inactive.
    symbols, lake = names(count), new_lake()
    collect(lake, ScriptedSource(every(symbols)), {MONDAY: symbols})
    left = ScriptedSource(on_days(symbols[:-1]))
    outcomes = collect(
        lake, left, dict.fromkeys(DAYS[1:8], symbols), inactive=frozenset(symbols[-1:])
    )
    assert [outcome.published for outcome in outcomes.values()] == [True] * 7
    assert lake.incomplete() == []


def test_a_symbol_of_ten_that_falls_silent_costs_no_session_and_is_told() -> None:
    symbols, lake = names(10), new_lake()
    collect(lake, ScriptedSource(every(symbols)), {MONDAY: symbols})
    left = ScriptedSource(on_days(symbols[:-1]))
    outcomes = list(collect(lake, left, dict.fromkeys(DAYS[1:8], symbols)).values())
    assert [outcome.published for outcome in outcomes] == [True] * 7
    told = [finding(outcome, "coverage") for outcome in outcomes]
    # Five sessions later nobody expects it any more.
    assert [one.verdict for one in told] == [Verdict.WARN] * 5 + [Verdict.PASS] * 2
    assert told[0].offenders == symbols[-1:]


def test_a_universe_of_one_is_not_published_empty_however_long_it_is_silent() -> None:
    lake, one, nothing = new_lake(), names(1), ScriptedSource(empty())
    collect(lake, ScriptedSource(every(one)), {MONDAY: one})
    silent = collect(lake, nothing, dict.fromkeys(DAYS[1:], one)).values()
    # After five of them none of the five before is published, and the newest one tells.
    assert [outcome.published for outcome in silent] == [False] * 9
    limits = Thresholds(coverage=0.0)
    accepted = collect(lake, nothing, {DAYS[1]: one}, repair=True, thresholds=limits)
    assert accepted[DAYS[1]].published


def test_sessions_before_the_first_trade_of_a_symbol_are_published_without_a_bar() -> None:
    lake, one = new_lake(), names(1)
    outcomes = collect(lake, ScriptedSource(empty()), dict.fromkeys(DAYS[:8], one)).values()
    assert [outcome.published for outcome in outcomes] == [True] * 8


def test_a_source_that_goes_silent_is_not_believed_once_it_has_been_so_for_a_week() -> None:
    lake = new_lake()
    collect(lake, ScriptedSource(every(SYMBOLS)), {MONDAY: SYMBOLS})
    silent = collect(lake, ScriptedSource(empty()), dict.fromkeys(DAYS[1:], SYMBOLS)).values()
    assert [outcome.published for outcome in silent] == [False] * 9


def test_a_repair_asks_for_the_symbols_that_were_never_asked_for_and_for_no_others() -> None:
    lake, bars = new_lake(), on_days(SYMBOLS[:4])
    collect(lake, ScriptedSource(bars), dict.fromkeys(DAYS[:3], SYMBOLS[:2]))
    source, wanted = ScriptedSource(bars), dict.fromkeys(DAYS[:3], SYMBOLS[:4])
    outcomes = collect(lake, source, wanted, repair=True)
    assert {name for request in source.requests for name in request.symbols} == set(SYMBOLS[2:4])
    assert [outcome.asked for outcome in outcomes.values()] == [2, 2, 2]
    for day in DAYS[:3]:
        assert lake.read(day).ledger.present == SYMBOLS[:4]
    again = ScriptedSource(bars)
    assert [one.asked for one in collect(lake, again, wanted, repair=True).values()] == [0, 0, 0]
    assert again.requests == []


def test_new_symbols_that_fail_leave_what_is_published_as_it_was() -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS))
    collect(lake, source, {MONDAY: SYMBOLS[:2]})
    before = object_of(lake, MONDAY)
    failing = without(source, frozenset(SYMBOLS[2:6]), PermanentError("gone"))
    (outcome,) = collect(lake, failing, {MONDAY: SYMBOLS[:6]}, repair=True).values()
    assert (outcome.published, object_of(lake, MONDAY)) == (False, before)
    collect(lake, source, {MONDAY: SYMBOLS[:6]}, repair=True)
    assert lake.read(MONDAY).ledger.present == SYMBOLS[:6]
    assert lake.incomplete() == []


@pytest.mark.parametrize(("least", "asked"), [(179, 0), (180, 0), (181, 20), (None, 20)])
def test_symbols_listed_since_are_asked_for_only_where_many_are_unknown(
    least: int | None, asked: int
) -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS))
    collect(lake, source, {MONDAY: SYMBOLS[:180]})
    (outcome,) = collect(lake, source, {MONDAY: SYMBOLS}, repair=True, least=least).values()
    assert outcome.asked == asked


def test_a_whole_collection_of_fewer_symbols_does_not_keep_the_others() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS)), FakeClock()
    collect(lake, source, {MONDAY: SYMBOLS[:10]}, clock=clock)
    clock.advance(60)
    collect(lake, source, {MONDAY: SYMBOLS[:4]}, clock=clock)
    assert lake.read(MONDAY).ledger.present == SYMBOLS[:4]


def test_a_threshold_is_what_the_run_says_it_is() -> None:
    source = ScriptedSource(every(SYMBOLS))
    failing = without(source, frozenset(SYMBOLS[:50]), PermanentError("gone"))
    for rate, published in ((0.75, True), (0.7501, False)):
        limits = Thresholds(success_rate=rate)
        (outcome,) = collect(new_lake(), failing, {MONDAY: SYMBOLS}, thresholds=limits).values()
        assert outcome.published is published


def test_what_was_published_stays_when_a_new_collection_does_not_pass() -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS))
    collect(lake, source, {MONDAY: SYMBOLS})
    before = object_of(lake, MONDAY)
    failing = without(source, frozenset(SYMBOLS[:3]), PermanentError("gone"))
    (outcome,) = collect(lake, failing, {MONDAY: SYMBOLS}, clock=FakeClock(start=9.0)).values()
    assert not outcome.published
    assert object_of(lake, MONDAY) == before
    assert lake.incomplete() == [MONDAY]


@pytest.mark.parametrize("repair", [False, True])
def test_no_published_bar_is_taken_back_because_it_could_not_be_had_again(repair: bool) -> None:
    lake, clock = new_lake(), FakeClock()
    collect(lake, ScriptedSource(every(SYMBOLS)), {MONDAY: SYMBOLS}, clock=clock)
    before, lost = lake.read(MONDAY).bars, frozenset(SYMBOLS[:2])
    corrected = [row | {"volume": 7} for row in before.to_pylist()]
    source = ScriptedSource(table(row for row in corrected if row["symbol"] != SYMBOLS[9]))
    if repair:  # of a second look that did not pass
        clock.advance(60)
        worse = without(source, frozenset(SYMBOLS[:5]), PermanentError("gone"))
        collect(lake, worse, {MONDAY: SYMBOLS}, clock=clock)
    clock.advance(60)
    (outcome,) = collect(
        lake, without(source, lost, PermanentError("gone")), {MONDAY: SYMBOLS}, repair, clock=clock
    ).values()

    assert outcome.published
    assert finding(outcome, "success_rate").value == 0.99
    held = lake.read(MONDAY)
    # What the source says is gone is gone, and what it says is otherwise is otherwise.
    assert held.ledger.no_print == (SYMBOLS[9],)
    assert held.bars.slice(0, 2).equals(before.slice(0, 2))
    assert set(held.bars["volume"].to_pylist()[2:]) == {7}
    assert outcome.ledger == held.ledger
    assert outcome.written is not None
    assert [outcome.written.changed(kind) for kind in ("removed", "restated")] == [1, 197]


def test_after_a_failed_run_a_repair_asks_for_what_was_missing_and_makes_the_same_file() -> None:
    clean, lake = new_lake(), new_lake()
    source = ScriptedSource(every(SYMBOLS[3:]))  # three symbols did not trade
    clock = FakeClock()
    collect(clean, source, {MONDAY: SYMBOLS}, clock=clock)
    lost = frozenset((*SYMBOLS[2:5], SYMBOLS[99]))
    collect(lake, without(source, lost, TransientError("HTTP 503")), {MONDAY: SYMBOLS}, clock=clock)
    failed = standing(lake, MONDAY).ledger.failed
    assert frozenset(failed) == lost
    assert all("HTTP 503" in reason for reason in failed.values())

    source.requests.clear()
    (outcome,) = collect(lake, source, {MONDAY: SYMBOLS}, repair=True, clock=clock).values()
    assert sorted(s for asked in source.requests for s in asked.symbols) == sorted(lost)
    assert (outcome.published, outcome.asked) == (True, 4)
    assert lake.incomplete() == []
    assert alike_but_for(object_of(lake, MONDAY), object_of(clean, MONDAY), PROVENANCE)
    assert lake.read(MONDAY).ledger.no_print == SYMBOLS[:3]


def test_a_repair_of_a_whole_session_asks_nothing_and_writes_nothing() -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS))
    collect(lake, source, {MONDAY: SYMBOLS})
    before, requests = object_of(lake, MONDAY), len(source.requests)
    (outcome,) = collect(lake, source, {MONDAY: SYMBOLS}, repair=True).values()
    assert (outcome.published, outcome.written, outcome.asked) == (True, None, 0)
    assert object_of(lake, MONDAY) == before
    assert len(source.requests) == requests


def test_a_repair_that_has_nothing_to_ask_writes_nothing_though_the_audit_is_stricter_now() -> None:
    odd = [row | {"open": 1e6} for row in every(SYMBOLS).to_pylist()]
    lake, source = new_lake(), ScriptedSource(table(odd))
    collect(lake, source, {MONDAY: SYMBOLS}, thresholds=Thresholds(invalid_bars=1.0))
    (outcome,) = collect(lake, source, {MONDAY: SYMBOLS}, repair=True).values()
    assert (outcome.published, outcome.written, lake.incomplete()) == (False, None, [])


def test_a_repair_of_a_session_that_the_lake_lacks_collects_it_whole() -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS, DAYS[:2]))
    collect(lake, source, {DAYS[0]: SYMBOLS})
    outcomes = collect(lake, source, dict.fromkeys(DAYS[:2], SYMBOLS), repair=True)
    assert [outcome.asked for outcome in outcomes.values()] == [0, 200]
    assert lake.sessions() == DAYS[:2]


def test_a_repair_of_what_was_answered_whole_and_did_not_pass_asks_for_all_of_it() -> None:
    lake, clock = new_lake(), FakeClock()
    source = ScriptedSource(every(SYMBOLS, DAYS))
    collect(lake, source, {DAYS[0]: SYMBOLS}, clock=clock)
    collect(lake, ScriptedSource(every(SYMBOLS[:9], DAYS)), {DAYS[1]: SYMBOLS}, clock=clock)
    assert (lake.incomplete(), standing(lake, DAYS[1]).ledger.missing) == ([DAYS[1]], ())
    clock.advance(60)
    (outcome,) = collect(lake, source, {DAYS[1]: SYMBOLS}, repair=True, clock=clock).values()
    assert (outcome.published, outcome.asked, lake.incomplete()) == (True, 200, [])
    assert lake.read(DAYS[1]).ledger.present == SYMBOLS


def test_a_repair_of_what_did_not_pass_asks_for_its_symbols_whatever_is_wanted_now() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS)), FakeClock()
    odd = [row | {"high": -1.0} for row in every(SYMBOLS).to_pylist()]
    collect(lake, ScriptedSource(table(odd)), {MONDAY: SYMBOLS}, clock=clock)
    clock.advance(60)
    wanted = {MONDAY: (SYMBOLS[0], "NEW")}  # of another universe, or of a shorter list
    (outcome,) = collect(lake, source, wanted, repair=True, clock=clock).values()
    assert (outcome.published, outcome.asked) == (True, 201)
    assert lake.read(MONDAY).ledger.present == SYMBOLS


def test_a_repair_of_a_damaged_session_starts_from_what_waits_beside_it() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS)), FakeClock()
    for lost in ((), SYMBOLS[:50]):
        half = without(source, frozenset(lost), PermanentError("gone"))
        collect(lake, half, {MONDAY: SYMBOLS}, clock=clock)
        clock.advance(60)
    lake.store.put(layout.session_key(MONDAY), b"cut short")
    for lost, asked in ((SYMBOLS[10:], 50), ((), 40)):
        half = without(source, frozenset(lost), PermanentError("gone"))
        (outcome,) = collect(lake, half, {MONDAY: SYMBOLS}, repair=True, clock=clock).values()
        assert outcome.asked == asked
        clock.advance(60)
    assert (outcome.published, lake.incomplete()) == (True, [])
    assert lake.read(MONDAY).bars.equals(every(SYMBOLS))


def test_a_repair_publishes_what_an_interruption_left_whole_without_asking() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS)), FakeClock()
    collect(lake, source, {MONDAY: SYMBOLS}, clock=clock)
    whole = lake.read(MONDAY)
    lake.store.delete(layout.session_key(MONDAY))
    lake.keep_incomplete(whole, [])
    (outcome,) = collect(lake, source, {MONDAY: SYMBOLS}, repair=True, clock=clock).values()
    assert (outcome.published, outcome.asked, lake.sessions()) == (True, 0, [MONDAY])


def test_a_repair_that_fails_again_keeps_what_it_did_bring() -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS))
    error = PermanentError("HTTP 404")
    collect(lake, without(source, frozenset(SYMBOLS[:9]), error), {MONDAY: SYMBOLS})
    for left in (6, 3):
        lost = frozenset(SYMBOLS[:left])
        (outcome,) = collect(
            lake, without(source, lost, error), {MONDAY: SYMBOLS}, repair=True
        ).values()
        assert (outcome.published, outcome.asked) == (False, left + 3)
        assert frozenset(standing(lake, MONDAY).ledger.failed) == lost


def test_two_repairs_of_the_same_sessions_at_once_both_end_well() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS, DAYS[:3])), FakeClock()
    wanted = dict.fromkeys(DAYS[:3], SYMBOLS)
    failing = without(source, frozenset(SYMBOLS[:9]), PermanentError("gone"))
    collect(lake, failing, wanted, clock=clock)
    first, second = (Publication(wanted, lake, how(clock), repair=True) for _ in range(2))
    clock.advance(60)
    for repair in (first, second):
        outcomes = list(repair.run(source, Origin("test", DAYS[-1], "run"), clock=clock))
        assert all(outcome.published for outcome in outcomes)
    assert (lake.sessions(), lake.incomplete()) == (DAYS[:3], [])
    assert [lake.read(day).ledger.present for day in DAYS[:3]] == [SYMBOLS] * 3


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.s3)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "lake")
    return str(request.getfixturevalue("s3_lake_uri"))


LOST = SYMBOLS[:60]
GONE = PermanentError("HTTP 404: gone")


def lake_to_repair(uri: str, clock: FakeClock) -> LakeWriter:
    """A lake whose only session waits without `LOST`."""
    lake = LakeWriter(open_store(uri))
    lake.claim("test")
    source = without(ScriptedSource(every(SYMBOLS)), frozenset(LOST), GONE)
    collect(lake, source, {MONDAY: SYMBOLS}, clock=clock)
    assert (lake.sessions(), lake.incomplete()) == ([], [MONDAY])
    clock.advance(60)
    return lake


def assert_whole(lake: LakeWriter) -> None:
    assert (lake.sessions(), lake.incomplete()) == ([MONDAY], [])
    found = lake.read(MONDAY)
    assert (found.ledger.present, found.ledger.missing) == (SYMBOLS, ())
    assert found.bars.equals(every(SYMBOLS))


@pytest.mark.parametrize("reached", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("writes", [1, 2, 3])
@pytest.mark.parametrize("second", ["the other half", "all", "all but one", "a whole collection"])
def test_whatever_another_writes_meanwhile_a_repair_loses_none_of_it(
    second: str, writes: int, reached: bool
) -> None:
    """The repair brings every other symbol; the interlude comes at each of its writes."""
    clock = FakeClock()
    lake, source = lake_to_repair("memory://", clock), ScriptedSource(every(SYMBOLS))
    missed = {"the other half": LOST[1::2], "all but one": LOST[:1]}.get(second, ())

    def meanwhile() -> None:
        clock.advance(60)
        fetch = without(source, frozenset(missed), GONE)
        repair = second != "a whole collection"
        collect(lake, fetch, {MONDAY: SYMBOLS}, repair=repair, clock=clock)

    interlude = Interlude(writes, reached, meanwhile)
    watched = LakeWriter(WatchedStore(lake.store, **interlude.moments))
    half = without(source, frozenset(LOST[::2]), GONE)
    collect(watched, half, {MONDAY: SYMBOLS}, repair=True, clock=clock)
    assert interlude.happened or writes > 1
    if not interlude.happened:
        meanwhile()
    if second == "all but one":  # the one is among those that the first brought not
        assert lake.read(MONDAY).ledger.missing == LOST[:1]
        clock.advance(60)
        collect(lake, source, {MONDAY: SYMBOLS}, repair=True, clock=clock)
    assert_whole(lake)


def test_two_repairs_that_answer_at_the_same_moment_are_merged(uri: str) -> None:
    clock = FakeClock()
    lake = lake_to_repair(uri, clock)
    at_once = threading.Barrier(2, timeout=60)

    def repair(missed: tuple[str, ...]) -> None:
        mine = LakeWriter(open_store(uri))
        source = without(ScriptedSource(every(SYMBOLS)), frozenset(missed), GONE)
        publication = Publication({MONDAY: SYMBOLS}, mine, how(clock), repair=True)
        at_once.wait()  # both start from the same
        list(publication.run(source, Origin("test", DAYS[-1], "run"), clock=clock))

    for first, second in ((LOST[::2], LOST[1::2]), (LOST[1::2], LOST[::2]), (LOST, ())):
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(repair, (first, second)))
    assert_whole(lake)


# Sessions are published while others are audited


class Publishing(LakeWriter):
    """A lake in which something happens before a session is encoded and written."""

    def __init__(self, store: Store, before: Callable[[date], object]) -> None:
        super().__init__(store)
        self._before = before

    def publish(self, session: Session, *given: Any, **options: Any) -> Written:
        self._before(session.ledger.session)
        return super().publish(session, *given, **options)


def told_until(
    error: type[BaseException], lake: LakeWriter, fetch: Fetch, clock: FakeClock | None = None
) -> list[date]:
    """The sessions of `DAYS` that are told before the collection ends with an error."""
    clock = clock or FakeClock()
    publication = Publication(dict.fromkeys(DAYS, SYMBOLS), lake, how(clock))
    outcomes = publication.run(fetch, Origin("test", DAYS[-1], "run"), clock=clock)
    told: dict[date, Outcome] = {}
    with pytest.raises(error):
        tell_each(outcomes, lambda outcome: told.update({outcome.ledger.session: outcome}))
    return list(told)


def test_sessions_are_told_in_their_order_however_long_each_takes_to_write() -> None:
    second_is_there = threading.Event()

    def first_waits(day: date) -> None:
        assert day != DAYS[0] or second_is_there.wait(60)

    def written(verb: str, key: str) -> None:
        if key == layout.session_key(DAYS[1]):
            second_is_there.set()

    store = WatchedStore(new_lake().store, after=written)
    source = ScriptedSource(every(SYMBOLS, DAYS))
    outcomes = collect(Publishing(store, first_waits), source, dict.fromkeys(DAYS, SYMBOLS))
    assert list(outcomes) == DAYS
    assert sorted(key for verb, key in store.written if verb == "replace") == [
        layout.session_key(day) for day in DAYS
    ]
    # Each is held against those before it, though they were not written yet.
    assert finding(outcomes[DAYS[0]], "coverage").value is None
    assert {finding(outcomes[day], "coverage").value for day in DAYS[1:]} == {1.0}


@pytest.mark.parametrize("error", [StoreError("no space left"), MemoryError()])
@pytest.mark.parametrize("broken", [0, 2, 6])
def test_a_session_that_cannot_be_written_costs_no_other_and_no_answer(
    broken: int, error: Exception
) -> None:
    def fails(day: date) -> None:
        if day == DAYS[broken]:
            raise error

    lake, source = new_lake(), ScriptedSource(every(SYMBOLS, DAYS))
    wanted, clock = dict.fromkeys(DAYS, SYMBOLS), FakeClock()
    told = told_until(type(error), Publishing(lake.store, fails), source, clock)
    assert told[:broken] == DAYS[:broken]
    # Whoever reads the outcomes is told of each that is published, before the error.
    assert (lake.sessions(), lake.incomplete()) == (told, [day for day in DAYS if day not in told])
    requests = len(source.requests)
    collect(lake, source, wanted, repair=True, clock=clock)
    assert (lake.sessions(), lake.incomplete()) == (DAYS, [])
    assert len(source.requests) == requests


def test_a_session_that_cannot_be_looked_for_is_told_when_its_turn_comes() -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS, DAYS))
    lost = frozenset(SYMBOLS[:1])  # so that what is published of it is waited for at once

    def fails(day: date) -> None:
        if day == DAYS[3]:
            raise StoreError("no connection")

    failing = without(source, lost, GONE)
    with pytest.raises(StoreError, match="no connection"):
        collect(Publishing(lake.store, fails), failing, dict.fromkeys(DAYS, SYMBOLS))
    assert lake.sessions()[:3] == DAYS[:3]
    assert DAYS[3] in lake.incomplete()
    assert sorted([*lake.sessions(), *lake.incomplete()]) == DAYS


@pytest.mark.parametrize(("failures", "good"), [(1, True), (2, False)])
def test_a_session_that_cannot_be_read_ahead_is_read_once_more_when_its_turn_comes(
    failures: int, good: bool
) -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS, DAYS)), FakeClock()
    wanted = dict.fromkeys(DAYS, SYMBOLS)
    collect(lake, without(source, frozenset(LOST), GONE), wanted, clock=clock)
    assert lake.incomplete() == DAYS
    clock.advance(60)
    looked: list[date] = []

    class Unsteady(LakeWriter):
        def stored(self, day: date) -> StoredSession | None:
            looked.append(day)
            # The first look is before anything is asked.
            if day == DAYS[3] and 1 < looked.count(day) <= 1 + failures:
                raise StoreError("no connection")
            return super().stored(day)

    def repaired() -> None:
        collect(Unsteady(lake.store), source, wanted, repair=True, clock=clock)

    if good:
        repaired()
        assert (lake.sessions(), lake.incomplete()) == (DAYS, [])
    else:
        with pytest.raises(StoreError, match="no connection"):
            repaired()
        assert (lake.sessions(), lake.incomplete()) == (DAYS[:3], DAYS[3:])
    assert looked.count(DAYS[3]) == 3 + (not good)  # and once more to keep what was answered


def test_an_interruption_waits_for_what_is_being_written_and_tells_of_it() -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS, DAYS))
    begun, interrupted = threading.Event(), threading.Event()

    def second_is_slow(day: date) -> None:
        if day == DAYS[1]:
            begun.set()
            assert interrupted.wait(60)
        elif day == DAYS[0]:
            assert begun.wait(60)
            interrupted.set()
            raise KeyboardInterrupt  # as it reaches whoever waits for the first

    told = told_until(KeyboardInterrupt, Publishing(lake.store, second_is_slow), source)
    assert DAYS[1] in told
    assert (lake.sessions(), lake.incomplete()) == (told, [day for day in DAYS if day not in told])


def test_an_interruption_while_a_session_with_lost_symbols_is_written_tells_of_it_too() -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS, DAYS))
    main = threading.main_thread().ident
    assert main is not None

    def interrupts(day: date) -> None:
        if day == DAYS[2]:
            # The run waits for this session, of which symbols are lost, or is about to.
            signal.pthread_kill(main, signal.SIGINT)

    failing = without(source, frozenset(SYMBOLS[:1]), GONE)
    told = told_until(KeyboardInterrupt, Publishing(lake.store, interrupts), failing)
    assert DAYS[2] in told
    assert (lake.sessions(), lake.incomplete()) == (told, [day for day in DAYS if day not in told])


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("failures", [1, 2])
def test_who_is_interrupted_while_telling_is_told_of_what_was_published_by_then(
    failures: int, noted: bool
) -> None:
    fourth_is_there = threading.Event()

    def written(verb: str, key: str) -> None:
        if key == layout.session_key(DAYS[3]):
            fourth_is_there.set()

    lake, source = new_lake(), ScriptedSource(every(SYMBOLS, DAYS))
    publication = Publication(
        dict.fromkeys(DAYS, SYMBOLS), LakeWriter(WatchedStore(lake.store, after=written)), how()
    )
    outcomes = publication.run(source, Origin("test", MONDAY, "run"), clock=FakeClock())
    told: dict[date, Outcome] = {}
    calls: list[date] = []

    def tell(outcome: Outcome) -> None:
        day = outcome.ledger.session
        calls.append(day)
        if noted:
            told[day] = outcome
        if len(calls) <= failures:
            assert fourth_is_there.wait(60)
            raise KeyboardInterrupt
        told[day] = outcome

    with pytest.raises(KeyboardInterrupt):
        tell_each(outcomes, tell)
    assert calls[:2] == [MONDAY, MONDAY], "nobody knows how far the first call came"
    assert sorted([*lake.sessions(), *lake.incomplete()]) == DAYS
    if failures == 1:
        assert DAYS[3] in told
        assert list(told) == lake.sessions()
    else:
        assert list(told) == ([MONDAY] if noted else []), "interrupted twice, it ends at once"


class InterruptedAt:
    """Ctrl-C before the line that is run as the nth of a file, in the thread that traces.

    Args:
        file: Whose lines count.
        line: Which of them; None: none.

    Attributes:
        lines: How many were run.
    """

    def __init__(self, file: str, line: int | None = None) -> None:
        self._file, self._line = file, line
        self.lines = 0

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, given: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename != self._file:
            return None
        # Python looks for signals at calls and in loops. A `try` alone is neither, and an error
        # there is not even one of the `try` around it.
        if event == "line" and getline(self._file, frame.f_lineno).strip() != "try:":
            self.lines += 1
            if self.lines == self._line:
                raise KeyboardInterrupt
        return self._trace


def test_wherever_a_run_is_interrupted_all_that_is_published_is_told_and_nothing_else() -> None:
    days, symbols = DAYS[:3], SYMBOLS[:3]
    wanted, source = dict.fromkeys(days, symbols), ScriptedSource(every(symbols, days))

    def run(line: int | None) -> tuple[LakeWriter, list[date], int]:
        lake, told = new_lake(), dict[date, Outcome]()
        outcomes = Publication(wanted, lake, how()).run(
            source, Origin("test", MONDAY, "run"), clock=FakeClock()
        )

        def tell(outcome: Outcome) -> None:
            told[outcome.ledger.session] = outcome

        with InterruptedAt(tell_each.__code__.co_filename, line) as tracing:
            if line is None:
                tell_each(outcomes, tell)
            else:
                with pytest.raises(KeyboardInterrupt):
                    tell_each(outcomes, tell)
        return lake, list(told), tracing.lines

    lake, told, lines = run(None)
    assert lake.sessions() == told == days
    partly = 0
    for line in range(1, lines + 1):
        lake, told, _ = run(line)
        assert lake.sessions() == told, f"at line {line:,} of {lines:,}"
        assert not {*told}.intersection(lake.incomplete()), f"at line {line:,} of {lines:,}"
        partly += 0 < len(told) < len(days)
    assert partly, "some interruption came while sessions were being written"


def test_what_somebody_else_published_meanwhile_is_known_to_the_sessions_after_it() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS, DAYS)), FakeClock()
    failing = without(source, frozenset(SYMBOLS[:1]), GONE)

    def meanwhile() -> None:
        collect(lake, source, {MONDAY: SYMBOLS}, clock=clock)

    interlude = Interlude(1, False, meanwhile)
    watched = LakeWriter(WatchedStore(lake.store, **interlude.moments))
    outcomes = collect(watched, failing, dict.fromkeys(DAYS[:3], SYMBOLS), clock=clock)
    assert interlude.happened
    assert outcomes[MONDAY].ledger.present == SYMBOLS  # with the other's bar
    # So a bar of it is expected of the sessions after it.
    assert [finding(outcomes[day], "coverage").value for day in DAYS[1:3]] == [0.995, 0.995]


class Counting(Store):
    """A store that counts what it is asked for, by verb."""

    def __init__(self, store: Store) -> None:
        vars(self).update(vars(store))
        self.asked: Counter[str] = Counter()

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        self.asked["get"] += 1
        return super().get_versioned(key)

    def delete(self, key: str) -> None:
        self.asked["delete"] += 1
        super().delete(key)


@pytest.mark.parametrize("count", [15, 16, 17])
def test_many_new_sessions_are_looked_for_in_the_list_of_the_lake(count: int) -> None:
    days = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 31))[:count]
    store = Counting(new_lake().store)
    bars = every(SYMBOLS, days)
    outcomes = collect(LakeWriter(store), ScriptedSource(bars), dict.fromkeys(days, SYMBOLS))
    assert all(outcome.published for outcome in outcomes.values())
    assert store.asked == ({} if count >= 16 else {"get": count, "delete": count})


def test_a_session_published_since_the_lake_was_listed_is_compared_and_stays_told() -> None:
    days = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 31))[:16]
    lake, clock, bars = new_lake(), FakeClock(), every(SYMBOLS, days)
    source = ScriptedSource(bars)
    publication = Publication(dict.fromkeys(days, SYMBOLS), lake, how(clock))
    clock.advance(60)
    collect(lake, without(source, frozenset(SYMBOLS[:1]), GONE), {days[0]: SYMBOLS}, clock=clock)
    waiting = lake.store.get(layout.session_key(days[0]))
    lake.store.put(layout.incomplete_key(days[0]), waiting)
    clock.advance(60)
    told = list(publication.run(source, Origin("test", days[-1], "run"), clock=clock))
    assert [outcome.published for outcome in told] == [True] * 16
    assert told[0].written is not None
    assert told[0].written.changed("added") == 1
    assert told[1].written is not None
    assert told[1].written.changes is None
    assert (lake.sessions(), lake.incomplete()) == (days, [])
    assert lake.read(days[0]).ledger.present == SYMBOLS


def test_what_waits_of_a_session_that_was_collected_again_since_stays() -> None:
    days = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 31))[:16]
    lake, clock, source = new_lake(), FakeClock(), ScriptedSource(every(SYMBOLS, days))
    publication = Publication(dict.fromkeys(days, SYMBOLS), lake, how(clock))
    outcomes = publication.run(source, Origin("test", days[-1], "run"), clock=clock)
    next(outcomes)
    clock.advance(3600)
    failing = without(source, frozenset(SYMBOLS[:20]), GONE)
    collect(lake, failing, {days[0]: SYMBOLS}, clock=clock)
    assert lake.incomplete() == days[:1]
    for _ in outcomes:
        pass
    assert lake.sessions() == days
    assert lake.incomplete() == days[:1]
    assert coverage(lake, days).to_repair == days[:1]


def test_what_waits_of_a_session_since_the_lake_was_listed_goes_when_it_is_published() -> None:
    days = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 31))[:16]
    lake, clock, source = new_lake(), FakeClock(), ScriptedSource(every(SYMBOLS, days))
    publication = Publication(dict.fromkeys(days, SYMBOLS), lake, how(clock))
    clock.advance(60)
    failing = without(source, frozenset(SYMBOLS[:20]), GONE)
    collect(lake, failing, {days[0]: SYMBOLS}, clock=clock)
    assert lake.incomplete() == days[:1]
    clock.advance(60)
    for _ in publication.run(source, Origin("test", days[-1], "run"), clock=clock):
        pass
    assert (lake.sessions(), lake.incomplete()) == (days, [])
    assert coverage(lake, days).to_repair == []


def test_a_repair_whose_session_another_repair_wrote_goes_on_from_there() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS, DAYS)), FakeClock()
    wanted = dict.fromkeys(DAYS[:4], SYMBOLS)
    collect(lake, without(source, frozenset(LOST), GONE), wanted, clock=clock)
    assert lake.incomplete() == DAYS[:4]
    clock.advance(60)

    def meanwhile() -> None:
        collect(lake, source, wanted, repair=True, clock=clock)

    interlude = Interlude(3, False, meanwhile)  # two writes a session
    watched = LakeWriter(WatchedStore(lake.store, **interlude.moments))
    outcomes = collect(watched, source, wanted, repair=True, clock=clock)
    assert interlude.happened
    assert list(outcomes) == DAYS[:4]
    assert (lake.sessions(), lake.incomplete()) == (DAYS[:4], [])
    assert [lake.read(day).ledger.present for day in DAYS[:4]] == [SYMBOLS] * 4


def test_a_session_that_is_audited_again_forgets_none_that_are_being_published() -> None:
    days = market_calendar.sessions(date(2024, 7, 1), date(2024, 7, 31))[:17]
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS, days)), FakeClock()
    wanted = dict.fromkeys(days, SYMBOLS)
    collect(lake, without(source, frozenset(SYMBOLS[:20]), GONE), wanted, clock=clock)
    clock.advance(60)
    turns = Counter[date]()

    def once_too_late(day: date) -> None:
        turns[day] += 1
        if day == days[0] and turns[day] == 1:
            raise ChangedError("another repair wrote it")

    noting = NotingPublishing(lake.store, once_too_late)
    collect(noting, source, wanted, repair=True, clock=clock)
    assert turns[days[0]] == 2
    assert not set(days).intersection(noting.noted), "what this run published is known to it"


def test_a_repair_also_mends_a_session_that_was_published_with_a_few_failures() -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS))
    failing = without(source, frozenset(SYMBOLS[:2]), PermanentError("gone"))
    collect(lake, failing, {MONDAY: SYMBOLS})
    assert lake.sessions() == [MONDAY]
    (outcome,) = collect(lake, source, {MONDAY: SYMBOLS}, repair=True).values()
    assert outcome.written is not None
    assert (
        outcome.written.changed("added"),
        outcome.written.changed("removed"),
        outcome.written.changed("restated"),
    ) == (2, 0, 0)
    assert lake.read(MONDAY).ledger.missing == ()


def test_a_repair_clears_away_the_incomplete_session_that_a_killed_run_left() -> None:
    # Killed between its two steps: the new session is published, the older half still there.
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS)), FakeClock()
    failing = without(source, frozenset(SYMBOLS[:9]), PermanentError("gone"))
    collect(lake, failing, {MONDAY: SYMBOLS}, clock=clock)
    half = lake.store.get(layout.incomplete_key(MONDAY))
    clock.advance(60)
    collect(lake, source, {MONDAY: SYMBOLS}, repair=True, clock=clock)
    lake.store.put(layout.incomplete_key(MONDAY), half)

    collect(lake, source, {MONDAY: SYMBOLS}, repair=True, clock=clock)
    assert coverage(lake, [MONDAY]).to_repair == []
    assert lake.incomplete() == []
    assert lake.read(MONDAY).ledger.present == SYMBOLS


def test_a_repair_of_a_whole_session_leaves_what_another_collection_left_since() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS)), FakeClock()
    collect(lake, source, {MONDAY: SYMBOLS}, clock=clock)
    repair = Publication({MONDAY: SYMBOLS}, lake, how(clock), repair=True)
    clock.advance(60)
    failing = without(source, frozenset(SYMBOLS[:1]), PermanentError("gone"))
    strict = Thresholds(success_rate=1.0, unanswered_allowed=0)
    collect(lake, failing, {MONDAY: SYMBOLS}, clock=clock, thresholds=strict)

    list(repair.run(source, Origin("test", MONDAY, "run"), clock=clock))
    assert lake.incomplete() == [MONDAY]
    assert lake.read(MONDAY).ledger.present == SYMBOLS
    collect(lake, source, {MONDAY: SYMBOLS}, repair=True, clock=clock)
    assert (lake.incomplete(), lake.read(MONDAY).ledger.present) == ([], SYMBOLS)


def test_collecting_the_same_answers_again_writes_nothing() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS[9:])), FakeClock()
    collect(lake, source, {MONDAY: SYMBOLS}, clock=clock)
    before = lake.store.versions()
    clock.advance(86_400)
    (outcome,) = collect(lake, source, {MONDAY: SYMBOLS}, clock=clock, workers=1).values()
    assert outcome.published
    assert outcome.written is not None
    assert outcome.written.unchanged
    assert outcome.written.size == lake.store.size(layout.session_key(MONDAY))
    assert (
        outcome.written.changed("added"),
        outcome.written.changed("removed"),
        outcome.written.changed("restated"),
    ) == (0, 0, 0)
    assert lake.store.versions() == before


# A range of sessions


def test_a_session_that_does_not_pass_keeps_none_of_the_others_back() -> None:
    rows = every(SYMBOLS, DAYS).to_pylist()
    for row in rows:
        if row["session"] == DAYS[2] and row["symbol"] in SYMBOLS[:5]:
            row["high"] = row["low"] / 2  # impossible prices, above the share that is only told
    rows = [r for r in rows if r["session"] != DAYS[5] or r["symbol"] not in SYMBOLS[:20]]
    lake = new_lake()
    packing = Packing(bars=9_900, symbols=500)
    outcomes = collect(
        lake, ScriptedSource(table(rows)), dict.fromkeys(DAYS, SYMBOLS), packing=packing
    )
    assert list(outcomes) == DAYS
    bad = [day for day, outcome in outcomes.items() if not outcome.published]
    assert bad == [DAYS[2], DAYS[5]]
    assert lake.incomplete() == bad
    assert lake.sessions() == [day for day in DAYS if day not in bad]
    assert finding(outcomes[DAYS[2]], "valid_prices").verdict is Verdict.FAIL
    assert finding(outcomes[DAYS[2]], "valid_prices").offenders == SYMBOLS[:5]
    assert finding(outcomes[DAYS[5]], "coverage").verdict is Verdict.FAIL


def rolling() -> tuple[pa.Table, dict[date, str]]:
    """Bars in which one symbol more prints in each session, and in no other."""
    once = {day: f"X{position}" for position, day in enumerate(DAYS)}
    parts = [every((*SYMBOLS, once[day]), [day]) for day in DAYS]
    return pa.concat_tables(parts), once


def test_what_is_expected_rolls_along_inside_a_range() -> None:
    bars, once = rolling()
    symbols = (*SYMBOLS, *once.values())
    lake = new_lake()
    outcomes = collect(lake, ScriptedSource(bars), dict.fromkeys(DAYS, symbols))
    for position, day in enumerate(DAYS):
        found = finding(outcomes[day], "coverage")
        if not position:
            assert found.value is None
            continue
        before = tuple(once[earlier] for earlier in DAYS[max(0, position - 5) : position])
        assert found.value == pytest.approx(200 / (200 + len(before)))
        assert found.offenders == before
    assert lake.sessions() == DAYS


class Noting(LakeWriter):
    """A lake that notes which sessions are read from it to know what printed."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.noted: list[date] = []

    def printed(self, days: Iterable[date]) -> dict[date, Mapping[str, int]]:
        self.noted += (asked := list(days))
        return super().printed(asked)


class NotingPublishing(Noting, Publishing):
    """Both."""

    def __init__(self, store: Store, before: Callable[[date], object]) -> None:
        Publishing.__init__(self, store, before)
        self.noted = []


def test_a_range_reads_only_what_lies_before_it_and_each_session_once() -> None:
    lake = Noting(open_store("memory://"))
    collect(lake, ScriptedSource(every(SYMBOLS, DAYS)), dict.fromkeys(DAYS[3:], SYMBOLS))
    assert lake.noted == market_calendar.previous_sessions(DAYS[3], 5)


def test_a_range_expects_what_printed_in_the_sessions_that_the_lake_holds_already() -> None:
    bars, once = rolling()
    wanted = dict.fromkeys(DAYS, (*SYMBOLS, *once.values()))
    at_once, lake = new_lake(), new_lake()
    together = collect(at_once, ScriptedSource(bars), wanted)
    parts: dict[date, Outcome] = {}
    for part in (DAYS[:4], DAYS[4:5], DAYS[5:]):
        parts |= collect(lake, ScriptedSource(bars), {day: wanted[day] for day in part})
    for day in DAYS:
        assert parts[day].findings == together[day].findings
        assert alike_but_for(object_of(lake, day), object_of(at_once, day), PROVENANCE)


def test_a_session_that_was_not_published_is_no_measure_for_the_next() -> None:
    bars, once = rolling()
    wanted = dict.fromkeys(DAYS[:4], (*SYMBOLS, *once.values()))
    rows = bars.filter(
        pc.invert(
            pc.and_(
                pc.equal(bars["session"], pa.scalar(DAYS[1], pa.date32())),
                pc.is_in(bars["symbol"], pa.array(SYMBOLS[:50])),
            )
        )
    )
    outcomes = collect(new_lake(), ScriptedSource(rows), wanted)
    assert not outcomes[DAYS[1]].published
    assert finding(outcomes[DAYS[2]], "coverage").offenders == (once[DAYS[0]],)
    assert finding(outcomes[DAYS[3]], "coverage").offenders == (once[DAYS[0]], once[DAYS[2]])


def test_a_damaged_session_before_keeps_no_session_from_being_published() -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS, DAYS))
    collect(lake, source, dict.fromkeys(DAYS[:2], SYMBOLS))
    lake.store.put(layout.session_key(DAYS[0]), b"PAR1 damaged PAR1")
    outcomes = collect(lake, source, dict.fromkeys(DAYS[2:4], SYMBOLS))
    assert [outcome.published for outcome in outcomes.values()] == [True, True]
    assert finding(outcomes[DAYS[2]], "coverage").value == 1.0, "compared with the whole one"


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("waiting", [False, True])
def test_a_damaged_session_is_mended_by_collecting_it_again(repair: bool, waiting: bool) -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS, DAYS))
    collect(lake, source, dict.fromkeys(DAYS, SYMBOLS))
    whole = object_of(lake, DAYS[3])
    key = layout.incomplete_key(DAYS[3]) if waiting else layout.session_key(DAYS[3])
    lake.store.put(key, whole[:5000])
    (outcome,) = collect(lake, source, {DAYS[3]: SYMBOLS}, repair=repair).values()
    assert (outcome.published, outcome.asked) == (True, 200)
    assert alike_but_for(object_of(lake, DAYS[3]), whole, PROVENANCE)
    assert lake.incomplete() == []


def test_symbols_may_differ_from_session_to_session() -> None:
    wanted = {DAYS[0]: SYMBOLS[:9], DAYS[1]: SYMBOLS[:7], DAYS[2]: SYMBOLS[2:]}
    lake = new_lake()
    collect(lake, ScriptedSource(every(SYMBOLS, DAYS)), wanted)
    assert {day: lake.read(day).ledger.present for day in lake.sessions()} == wanted


# Sessions without a bar

NOBODY = ScriptedSource(every((), ()))
CLOSED = f"no session on {MONDAY}: the exchange was closed. Declare it: DATALAKE_CLOSURES={MONDAY}"


@pytest.mark.parametrize(
    ("held", "published", "said"),
    [
        (None, True, ""),
        (True, True, "the source's calendar has a session on this day"),
        (False, False, CLOSED),
    ],
)
def test_the_source_s_calendar_is_asked_about_a_session_without_a_bar(
    held: bool | None, published: bool, said: str
) -> None:
    """At the start of history nothing is expected, so the audit alone would let it pass."""
    lake, asked = new_lake(), []

    def calendar(day: date) -> bool | None:
        asked.append(day)
        return held

    (outcome,) = collect(lake, NOBODY, {MONDAY: SYMBOLS}, calendar=calendar).values()

    assert asked == [MONDAY]
    assert outcome.published == published
    assert outcome.closed == (held is False)
    assert finding(outcome, "coverage").detail.endswith(said)
    assert lake.sessions() == ([MONDAY] if published else [])
    assert lake.incomplete() == []


def test_the_calendar_is_not_asked_when_one_symbol_has_a_bar_or_none_was_answered() -> None:
    def calendar(day: date) -> bool | None:
        raise AssertionError("nobody needs it")

    source = ScriptedSource(every(SYMBOLS[:1]))
    down = without(source, frozenset(SYMBOLS), PermanentError("down"))
    for fetch in (source, down):
        collect(new_lake(), fetch, {MONDAY: SYMBOLS}, calendar=calendar)


def test_a_closure_takes_nothing_back_that_was_published() -> None:
    lake, clock = new_lake(), FakeClock()
    collect(lake, ScriptedSource(every(SYMBOLS)), {MONDAY: SYMBOLS}, clock=clock)
    before = object_of(lake, MONDAY)
    clock.advance(60)
    collect(lake, NOBODY, {MONDAY: SYMBOLS}, clock=clock, calendar=lambda day: False)
    assert object_of(lake, MONDAY) == before


# Interruptions


class Interrupting(Display):
    """A user who presses Ctrl-C when so many chunks are done."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        if snapshot.chunks_done >= self._chunks and not final:
            raise KeyboardInterrupt


@contextmanager
def stuck_after(fetch: Fetch, requests: int, clock: FakeClock) -> Iterator[Fetch]:
    """The source, silent from this request on: until the end of the block.

    Time passes with each request that it is silent to, or nobody would look how far it is.
    """
    lock, over = threading.Lock(), threading.Event()
    asked = 0

    def answering(symbols: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        nonlocal asked
        with lock:
            asked += 1
            silent = asked > requests
        if silent:
            clock.advance(1.0)
            over.wait(60)
            raise StoppedError("nobody waits for it any more")
        return fetch(symbols, first, last, token)

    try:
        yield answering
    finally:
        over.set()


def test_an_interrupted_collection_keeps_what_was_answered_and_a_repair_brings_the_rest() -> None:
    clean, lake, clock = new_lake(), new_lake(), FakeClock()
    source = ScriptedSource(every(SYMBOLS, DAYS[:2]))
    wanted = dict.fromkeys(DAYS[:2], SYMBOLS)
    collect(clean, source, wanted, clock=clock)

    with stuck_after(source, 120, clock) as stuck, pytest.raises(KeyboardInterrupt):
        collect(lake, stuck, wanted, clock=clock, display=Interrupting(120))
    assert lake.sessions() == []
    assert lake.incomplete() == DAYS[:2]
    for day in DAYS[:2]:
        ledger = standing(lake, day).ledger
        assert ledger.symbols == frozenset(SYMBOLS)
        assert (len(ledger.present), len(ledger.pending)) == (120, 80)
        assert not ledger.failed
        assert standing(lake, day).provenance.interrupted, "so no sensor goes on with it"

    source.requests.clear()
    pending = standing(lake, DAYS[0]).ledger.pending
    outcomes = collect(lake, source, wanted, repair=True, clock=clock)
    assert sorted(s for asked in source.requests for s in asked.symbols) == sorted(pending)
    assert all(outcome.published for outcome in outcomes.values())
    assert lake.incomplete() == []
    for day in DAYS[:2]:
        assert alike_but_for(object_of(lake, day), object_of(clean, day), PROVENANCE)


def test_an_interruption_before_any_answer_leaves_the_lake_as_it_was() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS)), FakeClock()
    with stuck_after(source, 0, clock) as stuck, pytest.raises(KeyboardInterrupt):
        collect(lake, stuck, {MONDAY: SYMBOLS}, display=Interrupting(0), clock=clock)
    assert lake.sessions() == lake.incomplete() == []


def test_an_interrupted_repair_keeps_what_stood() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS)), FakeClock()
    failing = without(source, frozenset(SYMBOLS[:50]), PermanentError("gone"))
    collect(lake, failing, {MONDAY: SYMBOLS}, clock=clock)
    with stuck_after(source, 20, clock) as stuck, pytest.raises(KeyboardInterrupt):
        collect(lake, stuck, {MONDAY: SYMBOLS}, repair=True, clock=clock, display=Interrupting(20))
    ledger = standing(lake, MONDAY).ledger
    assert ledger.symbols == frozenset(SYMBOLS)
    assert (len(ledger.present), len(ledger.missing)) == (170, 30)
    (outcome,) = collect(lake, source, {MONDAY: SYMBOLS}, repair=True, clock=clock).values()
    assert outcome.published


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_collection_that_gets_less_keeps_what_an_earlier_one_got(interrupted: bool) -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS[1:])), FakeClock()
    failing = without(source, frozenset(SYMBOLS[-9:]), PermanentError("gone"))
    collect(lake, failing, {MONDAY: SYMBOLS}, clock=clock)
    clock.advance(60)
    if interrupted:
        with stuck_after(source, 20, clock) as stuck, pytest.raises(KeyboardInterrupt):
            collect(lake, stuck, {MONDAY: SYMBOLS}, clock=clock, display=Interrupting(20))
    else:
        down = without(source, frozenset(SYMBOLS), PermanentError("down"))
        collect(lake, down, {MONDAY: SYMBOLS}, clock=clock)

    ledger = standing(lake, MONDAY).ledger
    assert ledger.symbols == frozenset(SYMBOLS)
    assert ledger.missing == SYMBOLS[-9:]
    again = ScriptedSource(every(SYMBOLS[1:]))  # of the other, threads may still ask
    (outcome,) = collect(lake, again, {MONDAY: SYMBOLS}, repair=True, clock=clock).values()
    assert (outcome.published, len(again.requests)) == (True, 9)
    assert lake.read(MONDAY).bars.equals(every(SYMBOLS[1:]))


def test_two_collections_that_have_all_symbols_between_them_publish_the_session() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS)), FakeClock()
    halves = frozenset(SYMBOLS[:100]), frozenset(SYMBOLS[100:])
    published = []
    for lost in halves:
        gone = without(source, lost, PermanentError("gone"))
        (outcome,) = collect(lake, gone, {MONDAY: SYMBOLS}, clock=clock).values()
        assert outcome.ledger == standing(lake, MONDAY).ledger
        assert finding(outcome, "success_rate").value == outcome.ledger.success_rate
        published.append(outcome.published)
        clock.advance(60)
    assert (published, lake.incomplete()) == ([False, True], [])
    assert lake.read(MONDAY).bars.equals(every(SYMBOLS))


def test_a_symbol_that_fails_keeps_what_waits_of_it_rather_than_what_is_published() -> None:
    lake, clock, gone = new_lake(), FakeClock(), PermanentError("gone")
    collect(lake, ScriptedSource(every(SYMBOLS)), {MONDAY: SYMBOLS}, clock=clock)
    corrected = table(row | {"volume": 7} for row in every(SYMBOLS).to_pylist())
    for lost in (SYMBOLS[-9:], SYMBOLS[:1]):  # two attempts at a second look
        clock.advance(60)
        source = without(ScriptedSource(corrected), frozenset(lost), gone)
        (outcome,) = collect(lake, source, {MONDAY: SYMBOLS}, clock=clock).values()
    assert (outcome.published, lake.incomplete()) == (True, [])
    assert lake.read(MONDAY).bars.equals(corrected)


def test_a_collection_that_gets_too_little_tells_of_all_that_waits_after_it() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS)), FakeClock()
    for lost in (SYMBOLS[:50], SYMBOLS[40:]):
        gone = without(source, frozenset(lost), PermanentError("gone"))
        (outcome,) = collect(lake, gone, {MONDAY: SYMBOLS}, clock=clock).values()
        clock.advance(60)
    assert not outcome.published
    assert outcome.ledger == standing(lake, MONDAY).ledger
    assert outcome.ledger.missing == SYMBOLS[40:50]
    assert finding(outcome, "success_rate").value == 0.95


def test_a_half_collected_second_look_takes_nothing_of_an_older_incomplete_one() -> None:
    lake, clock = new_lake(), FakeClock()
    old = [row | {"volume": 1} for row in every(SYMBOLS).to_pylist()]
    failing = without(ScriptedSource(table(old)), frozenset(SYMBOLS[:9]), PermanentError("gone"))
    collect(lake, failing, {MONDAY: SYMBOLS}, clock=clock)
    half, source = lake.store.get(layout.incomplete_key(MONDAY)), ScriptedSource(every(SYMBOLS))
    clock.advance(60)
    collect(lake, source, {MONDAY: SYMBOLS}, clock=clock)
    lake.store.put(layout.incomplete_key(MONDAY), half)  # left by a writer that was killed
    clock.advance(60)
    down = without(source, frozenset(SYMBOLS), PermanentError("down"))
    collect(lake, down, {MONDAY: SYMBOLS}, clock=clock)
    assert standing(lake, MONDAY).ledger.missing == SYMBOLS


def test_who_stops_reading_the_outcomes_loses_no_answer() -> None:
    lake, source, clock = new_lake(), ScriptedSource(every(SYMBOLS, DAYS)), FakeClock()
    publication = Publication(dict.fromkeys(DAYS, SYMBOLS), lake, how(clock))
    outcomes = publication.run(source, Origin("test", MONDAY, "run"), clock=clock)
    assert isinstance(outcomes, Iterator)
    assert next(outcomes).ledger.session == DAYS[0]
    outcomes.close()  # type: ignore[attr-defined]
    assert DAYS[0] in lake.sessions()
    assert sorted([*lake.sessions(), *lake.incomplete()]) == DAYS
    requests = len(source.requests)
    collect(lake, source, dict.fromkeys(DAYS, SYMBOLS), repair=True, clock=clock)
    assert lake.sessions() == DAYS
    assert len(source.requests) == requests


def test_a_refused_collection_keeps_what_was_answered_before() -> None:
    lake, source = new_lake(), ScriptedSource(every(SYMBOLS))
    refusing = ScriptedSource(
        every(SYMBOLS), lambda number: RefusedError("401") if number == 60 else None
    )
    with pytest.raises(RefusedError, match="401"):
        collect(lake, refusing, {MONDAY: SYMBOLS}, workers=1)
    assert len(standing(lake, MONDAY).ledger.present) == 60
    (outcome,) = collect(lake, source, {MONDAY: SYMBOLS}, repair=True).values()
    assert (outcome.published, outcome.asked) == (True, 140)


def test_a_stop_from_outside_is_no_error_but_an_incomplete_session() -> None:
    lake, stop, clock = new_lake(), threading.Event(), FakeClock()

    class Stopping(Display):
        def show(self, snapshot: Snapshot, *, final: bool) -> None:
            if snapshot.chunks_done >= 100:
                stop.set()

    publication = Publication({MONDAY: SYMBOLS}, lake, how(clock))
    with stuck_after(ScriptedSource(every(SYMBOLS)), 100, clock) as stuck:
        (outcome,) = publication.run(
            stuck, Origin("test", MONDAY, "run"), display=Stopping(), stop=stop, clock=clock
        )
    assert not outcome.published
    assert (len(outcome.ledger.present), len(outcome.ledger.pending)) == (100, 100)
    assert lake.incomplete() == [MONDAY]


@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0, 11.0, 60.0])
def test_one_deadline_after_another_ends_in_the_same_sessions_as_one_long_run(
    seconds: float,
) -> None:
    # A request a second, ten requests of 20 symbols in two sessions.
    source = ScriptedSource(every(SYMBOLS[4:], DAYS[:2]))
    wanted = dict.fromkeys(DAYS[:2], SYMBOLS)
    packing = Packing(symbols=20)
    clean, lake, clock = new_lake(), new_lake(), FakeClock()
    collect(clean, source, wanted, packing=packing, clock=clock)
    source.requests.clear()

    runs = 0
    while coverage(lake, DAYS[:2]).to_repair or lake.sessions() != DAYS[:2]:
        runs += 1
        assert runs <= 10, "a run brought nothing"
        began = clock.seconds()
        collect(
            lake,
            source,
            wanted,
            repair=True,
            clock=clock,
            packing=packing,
            workers=1,
            limiter=RateLimiter(60, slack=0, clock=clock),
            seconds=seconds,
        )
        assert clock.seconds() - began <= seconds
    assert runs == {0.5: 10, 1.5: 5, 3.0: 3, 11.0: 1, 60.0: 1}[seconds]
    assert Counter(s for asked in source.requests for s in asked.symbols) == Counter(SYMBOLS)
    for day in DAYS[:2]:
        assert alike_but_for(object_of(lake, day), object_of(clean, day), PROVENANCE)


errors = st.sampled_from([None, None, TransientError("HTTP 503"), PermanentError("HTTP 422")])


@given(
    st.lists(errors, max_size=60),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 4),
    st.booleans(),
)
@settings(max_examples=40)
def test_repairs_end_where_an_undisturbed_collection_ends(
    script: list[Exception | None], width: int, sessions: int, workers: int, patient: bool
) -> None:
    symbols, days = SYMBOLS[:20], DAYS[:sessions]
    bars = every(symbols[1:], days)
    wanted = dict.fromkeys(days, symbols)
    clean, lake, clock = new_lake(), new_lake(), FakeClock()
    knobs: dict[str, Any] = {"packing": Packing(symbols=width), "workers": workers, "clock": clock}
    collect(clean, ScriptedSource(bars), wanted, **knobs)

    source = ScriptedSource(bars, lambda number: dict(enumerate(script)).get(number))
    policy = RetryPolicy(attempts=4 if patient else 1)
    for _ in range(len(script) + 2):
        collect(lake, source, wanted, repair=True, retry=policy, **knobs)
        for day in days:
            kept, true = standing(lake, day), clean.read(day)
            assert kept.ledger.symbols == frozenset(symbols)
            assert set(kept.ledger.present) <= set(true.ledger.present)
            assert set(kept.ledger.no_print) <= set(true.ledger.no_print)
            held = pa.array(kept.ledger.present, pa.string())
            assert kept.bars.equals(true.bars.filter(pc.is_in(true.bars["symbol"], held)))
            assert all("HTTP" in reason for reason in kept.ledger.failed.values())
        if not coverage(lake, days).to_repair:
            break
    assert lake.sessions() == days
    for day in days:
        assert_same_session(lake, clean, day, first=day == days[0])


def assert_same_session(lake: LakeWriter, clean: LakeWriter, day: date, *, first: bool) -> None:
    """Equal bars and ledger, and bytes: but for the audit, which also knows the days before.

    When this session was published, one before it may still have been incomplete.
    """
    kept, true = lake.read(day), clean.read(day)
    assert kept.bars.equals(true.bars)
    assert kept.ledger == true.ledger
    excepted = (PROVENANCE,) if first else (PROVENANCE, AUDIT)
    assert alike_but_for(object_of(lake, day), object_of(clean, day), *excepted)


# Through the exchange, with its faults


@pytest.fixture(scope="module")
def server() -> Iterator[ExchangeServer]:
    with ExchangeServer(Exchange(SyntheticMarket(active=240, inactive=60))) as served:
        yield served


@contextmanager
def alpaca(url: str, workers: int = 4) -> Iterator[Fetch]:
    asking = AlpacaSource(
        Account("key", "secret", data_url=url, trading_url=url),
        connections=workers,
        timeouts=Timeouts(connect=5.0, read=0.5, total=3.0),
    )
    try:
        yield asking.bars()
    finally:
        asking.close()


@pytest.fixture(scope="module")
def listed(server: ExchangeServer) -> tuple[str, ...]:
    """Symbols of the market that the exchange does not refuse: so many that chunks are full."""
    refused = {"ZVZZTNX", "CONTRARX"}
    names_ = {row["symbol"] for row in server.exchange.market.assets()} - refused
    return tuple(sorted(name for name in names_ if name.replace(".", "").isalpha()))[:280]


@pytest.fixture(scope="module")
def undisturbed(server: ExchangeServer, listed: tuple[str, ...]) -> Callable[[int], LakeWriter]:
    """For a number of sessions: the lake that a collection without faults makes."""
    made: dict[int, LakeWriter] = {}

    def lake(sessions: int) -> LakeWriter:
        if sessions not in made:
            made[sessions] = new_lake()
            server.exchange.faults = None
            with alpaca(server.url) as fetch:
                wanted = dict.fromkeys(DAYS[:sessions], listed)
                outcomes = collect(made[sessions], fetch, wanted, packing=Packing(symbols=20))
            assert all(outcome.published for outcome in outcomes.values())
            assert all(not outcome.ledger.failed for outcome in outcomes.values())
        return made[sessions]

    return lake


@pytest.mark.parametrize("seed", range(10))
def test_with_faults_on_a_third_of_all_requests_nothing_is_wrong_or_silently_absent(
    seed: int,
    server: ExchangeServer,
    listed: tuple[str, ...],
    undisturbed: Callable[[int], LakeWriter],
) -> None:
    days = DAYS[: 1 + seed % 5]
    wanted = dict.fromkeys(days, listed)
    clean, lake, clock = undisturbed(len(days)), new_lake(), FakeClock()
    server.exchange.requests.clear()
    server.exchange.faults = RandomFaults(0.3, seed, every_fault(seconds=1.0))
    knobs: dict[str, Any] = {"packing": Packing(symbols=20), "clock": clock}

    with alpaca(server.url) as fetch:
        for attempts in (2, *[4] * 10):
            retry = RetryPolicy(attempts=attempts, seconds=1e6)
            collect(lake, fetch, wanted, repair=True, retry=retry, **knobs)
            for day in days:
                kept, true = standing(lake, day), clean.read(day)
                assert kept.ledger.symbols == frozenset(listed)
                assert not kept.ledger.pending
                assert not kept.ledger.rejected
                failed = kept.ledger.failed
                assert all(failed.values())
                for state in (State.PRESENT, State.NO_PRINT):
                    expected = [s for s in getattr(true.ledger, state) if s not in failed]
                    assert list(getattr(kept.ledger, state)) == expected
                held = pa.array(kept.ledger.present, pa.string())
                assert kept.bars.equals(true.bars.filter(pc.is_in(true.bars["symbol"], held)))
            if not coverage(lake, days).to_repair:
                break
    assert any(request.fault for request in server.exchange.requests)
    assert lake.sessions() == days
    assert lake.incomplete() == []
    for day in days:
        assert_same_session(lake, clean, day, first=day == days[0])


def test_a_repair_asks_the_exchange_for_the_missing_symbols_and_sessions_only(
    server: ExchangeServer, listed: tuple[str, ...], undisturbed: Callable[[int], LakeWriter]
) -> None:
    days, lake, clock = DAYS[:3], new_lake(), FakeClock()
    wanted = dict.fromkeys(days, listed)
    knobs: dict[str, Any] = {"packing": Packing(symbols=20), "clock": clock}
    lost = {days[0]: frozenset(listed[:30]), days[1]: frozenset(listed[20:25])}
    with alpaca(server.url) as fetch:
        server.exchange.faults = None
        for day in days:
            failing = without(fetch, lost.get(day, frozenset()), PermanentError("HTTP 404"))
            collect(lake, failing, {day: wanted[day]}, **knobs)
        missing = {day: standing(lake, day).ledger.missing for day in days}
        assert [len(found) for found in missing.values()] == [40, 20, 0]

        seen: list[Arrival] = []
        server.exchange.requests.clear()
        server.exchange.faults = lambda arrival: seen.append(arrival)
        collect(lake, fetch, wanted, repair=True, **knobs)
    asked: Counter[tuple[date, str]] = Counter()
    for arrival in seen:
        first = date.fromisoformat(arrival.query["start"][:10])
        last = date.fromisoformat(arrival.query["end"][:10])
        for day in market_calendar.sessions(first, last):
            asked.update((day, symbol) for symbol in arrival.query["symbols"].split(","))
    assert asked == Counter((day, symbol) for day in days for symbol in missing[day])
    assert sum(request.symbols for request in server.exchange.requests) == 60
    for day in days:
        assert_same_session(lake, undisturbed(3), day, first=day == days[0])


def test_names_that_the_exchange_calls_no_symbol_are_rejected_and_cost_no_other(
    server: ExchangeServer, listed: tuple[str, ...], undisturbed: Callable[[int], LakeWriter]
) -> None:
    server.exchange.faults = None
    lake, odd = new_lake(), ("BRX-B", "ZVZZTNX")
    with alpaca(server.url) as fetch:
        (outcome,) = collect(
            lake, fetch, {MONDAY: (*listed, *odd)}, packing=Packing(symbols=50)
        ).values()
    assert outcome.published
    ledger = lake.read(MONDAY).ledger
    assert sorted(ledger.rejected) == sorted(odd)
    assert all("invalid symbol" in reason for reason in ledger.rejected.values())
    assert lake.read(MONDAY).bars.equals(undisturbed(1).read(MONDAY).bars)


def test_a_source_that_is_down_leaves_every_symbol_failed_with_its_reason(
    listed: tuple[str, ...],
) -> None:
    with ExchangeServer(Exchange(SyntheticMarket(active=5, inactive=0))) as gone:
        url = gone.url
    lake = new_lake()
    with alpaca(url) as fetch:
        (outcome,) = collect(lake, fetch, {MONDAY: listed}, packing=Packing(symbols=50)).values()
    assert not outcome.published
    ledger = standing(lake, MONDAY).ledger
    assert sorted(ledger.failed) == list(listed)
    assert all("no connection" in reason for reason in ledger.failed.values())


# Real bars, recorded


def recording() -> Path:
    found = importlib.util.find_spec("bokeh_sampledata")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "_data" / "stocks.csv.gz"


def test_recorded_bars_of_real_companies_reach_the_lake_value_by_value(tmp_path: Path) -> None:
    symbols = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
    days = market_calendar.sessions(date(2011, 1, 3), date(2013, 3, 1))
    assert len(days) == 543
    expected: dict[date, dict[str, tuple[float, ...]]] = {day: {} for day in days}
    with gzip.open(recording(), "rt", newline="") as file:
        for row in csv.DictReader(file):
            day = date.fromisoformat(row["Date"])
            if day in expected:
                prices = (float(row[name]) for name in ("Open", "High", "Low", "Close"))
                expected[day][row["Ticker"]] = (*prices, int(row["Volume"]))

    lake = LakeWriter(open_store(str(tmp_path / "lake")))
    lake.claim("recorded")
    with (
        ExchangeServer(ExchangeOptions(recorded=recording()).exchange()) as server,
        alpaca(server.url) as fetch,
    ):
        outcomes = collect(
            lake, fetch, dict.fromkeys(days, symbols), packing=Packing(bars=9_900, symbols=500)
        )
        requests = len(server.exchange.requests)

    assert list(outcomes) == days
    assert [day for day, outcome in outcomes.items() if not outcome.published] == []
    assert requests <= 12  # not one for each symbol and session
    assert lake.sessions() == days
    listing = date(2012, 5, 18)
    for day in days:
        held = lake.read(day)
        told = {
            row["symbol"]: tuple(row[name] for name in ("open", "high", "low", "close", "volume"))
            for row in held.bars.to_pylist()
        }
        assert told == expected[day]
        stamp = market_calendar.session_stamp(day)
        assert held.bars["timestamp"].unique().to_pylist() == [stamp]
        assert held.ledger.no_print == (("FB",) if day < listing else ())
        assert not held.ledger.missing
    assert sum(len(bars) for bars in expected.values()) == 543 * 4 + sum(d >= listing for d in days)
