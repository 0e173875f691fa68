"""In arrays, a window has the bars, ledgers and findings that it has one row at a time."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.collection.audit import (
    DAILY_RULES,
    MOST_OFFENDERS,
    Case,
    Thresholds,
    audit,
    sound,
)
from datalake_assets.collection.bars import SCHEMA
from datalake_assets.collection.collect import Collection, OddItem, Page
from datalake_assets.collection.errors import PermanentError, RejectedSymbolError, StoppedError
from datalake_assets.collection.plan import Chunk, Packing, Plan, plan_each
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.report import NOT_ASKED, Ledger, State, States
from datalake_assets.collection.symbols import Subset, Symbols, bits_of
from datalake_assets.collection.window import Block, Grid, Rows, ordered
from datalake_assets.lake.fingerprint import fingerprint
from datalake_assets.lake.session_file import hash_rows
from datalake_assets_tests.collection import plain
from datalake_assets_tests.collection.plain import Answer
from datalake_assets_tests.collection.tables import MONDAY, WEEK, bar, every, names, table
from datalake_assets_tests.fakes import FakeClock

TWELVE = names(12)
unhurried = settings(deadline=None)
some_symbols = st.lists(st.sampled_from(TWELVE), max_size=12)
some_sets = st.frozensets(st.sampled_from(names(15)))
prices = st.sampled_from([1.0, 2.0, 3.0, 3.0, 0.0, -0.0, -1.0, math.nan, math.inf, -math.inf])


# What a window is, answer by answer


def collected(plan: Plan, answers: dict[Chunk, Answer | None]) -> list[tuple[pa.Table, Ledger]]:
    """What a collection makes of these answers; it is stopped before the first that is none."""
    of = {(chunk.sessions, symbol): chunk for chunk in plan.chunks for symbol in chunk.symbols}

    def fetch(symbols: tuple[str, ...], first: date, last: date, page_token: str | None) -> Page:
        (chunk,) = {
            chunk
            for (sessions, symbol), chunk in of.items()
            if symbol in symbols and (sessions[0], sessions[-1]) == (first, last)
        }
        answer = answers[chunk]
        if answer is None:
            raise StoppedError("stopped")
        if answer.rejected.intersection(symbols):
            raise RejectedSymbolError("no symbol", *answer.rejected)
        if answer.error:
            raise PermanentError(answer.error)
        # In two pages, so that a symbol straddles them.
        middle = len(answer.rows) // 2
        if page_token is None and middle:
            return Page(table(answer.rows[:middle]), "next", odd=tuple(answer.odd[:1]))
        odd = answer.odd[1:] if page_token else answer.odd
        return Page(table(answer.rows[middle:] if middle else answer.rows), None, odd=tuple(odd))

    clock = FakeClock()
    limiter = RateLimiter(1e9, clock=clock)
    collection = Collection(plan, fetch, limiter=limiter, workers=1, clock=clock)
    collection.run()
    return list(collection.sessions())


def answer(data: st.DataObject, chunk: Chunk, malformed: frozenset[str]) -> Answer:
    """Anything that a source may say to a chunk, but for bars of symbols that it was not asked."""
    rejected = malformed.intersection(chunk.symbols)
    if len(rejected) == len(chunk.symbols):
        return Answer(rejected=rejected)
    if data.draw(st.integers(0, 4)) == 0:
        return Answer(rejected=rejected, error="HTTP 404: gone")
    cell = st.tuples(
        st.sampled_from([symbol for symbol in chunk.symbols if symbol not in rejected]),
        st.sampled_from(WEEK),  # also of a session that was not asked for
    )
    changed = st.sampled_from([{}, {}, {}, {"volume": 1}, {"vwap": None}, {"close": 1.5}])
    rows = [
        bar(*key) | change
        for key, change in data.draw(st.lists(st.tuples(cell, changed), max_size=12))
    ]
    days = st.sampled_from([*chunk.sessions, WEEK[-1] + timedelta(days=300), None])
    odd = [
        OddItem(symbol, day, why)
        for (symbol, _), day, why in data.draw(
            st.lists(st.tuples(cell, days, st.sampled_from(["no time", "no price"])), max_size=2)
        )
    ]
    return Answer(rows, odd, rejected)


@settings(deadline=None, max_examples=150)
@given(
    st.data(),
    st.dictionaries(st.sampled_from(WEEK), some_symbols.filter(bool), min_size=1),
    st.integers(1, 5),
    st.integers(0, 9),
    st.frozensets(st.sampled_from(TWELVE), max_size=2),
)
def test_any_answers_make_the_bars_and_ledgers_that_they_make_one_row_at_a_time(
    data: st.DataObject,
    wanted: dict[date, Sequence[str]],
    width: int,
    answered: int,
    malformed: frozenset[str],
) -> None:
    plan = plan_each(wanted, Packing(symbols=width))
    answers: dict[Chunk, Answer | None] = {}
    for chunk in plan.chunks:
        # The first that is not answered is one that is asked for.
        if None not in answers.values() and malformed.issuperset(chunk.symbols):
            answered += 1
        told = len(answers) < answered
        answers[chunk] = answer(data, chunk, malformed) if told else None
    expected = plain.sessions(answers)
    found = collected(plan, answers)
    assert [ledger for _, ledger in found] == [ledger for _, ledger in expected]
    for (bars, ledger), (right, _) in zip(found, expected, strict=True):
        assert bars.schema == SCHEMA
        assert bars.to_pylist() == right.to_pylist()
        assert ledger.states.named(State.PRESENT) == ledger.present
        assert ledger.to_json() == Ledger(**parts(ledger)).to_json()


def parts(ledger: Ledger) -> dict[str, object]:
    return {name: getattr(ledger, name) for name in ("session", *(state.value for state in State))}


# What an audit says of it


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    state = st.sampled_from([State.PRESENT, State.PRESENT, State.PRESENT, *State, None])
    of = draw(st.fixed_dictionaries(dict.fromkeys(TWELVE, state)))
    having = {each: tuple(s for s, found in of.items() if found is each) for each in State}
    return Ledger(
        MONDAY,
        having[State.PRESENT],
        having[State.NO_PRINT],
        dict.fromkeys(having[State.FAILED], "timed out"),
        having[State.PENDING],
        dict.fromkeys(having[State.REJECTED], "no symbol"),
    )


@st.composite
def odd_bars(draw: st.DrawFn, symbol: str, session: date = MONDAY) -> plain.Row:
    """A bar of good prices, or of any."""
    if draw(st.booleans()):
        return bar(symbol, session)
    counts = st.sampled_from([0, 1, 100])
    return bar(
        symbol,
        draw(st.sampled_from([session, session, session, WEEK[4]])),
        **{name: draw(prices) for name in ("open", "high", "low", "close")},
        vwap=draw(prices | st.none()),
        volume=draw(counts),
        trade_count=draw(counts | st.none()),
    )


limits = st.builds(
    Thresholds,
    *[st.sampled_from([0.0, 0.5, 0.8, 0.95, 1.0])] * 4,
    *[st.integers(0, 3)] * 3,
)


@settings(deadline=None, max_examples=200)
@given(st.data(), ledgers(), st.lists(some_sets, max_size=5), limits, some_sets, st.booleans())
def test_an_audit_finds_what_it_finds_one_symbol_at_a_time(
    data: st.DataObject,
    ledger: Ledger,
    before: list[frozenset[str]],
    thresholds: Thresholds,
    inactive: frozenset[str],
    shared: bool,
) -> None:
    symbols = list(ledger.present)
    if data.draw(st.integers(0, 3)) == 0:  # bars and ledger that do not belong together
        symbols += data.draw(st.lists(st.sampled_from(names(14)), max_size=2))
    bars = table(data.draw(odd_bars(symbol)) for symbol in symbols)
    axis = ledger.states.symbols
    # The sessions before of the same window share its axis, those of another have their own.
    printed = [
        Subset(axis, bits_of(axis.flags(each))) if shared else Subset.of(each) for each in before
    ]
    found = audit(bars, ledger, printed, thresholds, Subset.of(inactive))
    expected = plain.audit(bars, ledger, before, thresholds, inactive)
    assert plain.judged(found) == expected
    assert [one.offender_count for one in found] == [len(told) for *_, told in expected.values()]


ROWS = ("schema", "one_row_per_symbol", "valid_prices")


@settings(deadline=None, max_examples=200)
@given(st.data(), st.lists(ledgers(), max_size=4))
def test_a_session_of_a_window_is_sound_if_none_of_its_rows_breaks_a_rule(
    data: st.DataObject, drawn: list[Ledger]
) -> None:
    sessions = []
    for day, ledger in zip(WEEK, drawn, strict=False):
        rows = [data.draw(odd_bars(symbol, day)) for symbol in ledger.present]
        if data.draw(st.integers(0, 5)) == 0:  # bars and ledger that do not belong together
            rows = data.draw(st.sampled_from([rows[1:], rows[::-1], rows * 2]))
        sessions.append((table(rows), replace(ledger, session=day)))
    alone = {ledger.session: audit(bars, ledger, []) for bars, ledger in sessions}
    faultless = {
        day
        for day, found in alone.items()
        if not any(one.offender_count for one in found if one.rule in ROWS)
    }
    fit = all(bars["symbol"].to_pylist() == list(ledger.present) for bars, ledger in sessions)
    found, hashed = sound(sessions), hash_rows(sessions)
    assert found == (faultless if fit else frozenset())
    assert list(hashed) == (list(alone) if fit else [])
    for bars, ledger in sessions:
        day = ledger.session
        assert DAILY_RULES.judge(Case(bars, ledger, sound=day in found)) == alone[day]
        assert hashed.get(day, fingerprint(bars)) == fingerprint(bars)


def test_a_session_with_other_columns_leaves_its_window_to_be_looked_at_one_by_one() -> None:
    ledger = Ledger(MONDAY, present=TWELVE)
    good = every(TWELVE)
    assert sound([(good, ledger)]) == {MONDAY}
    assert sound([(good, ledger), (good.drop_columns(["vwap"]), ledger)]) == frozenset()
    assert sound([]) == frozenset()


def test_an_audit_without_a_list_of_inactive_symbols_expects_all() -> None:
    ledger = Ledger(MONDAY, present=TWELVE[:6], no_print=TWELVE[6:])
    found = audit(every(TWELVE[:6]), ledger, [Subset.of(TWELVE)])
    assert plain.judged(found)["coverage"][1] == 0.5
    assert MOST_OFFENDERS >= 6


# The parts


@unhurried
@given(st.dictionaries(st.sampled_from(names(9)), st.sampled_from([*State, None])))
def test_a_ledger_in_columns_is_the_ledger_and_the_other_way_round(
    of: dict[str, State | None],
) -> None:
    symbols = Symbols(of)
    codes = [NOT_ASKED if (s := of[name]) is None else States.code(s) for name in symbols.names]
    states = States(symbols, np.array(codes, np.uint8))
    made = Ledger.of(MONDAY, states, dict.fromkeys(of, "why"))
    having = {each: sorted(s for s, found in of.items() if found is each) for each in State}
    told = {state.value: tuple(having[state]) for state in State}
    reasons = {name: dict.fromkeys(told[name], "why") for name in ("failed", "rejected")}
    plainly = Ledger(MONDAY, **told | reasons)  # type: ignore[arg-type]
    assert made == plainly
    assert made.states is states
    assert frozenset(plainly.states.symbols.names) == made.symbols
    for state in State:
        assert plainly.states.named(state) == states.named(state) == tuple(having[state])
        assert states.column(state).to_pylist() == list(states.named(state))


@unhurried
@given(some_sets, some_sets)
def test_a_subset_is_the_same_on_every_axis(names_: frozenset[str], axis: frozenset[str]) -> None:
    subset, symbols, other = Subset.of(names_), Symbols(axis), Symbols([])
    for _ in range(2):
        assert frozenset(symbols.with_bits(subset.on(symbols))) == names_ & axis
        assert other.with_bits(subset.on(other)) == ()
    assert subset.symbols.with_bits(subset.on(subset.symbols)) == tuple(sorted(names_))


GRID = Grid(Symbols(TWELVE), WEEK)


@unhurried
@given(st.data(), st.sets(st.sampled_from(names(15)), min_size=1), st.integers(0, 5))
def test_a_block_knows_the_cell_of_what_was_asked_for_and_no_other(
    data: st.DataObject, asked: set[str], first: int
) -> None:
    symbols = sorted(asked.intersection(TWELVE)) or [TWELVE[0]]
    sessions = WEEK[first : first + data.draw(st.integers(1, 6))]
    days = [WEEK[0] - timedelta(days=1), *WEEK, WEEK[-1] + timedelta(days=1), date(2000, 1, 3)]
    keys = data.draw(st.lists(st.tuples(st.sampled_from(names(15)), st.sampled_from(days))))
    rows = table(bar("A") | {"symbol": symbol, "session": day} for symbol, day in keys)
    cells, others = Block(GRID, symbols, sessions).cells(rows)
    for cell, (symbol, day) in zip(cells.tolist(), keys, strict=True):
        if symbol in symbols and day in sessions:
            assert GRID.at(cell) == (symbol, day)
            assert GRID.cells(symbol, day) == range(cell, cell + 1)
        else:
            assert cell == -1
    assert others == sorted({symbol for symbol, _ in keys}.difference(symbols))


def test_bars_of_cells_that_are_left_out_are_not_in_the_window() -> None:
    bars = every(TWELVE, WEEK)
    cells, _ = Block(GRID, TWELVE, WEEK).cells(bars)
    left_out = [(TWELVE[3], WEEK[1]), (TWELVE[0], WEEK[5])]
    window, clashing = ordered(GRID, [Rows(bars, cells)], left_out)
    assert clashing == []
    assert np.count_nonzero(window.present) == window.bars.num_rows == len(GRID) - 2
    assert [part.num_rows for part in window.by_session()] == [12, 11, 12, 12, 12, 11]
