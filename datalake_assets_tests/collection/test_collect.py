"""Every symbol of every session ends in one state, whatever the source does or whoever stops it."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.collection import bars as bars_table
from datalake_assets.collection.clock import Clock
from datalake_assets.collection.collect import Collection, OddItem, Page
from datalake_assets.collection.errors import (
    BadRequestError,
    PermanentError,
    RefusedError,
    RejectedSymbolError,
    ThrottledError,
    TransientError,
    UnreadableError,
)
from datalake_assets.collection.plan import Chunk, Packing, Plan, plan, plan_each
from datalake_assets.collection.progress import Display, Snapshot
from datalake_assets.collection.rate_limit import Budget, RateLimiter
from datalake_assets.collection.report import Ledger, State
from datalake_assets.collection.retry import RetryPolicy
from datalake_assets_tests.collection.tables import MONDAY, WEEK, bar, every, names, table
from datalake_assets_tests.fakes import FakeClock, Fault, Request, ScriptedSource

HANG = 30.0
"""Seconds after which a collection that should long have ended is taken to hang."""

SOON = 5.0
"""Seconds within which a stopped collection is back; it is about one, but machines are busy."""


Answering = Callable[[tuple[str, ...], date, date, str | None], Page]


def collection(wanted: Plan, fetch: Answering, **given: Any) -> Collection:
    """A collection whose time is fake and whose limit is never met, where nothing else is told."""
    clock = given.pop("clock", None) or FakeClock()
    limiter = given.pop("limiter", None) or RateLimiter(1e9, clock=clock)
    return Collection(
        wanted,
        lambda symbols, first, last, page_token: fetch(symbols, first, last, page_token),
        limiter=limiter,
        clock=clock,
        **given,
    )


def run(collecting: Collection) -> Collection:
    """Run it; an error passes through, a hang fails."""
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            collecting.run()
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(HANG)
    assert not thread.is_alive(), "the collection hangs"
    if raised:
        raise raised[0]
    return collecting


def ledgers(collecting: Collection) -> dict[date, Ledger]:
    return {ledger.session: ledger for _, ledger in collecting.sessions()}


def state(ledger: Ledger, symbol: str) -> State:
    (found,) = [each for each in State if symbol in getattr(ledger, each.value)]
    return found


def collected(collecting: Collection) -> pa.Table:
    return pa.concat_tables([bars_table.empty(), *(rows for rows, _ in collecting.sessions())])


def asked(wanted: Plan) -> dict[date, frozenset[str]]:
    of: dict[date, frozenset[str]] = {}
    for chunk in wanted.chunks:
        for day in chunk.sessions:
            of[day] = of.get(day, frozenset()) | frozenset(chunk.symbols)
    return of


# What the source does


def repeats_a_bar(page: Page, request: Request) -> Page:
    return replace(page, bars=pa.concat_tables([page.bars, page.bars.slice(0, 1)]))


def repeats_the_page(page: Page, request: Request) -> Page:
    return replace(page, bars=pa.concat_tables([page.bars, page.bars]))


def turned_round(page: Page, request: Request) -> Page:
    backwards = [("symbol", "descending"), ("session", "descending")]
    return replace(page, bars=page.bars.sort_by(backwards))


def empty_page_first(page: Page, request: Request) -> Page:
    return Page(bars_table.empty(), f"{request.offset}/{request.number}")


def empty_page_after(page: Page, request: Request) -> Page:
    return replace(page, next_token=page.next_token or f"1000000/{request.number}")


def cut_short(page: Page, request: Request) -> Page:
    kept = page.bars.slice(0, page.bars.num_rows // 2)
    return Page(kept, f"{request.offset + kept.num_rows}/{request.number}")


def the_same_token_again(page: Page, request: Request) -> Page:
    return replace(page, next_token="0/again")


def a_new_token_each_time(page: Page, request: Request) -> Page:
    return replace(page, next_token=f"0/{request.number}")


def odd_at_first(page: Page, request: Request) -> Page:
    if not page.bars.num_rows:
        return page
    first = page.bars.slice(0, 1).to_pylist()[0]
    # Of which session it is can be known for every second request only.
    session = first["session"] if request.number % 2 else None
    odd = OddItem(first["symbol"], session, "no daily bar")
    return replace(page, bars=page.bars.slice(1), odd=(odd,))


def with_a_stranger(page: Page, request: Request) -> Page:
    more = table([bar("STRANGER", request.first)])
    return replace(page, bars=pa.concat_tables([page.bars, more]))


HARMLESS = (
    repeats_a_bar,
    repeats_the_page,
    turned_round,
    empty_page_first,
    empty_page_after,
    cut_short,
)

faults: st.SearchStrategy[Fault | None] = st.one_of(
    st.none(),
    st.none(),
    st.sampled_from(
        [*HARMLESS, the_same_token_again, a_new_token_each_time, odd_at_first, with_a_stranger]
    ),
    st.builds(TransientError, st.just("503"), st.none() | st.floats(0, 5)),
    st.builds(ThrottledError, st.just("429"), st.none() | st.floats(0, 5)),
    st.builds(PermanentError, st.just("302")),
    st.builds(BadRequestError, st.just("422")),
    st.builds(UnreadableError, st.just("garbled")),
)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_every_symbol_has_one_state_that_is_true_whatever_the_source_does(
    data: st.DataObject,
) -> None:
    draw = data.draw
    symbols = names(draw(st.integers(1, 14)))
    sessions = draw(st.lists(st.sampled_from(WEEK), min_size=1, max_size=4, unique=True))
    keys = [(symbol, day) for symbol in symbols for day in sessions]
    held = draw(st.sets(st.sampled_from(keys)))
    malformed = draw(st.sets(st.sampled_from(symbols), max_size=4))
    script = draw(st.lists(faults, max_size=25))
    always = draw(st.booleans()) and bool(script)
    packing = Packing(bars=draw(st.integers(1, 30)), symbols=draw(st.integers(1, 8)))
    truth = table(bar(symbol, day) for symbol, day in sorted(held - set_of(malformed, sessions)))
    source = ScriptedSource(
        truth,
        lambda number: (
            script[number % len(script)] if always else dict(enumerate(script)).get(number)
        ),
        page_limit=draw(st.integers(1, 12)),
        malformed=malformed,
        named=draw(st.booleans()),
    )
    clock = FakeClock()
    seconds = draw(st.none() | st.floats(0, 20))

    done = run(
        collection(
            plan(symbols, sessions, packing),
            source,
            retry=RetryPolicy(attempts=draw(st.integers(1, 3))),
            workers=draw(st.integers(1, 4)),
            clock=clock,
            limiter=RateLimiter(60, clock=clock),
            deadline=None if seconds is None else clock.seconds() + seconds,
        )
    )

    true = by_day(truth)
    told = list(done.sessions())
    assert [ledger.session for _, ledger in told] == sorted(sessions)
    for rows, ledger in told:
        day = true.get(ledger.session, {})
        assert ledger.symbols == frozenset(symbols)
        assert rows.to_pylist() == [day[symbol] for symbol in ledger.present]
        assert day.keys().isdisjoint(ledger.no_print)
        assert malformed.issuperset(ledger.rejected)
        assert malformed.isdisjoint(ledger.no_print)
        assert seconds is not None or not ledger.pending
        assert all({**ledger.failed, **ledger.rejected}.values())


def set_of(symbols: set[str], sessions: list[date]) -> set[tuple[str, date]]:
    return {(symbol, day) for symbol in symbols for day in sessions}


def by_day(rows: pa.Table) -> dict[date, dict[str, dict[str, Any]]]:
    days: dict[date, dict[str, dict[str, Any]]] = {}
    for row in rows.to_pylist():
        days.setdefault(row["session"], {})[row["symbol"]] = row
    return days


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_what_can_pass_and_what_is_harmless_changes_nothing_of_the_result(
    data: st.DataObject,
) -> None:
    draw = data.draw
    symbols, sessions = names(draw(st.integers(1, 12))), WEEK[: draw(st.integers(1, 4))]
    keys = [(symbol, day) for symbol in symbols for day in sessions]
    truth, _ = bars_table.combine(
        [table(bar(symbol, day) for symbol, day in draw(st.sets(st.sampled_from(keys))))]
    )
    passing = st.sampled_from([repeats_a_bar, repeats_the_page, turned_round]) | st.builds(
        TransientError, st.just("503")
    )
    # Three walks that each meet three empty pages in a row are given up: fewer are followed.
    empties = st.sampled_from([empty_page_first, empty_page_after, cut_short])
    script = draw(
        st.tuples(st.lists(passing, max_size=20), st.lists(empties, max_size=5)).flatmap(
            lambda both: st.permutations([*both[0], *both[1]])
        )
    )
    source = ScriptedSource(truth, dict(enumerate(script)).get, page_limit=draw(st.integers(1, 12)))
    wanted = plan(symbols, sessions, Packing(bars=draw(st.integers(1, 30)), symbols=5))

    done = run(
        collection(
            wanted,
            source,
            retry=RetryPolicy(attempts=100, seconds=1e9),
            workers=draw(st.integers(1, 4)),
        )
    )

    assert collected(done).equals(truth)
    for ledger in ledgers(done).values():
        assert ledger.missing == ()
        assert ledger.requested == len(symbols)
    assert done.statistics.requests == len(source.requests)
    assert done.statistics.retries == sum(
        isinstance(f, TransientError) for f in script[: len(source.requests)]
    )


def test_a_plan_of_sessions_with_different_symbols_is_collected_as_asked() -> None:
    wanted = plan_each({WEEK[0]: ["A", "B"], WEEK[1]: ["B"], WEEK[3]: ["C"]})
    done = run(collection(wanted, ScriptedSource(every(["A", "B", "C"], WEEK))))
    assert {day: frozenset(ledger.present) for day, ledger in ledgers(done).items()} == asked(
        wanted
    )
    assert collected(done).num_rows == 4


def test_an_empty_plan_asks_nothing_and_ends() -> None:
    source = ScriptedSource(every(["A"]))
    assert list(run(collection(Plan(), source)).sessions()) == []
    assert source.requests == []


def test_before_it_runs_everything_is_pending() -> None:
    waiting = collection(plan(["A", "B"], WEEK[:2]), ScriptedSource(bars_table.empty()))
    assert [ledger.pending for _, ledger in waiting.sessions()] == [("A", "B")] * 2
    assert waiting.statistics.requests == 0


def test_a_collection_without_threads_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one thread, not 0"):
        collection(Plan(), ScriptedSource(bars_table.empty()), workers=0)


# Pages


@pytest.mark.parametrize("page_limit", [1, 2, 3, 7, 8, 9, 100])
def test_a_symbol_whose_sessions_straddle_pages_is_whole(page_limit: int) -> None:
    whole = every(["A", "B"], WEEK[:4])
    source = ScriptedSource(whole, page_limit=page_limit)
    done = run(collection(plan(["A", "B"], WEEK[:4]), source))
    assert collected(done).equals(whole)
    assert len(source.requests) == 8 // page_limit + 1


@pytest.mark.parametrize("loop", [the_same_token_again, a_new_token_each_time])
@pytest.mark.parametrize("held", [["A", "B"], []])
def test_a_token_that_never_ends_is_a_failure_and_no_hang(loop: Fault, held: list[str]) -> None:
    source = ScriptedSource(every(held), lambda number: loop)
    done = run(collection(plan(["A", "B"], [MONDAY]), source))
    (ledger,) = ledgers(done).values()
    assert list(ledger.failed) == ["A", "B"]
    assert "2 symbols (A … B), 2024-07-01 never end" in ledger.failed["A"]
    assert collected(done).num_rows == 0
    assert len(source.requests) <= 20


def test_an_endless_token_in_one_chunk_costs_no_other_chunk() -> None:
    symbols = names(10)

    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        return Page(every(asked), "round" if "S00003" in asked else None)

    done = run(collection(plan(symbols, [MONDAY], Packing(symbols=2)), source, workers=3))
    (ledger,) = ledgers(done).values()
    assert sorted(ledger.failed) == ["S00002", "S00003"]
    assert len(ledger.present) == 8


def test_a_chunk_whose_tokens_led_nowhere_is_walked_again_from_its_start() -> None:
    whole = every(["A", "B", "C"])
    script: dict[int, Fault] = {1: the_same_token_again, 2: the_same_token_again}
    source = ScriptedSource(whole, script.get, page_limit=2)
    done = run(collection(plan(["A", "B", "C"], [MONDAY]), source))
    assert collected(done).equals(whole)
    assert [request.token for request in source.requests] == [None, "2", "0/again", None, "2"]
    assert done.statistics.bars == 3


@pytest.mark.parametrize(("empties", "told"), [(2, State.PRESENT), (3, State.FAILED)])
def test_empty_pages_in_a_row_are_followed_up_to_a_bound(empties: int, told: State) -> None:
    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        page = int(token or 0)
        last_page = page == empties
        return Page(every(asked) if last_page else every([]), None if last_page else f"{page + 1}")

    done = run(collection(plan(["A"], [MONDAY]), source))
    assert state(ledgers(done)[MONDAY], "A") is told


@pytest.mark.parametrize("failing_page", [0, 1, 2])
def test_a_chunk_that_lost_a_page_fails_whole_and_keeps_none_of_its_bars(
    failing_page: int,
) -> None:
    script: dict[int, Fault] = {failing_page: PermanentError("422 unprocessable")}
    source = ScriptedSource(every(["A", "B", "C"]), script.get, page_limit=1)
    done = run(collection(plan(["A", "B", "C"], [MONDAY]), source))
    (ledger,) = ledgers(done).values()
    assert ledger.failed == dict.fromkeys(["A", "B", "C"], "422 unprocessable")
    assert collected(done).num_rows == 0


def test_a_request_that_is_given_up_fails_its_symbols_with_the_last_error() -> None:
    source = ScriptedSource(every(["A"]), lambda number: TransientError(f"503 no. {number}"))
    done = run(collection(plan(["A"], [MONDAY]), source, retry=RetryPolicy(attempts=3)))
    assert "503 no. 2 (gave up after 3 attempts" in ledgers(done)[MONDAY].failed["A"]
    assert (done.statistics.requests, done.statistics.retries) == (3, 2)


# What is no answer to the question


def test_bars_of_a_symbol_that_was_not_asked_for_are_left_out_and_counted() -> None:
    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        return Page(every([*asked, "OTHER"]), None)

    done = run(collection(plan(["A", "B", "C"], [MONDAY]), source))
    (ledger,) = ledgers(done).values()
    assert ledger.present == ("A", "B", "C")
    assert (done.statistics.requests, done.statistics.stray_bars) == (1, 1)


def answering_another(name: str, instead_of: str, quiet: str) -> Answering:
    """A source that answers one of the symbols under another name, and for one has no bar."""

    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        answered = [name if symbol == instead_of else symbol for symbol in asked]
        return Page(every(symbol for symbol in answered if symbol != quiet), None)

    return source


def test_an_answer_with_bars_of_another_symbol_does_not_tell_that_one_has_none() -> None:
    symbols = names(50)
    source = answering_another("META", instead_of=symbols[7], quiet=symbols[30])
    done = run(collection(plan(symbols, [MONDAY]), source))
    (ledger,) = ledgers(done).values()
    assert list(ledger.failed) == [symbols[7]]
    assert "bars of META, which was not asked for" in ledger.failed[symbols[7]]
    assert ledger.no_print == (symbols[30],)
    assert len(ledger.present) == 48
    assert done.statistics.requests == 1 + 1 + 2


def test_a_name_in_another_case_is_no_answer_for_the_one_that_was_asked() -> None:
    """BACpA is another security than BACPA, and prices of another are worse than none."""
    source = answering_another("s00007", instead_of="S00007", quiet="S00030")
    done = run(collection(plan(names(50), [MONDAY]), source))
    (ledger,) = ledgers(done).values()
    assert ledger.failed == {"S00007": "the source answered under the name s00007"}
    assert ledger.no_print == ("S00030",)
    assert done.statistics.requests == 1


def test_bars_of_other_days_are_left_out_and_counted() -> None:
    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        return Page(every(asked, WEEK), None)

    done = run(collection(plan(["A", "B"], WEEK[1:3]), source))
    assert collected(done).equals(every(["A", "B"], WEEK[1:3]))
    assert done.statistics.stray_bars == 2 * (len(WEEK) - 2)


def test_a_bar_of_another_day_is_left_out_even_when_others_are_asked_for_that_day() -> None:
    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        return Page(every(asked, WEEK), None)

    wanted = plan_each({WEEK[0]: ["A"], WEEK[1]: ["B"]})
    done = run(collection(wanted, source))
    assert {day: ledger.present for day, ledger in ledgers(done).items()} == {
        WEEK[0]: ("A",),
        WEEK[1]: ("B",),
    }
    assert collected(done).num_rows == 2


def test_a_bar_of_a_holiday_within_the_span_is_left_out_and_counted() -> None:
    holiday = bar("A", WEEK[2]) | {"session": date(2024, 7, 4)}
    source = ScriptedSource(pa.concat_tables([every(["A"], WEEK[2:4]), table([holiday])]))
    done = run(collection(plan(["A"], WEEK[2:4]), source))
    assert collected(done).equals(every(["A"], WEEK[2:4]))
    assert done.statistics.stray_bars == 1


def test_bars_that_contradict_each_other_fail_their_symbol_in_their_session_only() -> None:
    whole = every(["A", "B"], WEEK[:2])
    other = table([bar("A", WEEK[1], close=1.5)])
    source = ScriptedSource(pa.concat_tables([whole, other]))
    done = ledgers(run(collection(plan(["A", "B"], WEEK[:2]), source)))
    assert done[WEEK[0]].present == ("A", "B")
    assert done[WEEK[1]].present == ("B",)
    assert "different bars" in done[WEEK[1]].failed["A"]


# Names that are no symbols


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("malformed", [["S00005"], ["S00000", "S00011"], list(names(12))])
def test_malformed_names_are_rejected_and_cost_no_other_symbol(
    malformed: list[str], named: bool
) -> None:
    symbols = names(12)
    good = [symbol for symbol in symbols if symbol not in malformed]
    source = ScriptedSource(every(good[1:]), malformed=malformed, named=named)
    done = run(collection(plan(symbols, [MONDAY]), source))
    (ledger,) = ledgers(done).values()
    assert list(ledger.rejected) == malformed
    assert all("invalid symbol" in why for why in ledger.rejected.values())
    assert ledger.no_print == tuple(good[:1])
    assert ledger.present == tuple(good[1:])
    assert not ledger.missing


def test_an_unnamed_malformed_name_among_500_is_found_by_halving() -> None:
    symbols = names(500)
    source = ScriptedSource(every(symbols), malformed=["S00321"], named=False)
    done = run(collection(plan(symbols, [MONDAY]), source))
    (ledger,) = ledgers(done).values()
    assert list(ledger.rejected) == ["S00321"]
    assert len(ledger.present) == 499
    assert len(source.requests) <= 1 + 2 * 9


def test_a_refusal_that_names_a_stranger_is_traced_by_halving_too() -> None:
    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        if "B" in asked:
            raise RejectedSymbolError("invalid symbol: stranger", "STRANGER")
        return Page(every(asked), None)

    (ledger,) = ledgers(run(collection(plan(["A", "B", "C"], [MONDAY]), source))).values()
    assert ledger.rejected == {"B": "invalid symbol: stranger"}
    assert ledger.present == ("A", "C")


@pytest.mark.parametrize("spelt", [str.upper, str.lower])
def test_several_names_of_one_refusal_are_left_out_together_in_whatever_case(
    spelt: Callable[[str], str],
) -> None:
    asked_for: list[tuple[str, ...]] = []

    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        asked_for.append(asked)
        if refused := [spelt(symbol) for symbol in ("B", "D") if symbol in asked]:
            raise RejectedSymbolError(f"invalid symbols: {', '.join(refused)}", *refused)
        return Page(every(asked), None)

    (ledger,) = ledgers(run(collection(plan("ABCDE", [MONDAY]), source))).values()
    assert list(ledger.rejected) == ["B", "D"]
    assert ledger.present == ("A", "C", "E")
    assert asked_for == [tuple("ABCDE"), ("A", "C", "E")]


def test_of_two_names_that_differ_in_their_case_the_one_that_is_meant_is_left_out() -> None:
    error = RejectedSymbolError("invalid symbol: BACpA", "BACpA")
    assert error.of(["BACPA", "BACpA"]) == {"BACpA"}
    assert error.of(["BACPA", "C"]) == {"BACPA"}
    assert error.of(["C"]) == frozenset()


def test_a_half_that_fails_costs_the_other_half_nothing() -> None:
    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        if {"A", "D"} <= set(asked):
            raise RejectedSymbolError("invalid symbol")
        if "A" in asked:
            raise PermanentError("422")
        return Page(every(asked), None)

    (ledger,) = ledgers(run(collection(plan(["A", "B", "C", "D"], [MONDAY]), source))).values()
    assert ledger.failed == {"A": "422", "B": "422"}
    assert ledger.present == ("C", "D")


def spoiled(symbols: Iterable[str], error: Exception) -> tuple[Answering, list[tuple[str, ...]]]:
    """A source that fails whatever names one of these symbols, and what it was asked."""
    requests: list[tuple[str, ...]] = []

    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        requests.append(asked)
        if not frozenset(symbols).isdisjoint(asked):
            raise error
        return Page(every(asked), None)

    return source, requests


REFUSED = BadRequestError("GET /stocks/bars: HTTP 422: unprocessable")


@pytest.mark.parametrize("guilty", [[0], [321], [499], [1, 6], [100, 300, 301], [0, 99, 250, 499]])
def test_symbols_for_which_a_request_is_refused_are_found_by_halving(guilty: list[int]) -> None:
    symbols = names(500)
    named = [symbols[place] for place in guilty]
    source, requests = spoiled(named, REFUSED)
    (ledger,) = ledgers(run(collection(plan(symbols, [MONDAY]), source))).values()

    assert ledger.failed == dict.fromkeys(named, str(REFUSED))
    assert len(ledger.present) == 500 - len(guilty)
    assert len(requests) <= 1 + 18 * len(guilty)


def test_an_answer_that_stays_damaged_is_traced_to_its_symbol_too() -> None:
    symbols = names(500)
    source, requests = spoiled({symbols[321]}, UnreadableError("the answer can't be read"))
    (ledger,) = ledgers(run(collection(plan(symbols, [MONDAY]), source))).values()

    assert list(ledger.failed) == [symbols[321]]
    assert "can't be read" in ledger.failed[symbols[321]]
    assert len(ledger.present) == 499
    attempts = RetryPolicy().attempts
    assert len(requests) <= attempts + 9 * (attempts + 1)


@pytest.mark.parametrize("error", [REFUSED, UnreadableError("garbled")])
def test_a_source_that_is_unwell_itself_is_not_asked_symbol_by_symbol(error: Exception) -> None:
    symbols = names(500)
    source, requests = spoiled(symbols, error)
    (ledger,) = ledgers(
        run(collection(plan(symbols, [MONDAY]), source, retry=RetryPolicy(attempts=2)))
    ).values()

    assert tuple(ledger.failed) == symbols
    assert len(requests) == (1 if error is REFUSED else 2) + 12


def test_a_search_ends_after_a_hundred_requests_and_keeps_what_it_found() -> None:
    symbols = names(500)
    guilty = symbols[::50]
    source, requests = spoiled(guilty, REFUSED)
    (ledger,) = ledgers(run(collection(plan(symbols, [MONDAY]), source))).values()

    assert len(requests) == 1 + 100
    assert set(guilty) <= set(ledger.failed)
    assert 350 < len(ledger.present) < 490
    assert not ledger.no_print


@pytest.mark.parametrize(("requests", "answered"), [(1, 0), (2, 250), (3, 250), (4, 375)])
def test_stopped_in_its_search_it_keeps_what_was_answered(requests: int, answered: int) -> None:
    symbols = names(500)
    source, _ = spoiled({symbols[-1]}, REFUSED)
    budget = Budget(RateLimiter(1e9, clock=FakeClock()), requests)
    (ledger,) = ledgers(run(collection(plan(symbols, [MONDAY]), source, limiter=budget))).values()

    assert ledger.present == symbols[:answered]
    assert ledger.failed == dict.fromkeys(symbols[answered:], str(REFUSED))


@pytest.mark.parametrize("error", [PermanentError("HTTP 302"), TransientError("HTTP 503")])
def test_what_no_symbol_can_be_the_cause_of_is_not_asked_in_halves(error: Exception) -> None:
    source, requests = spoiled({"B"}, error)
    (ledger,) = ledgers(
        run(collection(plan(["A", "B"], [MONDAY]), source, retry=RetryPolicy(attempts=2)))
    ).values()

    assert tuple(ledger.failed) == ("A", "B")
    assert len(requests) == (2 if isinstance(error, TransientError) else 1)


# Odd items


def with_odd(*odd: OddItem) -> Answering:
    """A source whose answers hold these items in the place of bars, where they are asked for."""

    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        days = [day for day in WEEK if first <= day <= last]
        instead = {(item.symbol, item.session) for item in odd}
        rows = [bar(s, d) for d in days for s in asked if (s, d) not in instead]
        return Page(table(rows), None, odd=tuple(item for item in odd if item.symbol in asked))

    return source


def test_odd_bars_at_two_places_cost_their_symbols_and_no_further_request() -> None:
    symbols = names(8)
    odd = [OddItem(symbols[place], MONDAY, "no daily bar") for place in (1, 6)]
    done = run(collection(plan(symbols, [MONDAY]), with_odd(*odd)))
    (ledger,) = ledgers(done).values()
    assert ledger.failed == {symbols[1]: "no daily bar", symbols[6]: "no daily bar"}
    assert len(ledger.present) == 6
    assert (done.statistics.requests, done.statistics.odd_bars) == (1, 2)


def test_an_odd_bar_costs_its_symbol_in_its_session_only() -> None:
    source = with_odd(OddItem("A", WEEK[1], "no daily bar"))
    done = ledgers(run(collection(plan(["A", "B"], WEEK[:3]), source)))
    assert [len(ledger.failed) for ledger in done.values()] == [0, 1, 0]
    assert done[WEEK[1]].failed == {"A": "no daily bar"}
    assert done[WEEK[1]].present == ("B",)


def test_an_odd_bar_beside_a_good_one_of_its_session_leaves_neither() -> None:
    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        return Page(every(asked), None, odd=(OddItem("A", MONDAY, "no daily bar"),))

    done = run(collection(plan(["A", "B"], [MONDAY]), source))
    (ledger,) = ledgers(done).values()
    assert (ledger.failed, ledger.present) == ({"A": "no daily bar"}, ("B",))
    assert collected(done).equals(every(["B"]))


@pytest.mark.parametrize("session", [None, date(2024, 7, 4), date(2024, 6, 3)])
def test_an_odd_bar_of_no_known_session_costs_those_without_a_bar(session: date | None) -> None:
    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        rows = [bar("A", WEEK[0]), bar("B", WEEK[0]), bar("B", WEEK[1])]
        return Page(table(rows), None, odd=(OddItem("A", session, "an unreadable time"),))

    done = ledgers(run(collection(plan(["A", "B"], WEEK[:2]), source)))
    assert done[WEEK[0]].present == ("A", "B")
    assert done[WEEK[1]].failed == {"A": "an unreadable time"}


def test_an_odd_bar_of_one_page_is_not_forgotten_on_the_next() -> None:
    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        if token is None:
            return Page(every(["B"]), "next", odd=(OddItem("A", MONDAY, "no daily bar"),))
        return Page(every(["C"]), None)

    (ledger,) = ledgers(run(collection(plan(["A", "B", "C"], [MONDAY]), source))).values()
    assert (ledger.present, list(ledger.failed)) == (("B", "C"), ["A"])


def test_volumes_that_were_rounded_are_counted() -> None:
    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        return Page(every(asked), None, rounded=2)

    done = run(collection(plan(names(6), [MONDAY], Packing(symbols=3)), source))
    assert done.statistics.rounded_volumes == 4


# Null


def null(times: int, answer: Answering, **said: Any) -> tuple[Answering, list[int]]:
    """A source that says null so many times before it answers; and its requests."""
    requests: list[int] = []

    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        requests.append(len(asked))
        if len(requests) <= times:
            return Page(bars_table.empty(), None, **(said or {"null": True}))
        return answer(asked, first, last, token)

    return source, requests


def whole(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
    return Page(every(asked), None)


def test_null_beside_a_symbol_said_twice_is_no_bar() -> None:
    requests = 0

    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        nonlocal requests
        requests += 1
        return Page(every(["B", "C"]), None, nulls=frozenset({"A"}))

    (ledger,) = ledgers(run(collection(plan(["A", "B", "C"], [MONDAY]), source))).values()
    assert (ledger.present, ledger.no_print, ledger.missing) == (("B", "C"), ("A",), ())
    assert requests == 2


def test_null_beside_a_symbol_said_once_is_passed_over() -> None:
    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        once = next(told)
        return Page(every(set(asked) - {once}), None, nulls=frozenset({once}))

    told = iter(["A", "B"])
    (ledger,) = ledgers(run(collection(plan(["A", "B", "C"], [MONDAY]), source))).values()
    assert ledger.present == ("A", "B", "C")


@pytest.mark.parametrize("token", [None, "next"])
def test_null_on_a_later_page_said_twice_is_its_end_or_an_empty_page(token: str | None) -> None:
    def source(asked: tuple[str, ...], first: date, last: date, page: str | None) -> Page:
        if page is None:
            return Page(every(["A"]), "null")
        if page == "null":
            return Page(bars_table.empty(), token, null=True)
        return Page(every(["C"]), None)

    done = run(collection(plan(["A", "B", "C"], [MONDAY]), source))
    (ledger,) = ledgers(done).values()
    assert ledger.present == (("A", "C") if token else ("A",))
    assert not ledger.missing
    assert done.statistics.requests == (4 if token else 3)


def test_null_for_all_where_nobody_is_known_to_trade_said_twice_is_no_bar() -> None:
    source, requests = null(99, whole)
    (ledger,) = ledgers(run(collection(plan(names(50), [MONDAY]), source))).values()
    assert ledger.no_print == names(50)
    assert len(requests) == 2


@pytest.mark.parametrize(("times", "told"), [(1, 2), (2, 3), (7, 8)])
def test_null_for_all_where_bars_are_expected_is_asked_for_again(times: int, told: int) -> None:
    source, requests = null(times, whole)
    wanted = Plan((Chunk(names(50), (MONDAY,), expected=10.0),))
    (ledger,) = ledgers(run(collection(wanted, source))).values()
    assert ledger.present == names(50)
    assert len(requests) == told


@pytest.mark.parametrize(("expected", "state_"), [(9.9, State.NO_PRINT), (10.0, State.FAILED)])
def test_null_for_all_that_stays_fails_where_ten_bars_are_expected(
    expected: float, state_: State
) -> None:
    source, requests = null(99, whole)
    wanted = Plan((Chunk(names(50), (MONDAY,), expected=expected),))
    (ledger,) = ledgers(run(collection(wanted, source))).values()
    assert {state(ledger, symbol) for symbol in names(50)} == {state_}
    assert len(requests) == (2 if state_ is State.NO_PRINT else 2 + RetryPolicy().attempts)
    if state_ is State.FAILED:
        assert "null instead of the bars of 50 symbols" in ledger.failed["S00000"]


def test_without_a_survey_bars_are_expected_as_the_other_requests_bring_them() -> None:
    def source(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        if "S00030" in asked:
            return Page(bars_table.empty(), None, null=True)
        return Page(every(asked), None)

    wanted = plan(names(32), [MONDAY], Packing(symbols=16))
    (ledger,) = ledgers(run(collection(wanted, source, workers=1))).values()
    assert (ledger.present, tuple(ledger.failed)) == (names(32)[:16], names(32)[16:])


# Stopping


class Held:
    """Answers the first requests, then keeps every thread that asks until it is released."""

    def __init__(self, answered: int = 1) -> None:
        self._left, self._lock = answered, threading.Lock()
        self.holds, self.released = threading.Event(), threading.Event()
        self.asked: list[tuple[str, ...]] = []

    def __call__(
        self, symbols: tuple[str, ...], first: date, last: date, page_token: str | None
    ) -> Page:
        with self._lock:
            self.asked.append(symbols)
            self._left -= 1
            held = self._left < 0
        if held:
            self.holds.set()
            assert self.released.wait(HANG)
        return Page(every(symbols), None, size=100)


def one_by_one(count: int) -> Plan:
    return plan(names(count), [MONDAY], Packing(symbols=1))


@contextmanager
def released_at_the_end(held: Held) -> Iterator[Held]:
    """Lets the threads go whatever happens, and waits for their end."""
    try:
        yield held
    finally:
        held.released.set()
        collecting_ends()


def collecting_ends() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("collect-"):
            thread.join(HANG)
            assert not thread.is_alive()


def stopped(held: Held, stop: threading.Event, wanted: Plan, **given: Any) -> Collection:
    """Set the stop as soon as a fetch is held; the collection must be back soon after."""
    collecting = collection(wanted, held, stop=stop, clock=Clock(), **given)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(collecting.run)
        assert held.holds.wait(HANG)
        stop.set()
        running.result(SOON)
    return collecting


def test_a_stop_leaves_the_rest_pending_even_while_a_fetch_does_not_come_back() -> None:
    with released_at_the_end(Held(answered=3)) as held:
        done = stopped(held, threading.Event(), one_by_one(20), workers=2)
        (ledger,) = ledgers(done).values()
        assert len(ledger.present) == 3
        assert len(ledger.pending) == 17
        assert len(held.asked) == 5


def test_an_answer_that_comes_after_the_end_changes_nothing_any_more() -> None:
    with released_at_the_end(Held(answered=3)) as held:
        done = stopped(held, threading.Event(), one_by_one(20), workers=2)
        before = list(done.sessions())
        held.released.set()
        collecting_ends()
        assert list(done.sessions()) == before
        assert len(held.asked) == 5


# Python itself swallows an interruption that meets a callback of a dying thread, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_who_is_interrupted_while_bars_are_put_in_order_can_ask_again() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    wanted, source = plan(names(40), WEEK, Packing(bars=50)), ScriptedSource(every(names(40), WEEK))
    expected = list(run(collection(wanted, source)).sessions())
    assert sum(rows.num_rows for rows, _ in expected) == 40 * len(WEEK)
    before, interrupted = signal.signal(signal.SIGALRM, interrupt), 0
    try:
        for microseconds in range(1, 2_000, 50):
            done = run(collection(wanted, source))
            try:
                signal.setitimer(signal.ITIMER_REAL, microseconds / 1e6)
                done.sessions()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except (KeyboardInterrupt, RuntimeError):
                # Python's own Condition fails when it is met while it gives its lock up.
                interrupted += 1
            assert list(done.sessions()) == expected
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted


def test_the_statistics_do_not_change_after_the_end() -> None:
    with released_at_the_end(Held(answered=3)) as held:
        done = stopped(held, threading.Event(), one_by_one(20), workers=2)
        before = done.statistics
        held.released.set()
        collecting_ends()
        assert done.statistics == before


def test_a_stop_wakes_threads_that_wait_for_the_limit() -> None:
    stop, clock = threading.Event(), Clock()
    source = ScriptedSource(every(names(20)))
    collecting = collection(
        one_by_one(20),
        source,
        stop=stop,
        clock=clock,
        limiter=RateLimiter(1, clock=clock),
        workers=5,
    )
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(collecting.run)
        end = time.monotonic() + HANG
        while collecting.statistics.bars < 1:
            assert time.monotonic() < end
            time.sleep(0.005)
        stop.set()
        running.result(SOON)
    (ledger,) = ledgers(collecting).values()
    assert (len(ledger.present), len(ledger.pending)) == (1, 19)
    assert len(source.requests) == 1


def test_no_request_is_sent_from_the_deadline_on() -> None:
    clock = FakeClock()
    deadline = clock.seconds() + 10.5
    sent: list[float] = []
    source = ScriptedSource(every(names(50)))

    def fetch(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        sent.append(clock.seconds())
        return source(asked, first, last, token)

    done = run(
        collection(
            one_by_one(50),
            fetch,
            clock=clock,
            limiter=RateLimiter(60, slack=0, clock=clock),
            deadline=deadline,
            workers=1,
        )
    )
    (ledger,) = ledgers(done).values()
    assert max(sent) < deadline
    assert len(sent) == len(ledger.present) == 11
    assert len(ledger.pending) == 39


def test_a_deadline_that_is_over_sends_nothing() -> None:
    clock = FakeClock()
    source = ScriptedSource(every(names(3)))
    done = run(collection(one_by_one(3), source, clock=clock, deadline=clock.seconds()))
    (ledger,) = ledgers(done).values()
    assert source.requests == []
    assert ledger.pending == names(3)


def test_a_fetch_that_does_not_come_back_does_not_hold_the_deadline_up() -> None:
    with released_at_the_end(Held(answered=1)) as held, ThreadPoolExecutor(1) as threads:
        clock = FakeClock()
        done = collection(
            one_by_one(5), held, clock=clock, deadline=clock.seconds() + 60, workers=2
        )
        running = threads.submit(done.run)
        assert held.holds.wait(HANG)
        clock.advance(61)
        running.result(SOON)
        (ledger,) = ledgers(done).values()
        assert len(ledger.present) == 1
        assert len(ledger.pending) == 4


class Interrupting(Display):
    """Raises instead of showing, as a signal does in the thread that waits."""

    def __init__(self, error: BaseException, *, final: bool = False) -> None:
        self._error, self._final = error, final

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        if final is self._final:
            raise self._error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), RuntimeError("terminated")])
def test_an_interruption_passes_through_and_what_was_collected_can_still_be_told(
    error: BaseException,
) -> None:
    with released_at_the_end(Held(answered=2)) as held:
        done = collection(
            one_by_one(5), held, display=Interrupting(error), clock=Clock(), workers=1
        )
        with pytest.raises(type(error)) as caught:
            run(done)
        assert caught.value is error
        (ledger,) = ledgers(done).values()
        assert ledger.present == names(2)
        assert ledger.pending == names(5)[2:]
        assert done.statistics.bars == 2


def test_an_interruption_at_the_very_end_loses_nothing() -> None:
    source = ScriptedSource(every(names(5)))
    done = collection(one_by_one(5), source, display=Interrupting(KeyboardInterrupt(), final=True))
    with pytest.raises(KeyboardInterrupt):
        run(done)
    assert ledgers(done)[MONDAY].present == names(5)


# Refused


def test_a_refusal_stops_everything_and_is_raised() -> None:
    refused = RefusedError("401: the keys are wrong")
    source = ScriptedSource(every(names(10)), {2: refused}.get)
    done = collection(one_by_one(10), source, workers=1)
    with pytest.raises(RefusedError) as caught:
        run(done)
    assert caught.value is refused
    (ledger,) = ledgers(done).values()
    assert (ledger.present, ledger.pending) == (names(10)[:2], names(10)[2:])
    assert len(source.requests) == 3


def test_after_a_refusal_the_other_threads_begin_nothing_new() -> None:
    both = threading.Barrier(2)
    sent: list[tuple[str, ...]] = []

    def fetch(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        sent.append(asked)
        if len(sent) <= 2:
            both.wait(HANG)
        if asked == ("S00000",):
            raise RefusedError("401: the keys are wrong")
        end = time.monotonic() + HANG
        while sum(thread.name.startswith("collect-") for thread in threading.enumerate()) > 1:
            assert time.monotonic() < end, "the refused thread goes on"
            time.sleep(0.005)
        return Page(every(asked), None)

    done = collection(one_by_one(10), fetch, workers=2)
    with pytest.raises(RefusedError):
        run(done)
    collecting_ends()
    assert sorted(sent) == [("S00000",), ("S00001",)]


def test_a_refusal_is_raised_soon_even_while_another_fetch_does_not_come_back() -> None:
    with released_at_the_end(Held(answered=0)) as held, ThreadPoolExecutor(1) as threads:

        def fetch(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
            if asked == ("S00001",):
                assert held.holds.wait(HANG)
                raise RefusedError("401: the keys are wrong")
            return held(asked, first, last, token)

        done = collection(one_by_one(10), fetch, clock=Clock(), workers=2)
        running = threads.submit(done.run)
        try:
            with pytest.raises(RefusedError):
                running.result(SOON)
        finally:
            held.released.set()
        assert ledgers(done)[MONDAY].pending == names(10)


def test_a_defect_of_the_fetch_is_raised_and_not_told_as_a_failed_symbol() -> None:
    defect = KeyError("bars")
    done = collection(one_by_one(3), ScriptedSource(every([]), {1: defect}.get), workers=1)
    with pytest.raises(KeyError) as caught:
        run(done)
    assert caught.value is defect
    (ledger,) = ledgers(done).values()
    assert (ledger.no_print, ledger.pending) == (names(3)[:1], names(3)[1:])


# Threads


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_as_many_fetches_as_workers_are_under_way_at_once_and_no_more(workers: int) -> None:
    together = threading.Barrier(workers)
    lock = threading.Lock()
    under_way = most = 0

    def fetch(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        together.wait(HANG)  # broken, and so a failure, unless all of them come
        with lock:
            under_way -= 1
        return Page(every(asked), None)

    done = run(collection(one_by_one(workers * 2), fetch, workers=workers, clock=Clock()))
    assert most == workers
    assert ledgers(done)[MONDAY].present == names(workers * 2)


def test_no_more_threads_are_started_than_there_are_chunks() -> None:
    seen: set[str] = set()

    def fetch(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        seen.update(t.name for t in threading.enumerate() if t.name.startswith("collect-"))
        return Page(every(asked), None)

    run(collection(one_by_one(2), fetch, workers=1_000))
    assert len(seen) <= 2


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_the_result_does_not_depend_on_the_number_of_threads(workers: int) -> None:
    whole = every(names(60), WEEK)
    wanted = plan(names(60), WEEK, Packing(bars=20))
    script: Callable[[int], Fault | None] = lambda number: (  # noqa: E731
        TransientError("503") if number % 3 == 1 else None
    )
    done = run(
        collection(
            wanted,
            ScriptedSource(whole, script, page_limit=7),
            workers=workers,
            retry=RetryPolicy(attempts=50, seconds=1e9),
        )
    )
    assert collected(done).equals(whole)
    assert all(ledger.present == names(60) for ledger in ledgers(done).values())


# Telling


class Remembering(Display):
    def __init__(self) -> None:
        self.shown: list[tuple[Snapshot, bool]] = []
        self.threads: set[int] = set()

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        self.shown.append((snapshot, final))
        self.threads.add(threading.get_ident())


def test_progress_is_shown_while_it_runs_and_once_at_its_end_from_one_thread() -> None:
    display, may_end = Remembering(), threading.Event()

    def fetch(asked: tuple[str, ...], first: date, last: date, token: str | None) -> Page:
        while not display.shown:
            assert not may_end.wait(0.01)
        if asked == ("S00003",):
            raise PermanentError("422")
        return Page(every(asked), None)

    run(collection(one_by_one(6), fetch, display=display, label="a day", workers=2))
    assert [final for _, final in display.shown].count(True) == 1
    last, final = display.shown[-1]
    assert final
    assert len(display.threads) == 1
    assert last.label == "a day"
    assert (last.chunks, last.chunks_done) == (6, 6)
    assert (last.symbols_ok, last.symbols_failed, last.bars, last.requests) == (5, 1, 5, 6)


def test_the_statistics_add_up() -> None:
    clock = FakeClock()
    script: dict[int, Fault] = {0: TransientError("503"), 3: ThrottledError("429", 4.0)}
    source = ScriptedSource(every(names(6)), script.get, page_limit=2)
    done = run(
        collection(
            plan(names(6), [MONDAY], Packing(symbols=3)),
            source,
            clock=clock,
            limiter=RateLimiter(60, slack=0, clock=clock),
            workers=1,
            draw=lambda: 0.0,
        )
    )
    told = done.statistics
    # Two chunks of two pages, and two of the requests twice.
    assert (told.requests, told.retries, told.throttled, told.bars) == (6, 2, 1, 6)
    assert told.stray_bars == 0
    assert told.bytes_received > 0
    assert told.duration_seconds == pytest.approx((told.ended - told.started).total_seconds())
    assert told.duration_seconds == pytest.approx(8)
    assert told.limiter_wait_seconds == pytest.approx(4)
    assert told.bars_per_second == pytest.approx(6 / 8)


def test_the_chunks_of_a_plan_made_by_hand_are_collected_too() -> None:
    wanted = Plan((Chunk(("A",), (WEEK[1],)), Chunk(("B",), (WEEK[1], WEEK[2]))))
    done = run(collection(wanted, ScriptedSource(every(["A"], WEEK))))
    told = ledgers(done)
    assert (told[WEEK[1]].present, told[WEEK[1]].no_print) == (("A",), ("B",))
    assert (told[WEEK[2]].present, told[WEEK[2]].no_print) == ((), ("B",))
