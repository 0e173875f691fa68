"""One state for each symbol, and how a repair mends a ledger."""

import json
from datetime import UTC, date, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datalake_assets.collection.report import Ledger, Reason, State, Statistics, joined, reasons
from datalake_assets_tests.collection.tables import MONDAY, WEEK, names

unhurried = settings(deadline=None)
states = st.sampled_from(list(State))
outcomes = st.dictionaries(st.text(min_size=1, max_size=6), states, max_size=30)
MISSING = frozenset({State.FAILED, State.PENDING})


def ledger(outcome: dict[str, State], session: date = MONDAY, why: str = "why") -> Ledger:
    """The ledger of these symbols; the reason of each is its own."""
    by = {state: [s for s, found in outcome.items() if found is state] for state in State}
    return Ledger(
        session,
        present=tuple(by[State.PRESENT]),
        no_print=tuple(by[State.NO_PRINT]),
        failed={s: f"{why} {s}" for s in by[State.FAILED]},
        pending=tuple(by[State.PENDING]),
        rejected={s: f"{why} {s}" for s in by[State.REJECTED]},
    )


@given(outcomes)
def test_every_symbol_is_counted_once_under_its_state(outcome: dict[str, State]) -> None:
    made = ledger(outcome)
    assert made.symbols == frozenset(outcome)
    assert made.counts == {state: list(outcome.values()).count(state) for state in State}
    assert made.requested == sum(state is not State.REJECTED for state in outcome.values())
    assert made.missing == tuple(sorted(s for s, state in outcome.items() if state in MISSING))


@given(st.data(), outcomes.filter(bool))
def test_a_symbol_with_two_states_is_refused_and_named(
    data: st.DataObject, outcome: dict[str, State]
) -> None:
    twice = data.draw(st.sampled_from(sorted(outcome)))
    other = data.draw(states.filter(lambda state: state is not outcome[twice]))
    one, two = ledger(outcome), ledger({twice: other})
    with pytest.raises(ValueError, match="two states") as caught:
        Ledger(
            MONDAY,
            one.present + two.present,
            one.no_print + two.no_print,
            {**one.failed, **two.failed},
            one.pending + two.pending,
            {**one.rejected, **two.rejected},
        )
    assert repr([twice]) in str(caught.value)


def test_a_symbol_twice_under_one_state_is_refused_too() -> None:
    with pytest.raises(ValueError, match=r"\['A'\]"):
        Ledger(MONDAY, present=("A", "A", "B"))


@given(st.data(), outcomes)
def test_ledgers_of_the_same_states_are_equal_and_the_same_text_in_whatever_order(
    data: st.DataObject, outcome: dict[str, State]
) -> None:
    shuffled = dict(data.draw(st.permutations(list(outcome.items()))))
    assert ledger(shuffled) == ledger(outcome)
    assert ledger(shuffled).to_json() == ledger(outcome).to_json()


@given(outcomes, st.sampled_from(WEEK), st.text(max_size=30))
@example({"A": State.FAILED}, MONDAY, "half of a pair: \ud800, and \x7f")
def test_a_ledger_survives_its_way_through_json(
    outcome: dict[str, State], session: date, why: str
) -> None:
    made = ledger(outcome, session, why)
    text = made.to_json()
    assert Ledger.from_json(text, made.present) == made
    assert Ledger.from_json(text.encode(), made.present) == made
    assert "present" not in json.loads(text)
    assert text == json.dumps(json.loads(text), separators=(",", ":"))


def test_the_text_of_a_ledger_does_not_repeat_the_rows_beside_it() -> None:
    assert len(Ledger(MONDAY, present=names(5_000)).to_json()) < 200


@unhurried
@given(st.data(), outcomes)
def test_any_sequence_of_repairs_of_any_parts_ends_in_the_same_ledger_as_one(
    data: st.DataObject, outcome: dict[str, State]
) -> None:
    found = {s: data.draw(states) for s, state in outcome.items() if state in MISSING}
    begun = ledger(outcome)
    at_once = begun.repaired_by(ledger(found, why="again"))

    # Every symbol is repaired in one of the rounds for good; before it, it may miss once more.
    rounds = data.draw(st.integers(1, 4))
    last = {symbol: data.draw(st.integers(0, rounds - 1)) for symbol in found}
    mended = begun
    for turn in range(rounds):
        part = {s: state for s, state in found.items() if last[s] == turn}
        for symbol in found:
            if last[symbol] > turn and data.draw(st.booleans()):
                part[symbol] = data.draw(st.sampled_from(sorted(MISSING)))
        mended = mended.repaired_by(ledger(part, why="again"))

    assert mended == at_once == ledger_of(outcome, found)
    assert mended.symbols == begun.symbols


def ledger_of(outcome: dict[str, State], found: dict[str, State]) -> Ledger:
    """What must stand after the repair, each symbol with the reason of who judged it last."""
    judged = {**outcome, **found}

    def reasons(state: State) -> dict[str, str]:
        return {s: f"{'again' if s in found else 'why'} {s}" for s in judged if judged[s] is state}

    return Ledger(
        MONDAY,
        tuple(reasons(State.PRESENT)),
        tuple(reasons(State.NO_PRINT)),
        reasons(State.FAILED),
        tuple(reasons(State.PENDING)),
        reasons(State.REJECTED),
    )


def test_a_repair_that_found_nothing_out_changes_nothing() -> None:
    begun = ledger({"A": State.FAILED, "B": State.PRESENT})
    assert begun.repaired_by(Ledger(MONDAY)) == begun


def test_a_repair_of_another_session_is_refused() -> None:
    with pytest.raises(ValueError, match=f"{WEEK[1]}.*{MONDAY}"):
        ledger({"A": State.FAILED}).repaired_by(Ledger(WEEK[1], present=("A",)))


@pytest.mark.parametrize("state", sorted(set(State) - MISSING))
def test_a_repair_of_a_symbol_that_was_not_missing_is_refused_and_named(state: State) -> None:
    with pytest.raises(ValueError, match=r"not missing: \['A'\]"):
        ledger({"A": state, "B": State.FAILED}).repaired_by(Ledger(MONDAY, present=("A", "B")))


def test_errors_that_differ_only_in_the_symbol_that_they_name_are_one_reason() -> None:
    failed = {
        "A": "HTTP 500 for A",
        "AA": "HTTP 500 for AA",
        "BRK.B": "HTTP 500 for BRK.B",
        "C": "timed out",
    }
    found = reasons(failed)
    assert found == (
        Reason("HTTP 500 for A", 3, ("A", "AA", "BRK.B")),
        Reason("timed out", 1, ("C",)),
    )
    assert [str(reason) for reason in found] == [
        "3 failed (A, AA, BRK.B): HTTP 500 for A",
        "1 failed (C): timed out",
    ]


@pytest.mark.parametrize(("count", "more"), [(4, False), (5, False), (6, True)])
def test_a_reason_names_the_first_five_symbols_and_counts_all(count: int, more: bool) -> None:
    symbols = tuple(f"S{number}" for number in range(count))
    (found,) = reasons(dict.fromkeys(symbols, "boom"))
    assert (found.count, found.symbols) == (count, symbols[:5])
    assert (", …" in str(found)) is more


def test_the_reasons_of_several_sessions_are_added_up() -> None:
    sessions = [{"A": "no A", "B": "no B"}, {"C": "no C"}, {"C": "boom"}]
    assert joined(reason for failed in sessions for reason in reasons(failed)) == (
        Reason("no A", 3, ("A", "B", "C")),
        Reason("boom", 1, ("C",)),
    )
    assert joined([]) == reasons({}) == ()


def test_a_symbol_that_failed_in_several_sessions_is_named_alone() -> None:
    (found,) = joined(reason for _ in range(3) for reason in reasons({"A": "boom"}))
    assert str(found) == "3 failed (A): boom"


def test_a_repair_may_bring_symbols_that_were_never_asked_for() -> None:
    found = ledger({"A": State.PRESENT}).repaired_by(
        Ledger(MONDAY, present=("B",), no_print=("C",), failed={"D": "gone"})
    )
    assert (found.present, found.no_print, found.failed) == (("A", "B"), ("C",), {"D": "gone"})


@pytest.mark.parametrize(
    ("outcome", "rate"),
    [
        ({}, 0.0),
        ({State.REJECTED: 3}, 0.0),
        ({State.PRESENT: 1}, 1.0),
        ({State.NO_PRINT: 1}, 1.0),
        ({State.FAILED: 1}, 0.0),
        ({State.PENDING: 1}, 0.0),
        ({State.PRESENT: 1, State.REJECTED: 9}, 1.0),
        ({State.PRESENT: 1, State.NO_PRINT: 1, State.FAILED: 1, State.PENDING: 1}, 0.5),
        ({State.PRESENT: 99, State.FAILED: 1}, 0.99),
    ],
)
def test_the_success_rate_is_the_share_answered_of_all_but_the_rejected(
    outcome: dict[State, int], rate: float
) -> None:
    symbols = iter(names(200))
    assert (
        ledger(
            {next(symbols): s for s, count in outcome.items() for _ in range(count)}
        ).success_rate
        == rate
    )


def test_statistics_tell_every_number_in_a_form_that_json_takes() -> None:
    began = datetime(2024, 7, 3, 21, 0, tzinfo=UTC)
    told = Statistics(
        started=began,
        ended=began.replace(minute=1),
        duration_seconds=60.0,
        planned_requests=10,
        requests=12,
        retries=2,
        throttled=1,
        limiter_wait_seconds=3.5,
        bars=6_000,
        bytes_received=10**6,
        stray_bars=4,
        odd_bars=3,
        rounded_volumes=2,
    ).to_dict()
    assert json.loads(json.dumps(told)) == {
        "started": "2024-07-03T21:00:00+00:00",
        "ended": "2024-07-03T21:01:00+00:00",
        "duration_seconds": 60.0,
        "planned_requests": 10,
        "requests": 12,
        "retries": 2,
        "throttled": 1,
        "limiter_wait_seconds": 3.5,
        "bars": 6_000,
        "bytes_received": 10**6,
        "stray_bars": 4,
        "odd_bars": 3,
        "rounded_volumes": 2,
        "bars_per_second": 100.0,
    }


def test_a_collection_that_took_no_time_has_no_throughput() -> None:
    now = datetime(2024, 7, 3, tzinfo=UTC)
    assert Statistics(now, now, 0.0, bars=5).bars_per_second == 0.0


def test_a_ledger_of_a_whole_market_is_shown_in_a_few_lines() -> None:
    many = tuple(f"S{number:04}" for number in range(6_000))
    shown = repr(Ledger(MONDAY, present=many, failed={"Z": "boom"}))

    assert shown.startswith(f"Ledger({MONDAY}, present=('S0000', 'S0001'")
    assert "failed={'Z': 'boom'}" in shown
    assert len(shown) < 300
