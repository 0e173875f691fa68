"""The rules of minute bars, each just below, at and above its threshold."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datalake_assets.collection.against_daily import DailyBars
from datalake_assets.collection.audit import (
    DAILY_RULES,
    MOST_OFFENDERS,
    RULES,
    Case,
    Finding,
    Thresholds,
    Verdict,
    audit,
    passed,
)
from datalake_assets.collection.bars import empty
from datalake_assets.collection.minute_audit import MEANINGS, MINUTE_RULES, MinuteThresholds
from datalake_assets.collection.minute_totals import Hours, MinuteCounts
from datalake_assets.collection.report import Ledger
from datalake_assets.collection.symbols import Subset
from datalake_assets_tests.collection.minutes import (
    HALF_DAY,
    LENGTH,
    changed,
    days,
    extended,
    minutes,
    regular,
)
from datalake_assets_tests.collection.tables import MONDAY, bar, every, names, table

PASS, WARN, FAIL = Verdict.PASS, Verdict.WARN, Verdict.FAIL
TWELVE = names(12)
WHOLE = minutes(TWELVE)
DAYS = days(WHOLE)


def case(
    bars: pa.Table,
    daily: pa.Table | None = None,
    ledger: Ledger | None = None,
    *,
    before: Sequence[pa.Table] = (),
    hours: Hours | None = None,
    day: date = MONDAY,
    **limits: Any,
) -> Case:
    """A session; its ledger is that of its bars where nothing else is told."""
    return Case(
        bars,
        ledger or Ledger(day, present=tuple(sorted(set(bars["symbol"].to_pylist())))),
        thresholds=MinuteThresholds(**limits),
        hours=hours,
        daily=daily,
        minutes_before=[MinuteCounts.of(each, regular()) for each in before],
    )


def judged(rule: str, *given: Any, **more: Any) -> Finding:
    """What this rule says of a session."""
    return {one.rule: one for one in MINUTE_RULES.judge(case(*given, **more))}[rule]


def without(symbol: str, keep: int, bars: pa.Table = WHOLE) -> pa.Table:
    """The bars, with only the first few of a symbol's."""
    own = pc.equal(bars["symbol"], symbol)
    parts = [bars.filter(own).slice(0, keep), bars.filter(pc.invert(own))]
    return pa.concat_tables(parts).sort_by([("symbol", "ascending"), ("timestamp", "ascending")])


# The whole


@pytest.mark.parametrize("hours", [None, regular(), extended()])
@pytest.mark.parametrize("daily", [None, DAYS])
def test_a_good_session_passes_every_rule_in_the_documented_order(
    hours: Hours | None, daily: pa.Table | None
) -> None:
    findings = MINUTE_RULES.judge(case(WHOLE, daily, hours=hours, before=[WHOLE]))
    assert [finding.rule for finding in findings] == list(MEANINGS) == list(MINUTE_RULES.meanings)
    assert {finding.verdict for finding in findings} == {PASS}
    assert not any(finding.offenders for finding in findings)
    assert passed(findings)


def test_the_rules_that_both_datasets_have_mean_the_same() -> None:
    shared = RULES.keys() & MEANINGS.keys()
    assert shared == {"success_rate", "coverage", "schema", "valid_prices"}
    assert all(RULES[rule] == MEANINGS[rule] for rule in shared)
    assert (DAILY_RULES.meanings, DAILY_RULES.needs_daily) == (RULES, False)
    assert MINUTE_RULES.needs_daily


def test_the_shared_rules_say_of_minutes_what_they_say_of_days() -> None:
    ledger = Ledger(MONDAY, present=TWELVE[:9], no_print=TWELVE[9:], failed={"X": "timed out"})
    bars = minutes(TWELVE[:9])
    before, limits = [Subset.of(TWELVE)], MinuteThresholds(coverage=0.9)
    of_days = audit(every(TWELVE[:9]), ledger, before, limits, Subset.of(TWELVE[9:10]))
    of_minutes = MINUTE_RULES.judge(Case(bars, ledger, before, limits, Subset.of(TWELVE[9:10])))
    for rule in ("success_rate", "coverage", "schema"):
        (one,), (other,) = ([f for f in found if f.rule == rule] for found in (of_days, of_minutes))
        assert one == other


def test_an_audit_of_daily_bars_is_what_the_daily_rules_judge() -> None:
    ledger = Ledger(MONDAY, present=TWELVE, failed={"X": "timed out"})
    given = (every(TWELVE), ledger, [Subset.of(TWELVE)], Thresholds(coverage=0.5))
    assert audit(*given) == DAILY_RULES.judge(Case(*given))


def test_rules_that_read_broken_columns_are_not_judged_but_none_of_them_passes() -> None:
    ledger = Ledger(MONDAY, present=TWELVE)
    findings = MINUTE_RULES.judge(case(WHOLE.drop_columns(["timestamp"]), DAYS, ledger))
    assert [finding.rule for finding in findings] == list(MEANINGS)
    unread = [finding for finding in findings if "not judged" in finding.detail]
    assert {finding.rule for finding in unread} == {
        "one_row_per_minute",
        "valid_prices",
        "against_daily",
        "complete_minutes",
    }
    assert {finding.verdict for finding in unread} == {FAIL}


def test_a_session_without_a_bar_at_the_start_of_history_is_warned_of() -> None:
    nothing = case(empty(), ledger=Ledger(MONDAY, no_print=TWELVE))
    found = {one.rule: one for one in MINUTE_RULES.judge(nothing)}
    assert found["complete_minutes"].verdict is WARN
    assert found["complete_minutes"].detail == "unknown: no symbol has a minute"
    assert passed(list(found.values()))


def test_a_session_without_a_bar_fails_where_the_daily_bars_tell_of_many_trades() -> None:
    nothing = case(empty(), DAYS, Ledger(MONDAY, no_print=TWELVE))
    found = {one.rule: one for one in MINUTE_RULES.judge(nothing)}
    assert found["against_daily"].verdict is found["complete_minutes"].verdict is FAIL


# Thresholds


@pytest.mark.parametrize("name", ["contradicted", "hour_ratio"])
def test_a_share_beyond_0_and_1_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        MinuteThresholds(**{name: 1.01})


@pytest.mark.parametrize("name", ["contradicted_allowed", "sparse_allowed", "halted_allowed"])
def test_a_number_below_nothing_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        MinuteThresholds(**{name: -1})


def test_thresholds_of_any_dataset_do_for_minutes() -> None:
    plain = Thresholds(coverage=0.5, unanswered_allowed=7)
    assert MinuteThresholds.including(plain) == MinuteThresholds(coverage=0.5, unanswered_allowed=7)
    own = MinuteThresholds(hour_ratio=0.5)
    assert MinuteThresholds.including(own) is own
    assert MinuteThresholds.of_feed("iex") == MinuteThresholds.including(Thresholds.of_feed("iex"))
    broken = replace(case(without("S00003", 2), DAYS), thresholds=Thresholds())
    assert not passed(MINUTE_RULES.judge(broken))


# one_row_per_minute


def test_a_minute_twice_is_named() -> None:
    twice = pa.concat_tables([WHOLE, WHOLE.slice(400, 1), WHOLE.slice(5, 2)])
    finding = judged("one_row_per_minute", twice)
    assert (finding.verdict, finding.offenders) == (FAIL, ("S00000", "S00001"))
    assert finding.detail.startswith("3 bars of a minute that has one, 0 off")


@pytest.mark.parametrize(
    ("moved", "hours", "wrong"),
    [
        (timedelta(minutes=-1), regular(), True),
        (timedelta(minutes=-1), extended(), False),
        (timedelta(minutes=LENGTH - 1), regular(), False),
        (timedelta(minutes=LENGTH), regular(), True),
        (timedelta(minutes=LENGTH), extended(), False),
        (timedelta(minutes=LENGTH + 239), extended(), False),
        (timedelta(minutes=LENGTH + 240), extended(), True),
        (timedelta(minutes=-330), extended(), False),
        (timedelta(minutes=-331), extended(), True),
        (timedelta(minutes=1, microseconds=1), regular(), True),
        (timedelta(seconds=30), extended(), True),
    ],
)
def test_a_bar_off_the_minutes_of_the_hours_is_named(
    moved: timedelta, hours: Hours, wrong: bool
) -> None:
    one = changed(minutes(["ODD"], [0]), "ODD", timestamp=regular()[0] + moved)
    finding = judged("one_row_per_minute", pa.concat_tables([one, WHOLE]), hours=hours)
    assert finding.offenders == (("ODD",) if wrong else ())
    assert finding.verdict is (FAIL if wrong else PASS)


def test_symbols_that_only_the_bars_or_only_the_ledger_have_are_named() -> None:
    ledger = Ledger(MONDAY, present=(*TWELVE[1:], "GHOST"), no_print=TWELVE[:1])
    finding = judged("one_row_per_minute", WHOLE, None, ledger)
    assert (finding.verdict, finding.offenders) == (FAIL, ("GHOST", "S00000"))


def test_symbols_that_trade_in_one_and_the_same_minute_alone_have_it_once_each() -> None:
    assert judged("one_row_per_minute", minutes(TWELVE, [77])).verdict is PASS


# valid_prices


def test_a_symbol_with_several_impossible_minutes_is_named_once() -> None:
    bars = changed(minutes(TWELVE, range(3)), "S00004", low=1e6)
    finding = judged("valid_prices", bars)
    assert (finding.verdict, finding.offenders) == (FAIL, ("S00004",))
    assert (finding.value, finding.offender_count) == (3 / 36, 1)


# against_daily


def test_without_daily_bars_the_comparison_is_unknown_and_passes() -> None:
    finding = judged("against_daily", without("S00003", 2))
    assert (finding.verdict, finding.value) == (PASS, None)
    assert finding.detail == "unknown: the lake has no daily bars of this session"


def test_a_disagreement_is_named_with_both_values_and_its_reason() -> None:
    daily = changed(DAYS, "S00002", volume=52_000_000, trade_count=800_000)
    finding = judged("against_daily", WHOLE, changed(daily, "S00007", close=1.5))
    assert finding.offenders[0].startswith(
        "S00002: volume 156,000, daily 52,000,000 (late trade or trade outside regular hours), "
        "trades 1,170, daily 800,000 ("
    )
    assert "S00007: close " in finding.offenders[1]
    assert "daily 1.50 (late trade" in finding.offenders[1]


def test_prices_that_differ_by_less_than_a_cent_are_told_to_their_last_step() -> None:
    same = dict.fromkeys(("open", "low", "close"), 100.0)
    bars = changed(WHOLE, "S00004", high=100.0001, **same)
    finding = judged("against_daily", bars, changed(DAYS, "S00004", high=100.0, **same))
    assert finding.offenders == ("S00004: high 100.0001, daily 100.00 (cancelled trade)",)


@pytest.mark.parametrize("values", [{"volume": 170_000}, {"close": 1.5}, {"high": 900.0}])
def test_auctions_and_late_trades_are_named_and_hold_no_session_back(
    values: dict[str, float],
) -> None:
    daily = DAYS
    for symbol in TWELVE:
        daily = changed(daily, symbol, **values)
    finding = judged("against_daily", WHOLE, daily)
    assert (finding.verdict, finding.value, finding.offender_count) == (PASS, 1.0, 12)


MANY = names(300)
MANY_DAYS = days(minutes(MANY, [0]))


@pytest.mark.parametrize(
    ("faulty", "of", "verdict"),
    [
        (0, 1, PASS),
        (1, 1, FAIL),
        (1, 2, WARN),
        (2, 2, FAIL),
        (2, 3, WARN),
        (3, 3, FAIL),
        (3, 4, FAIL),
        (2, 299, WARN),
        (3, 299, FAIL),
        (3, 300, WARN),
        (4, 300, FAIL),
    ],
)
def test_a_share_of_contradicted_symbols_is_warned_of_and_a_larger_one_fails(
    faulty: int, of: int, verdict: Verdict
) -> None:
    bars = minutes(MANY[:of], [0])
    daily = MANY_DAYS.slice(0, of)
    for symbol in MANY[:faulty]:
        daily = changed(daily, symbol, high=1.0)
    finding = judged("against_daily", bars, daily)
    assert (finding.verdict, finding.value) == (verdict, (of - faulty) / of)
    assert finding.offender_count == faulty
    assert finding.threshold == 0.99


def test_the_first_offenders_are_named_and_all_are_counted() -> None:
    daily = MANY_DAYS
    low = daily.column_names.index("high")
    daily = daily.set_column(low, daily.schema.field("high"), pa.array(np.ones(300)))
    finding = judged("against_daily", minutes(MANY, [0]), daily)
    assert (len(finding.offenders), finding.offender_count) == (MOST_OFFENDERS, 300)


def test_symbols_that_were_not_answered_for_or_not_asked_for_are_not_compared() -> None:
    ledger = Ledger(
        MONDAY, present=TWELVE[:9], failed={TWELVE[9]: "timed out"}, pending=TWELVE[10:11]
    )
    finding = judged("against_daily", minutes(TWELVE[:9]), DAYS, ledger)
    assert (finding.verdict, finding.value, finding.offenders) == (PASS, 1.0, ())
    assert finding.detail == "0 of 9 symbols contradicted by the daily bars, 0 thin"
    silent = Ledger(MONDAY, present=TWELVE[:9], no_print=TWELVE[9:])
    finding = judged("against_daily", minutes(TWELVE[:9]), DAYS, silent)
    assert (finding.verdict, finding.offender_count) == (FAIL, 3)
    assert finding.detail.endswith("; 3 no minutes")


# complete_minutes


def test_what_really_happened_fails() -> None:
    """Two minutes of three large funds and stocks, those of the auctions, in a session of many."""
    funds = ("AAPL", "QQQ", "TQQQ")
    many = names(200)
    whole = minutes([*many, *funds], shares=40_000, trades=300)
    bars = pa.concat_tables([minutes(funds, [0, 389], shares=7_000, trades=1), whole])
    bars = bars.filter(
        pc.or_(
            pc.invert(pc.is_in(bars["symbol"], pa.array(funds))), pc.equal(bars["trade_count"], 1)
        )
    ).sort_by([("symbol", "ascending"), ("timestamp", "ascending")])
    findings = MINUTE_RULES.judge(case(bars, days(whole)))
    found = {one.rule: one for one in findings}
    assert not passed(findings)
    assert found["complete_minutes"].verdict is FAIL
    assert found["complete_minutes"].offenders == tuple(
        f"{fund}: 2 minutes, about 390 expected" for fund in funds
    )
    assert found["success_rate"].verdict is found["coverage"].verdict is PASS
    # And without daily bars, by the sessions before.
    findings = MINUTE_RULES.judge(case(bars, before=[whole] * 3))
    assert not passed(findings)


@pytest.mark.parametrize(("count", "verdict"), [(24, FAIL), (25, PASS), (26, PASS)])
def test_a_handful_is_less_than_a_tenth_of_what_is_expected(count: int, verdict: Verdict) -> None:
    # 1,000 trades of 100 shares: 368 round lots, too few; 1,061 are 390.3, and 246.6 minutes.
    daily = changed(DAYS, "S00003", volume=106_100, trade_count=1_061)
    finding = judged("complete_minutes", without("S00003", count), daily)
    assert (finding.verdict, finding.offender_count) == (verdict, int(verdict is FAIL))


def test_a_symbol_with_too_few_round_lots_is_never_sparse() -> None:
    daily = changed(DAYS, "S00003", volume=106_000, trade_count=1_060)
    (lots,) = DailyBars.of(daily, pa.array(["S00003"])).lots.tolist()
    assert 389 < lots < 390
    assert judged("complete_minutes", without("S00003", 1), daily).verdict is PASS


@pytest.mark.parametrize(("volume", "verdict"), [(299_999, PASS), (300_000, PASS), (300_001, FAIL)])
def test_few_minutes_with_half_of_the_volume_are_all_there_is(
    volume: int, verdict: Verdict
) -> None:
    halted = minutes(["S00003"], range(10), shares=15_000, trades=100)
    bars = pa.concat_tables([minutes(TWELVE[:3]), halted, minutes(TWELVE[4:])])
    daily = changed(DAYS, "S00003", volume=volume, trade_count=2_000)
    assert judged("complete_minutes", bars, daily).verdict is verdict


def test_a_liquid_symbol_without_any_minute_is_sparse_too() -> None:
    ledger = Ledger(MONDAY, present=TWELVE[1:], no_print=TWELVE[:1])
    finding = judged("complete_minutes", minutes(TWELVE[1:]), DAYS, ledger)
    assert (finding.verdict, finding.offenders) == (FAIL, ("S00000: no minute",))


def test_sparse_symbols_can_be_accepted() -> None:
    bars = without("S00003", 2)
    finding = judged("complete_minutes", bars, DAYS, sparse_allowed=1)
    assert (finding.verdict, finding.value, finding.threshold) == (WARN, 1.0, 1.0)
    bars = without("S00005", 2, bars)
    assert judged("complete_minutes", bars, DAYS, sparse_allowed=1).verdict is FAIL


@pytest.mark.parametrize(("count", "verdict"), [(38, WARN), (39, PASS), (40, PASS)])
def test_without_a_daily_bar_the_sessions_before_tell_what_is_expected(
    count: int, verdict: Verdict
) -> None:
    finding = judged("complete_minutes", without("S00003", count), before=[WHOLE] * 3)
    assert finding.verdict is verdict


@pytest.mark.parametrize(("sparse", "verdict"), [(0, PASS), (1, WARN), (2, WARN), (3, FAIL)])
def test_few_may_be_halted_where_no_daily_bar_tells(sparse: int, verdict: Verdict) -> None:
    bars = WHOLE
    for symbol in TWELVE[:sparse]:
        bars = without(symbol, 2, bars)
    assert judged("complete_minutes", bars, before=[WHOLE] * 3).verdict is verdict


@pytest.mark.parametrize(("usual", "verdict"), [(194, PASS), (195, WARN), (196, WARN)])
def test_a_symbol_with_half_of_the_minutes_before_is_liquid(usual: int, verdict: Verdict) -> None:
    before = without("S00003", usual)
    bars = without("S00003", 2)
    assert judged("complete_minutes", bars, before=[before] * 3).verdict is verdict


def test_the_median_of_the_sessions_before_counts_and_half_days_by_their_share() -> None:
    bars = without("S00003", 2)
    assert judged("complete_minutes", bars, before=[bars, bars, WHOLE]).verdict is PASS
    assert judged("complete_minutes", bars, before=[bars, WHOLE, WHOLE]).verdict is WARN
    short = minutes(TWELVE, range(210), day=HALF_DAY)
    finding = judged("complete_minutes", short, before=[WHOLE] * 5, day=HALF_DAY)
    assert finding.verdict is PASS
    halves = Case(
        WHOLE,
        Ledger(MONDAY, present=TWELVE),
        minutes_before=[MinuteCounts.of(short, regular(HALF_DAY))],
    )
    assert passed(MINUTE_RULES.judge(halves))


def hour(bars_in_it: int, symbols: int = 12, begins: int = 100) -> pa.Table:
    """A session with so many bars in one hour, dealt to its symbols in turn."""
    parts = []
    for place, symbol in enumerate(names(symbols)):
        here = len(range(place, bars_in_it, symbols))
        parts.append(minutes([symbol], [*range(begins + here), *range(begins + 60, LENGTH)]))
    return pa.concat_tables(parts)


@pytest.mark.parametrize(("bars", "verdict"), [(0, FAIL), (143, FAIL), (144, PASS), (145, PASS)])
@pytest.mark.parametrize("daily", [None, DAYS])
def test_an_hour_with_less_than_a_fifth_of_the_bars_of_the_fullest_fails(
    bars: int, verdict: Verdict, daily: pa.Table | None
) -> None:
    # In the fullest hour 12 symbols have 720 bars.
    finding = judged("complete_minutes", hour(bars), daily)
    assert finding.verdict is verdict
    assert f"; {bars} bars of liquid symbols in the 60 minutes from 11:10 (New York)" in (
        finding.detail
    )


@pytest.mark.parametrize("begins", [0, 37, 330])
def test_a_missing_hour_is_found_wherever_it_begins(begins: int) -> None:
    assert judged("complete_minutes", hour(0, begins=begins), DAYS).verdict is FAIL


def test_most_of_a_session_missing_is_more_than_an_hour() -> None:
    assert judged("complete_minutes", minutes(TWELVE, range(120)), DAYS).verdict is FAIL


@pytest.mark.parametrize(("symbols", "verdict"), [(9, PASS), (10, FAIL), (11, FAIL)])
def test_an_hour_of_few_liquid_symbols_tells_nothing(symbols: int, verdict: Verdict) -> None:
    bars = hour(0, symbols)
    assert judged("complete_minutes", bars, DAYS.slice(0, symbols)).verdict is verdict


def test_a_missing_hour_can_be_accepted() -> None:
    assert judged("complete_minutes", hour(0), DAYS, hour_ratio=0.0).verdict is PASS


def test_an_hour_long_halt_of_a_few_symbols_is_no_fault() -> None:
    there = [*range(100), *range(160, LENGTH)]
    bars = pa.concat_tables([minutes(TWELVE[:3], there), minutes(TWELVE[3:])])
    findings = MINUTE_RULES.judge(case(bars, days(bars), before=[WHOLE] * 5))
    assert {finding.verdict for finding in findings} == {PASS}
    # And where a witness tells that they did trade, they are named.
    finding = judged("against_daily", bars, DAYS)
    assert (finding.verdict, finding.offender_count) == (FAIL, 3)


def test_half_of_a_market_that_is_halted_for_hours_is_no_fault_of_the_source() -> None:
    there = [*range(164), *range(355, LENGTH)]
    bars = pa.concat_tables([minutes(TWELVE[:6], there), minutes(TWELVE[6:])])
    finding = judged("complete_minutes", bars, days(bars), before=[WHOLE] * 5)
    assert finding.verdict is PASS


def test_a_half_day_is_judged_by_its_own_hours() -> None:
    bars = minutes(TWELVE, range(210), day=HALF_DAY)
    daily = days(bars, HALF_DAY)
    findings = MINUTE_RULES.judge(case(bars, daily, before=[WHOLE] * 5, day=HALF_DAY))
    assert {finding.verdict for finding in findings} == {PASS}


def test_thin_names_alone_never_lack_minutes() -> None:
    parts = [minutes([name], [place * 9, 200]) for place, name in enumerate(TWELVE)]
    bars = pa.concat_tables(parts)
    daily = days(bars)
    for symbol in TWELVE:
        daily = changed(daily, symbol, volume=2_500, trade_count=30)
    findings = MINUTE_RULES.judge(case(bars, daily, before=[bars] * 5))
    assert {finding.verdict for finding in findings} == {PASS}


def test_bars_of_another_session_break_the_schema() -> None:
    odd = table([bar("S00000", date(2024, 7, 2))])
    assert judged("schema", pa.concat_tables([WHOLE, odd])).verdict is FAIL


# Any session


@settings(deadline=None, max_examples=25)
@given(
    st.dictionaries(
        st.sampled_from(TWELVE),
        st.tuples(st.integers(0, 389), st.integers(1, 60), st.integers(1, 900), st.integers(1, 9)),
    ),
    st.booleans(),
)
def test_a_session_that_its_daily_bars_agree_with_never_fails(
    made: dict[str, tuple[int, int, int, int]], whole_market: bool
) -> None:
    """Thin, halted and liquid names, alone or within a market."""
    parts = [
        minutes([symbol], range(begin, LENGTH, step), shares=shares, trades=trades)
        for symbol, (begin, step, shares, trades) in sorted(made.items())
    ]
    if whole_market:
        parts.append(minutes([f"T{place:02}" for place in range(20)]))
    bars = pa.concat_tables([empty(), *parts])
    ledger = Ledger(MONDAY, present=tuple(sorted(set(bars["symbol"].to_pylist()))) or ())
    findings = {
        finding.rule: finding for finding in MINUTE_RULES.judge(case(bars, days(bars), ledger))
    }
    assert findings["against_daily"].offenders == ()
    assert findings["complete_minutes"].offenders == ()
    if whole_market:
        assert findings["complete_minutes"].verdict is PASS
