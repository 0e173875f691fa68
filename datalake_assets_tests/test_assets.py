"""The assets, run by Dagster: what a run publishes, materializes, tells, and leaves behind.

Not here: the rules of the audit (`collection/test_audit`), a real exchange (`test_end_to_end`).
"""

import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from datalake_assets import market_calendar
from datalake_assets.assets import session_ticks
from datalake_assets.assets.interrupts import repeated_once
from datalake_assets.collection.audit import RULES
from datalake_assets.collection.collect import Page
from datalake_assets.collection.dataset import DAILY
from datalake_assets.collection.errors import PermanentError, RefusedError, TransientError
from datalake_assets.collection.progress import Display, Snapshot
from datalake_assets.collection.rate_limit import RateLimiter
from datalake_assets.collection.survey import AskYears, Survey
from datalake_assets.lake import session_file
from datalake_assets.lake.session_file import Session
from datalake_assets.lake.writer import LakeWriter, Written
from datalake_assets.pipeline import publication
from datalake_assets.pipeline.listing import take_survey
from datalake_assets.pipeline.publication import CollectionOptions
from datalake_assets.records import event_log
from datalake_assets.storage import layout
from datalake_assets.storage.store import open_store
from datalake_assets_tests.collection.tables import bar, table
from datalake_assets_tests.fakes import ScriptedSource
from datalake_assets_tests.workbench import (
    DAYS,
    FRIDAY,
    MONDAY,
    NEXT_MONDAY,
    QUIET,
    TODAY,
    TUESDAY,
    WEDNESDAY,
    Market,
    Workbench,
    checks,
    failure,
    logged,
    materializations,
    names,
    number,
    universe,
)

# --- a session that passes ---


def test_one_session_is_published_materialized_once_and_told_in_plain_numbers(
    bench: Workbench,
) -> None:
    bench.market = Market(names(18), inactive=("XOLD",), silent=names(2))

    result = bench.run(WEDNESDAY)

    assert result.success
    ((partition, metadata),) = materializations(result).items()
    assert partition == "2024-07-03"
    stored = bench.lake.read(WEDNESDAY)
    told = {name: value.value for name, value in metadata.items()}
    assert told["row_count"] == told["dagster/partition_row_count"] == 17 == stored.bars.num_rows
    states = {"present": 17, "no_print": 2, "failed": 0, "pending": 0, "rejected": 0}
    assert {state: told[state] for state in states} == states
    assert told["requested"] == told["asked"] == 19
    assert told["success_rate"] == 1.0
    assert told["requests"] == 19
    assert (told["retries"], told["throttled"]) == (0, 0)
    key = layout.session_key(WEDNESDAY)
    assert told["dagster/uri"] == str(bench.folder / key)
    assert told["file_size_bytes"] == (bench.folder / key).stat().st_size
    assert told["duration_seconds"] >= 0
    assert told["bars_per_second"] >= 0
    assert told["limiter_wait_seconds"] >= 0
    plotted = {
        name: value
        for name, value in metadata.items()
        if name not in ("audit", "dagster/uri", "first_failures")
    }
    assert all(
        isinstance(value, dg.IntMetadataValue | dg.FloatMetadataValue) for value in plotted.values()
    ), "the UI plots plain numbers only"
    assert all(rule in metadata["audit"].value for rule in RULES)
    assert stored.provenance.run_id == result.run_id
    assert bench.materialized() == {"2024-07-03"}


def test_every_rule_of_the_audit_is_an_evaluated_check_with_its_numbers(bench: Workbench) -> None:
    result = bench.run(WEDNESDAY)

    found = checks(result)
    assert set(found) == set(RULES)
    for check in found.values():
        assert check.passed
        assert check.description
        assert number(check, "sessions") == 1
        assert number(check, "sessions_failed") == number(check, "sessions_warned") == 0
        assert isinstance(number(check, "threshold"), float)
        assert check.metadata["session"].value == "2024-07-03"
    assert number(found["success_rate"], "value") == 1.0
    assert "value" not in found["coverage"].metadata, "at the start of history it is unknown"
    assert "unknown" in str(found["coverage"].description)


def test_coverage_is_a_number_from_the_second_session_on(bench: Workbench) -> None:
    assert "coverage" not in materializations(bench.run(MONDAY))["2024-07-01"]

    result = bench.run(TUESDAY)

    assert materializations(result)["2024-07-02"]["coverage"].value == 1.0
    assert number(checks(result)["coverage"], "value") == 1.0
    assert number(checks(result)["row_count"], "value") == 1.0


def test_collecting_a_session_again_tells_how_many_bars_that_changed(bench: Workbench) -> None:
    bench.run(WEDNESDAY)
    again = {"open": 5.0, "high": 9.0, "low": 4.0, "close": 6.0, "vwap": 5.5}
    bench.market = Market(
        names(21),
        silent=names(2),
        changed={(symbol, WEDNESDAY): again for symbol in names(5)[2:]},
    )

    metadata = materializations(bench.run(WEDNESDAY))["2024-07-03"]

    changes = {name: metadata[f"bars_{name}"].value for name in ("added", "removed", "restated")}
    assert changes == {"added": 1, "removed": 2, "restated": 3}


def test_inactive_names_are_asked_for_in_sessions_of_the_past(bench: Workbench) -> None:
    bench.market = Market(names(3), inactive=("XOLD",))

    assert bench.run(MONDAY).success

    assert bench.lake.read(MONDAY).bars["symbol"].to_pylist() == [*names(3), "XOLD"]


def test_names_that_can_be_no_ticker_are_never_asked_for(bench: Workbench) -> None:
    bench.market.listed = universe((*names(3), "BRK-B", "0029900E0", "ATC.220816"))

    result = bench.run(MONDAY)

    assert {symbol for symbol, _ in bench.market.asked()} == set(names(3))
    assert materializations(result, "stock_universe")[None]["no_tickers"].value == 3


def test_chosen_symbols_are_collected_instead_of_the_universe(bench: Workbench) -> None:
    assert bench.run(MONDAY, symbols="AAC,AAA").success

    assert bench.market.asked() == {("AAA", MONDAY), ("AAC", MONDAY)}
    assert bench.lake.read(MONDAY).ledger.symbols == {"AAA", "AAC"}


def test_the_run_says_where_the_bars_come_from_and_what_it_will_ask(bench: Workbench) -> None:
    result = bench.run(MONDAY)

    told = logged(bench, result)
    assert f"from the tests' market into {bench.folder}" in told
    assert "requesting up to 20 bars of 1 session in 20 requests" in told
    assert "2024-07-01: 20/20 chunks, 20 bars, ✓ 20 ✗ 0" in told


# --- a range of sessions in one run ---


def test_a_range_materializes_each_of_its_sessions_and_no_other_day(bench: Workbench) -> None:
    result = bench.run(MONDAY, NEXT_MONDAY)

    assert result.success
    found = materializations(result)
    assert list(found) == [str(day) for day in DAYS]
    assert bench.materialized() == {str(day) for day in DAYS}
    assert bench.lake.sessions() == DAYS
    for day in DAYS:
        told = found[str(day)]
        assert told["row_count"].value == 20
        assert told["dagster/uri"].value == str(bench.folder / layout.session_key(day))
        assert told["collected_with_sessions"].value == 5
    for check in checks(result).values():
        assert check.passed
        assert number(check, "sessions") == 5


def test_one_session_of_a_range_that_fails_costs_the_others_nothing(bench: Workbench) -> None:
    bench.market.failing = {("AAB", TUESDAY)}

    result = bench.run(MONDAY, WEDNESDAY)

    assert not result.success
    assert set(materializations(result)) == {"2024-07-01", "2024-07-03"}
    assert bench.lake.sessions() == [MONDAY, WEDNESDAY]
    assert bench.lake.incomplete() == [TUESDAY]
    check = checks(result)["success_rate"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert (number(check, "sessions"), number(check, "sessions_failed")) == (3, 1)
    rows = check.metadata["offenders"].records
    assert [dict(row.data) for row in rows] == [{"session": "2024-07-02", "offender": "AAB"}]
    assert "collect --session 2024-07-02 --repair" in failure(result)


def test_a_repair_of_a_range_names_the_first_and_the_last_session_that_failed(
    bench: Workbench,
) -> None:
    bench.market.failing = {("AAB", TUESDAY), ("AAB", FRIDAY)}

    told = failure(bench.run(MONDAY, NEXT_MONDAY))

    assert "2 sessions did not pass" in told
    assert "collect --from 2024-07-02 --to 2024-07-05 --repair" in told


# --- the threshold ---


@pytest.mark.parametrize(
    ("failing", "passes"), [(3, False), (2, True), (1, True)], ids=["below", "at", "above"]
)
def test_a_run_fails_below_the_success_rate_and_passes_at_and_above_it(
    bench: Workbench, failing: int, passes: bool
) -> None:
    bench.market = Market(names(200))
    bench.market.failing = {(symbol, WEDNESDAY) for symbol in names(failing)}

    result = bench.run(WEDNESDAY)

    check = checks(result)["success_rate"]
    assert number(check, "value") == 1 - failing / 200
    assert number(check, "threshold") == 0.99
    assert result.success is check.passed is passes
    assert bench.lake.sessions() == ([WEDNESDAY] if passes else [])
    assert bench.lake.incomplete() == ([] if passes else [WEDNESDAY])
    assert bench.materialized() == ({"2024-07-03"} if passes else set())
    held = bench.lake.read(WEDNESDAY) if passes else bench.incomplete(WEDNESDAY)
    assert list(held.ledger.failed) == list(names(failing))
    if passes:
        rows = materializations(result)["2024-07-03"]["first_failures"].records
        assert [dict(row.data) for row in rows] == [
            {"symbol": symbol, "error": f"HTTP 500 for {symbol}"} for symbol in names(failing)
        ]


@pytest.mark.parametrize(("threshold", "passes"), [(0.96, False), (0.95, True), (0.94, True)])
def test_the_threshold_can_be_turned(bench: Workbench, threshold: float, passes: bool) -> None:
    bench.market.failing = {("AAA", MONDAY)}

    result = bench.run(MONDAY, min_success_rate=threshold)

    assert result.success is passes


def test_a_run_tells_why_symbols_failed_of_sessions_that_pass_and_of_those_that_do_not(
    bench: Workbench,
) -> None:
    bench.market.failing = {("AAA", MONDAY), ("AAB", MONDAY), ("AAC", TUESDAY)}

    result = bench.run(MONDAY, TUESDAY, unanswered_allowed=1)

    rows = [
        {"error": "HTTP 500 for AAA", "count": 2, "symbols": "AAA, AAB"},
        {"error": "HTTP 500 for AAC", "count": 1, "symbols": "AAC"},
        {"error": "HTTP 500 for AAA", "count": 3, "symbols": "AAA, AAB, AAC"},
    ]
    assert "2 failed (AAA, AAB): HTTP 500 for AAA" in failure(result)
    told = [
        materializations(result)["2024-07-02"]["failure_reasons"],
        checks(result)["success_rate"].metadata["failure_reasons"],
    ]
    assert [dict(row.data) for table in told for row in table.records] == rows[1:]
    (event,) = result.get_step_failure_events()
    user = event.step_failure_data.user_failure_data
    assert user is not None
    assert [dict(row.data) for row in user.metadata["failure_reasons"].records] == rows[:1]


def test_a_run_tells_why_symbols_failed_that_keep_what_is_published_of_them(
    bench: Workbench,
) -> None:
    bench.run(MONDAY)
    bench.market.failing = {("AAA", MONDAY)}

    result = bench.run(MONDAY, unanswered_allowed=1)

    assert bench.lake.read(MONDAY).ledger.failed == {}
    told = [
        materializations(result)["2024-07-01"]["failure_reasons"],
        checks(result)["success_rate"].metadata["failure_reasons"],
    ]
    rows = [{"error": "HTTP 500 for AAA", "count": 1, "symbols": "AAA"}]
    assert [dict(row.data) for table in told for row in table.records] == rows * 2


def test_a_few_chosen_symbols_do_not_replace_a_session_of_many(bench: Workbench) -> None:
    assert bench.run(MONDAY, TUESDAY).success
    before = bench.files()
    bench.market.asked()

    refused = bench.run(MONDAY, TUESDAY, symbols="AAA,AAB")

    assert not refused.success
    assert bench.files() == before
    assert bench.market.asked() == set()
    assert failure(refused).startswith(
        f"{MONDAY} has bars of 20 symbols in the lake, and this collection would replace it "
        "without 18 of them; nothing was requested. To add the chosen symbols and keep the others: "
        f"datalake collect --from {MONDAY} --to {TUESDAY} --repair."
    )
    option = "add --max-session-loss 1 to `datalake collect`, or"
    assert f"{option} set max_session_loss of the resource collector to 1" in failure(refused)
    assert bench.run(MONDAY, TUESDAY, symbols="AAA,AAB", missing_only=True).success
    assert bench.run(MONDAY, symbols="AAA,AAB", repair=True).success
    assert bench.run(MONDAY, symbols="AAA,AAB", max_session_loss=1.0).success
    assert bench.lake.read(MONDAY).ledger.symbols == {"AAA", "AAB"}
    assert len(bench.lake.read(TUESDAY).ledger.symbols) == 20


@pytest.mark.parametrize(("dropped", "good"), [(1, True), (2, True), (3, False)])
def test_a_tenth_of_the_symbols_may_be_dropped_from_a_list(
    bench: Workbench, dropped: int, good: bool
) -> None:
    bench.run(MONDAY)
    assert bench.run(MONDAY, symbols=",".join(names(20)[dropped:])).success is good


def test_a_session_that_waits_for_its_repair_is_not_replaced_by_a_few_symbols(
    bench: Workbench,
) -> None:
    bench.market.failing = {("AAC", MONDAY)}
    assert not bench.run(MONDAY).success
    before = bench.files()

    assert "has bars of 19 symbols" in failure(bench.run(MONDAY, symbols="AAA,AAB"))
    assert bench.files() == before


def test_chosen_symbols_that_are_not_on_the_list_are_warned_of(bench: Workbench) -> None:
    result = bench.run(MONDAY, symbols="AAA,AAB,XYZZY")

    assert result.success
    assert f"not on the source's list of {TODAY}: XYZZY." in logged(bench, result)


def test_a_repair_asks_for_chosen_symbols_that_were_never_asked_for(bench: Workbench) -> None:
    bench.run(MONDAY, TUESDAY, symbols="AAA,AAB")
    bench.market.asked()

    result = bench.run(MONDAY, TUESDAY, symbols="AAA,AAB,AAC,AAD", repair=True)

    assert result.success
    assert bench.market.asked() == set(product(("AAC", "AAD"), (MONDAY, TUESDAY)))
    assert bench.lake.read(MONDAY).ledger.present == ("AAA", "AAB", "AAC", "AAD")


def test_a_repair_leaves_names_that_were_listed_since_alone(bench: Workbench) -> None:
    bench.run(MONDAY)
    bench.market.asked()
    bench.market.listed = universe(names(22))
    bench.lake.write_universe(TODAY, bench.market.listed)

    assert bench.run(MONDAY, repair=True).success
    assert bench.market.asked() == set()


def test_a_repair_with_the_whole_list_asks_for_what_a_few_chosen_symbols_left(
    bench: Workbench,
) -> None:
    bench.run(MONDAY, symbols="AAA,AAB")
    bench.market.asked()

    assert bench.run(MONDAY, repair=True).success
    assert bench.market.asked() == set(product(names(20)[2:], [MONDAY]))


def test_a_symbol_that_the_source_lists_as_inactive_is_not_expected(bench: Workbench) -> None:
    ten = (*names(9), "ZZZ")
    bench.market = Market(names(9), inactive=("ZZZ",))
    assert bench.run(MONDAY, symbols=",".join(ten)).success
    bench.market = Market(names(9), inactive=("ZZZ",), silent=("ZZZ",))

    result = bench.run(TUESDAY, symbols=",".join(ten), silent_allowed=0)

    assert result.success
    assert number(checks(result)["coverage"], "value") == 1.0


def test_a_failed_run_names_the_session_the_rule_the_place_and_the_repair(bench: Workbench) -> None:
    bench.market.failing = {("AAB", MONDAY)}

    result = bench.run(MONDAY)

    told = failure(result)
    assert "2024-07-01: success_rate (19 of 20 symbols answered, 1 failed, 0 pending)" in told
    assert str(bench.folder / "data/ticks/incomplete") in told
    assert "datalake collect --session 2024-07-01 --repair" in told
    (event,) = result.get_step_failure_events()
    user = event.step_failure_data.user_failure_data
    assert user is not None
    assert user.metadata["sessions"].value == ["2024-07-01"]
    assert [dict(row.data) for row in user.metadata["first_failures"].records] == [
        {"session": "2024-07-01", "symbol": "AAB", "error": "HTTP 500 for AAB"}
    ]
    check = checks(result)["success_rate"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert number(check, "offender_count") == 1
    assert [dict(row.data) for row in check.metadata["offenders"].records] == [
        {"session": "2024-07-01", "offender": "AAB"}
    ]


def test_what_was_published_before_is_not_touched_by_a_session_that_fails(
    bench: Workbench,
) -> None:
    bench.run(MONDAY, TUESDAY)
    published = {key: data for key, data in bench.files().items() if "/sessions/" in key}
    bench.market.failing = {("AAB", TUESDAY)}

    assert not bench.run(TUESDAY).success

    after = bench.files()
    assert {key: data for key, data in after.items() if "/sessions/" in key} == published
    assert layout.incomplete_key(TUESDAY) in after


@pytest.mark.parametrize(
    ("day", "why"), [("2024-07-04", "a holiday or a special closure"), ("2024-07-06", "a Saturday")]
)
def test_a_day_without_a_session_is_refused_and_not_the_next_one_collected(
    day: str, why: str, bench: Workbench
) -> None:
    """As GraphQL launches it: a tag, which nobody has checked."""
    result = (
        bench.definitions()
        .resolve_job_def("repair_job")
        .execute_in_process(
            instance=bench.instance,
            run_config=QUIET,
            tags={"dagster/partition": day},
            raise_on_error=False,
        )
    )

    assert f"{day} can't be collected: it is not a trading session but {why}" in failure(result)
    assert bench.materialized() == set()


# --- repair ---


def alike(one: session_file.Session, other: session_file.Session) -> bool:
    """Whether both files would be the same bytes, had they the same provenance."""
    same = replace(other, provenance=one.provenance)
    return session_file.encode(one, []) == session_file.encode(same, [])


def audit_of(bench: Workbench, day: date) -> list[dict[str, Any]]:
    metadata = pq.read_metadata(bench.folder / layout.session_key(day)).metadata
    return list(json.loads(metadata[b"datalake.audit"]))


def test_a_repair_asks_only_for_what_is_missing_and_ends_as_a_clean_collection(
    bench: Workbench, tmp_path: Path
) -> None:
    clean = Workbench(tmp_path / "clean", bench.instance, Market(names(20)))
    assert clean.run(MONDAY, WEDNESDAY).success
    bench.market.failing = {("AAB", TUESDAY), ("AAD", TUESDAY), ("AAD", WEDNESDAY)}
    assert not bench.run(MONDAY, WEDNESDAY).success
    bench.market.failing.clear()
    bench.market.asked()

    result = bench.run(TUESDAY, WEDNESDAY, repair=True)

    assert result.success
    assert bench.market.asked() == {("AAB", TUESDAY), ("AAD", TUESDAY), ("AAD", WEDNESDAY)}
    found = materializations(result)
    assert [found[str(day)]["asked"].value for day in (TUESDAY, WEDNESDAY)] == [2, 1]
    assert [found[str(day)]["row_count"].value for day in (TUESDAY, WEDNESDAY)] == [20, 20]
    assert bench.lake.sessions() == [MONDAY, TUESDAY, WEDNESDAY]
    assert bench.lake.incomplete() == []
    for day in (TUESDAY, WEDNESDAY):
        assert alike(bench.lake.read(day), clean.lake.read(day))
        # Tuesday was missing when Wednesday was judged first; a clean audit must not differ.
        assert audit_of(bench, day) == audit_of(clean, day)
    assert "repair: requesting up to 3 bars of 2 sessions in 3 requests" in logged(bench, result)


def test_a_repair_that_still_misses_too_much_keeps_what_it_got(bench: Workbench) -> None:
    bench.market.failing = {("AAB", MONDAY), ("AAD", MONDAY)}
    bench.run(MONDAY)
    bench.market.failing = {("AAD", MONDAY)}

    result = bench.run(MONDAY, repair=True)

    assert not result.success
    assert list(bench.incomplete(MONDAY).ledger.failed) == ["AAD"]
    assert bench.incomplete(MONDAY).bars.num_rows == 19


def test_a_repair_of_a_published_session_asks_for_its_failures_only(bench: Workbench) -> None:
    bench.market.failing = {("AAB", MONDAY)}
    assert bench.run(MONDAY, min_success_rate=0.9).success
    bench.market.failing.clear()
    bench.market.asked()

    result = bench.run(MONDAY, repair=True)

    assert bench.market.asked() == {("AAB", MONDAY)}
    metadata = materializations(result)["2024-07-01"]
    assert (metadata["bars_added"].value, metadata["failed"].value) == (1, 0)
    assert bench.lake.read(MONDAY).bars.num_rows == 20


def test_a_repair_with_nothing_to_mend_asks_for_nothing_and_passes(bench: Workbench) -> None:
    bench.run(MONDAY)
    before = bench.lake.read(MONDAY)
    bench.market.asked()

    result = bench.run(MONDAY, repair=True)

    assert result.success
    assert bench.market.asked() == set()
    assert alike(bench.lake.read(MONDAY), before)


def test_a_repair_collects_a_session_whole_that_the_lake_does_not_hold(bench: Workbench) -> None:
    assert bench.run(MONDAY, repair=True).success

    assert bench.market.asked() == {(symbol, MONDAY) for symbol in names(20)}


# --- warnings ---


@pytest.mark.parametrize(("invalid", "passes"), [(1, True), (2, False)], ids=["at", "beyond"])
def test_impossible_prices_are_warned_of_up_to_their_threshold(
    bench: Workbench, invalid: int, passes: bool
) -> None:
    odd = {(symbol, MONDAY): {"open": 1e6} for symbol in names(invalid)}
    bench.market = Market(names(1_000), changed=odd)

    result = bench.run(MONDAY, bars_per_request=9_900)

    check = checks(result)["valid_prices"]
    assert result.success is passes
    assert not check.passed
    assert check.severity is (dg.AssetCheckSeverity.WARN if passes else dg.AssetCheckSeverity.ERROR)
    assert number(check, "sessions_warned") == (1 if passes else 0)
    assert number(check, "value") == invalid / 1_000
    assert [dict(row.data)["offender"] for row in check.metadata["offenders"].records] == list(
        names(invalid)
    )
    if passes:
        # Published as the source served it: neither dropped nor mended.
        opened = bench.lake.read(MONDAY).bars["open"].to_pylist()
        assert opened[0] == 1e6


# --- the universe ---


def test_a_run_without_a_universe_takes_one_and_says_so(bench: Workbench) -> None:
    definitions = bench.definitions()
    ticks_only = dg.Definitions(
        assets=definitions.assets,
        asset_checks=definitions.asset_checks,
        resources=definitions.resources,
        jobs=[dg.define_asset_job("ticks_only", selection="daily_ticks")],
        executor=dg.in_process_executor,
    )

    result = bench.run(MONDAY, job="ticks_only", definitions=ticks_only)

    assert result.success
    assert bench.market.assets_taken == 1
    assert bench.lake.universe_days() == [TODAY]
    assert "fetching the list of assets, as the lake's is older than the session" in logged(
        bench, result
    )
    assert materializations(result, "stock_universe")[None]["active"].value == 20

    again = bench.run(TUESDAY, job="ticks_only", definitions=ticks_only)

    assert again.success
    assert bench.market.assets_taken == 1, "the snapshot of today serves every session before"


def test_the_universe_is_taken_once_in_a_run_of_the_job(bench: Workbench) -> None:
    result = bench.run(MONDAY, WEDNESDAY)

    assert bench.market.assets_taken == 1
    told = materializations(result, "stock_universe")[None]
    assert {name: told[name].value for name in ("dagster/row_count", "active", "inactive")} == {
        "dagster/row_count": 20,
        "active": 20,
        "inactive": 0,
    }
    assert told["dagster/uri"].value == str(bench.folder / layout.universe_key(TODAY))


@pytest.mark.parametrize(
    ("before", "taken"), [(22, True), (23, False)], ids=["a tenth less", "more than a tenth less"]
)
def test_a_universe_that_shrank_too_much_is_not_taken_and_no_session_collected(
    bench: Workbench, before: int, taken: bool
) -> None:
    yesterday = TODAY - timedelta(days=1)
    bench.lake.claim(bench.source)
    bench.lake.write_universe(yesterday, universe(names(before)))

    result = bench.run(MONDAY)

    assert result.success is taken
    assert bench.lake.universe_days() == ([yesterday, TODAY] if taken else [yesterday])
    assert bench.materialized() == ({"2024-07-01"} if taken else set())
    assert bool(bench.market.requests) is taken
    if not taken:
        told = failure(result, "stock_universe")
        assert "the source lists 20 active assets, the previous snapshot 23" in told
        assert "If it is right, raise max_universe_loss for one run\n" in told
        assert "To raise it, add --max-universe-loss 1 to `datalake collect`, or set" in told
        assert bench.run(MONDAY, max_universe_loss=0.2).success, "as it says"
        assert bench.lake.universe_days() == [yesterday, TODAY]


# --- what a run may not start with ---


@pytest.mark.parametrize("repair", [False, True])
def test_bars_of_another_source_never_enter_a_lake(bench: Workbench, repair: bool) -> None:
    bench.run(MONDAY)
    before = bench.files()
    bench.source = "somebody else's market"
    bench.market.asked()

    result = bench.run(MONDAY, repair=repair)

    assert not result.success
    assert bench.files() == before
    assert bench.market.requests == []
    told = failure(result, "stock_universe")
    assert "the tests' market" in told
    assert "somebody else's market" in told
    assert "nothing was written" in told
    assert "DATALAKE_URI" in told


def test_a_chosen_symbol_that_can_be_no_ticker_ends_the_run_before_it_asks(
    bench: Workbench,
) -> None:
    result = bench.run(MONDAY, symbols="AAA,BRK-B")

    assert not result.success
    assert "BRK-B" in failure(result)
    assert bench.market.requests == []
    assert bench.lake.sessions() == bench.lake.incomplete() == []


def test_a_source_that_refuses_everything_ends_the_run_and_leaves_no_session(
    bench: Workbench,
) -> None:
    class Refusing(Market):
        def __call__(self, *question: Any) -> Page:
            raise RefusedError("HTTP 401: check ALPACA_API_KEY")

    bench.market = Refusing(names(20))

    result = bench.run(MONDAY, TUESDAY)

    assert not result.success
    assert "HTTP 401: check ALPACA_API_KEY" in failure(result)
    assert bench.lake.sessions() == bench.lake.incomplete() == []
    assert bench.materialized() == set()


# --- stopped before the end ---


class Interrupting(Display):
    """Ends the run as a termination does, once so many chunks are done."""

    def __init__(self, after: int, error: BaseException) -> None:
        self._after, self._error, self.raised = after, error, False

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        if snapshot.chunks_done >= self._after and not self.raised:
            self.raised = True
            raise self._error


@pytest.mark.parametrize(
    "interruption",
    [dg.DagsterExecutionInterruptedError(), KeyboardInterrupt()],
    ids=["terminated in the UI", "Ctrl-C"],
)
def test_an_interrupted_run_keeps_what_it_has_for_a_repair_and_is_no_success(
    bench: Workbench, interruption: BaseException
) -> None:
    bench.market.slow = {"AAJ"}
    display = Interrupting(19, interruption)

    result = bench.run(MONDAY, display=display)

    bench.market.release.set()
    assert not result.success
    (run,) = bench.instance.get_runs()
    assert run.status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE)
    assert bench.materialized() == set()
    assert bench.lake.sessions() == []
    ledger = bench.incomplete(MONDAY).ledger
    assert ledger.pending == ("AAJ",)
    assert len(ledger.present) == 19
    bench.market.asked()

    assert bench.run(MONDAY, repair=True).success
    assert bench.market.asked() == {("AAJ", MONDAY)}
    assert bench.lake.read(MONDAY).bars.num_rows == 20


class Terminating(Interrupting):
    """The same by a signal, as `docker stop` and a shell's `timeout` send it."""

    def show(self, snapshot: Snapshot, *, final: bool) -> None:
        try:
            super().show(snapshot, final=final)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGTERM)


def terminate() -> None:
    """Send SIGTERM as it comes from outside: to the thread that waits for the others."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM)


def test_a_signal_that_comes_again_while_the_answers_are_kept_loses_none_of_them(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = LakeWriter.keep_incomplete

    def signalled_again(*arguments: Any, **options: Any) -> Written:
        terminate()
        time.sleep(0.2)  # an error in the thread of the run would end it meanwhile
        return keep(*arguments, **options)

    monkeypatch.setattr(LakeWriter, "keep_incomplete", signalled_again)
    bench.market.slow = {"AAJ"}
    display = Terminating(19, KeyboardInterrupt())

    result = bench.run(MONDAY, display=display)

    bench.market.release.set()
    assert display.raised
    assert not result.success
    assert len(bench.incomplete(MONDAY).ledger.present) == 19


def test_a_signal_while_sessions_are_recorded_may_come_again_while_the_others_are_kept(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster holds signals back meanwhile. The second session is being written by then."""
    together, publish, keep = event_log.together, LakeWriter.publish, LakeWriter.keep_incomplete
    signalled: list[int] = []
    second_has_begun, no_other_begins = threading.Event(), threading.Event()

    @contextmanager
    def signalled_meanwhile(instance: dg.DagsterInstance) -> Iterator[None]:
        with together(instance):
            yield
        if not signalled:
            signalled.append(signal.SIGTERM)
            assert second_has_begun.wait(60)
            signal.raise_signal(signal.SIGTERM)

    def published(lake: LakeWriter, session: Session, *arguments: Any, **options: Any) -> Written:
        if session.ledger.session != MONDAY:
            second_has_begun.set()
            assert no_other_begins.wait(60)
        return publish(lake, session, *arguments, **options)

    class Ending(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            no_other_begins.set()
            super().shutdown(wait=wait)

    def signalled_again(*arguments: Any, **options: Any) -> Written:
        terminate()
        time.sleep(0.2)  # an error in the thread of the run would give the others up meanwhile
        return keep(*arguments, **options)

    monkeypatch.setattr(session_ticks, "_TOGETHER", 0.0)
    monkeypatch.setattr(event_log, "together", signalled_meanwhile)
    monkeypatch.setattr(publication, "ThreadPoolExecutor", Ending)
    monkeypatch.setattr(LakeWriter, "publish", published)
    monkeypatch.setattr(LakeWriter, "keep_incomplete", signalled_again)

    result = bench.run(MONDAY, FRIDAY)

    assert not result.success
    days = market_calendar.sessions(MONDAY, FRIDAY)
    assert bench.lake.sessions() == days[:2]
    assert bench.materialized() == {str(day) for day in days[:2]}
    assert bench.lake.incomplete() == days[2:]


def test_a_signal_is_the_one_before_come_again_for_three_seconds() -> None:
    ctrl_c, stop = signal.SIGINT, signal.SIGTERM
    sent = [
        (10.0, ctrl_c),
        (10.0, ctrl_c),
        (12.9, stop),
        (13.0, stop),
        (15.9, ctrl_c),
        (16.0, stop),
    ]
    times = (seconds for seconds, _ in sent)
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (ctrl_c, stop)}
    try:
        for number in before:
            signal.signal(number, lambda number, frame: came.append(number))
        with repeated_once(lambda: next(times)):
            for _, number in sent:
                signal.raise_signal(number)
            assert came == [ctrl_c, stop, stop]
        signal.raise_signal(ctrl_c)
        assert came == [ctrl_c, stop, stop, ctrl_c], "outside, each is passed on"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_session_without_a_bar_is_held_against_the_calendar_once_a_year(
    bench: Workbench,
) -> None:
    bench.market = Market(names(5), silent=names(5))
    bench.market.closed = frozenset({TUESDAY})

    result = bench.run(MONDAY, WEDNESDAY)

    assert not result.success
    assert bench.market.calendars_asked == 1
    assert bench.lake.sessions() == [MONDAY, WEDNESDAY]
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    assert f"DATALAKE_CLOSURES={TUESDAY}" in str(failure.step_failure_data.error)
    assert "There is nothing to collect" in str(failure.step_failure_data.error)


def test_an_interrupted_range_keeps_the_sessions_that_were_published_before(
    bench: Workbench,
) -> None:
    """A window of them is published while the next one is collected."""
    days = market_calendar.previous_sessions(FRIDAY, DAILY.window + 1)
    wednesday = days[-1]

    class Halting(Market):
        def __call__(
            self, symbols: tuple[str, ...], first: date, last: date, page_token: str | None
        ) -> Page:
            if first == wednesday and "AAC" in symbols:
                self.release.wait(60)
            return super().__call__(symbols, first, last, page_token)

    class WhenPublished(Interrupting):
        def show(self, snapshot: Snapshot, *, final: bool) -> None:
            if len(bench.lake.sessions()) == DAILY.window:
                super().show(snapshot, final=final)

    bench.market = Halting(names(5))
    # Five chunks for the first window, one for each symbol, and four of the second.
    display = WhenPublished(9, dg.DagsterExecutionInterruptedError())
    packing = {"symbols_per_request": 1, "bars_per_request": 9_900, "survey": False}

    result = bench.run(days[0], wednesday, display=display, **packing)

    bench.market.release.set()
    assert not result.success
    assert bench.lake.sessions() == days[:-1]
    assert bench.materialized() == {str(day) for day in days[:-1]}
    assert bench.incomplete(wednesday).ledger.pending == ("AAC",)


def test_a_run_sends_no_more_requests_than_it_may_and_tells_how_many_it_sent(
    bench: Workbench,
) -> None:
    result = bench.run(MONDAY, max_requests=7)

    assert not result.success
    assert len(bench.market.requests) == 7
    assert len(bench.incomplete(MONDAY).ledger.pending) == 13
    run = bench.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags["datalake/requests"] == "7"


def test_a_deadline_leaves_a_session_incomplete_with_what_was_not_asked(bench: Workbench) -> None:
    bench.market.slow = {"AAJ"}

    result = bench.run(MONDAY, deadline_seconds=0.5)

    bench.market.release.set()
    assert not result.success
    assert bench.incomplete(MONDAY).ledger.pending == ("AAJ",)
    assert "1 pending" in failure(result)


def test_a_request_that_fails_in_passing_is_tried_again_and_counted(bench: Workbench) -> None:
    bench.market._script = {3: TransientError("HTTP 503"), 4: TransientError("HTTP 504")}.get

    metadata = materializations(bench.run(MONDAY, attempts=3))["2024-07-01"]

    assert (metadata["requests"].value, metadata["retries"].value) == (22, 2)
    assert metadata["failed"].value == 0


# --- what is damaged in the lake ---


def damage(bench: Workbench, day: date) -> None:
    """Cut the published file short, as a copy that broke off leaves it."""
    path = bench.folder / layout.session_key(day)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("repair", [False, True])
def test_a_damaged_session_is_mended_by_collecting_it_again(bench: Workbench, repair: bool) -> None:
    bench.run(MONDAY)
    damage(bench, MONDAY)

    assert bench.run(MONDAY, repair=repair).success

    assert bench.lake.read(MONDAY).bars.num_rows == 20


def test_a_damaged_session_before_is_named_and_holds_back_none(
    bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    """Its symbols are what the coverage of the next sessions is measured by."""
    bench.run(MONDAY)
    damage(bench, MONDAY)

    assert bench.run(TUESDAY).success

    assert layout.session_key(MONDAY) in caplog.text
    assert bench.lake.sessions() == [MONDAY, TUESDAY]


# --- the survey before a long range ---

LONG = market_calendar.sessions(date(2024, 4, 1), date(2024, 7, 3))
"""More sessions than a window, so that a survey is worth it."""


class Surveyed(Market):
    """A source that is asked for years too: the active symbols traded in all, the others never.

    Args:
        symbols: Every one has a bar in each session of `LONG`.
        inactive: They never have one.
    """

    def __init__(self, symbols: Sequence[str], inactive: Sequence[str] = ()) -> None:
        super().__init__(symbols)
        ScriptedSource.__init__(self, table(bar(name, day) for day in LONG for name in symbols))
        self.listed = universe(symbols, inactive)
        self._alive = frozenset(symbols)
        self.questions: list[tuple[tuple[str, ...], int, int]] = []

    def years(self) -> AskYears:
        def ask(
            symbols: tuple[str, ...], first: int, last: int, page_token: str | None
        ) -> tuple[dict[str, Sequence[int]], str | None]:
            self.questions.append((symbols, first, last))
            alive = self._alive.intersection(symbols)
            return dict.fromkeys(alive, range(first, last + 1)), None

        return ask


ROOMY = {"bars_per_request": 9_900, "symbols_per_request": 700}
"""A request that holds all names at once, but not the bars of all in a window."""


@pytest.fixture
def long(bench: Workbench) -> Workbench:
    """A market of 20 symbols that trade and 600 that never did."""
    bench.market = Surveyed(names(20), names(620)[20:])
    return bench


def questions(bench: Workbench) -> list[tuple[tuple[str, ...], int, int]]:
    assert isinstance(bench.market, Surveyed)
    return bench.market.questions


def test_before_a_long_range_one_survey_is_taken_kept_and_packed_by(long: Workbench) -> None:
    result = long.run(LONG[0], LONG[-1], **ROOMY)

    assert result.success
    assert questions(long) == [(names(620), 2011, TODAY.year)]
    assert len(LONG) == DAILY.window + 3
    assert len(long.market.requests) == 2, "one for each window: what is silent rides along"
    kept = long.lake.survey()
    assert kept is not None
    assert {name for name, years in kept.years.items() if years} == set(names(20))
    assert long.lake.sessions() == LONG
    ledger = long.lake.read(LONG[0]).ledger
    assert ledger.no_print == names(620)[20:], "asked for, whatever the survey says of them"


def test_the_next_long_range_uses_the_survey_that_the_lake_has(long: Workbench) -> None:
    for _ in "12":
        long.market.requests.clear()
        assert long.run(LONG[0], LONG[-1], **ROOMY).success
        assert len(long.market.requests) == 2
    assert len(questions(long)) == 1


def test_without_the_survey_every_symbol_is_expected_in_every_session(long: Workbench) -> None:
    assert long.run(LONG[0], LONG[-1], survey=False, **ROOMY).success

    assert questions(long) == []
    assert long.lake.survey() is None
    # 157 symbols x 63 sessions make a page; then all of them in the three that are left.
    assert len(long.market.requests) == 4 + 1


@pytest.mark.parametrize(("count", "asked"), [(DAILY.window, 0), (DAILY.window + 1, 1)])
def test_a_window_is_not_worth_a_survey(count: int, asked: int, long: Workbench) -> None:
    assert long.run(LONG[0], LONG[count - 1], **ROOMY).success

    assert len(questions(long)) == asked


def test_a_repair_asks_no_survey(long: Workbench) -> None:
    assert long.run(LONG[0], LONG[-1], repair=True, **ROOMY).success

    assert questions(long) == []


def surveyed(
    lake: LakeWriter, market: Market, days: Sequence[date], symbols: tuple[str, ...], taken: date
) -> Survey | None:
    options = CollectionOptions(RateLimiter(1e9))
    wanted = dict.fromkeys(days, symbols)
    return take_survey(market, lake, options, wanted, 2011, taken)  # type: ignore[arg-type]


def test_a_survey_is_taken_anew_when_a_later_year_is_asked_for() -> None:
    lake, market = LakeWriter(open_store("memory://")), Surveyed(names(3))
    first = surveyed(lake, market, LONG, names(3), date(2024, 7, 3))
    assert first == lake.survey()
    assert surveyed(lake, market, LONG, names(3), date(2025, 3, 3)) == first
    later = market_calendar.sessions(date(2024, 12, 1), date(2025, 4, 1))

    second = surveyed(lake, market, later, names(3), date(2025, 4, 1))

    assert [asked[1:] for asked in market.questions] == [(2011, 2024), (2011, 2025)]
    assert second is not None
    assert second.last == 2025
    assert lake.survey() == second
    surveys = layout.dated(layout.SURVEYS, lake.store.list(layout.SURVEYS))
    assert surveys == [date(2024, 7, 3), date(2025, 4, 1)]
    assert surveyed(lake, market, LONG, names(3), date(2025, 4, 1)) == second


def test_a_short_range_has_no_survey_even_if_the_lake_has_one() -> None:
    lake, market = LakeWriter(open_store("memory://")), Surveyed(names(3))
    assert surveyed(lake, market, LONG, names(3), LONG[-1]) is not None
    assert surveyed(lake, market, LONG[: DAILY.window], names(3), LONG[-1]) is None
    assert len(market.questions) == 1


def test_a_source_that_refuses_to_be_surveyed_ends_the_run_and_nothing_is_kept() -> None:
    lake, market = LakeWriter(open_store("memory://")), Surveyed(names(3))

    class Refusing(Surveyed):
        def years(self) -> AskYears:
            def ask(*_: object) -> tuple[dict[str, Sequence[int]], str | None]:
                raise RefusedError("HTTP 401")

            return ask

    with pytest.raises(RefusedError, match="401"):
        surveyed(lake, Refusing(names(3)), LONG, names(3), LONG[-1])
    assert lake.survey() is None
    assert surveyed(lake, market, LONG, names(3), LONG[-1]) == lake.survey()


def test_a_survey_of_a_few_chosen_symbols_is_not_the_one_of_the_universe() -> None:
    lake, market = LakeWriter(open_store("memory://")), Surveyed(names(2_000))
    surveyed(lake, market, LONG, names(2), LONG[-1])

    found = surveyed(lake, market, LONG, names(2_000), LONG[-1])

    assert found is not None
    assert set(found.years) == set(names(2_000))


def test_a_survey_of_which_every_question_failed_is_taken_again() -> None:
    lake, market = LakeWriter(open_store("memory://")), Surveyed(names(3))

    class Failing(Surveyed):
        def years(self) -> AskYears:
            def ask(*_: object) -> tuple[dict[str, Sequence[int]], str | None]:
                raise PermanentError("HTTP 500")

            return ask

    surveyed(lake, Failing(names(3)), LONG, names(3), LONG[-1])

    found = surveyed(lake, market, LONG, names(3), LONG[-1])

    assert found is not None
    assert set(found.years) == set(names(3))
