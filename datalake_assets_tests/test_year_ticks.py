"""`year_ticks`, run by Dagster: what a year's run publishes, proves, mends and tells.

Not here: how a file is made and proved (`lake/test_year_files`).
"""

from datetime import date

import dagster as dg
import pytest

from datalake_assets.lake.year_files import PublishedFile, YearFiles
from datalake_assets.storage import layout
from datalake_assets_tests.collection.tables import every
from datalake_assets_tests.lake.files import collected
from datalake_assets_tests.workbench import (
    FRIDAY,
    MONDAY,
    QUIET,
    Workbench,
    failure,
    materializations,
    names,
)

KEY = layout.year_file_key(2024)


def publish(bench: Workbench, first: int = 2024, last: int = 2024) -> dg.ExecuteInProcessResult:
    span = {
        "dagster/asset_partition_range_start": str(first),
        "dagster/asset_partition_range_end": str(last),
    }
    return (
        bench.definitions()
        .resolve_job_def("year_ticks_job")
        .execute_in_process(
            instance=bench.instance,
            run_config=QUIET,
            raise_on_error=False,
            **({"partition_key": str(first)} if first == last else {"tags": span}),
        )
    )


def told(result: dg.ExecuteInProcessResult) -> dict[str, object]:
    found = materializations(result, "year_ticks")["2024"]
    return {name: value.value for name, value in found.items()}


def agreement(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (check,) = result.get_asset_check_evaluations()
    assert check.check_name == "year_file_agrees"
    return check


def test_a_year_is_published_in_one_file_proved_and_left_alone_while_nothing_changes(
    bench: Workbench,
) -> None:
    bench.run(MONDAY, FRIDAY)

    first = publish(bench)

    assert first.success
    metadata = told(first)
    assert (metadata["sessions"], metadata["symbols"], metadata["written"]) == (4, 20, True)
    assert metadata["row_count"] == metadata["dagster/partition_row_count"] == 80
    assert metadata["bytes"] == bench.lake.store.size(KEY)
    assert str(metadata["dagster/uri"]).endswith("/data/ticks/years")
    assert agreement(first).passed
    assert agreement(first).description == "80 rows of 1 year are the same in sessions and file"

    version = bench.lake.store.versions(layout.YEARS)
    assert told(publish(bench))["written"] is False
    assert bench.lake.store.versions(layout.YEARS) == version


@pytest.mark.parametrize("cut", [9, 3000])
def test_a_damaged_file_is_written_again_and_told(bench: Workbench, cut: int) -> None:
    bench.run(MONDAY, FRIDAY)
    publish(bench)
    good = bench.lake.store.get(KEY)
    data = bytearray(good)
    data[cut] ^= 4
    bench.lake.store.put(KEY, bytes(data))

    result = publish(bench)

    assert result.success
    assert agreement(result).passed
    assert "bars.parquet is no whole year file" in str(told(result)["written_again"])
    assert YearFiles(bench.lake.store).prove(2024).holds


def test_a_damaged_session_fails_its_year_and_no_other(bench: Workbench) -> None:
    bench.lake.claim("the tests' market")
    for year in (2023, 2024):
        day = date(year, 7, 5)
        bench.lake.publish(collected(day, every(names(3), [day])), [])
    key = layout.session_key(date(2023, 7, 5))
    bench.lake.store.put(key, bench.lake.store.get(key)[:-9])

    result = publish(bench, 2023, 2024)

    assert not result.success
    assert set(materializations(result, "year_ticks")) == {"2024"}
    assert "2023-07-05.parquet is no whole session file" in failure(result, "year_ticks")
    assert bench.lake.store.list(layout.YEARS) == [KEY]


def test_a_year_without_a_session_has_no_file_and_is_not_materialized(bench: Workbench) -> None:
    bench.run(MONDAY, FRIDAY)
    result = publish(bench, 2023, 2024)
    assert result.success
    assert list(materializations(result, "year_ticks")) == ["2024"]


def test_a_file_that_can_not_be_made_right_fails_the_check(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(MONDAY, FRIDAY)
    publish(bench)
    publishing = YearFiles.publish

    def damaged(self: YearFiles, year: int, **given: object) -> PublishedFile:
        done = publishing(self, year)
        bench.lake.store.put(KEY, bench.lake.store.get(KEY)[:4000])
        return done

    monkeypatch.setattr(YearFiles, "publish", damaged)
    result = publish(bench)
    assert not result.success
    assert not agreement(result).passed
    assert "is no whole year file" in str(agreement(result).description)
    assert materializations(result, "year_ticks") == {}
