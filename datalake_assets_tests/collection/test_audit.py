"""Each rule just below, at and above its threshold."""

import math
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from datalake_assets.collection.audit import (
    MOST_OFFENDERS,
    RULES,
    Finding,
    Thresholds,
    Verdict,
    audit,
    passed,
)
from datalake_assets.collection.bars import PRICES, SCHEMA, empty
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.symbols import Subset
from datalake_assets_tests.collection.tables import MONDAY, WEEK, bar, every, names, table

HUNDRED = names(100)
PASS, WARN, FAIL = Verdict.PASS, Verdict.WARN, Verdict.FAIL


def session(
    present: int = 100, no_print: int = 0, failed: int = 0, pending: int = 0, rejected: int = 0
) -> Ledger:
    """A ledger with so many symbols of each state, the present ones first."""
    symbols = iter(names(present + no_print + failed + pending + rejected))
    return Ledger(
        MONDAY,
        present=tuple(next(symbols) for _ in range(present)),
        no_print=tuple(next(symbols) for _ in range(no_print)),
        failed={next(symbols): "timed out" for _ in range(failed)},
        pending=tuple(next(symbols) for _ in range(pending)),
        rejected={next(symbols): "invalid symbol" for _ in range(rejected)},
    )


def judged(
    rule: str,
    ledger: Ledger | None = None,
    bars: pa.Table | None = None,
    before: list[frozenset[str]] | None = None,
    inactive: frozenset[str] = frozenset(),
    **limits: Any,
) -> Finding:
    """What this rule says; the session is one of 100 good bars where nothing else is told."""
    ledger = ledger or session()
    bars = every(ledger.present) if bars is None else bars
    return {
        finding.rule: finding
        for finding in audit(
            bars,
            ledger,
            list(map(Subset.of, before or [])),
            Thresholds(**limits),
            Subset.of(inactive),
        )
    }[rule]


def test_a_good_session_passes_every_rule_in_the_documented_order() -> None:
    findings = audit(every(HUNDRED), session(), [Subset.of(HUNDRED)] * 5)
    assert [finding.rule for finding in findings] == list(RULES)
    assert {finding.verdict for finding in findings} == {PASS}
    assert not any(finding.offenders for finding in findings)
    assert passed(findings)


@pytest.mark.parametrize(
    ("verdicts", "may"), [([PASS], True), ([PASS, WARN], True), ([WARN, FAIL, PASS], False)]
)
def test_a_warning_holds_no_session_back_and_a_failure_does(
    verdicts: list[Verdict], may: bool
) -> None:
    assert passed([Finding("rule", verdict, 0.0, 0.0, "") for verdict in verdicts]) is may


@pytest.mark.parametrize("name", ["success_rate", "coverage", "invalid_bars", "row_ratio"])
@pytest.mark.parametrize("wrong", [-0.01, 1.01, 99, math.nan])
def test_a_threshold_that_is_no_share_is_refused_by_name(name: str, wrong: float) -> None:
    with pytest.raises(ValueError, match=name):
        Thresholds(**{name: wrong})


@pytest.mark.parametrize("name", ["unanswered_allowed", "silent_allowed", "invalid_bars_allowed"])
def test_a_number_below_nothing_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Thresholds(**{name: -1})
    assert getattr(Thresholds(**{name: 0}), name) == 0


def test_the_thresholds_are_those_of_the_contract() -> None:
    assert Thresholds() == Thresholds(0.99, 0.95, 0.001, 0.8, 1, 2, 1)
    assert Thresholds.of_feed("sip") == Thresholds()


@pytest.mark.parametrize("feed", ["iex", "otc", "boats"])
def test_a_thin_feed_may_be_silent_more_often(feed: str) -> None:
    assert Thresholds.of_feed(feed) == Thresholds(coverage=0.7, row_ratio=0.7, silent_allowed=5)


# success_rate


@pytest.mark.parametrize(
    ("ledger", "verdict", "value"),
    [
        (session(989, failed=11), FAIL, 0.989),
        (session(990, failed=10), PASS, 0.99),
        (session(991, failed=9), PASS, 0.991),
        (session(500, no_print=490, failed=4, pending=6), PASS, 0.99),
        (session(500, no_print=489, failed=5, pending=6), FAIL, 0.989),
        (session(99, failed=1), PASS, 0.99),
        (session(9, failed=1), WARN, 0.9),
        (session(9, pending=1), WARN, 0.9),
        (session(8, failed=2), FAIL, 0.8),
        (session(8, failed=1, pending=1), FAIL, 0.8),
        (session(1, failed=1), WARN, 0.5),
        (session(0, no_print=1, failed=1), WARN, 0.5),
        (session(0, failed=1), FAIL, 0.0),
        (session(1, rejected=99), PASS, 1.0),
        (session(0, no_print=5), PASS, 1.0),
        (session(0), FAIL, 0.0),
        (session(0, rejected=5), FAIL, 0.0),
    ],
)
def test_the_success_rate_must_reach_its_threshold(
    ledger: Ledger, verdict: Verdict, value: float
) -> None:
    finding = judged("success_rate", ledger)
    assert (finding.verdict, finding.value, finding.threshold) == (verdict, value, 0.99)
    assert finding.offenders == ledger.missing
    assert finding.offender_count == len(ledger.missing)


@pytest.mark.parametrize("failed", [MOST_OFFENDERS - 1, MOST_OFFENDERS, MOST_OFFENDERS + 1, 5_000])
def test_a_finding_names_the_first_of_its_offenders_and_counts_all(failed: int) -> None:
    ledger = session(10, failed=failed)
    finding = judged("success_rate", ledger)
    assert finding.offenders == ledger.missing[:MOST_OFFENDERS]
    assert finding.offender_count == failed


def test_the_success_rate_tells_its_numbers() -> None:
    finding = judged("success_rate", session(1_200, no_print=34, failed=5, pending=6, rejected=7))
    assert finding.detail == "1,234 of 1,245 symbols answered, 5 failed, 6 pending"


# coverage


@pytest.mark.parametrize(
    ("silent", "verdict", "value"), [(4, PASS, 0.96), (5, PASS, 0.95), (6, FAIL, 0.94)]
)
def test_the_coverage_must_reach_its_threshold(silent: int, verdict: Verdict, value: float) -> None:
    finding = judged(
        "coverage", session(100 - silent, no_print=silent), before=[frozenset(HUNDRED)]
    )
    assert finding.verdict is verdict
    assert finding.value == pytest.approx(value)
    assert finding.threshold == 0.95
    assert finding.offenders == HUNDRED[100 - silent :]


@pytest.mark.parametrize("silent", [MOST_OFFENDERS - 1, MOST_OFFENDERS, MOST_OFFENDERS + 1, 5_000])
def test_the_coverage_names_the_first_silent_symbols_and_counts_all(silent: int) -> None:
    ledger = session(10, no_print=silent)
    finding = judged("coverage", ledger, before=[frozenset((*ledger.present, *ledger.no_print))])
    assert finding.offenders == ledger.no_print[:MOST_OFFENDERS]
    assert finding.offender_count == silent
    assert finding.detail == f"10 of {silent + 10:,} expected symbols have a bar"


@pytest.mark.parametrize(
    ("printed", "silent", "verdict"),
    [
        (1, 0, PASS),
        (0, 1, FAIL),
        (1, 1, WARN),
        (0, 2, FAIL),
        (1, 2, WARN),
        (9, 1, WARN),
        (8, 2, WARN),
        (7, 3, FAIL),
        (39, 2, PASS),
        (37, 2, WARN),
        (36, 3, FAIL),
        (95, 5, PASS),
        (94, 6, FAIL),
        (950, 50, PASS),
        (949, 51, FAIL),
        (7_600, 400, PASS),
        (7_599, 401, FAIL),
    ],
)
def test_a_few_symbols_may_fall_silent_whatever_their_share_but_not_all(
    printed: int, silent: int, verdict: Verdict
) -> None:
    ledger = session(printed, no_print=silent)
    finding = judged("coverage", ledger, before=[ledger.symbols])
    assert finding.verdict is verdict
    assert finding.value == printed / (printed + silent)


def test_a_silent_symbol_that_the_source_lists_as_inactive_is_not_expected() -> None:
    ten = frozenset(names(10))
    gone = names(10)[5:]
    finding = judged("coverage", session(5, no_print=5), before=[ten], inactive=frozenset(gone))
    assert (finding.verdict, finding.value, finding.offenders) == (PASS, 1.0, ())
    assert finding.detail == (
        "5 of 5 expected symbols have a bar; 5 silent and inactive by the source's list"
    )


def test_an_inactive_symbol_that_prints_is_as_good_as_any() -> None:
    ten = frozenset(names(10))
    finding = judged("coverage", session(7, no_print=3), before=[ten], inactive=ten)
    assert (finding.verdict, finding.value) == (PASS, 1.0)
    finding = judged("coverage", session(10), before=[ten], inactive=ten)
    assert finding.detail == "10 of 10 expected symbols have a bar"


def test_no_symbol_is_expected_when_all_silent_ones_are_inactive() -> None:
    one = frozenset(names(1))
    finding = judged("coverage", session(0, no_print=1), before=[one], inactive=one)
    assert (finding.verdict, finding.value) == (PASS, None)
    assert "no symbol is expected" in finding.detail


def test_a_source_that_loses_every_inactive_symbol_is_still_told_by_the_number_of_bars() -> None:
    before, gone = [frozenset(names(100))] * 5, frozenset(names(100)[40:])
    ledger = session(40, no_print=60)
    assert judged("coverage", ledger, before=before, inactive=gone).verdict is PASS
    assert judged("row_count", ledger, before=before, inactive=gone).verdict is FAIL


def test_a_coverage_exactly_at_any_threshold_passes_and_one_symbol_less_does_not() -> None:
    def verdict(covered: int, percent: int) -> Verdict:
        ledger = session(covered, no_print=100 - covered)
        before = [frozenset(HUNDRED)]
        limits = {"coverage": percent / 100, "silent_allowed": 0}
        return judged("coverage", ledger, empty(), before, **limits).verdict

    assert [percent for percent in range(101) if verdict(percent, percent) is not PASS] == []
    assert [percent for percent in range(1, 101) if verdict(percent - 1, percent) is PASS] == []


NOTHING = "the lake holds none of the five sessions before"
NONE = "in the sessions before, none of the symbols asked for has a bar"
MOSTLY = "in most of the sessions before, none of the symbols asked for has a bar"


@pytest.mark.parametrize("rule", ["coverage", "row_count"])
@pytest.mark.parametrize(
    ("before", "why"),
    [([], NOTHING), ([frozenset[str]()], NONE), ([frozenset({"DELISTED"})] * 5, NONE)],
)
def test_what_can_not_be_held_against_the_sessions_before_says_why(
    rule: str, before: list[frozenset[str]], why: str
) -> None:
    finding = judged(rule, session(1, no_print=99), before=before)
    assert (finding.verdict, finding.value) == (PASS, None)
    assert finding.detail == f"unknown: {why}"


def test_a_usual_number_of_none_says_that_it_is_that_of_most_sessions() -> None:
    before = [frozenset({"S00000"}), frozenset[str](), frozenset({"DELISTED"})]
    assert judged("row_count", session(1), before=before).detail == f"unknown: {MOSTLY}"


def test_a_symbol_is_expected_that_printed_in_any_of_the_sessions_before() -> None:
    before = [frozenset({"S00000"}), frozenset(), frozenset({"S00001", "S00000"})]
    finding = judged("coverage", session(1, no_print=1), before=before)
    assert finding.value == 0.5
    assert finding.offenders == ("S00001",)
    assert finding.detail == "1 of 2 expected symbols has a bar"


@pytest.mark.parametrize("printed", [0, 1])
def test_a_universe_of_one_symbol_is_told_in_the_singular(printed: int) -> None:
    found = session(printed, no_print=1 - printed)
    coverage = judged("coverage", found, before=[frozenset({"S00000"})])
    prices = judged("valid_prices", session(1))

    assert coverage.detail.startswith(f"{printed} of 1 expected symbol has a bar")
    assert prices.detail == "0 of 1 bar has impossible prices"


def test_only_symbols_that_were_asked_for_are_expected() -> None:
    others = frozenset({f"OTHER{number}" for number in range(500)})
    finding = judged("coverage", session(100), before=[frozenset(HUNDRED) | others])
    assert (finding.verdict, finding.value, finding.offenders) == (PASS, 1.0, ())


@pytest.mark.parametrize(
    "ledger", [session(1, failed=1), session(1, pending=1), session(1, no_print=1)]
)
def test_a_symbol_without_a_bar_is_not_covered_whatever_the_reason(ledger: Ledger) -> None:
    finding = judged("coverage", ledger, before=[frozenset({"S00000", "S00001"})])
    assert finding.offenders == ("S00001",)


# schema


def stringly(column: str) -> pa.Table:
    """A table in which one column came as text."""
    good = every(HUNDRED)
    place = good.schema.get_field_index(column)
    return good.set_column(place, column, good[column].cast(pa.string()))


def with_null(column: str) -> pa.Table:
    good = every(HUNDRED)
    place = good.schema.get_field_index(column)
    values = [*good[column].to_pylist()[:-1], None]
    return good.set_column(place, column, pa.array(values, SCHEMA.field(column).type))


@pytest.mark.parametrize("column", SCHEMA.names)
def test_a_missing_column_is_named_and_holds_the_session_back(column: str) -> None:
    finding = judged("schema", bars=every(HUNDRED).drop_columns([column]))
    assert (finding.verdict, finding.offenders) == (FAIL, (f"{column}: missing",))


@pytest.mark.parametrize("column", SCHEMA.names[1:])
def test_a_column_of_another_type_is_named_with_it(column: str) -> None:
    finding = judged("schema", bars=stringly(column))
    assert (finding.verdict, finding.offenders) == (FAIL, (f"{column}: string",))


def test_a_timestamp_without_a_zone_is_another_type() -> None:
    good = every(HUNDRED)
    naive = good.set_column(2, "timestamp", good["timestamp"].cast(pa.timestamp("us")))
    assert judged("schema", bars=naive).offenders == ("timestamp: timestamp[us]",)


@pytest.mark.parametrize("column", ["vwap", "trade_count"])
def test_what_only_trades_make_may_be_missing(column: str) -> None:
    assert judged("schema", bars=with_null(column)).verdict is PASS
    assert judged("valid_prices", bars=with_null(column)).verdict is PASS


@pytest.mark.parametrize("column", [f.name for f in SCHEMA if not f.nullable])
def test_a_missing_value_is_counted(column: str) -> None:
    finding = judged("schema", bars=with_null(column))
    assert (finding.verdict, finding.offenders) == (FAIL, (f"{column}: 1 missing values",))


def test_an_unknown_column_is_named() -> None:
    more = every(HUNDRED).append_column("adjusted", pa.array([1.0] * 100))
    assert judged("schema", bars=more).offenders == ("adjusted: unknown",)


def test_bars_of_another_session_are_told_with_their_day() -> None:
    ledger = Ledger(MONDAY, present=("A", "B"))
    finding = judged("schema", ledger, table([bar("A"), bar("B", WEEK[1])]))
    assert (finding.verdict, finding.offenders) == (FAIL, (f"session: bars of {WEEK[1]}",))


def test_every_fault_of_the_schema_is_told() -> None:
    bars = stringly("open").drop_columns(["close"]).append_column("x", pa.array([1] * 100))
    finding = judged("schema", bars=bars)
    assert finding.offenders == ("open: string", "close: missing", "x: unknown")
    assert finding.value == 3


def test_rules_that_read_broken_columns_are_not_judged_but_none_of_them_passes() -> None:
    findings = audit(every(HUNDRED).drop_columns(["symbol", "open"]), session(), [])
    assert [finding.rule for finding in findings] == list(RULES)
    unread = [f for f in findings if f.rule in {"one_row_per_symbol", "valid_prices"}]
    assert {finding.verdict for finding in unread} == {FAIL}
    assert all("schema" in finding.detail for finding in unread)


# one_row_per_symbol


def test_a_symbol_with_two_bars_is_named() -> None:
    twice = pa.concat_tables([every(HUNDRED), every(["S00007", "S00042"])])
    finding = judged("one_row_per_symbol", bars=twice)
    assert (finding.verdict, finding.offenders) == (FAIL, ("S00007", "S00042"))


def test_a_bar_that_the_ledger_does_not_know_is_named() -> None:
    finding = judged("one_row_per_symbol", bars=every([*HUNDRED, "STRANGER"]))
    assert (finding.verdict, finding.offenders) == (FAIL, ("STRANGER",))


def test_a_present_symbol_without_a_bar_is_named() -> None:
    finding = judged("one_row_per_symbol", bars=every(HUNDRED[:-1]))
    assert (finding.verdict, finding.offenders) == (FAIL, (HUNDRED[-1],))


def test_a_bar_of_a_symbol_that_the_ledger_calls_silent_is_named() -> None:
    finding = judged("one_row_per_symbol", session(99, no_print=1), every(HUNDRED))
    assert (finding.verdict, finding.offenders) == (FAIL, (HUNDRED[-1],))


# valid_prices


def priced(bad: int, of: int) -> Finding:
    """A session of which the first bars open above their high."""
    rows = [bar(symbol) for symbol in names(of)]
    for row in rows[:bad]:
        row["open"] = row["high"] + 0.01
    return judged("valid_prices", session(of), table(rows))


@pytest.mark.parametrize(
    ("bad", "of", "verdict"),
    [
        (0, 2_000, PASS),
        (1, 2_000, WARN),
        (2, 2_000, WARN),
        (3, 2_000, FAIL),
        (1, 1_000, WARN),
        (1, 999, WARN),
        (2, 999, FAIL),
        (3, 3_000, WARN),
        (1, 10, WARN),
        (2, 10, FAIL),
        (1, 1, WARN),
        (8, 8_000, WARN),
        (9, 8_000, FAIL),
    ],
)
def test_impossible_prices_warn_up_to_one_bar_or_one_in_a_thousand_and_fail_beyond(
    bad: int, of: int, verdict: Verdict
) -> None:
    finding = priced(bad, of)
    assert (finding.verdict, finding.value) == (verdict, bad / of)
    assert finding.offenders == names(of)[:bad]


def test_a_threshold_of_nothing_makes_every_impossible_bar_a_failure() -> None:
    rows = [bar(symbol) for symbol in HUNDRED]
    none = {"invalid_bars": 0.0, "invalid_bars_allowed": 0}
    assert judged("valid_prices", bars=table(rows), **none).verdict is PASS
    rows[5]["low"] = rows[5]["high"] + 1
    assert judged("valid_prices", bars=table(rows), **none).verdict is FAIL


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: value} for name in (*PRICES, "vwap") for value in (math.nan, math.inf, -math.inf)),
        *({name: value} for name in (*PRICES, "vwap") for value in (0.0, -0.01)),
        {"open": 11.01},
        {"close": 11.01},
        {"open": 8.99},
        {"close": 8.99},
        {"high": 9.99},
        {"low": 10.01},
        {"high": 8.0, "low": 12.0},
        dict.fromkeys((*PRICES, "vwap"), 0.0),
        dict.fromkeys((*PRICES, "vwap"), -1.0),
        dict.fromkeys((*PRICES, "vwap"), math.nan),
        dict.fromkeys((*PRICES, "vwap"), math.inf),
    ],
)
def test_a_bar_with_prices_that_cannot_be_is_named(wrong: dict[str, float]) -> None:
    good = {"open": 10.0, "high": 11.0, "low": 9.0, "close": 10.0, "vwap": 10.0}
    ledger = Ledger(MONDAY, present=("A", "B", "C"))
    rows = [bar("A", MONDAY, **good), bar("B", MONDAY, **good | wrong), bar("C", MONDAY, **good)]
    assert judged("valid_prices", ledger, table(rows)).offenders == ("B",)


@pytest.mark.parametrize(
    ("odd", "valid"),
    [
        ({"vwap": 0.0, "volume": 0, "trade_count": 0}, True),
        ({"vwap": 0.0, "volume": 0}, True),
        ({"vwap": 0.0, "trade_count": 0}, True),
        ({"vwap": None, "volume": 0, "trade_count": 0}, True),
        ({"vwap": None}, True),
        ({"trade_count": None}, True),
        ({"vwap": 0.0, "volume": 0, "trade_count": None}, True),
        ({"vwap": 0.0, "volume": 1, "trade_count": 1}, False),
        ({"vwap": 0.0, "volume": 1, "trade_count": None}, False),
        ({"vwap": -1.0, "volume": 0, "trade_count": 0}, False),
        ({"vwap": math.nan, "volume": 0, "trade_count": 0}, False),
        ({"close": 0.0, "volume": 0, "trade_count": 0}, False),
    ],
)
def test_an_average_is_only_needed_where_something_was_traded(
    odd: dict[str, Any], valid: bool
) -> None:
    ledger = Ledger(MONDAY, present=("A", "B"))
    finding = judged("valid_prices", ledger, table([bar("A"), bar("B") | odd]))
    assert (finding.offenders == ()) is valid


@pytest.mark.parametrize(
    "edge",
    [
        {"open": 11.0},
        {"open": 9.0},
        {"close": 11.0},
        {"close": 9.0},
        dict.fromkeys((*PRICES, "vwap"), 0.0001),
        dict.fromkeys((*PRICES, "vwap"), 773_000.0),
        {"vwap": 8.0},
    ],
)
def test_a_bar_at_the_edge_of_what_can_be_is_none(edge: dict[str, float]) -> None:
    good = {"open": 10.0, "high": 11.0, "low": 9.0, "close": 10.0, "vwap": 10.0}
    finding = judged(
        "valid_prices", Ledger(MONDAY, present=("A",)), table([bar("A", MONDAY, **good | edge)])
    )
    assert (finding.verdict, finding.offenders) == (PASS, ())


# row_count


@pytest.mark.parametrize(
    ("rows", "verdict"), [(79, FAIL), (80, PASS), (81, PASS), (100, PASS), (300, PASS)]
)
def test_the_number_of_bars_must_reach_its_share_of_what_is_usual(
    rows: int, verdict: Verdict
) -> None:
    ledger = session(rows, no_print=max(0, 100 - rows))
    finding = judged("row_count", ledger, before=[frozenset(HUNDRED)] * 5)
    assert (finding.verdict, finding.value, finding.threshold) == (verdict, rows / 100, 0.8)
    assert finding.detail == f"{rows} bars, 100 is usual"


@pytest.mark.parametrize(
    ("rows", "usual", "verdict"),
    [(0, 1, WARN), (0, 2, WARN), (0, 3, FAIL), (3, 5, WARN), (2, 5, FAIL), (8, 10, PASS)],
)
def test_a_few_bars_may_be_missing_to_what_is_usual_whatever_their_share(
    rows: int, usual: int, verdict: Verdict
) -> None:
    ledger = session(rows, no_print=usual - rows)
    assert judged("row_count", ledger, before=[ledger.symbols] * 5).verdict is verdict


def test_one_odd_session_does_not_move_what_is_usual() -> None:
    before = [frozenset(HUNDRED)] * 3 + [frozenset[str](), frozenset(HUNDRED[:1])]
    assert judged("row_count", before=before).value == 1.0


def test_what_is_usual_counts_only_symbols_that_were_asked_for() -> None:
    before = [frozenset(names(5_000))] * 5
    assert judged("row_count", session(10), before=before).value == 1.0


# The whole


def test_a_session_without_a_bar_is_judged_and_not_published() -> None:
    findings = audit(empty(), session(0, failed=100), [Subset.of(HUNDRED)])
    verdicts = {finding.rule: finding.verdict for finding in findings}
    assert verdicts["success_rate"] is verdicts["coverage"] is verdicts["row_count"] is FAIL
    assert verdicts["schema"] is verdicts["valid_prices"] is PASS
    assert not passed(findings)


def test_the_session_of_a_bar_is_what_counts_and_not_its_stamp() -> None:
    rows = [bar(symbol) for symbol in HUNDRED]
    for row in rows:
        row["timestamp"] += timedelta(hours=1)
    assert judged("schema", bars=table(rows)).verdict is PASS
