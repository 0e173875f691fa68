"""`symbol_year_ticks`, run by Dagster: what a year's run publishes, proves, mends and tells.

Not here: how a year is made and proved (`lake/test_symbol_years`).
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pytest

from datalake_assets.assets.failure import reason
from datalake_assets.assets.symbol_year_ticks import prove_written
from datalake_assets.lake import symbol_year_file
from datalake_assets.lake.projection import OvertakenError
from datalake_assets.lake.symbol_years import Published, SymbolYears
from datalake_assets.storage import layout
from datalake_assets_tests.collection.tables import every
from datalake_assets_tests.lake.files import collected
from datalake_assets_tests.workbench import (
    FRIDAY,
    MONDAY,
    QUIET,
    TUESDAY,
    Market,
    Workbench,
    failure,
    logged,
    materializations,
    names,
)

JOB = "symbol_year_ticks_job"


def publish(
    bench: Workbench, first: int = 2024, last: int = 2024, config: Mapping[str, Any] = QUIET
) -> dg.ExecuteInProcessResult:
    span = {
        "dagster/asset_partition_range_start": str(first),
        "dagster/asset_partition_range_end": str(last),
    }
    return (
        bench.definitions()
        .resolve_job_def(JOB)
        .execute_in_process(
            instance=bench.instance,
            run_config=config,
            raise_on_error=False,
            **({"partition_key": str(first)} if first == last else {"tags": span}),
        )
    )


def agreement(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (check,) = result.get_asset_check_evaluations()
    assert check.check_name == "layouts_agree"
    return check


def told(result: dg.ExecuteInProcessResult, year: str = "2024") -> dict[str, object]:
    found = materializations(result, "symbol_year_ticks")[year]
    return {name: value.value for name, value in found.items()}


def test_a_year_is_published_per_symbol_and_proved(bench: Workbench) -> None:
    bench.run(MONDAY, FRIDAY)

    result = publish(bench)

    assert result.success
    metadata = told(result)
    assert (metadata["sessions"], metadata["symbols"], metadata["uploaded"]) == (4, 20, 20)
    assert metadata["row_count"] == metadata["dagster/partition_row_count"] == 80
    assert str(metadata["dagster/uri"]).endswith("/data/ticks/daily")
    check = agreement(result)
    assert check.passed
    assert check.description == "80 rows of 1 year are the same in both layouts"
    data = bench.lake.store.get("data/ticks/daily/AAB/2024/ticks.parquet")
    assert symbol_year_file.decode(data, "").num_rows == 4


def test_publishing_again_writes_only_what_changed(bench: Workbench) -> None:
    bench.run(MONDAY, FRIDAY)
    publish(bench)
    assert told(publish(bench))["uploaded"] == 0

    restated = {"open": 5.0, "high": 9.0, "low": 4.0, "close": 6.0, "vwap": 5.5}
    bench.market = Market(names(20), changed={(symbol, TUESDAY): restated for symbol in names(3)})
    bench.run(TUESDAY)

    assert told(publish(bench))["uploaded"] == 3


def test_a_run_that_follows_proves_what_it_wrote_and_all_of_the_year_every_four_weeks(
    bench: Workbench,
) -> None:
    following = {**QUIET, **prove_written()}
    bench.run(MONDAY, FRIDAY)
    first = told(publish(bench, config=following))
    # Nothing of it had ever been read.
    assert (first["symbol_years_read"], first["uploaded"]) == (20, 20)
    assert first["symbol_years_decoded"] == 20

    restated = {"open": 5.0, "high": 9.0, "low": 4.0, "close": 6.0, "vwap": 5.5}
    bench.market = Market(names(20), changed={(symbol, TUESDAY): restated for symbol in names(3)})
    bench.run(TUESDAY)
    damaged = layout.symbol_year_key("AAT", 2024)
    good = bench.lake.store.get(damaged)
    bench.lake.store.put(damaged, good[:-9])
    result = publish(bench, config=following)
    assert told(result)["symbol_years_read"] == 3
    decoded = told(result)["symbol_years_decoded"]
    assert isinstance(decoded, int)
    assert 0 <= decoded <= 3
    assert agreement(result).description == (
        "80 rows of 1 year are the same in both layouts: 3 symbol-years written and read back, "
        f"{3 - decoded} of them by their bytes alone, 17 as they were last read"
    )
    assert bench.lake.store.get(damaged) != good

    years = SymbolYears(bench.lake.store)
    key, manifest = layout.manifest_key(2024), years.manifest(2024)
    assert manifest.proved_at
    for age, read in ((timedelta(days=27), 0), (timedelta(days=28), 20)):
        aged = replace(manifest, proved_at=manifest.proved_at - age)
        bench.lake.store.put(key, aged.encode())
        assert told(publish(bench, config=following))["symbol_years_read"] == read
    assert bench.lake.store.get(damaged) == good


def test_several_years_are_one_run_and_each_its_own_materialization(bench: Workbench) -> None:
    for year in (2022, 2023, 2024):
        day = date(year, 7, 5)
        bench.lake.publish(collected(day, every(names(year - 2020), [day])), [])
    bench.lake.claim("the tests' market")

    result = publish(bench, 2022, 2024)

    found = materializations(result, "symbol_year_ticks")
    assert {year: found[year]["row_count"].value for year in found} == {
        "2022": 2,
        "2023": 3,
        "2024": 4,
    }
    assert agreement(result).description == "9 rows of 3 years are the same in both layouts"


@pytest.mark.parametrize("damage", ["gone", "cut short", "another's"])
def test_what_somebody_damaged_is_written_again_and_told(bench: Workbench, damage: str) -> None:
    bench.run(MONDAY, FRIDAY)
    publish(bench)
    store, key = bench.lake.store, layout.symbol_year_key("AAB", 2024)
    good = store.get(key)
    match damage:
        case "gone":
            store.delete(key)
        case "cut short":
            store.put(key, good[:-9])
        case _:
            store.put(key, store.get(layout.symbol_year_key("AAC", 2024)))

    result = publish(bench)

    assert result.success
    assert agreement(result).passed
    assert store.get(key) == good
    metadata = told(result)
    assert metadata["uploaded"] == 1
    again = materializations(result, "symbol_year_ticks")["2024"]["written_again"]
    assert [record.data["symbol"] for record in again.records] == ["AAB"]
    assert "2024: written again: 2024: 1 symbol-year differs" in logged(bench, result)


def test_a_damaged_session_fails_its_year_and_no_other(bench: Workbench) -> None:
    bench.lake.claim("the tests' market")
    for year in (2023, 2024):
        day = date(year, 7, 5)
        bench.lake.publish(collected(day, every(names(3), [day])), [])
    key = layout.session_key(date(2023, 7, 5))
    bench.lake.store.put(key, bench.lake.store.get(key)[:-9])

    result = publish(bench, 2023, 2024)

    assert not result.success
    assert set(materializations(result, "symbol_year_ticks")) == {"2024"}
    assert "2023-07-05.parquet is no whole session file" in failure(result, "symbol_year_ticks")
    assert SymbolYears(bench.lake.store).prove(2024).holds


def test_a_lake_of_another_source_is_not_touched(bench: Workbench) -> None:
    bench.run(MONDAY)
    before = bench.files()
    bench.source = "somebody else"

    result = publish(bench)

    assert not result.success
    assert 'holds bars of "the tests\' market"' in failure(result, "symbol_year_ticks")
    assert bench.files() == before


def test_a_year_that_another_run_publishes_too_is_published_after_it(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(MONDAY, FRIDAY)
    publish_once, overtaken = SymbolYears.publish, []

    def publish_overtaken(years: SymbolYears, year: int, **more: Any) -> Published:
        if not overtaken:
            overtaken.append(year)
            publish_once(years, year, run_id="another")
            raise OvertakenError("another publication of 2024 began in the meantime")
        return publish_once(years, year, **more)

    monkeypatch.setattr(SymbolYears, "publish", publish_overtaken)
    result = publish(bench)

    assert result.success
    assert overtaken == [2024]
    assert agreement(result).passed
    assert "2024: waiting for another publication of this year" in logged(bench, result)


def test_a_year_that_others_publish_over_and_over_is_an_error_in_the_end(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(MONDAY, FRIDAY)
    tries = []

    def overtaken(years: SymbolYears, year: int, **more: Any) -> Published:
        tries.append(year)
        raise OvertakenError("another publication of 2024 began in the meantime")

    monkeypatch.setattr(SymbolYears, "publish", overtaken)
    result = publish(bench)

    assert not result.success
    assert len(tries) == 3
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    assert reason(failure) == "another publication of 2024 began in the meantime"
    assert agreement(result).description == ("no year was published, so nothing was compared")
