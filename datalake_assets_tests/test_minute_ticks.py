"""`minute_ticks`, run by Dagster and by commands: what is published, materialized and told.

Not here: that the minutes are the market's own (`test_minutes`), the rules of their audit
(`collection/test_minute_audit`), and what both assets share (`test_assets`).
"""

import json
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run_iterator

from datalake_assets.collection.dataset import EXTENDED_MINUTE, MINUTE
from datalake_assets.collection.minute_audit import MEANINGS
from datalake_assets.component import DatalakeComponent
from datalake_assets.definitions import MINUTE_SESSIONS_PER_RUN, build_definitions
from datalake_assets.exchange.errata import Errata, Erratum
from datalake_assets.exchange.process import ExchangeServer
from datalake_assets.exchange.server import Exchange
from datalake_assets.exchange.synthetic import SyntheticMarket
from datalake_assets.lake.files import LakeFiles
from datalake_assets.lake.restatements import Restatements
from datalake_assets.lake.writer import LakeWriter
from datalake_assets.settings import Settings, SettingsError
from datalake_assets.storage.store import open_store
from datalake_assets_tests.exchange.calling import LaterClock, keys_to
from datalake_assets_tests.test_cli import empty_folder, invoke, plain
from datalake_assets_tests.workbench import (
    FRIDAY,
    MONDAY,
    NEXT_MONDAY,
    QUIET,
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
)

__all__ = ["empty_folder"]  # a fixture: each command runs in a folder of its own

JOB, ASSET = "minute_ticks_job", "minute_ticks"
REGULAR = {"DATALAKE_MINUTES": "regular"}


@pytest.fixture
def minutes(bench: Workbench) -> LakeWriter:
    """The minutes of a lake with the daily bars of five sessions; WEDNESDAY is a half day."""
    bench.settings = dict(REGULAR)
    bench.market = Market(names(20), silent=names(2))
    assert bench.run(MONDAY, NEXT_MONDAY).success
    bench.market.asked()
    return bench.lake.of(MINUTE)


def asked(bench: Workbench) -> set[tuple[str, date]]:
    """What was asked for of minutes so far, and forget it."""
    requests = bench.market.minutes.requests
    found = {(symbol, request.first) for request in requests for symbol in request.symbols}
    assert all(request.first == request.last for request in requests)
    requests.clear()
    return found


def told(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: value.value for name, value in metadata.items()}


# --- what a run publishes and tells ---


def test_a_session_of_minutes_is_materialized_with_its_bars_and_its_symbols(
    bench: Workbench, minutes: LakeWriter
) -> None:
    result = bench.run(WEDNESDAY, job=JOB)

    assert result.success
    ((partition, metadata),) = materializations(result, ASSET).items()
    assert partition == f"{WEDNESDAY}"
    shown, rows = told(metadata), 18 * 210
    assert shown["row_count"] == shown["dagster/partition_row_count"] == rows
    assert minutes.read(WEDNESDAY).bars.num_rows == rows
    states = {"present": 18, "no_print": 2, "failed": 0, "pending": 0, "rejected": 0}
    assert {state: shown[state] for state in states} == states
    assert shown["requested"] == shown["asked"] == shown["requests"] == 20
    key = f"data/ticks/minute/sessions/year=2024/{WEDNESDAY}/part-0.parquet"
    assert shown["dagster/uri"] == str(bench.folder / key)
    assert shown["file_size_bytes"] == (bench.folder / key).stat().st_size
    assert re.search(r"about 3,7\d\d bars of 1 session in 20 requests", logged(bench, result))


def test_every_rule_of_minutes_is_a_check_with_its_numbers(
    bench: Workbench, minutes: LakeWriter
) -> None:
    found = checks(bench.run(MONDAY, job=JOB), ASSET)

    assert found.keys() == MEANINGS.keys()
    assert all(check.passed for check in found.values())
    assert number(found["against_daily"], "value") == 1
    assert number(found["complete_minutes"], "value") == 0
    assert number(found["success_rate"], "threshold") == 0.99


def test_a_check_over_several_sessions_says_which_have_nothing_to_compare_with(
    bench: Workbench,
) -> None:
    bench.settings = dict(REGULAR)
    bench.market = Market(names(20))
    nothing = "unknown: the lake has no daily bars of this session"
    alone = checks(bench.run(MONDAY, job=JOB), ASSET)["against_daily"]
    assert (alone.passed, alone.description) == (True, nothing)

    none = checks(bench.run(MONDAY, WEDNESDAY, job=JOB), ASSET)["against_daily"]
    assert bench.run(TUESDAY, WEDNESDAY).success
    some = checks(bench.run(MONDAY, WEDNESDAY, job=JOB), ASSET)["against_daily"]
    assert bench.run(MONDAY).success
    all_ = checks(bench.run(MONDAY, WEDNESDAY, job=JOB), ASSET)["against_daily"]

    assert none.passed
    assert none.description == f"{nothing} ({MONDAY} and 2 more sessions)"
    assert some.description == f"2 of 3 sessions pass; {nothing} ({MONDAY})"
    assert all_.description == "all 3 sessions pass"
    unknown = [number(check, "sessions_unknown") for check in (alone, none, some, all_)]
    assert unknown == [1, 3, 1, 0]


def test_a_run_over_a_range_has_a_materialization_for_each_session(
    bench: Workbench, minutes: LakeWriter
) -> None:
    result = bench.run(TUESDAY, FRIDAY, job=JOB)

    days = (TUESDAY, WEDNESDAY, FRIDAY)
    counts = {f"{day}": 18 * MINUTE.bars(day) for day in days}
    found = materializations(result, ASSET)
    assert {day: told(metadata)["row_count"] for day, metadata in found.items()} == counts
    assert bench.materialized(ASSET) == counts.keys()
    assert minutes.sessions() == list(days)
    assert set(bench.lake.sessions()) > set(days), "daily bars have sessions of their own"


def test_a_session_that_does_not_pass_is_named_with_the_command_that_repairs_it(
    bench: Workbench, minutes: LakeWriter
) -> None:
    bench.market.minutes.missing = {("AAE", TUESDAY): 5}

    result = bench.run(MONDAY, WEDNESDAY, job=JOB)

    assert not result.success
    assert bench.materialized(ASSET) == {f"{MONDAY}", f"{WEDNESDAY}"}
    assert (minutes.sessions(), minutes.incomplete()) == ([MONDAY, WEDNESDAY], [TUESDAY])
    message = failure(result, ASSET)
    assert "1 session did not pass the audit and was not published:" in message
    assert f"{TUESDAY}: complete_minutes (1 liquid symbol" in message
    assert str(bench.folder / "data/ticks/minute/incomplete") in message
    assert message.rstrip().endswith(f"datalake collect --minutes --session {TUESDAY} --repair")
    check = checks(result, ASSET)["complete_minutes"]
    assert not check.passed
    offenders = check.metadata["offenders"]
    assert isinstance(offenders, dg.TableMetadataValue)
    (offender,) = [str(row.data["offender"]) for row in offenders.records]
    assert re.fullmatch(r"AAE: 5 minutes, about 3\d\d expected", offender)


def test_a_repair_of_a_session_of_which_nothing_is_missing_asks_for_all_of_it_again(
    bench: Workbench, minutes: LakeWriter
) -> None:
    bench.market.minutes.missing = {("AAE", TUESDAY): 5}
    bench.run(TUESDAY, job=JOB)
    asked(bench)
    bench.market.minutes.missing.clear()

    assert bench.run(TUESDAY, job=JOB, repair=True).success

    assert asked(bench) == {(symbol, TUESDAY) for symbol in names(20)}
    assert minutes.read(TUESDAY).bars.num_rows == 18 * 390
    assert minutes.incomplete() == []


def test_a_repair_asks_only_for_the_symbols_that_failed(
    bench: Workbench, minutes: LakeWriter
) -> None:
    bench.market.failing = {("AAE", TUESDAY)}
    result = bench.run(MONDAY, TUESDAY, job=JOB)
    assert "HTTP 500 for AAE" in failure(result, ASSET)
    assert asked(bench) == {(s, day) for s in names(20) for day in (MONDAY, TUESDAY)}
    bench.market.failing.clear()

    repaired = bench.run(MONDAY, TUESDAY, job=JOB, repair=True)

    assert repaired.success
    assert asked(bench) == {("AAE", TUESDAY)}
    assert told(materializations(repaired, ASSET)[f"{TUESDAY}"])["asked"] == 1
    assert minutes.read(TUESDAY).bars.num_rows == 18 * 390


def test_a_backfill_collects_only_what_is_not_published(
    bench: Workbench, minutes: LakeWriter
) -> None:
    bench.run(TUESDAY, job=JOB)
    asked(bench)

    result = bench.run(MONDAY, WEDNESDAY, job=JOB, missing_only=True)

    assert result.success
    assert {day for _, day in asked(bench)} == {MONDAY, WEDNESDAY}
    assert "1 of 3 sessions is published already" in logged(bench, result)


def test_a_retry_of_a_failed_run_collects_only_what_that_one_did_not_publish(
    bench: Workbench, minutes: LakeWriter
) -> None:
    bench.market.failing = {("AAE", TUESDAY)}
    first = bench.run(MONDAY, WEDNESDAY, job=JOB)
    assert not first.success
    asked(bench)
    bench.market.failing.clear()

    job = bench.definitions().resolve_job_def(JOB)
    failed = bench.instance.get_run_by_id(first.run_id)
    assert failed
    again = bench.instance.create_run_for_job(
        job,
        run_config=QUIET,
        tags=failed.tags,
        parent_run_id=failed.run_id,
        root_run_id=failed.run_id,
    )
    list(execute_run_iterator(InMemoryJob(job), again, bench.instance))

    assert {day for _, day in asked(bench)} == {TUESDAY}
    assert bench.materialized(ASSET) == {f"{MONDAY}", f"{TUESDAY}", f"{WEDNESDAY}"}


def test_minutes_published_without_dagster_knowing_are_told_and_not_collected(
    bench: Workbench, minutes: LakeWriter
) -> None:
    bench.run(MONDAY, job=JOB)
    asked(bench)
    with dg.DagsterInstance.ephemeral() as forgetful:
        bench.instance = forgetful
        result = bench.run(MONDAY, job=JOB, missing_only=True)
        assert bench.materialized(ASSET) == {f"{MONDAY}"}

    (metadata,) = materializations(result, ASSET).values()
    assert told(metadata)["row_count"] == 18 * 390
    assert asked(bench) == set()


def test_what_a_second_collection_changed_is_shown_minute_by_minute(
    bench: Workbench, minutes: LakeWriter
) -> None:
    bench.market.minutes.missing = {("AAE", TUESDAY): 388}
    assert bench.run(TUESDAY, job=JOB).success
    bench.market.minutes.missing.clear()

    result = bench.run(TUESDAY, job=JOB)

    (metadata,) = materializations(result, ASSET).values()
    shown = told(metadata)
    counts = {"bars_added": 2, "bars_removed": 0, "bars_restated": 0}
    assert {name: shown[name] for name in counts} == counts
    assert [dict(row.data) for row in metadata["changes"].records] == [
        {"symbol": "AAE", "time": f"15:{minute}", "change": "added", "values": ""}
        for minute in (58, 59)
    ]
    assert Restatements(minutes.store, MINUTE).of(TUESDAY).num_rows == 2


def test_minutes_can_have_symbols_of_their_own(bench: Workbench, minutes: LakeWriter) -> None:
    result = bench.run(MONDAY, job=JOB, minute_symbols="AAE,AAF")

    assert result.success
    assert minutes.read(MONDAY).ledger.symbols == {"AAE", "AAF"}
    assert len(bench.lake.read(MONDAY).ledger.symbols) == 20


def test_the_extended_hours_take_the_place_of_the_regular_ones(
    bench: Workbench, minutes: LakeWriter
) -> None:
    """This market trades in the regular hours alone: the same bars, of more hours."""
    bench.settings["DATALAKE_MINUTES"] = "extended"

    assert bench.run(WEDNESDAY, job=JOB).success

    assert minutes.read(WEDNESDAY).bars.num_rows == 18 * 210
    assert EXTENDED_MINUTE.bars(WEDNESDAY) == 13 * 60


def test_the_regular_hours_do_not_take_the_place_of_the_extended_ones(
    bench: Workbench, minutes: LakeWriter
) -> None:
    bench.settings["DATALAKE_MINUTES"] = "extended"
    assert bench.run(WEDNESDAY, job=JOB).success
    bench.settings["DATALAKE_MINUTES"] = "regular"
    asked(bench)

    refused = bench.run(WEDNESDAY, job=JOB)
    repaired = bench.run(WEDNESDAY, job=JOB, repair=True)
    skipped = bench.run(WEDNESDAY, job=JOB, missing_only=True)

    for result in refused, repaired:
        assert not result.success
        told = failure(result, "minute_ticks")
        assert "published with the minutes of extended hours" in told
        assert "add --max-session-loss 1 to `datalake collect`, or set max_session_loss" in told
    assert skipped.success
    assert asked(bench) == set()
    assert minutes.read(WEDNESDAY).provenance.hours == "extended"
    assert bench.run(WEDNESDAY, job=JOB, max_session_loss=1).success
    assert minutes.read(WEDNESDAY).provenance.hours == "regular"


# --- on and off ---


@pytest.mark.parametrize(
    ("hours", "there"), [("off", False), ("regular", True), ("extended", True)]
)
def test_the_asset_and_its_job_are_there_only_when_minutes_are_turned_on(
    hours: str, there: bool
) -> None:
    made = build_definitions(Settings.load({"DATALAKE_MINUTES": hours}))

    repository = made.get_repository_def()
    assert repository.has_job(JOB) is there
    assert (dg.AssetKey(ASSET) in repository.assets_defs_by_key) is there
    if there:
        asset = made.resolve_assets_def(ASSET)
        policy = asset.backfill_policy
        assert policy
        assert policy.max_partitions_per_run == MINUTE_SESSIONS_PER_RUN
        above = {key.to_user_string() for key in asset.asset_deps[dg.AssetKey(ASSET)]}
        assert above == {"stock_universe", "daily_ticks"}
        daily = made.resolve_assets_def("daily_ticks")
        assert asset.partitions_def == daily.partitions_def


def test_minutes_are_turned_on_by_one_of_three_words() -> None:
    assert Settings.load({}).minutes == "off"
    with pytest.raises(SettingsError, match="must be regular, extended or off"):
        Settings.load({"DATALAKE_MINUTES": "yes"})


@pytest.mark.parametrize(("given", "there"), [({}, False), ({"minutes": "regular"}, True)])
def test_a_component_turns_them_on_by_an_attribute(
    given: dict[str, str], there: bool, tmp_path: Path
) -> None:
    attributes = {"uri": str(tmp_path), "name": "iex", "minute_symbols": ["AAPL", "BRK.B"], **given}
    made = DatalakeComponent.resolve_from_dict(attributes)
    settings, _ = made.settings()
    definitions = build_definitions(settings, made.names())

    repository = definitions.get_repository_def()
    assert settings.minute_symbols == "AAPL,BRK.B"
    assert repository.has_job(f"iex_{JOB}") is there
    assert (dg.AssetKey(["iex", ASSET]) in repository.assets_defs_by_key) is there


# --- commands ---

DAYS = (date(2024, 7, 2), date(2024, 7, 3), date(2024, 7, 5))


@pytest.fixture(scope="module")
def market() -> SyntheticMarket:
    return SyntheticMarket(7, 40, 10)


@pytest.fixture(scope="module")
def server(market: SyntheticMarket) -> Iterator[ExchangeServer]:
    with ExchangeServer(Exchange(market)) as running:
        yield running


@pytest.fixture
def lake(server: ExchangeServer, empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> LakeFiles:
    """The minutes of the lake that commands collect into, from an exchange of 50 symbols."""
    for name, value in (keys_to(server.url) | REGULAR).items():
        monkeypatch.setenv(name, value)
    return LakeFiles(open_store(str(empty_folder / ".datalake/lake")), dataset=MINUTE)


def test_minutes_are_planned_collected_and_backfilled_by_the_commands_of_daily_bars(
    lake: LakeFiles,
) -> None:
    first, *_, last = map(str, DAYS)
    assert invoke("backfill", "--from", first, "--to", last).exit_code == 0
    collected = invoke("collect", "--minutes", "--session", first)

    assert collected.exit_code == 0, collected.output
    assert lake.sessions() == [DAYS[0]]
    assert f"{lake.read(DAYS[0]).bars.num_rows:,}" in plain(collected.stdout)
    assert "against_daily" in collected.stdout
    planned = invoke("plan", "--minutes", "--from", first, "--to", last, "--missing", "--json")
    cost = json.loads(planned.stdout)
    assert (cost["sessions"], cost["sessions_unknown"]) == (2, 0)

    backfilled = invoke("backfill", "--minutes", "--from", first, "--to", last)

    assert backfilled.exit_code == 0, backfilled.output
    assert lake.sessions() == list(DAYS)
    rows = sum(lake.read(day).bars.num_rows for day in DAYS[1:])
    assert cost["bars"] == pytest.approx(rows, rel=0.1)
    nothing = invoke("backfill", "--minutes", "--from", first, "--to", last)
    assert nothing.exit_code == 0
    assert "nothing to collect" in plain(nothing.stdout)


def test_a_plan_without_daily_bars_tells_a_maximum_as_such(lake: LakeFiles) -> None:
    first, *_, last = map(str, DAYS)

    told = plain(invoke("plan", "--minutes", "--from", first, "--to", last).stdout)

    cost = json.loads(invoke("plan", "--minutes", "--from", first, "--to", last, "--json").stdout)
    assert cost["bars"] == cost["bars_at_most"]
    assert cost["sessions_unknown"] == 3
    assert f"expected bars up to {cost['bars']:,} " in told
    assert "size of the sessions up to" in told
    assert "objects 3 " in told
    assert "no daily bars to estimate 3 of 3 sessions by" in told


def test_a_session_that_is_broken_fails_with_its_repair_and_is_mended_by_it(
    lake: LakeFiles, market: SyntheticMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = list(market.sessions).index(DAYS[0])
    listed = [row["symbol"] for row in market.assets() if row["symbol"].isalpha()]
    bars = market.bars(listed, session, session + 1)
    busiest = sorted(bars.symbols[place] for place in bars.symbol[bars.trade_count.argsort()[-7:]])
    clock = LaterClock()
    mended_at = clock() + timedelta(hours=12)
    errata = Errata(
        [
            Erratum(mistake="few_minutes", symbol=symbol, day=DAYS[0], at=mended_at)
            for symbol in busiest
        ]
    )
    with ExchangeServer(Exchange(market, errata=errata, clock=clock)) as server:
        for name in ("ALPACA_DATA_URL", "ALPACA_TRADING_URL"):
            monkeypatch.setenv(name, server.url)
        invoke("collect", "--session", f"{DAYS[0]}")

        broken = invoke("collect", "--minutes", "--session", f"{DAYS[0]}")

        assert broken.exit_code == 1
        repair = f"datalake collect --minutes --session {DAYS[0]} --repair"
        assert repair in plain(broken.output)
        told = plain(broken.output)
        named = re.findall(rf"complete_minutes, {DAYS[0]}: (\w+): 5 minutes, about", told)
        assert named == busiest[:5]
        assert "complete_minutes: and 2 more; Dagster's UI shows them with the check" in told
        assert (lake.sessions(), lake.incomplete()) == ([], [DAYS[0]])
        clock.by = timedelta(days=1)
        mended = invoke(*repair.split()[1:])
        assert mended.exit_code == 0, mended.output
        assert (lake.sessions(), lake.incomplete()) == ([DAYS[0]], [])


def test_symbols_that_are_typed_are_those_of_the_minutes(
    lake: LakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATALAKE_MINUTE_SYMBOLS", "AUE")
    day = f"{DAYS[0]}"
    assert invoke("collect", "--session", day).exit_code == 0
    typed = invoke("collect", "--minutes", "--session", day, "--symbols", "AUE,AYE")

    assert typed.exit_code == 0, typed.output
    assert lake.read(DAYS[0]).ledger.symbols == {"AUE", "AYE"}
    refused = invoke("collect", "--minutes", "--session", day)
    assert refused.exit_code == 2
    assert re.search(r"has bars of \d symbols? in the lake", plain(refused.stderr))
    assert lake.read(DAYS[0]).ledger.symbols == {"AUE", "AYE"}


def test_a_plan_of_what_is_missing_has_the_sessions_of_other_hours_as_a_backfill_has(
    lake: LakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = f"{DAYS[0]}"
    span = ("--minutes", "--from", day, "--to", day, "--symbols", "AUE")
    assert invoke("backfill", *span).exit_code == 0
    same = json.loads(invoke("plan", *span, "--missing", "--json").stdout)
    monkeypatch.setenv("DATALAKE_MINUTES", "extended")

    planned = json.loads(invoke("plan", *span, "--missing", "--json").stdout)

    assert (same["sessions"], planned["sessions"]) == (0, 1)
    assert "1 session in" in plain(invoke("backfill", *span).output)


def test_minutes_of_few_symbols_are_told_with_what_brings_the_others(
    lake: LakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = f"{DAYS[0]}"
    assert invoke("collect", "--minutes", "--session", day, "--symbols", "AUE").exit_code == 0
    monkeypatch.setenv("DATALAKE_MINUTE_SYMBOLS", "AUE,AYE,NOSUCH")

    nothing = invoke("backfill", "--minutes", "--from", day, "--to", day)

    told = plain(nothing.output)
    repair = f"datalake collect --minutes --session {day} --repair"
    assert f"{day}: asked for 1 of the 3 symbols of the universe → {repair}" in told
    assert "NOSUCH. Correct DATALAKE_MINUTE_SYMBOLS if this is a mistake" in told
    assert invoke(*repair.split()[1:]).exit_code == 0
    assert lake.read(DAYS[0]).ledger.symbols == {"AUE", "AYE", "NOSUCH"}


@pytest.mark.parametrize(
    "command",
    [
        ["collect", "--session", "2024-07-02"],
        ["collect", "--session", "2024-07-02", "--repair"],
        ["backfill", "--from", "2024-07-02", "--to", "2024-07-03"],
        ["plan", "--from", "2024-07-02", "--to", "2024-07-03"],
    ],
)
def test_a_command_says_that_minutes_are_turned_off_before_any_work(
    command: list[str], empty_folder: Path
) -> None:
    result = invoke(*command, "--minutes")

    assert result.exit_code == 2
    assert "minute bars are turned off: set DATALAKE_MINUTES to regular" in plain(result.stderr)
    assert list(empty_folder.iterdir()) == []
